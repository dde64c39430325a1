/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "virtio/queue.h"

#define SECTOR	   512u
#define QUEUE_SIZE 256

/* One chain holds the header, the status byte and this many data buffers: 1 MiB in 4 KiB pages. */
#define SEG_MAX (VIRTQUEUE_MAX_SEGS - 2)

/* One discard request is one fallocate() of at most 1 GiB, so that it ends in good time. */
#define DISCARD_MAX   (UINT32_C(1) << 21) /* sectors */
#define DISCARD_ALIGN 8			  /* sectors: the block of most file systems */

/* What the completion that is waited for was asked to do. */
enum step {
	STEP_ANSWER, /* nothing: the status is known */
	STEP_READ,
	STEP_WRITE,
	STEP_SYNC,
	STEP_DISCARD,
};

struct request {
	struct uring_op op;
	struct blk *blk;
	struct request *next; /* in blk->free */
	enum step step;
	struct iovec *iov; /* data still to be moved, inside chain.iov */
	unsigned nr_iov;
	uint64_t left;	      /* bytes in iov, or to discard */
	uint64_t offset;      /* bytes into the file */
	uint32_t written;     /* bytes at the start of the writable part that were filled */
	uint8_t *status_byte; /* guest memory */
	uint8_t status;
	struct virtqueue_chain chain;
};

struct blk {
	struct virtio_dev dev;
	int fd;
	bool readonly;
	uint64_t sectors;
	char serial[VIRTIO_BLK_ID_BYTES]; /* padded with NUL, need not end in one */
	struct virtio_blk_config config;
	struct io_uring *ring;
	void (*failed)(void *ctx, const char *what, int error);
	void *failed_ctx;

	/* dev.lock */
	struct request *free;
	unsigned in_flight;
	pthread_cond_t idle; /* in_flight became 0 */

	struct request requests[QUEUE_SIZE];
};

static struct blk *to_blk(struct virtio_dev *dev)
{
	return container_of(dev, struct blk, dev);
}

/* ---- the ring ---- */

static void submit(struct request *req, enum step step)
{
	struct io_uring_sqe *sqe = uring_get_sqe(req->blk->ring);
	int fd = req->blk->fd;

	req->step = step;
	switch (step) {
	case STEP_ANSWER:
		io_uring_prep_nop(sqe);
		break;
	case STEP_READ:
		io_uring_prep_readv(sqe, fd, req->iov, req->nr_iov, req->offset);
		break;
	case STEP_WRITE:
		io_uring_prep_writev(sqe, fd, req->iov, req->nr_iov, req->offset);
		break;
	case STEP_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case STEP_DISCARD:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)req->offset, (off_t)req->left);
		break;
	}
	io_uring_sqe_set_data(sqe, &req->op);
}

/*
 * The answer takes its turn in the ring too: however fast a guest adds requests that need no I/O,
 * there are never more than QUEUE_SIZE of them between two turns of the event loop.
 */
static void answer(struct request *req, uint8_t status)
{
	req->status = status;
	submit(req, STEP_ANSWER);
}

/* ---- requests ---- */

/* Drop @n bytes at the front of what is left; empty iovecs go too. */
static void consume(struct request *req, uint64_t n)
{
	req->left -= n;
	while (req->nr_iov && n >= req->iov->iov_len) {
		n -= req->iov->iov_len;
		req->iov++;
		req->nr_iov--;
	}
	if (n) {
		req->iov->iov_base = (uint8_t *)req->iov->iov_base + n;
		req->iov->iov_len -= n;
	}
}

static bool in_range(const struct blk *blk, uint64_t sector, uint64_t nr_sectors)
{
	return sector <= blk->sectors && nr_sectors <= blk->sectors - sector;
}

