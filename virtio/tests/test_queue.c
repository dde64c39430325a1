/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "virtio/queue.h"

#define RAM_LEN	   0x40000
#define RAM_END	   (DRIVER_RAM_BASE + RAM_LEN)
#define QUEUE_SIZE 16

#define NEXT	 VRING_DESC_F_NEXT
#define WRITE	 VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* A device that does nothing by itself: the tests pop and push. */

static uint64_t no_features(struct virtio_dev *dev)
{
	(void)dev;
	return 0;
}

static void no_config(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	(void)dev;
	(void)off;
	memset(buf, 0, len);
}

static void no_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev;
	(void)off;
	(void)buf;
	(void)len;
}

static void no_notify(struct virtio_dev *dev, unsigned q)
{
	(void)dev;
	(void)q;
}

static void no_reset(struct virtio_dev *dev)
{
	(void)dev;
}

static const struct virtio_dev_ops idle_ops = {
	.features = no_features,
	.config_read = no_config,
	.config_write = no_config_write,
	.notify = no_notify,
	.reset = no_reset,
	.destroy = no_reset,
};

static struct virtio_dev idle_dev;
static struct driver driver;
static struct virtqueue_chain chain;

static int setup_idle(void **state, uint64_t features)
{
	idle_dev = (struct virtio_dev){
		.ops = &idle_ops,
		.name = "idle",
		.id = 99,
		.nr_queues = 1,
		.queue_size_max = QUEUE_SIZE,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	driver_init(&driver, RAM_LEN);
	driver_wrap(&driver, &idle_dev);
	driver_probe(&driver, features);
	*state = &driver;
	return 0;
}

static int setup(void **state)
{
	return setup_idle(state, DRIVER_ALL_FEATURES);
}

static int setup_plain(void **state)
{
	return setup_idle(state, 0);
}

static int teardown(void **state)
{
	driver_exit(*state);
	return 0;
}

static struct virtqueue *vq(void)
{
	return &idle_dev.queues[0];
}

/* ---- chains ---- */

static void a_chain_becomes_iovecs_in_order(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 0x1000);
	const struct driver_buf bufs[] = {
		{gpa, 0x10, false},
		{gpa + 0x100, 0x20, false},
		{gpa + 0x200, 0x30, true},
		{RAM_END - 0x40, 0x40, true}, /* up to the last byte */
	};
	uint16_t head = driver_add(d, 0, bufs, ARRAY_SIZE(bufs));

	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.head, head);
	assert_int_equal(chain.nr_readable, 2);
	assert_int_equal(chain.nr_writable, 2);
	assert_int_equal(chain.readable, 0x30);
	assert_int_equal(chain.writable, 0x70);
	for (size_t i = 0; i < ARRAY_SIZE(bufs); i++) {
		assert_ptr_equal(chain.iov[i].iov_base, driver_hva(d, bufs[i].gpa));
		assert_int_equal(chain.iov[i].iov_len, bufs[i].len);
	}
	assert_false(virtqueue_pop(vq(), &chain));
	assert_false(driver_broken(d));
}

static void an_empty_descriptor_is_tolerated_wherever_it_points(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 0x100);
	const struct driver_buf bufs[] = {
		{UINT64_MAX, 0, false},
		{gpa, 0x10, false},
		{0, 0, true},
		{gpa + 0x10, 0x10, true},
	};

	driver_add(d, 0, bufs, ARRAY_SIZE(bufs));
	driver_add(d, 0, bufs, 1);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.nr_readable, 1);
	assert_int_equal(chain.nr_writable, 1);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.nr_readable + chain.nr_writable, 0);
	assert_false(driver_broken(d));
}

