/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/slots.h"

#define NR CONFIG_MAX_VFIO

/* A function as the user gives it, and where it shall be. */
struct given {
	unsigned host_group;
	const char *group;
	unsigned slot, function;
};

static int assign(const struct given *given, unsigned nr, struct slot_place *places,
		  unsigned *nr_slots)
{
	static const char *const names[NR] = {"00:01.0", "00:01.1", "00:01.2", "00:01.3",
					      "00:01.4", "00:01.5", "00:01.6", "00:01.7"};

	for (unsigned i = 0; i < nr; i++)
		places[i] = (struct slot_place){.bdf = names[i],
						.host_group = given[i].host_group,
						.group = given[i].group};
	return slots_assign(places, nr, nr_slots);
}

static void what_shares_a_host_group_or_a_name_shares_a_slot(void **state)
{
	static const struct {
		unsigned nr, nr_slots;
		struct given given[NR];
	} rows[] = {
		{0, 0, {{0}}},
		{1, 1, {{7, NULL, 0, 0}}},
		{2, 2, {{7, NULL, 0, 0}, {8, NULL, 1, 0}}},
		{3, 2, {{7, NULL, 0, 0}, {8, NULL, 1, 0}, {7, NULL, 0, 1}}},
		{2, 1, {{7, "a", 0, 0}, {8, "a", 0, 1}}},
		{2, 2, {{7, "a", 0, 0}, {8, "b", 1, 0}}},
		{2, 2, {{7, "a", 0, 0}, {8, NULL, 1, 0}}},
		{3, 2, {{7, "a", 0, 0}, {9, NULL, 1, 0}, {8, "a", 0, 1}}},
		/* functions of the host group follow, before and after the one with the name */
		{3, 1, {{7, "a", 0, 0}, {8, NULL, 0, 1}, {8, "a", 0, 2}}},
		{3, 1, {{7, "a", 0, 0}, {8, "a", 0, 1}, {8, NULL, 0, 2}}},
		{4, 2, {{9, NULL, 0, 0}, {8, NULL, 1, 0}, {7, "a", 1, 1}, {8, "a", 1, 2}}},
		{8,
		 1,
		 {{1, "a", 0, 0},
		  {2, "a", 0, 1},
		  {3, "a", 0, 2},
		  {4, "a", 0, 3},
		  {5, "a", 0, 4},
		  {6, "a", 0, 5},
		  {7, "a", 0, 6},
		  {8, "a", 0, 7}}},
	};

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
		struct slot_place places[NR];
		unsigned nr_slots = 99;

		assert_int_equal(assign(rows[n].given, rows[n].nr, places, &nr_slots), 0);
		if (nr_slots != rows[n].nr_slots)
			fail_msg("row %zu: %u slots", n, nr_slots);
		for (unsigned i = 0; i < rows[n].nr; i++) {
			if (places[i].slot != rows[n].given[i].slot ||
			    places[i].function != rows[n].given[i].function)
				fail_msg("row %zu: function %u is %u.%u", n, i, places[i].slot,
					 places[i].function);
		}
	}
}

static void a_host_group_is_not_torn_apart(void **state)
{
	static const struct given given[] = {{7, "a", 0, 0}, {9, NULL, 0, 0}, {7, "b", 0, 0}};
	struct slot_place places[NR];
	FILE *file = tmpfile();
	int keep = dup(STDERR_FILENO), ret;
	unsigned nr_slots;
	char said[512] = "";

	(void)state;
	assert_true(file && keep >= 0);
	dup2(fileno(file), STDERR_FILENO);
	ret = assign(given, 3, places, &nr_slots);
	dup2(keep, STDERR_FILENO);
	close(keep);
	assert_true(pread(fileno(file), said, sizeof(said) - 1, 0) > 0);
	fclose(file);
	assert_int_equal(ret, -EINVAL);
	assert_non_null(strstr(said, "00:01.2,group=b: it shares IOMMU group 7 of the host with "
				     "00:01.0, which has group=a"));
	assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_shares_a_host_group_or_a_name_shares_a_slot),
		cmocka_unit_test(a_host_group_is_not_torn_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
