/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_sim_edu - a hostile driver against the simulated test device, and against a DART of its own.
 *
 * The device masters memory of which some is refused, or RAM through a DART whose registers and
 * tables the driver writes itself (owner=guest). Where the driver keeps to the rules of docs/sim.md
 * the outcome of each DMA and each ring is known to the byte; whatever it does, no access is made
 * without bus mastering or after a reset, none outside of what a register has named, and none
 * through the DART that its own walker would not let pass.
 *
 * Files: vmm/sim_edu.c vmm/sim_dart.c vmm/sim_pci.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "iommu/dart_fmt.h"
#include "iommu/dart_regs.h"
#include "iommu/gmem.h"
#include "iommu/instance.h"
#include "vmm/sim_dart.h"
#include "vmm/sim_edu.h"

#define MAX_OPS	     150
#define PAGE_LEN     0x4000u
#define MEM	     UINT64_C(0x40000000) /* of RAM, and of memory without a DART */
#define MEM_LEN	     0x20000u
#define SID	     3u
#define RING_ENTRIES 32u

static struct bench {
	struct sim_edu *edu;
	struct pci_dev *dev;
	struct sim_dart *dart; /* NULL: straight to memory */
	struct gmem gmem;
	bool hostile, level;
	const struct dart_fmt *fmt;
	struct dart_geometry geo;
	/* What the driver knows. */
	bool wild;   /* nothing: it has written any register */
	bool master; /* the bus master bit */
	uint32_t causes, scratch;
	unsigned slow; /* steps aside within an access */
	/* Under lock. */
	bool may_master;
	uint64_t bad, bad_len; /* offset in memory, bytes: refused */
	uint64_t dma, dma_len, ring, ring_len, data, data_len, first, last;
} b;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Alignas(PAGE_LEN) uint8_t memory[MEM_LEN];
static uint8_t expected[MEM_LEN], buffer[SIM_EDU_BUFFER_LEN];
static int fds[SIM_EDU_VECS];

/* ---- memory -------------------------------------------------------------------------------------
 */

static bool inside(uint64_t addr, size_t len, uint64_t base, uint64_t base_len)
{
	return addr - base < base_len && len <= base_len - (addr - base);
}

/* refused - how much of an access to memory is carried out */
static size_t carried_out(uint64_t addr, size_t len)
{
	uint64_t off = addr - MEM;
	size_t can;

	if (off >= MEM_LEN || off - b.bad < b.bad_len)
		return 0;
	can = MIN(len, MEM_LEN - off);
	if (b.bad_len && b.bad >= off)
		can = MIN(can, b.bad - off);
	return can;
}

static int port_access(uint64_t addr, void *buf, size_t len, bool write)
{
	uint8_t *at;
	size_t can;

	/* Time for the rest of the world to change. */
	for (unsigned i = 0; i < __atomic_load_n(&b.slow, __ATOMIC_RELAXED); i++)
		sched_yield();
	pthread_mutex_lock(&lock);
	demand(b.may_master || b.hostile);
	if (!b.wild)
		demand((len <= 8 && addr / 8 == (addr + len - 1) / 8 &&
			inside(addr, len, b.dma, b.dma_len)) ||
		       (write && (inside(addr, len, b.ring, b.ring_len) ||
				  inside(addr, len, b.data, b.data_len))) ||
		       (b.hostile && b.first <= b.last && addr >= b.first &&
			addr + (len - 1) <= b.last && addr + (len - 1) >= addr));
	can = carried_out(addr, len);
	at = can ? memory + (addr - MEM) : NULL;
	if (can && write)
		memcpy(at, buf, can);
	else if (can)
		memcpy(buf, at, can);
	pthread_mutex_unlock(&lock);
	return can == len ? 0 : -EFAULT;
}

static int port_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	(void)ctx;
	return port_access(addr, buf, len, false);
}

static int port_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	(void)ctx;
	return port_access(addr, (void *)buf, len, true);
}

/* ---- registers ----------------------------------------------------------------------------------
 */

static uint64_t reg(uint64_t off, unsigned len)
{
	uint8_t data[8] = {0};

	demand(!b.dev->ops->read(b.dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len));
	return get_le64(data);
}