static void an_indirect_table_is_followed(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 0x100);
	/* in no order, at an odd address, and with the WRITE flag that a device ignores there */
	const struct vring_desc table[3] = {
		{.addr = gpa, .len = 1, .flags = NEXT, .next = 2},
		{.addr = gpa + 2, .len = 4, .flags = WRITE},
		{.addr = gpa + 1, .len = 2, .flags = NEXT | WRITE, .next = 1},
	};
	uint64_t at = driver_alloc(d, sizeof(table) + 1) + 1;

	memcpy(driver_hva(d, at), table, sizeof(table));
	/* a direct descriptor may come first */
	*driver_desc(d, 0, 3) =
		(struct vring_desc){.addr = gpa, .len = 8, .flags = NEXT, .next = 5};
	*driver_desc(d, 0, 5) =
		(struct vring_desc){.addr = at, .len = sizeof(table), .flags = INDIRECT | WRITE};
	driver_make_avail(d, 0, 3);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.head, 3);
	assert_int_equal(chain.nr_readable, 2);
	assert_int_equal(chain.readable, 9);
	assert_int_equal(chain.nr_writable, 2);
	assert_int_equal(chain.writable, 6);
	assert_ptr_equal(chain.iov[3].iov_base, driver_hva(d, gpa + 2));
}

static void a_chain_may_be_as_long_as_its_table(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 1);
	struct driver_buf bufs[QUEUE_SIZE];
	struct vring_desc table[VIRTQUEUE_MAX_SEGS];
	uint64_t at;

	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		bufs[i] = (struct driver_buf){gpa, 1, false};
	driver_add(d, 0, bufs, QUEUE_SIZE);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.nr_readable, QUEUE_SIZE);
	virtqueue_push(vq(), chain.head, 0);

	for (unsigned i = 0; i < VIRTQUEUE_MAX_SEGS; i++)
		table[i] = (struct vring_desc){.addr = gpa,
					       .len = 1,
					       .flags = i + 1 < VIRTQUEUE_MAX_SEGS ? NEXT : 0,
					       .next = (uint16_t)(i + 1)};
	at = driver_put(d, table, sizeof(table));
	*driver_desc(d, 0, 0) =
		(struct vring_desc){.addr = at, .len = sizeof(table), .flags = INDIRECT};
	driver_make_avail(d, 0, 0);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.nr_readable, VIRTQUEUE_MAX_SEGS);
}

/*
 * Descriptors as a guest may write them; the chain starts at ring[0]. Addresses are relative to
 * RAM; the indirect table lies at TABLE.
 */
#define TABLE	 0x20000
#define RING_LEN 4
#define FAR	 (UINT64_MAX - 0x1000)

struct bad_chain {
	const char *what;
	uint64_t features;
	struct vring_desc ring[RING_LEN], table[RING_LEN];
};

