/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated NVMe behind simulated DARTs, end to end without a guest: the test is the guest's CPU
 * and its driver. It programs the function through config space and BAR, maps 4 KiB pages by the
 * mediator's requests wherever they fall onto 16 KiB frames, and keeps 32 random reads and writes
 * in flight whose data it checks. The controller, the event loop and the test are three threads.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/sim.h"

#define PAGE	   4096u
#define RAM	   (32u << 20)
#define RAM_BASE   LAYOUT_RAM_LOW_BASE
#define BLOCK	   512u
#define NR_BLOCKS  16384u
#define DEPTH	   32u
#define QUEUE_LEN  64u
#define MAX_PAGES  9u /* of a buffer */
#define MAX_BLOCKS 64u
#define NR_BUFFERS 96u
#define NR_IOS	   1500u
#define WAIT_S	   60 /* for what hangs, not a measure */

#define DOMAIN	   3
#define RINGS_IOVA 0x20001000ull /* off by a page from where congruent memory would be */
#define DATA_IOVA  0x30000000ull
#define DATA_PAGES 2048u

#ifdef __SANITIZE_THREAD__
#define SCALE 4
#else
#define SCALE 1
#endif

enum { ASQ, ACQ, SQ, CQ, IDENTIFY, LISTS, NR_RINGS = LISTS + DEPTH };

struct rig {
	char path[64];
	uint8_t *ram;
	struct gmem_span span;
	struct gmem gmem;
	struct bus *bus;
	struct evloop *loop;
	pthread_t thread;
	struct pci_machine pci;
	struct pci_host *host;
	struct pci_fronts *fronts;
	struct mediator *mediator;
	struct sim_machine machine;
	struct sim_set *set;
	uint64_t ecam, bar;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned fired[4]; /* messages, by data */

	bool may_fail, failed; /* UNMAP, since the DARTs do not answer */
	bool lazy;	       /* buffers are unmapped later than they are looked at */
	bool direct_rings;     /* queues lie congruent: nothing about them need be bounced */
	bool hold_doorbell;    /* commands are only written into the queue */
	bool polled;	       /* completions of I/O come without interrupts */
	unsigned head[2], tail[2], cid;
	bool phase[2];

	unsigned nr_cut_off; /* times the operator was told so */
	uint8_t page_used[DATA_PAGES];
	uint32_t generation[NR_BLOCKS];
	bool busy[NR_BLOCKS];
	uint64_t seed;
};

struct buffer {
	bool used;
	uint64_t iova;
	unsigned nr_pages, first_page; /* first_page: in the IOVA region */
	uint32_t lba, nr_blocks, generation;
	bool write;
	unsigned offset;
};

static struct rig rig;
static struct buffer buffers[NR_BUFFERS];
static struct buffer *by_cid[DEPTH];

static uint64_t rnd(void)
{
	uint64_t z = (rig.seed += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint64_t word_of(uint32_t lba, uint32_t generation, unsigned i)
{
	return ((uint64_t)lba << 32 | generation) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

/* ---- the machine ---- */

static int msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)devid;
	assert_true(gpa - LAYOUT_DOORBELL_BASE < LAYOUT_DOORBELL_LEN);
	assert_true(data < ARRAY_SIZE(rig.fired));
	pthread_mutex_lock(&rig.lock);
	rig.fired[data]++;
	pthread_cond_broadcast(&rig.changed);
	pthread_mutex_unlock(&rig.lock);
	return 0;
}

static void set_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx, (void)line, (void)level;
}

static int map_bar(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	(void)ctx, (void)gpa, (void)hva, (void)len;
	return -ENOSPC;
}

static void unmap_bar(void *ctx, int slot)
{
	(void)ctx, (void)slot;
}

static void dart_irq(void *ctx, unsigned dart, bool level)
{
	(void)ctx, (void)dart, (void)level;
}

static void *run_loop(void *ctx)
{
	(void)ctx;
	assert_int_equal(evloop_run(rig.loop), 0);
	return NULL;
}

