/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_console - a hostile driver, and what is typed, against virtio-console and virtio-rng.
 *
 * Chains in memory of the driver's own have an outcome that is known to the byte: what is printed,
 * in which order; what of the input is where, none of it lost or twice, whatever the lengths of the
 * buffers and across resets; how many random bytes come, and that they come. Once rings and
 * descriptors have been written anyhow nothing but RAM may change, and after a reset not even that;
 * and then a good driver is served.
 *
 * Files: virtio/console.c virtio/rng.c
 */
#include "iommu/fuzz/input.h"

#include <linux/virtio_console.h>

#include "virtio/console.h"
#include "virtio/queue.h"
#include "virtio/rng.h"
#include "virtio/tests/driver.h"

#define MAX_OPS	   200
#define RAM_LEN	   0x50000u
#define BUFS	   0x10000u /* of RAM: rings below, buffers from here on */
#define INPUT_MAX  4096u    /* bytes that wait for the driver at most */
#define OUTPUT_MAX 65536u   /* bytes of one chain that are printed */
#define RANDOM_MAX 4096u
#define PIECES	   4u
#define QUEUE	   64u
#define FILL	   0x55

enum { RX, TX };

/* A chain that waits for input, or for random bytes. */
struct chain {
	uint16_t head;
	unsigned nr;
	uint32_t at[PIECES], len[PIECES]; /* offset in RAM, bytes; what the device may write */
};

static struct bench {
	struct driver d;
	bool rng, wild;
	uint8_t typed[INPUT_MAX]; /* taken from the user, not given to the driver yet */
	unsigned nr_typed;
	uint8_t next_typed; /* a sequence, so that a lost byte shows */
	struct chain waiting[QUEUE];
	unsigned nr_waiting;
	uint32_t next_buf; /* offset in RAM */
	size_t printed;
} b;

static uint8_t ram[RAM_LEN], shadow[RAM_LEN];
static uint8_t expected[OUTPUT_MAX]; /* of one chain */
static size_t nr_expected;
static uint16_t cols, rows;

static void output(void *ctx, const void *buf, size_t len)
{
	(void)ctx;
	if (b.wild)
		return;
	demand(b.printed + len <= nr_expected);
	demand(!memcmp(buf, expected + b.printed, len));
	b.printed += len;
}

/* The used rings and what else the device keeps there are its own. */
static void shadow_rings(void)
{
	memcpy(shadow, ram, BUFS);
}

/* give - one waiting chain comes back with @src, as much as fits of @len bytes. Return: bytes. */
static uint32_t give(unsigned q, const uint8_t *src, uint32_t len)
{
	const struct chain *chain = &b.waiting[0];
	uint32_t used, done = 0;
	bool random = !src;
	uint16_t id;

	demand(b.nr_waiting);
	demand(driver_reap(&b.d, q, &id, &used));
	demand(id == chain->head);
	for (unsigned i = 0; i < chain->nr && done < len; i++) {
		uint32_t n = MIN(len - done, chain->len[i]);
		bool all_fill = true;

		/* Random bytes are whatever they are, but not what was there. */
		for (uint32_t j = 0; random && j < n; j++)
			all_fill &= ram[chain->at[i] + j] == FILL;
		demand(!random || !all_fill || n < 16);
		memcpy(shadow + chain->at[i], random ? ram + chain->at[i] : src + done, n);
		done += n;
	}
	demand(used == done);
	memmove(b.waiting, b.waiting + 1, --b.nr_waiting * sizeof(b.waiting[0]));
	return done;
}

/* give_all - of what has been typed, as much as the driver has made room for */
static void give_all(void)
{
	while (b.nr_waiting && b.nr_typed) {
		uint32_t n = give(RX, b.typed, b.nr_typed);

		memmove(b.typed, b.typed + n, b.nr_typed - n);
		b.nr_typed -= n;
	}
}

/* deliver - that is so, and no more has come back */
static void deliver(void)
{
	if (b.wild)
		return;
	if (!b.rng)
		give_all();
	while (b.rng && b.nr_waiting)
		give(0, NULL, RANDOM_MAX);
	demand(!driver_reap(&b.d, RX, NULL, NULL));
	demand(!memcmp(ram + BUFS, shadow + BUFS, RAM_LEN - BUFS));
}

