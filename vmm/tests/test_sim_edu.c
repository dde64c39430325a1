/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/tests/sim_rig.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/sim_edu.h"

#define NR_FDS SIM_EDU_VECS

/* What an interrupt, or a DMA, gets at most; only a test that fails waits for it. */
#define LIMIT_MS 30000

/* ---- a device on memory that is one array, or behind a DART ---- */

#define MEM_LEN 0x20000u

struct memory {
	uint8_t bytes[MEM_LEN];	    /* at IOVA 0; what is outside is refused */
	unsigned nr_access, inside; /* ever, now */
	/* An access that waits in here until it is let go. */
	int hold, held; /* eventfds, -1: none waits */
};

struct bench {
	struct memory mem;
	struct sim_rig rig;
	struct sim_edu *edu;
	struct pci_dev *dev;
	int fds[NR_FDS];
	uint64_t progress;
};

static void copy_relaxed(uint8_t *to, const uint8_t *from, size_t len)
{
	for (size_t i = 0; i < len; i++)
		__atomic_store_n(&to[i], __atomic_load_n(&from[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

static int mem_access(struct memory *mem, uint64_t addr, void *buf, size_t len, bool write)
{
	size_t can = addr >= MEM_LEN ? 0 : MIN(len, MEM_LEN - addr);
	eventfd_t count;

	__atomic_add_fetch(&mem->nr_access, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&mem->inside, 1, __ATOMIC_RELAXED);
	if (mem->hold >= 0) {
		eventfd_write(mem->held, 1);
		eventfd_read(mem->hold, &count);
	}
	if (can && write)
		copy_relaxed(mem->bytes + addr, buf, can);
	else if (can)
		copy_relaxed(buf, mem->bytes + addr, can);
	__atomic_sub_fetch(&mem->inside, 1, __ATOMIC_RELAXED);
	return can == len ? 0 : -EFAULT;
}

static int mem_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return mem_access(ctx, addr, buf, len, false);
}

static int mem_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	return mem_access(ctx, addr, (void *)buf, len, true);
}

static void on_progress(void *ctx, uint64_t nr)
{
	__atomic_store_n(&((struct bench *)ctx)->progress, nr, __ATOMIC_RELAXED);
}

static void bench_start(struct bench *b, struct sim_port port, bool hostile)
{
	const struct sim_edu_cfg cfg = {
		.name = "edu",
		.hostile = hostile,
		.port = port,
		.progress = on_progress,
		.ctx = b,
	};

	for (unsigned i = 0; i < NR_FDS; i++)
		b->fds[i] = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(sim_edu_create(&cfg, &b->edu), 0);
	b->dev = sim_edu_dev(b->edu);
}

static struct bench *bench_on_memory(bool hostile)
{
	struct bench *b = calloc(1, sizeof(*b));

	assert_non_null(b);
	b->mem.hold = b->mem.held = -1;
	bench_start(b, (struct sim_port){mem_read, mem_write, &b->mem}, hostile);
	return b;
}

static void bench_end(struct bench *b)
{
	sim_edu_destroy(b->edu);
	for (unsigned i = 0; i < NR_FDS; i++)
		close(b->fds[i]);
	if (b->rig.m)
		sim_rig_fini(&b->rig);
	free(b);
}

static uint64_t reg(struct bench *b, uint64_t off, unsigned len)
{
	uint8_t data[8] = {0};

	assert_int_equal(b->dev->ops->read(b->dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len), 0);
	return get_le64(data);
}

static void set(struct bench *b, uint64_t off, unsigned len, uint64_t value)
{
	uint8_t data[8];

	put_le64(data, value);
	assert_int_equal(b->dev->ops->write(b->dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len), 0);
}

static void set_master(struct bench *b, bool on)
{
	uint8_t command[2] = {PCI_COMMAND_MEMORY | (on ? PCI_COMMAND_MASTER : 0)};

	assert_int_equal(
		b->dev->ops->write(b->dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2),
		0);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void start(struct bench *b, uint64_t iova, uint32_t off, uint32_t len, uint32_t cmd)
{
	set(b, SIM_EDU_DMA_IOVA, 8, iova);
	set(b, SIM_EDU_DMA_OFFSET, 4, off);
	set(b, SIM_EDU_DMA_LEN, 4, len);
	set(b, SIM_EDU_DMA_CMD, 4, cmd | SIM_EDU_RUN);
}

static void wait_done(struct bench *b)
{
	const struct timespec pause = {.tv_nsec = 20000};
	uint64_t end = now_ns() + LIMIT_MS * UINT64_C(1000000);

	while (reg(b, SIM_EDU_STATUS, 4) & SIM_EDU_BUSY) {
		if (now_ns() > end)
			fail_msg("the DMA does not end");
		nanosleep(&pause, NULL);
	}
}

static uint32_t dma(struct bench *b, uint64_t iova, uint32_t off, uint32_t len, uint32_t cmd)
{
	start(b, iova, off, len, cmd);
	wait_done(b);
	return (uint32_t)reg(b, SIM_EDU_DMA_RESULT, 4);
}

/* Signals of @fd since the last look, waiting for the first if it is @due. */
static uint64_t signals(int fd, bool due)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	eventfd_t count = 0;

	if (due)
		assert_int_equal(poll(&poll_fd, 1, LIMIT_MS), 1);
	eventfd_read(fd, &count);
	return count;
}

/* ---- registers ---- */

static void it_says_what_it_is(void **state)
{
	struct bench *b = bench_on_memory(false);
	uint8_t ids[4], class[4];

	(void)state;
	assert_int_equal(b->dev->ops->read(b->dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, ids, 4), 0);
	assert_int_equal(get_le32(ids), SIM_EDU_VENDOR | SIM_EDU_DEVICE << 16);
	assert_int_equal(b->dev->ops->read(b->dev, VFIO_PCI_CONFIG_REGION_INDEX, 8, class, 4), 0);
	assert_int_equal(get_le32(class) >> 8, SIM_EDU_CLASS);
	assert_int_equal(b->dev->bars[0].size, SIM_EDU_BAR_LEN);
	assert_int_equal(b->dev->nr_msix, SIM_EDU_VECS);
	assert_int_equal(reg(b, SIM_EDU_ID, 4), SIM_EDU_ID_VALUE);
	set(b, SIM_EDU_SCRATCH, 4, 0x12345678);
	assert_int_equal(reg(b, SIM_EDU_SCRATCH, 4), (uint32_t)~0x12345678u);
	assert_int_equal(reg(b, SIM_EDU_ID, 8), SIM_EDU_ID_VALUE | (uint64_t)~0x12345678u << 32);
	assert_int_equal(reg(b, SIM_EDU_ID, 2), 0);
	assert_int_equal(reg(b, SIM_EDU_STATUS, 4), 0);
	set_master(b, true);
	assert_int_equal(reg(b, SIM_EDU_STATUS, 4), SIM_EDU_MASTER);
	assert_int_equal(reg(b, 0x7ff8, 8), 0);
	bench_end(b);
}

static void wide_registers_take_halves(void **state)
{
	static const unsigned wide[] = {SIM_EDU_DMA_IOVA, SIM_EDU_FIRST, SIM_EDU_LAST,
					SIM_EDU_PATTERN, SIM_EDU_SECRET};
	struct bench *b = bench_on_memory(false);

	(void)state;
	assert_int_equal(reg(b, SIM_EDU_FIRST, 8), 0);
	assert_int_equal(reg(b, SIM_EDU_LAST, 8), UINT32_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(wide); i++) {
		set(b, wide[i], 8, 0x1122334455667788 + i);
		assert_int_equal(reg(b, wide[i], 8), 0x1122334455667788 + i);
		set(b, wide[i], 4, 0xaabbccdd);
		assert_int_equal(reg(b, wide[i], 8), 0x11223344aabbccdd);
		set(b, wide[i] + 4, 4, 0x99887766);
		assert_int_equal(reg(b, wide[i], 8), 0x99887766aabbccdd);
		assert_int_equal(reg(b, wide[i] + 4, 4), 0x99887766);
	}
	bench_end(b);
}

static void no_access_of_any_size_anywhere_does_harm(void **state)
{
	struct bench *b = bench_on_memory(true);

	(void)state;
	set_master(b, true);
	for (uint64_t off = 0; off < 0x200; off += 1) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			if (off % len)
				continue;
			set(b, off, len, UINT64_MAX);
			reg(b, off, len);
			set(b, off, len, 0);
		}
	}
	for (unsigned len = 1; len <= 8; len *= 2) {
		set(b, SIM_EDU_BUFFER + SIM_EDU_BUFFER_LEN - len, len, 0x0807060504030201);
		assert_int_equal(reg(b, SIM_EDU_BUFFER + SIM_EDU_BUFFER_LEN - len, len),
				 0x0807060504030201 & (UINT64_MAX >> (64 - 8 * len)));
	}
	wait_done(b);
	assert_int_equal(reg(b, SIM_EDU_ID, 4), SIM_EDU_ID_VALUE);
	bench_end(b);
}

