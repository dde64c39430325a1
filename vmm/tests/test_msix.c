/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <string.h>

#include "iommu/base.h"
#include "vmm/msix.h"

#define NR 70u /* more than one word of pending bits */

static struct msix m;
static unsigned nr_sent;
static uint64_t sent_addr;
static uint32_t sent_data;

static void on_send(void *ctx, uint64_t addr, uint32_t data)
{
	assert_ptr_equal(ctx, &m);
	nr_sent++;
	sent_addr = addr;
	sent_data = data;
}

static int a_table(void **state)
{
	(void)state;
	nr_sent = 0;
	return msix_init(&m, NR, on_send, &m);
}

static int no_table(void **state)
{
	(void)state;
	msix_destroy(&m);
	return 0;
}

static void wr32(unsigned off, uint32_t val)
{
	msix_table_access(&m, off, &val, 4, true);
}

static uint32_t rd32(unsigned off)
{
	uint32_t val;

	msix_table_access(&m, off, &val, 4, false);
	return val;
}

static uint64_t pba(unsigned word)
{
	uint64_t val;

	msix_pba_access(&m, word * 8, &val, 8, false);
	return val;
}

/* program - as a driver does: address and data, then unmask if asked */
static void program(unsigned vec, bool unmask)
{
	wr32(vec * 16, 0x01030040);
	wr32(vec * 16 + 4, 1);
	wr32(vec * 16 + 8, 100 + vec);
	wr32(vec * 16 + 12, !unmask);
}

static void all_vectors_start_masked(void **state)
{
	(void)state;
	assert_int_equal(msix_table_len(&m), NR * 16);
	assert_int_equal(msix_pba_len(&m), 16);
	for (unsigned vec = 0; vec < NR; vec++)
		assert_int_equal(rd32(vec * 16 + 12), 1);
}

static void an_unmasked_vector_is_sent_as_programmed(void **state)
{
	(void)state;
	program(69, true);
	msix_fire(&m, 69);
	assert_int_equal(nr_sent, 0); /* not enabled yet */
	msix_control(&m, true, false);
	assert_int_equal(nr_sent, 0); /* and not remembered */
	msix_fire(&m, 69);
	assert_int_equal(nr_sent, 1);
	assert_true(sent_addr == 0x101030040);
	assert_int_equal(sent_data, 169);
	msix_fire(&m, NR);
	msix_fire(&m, UINT32_MAX);
	assert_int_equal(nr_sent, 1);
}

static void a_masked_vector_is_pending_until_unmasked(void **state)
{
	(void)state;
	msix_control(&m, true, false);
	program(65, false);
	for (int i = 0; i < 3; i++)
		msix_fire(&m, 65);
	assert_int_equal(nr_sent, 0);
	assert_int_equal(pba(0), 0);
	assert_int_equal(pba(1), 2);
	/* another vector's unmask does not send it */
	program(64, true);
	assert_int_equal(nr_sent, 0);
	wr32(65 * 16 + 12, 0);
	assert_int_equal(nr_sent, 1);
	assert_int_equal(sent_data, 165);
	assert_int_equal(pba(1), 0);
}

static void the_function_mask_holds_every_vector_back(void **state)
{
	(void)state;
	program(0, true);
	program(66, true);
	program(2, false);
	msix_control(&m, true, true);
	msix_fire(&m, 0);
	msix_fire(&m, 66);
	msix_fire(&m, 2);
	assert_int_equal(nr_sent, 0);
	msix_control(&m, true, false);
	assert_int_equal(nr_sent, 2);
	assert_int_equal(pba(0), 4);
	assert_int_equal(pba(1), 0);
}

static void disabling_forgets_what_was_pending(void **state)
{
	(void)state;
	msix_control(&m, true, false);
	program(3, false);
	msix_fire(&m, 3);
	msix_control(&m, false, false);
	msix_control(&m, true, false);
	wr32(3 * 16 + 12, 0);
	assert_int_equal(nr_sent, 0);
}

static void reserved_bits_stay_zero_at_any_access_size(void **state)
{
	uint64_t ones = UINT64_MAX, val;

	(void)state;
	for (unsigned off = 0; off < NR * 16; off += 8)
		msix_table_access(&m, off, &ones, 8, true);
	for (unsigned vec = 0; vec < NR; vec++) {
		assert_int_equal(rd32(vec * 16), 0xfffffffc);
		assert_int_equal(rd32(vec * 16 + 12), 1);
	}
	for (unsigned off = 0; off < NR * 16; off++)
		msix_table_access(&m, off, &ones, 1, true);
	msix_table_access(&m, 8, &val, 8, false);
	assert_true(val == UINT64_C(0x1ffffffff));
	msix_pba_access(&m, 0, &ones, 8, true);
	assert_int_equal(pba(0), 0);
}

static void reset_masks_and_forgets_all(void **state)
{
	(void)state;
	msix_control(&m, true, true);
	program(1, true);
	msix_fire(&m, 1);
	msix_reset(&m);
	assert_false(m.enabled);
	assert_false(m.masked);
	assert_int_equal(rd32(16), 0);
	assert_int_equal(rd32(16 + 12), 1);
	assert_int_equal(pba(0), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, a_table, no_table)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_vectors_start_masked),
		TEST(an_unmasked_vector_is_sent_as_programmed),
		TEST(a_masked_vector_is_pending_until_unmasked),
		TEST(the_function_mask_holds_every_vector_back),
		TEST(disabling_forgets_what_was_pending),
		TEST(reserved_bits_stay_zero_at_any_access_size),
		TEST(reset_masks_and_forgets_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
