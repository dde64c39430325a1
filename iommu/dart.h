/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart - the DART driver: an instance that programs the registers of one DART, and page tables
 * (dart_pt) in memory that it shares with other DARTs of the same kind.
 *
 * It reaches hardware only through dart_host_ops, so that a hypervisor, a test or the model can
 * stand behind them. The mediator's lock serialises everything but dart_irq(), which any thread may
 * call at any time.
 *
 * The streams of its instance are contexts: a TCR and its TTBRs. On layout v1 STREAM_REMAP says
 * which context a requester's stream id uses, by firmware's choice and nearly always its own; name
 * dart_remap(sid) to the mediator, then it knows which requesters cannot be told apart.
 *
 * A DART that firmware locked, or whose TTBRs turn out to be read-only, keeps its registers: each
 * stream that translates has one shadow, the firmware's table, filled in where firmware left it
 * empty. To block such a stream is to take that out again; what firmware mapped stays, and is no
 * part of the apertures. Streams that firmware left blocked stay so, and have no shadow.
 *
 * Source: Linux drivers/iommu/apple-dart.c, m1n1 src/dart.c, OpenBSD apldart.c (docs/dart.md).
 */
#ifndef IOMMU_DART_H
#define IOMMU_DART_H

#include "iommu/dart_pt.h"
#include "iommu/faultlog.h"
#include "iommu/instance.h"

/* Generations, by the register layout and format. */
enum dart_kind {
	DART_T8103,	 /* also t8020: layout v1, DART1 */
	DART_T8103_USB4, /* layout v1 with 64 streams, TTBRs at 0x400 */
	DART_T6000,	 /* layout v1, DART2 */
	DART_T8110,	 /* its own layout, DART2, three or four levels */
};

struct dart_host_ops {
	uint32_t (*read)(void *ctx, uint32_t offset);
	void (*write)(void *ctx, uint32_t offset, uint32_t value);
	uint64_t (*now_ns)(void *ctx); /* monotonic */
	void (*relax)(void *ctx);      /* between two polls of a busy bit; may be NULL */
	struct dart_mem_ops mem;
};

/* One latched fault. */
struct dart_fault {
	uint32_t sid; /* as instance stream; of t8103-usb4 the register has only bits 3:0 */
	uint64_t iova;
	enum fault_reason reason;
	unsigned flags; /* FAULT_READ / FAULT_WRITE as far as known, FAULT_ADDRESS */
	uint32_t raw;	/* the ERROR register as read */
	bool more;	/* further faults were not latched */
};

struct dart;

struct dart_cfg {
	enum dart_kind kind;
	const char *name; /* for messages; outlives the dart */
	const struct dart_host_ops *host;
	void *host_ctx;
	uint64_t invalidate_timeout_ns; /* 0: 100 ms */
	bool windows; /* bound pages by SUBPAGE_START/END; no shipped software ever wrote a
			 restrictive END, so only after it was tried on that very hardware */
	struct iova_range
		aperture; /* what may be used of its IOVA space, inclusive; all: {0, UINT64_MAX} */
	const struct dart_region *direct; /* reserved direct regions of every stream; copied */
	unsigned nr_direct;
	uint64_t max_table_bytes; /* per table; 0: no bound */
	/* From within dart_irq(), no lock held; may be NULL. */
	void (*fault)(void *ctx, struct dart *dart, const struct dart_fault *fault);
	void *fault_ctx;
};

/**
 * dart_create - probe a DART, stop all its streams (unless it is locked) and make it ready
 * @error: one line, without newline: what is wrong, the value, what to do
 * Return: 0; -ENODEV no such DART behind the registers (page size, widths or streams that none
 * has); -EIO a stream cannot be stopped; -ETIMEDOUT the first invalidation does not end; -ENOMEM;
 *         -EINVAL a bad region or aperture.
 */
int dart_create(const struct dart_cfg *cfg, struct dart **out, char *error, size_t error_len);
/* dart_destroy - block all streams (unless locked) and free it; NULL is fine. No shadow of its is
 * in use, and those adopted are destroyed. */
void dart_destroy(struct dart *dart);

struct instance *dart_instance(struct dart *dart);
/* dart_is_locked - TCR and TTBR are frozen: tables are adopted, not made */
bool dart_is_locked(const struct dart *dart);
/* dart_can_bypass - PARAMS2 says streams could be let through untranslated (this driver never does)
 */
bool dart_can_bypass(const struct dart *dart);
/* dart_of - NULL: it is no DART's */
struct dart *dart_of(struct instance *inst);
/* dart_remap - the context that @sid uses by STREAM_REMAP (v1 layout): itself if not remapped */
uint32_t dart_remap(const struct dart *dart, uint32_t sid);

/**
 * dart_irq - the interrupt line is up: report and clear what is latched, call cfg.fault for it
 * Return: true if this DART had something latched (lines are shared).
 */
bool dart_irq(struct dart *dart);

/* dart_decode_error - what a raw ERROR word says; false: no fault is flagged. @iova as read from
 * ERROR_ADDR. */
bool dart_decode_error(enum dart_kind kind, uint32_t raw, uint64_t iova, struct dart_fault *out);

/* dart_dump - a readable line for the DART and one per stream that is not all zero: TCR, TTBRs,
 * what it walks; for logs */
void dart_dump(struct dart *dart, void (*line)(void *ctx, const char *text), void *ctx);

#endif