/* ---- DMA ---- */

static void dma_copies_every_byte_it_is_told_to_and_no_other(void **state)
{
	static const struct {
		uint64_t iova, to;
		uint32_t off, len;
	} rows[] = {
		{0, 0x7f, 0, 1},	 {0x1003, 0x9000, 5, 1},      {0x1003, 0x2ffb, 8, 21},
		{8, 0x1fff8, 0xfff8, 8}, {0, 0x10000, 0, 0x10000},    {0x10001, 1, 1, 0xffff},
		{0x1ffff, 0, 0xffff, 1}, {0x7ff, 0x1fffe, 0x3001, 2},
	};
	struct bench *b = bench_on_memory(false);
	static uint8_t mem[MEM_LEN], buf[SIM_EDU_BUFFER_LEN];

	(void)state;
	set_master(b, true);
	for (size_t i = 0; i < MEM_LEN; i++)
		mem[i] = (uint8_t)(i * 7 + i / 256);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (size_t j = 0; j < sizeof(buf); j += 8)
			set(b, SIM_EDU_BUFFER + j, 8, 0xbbbbbbbbbbbbbbbb);
		memset(buf, 0xbb, sizeof(buf));
		memcpy(b->mem.bytes, mem, MEM_LEN);
		assert_int_equal(dma(b, rows[i].iova, rows[i].off, rows[i].len, 0), SIM_EDU_DONE);
		assert_int_equal(reg(b, SIM_EDU_DMA_COUNT, 4), rows[i].len);
		memcpy(buf + rows[i].off, mem + rows[i].iova, rows[i].len);
		for (size_t j = 0; j < sizeof(buf); j += 8)
			assert_int_equal(reg(b, SIM_EDU_BUFFER + j, 8), get_le64(buf + j));
		/* And back, to elsewhere. */
		memset(b->mem.bytes, 0xcc, MEM_LEN);
		assert_int_equal(dma(b, rows[i].to, rows[i].off, rows[i].len, SIM_EDU_TO_MEMORY),
				 SIM_EDU_DONE);
		for (size_t j = 0; j < MEM_LEN; j++) {
			uint64_t k = j - rows[i].to;

			assert_int_equal(b->mem.bytes[j],
					 k < rows[i].len ? buf[rows[i].off + k] : 0xcc);
		}
	}
	bench_end(b);
}

