/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "iommu/base.h"
#include "virtio/queue.h"

#define QUEUE_SIZE 64

/* A longer request is answered in part, as the spec lets a device do: it costs host CPU time. */
#define REQUEST_MAX 4096

struct rng {
	struct virtio_dev dev;
	struct virtqueue_chain chain;
};

static uint64_t rng_features(struct virtio_dev *dev)
{
	(void)dev;
	return 0;
}

static void rng_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	(void)dev;
	virtio_config_copy(NULL, 0, off, buf, len);
}

static void rng_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev;
	(void)off;
	(void)buf;
	(void)len;
}

/* Return: random bytes written. */
static uint32_t fill(const struct virtqueue_chain *chain)
{
	uint8_t buf[256]; /* getrandom() gives this much whole, whatever signal comes */
	uint32_t done = 0, want = MIN(chain->writable, REQUEST_MAX);

	while (done < want) {
		size_t n = MIN(sizeof(buf), want - done);

		if (getrandom(buf, n, 0) != (ssize_t)n)
			break;
		done += (uint32_t)chain_write(chain, done, buf, n);
	}
	return done;
}

static void rng_notify(struct virtio_dev *dev, unsigned q)
{
	struct rng *rng = container_of(dev, struct rng, dev);
	struct virtqueue *vq = &dev->queues[q];

	while (virtqueue_pop(vq, &rng->chain))
		virtqueue_push(vq, rng->chain.head, fill(&rng->chain));
	virtqueue_interrupt(vq);
}

static void rng_reset(struct virtio_dev *dev)
{
	(void)dev; /* nothing outlives notify() */
}

static void rng_destroy(struct virtio_dev *dev)
{
	pthread_mutex_destroy(&dev->lock);
	free(container_of(dev, struct rng, dev));
}

static const struct virtio_dev_ops rng_ops = {
	.features = rng_features,
	.config_read = rng_config_read,
	.config_write = rng_config_write,
	.notify = rng_notify,
	.reset = rng_reset,
	.destroy = rng_destroy,
};

int rng_create(struct virtio_dev **out)
{
	struct rng *rng = calloc(1, sizeof(*rng));

	if (!rng)
		return -ENOMEM;
	rng->dev.ops = &rng_ops;
	rng->dev.name = "rng";
	rng->dev.id = VIRTIO_ID_RNG;
	rng->dev.nr_queues = 1;
	rng->dev.queue_size_max = QUEUE_SIZE;
	pthread_mutex_init(&rng->dev.lock, NULL);
	*out = &rng->dev;
	return 0;
}
