/* SPDX-License-Identifier: Apache-2.0 */
/*
 * domain - one guest IOVA address space and its shadow: what the guest mapped, the frames that are
 * not simply direct, and the streams that translate through it, kept in step.
 *
 * Private to the mediator, which validates requests, numbers domains and holds the lock.
 */
#ifndef IOMMU_DOMAIN_H
#define IOMMU_DOMAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "iommu/frame.h"
#include "iommu/gmem.h"
#include "iommu/instance.h"
#include "iommu/maptree.h"
#include "iommu/pool.h"
#include "iommu/shadowset.h"
#include "iommu/stretch.h"
#include "iommu/sync.h"

/* What all domains of one mediator share. */
struct domain_env {
	const struct gmem *gmem;
	uint8_t *ram_base;   /* the lowest host address of guest RAM */
	uint64_t granule;    /* g: bytes of a slot */
	uint64_t frame_size; /* h: bytes of a frame, >= g */
	unsigned granule_lg2, frame_lg2;
	struct pool *pool;
	struct sync_scratch *scratch;
	struct mediator_stats *stats;
	size_t park_limit;	 /* frames that may be parked, in all domains */
	size_t nr_parked;	 /* that are */
	size_t quarantine_limit; /* frames that may wait for an invalidation, per domain */
	uint64_t quarantine_ns;	 /* and how long; 0: no bound */
	uint64_t (*now_ns)(void);
	uint64_t salt;		/* of frame tables */
	bool promote;		/* bounce frames that could be direct become it */
	struct domain *domains; /* all with a number */
	struct shadow *lost;	/* that devices may still walk: kept to the end */
	/* The domain will need sync points, see domain_needs_sync(): called before a frame gives it
	 * the need, unless dom->trapped. */
	void (*trap)(struct domain *dom);
};

struct domain {
	struct domain_env *env;
	uint32_t id;
	bool bypass;  /* guest RAM 1:1, no mappings */
	bool relaxed; /* class "exposed" is allowed: every endpoint says so */
	struct maptree *maps;
	struct frame_table frames;
	struct frame_queue parked;     /* oldest first */
	struct frame_queue quarantine; /* everything that devices may remember, already unmapped */
	uint64_t quarantine_since;     /* when the oldest got there */
	struct shadowset set;
	/* What the request under way did that devices may not know yet. */
	bool added, removed;
	bool moving; /* and that a frame has changed its class, see finish_move() */
	unsigned nr_endpoints;
	unsigned nr_full;    /* of them SYNC_FULL */
	uint64_t ring_limit; /* read-write mappings of up to so many bytes are always bounced */
	unsigned nr_held;    /* of them that want vCPUs held */
	bool trapped;	     /* all of them that sync are trapped */
	struct domain *next; /* env->domains */
};

/* One requester and where it translates; shared by the endpoints that master through it. */
struct stream_state {
	struct stream id;
	struct domain *domain; /* NULL: blocked */
	struct shadow *shadow;
	unsigned nr_users; /* endpoints in that domain */
	struct stream_state *next;
};

int domain_create(struct domain_env *env, uint32_t id, bool bypass, struct domain **out);

/* domain_needs_sync - does a sync point have anything to look at? Rings, and with an endpoint that
 * is SYNC_FULL every bounced slot. */
static inline bool domain_needs_sync(const struct domain *dom)
{
	return dom->frames.rings.nr || (dom->nr_full && dom->frames.others.nr);
}

/* domain_destroy - bring what devices wrote to the guest and free it; no stream is in it any more
 */
void domain_destroy(struct domain *dom);

/**
 * domain_map - carry out a validated MAP: aligned, inside the input range, in RAM or the doorbell
 * Return: 0; -EINVAL overlaps a mapping; -ENOMEM, -ENOSPC, -EIO, ... of an instance. On error
 * nothing has changed.
 */
int domain_map(struct domain *dom, const struct mapping *map);

/* Yields the mappings of a list one by one, ascending and gapless; false: no more. */
typedef bool (*mapping_fn)(void *ctx, struct mapping *out);

/**
 * domain_map_list - the same for several mappings, all or none, with one invalidation
 * @next: called from the start again after @rewind
 */
int domain_map_list(struct domain *dom, mapping_fn next, void (*rewind)(void *ctx), void *ctx);

/**
 * domain_unmap - remove every mapping inside [start, last]
 * Return: 0; -ERANGE cuts a mapping, nothing removed; -EIO removed, but an instance could not
 * promise that devices are cut off: the pages concerned are never used again.
 */
int domain_unmap(struct domain *dom, uint64_t start, uint64_t last);

/**
 * domain_hold_shadow - the shadow that a stream would walk, with all of the domain in it
 *
 * To be taken before the stream leaves where it is, so that what can fail fails early; not for
 * exclusive instances. Return: 0; -errno.
 */
int domain_hold_shadow(struct domain *dom, const struct stream *id, struct shadow **out);
void domain_drop_shadow(struct domain *dom, struct shadow *shadow);

/**
 * domain_join - let a blocked stream translate through the domain
 * Return: 0; -errno of the instance or -ENOSPC: the stream is blocked as before.
 */
int domain_join(struct domain *dom, struct stream_state *stream);

/* domain_leave - block a stream of the domain; taints the domain as domain_unmap does */
void domain_leave(struct stream_state *stream);

/**
 * domain_expire - give back quarantined pages that have waited long enough
 * Return: ns until the next have, UINT64_MAX: none waits, or none for a time.
 */
uint64_t domain_expire(struct domain *dom, uint64_t now);

/* domain_vacate - nothing that is only kept for speed lies in [start, last] any more: an endpoint
 * joins for which it is reserved */
void domain_vacate(struct domain *dom, uint64_t start, uint64_t last);

/**
 * domain_look - what lies at IOVA @*at and above, ascending
 * @at: where to go on, when more is left
 * @out, @max: room for as many stretches
 * Looks at a bounded number of frames and mappings, whatever there are, and at all that is parked
 * or quarantined once or twice. Return: stretches written; *more: there may be others, and *@at has
 * grown.
 */
size_t domain_look(const struct domain *dom, uint64_t *at, struct stretch *out, size_t max,
		   bool *more);

/* domain_trim - give back parked and quarantined pages */
void domain_trim(struct domain *dom);

#endif
