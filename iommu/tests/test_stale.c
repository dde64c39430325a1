/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A domain on instances that remember every translation until they are told to forget, and nothing
 * else: an access goes where the first one went, as often as hardware may do it. What DARTs hide,
 * for they need an invalidation for each MAP anyway, is seen here.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/mediator.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x40000000ull
#define RAM_LEN	 (16 * H)
#define NR_PAGES 64u /* of an IOVA space, in granules of 4 KiB */
#define NR_SIDS	 2u

enum { RW = MAP_READ | MAP_WRITE, RO = MAP_READ, WO = MAP_WRITE };

struct entry {
	uint8_t *hva; /* NULL: not mapped, or not remembered */
	unsigned prot;
	unsigned first, end; /* bytes that can be reached */
};

struct mem_inst;

struct table {
	struct shadow shadow;
	struct mem_inst *inst;
	bool destroyed;
	struct entry e[NR_PAGES]; /* at every granule */
};

struct mem_inst {
	struct instance inst;
	struct table *walks[NR_SIDS];
	struct entry tlb[NR_SIDS][NR_PAGES];
	bool asked;
	bool no_windows, fail_disable, fail_wait;
	unsigned fail_map, fail_enable; /* the nth from now on */
};

static struct mem_inst *to_mem(const struct instance *inst)
{
	return container_of(inst, struct mem_inst, inst);
}

static struct table *to_table(const struct shadow *shadow)
{
	return container_of(shadow, struct table, shadow);
}

static int mem_map_window(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
			  uint64_t first, uint64_t last)
{
	struct table *t = to_table(shadow);

	if (t->inst->fail_map && !--t->inst->fail_map)
		return -ENOMEM;
	for (uint64_t at = 0; at < shadow->granule; at += G) {
		struct entry *e = &t->e[(iova + at) / G];

		assert_null(e->hva);
		*e = (struct entry){(uint8_t *)hva + at, prot, 0, 0};
		e->first = (unsigned)MIN(first > at ? first - at : 0, G);
		e->end = (unsigned)MIN(last + 1 > at ? last + 1 - at : 0, G);
	}
	return 0;
}

static int mem_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	for (uint64_t at = 0; at < len; at += shadow->granule) {
		int ret = mem_map_window(shadow, iova + at, (uint8_t *)hva + at, prot, 0,
					 shadow->granule - 1);

		if (ret) {
			shadow->ops->unmap(shadow, iova, at);
			return ret;
		}
	}
	return 0;
}

static void mem_unmap(struct shadow *shadow, uint64_t iova, uint64_t len)
{
	for (uint64_t at = 0; at < len; at += G) {
		assert_non_null(to_table(shadow)->e[(iova + at) / G].hva);
		to_table(shadow)->e[(iova + at) / G].hva = NULL;
	}
}

static void mem_replace(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
			uint64_t first, uint64_t last)
{
	mem_unmap(shadow, iova, shadow->granule);
	assert_int_equal(mem_map_window(shadow, iova, hva, prot, first, last), 0);
}

static void mem_destroy(struct shadow *shadow)
{
	struct table *t = to_table(shadow);

	/* nobody walks a table that is gone; it is kept for the one who does */
	for (unsigned sid = 0; sid < NR_SIDS; sid++)
		assert_ptr_not_equal(t->inst->walks[sid], t);
	free(t);
}

static const struct shadow_ops mem_shadow_ops = {
	.map = mem_map,
	.unmap = mem_unmap,
	.replace = mem_replace,
	.map_window = mem_map_window,
	.destroy = mem_destroy,
};

static int mem_shadow_create(struct instance *inst, uint32_t sid, struct shadow **out)
{
	struct table *t = calloc(1, sizeof(*t));

	(void)sid;
	t->inst = to_mem(inst);
	t->shadow.ops = &mem_shadow_ops;
	t->shadow.granule = inst->granule;
	t->shadow.can_replace = true;
	t->shadow.can_window = inst->granule == H && !t->inst->no_windows;
	*out = &t->shadow;
	return 0;
}

