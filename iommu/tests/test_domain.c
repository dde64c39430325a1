/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What frames become and how they change, judged by where a device's accesses land: the mediator in
 * front of the DART driver in front of simulated DARTs, whose TLBs remember what they should
 * forget.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/dart_rig.h"
#include "iommu/tests/fake_instance.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x802e60000ull /* guest-physical; no multiple of 64 KiB on purpose */
#define RAM_LEN	 (96 * H)
#define IOVA	 0x9abc0000ull
#define FAR	 0xa2000000ull /* where another leaf table starts */
#define RO	 MAP_READ
#define WO	 MAP_WRITE
#define RW	 (MAP_READ | MAP_WRITE)
#define NR_DARTS 4u

/* Where layout v1 has its command register: docs/dart.md. */
#define V1_COMMAND 0x20u

struct fixture {
	struct rig_mem mem;
	struct rig_dart dart[NR_DARTS];
	struct fake_instance fake;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep[NR_DARTS + 1];
	/* for hooks */
	unsigned nr_hooked;
	uint64_t hook_iova;
	uint8_t *hook_cpu;
	bool hook_on;
};

static uint64_t clock_now;

static uint64_t test_clock(void)
{
	return clock_now;
}

static const struct mediator_cfg base_cfg = {
	.guest_granule = G,
	.pool_limit = 2 * 64 * H,
	.max_domains = 8,
	.max_mappings = 4096,
	.doorbell = {1, 0},
	.now_ns = test_clock,
};

static struct fixture *start(void **state, const struct mediator_cfg *from)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	struct mediator_cfg cfg = *from;

	assert_non_null(fx);
	fx->ram = aligned_alloc(H, RAM_LEN);
	for (size_t i = 0; i < RAM_LEN; i += 8)
		*(uint64_t *)(fx->ram + i) = 0x1000000000000000u + i;
	fx->gmem.nr_spans = 1;
	fx->gmem.spans[0] = (struct gmem_span){RAM, RAM_LEN, fx->ram};
	cfg.gmem = &fx->gmem;
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	*state = fx;
	return fx;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	for (unsigned i = 0; i < NR_DARTS; i++) {
		fx->dart[i].on_write = NULL;
		fx->dart[i].before_write = NULL;
		fx->dart[i].on_read = NULL;
	}
	mediator_destroy(fx->m);
	for (unsigned i = 0; i < NR_DARTS; i++)
		rig_dart_fini(&fx->dart[i]);
	assert_int_equal(fx->mem.nr_tables, 0);
	rig_mem_fini(&fx->mem);
	free(fx->ram);
	free(fx);
	return 0;
}

static void add_streams(struct fixture *fx, unsigned id, const struct stream *streams, unsigned nr)
{
	const struct endpoint_cfg cfg = {
		.id = id, .name = "test", .streams = streams, .nr_streams = nr, .sync = SYNC_FULL};

	assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[id]), 0);
}

/* DART @i, and endpoint @i on its stream 1. */
static void add_dart(struct fixture *fx, unsigned i, enum dart_model_kind kind, unsigned page_lg2,
		     bool windows)
{
	struct stream stream;

	rig_dart_init(&fx->dart[i], &fx->mem, kind, page_lg2, kind == DART_MODEL_T8110 ? 36 : 0,
		      windows);
	fx->dart[i].hook_ctx = fx;
	stream = (struct stream){fx->dart[i].inst, 1};
	add_streams(fx, i, &stream, 1);
}

static struct fixture *one_dart(void **state, const struct mediator_cfg *cfg, bool windows)
{
	struct fixture *fx = start(state, cfg);

	add_dart(fx, 0, DART_MODEL_T6000, 14, windows);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	return fx;
}

static int try_map(struct fixture *fx, uint64_t iova, uint64_t gpa, uint64_t len, uint32_t flags)
{
	const struct mapping map = {
		.start = iova, .last = iova + len - 1, .gpa = gpa, .flags = flags};

	return mediator_map(fx->m, 1, &map);
}

#define map(...) assert_int_equal(try_map(__VA_ARGS__), 0)

static void unmap(struct fixture *fx, uint64_t iova, uint64_t len)
{
	assert_int_equal(mediator_unmap(fx->m, 1, iova, iova + len - 1), 0);
}

static struct mediator_stats stats_of(const struct fixture *fx)
{
	struct mediator_stats stats;

	mediator_get_stats(fx->m, &stats);
	return stats;
}

static uint64_t *guest(const struct fixture *fx, uint64_t gpa)
{
	return (uint64_t *)(fx->ram + (gpa - RAM));
}

static bool dev_write_on(struct fixture *fx, unsigned dart, uint64_t iova, uint64_t value)
{
	return !dart_model_dma_write(fx->dart[dart].model, 1, iova, &value, 8);
}

static bool dev_read_on(struct fixture *fx, unsigned dart, uint64_t iova, uint64_t *value)
{
	return !dart_model_dma_read(fx->dart[dart].model, 1, iova, value, 8);
}

#define dev_write(fx, iova, value) assert_true(dev_write_on(fx, 0, iova, value))
#define dev_write_faults(fx, iova) assert_false(dev_write_on(fx, 0, iova, 0xbad))

static uint64_t dev_read(struct fixture *fx, uint64_t iova)
{
	uint64_t value = 0;

	assert_true(dev_read_on(fx, 0, iova, &value));
	return value;
}

static bool dev_read_faults(struct fixture *fx, uint64_t iova)
{
	uint64_t value;

	return !dev_read_on(fx, 0, iova, &value);
}

static void sync_all(struct fixture *fx)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fx->ep); i++) {
		if (fx->ep[i]) {
			endpoint_sync_for_cpu(fx->ep[i]);
			endpoint_sync_for_device(fx->ep[i]);
		}
	}
}

/* ---- windows ---- */

static void a_congruent_part_of_a_frame_is_guest_memory_and_the_rest_a_fault(void **state)
{
	struct fixture *fx = one_dart(state, &base_cfg, true);

	map(fx, IOVA + G, RAM + H + G, 2 * G, RW);
	assert_int_equal(stats_of(fx).window_live, 1);
	assert_int_equal(stats_of(fx).bounce_live, 0);
	dev_write(fx, IOVA + G, 1);
	dev_write(fx, IOVA + 3 * G - 8, 2);
	assert_int_equal(*guest(fx, RAM + H + G), 1);
	assert_int_equal(*guest(fx, RAM + H + 3 * G - 8), 2);
	assert_true(dev_read_faults(fx, IOVA + G - 8));
	assert_true(dev_read_faults(fx, IOVA + 3 * G));
	dev_write_faults(fx, IOVA);
	unmap(fx, IOVA + G, 2 * G);
	assert_true(dev_read_faults(fx, IOVA + G));
	assert_int_equal(stats_of(fx).window_live, 0);
}

static void without_windows_it_is_bounced(void **state)
{
	struct fixture *fx = one_dart(state, &base_cfg, false);

	map(fx, IOVA + G, RAM + H + G, 2 * G, RW);
	assert_int_equal(stats_of(fx).window_live, 0);
	assert_int_equal(stats_of(fx).bounce_live, 1);
	assert_int_equal(dev_read(fx, IOVA), 0);
}

static void a_window_follows_its_neighbours(void **state)
{
	struct fixture *fx = one_dart(state, &base_cfg, true);

	map(fx, IOVA + G, RAM + H + G, G, RW);
	assert_true(dev_read_faults(fx, IOVA + 2 * G)); /* and that is remembered */
	map(fx, IOVA + 2 * G, RAM + H + 2 * G, G, RW);
	dev_write(fx, IOVA + 2 * G, 3);
	assert_int_equal(*guest(fx, RAM + H + 2 * G), 3);
	map(fx, IOVA + 3 * G, RAM + H + 3 * G, G, RW);
	map(fx, IOVA, RAM + H, G, RW);
	dev_write(fx, IOVA, 4);
	assert_int_equal(*guest(fx, RAM + H), 4);
	assert_int_equal(stats_of(fx).window_live, 1);
	unmap(fx, IOVA, G);
	dev_write_faults(fx, IOVA);
	dev_write(fx, IOVA + G, 5);
	unmap(fx, IOVA + 3 * G, G);
	dev_write_faults(fx, IOVA + 3 * G);
	dev_write(fx, IOVA + 2 * G, 6);
	assert_int_equal(*guest(fx, RAM + H + G), 5);
	assert_int_equal(*guest(fx, RAM + H + 2 * G), 6);
	assert_int_equal(stats_of(fx).to_bounce, 0);
}

