/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/tests/sim_rig.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "iommu/dart_regs.h"

/* ---- our driver's ---- */

/* The tests run once per kind, which is *state. */
static enum sim_dart_kind kind_of(void **state)
{
	return *(enum sim_dart_kind *)*state;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed + i * 7 + i / 251);
}

static void assert_refused(struct sim_rig *rig, bool write, uint64_t iova, uint64_t at)
{
	struct fault fault;
	uint8_t buf[64] = {0};
	int ret = write ? rig->port.write(rig->port.ctx, iova, buf, sizeof(buf))
			: rig->port.read(rig->port.ctx, iova, buf, sizeof(buf));

	assert_int_equal(ret, -EFAULT);
	assert_true(faultlog_take(mediator_faultlog(rig->m), &fault));
	assert_int_equal(fault.endpoint, EP);
	assert_int_equal(fault.reason, FAULT_MAPPING);
	assert_true(fault.flags & FAULT_ADDRESS);
	assert_int_equal(fault.iova, at);
	if (fault.flags & (FAULT_READ | FAULT_WRITE))
		assert_int_equal(!!(fault.flags & FAULT_WRITE), write);
	assert_false(faultlog_take(mediator_faultlog(rig->m), &fault));
}

static void what_is_mapped_is_reached_and_nothing_else(void **state)
{
	enum { LEN = 3 * G };
	uint8_t in[LEN], out[LEN];
	struct sim_rig rig;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 1, false);
	assert_int_equal(mediator_frame_size(rig.m), H);
	assert_refused(&rig, false, 0x100000, 0x100000);

	/* Three slots of a frame onto pages of any alignment. */
	for (uint64_t gpa = RAM + 0x8000; gpa <= RAM + 0xa000; gpa += G) {
		const uint64_t iova = 0x101000, frame = 0x100000, hole = frame + 0xfc0;
		bool congruent = (iova - gpa) % H == 0;

		assert_int_equal(sim_rig_map(&rig, iova, LEN, gpa, RW), 0);
		fill(in, LEN, (unsigned)gpa);
		assert_int_equal(rig.port.write(rig.port.ctx, iova, in, LEN), 0);
		endpoint_sync_for_cpu(rig.ep);
		assert_memory_equal(gmem_ptr(&rig.gmem, gpa, LEN), in, LEN);
		fill(gmem_ptr(&rig.gmem, gpa, LEN), LEN, 99);
		endpoint_sync_for_device(rig.ep);
		assert_int_equal(rig.port.read(rig.port.ctx, iova, out, LEN), 0);
		assert_memory_equal(gmem_ptr(&rig.gmem, gpa, LEN), out, LEN);
		assert_refused(&rig, true, frame - 64, frame - 64);
		assert_refused(&rig, false, frame + H, frame + H);
		assert_refused(&rig, true, iova + (1ull << 32), iova + (1ull << 32));
		/* The hole is refused where the page is the guest's, and nobody's where it is
		 * not. */
		if (congruent)
			assert_refused(&rig, true, hole, hole);
		else
			assert_int_equal(rig.port.write(rig.port.ctx, hole, in, 64), 0);
		assert_int_equal(sim_rig_unmap(&rig, iova, LEN), 0);
		assert_memory_equal(gmem_ptr(&rig.gmem, gpa, LEN), out, LEN);
		assert_refused(&rig, false, iova, iova);

		memset(gmem_ptr(&rig.gmem, gpa, LEN), 0, LEN);
		for (size_t i = 0; i < RAM_LEN; i++)
			assert_int_equal(rig.ram[i], 0);
	}
	sim_rig_fini(&rig);
}

static void a_write_to_what_is_read_only_is_told_with_its_direction(void **state)
{
	struct sim_rig rig;
	uint64_t word = 7;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 1, false);
	assert_int_equal(sim_rig_map(&rig, 0, H, RAM, MAP_READ), 0);
	assert_int_equal(rig.port.read(rig.port.ctx, 0, &word, 8), 0);
	assert_int_equal(word, 0);
	assert_refused(&rig, true, 0x3000, 0x3000);
	sim_rig_fini(&rig);
}

