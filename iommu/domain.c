/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/domain.h"

#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

/*
 * How a mapping falls onto frames. An end that covers only part of a frame shares it with whatever
 * else is mapped there: such a frame always has a struct frame. The body's frames belong to this
 * mapping alone, so that whether they are direct or bounced follows from the mapping and need not
 * be stored.
 */
struct shape {
	uint8_t *hva; /* of map.start; NULL: nothing is backed (no rights, or the doorbell) */
	bool direct;  /* the body is guest memory itself */
	unsigned nr_parts;
	uint64_t part[2]; /* indexes of partly covered frames */
	uint64_t body;	  /* index of the first whole frame */
	uint64_t nr_body;
};

static struct shape shape_of(const struct domain *dom, const struct mapping *map)
{
	uint64_t h = dom->env->frame_size;
	uint64_t first = map->start / h, last = map->last / h;
	bool head_whole = IS_ALIGNED(map->start, h);
	bool tail_whole = IS_ALIGNED(map->last + 1, h);
	struct shape shape = {0};

	if (map->flags & (MAP_READ | MAP_WRITE))
		shape.hva = gmem_ptr(dom->env->gmem, map->gpa, map->last - map->start + 1);
	if (!shape.hva)
		return shape;
	shape.direct = IS_ALIGNED(map->start ^ map->gpa, h);
	if (first == last && !(head_whole && tail_whole)) {
		shape.part[shape.nr_parts++] = first;
		return shape;
	}
	if (!head_whole)
		shape.part[shape.nr_parts++] = first;
	if (!tail_whole)
		shape.part[shape.nr_parts++] = last;
	shape.body = first + !head_whole;
	shape.nr_body = last + tail_whole - shape.body;
	return shape;
}

static unsigned rights_of(const struct mapping *map)
{
	return ((map->flags & MAP_READ) ? PROT_DEV_READ : 0) |
	       ((map->flags & MAP_WRITE) ? PROT_DEV_WRITE : 0);
}

/* ---- all instances as one ---- */

static int instance_map(const struct domain *dom, struct instance *inst, uint64_t iova, void *hva,
			uint64_t len, unsigned prot)
{
	int ret = inst->ops->map(inst, iova, hva, len, prot);

	if (ret)
		dom->env->stats->instance_errors++;
	else
		dom->env->stats->instance_maps++;
	return ret;
}

static void instance_unmap(const struct domain *dom, struct instance *inst, uint64_t iova,
			   uint64_t len)
{
	inst->ops->unmap(inst, iova, len);
	dom->env->stats->instance_unmaps++;
}

/* Return: 0; -EIO: devices may still reach what was unmapped, so the domain gives up no page again.
 */
static int sync_instance(struct domain *dom, struct instance *inst)
{
	if (!inst->ops->sync(inst))
		return 0;
	dom->env->stats->instance_errors++;
	dom->tainted = true;
	return -EIO;
}

static int sync_instances(struct domain *dom)
{
	int ret = 0;

	for (unsigned i = 0; i < dom->nr_instances; i++) {
		if (sync_instance(dom, dom->instances[i]))
			ret = -EIO;
	}
	return ret;
}

/* Pages that no device can reach any more go back; others are lost on purpose. */
static void give_back(const struct domain *dom, uint8_t *page, size_t nr)
{
	if (!dom->tainted)
		pool_put(dom->env->pool, page, nr);
}

static void unmap_instances(struct domain *dom, uint64_t index, uint64_t nr)
{
	uint64_t h = dom->env->frame_size;

	for (unsigned i = 0; i < dom->nr_instances; i++)
		instance_unmap(dom, dom->instances[i], index * h, nr * h);
}

static int map_instances(struct domain *dom, uint64_t index, uint64_t nr, void *hva, unsigned prot)
{
	uint64_t h = dom->env->frame_size;
	int ret;

	for (unsigned i = 0; i < dom->nr_instances; i++) {
		ret = instance_map(dom, dom->instances[i], index * h, hva, nr * h, prot);
		if (ret) {
			while (i--)
				instance_unmap(dom, dom->instances[i], index * h, nr * h);
			/* What was visible for a moment is not reused before it is gone; no guest
			 * data was behind it that the device could not have asked for anyway. */
			(void)sync_instances(dom);
			return ret;
		}
	}
	return 0;
}

