/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The expected words were computed from the field layouts (docs/dart.md), not by the code under
 * test.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/dart_fmt.h"
#include "iommu/instance.h"

#define RO PROT_DEV_READ
#define WO PROT_DEV_WRITE
#define RW (PROT_DEV_READ | PROT_DEV_WRITE)

#define K4  0x1000u
#define K16 0x4000u

static struct dart_geometry geometry(const struct dart_fmt *fmt, unsigned page_lg2, unsigned ias)
{
	struct dart_geometry geo;

	assert_int_equal(dart_geometry_init(&geo, fmt, page_lg2, ias), 0);
	return geo;
}

static void assert_leaf(const struct dart_leaf *leaf, const struct dart_leaf *expected)
{
	assert_int_equal(leaf->pa, expected->pa);
	assert_int_equal(leaf->prot, expected->prot);
	assert_int_equal(leaf->first, expected->first);
	assert_int_equal(leaf->last, expected->last);
}

/* ---- geometry --------------------------------------------------------------------------- */

static const struct {
	const struct dart_fmt *fmt;
	unsigned page_lg2, ias;
	int ret;
	unsigned levels, nr_ttbrs, oas;
} geometries[] = {
	{&dart_fmt_1, 12, 32, 0, 2, 4, 36},
	{&dart_fmt_1, 12, 31, 0, 2, 2, 36},
	{&dart_fmt_1, 12, 30, 0, 2, 1, 36},
	{&dart_fmt_1, 14, 32, 0, 2, 1, 36},
	{&dart_fmt_1, 14, 36, 0, 2, 1, 36},
	{&dart_fmt_2, 14, 32, 0, 2, 1, 42},
	{&dart_fmt_2, 14, 36, 0, 2, 1, 42},
	{&dart_fmt_2, 14, 37, 0, 3, 1, 42},
	{&dart_fmt_2, 14, 42, 0, 3, 1, 42},
	{&dart_fmt_2, 14, 47, 0, 3, 1, 42},
	{&dart_fmt_1, 12, 33, -EINVAL, 0, 0, 0}, /* more than four TTBRs */
	{&dart_fmt_1, 14, 37, -EINVAL, 0, 0, 0}, /* a third level that DART1 has not */
	{&dart_fmt_2, 14, 48, -EINVAL, 0, 0, 0},
	{&dart_fmt_2, 14, 14, -EINVAL, 0, 0, 0}, /* one page */
	{&dart_fmt_2, 14, 0, -EINVAL, 0, 0, 0},
	{&dart_fmt_2, 14, 64, -EINVAL, 0, 0, 0},
	{&dart_fmt_2, 14, ~0u, -EINVAL, 0, 0, 0},
	{&dart_fmt_1, 12, 94, -EINVAL, 0, 0, 0}, /* 64 bits more than one TTBR reaches */
	{&dart_fmt_2, 12, 32, -EINVAL, 0, 0, 0}, /* no room for PA 13:12 */
	{&dart_fmt_1, 13, 32, -EINVAL, 0, 0, 0},
	{&dart_fmt_1, 16, 32, -EINVAL, 0, 0, 0},
	{&dart_fmt_1, 11, 32, -EINVAL, 0, 0, 0},
	{&dart_fmt_1, 0, 32, -EINVAL, 0, 0, 0},
};

static void a_geometry_has_the_levels_and_ttbrs_its_iova_bits_need(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(geometries); i++) {
		struct dart_geometry geo = {.ias = 99};
		int ret = dart_geometry_init(&geo, geometries[i].fmt, geometries[i].page_lg2,
					     geometries[i].ias);

		if (ret != geometries[i].ret)
			print_error("row %u\n", i);
		assert_int_equal(ret, geometries[i].ret);
		if (ret) {
			assert_int_equal(geo.ias, 99); /* untouched */
			continue;
		}
		assert_int_equal(geo.page_lg2, geometries[i].page_lg2);
		assert_int_equal(geo.ias, geometries[i].ias);
		assert_int_equal(geo.levels, geometries[i].levels);
		assert_int_equal(geo.nr_ttbrs, geometries[i].nr_ttbrs);
		assert_int_equal(geo.oas, geometries[i].oas);
	}
}

