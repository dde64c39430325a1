/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/domain.h"

#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

/* Longer runs are not parked: they are rare, and what they hold is worth more than what they save.
 */
#define PARK_MAX_RUN 64
/* Parked frames that make room together, so that one invalidation serves many. */
#define EVICT_BATCH  32

#define PROT_DEV_BOTH (PROT_DEV_READ | PROT_DEV_WRITE)

/*
 * How a mapping falls onto frames. An end that covers only part of a frame shares it with whatever
 * else is mapped there: such a frame always has a struct frame. The body's frames belong to this
 * mapping alone, so that whether they are direct or bounced follows from the mapping and need not
 * be stored.
 */
struct shape {
	uint8_t *hva; /* of map.start; NULL: nothing is backed (no rights, or the doorbell) */
	bool direct;  /* the body is guest memory itself, and the parts may be */
	unsigned nr_parts;
	uint64_t part[2]; /* indexes of partly covered frames */
	uint64_t body;	  /* index of the first whole frame */
	uint64_t nr_body;
};

/*
 * Memory in which devices and CPU tell each other what else they have written: it must not be seen
 * before that, which may be in bounce pages. So it is bounced itself, and what is in it becomes
 * visible at sync points only, after what it announces. Large mappings are no rings.
 */
static bool is_ring(const struct domain *dom, const struct mapping *map)
{
	return (map->flags & MAP_READ) && (map->flags & MAP_WRITE) &&
	       map->last - map->start < dom->ring_limit;
}

/* Written where it is wanted: a copy of it costs more than all the rest. */
static void find_shape(const struct domain *dom, const struct mapping *map, struct shape *shape)
{
	uint64_t h = dom->env->frame_size;
	uint64_t first = map->start >> dom->env->frame_lg2;
	uint64_t last = map->last >> dom->env->frame_lg2;
	bool head_whole = IS_ALIGNED(map->start, h);
	bool tail_whole = IS_ALIGNED(map->last + 1, h);

	*shape = (struct shape){0};
	if (map->flags & (MAP_READ | MAP_WRITE))
		shape->hva = gmem_ptr(dom->env->gmem, map->gpa, map->last - map->start + 1);
	if (!shape->hva)
		return;
	shape->direct = IS_ALIGNED(map->start ^ map->gpa, h) && !is_ring(dom, map);
	if (first == last && !(head_whole && tail_whole)) {
		shape->part[shape->nr_parts++] = first;
		return;
	}
	if (!head_whole)
		shape->part[shape->nr_parts++] = first;
	if (!tail_whole)
		shape->part[shape->nr_parts++] = last;
	shape->body = first + !head_whole;
	shape->nr_body = last + tail_whole - shape->body;
}

static unsigned rights_of(const struct mapping *map)
{
	return ((map->flags & MAP_READ) ? PROT_DEV_READ : 0) |
	       ((map->flags & MAP_WRITE) ? PROT_DEV_WRITE : 0);
}

/*
 * A frame is about to become bounce, or to take slots that are. Before its translation changes, and
 * before the guest's page is copied, whoever lets the guest at a device's registers, and interrupts
 * at the guest, must be back between them: a ring entry that the CPU writes after the copy reaches
 * the device with a sync, and so does what the device writes to the bounce page reach the guest.
 */
static void expect_bounce(struct domain *dom, uint32_t rights)
{
	bool ring = (rights & SLOT_RIGHTS) == SLOT_RIGHTS;

	if ((ring || dom->nr_full) && !dom->trapped && dom->env->trap)
		dom->env->trap(dom);
}

/* ---- invalidation, and what waits for it ---- */

/* Pages that no device can reach any more go back; others are lost on purpose. */
static void give_back(const struct domain *dom, uint8_t *page, size_t nr)
{
	if (!dom->set.tainted)
		pool_put(dom->env->pool, page, nr);
}

/* A run of bounce frames that nothing refers to any more. */
static void free_run(struct domain *dom, struct frame *head)
{
	uint64_t index = head->index;
	size_t nr = head->run;

	give_back(dom, head->page, nr);
	for (size_t i = 0; i < nr; i++)
		frame_del(&dom->frames, frame_find(&dom->frames, index + i));
}

/*
 * Make every device forget what was unmapped or replaced. What waited for that goes back to the
 * pool, or is lost with a domain whose instance did not answer.
 */
static int flush(struct domain *dom)
{
	int ret = shadowset_invalidate(&dom->set);

	dom->added = false;
	dom->removed = false;
	while (dom->quarantine.head) {
		struct frame *head = dom->quarantine.head;

		frame_queue_drop(&dom->frames, &dom->quarantine, head);
		dom->env->stats->quarantined_live -= head->run;
		free_run(dom, head);
	}
	return ret;
}

/* Before a request is answered: devices know what it did. Return: 0; -EIO. */
static int flush_if_due(struct domain *dom)
{
	if (dom->removed || (dom->added && dom->set.caches_invalid))
		return flush(dom);
	dom->added = false;
	return 0;
}

static bool is_lazy(const struct domain *dom)
{
	return dom->env->quarantine_limit > 0;
}

static void set_run_class(struct domain *dom, struct frame *head, enum frame_class class)
{
	frame_set_class(&dom->frames, head, class, head->page);
	for (unsigned i = 1; i < head->run; i++) {
		struct frame *frame = frame_find(&dom->frames, head->index + i);

		frame_set_class(&dom->frames, frame, class, frame->page);
	}
}

static void quarantine_run(struct domain *dom, struct frame *head)
{
	if (!dom->quarantine.head && dom->env->quarantine_ns)
		dom->quarantine_since = dom->env->now_ns();
	set_run_class(dom, head, FRAME_QUARANTINED);
	frame_queue_push(&dom->quarantine, head);
	dom->env->stats->quarantined_frames += head->run;
	dom->env->stats->quarantined_live += head->run;
}

static void unmap_run(struct domain *dom, const struct frame *head)
{
	uint64_t h = dom->env->frame_size;

	if (head->prot)
		shadowset_unmap(&dom->set, SHADOWS_COARSE, head->index * h, head->run * h);
}

/* A parked run is unmapped; it is in quarantine then. */
static void evict_run(struct domain *dom, struct frame *head)
{
	frame_queue_drop(&dom->frames, &dom->parked, head);
	dom->env->nr_parked -= head->run;
	dom->env->stats->parked_live -= head->run;
	dom->env->stats->parked_evicted += head->run;
	unmap_run(dom, head);
	quarantine_run(dom, head);
}

/* The oldest @nr parked frames or more. */
static void evict_parked(struct domain *dom, size_t nr)
{
	for (size_t done = 0; done < nr && dom->parked.head;) {
		done += dom->parked.head->run;
		evict_run(dom, dom->parked.head);
	}
}

void domain_trim(struct domain *dom)
{
	evict_parked(dom, SIZE_MAX);
	if (dom->quarantine.head)
		(void)flush(dom);
}

uint64_t domain_expire(struct domain *dom, uint64_t now)
{
	uint64_t age = now - dom->quarantine_since;

	if (!dom->quarantine.head || !dom->env->quarantine_ns)
		return UINT64_MAX;
	if (age < dom->env->quarantine_ns)
		return dom->env->quarantine_ns - age;
	(void)flush(dom);
	return UINT64_MAX;
}

/* Too much waits, or has waited too long. */
static void flush_quarantine_if_full(struct domain *dom)
{
	if (!dom->quarantine.head)
		return;
	if (dom->quarantine.nr > dom->env->quarantine_limit)
		(void)flush(dom);
	else if (dom->env->quarantine_ns)
		(void)domain_expire(dom, dom->env->now_ns());
}

/* May a run that loses its last slot stay mapped? The same answer for as long as it lives. */
static bool can_park(const struct domain *dom, unsigned run, unsigned prot)
{
	return run <= PARK_MAX_RUN && run <= dom->env->park_limit && prot == PROT_DEV_BOTH;
}

static void park_run(struct domain *dom, struct frame *head)
{
	struct domain_env *env = dom->env;

	set_run_class(dom, head, FRAME_PARKED);
	frame_queue_push(&dom->parked, head);
	env->nr_parked += head->run;
	env->stats->parked_live += head->run;
	if (env->nr_parked > env->park_limit) {
		evict_parked(dom, MAX(env->nr_parked - env->park_limit, (size_t)EVICT_BATCH));
		flush_quarantine_if_full(dom);
	}
}

