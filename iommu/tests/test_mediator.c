/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests, errors, and the guarantees of design.md one by one, on fake instances with a 16 KiB
 * granule under a 4 KiB guest. The random test against an oracle is test_oracle.c.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/frame.h"
#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x40000000ull
#define RAM_LEN	 0x100000ull
#define APERTURE 0xffffffffull

enum { RW = MAP_READ | MAP_WRITE, RO = MAP_READ, WO = MAP_WRITE };

struct fixture {
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct fake_instance inst[3];
	struct endpoint *ep[3]; /* ids 1, 2, 3 */
	unsigned nr_log;
	unsigned nr_held, nr_released;
};

static void count_line(void *ctx, const char *line)
{
	(void)line;
	((struct fixture *)ctx)->nr_log++;
}

static void hold(void *ctx)
{
	((struct fixture *)ctx)->nr_held++;
}

static void release(void *ctx)
{
	((struct fixture *)ctx)->nr_released++;
}

static void add_endpoint(struct fixture *fx, unsigned i, struct fake_instance *inst,
			 enum sync_mode sync, bool relaxed)
{
	const struct stream one = {.inst = &inst->inst};
	const struct endpoint_cfg cfg = {
		.id = i + 1,
		.name = "test",
		.streams = &one,
		.nr_streams = 1,
		.sync = sync,
		.relaxed = relaxed,
	};

	assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[i]), 0);
}

static struct fixture *make_parking(void **state, uint64_t pool_pages, uint64_t park_pages)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = G,
		.pool_limit = pool_pages * 2 * H,
		.park_limit = park_pages * 2 * H,
		.max_domains = 8,
		.max_mappings = 100,
		.doorbell = {0x01030000, 0x0103ffff},
		.log = count_line,
		.log_ctx = fx,
		.hold = hold,
		.release = release,
		.hold_ctx = fx,
	};

	fx->ram = aligned_alloc(0x10000, RAM_LEN);
	for (size_t i = 0; i < RAM_LEN; i++)
		fx->ram[i] = (uint8_t)(1 + i * 7 % 255);
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	for (int i = 0; i < 3; i++)
		fake_init(&fx->inst[i], H, 0, APERTURE);
	*state = fx;
	return fx;
}

static struct fixture *make_mediator(void **state, uint64_t pool_pages)
{
	return make_parking(state, pool_pages, 0);
}

/* Three endpoints, each on an instance of its own. */
static int setup(void **state)
{
	struct fixture *fx = make_mediator(state, 32);

	for (unsigned i = 0; i < 3; i++)
		add_endpoint(fx, i, &fx->inst[i], SYNC_FULL, false);
	return 0;
}

static int setup_parking(void **state)
{
	struct fixture *fx = make_parking(state, 32, 8);

	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	return 0;
}

static int setup_relaxed(void **state)
{
	struct fixture *fx = make_mediator(state, 32);

	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, true);
	add_endpoint(fx, 1, &fx->inst[1], SYNC_FULL, false);
	return 0;
}

/* Endpoints 1 and 2 share an instance, as the functions of one VFIO group do. */
static int setup_shared(void **state)
{
	struct fixture *fx = make_mediator(state, 32);

	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	add_endpoint(fx, 1, &fx->inst[0], SYNC_FULL, false);
	add_endpoint(fx, 2, &fx->inst[1], SYNC_FULL, false);
	return 0;
}

static int setup_two_pages(void **state)
{
	struct fixture *fx = make_mediator(state, 2);

	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;
	struct mediator_stats stats;

	mediator_reset(fx->m);
	mediator_get_stats(fx->m, &stats);
	/* nothing leaks: no mapping, no frame, no bounce page outlives its domain */
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.direct_live + stats.exposed_live + stats.bounce_live, 0);
	if (!stats.instance_errors)
		assert_int_equal(stats.bounce_bytes, 0);
	mediator_destroy(fx->m);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fx->inst[i].nr, 0);
	free(fx->ram);
	free(fx);
	return 0;
}

static int map(struct fixture *fx, uint32_t domain, uint64_t start, uint64_t len, uint64_t gpa,
	       uint32_t flags)
{
	const struct mapping m = {
		.start = start, .last = start + len - 1, .gpa = gpa, .flags = flags};

	return mediator_map(fx->m, domain, &m);
}

static void attach(struct fixture *fx, uint32_t domain, uint32_t ep)
{
	assert_int_equal(mediator_attach(fx->m, domain, ep, false), 0);
}

static uint8_t *at(struct fixture *fx, uint64_t gpa)
{
	return fx->ram + (gpa - RAM);
}

static void dma(struct fixture *fx, unsigned i, uint64_t iova, uint8_t byte, size_t len)
{
	for (size_t n = 0; n < len; n++)
		assert_true(fake_dma_write(&fx->inst[i], iova + n, &byte, 1));
}

static uint8_t seen_by(struct fixture *fx, unsigned i, uint64_t iova)
{
	uint8_t byte = 0;

	assert_true(fake_dma_read(&fx->inst[i], iova, &byte, 1));
	return byte;
}

static struct mediator_stats stats_of(struct fixture *fx)
{
	struct mediator_stats stats;

	mediator_get_stats(fx->m, &stats);
	return stats;
}

/* ---- requests and their errors ---- */

static void every_bad_map_is_refused_and_changes_nothing(void **state)
{
	static const struct {
		uint32_t domain;
		uint64_t start, last, gpa;
		uint32_t flags;
		int ret;
	} rows[] = {
		{9, 0x10000, 0x10fff, RAM, RW, -ENOENT},
		{2, 0x10000, 0x10fff, RAM, RW, -EINVAL}, /* bypass domain */
		{1, 0x10000, 0x10fff, RAM, RW | 8, -EINVAL},
		{1, 0x10800, 0x10fff, RAM, RW, -ERANGE},
		{1, 0x10000, 0x107ff, RAM, RW, -ERANGE},
		{1, 0x10000, 0x10fff, RAM + 0x800, RW, -ERANGE},
		{1, 0x11000, 0x10fff, RAM, RW, -ERANGE},
		{1, 0x11000, 0xfff, RAM, RW, -ERANGE},
		{1, APERTURE + 1, APERTURE + G, RAM, RW, -ERANGE},
		{1, APERTURE + 1 - G, APERTURE + G, RAM, RW, -ERANGE},
		{1, 0, UINT64_MAX, RAM, RW, -ERANGE},
		{1, UINT64_MAX - 0xfff, UINT64_MAX, RAM, RW, -ERANGE},
		{1, 0x1030000, 0x1030fff, RAM, RW, -EINVAL}, /* the doorbell */
		{1, 0x1000000, 0x1ffffff, RAM, RW, -EINVAL},
		{1, 0x10000, 0x10fff, RAM - G, RW, -EFAULT},
		{1, 0x10000, 0x10fff, RAM + RAM_LEN, RW, -EFAULT},
		{1, 0x10000, 0x11fff, RAM + RAM_LEN - G, RW, -EFAULT},
		{1, 0x10000, 0x11fff, 0xfffffffffffff000, RW, -EFAULT},
		{1, 0x10000, 0x10fff, 0x2000000, RW | MAP_MMIO, -EFAULT},
		{1, 0x10000, 0x10fff, 0x1030000, RW, -EFAULT}, /* doorbell without MMIO */
		{1, 0x1f000, 0x1ffff, RAM, RW, -EINVAL},       /* overlaps [0x1f000, 0x20fff] */
		{1, 0x20000, 0x20fff, RAM, RW, -EINVAL},
		{1, 0x1e000, 0x21fff, RAM, RW, -EINVAL},
		{1, 0x1e000, 0x1ffff, RAM, RW, -EINVAL},
	};
	struct fixture *fx = *state;
	struct mediator_stats before, after;
	unsigned nr;

	attach(fx, 1, 1);
	assert_int_equal(mediator_attach(fx->m, 2, 2, true), 0);
	assert_int_equal(map(fx, 1, 0x1f000, 2 * G, RAM, RW), 0);
	before = stats_of(fx);
	nr = fx->inst[0].nr;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct mapping m = {rows[i].start, rows[i].last, rows[i].gpa, rows[i].flags};

		if (mediator_map(fx->m, rows[i].domain, &m) != rows[i].ret)
			fail_msg("row %zu: %d", i, mediator_map(fx->m, rows[i].domain, &m));
	}
	after = stats_of(fx);
	assert_int_equal(after.refused, before.refused + ARRAY_SIZE(rows));
	after.refused = before.refused;
	assert_memory_equal(&after, &before, sizeof(after));
	assert_int_equal(fx->inst[0].nr, nr);
}

