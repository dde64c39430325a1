/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_rig - simulated DARTs with the real driver in front of them, and the physical memory that
 * both see: host pages get a physical address of their own when the driver first asks for one.
 *
 * A device's accesses go through the model, so a test learns what hardware would do with what the
 * driver wrote. Any thread may do DMA; all else is the test's one thread.
 */
#ifndef TESTS_DART_RIG_H
#define TESTS_DART_RIG_H

#include "iommu/tests/check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/dart_model.h"

#define RIG_PAGE      0x4000ull /* host pages are as large as a DART's */
#define RIG_PA	      0x800000000ull
#define RIG_MAX_PAGES 0x8000u
#define RIG_HASH      0x20000u
#define RIG_MAX_FREE  4096u

struct rig_mem {
	uint8_t *page[RIG_MAX_PAGES]; /* by physical page; written before nr says so */
	unsigned nr;
	uint32_t hash[RIG_HASH]; /* physical page + 1, by host page */
	void *free_table[RIG_MAX_FREE];
	unsigned nr_free;
	unsigned nr_tables;  /* handed out now */
	unsigned fail_table; /* n > 0: the nth table from now on cannot be had */
	bool fail_pa;	     /* pa_of refuses */
};

static inline uint64_t rig_pa(struct rig_mem *mem, const void *hva)
{
	uintptr_t base = (uintptr_t)hva & ~(uintptr_t)(RIG_PAGE - 1);
	uint32_t at =
		(uint32_t)((base / RIG_PAGE * UINT64_C(0x9e3779b97f4a7c15)) >> 40) & (RIG_HASH - 1);

	for (; mem->hash[at]; at = (at + 1) & (RIG_HASH - 1)) {
		if ((uintptr_t)mem->page[mem->hash[at] - 1] == base)
			break;
	}
	if (!mem->hash[at]) {
		assert_true(mem->nr < RIG_MAX_PAGES);
		__atomic_store_n(&mem->page[mem->nr], (uint8_t *)base, __ATOMIC_RELEASE);
		mem->hash[at] = ++mem->nr;
	}
	return RIG_PA + (mem->hash[at] - 1) * RIG_PAGE + ((uintptr_t)hva - base);
}

/* What the model reads and writes through; from any thread. */
static inline void *rig_at(void *ctx, uint64_t pa, size_t len)
{
	struct rig_mem *mem = ctx;
	uint64_t page = (pa - RIG_PA) / RIG_PAGE;
	uint8_t *hva;

	(void)len;
	if (pa < RIG_PA || page >= RIG_MAX_PAGES)
		return NULL;
	hva = __atomic_load_n(&mem->page[page], __ATOMIC_ACQUIRE);
	return hva ? hva + (pa - RIG_PA) % RIG_PAGE : NULL;
}

static inline int rig_pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	struct rig_mem *mem = ctx;
	uint64_t left = RIG_PAGE - ((uintptr_t)hva & (RIG_PAGE - 1));

	if (mem->fail_pa)
		return -EFAULT;
	*pa = rig_pa(mem, hva);
	*run = MIN(len, left);
	return 0;
}

static inline void *rig_table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	struct rig_mem *mem = ctx;
	void *table;

	if (mem->fail_table && !--mem->fail_table)
		return NULL;
	if (mem->nr_free)
		table = mem->free_table[--mem->nr_free];
	else
		table = aligned_alloc(RIG_PAGE, RIG_PAGE);
	assert_true(table && size <= RIG_PAGE);
	memset(table, 0, RIG_PAGE);
	mem->nr_tables++;
	*pa = rig_pa(mem, table);
	return table;
}

/* Who still walks a table that was given back finds valid entries that lead nowhere. */
static inline void rig_table_free(void *ctx, void *table, size_t size)
{
	struct rig_mem *mem = ctx;

	(void)size;
	memset(table, 0xa5, RIG_PAGE);
	assert_true(mem->nr_free < RIG_MAX_FREE);
	mem->free_table[mem->nr_free++] = table;
	mem->nr_tables--;
}

static inline void *rig_table_map(void *ctx, uint64_t pa, size_t size)
{
	return rig_at(ctx, pa, size);
}

