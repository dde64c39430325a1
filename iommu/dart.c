/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/dart.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/dart_regs.h"

#define DEFAULT_TIMEOUT_NS UINT64_C(100000000) /* what the most patient of the drivers waits */
/* From here on one flush of everything is cheaper than a command for each stream (t8110). */
#define MAX_SINGLE_FLUSHES 6
#define MAX_REMAPPED	   64 /* streams of the largest DART with STREAM_REMAP */

/* ---- generations ---- */

/* How ERROR is laid out. Causes are looked at bit by bit: several may be set, some have no name. */
struct error_layout {
	uint32_t flag, stream, secondary;
	uint32_t mapping;	/* causes that say: not mapped, or not with these rights */
	uint32_t read, write;	/* any of these: it was a read, a write */
	bool read_unless_write; /* there is a direction bit to rely on: no write is a read */
};

/* All that differs from one generation to the next. Register 0 stands for: has none. */
struct layout {
	const char *name;
	const struct dart_fmt *fmt;
	unsigned nr_streams;  /* 0: PARAMS4 says */
	unsigned ias;	      /* bits of IOVA that drivers use; 0: PARAMS3 says, OAS too */
	unsigned nr_ttbrs;    /* per stream */
	unsigned remap_words; /* of STREAM_REMAP */

	uint32_t lock, lock_bit;
	uint32_t enable, enable_words;
	uint32_t tcr, tcr_translate, tcr_four_level, tcr_bypass; /* tcr_bypass 0: not known */
	uint32_t tcr_mode; /* all bits that decide what happens to an access */
	uint32_t ttbr, ttbr_stride, ttbr_valid, ttbr_addr, ttbr_addr_lg2;

	uint32_t command, command_busy;
	unsigned select_words;
	/* Issue one command for (some of) what is pending, and take that off it. */
	void (*invalidate)(struct dart *dart);

	uint32_t error, error_addr_lo, error_addr_hi, error_mask;
	uint32_t error_streams, error_streams_words;
	struct error_layout bits;
};

static void invalidate_selected(struct dart *dart);
static void invalidate_named(struct dart *dart);

/* clang-format off */
#define V1_COMMON                                                                                  \
	.nr_ttbrs = DART_V1_NR_TTBRS, .ias = 32, .remap_words = DART_V1_STREAM_REMAP_WORDS,        \
	.lock = DART_V1_CONFIG, .lock_bit = DART_V1_CONFIG_LOCK,                                   \
	.tcr = DART_V1_TCR(0), .tcr_translate = DART_V1_TCR_TRANSLATE,                             \
	.tcr_mode = DART_V1_TCR_TRANSLATE | DART_V1_TCR_BYPASS_DART | DART_V1_TCR_BYPASS_DAPF,     \
	.ttbr_stride = DART_V1_TTBR(1, 0) - DART_V1_TTBR(0, 0),                                    \
	.ttbr_valid = DART_V1_TTBR_VALID, .ttbr_addr = DART_V1_TTBR_ADDR_MASK,                     \
	.ttbr_addr_lg2 = DART_V1_TTBR_ADDR_LG2,                                                    \
	.command = DART_V1_STREAM_COMMAND, .command_busy = DART_V1_STREAM_COMMAND_BUSY,            \
	.invalidate = invalidate_selected,                                                         \
	.error = DART_V1_ERROR, .error_addr_lo = DART_V1_ERROR_ADDR_LO,                            \
	.error_addr_hi = DART_V1_ERROR_ADDR_HI,                                                    \
	.bits = {                                                                                  \
		.flag = DART_V1_ERROR_FLAG, .stream = DART_V1_ERROR_STREAM_MASK,                   \
		.mapping = DART_V1_ERROR_NO_TTBR | DART_V1_ERROR_NO_PMD | DART_V1_ERROR_NO_PTE |   \
			   DART_V1_ERROR_WRITE_FAULT | DART_V1_ERROR_READ_FAULT |                  \
			   DART_V1_ERROR_SUBPAGE_PROT,                                             \
		.read = DART_V1_ERROR_READ_FAULT,                                                  \
		.write = DART_V1_ERROR_WRITE_FAULT | DART_V1_ERROR_WRITE |                         \
			 DART_V1_ERROR_CTRR_WRITE_PROT,                                            \
	}
/* clang-format on */

