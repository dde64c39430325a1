/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_sys - the system calls iommu/vfio.c makes, in a table so that its unit test can be the
 * kernel.
 */
#ifndef IOMMU_VFIO_SYS_H
#define IOMMU_VFIO_SYS_H

struct vfio_sys {
	int (*open)(const char *path);			    /* fd, or -errno */
	int (*ioctl)(int fd, unsigned long req, void *arg); /* >= 0, or -errno */
	void (*close)(int fd);
};

extern struct vfio_sys vfio_sys;

#endif
