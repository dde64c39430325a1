/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver - the guest's side of a virtio device, for tests: some RAM, a virtio-mmio transport around
 *the device under test, and queues that chains can be added to.
 *
 *	driver_init(&d, RAM_LEN);
 *	driver_wrap(&d, dev);			the device is d's from here on
 *	driver_probe(&d, DRIVER_ALL_FEATURES);	reset ... DRIVER_OK, every queue set up
 *	head = driver_request(&d, 0, &req, sizeof(req), buf, sizeof(buf));
 *	driver_kick(&d, 0);
 *	assert_true(driver_reap(&d, 0, &head, &len));
 *	driver_exit(&d);			destroys the device and the RAM
 *
 * Any register can be written at any time with driver_write(), any ring byte with driver_desc() and
 * friends: the tests of what a hostile guest does start here.
 */
#ifndef VIRTIO_TESTS_DRIVER_H
#define VIRTIO_TESTS_DRIVER_H

#include "iommu/tests/check.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/gmem.h"
#include "virtio/device.h"
#include "virtio/mmio.h"

#define DRIVER_RAM_BASE	    0x40000000ull
#define DRIVER_ALL_FEATURES (~UINT64_C(0))

struct driver_queue {
	uint16_t size;
	uint64_t desc, avail, used; /* gpa */
	uint16_t next_desc;	    /* next free descriptor; they are used round and round */
	uint16_t avail_idx, used_idx;
};

struct driver {
	struct gmem gmem;
	uint8_t *ram;
	size_t ram_len;
	uint64_t next_gpa; /* RAM is handed out upwards and never taken back */
	struct virtio_dev *dev;
	struct virtio_mmio *mmio;
	uint64_t features; /* negotiated */
	bool irq;	   /* level of the line */
	unsigned irqs;	   /* rising edges of it */
	struct driver_queue queues[VIRTIO_MAX_QUEUES];
};

/* One buffer of a chain. */
struct driver_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* the device may write */
};

/* ---- RAM ---- */

static inline void driver_init(struct driver *d, size_t ram_len)
{
	*d = (struct driver){.ram_len = ram_len, .next_gpa = DRIVER_RAM_BASE};
	d->ram = calloc(1, ram_len); /* from the heap: ASan sees a step past either end */
	assert_non_null(d->ram);
	assert_int_equal(gmem_add(&d->gmem, DRIVER_RAM_BASE, ram_len, d->ram), 0);
}

/* driver_alloc - @len zeroed bytes of RAM, 16-byte aligned. Return: gpa. */
static inline uint64_t driver_alloc(struct driver *d, size_t len)
{
	uint64_t gpa = d->next_gpa;

	d->next_gpa = ALIGN_UP(gpa + len, 16);
	assert_true(d->next_gpa <= DRIVER_RAM_BASE + d->ram_len);
	memset(d->ram + (gpa - DRIVER_RAM_BASE), 0, len);
	return gpa;
}

static inline void *driver_hva(struct driver *d, uint64_t gpa)
{
	assert_true(gpa >= DRIVER_RAM_BASE && gpa < DRIVER_RAM_BASE + d->ram_len);
	return d->ram + (gpa - DRIVER_RAM_BASE);
}

/* driver_put - a copy of @len bytes in RAM. Return: gpa. */
static inline uint64_t driver_put(struct driver *d, const void *src, size_t len)
{
	uint64_t gpa = driver_alloc(d, len);

	memcpy(driver_hva(d, gpa), src, len);
	return gpa;
}

/* ---- registers ---- */

static inline uint32_t driver_read(struct driver *d, uint64_t off)
{
	uint8_t data[4];

	virtio_mmio_access(d->mmio, off, data, sizeof(data), false);
	return get_le32(data);
}

static inline void driver_write(struct driver *d, uint64_t off, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	virtio_mmio_access(d->mmio, off, data, sizeof(data), true);
}

