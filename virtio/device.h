/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device - what a virtio device is to its transport.
 *
 * Threads: the transport holds dev->lock around every op and every register access, so a device needs
 * no lock of its own for what only these touch. A device that finishes work elsewhere (an io_uring
 * completion on the event loop) takes dev->lock itself before it touches a queue.
 */
#ifndef VIRTIO_DEVICE_H
#define VIRTIO_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "iommu/gmem.h"

#define VIRTIO_ID_NET	  1
#define VIRTIO_ID_BLOCK	  2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG	  4
#define VIRTIO_ID_IOMMU	  23

#define VIRTIO_MAX_QUEUES 16

struct virtio_dev;
struct virtqueue;

struct virtio_dev_ops {
	/* Device-specific feature bits offered (0..23 and 50..63); the transport adds its own. */
	uint64_t (*features)(struct virtio_dev *dev);
	/* Config space, any offset, 1/2/4/8 bytes; reads past its end give 0, writes there do nothing. */
	void (*config_read)(struct virtio_dev *dev, unsigned off, void *buf, unsigned len);
	void (*config_write)(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len);
	/* DRIVER_OK was set: queues and features are final. Optional. */
	void (*start)(struct virtio_dev *dev);
	/* The driver kicked queue @q. Only called between start and reset. */
	void (*notify)(struct virtio_dev *dev, unsigned q);
	/* Forget everything the driver set up; no buffer of it may be touched after this returns
	 * (I/O in flight is waited for, or its completion later drops the buffer). */
	void (*reset)(struct virtio_dev *dev);
	void (*destroy)(struct virtio_dev *dev);
};

struct virtio_dev {
	const struct virtio_dev_ops *ops;
	const char *name; /* for messages */
	uint32_t id;	  /* VIRTIO_ID_* */
	unsigned nr_queues;
	uint16_t queue_size_max;
	struct virtqueue *queues; /* nr_queues of them, owned by the transport */
	const struct gmem *gmem; /* set by the owner before the transport sees the device */
	pthread_mutex_t lock;	 /* the device's create initialises it, its destroy destroys it */
	uint64_t negotiated; /* features accepted by the driver */
	/* Set by the transport: interrupt the driver because of used buffers, or a config change. */
	void (*interrupt)(struct virtio_dev *dev, bool config_change);
	/* Set by the transport: the device is broken, sets DEVICE_NEEDS_RESET. */
	void (*needs_reset)(struct virtio_dev *dev);
	void *transport;
};

/* virtio_config_copy - config_read() of a device whose config space is the @size bytes at @config */
static inline void virtio_config_copy(const void *config, size_t size, unsigned off, void *buf,
				      unsigned len)
{
	memset(buf, 0, len);
	if (off < size)
		memcpy(buf, (const uint8_t *)config + off, len < size - off ? len : size - off);
}

#endif