static void a_list_goes_only_where_a_mapping_may(void **state)
{
	static const struct sg_segment sg[] = {{RAM, G}, {RAM + 2 * G, G}};
	static const struct {
		uint32_t domain;
		uint64_t iova;
		int ret;
	} rows[] = {
		{9, 0x10000, -ENOENT},	    {2, 0x10000, -EINVAL},    /* bypass domain */
		{1, 0x01030000, -EINVAL},   {1, 0x0102f000, -EINVAL}, /* the second segment */
		{1, 0x0103f000, -EINVAL},			      /* the first */
		{1, APERTURE + 1, -ERANGE}, {1, APERTURE + 1 - G, -ERANGE}, {1, 0x1040000, 0},
	};
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(mediator_attach(fx->m, 2, 2, true), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(mediator_map_sg(fx->m, rows[i].domain, rows[i].iova, sg, 2, RW),
				 rows[i].ret);
	assert_int_equal(stats_of(fx).mappings, 2);
}

static void a_list_ends_with_the_address_space(void **state)
{
	static const struct sg_segment sg[] = {{RAM, H}, {RAM + 2 * H, H}};
	struct fixture *fx = make_mediator(state, 8);

	fake_init(&fx->inst[0], H, 0, UINT64_MAX);
	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	attach(fx, 1, 1);
	assert_int_equal(mediator_map_sg(fx->m, 1, UINT64_MAX - H + 1, sg, 2, RW), -ERANGE);
	assert_int_equal(stats_of(fx).mappings, 0);
	assert_int_equal(mediator_map_sg(fx->m, 1, UINT64_MAX - 2 * H + 1, sg, 2, RW), 0);
	assert_int_equal(stats_of(fx).mappings, 2);
}

static void attach_and_detach_answer_as_the_spec_says(void **state)
{
	struct fixture *fx = *state;
	struct mediator *m = fx->m;

	assert_int_equal(mediator_attach(m, 1, 9, false), -ENOENT);
	assert_int_equal(mediator_detach(m, 1, 9), -ENOENT);
	assert_int_equal(mediator_detach(m, 1, 1), -EINVAL);
	assert_int_equal(mediator_attach(m, 1, 1, false), 0);
	assert_int_equal(mediator_attach(m, 1, 1, false), 0); /* again: nothing to do */
	assert_int_equal(mediator_attach(m, 1, 2, true), -EINVAL);
	assert_int_equal(mediator_detach(m, 2, 1), -EINVAL);
	assert_int_equal(mediator_detach(m, 1, 1), 0);
	assert_int_equal(mediator_detach(m, 1, 1), -EINVAL);
	/* the domain died with its last endpoint, so its number may become a bypass domain */
	assert_int_equal(mediator_attach(m, 1, 2, true), 0);
	assert_int_equal(mediator_unmap(m, 1, 0, UINT64_MAX), -EINVAL);
	assert_int_equal(mediator_unmap(m, 7, 0, UINT64_MAX), -ENOENT);
}

/* virtio 1.3, IOMMU device, "UNMAP request": the seven examples, a slot for each of their units. */
static void the_specs_seven_unmap_examples_hold(void **state)
{
	static const struct {
		struct {
			unsigned first, last;
		} map[2];
		unsigned nr_maps, first, last;
		int ret;
		unsigned left;
	} rows[] = {
		{{{0}}, 0, 0, 4, 0, 0},
		{{{0, 9}}, 1, 0, 9, 0, 0},
		{{{0, 4}, {5, 9}}, 2, 0, 9, 0, 0},
		{{{0, 9}}, 1, 0, 4, -ERANGE, 1},
		{{{0, 4}, {5, 9}}, 2, 0, 4, 0, 1},
		{{{0, 4}}, 1, 0, 9, 0, 0},
		{{{0, 4}, {10, 14}}, 2, 0, 14, 0, 0},
	};
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned n = 0; n < rows[i].nr_maps; n++)
			assert_int_equal(map(fx, 1, rows[i].map[n].first * G,
					     (rows[i].map[n].last - rows[i].map[n].first + 1) * G,
					     RAM + 0x1000 + rows[i].map[n].first * G, RW),
					 0);
		assert_int_equal(
			mediator_unmap(fx->m, 1, rows[i].first * G, (rows[i].last + 1) * G - 1),
			rows[i].ret);
		assert_int_equal(stats_of(fx).mappings, rows[i].left);
		assert_int_equal(mediator_unmap(fx->m, 1, 0, UINT64_MAX), 0);
		assert_int_equal(fx->inst[0].nr, 0);
	}
	assert_int_equal(mediator_unmap(fx->m, 1, 5, 4), -ERANGE);
}

static void an_unmap_that_cuts_at_either_end_removes_nothing(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, 2 * G, RAM, RW), 0);
	assert_int_equal(map(fx, 1, 0x14000, 2 * G, RAM, RW), 0);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x11000, 0x15fff), -ERANGE);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x14fff), -ERANGE);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10001, 0x15fff), -ERANGE);
	assert_int_equal(stats_of(fx).mappings, 2);
	dma(fx, 0, 0x10000, 1, 1);
	dma(fx, 0, 0x15fff, 1, 1);
}

