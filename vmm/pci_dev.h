/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci_dev - one PCI function as hardware is: config space, BARs, interrupts, reset. VFIO hands out
 * real ones (vfio_dev), sim_pci makes simulated ones; regions and interrupts are numbered as VFIO
 * does (linux/vfio.h). What a guest sees of it is pci_front's business.
 */
#ifndef VMM_PCI_DEV_H
#define VMM_PCI_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCI_DEV_BARS	  6
#define PCI_DEV_MAX_AREAS 8

struct pci_dev;

struct pci_dev_ops {
	/* @region: VFIO_PCI_*_REGION_INDEX; 1, 2, 4 or 8 bytes, naturally aligned, inside the
	 * region (of config space also more). Return: 0; -errno, a read's data is then undefined.
	 */
	int (*read)(struct pci_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len);
	int (*write)(struct pci_dev *dev, unsigned region, uint64_t off, const void *buf,
		     unsigned len);
	/* Signal @fds[i] when vector i of @index (VFIO_PCI_*_IRQ_INDEX) fires; @nr 0 disables the
	 * index, which must be done before another one is enabled. Return: 0; -errno. */
	int (*set_irqs)(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds);
	/* INTx masks itself when it fires. */
	void (*unmask_intx)(struct pci_dev *dev);
	/* Return: 0; -errno. Config space is afterwards as at power-on. */
	int (*reset)(struct pci_dev *dev);
	/* Where a message that the device writes to @addr arrives, for a device whose translations
	 * are the guest's own business (an IOMMU that the guest drives). NULL: the mediator's
	 * endpoint knows, or there is no IOMMU. Return: 0; -EFAULT it arrives nowhere. */
	int (*msi_target)(struct pci_dev *dev, uint64_t addr, uint64_t *gpa);
	void (*close)(struct pci_dev *dev); /* frees it */
};

/* Part of a region that is mapped into this process. */
struct pci_dev_area {
	uint64_t off; /* in the region, a multiple of the host page */
	uint64_t len; /* bytes that are the device's; the mapping itself is whole host pages */
	uint8_t *hva;
};

struct pci_dev_bar {
	uint64_t size; /* bytes; 0: there is none */
	unsigned nr_areas;
	struct pci_dev_area areas[PCI_DEV_MAX_AREAS];
};

struct pci_dev {
	const struct pci_dev_ops *ops;
	const char *name; /* for messages: the host BDF, say; the opener's */
	bool can_reset;	  /* ops->reset works */
	struct pci_dev_bar bars[PCI_DEV_BARS];
	unsigned nr_intx, nr_msi, nr_msix; /* vectors */
};

#endif
