/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <sched.h>
#include <stdbool.h>
#include <time.h>

#include "iommu/fair.h"

#define ROUNDS	   200
#define NR_CPUS	   4
#define ADDS	   100000
#define PATIENCE_S 60

static struct fair_mutex fair;
static unsigned counter; /* under the lock */
static bool had_it;	 /* likewise */

/* Until somebody waits whose turn is the next. Return: false if nobody ever does. */
static bool somebody_is_next(void)
{
	time_t end = time(NULL) + PATIENCE_S;

	while (time(NULL) < end) {
		if (pthread_mutex_trylock(&fair.turn))
			return atomic_load(&fair.waiting) == 1;
		pthread_mutex_unlock(&fair.turn);
		sched_yield();
	}
	return false;
}

static void *have_it_once(void *arg)
{
	(void)arg;
	fair_lock(&fair);
	had_it = true;
	fair_unlock(&fair);
	return NULL;
}

static void who_lets_go_and_takes_it_again_comes_after_who_waits(void **state)
{
	(void)state;
	fair_init(&fair);
	for (unsigned round = 0; round < ROUNDS; round++) {
		pthread_t thread;

		fair_lock(&fair);
		had_it = false;
		assert_int_equal(pthread_create(&thread, NULL, have_it_once, NULL), 0);
		assert_true(somebody_is_next());
		fair_unlock(&fair);
		fair_lock(&fair);
		assert_true(had_it);
		fair_unlock(&fair);
		pthread_join(thread, NULL);
	}
	fair_destroy(&fair);
}

static void *add(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < ADDS; i++) {
		fair_lock(&fair);
		counter++;
		fair_unlock(&fair);
	}
	return NULL;
}

static void it_is_one_threads_at_a_time(void **state)
{
	pthread_t threads[NR_CPUS];

	(void)state;
	fair_init(&fair);
	for (unsigned i = 0; i < NR_CPUS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, add, NULL), 0);
	for (unsigned i = 0; i < NR_CPUS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(counter, NR_CPUS * ADDS);
	assert_int_equal(atomic_load(&fair.waiting), 0);
	fair_destroy(&fair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_lets_go_and_takes_it_again_comes_after_who_waits),
		cmocka_unit_test(it_is_one_threads_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
