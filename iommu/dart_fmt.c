/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/dart_fmt.h"

#include <errno.h>

#include "iommu/base.h"
#include "iommu/instance.h"

/* What both formats have in common. */
#define PTE_VALID BIT(0)
#define PTE_START GENMASK(63, 52) /* first reachable unit of the page */
#define PTE_END	  GENMASK(51, 40) /* last one, inclusive */

#define WINDOW_UNITS_LG2 12 /* START and END count 4096ths of a page: 4 bytes of a 16 KiB one */
#define WINDOW_PAGE_LG2	 14 /* the only page size whose unit is known */
#define TTBRS_4K	 4 /* registers v1 layouts have; with 16 KiB pages one reaches all of the IOVA */

const struct dart_fmt dart_fmt_1 = {
	.name = "DART1",
	.addr_mask = GENMASK(35, 12),
	.addr_shift = 0,
	.no_read = BIT(8),
	.no_write = BIT(7),
	.sp_dis = BIT(1),
	.no_cache = 0,
	.min_page_lg2 = 12,
	.max_levels = 2,
	.oas = 36,
};

/* Bits 13:12 of an address have no place here, so it has no 4 KiB pages. */
const struct dart_fmt dart_fmt_2 = {
	.name = "DART2",
	.addr_mask = GENMASK(37, 10),
	.addr_shift = 4,
	.no_read = BIT(3),
	.no_write = BIT(2),
	.sp_dis = 0,
	.no_cache = BIT(1),
	.min_page_lg2 = 14,
	.max_levels = 3,
	.oas = 42,
};

int dart_geometry_init(struct dart_geometry *geo, const struct dart_fmt *fmt, unsigned page_lg2,
		       unsigned ias)
{
	struct dart_geometry g = {.page_lg2 = page_lg2, .ias = ias, .oas = fmt->oas, .nr_ttbrs = 1};
	unsigned reach;

	if (page_lg2 < fmt->min_page_lg2 || (page_lg2 != 12 && page_lg2 != 14) || ias <= page_lg2 ||
	    ias >= 64)
		return -EINVAL;

	for (g.levels = 2; g.levels <= fmt->max_levels; g.levels++) {
		reach = dart_level_lg2(&g, g.levels);
		if (ias <= reach)
			break;
		/* Further TTBRs, not further levels, are how 4 KiB pages reach 32 bits. */
		if (page_lg2 == 12 && BIT(ias - reach) <= TTBRS_4K) {
			g.nr_ttbrs = BIT(ias - reach);
			break;
		}
	}
	if (g.levels > fmt->max_levels)
		return -EINVAL;
	*geo = g;
	return 0;
}

static int addr_pack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pa,
		     uint64_t *field)
{
	if (!IS_ALIGNED(pa, BIT(geo->page_lg2)) || pa >> MIN(geo->oas, fmt->oas))
		return -EINVAL;
	*field = pa >> fmt->addr_shift;
	return 0;
}

/* Address bits inside the page (DART1 has two of them with 16 KiB pages) are nobody's: drop them.
 */
static uint64_t addr_unpack(const struct dart_fmt *fmt, const struct dart_geometry *geo,
			    uint64_t pte)
{
	return ALIGN_DOWN((pte & fmt->addr_mask) << fmt->addr_shift, BIT(geo->page_lg2));
}

int dart_leaf_pack(const struct dart_fmt *fmt, const struct dart_geometry *geo,
		   const struct dart_leaf *leaf, uint64_t *pte)
{
	unsigned unit_lg2 = geo->page_lg2 - WINDOW_UNITS_LG2;
	unsigned size = 1u << geo->page_lg2;
	bool whole = leaf->first == 0 && leaf->last == size - 1;
	uint64_t v;

	if (!leaf->prot || leaf->prot & ~(PROT_DEV_READ | PROT_DEV_WRITE))
		return -EINVAL;
	if (addr_pack(fmt, geo, leaf->pa, &v))
		return -EINVAL;
	if (leaf->first > leaf->last || leaf->last >= size)
		return -EINVAL;
	if (!whole && geo->page_lg2 != WINDOW_PAGE_LG2)
		return -EINVAL;
	if (!IS_ALIGNED(leaf->first, 1u << unit_lg2) ||
	    !IS_ALIGNED((uint64_t)leaf->last + 1, 1u << unit_lg2))
		return -EINVAL;

	v |= PTE_VALID;
	v |= FIELD_PREP(PTE_START, leaf->first >> unit_lg2);
	v |= FIELD_PREP(PTE_END, leaf->last >> unit_lg2);
	if (whole)
		v |= fmt->sp_dis; /* the check is of no use then, and its unit not known everywhere
				   */
	if (!(leaf->prot & PROT_DEV_READ))
		v |= fmt->no_read;
	if (!(leaf->prot & PROT_DEV_WRITE))
		v |= fmt->no_write;
	*pte = v;
	return 0;
}

bool dart_leaf_unpack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pte,
		      struct dart_leaf *leaf)
{
	unsigned unit_lg2 = geo->page_lg2 - WINDOW_UNITS_LG2;

	if (!(pte & PTE_VALID))
		return false;
	leaf->pa = addr_unpack(fmt, geo, pte);
	leaf->prot = (pte & fmt->no_read ? 0 : PROT_DEV_READ) |
		     (pte & fmt->no_write ? 0 : PROT_DEV_WRITE);
	if (pte & fmt->sp_dis) {
		leaf->first = 0;
		leaf->last = (1u << geo->page_lg2) - 1;
	} else {
		leaf->first = (unsigned)FIELD_GET(PTE_START, pte) << unit_lg2;
		leaf->last = (((unsigned)FIELD_GET(PTE_END, pte) + 1) << unit_lg2) - 1;
	}
	return true;
}

int dart_table_pack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pa,
		    uint64_t *pte)
{
	uint64_t field;

	if (addr_pack(fmt, geo, pa, &field))
		return -EINVAL;
	*pte = field | PTE_VALID;
	return 0;
}

bool dart_table_unpack(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t pte,
		       uint64_t *pa)
{
	if (!(pte & PTE_VALID))
		return false;
	*pa = addr_unpack(fmt, geo, pte);
	return true;
}

int dart_walk(const struct dart_fmt *fmt, const struct dart_geometry *geo, uint64_t top,
	      uint64_t iova, bool (*read)(void *ctx, uint64_t pa, uint64_t *entry), void *ctx,
	      struct dart_leaf *leaf, unsigned *level)
{
	uint64_t table = top, entry;

	*level = geo->levels;
	if (iova >> geo->ias)
		return -ERANGE;
	for (;;) {
		(*level)--;
		if (!read(ctx, table + ((uint64_t)dart_index(geo, *level, iova) << DART_ENTRY_LG2),
			  &entry))
			return -EIO;
		if (*level == 0)
			return dart_leaf_unpack(fmt, geo, entry, leaf) ? 0 : -EFAULT;
		if (!dart_table_unpack(fmt, geo, entry, &table))
			return -EFAULT;
	}
}
