/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model is judged by tables laid by hand: words of memory and of registers, most of them from
 * worked examples, and where an access then lands. No code of the driver is used to make them.
 */
#include "iommu/tests/check.h"
#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/dart_model.h"
#include "iommu/dart_regs.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE	  0x4000
#define NR_FRAMES 320

/* ---- a machine: sparse memory, an interrupt line, one DART ----------------------------------- */

struct frame {
	uint64_t pa;
	uint8_t *bytes;
};

struct machine {
	struct dart_model *dart;
	struct dart_model_cfg cfg;
	struct frame frames[NR_FRAMES];
	unsigned nr_frames;
	uint64_t hole_pa; /* 4 KiB that are no memory; page 0 never is */
	bool line;
	unsigned nr_line_changes, nr_wrong_changes;
	bool ack_from_irq;

	/* Where a device stops until it is let go. */
	uint64_t gate_pa;
	pthread_mutex_t gate_lock;
	pthread_cond_t gate_cond;
	bool gate_reached, gate_open;
	pthread_t device;
	bool device_waits;
};

static uint8_t *frame_at(struct machine *m, uint64_t pa)
{
	for (unsigned i = 0; i < m->nr_frames; i++)
		if (m->frames[i].pa == ALIGN_DOWN(pa, PAGE))
			return m->frames[i].bytes + pa % PAGE;
	return NULL;
}

/* Of a device: it waits at the gate before it touches gate_pa, and in irq(). */
static _Thread_local bool waits_at_gate;

static void gate(struct machine *m)
{
	pthread_mutex_lock(&m->gate_lock);
	m->gate_reached = true;
	pthread_cond_broadcast(&m->gate_cond);
	while (!m->gate_open)
		pthread_cond_wait(&m->gate_cond, &m->gate_lock);
	pthread_mutex_unlock(&m->gate_lock);
}

static void *mem(void *ctx, uint64_t pa, size_t len)
{
	struct machine *m = ctx;

	/* Not an assertion: cmocka's are for the thread that runs the test. */
	if (!len || pa % 0x1000 + len > 0x1000)
		abort();
	if (waits_at_gate && ALIGN_DOWN(pa, PAGE) == m->gate_pa)
		gate(m);
	return pa - m->hole_pa < 0x1000 ? NULL : frame_at(m, pa);
}

static void irq(void *ctx, bool level)
{
	struct machine *m = ctx;

	/* Not locked: one call at a time is what the model promises. */
	m->nr_wrong_changes += m->line == level;
	m->line = level;
	m->nr_line_changes++;
	if (waits_at_gate)
		gate(m);
	if (level && m->ack_from_irq)
		dart_model_write(m->dart, DART_V1_ERROR, dart_model_read(m->dart, DART_V1_ERROR));
}

/* The 16 KiB of memory at @pa, made if there was none. */
static uint8_t *ram(struct machine *m, uint64_t pa)
{
	uint8_t *bytes = frame_at(m, pa);

	if (bytes)
		return bytes;
	assert_true(m->nr_frames < NR_FRAMES);
	m->frames[m->nr_frames].pa = ALIGN_DOWN(pa, PAGE);
	m->frames[m->nr_frames].bytes = aligned_alloc(64, PAGE);
	assert_non_null(m->frames[m->nr_frames].bytes);
	memset(m->frames[m->nr_frames++].bytes, 0, PAGE);
	return frame_at(m, pa);
}

static void poke(struct machine *m, uint64_t pa, uint64_t value)
{
	__atomic_store_n((uint64_t *)ram(m, pa), value, __ATOMIC_RELEASE);
}

static uint64_t peek(struct machine *m, uint64_t pa)
{
	return *(uint64_t *)ram(m, pa);
}

static uint32_t rd(struct machine *m, uint64_t offset)
{
	return dart_model_read(m->dart, (uint32_t)offset);
}

static void wr(struct machine *m, uint64_t offset, uint64_t value)
{
	dart_model_write(m->dart, (uint32_t)offset, (uint32_t)value);
}

/* Where simple tables are: of every stream, an L1 at ROOT, an L2 for the first 32 MiB, frames. */
#define ROOT	   UINT64_C(0x800010000)
#define LEAVES	   UINT64_C(0x800020000)
#define FRAME(n)   (UINT64_C(0x900000000) + (uint64_t)(n)*PAGE)
#define LEAF_PA(n) (LEAVES + 8 * (uint64_t)(n))

static void *write_one_word(void *arg)
{
	struct machine *m = arg;
	uint64_t word = 1;

	waits_at_gate = true;
	return dart_model_dma_write(m->dart, 1, 0, &word, sizeof(word)) ? m : NULL;
}

/* Start a write by stream 1 to page 0, and stop it when it has translated, and not written yet. */
static void access_begin(struct machine *m)
{
	m->gate_reached = m->gate_open = false;
	m->gate_pa = FRAME(0);
	assert_int_equal(pthread_create(&m->device, NULL, write_one_word, m), 0);
	m->device_waits = true;
	pthread_mutex_lock(&m->gate_lock);
	while (!m->gate_reached)
		pthread_cond_wait(&m->gate_cond, &m->gate_lock);
	pthread_mutex_unlock(&m->gate_lock);
}

/* Let it go on. True: the write went well. */
static bool access_end(struct machine *m)
{
	void *failed;

	pthread_mutex_lock(&m->gate_lock);
	m->gate_open = true;
	pthread_cond_broadcast(&m->gate_cond);
	pthread_mutex_unlock(&m->gate_lock);
	pthread_join(m->device, &failed);
	m->device_waits = false;
	m->gate_pa = 0;
	return !failed;
}

static int setup(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));

	m->cfg = (struct dart_model_cfg){
		.page_lg2 = 14, .tlb = true, .mem = mem, .mem_ctx = m, .irq = irq, .irq_ctx = m};
	pthread_mutex_init(&m->gate_lock, NULL);
	pthread_cond_init(&m->gate_cond, NULL);
	*state = m;
	return 0;
}

static void forget_memory(struct machine *m)
{
	while (m->nr_frames)
		free(m->frames[--m->nr_frames].bytes);
}

static int teardown(void **state)
{
	struct machine *m = *state;

	/* A test that failed meanwhile has left it there. */
	if (m->device_waits)
		access_end(m);
	dart_model_destroy(m->dart);
	forget_memory(m);
	pthread_cond_destroy(&m->gate_cond);
	pthread_mutex_destroy(&m->gate_lock);
	free(m);
	return 0;
}

/* A DART after reset with all streams let in and all errors heard, and empty memory. */
static void power_on(struct machine *m, enum dart_model_kind kind)
{
	dart_model_destroy(m->dart);
	forget_memory(m);
	m->line = false;
	m->nr_line_changes = 0;
	m->cfg.kind = kind;
	assert_int_equal(dart_model_create(&m->cfg, &m->dart), 0);
	if (kind == DART_MODEL_T8110) {
		for (unsigned i = 0; i < DART_T8110_STREAM_WORDS; i++)
			wr(m, DART_T8110_ENABLE_STREAMS(i), ~0u);
		wr(m, DART_T8110_ERROR_MASK, 0);
	} else {
		wr(m, DART_V1_STREAMS_ENABLE, ~0u);
		wr(m, DART_USB4_STREAMS_ENABLE(0), ~0u);
	}
}

static void quirks(struct machine *m, struct dart_model_quirks q)
{
	dart_model_set_quirks(m->dart, &q);
}

static bool is_t8110(const struct machine *m)
{
	return m->cfg.kind == DART_MODEL_T8110;
}

static void write_tcr(struct machine *m, unsigned sid, uint32_t tcr)
{
	wr(m, is_t8110(m) ? DART_T8110_TCR(sid) : DART_V1_TCR(sid), tcr);
}

static void write_ttbr(struct machine *m, unsigned sid, uint64_t table)
{
	if (is_t8110(m))
		wr(m, DART_T8110_TTBR(sid), table ? table >> 12 | 1 : 0);
	else
		wr(m,
		   m->cfg.kind == DART_MODEL_T8103_USB4 ? DART_USB4_TTBR(sid, 0)
							: DART_V1_TTBR(sid, 0),
		   table ? table >> 12 | BIT(31) : 0);
}

static void translate_on(struct machine *m, unsigned sid)
{
	write_tcr(m, sid, is_t8110(m) ? 1 : 0x80);
}

static bool busy(struct machine *m)
{
	return is_t8110(m) ? rd(m, 0x80) >> 31 : rd(m, 0x20) & 4;
}

static void begin_flush(struct machine *m, unsigned sid)
{
	if (is_t8110(m)) {
		wr(m, 0x80, 0x100 | sid);
	} else {
		wr(m, 0x34, sid < 32 ? BIT(sid) : 0);
		wr(m, 0x38, sid < 32 ? 0 : BIT(sid - 32));
		wr(m, 0x20, 0x100000);
	}
}

static void flush(struct machine *m, unsigned sid)
{
	begin_flush(m, sid);
	assert_false(busy(m));
}

static uint64_t entry(const struct machine *m, uint64_t pa)
{
	bool dart1 = m->cfg.kind == DART_MODEL_T8020 || m->cfg.kind == DART_MODEL_T8103_USB4;

	return 0x000fff0000000000 | (dart1 ? pa : pa >> 4) | 1;
}

static void map(struct machine *m, unsigned page, uint64_t pa)
{
	poke(m, LEAF_PA(page), entry(m, pa));
}

/* Stream @sid walks simple tables in which nothing is mapped; the TLB knows nothing. */
static void attach(struct machine *m, unsigned sid)
{
	poke(m, ROOT, entry(m, LEAVES));
	ram(m, LEAVES);
	write_ttbr(m, sid, ROOT);
	translate_on(m, sid);
	flush(m, sid);
}

static uint64_t lands(struct machine *m, unsigned sid, uint64_t iova)
{
	uint64_t pa;

	return dart_model_probe(m->dart, sid, iova, false, &pa) ? 0 : pa;
}

static int dma_read(struct machine *m, unsigned sid, uint64_t iova)
{
	uint64_t word;

	return dart_model_dma_read(m->dart, sid, iova, &word, sizeof(word));
}

/* Read a word by DMA, and say in which FRAME(n) it was; each frame's words are its number. */
static int frame_read(struct machine *m, unsigned sid, uint64_t iova)
{
	uint64_t word;
	int ret = dart_model_dma_read(m->dart, sid, iova, &word, sizeof(word));

	return ret ? ret : (int)word;
}

static void number_frames(struct machine *m, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		for (unsigned j = 0; j < PAGE / 8; j++)
			poke(m, FRAME(i) + 8 * j, i);
}

static uint32_t error(struct machine *m)
{
	return rd(m, is_t8110(m) ? DART_T8110_ERROR : DART_V1_ERROR);
}

static uint64_t error_addr(struct machine *m)
{
	unsigned lo = is_t8110(m) ? 0x170 : 0x50;

	return rd(m, lo) | (uint64_t)rd(m, lo + 4) << 32;
}

static const enum dart_model_kind all_kinds[] = {DART_MODEL_T8020, DART_MODEL_T8103_USB4,
						 DART_MODEL_T6000, DART_MODEL_T8110};

/* ---- the walk -------------------------------------------------------------------------------- */

#define T8020 DART_MODEL_T8020
#define T6000 DART_MODEL_T6000
#define T8110 DART_MODEL_T8110

struct word {
	uint64_t at, value;
};