static const struct layout layouts[] = {
	[DART_T8103] =
		{
			.name = "t8103",
			.fmt = &dart_fmt_1,
			V1_COMMON,
			.nr_streams = DART_V1_NR_STREAMS,
			.select_words = 1,
			.ttbr = DART_V1_TTBR(0, 0),
			.enable = DART_V1_STREAMS_ENABLE,
			.enable_words = 1,
			.tcr_bypass = DART_V1_TCR_BYPASS_DART | DART_V1_TCR_BYPASS_DAPF,
		},
	[DART_T8103_USB4] =
		{
			.name = "t8103-usb4",
			.fmt = &dart_fmt_1,
			V1_COMMON,
			.nr_streams = DART_USB4_NR_STREAMS,
			.select_words = 2,
			.ttbr = DART_USB4_TTBR(0, 0),
			.enable = DART_USB4_STREAMS_ENABLE(0),
			.enable_words = 2,
		},
	[DART_T6000] =
		{
			.name = "t6000",
			.fmt = &dart_fmt_2,
			V1_COMMON,
			.nr_streams = DART_V1_NR_STREAMS,
			.select_words = 1,
			.ttbr = DART_V1_TTBR(0, 0),
			.enable = DART_V1_STREAMS_ENABLE,
			.enable_words = 1,
			.tcr_bypass = DART_V1_TCR_BYPASS_DART | DART_V1_TCR_BYPASS_DAPF,
		},
	[DART_T8110] =
		{
			.name = "t8110",
			.fmt = &dart_fmt_2,
			.nr_ttbrs = DART_T8110_NR_TTBRS,
			.lock = DART_T8110_PROTECT,
			.lock_bit = DART_T8110_PROTECT_TTBR_TCR,
			.enable = DART_T8110_ENABLE_STREAMS(0),
			.enable_words = DART_T8110_STREAM_WORDS,
			.tcr = DART_T8110_TCR(0),
			.tcr_translate = DART_T8110_TCR_TRANSLATE,
			.tcr_four_level = DART_T8110_TCR_FOUR_LEVEL,
			.tcr_bypass = DART_T8110_TCR_BYPASS_DART | DART_T8110_TCR_BYPASS_DAPF,
			.tcr_mode = DART_T8110_TCR_TRANSLATE | DART_T8110_TCR_BYPASS_DART |
				    DART_T8110_TCR_BYPASS_DAPF | DART_T8110_TCR_FOUR_LEVEL |
				    DART_T8110_TCR_REMAP_EN,
			.ttbr = DART_T8110_TTBR(0),
			.ttbr_stride = DART_T8110_TTBR(1) - DART_T8110_TTBR(0),
			.ttbr_valid = DART_T8110_TTBR_VALID,
			.ttbr_addr = DART_T8110_TTBR_ADDR_MASK,
			.ttbr_addr_lg2 = DART_T8110_TTBR_ADDR_LG2,
			.command = DART_T8110_TLB_CMD,
			.command_busy = DART_T8110_TLB_CMD_BUSY,
			.invalidate = invalidate_named,
			.error = DART_T8110_ERROR,
			.error_addr_lo = DART_T8110_ERROR_ADDR_LO,
			.error_addr_hi = DART_T8110_ERROR_ADDR_HI,
			.error_mask = DART_T8110_ERROR_MASK,
			.error_streams = DART_T8110_ERROR_STREAMS(0),
			.error_streams_words = DART_T8110_STREAM_WORDS,
			.bits =
				{
					.flag = DART_T8110_ERROR_FLAG,
					.stream = DART_T8110_ERROR_STREAM_MASK,
					.secondary = DART_T8110_ERROR_SECONDARY,
					.mapping =
						DART_T8110_ERROR_NO_TTBR | DART_T8110_ERROR_NO_PGD |
						DART_T8110_ERROR_NO_PMD | DART_T8110_ERROR_NO_PTE |
						DART_T8110_ERROR_WRITE_FAULT |
						DART_T8110_ERROR_READ_FAULT |
						DART_T8110_ERROR_REGION_PROTECT,
					.read = DART_T8110_ERROR_READ_FAULT,
					.write = DART_T8110_ERROR_WRITE_FAULT |
						 DART_T8110_ERROR_WRITE_NREAD |
						 DART_T8110_ERROR_CTRR_WRITE_PROT,
					.read_unless_write = true,
				},
		},
};

/* ---- state ---- */

struct stream_state {
	struct dart *dart;
	struct dart_pt *pt; /* what it walks; NULL: blocked, or left as firmware had it */

	/* The rest only of a stream of a locked DART that firmware let translate. */
	bool adoptable;
	bool adopted; /* its shadow exists */
	uint64_t top; /* firmware's table */
	struct dart_geometry geo;
	struct dart_region *direct; /* those that firmware has not mapped itself */
	unsigned nr_direct;
};

struct dart {
	struct instance inst;
	const struct layout *layout;
	struct dart_cfg cfg;
	struct dart_region *direct; /* copy of cfg's, ascending */
	struct dart_geometry geo;
	bool locked, can_bypass;

	uint8_t remap[MAX_REMAPPED];	   /* context of a stream id */
	uint64_t requesters[MAX_REMAPPED]; /* stream ids that use a context */

	/* The invalidation under way. */
	struct stream_set pending; /* streams that no command was issued for yet */
	bool pending_all;
	bool in_flight; /* a command was issued and not seen to end */
	bool timed;	/* and was seen busy first at busy_since */
	uint64_t busy_since;
	bool started; /* invalidate_start() without its invalidate_wait() */
	int error;    /* what that wait is to return */
	bool stale;   /* an invalidation failed: blocked streams may remember translations */

	pthread_mutex_t irq_lock;      /* one reader of the fault latch at a time */
	struct stream_state streams[]; /* [inst.nr_streams] */
};

static const struct instance_ops dart_ops;

static uint32_t rd(const struct dart *dart, uint32_t offset)
{
	return dart->cfg.host->read(dart->cfg.host_ctx, offset);
}

static void wr(const struct dart *dart, uint32_t offset, uint32_t value)
{
	dart->cfg.host->write(dart->cfg.host_ctx, offset, value);
}

static uint32_t tcr_offset(const struct dart *dart, uint32_t sid)
{
	return dart->layout->tcr + 4 * sid;
}

static uint32_t ttbr_offset(const struct dart *dart, uint32_t sid, unsigned i)
{
	return dart->layout->ttbr + dart->layout->ttbr_stride * sid + 4 * i;
}

static uint32_t ttbr_pack(const struct layout *layout, uint64_t pa)
{
	if (!pa)
		return 0;
	return (uint32_t)FIELD_PREP((uint64_t)layout->ttbr_addr, pa >> layout->ttbr_addr_lg2) |
	       layout->ttbr_valid;
}

static uint64_t ttbr_unpack(const struct layout *layout, uint32_t ttbr)
{
	if (!(ttbr & layout->ttbr_valid))
		return 0;
	return FIELD_GET((uint64_t)layout->ttbr_addr, ttbr) << layout->ttbr_addr_lg2;
}

/*
 * Stores to memory before it are seen by the DART before it sees register writes behind it; memory
 * is touched after it only once register reads before it have their values. The register access may
 * be another thread's work, when the model stands behind it.
 */
static void io_barrier(void)
{
#ifdef __aarch64__
	__asm__ volatile("dsb sy" ::: "memory");
#else
	__sync_synchronize();
#endif
}

/* fail - fill the caller's error line. Return: @ret. */
__attribute__((format(printf, 4, 5))) static int fail(int ret, char *error, size_t error_len,
						      const char *fmt, ...)
{
	va_list ap;

	if (!error || !error_len)
		return ret;
	va_start(ap, fmt);
	vsnprintf(error, error_len, fmt, ap);
	va_end(ap);
	return ret;
}

/* ---- invalidation ---- */

