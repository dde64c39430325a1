/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instance - the ops between the mediator and one host translation unit (a VFIO container, a DART,
 * a test's fake).
 *
 * An instance translates for one or more endpoints that cannot be told apart (a VFIO group, say):
 * it holds the shadow of at most one domain at a time. The mediator calls it with its own lock
 * held, so an implementation needs none; it must not call back into the mediator.
 */
#ifndef IOMMU_INSTANCE_H
#define IOMMU_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#define PROT_DEV_READ  1u /* the device may read */
#define PROT_DEV_WRITE 2u /* the device may write */

/* A range of IOVA space, both ends inclusive, bytes. */
struct iova_range {
	uint64_t start;
	uint64_t last;
};

#define INSTANCE_MAX_APERTURES 16

struct instance;

struct instance_ops {
	/*
	 * Map [iova, iova + len) onto host memory at hva. All three are multiples of the granule,
	 * prot has at least one bit, and no part of the range is mapped. An instance that cannot do
	 * write-only maps read-write.
	 * Return: 0; -ENOMEM, -ENOSPC, -EIO, ...: nothing is mapped.
	 */
	int (*map)(struct instance *inst, uint64_t iova, void *hva, uint64_t len, unsigned prot);
	/*
	 * Unmap exactly one range that map() mapped. Never fails, allocates nothing. The device may
	 * still use a stale translation until sync() has returned 0.
	 */
	void (*unmap)(struct instance *inst, uint64_t iova, uint64_t len);
	/*
	 * Wait until no translation removed before this call can be used any more.
	 * Return: 0; -EIO or -ETIMEDOUT: it is not known; the caller must never reuse what was
	 * unmapped.
	 */
	int (*sync)(struct instance *inst);
};

struct instance {
	const struct instance_ops *ops;
	const char *name; /* for messages */
	uint64_t granule; /* bytes, smallest page; a power of two */
	unsigned nr_apertures;
	struct iova_range apertures[INSTANCE_MAX_APERTURES]; /* usable IOVA, ascending, disjoint */

	/* Owned by the mediator. */
	struct domain *domain; /* whose shadow it holds, or NULL */
	unsigned nr_users;     /* endpoints of that domain on this instance */
};

#endif
