/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle_rig - the real DART driver on a simulated DART, and the physical memory that both look at.
 *
 * Memory is in blocks of 16 KiB. A block gets its physical address when somebody first asks for it
 * (pa_of), and neighbours in host memory are never neighbours there, so that nobody gets away with
 * taking the one for the other. Tables live in blocks of their own, which are no memory any more
 * once they are freed: a walk that still goes there is a bus error.
 *
 * rig->event is called at the moments in which the driver touches a register or asks for memory, no
 * lock of the model held: a test lets devices and CPU do something then, in the middle of a
 * request.
 *
 * Any thread may look a physical address up; adding blocks takes a lock.
 */
#ifndef TESTS_ORACLE_RIG_H
#define TESTS_ORACLE_RIG_H

#include "iommu/tests/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/dart_model.h"

#define RIG_BLOCK     0x4000ull
#define RIG_NR_BLOCKS 2048u
#define RIG_NR_HASH   4096u
/* Where the memory of these machines begins; below 2^36, as the narrowest DART needs it. */
#define RIG_PA	      0x800000000ull

struct rig_mem {
	pthread_mutex_t lock;
	_Atomic(uint8_t *) block[RIG_NR_BLOCKS]; /* by physical address */
	uint16_t hash[RIG_NR_HASH];		 /* by host address: number + 1 */
	unsigned nr;				 /* numbers ever used */
	unsigned nr_free;
	uint16_t free[RIG_NR_BLOCKS];
	unsigned tables;     /* live */
	unsigned fail_table; /* 1: the next table_alloc() fails, 2: the one after, ...; 0: none */
	void (*event)(void *ctx);
	void *event_ctx;
};

struct dart_rig {
	struct rig_mem *mem;
	struct dart_model *model;
	struct dart *dart;
	struct instance *inst;
	atomic_ullong now; /* ns; each look at the clock takes some time */
	void (*on_fault)(struct dart_rig *rig, const struct dart_fault *fault);
	void *on_fault_ctx;
};

static inline void rig_mem_init(struct rig_mem *mem)
{
	memset(mem, 0, sizeof(*mem));
	pthread_mutex_init(&mem->lock, NULL);
}

static inline void rig_event(struct rig_mem *mem)
{
	if (mem->event)
		mem->event(mem->event_ctx);
}

/* The block with number @n lies here: a bijection that scatters neighbours. */
static inline uint64_t rig_block_pa(unsigned n)
{
	return RIG_PA + (n * 1025u + 7) % RIG_NR_BLOCKS * RIG_BLOCK;
}

static inline unsigned rig_hash_of(const uint8_t *block)
{
	return (unsigned)(((uintptr_t)block / RIG_BLOCK * UINT64_C(0x9e3779b97f4a7c15)) >> 40) %
	       RIG_NR_HASH;
}

static inline uint8_t *rig_block_of(const void *hva)
{
	return (uint8_t *)ALIGN_DOWN((uintptr_t)hva, RIG_BLOCK);
}

static inline unsigned rig_take_number(struct rig_mem *mem, uint8_t *block)
{
	unsigned n = mem->nr_free ? mem->free[--mem->nr_free] : mem->nr++;

	assert_true(n < RIG_NR_BLOCKS);
	mem->block[(rig_block_pa(n) - RIG_PA) / RIG_BLOCK] = block;
	return n;
}

/* Where a host address is, which becomes memory if it was none. */
static inline uint64_t rig_pa(struct rig_mem *mem, const void *hva)
{
	uint8_t *block = rig_block_of(hva);
	uint64_t pa = 0;
	unsigned i;

	pthread_mutex_lock(&mem->lock);
	for (i = rig_hash_of(block); mem->hash[i]; i = (i + 1) % RIG_NR_HASH) {
		pa = rig_block_pa(mem->hash[i] - 1u);
		if (mem->block[(pa - RIG_PA) / RIG_BLOCK] == block)
			break;
	}
	if (!mem->hash[i]) {
		mem->hash[i] = (uint16_t)(rig_take_number(mem, block) + 1);
		pa = rig_block_pa(mem->hash[i] - 1u);
	}
	pthread_mutex_unlock(&mem->lock);
	return pa + (uint64_t)((const uint8_t *)hva - block);
}

/* The host address of a physical one; NULL: nothing is there. */
static inline uint8_t *rig_hva(struct rig_mem *mem, uint64_t pa)
{
	uint8_t *block;

	if (pa < RIG_PA || pa >= RIG_PA + RIG_NR_BLOCKS * RIG_BLOCK)
		return NULL;
	block = atomic_load_explicit(&mem->block[(pa - RIG_PA) / RIG_BLOCK], memory_order_acquire);
	return block ? block + pa % RIG_BLOCK : NULL;
}

static inline void *rig_model_mem(void *ctx, uint64_t pa, size_t len)
{
	(void)len;
	return rig_hva(ctx, pa);
}

/* ---- what the driver runs on ---- */

static inline uint32_t rig_read(void *ctx, uint32_t offset)
{
	struct dart_rig *rig = ctx;

	return dart_model_read(rig->model, offset);
}

static inline void rig_write(void *ctx, uint32_t offset, uint32_t value)
{
	struct dart_rig *rig = ctx;

	rig_event(rig->mem);
	dart_model_write(rig->model, offset, value);
}