static void a_refused_dma_says_after_how_many_bytes(void **state)
{
	static const uint32_t before[] = {0, 1, 8, 13, 4096, 5000};
	struct bench *b = bench_on_memory(false);

	(void)state;
	set_master(b, true);
	for (size_t i = 0; i < ARRAY_SIZE(before); i++) {
		memset(b->mem.bytes, (int)i + 1, MEM_LEN);
		assert_int_equal(dma(b, MEM_LEN - before[i], 0, 9000, 0), SIM_EDU_REFUSED_AT);
		assert_int_equal(reg(b, SIM_EDU_DMA_COUNT, 4), before[i]);
		for (uint32_t j = 0; j < before[i]; j++)
			assert_int_equal(reg(b, SIM_EDU_BUFFER + j, 1), i + 1);
		assert_int_equal(reg(b, SIM_EDU_BUFFER + before[i], 1), 0);
		assert_int_equal(b->dev->ops->reset(b->dev), 0);
		set_master(b, true);
	}
	bench_end(b);
}

static void what_cannot_be_done_is_not_begun(void **state)
{
	static const struct {
		uint32_t off, len;
	} rows[] = {{0, 0},
		    {0, 0x10001},
		    {0x10000, 1},
		    {0xffff, 2},
		    {0xffffffff, 1},
		    {1, 0xffffffff},
		    {0xffffffff, 0xffffffff}};
	struct bench *b = bench_on_memory(false);

	(void)state;
	set_master(b, true);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(dma(b, 0, rows[i].off, rows[i].len, 0), SIM_EDU_INVALID);
		assert_int_equal(reg(b, SIM_EDU_DMA_COUNT, 4), 0);
	}
	set_master(b, false);
	assert_int_equal(dma(b, 0, 0, 8, 0), SIM_EDU_NO_MASTER);
	assert_int_equal(b->mem.nr_access, 0);
	assert_int_equal(b->progress, ARRAY_SIZE(rows) + 1);
	set_master(b, true);
	assert_int_equal(dma(b, 0, 0, 8, 0), SIM_EDU_DONE);
	assert_int_equal(b->progress, ARRAY_SIZE(rows) + 2);
	bench_end(b);
}

