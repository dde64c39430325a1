/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/maptree.h"

/* ---- the oracle: a sorted array, searched from one end to the other ---- */

#define ORACLE_MAX 6000
#define PAGE_LG2   12
#define PAGE_SIZE  (UINT64_C(1) << PAGE_LG2)
#define TOP_PAGE   (UINT64_MAX >> PAGE_LG2)
#define MAX_PAGES  (UINT64_C(1) << 28)
#define GPA_PAGES  (UINT64_C(1) << 36)

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

/* ---- fixture ---- */

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

/* @page, @last_page: asked for from and to some byte of these */
static void assert_first_agrees(struct fixture *f, uint64_t page, uint64_t last_page)
{
	uint64_t start = page << PAGE_LG2 | random_below(f, PAGE_SIZE);
	uint64_t last = last_page << PAGE_LG2 | random_below(f, PAGE_SIZE);
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

/* mapping_of - the pages [page, last_page], with a gpa and flags of which every bit is put to use
 */
static struct mapping mapping_of(uint64_t page, uint64_t last_page)
{
	uint64_t mix = (page ^ last_page << 7) * 0x9e3779b97f4a7c15;

	return (struct mapping){
		.start = page << PAGE_LG2,
		.last = last_page << PAGE_LG2 | (PAGE_SIZE - 1),
		.gpa = mix % GPA_PAGES << PAGE_LG2,
		.flags = mix >> 61,
	};
}

static int insert(struct fixture *f, uint64_t page, uint64_t last_page)
{
	const struct mapping map = mapping_of(page, last_page);
	int ret = maptree_insert(f->tree, &map);

	assert_int_equal(ret, oracle_insert(&f->oracle, &map));
	return ret;
}

static int remove_at(struct fixture *f, uint64_t page)
{
	int ret = maptree_remove(f->tree, page << PAGE_LG2);

	assert_int_equal(ret, oracle_remove(&f->oracle, page << PAGE_LG2));
	return ret;
}

static uint64_t random_live_page(struct fixture *f)
{
	return f->oracle.maps[random_below(f, f->oracle.count)].start >> PAGE_LG2;
}

/* ---- claims ---- */

static void random_operations_match_a_sorted_array(void **state)
{
	/* How far starts reach: small is dense, so that most inserts overlap and most ranges hit.
	 */
	static const uint64_t reaches[] = {300, 40000, UINT64_C(1) << 36, TOP_PAGE};
	struct fixture *f = *state;

	for (unsigned round = 0; round < 4 * ARRAY_SIZE(reaches); round++) {
		uint64_t reach = reaches[round % ARRAY_SIZE(reaches)];
		/* In turns more inserts than removes and the other way round: the tree grows levels
		 * and loses them. */
		unsigned inserts = round / ARRAY_SIZE(reaches) % 2 ? 30 : 70;
		uint64_t at = 0;

		for (unsigned op = 0; op < 5000; op++) {
			uint64_t last;

			/* Beside the one before, above or below, or anywhere. */
			if (random_below(f, 3))
				at = random_below(f, reach) + 1;
			else
				at = at > 40 && random_below(f, 2) ? at - 24 : at + 24;
			at = MIN(at, TOP_PAGE);
			last = MIN(at + random_below(f, 24), TOP_PAGE);
			if (random_below(f, 100) < inserts && f->oracle.count < ORACLE_MAX)
				insert(f, at, last);
			else if (f->oracle.count && random_below(f, 4))
				remove_at(f, random_live_page(f));
			else
				remove_at(f, at);
			assert_first_agrees(f, at, last);
			if (op % 100 == 0)
				assert_same(f);
		}
	}
	assert_same(f);
	while (f->oracle.count)
		assert_int_equal(remove_at(f, random_live_page(f)), 0);
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

/* A tree that has just got its last node is where the fewest entries and children are. */
static void what_was_put_last_can_go_first(void **state)
{
	static const unsigned fulls[] = {64, 64 * 64, 63 * 64 + 1};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(fulls); i++) {
		for (unsigned more = 0; more < 24; more++) {
			for (unsigned way = 0; way < 2; way++) {
				unsigned nr = fulls[i] + more;

				for (unsigned n = 0; n < nr; n++)
					insert(f, way ? nr - n : n, way ? nr - n : n);
				for (unsigned n = nr; n-- > nr - 40;)
					assert_int_equal(remove_at(f, way ? nr - n : n), 0);
				assert_same(f);
				while (f->oracle.count)
					remove_at(f, f->oracle.maps[f->oracle.count - 1].start >>
							     PAGE_LG2);
			}
		}
	}
}

static void both_ends_of_the_address_space_are_legal(void **state)
{
	struct fixture *f = *state;
	struct mapping got;

	assert_false(maptree_first(f->tree, 0, UINT64_MAX, &got));
	assert_int_equal(insert(f, TOP_PAGE - MAX_PAGES + 1, TOP_PAGE), 0);
	assert_int_equal(insert(f, 0, MAX_PAGES - 1), 0);
	assert_same(f);
	assert_int_equal(insert(f, 0, 0), -EEXIST);
	assert_int_equal(insert(f, TOP_PAGE, TOP_PAGE), -EEXIST);
	assert_true(maptree_first(f->tree, UINT64_MAX, UINT64_MAX, &got));
	assert_int_equal(got.last, UINT64_MAX);
	assert_first_agrees(f, MAX_PAGES, TOP_PAGE - MAX_PAGES);
	assert_int_equal(remove_at(f, TOP_PAGE), -ENOENT);
	assert_int_equal(remove_at(f, TOP_PAGE - MAX_PAGES + 1), 0);
	assert_int_equal(remove_at(f, 0), 0);

	assert_int_equal(insert(f, TOP_PAGE, TOP_PAGE), 0);
	assert_int_equal(insert(f, 0, 0), 0);
	assert_first_agrees(f, 1, TOP_PAGE - 1);
	assert_first_agrees(f, 0, TOP_PAGE);
	assert_first_agrees(f, 1, TOP_PAGE);
	assert_int_equal(insert(f, TOP_PAGE - 1, TOP_PAGE), -EEXIST);
	assert_int_equal(insert(f, 0, 1), -EEXIST);
	assert_int_equal(insert(f, TOP_PAGE - 1, TOP_PAGE - 1), 0);
	assert_int_equal(insert(f, 1, 1), 0);
	assert_same(f);
	assert_int_equal(remove_at(f, TOP_PAGE), 0);
	assert_int_equal(remove_at(f, 0), 0);
	assert_int_equal(remove_at(f, 1), 0);
	assert_same(f);
}

static void what_is_no_range_or_cannot_be_packed_is_refused(void **state)
{
	static const struct {
		struct mapping map;
		int ret;
	} rows[] = {
		{{0x1000, 0xfff, 0, 0}, -EINVAL},
		{{UINT64_MAX, 0, 0, 0}, -EINVAL},
		{{UINT64_MAX, UINT64_MAX - 1, 0, 0}, -EINVAL},
		{{1, 0x1fff, 0, 0}, -ERANGE},
		{{0x1800, 0x1fff, 0, 0}, -ERANGE},
		{{0x1000, 0x17ff, 0, 0}, -ERANGE},
		{{0x1000, 0x1000, 0, 0}, -ERANGE},
		{{0x1000, 0x1ffe, 0, 0}, -ERANGE},
		{{0x1000, 0x2000, 0, 0}, -ERANGE},
		{{0x1000, 0x1fff, 1, 0}, -ERANGE},
		{{0x1000, 0x1fff, 0x800, 0}, -ERANGE},
		{{0x1000, 0x1fff, GPA_PAGES << PAGE_LG2, 0}, -ERANGE},
		{{0x1000, 0x1fff, UINT64_MAX << PAGE_LG2, 0}, -ERANGE},
		{{0x1000, 0x1fff, 0, 8}, -ERANGE},
		{{0x1000, 0x1fff, 0, UINT32_MAX}, -ERANGE},
		{{0, (MAX_PAGES + 1) * PAGE_SIZE - 1, 0, 0}, -ERANGE},
		{{0, UINT64_MAX, 0, 0}, -ERANGE},
		/* the last that can */
		{{0, MAX_PAGES * PAGE_SIZE - 1, (GPA_PAGES - 1) * PAGE_SIZE, 7}, 0},
	};
	struct fixture *f = *state;
	struct mapping got;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(maptree_insert(f->tree, &rows[i].map), rows[i].ret);
		assert_int_equal(maptree_count(f->tree), !rows[i].ret);
		assert_int_equal(maptree_first(f->tree, 0, UINT64_MAX, &got), !rows[i].ret);
		if (!rows[i].ret)
			assert_mapping_equal(&got, &rows[i].map);
	}
}

