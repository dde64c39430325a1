/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "virtio/net.h"

#define RAM_LEN 0x400000
#define HDR_LEN sizeof(struct virtio_net_hdr_v1)
#define RX	0
#define TX	1

#define OFFLOADS                                                                                   \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_CSUM) |     \
	 BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |                             \
	 BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_USO4) |                              \
	 BIT(VIRTIO_NET_F_GUEST_USO6))
#define NO_MRG (DRIVER_ALL_FEATURES & ~BIT(VIRTIO_NET_F_MRG_RXBUF))

static const uint8_t mac[6] = {0x02, 0, 0, 1, 2, 3};

/* One device on a real io_uring; the test's thread is the ring's, and holds the other end of a
 * socket that keeps packets apart, as a tap does. */
struct fixture {
	struct driver driver;
	struct io_uring ring;
	int ring_error; /* why there is no ring, -errno */
	int wire;	/* our end; -1 when it is closed */
	uint64_t offloads;
	unsigned nr_set, nr_lost;
};

static struct fixture fixture;

static void set_offloads(int fd, uint64_t guest)
{
	(void)fd;
	fixture.offloads = guest;
	fixture.nr_set++;
}

static void lost(void *ctx)
{
	((struct fixture *)ctx)->nr_lost++;
}

static int start_ring(void **state)
{
	memset(&fixture, 0, sizeof(fixture));
	fixture.wire = -1;
	fixture.ring_error = io_uring_queue_init(64, &fixture.ring, 0);
	*state = &fixture;
	return 0;
}

/* The driver, with a device that is not probed yet; skips the test where there is no io_uring. */
static struct driver *wrap(struct fixture *f, uint16_t mtu)
{
	struct net_cfg cfg = {
		.ring = &f->ring,
		.mtu = mtu,
		.offloads = OFFLOADS,
		.set_offloads = set_offloads,
		.lost = lost,
		.ctx = f,
	};
	struct virtio_dev *dev;
	int fds[2], size = 1 << 20;

	if (f->ring_error) {
		print_message("skipped: io_uring_setup: %s; allow it to test virtio-net\n",
			      strerror(-f->ring_error));
		skip();
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	f->wire = fds[1];
	cfg.fd = fds[0];
	memcpy(cfg.mac, mac, sizeof(mac));
	assert_int_equal(net_create(&cfg, &dev), 0);
	driver_init(&f->driver, RAM_LEN);
	driver_wrap(&f->driver, dev);
	return &f->driver;
}

static struct driver *start(struct fixture *f, uint64_t features)
{
	struct driver *d = wrap(f, 1500);

	driver_probe(d, features);
	return d;
}

static int stop_ring(void **state)
{
	struct fixture *f = *state;

	if (f->driver.mmio)
		driver_exit(&f->driver);
	if (f->wire >= 0)
		close(f->wire);
	if (!f->ring_error)
		io_uring_queue_exit(&f->ring);
	return 0;
}

/* What an event loop does with completions that are there. Return: how many. */
static unsigned poll_ring(struct fixture *f)
{
	struct io_uring_cqe *cqe;
	unsigned nr = 0;

	assert_true(io_uring_submit(&f->ring) >= 0);
	for (; !io_uring_peek_cqe(&f->ring, &cqe); nr++) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		unsigned flags = cqe->flags;

		io_uring_cqe_seen(&f->ring, cqe);
		op->done(op, res, flags);
	}
	return nr;
}

static void turn(struct fixture *f)
{
	assert_true(io_uring_submit_and_wait(&f->ring, 1) >= 0);
	assert_int_not_equal(poll_ring(f), 0);
}

static struct net_stats stats(struct fixture *f)
{
	struct net_stats out;

	net_get_stats(f->driver.dev, &out);
	return out;
}

/* ---- packets ---- */

#define PACKET_MAX (HDR_LEN + 0x28000)

struct packet {
	size_t len; /* header included */
	union {
		struct virtio_net_hdr_v1 hdr;
		uint8_t data[PACKET_MAX];
	};
};

/* Packet @seq of @len bytes behind the header, each byte of which tells where it belongs. */
static const struct packet *packet(unsigned seq, size_t len)
{
	static struct packet p;

	memset(&p, 0, HDR_LEN);
	p.len = HDR_LEN + len;
	assert_true(p.len <= PACKET_MAX);
	for (size_t i = 0; i < len; i++)
		p.data[HDR_LEN + i] = (uint8_t)(seq * 37 + i + (i >> 8));
	return &p;
}

static bool put(struct fixture *f, const struct packet *p)
{
	ssize_t ret = send(f->wire, p->data, p->len, 0);

	assert_true(ret == (ssize_t)p->len || errno == EAGAIN);
	return ret >= 0;
}

