/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/net.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "iommu/base.h"
#include "virtio/queue.h"

#define QUEUE_SIZE 256

#define RECEIVEQ  0
#define TRANSMITQ 1

#define HDR_LEN (sizeof(struct virtio_net_hdr_v1))

/* A segment that is yet to be cut, of 64 KiB at most in IPv4 and IPv6, with Ethernet's header and
 * tags. */
#define FRAME_MAX (65536u + 64)

/* Packets handed to the guest before the loop sees to its other work. */
#define RX_BATCH 64

/* Buffers in stock; each chain must find room, and readv() takes one iovec before and one behind.
 */
#define STOCK_BUFS QUEUE_SIZE
#define STOCK_IOVS (IOV_MAX - 2)

#define GUEST_FEATURES                                                                             \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |                             \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) |                              \
	 BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_GUEST_USO4) |                              \
	 BIT(VIRTIO_NET_F_GUEST_USO6))

/* A wait for the descriptor, in the ring. It touches nothing of the guest's and outlives a reset.
 */
struct wait {
	struct uring_op op;
	struct net *net;
	short events;
	bool armed;
};

/* A buffer that the guest has given for packets and that holds none yet. */
struct rx_buf {
	uint16_t head;
	uint16_t nr_iov;
	uint32_t len;
};

struct net {
	struct virtio_dev dev;
	struct net_cfg cfg;
	struct virtio_net_config config;

	/* All below: dev.lock. */
	struct net_stats stats;
	bool started; /* DRIVER_OK: buffers that are ready before are not ours yet */
	bool lost;
	struct wait readable, writable;
	struct virtqueue_chain chain; /* of either queue, but see tx_waits */

	/*
	 * Receiving. How long a packet is shows when it has been read, so buffers are taken in
	 * advance, as many as the longest needs if the guest has them: the stock. What does not fit
	 * goes into the spill, and waits there for more buffers.
	 */
	struct virtio_net_hdr_v1 hdr; /* of the last packet read */
	struct rx_buf bufs[STOCK_BUFS];
	unsigned nr_bufs;
	struct iovec iov[STOCK_IOVS]; /* of all of bufs, in their order */
	unsigned nr_iov;
	size_t stock;	/* bytes in iov */
	size_t pending; /* bytes of the packet that waits for buffers, header included; 0: none */
	size_t spilled; /* how many of them are in spill */
	uint8_t spill[FRAME_MAX];

	uint64_t offloads; /* as last set */

	/* Transmitting. */
	bool tx_waits; /* tx_chain was taken and the descriptor is full */
	struct virtqueue_chain tx_chain;
};

static struct net *to_net(struct virtio_dev *dev)
{
	return container_of(dev, struct net, dev);
}

static bool has_feature(const struct net *net, unsigned bit)
{
	return net->dev.negotiated & BIT(bit);
}

static bool is_running(const struct net *net, unsigned q)
{
	return net->started && virtqueue_live(&net->dev.queues[q]);
}

/* ---- the descriptor -------------------------------------------------------------------------- */

static void arm(struct wait *wait)
{
	struct io_uring_sqe *sqe;

	if (wait->armed || wait->net->lost)
		return;
	sqe = uring_get_sqe(wait->net->cfg.ring);
	io_uring_prep_poll_add(sqe, wait->net->cfg.fd, (unsigned)wait->events);
	io_uring_sqe_set_data(sqe, &wait->op);
	wait->armed = true;
}

/* A tap that was deleted, say. The guest sees a cable that was pulled. */
static void lose(struct net *net)
{
	if (net->lost)
		return;
	net->lost = true;
	net->config.status = 0;
	net->dev.interrupt(&net->dev, true);
	if (net->cfg.lost)
		net->cfg.lost(net->cfg.ctx);
}

