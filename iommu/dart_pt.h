/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_pt - one page table in a DART format: the shadow that any stream with the same format, page
 * size and IOVA width may walk, on however many DARTs.
 *
 * Entries are written with single 8-byte stores, a table before the entry that names it. Tables are
 * given back with the whole shadow only: DARTs cache table addresses, and nothing says for how
 * long. prepare() makes the tables and asks for every address, so map(), map_window() and replace()
 * of what was prepared do not fail. The mediator's lock serialises all calls on one table.
 *
 * prepare() returns -EINVAL for a range that is misaligned, empty, under an entry of the firmware
 * or in a direct region; -ERANGE beyond the IOVA width; -EFAULT memory whose address no entry can
 * hold; -ENOMEM.
 */
#ifndef IOMMU_DART_PT_H
#define IOMMU_DART_PT_H

#include "iommu/dart_fmt.h"
#include "iommu/instance.h"

/* Memory as the DARTs see it; the hypervisor's, or a test's. */
struct dart_mem_ops {
	/* A table: @size bytes, zeroed; *pa, aligned to @size, is where DARTs find it. NULL: none.
	 */
	void *(*table_alloc)(void *ctx, size_t size, uint64_t *pa);
	void (*table_free)(void *ctx, void *table, size_t size);
	/* Where a table that firmware made is mapped, @size bytes; NULL: it cannot be reached. */
	void *(*table_map)(void *ctx, uint64_t pa, size_t size);
	/*
	 * Physical address of host memory, which stays there while it is mapped.
	 * @run: bytes from @hva on that are contiguous, <= @len, >= 1
	 * Return: 0; -EFAULT: not memory that a device can reach.
	 */
	int (*pa_of)(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run);
};

/* IOVA that is mapped from the start, whatever the domain maps: a boot framebuffer, say. */
struct dart_region {
	uint64_t iova, pa, len; /* bytes, multiples of the page size */
	unsigned prot;
};

struct dart_pt_cfg {
	const struct dart_fmt *fmt;
	struct dart_geometry geo;
	const struct dart_mem_ops *mem;
	void *mem_ctx;
	bool can_window;		  /* hand out sub-page windows (16 KiB pages only) */
	const struct dart_region *direct; /* mapped before anything else */
	unsigned nr_direct;
	uint64_t adopt; /* physical address of a firmware's top table to fill in; 0: make our own */
	uint64_t max_table_bytes; /* tables at most; 0: no bound */
	/*
	 * Only with adopt, whose table a DART goes on walking: called by destroy(), and by a
	 * dart_pt_create() that fails later than by adopting, when our leaves were cleared and our
	 * entries taken out of the table, before the tables they named are given back; make the
	 * DART forget them. false: it is not known whether it has; the tables are then never given
	 * back. NULL: no DART walks the table by then.
	 */
	bool (*forget)(void *ctx);
	void *forget_ctx;
};

struct dart_pt;

/**
 * dart_pt_create
 *
 * What an adopted top table holds stays as it is, byte for byte: entries that are not 0 are the
 * firmware's, are never written and what they name is never read. The others get tables of our own
 * as needed. Return: 0; -EINVAL a direct region is misaligned, overlaps another or an adopted
 * entry, or lies outside the table; adopt is misaligned, too wide, or comes with several TTBRs;
 * -ENOMEM; -EIO an adopted table cannot be reached.
 */
int dart_pt_create(const struct dart_pt_cfg *cfg, struct dart_pt **out);

struct shadow *dart_pt_shadow(struct dart_pt *pt);
/* dart_pt_of - NULL if @shadow is not a DART page table */
struct dart_pt *dart_pt_of(struct shadow *shadow);
/* dart_pt_same_kind - could a stream that wants @cfg walk it? Format, geometry and direct regions
 * agree, the stream can do windows if it hands them out, and nothing is adopted. Memory is taken to
 * be one for all DARTs. */
bool dart_pt_same_kind(const struct dart_pt *pt, const struct dart_pt_cfg *cfg);
/* dart_pt_top - physical address of top table @i; 0: none (its TTBR is invalid) */
uint64_t dart_pt_top(const struct dart_pt *pt, unsigned i);
/* dart_pt_bytes - bytes of tables it holds now (not the adopted one) */
uint64_t dart_pt_bytes(const struct dart_pt *pt);
/* dart_pt_clear - unmap everything that is neither firmware's nor a direct region */
void dart_pt_clear(struct dart_pt *pt);
/**
 * dart_pt_firmware_ranges - what an adopted table may map: ranges whose top entry firmware filled
 * in Return: how many there are; at most @max are written, ascending, merged.
 */
unsigned dart_pt_firmware_ranges(const struct dart_pt *pt, struct iova_range *out, unsigned max);

#endif
