/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_guard - a hostile driver against what reads along with it: the guards of NVMe, virtio and
 * e1000e functions.
 *
 * What the driver writes to registers and queues is looked at before the device sees it. Whatever
 * that is: of RAM nothing changes but the opcode that the NVMe guard is there for, in entries that
 * a doorbell has announced, of which none is left out; the mediator hears only of rings that it can
 * have, and of none after a reset; feature bits that must be hidden are, in answers of any size.
 *
 * Files: vmm/nvme_guard.c vmm/virtio_guard.c vmm/e1000e_guard.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "vmm/e1000e_guard.h"
#include "vmm/nvme_guard.h"
#include "vmm/virtio_guard.h"

#define MAX_OPS	 300
#define RAM	 UINT64_C(0x40000000)
#define RAM_LEN	 0x8000u
#define G	 0x1000u
#define NR_PAGES 32u /* of IOVA space, from 0 on; the rest is not mapped */
#define ENTRY	 64u
#define BAR	 2u
#define OFF	 0x1000u

#define DBBUF	0x7c
#define FABRICS 0x7f

#define HIDDEN                                                                                     \
	(BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) | BIT(40) /* RING_RESET   \
										    */)

static uint8_t ram[RAM_LEN], before[RAM_LEN]; /* before: and what should come of it */

static struct bench {
	struct gmem gmem;
	uint64_t pages[NR_PAGES]; /* gpa; odd: not mapped */
	unsigned looks;
	/* NVMe */
	struct nvme_guard nvme;
	uint64_t asq;
	uint32_t nr, tail;
	/* virtio */
	struct virtio_guard virtio;
	bool live[MEDIATOR_MAX_RINGS];
	uint8_t common[64]; /* the device's registers */
	bool has_cap, odd_page;
	uint32_t page;
} b;

static char endpoint_storage;
#define EP ((struct endpoint *)&endpoint_storage)

int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	demand(ep == EP && access == MAP_READ);
	b.looks++;
	if (iova / G >= NR_PAGES || b.pages[iova / G] & 1)
		return -EFAULT;
	*gpa = b.pages[iova / G] + iova % G;
	return 0;
}

int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place)
{
	demand(ep == EP);
	if (place && place->cpu_head % 4)
		return -EINVAL;
	if (ring >= MEDIATOR_MAX_RINGS) {
		demand(place); /* nobody forgets one that he could not have had */
		return -ENOSPC;
	}
	b.live[ring] = place;
	return 0;
}

static uint32_t read_common(void *ctx, unsigned off, unsigned len)
{
	demand(ctx == &b && (len == 2 || len == 4) && off % len == 0 &&
	       off + len <= sizeof(b.common));
	return len == 2 ? get_le16(b.common + off) : get_le32(b.common + off);
}

/* ---- NVMe ---------------------------------------------------------------------------------------
 */

static void nvme_write(uint64_t off, uint64_t val, unsigned len)
{
	uint32_t max = b.nr, nr = 0;
	uint8_t bytes[8];

	put_le64(bytes, val);
	memcpy(before, ram, RAM_LEN);
	if (len >= 4) {
		if (off == 0x14 && !(val & 1)) {
			b.tail = 0;
		} else if (off == 0x24) {
			b.nr = (val & 0xfff) + 1;
		} else if (off == 0x28) {
			b.asq = len == 8 ? val : (b.asq & ~(uint64_t)UINT32_MAX) | (uint32_t)val;
		} else if (off == 0x2c) {
			b.asq = (b.asq & UINT32_MAX) | val << 32;
		} else if (off == 0x1000 && (val & 0xffff) < b.nr) {
			for (b.tail %= b.nr; b.tail != (val & 0xffff);
			     b.tail = (b.tail + 1) % b.nr, nr++) {
				uint64_t iova = b.asq + b.tail * ENTRY, gpa;

				if (endpoint_translate(EP, iova, MAP_READ, &gpa))
					continue;
				if (gpa - RAM < RAM_LEN && ENTRY <= RAM_LEN - (gpa - RAM) &&
				    before[gpa - RAM] == DBBUF)
					before[gpa - RAM] = FABRICS;
			}
		}
	}
	b.looks = 0;
	nvme_guard_write(&b.nvme, EP, &b.gmem, off, bytes, len);
	demand(b.looks == nr && nr <= max);
	demand(!memcmp(ram, before, RAM_LEN));
}

static void nvme(struct input *in)
{
	static const uint16_t regs[] = {0x14, 0x24, 0x28, 0x2c, 0x1000, 0x1000, 0x1004, 0};
	uint8_t how = take8(in);
	uint64_t off = regs[how % 8];
	unsigned len = 1u << (how >> 3) % 4;

	if (how & 0x80)
		off = take16(in);
	if (off == 0x1000)
		nvme_write(off, take16(in), len);
	else
		nvme_write(off, how & 0x40 ? take64(in) : take32(in) % 0x20000, len);
}

/* ---- virtio -------------------------------------------------------------------------------------
 */

static void virtio_cap(struct input *in)
{
	uint8_t cap[sizeof(struct virtio_pci_cap) + 4], how = take8(in);
	unsigned len = how & 0x40 ? how % sizeof(cap) : sizeof(struct virtio_pci_cap);

	take(in, cap, sizeof(cap));
	if (!(how & 0x80)) {
		cap[offsetof(struct virtio_pci_cap, cfg_type)] = VIRTIO_PCI_CAP_COMMON_CFG;
		cap[offsetof(struct virtio_pci_cap, bar)] = BAR;
		put_le32(cap + offsetof(struct virtio_pci_cap, offset), OFF);
	}
	virtio_guard_cap(&b.virtio, cap, len);
	if (len < sizeof(struct virtio_pci_cap))
		demand(b.has_cap == b.virtio.found);
	b.has_cap = b.virtio.found;
}

