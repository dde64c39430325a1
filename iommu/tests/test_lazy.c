/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that puts UNMAPs off, as stock drivers behind Linux's DMA-FQ do, at random: a buffer's
 * memory has a new owner, who writes it, while the device can still reach it; the UNMAPs come
 * later, many together, with the next MAP at the latest. Completions are found by polling a ring,
 * whether an interrupt came or not. Buffers share pages with each other and with what the CPU
 * writes. No byte may be lost, late, or undone.
 *
 * SEED and OPS in the environment choose and prolong a run.
 */
#include "iommu/tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/dart_rig.h"
#include "iommu/tests/fake_instance.h"

#define G	0x1000ull
#define H	0x4000ull
#define RAM	0x802e60000ull
#define RAM_LEN (24 * H)
#define UNIT	(G / 2) /* memory is owned in halves of a page */

#define NR_UNITS     (RAM_LEN / UNIT)
#define RING	     0x9abc0000ull
#define RING_ENTRIES (G / 8)
#define FIRST_UNIT   (2 * H / UNIT) /* the ring is in the first frames of RAM */
#define IOVA	     0x90000000ull
#define NR_IOVAS     256u /* pages */
#define MAX_PAGES    6u
#define NR_BUFFERS   24u

enum machine { LIKE_VFIO, DART, DART_WINDOWS, NR_MACHINES };

struct buffer {
	bool used, done; /* handed to the device; by the device back */
	unsigned unit, nr_units;
	uint64_t iova; /* of the page that unit lies in */
	unsigned nr_pages, nr_iovas;
	uint32_t flags;
};

struct world {
	struct rig_mem mem;
	struct rig_dart dart;
	struct fake_instance fake;
	enum machine machine;
	struct gmem gmem;
	struct mediator *m;
	struct endpoint *ep;
	uint8_t *ram;
	const uint64_t *ring;
	uint64_t random;

	uint8_t want[RAM_LEN]; /* what its owner has last seen or written */
	bool lent[NR_UNITS];   /* to the device */
	struct buffer buffers[NR_BUFFERS];
	enum { FREE, MAPPED, QUEUED } iovas[NR_IOVAS];
	struct {
		unsigned iova, nr_iovas, nr_pages;
	} queue[NR_IOVAS];
	unsigned nr_queued;
	uint64_t tail, head; /* of the ring: the device's, the CPU's */
	uint64_t completed;
};

static uint64_t below(struct world *w, uint64_t limit)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 11) % limit;
}

static void start(struct world *w, enum machine machine, uint64_t seed, uint64_t ring_off)
{
	const struct mediator_cfg cfg = {
		.gmem = &w->gmem,
		.guest_granule = G,
		.pool_limit = 256 * H,
		.max_domains = 1,
		.max_mappings = 1000,
		.doorbell = {1, 0},
		.promote = true,
		.park_limit = 8 * H,
		.quarantine_frames = 4,
		.ring_limit = 4 * H,
		.salt = seed,
	};
	const struct mapping ring = {RING, RING + H - 1, RAM + ring_off, MAP_READ | MAP_WRITE};
	struct stream stream = {&w->fake.inst, 0};
	const struct endpoint_cfg ep = {
		.id = 1,
		.name = "device",
		.streams = &stream,
		.nr_streams = 1,
		.sync = SYNC_FULL,
		.relaxed = seed % 2,
	};

	memset(w, 0, sizeof(*w));
	w->machine = machine;
	w->random = seed * 0x9e3779b97f4a7c15 | 1;
	w->ram = aligned_alloc(H, RAM_LEN);
	memset(w->ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&w->gmem, RAM, RAM_LEN, w->ram), 0);
	assert_int_equal(mediator_create(&cfg, &w->m), 0);
	if (machine == LIKE_VFIO) {
		fake_init(&w->fake, H, 0, 0xffffffff);
	} else {
		rig_dart_init(&w->dart, &w->mem, DART_MODEL_T6000, 14, 0, machine == DART_WINDOWS);
		stream = (struct stream){w->dart.inst, 1};
	}
	assert_int_equal(mediator_add_endpoint(w->m, &ep, &w->ep), 0);
	assert_int_equal(mediator_attach(w->m, 1, 1, false), 0);
	assert_int_equal(mediator_map(w->m, 1, &ring), 0);
}

static void stop(struct world *w)
{
	mediator_destroy(w->m);
	if (w->dart.inst)
		rig_dart_fini(&w->dart);
	rig_mem_fini(&w->mem);
	free(w->ram);
}

/* ---- the device ---- */

static void dma(struct world *w, uint64_t iova, void *buf, size_t len, bool write)
{
	bool ok;

	if (w->machine == LIKE_VFIO)
		ok = write ? fake_dma_write(&w->fake, iova, buf, len)
			   : fake_dma_read(&w->fake, iova, buf, len);
	else
		ok = write ? !dart_model_dma_write(w->dart.model, 1, iova, buf, len)
			   : !dart_model_dma_read(w->dart.model, 1, iova, buf, len);
	assert_true(ok);
}