static inline uint64_t rig_now(void *ctx)
{
	struct dart_rig *rig = ctx;

	return atomic_fetch_add(&rig->now, 10000);
}

static inline void rig_relax(void *ctx)
{
	(void)ctx;
	sched_yield();
}

/* A table, and behind it the number of its block. */
static inline void *rig_table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	struct rig_mem *mem = ((struct dart_rig *)ctx)->mem;
	uint8_t *table;
	unsigned n;

	rig_event(mem);
	if (mem->fail_table && !--mem->fail_table)
		return NULL;
	assert_true(size <= RIG_BLOCK);
	table = aligned_alloc(RIG_BLOCK, 2 * RIG_BLOCK);
	assert_non_null(table);
	memset(table, 0, size);
	pthread_mutex_lock(&mem->lock);
	n = rig_take_number(mem, table);
	mem->tables++;
	pthread_mutex_unlock(&mem->lock);
	memcpy(table + RIG_BLOCK, &n, sizeof(n));
	*pa = rig_block_pa(n);
	return table;
}

static inline void rig_table_free(void *ctx, void *table, size_t size)
{
	struct rig_mem *mem = ((struct dart_rig *)ctx)->mem;
	unsigned n;

	memcpy(&n, (uint8_t *)table + RIG_BLOCK, sizeof(n));
	pthread_mutex_lock(&mem->lock);
	assert_ptr_equal(mem->block[(rig_block_pa(n) - RIG_PA) / RIG_BLOCK], table);
	mem->block[(rig_block_pa(n) - RIG_PA) / RIG_BLOCK] = NULL;
	mem->free[mem->nr_free++] = (uint16_t)n;
	mem->tables--;
	pthread_mutex_unlock(&mem->lock);
	/* Who still writes entries there is found out; who still walks it finds no memory. */
	memset(table, 0xa5, size);
	free(table);
}

static inline void *rig_table_map(void *ctx, uint64_t pa, size_t size)
{
	(void)size;
	return rig_hva(((struct dart_rig *)ctx)->mem, pa);
}

static inline int rig_pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	struct rig_mem *mem = ((struct dart_rig *)ctx)->mem;

	rig_event(mem);
	*pa = rig_pa(mem, hva);
	*run = MIN(len, RIG_BLOCK - (uintptr_t)hva % RIG_BLOCK);
	return 0;
}

static const struct dart_host_ops rig_host_ops = {
	.read = rig_read,
	.write = rig_write,
	.now_ns = rig_now,
	.relax = rig_relax,
	.mem =
		{
			.table_alloc = rig_table_alloc,
			.table_free = rig_table_free,
			.table_map = rig_table_map,
			.pa_of = rig_pa_of,
		},
};

static inline void rig_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	struct dart_rig *rig = ctx;

	(void)dart;
	if (rig->on_fault)
		rig->on_fault(rig, fault);
}

/* What differs from one rig to another. */
struct dart_rig_cfg {
	enum dart_kind kind;
	unsigned page_lg2; /* 14; 12 with DART_T8103 */
	unsigned va_width; /* DART_T8110: 36 or 42; others: 0 */
	bool windows;
	const struct dart_region *direct; /* may be NULL */
	unsigned nr_direct;
	uint64_t max_table_bytes; /* per table; 0: no bound */
	uint64_t timeout_ns;	  /* of an invalidation; 0: a hundred looks at the clock */
};

/* @rig has its mem; its on_fault may be set later. */
static inline void rig_create(struct dart_rig *rig, const struct dart_rig_cfg *cfg)
{
	static const enum dart_model_kind kinds[] = {
		[DART_T8103] = DART_MODEL_T8020,
		[DART_T8103_USB4] = DART_MODEL_T8103_USB4,
		[DART_T6000] = DART_MODEL_T6000,
		[DART_T8110] = DART_MODEL_T8110,
	};
	const struct dart_model_cfg model = {
		.kind = kinds[cfg->kind],
		.page_lg2 = cfg->page_lg2,
		.va_width = cfg->va_width,
		.tlb = true,
		.mem = rig_model_mem,
		.mem_ctx = rig->mem,
	};
	const struct dart_cfg dart = {
		.kind = cfg->kind,
		.name = "rig",
		.host = &rig_host_ops,
		.host_ctx = rig,
		.invalidate_timeout_ns = cfg->timeout_ns ? cfg->timeout_ns : 1000000,
		.windows = cfg->windows,
		.aperture = {0, UINT64_MAX},
		.direct = cfg->direct,
		.nr_direct = cfg->nr_direct,
		.max_table_bytes = cfg->max_table_bytes,
		.fault = rig_fault,
		.fault_ctx = rig,
	};
	char error[200] = "";

	assert_int_equal(dart_model_create(&model, &rig->model), 0);
	if (dart_create(&dart, &rig->dart, error, sizeof(error)))
		fail_msg("%s", error);
	rig->inst = dart_instance(rig->dart);
}

static inline void rig_destroy(struct dart_rig *rig)
{
	dart_destroy(rig->dart);
	dart_model_destroy(rig->model);
	rig->dart = NULL;
	rig->model = NULL;
}

#endif
