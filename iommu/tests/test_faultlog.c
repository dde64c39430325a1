/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <pthread.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/faultlog.h"

#define CAPACITY 4

static int empty_log(void **state)
{
	return faultlog_create(CAPACITY, (struct faultlog **)state);
}

static int destroy_log(void **state)
{
	faultlog_destroy(*state);
	return 0;
}

static void add(struct faultlog *log, uint32_t nr)
{
	const struct fault fault = {
		.endpoint = nr,
		.reason = FAULT_MAPPING,
		.flags = FAULT_WRITE | FAULT_ADDRESS,
		.iova = UINT64_MAX - nr,
	};

	faultlog_add(log, &fault);
}

static void assert_takes(struct faultlog *log, uint32_t nr)
{
	struct fault fault;

	assert_true(faultlog_take(log, &fault));
	assert_int_equal(fault.endpoint, nr);
	assert_int_equal(fault.reason, FAULT_MAPPING);
	assert_int_equal(fault.flags, FAULT_WRITE | FAULT_ADDRESS);
	assert_int_equal(fault.iova, UINT64_MAX - nr);
}

static void assert_empty(struct faultlog *log)
{
	struct fault fault;

	assert_false(faultlog_take(log, &fault));
}

static void faults_come_out_whole_and_in_order_at_every_ring_position(void **state)
{
	uint32_t in = 0, out = 0;

	assert_empty(*state);
	for (unsigned burst = 1; burst <= CAPACITY; burst++) {
		for (unsigned round = 0; round < 2 * CAPACITY; round++) {
			for (unsigned i = 0; i < burst; i++)
				add(*state, in++);
			for (unsigned i = 0; i < burst; i++)
				assert_takes(*state, out++);
			assert_empty(*state);
		}
	}
	assert_int_equal(faultlog_total(*state), in);
	assert_int_equal(faultlog_lost(*state), 0);
}

static void what_does_not_fit_is_counted_and_the_oldest_stay(void **state)
{
	for (uint32_t i = 0; i < CAPACITY + 3; i++)
		add(*state, i);
	assert_int_equal(faultlog_total(*state), CAPACITY + 3);
	assert_int_equal(faultlog_lost(*state), 3);
	for (uint32_t i = 0; i < CAPACITY; i++)
		assert_takes(*state, i);
	assert_empty(*state);

	add(*state, 100);
	assert_takes(*state, 100);
	assert_int_equal(faultlog_total(*state), CAPACITY + 4);
	assert_int_equal(faultlog_lost(*state), 3);
}

static void clear_drops_what_is_kept_and_keeps_the_counts(void **state)
{
	add(*state, 0);
	add(*state, 1);
	assert_takes(*state, 0);
	for (uint32_t i = 2; i < CAPACITY + 2; i++)
		add(*state, i); /* one too many */
	faultlog_clear(*state);
	assert_empty(*state);
	assert_int_equal(faultlog_total(*state), CAPACITY + 2);
	assert_int_equal(faultlog_lost(*state), 1);
	for (uint32_t i = 0; i < CAPACITY; i++)
		add(*state, i);
	for (uint32_t i = 0; i < CAPACITY; i++)
		assert_takes(*state, i);
}

static void count_call(void *ctx)
{
	(*(unsigned *)ctx)++;
}

static void every_fault_notifies_until_nobody_is_set(void **state)
{
	unsigned first = 0, second = 0;

	add(*state, 0); /* before anyone is set */
	faultlog_set_notify(*state, count_call, &first);
	for (uint32_t i = 1; i < CAPACITY + 2; i++) {
		add(*state, i);
		assert_int_equal(first, i); /* also the two that did not fit */
	}
	assert_int_equal(faultlog_lost(*state), 2);
	faultlog_set_notify(*state, count_call, &second);
	add(*state, 0);
	assert_int_equal(first, CAPACITY + 1);
	assert_int_equal(second, 1);
	faultlog_set_notify(*state, NULL, NULL);
	add(*state, 0);
	assert_int_equal(second, 1);
}

#define PER_THREAD 20000

static void *add_many(void *log)
{
	for (uint32_t i = 0; i < PER_THREAD; i++)
		add(log, i);
	return NULL;
}

static void threads_that_add_and_take_lose_no_count(void **state)
{
	unsigned notified = 0; /* no atomic: the log's lock is held around the call */
	pthread_t adders[2];
	uint64_t taken = 0;
	struct fault fault;

	faultlog_set_notify(*state, count_call, &notified);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&adders[i], NULL, add_many, *state), 0);
	while (faultlog_total(*state) < 2 * PER_THREAD)
		taken += faultlog_take(*state, &fault);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(adders[i], NULL);
	while (faultlog_take(*state, &fault))
		taken++;
	assert_int_equal(taken + faultlog_lost(*state), 2 * PER_THREAD);
	assert_int_equal(notified, 2 * PER_THREAD);
}

static void create_without_memory_is_enomem(void **state)
{
	struct faultlog *log;

	(void)state;
	iommu_alloc_fail_nth(1);
	assert_int_equal(faultlog_create(CAPACITY, &log), -ENOMEM);
	assert_int_equal(iommu_alloc_fail_nth(0), 0);
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, empty_log, destroy_log)

static uint64_t clock_now;

static uint64_t test_clock(void)
{
	return clock_now;
}

static void faults_beyond_the_limit_are_lost_and_counted(void **state)
{
	/* an hour; and times whose products with the rate do not fit 64 bits, the last with next to
	 * nothing left in those */
	static const uint64_t quiet[] = {3600000000000, UINT64_MAX / 2, UINT64_MAX / 10 + 1};
	struct faultlog *log = *state;
	unsigned calls = 0;

	clock_now = 1000000000;
	faultlog_set_limit(log, 10, test_clock);
	faultlog_set_notify(log, count_call, &calls);
	/* a burst of the capacity; who takes at once makes room, not time */
	for (unsigned i = 0; i < 3 * CAPACITY; i++) {
		add(log, i);
		if (i < CAPACITY)
			assert_takes(log, i);
		assert_empty(log);
	}
	assert_int_equal(faultlog_total(log), 3 * CAPACITY);
	assert_int_equal(faultlog_lost(log), 2 * CAPACITY);
	assert_int_equal(calls, CAPACITY + 1);
	/* one more each 100 ms, not a nanosecond earlier */
	clock_now += 99999999;
	add(log, 90);
	assert_empty(log);
	clock_now += 1;
	add(log, 91);
	assert_takes(log, 91);
	add(log, 92);
	assert_empty(log);
	assert_int_equal(calls, CAPACITY + 3);
	/* however long it was quiet, a burst and no more */
	for (unsigned q = 0; q < ARRAY_SIZE(quiet); q++) {
		clock_now += quiet[q];
		for (unsigned i = 0; i < 2 * CAPACITY; i++) {
			add(log, i);
			if (i < CAPACITY)
				assert_takes(log, i);
			assert_empty(log);
		}
	}
	assert_int_equal(faultlog_total(log), 9 * CAPACITY + 3);
	assert_int_equal(faultlog_lost(log), 5 * CAPACITY + 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOG_TEST(faults_come_out_whole_and_in_order_at_every_ring_position),
		LOG_TEST(what_does_not_fit_is_counted_and_the_oldest_stay),
		LOG_TEST(clear_drops_what_is_kept_and_keeps_the_counts),
		LOG_TEST(every_fault_notifies_until_nobody_is_set),
		LOG_TEST(faults_beyond_the_limit_are_lost_and_counted),
		LOG_TEST(threads_that_add_and_take_lose_no_count),
		cmocka_unit_test(create_without_memory_is_enomem),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
