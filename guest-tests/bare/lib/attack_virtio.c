/* SPDX-License-Identifier: Apache-2.0 */
/* Source of what a driver should do: virtio 1.3, sections 2.7, 3.1, 4.2, 5.1 to 5.4, 5.13. */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_iommu.h>

#include "attack.h"
#include "board.h"
#include "cpu.h"
#include "virtio.h"
#include "lib/string.h"

#define QUEUES	   4 /* of a device whose rings have a place of their own */
#define QUEUE_ROOM 0x4000ull
#define AVAIL_AT   0x1000
#define USED_AT	   0x2000
#define ENTRIES	   256u

/* Requests are built in the arena, where others may change them under way; the console's output
 * behind its rings. */
#define REQUEST_LEN 0x100
#define OUTPUT_AT   0x3000
#define OUTPUT_LEN  0x1000

#define CONSOLE_TX 1

static struct attack_vdev *any_vdev(struct dice *dice)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		struct attack_vdev *dev = &targets.vdev[below(dice, targets.nr_vdevs)];

		if (targets.viommu || dev->id != VIRTIO_ID_IOMMU)
			return dev;
	}
	return NULL;
}

/* Rings of a device's queue; the last are shared by all whose numbers are higher. */
static uint64_t rings_at(const struct attack_vdev *dev, unsigned queue)
{
	unsigned n =
		(unsigned)(dev - targets.vdev) * QUEUES + (queue < QUEUES ? queue : QUEUES - 1);

	return arena.open + n * QUEUE_ROOM;
}

/*
 * What a console prints is on the host's disk, and in the report's way: its chains may be as bad as
 * all others, but what can be printed of them is bytes, not all of memory again and again.
 */
static bool is_output(const struct attack_vdev *dev, unsigned queue)
{
	return dev->id == VIRTIO_ID_CONSOLE && queue == CONSOLE_TX;
}

static uint32_t output_length(struct dice *dice)
{
	return one_in(dice, 4) ? 0x80000000u | (uint32_t)roll(dice) : one_in(dice, 16);
}

static void reg(const struct attack_vdev *dev, unsigned off, uint32_t val)
{
	mmio_write32(dev->base + off, val);
}

static void set_address(const struct attack_vdev *dev, unsigned low, uint64_t addr)
{
	reg(dev, low, (uint32_t)addr);
	reg(dev, low + 4, (uint32_t)(addr >> 32));
}

static void start_queue(struct dice *dice, const struct attack_vdev *dev, unsigned queue)
{
	uint64_t at = rings_at(dev, queue);
	uint32_t size = 1u << below(dice, 9);

	if (one_in(dice, 16))
		size = (uint32_t)arena_value(dice); /* 0, odd, too large */
	reg(dev, VIRTIO_MMIO_QUEUE_SEL, queue);
	reg(dev, VIRTIO_MMIO_QUEUE_NUM, size);
	set_address(dev, VIRTIO_MMIO_QUEUE_DESC_LOW, one_in(dice, 16) ? arena_address(dice) : at);
	set_address(dev, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
		    one_in(dice, 16) ? arena_address(dice) : at + AVAIL_AT);
	set_address(dev, VIRTIO_MMIO_QUEUE_USED_LOW,
		    one_in(dice, 16) ? arena_address(dice) : at + USED_AT);
	reg(dev, VIRTIO_MMIO_QUEUE_READY, one_in(dice, 16) ? (uint32_t)roll(dice) : 1);
}