/* ---- partly covered frames ---- */

/* The slots of frame @index that @map covers. */
struct cover {
	unsigned first, nr;
	uint8_t *hva; /* of the first */
};

static struct cover cover_of(const struct domain *dom, const struct mapping *map, uint8_t *hva,
			     uint64_t index)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	uint64_t start = MAX(map->start, index * h);
	uint64_t last = MIN(map->last, index * h + (h - 1));

	return (struct cover){
		.first = (unsigned)((start - index * h) / g),
		.nr = (unsigned)((last - start + 1) / g),
		.hva = hva + (start - map->start),
	};
}

/* The host frame that @cover's slots would be part of if the frame were exposed; NULL if it cannot
 * be. */
static uint8_t *host_frame_of(const struct domain *dom, const struct shape *shape,
			      const struct cover *cover)
{
	return shape->direct ? cover->hva - cover->first * dom->env->granule : NULL;
}

static void fill_slot(struct domain *dom, const struct frame *frame, unsigned s)
{
	uint8_t *bounce = frame->page + s * dom->env->granule;
	uint8_t *twin = frame->slot[s] & MAP_WRITE ? pool_twin(dom->env->pool, bounce) : NULL;

	sync_fill(bounce, twin, SLOT_HVA(frame->slot[s]), dom->env->granule, dom->env->stats);
}

static void collect_slot(struct domain *dom, const struct frame *frame, unsigned s)
{
	uint8_t *bounce = frame->page + s * dom->env->granule;

	if (frame->slot[s] & MAP_WRITE)
		sync_collect(bounce, pool_twin(dom->env->pool, bounce), SLOT_HVA(frame->slot[s]),
			     dom->env->granule, dom->env->stats);
}

static void set_slots(struct domain *dom, struct frame *frame, const struct cover *cover,
		      const struct mapping *map)
{
	for (unsigned i = 0; i < cover->nr; i++)
		frame->slot[cover->first + i] = (frame_slot)(cover->hva + i * dom->env->granule) |
						(map->flags & SLOT_RIGHTS);
	frame->live += cover->nr;
}

static bool exposed_rights_match(const struct domain *dom, const struct frame *frame,
				 const struct mapping *map)
{
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		if (frame->slot[s])
			return (frame->slot[s] & SLOT_RIGHTS) == (map->flags & SLOT_RIGHTS);
	}
	return false;
}

/*
 * An exposed frame takes a neighbour that does not fit it: it must become bounce, which this kind
 * of instance can only do by unmapping first. The moment without translation is what
 * exposure=relaxed accepts; it is kept rare by exposing only frames that a mapping mostly fills.
 */
static int make_bounce(struct domain *dom, struct frame *frame)
{
	const struct domain_env *env = dom->env;
	uint8_t *host = frame->page;
	unsigned prot = 0;
	uint8_t *page;
	size_t got;
	int ret;

	page = pool_get(env->pool, 1, &got);
	if (!page)
		return -ENOMEM;
	for (unsigned s = 0; s < dom->frames.nr_slots; s++)
		prot |= (unsigned)(frame->slot[s] & SLOT_RIGHTS);
	unmap_instances(dom, frame->index, 1);
	ret = sync_instances(dom);
	if (!ret) {
		/* Now no device writes the guest's page: the copy is exact. */
		memset(page, 0, env->frame_size);
		for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
			uint8_t *bounce = page + s * env->granule;

			if (frame->slot[s])
				sync_fill(bounce,
					  frame->slot[s] & MAP_WRITE ? pool_twin(env->pool, bounce)
								     : NULL,
					  SLOT_HVA(frame->slot[s]), env->granule, env->stats);
		}
		ret = map_instances(dom, frame->index, 1, page, PROT_DEV_READ | PROT_DEV_WRITE);
	}
	if (ret) {
		give_back(dom, page, 1);
		/* It was mapped a moment ago; an instance that now refuses has reported -EIO above.
		 */
		(void)map_instances(dom, frame->index, 1, host, prot);
		return ret;
	}
	frame_become_bounce(&dom->frames, frame, page);
	env->stats->reclassified++;
	env->stats->exposed_live--;
	env->stats->bounce_live++;
	env->stats->bounce_frames++;
	return 0;
}