struct example {
	const char *name;
	enum dart_model_kind kind;
	unsigned page_lg2, va_width, sid;
	struct word regs[2], tables[3];
	uint64_t iova;
	uint64_t read_pa, write_pa;	  /* 0: refused */
	uint32_t read_error, write_error; /* ERROR as it then reads */
};

/* clang-format off */
#define A_REGS { { 0x210, 0x80812344 }, { 0x104, 0x80 } }
#define A_L1   { 0x812344268, 0x0000000813008001 }
#define B_REGS { { 0x22c, 0x8080a5f1 }, { 0x108, 0x80 } }
#define B_L1   { 0x80a5f1038, 0x000000080a5f5001 }
#define D_REGS { { 0x220, 0x90012340 }, { 0x108, 0x80 } }
#define D_L1   { 0x10012340100, 0x0000001001236c01 }
#define E_REGS { { 0x1414, 0x008a0005 }, { 0x1014, 0x1 } }
#define E_L1   { 0x8a0007fb0, 0x000000008a001001 }
#define F_REGS { { 0x1400, 0x10400001 }, { 0x1000, 0x9 } }
#define F_L0   { 0x10400000128, 0x0000001040000401 }
#define F_L1   { 0x10400006968, 0x0000001040000c01 }

/* The leaves of A and D; C and G lie beside or on them. */
#define A_LEAF(pte) A_REGS, { A_L1, { 0x813009798, pte } }
#define C_LEAF(pte) A_REGS, { A_L1, { 0x813009790, pte } }
#define D_LEAF(pte) D_REGS, { D_L1, { 0x1001236c640, pte } }
#define E_LEAF(pte) E_REGS, { E_L1, { 0x8a0013970, pte } }

/* name; kind, page, width, stream; registers, tables; iova; where reads, writes land; ERROR of each */
static const struct example examples[] = {
	{ "A", T8020, 14, 0, 1, A_LEAF(0x000fff095678c003),
	  0x9abcde48, 0x95678de48, 0x95678de48, 0, 0 },
	{ "A read-only", T8020, 14, 0, 1, A_LEAF(0x000fff095678c083),
	  0x9abcde48, 0x95678de48, 0, 0, 0x81000408 },
	{ "A write-only", T8020, 14, 0, 1, A_LEAF(0x000fff095678c103),
	  0x9abcde48, 0, 0x95678de48, 0x81000010, 0 },
	{ "A bits below the page", T8020, 14, 0, 1, A_LEAF(0x000fff095678f003),
	  0x9abcde48, 0x95678de48, 0x95678de48, 0, 0 },
	{ "A TTBR below the page", T8020, 14, 0, 1, { { 0x210, 0x80812347 }, { 0x104, 0x80 } },
	  { A_L1, { 0x813009798, 0x000fff095678c003 } },
	  0x9abcde48, 0x95678de48, 0x95678de48, 0, 0 },
	{ "A fields zero, no window", T8020, 14, 0, 1, A_LEAF(0x000000095678c003),
	  0x9abcde48, 0x95678de48, 0x95678de48, 0, 0 },
	{ "A table as BSD writes it", T8020, 14, 0, 1, A_REGS,
	  { { 0x812344268, 0x0000000813008003 }, { 0x813009798, 0x000fff095678c003 } },
	  0x9abcde48, 0x95678de48, 0x95678de48, 0, 0 },
	{ "B", T8020, 12, 0, 2, B_REGS, { B_L1, { 0x80a5f5f70, 0x000fff080beef003 } },
	  0xc0fee123, 0x80beef123, 0x80beef123, 0, 0 },
	{ "C inside", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c001),
	  0x9abc9040, 0x95678d040, 0x95678d040, 0, 0 },
	{ "C first word", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c001),
	  0x9abc9000, 0x95678d000, 0x95678d000, 0, 0 },
	{ "C last word", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c001),
	  0x9abc9ffc, 0x95678dffc, 0x95678dffc, 0, 0 },
	{ "C before", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c001),
	  0x9abc8ffc, 0, 0, 0x81000080, 0x81000480 },
	{ "C after", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c001),
	  0x9abca000, 0, 0, 0x81000080, 0x81000480 },
	{ "C not heeded", T8020, 14, 0, 1, C_LEAF(0x4007ff095678c003),
	  0x9abc8ffc, 0x95678cffc, 0x95678cffc, 0, 0 },
	{ "C upside down", T8020, 14, 0, 1, C_LEAF(0x8007ff095678c001),
	  0x9abca000, 0, 0, 0x81000080, 0x81000480 },
	{ "D", T6000, 14, 0, 2, D_LEAF(0x000fff10abcde401),
	  0x40321abc, 0x10abcde5abc, 0x10abcde5abc, 0, 0 },
	{ "D read-only", T6000, 14, 0, 2, D_LEAF(0x000fff10abcde405),
	  0x40321abc, 0x10abcde5abc, 0, 0, 0x82000408 },
	{ "D write-only", T6000, 14, 0, 2, D_LEAF(0x000fff10abcde409),
	  0x40321abc, 0, 0x10abcde5abc, 0x82000010, 0 },
	{ "D no cache", T6000, 14, 0, 2, D_LEAF(0x000fff10abcde403),
	  0x40321abc, 0x10abcde5abc, 0x10abcde5abc, 0, 0 },
	{ "D fields zero: word 0", T6000, 14, 0, 2, D_LEAF(0x00000010abcde401),
	  0x40320000, 0x10abcde4000, 0x10abcde4000, 0, 0 },
	{ "D fields zero: word 1", T6000, 14, 0, 2, D_LEAF(0x00000010abcde403),
	  0x40320004, 0, 0, 0x82000080, 0x82000480 },
	{ "E", T8110, 14, 36, 5, E_LEAF(0x000fff009c0de401),
	  0xfedcba984, 0x9c0de6984, 0x9c0de6984, 0, 0 },
	{ "E read-only", T8110, 14, 36, 5, E_LEAF(0x000fff009c0de405),
	  0xfedcba984, 0x9c0de6984, 0, 0, 0x90500010 },
	{ "E write-only", T8110, 14, 36, 5, E_LEAF(0x000fff009c0de409),
	  0xfedcba984, 0, 0x9c0de6984, 0x80500020, 0 },
	{ "F", T8110, 14, 42, 0, F_REGS, { F_L0, F_L1, { 0x1040000cb48, 0x000fff3ffffffc01 } },
	  0x25a5a5a5a5a, 0x3ffffffda5a, 0x3ffffffda5a, 0, 0 },
	{ "F above the width", T8110, 14, 42, 0, F_REGS,
	  { F_L0, F_L1, { 0x1040000cb48, 0x000fff3ffffffc01 } },
	  0x1625a5a5a5a5a, 0x3ffffffda5a, 0x3ffffffda5a, 0, 0 },
	{ "G last word", T6000, 14, 0, 2, D_LEAF(0x400bff10abcde405),
	  0x40322ffc, 0x10abcde6ffc, 0, 0, 0x82000408 },
	{ "G after", T6000, 14, 0, 2, D_LEAF(0x400bff10abcde405),
	  0x40323000, 0, 0, 0x82000080, 0x82000408 },
	{ "G before", T6000, 14, 0, 2, D_LEAF(0x400bff10abcde401),
	  0x40320ffc, 0, 0, 0x82000080, 0x82000480 },
	{ "G on t8110", T8110, 14, 0, 2, { { 0x1408, 0x10012341 }, { 0x1008, 0x1 } },
	  { D_L1, { 0x1001236c640, 0x400bff10abcde401 } },
	  0x40320ffc, 0, 0, 0xa0200000, 0xb0200000 },
};
/* clang-format on */

static void check_example(struct machine *m, const struct example *ex, bool write)
{
	uint64_t want = write ? ex->write_pa : ex->read_pa;
	uint32_t word = 0xfeedf00d, got = 0;
	uint64_t pa = 0;
	int ret, probed;

	m->cfg.page_lg2 = ex->page_lg2;
	m->cfg.va_width = ex->va_width;
	m->cfg.pa_width = ex->kind == T8110 ? 42 : 0;
	power_on(m, ex->kind);
	for (unsigned i = 0; i < ARRAY_SIZE(ex->tables) && ex->tables[i].at; i++)
		poke(m, ex->tables[i].at, ex->tables[i].value);
	for (unsigned i = 0; i < ARRAY_SIZE(ex->regs); i++)
		wr(m, ex->regs[i].at, ex->regs[i].value);
	if (want && !write)
		memcpy(ram(m, want), &word, sizeof(word));
	else if (want)
		ram(m, want);

	probed = dart_model_probe(m->dart, ex->sid, ex->iova, write, &pa);
	ret = write ? dart_model_dma_write(m->dart, ex->sid, ex->iova, &word, sizeof(word))
		    : dart_model_dma_read(m->dart, ex->sid, ex->iova, &got, sizeof(got));
	if (want && !ret && write)
		memcpy(&got, ram(m, want), sizeof(got));
	if (ret != probed || (want ? ret || pa != want || got != word : ret != -EFAULT) ||
	    error(m) != (write ? ex->write_error : ex->read_error))
		fail_msg("%s, %s: dma %d, probe %d to %#lx, ERROR %#x", ex->name,
			 write ? "write" : "read", ret, probed, pa, error(m));
	if (!want)
		assert_int_equal(error_addr(m), ex->iova);
}

static void worked_examples_land_where_they_say(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(examples); i++) {
		check_example(*state, &examples[i], false);
		check_example(*state, &examples[i], true);
	}
}

static void four_ttbrs_divide_the_iova_space(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	translate_on(m, 3);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t root = ROOT + i * PAGE, leaves = LEAVES + i * PAGE;

		wr(m, DART_V1_TTBR(3, i), root >> 12 | BIT(31));
		poke(m, root, entry(m, leaves));
		poke(m, leaves, entry(m, FRAME(i)));
	}
	for (uint64_t i = 0; i < 4; i++) {
		assert_int_equal(lands(m, 3, i << 36 | 0x123), FRAME(i) | 0x123);
		/* and what lies above these two bits counts for nothing */
		assert_int_equal(lands(m, 3, i << 36 | BIT(38) | BIT(63) | 0x123),
				 FRAME(i) | 0x123);
	}
}

static void iova_bits_above_a_configured_width_count_for_nothing(void **state)
{
	struct machine *m = *state;

	m->cfg.va_width = 32;
	power_on(m, T8020);
	attach(m, 0);
	map(m, 1, FRAME(1));
	for (unsigned bit = 32; bit < 64; bit++)
		assert_int_equal(lands(m, 0, BIT(bit) | 0x4008), FRAME(1) | 8);
	assert_int_equal(lands(m, 0, BIT(31) | 0x4008), 0);

	m->cfg.va_width = 36;
	power_on(m, T8110);
	attach(m, 0);
	map(m, 1, FRAME(1));
	assert_int_equal(lands(m, 0, BIT(36) | 0x4008), FRAME(1) | 8);
	assert_int_equal(lands(m, 0, BIT(35) | 0x4008), 0);
}

static void iova_bits_above_three_levels_are_the_same_page(void **state)
{
	struct machine *m = *state;

	/* A wide DART whose stream walks three levels: found in the TLB under either name. */
	m->cfg.va_width = 42;
	power_on(m, T8110);
	number_frames(m, 1);
	attach(m, 0);
	map(m, 1, FRAME(0));
	assert_int_equal(frame_read(m, 0, BIT(41) | PAGE), 0);
	poke(m, LEAF_PA(1), 0);
	assert_int_equal(lands(m, 0, PAGE), FRAME(0));
}