static void unpark_run(struct domain *dom, struct frame *head)
{
	frame_queue_drop(&dom->frames, &dom->parked, head);
	dom->env->nr_parked -= head->run;
	dom->env->stats->parked_live -= head->run;
	dom->env->stats->parked_hits += head->run;
	set_run_class(dom, head, FRAME_BOUNCE);
}

/* Map a quarantined run again, onto its own page: what devices remember of it is right, but for
 * rights. */
static int revive_run(struct domain *dom, struct frame *head, unsigned prot)
{
	uint64_t h = dom->env->frame_size;
	int ret = shadowset_map(&dom->set, SHADOWS_COARSE, head->index * h, head->page,
				head->run * h, prot, &dom->removed);

	if (ret)
		return ret;
	dom->added = true;
	dom->removed |= prot != head->prot;
	head->prot = prot & PROT_DEV_BOTH;
	frame_queue_drop(&dom->frames, &dom->quarantine, head);
	dom->env->stats->quarantined_live -= head->run;
	set_run_class(dom, head, FRAME_BOUNCE);
	return 0;
}

/* A run without slots is in the way of something that it cannot serve. */
static void clear_run(struct domain *dom, struct frame *head)
{
	if (head->class == FRAME_PARKED)
		evict_run(dom, head);
	(void)flush(dom);
}

/* The first run of a queue, @head or after it, that lies in frames [first, first + nr); or NULL. */
static struct frame *find_in(const struct domain *dom, struct frame *head, uint64_t first,
			     uint64_t nr)
{
	while (head && (head->index >= first + nr || head->index + head->run <= first))
		head = frame_queue_next(&dom->frames, head);
	return head;
}

/* Parked runs in frames [first, first + nr) are in quarantine then. Return: is anything there? */
static bool evict_frames(struct domain *dom, uint64_t first, uint64_t nr)
{
	struct frame *head, *next;
	bool any = false;

	if (nr > dom->parked.nr + dom->quarantine.nr) {
		for (head = find_in(dom, dom->parked.head, first, nr); head;) {
			next = frame_queue_next(&dom->frames, head);
			evict_run(dom, head);
			head = find_in(dom, next, first, nr);
		}
		return find_in(dom, dom->quarantine.head, first, nr);
	}
	for (uint64_t i = first; i < first + nr; i++) {
		head = frame_find(&dom->frames, i);
		if (!head)
			continue;
		any = true;
		head = frame_run_head(&dom->frames, head);
		if (head->class == FRAME_PARKED)
			evict_run(dom, head);
	}
	return any;
}

/* Nothing without slots may lie in frames [first, first + nr). */
static void clear_frames(struct domain *dom, uint64_t first, uint64_t nr)
{
	if (evict_frames(dom, first, nr))
		(void)flush(dom);
}

void domain_vacate(struct domain *dom, uint64_t start, uint64_t last)
{
	uint64_t h = dom->env->frame_size;

	clear_frames(dom, start / h, last / h - start / h + 1);
}

/* A bounce run that has lost its slots again before anything was made of it. */
static void retire_run(struct domain *dom, struct frame *head)
{
	dom->env->stats->bounce_live -= head->run;
	unmap_run(dom, head);
	quarantine_run(dom, head);
	(void)flush(dom);
}

/* Make room in the pool: what is only kept for speed goes first. False: there is nothing. */
static bool reclaim(struct domain *dom)
{
	if (dom->parked.head || dom->quarantine.head) {
		evict_parked(dom, EVICT_BATCH);
		(void)flush(dom);
		return true;
	}
	for (struct domain *other = dom->env->domains; other; other = other->next) {
		if (other->parked.head || other->quarantine.head) {
			evict_parked(other, EVICT_BATCH);
			(void)flush(other);
			return true;
		}
	}
	return false;
}

/* Could get_pages() hand out @nr pages in all: free ones, and those that reclaim() makes free? */
static bool is_there_room(const struct domain *dom, uint64_t nr)
{
	uint64_t have = pool_spare(dom->env->pool);

	for (const struct domain *other = dom->env->domains; other && have < nr;
	     other = other->next) {
		/* A tainted domain gives none up, but its own may serve it again. */
		if (other == dom || !other->set.tainted)
			have += other->parked.nr + other->quarantine.nr;
	}
	return have >= nr;
}

static uint8_t *get_pages(struct domain *dom, size_t want, size_t *got)
{
	uint8_t *page = pool_get(dom->env->pool, want, got);

	while (!page && reclaim(dom))
		page = pool_get(dom->env->pool, want, got);
	return page;
}

static int reserve_page(struct domain *dom)
{
	int ret = pool_reserve(dom->env->pool);

	while (ret && reclaim(dom))
		ret = pool_reserve(dom->env->pool);
	return ret;
}

/* ---- slots ---- */

/* The slots of frame @index that @map covers. */
struct cover {
	unsigned first, nr;
	uint8_t *hva; /* of the first */
};

static struct cover cover_of(const struct domain *dom, const struct mapping *map, uint8_t *hva,
			     uint64_t index)
{
	unsigned lg2 = dom->env->frame_lg2;
	uint64_t start = MAX(map->start, index << lg2);
	uint64_t last = MIN(map->last, (index << lg2) + (dom->env->frame_size - 1));

	return (struct cover){
		.first = (unsigned)((start - (index << lg2)) >> dom->env->granule_lg2),
		.nr = (unsigned)((last - start + 1) >> dom->env->granule_lg2),
		.hva = hva + (start - map->start),
	};
}

static bool is_live(frame_slot slot)
{
	return slot && !(slot & SLOT_DYING);
}

static void set_slots(const struct domain *dom, struct frame *frame, const struct cover *cover,
		      const struct mapping *map)
{
	for (unsigned i = 0; i < cover->nr; i++)
		frame->slot[cover->first + i] = slot_of(
			&dom->frames, cover->hva + i * dom->env->granule, map->flags & SLOT_RIGHTS);
	frame->live = (frame->live + cover->nr) & 0x1f;
}

static void clear_slots(struct frame *frame, const struct cover *cover)
{
	for (unsigned i = 0; i < cover->nr; i++)
		frame->slot[cover->first + i] = 0;
	frame->live = (frame->live - cover->nr) & 0x1f;
}

static uint8_t *twin_of(const struct domain *dom, frame_slot slot, const uint8_t *bounce)
{
	return slot & MAP_WRITE ? pool_twin(dom->env->pool, bounce) : NULL;
}

/* MAP: the guest's bytes go to the bounce page and the twin. */
static void fill_slot(struct domain *dom, const struct frame *frame, unsigned s)
{
	uint8_t *bounce = frame->page + s * dom->env->granule;

	sync_fill(bounce, twin_of(dom, frame->slot[s], bounce),
		  slot_hva(&dom->frames, frame->slot[s]), dom->env->granule, dom->env->stats);
}

/* UNMAP: what devices changed goes to the guest, for the last time. */
static void collect_last(struct domain *dom, const struct frame *frame, unsigned s)
{
	uint8_t *bounce = frame->page + s * dom->env->granule;

	if (frame->slot[s] & MAP_WRITE)
		sync_collect_last(bounce, pool_twin(dom->env->pool, bounce),
				  slot_hva(&dom->frames, frame->slot[s]), dom->env->granule,
				  dom->env->stats);
}

/* ---- fine shadows: each slot by itself ---- */

static void fine_unmap(struct domain *dom, const struct frame *frame, unsigned first, unsigned nr)
{
	uint64_t g = dom->env->granule, iova = frame->index * dom->env->frame_size;

	for (unsigned s = first; s < first + nr && dom->set.has_fine; s++) {
		if (frame->slot[s])
			shadowset_unmap(&dom->set, SHADOWS_FINE, iova + s * g, g);
	}
}

static int fine_map(struct domain *dom, const struct frame *frame, unsigned first, unsigned nr)
{
	uint64_t g = dom->env->granule, iova = frame->index * dom->env->frame_size;
	int ret;

	for (unsigned s = first; s < first + nr && dom->set.has_fine; s++) {
		if (!is_live(frame->slot[s]))
			continue;
		ret = shadowset_map(&dom->set, SHADOWS_FINE, iova + s * g, frame->page + s * g, g,
				    (unsigned)(frame->slot[s] & SLOT_RIGHTS), &dom->removed);
		if (ret) {
			fine_unmap(dom, frame, first, s - first);
			dom->removed = true;
			return ret;
		}
		dom->added = true;
	}
	return 0;
}

