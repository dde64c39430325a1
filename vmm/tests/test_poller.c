/* SPDX-License-Identifier: Apache-2.0 */
/* The test is a CPU that looks at memory, and a device that does, too: nothing else tells either.
 */
#include "vmm/tests/sim_rig.h"

#include <pthread.h>
#include <time.h>

#include "vmm/poller.h"

#define WAIT_S 60 /* for what hangs, not a measure */

struct fixture {
	struct sim_rig rig;
	struct evloop *loop;
	struct poller *poller;
	pthread_t thread;
};

static void *run_loop(void *ctx)
{
	struct fixture *f = ctx;

	assert_int_equal(evloop_run(f->loop), 0);
	return NULL;
}

static int power_on(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	sim_rig_init(&f->rig, SIM_DART_T8103, SIM_DART_SOUND, 1, false);
	assert_int_equal(sim_rig_map(&f->rig, H + G, G, RAM + 2 * G, RW), 0);
	assert_int_equal(evloop_create(0, &f->loop), 0);
	*state = f;
	return 0;
}

static int power_off(void **state)
{
	struct fixture *f = *state;

	evloop_destroy(f->loop);
	sim_rig_fini(&f->rig);
	free(f);
	return 0;
}

static void start(struct fixture *f, unsigned us)
{
	assert_int_equal(poller_create(f->loop, f->rig.ep, us, &f->poller), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f), 0);
}

static void stop(struct fixture *f)
{
	evloop_stop(f->loop, 0);
	pthread_join(f->thread, NULL);
	poller_destroy(f->poller);
}

static uint64_t *cpu_word(struct fixture *f)
{
	return (uint64_t *)(void *)(f->rig.ram + 2 * G);
}

static uint64_t device_word(struct fixture *f)
{
	uint64_t word;

	assert_int_equal(f->rig.port.read(f->rig.port.ctx, H + G + 64, &word, 8), 0);
	return word;
}

static void cpu_and_device_tell_each_other_by_memory_alone(void **state)
{
	struct fixture *f = *state;
	time_t end = time(NULL) + WAIT_S;

	start(f, POLL_US_MIN);
	for (uint64_t n = 1; n <= 50; n++) {
		assert_int_equal(f->rig.port.write(f->rig.port.ctx, H + G, &n, 8), 0);
		while (__atomic_load_n(cpu_word(f), __ATOMIC_ACQUIRE) != n)
			assert_true(time(NULL) < end);
		__atomic_store_n(cpu_word(f) + 8, n, __ATOMIC_RELEASE);
		while (device_word(f) != n)
			assert_true(time(NULL) < end);
	}
	stop(f);
}

static void what_is_destroyed_looks_no_more(void **state)
{
	struct fixture *f = *state;
	struct mediator_stats stats;
	time_t end = time(NULL) + WAIT_S;
	uint64_t seen;

	start(f, POLL_US_MIN);
	do {
		assert_true(time(NULL) < end);
		mediator_get_stats(f->rig.m, &stats);
	} while (stats.syncs_for_cpu < 3);
	stop(f);
	mediator_get_stats(f->rig.m, &stats);
	seen = stats.syncs_for_cpu;
	evloop_destroy(f->loop);
	assert_int_equal(evloop_create(0, &f->loop), 0);
	mediator_get_stats(f->rig.m, &stats);
	assert_int_equal(stats.syncs_for_cpu, seen);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, power_on, power_off)
	const struct CMUnitTest tests[] = {
		CASE(cpu_and_device_tell_each_other_by_memory_alone),
		CASE(what_is_destroyed_looks_no_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
