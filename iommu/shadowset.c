/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/shadowset.h"

#include <errno.h>
#include <string.h>

#include "iommu/base.h"

bool shadow_is_fine(const struct shadowset *set, const struct shadow *shadow)
{
	return shadow->granule <= set->fine_granule;
}

static void find_abilities(struct shadowset *set)
{
	set->has_fine = false;
	set->can_replace = true;
	set->can_window = true;
	set->caches_invalid = false;
	for (unsigned i = 0; i < set->nr_shadows; i++) {
		set->has_fine |= shadow_is_fine(set, set->shadow[i]);
		set->can_replace &= set->shadow[i]->can_replace;
		/* A fine shadow shows any set of slots. */
		set->can_window &=
			set->shadow[i]->can_window || shadow_is_fine(set, set->shadow[i]);
	}
	for (unsigned i = 0; i < set->nr_members; i++)
		set->caches_invalid |= set->member[i].inst->caches_invalid;
	set->can_window &= set->can_replace;
}

void shadowset_init(struct shadowset *set, uint64_t fine_granule, struct mediator_stats *stats)
{
	memset(set, 0, sizeof(*set));
	set->fine_granule = fine_granule;
	set->stats = stats;
	find_abilities(set);
}

struct shadow *shadowset_find(const struct shadowset *set, const struct instance *inst,
			      uint32_t sid)
{
	for (unsigned i = 0; i < set->nr_shadows; i++) {
		if (inst->ops->shadow_fits(inst, sid, set->shadow[i]))
			return set->shadow[i];
	}
	return NULL;
}

int shadowset_add(struct shadowset *set, struct shadow *shadow)
{
	if (set->nr_shadows == SHADOWSET_MAX_SHADOWS)
		return -ENOSPC;
	set->shadow[set->nr_shadows++] = shadow;
	find_abilities(set);
	return 0;
}

void shadowset_remove(struct shadowset *set, const struct shadow *shadow)
{
	for (unsigned i = 0; i < set->nr_shadows; i++) {
		if (set->shadow[i] == shadow) {
			set->shadow[i] = set->shadow[--set->nr_shadows];
			break;
		}
	}
	find_abilities(set);
}

static struct shadowset_member *find_member(struct shadowset *set, const struct instance *inst)
{
	for (unsigned i = 0; i < set->nr_members; i++) {
		if (set->member[i].inst == inst)
			return &set->member[i];
	}
	return NULL;
}

int shadowset_add_stream(struct shadowset *set, struct instance *inst, uint32_t sid)
{
	struct shadowset_member *member = find_member(set, inst);

	if (!member) {
		if (set->nr_members == SHADOWSET_MAX_INSTANCES)
			return -ENOSPC;
		member = &set->member[set->nr_members++];
		*member = (struct shadowset_member){.inst = inst};
	}
	stream_set_add(&member->streams, sid);
	member->nr++;
	find_abilities(set);
	return 0;
}

void shadowset_remove_stream(struct shadowset *set, struct instance *inst, uint32_t sid)
{
	struct shadowset_member *member = find_member(set, inst);

	stream_set_del(&member->streams, sid);
	if (!--member->nr)
		*member = set->member[--set->nr_members];
	find_abilities(set);
}

static bool is_of(const struct shadowset *set, const struct shadow *shadow, unsigned which)
{
	return which & (shadow_is_fine(set, shadow) ? SHADOWS_FINE : SHADOWS_COARSE);
}

int shadowset_prepare(struct shadowset *set, unsigned which, uint64_t iova, void *hva, uint64_t len)
{
	int ret = 0;

	for (unsigned i = 0; i < set->nr_shadows && !ret; i++) {
		struct shadow *shadow = set->shadow[i];

		if (is_of(set, shadow, which) && shadow->ops->prepare)
			ret = shadow->ops->prepare(shadow, iova, hva, len);
	}
	if (ret)
		set->stats->instance_errors++;
	return ret;
}

