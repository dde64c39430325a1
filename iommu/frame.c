/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/frame.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

#define INITIAL_BUCKETS 64

int frame_table_init(struct frame_table *table, unsigned nr_slots)
{
	memset(table, 0, sizeof(*table));
	table->nr_slots = nr_slots;
	table->nr_buckets = INITIAL_BUCKETS;
	table->bucket = iommu_zalloc(table->nr_buckets * sizeof(*table->bucket));
	return table->bucket ? 0 : -ENOMEM;
}

void frame_table_fini(struct frame_table *table)
{
	for (size_t i = 0; i < table->nr_buckets; i++) {
		while (table->bucket[i]) {
			struct frame *frame = table->bucket[i];

			table->bucket[i] = frame->next;
			iommu_free(frame);
		}
	}
	iommu_free(table->bucket);
	iommu_free(table->rings.v);
	iommu_free(table->others.v);
}

static struct frame **bucket_of(const struct frame_table *table, uint64_t index)
{
	/* Fibonacci hashing: neighbours spread, and a guest gains nothing from choosing IOVAs. */
	uint64_t hash = index * UINT64_C(0x9e3779b97f4a7c15);

	return &table->bucket[(hash >> 32) & (table->nr_buckets - 1)];
}

struct frame *frame_find(const struct frame_table *table, uint64_t index)
{
	struct frame *frame = *bucket_of(table, index);

	while (frame && frame->index != index)
		frame = frame->next;
	return frame;
}

/* Longer chains are only slower: without memory the table stays as it is. */
static void grow_buckets(struct frame_table *table)
{
	struct frame_table bigger = {.nr_buckets = table->nr_buckets * 2};

	bigger.bucket = iommu_zalloc(bigger.nr_buckets * sizeof(*bigger.bucket));
	if (!bigger.bucket)
		return;
	for (size_t i = 0; i < table->nr_buckets; i++) {
		while (table->bucket[i]) {
			struct frame *frame = table->bucket[i];
			struct frame **bucket = bucket_of(&bigger, frame->index);

			table->bucket[i] = frame->next;
			frame->next = *bucket;
			*bucket = frame;
		}
	}
	iommu_free(table->bucket);
	table->bucket = bigger.bucket;
	table->nr_buckets = bigger.nr_buckets;
}

static int list_reserve(struct frame_list *list, size_t cap)
{
	struct frame **v;

	if (list->cap >= cap)
		return 0;
	cap = MAX(cap, list->cap * 2);
	cap = MAX(cap, 16u);
	v = iommu_alloc(cap * sizeof(*v));
	if (!v)
		return -ENOMEM;
	if (list->nr)
		memcpy(v, list->v, list->nr * sizeof(*v));
	iommu_free(list->v);
	list->v = v;
	list->cap = cap;
	return 0;
}

static void list_push(struct frame_list *list, struct frame *frame)
{
	assert(list->nr < list->cap);
	frame->pos = (uint32_t)list->nr;
	list->v[list->nr++] = frame;
}

static void list_remove(struct frame_list *list, struct frame *frame)
{
	struct frame *moved = list->v[--list->nr];

	list->v[frame->pos] = moved;
	moved->pos = frame->pos;
}

struct frame *frame_add(struct frame_table *table, uint64_t index, enum frame_class class,
			uint8_t *page)
{
	struct frame *frame;
	struct frame **bucket;

	/* Either list may one day hold every frame: an exposed one can become bounce, an other a
	 * ring. */
	if (list_reserve(&table->rings, table->nr_frames + 1) ||
	    list_reserve(&table->others, table->nr_frames + 1))
		return NULL;
	frame = iommu_zalloc(sizeof(*frame) + table->nr_slots * sizeof(frame->slot[0]));
	if (!frame)
		return NULL;
	if (table->nr_frames >= 2 * table->nr_buckets)
		grow_buckets(table);
	frame->index = index;
	frame->class = class;
	frame->page = page;
	bucket = bucket_of(table, index);
	frame->next = *bucket;
	*bucket = frame;
	table->nr_frames++;
	if (class == FRAME_BOUNCE)
		list_push(&table->others, frame);
	return frame;
}

void frame_del(struct frame_table *table, struct frame *frame)
{
	struct frame **link = bucket_of(table, frame->index);

	while (*link != frame)
		link = &(*link)->next;
	*link = frame->next;
	table->nr_frames--;
	if (frame->class == FRAME_BOUNCE)
		list_remove(frame->ring ? &table->rings : &table->others, frame);
	iommu_free(frame);
}

void frame_set_class(struct frame_table *table, struct frame *frame, enum frame_class class,
		     uint8_t *page)
{
	if (frame->class == FRAME_BOUNCE && class != FRAME_BOUNCE) {
		list_remove(frame->ring ? &table->rings : &table->others, frame);
		frame->ring = false;
	} else if (frame->class != FRAME_BOUNCE && class == FRAME_BOUNCE) {
		list_push(&table->others, frame);
	}
	frame->class = class;
	frame->page = page;
}

void frame_relist(struct frame_table *table, struct frame *frame)
{
	bool ring = false;

	for (unsigned i = 0; i < table->nr_slots; i++)
		ring |= (frame->slot[i] & SLOT_RIGHTS) == SLOT_RIGHTS;
	if (frame->class != FRAME_BOUNCE || ring == frame->ring)
		return;
	list_remove(frame->ring ? &table->rings : &table->others, frame);
	frame->ring = ring;
	list_push(ring ? &table->rings : &table->others, frame);
}

struct frame *frame_run_head(const struct frame_table *table, struct frame *frame)
{
	/* Runs are short where this is asked, see PARK_MAX_RUN. */
	for (uint64_t index = frame->index; !frame->run;)
		frame = frame_find(table, --index);
	return frame;
}

/* A frame without slots has room for two pointers in them. */
static struct frame *queue_prev(const struct frame *frame)
{
	return (struct frame *)frame->slot[0];
}

struct frame *frame_queue_next(const struct frame *frame)
{
	return (struct frame *)frame->slot[1];
}

void frame_queue_push(struct frame_queue *queue, struct frame *frame)
{
	frame->slot[0] = (frame_slot)queue->tail;
	frame->slot[1] = 0;
	if (queue->tail)
		queue->tail->slot[1] = (frame_slot)frame;
	else
		queue->head = frame;
	queue->tail = frame;
	queue->nr += frame->run;
}

void frame_queue_drop(struct frame_queue *queue, struct frame *frame)
{
	struct frame *prev = queue_prev(frame), *next = frame_queue_next(frame);

	if (prev)
		prev->slot[1] = (frame_slot)next;
	else
		queue->head = next;
	if (next)
		next->slot[0] = (frame_slot)prev;
	else
		queue->tail = prev;
	queue->nr -= frame->run;
	frame->slot[0] = 0;
	frame->slot[1] = 0;
}

/* The front of "rings" is kept in order of use; behind it nothing is. */
#define RING_FRONT 32

static void list_place(struct frame_list *list, size_t pos, struct frame *frame)
{
	list->v[pos] = frame;
	frame->pos = (uint32_t)pos;
}

void frame_to_front(struct frame_table *table, struct frame *frame)
{
	struct frame_list *rings = &table->rings;
	size_t pos = frame->pos;

	if (pos >= RING_FRONT) {
		list_place(rings, pos, rings->v[RING_FRONT - 1]);
		pos = RING_FRONT - 1;
	}
	for (; pos; pos--)
		list_place(rings, pos, rings->v[pos - 1]);
	list_place(rings, 0, frame);
}