static bool mem_shadow_fits(const struct instance *inst, uint32_t sid, const struct shadow *shadow)
{
	(void)sid;
	return shadow->ops == &mem_shadow_ops && to_table(shadow)->inst == to_mem(inst);
}

static int mem_enable(struct instance *inst, uint32_t sid, struct shadow *shadow)
{
	struct mem_inst *mem = to_mem(inst);

	if (mem->fail_enable && !--mem->fail_enable) {
		if (mem->fail_disable) /* it was let in, but not by all that it takes */
			mem->walks[sid] = to_table(shadow);
		return -EIO;
	}
	mem->walks[sid] = to_table(shadow);
	memset(mem->tlb[sid], 0, sizeof(mem->tlb[sid]));
	return 0;
}

static int mem_disable(struct instance *inst, uint32_t sid)
{
	if (to_mem(inst)->fail_disable && to_mem(inst)->walks[sid])
		return -EIO;
	to_mem(inst)->walks[sid] = NULL;
	return 0;
}

static void mem_invalidate_start(struct instance *inst, const struct stream_set *streams)
{
	(void)streams;
	to_mem(inst)->asked = true;
}

static int mem_invalidate_wait(struct instance *inst)
{
	struct mem_inst *mem = to_mem(inst);

	if (mem->fail_wait)
		return -ETIMEDOUT;
	if (mem->asked)
		memset(mem->tlb, 0, sizeof(mem->tlb));
	mem->asked = false;
	return 0;
}

static const struct instance_ops mem_ops = {
	.shadow_create = mem_shadow_create,
	.shadow_fits = mem_shadow_fits,
	.enable = mem_enable,
	.disable = mem_disable,
	.invalidate_start = mem_invalidate_start,
	.invalidate_wait = mem_invalidate_wait,
};

/* Where an access goes, and is remembered to go. NULL: a fault. */
static uint8_t *reach(struct mem_inst *mem, uint32_t sid, uint64_t iova, unsigned prot)
{
	struct entry *known = &mem->tlb[sid][iova / G];
	unsigned offset = iova % G;

	if (!mem->walks[sid])
		return NULL;
	if (!known->hva)
		*known = mem->walks[sid]->e[iova / G];
	if (!known->hva || (known->prot & prot) != prot || offset < known->first ||
	    offset >= known->end)
		return NULL;
	return known->hva + offset;
}

/* ---- fixture ---- */

struct fixture {
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct mem_inst inst[2];
	struct endpoint *ep[3];
};

static void init_instance(struct mem_inst *mem, uint64_t granule)
{
	mem->inst.ops = &mem_ops;
	mem->inst.name = "remembering";
	mem->inst.granule = granule;
	mem->inst.nr_streams = NR_SIDS;
	mem->inst.nr_apertures = 1;
	mem->inst.apertures[0] = (struct iova_range){0, NR_PAGES * G - 1};
}

static void add_endpoint(struct fixture *fx, unsigned i, const struct stream *streams, unsigned nr,
			 bool relaxed)
{
	const struct endpoint_cfg cfg = {
		.id = i,
		.name = "device",
		.streams = streams,
		.nr_streams = nr,
		.sync = SYNC_FULL,
		.relaxed = relaxed,
	};

	assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[i]), 0);
}

static struct fixture *make(void **state, bool parking)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	const struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = G,
		.pool_limit = 16 * H, /* with twins: 8 pages */
		.park_limit = parking ? 16 * H : 0,
		.quarantine_frames = 16,
		.max_domains = 4,
		.max_mappings = 64,
		.doorbell = {1, 0},
	};

	fx->ram = aligned_alloc(H, RAM_LEN);
	memset(fx->ram, 0x55, RAM_LEN);
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	*state = fx;
	return fx;
}