/* ---- interrupts ---- */

static void causes_drive_the_line_until_they_are_all_acknowledged(void **state)
{
	struct bench *b = bench_on_memory(false);

	(void)state;
	assert_int_equal(b->dev->ops->set_irqs(b->dev, VFIO_PCI_INTX_IRQ_INDEX, 1, b->fds), 0);
	set(b, SIM_EDU_IRQ_RAISE, 4, 0xfffffff0);
	assert_int_equal(reg(b, SIM_EDU_IRQ, 4), 0);
	assert_int_equal(signals(b->fds[0], false), 0);
	set(b, SIM_EDU_IRQ_RAISE, 4, 5);
	assert_int_equal(reg(b, SIM_EDU_IRQ, 4), 5);
	assert_int_equal(signals(b->fds[0], false), 1);
	set(b, SIM_EDU_IRQ_ACK, 4, 1);
	b->dev->ops->unmask_intx(b->dev);
	assert_int_equal(signals(b->fds[0], false), 1); /* still up */
	set(b, SIM_EDU_IRQ_ACK, 4, 4);
	b->dev->ops->unmask_intx(b->dev);
	assert_int_equal(signals(b->fds[0], false), 0);

	set_master(b, true);
	start(b, 0, 0, 8, SIM_EDU_NOTIFY | SIM_EDU_CAUSE(2));
	assert_int_equal(signals(b->fds[0], true), 1);
	assert_int_equal(reg(b, SIM_EDU_IRQ, 4), 4);
	assert_int_equal(reg(b, SIM_EDU_DMA_RESULT, 4), SIM_EDU_DONE);
	assert_int_equal(b->dev->ops->reset(b->dev), 0);
	b->dev->ops->unmask_intx(b->dev);
	assert_int_equal(signals(b->fds[0], false), 0);
	assert_int_equal(reg(b, SIM_EDU_IRQ, 4), 0);
	bench_end(b);
}

static void each_cause_fires_its_vector_each_time(void **state)
{
	struct bench *b = bench_on_memory(false);

	(void)state;
	set_master(b, true);
	assert_int_equal(b->dev->ops->set_irqs(b->dev, VFIO_PCI_MSIX_IRQ_INDEX, NR_FDS, b->fds), 0);
	for (unsigned vec = 0; vec < NR_FDS; vec++) {
		for (unsigned again = 0; again < 3; again++) {
			set(b, SIM_EDU_IRQ_RAISE, 4, 1u << vec);
			start(b, 0, 0, 1, SIM_EDU_NOTIFY | SIM_EDU_CAUSE(vec));
			wait_done(b);
			assert_int_equal(dma(b, 0, 0, 1, SIM_EDU_CAUSE(vec)), SIM_EDU_DONE);
			for (unsigned i = 0; i < NR_FDS; i++)
				assert_int_equal(signals(b->fds[i], false), i == vec ? 2 : 0);
		}
	}
	bench_end(b);
}

/* ---- who stops it ---- */

struct stopper {
	struct bench *b;
	void (*stop)(struct bench *b);
	unsigned inside; /* accesses that were under way when stop() returned */
	unsigned done;
};

static void stop_by_master(struct bench *b)
{
	set_master(b, false);
}

static void stop_by_reset(struct bench *b)
{
	assert_int_equal(b->dev->ops->reset(b->dev), 0);
}

static void stop_for_good(struct bench *b)
{
	sim_edu_stop(b->edu);
	sim_edu_stop(b->edu);
}

static void stop_by_pause(struct bench *b)
{
	set(b, SIM_EDU_PAUSE, 4, 1);
}

