/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include "iommu/base.h"

static int taken;

/* Another value each time, as a clock has. */
static int next(void)
{
	return ++taken;
}

static void min_and_max_take_each_argument_once(void **state)
{
	(void)state;
	taken = 0;
	assert_int_equal(MIN(next(), 10), 1);
	assert_int_equal(MIN(10, next()), 2);
	assert_int_equal(MAX(next(), 0), 3);
	assert_int_equal(MAX(0, next()), 4);
	assert_int_equal(taken, 4);
}

static void min_and_max_have_the_type_of_both(void **state)
{
	(void)state;
	assert_true(MIN(UINT64_C(1) << 40, 7u) == 7);
	assert_true(MAX(UINT64_C(1) << 40, 7u) == UINT64_C(1) << 40);
	assert_int_equal(MIN(-1, 0), -1);
	assert_int_equal(MIN(MAX(3, 5), 4), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(min_and_max_take_each_argument_once),
		cmocka_unit_test(min_and_max_have_the_type_of_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
