/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame - the shadow frames of one domain that are not simply direct: their class, their page, and
 * the guest page behind each slot.
 *
 * A frame is found by its index (iova / frame size). Every bounce frame also stands in one of two
 * dense arrays, so that a sync visits only what it must: "rings" (at least one read-write slot) and
 * "others". One thread at a time: the mediator holds its lock.
 *
 * Frames that were mapped as one stay one: a run, whose first frame says how long it is.
 */
#ifndef IOMMU_FRAME_H
#define IOMMU_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_class {
	FRAME_BOUNCE,  /* page is a bounce page */
	FRAME_EXPOSED, /* page is the host frame of guest RAM, whole though not all is mapped */
	FRAME_WINDOW,  /* page is the host frame; devices reach the mapped run of slots, which may
			  be all of it */
	FRAME_PARKED,  /* page is a bounce page, still mapped, all zero, with no slot */
	FRAME_QUARANTINED, /* page is a bounce page, unmapped, devices may still remember it */
};

/* A slot: which 4 KiB page of the host the guest page starts at, counted from frame_table.base,
 * above MAP_READ | MAP_WRITE; 0 when nothing is mapped there. Half a pointer, so that a frame is 48
 * bytes and 64 with its share of lists and buckets. */
typedef uint32_t frame_slot;

#define SLOT_RIGHTS   ((frame_slot)3)
#define SLOT_DYING    ((frame_slot)4) /* being unmapped: not counted as live any more */
#define SLOT_PAGE_LG2 3
/* Guest RAM lies within as many bytes of host addresses: 2 TiB. */
#define SLOT_REACH    (UINT64_C(4096) << (32 - SLOT_PAGE_LG2))

#define FRAME_MAX_SLOTS 16 /* 64 KiB frame, 4 KiB slots */

struct frame {
	uint64_t index; /* iova / frame size */
	uint8_t *page;
	uint32_t id;	   /* of this record */
	uint32_t next;	   /* id of the next in the hash chain, or of the free ones; 0: none */
	uint32_t pos;	   /* in its list; bounce only */
	uint32_t run : 12; /* frames of the run that starts here; 0: it starts before */
	uint32_t class : 3;
	uint32_t prot : 2;   /* what coarse shadows map it with, PROT_DEV_*; of the whole run */
	uint32_t listed : 1; /* stands in a list */
	uint32_t ring : 1;   /* in rings, not in others */
	uint32_t live : 5;   /* slots in use */
	uint32_t cut : 1;    /* an UNMAP under way has dealt with its translation */
	uint32_t moving : 1; /* its class was changed, what changed meanwhile is not merged yet */
	frame_slot slot[]; /* frame size / guest granule of them; parked and quarantined frames keep
			      their place in a frame_queue here */
};

#define FRAME_MAX_RUN ((1u << 12) - 1)

/* First frames of runs without slots, oldest first. */
struct frame_queue {
	struct frame *head, *tail;
	size_t nr; /* frames, all of each run counted */
};

struct frame_list {
	uint32_t *v; /* ids */
	size_t nr, cap;
};

/*
 * A word that tells of all the rest of a ring: flags in its low half, how far the ring is filled in
 * its high one, as in both parts of a virtio split ring. What it tells of has no fixed place beside
 * it, so a sync reads it before everything else and writes it after everything else. The flags ask
 * the other side to be quiet, which is only right where both see each other's last word: they
 * travel in no direction, and are 0 on the far side.
 */
typedef uint32_t __attribute__((may_alias)) head_word;

struct ring_head {
	uint64_t iova; /* a multiple of 4 */
	bool live;
	bool by_device; /* the device writes it; else the CPU */
	/* During a sync. */
	head_word *guest, *bounce; /* NULL: it is in no read-write slot of a bounce frame */
	uint16_t seen;
};

#define RING_HEADS_MAX 128u

/* Those of one endpoint. */
struct ring_heads {
	struct ring_heads *next; /* in the same domain */
	unsigned nr;		 /* of v, not all of them live */
	struct ring_head v[RING_HEADS_MAX];
};

#define FRAME_SLAB_LG2 6 /* frames allocated together */

