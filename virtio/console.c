/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/console.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>

#include "iommu/base.h"
#include "virtio/queue.h"

#define QUEUE_SIZE 64

#define RECEIVEQ  0
#define TRANSMITQ 1

/* Typed ahead of the guest; a power of two. */
#define INPUT_MAX 4096u

/*
 * Drivers send a line or a page at a time. The rest of a longer chain is dropped: one chain can
 * name gigabytes, and the event loop has other work than printing them.
 */
#define OUTPUT_MAX 65536u

struct console {
	struct virtio_dev dev;
	void (*output)(void *ctx, const void *buf, size_t len);
	void *output_ctx;
	struct virtio_console_config config;
	uint8_t input[INPUT_MAX];
	uint32_t input_head, input_tail; /* free-running: next to write, next to hand out */
	struct virtqueue_chain chain;
};

static uint64_t console_features(struct virtio_dev *dev)
{
	(void)dev;
	return BIT(VIRTIO_CONSOLE_F_SIZE);
}

static void console_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct console *con = container_of(dev, struct console, dev);

	virtio_config_copy(&con->config, sizeof(con->config), off, buf, len);
}

/* Only emerg_wr can be written, and VIRTIO_CONSOLE_F_EMERG_WRITE is not offered. */
static void console_config_write(struct virtio_dev *dev, unsigned off, const void *buf,
				 unsigned len)
{
	(void)dev;
	(void)off;
	(void)buf;
	(void)len;
}

/* Move input into the guest's buffers, as far as there are both. */
static void deliver(struct console *con)
{
	struct virtqueue *vq = &con->dev.queues[RECEIVEQ];
	struct virtqueue_chain *chain = &con->chain;

	while (con->input_head != con->input_tail && virtqueue_pop(vq, chain)) {
		size_t done = 0;

		/* at most two runs: the buffer wraps once */
		while (con->input_head != con->input_tail) {
			uint32_t at = con->input_tail % INPUT_MAX;
			uint32_t run = MIN(con->input_head - con->input_tail, INPUT_MAX - at);
			size_t n = chain_write(chain, done, con->input + at, run);

			done += n;
			con->input_tail += (uint32_t)n;
			if (n < run)
				break;
		}
		virtqueue_push(vq, chain->head, (uint32_t)done);
	}
	virtqueue_interrupt(vq);
}

static void print(struct console *con)
{
	struct virtqueue *vq = &con->dev.queues[TRANSMITQ];
	struct virtqueue_chain *chain = &con->chain;

	while (virtqueue_pop(vq, chain)) {
		size_t left = OUTPUT_MAX;

		for (unsigned i = 0; i < chain->nr_readable && left; i++) {
			size_t n = MIN(chain->iov[i].iov_len, left);

			con->output(con->output_ctx, chain->iov[i].iov_base, n);
			left -= n;
		}
		virtqueue_push(vq, chain->head, 0);
	}
	virtqueue_interrupt(vq);
}

static void console_notify(struct virtio_dev *dev, unsigned q)
{
	struct console *con = container_of(dev, struct console, dev);

	if (q == RECEIVEQ)
		deliver(con);
	else
		print(con);
}

static void console_reset(struct virtio_dev *dev)
{
	(void)dev; /* no buffer outlives a call; what was typed ahead is the next driver's */
}

static void console_destroy(struct virtio_dev *dev)
{
	pthread_mutex_destroy(&dev->lock);
	free(container_of(dev, struct console, dev));
}

static const struct virtio_dev_ops console_ops = {
	.features = console_features,
	.config_read = console_config_read,
	.config_write = console_config_write,
	.notify = console_notify,
	.reset = console_reset,
	.destroy = console_destroy,
};

int console_create(void (*output)(void *ctx, const void *buf, size_t len), void *ctx,
		   struct virtio_dev **out)
{
	struct console *con = calloc(1, sizeof(*con));

	if (!con)
		return -ENOMEM;
	con->dev.ops = &console_ops;
	con->dev.name = "console";
	con->dev.id = VIRTIO_ID_CONSOLE;
	con->dev.nr_queues = 2;
	con->dev.queue_size_max = QUEUE_SIZE;
	pthread_mutex_init(&con->dev.lock, NULL);
	con->output = output;
	con->output_ctx = ctx;
	con->config.max_nr_ports = 1;
	*out = &con->dev;
	return 0;
}

size_t console_input(struct virtio_dev *dev, const void *buf, size_t len)
{
	struct console *con = container_of(dev, struct console, dev);
	struct virtqueue *vq = &dev->queues[RECEIVEQ];
	const uint8_t *src = buf;
	size_t taken = 0;

	pthread_mutex_lock(&dev->lock);
	do {
		while (taken < len && con->input_head - con->input_tail < INPUT_MAX)
			con->input[con->input_head++ % INPUT_MAX] = src[taken++];
		/* A guest that keeps adding buffers without room in them must not keep us here. */
		virtqueue_set_budget(vq, vq->size);
		deliver(con);
		(void)virtqueue_over_budget(
			vq); /* asks for a kick when the last buffer was taken */
		virtqueue_set_budget(vq, VIRTQUEUE_NO_BUDGET);
	} while (taken < len && con->input_head - con->input_tail < INPUT_MAX);
	pthread_mutex_unlock(&dev->lock);
	return taken;
}

void console_resize(struct virtio_dev *dev, uint16_t cols, uint16_t rows)
{
	struct console *con = container_of(dev, struct console, dev);

	pthread_mutex_lock(&dev->lock);
	if (con->config.cols != cols || con->config.rows != rows) {
		con->config.cols = cols;
		con->config.rows = rows;
		dev->interrupt(dev, true);
	}
	pthread_mutex_unlock(&dev->lock);
}