static void limits_are_refused_with_no_memory_and_told(void **state)
{
	struct fixture *fx = *state;
	struct fault fault;
	int ret = 0;
	unsigned n;

	attach(fx, 1, 1);
	for (n = 0; n < 200 && !ret; n++)
		ret = map(fx, 1, 0x100000 + n * G, G, RAM + n % 100 * G, RW);
	assert_int_equal(ret, -ENOMEM);
	assert_int_equal(n - 1, 100); /* max_mappings */
	assert_true(faultlog_take(mediator_faultlog(fx->m), &fault));
	assert_int_equal(fault.endpoint, 1);
	assert_int_equal(fault.iova, 0x100000 + 100 * G);
	assert_int_equal(fx->nr_log, 1);
}

static void an_exhausted_pool_refuses_and_leaves_the_rest_alone(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM + G, RW), 0);
	/* head and tail frames fit, the body does not */
	assert_int_equal(map(fx, 1, 0x21000, 0x10000, RAM, RW), -ENOMEM);
	assert_int_equal(stats_of(fx).bounce_live, 1);
	assert_int_equal(fx->inst[0].nr, 1);
	assert_int_equal(stats_of(fx).bounce_bytes, 2 * H);
	assert_int_equal(map(fx, 1, 0x20000, G, RAM + G, RW), 0);
	assert_int_equal(map(fx, 1, 0x30000, G, RAM + G, RW), -ENOMEM);
	/* direct frames need no pool */
	assert_int_equal(map(fx, 1, 0x40000, H, RAM, RW), 0);
	dma(fx, 0, 0x40000, 0x77, 1);
	assert_int_equal(*at(fx, RAM), 0x77);
}

static void a_run_that_the_pool_cuts_short_gives_back_what_it_got(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	/* two pages of three */
	assert_int_equal(map(fx, 1, 0x20000, 3 * H, RAM + G, RW), -ENOMEM);
	assert_int_equal(stats_of(fx).bounce_live, 0);
	assert_int_equal(stats_of(fx).bounce_bytes, 0);
	assert_int_equal(fx->inst[0].nr, 0);
	assert_int_equal(map(fx, 1, 0x20000, 2 * H, RAM + G, RW), 0);
	assert_int_equal(stats_of(fx).bounce_live, 2);
}

static void a_hostile_guest_cannot_make_the_log_grow(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), 0);
	assert_int_equal(map(fx, 1, 0x20000, G, RAM, RW), 0);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(map(fx, 1, 0x30000, G, RAM + G, RW), -ENOMEM);
	assert_true(fx->nr_log <= 33);
	assert_int_equal(stats_of(fx).faults, 1000);
	assert_true(stats_of(fx).faults_lost > 0);
}

/* ---- how frames are backed ---- */

static void classes_follow_alignment(void **state)
{
	static const struct {
		uint64_t start, len, gpa;
		unsigned direct, bounce;
	} rows[] = {
		{0x10000, H, RAM, 1, 0},
		{0x10000, H, RAM + G, 0, 1},
		{0x10000, G, RAM, 0, 1},
		{0x10000, 2 * H, RAM + H, 2, 0},
		{0x11000, 2 * H, RAM + G, 1, 2},     /* head, body, tail */
		{0x13000, 2 * G, RAM + 3 * G, 0, 2}, /* across a frame border */
		{0x13000, H + 2 * G, RAM + 3 * G, 1, 2},
		{0x10000, 4 * H, RAM + 2 * G, 0, 4},
		{0x12000, 4 * H, RAM, 0, 5},
	};
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(map(fx, 1, rows[i].start, rows[i].len, rows[i].gpa, RW), 0);
		assert_int_equal(stats_of(fx).direct_live, rows[i].direct);
		assert_int_equal(stats_of(fx).bounce_live, rows[i].bounce);
		/* a device sees the guest's bytes at every slot */
		for (uint64_t off = 0; off < rows[i].len; off += 0x800)
			assert_int_equal(seen_by(fx, 0, rows[i].start + off),
					 *at(fx, rows[i].gpa + off));
		assert_int_equal(
			mediator_unmap(fx->m, 1, rows[i].start, rows[i].start + rows[i].len - 1),
			0);
	}
}

static void a_large_misaligned_mapping_is_one_instance_mapping(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x100000, 16 * H, RAM + G, RW), 0);
	assert_int_equal(fx->inst[0].nr, 1);
	assert_int_equal(stats_of(fx).bounce_live, 16);
}

/* Endpoint 2 alone wants vCPUs held. */
static int setup_held(void **state)
{
	struct fixture *fx = make_mediator(state, 32);
	const struct stream one = {.inst = &fx->inst[1].inst};
	const struct endpoint_cfg cfg = {.id = 2,
					 .name = "test",
					 .streams = &one,
					 .nr_streams = 1,
					 .sync = SYNC_FULL,
					 .hold = true};

	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[1]), 0);
	return 0;
}

/* Whoever's sync point it is: the rings of a domain change together. */
static void vcpus_are_held_while_one_who_wants_it_is_in_the_domain(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x30000, G, RAM + 2 * G, RW), 0);
	dma(fx, 0, 0x30000, 0xe1, G);
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(fx->nr_held, 0);
	attach(fx, 1, 2);
	dma(fx, 0, 0x30000, 0xe2, G);
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(fx->nr_held, 1);
	dma(fx, 1, 0x30000, 0xe3, G);
	endpoint_sync_for_cpu(fx->ep[1]);
	assert_int_equal(fx->nr_held, 2);
	assert_int_equal(mediator_detach(fx->m, 1, 2), 0);
	dma(fx, 0, 0x30000, 0xe4, G);
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(fx->nr_held, 2);
	assert_int_equal(fx->nr_released, 2);
	assert_int_equal(*at(fx, RAM + 2 * G), 0xe4);
	assert_int_equal(stats_of(fx).holds, 2);
}

static int setup_rings(void **state)
{
	struct fixture *fx = make_mediator(state, 32);

	add_endpoint(fx, 0, &fx->inst[0], SYNC_RINGS, false);
	return 0;
}

/* Another kernel resets virtio-iommu, or an UNMAP was put off. */
static void what_is_unmapped_after_the_last_sync_brings_nothing(void **state)
{
	struct fixture *fx = *state;

	for (unsigned reset = 0; reset < 2; reset++) {
		attach(fx, 1, 1);
		assert_int_equal(map(fx, 1, 0x30000, G, RAM + 2 * G, WO), 0);
		dma(fx, 0, 0x30000, 0xe2, G);
		endpoint_sync_for_cpu(fx->ep[0]);
		assert_int_not_equal(*at(fx, RAM + 2 * G), 0xe2);
		endpoint_sync_all_for_cpu(fx->ep[0]);
		assert_int_equal(*at(fx, RAM + 2 * G), 0xe2);
		assert_int_equal(*at(fx, RAM + 3 * G - 1), 0xe2);
		memset(at(fx, RAM + 2 * G), 0x5a, G);
		if (reset)
			mediator_reset(fx->m);
		else
			assert_int_equal(mediator_unmap(fx->m, 1, 0x30000, 0x30fff), 0);
		for (uint64_t i = 0; i < G; i++)
			assert_int_equal(*at(fx, RAM + 2 * G + i), 0x5a);
	}
}