static void two_darts_of_one_endpoint_see_the_same(void **state)
{
	struct sim_rig rig;
	struct sim_port other;
	uint64_t word = 1;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 2, false);
	other = sim_dart_port(rig.darts[1]);
	for (uint64_t i = 0; i < 50; i++) {
		assert_int_equal(sim_rig_map(&rig, G, G, RAM + i * G, RW), 0);
		assert_int_equal(rig.port.write(rig.port.ctx, G + 8, &i, 8), 0);
		assert_int_equal(other.read(other.ctx, G + 8, &word, 8), 0);
		assert_int_equal(word, i);
		assert_int_equal(sim_rig_unmap(&rig, G, G), 0);
		assert_int_equal(other.read(other.ctx, G, &word, 8), -EFAULT);
		assert_int_equal(rig.port.read(rig.port.ctx, G, &word, 8), -EFAULT);
		assert_int_equal(*(uint64_t *)gmem_ptr(&rig.gmem, RAM + i * G + 8, 8), i);
	}
	sim_rig_fini(&rig);
}

/* A quirk makes a DART worse, not wrong. */
static void a_locked_dart_keeps_what_firmware_mapped_and_serves_the_guest(void **state)
{
	struct resv_region resv[8];
	uint64_t word, last = SIM_DART_FIRMWARE_IOVA + SIM_DART_FIRMWARE_LEN;
	bool told = false;
	struct sim_rig rig;
	int nr;

	sim_rig_init(&rig, kind_of(state), SIM_DART_LOCKED_TTBR, 2, false);
	nr = mediator_resv_regions(rig.m, EP, resv, ARRAY_SIZE(resv));
	for (int i = 0; i < nr; i++)
		told |= resv[i].start <= SIM_DART_FIRMWARE_IOVA && resv[i].last >= last - 1;
	assert_true(told);
	assert_int_equal(sim_rig_map(&rig, SIM_DART_FIRMWARE_IOVA, H, RAM, RW), -EINVAL);

	assert_int_equal(sim_rig_map(&rig, 0x5000, G, RAM + 0x2000, RW), 0);
	for (unsigned d = 0; d < 2; d++) {
		struct sim_port port = sim_dart_port(rig.darts[d]);

		for (uint64_t iova = SIM_DART_FIRMWARE_IOVA; iova < last; iova += 8) {
			word = iova + d;
			assert_int_equal(port.write(port.ctx, iova, &word, 8), 0);
		}
		assert_int_equal(port.write(port.ctx, last, &word, 8), -EFAULT);
		assert_int_equal(port.write(port.ctx, SIM_DART_FIRMWARE_IOVA - 8, &word, 8),
				 -EFAULT);
	}
	for (size_t i = 0; i < RAM_LEN; i++)
		assert_int_equal(rig.ram[i], 0);
	word = 42;
	assert_int_equal(rig.port.write(rig.port.ctx, 0x5008, &word, 8), 0);
	assert_int_equal(sim_rig_unmap(&rig, 0x5000, G), 0);
	assert_int_equal(rig.port.read(rig.port.ctx, 0x5008, &word, 8), -EFAULT);
	assert_int_equal(*(uint64_t *)gmem_ptr(&rig.gmem, RAM + 0x2008, 8), 42);

	/* Out of its domain, firmware's mapping is still there, the guest's memory is not. */
	assert_int_equal(sim_rig_map(&rig, 0x5000, G, RAM + 0x2000, RW), 0);
	assert_int_equal(mediator_detach(rig.m, 1, EP), 0);
	assert_int_equal(rig.port.read(rig.port.ctx, 0x5008, &word, 8), -EFAULT);
	assert_int_equal(rig.port.read(rig.port.ctx, last - 8, &word, 8), 0);
	assert_int_equal(word, last - 8);
	sim_rig_fini(&rig);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void a_slow_invalidation_is_waited_for(void **state)
{
	struct sim_rig rig;
	uint64_t word = 0;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SLOW_INVALIDATE, 1, false);
	for (unsigned i = 0; i < 5; i++) {
		uint64_t start;

		assert_int_equal(sim_rig_map(&rig, H, H, RAM + H, RW), 0);
		assert_int_equal(rig.port.read(rig.port.ctx, H, &word, 8), 0);
		start = now_ns();
		assert_int_equal(sim_rig_unmap(&rig, H, H), 0);
		assert_true(now_ns() - start >= SIM_DART_SLOW_NS);
		assert_int_equal(rig.port.read(rig.port.ctx, H, &word, 8), -EFAULT);
	}
	sim_rig_fini(&rig);
}

