/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small NVMe driver against the simulated controller, over a piece of memory. Where a command has
 * to stay under way the disk is a pipe, whose reads end when the test says so.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "vmm/sim_nvme.h"
#include "vmm/sim_nvme_spec.h"

#define NR_IO	    3u /* queues */
#define NR_VECTORS  (NR_IO + 1)
#define MEM_BASE    UINT64_C(0x1230000000)
#define MEM_LEN	    0x800000u
#define QUEUES	    MEM_BASE		  /* 128 KiB for each pair */
#define DATA	    (MEM_BASE + 0x100000) /* what commands move */
#define LISTS	    (MEM_BASE + 0x700000)
#define DISK_BLOCKS 4096u
#define DISK_LEN    (DISK_BLOCKS * SIM_NVME_BLOCK)
#define MAX_LEN	    (512u << 10) /* of a transfer */
#define LONG	    20000	 /* ms; nothing takes that long */
#define MOMENT	    30		 /* ms in which what is wrong would be likely to happen */
#define MAX_LOG	    4096u

#define CC(mps) (1u | (mps) << 7 | 6u << 16 | 4u << 20)

/* ---- memory -------------------------------------------------------------------------------------
 */

struct access {
	bool queues, write; /* through which port */
	uint64_t addr;
	size_t len;
	bool signalled; /* an interrupt had been raised by then */
};

static struct {
	pthread_mutex_t lock;
	uint8_t *mem;
	uint64_t bad, bad_len;	       /* refused */
	bool bad_is_queues;	       /* by which port */
	uint64_t watched, watched_len; /* what is written there calls: */
	void (*on_watched)(void);
	unsigned nr_log;
	struct access log[MAX_LOG];
} m = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int fds[NR_VECTORS];

static bool raised(void)
{
	struct pollfd p[NR_VECTORS];

	for (unsigned i = 0; i < NR_VECTORS; i++)
		p[i] = (struct pollfd){fds[i], POLLIN, 0};
	return poll(p, NR_VECTORS, 0) > 0;
}

static int queues_ctx, data_ctx;

static int port_access(void *ctx, uint64_t addr, void *buf, size_t len, bool write)
{
	bool queues = ctx == &queues_ctx;
	size_t fine = len;
	void (*watch)(void) = NULL;

	pthread_mutex_lock(&m.lock);
	if (m.nr_log < MAX_LOG)
		m.log[m.nr_log++] = (struct access){queues, write, addr, len, raised()};
	if (addr - MEM_BASE >= MEM_LEN)
		fine = 0;
	else if (len > MEM_LEN - (addr - MEM_BASE))
		fine = MEM_LEN - (addr - MEM_BASE);
	if (m.bad_len && queues == m.bad_is_queues && addr < m.bad + m.bad_len &&
	    addr + fine > m.bad)
		fine = addr < m.bad ? m.bad - addr : 0;
	if (fine && write)
		memcpy(m.mem + (addr - MEM_BASE), buf, fine);
	else if (fine)
		memcpy(buf, m.mem + (addr - MEM_BASE), fine);
	if (write && m.on_watched && addr - m.watched < m.watched_len)
		watch = m.on_watched;
	pthread_mutex_unlock(&m.lock);
	if (watch)
		watch();
	return fine == len ? 0 : -EFAULT;
}

static int port_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return port_access(ctx, addr, buf, len, false);
}

static int port_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	return port_access(ctx, addr, (void *)buf, len, true);
}

static void refuse(bool queues, uint64_t addr, uint64_t len)
{
	pthread_mutex_lock(&m.lock);
	m.bad_is_queues = queues;
	m.bad = addr;
	m.bad_len = len;
	pthread_mutex_unlock(&m.lock);
}

static void watch(uint64_t addr, uint64_t len, void (*fn)(void))
{
	pthread_mutex_lock(&m.lock);
	m.watched = addr;
	m.watched_len = len;
	m.on_watched = fn;
	pthread_mutex_unlock(&m.lock);
}

static void forget_log(void)
{
	pthread_mutex_lock(&m.lock);
	m.nr_log = 0;
	pthread_mutex_unlock(&m.lock);
}

static unsigned nr_accesses(void)
{
	unsigned nr;

	pthread_mutex_lock(&m.lock);
	nr = m.nr_log;
	pthread_mutex_unlock(&m.lock);
	return nr;
}

static void put(uint64_t addr, const void *src, size_t len)
{
	pthread_mutex_lock(&m.lock);
	memcpy(m.mem + (addr - MEM_BASE), src, len);
	pthread_mutex_unlock(&m.lock);
}

static void get(uint64_t addr, void *dst, size_t len)
{
	pthread_mutex_lock(&m.lock);
	memcpy(dst, m.mem + (addr - MEM_BASE), len);
	pthread_mutex_unlock(&m.lock);
}

static void fill(uint64_t addr, uint8_t val, size_t len)
{
	pthread_mutex_lock(&m.lock);
	memset(m.mem + (addr - MEM_BASE), val, len);
	pthread_mutex_unlock(&m.lock);
}

static void put64(uint64_t addr, uint64_t val)
{
	uint8_t bytes[8];

	put_le64(bytes, val);
	put(addr, bytes, sizeof(bytes));
}

/* pattern - the byte at @off of a stream that does not repeat at any page */
static uint8_t pattern(uint64_t off)
{
	return (uint8_t)(off * 7 + (off >> 9) * 13 + (off >> 12) * 29 + 1);
}

/* ---- the driver ---------------------------------------------------------------------------------
 */

struct queue {
	unsigned id, size, vector;
	uint64_t sq, cq;
	unsigned tail, head;
	bool phase;
};

struct completion {
	uint32_t dw0;
	uint16_t sq_head, sq_id, cid;
	unsigned status;
};

static struct sim_nvme *nvme;
static struct pci_dev *dev;
static struct queue admin, io[NR_IO + 1];
static int disk = -1; /* what the test sees of it */
static atomic_ullong progress;
static uint16_t next_cid;

static void reg_write(unsigned off, unsigned len, uint64_t val)
{
	uint8_t bytes[8];

	put_le64(bytes, val);
	assert_int_equal(dev->ops->write(dev, 0, off, bytes, len), 0);
}

static uint64_t reg_read(unsigned off, unsigned len)
{
	uint8_t bytes[8] = {0};

	assert_int_equal(dev->ops->read(dev, 0, off, bytes, len), 0);
	return get_le64(bytes);
}

static uint32_t csts(void)
{
	return (uint32_t)reg_read(NVME_CSTS, 4);
}

static void set_command(unsigned val)
{
	uint8_t bytes[2];

	put_le16(bytes, (uint16_t)val);
	assert_int_equal(dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes, 2),
			 0);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* wait_csts - until the bits of @mask are @val */
static void wait_csts(uint32_t mask, uint32_t val)
{
	uint64_t end = now_ms() + LONG;

	while ((csts() & mask) != val) {
		assert_true(now_ms() < end);
		usleep(100);
	}
}

static void wait_for_events(void)
{
	struct pollfd p[NR_VECTORS];

	for (unsigned i = 0; i < NR_VECTORS; i++)
		p[i] = (struct pollfd){fds[i], POLLIN, 0};
	assert_true(poll(p, NR_VECTORS, LONG) > 0);
}

/* fired - signals of a vector since the last look */
static uint64_t fired(unsigned vec)
{
	uint64_t count;

	return read(fds[vec], &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void ring_sq(const struct queue *q)
{
	reg_write(NVME_DB + 8 * q->id, 4, q->tail);
}

static void ring_cq(const struct queue *q)
{
	reg_write(NVME_DB + 8 * q->id + 4, 4, q->head);
}

struct command {
	uint8_t opcode, flags;
	uint32_t nsid;
	uint64_t prp1, prp2;
	uint32_t cdw10, cdw11, cdw12, cdw13;
};

/* queue_up - put a command into the queue and do not ring. Return: its identifier. */
static uint16_t queue_up(struct queue *q, const struct command *c)
{
	uint8_t sqe[NVME_SQE_LEN] = {0};

	sqe[0] = c->opcode;
	sqe[1] = c->flags;
	put_le16(sqe + 2, ++next_cid);
	put_le32(sqe + 4, c->nsid);
	put_le64(sqe + 24, c->prp1);
	put_le64(sqe + 32, c->prp2);
	put_le32(sqe + 40, c->cdw10);
	put_le32(sqe + 44, c->cdw11);
	put_le32(sqe + 48, c->cdw12);
	put_le32(sqe + 52, c->cdw13);
	put(q->sq + q->tail * NVME_SQE_LEN, sqe, sizeof(sqe));
	q->tail = (q->tail + 1) % q->size;
	return next_cid;
}

static uint16_t submit(struct queue *q, const struct command *c)
{
	uint16_t cid = queue_up(q, c);

	ring_sq(q);
	return cid;
}

/* peek - take a completion that is there; the head doorbell is not rung */
static bool peek(struct queue *q, struct completion *c)
{
	uint8_t cqe[NVME_CQE_LEN];

	get(q->cq + q->head * NVME_CQE_LEN, cqe, sizeof(cqe));
	if (!!(get_le16(cqe + 14) & 1) != q->phase)
		return false;
	assert_int_equal(get_le32(cqe + 4), 0);
	*c = (struct completion){get_le32(cqe), get_le16(cqe + 8), get_le16(cqe + 10),
				 get_le16(cqe + 12), get_le16(cqe + 14) >> 1};
	if (++q->head == q->size) {
		q->head = 0;
		q->phase = !q->phase;
	}
	return true;
}

/* reap_only - wait for a completion as an interrupt handler would */
static struct completion reap_only(struct queue *q)
{
	struct completion c;

	while (!peek(q, &c)) {
		wait_for_events();
		(void)fired(q->vector);
	}
	return c;
}

static struct completion reap(struct queue *q)
{
	struct completion c = reap_only(q);

	ring_cq(q);
	return c;
}

static bool empty(struct queue *q)
{
	struct queue copy = *q;
	struct completion c;

	return !peek(&copy, &c);
}

static struct completion run_full(struct queue *q, const struct command *c)
{
	uint16_t cid = submit(q, c);
	struct completion done = reap(q);

	assert_int_equal(done.cid, cid);
	assert_int_equal(done.sq_id, q->id);
	assert_int_equal(done.sq_head, q->tail);
	return done;
}

static unsigned run(struct queue *q, const struct command *c)
{
	return run_full(q, c).status;
}

#define ADMIN(...) run(&admin, &(struct command){__VA_ARGS__})
#define IO(...)	   run(&io[1], &(struct command){__VA_ARGS__})

static uint32_t admin_dw0(struct command c)
{
	struct completion done = run_full(&admin, &c);

	assert_int_equal(done.status, 0);
	return done.dw0;
}

static void init_queue(struct queue *q, unsigned id, unsigned size)
{
	*q = (struct queue){
		.id = id,
		.size = size,
		.vector = id,
		.sq = QUEUES + id * 0x20000,
		.cq = QUEUES + id * 0x20000 + 0x10000,
		.phase = true,
	};
	fill(q->sq, 0, 0x20000);
}

static void enable(unsigned mps, unsigned size)
{
	init_queue(&admin, 0, size);
	reg_write(NVME_AQA, 4, (size - 1) | (size - 1) << 16);
	reg_write(NVME_ASQ, 8, admin.sq);
	reg_write(NVME_ACQ, 8, admin.cq);
	reg_write(NVME_CC, 4, CC(mps));
	assert_int_equal(csts(), NVME_CSTS_RDY);
}

static unsigned create_cq(const struct queue *q, uint32_t flags)
{
	return ADMIN(.opcode = NVME_ADMIN_CREATE_CQ, .prp1 = q->cq,
		     .cdw10 = q->id | (q->size - 1) << 16, .cdw11 = flags | q->vector << 16);
}

static unsigned create_sq(const struct queue *q, unsigned cqid)
{
	return ADMIN(.opcode = NVME_ADMIN_CREATE_SQ, .prp1 = q->sq,
		     .cdw10 = q->id | (q->size - 1) << 16, .cdw11 = 1 | cqid << 16);
}

static void create_pair(unsigned id, unsigned size)
{
	init_queue(&io[id], id, size);
	assert_int_equal(create_cq(&io[id], 3), 0);
	assert_int_equal(create_sq(&io[id], id), 0);
}

/* enable_again - as new, with one pair of I/O queues */
static void enable_again(unsigned io_size)
{
	reg_write(NVME_CC, 4, 0);
	enable(0, 8);
	create_pair(1, io_size);
}

static void on_progress(void *ctx, uint64_t nr)
{
	assert_ptr_equal(ctx, &progress);
	assert_true(nr == atomic_load(&progress) + 1);
	atomic_store(&progress, nr);
}

static void use_msix(void)
{
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, NR_VECTORS, fds), 0);
}

