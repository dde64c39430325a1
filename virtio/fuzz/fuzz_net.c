/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_net - a hostile driver, and a network that sends it whatever it likes, against virtio-net.
 *
 * An input is what either does: descriptors, rings and any other byte of RAM, kicks, registers,
 * resets, features; packets of any length and header; and turns of the event loop. What it holds
 * the device to: RAM is not touched between a reset and DRIVER_OK; nothing outside RAM ever (ASan,
 * it is from the heap); packets that are counted as sent are on the wire, in that number and no
 * longer than a packet can be; every packet from the wire is counted as delivered or dropped or is
 * still to be had; no call goes on without end; and a well-behaved driver after all that gets its
 * packets.
 *
 * Files: virtio/net.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "iommu/gmem.h"
#include "virtio/device.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/queue.h"

#define NR_QUEUES 2
#define MAX_SIZE  16u
#define MAX_OPS	  300

#define RAM	0x40000000ull
#define RAM_LEN 0x20000ull

#define DESC(q)	 (RAM + 0x1000ull * (q))
#define AVAIL(q) (DESC(q) + 0x400)
#define USED(q)	 (DESC(q) + 0x800)
#define DATA	 (RAM + 0x2000)

#define HDR_LEN	  sizeof(struct virtio_net_hdr_v1)
#define FRAME_MAX (HDR_LEN + 65536 + 64)

struct bench {
	struct gmem gmem;
	uint8_t *ram;
	struct virtio_dev *dev;
	struct virtio_mmio *mmio;
	struct io_uring ring;
	int wire;
	uint64_t put, got;	 /* packets into the wire, and out of it */
	bool clogged, gone;	 /* nobody takes any out; there is no wire any more */
	uint8_t before[RAM_LEN]; /* RAM, when it was last the driver's alone */
	bool quiet;
};

static struct bench b;

static void set_offloads(int fd, uint64_t guest)
{
	(void)fd, (void)guest;
}

static void set_irq(void *ctx, bool level)
{
	(void)ctx, (void)level;
}

static void turn(void)
{
	struct io_uring_cqe *cqe;

	demand(io_uring_submit(&b.ring) >= 0);
	while (!io_uring_peek_cqe(&b.ring, &cqe)) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		unsigned flags = cqe->flags;

		io_uring_cqe_seen(&b.ring, cqe);
		if (op)
			op->done(op, res, flags);
	}
}

static void reg_write(unsigned off, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	virtio_mmio_access(b.mmio, off, data, sizeof(data), true);
}

static void drain(void)
{
	static uint8_t buf[FRAME_MAX + 1];
	ssize_t len;

	while ((len = recv(b.wire, buf, sizeof(buf), 0)) > 0) {
		demand((size_t)len > HDR_LEN && (size_t)len <= FRAME_MAX);
		b.got++;
	}
}

/* What is true whatever the driver does. */
static void check(void)
{
	struct net_stats stats;

	net_get_stats(b.dev, &stats);
	if (!b.clogged)
		drain();
	demand(b.clogged ? stats.tx_packets >= b.got : b.gone || stats.tx_packets == b.got);
	demand(stats.rx_packets + stats.rx_dropped <= b.put);
	if (b.quiet)
		demand(!memcmp(b.ram, b.before, RAM_LEN));
}

static void reset(void)
{
	reg_write(VIRTIO_MMIO_STATUS, 0);
	memcpy(b.before, b.ram, RAM_LEN);
	b.quiet = true;
}

static void set_up(uint64_t features, unsigned size)
{
	reset();
	reg_write(VIRTIO_MMIO_STATUS, 3);
	for (unsigned i = 0; i < 2; i++) {
		reg_write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		reg_write(VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * i)));
	}
	reg_write(VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned q = 0; q < NR_QUEUES; q++) {
		reg_write(VIRTIO_MMIO_QUEUE_SEL, q);
		reg_write(VIRTIO_MMIO_QUEUE_NUM, size);
		reg_write(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)DESC(q));
		reg_write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)AVAIL(q));
		reg_write(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)USED(q));
		reg_write(VIRTIO_MMIO_QUEUE_READY, 1);
	}
	turn();
	check(); /* buffers that are ready are not the device's yet */
	b.quiet = false;
	reg_write(VIRTIO_MMIO_STATUS, 7 | VIRTIO_CONFIG_S_FEATURES_OK);
}

