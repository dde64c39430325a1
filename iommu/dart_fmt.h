/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_fmt - the page-table formats of Apple DARTs: geometry and page-table entries; pack, unpack,
 * walk. Pure functions over const tables; no memory is touched except by dart_walk()'s callback.
 *
 * How a TTBR names the top table differs by register layout, not by format, and is the driver's.
 *
 * Source: Linux drivers/iommu/io-pgtable-dart.c, m1n1 src/dart.c (facts restated in docs/dart.md).
 */
#ifndef IOMMU_DART_FMT_H
#define IOMMU_DART_FMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DART_MAX_LEVELS 3 /* tables below the TTBR */
#define DART_ENTRY_LG2	3 /* log2 of the bytes of an entry */

/* How entries of one PTE format are laid out. */
struct dart_fmt {
	const char *name;    /* "DART1", "DART2" */
	uint64_t addr_mask;  /* bits of an entry that hold the address */
	unsigned addr_shift; /* address = (entry & addr_mask) << addr_shift */
	uint64_t no_read;    /* negative rights */
	uint64_t no_write;
	uint64_t sp_dis;       /* set: the sub-page window is ignored; 0: it always holds */
	uint64_t no_cache;     /* 0: the format has no such bit */
	unsigned min_page_lg2; /* smallest page the format can express */
	unsigned max_levels;   /* most tables below a TTBR, DART_MAX_LEVELS at most */
	unsigned oas;	       /* bits of physical address it can express */
};

extern const struct dart_fmt dart_fmt_1; /* t8020, t8103 */
extern const struct dart_fmt dart_fmt_2; /* t6000, t8110 */

/* Which part of an IOVA indexes which level, and how wide addresses are. */
struct dart_geometry {
	unsigned page_lg2; /* 12 or 14 */
	unsigned levels;   /* tables below the TTBR: 2 or 3 */
	unsigned ias;	   /* bits of IOVA */
	unsigned oas;	   /* bits of physical address, at most the format's */
	unsigned nr_ttbrs; /* TTBRs in use: 1; up to 4 with 4 KiB pages, 1 GiB each */
};

/* What a leaf says. */
struct dart_leaf {
	uint64_t pa;   /* of the page */
	unsigned prot; /* PROT_DEV_*, at least one */
	unsigned first,
		last; /* reachable bytes of the page, inclusive; a whole page: 0, size - 1 */
};

/**
 * dart_geometry_init - the geometry with the fewest levels that hold @ias bits
 *
 * A caller that knows better changes the result: a DART with a narrower physical address (PARAMS3)
 * lowers oas, one that is locked in a mode with more levels than its IOVA bits need raises levels.
 * Return: 0; -EINVAL: the format has no such pages, or the IOVA bits do not fit the levels and
 * TTBRs.
 */
int dart_geometry_init(struct dart_geometry *geo, const struct dart_fmt *fmt, unsigned page_lg2,
		       unsigned ias);

/* dart_table_size - bytes of one table: one page; dart_table_entries - 8-byte entries in it */
static inline size_t dart_table_size(const struct dart_geometry *geo)
{
	return (size_t)1 << geo->page_lg2;
}

static inline unsigned dart_table_entries(const struct dart_geometry *geo)
{
	return 1u << (geo->page_lg2 - DART_ENTRY_LG2);
}

/* dart_level_lg2 - log2 of the bytes that one entry of a table of @level covers (0: the page) */
static inline unsigned dart_level_lg2(const struct dart_geometry *geo, unsigned level)
{
	return geo->page_lg2 + level * (geo->page_lg2 - DART_ENTRY_LG2);
}

/* dart_ttbr_index - which TTBR @iova uses */
static inline unsigned dart_ttbr_index(const struct dart_geometry *geo, uint64_t iova)
{
	return (unsigned)(iova >> dart_level_lg2(geo, geo->levels)) & (geo->nr_ttbrs - 1);
}

/* dart_index - index into the table of @level: levels - 1 is below the TTBR, 0 holds leaves */
static inline unsigned dart_index(const struct dart_geometry *geo, unsigned level, uint64_t iova)
{
	return (unsigned)(iova >> dart_level_lg2(geo, level)) & (dart_table_entries(geo) - 1);
}

/**
 * dart_leaf_pack - the entry for a leaf
 *
 * A window is rounded by nobody: first and last + 1 are multiples of 4 (16 KiB pages only).
 * Return: 0; -EINVAL: address not aligned or too wide, no right at all, a window the format or page
 *         size cannot hold.
 */
int dart_leaf_pack(const struct dart_fmt *fmt, const struct dart_geometry *geo,
		   const struct dart_leaf *leaf, uint64_t *pte);
/* dart_leaf_unpack - false: the entry is not valid. Leaves with neither right, or START > END, are
 * returned as they are. Nobody knows the unit of a window in a 4 KiB page; bytes are assumed, and
 * dart_leaf_pack() makes none. */
bool dart_leaf_unpack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pte,
		      struct dart_leaf *leaf);

/* dart_table_pack - the entry that names a table; -EINVAL as above. dart_table_unpack - its
 * address; false: not valid. */
int dart_table_pack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pa,
		    uint64_t *pte);
bool dart_table_unpack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pte,
		       uint64_t *pa);

/**
 * dart_walk - where @iova goes, from the address of the top table
 * @top: the table that TTBR dart_ttbr_index() names
 * @read: the 8-byte entry at physical address @pa; false: bus error
 * @level: where the walk ended
 * Return: 0 with *leaf; -EFAULT not mapped; -EIO bus error; -ERANGE @iova is wider than the IOVA
 *         (hardware ignores these bits), nothing was read and *level is geo->levels. Rights and
 *         window are the caller's to check.
 * For dumps and tests: the model has a walker of its own.
 */
int dart_walk(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t top,
	      uint64_t iova, bool (*read)(void *ctx, uint64_t pa, uint64_t *entry), void *ctx,
	      struct dart_leaf *leaf, unsigned *level);

#endif