static bool has_pending(const struct dart *dart)
{
	uint64_t any = 0;

	for (size_t i = 0; i < ARRAY_SIZE(dart->pending.bits); i++)
		any |= dart->pending.bits[i];
	return any || dart->pending_all;
}

static void forget_pending(struct dart *dart)
{
	memset(&dart->pending, 0, sizeof(dart->pending));
	dart->pending_all = false;
}

/* Layout v1: a mask of streams, then one command for all of them. */
static void invalidate_selected(struct dart *dart)
{
	uint64_t pending = dart->pending_all ? UINT64_MAX : dart->pending.bits[0];
	uint64_t select = 0;

	/* Nobody knows whether translations are remembered under the context or the requester. This
	 * layout has 64 streams at most. */
	for (pending &= UINT64_MAX >> (64 - dart->inst.nr_streams); pending; pending &= pending - 1)
		select |= (pending & -pending) | dart->requesters[__builtin_ctzll(pending)];
	for (unsigned word = 0; word < dart->layout->select_words; word++, select >>= 32)
		wr(dart, DART_V1_STREAM_SELECT(word), (uint32_t)select);
	forget_pending(dart);
	wr(dart, DART_V1_STREAM_COMMAND, DART_V1_STREAM_COMMAND_INVALIDATE);
}

/* Layout t8110: a command names one stream, or none for all. */
static void invalidate_named(struct dart *dart)
{
	unsigned first = 0, count = 0;

	for (size_t i = ARRAY_SIZE(dart->pending.bits); i-- > 0;) {
		uint64_t word = dart->pending.bits[i];

		count += (unsigned)__builtin_popcountll(word);
		if (word)
			first = (unsigned)(64 * i) + (unsigned)__builtin_ctzll(word);
	}
	if (dart->pending_all || count > MAX_SINGLE_FLUSHES) {
		forget_pending(dart);
		wr(dart, DART_T8110_TLB_CMD,
		   (uint32_t)FIELD_PREP(DART_T8110_TLB_CMD_OP_MASK,
					DART_T8110_TLB_CMD_OP_FLUSH_ALL));
		return;
	}
	stream_set_del(&dart->pending, first);
	wr(dart, DART_T8110_TLB_CMD,
	   (uint32_t)(FIELD_PREP(DART_T8110_TLB_CMD_OP_MASK, DART_T8110_TLB_CMD_OP_FLUSH_SID) |
		      FIELD_PREP(DART_T8110_TLB_CMD_STREAM_MASK, first)));
}

static void issue(struct dart *dart)
{
	io_barrier(); /* the entries changed are visible before they are fetched again */
	dart->layout->invalidate(dart);
	dart->in_flight = true;
	dart->timed = false;
}

/*
 * wait_idle - until the command in flight has ended, at most the limit since it was first seen
 * busy: a DART that hangs costs that once, not once for each stream that is then blocked
 */
static int wait_idle(struct dart *dart)
{
	const struct dart_host_ops *host = dart->cfg.host;
	bool expired = false;

	while (dart->in_flight) {
		uint64_t now;

		if (!(rd(dart, dart->layout->command) & dart->layout->command_busy)) {
			dart->in_flight = false;
			io_barrier(); /* what it can no longer reach is reused only from here on */
			break;
		}
		/* Looked at once more after the time was: this thread may have been held up. */
		if (expired)
			return -ETIMEDOUT;
		now = host->now_ns(dart->cfg.host_ctx);
		if (!dart->timed) {
			dart->timed = true;
			dart->busy_since = now;
		}
		expired = now - dart->busy_since >= dart->cfg.invalidate_timeout_ns;
		if (!expired && host->relax)
			host->relax(dart->cfg.host_ctx);
	}
	return 0;
}

/* give_up - nothing is known of what was pending or in flight any more */
static int give_up(struct dart *dart, int ret)
{
	forget_pending(dart);
	dart->stale = true;
	if (dart->started)
		dart->error = ret;
	return ret;
}

/* drain - until everything pending has been invalidated */
static int drain(struct dart *dart)
{
	int ret = wait_idle(dart);

	while (!ret && has_pending(dart)) {
		issue(dart);
		ret = wait_idle(dart);
	}
	return ret ? give_up(dart, ret) : 0;
}

static int flush(struct dart *dart, uint32_t sid)
{
	stream_set_add(&dart->pending, sid);
	return drain(dart);
}

static int flush_all(struct dart *dart)
{
	int ret;

	dart->pending_all = true;
	ret = drain(dart);
	if (!ret)
		dart->stale = false;
	return ret;
}

static void dart_invalidate_start(struct instance *inst, const struct stream_set *streams)
{
	struct dart *dart = dart_of(inst);
	int ret;

	dart->started = true;
	for (size_t i = 0; i < ARRAY_SIZE(dart->pending.bits); i++) {
		uint64_t valid = 0;

		if (inst->nr_streams > 64 * i)
			valid = GENMASK(MIN(inst->nr_streams - 64 * i, 64) - 1, 0);
		dart->pending.bits[i] |= streams->bits[i] & valid;
	}
	if (!has_pending(dart))
		return;
	/* One that was given up, if any: until it ends the registers are taken. */
	ret = wait_idle(dart);
	if (ret)
		give_up(dart, ret);
	else
		issue(dart);
}

static int dart_invalidate_wait(struct instance *inst)
{
	struct dart *dart = dart_of(inst);
	int ret = dart->error; /* a start that was given up waits for nothing */

	if (!ret)
		ret = drain(dart);
	dart->started = false;
	dart->error = 0;
	return ret;
}

/* ---- streams ---- */

/* write_mode - put a stream into a mode. Return: false: the register did not take it. */
static bool write_mode(struct dart *dart, uint32_t sid, uint32_t tcr)
{
	wr(dart, tcr_offset(dart, sid), tcr);
	return ((rd(dart, tcr_offset(dart, sid)) ^ tcr) & dart->layout->tcr_mode) == 0;
}

