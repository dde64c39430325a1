/* SPDX-License-Identifier: Apache-2.0 */
/* vfio_dev - a pci_dev as VFIO hands it out */
#ifndef VMM_VFIO_DEV_H
#define VMM_VFIO_DEV_H

#include "vmm/pci_dev.h"

/**
 * vfio_dev_open - wrap the device behind @fd, which is its own from here on (also on failure)
 * @name: for messages; outlives the device
 * @error: one line, without newline
 * Return: 0; -errno with @error filled.
 */
int vfio_dev_open(int fd, const char *name, struct pci_dev **out, char *error, size_t error_len);

/**
 * vfio_dev_hot_reset - reset the bus the device is on, if all it hits is in the given groups
 * @groups, @group_fds: @nr groups that are ours
 * Return: 0; -EBUSY others would be hit; -errno.
 */
int vfio_dev_hot_reset(struct pci_dev *dev, const unsigned *groups, const int *group_fds,
		       unsigned nr);

#endif
