/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/dart_model.h"

#include "iommu/alloc.h"
#include "iommu/dart_regs.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define MAX_STREAMS  256
#define STREAM_WORDS (MAX_STREAMS / 32)
#define MAX_TTBRS    4

/* The caller of mem() is promised that a range stays within this. */
#define MEM_PAGE 0x1000

/* ---- one const table per kind ---------------------------------------------------------------- */

/* Why an access is refused. Zero: it is not. */
enum cause {
	CAUSE_NONE,
	CAUSE_NO_TTBR, /* also: nothing lets this stream translate */
	CAUSE_NO_PGD,
	CAUSE_NO_PMD,
	CAUSE_NO_PTE,
	CAUSE_WRITE,
	CAUSE_READ,
	CAUSE_WINDOW,
	CAUSE_TABLE_BUS, /* a table could not be fetched */
	CAUSE_DATA_BUS,	 /* nothing where the access goes */
	NR_CAUSES,
};

struct kind {
	unsigned nr_streams, max_streams; /* its own; as many as a configuration may ask for */
	unsigned nr_ttbrs;
	unsigned va_width, pa_width;
	bool small_pages; /* may have 4 KiB pages */

	uint32_t (*read)(const struct dart_model *model, uint32_t offset);
	void (*write)(struct dart_model *model, uint32_t offset, uint32_t value);
	unsigned (*remapped)(const struct dart_model *model, uint32_t sid); /* the target */
	uint32_t tcr, ttbr, enable; /* offsets of the first */
	unsigned select_words;

	uint32_t tcr_mask, tcr_translate, tcr_bypass, tcr_four_level;
	uint32_t ttbr_mask, ttbr_valid;
	unsigned ttbr_addr_lg2;

	uint32_t error_flag, error_write, error_secondary;
	uint64_t error_stream_mask;
	bool error_streams; /* has a register with a bit per stream */
	uint32_t error_cause[NR_CAUSES];

	uint64_t pte_addr_mask;
	unsigned pte_addr_shift; /* to the left */
	uint64_t pte_no_read, pte_no_write;
	uint64_t pte_no_window; /* says that the window does not count; 0: it always does */
};

#define PTE_VALID	 BIT(0)
#define PTE_START_MASK	 GENMASK(63, 52)
#define PTE_END_MASK	 GENMASK(51, 40)
#define PTE_WINDOW_BYTES 4 /* its unit */

/* The two layouts of entries: DART1, DART2. */
#define PTE_DART1                                                                                  \
	.pte_addr_mask = GENMASK(35, 12), .pte_addr_shift = 0, .pte_no_read = BIT(8),              \
	.pte_no_write = BIT(7), .pte_no_window = BIT(1)
#define PTE_DART2                                                                                  \
	.pte_addr_mask = GENMASK(37, 10), .pte_addr_shift = 4, .pte_no_read = BIT(3),              \
	.pte_no_write = BIT(2), .pte_no_window = 0

static uint32_t v1_read(const struct dart_model *model, uint32_t offset);
static void v1_write(struct dart_model *model, uint32_t offset, uint32_t value);
static unsigned v1_remapped(const struct dart_model *model, uint32_t sid);
static uint32_t t8110_read(const struct dart_model *model, uint32_t offset);
static void t8110_write(struct dart_model *model, uint32_t offset, uint32_t value);
static unsigned t8110_remapped(const struct dart_model *model, uint32_t sid);

#define LAYOUT_V1                                                                                  \
	.nr_ttbrs = DART_V1_NR_TTBRS, .va_width = 38, .read = v1_read, .write = v1_write,          \
	.remapped = v1_remapped, .tcr = DART_V1_TCR(0),                                            \
	.tcr_mask = DART_V1_TCR_TRANSLATE | DART_V1_TCR_BYPASS_DART | DART_V1_TCR_BYPASS_DAPF,     \
	.tcr_translate = DART_V1_TCR_TRANSLATE, .tcr_bypass = DART_V1_TCR_BYPASS_DART,             \
	.ttbr_mask = DART_V1_TTBR_VALID | DART_V1_TTBR_ADDR_MASK,                                  \
	.ttbr_valid = DART_V1_TTBR_VALID, .ttbr_addr_lg2 = DART_V1_TTBR_ADDR_LG2,                  \
	.error_flag = DART_V1_ERROR_FLAG, .error_write = DART_V1_ERROR_WRITE,                      \
	.error_stream_mask = DART_V1_ERROR_STREAM_MASK,                                            \
	.error_cause = {                                                                           \
		[CAUSE_NO_TTBR] = DART_V1_ERROR_NO_TTBR,                                           \
		[CAUSE_NO_PMD] = DART_V1_ERROR_NO_PMD,                                             \
		[CAUSE_NO_PTE] = DART_V1_ERROR_NO_PTE,                                             \
		[CAUSE_WRITE] = DART_V1_ERROR_WRITE_FAULT,                                         \
		[CAUSE_READ] = DART_V1_ERROR_READ_FAULT,                                           \
		[CAUSE_WINDOW] = DART_V1_ERROR_SUBPAGE_PROT,                                       \
		[CAUSE_TABLE_BUS] = DART_V1_ERROR_PTE_READ_FAULT,                                  \
		[CAUSE_DATA_BUS] = DART_V1_ERROR_AXI_DECODE,                                       \
	}

