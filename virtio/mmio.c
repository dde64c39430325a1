/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>

#include "iommu/base.h"
#include "virtio/queue.h"

#define MAGIC	0x74726976u /* "virt" */
#define VERSION 2
#define VENDOR	0x554e5247u /* "GRNU"; drivers ignore it */

/* What the transport and the queues do by themselves. */
#define TRANSPORT_FEATURES                                                                         \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

#define DRIVER_STATUS_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

struct virtio_mmio {
	struct virtio_dev *dev;
	void (*set_irq)(void *ctx, bool level);
	void *irq_ctx;

	/* All below: dev->lock. */
	uint32_t status, isr, config_generation;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features;
	bool resetting; /* ops->reset() runs; it may let go of the lock to wait */
	pthread_cond_t reset_done;
	struct virtqueue queues[];
};

/* ---- interrupts ---- */

static void set_isr(struct virtio_mmio *mmio, uint32_t isr)
{
	bool was = mmio->isr;

	mmio->isr = isr;
	if (was != (bool)isr)
		mmio->set_irq(mmio->irq_ctx, isr);
}

static void mmio_interrupt(struct virtio_dev *dev, bool config_change)
{
	struct virtio_mmio *mmio = dev->transport;

	if (config_change)
		mmio->config_generation++;
	/* A driver that is not up yet expects no interrupt; it reads the config space anyway. */
	if (mmio->status & VIRTIO_CONFIG_S_DRIVER_OK)
		set_isr(mmio, mmio->isr | (config_change ? VIRTIO_MMIO_INT_CONFIG
							 : VIRTIO_MMIO_INT_VRING));
}

static void mmio_needs_reset(struct virtio_dev *dev)
{
	struct virtio_mmio *mmio = dev->transport;

	for (unsigned i = 0; i < dev->nr_queues; i++)
		virtqueue_stop(&mmio->queues[i]);
	if (mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	mmio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	mmio_interrupt(dev, true);
}

/* ---- status and features ---- */

static uint64_t offered_features(struct virtio_mmio *mmio)
{
	return mmio->dev->ops->features(mmio->dev) | TRANSPORT_FEATURES;
}

static void device_reset(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	/* Status and queues first: while reset() waits, no kick and no completion gets through. */
	mmio->status = 0;
	for (unsigned i = 0; i < dev->nr_queues; i++)
		virtqueue_reset(&mmio->queues[i]);
	mmio->resetting = true;
	dev->ops->reset(dev);
	mmio->resetting = false;
	dev->negotiated = 0;
	mmio->driver_features = 0;
	mmio->device_features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
	set_isr(mmio, 0);
	pthread_cond_broadcast(&mmio->reset_done);
}

static void write_status(struct virtio_mmio *mmio, uint32_t val)
{
	uint32_t set = val & DRIVER_STATUS_BITS & ~mmio->status;

	if (!val) {
		device_reset(mmio);
		return;
	}
	if (set & VIRTIO_CONFIG_S_FEATURES_OK) {
		/* A driver finds out that its choice was refused by reading the bit back as 0. */
		if ((mmio->driver_features & ~offered_features(mmio)) ||
		    !(mmio->driver_features & BIT(VIRTIO_F_VERSION_1)))
			set &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
		else
			mmio->dev->negotiated = mmio->driver_features;
	}
	mmio->status |= set & ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	/* Nothing may start on features that were never agreed. */
	if ((set & VIRTIO_CONFIG_S_DRIVER_OK) && (mmio->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
		mmio->status |= VIRTIO_CONFIG_S_DRIVER_OK;
		if (mmio->dev->ops->start)
			mmio->dev->ops->start(mmio->dev);
	}
}

/* ---- registers ---- */

static struct virtqueue *selected_queue(struct virtio_mmio *mmio)
{
	return mmio->queue_sel < mmio->dev->nr_queues ? &mmio->queues[mmio->queue_sel] : NULL;
}

static void set_half(uint64_t *v, bool high, uint32_t half)
{
	*v = high ? (*v & UINT32_MAX) | (uint64_t)half << 32 : (*v & ~(uint64_t)UINT32_MAX) | half;
}

static uint32_t read_reg(struct virtio_mmio *mmio, unsigned off)
{
	struct virtqueue *vq = selected_queue(mmio);

	switch (off) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return mmio->dev->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		if (mmio->device_features_sel > 1)
			return 0;
		return (uint32_t)(offered_features(mmio) >> (32 * mmio->device_features_sel));
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return vq ? mmio->dev->queue_size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return vq ? vq->ready : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return mmio->isr;
	case VIRTIO_MMIO_STATUS:
		return mmio->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* there is no such region */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return mmio->config_generation;
	default:
		return 0;
	}
}

static void write_queue_ready(struct virtio_mmio *mmio, struct virtqueue *vq, uint32_t val)
{
	if (!val) {
		virtqueue_stop(vq);
		vq->ready = false;
		return;
	}
	/*
	 * Queues are set up after the features and before DRIVER_OK, and never again before a reset
	 * (VIRTIO_F_RING_RESET is not offered): a request in flight cannot complete into a later
	 * set-up.
	 */
	if ((mmio->status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
			     VIRTIO_CONFIG_S_NEEDS_RESET)) != VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	if (virtqueue_enable(vq))
		virtqueue_break(vq);
}

static void write_queue_reg(struct virtio_mmio *mmio, struct virtqueue *vq, unsigned off,
			    uint32_t val)
{
	if (off == VIRTIO_MMIO_QUEUE_READY) {
		if ((bool)val != vq->ready)
			write_queue_ready(mmio, vq, val);
		return;
	}
	if (vq->ready)
		return;
	switch (off) {
	case VIRTIO_MMIO_QUEUE_NUM:
		vq->size = val;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->desc_gpa, off == VIRTIO_MMIO_QUEUE_DESC_HIGH, val);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->avail_gpa, off == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, val);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&vq->used_gpa, off == VIRTIO_MMIO_QUEUE_USED_HIGH, val);
		break;
	}
}