static void add_two(struct fixture *fx, uint64_t granule, bool relaxed)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct stream stream = {&fx->inst[i].inst, 0};

		init_instance(&fx->inst[i], i ? granule : H);
		fx->inst[i].no_windows = relaxed;
		add_endpoint(fx, i, &stream, 1, relaxed);
	}
}

static int setup(void **state)
{
	add_two(make(state, false), H, false);
	return 0;
}

static int setup_parking(void **state)
{
	add_two(make(state, true), H, false);
	return 0;
}

/* Endpoint 1's instance shows each slot by itself. */
static int setup_fine(void **state)
{
	add_two(make(state, false), G, false);
	return 0;
}

static int setup_relaxed(void **state)
{
	add_two(make(state, false), H, true);
	return 0;
}

/* Endpoint 2 is another stream of endpoint 1's instance. */
static int setup_three(void **state)
{
	struct fixture *fx = make(state, false);
	const struct stream stream = {&fx->inst[1].inst, 1};

	add_two(fx, H, false);
	add_endpoint(fx, 2, &stream, 1, false);
	return 0;
}

static int setup_fine_parking(void **state)
{
	add_two(make(state, true), G, false);
	return 0;
}

/* One endpoint that masters through both. */
static int setup_one(void **state)
{
	struct fixture *fx = make(state, false);
	const struct stream streams[] = {{&fx->inst[0].inst, 0}, {&fx->inst[1].inst, 0}};

	init_instance(&fx->inst[0], H);
	init_instance(&fx->inst[1], H);
	add_endpoint(fx, 0, streams, 2, false);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	for (unsigned i = 0; i < 2; i++)
		fx->inst[i].fail_disable = false;
	mediator_reset(fx->m);
	for (unsigned i = 0; i < 2; i++)
		memset(fx->inst[i].walks, 0, sizeof(fx->inst[i].walks));
	mediator_destroy(fx->m);
	free(fx->ram);
	free(fx);
	return 0;
}

static void attach_both(struct fixture *fx)
{
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
}

static int map(struct fixture *fx, uint64_t iova, uint64_t len, uint64_t offset, uint32_t flags)
{
	const struct mapping m = {
		.start = iova, .last = iova + (len - 1), .gpa = RAM + offset, .flags = flags};

	return mediator_map(fx->m, 1, &m);
}

static void unmap(struct fixture *fx, uint64_t iova, uint64_t len)
{
	assert_int_equal(mediator_unmap(fx->m, 1, iova, iova + (len - 1)), 0);
}

static void touch_all(struct fixture *fx, uint64_t iova, uint64_t len)
{
	for (unsigned i = 0; i < 2; i++) {
		for (uint64_t at = iova; at < iova + len; at += G)
			(void)reach(&fx->inst[i], 0, at, 0);
	}
}

static struct mediator_stats stats_of(struct fixture *fx)
{
	struct mediator_stats stats;

	mediator_get_stats(fx->m, &stats);
	return stats;
}

/* ---- claims ---- */

static void a_run_mapped_again_has_its_new_rights_at_once(void **state)
{
	struct fixture *fx = *state;
	uint8_t *byte;

	attach_both(fx);
	/* whole frames, misaligned: one bounced run with the mapping's rights */
	assert_int_equal(map(fx, H, H, G, RO), 0);
	touch_all(fx, H, H);
	unmap(fx, H, H);
	assert_true(stats_of(fx).quarantined_live > 0);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	for (unsigned i = 0; i < 2; i++) {
		byte = reach(&fx->inst[i], 0, H + 5, PROT_DEV_WRITE);
		assert_non_null(byte);
		*byte = (uint8_t)(7 + i);
		endpoint_sync_for_cpu(fx->ep[0]);
		assert_int_equal(fx->ram[G + 5], 7 + i);
	}
}

static void what_is_mapped_over_a_quarantined_run_is_what_devices_reach(void **state)
{
	struct fixture *fx = *state;

	attach_both(fx);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	touch_all(fx, H, H);
	unmap(fx, H, H);
	assert_true(stats_of(fx).quarantined_live > 0);
	assert_int_equal(map(fx, H, H, 4 * H, RW), 0); /* direct */
	for (unsigned i = 0; i < 2; i++)
		assert_ptr_equal(reach(&fx->inst[i], 0, H, PROT_DEV_WRITE), fx->ram + 4 * H);
}

