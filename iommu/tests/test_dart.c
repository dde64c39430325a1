/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver is judged twice: by what it writes, to registers that only remember (offsets and
 * values are written out here, from the sources in docs/dart.md, not taken from dart_regs.h); and
 * by where a device's accesses land, through the model.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/dart_model.h"

#define RO PROT_DEV_READ
#define RW (PROT_DEV_READ | PROT_DEV_WRITE)

#define K16	  0x4000u
#define RAM_BASE  UINT64_C(0x800000000)
#define RAM_PAGES 512 /* of 16 KiB */
#define MAX_LOG	  4096
#define TIMEOUT	  (UINT64_C(20) * 1000000)
#define ANYWHERE                                                                                   \
	{                                                                                          \
		0, UINT64_MAX                                                                      \
	}

/* ---- memory, and ports to two DARTs ---- */

struct access {
	bool read;
	uint32_t offset, value;
};

/* One DART's registers: the model's, or words that only remember. */
struct port {
	struct dart_model *model;
	bool line; /* of the model's interrupt */

	uint32_t regs[0x4000 / 4];
	uint32_t command, busy_bit; /* where an invalidation starts, and shows */
	unsigned busy_polls;	    /* after a command, until it has ended */
	unsigned busy;
	bool hangs;
	uint32_t frozen[2][2]; /* [first, end) offsets that take no writes */

	uint64_t now; /* 1 ms later each time it is asked for */
	struct access log[MAX_LOG];
	unsigned nr_log;

	struct dart_fault fault;
	unsigned nr_faults;
};

static uint8_t *ram; /* at RAM_BASE */
static bool page_used[RAM_PAGES];
static struct port ports[2];

static void *at_pa(uint64_t pa, size_t len)
{
	if (pa < RAM_BASE || pa - RAM_BASE + len > (uint64_t)RAM_PAGES * K16)
		return NULL;
	return ram + (pa - RAM_BASE);
}

static uint64_t pa_at(const void *p)
{
	return RAM_BASE + (uint64_t)((const uint8_t *)p - ram);
}

static uint8_t *page_get(void)
{
	for (unsigned i = 0; i < RAM_PAGES; i++)
		if (!page_used[i]) {
			page_used[i] = true;
			return memset(ram + i * K16, 0, K16);
		}
	abort();
}

static void page_put(void *page)
{
	/* Whoever still walks it as a table finds valid entries that lead nowhere. */
	memset(page, 0xa5, K16);
	page_used[((uint8_t *)page - ram) / K16] = false;
}

static unsigned pages_used(void)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < RAM_PAGES; i++)
		nr += page_used[i];
	return nr;
}

static void *host_table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	void *table = page_get();

	(void)ctx;
	assert_true(size <= K16);
	*pa = pa_at(table);
	return table;
}

static void host_table_free(void *ctx, void *table, size_t size)
{
	(void)ctx;
	(void)size;
	page_put(table);
}

static void *host_table_map(void *ctx, uint64_t pa, size_t size)
{
	(void)ctx;
	return at_pa(pa, size);
}

static int host_pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	(void)ctx;
	*pa = pa_at(hva);
	*run = len;
	return at_pa(*pa, len) ? 0 : -EFAULT;
}

static void note(struct port *port, bool read, uint32_t offset, uint32_t value)
{
	assert_true(port->nr_log < MAX_LOG);
	port->log[port->nr_log++] = (struct access){read, offset, value};
}

static uint32_t host_read(void *ctx, uint32_t offset)
{
	struct port *port = ctx;
	uint32_t value;

	assert_true(offset < sizeof(ports[0].regs) && !(offset & 3));
	if (port->model) {
		value = dart_model_read(port->model, offset);
	} else {
		value = port->regs[offset / 4];
		if (offset == port->command) {
			value &= ~port->busy_bit;
			if (port->hangs || port->busy)
				value |= port->busy_bit;
			port->busy -= !!port->busy;
		}
	}
	note(port, true, offset, value);
	return value;
}

static void host_write(void *ctx, uint32_t offset, uint32_t value)
{
	struct port *port = ctx;

	note(port, false, offset, value);
	if (port->model) {
		dart_model_write(port->model, offset, value);
		return;
	}
	for (unsigned i = 0; i < 2; i++)
		if (offset >= port->frozen[i][0] && offset < port->frozen[i][1])
			return;
	port->regs[offset / 4] = value;
	if (offset == port->command)
		port->busy = port->busy_polls;
}

static uint64_t host_now(void *ctx)
{
	struct port *port = ctx;

	return port->now += 1000000;
}

static const struct dart_host_ops host = {
	.read = host_read,
	.write = host_write,
	.now_ns = host_now,
	.mem = {host_table_alloc, host_table_free, host_table_map, host_pa_of},
};

static int setup(void **state)
{
	(void)state;
	ram = aligned_alloc(K16, (size_t)RAM_PAGES * K16);
	memset(page_used, 0, sizeof(page_used));
	memset(ports, 0, sizeof(ports));
	return ram ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ports); i++)
		if (ports[i].model)
			dart_model_destroy(ports[i].model);
	free(ram);
	return 0;
}

static void start_over(void)
{
	teardown(NULL);
	setup(NULL);
}

static void took_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	struct port *port = ctx;

	(void)dart;
	port->fault = *fault;
	port->nr_faults++;
}

static struct dart_cfg config(struct port *port, enum dart_kind kind)
{
	return (struct dart_cfg){
		.kind = kind,
		.name = "dart-x",
		.host = &host,
		.host_ctx = port,
		.invalidate_timeout_ns = TIMEOUT,
		.aperture = ANYWHERE,
		.fault = took_fault,
		.fault_ctx = port,
	};
}

static struct dart *create(const struct dart_cfg *cfg)
{
	struct dart *dart = NULL;
	char error[160] = "";

	if (dart_create(cfg, &dart, error, sizeof(error)))
		fail_msg("%s", error);
	return dart;
}

static struct shadow *shadow_of(struct dart *dart, uint32_t sid)
{
	struct instance *inst = dart_instance(dart);
	struct shadow *shadow = NULL;

	assert_int_equal(inst->ops->shadow_create(inst, sid, &shadow), 0);
	return shadow;
}

static int enable(struct dart *dart, uint32_t sid, struct shadow *shadow)
{
	return dart_instance(dart)->ops->enable(dart_instance(dart), sid, shadow);
}

static int disable(struct dart *dart, uint32_t sid)
{
	return dart_instance(dart)->ops->disable(dart_instance(dart), sid);
}

static struct stream_set set_of(const uint32_t *sids, unsigned nr)
{
	struct stream_set set = {0};

	for (unsigned i = 0; i < nr; i++)
		stream_set_add(&set, sids[i]);
	return set;
}

static void invalidate_start(struct dart *dart, const uint32_t *sids, unsigned nr)
{
	const struct stream_set set = set_of(sids, nr);

	dart_instance(dart)->ops->invalidate_start(dart_instance(dart), &set);
}

static int invalidate_wait(struct dart *dart)
{
	return dart_instance(dart)->ops->invalidate_wait(dart_instance(dart));
}

static int invalidate(struct dart *dart, uint32_t sid)
{
	invalidate_start(dart, &sid, 1);
	return invalidate_wait(dart);
}

static void destroy_shadow(struct shadow *shadow)
{
	shadow->ops->destroy(shadow);
}

/* ---- what is written ---- */

/* Layouts once more, by the numbers. */
static const struct regs {
	enum dart_kind kind;
	unsigned nr_streams, nr_ttbrs;
	uint32_t tcr, ttbr, ttbr_stride, translate;
	uint32_t command, busy_bit, error;
	uint32_t enable, nr_enable;
	uint32_t lock, lock_bit;
} layouts[] = {
	{DART_T8103, 16, 4, 0x100, 0x200, 16, 0x80, 0x20, 4, 0x40, 0xfc, 1, 0x60, 0x8000},
	{DART_T8103_USB4, 64, 4, 0x100, 0x400, 16, 0x80, 0x20, 4, 0x40, 0xf8, 2, 0x60, 0x8000},
	{DART_T6000, 16, 4, 0x100, 0x200, 16, 0x80, 0x20, 4, 0x40, 0xfc, 1, 0x60, 0x8000},
	{DART_T8110, 20, 1, 0x1000, 0x1400, 4, 1, 0x80, 0x80000000, 0x100, 0xc00, 8, 0x200, 1},
};

static void set_reg(struct port *port, uint32_t offset, uint32_t value)
{
	port->regs[offset / 4] = value;
}

static uint32_t reg(const struct port *port, uint32_t offset)
{
	return port->regs[offset / 4];
}

/* Registers that remember, as firmware leaves them. */
static struct port *plain(const struct regs *r)
{
	struct port *port = &ports[0];

	start_over();
	set_reg(port, 0x00, 0x0e000000);
	if (r->kind == DART_T8110) {
		set_reg(port, 0x08, 0x24240100);
		set_reg(port, 0x0c, 0x00010000 | r->nr_streams);
	} else {
		for (uint32_t word = 0; word < 4; word++)
			set_reg(port, 0x80 + 4 * word, 0x03020100 + 0x04040404 * word);
	}
	port->command = r->command;
	port->busy_bit = r->busy_bit;
	port->busy_polls = 2;
	return port;
}

struct expected {
	struct access v[MAX_LOG];
	unsigned nr;
};

static void expect(struct expected *e, uint32_t offset, uint32_t value)
{
	e->v[e->nr++] = (struct access){false, offset, value};
}

/* The registers were written exactly so since the last time, and in that order. */
static void assert_written(struct port *port, const struct expected *e)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < port->nr_log; i++) {
		const struct access *a = &port->log[i];

		if (a->read)
			continue;
		if (nr >= e->nr || a->offset != e->v[nr].offset || a->value != e->v[nr].value)
			fail_msg("write %u: %#x <- %#x, expected %#x <- %#x of %u", nr, a->offset,
				 a->value, nr < e->nr ? e->v[nr].offset : 0,
				 nr < e->nr ? e->v[nr].value : 0, e->nr);
		nr++;
	}
	assert_int_equal(nr, e->nr);
	port->nr_log = 0;
}

static void expect_flush(struct expected *e, const struct regs *r, uint32_t sid)
{
	if (r->kind == DART_T8110) {
		expect(e, 0x80, 0x100 | sid);
		return;
	}
	expect(e, 0x34, sid < 32 ? 1u << sid : 0);
	if (r->nr_streams > 32)
		expect(e, 0x38, sid < 32 ? 0 : 1u << (sid - 32));
	expect(e, 0x20, 0x100000);
}