static bool get(struct fixture *f, struct packet *p)
{
	ssize_t ret = recv(f->wire, p->data, sizeof(p->data), 0);

	assert_true(ret > 0 || errno == EAGAIN);
	p->len = ret < 0 ? 0 : (size_t)ret;
	return ret > 0;
}

static void assert_same(const struct packet *got, const struct packet *want)
{
	assert_int_equal(got->len, want->len);
	assert_memory_equal(got->data + HDR_LEN, want->data + HDR_LEN, want->len - HDR_LEN);
}

/* Buffers of the receive queue, by head. */
static struct driver_buf buffers[256];

/* A buffer of @len bytes, in two descriptors if @cut is where the second begins. */
static void offer_cut(struct driver *d, uint32_t len, uint32_t cut)
{
	struct driver_buf buf = {driver_alloc(d, len), len, true};
	const struct driver_buf parts[] = {{buf.gpa, cut ? cut : len, true},
					   {buf.gpa + cut, len - cut, true}};

	memset(driver_hva(d, buf.gpa), 0xee, len);
	buffers[driver_add(d, RX, parts, cut ? 2 : 1)] = buf;
}

static void offer(struct driver *d, uint32_t len)
{
	offer_cut(d, len, 0);
}

/* The next packet that the guest has got, whole. Return: the number of buffers; 0: none. */
static unsigned take(struct driver *d, struct packet *p)
{
	unsigned nr = 1;

	p->len = 0;
	for (unsigned i = 0; i < nr; i++) {
		uint32_t len;
		uint16_t id;

		if (!driver_reap(d, RX, &id, &len)) {
			assert_int_equal(i, 0); /* never a part of a packet */
			return 0;
		}
		assert_true(len <= buffers[id].len && p->len + len <= PACKET_MAX);
		memcpy(p->data + p->len, driver_hva(d, buffers[id].gpa), len);
		p->len += len;
		if (!i)
			nr = p->hdr.num_buffers;
		assert_true(nr >= 1);
		assert_true(i + 1 == nr || len == buffers[id].len); /* no gap */
	}
	return nr;
}

static void give(struct driver *d, const struct packet *p)
{
	const struct driver_buf buf = {driver_put(d, p->data, p->len), (uint32_t)p->len, false};

	driver_add(d, TX, &buf, 1);
}

static struct packet got;

/* ---- what it is ---- */

static void the_config_space_describes_the_interface(void **state)
{
	struct driver *d = start(*state, DRIVER_ALL_FEATURES);
	struct virtio_net_config config;

	driver_config(d, 0, &config, sizeof(config));
	assert_int_equal(driver_read(d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_NET);
	assert_memory_equal(config.mac, mac, sizeof(mac));
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.mtu, 1500);
	assert_int_equal(d->features & (GENMASK(23, 0) | GENMASK(63, 50)),
			 BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MTU) |
				 BIT(VIRTIO_NET_F_MRG_RXBUF) | OFFLOADS);
}

static void without_an_mtu_none_is_told(void **state)
{
	assert_false(driver_offered(wrap(*state, 0)) & BIT(VIRTIO_NET_F_MTU));
}

static void offloads_are_what_the_driver_accepted(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
					    BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4));

	assert_int_equal(f->offloads, BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6));
	driver_reset(d);
	assert_int_equal(f->offloads, 0);
	assert_int_equal(f->nr_set, 2);
	/* What stays is not set again and again: a host's lock is taken for it. */
	driver_reset(d);
	driver_probe(d, 0);
	driver_reset(d);
	assert_int_equal(f->nr_set, 2);
	assert_int_equal(f->offloads, 0);
	driver_probe(d, DRIVER_ALL_FEATURES);
	assert_int_equal(f->offloads,
			 OFFLOADS & ~(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4)));
}

/* ---- transmitting ---- */

static void a_packet_is_sent_as_it_was_given(void **state)
{
	static const size_t lens[] = {1, 60, 1514, 4096, 65550};
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		struct packet *p = (struct packet *)packet(i, lens[i]);

		p->hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		p->hdr.csum_start = 34;
		give(d, p);
		driver_kick(d, TX);
		assert_true(get(f, &got));
		assert_int_equal(got.len, p->len);
		assert_memory_equal(got.data, p->data, p->len);
		assert_true(driver_reap(d, TX, NULL, NULL));
	}
	assert_int_equal(stats(f).tx_packets, ARRAY_SIZE(lens));
	assert_int_equal(stats(f).tx_bytes, 1 + 60 + 1514 + 4096 + 65550);
	assert_int_equal(stats(f).tx_dropped, 0);
}