static void rights_hold(void **state)
{
	struct fixture *fx = *state;
	uint8_t byte = 0xee;

	attach(fx, 1, 1);
	/* whole frames fault; slots of a shared frame swallow the write */
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RO), 0);
	assert_false(fake_dma_write(&fx->inst[0], 0x10000, &byte, 1));
	assert_int_equal(map(fx, 1, 0x20000, H, RAM + G, RO), 0);
	assert_false(fake_dma_write(&fx->inst[0], 0x20000, &byte, 1));
	assert_int_equal(map(fx, 1, 0x30000, G, RAM + 2 * G, RO), 0);
	dma(fx, 0, 0x30000, 0xee, G);
	endpoint_sync_for_cpu(fx->ep[0]);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x30000, 0x30fff), 0);
	for (uint64_t i = 0; i < G; i++)
		assert_int_equal(*at(fx, RAM + 2 * G + i), (uint8_t)(1 + (2 * G + i) * 7 % 255));
	/* no rights at all: recorded, but nobody gets through */
	assert_int_equal(map(fx, 1, 0x40000, H, RAM, 0), 0);
	assert_false(fake_dma_read(&fx->inst[0], 0x40000, &byte, 1));
	assert_int_equal(mediator_unmap(fx->m, 1, 0x40000, 0x43fff), 0);
}

static void an_unmapped_slot_shows_the_device_nothing(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), 0);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM + 5 * G, RW), 0);
	for (uint64_t off = 2 * G; off < H; off++)
		assert_int_equal(seen_by(fx, 0, 0x10000 + off), 0);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x11000, 0x11fff), 0);
	for (uint64_t off = G; off < 2 * G; off++)
		assert_int_equal(seen_by(fx, 0, 0x10000 + off), 0);
	/* nor does a page that had another life, in another domain, before */
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10fff), 0);
	attach(fx, 2, 2);
	assert_int_equal(map(fx, 2, 0x13000, G, RAM, RW), 0);
	for (uint64_t off = 0; off < 3 * G; off++)
		assert_int_equal(seen_by(fx, 1, 0x10000 + off), 0);
}

static void a_write_to_an_unmapped_slot_reaches_nobody(void **state)
{
	struct fixture *fx = *state;
	uint8_t *before = malloc(RAM_LEN);

	attach(fx, 1, 1);
	memcpy(before, fx->ram, RAM_LEN);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), 0);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM + 5 * G, RW), 0);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x11000, 0x11fff), 0);
	dma(fx, 0, 0x11000, 0xee, 3 * G);
	endpoint_sync_for_cpu(fx->ep[0]);
	/* and the next user of the slot starts from the guest's bytes */
	assert_int_equal(map(fx, 1, 0x11000, G, RAM + 9 * G, RW), 0);
	assert_int_equal(seen_by(fx, 0, 0x11000), *at(fx, RAM + 9 * G));
	assert_int_equal(mediator_unmap(fx->m, 1, 0, UINT64_MAX), 0);
	assert_memory_equal(before, fx->ram, RAM_LEN);
	free(before);
}

static void the_doorbell_can_be_mapped_beside_data(void **state)
{
	struct fixture *fx = *state;
	uint64_t gpa;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, 0x1030000, WO | MAP_MMIO), 0);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM, RW), 0);
	assert_int_equal(endpoint_translate(fx->ep[0], 0x10040, MAP_WRITE, &gpa), 0);
	assert_int_equal(gpa, 0x1030040);
	assert_int_equal(endpoint_translate(fx->ep[0], 0x10040, MAP_READ, &gpa), -EFAULT);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10fff), 0);
	assert_int_equal(endpoint_translate(fx->ep[0], 0x10040, MAP_WRITE, &gpa), -EFAULT);
	assert_int_equal(seen_by(fx, 0, 0x11000), *at(fx, RAM));
	/* the doorbell itself needs no mapping */
	assert_int_equal(endpoint_translate(fx->ep[0], 0x1030040, MAP_WRITE, &gpa), 0);
	assert_int_equal(gpa, 0x1030040);
}

/* ---- what the guest and the device see of each other ---- */

static void unmap_brings_what_the_device_wrote(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	for (uint64_t shift = 0; shift < H; shift += G) {
		assert_int_equal(map(fx, 1, 0x10000, 3 * H, RAM + shift, WO), 0);
		dma(fx, 0, 0x10000 + 100, (uint8_t)(0x80 + shift / G), 2 * H);
		assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10000 + 3 * H - 1), 0);
		for (uint64_t i = 0; i < 3 * H; i++) {
			uint8_t old = (uint8_t)(1 + (shift + i) * 7 % 255);

			if (i >= 100 && i < 100 + 2 * H)
				assert_int_equal(*at(fx, RAM + shift + i), 0x80 + shift / G);
			else if (shift == 0)
				assert_int_equal(*at(fx, RAM + shift + i), old);
		}
	}
}

/* Until the invalidation is done a device may still write; that write came before the UNMAP's
 * answer. */
static void a_write_that_lands_during_the_invalidation_is_not_lost(void **state)
{
	static const struct {
		uint64_t start, len, gpa;
	} rows[] = {
		{0x10000, G, RAM},     /* a shared frame */
		{0x10000, H, RAM + G}, /* a bounced body */
		{0x10000, H, RAM},     /* direct */
	};
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(map(fx, 1, rows[i].start, rows[i].len, rows[i].gpa, WO), 0);
		fx->inst[0].late_write = true;
		fx->inst[0].late_iova = rows[i].start + 0x123;
		fx->inst[0].late_byte = (uint8_t)(0xf0 + i);
		assert_int_equal(mediator_unmap(fx->m, 1, 0, UINT64_MAX), 0);
		assert_false(fx->inst[0].late_write);
		assert_int_equal(*at(fx, rows[i].gpa + 0x123), 0xf0 + i);
	}
}

static void an_unmap_returns_after_every_instance_has_invalidated(void **state)
{
	struct fixture *fx = *state;
	uint8_t byte = 0;

	attach(fx, 1, 1);
	attach(fx, 1, 2);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RW), 0);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x13fff), 0);
	for (int i = 0; i < 2; i++)
		assert_false(fake_dma_read(&fx->inst[i], 0x10000, &byte, 1));
}

static void two_write_only_maps_of_one_page_keep_each_others_bytes(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	/* two packet buffers in one page, as a network driver's page fragments are */
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, WO), 0);
	assert_int_equal(map(fx, 1, 0x21000, G, RAM, WO), 0);
	dma(fx, 0, 0x21800, 0xb2, 0x800);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x21000, 0x21fff), 0);
	dma(fx, 0, 0x10000, 0xa1, 0x800);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10fff), 0);
	for (uint64_t i = 0; i < G; i++)
		assert_int_equal(*at(fx, RAM + i), i < 0x800 ? 0xa1 : 0xb2);
}

static void what_the_cpu_writes_beside_a_receive_buffer_stays(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, WO), 0);
	memset(at(fx, RAM + 512), 0xc0, 512);
	dma(fx, 0, 0x10000, 0xd0, 512);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10fff), 0);
	for (uint64_t i = 0; i < 1024; i++)
		assert_int_equal(*at(fx, RAM + i), i < 512 ? 0xd0 : 0xc0);
}

