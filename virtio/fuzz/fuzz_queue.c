/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_queue - a hostile driver against the split queue, through the virtio-mmio registers.
 *
 * An input is what a driver does: writes of registers, descriptors, rings and any other byte of
 * RAM, and kicks. Behind the transport is a device that holds each chain it is given against what a
 * walker of its own, written from the specification and as slow as it likes, makes of the same
 * bytes of RAM; then it reads and writes every byte of it. RAM is two spans from the heap, so that
 * a step past either end is seen.
 *
 * Files: virtio/queue.c virtio/mmio.c
 */
#include "iommu/fuzz/input.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "iommu/gmem.h"
#include "virtio/device.h"
#include "virtio/mmio.h"
#include "virtio/queue.h"

#define NR_QUEUES 2
#define MAX_SIZE  16 /* entries; small, so that the ends of everything are near */
#define MAX_OPS	  400

/* Two spans with a hole between. */
#define RAM	 0x40000000ull
#define RAM_LEN	 0x4000ull
#define RAM2	 0x40008000ull
#define RAM2_LEN 0x1000ull

/* Where set_up() puts the parts of queue q. */
#define DESC(q)	 (RAM + 0x1000ull * (q))
#define AVAIL(q) (DESC(q) + 0x400)
#define USED(q)	 (DESC(q) + 0x800)
#define INDIRECT (RAM + 0x3000) /* room for tables, for the descriptors that point there */

struct bench {
	struct gmem gmem;
	uint8_t *ram, *ram2;
	struct virtio_dev dev;
	struct virtio_mmio *mmio;
	bool irq;
	unsigned held; /* how many of the next chains of queue 0 are not pushed at once */
	uint16_t hold[MAX_SIZE];
	unsigned nr_hold;
	unsigned popped[NR_QUEUES], pushed[NR_QUEUES]; /* since set-up */
};

static struct bench b;

/* ---- the walker ------------------------------------------------------------------------------ */

/* RAM at [gpa, gpa + len), or NULL: by the two spans above, not by what the transport was told. */
static uint8_t *ram_at(uint64_t gpa, uint64_t len)
{
	if (gpa >= RAM && gpa < RAM + RAM_LEN && len <= RAM + RAM_LEN - gpa)
		return b.ram + (gpa - RAM);
	if (gpa >= RAM2 && gpa < RAM2 + RAM2_LEN && len <= RAM2 + RAM2_LEN - gpa)
		return b.ram2 + (gpa - RAM2);
	return NULL;
}

static uint64_t span_end(uint64_t gpa)
{
	return gpa < RAM2 ? RAM + RAM_LEN : RAM2 + RAM2_LEN;
}

struct walk {
	unsigned nr_readable, nr_writable;
	uint64_t bytes[2];
	struct iovec iov[VIRTQUEUE_MAX_SEGS];
};

/* walk - what a chain must be. Return: false if no driver may make such a chain. */
static bool walk(const struct virtqueue *vq, unsigned head, struct walk *w)
{
	uint64_t table = vq->desc_gpa;
	unsigned nr = vq->size, i = head, steps = 0;
	bool indirect = false;

	memset(w, 0, sizeof(*w));
	for (;;) {
		const uint8_t *d;
		uint64_t addr;
		uint32_t len;
		uint16_t flags;
		bool write;

		if (i >= nr)
			return false;
		d = ram_at(table + 16ull * i, 16);
		demand(d);
		addr = get_le64(d);
		len = get_le32(d + 8);
		flags = get_le16(d + 12);
		if (flags & VRING_DESC_F_INDIRECT) {
			/* 2.7.5.3.1: offered, not nested, not followed, a whole table in RAM */
			if (!(vq->dev->negotiated & BIT(VIRTIO_RING_F_INDIRECT_DESC)) || indirect ||
			    flags & VRING_DESC_F_NEXT || !len || len % 16 || !ram_at(addr, len))
				return false;
			indirect = true;
			table = addr;
			nr = len / 16;
			i = 0;
			continue;
		}
		write = flags & VRING_DESC_F_WRITE;
		if (++steps > VIRTQUEUE_MAX_SEGS || (!write && w->nr_writable))
			return false;
		if (len) {
			uint8_t *at = ram_at(addr, len);

			if (!at)
				return false;
			w->iov[w->nr_readable + w->nr_writable] = (struct iovec){at, len};
			w->nr_readable += !write;
			w->nr_writable += write;
			w->bytes[write] += len;
		}
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		i = get_le16(d + 14);
	}
	return w->bytes[0] + w->bytes[1] <= UINT32_MAX;
}