/* Header and data may be cut anywhere: virtio 1.3, 2.7.4. */
static void framing_does_not_matter(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	const struct packet *p = packet(7, 100);
	uint64_t gpa = driver_put(d, p->data, p->len);
	const struct driver_buf tx[] = {
		{gpa, 5, false}, {gpa + 5, 20, false}, {gpa + 25, 87, false}};
	uint64_t in = driver_alloc(d, 200);
	const struct driver_buf rx[] = {{in, 5, true}, {in + 5, 9, true}, {in + 14, 186, true}};
	uint32_t len;

	driver_add(d, TX, tx, ARRAY_SIZE(tx));
	driver_kick(d, TX);
	assert_true(get(f, &got));
	assert_same(&got, p);

	assert_true(put(f, p));
	driver_add(d, RX, rx, ARRAY_SIZE(rx));
	driver_kick(d, RX);
	assert_true(driver_reap(d, RX, NULL, &len));
	assert_int_equal(len, p->len);
	memcpy(got.data, driver_hva(d, in), 200);
	assert_same(&got, p);
	assert_int_equal(got.hdr.num_buffers, 1);
}

static void what_is_no_packet_is_dropped_and_comes_back(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	uint64_t gpa = driver_alloc(d, 0x100000);
	const struct driver_buf rows[] = {
		{gpa, 1, false},	{gpa, HDR_LEN, false},
		{gpa, 0x100000, false}, {gpa, HDR_LEN + 65536 + 65, false},
		{gpa, 100, true},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_add(d, TX, &rows[i], 1);
		driver_kick(d, TX);
		assert_true(driver_reap(d, TX, NULL, NULL));
		assert_false(get(f, &got));
		assert_int_equal(stats(f).tx_dropped, i + 1);
	}
	/* and the queue goes on */
	give(d, packet(1, 60));
	driver_kick(d, TX);
	assert_true(get(f, &got));
	assert_same(&got, packet(1, 60));
	assert_false(driver_broken(d));
}

static void packets_that_find_no_room_wait_and_keep_their_order(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	unsigned sent = 0, used = 0;

	for (unsigned i = 0; i < 60; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	while (driver_reap(d, TX, NULL, NULL))
		used++;
	assert_true(used > 0 && used < 60); /* or the test is none */
	/* A kick meanwhile changes nothing. */
	driver_kick(d, TX);
	assert_false(driver_reap(d, TX, NULL, NULL));
	assert_int_equal(poll_ring(f), 0);
	while (sent < 60) {
		while (get(f, &got)) {
			assert_same(&got, packet(sent, 20000));
			sent++;
		}
		if (sent < 60)
			turn(f);
		while (driver_reap(d, TX, NULL, NULL))
			used++;
	}
	assert_int_equal(used, 60);
	assert_int_equal(stats(f).tx_packets, 60);
	assert_int_equal(stats(f).tx_dropped, 0);
	assert_int_equal(poll_ring(f), 0); /* nothing more to wait for */
}

/* ---- receiving ---- */

static void a_packet_is_received_as_it_came(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	struct packet *p;

	offer(d, 1526);
	offer(d, 1526);
	driver_kick(d, RX);
	assert_false(d->irq);
	p = (struct packet *)packet(3, 1500);
	p->hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	p->hdr.csum_start = 34;
	p->hdr.csum_offset = 16;
	p->hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN;
	p->hdr.gso_size = 1448;
	p->hdr.hdr_len = 66;
	assert_true(put(f, p));
	turn(f);
	assert_true(d->irq);
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, p);
	p->hdr.num_buffers = 1;
	assert_memory_equal(got.data, p->data, HDR_LEN);
	assert_int_equal(stats(f).rx_packets, 1);
	assert_int_equal(stats(f).rx_bytes, 1500);
}

static void a_long_packet_fills_several_buffers(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	for (unsigned i = 0; i < 60; i++)
		offer(d, 1526);
	driver_kick(d, RX);
	assert_true(put(f, packet(5, 65550)));
	assert_true(put(f, packet(6, 60)));
	assert_true(put(f, packet(7, 1526 * 2 - HDR_LEN))); /* to the last byte of two */
	turn(f);
	assert_int_equal(take(d, &got), 43);
	assert_same(&got, packet(5, 65550));
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(6, 60));
	assert_int_equal(take(d, &got), 2);
	assert_same(&got, packet(7, 1526 * 2 - HDR_LEN));
	assert_int_equal(take(d, &got), 0);
}

static void a_packet_longer_than_all_buffers_waits_for_more(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	offer(d, 100);
	offer(d, 100);
	driver_kick(d, RX);
	assert_true(put(f, packet(1, 1000)));
	assert_true(put(f, packet(2, 50)));
	turn(f);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(take(d, &got), 0);
		assert_int_equal(poll_ring(f), 0); /* it is the guest's turn, and nobody spins */
		offer(d, 100);
		driver_kick(d, RX);
	}
	assert_int_equal(take(d, &got), 0);
	offer(d, 112);
	driver_kick(d, RX);
	assert_int_equal(take(d, &got), 11);
	assert_same(&got, packet(1, 1000));
	offer(d, 100);
	driver_kick(d, RX);
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(2, 50));
	assert_int_equal(stats(f).rx_dropped, 0);
}

