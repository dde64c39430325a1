// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * glue - what a kernel without CONFIG_IOMMU_IO_PGTABLE_DART leaves out of apple-dart.
 *
 * Its table of page-table formats has no entry for the DART's. Their code is part of this module,
 * and the two functions that would look it up in the table are replaced by these (see Kbuild).
 */
#include <linux/io-pgtable.h>

struct io_pgtable_ops *glue_alloc_pgtable(enum io_pgtable_fmt fmt, struct io_pgtable_cfg *cfg,
					  void *cookie)
{
	struct io_pgtable *table;

	if (fmt != APPLE_DART && fmt != APPLE_DART2)
		return NULL;
	table = io_pgtable_apple_dart_init_fns.alloc(cfg, cookie);
	if (!table)
		return NULL;
	table->fmt = fmt;
	table->cookie = cookie;
	table->cfg = *cfg;
	return &table->ops;
}

void glue_free_pgtable(struct io_pgtable_ops *ops)
{
	struct io_pgtable *table;

	if (!ops)
		return;
	table = io_pgtable_ops_to_pgtable(ops);
	io_pgtable_tlb_flush_all(table);
	io_pgtable_apple_dart_init_fns.free(table);
}