static void a_table_is_one_page_of_8_byte_entries(void **state)
{
	struct dart_geometry k4 = geometry(&dart_fmt_1, 12, 32);
	struct dart_geometry k16 = geometry(&dart_fmt_1, 14, 32);

	(void)state;
	assert_int_equal(dart_table_size(&k4), 0x1000);
	assert_int_equal(dart_table_entries(&k4), 512);
	assert_int_equal(dart_table_size(&k16), 0x4000);
	assert_int_equal(dart_table_entries(&k16), 2048);
}

/* Each bit of an IOVA belongs to exactly one index. */
static const struct {
	const struct dart_fmt *fmt;
	unsigned page_lg2, ias;
	unsigned low[4]; /* lowest bit of: leaf, next, next, TTBR; 0: there is none */
} splits[] = {
	{&dart_fmt_1, 12, 30, {12, 21, 0, 0}},
	{&dart_fmt_1, 12, 32, {12, 21, 0, 30}},
	{&dart_fmt_1, 14, 36, {14, 25, 0, 0}},
	{&dart_fmt_2, 14, 42, {14, 25, 36, 0}},
};

static void every_iova_bit_indexes_one_level(void **state)
{
	(void)state;
	for (unsigned s = 0; s < ARRAY_SIZE(splits); s++) {
		struct dart_geometry geo =
			geometry(splits[s].fmt, splits[s].page_lg2, splits[s].ias);

		for (unsigned level = 0; level < geo.levels; level++)
			assert_int_equal(dart_level_lg2(&geo, level), splits[s].low[level]);
		for (unsigned bit = 0; bit < geo.ias; bit++) {
			unsigned where = 0;

			for (unsigned level = 0; level < geo.levels; level++) {
				unsigned low = splits[s].low[level];
				bool here = bit >= low && bit < low + splits[s].page_lg2 - 3;

				where += here;
				assert_int_equal(dart_index(&geo, level, BIT(bit)),
						 here ? 1u << (bit - low) : 0);
			}
			if (splits[s].low[3] && bit >= splits[s].low[3]) {
				where++;
				assert_int_equal(dart_ttbr_index(&geo, BIT(bit)),
						 1u << (bit - splits[s].low[3]));
			} else {
				assert_int_equal(dart_ttbr_index(&geo, BIT(bit)), 0);
			}
			assert_int_equal(where, bit >= splits[s].page_lg2);
		}
		/* Bits beyond the IOVA select no TTBR that is not in use. */
		for (unsigned bit = geo.ias; bit < 64; bit++)
			assert_true(dart_ttbr_index(&geo, BIT(bit)) < geo.nr_ttbrs);
	}
}

/* ---- worked examples -------------------------------------------------------------------- */

struct step {
	unsigned index;
	uint64_t at, entry; /* where the entry lies, and what it is */
};

