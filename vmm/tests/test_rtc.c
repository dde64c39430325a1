/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "vmm/rtc.h"

static int fresh(void **state)
{
	return rtc_create((struct rtc **)state);
}

static int drop(void **state)
{
	rtc_destroy(*state);
	return 0;
}

static uint32_t in(void *rtc, uint64_t off)
{
	uint8_t data[4];

	rtc_access(rtc, off, data, 4, false);
	return get_le32(data);
}

static void out(void *rtc, uint64_t off, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	rtc_access(rtc, off, data, 4, true);
}

static void it_tells_the_hosts_time(void **state)
{
	uint32_t before = (uint32_t)time(NULL), now = in(*state, 0);

	assert_in_range(now, before, before + 2);
	assert_int_equal(in(*state, 0xc), 1);
}

static void the_guest_may_set_it_across_the_wrap(void **state)
{
	static const uint32_t times[] = {0, 1000, 0x7fffffff, 0xfffffff0};

	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		out(*state, 8, times[i]);
		assert_in_range(in(*state, 0), times[i], times[i] + 2);
		assert_int_equal(in(*state, 8), times[i]);
	}
}

/* How Linux's amba_read_periphid() puts the bytes together. */
static void it_identifies_as_a_pl031(void **state)
{
	uint32_t pid = 0, cid = 0;

	for (unsigned i = 0; i < 4; i++) {
		pid |= (in(*state, 0xfe0 + 4 * i) & 255) << (8 * i);
		cid |= (in(*state, 0xff0 + 4 * i) & 255) << (8 * i);
	}
	assert_int_equal(pid & 0xfffff, 0x41031);
	assert_int_equal(cid, 0xb105f00d);
}

static void the_match_raises_nothing(void **state)
{
	out(*state, 0x10, ~0u);
	out(*state, 0x4, in(*state, 0));
	assert_int_equal(in(*state, 0x10), 1);
	assert_int_equal(in(*state, 0x14), 0);
	assert_int_equal(in(*state, 0x18), 0);
}

static void any_access_is_harmless(void **state)
{
	uint8_t data[8];

	for (uint64_t off = 0; off < 0x1000; off++) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			memset(data, 0xff, sizeof(data));
			rtc_access(*state, off, data, len, true);
			rtc_access(*state, off, data, len, false);
		}
	}
	rtc_access(*state, 0xfe0, data, 8, false);
	assert_int_equal(get_le64(data), 0x31);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, drop)
		T(it_tells_the_hosts_time),  T(the_guest_may_set_it_across_the_wrap),
		T(it_identifies_as_a_pl031), T(the_match_raises_nothing),
		T(any_access_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