static void set_up(uint64_t features)
{
	driver_reset(&b.d);
	memcpy(shadow, ram, RAM_LEN);
	if (b.rng)
		driver_kick(&b.d, 0);
	else
		console_resize(b.d.dev, ++cols, rows);
	demand(!memcmp(ram, shadow, RAM_LEN)); /* the driver's alone */
	if (b.wild && !b.rng) {		       /* how much waits is not known: take it all */
		b.d.next_gpa = DRIVER_RAM_BASE;
		driver_probe(&b.d, features);
		driver_add(&b.d, RX,
			   (struct driver_buf[]){{DRIVER_RAM_BASE + BUFS, INPUT_MAX, true}}, 1);
		driver_kick(&b.d, RX);
		driver_reset(&b.d);
		b.nr_typed = 0;
	}
	b.wild = false;
	b.nr_waiting = 0;
	b.next_buf = BUFS;
	b.d.next_gpa = DRIVER_RAM_BASE;
	driver_probe(&b.d, features);
	memcpy(shadow, ram, RAM_LEN);
}

/* add - a chain of pieces, for the device to read or to write, perhaps of both kinds */
static void add(struct input *in, unsigned q)
{
	struct driver_buf bufs[PIECES];
	uint8_t how = take8(in);
	unsigned nr = 1 + how % PIECES, nr_out = q == TX ? nr : how >> 6 ? 0 : nr / 2;
	struct chain *chain = &b.waiting[b.nr_waiting];
	uint16_t head;
	uint32_t len;

	if (b.nr_waiting == QUEUE / PIECES)
		return; /* descriptors would be used twice */
	chain->nr = nr_expected = 0;
	if (b.next_buf + PIECES * 0x8000 > RAM_LEN)
		b.next_buf = BUFS;
	for (unsigned i = 0; i < nr; i++) {
		len = 1u + (how & 0x10 ? take16(in) / (q == TX ? 2 : 8) : take8(in));
		if (b.next_buf + len > RAM_LEN)
			b.next_buf = BUFS;
		len = MIN(len, b.nr_waiting ? RAM_LEN / QUEUE : RAM_LEN);
		bufs[i] = (struct driver_buf){DRIVER_RAM_BASE + b.next_buf, len, i >= nr_out};
		memset(ram + b.next_buf, FILL, len);
		for (uint32_t j = 0; i < nr_out && j < len; j++)
			ram[b.next_buf + j] = (uint8_t)(j * 3 + how + i);
		memcpy(shadow + b.next_buf, ram + b.next_buf, len);
		if (i < nr_out && nr_expected < OUTPUT_MAX) {
			uint32_t n = (uint32_t)MIN(len, OUTPUT_MAX - nr_expected);

			memcpy(expected + nr_expected, ram + b.next_buf, n);
			nr_expected += n;
		} else if (i >= nr_out) {
			chain->at[chain->nr] = b.next_buf;
			chain->len[chain->nr++] = len;
		}
		b.next_buf += len;
	}
	head = driver_add(&b.d, q, bufs, nr);
	shadow_rings();
	if (q == TX) {
		b.printed = 0;
		driver_kick(&b.d, TX);
		demand(b.printed == nr_expected);
		demand(driver_reap(&b.d, TX, &head, &len) && !len);
		nr_expected = b.printed = 0;
		return;
	}
	chain->head = head;
	b.nr_waiting++;
	if (how & 0x20 || b.rng) {
		driver_kick(&b.d, RX);
		deliver();
	}
}

static void type(struct input *in)
{
	uint8_t buf[300];
	size_t len = 1 + take8(in), taken;

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(b.next_typed + i);
	taken = console_input(b.d.dev, buf, len);
	demand(taken <= len);
	b.next_typed = (uint8_t)(b.next_typed + taken);
	if (b.wild)
		return;
	/* Nothing is refused while there is room. It may have passed through in the same call. */
	demand(taken == len || b.nr_waiting || b.nr_typed + taken == INPUT_MAX);
	for (size_t i = 0; i < taken; i++) {
		if (b.nr_typed == INPUT_MAX)
			give_all();
		demand(b.nr_typed < INPUT_MAX);
		b.typed[b.nr_typed++] = buf[i];
	}
	deliver();
}

