/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mediator called by several threads at once, as vCPUs and the event loop do: every request and
 * every sync point is whole. Without the lock counts go astray and lists break.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	   0x1000ull
#define H	   0x4000ull
#define RAM	   0x40000000ull
#define RAM_LEN	   (64 * H)
#define NR_THREADS 3u
#define ROUNDS	   100000u

struct world {
	struct mediator *m;
	struct endpoint *ep[NR_THREADS];
	pthread_barrier_t start;
};

struct caller {
	struct world *w;
	unsigned nr;
	unsigned refused;
};

/* Each has a domain and an endpoint of its own: they share the mediator alone. */
static void *caller(void *arg)
{
	struct caller *c = arg;
	uint64_t iova = 0x100000 * (c->nr + 1);

	pthread_barrier_wait(&c->w->start);
	for (unsigned n = 0; n < ROUNDS; n++) {
		const struct mapping map = {
			.start = iova + n % 8 * G,
			.last = iova + n % 8 * G + (G - 1),
			.gpa = RAM + (c->nr * 16 + n % 16) * G,
			.flags = MAP_READ | MAP_WRITE,
		};

		c->refused += mediator_map(c->w->m, c->nr, &map) != 0;
		endpoint_sync_for_device(c->w->ep[c->nr]);
		endpoint_sync_for_cpu(c->w->ep[c->nr]);
		c->refused += mediator_unmap(c->w->m, c->nr, map.start, map.last) != 0;
	}
	return NULL;
}

static void requests_and_sync_points_of_several_threads_are_each_whole(void **state)
{
	static struct fake_instance inst[NR_THREADS];
	static struct world w;
	struct gmem gmem = {0};
	uint8_t *ram = aligned_alloc(H, RAM_LEN);
	const struct mediator_cfg cfg = {
		.gmem = &gmem,
		.guest_granule = G,
		.pool_limit = 64 * H,
		.max_domains = 8,
		.max_mappings = 16,
		.doorbell = {1, 0},
	};
	struct caller callers[NR_THREADS];
	pthread_t thread[NR_THREADS];
	struct mediator_stats stats;

	(void)state;
	memset(ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&gmem, RAM, RAM_LEN, ram), 0);
	assert_int_equal(mediator_create(&cfg, &w.m), 0);
	for (unsigned i = 0; i < NR_THREADS; i++) {
		struct stream stream = {&inst[i].inst, 0};
		const struct endpoint_cfg ep = {
			.id = i,
			.name = "device",
			.streams = &stream,
			.nr_streams = 1,
			.sync = SYNC_FULL,
		};

		fake_init(&inst[i], H, 0, 0xffffffff);
		assert_int_equal(mediator_add_endpoint(w.m, &ep, &w.ep[i]), 0);
	}
	for (unsigned i = 0; i < NR_THREADS; i++)
		assert_int_equal(mediator_attach(w.m, i, i, false), 0);

	pthread_barrier_init(&w.start, NULL, NR_THREADS);
	for (unsigned i = 0; i < NR_THREADS; i++) {
		callers[i] = (struct caller){.w = &w, .nr = i};
		assert_int_equal(pthread_create(&thread[i], NULL, caller, &callers[i]), 0);
	}
	for (unsigned i = 0; i < NR_THREADS; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(callers[i].refused, 0);
	}
	pthread_barrier_destroy(&w.start);

	mediator_get_stats(w.m, &stats);
	assert_int_equal(stats.maps, NR_THREADS * ROUNDS);
	assert_int_equal(stats.unmaps, NR_THREADS * ROUNDS);
	assert_int_equal(stats.syncs_for_device, NR_THREADS * ROUNDS);
	assert_int_equal(stats.syncs_for_cpu, NR_THREADS * ROUNDS);
	assert_int_equal(stats.bounce_frames + stats.direct_frames, NR_THREADS * ROUNDS);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bounce_live, 0);
	assert_int_equal(stats.bounce_bytes, 0);
	mediator_destroy(w.m);
	free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_and_sync_points_of_several_threads_are_each_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