static const struct kind kinds[] = {
	[DART_MODEL_T8020] =
		{
			LAYOUT_V1,
			PTE_DART1,
			.nr_streams = DART_V1_NR_STREAMS,
			.max_streams = DART_V1_NR_STREAMS,
			.pa_width = 36,
			.small_pages = true,
			.ttbr = DART_V1_TTBR(0, 0),
			.enable = DART_V1_STREAMS_ENABLE,
			.select_words = 1,
		},
	[DART_MODEL_T8103_USB4] =
		{
			LAYOUT_V1,
			PTE_DART1,
			.nr_streams = DART_USB4_NR_STREAMS,
			.max_streams = DART_USB4_NR_STREAMS,
			.pa_width = 36,
			.ttbr = DART_USB4_TTBR(0, 0),
			.enable = DART_USB4_STREAMS_ENABLE(0),
			.select_words = 2,
		},
	[DART_MODEL_T6000] =
		{
			LAYOUT_V1,
			PTE_DART2,
			.nr_streams = DART_V1_NR_STREAMS,
			.max_streams = DART_V1_NR_STREAMS,
			.pa_width = 42,
			.ttbr = DART_V1_TTBR(0, 0),
			.enable = DART_V1_STREAMS_ENABLE,
			.select_words = 1,
		},
	[DART_MODEL_T8110] =
		{
			PTE_DART2,
			.nr_streams = 16,
			.max_streams = MAX_STREAMS,
			.nr_ttbrs = DART_T8110_NR_TTBRS,
			.va_width = 36,
			.pa_width = 42,
			.read = t8110_read,
			.write = t8110_write,
			.remapped = t8110_remapped,
			.error_streams = true,
			.tcr = DART_T8110_TCR(0),
			.ttbr = DART_T8110_TTBR(0),
			.tcr_mask = DART_T8110_TCR_TRANSLATE | DART_T8110_TCR_BYPASS_DART |
				    DART_T8110_TCR_BYPASS_DAPF | DART_T8110_TCR_FOUR_LEVEL |
				    DART_T8110_TCR_REMAP_EN | DART_T8110_TCR_REMAP_MASK,
			.tcr_translate = DART_T8110_TCR_TRANSLATE,
			.tcr_bypass = DART_T8110_TCR_BYPASS_DART,
			.tcr_four_level = DART_T8110_TCR_FOUR_LEVEL,
			.ttbr_mask = DART_T8110_TTBR_VALID | DART_T8110_TTBR_ADDR_MASK,
			.ttbr_valid = DART_T8110_TTBR_VALID,
			.ttbr_addr_lg2 = DART_T8110_TTBR_ADDR_LG2,
			.error_flag = DART_T8110_ERROR_FLAG,
			.error_write = DART_T8110_ERROR_WRITE_NREAD,
			.error_secondary = DART_T8110_ERROR_SECONDARY,
			.error_stream_mask = DART_T8110_ERROR_STREAM_MASK,
			.error_cause =
				{
					[CAUSE_NO_TTBR] = DART_T8110_ERROR_NO_TTBR,
					[CAUSE_NO_PGD] = DART_T8110_ERROR_NO_PGD,
					[CAUSE_NO_PMD] = DART_T8110_ERROR_NO_PMD,
					[CAUSE_NO_PTE] = DART_T8110_ERROR_NO_PTE,
					[CAUSE_WRITE] = DART_T8110_ERROR_WRITE_FAULT,
					[CAUSE_READ] = DART_T8110_ERROR_READ_FAULT,
					[CAUSE_WINDOW] = DART_T8110_ERROR_REGION_PROTECT,
					[CAUSE_TABLE_BUS] = DART_T8110_ERROR_AXI_ERROR,
					[CAUSE_DATA_BUS] = DART_T8110_ERROR_AXI_DECODE,
				},
		},
};

/* ---- the DART -------------------------------------------------------------------------------- */

/* 64 leaves, and 32 entries of the tables above them. */
#define LEAF_SETS  16
#define LEAF_WAYS  4
#define TABLE_SETS 4
#define TABLE_WAYS 8
#define NR_SETS	   (LEAF_SETS + TABLE_SETS)
#define NR_ENTRIES (LEAF_SETS * LEAF_WAYS + TABLE_SETS * TABLE_WAYS)

/* What a walk once read, whatever it was: an invalid entry is "not mapped", and remembered. */
struct tlb_entry {
	bool used;
	bool no_ttbr;	/* the walk ended at an invalid TTBR; a leaf */
	uint8_t level;	/* 0: a leaf */
	uint16_t ctx;	/* the stream whose TCR and TTBRs it came from */
	uint64_t index; /* iova above what one entry of that level maps */
	uint64_t pte;
};

struct dart_model {
	struct dart_model_cfg cfg;
	const struct kind *kind;
	unsigned va_width, pa_width, nr_streams;
	bool has_four_level;

	/*
	 * Everything below but in_flight. Translation happens under it; data is copied without it.
	 */
	pthread_mutex_t lock;
	struct dart_model_quirks quirks;
	struct dart_model_stats stats;
	uint64_t random;

	uint32_t tcr[MAX_STREAMS], ttbr[MAX_STREAMS][MAX_TTBRS];
	uint32_t enabled[STREAM_WORDS];
	uint32_t select[2];
	uint32_t remap[DART_V1_STREAM_REMAP_WORDS];
	uint32_t protect, protect_lock; /* as in the t8110; v1's LOCK is bit 0 of both */
	uint32_t tlb_cmd;		/* t8110: as last written */

	uint32_t error, error_mask;
	uint64_t error_addr;
	uint32_t error_streams[STREAM_WORDS];
	uint32_t latched_cause; /* of what ERROR holds; its bits there may have been cleared singly
				 */
	uint32_t stream_causes; /* of all faults since ERROR_STREAMS was last all zero */
	bool line, told, telling; /* the interrupt; what irq() knows; somebody is in irq() */