static void write_reg(struct virtio_mmio *mmio, unsigned off, uint32_t val)
{
	struct virtqueue *vq = selected_queue(mmio);

	switch (off) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->device_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (mmio->driver_features_sel <= 1) /* of no effect once agreed */
			set_half(&mmio->driver_features, mmio->driver_features_sel, val);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = val;
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		set_isr(mmio, mmio->isr & ~val);
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(mmio, val);
		break;
	default:
		if (vq)
			write_queue_reg(mmio, vq, off, val);
	}
}

void virtio_mmio_access(struct virtio_mmio *mmio, uint64_t off, void *data, unsigned len,
			bool write)
{
	struct virtio_dev *dev = mmio->dev;

	if (off == VIRTIO_MMIO_QUEUE_NOTIFY && write && len == 4) {
		/* here, and not later: the vCPU is served before its next instruction */
		while (virtio_mmio_notify(mmio, get_le32(data)))
			;
		return;
	}
	pthread_mutex_lock(&dev->lock);
	while (mmio->resetting)
		pthread_cond_wait(&mmio->reset_done, &dev->lock);
	if (off >= VIRTIO_MMIO_CONFIG) {
		unsigned config_off = (unsigned)(off - VIRTIO_MMIO_CONFIG);

		if (write)
			dev->ops->config_write(dev, config_off, data, len);
		else
			dev->ops->config_read(dev, config_off, data, len);
	} else if (len != 4 || off % 4) {
		if (!write)
			memset(data, 0, len);
	} else if (write) {
		write_reg(mmio, (unsigned)off, get_le32(data));
	} else {
		put_le32(data, read_reg(mmio, (unsigned)off));
	}
	pthread_mutex_unlock(&dev->lock);
}

bool virtio_mmio_notify(struct virtio_mmio *mmio, unsigned queue)
{
	struct virtio_dev *dev = mmio->dev;
	bool more = false;

	pthread_mutex_lock(&dev->lock);
	if (queue < dev->nr_queues && virtqueue_live(&mmio->queues[queue]) &&
	    (mmio->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
		struct virtqueue *vq = &mmio->queues[queue];

		virtqueue_set_budget(vq, vq->size);
		dev->ops->notify(dev, queue);
		more = virtqueue_over_budget(vq);
		virtqueue_set_budget(vq, VIRTQUEUE_NO_BUDGET);
	}
	pthread_mutex_unlock(&dev->lock);
	return more;
}

/* ---- create, destroy ---- */

int virtio_mmio_create(struct virtio_dev *dev, void (*set_irq)(void *ctx, bool level),
		       void *irq_ctx, struct virtio_mmio **out)
{
	struct virtio_mmio *mmio =
		calloc(1, sizeof(*mmio) + dev->nr_queues * sizeof(mmio->queues[0]));

	if (!mmio)
		return -ENOMEM;
	mmio->dev = dev;
	mmio->set_irq = set_irq;
	mmio->irq_ctx = irq_ctx;
	pthread_cond_init(&mmio->reset_done, NULL);
	for (unsigned i = 0; i < dev->nr_queues; i++)
		mmio->queues[i].dev = dev;
	dev->queues = mmio->queues;
	dev->interrupt = mmio_interrupt;
	dev->needs_reset = mmio_needs_reset;
	dev->transport = mmio;
	*out = mmio;
	return 0;
}

void virtio_mmio_destroy(struct virtio_mmio *mmio)
{
	if (!mmio)
		return;
	/* What completes while destroy() drains must find its queue stopped. */
	pthread_mutex_lock(&mmio->dev->lock);
	for (unsigned i = 0; i < mmio->dev->nr_queues; i++)
		virtqueue_stop(&mmio->queues[i]);
	pthread_mutex_unlock(&mmio->dev->lock);
	mmio->dev->ops->destroy(mmio->dev);
	pthread_cond_destroy(&mmio->reset_done);
	free(mmio);
}
