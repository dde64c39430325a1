/* SPDX-License-Identifier: Apache-2.0 */
/* blk - virtio-blk on a file, asynchronous on an io_uring its owner hands it. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "iommu/base.h"
#include "virtio/device.h"
#include "virtio/uring.h"

/* What it asks of its ring, a bit per IORING_OP_*. */
#define BLK_RING_OPS                                                                               \
	(BIT(IORING_OP_NOP) | BIT(IORING_OP_READV) | BIT(IORING_OP_WRITEV) |                       \
	 BIT(IORING_OP_FSYNC) | BIT(IORING_OP_FALLOCATE))

/**
 * blk_create
 * @fd: open, locked and checked by the caller; the device closes it
 * @size: bytes, a multiple of 512 is served
 * @serial: up to 20 characters, for VIRTIO_BLK_T_GET_ID
 *
 * Threads: its notify() runs on the ring's thread; requests are submitted by the loop's next turn.
 * reset() waits for the ones in flight, so it runs on another thread, and the loop has to turn
 * until every thread that may call it (the vCPUs) has stopped. destroy() runs on the ring's thread
 * when the loop turns no more: it completes what is in flight itself, and whatever else completes
 * meanwhile, so a watch whose owner is gone must have been removed from the loop by then. Return:
 * 0; -ENOMEM (fd then still the caller's).
 */
int blk_create(int fd, uint64_t size, bool readonly, const char *serial, struct io_uring *ring,
	       struct virtio_dev **out);

/* blk_on_failure - call @fn on the ring's thread, with the device's lock held, when the file fails
 * a request; the guest is told IOERR. @what: "read", "write", "flush" or "discard"; @error: an
 * errno, 0 if the file ends before. Before the device is used. */
void blk_on_failure(struct virtio_dev *dev, void (*fn)(void *ctx, const char *what, int error),
		    void *ctx);

#endif