/* Show the live slots of another page; everything was prepared. */
static void fine_replace(struct domain *dom, const struct frame *frame, uint8_t *page)
{
	uint64_t g = dom->env->granule, iova = frame->index * dom->env->frame_size;

	for (unsigned s = 0; s < dom->frames.nr_slots && dom->set.has_fine; s++) {
		if (is_live(frame->slot[s]))
			shadowset_replace(&dom->set, SHADOWS_FINE, iova + s * g, page + s * g,
					  (unsigned)(frame->slot[s] & SLOT_RIGHTS), 0, g - 1);
	}
}

/* ---- windows, and live changes of class ---- */

/* The run of live slots of a frame whose guest pages are one host frame. */
struct window {
	uint8_t *host;
	unsigned prot;
	unsigned first, nr;
};

/* False: the live slots have different rights or host frames, or do not lie side by side. */
static bool find_window(const struct domain *dom, const struct frame *frame, struct window *win)
{
	uint64_t g = dom->env->granule;

	win->nr = 0;
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		frame_slot slot = frame->slot[s];

		if (!is_live(slot))
			continue;
		if (!win->nr) {
			win->host = slot_hva(&dom->frames, slot) - s * g;
			win->prot = (unsigned)(slot & SLOT_RIGHTS);
			win->first = s;
		} else if (s != win->first + win->nr ||
			   slot_hva(&dom->frames, slot) != win->host + s * g ||
			   (slot & SLOT_RIGHTS) != win->prot) {
			return false;
		}
		win->nr++;
	}
	return win->nr && IS_ALIGNED((uintptr_t)win->host, dom->env->frame_size);
}

static void replace_page(struct domain *dom, const struct frame *frame, uint8_t *page,
			 unsigned prot, unsigned first, unsigned nr)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;

	shadowset_replace(&dom->set, SHADOWS_COARSE, frame->index * h, page, prot, first * g,
			  (first + nr) * g - 1);
	dom->removed = true;
}

/* The window of a frame has grown or shrunk to its live slots. */
static void resize_window(struct domain *dom, struct frame *frame, const struct window *win)
{
	replace_page(dom, frame, frame->page, win->prot, win->first, win->nr);
}

/*
 * A live frame whose translation is guest memory becomes bounce; @page is its bounce page. The page
 * holds what the guest's held when it was copied, then every translation is replaced in one step.
 * What devices wrote to the guest's page until the invalidation has ended, and what the CPU wrote,
 * is merged by finish_move(). Slots that are dying leave at once: nothing of theirs is in the
 * bounce page. Return: 0; -errno: nothing has changed.
 */
static int move_to_bounce(struct domain *dom, struct frame *frame, uint8_t *page)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	int ret = shadowset_prepare(&dom->set, SHADOWS_ALL, frame->index * h, page, h);

	if (ret)
		return ret;
	memset(page, 0, h);
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		frame_slot slot = frame->slot[s];

		if (is_live(slot))
			sync_fill(page + s * g, twin_of(dom, slot, page + s * g),
				  slot_hva(&dom->frames, slot), g, dom->env->stats);
	}
	replace_page(dom, frame, page, PROT_DEV_BOTH, 0, dom->frames.nr_slots);
	fine_replace(dom, frame, page);
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		if (!is_live(frame->slot[s]))
			frame->slot[s] = 0;
	}
	if (frame->class == FRAME_WINDOW)
		dom->env->stats->window_live--;
	else
		dom->env->stats->exposed_live--;
	frame_set_class(&dom->frames, frame, FRAME_BOUNCE, page);
	frame_relist(&dom->frames, frame);
	frame->prot = PROT_DEV_BOTH;
	frame->moving = true;
	dom->moving = true;
	dom->env->stats->to_bounce++;
	dom->env->stats->bounce_live++;
	dom->env->stats->bounce_frames++;
	return 0;
}

/*
 * A bounce frame whose last hole has filled becomes direct, if it can: the guest's page gets what
 * devices wrote, then every translation is replaced. The bounce page is kept until what arrives
 * there by a stale translation has been merged by finish_move().
 */
static void move_to_direct_if_possible(struct domain *dom, struct frame *frame)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	struct window win;

	if (!dom->env->promote || !dom->set.can_replace || frame->live != dom->frames.nr_slots ||
	    frame->run != 1 || frame->moving || !find_window(dom, frame, &win))
		return;
	/* Some of it may be a ring: slots do not say how large their mapping is. */
	if (dom->ring_limit && win.prot == PROT_DEV_BOTH)
		return;
	/* Its way back is paid for before it leaves. */
	if (pool_reserve(dom->env->pool))
		return;
	if (shadowset_prepare(&dom->set, SHADOWS_ALL, frame->index * h, win.host, h)) {
		pool_unreserve(dom->env->pool);
		return;
	}
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		uint8_t *bounce = frame->page + s * g;

		if (frame->slot[s] & MAP_WRITE)
			sync_collect(bounce, pool_twin(dom->env->pool, bounce),
				     slot_hva(&dom->frames, frame->slot[s]), g, dom->env->stats);
	}
	replace_page(dom, frame, win.host, win.prot, 0, dom->frames.nr_slots);
	fine_replace(dom, frame, win.host);
	frame_set_class(&dom->frames, frame, FRAME_WINDOW, frame->page);
	frame->prot = win.prot & PROT_DEV_BOTH;
	frame->moving = true;
	dom->moving = true;
	dom->env->stats->to_direct++;
	dom->env->stats->bounce_live--;
	dom->env->stats->window_live++;
	dom->env->stats->window_frames++;
}

/* After the invalidation: nothing is written by the old way any more, so what was is merged. */
static void finish_move(struct domain *dom, struct frame *frame)
{
	uint64_t g = dom->env->granule;
	uint8_t *page = frame->page;

	if (!frame->moving)
		return;
	frame->moving = false;
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		frame_slot slot = frame->slot[s];
		uint8_t *bounce = page + s * g;

		if (!is_live(slot))
			continue;
		if (frame->class == FRAME_BOUNCE)
			sync_to_bounce(bounce, twin_of(dom, slot, bounce),
				       slot_hva(&dom->frames, slot), g, dom->env->stats);
		else if (slot & MAP_WRITE)
			sync_to_direct(slot_hva(&dom->frames, slot),
				       pool_twin(dom->env->pool, bounce), bounce, g,
				       dom->env->stats);
	}
	if (frame->class == FRAME_WINDOW) {
		for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
			if (is_live(frame->slot[s]))
				frame->page = slot_hva(&dom->frames, frame->slot[s]) - s * g;
		}
		give_back(dom, page, 1);
	}
}

/* ---- partly covered frames: MAP ---- */

/* The host frame that @cover's slots are part of if the frame can be guest memory; NULL: it cannot.
 */
static uint8_t *host_frame_of(const struct domain *dom, const struct shape *shape,
			      const struct cover *cover)
{
	return shape->direct ? cover->hva - cover->first * dom->env->granule : NULL;
}

/*
 * An exposed frame takes a neighbour that does not fit it: it must become bounce, and this kind
 * of shadow can only do it by unmapping first. The moment without translation is what
 * exposure=relaxed accepts; it is kept rare by exposing only frames that a mapping mostly fills.
 */
static int unmap_to_bounce(struct domain *dom, struct frame *frame, uint8_t *page)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	unsigned nr_slots = dom->frames.nr_slots;
	uint8_t *host = frame->page;
	int ret;

	fine_unmap(dom, frame, 0, nr_slots);
	unmap_run(dom, frame);
	ret = flush(dom);
	if (ret)
		goto err;
	/* Now no device writes the guest's page: the copy is exact. */
	memset(page, 0, h);
	for (unsigned s = 0; s < nr_slots; s++) {
		frame_slot slot = frame->slot[s];

		if (slot)
			sync_fill(page + s * g, twin_of(dom, slot, page + s * g),
				  slot_hva(&dom->frames, slot), g, dom->env->stats);
	}
	ret = shadowset_map(&dom->set, SHADOWS_COARSE, frame->index * h, page, h, PROT_DEV_BOTH,
			    &dom->removed);
	if (ret)
		goto err;
	dom->added = true;
	frame->page = page;
	ret = fine_map(dom, frame, 0, nr_slots);
	if (ret) {
		unmap_run(dom, frame);
		(void)flush(dom);
		goto err;
	}
	frame_set_class(&dom->frames, frame, FRAME_BOUNCE, page);
	frame_relist(&dom->frames, frame);
	frame->prot = PROT_DEV_BOTH;
	dom->env->stats->reclassified++;
	dom->env->stats->exposed_live--;
	dom->env->stats->bounce_live++;
	dom->env->stats->bounce_frames++;
	return 0;

