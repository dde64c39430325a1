/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_model - a simulated DART: registers, table walker, TLB, fault latch, interrupt; a DMA port
 * for simulated devices. It knows only registers and memory, and shares no code with the driver but
 * the register names.
 *
 * What it is strict about, so that a forgotten step is a wrong answer: translations live in a TLB
 * until they are invalidated (or evicted: it is small, and at random on request), "not mapped" is
 * remembered too, table entries are remembered like leaves, an invalidation is of the contexts it
 * names and no others, registers that are locked do not change, no stream is let in after reset.
 * Where the hardware is not known the model takes the choice that forgives least; docs/dart.md,
 * "Model", lists these.
 *
 * Any thread may call anything but destroy; DMA of several threads runs at the same time, and an
 * invalidation ends only when accesses begun with what it removes have ended.
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
	unsigned page_lg2; /* 14, or 12 (T8020 only) */
	/*
	 * T8110: PARAMS3, 32 to 47 (36 and 42 exist); 0: 36. Others: IOVA bits above it are
	 * ignored; 0: as far as four tables reach, 38 (with 4 KiB pages 32).
	 */
	unsigned va_width;
	unsigned pa_width;   /* T8110: PARAMS3, 32 to 42; 0: 36, with wider IOVAs 42. Others: 0 */
	unsigned nr_streams; /* T8110: PARAMS4, up to 256; 0: 16. Others: 0, or what it has */
	bool bypass_support; /* PARAMS2 bit 0 */
	bool tlb;	     /* false: every access walks (a benchmark's choice) */
	/*
	 * Physical memory: @len bytes at @pa, writable, aligned as @pa is; NULL: bus error. Ranges
	 * within one 4 KiB page. Called from any thread, sometimes with the model's lock held: it
	 * may not call the model.
	 */
	void *(*mem)(void *ctx, uint64_t pa, size_t len);
	void *mem_ctx;
	/*
	 * The line, on every change, in order, with no lock held: it may call the model. May be
	 * NULL. One thread at a time is in it, so a change made by one thread may be told by
	 * another.
	 */
	void (*irq)(void *ctx, bool level);
	void *irq_ctx;
};

/* What can be made to go wrong, at any time. */
struct dart_model_quirks {
	bool locked;	       /* TCR and TTBR do not take writes; CONFIG / PROTECT say so */
	bool ttbr_read_only;   /* TTBRs do not take writes, and nothing says so */
	bool invalidate_hangs; /* BUSY stays, what was to go stays: see dart_model_set_quirks() */
	unsigned fail_invalidation; /* n > 0: the nth command from now hangs; then it is 0 again */
	uint64_t invalidate_delay_ns; /* BUSY for so long, of CLOCK_MONOTONIC; entries then go */
	unsigned evict_one_in; /* n > 0: each access first evicts a random entry with chance 1/n */
	uint64_t bus_error_pa, bus_error_len; /* table fetches there fail; len 0: nowhere */
	uint64_t seed;			      /* of what is random */
};

struct dart_model_stats {
	uint64_t accesses;	/* pages, or parts of one, that an access touched */
	uint64_t tlb_hits;	/* of these, found in the TLB, also as not mapped */
	uint64_t walks;		/* of these, looked up in tables or remembered table entries */
	uint64_t faults;	/* refused, latched or not */
	uint64_t invalidations; /* commands that ended */
};

struct dart_model;

/* dart_model_create - a DART as after reset. Return: 0; -EINVAL no such DART exists; -ENOMEM. */
int dart_model_create(const struct dart_model_cfg *cfg, struct dart_model **out);
/* dart_model_destroy - nobody is in the model, or will come. The line is left as it is. */
void dart_model_destroy(struct dart_model *model);

/*
 * Registers, 32 bits, by offset from the DART's base. Unknown ones read as zero and ignore writes.
 * A command written while BUSY is lost, except that it takes the place of one that hangs.
 */
uint32_t dart_model_read(struct dart_model *model, uint32_t offset);
void dart_model_write(struct dart_model *model, uint32_t offset, uint32_t value);

/**
 * dart_model_dma_read, dart_model_dma_write - a device's access on stream @sid
 *
 * Aligned pieces of 8 bytes (of 4 and 2 at the ends) are single-copy atomic, and in order: lowest
 * address first, and after those of accesses that returned before.
 * Every byte before the one that faults, whose address is latched, has been copied; none from there
 * on. @addr may lie above the IOVA width: upper bits are ignored, as hardware does.
 *
 * Return: 0; -EFAULT: refused, the fault is latched (if none was) and the line is up.
 */
int dart_model_dma_read(struct dart_model *model, uint32_t sid, uint64_t addr, void *buf,
			size_t len);
int dart_model_dma_write(struct dart_model *model, uint32_t sid, uint64_t addr, const void *buf,
			 size_t len);

/*
 * dart_model_draining - is an invalidation busy with nothing any more but waiting for accesses that
 * have translated? Hardware is done with these in no time; a thread that makes one may be
 * scheduled away.
 */
bool dart_model_draining(struct dart_model *model);

/**
 * dart_model_probe - where an access to the byte at @addr would go now, through TLB and tables,
 * without leaving a trace: no fault is latched, nothing is counted and the TLB is as it was
 * Return: 0 with the physical address, where memory need not be; -EFAULT.
 */
int dart_model_probe(struct dart_model *model, uint32_t sid, uint64_t addr, bool write,
		     uint64_t *pa);

/*
 * dart_model_set_quirks - from now on. An invalidation that hangs goes on, unless @quirks still say
 * invalidate_hangs: it then ends as one that was slow.
 */
void dart_model_set_quirks(struct dart_model *model, const struct dart_model_quirks *quirks);
void dart_model_get_quirks(struct dart_model *model, struct dart_model_quirks *quirks);
/* dart_model_firmware - what ran before us: TTBRs and TCR of a stream past any lock; it is let in
 */
void dart_model_firmware(struct dart_model *model, uint32_t sid, const uint32_t ttbr[4],
			 uint32_t tcr);
void dart_model_get_stats(struct dart_model *model, struct dart_model_stats *out);

#endif