static void a_neighbour_that_fits_no_window_makes_it_bounce(void **state)
{
	static const struct {
		uint64_t iova, gpa;
		uint32_t flags;
	} rows[] = {
		{IOVA + 2 * G, RAM + 5 * H, RW},	 /* not congruent */
		{IOVA + 2 * G, RAM + 2 * H + 2 * G, RW}, /* another host frame */
		{IOVA + 2 * G, RAM + H + 2 * G, RO},	 /* other rights */
		{IOVA + 3 * G, RAM + H + 3 * G, RW},	 /* a hole between */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture *fx = one_dart(state, &base_cfg, true);

		map(fx, IOVA + G, RAM + H + G, G, RW);
		dev_write(fx, IOVA + G, 1);
		map(fx, rows[i].iova, rows[i].gpa, G, rows[i].flags);
		assert_int_equal(stats_of(fx).to_bounce, 1);
		assert_int_equal(stats_of(fx).window_live, 0);
		assert_int_equal(dev_read(fx, IOVA + G), 1);
		assert_int_equal(dev_read(fx, rows[i].iova), *guest(fx, rows[i].gpa));
		dev_write(fx, IOVA + G, 2);
		sync_all(fx);
		assert_int_equal(*guest(fx, RAM + H + G), 2);
		assert_int_equal(dart_model_probe(fx->dart[0].model, 1, IOVA, true, &(uint64_t){0}),
				 0); /* a private page */
		unmap(fx, IOVA, H);
		assert_int_equal(*guest(fx, RAM + H + G), 2);
		if (i + 1 < ARRAY_SIZE(rows))
			teardown(state);
	}
}

/* ---- nothing is lost while a class changes ---- */

/* The device writes through what it remembers, and the CPU writes too, at the last moment. */
static void write_late(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value)
{
	struct fixture *fx = ctx;
	uint64_t word = 0xdddddddd00000000u + fx->nr_hooked;

	(void)value;
	if (!fx->hook_on || offset != V1_COMMAND)
		return;
	fx->hook_on = false;
	fx->nr_hooked++;
	assert_int_equal(dart_model_dma_write(rig->model, 1, fx->hook_iova, &word, 8), 0);
	*(uint64_t *)fx->hook_cpu = 0xcccccccc00000000u + fx->nr_hooked;
}

static void a_window_that_becomes_bounce_loses_no_late_write(void **state)
{
	struct fixture *fx = one_dart(state, &base_cfg, true);

	map(fx, IOVA, RAM + H, 2 * G, RW);
	dev_write(fx, IOVA + 8, 1); /* and the DART remembers the page */
	fx->dart[0].before_write = write_late;
	fx->hook_iova = IOVA + 64;
	fx->hook_cpu = fx->ram + H + 128;
	fx->hook_on = true;
	map(fx, IOVA + 2 * G, RAM + 7 * H, G, RW);
	assert_int_equal(fx->nr_hooked, 1);
	assert_int_equal(stats_of(fx).to_bounce, 1);
	assert_int_equal(dev_read(fx, IOVA + 64), 0xdddddddd00000000u);
	assert_int_equal(dev_read(fx, IOVA + 128), 0xcccccccc00000001u);
	sync_all(fx);
	assert_int_equal(*guest(fx, RAM + H + 64), 0xdddddddd00000000u);
	assert_int_equal(*guest(fx, RAM + H + 128), 0xcccccccc00000001u);
	assert_int_equal(*guest(fx, RAM + H + 8), 1);
	assert_int_equal(stats_of(fx).conflicts, 0);
}

static const struct mediator_cfg promoting_cfg = {
	.guest_granule = G,
	.pool_limit = 2 * 64 * H,
	.max_domains = 8,
	.max_mappings = 4096,
	.doorbell = {1, 0},
	.now_ns = test_clock,
	.promote = true,
};

static void fill_frame(struct fixture *fx)
{
	for (unsigned s = 0; s < 4; s++)
		map(fx, IOVA + s * G, RAM + H + s * G, G, RW);
}

static void a_frame_whose_last_hole_fills_becomes_direct_if_that_is_the_policy(void **state)
{
	struct fixture *fx = one_dart(state, &promoting_cfg, false);

	fill_frame(fx);
	assert_int_equal(stats_of(fx).to_direct, 1);
	assert_int_equal(stats_of(fx).bounce_live, 0);
	dev_write(fx, IOVA + 2 * G, 7);
	assert_int_equal(*guest(fx, RAM + H + 2 * G), 7); /* with no sync */
	*guest(fx, RAM + H) = 8;
	assert_int_equal(dev_read(fx, IOVA), 8);
	teardown(state);

	fx = one_dart(state, &base_cfg, false);
	fill_frame(fx);
	assert_int_equal(stats_of(fx).to_direct, 0);
	assert_int_equal(stats_of(fx).bounce_live, 1);
}

static void a_frame_that_becomes_direct_is_so_at_every_granule(void **state)
{
	struct fixture *fx = start(state, &promoting_cfg);

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T8020, 12, false);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mediator_attach(fx->m, 1, i, false), 0);
	fill_frame(fx);
	assert_int_equal(stats_of(fx).to_direct, 1);
	for (unsigned s = 0; s < 4; s++) {
		assert_true(dev_write_on(fx, 1, IOVA + s * G, 7 + s));
		assert_int_equal(*guest(fx, RAM + H + s * G), 7 + s);
	}
}

static void a_bounce_frame_that_becomes_direct_loses_no_late_write(void **state)
{
	struct fixture *fx = one_dart(state, &promoting_cfg, false);

	for (unsigned s = 0; s < 3; s++)
		map(fx, IOVA + s * G, RAM + H + s * G, G, RW);
	dev_write(fx, IOVA + 8, 1);
	*guest(fx, RAM + H + 16) = 2; /* not synced */
	fx->dart[0].before_write = write_late;
	fx->hook_iova = IOVA + 64;
	fx->hook_cpu = fx->ram + H + 128;
	fx->hook_on = true;
	map(fx, IOVA + 3 * G, RAM + H + 3 * G, G, RW);
	assert_int_equal(fx->nr_hooked, 1);
	assert_int_equal(stats_of(fx).to_direct, 1);
	assert_int_equal(*guest(fx, RAM + H + 8), 1);
	assert_int_equal(*guest(fx, RAM + H + 16), 2);
	assert_int_equal(*guest(fx, RAM + H + 64), 0xdddddddd00000000u);
	assert_int_equal(*guest(fx, RAM + H + 128), 0xcccccccc00000001u);
	assert_int_equal(dev_read(fx, IOVA + 64), 0xdddddddd00000000u);
	assert_int_equal(dev_read(fx, IOVA + 128), 0xcccccccc00000001u);
	assert_int_equal(dev_read(fx, IOVA + 16), 2);
}

/* The slot in the middle goes: without windows, or with them, no window is left. */
static void a_direct_frame_that_loses_a_slot_becomes_bounce_and_loses_no_late_write(void **state)
{
	for (unsigned windows = 0; windows < 2; windows++) {
		struct fixture *fx = one_dart(state, &promoting_cfg, windows);
		uint64_t gone = *guest(fx, RAM + H + G);

		fill_frame(fx);
		dev_write(fx, IOVA + 8, 1);
		fx->dart[0].before_write = write_late;
		fx->hook_iova = IOVA + 64;
		fx->hook_cpu = fx->ram + H + 128;
		fx->hook_on = true;
		unmap(fx, IOVA + G, G);
		assert_int_equal(fx->nr_hooked, 1);
		assert_int_equal(stats_of(fx).to_bounce, 1);
		dev_write(fx, IOVA + G, 0xbad);
		sync_all(fx);
		assert_int_equal(*guest(fx, RAM + H + G), gone);
		assert_int_equal(*guest(fx, RAM + H + 64), 0xdddddddd00000000u);
		assert_int_equal(dev_read(fx, IOVA + 128), 0xcccccccc00000001u);
		assert_int_equal(dev_read(fx, IOVA + 8), 1);
		/* and back: a bounce page held by nobody is left behind */
		map(fx, IOVA + G, RAM + H + G, G, RW);
		assert_int_equal(stats_of(fx).to_direct, windows ? 1 : 2);
		unmap(fx, IOVA, H);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		if (!windows)
			teardown(state);
	}
}

/*
 * A mapping fills the last hole of one frame, which becomes direct, and then fails at its next: the
 * frame is half way between two pages when the slot is taken out of it again.
 */
