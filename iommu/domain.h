/* SPDX-License-Identifier: Apache-2.0 */
/*
 * domain - one guest IOVA address space and its shadow: what the guest mapped, the frames that are
 * not simply direct, and the instances that hold the shadow, kept in step.
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
#include "iommu/sync.h"

#define DOMAIN_MAX_INSTANCES 64

/* What all domains of one mediator share. */
struct domain_env {
	const struct gmem *gmem;
	uint64_t granule;    /* g: bytes of a slot */
	uint64_t frame_size; /* h: bytes of a frame, >= g */
	struct pool *pool;
	struct sync_scratch *scratch;
	struct mediator_stats *stats;
};

struct domain {
	const struct domain_env *env;
	uint32_t id;
	bool bypass;  /* guest RAM 1:1, no mappings */
	bool tainted; /* an invalidation failed once: pages given up are never used again */
	bool relaxed; /* class "exposed" is allowed: every endpoint says so */
	struct maptree *maps;
	struct frame_table frames;
	struct instance *instances[DOMAIN_MAX_INSTANCES];
	unsigned nr_instances;
	unsigned nr_endpoints;
	struct domain *next; /* the mediator's list */
};

int domain_create(const struct domain_env *env, uint32_t id, bool bypass, struct domain **out);

/* domain_destroy - unmap everything from every instance left, bring what devices wrote to the
 * guest. Instances must have left or are made to. */
void domain_destroy(struct domain *dom);

/**
 * domain_map - carry out a validated MAP: aligned, inside the input range, in RAM or the doorbell
 * Return: 0; -EINVAL overlaps a mapping; -ENOMEM, -ENOSPC, -EIO, ... of an instance. On error
 * nothing has changed.
 */
int domain_map(struct domain *dom, const struct mapping *map);

/**
 * domain_unmap - remove every mapping inside [start, last]
 * Return: 0; -ERANGE cuts a mapping, nothing removed; -EIO removed, but an instance could not
 * promise that devices are cut off: the pages concerned are never used again.
 */
int domain_unmap(struct domain *dom, uint64_t start, uint64_t last);

/**
 * domain_join - replay the whole shadow into an instance that is empty
 * Return: 0; -errno of the instance or -ENOSPC: the instance is empty again.
 */
int domain_join(struct domain *dom, struct instance *inst);

/* domain_leave - remove the whole shadow from an instance; taints the domain as domain_unmap does
 */
void domain_leave(struct domain *dom, struct instance *inst);

#endif