static int new_part(struct domain *dom, const struct shape *shape, const struct cover *cover,
		    const struct mapping *map, uint64_t index)
{
	const struct domain_env *env = dom->env;
	uint8_t *host = host_frame_of(dom, shape, cover);
	bool exposed = dom->relaxed && host && cover->nr > dom->frames.nr_slots / 2;
	unsigned prot = exposed ? rights_of(map) : PROT_DEV_READ | PROT_DEV_WRITE;
	struct frame *frame;
	uint8_t *page = host;
	size_t got;
	int ret;

	if (!exposed) {
		page = pool_get(env->pool, 1, &got);
		if (!page)
			return -ENOMEM;
		/* Slots that nothing backs must show the device nothing. */
		memset(page, 0, cover->first * env->granule);
		memset(page + (cover->first + cover->nr) * env->granule, 0,
		       (dom->frames.nr_slots - cover->first - cover->nr) * env->granule);
	}
	ret = -ENOMEM;
	frame = frame_add(&dom->frames, index, exposed ? FRAME_EXPOSED : FRAME_BOUNCE, page);
	if (!frame)
		goto err_page;
	frame->run = 1;
	set_slots(dom, frame, cover, map);
	frame_relist(&dom->frames, frame);
	if (!exposed) {
		for (unsigned i = 0; i < cover->nr; i++)
			fill_slot(dom, frame, cover->first + i);
	}
	ret = map_instances(dom, index, 1, page, prot);
	if (ret)
		goto err_frame;
	if (exposed) {
		env->stats->exposed_frames++;
		env->stats->exposed_live++;
	} else {
		env->stats->bounce_frames++;
		env->stats->bounce_live++;
	}
	return 0;

err_frame:
	frame_del(&dom->frames, frame);
err_page:
	if (!exposed)
		give_back(dom, page, 1);
	return ret;
}

static int map_part(struct domain *dom, const struct shape *shape, const struct mapping *map,
		    uint64_t index)
{
	struct cover cover = cover_of(dom, map, shape->hva, index);
	struct frame *frame = frame_find(&dom->frames, index);
	int ret;

	if (!frame)
		return new_part(dom, shape, &cover, map, index);
	if (frame->class == FRAME_EXPOSED) {
		if (frame->page == host_frame_of(dom, shape, &cover) &&
		    exposed_rights_match(dom, frame, map)) {
			set_slots(dom, frame, &cover, map);
			return 0;
		}
		ret = make_bounce(dom, frame);
		if (ret)
			return ret;
	}
	set_slots(dom, frame, &cover, map);
	for (unsigned i = 0; i < cover.nr; i++)
		fill_slot(dom, frame, cover.first + i);
	frame_relist(&dom->frames, frame);
	return 0;
}

/* First half of taking slots away: cut the devices off if nothing is left in the frame. */
static void cut_part(struct domain *dom, const struct shape *shape, const struct mapping *map,
		     uint64_t index)
{
	struct cover cover = cover_of(dom, map, shape->hva, index);
	struct frame *frame = frame_find(&dom->frames, index);

	frame->live -= cover.nr;
	if (!frame->live)
		unmap_instances(dom, index, 1);
}

/* Second half, after the invalidation: what devices wrote goes to the guest, the slots go. */
static void drop_part(struct domain *dom, const struct shape *shape, const struct mapping *map,
		      uint64_t index)
{
	const struct domain_env *env = dom->env;
	struct cover cover = cover_of(dom, map, shape->hva, index);
	struct frame *frame = frame_find(&dom->frames, index);

	for (unsigned s = cover.first; s < cover.first + cover.nr; s++) {
		if (frame->class == FRAME_BOUNCE) {
			collect_slot(dom, frame, s);
			/* The frame may live on for its other slots: nothing of this one stays
			 * readable. */
			if (frame->live)
				memset(frame->page + s * env->granule, 0, env->granule);
		}
		frame->slot[s] = 0;
	}
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		if (frame->slot[s]) {
			frame_relist(&dom->frames, frame);
			return;
		}
	}
	if (frame->class == FRAME_BOUNCE) {
		give_back(dom, frame->page, 1);
		env->stats->bounce_live--;
	} else {
		env->stats->exposed_live--;
	}
	frame_del(&dom->frames, frame);
}