static void a_map_that_fails_after_a_frame_became_direct_leaves_it_as_it_was(void **state)
{
	for (unsigned windows = 0; windows < 2; windows++) {
		struct fixture *fx = one_dart(state, &promoting_cfg, windows);
		const uint64_t iova = FAR - H;
		uint64_t bytes, foreign;

		/* bounce, also where there are windows: slot 2 is another host frame's for a while
		 */
		map(fx, iova, RAM + H, G, RW);
		map(fx, iova + 2 * G, RAM + 5 * H + 2 * G, G, RW);
		map(fx, iova + G, RAM + H + G, G, RW);
		unmap(fx, iova + 2 * G, G);
		map(fx, iova + 2 * G, RAM + H + 2 * G, G, RW);
		assert_int_equal(stats_of(fx).bounce_live, 1);
		bytes = stats_of(fx).bounce_bytes;
		dev_write(fx, iova + 8, 1); /* and the DART remembers the page */
		fx->dart[0].before_write = write_late;
		fx->hook_iova = iova + 64;
		fx->hook_cpu = fx->ram + H + 128;
		fx->hook_on = true;
		fx->mem.fail_table = 1;
		assert_int_equal(try_map(fx, FAR - G, RAM + H + 3 * G, 2 * G, RW), -ENOMEM);
		fx->mem.fail_table = 0;
		assert_int_equal(stats_of(fx).to_direct, 1);
		assert_int_equal(fx->nr_hooked, 1);
		assert_int_equal(stats_of(fx).bounce_bytes, bytes);
		/* whatever page it has now is lent to nobody else */
		map(fx, IOVA, RAM + 9 * H + G, G, RW);
		foreign = dev_read(fx, IOVA);
		dev_write(fx, iova + 16, 2);
		assert_int_equal(dev_read(fx, iova + 64), 0xdddddddd00000000u);
		assert_int_equal(dev_read(fx, iova + 128), 0xcccccccc00000001u);
		dev_write_faults(fx, FAR);
		sync_all(fx);
		assert_int_equal(dev_read(fx, IOVA), foreign);
		assert_int_equal(*guest(fx, RAM + H + 8), 1);
		assert_int_equal(*guest(fx, RAM + H + 16), 2);
		assert_int_equal(*guest(fx, RAM + H + 64), 0xdddddddd00000000u);
		unmap(fx, iova, 3 * G);
		unmap(fx, IOVA, G);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		assert_true(dev_read_faults(fx, iova));
		if (!windows)
			teardown(state);
	}
}

static void an_unmap_never_needs_a_page_that_is_not_there(void **state)
{
	const struct mediator_cfg cfg = {
		.guest_granule = G,
		.pool_limit = 2 * 2 * H, /* two pages */
		.max_domains = 1,
		.max_mappings = 64,
		.doorbell = {1, 0},
		.promote = true,
	};
	struct fixture *fx = one_dart(state, &cfg, true);

	for (unsigned s = 0; s < 3; s++)
		map(fx, IOVA + s * G, RAM + H + s * G, G, RW);
	map(fx, IOVA + H, RAM + 3 * G, G, RW); /* the other page */
	assert_int_equal(try_map(fx, IOVA + 2 * H, RAM + 3 * G, G, RW), -ENOMEM);
	unmap(fx, IOVA + G, G); /* two slots apart are left */
	assert_int_equal(stats_of(fx).to_bounce, 1);
	assert_int_equal(dev_read(fx, IOVA), *guest(fx, RAM + H));
	assert_int_equal(dev_read(fx, IOVA + 2 * G), *guest(fx, RAM + H + 2 * G));
}

/* The page that it would bounce to cannot be pinned. */
static void a_window_that_was_cut_off_stays_so_until_its_last_slot_has_gone(void **state)
{
	struct fixture *fx = one_dart(state, &base_cfg, true);

	for (unsigned s = 0; s < 3; s++)
		map(fx, IOVA + s * G, RAM + H + s * G, G, RW);
	fx->mem.fail_pa = true;
	unmap(fx, IOVA + G, G);
	fx->mem.fail_pa = false;
	dev_write_faults(fx, IOVA);
	dev_write_faults(fx, IOVA + 2 * G);
	unmap(fx, IOVA, G);
	dev_write_faults(fx, IOVA + 2 * G);
	unmap(fx, IOVA + 2 * G, G);
	dev_write_faults(fx, IOVA + 2 * G);
	assert_int_equal(stats_of(fx).bounce_bytes, 0);
	map(fx, IOVA + 2 * G, RAM + H + 2 * G, G, RW);
	dev_write(fx, IOVA + 2 * G, 1);
	assert_int_equal(*guest(fx, RAM + H + 2 * G), 1);
}

static void windows_end_when_an_instance_comes_that_has_none(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	struct stream stream = {.inst = &fx->fake.inst};
	uint64_t value = 0;

	add_dart(fx, 0, DART_MODEL_T6000, 14, true);
	fake_init(&fx->fake, H, 0, 0xffffffff);
	add_streams(fx, 4, &stream, 1);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	map(fx, IOVA, RAM + H, 2 * G, RW);
	map(fx, IOVA + H, RAM + 2 * H, 4 * G, RW);
	dev_write(fx, IOVA + 8, 1);
	assert_int_equal(mediator_attach(fx->m, 1, 4, false), 0);
	assert_int_equal(stats_of(fx).window_live, 0);
	assert_int_equal(stats_of(fx).bounce_live, 1);
	assert_true(fake_dma_read(&fx->fake, IOVA + 8, &value, 8));
	assert_int_equal(value, 1);
	/* one page behind both */
	value = 2;
	assert_true(fake_dma_write(&fx->fake, IOVA + 16, &value, 8));
	assert_int_equal(dev_read(fx, IOVA + 16), 2);
	sync_all(fx);
	assert_int_equal(*guest(fx, RAM + H + 16), 2);
	assert_int_equal(dev_read(fx, IOVA + H), *guest(fx, RAM + 2 * H));
}

/* ---- parked frames ---- */

static struct mediator_cfg parking_cfg(uint64_t frames)
{
	struct mediator_cfg cfg = base_cfg;

	cfg.park_limit = frames * 2 * H;
	return cfg;
}

static void a_parked_frame_is_mapped_again_by_copying_alone(void **state)
{
	const struct mediator_cfg cfg = parking_cfg(8);
	struct fixture *fx = one_dart(state, &cfg, false);
	struct mediator_stats before, after;

	map(fx, IOVA, RAM + G, G, RW);
	dev_write(fx, IOVA, 1);
	unmap(fx, IOVA, G);
	assert_int_equal(*guest(fx, RAM + G), 1);
	before = stats_of(fx);
	assert_int_equal(before.parked_live, 1);
	for (unsigned i = 0; i < 10; i++) {
		*guest(fx, RAM + 6 * G) = 100 + i;
		map(fx, IOVA + (i % 4) * G, RAM + 6 * G, G, WO);
		assert_int_equal(dev_read(fx, IOVA + (i % 4) * G), 100 + i);
		dev_write(fx, IOVA + (i % 4) * G + 8, i);
		unmap(fx, IOVA + (i % 4) * G, G);
		assert_int_equal(*guest(fx, RAM + 6 * G + 8), i);
	}
	after = stats_of(fx);
	assert_int_equal(after.parked_hits, 10);
	assert_int_equal(after.instance_maps, before.instance_maps);
	assert_int_equal(after.instance_unmaps, before.instance_unmaps);
	assert_int_equal(after.invalidations, before.invalidations);
}

static void a_parked_frame_shows_nothing_and_takes_nothing(void **state)
{
	const struct mediator_cfg cfg = parking_cfg(8);
	struct fixture *fx = one_dart(state, &cfg, false);
	uint64_t was = *guest(fx, RAM + G);

	map(fx, IOVA + G, RAM + G, G, RO);
	map(fx, IOVA + H, RAM + H + 2 * G, 3 * H, RW); /* a run, out of step */
	unmap(fx, IOVA + G, G);
	unmap(fx, IOVA + H, 3 * H);
	assert_int_equal(stats_of(fx).parked_live, 4);
	for (uint64_t at = 0; at < 4 * H; at += 8)
		assert_int_equal(dev_read(fx, IOVA + at), 0);
	dev_write(fx, IOVA + G, 0xbad);
	sync_all(fx);
	assert_int_equal(*guest(fx, RAM + G), was);
	/* what a device left there is not the guest's */
	map(fx, IOVA + G, RAM + 5 * G, G, RW);
	assert_int_equal(dev_read(fx, IOVA + G), *guest(fx, RAM + 5 * G));
}

