/* SPDX-License-Identifier: Apache-2.0 */
/*
 * known - attacks that have worked on other VMMs, one claim each; docs/security.md says where each
 * was seen, and which of them are tested elsewhere.
 *
 * Needs two disks that start with DISK_MAGIC, an rng, two simulated edus, and somebody who types on
 * hvc0 without end.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "iommu.h"
#include "pci.h"
#include "simedu.h"
#include "virtio.h"
#include "lib/string.h"
#include "vmm/layout.h"

#define NR(array)    (sizeof(array) / sizeof((array)[0]))
#define OK	     VIRTIO_IOMMU_S_OK
#define SECTOR	     512u
#define PAGE	     0x1000ull
#define FRAME	     0x4000ull
#define DOMAIN	     7
#define IOVA	     0x20000000ull
#define DISK_MAGIC   "granule test disk"
#define NO_ANSWER    0x100
#define MAX_MAPPINGS (1u << 20) /* of a domain: docs/design.md, "Requests" */

static struct machine machine;
static struct iommu iommu;
static struct simedu edu, other;
static uint8_t data[SECTOR] __attribute__((aligned(4096)));
static uint8_t page[PAGE] __attribute__((aligned(0x4000)));

static unsigned read_disk(struct vdev *dev, uint64_t at, uint32_t len)
{
	struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_IN};
	uint8_t status = 0xee;
	struct seg segs[3] = {
		{.at = &hdr, .len = sizeof(hdr)},
		{.at = (void *)at, .len = len, .write = true},
		{.at = &status, .len = 1, .write = true},
	};

	return vq_request(dev, 0, segs, 3) < 0 ? NO_ANSWER : status;
}

static void check_reads(struct vdev *dev, const char *what)
{
	memset(data, 0, sizeof(data));
	claim_check(what, read_disk(dev, (uint64_t)data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("what it read", (uint64_t)memcmp(data, DISK_MAGIC, sizeof(DISK_MAGIC) - 1), 0);
}

static void start(struct vdev *dev, uint32_t id, unsigned nth)
{
	claim_check("it is there", vdev_find(id, nth, dev), true);
	claim_check("it starts", vdev_start(dev, 0, 1) == NULL, true);
}

static bool is_broken(struct vdev *dev)
{
	return vdev_reg(dev, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* A device may look at its queue a moment after the kick. */
static bool becomes_broken(struct vdev *dev)
{
	uint64_t end = now_us() + VQ_TIMEOUT_US;

	while (!is_broken(dev) && now_us() < end)
		;
	return is_broken(dev);
}

/* ---- virtio ---------------------------------------------------------------------------------- */

static void check_kicks(void)
{
	static const uint32_t queues[] = {1,	   2,	       0xff,	   0x100,     0xffff,
					  0x10000, 0x7fffffff, 0x80000000, 0xffffffff};
	struct vdev dev;

	claim_begin("kicks_of_queues_that_are_not_there_do_nothing");
	start(&dev, VIRTIO_ID_BLOCK, 0);
	for (unsigned i = 0; i < NR(queues); i++) {
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_NOTIFY, queues[i]);
		claim_check_at("it is broken", i, is_broken(&dev), false);
	}
	check_reads(&dev, "read");
	claim_end();
}

static void check_missing_queues(void)
{
	static const uint32_t queues[] = {1, 2, 0xffff, 0x10000, 0x80000000, 0xffffffff};
	struct vdev dev;

	claim_begin("registers_of_queues_that_are_not_there_are_empty");
	start(&dev, VIRTIO_ID_BLOCK, 0);
	for (unsigned i = 0; i < NR(queues); i++) {
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_SEL, queues[i]);
		claim_check_at("its size", i, vdev_reg(&dev, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
		for (unsigned reg = VIRTIO_MMIO_QUEUE_NUM; reg < VIRTIO_MMIO_CONFIG_GENERATION;
		     reg += 4)
			if (reg != VIRTIO_MMIO_QUEUE_NOTIFY && reg != VIRTIO_MMIO_STATUS)
				vdev_set_reg(&dev, reg, ~0u);
		claim_check_at("it is ready", i, vdev_reg(&dev, VIRTIO_MMIO_QUEUE_READY), 0);
	}
	check_reads(&dev, "read");
	claim_end();
}

static void check_live_queue(void)
{
	static const uint32_t sizes[] = {0, 1, 3, 0x8000, 0x10000, 0xffffffff};
	struct vdev dev;

	claim_begin("a_queue_that_is_ready_keeps_its_size_and_place");
	start(&dev, VIRTIO_ID_BLOCK, 0);
	vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_SEL, 0);
	for (unsigned i = 0; i < NR(sizes); i++) {
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_NUM, sizes[i]);
		for (unsigned reg = VIRTIO_MMIO_QUEUE_DESC_LOW; reg <= VIRTIO_MMIO_QUEUE_USED_HIGH;
		     reg += 4)
			vdev_set_reg(&dev, reg, sizes[i]);
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_READY, 1);
		check_reads(&dev, "read");
	}
	claim_end();
}

static void check_sizes(void)
{
	/* the low half of some is 0, or a size that could be */
	static const uint32_t sizes[] = {0,	  3,	   0x200,      0x8000,
					 0x10000, 0x10040, 0x80000000, 0xffffffff};
	struct vdev dev;

	claim_begin("queues_of_impossible_sizes_break_their_device_alone");
	claim_check("it is there", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true);
	for (unsigned i = 0; i < NR(sizes); i++) {
		vdev_reset(&dev);
		vdev_set_reg(&dev, VIRTIO_MMIO_STATUS, 3);
		vdev_set_reg(&dev, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
		vdev_set_reg(&dev, VIRTIO_MMIO_DRIVER_FEATURES, 1);
		vdev_set_reg(&dev, VIRTIO_MMIO_STATUS, 11);
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_SEL, 0);
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_NUM, sizes[i]);
		for (unsigned reg = VIRTIO_MMIO_QUEUE_DESC_LOW; reg <= VIRTIO_MMIO_QUEUE_USED_HIGH;
		     reg += 4)
			vdev_set_reg(&dev, reg, reg & 4 ? 0 : (uint32_t)(uint64_t)page);
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_READY, 1);
		vdev_set_reg(&dev, VIRTIO_MMIO_STATUS, 15);
		claim_check_at("ready, of an impossible size", i,
			       vdev_reg(&dev, VIRTIO_MMIO_QUEUE_READY), 0);
		vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	}
	claim_check("it starts again", vdev_start(&dev, 0, 1) == NULL, true);
	check_reads(&dev, "read");
	claim_end();
}

