/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio - a virtio-mmio (version 2) driver with split queues, polled.
 *
 * Every ring field can be reached, so that a payload can also be a bad driver.
 */
#ifndef BARE_VIRTIO_H
#define BARE_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#define VQ_SIZE	  64 /* at most */
#define VDEV_VQS  2
#define VQ_TIMEOUT_US 5000000

struct vq {
	unsigned index;
	uint16_t size;
	uint16_t next_desc; /* descriptors of requests in flight are below it */
	uint16_t seen;	    /* used.idx up to here has been taken */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
};

struct vdev {
	uint64_t base;
	unsigned slot;
	uint64_t features; /* negotiated */
	unsigned nr_queues;
	bool dead; /* an answer did not come: do not wait for more until it is started again */
	struct vq vq[VDEV_VQS];
};

/* One piece of a request. */
struct seg {
	void *at;
	uint32_t len;
	bool write; /* the device writes it */
};

/* vdev_find - the @nth device with virtio id @id. Return: false if there is none. */
bool vdev_find(uint32_t id, unsigned nth, struct vdev *out);

uint64_t vdev_features(struct vdev *dev); /* offered */
void vdev_reset(struct vdev *dev);

/**
 * vdev_start - reset, negotiate, set up @nr_queues queues, DRIVER_OK
 * @features: accepted, besides VERSION_1
 * Return: NULL, or what the device would not do.
 */
const char *vdev_start(struct vdev *dev, uint64_t features, unsigned nr_queues);

uint32_t vdev_reg(struct vdev *dev, unsigned reg);
void vdev_set_reg(struct vdev *dev, unsigned reg, uint32_t val);
uint64_t vdev_config(struct vdev *dev, unsigned off, unsigned len); /* len 1, 2, 4 or 8 */

/* vq_add - queue a request without a kick. Return: its head descriptor. */
uint16_t vq_add(struct vq *vq, const struct seg *segs, unsigned nr);
void vq_kick(struct vdev *dev, struct vq *vq);
/* vq_wait - the next used element. Return: false when none came in time. */
bool vq_wait(struct vq *vq, uint32_t *head, uint32_t *len);

/* vq_request - add, kick, wait. Return: used.len, or -1 when no answer came. */
int64_t vq_request(struct vdev *dev, unsigned vq, const struct seg *segs, unsigned nr);

#endif