static inline uint64_t driver_offered(struct driver *d)
{
	uint64_t low;

	driver_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	low = driver_read(d, VIRTIO_MMIO_DEVICE_FEATURES);
	driver_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)driver_read(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

/* driver_config - @len bytes of config space at @off, byte by byte */
static inline void driver_config(struct driver *d, unsigned off, void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		virtio_mmio_access(d->mmio, VIRTIO_MMIO_CONFIG + off + i, (uint8_t *)buf + i, 1,
				   false);
}

static inline void driver_set_irq(void *ctx, bool level)
{
	struct driver *d = ctx;

	assert_true(level != d->irq); /* told of changes only */
	d->irq = level;
	d->irqs += level;
}

/* driver_ack - acknowledge every interrupt there is. Return: what InterruptStatus read. */
static inline uint32_t driver_ack(struct driver *d)
{
	uint32_t isr = driver_read(d, VIRTIO_MMIO_INTERRUPT_STATUS);

	driver_write(d, VIRTIO_MMIO_INTERRUPT_ACK, isr);
	return isr;
}

static inline void driver_add_status(struct driver *d, uint32_t bits)
{
	driver_write(d, VIRTIO_MMIO_STATUS, driver_read(d, VIRTIO_MMIO_STATUS) | bits);
}

static inline bool driver_broken(struct driver *d)
{
	return driver_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static inline void driver_reset(struct driver *d)
{
	driver_write(d, VIRTIO_MMIO_STATUS, 0);
	memset(d->queues, 0, sizeof(d->queues));
	d->features = 0;
}

/* ---- set-up ---- */

/* driver_wrap - put the transport around @dev */
static inline void driver_wrap(struct driver *d, struct virtio_dev *dev)
{
	dev->gmem = &d->gmem;
	d->dev = dev;
	assert_int_equal(virtio_mmio_create(dev, driver_set_irq, d, &d->mmio), 0);
}

/* driver_negotiate - up to and including FEATURES_OK, taking what is offered of @want */
static inline void driver_negotiate(struct driver *d, uint64_t want)
{
	driver_reset(d);
	driver_add_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_add_status(d, VIRTIO_CONFIG_S_DRIVER);
	d->features = driver_offered(d) & (want | BIT(VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < 2; i++) {
		driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(d->features >> (32 * i)));
	}
	driver_add_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(driver_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK);
}

/* driver_write_queue - queue registers of queue @q as in d->queues[q], without QueueReady */
static inline void driver_write_queue(struct driver *d, unsigned q)
{
	const struct driver_queue *dq = &d->queues[q];

	driver_write(d, VIRTIO_MMIO_QUEUE_SEL, q);
	driver_write(d, VIRTIO_MMIO_QUEUE_NUM, dq->size);
	driver_write(d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)dq->desc);
	driver_write(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(dq->desc >> 32));
	driver_write(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)dq->avail);
	driver_write(d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(dq->avail >> 32));
	driver_write(d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)dq->used);
	driver_write(d, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(dq->used >> 32));
}

/* driver_alloc_queue - room for the parts of queue @q, @size entries, nothing written to registers
 */
static inline void driver_alloc_queue(struct driver *d, unsigned q, uint16_t size)
{
	d->queues[q] = (struct driver_queue){
		.size = size,
		.desc = driver_alloc(d, sizeof(struct vring_desc) * size),
		.avail = driver_alloc(d, 6 + 2 * (size_t)size),
		.used = driver_alloc(d, 6 + 8 * (size_t)size),
	};
}

/* driver_probe - everything a driver does up to DRIVER_OK; queues get their largest size */
static inline void driver_probe(struct driver *d, uint64_t want)
{
	driver_negotiate(d, want);
	for (unsigned q = 0; q < d->dev->nr_queues; q++) {
		driver_write(d, VIRTIO_MMIO_QUEUE_SEL, q);
		driver_alloc_queue(d, q, (uint16_t)driver_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX));
		driver_write_queue(d, q);
		driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 1);
	}
	driver_add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline void driver_exit(struct driver *d)
{
	virtio_mmio_destroy(d->mmio);
	free(d->ram);
}

/* ---- rings ---- */

/* driver_desc - descriptor @i of queue @q, in RAM */
static inline struct vring_desc *driver_desc(struct driver *d, unsigned q, uint16_t i)
{
	return (struct vring_desc *)driver_hva(d, d->queues[q].desc) + i % d->queues[q].size;
}

/* driver_avail, driver_used - 16-bit field @i of these areas: 0 flags, 1 idx, ... */
static inline uint16_t *driver_avail(struct driver *d, unsigned q, unsigned i)
{
	return (uint16_t *)driver_hva(d, d->queues[q].avail) + i;
}