static void parking_is_bounded_and_the_oldest_goes_first(void **state)
{
	const struct mediator_cfg cfg = parking_cfg(40);
	struct fixture *fx = one_dart(state, &cfg, false);

	for (unsigned i = 0; i < 41; i++) {
		map(fx, IOVA + i * H, RAM + G, G, RW);
		assert_int_equal(dev_read(fx, IOVA + i * H), *guest(fx, RAM + G));
		unmap(fx, IOVA + i * H, G);
	}
	assert_true(stats_of(fx).parked_live <= 40);
	assert_true(stats_of(fx).parked_evicted > 0);
	assert_true(dev_read_faults(fx, IOVA));
	assert_false(dev_read_faults(fx, IOVA + 40 * H));
	assert_int_equal(stats_of(fx).quarantined_live, 0);
	mediator_trim(fx->m);
	assert_int_equal(stats_of(fx).parked_live, 0);
	assert_int_equal(stats_of(fx).bounce_bytes, 0);
	assert_true(dev_read_faults(fx, IOVA + 40 * H));
}

static void what_makes_way_for_a_mapping_is_invalidated_once(void **state)
{
	for (unsigned len = 8; len <= 16; len += 8) { /* frames; as many as are parked, and more */
		const struct mediator_cfg cfg = parking_cfg(64);
		struct fixture *fx = one_dart(state, &cfg, false);
		struct mediator_stats before;

		for (unsigned i = 0; i < 9; i++)
			map(fx, IOVA + (i < 8 ? i : 32) * H, RAM + 20 * H + G, G, RW);
		for (unsigned i = 0; i < 9; i++)
			unmap(fx, IOVA + (i < 8 ? i : 32) * H, G);
		assert_int_equal(stats_of(fx).parked_live, 9);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(dev_read(fx, IOVA + i * H), 0); /* it is remembered */
		before = stats_of(fx);
		map(fx, IOVA, RAM + H, len * H, RW);
		/* One for the pages, one because a DART may remember that nothing was there. */
		assert_int_equal(stats_of(fx).invalidations - before.invalidations, 2);
		assert_int_equal(stats_of(fx).parked_live, 1);
		assert_int_equal(stats_of(fx).quarantined_live, 0);
		for (unsigned i = 0; i < len; i++)
			assert_int_equal(dev_read(fx, IOVA + i * H), *guest(fx, RAM + H + i * H));
		if (len == 8)
			teardown(state);
	}
}

static void a_parked_run_serves_the_same_run_again(void **state)
{
	const struct mediator_cfg cfg = parking_cfg(16);
	struct fixture *fx = one_dart(state, &cfg, false);
	struct mediator_stats before;

	map(fx, IOVA, RAM + G, 4 * H, WO);
	unmap(fx, IOVA, 4 * H);
	before = stats_of(fx);
	assert_int_equal(before.parked_live, 4);
	map(fx, IOVA, RAM + 9 * H + G, 4 * H, RW);
	assert_int_equal(stats_of(fx).parked_hits, 4);
	assert_int_equal(stats_of(fx).instance_maps, before.instance_maps);
	for (uint64_t at = 0; at < 4 * H; at += G)
		assert_int_equal(dev_read(fx, IOVA + at), *guest(fx, RAM + 9 * H + G + at));
	dev_write(fx, IOVA + 4 * H - 8, 9);
	unmap(fx, IOVA, 4 * H);
	assert_int_equal(*guest(fx, RAM + 13 * H + G - 8), 9);
}

static void a_parked_frame_makes_way_for_what_it_cannot_serve(void **state)
{
	static const struct {
		uint64_t iova, gpa, len;
	} rows[] = {
		{IOVA, RAM + 8 * H, 8 * H},	/* direct, over both */
		{IOVA, RAM + 8 * H, H},		/* direct, over the first */
		{IOVA + H, RAM + 8 * H + G, G}, /* a part of the run */
		{IOVA + 2 * H, RAM + G, 4 * H}, /* bounced, from the middle of the run */
		{IOVA, RAM + G, 2 * H},		/* bounced, to the middle of the run */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct mediator_cfg cfg = parking_cfg(16);
		struct fixture *fx = one_dart(state, &cfg, false);

		map(fx, IOVA, RAM + G, G, RW);
		map(fx, IOVA + H, RAM + H + G, 3 * H, RW);
		dev_write(fx, IOVA, 1);
		dev_write(fx, IOVA + H, 1);
		dev_write(fx, IOVA + 2 * H, 1);
		unmap(fx, IOVA, 4 * H);
		map(fx, rows[i].iova, rows[i].gpa, rows[i].len, RW);
		for (uint64_t at = 0; at < rows[i].len; at += G) {
			assert_int_equal(dev_read(fx, rows[i].iova + at),
					 *guest(fx, rows[i].gpa + at));
			dev_write(fx, rows[i].iova + at + 8, at);
		}
		sync_all(fx);
		for (uint64_t at = 0; at < rows[i].len; at += G)
			assert_int_equal(*guest(fx, rows[i].gpa + at + 8), at);
		unmap(fx, IOVA, 16 * H);
		mediator_trim(fx->m);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		if (i + 1 < ARRAY_SIZE(rows))
			teardown(state);
	}
}

static void a_short_pool_takes_what_is_parked_in_any_domain(void **state)
{
	struct mediator_cfg cfg = parking_cfg(16);
	struct fixture *fx = start(state, &cfg);
	const struct mapping other = {
		.start = IOVA, .last = IOVA + G - 1, .gpa = RAM + G, .flags = RW};

	mediator_destroy(fx->m);
	cfg.gmem = &fx->gmem;
	cfg.pool_limit = 3 * 2 * H;
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T8020, 14, false);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 1, false), 0);
	assert_int_equal(mediator_map(fx->m, 2, &other), 0);
	assert_int_equal(mediator_unmap(fx->m, 2, other.start, other.last), 0);
	map(fx, IOVA, RAM + G, G, RW);
	unmap(fx, IOVA, G);
	assert_int_equal(stats_of(fx).parked_live, 2);
	for (unsigned i = 1; i <= 3; i++)
		map(fx, IOVA + i * H, RAM + i * H + G, G, RW);
	assert_int_equal(stats_of(fx).parked_live, 0);
	assert_int_equal(try_map(fx, IOVA + 4 * H, RAM + G, G, RW), -ENOMEM);
	for (unsigned i = 1; i <= 3; i++)
		assert_int_equal(dev_read(fx, IOVA + i * H), *guest(fx, RAM + i * H + G));
}

static void a_body_whose_second_run_fails_leaves_nothing_behind(void **state)
{
	for (unsigned lazy = 0; lazy < 2; lazy++) {
		struct mediator_cfg cfg = base_cfg;
		uint64_t iova = FAR - 2 * H;
		struct fixture *fx;

		cfg.pool_limit = 4 * 2 * H; /* four pages */
		cfg.quarantine_frames = lazy ? 8 : 0;
		fx = one_dart(state, &cfg, false);
		map(fx, IOVA, RAM, G, RO);
		map(fx, IOVA + H, RAM, G, RO);
		unmap(fx, IOVA, G);
		mediator_trim(fx->m);
		/* The first and the last two pages are free: two frames, then one behind them, for
		 * which a table is missing. */
		fx->mem.fail_table = 2;
		assert_int_equal(try_map(fx, iova, RAM + G, 3 * H, RW), -ENOMEM);
		assert_int_equal(fx->mem.fail_table, 0);
		assert_true(dev_read_faults(fx, iova));
		mediator_trim(fx->m);
		assert_int_equal(stats_of(fx).bounce_live, 1);
		assert_int_equal(stats_of(fx).bounce_bytes, 2 * H);
		map(fx, iova, RAM + G, 3 * H, RW);
		assert_int_equal(dev_read(fx, iova + H), *guest(fx, RAM + H + G));
		if (!lazy)
			teardown(state);
	}
}