static void a_dart_that_hangs_lets_nothing_through_any_more(void **state)
{
	struct sim_rig rig;
	uint64_t word = 0;

	sim_rig_init(&rig, kind_of(state), SIM_DART_HUNG_INVALIDATE, 1, false);
	assert_int_equal(sim_rig_map(&rig, H, H, RAM + H, RW), 0);
	assert_int_equal(sim_rig_map(&rig, 2 * H, H, RAM + 2 * H, RW), 0);
	assert_int_equal(sim_rig_map(&rig, 3 * H, H, RAM + 3 * H, RW), 0);
	assert_int_equal(sim_rig_unmap(&rig, 2 * H, H), 0);
	assert_int_equal(rig.port.read(rig.port.ctx, H, &word, 8), 0);
	assert_int_equal(rig.port.read(rig.port.ctx, 3 * H, &word, 8), 0);
	sim_dart_hang(rig.darts[0]);
	/* The page is the guest's again when this returns, whatever the DART remembers. */
	(void)sim_rig_unmap(&rig, H, H);
	word = 1;
	assert_int_equal(rig.port.write(rig.port.ctx, H, &word, 8), -EFAULT);
	assert_int_equal(*(uint64_t *)gmem_ptr(&rig.gmem, RAM + H, 8), 0);
	/* What it remembers cannot be told: the stream is blocked. */
	assert_int_equal(rig.port.read(rig.port.ctx, 3 * H, &word, 8), -EFAULT);
	sim_rig_fini(&rig);
}

static void only_the_quirk_hangs(void **state)
{
	struct sim_rig rig;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 1, false);
	sim_dart_hang(rig.darts[0]);
	assert_int_equal(sim_rig_map(&rig, H, H, RAM + H, RW), 0);
	assert_int_equal(sim_rig_unmap(&rig, H, H), 0);
	assert_int_equal(sim_rig_map(&rig, H, H, RAM + H, RW), 0);
	sim_rig_fini(&rig);
}

/* ---- interrupts of several threads ---- */

struct stormer {
	struct sim_rig *rig;
	pthread_barrier_t *start;
	uint64_t iova;
};

static void *storm(void *arg)
{
	struct stormer *s = arg;
	uint64_t word;

	pthread_barrier_wait(s->start);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(s->rig->port.read(s->rig->port.ctx, s->iova + i * 8, &word, 8),
				 -EFAULT);
	return NULL;
}