/* ---- whole frames of one mapping ---- */

static void drop_body_frames(struct domain *dom, uint64_t first, uint64_t nr, bool collect)
{
	const struct domain_env *env = dom->env;

	for (uint64_t i = 0; i < nr; i++) {
		struct frame *frame = frame_find(&dom->frames, first + i);

		if (collect) {
			for (unsigned s = 0; s < dom->frames.nr_slots; s++)
				collect_slot(dom, frame, s);
		}
		give_back(dom, frame->page, 1);
		frame_del(&dom->frames, frame);
	}
	env->stats->bounce_live -= nr;
}

/* Take instance mappings of bounced body frames away, run by run. */
static void cut_body_frames(struct domain *dom, uint64_t first, uint64_t nr)
{
	for (uint64_t i = 0; i < nr;) {
		const struct frame *frame = frame_find(&dom->frames, first + i);

		unmap_instances(dom, first + i, frame->run);
		i += frame->run;
	}
}

/* One run of contiguous bounce pages for the frames from @index on. Return: frames done, or -errno.
 */
static int64_t bounce_run(struct domain *dom, const struct mapping *map, uint8_t *hva,
			  uint64_t index, uint64_t want)
{
	const struct domain_env *env = dom->env;
	uint64_t h = env->frame_size;
	unsigned nr_slots = dom->frames.nr_slots;
	uint8_t *page;
	size_t got, n;
	int ret = -ENOMEM;

	page = pool_get(env->pool, MIN(want, FRAME_MAX_RUN), &got);
	if (!page)
		return -ENOMEM;
	for (n = 0; n < got; n++) {
		struct frame *frame =
			frame_add(&dom->frames, index + n, FRAME_BOUNCE, page + n * h);

		if (!frame)
			goto err_frames;
		frame->body = true;
		frame->live = nr_slots & 0x1f;
		for (unsigned s = 0; s < nr_slots; s++) {
			uint8_t *guest = hva + n * h + s * env->granule;

			frame->slot[s] = (frame_slot)guest | (map->flags & SLOT_RIGHTS);
		}
		frame_relist(&dom->frames, frame);
	}
	frame_find(&dom->frames, index)->run = got & FRAME_MAX_RUN;
	sync_fill(page, map->flags & MAP_WRITE ? pool_twin(env->pool, page) : NULL, hva, got * h,
		  env->stats);
	ret = map_instances(dom, index, got, page, rights_of(map));
	if (ret)
		goto err_frames;
	env->stats->bounce_frames += got;
	env->stats->bounce_live += got;
	return (int64_t)got;

err_frames:
	while (n--)
		frame_del(&dom->frames, frame_find(&dom->frames, index + n));
	give_back(dom, page, got);
	return ret;
}

static int map_body(struct domain *dom, const struct shape *shape, const struct mapping *map)
{
	uint64_t h = dom->env->frame_size, done = 0;
	uint8_t *hva;
	int64_t n = 0;
	int ret;

	if (!shape->nr_body)
		return 0;
	hva = shape->hva + (shape->body * h - map->start);
	if (shape->direct) {
		ret = map_instances(dom, shape->body, shape->nr_body, hva, rights_of(map));
		if (!ret) {
			dom->env->stats->direct_frames += shape->nr_body;
			dom->env->stats->direct_live += shape->nr_body;
		}
		return ret;
	}
	while (done < shape->nr_body) {
		n = bounce_run(dom, map, hva + done * h, shape->body + done, shape->nr_body - done);
		if (n < 0)
			break;
		done += (uint64_t)n;
	}
	if (n >= 0)
		return 0;
	cut_body_frames(dom, shape->body, done);
	(void)sync_instances(dom);
	drop_body_frames(dom, shape->body, done, false);
	return (int)n;
}

static void cut_body(struct domain *dom, const struct shape *shape)
{
	if (!shape->nr_body)
		return;
	if (shape->direct)
		unmap_instances(dom, shape->body, shape->nr_body);
	else
		cut_body_frames(dom, shape->body, shape->nr_body);
}