static void what_can_never_fit_the_pool_is_refused_before_anything_is_copied(void **state)
{
	struct mediator_cfg cfg = parking_cfg(2);
	struct mediator_stats before;
	struct fixture *fx;

	cfg.pool_limit = 4 * 2 * H; /* four pages */
	fx = one_dart(state, &cfg, false);
	map(fx, IOVA + 8 * H, RAM, G, RW);
	unmap(fx, IOVA + 8 * H, G); /* parked */
	before = stats_of(fx);
	assert_int_equal(try_map(fx, IOVA, RAM + G, 5 * H, RW), -ENOMEM);
	assert_int_equal(stats_of(fx).bytes_to_device, before.bytes_to_device);
	assert_int_equal(stats_of(fx).instance_maps, before.instance_maps);
	assert_int_equal(stats_of(fx).parked_live, 1);
	/* with the parked one's page it fits */
	map(fx, IOVA, RAM + G, 4 * H, RW);
	assert_int_equal(stats_of(fx).parked_live, 0);
	/* and this one cannot, though a head of its own would */
	unmap(fx, IOVA, 4 * H);
	before = stats_of(fx);
	assert_int_equal(try_map(fx, IOVA + G, RAM, 6 * H, RW), -ENOMEM);
	assert_true(stats_of(fx).bytes_to_device - before.bytes_to_device <= H);
}

/* ---- quarantine ---- */

static struct mediator_cfg lazy_cfg(uint32_t frames)
{
	struct mediator_cfg cfg = base_cfg;

	cfg.quarantine_frames = frames;
	return cfg;
}

static void
unmap_of_bounced_memory_waits_for_no_invalidation_that_of_guest_memory_does(void **state)
{
	const struct mediator_cfg cfg = lazy_cfg(8);
	struct fixture *fx = one_dart(state, &cfg, false);
	struct mediator_stats before;

	map(fx, IOVA, RAM + G, G, RW);
	map(fx, IOVA + H, RAM + H, H, RW); /* direct */
	dev_write(fx, IOVA, 1);
	dev_write(fx, IOVA + H, 1);
	before = stats_of(fx);
	unmap(fx, IOVA, G);
	assert_int_equal(stats_of(fx).invalidations, before.invalidations);
	assert_int_equal(stats_of(fx).quarantined_live, 1);
	assert_int_equal(*guest(fx, RAM + G), 1);
	/* the DART remembers, and reaches a private page without the guest's bytes */
	assert_int_equal(dev_read(fx, IOVA), 0);
	dev_write(fx, IOVA, 0xbad);
	assert_int_equal(*guest(fx, RAM + G), 1);
	unmap(fx, IOVA + H, H);
	dev_write_faults(fx, IOVA + H);
	/* that invalidation has served the page as well */
	assert_int_equal(stats_of(fx).quarantined_live, 0);
	dev_write_faults(fx, IOVA);
}

/* Until it is told to forget, the DART uses what it remembers. */
static void write_stale(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value)
{
	struct fixture *fx = ctx;
	uint64_t bad = 0xbad;

	(void)value;
	if (offset != V1_COMMAND || !fx->hook_on)
		return;
	for (uint64_t at = 0; at < H; at += 8)
		fx->nr_hooked += !dart_model_dma_write(rig->model, 1, fx->hook_iova + at, &bad, 8);
}

static void a_quarantined_page_is_lent_to_nobody(void **state)
{
	struct mediator_cfg cfg = lazy_cfg(8);
	struct fixture *fx = one_dart(state, &cfg, false);

	fx->dart[0].before_write = write_stale;
	for (unsigned i = 0; i < 8; i++) {
		map(fx, IOVA + i * H, RAM + G, G, RW);
		dev_write(fx, IOVA + i * H, i);
		unmap(fx, IOVA + i * H, G);
		assert_int_equal(stats_of(fx).quarantined_live, 1);
		*guest(fx, RAM + (20 + i) * H + G) = i;
		fx->nr_hooked = 0;
		fx->hook_iova = IOVA + i * H;
		fx->hook_on = true;
		map(fx, IOVA + (20 + i) * H, RAM + (20 + i) * H + G, G, RW);
		fx->hook_on = false;
		assert_int_equal(fx->nr_hooked, H / 8);
		for (unsigned n = 0; n <= i; n++)
			assert_int_equal(dev_read(fx, IOVA + (20 + n) * H), n);
	}
}

static void quarantine_is_bounded_in_number_and_time(void **state)
{
	struct mediator_cfg cfg = lazy_cfg(3);
	struct fixture *fx;

	cfg.quarantine_ns = 1000;
	clock_now = 5000;
	fx = one_dart(state, &cfg, false);
	for (unsigned i = 0; i < 4; i++) {
		map(fx, IOVA + i * H, RAM + G, G, RW);
		(void)dev_read(fx, IOVA + i * H);
	}
	for (unsigned i = 0; i < 3; i++) {
		unmap(fx, IOVA + i * H, G);
		assert_int_equal(stats_of(fx).quarantined_live, i + 1);
	}
	unmap(fx, IOVA + 3 * H, G);
	assert_int_equal(stats_of(fx).quarantined_live, 0);
	assert_int_equal(stats_of(fx).bounce_bytes, 0);
	assert_int_equal(mediator_expire(fx->m), UINT64_MAX);

	map(fx, IOVA, RAM + G, G, RW);
	unmap(fx, IOVA, G);
	clock_now += 400;
	assert_int_equal(mediator_expire(fx->m), 600);
	assert_int_equal(stats_of(fx).quarantined_live, 1);
	clock_now += 600;
	assert_int_equal(mediator_expire(fx->m), UINT64_MAX);
	assert_int_equal(stats_of(fx).quarantined_live, 0);
	assert_true(dev_read_faults(fx, IOVA));
}

/* The DART remembers the old page; what is mapped there next must not be reached by it. */
static void what_is_mapped_over_a_quarantined_page_is_what_devices_reach(void **state)
{
	static const struct {
		uint64_t gpa, len;
	} rows[] = {
		{RAM + 5 * H + 2 * G, G},     /* its own page again */
		{RAM + 8 * H, H},	      /* direct */
		{RAM + 8 * H, 4 * H},	      /* direct, more */
		{RAM + 8 * H + G, 4 * H},     /* bounced, a run */
		{RAM + 8 * H + G, 2 * H + G}, /* a run and a part */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct mediator_cfg cfg = lazy_cfg(8);
		struct fixture *fx = one_dart(state, &cfg, false);

		map(fx, IOVA, RAM + G, G, RW);
		map(fx, IOVA + H, RAM + 3 * G, 2 * H, RO);
		(void)dev_read(fx, IOVA);
		(void)dev_read(fx, IOVA + H);
		(void)dev_read(fx, IOVA + 2 * H);
		unmap(fx, IOVA, 3 * H);
		assert_int_equal(stats_of(fx).quarantined_live, 3);
		map(fx, IOVA, rows[i].gpa, rows[i].len, RW);
		for (uint64_t at = 0; at < rows[i].len; at += G) {
			assert_int_equal(dev_read(fx, IOVA + at), *guest(fx, rows[i].gpa + at));
			dev_write(fx, IOVA + at + 8, at + 1);
		}
		unmap(fx, IOVA, rows[i].len);
		for (uint64_t at = 0; at < rows[i].len; at += G)
			assert_int_equal(*guest(fx, rows[i].gpa + at + 8), at + 1);
		mediator_trim(fx->m);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		if (i + 1 < ARRAY_SIZE(rows))
			teardown(state);
	}
}

/* ---- an instance that does not answer ---- */

static void hang_next(struct fixture *fx, unsigned i)
{
	struct dart_model_quirks quirks;

	dart_model_get_quirks(fx->dart[i].model, &quirks);
	quirks.fail_invalidation = 1;
	dart_model_set_quirks(fx->dart[i].model, &quirks);
}

static void a_failed_invalidation_blocks_its_streams_and_keeps_the_pages(void **state)
{
	const struct mediator_cfg cfg = lazy_cfg(8);
	struct fixture *fx = one_dart(state, &cfg, false);
	uint64_t was = *guest(fx, RAM + H), bytes;

	map(fx, IOVA, RAM + G, G, RW);
	map(fx, IOVA + H, RAM + H, H, RW);
	dev_write(fx, IOVA + H + 8, 1);
	bytes = stats_of(fx).bounce_bytes;
	unmap(fx, IOVA, G); /* in quarantine */
	hang_next(fx, 0);
	assert_int_equal(mediator_unmap(fx->m, 1, IOVA + H, IOVA + 2 * H - 1), -EIO);
	dev_write_faults(fx, IOVA + H);
	assert_int_equal(*guest(fx, RAM + H), was);
	assert_true(stats_of(fx).instance_errors > 0);
	assert_int_equal(stats_of(fx).bounce_bytes, bytes); /* lost, not lent again */
	assert_int_equal(mediator_detach(fx->m, 1, 0), 0);
	assert_int_equal(stats_of(fx).bounce_bytes, bytes);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), -EIO);
}