/* However faults of several threads meet, the latch is empty and heard afterwards. */
static void no_interrupt_is_lost_when_threads_fault_at_once(void **state)
{
	enum { NR = 3 };
	struct stormer stormers[NR];
	struct fault fault;
	pthread_t threads[NR];
	pthread_barrier_t start;
	struct sim_rig rig;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 1, false);
	for (unsigned round = 0; round < 5; round++) {
		pthread_barrier_init(&start, NULL, NR);
		for (unsigned i = 0; i < NR; i++) {
			stormers[i] = (struct stormer){&rig, &start, 0x1000000 * (i + 1)};
			assert_int_equal(pthread_create(&threads[i], NULL, storm, &stormers[i]), 0);
		}
		for (unsigned i = 0; i < NR; i++)
			pthread_join(threads[i], NULL);
		pthread_barrier_destroy(&start);
		assert_true(faultlog_total(mediator_faultlog(rig.m)) > 0);
		while (faultlog_take(mediator_faultlog(rig.m), &fault))
			assert_int_equal(fault.endpoint, EP);
		assert_refused(&rig, false, 0x7777000, 0x7777000);
	}
	sim_rig_fini(&rig);
}

/* ---- the guest's ---- */

static const struct guest_regs {
	uint32_t tcr, translate, ttbr, enable, error, error_addr, lock, lock_bit, params1;
	uint32_t command, invalidate, busy, select, streams;
	bool dart2;
} guest_regs[NR_KINDS] = {
	[SIM_DART_T8103] = {DART_V1_TCR(SID), DART_V1_TCR_TRANSLATE, DART_V1_TTBR(SID, 0),
			    DART_V1_STREAMS_ENABLE, DART_V1_ERROR, DART_V1_ERROR_ADDR_LO,
			    DART_V1_CONFIG, DART_V1_CONFIG_LOCK, 0x0e000000, DART_V1_STREAM_COMMAND,
			    DART_V1_STREAM_COMMAND_INVALIDATE, DART_V1_STREAM_COMMAND_BUSY,
			    DART_V1_STREAM_SELECT(0), 0, false},
	[SIM_DART_T6000] = {DART_V1_TCR(SID), DART_V1_TCR_TRANSLATE, DART_V1_TTBR(SID, 0),
			    DART_V1_STREAMS_ENABLE, DART_V1_ERROR, DART_V1_ERROR_ADDR_LO,
			    DART_V1_CONFIG, DART_V1_CONFIG_LOCK, 0x0e000000, DART_V1_STREAM_COMMAND,
			    DART_V1_STREAM_COMMAND_INVALIDATE, DART_V1_STREAM_COMMAND_BUSY,
			    DART_V1_STREAM_SELECT(0), 0, true},
	[SIM_DART_T8110] = {DART_T8110_TCR(SID), DART_T8110_TCR_TRANSLATE, DART_T8110_TTBR(SID),
			    DART_T8110_ENABLE_STREAMS(0), DART_T8110_ERROR,
			    DART_T8110_ERROR_ADDR_LO, DART_T8110_PROTECT,
			    DART_T8110_PROTECT_TTBR_TCR, 0x0e000000, DART_T8110_TLB_CMD, 0,
			    DART_T8110_TLB_CMD_BUSY, 0, DART_T8110_ERROR_STREAMS(0), true},
};

struct guest {
	struct sim_rig rig; /* RAM only */
	const struct guest_regs *regs;
	atomic_int level; /* of the line; -1: never told */
};

static void on_line(void *ctx, bool level)
{
	atomic_store(&((struct guest *)ctx)->level, level);
}

static uint32_t rd(struct guest *guest, uint32_t off)
{
	uint8_t data[4];

	sim_dart_access(guest->rig.darts[0], off, data, 4, false);
	return get_le32(data);
}

static void wr(struct guest *guest, uint32_t off, uint32_t value)
{
	uint8_t data[4];

	put_le32(data, value);
	sim_dart_access(guest->rig.darts[0], off, data, 4, true);
}

static void guest_init(struct guest *guest, enum sim_dart_kind kind, enum sim_dart_quirk quirk)
{
	const struct sim_dart_cfg cfg = {
		.kind = kind,
		.quirk = quirk,
		.name = "dart",
		.sid = SID,
		.gmem = &guest->rig.gmem,
		.irq = on_line,
		.irq_ctx = guest,
	};
	char error[256];

	sim_rig_ram(&guest->rig);
	guest->regs = &guest_regs[kind];
	atomic_store(&guest->level, -1);
	if (sim_dart_create(&cfg, &guest->rig.darts[0], error, sizeof(error)))
		fail_msg("%s", error);
	guest->rig.nr_darts = 1;
	guest->rig.port = sim_dart_port(guest->rig.darts[0]);
}