static void a_packet_that_no_ring_could_hold_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct driver *d = wrap(f, 1500);

	driver_negotiate(d, DRIVER_ALL_FEATURES);
	for (unsigned q = 0; q < 2; q++) {
		driver_alloc_queue(d, q, 4);
		driver_write_queue(d, q);
		driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	driver_add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
	for (unsigned i = 0; i < 4; i++)
		offer(d, 100);
	driver_kick(d, RX);
	assert_true(put(f, packet(1, 1000)));
	assert_true(put(f, packet(2, 65536 + 1000))); /* longer than a packet can be */
	assert_true(put(f, packet(3, 200)));
	turn(f);
	assert_int_equal(take(d, &got), 3);
	assert_same(&got, packet(3, 200));
	assert_int_equal(stats(f).rx_dropped, 2);
}

static void a_packet_longer_than_any_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	for (unsigned i = 0; i < 200; i++)
		offer(d, 1526);
	assert_true(
		put(f, packet(1, 0x24000))); /* there is room for it: but not all of it was read */
	assert_true(put(f, packet(2, 100)));
	driver_kick(d, RX);
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(2, 100));
	assert_int_equal(stats(f).rx_dropped, 1);
}

static void packets_wait_where_they_are_until_there_are_buffers(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	struct packet mine;

	driver_kick(d, RX);
	for (unsigned i = 0; i < 5; i++)
		assert_true(put(f, packet(i, 100 + i)));
	assert_int_equal(poll_ring(f), 0);
	for (unsigned i = 0; i < 5; i++) {
		offer(d, 1526);
		driver_kick(d, RX);
		assert_int_equal(take(d, &mine), 1);
		assert_same(&mine, packet(i, 100 + i));
		assert_int_equal(take(d, &mine), 0);
	}
}

static void without_merging_a_packet_has_one_buffer(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, NO_MRG);

	offer(d, 112);
	offer(d, 112);
	driver_kick(d, RX);
	assert_true(put(f, packet(1, 101))); /* one too long */
	assert_true(put(f, packet(2, 100)));
	assert_true(put(f, packet(3, 10)));
	turn(f);
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(2, 100));
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(3, 10));
	assert_int_equal(stats(f).rx_dropped, 1);
}

static void headers_the_driver_did_not_agree_to_are_kept_from_it(void **state)
{
	static const struct {
		uint64_t features;
		uint8_t flags, gso_type;
		int passes;
		uint8_t seen;
	} rows[] = {
		{0, 0, 0, true, 0},
		{0, VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, false, 0},
		{BIT(VIRTIO_NET_F_GUEST_CSUM), VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, true,
		 VIRTIO_NET_HDR_F_NEEDS_CSUM},
		{0, VIRTIO_NET_HDR_F_DATA_VALID, 0, true, 0},
		{BIT(VIRTIO_NET_F_GUEST_CSUM), VIRTIO_NET_HDR_F_DATA_VALID | 0x80, 0, true,
		 VIRTIO_NET_HDR_F_DATA_VALID},
		{BIT(VIRTIO_NET_F_GUEST_CSUM), 0, VIRTIO_NET_HDR_GSO_TCPV4, false, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO6), 0, VIRTIO_NET_HDR_GSO_TCPV4, false, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO4), 0, VIRTIO_NET_HDR_GSO_TCPV4, true, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO4), 0, VIRTIO_NET_HDR_GSO_TCPV6, false, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO6), 0, VIRTIO_NET_HDR_GSO_TCPV6, true, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO4), 0, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
		 false, 0},
		{BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_ECN), 0,
		 VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, true, 0},
		{BIT(VIRTIO_NET_F_GUEST_USO4), 0, VIRTIO_NET_HDR_GSO_UDP_L4, false, 0},
		{BIT(VIRTIO_NET_F_GUEST_USO4) | BIT(VIRTIO_NET_F_GUEST_USO6), 0,
		 VIRTIO_NET_HDR_GSO_UDP_L4, true, 0},
		{DRIVER_ALL_FEATURES, 0, VIRTIO_NET_HDR_GSO_UDP, false, 0},
		{DRIVER_ALL_FEATURES, 0, 0x7e, false, 0},
	};
	struct fixture *f = *state;
	struct driver *d = wrap(f, 1500);

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct packet *p;

		driver_probe(d, rows[i].features | BIT(VIRTIO_NET_F_MRG_RXBUF));
		offer(d, 200);
		p = (struct packet *)packet(i, 60);
		p->hdr.flags = rows[i].flags;
		p->hdr.gso_type = rows[i].gso_type;
		assert_true(put(f, p));
		driver_kick(d, RX);
		while (poll_ring(f))
			;
		if (take(d, &got) != (unsigned)rows[i].passes)
			fail_msg("row %u", i);
		if (rows[i].passes)
			assert_int_equal(got.hdr.flags, rows[i].seen);
	}
}

