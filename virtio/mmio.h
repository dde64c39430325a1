/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mmio - virtio-mmio registers (version 2) over a virtio_dev.
 * Source: virtio 1.3 section 4.2.
 */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include "virtio/device.h"

#define VIRTIO_MMIO_LEN		 0x200
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x050

struct virtio_mmio;

/**
 * virtio_mmio_create - wrap @dev, whose gmem is set; the transport owns it from here on
 * @set_irq: drive the device's level-triggered line; called from any thread with dev->lock held
 * Return: 0; -ENOMEM (dev then still the caller's).
 */
int virtio_mmio_create(struct virtio_dev *dev, void (*set_irq)(void *ctx, bool level), void *irq_ctx,
		       struct virtio_mmio **out);
void virtio_mmio_destroy(struct virtio_mmio *mmio); /* destroys the device too; NULL is fine */

/*
 * virtio_mmio_access - one guest access at @off < VIRTIO_MMIO_LEN, @len 1, 2, 4 or 8 bytes, LE data
 *
 * On vCPU threads: a write of 0 to Status may wait for I/O that the event loop has to complete.
 */
void virtio_mmio_access(struct virtio_mmio *mmio, uint64_t off, void *data, unsigned len, bool write);

/**
 * virtio_mmio_notify - what a write of @queue to QUEUE_NOTIFY does; for a caller that takes the kick
 *                      from an ioeventfd on its event loop
 *
 * One call takes at most a ringful of chains, so that a guest that never stops adding cannot keep the
 * loop from its other work.
 * Return: true when chains are left: signal the eventfd again.
 */
bool virtio_mmio_notify(struct virtio_mmio *mmio, unsigned queue);

#endif
