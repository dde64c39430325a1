/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_dart_model - a hostile driver and hostile devices against the simulated DART: any register,
 * any table, any access. Where the model has no TLB, dart_walk(), which shares no code with it,
 * must agree on where each access goes, whatever the tables hold.
 *
 * Files: iommu/dart_model.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>

#include "iommu/dart_fmt.h"
#include "iommu/dart_model.h"
#include "iommu/dart_regs.h"
#include "iommu/instance.h"

/* Physical memory: a few pages, in which tables and data lie at random. */
#define PA	 0x800000000ull
#define PAGES	 6
#define PAGE_LEN 0x4000ull
#define MEM_LEN	 (PAGES * PAGE_LEN)

#define MAX_OPS 300
#define MAX_DMA 96

static _Alignas(PAGE_LEN) uint8_t memory[MEM_LEN];

static struct bench {
	struct dart_model *model;
	struct dart_model_cfg cfg;
	struct dart_geometry geo;
	const struct dart_fmt *fmt;
	bool level; /* of the interrupt line */
	uint64_t irqs;
	bool slow, may_evict;
} b;

static void *mem(void *ctx, uint64_t pa, size_t len)
{
	(void)ctx;
	demand(len && len <= 0x1000 && pa % 0x1000 + len <= 0x1000);
	if (pa < PA || pa - PA >= MEM_LEN)
		return NULL;
	return memory + (pa - PA);
}

static void irq(void *ctx, bool level)
{
	(void)ctx;
	demand(level != b.level); /* changes only */
	b.level = level;
	b.irqs++;
}

static bool is_t8110(void)
{
	return b.cfg.kind == DART_MODEL_T8110;
}

static unsigned nr_streams(void)
{
	switch (b.cfg.kind) {
	case DART_MODEL_T8110:
		return b.cfg.nr_streams ? b.cfg.nr_streams : 16;
	case DART_MODEL_T8103_USB4:
		return DART_USB4_NR_STREAMS;
	default:
		return DART_V1_NR_STREAMS;
	}
}

/* ---- where an access goes, by the registers as they read and dart_walk() ------------------------
 */

static bool read_entry(void *ctx, uint64_t pa, uint64_t *entry)
{
	const uint8_t *at = mem(ctx, pa, 8);

	if (at)
		*entry = get_le64(at);
	return at;
}

static bool let_in(uint32_t sid)
{
	uint32_t at = is_t8110()			    ? DART_T8110_ENABLE_STREAMS(sid / 32)
		      : b.cfg.kind == DART_MODEL_T8103_USB4 ? DART_USB4_STREAMS_ENABLE(sid / 32)
							    : DART_V1_STREAMS_ENABLE;

	return sid < nr_streams() && dart_model_read(b.model, at) >> (sid % 32) & 1;
}

/* expected - 1: *pa is where; 0: refused; -1: this one is not judged */
static int expected(uint32_t sid, uint64_t addr, bool write, uint64_t *pa)
{
	uint32_t tcr, ttbr, page = 1u << b.geo.page_lg2, off = (uint32_t)(addr & (page - 1));
	struct dart_geometry geo = b.geo;
	uint64_t iova = addr & (BIT(geo.ias) - 1), top;
	struct dart_leaf leaf;
	unsigned level;

	if (!let_in(sid))
		return 0;
	if (is_t8110()) {
		tcr = dart_model_read(b.model, DART_T8110_TCR(sid));
		if (tcr & ~(uint32_t)(DART_T8110_TCR_TRANSLATE | DART_T8110_TCR_FOUR_LEVEL))
			return -1;
		if (!(tcr & DART_T8110_TCR_TRANSLATE))
			return 0;
		geo.levels = tcr & DART_T8110_TCR_FOUR_LEVEL ? 3 : 2;
		/* what three tables cannot reach is ignored, as all else above the IOVA */
		geo.ias = MIN(geo.ias, dart_level_lg2(&geo, geo.levels));
		iova &= BIT(geo.ias) - 1;
		ttbr = dart_model_read(b.model, DART_T8110_TTBR(sid));
		if (!(ttbr & DART_T8110_TTBR_VALID))
			return 0;
		top = FIELD_GET(DART_T8110_TTBR_ADDR_MASK, ttbr) << DART_T8110_TTBR_ADDR_LG2;
	} else {
		uint32_t i = dart_ttbr_index(&geo, iova);

		if (sid < 16 &&
		    FIELD_GET(DART_V1_STREAM_REMAP_BYTE_MASK(sid),
			      dart_model_read(b.model, DART_V1_STREAM_REMAP(sid / 4))) != sid)
			return -1;
		tcr = dart_model_read(b.model, DART_V1_TCR(sid));
		if (tcr & DART_V1_TCR_BYPASS_DART)
			return -1;
		if (!(tcr & DART_V1_TCR_TRANSLATE))
			return 0;
		ttbr = dart_model_read(b.model, b.cfg.kind == DART_MODEL_T8103_USB4
							? DART_USB4_TTBR(sid, i)
							: DART_V1_TTBR(sid, i));
		if (!(ttbr & DART_V1_TTBR_VALID))
			return 0;
		top = FIELD_GET(DART_V1_TTBR_ADDR_MASK, ttbr) << DART_V1_TTBR_ADDR_LG2;
		if (!IS_ALIGNED(top, page))
			return -1; /* nobody knows */
	}
	if (dart_walk(b.fmt, &geo, top, iova, read_entry, NULL, &leaf, &level))
		return 0;
	if (!(leaf.prot & (write ? PROT_DEV_WRITE : PROT_DEV_READ)))
		return 0;
	if (geo.page_lg2 == 12 && (leaf.first || leaf.last != 0xfff))
		return -1; /* nobody knows the unit */
	if (off < leaf.first || off > leaf.last)
		return 0;
	*pa = leaf.pa + off;
	return 1;
}