static void expect_flush_all(struct expected *e, const struct regs *r)
{
	if (r->kind == DART_T8110) {
		expect(e, 0x80, 0);
		return;
	}
	expect(e, 0x34, r->nr_streams > 32 ? UINT32_MAX : 0xffff);
	if (r->nr_streams > 32)
		expect(e, 0x38, UINT32_MAX);
	expect(e, 0x20, 0x100000);
}

static void a_reset_stops_streams_before_it_clears_their_tables_then_drops_faults(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		static struct expected e;
		struct dart *dart;

		/* One stream bypassed, one with a table, and a fault latched. */
		set_reg(port, r->tcr + 4, 0x1100);
		set_reg(port, r->ttbr + 3 * r->ttbr_stride, 0x80812345);
		set_reg(port, r->error, 0x81000004);
		dart = create(&cfg);

		e.nr = 0;
		for (uint32_t sid = 0; sid < r->nr_streams; sid++)
			expect(&e, r->tcr + 4 * sid, 0);
		for (uint32_t sid = 0; sid < r->nr_streams; sid++)
			for (unsigned j = 0; j < r->nr_ttbrs; j++)
				expect(&e, r->ttbr + r->ttbr_stride * sid + 4 * j, 0);
		for (unsigned j = 0; j < r->nr_enable; j++)
			expect(&e, r->enable + 4 * j, UINT32_MAX);
		expect(&e, r->error, 0x81000004);
		if (r->kind == DART_T8110) {
			for (unsigned j = 0; j < 8; j++)
				expect(&e, 0x1c0 + 4 * j, UINT32_MAX);
			expect(&e, 0x104, 0);
		}
		expect_flush_all(&e, r);
		assert_written(port, &e);
		assert_false(dart_is_locked(dart));
		assert_int_equal(dart_instance(dart)->nr_streams, r->nr_streams);
		dart_destroy(dart);
	}
}

static uint32_t ttbr_word(const struct regs *r, uint64_t top)
{
	if (r->kind == DART_T8110)
		return (uint32_t)(top >> 12) | 1;
	return (uint32_t)(top >> 12) | 0x80000000;
}

static void attaching_writes_ttbrs_then_tcr_then_invalidates_also_while_translating(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		struct dart *dart = create(&cfg);
		const uint32_t sid = r->nr_streams - 1;
		struct shadow *shadow[2] = {shadow_of(dart, sid), shadow_of(dart, sid)};
		struct expected e;

		for (unsigned s = 0; s < 2; s++) {
			uint64_t top = dart_pt_top(dart_pt_of(shadow[s]), 0);

			/* What somebody left in a TTBR that is not used. */
			if (r->nr_ttbrs > 1)
				set_reg(port, r->ttbr + r->ttbr_stride * sid + 8, 0x80812345);
			port->nr_log = 0;
			assert_int_equal(enable(dart, sid, shadow[s]), 0);
			e.nr = 0;
			expect(&e, r->ttbr + r->ttbr_stride * sid, ttbr_word(r, top));
			for (unsigned j = 1; j < r->nr_ttbrs; j++)
				expect(&e, r->ttbr + r->ttbr_stride * sid + 4 * j, 0);
			expect(&e, r->tcr + 4 * sid, r->translate);
			expect_flush(&e, r, sid);
			assert_written(port, &e);
		}

		assert_int_equal(disable(dart, sid), 0);
		e.nr = 0;
		expect(&e, r->tcr + 4 * sid, 0);
		for (unsigned j = 0; j < r->nr_ttbrs; j++)
			expect(&e, r->ttbr + r->ttbr_stride * sid + 4 * j, 0);
		expect_flush(&e, r, sid);
		assert_written(port, &e);

		/* It is blocked. */
		assert_int_equal(disable(dart, sid), 0);
		assert_int_equal(port->nr_log, 0);
		destroy_shadow(shadow[0]);
		destroy_shadow(shadow[1]);
		dart_destroy(dart);
		assert_int_equal(pages_used(), 0);
	}
}

static void four_quarters_of_4k_pages_get_four_ttbrs_and_four_levels_their_bit(void **state)
{
	struct port *port = plain(&layouts[0]);
	struct dart_cfg cfg = config(port, DART_T8103);
	struct dart *dart;
	struct shadow *shadow;

	(void)state;
	set_reg(port, 0x00, 0x0c000000);
	dart = create(&cfg);
	assert_int_equal(dart_instance(dart)->granule, 0x1000);
	shadow = shadow_of(dart, 15);
	assert_int_equal(enable(dart, 15, shadow), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(reg(port, 0x2f0 + 4 * i),
				 ttbr_word(&layouts[0], dart_pt_top(dart_pt_of(shadow), i)));
	destroy_shadow(shadow);
	dart_destroy(dart);

	port = plain(&layouts[3]);
	set_reg(port, 0x08, 0x2a2a0200);
	set_reg(port, 0x0c, 256);
	cfg = config(port, DART_T8110);
	dart = create(&cfg);
	assert_int_equal(dart_instance(dart)->nr_streams, 256);
	assert_int_equal(dart_instance(dart)->apertures[0].last, BIT(42) - 1);
	shadow = shadow_of(dart, 255);
	assert_int_equal(enable(dart, 255, shadow), 0);
	assert_int_equal(reg(port, 0x13fc), 9);
	assert_int_equal(reg(port, 0x17fc),
			 ttbr_word(&layouts[3], dart_pt_top(dart_pt_of(shadow), 0)));
	assert_int_equal(reg(port, 0xc1c), UINT32_MAX);
	destroy_shadow(shadow);
	dart_destroy(dart);
}

static void one_command_invalidates_all_selected_streams(void **state)
{
	static const uint32_t sids[] = {3, 0, 33, 63};
	struct port *port = plain(&layouts[1]);
	struct dart_cfg cfg = config(port, DART_T8103_USB4);
	struct dart *dart = create(&cfg);
	struct expected e = {0};

	(void)state;
	port->nr_log = 0;
	invalidate_start(dart, sids, 4);
	expect(&e, 0x34, 0x9);
	expect(&e, 0x38, 0x80000002);
	expect(&e, 0x20, 0x100000);
	for (unsigned i = 0; i < port->nr_log; i++)
		assert_false(port->log[i].read); /* it does not wait */
	assert_written(port, &e);
	assert_int_equal(invalidate_wait(dart), 0);
	assert_int_equal(port->busy, 0);
	e.nr = 0;
	assert_written(port, &e);

	invalidate_start(dart, NULL, 0); /* nobody: nothing to do */
	assert_int_equal(invalidate_wait(dart), 0);
	assert_int_equal(port->nr_log, 0);
	dart_destroy(dart);

	port = plain(&layouts[0]);
	cfg = config(port, DART_T8103);
	dart = create(&cfg);
	port->nr_log = 0;
	invalidate_start(dart, sids, 2);
	assert_int_equal(invalidate_wait(dart), 0);
	expect(&e, 0x34, 0x9);
	expect(&e, 0x20, 0x100000);
	assert_written(port, &e);
	dart_destroy(dart);
}

static void a_t8110_invalidates_stream_by_stream_or_when_there_are_many_all(void **state)
{
	static const uint32_t sids[] = {17, 3, 5, 0, 9, 11, 19};
	struct port *port = plain(&layouts[3]);
	const struct dart_cfg cfg = config(port, DART_T8110);
	struct dart *dart = create(&cfg);
	struct expected e = {0};

	(void)state;
	port->nr_log = 0;
	invalidate_start(dart, sids, 3);
	expect(&e, 0x80, 0x103);
	assert_written(port, &e); /* the first, without a wait */
	assert_int_equal(invalidate_wait(dart), 0);
	/* Never a command while one runs. */
	for (unsigned i = 1; i < port->nr_log; i++)
		if (!port->log[i].read) {
			assert_true(port->log[i - 1].read);
			assert_false(port->log[i - 1].value & 0x80000000);
		}
	e.nr = 0;
	expect(&e, 0x80, 0x105);
	expect(&e, 0x80, 0x111);
	assert_written(port, &e);
	assert_int_equal(port->busy, 0);

	invalidate_start(dart, sids, 6);
	assert_int_equal(invalidate_wait(dart), 0);
	e.nr = 0;
	expect(&e, 0x80, 0x100);
	expect(&e, 0x80, 0x103);
	expect(&e, 0x80, 0x105);
	expect(&e, 0x80, 0x109);
	expect(&e, 0x80, 0x10b);
	expect(&e, 0x80, 0x111);
	assert_written(port, &e);

	invalidate_start(dart, sids, 7);
	assert_int_equal(invalidate_wait(dart), 0);
	e.nr = 0;
	expect(&e, 0x80, 0);
	assert_written(port, &e);
	dart_destroy(dart);
}

static void an_invalidation_that_does_not_end_is_an_error_that_costs_its_time_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		struct dart *dart = create(&cfg);
		static const uint32_t sids[] = {1, 2};
		struct expected e = {0};
		uint64_t begin;

		port->hangs = true;
		begin = port->now;
		invalidate_start(dart, sids, 2);
		assert_int_equal(port->now, begin);
		assert_int_equal(invalidate_wait(dart), -ETIMEDOUT);
		assert_true(port->now - begin >= TIMEOUT);
		assert_true(port->now - begin <= TIMEOUT + 3000000);

		/* The registers stay its own; nobody waits for it a second time. */
		begin = port->now;
		port->nr_log = 0;
		assert_int_equal(invalidate(dart, 1), -ETIMEDOUT);
		assert_int_equal(invalidate(dart, 1), -ETIMEDOUT);
		assert_true(port->now - begin <= 3000000);
		assert_written(port, &e);

		/* Nothing of what was given up comes back. */
		port->hangs = false;
		port->busy = 0;
		assert_int_equal(invalidate(dart, 3), 0);
		expect_flush(&e, r, 3);
		assert_written(port, &e);
		dart_destroy(dart);
	}
}

static void an_invalidation_that_is_slow_but_ends_is_waited_for(void **state)
{
	struct port *port = plain(&layouts[2]);
	const struct dart_cfg cfg = config(port, DART_T6000);
	struct dart *dart = create(&cfg);
	const uint32_t sid = 1;

	(void)state;
	port->busy_polls = 15; /* a poll a millisecond */
	assert_int_equal(invalidate(dart, 1), 0);
	assert_int_equal(port->busy, 0);
	/* Two started, none waited for: the second waits for the first. */
	invalidate_start(dart, &sid, 1);
	invalidate_start(dart, &sid, 1);
	assert_int_equal(port->busy, 15);
	assert_int_equal(invalidate_wait(dart), 0);
	assert_int_equal(port->busy, 0);
	dart_destroy(dart);
}