/* ---- the device ------------------------------------------------------------------------------ */

static uint64_t dev_features(struct virtio_dev *dev)
{
	(void)dev;
	return 0;
}

static void dev_config(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	(void)dev, (void)off;
	memset(buf, 0, len);
}

static void dev_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev, (void)off, (void)buf, (void)len;
}

/* What is outside a chain's writable part, and the used ring, must not change under chain_write().
 */
static uint64_t sum(const uint8_t *at, size_t len)
{
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ at[i]) * 1099511628211ull;
	return h;
}

static void use(const struct virtqueue_chain *chain, const struct walk *w)
{
	static uint8_t buf[RAM_LEN * 4];
	size_t off = 0, n;

	for (unsigned i = 0; i < w->nr_readable && off < sizeof(buf); i++) {
		n = MIN(w->iov[i].iov_len, sizeof(buf) - off);
		demand(chain_read(chain, off, buf + off, n) == n);
		demand(!memcmp(buf + off, w->iov[i].iov_base, n));
		off += n;
	}
	/* no more than there is, and nothing past it */
	demand(chain_read(chain, chain->readable, buf, 1) == 0);
	demand(chain_write(chain, chain->writable, buf, 1) == 0);
	n = MIN(chain->readable, sizeof(buf));
	demand(chain_read(chain, 0, buf, n) == n);
	n = MIN(chain->writable, sizeof(buf));
	memset(buf, 0x5a, n);
	if (!n)
		return;
	/* the last byte, and not the one behind it */
	demand(chain_write(chain, chain->writable - 1, buf, 2) == 1);
	demand(*((uint8_t *)w->iov[w->nr_readable + w->nr_writable - 1].iov_base +
		 w->iov[w->nr_readable + w->nr_writable - 1].iov_len - 1) == 0x5a);
}

static void push(struct virtqueue *vq, unsigned q, uint16_t head, uint32_t len)
{
	const uint8_t *used;
	uint16_t slot;

	if (!virtqueue_live(vq)) {
		uint64_t before = sum(b.ram, RAM_LEN) ^ sum(b.ram2, RAM2_LEN);

		virtqueue_push(vq, head, len);
		demand(before == (sum(b.ram, RAM_LEN) ^ sum(b.ram2, RAM2_LEN)));
		return;
	}
	used = ram_at(vq->used_gpa, 4 + 8ull * vq->size);
	slot = (uint16_t)(b.pushed[q] % vq->size);
	demand(used);
	virtqueue_push(vq, head, len);
	b.pushed[q]++;
	demand(get_le16(used + 2) == (uint16_t)b.pushed[q]);
	demand(get_le32(used + 4 + 8ull * slot) == head && get_le32(used + 8 + 8ull * slot) == len);
	demand(b.pushed[q] <= b.popped[q]);
}

static void dev_notify(struct virtio_dev *dev, unsigned q)
{
	struct virtqueue *vq = &dev->queues[q];
	struct virtqueue_chain chain;
	static struct walk w;

	demand(q < NR_QUEUES);
	for (unsigned turns = 0;; turns++) {
		uint16_t next = (uint16_t)b.popped[q], waiting = 0, head = 0;
		const uint8_t *avail = NULL;
		bool good = false, live = virtqueue_live(vq);

		if (live) {
			avail = ram_at(vq->avail_gpa, 4 + 2ull * vq->size);
			demand(avail);
			waiting = (uint16_t)(get_le16(avail + 2) - next);
			head = get_le16(avail + 4 + 2ull * (next % vq->size));
			good = waiting && waiting <= vq->size && walk(vq, head, &w);
		}
		if (!virtqueue_pop(vq, &chain)) {
			/* A good chain waits for the rest of the budget only. */
			demand(!good || turns == vq->size);
			demand(!live || virtqueue_live(vq) || (waiting && !good) ||
			       waiting > vq->size);
			break;
		}
		demand(good && turns < vq->size);
		b.popped[q]++;
		demand(chain.head == head);
		demand(chain.nr_readable == w.nr_readable && chain.nr_writable == w.nr_writable);
		demand(chain.readable == w.bytes[0] && chain.writable == w.bytes[1]);
		demand(!memcmp(chain.iov, w.iov,
			       (w.nr_readable + w.nr_writable) * sizeof(struct iovec)));
		use(&chain, &w);
		if (b.held && b.nr_hold < MAX_SIZE && q == 0) {
			b.held--;
			b.hold[b.nr_hold++] = head;
		} else {
			push(vq, q, head, chain.writable);
		}
	}
	virtqueue_interrupt(vq);
}