static void start_transfer(struct request *req, uint64_t sector, bool write)
{
	struct blk *blk = req->blk;

	if (req->left % SECTOR || !in_range(blk, sector, req->left / SECTOR) ||
	    (write && blk->readonly)) {
		answer(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->offset = sector * SECTOR;
	if (!req->left)
		answer(req, VIRTIO_BLK_S_OK);
	else
		submit(req, write ? STEP_WRITE : STEP_READ);
}

static void start_discard(struct request *req)
{
	struct virtio_blk_discard_write_zeroes range;
	struct blk *blk = req->blk;

	if (!(blk->dev.negotiated & BIT(VIRTIO_BLK_F_DISCARD))) {
		answer(req, blk->readonly ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_UNSUPP);
		return;
	}
	/* max_discard_seg is 1 */
	if (req->chain.readable != sizeof(struct virtio_blk_outhdr) + sizeof(range)) {
		answer(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	chain_read(&req->chain, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
	if (range.flags) {
		answer(req, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (range.num_sectors > DISCARD_MAX || !in_range(blk, range.sector, range.num_sectors)) {
		answer(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->offset = range.sector * SECTOR;
	req->left = (uint64_t)range.num_sectors * SECTOR;
	if (!req->left)
		answer(req, VIRTIO_BLK_S_OK);
	else
		submit(req, STEP_DISCARD);
}

/* Data is what follows the header in the readable part. */
static void take_readable(struct request *req)
{
	req->iov = req->chain.iov;
	req->nr_iov = req->chain.nr_readable;
	req->left = req->chain.readable;
	consume(req, sizeof(struct virtio_blk_outhdr));
}

/* Data is what precedes the status byte in the writable part. */
static void take_writable(struct request *req)
{
	struct iovec *last;

	req->iov = req->chain.iov + req->chain.nr_readable;
	req->nr_iov = req->chain.nr_writable;
	req->left = req->chain.writable - 1;
	last = &req->iov[req->nr_iov - 1];
	if (!--last->iov_len)
		req->nr_iov--;
}

/* Return: false when there is no header, or no byte to answer in. */
static bool start_request(struct request *req)
{
	const struct virtqueue_chain *chain = &req->chain;
	struct virtio_blk_outhdr header;
	const struct iovec *last;

	/* no assumption about which descriptor holds what: virtio 1.3, 2.7.4 "Message Framing" */
	if (chain_read(chain, 0, &header, sizeof(header)) != sizeof(header) || !chain->writable)
		return false;
	last = &chain->iov[chain->nr_readable + chain->nr_writable - 1];
	req->status_byte = (uint8_t *)last->iov_base + last->iov_len - 1;
	req->written = 0;
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		take_writable(req);
		start_transfer(req, header.sector, false);
		break;
	case VIRTIO_BLK_T_OUT:
		take_readable(req);
		start_transfer(req, header.sector, true);
		break;
	case VIRTIO_BLK_T_FLUSH:
		submit(req, STEP_SYNC);
		break;
	case VIRTIO_BLK_T_DISCARD:
		start_discard(req);
		break;
	case VIRTIO_BLK_T_GET_ID:
		req->written =
			(uint32_t)chain_write(chain, 0, req->blk->serial,
					      MIN(sizeof(req->blk->serial), chain->writable - 1));
		answer(req, VIRTIO_BLK_S_OK);
		break;
	default:
		answer(req, VIRTIO_BLK_S_UNSUPP);
	}
	return true;
}

static void serve(struct blk *blk)
{
	struct virtqueue *vq = &blk->dev.queues[0];
	struct request *req;

	while ((req = blk->free) && virtqueue_pop(vq, &req->chain)) {
		if (!start_request(req)) {
			virtqueue_break(vq);
			return;
		}
		blk->free = req->next;
		blk->in_flight++;
	}
}

/* The file has failed a request. */
static void tell_failure(const struct request *req, int error)
{
	static const char *const names[] = {
		[STEP_ANSWER] = "nothing", [STEP_READ] = "read",       [STEP_WRITE] = "write",
		[STEP_SYNC] = "flush",	   [STEP_DISCARD] = "discard",
	};

	if (req->blk->failed)
		req->blk->failed(req->blk->failed_ctx, names[req->step], error);
}

/* Go on with a request after a completion. Return: false when it waits for another one. */
static bool proceed(struct request *req, int res)
{
	bool write_through = !(req->blk->dev.negotiated & BIT(VIRTIO_BLK_F_FLUSH));

	if (res == -EINTR || res == -EAGAIN) {
		submit(req, req->step);
		return false;
	}
	switch (req->step) {
	case STEP_ANSWER:
		return true;
	case STEP_READ:
	case STEP_WRITE:
		if (res <= 0) {
			/* 0: the file ends here, it was truncated under us */
			req->status = VIRTIO_BLK_S_IOERR;
			tell_failure(req, -res);
			return true;
		}
		consume(req, (uint64_t)res);
		req->offset += (uint64_t)res;
		if (req->step == STEP_READ)
			req->written += (uint32_t)res;
		if (req->left) {
			submit(req, req->step);
			return false;
		}
		/* A driver without FLUSH takes a finished write to be on the medium. */
		if (req->step == STEP_WRITE && write_through) {
			submit(req, STEP_SYNC);
			return false;
		}
		break;
	case STEP_SYNC:
		break;
	case STEP_DISCARD:
		/* a file system without holes */
		if (res == -EOPNOTSUPP) {
			req->status = VIRTIO_BLK_S_UNSUPP;
			return true;
		}
		break;
	}
	req->status = res < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	if (res < 0)
		tell_failure(req, -res);
	return true;
}

static void request_done(struct uring_op *op, int res, unsigned flags)
{
	struct request *req = container_of(op, struct request, op);
	struct blk *blk = req->blk;
	struct virtqueue *vq = &blk->dev.queues[0];

	(void)flags;
	pthread_mutex_lock(&blk->dev.lock);
	/* After a reset nothing is the driver's to hear of, nor its memory ours to write. */
	if (virtqueue_live(vq)) {
		uint32_t data_len = req->chain.writable - 1;

		if (!proceed(req, res))
			goto out;
		*req->status_byte = req->status;
		/* used.len counts from the start without a gap; the status byte comes last */
		virtqueue_push(vq, req->chain.head, req->written + (req->written == data_len));
		virtqueue_interrupt(vq);
	}
	req->next = blk->free;
	blk->free = req;
	if (!--blk->in_flight)
		pthread_cond_broadcast(&blk->idle);
	serve(blk);
out:
	pthread_mutex_unlock(&blk->dev.lock);
}

/* ---- device ops ---- */

static uint64_t blk_features(struct virtio_dev *dev)
{
	return BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
	       (to_blk(dev)->readonly ? BIT(VIRTIO_BLK_F_RO) : BIT(VIRTIO_BLK_F_DISCARD));
}

static void blk_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct blk *blk = to_blk(dev);

	virtio_config_copy(&blk->config, sizeof(blk->config), off, buf, len);
}

static void blk_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev;
	(void)off;
	(void)buf;
	(void)len;
}

static void blk_notify(struct virtio_dev *dev, unsigned q)
{
	(void)q;
	serve(to_blk(dev));
}

/* Requests in flight read and write guest memory: only when the kernel is done with all is it over.
 */
static void blk_reset(struct virtio_dev *dev)
{
	struct blk *blk = to_blk(dev);

	while (blk->in_flight)
		pthread_cond_wait(&blk->idle, &dev->lock);
}

static void blk_destroy(struct virtio_dev *dev)
{
	struct blk *blk = to_blk(dev);
	struct io_uring_cqe *cqe;

	while (blk->in_flight) {
		int res;

		io_uring_submit(blk->ring);
		res = io_uring_wait_cqe(blk->ring, &cqe);
		if (res == -EINTR || res == -EAGAIN)
			continue;
		if (res)
			break; /* no ring, no completion */
		uring_deliver(blk->ring, cqe);
	}
	close(blk->fd);
	pthread_cond_destroy(&blk->idle);
	pthread_mutex_destroy(&dev->lock);
	free(blk);
}

static const struct virtio_dev_ops blk_ops = {
	.features = blk_features,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.notify = blk_notify,
	.reset = blk_reset,
	.destroy = blk_destroy,
};

int blk_create(int fd, uint64_t size, bool readonly, const char *serial, struct io_uring *ring,
	       struct virtio_dev **out)
{
	struct blk *blk = calloc(1, sizeof(*blk));

	if (!blk)
		return -ENOMEM;
	blk->dev.ops = &blk_ops;
	blk->dev.name = "blk";
	blk->dev.id = VIRTIO_ID_BLOCK;
	blk->dev.nr_queues = 1;
	blk->dev.queue_size_max = QUEUE_SIZE;
	pthread_mutex_init(&blk->dev.lock, NULL);
	pthread_cond_init(&blk->idle, NULL);
	blk->fd = fd;
	blk->readonly = readonly;
	blk->sectors = size / SECTOR;
	memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	blk->ring = ring;
	blk->config = (struct virtio_blk_config){
		.capacity = blk->sectors,
		.seg_max = SEG_MAX,
		.blk_size = SECTOR,
		.max_discard_sectors = DISCARD_MAX,
		.max_discard_seg = 1,
		.discard_sector_alignment = DISCARD_ALIGN,
	};
	for (unsigned i = 0; i < QUEUE_SIZE; i++) {
		struct request *req = &blk->requests[i];

		req->op.done = request_done;
		req->blk = blk;
		req->next = blk->free;
		blk->free = req;
	}
	*out = &blk->dev;
	return 0;
}

void blk_on_failure(struct virtio_dev *dev, void (*fn)(void *ctx, const char *what, int error),
		    void *ctx)
{
	to_blk(dev)->failed = fn;
	to_blk(dev)->failed_ctx = ctx;
}
