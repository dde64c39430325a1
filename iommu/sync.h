/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sync - what is copied between guest pages and bounce pages at MAP, at UNMAP and at each sync
 * point.
 *
 * Every writable slot has a twin: the contents both sides last agreed on. What differs from the
 * twin is what a side has changed, and only these bytes travel: by aligned 8-byte stores, or
 * compare-and-swap where only some bytes of a word changed, so that neither a neighbour's byte is
 * overwritten nor a field of up to 8 bytes torn. A read-only slot needs no twin: its truth is the
 * guest's page.
 *
 * Order: read-write slots (rings) are collected before write-only or read-only ones (payload), and
 * payload is applied before rings; inside a slot words are collected from the last to the first and
 * applied from the first to the last. So a valid flag that its writer sets last is never seen
 * before what it covers. Rings are collected as an atomic snapshot: until those up to the last
 * changed one are found the same twice. Ring heads (frame.h) are read first and written last.
 */
#ifndef IOMMU_SYNC_H
#define IOMMU_SYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/frame.h"
#include "iommu/mediator.h"

enum sync_dir {
	SYNC_FOR_DEVICE, /* what the CPU changed goes to the bounce pages */
	SYNC_FOR_CPU,	 /* what the device changed goes to the guest pages */
};

/* How to keep every CPU that runs guest code from doing so; any thread, both return soon. */
struct sync_hold {
	void (*take)(void *ctx);
	void (*release)(void *ctx);
	void *ctx;
};

struct pool;
struct sync_scratch; /* room for one snapshot of changed ring lines, twice */

/**
 * sync_scratch_create
 * @nr_lines: 64-byte lines a snapshot can hold; what exceeds it is synced slot by slot
 * Return: 0; -ENOMEM.
 */
int sync_scratch_create(size_t nr_lines, struct sync_scratch **out);
void sync_scratch_destroy(struct sync_scratch *scratch);

/* sync_fill - MAP: guest page -> bounce page and twin; @len bytes, whole lines of 64, 8-byte
 * aligned everywhere, as for all below. @twin: NULL for a read-only slot. */
void sync_fill(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
	       struct mediator_stats *stats);

/* sync_collect - what a device changed in a writable slot that lives on -> guest page, in order */
void sync_collect(const uint8_t *bounce, uint8_t *twin, uint8_t *guest, size_t len,
		  struct mediator_stats *stats);

/* sync_collect_last - UNMAP: the same for a slot that nobody looks at before the request has been
 * answered: faster, for fields may be torn and the twin is not brought up to date */
void sync_collect_last(const uint8_t *bounce, const uint8_t *twin, uint8_t *guest, size_t len,
		       struct mediator_stats *stats);

/**
 * sync_to_bounce - a live frame changed from direct to bounce: bring what its slot missed
 * @twin: NULL for a read-only slot: the bounce page becomes what the guest's page is
 * @len: as for sync_fill()
 *
 * Bounce page and twin were filled from the guest's page while devices could still write it, then
 * every translation was replaced and invalidated; now devices write the bounce page and the CPU the
 * guest's page, both also during this call. A byte of the guest's page that is no longer the twin's
 * was written meanwhile. It goes to the bounce page unless a device has written there too: that is
 * newer, and the next sync for the CPU (or UNMAP) brings it to the guest. Either way the twin takes
 * the guest's byte, so no later sync for devices undoes a device's write.
 */
void sync_to_bounce(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
		    struct mediator_stats *stats);

/**
 * sync_to_direct - a live frame changed from bounce to direct: bring what its slot missed
 * @twin: NULL for a read-only slot: nothing a device wrote there goes anywhere
 *
 * The slot was collected, then every translation was replaced by the guest's page and invalidated;
 * now CPU and devices write the guest's page, also during this call. A byte of the bounce page that
 * is not the twin's was written after the collect. It goes to the guest's page unless the byte
 * there is no longer the twin's either: that is newer.
 */
void sync_to_direct(uint8_t *guest, uint8_t *twin, const uint8_t *bounce, size_t len,
		    struct mediator_stats *stats);

/* sync_zero - make @len bytes of a bounce page unreadable history; a device may be writing them */
void sync_zero(uint8_t *bounce, size_t len);

/**
 * sync_frames - one sync point for all bounce frames of a domain
 * @granule: bytes of a slot
 * @mode: SYNC_RINGS or SYNC_FULL
 * @hold: NULL: the domain's devices write an entry's valid flag last in time and last in memory;
 *        else last in time only. Then a snapshot of rings is waited for longer, and what changes
 *        in more than one word of the guest's rings changes while CPUs are held.
 */
void sync_frames(struct frame_table *table, const struct pool *pool, size_t granule,
		 enum sync_dir dir, enum sync_mode mode, const struct sync_hold *hold,
		 struct sync_scratch *scratch, struct mediator_stats *stats);

#endif