static uint8_t *ring(unsigned which)
{
	return rig.ram + (rig.direct_rings ? which * 4 : which * 3 + 1) * (size_t)PAGE;
}

static uint64_t gpa_of(const void *p)
{
	return RAM_BASE + (uint64_t)((const uint8_t *)p - rig.ram);
}

static uint64_t ring_iova(unsigned which)
{
	return rig.direct_rings ? (RINGS_IOVA & ~0x3fffull) + which * 4 * (uint64_t)PAGE
				: RINGS_IOVA + which * (uint64_t)PAGE;
}

static uint8_t *buffer_page(const struct buffer *b, unsigned i)
{
	return rig.ram + (8u << 20) +
	       ((unsigned)(b - buffers) * (MAX_PAGES + 1) + i) * (size_t)PAGE;
}

static void map(uint64_t iova, const void *p, unsigned pages, uint32_t flags)
{
	const struct mapping m = {
		.start = iova,
		.last = iova + pages * (uint64_t)PAGE - 1,
		.gpa = gpa_of(p),
		.flags = flags,
	};

	assert_int_equal(mediator_map(rig.mediator, DOMAIN, &m), 0);
}

static void unmap(uint64_t iova, unsigned pages)
{
	int ret = mediator_unmap(rig.mediator, DOMAIN, iova, iova + pages * (uint64_t)PAGE - 1);

	rig.failed |= ret != 0;
	assert_true(!ret || rig.may_fail);
}

/* ---- the driver ---- */

static uint32_t config(unsigned off, unsigned len)
{
	uint32_t val = 0;

	assert_true(bus_access(rig.bus, rig.ecam + off, &val, len, false));
	return val;
}

static void config_write(unsigned off, unsigned len, uint32_t val)
{
	assert_true(bus_access(rig.bus, rig.ecam + off, &val, len, true));
}

static uint64_t reg(unsigned off, unsigned len)
{
	uint64_t val = 0;

	assert_true(bus_access(rig.bus, rig.bar + off, &val, len, false));
	return val;
}

static void reg_write(unsigned off, unsigned len, uint64_t val)
{
	assert_true(bus_access(rig.bus, rig.bar + off, &val, len, true));
}

static unsigned find_cap(unsigned id)
{
	unsigned pos = config(PCI_CAPABILITY_LIST, 1);

	while (pos && config(pos, 1) != id)
		pos = config(pos + 1, 1);
	assert_int_not_equal(pos, 0);
	return pos;
}

