/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>

#include "iommu/gmem.h"

static uint8_t low[0x4000], high[0x2000];

static int two_spans(void **state)
{
	static struct gmem gmem;

	gmem = (struct gmem){ 0 };
	assert_int_equal(gmem_add(&gmem, 0x10000, sizeof(low), low), 0);
	assert_int_equal(gmem_add(&gmem, 0x20000, sizeof(high), high), 0);
	*state = &gmem;
	return 0;
}

static void a_range_inside_one_span_is_found(void **state)
{
	struct gmem *gmem = *state;

	assert_ptr_equal(gmem_ptr(gmem, 0x10000, 1), low);
	assert_ptr_equal(gmem_ptr(gmem, 0x10000, sizeof(low)), low);
	assert_ptr_equal(gmem_ptr(gmem, 0x21fff, 1), high + 0x1fff);
	assert_int_equal(gmem_size(gmem), sizeof(low) + sizeof(high));
}

static void a_range_that_leaves_its_span_is_refused(void **state)
{
	static const struct {
		uint64_t gpa, len;
	} rows[] = {
		{ 0xffff, 1 },	       { 0xffff, 2 },	      { 0x14000, 1 },
		{ 0x13fff, 2 },	       { 0x10000, 0 },	      { 0x10000, 0x4001 },
		{ 0x10000, UINT64_MAX }, { 0x13fff, UINT64_MAX }, { UINT64_MAX, 1 },
		{ 0x10000, 0x12000 },  { 0, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_null(gmem_ptr(*state, rows[i].gpa, rows[i].len));
}

static void a_bad_span_is_refused(void **state)
{
	struct gmem *gmem = *state;

	assert_int_equal(gmem_add(gmem, 0x30000, 0, low), -EINVAL);
	assert_int_equal(gmem_add(gmem, 0x22000, 0x1000, low), -EINVAL);
	assert_int_equal(gmem_add(gmem, 0x21000, 0x1000, low), -EINVAL);
	assert_int_equal(gmem_add(gmem, 0, 0x1000, low), -EINVAL);
	assert_int_equal(gmem_add(gmem, UINT64_MAX - 10, 0x1000, low), -EINVAL);
	assert_int_equal(gmem_add(gmem, 0x30000, 0x1000, low), 0);
	assert_int_equal(gmem_add(gmem, 0x40000, 0x1000, low), 0);
	assert_int_equal(gmem_add(gmem, 0x50000, 0x1000, low), -ENOSPC);
	assert_int_equal(gmem->nr_spans, GMEM_MAX_SPANS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_range_inside_one_span_is_found, two_spans),
		cmocka_unit_test_setup(a_range_that_leaves_its_span_is_refused, two_spans),
		cmocka_unit_test_setup(a_bad_span_is_refused, two_spans),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