static uint8_t *ram_at(uint64_t gpa, uint64_t len)
{
	return gpa >= RAM && gpa <= RAM + RAM_LEN && len <= RAM + RAM_LEN - gpa
		       ? b.ram + (gpa - RAM)
		       : NULL;
}

static void make_available(unsigned q, uint16_t head, unsigned size)
{
	uint8_t *at = ram_at(AVAIL(q), 4 + 2 * MAX_SIZE);

	put_le16(at + 4 + 2ull * (get_le16(at + 2) % size), head);
	put_le16(at + 2, (uint16_t)(get_le16(at + 2) + 1));
}

static void put_desc(unsigned q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		     uint16_t next)
{
	uint8_t *at = ram_at(DESC(q) + 16ull * i, 16);

	put_le64(at, addr);
	put_le32(at + 8, len);
	put_le16(at + 12, flags);
	put_le16(at + 14, next);
}

static void send_into(uint32_t len, uint8_t flags, uint8_t gso_type)
{
	static uint8_t buf[0x18000];
	struct virtio_net_hdr_v1 hdr = {.flags = flags, .gso_type = gso_type};

	if (!len)
		return; /* a socket's end of file */
	memcpy(buf, &hdr, sizeof(hdr));
	b.put += send(b.wire, buf, MIN(len, sizeof(buf)), 0) > 0;
}

static void step(struct input *in)
{
	unsigned q, i;
	uint8_t *at, how;
	uint64_t gpa;

	switch (take8(in) % 10) {
	case 0: /* a descriptor */
	case 1:
		how = take8(in);
		gpa = how & 0x80 ? take64(in) : DATA + 0x100ull * take16(in) % (RAM_LEN - 0x2000);
		put_desc(how & 1, how >> 1 & 15, gpa, how & 0x40 ? take32(in) : take16(in),
			 (uint16_t)(how & 0x20 ? take8(in) & 7
				    : how & 1  ? 0
					       : VRING_DESC_F_WRITE),
			 take8(in));
		break;
	case 2: /* heads, made available */
		how = take8(in);
		for (i = 0; i < (how >> 1 & 15u) + 1; i++)
			make_available(how & 1, take8(in) % MAX_SIZE, MAX_SIZE);
		break;
	case 3: /* any bytes of RAM */
		gpa = RAM + (take32(in) % RAM_LEN);
		i = take8(in);
		at = ram_at(gpa, i);
		if (at)
			take(in, at, i);
		if (at && b.quiet)
			memcpy(b.before, b.ram, RAM_LEN);
		break;
	case 4:
		reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, take8(in) % (NR_QUEUES + 1));
		break;
	case 5: /* packets for the guest */
		how = take8(in);
		for (i = 0; i < (how & 7u) + 1; i++)
			send_into(how & 8 ? take8(in) * 0x200u : take16(in), take8(in) & (how >> 4),
				  take8(in));
		break;
	case 6:
		turn();
		break;
	case 7: /* any register */
	{
		uint8_t data[8];
		uint64_t off = take8(in) * 2u;

		how = take8(in);
		take(in, data, sizeof(data));
		/* Only set_up() makes the queues ready, so that it knows when RAM is quiet. */
		if (off == VIRTIO_MMIO_STATUS || off == VIRTIO_MMIO_QUEUE_READY)
			break;
		virtio_mmio_access(b.mmio, off, data, 1u << how % 4, how & 0x80);
		break;
	}
	case 8:
		how = take8(in);
		if (how % 8 == 1) {
			b.clogged = !b.clogged && !b.gone;
		} else if (how == 0x7f && !b.gone) { /* the tap is deleted */
			b.clogged = false;
			check();
			demand(!shutdown(b.wire, SHUT_RDWR));
			b.gone = true;
		}
		if (how % 8)
			break;
		q = take8(in) % 5;
		set_up(BIT(VIRTIO_F_VERSION_1) | (how & 0x10 ? BIT(VIRTIO_NET_F_MRG_RXBUF) : 0) |
			       (how & 0x20 ? BIT(VIRTIO_NET_F_GUEST_CSUM) : 0) |
			       (how & 0x40 ? BIT(VIRTIO_NET_F_GUEST_TSO4) : 0) |
			       (how & 0x80 ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0),
		       1u << q);
		break;
	case 9:
		if (take8(in) % 8 == 0)
			reset();
		break;
	}
	/* The driver writes RAM as it likes; only what comes of it is the device's doing. */
	if (b.quiet)
		memcpy(b.before, b.ram, RAM_LEN);
}