static void what_a_device_leaves_without_confirmation_is_not_lent_again(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	uint64_t bytes;

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T6000, 14, false);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	map(fx, IOVA, RAM + G, G, RW);
	bytes = stats_of(fx).bounce_bytes;
	hang_next(fx, 1);
	assert_int_equal(mediator_detach(fx->m, 1, 1), 0);
	assert_int_equal(stats_of(fx).instance_errors, 1);
	assert_false(dev_write_on(fx, 1, IOVA, 1));
	/* the other goes on */
	dev_write(fx, IOVA, 2);
	unmap(fx, IOVA, G);
	assert_int_equal(*guest(fx, RAM + G), 2);
	assert_int_equal(stats_of(fx).bounce_bytes, bytes);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), -EIO);
}

static void a_map_whose_invalidation_fails_is_undone_everywhere(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	uint64_t value;

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T6000, 14, false);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	map(fx, IOVA, RAM + H, H, RW);
	hang_next(fx, 1);
	assert_int_equal(try_map(fx, IOVA + H, RAM + 2 * H, H, RW), -EIO);
	assert_true(dev_read_faults(fx, IOVA + H));
	assert_false(dev_read_on(fx, 1, IOVA + H, &value));
	assert_false(dev_read_on(fx, 1, IOVA, &value)); /* blocked */
	assert_int_equal(dev_read(fx, IOVA), *guest(fx, RAM + H));
	assert_int_equal(stats_of(fx).mappings, 1);
	/* the other goes on */
	map(fx, IOVA + H, RAM + 2 * H, H, RW);
	assert_int_equal(dev_read(fx, IOVA + H), *guest(fx, RAM + 2 * H));
	unmap(fx, IOVA, 2 * H);
	dev_write_faults(fx, IOVA);
}

/* ---- several instances ---- */

static void instances_of_a_kind_share_one_table(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	unsigned tables;
	uint64_t value;

	for (unsigned i = 0; i < 4; i++)
		add_dart(fx, i, i < 3 ? DART_MODEL_T6000 : DART_MODEL_T8020, 14, false);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	map(fx, IOVA, RAM + H, H, RW);
	tables = fx->mem.nr_tables;
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 2, false), 0);
	assert_int_equal(fx->mem.nr_tables, tables);
	assert_int_equal(mediator_attach(fx->m, 1, 3, false), 0);
	assert_int_equal(fx->mem.nr_tables, 2 * tables);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(dev_read_on(fx, i, IOVA, &value));
		assert_int_equal(value, *guest(fx, RAM + H));
	}
	/* the one that made it leaves: the others still walk it */
	assert_int_equal(mediator_detach(fx->m, 1, 0), 0);
	assert_false(dev_read_on(fx, 0, IOVA, &value));
	assert_true(dev_read_on(fx, 1, IOVA, &value));
	unmap(fx, IOVA, H);
	for (unsigned i = 0; i < 4; i++)
		assert_false(dev_read_on(fx, i, IOVA, &value));
}

static void count_command(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value)
{
	struct fixture *fx = ctx;

	(void)rig;
	(void)value;
	if (offset == V1_COMMAND)
		fx->nr_hooked++;
}

/* Who asks whether one has ended must have started all. */
static void check_all_started(void *ctx, struct rig_dart *rig, uint32_t offset)
{
	struct fixture *fx = ctx;

	(void)rig;
	if (fx->hook_on && offset == V1_COMMAND && fx->nr_hooked)
		assert_int_equal(fx->nr_hooked, NR_DARTS);
}

static void every_invalidation_is_started_before_any_is_waited_for(void **state)
{
	struct fixture *fx = start(state, &base_cfg);

	for (unsigned i = 0; i < NR_DARTS; i++)
		add_dart(fx, i, DART_MODEL_T6000, 14, false);
	for (unsigned i = 0; i < NR_DARTS; i++)
		assert_int_equal(mediator_attach(fx->m, 1, i, false), 0);
	map(fx, IOVA, RAM + H, H, RW);
	for (unsigned i = 0; i < NR_DARTS; i++) {
		fx->dart[i].on_write = count_command;
		fx->dart[i].on_read = check_all_started;
	}
	fx->nr_hooked = 0;
	fx->hook_on = true;
	unmap(fx, IOVA, H);
	assert_int_equal(fx->nr_hooked, NR_DARTS);
}

static void a_map_that_one_instance_cannot_take_leaves_the_others_as_they_were(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	struct stream stream = {.inst = &fx->fake.inst};
	uint64_t value;

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T6000, 14, false);
	fake_init(&fx->fake, H, 0, 0xffffffff);
	add_streams(fx, 4, &stream, 1);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	/* the second table: no memory for its leaves */
	fx->mem.fail_table = 2;
	assert_int_equal(try_map(fx, IOVA, RAM + H, H, RW), -ENOMEM);
	assert_true(dev_read_faults(fx, IOVA));
	fx->mem.fail_table = 0;
	/* the kernel's container refuses, whatever its place in the order */
	assert_int_equal(mediator_attach(fx->m, 1, 4, false), 0);
	for (unsigned shape = 0; shape < 4; shape++) {
		fx->fake.fail_map = shape == 3 ? 2 : 1;
		assert_int_equal(try_map(fx, IOVA + (shape == 2) * G,
					 RAM + H + (shape & 1) * G + (shape == 2) * G,
					 shape == 2 ? G : 2 * H + (shape == 3) * G, RW),
				 -ENOMEM);
		for (unsigned i = 0; i < 2; i++)
			assert_false(dev_read_on(fx, i, IOVA + (shape == 2) * G, &value));
		assert_int_equal(fx->fake.nr, 0);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		assert_int_equal(stats_of(fx).mappings, 0);
	}
	map(fx, IOVA, RAM + H, H, RW);
	assert_int_equal(dev_read(fx, IOVA), *guest(fx, RAM + H));
}

/* The moment the stream translates, everything is there. */
static void probe_all(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value)
{
	struct fixture *fx = ctx;
	uint64_t pa;

	if (!fx->hook_on || offset != 0x104 || !(value & 0x80))
		return;
	fx->nr_hooked++;
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(dart_model_probe(rig->model, 1, IOVA + i * H, false, &pa), 0);
}

static void mappings_are_replayed_before_the_stream_is_enabled(void **state)
{
	struct fixture *fx = start(state, &base_cfg);

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T6000, 14, false);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	for (unsigned i = 0; i < 8; i++)
		map(fx, IOVA + i * H, RAM + i * H + (i & 1) * G, i & 2 ? H : G, RW);
	fx->dart[1].on_write = probe_all;
	fx->hook_on = true;
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_int_equal(fx->nr_hooked, 1);
}

static void streams_of_one_dart_live_in_domains_of_their_own(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	const struct mapping other = {
		.start = IOVA, .last = IOVA + H - 1, .gpa = RAM + 2 * H, .flags = RW};
	struct stream stream;
	uint64_t value;

	add_dart(fx, 0, DART_MODEL_T6000, 14, false);
	stream = (struct stream){fx->dart[0].inst, 2};
	add_streams(fx, 1, &stream, 1);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 1, false), 0);
	map(fx, IOVA, RAM + H, H, RW);
	assert_int_equal(mediator_map(fx->m, 2, &other), 0);
	assert_int_equal(dev_read(fx, IOVA), *guest(fx, RAM + H));
	assert_int_equal(dart_model_dma_read(fx->dart[0].model, 2, IOVA, &value, 8), 0);
	assert_int_equal(value, *guest(fx, RAM + 2 * H));
	unmap(fx, IOVA, H);
	assert_true(dev_read_faults(fx, IOVA));
	assert_int_equal(dart_model_dma_read(fx->dart[0].model, 2, IOVA, &value, 8), 0);
	assert_int_equal(mediator_unmap(fx->m, 2, IOVA, IOVA + H - 1), 0);
	assert_int_not_equal(dart_model_dma_read(fx->dart[0].model, 2, IOVA, &value, 8), 0);
}