static void use_intx(void)
{
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL), 0);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 1, fds), 0);
}

/* start - a controller over @fd, which is its own; a master, disabled */
static void start(int fd, uint64_t size, bool readonly)
{
	struct sim_nvme_cfg cfg = {
		.name = "nvme",
		.serial = "SERIAL-1",
		.fd = fd,
		.size = size,
		.readonly = readonly,
		.nr_io_queues = NR_IO,
		.queues = {port_read, port_write, &queues_ctx},
		.data = {port_read, port_write, &data_ctx},
		.progress = on_progress,
		.ctx = &progress,
	};

	atomic_store(&progress, 0);
	refuse(false, 0, 0);
	fill(MEM_BASE, 0, MEM_LEN);
	forget_log();
	assert_int_equal(sim_nvme_create(&cfg, &nvme), 0);
	dev = sim_nvme_dev(nvme);
	use_msix();
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void restart(int fd, uint64_t size, bool readonly, unsigned queue_size)
{
	sim_nvme_destroy(nvme);
	start(fd, size, readonly);
	enable(0, 32);
	create_pair(1, queue_size);
}

/* restart_on_pipe - Return: the end that feeds it. */
static int restart_on_pipe(unsigned queue_size)
{
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	restart(ends[0], DISK_LEN, false, queue_size);
	return ends[1];
}

static int setup(void **state)
{
	(void)state;
	m.mem = malloc(MEM_LEN);
	for (unsigned i = 0; i < NR_VECTORS; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	disk = memfd_create("disk", MFD_CLOEXEC);
	if (!m.mem || disk < 0 || ftruncate(disk, DISK_LEN))
		return -1;
	start(fcntl(disk, F_DUPFD_CLOEXEC, 0), DISK_LEN, false);
	return 0;
}

static int setup_running(void **state)
{
	if (setup(state))
		return -1;
	enable(0, 32);
	create_pair(1, 32);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sim_nvme_destroy(nvme);
	close(disk);
	for (unsigned i = 0; i < NR_VECTORS; i++)
		close(fds[i]);
	free(m.mem);
	return 0;
}

static void fill_disk(void)
{
	uint8_t *bytes = malloc(DISK_LEN);

	assert_non_null(bytes);
	for (uint64_t i = 0; i < DISK_LEN; i++)
		bytes[i] = pattern(i);
	assert_int_equal(pwrite(disk, bytes, DISK_LEN, 0), DISK_LEN);
	free(bytes);
}

/* wait_for - @what becomes @val; of what no interrupt tells */
static void wait_for(atomic_uint *what, unsigned val)
{
	uint64_t end = now_ms() + LONG;

	while (atomic_load(what) != val) {
		assert_true(now_ms() < end);
		usleep(100);
	}
}

/* wait_quiet - until the controller has fetched @nr commands in all since forget_log() */
static void wait_fetched(unsigned nr)
{
	uint64_t end = now_ms() + LONG;
	unsigned seen;

	do {
		seen = 0;
		pthread_mutex_lock(&m.lock);
		for (unsigned i = 0; i < m.nr_log; i++)
			seen += m.log[i].queues && !m.log[i].write;
		pthread_mutex_unlock(&m.lock);
		assert_true(now_ms() < end);
	} while (seen < nr);
}

/* ---- something else at the same time ------------------------------------------------------------
 */

static struct {
	pthread_t thread;
	void (*fn)(void);
	atomic_int tid;
	atomic_uint done;
} other;

static void *other_main(void *ctx)
{
	(void)ctx;
	atomic_store(&other.tid, gettid());
	other.fn();
	atomic_store(&other.done, 1);
	return NULL;
}

static void begin(void (*fn)(void))
{
	other.fn = fn;
	atomic_store(&other.tid, 0);
	atomic_store(&other.done, 0);
	assert_int_equal(pthread_create(&other.thread, NULL, other_main, NULL), 0);
}

/* Does it wait for something? proc(5), /proc/pid/stat. */
static bool sleeps(pid_t tid)
{
	char path[64], text[256], *state;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false; /* it has not begun */
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len < 0)
		return false; /* it has ended */
	text[len] = '\0';
	state = strrchr(text, ')');
	return state && state[1] == ' ' && state[2] == 'S';
}

/* It gets as far as it can. */
static void must_not_end_yet(void)
{
	uint64_t end = now_ms() + LONG;

	while (!atomic_load(&other.done) && !sleeps(atomic_load(&other.tid))) {
		assert_true(now_ms() < end);
		sched_yield();
	}
	usleep(MOMENT * 1000);
	assert_int_equal(atomic_load(&other.done), 0);
}

static void must_end(void)
{
	wait_for(&other.done, 1);
	assert_int_equal(pthread_join(other.thread, NULL), 0);
}

/* ---- registers ----------------------------------------------------------------------------------
 */

static void registers_say_what_the_controller_can_do(void **state)
{
	uint64_t cap = reg_read(NVME_CAP, 8);

	(void)state;
	assert_int_equal(FIELD_GET(NVME_CAP_MQES, cap), 255);
	assert_true(cap & NVME_CAP_CQR);
	assert_true(FIELD_GET(NVME_CAP_TO, cap) > 0);
	assert_int_equal(FIELD_GET(GENMASK(35, 32), cap), 0); /* doorbells are 4 bytes apart */
	assert_true(cap & NVME_CAP_CSS_NVM);
	assert_int_equal(FIELD_GET(NVME_CAP_MPSMIN, cap), 0);
	assert_int_equal(FIELD_GET(NVME_CAP_MPSMAX, cap), 4);
	assert_int_equal(reg_read(NVME_CAP, 4), cap & UINT32_MAX);
	assert_int_equal(reg_read(NVME_CAP + 4, 4), cap >> 32);
	assert_int_equal(reg_read(NVME_CAP + 1, 1), cap >> 8 & 0xff);
	assert_int_equal(reg_read(NVME_CAP + 6, 2), cap >> 48);
	assert_int_equal(reg_read(NVME_VS, 4), 0x10400);
	assert_int_equal(reg_read(NVME_CSTS, 4), 0);
	assert_int_equal(reg_read(NVME_CC, 4), 0);
	assert_int_equal(reg_read(NVME_DB, 4), 0);
	assert_int_equal(dev->nr_msix, NR_VECTORS);
}

static void registers_are_written_whole_or_in_halves(void **state)
{
	(void)state;
	reg_write(NVME_ASQ, 8, UINT64_C(0x123456789abcdfff));
	assert_true(reg_read(NVME_ASQ, 8) == UINT64_C(0x123456789abcd000));
	reg_write(NVME_ASQ, 4, 0x11111111);
	assert_true(reg_read(NVME_ASQ, 8) == UINT64_C(0x1234567811111000));
	reg_write(NVME_ASQ + 4, 4, 0x22222222);
	assert_true(reg_read(NVME_ASQ, 8) == UINT64_C(0x2222222211111000));
	reg_write(NVME_ACQ, 4, 0x33333333);
	reg_write(NVME_ACQ + 4, 4, 0x44444444);
	assert_true(reg_read(NVME_ACQ, 8) == UINT64_C(0x4444444433333000));
	reg_write(NVME_AQA, 4, 0xffffffff);
	assert_int_equal(reg_read(NVME_AQA, 4), 0x0fff0fff);
	reg_write(NVME_AQA, 2, 0);
	reg_write(NVME_AQA + 1, 1, 0);
	assert_int_equal(reg_read(NVME_AQA, 4), 0x0fff0fff);
	reg_write(NVME_INTMS, 4, 0xf0);
	reg_write(NVME_INTMC, 4, 0x30);
	assert_int_equal(reg_read(NVME_INTMS, 4), 0xc0);
	assert_int_equal(reg_read(NVME_INTMC, 4), 0xc0);
	reg_write(NVME_VS, 8, UINT64_MAX); /* read-only, and INTMS */
	assert_int_equal(reg_read(NVME_VS, 4), 0x10400);
	assert_int_equal(reg_read(NVME_INTMS, 4), 0xffffffff);
	reg_write(NVME_CSTS, 4, 0xffffffff);
	assert_int_equal(csts(), 0);
}

static void an_admin_queue_that_cannot_be_is_a_fatal_error(void **state)
{
	static const struct {
		uint32_t cc, aqa;
		uint64_t asq, acq;
		bool fine;
	} rows[] = {
		{CC(0), 0x00010001, 0x1000, 0x2000, true},
		{CC(0), 0x0fff0fff, 0x1000, 0x2000, true},
		{CC(0), 0x00010000, 0x1000, 0x2000, false}, /* one entry */
		{CC(0), 0x00000001, 0x1000, 0x2000, false},
		{CC(5), 0x00010001, 0, 0, false},		       /* 128 KiB pages */
		{CC(0) | 1u << 4, 0x00010001, 0x1000, 0x2000, false},  /* command set */
		{CC(0) | 1u << 11, 0x00010001, 0x1000, 0x2000, false}, /* arbitration */
		{CC(2), 0x00010001, 0x4000, 0x8000, true},
		{CC(2), 0x00010001, 0x5000, 0x8000, false},
		{CC(2), 0x00010001, 0x4000, 0x6000, false},
		{CC(4), 0x00010001, 0x10000, 0x20000, true},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		reg_write(NVME_AQA, 4, rows[i].aqa);
		reg_write(NVME_ASQ, 8, rows[i].asq);
		reg_write(NVME_ACQ, 8, rows[i].acq);
		reg_write(NVME_CC, 4, rows[i].cc);
		assert_int_equal(csts(), rows[i].fine ? NVME_CSTS_RDY : NVME_CSTS_CFS);
		reg_write(NVME_DB, 4, 1); /* nothing may come of it where it failed */
		reg_write(NVME_CC, 4, 0);
		assert_int_equal(csts(), 0);
		if (!rows[i].fine)
			assert_int_equal(nr_accesses(), 0);
		forget_log();
	}
	enable(0, 2);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
}

static void a_controller_reset_keeps_the_admin_queue_registers_only(void **state)
{
	(void)state;
	enable(0, 8);
	create_pair(1, 8);
	assert_int_equal(
		ADMIN(.opcode = NVME_ADMIN_SET_FEATURES, .cdw10 = NVME_FEATURE_WRITE_CACHE), 0);
	reg_write(NVME_INTMS, 4, 1);
	reg_write(NVME_CC, 4, 0);
	assert_int_equal(csts(), 0);
	assert_int_equal(reg_read(NVME_INTMS, 4), 0);
	assert_int_equal(reg_read(NVME_AQA, 4), 0x00070007);
	assert_true(reg_read(NVME_ASQ, 8) == admin.sq);
	enable(0, 8);
	create_pair(1, 8); /* it is not there any more */
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_GET_FEATURES,
						    .cdw10 = NVME_FEATURE_WRITE_CACHE}),
			 1);
	/* a function reset forgets these, too */
	assert_int_equal(dev->ops->reset(dev), 0);
	assert_int_equal(reg_read(NVME_AQA, 4), 0);
	assert_int_equal(reg_read(NVME_ASQ, 8), 0);
	assert_int_equal(reg_read(NVME_ACQ, 8), 0);
	assert_int_equal(reg_read(NVME_CC, 4), 0);
	assert_int_equal(csts(), 0);
}