static void judge(uint32_t sid, uint64_t addr)
{
	for (unsigned write = 0; write < 2; write++) {
		uint64_t pa = 0, want_pa = 0;
		int ret = dart_model_probe(b.model, sid, addr, write, &pa);
		int want = expected(sid, addr, write, &want_pa);

		demand(ret == 0 || ret == -EFAULT);
		if (!b.cfg.tlb && want >= 0) {
			demand((ret == 0) == want);
			demand(!want || pa == want_pa);
		}
	}
}

/* ---- an input -----------------------------------------------------------------------------------
 */

static uint64_t take_addr(struct input *in)
{
	uint8_t how = take8(in);
	uint64_t page = how % 16, at = take16(in) % (1u << b.geo.page_lg2);
	uint64_t nr = dart_table_entries(&b.geo), low, high;

	if (how >= 0xf0)
		return take64(in);
	/* the first entries of a table, or the last, at both of the lower levels */
	low = how & 0x10 ? nr - 1 - page % 4 : page % 4;
	high = how & 0x20 ? nr - 1 - (page >> 2) : page >> 2;
	return low << b.geo.page_lg2 | high << dart_level_lg2(&b.geo, 1 + (how >> 6) % 2) | at;
}

static void take_entry(struct input *in)
{
	uint8_t how = take8(in), page = take8(in), index = take8(in);
	unsigned nr = dart_table_entries(&b.geo);
	uint64_t at = page % PAGES * PAGE_LEN, to = PA, pte;
	struct dart_geometry wide = b.geo;
	struct dart_leaf leaf = {.prot = 1 + (how >> 2) % 3, .last = (1u << b.geo.page_lg2) - 1};

	at += (index & 0x80 ? nr - 1 - index % 8 : index % 8u) * 8u;
	to += (how >> 4) % (PAGES + 1) * PAGE_LEN;
	wide.oas = b.fmt->oas;
	leaf.pa = to;
	switch (how % 4) {
	case 0:
		demand(!dart_table_pack(b.fmt, &wide, to, &pte));
		break;
	case 1:
		demand(!dart_leaf_pack(b.fmt, &wide, &leaf, &pte));
		break;
	case 2: /* a window */
		leaf.first = take16(in) % (leaf.last + 1) & ~3u;
		leaf.last = take16(in) % (leaf.last + 1);
		leaf.last = MAX(leaf.first, leaf.last) | 3;
		if (dart_leaf_pack(b.fmt, &wide, &leaf, &pte))
			return;
		break;
	default:
		pte = take64(in);
	}
	/* what was packed is what unpacks, and the other way round */
	if (how % 4 == 1 || how % 4 == 2) {
		struct dart_leaf back;

		demand(dart_leaf_unpack(b.fmt, &wide, pte, &back));
		demand(back.pa == leaf.pa && back.prot == leaf.prot && back.first == leaf.first &&
		       back.last == leaf.last);
	}
	put_le64(memory + at, pte);
}