static void an_overlap_by_one_page_is_eexist_and_a_neighbour_is_not(void **state)
{
	static const struct {
		uint64_t page, last_page;
		int ret;
	} rows[] = {
		{100, 199, -EEXIST}, {100, 100, -EEXIST}, {199, 199, -EEXIST},
		{150, 160, -EEXIST}, {0, 100, -EEXIST},	  {199, 1000, -EEXIST},
		{0, 1000, -EEXIST},  {0, 99, 0},	  {200, 1000, 0},
	};
	struct fixture *f = *state;

	assert_int_equal(insert(f, 100, 199), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(insert(f, rows[i].page, rows[i].last_page), rows[i].ret);
		if (!rows[i].ret)
			assert_int_equal(remove_at(f, rows[i].page), 0);
		assert_same(f);
	}
}

/* The bound between two leaves is no mapping's end: what starts below it may reach across. */
static void an_overlap_across_leaves_is_eexist(void **state)
{
	struct fixture *f = *state;

	for (unsigned gap = 0; gap < NR_ORDERED - 4; gap++) {
		for (unsigned i = 0; !gap && i < NR_ORDERED; i++)
			assert_int_equal(insert(f, i * 4, i * 4), 0);
		/* Two neighbours become one that reaches to just below the next. */
		assert_int_equal(remove_at(f, gap * 4), 0);
		assert_int_equal(remove_at(f, gap * 4 + 4), 0);
		assert_int_equal(insert(f, gap * 4, gap * 4 + 8), -EEXIST);
		assert_int_equal(insert(f, gap * 4, gap * 4 + 7), 0);
		assert_int_equal(insert(f, gap * 4 + 7, gap * 4 + 7), -EEXIST);
		assert_int_equal(insert(f, gap * 4 + 4, gap * 4 + 4), -EEXIST);
		assert_first_agrees(f, gap * 4 + 4, gap * 4 + 4);
		assert_first_agrees(f, gap * 4 + 1, gap * 4 + 8);
		assert_int_equal(remove_at(f, gap * 4), 0);
		assert_int_equal(insert(f, gap * 4, gap * 4), 0);
		assert_int_equal(insert(f, gap * 4 + 4, gap * 4 + 4), 0);
	}
	assert_same(f);
}