static void nothing_is_fetched_without_bus_mastering(void **state)
{
	(void)state;
	set_command(PCI_COMMAND_MEMORY);
	enable(0, 8);
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_ABORT});
	usleep(MOMENT * 1000);
	assert_int_equal(nr_accesses(), 0);
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(reap(&admin).status, 0);
}

/* ---- identify, log pages, features --------------------------------------------------------------
 */

static void identify_tells_who_it_is(void **state)
{
	uint8_t id[4096], list[4096], desc[4096];

	(void)state;
	fill(DATA, 0xee, 4096);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA, .cdw10 = NVME_CNS_CTRL),
			 0);
	get(DATA, id, sizeof(id));
	assert_memory_equal(id + 4, "SERIAL-1            ", 20);
	assert_memory_equal(id + 24, "granule simulated NVMe                  ", 40);
	assert_int_equal(id[77], 7); /* 512 KiB */
	assert_int_equal(get_le32(id + 80), 0x10400);
	assert_int_equal(get_le16(id + 256), 0); /* OACS: no shadow doorbells, no formatting, ... */
	assert_int_equal(id[512], 0x66);
	assert_int_equal(id[513], 0x44);
	assert_int_equal(get_le32(id + 516), 1);
	assert_int_equal(get_le16(id + 520), 0x0c);
	assert_int_equal(id[525] & 1, 1);
	assert_int_equal(get_le32(id + 536), 0); /* no SGLs */
	assert_memory_equal(id + 768, "nqn.2014-08.org.nvmexpress:uuid:", 32);
	assert_int_equal(strnlen((char *)id + 768, 256), 32 + 36);

	/* the namespace, across a page */
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = 1, .prp1 = DATA + 0x800,
			       .prp2 = DATA + 0x5000, .cdw10 = NVME_CNS_NS),
			 0);
	get(DATA + 0x800, id, 0x800);
	get(DATA + 0x5000, id + 0x800, 0x800);
	assert_int_equal(get_le64(id), DISK_BLOCKS);
	assert_int_equal(get_le64(id + 8), DISK_BLOCKS);
	assert_int_equal(get_le64(id + 16), DISK_BLOCKS);
	assert_int_equal(id[33], 9);
	assert_int_equal(id[99], 0);
	assert_int_equal(get_le32(id + 128), 9 << 16);
	for (unsigned i = 0x800; i < 0x1000; i++)
		assert_int_equal(id[i], 0);

	assert_int_equal(
		ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA, .cdw10 = NVME_CNS_ACTIVE_NS), 0);
	get(DATA, list, sizeof(list));
	assert_int_equal(get_le32(list), 1);
	assert_int_equal(get_le32(list + 4), 0);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = 1, .prp1 = DATA,
			       .cdw10 = NVME_CNS_ACTIVE_NS),
			 0);
	get(DATA, list, sizeof(list));
	assert_int_equal(get_le32(list), 0);

	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = 1, .prp1 = DATA,
			       .cdw10 = NVME_CNS_NS_DESC),
			 0);
	get(DATA, desc, sizeof(desc));
	assert_int_equal(desc[0], 3);
	assert_int_equal(desc[1], 16);
	assert_int_equal(desc[10] >> 4, 8); /* version and variant of a UUID */
	assert_int_equal(desc[12] >> 6, 2);
	assert_int_equal(get_le64(desc + 20), 0);
}

static void identify_refuses_what_it_does_not_know(void **state)
{
	static const struct {
		uint32_t cns, nsid;
		unsigned status;
	} rows[] = {
		{NVME_CNS_NS, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_CNS_NS, 2, NVME_SC_INVALID_NAMESPACE},
		{NVME_CNS_NS, NVME_NSID_ALL, NVME_SC_INVALID_NAMESPACE},
		{NVME_CNS_NS_DESC, 2, NVME_SC_INVALID_NAMESPACE},
		{NVME_CNS_ACTIVE_NS, NVME_NSID_ALL, NVME_SC_INVALID_NAMESPACE},
		{NVME_CNS_ACTIVE_NS, NVME_NSID_ALL - 1, NVME_SC_INVALID_NAMESPACE},
		{4, 1, NVME_SC_INVALID_FIELD},
		{5, 1, NVME_SC_INVALID_FIELD},
		{6, 0, NVME_SC_INVALID_FIELD},
		{0x10, 0, NVME_SC_INVALID_FIELD},
		{0xff, 0, NVME_SC_INVALID_FIELD},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = rows[i].nsid,
				       .prp1 = DATA, .cdw10 = rows[i].cns),
				 rows[i].status);
}

static unsigned get_log(unsigned id, uint32_t len, uint64_t off, uint32_t nsid)
{
	uint32_t dwords = len / 4 - 1;

	fill(DATA, 0xee, 8192);
	return ADMIN(.opcode = NVME_ADMIN_GET_LOG, .nsid = nsid, .prp1 = DATA, .prp2 = DATA + 4096,
		     .cdw10 = id | dwords << 16, .cdw11 = dwords >> 16, .cdw12 = (uint32_t)off,
		     .cdw13 = (uint32_t)(off >> 32));
}

static void log_pages_are_there_and_end_in_zeroes(void **state)
{
	uint8_t log[8192];

	(void)state;
	assert_int_equal(get_log(NVME_LOG_SMART, 512, 0, NVME_NSID_ALL), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(log[0], 0);
	assert_int_equal(get_le16(log + 1), 300);
	assert_int_equal(log[3], 100);
	assert_int_equal(get_le64(log + 64), 0);
	assert_int_equal(log[512], 0xee);
	/* reads and writes are counted */
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .cdw12 = 1), 0);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA), 0);
	assert_int_equal(get_log(NVME_LOG_SMART, 512, 0, 0), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(get_le64(log + 32), 1);
	assert_int_equal(get_le64(log + 64), 1);
	assert_int_equal(get_le64(log + 80), 1);
	/* from an offset, past the end: nothing of earlier commands' data */
	fill(DATA, 0xee, 4096);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA, .cdw12 = 7), 0);
	assert_int_equal(get_log(NVME_LOG_SMART, 1024, 64, NVME_NSID_ALL), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(get_le64(log), 1);
	assert_int_equal(log[448], 0);
	assert_int_equal(log[1023], 0);
	assert_int_equal(log[1024], 0xee);
	assert_int_equal(get_log(NVME_LOG_FIRMWARE, 512, 0, 0), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(log[0], 1);
	assert_memory_equal(log + 8, "1       ", 8);
	assert_int_equal(get_log(NVME_LOG_ERROR, 64, 0, 0), 0);
	assert_int_equal(get_log(NVME_LOG_EFFECTS, 4096, 0, 0), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(get_le32(log + 4 * NVME_ADMIN_IDENTIFY), 1);
	assert_int_equal(get_le32(log + 4 * 0x7c), 0);
	assert_int_equal(get_le32(log + 1024 + 4 * NVME_IO_READ), 1);
	assert_int_equal(get_le32(log + 1024 + 4 * NVME_IO_WRITE), 3);
	assert_int_equal(get_le32(log + 1024 + 4 * 5), 0);

	assert_int_equal(get_log(NVME_LOG_EFFECTS, 4096, 1024, 0), 0);
	get(DATA, log, sizeof(log));
	assert_int_equal(get_le32(log + 4 * NVME_IO_WRITE), 3);
	for (unsigned i = 1024; i < 4096; i++)
		assert_int_equal(log[i], 0);

	assert_int_equal(get_log(4, 512, 0, 0), NVME_SC_LOG_PAGE);
	assert_int_equal(get_log(0xc0, 512, 0, 0), NVME_SC_LOG_PAGE);
	assert_int_equal(get_log(NVME_LOG_SMART, 512, 0, 1), NVME_SC_INVALID_FIELD);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 516, 0), NVME_SC_INVALID_FIELD);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 2, 0), NVME_SC_INVALID_FIELD);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, UINT64_MAX - 3, 0), NVME_SC_INVALID_FIELD);
	assert_int_equal(get_log(NVME_LOG_SMART, MAX_LEN + 4, 0, 0), NVME_SC_INVALID_FIELD);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_GET_LOG, .prp1 = DATA,
			       .cdw10 = NVME_LOG_SMART | 0xffff0000, .cdw11 = 0xffff),
			 NVME_SC_INVALID_FIELD);
}

static void features_keep_what_they_are_set_to(void **state)
{
	static const struct {
		uint32_t id, nsid, was, val, is;
	} rows[] = {
		{NVME_FEATURE_ARBITRATION, 0, 0, 0x01020307, 0x01020307},
		{NVME_FEATURE_POWER, 0, 0, 0, 0},
		{NVME_FEATURE_TEMPERATURE, 0, 343, 400, 400},
		{NVME_FEATURE_ERROR_RECOVERY, 1, 0, 0x1234, 0x1234},
		{NVME_FEATURE_WRITE_CACHE, 0, 1, 0, 0},
		{NVME_FEATURE_WRITE_CACHE, NVME_NSID_ALL, 0, 1, 1},
		{NVME_FEATURE_COALESCING, 0, 0, 0x0205, 0x0205},
		{NVME_FEATURE_WRITE_ATOMICITY, 0, 0, 1, 1},
		{NVME_FEATURE_ASYNC_EVENTS, 0, 0, 0x1f, 0x1f},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct command read = {.opcode = NVME_ADMIN_GET_FEATURES,
				       .nsid = rows[i].nsid,
				       .cdw10 = rows[i].id};

		assert_int_equal(admin_dw0(read), rows[i].was);
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_SET_FEATURES, .nsid = rows[i].nsid,
				       .cdw10 = rows[i].id, .cdw11 = rows[i].val),
				 0);
		assert_int_equal(admin_dw0(read), rows[i].is);
	}
	/* by vector */
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_SET_FEATURES, .cdw10 = NVME_FEATURE_VECTOR,
			       .cdw11 = 0x10000 | NR_IO),
			 0);
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_GET_FEATURES,
						    .cdw10 = NVME_FEATURE_VECTOR,
						    .cdw11 = NR_IO}),
			 0x10000 | NR_IO);
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_GET_FEATURES,
						    .cdw10 = NVME_FEATURE_VECTOR,
						    .cdw11 = 0}),
			 0);
}

static void features_refuse_what_cannot_be(void **state)
{
	static const struct {
		uint8_t opcode;
		uint32_t nsid, cdw10, cdw11;
		unsigned status;
	} rows[] = {
		{NVME_ADMIN_SET_FEATURES, 0, 0, 0, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, 3, 0, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, 0x0d, 0, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, 0x81, 0, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_POWER, 1, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_TEMPERATURE, 0x10000,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_TEMPERATURE, 0x200000,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_VECTOR, NR_VECTORS,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 1, NVME_FEATURE_ERROR_RECOVERY, 0x10000,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_ERROR_RECOVERY, 0,
		 NVME_SC_INVALID_NAMESPACE},
		{NVME_ADMIN_SET_FEATURES, 2, NVME_FEATURE_WRITE_CACHE, 0,
		 NVME_SC_INVALID_NAMESPACE},
		{NVME_ADMIN_SET_FEATURES, 1, NVME_FEATURE_WRITE_CACHE, 0,
		 NVME_SC_NOT_PER_NAMESPACE},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_WRITE_CACHE | 1u << 31, 0,
		 NVME_SC_NOT_SAVEABLE},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_NR_QUEUES, 0x0000ffff,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_NR_QUEUES, 0xffff0000,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_SET_FEATURES, 0, NVME_FEATURE_NR_QUEUES, 0, NVME_SC_SEQUENCE},
		{NVME_ADMIN_GET_FEATURES, 0, 3, 0, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_GET_FEATURES, 0, NVME_FEATURE_WRITE_CACHE | 1u << 8, 0,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_GET_FEATURES, 0, NVME_FEATURE_TEMPERATURE, 0xf0000,
		 NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_GET_FEATURES, 0, NVME_FEATURE_VECTOR, 0xffff, NVME_SC_INVALID_FIELD},
		{NVME_ADMIN_GET_FEATURES, 0, NVME_FEATURE_ERROR_RECOVERY, 0,
		 NVME_SC_INVALID_NAMESPACE},
		{NVME_ADMIN_GET_FEATURES, 2, NVME_FEATURE_WRITE_CACHE, 0,
		 NVME_SC_INVALID_NAMESPACE},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(ADMIN(.opcode = rows[i].opcode, .nsid = rows[i].nsid,
				       .cdw10 = rows[i].cdw10, .cdw11 = rows[i].cdw11),
				 rows[i].status);
}

