/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shadowset - all shadows and all streams of one domain, taken as one.
 *
 * A shadow is one table; streams of any number of instances walk it. What is done here is done on
 * every shadow or on none, and an invalidation is started on every instance before any is waited
 * for. Private to domain; the mediator's lock is held.
 */
#ifndef IOMMU_SHADOWSET_H
#define IOMMU_SHADOWSET_H

#include <stdbool.h>
#include <stdint.h>

#include "iommu/instance.h"
#include "iommu/mediator.h"

#define SHADOWSET_MAX_SHADOWS	64
#define SHADOWSET_MAX_INSTANCES 64

/*
 * Shadows by what they can show of a frame. A coarse one shows the frame's page whole; a fine one,
 * whose granule is the guest's, each slot by itself and with its own rights.
 */
#define SHADOWS_COARSE 1u
#define SHADOWS_FINE   2u
#define SHADOWS_ALL    (SHADOWS_COARSE | SHADOWS_FINE)

/* The streams of one instance that walk a shadow of the set. */
struct shadowset_member {
	struct instance *inst;
	struct stream_set streams;
	unsigned nr; /* of them */
};

struct shadowset {
	struct mediator_stats *stats;
	uint64_t fine_granule; /* shadows of this granule or less are fine; 0: none is */
	struct shadow *shadow[SHADOWSET_MAX_SHADOWS];
	unsigned nr_shadows;
	struct shadowset_member member[SHADOWSET_MAX_INSTANCES];
	unsigned nr_members;
	bool has_fine;	     /* any shadow */
	bool can_replace;    /* all shadows */
	bool can_window;     /* all shadows */
	bool caches_invalid; /* any instance */
	bool tainted;	     /* an invalidation failed once: pages given up are never used again */
	bool loose;	     /* and a stream could not be blocked: it may still walk a shadow */
};

void shadowset_init(struct shadowset *set, uint64_t fine_granule, struct mediator_stats *stats);

bool shadow_is_fine(const struct shadowset *set, const struct shadow *shadow);

/**
 * shadowset_find - a shadow of the set that stream (@inst, @sid) can walk; NULL: none
 */
struct shadow *shadowset_find(const struct shadowset *set, const struct instance *inst,
			      uint32_t sid);
/* shadowset_add, shadowset_remove - a shadow joins, already holding what the others hold, or
 * leaves. -ENOSPC: too many. */
int shadowset_add(struct shadowset *set, struct shadow *shadow);
void shadowset_remove(struct shadowset *set, const struct shadow *shadow);

/* shadowset_add_stream - count a stream that was enabled. -ENOSPC: too many instances.
 * shadowset_remove_stream - one that was disabled. */
int shadowset_add_stream(struct shadowset *set, struct instance *inst, uint32_t sid);
void shadowset_remove_stream(struct shadowset *set, struct instance *inst, uint32_t sid);

/**
 * shadowset_map - on every shadow of these kinds, after preparing every one
 * @which: SHADOWS_*
 * @exposed: set if something was visible for a moment and was taken away again
 * Return: 0; -errno of a shadow: nothing is mapped anywhere, an invalidation is due if *exposed.
 */
int shadowset_map(struct shadowset *set, unsigned which, uint64_t iova, void *hva, uint64_t len,
		  unsigned prot, bool *exposed);
/* shadowset_map_window - the same for one frame of which bytes [first, last] are reachable */
int shadowset_map_window(struct shadowset *set, unsigned which, uint64_t iova, void *hva,
			 uint64_t len, unsigned prot, uint64_t first, uint64_t last, bool *exposed);
void shadowset_unmap(struct shadowset *set, unsigned which, uint64_t iova, uint64_t len);
/* shadowset_prepare - Return: 0; -errno of a shadow; what shadowset_replace() needs. */
int shadowset_prepare(struct shadowset *set, unsigned which, uint64_t iova, void *hva,
		      uint64_t len);
/* shadowset_replace - one prepared page, [first, last] of it reachable */
void shadowset_replace(struct shadowset *set, unsigned which, uint64_t iova, void *hva,
		       unsigned prot, uint64_t first, uint64_t last);

/**
 * shadowset_invalidate - start on every instance, then wait for every one
 * Return: 0: nothing unmapped or replaced before can be used any more; -EIO: some instance could
 * not say so. Its streams have been blocked, the set is tainted.
 */
int shadowset_invalidate(struct shadowset *set);

/* shadowset_give_up - @inst did not confirm: its streams are blocked, the set is tainted */
void shadowset_give_up(struct shadowset *set, struct instance *inst);

#endif