static void each_granule_is_shadowed_at_its_own(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	uint64_t value = 0;

	add_dart(fx, 0, DART_MODEL_T8020, 14, false);
	add_dart(fx, 1, DART_MODEL_T8020, 12, false);
	assert_int_equal(mediator_frame_size(fx->m), H);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	map(fx, IOVA, RAM + G, G, RW);
	map(fx, IOVA + 2 * G, RAM + 5 * G, G, RO);
	map(fx, IOVA + H, RAM + H + G, 2 * H, WO); /* a run out of step */
	map(fx, IOVA + 4 * H, RAM + 4 * H, H, RW); /* direct */
	/* one page behind both, so a device that masters through both sees one memory */
	assert_true(dev_write_on(fx, 1, IOVA + 8, 5));
	assert_int_equal(dev_read(fx, IOVA + 8), 5);
	/* where the granule is the guest's, rights and holes are the guest's too */
	assert_false(dev_read_on(fx, 1, IOVA + G, &value));
	assert_false(dev_write_on(fx, 1, IOVA + 2 * G, 0xbad));
	assert_true(dev_read_on(fx, 1, IOVA + 2 * G, &value));
	assert_int_equal(value, *guest(fx, RAM + 5 * G));
	assert_false(dev_read_on(fx, 1, IOVA + H, &value));
	assert_true(dev_write_on(fx, 1, IOVA + H, 6));
	assert_true(dev_write_on(fx, 1, IOVA + 4 * H, 7));
	assert_int_equal(*guest(fx, RAM + 4 * H), 7);
	unmap(fx, IOVA, G);
	assert_false(dev_write_on(fx, 1, IOVA, 0xbad));
	assert_true(dev_read_on(fx, 1, IOVA + 2 * G, &value));
	assert_int_equal(*guest(fx, RAM + G + 8), 5);
	unmap(fx, IOVA, 8 * H);
	assert_int_equal(*guest(fx, RAM + H + G), 6);
	for (unsigned i = 0; i < 5; i++)
		assert_false(dev_read_on(fx, 1, IOVA + i * H, &value));
}

/* ---- lists ---- */

static void check_sg(struct fixture *fx, uint64_t iova, const struct sg_segment *sg, unsigned nr)
{
	uint64_t at = iova;

	sync_all(fx);
	for (unsigned i = 0; i < nr; i++) {
		for (uint64_t off = 0; off < sg[i].len; off += 512, at += 512)
			assert_int_equal(dev_read(fx, at), *guest(fx, sg[i].gpa + off));
	}
}

static void the_historical_traps_of_scatter_gather_are_none(void **state)
{
	static const struct {
		uint64_t iova;
		struct sg_segment sg;
	} rows[] = {
		{IOVA, {0x802e65000, 0x1000}}, /* offset 0, not the start of its 16 KiB page */
		{IOVA, {0x802e65000, 0x8000}},
		{0xbff40000, {RAM + 0x3b000, 0x4000}}, /* 0x801a3b000 in the original: as far into a
							  host page */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture *fx = one_dart(state, &base_cfg, true);
		uint64_t last = rows[i].iova + rows[i].sg.len - 1;
		uint64_t before = *guest(fx, rows[i].sg.gpa - 8);
		uint64_t after = *guest(fx, rows[i].sg.gpa + rows[i].sg.len);

		assert_int_equal(mediator_map_sg(fx->m, 1, rows[i].iova, &rows[i].sg, 1, RW), 0);
		check_sg(fx, rows[i].iova, &rows[i].sg, 1);
		/* not a byte more, on either side */
		(void)dev_write_on(fx, 0, rows[i].iova - 8, 0xbad);
		(void)dev_write_on(fx, 0, last + 1, 0xbad);
		sync_all(fx);
		assert_int_equal(*guest(fx, rows[i].sg.gpa - 8), before);
		assert_int_equal(*guest(fx, rows[i].sg.gpa + rows[i].sg.len), after);
		assert_int_equal(mediator_unmap(fx->m, 1, rows[i].iova, last), 0);
		assert_int_equal(stats_of(fx).mappings, 0);
		if (i + 1 < ARRAY_SIZE(rows))
			teardown(state);
	}
}

static void a_list_is_mapped_in_one_piece_with_its_middle_direct(void **state)
{
	static const struct sg_segment sg[] = {
		{RAM + 3 * G, G},  /* ends a host frame */
		{RAM + 10 * H, H}, /* continued by the next: one mapping */
		{RAM + 11 * H, 3 * H},	   {RAM + 20 * H, G}, /* starts one */
		{RAM + 30 * H + 2 * G, G},		      /* out of step */
	};
	struct fixture *fx = one_dart(state, &base_cfg, false);

	assert_int_equal(mediator_map_sg(fx->m, 1, IOVA + 3 * G, sg, ARRAY_SIZE(sg), RW), 0);
	assert_int_equal(stats_of(fx).mappings, 4);
	assert_int_equal(stats_of(fx).direct_live, 4);
	assert_int_equal(stats_of(fx).bounce_live, 2);
	assert_int_equal(stats_of(fx).invalidations, 1); /* of the enabling apart */
	check_sg(fx, IOVA + 3 * G, sg, ARRAY_SIZE(sg));
}

static void a_list_of_any_alignment_lands_where_it_should(void **state)
{
	for (unsigned seed = 1; seed <= 200; seed++) {
		struct mediator_cfg cfg = base_cfg;
		struct sg_segment sg[12];
		struct fixture *fx;
		unsigned nr = 1 + seed % ARRAY_SIZE(sg);
		uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15), len = 0;
		uint64_t iova = IOVA + (seed & 3) * G;

		cfg.promote = seed & 8;
		cfg.park_limit = seed & 16 ? 32 * 2 * H : 0;
		cfg.quarantine_frames = seed & 32 ? 8 : 0;
		fx = one_dart(state, &cfg, seed & 4);
		for (unsigned i = 0; i < nr; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			sg[i] = (struct sg_segment){RAM + (i * 7 * H) + (x >> 60) * G,
						    (1 + (x >> 40) % 9) * G};
			len += sg[i].len;
		}
		assert_int_equal(mediator_map_sg(fx->m, 1, iova, sg, nr, seed & 64 ? RO : RW), 0);
		check_sg(fx, iova, sg, nr);
		assert_int_equal(mediator_unmap(fx->m, 1, iova, iova + len - 1), 0);
		assert_int_equal(stats_of(fx).mappings, 0);
		mediator_trim(fx->m);
		assert_int_equal(stats_of(fx).bounce_bytes, 0);
		if (seed < 200)
			teardown(state);
	}
}

static void a_list_is_mapped_whole_or_not_at_all(void **state)
{
	static const struct sg_segment sg[] = {
		{RAM + G, G}, {RAM + H, 2 * H}, {RAM + 9 * H + G, H}};
	static const struct {
		uint64_t iova;
		struct sg_segment sg[2];
		unsigned nr;
		int ret;
	} bad[] = {
		{IOVA, {{RAM, 0}}, 1, -ERANGE},
		{IOVA, {{RAM, G}, {RAM + 100, G}}, 2, -ERANGE},
		{IOVA, {{RAM, G}, {RAM, 100}}, 2, -ERANGE},
		{IOVA + 100, {{RAM, G}}, 1, -ERANGE},
		{IOVA, {{RAM, G}}, 0, -EINVAL},
		{IOVA, {{RAM, G}, {RAM + RAM_LEN, G}}, 2, -EFAULT},
		{IOVA, {{RAM + RAM_LEN, G}, {RAM, G}}, 2, -EFAULT},
		{IOVA, {{RAM, G}, {UINT64_MAX - G + 1, 2 * G}}, 2, -ERANGE},
		{UINT64_MAX - G + 1, {{RAM, G}, {RAM + H, G}}, 2, -ERANGE},
		{IOVA + 38 * G,
		 {{RAM, G}, {RAM + H, 2 * G}},
		 2,
		 -EINVAL}, /* overlaps, in the end */
	};
	struct fixture *fx = one_dart(state, &base_cfg, true);
	unsigned n;

	map(fx, IOVA + 40 * G, RAM, G, RW);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(mediator_map_sg(fx->m, 1, bad[i].iova, bad[i].sg, bad[i].nr, RW),
				 bad[i].ret);
	assert_int_equal(mediator_map_sg(fx->m, 1, IOVA, sg, 1, MAP_MMIO), -EINVAL);
	assert_int_equal(stats_of(fx).mappings, 1);
	for (n = 1;; n++) {
		int ret;

		iommu_alloc_fail_nth(n);
		ret = mediator_map_sg(fx->m, 1, IOVA, sg, ARRAY_SIZE(sg), RW);
		if (iommu_alloc_fail_nth(0)) {
			assert_int_equal(ret, 0);
			break;
		}
		if (!ret) { /* something went on without */
			unmap(fx, IOVA, 14 * G);
			continue;
		}
		assert_int_equal(ret, -ENOMEM);
		assert_int_equal(stats_of(fx).mappings, 1);
		assert_true(dev_read_faults(fx, IOVA));
		assert_true(dev_read_faults(fx, IOVA + G));
	}
	check_sg(fx, IOVA, sg, ARRAY_SIZE(sg));
	/* where there is no table yet, and of two tables at once */
	for (n = 1;; n++) {
		int ret;

		fx->mem.fail_table = n;
		ret = mediator_map_sg(fx->m, 1, FAR - 2 * G, sg, ARRAY_SIZE(sg), RW);
		if (fx->mem.fail_table)
			break;
		assert_int_equal(ret, -ENOMEM);
		assert_int_equal(stats_of(fx).mappings, 4);
		assert_true(dev_read_faults(fx, FAR - 2 * G));
		assert_true(dev_read_faults(fx, FAR));
	}
	fx->mem.fail_table = 0;
	assert_true(n > 1);
	check_sg(fx, FAR - 2 * G, sg, ARRAY_SIZE(sg));
}

