/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue - split virtqueue: chain -> iovec, used ring.
 *
 * The guest owns the rings and may change any byte at any time, so each field is copied once and
 *the copy is checked. What no driver may do (a loop, an index out of range, ...) breaks the device:
 * DEVICE_NEEDS_RESET, and no queue of it moves until the driver resets it. A device sees that only
 *as an empty queue.
 *
 * A device's notify() reads, in full:
 *
 *	while (virtqueue_pop(vq, &chain)) {
 *		...chain_read(), chain_write()...
 *		virtqueue_push(vq, chain.head, written);
 *	}
 *	virtqueue_interrupt(vq);
 *
 * Everything here needs dev->lock.
 * Source: virtio 1.3 section 2.7 "Split Virtqueues".
 */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtio/device.h"

/* Descriptors in one chain at most, indirect ones included; also the largest queue_size_max. */
#define VIRTQUEUE_MAX_SEGS 256

struct virtqueue {
	struct virtio_dev *dev;

	/* What the driver wrote in the transport's registers; fixed while ready. */
	uint32_t size; /* entries */
	uint64_t desc_gpa, avail_gpa, used_gpa;
	bool ready;

	/* Valid while live; private to queue.c. */
	bool live; /* enabled, and the device not broken since */
	const uint8_t *desc, *avail;
	uint8_t *used;
	uint16_t avail_idx; /* next avail entry to take, free-running */
	uint16_t used_idx;  /* next used entry to fill, free-running */
	uint16_t told_idx;  /* used_idx when the need for an interrupt was last looked at */
	uint32_t budget;    /* chains that may still be popped; see virtqueue_set_budget() */
};

/* One popped chain. Buffers are guest memory: read a byte twice and it may have changed. */
struct virtqueue_chain {
	uint16_t head;			      /* for virtqueue_push() */
	unsigned nr_readable, nr_writable;    /* iovecs */
	uint32_t readable, writable;	      /* bytes */
	struct iovec iov[VIRTQUEUE_MAX_SEGS]; /* the readable ones first; none is empty */
};

/* ---- for devices ---- */

/**
 * virtqueue_pop - take the next available chain
 * Return: false when there is none, the queue is not ready or the device is broken. The driver has
 * then been asked to kick when it adds one.
 */
bool virtqueue_pop(struct virtqueue *vq, struct virtqueue_chain *chain);

/**
 * virtqueue_push - give a chain back; nothing happens on a queue that was reset or broke since
 * @len: bytes written, contiguous from the start of its writable part
 */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t len);

/* virtqueue_push_all - virtqueue_push() of @nr chains of which the driver sees all or none */
void virtqueue_push_all(struct virtqueue *vq, const struct vring_used_elem *elems, unsigned nr);

/* virtqueue_should_interrupt - does the driver want to hear of what was pushed since the last call?
 */
bool virtqueue_should_interrupt(struct virtqueue *vq);

/* virtqueue_interrupt - dev->interrupt() if virtqueue_should_interrupt(); once after a batch of
 * pushes */
void virtqueue_interrupt(struct virtqueue *vq);

/* virtqueue_break - the driver did what no driver may do: the device needs a reset */
void virtqueue_break(struct virtqueue *vq);

/* virtqueue_live - may the driver's buffers still be touched? False after reset, or when broken. */
bool virtqueue_live(const struct virtqueue *vq);

/* chain_read - copy readable bytes [off, off + len) out, as far as there are any. Return: bytes
 * copied. */
size_t chain_read(const struct virtqueue_chain *chain, size_t off, void *dst, size_t len);

/* chain_write - copy to writable bytes [off, off + len), as far as there are any. Return: bytes
 * copied. */
size_t chain_write(const struct virtqueue_chain *chain, size_t off, const void *src, size_t len);

/* iov_write - copy to bytes [off, off + len) of any list, as far as it goes. Return: bytes copied.
 */
size_t iov_write(const struct iovec *iov, unsigned nr, size_t off, const void *src, size_t len);

/* ---- for transports ---- */

/**
 * virtqueue_enable - check size and addresses against guest RAM and start at index 0
 * Return: 0; -EINVAL size no power of two or above dev->queue_size_max, or a misaligned part;
 *         -EFAULT a part that is not inside one span of RAM.
 */
int virtqueue_enable(struct virtqueue *vq);

/* virtqueue_stop - the rings are not touched any more; what the driver wrote in registers stays */
void virtqueue_stop(struct virtqueue *vq);

/* virtqueue_reset - as it was created */
void virtqueue_reset(struct virtqueue *vq);

#define VIRTQUEUE_NO_BUDGET UINT32_MAX

/* virtqueue_set_budget - let at most @chains be popped from now on */
void virtqueue_set_budget(struct virtqueue *vq, uint32_t chains);

/* virtqueue_over_budget - did the budget, and not an empty queue, end the popping? */
bool virtqueue_over_budget(struct virtqueue *vq);

#endif