static void dev_reset(struct virtio_dev *dev)
{
	/* what was in flight is dropped */
	while (b.nr_hold)
		push(&dev->queues[0], 0, b.hold[--b.nr_hold], 1);
	b.held = 0;
	memset(b.popped, 0, sizeof(b.popped));
	memset(b.pushed, 0, sizeof(b.pushed));
}

static void dev_destroy(struct virtio_dev *dev)
{
	pthread_mutex_destroy(&dev->lock);
}

static const struct virtio_dev_ops ops = {
	.features = dev_features,
	.config_read = dev_config,
	.config_write = dev_config_write,
	.notify = dev_notify,
	.reset = dev_reset,
	.destroy = dev_destroy,
};

static void set_irq(void *ctx, bool level)
{
	(void)ctx;
	demand(level != b.irq);
	b.irq = level;
}

/* ---- the driver ------------------------------------------------------------------------------ */

static uint32_t reg_read(unsigned off)
{
	uint8_t data[4];

	virtio_mmio_access(b.mmio, off, data, sizeof(data), false);
	return get_le32(data);
}

static void reg_write(unsigned off, uint32_t val)
{
	uint8_t data[4];

	put_le32(data, val);
	virtio_mmio_access(b.mmio, off, data, sizeof(data), true);
}

/* set_up - as a driver does it, but that the places of the parts and the size are the input's */
static void set_up(uint8_t features, struct input *in)
{
	reg_write(VIRTIO_MMIO_STATUS, 0);
	reg_write(VIRTIO_MMIO_STATUS, 3);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES,
		  (features & 1 ? BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
			  (features & 2 ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0));
	reg_write(VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned q = 0; q < NR_QUEUES; q++) {
		uint8_t how = take8(in);
		/* The parts may overlap, or be elsewhere than in RAM: nobody keeps a driver from
		 * that. The used ring overlaps nothing: its changes are looked for. */
		uint64_t desc = DESC(q) + (how & 0x40 ? take16(in) : 0);
		uint64_t avail = AVAIL(q) + (how & 0x80 ? take16(in) : 0);

		reg_write(VIRTIO_MMIO_QUEUE_SEL, q);
		reg_write(VIRTIO_MMIO_QUEUE_NUM, how & 0x20 ? take16(in) : 1u << how % 5);
		reg_write(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)desc);
		reg_write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)avail);
		reg_write(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)USED(q));
		reg_write(VIRTIO_MMIO_QUEUE_READY, !(how & 0x10));
	}
	reg_write(VIRTIO_MMIO_STATUS, 7 | VIRTIO_CONFIG_S_FEATURES_OK);
}

/* A gpa by a few bytes of input: near the ends of the spans more often than elsewhere. */
static uint64_t take_gpa(struct input *in)
{
	static const uint64_t places[] = {RAM,	    RAM + RAM_LEN, RAM2,    RAM2 + RAM2_LEN,
					  INDIRECT, RAM2 + 0x800,  DESC(0), 0};
	uint8_t how = take8(in);

	if (how >= 0xf8)
		return take64(in);
	return places[how % 8] + (how & 0x80 ? (uint64_t) - (int64_t)take8(in) : take8(in)) +
	       (how & 0x40 ? 0x100u * take8(in) : 0);
}