/* Examples A to G: the tables between TTBR and page, and where an IOVA ends. */
static const struct example {
	const char *name;
	const struct dart_fmt *fmt;
	unsigned page_lg2, ias, levels;
	unsigned ttbr;
	uint64_t top, iova;
	struct step steps[DART_MAX_LEVELS]; /* from the top table down */
	uint64_t pa;			    /* of the byte */
	unsigned prot, first, last;
} examples[] = {
	/* clang-format off */
	{"A", &dart_fmt_1, 14, 32, 2, 0, 0x812344000, 0x9abcde48,
	 {{0x04d, 0x812344268, 0x0000000813008001}, {0x2f3, 0x813009798, 0x000fff095678c003}},
	 0x95678de48, RW, 0, 0x3fff},
	{"A, read-only", &dart_fmt_1, 14, 32, 2, 0, 0x812344000, 0x9abcde48,
	 {{0x04d, 0x812344268, 0x0000000813008001}, {0x2f3, 0x813009798, 0x000fff095678c083}},
	 0x95678de48, RO, 0, 0x3fff},
	{"A, write-only", &dart_fmt_1, 14, 32, 2, 0, 0x812344000, 0x9abcde48,
	 {{0x04d, 0x812344268, 0x0000000813008001}, {0x2f3, 0x813009798, 0x000fff095678c103}},
	 0x95678de48, WO, 0, 0x3fff},
	{"B", &dart_fmt_1, 12, 32, 2, 3, 0x80a5f1000, 0xc0fee123,
	 {{0x007, 0x80a5f1038, 0x000000080a5f5001}, {0x1ee, 0x80a5f5f70, 0x000fff080beef003}},
	 0x80beef123, RW, 0, 0xfff},
	{"C", &dart_fmt_1, 14, 32, 2, 0, 0x812344000, 0x9abc9040,
	 {{0x04d, 0x812344268, 0x0000000813008001}, {0x2f2, 0x813009790, 0x4007ff095678c001}},
	 0x95678d040, RW, 0x1000, 0x1fff},
	{"D", &dart_fmt_2, 14, 32, 2, 0, 0x10012340000, 0x40321abc,
	 {{0x020, 0x10012340100, 0x0000001001236c01}, {0x0c8, 0x1001236c640, 0x000fff10abcde401}},
	 0x10abcde5abc, RW, 0, 0x3fff},
	{"D, read-only", &dart_fmt_2, 14, 32, 2, 0, 0x10012340000, 0x40321abc,
	 {{0x020, 0x10012340100, 0x0000001001236c01}, {0x0c8, 0x1001236c640, 0x000fff10abcde405}},
	 0x10abcde5abc, RO, 0, 0x3fff},
	{"D, write-only", &dart_fmt_2, 14, 32, 2, 0, 0x10012340000, 0x40321abc,
	 {{0x020, 0x10012340100, 0x0000001001236c01}, {0x0c8, 0x1001236c640, 0x000fff10abcde409}},
	 0x10abcde5abc, WO, 0, 0x3fff},
	{"E", &dart_fmt_2, 14, 36, 2, 0, 0x8a0004000, 0xfedcba984,
	 {{0x7f6, 0x8a0007fb0, 0x000000008a001001}, {0x72e, 0x8a0013970, 0x000fff009c0de401}},
	 0x9c0de6984, RW, 0, 0x3fff},
	{"F", &dart_fmt_2, 14, 42, 3, 0, 0x10400000000, 0x25a5a5a5a5a,
	 {{0x025, 0x10400000128, 0x0000001040000401},
	  {0x52d, 0x10400006968, 0x0000001040000c01},
	  {0x169, 0x1040000cb48, 0x000fff3ffffffc01}},
	 0x3ffffffda5a, RW, 0, 0x3fff},
	{"G", &dart_fmt_2, 14, 32, 2, 0, 0x10012340000, 0x40322ffc,
	 {{0x020, 0x10012340100, 0x0000001001236c01}, {0x0c8, 0x1001236c640, 0x400bff10abcde405}},
	 0x10abcde6ffc, RO, 0x1000, 0x2fff},
	/* clang-format on */
};

/* Memory that holds an example's entries and nothing else; a read of anything else is a bus error.
 */
struct example_mem {
	const struct example *ex;
	unsigned nr_reads;
	unsigned no_valid_at; /* the entry of this read lacks its valid bit; ~0u: none does */
	unsigned error_at;    /* this read is a bus error; ~0u: none is */
};

static bool example_read(void *ctx, uint64_t pa, uint64_t *entry)
{
	struct example_mem *mem = ctx;
	const struct step *step = &mem->ex->steps[mem->nr_reads];

	assert_true(mem->nr_reads < mem->ex->levels);
	if (pa != step->at || mem->nr_reads == mem->error_at)
		return false;
	*entry = mem->nr_reads == mem->no_valid_at ? step->entry & ~UINT64_C(1) : step->entry;
	mem->nr_reads++;
	return true;
}

static void the_examples_are_walked_to_their_pages(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		const struct example *ex = &examples[i];
		struct dart_geometry geo = geometry(ex->fmt, ex->page_lg2, ex->ias);
		struct example_mem mem = {ex, 0, ~0u, ~0u};
		struct dart_leaf leaf;
		unsigned level;

		print_message("%s\n", ex->name);
		assert_int_equal(geo.levels, ex->levels);
		assert_int_equal(dart_ttbr_index(&geo, ex->iova), ex->ttbr);
		for (unsigned s = 0; s < ex->levels; s++)
			assert_int_equal(dart_index(&geo, ex->levels - 1 - s, ex->iova),
					 ex->steps[s].index);
		assert_int_equal(dart_walk(ex->fmt, &geo, ex->top, ex->iova, example_read, &mem,
					   &leaf, &level),
				 0);
		assert_int_equal(level, 0);
		assert_int_equal(mem.nr_reads, ex->levels);
		assert_int_equal(leaf.pa | (ex->iova & (dart_table_size(&geo) - 1)), ex->pa);
		assert_int_equal(leaf.prot, ex->prot);
		assert_int_equal(leaf.first, ex->first);
		assert_int_equal(leaf.last, ex->last);
	}
}