static void drop_body(struct domain *dom, const struct shape *shape)
{
	if (!shape->nr_body)
		return;
	if (shape->direct)
		dom->env->stats->direct_live -= shape->nr_body;
	else
		drop_body_frames(dom, shape->body, shape->nr_body, true);
}

/* ---- requests ---- */

int domain_map(struct domain *dom, const struct mapping *map)
{
	struct shape shape = shape_of(dom, map);
	unsigned done = 0;
	int ret;

	ret = maptree_insert(dom->maps, map);
	if (ret)
		return ret == -EEXIST ? -EINVAL : ret;
	if (!shape.hva)
		return 0;
	for (; done < shape.nr_parts; done++) {
		ret = map_part(dom, &shape, map, shape.part[done]);
		if (ret)
			goto err_parts;
	}
	ret = map_body(dom, &shape, map);
	if (ret)
		goto err_parts;
	return 0;

err_parts:
	for (unsigned i = 0; i < done; i++)
		cut_part(dom, &shape, map, shape.part[i]);
	if (done)
		(void)sync_instances(dom);
	while (done--)
		drop_part(dom, &shape, map, shape.part[done]);
	(void)maptree_remove(dom->maps, map->start);
	return ret;
}

/* True if a mapping lies across either end of [start, last]. */
static bool cuts_a_mapping(const struct domain *dom, uint64_t start, uint64_t last)
{
	struct mapping map;

	if (maptree_first(dom->maps, start, start, &map) && map.start < start)
		return true;
	return maptree_first(dom->maps, last, last, &map) && map.last > last;
}

int domain_unmap(struct domain *dom, uint64_t start, uint64_t last)
{
	struct mapping map;
	uint64_t at;
	int ret;

	if (last < start || cuts_a_mapping(dom, start, last))
		return -ERANGE;
	if (!maptree_first(dom->maps, start, last, &map))
		return 0;

	for (at = start; maptree_first(dom->maps, at, last, &map); at = map.last + 1) {
		struct shape shape = shape_of(dom, &map);

		cut_body(dom, &shape);
		for (unsigned i = 0; i < shape.nr_parts; i++)
			cut_part(dom, &shape, &map, shape.part[i]);
		if (map.last == last)
			break;
	}
	/* Before anything is copied or reused: what a device wrote until now must be in the copy,
	 * and what it writes from now on must reach nobody. */
	ret = sync_instances(dom);
	while (maptree_first(dom->maps, start, last, &map)) {
		struct shape shape = shape_of(dom, &map);

		drop_body(dom, &shape);
		for (unsigned i = 0; i < shape.nr_parts; i++)
			drop_part(dom, &shape, &map, shape.part[i]);
		(void)maptree_remove(dom->maps, map.start);
	}
	return ret;
}

/* ---- instances come and go ---- */

/*
 * Every instance mapping of the shadow, in the units in which it was made: direct bodies, runs of
 * bounced frames, single frames. Stops at the first error.
 */
typedef int (*unit_fn)(void *ctx, uint64_t iova, void *hva, uint64_t len, unsigned prot);

static int for_each_unit(struct domain *dom, unit_fn fn, void *ctx)
{
	uint64_t h = dom->env->frame_size, at = 0;
	struct mapping map;
	int ret;

	while (maptree_first(dom->maps, at, UINT64_MAX, &map)) {
		struct shape shape = shape_of(dom, &map);

		if (shape.nr_body && shape.direct) {
			ret = fn(ctx, shape.body * h, shape.hva + (shape.body * h - map.start),
				 shape.nr_body * h, rights_of(&map));
			if (ret)
				return ret;
		}
		if (map.last == UINT64_MAX)
			break;
		at = map.last + 1;
	}
	for (size_t b = 0; b < dom->frames.nr_buckets; b++) {
		for (struct frame *frame = dom->frames.bucket[b]; frame; frame = frame->next) {
			unsigned prot = 0;

			if (!frame->run)
				continue;
			for (unsigned s = 0; s < dom->frames.nr_slots; s++)
				prot |= (unsigned)(frame->slot[s] & SLOT_RIGHTS);
			/* A bounced body keeps its mapping's rights; a shared frame is read-write.
			 */
			if (frame->class == FRAME_BOUNCE && !frame->body)
				prot = PROT_DEV_READ | PROT_DEV_WRITE;
			ret = fn(ctx, frame->index * h, frame->page, (uint64_t)frame->run * h,
				 prot);
			if (ret)
				return ret;
		}
	}
	return 0;
}