static void a_flood_is_handed_over_in_pieces(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	unsigned nr = 0;

	for (unsigned i = 0; i < 150; i++)
		offer(d, 200);
	for (; nr < 150 && put(f, packet(nr, 60)); nr++)
		;
	assert_int_equal(nr, 150);
	driver_kick(d, RX);
	nr = 0;
	while (take(d, &got)) {
		assert_same(&got, packet(nr, 60));
		nr++;
	}
	assert_int_equal(nr, 64);
	while (nr < 150) {
		turn(f);
		while (take(d, &got)) {
			assert_same(&got, packet(nr, 60));
			nr++;
		}
	}
}

/* Both ways at once, lengths, buffers and moments at random. */
static void packets_keep_their_order_and_contents(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	uint64_t heap = d->next_gpa, random = 88172645463325252ull;
	size_t lens[2][400];
	unsigned put_in = 0, got_in = 0, put_out = 0, got_out = 0, offered = 0, used = 0;

	for (unsigned i = 0; i < 800; i++) {
		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		lens[i / 400][i % 400] =
			1 + (random & 15 ? (random >> 8) % 3000 : (random >> 8) % 60000);
	}
	/* Every buffer gets a place of its own in its head's turn. */
	for (unsigned steps = 0; got_in < 400 || got_out < 400; steps++) {
		assert_true(steps < 100000);
		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		switch (random % 6) {
		case 0:
			while (offered - used < 120 && (random = random * 5 + 1) % 29) {
				d->next_gpa = heap + 0x2000ull * (offered++ % 256);
				offer_cut(d, 64 + (uint32_t)((random >> 20) % 4000),
					  random & 4 ? 1 + (uint32_t)(random >> 40) % 63 : 0);
			}
			driver_kick(d, RX);
			break;
		case 1:
			if (put_in < 400 && put(f, packet(put_in, lens[0][put_in])))
				put_in++;
			break;
		case 2:
			if (put_out < 400 && put_out - got_out < 16) {
				d->next_gpa = heap + 0x200000 + 0x11000ull * (put_out % 17);
				give(d, packet(put_out, lens[1][put_out]));
				put_out++;
				driver_kick(d, TX);
			}
			break;
		case 3:
			if (get(f, &got)) {
				assert_same(&got, packet(got_out, lens[1][got_out]));
				got_out++;
			}
			break;
		case 4:
			for (unsigned nr; (nr = take(d, &got)); got_in++) {
				used += nr;
				assert_same(&got, packet(got_in, lens[0][got_in]));
			}
			break;
		default:
			poll_ring(f);
		}
	}
	assert_int_equal(stats(f).rx_packets, 400);
	assert_int_equal(stats(f).tx_packets, 400);
	assert_int_equal(stats(f).rx_dropped + stats(f).tx_dropped, 0);
}

/* ---- resets, ends, hostility ---- */

static void assert_ram_untouched(struct driver *d, const uint8_t *before)
{
	assert_memory_equal(d->ram, before, d->ram_len);
}

static void a_reset_takes_back_what_was_the_drivers(void **state)
{
	static uint8_t before[RAM_LEN];
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	uint64_t dropped;

	/* Buffers in stock, a packet in the spill, one that finds no room, both waits armed. */
	offer(d, 100);
	driver_kick(d, RX);
	assert_true(put(f, packet(1, 1000)));
	turn(f);
	for (unsigned i = 0; i < 60; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	driver_reset(d);
	dropped = stats(f).rx_dropped + stats(f).tx_dropped;
	assert_int_equal(dropped, 2);
	memcpy(before, d->ram, sizeof(before));
	while (get(f, &got))
		;
	assert_true(put(f, packet(2, 50)));
	while (poll_ring(f))
		;
	assert_false(get(f, &got));
	assert_ram_untouched(d, before);
	/* And the next driver gets what waits. */
	driver_probe(d, DRIVER_ALL_FEATURES);
	offer(d, 200);
	driver_kick(d, RX);
	while (poll_ring(f))
		;
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(2, 50));
	give(d, packet(9, 70));
	driver_kick(d, TX);
	assert_true(get(f, &got));
	assert_same(&got, packet(9, 70));
}

