/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_guard - what a virtio function behind VFIO needs to work with bounced rings.
 *
 * Driver and device tell each other through memory alone whether they want to be notified: each
 * stores its index, looks whether the other wants to hear of it, and goes to sleep after the mirror
 * image of that. It is right only where both see each other's last word. With rings in bounce pages
 * a kick or an interrupt would be lost now and then, and with it the queue.
 *
 * So the guard keeps them to what needs no such agreement: no event indexes and no packed rings, by
 * the feature bits that a driver reads; and it tells the mediator where the heads of each queue's
 * rings are, whose flags then travel nowhere (endpoint_set_ring): every buffer that a driver adds
 * is kicked, every one that is used interrupts. Both are always allowed.
 *
 * Functions with ACCESS_PLATFORM only: what drives the legacy interface does not ask the IOMMU.
 * Source: virtio 1.3, "Virtqueue Interrupt Suppression", "Available Buffer Notification
 * Suppression", "Common configuration structure layout".
 *
 * One thread at a time: the owner holds a lock.
 */
#ifndef VMM_VIRTIO_GUARD_H
#define VMM_VIRTIO_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "iommu/mediator.h"

/* Reads @len (2 or 4) bytes of the common configuration structure at @off; of what cannot be read
 * all bits are 1. */
typedef uint32_t (*virtio_guard_read_fn)(void *ctx, unsigned off, unsigned len);

struct virtio_guard {
	bool found;
	unsigned bar;  /* that holds the common configuration structure */
	uint64_t off;  /* there */
	uint32_t page; /* of feature bits, as the guest selected it */
	unsigned nr;   /* rings that the mediator may know of: 0 to nr - 1 */
};

/* virtio_guard_cap - look at a vendor-specific capability, @len bytes, of a virtio function; the
 * first that names the common configuration structure counts */
void virtio_guard_cap(struct virtio_guard *guard, const uint8_t *cap, unsigned len);

/* virtio_guard_reset - the device was reset: it uses no ring */
void virtio_guard_reset(struct virtio_guard *guard, struct endpoint *ep);

/**
 * virtio_guard_write - the guest is about to write a register
 * @read: of the device, for what was written before
 * Return: false if a ring is enabled that cannot be looked after.
 */
bool virtio_guard_write(struct virtio_guard *guard, struct endpoint *ep, unsigned bar, uint64_t off,
			const void *data, unsigned len, virtio_guard_read_fn read, void *ctx);

/* virtio_guard_answer - the guest has read a register: take out what it must not see */
void virtio_guard_answer(const struct virtio_guard *guard, unsigned bar, uint64_t off, void *data,
			 unsigned len);

#endif