err:
	/* It was mapped a moment ago: only an instance that is broken refuses now. */
	frame->page = host;
	if (shadowset_map(&dom->set, SHADOWS_COARSE, frame->index * h, host, h, frame->prot,
			  &dom->removed))
		frame->prot = 0;
	(void)fine_map(dom, frame, 0, nr_slots);
	return ret;
}

/* A window or exposed frame that can no longer be one. Return: 0; -errno: it is as it was. */
static int make_bounce(struct domain *dom, struct frame *frame)
{
	bool window = frame->class == FRAME_WINDOW;
	uint32_t rights = 0;
	uint8_t *page;
	size_t got;
	int ret;

	if (!frame->prot)
		return -EIO;
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		if ((frame->slot[s] & SLOT_RIGHTS) == SLOT_RIGHTS)
			rights = SLOT_RIGHTS;
	}
	expect_bounce(dom, rights);
	page = window ? pool_get_reserved(dom->env->pool) : get_pages(dom, 1, &got);
	if (!page)
		return -ENOMEM;
	if (window || dom->set.can_replace)
		ret = move_to_bounce(dom, frame, page);
	else
		ret = unmap_to_bounce(dom, frame, page);
	if (ret && window) {
		/* No device saw it. */
		pool_put(dom->env->pool, page, 1);
		(void)pool_reserve(dom->env->pool);
	} else if (ret) {
		give_back(dom, page, 1);
	}
	return ret;
}

static enum frame_class class_of_new(const struct domain *dom, const struct cover *cover,
				     const uint8_t *host)
{
	if (host && dom->set.can_window)
		return FRAME_WINDOW;
	if (host && dom->relaxed && cover->nr > dom->frames.nr_slots / 2)
		return FRAME_EXPOSED;
	return FRAME_BOUNCE;
}

static void count_new(struct domain *dom, enum frame_class class)
{
	struct mediator_stats *stats = dom->env->stats;

	if (class == FRAME_WINDOW) {
		stats->window_frames++;
		stats->window_live++;
	} else if (class == FRAME_EXPOSED) {
		stats->exposed_frames++;
		stats->exposed_live++;
	} else {
		stats->bounce_frames++;
		stats->bounce_live++;
	}
}

/* What a new frame of this class needs of the pool. */
static int get_backing(struct domain *dom, enum frame_class class, const struct cover *cover,
		       uint8_t *host, uint8_t **page)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	size_t got;

	*page = host;
	if (class == FRAME_WINDOW)
		return reserve_page(dom);
	if (class == FRAME_EXPOSED)
		return 0;
	*page = get_pages(dom, 1, &got);
	if (!*page)
		return -ENOMEM;
	/* Slots that nothing backs must show the device nothing. */
	memset(*page, 0, cover->first * g);
	memset(*page + (cover->first + cover->nr) * g, 0, h - (cover->first + cover->nr) * g);
	return 0;
}

static void put_backing(struct domain *dom, enum frame_class class, uint8_t *page)
{
	if (class == FRAME_WINDOW)
		pool_unreserve(dom->env->pool);
	else if (class == FRAME_BOUNCE)
		give_back(dom, page, 1);
}

static int new_part(struct domain *dom, const struct shape *shape, const struct cover *cover,
		    const struct mapping *map, uint64_t index)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	uint8_t *host = host_frame_of(dom, shape, cover), *page;
	enum frame_class class = class_of_new(dom, cover, host);
	uint64_t first = 0, last = h - 1;
	struct frame *frame;
	int ret;

	if (class == FRAME_BOUNCE)
		expect_bounce(dom, map->flags);
	ret = get_backing(dom, class, cover, host, &page);
	if (ret)
		return ret;
	ret = -ENOMEM;
	frame = frame_add(&dom->frames, index, class, page);
	if (!frame)
		goto err_page;
	frame->run = 1;
	frame->prot = (class == FRAME_BOUNCE ? PROT_DEV_BOTH : rights_of(map)) & 3;
	set_slots(dom, frame, cover, map);
	frame_relist(&dom->frames, frame);
	for (unsigned i = 0; i < cover->nr && class == FRAME_BOUNCE; i++)
		fill_slot(dom, frame, cover->first + i);
	if (class == FRAME_WINDOW) {
		first = cover->first * g;
		last = (cover->first + cover->nr) * g - 1;
	}
	ret = shadowset_map_window(&dom->set, SHADOWS_COARSE, index * h, page, h, frame->prot,
				   first, last, &dom->removed);
	if (ret)
		goto err_frame;
	ret = fine_map(dom, frame, cover->first, cover->nr);
	if (ret)
		goto err_map;
	dom->added = true;
	count_new(dom, class);
	return 0;

err_map:
	unmap_run(dom, frame);
	dom->removed = true;
err_frame:
	if (dom->removed)
		(void)flush(dom);
	frame_del(&dom->frames, frame);
err_page:
	put_backing(dom, class, page);
	return ret;
}

/* A window takes more slots. False: they do not fit it. */
static bool grow_window(struct domain *dom, struct frame *frame, const struct shape *shape,
			const struct cover *cover, const struct mapping *map, int *ret)
{
	struct window win;

	if (!shape->direct)
		return false;
	set_slots(dom, frame, cover, map);
	/* A whole frame needs no bounds, a part of one does. */
	if (!frame->prot || !find_window(dom, frame, &win) ||
	    (win.nr < dom->frames.nr_slots && !dom->set.can_window)) {
		clear_slots(frame, cover);
		return false;
	}
	*ret = fine_map(dom, frame, cover->first, cover->nr);
	if (*ret)
		clear_slots(frame, cover);
	else
		resize_window(dom, frame, &win);
	return true;
}

static bool exposed_fits(const struct domain *dom, const struct frame *frame,
			 const struct shape *shape, const struct cover *cover,
			 const struct mapping *map)
{
	return frame->page == host_frame_of(dom, shape, cover) && frame->prot == rights_of(map);
}

/* Slots join a frame that has a bounce page and is mapped. */
static int join_bounce(struct domain *dom, struct frame *frame, const struct cover *cover,
		       const struct mapping *map)
{
	uint64_t g = dom->env->granule;
	int ret;

	expect_bounce(dom, map->flags);
	set_slots(dom, frame, cover, map);
	for (unsigned i = 0; i < cover->nr; i++)
		fill_slot(dom, frame, cover->first + i);
	ret = fine_map(dom, frame, cover->first, cover->nr);
	if (ret) {
		clear_slots(frame, cover);
		sync_zero(frame->page + cover->first * g, cover->nr * g);
		if (!frame->live)
			retire_run(dom, frame);
		return ret;
	}
	frame_relist(&dom->frames, frame);
	move_to_direct_if_possible(dom, frame);
	return 0;
}

static int map_part(struct domain *dom, const struct shape *shape, const struct mapping *map,
		    uint64_t index)
{
	struct cover cover = cover_of(dom, map, shape->hva, index);
	struct frame *frame = frame_find(&dom->frames, index);
	int ret = 0;

	if (frame && !frame->live && frame->run != 1) {
		clear_run(dom, frame_run_head(&dom->frames, frame));
		frame = NULL;
	}
	if (!frame)
		return new_part(dom, shape, &cover, map, index);
	switch ((enum frame_class)frame->class) {
	case FRAME_PARKED:
		unpark_run(dom, frame);
		dom->env->stats->bounce_live++;
		break;
	case FRAME_QUARANTINED:
		ret = revive_run(dom, frame, PROT_DEV_BOTH);
		if (ret)
			return ret;
		dom->env->stats->bounce_live++;
		break;
	case FRAME_WINDOW:
		if (grow_window(dom, frame, shape, &cover, map, &ret))
			return ret;
		ret = make_bounce(dom, frame);
		break;
	case FRAME_EXPOSED:
		if (exposed_fits(dom, frame, shape, &cover, map)) {
			set_slots(dom, frame, &cover, map);
			ret = fine_map(dom, frame, cover.first, cover.nr);
			if (ret)
				clear_slots(frame, &cover);
			return ret;
		}
		ret = make_bounce(dom, frame);
		break;
	case FRAME_BOUNCE:
		break;
	}
	return ret ? ret : join_bounce(dom, frame, &cover, map);
}

