/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_dev - one device as VFIO hands it out: regions, interrupts, reset. What a guest sees of it
 * is vfio_func's business. The ops are the seam at which a unit test puts a device of its own.
 */
#ifndef VMM_VFIO_DEV_H
#define VMM_VFIO_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFIO_DEV_BARS	   6
#define VFIO_DEV_MAX_AREAS 8

struct vfio_dev;

struct vfio_dev_ops {
	/* @region: VFIO_PCI_*_REGION_INDEX; 1, 2, 4 or 8 bytes, naturally aligned, inside the
	 * region (of config space also more). Return: 0; -errno, a read's data is then undefined.
	 */
	int (*read)(struct vfio_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len);
	int (*write)(struct vfio_dev *dev, unsigned region, uint64_t off, const void *buf,
		     unsigned len);
	/* Signal @fds[i] when vector i of @index (VFIO_PCI_*_IRQ_INDEX) fires; @nr 0 disables the
	 * index, which must be done before another one is enabled. Return: 0; -errno. */
	int (*set_irqs)(struct vfio_dev *dev, unsigned index, unsigned nr, const int *fds);
	/* INTx masks itself when it fires. */
	void (*unmask_intx)(struct vfio_dev *dev);
	/* Return: 0; -errno. Config space is afterwards as the kernel restored it. */
	int (*reset)(struct vfio_dev *dev);
	void (*close)(struct vfio_dev *dev); /* frees it */
};

/* Part of a region that is mapped into this process. */
struct vfio_area {
	uint64_t off; /* in the region, a multiple of the host page */
	uint64_t len; /* bytes that are the device's; the mapping itself is whole host pages */
	uint8_t *hva;
};

struct vfio_bar {
	uint64_t size; /* bytes; 0: there is none */
	unsigned nr_areas;
	struct vfio_area areas[VFIO_DEV_MAX_AREAS];
};

struct vfio_dev {
	const struct vfio_dev_ops *ops;
	const char *name; /* for messages: the host BDF; the opener's */
	bool can_reset;	  /* ops->reset works */
	struct vfio_bar bars[VFIO_DEV_BARS];
	unsigned nr_intx, nr_msi, nr_msix; /* vectors */
};

/**
 * vfio_dev_open - wrap the device behind @fd, which is its own from here on (also on failure)
 * @name: for messages; outlives the device
 * @error: one line, without newline
 * Return: 0; -errno with @error filled.
 */
int vfio_dev_open(int fd, const char *name, struct vfio_dev **out, char *error, size_t error_len);

/**
 * vfio_dev_hot_reset - reset the bus the device is on, if all it hits is in the given groups
 * @groups, @group_fds: @nr groups that are ours
 * Return: 0; -EBUSY others would be hit; -errno.
 */
int vfio_dev_hot_reset(struct vfio_dev *dev, const unsigned *groups, const int *group_fds,
		       unsigned nr);

#endif