static void buffers_are_not_used_before_the_driver_is_ready(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	/* A wait of the driver before this one ends meanwhile. */
	offer(d, 200);
	driver_kick(d, RX);
	assert_int_equal(poll_ring(f), 0);
	driver_negotiate(d, DRIVER_ALL_FEATURES);
	for (unsigned q = 0; q < 2; q++) {
		driver_alloc_queue(d, q, 8);
		driver_write_queue(d, q);
		driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	offer(d, 200);
	assert_true(put(f, packet(1, 60)));
	turn(f);
	assert_int_equal(take(d, &got), 0);
	driver_add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
	driver_kick(d, RX);
	assert_int_equal(take(d, &got), 1);
	assert_same(&got, packet(1, 60));
}

static void a_buffer_too_short_for_the_header_breaks_the_device(void **state)
{
	static const bool writable[] = {true, false};
	struct fixture *f = *state;
	struct driver *d = wrap(f, 1500);

	for (unsigned i = 0; i < ARRAY_SIZE(writable); i++) {
		struct driver_buf buf = {driver_alloc(d, 100), writable[i] ? HDR_LEN - 1 : 100,
					 writable[i]};

		driver_probe(d, DRIVER_ALL_FEATURES);
		offer(d, 200);
		driver_add(d, RX, &buf, 1);
		assert_true(put(f, packet(1, 60)));
		driver_kick(d, RX);
		assert_true(driver_broken(d));
		assert_int_equal(take(d, &got), 0);
		assert_int_equal(poll_ring(f), 0);
	}
}

/*
 * What became a use after free elsewhere (QEMU, CVE-2021-3748): a packet that needs three buffers,
 * one of which is, wholly or in part, a device's registers, and how many there are is told in the
 * first. Here nothing is told: not in the header, not in the used ring; also when the packet is
 * half in memory already.
 */
static void a_packet_over_buffers_that_are_not_all_ram_breaks_the_device(void **state)
{
	const uint64_t end = DRIVER_RAM_BASE + RAM_LEN;
	const uint64_t bad[] = {0, 0x02000000, DRIVER_RAM_BASE - 1, end - 50, end, -UINT64_C(50)};
	static const uint8_t zeros[50], untouched[HDR_LEN] = {0xee, 0xee, 0xee, 0xee, 0xee, 0xee,
							      0xee, 0xee, 0xee, 0xee, 0xee, 0xee};
	struct fixture *f = *state;
	struct driver *d = wrap(f, 1500);

	for (unsigned row = 0; row < ARRAY_SIZE(bad) * 3 * 2 * 2; row++) {
		unsigned which = row / 2 / 2 % 3;
		bool late = row % 2, in_part = row / 2 % 2;
		struct driver_buf parts[2] = {{0, 50, true}, {bad[row / 2 / 2 / 3], 100, true}};
		uint64_t first;

		driver_probe(d, DRIVER_ALL_FEATURES);
		parts[0].gpa = first = driver_alloc(d, 50);
		memset(driver_hva(d, first), 0xee, 50);
		assert_true(put(f, packet(1, 250)));
		if (row)
			turn(f); /* somebody waits for packets; now for buffers */
		for (unsigned i = 0; i < 3; i++) {
			if (i == which && late) {
				driver_kick(d, RX); /* the packet comes, and waits for more */
				assert_false(driver_broken(d));
			}
			if (i == which)
				driver_add(d, RX, parts + !in_part, 1 + in_part);
			else
				offer(d, 100);
			if (!i && which)
				first = buffers[0].gpa;
		}
		driver_kick(d, RX);
		assert_true(driver_broken(d));
		assert_int_equal(take(d, &got), 0);
		assert_memory_equal(driver_hva(d, first), untouched, HDR_LEN);
		assert_memory_equal(driver_hva(d, end - 50), zeros, 50);
		/* and it can be used again */
		driver_probe(d, DRIVER_ALL_FEATURES);
		for (unsigned i = 0; i < 3; i++)
			offer(d, 1526);
		assert_true(put(f, packet(2, 60)));
		driver_kick(d, RX);
		if (!late || !which) { /* nobody had read it */
			assert_int_equal(take(d, &got), 1);
			assert_same(&got, packet(1, 250));
		}
		assert_int_equal(take(d, &got), 1);
		assert_same(&got, packet(2, 60));
	}
}

/* A driver that offers one descriptor over and over while it is in stock. */
static void one_buffer_made_available_without_end_stays_bounded(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	uint64_t in = driver_alloc(d, 256);
	struct driver_buf bufs[200];

	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i] = (struct driver_buf){in, 1, true};
	driver_add(d, RX, bufs, ARRAY_SIZE(bufs));
	for (unsigned turns = 0; turns < 20; turns++) {
		for (unsigned i = 0; i < 255; i++)
			driver_make_avail(d, RX, 0);
		driver_kick(d, RX);
		if (turns == 5)
			assert_true(put(f, packet(1, 60000)));
		poll_ring(f);
	}
	assert_false(driver_broken(d)); /* it is only odd */
	assert_true(put(f, packet(2, 100)));
	poll_ring(f);
	assert_true(driver_reap(d, RX, NULL, NULL));
}