static const struct bad_chain bad_chains[] = {
	{"next out of range", DRIVER_ALL_FEATURES, {{0, 1, NEXT, QUEUE_SIZE}}, {}},
	{"next far out of range", DRIVER_ALL_FEATURES, {{0, 1, NEXT, 0xffff}}, {}},
	{"a descriptor that follows itself", DRIVER_ALL_FEATURES, {{0, 1, NEXT, 0}}, {}},
	{"a loop of two", DRIVER_ALL_FEATURES, {{0, 1, NEXT, 1}, {0, 1, NEXT, 0}}, {}},
	{"a loop of empty ones", DRIVER_ALL_FEATURES, {{0, 0, NEXT, 1}, {0, 0, NEXT, 0}}, {}},
	{"below RAM", DRIVER_ALL_FEATURES, {{-1ull, 1, 0, 0}}, {}},
	{"into RAM from below", DRIVER_ALL_FEATURES, {{-1ull, 2, 0, 0}}, {}},
	{"past the end of RAM", DRIVER_ALL_FEATURES, {{RAM_LEN, 1, 0, 0}}, {}},
	{"across the end of RAM", DRIVER_ALL_FEATURES, {{RAM_LEN - 1, 2, WRITE, 0}}, {}},
	{"of 4 GiB less one", DRIVER_ALL_FEATURES, {{0, UINT32_MAX, 0, 0}}, {}},
	{"an address that wraps", DRIVER_ALL_FEATURES, {{FAR, 0x2000, 0, 0}}, {}},
	{"readable after writable",
	 DRIVER_ALL_FEATURES,
	 {{0, 1, WRITE | NEXT, 1}, {0, 1, 0, 0}},
	 {}},
	{"empty readable after writable",
	 DRIVER_ALL_FEATURES,
	 {{0, 1, WRITE | NEXT, 1}, {0, 0, 0, 0}},
	 {}},
	{"bad after good", DRIVER_ALL_FEATURES, {{0, 1, NEXT, 1}, {RAM_LEN, 1, 0, 0}}, {}},
	{"indirect, not negotiated", 0, {{TABLE, 16, INDIRECT, 0}}, {{0, 1, 0, 0}}},
	{"indirect and next",
	 DRIVER_ALL_FEATURES,
	 {{TABLE, 16, INDIRECT | NEXT, 1}, {0, 1, 0, 0}},
	 {{0, 1, 0, 0}}},
	{"an empty table", DRIVER_ALL_FEATURES, {{TABLE, 0, INDIRECT, 0}}, {{0, 1, 0, 0}}},
	{"half a table entry", DRIVER_ALL_FEATURES, {{TABLE, 8, INDIRECT, 0}}, {{0, 1, 0, 0}}},
	{"a table and a bit", DRIVER_ALL_FEATURES, {{TABLE, 17, INDIRECT, 0}}, {{0, 1, 0, 0}}},
	{"a table outside RAM", DRIVER_ALL_FEATURES, {{RAM_LEN, 16, INDIRECT, 0}}, {}},
	{"a table across the end of RAM",
	 DRIVER_ALL_FEATURES,
	 {{RAM_LEN - 16, 32, INDIRECT, 0}},
	 {}},
	{"a table of nearly 4 GiB", DRIVER_ALL_FEATURES, {{TABLE, 0xfffffff0u, INDIRECT, 0}}, {}},
	{"a table in a table",
	 DRIVER_ALL_FEATURES,
	 {{TABLE, 32, INDIRECT, 0}},
	 {{TABLE, 16, INDIRECT, 0}}},
	{"a table that continues in itself",
	 DRIVER_ALL_FEATURES,
	 {{TABLE, 32, INDIRECT, 0}},
	 {{0, 1, NEXT, 1}, {0, 1, NEXT, 0}}},
	{"next outside the table, inside the ring",
	 DRIVER_ALL_FEATURES,
	 {{TABLE, 16, INDIRECT, 0}},
	 {{0, 1, NEXT, 1}}},
	{"readable in the table after writable before it",
	 DRIVER_ALL_FEATURES,
	 {{0, 1, WRITE | NEXT, 1}, {TABLE, 16, INDIRECT, 0}},
	 {{0, 1, 0, 0}}},
	{"a bad address in a table",
	 DRIVER_ALL_FEATURES,
	 {{TABLE, 16, INDIRECT, 0}},
	 {{RAM_LEN, 1, 0, 0}}},
};

/* The device is broken, cleanly: nothing used, nothing popped any more, and a reset brings it back.
 */
static void assert_broke(struct driver *d, const char *what)
{
	struct driver_buf buf = {driver_alloc(d, 1), 1, false};

	if (virtqueue_pop(vq(), &chain) || !driver_broken(d))
		fail_msg("%s: not refused", what);
	assert_true(d->irq);
	assert_int_equal(driver_ack(d), VIRTIO_MMIO_INT_CONFIG);
	driver_add(d, 0, &buf, 1);
	driver_kick(d, 0);
	assert_false(virtqueue_pop(vq(), &chain));
	virtqueue_push(vq(), 0, 1);
	virtqueue_interrupt(vq());
	assert_false(driver_reap(d, 0, NULL, NULL));
	assert_false(d->irq);
	driver_probe(d, DRIVER_ALL_FEATURES);
	driver_add(d, 0, &buf, 1);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_false(driver_broken(d));
}

static void a_malformed_chain_breaks_the_device_until_reset(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_chains); i++) {
		const struct bad_chain *bad = &bad_chains[i];
		struct driver *d = &driver;

		setup_idle(state, bad->features);
		for (unsigned k = 0; k < RING_LEN; k++) {
			struct vring_desc *table = driver_hva(d, DRIVER_RAM_BASE + TABLE);

			*driver_desc(d, 0, (uint16_t)k) = bad->ring[k];
			driver_desc(d, 0, (uint16_t)k)->addr += DRIVER_RAM_BASE;
			table[k] = bad->table[k];
			table[k].addr += DRIVER_RAM_BASE;
		}
		driver_make_avail(d, 0, 0);
		assert_broke(d, bad->what);
		driver_exit(d);
	}
}

