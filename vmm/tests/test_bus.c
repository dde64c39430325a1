/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "vmm/bus.h"

struct seen {
	unsigned calls;
	uint64_t off;
	unsigned len;
	bool write;
	uint8_t data[8];
};

static void record(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct seen *seen = ctx;

	seen->calls++;
	seen->off = off;
	seen->len = len;
	seen->write = write;
	if (write)
		memcpy(seen->data, data, len);
	else
		memset(data, 0x5a, len);
}

static int fresh_bus(void **state)
{
	struct bus *bus;

	if (bus_create(&bus))
		return -1;
	*state = bus;
	return 0;
}

static int drop_bus(void **state)
{
	bus_destroy(*state);
	return 0;
}

static void an_access_reaches_its_region_with_the_offset(void **state)
{
	struct seen a = {0}, b = {0};
	struct bus *bus = *state;
	uint8_t data[8] = {1, 2, 3, 4};

	assert_int_equal(bus_add(bus, 0x2000, 0x1000, "b", record, &b, NULL), 0);
	assert_int_equal(bus_add(bus, 0x1000, 0x1000, "a", record, &a, NULL), 0);
	assert_true(bus_access(bus, 0x1ffc, data, 4, true));
	assert_int_equal(a.calls, 1);
	assert_int_equal(a.off, 0xffc);
	assert_int_equal(a.len, 4);
	assert_true(a.write);
	assert_memory_equal(a.data, data, 4);
	assert_true(bus_access(bus, 0x2000, data, 8, false));
	assert_int_equal(b.calls, 1);
	assert_int_equal(b.off, 0);
	assert_int_equal(data[7], 0x5a);
}

static void an_access_nobody_holds_whole_reads_ones(void **state)
{
	struct seen a = {0};
	struct bus *bus = *state;
	static const struct {
		uint64_t gpa;
		unsigned len;
	} rows[] = {
		{0xfff, 1}, {0xfff, 2}, {0x1fff, 2}, {0x1ffc, 8}, {0x2000, 1}, {UINT64_MAX, 4},
	};

	assert_int_equal(bus_add(bus, 0x1000, 0x1000, "a", record, &a, NULL), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t data = 0;

		assert_false(bus_access(bus, rows[i].gpa, &data, rows[i].len, false));
		assert_int_equal(data, rows[i].len == 8 ? UINT64_MAX
							: (UINT64_C(1) << 8 * rows[i].len) - 1);
		assert_false(bus_access(bus, rows[i].gpa, &data, rows[i].len, true));
	}
	assert_int_equal(a.calls, 0);
}

static void an_overlap_is_refused(void **state)
{
	struct bus *bus = *state;
	struct bus_region *region;

	assert_int_equal(bus_add(bus, 0x1000, 0x1000, "a", record, NULL, &region), 0);
	assert_int_equal(bus_add(bus, 0x1000, 0x1000, "b", record, NULL, NULL), -EBUSY);
	assert_int_equal(bus_add(bus, 0x0, 0x1001, "b", record, NULL, NULL), -EBUSY);
	assert_int_equal(bus_add(bus, 0x1fff, 1, "b", record, NULL, NULL), -EBUSY);
	assert_int_equal(bus_add(bus, 0, 0x10000, "b", record, NULL, NULL), -EBUSY);
	assert_int_equal(bus_add(bus, 0x2000, 1, "b", record, NULL, NULL), 0);
	assert_int_equal(bus_add(bus, 0x5000, 0, "b", record, NULL, NULL), -EINVAL);
	assert_int_equal(bus_add(bus, UINT64_MAX, 2, "b", record, NULL, NULL), -EINVAL);
	assert_int_equal(bus_add(bus, UINT64_MAX, 1, "b", record, NULL, NULL), 0);
	bus_remove(bus, region);
	assert_int_equal(bus_add(bus, 0x0, 0x2000, "b", record, NULL, NULL), 0);
}

static void many_regions_are_all_found(void **state)
{
	static struct seen seen[200];
	static struct bus_region *regions[200];
	struct bus *bus = *state;
	uint32_t data = 0;

	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < 200; i++) {
		unsigned n = i * 77 % 200; /* not in order */

		assert_int_equal(
			bus_add(bus, 0x1000 * n, 0x800, "n", record, &seen[n], &regions[n]), 0);
	}
	for (unsigned i = 0; i < 200; i += 2)
		bus_remove(bus, regions[i]);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(bus_access(bus, 0x1000 * i + 0x7fc, &data, 4, true), i % 2 == 1);
		assert_int_equal(seen[i].calls, i % 2);
	}
}

/* A handler that says it is in and waits to be let out. */
struct gate {
	atomic_bool in, out;
	atomic_bool left;
	struct bus *bus;
	struct bus_region *region, *other;
};

static void wait_inside(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct gate *gate = ctx;

	(void)off, (void)data, (void)len, (void)write;
	gate->in = true;
	while (!gate->out)
		usleep(100);
	usleep(20000);
	gate->left = true;
}

static void *access_gate(void *ctx)
{
	struct gate *gate = ctx;
	uint32_t data = 0;

	bus_access(gate->bus, 0x1000, &data, 4, true);
	return NULL;
}

static void remove_waits_for_a_running_handler(void **state)
{
	struct gate gate = {.bus = *state};
	pthread_t thread;

	assert_int_equal(
		bus_add(gate.bus, 0x1000, 0x1000, "gate", wait_inside, &gate, &gate.region), 0);
	assert_int_equal(pthread_create(&thread, NULL, access_gate, &gate), 0);
	while (!gate.in)
		usleep(100);
	gate.out = true;
	bus_remove(gate.bus, gate.region);
	assert_true(gate.left);
	pthread_join(thread, NULL);
}

static void remove_self(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct gate *gate = ctx;

	(void)off, (void)data, (void)len, (void)write;
	bus_remove(gate->bus, gate->region);
	if (gate->other)
		bus_remove(gate->bus, gate->other);
	gate->left = true;
}

static void a_handler_may_remove_itself_and_others(void **state)
{
	struct gate gate = {.bus = *state}, busy = {.bus = *state};
	pthread_t thread;
	uint32_t data = 0;

	assert_int_equal(bus_add(gate.bus, 0x1000, 0x1000, "busy", wait_inside, &busy, &gate.other),
			 0);
	assert_int_equal(
		bus_add(gate.bus, 0x2000, 0x1000, "self", remove_self, &gate, &gate.region), 0);
	assert_int_equal(pthread_create(&thread, NULL, access_gate, &busy), 0);
	while (!busy.in)
		usleep(100);
	/* Would never come back if it waited for the busy one. */
	assert_true(bus_access(gate.bus, 0x2000, &data, 4, true));
	assert_true(gate.left);
	assert_false(busy.left);
	assert_false(bus_access(gate.bus, 0x2000, &data, 4, true));
	assert_false(bus_access(gate.bus, 0x1000, &data, 4, true));
	busy.out = true;
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh_bus, drop_bus)
		T(an_access_reaches_its_region_with_the_offset),
		T(an_access_nobody_holds_whole_reads_ones),
		T(an_overlap_is_refused),
		T(many_regions_are_all_found),
		T(remove_waits_for_a_running_handler),
		T(a_handler_may_remove_itself_and_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
