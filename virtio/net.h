/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net - virtio-net, one pair of queues, on a descriptor that reads and writes one packet at a time,
 * each behind a struct virtio_net_hdr_v1 of 12 bytes: a tap, or a test's socket.
 *
 * The descriptor never blocks, so packets are read and written where they are met, on the ring's
 * thread, straight from and to guest memory. Between two calls nothing is in flight that could
 * touch it: the ring only waits for the descriptor to become ready, and a reset waits for nobody.
 *
 * Packets wait in the tap until the guest has room for them. What cannot be delivered, in either
 * direction, is dropped and counted: a network may lose packets, a queue may not stop.
 * Source: virtio 1.3 section 5.1 "Network Device".
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <linux/virtio_net.h>

#include "virtio/device.h"
#include "virtio/uring.h"

/* virtio 1.3, 5.1.3; kernel headers have them since Linux 6.2. */
#ifndef VIRTIO_NET_F_HOST_USO
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define NET_MAC_LEN 6

struct net_cfg {
	int fd; /* non-blocking; the device closes it */
	struct io_uring *ring;
	uint8_t mac[NET_MAC_LEN];
	uint16_t mtu;	   /* what the guest is told, bytes; 0: nothing */
	uint64_t offloads; /* BIT(VIRTIO_NET_F_CSUM, GUEST_*, HOST_*): what @fd can do */
	/* Which GUEST_* of @offloads packets that are read may need from now on; any thread. */
	void (*set_offloads)(int fd, uint64_t guest);
	/* @fd is of no more use, the guest's link is down; once, on the ring's thread. */
	void (*lost)(void *ctx);
	void *ctx;
};

struct net_stats {
	uint64_t rx_packets, rx_bytes, rx_dropped; /* to the guest */
	uint64_t tx_packets, tx_bytes, tx_dropped; /* from the guest */
};

/**
 * net_create
 *
 * Threads: as blk_create(), except that reset() waits for nothing.
 * Return: 0; -ENOMEM (fd then still the caller's).
 */
int net_create(const struct net_cfg *cfg, struct virtio_dev **out);

/* net_get_stats - any thread */
void net_get_stats(struct virtio_dev *dev, struct net_stats *out);

#endif