static void guest_fini(struct guest *guest)
{
	sim_dart_destroy(guest->rig.darts[0]);
	free(guest->rig.ram);
}

#define TOP   (RAM + 0x100000)
#define LEAF  (RAM + 0x104000)
#define DATA  (RAM + 0x108000)
#define WHOLE GENMASK(51, 40) /* the window: all of a page */

static uint64_t pte_to(const struct guest *guest, uint64_t pa)
{
	return (guest->regs->dart2 ? pa >> 4 : pa) | WHOLE | BIT(0);
}

static void poke(struct guest *guest, uint64_t gpa, uint64_t value)
{
	__atomic_store_n((uint64_t *)gmem_ptr(&guest->rig.gmem, gpa, 8), value, __ATOMIC_RELEASE);
}

static void let_in(struct guest *guest, uint64_t top)
{
	uint32_t ttbr = guest->regs->streams ? (uint32_t)(top >> 14 << 2) | 1
					     : (uint32_t)(top >> 12) | DART_V1_TTBR_VALID;

	if (guest->regs->streams)
		wr(guest, DART_T8110_ERROR_MASK, 0);
	wr(guest, guest->regs->enable, ~0u);
	wr(guest, guest->regs->ttbr, ttbr);
	wr(guest, guest->regs->tcr, guest->regs->translate);
}

static void flush(struct guest *guest)
{
	if (guest->regs->select)
		wr(guest, guest->regs->select, 1u << SID);
	wr(guest, guest->regs->command, guest->regs->invalidate);
	while (rd(guest, guest->regs->command) & guest->regs->busy)
		;
}

static void the_guest_builds_tables_in_its_ram_and_hears_of_faults(void **state)
{
	struct guest guest;
	uint64_t word = 0x1122334455667788, pa;
	struct sim_port port;

	guest_init(&guest, kind_of(state), SIM_DART_SOUND);
	port = guest.rig.port;
	assert_int_equal(port.read(port.ctx, 0, &word, 8), -EFAULT); /* as after reset */
	if (guest.regs->streams)
		wr(&guest, guest.regs->streams, ~0u);
	wr(&guest, guest.regs->error, rd(&guest, guest.regs->error));

	poke(&guest, TOP, pte_to(&guest, LEAF));
	poke(&guest, LEAF + 8, pte_to(&guest, DATA));
	let_in(&guest, TOP);
	assert_int_equal(port.write(port.ctx, 0x4010, &word, 8), 0);
	assert_memory_equal(gmem_ptr(&guest.rig.gmem, DATA + 0x10, 8), &word, 8);
	assert_int_equal(sim_dart_translate(guest.rig.darts[0], 0x7ff8, &pa), 0);
	assert_int_equal(pa, DATA + 0x3ff8);
	assert_int_equal(sim_dart_translate(guest.rig.darts[0], 0x8000, &pa), -EFAULT);
	assert_true(atomic_load(&guest.level) <= 0);

	assert_int_equal(port.write(port.ctx, 0x9230, &word, 8), -EFAULT);
	assert_int_equal(atomic_load(&guest.level), 1);
	assert_true(rd(&guest, guest.regs->error) >> 31);
	assert_int_equal(rd(&guest, guest.regs->error_addr), 0x9230);
	wr(&guest, guest.regs->error, rd(&guest, guest.regs->error));
	if (guest.regs->streams)
		wr(&guest, guest.regs->streams, ~0u);
	assert_int_equal(atomic_load(&guest.level), 0);
	guest_fini(&guest);
}

