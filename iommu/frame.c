/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/frame.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

#define INITIAL_BUCKETS 64
#define GOLDEN_RATIO	UINT64_C(0x9e3779b97f4a7c15) /* 2^64 / it: Fibonacci hashing */

static void forget_slabs(struct frame_table *table)
{
	while (table->nr_slabs)
		iommu_free(table->slab[--table->nr_slabs]);
	table->free = 0;
}

int frame_table_init(struct frame_table *table, unsigned nr_slots, uint8_t *base)
{
	memset(table, 0, sizeof(*table));
	table->nr_slots = nr_slots;
	table->base = base;
	table->frame_len =
		ALIGN_UP(sizeof(struct frame) + nr_slots * sizeof(frame_slot), sizeof(uint64_t));
	table->nr_buckets = INITIAL_BUCKETS;
	frame_table_salt(table, 0);
	table->bucket = iommu_zalloc(table->nr_buckets * sizeof(*table->bucket));
	return table->bucket ? 0 : -ENOMEM;
}

void frame_table_salt(struct frame_table *table, uint64_t salt)
{
	table->spread = (GOLDEN_RATIO ^ salt) | 1;
}

void frame_table_fini(struct frame_table *table)
{
	forget_slabs(table);
	iommu_free(table->slab);
	iommu_free(table->bucket);
	iommu_free(table->rings.v);
	iommu_free(table->others.v);
}

size_t frame_table_bytes(const struct frame_table *table)
{
	return table->nr_slabs * (table->frame_len << FRAME_SLAB_LG2) +
	       table->cap_slabs * sizeof(*table->slab) +
	       table->nr_buckets * sizeof(*table->bucket) +
	       (table->rings.cap + table->others.cap) * sizeof(uint32_t);
}

struct frame *frame_walk(const struct frame_table *table, const struct frame *frame)
{
	size_t b = 0;

	if (frame && frame->next)
		return frame_at(table, frame->next);
	if (frame)
		b = (size_t)(frame_bucket(table, frame->index) - table->bucket) + 1;
	while (b < table->nr_buckets && !table->bucket[b])
		b++;
	return b < table->nr_buckets ? frame_at(table, table->bucket[b]) : NULL;
}

/* Longer chains are only slower: without memory the table stays as it is. */
static void grow_buckets(struct frame_table *table)
{
	struct frame_table bigger = *table;

	bigger.nr_buckets = table->nr_buckets * 2;
	bigger.bucket = iommu_zalloc(bigger.nr_buckets * sizeof(*bigger.bucket));
	if (!bigger.bucket)
		return;
	for (size_t i = 0; i < table->nr_buckets; i++) {
		while (table->bucket[i]) {
			struct frame *frame = frame_at(table, table->bucket[i]);
			uint32_t *bucket = frame_bucket(&bigger, frame->index);

			table->bucket[i] = frame->next;
			frame->next = *bucket;
			*bucket = frame->id;
		}
	}
	iommu_free(table->bucket);
	table->bucket = bigger.bucket;
	table->nr_buckets = bigger.nr_buckets;
}

/* Room for @nr things of @size bytes: an eighth more than there is, for many must not cost much. */
static int reserve(void **v, size_t *cap, size_t nr, size_t size)
{
	size_t more = MAX(nr, *cap + *cap / 8 + 16);
	void *bigger;

	if (nr <= *cap)
		return 0;
	bigger = iommu_alloc(more * size);
	if (!bigger)
		return -ENOMEM;
	if (*cap)
		memcpy(bigger, *v, *cap * size);
	iommu_free(*v);
	*v = bigger;
	*cap = more;
	return 0;
}

static int list_reserve(struct frame_list *list, size_t nr)
{
	void *v = list->v;
	int ret = reserve(&v, &list->cap, nr, sizeof(*list->v));

	list->v = v;
	return ret;
}

static void list_push(struct frame_list *list, struct frame *frame)
{
	assert(list->nr < list->cap);
	frame->pos = (uint32_t)list->nr;
	list->v[list->nr++] = frame->id;
}

static void list_remove(const struct frame_table *table, struct frame_list *list,
			const struct frame *frame)
{
	struct frame *moved = frame_at(table, list->v[--list->nr]);

	list->v[frame->pos] = moved->id;
	moved->pos = frame->pos;
}

static void unlist(struct frame_table *table, struct frame *frame)
{
	if (frame->listed)
		list_remove(table, frame->ring ? &table->rings : &table->others, frame);
	frame->listed = false;
}

static void enlist(struct frame_table *table, struct frame *frame, bool ring)
{
	frame->ring = ring;
	frame->listed = true;
	list_push(ring ? &table->rings : &table->others, frame);
}