static void four_levels_are_not_in_revision_one(void **state)
{
	struct machine *m = *state;

	power_on(m, T8110);
	wr(m, DART_T8110_TCR(0), 9);
	assert_int_equal(rd(m, DART_T8110_TCR(0)), 1);
	m->cfg.va_width = 42;
	power_on(m, T8110);
	wr(m, DART_T8110_TCR(0), 9);
	assert_int_equal(rd(m, DART_T8110_TCR(0)), 9);
}

/* ---- registers ------------------------------------------------------------------------------- */

static void params_say_what_was_configured(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	assert_int_equal(rd(m, 0x00), 0x0e000000);
	assert_int_equal(rd(m, 0x04), 0);
	m->cfg.page_lg2 = 12;
	m->cfg.bypass_support = true;
	power_on(m, T8020);
	assert_int_equal(rd(m, 0x00), 0x0c000000);
	assert_int_equal(rd(m, 0x04), 1);

	m->cfg.page_lg2 = 14;
	power_on(m, T8110);
	assert_int_equal(rd(m, 0x00) & 0x0f000000, 0x0e000000);
	assert_int_equal(rd(m, 0x04) & 1, 1);
	assert_int_equal(rd(m, 0x08), 0x24240100);
	assert_int_equal(rd(m, 0x0c) & 0x1ff, 0x10);
	m->cfg.va_width = 42;
	m->cfg.nr_streams = 256;
	power_on(m, T8110);
	assert_int_equal(rd(m, 0x08), 0x2a2a0200);
	assert_int_equal(rd(m, 0x0c) & 0x1ff, 256);
}

static void a_dart_that_none_is_is_refused(void **state)
{
	static const struct dart_model_cfg none[] = {
		{.kind = T8020, .page_lg2 = 13},
		{.kind = T8020},
		{.kind = T6000, .page_lg2 = 12},
		{.kind = T8110, .page_lg2 = 12},
		{.kind = DART_MODEL_T8103_USB4, .page_lg2 = 12},
		{.kind = DART_MODEL_T8110 + 1, .page_lg2 = 14},
		{.kind = T8020, .page_lg2 = 14, .va_width = 39},
		{.kind = T8020, .page_lg2 = 12, .va_width = 33},
		{.kind = T8110, .page_lg2 = 14, .va_width = 31},
		{.kind = T8110, .page_lg2 = 14, .va_width = 48},
		{.kind = T8110, .page_lg2 = 14, .pa_width = 43},
		{.kind = T8020, .page_lg2 = 14, .pa_width = 42},
		{.kind = T8110, .page_lg2 = 14, .nr_streams = 257},
		{.kind = T8020, .page_lg2 = 14, .nr_streams = 15},
	};
	struct machine *m = *state;
	struct dart_model *dart = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(none); i++) {
		struct dart_model_cfg cfg = none[i];

		cfg.mem = mem;
		cfg.mem_ctx = m;
		if (dart_model_create(&cfg, &dart) != -EINVAL)
			fail_msg("configuration %u was taken", i);
	}
	m->cfg.mem = NULL;
	assert_int_equal(dart_model_create(&m->cfg, &dart), -EINVAL);
	m->cfg.mem = mem;
	iommu_alloc_fail_nth(1);
	assert_int_equal(dart_model_create(&m->cfg, &dart), -ENOMEM);
	assert_null(dart);
}

static void registers_of_every_stream_are_where_they_belong(void **state)
{
	/* offset of the TCR, of TTBR 0, of the last TTBR of the last stream */
	static const struct {
		enum dart_model_kind kind;
		unsigned nr_streams, sid;
		uint32_t tcr, ttbr, last;
	} rows[] = {
		{T8020, 0, 15, 0x13c, 0x2f0, 0x2fc},
		{T6000, 0, 15, 0x13c, 0x2f0, 0x2fc},
		{DART_MODEL_T8103_USB4, 0, 63, 0x1fc, 0x7f0, 0x7fc},
		{T8110, 256, 255, 0x13fc, 0x17fc, 0x17fc},
	};
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		m->cfg.nr_streams = rows[i].nr_streams;
		power_on(m, rows[i].kind);
		poke(m, ROOT, entry(m, LEAVES));
		map(m, 0, FRAME(0));
		wr(m, rows[i].ttbr, is_t8110(m) ? ROOT >> 12 | 1 : ROOT >> 12 | BIT(31));
		wr(m, rows[i].tcr, is_t8110(m) ? 1 : 0x80);
		for (unsigned sid = 0; sid < rows[i].sid; sid++)
			assert_int_equal(lands(m, sid, 0), 0);
		assert_int_equal(lands(m, rows[i].sid, 0), FRAME(0));
		/* No stream, no register, no access. */
		assert_int_equal(lands(m, rows[i].sid + 1, 0), 0);
		wr(m, rows[i].tcr + 4, ~0u);
		wr(m, rows[i].last + 4, ~0u);
		assert_int_equal(rd(m, rows[i].last + 4), 0);
	}
}

static void unknown_registers_read_as_zero(void **state)
{
	static const uint32_t t8020_unknown[] = {0x08,	 0x0c, 0x38,  0x44,  0x48,
						 0x90,	 0xf8, 0x140, 0x1fc, 0x300,
						 0x3ffc, 0x35, 0x102, 0x201, 0xfffffffc};
	struct machine *m = *state;

	power_on(m, T8020);
	for (unsigned i = 0; i < ARRAY_SIZE(t8020_unknown); i++) {
		wr(m, t8020_unknown[i], ~0u);
		assert_int_equal(rd(m, t8020_unknown[i]), 0);
	}
	assert_int_equal(rd(m, DART_V1_TCR(0)), 0);
	assert_int_equal(rd(m, DART_V1_TTBR(0, 0)), 0);
}

static void no_stream_is_let_in_until_it_is_enabled(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	attach(m, 3);
	map(m, 0, FRAME(0));
	wr(m, 0xfc, ~BIT(3));
	assert_int_equal(lands(m, 3, 0), 0);
	wr(m, 0xfc, BIT(3));
	assert_int_equal(lands(m, 3, 0), FRAME(0));

	power_on(m, DART_MODEL_T8103_USB4);
	attach(m, 35);
	map(m, 0, FRAME(0));
	wr(m, 0xf8, ~0u);
	wr(m, 0xfc, ~BIT(3));
	assert_int_equal(lands(m, 35, 0), 0);
	wr(m, 0xfc, BIT(3));
	assert_int_equal(lands(m, 35, 0), FRAME(0));

	m->cfg.nr_streams = 256;
	power_on(m, T8110);
	attach(m, 255);
	map(m, 0, FRAME(0));
	wr(m, 0xc20 + 4 * 7, BIT(31));
	assert_int_equal(rd(m, 0xc1c), 0x7fffffff);
	assert_int_equal(lands(m, 255, 0), 0);
	/* Zeros neither set nor clear. */
	wr(m, 0xc1c, 0);
	wr(m, 0xc3c, 0);
	assert_int_equal(rd(m, 0xc1c), 0x7fffffff);
	wr(m, 0xc1c, BIT(31));
	assert_int_equal(lands(m, 255, 0), FRAME(0));
}

static void after_reset_nothing_is_enabled_or_heard(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		m->cfg.kind = all_kinds[i];
		m->line = false;
		dart_model_destroy(m->dart);
		assert_int_equal(dart_model_create(&m->cfg, &m->dart), 0);
		attach(m, 1);
		map(m, 0, FRAME(0));
		assert_int_equal(dma_read(m, 1, 0), -EFAULT);
		assert_int_equal(m->line, !is_t8110(m));
		assert_int_not_equal(error(m), 0);
	}
}

static void a_locked_dart_takes_no_tcr_and_no_ttbr(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		uint32_t says_so = all_kinds[i] == T8110 ? DART_T8110_PROTECT : DART_V1_CONFIG;
		uint32_t bit = all_kinds[i] == T8110 ? 1 : 0x8000;

		power_on(m, all_kinds[i]);
		attach(m, 1);
		map(m, 0, FRAME(0));
		assert_int_equal(rd(m, says_so) & bit, 0);
		quirks(m, (struct dart_model_quirks){.locked = true});
		assert_int_equal(rd(m, says_so) & bit, bit);
		write_ttbr(m, 1, 0);
		write_tcr(m, 1, 0);
		flush(m, 1);
		assert_int_equal(lands(m, 1, 0), FRAME(0));
		quirks(m, (struct dart_model_quirks){0});
		write_tcr(m, 1, 0);
		assert_int_equal(lands(m, 1, 0), 0);
	}
}

static void a_lock_that_software_sets_stays(void **state)
{
	struct machine *m = *state;

	power_on(m, T6000);
	attach(m, 1);
	wr(m, 0x60, 0x8000);
	wr(m, 0x60, 0);
	assert_int_equal(rd(m, 0x60), 0x8000);
	wr(m, DART_V1_TCR(1), 0);
	wr(m, DART_V1_TTBR(1, 0), 0);
	assert_int_equal(rd(m, DART_V1_TCR(1)), 0x80);
	assert_int_equal(rd(m, DART_V1_TTBR(1, 0)), ROOT >> 12 | BIT(31));

	power_on(m, T8110);
	attach(m, 1);
	wr(m, 0x200, 1);
	wr(m, DART_T8110_TCR(1), 0);
	assert_int_equal(rd(m, DART_T8110_TCR(1)), 1);
	wr(m, 0x204, 1);
	assert_int_equal(rd(m, 0x200), 0);
	wr(m, DART_T8110_TTBR(1), 0);
	assert_int_equal(rd(m, DART_T8110_TTBR(1)), 0);
	wr(m, 0x208, 1);
	/* The lock alone protects nothing; protection can be added and not taken away. */
	wr(m, DART_T8110_TCR(1), 0);
	assert_int_equal(rd(m, DART_T8110_TCR(1)), 0);
	wr(m, 0x200, 3);
	wr(m, 0x204, 3);
	assert_int_equal(rd(m, 0x200), 1);
	wr(m, DART_T8110_TCR(1), 1);
	assert_int_equal(rd(m, DART_T8110_TCR(1)), 0);
}

static void a_read_only_ttbr_says_nothing(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		power_on(m, all_kinds[i]);
		attach(m, 1);
		map(m, 0, FRAME(0));
		quirks(m, (struct dart_model_quirks){.ttbr_read_only = true});
		write_ttbr(m, 1, 0);
		flush(m, 1);
		assert_int_equal(lands(m, 1, 0), FRAME(0));
		assert_int_equal(rd(m, is_t8110(m) ? DART_T8110_PROTECT : DART_V1_CONFIG), 0);
		write_tcr(m, 1, 0);
		assert_int_equal(lands(m, 1, 0), 0);
	}
}

static void firmware_ran_before_any_lock(void **state)
{
	struct machine *m = *state;
	uint32_t v1[4] = {ROOT >> 12 | BIT(31)}, v2[4] = {ROOT >> 12 | 1};

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		m->cfg.kind = all_kinds[i];
		forget_memory(m);
		dart_model_destroy(m->dart);
		assert_int_equal(dart_model_create(&m->cfg, &m->dart), 0);
		quirks(m, (struct dart_model_quirks){.locked = true, .ttbr_read_only = true});
		dart_model_firmware(m->dart, 2, is_t8110(m) ? v2 : v1, is_t8110(m) ? 1 : 0x80);
		dart_model_firmware(m->dart, 64, v1, 0x80);
		dart_model_firmware(m->dart, 1u << 30, v1, 0x80);
		poke(m, ROOT, entry(m, LEAVES));
		map(m, 5, FRAME(5));
		assert_int_equal(lands(m, 2, 5 * PAGE), FRAME(5));
		assert_int_equal(lands(m, 1, 5 * PAGE), 0);
	}
}