static void a_chain_over_the_limit_breaks_the_device(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 1);
	struct vring_desc table[VIRTQUEUE_MAX_SEGS + 1];

	/* one good descriptor in the ring, a full table behind it; and a table that is too long by
	 * one */
	for (unsigned direct = 0; direct < 2; direct++) {
		unsigned nr = VIRTQUEUE_MAX_SEGS + 1 - direct;

		for (unsigned i = 0; i < nr; i++)
			table[i] = (struct vring_desc){.addr = gpa,
						       .len = i % 2, /* empty ones count */
						       .flags = i + 1 < nr ? NEXT : 0,
						       .next = (uint16_t)(i + 1)};
		*driver_desc(d, 0, 0) =
			(struct vring_desc){.addr = gpa, .len = 1, .flags = NEXT, .next = 1};
		*driver_desc(d, 0, 1) =
			(struct vring_desc){.addr = driver_put(d, table, nr * sizeof(table[0])),
					    .len = nr * (uint32_t)sizeof(table[0]),
					    .flags = INDIRECT};
		driver_make_avail(d, 0, direct ? 0 : 1);
		assert_broke(d, "too long");
		driver_probe(d, DRIVER_ALL_FEATURES);
	}
}

static void a_chain_of_4_gib_in_all_breaks_the_device(void **state)
{
	/* enough address space for one buffer of 2 GiB, never touched */
	struct driver *d = *state;
	uint64_t high = 0x100000000ull;
	const struct driver_buf bufs[] = {
		{high, 0x80000000u, false},
		{high, 0x7fffffffu, true},
		{high, 1, true},
	};

	assert_int_equal(gmem_add(&d->gmem, high, 0x80000000u, d->ram), 0);
	driver_add(d, 0, bufs, 2);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain.readable + chain.writable, UINT32_MAX);
	driver_add(d, 0, bufs, 3);
	assert_broke(d, "4 GiB");
}

static void a_bad_head_breaks_the_device(void **state)
{
	static const uint16_t heads[] = {QUEUE_SIZE, QUEUE_SIZE + 1, 0x8000, 0xffff};

	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		driver_make_avail(*state, 0, heads[i]);
		assert_broke(*state, "head");
		driver_probe(*state, DRIVER_ALL_FEATURES);
	}
}

static void an_avail_index_more_than_a_ring_ahead_breaks_the_device(void **state)
{
	static const uint16_t ahead[] = {QUEUE_SIZE + 1, 0x8000, 0xffff};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(ahead); i++) {
		*driver_avail(d, 0, 1) = ahead[i];
		assert_broke(d, "avail index");
		driver_probe(d, DRIVER_ALL_FEATURES);
	}
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		*driver_desc(d, 0, (uint16_t)i) =
			(struct vring_desc){.addr = DRIVER_RAM_BASE, .len = 1};
	*driver_avail(d, 0, 1) = QUEUE_SIZE;
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		assert_true(virtqueue_pop(vq(), &chain));
	assert_false(virtqueue_pop(vq(), &chain));
	assert_false(driver_broken(d));
}

/* ---- used ring, indices, events ---- */

static void indices_wrap(void **state)
{
	struct driver *d = *state;
	struct driver_buf buf = {driver_alloc(d, 8), 8, true};

	for (unsigned i = 0; i < 0x20000 + 5; i++) {
		uint16_t head = driver_add(d, 0, &buf, 1), id;
		uint32_t len;

		assert_true(virtqueue_pop(vq(), &chain));
		assert_int_equal(chain.head, head);
		virtqueue_push(vq(), chain.head, i);
		assert_true(driver_reap(d, 0, &id, &len));
		assert_int_equal(id, head);
		assert_int_equal(len, i);
		assert_false(driver_reap(d, 0, NULL, NULL));
	}
}