static void the_number_of_queues_is_what_there_are(void **state)
{
	(void)state;
	enable(0, 8);
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_SET_FEATURES,
						    .cdw10 = NVME_FEATURE_NR_QUEUES,
						    .cdw11 = 0x00630063}),
			 (NR_IO - 1) << 16 | (NR_IO - 1));
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_GET_FEATURES,
						    .cdw10 = NVME_FEATURE_NR_QUEUES}),
			 (NR_IO - 1) << 16 | (NR_IO - 1));
}

static void a_temperature_past_its_threshold_is_a_warning(void **state)
{
	static const struct {
		uint32_t cdw11;
		uint8_t warning;
	} rows[] = {{301, 0}, {300, 2}, {343, 0}, {0x100000 | 300, 2}, {0x100000 | 299, 0}};
	uint8_t warning;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_SET_FEATURES,
				       .cdw10 = NVME_FEATURE_TEMPERATURE, .cdw11 = rows[i].cdw11),
				 0);
		assert_int_equal(get_log(NVME_LOG_SMART, 512, 0, 0), 0);
		get(DATA, &warning, 1);
		assert_int_equal(warning, rows[i].warning);
	}
}

static void commands_that_do_not_exist_are_invalid(void **state)
{
	static const uint8_t bad_admin[] = {0x03, 0x0d, 0x10, 0x11, 0x18, 0x7c, 0x7f, 0x80, 0xff};
	static const uint8_t bad_io[] = {0x04, 0x05, 0x06, 0x0c, 0x0d, 0x80, 0xff};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad_admin); i++)
		assert_int_equal(ADMIN(.opcode = bad_admin[i]), NVME_SC_INVALID_OPCODE);
	for (unsigned i = 0; i < ARRAY_SIZE(bad_io); i++)
		assert_int_equal(IO(.opcode = bad_io[i], .nsid = 1), NVME_SC_INVALID_OPCODE);
	/* fused, or with an SGL */
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1, .flags = 1), NVME_SC_INVALID_FIELD);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1, .flags = 2), NVME_SC_INVALID_FIELD);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .flags = 0x40),
			 NVME_SC_INVALID_FIELD);
	assert_int_equal(
		ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA, .cdw10 = 1, .flags = 0x80),
		NVME_SC_INVALID_FIELD);
	/* nothing can be aborted any more */
	assert_int_equal(admin_dw0((struct command){.opcode = NVME_ADMIN_ABORT, .cdw10 = 1}), 1);
}

/* ---- queues -------------------------------------------------------------------------------------
 */

static void queues_are_created_only_as_they_can_be(void **state)
{
	enum { CQ = NVME_ADMIN_CREATE_CQ, SQ = NVME_ADMIN_CREATE_SQ };
	static const struct {
		uint8_t opcode;
		uint32_t cdw10, cdw11;
		uint64_t prp1;
		unsigned status;
	} rows[] = {
		{CQ, 0x00070000, 1, DATA, NVME_SC_QID_INVALID},
		{CQ, 0x00070004, 1, DATA, NVME_SC_QID_INVALID},
		{CQ, 0x0007ffff, 1, DATA, NVME_SC_QID_INVALID},
		{CQ, 0x00070001, 1, DATA, NVME_SC_QID_INVALID}, /* there is one */
		{CQ, 0x00000002, 1, DATA, NVME_SC_QUEUE_SIZE},
		{CQ, 0x01000002, 1, DATA, NVME_SC_QUEUE_SIZE},
		{CQ, 0xffff0002, 1, DATA, NVME_SC_QUEUE_SIZE},
		{CQ, 0x00070002, 0, DATA, NVME_SC_INVALID_FIELD}, /* not contiguous */
		{CQ, 0x00070002, 1, DATA + 0x10, NVME_SC_PRP_OFFSET},
		{CQ, 0x00070002, 3 | 4 << 16, DATA, NVME_SC_VECTOR},
		{SQ, 0x00070002, 1 | 2 << 16, DATA, NVME_SC_CQ_INVALID},
		{CQ, 0x00ff0002, 3 | 3 << 16, DATA, 0},
		{SQ, 0x00070000, 1 | 2 << 16, DATA, NVME_SC_QID_INVALID},
		{SQ, 0x00070004, 1 | 2 << 16, DATA, NVME_SC_QID_INVALID},
		{SQ, 0x00070001, 1 | 2 << 16, DATA, NVME_SC_QID_INVALID},
		{SQ, 0x00070002, 1 | 0 << 16, DATA, NVME_SC_QID_INVALID},
		{SQ, 0x00070002, 1 | 4 << 16, DATA, NVME_SC_QID_INVALID},
		{SQ, 0x00070002, 1 | 3 << 16, DATA, NVME_SC_CQ_INVALID},
		{SQ, 0x00000002, 1 | 2 << 16, DATA, NVME_SC_QUEUE_SIZE},
		{SQ, 0x01000002, 1 | 2 << 16, DATA, NVME_SC_QUEUE_SIZE},
		{SQ, 0x00070002, 0 | 2 << 16, DATA, NVME_SC_INVALID_FIELD},
		{SQ, 0x00070002, 1 | 2 << 16, DATA + 0x800, NVME_SC_PRP_OFFSET},
		{SQ, 0x00ff0002, 1 | 2 << 16, DATA, 0},
		{SQ, 0x00ff0002, 1 | 2 << 16, DATA, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_CQ, 2, 0, 0, NVME_SC_QUEUE_DELETION},
		{NVME_ADMIN_DELETE_CQ, 3, 0, 0, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_CQ, 0, 0, 0, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_SQ, 0, 0, 0, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_SQ, 4, 0, 0, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_SQ, 2, 0, 0, 0},
		{NVME_ADMIN_DELETE_SQ, 2, 0, 0, NVME_SC_QID_INVALID},
		{NVME_ADMIN_DELETE_CQ, 2, 0, 0, 0},
		{NVME_ADMIN_DELETE_CQ, 2, 0, 0, NVME_SC_QID_INVALID},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(ADMIN(.opcode = rows[i].opcode, .prp1 = rows[i].prp1,
				       .cdw10 = rows[i].cdw10, .cdw11 = rows[i].cdw11),
				 rows[i].status);
	/* CC has to say how large entries are, which it may do late */
	reg_write(NVME_CC, 4, CC(0) & ~(0xfu << 20));
	assert_int_equal(ADMIN(.opcode = CQ, .prp1 = DATA, .cdw10 = 0x00070002, .cdw11 = 1),
			 NVME_SC_QUEUE_SIZE);
	reg_write(NVME_CC, 4, CC(0));
	assert_int_equal(ADMIN(.opcode = CQ, .prp1 = DATA, .cdw10 = 0x00070002, .cdw11 = 1), 0);
	reg_write(NVME_CC, 4, CC(0) & ~(0xfu << 16));
	assert_int_equal(
		ADMIN(.opcode = SQ, .prp1 = DATA, .cdw10 = 0x00070002, .cdw11 = 1 | 2 << 16),
		NVME_SC_QUEUE_SIZE);
}

static void queues_wrap_and_phases_turn(void **state)
{
	(void)state;
	enable(0, 2); /* one entry at a time */
	create_pair(1, 5);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1 + i % 2),
				 i % 2 ? NVME_SC_INVALID_NAMESPACE : 0);
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	}
	/* four at a time, as many as fit */
	for (unsigned i = 0; i < 40; i++) {
		for (unsigned j = 0; j < 4; j++)
			queue_up(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
		ring_sq(&io[1]);
		for (unsigned j = 0; j < 4; j++)
			assert_int_equal(reap(&io[1]).status, 0);
		assert_true(empty(&io[1]));
	}
}