static void a_wire_that_is_gone_is_a_link_that_is_down(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	struct virtio_net_config config;

	offer(d, 200);
	offer(d, 200);
	driver_kick(d, RX);
	assert_true(put(f, packet(1, 60)));
	turn(f);
	assert_int_equal(take(d, &got), 1);
	/* Both waits learn of it, but it is told once. */
	for (unsigned i = 0; i < 20; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	assert_int_equal(poll_ring(f), 0);
	while (driver_reap(d, TX, NULL, NULL))
		;
	driver_ack(d);
	close(f->wire);
	f->wire = -1;
	while (poll_ring(f))
		;
	while (driver_reap(d, TX, NULL, NULL))
		;
	assert_int_equal(d->queues[TX].used_idx, 20); /* nothing waits for ever */
	assert_int_equal(f->nr_lost, 1);
	assert_true(driver_ack(d) & VIRTIO_MMIO_INT_CONFIG);
	driver_config(d, 0, &config, sizeof(config));
	assert_int_equal(config.status, 0);
	/* What is sent goes nowhere, and comes back. */
	for (unsigned i = 0; i < 300; i++) {
		uint64_t heap = d->next_gpa;

		give(d, packet(2, 60));
		driver_kick(d, TX);
		driver_kick(d, RX);
		assert_true(driver_reap(d, TX, NULL, NULL));
		d->next_gpa = heap;
	}
	assert_int_equal(poll_ring(f), 0);
	driver_probe(d, DRIVER_ALL_FEATURES);
	driver_kick(d, RX);
	assert_int_equal(f->nr_lost, 1);
}

/* ---- a driver that runs meanwhile ---- */

struct other_cpu {
	struct driver *d;
	atomic_bool stop;
	unsigned torn;
};

/* Keeps the transmit queue full of packets that are none: of descriptor 0, wherever one looks. */
static void *send_without_end(void *arg)
{
	struct other_cpu *cpu = arg;
	struct driver *d = cpu->d;

	while (!atomic_load(&cpu->stop)) {
		uint16_t used = __atomic_load_n(driver_used(d, TX, 1), __ATOMIC_ACQUIRE);

		__atomic_store_n(driver_avail(d, TX, 1), (uint16_t)(used + d->queues[TX].size),
				 __ATOMIC_RELEASE);
	}
	return NULL;
}

/* A driver that adds a packet whenever one is sent: the device's system call is where it does. */
static struct {
	struct fixture *f; /* NULL: nobody adds */
	unsigned left;	   /* packets to add */
} eager;

ssize_t writev(int fd, const struct iovec *iov, int nr)
{
	ssize_t ret = syscall(SYS_writev, fd, iov, nr);

	if (eager.f && eager.left && ret > 0) {
		eager.left--;
		driver_make_avail(&eager.f->driver, TX, 0);
		(void)!recv(eager.f->wire, &got, sizeof(got), 0);
	}
	return ret;
}

static void a_packet_for_each_that_is_sent_is_a_ringful_a_turn(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	const struct driver_buf small = {driver_alloc(d, HDR_LEN + 20), HDR_LEN + 20, false};
	uint16_t size = d->queues[TX].size;
	uint64_t before, now;

	/* The wire is full, so that the ring's completion is what goes on. */
	for (unsigned i = 0; i < 60; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	now = stats(f).tx_packets;
	assert_true(now < 60);
	while (get(f, &got))
		;
	driver_write_chain(d, TX, 0, &small, 1);
	eager.f = f;
	eager.left = 4u * size;
	do {
		before = now;
		poll_ring(f);
		now = stats(f).tx_packets;
		assert_true(now - before <= size + 1u); /* and the one that waited */
	} while (now > before);
	eager.f = NULL;
	assert_int_equal(eager.left, 0);
	assert_int_equal(now, 60 + 4u * size);
}

static void a_driver_that_never_stops_sending_does_not_hold_the_loop(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	struct other_cpu cpu = {.d = d};
	const struct driver_buf none = {driver_alloc(d, HDR_LEN), HDR_LEN, false};
	uint16_t size = d->queues[TX].size;
	pthread_t thread;
	uint64_t before, now = 0;

	/* The wire is full, so that the ring's completion is what goes on. */
	for (unsigned i = 0; i < 60; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	driver_write_chain(d, TX, 0, &none, 1);
	memset(driver_avail(d, TX, 2), 0, size * sizeof(uint16_t));
	assert_int_equal(pthread_create(&thread, NULL, send_without_end, &cpu), 0);
	while (*(volatile uint16_t *)driver_avail(d, TX, 1) == 60)
		; /* it runs */
	while (now < 200000) {
		before = now;
		while (get(f, &got))
			;
		poll_ring(f);
		now = stats(f).tx_dropped;
		assert_true(now - before <= 2u * size);
		if (now == before)
			virtio_mmio_notify(d->mmio, TX);
	}
	atomic_store(&cpu.stop, true);
	pthread_join(thread, NULL);
	assert_false(driver_broken(d));
}

#define WHOLE	  250 /* buffers of a packet */
#define NR_WHOLES 1000

/* Counts moments at which not all buffers of a packet are there. */
static void *look_at_packets(void *arg)
{
	static bool whole[UINT16_MAX + 1]; /* used indices behind a packet */
	struct other_cpu *cpu = arg;

	for (unsigned i = 0; i <= NR_WHOLES; i++)
		whole[(uint16_t)(i * WHOLE)] = true;
	while (!atomic_load(&cpu->stop))
		cpu->torn += !whole[__atomic_load_n(driver_used(cpu->d, RX, 1), __ATOMIC_ACQUIRE)];
	return NULL;
}

static void a_packet_is_seen_whole_or_not_at_all(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);
	struct other_cpu cpu = {.d = d};
	uint64_t heap = d->next_gpa;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, look_at_packets, &cpu), 0);
	for (unsigned i = 0; i < NR_WHOLES; i++) {
		d->next_gpa = heap;
		for (unsigned j = 0; j < WHOLE; j++)
			offer(d, 20);
		assert_true(put(f, packet(i, WHOLE * 20 - HDR_LEN)));
		driver_kick(d, RX);
		while (poll_ring(f))
			;
		assert_int_equal(take(d, &got), WHOLE);
	}
	atomic_store(&cpu.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(cpu.torn, 0);
}

static void destroy_leaves_nothing_in_the_ring(void **state)
{
	struct fixture *f = *state;
	struct driver *d = start(f, DRIVER_ALL_FEATURES);

	offer(d, 200);
	driver_kick(d, RX);
	for (unsigned i = 0; i < 60; i++)
		give(d, packet(i, 20000));
	driver_kick(d, TX);
	io_uring_submit(&f->ring);
	driver_exit(d);
	d->mmio = NULL;
	assert_int_equal(io_uring_sq_ready(&f->ring), 0);
	assert_int_equal(io_uring_submit_and_get_events(&f->ring), 0);
	for (struct io_uring_cqe *cqe; !io_uring_peek_cqe(&f->ring, &cqe);) {
		assert_null(io_uring_cqe_get_data(cqe)); /* a cancel's own */
		io_uring_cqe_seen(&f->ring, cqe);
	}
}

int main(void)
{
#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, start_ring, stop_ring)
	const struct CMUnitTest tests[] = {
		NET_TEST(the_config_space_describes_the_interface),
		NET_TEST(without_an_mtu_none_is_told),
		NET_TEST(offloads_are_what_the_driver_accepted),
		NET_TEST(a_packet_is_sent_as_it_was_given),
		NET_TEST(framing_does_not_matter),
		NET_TEST(what_is_no_packet_is_dropped_and_comes_back),
		NET_TEST(packets_that_find_no_room_wait_and_keep_their_order),
		NET_TEST(a_packet_is_received_as_it_came),
		NET_TEST(a_long_packet_fills_several_buffers),
		NET_TEST(a_packet_longer_than_all_buffers_waits_for_more),
		NET_TEST(a_packet_that_no_ring_could_hold_is_dropped),
		NET_TEST(a_packet_longer_than_any_is_dropped),
		NET_TEST(packets_wait_where_they_are_until_there_are_buffers),
		NET_TEST(without_merging_a_packet_has_one_buffer),
		NET_TEST(headers_the_driver_did_not_agree_to_are_kept_from_it),
		NET_TEST(a_flood_is_handed_over_in_pieces),
		NET_TEST(packets_keep_their_order_and_contents),
		NET_TEST(a_reset_takes_back_what_was_the_drivers),
		NET_TEST(buffers_are_not_used_before_the_driver_is_ready),
		NET_TEST(a_buffer_too_short_for_the_header_breaks_the_device),
		NET_TEST(a_packet_over_buffers_that_are_not_all_ram_breaks_the_device),
		NET_TEST(one_buffer_made_available_without_end_stays_bounded),
		NET_TEST(a_wire_that_is_gone_is_a_link_that_is_down),
		NET_TEST(a_packet_for_each_that_is_sent_is_a_ringful_a_turn),
		NET_TEST(a_driver_that_never_stops_sending_does_not_hold_the_loop),
		NET_TEST(a_packet_is_seen_whole_or_not_at_all),
		NET_TEST(destroy_leaves_nothing_in_the_ring),
	};

	signal(SIGPIPE, SIG_IGN); /* no tap sends one */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
