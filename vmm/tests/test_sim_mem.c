/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/sim_mem.h"

#define BLOCK	  (UINT64_C(2) << 20)
#define NR_BLOCKS ((UINT64_C(1) << SIM_MEM_PA_BITS) / BLOCK)

/* Nobody looks at what is there: any number is a host address. */
static const void *at(uint64_t hva)
{
	return (const void *)(uintptr_t)hva;
}

static int fresh(void **state)
{
	struct sim_mem *mem;

	if (sim_mem_create(&mem))
		return -1;
	*state = mem;
	return 0;
}

static int drop(void **state)
{
	sim_mem_destroy(*state);
	return 0;
}

static uint64_t pa_of(struct sim_mem *mem, uint64_t hva, uint64_t len, uint64_t *run)
{
	uint64_t pa, whole;

	assert_int_equal(sim_mem_pa_of(mem, at(hva), len, &pa, run ? run : &whole), 0);
	return pa;
}

static void an_address_is_congruent_stays_and_leads_back(void **state)
{
	static const uint64_t hvas[] = {0x7f1234567000, 0x7f1234568008, 0x7f1234400000,
					0x1000,		0xffff80000000, 0x7f12345ffff8};
	struct sim_mem *mem = *state;

	for (unsigned again = 0; again < 2; again++) {
		for (size_t i = 0; i < ARRAY_SIZE(hvas); i++) {
			uint64_t pa = pa_of(mem, hvas[i], 8, NULL);

			assert_int_equal(pa % BLOCK, hvas[i] % BLOCK);
			assert_true(pa >= BLOCK && pa < UINT64_C(1) << SIM_MEM_PA_BITS);
			assert_ptr_equal(sim_mem_at(mem, pa, 8), at(hvas[i]));
			for (size_t j = 0; j < i; j++)
				assert_int_equal(pa - pa_of(mem, hvas[j], 8, NULL) ==
							 hvas[i] - hvas[j],
						 hvas[i] / BLOCK == hvas[j] / BLOCK);
		}
	}
}

static void a_run_ends_with_its_2_mib_or_what_was_asked(void **state)
{
	struct sim_mem *mem = *state;
	uint64_t run;

	pa_of(mem, 0x40000000, 0x4000, &run);
	assert_int_equal(run, 0x4000);
	pa_of(mem, 0x40000000, 16 * BLOCK, &run);
	assert_int_equal(run, BLOCK);
	pa_of(mem, 0x40003000, UINT64_MAX, &run);
	assert_int_equal(run, BLOCK - 0x3000);
}

static void only_pages_that_were_asked_for_exist(void **state)
{
	struct sim_mem *mem = *state;
	uint64_t pa = pa_of(mem, 0x40000000 + 63 * 0x4000, 0x4000 + 1, NULL) - 63 * 0x4000;

	for (uint64_t page = 0; page < BLOCK / 0x4000; page++) {
		void *there = sim_mem_at(mem, pa + page * 0x4000 + 0x3ff8, 8);

		if (page == 63 || page == 64)
			assert_ptr_equal(there, at(0x40000000 + page * 0x4000 + 0x3ff8));
		else
			assert_null(there);
	}
	assert_null(sim_mem_at(mem, 0, 8));
	assert_null(sim_mem_at(mem, pa + BLOCK, 8));
	assert_null(sim_mem_at(mem, pa + 63 * 0x4000 + (UINT64_C(1) << SIM_MEM_PA_BITS), 8));
	assert_null(sim_mem_at(mem, UINT64_MAX - 7, 8));
}

/* Messages are for the operator; here they would only frighten. */
static int silence(void)
{
	int keep = dup(2), null = open("/dev/null", O_WRONLY);

	dup2(null, 2);
	close(null);
	return keep;
}

static void the_last_address_is_given_out_and_then_it_is_efault(void **state)
{
	struct sim_mem *mem = *state;
	uint64_t pa, run, last = 0;
	int keep;

	for (uint64_t i = 1; i < NR_BLOCKS; i++) {
		last = pa_of(mem, 0x100000000000 + i * 5 * BLOCK, 8, NULL);
		assert_ptr_equal(sim_mem_at(mem, last, 8), at(0x100000000000 + i * 5 * BLOCK));
	}
	assert_int_equal(last, (UINT64_C(1) << SIM_MEM_PA_BITS) - BLOCK);
	keep = silence();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(sim_mem_pa_of(mem, at(0x200000000000), 8, &pa, &run), -EFAULT);
	assert_null(sim_mem_alloc(mem, &pa));
	dup2(keep, 2);
	close(keep);
	assert_int_equal(pa_of(mem, 0x100000000000 + 5 * BLOCK, 8, NULL), BLOCK);
}

static void tables_are_zeroed_pages_that_vanish_when_given_back(void **state)
{
	enum { NR = 300 }; /* more than two slabs hold */
	struct sim_mem *mem = *state;
	uint64_t pa[NR], *table[NR], again;

	for (unsigned i = 0; i < NR; i++) {
		table[i] = sim_mem_alloc(mem, &pa[i]);
		assert_non_null(table[i]);
		assert_int_equal(pa[i] % SIM_MEM_PAGE, 0);
		assert_ptr_equal(sim_mem_at(mem, pa[i], 8), table[i]);
		for (unsigned j = 0; j < SIM_MEM_PAGE / 8; j++)
			assert_int_equal(table[i][j], 0);
		memset(table[i], 0xff, SIM_MEM_PAGE);
		for (unsigned j = 0; j < i; j++)
			assert_true(pa[i] != pa[j]);
	}
	for (unsigned i = 0; i < NR; i += 2) {
		sim_mem_free(mem, table[i]);
		assert_null(sim_mem_at(mem, pa[i], 8));
		assert_ptr_equal(sim_mem_at(mem, pa[i + 1], 8), table[i + 1]);
	}
	for (unsigned i = 0; i < NR; i += 2) {
		uint64_t *one = sim_mem_alloc(mem, &again);

		assert_ptr_equal(sim_mem_at(mem, again, 8), one);
		for (unsigned j = 0; j < SIM_MEM_PAGE / 8; j++)
			assert_int_equal(one[j], 0);
		for (unsigned j = 1; j < NR; j += 2)
			assert_true(again != pa[j]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_address_is_congruent_stays_and_leads_back, fresh,
						drop),
		cmocka_unit_test_setup_teardown(a_run_ends_with_its_2_mib_or_what_was_asked, fresh,
						drop),
		cmocka_unit_test_setup_teardown(only_pages_that_were_asked_for_exist, fresh, drop),
		cmocka_unit_test_setup_teardown(the_last_address_is_given_out_and_then_it_is_efault,
						fresh, drop),
		cmocka_unit_test_setup_teardown(tables_are_zeroed_pages_that_vanish_when_given_back,
						fresh, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