static void find_function(void)
{
	unsigned msix;
	uint64_t table;

	rig.ecam = LAYOUT_PCI_ECAM_BASE + (1 << 15);
	assert_int_equal(config(PCI_CLASS_REVISION, 4) >> 8, 0x010802);
	config_write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	rig.bar = (config(PCI_BASE_ADDRESS_0, 4) & ~0xfu) |
		  (uint64_t)config(PCI_BASE_ADDRESS_0 + 4, 4) << 32;
	msix = find_cap(PCI_CAP_ID_MSIX);
	table = config(msix + PCI_MSIX_TABLE, 4);
	assert_int_equal(table & 7, 0);
	for (unsigned i = 0; i < 2; i++) {
		reg_write((unsigned)table + 16 * i, 4, LAYOUT_DOORBELL_BASE + 0x40);
		reg_write((unsigned)table + 16 * i + 4, 4, 0);
		reg_write((unsigned)table + 16 * i + 8, 4, i);
		reg_write((unsigned)table + 16 * i + 12, 4, 0);
	}
	config_write(msix + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

/* What the driver writes where a sync may look at this moment: the race detector is told. */
static void store(uint64_t *to, uint64_t word)
{
	__atomic_store_n(to, word, __ATOMIC_RELAXED);
}

static void submit(unsigned q, const uint32_t sqe[16])
{
	uint64_t *to = (uint64_t *)(void *)(ring(q ? SQ : ASQ) + rig.tail[q] * 64);

	for (unsigned i = 0; i < 8; i++)
		store(to + i, sqe[2 * i] | (uint64_t)sqe[2 * i + 1] << 32);
	rig.tail[q] = (rig.tail[q] + 1) % QUEUE_LEN;
	if (!rig.hold_doorbell)
		reg_write(0x1000 + 8 * q, 4, rig.tail[q]);
}

/* The next completion if it is there: command id and status. */
static bool complete(unsigned q, unsigned *cid, unsigned *status)
{
	const uint8_t *cqe = ring(q ? CQ : ACQ) + rig.head[q] * 16;
	/* The word that is written, whole: the race detector sees no order in half of it. */
	uint32_t dw3 = (uint32_t)(__atomic_load_n((const uint64_t *)(const void *)(cqe + 8),
						  __ATOMIC_ACQUIRE) >>
				  32);

	if ((dw3 >> 16 & 1) != rig.phase[q])
		return false;
	*cid = dw3 & 0xffff;
	*status = dw3 >> 17;
	rig.head[q] = (rig.head[q] + 1) % QUEUE_LEN;
	if (!rig.head[q])
		rig.phase[q] = !rig.phase[q];
	return true;
}

/* Until more than @seen messages of vector @q have come. Return: how many. */
static unsigned wait_for_irq(unsigned q, unsigned seen)
{
	struct timespec end;
	unsigned nr;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += WAIT_S;
	pthread_mutex_lock(&rig.lock);
	while (rig.fired[q] == seen) {
		if (pthread_cond_timedwait(&rig.changed, &rig.lock, &end))
			fail_msg("no interrupt of queue %u after %u", q, seen);
	}
	nr = rig.fired[q];
	pthread_mutex_unlock(&rig.lock);
	return nr;
}

static unsigned admin(uint32_t opcode, unsigned nsid, uint64_t prp, uint32_t dw10, uint32_t dw11)
{
	uint32_t sqe[16] = {opcode | rig.cid++ << 16,	 nsid,	      [6] = (uint32_t)prp,
			    [7] = (uint32_t)(prp >> 32), [10] = dw10, [11] = dw11};
	unsigned seen = 0, cid, status;

	pthread_mutex_lock(&rig.lock);
	seen = rig.fired[0];
	pthread_mutex_unlock(&rig.lock);
	submit(0, sqe);
	while (!complete(0, &cid, &status))
		seen = wait_for_irq(0, seen);
	assert_int_equal(cid, sqe[0] >> 16);
	reg_write(0x1004, 4, rig.head[0]);
	return status;
}

static void enable_controller(void)
{
	time_t end = time(NULL) + WAIT_S;

	for (unsigned i = 0; i < NR_RINGS; i++)
		memset(ring(i), 0, PAGE);
	memset(rig.head, 0, sizeof(rig.head));
	memset(rig.tail, 0, sizeof(rig.tail));
	reg_write(0x14, 4, 0);
	reg_write(0x24, 4, (QUEUE_LEN - 1) << 16 | (QUEUE_LEN - 1));
	reg_write(0x28, 8, ring_iova(ASQ));
	reg_write(0x30, 8, ring_iova(ACQ));
	reg_write(0x14, 4, 1 | 6 << 16 | 4 << 20);
	while (!(reg(0x1c, 4) & 1))
		assert_true(time(NULL) < end);
	rig.phase[0] = rig.phase[1] = true;
	assert_int_equal(admin(0x06, 0, ring_iova(IDENTIFY), 1, 0), 0);
	assert_memory_equal(ring(IDENTIFY) + 4, "granule-sim0", 12);
	assert_int_equal(admin(0x06, 1, ring_iova(IDENTIFY), 0, 0), 0);
	assert_int_equal(*(uint64_t *)(void *)ring(IDENTIFY), NR_BLOCKS);
	assert_int_equal(admin(0x05, 0, ring_iova(CQ), 1 | (QUEUE_LEN - 1) << 16,
			       rig.polled ? 1 : 3 | 1 << 16),
			 0);
	assert_int_equal(admin(0x01, 0, ring_iova(SQ), 1 | (QUEUE_LEN - 1) << 16, 1 | 1 << 16), 0);
}

static void start_controller(void)
{
	assert_int_equal(mediator_attach(rig.mediator, DOMAIN, 1 << 3, false), 0);
	for (unsigned i = 0; i < NR_RINGS; i++) {
		/* Direct ones fill their frames, as Linux's coherent memory does. */
		memset(ring(i), 0, rig.direct_rings ? 4 * PAGE : PAGE);
		map(ring_iova(i), ring(i), rig.direct_rings ? 4 : 1, MAP_READ | MAP_WRITE);
	}
	enable_controller();
}

/* ---- random I/O ---- */

static void fill(const struct buffer *b)
{
	for (unsigned i = 0; i < b->nr_blocks * (BLOCK / 8); i++) {
		unsigned at = b->offset + i * 8;
		uint64_t word = word_of(b->lba + i / 64, b->generation, i % 64);

		memcpy(buffer_page(b, at / PAGE) + at % PAGE, &word, 8);
	}
}

static void check(const struct buffer *b)
{
	for (unsigned i = 0; i < b->nr_blocks * (BLOCK / 8); i++) {
		unsigned at = b->offset + i * 8;
		uint32_t lba = b->lba + i / 64;
		uint64_t word;

		memcpy(&word, buffer_page(b, at / PAGE) + at % PAGE, 8);
		if (word != word_of(lba, rig.generation[lba], i % 64))
			fail_msg("block %u word %u is %#llx, not generation %u (seed of the run: "
				 "see "
				 "its case)",
				 lba, i % 64, (unsigned long long)word, rig.generation[lba]);
	}
}

/* After the driver gave the buffer back, its memory is somebody else's. */
static void reuse(const struct buffer *b)
{
	for (unsigned i = 0; i < b->nr_pages; i++)
		memset(buffer_page(b, i), 0x5a ^ (int)i, PAGE);
}

static void check_reused(const struct buffer *b)
{
	for (unsigned i = 0; i < b->nr_pages; i++)
		for (unsigned at = 0; at < PAGE; at++)
			if (buffer_page(b, i)[at] != (0x5a ^ i))
				fail_msg("memory that was used again changed when it was unmapped");
}

static bool choose(struct buffer *b)
{
	uint32_t nr = 1 + (uint32_t)(rnd() % (rnd() % 4 ? 8 : MAX_BLOCKS));
	uint32_t lba = (uint32_t)(rnd() % (NR_BLOCKS - nr));

	for (uint32_t i = 0; i < nr; i++)
		if (rig.busy[lba + i])
			return false;
	*b = (struct buffer){.lba = lba, .nr_blocks = nr, .write = rnd() & 1, .used = true};
	b->offset = (unsigned)(rnd() % 2 ? 0 : rnd() % 8 * BLOCK);
	b->nr_pages = (b->offset + nr * BLOCK + PAGE - 1) / PAGE;
	for (unsigned tries = 0;; tries++) {
		unsigned first = (unsigned)(rnd() % (DATA_PAGES - MAX_PAGES)), i = 0;

		/* Side by side with others more often than not. */
		first = rnd() % 4 ? first % 256 : first;
		while (i < b->nr_pages && !rig.page_used[first + i])
			i++;
		if (i == b->nr_pages) {
			b->first_page = first;
			break;
		}
		assert_true(tries < 100000);
	}
	memset(rig.page_used + b->first_page, 1, b->nr_pages);
	b->iova = DATA_IOVA + b->first_page * (uint64_t)PAGE;
	for (uint32_t i = 0; i < nr; i++)
		rig.busy[lba + i] = true;
	return true;
}

static void start(struct buffer *b, unsigned cid)
{
	uint64_t *list = (uint64_t *)(void *)ring(LISTS + cid);
	uint64_t prp1 = b->iova + b->offset, prp2 = 0;
	uint32_t sqe[16] = {(b->write ? 1u : 2u) | cid << 16, 1};

	if (b->write) {
		static uint32_t generation;

		b->generation = ++generation;
		fill(b);
	} else {
		reuse(b); /* not what is to be read */
	}
	map(b->iova, buffer_page(b, 0), b->nr_pages, b->write ? MAP_READ : MAP_WRITE);
	if (b->nr_pages == 2) {
		prp2 = b->iova + PAGE;
	} else if (b->nr_pages > 2) {
		prp2 = ring_iova(LISTS + cid);
		for (unsigned i = 1; i < b->nr_pages; i++)
			store(list + i - 1, b->iova + i * (uint64_t)PAGE);
	}
	sqe[6] = (uint32_t)prp1;
	sqe[7] = (uint32_t)(prp1 >> 32);
	sqe[8] = (uint32_t)prp2;
	sqe[9] = (uint32_t)(prp2 >> 32);
	sqe[10] = b->lba;
	sqe[12] = b->nr_blocks - 1;
	by_cid[cid] = b;
	submit(1, sqe);
}

static void release(struct buffer *b)
{
	unmap(b->iova, b->nr_pages);
	memset(rig.page_used + b->first_page, 0, b->nr_pages);
	b->used = false;
}

static void finish(struct buffer *b, struct buffer **deferred, unsigned *nr_deferred)
{
	if (!rig.lazy)
		release(b);
	for (uint32_t i = 0; i < b->nr_blocks; i++) {
		rig.busy[b->lba + i] = false;
		if (b->write)
			rig.generation[b->lba + i] = b->generation;
	}
	if (!b->write && !rig.failed)
		check(b);
	if (rig.lazy) {
		reuse(b);
		deferred[(*nr_deferred)++] = b;
	}
	if (*nr_deferred < NR_BUFFERS - DEPTH && rnd() % 40)
		return;
	for (unsigned i = 0; i < *nr_deferred; i++) {
		release(deferred[i]);
		check_reused(deferred[i]);
	}
	*nr_deferred = 0;
}

static struct buffer *free_buffer(void)
{
	for (unsigned i = 0; i < NR_BUFFERS; i++)
		if (!buffers[i].used)
			return &buffers[i];
	return NULL;
}

/* @nr random reads and writes, as many at once as there are command slots. Return: the most that
 * were in flight. */
static unsigned random_io(unsigned nr)
{
	struct buffer *deferred[NR_BUFFERS];
	unsigned nr_deferred = 0, in_flight = 0, deepest = 0, seen = 0, cid, status;
	time_t end = time(NULL) + 3 * WAIT_S;

	while (nr || in_flight) {
		bool any = false;

		assert_true(time(NULL) < end);
		for (cid = 0; cid < DEPTH && nr; cid++) {
			struct buffer *b = by_cid[cid] ? NULL : free_buffer();

			if (!b || !choose(b))
				continue;
			start(b, cid);
			nr--;
			in_flight++;
		}
		deepest = MAX(deepest, in_flight);
		while (complete(1, &cid, &status)) {
			struct buffer *b = by_cid[cid];

			assert_true(cid < DEPTH && b);
			assert_int_equal(status, 0);
			by_cid[cid] = NULL;
			in_flight--;
			any = true;
			finish(b, deferred, &nr_deferred);
		}
		if (any)
			reg_write(0x100c, 4, rig.head[1]);
		else if (in_flight && (rig.lazy || rig.polled))
			sched_yield(); /* it polls: entries are found before their interrupt */
		else if (in_flight)
			seen = wait_for_irq(1, seen);
	}
	for (unsigned i = 0; i < nr_deferred; i++)
		release(deferred[i]);
	return deepest;
}

/* ---- cases ---- */

struct param {
	enum sim_dart_kind kind;
	unsigned darts;
	enum sim_dart_quirk quirk;
	bool lazy, direct_rings;
	bool nothing_stays; /* what is unmapped is unmapped, not parked */
	bool polled;	    /* sync=full,poll=50; and the driver polls too */
};

static void log_line(void *ctx, const char *line)
{
	(void)ctx;
	rig.nr_cut_off += !strncmp(line, "sim-nvme0: an IOMMU did not confirm", 35);
}

static void make_disk(void)
{
	uint64_t *block = malloc(BLOCK);
	int fd;

	strcpy(rig.path, "/tmp/test_sim.XXXXXX");
	fd = mkstemp(rig.path);
	assert_true(fd >= 0);
	for (uint32_t lba = 0; lba < NR_BLOCKS; lba++) {
		for (unsigned i = 0; i < BLOCK / 8; i++)
			block[i] = word_of(lba, 0, i);
		assert_int_equal(write(fd, block, BLOCK), BLOCK);
	}
	close(fd);
	free(block);
}

/* Every block of the file is the last that was written. */
static void check_disk(void)
{
	uint64_t block[BLOCK / 8];
	FILE *file = fopen(rig.path, "r");

	assert_non_null(file);
	for (uint32_t lba = 0; lba < NR_BLOCKS; lba++) {
		assert_int_equal(fread(block, 1, BLOCK, file), BLOCK);
		for (unsigned i = 0; i < BLOCK / 8; i++)
			if (block[i] != word_of(lba, rig.generation[lba], i))
				fail_msg("block %u of the file is not generation %u", lba,
					 rig.generation[lba]);
	}
	fclose(file);
}

static int power_on(void **state)
{
	const struct param *p = *state;
	struct sim_config cfg = {
		.kind = SIM_NVME,
		.dart = p->kind,
		.darts = p->darts,
		.quirk = p->quirk,
	};
	struct mediator_cfg mcfg = {
		.gmem = &rig.gmem,
		.guest_granule = PAGE,
		.pool_limit = 64u << 20,
		.max_domains = 4,
		.max_mappings = 1 << 16,
		.park_limit = 1u << 20,
		.quarantine_frames = 16,
		.promote = true,
		.ring_limit = 1 << 20,
		.doorbell = {LAYOUT_DOORBELL_BASE, LAYOUT_DOORBELL_BASE + LAYOUT_DOORBELL_LEN - 1},
		.log = log_line,
	};

	if (p->polled) {
		cfg.sync_set = true;
		cfg.sync = SYNC_FULL;
		cfg.poll_us = 50;
	}
	memset(&rig, 0, sizeof(rig));
	memset(buffers, 0, sizeof(buffers));
	memset(by_cid, 0, sizeof(by_cid));
	if (p->nothing_stays)
		mcfg.park_limit = mcfg.quarantine_frames = 0;
	rig.lazy = p->lazy;
	rig.direct_rings = p->direct_rings;
	rig.polled = p->polled;
	rig.seed = 1;
	pthread_mutex_init(&rig.lock, NULL);
	pthread_cond_init(&rig.changed, NULL);
	make_disk();
	cfg.disk.path = rig.path;
	rig.ram = mmap(NULL, RAM + (2u << 20), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(rig.ram, MAP_FAILED);
	rig.ram = (uint8_t *)ALIGN_UP((uintptr_t)rig.ram, 2u << 20);
	rig.span = (struct gmem_span){.gpa = RAM_BASE, .len = RAM, .hva = rig.ram};
	rig.gmem = (struct gmem){.spans = {rig.span}, .nr_spans = 1};
	assert_int_equal(evloop_create(0, &rig.loop), 0);
	assert_int_equal(bus_create(&rig.bus), 0);
	rig.pci = (struct pci_machine){.bus = rig.bus,
				       .set_intx = set_intx,
				       .msi = msi,
				       .map = map_bar,
				       .unmap = unmap_bar,
				       .gmem = &rig.gmem,
				       .host_page = 4096};
	assert_int_equal(pci_host_create(&rig.pci, &rig.host), 0);
	assert_int_equal(pci_fronts_create(rig.host, &rig.pci, rig.loop, &rig.fronts), 0);
	assert_int_equal(sim_set_create(&rig.set), 0);
	assert_int_equal(sim_set_open(rig.set, &cfg), 0);
	sim_set_place(rig.set, 1);
	assert_int_equal(mediator_create(&mcfg, &rig.mediator), 0);
	assert_int_equal(sim_set_add_endpoints(rig.set, rig.mediator, p->lazy), 0);
	assert_int_equal(sim_set_nr_endpoints(rig.set), 1);
	rig.machine = (struct sim_machine){
		.gmem = &rig.gmem, .bus = rig.bus, .vcpus = 1, .dart_irq = dart_irq};
	assert_int_equal(sim_set_realize(rig.set, &rig.machine, rig.fronts), 0);
	assert_int_equal(pthread_create(&rig.thread, NULL, run_loop, NULL), 0);
	return 0;
}

static int power_off(void **state)
{
	(void)state;
	evloop_stop(rig.loop, 0);
	pthread_join(rig.thread, NULL);
	pci_fronts_quiesce(rig.fronts);
	sim_set_quiesce(rig.set);
	mediator_destroy(rig.mediator);
	pci_fronts_destroy(rig.fronts);
	sim_set_destroy(rig.set);
	pci_host_destroy(rig.host);
	bus_destroy(rig.bus);
	evloop_destroy(rig.loop);
	munmap(rig.ram, RAM);
	unlink(rig.path);
	return 0;
}

static void verified_random_io(void **state)
{
	const struct param *p = *state;
	struct mediator_stats stats;

	find_function();
	start_controller();
	assert_int_equal(random_io(NR_IOS / (p->quirk ? 4 : 1) / SCALE), DEPTH);
	check_disk();
	mediator_get_stats(rig.mediator, &stats);
	assert_int_equal(stats.faults, 0);
	assert_true(stats.bounce_frames > 0);
	/* A ring that the CPU and the device both write must not be written by both in one place.
	 */
	assert_int_equal(stats.conflicts, 0);
}

/* After 256 commands no invalidation ends: the device is cut off, and what came before is right. */
static void hung_invalidation_cuts_the_device_off(void **state)
{
	const struct mapping direct = {.start = DATA_IOVA - SIM_MEM_PAGE,
				       .last = DATA_IOVA - 1,
				       .gpa = RAM_BASE + RAM - SIM_MEM_PAGE,
				       .flags = MAP_WRITE};
	time_t end = time(NULL) + WAIT_S;
	struct mediator_stats stats;

	(void)state;
	find_function();
	start_controller();
	random_io(200);
	/* The last of these sees them hang. */
	rig.may_fail = true;
	random_io(256 - 200);
	/*
	 * Guest memory that comes or goes needs one, unless one for bounce pages came first, which
	 * no request waits for; the controller tells the DARTs a moment after its last completion.
	 */
	for (mediator_get_stats(rig.mediator, &stats); !stats.instance_errors;
	     mediator_get_stats(rig.mediator, &stats)) {
		assert_true(time(NULL) < end);
		if (!mediator_map(rig.mediator, DOMAIN, &direct))
			mediator_unmap(rig.mediator, DOMAIN, direct.start, direct.last);
	}
	assert_int_equal(rig.nr_cut_off, 1);
	/* Nothing is attached to it again. */
	assert_int_not_equal(mediator_attach(rig.mediator, DOMAIN + 1, 1 << 3, false), 0);
}

/* As many commands at once as there are slots for them. */
static void fill_slots(void)
{
	rig.hold_doorbell = true;
	for (unsigned cid = 0; cid < DEPTH; cid++) {
		struct buffer *b = free_buffer();

		assert_non_null(b);
		while (!choose(b))
			;
		start(b, cid);
	}
	rig.hold_doorbell = false;
	reg_write(0x1008, 4, rig.tail[1]);
}

/* Nobody waits for what is in flight: power_off() is all that follows. */
static void quit_with_commands_in_flight(void **state)
{
	(void)state;
	find_function();
	start_controller();
	random_io(DEPTH);
	fill_slots();
}

static void function_level_reset(void)
{
	uint32_t bar[2] = {config(PCI_BASE_ADDRESS_0, 4), config(PCI_BASE_ADDRESS_0 + 4, 4)};

	config_write(find_cap(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
	assert_int_equal(config(PCI_COMMAND, 2), 0);
	config_write(PCI_BASE_ADDRESS_0, 4, bar[0]);
	config_write(PCI_BASE_ADDRESS_0 + 4, 4, bar[1]);
}

/* Disabled, mastering taken away, or reset with commands in flight: it lets go of the memory, and
 * works afterwards as before. */
static void stop_with_commands_in_flight(void **state)
{
	time_t end = time(NULL) + WAIT_S;
	struct mediator_stats stats;
	unsigned cid, status;

	(void)state;
	find_function();
	start_controller();
	for (unsigned round = 0; round < 120 / SCALE; round++) {
		random_io(DEPTH);
		fill_slots();
		/* Rings are direct: the first completion is seen while the others are made. */
		while (!complete(1, &cid, &status))
			assert_true(time(NULL) < end);
		switch (round % 3) {
		case 0:
			reg_write(0x14, 4, 0);
			assert_int_equal(reg(0x1c, 4), 0);
			break;
		case 1:
			config_write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
			break;
		case 2:
			function_level_reset();
			break;
		}
		/* The memory is taken away: DMA would be a fault. */
		for (cid = 0; cid < DEPTH; cid++) {
			release(by_cid[cid]);
			/* What became of its blocks is not known unless it was a read. */
			for (uint32_t i = 0; i < by_cid[cid]->nr_blocks && !by_cid[cid]->write; i++)
				rig.busy[by_cid[cid]->lba + i] = false;
			by_cid[cid] = NULL;
		}
		/* Else it would go on where it was when it may master again. */
		if (round % 3 == 1)
			reg_write(0x14, 4, 0);
		find_function();
		enable_controller();
	}
	random_io(DEPTH);
	mediator_get_stats(rig.mediator, &stats);
	assert_int_equal(stats.faults, 0);
}

#define CASE(fn, dart_kind, nr_darts, what_quirk, is_lazy, is_direct, ...)                         \
	{                                                                                          \
		.name = #fn " " #dart_kind " " #nr_darts " " #what_quirk " " #is_lazy #is_direct,  \
		.test_func = fn, .setup_func = power_on, .teardown_func = power_off,               \
		.initial_state = &(struct param)                                                   \
		{                                                                                  \
			.kind = SIM_DART_##dart_kind, .darts = nr_darts,                           \
			.quirk = SIM_DART_##what_quirk, .lazy = is_lazy,                           \
			.direct_rings = is_direct, ##__VA_ARGS__                                   \
		}                                                                                  \
	}

int main(void)
{
#define IO(...)	  CASE(verified_random_io, __VA_ARGS__)
#define HUNG(...) CASE(hung_invalidation_cuts_the_device_off, __VA_ARGS__, HUNG_INVALIDATE, 0, 0)
#define QUIT(...) CASE(quit_with_commands_in_flight, __VA_ARGS__)
#define STOP(...) CASE(stop_with_commands_in_flight, __VA_ARGS__)
	const struct CMUnitTest tests[] = {
		IO(T8103, 1, SOUND, 0, 0),
		IO(T8103, 2, SOUND, 0, 0),
		IO(T6000, 1, SOUND, 0, 0),
		IO(T6000, 2, SOUND, 0, 0),
		IO(T8110, 1, SOUND, 0, 0),
		IO(T8110, 2, SOUND, 0, 1),
		IO(T8103, 1, SOUND, 1, 0),
		IO(T8103, 2, SOUND, 1, 0),
		IO(T6000, 2, SOUND, 1, 1),
		IO(T8110, 2, SOUND, 0, 0, .polled = true),
		IO(T6000, 1, SOUND, 0, 1, .polled = true),
		IO(T8103, 1, LOCKED_TTBR, 0, 0),
		IO(T8103, 2, LOCKED_TTBR, 1, 0),
		IO(T8110, 2, LOCKED_TTBR, 0, 0),
		IO(T6000, 2, SLOW_INVALIDATE, 0, 0),
		IO(T8110, 1, SLOW_INVALIDATE, 0, 0),
		HUNG(T8103, 2),
		HUNG(T8110, 1),
		QUIT(T8103, 2, SOUND, 0, 0),
		QUIT(T8110, 1, SLOW_INVALIDATE, 1, 0),
		QUIT(T6000, 1, LOCKED_TTBR, 0, 0),
		STOP(T6000, 2, SOUND, 0, 1, .nothing_stays = true),
		STOP(T8110, 1, SOUND, 0, 1, .nothing_stays = true),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