static void set(uint64_t off, unsigned len, uint64_t value)
{
	uint8_t data[8];

	put_le64(data, value);
	demand(!b.dev->ops->write(b.dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len));
}

static void set_master(bool on)
{
	uint8_t command[2] = {on ? PCI_COMMAND_MASTER : 0, 0};

	pthread_mutex_lock(&lock);
	b.may_master |= on;
	pthread_mutex_unlock(&lock);
	demand(!b.dev->ops->write(b.dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2));
	pthread_mutex_lock(&lock);
	b.may_master = on;
	pthread_mutex_unlock(&lock);
	b.master = on;
}

static void settle(void)
{
	while (reg(SIM_EDU_STATUS, 4) & SIM_EDU_BUSY)
		sched_yield();
}

static void windows(uint64_t dma_len, uint64_t ring_len, uint64_t data_len)
{
	pthread_mutex_lock(&lock);
	b.dma_len = dma_len;
	b.ring_len = ring_len;
	b.data_len = data_len;
	pthread_mutex_unlock(&lock);
}

/* see_all - what is in memory and buffer, where it need not be what was foreseen */
static void see_all(void)
{
	pthread_mutex_lock(&lock);
	memcpy(expected, memory, MEM_LEN);
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < sizeof(buffer); i += 8)
		put_le64(buffer + i, reg(SIM_EDU_BUFFER + i, 8));
}

static void check_memory(void)
{
	if (b.hostile || b.wild)
		return;
	pthread_mutex_lock(&lock);
	demand(!memcmp(expected, memory, MEM_LEN));
	pthread_mutex_unlock(&lock);
}

static void reset(void)
{
	pthread_mutex_lock(&lock);
	b.wild = true; /* what a hostile one may do changes within the reset */
	pthread_mutex_unlock(&lock);
	demand(!b.dev->ops->reset(b.dev));
	pthread_mutex_lock(&lock);
	b.may_master = false;
	b.wild = false;
	b.dma_len = b.ring_len = b.data_len = 0;
	b.first = 0;
	b.last = UINT32_MAX;
	pthread_mutex_unlock(&lock);
	b.master = false;
	b.causes = b.scratch = 0;
	demand(!reg(SIM_EDU_DMA_CMD, 4) && !reg(SIM_EDU_RING_CMD, 4) && !reg(SIM_EDU_IRQ, 4));
	demand(!reg(SIM_EDU_BUFFER, 8) && reg(SIM_EDU_SCRATCH, 4) == UINT32_MAX);
	if (!b.dart)
		see_all();
	set_master(true);
}

/* ---- DMA ----------------------------------------------------------------------------------------
 */

static uint64_t address(struct input *in)
{
	uint8_t how = take8(in);

	return how < 0xf0 ? MEM + take16(in) * (1u + how % 4) - (how & 0x80 ? 64 : 0) : take64(in);
}

/* copy - what a DMA does, as the device describes itself. Return: bytes. */
static uint32_t copy(uint64_t iova, uint32_t offset, uint32_t len, bool to_memory)
{
	uint32_t done = 0;

	while (done < len) {
		uint32_t n = (uint32_t)MIN(8 - (iova + done) % 8, len - done);
		uint64_t at = iova + done - MEM;
		size_t can = carried_out(iova + done, n);

		if (to_memory && can)
			memcpy(expected + at, buffer + offset + done, can);
		else if (can == n)
			memcpy(buffer + offset + done, expected + at, n);
		if (can < n)
			break;
		done += n;
	}
	return done;
}

/* lands - would a write of one byte through the DART arrive in RAM? */
static bool lands(uint64_t iova)
{
	uint64_t pa;

	return !sim_dart_translate(b.dart, iova, &pa) && gmem_ptr(&b.gmem, pa, 1);
}