static void
a_stream_whose_invalidation_hangs_is_blocked_and_not_let_in_before_one_ended(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, 2);
		struct expected e = {0};

		port->hangs = true;
		assert_int_equal(enable(dart, 2, shadow), -ETIMEDOUT);
		assert_int_equal(reg(port, r->tcr + 8), 0);
		port->nr_log = 0;
		assert_int_equal(enable(dart, 2, shadow), -ETIMEDOUT);
		for (unsigned j = 0; j < port->nr_log; j++)
			assert_true(port->log[j].read || port->log[j].offset != r->tcr + 8 ||
				    !port->log[j].value);

		port->hangs = false;
		port->busy = 0;
		port->nr_log = 0;
		assert_int_equal(enable(dart, 2, shadow), 0);
		expect_flush_all(&e, r);
		expect(&e, r->ttbr + r->ttbr_stride * 2,
		       ttbr_word(r, dart_pt_top(dart_pt_of(shadow), 0)));
		for (unsigned j = 1; j < r->nr_ttbrs; j++)
			expect(&e, r->ttbr + r->ttbr_stride * 2 + 4 * j, 0);
		expect(&e, r->tcr + 8, r->translate);
		expect_flush(&e, r, 2);
		assert_written(port, &e);

		/* TCR is 0: it is blocked whatever becomes of the invalidation. What was on its way
		 * before is not known to have arrived, which is told once. */
		port->hangs = true;
		assert_int_equal(disable(dart, 2), -ETIMEDOUT);
		assert_int_equal(disable(dart, 2), 0);
		assert_int_equal(reg(port, r->tcr + 8), 0);
		port->hangs = false;
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void registers_that_do_not_take_what_is_written_are_an_error(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, 2);
		uint32_t tcr = r->tcr + 8, ttbr = r->ttbr + 2 * r->ttbr_stride;
		char error[160];

		port->frozen[0][0] = ttbr;
		port->frozen[0][1] = ttbr + 4;
		port->nr_log = 0;
		assert_int_equal(enable(dart, 2, shadow), -EIO);
		assert_int_equal(reg(port, tcr), 0);
		for (unsigned j = 0; j < port->nr_log; j++)
			assert_true(port->log[j].read || port->log[j].offset != tcr ||
				    !port->log[j].value);

		port->frozen[0][0] = tcr;
		port->frozen[0][1] = tcr + 4;
		assert_int_equal(enable(dart, 2, shadow), -EIO);
		port->frozen[0][1] = tcr;
		assert_int_equal(enable(dart, 2, shadow), 0);

		/* It cannot be stopped, and that stays an error. */
		port->frozen[0][1] = tcr + 4;
		assert_int_equal(disable(dart, 2), -EIO);
		assert_int_equal(disable(dart, 2), -EIO);
		port->frozen[0][1] = tcr;
		assert_int_equal(disable(dart, 2), 0);
		destroy_shadow(shadow);
		dart_destroy(dart);

		/* Nor at the start. */
		set_reg(port, tcr, r->translate);
		port->frozen[0][1] = tcr + 4;
		assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -EIO);
		assert_non_null(strstr(error, "stream 2"));
	}
}

static bool is_context(const struct regs *r, uint32_t offset)
{
	return (offset >= r->tcr && offset < r->tcr + 4 * r->nr_streams) ||
	       (offset >= r->ttbr && offset < r->ttbr + r->ttbr_stride * r->nr_streams);
}

/* A stream as firmware leaves a display's: it translates, by a table that is in memory. */
static uint64_t *firmware_stream(struct port *port, const struct regs *r, uint32_t sid)
{
	uint64_t *top = (uint64_t *)page_get();

	top[8] = UINT64_C(0x80000001); /* 256 MiB to 288 MiB; never followed */
	set_reg(port, r->ttbr + r->ttbr_stride * sid, ttbr_word(r, pa_at(top)));
	set_reg(port, r->tcr + 4 * sid, r->translate);
	return top;
}

/* Does a start touch the stream's own registers first, or invalidate first? */
static bool starts_at_once(struct port *port, const struct regs *r, struct dart *dart, uint32_t sid,
			   struct shadow *shadow)
{
	unsigned n = 0;

	port->nr_log = 0;
	assert_int_equal(enable(dart, sid, shadow), 0);
	while (n < port->nr_log && port->log[n].read)
		n++;
	assert_true(n < port->nr_log);
	return is_context(r, port->log[n].offset);
}

/* That one other stream has been invalidated since says nothing about those that were not. */
static void after_a_failed_invalidation_the_next_start_invalidates_all_first_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, 1);

		assert_true(starts_at_once(port, r, dart, 1, shadow));
		assert_int_equal(enable(dart, 2, shadow), 0);
		port->hangs = true;
		assert_int_equal(invalidate(dart, 1), -ETIMEDOUT);
		assert_int_equal(disable(dart, 1), -ETIMEDOUT);
		port->hangs = false;
		port->busy = 0;
		assert_int_equal(disable(dart, 2), 0);
		assert_false(starts_at_once(port, r, dart, 1, shadow));
		assert_int_equal(disable(dart, 1), 0);
		assert_true(starts_at_once(port, r, dart, 1, shadow));
		assert_int_equal(disable(dart, 1), 0);
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void a_locked_dart_sees_no_write_to_tcr_and_ttbr_but_invalidations(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		uint8_t *page = page_get();
		struct shadow *shadow, *none = NULL;
		struct dart *dart;
		struct instance *inst;
		uint64_t *top;
		unsigned nr;

		set_reg(port, r->lock, r->lock_bit);
		top = firmware_stream(port, r, 1);
		set_reg(port, r->tcr + 12, 0x1102); /* bypass, on either layout */
		firmware_stream(port, r, 4);
		set_reg(port, r->tcr + 16, r->translate | 0x102); /* both, which is neither */
		dart = create(&cfg);
		inst = dart_instance(dart);
		assert_true(dart_is_locked(dart) && inst->exclusive);
		assert_int_equal(inst->nr_apertures, 2);
		assert_int_equal(inst->apertures[0].start, 0);
		assert_int_equal(inst->apertures[0].last, 0x0fffffff);
		assert_int_equal(inst->apertures[1].start, 0x12000000);

		shadow = shadow_of(dart, 1);
		assert_int_equal(inst->ops->shadow_create(inst, 1, &none), -EBUSY);
		assert_int_equal(inst->ops->shadow_create(inst, 2, &none), -EIO);
		assert_int_equal(inst->ops->shadow_create(inst, 4, &none), -EIO);
		assert_true(inst->ops->shadow_fits(inst, 1, shadow));
		assert_false(inst->ops->shadow_fits(inst, 2, shadow));
		assert_int_equal(shadow->ops->prepare(shadow, 0x20000000, page, K16), 0);
		assert_int_equal(shadow->ops->map(shadow, 0x20000000, page, K16, RW), 0);
		assert_int_equal(enable(dart, 2, shadow), -EIO);
		port->nr_log = 0;
		assert_int_equal(enable(dart, 1, shadow), 0);
		{
			struct expected e = {0};

			expect_flush(&e, r, 1);
			assert_written(port, &e);
		}
		assert_int_not_equal(top[16], 0);
		assert_int_equal(invalidate(dart, 1), 0);
		assert_int_equal(disable(dart, 1), 0);
		assert_int_equal(disable(dart, 2), 0);
		assert_int_equal(disable(dart, 3), -EIO); /* it reaches everything */

		/* What cannot be taken back for certain is no success. */
		assert_int_equal(enable(dart, 1, shadow), 0);
		port->hangs = true;
		assert_int_equal(disable(dart, 1), -EIO);
		assert_int_equal(disable(dart, 1), -EIO); /* nor when it is asked again */
		port->hangs = false;
		assert_int_equal(disable(dart, 1), 0);

		/*
		 * If its shadow goes nonetheless, its leaf table, which the DART may walk, is
		 * never given back; and it is not touched again.
		 */
		assert_int_equal(enable(dart, 1, shadow), 0);
		port->hangs = true;
		assert_int_equal(disable(dart, 1), -EIO);
		destroy_shadow(shadow);
		port->hangs = false;
		nr = port->nr_log;
		assert_int_equal(disable(dart, 1), 0);
		assert_true(port->log[nr].read && port->nr_log == nr + 1); /* is it in bypass? */
		for (unsigned j = 0; j < K16 / 8; j++)
			assert_int_equal(top[j], j == 8 ? 0x80000001 : 0);
		destroy_shadow(
			shadow_of(dart, 1)); /* it is free again, also if nothing was in it */
		destroy_shadow(shadow_of(dart, 1));
		dart_destroy(dart);
		for (unsigned j = 0; j < port->nr_log; j++)
			assert_true(port->log[j].read || !is_context(r, port->log[j].offset));
		assert_int_equal(pages_used(), 4);
	}
}

static void a_locked_stream_is_walked_with_the_levels_that_firmware_chose(void **state)
{
	static const struct {
		uint32_t params3, tcr;
		unsigned entry;
		uint64_t last;
	} rows[] = {
		{0x2a2a0200, 1, 16, BIT(36) - 1}, /* two tables where three would do */
		{0x2a2a0200, 9, 0, BIT(42) - 1},
		{0x24240200, 9, 0, BIT(36) - 1}, /* three where two would do */
		{0x24240200, 1, 16, BIT(36) - 1},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct port *port = plain(&layouts[3]);
		const struct dart_cfg cfg = config(port, DART_T8110);
		const struct instance *inst;
		uint8_t *page = page_get();
		struct shadow *shadow;
		struct dart *dart;
		uint64_t *top;

		set_reg(port, 0x08, rows[i].params3);
		set_reg(port, 0x200, 1);
		top = firmware_stream(port, &layouts[3], 5);
		top[8] = 0;
		set_reg(port, 0x1014, rows[i].tcr);
		dart = create(&cfg);
		inst = dart_instance(dart);
		assert_int_equal(inst->nr_apertures, 1);
		assert_int_equal(inst->apertures[0].last, rows[i].last);
		shadow = shadow_of(dart, 5);
		assert_int_equal(shadow->ops->prepare(shadow, 0x20000000, page, K16), 0);
		for (unsigned j = 0; j < 32; j++)
			assert_int_equal(!!top[j], j == rows[i].entry);
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void a_region_beyond_a_locked_table_is_refused(void **state)
{
	static const struct dart_region direct = {BIT(36), RAM_BASE, K16, RW};
	struct port *port = plain(&layouts[3]);
	struct dart_cfg cfg = config(port, DART_T8110);
	struct dart *dart = NULL;
	char error[160] = "";

	(void)state;
	cfg.direct = &direct;
	cfg.nr_direct = 1;
	set_reg(port, 0x08, 0x2a2a0200);
	set_reg(port, 0x200, 1);
	firmware_stream(port, &layouts[3], 5);
	assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "0x1000000000"));
	set_reg(port, 0x1014, 9);
	dart_destroy(create(&cfg));
}