static bool write_ttbr(struct dart *dart, uint32_t sid, unsigned i, uint32_t ttbr)
{
	const struct layout *layout = dart->layout;

	wr(dart, ttbr_offset(dart, sid, i), ttbr);
	return ((rd(dart, ttbr_offset(dart, sid, i)) ^ ttbr) &
		(layout->ttbr_valid | layout->ttbr_addr)) == 0;
}

/* stop - block a stream of a DART that is not locked. Return: 0; -EIO. */
static int stop(struct dart *dart, uint32_t sid)
{
	int ret = write_mode(dart, sid, 0) ? 0 : -EIO;

	for (unsigned i = 0; i < dart->layout->nr_ttbrs; i++)
		wr(dart, ttbr_offset(dart, sid, i), 0);
	if (!ret)
		dart->streams[sid].pt = NULL;
	return ret;
}

/* start - let a stream of a DART that is not locked walk @pt; the order is Linux's */
static int start(struct dart *dart, uint32_t sid, const struct dart_pt *pt)
{
	const struct layout *layout = dart->layout;
	uint32_t tcr = layout->tcr_translate;
	int ret;

	/*
	 * A failed invalidation left translations behind that only a blocked stream keeps from
	 * being used.
	 */
	if (dart->stale) {
		ret = flush_all(dart);
		if (ret)
			return ret;
	}
	if (dart->geo.levels > 2)
		tcr |= layout->tcr_four_level;

	io_barrier(); /* tables are visible before a register names them */
	for (unsigned i = 0; i < layout->nr_ttbrs; i++) {
		uint64_t top = i < dart->geo.nr_ttbrs ? dart_pt_top(pt, i) : 0;

		if (!write_ttbr(dart, sid, i, ttbr_pack(layout, top)))
			return -EIO;
	}
	if (!write_mode(dart, sid, tcr))
		return -EIO;
	return flush(dart, sid);
}

static bool sid_ok(const struct dart *dart, uint32_t sid)
{
	return sid < dart->inst.nr_streams;
}

static void pt_config(const struct dart *dart, struct dart_pt_cfg *cfg)
{
	*cfg = (struct dart_pt_cfg){
		.fmt = dart->layout->fmt,
		.geo = dart->geo,
		.mem = &dart->cfg.host->mem,
		.mem_ctx = dart->cfg.host_ctx,
		.can_window = dart->cfg.windows && dart->geo.page_lg2 == 14,
		.direct = dart->direct,
		.nr_direct = dart->cfg.nr_direct,
		.max_table_bytes = dart->cfg.max_table_bytes,
	};
}

static void adopt_config(const struct stream_state *stream, struct dart_pt_cfg *cfg)
{
	pt_config(stream->dart, cfg);
	cfg->geo = stream->geo;
	cfg->adopt = stream->top;
	cfg->direct = stream->direct;
	cfg->nr_direct = stream->nr_direct;
}

/* An adopted table was given back, our entries taken out: let no stream remember them. */
static bool forget_adopted(void *ctx)
{
	struct stream_state *stream = ctx;
	struct dart *dart = stream->dart;

	stream->adopted = false;
	for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++) {
		if (!dart->streams[sid].adoptable || dart->streams[sid].top != stream->top)
			continue;
		dart->streams[sid].pt = NULL; /* also of a stream that could not be blocked */
		stream_set_add(&dart->pending, sid);
	}
	return drain(dart) == 0;
}

static int adopt(struct stream_state *stream, struct dart_pt **out)
{
	struct dart *dart = stream->dart;
	struct dart_pt_cfg cfg;
	int ret;

	if (!stream->adoptable)
		return -EIO;
	/* Streams that firmware let share a table share its shadow. */
	for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++)
		if (dart->streams[sid].adopted && dart->streams[sid].top == stream->top)
			return -EBUSY;
	adopt_config(stream, &cfg);
	cfg.forget = forget_adopted;
	cfg.forget_ctx = stream;
	ret = dart_pt_create(&cfg, out);
	if (!ret)
		stream->adopted = true;
	return ret;
}

static int dart_shadow_create(struct instance *inst, uint32_t sid, struct shadow **out)
{
	struct dart *dart = dart_of(inst);
	struct dart_pt_cfg cfg;
	struct dart_pt *pt;
	int ret;

	if (!sid_ok(dart, sid))
		return -EINVAL;
	/* A requester that was named instead of the context it uses: enabling that would do
	 * nothing. */
	if (sid < MAX_REMAPPED && !dart->requesters[sid])
		return -EIO;
	if (dart->locked) {
		ret = adopt(&dart->streams[sid], &pt);
	} else {
		pt_config(dart, &cfg);
		ret = dart_pt_create(&cfg, &pt);
	}
	if (!ret)
		*out = dart_pt_shadow(pt);
	return ret;
}

static bool dart_shadow_fits(const struct instance *inst, uint32_t sid, const struct shadow *shadow)
{
	const struct dart *dart = container_of(inst, const struct dart, inst);
	const struct dart_pt *pt = dart_pt_of((struct shadow *)shadow);
	struct dart_pt_cfg cfg;

	if (!pt || !sid_ok(dart, sid))
		return false;
	if (dart->locked)
		return dart->streams[sid].adoptable && dart_pt_top(pt, 0) == dart->streams[sid].top;
	pt_config(dart, &cfg);
	return dart_pt_same_kind(pt, &cfg);
}

/* bypasses - is it let through untranslated, or in some way that is not known? */
static bool bypasses(const struct dart *dart, uint32_t sid)
{
	const struct layout *layout = dart->layout;

	return rd(dart, tcr_offset(dart, sid)) & layout->tcr_mode &
	       ~(layout->tcr_translate | layout->tcr_four_level);
}

static int dart_disable(struct instance *inst, uint32_t sid)
{
	struct dart *dart = dart_of(inst);
	struct stream_state *stream;
	int ret, err;

	if (!sid_ok(dart, sid))
		return -EINVAL;
	stream = &dart->streams[sid];
	if (!stream->pt)
		return dart->locked && bypasses(dart, sid) ? -EIO : 0;
	if (dart->locked) {
		dart_pt_clear(stream->pt);
		/* If that does not end, it goes on with what it remembers. */
		if (flush(dart, sid))
			return -EIO;
		stream->pt = NULL;
		return 0;
	}
	ret = stop(dart, sid);
	/*
	 * Whether it ends or not: TCR is looked at for each access, before what is remembered. If
	 * it does not, start() lets no stream translate until one has, but what was translated
	 * already may be on its way.
	 */
	err = flush(dart, sid);
	return ret ? ret : err;
}