static void virtio_write(struct input *in)
{
	static const uint8_t regs[] = {
		VIRTIO_PCI_COMMON_DFSELECT, VIRTIO_PCI_COMMON_STATUS,	 VIRTIO_PCI_COMMON_Q_SELECT,
		VIRTIO_PCI_COMMON_Q_ENABLE, VIRTIO_PCI_COMMON_Q_AVAILLO, VIRTIO_PCI_COMMON_Q_USEDLO,
	};
	static const uint8_t lens[] = {4, 1, 2, 2, 4, 4};
	uint8_t how = take8(in), bytes[8];
	unsigned reg = regs[how % 6], len = lens[how % 6], bar = b.virtio.bar;
	uint64_t off, val = how & 0x40 ? take64(in) : take8(in);
	bool ok, ours;

	if (how & 0x20) { /* of any size, anywhere */
		reg = take8(in);
		len = 1u << take8(in) % 4;
		bar = take8(in) % 6;
	}
	off = b.virtio.off + reg;
	put_le64(bytes, val);
	ours = b.virtio.found && bar == b.virtio.bar;
	ok = virtio_guard_write(&b.virtio, EP, bar, off, bytes, len, read_common, &b);
	demand(ok || (ours && reg == VIRTIO_PCI_COMMON_Q_ENABLE));
	if (ours && reg == VIRTIO_PCI_COMMON_DFSELECT) {
		b.page = (uint32_t)(len == 8 ? val : val & (BIT(8 * len) - 1));
		b.odd_page = len != 4;
	}
	if (ours && reg == VIRTIO_PCI_COMMON_STATUS && !(val & 0xff)) {
		b.page = 0;
		for (unsigned i = 0; i < MEDIATOR_MAX_RINGS; i++)
			demand(!b.live[i]);
	}
	if (ok && ours && reg == VIRTIO_PCI_COMMON_Q_ENABLE && len == 2 && val == 1)
		demand(b.live[get_le16(b.common + VIRTIO_PCI_COMMON_Q_SELECT)]);
	if (reg + len <= sizeof(b.common))
		memcpy(b.common + reg, bytes, len);
}

static void virtio_read(struct input *in)
{
	uint8_t how = take8(in), bytes[8], was[8];
	unsigned len = 1u << how % 4, bar = how & 0x80 ? take8(in) : b.virtio.bar;
	int delta = how >> 2 & 0x1f;
	uint64_t off = b.virtio.off + VIRTIO_PCI_COMMON_DF + (uint64_t)delta - 8;

	memset(bytes, how & 0x40 ? take8(in) : 0xff, sizeof(bytes));
	memcpy(was, bytes, sizeof(was));
	virtio_guard_answer(&b.virtio, bar, off, bytes, len);
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		unsigned at = (unsigned)(delta - 8 + (int)i);
		uint8_t hidden = 0;

		if (b.virtio.found && bar == b.virtio.bar && i < len && at < 4 && b.page < 2)
			hidden = (uint8_t)(HIDDEN >> (32 * b.page + 8 * at));
		demand(bytes[i] == (was[i] & ~hidden));
	}
}

/* ---- e1000e -------------------------------------------------------------------------------------
 */

static void e1000e(struct input *in)
{
	uint8_t how = take8(in), bytes[8];
	uint64_t off = how & 0x80 ? take16(in) : 0x100;
	unsigned len = 1u << how % 4;

	take(in, bytes, sizeof(bytes));
	/* LPE, or a descriptor type that splits packets, in the receive control register */
	demand(e1000e_guard_write(off, bytes, len) ==
	       (off == 0x100 && len >= 4 && get_le32(bytes) & 0xc20));
	demand(is_e1000e(0x8086, get_le16(bytes)) ==
	       (get_le16(bytes) == 0x10d3 || get_le16(bytes) == 0x10f6 ||
		get_le16(bytes) == 0x150c));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	uint8_t how;

	memset(&b, 0, sizeof(b));
	memset(ram, DBBUF, RAM_LEN);
	b.nr = 1;
	demand(!gmem_add(&b.gmem, RAM, RAM_LEN, ram));
	for (unsigned i = 0; i < NR_PAGES; i++)
		b.pages[i] = i % 5 == 4 ? 1 : RAM + i * 7 % 10 * G; /* some are no RAM */
	for (unsigned i = 0; in.left && i < MAX_OPS; i++) {
		switch (take8(&in) % 8) {
		case 0:
		case 1:
			nvme(&in);
			break;
		case 2:
			how = take8(&in);
			b.pages[how % NR_PAGES] =
				how & 0x80 ? take64(&in) : RAM + take16(&in) * 8ull;
			break;
		case 3: /* RAM: entries */
			how = take8(&in);
			memset(ram + take16(&in) % (RAM_LEN - 256), how, take8(&in));
			break;
		case 4:
			virtio_cap(&in);
			break;
		case 5:
			virtio_write(&in);
			break;
		case 6:
			virtio_read(&in);
			break;
		case 7:
			e1000e(&in);
			break;
		}
	}
	virtio_guard_reset(&b.virtio, EP);
	for (unsigned i = 0; i < MEDIATOR_MAX_RINGS; i++)
		demand(!b.live[i]);
	return 0;
}