/* What a tap without its interface answers: Linux drivers/net/tun.c, tun_chr_read_iter(). */
static bool is_loss(int error)
{
	return error == EBADFD || error == EBADF;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static unsigned stock_limit(const struct net *net)
{
	/* Without mergeable buffers a packet has one: more in stock would be of no use. */
	if (!has_feature(net, VIRTIO_NET_F_MRG_RXBUF))
		return 1;
	return MIN(net->dev.queues[RECEIVEQ].size, STOCK_BUFS);
}

static bool stock_is_full(const struct net *net)
{
	return net->nr_bufs >= stock_limit(net) ||
	       net->nr_iov + VIRTQUEUE_MAX_SEGS > ARRAY_SIZE(net->iov);
}

/* Take buffers until there is room for @len bytes, as far as there are any. */
static void stock_up(struct net *net, size_t len)
{
	struct virtqueue *vq = &net->dev.queues[RECEIVEQ];
	struct virtqueue_chain *chain = &net->chain;

	while (net->stock < len && !stock_is_full(net) && virtqueue_pop(vq, chain)) {
		/* 5.1.6.3.1: a buffer that could not even hold the header is not one */
		if (chain->writable < HDR_LEN) {
			virtqueue_break(vq);
			return;
		}
		memcpy(&net->iov[net->nr_iov], &chain->iov[chain->nr_readable],
		       chain->nr_writable * sizeof(chain->iov[0]));
		net->bufs[net->nr_bufs++] = (struct rx_buf){
			.head = chain->head,
			.nr_iov = (uint16_t)chain->nr_writable,
			.len = chain->writable,
		};
		net->nr_iov += chain->nr_writable;
		net->stock += chain->writable;
	}
}

/* Give the guest the packet of @len bytes, header included, that fills the stock's first buffers.
 */
static void deliver(struct net *net, size_t len)
{
	struct vring_used_elem elems[STOCK_BUFS];
	unsigned nr = 0, nr_iov = 0;
	size_t done = 0;

	for (; done < len; nr++) {
		uint32_t n = (uint32_t)MIN(net->bufs[nr].len, len - done);

		elems[nr] = (struct vring_used_elem){.id = net->bufs[nr].head, .len = n};
		nr_iov += net->bufs[nr].nr_iov;
		net->stock -= net->bufs[nr].len;
		done += n;
	}
	net->hdr.num_buffers = (uint16_t)nr;
	iov_write(net->iov, net->nr_iov, 0, &net->hdr, HDR_LEN);
	virtqueue_push_all(&net->dev.queues[RECEIVEQ], elems, nr);
	net->nr_bufs -= nr;
	net->nr_iov -= nr_iov;
	memmove(net->bufs, net->bufs + nr, net->nr_bufs * sizeof(net->bufs[0]));
	memmove(net->iov, net->iov + nr_iov, net->nr_iov * sizeof(net->iov[0]));
	net->stats.rx_packets++;
	net->stats.rx_bytes += len - HDR_LEN;
}

/* May the guest see this header? Not if the packet was queued before it chose its features. */
static bool header_is_agreed(const struct net *net)
{
	const struct virtio_net_hdr_v1 *hdr = &net->hdr;

	if ((hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
	    !has_feature(net, VIRTIO_NET_F_GUEST_CSUM))
		return false;
	if ((hdr->gso_type & VIRTIO_NET_HDR_GSO_ECN) && !has_feature(net, VIRTIO_NET_F_GUEST_ECN))
		return false;
	switch (hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return has_feature(net, VIRTIO_NET_F_GUEST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return has_feature(net, VIRTIO_NET_F_GUEST_TSO6);
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return has_feature(net, VIRTIO_NET_F_GUEST_USO4) &&
		       has_feature(net, VIRTIO_NET_F_GUEST_USO6);
	default:
		return false;
	}
}

/* One packet, its header here, the rest in the stock and in the spill. Return: as readv(). */
static ssize_t read_packet(struct net *net)
{
	struct iovec v[IOV_MAX];
	size_t skip = HDR_LEN;
	unsigned nr = 0;

	v[nr++] = (struct iovec){&net->hdr, HDR_LEN};
	for (unsigned i = 0; i < net->nr_iov; i++) {
		const struct iovec *iov = &net->iov[i];

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		v[nr++] = (struct iovec){(uint8_t *)iov->iov_base + skip, iov->iov_len - skip};
		skip = 0;
	}
	v[nr++] = (struct iovec){net->spill, sizeof(net->spill)};
	return readv(net->cfg.fd, v, (int)nr);
}

enum received {
	RECEIVED, /* one packet more, or one less to deliver */
	NO_PACKET,
	NO_BUFFER, /* the guest has been asked for a kick */
};

/* The packet whose end is in the spill, once there are buffers for it. */
static enum received receive_pending(struct net *net)
{
	stock_up(net, net->pending);
	if (net->stock >= net->pending) {
		iov_write(net->iov, net->nr_iov, net->pending - net->spilled, net->spill,
			  net->spilled);
		deliver(net, net->pending);
	} else if (stock_is_full(net)) {
		net->stats.rx_dropped++; /* there never will be */
	} else {
		return NO_BUFFER;
	}
	net->pending = 0;
	return RECEIVED;
}

static enum received receive_one(struct net *net)
{
	size_t len;
	ssize_t ret;

	if (net->pending)
		return receive_pending(net);
	stock_up(net, HDR_LEN + FRAME_MAX);
	if (!net->nr_bufs || !is_running(net, RECEIVEQ))
		return NO_BUFFER;
	ret = read_packet(net);
	if (!ret || (ret < 0 && is_loss(errno)))
		lose(net);
	if (ret <= 0)
		return NO_PACKET;
	len = (size_t)ret;
	/* One that fills all there is may have been longer. */
	if (len < HDR_LEN || len >= net->stock + sizeof(net->spill) || !header_is_agreed(net)) {
		net->stats.rx_dropped++;
		return RECEIVED;
	}
	net->hdr.flags &= has_feature(net, VIRTIO_NET_F_GUEST_CSUM)
				  ? VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID
				  : 0;
	if (len <= net->stock) {
		deliver(net, len);
		return RECEIVED;
	}
	net->pending = len;
	net->spilled = len - net->stock;
	return receive_pending(net);
}

static void receive(struct net *net)
{
	enum received received = RECEIVED;

	for (unsigned i = 0; i < RX_BATCH && received == RECEIVED; i++)
		received = receive_one(net);
	virtqueue_interrupt(&net->dev.queues[RECEIVEQ]);
	if (received != NO_BUFFER)
		arm(&net->readable);
}

/* ---- transmitting ---------------------------------------------------------------------------- */

/* Return: false if the packet has to wait. */
static bool send_packet(struct net *net, const struct virtqueue_chain *chain)
{
	ssize_t ret = -1;

	/* Whatever else is wrong with it the kernel finds out, as with any program's. */
	errno = EINVAL;
	if (!net->lost && chain->readable > HDR_LEN && chain->readable <= HDR_LEN + FRAME_MAX) {
		do
			ret = writev(net->cfg.fd, chain->iov, (int)chain->nr_readable);
		while (ret < 0 && errno == EINTR);
	}
	if (ret < 0 && errno == EAGAIN)
		return false;
	if (ret < 0) {
		if (is_loss(errno))
			lose(net);
		net->stats.tx_dropped++;
	} else {
		net->stats.tx_packets++;
		net->stats.tx_bytes += (size_t)ret - HDR_LEN;
	}
	return true;
}

static void transmit(struct net *net)
{
	struct virtqueue *vq = &net->dev.queues[TRANSMITQ];

	while (net->tx_waits || virtqueue_pop(vq, &net->tx_chain)) {
		net->tx_waits = !send_packet(net, &net->tx_chain);
		if (net->tx_waits) {
			arm(&net->writable);
			break;
		}
		virtqueue_push(vq, net->tx_chain.head, 0);
	}
	virtqueue_interrupt(vq);
}

/* ---- readiness ------------------------------------------------------------------------------- */

/* Return: is the descriptor ready? If it is not, that was seen to. */
static bool is_ready(struct wait *wait, int res)
{
	wait->armed = false;
	if (res == -ECANCELED)
		return false;
	if (res == -EINTR || res == -EAGAIN || res == -ENOMEM) {
		arm(wait);
		return false;
	}
	/* An error that no read or write will take away would be reported for ever. */
	if (res < 0 || !(res & wait->events)) {
		lose(wait->net);
		return false;
	}
	return true;
}

static void on_readable(struct uring_op *op, int res, unsigned flags)
{
	struct wait *wait = container_of(op, struct wait, op);
	struct net *net = wait->net;

	(void)flags;
	pthread_mutex_lock(&net->dev.lock);
	if (is_ready(wait, res) && is_running(net, RECEIVEQ))
		receive(net);
	pthread_mutex_unlock(&net->dev.lock);
}

static void on_writable(struct uring_op *op, int res, unsigned flags)
{
	struct wait *wait = container_of(op, struct wait, op);
	struct net *net = wait->net;
	struct virtqueue *vq = &net->dev.queues[TRANSMITQ];

	(void)flags;
	pthread_mutex_lock(&net->dev.lock);
	if ((is_ready(wait, res) || net->lost) && is_running(net, TRANSMITQ)) {
		/* As for a kick: a guest that never stops adding packets must not keep us here. */
		virtqueue_set_budget(vq, vq->size);
		transmit(net);
		if (virtqueue_over_budget(vq))
			arm(wait);
		virtqueue_set_budget(vq, VIRTQUEUE_NO_BUDGET);
	}
	pthread_mutex_unlock(&net->dev.lock);
}

/* ---- device ops ------------------------------------------------------------------------------ */

static uint64_t net_features(struct virtio_dev *dev)
{
	const struct net *net = to_net(dev);

	return BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) |
	       (net->cfg.mtu ? BIT(VIRTIO_NET_F_MTU) : 0) | net->cfg.offloads;
}

static void net_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	const struct net *net = to_net(dev);

	virtio_config_copy(&net->config, sizeof(net->config), off, buf, len);
}

/* 5.1.4: all of it is read-only for a driver of this version. */
static void net_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev;
	(void)off;
	(void)buf;
	(void)len;
}