/* A locked stream walks its table already: what can be done is to let it see what is in there. */
static int enable_locked(struct dart *dart, uint32_t sid, struct dart_pt *pt)
{
	int ret;

	dart->streams[sid].pt = pt; /* also if this fails: there is something to block then */
	ret = flush(dart, sid);
	if (ret)
		dart_pt_clear(pt);
	return ret;
}

static int dart_enable(struct instance *inst, uint32_t sid, struct shadow *shadow)
{
	struct dart *dart = dart_of(inst);
	struct dart_pt *pt = dart_pt_of(shadow);
	int ret;

	if (!sid_ok(dart, sid))
		return -EINVAL;
	if (!dart_shadow_fits(inst, sid, shadow)) {
		dart_disable(inst, sid);
		return -EIO;
	}
	if (dart->locked)
		return enable_locked(dart, sid, pt);
	dart->streams[sid].pt = pt; /* also if this fails: there is something to block then */
	ret = start(dart, sid, pt);
	if (ret)
		dart_disable(inst, sid);
	return ret;
}

static const struct instance_ops dart_ops = {
	.shadow_create = dart_shadow_create,
	.shadow_fits = dart_shadow_fits,
	.enable = dart_enable,
	.disable = dart_disable,
	.invalidate_start = dart_invalidate_start,
	.invalidate_wait = dart_invalidate_wait,
};

/* ---- faults ---- */

bool dart_decode_error(enum dart_kind kind, uint32_t raw, uint64_t iova, struct dart_fault *out)
{
	const struct error_layout *bits = &layouts[kind].bits;

	if (!(raw & bits->flag))
		return false;
	*out = (struct dart_fault){
		.sid = (uint32_t)FIELD_GET((uint64_t)bits->stream, raw),
		.iova = iova,
		.reason = raw & bits->mapping ? FAULT_MAPPING : FAULT_UNKNOWN,
		.flags = FAULT_ADDRESS,
		.raw = raw,
		.more = raw & bits->secondary,
	};
	if (raw & bits->read)
		out->flags |= FAULT_READ;
	if (raw & bits->write)
		out->flags |= FAULT_WRITE;
	if (bits->read_unless_write && !(out->flags & (FAULT_READ | FAULT_WRITE)))
		out->flags |= FAULT_READ;
	return true;
}

/* clear_faults - @raw: what was read from ERROR. The line stays up until ERROR_STREAMS is clear
 * too. */
static void clear_faults(struct dart *dart, uint32_t raw)
{
	wr(dart, dart->layout->error, raw);
	for (unsigned i = 0; i < dart->layout->error_streams_words; i++)
		wr(dart, dart->layout->error_streams + 4 * i, UINT32_MAX);
}

bool dart_irq(struct dart *dart)
{
	struct dart_fault fault;
	uint64_t iova;
	uint32_t raw;
	bool found;

	pthread_mutex_lock(&dart->irq_lock);
	raw = rd(dart, dart->layout->error);
	found = dart_decode_error(dart->cfg.kind, raw, 0, &fault);
	if (found) {
		/* The latch holds until ERROR is written, and with it the address. */
		iova = rd(dart, dart->layout->error_addr_lo);
		iova |= (uint64_t)rd(dart, dart->layout->error_addr_hi) << 32;
		clear_faults(dart, raw);
		fault.iova = iova;
		fault.sid = dart_remap(dart, fault.sid);
	}
	pthread_mutex_unlock(&dart->irq_lock);

	if (found && dart->cfg.fault)
		dart->cfg.fault(dart->cfg.fault_ctx, dart, &fault);
	return found;
}

/* ---- probe ---- */

static bool translates(const struct dart *dart, uint32_t sid)
{
	return rd(dart, tcr_offset(dart, sid)) & dart->layout->tcr_translate;
}

static int probe_geometry(struct dart *dart, unsigned *nr_streams, char *error, size_t error_len)
{
	const struct layout *layout = dart->layout;
	const char *name = dart->cfg.name;
	uint32_t params1 = rd(dart, DART_PARAMS1);
	unsigned page_lg2 = FIELD_GET(DART_PARAMS1_PAGE_SHIFT_MASK, params1);
	unsigned ias = layout->ias, oas = layout->fmt->oas, major = 0;
	int ret;

	*nr_streams = layout->nr_streams;
	if (!ias) {
		uint32_t params3 = rd(dart, DART_T8110_PARAMS3);
		uint32_t params4 = rd(dart, DART_T8110_PARAMS4);

		ias = FIELD_GET(DART_T8110_PARAMS3_VA_WIDTH_MASK, params3);
		oas = FIELD_GET(DART_T8110_PARAMS3_PA_WIDTH_MASK, params3);
		major = FIELD_GET(DART_T8110_PARAMS3_REV_MAJ_MASK, params3);
		*nr_streams = FIELD_GET(DART_T8110_PARAMS4_NR_SIDS_MASK, params4);
		if (oas <= page_lg2 || oas > layout->fmt->oas || ias < 32 || ias > 42)
			return fail(-ENODEV, error, error_len,
				    "%s: PARAMS3 %#x: IOVAs of %u bits, addresses of %u: no %s is "
				    "like that",
				    name, params3, ias, oas, layout->name);
		if (!*nr_streams || *nr_streams > INSTANCE_MAX_STREAMS)
			return fail(-ENODEV, error, error_len,
				    "%s: PARAMS4 %#x: %u streams: no %s is like that", name,
				    params4, *nr_streams, layout->name);
	}
	ret = dart_geometry_init(&dart->geo, layout->fmt, page_lg2, ias);
	if (ret || dart->geo.nr_ttbrs > layout->nr_ttbrs)
		return fail(
			-ENODEV, error, error_len,
			"%s: PARAMS1 %#x: pages of 2^%u bytes: no %s has them (is its power on?)",
			name, params1, page_lg2, layout->name);
	if (dart->geo.levels > 2 && major < 2)
		return fail(-ENODEV, error, error_len,
			    "%s: IOVAs of %u bits need four levels, revision %u has three", name,
			    ias, major);
	dart->geo.oas = oas;
	dart->can_bypass = layout->tcr_bypass && rd(dart, DART_PARAMS2) & DART_PARAMS2_BYPASS;
	return 0;
}