static void the_guest_reaches_its_ram_only(void **state)
{
	static const uint64_t outside[] = {0, RAM - H, RAM + RAM_LEN, BIT(36) - H, 0x1030000};
	struct guest guest;
	uint64_t word = 1, pa;
	struct sim_port port;

	guest_init(&guest, kind_of(state), SIM_DART_SOUND);
	port = guest.rig.port;
	poke(&guest, TOP, pte_to(&guest, LEAF));
	let_in(&guest, TOP);
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		/* A page, a leaf table, the top table. */
		poke(&guest, LEAF + 8, pte_to(&guest, outside[i]));
		flush(&guest);
		assert_int_equal(sim_dart_translate(guest.rig.darts[0], 0x4000, &pa), 0);
		assert_int_equal(pa, outside[i]); /* a doorbell need not be memory */
		assert_int_equal(port.write(port.ctx, 0x4000, &word, 8), -EFAULT);
		assert_int_equal(port.read(port.ctx, 0x4000, &word, 8), -EFAULT);
		poke(&guest, TOP + 8, pte_to(&guest, outside[i]));
		flush(&guest);
		assert_int_equal(port.read(port.ctx, 0x2000000, &word, 8), -EFAULT);
		let_in(&guest, outside[i]);
		flush(&guest);
		assert_int_equal(port.read(port.ctx, 0x4000, &word, 8), -EFAULT);
		let_in(&guest, TOP);
		flush(&guest);
	}
	/* The last page of RAM is there, with what was not forgotten. */
	poke(&guest, LEAF + 8, pte_to(&guest, RAM + RAM_LEN - H));
	flush(&guest);
	assert_int_equal(port.write(port.ctx, 0x7ff8, &word, 8), 0);
	assert_int_equal(*(uint64_t *)gmem_ptr(&guest.rig.gmem, RAM + RAM_LEN - 8, 8), word);
	guest_fini(&guest);
}

static void registers_answer_whole_words_only(void **state)
{
	struct guest guest;

	guest_init(&guest, kind_of(state), SIM_DART_SOUND);
	assert_int_equal(rd(&guest, DART_PARAMS1) & DART_PARAMS1_PAGE_SHIFT_MASK,
			 guest.regs->params1);
	for (unsigned len = 1; len <= 8; len *= 2) {
		for (uint64_t off = 0; off < 8; off += len) {
			uint8_t data[9], ones[8];
			bool answered = len == 4;

			memset(ones, 0xff, sizeof(ones));
			memset(data, 0x11, sizeof(data));
			sim_dart_access(guest.rig.darts[0], off, data, len, false);
			assert_int_equal(memcmp(data, ones, len) != 0, answered);
			assert_int_equal(data[len], 0x11);
			/* And what is not answered changes nothing. */
			memset(data, 0xff, sizeof(data));
			sim_dart_access(guest.rig.darts[0], guest.regs->tcr + off % 4, data, len,
					true);
			assert_int_equal(rd(&guest, guest.regs->tcr) != 0, answered && !(off % 4));
			wr(&guest, guest.regs->tcr, 0);
		}
	}
	assert_int_equal(rd(&guest, SIM_DART_MMIO_LEN), ~0u);
	assert_int_equal(rd(&guest, 1), ~0u);
	guest_fini(&guest);
}

static void a_locked_one_of_the_guests_takes_no_tables(void **state)
{
	struct guest guest;
	uint64_t word;

	guest_init(&guest, kind_of(state), SIM_DART_LOCKED_TTBR);
	assert_true(rd(&guest, guest.regs->lock) & guest.regs->lock_bit);
	poke(&guest, TOP, pte_to(&guest, LEAF));
	poke(&guest, LEAF, pte_to(&guest, DATA));
	let_in(&guest, TOP);
	assert_int_equal(rd(&guest, guest.regs->ttbr), 0);
	assert_int_equal(rd(&guest, guest.regs->tcr), 0);
	assert_int_equal(guest.rig.port.read(guest.rig.port.ctx, 0, &word, 8), -EFAULT);
	guest_fini(&guest);
}