static void a_ring_is_coherent_at_sync_points(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM, RW), 0);
	*at(fx, RAM + 64) = 0x42;
	endpoint_sync_for_device(fx->ep[0]);
	assert_int_equal(seen_by(fx, 0, 0x11000 + 64), 0x42);
	dma(fx, 0, 0x11000 + 128, 0x24, 16);
	endpoint_sync_for_cpu(fx->ep[0]);
	for (uint64_t i = 0; i < 16; i++)
		assert_int_equal(*at(fx, RAM + 128 + i), 0x24);
	assert_int_equal(stats_of(fx).syncs_for_device, 1);
	assert_int_equal(stats_of(fx).syncs_for_cpu, 1);
	assert_int_equal(stats_of(fx).conflicts, 0);
}

/* ---- several endpoints, instances and domains ---- */

static void a_second_endpoint_sees_what_is_mapped_already(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RW), 0);	      /* direct */
	assert_int_equal(map(fx, 1, 0x21000, G, RAM + 4 * H, RW), 0); /* part of a frame */
	assert_int_equal(map(fx, 1, 0x30000, 3 * H, RAM + G, RO), 0); /* bounced body */
	attach(fx, 1, 2);
	assert_int_equal(fx->inst[1].nr, fx->inst[0].nr);
	assert_int_equal(seen_by(fx, 1, 0x10000), *at(fx, RAM));
	assert_int_equal(seen_by(fx, 1, 0x21000), *at(fx, RAM + 4 * H));
	assert_int_equal(seen_by(fx, 1, 0x30000 + 2 * H), *at(fx, RAM + G + 2 * H));
	/* what one device writes the other reads */
	dma(fx, 0, 0x21000, 0x99, 1);
	assert_int_equal(seen_by(fx, 1, 0x21000), 0x99);
	/* with the same rights */
	assert_false(fake_dma_write(&fx->inst[1], 0x30000, "x", 1));
	/* one leaves: it is cut off, the other stays */
	assert_int_equal(mediator_detach(fx->m, 1, 1), 0);
	assert_int_equal(fx->inst[0].nr, 0);
	assert_int_equal(seen_by(fx, 1, 0x21000), 0x99);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x21000, 0x21fff), 0);
	assert_int_equal(*at(fx, RAM + 4 * H), 0x99);
}

static void detach_brings_what_the_device_wrote_and_cuts_it_off(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM, WO), 0);
	dma(fx, 0, 0x11000, 0x31, 100);
	fx->inst[0].late_write = true;
	fx->inst[0].late_iova = 0x11fff;
	fx->inst[0].late_byte = 0x32;
	assert_int_equal(mediator_detach(fx->m, 1, 1), 0);
	assert_int_equal(*at(fx, RAM + 99), 0x31);
	assert_int_equal(*at(fx, RAM + 0xfff), 0x32);
	assert_int_equal(fx->inst[0].nr, 0);
	/* the same by an implicit detach */
	attach(fx, 2, 1);
	assert_int_equal(map(fx, 2, 0x11000, G, RAM, WO), 0);
	dma(fx, 0, 0x11000, 0x33, 100);
	attach(fx, 3, 1);
	assert_int_equal(*at(fx, RAM + 99), 0x33);
	assert_int_equal(fx->inst[0].nr, 0);
}

static void reset_drops_everything(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	attach(fx, 2, 2);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RW), 0);
	assert_int_equal(map(fx, 2, 0x11000, G, RAM, RW), 0);
	dma(fx, 1, 0x11000, 0x61, 1);
	mediator_reset(fx->m);
	assert_int_equal(fx->inst[0].nr + fx->inst[1].nr, 0);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RW), -ENOENT);
	assert_int_equal(*at(fx, RAM), 0x61);
}

static void an_attach_that_fails_leaves_the_endpoint_where_it_was(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x11000, G, RAM, RW), 0);
	assert_int_equal(map(fx, 1, 0x20000, H, RAM, RW), 0);
	attach(fx, 2, 2);
	assert_int_equal(map(fx, 2, 0x31000, G, RAM + 2 * G, RW), 0);
	assert_int_equal(map(fx, 2, 0x40000, H, RAM, RW), 0);
	for (unsigned n = 1; n <= 2; n++) {
		fx->inst[0].fail_map = n;
		fx->inst[0].map_error = -ENOSPC;
		assert_int_equal(mediator_attach(fx->m, 2, 1, false), -ENOMEM);
		assert_int_equal(fx->inst[0].nr, 2);
		assert_int_equal(seen_by(fx, 0, 0x11000), *at(fx, RAM));
		assert_int_equal(seen_by(fx, 0, 0x20000), *at(fx, RAM));
		assert_int_equal(map(fx, 1, 0x12000 + n * G, G, RAM, RW), 0);
	}
	/* a refusal comes before the implicit detach */
	assert_int_equal(mediator_attach(fx->m, 2, 1, true), -EINVAL);
	assert_int_equal(seen_by(fx, 0, 0x11000), *at(fx, RAM));
}

/* VFIO says -ENOSPC of dma_entry_limit and -ENOMEM of RLIMIT_MEMLOCK: parked frames count in both.
 */
static void parked_frames_make_way_when_the_host_takes_no_more(void **state)
{
	static const int errors[] = {-ENOSPC, -ENOMEM};
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	for (unsigned n = 0; n < 2; n++) {
		fx->inst[0].entries = 4;
		fx->inst[0].map_error = errors[n];
		for (uint64_t i = 0; i < 4; i++)
			assert_int_equal(map(fx, 1, 0x10000 + i * H, G, RAM + i * G, RW), 0);
		for (uint64_t i = 1; i < 4; i++)
			assert_int_equal(
				mediator_unmap(fx->m, 1, 0x10000 + i * H, 0x10000 + i * H + G - 1),
				0);
		for (uint64_t i = 0; i < 3; i++)
			assert_int_equal(map(fx, 1, 0x40000 + i * H, G, RAM + (4 + i) * G, RW), 0);
		/* there is nothing left that could make way, and nothing has gone that is mapped */
		assert_int_equal(map(fx, 1, 0x50000, G, RAM + 8 * G, RW), -ENOMEM);
		assert_int_equal(seen_by(fx, 0, 0x10000), *at(fx, RAM));
		for (uint64_t i = 0; i < 3; i++) {
			assert_int_equal(seen_by(fx, 0, 0x40000 + i * H),
					 *at(fx, RAM + (4 + i) * G));
			assert_int_equal(
				mediator_unmap(fx->m, 1, 0x40000 + i * H, 0x40000 + i * H + G - 1),
				0);
		}
		assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10000 + G - 1), 0);
	}
}