static int probe_remap(struct dart *dart, char *error, size_t error_len)
{
	for (uint32_t sid = 0; sid < ARRAY_SIZE(dart->remap); sid++)
		dart->remap[sid] = (uint8_t)sid;
	for (unsigned word = 0; word < dart->layout->remap_words; word++) {
		uint32_t value = rd(dart, DART_V1_STREAM_REMAP(word));

		for (uint32_t sid = 4 * word; sid < 4 * word + 4; sid++) {
			unsigned context = FIELD_GET(DART_V1_STREAM_REMAP_BYTE_MASK(sid), value);

			if (context >= dart->inst.nr_streams)
				return fail(-ENODEV, error, error_len,
					    "%s: STREAM_REMAP sends stream %u to %u, of %u",
					    dart->cfg.name, sid, context, dart->inst.nr_streams);
			dart->remap[sid] = (uint8_t)context;
		}
	}
	for (uint32_t sid = 0; sid < ARRAY_SIZE(dart->remap); sid++)
		dart->requesters[dart->remap[sid]] |= BIT(sid);
	return 0;
}

/* ttbr_sticks - does a valid TTBR take a write? It is left as it was. */
static bool ttbr_sticks(struct dart *dart, uint32_t sid, unsigned i)
{
	uint32_t found = rd(dart, ttbr_offset(dart, sid, i));
	bool sticks = write_ttbr(dart, sid, i, 0);

	if (sticks)
		wr(dart, ttbr_offset(dart, sid, i), found);
	return sticks;
}

/*
 * find_lock - must TCR and TTBR be left alone?
 *
 * The lock bit says so; or a stream is live and its TTBR does not take a zero, which the reset
 * would write anyway. Then nothing has changed and a display goes on, that TCR = 0 would have
 * blanked.
 */
static bool find_lock(struct dart *dart)
{
	if (rd(dart, dart->layout->lock) & dart->layout->lock_bit)
		return true;
	for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++) {
		if (!translates(dart, sid))
			continue;
		for (unsigned i = 0; i < dart->layout->nr_ttbrs; i++)
			if (rd(dart, ttbr_offset(dart, sid, i)) & dart->layout->ttbr_valid &&
			    !ttbr_sticks(dart, sid, i))
				return true;
	}
	return false;
}

/* reset - stop everything, drop what was latched. The order is that of the drivers. */
static int reset(struct dart *dart, char *error, size_t error_len)
{
	const struct layout *layout = dart->layout;
	int ret;

	if (!dart->locked) {
		for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++)
			if (!write_mode(dart, sid, 0))
				return fail(-EIO, error, error_len,
					    "%s: stream %u cannot be stopped, its TCR stays %#x",
					    dart->cfg.name, sid, rd(dart, tcr_offset(dart, sid)));
		for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++)
			for (unsigned i = 0; i < layout->nr_ttbrs; i++)
				wr(dart, ttbr_offset(dart, sid, i), 0);
		/* Streams are kept apart by their TCR. */
		for (unsigned i = 0; i < layout->enable_words; i++)
			wr(dart, layout->enable + 4 * i, UINT32_MAX);
	}
	clear_faults(dart, rd(dart, layout->error));
	if (layout->error_mask)
		wr(dart, layout->error_mask, 0);
	dart->in_flight = true; /* firmware may have left a command running */
	ret = flush_all(dart);
	if (ret)
		return fail(ret, error, error_len,
			    "%s: its TLB cannot be invalidated: busy for %" PRIu64 " ms",
			    dart->cfg.name, dart->cfg.invalidate_timeout_ns / 1000000);
	return 0;
}

/* ---- apertures ---- */