static void a_live_stream_whose_ttbr_takes_no_writes_is_as_good_as_locked(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		struct port *port = plain(r);
		const struct dart_cfg cfg = config(port, r->kind);
		uint32_t live = r->ttbr + r->ttbr_stride, word;
		struct dart *dart;
		unsigned nr = 0;

		firmware_stream(port, r, 0); /* whose TTBR does take writes */
		firmware_stream(port, r, 1);
		word = reg(port, r->ttbr);
		port->frozen[0][0] = live;
		port->frozen[0][1] = live + 4;
		dart = create(&cfg);
		assert_true(dart_is_locked(dart));
		destroy_shadow(shadow_of(dart, 1));
		destroy_shadow(shadow_of(dart, 0));
		dart_destroy(dart);
		/* Only asked: zero, which means no access goes astray, and back. */
		for (unsigned j = 0; j < port->nr_log; j++) {
			const struct access *a = &port->log[j];

			if (a->read || !is_context(r, a->offset))
				continue;
			if (a->offset == r->ttbr)
				assert_int_equal(a->value, nr++ ? word : 0);
			else
				assert_true(a->offset == live && !a->value);
		}
		assert_int_equal(reg(port, r->ttbr), word);

		/* Live, but like any other: it is stopped. */
		port->frozen[0][1] = live;
		dart = create(&cfg);
		assert_false(dart_is_locked(dart));
		assert_int_equal(reg(port, r->tcr + 4), 0);
		assert_int_equal(reg(port, live), 0);
		dart_destroy(dart);
	}
}

static void what_is_no_such_dart_is_refused(void **state)
{
	static const struct {
		unsigned layout;
		uint32_t offset, value;
		const char *says;
	} rows[] = {
		{0, 0x00, 0x0d000000, "2^13"}, /* pages of 8 KiB */
		{0, 0x00, 0x00000000, "2^0"},  /* unpowered */
		{1, 0x00, 0xffffffff, "2^15"}, /* nobody answers */
		{2, 0x00, 0x0c000000, "2^12"}, /* DART2 has no 4 KiB pages */
		{3, 0x00, 0x0c000000, "2^12"},
		{3, 0x08, 0x241f0100, "31"}, /* PARAMS3: IOVA */
		{3, 0x08, 0x242b0200, "43"},
		{3, 0x08, 0x2b240100, "43"}, /* PA */
		{3, 0x08, 0x0e240100, "14"},
		{3, 0x08, 0x2a2a0100, "revision 1"}, /* four levels need the second */
		{3, 0x0c, 0x00000000, "0 streams"},
		{3, 0x0c, 0x00000101, "257 streams"},
		{0, 0x84, 0x07061004, "stream 5 to 16"}, /* STREAM_REMAP */
		{1, 0x84, 0x07064004, "stream 5 to 64"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct port *port = plain(&layouts[rows[i].layout]);
		const struct dart_cfg cfg = config(port, layouts[rows[i].layout].kind);
		struct dart *dart = NULL;
		char error[160] = "";

		set_reg(port, rows[i].offset, rows[i].value);
		assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -ENODEV);
		assert_null(dart);
		if (!strstr(error, rows[i].says) || !strstr(error, "dart-x"))
			fail_msg("row %zu: %s", i, error);
		for (unsigned j = 0; j < port->nr_log; j++)
			assert_true(port->log[j].read);
	}
}

static void bypass_is_known_but_never_programmed(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct port *port = plain(&layouts[i]);
		const struct dart_cfg cfg = config(port, layouts[i].kind);
		struct dart *dart = create(&cfg);

		assert_false(dart_can_bypass(dart));
		dart_destroy(dart);
		set_reg(port, 0x04, 0xffffffff);
		dart = create(&cfg);
		/* No value of usb4's TCR is known to do it. */
		assert_int_equal(dart_can_bypass(dart), layouts[i].kind != DART_T8103_USB4);
		dart_destroy(dart);
	}
}

static void a_first_invalidation_that_hangs_or_firmware_left_running_is_seen(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct port *port = plain(&layouts[i]);
		const struct dart_cfg cfg = config(port, layouts[i].kind);
		struct dart *dart = NULL;
		char error[160] = "";
		unsigned command = 0;

		port->busy = 5;
		dart = create(&cfg);
		while (port->log[command].read || port->log[command].offset != port->command)
			command++;
		assert_true(port->log[command - 1].read || i < 3);
		dart_destroy(dart);
		assert_int_equal(port->busy, 0);

		port->hangs = true;
		assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -ETIMEDOUT);
		assert_non_null(strstr(error, "20 ms"));
	}
}

static void apertures_leave_out_what_is_reserved_and_are_whole_pages(void **state)
{
	static const struct dart_region direct[] = {
		{0x80000000, RAM_BASE, 2 * K16, RW},
		{0x40000000, RAM_BASE + 0x100000, K16, RO},
		{0x40004000, RAM_BASE + 0x200000, K16, RW}, /* next to it */
		{0x00000000, RAM_BASE + 0x300000, K16, RW},
	};
	struct port *port = plain(&layouts[0]);
	struct dart_cfg cfg = config(port, DART_T8103);
	const struct instance *inst;
	struct dart *dart;

	(void)state;
	dart = create(&cfg);
	inst = dart_instance(dart);
	assert_int_equal(inst->nr_apertures, 1);
	assert_int_equal(inst->apertures[0].start, 0);
	assert_int_equal(inst->apertures[0].last, UINT32_MAX);
	assert_true(inst->caches_invalid && !inst->exclusive);
	assert_ptr_equal(dart_of(dart_instance(dart)), dart);
	dart_destroy(dart);

	cfg.direct = direct;
	cfg.nr_direct = ARRAY_SIZE(direct);
	cfg.aperture = (struct iova_range){0, 0xffffbffe}; /* not all of the last page but one */
	dart = create(&cfg);
	inst = dart_instance(dart);
	assert_int_equal(inst->nr_apertures, 3);
	assert_int_equal(inst->apertures[0].start, 0x4000);
	assert_int_equal(inst->apertures[0].last, 0x3fffffff);
	assert_int_equal(inst->apertures[1].start, 0x40008000);
	assert_int_equal(inst->apertures[1].last, 0x7fffffff);
	assert_int_equal(inst->apertures[2].start, 0x80008000);
	assert_int_equal(inst->apertures[2].last, 0xffff7fff);
	dart_destroy(dart);

	/* A region that begins before the aperture, and one behind it. */
	cfg.aperture = (struct iova_range){0x40001000, 0x7fffffff};
	dart = create(&cfg);
	inst = dart_instance(dart);
	assert_int_equal(inst->nr_apertures, 1);
	assert_int_equal(inst->apertures[0].start, 0x40008000);
	assert_int_equal(inst->apertures[0].last, 0x7fffffff);
	dart_destroy(dart);
}

static void of_too_many_apertures_the_smallest_are_given_up(void **state)
{
	struct dart_region direct[41];
	struct port *port = plain(&layouts[0]);
	struct dart_cfg cfg = config(port, DART_T8103);
	const struct instance *inst;
	struct dart *dart;
	uint64_t next = 0;
	unsigned nr = 0;

	(void)state;
	/* Before them lie 1 to 41 pages, in no order; behind the last, the lot. */
	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++) {
		next += (i * 17 % 41 + 1) * K16;
		direct[i] = (struct dart_region){next, RAM_BASE, K16, RW};
		next += K16;
	}
	cfg.direct = direct;
	cfg.nr_direct = ARRAY_SIZE(direct);
	dart = create(&cfg);
	inst = dart_instance(dart);
	assert_int_equal(inst->nr_apertures, INSTANCE_MAX_APERTURES);
	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++) {
		uint64_t pages = i * 17 % 41 + 1;

		if (pages < 41 - (INSTANCE_MAX_APERTURES - 2))
			continue;
		assert_int_equal(inst->apertures[nr].last, direct[i].iova - 1);
		assert_int_equal(inst->apertures[nr].start, direct[i].iova - pages * K16);
		nr++;
	}
	assert_int_equal(nr, INSTANCE_MAX_APERTURES - 1);
	assert_int_equal(inst->apertures[nr].start, next);
	assert_int_equal(inst->apertures[nr].last, UINT32_MAX);
	dart_destroy(dart);
}

static void a_t8110_reaches_no_further_than_its_physical_address_width(void **state)
{
	static const struct dart_region direct = {0x4000, UINT64_C(0x1000000000), K16, RW};
	struct port *port = plain(&layouts[3]);
	struct dart_cfg cfg = config(port, DART_T8110);
	struct dart *dart;
	char error[160] = "";

	(void)state;
	cfg.direct = &direct;
	cfg.nr_direct = 1;
	assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -EINVAL);
	set_reg(port, 0x08, 0x2a240100);
	dart_destroy(create(&cfg));
}

