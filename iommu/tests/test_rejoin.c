/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams that join, leave, and cannot come back, and a MAP that is undone half-way: cases that
 * random operations once found.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"
#include "iommu/tests/oracle_rig.h"

#define G    0x1000ull
#define H    0x4000ull
#define GPA  0x40000000ull
#define IOVA 0x1ffc000ull /* the last frame of a leaf table */
#define RAM  (8 * H)

struct bench {
	struct rig_mem mem;
	struct dart_rig a, b;
	struct fake_instance fake;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
};

/* Two DARTs that share no table; @region: b has a reserved direct region at IOVA. */
static struct bench *bench_create(bool region, bool windows)
{
	struct bench *t = calloc(1, sizeof(*t));
	struct mediator_cfg cfg = {
		.gmem = &t->gmem,
		.guest_granule = G,
		.pool_limit = 64 * H,
		.max_domains = 4,
		.max_mappings = 100,
		.park_limit = 16 * H,
		.promote = true,
		.doorbell = {1, 0},
	};
	struct dart_rig_cfg rig = {.kind = DART_T8103, .page_lg2 = 14, .windows = windows};
	struct dart_region direct = {.iova = IOVA, .len = H, .prot = PROT_DEV_READ};

	t->ram = aligned_alloc(H, RAM);
	memset(t->ram, 0x11, RAM);
	rig_mem_init(&t->mem);
	direct.pa = rig_pa(&t->mem, t->ram);
	assert_int_equal(gmem_add(&t->gmem, GPA, RAM, t->ram), 0);
	assert_int_equal(mediator_create(&cfg, &t->m), 0);
	t->a.mem = &t->mem;
	t->b.mem = &t->mem;
	rig_create(&t->a, &rig);
	rig.kind = DART_T6000;
	rig.direct = &direct;
	rig.nr_direct = region;
	rig_create(&t->b, &rig);
	fake_init(&t->fake, H, 0, UINT32_MAX);
	return t;
}

static void bench_destroy(struct bench *t)
{
	mediator_destroy(t->m);
	rig_destroy(&t->a);
	rig_destroy(&t->b);
	free(t->ram);
	free(t);
}

static void add(struct bench *t, uint32_t id, struct instance *one, struct instance *two)
{
	const struct stream streams[2] = {{one, 0}, {two, 0}};
	const struct endpoint_cfg cfg = {.id = id,
					 .name = "test",
					 .streams = streams,
					 .nr_streams = two ? 2 : 1,
					 .sync = SYNC_FULL};
	struct endpoint *ep;

	assert_int_equal(mediator_add_endpoint(t->m, &cfg, &ep), 0);
}

static int map(struct bench *t, unsigned slot, unsigned page, uint32_t flags)
{
	const struct mapping one = {IOVA + slot * G, IOVA + slot * G + G - 1, GPA + page * G,
				    flags};

	return mediator_map(t->m, 1, &one);
}

static void hang(struct dart_rig *rig, bool hangs)
{
	dart_model_set_quirks(rig->model, &(struct dart_model_quirks){.invalidate_hangs = hangs});
}