static void remove_takes_only_a_mapping_that_starts_there(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(insert(f, 100, 199), 0);
	assert_int_equal(remove_at(f, 99), -ENOENT);
	assert_int_equal(remove_at(f, 101), -ENOENT);
	assert_int_equal(remove_at(f, 199), -ENOENT);
	assert_int_equal(maptree_remove(f->tree, 100 * PAGE_SIZE + 1), -ENOENT);
	assert_int_equal(remove_at(f, 100), 0);
	assert_int_equal(remove_at(f, 100), -ENOENT);
}

static uint64_t shuffled(uint64_t i); /* below: each number below 2^18 once */

/*
 * Every insert on the way to a tree of several levels, with each of its allocations failing in
 * turn; a twin that meets no failure holds as much memory at every step, so that nothing was kept
 * either. Many trees: in few of them is a split that needs two nodes the one for which a single
 * node is left.
 */
static void an_insert_without_memory_changes_nothing(void **state)
{
	unsigned failures = 0;

	(void)state;
	for (unsigned in_no_order = 10000; in_no_order < 12000; in_no_order += 97) {
		const unsigned nr = in_no_order + 4200;
		struct maptree *tree, *twin;

		assert_int_equal(maptree_create(&tree), 0);
		assert_int_equal(maptree_create(&twin), 0);
		for (unsigned i = 0; i < nr; i++) {
			uint64_t page = i < in_no_order ? shuffled(i) : BIT(20) + i;
			struct mapping map = mapping_of(page, page), got;

			for (unsigned n = 1;; n++) {
				size_t bytes = maptree_bytes(tree);
				int ret;

				iommu_alloc_fail_nth(n);
				ret = maptree_insert(tree, &map);
				if (iommu_alloc_fail_nth(0)) {
					assert_int_equal(ret, 0);
					break;
				}
				failures++;
				assert_int_equal(ret, -ENOMEM);
				assert_int_equal(maptree_bytes(tree), bytes);
				assert_int_equal(maptree_count(tree), i);
				assert_false(maptree_first(tree, map.start, map.last, &got));
			}
			assert_int_equal(maptree_insert(twin, &map), 0);
			if (maptree_bytes(tree) != maptree_bytes(twin))
				fail_msg("%u: more memory than without failures", i);
		}
		for (uint64_t at = 0, n = 0; n < nr; n++) {
			struct mapping want, got;

			assert_true(maptree_first(twin, at, UINT64_MAX, &want));
			assert_true(maptree_first(tree, at, UINT64_MAX, &got));
			assert_mapping_equal(&got, &want);
			at = want.last + 1;
		}
		maptree_destroy(twin);
		maptree_destroy(tree);
	}
	assert_in_range(failures, 500, 10000);
}

