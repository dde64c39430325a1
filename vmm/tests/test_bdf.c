/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>

#include "iommu/base.h"
#include "vmm/bdf.h"

static void an_address_is_put_into_the_spelling_of_sysfs(void **state)
{
	static const char *const rows[][2] = {
		{"0000:01:00.0", "0000:01:00.0"},   {"01:00.0", "0000:01:00.0"},
		{"1:0.7", "0000:01:00.7"},	    {"ABCD:FF:1F.3", "abcd:ff:1f.3"},
		{"10000:e1:00.0", "10000:e1:00.0"},
	};
	char bdf[BDF_LEN];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(bdf_parse(rows[i][0], bdf), 0);
		assert_string_equal(bdf, rows[i][1]);
	}
}

static void what_is_no_address_is_refused(void **state)
{
	static const char *const rows[] = {
		"",	      "0",	   "nvme0n1",
		"01:00",      "01:00.",	   "01:00.8",
		"01:20.0",    "100:00.0",  "01:00.0 ",
		" 01:00.0",   "01:00.0/x", "0000:01:00.0:0",
		"0000.01.00", "g:00.0",	   "0000::01:00.0",
		"01:-1.0",    "01:00.00x", "123456789:00:00.0",
		":01:00.0",   "0x1:00.0",
	};
	char bdf[BDF_LEN];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (bdf_parse(rows[i], bdf) != -EINVAL)
			fail_msg("\"%s\" was taken", rows[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_is_put_into_the_spelling_of_sysfs),
		cmocka_unit_test(what_is_no_address_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