static void set_context(struct input *in)
{
	uint8_t how = take8(in), sid = take8(in) % 4, page = take8(in) % PAGES;
	uint64_t pa = PA + page * PAGE_LEN;
	uint32_t ttbr[4] = {0}, tcr;

	if (is_t8110()) {
		tcr = DART_T8110_TCR_TRANSLATE | (how & 1 ? DART_T8110_TCR_FOUR_LEVEL : 0);
		ttbr[0] = (uint32_t)FIELD_PREP(DART_T8110_TTBR_ADDR_MASK,
					       pa >> DART_T8110_TTBR_ADDR_LG2) |
			  DART_T8110_TTBR_VALID;
		dart_model_write(b.model, DART_T8110_TTBR(sid), ttbr[0]);
		dart_model_write(b.model, DART_T8110_TCR(sid), tcr);
	} else {
		tcr = DART_V1_TCR_TRANSLATE;
		ttbr[how % 4] = (uint32_t)(pa >> DART_V1_TTBR_ADDR_LG2) | DART_V1_TTBR_VALID;
		dart_model_write(b.model,
				 b.cfg.kind == DART_MODEL_T8103_USB4 ? DART_USB4_TTBR(sid, how % 4)
								     : DART_V1_TTBR(sid, how % 4),
				 ttbr[how % 4]);
		dart_model_write(b.model, DART_V1_TCR(sid), tcr);
	}
	if (how & 0x80)
		dart_model_firmware(b.model, sid, ttbr, tcr);
}

static void invalidate(struct input *in)
{
	uint32_t sid = take8(in);

	if (is_t8110()) {
		dart_model_write(b.model, DART_T8110_TLB_CMD,
				 sid & 0x80 ? 0
					    : (uint32_t)FIELD_PREP(DART_T8110_TLB_CMD_OP_MASK, 1) |
						      sid % 16);
	} else {
		dart_model_write(b.model, DART_V1_STREAM_SELECT(0),
				 sid & 0x80 ? UINT32_MAX : 1u << sid % 16);
		dart_model_write(b.model, DART_V1_STREAM_COMMAND,
				 DART_V1_STREAM_COMMAND_INVALIDATE);
	}
}

static void dma(struct input *in)
{
	uint8_t how = take8(in), buf[MAX_DMA], was[MAX_DMA];
	uint64_t addr = take_addr(in), pa;
	size_t len = how & 0x40 ? take8(in) % MAX_DMA + 1 : 1;
	uint32_t sid = how % 5 == 4 ? nr_streams() + how % 3 : how % 5;
	bool write = how & 0x80, steady = len == 1 && !b.may_evict && !b.slow;
	int may = -1, ret;

	judge(sid, addr);
	if (steady)
		may = dart_model_probe(b.model, sid, addr, write, &pa);
	memset(buf, 0xa5, sizeof(buf));
	memcpy(was, buf, sizeof(was));
	ret = write ? dart_model_dma_write(b.model, sid, addr, buf, len)
		    : dart_model_dma_read(b.model, sid, addr, buf, len);
	demand(ret == 0 || ret == -EFAULT);
	if (write)
		demand(!memcmp(buf, was, sizeof(buf)));
	else
		demand(!memcmp(buf + len, was + len, sizeof(buf) - len));
	if (steady && !may && mem(NULL, pa, 1)) {
		demand(!ret);
		demand(write ? *(uint8_t *)mem(NULL, pa, 1) == 0xa5
			     : *(uint8_t *)mem(NULL, pa, 1) == buf[0]);
	}
	if (steady && may)
		demand(ret);
}

static uint32_t error_word(void)
{
	return dart_model_read(b.model, is_t8110() ? DART_T8110_ERROR : DART_V1_ERROR);
}