/* Only what changes: it takes a lock that all of the host's network shares. */
static void set_offloads(struct net *net, uint64_t offloads)
{
	if (net->offloads == offloads)
		return;
	net->offloads = offloads;
	net->cfg.set_offloads(net->cfg.fd, offloads);
}

static void net_start(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	net->started = true;
	set_offloads(net, dev->negotiated & GUEST_FEATURES);
}

static void net_notify(struct virtio_dev *dev, unsigned q)
{
	struct net *net = to_net(dev);

	if (q == TRANSMITQ)
		transmit(net);
	else if (!net->readable.armed && !net->lost)
		receive(net);
}

static void net_reset(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	if (net->pending)
		net->stats.rx_dropped++;
	if (net->tx_waits)
		net->stats.tx_dropped++;
	net->started = false;
	net->nr_bufs = net->nr_iov = 0;
	net->stock = net->pending = 0;
	net->tx_waits = false;
	set_offloads(net, 0);
}

static void cancel(struct wait *wait)
{
	struct io_uring_sqe *sqe;

	if (!wait->armed)
		return;
	sqe = uring_get_sqe(wait->net->cfg.ring);
	io_uring_prep_cancel(sqe, &wait->op, 0);
	io_uring_sqe_set_data(sqe, NULL);
}

static void net_destroy(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	cancel(&net->readable);
	cancel(&net->writable);
	while (net->readable.armed || net->writable.armed) {
		struct io_uring_cqe *cqe;
		int res;

		io_uring_submit(net->cfg.ring);
		res = io_uring_wait_cqe(net->cfg.ring, &cqe);
		if (res == -EINTR || res == -EAGAIN)
			continue;
		if (res)
			break; /* no ring, no completion */
		uring_deliver(net->cfg.ring, cqe);
	}
	close(net->cfg.fd);
	pthread_mutex_destroy(&dev->lock);
	free(net);
}

