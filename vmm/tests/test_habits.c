/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include "iommu/base.h"
#include "vmm/habits.h"

static void a_lazy_guest_has_everything_synced(void **state)
{
	static const uint32_t classes[] = {0x010802, 0x010601, 0x0c0330, 0x020000, 0x030000, 0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		assert_int_equal(habits_of(0x8086, classes[i], true).sync, SYNC_FULL);
		assert_int_equal(habits_of(0x8086, classes[i], false).sync,
				 i < 3 ? SYNC_RINGS : SYNC_FULL);
	}
}

static void virtio_is_polled_and_nothing_else(void **state)
{
	(void)state;
	assert_in_range(habits_of(0x1af4, 0x020000, false).poll_us, 10, 1000);
	assert_int_equal(habits_of(0x8086, 0x020000, false).poll_us, 0);
	assert_int_equal(habits_of(0x8086, 0x010802, true).poll_us, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lazy_guest_has_everything_synced),
		cmocka_unit_test(virtio_is_polled_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