static void dma(struct input *in)
{
	static uint8_t tables[2 * PAGE_LEN];
	uint8_t how = take8(in), probe = take8(in);
	uint32_t offset = how & 1 ? take32(in) : take16(in), count, result;
	uint32_t len = how & 2 ? take32(in) : take16(in) % 600u;
	uint64_t iova = address(in), pa;
	bool to_memory = how & 4, valid;
	uint32_t cmd = SIM_EDU_RUN | (to_memory ? SIM_EDU_TO_MEMORY : 0) |
		       (how & 8 ? SIM_EDU_NOTIFY | SIM_EDU_CAUSE(how >> 4 & 3) : 0);

	if (b.wild)
		return;
	settle();
	valid = len && offset <= SIM_EDU_BUFFER_LEN && len <= SIM_EDU_BUFFER_LEN - offset;
	pthread_mutex_lock(&lock);
	b.dma = iova;
	b.dma_len = valid ? len : 0;
	pthread_mutex_unlock(&lock);
	memcpy(tables, memory, sizeof(tables));
	set(SIM_EDU_DMA_IOVA, 8, iova);
	set(SIM_EDU_DMA_OFFSET, 4, offset);
	set(SIM_EDU_DMA_LEN, 4, len);
	set(SIM_EDU_DMA_CMD, 4, cmd);
	if (how & 0x40) { /* while it is under way: it goes where it was told to */
		set(SIM_EDU_DMA_IOVA, 8, ~iova);
		demand(!valid || reg(SIM_EDU_DMA_IOVA, 8) == iova ||
		       !(reg(SIM_EDU_STATUS, 4) & SIM_EDU_BUSY));
	}
	if (how & 0x80 && probe & 1 && !b.dart) { /* it is no more */
		__atomic_store_n(&b.slow, probe, __ATOMIC_RELAXED);
		for (unsigned i = 0; i < (unsigned)(probe >> 2); i++)
			sched_yield();
		reset();
		__atomic_store_n(&b.slow, 0, __ATOMIC_RELAXED);
		return;
	}
	if (how & 0x80) { /* it is cut off */
		set_master(false);
		settle();
		result = (uint32_t)reg(SIM_EDU_DMA_RESULT, 4);
		demand(result > SIM_EDU_NONE && result <= SIM_EDU_INVALID);
		if (cmd & SIM_EDU_NOTIFY)
			b.causes |= 1u << (how >> 4 & 3);
		set_master(true);
		if (!b.dart)
			see_all();
		return;
	}
	settle();
	if (cmd & SIM_EDU_NOTIFY)
		b.causes |= 1u << (how >> 4 & 3);
	result = (uint32_t)reg(SIM_EDU_DMA_RESULT, 4);
	count = (uint32_t)reg(SIM_EDU_DMA_COUNT, 4);
	if (!valid)
		demand(result == SIM_EDU_INVALID && !count);
	else if (!b.master)
		demand(result == SIM_EDU_NO_MASTER && !count);
	else
		demand(result == (count == len ? SIM_EDU_DONE : SIM_EDU_REFUSED_AT));
	if (valid && b.master && !b.dart)
		demand(copy(iova, offset, len, to_memory) == count || b.hostile);
	/* Through a DART: what was not refused is there, the next word is refused, at either end.
	 */
	if (valid && b.master && b.dart && to_memory && !memcmp(tables, memory, sizeof(tables))) {
		if (count && probe % len < count) {
			demand(!sim_dart_translate(b.dart, iova + probe % len, &pa));
			demand(gmem_ptr(&b.gmem, pa, 1));
		}
		if (count < len)
			demand(!lands(iova + count) ||
			       !lands(iova + count + MIN(7 - (iova + count) % 8, len - count - 1)));
	}
	if (b.hostile && !b.dart)
		see_all();
	windows(0, b.ring_len, b.data_len);
}

/* ---- the ring -----------------------------------------------------------------------------------
 */

