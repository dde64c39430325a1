/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci_fronts - every function of one VM that has a pci_dev behind it, and the four INTx lines they
 * share.
 */
#ifndef VMM_PCI_FRONTS_H
#define VMM_PCI_FRONTS_H

#include "vmm/pci_front.h"

#define PCI_FRONTS_MAX 16

struct pci_fronts;

/* pci_fronts_create - what is given outlives it. Return: 0; -ENOMEM. */
int pci_fronts_create(struct pci_host *host, const struct pci_machine *machine, struct evloop *loop,
		      struct pci_fronts **out);

/**
 * pci_fronts_add - put a function before the guest
 * @ep: its endpoint; NULL: its DMA is not the mediator's
 * @poll_us: sync it every so many microseconds besides, see poller.h; 0: only when something is
 *           known to have happened
 * Return: 0; -errno after a line on stderr.
 */
int pci_fronts_add(struct pci_fronts *fronts, struct pci_dev *dev, struct endpoint *ep,
		   unsigned poll_us, uint8_t devfn);

/* pci_fronts_unplug - @dev is about to go, see pci_front_unplug(); on the loop's thread */
void pci_fronts_unplug(struct pci_fronts *fronts, const struct pci_dev *dev);

/* pci_fronts_quiesce - all of them off the bus, no more interrupts, bus mastering off. vCPUs and
 * event loop have stopped, but bus, host bridge, machine and loop still exist. May be called again;
 * NULL is fine. */
void pci_fronts_quiesce(struct pci_fronts *fronts);
void pci_fronts_destroy(struct pci_fronts *fronts); /* quiesces first; NULL is fine */

#endif
