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
#include <time.h>

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

/* ---- the lock, without luck ---- */

enum { NR_INTRUDERS = 2 };

static struct {
	struct mediator *m;
	struct endpoint *ep;
	atomic_bool entered[NR_INTRUDERS];
	atomic_uint got_in;
	pthread_t thread[NR_INTRUDERS];
	struct shadow_ops ops;
	unsigned times;
} probe;

static void *ask(void *arg)
{
	(void)arg;
	atomic_store(&probe.entered[0], true);
	(void)mediator_input_range(probe.m);
	atomic_fetch_add(&probe.got_in, 1);
	return NULL;
}

static void *sync_point(void *arg)
{
	(void)arg;
	atomic_store(&probe.entered[1], true);
	endpoint_sync_for_cpu(probe.ep);
	atomic_fetch_add(&probe.got_in, 1);
	return NULL;
}

/* While an instance is being called, a call of another thread does not get in: time is given to one
 * that could, not to one that cannot. */
static void look(void)
{
	static void *(*const intruder[NR_INTRUDERS])(void *arg) = {ask, sync_point};
	const struct timespec ms = {.tv_nsec = 1000000};

	atomic_store(&probe.got_in, 0);
	for (unsigned n = 0; n < NR_INTRUDERS; n++) {
		atomic_store(&probe.entered[n], false);
		assert_int_equal(pthread_create(&probe.thread[n], NULL, intruder[n], NULL), 0);
		while (!atomic_load(&probe.entered[n]))
			nanosleep(&ms, NULL);
	}
	for (unsigned i = 0; i < 30 && !atomic_load(&probe.got_in); i++)
		nanosleep(&ms, NULL);
	if (atomic_load(&probe.got_in))
		fail_msg("the lock is not held while an instance is called");
	probe.times++;
}

static void join(void)
{
	for (unsigned n = 0; n < NR_INTRUDERS; n++)
		pthread_join(probe.thread[n], NULL);
}

static int probing_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	look();
	return fake_map(shadow, iova, hva, len, prot);
}

static void probing_unmap(struct shadow *shadow, uint64_t iova, uint64_t len)
{
	look();
	fake_unmap(shadow, iova, len);
}

static void the_lock_is_held_while_instances_are_called(void **state)
{
	static struct fake_instance inst;
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
	const struct stream stream = {&inst.inst, 0};
	const struct endpoint_cfg cfg_ep = {
		.id = 1, .name = "device", .streams = &stream, .nr_streams = 1, .sync = SYNC_FULL};
	const struct mapping map = {H, 2 * H - 1, RAM, MAP_READ};

	(void)state;
	assert_int_equal(gmem_add(&gmem, RAM, RAM_LEN, ram), 0);
	assert_int_equal(mediator_create(&cfg, &probe.m), 0);
	fake_init(&inst, H, 0, 0xffffffff);
	assert_int_equal(mediator_add_endpoint(probe.m, &cfg_ep, &probe.ep), 0);
	assert_int_equal(mediator_attach(probe.m, 1, 1, false), 0);
	probe.ops = *inst.shadow.ops;
	probe.ops.map = probing_map;
	probe.ops.unmap = probing_unmap;
	inst.shadow.ops = &probe.ops;

	assert_int_equal(mediator_map(probe.m, 1, &map), 0);
	assert_int_equal(probe.times, 1);
	join();
	assert_int_equal(mediator_unmap(probe.m, 1, map.start, map.last), 0);
	assert_int_equal(probe.times, 2);
	join();
	mediator_destroy(probe.m);
	free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_lock_is_held_while_instances_are_called),
		cmocka_unit_test(requests_and_sync_points_of_several_threads_are_each_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