/* More free frames. Return: 0; -ENOMEM. */
static int add_slab(struct frame_table *table)
{
	void *slabs = table->slab;
	int ret = reserve(&slabs, &table->cap_slabs, table->nr_slabs + 1, sizeof(*table->slab));
	uint8_t *slab;

	table->slab = slabs;
	if (ret)
		return ret;
	slab = iommu_alloc(table->frame_len << FRAME_SLAB_LG2);
	if (!slab)
		return -ENOMEM;
	table->slab[table->nr_slabs++] = slab;
	for (uint32_t i = 1u << FRAME_SLAB_LG2; i; i--) {
		uint32_t id = (uint32_t)((table->nr_slabs - 1) << FRAME_SLAB_LG2) + i;

		frame_at(table, id)->next = table->free;
		table->free = id;
	}
	return 0;
}

struct frame *frame_add(struct frame_table *table, uint64_t index, enum frame_class class,
			uint8_t *page)
{
	struct frame *frame;
	uint32_t *bucket, id;

	/* Either list may one day hold every frame: an exposed one can become bounce, an other a
	 * ring. */
	if (list_reserve(&table->rings, table->nr_frames + 1) ||
	    list_reserve(&table->others, table->nr_frames + 1) || (!table->free && add_slab(table)))
		return NULL;
	if (table->nr_frames >= 2 * table->nr_buckets)
		grow_buckets(table);
	id = table->free;
	frame = frame_at(table, id);
	table->free = frame->next;
	memset(frame, 0, table->frame_len);
	frame->id = id;
	frame->index = index;
	frame->class = class;
	frame->page = page;
	bucket = frame_bucket(table, index);
	frame->next = *bucket;
	*bucket = id;
	table->nr_frames++;
	if (class == FRAME_BOUNCE)
		enlist(table, frame, false);
	return frame;
}

void frame_del(struct frame_table *table, struct frame *frame)
{
	uint32_t *link = frame_bucket(table, frame->index);

	while (*link != frame->id)
		link = &frame_at(table, *link)->next;
	*link = frame->next;
	table->nr_frames--;
	unlist(table, frame);
	/* Who still uses it is to be seen. */
	frame->page = NULL;
	frame->next = table->free;
	table->free = frame->id;
	/* One slab stays, for a guest that maps and unmaps one page all day. */
	if (!table->nr_frames && table->nr_slabs > 1)
		forget_slabs(table);
}

void frame_set_class(struct frame_table *table, struct frame *frame, enum frame_class class,
		     uint8_t *page)
{
	if (class != FRAME_BOUNCE)
		unlist(table, frame);
	frame->class = class;
	frame->page = page;
}

void frame_relist(struct frame_table *table, struct frame *frame)
{
	bool ring = false;

	for (unsigned i = 0; i < table->nr_slots; i++)
		ring |= (frame->slot[i] & SLOT_RIGHTS) == SLOT_RIGHTS;
	if (frame->class != FRAME_BOUNCE || (frame->listed && ring == frame->ring))
		return;
	unlist(table, frame);
	enlist(table, frame, ring);
}

struct frame *frame_run_head(const struct frame_table *table, struct frame *frame)
{
	/* Runs are short where this is asked, see PARK_MAX_RUN. */
	for (uint64_t index = frame->index; !frame->run;)
		frame = frame_find(table, --index);
	return frame;
}

/* A frame without slots has room for two ids in them. */
static struct frame *frame_or_null(const struct frame_table *table, uint32_t id)
{
	return id ? frame_at(table, id) : NULL;
}

struct frame *frame_queue_next(const struct frame_table *table, const struct frame *frame)
{
	return frame_or_null(table, frame->slot[1]);
}

void frame_queue_push(struct frame_queue *queue, struct frame *frame)
{
	frame->slot[0] = queue->tail ? queue->tail->id : 0;
	frame->slot[1] = 0;
	if (queue->tail)
		queue->tail->slot[1] = frame->id;
	else
		queue->head = frame;
	queue->tail = frame;
	queue->nr += frame->run;
}

void frame_queue_drop(const struct frame_table *table, struct frame_queue *queue,
		      struct frame *frame)
{
	struct frame *prev = frame_or_null(table, frame->slot[0]);
	struct frame *next = frame_or_null(table, frame->slot[1]);

	if (prev)
		prev->slot[1] = frame->slot[1];
	else
		queue->head = next;
	if (next)
		next->slot[0] = frame->slot[0];
	else
		queue->tail = prev;
	queue->nr -= frame->run;
	frame->slot[0] = 0;
	frame->slot[1] = 0;
}

/* The front of "rings" is kept in order of use; behind it nothing is. */
#define RING_FRONT 32

static void list_place(const struct frame_table *table, struct frame_list *list, size_t pos,
		       uint32_t id)
{
	list->v[pos] = id;
	frame_at(table, id)->pos = (uint32_t)pos;
}

void frame_to_front(struct frame_table *table, struct frame *frame)
{
	struct frame_list *rings = &table->rings;
	size_t pos = frame->pos;

	if (pos >= RING_FRONT) {
		list_place(table, rings, pos, rings->v[RING_FRONT - 1]);
		pos = RING_FRONT - 1;
	}
	for (; pos; pos--)
		list_place(table, rings, pos, rings->v[pos - 1]);
	list_place(table, rings, 0, frame->id);
}