/* ---- partly covered frames: UNMAP ---- */

/* A mapping that goes, and what of it shares frames with others. */
struct doomed {
	struct mapping map;
	struct shape shape;
	/* of each part; NULL: gone before, a window whose slots have all been cleared */
	struct frame *frame[2];
	struct cover cover[2];
};

static void find_parts(const struct domain *dom, struct doomed *d)
{
	for (unsigned i = 0; i < d->shape.nr_parts; i++) {
		d->frame[i] = frame_find(&dom->frames, d->shape.part[i]);
		d->cover[i] = cover_of(dom, &d->map, d->shape.hva, d->shape.part[i]);
	}
}

/* 1: its slots are none any more, as far as others are concerned. */
static void doom_part(struct frame *frame, const struct cover *cover)
{
	for (unsigned i = 0; i < cover->nr; i++)
		frame->slot[cover->first + i] |= SLOT_DYING;
	frame->live = (frame->live - cover->nr) & 0x1f;
}

static void clear_dying(const struct domain *dom, struct frame *frame)
{
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		if (frame->slot[s] & SLOT_DYING)
			frame->slot[s] = 0;
	}
}

/* A window loses slots: what stays may be a smaller window, or must be bounced. */
static void cut_window(struct domain *dom, struct frame *frame)
{
	struct window win;

	if (!frame->live) {
		unmap_run(dom, frame);
		dom->removed = true;
	} else if (frame->prot && dom->set.can_window && find_window(dom, frame, &win)) {
		resize_window(dom, frame, &win);
	} else if (make_bounce(dom, frame)) {
		/* There is a page, and tables; only an instance that cannot pin it refuses. What
		 * stays mapped must not reach what goes, so devices reach nothing of the frame. */
		unmap_run(dom, frame);
		frame->prot = 0;
		dom->removed = true;
	}
	/* Devices wrote guest memory: there is nothing to collect. */
	clear_dying(dom, frame);
}

/* 2, once for each frame: devices are cut off from the slots that go, as far as they can be. */
static void cut_part(struct domain *dom, struct frame *frame)
{
	if (frame->cut)
		return;
	frame->cut = true;
	for (unsigned s = 0; s < dom->frames.nr_slots && dom->set.has_fine; s++) {
		if (frame->slot[s] & SLOT_DYING) {
			fine_unmap(dom, frame, s, 1);
			/* Its rights are the guest's: what is mapped there next may have more. */
			dom->removed = true;
		}
	}
	if (frame->class == FRAME_WINDOW) {
		cut_window(dom, frame);
	} else if (!frame->live &&
		   !(frame->class == FRAME_BOUNCE && can_park(dom, 1, frame->prot))) {
		unmap_run(dom, frame);
		dom->removed |= frame->class != FRAME_BOUNCE || !is_lazy(dom);
	}
}

/* A bounce run whose slots are gone and collected. @flushed: its translation is gone everywhere. */
static void end_run(struct domain *dom, struct frame *head, bool flushed)
{
	dom->env->stats->bounce_live -= head->run;
	if (can_park(dom, head->run, head->prot))
		park_run(dom, head);
	else if (!flushed)
		quarantine_run(dom, head);
	else
		free_run(dom, head);
}

/* 3, after the invalidation: what devices wrote goes to the guest, if it is to; the slots go. */
static void drop_part(struct domain *dom, struct frame *frame, const struct cover *cover,
		      bool collect, bool flushed)
{
	uint64_t g = dom->env->granule;
	bool dying = false, used = false, kept;

	if (!frame)
		return;
	kept = frame->live || !flushed || can_park(dom, 1, frame->prot);
	for (unsigned s = cover->first; s < cover->first + cover->nr; s++) {
		if (frame->class == FRAME_BOUNCE && (frame->slot[s] & SLOT_DYING)) {
			if (collect)
				collect_last(dom, frame, s);
			/* The page lives on, with other slots or other uses of this IOVA: nothing
			 * of this one stays readable. */
			if (kept)
				sync_zero(frame->page + s * g, g);
		}
		if (frame->slot[s] & SLOT_DYING)
			frame->slot[s] = 0;
	}
	finish_move(dom, frame);
	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		dying |= (frame->slot[s] & SLOT_DYING) != 0;
		used |= frame->slot[s] != 0;
	}
	frame->cut &= dying;
	if (used) {
		frame_relist(&dom->frames, frame);
	} else if (frame->class == FRAME_BOUNCE) {
		end_run(dom, frame, flushed);
	} else {
		if (frame->class == FRAME_WINDOW) {
			dom->env->stats->window_live--;
			pool_unreserve(dom->env->pool);
		} else {
			dom->env->stats->exposed_live--;
		}
		frame_del(&dom->frames, frame);
	}
}

/* ---- whole frames of one mapping ---- */

static unsigned prot_of_run(const struct domain *dom, const struct mapping *map, unsigned run)
{
	return can_park(dom, run, PROT_DEV_BOTH) ? PROT_DEV_BOTH : rights_of(map);
}

static void give_run_slots(struct domain *dom, struct frame *head, const struct mapping *map,
			   uint8_t *hva)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule;
	uint64_t index = head->index;
	unsigned nr_slots = dom->frames.nr_slots;

	for (unsigned n = 0; n < head->run; n++) {
		struct frame *frame = n ? frame_find(&dom->frames, index + n) : head;

		frame->live = nr_slots & 0x1f;
		for (unsigned s = 0; s < nr_slots; s++)
			frame->slot[s] = slot_of(&dom->frames, hva + n * h + s * g,
						 map->flags & SLOT_RIGHTS);
		frame_relist(&dom->frames, frame);
	}
	sync_fill(head->page, map->flags & MAP_WRITE ? pool_twin(dom->env->pool, head->page) : NULL,
		  hva, head->run * h, dom->env->stats);
}

/* What devices wrote goes to the guest, if it is to; the slots go. */
static void take_run_slots(struct domain *dom, struct frame *head, bool collect, bool scrub)
{
	uint64_t index = head->index;

	for (unsigned n = 0; n < head->run; n++) {
		struct frame *frame = n ? frame_find(&dom->frames, index + n) : head;

		for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
			if (collect)
				collect_last(dom, frame, s);
			frame->slot[s] = 0;
		}
		frame->live = 0;
	}
	if (scrub)
		sync_zero(head->page, head->run * dom->env->frame_size);
}

static int fine_map_run(struct domain *dom, const struct frame *head)
{
	int ret;

	for (unsigned n = 0; n < head->run && dom->set.has_fine; n++) {
		ret = fine_map(dom, frame_find(&dom->frames, head->index + n), 0,
			       dom->frames.nr_slots);
		if (ret) {
			while (n--)
				fine_unmap(dom, frame_find(&dom->frames, head->index + n), 0,
					   dom->frames.nr_slots);
			dom->removed = true;
			return ret;
		}
	}
	return 0;
}

/* A run of contiguous bounce pages for the frames from @index on. Return: frames done, or -errno.
 */
static int64_t new_run(struct domain *dom, const struct mapping *map, uint8_t *hva, uint64_t index,
		       uint64_t want)
{
	uint64_t h = dom->env->frame_size;
	struct frame *head;
	uint8_t *page;
	size_t got, n;
	int ret = -ENOMEM;

	page = get_pages(dom, MIN(want, FRAME_MAX_RUN), &got);
	if (!page)
		return -ENOMEM;
	for (n = 0; n < got; n++) {
		if (!frame_add(&dom->frames, index + n, FRAME_BOUNCE, page + n * h))
			goto err_frames;
	}
	head = frame_find(&dom->frames, index);
	head->run = got & FRAME_MAX_RUN;
	head->prot = prot_of_run(dom, map, head->run) & PROT_DEV_BOTH;
	give_run_slots(dom, head, map, hva);
	ret = shadowset_map(&dom->set, SHADOWS_COARSE, index * h, page, got * h, head->prot,
			    &dom->removed);
	if (ret)
		goto err_frames;
	ret = fine_map_run(dom, head);
	if (ret) {
		unmap_run(dom, head);
		dom->removed = true;
		goto err_frames;
	}
	dom->added = true;
	dom->env->stats->bounce_frames += got;
	dom->env->stats->bounce_live += got;
	return (int64_t)got;

err_frames:
	if (dom->removed)
		(void)flush(dom);
	while (n--)
		frame_del(&dom->frames, frame_find(&dom->frames, index + n));
	give_back(dom, page, got);
	return ret;
}