static int map_one(struct shadowset *set, struct shadow *shadow, uint64_t iova, void *hva,
		   uint64_t len, unsigned prot, uint64_t first, uint64_t last)
{
	int ret = first == 0 && last == len - 1
			  ? shadow->ops->map(shadow, iova, hva, len, prot)
			  : shadow->ops->map_window(shadow, iova, hva, prot, first, last);

	set->stats->instance_maps += !ret;
	return ret;
}

int shadowset_map_window(struct shadowset *set, unsigned which, uint64_t iova, void *hva,
			 uint64_t len, unsigned prot, uint64_t first, uint64_t last, bool *exposed)
{
	bool tried = false;
	int ret;

	/* Alone it has nobody to keep in step with, and mostly its tables are there already. */
	if (set->nr_shadows == 1 && set->shadow[0]->ops->prepare &&
	    is_of(set, set->shadow[0], which)) {
		if (!map_one(set, set->shadow[0], iova, hva, len, prot, first, last))
			return 0;
		tried = true;
	}
	ret = shadowset_prepare(set, which, iova, hva, len);
	/* The first part of a range may have been there until its end was not. */
	if (ret && tried)
		*exposed = true;
	for (unsigned i = 0; i < set->nr_shadows && !ret; i++) {
		if (!is_of(set, set->shadow[i], which))
			continue;
		ret = map_one(set, set->shadow[i], iova, hva, len, prot, first, last);
		if (!ret)
			continue;
		set->stats->instance_errors++;
		while (i--) {
			if (!is_of(set, set->shadow[i], which))
				continue;
			set->shadow[i]->ops->unmap(set->shadow[i], iova, len);
			set->stats->instance_unmaps++;
			*exposed = true;
		}
		break;
	}
	return ret;
}

int shadowset_map(struct shadowset *set, unsigned which, uint64_t iova, void *hva, uint64_t len,
		  unsigned prot, bool *exposed)
{
	return shadowset_map_window(set, which, iova, hva, len, prot, 0, len - 1, exposed);
}

void shadowset_unmap(struct shadowset *set, unsigned which, uint64_t iova, uint64_t len)
{
	for (unsigned i = 0; i < set->nr_shadows; i++) {
		if (!is_of(set, set->shadow[i], which))
			continue;
		set->shadow[i]->ops->unmap(set->shadow[i], iova, len);
		set->stats->instance_unmaps++;
	}
}

void shadowset_replace(struct shadowset *set, unsigned which, uint64_t iova, void *hva,
		       unsigned prot, uint64_t first, uint64_t last)
{
	for (unsigned i = 0; i < set->nr_shadows; i++) {
		struct shadow *shadow = set->shadow[i];

		if (is_of(set, shadow, which))
			shadow->ops->replace(shadow, iova, hva, prot, first, last);
	}
}

/* It did not answer: nobody knows what its streams still reach, so they must reach nothing. */
void shadowset_give_up(struct shadowset *set, struct instance *inst)
{
	set->stats->instance_errors++;
	set->tainted = true;
	inst->failed = true;
	/* Those of other domains too: they will not be invalidated any more either. */
	for (uint32_t sid = 0; sid < inst->nr_streams; sid++) {
		int ret = inst->ops->disable(inst, sid);

		if (ret && ret != -ETIMEDOUT)
			inst->loose = true;
	}
}

int shadowset_invalidate(struct shadowset *set)
{
	int ret = 0;

	set->stats->invalidations++;
	for (unsigned i = 0; i < set->nr_members; i++) {
		const struct shadowset_member *member = &set->member[i];

		if (!member->inst->failed)
			member->inst->ops->invalidate_start(member->inst, &member->streams);
	}
	for (unsigned i = 0; i < set->nr_members; i++) {
		const struct shadowset_member *member = &set->member[i];

		if (!member->inst->failed && member->inst->ops->invalidate_wait(member->inst)) {
			shadowset_give_up(set, member->inst);
			ret = -EIO;
		}
		if (member->inst->loose) {
			set->tainted = true;
			set->loose = true;
			ret = -EIO;
		}
	}
	return ret;
}