static void bad_regions_and_apertures_are_refused_before_anything_is_written(void **state)
{
	static const struct {
		struct iova_range aperture;
		struct dart_region direct[2];
	} rows[] = {
		{{0, 0}, {{0}}},
		{{0x3000, 0x7ffe}, {{0}}},		  /* no whole page */
		{{UINT64_C(1) << 32, UINT64_MAX}, {{0}}}, /* above the IOVA space */
		{{8, 7}, {{0}}},
		{{UINT64_MAX - 7, UINT64_MAX}, {{0}}},
		{ANYWHERE, {{0x1000, RAM_BASE, K16, RW}}},
		{ANYWHERE, {{0x4000, RAM_BASE + 0x1000, K16, RW}}},
		{ANYWHERE, {{0x4000, RAM_BASE, 0x1000, RW}}},
		{ANYWHERE, {{0x4000, RAM_BASE, K16, 0}}},
		{ANYWHERE, {{0x4000, RAM_BASE, K16, 4}}},
		{ANYWHERE, {{0xffffc000, RAM_BASE, 2 * K16, RW}}},
		{ANYWHERE, {{UINT64_MAX - 0x3fff, RAM_BASE, 2 * K16, RW}}},
		{ANYWHERE, {{0x4000, 0xfffffc000, 2 * K16, RW}}},
		{ANYWHERE, {{0x4000, RAM_BASE, 2 * K16, RW}, {0x8000, RAM_BASE, K16, RW}}},
		{{0x4000, 0x7fff}, {{0x4000, RAM_BASE, K16, RW}}}, /* nothing left */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct port *port = plain(&layouts[0]);
		struct dart_cfg cfg = config(port, DART_T8103);
		struct dart *dart = NULL;
		char error[160] = "";

		cfg.aperture = rows[i].aperture;
		cfg.direct = rows[i].direct;
		cfg.nr_direct = !!rows[i].direct[0].iova + !!rows[i].direct[1].iova;
		if (dart_create(&cfg, &dart, error, sizeof(error)) != -EINVAL || !*error)
			fail_msg("row %zu: %s", i, error);
		for (unsigned j = 0; j < port->nr_log; j++)
			assert_true(port->log[j].read);
	}
}

static void a_region_that_firmware_mapped_is_left_to_it(void **state)
{
	static const struct dart_region direct[] = {
		{0x10000000, RAM_BASE + 0x400000, K16, RW}, /* in what firmware maps */
		{0x20000000, RAM_BASE + 0x500000, K16, RW},
		{0x0fffc000, RAM_BASE + 0x600000, 2 * K16, RW}, /* half in, half out */
	};
	struct port *port = plain(&layouts[2]);
	struct dart_cfg cfg = config(port, DART_T6000);
	struct shadow *shadow;
	struct dart *dart;
	char error[160] = "";
	uint64_t *top;

	(void)state;
	set_reg(port, 0x60, 0x8000);
	top = firmware_stream(port, &layouts[2], 1);
	cfg.direct = direct;
	cfg.nr_direct = 2;
	dart = create(&cfg);
	assert_int_equal(dart_instance(dart)->nr_apertures, 3);
	shadow = shadow_of(dart, 1);
	assert_int_equal(top[8], 0x80000001);
	assert_int_not_equal(top[16], 0);
	destroy_shadow(shadow);
	assert_int_equal(top[16], 0);
	dart_destroy(dart);

	cfg.direct = &direct[1];
	assert_int_equal(dart_create(&cfg, &dart, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "0xfffc000"));
	assert_int_equal(pages_used(), 1);
}

static void a_remapped_stream_is_known_by_the_context_it_uses(void **state)
{
	struct port *port = plain(&layouts[0]);
	const struct dart_cfg cfg = config(port, DART_T8103);
	struct expected e = {0};
	struct shadow *shadow;
	struct instance *inst;
	struct dart *dart;

	(void)state;
	set_reg(port, 0x80, 0x03020202); /* 0, 1 and 2 use 2 */
	dart = create(&cfg);
	inst = dart_instance(dart);
	assert_int_equal(dart_remap(dart, 0), 2);
	assert_int_equal(dart_remap(dart, 1), 2);
	assert_int_equal(dart_remap(dart, 2), 2);
	assert_int_equal(dart_remap(dart, 3), 3);
	assert_int_equal(dart_remap(dart, 300), 300);
	assert_int_equal(inst->ops->shadow_create(inst, 1, &shadow), -EIO);

	shadow = shadow_of(dart, 2);
	port->nr_log = 0;
	assert_int_equal(enable(dart, 2, shadow), 0);
	expect(&e, 0x220, ttbr_word(&layouts[0], dart_pt_top(dart_pt_of(shadow), 0)));
	for (unsigned i = 1; i < 4; i++)
		expect(&e, 0x220 + 4 * i, 0);
	expect(&e, 0x108, 0x80);
	expect(&e, 0x34, 0x7);
	expect(&e, 0x20, 0x100000);
	assert_written(port, &e);

	set_reg(port, 0x40, 0x81000004);
	assert_true(dart_irq(dart));
	assert_int_equal(port->fault.sid, 2);
	assert_int_equal(port->fault.raw, 0x81000004);
	assert_int_equal(disable(dart, 2), 0);
	destroy_shadow(shadow);
	dart_destroy(dart);
}

static void an_interrupt_reads_the_latch_before_it_is_cleared(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		const struct regs *r = &layouts[i];
		bool t8110 = r->kind == DART_T8110;
		struct port *port = plain(r);
		struct dart_cfg cfg = config(port, r->kind);
		uint32_t raw = t8110 ? 0x91180010 : 0x83000008;
		uint32_t addr = t8110 ? 0x170 : 0x50;
		struct dart *dart = create(&cfg);
		unsigned n = 0;

		set_reg(port, r->error, raw & 0x7fffffff);
		port->nr_log = 0;
		assert_false(dart_irq(dart)); /* not ours: the line is shared */
		assert_int_equal(port->nr_log, 1);
		assert_int_equal(port->nr_faults, 0);

		set_reg(port, r->error, raw);
		set_reg(port, addr, 0x9abcde48);
		set_reg(port, addr + 4, 0xf);
		port->nr_log = 0;
		assert_true(dart_irq(dart));
		assert_true(port->log[n].read && port->log[n].offset == r->error);
		assert_true(port->log[++n].read && port->log[n].offset == addr);
		assert_true(port->log[++n].read && port->log[n].offset == addr + 4);
		assert_true(!port->log[++n].read && port->log[n].offset == r->error);
		assert_int_equal(port->log[n].value, raw);
		for (unsigned j = 0; t8110 && j < 8; j++) {
			n++;
			assert_true(!port->log[n].read && port->log[n].offset == 0x1c0 + 4 * j);
			assert_int_equal(port->log[n].value, UINT32_MAX);
		}
		assert_int_equal(port->nr_log, n + 1);

		assert_int_equal(port->nr_faults, 1);
		assert_int_equal(port->fault.sid, t8110 ? 17 : 3);
		assert_int_equal(port->fault.iova, 0xf9abcde48);
		assert_int_equal(port->fault.reason, FAULT_MAPPING);
		assert_int_equal(port->fault.flags, FAULT_WRITE | FAULT_ADDRESS);
		assert_int_equal(port->fault.raw, raw);
		assert_int_equal(port->fault.more, t8110);
		dart_destroy(dart);

		cfg.fault = NULL;
		dart = create(&cfg);
		set_reg(port, r->error, raw);
		assert_true(dart_irq(dart));
		dart_destroy(dart);
	}
}

static void an_error_word_is_read_bit_by_bit(void **state)
{
	static const struct {
		enum dart_kind kind;
		uint32_t raw, sid;
		enum fault_reason reason;
		unsigned flags;
		bool more;
	} rows[] = {
		{DART_T8103, 0x81000004, 1, FAULT_MAPPING, 0, false},
		{DART_T8103, 0x83000008, 3, FAULT_MAPPING, FAULT_WRITE, false},
		{DART_T8103, 0x82000080, 2, FAULT_MAPPING, 0, false},
		{DART_T8103, 0x81000404, 1, FAULT_MAPPING, FAULT_WRITE,
		 false}, /* with the write bit */
		{DART_T8103, 0x8f000010, 15, FAULT_MAPPING, FAULT_READ, false},
		{DART_T8103, 0x80000001, 0, FAULT_MAPPING, 0, false},
		{DART_T8103, 0x80000002, 0, FAULT_MAPPING, 0, false},
		{DART_T8103, 0x80000020, 0, FAULT_UNKNOWN, 0, false},
		{DART_T8103, 0x80000040, 0, FAULT_UNKNOWN, 0, false},
		{DART_T8103, 0x80000100, 0, FAULT_UNKNOWN, FAULT_WRITE, false},
		{DART_T8103, 0x80000800, 0, FAULT_UNKNOWN, 0, false},
		{DART_T8103, 0x80000204, 0, FAULT_MAPPING, 0,
		 false}, /* with one that has no name */
		{DART_T8103, 0x80000000, 0, FAULT_UNKNOWN, 0, false},
		{DART_T8103, 0xf0fff000, 0, FAULT_UNKNOWN, 0, false},
		{DART_T8103_USB4, 0x8f000004, 15, FAULT_MAPPING, 0, false},
		{DART_T6000, 0x82000080, 2, FAULT_MAPPING, 0, false},
		{DART_T8110, 0x80500008, 5, FAULT_MAPPING, FAULT_READ, false},
		{DART_T8110, 0x91100010, 17, FAULT_MAPPING, FAULT_WRITE, false},
		{DART_T8110, 0x90000008, 0, FAULT_MAPPING, FAULT_WRITE, false},
		{DART_T8110, 0x8ff80020, 255, FAULT_MAPPING, FAULT_READ, true},
		{DART_T8110, 0x80000001, 0, FAULT_MAPPING, FAULT_READ, false},
		{DART_T8110, 0x80000002, 0, FAULT_MAPPING, FAULT_READ, false},
		{DART_T8110, 0x80000004, 0, FAULT_MAPPING, FAULT_READ, false},
		{DART_T8110, 0xb0000000, 0, FAULT_MAPPING, FAULT_WRITE, false}, /* region */
		{DART_T8110, 0x80000040, 0, FAULT_UNKNOWN, FAULT_READ, false},
		{DART_T8110, 0x90000080, 0, FAULT_UNKNOWN, FAULT_WRITE, false},
		{DART_T8110, 0x80000100, 0, FAULT_UNKNOWN, FAULT_WRITE, false},
		{DART_T8110, 0x80007e00, 0, FAULT_UNKNOWN, FAULT_READ, false},
		{DART_T8110, 0xc0040000, 0, FAULT_UNKNOWN, FAULT_READ, false},
		{DART_T8110, 0x80000048, 0, FAULT_MAPPING, FAULT_READ, false}, /* two causes */
	};
	struct dart_fault fault;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_true(dart_decode_error(rows[i].kind, rows[i].raw, 0x1234567890, &fault));
		if (fault.sid != rows[i].sid || fault.reason != rows[i].reason ||
		    fault.flags != (rows[i].flags | FAULT_ADDRESS) || fault.more != rows[i].more ||
		    fault.raw != rows[i].raw || fault.iova != 0x1234567890)
			fail_msg("row %zu: sid %u reason %d flags %#x more %d", i, fault.sid,
				 fault.reason, fault.flags, fault.more);
		assert_false(dart_decode_error(rows[i].kind, rows[i].raw & 0x7fffffff, 0, &fault));
	}
}