static void a_kick_is_asked_for_only_by_an_empty_queue(void **state)
{
	struct driver *d = *state;
	struct driver_buf buf = {driver_alloc(d, 8), 8, true};

	*driver_avail_event(d, 0) = 0xaaaa;
	driver_add(d, 0, &buf, 1);
	driver_add(d, 0, &buf, 1);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(*driver_avail_event(d, 0), 0xaaaa);
	assert_false(virtqueue_pop(vq(), &chain));
	assert_int_equal(*driver_avail_event(d, 0), 2);
}

static void without_event_idx_the_event_fields_are_no_part_of_the_ring(void **state)
{
	struct driver *d = *state;

	*driver_avail_event(d, 0) = 0xaaaa;
	assert_false(virtqueue_pop(vq(), &chain));
	assert_int_equal(*driver_avail_event(d, 0), 0xaaaa);
	assert_int_equal(*driver_used(d, 0, 0), 0); /* NO_NOTIFY is never set */
}

static void an_interrupt_comes_when_the_used_event_is_passed(void **state)
{
	static const struct {
		uint16_t from, pushes, event;
		bool interrupt;
	} rows[] = {
		{0, 1, 0, true},
		{0, 1, 1, false},
		{0, 2, 1, true},
		{0, 3, 1, true},
		{0, 0, 0xffff, false},
		{5, 1, 4, false},
		{5, 1, 5, true},
		{5, 4, 8, true},
		{5, 4, 9, false},
		{0xfffe, 1, 0xfffe, true},
		{0xfffe, 4, 1, true},
		{0xfffe, 4, 2, false},
		{0xfffe, 4, 0xfffd, false},
		{0xffff, 1, 0, false},
		{0xffff, 2, 0, true},
	};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_probe(d, DRIVER_ALL_FEATURES);
		d->next_gpa = DRIVER_RAM_BASE + 0x1000;
		for (unsigned k = 0; k < rows[i].from; k++)
			virtqueue_push(vq(), 0, 0);
		*driver_used_event(d, 0) = (uint16_t)(rows[i].from - 1);
		virtqueue_should_interrupt(vq());
		*driver_used_event(d, 0) = rows[i].event;
		for (unsigned k = 0; k < rows[i].pushes; k++)
			virtqueue_push(vq(), 0, 0);
		if (virtqueue_should_interrupt(vq()) != rows[i].interrupt)
			fail_msg("row %zu", i);
		assert_false(virtqueue_should_interrupt(vq()));
	}
}

static void without_event_idx_a_flag_turns_interrupts_off(void **state)
{
	struct driver *d = *state;

	assert_false(virtqueue_should_interrupt(vq())); /* nothing was pushed */
	virtqueue_push(vq(), 0, 0);
	assert_true(virtqueue_should_interrupt(vq()));
	assert_false(virtqueue_should_interrupt(vq()));
	*driver_avail(d, 0, 0) = VRING_AVAIL_F_NO_INTERRUPT;
	virtqueue_push(vq(), 0, 0);
	assert_false(virtqueue_should_interrupt(vq()));
}

static void the_budget_ends_popping_and_says_if_chains_are_left(void **state)
{
	struct driver *d = *state;
	struct driver_buf buf = {driver_alloc(d, 8), 8, true};

	for (unsigned i = 0; i < 3; i++)
		driver_add(d, 0, &buf, 1);
	virtqueue_set_budget(vq(), 2);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_false(virtqueue_over_budget(vq()));
	assert_true(virtqueue_pop(vq(), &chain));
	assert_false(virtqueue_pop(vq(), &chain));
	assert_true(virtqueue_over_budget(vq()));
	virtqueue_set_budget(vq(), 1);
	assert_true(virtqueue_pop(vq(), &chain));
	assert_false(virtqueue_over_budget(vq()));
	assert_int_equal(*driver_avail_event(d, 0), 3); /* out of both: the kick was asked for */
}

/* ---- buffers ---- */