bool attack_restart(struct dice *dice)
{
	struct attack_vdev *dev = any_vdev(dice);
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	if (!dev)
		return false;
	if (mmio_read32(dev->base + VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET)
		__atomic_fetch_add(&dev->nr_broken, 1, __ATOMIC_RELAXED);
	reg(dev, VIRTIO_MMIO_STATUS, 0); /* with whatever is under way */
	if (one_in(dice, 4))
		return true;
	for (unsigned q = 0; q < QUEUES; q++)
		memset((void *)(rings_at(dev, q) + AVAIL_AT), 0,
		       4); /* or no index would be in range */
	reg(dev, VIRTIO_MMIO_STATUS, status);
	for (unsigned half = 0; half < 2; half++) {
		uint32_t features;

		reg(dev, VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
		reg(dev, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
		features = mmio_read32(dev->base + VIRTIO_MMIO_DEVICE_FEATURES);
		if (one_in(dice, 4))
			features &= (uint32_t)roll(dice) | half;
		if (one_in(dice, 32))
			features = (uint32_t)roll(dice);
		reg(dev, VIRTIO_MMIO_DRIVER_FEATURES, features);
	}
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	if (!one_in(dice, 32))
		reg(dev, VIRTIO_MMIO_STATUS, status);
	for (unsigned q = 0; q < dev->nr_queues + one_in(dice, 8); q++) {
		if (!one_in(dice, 16))
			start_queue(dice, dev, q);
	}
	reg(dev, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
	return true;
}

/* ---- requests: as they should be, more or less ---- */

struct piece {
	uint64_t at;
	uint32_t len;
	bool write;
};

static unsigned blk_request(struct dice *dice, uint64_t at, struct piece *pieces)
{
	static const uint32_t types[] = {VIRTIO_BLK_T_IN,
					 VIRTIO_BLK_T_OUT,
					 VIRTIO_BLK_T_FLUSH,
					 VIRTIO_BLK_T_GET_ID,
					 VIRTIO_BLK_T_DISCARD,
					 VIRTIO_BLK_T_WRITE_ZEROES,
					 99};
	struct virtio_blk_outhdr *hdr = (void *)at;
	uint32_t type = types[below(dice, 7)];
	unsigned n = 0, data = 1 + below(dice, 4);

	hdr->type = type;
	hdr->sector = one_in(dice, 4)	? roll(dice)
		      : one_in(dice, 4) ? -(uint64_t)below(dice, 200)
					: below(dice, 9000);
	pieces[n++] = (struct piece){at, sizeof(*hdr), false};
	for (unsigned i = 0; i < data; i++) {
		uint32_t len = one_in(dice, 8) ? arena_length(dice) : 512u * (1 + below(dice, 16));

		if (type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES)
			len = 16;
		pieces[n++] =
			(struct piece){arena_place(dice, 0x2000, 16), len, type == VIRTIO_BLK_T_IN};
	}
	pieces[n++] = (struct piece){at + sizeof(*hdr), 1, true};
	return n;
}

static uint32_t any_endpoint(struct dice *dice)
{
	return one_in(dice, 8) ? (uint32_t)roll(dice)
			       : targets.pci[below(dice, targets.nr_pci)].rid;
}

static uint32_t any_domain(struct dice *dice)
{
	return one_in(dice, 8) ? (uint32_t)roll(dice)
			       : 100 + below(dice, one_in(dice, 8) ? 400 : 4);
}

static unsigned iommu_request(struct dice *dice, uint64_t at, struct piece *pieces)
{
	union {
		struct virtio_iommu_req_attach attach;
		struct virtio_iommu_req_detach detach;
		struct virtio_iommu_req_map map;
		struct virtio_iommu_req_unmap unmap;
		struct virtio_iommu_req_probe probe;
	} *req = (void *)at;
	uint64_t phys = arena_place(dice, 0x10000, ARENA_PAGE), len = 1 + below(dice, 16);
	uint64_t virt =
		one_in(dice, 2) ? phys : 0x20000000ull + below(dice, 0x1000) * (uint64_t)ARENA_PAGE;
	uint32_t readable, writable = sizeof(struct virtio_iommu_req_tail);

	memset(req, 0, sizeof(*req));
	if (one_in(dice, 16))
		virt = arena_value(dice); /* not aligned, reserved, at the ends */
	if (one_in(dice, 16))
		len = arena.open_len / ARENA_PAGE; /* 16 MiB at once: bounced, or refused */
	switch (below(dice, 8)) {
	case 0:
		req->attach.head.type = VIRTIO_IOMMU_T_ATTACH;
		req->attach.domain = any_domain(dice);
		req->attach.endpoint = any_endpoint(dice);
		req->attach.flags =
			targets.bypass && one_in(dice, 4) ? VIRTIO_IOMMU_ATTACH_F_BYPASS : 0;
		readable = 20;
		break;
	case 1:
		req->detach.head.type = VIRTIO_IOMMU_T_DETACH;
		req->detach.domain = any_domain(dice);
		req->detach.endpoint = any_endpoint(dice);
		readable = 20;
		break;
	case 2:
		req->unmap.head.type = VIRTIO_IOMMU_T_UNMAP;
		req->unmap.domain = any_domain(dice);
		req->unmap.virt_start = one_in(dice, 8) ? 0 : virt;
		req->unmap.virt_end = one_in(dice, 8) ? UINT64_MAX : virt + len * ARENA_PAGE - 1;
		readable = 28;
		break;
	case 3:
		req->probe.head.type = VIRTIO_IOMMU_T_PROBE;
		req->probe.endpoint = any_endpoint(dice);
		readable = 72;
		writable += below(dice, 0x400);
		break;
	default:
		req->map.head.type = VIRTIO_IOMMU_T_MAP;
		req->map.domain = any_domain(dice);
		req->map.virt_start = virt;
		req->map.virt_end =
			one_in(dice, 16) ? arena_value(dice) : virt + len * ARENA_PAGE - 1;
		req->map.phys_start = one_in(dice, 16) ? arena_address(dice) : phys;
		req->map.flags = one_in(dice, 16) ? (uint32_t)roll(dice) : 1 + below(dice, 3);
		readable = 36;
		break;
	}
	if (one_in(dice, 32))
		req->map.head.type = (uint8_t)roll(dice);
	pieces[0] = (struct piece){at, one_in(dice, 32) ? below(dice, 80) : readable, false};
	pieces[1] = (struct piece){arena_place(dice, 0x1000, 16),
				   one_in(dice, 32) ? arena_length(dice) : writable, true};
	return 2;
}

static unsigned other_request(struct dice *dice, const struct attack_vdev *dev, unsigned queue,
			      uint64_t request, struct piece *pieces)
{
	unsigned n = 1 + below(dice, 6), writable = below(dice, n + 1);

	for (unsigned i = 0; i < n; i++) {
		pieces[i] = (struct piece){arena_place(dice, 0x10000, 2),
					   arena_length(dice) & 0x1ffff, i >= writable};
		if (is_output(dev, queue)) {
			pieces[i].at = request + 16 * i;
			pieces[i].len = one_in(dice, 32);
		}
	}
	return n;
}

/* ---- chains ---- */

static void spoil(struct dice *dice, struct vring_desc *desc, bool output)
{
	switch (below(dice, 6)) {
	case 0:
		desc->addr = arena_address(dice);
		break;
	case 1:
		desc->len = output ? output_length(dice) : arena_length(dice);
		break;
	case 2:
		desc->flags ^= (uint16_t)(1u << below(dice, 16));
		break;
	case 3:
		desc->next = (uint16_t)roll(dice);
		desc->flags |= VRING_DESC_F_NEXT;
		break;
	case 4: /* a table that is in itself, or in none */
		desc->flags = (uint16_t)(VRING_DESC_F_INDIRECT | below(dice, 4));
		desc->len = one_in(dice, 2) ? 16 * below(dice, 300)
			    : output	    ? output_length(dice)
					    : arena_length(dice);
		break;
	default:
		*(uint64_t *)desc = arena_value(dice);
		break;
	}
}

bool attack_queue(struct dice *dice)
{
	const struct attack_vdev *dev = any_vdev(dice);
	struct vring_desc *table;
	struct vring_avail *avail;
	struct piece pieces[8];
	unsigned queue, chains = 1 + below(dice, 8);
	uint64_t at;
	bool output;

	if (!dev)
		return false;
	queue = below(dice, dev->nr_queues ? dev->nr_queues : 1);
	output = is_output(dev, queue);
	at = rings_at(dev, queue);
	table = (void *)at;
	avail = (void *)(at + AVAIL_AT);
	for (unsigned c = 0; c < chains; c++) {
		unsigned head = below(dice, ENTRIES), i = head, nr;
		uint64_t request =
			output ? at + OUTPUT_AT + (below(dice, OUTPUT_LEN - REQUEST_LEN) & ~15u)
			       : arena_place(dice, REQUEST_LEN, 16);
		struct vring_desc *to = table;
		bool spoiled = one_in(dice, 3), indirect = one_in(dice, 4);

		if (dev->id == VIRTIO_ID_BLOCK)
			nr = blk_request(dice, request, pieces);
		else if (dev->id == VIRTIO_ID_IOMMU && queue == 0)
			nr = iommu_request(dice, request, pieces);
		else
			nr = other_request(dice, dev, queue, request, pieces);
		if (indirect) {
			uint64_t list = output ? request : arena_place(dice, 16 * 8, 16);

			table[head] = (struct vring_desc){
				.addr = list, .len = 16 * nr, .flags = VRING_DESC_F_INDIRECT};
			if (spoiled && one_in(dice, 4))
				table[head].len = output ? output_length(dice) : arena_length(dice);
			to = (void *)list;
			i = 0;
		}
		for (unsigned n = 0; n < nr; n++, i++) {
			unsigned slot = indirect ? i : i % ENTRIES;

			to[slot] = (struct vring_desc){
				.addr = pieces[n].at,
				.len = pieces[n].len,
				.flags = (uint16_t)((pieces[n].write ? VRING_DESC_F_WRITE : 0) |
						    (n + 1 < nr ? VRING_DESC_F_NEXT : 0)),
				.next = (uint16_t)(indirect ? i + 1 : (i + 1) % ENTRIES),
			};
			if (spoiled && one_in(dice, 2))
				spoil(dice, &to[slot], output);
		}
		/* where it goes depends on the size of the queue, which nobody here knows */
		for (unsigned size = 1; size <= ENTRIES; size *= 2)
			avail->ring[(uint16_t)(avail->idx + c) % size] = (uint16_t)head;
	}
	barrier();
	*(volatile uint16_t *)&avail->idx =
		(uint16_t)(avail->idx + (one_in(dice, 64) ? (uint32_t)roll(dice) : chains));
	if (one_in(dice, 16))
		avail->flags = (uint16_t)roll(dice);
	barrier();
	reg(dev, VIRTIO_MMIO_QUEUE_NOTIFY, one_in(dice, 16) ? (uint32_t)roll(dice) : queue);
	if (one_in(dice, 8)) /* a flood of kicks */
		for (unsigned n = below(dice, 32); n; n--)
			reg(dev, VIRTIO_MMIO_QUEUE_NOTIFY, below(dice, 4));
	reg(dev, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	return true;
}

bool attack_rings(struct dice *dice)
{
	bool made = false;

	for (unsigned n = 64; n; n--) {
		const struct attack_vdev *dev = any_vdev(dice);
		unsigned queue = below(dice, QUEUES);
		uint64_t at;

		if (!dev)
			continue;
		made = true;
		at = rings_at(dev, queue);
		switch (below(dice, 4)) {
		case 0:
			*(volatile uint16_t *)(at + AVAIL_AT + 2 * below(dice, 3)) =
				(uint16_t)roll(dice);
			break;
		case 1:
			*(volatile uint16_t *)(at + AVAIL_AT + 4 + 2 * below(dice, ENTRIES + 1)) =
				(uint16_t)roll(dice);
			break;
		default:
			spoil(dice, (struct vring_desc *)at + below(dice, ENTRIES),
			      is_output(dev, queue));
			break;
		}
	}
	return made;
}