static void keep_lines(void *ctx, const char *text)
{
	char *all = ctx;

	assert_true(strlen(all) + strlen(text) < 2000);
	strcat(strcat(all, text), "\n");
}

static void a_dump_has_a_line_for_each_stream_that_is_not_all_zero(void **state)
{
	struct port *port = plain(&layouts[0]);
	const struct dart_cfg cfg = config(port, DART_T8103);
	char all[2048] = "", word[64];
	struct shadow *shadow;
	struct dart *dart;

	(void)state;
	set_reg(port, 0x80, 0x02020100); /* 3 uses 2 */
	dart = create(&cfg);
	shadow = shadow_of(dart, 1);
	assert_int_equal(enable(dart, 1, shadow), 0);
	set_reg(port, 0x114, 0x1100);
	dart_dump(dart, keep_lines, all);
	snprintf(word, sizeof(word), "3 levels from %#llx\n",
		 (unsigned long long)dart_pt_top(dart_pt_of(shadow), 0));
	assert_non_null(strstr(all, "dart-x: t8103, 16 streams"));
	assert_non_null(strstr(all, "stream 1: TCR 0x80"));
	assert_non_null(strstr(all, word));
	assert_non_null(strstr(all, "stream 3: TCR 0 TTBR 0 0 0 0: uses stream 2's"));
	assert_non_null(strstr(all, "stream 5: TCR 0x1100 TTBR 0 0 0 0: bypass"));
	assert_null(strstr(all, "stream 2:"));
	assert_int_equal(disable(dart, 1), 0);
	destroy_shadow(shadow);
	dart_destroy(dart);
}

static void streams_that_do_not_exist_are_refused(void **state)
{
	static const uint32_t beyond[] = {20, 64, 255};
	struct port *port = plain(&layouts[3]);
	const struct dart_cfg cfg = config(port, DART_T8110);
	struct dart *dart = create(&cfg);
	struct shadow *shadow = shadow_of(dart, 19), *none;
	struct instance *inst = dart_instance(dart);

	(void)state;
	assert_int_equal(inst->ops->shadow_create(inst, 20, &none), -EINVAL);
	assert_false(inst->ops->shadow_fits(inst, 20, shadow));
	assert_int_equal(enable(dart, 20, shadow), -EINVAL);
	assert_int_equal(disable(dart, 20), -EINVAL);
	port->nr_log = 0;
	invalidate_start(dart, beyond, 3);
	assert_int_equal(invalidate_wait(dart), 0);
	assert_int_equal(port->nr_log, 0);
	destroy_shadow(shadow);
	dart_destroy(dart);
}

static void no_allocation_that_fails_leaves_anything_behind(void **state)
{
	static const struct dart_region direct[] = {{0x20000000, RAM_BASE + 0x500000, K16, RW}};

	(void)state;
	for (unsigned locked = 0; locked < 2; locked++) {
		struct port *port = plain(&layouts[2]);
		struct dart_cfg cfg = config(port, DART_T6000);
		unsigned n, left, nr;

		if (locked) {
			set_reg(port, 0x60, 0x8000);
			firmware_stream(port, &layouts[2], 1);
			firmware_stream(port, &layouts[2], 4);
		}
		cfg.direct = direct;
		cfg.nr_direct = 1;
		nr = pages_used();
		for (n = 1;; n++) {
			struct dart *dart = NULL;
			char error[160] = "";
			int ret;

			port->nr_log = 0;
			iommu_alloc_fail_nth(n);
			ret = dart_create(&cfg, &dart, error, sizeof(error));
			left = iommu_alloc_fail_nth(0);
			dart_destroy(dart);
			assert_int_equal(pages_used(), nr);
			if (left)
				break;
			assert_int_equal(ret, -ENOMEM);
			assert_non_null(strstr(error, "memory"));
		}
		assert_true(n > (locked ? 8 : 3));
	}
}

/* ---- where accesses land ---- */

static const struct sample {
	enum dart_kind kind;
	enum dart_model_kind model;
	unsigned page_lg2, va_width;
	uint32_t sid;
	uint64_t iova;
} samples[] = {
	{DART_T8103, DART_MODEL_T8020, 14, 0, 1, 0x9abcc000},
	{DART_T8103, DART_MODEL_T8020, 12, 0, 1, 0xc0fec000},
	{DART_T8103_USB4, DART_MODEL_T8103_USB4, 14, 0, 40, 0xfffc0000},
	{DART_T6000, DART_MODEL_T6000, 14, 0, 2, 0x40320000},
	{DART_T8110, DART_MODEL_T8110, 14, 36, 5, 0xfedcb8000},
	{DART_T8110, DART_MODEL_T8110, 14, 42, 17, 0x25a5a5a4000},
};

static void *model_mem(void *ctx, uint64_t pa, size_t len)
{
	(void)ctx;
	return at_pa(pa, len);
}

static void model_irq(void *ctx, bool level)
{
	struct port *port = ctx;

	port->line = level;
}

static struct port *modelled(unsigned nr, const struct sample *s)
{
	struct port *port = &ports[nr];
	const struct dart_model_cfg cfg = {
		.kind = s->model,
		.page_lg2 = s->page_lg2,
		.va_width = s->va_width,
		.nr_streams = s->kind == DART_T8110 ? 64 : 0,
		.bypass_support = true,
		.tlb = true,
		.mem = model_mem,
		.irq = model_irq,
		.irq_ctx = port,
	};

	if (!nr)
		start_over();
	assert_int_equal(dart_model_create(&cfg, &port->model), 0);
	return port;
}

static void set_quirks(struct port *port, const struct dart_model_quirks *quirks)
{
	dart_model_set_quirks(port->model, quirks);
}

static void map(struct shadow *shadow, uint64_t iova, uint8_t *page, unsigned prot)
{
	assert_int_equal(shadow->ops->prepare(shadow, iova, page, shadow->granule), 0);
	assert_int_equal(shadow->ops->map(shadow, iova, page, shadow->granule, prot), 0);
}

static int dma_write(struct port *port, uint32_t sid, uint64_t iova, uint64_t value)
{
	return dart_model_dma_write(port->model, sid, iova, &value, 8);
}

static int dma_read(struct port *port, uint32_t sid, uint64_t iova, uint64_t *value)
{
	return dart_model_dma_read(port->model, sid, iova, value, 8);
}

static void assert_lands(struct port *port, uint32_t sid, uint64_t iova, uint8_t *page)
{
	static uint64_t stamp = 0x1000;
	uint64_t value;

	assert_int_equal(dma_write(port, sid, iova + 0x448, ++stamp), 0);
	assert_int_equal(get_le64(page + 0x448), stamp);
	put_le64(page + 0xff8, ++stamp);
	assert_int_equal(dma_read(port, sid, iova + 0xff8, &value), 0);
	assert_int_equal(value, stamp);
}

static void assert_refused(struct port *port, uint32_t sid, uint64_t iova)
{
	uint64_t value;

	assert_int_equal(dma_write(port, sid, iova, 1), -EFAULT);
	assert_int_equal(dma_read(port, sid, iova, &value), -EFAULT);
}

static void what_is_mapped_is_reached_and_what_is_not_is_not_on_every_kind(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, s->sid);
		uint8_t *page[2] = {page_get(), page_get()};
		uint64_t next = s->iova + shadow->granule, value;

		assert_refused(port, s->sid, s->iova);
		map(shadow, s->iova, page[0], RW);
		assert_refused(port, s->sid, s->iova);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, s->iova, page[0]);
		assert_refused(port, s->sid ^ 8, s->iova); /* another stream */

		/* That something was not mapped is remembered. */
		assert_refused(port, s->sid, next);
		map(shadow, next, page[1], RO);
		assert_refused(port, s->sid, next);
		assert_int_equal(invalidate(dart, s->sid), 0);
		assert_int_equal(dma_read(port, s->sid, next, &value), 0);
		assert_int_equal(dma_write(port, s->sid, next, 1), -EFAULT);

		/* What was mapped is, until an invalidation. */
		assert_lands(port, s->sid, s->iova, page[0]);
		shadow->ops->unmap(shadow, s->iova, shadow->granule);
		assert_lands(port, s->sid, s->iova, page[0]);
		assert_int_equal(invalidate(dart, s->sid), 0);
		assert_refused(port, s->sid, s->iova);

		map(shadow, s->iova, page[0], RW);
		assert_int_equal(invalidate(dart, s->sid), 0);
		assert_lands(port, s->sid, s->iova, page[0]);
		assert_int_equal(disable(dart, s->sid), 0);
		assert_refused(port, s->sid, s->iova);
		destroy_shadow(shadow);
		dart_destroy(dart);
		assert_int_equal(pages_used(), 2);
	}
}

static void many_streams_forget_at_once(void **state)
{
	static const uint32_t few[] = {1, 9, 15}, many[] = {1, 2, 3, 5, 8, 13, 15};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, 1);
		uint8_t *page[2] = {page_get(), page_get()};
		uint64_t last = shadow->granule - 1;

		map(shadow, s->iova, page[0], RW);
		for (unsigned round = 0; round < 2; round++) {
			const uint32_t *sids = round ? many : few;
			unsigned nr = round ? ARRAY_SIZE(many) : ARRAY_SIZE(few);

			for (unsigned j = 0; j < nr; j++) {
				assert_int_equal(enable(dart, sids[j], shadow), 0);
				assert_lands(port, sids[j], s->iova, page[round]);
			}
			shadow->ops->replace(shadow, s->iova, page[!round], RW, 0, last);
			invalidate_start(dart, sids, nr);
			assert_int_equal(invalidate_wait(dart), 0);
			for (unsigned j = 0; j < nr; j++)
				assert_lands(port, sids[j], s->iova, page[!round]);
		}
		for (uint32_t sid = 0; sid < 16; sid++)
			assert_int_equal(disable(dart, sid), 0);
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void a_stream_moves_to_another_table_without_a_trace_of_the_old_one(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow[2] = {shadow_of(dart, s->sid), shadow_of(dart, s->sid)};
		uint8_t *page[2] = {page_get(), page_get()};
		uint64_t g = shadow[0]->granule;

		map(shadow[0], s->iova, page[0], RW);
		map(shadow[0], s->iova + g, page[0], RW);
		map(shadow[1], s->iova, page[1], RW);
		map(shadow[1], s->iova + 2 * g, page[1], RW);
		assert_int_equal(enable(dart, s->sid, shadow[0]), 0);
		assert_lands(port, s->sid, s->iova, page[0]);
		assert_lands(port, s->sid, s->iova + g, page[0]);
		assert_refused(port, s->sid, s->iova + 2 * g);

		assert_int_equal(enable(dart, s->sid, shadow[1]), 0);
		destroy_shadow(shadow[0]);
		assert_lands(port, s->sid, s->iova, page[1]);
		assert_refused(port, s->sid, s->iova + g);
		assert_lands(port, s->sid, s->iova + 2 * g, page[1]);
		assert_int_equal(disable(dart, s->sid), 0);
		destroy_shadow(shadow[1]);
		dart_destroy(dart);
	}
}

