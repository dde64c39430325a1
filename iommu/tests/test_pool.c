/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/pool.h"

#define PAGE 0x4000u

static void a_limit_below_one_page_is_refused(void **state)
{
	struct pool *pool;

	(void)state;
	assert_int_equal(pool_create(PAGE, 2 * PAGE - 1, &pool), -EINVAL);
	assert_int_equal(pool_create(PAGE, 0, &pool), -EINVAL);
}

static void the_limit_holds_and_pages_come_back(void **state)
{
	uint8_t *page[5];
	struct pool *pool;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, 4 * 2 * PAGE, &pool), 0);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 4; i++) {
			page[i] = pool_get(pool, 1, &got);
			assert_non_null(page[i]);
			assert_int_equal(got, 1);
			assert_true(IS_ALIGNED((uintptr_t)page[i], PAGE));
			for (int j = 0; j < i; j++)
				assert_ptr_not_equal(page[i], page[j]);
			memset(page[i], 0xaa, PAGE);
			memset(pool_twin(pool, page[i]), 0xbb, PAGE);
		}
		assert_null(pool_get(pool, 1, &got));
		assert_int_equal(pool_used(pool), 4 * 2 * PAGE);
		for (int i = 0; i < 4; i++)
			pool_put(pool, page[i], 1);
		assert_int_equal(pool_used(pool), 0);
	}
	assert_int_equal(pool_peak(pool), 4 * 2 * PAGE);
	pool_destroy(pool);
}

static void a_run_is_contiguous_or_the_longest_there_is(void **state)
{
	uint8_t *all, *run;
	struct pool *pool;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, 10 * 2 * PAGE, &pool), 0);
	all = pool_get(pool, 10, &got);
	assert_int_equal(got, 10);
	memset(all, 1, 10 * PAGE);
	/* free: 0 1, 4 5 6, 9 */
	pool_put(pool, all + 0 * PAGE, 2);
	pool_put(pool, all + 4 * PAGE, 3);
	pool_put(pool, all + 9 * PAGE, 1);
	run = pool_get(pool, 5, &got);
	assert_ptr_equal(run, all + 4 * PAGE);
	assert_int_equal(got, 3);
	run = pool_get(pool, 2, &got);
	assert_ptr_equal(run, all);
	assert_int_equal(got, 2);
	run = pool_get(pool, 2, &got);
	assert_ptr_equal(run, all + 9 * PAGE);
	assert_int_equal(got, 1);
	assert_null(pool_get(pool, 3, &got));
	pool_destroy(pool);
}

/* More pages than the stock holds: none may be lent twice, none may be lost. */
static void no_page_is_lent_twice(void **state)
{
	enum { NR = 2500 };
	static uint8_t *lent[NR];
	static size_t len[NR];
	struct pool *pool;
	unsigned seed = 1, nr = 0;
	size_t total = 0;

	(void)state;
	assert_int_equal(pool_create(PAGE, (uint64_t)NR * 2 * PAGE, &pool), 0);
	for (int op = 0; op < 20000; op++) {
		seed = seed * 1103515245 + 12345;
		if (nr < NR && (seed >> 16) % 5 < 3) {
			size_t got = 0;
			uint8_t *page = pool_get(pool, 1 + (seed >> 20) % 7, &got);

			if (!page) {
				assert_int_equal(total, NR);
				continue;
			}
			for (unsigned i = 0; i < nr; i++)
				assert_true(page + got * PAGE <= lent[i] ||
					    lent[i] + len[i] * PAGE <= page);
			lent[nr] = page;
			len[nr++] = got;
			total += got;
		} else if (nr) {
			unsigned i = (seed >> 8) % nr;

			pool_put(pool, lent[i], len[i]);
			total -= len[i];
			lent[i] = lent[--nr];
			len[i] = len[nr];
		}
		assert_int_equal(pool_used(pool), total * 2 * PAGE);
	}
	pool_destroy(pool);
}