static void check_buffers(void)
{
	const struct {
		uint64_t at;
		uint32_t len;
	} bad[] = {
		{0, SECTOR},
		{LAYOUT_GICD_BASE, SECTOR},
		{LAYOUT_ITS_BASE + 0x10000, SECTOR},
		{LAYOUT_UART_BASE, SECTOR},
		{LAYOUT_VIRTIO_BASE, SECTOR},
		{LAYOUT_PCI_ECAM_BASE, SECTOR},
		{edu.bar, SECTOR},
		{BOARD_NOWHERE, SECTOR},
		{machine.ram_base - SECTOR / 2, SECTOR},
		{machine.ram_base + machine.ram_len - SECTOR / 2, SECTOR},
		{machine.ram_base + machine.ram_len, SECTOR},
		{(uint64_t)data, 0xfffffe00},
		{(uint64_t)data, 0x80000000},
		{1ull << 63, SECTOR},
		{0 - (uint64_t)SECTOR, SECTOR},
		{0 - (uint64_t)SECTOR / 2, SECTOR},
	};
	struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_IN};
	struct vdev dev, beside;
	uint8_t status;

	claim_begin("buffers_that_are_not_ram_break_their_device_alone");
	start(&beside, VIRTIO_ID_BLOCK, 1);
	for (unsigned i = 0; i < NR(bad); i++) {
		struct seg segs[3] = {
			{.at = &hdr, .len = sizeof(hdr)},
			{.at = (void *)bad[i].at, .len = bad[i].len, .write = true},
			{.at = &status, .len = 1, .write = true},
		};

		start(&dev, VIRTIO_ID_BLOCK, 0);
		vq_add(&dev.vq[0], segs, 3);
		vq_kick(&dev, &dev.vq[0]);
		claim_check_at("it is broken", i, becomes_broken(&dev), true);
		claim_check_at("something was answered", i,
			       *(volatile uint16_t *)&dev.vq[0].used->idx, 0);
		check_reads(&beside, "a disk beside it");
		start(&dev, VIRTIO_ID_RNG, 0);
		vq_add(&dev.vq[0], &segs[1], 1);
		vq_kick(&dev, &dev.vq[0]);
		claim_check_at("the rng is broken", i, becomes_broken(&dev), true);
		vdev_reset(&dev);
	}
	start(&dev, VIRTIO_ID_BLOCK, 0);
	check_reads(&dev, "read");
	claim_end();
}