static void darts_of_one_kind_walk_one_table_and_others_their_own(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		for (size_t j = 0; j < ARRAY_SIZE(samples); j++) {
			const struct sample *s[2] = {&samples[i], &samples[j]};
			struct port *port[2] = {modelled(0, s[0]), modelled(1, s[1])};
			struct dart_cfg cfg[2] = {config(port[0], s[0]->kind),
						  config(port[1], s[1]->kind)};
			struct dart *dart[2] = {create(&cfg[0]), create(&cfg[1])};
			struct shadow *shadow = shadow_of(dart[0], s[0]->sid);
			struct instance *other = dart_instance(dart[1]);
			uint8_t *page = page_get();
			bool fits = other->ops->shadow_fits(other, s[1]->sid, shadow);

			/* t8103 and its usb4 variant have one format, page size and IOVA width. */
			assert_int_equal(fits, i == j || (i == 0 && j == 2) || (i == 2 && j == 0));
			if (fits) {
				map(shadow, s[0]->iova, page, RW);
				for (unsigned k = 0; k < 2; k++) {
					assert_int_equal(enable(dart[k], s[k]->sid, shadow), 0);
					assert_lands(port[k], s[k]->sid, s[0]->iova, page);
				}
				for (unsigned k = 0; k < 2; k++)
					assert_int_equal(disable(dart[k], s[k]->sid), 0);
			} else {
				assert_int_equal(enable(dart[1], s[1]->sid, shadow), -EIO);
				assert_refused(port[1], s[1]->sid, s[0]->iova);
			}
			destroy_shadow(shadow);
			for (unsigned k = 0; k < 2; k++)
				dart_destroy(dart[k]);
		}
}

static void a_hanging_invalidation_is_reported_and_a_stream_enabled_by_it_is_blocked(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, s->sid);
		uint8_t *page = page_get();

		map(shadow, s->iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, s->iova, page);
		set_quirks(port, &(struct dart_model_quirks){.invalidate_hangs = true});
		shadow->ops->unmap(shadow, s->iova, shadow->granule);
		assert_int_equal(invalidate(dart, s->sid), -ETIMEDOUT);
		assert_lands(port, s->sid, s->iova, page); /* so it is not gone indeed */
		assert_int_equal(disable(dart, s->sid), -ETIMEDOUT);
		assert_refused(port, s->sid, s->iova);
		assert_int_equal(enable(dart, s->sid, shadow), -ETIMEDOUT);
		assert_refused(port, s->sid, s->iova);

		/* Once it works again, nothing of before is left. */
		set_quirks(port, &(struct dart_model_quirks){0});
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_refused(port, s->sid, s->iova);
		assert_int_equal(disable(dart, s->sid), 0);

		set_quirks(port, &(struct dart_model_quirks){.fail_invalidation = 1});
		map(shadow, s->iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), -ETIMEDOUT);
		assert_refused(port, s->sid, s->iova);
		set_quirks(port, &(struct dart_model_quirks){0});
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void windows_bound_a_page_where_they_are_asked_for(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, s->sid);
		uint8_t *page = page_get();

		assert_true(shadow->can_replace);
		assert_false(shadow->can_window);
		destroy_shadow(shadow);
		dart_destroy(dart);

		cfg.windows = true;
		dart = create(&cfg);
		shadow = shadow_of(dart, s->sid);
		assert_int_equal(shadow->can_window, s->page_lg2 == 14);
		if (shadow->can_window) {
			assert_int_equal(shadow->ops->prepare(shadow, s->iova, page, K16), 0);
			assert_int_equal(
				shadow->ops->map_window(shadow, s->iova, page, RW, 0x1000, 0x1fff),
				0);
			assert_int_equal(enable(dart, s->sid, shadow), 0);
			assert_refused(port, s->sid, s->iova + 0xff8);
			assert_lands(port, s->sid, s->iova + 0x1000, page + 0x1000);
			assert_refused(port, s->sid, s->iova + 0x2000);
			assert_true(port->line);
			assert_true(dart_irq(dart));
			assert_int_equal(port->fault.reason, FAULT_MAPPING);

			shadow->ops->replace(shadow, s->iova, page, RW, 0x1000, 0x2fff);
			assert_int_equal(invalidate(dart, s->sid), 0);
			assert_lands(port, s->sid, s->iova + 0x2000, page + 0x2000);
			assert_refused(port, s->sid, s->iova + 0x3000);
			assert_int_equal(disable(dart, s->sid), 0);
		}
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

static void a_fault_is_reported_once_with_stream_address_reason_and_direction(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, s->sid);
		/* Four bits name the stream on layout v1. */
		uint32_t named = s->kind == DART_T8110 ? s->sid : s->sid & 15;
		uint64_t bytes;

		map(shadow, s->iova, page_get(), RO);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_false(port->line);
		assert_false(dart_irq(dart));

		assert_int_equal(dma_write(port, s->sid, s->iova + 0x128, 1), -EFAULT);
		assert_true(port->line);
		assert_true(dart_irq(dart));
		assert_false(port->line);
		assert_int_equal(port->nr_faults, 1);
		assert_int_equal(port->fault.sid, named);
		assert_int_equal(port->fault.iova & ~UINT64_C(0xfff), s->iova);
		assert_int_equal(port->fault.reason, FAULT_MAPPING);
		assert_int_equal(port->fault.flags, FAULT_WRITE | FAULT_ADDRESS);
		assert_false(dart_irq(dart));

		assert_int_equal(dma_read(port, s->sid, s->iova + 2 * K16, &bytes), -EFAULT);
		assert_true(dart_irq(dart));
		assert_false(port->line);
		assert_int_equal(port->nr_faults, 2);
		assert_int_equal(port->fault.iova & ~UINT64_C(0xfff), s->iova + 2 * K16);
		assert_int_equal(port->fault.reason, FAULT_MAPPING);
		assert_false(port->fault.flags & FAULT_WRITE);

		/* Two at once: one is kept; a t8110 says that there were more. */
		assert_int_equal(dma_read(port, s->sid, s->iova + 2 * K16, &bytes), -EFAULT);
		assert_int_equal(dma_read(port, s->sid, s->iova + 3 * K16, &bytes), -EFAULT);
		assert_true(dart_irq(dart));
		assert_false(port->line);
		assert_int_equal(port->fault.iova & ~UINT64_C(0xfff), s->iova + 2 * K16);
		assert_int_equal(port->fault.more, s->kind == DART_T8110);
		assert_int_equal(disable(dart, s->sid), 0);
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

/* Registers without a log, for several threads. */
struct shared {
	struct dart *dart;
	struct dart_model *model;
	atomic_uint nr_faults, nr_seen;
	atomic_bool stop;
	pthread_mutex_t lock;
	uint64_t iova[100];
};

static uint32_t shared_read(void *ctx, uint32_t offset)
{
	struct shared *sh = ctx;
	uint32_t value = dart_model_read(sh->model, offset);

	/* Who has seen a fault lets the other see it too, if it may. */
	if (offset == 0x100 && value & 0x80000000) {
		unsigned seen = ++sh->nr_seen;

		for (unsigned i = 0; i < 100 && atomic_load(&sh->nr_seen) == seen; i++)
			sched_yield();
	}
	return value;
}

static void shared_write(void *ctx, uint32_t offset, uint32_t value)
{
	dart_model_write(((struct shared *)ctx)->model, offset, value);
}

static uint64_t shared_now(void *ctx)
{
	(void)ctx;
	return 0;
}

static void shared_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	struct shared *sh = ctx;
	unsigned nr;

	(void)dart;
	pthread_mutex_lock(&sh->lock);
	nr = atomic_load(&sh->nr_faults);
	if (nr < ARRAY_SIZE(sh->iova))
		sh->iova[nr] = fault->iova;
	atomic_store(&sh->nr_faults, nr + 1);
	pthread_mutex_unlock(&sh->lock);
}

static void *take_interrupts(void *ctx)
{
	struct shared *sh = ctx;

	while (!atomic_load(&sh->stop)) {
		dart_irq(sh->dart);
		sched_yield();
	}
	return NULL;
}

static void several_threads_may_take_interrupts_and_each_fault_is_reported_once(void **state)
{
	static const struct dart_host_ops ops = {
		.read = shared_read,
		.write = shared_write,
		.now_ns = shared_now,
		.mem = {host_table_alloc, host_table_free, host_table_map, host_pa_of},
	};
	const struct sample *s = &samples[4];
	struct port *port = modelled(0, s);
	struct shared sh = {.model = port->model, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct dart_cfg cfg = config(port, s->kind);
	struct shadow *shadow;
	pthread_t threads[2];

	(void)state;
	cfg.host = &ops;
	cfg.host_ctx = &sh;
	cfg.fault = shared_fault;
	cfg.fault_ctx = &sh;
	sh.dart = create(&cfg);
	shadow = shadow_of(sh.dart, s->sid);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_interrupts, &sh), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sh.iova); i++) {
		/* The rest of the driver goes on meanwhile. */
		assert_int_equal(enable(sh.dart, s->sid, shadow), 0);
		assert_int_equal(dma_write(port, s->sid, i * UINT64_C(8), 1), -EFAULT);
		assert_int_equal(invalidate(sh.dart, s->sid), 0);
		while (atomic_load(&sh.nr_faults) <= i)
			sched_yield();
	}
	atomic_store(&sh.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&sh.nr_faults), ARRAY_SIZE(sh.iova));
	for (unsigned i = 0; i < ARRAY_SIZE(sh.iova); i++)
		assert_int_equal(sh.iova[i], i * 8);
	assert_int_equal(disable(sh.dart, s->sid), 0);
	destroy_shadow(shadow);
	dart_destroy(sh.dart);
}