static void parked_frames_make_way_for_who_joins(void **state)
{
	static const int errors[] = {-ENOSPC, -ENOMEM};
	struct fixture *fx = *state;

	add_endpoint(fx, 1, &fx->inst[1], SYNC_FULL, false);
	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RO), 0);
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		for (uint64_t iova = 0x20000; iova < 0x20000 + 3 * H; iova += H) {
			assert_int_equal(map(fx, 1, iova, G, RAM + G, RW), 0);
			assert_int_equal(mediator_unmap(fx->m, 1, iova, iova + G - 1), 0);
		}
		assert_int_equal(stats_of(fx).parked_live, 3);
		fx->inst[1].entries = 1;
		fx->inst[1].map_error = errors[i];
		attach(fx, 1, 2);
		assert_int_equal(stats_of(fx).parked_live, 0);
		assert_int_equal(seen_by(fx, 1, 0x10000), *at(fx, RAM));
		assert_int_equal(mediator_detach(fx->m, 1, 2), 0);
	}
}

static void endpoints_of_one_instance_move_together_or_not_at_all(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(mediator_attach(fx->m, 2, 2, false), -EOPNOTSUPP);
	attach(fx, 1, 2);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM, RW), 0);
	assert_int_equal(fx->inst[0].nr, 1);
	assert_int_equal(mediator_attach(fx->m, 2, 2, false), -EOPNOTSUPP);
	assert_int_equal(mediator_detach(fx->m, 1, 1), 0);
	assert_int_equal(fx->inst[0].nr, 1);
	/* alone on the instance now: it may go */
	attach(fx, 2, 2);
	assert_int_equal(fx->inst[0].nr, 0);
}

static void a_failed_map_on_one_instance_is_undone_on_the_others(void **state)
{
	static const struct {
		uint64_t start, len, gpa;
		unsigned units;
	} rows[] = {
		{0x10000, H, RAM, 1},
		{0x11000, G, RAM, 1},
		{0x13000, 4 * H, RAM, 3}, /* head, tail, body */
		{0x13000, 4 * H, RAM + 3 * G, 3},
	};
	struct fixture *fx = *state;

	for (unsigned i = 0; i < 3; i++)
		attach(fx, 1, i + 1);
	assert_int_equal(map(fx, 1, 0x100000, G, RAM, RW), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned k = 0; k < 3; k++) {
			for (unsigned n = 1; n <= rows[i].units; n++) {
				struct mediator_stats before = stats_of(fx);

				fx->inst[k].fail_map = n;
				assert_int_equal(
					map(fx, 1, rows[i].start, rows[i].len, rows[i].gpa, RW),
					-ENOMEM);
				assert_int_equal(fx->inst[k].fail_map, 0);
				assert_int_equal(stats_of(fx).mappings, before.mappings);
				assert_int_equal(stats_of(fx).bounce_live, before.bounce_live);
				assert_int_equal(stats_of(fx).direct_live, before.direct_live);
				assert_int_equal(stats_of(fx).bounce_bytes, before.bounce_bytes);
				for (unsigned j = 0; j < 3; j++)
					assert_int_equal(fx->inst[j].nr, 1);
			}
		}
		assert_int_equal(map(fx, 1, rows[i].start, rows[i].len, rows[i].gpa, RW), 0);
		assert_int_equal(mediator_unmap(fx->m, 1, 0, 0xfffff), 0);
	}
}

static void what_devices_wrote_by_a_map_that_is_undone_reaches_nobody(void **state)
{
	struct fixture *fx = *state;
	uint8_t was = *at(fx, RAM + G);

	attach(fx, 1, 1);
	fx->inst[0].fail_map = 3; /* head, tail, body */
	fx->inst[0].late_write = true;
	fx->inst[0].late_iova = 0x13000;
	fx->inst[0].late_byte = (uint8_t)~was;
	assert_int_equal(map(fx, 1, 0x13000, 4 * H, RAM + G, RW), -ENOMEM);
	assert_int_equal(fx->inst[0].fail_map, 0);
	assert_false(fx->inst[0].late_write); /* it was in time */
	assert_int_equal(*at(fx, RAM + G), was);
}

static void every_failed_allocation_leaves_everything_as_it_was(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x100000, G, RAM, RW), 0);
	for (unsigned n = 1;; n++) {
		struct mediator_stats before = stats_of(fx);
		int ret;

		iommu_alloc_fail_nth(n);
		ret = map(fx, 1, 0x13000, 8 * H, RAM, RW);
		if (iommu_alloc_fail_nth(0))
			break;
		/* an allocation that only makes things faster may fail unseen */
		if (!ret) {
			assert_int_equal(mediator_unmap(fx->m, 1, 0, 0xfffff), 0);
			continue;
		}
		assert_int_equal(ret, -ENOMEM);
		assert_int_equal(stats_of(fx).mappings, before.mappings);
		assert_int_equal(stats_of(fx).bounce_live, before.bounce_live);
		assert_int_equal(stats_of(fx).bounce_bytes, before.bounce_bytes);
		assert_int_equal(fx->inst[0].nr, 1);
	}
	for (unsigned n = 1;; n++) {
		int ret;

		iommu_alloc_fail_nth(n);
		ret = mediator_attach(fx->m, 5, 2, false);
		if (iommu_alloc_fail_nth(0))
			break;
		assert_int_equal(ret, -ENOMEM);
		assert_int_equal(map(fx, 5, 0x10000, G, RAM, RW), -ENOENT);
	}
}

static void an_unconfirmed_invalidation_is_told_and_its_pages_are_lost(void **state)
{
	struct fixture *fx = *state;
	uint64_t used;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), 0);
	used = stats_of(fx).bounce_bytes;
	fx->inst[0].fail_sync = true;
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x10fff), -EIO);
	fx->inst[0].fail_sync = false;
	/* gone for the guest, kept from everybody else */
	assert_int_equal(stats_of(fx).mappings, 0);
	assert_int_equal(stats_of(fx).bounce_bytes, used);
	assert_int_equal(fx->nr_log, 1);
}

/* ---- bypass ---- */

static void a_bypass_domain_maps_ram_at_its_own_address(void **state)
{
	struct fixture *fx = *state;
	uint8_t byte;

	assert_int_equal(mediator_attach(fx->m, 4, 1, true), 0);
	dma(fx, 0, RAM + 0x12345, 0x77, 1);
	assert_int_equal(*at(fx, RAM + 0x12345), 0x77);
	assert_false(fake_dma_read(&fx->inst[0], RAM - 1, &byte, 1));
	assert_false(fake_dma_read(&fx->inst[0], RAM + RAM_LEN, &byte, 1));
	assert_int_equal(mediator_detach(fx->m, 4, 1), 0);
	assert_int_equal(fx->inst[0].nr, 0);
}

