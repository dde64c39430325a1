/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_sim_nvme - a hostile driver against the simulated NVMe controller.
 *
 * It writes registers, queue entries, PRP lists and doorbells as it likes, and mostly almost right.
 * Below, memory and disk hold the controller to what must never be: DMA without bus mastering or
 * after a reset, more commands under way than there is room for, accesses of other shapes than
 * queues and pages have, a write-protected disk that changes, one that grows or shrinks; and it
 * must come to rest, whatever it was told.
 *
 * Files: vmm/sim_nvme.c vmm/sim_nvme_admin.c vmm/sim_nvme_io.c vmm/sim_pci.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/sim_nvme_core.h"

#define MAX_OPS	  200
#define NR_IO	  3u
#define MEM_BASE  UINT64_C(0x80000000)
#define MEM_LEN	  0x100000u
#define LISTS	  0x40000u /* offset in memory: filled with entries that lead somewhere */
#define LISTS_LEN 0x8000u
#define DATA	  0x80000u
#define BLOCKS	  2048u
#define DISK_LEN  (BLOCKS * SIM_NVME_BLOCK)

struct queue {
	uint32_t size, tail;
};

static struct bench {
	struct sim_nvme *nvme;
	struct pci_dev *dev;
	struct queue queues[NR_IO + 1];
	bool readonly;
	unsigned irqs; /* index that is on */
	/* Under lock. */
	bool may_master;
	uint64_t bad, bad_len;
	unsigned under_way;
} b;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t memory[MEM_LEN], disk_was[DISK_LEN], disk_is[DISK_LEN];
static int disk = -1, fds[NR_IO + 1];
static int queues_ctx, data_ctx;

/* ---- memory -------------------------------------------------------------------------------------
 */

static int port_access(void *ctx, uint64_t addr, void *buf, size_t len, bool write)
{
	uint64_t off = addr - MEM_BASE;
	int ret = -EFAULT;

	pthread_mutex_lock(&lock);
	demand(b.may_master);
	if (ctx == &data_ctx) {
		demand(len && len <= 0x10000);
	} else if (write) {
		demand(len == 8 && addr % 8 == 0);
	} else {
		demand(len == 64 && addr % 64 == 0);
		b.under_way++;
		/* one more: what has completed is known a moment later */
		demand(b.under_way <= NVME_MAX_REQUESTS + NVME_MAX_AERS + 1);
	}
	if (off < MEM_LEN && len <= MEM_LEN - off &&
	    !(b.bad_len && off < b.bad + b.bad_len && off + len > b.bad)) {
		if (write)
			memcpy(memory + off, buf, len);
		else
			memcpy(buf, memory + off, len);
		ret = 0;
	}
	if (ctx == &queues_ctx && write && addr % 16 && b.under_way)
		b.under_way--;
	pthread_mutex_unlock(&lock);
	return ret;
}

static int port_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return port_access(ctx, addr, buf, len, false);
}

static int port_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	return port_access(ctx, addr, (void *)buf, len, true);
}

static void set_may_master(bool may)
{
	pthread_mutex_lock(&lock);
	b.may_master = may;
	b.under_way = may ? b.under_way : 0;
	pthread_mutex_unlock(&lock);
}

static void put(uint64_t off, const void *src, size_t len)
{
	if (off >= MEM_LEN || len > MEM_LEN - off)
		return;
	pthread_mutex_lock(&lock);
	memcpy(memory + off, src, len);
	pthread_mutex_unlock(&lock);
}

/* ---- the driver ---------------------------------------------------------------------------------
 */

static void reg_write(unsigned off, unsigned len, uint64_t val)
{
	uint8_t bytes[8];

	put_le64(bytes, val);
	b.dev->ops->write(b.dev, 0, off, bytes, len);
}

static uint64_t reg_read(unsigned off, unsigned len)
{
	uint8_t bytes[8] = {0};

	b.dev->ops->read(b.dev, 0, off, bytes, len);
	return get_le64(bytes);
}

/* settled - the controller has done all that it was asked for and can do */
static bool settled(void)
{
	struct sim_nvme *n = b.nvme;
	bool busy;

	pthread_mutex_lock(&n->lock);
	busy = n->woken || n->in_flight || FIELD_GET(NVME_CSTS_SHST, n->csts) == 1;
	for (unsigned i = 0; i <= NR_IO && n->enabled && n->master; i++) {
		struct nvme_sq *sq = &n->sqs[i];
		struct nvme_cq *cq = &n->cqs[sq->cqid];

		busy |= sq->live && !sq->deleting && sq->head != sq->tail && !cq->starved &&
			!FIELD_GET(NVME_CSTS_SHST, n->csts);
	}
	pthread_mutex_unlock(&n->lock);
	return !busy;
}

static void settle(void)
{
	while (!settled())
		sched_yield();
}