static void a_remapped_stream_uses_the_context_of_its_target(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(rd(m, 0x80 + 4 * i), 0x03020100 + 0x04040404 * i);
	attach(m, 2);
	map(m, 0, FRAME(0));
	number_frames(m, 2);
	assert_int_equal(lands(m, 5, 0), 0);
	wr(m, 0x84, 0x07060204); /* SID 5 to 2 */
	assert_int_equal(frame_read(m, 5, 0), 0);
	/* Its TLB entries are the target's: found by both, and gone with the target's. */
	map(m, 0, FRAME(1));
	assert_int_equal(frame_read(m, 2, 0), 0);
	flush(m, 5);
	assert_int_equal(frame_read(m, 5, 0), 0);
	flush(m, 2);
	assert_int_equal(frame_read(m, 5, 0), 1);
	/* A fault is the requester's. */
	assert_int_equal(dma_read(m, 5, PAGE), -EFAULT);
	assert_int_equal(error(m), 0x85000004);
	/* There is no stream 0x12. */
	wr(m, 0x84, 0x07061204);
	assert_int_equal(lands(m, 5, 0), 0);

	power_on(m, T8110);
	attach(m, 2);
	map(m, 0, FRAME(0));
	write_tcr(m, 5, BIT(7) | 2 << 8);
	assert_int_equal(lands(m, 5, 0), FRAME(0));
	write_tcr(m, 5, 2 << 8);
	assert_int_equal(lands(m, 5, 0), 0);
}

static void bypass_passes_only_where_it_is_supported(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		uint32_t bypass = all_kinds[i] == T8110 ? 6 : 0x1100;
		uint32_t translate = all_kinds[i] == T8110 ? 1 : 0x80;

		m->cfg.bypass_support = true;
		power_on(m, all_kinds[i]);
		number_frames(m, 2);
		write_tcr(m, 1, bypass);
		assert_int_equal(lands(m, 1, FRAME(1) + 5), FRAME(1) + 5);
		assert_int_equal(frame_read(m, 1, FRAME(1) + 8), 1);
		assert_int_equal(frame_read(m, 0, FRAME(1) + 8), -EFAULT);
		/* Both at once is none of the two. */
		attach(m, 2);
		map(m, 0, FRAME(0));
		write_tcr(m, 2, bypass | translate);
		assert_int_equal(lands(m, 2, 0), 0);
		assert_int_equal(lands(m, 2, FRAME(1)), 0);

		m->cfg.bypass_support = false;
		power_on(m, all_kinds[i]);
		number_frames(m, 2);
		write_tcr(m, 1, bypass);
		assert_int_equal(lands(m, 1, FRAME(1)), 0);
	}
}

/* ---- the TLB --------------------------------------------------------------------------------- */

/* A DART of that kind whose stream @sid maps page 0 to FRAME(0), and has seen it. */
static void warm(struct machine *m, enum dart_model_kind kind, unsigned sid)
{
	power_on(m, kind);
	number_frames(m, 4);
	attach(m, sid);
	map(m, 0, FRAME(0));
	assert_int_equal(frame_read(m, sid, 0), 0);
}

static void a_translation_stays_until_it_is_invalidated(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 3);
		map(m, 0, FRAME(1));
		assert_int_equal(frame_read(m, 3, 8), 0);
		poke(m, LEAF_PA(0), 0);
		assert_int_equal(frame_read(m, 3, 16), 0);
		assert_int_equal(lands(m, 3, 24), FRAME(0) + 24);
		flush(m, 3);
		assert_int_equal(frame_read(m, 3, 8), -EFAULT);
		assert_int_equal(lands(m, 3, 24), 0);
	}
}

static void not_mapped_is_remembered_until_it_is_invalidated(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		power_on(m, all_kinds[i]);
		number_frames(m, 2);
		poke(m, ROOT, entry(m, LEAVES));
		map(m, 0, FRAME(0));
		translate_on(m, 1);
		/* no TTBR */
		assert_int_equal(frame_read(m, 1, 0), -EFAULT);
		write_ttbr(m, 1, ROOT);
		assert_int_equal(frame_read(m, 1, 0), -EFAULT);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, 0), 0);
		/* no L1 entry */
		poke(m, ROOT, 0);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, 0), -EFAULT);
		poke(m, ROOT, entry(m, LEAVES));
		assert_int_equal(frame_read(m, 1, 0), -EFAULT);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, 0), 0);
		/* no leaf */
		assert_int_equal(lands(m, 1, PAGE), 0);
		assert_int_equal(frame_read(m, 1, PAGE), -EFAULT);
		map(m, 1, FRAME(1));
		assert_int_equal(frame_read(m, 1, PAGE), -EFAULT);
		assert_int_equal(lands(m, 1, PAGE), 0);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, PAGE), 1);
	}
}

static void an_entry_of_a_table_is_remembered_like_a_leaf(void **state)
{
	struct machine *m = *state;
	uint64_t other = LEAVES + PAGE, l1 = ROOT + PAGE;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		map(m, 1, FRAME(1));
		poke(m, other + 8, entry(m, FRAME(2)));
		poke(m, ROOT, entry(m, other));
		/* A page that was never looked up, in a table that was. */
		assert_int_equal(lands(m, 1, PAGE), FRAME(1));
		write_ttbr(m, 1, 0);
		assert_int_equal(lands(m, 1, PAGE), FRAME(1));
		write_ttbr(m, 1, ROOT);
		flush(m, 1);
		assert_int_equal(lands(m, 1, PAGE), FRAME(2));
	}

	/* and at the top of four levels */
	m->cfg.va_width = 42;
	power_on(m, T8110);
	number_frames(m, 4);
	poke(m, ROOT, entry(m, l1));
	poke(m, l1, entry(m, LEAVES));
	poke(m, l1 + 8, entry(m, LEAVES));
	map(m, 0, FRAME(0));
	write_ttbr(m, 1, ROOT);
	write_tcr(m, 1, 9);
	assert_int_equal(frame_read(m, 1, 0), 0);
	poke(m, ROOT, 0);
	assert_int_equal(lands(m, 1, BIT(25)), FRAME(0));
	flush(m, 1);
	assert_int_equal(lands(m, 1, BIT(25)), 0);
}

static void entries_of_different_tables_are_not_taken_for_each_other(void **state)
{
	struct machine *m = *state;
	uint64_t low = ROOT + PAGE, high = ROOT + 2 * PAGE;

	/* The same index, 1, of the L0 table (64 GiB) and of an L1 table (32 MiB). */
	m->cfg.va_width = 42;
	power_on(m, T8110);
	number_frames(m, 2);
	poke(m, ROOT, entry(m, low));
	poke(m, ROOT + 8, entry(m, high));
	poke(m, low + 8, entry(m, LEAVES + PAGE));
	poke(m, high, entry(m, LEAVES));
	poke(m, high + 8, entry(m, LEAVES));
	map(m, 0, FRAME(0));
	poke(m, LEAVES + PAGE, entry(m, FRAME(1)));
	write_ttbr(m, 1, ROOT);
	write_tcr(m, 1, 9);
	assert_int_equal(frame_read(m, 1, BIT(36)), 0);
	assert_int_equal(frame_read(m, 1, BIT(25)), 1);
	assert_int_equal(frame_read(m, 1, BIT(36) | BIT(25)), 0);
}

static void rights_and_windows_are_remembered_with_the_leaf(void **state)
{
	struct machine *m = *state;

	warm(m, T6000, 1);
	poke(m, LEAF_PA(0), entry(m, FRAME(0)) | 0x0c); /* no rights at all */
	assert_int_equal(frame_read(m, 1, 0), 0);
	flush(m, 1);
	assert_int_equal(frame_read(m, 1, 0), -EFAULT);
	poke(m, LEAF_PA(0), entry(m, FRAME(0)));
	assert_int_equal(frame_read(m, 1, 0), -EFAULT);
	flush(m, 1);
	assert_int_equal(frame_read(m, 1, 0), 0);
	poke(m, LEAF_PA(0), entry(m, FRAME(0)) & ~GENMASK(51, 40)); /* word 0 only */
	assert_int_equal(frame_read(m, 1, 8), 0);
	flush(m, 1);
	assert_int_equal(frame_read(m, 1, 8), -EFAULT);
}

static void blocking_a_stream_blocks_it_at_once(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		write_tcr(m, 1, 0);
		assert_int_equal(frame_read(m, 1, 0), -EFAULT);
		/* but it is no invalidation */
		map(m, 0, FRAME(1));
		translate_on(m, 1);
		assert_int_equal(frame_read(m, 1, 0), 0);
	}
}

static void an_invalidation_of_other_streams_leaves_this_one_stale(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 3);
		attach(m, 4);
		assert_int_equal(frame_read(m, 4, 0), 0);
		map(m, 0, FRAME(1));
		flush(m, 4);
		assert_int_equal(frame_read(m, 3, 0), 0);
		assert_int_equal(frame_read(m, 4, 0), 1);
		map(m, 0, FRAME(2));
		flush(m, 3);
		assert_int_equal(frame_read(m, 3, 0), 2);
		assert_int_equal(frame_read(m, 4, 0), 1);
	}
}

static void v1_invalidates_what_is_selected_when_told_to(void **state)
{
	struct machine *m = *state;

	warm(m, T8020, 3);
	attach(m, 4);
	assert_int_equal(frame_read(m, 4, 0), 0);
	map(m, 0, FRAME(1));
	wr(m, 0x34, 0);
	wr(m, 0x20, 0x100000); /* nobody */
	assert_int_equal(frame_read(m, 3, 0), 0);
	wr(m, 0x34, 0x18);
	assert_int_equal(rd(m, 0x34), 0x18);
	wr(m, 0x20, 0xffefffff); /* no INVALIDATE */
	assert_int_equal(frame_read(m, 3, 0), 0);
	wr(m, 0x20, 0x100000); /* both */
	assert_int_equal(frame_read(m, 3, 0), 1);
	assert_int_equal(frame_read(m, 4, 0), 1);
}

static void usb4_selects_the_upper_streams_by_the_second_word(void **state)
{
	struct machine *m = *state;

	warm(m, DART_MODEL_T8103_USB4, 35);
	attach(m, 3);
	assert_int_equal(frame_read(m, 3, 0), 0);
	map(m, 0, FRAME(1));
	wr(m, 0x34, BIT(3));
	wr(m, 0x38, 0);
	wr(m, 0x20, 0x100000);
	assert_int_equal(frame_read(m, 35, 0), 0);
	assert_int_equal(frame_read(m, 3, 0), 1);
	map(m, 0, FRAME(2));
	wr(m, 0x34, 0);
	wr(m, 0x38, BIT(3));
	wr(m, 0x20, 0x100000);
	assert_int_equal(frame_read(m, 35, 0), 2);
	assert_int_equal(frame_read(m, 3, 0), 1);
}