static void the_bypass_setting_governs_unattached_endpoints(void **state)
{
	struct fixture *fx = *state;
	uint64_t gpa;

	assert_int_equal(fx->inst[0].nr, 0);
	assert_int_equal(endpoint_translate(fx->ep[0], RAM, MAP_READ, &gpa), -EFAULT);
	assert_int_equal(mediator_set_bypass(fx->m, true), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(seen_by(fx, i, RAM), *at(fx, RAM));
	assert_int_equal(endpoint_translate(fx->ep[0], RAM, MAP_READ, &gpa), 0);
	attach(fx, 1, 1);
	assert_int_equal(fx->inst[0].nr, 0);
	assert_int_equal(mediator_detach(fx->m, 1, 1), 0);
	assert_int_equal(seen_by(fx, 0, RAM), *at(fx, RAM));
	/* survives a reset of the device */
	mediator_reset(fx->m);
	assert_int_equal(seen_by(fx, 0, RAM), *at(fx, RAM));
	assert_int_equal(mediator_set_bypass(fx->m, false), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fx->inst[i].nr, 0);
}

/* ---- exposure=relaxed ---- */

static void an_exposed_frame_costs_no_copy_and_becomes_bounce_when_it_must(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, 3 * G, RAM, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 1);
	dma(fx, 0, 0x10000, 0x51, 1);
	assert_int_equal(*at(fx, RAM), 0x51);
	/* a neighbour that fits stays exposed */
	assert_int_equal(map(fx, 1, 0x13000, G, RAM + 3 * G, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 1);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x13000, 0x13fff), 0);
	/* one that does not makes it bounce, and a write in flight is not lost */
	fx->inst[0].late_write = true;
	fx->inst[0].late_iova = 0x12345;
	fx->inst[0].late_byte = 0x52;
	assert_int_equal(map(fx, 1, 0x13000, G, RAM + 9 * G, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 0);
	assert_int_equal(stats_of(fx).bounce_live, 1);
	assert_int_equal(stats_of(fx).reclassified, 1);
	assert_int_equal(*at(fx, RAM + 0x2345), 0x52);
	assert_int_equal(seen_by(fx, 0, 0x12345), 0x52);
	dma(fx, 0, 0x13000, 0x53, 1);
	assert_int_equal(mediator_unmap(fx->m, 1, 0, UINT64_MAX), 0);
	assert_int_equal(*at(fx, RAM + 9 * G), 0x53);
	/* a page that may share its frame is bounced from the start */
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), 0);
	assert_int_equal(stats_of(fx).bounce_live, 1);
}

static void an_endpoint_that_did_not_agree_is_not_exposed(void **state)
{
	struct fixture *fx = *state;

	attach(fx, 1, 2);
	assert_int_equal(map(fx, 1, 0x10000, 3 * G, RAM, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 0);
	attach(fx, 2, 1);
	assert_int_equal(map(fx, 2, 0x10000, 3 * G, RAM, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 1);
	assert_int_equal(mediator_attach(fx->m, 2, 2, false), -EOPNOTSUPP);
}

/* Neither the bounce page nor, after it, the host's frame can be mapped. */
static void an_exposed_frame_that_cannot_be_put_back_is_out_of_reach(void **state)
{
	struct fixture *fx = make_mediator(state, 32);

	fx->inst[1].inst.granule = G;
	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, true);
	add_endpoint(fx, 1, &fx->inst[1], SYNC_FULL, true);
	attach(fx, 1, 1);
	attach(fx, 1, 2);
	assert_int_equal(map(fx, 1, 0x10000, 3 * G, RAM, RW), 0);
	assert_int_equal(stats_of(fx).exposed_live, 1);
	fx->inst[0].fail_map = 2;
	fx->inst[1].fail_map = 1;
	assert_int_equal(map(fx, 1, 0x13000, G, RAM + 9 * G, RW), -ENOMEM);
	assert_int_equal(fx->inst[0].fail_map, 0);
	assert_null(fake_translate(&fx->inst[0], 0x10000, PROT_DEV_READ));
	/* what is not mapped is neither joined nor unmapped, nor replayed */
	assert_int_equal(map(fx, 1, 0x13000, G, RAM + 3 * G, RW), -EIO);
	assert_int_equal(mediator_unmap(fx->m, 1, 0x10000, 0x12fff), 0);
	assert_int_equal(stats_of(fx).exposed_live, 0);
	assert_int_equal(map(fx, 1, 0x10000, 3 * G, RAM, RW), 0);
	dma(fx, 0, 0x10000, 0x54, 1);
	assert_int_equal(*at(fx, RAM), 0x54);
}

/* ---- what endpoints make of the machine ---- */

static void holes_of_the_aperture_become_reserved_regions(void **state)
{
	static const struct {
		unsigned nr;
		struct iova_range aperture[3];
		unsigned nr_resv;
		struct resv_region resv[4];
	} rows[] = {
		/* an SMMU's: the software MSI window is missing */
		{2,
		 {{0, 0x7ffffff}, {0x8100000, 0xffffffffffff}},
		 2,
		 {{0x1030000, 0x103ffff, true}, {0x8000000, 0x80fffff, false}}},
		/* ends that are off the frame shrink inwards */
		{2,
		 {{0x1000, 0x2fffff}, {0x301000, 0xfffff7ff}},
		 2,
		 {{0x300000, 0x303fff, false}, {0x1030000, 0x103ffff, true}}},
		/* a hole around the doorbell is cut in two */
		{2,
		 {{0, 0xffffff}, {0x2000000, 0xffffffff}},
		 3,
		 {{0x1000000, 0x102ffff, false},
		  {0x1030000, 0x103ffff, true},
		  {0x1040000, 0x1ffffff, false}}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct resv_region resv[4];
		struct fixture *fx;
		void *fxp;

		fx = make_mediator(&fxp, 8);
		fx->inst[0].inst.nr_apertures = rows[i].nr;
		memcpy(fx->inst[0].inst.apertures, rows[i].aperture, sizeof(rows[i].aperture));
		add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
		assert_int_equal(mediator_resv_regions(fx->m, 9, resv, 4), -ENOENT);
		assert_int_equal(mediator_resv_regions(fx->m, 1, resv, 4), rows[i].nr_resv);
		for (unsigned n = 0; n < rows[i].nr_resv; n++) {
			assert_int_equal(resv[n].start, rows[i].resv[n].start);
			assert_int_equal(resv[n].last, rows[i].resv[n].last);
			assert_int_equal(resv[n].msi, rows[i].resv[n].msi);
		}
		attach(fx, 1, 1);
		for (unsigned n = 0; n < rows[i].nr_resv; n++)
			assert_int_equal(map(fx, 1, rows[i].resv[n].start, G, RAM, RW), -EINVAL);
		teardown(&fxp);
	}
}

static void the_input_range_is_what_all_instances_reach(void **state)
{
	struct fixture *fx = make_mediator(state, 8);
	struct iova_range range;
	struct resv_region resv[8];

	fake_init(&fx->inst[0], H, 0, 0xffffffff);
	fake_init(&fx->inst[1], 0x1000, 0x10000, 0xffffffffff);
	fake_init(&fx->inst[2], H, 0x200000000, 0xffffffffff);
	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	add_endpoint(fx, 1, &fx->inst[1], SYNC_FULL, false);
	range = mediator_input_range(fx->m);
	assert_int_equal(range.start, 0x10000);
	assert_int_equal(range.last, 0xffffffff);
	assert_int_equal(mediator_frame_size(fx->m), H);
	{
		struct stream one = {.inst = &fx->inst[2].inst};
		struct endpoint_cfg cfg = {
			.id = 3, .name = "far", .streams = &one, .nr_streams = 1};

		/* nothing in common with the others */
		assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[2]), -EINVAL);
		cfg.id = 2;
		assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[2]), -EEXIST);
		assert_int_equal(mediator_resv_regions(fx->m, 1, resv, 8), 1);
		cfg.id = 4;
		assert_int_equal(mediator_add_endpoint(fx->m, &cfg, &fx->ep[2]), -EBUSY);
	}
}