static void set_master(bool on)
{
	uint8_t command[2] = {on ? PCI_COMMAND_MASTER : 0, 0};

	if (on)
		set_may_master(true);
	b.dev->ops->write(b.dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2);
	if (!on)
		set_may_master(false);
}

static void enable(uint8_t how)
{
	uint32_t size = how & 0x80 ? 2 : 32;

	reg_write(NVME_CC, 4, 0);
	/* Nothing is under way now. */
	pthread_mutex_lock(&lock);
	b.under_way = 0;
	pthread_mutex_unlock(&lock);
	reg_write(NVME_AQA, 4, (size - 1) | (size - 1) << 16);
	reg_write(NVME_ASQ, 8, MEM_BASE);
	reg_write(NVME_ACQ, 8, MEM_BASE + 0x4000);
	reg_write(NVME_CC, 4, 1u | (how & 1 ? 2u << 7 : 0) | 6u << 16 | 4u << 20);
	memset(b.queues, 0, sizeof(b.queues));
	b.queues[0].size = size;
}

/* address - mostly one that leads somewhere */
static uint64_t address(struct input *in)
{
	uint8_t kind = take8(in);

	switch (kind % 8) {
	case 0:
		return take64(in);
	case 1:
		return MEM_BASE + LISTS + (take16(in) % LISTS_LEN & ~7u);
	case 2:
		return MEM_BASE + LISTS + (take16(in) % LISTS_LEN & ~0xfffu);
	case 3:
		return MEM_BASE + LISTS + (take16(in) % LISTS_LEN | 0xff8) - 8 * (kind >> 6);
	case 4:
		return MEM_BASE + MEM_LEN - take16(in);
	case 5:
		return MEM_BASE + DATA + (take16(in) & ~3u);
	default:
		return MEM_BASE + DATA + (take16(in) & 0x70000 >> 4) * 16;
	}
}

static uint32_t small_or_any(struct input *in)
{
	uint8_t kind = take8(in);

	return kind < 0xc0 ? kind % 64 : take32(in);
}

/* command - put one into a queue, well made or not */
static void command(struct input *in)
{
	static const uint8_t opcodes[] = {0x00, 0x01, 0x02, 0x04, 0x05, 0x06,
					  0x08, 0x09, 0x0a, 0x0c, 0x7c};
	uint8_t how = take8(in), sqe[64] = {0};
	unsigned id = how % (NR_IO + 1);
	struct queue *q = &b.queues[id];
	uint8_t opcode = take8(in);

	sqe[0] = how & 0x80 ? opcode : opcodes[opcode % sizeof(opcodes)];
	sqe[1] = how & 0x40 ? take8(in) : 0;
	put_le16(sqe + 2, take8(in));
	put_le32(sqe + 4, how & 0x20 ? small_or_any(in) : id != 0);
	put_le64(sqe + 24, address(in));
	put_le64(sqe + 32, address(in));
	put_le32(sqe + 40, how & 0x10 ? take32(in) : small_or_any(in));
	put_le32(sqe + 44, how & 0x08 ? take32(in) : 0);
	put_le32(sqe + 48, small_or_any(in));
	put(id * 0x8000 + q->tail * 64, sqe, sizeof(sqe));
	if (q->size)
		q->tail = (q->tail + 1) % q->size;
}

/* admin - one that is well made, and carried out */
static void admin(uint8_t opcode, uint64_t prp1, uint32_t cdw10, uint32_t cdw11)
{
	struct queue *q = &b.queues[0];
	uint8_t sqe[64] = {opcode};

	if (!q->size)
		return;
	put_le64(sqe + 24, prp1);
	put_le32(sqe + 40, cdw10);
	put_le32(sqe + 44, cdw11);
	put(q->tail * 64, sqe, sizeof(sqe));
	q->tail = (q->tail + 1) % q->size;
	reg_write(NVME_DB, 4, q->tail);
	settle();
}

/* consume - all completions of a queue at once */
static void consume(unsigned id)
{
	uint32_t tail;

	pthread_mutex_lock(&b.nvme->lock);
	tail = b.nvme->cqs[id].tail;
	pthread_mutex_unlock(&b.nvme->lock);
	reg_write(NVME_DB + 8 * id + 4, 4, tail);
}

static void create_pair(unsigned id, uint32_t size)
{
	uint64_t base = MEM_BASE + id * 0x8000;

	admin(NVME_ADMIN_CREATE_CQ, base + 0x4000, id | (size - 1) << 16, 3 | id << 16);
	admin(NVME_ADMIN_CREATE_SQ, base, id | (size - 1) << 16, 1 | id << 16);
	consume(0);
	b.queues[id] = (struct queue){.size = size};
}