/* After all that: a driver as it should be is served. */
static void behave(void)
{
	static uint8_t buf[0x20000];
	struct net_stats before, now;

	b.clogged = false;
	drain();
	turn(); /* what waited for the wire */
	drain();
	memset(b.ram, 0, RAM_LEN);
	set_up(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF), MAX_SIZE);
	for (unsigned i = 0; i < MAX_SIZE; i++) {
		put_desc(0, i, DATA + 0x1000 * i, 0x1000, VRING_DESC_F_WRITE, 0);
		make_available(0, (uint16_t)i, MAX_SIZE);
	}
	net_get_stats(b.dev, &before);
	reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	if (b.gone) { /* the guest sees it */
		uint8_t status[2] = {1};

		for (unsigned i = 0; i < 1000 && status[0]; i++) {
			turn();
			reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
			virtio_mmio_access(b.mmio,
					   VIRTIO_MMIO_CONFIG +
						   offsetof(struct virtio_net_config, status),
					   status, 2, false);
		}
		demand(!status[0]);
		return;
	}
	for (unsigned i = 0; i < 1000 && before.rx_packets + before.rx_dropped < b.put; i++) {
		turn();
		net_get_stats(b.dev, &before);
		/* Buffers that were used are offered again. */
		while (get_le16(ram_at(USED(0), 4) + 2) !=
		       (uint16_t)(get_le16(ram_at(AVAIL(0), 4) + 2) - MAX_SIZE)) {
			uint16_t used = (uint16_t)(get_le16(ram_at(AVAIL(0), 4) + 2) - MAX_SIZE);

			make_available(0,
				       get_le16(ram_at(USED(0) + 4 + 8ull * (used % MAX_SIZE), 8)),
				       MAX_SIZE);
		}
		reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	}
	demand(before.rx_packets + before.rx_dropped == b.put); /* every one came to an end */
	send_into(100, 0, 0);
	turn();
	net_get_stats(b.dev, &now);
	demand(now.rx_packets == before.rx_packets + 1);
	memset(buf, 0, sizeof(buf));
	put_desc(1, 0, DATA, 100, 0, 0);
	make_available(1, 0, MAX_SIZE);
	reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	demand(recv(b.wire, buf, sizeof(buf), 0) == 100);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct net_cfg cfg = {
		.mac = {2, 0, 0, 0, 0, 1},
		.mtu = 1500,
		.offloads = BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4),
		.set_offloads = set_offloads,
	};
	struct input in = {data, len};
	int fds[2], size = 1 << 20;

	memset(&b, 0, sizeof(b));
	signal(SIGPIPE, SIG_IGN); /* no tap sends one */
	if (io_uring_queue_init(64, &b.ring, 0))
		return 0; /* not allowed here */
	demand(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	b.wire = fds[1];
	cfg.fd = fds[0];
	cfg.ring = &b.ring;
	b.ram = calloc(1, RAM_LEN);
	demand(b.ram);
	demand(!gmem_add(&b.gmem, RAM, RAM_LEN, b.ram));
	demand(!net_create(&cfg, &b.dev));
	b.dev->gmem = &b.gmem;
	demand(!virtio_mmio_create(b.dev, set_irq, NULL, &b.mmio));
	set_up(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF), MAX_SIZE);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++) {
		step(&in);
		check();
	}
	behave();
	virtio_mmio_destroy(b.mmio);
	io_uring_queue_exit(&b.ring);
	close(b.wire);
	free(b.ram);
	return 0;
}