static void a_full_completion_queue_holds_commands_back(void **state)
{
	struct completion c;

	(void)state;
	/* three submission queues on one completion queue of 4 entries */
	init_queue(&io[2], 2, 4);
	io[2].vector = 2;
	assert_int_equal(create_cq(&io[2], 3), 0);
	init_queue(&io[3], 3, 32);
	assert_int_equal(create_sq(&io[2], 2), 0);
	assert_int_equal(create_sq(&io[3], 2), 0);
	forget_log();
	for (unsigned i = 0; i < 3; i++)
		queue_up(&io[2], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	for (unsigned i = 0; i < 31; i++)
		queue_up(&io[3], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	ring_sq(&io[2]);
	ring_sq(&io[3]);
	for (unsigned i = 0; i < 34; i++) {
		struct queue *cq = &io[2];

		/* others are served meanwhile */
		assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
		c = reap_only(cq);
		assert_int_equal(c.status, 0);
		if (i % 3 == 2) { /* all that fit are there, and no more */
			usleep(i < 6 ? MOMENT * 1000 : 0);
			assert_true(empty(cq));
			ring_cq(cq);
		}
	}
	ring_cq(&io[2]);
	usleep(MOMENT * 1000);
	assert_true(empty(&io[2]));
}

static void room_in_a_completion_queue_is_enough_to_go_on(void **state)
{
	(void)state;
	init_queue(&io[2], 2, 2); /* one completion at a time */
	assert_int_equal(create_cq(&io[2], 3), 0);
	init_queue(&io[3], 3, 8);
	assert_int_equal(create_sq(&io[3], 2), 0);
	for (unsigned i = 0; i < 7; i++)
		queue_up(&io[3], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	ring_sq(&io[3]);
	for (unsigned i = 0; i < 7; i++) {
		struct completion c = reap(&io[2]);

		assert_int_equal(c.status, 0);
		assert_int_equal(c.sq_head, i + 1); /* what has been fetched, no more */
	}
}

static void take_at_once(void)
{
	reg_write(NVME_DB + 8 + 4, 4, 1);
}

/* A driver that polls takes an entry as soon as it is in memory. */
static void an_entry_may_be_taken_before_its_interrupt(void **state)
{
	struct completion c;

	(void)state;
	enable_again(2);
	use_intx();
	for (unsigned i = 0; i < NR_VECTORS; i++)
		(void)fired(i);
	watch(io[1].cq + 8, 8, take_at_once);
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	while (!peek(&io[1], &c))
		usleep(100);
	watch(0, 0, NULL);
	assert_int_equal(c.status, 0);
	/* there was room for it and nothing to complain about; its line is not up for nothing */
	io[1].vector = 0;
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
	dev->ops->unmask_intx(dev);
	admin.vector = 0;
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_AER});
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	assert_true(empty(&admin));
	dev->ops->unmask_intx(dev);
	(void)fired(0);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
}

static void many_commands_at_once_all_complete_once(void **state)
{
	bool seen[0x10000] = {false};
	uint16_t first;
	uint8_t got[512], want[512];

	(void)state;
	fill_disk();
	create_pair(2, 256);
	create_pair(3, 256);
	first = next_cid;
	/* more than are ever under way, over queues that all complete on their own */
	for (unsigned q = 2; q <= 3; q++)
		for (unsigned i = 0; i < 255; i++)
			queue_up(&io[q],
				 &(struct command){.opcode = NVME_IO_READ,
						   .nsid = 1,
						   .prp1 = DATA + (q * 256 + i) * 512,
						   .cdw10 = (q * 256 + i) * 5 % DISK_BLOCKS});
	ring_sq(&io[2]);
	ring_sq(&io[3]);
	for (unsigned q = 2; q <= 3; q++)
		for (unsigned i = 0; i < 255; i++) {
			struct completion c = reap(&io[q]);

			assert_int_equal(c.status, 0);
			assert_int_equal(c.sq_id, q);
			assert_false(seen[c.cid]);
			seen[c.cid] = true;
		}
	for (uint16_t cid = first; cid != next_cid; cid++)
		assert_true(seen[(uint16_t)(cid + 1)]);
	for (unsigned q = 2; q <= 3; q++)
		for (unsigned i = 0; i < 255; i++) {
			uint64_t block = (q * 256 + i) * 5 % DISK_BLOCKS;

			for (unsigned b = 0; b < 512; b++)
				want[b] = pattern(block * 512 + b);
			get(DATA + (q * 256 + i) * 512, got, 512);
			assert_memory_equal(got, want, 512);
		}
	assert_true(atomic_load(&progress) == 510);
}

static void data_are_there_before_the_entry_and_the_entry_before_the_interrupt(void **state)
{
	const struct access *log;
	unsigned n;

	(void)state;
	(void)fired(0);
	(void)fired(1);
	forget_log();
	submit(&io[1], &(struct command){.opcode = NVME_IO_READ,
					 .nsid = 1,
					 .prp1 = DATA,
					 .prp2 = DATA + 4096,
					 .cdw12 = 15});
	wait_for_events(); /* it alone tells */
	n = nr_accesses();
	log = m.log;
	assert_int_equal(n, 5);
	assert_true(log[0].queues && !log[0].write && log[0].len == 64);
	assert_true(!log[1].queues && log[1].write && log[1].addr == DATA);
	assert_true(!log[2].queues && log[2].write && log[2].addr == DATA + 4096);
	/* the phase bit is in the last word */
	assert_true(log[3].queues && log[3].write && log[3].addr == io[1].cq && log[3].len == 8);
	assert_true(log[4].queues && log[4].write && log[4].addr == io[1].cq + 8 &&
		    log[4].len == 8);
	for (unsigned i = 0; i < n; i++)
		assert_false(log[i].signalled);
	assert_int_equal(reap(&io[1]).status, 0);
}

static void commands_complete_as_they_end(void **state)
{
	int feed = restart_on_pipe(8);
	uint8_t block[512] = {1};
	uint16_t slow;

	(void)state;
	slow = submit(&io[1], &(struct command){.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA});
	for (unsigned i = 0; i < 20; i++) { /* past it, round and round */
		uint16_t cid =
			submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 2});
		struct completion c = reap(&io[1]);

		assert_int_equal(c.cid, cid);
		assert_int_equal(c.sq_head, io[1].tail);
	}
	assert_int_equal(write(feed, block, sizeof(block)), sizeof(block));
	assert_int_equal(reap(&io[1]).cid, slow);
	close(feed);
}

/* ---- data ---------------------------------------------------------------------------------------
 */

/* Shapes of PRPs, drawn from a page size: where data start in their first page, how long they are,
 * where the list starts in its page. */
static const struct shape {
	unsigned first, blocks, list;
} shapes[] = {
	{0, 1, 0},	     {512, 1, 0},    {0, 8, 0},	     {2048, 4, 0},    {2048, 5, 0},
	{4, 8, 0},	     {4092, 1, 0},   {0, 16, 0},     {0, 17, 0},      {3584, 17, 0},
	{0, 256, 0},	     {0, 1024, 0},   {4, 1024, 0},   {0, 1024, 0x20}, {0, 1024, 0xff8},
	{0, 64, 0xff8},	     {0, 24, 0xff8}, {0, 24, 0xff0}, {0, 32, 0xff0},  {512, 1023, 0xf80},
	{4092, 1024, 0xfe8},
};

/* make_prps - scatter @len bytes over pages that are far apart; @page: bytes */
static void make_prps(struct command *c, const struct shape *s, unsigned page, uint64_t *pages,
		      unsigned *nr)
{
	unsigned len = s->blocks * 512, first = s->first;
	uint64_t list = LISTS + s->list + (page > 4096 ? page - 4096 : 0) * !!s->list;
	unsigned stride = page * 2;

	*nr = (first + len + page - 1) / page;
	for (unsigned i = 0; i < *nr; i++) /* backwards, every other page */
		pages[i] = DATA + (uint64_t)(*nr - 1 - i) * stride;
	c->prp1 = pages[0] + first;
	c->prp2 = *nr == 2 ? pages[1] : *nr > 2 ? list : UINT64_MAX;
	if (*nr <= 2)
		return;
	for (unsigned i = 1; i < *nr; i++, list += 8) {
		if ((list + 8) % page == 0 && i + 1 < *nr) {
			uint64_t next = (list & ~(uint64_t)(page - 1)) + 2 * page;

			put64(list, next);
			list = next;
		}
		put64(list, pages[i]);
	}
}

static void copy_shape(const struct shape *s, unsigned page, const uint64_t *pages, uint8_t *buf,
		       bool to_memory)
{
	unsigned len = s->blocks * 512, first = s->first;

	for (unsigned i = 0, pos = 0; pos < len; i++, first = 0) {
		unsigned n = MIN(page - first, len - pos);

		if (to_memory)
			put(pages[i] + first, buf + pos, n);
		else
			get(pages[i] + first, buf + pos, n);
		pos += n;
	}
}

static void prps_of_every_shape_lead_to_the_data(void **state)
{
	uint8_t *want = malloc(MAX_LEN), *got = malloc(MAX_LEN);
	uint64_t pages[140];
	unsigned nr;

	(void)state;
	assert_true(want && got);
	for (unsigned mps = 0; mps <= 4; mps += 2) {
		unsigned page = 4096u << mps;

		reg_write(NVME_CC, 4, 0);
		enable(mps, 8);
		create_pair(1, 8);
		for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
			const struct shape *s = &shapes[i];
			unsigned len = s->blocks * 512;
			struct command c = {.opcode = NVME_IO_WRITE,
					    .nsid = 1,
					    .cdw10 = 7 + i,
					    .cdw12 = s->blocks - 1};

			for (unsigned b = 0; b < len; b++)
				want[b] = pattern(b + 77 * i + mps);
			fill(DATA, 0xee, LISTS - DATA);
			make_prps(&c, s, page, pages, &nr);
			copy_shape(s, page, pages, want, true);
			assert_int_equal(run(&io[1], &c), 0);
			assert_int_equal(pread(disk, got, len, (7 + i) * 512), len);
			assert_memory_equal(got, want, len);

			/* and back: only there */
			fill(DATA, 0xee, LISTS - DATA);
			c.opcode = NVME_IO_READ;
			assert_int_equal(run(&io[1], &c), 0);
			copy_shape(s, page, pages, got, false);
			assert_memory_equal(got, want, len);
			memset(got, 0xee, len);
			copy_shape(s, page, pages, got, true);
			for (uint64_t at = 0; at < LISTS - DATA; at++)
				if (m.mem[DATA - MEM_BASE + at] != 0xee)
					fail_msg("page %u, shape %u: touched %#lx", page, i,
						 (unsigned long)at);
		}
	}
	free(want);
	free(got);
}

static void prps_that_cannot_be_are_refused(void **state)
{
	static const struct {
		uint64_t prp1, prp2;
		unsigned blocks, status;
	} rows[] = {
		{DATA + 1, 0, 1, NVME_SC_PRP_OFFSET},
		{DATA + 2, 0, 1, NVME_SC_PRP_OFFSET},
		{DATA, DATA + 0x1200, 16, NVME_SC_PRP_OFFSET},
		{DATA, LISTS + 0x3004, 24, NVME_SC_PRP_OFFSET}, /* though what it holds would do */
		{DATA, LISTS, 24, NVME_SC_PRP_OFFSET},		/* an entry inside a page */
		{DATA, LISTS + 0x1ff8, 32, NVME_SC_PRP_OFFSET}, /* so is the next list */
		{0x1000, 0, 1, NVME_SC_TRANSFER},
		{UINT64_MAX & ~UINT64_C(0xfff), 0, 8, NVME_SC_TRANSFER},
		{MEM_BASE + MEM_LEN - 4096, MEM_BASE + MEM_LEN, 16, NVME_SC_TRANSFER},
		{DATA, 0x1000, 16, NVME_SC_TRANSFER},
		{DATA, 0x1000, 24, NVME_SC_TRANSFER},
		{DATA, LISTS + 0x2000, 32, NVME_SC_TRANSFER}, /* the third page is nowhere */
		{DATA, LISTS + 0x2000, 1025, NVME_SC_INVALID_FIELD},
		{DATA, LISTS + 0x2000, 65536 / 16, NVME_SC_INVALID_FIELD},
	};

	(void)state;
	put64(LISTS, DATA + 0x1008);
	put64(LISTS + 0x3004, DATA + 0x1000);
	put64(LISTS + 0x300c, DATA + 0x2000);
	put64(LISTS + 0x1ff8, LISTS + 0x2ff8);
	put64(LISTS + 0x2000, DATA + 0x1000);
	put64(LISTS + 0x2008, 0x7000);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		static const uint8_t opcodes[] = {NVME_IO_READ, NVME_IO_WRITE};

		for (unsigned j = 0; j < 2; j++)
			assert_int_equal(IO(.opcode = opcodes[j], .nsid = 1, .prp1 = rows[i].prp1,
					    .prp2 = rows[i].prp2, .cdw12 = rows[i].blocks - 1),
					 rows[i].status);
	}
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = 0x1000, .cdw10 = 1),
			 NVME_SC_TRANSFER);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA + 3, .cdw10 = 1),
			 NVME_SC_PRP_OFFSET);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA + 4, .prp2 = DATA + 8,
			       .cdw10 = 1),
			 NVME_SC_PRP_OFFSET);
	assert_int_equal(csts(), NVME_CSTS_RDY);
}