static int by_start(const void *a, const void *b)
{
	const struct iova_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int by_iova(const void *a, const void *b)
{
	const struct dart_region *x = a, *y = b;

	return x->iova < y->iova ? -1 : x->iova > y->iova;
}

/* add_aperture - when there are too many, the smallest has to go */
static void add_aperture(struct instance *inst, uint64_t start, uint64_t last)
{
	struct iova_range *ranges = inst->apertures;
	unsigned smallest = 0;

	if (inst->nr_apertures == INSTANCE_MAX_APERTURES) {
		for (unsigned i = 1; i < inst->nr_apertures; i++)
			if (ranges[i].last - ranges[i].start <
			    ranges[smallest].last - ranges[smallest].start)
				smallest = i;
		if (last - start <= ranges[smallest].last - ranges[smallest].start)
			return;
		inst->nr_apertures--;
		memmove(&ranges[smallest], &ranges[smallest + 1],
			(inst->nr_apertures - smallest) * sizeof(ranges[0]));
	}
	ranges[inst->nr_apertures++] = (struct iova_range){start, last};
}

/* set_apertures - what is left of @whole without @taken, which is sorted here */
static void set_apertures(struct instance *inst, const struct iova_range *whole,
			  struct iova_range *taken, size_t nr)
{
	uint64_t next = whole->start;

	if (nr)
		qsort(taken, nr, sizeof(*taken), by_start);
	for (size_t i = 0; i < nr && next <= whole->last; i++) {
		if (taken[i].start > next)
			add_aperture(inst, next, MIN(taken[i].start - 1, whole->last));
		next = MAX(next, taken[i].last + 1); /* no range ends at UINT64_MAX: ias < 64 */
	}
	if (next <= whole->last)
		add_aperture(inst, next, whole->last);
}

/* check_direct - copy the direct regions, ascending, and see that they can be mapped */
static int check_direct(struct dart *dart, char *error, size_t error_len)
{
	uint64_t page = BIT(dart->geo.page_lg2), next = 0;
	unsigned nr = dart->cfg.nr_direct;

	if (!nr)
		return 0;
	dart->direct = iommu_alloc(nr * sizeof(*dart->direct));
	if (!dart->direct)
		return -ENOMEM;
	memcpy(dart->direct, dart->cfg.direct, nr * sizeof(*dart->direct));
	qsort(dart->direct, nr, sizeof(*dart->direct), by_iova);
	for (unsigned i = 0; i < nr; i++) {
		const struct dart_region *r = &dart->direct[i];
		uint64_t iova_end, pa_end;

		if (!r->len || !IS_ALIGNED(r->iova | r->pa | r->len, page) ||
		    add_overflows(r->iova, r->len, &iova_end) ||
		    add_overflows(r->pa, r->len, &pa_end) || iova_end > BIT(dart->geo.ias) ||
		    pa_end > BIT(dart->geo.oas) || r->iova < next || !r->prot ||
		    r->prot & ~(PROT_DEV_READ | PROT_DEV_WRITE))
			return fail(-EINVAL, error, error_len,
				    "%s: direct region iova %#" PRIx64 " pa %#" PRIx64
				    " len %#" PRIx64
				    ": off its pages, out of reach, overlapping or without rights",
				    dart->cfg.name, r->iova, r->pa, r->len);
		next = iova_end;
	}
	return 0;
}

/* ---- locked streams ---- */

/* keep_direct - of the direct regions keep those that firmware did not map */
static int keep_direct(struct stream_state *stream, const struct iova_range *firmware, size_t nr,
		       char *error, size_t error_len)
{
	struct dart *dart = stream->dart;

	if (!dart->cfg.nr_direct)
		return 0;
	stream->direct = iommu_alloc(dart->cfg.nr_direct * sizeof(*stream->direct));
	if (!stream->direct)
		return -ENOMEM;
	for (unsigned i = 0; i < dart->cfg.nr_direct; i++) {
		const struct dart_region *r = &dart->direct[i];
		uint64_t last = r->iova + (r->len - 1);
		bool inside = false, outside = true;

		for (size_t j = 0; j < nr; j++) {
			inside |= r->iova >= firmware[j].start && last <= firmware[j].last;
			outside &= last < firmware[j].start || r->iova > firmware[j].last;
		}
		if ((!inside && !outside) || last >> stream->geo.ias)
			return fail(-EINVAL, error, error_len,
				    "%s: direct region at %#" PRIx64
				    " lies partly in what firmware mapped, or beyond its table",
				    dart->cfg.name, r->iova);
		if (outside)
			stream->direct[stream->nr_direct++] = *r;
	}
	return 0;
}

/*
 * adopt_probe - look at the table that firmware let a locked stream walk
 * @taken: what it maps is appended, the array grows
 */
static int adopt_probe(struct stream_state *stream, uint32_t sid, struct iova_range **taken,
		       size_t *nr_taken, char *error, size_t error_len)
{
	struct dart *dart = stream->dart;
	const struct layout *layout = dart->layout;
	uint32_t tcr = rd(dart, tcr_offset(dart, sid));
	struct dart_pt_cfg cfg;
	struct iova_range *ranges;
	struct dart_pt *pt;
	unsigned nr, reach;
	int ret;

	stream->top = ttbr_unpack(layout, rd(dart, ttbr_offset(dart, sid, 0)));
	if (!(tcr & layout->tcr_translate) || bypasses(dart, sid) || !stream->top)
		return 0;

	/* As many levels as firmware chose, one TTBR: as far as that reaches. */
	stream->geo = dart->geo;
	stream->geo.levels = tcr & layout->tcr_four_level ? 3 : 2;
	stream->geo.nr_ttbrs = 1;
	reach = dart_level_lg2(&stream->geo, stream->geo.levels);
	stream->geo.ias = MIN(dart->geo.ias, reach);

	adopt_config(stream, &cfg);
	ret = dart_pt_create(&cfg, &pt); /* without direct regions it writes nothing */
	if (ret == -ENOMEM)
		return ret;
	if (ret)
		return 0; /* out of reach: no shadow for this stream */

	nr = dart_pt_firmware_ranges(pt, NULL, 0);
	ranges = iommu_alloc((*nr_taken + nr + 1) * sizeof(*ranges));
	if (!ranges) {
		ret = -ENOMEM;
		goto out;
	}
	if (*nr_taken)
		memcpy(ranges, *taken, *nr_taken * sizeof(*ranges));
	dart_pt_firmware_ranges(pt, ranges + *nr_taken, nr);
	iommu_free(*taken);
	*taken = ranges;

	ret = keep_direct(stream, ranges + *nr_taken, nr, error, error_len);
	*nr_taken += nr;
	/* Nothing can be said to streams of one instance about different reaches: the least holds.
	 */
	if (stream->geo.ias < dart->geo.ias) {
		ranges[*nr_taken] =
			(struct iova_range){BIT(stream->geo.ias), BIT(dart->geo.ias) - 1};
		(*nr_taken)++;
	}
	stream->adoptable = !ret;
out:
	dart_pt_shadow(pt)->ops->destroy(dart_pt_shadow(pt));
	return ret;
}

static int find_apertures(struct dart *dart, char *error, size_t error_len)
{
	uint64_t page = BIT(dart->geo.page_lg2);
	struct iova_range whole = {0, BIT(dart->geo.ias) - 1}, *taken;
	size_t nr = dart->cfg.nr_direct;
	int ret = 0;

	taken = iommu_alloc((nr + 1) * sizeof(*taken));
	if (!taken)
		return -ENOMEM;
	for (size_t i = 0; i < nr; i++)
		taken[i] = (struct iova_range){dart->direct[i].iova,
					       dart->direct[i].iova + (dart->direct[i].len - 1)};
	if (dart->locked)
		for (uint32_t sid = 0; !ret && sid < dart->inst.nr_streams; sid++)
			ret = adopt_probe(&dart->streams[sid], sid, &taken, &nr, error, error_len);
	if (ret)
		goto out;

	whole.start = MAX(whole.start, dart->cfg.aperture.start);
	whole.last = MIN(whole.last, dart->cfg.aperture.last);
	/* Whole pages only; neither can overflow, the IOVA is narrower than 64 bits. */
	if (whole.start <= whole.last) {
		whole.start = ALIGN_UP(whole.start, page);
		whole.last = ALIGN_DOWN(whole.last + 1, page);
		if (whole.start < whole.last) {
			whole.last--;
			set_apertures(&dart->inst, &whole, taken, nr);
		}
	}
	if (!dart->inst.nr_apertures)
		ret = fail(-EINVAL, error, error_len,
			   "%s: nothing of its %u-bit IOVA space is left to use: aperture %#" PRIx64
			   "-%#" PRIx64 ", %u direct regions",
			   dart->cfg.name, dart->geo.ias, dart->cfg.aperture.start,
			   dart->cfg.aperture.last, dart->cfg.nr_direct);
out:
	iommu_free(taken);
	return ret;
}

/* ---- lifetime ---- */

static void free_dart(struct dart *dart)
{
	for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++)
		iommu_free(dart->streams[sid].direct);
	iommu_free(dart->direct);
	pthread_mutex_destroy(&dart->irq_lock);
	iommu_free(dart);
}