static void bytes_are_gathered_and_scattered_across_buffers(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_put(d, "abcdefgh........", 16);
	const struct driver_buf bufs[] = {
		{gpa, 3, false},    {gpa + 3, 1, false}, {gpa + 4, 4, false},
		{gpa + 8, 2, true}, {gpa + 10, 5, true},
	};
	char buf[16];

	driver_add(d, 0, bufs, ARRAY_SIZE(bufs));
	assert_true(virtqueue_pop(vq(), &chain));
	assert_int_equal(chain_read(&chain, 0, buf, sizeof(buf)), 8);
	assert_memory_equal(buf, "abcdefgh", 8);
	assert_int_equal(chain_read(&chain, 2, buf, 3), 3);
	assert_memory_equal(buf, "cde", 3);
	assert_int_equal(chain_read(&chain, 3, buf, 2), 2);
	assert_memory_equal(buf, "de", 2);
	assert_int_equal(chain_read(&chain, 7, buf, 2), 1);
	assert_int_equal(chain_read(&chain, 8, buf, 1), 0);
	assert_int_equal(chain_read(&chain, SIZE_MAX, buf, 1), 0);
	assert_int_equal(chain_write(&chain, 1, "123", 3), 3);
	assert_memory_equal(driver_hva(d, gpa), "abcdefgh.123....", 16);
	assert_int_equal(chain_write(&chain, 6, "4567", 4), 1);
	assert_memory_equal(driver_hva(d, gpa), "abcdefgh.123..4.", 16);
	assert_int_equal(chain_write(&chain, 7, "8", 1), 0);
}

/* ---- set-up ---- */

static void a_bad_ring_is_refused(void **state)
{
	static const struct {
		uint32_t size;
		int64_t desc, avail, used; /* relative to RAM */
		int ret;
	} rows[] = {
		{16, 0, 0x1000, 0x2000, 0},
		{1, 0, 0x1000, 0x2000, 0},
		{0, 0, 0x1000, 0x2000, -EINVAL},
		{3, 0, 0x1000, 0x2000, -EINVAL},
		{15, 0, 0x1000, 0x2000, -EINVAL},
		{32, 0, 0x1000, 0x2000, -EINVAL},
		{0x10010, 0, 0x1000, 0x2000, -EINVAL},
		{0x80000000u, 0, 0x1000, 0x2000, -EINVAL},
		{16, 8, 0x1000, 0x2000, -EINVAL},
		{16, 0, 0x1001, 0x2000, -EINVAL},
		{16, 0, 0x1000, 0x2002, -EINVAL},
		{16, -16, 0x1000, 0x2000, -EFAULT},
		{16, RAM_LEN, 0x1000, 0x2000, -EFAULT},
		{16, RAM_LEN - 0x100, 0x1000, 0x2000, 0},
		{16, RAM_LEN - 0xf0, 0x1000, 0x2000, -EFAULT},
		{16, 0, RAM_LEN - 38, 0x2000, 0},
		{16, 0, RAM_LEN - 36, 0x2000, -EFAULT}, /* no room for used_event */
		{16, 0, 0x1000, RAM_LEN - 136, 0},
		{16, 0, 0x1000, RAM_LEN - 132, -EFAULT}, /* no room for avail_event */
		{16, 0, 0x1000, INT64_MAX & ~3ll, -EFAULT},
	};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_negotiate(d, DRIVER_ALL_FEATURES);
		vq()->size = rows[i].size;
		vq()->desc_gpa = DRIVER_RAM_BASE + (uint64_t)rows[i].desc;
		vq()->avail_gpa = DRIVER_RAM_BASE + (uint64_t)rows[i].avail;
		vq()->used_gpa = DRIVER_RAM_BASE + (uint64_t)rows[i].used;
		if (virtqueue_enable(vq()) != rows[i].ret)
			fail_msg("row %zu", i);
		assert_int_equal(virtqueue_live(vq()), !rows[i].ret);
	}
}

static void without_event_idx_a_ring_may_end_with_ram(void **state)
{
	driver_negotiate(*state, 0);
	vq()->size = 16;
	vq()->desc_gpa = DRIVER_RAM_BASE;
	vq()->avail_gpa = DRIVER_RAM_BASE + 0x1000;
	vq()->used_gpa = RAM_END - 132;
	assert_int_equal(virtqueue_enable(vq()), 0);
}

/* ---- both sides at once ---- */

#define CONCURRENT 1000000u

/*
 * A driver that kicks only when asked to, and a device that interrupts only when asked to, each
 * waiting for the other: an event that gets lost stops both. They spin, so that the two meet at
 * every moment of each other's last look.
 */