static uint64_t iova_of_unit(const struct buffer *b, unsigned unit)
{
	return b->iova + (unit / 2 - b->unit / 2) * G + unit % 2 * UNIT;
}

/* A piece of a buffer, some of it as it was. */
static void device_writes(struct world *w, const struct buffer *b)
{
	unsigned unit = b->unit + (unsigned)below(w, b->nr_units);
	uint64_t off = below(w, UNIT), len = 1 + below(w, MIN(UNIT - off, (uint64_t)200));
	uint8_t *want = w->want + unit * UNIT + off;

	for (uint64_t i = 0; i < len; i++)
		want[i] = below(w, 4) ? (uint8_t)below(w, 256) : want[i];
	dma(w, iova_of_unit(b, unit) + off, want, len, true);
}

static void device_reads(struct world *w, const struct buffer *b)
{
	uint8_t seen[UNIT];

	for (unsigned unit = b->unit; unit < b->unit + b->nr_units; unit++) {
		dma(w, iova_of_unit(b, unit), seen, UNIT, false);
		assert_memory_equal(seen, w->want + unit * UNIT, UNIT);
	}
}

static void device_step(struct world *w)
{
	unsigned i = (unsigned)below(w, NR_BUFFERS);
	struct buffer *b = &w->buffers[i];
	uint64_t entry;

	if (!b->used || b->done || w->tail - w->head >= RING_ENTRIES)
		return;
	if (b->flags & MAP_READ)
		device_reads(w, b);
	for (uint64_t n = b->flags & MAP_WRITE ? 1 + below(w, 6) : 0; n; n--)
		device_writes(w, b);
	if (below(w, 2))
		return;
	/* who reads an entry finds out that it is new by its upper half */
	entry = (w->tail / RING_ENTRIES + 1) << 32 | i;
	dma(w, RING + w->tail++ % RING_ENTRIES * 8, &entry, 8, true);
	b->done = true;
}

/* ---- the guest ---- */

static void carry_out_unmaps(struct world *w)
{
	for (unsigned i = 0; i < w->nr_queued; i++) {
		uint64_t start = IOVA + w->queue[i].iova * G;

		assert_int_equal(
			mediator_unmap(w->m, 1, start, start + w->queue[i].nr_pages * G - 1), 0);
		for (unsigned n = 0; n < w->queue[i].nr_iovas; n++)
			w->iovas[w->queue[i].iova + n] = FREE;
	}
	w->nr_queued = 0;
}

static void write_own(struct world *w, unsigned unit)
{
	uint64_t off = below(w, UNIT), len = 1 + below(w, UNIT - off);

	for (uint64_t i = off; i < off + len; i++) {
		w->want[unit * UNIT + i] = (uint8_t)below(w, 256);
		w->ram[unit * UNIT + i] = w->want[unit * UNIT + i];
	}
}

/* Its size rounded up to a power of two and aligned to that, as Linux does. False: none is free. */
static bool get_iovas(struct world *w, struct buffer *b)
{
	unsigned first, n;

	for (b->nr_iovas = 1; b->nr_iovas < b->nr_pages;)
		b->nr_iovas *= 2;
	first = (unsigned)below(w, NR_IOVAS / b->nr_iovas) * b->nr_iovas;
	for (n = 0; n < b->nr_iovas; n++) {
		if (w->iovas[first + n] != FREE)
			return false;
	}
	for (n = 0; n < b->nr_iovas; n++)
		w->iovas[first + n] = MAPPED;
	b->iova = IOVA + first * G;
	return true;
}

static void submit(struct world *w)
{
	static const uint32_t flags[] = {MAP_WRITE, MAP_WRITE, MAP_READ, MAP_READ | MAP_WRITE};
	struct buffer *b = &w->buffers[below(w, NR_BUFFERS)];
	unsigned unit = (unsigned)(FIRST_UNIT + below(w, NR_UNITS - FIRST_UNIT));
	unsigned n, nr = below(w, 3) ? 1 + (unsigned)below(w, 2 * MAX_PAGES - 2) : 1;
	struct mapping map;

	if (b->used || unit + nr > NR_UNITS)
		return;
	for (n = 0; n < nr; n++) {
		if (w->lent[unit + n])
			return;
	}
	*b = (struct buffer){.unit = unit, .nr_units = nr, .flags = flags[below(w, 4)]};
	b->nr_pages = (unit + nr + 1) / 2 - unit / 2;
	if (!get_iovas(w, b))
		return;
	for (n = 0; n < nr; n++) {
		write_own(w, unit + n);
		w->lent[unit + n] = true;
	}
	b->used = true;
	/* It kicks, and the queue is in order. */
	carry_out_unmaps(w);
	map = (struct mapping){b->iova, b->iova + b->nr_pages * G - 1, RAM + unit / 2 * G,
			       b->flags};
	assert_int_equal(mediator_map(w->m, 1, &map), 0);
	endpoint_sync_for_device(w->ep);
}