struct rig_dart {
	struct rig_mem *mem;
	struct dart_model *model;
	struct dart *dart;
	struct instance *inst;
	/* called after the driver's write has reached the model, and before it reads */
	void (*on_write)(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value);
	/* called before the driver's write reaches the model */
	void (*before_write)(void *ctx, struct rig_dart *rig, uint32_t offset, uint32_t value);
	void (*on_read)(void *ctx, struct rig_dart *rig, uint32_t offset);
	void (*fault_to)(void *ctx, struct dart *dart, const struct dart_fault *fault);
	void *hook_ctx;
	/* the first faults reported, in order */
	struct dart_fault fault[64];
	unsigned nr_faults;
};

static inline uint32_t rig_read(void *ctx, uint32_t offset)
{
	struct rig_dart *rig = ctx;

	if (rig->on_read)
		rig->on_read(rig->hook_ctx, rig, offset);
	return dart_model_read(rig->model, offset);
}

static inline void rig_write(void *ctx, uint32_t offset, uint32_t value)
{
	struct rig_dart *rig = ctx;

	if (rig->before_write)
		rig->before_write(rig->hook_ctx, rig, offset, value);
	dart_model_write(rig->model, offset, value);
	if (rig->on_write)
		rig->on_write(rig->hook_ctx, rig, offset, value);
}

static inline uint64_t rig_now(void *ctx)
{
	struct timespec now;

	(void)ctx;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline void rig_table_free_ctx(void *ctx, void *table, size_t size)
{
	rig_table_free(((struct rig_dart *)ctx)->mem, table, size);
}

static inline void *rig_table_alloc_ctx(void *ctx, size_t size, uint64_t *pa)
{
	return rig_table_alloc(((struct rig_dart *)ctx)->mem, size, pa);
}

static inline void *rig_table_map_ctx(void *ctx, uint64_t pa, size_t size)
{
	return rig_table_map(((struct rig_dart *)ctx)->mem, pa, size);
}

static inline int rig_pa_of_ctx(void *ctx, const void *hva, uint64_t len, uint64_t *pa,
				uint64_t *run)
{
	return rig_pa_of(((struct rig_dart *)ctx)->mem, hva, len, pa, run);
}

static inline void rig_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	struct rig_dart *rig = ctx;

	if (rig->fault_to)
		rig->fault_to(rig->hook_ctx, dart, fault);
	if (rig->nr_faults < ARRAY_SIZE(rig->fault))
		rig->fault[rig->nr_faults] = *fault;
	rig->nr_faults++;
}

static const struct dart_host_ops rig_host_ops = {
	.read = rig_read,
	.write = rig_write,
	.now_ns = rig_now,
	.mem = {rig_table_alloc_ctx, rig_table_free_ctx, rig_table_map_ctx, rig_pa_of_ctx},
};

/* A DART of @kind with pages of 1 << @page_lg2, its driver ready; invalidations may take 50 ms. */
static inline void rig_dart_init(struct rig_dart *rig, struct rig_mem *mem,
				 enum dart_model_kind kind, unsigned page_lg2, unsigned va_width,
				 bool windows)
{
	static const enum dart_kind driver_kind[] = {
		[DART_MODEL_T8020] = DART_T8103,
		[DART_MODEL_T8103_USB4] = DART_T8103_USB4,
		[DART_MODEL_T6000] = DART_T6000,
		[DART_MODEL_T8110] = DART_T8110,
	};
	const struct dart_model_cfg model = {
		.kind = kind,
		.page_lg2 = page_lg2,
		.va_width = va_width,
		.pa_width = va_width,
		.tlb = true,
		.mem = rig_at,
		.mem_ctx = mem,
	};
	const struct dart_cfg cfg = {
		.kind = driver_kind[kind],
		.name = "dart",
		.host = &rig_host_ops,
		.host_ctx = rig,
		.invalidate_timeout_ns = 50000000,
		.windows = windows,
		.aperture = {0, UINT64_MAX},
		.fault = rig_fault,
		.fault_ctx = rig,
	};
	char error[256];

	memset(rig, 0, sizeof(*rig));
	rig->mem = mem;
	assert_int_equal(dart_model_create(&model, &rig->model), 0);
	if (dart_create(&cfg, &rig->dart, error, sizeof(error)))
		fail_msg("%s", error);
	rig->inst = dart_instance(rig->dart);
}

static inline void rig_dart_fini(struct rig_dart *rig)
{
	if (!rig->model)
		return;
	dart_destroy(rig->dart);
	dart_model_destroy(rig->model);
}

static inline void rig_mem_fini(struct rig_mem *mem)
{
	while (mem->nr_free)
		free(mem->free_table[--mem->nr_free]);
}

#endif