/* ---- bounds ---- */

static void mappings_of_all_domains_are_bounded_together(void **state)
{
	struct mediator_cfg cfg = base_cfg;
	struct fixture *fx;
	struct mapping one = {.start = IOVA, .last = IOVA + G - 1, .gpa = RAM, .flags = RW};

	cfg.max_mappings_total = 3;
	fx = start(state, &cfg);
	add_dart(fx, 0, DART_MODEL_T6000, 14, true);
	add_dart(fx, 1, DART_MODEL_T6000, 14, true);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 1, false), 0);
	map(fx, IOVA, RAM, G, RW);
	map(fx, IOVA + G, RAM + G, G, RW);
	assert_int_equal(mediator_map(fx->m, 2, &one), 0);
	one.start += H;
	one.last += H;
	assert_int_equal(mediator_map(fx->m, 2, &one), -ENOMEM);
	unmap(fx, IOVA, G);
	assert_int_equal(mediator_map(fx->m, 2, &one), 0);
}

/* ---- faults ---- */

static void a_fault_is_told_for_every_endpoint_of_its_stream(void **state)
{
	struct fixture *fx = start(state, &base_cfg);
	struct fault fault = {
		.endpoint = 77, .reason = FAULT_MAPPING, .flags = FAULT_ADDRESS, .iova = IOVA};
	struct stream streams[2];
	uint32_t first;

	add_dart(fx, 0, DART_MODEL_T6000, 14, false);
	streams[0] = (struct stream){fx->dart[0].inst, 1};
	streams[1] = (struct stream){fx->dart[0].inst, 3};
	add_streams(fx, 2, streams, 2);
	add_dart(fx, 1, DART_MODEL_T6000, 14, false); /* has a stream 1 too */
	mediator_fault(fx->m, fx->dart[0].inst, 1, &fault);
	assert_int_equal(faultlog_total(mediator_faultlog(fx->m)), 2);
	mediator_fault(fx->m, fx->dart[0].inst, 3, &fault);
	assert_int_equal(faultlog_total(mediator_faultlog(fx->m)), 3);
	mediator_fault(fx->m, fx->dart[0].inst, 4, &fault);
	assert_int_equal(faultlog_total(mediator_faultlog(fx->m)), 3);
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	first = fault.endpoint;
	assert_true(first == 0 || first == 2);
	assert_int_equal(fault.iova, IOVA);
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	assert_int_equal(fault.endpoint, 2 - first);
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	assert_int_equal(fault.endpoint, 2);
}

/* From the hardware's latch to the log: what a hypervisor's interrupt handler does. */
static void tell_mediator(void *ctx, struct dart *dart, const struct dart_fault *found)
{
	struct fixture *fx = ctx;
	const struct fault fault = {
		.reason = found->reason, .flags = found->flags, .iova = found->iova};

	mediator_fault(fx->m, dart_instance(dart), dart_remap(dart, found->sid), &fault);
}

static void faults_of_devices_come_out_in_order_with_what_was_lost_counted(void **state)
{
	struct mediator_cfg cfg = base_cfg;
	struct fixture *fx;
	struct fault fault;
	unsigned taken = 0;

	cfg.fault_rate = 1;
	clock_now = 0;
	fx = one_dart(state, &cfg, false);
	fx->dart[0].fault_to = tell_mediator;
	map(fx, IOVA, RAM + H, H, RO);
	assert_true(dev_read_faults(fx, IOVA + H + 8));
	assert_true(dart_irq(fx->dart[0].dart));
	dev_write_faults(fx, IOVA + 16);
	assert_true(dart_irq(fx->dart[0].dart));
	assert_false(dart_irq(fx->dart[0].dart));
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	assert_int_equal(fault.iova, IOVA + H + 8);
	assert_int_equal(fault.reason, FAULT_MAPPING);
	assert_int_equal(fault.endpoint, 0);
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	assert_int_equal(fault.iova, IOVA + 16);
	assert_int_equal(fault.reason, FAULT_MAPPING);
	assert_true(fault.flags & FAULT_WRITE);

	for (unsigned i = 0; i < 1000; i++) {
		assert_true(dev_read_faults(fx, IOVA + H + i * 8));
		assert_true(dart_irq(fx->dart[0].dart));
		/* whoever takes at once gets no more of them: the rate is bounded, not the room */
		while (faultlog_take(mediator_faultlog(fx->m), &fault))
			assert_int_equal(fault.iova, IOVA + H + taken++ * 8);
	}
	assert_int_equal(stats_of(fx).faults, 1002);
	assert_int_equal(stats_of(fx).faults_lost, 1000 - taken);
	assert_true(taken && taken < 1000);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_congruent_part_of_a_frame_is_guest_memory_and_the_rest_a_fault),
		TEST(without_windows_it_is_bounced),
		TEST(a_window_follows_its_neighbours),
		TEST(a_neighbour_that_fits_no_window_makes_it_bounce),
		TEST(a_window_that_becomes_bounce_loses_no_late_write),
		TEST(a_frame_whose_last_hole_fills_becomes_direct_if_that_is_the_policy),
		TEST(a_frame_that_becomes_direct_is_so_at_every_granule),
		TEST(a_bounce_frame_that_becomes_direct_loses_no_late_write),
		TEST(a_direct_frame_that_loses_a_slot_becomes_bounce_and_loses_no_late_write),
		TEST(a_map_that_fails_after_a_frame_became_direct_leaves_it_as_it_was),
		TEST(an_unmap_never_needs_a_page_that_is_not_there),
		TEST(a_window_that_was_cut_off_stays_so_until_its_last_slot_has_gone),
		TEST(windows_end_when_an_instance_comes_that_has_none),
		TEST(a_parked_frame_is_mapped_again_by_copying_alone),
		TEST(a_parked_frame_shows_nothing_and_takes_nothing),
		TEST(parking_is_bounded_and_the_oldest_goes_first),
		TEST(what_makes_way_for_a_mapping_is_invalidated_once),
		TEST(a_parked_run_serves_the_same_run_again),
		TEST(a_parked_frame_makes_way_for_what_it_cannot_serve),
		TEST(a_short_pool_takes_what_is_parked_in_any_domain),
		TEST(a_body_whose_second_run_fails_leaves_nothing_behind),
		TEST(what_can_never_fit_the_pool_is_refused_before_anything_is_copied),
		TEST(unmap_of_bounced_memory_waits_for_no_invalidation_that_of_guest_memory_does),
		TEST(a_quarantined_page_is_lent_to_nobody),
		TEST(quarantine_is_bounded_in_number_and_time),
		TEST(what_is_mapped_over_a_quarantined_page_is_what_devices_reach),
		TEST(a_failed_invalidation_blocks_its_streams_and_keeps_the_pages),
		TEST(what_a_device_leaves_without_confirmation_is_not_lent_again),
		TEST(a_map_whose_invalidation_fails_is_undone_everywhere),
		TEST(instances_of_a_kind_share_one_table),
		TEST(every_invalidation_is_started_before_any_is_waited_for),
		TEST(a_map_that_one_instance_cannot_take_leaves_the_others_as_they_were),
		TEST(mappings_are_replayed_before_the_stream_is_enabled),
		TEST(streams_of_one_dart_live_in_domains_of_their_own),
		TEST(each_granule_is_shadowed_at_its_own),
		TEST(the_historical_traps_of_scatter_gather_are_none),
		TEST(a_list_is_mapped_in_one_piece_with_its_middle_direct),
		TEST(a_list_of_any_alignment_lands_where_it_should),
		TEST(a_list_is_mapped_whole_or_not_at_all),
		TEST(mappings_of_all_domains_are_bounded_together),
		TEST(a_fault_is_told_for_every_endpoint_of_its_stream),
		TEST(faults_of_devices_come_out_in_order_with_what_was_lost_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
