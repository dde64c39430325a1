/* SPDX-License-Identifier: Apache-2.0 */
/*
 * viommu - virtio-iommu: requests become mediator calls, errno becomes a status, faults become events.
 *
 * Requests are carried out inside notify(), in queue order, and never wait for the guest: Linux polls
 * the used ring with interrupts off.
 * Source: virtio 1.3 "IOMMU Device"; Linux drivers/iommu/virtio-iommu.c.
 */
#ifndef VIRTIO_VIOMMU_H
#define VIRTIO_VIOMMU_H

#include "iommu/mediator.h"
#include "virtio/device.h"

/**
 * viommu_create
 * @m: the mediator with all its endpoints added; outlives the device
 * @page_size_mask: what the guest is offered; its lowest bit is the guest granule
 * @wake: called (any thread, any locks held) when faults wait; the owner then calls
 *        viommu_deliver_faults() from a thread that holds no lock
 * Return: 0; -ENOMEM.
 */
int viommu_create(struct mediator *m, uint64_t page_size_mask, void (*wake)(void *ctx), void *wake_ctx,
		  struct virtio_dev **out);

/* viommu_deliver_faults - move waiting faults into the guest's event buffers, as far as there are any.
 * Return: false: not now, for a vCPU is at the device; call it again in a moment. Does not wait. */
bool viommu_deliver_faults(struct virtio_dev *dev);

/* viommu_end - the VM ends: requests that have not begun are not carried out any more, so that a vCPU
 * which came with many of them can leave; any thread */
void viommu_end(struct virtio_dev *dev);

#endif
