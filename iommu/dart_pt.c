/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/dart_pt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "entries are stored as the CPU has them");

#define MAX_TTBRS 4
#define RW	  (PROT_DEV_READ | PROT_DEV_WRITE)

/*
 * A table whose entries name tables, with where the CPU finds each of those. An entry that is not 0
 * while its child is NULL is the firmware's.
 */
struct dir {
	uint64_t *entries;
	unsigned nr; /* entries that an IOVA can reach */
	bool adopted;
	void *child[]; /* struct dir above level 1, the leaf table's entries at level 1 */
};

struct dart_pt {
	struct shadow shadow;
	struct dart_pt_cfg cfg; /* direct is ours, ascending */
	struct dir *top[MAX_TTBRS];
	uint64_t top_pa[MAX_TTBRS];
	uint64_t leaf[RW + 1]; /* a whole page at address 0, by rights; 0: no such leaf */
	uint64_t page;	       /* bytes */
	uint64_t bytes;
};

static const struct shadow_ops dart_pt_ops;

/* ---- entries ---------------------------------------------------------------------------- */

/*
 * What was stored before it (a table's entries, a page's contents) is visible to DARTs before any
 * entry stored after it. On arm64 one barrier serves a whole run of plain stores; elsewhere the
 * release that each store then carries costs nothing, and race detectors understand it.
 */
#ifdef __aarch64__
#define ENTRY_STORE_ORDER __ATOMIC_RELAXED
static void order_before_entries(void)
{
	__asm__ volatile("dmb oshst" ::: "memory");
}
#else
#define ENTRY_STORE_ORDER __ATOMIC_RELEASE
static void order_before_entries(void)
{
}
#endif

static void entry_store(uint64_t *entry, uint64_t value)
{
	__atomic_store_n(entry, value, ENTRY_STORE_ORDER);
}

static uint64_t entry_load(const uint64_t *entry)
{
	return __atomic_load_n(entry, __ATOMIC_RELAXED);
}

/* ---- tables ----------------------------------------------------------------------------- */

static struct dart_pt *pt_of(struct shadow *shadow)
{
	return container_of(shadow, struct dart_pt, shadow);
}

/* Bytes of IOVA that one leaf table covers. */
static uint64_t leaf_reach(const struct dart_pt *pt)
{
	return BIT(dart_level_lg2(&pt->cfg.geo, 1));
}

static int table_create(struct dart_pt *pt, uint64_t **out, uint64_t *pa, uint64_t *entry)
{
	const struct dart_mem_ops *mem = pt->cfg.mem;
	size_t size = dart_table_size(&pt->cfg.geo);
	uint64_t *table;

	if (pt->cfg.max_table_bytes && pt->cfg.max_table_bytes < pt->bytes + size)
		return -ENOMEM;
	table = mem->table_alloc(pt->cfg.mem_ctx, size, pa);
	if (!table)
		return -ENOMEM;
	if (dart_table_pack(pt->cfg.fmt, &pt->cfg.geo, *pa, entry)) {
		mem->table_free(pt->cfg.mem_ctx, table, size);
		return -ENOMEM; /* memory there is, but none that a DART finds */
	}
	pt->bytes += size;
	*out = table;
	return 0;
}

static void table_destroy(struct dart_pt *pt, uint64_t *table)
{
	size_t size = dart_table_size(&pt->cfg.geo);

	pt->cfg.mem->table_free(pt->cfg.mem_ctx, table, size);
	pt->bytes -= size;
}

/* The @entries stay the caller's on error. */
static int dir_create(const struct dart_pt *pt, unsigned level, uint64_t *entries, struct dir **out)
{
	const struct dart_geometry *geo = &pt->cfg.geo;
	unsigned level_lg2 = dart_level_lg2(geo, level);
	unsigned nr = dart_table_entries(geo);
	struct dir *dir;

	if (geo->ias <= level_lg2)
		nr = 1;
	else if (geo->ias - level_lg2 < geo->page_lg2 - DART_ENTRY_LG2)
		nr = 1u << (geo->ias - level_lg2);

	dir = iommu_zalloc(sizeof(*dir) + nr * sizeof(dir->child[0]));
	if (!dir)
		return -ENOMEM;
	dir->entries = entries;
	dir->nr = nr;
	*out = dir;
	return 0;
}