static void t8110_invalidates_one_stream_or_all(void **state)
{
	struct machine *m = *state;

	m->cfg.nr_streams = 256;
	warm(m, T8110, 3);
	attach(m, 200);
	assert_int_equal(frame_read(m, 200, 0), 0);
	map(m, 0, FRAME(1));
	wr(m, 0x80, 0x500 | 3); /* no such operation */
	assert_int_equal(frame_read(m, 3, 0), 0);
	wr(m, 0x80, 0x100 | 200);
	assert_int_equal(frame_read(m, 3, 0), 0);
	assert_int_equal(frame_read(m, 200, 0), 1);
	map(m, 0, FRAME(2));
	wr(m, 0x80, 0);
	assert_int_equal(frame_read(m, 3, 0), 2);
	assert_int_equal(frame_read(m, 200, 0), 2);
}

static void the_tlb_is_small(void **state)
{
	struct machine *m = *state;

	warm(m, T8110, 1);
	for (unsigned i = 1; i < 1024; i++) {
		map(m, i, FRAME(1));
		assert_int_equal(frame_read(m, 1, (uint64_t)i * PAGE), 1);
	}
	for (unsigned i = 0; i < 256; i++) {
		map(m, i, FRAME(2));
		assert_int_equal(frame_read(m, 1, (uint64_t)i * PAGE), 2);
	}
	/* and holds what it can: a handful of pages in turn are no reason to forget one */
	for (unsigned i = 0; i < 8; i++)
		assert_int_not_equal(frame_read(m, 1, (uint64_t)i * PAGE), -EFAULT);
	for (unsigned i = 0; i < 8; i++)
		map(m, i, FRAME(3));
	for (unsigned i = 0; i < 8; i++)
		assert_int_not_equal(frame_read(m, 1, (uint64_t)i * PAGE), 3);
}

static void without_a_tlb_every_access_walks(void **state)
{
	struct machine *m = *state;
	struct dart_model_stats stats;

	m->cfg.tlb = false;
	warm(m, T8020, 1);
	map(m, 0, FRAME(1));
	assert_int_equal(frame_read(m, 1, 0), 1);
	dart_model_get_stats(m->dart, &stats);
	assert_int_equal(stats.walks, 2);
	assert_int_equal(stats.tlb_hits, 0);
}

/* After how many accesses a stale page is gone, under random eviction. */
static unsigned accesses_until_evicted(struct machine *m, uint64_t seed)
{
	warm(m, T8110, 1);
	map(m, 0, FRAME(1));
	quirks(m, (struct dart_model_quirks){.evict_one_in = 3, .seed = seed});
	for (unsigned n = 1; n < 10000; n++)
		if (frame_read(m, 1, 0) == 1)
			return n;
	fail_msg("never evicted");
	return 0;
}

static void entries_are_evicted_at_random_on_request(void **state)
{
	unsigned seen[16], different = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
		seen[i] = accesses_until_evicted(*state, i);
		different += seen[i] != seen[0];
	}
	assert_int_not_equal(different, 0);
	/* Seldom is seldom. */
	warm(*state, T8110, 1);
	map(*state, 0, FRAME(1));
	quirks(*state, (struct dart_model_quirks){.evict_one_in = 1000000, .seed = 1});
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(frame_read(*state, 1, 0), 0);
	/* The same seed does the same. */
	for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
		assert_int_equal(accesses_until_evicted(*state, i), seen[i]);
}

static void a_probe_leaves_no_trace(void **state)
{
	struct machine *m = *state;
	struct dart_model_stats before, after;

	power_on(m, T8110);
	number_frames(m, 2);
	attach(m, 1);
	map(m, 0, FRAME(0));
	quirks(m, (struct dart_model_quirks){.evict_one_in = 1});
	dart_model_get_stats(m->dart, &before);
	assert_int_equal(lands(m, 1, 0), FRAME(0));
	assert_int_equal(lands(m, 1, PAGE), 0);	   /* no leaf */
	assert_int_equal(lands(m, 1, BIT(25)), 0); /* no L1 entry */
	translate_on(m, 2);
	assert_int_equal(lands(m, 2, 0), 0); /* no TTBR */
	dart_model_get_stats(m->dart, &after);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_int_equal(error(m), 0);
	assert_int_equal(m->nr_line_changes, 0);
	/* Nothing was remembered either, and nothing forgotten. */
	map(m, 0, FRAME(1));
	map(m, 1, FRAME(1));
	poke(m, ROOT + 8, entry(m, LEAVES));
	quirks(m, (struct dart_model_quirks){0});
	assert_int_equal(frame_read(m, 1, BIT(25)), 1);
	write_ttbr(m, 2, ROOT);
	assert_int_equal(frame_read(m, 2, 0), 1);
	assert_int_equal(frame_read(m, 1, 0), 1);
	assert_int_equal(frame_read(m, 1, PAGE), 1);
	map(m, 0, FRAME(0));
	quirks(m, (struct dart_model_quirks){.evict_one_in = 1});
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(lands(m, 1, 0), FRAME(1));
}

static void what_happens_is_counted(void **state)
{
	struct machine *m = *state;
	struct dart_model_stats stats;
	uint8_t buf[2 * PAGE];

	power_on(m, T6000);
	number_frames(m, 2);
	attach(m, 1);
	map(m, 0, FRAME(0));
	map(m, 1, FRAME(1));
	assert_int_equal(dart_model_dma_read(m->dart, 1, 0, buf, sizeof(buf)), 0);
	assert_int_equal(dart_model_dma_read(m->dart, 1, 0, buf, sizeof(buf)), 0);
	assert_int_equal(dma_read(m, 1, 2 * PAGE), -EFAULT);
	assert_int_equal(dma_read(m, 1, 2 * PAGE), -EFAULT);
	dart_model_get_stats(m->dart, &stats);
	assert_int_equal(stats.accesses, 6);
	assert_int_equal(stats.walks, 3);
	assert_int_equal(stats.tlb_hits, 3);
	assert_int_equal(stats.faults, 2);
	assert_int_equal(stats.invalidations, 1);
}

/* ---- invalidations that are slow, or hang ---------------------------------------------------- */

#define HOUR_NS UINT64_C(3600000000000)

static void a_slow_invalidation_keeps_stale_entries_until_its_end(void **state)
{
	struct machine *m = *state;
	struct dart_model_stats stats;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		quirks(m, (struct dart_model_quirks){.invalidate_delay_ns = HOUR_NS});
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		assert_true(busy(m));
		assert_false(dart_model_draining(m->dart));
		assert_int_equal(frame_read(m, 1, 0), 0);
		assert_true(busy(m));
		dart_model_get_stats(m->dart, &stats);
		assert_int_equal(stats.invalidations, 1);

		warm(m, all_kinds[i], 1);
		quirks(m, (struct dart_model_quirks){.invalidate_delay_ns = UINT64_MAX});
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		assert_true(busy(m));

		warm(m, all_kinds[i], 1);
		quirks(m, (struct dart_model_quirks){.invalidate_delay_ns = 200000});
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		while (busy(m)) {
			uint64_t pa = lands(m, 1, 0);

			/* Only what is still running afterwards was running then. */
			assert_true(pa == FRAME(0) || !busy(m));
		}
		assert_int_equal(lands(m, 1, 0), FRAME(1));
	}
}

static void a_slow_invalidation_ends_though_nobody_looks(void **state)
{
	struct machine *m = *state;
	struct timespec start, now;

	warm(m, T8110, 1);
	quirks(m, (struct dart_model_quirks){.invalidate_delay_ns = 200000});
	map(m, 0, FRAME(1));
	begin_flush(m, 1);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < 200000);
	assert_int_equal(frame_read(m, 1, 0), 1);
}

static void an_invalidation_also_takes_what_came_after_its_start(void **state)
{
	struct machine *m = *state;

	warm(m, T8020, 1);
	map(m, 1, FRAME(1));
	quirks(m, (struct dart_model_quirks){.invalidate_hangs = true});
	begin_flush(m, 1);
	assert_int_equal(frame_read(m, 1, PAGE), 1);
	map(m, 1, FRAME(2));
	quirks(m, (struct dart_model_quirks){0});
	assert_false(busy(m));
	assert_int_equal(frame_read(m, 1, PAGE), 2);
}

static void an_invalidation_hangs_on_request(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		map(m, 0, FRAME(1));
		quirks(m, (struct dart_model_quirks){.invalidate_hangs = true});
		begin_flush(m, 1);
		for (unsigned n = 0; n < 100; n++) {
			assert_true(busy(m));
			assert_false(dart_model_draining(m->dart));
			assert_int_equal(frame_read(m, 1, 0), 0);
		}
		quirks(m, (struct dart_model_quirks){.invalidate_hangs = true, .seed = 1});
		assert_true(busy(m));
		/* Let go, it ends. */
		quirks(m, (struct dart_model_quirks){0});
		assert_false(busy(m));
		assert_int_equal(frame_read(m, 1, 0), 1);
	}
}

static void the_nth_invalidation_from_now_hangs_once(void **state)
{
	struct machine *m = *state;
	struct dart_model_quirks q = {.fail_invalidation = 3};

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		attach(m, 2);
		assert_int_equal(frame_read(m, 2, 0), 0);
		quirks(m, (struct dart_model_quirks){.fail_invalidation = 3});
		flush(m, 1);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, 0), 0);
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		assert_true(busy(m));
		dart_model_get_quirks(m->dart, &q);
		assert_int_equal(q.fail_invalidation, 0);
		/* The next takes its place, for its own stream only. */
		flush(m, 2);
		assert_int_equal(frame_read(m, 1, 0), 0);
		assert_int_equal(frame_read(m, 2, 0), 1);
		flush(m, 1);
		assert_int_equal(frame_read(m, 1, 0), 1);
	}
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* What is done to a stream that maps page 0, to make a read or write of iova 8 fail. */
struct mishap {
	const char *name;
	void (*do_it)(struct machine *m);
	bool write;
	uint32_t v1, t8110; /* ERROR of stream 1 */
};

static void no_ttbr(struct machine *m)
{
	write_ttbr(m, 1, 0);
}

static void no_l1_entry(struct machine *m)
{
	poke(m, ROOT, entry(m, LEAVES) & ~UINT64_C(1));
}

static void no_leaf(struct machine *m)
{
	poke(m, LEAF_PA(0), entry(m, FRAME(0)) & ~UINT64_C(1));
}

static void no_rights(struct machine *m)
{
	map(m, 0,
	    FRAME(0) |
		    (m->cfg.kind == T8020 || m->cfg.kind == DART_MODEL_T8103_USB4 ? 0x180 : 0xc0));
}

static void small_window(struct machine *m)
{
	poke(m, LEAF_PA(0), entry(m, FRAME(0)) & ~GENMASK(51, 40));
}

static void table_fetch_fails(struct machine *m)
{
	quirks(m, (struct dart_model_quirks){.bus_error_pa = LEAVES + 4, .bus_error_len = 1});
}

static void table_fetch_of_the_top_fails(struct machine *m)
{
	quirks(m, (struct dart_model_quirks){.bus_error_pa = 0, .bus_error_len = ROOT + 1});
}

static void no_memory_for_tables(struct machine *m)
{
	poke(m, ROOT, entry(m, 0x800ff0000));
}

static void no_memory_for_data(struct machine *m)
{
	map(m, 0, 0x800ff0000);
}

static void blocked(struct machine *m)
{
	write_tcr(m, 1, 0);
}

static void not_let_in(struct machine *m)
{
	wr(m, DART_T8110_DISABLE_STREAMS(0), 2);
	wr(m, DART_V1_STREAMS_ENABLE, ~2u);
	wr(m, DART_USB4_STREAMS_ENABLE(0), ~2u);
}