static void ring(struct input *in)
{
	uint8_t how = take8(in);
	uint32_t entries = how & 1 ? take32(in) : 1 + take8(in) % RING_ENTRIES;
	uint32_t words = how & 2 ? take32(in) : 1 + take8(in) % 6,
		 flag = take8(in) % (words + !words);
	uint32_t payload = how & 4 ? take32(in) : take8(in) % 6;
	uint64_t iova = address(in) & ~(how & 0x10 ? UINT64_C(1) : UINT64_C(7)), seed = take64(in);
	uint64_t at = (how & 8 ? address(in) : MEM + MEM_LEN / 2) & ~UINT64_C(7), count;
	bool valid, whole;

	if (b.wild || b.dart)
		return;
	valid = entries && entries <= SIM_EDU_RING_MAX_ENTRIES && words <= SIM_EDU_RING_MAX_WORDS &&
		payload <= SIM_EDU_RING_MAX_WORDS && flag < words && iova % 8 == 0;
	settle();
	set(SIM_EDU_RING_CMD, 4, 0);
	pthread_mutex_lock(&lock);
	b.ring = iova;
	b.data = at;
	b.ring_len = valid ? (uint64_t)entries * words * 8 : 0;
	b.data_len = valid ? (uint64_t)entries * payload * 8 : 0;
	whole = carried_out(iova, b.ring_len) == b.ring_len &&
		carried_out(at, b.data_len) == b.data_len;
	pthread_mutex_unlock(&lock);
	set(SIM_EDU_RING_IOVA, 8, iova);
	set(SIM_EDU_RING_DATA, 8, at);
	set(SIM_EDU_RING_SEED, 8, seed);
	set(SIM_EDU_RING_ENTRIES, 4, entries);
	set(SIM_EDU_RING_WORDS, 4, words);
	set(SIM_EDU_RING_PAYLOAD, 4, payload);
	set(SIM_EDU_RING_FLAG, 4, flag);
	set(SIM_EDU_RING_CMD, 4, SIM_EDU_RING_RUN | (how & 0x60) >> 4 | (how & 0x80) >> 4);
	if (!valid)
		demand(!(reg(SIM_EDU_RING_CMD, 4) & SIM_EDU_RING_RUN));
	/* It goes on as it began. */
	if (reg(SIM_EDU_RING_CMD, 4) & SIM_EDU_RING_RUN && valid && whole && b.master) {
		set(SIM_EDU_RING_WORDS, 4, UINT32_MAX);
		set(SIM_EDU_RING_ENTRIES, 4, 0);
		demand(reg(SIM_EDU_RING_WORDS, 4) == words);
	}
	if (entries <= RING_ENTRIES && b.master) {
		do {
			sched_yield();
			count = reg(SIM_EDU_RING_COUNT, 8);
		} while (reg(SIM_EDU_RING_CMD, 4) & SIM_EDU_RING_RUN && count < entries);
		demand(count <= entries);
		if (valid && whole)
			demand(count == entries);
	}
	set(SIM_EDU_RING_CMD, 4, 0);
	windows(0, 0, 0);
	count = reg(SIM_EDU_RING_COUNT, 8);
	/* Where nothing overlaps each word is known. */
	if (valid && whole && !b.hostile &&
	    (iova + 8ull * entries * words <= at || at + 8ull * entries * payload <= iova))
		for (uint64_t n = 0; n < count && count <= entries; n++) {
			for (unsigned i = 0; i < words; i++)
				demand(get_le64(memory + (iova - MEM) + 8 * (n * words + i)) ==
				       (i == flag ? n + 1 : sim_edu_ring_word(seed, n, i)));
			for (unsigned i = 0; i < payload; i++)
				demand(get_le64(memory + (at - MEM) + 8 * (n * payload + i)) ==
				       sim_edu_ring_word(seed, n, SIM_EDU_RING_MAX_WORDS + i));
		}
	b.causes = (uint32_t)reg(SIM_EDU_IRQ, 4);
	see_all();
}

/* ---- the DART that is the driver's --------------------------------------------------------------
 */

static void dart_set(uint32_t off, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	sim_dart_access(b.dart, off, data, 4, true);
}

static void dart_irq(void *ctx, bool level)
{
	(void)ctx;
	demand(level != b.level);
	b.level = level;
}

static bool is_t8110(void)
{
	return b.geo.ias == 36;
}