static void blocks_and_namespaces_that_are_not_there_are_refused(void **state)
{
	static const struct {
		uint8_t opcode;
		uint32_t nsid, low, high, nlb;
		unsigned status;
	} rows[] = {
		{NVME_IO_READ, 0, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_READ, 2, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_READ, NVME_NSID_ALL, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_READ, 1, DISK_BLOCKS - 1, 0, 0, 0},
		{NVME_IO_READ, 1, DISK_BLOCKS - 1, 0, 1, NVME_SC_LBA_RANGE},
		{NVME_IO_READ, 1, DISK_BLOCKS, 0, 0, NVME_SC_LBA_RANGE},
		{NVME_IO_READ, 1, 0, 1, 0, NVME_SC_LBA_RANGE},
		{NVME_IO_READ, 1, 0xffffffff, 0xffffffff, 0, NVME_SC_LBA_RANGE},
		{NVME_IO_WRITE, 2, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_WRITE, 1, DISK_BLOCKS, 0, 0, NVME_SC_LBA_RANGE},
		{NVME_IO_WRITE, 1, DISK_BLOCKS - 1, 0, 0, 0},
		{NVME_IO_WRITE_ZEROES, NVME_NSID_ALL, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_WRITE_ZEROES, 1, DISK_BLOCKS - 4, 0, 4, NVME_SC_LBA_RANGE},
		{NVME_IO_WRITE_ZEROES, 1, DISK_BLOCKS - 4, 0, 3, 0},
		{NVME_IO_FLUSH, 0, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_FLUSH, 2, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
		{NVME_IO_FLUSH, 1, 0, 0, 0, 0},
		{NVME_IO_FLUSH, NVME_NSID_ALL, 0, 0, 0, 0},
		{NVME_IO_DSM, 0, 0, 0, 0, NVME_SC_INVALID_NAMESPACE},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(IO(.opcode = rows[i].opcode, .nsid = rows[i].nsid, .prp1 = DATA,
				    .cdw10 = rows[i].low, .cdw11 = rows[i].high,
				    .cdw12 = rows[i].nlb),
				 rows[i].status);
}

/* count_bytes - of blocks [first, first + nr) of the disk that are not as they were */
static unsigned count_changed(unsigned first, unsigned nr)
{
	unsigned changed = 0;
	uint8_t block[512];

	for (unsigned i = first; i < first + nr; i++) {
		assert_int_equal(pread(disk, block, 512, i * 512), 512);
		for (unsigned b = 0; b < 512; b++)
			changed += block[b] != pattern(i * 512 + b);
	}
	return changed;
}

static void check_zero(unsigned first, unsigned nr)
{
	static const uint8_t zeroes[512];
	uint8_t block[512];

	for (unsigned i = first; i < first + nr; i++) {
		assert_int_equal(pread(disk, block, 512, i * 512), 512);
		assert_memory_equal(block, zeroes, 512);
	}
}

static void put_range(unsigned i, uint32_t attributes, uint32_t nr, uint64_t first)
{
	uint8_t range[16];

	put_le32(range, attributes);
	put_le32(range + 4, nr);
	put_le64(range + 8, first);
	put(DATA + i * 16, range, 16);
}

static void zeroes_and_deallocated_blocks_read_as_zeroes(void **state)
{
	struct stat before, after;

	(void)state;
	fill_disk();
	fstat(disk, &before);
	assert_int_equal(
		IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1, .cdw10 = 5, .cdw12 = 2 | 1u << 30),
		0);
	check_zero(5, 3);
	assert_int_equal(count_changed(0, 5), 0);
	assert_int_equal(count_changed(8, 100), 0);
	/* more than a transfer can be */
	assert_int_equal(IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1, .cdw10 = 100,
			    .cdw12 = 1999 | 1u << 25),
			 0);
	check_zero(100, 2000);
	assert_int_equal(count_changed(8, 92), 0);
	assert_int_equal(count_changed(2100, 100), 0);

	put_range(0, 0, 10, 3000);
	put_range(1, 0, 0, 3500);
	put_range(2, 7, 100, DISK_BLOCKS - 100);
	put_range(3, 0, 50, 3600); /* not asked for */
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw10 = 2, .cdw11 = 4),
			 0);
	check_zero(3000, 10);
	check_zero(DISK_BLOCKS - 100, 100);
	assert_int_equal(count_changed(3010, DISK_BLOCKS - 100 - 3010), 0);
	fstat(disk, &after);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(after.st_size, before.st_size);

	/* advice that is no deallocation */
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw10 = 3, .cdw11 = 3),
			 0);
	assert_int_equal(count_changed(3600, 50), 0);
	/* none of it is done if one range cannot be */
	put_range(0, 0, 10, 3700);
	put_range(1, 0, 2, DISK_BLOCKS - 1);
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw10 = 1, .cdw11 = 4),
			 NVME_SC_LBA_RANGE);
	assert_int_equal(count_changed(3700, 10), 0);
	/* all 256 ranges, across a page */
	for (unsigned i = 0; i < 256; i++)
		put_range(i, 0, 1, 3700 + i);
	assert_int_equal(
		IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw10 = 255, .cdw11 = 4), 0);
	check_zero(3700, 256);
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA + 16, .prp2 = 0x1000,
			    .cdw10 = 255, .cdw11 = 4),
			 NVME_SC_TRANSFER);
}

static void a_write_protected_namespace_is_not_written(void **state)
{
	uint8_t id[4096];

	(void)state;
	fill_disk();
	restart(fcntl(disk, F_DUPFD_CLOEXEC, 0), DISK_LEN, true, 8);
	assert_int_equal(
		ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = 1, .prp1 = DATA, .cdw10 = NVME_CNS_NS),
		0);
	get(DATA, id, sizeof(id));
	assert_int_equal(id[99], 1);
	fill(DATA, 0x55, 4096);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA),
			 NVME_SC_WRITE_PROTECTED);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1), NVME_SC_WRITE_PROTECTED);
	put_range(0, 0, 8, 0);
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw11 = 4),
			 NVME_SC_WRITE_PROTECTED);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA), 0);
	assert_int_equal(count_changed(0, DISK_BLOCKS), 0);
}

static void what_the_file_cannot_do_is_a_media_error(void **state)
{
	int feed;

	(void)state;
	/* it ends too early */
	assert_int_equal(ftruncate(disk, 1024), 0);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .cdw10 = 1), 0);
	assert_int_equal(
		IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .cdw10 = 1, .cdw12 = 1),
		NVME_SC_READ_ERROR);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .cdw10 = 2),
			 NVME_SC_READ_ERROR);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
	/* it is full; it has no holes: then zeroes are written */
	restart(open("/dev/full", O_RDWR | O_CLOEXEC), DISK_LEN, false, 8);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA), NVME_SC_CAPACITY);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1), NVME_SC_CAPACITY);
	/* and deallocation is only advice */
	put_range(0, 0, 8, 0);
	assert_int_equal(IO(.opcode = NVME_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw11 = 4), 0);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1), NVME_SC_CAPACITY);
	/* it cannot be written, nor synced */
	feed = restart_on_pipe(8);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA), NVME_SC_WRITE_FAULT);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1), NVME_SC_WRITE_FAULT);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), NVME_SC_WRITE_FAULT);
	/* forced unit access syncs, even before a read */
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .cdw12 = 1u << 30),
			 NVME_SC_WRITE_FAULT);
	close(feed);
}

/* A terminal knows no holes, and shows what is written instead: after other data, and more than
 * fits a buffer. */
static void zeroes_are_written_where_there_are_no_holes(void **state)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), end;
	struct termios raw;
	uint8_t bytes[4096];
	uint16_t cid;

	(void)state;
	if (master < 0 || unlockpt(master)) {
		close(master);
		skip();
	}
	end = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_int_equal(tcgetattr(end, &raw), 0);
	cfmakeraw(&raw);
	assert_int_equal(tcsetattr(end, TCSANOW, &raw), 0);
	restart(master, DISK_LEN, false, 8);
	fill(DATA, 0x55, 4096);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA, .cdw12 = 7), 0);
	cid = submit(&io[1],
		     &(struct command){.opcode = NVME_IO_WRITE_ZEROES, .nsid = 1, .cdw12 = 2499});
	for (uint32_t got = 0; got < 4096 + 2500 * 512;) {
		struct pollfd p = {end, POLLIN, 0};
		ssize_t n;

		assert_int_equal(poll(&p, 1, LONG), 1);
		n = read(end, bytes, sizeof(bytes));
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++, got++)
			assert_int_equal(bytes[i], got < 4096 ? 0x55 : 0);
	}
	assert_int_equal(reap(&io[1]).cid, cid);
	assert_int_equal(poll(&(struct pollfd){end, POLLIN, 0}, 1, 0), 0); /* and no more */
	close(end);
}

/* /dev/null takes what is written, but cannot be synced. */
static void writes_are_synced_if_so_asked_or_without_a_cache(void **state)
{
	static const uint8_t opcodes[] = {NVME_IO_WRITE, NVME_IO_WRITE_ZEROES};

	(void)state;
	restart(open("/dev/null", O_RDWR | O_CLOEXEC), DISK_LEN, false, 8);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), NVME_SC_WRITE_FAULT);
	for (unsigned cache = 2; cache-- > 0;) {
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_SET_FEATURES,
				       .cdw10 = NVME_FEATURE_WRITE_CACHE, .cdw11 = cache),
				 0);
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(IO(.opcode = opcodes[i], .nsid = 1, .prp1 = DATA),
					 cache ? 0 : NVME_SC_WRITE_FAULT);
			assert_int_equal(IO(.opcode = opcodes[i], .nsid = 1, .prp1 = DATA,
					    .cdw12 = 1u << 30),
					 NVME_SC_WRITE_FAULT);
		}
	}
}

/* ---- memory that is not there -------------------------------------------------------------------
 */

static void memory_that_is_refused_fails_the_command_only(void **state)
{
	uint8_t byte;

	(void)state;
	fill_disk();
	fill(DATA, 0xee, 8192);
	refuse(false, DATA + 4096, 1);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA, .prp2 = DATA + 4096,
			    .cdw12 = 15),
			 NVME_SC_TRANSFER);
	get(DATA + 4095, &byte, 1);
	assert_int_equal(byte, pattern(4095));
	get(DATA + 4096, &byte, 1);
	assert_int_equal(byte, 0xee);
	/* a write of which a part cannot be read is not begun */
	fill(DATA, 0xdd, 4096);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA, .prp2 = DATA + 4096,
			    .cdw12 = 15),
			 NVME_SC_TRANSFER);
	assert_int_equal(count_changed(0, 16), 0);
	refuse(false, 0, 0);
	assert_int_equal(IO(.opcode = NVME_IO_WRITE, .nsid = 1, .prp1 = DATA, .prp2 = DATA + 4096,
			    .cdw12 = 15),
			 0);
	assert_int_equal(csts(), NVME_CSTS_RDY);
}

static void queue_memory_that_is_refused_is_fatal(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		bool completes = i; /* or is fetched */
		uint64_t addr = completes ? io[1].cq + io[1].head * NVME_CQE_LEN + (i == 2 ? 8 : 0)
					  : io[1].sq + io[1].tail * NVME_SQE_LEN;

		refuse(true, addr, 1);
		submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
		wait_csts((uint32_t)NVME_CSTS_CFS, (uint32_t)NVME_CSTS_CFS);
		refuse(true, 0, 0);
		/* it is dead until a reset */
		forget_log();
		submit(&admin, &(struct command){.opcode = NVME_ADMIN_ABORT});
		usleep(MOMENT * 1000);
		assert_int_equal(nr_accesses(), 0);
		assert_int_equal(csts(), NVME_CSTS_RDY | NVME_CSTS_CFS);
		reg_write(NVME_CC, 4, 0);
		assert_int_equal(csts(), 0);
		enable(0, 8);
		create_pair(1, 8);
		assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
	}
}

/* ---- interrupts ---------------------------------------------------------------------------------
 */

static void each_queue_has_its_vector(void **state)
{
	(void)state;
	create_pair(2, 8);
	init_queue(&io[3], 3, 8);
	assert_int_equal(create_cq(&io[3], 1), 0); /* polled */
	assert_int_equal(create_sq(&io[3], 3), 0);
	for (unsigned i = 0; i < NR_VECTORS; i++)
		(void)fired(i);
	submit(&io[2], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	submit(&io[3], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	while (empty(&io[2]) || empty(&io[3]))
		usleep(100);
	assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1),
			 0); /* any interrupt of theirs came before */
	assert_int_equal(fired(2), 1);
	assert_int_equal(fired(3), 0);
	assert_int_equal(fired(0), 0);
}