static void both_modes(struct machine *m)
{
	write_tcr(m, 1, is_t8110(m) ? 3 : 0x180);
}

static const struct mishap mishaps[] = {
	{"no TTBR, read", no_ttbr, false, 0x81000001, 0x80100001},
	{"no TTBR, write", no_ttbr, true, 0x81000401, 0x90100001},
	{"no L1 entry, read", no_l1_entry, false, 0x81000002, 0x80100004},
	{"no L1 entry, write", no_l1_entry, true, 0x81000402, 0x90100004},
	{"no leaf, read", no_leaf, false, 0x81000004, 0x80100008},
	{"no leaf, write", no_leaf, true, 0x81000404, 0x90100008},
	{"not readable", no_rights, false, 0x81000010, 0x80100020},
	{"not writable", no_rights, true, 0x81000408, 0x90100010},
	{"outside the window, read", small_window, false, 0x81000080, 0xa0100000},
	{"outside the window, write", small_window, true, 0x81000480, 0xb0100000},
	{"table fetch", table_fetch_fails, false, 0x81000040, 0x80100080},
	{"table fetch at the top", table_fetch_of_the_top_fails, true, 0x81000440, 0x90100080},
	{"table nowhere", no_memory_for_tables, false, 0x81000040, 0x80100080},
	{"data nowhere, read", no_memory_for_data, false, 0x81000020, 0x80100040},
	{"data nowhere, write", no_memory_for_data, true, 0x81000420, 0x90100040},
	{"blocked", blocked, false, 0x81000001, 0x80100001},
	{"not let in", not_let_in, false, 0x81000001, 0x80100001},
	{"two modes at once", both_modes, true, 0x81000401, 0x90100001},
};

static void every_cause_has_its_error_bits(void **state)
{
	struct machine *m = *state;

	m->cfg.bypass_support = true;
	for (unsigned k = 0; k < ARRAY_SIZE(all_kinds); k++) {
		for (unsigned i = 0; i < ARRAY_SIZE(mishaps); i++) {
			const struct mishap *what = &mishaps[i];
			uint64_t word = 0;
			uint32_t want;
			int ret;

			power_on(m, all_kinds[k]);
			number_frames(m, 1);
			attach(m, 1);
			map(m, 0, FRAME(0));
			/* DART1 has a way to say that the window does not count: not said here. */
			what->do_it(m);
			assert_int_equal(error(m), 0);
			ret = what->write ? dart_model_dma_write(m->dart, 1, 8, &word, 8)
					  : dart_model_dma_read(m->dart, 1, 8, &word, 8);
			want = is_t8110(m) ? what->t8110 : what->v1;
			if (ret != -EFAULT || error(m) != want || error_addr(m) != 8 || !m->line)
				fail_msg("%s, kind %u: %d, ERROR %#x at %#lx, line %d", what->name,
					 all_kinds[k], ret, error(m), error_addr(m), m->line);
		}
	}
}

static void no_l0_entry_has_an_error_bit_of_its_own(void **state)
{
	struct machine *m = *state;
	uint64_t iova = UINT64_C(0x25a5a5a5a58);

	m->cfg.va_width = 42;
	power_on(m, T8110);
	ram(m, ROOT);
	write_ttbr(m, 3, ROOT);
	write_tcr(m, 3, 9);
	assert_int_equal(dma_read(m, 3, iova), -EFAULT);
	assert_int_equal(error(m), 0x80300002);
	assert_int_equal(error_addr(m), iova);
}

static void an_address_is_latched_as_it_was_emitted(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	attach(m, 1);
	assert_int_equal(dma_read(m, 1, 0x123456789abcdef0), -EFAULT);
	assert_int_equal(rd(m, 0x50), 0x9abcdef0);
	assert_int_equal(rd(m, 0x54), 0x12345678);
}

static void physical_addresses_beyond_the_width_are_nowhere(void **state)
{
	struct machine *m = *state;

	m->cfg.pa_width = 36;
	power_on(m, T8110);
	attach(m, 1);
	map(m, 0, BIT(36));
	ram(m, BIT(36));
	assert_int_equal(dma_read(m, 1, 0), -EFAULT);
	assert_int_equal(error(m), 0x80100040);
	write_ttbr(m, 2, BIT(36));
	translate_on(m, 2);
	wr(m, DART_T8110_ERROR, ~0u);
	assert_int_equal(dma_read(m, 2, 0), -EFAULT);
	assert_int_equal(error(m), 0x80200080);
}

static void a_bus_error_is_not_remembered(void **state)
{
	struct machine *m = *state;

	power_on(m, T6000);
	number_frames(m, 1);
	attach(m, 1);
	map(m, 0, FRAME(0));
	quirks(m, (struct dart_model_quirks){.bus_error_pa = UINT64_MAX - 1, .bus_error_len = 2});
	assert_int_equal(frame_read(m, 1, 0), 0);
	flush(m, 1);
	quirks(m, (struct dart_model_quirks){.bus_error_pa = ROOT, .bus_error_len = UINT64_MAX});
	assert_int_equal(frame_read(m, 1, 0), -EFAULT);
	quirks(m, (struct dart_model_quirks){.bus_error_pa = ROOT});
	assert_int_equal(frame_read(m, 1, 0), 0);
}

static void usb4_cannot_name_streams_above_fifteen(void **state)
{
	struct machine *m = *state;

	power_on(m, DART_MODEL_T8103_USB4);
	attach(m, 35);
	assert_int_equal(dma_read(m, 35, 0), -EFAULT);
	assert_int_equal(error(m), 0x83000004);
}

static void one_fault_is_latched_until_it_is_cleared(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	attach(m, 1);
	attach(m, 2);
	assert_int_equal(dma_read(m, 1, 0x1000), -EFAULT);
	assert_int_equal(dma_read(m, 2, 0x2000), -EFAULT);
	assert_int_equal(error(m), 0x81000004);
	assert_int_equal(error_addr(m), 0x1000);
	/* Ones clear, one by one; while FLAG stands the latch is taken. */
	wr(m, 0x40, 0x01000000);
	assert_int_equal(error(m), 0x80000004);
	assert_int_equal(dma_read(m, 2, 0x2000), -EFAULT);
	assert_int_equal(error(m), 0x80000004);
	wr(m, 0x40, error(m));
	assert_int_equal(error(m), 0);
	assert_int_equal(dma_read(m, 2, 0x2000), -EFAULT);
	assert_int_equal(error(m), 0x82000004);
	assert_int_equal(error_addr(m), 0x2000);
}

static void further_faults_are_summed_up_on_t8110(void **state)
{
	struct machine *m = *state;

	m->cfg.nr_streams = 256;
	power_on(m, T8110);
	attach(m, 5);
	attach(m, 200);
	assert_int_equal(dma_read(m, 5, 0x1000), -EFAULT);
	assert_int_equal(error(m), 0x80500008);
	assert_int_equal(rd(m, 0x1c0), BIT(5));
	assert_int_equal(dma_read(m, 200, 0x2000), -EFAULT);
	assert_int_equal(error(m), 0x80580008);
	assert_int_equal(error_addr(m), 0x1000);
	assert_int_equal(rd(m, 0x1c0), BIT(5));
	assert_int_equal(rd(m, 0x1c0 + 4 * 6), BIT(8));
	wr(m, 0x1c0, BIT(6));
	assert_int_equal(rd(m, 0x1c0), BIT(5));
	wr(m, 0x1c0, ~0u);
	assert_int_equal(rd(m, 0x1c0), 0);
	/* Ones clear ERROR too, one by one; without FLAG the latch is free. */
	wr(m, 0x100, 0x80000008);
	assert_int_equal(error(m), 0x00580000);
	assert_int_equal(dma_read(m, 5, 0x3000), -EFAULT);
	assert_int_equal(error(m), 0x80500008);
}

static void the_line_is_up_until_all_is_cleared(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		uint32_t reg = all_kinds[i] == T8110 ? DART_T8110_ERROR : DART_V1_ERROR;

		power_on(m, all_kinds[i]);
		attach(m, 1);
		assert_false(m->line);
		assert_int_equal(dma_read(m, 1, 0), -EFAULT);
		assert_true(m->line);
		assert_int_equal(dma_read(m, 1, 0), -EFAULT);
		assert_int_equal(m->nr_line_changes, 1);
		wr(m, reg, error(m) & 0x7fffffff);
		assert_true(m->line);
		wr(m, reg, 0x80000000);
		if (is_t8110(m)) {
			assert_true(m->line);
			wr(m, DART_T8110_ERROR_STREAMS(0), ~2u);
			assert_true(m->line);
			wr(m, DART_T8110_ERROR_STREAMS(0), 2);
		}
		assert_false(m->line);
		assert_int_equal(m->nr_line_changes, 2);
	}
	/* ERROR_STREAMS cleared first is not enough either. */
	assert_int_equal(dma_read(m, 1, 0), -EFAULT);
	wr(m, DART_T8110_ERROR_STREAMS(0), ~0u);
	assert_true(m->line);
	wr(m, DART_T8110_ERROR, ~0u);
	assert_false(m->line);
}

static void a_masked_cause_is_latched_but_not_heard(void **state)
{
	struct machine *m = *state;

	power_on(m, T8110);
	attach(m, 1);
	wr(m, 0x104, BIT(3)); /* NO_PTE */
	assert_int_equal(rd(m, 0x104), BIT(3));
	assert_int_equal(dma_read(m, 1, 0), -EFAULT);
	assert_int_equal(error(m), 0x80100008);
	assert_false(m->line);
	/* Unmasked, it is; masked again, it is not. */
	wr(m, 0x104, 0);
	assert_true(m->line);
	wr(m, 0x104, BIT(3));
	assert_false(m->line);
	/* What was heard and cleared is not heard with it. */
	wr(m, DART_T8110_ERROR, ~0u);
	wr(m, DART_T8110_ERROR_STREAMS(0), ~0u);
	write_ttbr(m, 2, 0);
	translate_on(m, 2);
	assert_int_equal(dma_read(m, 2, 0), -EFAULT);
	assert_true(m->line);
	wr(m, DART_T8110_ERROR, ~0u);
	wr(m, DART_T8110_ERROR_STREAMS(0), ~0u);
	assert_false(m->line);
	assert_int_equal(dma_read(m, 1, 0), -EFAULT);
	assert_false(m->line);
	/* Another cause is heard, though what is latched is the first. */
	assert_int_equal(dma_read(m, 2, 0), -EFAULT);
	assert_true(m->line);
}

static void the_handler_may_call_the_model(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	attach(m, 1);
	m->ack_from_irq = true;
	for (unsigned i = 1; i <= 3; i++) {
		assert_int_equal(dma_read(m, 1, 0), -EFAULT);
		assert_int_equal(error(m), 0);
		assert_false(m->line);
		assert_int_equal(m->nr_line_changes, 2 * i);
	}
}

static void nobody_need_listen_to_the_line(void **state)
{
	struct machine *m = *state;

	m->cfg.irq = NULL;
	power_on(m, T8020);
	assert_int_equal(dma_read(m, 1, 0), -EFAULT);
	assert_int_equal(error(m), 0x81000001);
}

/* ---- data ------------------------------------------------------------------------------------ */

