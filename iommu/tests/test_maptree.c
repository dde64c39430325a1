/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/maptree.h"

/* ---- the oracle: a sorted array, searched from one end to the other
 * --------------------------------- */

#define ORACLE_MAX 6000

struct oracle {
	struct mapping maps[ORACLE_MAX];
	size_t count;
};

/* oracle_find - index of the lowest mapping that ends at or above @start */
static size_t oracle_find(const struct oracle *oracle, uint64_t start)
{
	size_t i = 0;

	while (i < oracle->count && oracle->maps[i].last < start)
		i++;
	return i;
}

static bool oracle_first(const struct oracle *oracle, uint64_t start, uint64_t last,
			 struct mapping *out)
{
	size_t i = oracle_find(oracle, start);

	if (i == oracle->count || oracle->maps[i].start > last)
		return false;
	*out = oracle->maps[i];
	return true;
}

static int oracle_insert(struct oracle *oracle, const struct mapping *map)
{
	size_t i = oracle_find(oracle, map->start);
	struct mapping hit;

	if (map->last < map->start)
		return -EINVAL;
	if (oracle_first(oracle, map->start, map->last, &hit))
		return -EEXIST;
	memmove(&oracle->maps[i + 1], &oracle->maps[i], (oracle->count - i) * sizeof(*map));
	oracle->maps[i] = *map;
	oracle->count++;
	return 0;
}

static int oracle_remove(struct oracle *oracle, uint64_t start)
{
	size_t i = oracle_find(oracle, start);

	if (i == oracle->count || oracle->maps[i].start != start)
		return -ENOENT;
	oracle->count--;
	memmove(&oracle->maps[i], &oracle->maps[i + 1],
		(oracle->count - i) * sizeof(oracle->maps[0]));
	return 0;
}

/* ---- fixture
 * ---------------------------------------------------------------------------------------- */

struct fixture {
	struct maptree *tree;
	struct oracle oracle;
	uint64_t random;
};

static int setup(void **state)
{
	static struct fixture f;
	const char *seed = getenv("SEED");

	f.oracle.count = 0;
	f.random = seed ? strtoull(seed, NULL, 0) : 0x6772616e756c65;
	print_message("SEED=%#llx\n", (unsigned long long)f.random);
	*state = &f;
	return maptree_create(&f.tree);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	maptree_destroy(f->tree);
	return 0;
}

