/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include <linux/virtio_console.h>
#include <pthread.h>
#include <stdatomic.h>

#include "virtio/console.h"

#define RAM_LEN	  0x100000
#define RECEIVEQ  0
#define TRANSMITQ 1
#define TYPEAHEAD 4096

/* What the device printed. */
static char printed[0x40000];
static size_t nr_printed;

static void print(void *ctx, const void *buf, size_t len)
{
	assert_ptr_equal(ctx, printed);
	assert_true(nr_printed + len <= sizeof(printed));
	memcpy(printed + nr_printed, buf, len);
	nr_printed += len;
}

static int setup(void **state)
{
	static struct driver driver;
	struct virtio_dev *dev;

	nr_printed = 0;
	driver_init(&driver, RAM_LEN);
	assert_int_equal(console_create(print, printed, &dev), 0);
	driver_wrap(&driver, dev);
	driver_probe(&driver, DRIVER_ALL_FEATURES);
	*state = &driver;
	return 0;
}

static int teardown(void **state)
{
	driver_exit(*state);
	return 0;
}

/* A receive buffer of @len bytes. Return: gpa. */
static uint64_t post(struct driver *d, uint32_t len)
{
	struct driver_buf buf = {driver_alloc(d, len), len, true};

	driver_add(d, RECEIVEQ, &buf, 1);
	return buf.gpa;
}

static void assert_received(struct driver *d, uint64_t gpa, const char *text)
{
	uint32_t len = 0;

	assert_true(driver_reap(d, RECEIVEQ, NULL, &len));
	assert_int_equal(len, strlen(text));
	assert_memory_equal(driver_hva(d, gpa), text, len);
}

static void what_the_guest_writes_is_printed_in_order(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_put(d, "hello, world", 12);
	const struct driver_buf bufs[] = {{gpa, 5, false}, {gpa + 5, 7, false}};
	uint32_t len = 99;

	assert_int_equal(driver_request(d, TRANSMITQ, ">", 1, NULL, 0), 0);
	driver_add(d, TRANSMITQ, bufs, ARRAY_SIZE(bufs));
	driver_kick(d, TRANSMITQ);
	assert_true(driver_reap(d, TRANSMITQ, NULL, &len));
	assert_int_equal(len, 0);
	assert_int_equal(nr_printed, 13);
	assert_memory_equal(printed, ">hello, world", 13);
}

static void a_chain_of_gigabytes_does_not_flood_the_host(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 0xc000);
	struct driver_buf bufs[32];

	for (size_t i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i] = (struct driver_buf){gpa, 0xc000, false};
	driver_add(d, TRANSMITQ, bufs, ARRAY_SIZE(bufs));
	driver_kick(d, TRANSMITQ);
	assert_true(driver_reap(d, TRANSMITQ, NULL, NULL));
	assert_int_equal(nr_printed, 65536);
}

static void input_fills_waiting_buffers(void **state)
{
	struct driver *d = *state;
	uint64_t a = post(d, 4), b = post(d, 8);

	assert_int_equal(console_input(d->dev, "abcdef", 6), 6);
	assert_received(d, a, "abcd");
	assert_received(d, b, "ef");
	assert_false(driver_reap(d, RECEIVEQ, NULL, NULL));
	assert_true(d->irq);
	assert_int_equal(driver_ack(d), VIRTIO_MMIO_INT_VRING);
}

static void input_without_a_buffer_waits_for_one(void **state)
{
	struct driver *d = *state;
	uint64_t gpa;

	assert_int_equal(console_input(d->dev, "abc", 3), 3);
	assert_false(d->irq);
	gpa = post(d, 16);
	assert_int_equal(*driver_avail_event(d, RECEIVEQ), 0); /* a kick was asked for */
	driver_kick(d, RECEIVEQ);
	assert_received(d, gpa, "abc");
}

static void input_that_wraps_where_it_waits_is_one_piece(void **state)
{
	static uint8_t text[200], filler[4000];
	struct driver *d = *state;
	uint64_t gpa = post(d, sizeof(filler));
	uint32_t len;

	assert_int_equal(console_input(d->dev, filler, sizeof(filler)), sizeof(filler));
	assert_true(driver_reap(d, RECEIVEQ, NULL, NULL));
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i + 1);
	assert_int_equal(console_input(d->dev, text, sizeof(text)), sizeof(text));
	gpa = post(d, 300);
	driver_kick(d, RECEIVEQ);
	assert_true(driver_reap(d, RECEIVEQ, NULL, &len));
	assert_int_equal(len, sizeof(text));
	assert_memory_equal(driver_hva(d, gpa), text, sizeof(text));
}

static void input_typed_ahead_of_a_driver_is_kept(void **state)
{
	struct driver *d = *state;
	uint64_t gpa;

	driver_reset(d);
	assert_int_equal(console_input(d->dev, "root\n", 5), 5);
	driver_probe(d, DRIVER_ALL_FEATURES);
	gpa = post(d, 16);
	driver_kick(d, RECEIVEQ);
	assert_received(d, gpa, "root\n");
}

static void input_is_bounded_and_loses_nothing(void **state)
{
	struct driver *d = *state;
	static uint8_t in[3 * TYPEAHEAD];
	size_t sent = 0, got = 0;

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(console_input(d->dev, in, sizeof(in)), TYPEAHEAD);
	assert_int_equal(console_input(d->dev, in + TYPEAHEAD, 1), 0);
	sent = TYPEAHEAD;
	while (got < sizeof(in)) {
		uint64_t heap = d->next_gpa, gpa = post(d, 1 + (uint32_t)(got % 777));
		uint32_t len;

		driver_kick(d, RECEIVEQ);
		assert_true(driver_reap(d, RECEIVEQ, NULL, &len));
		assert_memory_equal(driver_hva(d, gpa), in + got, len);
		got += len;
		d->next_gpa = heap;
		sent += console_input(d->dev, in + sent, sizeof(in) - sent);
	}
	assert_int_equal(sent, sizeof(in));
}