/* map - as a driver does: top table in page 0, leaves in page 1, then an entry */
static void map(struct input *in)
{
	uint8_t how = take8(in);
	uint64_t iova = MEM + (uint64_t)(how % 8) * PAGE_LEN, pte;
	struct dart_leaf leaf = {
		.pa = MEM + (uint64_t)(take8(in) % 9) * PAGE_LEN, /* the last one is no RAM */
		.prot = 1 + (how >> 3) % 3,
		.last = PAGE_LEN - 1,
	};
	struct dart_geometry wide = b.geo;

	wide.oas = b.fmt->oas;
	if (how & 0x20) {
		leaf.first = take16(in) % PAGE_LEN & ~3u;
		leaf.last = leaf.first | 0x3ff;
	}
	demand(!dart_table_pack(b.fmt, &wide, MEM + PAGE_LEN, &pte));
	put_le64(memory + 8 * dart_index(&b.geo, 1, iova), pte);
	if (dart_leaf_pack(b.fmt, &wide, &leaf, &pte))
		return;
	put_le64(memory + PAGE_LEN + 8 * dart_index(&b.geo, 0, iova), pte);
	if (is_t8110()) {
		dart_set(DART_T8110_ENABLE_STREAMS(0), 1u << SID);
		dart_set(DART_T8110_TTBR(SID),
			 (uint32_t)FIELD_PREP(DART_T8110_TTBR_ADDR_MASK,
					      MEM >> DART_T8110_TTBR_ADDR_LG2) |
				 DART_T8110_TTBR_VALID);
		dart_set(DART_T8110_TCR(SID), DART_T8110_TCR_TRANSLATE);
		dart_set(DART_T8110_TLB_CMD, 0);
	} else {
		dart_set(DART_V1_STREAMS_ENABLE, 1u << SID);
		dart_set(DART_V1_TTBR(SID, 0),
			 (uint32_t)(MEM >> DART_V1_TTBR_ADDR_LG2) | DART_V1_TTBR_VALID);
		dart_set(DART_V1_TCR(SID), DART_V1_TCR_TRANSLATE);
		dart_set(DART_V1_STREAM_SELECT(0), 1u << SID);
		dart_set(DART_V1_STREAM_COMMAND, DART_V1_STREAM_COMMAND_INVALIDATE);
	}
}

static void dart_register(struct input *in)
{
	uint8_t how = take8(in), data[8];
	uint64_t off = take16(in) % (SIM_DART_MMIO_LEN + 8);
	unsigned len = how & 0x40 ? 1u << how % 4 : 4;
	bool answered;

	if (!(how & 0x20))
		off &= ~UINT64_C(3);
	answered = len == 4 && off % 4 == 0 && off < SIM_DART_MMIO_LEN;
	take(in, data, sizeof(data));
	if (how & 0x80) {
		sim_dart_access(b.dart, off, data, len, true);
		return;
	}
	memset(data, 0, sizeof(data));
	sim_dart_access(b.dart, off, data, len, false);
	for (unsigned i = 0; i < sizeof(data); i++)
		demand(data[i] == (i < len ? 0xff : 0) || answered);
}

/* ---- an input -----------------------------------------------------------------------------------
 */

static void hostile_bounds(struct input *in)
{
	uint64_t first = address(in), last = address(in);

	if (b.wild || !b.hostile)
		return;
	set(SIM_EDU_PAUSE, 4, 1);
	pthread_mutex_lock(&lock);
	b.first = first;
	b.last = last;
	pthread_mutex_unlock(&lock);
	set(SIM_EDU_FIRST, 8, first);
	set(SIM_EDU_LAST, 8, last);
	set(SIM_EDU_SECRET, 8, take8(in));
	set(SIM_EDU_PAUSE, 4, take8(in) & 1);
}

