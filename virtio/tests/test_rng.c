/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include "virtio/rng.h"

#define RAM_LEN 0x100000

static int setup(void **state)
{
	static struct driver driver;
	struct virtio_dev *dev;

	driver_init(&driver, RAM_LEN);
	assert_int_equal(rng_create(&dev), 0);
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

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len && !*p) {
		p++;
		len--;
	}
	return !len;
}

static void it_is_an_entropy_device_without_features(void **state)
{
	struct driver *d = *state;
	uint8_t config[8];

	assert_int_equal(driver_read(d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
	assert_int_equal(driver_offered(d) &
				 ~(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
				   BIT(VIRTIO_RING_F_INDIRECT_DESC)),
			 0);
	memset(config, 0xff, sizeof(config));
	driver_config(d, 0, config, sizeof(config));
	assert_true(all_zero(config, sizeof(config)));
}

static void a_request_is_filled_and_no_two_alike(void **state)
{
	struct driver *d = *state;
	uint8_t a[64] = {0}, b[64] = {0};

	assert_int_equal(driver_request(d, 0, NULL, 0, a, sizeof(a)), sizeof(a));
	assert_int_equal(driver_request(d, 0, NULL, 0, b, sizeof(b)), sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	assert_true(d->irq);
	assert_int_equal(driver_ack(d), VIRTIO_MMIO_INT_VRING);
	assert_false(d->irq);
}

static void a_long_request_is_answered_in_part(void **state)
{
	struct driver *d = *state;
	static uint8_t buf[20000];

	memset(buf, 0, sizeof(buf));
	assert_int_equal(driver_request(d, 0, NULL, 0, buf, sizeof(buf)), 4096);
	assert_false(all_zero(buf + 4096 - 32, 32));
	assert_true(all_zero(buf + 4096, sizeof(buf) - 4096));
}

static void a_request_in_pieces_is_filled_across_them(void **state)
{
	struct driver *d = *state;
	uint64_t gpa = driver_alloc(d, 0x1000);
	const struct driver_buf bufs[] = {{gpa, 300, true}, {gpa + 0x800, 300, true}};
	uint8_t *ram = driver_hva(d, gpa);
	uint32_t len;

	driver_add(d, 0, bufs, ARRAY_SIZE(bufs));
	driver_kick(d, 0);
	assert_true(driver_reap(d, 0, NULL, &len));
	assert_int_equal(len, 600);
	assert_false(all_zero(ram + 300 - 32, 32));
	assert_true(all_zero(ram + 300, 0x800 - 300));
	assert_false(all_zero(ram + 0x800 + 300 - 32, 32));
	assert_true(all_zero(ram + 0x800 + 300, 0x100));
}

static void a_request_without_room_comes_back_empty(void **state)
{
	assert_int_equal(driver_request(*state, 0, "x", 1, NULL, 0), 0);
	assert_false(driver_broken(*state));
}

static void a_malformed_request_breaks_the_device(void **state)
{
	struct driver *d = *state;
	struct driver_buf buf = {DRIVER_RAM_BASE + RAM_LEN - 4, 8, true};

	driver_add(d, 0, &buf, 1);
	driver_kick(d, 0);
	assert_true(driver_broken(d));
	assert_false(driver_reap(d, 0, NULL, NULL));
}

int main(void)
{
#define RNG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		RNG_TEST(it_is_an_entropy_device_without_features),
		RNG_TEST(a_request_is_filled_and_no_two_alike),
		RNG_TEST(a_long_request_is_answered_in_part),
		RNG_TEST(a_request_in_pieces_is_filled_across_them),
		RNG_TEST(a_request_without_room_comes_back_empty),
		RNG_TEST(a_malformed_request_breaks_the_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