static void create_without_memory_is_enomem(void **state)
{
	struct maptree *tree;

	(void)state;
	iommu_alloc_fail_nth(1);
	assert_int_equal(maptree_create(&tree), -ENOMEM);
	assert_int_equal(iommu_alloc_fail_nth(0), 0);
}

static void remove_allocates_nothing(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < NR_ORDERED; i++)
		assert_int_equal(insert(f, place(INTERLEAVED, i), place(INTERLEAVED, i)), 0);
	iommu_alloc_fail_nth(1);
	for (unsigned i = 0; i < NR_ORDERED; i++)
		assert_int_equal(maptree_remove(f->tree, place(OUTWARDS, i) << PAGE_LG2), 0);
	assert_int_equal(iommu_alloc_fail_nth(0), 1);
	assert_int_equal(maptree_count(f->tree), 0);
}

/* ---- memory: no oracle, which is too slow for as many ---- */

#define NR_MANY 200000u /* a power of two and an odd number beside it make a shuffle */
#define SHUFFLE (BIT(18) - 1)

static void put(struct fixture *f, uint64_t page)
{
	const struct mapping map = mapping_of(page, page);

	assert_int_equal(maptree_insert(f->tree, &map), 0);
}

static uint64_t shuffled(uint64_t i)
{
	i = i * 0x9e3779b1 & SHUFFLE;
	i = (i ^ i >> 9) * 0x85ebca6b & SHUFFLE;
	return (i ^ i >> 9) * 0xc2b2ae35 & SHUFFLE;
}

/* bytes_per_mapping_x100 - hundredths of a byte, so that the claims are of integers */
static size_t bytes_per_mapping_x100(const struct fixture *f)
{
	return maptree_bytes(f->tree) * 100 / maptree_count(f->tree);
}

static void mappings_made_in_order_cost_a_thousandth_of_16_kib(void **state)
{
	struct fixture *f = *state;

	for (unsigned way = 0; way < 4; way++) {
		for (unsigned i = 0; i < NR_MANY; i++) {
			if (way == ASCENDING)
				put(f, i);
			else if (way == DESCENDING)
				put(f, NR_MANY - i);
			else if (way == 2) /* below what stays, as on Linux above 4 GiB */
				put(f, i < 1000 ? i : BIT(30) - i);
			else /* above one end and below the other of a hole */
				put(f, i < 500 ? i : i < 1000 ? BIT(30) + i : BIT(20) + i);
		}
		assert_in_range(bytes_per_mapping_x100(f), 1600, 1638);
		for (struct mapping map; maptree_first(f->tree, 0, UINT64_MAX, &map);)
			assert_int_equal(maptree_remove(f->tree, map.start), 0);
	}
}

static void mappings_made_in_no_order_cost_20_bytes(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < NR_MANY; i++)
		put(f, shuffled(i));
	assert_in_range(bytes_per_mapping_x100(f), 1600, 2000);
}