/* Give back what @dir names, and @dir; of an adopted table only what is ours. @leak: a DART may
 * still walk the tables, so only what it never sees goes. */
static void dir_destroy(struct dart_pt *pt, unsigned level, struct dir *dir, bool leak)
{
	for (unsigned i = 0; i < dir->nr; i++) {
		if (!dir->child[i])
			continue;
		if (level > 1)
			dir_destroy(pt, level - 1, dir->child[i], leak);
		else if (!leak)
			table_destroy(pt, dir->child[i]);
	}
	if (!dir->adopted && !leak)
		table_destroy(pt, dir->entries);
	iommu_free(dir);
}

/* The table that entry @i of @dir names, made if need be. */
static int dir_get(struct dart_pt *pt, unsigned level, struct dir *dir, unsigned i, void **out)
{
	uint64_t *table, pa, entry;
	struct dir *sub;
	int ret;

	if (dir->child[i]) {
		*out = dir->child[i];
		return 0;
	}
	if (entry_load(&dir->entries[i]))
		return -EINVAL; /* the firmware's */

	ret = table_create(pt, &table, &pa, &entry);
	if (ret)
		return ret;
	if (level > 1) {
		ret = dir_create(pt, level - 1, table, &sub);
		if (ret) {
			table_destroy(pt, table);
			return ret;
		}
		*out = sub;
	} else {
		*out = table;
	}
	dir->child[i] = *out;
	/* The new table's zeroes are visible before the entry that names it. */
	order_before_entries();
	entry_store(&dir->entries[i], entry);
	return 0;
}

/* The directory of level 1 that serves @iova; NULL: there is none. */
static struct dir *find_dir(const struct dart_pt *pt, uint64_t iova)
{
	const struct dart_geometry *geo = &pt->cfg.geo;
	struct dir *dir = pt->top[dart_ttbr_index(geo, iova)];

	for (unsigned level = geo->levels - 1; level > 1 && dir; level--)
		dir = dir->child[dart_index(geo, level, iova)];
	return dir;
}

/* The leaf table that serves @iova; NULL: there is none of ours. */
static uint64_t *find_leaf_table(const struct dart_pt *pt, uint64_t iova)
{
	struct dir *dir = find_dir(pt, iova);

	return dir ? dir->child[dart_index(&pt->cfg.geo, 1, iova)] : NULL;
}