/* A run without slots serves again. Return: its frames, or -errno. */
static int64_t reuse_run(struct domain *dom, const struct mapping *map, uint8_t *hva,
			 struct frame *head)
{
	int ret;

	if (head->class == FRAME_PARKED) {
		unpark_run(dom, head);
	} else {
		ret = revive_run(dom, head, prot_of_run(dom, map, head->run));
		if (ret)
			return ret;
	}
	dom->env->stats->bounce_live += head->run;
	give_run_slots(dom, head, map, hva);
	ret = fine_map_run(dom, head);
	if (ret) {
		take_run_slots(dom, head, false, true);
		retire_run(dom, head);
		return ret;
	}
	return head->run;
}

/* How many frames from @index on, at most @max, have no struct frame. */
static uint64_t gap_at(const struct domain *dom, uint64_t index, uint64_t max)
{
	uint64_t nr = 0;

	if (!dom->parked.head && !dom->quarantine.head)
		return max;
	while (nr < max && !frame_find(&dom->frames, index + nr))
		nr++;
	return nr;
}

/* Bounced frames [first, first + nr): devices are cut off, as far as they can be. */
static void cut_runs(struct domain *dom, uint64_t first, uint64_t nr)
{
	for (uint64_t i = 0; i < nr;) {
		const struct frame *head = frame_find(&dom->frames, first + i);

		for (unsigned n = 0; n < head->run && dom->set.has_fine; n++)
			fine_unmap(dom, frame_find(&dom->frames, head->index + n), 0,
				   dom->frames.nr_slots);
		if (!can_park(dom, head->run, head->prot)) {
			unmap_run(dom, head);
			dom->removed |= !is_lazy(dom);
		}
		dom->removed |= dom->set.has_fine;
		i += head->run;
	}
}

static void drop_runs(struct domain *dom, uint64_t first, uint64_t nr, bool collect, bool flushed)
{
	for (uint64_t i = 0; i < nr;) {
		struct frame *head = frame_find(&dom->frames, first + i);
		bool kept = !flushed || can_park(dom, head->run, head->prot);

		i += head->run;
		take_run_slots(dom, head, collect, kept);
		end_run(dom, head, flushed);
	}
}

static int map_body(struct domain *dom, const struct shape *shape, const struct mapping *map)
{
	uint64_t h = dom->env->frame_size, done = 0, gap = 0;
	struct frame *frame;
	uint8_t *hva;
	int64_t n = 0;
	int ret;

	if (!shape->nr_body)
		return 0;
	hva = shape->hva + (shape->body * h - map->start);
	if (shape->direct) {
		clear_frames(dom, shape->body, shape->nr_body);
		ret = shadowset_map(&dom->set, SHADOWS_ALL, shape->body * h, hva,
				    shape->nr_body * h, rights_of(map), &dom->removed);
		if (!ret) {
			dom->added = true;
			dom->env->stats->direct_frames += shape->nr_body;
			dom->env->stats->direct_live += shape->nr_body;
		}
		return ret;
	}
	/* Not found out by copying until the pool is empty, for others wait meanwhile. */
	if (!is_there_room(dom, shape->nr_body))
		return -ENOMEM;
	expect_bounce(dom, map->flags);
	while (done < shape->nr_body) {
		uint64_t index = shape->body + done, left = shape->nr_body - done;

		/* What was free stays so: nobody else adds frames meanwhile. */
		if (!gap)
			gap = gap_at(dom, index, left);
		frame = gap ? NULL : frame_find(&dom->frames, index);
		if (frame && (!frame->run || frame->run > left)) {
			clear_run(dom, frame_run_head(&dom->frames, frame));
			continue;
		}
		n = frame ? reuse_run(dom, map, hva + done * h, frame)
			  : new_run(dom, map, hva + done * h, index, gap);
		if (n < 0)
			break;
		done += (uint64_t)n;
		gap -= frame ? 0 : (uint64_t)n;
	}
	if (n >= 0)
		return 0;
	cut_runs(dom, shape->body, done);
	ret = flush_if_due(dom);
	drop_runs(dom, shape->body, done, false, ret || !is_lazy(dom));
	return (int)n;
}

static void cut_body(struct domain *dom, const struct shape *shape)
{
	if (!shape->nr_body)
		return;
	if (!shape->direct) {
		cut_runs(dom, shape->body, shape->nr_body);
		return;
	}
	shadowset_unmap(&dom->set, SHADOWS_ALL, shape->body * dom->env->frame_size,
			shape->nr_body * dom->env->frame_size);
	dom->removed = true;
}

static void drop_body(struct domain *dom, const struct shape *shape, bool flushed)
{
	if (!shape->nr_body)
		return;
	if (shape->direct)
		dom->env->stats->direct_live -= shape->nr_body;
	else
		drop_runs(dom, shape->body, shape->nr_body, true, flushed);
}

/* ---- requests ---- */

static void finish_moves(struct domain *dom, const struct mapping *map)
{
	struct shape shape;

	if (!dom->moving)
		return;
	find_shape(dom, map, &shape);
	for (unsigned i = 0; i < shape.nr_parts; i++) {
		struct frame *frame = frame_find(&dom->frames, shape.part[i]);

		if (frame)
			finish_move(dom, frame);
	}
}

/* Take the first @nr parts of a mapping that is not to be away again. */
static void undo_parts(struct domain *dom, const struct shape *shape, const struct mapping *map,
		       unsigned nr)
{
	struct doomed d = {.map = *map, .shape = *shape};
	bool flushed;

	find_parts(dom, &d);
	for (unsigned i = 0; i < nr; i++)
		doom_part(d.frame[i], &d.cover[i]);
	for (unsigned i = 0; i < nr; i++)
		cut_part(dom, d.frame[i]);
	flushed = dom->removed;
	(void)flush_if_due(dom);
	for (unsigned i = 0; i < nr; i++)
		drop_part(dom, d.frame[i], &d.cover[i], false, flushed);
}

/* One mapping, up to what devices may not know before an invalidation, and moves not finished. */
static int try_map(struct domain *dom, const struct mapping *map)
{
	struct shape shape;
	unsigned done = 0;
	int ret;

	find_shape(dom, map, &shape);
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
	/* The part that failed may have become bounce before it did, one before it direct: what is
	 * half way must not be taken apart. */
	(void)flush_if_due(dom);
	finish_moves(dom, map);
	undo_parts(dom, &shape, map, done);
	(void)maptree_remove(dom->maps, map->start);
	return ret;
}

/* Memory that is locked is counted for all containers together, so parked frames of other domains
 * go too. Return: were there any? */
static bool trim_all(struct domain *dom)
{
	bool any = dom->parked.head;

	domain_trim(dom);
	for (struct domain *other = dom->env->domains; other; other = other->next) {
		any |= other->parked.head != NULL;
		domain_trim(other);
	}
	return any;
}

/* Does it ask for more bounce pages than there would be without all that is parked? */
static bool never_fits(const struct domain *dom, const struct mapping *map)
{
	struct shape shape;

	find_shape(dom, map, &shape);
	return !shape.direct && !is_there_room(dom, shape.nr_body);
}

/* A host that takes no more mappings, or locks no more memory, counts parked frames too: they are
 * worth less than a request. Once: what is undone may be parked again.
 */
static int map_one(struct domain *dom, const struct mapping *map)
{
	int ret = try_map(dom, map);

	if ((ret != -ENOSPC && ret != -ENOMEM) || never_fits(dom, map) || !trim_all(dom))
		return ret;
	return try_map(dom, map);
}

int domain_map(struct domain *dom, const struct mapping *map)
{
	int ret = map_one(dom, map);

	if (ret)
		return ret;
	ret = flush_if_due(dom);
	finish_moves(dom, map);
	dom->moving = false;
	if (ret)
		(void)domain_unmap(dom, map->start, map->last);
	return ret;
}