/* The page that is lent next is the run's first, so the frame in its middle gets another. */
static void what_is_mapped_in_the_middle_of_a_run_is_what_devices_reach(void **state)
{
	static const struct {
		uint64_t iova, len;
	} rows[] = {{2 * H + G, G}, {2 * H, H}};
	struct fixture *fx = *state;

	attach_both(fx);
	for (unsigned n = 0; n < 2; n++) {
		assert_int_equal(map(fx, H, 3 * H, G, RW), 0);
		touch_all(fx, H, 3 * H);
		unmap(fx, H, 3 * H);
		assert_int_equal(map(fx, rows[n].iova, rows[n].len, 5 * H + 2 * G, RW), 0);
		for (unsigned i = 0; i < 2; i++) {
			uint8_t *byte = reach(&fx->inst[i], 0, rows[n].iova, PROT_DEV_WRITE);

			assert_non_null(byte);
			assert_int_equal(*byte, 0x55);
			*byte = (uint8_t)(7 + i);
			endpoint_sync_for_cpu(fx->ep[0]);
			assert_int_equal(fx->ram[5 * H + 2 * G], 7 + i);
			*byte = 0x55;
		}
		unmap(fx, rows[n].iova, rows[n].len);
		mediator_trim(fx->m);
	}
}

/* Whether it begins before the mapping, is its first frame or its last. */
static void a_direct_mapping_over_a_run_is_what_devices_reach(void **state)
{
	static const struct {
		uint64_t iova, len;
	} rows[] = {{H, 3 * H}, {2 * H, H}, {6 * H, H}};
	struct fixture *fx = *state;

	attach_both(fx);
	for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
		assert_int_equal(map(fx, rows[n].iova, rows[n].len, G, RW), 0);
		touch_all(fx, rows[n].iova, rows[n].len);
		unmap(fx, rows[n].iova, rows[n].len);
		assert_int_equal(map(fx, 2 * H, 5 * H, 4 * H, RW), 0);
		for (unsigned i = 0; i < 10; i++)
			assert_ptr_equal(
				reach(&fx->inst[i % 2], 0, (2 + i / 2) * H, PROT_DEV_WRITE),
				fx->ram + (4 + i / 2) * H);
		unmap(fx, 2 * H, 5 * H);
		mediator_trim(fx->m);
	}
}

static void a_direct_mapping_over_a_parked_frame_outlives_it(void **state)
{
	struct fixture *fx = *state;

	attach_both(fx);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	touch_all(fx, H, H);
	unmap(fx, H, H);
	assert_true(stats_of(fx).parked_live > 0);
	assert_int_equal(map(fx, H, H, 4 * H, RW), 0);
	assert_int_equal(stats_of(fx).parked_live, 0);
	mediator_trim(fx->m);
	for (unsigned i = 0; i < 2; i++)
		assert_ptr_equal(reach(&fx->inst[i], 0, H, PROT_DEV_WRITE), fx->ram + 4 * H);
}

static void a_class_change_is_made_in_every_shadow(void **state)
{
	struct fixture *fx = *state;
	uint8_t *page;

	attach_both(fx);
	assert_int_equal(map(fx, H, G, 4 * H, RW), 0); /* a window */
	assert_int_equal(stats_of(fx).window_live, 1);
	touch_all(fx, H, H);
	assert_int_equal(map(fx, H + G, G, 9 * G, RW), 0); /* fits no window */
	assert_int_equal(stats_of(fx).window_live, 0);
	page = reach(&fx->inst[0], 0, H, PROT_DEV_WRITE);
	assert_non_null(page);
	assert_ptr_not_equal(page, fx->ram + 4 * H);
	assert_ptr_equal(reach(&fx->inst[1], 0, H, PROT_DEV_WRITE), page);
	assert_ptr_equal(reach(&fx->inst[1], 0, H + G, PROT_DEV_WRITE), page + G);
}

