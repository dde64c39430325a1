/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_model - a simulated DART: registers, table walker, TLB, fault latch, interrupt; a DMA port
 * for simulated devices. It knows only registers and memory, and shares no code with the driver but
 * the register names.
 *
 * What it is strict about, so that a forgotten step is a wrong answer: translations live in a TLB until they
 * are invalidated (or evicted at random, on request), "not mapped" is remembered too, table
 * entries are remembered like leaves, registers that are locked do not change, select masks matter.
 * Any thread may call anything; DMA of several threads runs at the same time, and an invalidation ends only
 * when accesses begun with what it removes have ended.
 */
#ifndef IOMMU_DART_MODEL_H
#define IOMMU_DART_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dart_model_kind {
	DART_MODEL_T8020, /* and t8103 */
	DART_MODEL_T8103_USB4,
	DART_MODEL_T6000,
	DART_MODEL_T8110,
};

struct dart_model_cfg {
	enum dart_model_kind kind;
	unsigned page_lg2;   /* 14, or 12 (T8020 only) */
	unsigned va_width;   /* T8110: 36 or 42, into PARAMS3; others: 32 is what drivers use, the table
				decodes as far as it reaches; 0: the kind's own */
	unsigned pa_width;   /* T8110: PARAMS3; 0: the kind's own */
	unsigned nr_streams; /* T8110: PARAMS4, up to 256; 0: the kind's own */
	bool bypass_support; /* PARAMS2 bit 0 */
	bool tlb;	     /* false: every access walks (a benchmark's choice) */
	/* Physical memory: @len bytes at @pa, writable; NULL: bus error. Ranges within one 4 KiB page. */
	void *(*mem)(void *ctx, uint64_t pa, size_t len);
	void *mem_ctx;
	void (*irq)(void *ctx, bool level); /* the line, on every change; may be NULL */
	void *irq_ctx;
};

/* What can be made to go wrong, at any time. */
struct dart_model_quirks {
	bool locked;		      /* TCR and TTBR do not take writes; CONFIG / PROTECT say so */
	bool invalidate_hangs;	      /* BUSY stays */
	uint64_t invalidate_delay_ns; /* BUSY for that long, by CLOCK_MONOTONIC */
	unsigned fail_invalidation;   /* n > 0: the nth from now hangs, once; then it is 0 again */
	unsigned evict_one_in;	      /* n > 0: each access first evicts a random entry with chance 1/n */
	uint64_t bus_error_pa, bus_error_len; /* table fetches there fail; len 0: nowhere */
	uint64_t seed;			      /* of what is random */
};

struct dart_model_stats {
	uint64_t accesses, tlb_hits, walks, faults, invalidations;
};

struct dart_model;

int dart_model_create(const struct dart_model_cfg *cfg, struct dart_model **out); /* 0; -EINVAL; -ENOMEM */
void dart_model_destroy(struct dart_model *model);

/* Registers, 32 bits, by offset from the DART's base. Unknown ones read as zero and ignore writes. */
uint32_t dart_model_read(struct dart_model *model, uint32_t offset);
void dart_model_write(struct dart_model *model, uint32_t offset, uint32_t value);

/**
 * dart_model_dma - a device's access on stream @sid
 *
 * Aligned 8-byte pieces are single-copy atomic. The access is done page by page; what came before
 * a fault has happened. @addr may lie above the IOVA width: upper bits are ignored, as hardware does.
 * Return: 0; -EFAULT: refused, the fault is latched (if none was) and the line is up.
 */
int dart_model_dma_read(struct dart_model *model, uint32_t sid, uint64_t addr, void *buf, size_t len);
int dart_model_dma_write(struct dart_model *model, uint32_t sid, uint64_t addr, const void *buf,
			 size_t len);

/**
 * dart_model_probe - where an access would go now, through TLB and tables, without leaving a trace:
 * no fault is latched and the TLB is as it was
 * Return: 0 with the physical address; -EFAULT.
 */
int dart_model_probe(struct dart_model *model, uint32_t sid, uint64_t addr, bool write, uint64_t *pa);

void dart_model_set_quirks(struct dart_model *model, const struct dart_model_quirks *quirks);
void dart_model_get_quirks(struct dart_model *model, struct dart_model_quirks *quirks);
/* dart_model_firmware - what ran before us: set a stream's TTBRs and TCR past any lock */
void dart_model_firmware(struct dart_model *model, uint32_t sid, const uint32_t ttbr[4], uint32_t tcr);
void dart_model_get_stats(struct dart_model *model, struct dart_model_stats *out);

#endif