static void step(struct input *in)
{
	unsigned q, i;
	uint8_t *at;
	uint64_t gpa;

	switch (take8(in) % 10) {
	case 0: /* a descriptor, in a ring or in a table elsewhere */
		q = take8(in);
		i = take8(in) % (2 * MAX_SIZE);
		gpa = q & 4 ? INDIRECT : DESC(q % NR_QUEUES);
		at = ram_at(gpa + 16 * i, 16);
		if (!at)
			break;
		put_le64(at, take_gpa(in));
		put_le32(at + 8, q & 8 ? take32(in) : take8(in) * (q & 16 ? 16u : 1u));
		if (q & 128) /* to the end of its span, or one byte to either side */
			put_le32(at + 8, (uint32_t)(span_end(get_le64(at)) - get_le64(at)) +
						 take8(in) % 3 - 1);
		put_le16(at + 12, q & 32 ? take16(in) : take8(in) & 7);
		put_le16(at + 14, q & 64 ? take16(in) : (uint16_t)(i + 1));
		break;
	case 1: /* heads, made available */
		q = take8(in);
		at = ram_at(AVAIL(q % NR_QUEUES), 4 + 2 * MAX_SIZE);
		for (i = 0; i < (q >> 1 & 3) + 1; i++) {
			uint32_t size;

			reg_write(VIRTIO_MMIO_QUEUE_SEL, q % NR_QUEUES);
			size = b.dev.queues[q % NR_QUEUES].size;
			size = size && size <= MAX_SIZE ? size : 1;
			put_le16(at + 4 + 2ull * (get_le16(at + 2) % size), take8(in));
			put_le16(at + 2, (uint16_t)(get_le16(at + 2) + 1));
		}
		break;
	case 2: /* the avail index, flags and used_event as they please */
		q = take8(in);
		at = ram_at(AVAIL(q % NR_QUEUES), 6 + 2 * MAX_SIZE);
		put_le16(at + (q & 2 ? 0 : q & 4 ? 4 + 2 * (q >> 4) : 2), take16(in));
		break;
	case 3: /* any bytes of RAM but the used rings, which the device reads nothing from */
		gpa = take_gpa(in);
		i = take8(in) % 64;
		at = ram_at(gpa, i);
		if (at && (gpa + i <= USED(0) || gpa >= DESC(1)) &&
		    (gpa + i <= USED(1) || gpa >= DESC(2)))
			take(in, at, i);
		break;
	case 4:
	case 5:
		reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, take8(in) % (NR_QUEUES + 1));
		break;
	case 6: /* any register, 1 to 8 bytes */
	{
		uint8_t data[8], how = take8(in);
		uint64_t off = take8(in);

		take(in, data, sizeof(data));
		if (off >= VIRTIO_MMIO_QUEUE_USED_LOW && off < VIRTIO_MMIO_QUEUE_USED_LOW + 8)
			break; /* it stays where set_up() put it */
		virtio_mmio_access(b.mmio, off, data, 1u << how % 4, how & 0x80);
		break;
	}
	case 7: /* what was held back ends, perhaps after a reset */
		while (b.nr_hold)
			push(&b.dev.queues[0], 0, b.hold[--b.nr_hold], take8(in));
		b.held = take8(in) % MAX_SIZE;
		break;
	case 8:
		reg_write(VIRTIO_MMIO_INTERRUPT_ACK, reg_read(VIRTIO_MMIO_INTERRUPT_STATUS));
		demand(!b.irq);
		break;
	case 9:
		if (take8(in) % 4)
			break;
		set_up(take8(in), in);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	memset(&b, 0, sizeof(b));
	b.ram = calloc(1, RAM_LEN);
	b.ram2 = calloc(1, RAM2_LEN);
	demand(b.ram && b.ram2);
	demand(!gmem_add(&b.gmem, RAM, RAM_LEN, b.ram));
	demand(!gmem_add(&b.gmem, RAM2, RAM2_LEN, b.ram2));
	b.dev.ops = &ops;
	b.dev.name = "fuzzed";
	b.dev.nr_queues = NR_QUEUES;
	b.dev.queue_size_max = MAX_SIZE;
	b.dev.gmem = &b.gmem;
	pthread_mutex_init(&b.dev.lock, NULL);
	demand(!virtio_mmio_create(&b.dev, set_irq, NULL, &b.mmio));
	set_up(take8(&in), &in);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	virtio_mmio_destroy(b.mmio);
	free(b.ram);
	free(b.ram2);
	return 0;
}