static void what_is_mapped_over_a_part_of_a_quarantined_run_is_what_devices_reach(void **state)
{
	struct fixture *fx = *state;

	attach_both(fx);
	assert_int_equal(map(fx, H, 2 * H, G, RW), 0); /* out of step: two bounce pages in a row */
	touch_all(fx, H, 2 * H);
	unmap(fx, H, 2 * H);
	assert_int_equal(stats_of(fx).quarantined_live, 2);
	assert_int_equal(map(fx, 2 * H + G, G, 9 * G, RW), 0);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *byte = reach(&fx->inst[i], 0, 2 * H + G, PROT_DEV_WRITE);

		assert_non_null(byte);
		*byte = (uint8_t)(7 + i);
		endpoint_sync_for_cpu(fx->ep[0]);
		assert_int_equal(fx->ram[9 * G], 7 + i);
	}
}

static void a_slot_mapped_again_has_its_new_rights_on_a_fine_shadow_at_once(void **state)
{
	struct fixture *fx = *state;
	uint8_t *byte;

	attach_both(fx);
	assert_int_equal(map(fx, H, G, 5 * G, RW), 0); /* the frame stays */
	assert_int_equal(map(fx, H + G, G, 9 * G, RO), 0);
	touch_all(fx, H, H);
	unmap(fx, H + G, G);
	assert_int_equal(map(fx, H + G, G, 9 * G, RW), 0);
	byte = reach(&fx->inst[1], 0, H + G, PROT_DEV_WRITE);
	assert_non_null(byte);
	*byte = 7;
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(fx->ram[9 * G], 7);
}

static void a_frame_mapped_again_has_its_new_rights_on_a_fine_shadow_at_once(void **state)
{
	struct fixture *fx = *state;

	attach_both(fx);
	assert_int_equal(map(fx, H, H, G, RO), 0);
	touch_all(fx, H, H);
	unmap(fx, H, H);
	assert_int_equal(stats_of(fx).parked_live, 1);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	assert_non_null(reach(&fx->inst[1], 0, H, PROT_DEV_WRITE));
	touch_all(fx, H, H);
	unmap(fx, H, H);
	assert_int_equal(map(fx, H, H, G, RO), 0);
	assert_null(reach(&fx->inst[1], 0, H, PROT_DEV_WRITE));
	assert_non_null(reach(&fx->inst[1], 0, H, PROT_DEV_READ));
}

static void a_fine_shadow_turns_bounce_with_the_others(void **state)
{
	struct fixture *fx = *state;

	a_class_change_is_made_in_every_shadow(state);
	/* and what is not mapped stays a hole there */
	assert_null(reach(&fx->inst[1], 0, H + 2 * G, PROT_DEV_READ));
}

static void a_stream_that_comes_later_is_shown_no_more_than_a_window(void **state)
{
	struct fixture *fx = *state;

	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(map(fx, H + G, G, 4 * H + G, RW), 0);
	assert_int_equal(stats_of(fx).window_live, 1);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_ptr_equal(reach(&fx->inst[1], 0, H + G, RW), fx->ram + 4 * H + G);
	assert_null(reach(&fx->inst[1], 0, H, PROT_DEV_READ));
	assert_null(reach(&fx->inst[1], 0, H + 2 * G, PROT_DEV_READ));
}