static void *fault_all_the_time(void *arg)
{
	struct guest *guest = arg;
	uint64_t word;

	for (unsigned i = 0; i < 20000; i++)
		guest->rig.port.read(guest->rig.port.ctx, i % 2 ? 0x4000 : 0x8000, &word, 8);
	return NULL;
}

/* vCPUs write registers and tables, devices do DMA; the line tells the truth in the end. */
static void the_line_is_right_after_threads_met(void **state)
{
	struct guest guest;
	pthread_t threads[2];

	guest_init(&guest, kind_of(state), SIM_DART_SOUND);
	poke(&guest, TOP, pte_to(&guest, LEAF));
	let_in(&guest, TOP);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fault_all_the_time, &guest), 0);
	for (unsigned i = 0; i < 3000; i++) {
		wr(&guest, guest.regs->error, rd(&guest, guest.regs->error));
		if (guest.regs->streams)
			wr(&guest, guest.regs->streams, ~0u);
		poke(&guest, LEAF + 8, i % 2 ? pte_to(&guest, DATA) : 0);
		flush(&guest);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&guest.level), rd(&guest, guest.regs->error) >> 31);
	guest_fini(&guest);
}

/* A device's access is held up in the middle: its page traps, as one does that the host must fetch.
 */
static struct {
	uint8_t *page;
	atomic_bool held, go;
} hold;

static void hold_access(int sig, siginfo_t *info, void *ctx)
{
	(void)ctx;
	if ((uint8_t *)info->si_addr - hold.page >= (ptrdiff_t)H) {
		signal(sig, SIG_DFL); /* none of ours */
		return;
	}
	atomic_store(&hold.held, true);
	while (!atomic_load(&hold.go))
		sched_yield();
	mprotect(hold.page, H, PROT_READ | PROT_WRITE);
}

static void *read_once(void *arg)
{
	const struct sim_port *port = arg;
	uint64_t word;

	return port->read(port->ctx, 0x4000, &word, 8) ? arg : NULL;
}

/* @arg: after so many us */
static void *let_go_later(void *arg)
{
	usleep((useconds_t)(uintptr_t)arg);
	atomic_store(&hold.go, true);
	return arg;
}

/* Nor does our own driver, which gives up a DART that is busy for 100 ms. */
static void an_access_that_takes_long_is_no_dart_that_hangs(void **state)
{
	struct sigaction action = {.sa_sigaction = hold_access, .sa_flags = SA_SIGINFO}, before;
	pthread_t reader, releaser;
	struct sim_rig rig;
	void *refused;

	sim_rig_init(&rig, kind_of(state), SIM_DART_SOUND, 1, false);
	assert_int_equal(sim_rig_map(&rig, 0x4000, H, RAM, MAP_READ), 0);
	hold.page = gmem_ptr(&rig.gmem, RAM, H);
	atomic_store(&hold.held, false);
	atomic_store(&hold.go, false);
	assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
	assert_int_equal(mprotect(hold.page, H, PROT_NONE), 0);
	assert_int_equal(pthread_create(&reader, NULL, read_once, &rig.port), 0);
	while (!atomic_load(&hold.held))
		sched_yield();
	assert_int_equal(pthread_create(&releaser, NULL, let_go_later, (void *)300000), 0);

	assert_int_equal(sim_rig_unmap(&rig, 0x4000, H), 0);
	assert_true(atomic_load(&hold.go));
	assert_int_equal(sim_rig_map(&rig, 0x4000, H, RAM, MAP_READ), 0);
	pthread_join(reader, &refused);
	assert_null(refused);
	assert_null(read_once(&rig.port));
	pthread_join(releaser, NULL);
	sigaction(SIGSEGV, &before, NULL);
	sim_rig_fini(&rig);
}