static void step(struct input *in)
{
	uint8_t how, bytes[8];
	uint64_t off;
	unsigned len;

	switch (take8(in) % 12) {
	case 0:
	case 1:
	case 2:
		dma(in);
		break;
	case 3:
		ring(in);
		break;
	case 4: /* the buffer, whose bytes are known */
		how = take8(in);
		len = 1u << how % 4;
		off = take16(in) & ~(len - 1);
		settle();
		if (how & 0x80) {
			take(in, bytes, 8);
			set(SIM_EDU_BUFFER + off, len, get_le64(bytes));
			memcpy(buffer + off, bytes, len);
		} else if (!b.wild && !b.dart) {
			put_le64(bytes, reg(SIM_EDU_BUFFER + off, len));
			demand(!memcmp(bytes, buffer + off, len));
		}
		break;
	case 5:
		how = take8(in);
		set(SIM_EDU_IRQ_RAISE, 4, how >> 4);
		b.causes |= how >> 4;
		set(SIM_EDU_IRQ_ACK, 4, how & 15);
		b.causes &= ~(how & 15u);
		demand(b.wild || reg(SIM_EDU_IRQ, 4) == b.causes);
		break;
	case 6:
		b.scratch = take32(in);
		set(SIM_EDU_SCRATCH, 4, b.scratch);
		demand(reg(SIM_EDU_SCRATCH, 4) == (uint32_t)~b.scratch);
		demand(reg(SIM_EDU_ID, 4) == SIM_EDU_ID_VALUE && !reg(SIM_EDU_ID, 2));
		break;
	case 7:
		pthread_mutex_lock(&lock);
		b.bad = take16(in) * 2u;
		b.bad_len = take8(in);
		pthread_mutex_unlock(&lock);
		break;
	case 8:
		how = take8(in);
		if (how & 0x80)
			reset();
		else
			set_master(how & 1);
		break;
	case 9:
		hostile_bounds(in);
		break;
	case 10: /* any register at all */
		how = take8(in);
		len = 1u << how % 4;
		off = take16(in) % 0x200u & ~(len - 1);
		if (!(how & 0x80)) {
			reg(off, len);
			break;
		}
		pthread_mutex_lock(&lock);
		b.wild = true;
		pthread_mutex_unlock(&lock);
		set(off, len, how & 0x10 ? address(in) : take32(in));
		break;
	case 11:
		if (!b.dart)
			check_memory();
		else if (take8(in) & 1)
			map(in);
		else
			dart_register(in);
		break;
	}
}

static void power_on(uint8_t how)
{
	struct sim_edu_cfg cfg = {
		.name = "edu",
		.hostile = how & 1,
		.port = {port_read, port_write, NULL},
	};
	struct sim_dart_cfg dart = {
		.kind = (how >> 2) % 3,
		.name = "dart",
		.sid = SID,
		.gmem = &b.gmem,
		.irq = dart_irq,
	};
	char error[256];

	memset(&b, 0, sizeof(b));
	for (unsigned i = 0; i < MEM_LEN; i++)
		memory[i] = how & 2 ? 0 : (uint8_t)(i * 3 + i / 256);
	memcpy(expected, memory, MEM_LEN);
	memset(buffer, 0, sizeof(buffer));
	b.hostile = cfg.hostile;
	b.last = UINT32_MAX;
	if (how & 2) {
		demand(!gmem_add(&b.gmem, MEM, MEM_LEN, memory));
		demand(!sim_dart_create(&dart, &b.dart, error, sizeof(error)));
		cfg.port = sim_dart_port(b.dart);
		b.fmt = dart.kind == SIM_DART_T8103 ? &dart_fmt_1 : &dart_fmt_2;
		demand(!dart_geometry_init(&b.geo, b.fmt, 14,
					   dart.kind == SIM_DART_T8110 ? 36 : 32));
	}
	demand(!sim_edu_create(&cfg, &b.edu));
	b.dev = sim_edu_dev(b.edu);
	demand(!b.dev->ops->set_irqs(b.dev,
				     how & 0x20 ? VFIO_PCI_INTX_IRQ_INDEX : VFIO_PCI_MSIX_IRQ_INDEX,
				     how & 0x20 ? 1 : SIM_EDU_VECS, fds));
	set_master(true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	if (!fds[0])
		for (unsigned i = 0; i < SIM_EDU_VECS; i++)
			fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	power_on(take8(&in));
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	/* Whatever it was told, it ends, and a good driver is served. */
	reset();
	if (!b.dart) {
		static const uint8_t to_memory[] = {4, 0, 8, 0, 100, 0, 0, 16, 0};

		in = (struct input){to_memory, sizeof(to_memory)};
		b.bad_len = 0;
		dma(&in);
		demand(reg(SIM_EDU_DMA_RESULT, 4) == SIM_EDU_DONE);
		check_memory();
	}
	sim_edu_stop(b.edu);
	pthread_mutex_lock(&lock);
	b.hostile = b.may_master = false; /* nothing more */
	pthread_mutex_unlock(&lock);
	sim_edu_destroy(b.edu);
	sim_dart_destroy(b.dart);
	return 0;
}