static void a_stream_that_comes_later_is_not_shown_what_waits_for_a_flush(void **state)
{
	struct fixture *fx = *state;

	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	unmap(fx, H, H);
	assert_true(stats_of(fx).quarantined_live > 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_null(reach(&fx->inst[1], 0, H, PROT_DEV_READ));
	/* nor is its shadow in the way of the next mapping */
	assert_int_equal(map(fx, H, H, 4 * H, RW), 0);
	assert_ptr_equal(reach(&fx->inst[1], 0, H, RW), fx->ram + 4 * H);
}

static void an_attach_whose_stream_cannot_be_enabled_fails(void **state)
{
	struct fixture *fx = *state;

	fx->inst[0].fail_enable = 1;
	assert_true(mediator_attach(fx->m, 1, 0, false) < 0);
	assert_int_equal(mediator_detach(fx->m, 1, 0), -EINVAL);
}

/* mem_destroy() says so if they are not. */
static void tables_of_a_stream_that_is_neither_enabled_nor_blocked_are_kept(void **state)
{
	struct fixture *fx = *state;

	fx->inst[0].fail_enable = 1;
	fx->inst[0].fail_disable = true;
	assert_true(mediator_attach(fx->m, 1, 0, false) < 0);
	assert_non_null(fx->inst[0].walks[0]);
	assert_true(mediator_attach(fx->m, 1, 0, false) < 0);
	/* whom it does not concern can go on */
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
}

static void an_attach_that_fails_at_the_second_stream_leaves_the_first_where_it_was(void **state)
{
	struct fixture *fx = *state;

	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(map(fx, H, H, 4 * H, RW), 0);
	fx->inst[1].fail_enable = 1;
	assert_true(mediator_attach(fx->m, 2, 0, false) < 0);
	assert_int_equal(fx->inst[1].fail_enable, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_ptr_equal(reach(&fx->inst[i], 0, H, RW), fx->ram + 4 * H);
}

static void an_exposed_frame_gives_no_neighbour_its_rights(void **state)
{
	struct fixture *fx = *state;
	uint8_t *byte;

	attach_both(fx);
	assert_int_equal(map(fx, H, 3 * G, 4 * H, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 1);
	assert_int_equal(map(fx, H + 3 * G, G, 4 * H + 3 * G, RO), 0);
	byte = reach(&fx->inst[0], 0, H + 3 * G, PROT_DEV_WRITE);
	if (byte)
		*byte = 7;
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(fx->ram[4 * H + 3 * G], 0x55);
}

/* All that the pool has is lent, and this page is not among it. */
static void never_lent_again(struct fixture *fx, uint32_t domain, const uint8_t *page)
{
	for (unsigned n = 2;; n++) {
		const struct mapping m = {n * H, n * H + (H - 1), RAM + G, RW};

		assert_true(n < NR_PAGES / 4);
		if (mediator_map(fx->m, domain, &m)) {
			assert_int_equal(n, 2 + 7);
			break;
		}
		assert_ptr_not_equal(reach(&fx->inst[0], 0, n * H, PROT_DEV_WRITE), page);
	}
}

/* The instance could not block one stream, so it is not trusted with the others either. */
static void pages_of_other_streams_of_a_loose_instance_are_never_lent_again(void **state)
{
	struct fixture *fx = *state;
	const struct mapping m = {H, 2 * H - 1, RAM + G, RW};
	uint8_t *page;

	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 2, false), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 0, false), 0);
	assert_int_equal(mediator_map(fx->m, 2, &m), 0);
	page = reach(&fx->inst[1], 1, H, PROT_DEV_WRITE);
	assert_non_null(page);
	fx->inst[1].fail_disable = true;
	(void)mediator_detach(fx->m, 1, 1);
	(void)mediator_unmap(fx->m, 2, m.start, m.last);
	mediator_trim(fx->m);
	assert_ptr_equal(reach(&fx->inst[1], 1, H, PROT_DEV_WRITE), page);
	never_lent_again(fx, 2, page);
}

static void pages_that_a_stream_may_still_reach_are_never_lent_again(void **state)
{
	struct fixture *fx = *state;
	uint8_t *page;

	attach_both(fx);
	assert_int_equal(map(fx, H, H, G, RW), 0);
	page = reach(&fx->inst[1], 0, H, PROT_DEV_WRITE);
	fx->inst[1].fail_disable = true;
	(void)mediator_detach(fx->m, 1, 1);
	assert_ptr_equal(reach(&fx->inst[1], 0, H, PROT_DEV_WRITE), page); /* it goes on */
	(void)mediator_unmap(fx->m, 1, H, 2 * H - 1);
	mediator_trim(fx->m);
	never_lent_again(fx, 1, page);
	/* nor is it let into a domain again */
	assert_true(mediator_attach(fx->m, 1, 1, false) < 0);
}