static void who_joins_later_gets_the_rights_of_a_frame_that_became_direct(void **state)
{
	struct bench *t = bench_create(false, false);
	struct mediator_stats stats;
	uint64_t pa;

	(void)state;
	add(t, 1, t->a.inst, NULL);
	add(t, 2, t->b.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	for (unsigned s = 0; s < 4; s++)
		assert_int_equal(map(t, s, s, MAP_READ), 0);
	mediator_get_stats(t->m, &stats);
	assert_int_equal(stats.to_direct, 1);
	assert_int_equal(mediator_attach(t->m, 1, 2, false), 0);
	assert_int_equal(dart_model_probe(t->b.model, 0, IOVA, false, &pa), 0);
	assert_int_equal(dart_model_probe(t->b.model, 0, IOVA, true, &pa), -EFAULT);
	bench_destroy(t);
}

static void what_is_parked_gives_way_to_who_has_its_place_reserved(void **state)
{
	struct bench *t = bench_create(true, false);
	struct mediator_stats stats;

	(void)state;
	add(t, 1, t->a.inst, NULL);
	add(t, 2, t->b.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	assert_int_equal(map(t, 1, 2, MAP_READ), 0);
	assert_int_equal(mediator_unmap(t->m, 1, IOVA, IOVA + H - 1), 0);
	mediator_get_stats(t->m, &stats);
	assert_int_equal(stats.parked_live, 1);
	assert_int_equal(mediator_attach(t->m, 1, 2, false), 0);
	mediator_get_stats(t->m, &stats);
	assert_int_equal(stats.parked_live, 0);
	bench_destroy(t);
}

static void an_endpoint_with_a_stream_that_was_not_taken_back_can_be_detached(void **state)
{
	struct bench *t = bench_create(false, false);

	(void)state;
	add(t, 1, t->a.inst, t->b.inst);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	hang(&t->b, true);
	assert_int_equal(mediator_attach(t->m, 2, 1, false), -EIO);
	assert_int_equal(mediator_detach(t->m, 1, 1), 0);
	bench_destroy(t);
}

static void a_stream_that_was_not_taken_back_is_still_its_endpoints(void **state)
{
	struct bench *t = bench_create(false, false);

	(void)state;
	add(t, 1, t->a.inst, t->b.inst);
	add(t, 2, t->b.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	hang(&t->b, true);
	assert_int_equal(mediator_attach(t->m, 2, 1, false), -EIO);
	hang(&t->b, false);
	assert_int_equal(mediator_attach(t->m, 3, 2, false), -EOPNOTSUPP);
	bench_destroy(t);
}

/* Neither domain fits the host's limit of the moment; the endpoint is in the first as ever. */
static void a_stream_that_was_not_taken_back_comes_with_the_next_attach(void **state)
{
	struct bench *t = bench_create(false, false);
	const struct mapping other = {IOVA - H, IOVA + H - 1, GPA + G, MAP_READ};
	uint8_t byte;

	(void)state;
	add(t, 1, &t->fake.inst, NULL);
	add(t, 2, t->b.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	assert_int_equal(mediator_attach(t->m, 2, 2, false), 0);
	assert_int_equal(map(t, 0, 0, MAP_READ), 0);
	assert_int_equal(map(t, 5, 9, MAP_READ), 0);
	assert_int_equal(mediator_map(t->m, 2, &other), 0);
	t->fake.entries = 1;
	t->fake.fail_map = 1;
	assert_int_equal(mediator_attach(t->m, 2, 1, false), -ENOMEM);
	assert_false(fake_dma_read(&t->fake, IOVA, &byte, 1));
	assert_int_equal(mediator_attach(t->m, 1, 1, false), -ENOMEM);
	t->fake.entries = 0;
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	assert_true(fake_dma_read(&t->fake, IOVA, &byte, 1));
	assert_int_equal(byte, 0x11);
	assert_int_equal(t->fake.nr, 2);
	bench_destroy(t);
}

static void an_instance_that_answers_is_not_lost_with_one_that_does_not(void **state)
{
	struct bench *t = bench_create(false, false);

	(void)state;
	add(t, 1, &t->fake.inst, NULL);
	add(t, 2, t->b.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	assert_int_equal(mediator_attach(t->m, 1, 2, false), 0);
	for (unsigned s = 0; s < 4; s++)
		assert_int_equal(map(t, s, s, MAP_READ | MAP_WRITE), 0);
	hang(&t->b, true);
	assert_int_equal(map(t, 4, 9, MAP_READ), -EIO);
	assert_int_equal(mediator_detach(t->m, 1, 1), 0);
	assert_int_equal(mediator_attach(t->m, 2, 1, false), 0);
	bench_destroy(t);
}

/* The frame becomes direct, then a table for the rest of the mapping cannot be had. */
static void undo_after_direct(bool windows)
{
	struct bench *t = bench_create(false, windows);
	const struct mapping rest = {IOVA + 2 * G, IOVA + 5 * G - 1, GPA + 2 * G,
				     MAP_READ | MAP_WRITE};
	struct mediator_stats stats;
	uint64_t pa;

	add(t, 1, t->a.inst, NULL);
	assert_int_equal(mediator_attach(t->m, 1, 1, false), 0);
	assert_int_equal(map(t, 0, 0, MAP_READ | MAP_WRITE), 0);
	/* a page from elsewhere makes it bounce, whatever windows can do */
	assert_int_equal(map(t, 1, 9, MAP_READ | MAP_WRITE), 0);
	assert_int_equal(mediator_unmap(t->m, 1, IOVA + G, IOVA + 2 * G - 1), 0);
	assert_int_equal(map(t, 1, 1, MAP_READ | MAP_WRITE), 0);
	t->mem.fail_table = 1;
	assert_int_equal(mediator_map(t->m, 1, &rest), -ENOMEM);
	mediator_get_stats(t->m, &stats);
	assert_int_equal(stats.to_direct, 1);
	/* What takes the next page of the pool is not seen here. */
	assert_int_equal(map(t, 6, 9, MAP_READ), 0);
	memset(t->ram + 9 * G, 0x22, G);
	for (unsigned s = 0; s < 2; s++) {
		assert_int_equal(dart_model_probe(t->a.model, 0, IOVA + s * G, false, &pa), 0);
		assert_memory_equal(rig_hva(&t->mem, pa), t->ram + s * G, G);
	}
	assert_int_equal(mediator_unmap(t->m, 1, 0, UINT64_MAX), 0);
	mediator_trim(t->m);
	mediator_get_stats(t->m, &stats);
	assert_int_equal(stats.bounce_bytes, 0);
	bench_destroy(t);
}

static void a_map_undone_after_it_made_a_frame_direct_leaves_it_as_it_was(void **state)
{
	(void)state;
	undo_after_direct(false);
	undo_after_direct(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_joins_later_gets_the_rights_of_a_frame_that_became_direct),
		cmocka_unit_test(what_is_parked_gives_way_to_who_has_its_place_reserved),
		cmocka_unit_test(an_endpoint_with_a_stream_that_was_not_taken_back_can_be_detached),
		cmocka_unit_test(a_stream_that_was_not_taken_back_is_still_its_endpoints),
		cmocka_unit_test(a_stream_that_was_not_taken_back_comes_with_the_next_attach),
		cmocka_unit_test(an_instance_that_answers_is_not_lost_with_one_that_does_not),
		cmocka_unit_test(a_map_undone_after_it_made_a_frame_direct_leaves_it_as_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
