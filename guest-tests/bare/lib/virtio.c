/* SPDX-License-Identifier: Apache-2.0 */
/* Source: virtio 1.3, sections 2.7 (split virtqueues), 3.1.1 (initialisation) and 4.2 (MMIO). */
#include <linux/virtio_config.h>

#include "board.h"
#include "cpu.h"
#include "lib/string.h"
#include "virtio.h"

#define MAGIC	       0x74726976
#define RESET_TRIES    1000
#define MAX_VDEVS      12

static struct rings {
	struct vring_desc desc[VQ_SIZE];
	union {
		struct vring_avail avail;
		uint8_t avail_room[6 + 2 * VQ_SIZE];
	};
	union {
		struct vring_used used;
		uint8_t used_room[6 + 8 * VQ_SIZE];
	} __attribute__((aligned(16)));
} rings[MAX_VDEVS][VDEV_VQS] __attribute__((aligned(4096)));
static uint64_t ring_owners[MAX_VDEVS];

uint32_t vdev_reg(struct vdev *dev, unsigned reg)
{
	return mmio_read32(dev->base + reg);
}

void vdev_set_reg(struct vdev *dev, unsigned reg, uint32_t val)
{
	mmio_write32(dev->base + reg, val);
}

uint64_t vdev_config(struct vdev *dev, unsigned off, unsigned len)
{
	uint64_t at = dev->base + VIRTIO_MMIO_CONFIG + off;

	/* virtio-mmio transports need not take 8 bytes at once */
	if (len == 8)
		return mmio_read32(at) | (uint64_t)mmio_read32(at + 4) << 32;
	return mmio_read(at, len);
}

bool vdev_find(uint32_t id, unsigned nth, struct vdev *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < BOARD_VIRTIO_SLOTS; i++) {
		out->base = BOARD_VIRTIO + i * BOARD_VIRTIO_STRIDE;
		out->slot = i;
		if (vdev_reg(out, VIRTIO_MMIO_MAGIC_VALUE) != MAGIC ||
		    vdev_reg(out, VIRTIO_MMIO_DEVICE_ID) != id)
			continue;
		if (!nth--)
			return true;
	}
	return false;
}

uint64_t vdev_features(struct vdev *dev)
{
	uint64_t features;

	vdev_set_reg(dev, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	features = (uint64_t)vdev_reg(dev, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	vdev_set_reg(dev, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return features | vdev_reg(dev, VIRTIO_MMIO_DEVICE_FEATURES);
}

void vdev_reset(struct vdev *dev)
{
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, 0);
	for (unsigned i = 0; i < RESET_TRIES && vdev_reg(dev, VIRTIO_MMIO_STATUS); i++)
		delay_us(100);
}

static struct rings *rings_of(struct vdev *dev)
{
	unsigned i = 0;

	while (i < MAX_VDEVS - 1 && ring_owners[i] && ring_owners[i] != dev->base)
		i++;
	ring_owners[i] = dev->base;
	return rings[i];
}

static void set_address(struct vdev *dev, unsigned reg_low, const void *p)
{
	uint64_t addr = (uint64_t)(uintptr_t)p;

	vdev_set_reg(dev, reg_low, (uint32_t)addr);
	vdev_set_reg(dev, reg_low + 4, (uint32_t)(addr >> 32));
}

static const char *start_queue(struct vdev *dev, unsigned index, struct rings *r)
{
	struct vq *vq = &dev->vq[index];
	uint32_t max;

	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_SEL, index);
	max = vdev_reg(dev, VIRTIO_MMIO_QUEUE_NUM_MAX);
	if (!max || vdev_reg(dev, VIRTIO_MMIO_QUEUE_READY))
		return "a queue is missing, or ready after reset";
	memset(r, 0, sizeof(*r));
	*vq = (struct vq){
		.index = index,
		.size = (uint16_t)(max < VQ_SIZE ? max : VQ_SIZE),
		.desc = r->desc,
		.avail = &r->avail,
		.used = &r->used,
	};
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_NUM, vq->size);
	set_address(dev, VIRTIO_MMIO_QUEUE_DESC_LOW, vq->desc);
	set_address(dev, VIRTIO_MMIO_QUEUE_AVAIL_LOW, vq->avail);
	set_address(dev, VIRTIO_MMIO_QUEUE_USED_LOW, vq->used);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_READY, 1);
	return vdev_reg(dev, VIRTIO_MMIO_QUEUE_READY) == 1 ? NULL : "a queue does not become ready";
}

const char *vdev_start(struct vdev *dev, uint64_t features, unsigned nr_queues)
{
	struct rings *r = rings_of(dev);
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	vdev_reset(dev);
	if (vdev_reg(dev, VIRTIO_MMIO_STATUS))
		return "status is not 0 after reset";
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, status);
	dev->features = features | 1ull << VIRTIO_F_VERSION_1;
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(dev->features >> 32));
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)dev->features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, status);
	if (!(vdev_reg(dev, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK))
		return "the features are refused";
	for (unsigned i = 0; i < nr_queues; i++) {
		const char *error = start_queue(dev, i, &r[i]);

		if (error)
			return error;
	}
	dev->nr_queues = nr_queues;
	dev->dead = false;
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
	return NULL;
}

uint16_t vq_add(struct vq *vq, const struct seg *segs, unsigned nr)
{
	uint16_t head = vq->next_desc;

	for (unsigned i = 0; i < nr; i++) {
		vq->desc[head + i] = (struct vring_desc){
			.addr = (uint64_t)(uintptr_t)segs[i].at,
			.len = segs[i].len,
			.flags = (uint16_t)((segs[i].write ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < nr ? VRING_DESC_F_NEXT : 0)),
			.next = (uint16_t)(head + i + 1),
		};
	}
	vq->next_desc = (uint16_t)(head + nr);
	vq->avail->ring[vq->avail->idx % vq->size] = head;
	barrier();
	*(volatile uint16_t *)&vq->avail->idx = (uint16_t)(vq->avail->idx + 1);
	return head;
}

void vq_kick(struct vdev *dev, struct vq *vq)
{
	barrier();
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_NOTIFY, vq->index);
}

bool vq_wait(struct vq *vq, uint32_t *head, uint32_t *len)
{
	uint64_t end = now_us() + VQ_TIMEOUT_US;

	while (*(volatile uint16_t *)&vq->used->idx == vq->seen) {
		if (now_us() > end)
			return false;
	}
	barrier();
	*head = vq->used->ring[vq->seen % vq->size].id;
	*len = vq->used->ring[vq->seen % vq->size].len;
	vq->seen++;
	if (vq->seen == vq->avail->idx)
		vq->next_desc = 0; /* nothing in flight */
	return true;
}

int64_t vq_request(struct vdev *dev, unsigned index, const struct seg *segs, unsigned nr)
{
	struct vq *vq = &dev->vq[index];
	uint32_t head, len;
	uint16_t want;

	if (dev->dead)
		return -1;
	want = vq_add(vq, segs, nr);
	vq_kick(dev, vq);
	if (!vq_wait(vq, &head, &len) || head != want) {
		dev->dead = true;
		return -1;
	}
	return len;
}