static const struct virtio_dev_ops net_ops = {
	.features = net_features,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.start = net_start,
	.notify = net_notify,
	.reset = net_reset,
	.destroy = net_destroy,
};

static void init_wait(struct wait *wait, struct net *net, short events,
		      void (*done)(struct uring_op *op, int res, unsigned flags))
{
	wait->op.done = done;
	wait->net = net;
	wait->events = events;
}

int net_create(const struct net_cfg *cfg, struct virtio_dev **out)
{
	struct net *net = calloc(1, sizeof(*net));

	if (!net)
		return -ENOMEM;
	net->dev.ops = &net_ops;
	net->dev.name = "net";
	net->dev.id = VIRTIO_ID_NET;
	net->dev.nr_queues = 2;
	net->dev.queue_size_max = QUEUE_SIZE;
	pthread_mutex_init(&net->dev.lock, NULL);
	net->cfg = *cfg;
	memcpy(net->config.mac, cfg->mac, sizeof(net->config.mac));
	net->config.status = VIRTIO_NET_S_LINK_UP;
	net->config.max_virtqueue_pairs = 1;
	net->config.mtu = cfg->mtu;
	init_wait(&net->readable, net, POLLIN, on_readable);
	init_wait(&net->writable, net, POLLOUT, on_writable);
	*out = &net->dev;
	return 0;
}

void net_get_stats(struct virtio_dev *dev, struct net_stats *out)
{
	struct net *net = to_net(dev);

	pthread_mutex_lock(&dev->lock);
	*out = net->stats;
	pthread_mutex_unlock(&dev->lock);
}