static void intx_is_up_while_a_completion_waits(void **state)
{
	struct completion c;

	(void)state;
	use_intx();
	for (unsigned i = 0; i < NR_VECTORS; i++)
		(void)fired(i);
	io[1].vector = 0; /* all of them are on that one wire */
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	wait_for_events();
	assert_int_equal(fired(0), 1);
	dev->ops->unmask_intx(dev); /* the guest did nothing about it */
	assert_int_equal(fired(0), 1);
	assert_true(peek(&io[1], &c));
	ring_cq(&io[1]);
	dev->ops->unmask_intx(dev); /* it was down before the write returned */
	assert_int_equal(fired(0), 0);

	/* two, taken one by one */
	queue_up(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	wait_for_events();
	assert_int_equal(fired(0), 1);
	while (!peek(&io[1], &c))
		usleep(100);
	while (empty(&io[1]))
		usleep(100);
	ring_cq(&io[1]);
	dev->ops->unmask_intx(dev);
	/* The second one's entry may still be on its way to the line. */
	wait_for_events();
	assert_int_equal(fired(0), 1);
	assert_true(peek(&io[1], &c));
	ring_cq(&io[1]);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
}

static void intx_can_be_masked_by_vector(void **state)
{
	struct completion c;

	(void)state;
	use_intx();
	for (unsigned i = 0; i < NR_VECTORS; i++)
		(void)fired(i);
	reg_write(NVME_INTMS, 4, 2);
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	while (!peek(&io[1], &c))
		usleep(100);
	/* another vector is not masked */
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_ABORT});
	wait_for_events();
	assert_int_equal(fired(0), 1);
	assert_true(peek(&admin, &c));
	ring_cq(&admin);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
	reg_write(NVME_INTMC, 4, 2);
	assert_int_equal(fired(0), 1);
	reg_write(NVME_INTMS, 4, 0xffffffff);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
	reg_write(NVME_INTMC, 4, 0xffffffff); /* up: it is still not taken */
	assert_int_equal(fired(0), 1);
	/* what is deleted needs no attention any more */
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_DELETE_SQ, .cdw10 = 1});
	while (!peek(&admin, &c))
		usleep(100);
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_DELETE_CQ, .cdw10 = 1});
	while (!peek(&admin, &c))
		usleep(100);
	assert_int_equal(c.status, 0);
	ring_cq(&admin);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
	reg_write(NVME_CC, 4, 0); /* a reset takes the masks away */
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
}

/* ---- asynchronous events ------------------------------------------------------------------------
 */

static void events_wait_for_something_to_tell(void **state)
{
	struct command request = {.opcode = NVME_ADMIN_AER};
	struct completion c;
	uint16_t fifth;

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		submit(&admin, &request);
	fifth = submit(&admin, &request);
	c = reap(&admin);
	assert_int_equal(c.cid, fifth);
	assert_int_equal(c.status, NVME_SC_AER_LIMIT);
	assert_true(empty(&admin));

	/* a doorbell that does not exist */
	reg_write(NVME_DB + 8 * 2, 4, 1);
	c = reap(&admin);
	assert_int_equal(c.status, 0);
	assert_int_equal(c.dw0, NVME_LOG_ERROR << 16 | NVME_EVENT_BAD_DOORBELL << 8);
	/* the next one is held back until the log has been read */
	reg_write(NVME_DB + 8, 4, 32);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_GET_LOG, .prp1 = DATA,
			       .cdw10 = NVME_LOG_ERROR | 15 << 16 | 1 << 15),
			 0);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_GET_LOG,
					 .prp1 = DATA,
					 .cdw10 = NVME_LOG_ERROR | 15 << 16});
	assert_int_equal(reap(&admin).status, 0);
	c = reap(&admin);
	assert_int_equal(c.dw0, NVME_LOG_ERROR << 16 | NVME_EVENT_BAD_DOORBELL_VALUE << 8);
	reg_write(NVME_DB + 8 + 4, 4, 32); /* a head that is none */
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_GET_LOG,
					 .prp1 = DATA,
					 .cdw10 = NVME_LOG_ERROR | 15 << 16});
	assert_int_equal(reap(&admin).status, 0);
	c = reap(&admin);
	assert_int_equal(c.dw0, NVME_LOG_ERROR << 16 | NVME_EVENT_BAD_DOORBELL_VALUE << 8);
	/* a reset takes those that are left away */
	reg_write(NVME_CC, 4, 0);
	enable(0, 8);
	for (unsigned i = 0; i < 4; i++)
		submit(&admin, &request);
	submit(&admin, &request);
	assert_int_equal(reap(&admin).status, NVME_SC_AER_LIMIT);
}

static void doorbells_that_cannot_be_are_ignored(void **state)
{
	(void)state;
	reg_write(NVME_DB + 8, 4, 32);	   /* tail: there are 32 */
	reg_write(NVME_DB + 8 + 4, 4, 32); /* head */
	reg_write(NVME_DB + 8 + 4, 4, 5);  /* past the tail */
	reg_write(NVME_DB + 8 * 4, 4, 1);  /* no such queue */
	reg_write(NVME_DB + 0xff8, 8, UINT64_MAX);
	for (unsigned i = 0; i < 70; i++)
		assert_int_equal(IO(.opcode = NVME_IO_FLUSH, .nsid = 1), 0);
	assert_int_equal(csts(), NVME_CSTS_RDY);
}

/* ---- the end of it ------------------------------------------------------------------------------
 */

static void do_disable(void)
{
	reg_write(NVME_CC, 4, 0);
}

static void do_reset(void)
{
	dev->ops->reset(dev);
}

static void do_master_off(void)
{
	set_command(PCI_COMMAND_MEMORY);
}

static void do_stop(void)
{
	sim_nvme_stop(nvme);
}

/* submit_reads - @nr of them, that wait for the pipe, and that many others behind them */
static void submit_reads(unsigned nr)
{
	forget_log();
	for (unsigned i = 0; i < nr; i++)
		queue_up(&io[1], &(struct command){.opcode = NVME_IO_READ,
						   .nsid = 1,
						   .prp1 = DATA + i * 4096});
	ring_sq(&io[1]);
	wait_fetched(nr);
}

static void feed_reads(int feed, unsigned nr)
{
	uint8_t block[512];

	memset(block, 0x77, sizeof(block));
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(write(feed, block, sizeof(block)), sizeof(block));
}

static void disabling_waits_for_commands_and_says_nothing_of_them(void **state)
{
	static void (*const ways[])(void) = {do_disable, do_reset};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		int feed = restart_on_pipe(16);

		submit_reads(5);
		begin(ways[i]);
		must_not_end_yet();
		if (ways[i] == do_disable)
			assert_int_equal(csts() & NVME_CSTS_RDY, NVME_CSTS_RDY);
		feed_reads(feed, 5);
		must_end();
		if (ways[i] == do_disable) { /* fetched; no data, no entries */
			assert_int_equal(nr_accesses(), 5);
			assert_true(empty(&io[1]));
		}
		forget_log();
		assert_int_equal(csts(), 0);
		reg_write(NVME_DB + 8, 4, 9);
		usleep(MOMENT * 1000);
		assert_int_equal(nr_accesses(), 0);
		set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		enable(0, 8);
		create_pair(1, 8);
		submit(&io[1], &(struct command){.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA});
		feed_reads(feed, 1);
		assert_int_equal(reap(&io[1]).status, 0);
		close(feed);
	}
}

static void bus_mastering_ends_when_commands_have_completed(void **state)
{
	int feed = restart_on_pipe(16);

	(void)state;
	submit_reads(3);
	begin(do_master_off);
	must_not_end_yet();
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 2}); /* too late */
	feed_reads(feed, 3);
	must_end();
	assert_int_equal(nr_accesses(), 3 + 3 * 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(reap(&io[1]).status, 0);
	usleep(MOMENT * 1000);
	assert_true(empty(&io[1]));
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(reap(&io[1]).status, NVME_SC_INVALID_NAMESPACE);
	close(feed);
}

static void a_stopped_controller_does_nothing_more(void **state)
{
	int feed = restart_on_pipe(16);

	(void)state;
	submit_reads(3);
	begin(do_stop);
	must_not_end_yet();
	feed_reads(feed, 3);
	must_end();
	sim_nvme_stop(nvme);
	for (unsigned i = 0; i < NR_VECTORS; i++)
		(void)fired(i);
	forget_log();
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 1});
	reg_write(NVME_CC, 4, CC(0) | 1u << 14);
	reg_write(NVME_CC, 4, 0);
	assert_int_equal(dev->ops->reset(dev), 0);
	set_command(PCI_COMMAND_MASTER);
	enable(0, 8);
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_ABORT});
	usleep(MOMENT * 1000);
	assert_int_equal(nr_accesses(), 0);
	assert_false(raised());
	close(feed);
}

static atomic_uint endless;

static void ring_for_ever(void)
{
	/* The queue is full of commands that need no I/O, and never empty. */
	while (atomic_load(&endless)) {
		reg_write(NVME_DB + 8, 4, 0);
		reg_write(NVME_DB + 8 + 4, 4, 0);
		for (unsigned i = 1; i < 256; i++) {
			reg_write(NVME_DB + 8, 4, i);
			reg_write(NVME_DB + 8 + 4, 4, i);
		}
	}
}

static void a_guest_that_never_rests_does_not_keep_it_from_stopping(void **state)
{
	static void (*const ways[])(void) = {do_disable, do_master_off, do_reset, do_stop};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		restart(fcntl(disk, F_DUPFD_CLOEXEC, 0), DISK_LEN, false, 256);
		fill(io[1].sq, 0xff, 256 * 64); /* invalid opcodes */
		atomic_store(&endless, 1);
		begin(ring_for_ever);
		while (atomic_load(&progress) < 1000)
			usleep(100);
		ways[i]();
		forget_log();
		usleep(MOMENT * 1000);
		assert_int_equal(nr_accesses(), 0);
		atomic_store(&endless, 0);
		must_end();
	}
}

/* feed_queue - as each half of an entry of a queue of two is written: take it, add a command */
static void feed_queue(void)
{
	static unsigned nr;

	if (nr++ % 2)
		return;
	reg_write(NVME_DB + 8 + 4, 4, nr / 2 % 2 ? 0 : 1);
	reg_write(NVME_DB + 8, 4, nr / 2 % 2 ? 1 : 0);
}

static void a_queue_that_is_never_empty_leaves_others_and_the_file_their_turn(void **state)
{
	(void)state;
	enable_again(2);
	create_pair(2, 8);
	fill(io[1].sq, 0xff, 2 * 64); /* invalid opcodes */
	watch(io[1].cq, 32, feed_queue);
	reg_write(NVME_DB + 8, 4, 1);
	while (atomic_load(&progress) < 1000)
		usleep(100);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(
			run(&io[2],
			    &(struct command){.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA}),
			0);
	watch(0, 0, NULL);
}

static void a_queue_is_deleted_when_its_commands_have_completed(void **state)
{
	int feed = restart_on_pipe(16);
	uint16_t cid;

	(void)state;
	submit_reads(3);
	cid = submit(&admin, &(struct command){.opcode = NVME_ADMIN_DELETE_SQ, .cdw10 = 1});
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_DELETE_SQ, .cdw10 = 1), NVME_SC_QID_INVALID);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_DELETE_CQ, .cdw10 = 1), NVME_SC_QUEUE_DELETION);
	/* what comes now is not looked at any more */
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 2});
	feed_reads(feed, 2);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(reap(&io[1]).status, 0);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	feed_reads(feed, 1);
	assert_int_equal(reap(&io[1]).status, 0);
	assert_int_equal(reap(&admin).cid, cid);
	assert_true(empty(&io[1]));
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_DELETE_CQ, .cdw10 = 1), 0);
	create_pair(1, 8);
	submit(&io[1], &(struct command){.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA});
	feed_reads(feed, 1);
	assert_int_equal(reap(&io[1]).status, 0);
	close(feed);
}