static void a_direct_region_is_reached_as_soon_as_the_stream_is_let_in(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		struct dart_cfg cfg = config(port, s->kind);
		uint8_t *page = page_get();
		const struct dart_region direct = {s->iova, pa_at(page), K16, RW};
		struct shadow *shadow;
		struct dart *dart;

		cfg.direct = &direct;
		cfg.nr_direct = 1;
		dart = create(&cfg);
		shadow = shadow_of(dart, s->sid);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, s->iova, page);
		assert_int_equal(disable(dart, s->sid), 0);
		destroy_shadow(shadow);
		dart_destroy(dart);
	}
}

/* What firmware might have mapped at FIRMWARE_IOVA, by hand. Return: its top table. */
#define FIRMWARE_IOVA UINT64_C(0x10000000)

static uint64_t *firmware_table(const struct sample *s, uint8_t *page)
{
	bool dart2 = s->kind == DART_T6000 || s->kind == DART_T8110;
	unsigned bits = s->page_lg2 - 3, levels = s->va_width > 36 ? 3 : 2;
	uint64_t *top = (uint64_t *)page_get(), *table = top;

	for (unsigned level = levels - 1; level > 0; level--) {
		unsigned shift = s->page_lg2 + level * bits;
		uint64_t *below = (uint64_t *)page_get();

		table[FIRMWARE_IOVA >> shift & (BIT(bits) - 1)] =
			pa_at(below) >> (dart2 ? 4 : 0) | 1;
		table = below;
	}
	table[FIRMWARE_IOVA >> s->page_lg2 & (BIT(bits) - 1)] =
		pa_at(page) >> (dart2 ? 4 : 0) | UINT64_C(0x000fff0000000000) | (dart2 ? 1 : 3);
	return top;
}

static void a_locked_stream_keeps_what_firmware_mapped_and_gets_the_rest(void **state)
{
	static uint8_t before[K16];

	(void)state;
	for (size_t i = 0; i < 2 * ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i / 2];
		const struct dart_model_quirks quirks = {
			.locked = i % 2,
			.ttbr_read_only = !(i % 2),
		};
		struct dart_model_quirks hangs;
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		uint8_t *firmware = page_get(), *page = page_get();
		uint64_t *top = firmware_table(s, firmware);
		uint64_t iova = s->page_lg2 == 14 ? s->iova : s->iova & 0x3fffffff;
		uint32_t ttbr[4] = {0}, tcr = 0x80;
		struct shadow *shadow, *none;
		struct instance *inst;
		struct dart *dart;
		unsigned used;

		ttbr[0] = (uint32_t)(pa_at(top) >> 12) | 0x80000000;
		if (s->kind == DART_T8110) {
			ttbr[0] = (uint32_t)(pa_at(top) >> 12) | 1;
			tcr = s->va_width > 36 ? 9 : 1;
		}
		dart_model_firmware(port->model, s->sid, ttbr, tcr);
		set_quirks(port, &quirks);
		memcpy(before, top, K16);
		used = pages_used();
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);

		dart = create(&cfg);
		inst = dart_instance(dart);
		assert_true(dart_is_locked(dart));
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);
		for (unsigned j = 0; j < inst->nr_apertures; j++)
			assert_true(FIRMWARE_IOVA < inst->apertures[j].start ||
				    FIRMWARE_IOVA > inst->apertures[j].last);

		shadow = shadow_of(dart, s->sid);
		assert_int_equal(inst->ops->shadow_create(inst, s->sid, &none), -EBUSY);
		assert_refused(port, s->sid, iova);
		map(shadow, iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, iova, page);
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);

		assert_int_equal(disable(dart, s->sid), 0);
		assert_refused(port, s->sid, iova);
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);

		/* It walks its table also when it could not be enabled. */
		hangs = quirks;
		hangs.invalidate_hangs = true;
		set_quirks(port, &hangs);
		map(shadow, iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), -ETIMEDOUT);
		set_quirks(port, &quirks);
		assert_refused(port, s->sid, iova);
		map(shadow, iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, iova, page);

		/* Its tables are not given back before the DART has forgotten them. */
		destroy_shadow(shadow);
		assert_refused(port, s->sid, iova);
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);
		assert_memory_equal(top, before, K16);
		assert_int_equal(pages_used(), used);

		destroy_shadow(shadow_of(dart, s->sid));
		dart_destroy(dart);
		assert_lands(port, s->sid, FIRMWARE_IOVA, firmware);
	}
}

static void locked_streams_that_firmware_let_share_a_table_share_its_shadow(void **state)
{
	const struct sample *s = &samples[3];
	struct port *port = modelled(0, s);
	const struct dart_cfg cfg = config(port, s->kind);
	uint8_t *page = page_get();
	uint64_t *top = firmware_table(s, page_get()), *other = firmware_table(s, page_get());
	uint32_t ttbr[4] = {(uint32_t)(pa_at(top) >> 12) | 0x80000000};
	struct shadow *shadow, *none;
	struct instance *inst;
	struct dart *dart;

	(void)state;
	dart_model_firmware(port->model, 2, ttbr, 0x80);
	dart_model_firmware(port->model, 3, ttbr, 0x80);
	ttbr[0] = (uint32_t)(pa_at(other) >> 12) | 0x80000000;
	dart_model_firmware(port->model, 4, ttbr, 0x80);
	set_quirks(port, &(struct dart_model_quirks){.locked = true});
	dart = create(&cfg);
	inst = dart_instance(dart);
	shadow = shadow_of(dart, 2);
	assert_int_equal(inst->ops->shadow_create(inst, 3, &none), -EBUSY);
	assert_true(inst->ops->shadow_fits(inst, 3, shadow));
	assert_false(inst->ops->shadow_fits(inst, 4, shadow));
	map(shadow, s->iova, page, RW);
	assert_refused(port, 4, s->iova);
	assert_int_equal(enable(dart, 2, shadow), 0);
	assert_int_equal(enable(dart, 3, shadow), 0);
	assert_lands(port, 2, s->iova, page);
	assert_lands(port, 3, s->iova, page);
	assert_refused(port, 4, s->iova);
	destroy_shadow(shadow_of(dart, 4));
	assert_int_equal(disable(dart, 2), 0);
	assert_int_equal(disable(dart, 3), 0);
	map(shadow, s->iova, page, RW);
	assert_int_equal(invalidate(dart, 3), 0);
	assert_lands(port, 3, s->iova, page);
	destroy_shadow(shadow);
	assert_refused(port, 3, s->iova);
	dart_destroy(dart);
}

static void a_destroyed_dart_lets_no_stream_through(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct port *port = modelled(0, s);
		const struct dart_cfg cfg = config(port, s->kind);
		struct dart *dart = create(&cfg);
		struct shadow *shadow = shadow_of(dart, s->sid);
		uint8_t *page = page_get();

		map(shadow, s->iova, page, RW);
		assert_int_equal(enable(dart, s->sid, shadow), 0);
		assert_lands(port, s->sid, s->iova, page);
		dart_destroy(dart);
		assert_refused(port, s->sid, s->iova);
		destroy_shadow(shadow);
	}
	dart_destroy(NULL);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_reset_stops_streams_before_it_clears_their_tables_then_drops_faults),
		TEST(attaching_writes_ttbrs_then_tcr_then_invalidates_also_while_translating),
		TEST(four_quarters_of_4k_pages_get_four_ttbrs_and_four_levels_their_bit),
		TEST(one_command_invalidates_all_selected_streams),
		TEST(a_t8110_invalidates_stream_by_stream_or_when_there_are_many_all),
		TEST(an_invalidation_that_does_not_end_is_an_error_that_costs_its_time_once),
		TEST(after_a_failed_invalidation_the_next_start_invalidates_all_first_once),
		TEST(an_invalidation_that_is_slow_but_ends_is_waited_for),
		TEST(a_stream_whose_invalidation_hangs_is_blocked_and_not_let_in_before_one_ended),
		TEST(registers_that_do_not_take_what_is_written_are_an_error),
		TEST(a_locked_dart_sees_no_write_to_tcr_and_ttbr_but_invalidations),
		TEST(a_locked_stream_is_walked_with_the_levels_that_firmware_chose),
		TEST(a_region_beyond_a_locked_table_is_refused),
		TEST(a_live_stream_whose_ttbr_takes_no_writes_is_as_good_as_locked),
		TEST(what_is_no_such_dart_is_refused),
		TEST(bypass_is_known_but_never_programmed),
		TEST(a_first_invalidation_that_hangs_or_firmware_left_running_is_seen),
		TEST(apertures_leave_out_what_is_reserved_and_are_whole_pages),
		TEST(of_too_many_apertures_the_smallest_are_given_up),
		TEST(a_t8110_reaches_no_further_than_its_physical_address_width),
		TEST(bad_regions_and_apertures_are_refused_before_anything_is_written),
		TEST(a_region_that_firmware_mapped_is_left_to_it),
		TEST(a_remapped_stream_is_known_by_the_context_it_uses),
		TEST(an_interrupt_reads_the_latch_before_it_is_cleared),
		TEST(an_error_word_is_read_bit_by_bit),
		TEST(a_dump_has_a_line_for_each_stream_that_is_not_all_zero),
		TEST(streams_that_do_not_exist_are_refused),
		TEST(no_allocation_that_fails_leaves_anything_behind),
		TEST(what_is_mapped_is_reached_and_what_is_not_is_not_on_every_kind),
		TEST(many_streams_forget_at_once),
		TEST(a_stream_moves_to_another_table_without_a_trace_of_the_old_one),
		TEST(darts_of_one_kind_walk_one_table_and_others_their_own),
		TEST(a_hanging_invalidation_is_reported_and_a_stream_enabled_by_it_is_blocked),
		TEST(windows_bound_a_page_where_they_are_asked_for),
		TEST(a_fault_is_reported_once_with_stream_address_reason_and_direction),
		TEST(several_threads_may_take_interrupts_and_each_fault_is_reported_once),
		TEST(a_direct_region_is_reached_as_soon_as_the_stream_is_let_in),
		TEST(a_locked_stream_keeps_what_firmware_mapped_and_gets_the_rest),
		TEST(locked_streams_that_firmware_let_share_a_table_share_its_shadow),
		TEST(a_destroyed_dart_lets_no_stream_through),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