static void what_is_reserved_is_lent_to_nobody_else(void **state)
{
	uint8_t *page, *run;
	struct pool *pool;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, 4 * 2 * PAGE, &pool), 0);
	assert_int_equal(pool_reserve(pool), 0);
	assert_int_equal(pool_reserve(pool), 0);
	assert_int_equal(pool_used(pool), 2 * 2 * PAGE);
	run = pool_get(pool, 4, &got); /* a run stops where the promises begin */
	assert_non_null(run);
	assert_int_equal(got, 2);
	assert_null(pool_get(pool, 1, &got));
	assert_int_equal(pool_reserve(pool), -ENOMEM);
	page = pool_get_reserved(pool);
	assert_non_null(page);
	assert_true(page + PAGE <= run || run + 2 * PAGE <= page);
	assert_int_equal(pool_used(pool), 4 * 2 * PAGE);
	assert_null(pool_get(pool, 1, &got));
	pool_unreserve(pool);
	assert_int_equal(pool_used(pool), 3 * 2 * PAGE);
	assert_non_null(pool_get(pool, 1, &got));
	assert_int_equal(pool_peak(pool), 4 * 2 * PAGE);
	pool_destroy(pool);
}

static void a_reservation_survives_every_mix_of_lending(void **state)
{
	enum { NR = 32 };
	uint8_t *lent[NR];
	struct pool *pool;
	unsigned seed = 7, nr = 0, reserved = 0;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, (uint64_t)NR * 2 * PAGE, &pool), 0);
	for (int op = 0; op < 20000; op++) {
		uint8_t *page = NULL;

		seed = seed * 1103515245 + 12345;
		switch ((seed >> 16) % 5) {
		case 0:
			assert_int_equal(pool_reserve(pool), nr + reserved < NR ? 0 : -ENOMEM);
			reserved += nr + reserved < NR;
			break;
		case 1:
			if (reserved) {
				page = pool_get_reserved(pool);
				assert_non_null(page);
				reserved--;
			}
			break;
		case 2:
			page = pool_get(pool, 1, &got);
			assert_int_equal(!!page, nr + reserved < NR);
			break;
		case 3:
			if (reserved && (seed >> 20) % 2) {
				pool_unreserve(pool);
				reserved--;
			} else {
				pool_trim(pool);
			}
			break;
		default:
			if (nr) {
				unsigned i = (seed >> 20) % nr;

				pool_put(pool, lent[i], 1);
				lent[i] = lent[--nr];
			}
		}
		if (page) {
			for (unsigned i = 0; i < nr; i++)
				assert_ptr_not_equal(page, lent[i]);
			lent[nr++] = page;
		}
		assert_int_equal(pool_used(pool), (uint64_t)(nr + reserved) * 2 * PAGE);
	}
	pool_destroy(pool);
}

static void trimming_gives_the_memory_of_free_pages_back(void **state)
{
	struct pool *pool;
	uint8_t *page;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, 2 * PAGE, &pool), 0);
	page = pool_get(pool, 1, &got);
	page[5] = 1;
	*pool_twin(pool, page + 5) = 1;
	pool_put(pool, page, 1);
	pool_trim(pool);
	page = pool_get(pool, 1, &got);
	assert_non_null(page);
	/* the kernel's page of zeros, not ours */
	assert_int_equal(page[5], 0);
	assert_int_equal(*pool_twin(pool, page + 5), 0);
	pool_destroy(pool);
}

/* Free pages keep what was written only as far as they keep their memory. */
static void a_bounded_stock_of_free_pages_keeps_its_memory(void **state)
{
	enum { NR = 3000, STOCK = (32 << 20) / (2 * PAGE) };
	static uint8_t *page[NR];
	unsigned seed = 3, kept = 0;
	struct pool *pool;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, (uint64_t)NR * 2 * PAGE, &pool), 0);
	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < NR; i++) {
			page[i] = pool_get(pool, 1, &got);
			assert_non_null(page[i]);
			kept += round && page[i][100];
			/* a twin goes and stays with its page */
			assert_int_equal(*pool_twin(pool, page[i] + 100), page[i][100]);
			page[i][100] = *pool_twin(pool, page[i] + 100) = 1;
		}
		for (unsigned i = NR; i; i--) {
			unsigned j = (seed = seed * 1103515245 + 12345, seed >> 8) % i;
			uint8_t *last = page[j];

			page[j] = page[i - 1];
			pool_put(pool, last, 1);
		}
	}
	assert_in_range(kept, STOCK / 2, STOCK);
	pool_destroy(pool);
}