static void a_map_that_a_fine_shadow_refuses_half_way_leaves_nothing(void **state)
{
	struct fixture *fx = *state;

	attach_both(fx);
	assert_int_equal(map(fx, H, G, 5 * G, RW), 0);
	for (unsigned nth = 1; nth <= 2; nth++) {
		fx->inst[1].fail_map = nth;
		assert_int_equal(map(fx, H + G, 2 * G, 9 * G, RW), -ENOMEM);
		assert_int_equal(fx->inst[1].fail_map, 0);
		assert_null(reach(&fx->inst[1], 0, H + G, PROT_DEV_READ));
		assert_null(reach(&fx->inst[1], 0, H + 2 * G, PROT_DEV_READ));
		/* the slots are nobody's: nothing is synced with them */
		memset(fx->ram + 9 * G, 0x66, 2 * G);
		endpoint_sync_for_device(fx->ep[0]);
		assert_int_equal(*reach(&fx->inst[0], 0, H + G, PROT_DEV_READ), 0);
	}
	assert_int_equal(map(fx, H + G, 2 * G, 9 * G, RW), 0);
	assert_int_equal(*reach(&fx->inst[1], 0, H + G, PROT_DEV_READ), 0x66);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_run_mapped_again_has_its_new_rights_at_once,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			what_is_mapped_over_a_quarantined_run_is_what_devices_reach, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			what_is_mapped_over_a_part_of_a_quarantined_run_is_what_devices_reach,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			what_is_mapped_in_the_middle_of_a_run_is_what_devices_reach, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			what_is_mapped_in_the_middle_of_a_run_is_what_devices_reach, setup_parking,
			teardown),
		cmocka_unit_test_setup_teardown(a_direct_mapping_over_a_run_is_what_devices_reach,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_direct_mapping_over_a_run_is_what_devices_reach,
						setup_parking, teardown),
		cmocka_unit_test_setup_teardown(
			a_frame_mapped_again_has_its_new_rights_on_a_fine_shadow_at_once,
			setup_fine_parking, teardown),
		cmocka_unit_test_setup_teardown(
			tables_of_a_stream_that_is_neither_enabled_nor_blocked_are_kept, setup,
			teardown),
		cmocka_unit_test_setup_teardown(a_direct_mapping_over_a_parked_frame_outlives_it,
						setup_parking, teardown),
		cmocka_unit_test_setup_teardown(a_class_change_is_made_in_every_shadow, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			a_slot_mapped_again_has_its_new_rights_on_a_fine_shadow_at_once, setup_fine,
			teardown),
		cmocka_unit_test_setup_teardown(a_fine_shadow_turns_bounce_with_the_others,
						setup_fine, teardown),
		cmocka_unit_test_setup_teardown(
			a_stream_that_comes_later_is_shown_no_more_than_a_window, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_stream_that_comes_later_is_not_shown_what_waits_for_a_flush, setup,
			teardown),
		cmocka_unit_test_setup_teardown(an_attach_whose_stream_cannot_be_enabled_fails,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			pages_that_a_stream_may_still_reach_are_never_lent_again, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_map_that_a_fine_shadow_refuses_half_way_leaves_nothing, setup_fine,
			teardown),
		cmocka_unit_test_setup_teardown(
			pages_of_other_streams_of_a_loose_instance_are_never_lent_again,
			setup_three, teardown),
		cmocka_unit_test_setup_teardown(an_exposed_frame_gives_no_neighbour_its_rights,
						setup_relaxed, teardown),
		cmocka_unit_test_setup_teardown(
			an_attach_that_fails_at_the_second_stream_leaves_the_first_where_it_was,
			setup_one, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