/* A chain of two descriptors that is not one, before anybody can have seen it. */
static void spoil(struct vq *vq, unsigned row)
{
	static struct vring_desc table[2] __attribute__((aligned(16)));
	struct vring_desc *desc = vq->desc;

	table[0] = desc[0];
	table[0].flags &= (uint16_t)~VRING_DESC_F_NEXT;
	switch (row) {
	case 0:
		desc[1].addr = BOARD_NOWHERE;
		break;
	case 1:
		desc[1].addr = 0 - (uint64_t)16;
		break;
	case 2:
		desc[1].addr = machine.ram_base + machine.ram_len - 16;
		break;
	case 3:
		desc[0].len = 0xfffffe00;
		break;
	case 4: /* a loop */
		desc[1].next = 0;
		desc[1].flags |= VRING_DESC_F_NEXT;
		break;
	case 5:
		desc[0].next = 0xffff;
		break;
	case 6: /* what is read after what is written */
		desc[0].flags |= VRING_DESC_F_WRITE;
		desc[1].flags &= (uint16_t)~VRING_DESC_F_WRITE;
		break;
	case 7: /* a table in a table */
		table[0].flags |= VRING_DESC_F_INDIRECT;
		table[0].len = 16;
		desc[0] = (struct vring_desc){(uint64_t)table, 16, VRING_DESC_F_INDIRECT, 0};
		break;
	case 8: /* a table, and more */
		desc[0].addr = (uint64_t)table;
		desc[0].len = 16;
		desc[0].flags = VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT;
		break;
	case 9:
		desc[0] = (struct vring_desc){(uint64_t)table, 17, VRING_DESC_F_INDIRECT, 0};
		break;
	case 10:
		desc[0] = (struct vring_desc){(uint64_t)table, 0, VRING_DESC_F_INDIRECT, 0};
		break;
	case 11:
		desc[0] = (struct vring_desc){BOARD_GICD, 16, VRING_DESC_F_INDIRECT, 0};
		break;
	case 12:
		vq->avail->ring[0] = vq->size;
		break;
	default:
		vq->avail->ring[0] = 0xffff;
		break;
	}
}

#define SPOILS 14

/*
 * The devices that move bytes one way, by hand: each bad chain in each queue. What is typed comes
 * at any time, so there is no moment between a good chain and a bad one.
 */
static void check_chains(const char *name, uint32_t id, unsigned nr_queues)
{
	const uint64_t features = 1ull << VIRTIO_RING_F_INDIRECT_DESC;
	struct seg seg = {.at = page, .len = 1};
	struct vdev dev, beside;
	uint32_t head, len;

	claim_begin(name);
	memset(page, '\n', sizeof(page));
	start(&beside, VIRTIO_ID_BLOCK, 1);
	claim_check("it is there", vdev_find(id, 0, &dev), true);
	for (unsigned i = 0; i < nr_queues * SPOILS; i++) {
		unsigned queue = i / SPOILS;
		struct vq *vq = &dev.vq[queue];
		uint16_t flags = queue ? 0 : VRING_DESC_F_WRITE;

		claim_check_at("it starts", i, vdev_start(&dev, features, nr_queues) == NULL, true);
		vq->desc[0] = (struct vring_desc){(uint64_t)page, 32, flags | VRING_DESC_F_NEXT, 1};
		vq->desc[1] = (struct vring_desc){(uint64_t)page + 64, 32, flags, 0};
		vq->avail->ring[0] = 0;
		spoil(vq, i % SPOILS);
		barrier();
		*(volatile uint16_t *)&vq->avail->idx = 1;
		vq_kick(&dev, vq);
		claim_check_at("it is broken", i, becomes_broken(&dev), true);
		claim_check_at("something was answered", i, *(volatile uint16_t *)&vq->used->idx,
			       0);
	}
	check_reads(&beside, "a disk beside it");
	/* and each queue still does what it should */
	claim_check("it starts again", vdev_start(&dev, features, nr_queues) == NULL, true);
	if (nr_queues > 1)
		claim_check("it prints", (uint64_t)vq_request(&dev, 1, &seg, 1), 0);
	seg.write = true;
	vq_add(&dev.vq[0], &seg, 1);
	vq_kick(&dev, &dev.vq[0]);
	claim_check("it gives a byte", vq_wait(&dev.vq[0], &head, &len) && len == 1, true);
	vdev_reset(&dev);
	claim_end();
}