struct frame_table {
	unsigned nr_slots; /* per frame */
	uint8_t *base;	   /* of slots: no guest page lies below it */
	size_t frame_len;  /* bytes of one */
	uint8_t **slab;
	size_t nr_slabs, cap_slabs;
	uint32_t free;	   /* id of a free frame; 0: none */
	uint32_t *bucket;  /* ids */
	size_t nr_buckets; /* a power of two */
	uint64_t spread;   /* odd: what an index is multiplied by to find its bucket */
	size_t nr_frames;  /* of all classes */
	struct frame_list rings, others;
	struct ring_heads *heads; /* NULL: none */
};

/**
 * frame_table_init
 * @base: guest RAM lies in the SLOT_REACH bytes of host memory from here on
 * Return: 0; -ENOMEM.
 */
int frame_table_init(struct frame_table *table, unsigned nr_slots, uint8_t *base);
/* frame_table_salt - find frames in a way that only who knows @salt can foretell; the table is
 * empty
 */
void frame_table_salt(struct frame_table *table, uint64_t salt);
void frame_table_fini(struct frame_table *table); /* frees frames that are left; not their pages */

/* frame_table_bytes - of memory it holds */
size_t frame_table_bytes(const struct frame_table *table);

static inline frame_slot slot_of(const struct frame_table *table, const uint8_t *hva,
				 unsigned rights)
{
	return (frame_slot)((uint64_t)(hva - table->base) >> 12 << SLOT_PAGE_LG2) | rights;
}

static inline uint8_t *slot_hva(const struct frame_table *table, frame_slot slot)
{
	return table->base + ((uint64_t)(slot >> SLOT_PAGE_LG2) << 12);
}

/* frame_at - a frame by its id, which is not 0 */
static inline struct frame *frame_at(const struct frame_table *table, uint32_t id)
{
	uint32_t i = id - 1;

	return (struct frame *)(table->slab[i >> FRAME_SLAB_LG2] +
				(i & ((1u << FRAME_SLAB_LG2) - 1)) * table->frame_len);
}

/* frame_walk - every frame of the table: NULL gives the first, a frame the next; NULL: no more. No
 * frame may come or go meanwhile. */
struct frame *frame_walk(const struct frame_table *table, const struct frame *frame);

/* frame_bucket - where the chain of @index starts */
static inline uint32_t *frame_bucket(const struct frame_table *table, uint64_t index)
{
	/* Neighbours spread. IOVAs are the guest's to choose: only a salt keeps it from choosing
	 * those that share a bucket. */
	uint64_t hash = index * table->spread;

	return &table->bucket[(hash >> 32) & (table->nr_buckets - 1)];
}

/* frame_find - NULL if there is none */
static inline struct frame *frame_find(const struct frame_table *table, uint64_t index)
{
	for (uint32_t id = *frame_bucket(table, index); id;) {
		struct frame *frame = frame_at(table, id);

		if (frame->index == index)
			return frame;
		id = frame->next;
	}
	return NULL;
}

/**
 * frame_add - a new frame with no slot, in the table and, for bounce, in "others"
 * Return: NULL without memory; everything that later list moves need is set aside here.
 */
struct frame *frame_add(struct frame_table *table, uint64_t index, enum frame_class class,
			uint8_t *page);

/* frame_del - out of the table and its list, freed */
void frame_del(struct frame_table *table, struct frame *frame);

/* frame_set_class - a new class and page; one that is not bounce leaves its list, one that becomes
 * bounce is in none before frame_relist(); cannot fail */
void frame_set_class(struct frame_table *table, struct frame *frame, enum frame_class class,
		     uint8_t *page);

/* frame_relist - put a bounce frame into the list its slots ask for; others into none */
void frame_relist(struct frame_table *table, struct frame *frame);

/* frame_run_head - the first frame of the run that @frame belongs to */
struct frame *frame_run_head(const struct frame_table *table, struct frame *frame);

/* frame_queue_push - at the tail; frame_queue_drop - from anywhere in it. First frames of runs
 * without slots only; frames have at least two slots. */
void frame_queue_push(struct frame_queue *queue, struct frame *frame);
void frame_queue_drop(const struct frame_table *table, struct frame_queue *queue,
		      struct frame *frame);
/* frame_queue_next - the one after @frame, NULL: the last */
struct frame *frame_queue_next(const struct frame_table *table, const struct frame *frame);

/* frame_to_front - a frame of "rings" is likely to be wanted again soon: let it stand before those
 * that have not been for longer. Moves a bounded number of others by one place. */
void frame_to_front(struct frame_table *table, struct frame *frame);

#endif