static void any_range_is_copied_whole_and_nothing_else(void **state)
{
	struct machine *m = *state;
	uint8_t out[3 * PAGE], in[3 * PAGE], frame[3 * PAGE];
	unsigned seed = 1;

	power_on(m, T8110);
	attach(m, 1);
	/* Consecutive pages on frames that are not. */
	for (unsigned i = 0; i < 3; i++) {
		map(m, i, FRAME(2 * i));
		ram(m, FRAME(2 * i));
	}
	for (unsigned i = 0; i < 400; i++) {
		size_t at = (size_t)rand_r(&seed) % sizeof(out);
		size_t len = (size_t)rand_r(&seed) % (i % 2 ? 40 : sizeof(out));

		len = MIN(len, sizeof(out) - at);
		for (unsigned j = 0; j < sizeof(out); j++)
			out[j] = (uint8_t)rand_r(&seed);
		for (unsigned j = 0; j < 3; j++)
			memset(ram(m, FRAME(2 * j)), (int)i, PAGE);
		assert_int_equal(dart_model_dma_write(m->dart, 1, at, out + at, len), 0);
		for (unsigned j = 0; j < 3; j++)
			memcpy(frame + j * PAGE, ram(m, FRAME(2 * j)), PAGE);
		memset(in, (int)i, sizeof(in));
		memcpy(in + at, out + at, len);
		assert_memory_equal(frame, in, sizeof(in));
		memset(in, 0, sizeof(in));
		assert_int_equal(dart_model_dma_read(m->dart, 1, at, in + at, len), 0);
		memset(out, 0, at);
		memset(out + at + len, 0, sizeof(out) - at - len);
		assert_memory_equal(in, out, sizeof(in));
	}
}

static void what_came_before_a_fault_has_happened(void **state)
{
	struct machine *m = *state;
	uint8_t ones[2 * PAGE];

	memset(ones, 1, sizeof(ones));
	power_on(m, T6000);
	attach(m, 1);
	ram(m, FRAME(0));
	map(m, 0, FRAME(0));
	assert_int_equal(dart_model_dma_write(m->dart, 1, PAGE - 24, ones, 48), -EFAULT);
	assert_int_equal(error_addr(m), PAGE);
	assert_int_equal(peek(m, FRAME(0) + PAGE - 32), 0);
	assert_memory_equal(ram(m, FRAME(0) + PAGE - 24), ones, 24);

	/* A window is an edge like that of a page: words 2 to 4. */
	poke(m, LEAF_PA(0), (entry(m, FRAME(0)) & ~GENMASK(63, 40)) | BIT(53) | BIT(42));
	memset(ram(m, FRAME(0)), 0, PAGE);
	flush(m, 1);
	wr(m, DART_V1_ERROR, ~0u);
	assert_int_equal(dart_model_dma_write(m->dart, 1, 10, ones, 64), -EFAULT);
	assert_int_equal(error_addr(m), 20);
	assert_int_equal(peek(m, FRAME(0)), 0);
	assert_int_equal(peek(m, FRAME(0) + 8), 0x0101010101010000);
	assert_int_equal(peek(m, FRAME(0) + 16), 0x01010101);
	wr(m, DART_V1_ERROR, ~0u);
	assert_int_equal(dart_model_dma_write(m->dart, 1, 4, ones, 16), -EFAULT);
	assert_int_equal(error_addr(m), 4);
	assert_int_equal(peek(m, FRAME(0)), 0);

	/* So is the end of memory. */
	map(m, 0, FRAME(0));
	map(m, 1, FRAME(7));
	flush(m, 1);
	wr(m, DART_V1_ERROR, ~0u);
	assert_int_equal(dart_model_dma_write(m->dart, 1, 0, ones, sizeof(ones)), -EFAULT);
	assert_int_equal(error_addr(m), PAGE);
	assert_memory_equal(ram(m, FRAME(0)), ones, PAGE);

	/* and a hole in it, the third 4 KiB of a page */
	memset(ram(m, FRAME(0)), 0, PAGE);
	m->hole_pa = FRAME(0) + 0x2000;
	wr(m, DART_V1_ERROR, ~0u);
	assert_int_equal(dart_model_dma_write(m->dart, 1, 0x100, ones, PAGE - 0x100), -EFAULT);
	assert_int_equal(error_addr(m), 0x2000);
	assert_int_equal(peek(m, FRAME(0) + 0xf8), 0);
	assert_memory_equal(ram(m, FRAME(0) + 0x100), ones, 0x1f00);
	assert_int_equal(peek(m, FRAME(0) + 0x2000), 0);
	assert_int_equal(peek(m, FRAME(0) + 0x3000), 0);
}

static void nothing_is_copied_of_nothing(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	assert_int_equal(dart_model_dma_read(m->dart, 1, 0, NULL, 0), 0);
	assert_int_equal(error(m), 0);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void an_invalidation_waits_for_accesses_in_flight(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		access_begin(m);
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		/* It waits, but new accesses go elsewhere, and end. */
		for (unsigned n = 0; n < 100; n++) {
			assert_true(busy(m));
			assert_true(dart_model_draining(m->dart));
			assert_int_equal(frame_read(m, 1, 0), 1);
		}
		assert_true(access_end(m));
		assert_false(dart_model_draining(m->dart));
		assert_false(busy(m));
		assert_int_equal(peek(m, FRAME(0)), 1);
		/* The next one waits for those that came meanwhile, and for no others. */
		flush(m, 1);
	}
}

static void a_command_while_busy_is_lost(void **state)
{
	struct machine *m = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++) {
		warm(m, all_kinds[i], 1);
		attach(m, 2);
		assert_int_equal(frame_read(m, 2, 0), 0);
		access_begin(m);
		map(m, 0, FRAME(1));
		begin_flush(m, 1);
		begin_flush(m, 2);
		assert_true(access_end(m));
		assert_false(busy(m));
		assert_int_equal(lands(m, 1, 0), FRAME(1));
		assert_int_equal(lands(m, 2, 0), FRAME(0));
	}
}

#define NR_DEVICES  4
#define NR_PAGES    4
#define POISON	    UINT64_C(0xdeadbeefdeadbeef)
#define BYTES_ALIKE UINT64_C(0x0101010101010101)

/* A round: devices access; pages move; all meet; devices access a little more; all meet. */
struct storm {
	struct machine *m;
	pthread_barrier_t start, moved, end;
	atomic_bool is_moved, is_over;
	atomic_uint nr_ids, nr_poison, nr_failed;
};

/* Write and read stamps: each word is a device's, whole, or it was zero. */
static void device_access(struct storm *storm, unsigned id, unsigned *seed)
{
	struct dart_model *dart = storm->m->dart;
	unsigned sid = 1 + id % 2;
	uint64_t buf[16], iova = 0;

	/* All over the mapped pages, and often where the others are. */
	if (rand_r(seed) % 2)
		iova = (uint64_t)rand_r(seed) % (NR_PAGES * PAGE - sizeof(buf)) & ~7;
	for (unsigned i = 0; i < ARRAY_SIZE(buf); i++)
		buf[i] = id * BYTES_ALIKE;
	if (dart_model_dma_write(dart, sid, iova, buf, sizeof(buf)) ||
	    dart_model_dma_read(dart, sid, iova, buf, sizeof(buf)))
		storm->nr_failed++;
	for (unsigned i = 0; i < ARRAY_SIZE(buf); i++)
		if (buf[i] % BYTES_ALIKE || buf[i] / BYTES_ALIKE >= NR_DEVICES)
			storm->nr_poison++;
}

static void *device_thread(void *arg)
{
	struct storm *storm = arg;
	unsigned id = storm->nr_ids++, seed = id;

	for (;;) {
		pthread_barrier_wait(&storm->start);
		if (storm->is_over)
			return NULL;
		/* Bounded, so that a busy machine is not kept busier; relaxed, to order nothing. */
		for (unsigned i = 0; i < 500; i++) {
			device_access(storm, id, &seed);
			if (atomic_load_explicit(&storm->is_moved, memory_order_relaxed))
				break;
		}
		pthread_barrier_wait(&storm->moved);
		for (unsigned i = 0; i < 8; i++)
			device_access(storm, id, &seed);
		pthread_barrier_wait(&storm->end);
	}
}

/*
 * Pages move between two sets of frames under four devices. Once the invalidations are over the set
 * that was left is poisoned with plain stores: TSan sees any access that is not over, a read sees
 * poison, and a write leaves a stamp.
 */
static void storm_of_devices(struct machine *m, enum dart_model_kind kind, unsigned rounds,
			     struct dart_model_quirks q)
{
	struct storm storm = {.m = m};
	pthread_t threads[NR_DEVICES];
	unsigned nr_stamps = 0;

	power_on(m, kind);
	for (unsigned i = 0; i < 2 * NR_PAGES; i++)
		ram(m, FRAME(i));
	for (unsigned i = 0; i < NR_PAGES; i++)
		map(m, i, FRAME(i));
	attach(m, 1);
	attach(m, 2);
	quirks(m, q);
	pthread_barrier_init(&storm.start, NULL, NR_DEVICES + 1);
	pthread_barrier_init(&storm.moved, NULL, NR_DEVICES + 1);
	pthread_barrier_init(&storm.end, NULL, NR_DEVICES + 1);
	for (unsigned i = 0; i < NR_DEVICES; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, device_thread, &storm), 0);
	for (unsigned round = 1; round <= rounds; round++) {
		uint64_t now = FRAME(round % 2 * NR_PAGES), old = FRAME((round + 1) % 2 * NR_PAGES);

		for (unsigned i = 0; i < NR_PAGES; i++)
			memset(ram(m, now + i * PAGE), 0, PAGE);
		atomic_store(&storm.is_moved, false);
		pthread_barrier_wait(&storm.start);
		for (unsigned i = 0; i < NR_PAGES; i++)
			map(m, i, now + i * PAGE);
		for (unsigned sid = 1; sid <= 2; sid++) {
			begin_flush(m, sid);
			while (busy(m))
				sched_yield();
		}
		for (unsigned i = 0; i < NR_PAGES * PAGE; i += 8)
			*(uint64_t *)(frame_at(m, old + ALIGN_DOWN(i, PAGE)) + i % PAGE) = POISON;
		atomic_store_explicit(&storm.is_moved, true, memory_order_relaxed);
		pthread_barrier_wait(&storm.moved);
		pthread_barrier_wait(&storm.end);
		for (unsigned i = 0; i < NR_PAGES * PAGE; i += 8)
			nr_stamps += peek(m, old + i) != POISON;
	}
	storm.is_over = true;
	pthread_barrier_wait(&storm.start);
	for (unsigned i = 0; i < NR_DEVICES; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&storm.start);
	pthread_barrier_destroy(&storm.moved);
	pthread_barrier_destroy(&storm.end);
	assert_int_equal(nr_stamps, 0);
	assert_int_equal(storm.nr_poison, 0);
	assert_int_equal(storm.nr_failed, 0);
	assert_int_equal(error(m), 0);
}

static void nothing_reaches_the_old_page_once_busy_drops(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++)
		storm_of_devices(*state, all_kinds[i], 100, (struct dart_model_quirks){0});
}

static void nor_does_it_when_invalidations_are_slow_and_entries_vanish(void **state)
{
	struct dart_model_quirks q = {.invalidate_delay_ns = 20000, .evict_one_in = 4, .seed = 7};

	for (unsigned i = 0; i < ARRAY_SIZE(all_kinds); i++)
		storm_of_devices(*state, all_kinds[i], 50, q);
}