static void step(struct input *in)
{
	unsigned len, off, id;
	uint8_t how;

	switch (take8(in) % 14) {
	case 0:
		how = take8(in);
		len = 1u << how % 4;
		off = take16(in) % (how & 4 ? 0x40 : 0x2000) & ~(len - 1);
		if (how & 0x80)
			reg_read(off, len);
		else
			reg_write(off, len, len == 8 ? take64(in) : take32(in));
		break;
	case 1:
		enable(take8(in));
		break;
	case 2:
		how = take8(in);
		create_pair(1 + how % NR_IO, 2 + how / NR_IO);
		break;
	case 3:
	case 4:
	case 5:
		command(in);
		break;
	case 6:
	case 7:
		id = take8(in) % (NR_IO + 1);
		reg_write(NVME_DB + 8 * id, 4, b.queues[id].tail);
		break;
	case 8:
		consume(take8(in) % (NR_IO + 1));
		break;
	case 9:
		settle();
		break;
	case 10:
		how = take8(in);
		if (how & 0x80) { /* Dataset Management's ranges */
			uint8_t range[16] = {0};

			put_le32(range + 4, small_or_any(in));
			put_le64(range + 8, small_or_any(in));
			put(DATA + (how & 0x7f) * 16, range, sizeof(range));
		} else { /* a list's entries, a queue's, anything */
			uint8_t word[8];

			put_le64(word, address(in));
			put((how & 0x40 ? LISTS : 0) + take16(in) * 8u, word, sizeof(word));
		}
		break;
	case 11:
		how = take8(in);
		pthread_mutex_lock(&lock);
		b.bad = take16(in) * 16u;
		b.bad_len = how;
		pthread_mutex_unlock(&lock);
		break;
	case 12:
		how = take8(in);
		set_master(how & 1);
		break;
	case 13:
		how = take8(in);
		if (how & 1) {
			b.dev->ops->reset(b.dev);
			set_may_master(false);
		} else if (how & 2) {
			reg_write(NVME_CC, 4, reg_read(NVME_CC, 4) | 1u << 14);
		} else {
			reg_write(NVME_CC, 4, 0);
		}
		break;
	}
}

/* Made once each: a ring takes longer to make and to end than an input to run. What a reset leaves
 * of an input before is counters. */
static struct sim_nvme *controllers[2]; /* by write protection */

static struct sim_nvme *make(bool readonly)
{
	const struct sim_nvme_cfg cfg = {
		.name = "nvme",
		.serial = "fuzz",
		.fd = dup(disk),
		.size = DISK_LEN,
		.readonly = readonly,
		.nr_io_queues = NR_IO,
		.queues = {port_read, port_write, &queues_ctx},
		.data = {port_read, port_write, &data_ctx},
	};
	struct sim_nvme *nvme;

	demand(!sim_nvme_create(&cfg, &nvme));
	return nvme;
}

static void make_all(void)
{
	disk = memfd_create("disk", MFD_CLOEXEC);
	for (unsigned i = 0; i < DISK_LEN; i++)
		disk_was[i] = (uint8_t)(i * 5 + i / 512);
	for (unsigned i = 0; i <= NR_IO; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	controllers[0] = make(false);
	controllers[1] = make(true);
}

static void power_on(uint8_t how)
{
	b = (struct bench){
		.nvme = controllers[how & 1],
		.dev = sim_nvme_dev(controllers[how & 1]),
		.readonly = how & 1,
		.irqs = how & 2 ? VFIO_PCI_INTX_IRQ_INDEX : VFIO_PCI_MSIX_IRQ_INDEX,
	};
	demand(!b.dev->ops->set_irqs(b.dev, b.irqs, how & 2 ? 1 : NR_IO + 1, fds));
	memset(memory, 0, sizeof(memory));
	/* In pages of 4 KiB, with the next list at the end of each. */
	for (unsigned i = 0; i < LISTS_LEN / 8; i++)
		put_le64(memory + LISTS + 8 * i,
			 MEM_BASE + ((i + 1) % 512 ? DATA + i % 128 * 0x1000
						   : LISTS + (i + 1) * 8 % LISTS_LEN));
	set_master(true);
	if (!(how & 4))
		enable(how >> 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct stat st;

	if (disk < 0)
		make_all();
	demand(pwrite(disk, disk_was, DISK_LEN, 0) == DISK_LEN);
	power_on(take8(&in));
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	settle();
	demand(!b.dev->ops->reset(b.dev));
	set_may_master(false);
	demand(!b.nvme->in_flight && !reg_read(NVME_CSTS, 4));
	demand(!b.dev->ops->set_irqs(b.dev, b.irqs, 0, NULL));

	demand(!fstat(disk, &st) && st.st_size == DISK_LEN);
	demand(pread(disk, disk_is, DISK_LEN, 0) == DISK_LEN);
	demand(!b.readonly || !memcmp(disk_is, disk_was, DISK_LEN));
	return 0;
}