static void small_trees_are_small(void **state)
{
	struct fixture *f = *state;

	assert_in_range(maptree_bytes(f->tree), 1024, 1536);
	for (unsigned i = 0; i < NR_MANY; i++) {
		put(f, i);
		assert_in_range(maptree_bytes(f->tree), 0, 8192 + i * 16 * 5 / 4);
	}
}

/* Three in a row anywhere, again and again, look like order and are none. */
static void short_runs_do_not_leave_leaves_empty(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < NR_MANY / 4; i++)
		for (unsigned j = 0; j < 3; j++)
			put(f, shuffled(i) * 4 + (i % 2 ? j : 3 - j));
	assert_in_range(bytes_per_mapping_x100(f), 1600, 2400);
}

/* A leaf is filled in no order, then cut near its start or end by two in order, and is left at
 * once. */
static void runs_that_cut_leaves_unevenly_do_not_either(void **state)
{
	struct fixture *f = *state;

	for (unsigned fill = 48; fill <= 64; fill += 2) {
		for (unsigned block = 0; block < 500; block++) {
			uint64_t at = (fill * UINT64_C(1000) + (block % 2 ? block : 1000 - block))
				      << 8;

			for (unsigned i = 0; i < 64; i++)
				if (i * 37 % 64 < fill)
					put(f, at + i * 37 % 64);
			put(f, block % 4 < 2 ? at + 100 : at - 2);
			put(f, block % 4 < 2 ? at + 101 : at - 3);
		}
	}
	assert_in_range(bytes_per_mapping_x100(f), 1600, 2400);
}

static void churn_keeps_leaves_two_thirds_full(void **state)
{
	const unsigned live = NR_MANY / 2;
	struct fixture *f = *state;
	unsigned i;

	for (i = 0; i < live; i++)
		put(f, shuffled(i));
	for (; i < 4 * NR_MANY; i++) {
		assert_int_equal(maptree_remove(f->tree, shuffled(i - live) << PAGE_LG2), 0);
		put(f, shuffled(i));
	}
	assert_in_range(bytes_per_mapping_x100(f), 1600, 2400);
}

static void what_is_removed_gives_its_memory_back(void **state)
{
	struct fixture *f = *state;
	size_t empty = maptree_bytes(f->tree), most;

	for (unsigned i = 0; i < NR_MANY; i++)
		put(f, i);
	most = maptree_bytes(f->tree);
	for (unsigned i = 0; i < NR_MANY / 4 * 3; i++)
		assert_int_equal(maptree_remove(f->tree, (NR_MANY - 1 - i) * PAGE_SIZE), 0);
	assert_in_range(maptree_bytes(f->tree), empty, most / 2);
	for (unsigned i = 0; i < NR_MANY / 4; i++)
		assert_int_equal(maptree_remove(f->tree, i * PAGE_SIZE), 0);
	assert_int_equal(maptree_bytes(f->tree), empty);
}

#define TREE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TREE_TEST(random_operations_match_a_sorted_array),
		TREE_TEST(any_order_of_inserts_and_removes_works),
		TREE_TEST(what_was_put_last_can_go_first),
		TREE_TEST(both_ends_of_the_address_space_are_legal),
		TREE_TEST(what_is_no_range_or_cannot_be_packed_is_refused),
		TREE_TEST(an_overlap_by_one_page_is_eexist_and_a_neighbour_is_not),
		TREE_TEST(an_overlap_across_leaves_is_eexist),
		TREE_TEST(remove_takes_only_a_mapping_that_starts_there),
		cmocka_unit_test(an_insert_without_memory_changes_nothing),
		cmocka_unit_test(create_without_memory_is_enomem),
		TREE_TEST(remove_allocates_nothing),
		TREE_TEST(mappings_made_in_order_cost_a_thousandth_of_16_kib),
		TREE_TEST(mappings_made_in_no_order_cost_20_bytes),
		TREE_TEST(small_trees_are_small),
		TREE_TEST(short_runs_do_not_leave_leaves_empty),
		TREE_TEST(runs_that_cut_leaves_unevenly_do_not_either),
		TREE_TEST(churn_keeps_leaves_two_thirds_full),
		TREE_TEST(what_is_removed_gives_its_memory_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