static void buffers_without_room_cannot_hold_the_device(void **state)
{
	struct driver *d = *state;
	struct driver_buf none = {0, 0, true};
	uint64_t gpa;

	for (unsigned i = 0; i < d->queues[RECEIVEQ].size; i++)
		driver_add(d, RECEIVEQ, &none, 1);
	assert_int_equal(console_input(d->dev, "abc", 3), 3);
	for (unsigned i = 0; i < d->queues[RECEIVEQ].size; i++)
		assert_received(d, DRIVER_RAM_BASE, "");
	/* every buffer there was has been used up, so the device wants to hear of the next one */
	assert_int_equal(*driver_avail_event(d, RECEIVEQ), d->queues[RECEIVEQ].size);
	gpa = post(d, 8);
	driver_kick(d, RECEIVEQ);
	assert_received(d, gpa, "abc");
}

struct other_cpu {
	struct driver *d;
	atomic_bool stop;
};

/* Keeps the receive queue full of buffers without room: descriptor 0, wherever one looks. */
static void *add_without_end(void *arg)
{
	struct other_cpu *cpu = arg;
	struct driver *d = cpu->d;

	while (!atomic_load(&cpu->stop)) {
		uint16_t used = __atomic_load_n(driver_used(d, RECEIVEQ, 1), __ATOMIC_ACQUIRE);

		__atomic_store_n(driver_avail(d, RECEIVEQ, 1),
				 (uint16_t)(used + d->queues[RECEIVEQ].size), __ATOMIC_RELEASE);
	}
	return NULL;
}

static void a_driver_that_never_stops_adding_does_not_hold_who_types(void **state)
{
	struct driver *d = *state;
	const struct driver_buf none = {0, 0, true};
	struct other_cpu cpu = {.d = d};
	uint16_t size = d->queues[RECEIVEQ].size, before, now;
	pthread_t thread;

	driver_write_chain(d, RECEIVEQ, 0, &none, 1);
	memset(driver_avail(d, RECEIVEQ, 2), 0, size * sizeof(uint16_t));
	assert_int_equal(pthread_create(&thread, NULL, add_without_end, &cpu), 0);
	for (unsigned total = 0; total < 5000u * size; total += (uint16_t)(now - before)) {
		before = *driver_used(d, RECEIVEQ, 1);
		console_input(d->dev, "x", 1);
		now = *driver_used(d, RECEIVEQ, 1);
		assert_true((uint16_t)(now - before) <= size);
	}
	atomic_store(&cpu.stop, true);
	pthread_join(thread, NULL);
}

static void a_resize_is_a_config_change(void **state)
{
	struct driver *d = *state;
	struct virtio_console_config config;
	uint32_t generation = driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION);

	assert_true(d->features & BIT(VIRTIO_CONSOLE_F_SIZE));
	console_resize(d->dev, 132, 43);
	assert_int_equal(driver_ack(d), VIRTIO_MMIO_INT_CONFIG);
	assert_int_not_equal(driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	driver_config(d, 0, &config, sizeof(config));
	assert_int_equal(config.cols, 132);
	assert_int_equal(config.rows, 43);
	assert_int_equal(config.max_nr_ports, 1);
	console_resize(d->dev, 132, 43);
	assert_false(d->irq); /* no change, no interrupt */
}

static void a_resize_before_the_driver_is_up_is_silent(void **state)
{
	struct driver *d = *state;
	uint16_t cols = 0;

	driver_reset(d);
	console_resize(d->dev, 100, 50);
	assert_false(d->irq);
	driver_probe(d, DRIVER_ALL_FEATURES);
	assert_false(d->irq);
	driver_config(d, 0, &cols, sizeof(cols));
	assert_int_equal(cols, 100);
}

static void a_malformed_chain_breaks_the_device(void **state)
{
	struct driver *d = *state;
	struct driver_buf buf = {0x1000, 8, false};

	driver_add(d, TRANSMITQ, &buf, 1);
	driver_kick(d, TRANSMITQ);
	assert_true(driver_broken(d));
	post(d, 8);
	assert_int_equal(console_input(d->dev, "a", 1), 1);
	assert_false(driver_reap(d, RECEIVEQ, NULL, NULL));
}

int main(void)
{
#define CONSOLE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CONSOLE_TEST(what_the_guest_writes_is_printed_in_order),
		CONSOLE_TEST(a_chain_of_gigabytes_does_not_flood_the_host),
		CONSOLE_TEST(input_fills_waiting_buffers),
		CONSOLE_TEST(input_without_a_buffer_waits_for_one),
		CONSOLE_TEST(input_that_wraps_where_it_waits_is_one_piece),
		CONSOLE_TEST(input_typed_ahead_of_a_driver_is_kept),
		CONSOLE_TEST(input_is_bounded_and_loses_nothing),
		CONSOLE_TEST(buffers_without_room_cannot_hold_the_device),
		CONSOLE_TEST(a_driver_that_never_stops_adding_does_not_hold_who_types),
		CONSOLE_TEST(a_resize_is_a_config_change),
		CONSOLE_TEST(a_resize_before_the_driver_is_up_is_silent),
		CONSOLE_TEST(a_malformed_chain_breaks_the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