static int make_leaf_table(struct dart_pt *pt, uint64_t iova)
{
	const struct dart_geometry *geo = &pt->cfg.geo;
	void *at = pt->top[dart_ttbr_index(geo, iova)];
	int ret;

	for (unsigned level = geo->levels - 1; level > 0; level--) {
		ret = dir_get(pt, level, at, dart_index(geo, level, iova), &at);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- ranges ----------------------------------------------------------------------------- */

static int check_range(const struct dart_pt *pt, uint64_t iova, uint64_t len)
{
	uint64_t last;

	if (!len || !IS_ALIGNED(iova | len, pt->page))
		return -EINVAL;
	if (add_overflows(iova, len - 1, &last) || last >> pt->cfg.geo.ias)
		return -ERANGE;
	return 0;
}

static int make_leaf_tables(struct dart_pt *pt, uint64_t iova, uint64_t len)
{
	uint64_t last = iova + (len - 1);
	int ret;

	for (iova = ALIGN_DOWN(iova, leaf_reach(pt)); iova <= last; iova += leaf_reach(pt)) {
		if (find_leaf_table(pt, iova))
			continue;
		ret = make_leaf_table(pt, iova);
		if (ret)
			return ret;
	}
	return 0;
}

/* check_range(), and no direct region in it. */
static int check_mappable(const struct dart_pt *pt, uint64_t iova, uint64_t len)
{
	int ret = check_range(pt, iova, len);

	for (unsigned i = 0; !ret && i < pt->cfg.nr_direct; i++) {
		const struct dart_region *r = &pt->cfg.direct[i];

		if (iova < r->iova + r->len && r->iova < iova + len)
			ret = -EINVAL;
	}
	return ret;
}

/*
 * Whole pages from @hva on that are contiguous, and where. Pieces smaller than a page are joined:
 * the host's page may be smaller than the DART's.
 */
static int page_run(const struct dart_pt *pt, const void *hva, uint64_t len, uint64_t *pa,
		    uint64_t *run)
{
	const struct dart_mem_ops *mem = pt->cfg.mem;
	uint64_t sum, piece, next;
	int ret;

	ret = mem->pa_of(pt->cfg.mem_ctx, hva, len, pa, &sum);
	if (ret)
		return -EFAULT;
	if (!IS_ALIGNED(*pa, pt->page))
		return -EFAULT;
	while (sum < pt->page) {
		ret = mem->pa_of(pt->cfg.mem_ctx, (const char *)hva + sum, len - sum, &next,
				 &piece);
		if (ret || !piece || next != *pa + sum)
			return -EFAULT;
		sum += MIN(piece, len - sum);
	}
	sum = ALIGN_DOWN(MIN(sum, len), pt->page);
	if (add_overflows(*pa, sum - 1, &next) || next >> pt->cfg.geo.oas)
		return -EFAULT;
	*run = sum;
	return 0;
}

/* Entries from @iova on for [pa, pa + len), which are whole pages; the tables are there. */
static int set_run(struct dart_pt *pt, uint64_t iova, uint64_t len, uint64_t pte)
{
	uint64_t step = pt->page >> pt->cfg.fmt->addr_shift;
	unsigned entries = dart_table_entries(&pt->cfg.geo);

	for (uint64_t left = len >> pt->cfg.geo.page_lg2; left;) {
		uint64_t *table = find_leaf_table(pt, iova);
		unsigned i = dart_index(&pt->cfg.geo, 0, iova);
		unsigned nr = MIN(left, entries - i);

		if (!table)
			return -EINVAL;
		table += i;
		for (i = 0; i < nr; i++, pte += step)
			entry_store(&table[i], pte);
		iova += nr * pt->page;
		left -= nr;
	}
	return 0;
}

static void clear_range(struct dart_pt *pt, uint64_t iova, uint64_t len)
{
	const struct dart_geometry *geo = &pt->cfg.geo;
	unsigned entries = dart_table_entries(geo);

	while (len) {
		struct dir *dir = find_dir(pt, iova);
		uint64_t span, *table;
		unsigned i, nr;

		if (!dir) { /* then none of the leaf tables it would name either */
			span = BIT(dart_level_lg2(geo, 2)) -
			       (iova & (BIT(dart_level_lg2(geo, 2)) - 1));
			span = MIN(span, len);
			iova += span;
			len -= span;
			continue;
		}
		table = dir->child[dart_index(geo, 1, iova)];
		i = dart_index(geo, 0, iova);
		nr = MIN(len >> geo->page_lg2, entries - i);
		if (table) {
			table += i;
			for (i = 0; i < nr; i++)
				entry_store(&table[i], 0);
		}
		iova += nr * pt->page;
		len -= nr * pt->page;
	}
}

/* As clear_range(), but what lies in direct regions stays. */
static void clear_but_direct(struct dart_pt *pt, uint64_t iova, uint64_t len)
{
	uint64_t end = iova + len;

	for (unsigned i = 0; i < pt->cfg.nr_direct && iova < end; i++) {
		const struct dart_region *r = &pt->cfg.direct[i];

		if (r->iova + r->len <= iova)
			continue;
		if (r->iova > iova)
			clear_range(pt, iova, MIN(r->iova, end) - iova);
		iova = r->iova + r->len;
	}
	if (iova < end)
		clear_range(pt, iova, end - iova);
}

/* ---- shadow_ops ------------------------------------------------------------------------- */

static int pt_prepare(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len)
{
	struct dart_pt *pt = pt_of(shadow);
	uint64_t pa, run;
	int ret;

	ret = check_mappable(pt, iova, len);
	if (ret)
		return ret;
	for (uint64_t at = 0; at < len; at += run) {
		ret = page_run(pt, (char *)hva + at, len - at, &pa, &run);
		if (ret)
			return ret;
	}
	return make_leaf_tables(pt, iova, len);
}

/* The entry for a whole page at @pa, which is aligned and not too wide. */
static int whole_page(const struct dart_pt *pt, uint64_t pa, unsigned prot, uint64_t *pte)
{
	if (prot > RW || !pt->leaf[prot])
		return -EINVAL;
	*pte = pt->leaf[prot] | pa >> pt->cfg.fmt->addr_shift;
	return 0;
}

static int pt_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	struct dart_pt *pt = pt_of(shadow);
	uint64_t pa, run, pte;
	int ret;

	ret = check_mappable(pt, iova, len);
	if (ret)
		return ret;
	/* The contents of bounce pages are visible before the entries that name them. */
	order_before_entries();
	for (uint64_t at = 0; at < len; at += run) {
		ret = page_run(pt, (char *)hva + at, len - at, &pa, &run);
		if (!ret)
			ret = whole_page(pt, pa, prot, &pte);
		if (!ret)
			ret = set_run(pt, iova + at, run, pte);
		if (ret) { /* only without prepare() */
			clear_range(pt, iova, len);
			return ret;
		}
	}
	return 0;
}

static void pt_unmap(struct shadow *shadow, uint64_t iova, uint64_t len)
{
	struct dart_pt *pt = pt_of(shadow);

	if (!check_range(pt, iova, len))
		clear_but_direct(pt, iova, len);
}

/* The entry for one page of which [first, last] can be reached. */
static int window_pack(const struct dart_pt *pt, void *hva, unsigned prot, uint64_t first,
		       uint64_t last, uint64_t *pte)
{
	struct dart_leaf leaf = {.prot = prot};
	uint64_t run;
	int ret;

	if (first > last || last >= pt->page)
		return -EINVAL;
	if ((first != 0 || last != pt->page - 1) && !pt->shadow.can_window)
		return -EINVAL;
	ret = page_run(pt, hva, pt->page, &leaf.pa, &run);
	if (ret)
		return ret;
	leaf.first = first;
	leaf.last = last;
	return dart_leaf_pack(pt->cfg.fmt, &pt->cfg.geo, &leaf, pte);
}

static void pt_replace(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
		       uint64_t first, uint64_t last)
{
	struct dart_pt *pt = pt_of(shadow);
	uint64_t *table, pte;

	if (check_mappable(pt, iova, pt->page))
		return;
	table = find_leaf_table(pt, iova);
	if (!table)
		return;
	/*
	 * The caller takes the old page for gone, so if what it asks for cannot be (a breach of
	 * the contract), a fault is the only answer that lets no write go astray.
	 */
	if (window_pack(pt, hva, prot, first, last, &pte))
		pte = 0;
	order_before_entries();
	entry_store(&table[dart_index(&pt->cfg.geo, 0, iova)], pte);
}

static int pt_map_window(struct shadow *shadow, uint64_t iova, void *hva, unsigned prot,
			 uint64_t first, uint64_t last)
{
	struct dart_pt *pt = pt_of(shadow);
	uint64_t pte;
	int ret;

	ret = check_mappable(pt, iova, pt->page);
	if (ret)
		return ret;
	ret = window_pack(pt, hva, prot, first, last, &pte);
	if (ret)
		return ret;
	order_before_entries();
	return set_run(pt, iova, pt->page, pte);
}

/*
 * Take our entries out of the firmware's table. Return: may the tables they named be given back? A
 * DART that may still know these finds nothing in them.
 */
static bool leave_adopted(struct dart_pt *pt)
{
	struct dir *dir = pt->top[0];

	if (!dir || !dir->adopted)
		return true;
	clear_range(pt, 0, BIT(pt->cfg.geo.ias));
	for (unsigned i = 0; i < dir->nr; i++) {
		if (dir->child[i])
			entry_store(&dir->entries[i], 0);
	}
	return !pt->cfg.forget || pt->cfg.forget(pt->cfg.forget_ctx);
}

static void pt_destroy(struct shadow *shadow)
{
	struct dart_pt *pt = pt_of(shadow);
	bool leak = !leave_adopted(pt);

	for (unsigned i = 0; i < MAX_TTBRS; i++) {
		if (pt->top[i])
			dir_destroy(pt, pt->cfg.geo.levels - 1, pt->top[i], leak);
	}
	iommu_free((void *)pt->cfg.direct);
	iommu_free(pt);
}

static const struct shadow_ops dart_pt_ops = {
	.prepare = pt_prepare,
	.map = pt_map,
	.unmap = pt_unmap,
	.replace = pt_replace,
	.map_window = pt_map_window,
	.destroy = pt_destroy,
};

/* ---- creation --------------------------------------------------------------------------- */

static int compare_regions(const void *a, const void *b)
{
	const struct dart_region *x = a, *y = b;

	return (x->iova > y->iova) - (x->iova < y->iova);
}

/* A copy of @regions, ascending. */
static int sort_regions(const struct dart_region *regions, unsigned nr, struct dart_region **out)
{
	struct dart_region *copy;

	copy = iommu_alloc(MAX(nr, 1u) * sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (nr) {
		memcpy(copy, regions, nr * sizeof(*copy));
		qsort(copy, nr, sizeof(*copy), compare_regions);
	}
	*out = copy;
	return 0;
}

static int install_direct(struct dart_pt *pt)
{
	uint64_t end = 0, pte, last;
	int ret;

	for (unsigned i = 0; i < pt->cfg.nr_direct; i++) {
		const struct dart_region *r = &pt->cfg.direct[i];

		if (check_range(pt, r->iova, r->len) || r->iova < end ||
		    !IS_ALIGNED(r->pa, pt->page) || whole_page(pt, r->pa, r->prot, &pte) ||
		    add_overflows(r->pa, r->len - 1, &last) || last >> pt->cfg.geo.oas)
			return -EINVAL;
		end = r->iova + r->len;
		ret = make_leaf_tables(pt, r->iova, r->len);
		if (!ret)
			ret = set_run(pt, r->iova, r->len, pte);
		if (ret)
			return ret;
	}
	return 0;
}

static int adopt_top(struct dart_pt *pt)
{
	const struct dart_pt_cfg *cfg = &pt->cfg;
	uint64_t *entries, unused;
	int ret;

	if (cfg->geo.nr_ttbrs != 1 || dart_table_pack(cfg->fmt, &cfg->geo, cfg->adopt, &unused))
		return -EINVAL;
	entries = cfg->mem->table_map(cfg->mem_ctx, cfg->adopt, dart_table_size(&cfg->geo));
	if (!entries)
		return -EIO;
	ret = dir_create(pt, cfg->geo.levels - 1, entries, &pt->top[0]);
	if (ret)
		return ret;
	pt->top[0]->adopted = true;
	pt->top_pa[0] = cfg->adopt;
	return 0;
}

static int make_top(struct dart_pt *pt, unsigned i)
{
	uint64_t *entries, unused;
	int ret;

	ret = table_create(pt, &entries, &pt->top_pa[i], &unused);
	if (ret)
		return ret;
	ret = dir_create(pt, pt->cfg.geo.levels - 1, entries, &pt->top[i]);
	if (ret)
		table_destroy(pt, entries);
	return ret;
}

int dart_pt_create(const struct dart_pt_cfg *cfg, struct dart_pt **out)
{
	const struct dart_geometry *geo = &cfg->geo;
	struct dart_geometry least;
	struct dart_region *direct;
	struct dart_pt *pt;
	int ret;

	if (dart_geometry_init(&least, cfg->fmt, geo->page_lg2, geo->ias) ||
	    geo->levels < least.levels || geo->levels > cfg->fmt->max_levels ||
	    geo->nr_ttbrs != least.nr_ttbrs || geo->oas > least.oas)
		return -EINVAL;
	pt = iommu_zalloc(sizeof(*pt));
	if (!pt)
		return -ENOMEM;
	pt->cfg = *cfg;
	pt->page = BIT(geo->page_lg2);
	pt->shadow.ops = &dart_pt_ops;
	pt->shadow.granule = pt->page;
	pt->shadow.can_replace = true;
	pt->shadow.can_window = cfg->can_window && geo->page_lg2 == 14;
	for (unsigned prot = 1; prot <= RW; prot++) {
		const struct dart_leaf leaf = {.prot = prot, .last = (unsigned)pt->page - 1};

		ret = dart_leaf_pack(cfg->fmt, geo, &leaf, &pt->leaf[prot]);
		if (ret)
			goto err_free;
	}
	ret = sort_regions(cfg->direct, cfg->nr_direct, &direct);
	if (ret)
		goto err_free;
	pt->cfg.direct = direct;

	if (cfg->adopt)
		ret = adopt_top(pt);
	for (unsigned i = 0; !ret && !cfg->adopt && i < geo->nr_ttbrs; i++)
		ret = make_top(pt, i);
	if (!ret)
		ret = install_direct(pt);
	if (ret)
		goto err_destroy;
	*out = pt;
	return 0;

err_destroy: /* it copes with what is not there yet */
	pt_destroy(&pt->shadow);
	return ret;
err_free:
	iommu_free(pt);
	return ret;
}

struct shadow *dart_pt_shadow(struct dart_pt *pt)
{
	return &pt->shadow;
}

struct dart_pt *dart_pt_of(struct shadow *shadow)
{
	return shadow->ops == &dart_pt_ops ? pt_of(shadow) : NULL;
}

bool dart_pt_same_kind(const struct dart_pt *pt, const struct dart_pt_cfg *cfg)
{
	const struct dart_geometry *a = &pt->cfg.geo, *b = &cfg->geo;

	if (pt->cfg.adopt || cfg->adopt || pt->cfg.fmt != cfg->fmt)
		return false;
	if (a->page_lg2 != b->page_lg2 || a->levels != b->levels || a->ias != b->ias ||
	    a->oas != b->oas || a->nr_ttbrs != b->nr_ttbrs)
		return false;
	if (pt->shadow.can_window && !cfg->can_window)
		return false;
	if (pt->cfg.nr_direct != cfg->nr_direct)
		return false;
	/* No two of them overlap, so if each of these is one of those, the sets are the same. */
	for (unsigned i = 0; i < cfg->nr_direct; i++) {
		const struct dart_region *x = &cfg->direct[i];
		const struct dart_region *y =
			bsearch(x, pt->cfg.direct, pt->cfg.nr_direct, sizeof(*y), compare_regions);

		if (!y || x->pa != y->pa || x->len != y->len || x->prot != y->prot)
			return false;
	}
	return true;
}

uint64_t dart_pt_top(const struct dart_pt *pt, unsigned i)
{
	return i < MAX_TTBRS ? pt->top_pa[i] : 0;
}

uint64_t dart_pt_bytes(const struct dart_pt *pt)
{
	return pt->bytes;
}

void dart_pt_clear(struct dart_pt *pt)
{
	clear_but_direct(pt, 0, BIT(pt->cfg.geo.ias));
}

unsigned dart_pt_firmware_ranges(const struct dart_pt *pt, struct iova_range *out, unsigned max)
{
	unsigned level = pt->cfg.geo.levels - 1, nr = 0;
	const struct dir *dir = pt->top[0];
	bool before = false;

	for (unsigned i = 0; i < dir->nr; i++) {
		uint64_t start = (uint64_t)i << dart_level_lg2(&pt->cfg.geo, level);
		uint64_t end =
			MIN(start + BIT(dart_level_lg2(&pt->cfg.geo, level)), BIT(pt->cfg.geo.ias));
		bool firmware = !dir->child[i] && entry_load(&dir->entries[i]);

		if (firmware && !before)
			nr++;
		if (firmware && nr <= max)
			out[nr - 1] =
				(struct iova_range){before ? out[nr - 1].start : start, end - 1};
		before = firmware;
	}
	return nr;
}