/* The driver is done with a buffer: its memory is somebody's at once, the UNMAP waits. */
static void release(struct world *w, struct buffer *b)
{
	unsigned page = (unsigned)((b->iova - IOVA) / G);

	if (memcmp(w->ram + b->unit * UNIT, w->want + b->unit * UNIT, b->nr_units * UNIT) != 0)
		fail_msg("machine %d: a buffer's end is seen before its data", w->machine);
	for (unsigned n = 0; n < b->nr_iovas; n++)
		w->iovas[page + n] = QUEUED;
	w->queue[w->nr_queued].iova = page;
	w->queue[w->nr_queued].nr_iovas = b->nr_iovas;
	w->queue[w->nr_queued++].nr_pages = b->nr_pages;
	for (unsigned n = 0; n < b->nr_units; n++) {
		w->lent[b->unit + n] = false;
		if (below(w, 2))
			write_own(w, b->unit + n);
	}
	b->used = false;
}

/* What is in the ring is there; no sync point need have been. Some buffers stay mapped, are written
 * and handed out again. */
static bool poll_ring(struct world *w)
{
	uint64_t entry = __atomic_load_n(w->ring + w->head % RING_ENTRIES, __ATOMIC_ACQUIRE);
	struct buffer *b = &w->buffers[(unsigned)entry];

	if (entry >> 32 != w->head / RING_ENTRIES + 1)
		return false;
	w->head++;
	w->completed++;
	assert_true(b->used && b->done);
	if (below(w, 4)) {
		release(w, b);
		return true;
	}
	if (memcmp(w->ram + b->unit * UNIT, w->want + b->unit * UNIT, b->nr_units * UNIT) != 0)
		fail_msg("machine %d: a completion is seen before its data", w->machine);
	write_own(w, b->unit + (unsigned)below(w, b->nr_units));
	endpoint_sync_for_device(w->ep);
	b->done = false;
	return true;
}

/* The device is stopped, and asked whether it has: no completion tells what it wrote. */
static void reset_device(struct world *w)
{
	endpoint_sync_for_cpu(w->ep);
	while (poll_ring(w))
		;
	for (unsigned i = 0; i < NR_BUFFERS; i++) {
		if (w->buffers[i].used)
			release(w, &w->buffers[i]);
	}
}

static void check_own(const struct world *w)
{
	for (unsigned unit = FIRST_UNIT; unit < NR_UNITS; unit++) {
		if (!w->lent[unit] &&
		    memcmp(w->ram + unit * UNIT, w->want + unit * UNIT, UNIT) != 0)
			fail_msg("machine %d: what the CPU owns was overwritten", w->machine);
	}
}

static void run(enum machine machine, uint64_t seed, unsigned ops)
{
	static struct world world;
	struct world *w = &world;
	uint64_t ring_off = seed % 2 * G; /* in step with its IOVA, or not */
	struct mediator_stats stats;

	start(w, machine, seed, ring_off);
	w->ring = (const uint64_t *)(const void *)(w->ram + ring_off);
	for (unsigned i = 0; i < ops; i++) {
		unsigned unit = (unsigned)(FIRST_UNIT + below(w, NR_UNITS - FIRST_UNIT));

		switch (below(w, 16)) {
		case 0 ... 3:
			submit(w);
			break;
		case 4 ... 8:
			device_step(w);
			break;
		case 9:
			endpoint_sync_for_cpu(w->ep);
			check_own(w);
			break;
		case 10:
			endpoint_sync_for_device(w->ep);
			break;
		case 11:
			if (!below(w, 4))
				carry_out_unmaps(w);
			if (!below(w, 50))
				reset_device(w);
			check_own(w);
			break;
		case 12 ... 13:
			if (!w->lent[unit])
				write_own(w, unit);
			break;
		default:
			(void)poll_ring(w);
			break;
		}
	}
	reset_device(w);
	carry_out_unmaps(w);
	check_own(w);
	mediator_get_stats(w->m, &stats);
	assert_int_equal(stats.conflicts, 0);
	assert_true(w->completed > ops / 100);
	assert_true(stats.bounce_frames > 0);
	stop(w);
}

static void nothing_is_lost_late_or_undone_in_a_lazy_guest(void **state)
{
	const char *seed = getenv("SEED"), *ops = getenv("OPS");
	uint64_t first = seed ? strtoull(seed, NULL, 0) : 1;

	(void)state;
	for (enum machine machine = 0; machine < NR_MACHINES; machine++) {
		for (uint64_t n = 0; n < 4; n++)
			run(machine, first + n, ops ? (unsigned)strtoul(ops, NULL, 0) : 20000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_late_or_undone_in_a_lazy_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