/* A 16 KiB guest on 16 KiB frames: every frame has one slot, everything is direct. */
static void a_guest_with_the_hosts_granule_never_bounces(void **state)
{
	/* what is odd is no page of this guest's, though one of the smallest there are */
	static const struct sg_segment odd[] = {{RAM, H}, {RAM + G, H}};
	struct fixture *fx = make_mediator(state, 8);
	const struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = H,
		.pool_limit = 4 * H,
		.max_domains = 1,
		.max_mappings = 10,
		.doorbell = {1, 0},
	};

	mediator_destroy(fx->m);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	add_endpoint(fx, 0, &fx->inst[0], SYNC_FULL, false);
	attach(fx, 1, 1);
	assert_int_equal(map(fx, 1, 0x10000, G, RAM, RW), -ERANGE);
	assert_int_equal(mediator_map_sg(fx->m, 1, 0x10000, odd, 2, RW), -ERANGE);
	assert_int_equal(map(fx, 1, 0x10000, H, RAM + 3 * H, RW), 0);
	assert_int_equal(map(fx, 1, 0x14000, 7 * H, RAM + 5 * H, WO), 0);
	assert_int_equal(stats_of(fx).direct_live, 8);
	assert_int_equal(stats_of(fx).bounce_live, 0);
	assert_int_equal(mediator_attach(fx->m, 2, 1, false), -ENOMEM); /* max_domains */
}

static void a_bad_configuration_is_refused(void **state)
{
	struct fixture *fx = make_mediator(state, 8);
	struct mediator_cfg cfg = {.gmem = &fx->gmem, .guest_granule = 0x3000};
	struct gmem odd = {.nr_spans = 1, .spans = {{RAM, 0x5000, fx->ram}}};
	/* never touched: it is refused for where it is */
	struct gmem far = {.nr_spans = 2,
			   .spans = {{RAM, H, fx->ram}, {2 * RAM, H, fx->ram + SLOT_REACH}}};
	struct stream one = {.inst = &fx->inst[0].inst};
	struct endpoint_cfg ep = {.id = 1, .name = "x", .streams = &one, .nr_streams = 1};
	struct mediator *m;

	assert_int_equal(mediator_create(&cfg, &m), -EINVAL);
	cfg.guest_granule = 0x800;
	assert_int_equal(mediator_create(&cfg, &m), -EINVAL);
	cfg.guest_granule = G;
	cfg.gmem = &far;
	assert_int_equal(mediator_create(&cfg, &m), -EINVAL);
	far.spans[1].hva -= H;
	assert_int_equal(mediator_create(&cfg, &m), 0);
	mediator_destroy(m);
	cfg.gmem = &odd;
	assert_int_equal(mediator_create(&cfg, &m), 0);
	/* RAM that ends inside a host frame */
	assert_int_equal(mediator_add_endpoint(m, &ep, &fx->ep[0]), -EINVAL);
	ep.nr_streams = 0;
	assert_int_equal(mediator_add_endpoint(m, &ep, &fx->ep[0]), -EINVAL);
	ep.nr_streams = MEDIATOR_MAX_STREAMS + 1;
	assert_int_equal(mediator_add_endpoint(m, &ep, &fx->ep[0]), -EINVAL);
	mediator_destroy(m);
}

#define TEST(name)	     cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_ON(name, setup) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_OWN(name)	     cmocka_unit_test_setup_teardown(name, NULL, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_bad_map_is_refused_and_changes_nothing),
		TEST(a_list_goes_only_where_a_mapping_may),
		TEST_OWN(a_list_ends_with_the_address_space),
		TEST(attach_and_detach_answer_as_the_spec_says),
		TEST(the_specs_seven_unmap_examples_hold),
		TEST(an_unmap_that_cuts_at_either_end_removes_nothing),
		TEST(limits_are_refused_with_no_memory_and_told),
		TEST_ON(an_exhausted_pool_refuses_and_leaves_the_rest_alone, setup_two_pages),
		TEST_ON(a_run_that_the_pool_cuts_short_gives_back_what_it_got, setup_two_pages),
		TEST_ON(a_hostile_guest_cannot_make_the_log_grow, setup_two_pages),
		TEST(classes_follow_alignment),
		TEST(a_large_misaligned_mapping_is_one_instance_mapping),
		TEST_ON(what_is_unmapped_after_the_last_sync_brings_nothing, setup_rings),
		TEST(rights_hold),
		TEST(an_unmapped_slot_shows_the_device_nothing),
		TEST(a_write_to_an_unmapped_slot_reaches_nobody),
		TEST(the_doorbell_can_be_mapped_beside_data),
		TEST(unmap_brings_what_the_device_wrote),
		TEST(a_write_that_lands_during_the_invalidation_is_not_lost),
		TEST(an_unmap_returns_after_every_instance_has_invalidated),
		TEST(two_write_only_maps_of_one_page_keep_each_others_bytes),
		TEST(what_the_cpu_writes_beside_a_receive_buffer_stays),
		TEST(a_ring_is_coherent_at_sync_points),
		TEST_ON(vcpus_are_held_while_one_who_wants_it_is_in_the_domain, setup_held),
		TEST(a_second_endpoint_sees_what_is_mapped_already),
		TEST(detach_brings_what_the_device_wrote_and_cuts_it_off),
		TEST(reset_drops_everything),
		TEST(an_attach_that_fails_leaves_the_endpoint_where_it_was),
		TEST_ON(parked_frames_make_way_when_the_host_takes_no_more, setup_parking),
		TEST_ON(parked_frames_make_way_for_who_joins, setup_parking),
		TEST_ON(endpoints_of_one_instance_move_together_or_not_at_all, setup_shared),
		TEST(a_failed_map_on_one_instance_is_undone_on_the_others),
		TEST(what_devices_wrote_by_a_map_that_is_undone_reaches_nobody),
		TEST(every_failed_allocation_leaves_everything_as_it_was),
		TEST(an_unconfirmed_invalidation_is_told_and_its_pages_are_lost),
		TEST(a_bypass_domain_maps_ram_at_its_own_address),
		TEST(the_bypass_setting_governs_unattached_endpoints),
		TEST_ON(an_exposed_frame_costs_no_copy_and_becomes_bounce_when_it_must,
			setup_relaxed),
		TEST_ON(an_endpoint_that_did_not_agree_is_not_exposed, setup_relaxed),
		TEST_OWN(an_exposed_frame_that_cannot_be_put_back_is_out_of_reach),
		cmocka_unit_test(holes_of_the_aperture_become_reserved_regions),
		TEST_OWN(the_input_range_is_what_all_instances_reach),
		TEST_OWN(a_guest_with_the_hosts_granule_never_bounces),
		TEST_OWN(a_bad_configuration_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