static void step(struct input *in)
{
	struct dart_model_quirks quirks;
	uint8_t how;

	switch (take8(in) % 16) {
	case 0:
	case 1:
	case 2:
	case 3:
		take_entry(in);
		break;
	case 4:
		set_context(in);
		break;
	case 5:
	case 6:
	case 7:
	case 8:
		dma(in);
		break;
	case 9:
		invalidate(in);
		break;
	case 10: /* any register; beyond the window too */
	case 11:
		how = take8(in);
		if (how & 1)
			dart_model_write(b.model, take16(in) % 0x5000u & ~3u, take32(in));
		else
			(void)dart_model_read(b.model,
					      take16(in) % 0x5000u & (how & 2 ? ~0u : ~3u));
		break;
	case 12:
		how = take8(in);
		quirks = (struct dart_model_quirks){
			.locked = how & 1,
			.ttbr_read_only = how & 2,
			.invalidate_hangs = how & 4,
			.fail_invalidation = how & 8 ? take8(in) % 3 : 0,
			.invalidate_delay_ns = how & 0x10 ? 200 : 0,
			.evict_one_in = how & 0x20 ? 1 + take8(in) % 4 : 0,
			.bus_error_pa = PA + take8(in) % PAGES * PAGE_LEN,
			.bus_error_len = how & 0x40 ? PAGE_LEN : 0,
			.seed = how,
		};
		/* dart_walk() knows nothing of bus errors */
		if (!b.cfg.tlb)
			quirks.bus_error_len = 0;
		b.may_evict |= quirks.evict_one_in != 0;
		b.slow |= quirks.invalidate_delay_ns != 0;
		dart_model_set_quirks(b.model, &quirks);
		break;
	case 13: /* what is latched is cleared, and the line falls */
		dart_model_write(b.model, is_t8110() ? DART_T8110_ERROR : DART_V1_ERROR,
				 error_word());
		for (unsigned i = 0; is_t8110() && i < DART_T8110_STREAM_WORDS; i++)
			dart_model_write(b.model, DART_T8110_ERROR_STREAMS(i), UINT32_MAX);
		demand(!b.level);
		break;
	case 14:
		how = take8(in);
		if (is_t8110())
			dart_model_write(b.model,
					 (how & 4 ? DART_T8110_DISABLE_STREAMS(0)
						  : DART_T8110_ENABLE_STREAMS(0)),
					 take32(in));
		else
			dart_model_write(b.model, DART_V1_STREAMS_ENABLE, take32(in));
		break;
	case 15: /* the bytes of a page */
		how = take8(in);
		take(in, memory + how % PAGES * PAGE_LEN + (how >> 4) * 8, take8(in) % 64);
		break;
	}
	if (b.level)
		demand(error_word() & DART_V1_ERROR_FLAG); /* bit 31 in both layouts */
	judge(take8(in) % 5, take_addr(in));
}

static bool create(struct input *in)
{
	static const unsigned va_widths[] = {0, 32, 36, 42}, pa_widths[] = {0, 36, 42, 0};
	uint8_t how = take8(in);

	b.cfg = (struct dart_model_cfg){
		.kind = how % 4,
		.page_lg2 = 14,
		.bypass_support = how & 4,
		.tlb = how & 8,
		.mem = mem,
		.irq = irq,
	};
	if (b.cfg.kind == DART_MODEL_T8020 && how & 0x10)
		b.cfg.page_lg2 = 12;
	if (how & 0x80) { /* any at all: few exist */
		b.cfg.page_lg2 = take8(in) % 17;
		b.cfg.va_width = take8(in) % 70;
		b.cfg.pa_width = take8(in) % 70;
		b.cfg.nr_streams = take16(in) % 300;
	} else if (is_t8110()) {
		b.cfg.va_width = va_widths[(how >> 4) % 4];
		b.cfg.pa_width = pa_widths[(how >> 4) % 4];
		b.cfg.nr_streams = how & 0x40 ? 256 : 0;
	}
	if (dart_model_create(&b.cfg, &b.model)) {
		demand(how & 0x80);
		return false;
	}
	b.fmt = b.cfg.kind == DART_MODEL_T8020 || b.cfg.kind == DART_MODEL_T8103_USB4 ? &dart_fmt_1
										      : &dart_fmt_2;
	b.geo.page_lg2 = b.cfg.page_lg2;
	b.geo.levels = 2;
	b.geo.nr_ttbrs = is_t8110() ? 1 : 4;
	b.geo.oas = b.fmt->oas;
	if (is_t8110())
		b.geo.ias = b.cfg.va_width ? b.cfg.va_width : 36;
	else
		b.geo.ias = b.cfg.va_width ? b.cfg.va_width : b.cfg.page_lg2 == 14 ? 38 : 32;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	memset(&b, 0, sizeof(b));
	memset(memory, 0, sizeof(memory));
	if (!create(&in))
		return 0;
	/* as any driver begins */
	for (unsigned i = 0; i < 2; i++)
		dart_model_write(b.model,
				 is_t8110() ? DART_T8110_ENABLE_STREAMS(i)
					    : DART_USB4_STREAMS_ENABLE(i),
				 UINT32_MAX);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	dart_model_destroy(b.model);
	return 0;
}
