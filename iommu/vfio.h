/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio - an instance on Linux VFIO: a type1 container with one group. What the granule, the
 * apertures and the limits are is what VFIO_IOMMU_GET_INFO says, never assumed.
 */
#ifndef IOMMU_VFIO_H
#define IOMMU_VFIO_H

#include <stddef.h>
#include <stdint.h>

#include "iommu/instance.h"

struct vfio_container;

/* Calls into the host's VFIO since the start, of this process. */
struct vfio_counts {
	uint64_t maps, unmaps; /* VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA */
	uint64_t others;       /* set-up, interrupts, resets */
};

/* vfio_get_counts - any thread; each number is right, together they are no snapshot */
void vfio_get_counts(struct vfio_counts *out);

/* vfio_ioctl - any ioctl on a VFIO descriptor: what makes one counts it. Return: >= 0, or -errno.
 */
int vfio_ioctl(int fd, unsigned long req, void *arg);

/**
 * vfio_container_open - open /dev/vfio/@group in a container of its own and set type1
 * @error: one line, without newline: what is wrong, the value, what to do
 * Return: 0; -errno with @error filled.
 */
int vfio_container_open(unsigned group, struct vfio_container **out, char *error, size_t error_len);

/**
 * vfio_container_take - the same of descriptors that are open: of /dev/vfio/@group and
 * /dev/vfio/vfio
 * @group_fd, @container_fd: the container's from here on, also on failure; 0: to be opened
 */
int vfio_container_take(unsigned group, int group_fd, int container_fd, struct vfio_container **out,
			char *error, size_t error_len);
/* vfio_container_close - after its devices are closed; NULL is fine */
/**
 * vfio_container_release - let go of the group, for its last device has gone; that device is closed
 *
 * What the guest maps from here on is accepted and reaches nothing. Any thread, also while others
 * map.
 */
void vfio_container_release(struct vfio_container *c);

void vfio_container_close(struct vfio_container *c);

/* vfio_container_instance - what the mediator uses; lives as long as the container */
struct instance *vfio_container_instance(struct vfio_container *c);

/* vfio_container_map - memory for devices that no guest's IOMMU stands before, readable and
 * writable; for good. Return: 0; -errno, reported. Not beside the mediator's use of the instance.
 */
int vfio_container_map(struct vfio_container *c, uint64_t iova, void *hva, uint64_t len);

/* vfio_container_set_log - where a map or unmap that the kernel refuses is reported, once per
 * cause; called with the mediator's lock held */
void vfio_container_set_log(struct vfio_container *c, void (*log)(void *ctx, const char *line),
			    void *ctx);

/* vfio_container_group_fd - for VFIO_DEVICE_PCI_HOT_RESET, which wants proof that a group is
 * ours */
int vfio_container_group_fd(const struct vfio_container *c);

/* vfio_memlock_raise - as high as this process may. Devices' memory is counted each time it is
 * mapped, so there is no number that is enough for sure; what is pinned is bounded by what there
 * is. */
void vfio_memlock_raise(void);

/**
 * vfio_memlock_check - may this process pin @need bytes for devices?
 * Return: 0; -ENOMEM with @error filled: RLIMIT_MEMLOCK is lower and CAP_IPC_LOCK is missing.
 */
int vfio_memlock_check(uint64_t need, char *error, size_t error_len);

/* vfio_container_device - a device fd of the group, by BDF. Return: fd >= 0, or -errno with @error.
 */
int vfio_container_device(struct vfio_container *c, const char *bdf, char *error, size_t error_len);

#endif