int dart_create(const struct dart_cfg *cfg, struct dart **out, char *error, size_t error_len)
{
	struct dart probed = {.cfg = *cfg, .layout = &layouts[cfg->kind]}, *dart;
	unsigned nr_streams;
	int ret;

	ret = probe_geometry(&probed, &nr_streams, error, error_len);
	if (ret)
		return ret;
	dart = iommu_zalloc(sizeof(*dart) + nr_streams * sizeof(dart->streams[0]));
	if (!dart)
		return fail(-ENOMEM, error, error_len, "%s: no memory", cfg->name);
	memcpy(dart, &probed, sizeof(*dart));
	if (!dart->cfg.invalidate_timeout_ns)
		dart->cfg.invalidate_timeout_ns = DEFAULT_TIMEOUT_NS;
	dart->inst = (struct instance){
		.ops = &dart_ops,
		.name = cfg->name,
		.kind = "DART",
		.granule = BIT(dart->geo.page_lg2),
		.nr_streams = nr_streams,
		.caches_invalid = true,
	};
	pthread_mutex_init(&dart->irq_lock, NULL);
	for (uint32_t sid = 0; sid < nr_streams; sid++)
		dart->streams[sid].dart = dart;

	/* What the caller got wrong is said before anything is touched. */
	ret = check_direct(dart, error, error_len);
	if (!ret)
		ret = probe_remap(dart, error, error_len);
	if (ret)
		goto err;
	dart->locked = find_lock(dart);
	dart->inst.exclusive = dart->locked; /* one shadow for each stream, firmware's table */
	ret = find_apertures(dart, error, error_len);
	if (!ret)
		ret = reset(dart, error, error_len);
	if (ret)
		goto err;
	*out = dart;
	return 0;

err:
	if (ret == -ENOMEM)
		fail(ret, error, error_len, "%s: no memory", cfg->name);
	free_dart(dart);
	return ret;
}

void dart_destroy(struct dart *dart)
{
	if (!dart)
		return;
	if (!dart->locked) {
		for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++)
			stop(dart, sid);
		flush_all(dart);
	}
	free_dart(dart);
}

struct instance *dart_instance(struct dart *dart)
{
	return &dart->inst;
}

struct dart *dart_of(struct instance *inst)
{
	return inst->ops == &dart_ops ? container_of(inst, struct dart, inst) : NULL;
}

bool dart_is_locked(const struct dart *dart)
{
	return dart->locked;
}

bool dart_can_bypass(const struct dart *dart)
{
	return dart->can_bypass;
}

uint32_t dart_remap(const struct dart *dart, uint32_t sid)
{
	return sid < ARRAY_SIZE(dart->remap) ? dart->remap[sid] : sid;
}

void dart_dump(struct dart *dart, void (*line)(void *ctx, const char *text), void *ctx)
{
	const struct layout *layout = dart->layout;
	char text[200];

	snprintf(text, sizeof(text),
		 "%s: %s, %u streams, pages of %" PRIu64 ", IOVA %u bits, PA %u bits%s%s%s",
		 dart->cfg.name, layout->name, dart->inst.nr_streams, dart->inst.granule,
		 dart->geo.ias, dart->geo.oas, dart->locked ? ", locked" : "",
		 dart->can_bypass ? ", can bypass" : "",
		 dart->stale ? ", invalidation failed" : "");
	line(ctx, text);
	for (uint32_t sid = 0; sid < dart->inst.nr_streams; sid++) {
		uint32_t tcr = rd(dart, tcr_offset(dart, sid)), any = tcr;
		uint32_t ttbr[DART_V1_NR_TTBRS] = {0};
		size_t at = 0;

		for (unsigned i = 0; i < layout->nr_ttbrs; i++)
			any |= ttbr[i] = rd(dart, ttbr_offset(dart, sid, i));
		if (!any && dart_remap(dart, sid) == sid)
			continue;
		at += (size_t)snprintf(text, sizeof(text), "%s: stream %u: TCR %#x", dart->cfg.name,
				       sid, tcr);
		for (unsigned i = 0; i < layout->nr_ttbrs; i++)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%#x",
					       i ? " " : " TTBR ", ttbr[i]);
		if (dart_remap(dart, sid) != sid)
			snprintf(text + at, sizeof(text) - at, ": uses stream %u's",
				 dart_remap(dart, sid));
		else if (tcr & layout->tcr_translate)
			snprintf(text + at, sizeof(text) - at, ": %u levels from %#" PRIx64 "%s",
				 tcr & layout->tcr_four_level ? 4 : 3, ttbr_unpack(layout, ttbr[0]),
				 dart->streams[sid].pt ? "" : ", not ours");
		else
			snprintf(text + at, sizeof(text) - at, ": %s",
				 tcr & layout->tcr_mode ? "bypass" : "blocked");
		line(ctx, text);
	}
}