static void *fault_and_clear(void *arg)
{
	struct machine *m = arg;

	for (unsigned i = 0; i < 500; i++) {
		if (dma_read(m, 1, 0) != -EFAULT)
			return m;
		wr(m, DART_V1_ERROR, ~0u);
	}
	return NULL;
}

static void one_thread_at_a_time_is_told_of_the_line(void **state)
{
	struct machine *m = *state;

	power_on(m, T8020);
	access_begin(m);
	assert_true(m->line);
	/* The device is still being told that it is up: that it is down must not overtake. */
	wr(m, DART_V1_ERROR, ~0u);
	assert_true(m->line);
	assert_false(access_end(m));
	assert_false(m->line);
	assert_int_equal(m->nr_line_changes, 2);
}

static void changes_of_the_line_are_told_in_order(void **state)
{
	struct machine *m = *state;
	pthread_t threads[4];

	power_on(m, T8020);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fault_and_clear, m), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_false(m->line);
	/* Up and down in turn, and never two at once: irq() counts that. */
	assert_int_equal(m->nr_wrong_changes, 0);
	assert_int_not_equal(m->nr_line_changes, 0);
}

/* ---- anything at all ------------------------------------------------------------------------- */

static uint64_t fuzz_state;

static uint64_t fuzz(void)
{
	fuzz_state ^= fuzz_state << 13;
	fuzz_state ^= fuzz_state >> 7;
	fuzz_state ^= fuzz_state << 17;
	return fuzz_state;
}

/* Often near what means something, sometimes anything. */
static uint64_t fuzz_address(void)
{
	switch (fuzz() % 4) {
	case 0:
		return fuzz();
	case 1:
		return FRAME(fuzz() % 8) + fuzz() % PAGE;
	case 2:
		return fuzz() % (4 * PAGE);
	default:
		return BIT(fuzz() % 40) + fuzz() % PAGE;
	}
}

static uint64_t fuzz_entry(struct machine *m)
{
	switch (fuzz() % 4) {
	case 0:
		return fuzz();
	case 1:
		return entry(m, ALIGN_DOWN(fuzz_address(), PAGE));
	default:
		/* Tables are frames too, and name each other and themselves. */
		return entry(m, FRAME(fuzz() % 8)) ^ (fuzz() % 4 ? 0 : BIT(fuzz() % 64));
	}
}

static uint32_t fuzz_offset(struct machine *m)
{
	static const uint32_t v1[] = {0x20, 0x34, 0x38,	 0x40,	0x80,
				      0xf8, 0xfc, 0x100, 0x200, 0x400};
	static const uint32_t t8110[] = {0x80,	0x100, 0x104, 0x1c0,  0x200,
					 0x204, 0xc00, 0xc20, 0x1000, 0x1400};

	if (fuzz() % 8 == 0)
		return (uint32_t)fuzz() % 0x4800;
	return (is_t8110(m) ? t8110 : v1)[fuzz() % 10] + (uint32_t)(fuzz() % 8) * 4;
}

static uint32_t fuzz_value(struct machine *m)
{
	switch (fuzz() % 4) {
	case 0:
		return (uint32_t)fuzz();
	case 1:
		return (uint32_t)BIT(fuzz() % 32);
	case 2:
		return is_t8110(m) ? 1 | (fuzz() % 2 ? 8 : 0) : 0x80;
	default:
		return (uint32_t)(FRAME(fuzz() % 8) >> 12 | (is_t8110(m) ? 1 : BIT(31)));
	}
}

static void fuzz_quirks(struct machine *m)
{
	quirks(m, (struct dart_model_quirks){.locked = fuzz() % 16 == 0,
					     .ttbr_read_only = fuzz() % 16 == 0,
					     .invalidate_hangs = fuzz() % 8 == 0,
					     .fail_invalidation = (unsigned)(fuzz() % 4),
					     .invalidate_delay_ns = fuzz() % 4 ? 0 : fuzz(),
					     .evict_one_in = (unsigned)(fuzz() % 4),
					     .bus_error_pa = fuzz_address(),
					     .bus_error_len = fuzz() % 16 ? 0 : fuzz(),
					     .seed = fuzz()});
}

/* What the line must be, by the registers alone. Masked causes make it less. */
static bool line_may_be_up(struct machine *m)
{
	bool up = error(m) >> 31;

	for (unsigned i = 0; is_t8110(m) && i < DART_T8110_STREAM_WORDS; i++)
		up |= rd(m, DART_T8110_ERROR_STREAMS(i)) != 0;
	return up;
}

static void fuzz_dma(struct machine *m)
{
	static uint8_t buf[3 * PAGE];
	uint64_t pa, iova = fuzz() % 4 ? fuzz() % (8 * PAGE) : fuzz_address();
	uint32_t sid = (uint32_t)(fuzz() % (fuzz() % 8 ? 4 : 300));
	size_t len = fuzz() % (fuzz() % 4 ? 64 : sizeof(buf));
	int ret;

	ret = dart_model_probe(m->dart, sid, iova, fuzz() % 2, &pa);
	assert_true(ret == 0 || ret == -EFAULT);
	if (fuzz() % 2)
		ret = dart_model_dma_read(m->dart, sid, iova, buf, len);
	else
		ret = dart_model_dma_write(m->dart, sid, iova, buf, len);
	assert_true(ret == 0 || ret == -EFAULT);
	/* What is refused is never silent. */
	assert_true(ret == 0 || error(m) >> 31);
}

static void fuzz_once(struct machine *m)
{
	uint32_t ttbr[4] = {0};

	switch (fuzz() % 8) {
	case 0:
		fuzz_quirks(m);
		/* and now and then something to walk, or all ends up blocked */
		ttbr[0] = (uint32_t)(FRAME(fuzz() % 8) >> 12 | (is_t8110(m) ? 1 : BIT(31)));
		dart_model_firmware(m->dart, (uint32_t)(fuzz() % 4), ttbr, is_t8110(m) ? 1 : 0x80);
		break;
	case 1:
	case 2:
		wr(m, fuzz_offset(m), fuzz_value(m));
		break;
	case 3:
		rd(m, fuzz_offset(m));
		break;
	case 4:
		poke(m, FRAME(fuzz() % 8) + (fuzz() % 4 ? fuzz() % 16 : fuzz() % (PAGE / 8)) * 8,
		     fuzz_entry(m));
		break;
	default:
		fuzz_dma(m);
	}
	assert_true(!m->line || line_may_be_up(m));
	if (!is_t8110(m))
		assert_int_equal(m->line, line_may_be_up(m));
}

static void nothing_that_software_or_devices_do_breaks_it(void **state)
{
	struct machine *m = *state;
	struct dart_model_stats stats;
	uint64_t nr_accesses = 0, nr_faults = 0;

	for (unsigned round = 0; round < 32; round++) {
		uint64_t seed = 0x9e3779b97f4a7c15 * (round + 1);

		fuzz_state = seed;
		m->cfg.va_width = round % 8 == 7 ? 42 : 0;
		m->cfg.bypass_support = fuzz() % 2;
		m->cfg.nr_streams = round % 4 == 3 ? 1 + (unsigned)(fuzz() % 256) : 0;
		m->cfg.tlb = fuzz() % 8;
		power_on(m, all_kinds[round % 4]);
		for (unsigned i = 0; i < 8; i++)
			for (unsigned j = 0; j < PAGE / 8; j++)
				poke(m, FRAME(i) + 8 * j, fuzz_entry(m));
		for (unsigned sid = 0; sid < 4; sid++) {
			write_ttbr(m, sid, FRAME(fuzz() % 8));
			translate_on(m, sid);
		}
		print_message("seed %#lx\n", seed);
		for (unsigned i = 0; i < 2000; i++)
			fuzz_once(m);
		dart_model_get_stats(m->dart, &stats);
		nr_accesses += stats.accesses;
		nr_faults += stats.faults;
	}
	/* Much was refused, and much was not. */
	assert_in_range(nr_faults, nr_accesses / 32, nr_accesses - nr_accesses / 32);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(worked_examples_land_where_they_say),
		TEST(four_ttbrs_divide_the_iova_space),
		TEST(iova_bits_above_a_configured_width_count_for_nothing),
		TEST(iova_bits_above_three_levels_are_the_same_page),
		TEST(four_levels_are_not_in_revision_one),
		TEST(params_say_what_was_configured),
		TEST(a_dart_that_none_is_is_refused),
		TEST(registers_of_every_stream_are_where_they_belong),
		TEST(unknown_registers_read_as_zero),
		TEST(no_stream_is_let_in_until_it_is_enabled),
		TEST(after_reset_nothing_is_enabled_or_heard),
		TEST(a_locked_dart_takes_no_tcr_and_no_ttbr),
		TEST(a_lock_that_software_sets_stays),
		TEST(a_read_only_ttbr_says_nothing),
		TEST(firmware_ran_before_any_lock),
		TEST(a_remapped_stream_uses_the_context_of_its_target),
		TEST(bypass_passes_only_where_it_is_supported),
		TEST(a_translation_stays_until_it_is_invalidated),
		TEST(not_mapped_is_remembered_until_it_is_invalidated),
		TEST(an_entry_of_a_table_is_remembered_like_a_leaf),
		TEST(entries_of_different_tables_are_not_taken_for_each_other),
		TEST(rights_and_windows_are_remembered_with_the_leaf),
		TEST(blocking_a_stream_blocks_it_at_once),
		TEST(an_invalidation_of_other_streams_leaves_this_one_stale),
		TEST(v1_invalidates_what_is_selected_when_told_to),
		TEST(usb4_selects_the_upper_streams_by_the_second_word),
		TEST(t8110_invalidates_one_stream_or_all),
		TEST(the_tlb_is_small),
		TEST(without_a_tlb_every_access_walks),
		TEST(entries_are_evicted_at_random_on_request),
		TEST(a_probe_leaves_no_trace),
		TEST(what_happens_is_counted),
		TEST(a_slow_invalidation_keeps_stale_entries_until_its_end),
		TEST(a_slow_invalidation_ends_though_nobody_looks),
		TEST(an_invalidation_also_takes_what_came_after_its_start),
		TEST(an_invalidation_hangs_on_request),
		TEST(the_nth_invalidation_from_now_hangs_once),
		TEST(every_cause_has_its_error_bits),
		TEST(no_l0_entry_has_an_error_bit_of_its_own),
		TEST(an_address_is_latched_as_it_was_emitted),
		TEST(physical_addresses_beyond_the_width_are_nowhere),
		TEST(a_bus_error_is_not_remembered),
		TEST(usb4_cannot_name_streams_above_fifteen),
		TEST(one_fault_is_latched_until_it_is_cleared),
		TEST(further_faults_are_summed_up_on_t8110),
		TEST(the_line_is_up_until_all_is_cleared),
		TEST(a_masked_cause_is_latched_but_not_heard),
		TEST(the_handler_may_call_the_model),
		TEST(nobody_need_listen_to_the_line),
		TEST(any_range_is_copied_whole_and_nothing_else),
		TEST(what_came_before_a_fault_has_happened),
		TEST(nothing_is_copied_of_nothing),
		TEST(an_invalidation_waits_for_accesses_in_flight),
		TEST(a_command_while_busy_is_lost),
		TEST(nothing_reaches_the_old_page_once_busy_drops),
		TEST(nor_does_it_when_invalidations_are_slow_and_entries_vanish),
		TEST(one_thread_at_a_time_is_told_of_the_line),
		TEST(changes_of_the_line_are_told_in_order),
		TEST(nothing_that_software_or_devices_do_breaks_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