static void the_examples_entries_are_packed_to_the_bit(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		const struct example *ex = &examples[i];
		struct dart_geometry geo = geometry(ex->fmt, ex->page_lg2, ex->ias);
		uint64_t size = dart_table_size(&geo), pte, pa;
		struct dart_leaf leaf = {.pa = ALIGN_DOWN(ex->pa, size),
					 .prot = ex->prot,
					 .first = ex->first,
					 .last = ex->last};

		print_message("%s\n", ex->name);
		for (unsigned s = 0; s + 1 < ex->levels; s++) {
			uint64_t next = ALIGN_DOWN(ex->steps[s + 1].at, size);

			assert_int_equal(dart_table_pack(ex->fmt, &geo, next, &pte), 0);
			assert_int_equal(pte, ex->steps[s].entry);
			assert_true(dart_table_unpack(ex->fmt, &geo, pte, &pa));
			assert_int_equal(pa, next);
		}
		assert_int_equal(dart_leaf_pack(ex->fmt, &geo, &leaf, &pte), 0);
		assert_int_equal(pte, ex->steps[ex->levels - 1].entry);
	}
}

static void a_walk_ends_where_an_entry_is_not_valid(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		const struct example *ex = &examples[i];
		struct dart_geometry geo = geometry(ex->fmt, ex->page_lg2, ex->ias);

		for (unsigned s = 0; s < ex->levels; s++) {
			struct example_mem mem = {ex, 0, s, ~0u};
			struct dart_leaf leaf;
			unsigned level;

			assert_int_equal(dart_walk(ex->fmt, &geo, ex->top, ex->iova, example_read,
						   &mem, &leaf, &level),
					 -EFAULT);
			assert_int_equal(level, ex->levels - 1 - s);
			assert_int_equal(mem.nr_reads, s + 1);
		}
	}
}

static void a_walk_ends_at_a_bus_error(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		const struct example *ex = &examples[i];
		struct dart_geometry geo = geometry(ex->fmt, ex->page_lg2, ex->ias);

		for (unsigned s = 0; s < ex->levels; s++) {
			struct example_mem mem = {ex, 0, ~0u, s};
			struct dart_leaf leaf;
			unsigned level;

			assert_int_equal(dart_walk(ex->fmt, &geo, ex->top, ex->iova, example_read,
						   &mem, &leaf, &level),
					 -EIO);
			assert_int_equal(level, ex->levels - 1 - s);
		}
	}
}

static void an_iova_beyond_its_width_is_not_walked(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		const struct example *ex = &examples[i];
		struct dart_geometry geo = geometry(ex->fmt, ex->page_lg2, ex->ias);

		for (unsigned bit = geo.ias; bit < 64; bit++) {
			struct example_mem mem = {ex, 0, ~0u, ~0u};
			struct dart_leaf leaf;
			unsigned level;

			assert_int_equal(dart_walk(ex->fmt, &geo, ex->top, ex->iova | BIT(bit),
						   example_read, &mem, &leaf, &level),
					 -ERANGE);
			assert_int_equal(level, geo.levels);
			assert_int_equal(mem.nr_reads, 0);
		}
	}
}

/* ---- leaves ----------------------------------------------------------------------------- */

/* All contiguous sets of 4 KiB pages of a 16 KiB one, and the field bits they are. */
static const struct {
	unsigned from, to; /* 4 KiB pages, inclusive */
	uint64_t bits;
} windows[] = {
	{0, 0, 0x0003ff0000000000}, {0, 1, 0x0007ff0000000000}, {0, 2, 0x000bff0000000000},
	{0, 3, 0x000fff0000000000}, {1, 1, 0x4007ff0000000000}, {1, 2, 0x400bff0000000000},
	{1, 3, 0x400fff0000000000}, {2, 2, 0x800bff0000000000}, {2, 3, 0x800fff0000000000},
	{3, 3, 0xc00fff0000000000},
};

