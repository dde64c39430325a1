/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include "iommu/base.h"
#include "vmm/e1000e_guard.h"
#include "vmm/habits.h"

static void a_lazy_guest_has_everything_synced(void **state)
{
	static const uint32_t classes[] = {0x010802, 0x010601, 0x0c0330, 0x020000, 0x030000, 0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		assert_int_equal(habits_of(0x8086, 0x100e, classes[i], true).sync, SYNC_FULL);
		assert_int_equal(habits_of(0x8086, 0x100e, classes[i], false).sync,
				 i < 3 ? SYNC_RINGS : SYNC_FULL);
	}
}

static void who_is_told_through_memory_alone_is_polled(void **state)
{
	static const uint32_t walkers[] = {0x0c0300, 0x0c0310, 0x0c0320, 0x040300};
	static const uint32_t others[] = {0x020000, 0x010802, 0x010601, 0x0c0330, 0x040100};

	(void)state;
	assert_in_range(habits_of(0x1af4, 0x1041, 0x020000, false).poll_us, 10, 10000);
	for (size_t i = 0; i < ARRAY_SIZE(walkers); i++)
		assert_in_range(habits_of(0x8086, 0x293a, walkers[i], false).poll_us, 10, 1000);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_int_equal(habits_of(0x8086, 0x100e, others[i], true).poll_us, 0);
}

static void e1000e_turns_full_with_long_packets(void **state)
{
	static const struct {
		uint64_t off;
		uint32_t val;
		unsigned len;
		bool tells;
	} writes[] = {
		{0x100, 0x04048002, 4, false}, /* as Linux sets it for an MTU of 1500 */
		{0x100, 0x04048022, 4, true},  /* for jumbo packets */
		{0x100, 0x04048422, 4, true},  /* and packet split */
		{0x100, 0x04048402, 4, true},  {0x104, 0x20, 4, false}, {0xd0, 0x20, 4, false},
	};
	struct habits habits = habits_of(0x8086, 0x10d3, 0x020000, false);

	(void)state;
	assert_int_equal(habits.sync, SYNC_RINGS);
	assert_true(habits.may_turn_full);
	assert_int_equal(habits_of(0x8086, 0x10d3, 0x020000, true).sync, SYNC_FULL);
	assert_false(habits_of(0x8086, 0x100e, 0x020000, false).may_turn_full);
	assert_false(is_e1000e(0x10d3, 0x8086));
	for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
		uint8_t data[4];

		put_le32(data, writes[i].val);
		assert_int_equal(e1000e_guard_write(writes[i].off, data, writes[i].len),
				 writes[i].tells);
	}
}

static void vcpus_are_held_unless_valid_flags_come_last(void **state)
{
	static const struct {
		uint16_t vendor;
		uint32_t class;
		bool held;
	} rows[] = {
		{0x1b36, 0x010802, false}, {0x8086, 0x010601, false}, {0x1b36, 0x0c0330, false},
		{0x8086, 0x020000, false}, {0x1af4, 0x020000, false}, {0x1af4, 0x010000, false},
		{0x8086, 0x028000, true},  {0x8086, 0x0c0320, true},  {0x10ec, 0x020000, true},
		{0x1234, 0x00ff00, true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(habits_of(rows[i].vendor, 1, rows[i].class, false).hold,
				 rows[i].held);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lazy_guest_has_everything_synced),
		cmocka_unit_test(e1000e_turns_full_with_long_packets),
		cmocka_unit_test(who_is_told_through_memory_alone_is_polled),
		cmocka_unit_test(vcpus_are_held_unless_valid_flags_come_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