static void the_lowest_free_page_is_lent_first(void **state)
{
	uint8_t *page[300], *again;
	struct pool *pool;
	size_t got;

	(void)state;
	assert_int_equal(pool_create(PAGE, 300 * 2 * PAGE, &pool), 0);
	for (unsigned i = 0; i < 300; i++)
		page[i] = pool_get(pool, 1, &got);
	for (unsigned i = 299; i >= 200; i--)
		pool_put(pool, page[i], 1);
	pool_put(pool, page[7], 1);
	pool_put(pool, page[130], 2);
	again = pool_get(pool, 2, &got);
	assert_ptr_equal(again, page[130]);
	again = pool_get(pool, 1, &got);
	assert_ptr_equal(again, page[7]);
	again = pool_get(pool, 1, &got);
	assert_ptr_equal(again, page[200]);
	pool_destroy(pool);
}

/* The first run of @want free pages, or the first of the longest there are. */
static size_t best_run(const bool *busy, size_t nr, size_t want, size_t *first)
{
	size_t best = 0;

	*first = 0;
	for (size_t i = 0; i < nr; i++) {
		size_t len = 0;

		while (i + len < nr && !busy[i + len] && len < want)
			len++;
		if (len > best) {
			best = len;
			*first = i;
		}
	}
	return best;
}

static void whatever_was_lent_before_it_is_the_first_run_that_will_do(void **state)
{
	enum { NR = 200 };
	bool busy[NR] = {false};
	size_t nr_busy = 0, got, first, len;
	uint8_t *base, *page;
	struct pool *pool;
	uint32_t rng = 1;

	(void)state;
	assert_int_equal(pool_create(PAGE, NR * 2 * PAGE, &pool), 0);
	base = pool_get(pool, 1, &got);
	pool_put(pool, base, 1);
	for (unsigned op = 0; op < 200000; op++) {
		size_t want;

		rng = rng * 1664525 + 1013904223;
		/* Many in a row, so that one learns from the other; now and then some pages go. */
		want = 1 + (rng >> 24) % (op / 64 % 2 ? 8 : NR);
		if (op % 64 >= 40) {
			first = (rng >> 8) % NR;
			if (busy[first]) {
				pool_put(pool, base + first * PAGE, 1);
				busy[first] = false;
				nr_busy--;
			}
			continue;
		}
		page = pool_get(pool, want, &got);
		if (nr_busy == NR) {
			assert_null(page);
			continue;
		}
		want = want < NR - nr_busy ? want : NR - nr_busy;
		len = best_run(busy, NR, want, &first);
		assert_int_equal(got, len);
		assert_ptr_equal(page, base + first * PAGE);
		for (size_t i = 0; i < len; i++)
			busy[first + i] = true;
		nr_busy += len;
	}
	pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_limit_below_one_page_is_refused),
		cmocka_unit_test(the_limit_holds_and_pages_come_back),
		cmocka_unit_test(a_run_is_contiguous_or_the_longest_there_is),
		cmocka_unit_test(no_page_is_lent_twice),
		cmocka_unit_test(a_bounded_stock_of_free_pages_keeps_its_memory),
		cmocka_unit_test(the_lowest_free_page_is_lent_first),
		cmocka_unit_test(whatever_was_lent_before_it_is_the_first_run_that_will_do),
		cmocka_unit_test(what_is_reserved_is_lent_to_nobody_else),
		cmocka_unit_test(a_reservation_survives_every_mix_of_lending),
		cmocka_unit_test(trimming_gives_the_memory_of_free_pages_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
