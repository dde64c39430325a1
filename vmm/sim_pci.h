/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_pci - the PCI half of a simulated device: a pci_dev with config space, BAR 0, MSI-X and INTx.
 *
 * BAR 0 is 64-bit memory. Its lower half is the device's registers; the upper half holds the MSI-X
 * table and pending bits, which are pci_front's. Any thread may call anything but create and
 * destroy.
 */
#ifndef VMM_SIM_PCI_H
#define VMM_SIM_PCI_H

#include "vmm/pci_dev.h"

struct sim_pci_cfg {
	const char *name; /* for messages; outlives the device */
	uint16_t vendor, device;
	uint32_t class;	  /* 24 bits: base class, subclass, programming interface */
	uint64_t bar_len; /* bytes of BAR 0, a power of two, twice what the registers need */
	unsigned nr_msix; /* vectors, 1 .. 2048, whose table fits the upper half */
	/* A register access: 1, 2, 4 or 8 bytes, naturally aligned, in the lower half of BAR 0;
	 * @data is little-endian, a read fills all of it. Any vCPU's thread, several at once. */
	void (*access)(void *ctx, uint64_t off, void *data, unsigned len, bool write);
	/* As at power-on; no DMA is under way and no interrupt is raised when it returns. */
	void (*reset)(void *ctx);
	/* May the device master? (the bus master bit; off at power-on). With @on false, no DMA is
	 * under way when it returns. May be NULL. */
	void (*set_master)(void *ctx, bool on);
	/* As in struct pci_dev_ops; may be NULL. */
	int (*msi_target)(void *ctx, uint64_t addr, uint64_t *gpa);
	void *ctx;
};

struct sim_pci;

/* sim_pci_create - Return: 0; -EINVAL lengths that do not fit; -ENOMEM. */
int sim_pci_create(const struct sim_pci_cfg *cfg, struct sim_pci **out);
/* sim_pci_destroy - its front is gone; the device raises nothing any more. NULL is fine. */
void sim_pci_destroy(struct sim_pci *pci);

/* sim_pci_dev - what a front goes in front of; its close() does nothing: the device owns it */
struct pci_dev *sim_pci_dev(struct sim_pci *pci);

/* sim_pci_fire - raise MSI-X vector @vec; nothing happens unless the guest uses MSI-X */
void sim_pci_fire(struct sim_pci *pci, unsigned vec);

/* sim_pci_set_intx - drive INTA; what is asserted reaches the guest when it uses INTx, again after
 * each end of interrupt for as long as it stays up */
void sim_pci_set_intx(struct sim_pci *pci, bool level);

#endif