int domain_map_list(struct domain *dom, mapping_fn next, void (*rewind)(void *ctx), void *ctx)
{
	struct mapping map, first = {0};
	uint64_t last = 0;
	size_t done = 0;
	int ret = 0, err;

	rewind(ctx);
	while (!ret && next(ctx, &map)) {
		if (!done)
			first = map;
		ret = map_one(dom, &map);
		if (!ret) {
			done++;
			last = map.last;
		}
	}
	err = flush_if_due(dom);
	if (dom->moving)
		rewind(ctx);
	for (size_t i = 0; i < done && dom->moving && next(ctx, &map); i++)
		finish_moves(dom, &map);
	dom->moving = false;
	ret = ret ? ret : err;
	if (ret && done)
		(void)domain_unmap(dom, first.start, last);
	return ret;
}

/* The mapping after @d, in @next; NULL: that was the last one up to @last. */
static struct doomed *next_doomed(const struct domain *dom, uint64_t last, const struct doomed *d,
				  struct doomed *next)
{
	if (d->map.last >= last || !maptree_first(dom->maps, d->map.last + 1, last, &next->map))
		return NULL;
	find_shape(dom, &next->map, &next->shape);
	find_parts(dom, next);
	return next;
}

int domain_unmap(struct domain *dom, uint64_t start, uint64_t last)
{
	struct doomed first, next, *d;
	struct mapping tail;
	bool flushed;
	int ret;

	if (last < start)
		return -ERANGE;
	if (!maptree_first(dom->maps, start, last, &first.map))
		return 0;
	/* What lies across either end is cut by the range. */
	if (first.map.start < start || first.map.last > last)
		return -ERANGE;
	if (first.map.last < last && maptree_first(dom->maps, last, last, &tail) &&
	    tail.last > last)
		return -ERANGE;
	find_shape(dom, &first.map, &first.shape);
	find_parts(dom, &first);

	for (d = &first; d; d = next_doomed(dom, last, d, &next)) {
		for (unsigned i = 0; i < d->shape.nr_parts; i++)
			doom_part(d->frame[i], &d->cover[i]);
	}
	for (d = &first; d; d = next_doomed(dom, last, d, &next)) {
		cut_body(dom, &d->shape);
		for (unsigned i = 0; i < d->shape.nr_parts; i++)
			cut_part(dom, d->frame[i]);
	}
	/* Before anything is copied or reused: what a device wrote to guest memory until now is
	 * there, and what it writes from now on reaches nobody. */
	flushed = dom->removed;
	ret = flush_if_due(dom);
	for (d = &first; d; d = next_doomed(dom, last, d, &next)) {
		drop_body(dom, &d->shape, flushed);
		for (unsigned i = 0; i < d->shape.nr_parts; i++)
			drop_part(dom, d->frame[i], &d->cover[i], true, flushed);
		(void)maptree_remove(dom->maps, d->map.start);
	}
	dom->moving = false;
	flush_quarantine_if_full(dom);
	return ret;
}

/* ---- streams come and go ---- */

/*
 * Every translation of the domain in the units in which it was made: direct bodies, runs of bounced
 * frames, single frames; on a fine shadow single slots. Into one shadow that is empty.
 */
static int replay_frame(struct domain *dom, struct shadowset *one, const struct frame *frame)
{
	uint64_t h = dom->env->frame_size, g = dom->env->granule, iova = frame->index * h;
	uint64_t first = 0, last = frame->run * h - 1;
	struct window win;
	bool exposed;
	int ret = 0;

	if (frame->class == FRAME_QUARANTINED)
		return 0;
	if (frame->class == FRAME_WINDOW && find_window(dom, frame, &win)) {
		first = win.first * g;
		last = (win.first + win.nr) * g - 1;
	}
	if (frame->run && frame->prot)
		ret = shadowset_map_window(one, SHADOWS_COARSE, iova, frame->page, frame->run * h,
					   frame->prot, first, last, &exposed);
	for (unsigned s = 0; s < dom->frames.nr_slots && frame->live && !ret && one->has_fine;
	     s++) {
		if (frame->slot[s])
			ret = shadowset_map(one, SHADOWS_FINE, iova + s * g, frame->page + s * g, g,
					    (unsigned)(frame->slot[s] & SLOT_RIGHTS), &exposed);
	}
	return ret;
}

static int replay_mappings(struct domain *dom, struct shadowset *one)
{
	uint64_t h = dom->env->frame_size, at = 0;
	struct mapping map;
	bool exposed;
	int ret;

	while (maptree_first(dom->maps, at, UINT64_MAX, &map)) {
		struct shape shape;

		find_shape(dom, &map, &shape);
		if (shape.nr_body && shape.direct) {
			ret = shadowset_map(one, SHADOWS_ALL, shape.body * h,
					    shape.hva + (shape.body * h - map.start),
					    shape.nr_body * h, rights_of(&map), &exposed);
			if (ret)
				return ret;
		}
		if (map.last == UINT64_MAX)
			break;
		at = map.last + 1;
	}
	for (const struct frame *frame = frame_walk(&dom->frames, NULL); frame;
	     frame = frame_walk(&dom->frames, frame)) {
		ret = replay_frame(dom, one, frame);
		if (ret)
			return ret;
	}
	return 0;
}

/* Guest RAM at its own address, as far as the instance can reach it. */
static int replay_identity(struct domain *dom, struct shadowset *one, const struct instance *inst)
{
	const struct gmem *gmem = dom->env->gmem;
	uint64_t h = dom->env->frame_size;
	bool exposed;

	for (unsigned s = 0; s < gmem->nr_spans; s++) {
		const struct gmem_span *span = &gmem->spans[s];

		for (unsigned a = 0; a < inst->nr_apertures; a++) {
			uint64_t start = ALIGN_UP(MAX(span->gpa, inst->apertures[a].start), h);
			uint64_t last = MIN(span->gpa + span->len - 1, inst->apertures[a].last);
			int ret;

			if (last < start || last - start + 1 < h)
				continue;
			ret = shadowset_map(
				one, SHADOWS_ALL, start, span->hva + (start - span->gpa),
				ALIGN_DOWN(last - start + 1, h), PROT_DEV_BOTH, &exposed);
			if (ret)
				return ret;
		}
	}
	return 0;
}

/* A shadow comes that cannot do what windows need: those there are become bounce. */
static int give_up_windows(struct domain *dom, bool can_replace, bool can_window)
{
	const struct frame_table *frames = &dom->frames;
	struct frame *frame;
	int ret = 0;

	for (frame = frame_walk(frames, NULL); frame && !ret; frame = frame_walk(frames, frame)) {
		if (frame->class == FRAME_WINDOW &&
		    (!can_replace || (!can_window && frame->live < frames->nr_slots)))
			ret = make_bounce(dom, frame);
	}
	if (flush_if_due(dom))
		ret = -EIO;
	for (frame = frame_walk(frames, NULL); frame; frame = frame_walk(frames, frame))
		finish_move(dom, frame);
	return ret;
}

static int hold_shadow(struct domain *dom, const struct stream *id, struct shadow **out)
{
	struct shadow *shadow = shadowset_find(&dom->set, id->inst, id->sid);
	struct shadowset one;
	int ret;

	if (shadow) {
		shadow->nr_users++;
		*out = shadow;
		return 0;
	}
	ret = id->inst->ops->shadow_create(id->inst, id->sid, &shadow);
	if (ret)
		return ret;
	shadowset_init(&one, dom->set.fine_granule, dom->env->stats);
	(void)shadowset_add(&one, shadow);
	ret = give_up_windows(dom, one.can_replace, one.can_window);
	if (!ret)
		ret = dom->bypass ? replay_identity(dom, &one, id->inst)
				  : replay_mappings(dom, &one);
	if (!ret)
		ret = shadowset_add(&dom->set, shadow);
	if (ret) {
		shadow->ops->destroy(shadow);
		return ret;
	}
	shadow->nr_users = 1;
	*out = shadow;
	return 0;
}

int domain_hold_shadow(struct domain *dom, const struct stream *id, struct shadow **out)
{
	int ret = hold_shadow(dom, id, out);

	/* Parked frames of the domain are replayed like all others, and are worth less. */
	if ((ret != -ENOSPC && ret != -ENOMEM) || !trim_all(dom))
		return ret;
	return hold_shadow(dom, id, out);
}