/* ---- PCI ------------------------------------------------------------------------------------- */

static void check_rom(void)
{
	uint64_t rom = pci_config(edu.rid, PCI_ROM_ADDRESS);

	claim_begin("a_rom_that_is_not_there_cannot_be_placed");
	for (unsigned bit = 0; bit < 32; bit++) {
		mmio_write32(rom, 1u << bit);
		claim_check_at("the ROM's address", bit, mmio_read32(rom), 0);
	}
	mmio_write32(rom, ~0u);
	claim_check("its size", mmio_read32(rom), 0);
	claim_end();
}

static void check_msix(void)
{
	uint64_t cap, table, pba;
	unsigned nr;

	claim_begin("accesses_across_the_ends_of_the_msix_table_reach_nobody");
	cap = pci_config(edu.rid, pci_capability(edu.rid, PCI_CAP_ID_MSIX));
	nr = (mmio_read16(cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
	table = edu.bar + (mmio_read32(cap + PCI_MSIX_TABLE) & PCI_MSIX_TABLE_OFFSET);
	pba = edu.bar + (mmio_read32(cap + PCI_MSIX_PBA) & PCI_MSIX_PBA_OFFSET);
	simedu_write(&edu, SIM_EDU_SCRATCH, 0x1234);
	pci_msix_set(edu.rid, edu.bar, 0, BOARD_DOORBELL, 0);
	pci_msix_enable(edu.rid, true);
	abort_expected = true;
	aborts = 0;
	for (unsigned size = 1; size <= 8; size *= 2) {
		for (unsigned off = 0; off < 16; off++) {
			mmio_write(table + nr * PCI_MSIX_ENTRY_SIZE - 8 + off, size, ~0ull);
			mmio_read(table + nr * PCI_MSIX_ENTRY_SIZE - 8 + off, size);
			mmio_write(table - 8 + off % 8, size < 8 - off % 8 ? size : 1, ~0ull);
			mmio_write(pba + off, size, ~0ull);
			mmio_read(pba + off, size);
			mmio_write(edu.bar + SIM_EDU_BAR_LEN - off, size, ~0ull);
			mmio_read(edu.bar + SIM_EDU_BAR_LEN - off, size);
		}
	}
	abort_expected = false;
	claim_check("aborts: accesses that were not looked at", aborts, 0);
	claim_check("the first entry's address", mmio_read32(table), (uint32_t)BOARD_DOORBELL);
	claim_check("and data", mmio_read32(table + PCI_MSIX_ENTRY_DATA), 0);
	claim_check("pending bits that were written", mmio_read32(pba) & 1, 0);
	claim_check("a register of the device", simedu_read(&edu, SIM_EDU_SCRATCH), ~0x1234u);
	pci_msix_enable(edu.rid, false);
	claim_end();
}

static void check_bars(void)
{
	const uint64_t places[] = {
		(uint64_t)page,
		machine.ram_base + machine.ram_len - 0x40000,
		LAYOUT_UART_BASE,
		LAYOUT_RTC_BASE,
		LAYOUT_GICD_BASE,
		LAYOUT_ITS_BASE,
		LAYOUT_VIRTIO_BASE,
		LAYOUT_PCI_ECAM_BASE,
		edu.bar,
		edu.bar + SIM_EDU_BAR_LEN / 2,
		0,
		~0ull,
		1ull << 63,
		LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN,
	};
	uint64_t bar = pci_config(other.rid, PCI_BASE_ADDRESS_0);
	uint32_t low = mmio_read32(bar), high = mmio_read32(bar + 4);
	struct vdev dev;

	claim_begin("a_bar_over_something_else_takes_nothing_away");
	claim_check("a disk", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true);
	simedu_write(&edu, SIM_EDU_SCRATCH, 0x4321);
	for (unsigned i = 0; i < NR(places); i++) {
		memset(page, (int)i + 1, sizeof(page));
		mmio_write32(bar, (uint32_t)places[i]);
		mmio_write32(bar + 4, (uint32_t)(places[i] >> 32));
		claim_check_at("memory", i, *(volatile uint8_t *)page, i + 1);
		*(volatile uint8_t *)(page + 8) = 0x77;
		claim_check_at("memory, written", i, *(volatile uint8_t *)(page + 8), 0x77);
		mmio_write8(BOARD_UART + 7, (uint8_t)(0x50 + i));
		claim_check_at("the UART", i, mmio_read8(BOARD_UART + 7), 0x50 + i);
		claim_check_at("the clock", i, mmio_read32(BOARD_RTC + 0xfe0) & 0xff, 0x31);
		claim_check_at("the GIC", i, mmio_read32(BOARD_GICD + 0xffe8) >> 4 & 0xf, 3);
		claim_check_at("a disk", i, vdev_reg(&dev, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BLOCK);
		claim_check_at("config space", i, mmio_read16(pci_config(edu.rid, 0)),
			       SIM_EDU_VENDOR);
		claim_check_at("its neighbour", i, simedu_read(&edu, SIM_EDU_SCRATCH), ~0x4321u);
	}
	mmio_write32(bar, low);
	mmio_write32(bar + 4, high);
	claim_check("itself, back in its place", simedu_read(&other, SIM_EDU_ID), SIM_EDU_ID_VALUE);
	claim_end();
}

/* ---- the virtio-iommu --------------------------------------------------------------------------
 */

static void start_iommu(void)
{
	claim_check("the virtio-iommu starts", iommu_start(&iommu, IOMMU_FEATURES) == NULL, true);
	mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG +
			    offsetof(struct virtio_iommu_config, bypass),
		    0);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
}

/* How the device in check_mmio_targets() sees memory. */
enum view { MAPPED, BYPASS_DOMAIN, NO_DOMAIN, NR_VIEWS };

static void start_view(enum view view)
{
	start_iommu();
	if (view == MAPPED)
		return;
	claim_check("detach", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	if (view == BYPASS_DOMAIN)
		claim_check("attach to a bypass domain",
			    iommu_attach(&iommu, DOMAIN, edu.rid, VIRTIO_IOMMU_ATTACH_F_BYPASS),
			    OK);
	else
		mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG +
				    offsetof(struct virtio_iommu_config, bypass),
			    1);
	/* there is such a way */
	claim_check_at("DMA to memory by its address", view,
		       simedu_copy(&edu, (uint64_t)page, 0, 64, SIM_EDU_TO_MEMORY), SIM_EDU_DONE);
}

static void check_mmio_targets(void)
{
	const uint64_t targets[] = {
		LAYOUT_GICD_BASE,
		LAYOUT_UART_BASE,
		LAYOUT_RTC_BASE,
		LAYOUT_VIRTIO_BASE,
		LAYOUT_PCI_ECAM_BASE,
		edu.bar,
		other.bar,
		BOARD_NOWHERE & ~(PAGE - 1),
		machine.ram_base + machine.ram_len,
		machine.ram_base - PAGE,
		LAYOUT_PCI_MEM64_BASE,
		0,
		1ull << 52,
		0 - PAGE,
	};

	claim_begin("a_device_cannot_be_sent_to_devices");
	simedu_write(&edu, SIM_EDU_SCRATCH, 0x5678);
	start_view(MAPPED);
	for (unsigned i = 0; i < NR(targets); i++) {
		for (uint32_t flags = IOMMU_RW; flags <= (IOMMU_RW | VIRTIO_IOMMU_MAP_F_MMIO);
		     flags += VIRTIO_IOMMU_MAP_F_MMIO)
			claim_check_at("map", i * 2 + flags / 4,
				       iommu_map(&iommu, DOMAIN, IOVA, IOVA + PAGE - 1, targets[i],
						 flags) == OK,
				       false);
		claim_check_at("DMA there", i, simedu_copy(&edu, IOVA, 0, 64, SIM_EDU_TO_MEMORY),
			       SIM_EDU_REFUSED_AT);
	}
	for (enum view view = MAPPED; view < NR_VIEWS; view++) {
		start_view(view);
		for (unsigned i = 0; i < NR(targets); i++) {
			claim_check_at("DMA by its address", view * 100 + i,
				       simedu_copy(&edu, targets[i], 0, 64, SIM_EDU_TO_MEMORY),
				       SIM_EDU_REFUSED_AT);
			claim_check_at("and from it", view * 100 + i,
				       simedu_copy(&edu, targets[i], 0, 64, 0), SIM_EDU_REFUSED_AT);
		}
	}
	start_iommu(); /* bypass is 0 again */
	claim_check("a register of its own", simedu_read(&edu, SIM_EDU_SCRATCH), ~0x5678u);
	claim_end();
}

static void check_pool(void)
{
	/* all but its ends out of step with the host's frames: bounced */
	uint64_t len = 1ull << 20, phys = machine.ram_base + 4 * len + PAGE, at = IOVA, mib = 0;
	unsigned status;

	claim_begin("bounce_memory_ends_and_comes_back");
	start_iommu();
	claim_check("the other device shares it", iommu_attach(&iommu, DOMAIN, other.rid, 0), OK);
	for (unsigned round = 0; round < 2; round++) {
		for (mib = 0, at = IOVA; mib < 1024; mib++, at += 2 * len) {
			status = iommu_map(&iommu, DOMAIN, at, at + len - 1, phys, IOMMU_RW);
			if (status != OK)
				break;
		}
		claim_check_at("the end of it", round, status, VIRTIO_IOMMU_S_NOMEM);
		/* docs/design.md: half of RAM and 64 MiB */
		claim_check_at("MiB, no more than there may be", round,
			       mib <= (machine.ram_len >> 21) + 64, true);
		claim_check_at("MiB, half of that at least", round,
			       mib >= ((machine.ram_len >> 21) + 64) / 2, true);
		claim_check_at("unmap all", round, iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	}
	print("note: %lu MiB of bounce memory\n", mib);
	claim_end();
}

/*
 * @nr mappings of whole frames to read, in step with the host's and all of the same memory, so that
 * none is bounced; as many as a queue takes with one kick. Return: the status of the last that was
 * answered.
 */
static unsigned map_frames(uint64_t at, unsigned nr, unsigned *made)
{
	static struct virtio_iommu_req_map reqs[VQ_SIZE / 2];
	struct vq *vq = &iommu.dev.vq[0];
	unsigned status = NO_ANSWER;
	uint32_t head, len;

	*made = 0;
	for (unsigned i = 0; i < nr; i++) {
		const struct seg segs[] = {
			{.at = &reqs[i], .len = offsetof(struct virtio_iommu_req_map, tail)},
			{.at = &reqs[i].tail, .len = sizeof(reqs[i].tail), .write = true},
		};

		reqs[i] = (struct virtio_iommu_req_map){
			.head.type = VIRTIO_IOMMU_T_MAP,
			.domain = DOMAIN,
			.virt_start = at + i * FRAME,
			.virt_end = at + i * FRAME + FRAME - 1,
			.phys_start = machine.ram_base + 0x1000000,
			.flags = VIRTIO_IOMMU_MAP_F_READ,
		};
		vq_add(vq, segs, 2);
	}
	vq_kick(&iommu.dev, vq);
	for (unsigned i = 0; i < nr; i++) {
		if (!vq_wait(vq, &head, &len))
			return NO_ANSWER;
		status = *(volatile uint8_t *)&reqs[i].tail.status;
		*made += status == OK;
	}
	return status;
}

static void check_mappings(void)
{
	uint64_t at = IOVA, start = now_us();
	unsigned status = OK, made = 0, n;

	claim_begin("mappings_end_and_can_all_be_taken_away");
	start_iommu();
	for (; status == OK && made <= MAX_MAPPINGS; made += n, at += n * FRAME)
		status = map_frames(at, VQ_SIZE / 2, &n);
	print("note: %u mappings in %lu ms\n", made, (now_us() - start) / 1000);
	claim_check("the end of it", status, VIRTIO_IOMMU_S_NOMEM);
	claim_check("mappings", made, MAX_MAPPINGS);
	claim_check("unmap all", iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	claim_check("map again",
		    iommu_map(&iommu, DOMAIN, IOVA, IOVA + PAGE - 1, (uint64_t)page, IOMMU_RW), OK);
	claim_check("and use it", simedu_copy(&edu, IOVA, 0, 64, 0), SIM_EDU_DONE);
	vdev_reset(&iommu.dev);
	claim_end();
}

void payload(void)
{
	if (dtb_read(boot_dtb, &machine) || !simedu_find(0, &edu) || !simedu_find(1, &other)) {
		print("FAIL known: it needs two simulated edus\n");
		return;
	}
	check_kicks();
	check_missing_queues();
	check_live_queue();
	check_sizes();
	check_buffers();
	check_chains("bad_chains_break_the_console_whatever_is_typed_and_printed",
		     VIRTIO_ID_CONSOLE, 2);
	check_chains("bad_chains_break_the_rng", VIRTIO_ID_RNG, 1);
	check_rom();
	check_msix();
	check_bars();
	check_mmio_targets();
	check_pool();
	check_mappings();
}