/* As in hardware, where an access that has translated is over in no time: drivers wait for no
 * thread. */
static void busy_is_not_seen_for_accesses_alone(void **state)
{
	struct sigaction action = {.sa_sigaction = hold_access, .sa_flags = SA_SIGINFO}, before;
	struct guest guest;
	pthread_t reader, releaser;
	void *refused;

	guest_init(&guest, kind_of(state), SIM_DART_SOUND);
	poke(&guest, TOP, pte_to(&guest, LEAF));
	poke(&guest, LEAF + 8, pte_to(&guest, DATA));
	let_in(&guest, TOP);
	hold.page = gmem_ptr(&guest.rig.gmem, DATA, H);
	atomic_store(&hold.held, false);
	atomic_store(&hold.go, false);
	assert_int_equal(sigaction(SIGSEGV, &action, &before), 0);
	assert_int_equal(mprotect(hold.page, H, PROT_NONE), 0);
	assert_int_equal(pthread_create(&reader, NULL, read_once, &guest.rig.port), 0);
	while (!atomic_load(&hold.held))
		sched_yield();
	assert_int_equal(pthread_create(&releaser, NULL, let_go_later, (void *)50000), 0);

	if (guest.regs->select)
		wr(&guest, guest.regs->select, 1u << SID);
	wr(&guest, guest.regs->command, guest.regs->invalidate);
	assert_false(rd(&guest, guest.regs->command) & guest.regs->busy);
	assert_true(atomic_load(&hold.go));

	pthread_join(reader, &refused);
	assert_null(refused);
	pthread_join(releaser, NULL);
	sigaction(SIGSEGV, &before, NULL);
	guest_fini(&guest);
}

static void a_stream_that_none_has_is_refused(void **state)
{
	struct sim_dart_cfg cfg = {.kind = kind_of(state), .name = "odd", .sid = 16};
	struct sim_dart *dart = NULL;
	struct gmem gmem = {0};
	char error[256] = "";

	cfg.gmem = &gmem;
	cfg.irq = on_line;
	assert_int_equal(sim_dart_create(&cfg, &dart, error, sizeof(error)), -EINVAL);
	assert_null(dart);
	assert_non_null(strstr(error, "odd: "));
}

#define PER_KIND(test)                                                                             \
	cmocka_unit_test_prestate(test, &kinds[0]), cmocka_unit_test_prestate(test, &kinds[1]),    \
		cmocka_unit_test_prestate(test, &kinds[2])

int main(void)
{
	static enum sim_dart_kind kinds[] = {SIM_DART_T8103, SIM_DART_T6000, SIM_DART_T8110};
	const struct CMUnitTest tests[] = {
		PER_KIND(what_is_mapped_is_reached_and_nothing_else),
		PER_KIND(a_write_to_what_is_read_only_is_told_with_its_direction),
		PER_KIND(two_darts_of_one_endpoint_see_the_same),
		PER_KIND(a_locked_dart_keeps_what_firmware_mapped_and_serves_the_guest),
		PER_KIND(a_slow_invalidation_is_waited_for),
		PER_KIND(a_dart_that_hangs_lets_nothing_through_any_more),
		PER_KIND(only_the_quirk_hangs),
		PER_KIND(no_interrupt_is_lost_when_threads_fault_at_once),
		PER_KIND(the_guest_builds_tables_in_its_ram_and_hears_of_faults),
		PER_KIND(the_guest_reaches_its_ram_only),
		PER_KIND(registers_answer_whole_words_only),
		PER_KIND(a_locked_one_of_the_guests_takes_no_tables),
		PER_KIND(the_line_is_right_after_threads_met),
		PER_KIND(busy_is_not_seen_for_accesses_alone),
		PER_KIND(an_access_that_takes_long_is_no_dart_that_hangs),
		PER_KIND(a_stream_that_none_has_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
