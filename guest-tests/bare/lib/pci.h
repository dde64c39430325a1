/* SPDX-License-Identifier: Apache-2.0 */
/* pci - configuration space of bus 0 by ECAM; a requester id is there a devfn. */
#ifndef BARE_PCI_H
#define BARE_PCI_H

#include <stdbool.h>
#include <stdint.h>

uint64_t pci_config(uint32_t rid, unsigned off); /* address of a register */

/* pci_find - the @nth function with these ids. Return: false if there is none. */
bool pci_find(uint16_t vendor, uint16_t device, unsigned nth, uint32_t *rid);

/**
 * pci_enable - memory space and bus mastering on; BAR 0 placed where the VMM put it, or by us
 * Return: address of BAR 0.
 */
uint64_t pci_enable(uint32_t rid);

/* pci_bar_size - bytes of BAR @bar as its sizing says; the BAR keeps its value */
uint64_t pci_bar_size(uint32_t rid, unsigned bar);

/* pci_capability - offset of the capability, 0 if there is none */
unsigned pci_capability(uint32_t rid, uint8_t id);

/* pci_msi_enable, pci_msi_disable - the MSI capability, one vector */
bool pci_msi_enable(uint32_t rid, uint64_t address, uint32_t data);
void pci_msi_disable(uint32_t rid);

/* pci_msix_set - an entry of the MSI-X table, which is in BAR 0 at @bar, not masked.
 * Return: false: there is no such vector. */
bool pci_msix_set(uint32_t rid, uint64_t bar, unsigned vec, uint64_t address, uint32_t data);
void pci_msix_enable(uint32_t rid, bool on);

#endif
