/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/diff.h"

#define MAX_LINES 256u /* a slot of 16 KiB */
#define MAX_LEN	  (MAX_LINES * DIFF_LINE)

struct fixture {
	struct diff_kind kind[DIFF_MAX_KINDS];
	size_t nr_kinds;
	uint8_t *a, *b; /* MAX_LEN each; a byte more on either side cannot be read */
	void *map[2];
	size_t map_len;
};

static unsigned rnd_state = 1;

static unsigned rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 17;
	rnd_state ^= rnd_state << 5;
	return rnd_state;
}

static void fill(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(rnd() >> 8);
}

static int setup(void **state)
{
	static struct fixture fx;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = ALIGN_UP(MAX_LEN, page);
	const char *seed = getenv("SEED");

	rnd_state = seed ? (unsigned)atoi(seed) | 1 : (unsigned)getpid() | 1;
	printf("SEED=%u\n", rnd_state);
	memset(&fx, 0, sizeof(fx));
	fx.nr_kinds = diff_kinds(fx.kind);
	fx.map_len = len + 2 * page;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *map =
			mmap(NULL, fx.map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		assert_ptr_not_equal(map, MAP_FAILED);
		assert_int_equal(mprotect(map + page, len, PROT_READ | PROT_WRITE), 0);
		fx.map[i] = map;
		*(i ? &fx.b : &fx.a) = map + page;
	}
	fill(fx.a, MAX_LEN);
	memcpy(fx.b, fx.a, MAX_LEN);
	*state = &fx;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	for (unsigned i = 0; i < 2; i++)
		munmap(fx->map[i], fx->map_len);
	return 0;
}

/* Byte by byte: as slow and as obvious as it can be. */
static size_t oracle(const uint8_t *a, const uint8_t *b, size_t nr)
{
	size_t last = 0;

	for (size_t i = 0; i < nr * DIFF_LINE; i++) {
		if (a[i] != b[i])
			last = i / DIFF_LINE + 1;
	}
	return last;
}

static void all_agree(const struct fixture *fx, const uint8_t *a, const uint8_t *b, size_t nr,
		      size_t expected)
{
	assert_int_equal(diff_last(a, b, nr), expected);
	assert_int_equal(diff_any(a, b, nr), expected != 0);
	for (size_t k = 0; k < fx->nr_kinds; k++) {
		size_t got = fx->kind[k].last(a, b, nr);

		if (fx->kind[k].any(a, b, nr) != (expected != 0))
			fail_msg("%s: any of %zu lines, not %zu", fx->kind[k].name, nr, expected);
		if (got != expected)
			fail_msg("%s: %zu of %zu lines, not %zu", fx->kind[k].name, got, nr,
				 expected);
	}
}

static void the_fastest_kind_is_the_one_in_use(void **state)
{
	const struct fixture *fx = *state;

	assert_string_equal(fx->kind[0].name, "plain");
	for (size_t k = 0; k < fx->nr_kinds; k++)
		printf("%s\n", fx->kind[k].name);
#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(__SANITIZE_THREAD__)
	assert_true(fx->nr_kinds > 1);
#endif
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
	assert_int_equal(fx->nr_kinds, __builtin_cpu_supports("avx2") ? 3 : 2);
#endif
}

/* Each byte of a slot, alone, by its lowest and its highest bit; the last byte of the answer's line
 * may not be the last that is looked at. */
static void every_byte_is_found_alone(void **state)
{
	struct fixture *fx = *state;
	enum { NR = 64 };

	for (size_t i = 0; i < NR * DIFF_LINE; i++) {
		uint8_t bit = i % 2 ? 0x80 : 0x01;

		fx->b[i] ^= bit;
		all_agree(fx, fx->a, fx->b, NR, i / DIFF_LINE + 1);
		all_agree(fx, fx->b, fx->a, NR, i / DIFF_LINE + 1);
		/* What stands behind is not asked for. */
		all_agree(fx, fx->a, fx->b, i / DIFF_LINE, 0);
		fx->b[i] ^= bit;
	}
	all_agree(fx, fx->a, fx->b, NR, 0);
}

static void every_length_ends_where_it_should(void **state)
{
	struct fixture *fx = *state;

	for (size_t nr = 0; nr <= MAX_LINES; nr++) {
		/* The ends of what may be read, both of them, with what differs just beyond. */
		size_t rest = MAX_LEN - nr * DIFF_LINE;

		all_agree(fx, fx->a, fx->b, nr, 0);
		all_agree(fx, fx->a + rest, fx->b + rest, nr, 0);
		if (!rest)
			break;
		fx->b[nr * DIFF_LINE] ^= 1;
		all_agree(fx, fx->a, fx->b, nr, 0);
		fx->b[nr * DIFF_LINE] ^= 1;
		fx->b[rest - 1] ^= 1;
		all_agree(fx, fx->a + rest, fx->b + rest, nr, 0);
		fx->b[rest - 1] ^= 1;
	}
}

static void any_alignment_will_do(void **state)
{
	struct fixture *fx = *state;
	enum { NR = 9, LEN = NR * DIFF_LINE };
	const size_t step = sizeof(uint64_t);

	for (size_t at = 0; at < 128; at += step) {
		for (size_t other = 0; other < 128; other += step) {
			uint8_t *a = fx->a + at, *b = fx->b + other;
			size_t byte = rnd() % LEN;

			fill(a, LEN);
			memcpy(b, a, LEN);
			all_agree(fx, a, b, NR, 0);
			b[byte] ^= (uint8_t)(1 << rnd() % 8);
			all_agree(fx, a, b, NR, byte / DIFF_LINE + 1);
		}
	}
}

static void random_contents_are_judged_as_the_oracle_does(void **state)
{
	struct fixture *fx = *state;

	for (unsigned round = 0; round < 3000; round++) {
		size_t nr = rnd() % (MAX_LINES + 1), dirty = rnd() % 4 ? rnd() % 5 : rnd() % 400;
		size_t at = rnd() % (MAX_LINES + 1 - nr) * DIFF_LINE;
		const uint8_t *a = fx->a + at, *b = fx->b + at;
		size_t left = nr;

		memcpy(fx->b, fx->a, MAX_LEN);
		/* The same value too, sometimes. */
		for (size_t i = 0; i < dirty; i++)
			fx->b[rnd() % MAX_LEN] = (uint8_t)(rnd() >> 8);
		/* As whoever collects does: every line that differs, from the last to the first. */
		do {
			size_t expected = oracle(a, b, left);

			all_agree(fx, a, b, left, expected);
			left = expected ? expected - 1 : 0;
		} while (left);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_fastest_kind_is_the_one_in_use, setup,
						teardown),
		cmocka_unit_test_setup_teardown(every_byte_is_found_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(every_length_ends_where_it_should, setup, teardown),
		cmocka_unit_test_setup_teardown(any_alignment_will_do, setup, teardown),
		cmocka_unit_test_setup_teardown(random_contents_are_judged_as_the_oracle_does,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