static struct {
	bool kicked, interrupted;
} wire;

static void wire_signal(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_RELEASE);
}

/* Return: false after 5 s without the event. */
static bool wire_wait(bool *flag)
{
	time_t until = time(NULL) + 5;

	for (unsigned spins = 1; !__atomic_exchange_n(flag, false, __ATOMIC_ACQUIRE); spins++) {
		if (spins % 1024)
			continue;
		if (time(NULL) > until)
			return false;
		sched_yield();
	}
	return true;
}

static void *device_thread(void *arg)
{
	static struct virtqueue_chain mine;
	unsigned served = 0;

	(void)arg;
	while (served < CONCURRENT) {
		while (virtqueue_pop(vq(), &mine)) {
			virtqueue_push(vq(), mine.head, served++);
			if (virtqueue_should_interrupt(vq()))
				wire_signal(&wire.interrupted);
		}
		if (served < CONCURRENT && !wire_wait(&wire.kicked))
			return (void *)1;
	}
	return NULL;
}

static void no_event_is_lost_between_concurrent_sides(void **state)
{
	struct driver *d = *state;
	struct driver_queue *dq = &d->queues[0];
	struct driver_buf buf = {driver_alloc(d, 8), 8, true};
	unsigned added = 0, reaped = 0;
	pthread_t device;
	void *lost;
	bool ok = true;

	assert_int_equal(pthread_create(&device, NULL, device_thread, NULL), 0);
	while (reaped < CONCURRENT && ok) {
		uint16_t old = dq->avail_idx;
		unsigned batch = 1 + added % 3;
		uint32_t len;

		while (batch-- && added < CONCURRENT && added - reaped < QUEUE_SIZE) {
			driver_add(d, 0, &buf, 1);
			added++;
		}
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (vring_need_event(__atomic_load_n(driver_avail_event(d, 0), __ATOMIC_RELAXED),
				     dq->avail_idx, old))
			wire_signal(&wire.kicked);
		while (driver_reap(d, 0, NULL, &len))
			assert_int_equal(len, reaped++);
		if (reaped == added)
			continue; /* nothing out there that an interrupt could tell of */
		__atomic_store_n(driver_used_event(d, 0), dq->used_idx, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(driver_used(d, 0, 1), __ATOMIC_ACQUIRE) == dq->used_idx)
			ok = wire_wait(&wire.interrupted);
	}
	pthread_join(device, &lost);
	assert_true(ok);
	assert_null(lost);
}

int main(void)
{
#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define PLAIN_TEST(name) cmocka_unit_test_setup_teardown(name, setup_plain, teardown)
	const struct CMUnitTest tests[] = {
		QUEUE_TEST(a_chain_becomes_iovecs_in_order),
		QUEUE_TEST(an_empty_descriptor_is_tolerated_wherever_it_points),
		QUEUE_TEST(an_indirect_table_is_followed),
		QUEUE_TEST(a_chain_may_be_as_long_as_its_table),
		cmocka_unit_test(a_malformed_chain_breaks_the_device_until_reset),
		QUEUE_TEST(a_chain_over_the_limit_breaks_the_device),
		QUEUE_TEST(a_chain_of_4_gib_in_all_breaks_the_device),
		QUEUE_TEST(a_bad_head_breaks_the_device),
		QUEUE_TEST(an_avail_index_more_than_a_ring_ahead_breaks_the_device),
		QUEUE_TEST(indices_wrap),
		QUEUE_TEST(a_kick_is_asked_for_only_by_an_empty_queue),
		PLAIN_TEST(without_event_idx_the_event_fields_are_no_part_of_the_ring),
		QUEUE_TEST(an_interrupt_comes_when_the_used_event_is_passed),
		PLAIN_TEST(without_event_idx_a_flag_turns_interrupts_off),
		QUEUE_TEST(the_budget_ends_popping_and_says_if_chains_are_left),
		QUEUE_TEST(bytes_are_gathered_and_scattered_across_buffers),
		QUEUE_TEST(a_bad_ring_is_refused),
		QUEUE_TEST(without_event_idx_a_ring_may_end_with_ram),
		QUEUE_TEST(no_event_is_lost_between_concurrent_sides),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