void domain_drop_shadow(struct domain *dom, struct shadow *shadow)
{
	if (--shadow->nr_users)
		return;
	shadowset_remove(&dom->set, shadow);
	/* Streams that were blocked walk nothing, whether they were invalidated or not. */
	if (dom->set.loose) {
		shadow->next = dom->env->lost;
		dom->env->lost = shadow;
	} else {
		shadow->ops->destroy(shadow);
	}
}

int domain_join(struct domain *dom, struct stream_state *stream)
{
	struct instance *inst = stream->id.inst;
	struct shadow *shadow;
	int ret;

	if (inst->failed)
		return -EIO;
	ret = domain_hold_shadow(dom, &stream->id, &shadow);
	if (ret)
		return ret;
	ret = shadowset_add_stream(&dom->set, inst, stream->id.sid);
	if (ret)
		goto err_shadow;
	ret = inst->ops->enable(inst, stream->id.sid, shadow);
	if (ret)
		goto err_stream;
	stream->domain = dom;
	stream->shadow = shadow;
	return 0;

err_stream:
	dom->env->stats->instance_errors++;
	if (inst->ops->disable(inst, stream->id.sid)) {
		inst->failed = true;
		inst->loose = true;
		dom->set.tainted = true;
		dom->set.loose = true;
	}
	shadowset_remove_stream(&dom->set, inst, stream->id.sid);
err_shadow:
	domain_drop_shadow(dom, shadow);
	return ret;
}

void domain_leave(struct stream_state *stream)
{
	struct domain *dom = stream->domain;
	struct instance *inst = stream->id.inst;
	int ret = inst->ops->disable(inst, stream->id.sid);

	if (ret == -ETIMEDOUT) {
		shadowset_give_up(&dom->set, inst);
		dom->set.loose |= inst->loose;
	} else if (ret) {
		dom->env->stats->instance_errors++;
		inst->failed = true;
		inst->loose = true;
		dom->set.tainted = true;
		dom->set.loose = true;
	}
	shadowset_remove_stream(&dom->set, inst, stream->id.sid);
	domain_drop_shadow(dom, stream->shadow);
	stream->domain = NULL;
	stream->shadow = NULL;
}

/* ---- what an operator can see ---- */

/* Frames, mappings and runs without slots looked at in one go, and the queues of the latter once or
 * twice more: these are no longer than park_limit and quarantine_frames let them be. */
#define LOOK_STEPS 8192

/* The run without slots that comes first at frame @index or above; NULL: there is none. */
static const struct frame *next_idle(const struct domain *dom, uint64_t index, unsigned *steps)
{
	const struct frame_queue *queues[] = {&dom->parked, &dom->quarantine};
	const struct frame *best = NULL;

	for (unsigned q = 0; q < ARRAY_SIZE(queues); q++) {
		for (const struct frame *head = queues[q]->head; head;
		     head = frame_queue_next(&dom->frames, head), (*steps)++) {
			if (head->index + head->run > index && (!best || head->index < best->index))
				best = head;
		}
	}
	return best;
}

static struct stretch see_idle(const struct domain *dom, const struct frame *head, uint64_t at)
{
	return (struct stretch){
		.start = MAX(head->index << dom->env->frame_lg2, at),
		.last = ((head->index + head->run) << dom->env->frame_lg2) - 1,
		.class = head->class == FRAME_PARKED ? STRETCH_PARKED : STRETCH_QUARANTINED,
		.linear = true,
	};
}

static struct stretch see_frame(const struct domain *dom, const struct frame *frame)
{
	static const enum stretch_class classes[] = {[FRAME_BOUNCE] = STRETCH_BOUNCE,
						     [FRAME_EXPOSED] = STRETCH_EXPOSED,
						     [FRAME_WINDOW] = STRETCH_WINDOW};
	uint64_t start = frame->index << dom->env->frame_lg2;
	struct stretch seen = {.start = start,
			       .last = start + (dom->env->frame_size - 1),
			       .class = classes[frame->class],
			       .linear = true};

	for (unsigned s = 0; s < dom->frames.nr_slots; s++) {
		uint64_t iova = start + s * dom->env->granule, gpa;
		unsigned rights = frame->slot[s] & SLOT_RIGHTS;

		if (!frame->slot[s])
			continue;
		gpa = gmem_gpa(dom->env->gmem, slot_hva(&dom->frames, frame->slot[s]));
		if (!seen.slots++) {
			seen.iova = iova;
			seen.gpa = gpa;
			seen.rights = rights;
			continue;
		}
		seen.linear &= gpa - iova == seen.gpa - seen.iova;
		seen.mixed |= rights != seen.rights;
		seen.rights |= rights;
	}
	return seen;
}

/* What is mapped first at @at or above, of a mapping that @map is. False: nothing of it is left. */
static bool see_mapping(const struct domain *dom, const struct mapping *map, uint64_t at,
			struct stretch *out)
{
	unsigned lg2 = dom->env->frame_lg2;
	uint64_t from = MAX(map->start, at), body_last;
	const struct frame *frame;
	struct shape shape;

	find_shape(dom, map, &shape);
	if (!shape.hva) {
		*out = (struct stretch){
			.start = from,
			.last = map->last,
			.iova = from,
			.gpa = map->gpa + (from - map->start),
			.slots = (map->last - from) / dom->env->granule + 1,
			.class = STRETCH_BARE,
			.rights = rights_of(map),
			.linear = true,
		};
		return true;
	}
	body_last = ((shape.body + shape.nr_body) << lg2) - 1;
	if (shape.direct && shape.nr_body && from >= shape.body << lg2 && from <= body_last) {
		*out = (struct stretch){
			.start = from,
			.last = body_last,
			.iova = from,
			.gpa = map->gpa + (from - map->start),
			.slots = (body_last - from) / dom->env->granule + 1,
			.class = STRETCH_DIRECT,
			.rights = rights_of(map),
			.linear = true,
		};
		return true;
	}
	/* None: a window that was cut off, see cut_window(). */
	frame = frame_find(&dom->frames, from >> lg2);
	if (!frame || frame->class > FRAME_WINDOW)
		return false;
	*out = see_frame(dom, frame);
	out->start = MAX(out->start, at);
	return true;
}

size_t domain_look(const struct domain *dom, uint64_t *at, struct stretch *out, size_t max,
		   bool *more)
{
	unsigned lg2 = dom->env->frame_lg2, steps = 0;
	const struct frame *idle = next_idle(dom, *at >> lg2, &steps);
	size_t nr = 0;

	/* Not counted: each call goes on, however long the queues are. */
	steps = 0;
	for (*more = true; steps < LOOK_STEPS; steps++) {
		struct stretch seen;
		struct mapping map;
		bool mapped = maptree_first(dom->maps, *at, UINT64_MAX, &map), found = true;

		if (idle && idle->index + idle->run <= *at >> lg2)
			idle = next_idle(dom, *at >> lg2, &steps);
		if (!mapped && !idle) {
			*more = false;
			return nr;
		}
		if (idle && (!mapped || idle->index << lg2 <= MAX(map.start, *at)))
			seen = see_idle(dom, idle, *at);
		else
			found = see_mapping(dom, &map, *at, &seen);
		if (!found)
			seen.last = MAX(map.start, *at) | (dom->env->frame_size - 1);
		else if (!nr || !stretch_join(&out[nr - 1], &seen, false)) {
			if (nr == max)
				return nr;
			out[nr++] = seen;
		}
		if (seen.last == UINT64_MAX) {
			*more = false;
			return nr;
		}
		*at = seen.last + 1;
	}
	return nr;
}

/* ---- life ---- */

int domain_create(struct domain_env *env, uint32_t id, bool bypass, struct domain **out)
{
	struct domain *dom = iommu_zalloc(sizeof(*dom));
	int ret;

	if (!dom)
		return -ENOMEM;
	dom->env = env;
	dom->id = id;
	dom->bypass = bypass;
	dom->relaxed = true;
	shadowset_init(&dom->set, env->frame_size > env->granule ? env->granule : 0, env->stats);
	ret = maptree_create(&dom->maps);
	if (ret)
		goto err_dom;
	ret = frame_table_init(&dom->frames, (unsigned)(env->frame_size / env->granule),
			       env->ram_base);
	if (ret)
		goto err_maps;
	frame_table_salt(&dom->frames, env->salt);
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
	domain_trim(dom);
	frame_table_fini(&dom->frames);
	maptree_destroy(dom->maps);
	iommu_free(dom);
}