static void the_ten_windows_of_4k_pages_are_packed_to_the_bit(void **state)
{
	static const struct {
		const struct dart_fmt *fmt;
		uint64_t rest, whole; /* the leaf without its window; what a whole page adds */
	} fmts[] = {{&dart_fmt_1, 0x95678c001, 0x2}, {&dart_fmt_2, 0x95678c01, 0}};

	(void)state;
	for (unsigned f = 0; f < ARRAY_SIZE(fmts); f++) {
		struct dart_geometry geo = geometry(fmts[f].fmt, 14, 32);

		for (unsigned i = 0; i < ARRAY_SIZE(windows); i++) {
			struct dart_leaf leaf = {.pa = 0x95678c000,
						 .prot = RW,
						 .first = windows[i].from * K4,
						 .last = (windows[i].to + 1) * K4 - 1};
			struct dart_leaf back;
			bool whole = windows[i].from == 0 && windows[i].to == 3;
			uint64_t pte;

			assert_int_equal(dart_leaf_pack(fmts[f].fmt, &geo, &leaf, &pte), 0);
			assert_int_equal(pte, windows[i].bits | fmts[f].rest |
						      (whole ? fmts[f].whole : 0));
			assert_true(dart_leaf_unpack(fmts[f].fmt, &geo, pte, &back));
			assert_leaf(&back, &leaf);
		}
	}
}

static void a_window_bounds_bytes_to_the_word(void **state)
{
	/* Example H: 0x100 bytes at 0x1234, rounded out to 8 bytes as OpenBSD does. */
	struct dart_geometry geo = geometry(&dart_fmt_2, 14, 32);
	struct dart_leaf leaf = {.pa = 0, .prot = RW, .first = 0x1230, .last = 0x1337};
	uint64_t pte;

	(void)state;
	assert_int_equal(dart_leaf_pack(&dart_fmt_2, &geo, &leaf, &pte), 0);
	assert_int_equal(pte >> 52, 0x48c);
	assert_int_equal(pte >> 40 & 0xfff, 0x4cd);

	leaf = (struct dart_leaf){.pa = 0, .prot = RW, .first = 0x3ffc, .last = 0x3fff};
	assert_int_equal(dart_leaf_pack(&dart_fmt_2, &geo, &leaf, &pte), 0);
	assert_int_equal(pte >> 40, 0xffffff);
}

static void dart1_ignores_a_window_with_bit_1_set_and_dart2_does_not(void **state)
{
	struct dart_geometry one = geometry(&dart_fmt_1, 14, 32);
	struct dart_geometry two = geometry(&dart_fmt_2, 14, 32);
	struct dart_leaf leaf;

	(void)state;
	/* Example C's leaf. */
	assert_true(dart_leaf_unpack(&dart_fmt_1, &one, 0x4007ff095678c003, &leaf));
	assert_int_equal(leaf.first, 0);
	assert_int_equal(leaf.last, 0x3fff);
	assert_int_equal(leaf.pa, 0x95678c000);
	/* Example D's NO_CACHE leaf: only the window matters. */
	assert_true(dart_leaf_unpack(&dart_fmt_2, &two, 0x000fff10abcde403, &leaf));
	assert_int_equal(leaf.pa, 0x10abcde4000);
	assert_int_equal(leaf.prot, RW);
	assert_int_equal(leaf.last, 0x3fff);
	assert_true(dart_leaf_unpack(&dart_fmt_2, &two, 0x4007ff10abcde403, &leaf));
	assert_int_equal(leaf.first, 0x1000);
	assert_int_equal(leaf.last, 0x1fff);
	/* START and END left at 0 let DART2 reach one word. */
	assert_true(dart_leaf_unpack(&dart_fmt_2, &two, 0x00000010abcde401, &leaf));
	assert_int_equal(leaf.first, 0);
	assert_int_equal(leaf.last, 3);
}