static void *stopper(void *arg)
{
	struct stopper *s = arg;

	s->stop(s->b);
	s->inside = __atomic_load_n(&s->b->mem.inside, __ATOMIC_RELAXED);
	__atomic_store_n(&s->done, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* An access is held up in memory: whoever stops the device returns after it, and none follows. */
static void stopping_waits_for_the_access_under_way(void **state)
{
	static void (*const stops[])(struct bench *) = {stop_by_master, stop_by_reset,
							stop_for_good, stop_by_pause};
	const struct timespec moment = {.tv_nsec = 20000000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(stops); i++) {
		bool hostile = stops[i] == stop_by_pause;
		struct bench *b = calloc(1, sizeof(*b));
		struct stopper s = {.b = b, .stop = stops[i]};
		unsigned nr_access;
		pthread_t thread;
		eventfd_t count;

		b->mem.hold = eventfd(0, EFD_SEMAPHORE);
		b->mem.held = eventfd(0, EFD_SEMAPHORE);
		bench_start(b, (struct sim_port){mem_read, mem_write, &b->mem}, hostile);
		if (!hostile) {
			set_master(b, true);
			start(b, 0, 0, 0x10000, SIM_EDU_TO_MEMORY);
		}
		eventfd_read(b->mem.held, &count); /* in the first access */
		assert_int_equal(pthread_create(&thread, NULL, stopper, &s), 0);
		nanosleep(&moment, NULL);
		assert_int_equal(__atomic_load_n(&s.done, __ATOMIC_ACQUIRE), 0);
		/* If it came late, the device was in another access by then. */
		do
			eventfd_write(b->mem.hold, 1);
		while (!__atomic_load_n(&s.done, __ATOMIC_ACQUIRE) && !nanosleep(&moment, NULL));
		pthread_join(thread, NULL);
		assert_int_equal(s.inside, 0);
		nr_access = __atomic_load_n(&b->mem.nr_access, __ATOMIC_RELAXED);
		nanosleep(&moment, NULL);
		assert_int_equal(__atomic_load_n(&b->mem.nr_access, __ATOMIC_RELAXED), nr_access);
		if (stops[i] == stop_by_master) {
			wait_done(b);
			assert_int_equal(reg(b, SIM_EDU_DMA_RESULT, 4), SIM_EDU_NO_MASTER);
			assert_int_equal(reg(b, SIM_EDU_DMA_COUNT, 4), 8 * nr_access);
		}
		if (stops[i] == stop_by_reset)
			assert_int_equal(reg(b, SIM_EDU_DMA_CMD, 4), 0);
		if (stops[i] == stop_for_good) {
			assert_int_equal(b->dev->ops->set_irqs(b->dev, VFIO_PCI_MSIX_IRQ_INDEX,
							       NR_FDS, b->fds),
					 0);
			set(b, SIM_EDU_IRQ_RAISE, 4, 1);
			assert_int_equal(signals(b->fds[0], false), 0);
		}
		eventfd_write(b->mem.hold, 1000000);
		close(b->mem.held);
		sim_edu_stop(b->edu);
		close(b->mem.hold);
		bench_end(b);
	}
}

static void the_registers_of_a_dma_under_way_do_not_change(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	eventfd_t count;

	(void)state;
	b->mem.hold = eventfd(0, EFD_SEMAPHORE);
	b->mem.held = eventfd(0, EFD_SEMAPHORE);
	bench_start(b, (struct sim_port){mem_read, mem_write, &b->mem}, false);
	set_master(b, true);
	set(b, SIM_EDU_BUFFER, 8, 0x1111);
	set(b, SIM_EDU_BUFFER + 8, 8, 0x2222);
	start(b, 0x100, 0, 16, SIM_EDU_TO_MEMORY);
	eventfd_read(b->mem.held, &count);
	start(b, 0x200, 0x8000, 0xffffffff, 0);
	eventfd_write(b->mem.hold, 1000);
	wait_done(b);
	assert_int_equal(reg(b, SIM_EDU_DMA_RESULT, 4), SIM_EDU_DONE);
	assert_int_equal(reg(b, SIM_EDU_DMA_COUNT, 4), 16);
	assert_int_equal(get_le64(b->mem.bytes + 0x100), 0x1111);
	assert_int_equal(get_le64(b->mem.bytes + 0x108), 0x2222);
	assert_int_equal(get_le64(b->mem.bytes + 0x200), 0);
	bench_end(b);
}

/* ---- hostile ---- */

static void wait_for(struct bench *b, uint64_t off, uint64_t more)
{
	uint64_t from = reg(b, off, 8), end = now_ns() + LIMIT_MS * UINT64_C(1000000);
	const struct timespec pause = {.tv_nsec = 100000};

	while (reg(b, off, 8) - from < more) {
		if (now_ns() > end)
			fail_msg("register %#x does not count", (unsigned)off);
		nanosleep(&pause, NULL);
	}
}

static void hostile_mode_needs_no_permission_and_keeps_to_its_range(void **state)
{
	enum { FIRST = 0x1005, LAST = 0x2ffa };
	struct bench *b = bench_on_memory(true);
	uint64_t seen;

	(void)state;
	assert_int_equal(reg(b, SIM_EDU_STATUS, 4), SIM_EDU_HOSTILE);
	wait_for(b, SIM_EDU_REFUSED, 100); /* the low 4 GiB */
	set(b, SIM_EDU_PAUSE, 4, 1);
	assert_true(reg(b, SIM_EDU_REFUSED, 8) > reg(b, SIM_EDU_READS, 8));
	memset(b->mem.bytes, 0, MEM_LEN);
	set(b, SIM_EDU_FIRST, 8, FIRST);
	set(b, SIM_EDU_LAST, 8, LAST);
	set(b, SIM_EDU_PATTERN, 8, 0x8877665544332211);
	set(b, SIM_EDU_REFUSED, 8, 1);
	set(b, SIM_EDU_PAUSE, 4, 0);
	wait_for(b, SIM_EDU_WRITES, 3000);
	wait_for(b, SIM_EDU_READS, 3000);
	set(b, SIM_EDU_PAUSE, 4, 1);
	assert_int_equal(reg(b, SIM_EDU_REFUSED, 8), 0);
	for (uint64_t i = 0; i < MEM_LEN; i++)
		assert_int_equal(b->mem.bytes[i], i >= FIRST && i <= LAST ? 0x11 * (i % 8 + 1) : 0);

	/* It tells what it saw: whole aligned words. */
	set(b, SIM_EDU_SEEN, 8, 0);
	assert_int_equal(reg(b, SIM_EDU_SEEN, 8), 0);
	set(b, SIM_EDU_SECRET, 8, 0x1122334455667788);
	/* Between two words it is none. */
	set(b, SIM_EDU_PATTERN, 8, 0x5566778811223344);
	for (uint64_t i = 0; i < MEM_LEN; i += 8)
		put_le64(b->mem.bytes + i, 0x5566778811223344);
	set(b, SIM_EDU_PAUSE, 4, 0);
	wait_for(b, SIM_EDU_READS, 1000);
	assert_int_equal(reg(b, SIM_EDU_SEEN, 8), 0);
	set(b, SIM_EDU_PATTERN, 8, 0x1122334455667788);
	wait_for(b, SIM_EDU_SEEN, 100);

	/* A range that is none, and the end of everything. */
	set(b, SIM_EDU_PAUSE, 4, 1);
	set(b, SIM_EDU_FIRST, 8, 10);
	set(b, SIM_EDU_LAST, 8, 9);
	seen = __atomic_load_n(&b->mem.nr_access, __ATOMIC_RELAXED);
	set(b, SIM_EDU_PAUSE, 4, 0);
	set(b, SIM_EDU_PAUSE, 4, 1);
	assert_int_equal(__atomic_load_n(&b->mem.nr_access, __ATOMIC_RELAXED), seen);
	set(b, SIM_EDU_FIRST, 8, 0);
	set(b, SIM_EDU_LAST, 8, UINT64_MAX);
	set(b, SIM_EDU_PAUSE, 4, 0);
	wait_for(b, SIM_EDU_REFUSED, 100);
	set(b, SIM_EDU_FIRST, 8, UINT64_MAX);
	wait_for(b, SIM_EDU_REFUSED, 100);

	/* A reset ends nothing of it, and it does DMA on command as well. */
	assert_int_equal(b->dev->ops->reset(b->dev), 0);
	assert_int_equal(reg(b, SIM_EDU_FIRST, 8), 0);
	set_master(b, true);
	assert_int_equal(dma(b, 0x100, 0, 100, 0), SIM_EDU_DONE);
	wait_for(b, SIM_EDU_REFUSED, 100);
	bench_end(b);
}

/* ---- the whole: a hostile device behind each DART, while mappings come and go ---- */

#define SECRET	 0x5ec2e75ec2e75ec2ull /* in every page that is not mapped */
#define OPEN	 0x0be40be40be40be4ull /* in every page that is, when it is mapped */
#define PATTERN	 0xedededededededEDull
#define NR_PAGES (RAM_LEN / G)
#define WINDOW	 0x10000000ull
#define NR_SLOTS 64u /* of the guest's granule, in the window */
#define NR_MAPS	 20u /* at once */
#ifdef __SANITIZE_THREAD__
#define ACCESSES 20000u /* some 20 times slower */
#else
#define ACCESSES 100000u
#endif

struct live {
	uint64_t iova;
	unsigned page, nr; /* nr 0: none */
	uint32_t flags;
};

struct churn {
	struct bench *b;
	struct live live[NR_MAPS];
	bool used[NR_PAGES]; /* is mapped */
	uint32_t random;
};

static unsigned pick(struct churn *c, unsigned n)
{
	c->random = c->random * 1664525 + 1013904223;
	return (unsigned)((uint64_t)(c->random >> 8) * n >> 24);
}

static uint64_t *page_at(struct churn *c, unsigned page)
{
	return (uint64_t *)(c->b->rig.ram + page * G);
}

static void fill_pages(struct churn *c, unsigned page, unsigned nr, uint64_t word)
{
	uint64_t *at = page_at(c, page);

	for (size_t i = 0; i < nr * G / 8; i++)
		at[i] = word;
}

/* Every byte is the one of @a or of @b at its place. */
static void check_pages(struct churn *c, unsigned page, unsigned nr, uint64_t a, uint64_t b)
{
	const uint64_t *at = page_at(c, page);

	for (size_t i = 0; i < nr * G / 8; i++) {
		uint64_t is_a = 0;

		if (at[i] == a || at[i] == b)
			continue;
		for (unsigned byte = 0; byte < 64; byte += 8)
			if ((at[i] >> byte & 0xff) == (a >> byte & 0xff))
				is_a |= UINT64_C(0xff) << byte;
		if ((at[i] & ~is_a) != (b & ~is_a))
			fail_msg("page %u holds %#lx at %#zx", page, at[i], 8 * i);
	}
}

/* What was mapped is as its rights allow; then it is the guest's own again. */
static void close_live(struct churn *c, struct live *l)
{
	check_pages(c, l->page, l->nr, OPEN, l->flags & MAP_WRITE ? PATTERN : OPEN);
	fill_pages(c, l->page, l->nr, SECRET);
	memset(&c->used[l->page], 0, l->nr);
	l->nr = 0;
}

static bool overlaps(const struct churn *c, uint64_t iova, uint64_t len)
{
	for (unsigned i = 0; i < NR_MAPS; i++)
		if (c->live[i].nr && iova < c->live[i].iova + c->live[i].nr * G &&
		    c->live[i].iova < iova + len)
			return true;
	return false;
}

/* Map @want if there is room for it. */
static bool try_map(struct churn *c, const struct live *want)
{
	struct live *l = NULL;

	for (unsigned i = 0; i < NR_MAPS; i++)
		if (!c->live[i].nr)
			l = &c->live[i];
	if (!l || overlaps(c, want->iova, want->nr * G))
		return false;
	for (unsigned i = 0; i < want->nr; i++)
		if (c->used[want->page + i])
			return false;
	fill_pages(c, want->page, want->nr, OPEN);
	assert_int_equal(sim_rig_map(&c->b->rig, want->iova, want->nr * G, RAM + want->page * G,
				     want->flags),
			 0);
	memset(&c->used[want->page], 1, want->nr);
	*l = *want;
	return true;
}

static void map_some(struct churn *c)
{
	static const uint32_t rights[] = {RW, RW, RW, MAP_READ, MAP_READ, MAP_WRITE};
	unsigned slot = pick(c, NR_SLOTS - 12);
	struct live want = {
		.iova = WINDOW + slot * G,
		.page = pick(c, NR_PAGES - 16),
		.nr = pick(c, 3) ? 1 + pick(c, 3) : 1 + pick(c, 12),
		.flags = rights[pick(c, ARRAY_SIZE(rights))],
	};

	if (pick(c, 2)) /* often congruent */
		want.page = want.page / 4 * 4 + slot % 4;
	try_map(c, &want);
}

/* A frame that fills slot by slot: it turns direct, while the device is at it. */
static void map_frame(struct churn *c)
{
	unsigned frame = pick(c, NR_SLOTS / 4), page = pick(c, NR_PAGES / 4) * 4;
	unsigned first = pick(c, 4);

	for (unsigned i = 0; i < 4; i++) {
		unsigned slot = first ^ i;
		const struct live want = {.iova = WINDOW + frame * H + slot * G,
					  .page = page + slot,
					  .nr = 1,
					  .flags = RW};

		if (!try_map(c, &want))
			return;
	}
}

static void check_secrets(struct churn *c)
{
	for (unsigned page = 0; page < NR_PAGES; page++)
		if (!c->used[page])
			check_pages(c, page, 1, SECRET, SECRET);
}

static void churn(struct churn *c)
{
	struct sim_rig *rig = &c->b->rig;
	struct live *l = &c->live[pick(c, NR_MAPS)];

	switch (pick(c, 64)) {
	case 0:
		endpoint_sync_for_device(rig->ep);
		return;
	case 1:
		endpoint_sync_for_cpu(rig->ep);
		return;
	case 2:
		if (pick(c, 8))
			return;
		mediator_reset(rig->m);
		for (unsigned i = 0; i < NR_MAPS; i++)
			if (c->live[i].nr)
				close_live(c, &c->live[i]);
		assert_int_equal(mediator_attach(rig->m, 1, EP, false), 0);
		return;
	}
	if (l->nr) {
		assert_int_equal(sim_rig_unmap(rig, l->iova, l->nr * G), 0);
		close_live(c, l);
	} else {
		pick(c, 4) ? map_some(c) : map_frame(c);
	}
}

static void a_hostile_device_neither_sees_nor_changes_what_is_not_mapped(void **state)
{
	unsigned arg = *(unsigned *)*state;
	uint64_t end = now_ns() + 20 * LIMIT_MS * UINT64_C(1000000), accesses;
	struct mediator_stats stats;
	struct churn *c = calloc(1, sizeof(*c));
	struct bench *b = calloc(1, sizeof(*b));

	c->b = b;
	c->random = 1 + arg;
	sim_rig_init(&b->rig, arg % NR_KINDS, SIM_DART_SOUND, 1, arg >= NR_KINDS);
	fill_pages(c, 0, NR_PAGES, SECRET);
	bench_start(b, b->rig.port, true);
	set(b, SIM_EDU_PAUSE, 4, 1);
	set(b, SIM_EDU_FIRST, 8, WINDOW - H);
	set(b, SIM_EDU_LAST, 8, WINDOW + NR_SLOTS * G + H);
	set(b, SIM_EDU_PATTERN, 8, PATTERN);
	set(b, SIM_EDU_SECRET, 8, SECRET);
	for (unsigned reg_off = SIM_EDU_SEEN; reg_off <= SIM_EDU_REFUSED; reg_off += 8)
		set(b, reg_off, 8, 0);
	set(b, SIM_EDU_PAUSE, 4, 0);
	do {
		if (now_ns() > end)
			fail_msg("the device makes no accesses");
		for (unsigned i = 0; i < 50; i++)
			churn(c);
		check_secrets(c);
		accesses = reg(b, SIM_EDU_READS, 8) + reg(b, SIM_EDU_WRITES, 8) +
			   reg(b, SIM_EDU_REFUSED, 8);
	} while (accesses < ACCESSES);

	/* It had a chance: all kinds of frames were there, and it reached and missed them. */
	mediator_get_stats(b->rig.m, &stats);
	if (getenv("STATS"))
		fprintf(stderr,
			"%lu accesses (%lu %lu %lu), %lu maps, frames %lu %lu %lu, %lu %lu\n",
			accesses, reg(b, SIM_EDU_READS, 8), reg(b, SIM_EDU_WRITES, 8),
			reg(b, SIM_EDU_REFUSED, 8), stats.maps, stats.direct_frames,
			stats.window_frames, stats.bounce_frames, stats.to_bounce, stats.to_direct);
	assert_int_equal(reg(b, SIM_EDU_SEEN, 8), 0);
	assert_true(reg(b, SIM_EDU_READS, 8) > ACCESSES / 50);
	assert_true(reg(b, SIM_EDU_WRITES, 8) > ACCESSES / 50);
	assert_true(reg(b, SIM_EDU_REFUSED, 8) > ACCESSES / 50);
	assert_true(stats.direct_frames && stats.window_frames && stats.bounce_frames);
	assert_true(stats.to_bounce && stats.to_direct);
	assert_true(stats.faults);
	free(c);
	bench_end(b);
}

int main(void)
{
	static unsigned args[2 * NR_KINDS] = {0, 1, 2, 3, 4, 5}; /* from 3 on: lazy */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_says_what_it_is),
		cmocka_unit_test(wide_registers_take_halves),
		cmocka_unit_test(no_access_of_any_size_anywhere_does_harm),
		cmocka_unit_test(dma_copies_every_byte_it_is_told_to_and_no_other),
		cmocka_unit_test(a_refused_dma_says_after_how_many_bytes),
		cmocka_unit_test(what_cannot_be_done_is_not_begun),
		cmocka_unit_test(causes_drive_the_line_until_they_are_all_acknowledged),
		cmocka_unit_test(each_cause_fires_its_vector_each_time),
		cmocka_unit_test(stopping_waits_for_the_access_under_way),
		cmocka_unit_test(the_registers_of_a_dma_under_way_do_not_change),
		cmocka_unit_test(hostile_mode_needs_no_permission_and_keeps_to_its_range),
#define HOSTILE(n)                                                                                 \
	cmocka_unit_test_prestate(a_hostile_device_neither_sees_nor_changes_what_is_not_mapped,    \
				  &args[n])
		HOSTILE(0),
		HOSTILE(1),
		HOSTILE(2),
		HOSTILE(3),
		HOSTILE(4),
		HOSTILE(5),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