static void a_shutdown_ends_when_all_is_on_the_medium(void **state)
{
	int feed = restart_on_pipe(16);

	(void)state;
	submit_reads(2);
	reg_write(NVME_CC, 4, CC(0) | 1u << 14);
	assert_int_equal(FIELD_GET(NVME_CSTS_SHST, csts()), NVME_CSTS_SHST_OCCURS);
	submit(&io[1], &(struct command){.opcode = NVME_IO_FLUSH, .nsid = 2}); /* too late */
	usleep(MOMENT * 1000);
	assert_int_equal(FIELD_GET(NVME_CSTS_SHST, csts()), NVME_CSTS_SHST_OCCURS);
	feed_reads(feed, 2);
	wait_csts((uint32_t)NVME_CSTS_SHST,
		  (uint32_t)FIELD_PREP(NVME_CSTS_SHST, NVME_CSTS_SHST_DONE));
	assert_int_equal(csts() & NVME_CSTS_RDY, NVME_CSTS_RDY);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(reap(&io[1]).status, 0);
	/* only a reset brings it back */
	reg_write(NVME_CC, 4, CC(0));
	submit(&admin, &(struct command){.opcode = NVME_ADMIN_ABORT});
	usleep(MOMENT * 1000);
	assert_true(empty(&admin) && empty(&io[1]));
	reg_write(NVME_CC, 4, 0);
	assert_int_equal(csts(), 0);
	enable(0, 8);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	/* of a disabled one, too */
	reg_write(NVME_CC, 4, 0);
	reg_write(NVME_CC, 4, 2u << 14);
	wait_csts(UINT32_MAX, (uint32_t)FIELD_PREP(NVME_CSTS_SHST, NVME_CSTS_SHST_DONE));
	enable(0, 8);
	assert_int_equal(ADMIN(.opcode = NVME_ADMIN_ABORT), 0);
	close(feed);
}

/* meddle - a vCPU that does what it likes, among others that do */
static void *meddle(void *ctx)
{
	unsigned seed = (unsigned)(uintptr_t)ctx;
	uint8_t command[2] = {0, 0};

	for (unsigned i = 0; i < 400; i++) {
		unsigned r = (unsigned)rand_r(&seed);

		switch (r % 64) {
		case 0:
			dev->ops->reset(dev);
			break;
		case 1:
		case 2:
			command[0] = r & 0x40 ? PCI_COMMAND_MASTER : 0;
			dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2);
			break;
		case 3:
		case 4:
			reg_write(NVME_CC, 4, 0);
			break;
		case 5:
			reg_write(NVME_CC, 4, CC(0) | 1u << 14);
			break;
		case 6:
		case 7:
		case 8:
			command[0] = PCI_COMMAND_MASTER;
			dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2);
			reg_write(NVME_AQA, 4, 0x001f001f);
			reg_write(NVME_ASQ, 8, QUEUES);
			reg_write(NVME_ACQ, 8, QUEUES + 0x10000);
			reg_write(NVME_CC, 4, CC(0));
			break;
		case 9:
			dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL);
			dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, NR_VECTORS, fds);
			break;
		case 10:
			reg_write(r & 0x80 ? NVME_INTMS : NVME_INTMC, 4, r);
			break;
		default:
			reg_write(NVME_DB + (r >> 8) % 4 * 4, 4, (r >> 12) % 32);
			(void)csts();
		}
	}
	return NULL;
}

static void vcpus_at_odds_do_not_break_it(void **state)
{
	uint8_t sqe[NVME_SQE_LEN] = {0};
	pthread_t threads[4];

	(void)state;
	for (unsigned round = 0; round < 5; round++) {
		/* queues are made, used and deleted by whoever rings */
		for (unsigned i = 0; i < 32; i++) {
			static const uint8_t opcodes[] = {
				NVME_ADMIN_CREATE_CQ, NVME_ADMIN_CREATE_SQ, NVME_ADMIN_IDENTIFY,
				NVME_ADMIN_AER,	      NVME_ADMIN_GET_LOG,   NVME_ADMIN_DELETE_SQ,
				NVME_ADMIN_DELETE_CQ, NVME_ADMIN_ABORT};

			sqe[0] = opcodes[i % 8];
			put_le64(sqe + 24, sqe[0] == NVME_ADMIN_CREATE_SQ   ? io[1].sq
					   : sqe[0] == NVME_ADMIN_CREATE_CQ ? io[1].cq
									    : DATA);
			put_le32(sqe + 40, 0x001f0001);
			put_le32(sqe + 44, 0x00010003);
			put(QUEUES + i * 64, sqe, sizeof(sqe));
			sqe[0] = i % 3; /* flush, write, read */
			put_le32(sqe + 4, 1);
			put_le32(sqe + 40, i);
			put_le32(sqe + 44, 0);
			put(io[1].sq + i * 64, sqe, sizeof(sqe));
			memset(sqe, 0, sizeof(sqe));
		}
		for (uintptr_t i = 0; i < 4; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, meddle,
							(void *)(round * 4 + i + 1)),
					 0);
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(pthread_join(threads[i], NULL), 0);
	}
	assert_int_equal(dev->ops->reset(dev), 0);
	assert_int_equal(csts(), 0);
	(void)dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL);
	use_msix();
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	enable(0, 8);
	create_pair(1, 8);
	assert_int_equal(IO(.opcode = NVME_IO_READ, .nsid = 1, .prp1 = DATA), 0);
}

static void what_was_written_is_in_the_file_after_it_stopped(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 31; i++) {
		fill(DATA + i * 4096, (uint8_t)(i + 1), 4096);
		queue_up(&io[1], &(struct command){.opcode = NVME_IO_WRITE,
						   .nsid = 1,
						   .prp1 = DATA + i * 4096,
						   .cdw10 = i * 8,
						   .cdw12 = 7});
	}
	forget_log();
	ring_sq(&io[1]);
	wait_fetched(31);
	sim_nvme_stop(nvme);
	for (unsigned i = 0; i < 31; i++) {
		uint8_t block[4096], want[4096];

		memset(want, (int)(i + 1), sizeof(want));
		assert_int_equal(pread(disk, block, 4096, i * 4096), 4096);
		assert_memory_equal(block, want, 4096);
	}
}

static void serial_numbers_make_identities(void **state)
{
	static const char *const serials[] = {"A", "A", "B", "12345678901234567890"};
	uint8_t id[4][4096], desc[4][4096];

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct sim_nvme_cfg cfg = {
			.name = "nvme",
			.serial = serials[i],
			.fd = fcntl(disk, F_DUPFD_CLOEXEC, 0),
			.size = DISK_LEN,
			.nr_io_queues = 1,
			.queues = {port_read, port_write, &queues_ctx},
			.data = {port_read, port_write, &data_ctx},
		};

		sim_nvme_destroy(nvme);
		assert_int_equal(sim_nvme_create(&cfg, &nvme), 0);
		dev = sim_nvme_dev(nvme);
		assert_null(dev->ops->msi_target);
		assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 2, fds), 0);
		set_command(PCI_COMMAND_MASTER);
		enable(0, 8);
		assert_int_equal(
			ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .prp1 = DATA, .cdw10 = NVME_CNS_CTRL),
			0);
		get(DATA, id[i], 4096);
		assert_int_equal(ADMIN(.opcode = NVME_ADMIN_IDENTIFY, .nsid = 1, .prp1 = DATA,
				       .cdw10 = NVME_CNS_NS_DESC),
				 0);
		get(DATA, desc[i], 4096);
	}
	assert_memory_equal(id[0], id[1], 4096);
	assert_memory_equal(desc[0], desc[1], 4096);
	assert_memory_not_equal(id[0] + 768, id[2] + 768, 256);
	assert_memory_not_equal(desc[0], desc[2], 4096);
	assert_memory_equal(id[3] + 4, "12345678901234567890granule", 27);
}

static int where_msi_go(void *ctx, uint64_t addr, uint64_t *gpa)
{
	assert_ptr_equal(ctx, &progress);
	*gpa = addr + 1;
	return addr ? 0 : -EFAULT;
}

static void messages_go_where_the_owner_says(void **state)
{
	struct sim_nvme_cfg cfg = {
		.name = "nvme",
		.serial = "S",
		.fd = fcntl(disk, F_DUPFD_CLOEXEC, 0),
		.size = DISK_LEN,
		.nr_io_queues = 64,
		.queues = {port_read, port_write, &queues_ctx},
		.data = {port_read, port_write, &data_ctx},
		.msi_target = where_msi_go,
		.ctx = &progress,
	};
	uint64_t gpa = 0;

	(void)state;
	sim_nvme_destroy(nvme);
	assert_int_equal(sim_nvme_create(&cfg, &nvme), 0);
	dev = sim_nvme_dev(nvme);
	assert_int_equal(dev->nr_msix, 65);
	assert_int_equal(dev->ops->msi_target(dev, 5, &gpa), 0);
	assert_int_equal(gpa, 6);
	assert_int_equal(dev->ops->msi_target(dev, 0, &gpa), -EFAULT);
	sim_nvme_destroy(NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name)    cmocka_unit_test_setup_teardown(name, setup, teardown)
#define RUNNING(name) cmocka_unit_test_setup_teardown(name, setup_running, teardown)
		TEST(registers_say_what_the_controller_can_do),
		TEST(registers_are_written_whole_or_in_halves),
		TEST(an_admin_queue_that_cannot_be_is_a_fatal_error),
		TEST(a_controller_reset_keeps_the_admin_queue_registers_only),
		TEST(nothing_is_fetched_without_bus_mastering),
		RUNNING(identify_tells_who_it_is),
		RUNNING(identify_refuses_what_it_does_not_know),
		RUNNING(log_pages_are_there_and_end_in_zeroes),
		RUNNING(features_keep_what_they_are_set_to),
		RUNNING(features_refuse_what_cannot_be),
		TEST(the_number_of_queues_is_what_there_are),
		RUNNING(a_temperature_past_its_threshold_is_a_warning),
		RUNNING(commands_that_do_not_exist_are_invalid),
		RUNNING(queues_are_created_only_as_they_can_be),
		TEST(queues_wrap_and_phases_turn),
		RUNNING(a_full_completion_queue_holds_commands_back),
		RUNNING(room_in_a_completion_queue_is_enough_to_go_on),
		RUNNING(an_entry_may_be_taken_before_its_interrupt),
		RUNNING(many_commands_at_once_all_complete_once),
		RUNNING(data_are_there_before_the_entry_and_the_entry_before_the_interrupt),
		RUNNING(commands_complete_as_they_end),
		RUNNING(prps_of_every_shape_lead_to_the_data),
		RUNNING(prps_that_cannot_be_are_refused),
		RUNNING(blocks_and_namespaces_that_are_not_there_are_refused),
		RUNNING(zeroes_and_deallocated_blocks_read_as_zeroes),
		RUNNING(a_write_protected_namespace_is_not_written),
		RUNNING(what_the_file_cannot_do_is_a_media_error),
		RUNNING(zeroes_are_written_where_there_are_no_holes),
		RUNNING(writes_are_synced_if_so_asked_or_without_a_cache),
		RUNNING(memory_that_is_refused_fails_the_command_only),
		RUNNING(queue_memory_that_is_refused_is_fatal),
		RUNNING(each_queue_has_its_vector),
		RUNNING(intx_is_up_while_a_completion_waits),
		RUNNING(intx_can_be_masked_by_vector),
		RUNNING(events_wait_for_something_to_tell),
		RUNNING(doorbells_that_cannot_be_are_ignored),
		RUNNING(disabling_waits_for_commands_and_says_nothing_of_them),
		RUNNING(bus_mastering_ends_when_commands_have_completed),
		RUNNING(a_stopped_controller_does_nothing_more),
		RUNNING(a_guest_that_never_rests_does_not_keep_it_from_stopping),
		RUNNING(a_queue_that_is_never_empty_leaves_others_and_the_file_their_turn),
		RUNNING(a_queue_is_deleted_when_its_commands_have_completed),
		RUNNING(a_shutdown_ends_when_all_is_on_the_medium),
		RUNNING(vcpus_at_odds_do_not_break_it),
		RUNNING(what_was_written_is_in_the_file_after_it_stopped),
		TEST(serial_numbers_make_identities),
		TEST(messages_go_where_the_owner_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