static void odd_leaves_are_unpacked_as_they_are(void **state)
{
	struct dart_geometry one = geometry(&dart_fmt_1, 14, 32);
	struct dart_leaf leaf;

	(void)state;
	assert_true(dart_leaf_unpack(&dart_fmt_1, &one, 0x000fff095678c183, &leaf));
	assert_int_equal(leaf.prot, 0);
	assert_true(dart_leaf_unpack(&dart_fmt_1, &one, 0x8007ff095678c001, &leaf));
	assert_int_equal(leaf.first, 0x2000);
	assert_int_equal(leaf.last, 0x1fff);
	/* DART1 has address bits inside a 16 KiB page; they point nowhere. */
	assert_true(dart_leaf_unpack(&dart_fmt_1, &one, 0x000fff095678f003, &leaf));
	assert_int_equal(leaf.pa, 0x95678c000);
	/* All bits but VALID. */
	assert_false(dart_leaf_unpack(&dart_fmt_1, &one, ~UINT64_C(1), &leaf));
}

static const struct refusal {
	const char *why;
	const struct dart_fmt *fmt;
	unsigned page_lg2;
	struct dart_leaf leaf;
} refusals[] = {
	{"no right", &dart_fmt_1, 14, {0x4000, 0, 0, K16 - 1}},
	{"no right", &dart_fmt_2, 14, {0x4000, 0, 0, K16 - 1}},
	{"a right that is none", &dart_fmt_1, 14, {0x4000, RW | 4, 0, K16 - 1}},
	{"PA off the page", &dart_fmt_1, 14, {0x5000, RW, 0, K16 - 1}},
	{"PA off the page", &dart_fmt_1, 12, {0x5800, RW, 0, K4 - 1}},
	{"PA off the page", &dart_fmt_2, 14, {0x3000, RW, 0, K16 - 1}},
	{"PA beyond 36 bits", &dart_fmt_1, 14, {0x1000000000, RW, 0, K16 - 1}},
	{"PA beyond 36 bits", &dart_fmt_1, 12, {0x1000000000, RW, 0, K4 - 1}},
	{"PA beyond 42 bits", &dart_fmt_2, 14, {0x40000000000, RW, 0, K16 - 1}},
	{"PA beyond 42 bits", &dart_fmt_2, 14, {0xffffffffffffc000, RW, 0, K16 - 1}},
	{"a window in a 4 KiB page", &dart_fmt_1, 12, {0x4000, RW, 0, 0x7ff}},
	{"a window in a 4 KiB page", &dart_fmt_1, 12, {0x4000, RW, 0x800, K4 - 1}},
	{"a window that is not words", &dart_fmt_1, 14, {0x4000, RW, 2, K16 - 1}},
	{"a window that is not words", &dart_fmt_1, 14, {0x4000, RW, 0, 0x1000}},
	{"a window that is not words", &dart_fmt_2, 14, {0x4000, RW, 0, 0xffd}},
	{"an empty window", &dart_fmt_2, 14, {0x4000, RW, 0x1000, 0xfff}},
	{"a window past the page", &dart_fmt_2, 14, {0x4000, RW, 0, K16 + 3}},
	{"a window past the page", &dart_fmt_2, 14, {0x4000, RW, K16, K16 + 3}},
	{"a window past the page", &dart_fmt_2, 14, {0x4000, RW, 0, ~0u}},
	{"a window past the page", &dart_fmt_1, 12, {0x4000, RW, 0, K16 - 1}},
};

static void what_a_format_cannot_say_is_refused(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct refusal *r = &refusals[i];
		struct dart_geometry geo = geometry(r->fmt, r->page_lg2, 32);
		uint64_t pte = 0x55;

		if (dart_leaf_pack(r->fmt, &geo, &r->leaf, &pte) != -EINVAL)
			fail_msg("row %u: %s", i, r->why);
		assert_int_equal(pte, 0x55);
	}
}

static void a_table_off_its_alignment_or_out_of_reach_is_refused(void **state)
{
	struct dart_geometry one = geometry(&dart_fmt_1, 14, 32);
	struct dart_geometry two = geometry(&dart_fmt_2, 14, 32);
	uint64_t pte;

	(void)state;
	assert_int_equal(dart_table_pack(&dart_fmt_1, &one, 0x812345000, &pte), -EINVAL);
	assert_int_equal(dart_table_pack(&dart_fmt_1, &one, 0x1000000000, &pte), -EINVAL);
	assert_int_equal(dart_table_pack(&dart_fmt_2, &two, 0x1000000000, &pte), 0);
	assert_int_equal(dart_table_pack(&dart_fmt_2, &two, 0x40000000000, &pte), -EINVAL);
	assert_false(dart_table_unpack(&dart_fmt_2, &two, ~UINT64_C(1), &pte));
}

