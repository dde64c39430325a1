/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instance - the ops between the mediator and one host translation unit (a VFIO container, a DART,
 * a test's fake), and between the mediator and a shadow: the translation table that streams of one
 * or several instances walk.
 *
 * An instance has streams, told apart by a stream id. A stream walks one shadow or none; a shadow
 * belongs to one domain, and is shared by every stream that can walk it: one table, one update,
 * one invalidation per instance. The mediator calls with its own lock held, so an implementation
 * needs none against it; it must not call back into the mediator.
 *
 * What the mediator does for one request: prepare() on every shadow, then map(), unmap() or
 * replace() on every shadow, then invalidate_start() on every instance, then invalidate_wait() on
 * every instance, so that the waits overlap.
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
#define INSTANCE_MAX_STREAMS   256

/* A set of stream ids of one instance. */
struct stream_set {
	uint64_t bits[INSTANCE_MAX_STREAMS / 64];
};

static inline bool stream_set_has(const struct stream_set *set, uint32_t sid)
{
	return set->bits[sid / 64] >> (sid % 64) & 1;
}

static inline void stream_set_add(struct stream_set *set, uint32_t sid)
{
	set->bits[sid / 64] |= UINT64_C(1) << (sid % 64);
}

static inline void stream_set_del(struct stream_set *set, uint32_t sid)
{
	set->bits[sid / 64] &= ~(UINT64_C(1) << (sid % 64));
}

struct instance;
struct shadow;

/*
 * Every iova, len and hva is a multiple of the shadow's granule. What map(), map_window() and
 * replace() write may be used by devices at once, but need not be before the next invalidation
 * (instance.caches_invalid); what unmap() and replace() take away may be used until it has ended.
 */
struct shadow_ops {
	/*
	 * Set aside what map(), map_window() or replace() of this range needs, so that they cannot
	 * fail: tables, pinned memory. May be called for ranges already prepared. NULL: map()
	 * itself may fail. Return: 0; -ENOMEM, -ENOSPC, -EIO, ...; what was prepared may stay until
	 * destroy().
	 */
	int (*prepare)(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len);
	/*
	 * Map [iova, iova + len) onto host memory at hva; no part of it is mapped, prot has at
	 * least one bit. A shadow that cannot do write-only maps read-write. Return: 0; only if the
	 * range was not prepared: -ENOMEM, -ENOSPC, -EINVAL, -EIO, ...: nothing is mapped, and with
	 * prepare() another try after that is welcome.
	 */
	int (*map)(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len, unsigned prot);
	/* Unmap exactly one range that map() mapped, or one page. Never fails, allocates nothing.
	 */
	void (*unmap)(struct shadow *shadow, uint64_t iova, uint64_t len);
	/*
	 * Only with can_replace: change the page at iova, which is mapped, in one atomic step: an
	 * access meanwhile finds the old page or the new one, never a fault that neither would
	 * give. Only bytes [first, last] of the page are reachable afterwards; less than the whole
	 * page only with can_window, both bounds are then multiples of 8 (last + 1, that is). Never
	 * fails.
	 */
	void (*replace)(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
			uint64_t first, uint64_t last);
	/* Only with can_window: map() of one page of which only bytes [first, last] are reachable.
	 */
	int (*map_window)(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
			  uint64_t first, uint64_t last);
	/* Unmap everything and give the tables back; no stream walks it any more. */
	void (*destroy)(struct shadow *shadow);
};

struct shadow {
	const struct shadow_ops *ops;
	uint64_t granule; /* bytes, smallest page; a power of two */
	bool can_replace; /* a live page can be replaced */
	bool can_window;  /* and a page be bounded */
	/* Owned by the mediator. */
	unsigned nr_users;   /* streams that walk it */
	struct shadow *next; /* of those never to be destroyed while devices may walk them */
};

struct instance_ops {
	/*
	 * An empty shadow that stream @sid can walk (it holds nothing but reserved direct regions
	 * and what firmware left). Return: 0; -EBUSY the instance has only one and it is in use;
	 * -ENOMEM, -EIO.
	 */
	int (*shadow_create)(struct instance *inst, uint32_t sid, struct shadow **out);
	/* Can stream @sid walk @shadow, which may be another instance's? */
	bool (*shadow_fits)(const struct instance *inst, uint32_t sid, const struct shadow *shadow);
	/*
	 * Let stream @sid walk @shadow, from now on and instead of any it walked before; nothing of
	 * before can be used once this returns 0. Return: 0; -EIO, -ETIMEDOUT: the stream is
	 * blocked as far as the hardware lets itself be told.
	 */
	int (*enable)(struct instance *inst, uint32_t sid, struct shadow *shadow);
	/*
	 * Block stream @sid; at once if it is blocked already. Return: 0: no access of it goes
	 * anywhere any more (but to what firmware left); -ETIMEDOUT: none that comes from now on
	 * does, of earlier ones that is not known; -EIO, ...: nothing is known.
	 */
	int (*disable)(struct instance *inst, uint32_t sid);
	/* Start to make these streams forget every translation they hold. Does not wait. */
	void (*invalidate_start)(struct instance *inst, const struct stream_set *streams);
	/*
	 * Wait until what was started has ended. Return: 0: nothing that was unmapped or replaced
	 * before invalidate_start() can be used any more, nor is it remembered that something was
	 * not mapped; -EIO, -ETIMEDOUT: it is not known. Bounded in time.
	 */
	int (*invalidate_wait)(struct instance *inst);
};

struct instance {
	const struct instance_ops *ops;
	const char *name;    /* for messages */
	const char *kind;    /* of unit, for an operator: "VFIO", "DART"; may be NULL */
	uint64_t granule;    /* bytes, smallest page; a power of two */
	unsigned nr_streams; /* stream ids are below this; 1 .. INSTANCE_MAX_STREAMS */
	bool exclusive;	     /* it has one shadow: the old one must go before the next is created */
	bool caches_invalid; /* may remember that something was not mapped: map() needs an
				invalidation before devices can rely on it */
	unsigned nr_apertures;
	struct iova_range apertures[INSTANCE_MAX_APERTURES]; /* usable IOVA, ascending, disjoint */

	/* Owned by the mediator. */
	bool failed; /* an invalidation failed: its streams were blocked, none is enabled again */
	bool loose;  /* and one of them could not be blocked: it may still use what it remembers */
};

#endif