static void go_wild(struct input *in)
{
	uint8_t how = take8(in);
	unsigned q = b.rng ? 0 : how >> 7, len;

	b.wild = true;
	switch (how % 4) {
	case 0:
		len = take8(in);
		take(in, ram + take32(in) % (RAM_LEN - 256), len);
		break;
	case 1:
		*driver_desc(&b.d, q, how / 4) = (struct vring_desc){
			.addr = DRIVER_RAM_BASE + take32(in) % (RAM_LEN + 0x1000),
			.len = take16(in),
			.flags = take8(in) & 7,
			.next = take8(in),
		};
		driver_make_avail(&b.d, q, how / 4);
		break;
	case 2:
		driver_make_avail(&b.d, q, take8(in));
		break;
	case 3:
		*driver_avail(&b.d, q, 1) = (uint16_t)(*driver_avail(&b.d, q, 1) + take16(in));
		break;
	}
	driver_kick(&b.d, q);
}

static void step(struct input *in)
{
	struct virtio_console_config config;
	uint8_t how, bytes[8] = {0};
	uint32_t gen;

	switch (take8(in) % 8) {
	case 0:
	case 1:
		if (!b.wild)
			add(in, RX);
		break;
	case 2:
		if (!b.wild && !b.rng)
			add(in, TX);
		break;
	case 3:
		if (!b.rng)
			type(in);
		break;
	case 4:
		how = take8(in) % 3;
		driver_kick(&b.d, how);
		if (how == RX)
			deliver();
		break;
	case 5:
		how = take8(in);
		set_up(how & 1 ? BIT(VIRTIO_RING_F_EVENT_IDX) : how & 2 ? DRIVER_ALL_FEATURES : 0);
		break;
	case 6:
		how = take8(in);
		virtio_mmio_access(b.d.mmio, VIRTIO_MMIO_CONFIG + how, bytes, 1u << how % 4, true);
		if (b.rng)
			break;
		gen = driver_read(&b.d, VIRTIO_MMIO_CONFIG_GENERATION);
		cols = take8(in);
		rows = take8(in);
		console_resize(b.d.dev, cols, rows);
		console_resize(b.d.dev, cols, rows);
		demand(driver_read(&b.d, VIRTIO_MMIO_CONFIG_GENERATION) - gen <= 1);
		driver_config(&b.d, 0, &config, sizeof(config));
		demand(config.cols == cols && config.rows == rows);
		driver_ack(&b.d);
		break;
	case 7:
		go_wild(in);
		break;
	}
}

/* After all that: a good driver is served. */
static void behave(void)
{
	static const uint8_t chain[] = {0xe0, 30}, key[] = {3};
	struct input in = {chain, sizeof(chain)};

	b.wild = true; /* take what has been typed before, too */
	set_up(DRIVER_ALL_FEATURES);
	add(&in, RX);
	demand(b.nr_waiting == !b.rng);
	if (b.rng)
		return;
	in = (struct input){key, sizeof(key)};
	type(&in);
	demand(!b.nr_waiting && b.d.irq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct virtio_dev *dev;
	uint8_t how = take8(&in);

	memset(&b, 0, sizeof(b));
	memset(ram, 0, RAM_LEN);
	cols = rows = 0;
	b.rng = how & 1;
	b.d.ram = ram;
	b.d.ram_len = RAM_LEN;
	b.d.next_gpa = DRIVER_RAM_BASE;
	demand(!gmem_add(&b.d.gmem, DRIVER_RAM_BASE, RAM_LEN, ram));
	demand(!(b.rng ? rng_create(&dev) : console_create(output, NULL, &dev)));
	driver_wrap(&b.d, dev);
	b.next_buf = BUFS;
	driver_probe(&b.d, how & 2 ? 0 : DRIVER_ALL_FEATURES);
	memcpy(shadow, ram, RAM_LEN);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	behave();
	virtio_mmio_destroy(b.d.mmio);
	return 0;
}