static inline uint16_t *driver_used(struct driver *d, unsigned q, unsigned i)
{
	return (uint16_t *)driver_hva(d, d->queues[q].used) + i;
}

/* driver_used_event - after which used index the driver wants an interrupt (with EVENT_IDX) */
static inline uint16_t *driver_used_event(struct driver *d, unsigned q)
{
	return driver_avail(d, q, 2u + d->queues[q].size);
}

/* driver_avail_event - after which avail index the device wants a kick (with EVENT_IDX) */
static inline uint16_t *driver_avail_event(struct driver *d, unsigned q)
{
	return driver_used(d, q, 2u + 4u * d->queues[q].size);
}

/* driver_make_avail - put @head into the avail ring */
static inline void driver_make_avail(struct driver *d, unsigned q, uint16_t head)
{
	struct driver_queue *dq = &d->queues[q];

	*driver_avail(d, q, 2u + dq->avail_idx % dq->size) = head;
	__atomic_store_n(driver_avail(d, q, 1), ++dq->avail_idx, __ATOMIC_RELEASE);
}

/* driver_write_chain - descriptors for @bufs at descriptor @head and the ones after it */
static inline void driver_write_chain(struct driver *d, unsigned q, uint16_t head,
				      const struct driver_buf *bufs, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		*driver_desc(d, q, (uint16_t)(head + i)) = (struct vring_desc){
			.addr = bufs[i].gpa,
			.len = bufs[i].len,
			.flags = (uint16_t)((bufs[i].write ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < nr ? VRING_DESC_F_NEXT : 0)),
			.next = (uint16_t)((head + i + 1) % d->queues[q].size),
		};
}

/* driver_add - make a chain of @bufs available, without a kick. Return: its head. */
static inline uint16_t driver_add(struct driver *d, unsigned q, const struct driver_buf *bufs,
				  unsigned nr)
{
	struct driver_queue *dq = &d->queues[q];
	uint16_t head = dq->next_desc;

	assert_true(nr && nr <= dq->size);
	driver_write_chain(d, q, head, bufs, nr);
	dq->next_desc = (uint16_t)((head + nr) % dq->size);
	driver_make_avail(d, q, head);
	return head;
}

static inline void driver_kick(struct driver *d, unsigned q)
{
	driver_write(d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

/* driver_reap - the next used chain; false if there is none. @id, @len may be NULL. */
static inline bool driver_reap(struct driver *d, unsigned q, uint16_t *id, uint32_t *len)
{
	struct driver_queue *dq = &d->queues[q];
	const struct vring_used_elem *elem;

	if (__atomic_load_n(driver_used(d, q, 1), __ATOMIC_ACQUIRE) == dq->used_idx)
		return false;
	elem = (const struct vring_used_elem *)driver_used(d, q, 2) + dq->used_idx % dq->size;
	if (id)
		*id = (uint16_t)elem->id;
	if (len)
		*len = elem->len;
	dq->used_idx++;
	return true;
}

/**
 * driver_request - add, kick and reap one request on a device that answers inside the kick
 * @out: @out_len bytes for the device; NULL: none
 * @in: @in_len bytes that it may write: what was there before and what is there then; NULL: none
 * Return: used.len; -1 if the request did not come back.
 */
static inline int64_t driver_request(struct driver *d, unsigned q, const void *out,
				     uint32_t out_len, void *in, uint32_t in_len)
{
	uint64_t heap = d->next_gpa;
	struct driver_buf bufs[2];
	unsigned nr = 0;
	uint64_t in_gpa = 0;
	uint16_t head, id;
	uint32_t len = 0;
	bool back;

	if (out)
		bufs[nr++] = (struct driver_buf){driver_put(d, out, out_len), out_len, false};
	if (in) {
		in_gpa = driver_put(d, in, in_len);
		bufs[nr++] = (struct driver_buf){in_gpa, in_len, true};
	}
	head = driver_add(d, q, bufs, nr);
	driver_kick(d, q);
	back = driver_reap(d, q, &id, &len);
	if (back)
		assert_int_equal(id, head);
	if (in)
		memcpy(in, driver_hva(d, in_gpa), in_len);
	if (back)
		d->next_gpa = heap; /* the buffers are the driver's again */
	return back ? (int64_t)len : -1;
}

#endif