struct replay {
	struct domain *dom;
	struct instance *inst;
	size_t done; /* units mapped */
};

static int replay_unit(void *ctx, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	struct replay *replay = ctx;
	int ret = instance_map(replay->dom, replay->inst, iova, hva, len, prot);

	if (!ret)
		replay->done++;
	return ret;
}

/* Takes away the first replay->done units, then stops with 1. */
static int unreplay_unit(void *ctx, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	struct replay *replay = ctx;

	(void)hva;
	(void)prot;
	if (!replay->done)
		return 1;
	instance_unmap(replay->dom, replay->inst, iova, len);
	replay->done--;
	return 0;
}

/* Guest RAM at its own address, as far as the instance can reach it. */
static int for_each_identity(struct domain *dom, const struct instance *inst, unit_fn fn, void *ctx)
{
	const struct gmem *gmem = dom->env->gmem;
	uint64_t h = dom->env->frame_size;

	for (unsigned s = 0; s < gmem->nr_spans; s++) {
		const struct gmem_span *span = &gmem->spans[s];

		for (unsigned a = 0; a < inst->nr_apertures; a++) {
			uint64_t start = ALIGN_UP(MAX(span->gpa, inst->apertures[a].start), h);
			uint64_t last = MIN(span->gpa + span->len - 1, inst->apertures[a].last);
			uint64_t len;
			int ret;

			if (last < start || last - start + 1 < h)
				continue;
			len = ALIGN_DOWN(last - start + 1, h);
			ret = fn(ctx, start, span->hva + (start - span->gpa), len,
				 PROT_DEV_READ | PROT_DEV_WRITE);
			if (ret)
				return ret;
		}
	}
	return 0;
}

static int for_each_of(struct domain *dom, const struct instance *inst, unit_fn fn, void *ctx)
{
	return dom->bypass ? for_each_identity(dom, inst, fn, ctx) : for_each_unit(dom, fn, ctx);
}

int domain_join(struct domain *dom, struct instance *inst)
{
	struct replay replay = {.dom = dom, .inst = inst};
	int ret;

	if (dom->nr_instances == DOMAIN_MAX_INSTANCES)
		return -ENOSPC;
	ret = for_each_of(dom, inst, replay_unit, &replay);
	if (ret) {
		(void)for_each_of(dom, inst, unreplay_unit, &replay);
		(void)sync_instance(dom, inst);
		return ret;
	}
	dom->instances[dom->nr_instances++] = inst;
	inst->domain = dom;
	return 0;
}

void domain_leave(struct domain *dom, struct instance *inst)
{
	struct replay all = {.dom = dom, .inst = inst, .done = SIZE_MAX};

	(void)for_each_of(dom, inst, unreplay_unit, &all);
	for (unsigned i = 0; i < dom->nr_instances; i++) {
		if (dom->instances[i] == inst) {
			dom->instances[i] = dom->instances[--dom->nr_instances];
			break;
		}
	}
	inst->domain = NULL;
	(void)sync_instance(dom, inst);
}

/* ---- life ---- */

int domain_create(const struct domain_env *env, uint32_t id, bool bypass, struct domain **out)
{
	struct domain *dom = iommu_zalloc(sizeof(*dom));
	int ret;

	if (!dom)
		return -ENOMEM;
	dom->env = env;
	dom->id = id;
	dom->bypass = bypass;
	dom->relaxed = true;
	ret = maptree_create(&dom->maps);
	if (ret)
		goto err_dom;
	ret = frame_table_init(&dom->frames, (unsigned)(env->frame_size / env->granule));
	if (ret)
		goto err_maps;
	*out = dom;
	return 0;

err_maps:
	maptree_destroy(dom->maps);
err_dom:
	iommu_free(dom);
	return ret;
}

void domain_destroy(struct domain *dom)
{
	(void)domain_unmap(dom, 0, UINT64_MAX);
	while (dom->nr_instances)
		domain_leave(dom, dom->instances[0]);
	frame_table_fini(&dom->frames);
	maptree_destroy(dom->maps);
	iommu_free(dom);
}