static void a_dart_with_fewer_address_bits_is_given_no_more(void **state)
{
	struct dart_geometry geo = geometry(&dart_fmt_2, 14, 36);
	struct dart_leaf leaf = {.pa = 0xfffffc000, .prot = RW, .first = 0, .last = K16 - 1};
	uint64_t pte;

	(void)state;
	geo.oas = 36;
	assert_int_equal(dart_leaf_pack(&dart_fmt_2, &geo, &leaf, &pte), 0);
	leaf.pa = 0x1000000000;
	assert_int_equal(dart_leaf_pack(&dart_fmt_2, &geo, &leaf, &pte), -EINVAL);
	assert_int_equal(dart_table_pack(&dart_fmt_2, &geo, leaf.pa, &pte), -EINVAL);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void a_random_leaf_comes_back_as_it_was_packed(void **state)
{
	static const struct {
		const struct dart_fmt *fmt;
		unsigned page_lg2;
	} kinds[] = {{&dart_fmt_1, 12}, {&dart_fmt_1, 14}, {&dart_fmt_2, 14}};
	uint64_t seed = 0x9e3779b97f4a7c15;

	(void)state;
	for (unsigned n = 0; n < 100000; n++) {
		unsigned k = next_random(&seed) % ARRAY_SIZE(kinds);
		struct dart_geometry geo = geometry(kinds[k].fmt, kinds[k].page_lg2, 32);
		unsigned size = 1u << geo.page_lg2;
		unsigned a = next_random(&seed) % (size / 4), b = next_random(&seed) % (size / 4);
		bool whole = geo.page_lg2 == 12 || next_random(&seed) % 2;
		struct dart_leaf back,
			leaf = {
				.pa = ALIGN_DOWN(next_random(&seed) & (BIT(geo.oas) - 1), size),
				.prot = 1 + next_random(&seed) % 3,
				.first = whole ? 0 : 4 * MIN(a, b),
				.last = whole ? size - 1 : 4 * MAX(a, b) + 3,
			};
		uint64_t pte, pa;

		assert_int_equal(dart_leaf_pack(kinds[k].fmt, &geo, &leaf, &pte), 0);
		assert_true(dart_leaf_unpack(kinds[k].fmt, &geo, pte, &back));
		assert_leaf(&back, &leaf);
		assert_int_equal(dart_table_pack(kinds[k].fmt, &geo, leaf.pa, &pte), 0);
		assert_true(dart_table_unpack(kinds[k].fmt, &geo, pte, &pa));
		assert_int_equal(pa, leaf.pa);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_geometry_has_the_levels_and_ttbrs_its_iova_bits_need),
		cmocka_unit_test(a_table_is_one_page_of_8_byte_entries),
		cmocka_unit_test(every_iova_bit_indexes_one_level),
		cmocka_unit_test(the_examples_are_walked_to_their_pages),
		cmocka_unit_test(the_examples_entries_are_packed_to_the_bit),
		cmocka_unit_test(a_walk_ends_where_an_entry_is_not_valid),
		cmocka_unit_test(a_walk_ends_at_a_bus_error),
		cmocka_unit_test(an_iova_beyond_its_width_is_not_walked),
		cmocka_unit_test(the_ten_windows_of_4k_pages_are_packed_to_the_bit),
		cmocka_unit_test(a_window_bounds_bytes_to_the_word),
		cmocka_unit_test(dart1_ignores_a_window_with_bit_1_set_and_dart2_does_not),
		cmocka_unit_test(odd_leaves_are_unpacked_as_they_are),
		cmocka_unit_test(what_a_format_cannot_say_is_refused),
		cmocka_unit_test(a_table_off_its_alignment_or_out_of_reach_is_refused),
		cmocka_unit_test(a_dart_with_fewer_address_bits_is_given_no_more),
		cmocka_unit_test(a_random_leaf_comes_back_as_it_was_packed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