	struct tlb_entry tlb[NR_ENTRIES];
	uint8_t victim[NR_SETS]; /* the way to go next */

	/* The invalidation that runs. */
	bool busy, hung, removed;
	uint64_t busy_until; /* 0: no delay */
	uint32_t busy_streams[STREAM_WORDS];
	/*
	 * Accesses that are past translation, by the phase in which they translated. Removing
	 * entries begins the other phase, so that waiting for the old one waits for no new access.
	 */
	unsigned phase;
	atomic_uint in_flight[2];
};

static bool bit_of(const uint32_t *words, unsigned n)
{
	return words[n / 32] >> n % 32 & 1;
}

static bool any_bit(const uint32_t *words)
{
	uint32_t all = 0;

	for (unsigned i = 0; i < STREAM_WORDS; i++)
		all |= words[i];
	return all;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* xorshift64*; the state is never 0 */
static uint32_t random32(struct dart_model *model)
{
	model->random ^= model->random >> 12;
	model->random ^= model->random << 25;
	model->random ^= model->random >> 27;
	return (uint32_t)(model->random * UINT64_C(0x2545f4914f6cdd1d) >> 32);
}

/* ---- TLB ------------------------------------------------------------------------------------- */

/* The ways in which an entry may be, and where the set keeps its victim. */
static struct tlb_entry *tlb_set(struct dart_model *model, unsigned level, unsigned ctx,
				 uint64_t index, unsigned *nr_ways, uint8_t **victim)
{
	unsigned hash = (unsigned)(index ^ index >> 4 ^ index >> 11) + ctx * 5;
	unsigned set;

	if (!level) {
		set = hash % LEAF_SETS;
		*nr_ways = LEAF_WAYS;
		*victim = &model->victim[set];
		return &model->tlb[set * LEAF_WAYS];
	}
	set = hash % TABLE_SETS;
	*nr_ways = TABLE_WAYS;
	*victim = &model->victim[LEAF_SETS + set];
	return &model->tlb[LEAF_SETS * LEAF_WAYS + set * TABLE_WAYS];
}

static const struct tlb_entry *tlb_find(struct dart_model *model, unsigned level, unsigned ctx,
					uint64_t index)
{
	uint8_t *victim;
	unsigned nr_ways;
	struct tlb_entry *ways = tlb_set(model, level, ctx, index, &nr_ways, &victim);

	/* Without a TLB nothing is ever found in it; what is put there does not matter. */
	if (!model->cfg.tlb)
		return NULL;
	for (unsigned i = 0; i < nr_ways; i++) {
		const struct tlb_entry *e = &ways[i];

		if (e->used && e->index == index && e->ctx == ctx && e->level == level)
			return e;
	}
	return NULL;
}

static void tlb_insert(struct dart_model *model, const struct tlb_entry *entry)
{
	uint8_t *victim;
	unsigned nr_ways, way;
	struct tlb_entry *ways =
		tlb_set(model, entry->level, entry->ctx, entry->index, &nr_ways, &victim);

	for (way = 0; way < nr_ways; way++)
		if (!ways[way].used)
			break;
	if (way == nr_ways) {
		way = *victim;
		*victim = (uint8_t)((way + 1) % nr_ways);
	}
	ways[way] = *entry;
}

static void tlb_evict_at_random(struct dart_model *model)
{
	unsigned one_in = model->quirks.evict_one_in;
	unsigned from;

	if (!one_in || random32(model) % one_in)
		return;
	from = random32(model) % NR_ENTRIES;
	for (unsigned i = 0; i < NR_ENTRIES; i++) {
		struct tlb_entry *e = &model->tlb[(from + i) % NR_ENTRIES];

		if (e->used) {
			e->used = false;
			return;
		}
	}
}

/* ---- invalidation ---------------------------------------------------------------------------- */

static void invalidate_begin(struct dart_model *model, const uint32_t *streams)
{
	struct dart_model_quirks *quirks = &model->quirks;
	bool hangs = quirks->invalidate_hangs;

	if (model->busy && !model->hung)
		return;
	if (quirks->fail_invalidation && --quirks->fail_invalidation == 0)
		hangs = true;
	model->busy = true;
	model->hung = hangs;
	model->removed = false;
	model->busy_until = 0;
	if (quirks->invalidate_delay_ns &&
	    add_overflows(now_ns(), quirks->invalidate_delay_ns, &model->busy_until))
		model->busy_until = UINT64_MAX;
	memcpy(model->busy_streams, streams, sizeof(model->busy_streams));
}

/*
 * Let a running invalidation come as far as it can. Everything that takes the lock begins with it,
 * so that time passes for whoever looks.
 */
static void settle(struct dart_model *model)
{
	if (!model->busy || model->hung)
		return;
	if (!model->removed) {
		if (model->busy_until && now_ns() < model->busy_until)
			return;
		for (unsigned i = 0; i < NR_ENTRIES; i++)
			if (bit_of(model->busy_streams, model->tlb[i].ctx))
				model->tlb[i].used = false;
		model->removed = true;
		/* The other phase is empty: the invalidation that began this one waited for it. */
		model->phase ^= 1;
	}
	/* Pairs with the release in dma(): what these accesses did is seen before BUSY drops. */
	if (atomic_load_explicit(&model->in_flight[model->phase ^ 1], memory_order_acquire))
		return;
	model->busy = false;
	model->stats.invalidations++;
}

/* ---- faults and the interrupt line ----------------------------------------------------------- */

static void line_update(struct dart_model *model)
{
	uint32_t heard = ~model->error_mask;

	model->line =
		((model->error & model->kind->error_flag) && (model->latched_cause & heard)) ||
		(any_bit(model->error_streams) && (model->stream_causes & heard));
}

/* Tell irq() of changes. Called with the lock held, which is given up for the call. */
static void line_tell(struct dart_model *model)
{
	/* Whoever is telling, perhaps this very thread from within irq(), looks again after it. */
	if (!model->cfg.irq || model->telling)
		return;
	model->telling = true;
	while (model->told != model->line) {
		bool level = model->line;

		model->told = level;
		pthread_mutex_unlock(&model->lock);
		model->cfg.irq(model->cfg.irq_ctx, level);
		pthread_mutex_lock(&model->lock);
	}
	model->telling = false;
}

static void fault(struct dart_model *model, uint32_t sid, uint64_t addr, bool write,
		  enum cause cause)
{
	const struct kind *kind = model->kind;
	uint32_t bit = kind->error_cause[cause];

	model->stats.faults++;
	if (model->error & kind->error_flag) {
		model->error |= kind->error_secondary;
	} else {
		model->error = kind->error_flag | bit | (write ? kind->error_write : 0) |
			       (uint32_t)FIELD_PREP(kind->error_stream_mask, sid);
		model->error_addr = addr;
		model->latched_cause = bit;
	}
	if (kind->error_streams && sid < MAX_STREAMS) {
		model->error_streams[sid / 32] |= UINT32_C(1) << sid % 32;
		model->stream_causes |= bit;
	}
	line_update(model);
}

/* ---- the walker ------------------------------------------------------------------------------ */

/* mem() within what address lines reach; NULL: nothing there */
static void *memory_at(const struct dart_model *model, uint64_t pa, size_t len)
{
	return pa >> model->pa_width ? NULL : model->cfg.mem(model->cfg.mem_ctx, pa, len);
}

static enum cause fetch(const struct dart_model *model, uint64_t pa, uint64_t *pte)
{
	const struct dart_model_quirks *quirks = &model->quirks;
	uint64_t *where;

	if (quirks->bus_error_len && pa + 7 >= quirks->bus_error_pa &&
	    (pa < quirks->bus_error_pa || pa - quirks->bus_error_pa < quirks->bus_error_len))
		return CAUSE_TABLE_BUS;
	where = memory_at(model, pa, sizeof(*where));
	if (!where)
		return CAUSE_TABLE_BUS;
	*pte = le64toh(__atomic_load_n(where, __ATOMIC_ACQUIRE));
	return CAUSE_NONE;
}

/* Where an entry of a table points; bits below the page size are not address lines. */
static uint64_t pte_address(const struct dart_model *model, uint64_t pte)
{
	return ALIGN_DOWN((pte & model->kind->pte_addr_mask) << model->kind->pte_addr_shift,
			  UINT64_C(1) << model->cfg.page_lg2);
}

/* The geometry of one context. */
struct walk {
	unsigned ctx;
	unsigned top;	 /* level of the tables that TTBRs point to; leaves are at 0 */
	uint64_t iova;	 /* only the bits that count */
	unsigned shift0; /* of the index of level 0 */
	unsigned bits;	 /* of the index of any level */
};

static unsigned level_shift(const struct walk *walk, unsigned level)
{
	return walk->shift0 + level * walk->bits;
}

static void walk_init(const struct dart_model *model, unsigned ctx, uint64_t addr,
		      struct walk *walk)
{
	const struct kind *kind = model->kind;
	unsigned reach;

	walk->ctx = ctx;
	walk->top = model->tcr[ctx] & kind->tcr_four_level ? 2 : 1;
	walk->shift0 = model->cfg.page_lg2;
	walk->bits = walk->shift0 - 3;
	reach = level_shift(walk, walk->top + 1) + (kind->nr_ttbrs == 4 ? 2 : 0);
	walk->iova = addr & GENMASK(MIN(reach, model->va_width) - 1, 0);
}

/* Read the leaf, from the lowest table entry that is remembered. @keep: remember what is read. */
static enum cause walk_tables(struct dart_model *model, const struct walk *walk, bool keep,
			      uint64_t *leaf)
{
	static const enum cause invalid_at[] = {CAUSE_NO_PTE, CAUSE_NO_PMD, CAUSE_NO_PGD};
	const struct kind *kind = model->kind;
	const struct tlb_entry *known = NULL;
	struct tlb_entry e = {.used = true, .ctx = (uint16_t)walk->ctx};
	uint64_t table;
	enum cause cause;
	unsigned level;

	for (level = 1; level <= walk->top && !known; level++)
		known = tlb_find(model, level, walk->ctx, walk->iova >> level_shift(walk, level));
	if (known) {
		level = known->level;
		if (!(known->pte & PTE_VALID))
			return invalid_at[level];
		table = pte_address(model, known->pte);
	} else {
		unsigned i =
			(unsigned)(walk->iova >> level_shift(walk, walk->top + 1)) % kind->nr_ttbrs;
		uint32_t ttbr = model->ttbr[walk->ctx][i];

		if (!(ttbr & kind->ttbr_valid)) {
			e.no_ttbr = true;
			e.index = walk->iova >> level_shift(walk, 0);
			if (keep)
				tlb_insert(model, &e);
			return CAUSE_NO_TTBR;
		}
		level = walk->top + 1;
		table = FIELD_GET(kind->ttbr_mask & ~kind->ttbr_valid, ttbr) << kind->ttbr_addr_lg2;
		table = ALIGN_DOWN(table, UINT64_C(1) << model->cfg.page_lg2);
	}
	do {
		level--;
		e.level = (uint8_t)level;
		e.index = walk->iova >> level_shift(walk, level);
		cause = fetch(model, table + 8 * (e.index & GENMASK(walk->bits - 1, 0)), &e.pte);
		if (cause)
			return cause;
		if (keep)
			tlb_insert(model, &e);
		if (!(e.pte & PTE_VALID))
			return invalid_at[level];
		table = pte_address(model, e.pte);
	} while (level);
	*leaf = e.pte;
	return CAUSE_NONE;
}

static unsigned v1_remapped(const struct dart_model *model, uint32_t sid)
{
	if (sid / 4 >= DART_V1_STREAM_REMAP_WORDS)
		return sid;
	return (unsigned)FIELD_GET(DART_V1_STREAM_REMAP_BYTE_MASK(sid), model->remap[sid / 4]);
}

static unsigned t8110_remapped(const struct dart_model *model, uint32_t sid)
{
	if (!(model->tcr[sid] & DART_T8110_TCR_REMAP_EN))
		return sid;
	return (unsigned)FIELD_GET(DART_T8110_TCR_REMAP_MASK, model->tcr[sid]);
}

/* The stream whose TCR and TTBRs @sid uses; MAX_STREAMS: none, it is not let in. */
static unsigned context_of(const struct dart_model *model, uint32_t sid)
{
	unsigned ctx;

	if (sid >= model->nr_streams || !bit_of(model->enabled, sid))
		return MAX_STREAMS;
	ctx = model->kind->remapped(model, sid);
	return ctx < model->nr_streams ? ctx : MAX_STREAMS;
}

/*
 * Where an access goes. @run: bytes from there on that the same answer holds for, within the page.
 * @trace: count it and remember what is read.
 */
static enum cause translate(struct dart_model *model, uint32_t sid, uint64_t addr, bool write,
			    bool trace, uint64_t *pa, uint64_t *run)
{
	const struct kind *kind = model->kind;
	uint64_t page = UINT64_C(1) << model->cfg.page_lg2;
	uint64_t offset = addr & (page - 1), end = page;
	unsigned ctx = context_of(model, sid);
	const struct tlb_entry *known;
	uint64_t pte = 0;
	struct walk walk;
	uint32_t mode;
	enum cause cause;

	if (trace) {
		model->stats.accesses++;
		tlb_evict_at_random(model);
	}
	if (ctx == MAX_STREAMS)
		return CAUSE_NO_TTBR;
	/* The mode is not cached: blocked is blocked at once. None, or both, let nothing pass. */
	mode = model->tcr[ctx] & (kind->tcr_translate | kind->tcr_bypass);
	if (mode == kind->tcr_bypass && model->cfg.bypass_support) {
		*pa = addr;
		*run = page - offset;
		return CAUSE_NONE;
	}
	if (mode != kind->tcr_translate)
		return CAUSE_NO_TTBR;

	walk_init(model, ctx, addr, &walk);
	known = tlb_find(model, 0, ctx, walk.iova >> level_shift(&walk, 0));
	if (known) {
		if (trace)
			model->stats.tlb_hits++;
		if (known->no_ttbr)
			return CAUSE_NO_TTBR;
		pte = known->pte;
		if (!(pte & PTE_VALID))
			return CAUSE_NO_PTE;
	} else {
		if (trace)
			model->stats.walks++;
		cause = walk_tables(model, &walk, trace, &pte);
		if (cause)
			return cause;
	}

	if (pte & (write ? kind->pte_no_write : kind->pte_no_read))
		return write ? CAUSE_WRITE : CAUSE_READ;
	if (!(pte & kind->pte_no_window)) {
		uint64_t first = FIELD_GET(PTE_START_MASK, pte) * PTE_WINDOW_BYTES;

		end = MIN(page, (FIELD_GET(PTE_END_MASK, pte) + 1) * PTE_WINDOW_BYTES);
		if (offset < first || offset >= end)
			return CAUSE_WINDOW;
	}
	*pa = pte_address(model, pte) | offset;
	*run = end - offset;
	return CAUSE_NONE;
}

/* ---- registers ------------------------------------------------------------------------------- */

/* One of @nr words @stride apart that begin at @base? */
static bool word_in(uint32_t offset, uint32_t base, unsigned nr, unsigned *index)
{
	if (offset < base || offset - base >= 4 * nr)
		return false;
	*index = (offset - base) / 4;
	return true;
}

static bool is_locked(const struct dart_model *model)
{
	return model->quirks.locked || (model->protect & DART_T8110_PROTECT_TTBR_TCR);
}

/* TCRs and TTBRs: alike in all layouts. Returns true if @offset is one of these. */
static bool context_read(const struct dart_model *model, uint32_t offset, uint32_t *value)
{
	const struct kind *kind = model->kind;
	unsigned n;

	if (word_in(offset, kind->tcr, model->nr_streams, &n))
		*value = model->tcr[n];
	else if (word_in(offset, kind->ttbr, model->nr_streams * kind->nr_ttbrs, &n))
		*value = model->ttbr[n / kind->nr_ttbrs][n % kind->nr_ttbrs];
	else
		return false;
	return true;
}

static void tcr_set(struct dart_model *model, unsigned sid, uint32_t value)
{
	value &= model->kind->tcr_mask;
	if (!model->has_four_level)
		value &= ~model->kind->tcr_four_level;
	model->tcr[sid] = value;
}

static bool context_write(struct dart_model *model, uint32_t offset, uint32_t value)
{
	const struct kind *kind = model->kind;
	unsigned n;

	if (word_in(offset, kind->tcr, model->nr_streams, &n)) {
		if (!is_locked(model))
			tcr_set(model, n, value);
	} else if (word_in(offset, kind->ttbr, model->nr_streams * kind->nr_ttbrs, &n)) {
		if (!is_locked(model) && !model->quirks.ttbr_read_only)
			model->ttbr[n / kind->nr_ttbrs][n % kind->nr_ttbrs] =
				value & kind->ttbr_mask;
	} else {
		return false;
	}
	return true;
}

static uint32_t v1_read(const struct dart_model *model, uint32_t offset)
{
	unsigned n;

	switch (offset) {
	case DART_PARAMS1:
		return (uint32_t)FIELD_PREP(DART_PARAMS1_PAGE_SHIFT_MASK, model->cfg.page_lg2);
	case DART_PARAMS2:
		return model->cfg.bypass_support ? DART_PARAMS2_BYPASS : 0;
	case DART_V1_STREAM_COMMAND:
		return model->busy ? DART_V1_STREAM_COMMAND_BUSY : 0;
	case DART_V1_ERROR:
		return model->error;
	case DART_V1_ERROR_ADDR_LO:
		return (uint32_t)model->error_addr;
	case DART_V1_ERROR_ADDR_HI:
		return (uint32_t)(model->error_addr >> 32);
	case DART_V1_CONFIG:
		return is_locked(model) ? DART_V1_CONFIG_LOCK : 0;
	}
	if (word_in(offset, DART_V1_STREAM_SELECT(0), model->kind->select_words, &n))
		return model->select[n];
	if (word_in(offset, DART_V1_STREAM_REMAP(0), DART_V1_STREAM_REMAP_WORDS, &n))
		return model->remap[n];
	if (word_in(offset, model->kind->enable, model->kind->select_words, &n))
		return model->enabled[n];
	return 0;
}

static void v1_write(struct dart_model *model, uint32_t offset, uint32_t value)
{
	uint32_t there = model->nr_streams < 32 ? (UINT32_C(1) << model->nr_streams) - 1 : ~0u;
	uint32_t streams[STREAM_WORDS] = {model->select[0], model->select[1]};
	unsigned n;

	switch (offset) {
	case DART_V1_STREAM_COMMAND:
		if (value & DART_V1_STREAM_COMMAND_INVALIDATE)
			invalidate_begin(model, streams);
		return;
	case DART_V1_ERROR:
		model->error &= ~value;
		return;
	case DART_V1_CONFIG:
		if (value & DART_V1_CONFIG_LOCK)
			model->protect = model->protect_lock = DART_T8110_PROTECT_TTBR_TCR;
		return;
	}
	if (word_in(offset, DART_V1_STREAM_SELECT(0), model->kind->select_words, &n))
		model->select[n] = value & there;
	else if (word_in(offset, DART_V1_STREAM_REMAP(0), DART_V1_STREAM_REMAP_WORDS, &n))
		model->remap[n] = value;
	else if (word_in(offset, model->kind->enable, model->kind->select_words, &n))
		model->enabled[n] = value & there;
}

static uint32_t t8110_read(const struct dart_model *model, uint32_t offset)
{
	uint32_t locked = model->quirks.locked ? DART_T8110_PROTECT_TTBR_TCR : 0;
	unsigned n;

	switch (offset) {
	case DART_PARAMS1:
		/* Other fields are not zero, so that it shows who does not mask. */
		return (uint32_t)FIELD_PREP(DART_PARAMS1_PAGE_SHIFT_MASK, model->cfg.page_lg2) |
		       LEAF_SETS;
	case DART_PARAMS2:
		return (uint32_t)BIT(1) | (model->cfg.bypass_support ? DART_PARAMS2_BYPASS : 0);
	case DART_T8110_PARAMS3:
		return (uint32_t)(FIELD_PREP(DART_T8110_PARAMS3_PA_WIDTH_MASK, model->pa_width) |
				  FIELD_PREP(DART_T8110_PARAMS3_VA_WIDTH_MASK, model->va_width) |
				  FIELD_PREP(DART_T8110_PARAMS3_REV_MAJ_MASK,
					     model->has_four_level ? 2 : 1));
	case DART_T8110_PARAMS4:
		return (uint32_t)(FIELD_PREP(DART_T8110_PARAMS4_NR_CLIENTS_MASK, 1) |
				  FIELD_PREP(DART_T8110_PARAMS4_NR_SIDS_MASK, model->nr_streams));
	case DART_T8110_TLB_CMD:
		return model->tlb_cmd | (model->busy ? (uint32_t)DART_T8110_TLB_CMD_BUSY : 0);
	case DART_T8110_ERROR:
		return model->error;
	case DART_T8110_ERROR_MASK:
		return model->error_mask;
	case DART_T8110_ERROR_ADDR_LO:
		return (uint32_t)model->error_addr;
	case DART_T8110_ERROR_ADDR_HI:
		return (uint32_t)(model->error_addr >> 32);
	case DART_T8110_PROTECT:
		return model->protect | locked;
	case DART_T8110_PROTECT_LOCK:
		return model->protect_lock | locked;
	}
	if (word_in(offset, DART_T8110_ERROR_STREAMS(0), DART_T8110_STREAM_WORDS, &n))
		return model->error_streams[n];
	if (word_in(offset, DART_T8110_ENABLE_STREAMS(0), DART_T8110_STREAM_WORDS, &n) ||
	    word_in(offset, DART_T8110_DISABLE_STREAMS(0), DART_T8110_STREAM_WORDS, &n))
		return model->enabled[n];
	return 0;
}

static void t8110_command(struct dart_model *model, uint32_t value)
{
	unsigned sid = (unsigned)FIELD_GET(DART_T8110_TLB_CMD_STREAM_MASK, value);
	uint32_t streams[STREAM_WORDS] = {0};

	switch (FIELD_GET(DART_T8110_TLB_CMD_OP_MASK, value)) {
	case DART_T8110_TLB_CMD_OP_FLUSH_ALL:
		memset(streams, 0xff, sizeof(streams));
		break;
	case DART_T8110_TLB_CMD_OP_FLUSH_SID:
		streams[sid / 32] = UINT32_C(1) << sid % 32;
		break;
	default:
		return;
	}
	if (!model->busy || model->hung)
		model->tlb_cmd = value & ~(uint32_t)DART_T8110_TLB_CMD_BUSY;
	invalidate_begin(model, streams);
}

static void t8110_write(struct dart_model *model, uint32_t offset, uint32_t value)
{
	unsigned n;

	switch (offset) {
	case DART_T8110_TLB_CMD:
		t8110_command(model, value);
		return;
	case DART_T8110_ERROR:
		model->error &= ~value;
		return;
	case DART_T8110_ERROR_MASK:
		model->error_mask = value;
		return;
	case DART_T8110_PROTECT:
		model->protect |= value;
		return;
	case DART_T8110_UNPROTECT:
		model->protect &= ~value | model->protect_lock;
		return;
	case DART_T8110_PROTECT_LOCK:
		model->protect_lock |= value;
		return;
	}
	if (word_in(offset, DART_T8110_ERROR_STREAMS(0), DART_T8110_STREAM_WORDS, &n)) {
		model->error_streams[n] &= ~value;
		if (!any_bit(model->error_streams))
			model->stream_causes = 0;
	} else if (word_in(offset, DART_T8110_ENABLE_STREAMS(0), DART_T8110_STREAM_WORDS, &n)) {
		model->enabled[n] |= value;
	} else if (word_in(offset, DART_T8110_DISABLE_STREAMS(0), DART_T8110_STREAM_WORDS, &n)) {
		model->enabled[n] &= ~value;
	}
}

uint32_t dart_model_read(struct dart_model *model, uint32_t offset)
{
	uint32_t value = 0;

	pthread_mutex_lock(&model->lock);
	settle(model);
	if (!(offset & 3) && !context_read(model, offset, &value))
		value = model->kind->read(model, offset);
	pthread_mutex_unlock(&model->lock);
	return value;
}

void dart_model_write(struct dart_model *model, uint32_t offset, uint32_t value)
{
	pthread_mutex_lock(&model->lock);
	settle(model);
	if (!(offset & 3) && !context_write(model, offset, value)) {
		model->kind->write(model, offset, value);
		settle(model);
		line_update(model);
		line_tell(model);
	}
	pthread_mutex_unlock(&model->lock);
}

/* ---- DMA ------------------------------------------------------------------------------------- */

/*
 * Copy a naturally aligned piece in one access to memory, in order with those before and after: a
 * bus keeps a device's writes in order, and drivers count on it that what an entry announces is
 * there when they see the entry, and its valid flag last.
 */
#define COPY_PIECE(type, mem, buf, write)                                                          \
	do {                                                                                       \
		type piece;                                                                        \
                                                                                                   \
		if (write) {                                                                       \
			memcpy(&piece, buf, sizeof(piece));                                        \
			__atomic_store_n((type *)(mem), piece, __ATOMIC_RELEASE);                  \
		} else {                                                                           \
			piece = __atomic_load_n((type *)(mem), __ATOMIC_ACQUIRE);                  \
			memcpy(buf, &piece, sizeof(piece));                                        \
		}                                                                                  \
	} while (0)

static void copy(uint8_t *mem, uint8_t *buf, size_t len, bool write)
{
	while (len) {
		size_t size = sizeof(uint64_t);

		while (size > len || ((uintptr_t)mem & (size - 1)))
			size /= 2;
		switch (size) {
		case 8:
			/* Nearly all of it, nearly always: a loop with nothing else in it. */
			size = ALIGN_DOWN(len, 8);
			for (size_t i = 0; i < size; i += 8)
				COPY_PIECE(uint64_t, mem + i, buf + i, write);
			break;
		case 4:
			COPY_PIECE(uint32_t, mem, buf, write);
			break;
		case 2:
			COPY_PIECE(uint16_t, mem, buf, write);
			break;
		default:
			COPY_PIECE(uint8_t, mem, buf, write);
		}
		mem += size;
		buf += size;
		len -= size;
	}
}

/* Copy as far as there is memory. Returns how many bytes that was. */
static size_t copy_pages(const struct dart_model *model, uint64_t pa, uint8_t *buf, size_t len,
			 bool write)
{
	size_t done = 0;

	while (done < len) {
		size_t n = MIN(len - done, MEM_PAGE - (pa + done) % MEM_PAGE);
		uint8_t *mem = memory_at(model, pa + done, n);

		if (!mem)
			break;
		copy(mem, buf + done, n, write);
		done += n;
	}
	return done;
}

static int dma(struct dart_model *model, uint32_t sid, uint64_t addr, uint8_t *buf, size_t len,
	       bool write)
{
	while (len) {
		uint64_t pa, run;
		enum cause cause;
		unsigned phase;
		size_t n, done = 0;

		pthread_mutex_lock(&model->lock);
		settle(model);
		cause = translate(model, sid, addr, write, true, &pa, &run);
		if (!cause) {
			phase = model->phase;
			atomic_fetch_add_explicit(&model->in_flight[phase], 1,
						  memory_order_relaxed);
			pthread_mutex_unlock(&model->lock);

			n = MIN(len, run);
			done = copy_pages(model, pa, buf, n, write);
			atomic_fetch_sub_explicit(&model->in_flight[phase], 1,
						  memory_order_release);
			if (done == n) {
				addr += n;
				buf += n;
				len -= n;
				continue;
			}
			cause = CAUSE_DATA_BUS;
			pthread_mutex_lock(&model->lock);
		}
		fault(model, sid, addr + done, write, cause);
		line_tell(model);
		pthread_mutex_unlock(&model->lock);
		return -EFAULT;
	}
	return 0;
}

int dart_model_dma_read(struct dart_model *model, uint32_t sid, uint64_t addr, void *buf,
			size_t len)
{
	return dma(model, sid, addr, buf, len, false);
}

int dart_model_dma_write(struct dart_model *model, uint32_t sid, uint64_t addr, const void *buf,
			 size_t len)
{
	return dma(model, sid, addr, (uint8_t *)buf, len, true);
}

bool dart_model_draining(struct dart_model *model)
{
	bool ret;

	pthread_mutex_lock(&model->lock);
	settle(model);
	ret = model->busy && model->removed;
	pthread_mutex_unlock(&model->lock);
	return ret;
}

int dart_model_probe(struct dart_model *model, uint32_t sid, uint64_t addr, bool write,
		     uint64_t *pa)
{
	uint64_t run;
	enum cause cause;

	pthread_mutex_lock(&model->lock);
	settle(model);
	cause = translate(model, sid, addr, write, false, pa, &run);
	pthread_mutex_unlock(&model->lock);
	return cause ? -EFAULT : 0;
}

/* ---- configuration --------------------------------------------------------------------------- */

void dart_model_set_quirks(struct dart_model *model, const struct dart_model_quirks *quirks)
{
	pthread_mutex_lock(&model->lock);
	settle(model);
	model->quirks = *quirks;
	model->random = quirks->seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	if (!quirks->invalidate_hangs)
		model->hung = false;
	settle(model);
	pthread_mutex_unlock(&model->lock);
}

void dart_model_get_quirks(struct dart_model *model, struct dart_model_quirks *quirks)
{
	pthread_mutex_lock(&model->lock);
	*quirks = model->quirks;
	pthread_mutex_unlock(&model->lock);
}

void dart_model_firmware(struct dart_model *model, uint32_t sid, const uint32_t ttbr[4],
			 uint32_t tcr)
{
	if (sid >= model->nr_streams)
		return;
	pthread_mutex_lock(&model->lock);
	settle(model);
	for (unsigned i = 0; i < model->kind->nr_ttbrs; i++)
		model->ttbr[sid][i] = ttbr[i] & model->kind->ttbr_mask;
	tcr_set(model, sid, tcr);
	model->enabled[sid / 32] |= UINT32_C(1) << sid % 32;
	pthread_mutex_unlock(&model->lock);
}

void dart_model_get_stats(struct dart_model *model, struct dart_model_stats *out)
{
	pthread_mutex_lock(&model->lock);
	settle(model);
	*out = model->stats;
	pthread_mutex_unlock(&model->lock);
}

/* What the configuration asks for, or the kind's own; false: no such DART. */
static bool configure(struct dart_model *model, const struct dart_model_cfg *cfg)
{
	const struct kind *kind = &kinds[cfg->kind];
	bool variable = cfg->kind == DART_MODEL_T8110; /* PARAMS3 and 4 say the widths */
	unsigned va_max = variable ? 47 : kind->va_width;

	if (cfg->page_lg2 == 12 && kind->small_pages)
		va_max = 32;
	else if (cfg->page_lg2 != 14)
		return false;
	model->cfg = *cfg;
	model->kind = kind;
	model->va_width = cfg->va_width ? cfg->va_width : MIN(va_max, kind->va_width);
	model->has_four_level = variable && model->va_width > 36;
	model->nr_streams = cfg->nr_streams ? cfg->nr_streams : kind->nr_streams;
	model->pa_width = kind->pa_width;
	if (variable)
		model->pa_width = cfg->pa_width ? cfg->pa_width : model->has_four_level ? 42 : 36;
	else if (cfg->pa_width || model->nr_streams != kind->nr_streams)
		return false;
	return model->va_width >= 32 && model->va_width <= va_max && model->pa_width >= 32 &&
	       model->pa_width <= kind->pa_width && model->nr_streams <= kind->max_streams;
}

int dart_model_create(const struct dart_model_cfg *cfg, struct dart_model **out)
{
	struct dart_model *model;
	int ret;

	if ((unsigned)cfg->kind >= ARRAY_SIZE(kinds) || !cfg->mem)
		return -EINVAL;
	model = iommu_zalloc(sizeof(*model));
	if (!model)
		return -ENOMEM;
	ret = -EINVAL;
	if (!configure(model, cfg))
		goto err_free;
	ret = -pthread_mutex_init(&model->lock, NULL);
	if (ret)
		goto err_free;
	model->random = 1;
	/* As after reset: no stream let in, nothing reported, every stream its own context. */
	model->error_mask = cfg->kind == DART_MODEL_T8110 ? ~0u : 0;
	for (unsigned i = 0; i < DART_V1_STREAM_REMAP_WORDS; i++)
		model->remap[i] = 0x03020100 + 0x04040404 * i;
	*out = model;
	return 0;

err_free:
	iommu_free(model);
	return ret;
}

void dart_model_destroy(struct dart_model *model)
{
	if (!model)
		return;
	pthread_mutex_destroy(&model->lock);
	iommu_free(model);
}