/* splitmix64: any seed is a good one */
static uint64_t next_random(struct fixture *f)
{
	uint64_t z = f->random += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t random_below(struct fixture *f, uint64_t end)
{
	return next_random(f) % end;
}

static void assert_mapping_equal(const struct mapping *a, const struct mapping *b)
{
	assert_int_equal(a->start, b->start);
	assert_int_equal(a->last, b->last);
	assert_int_equal(a->gpa, b->gpa);
	assert_int_equal(a->flags, b->flags);
}

static void assert_first_agrees(struct fixture *f, uint64_t start, uint64_t last)
{
	struct mapping want, got;
	bool found = oracle_first(&f->oracle, start, last, &want);

	assert_int_equal(maptree_first(f->tree, start, last, &got), found);
	if (found)
		assert_mapping_equal(&got, &want);
}

/* assert_same - the walk that the header describes finds what the oracle holds, and nothing else */
static void assert_same(struct fixture *f)
{
	uint64_t start = 0;
	struct mapping got;
	size_t i = 0;

	assert_int_equal(maptree_count(f->tree), f->oracle.count);
	while (maptree_first(f->tree, start, UINT64_MAX, &got)) {
		assert_true(i < f->oracle.count);
		assert_mapping_equal(&got, &f->oracle.maps[i]);
		i++;
		if (got.last == UINT64_MAX)
			break;
		start = got.last + 1;
	}
	assert_int_equal(i, f->oracle.count);
}

static int insert(struct fixture *f, uint64_t start, uint64_t last)
{
	const struct mapping map = {start, last, ~start, (uint32_t)(start ^ last)};
	int ret = maptree_insert(f->tree, &map);

	assert_int_equal(ret, oracle_insert(&f->oracle, &map));
	return ret;
}

static int remove_at(struct fixture *f, uint64_t start)
{
	int ret = maptree_remove(f->tree, start);

	assert_int_equal(ret, oracle_remove(&f->oracle, start));
	return ret;
}

/* ---- claims
 * ----------------------------------------------------------------------------------------- */

static void random_operations_match_a_sorted_array(void **state)
{
	/* How far starts reach: small is dense, so that most inserts overlap and most ranges hit.
	 */
	static const uint64_t reaches[] = {300, 20000, UINT64_C(1) << 40, 0};
	struct fixture *f = *state;

	for (unsigned round = 0; round < 4 * ARRAY_SIZE(reaches); round++) {
		uint64_t reach = reaches[round % ARRAY_SIZE(reaches)];
		/* In turns more inserts than removes and the other way round: the tree grows levels
		 * and loses them. */
		unsigned inserts = round / ARRAY_SIZE(reaches) % 2 ? 30 : 70;

		for (unsigned op = 0; op < 3000; op++) {
			uint64_t at = reach ? random_below(f, reach) : next_random(f);
			uint64_t len = random_below(f, 24);

			if (random_below(f, 100) < inserts && f->oracle.count < ORACLE_MAX)
				insert(f, at, at + len);
			else if (f->oracle.count && random_below(f, 4))
				remove_at(f,
					  f->oracle.maps[random_below(f, f->oracle.count)].start);
			else
				remove_at(f, at);
			assert_first_agrees(f, at, at + len >= at ? at + len : UINT64_MAX);
			if (op % 100 == 0)
				assert_same(f);
		}
	}
	assert_same(f);
	while (f->oracle.count)
		assert_int_equal(
			remove_at(f, f->oracle.maps[random_below(f, f->oracle.count)].start), 0);
	assert_same(f);
}

enum order { ASCENDING, DESCENDING, INTERLEAVED, OUTWARDS };

#define NR_ORDERED 5000u

/* The @i-th of NR_ORDERED places in that order; each place is returned once. */
static uint64_t place(enum order order, unsigned i)
{
	switch (order) {
	case ASCENDING:
		return i;
	case DESCENDING:
		return NR_ORDERED - 1 - i;
	case INTERLEAVED:
		return (uint64_t)i * 1009 % NR_ORDERED; /* coprime */
	case OUTWARDS:
		return i % 2 ? NR_ORDERED / 2 + i / 2 : NR_ORDERED / 2 - 1 - i / 2;
	}
	return 0;
}

static void any_order_of_inserts_and_removes_works(void **state)
{
	struct fixture *f = *state;

	for (unsigned in = ASCENDING; in <= OUTWARDS; in++) {
		for (unsigned out = ASCENDING; out <= OUTWARDS; out++) {
			for (unsigned i = 0; i < NR_ORDERED; i++) {
				uint64_t start = place(in, i) * 16;

				assert_int_equal(insert(f, start, start + 15), 0);
			}
			assert_same(f);
			for (unsigned i = 0; i < NR_ORDERED; i++) {
				assert_int_equal(remove_at(f, place(out, i) * 16), 0);
				if (i % 1000 == 0)
					assert_same(f);
			}
			assert_int_equal(maptree_count(f->tree), 0);
		}
	}
}

static void both_ends_of_the_address_space_are_legal(void **state)
{
	struct fixture *f = *state;
	struct mapping got;

	assert_false(maptree_first(f->tree, 0, UINT64_MAX, &got));
	assert_int_equal(insert(f, 0, UINT64_MAX), 0);
	assert_same(f);
	assert_int_equal(insert(f, 0, 0), -EEXIST);
	assert_int_equal(insert(f, UINT64_MAX, UINT64_MAX), -EEXIST);
	assert_first_agrees(f, UINT64_MAX, UINT64_MAX);
	assert_int_equal(remove_at(f, UINT64_MAX), -ENOENT);
	assert_int_equal(remove_at(f, 0), 0);

	assert_int_equal(insert(f, UINT64_MAX, UINT64_MAX), 0);
	assert_int_equal(insert(f, 0, 0), 0);
	assert_first_agrees(f, 1, UINT64_MAX - 1);
	assert_first_agrees(f, 0, UINT64_MAX);
	assert_first_agrees(f, 1, UINT64_MAX);
	assert_int_equal(insert(f, 1, UINT64_MAX), -EEXIST);
	assert_int_equal(insert(f, 0, UINT64_MAX - 1), -EEXIST);
	assert_int_equal(insert(f, 1, UINT64_MAX - 1), 0);
	assert_same(f);
	assert_int_equal(remove_at(f, UINT64_MAX), 0);
	assert_int_equal(remove_at(f, 0), 0);
	assert_int_equal(remove_at(f, 1), 0);
	assert_same(f);
}

static void a_range_that_ends_before_it_starts_is_einval(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(insert(f, 1, 0), -EINVAL);
	assert_int_equal(insert(f, UINT64_MAX, 0), -EINVAL);
	assert_int_equal(insert(f, UINT64_MAX, UINT64_MAX - 1), -EINVAL);
	assert_int_equal(maptree_count(f->tree), 0);
}

static void an_overlap_by_one_byte_is_eexist_and_a_neighbour_is_not(void **state)
{
	static const struct {
		uint64_t start, last;
		int ret;
	} rows[] = {
		{100, 199, -EEXIST}, {100, 100, -EEXIST}, {199, 199, -EEXIST},
		{150, 160, -EEXIST}, {0, 100, -EEXIST},	  {199, 1000, -EEXIST},
		{0, 1000, -EEXIST},  {0, 99, 0},	  {200, 1000, 0},
	};
	struct fixture *f = *state;

	assert_int_equal(insert(f, 100, 199), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(insert(f, rows[i].start, rows[i].last), rows[i].ret);
		if (!rows[i].ret)
			assert_int_equal(remove_at(f, rows[i].start), 0);
		assert_same(f);
	}
}

static void remove_takes_only_a_mapping_that_starts_there(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(insert(f, 100, 199), 0);
	assert_int_equal(remove_at(f, 99), -ENOENT);
	assert_int_equal(remove_at(f, 101), -ENOENT);
	assert_int_equal(remove_at(f, 199), -ENOENT);
	assert_int_equal(remove_at(f, 100), 0);
	assert_int_equal(remove_at(f, 100), -ENOENT);
}

/* Every insert on the way to a tree of several levels, with each of its allocations failing in
 * turn. */
static void an_insert_without_memory_changes_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned most_failures = 0;

	for (unsigned i = 0; i < ORACLE_MAX; i++) {
		uint64_t start = i < ORACLE_MAX / 2 ? random_below(f, UINT64_C(1) << 32) * 8
						    : (UINT64_C(1) << 40) + i * 8;
		const struct mapping map = {start, start + 7, i, 3};
		struct mapping got;
		unsigned n;
		int ret;

		for (n = 1;; n++) {
			iommu_alloc_fail_nth(n);
			ret = maptree_insert(f->tree, &map);
			if (iommu_alloc_fail_nth(0))
				break;
			assert_int_equal(ret, -ENOMEM);
			assert_int_equal(maptree_count(f->tree), f->oracle.count);
			assert_false(maptree_first(f->tree, map.start, map.last, &got));
			if (n > most_failures)
				assert_same(f);
		}
		most_failures = MAX(most_failures, n - 1);
		assert_int_equal(ret, oracle_insert(&f->oracle, &map));
	}
	/* Nodes hold tens of entries: leaf, inner node and a new root were all asked for at once.
	 */
	assert_in_range(most_failures, 3, 6);
	assert_same(f);
}

static void create_without_memory_is_enomem(void **state)
{
	struct maptree *tree;

	(void)state;
	for (unsigned n = 1; n <= 2; n++) {
		iommu_alloc_fail_nth(n);
		assert_int_equal(maptree_create(&tree), -ENOMEM);
		assert_int_equal(iommu_alloc_fail_nth(0), 0);
	}
}

static void remove_allocates_nothing(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < NR_ORDERED; i++)
		assert_int_equal(insert(f, place(INTERLEAVED, i), place(INTERLEAVED, i)), 0);
	iommu_alloc_fail_nth(1);
	for (unsigned i = 0; i < NR_ORDERED; i++)
		assert_int_equal(maptree_remove(f->tree, place(OUTWARDS, i)), 0);
	assert_int_equal(iommu_alloc_fail_nth(0), 1);
	assert_int_equal(maptree_count(f->tree), 0);
}

/* Half-filled nodes would cost twice the memory and the cache lines. */
static void mappings_made_in_order_fill_their_nodes(void **state)
{
	const unsigned far = UINT32_MAX; /* an allocation that never comes: counts those that do */
	struct fixture *f = *state;

	for (unsigned order = ASCENDING; order <= DESCENDING; order++) {
		unsigned nodes;

		iommu_alloc_fail_nth(far);
		for (unsigned i = 0; i < NR_ORDERED; i++)
			assert_int_equal(insert(f, place(order, i), place(order, i)), 0);
		nodes = far - iommu_alloc_fail_nth(0);
		assert_in_range(nodes, 1, NR_ORDERED / 24);
		for (unsigned i = 0; i < NR_ORDERED; i++)
			assert_int_equal(remove_at(f, i), 0);
	}
}

#define TREE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TREE_TEST(random_operations_match_a_sorted_array),
		TREE_TEST(any_order_of_inserts_and_removes_works),
		TREE_TEST(both_ends_of_the_address_space_are_legal),
		TREE_TEST(a_range_that_ends_before_it_starts_is_einval),
		TREE_TEST(an_overlap_by_one_byte_is_eexist_and_a_neighbour_is_not),
		TREE_TEST(remove_takes_only_a_mapping_that_starts_there),
		TREE_TEST(an_insert_without_memory_changes_nothing),
		cmocka_unit_test(create_without_memory_is_enomem),
		TREE_TEST(remove_allocates_nothing),
		TREE_TEST(mappings_made_in_order_fill_their_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
