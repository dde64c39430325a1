/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "virtio/mmio.h"
#include "virtio/queue.h"

#define RAM_LEN	   0x40000
#define QUEUES	   2
#define QUEUE_SIZE 32
#define OWN_BITS   (BIT(3) | BIT(55))
#define OFFERED                                                                                    \
	(OWN_BITS | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |                       \
	 BIT(VIRTIO_RING_F_INDIRECT_DESC))

#define ACK	    VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER	    VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define FAILED	    VIRTIO_CONFIG_S_FAILED
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET

/* A device that gives every chain back and counts what it is told. */
struct echo {
	struct virtio_dev dev;
	unsigned starts, resets, destroys;
	unsigned notified[QUEUES];
	uint64_t negotiated_at_start;
	uint8_t config[12];
	unsigned add_more; /* chains the "guest" adds while the device serves */
	/* reset() waits, with the lock released, until told to go on */
	bool hold_reset, in_reset;
	pthread_cond_t changed;
};

static struct echo echo;
static struct driver driver;

static uint64_t echo_features(struct virtio_dev *dev)
{
	(void)dev;
	return OWN_BITS;
}

static void echo_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	(void)dev;
	virtio_config_copy(echo.config, sizeof(echo.config), off, buf, len);
}

static void echo_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	(void)dev;
	if (off + len <= sizeof(echo.config))
		memcpy(echo.config + off, buf, len);
}

static void echo_start(struct virtio_dev *dev)
{
	echo.starts++;
	echo.negotiated_at_start = dev->negotiated;
}

static void echo_notify(struct virtio_dev *dev, unsigned q)
{
	static struct virtqueue_chain chain;
	struct virtqueue *vq = &dev->queues[q];

	assert_int_equal(pthread_mutex_trylock(&dev->lock), EBUSY);
	echo.notified[q]++;
	while (virtqueue_pop(vq, &chain)) {
		virtqueue_push(vq, chain.head, 1);
		if (echo.add_more) {
			echo.add_more--;
			driver_make_avail(&driver, q, chain.head);
		}
	}
	virtqueue_interrupt(vq);
}

static void echo_reset(struct virtio_dev *dev)
{
	echo.resets++;
	echo.in_reset = true;
	pthread_cond_broadcast(&echo.changed);
	while (echo.hold_reset)
		pthread_cond_wait(&echo.changed, &dev->lock);
	echo.in_reset = false;
}

static void echo_destroy(struct virtio_dev *dev)
{
	echo.destroys++;
	for (unsigned i = 0; i < dev->nr_queues; i++)
		assert_false(virtqueue_live(&dev->queues[i]));
	pthread_mutex_destroy(&dev->lock);
}

static const struct virtio_dev_ops echo_ops = {
	.features = echo_features,
	.config_read = echo_config_read,
	.config_write = echo_config_write,
	.start = echo_start,
	.notify = echo_notify,
	.reset = echo_reset,
	.destroy = echo_destroy,
};

static int setup(void **state)
{
	echo = (struct echo){
		.dev =
			{
				.ops = &echo_ops,
				.name = "echo",
				.id = 42,
				.nr_queues = QUEUES,
				.queue_size_max = QUEUE_SIZE,
			},
		.changed = PTHREAD_COND_INITIALIZER,
	};
	pthread_mutex_init(&echo.dev.lock, NULL);
	for (unsigned i = 0; i < sizeof(echo.config); i++)
		echo.config[i] = (uint8_t)(0x10 + i);
	driver_init(&driver, RAM_LEN);
	driver_wrap(&driver, &echo.dev);
	*state = &driver;
	return 0;
}

static int setup_probed(void **state)
{
	setup(state);
	driver_probe(&driver, DRIVER_ALL_FEATURES);
	return 0;
}

static int teardown(void **state)
{
	driver_exit(*state);
	assert_int_equal(echo.destroys, 1);
	return 0;
}

static void add_one(struct driver *d, unsigned q)
{
	struct driver_buf buf = {DRIVER_RAM_BASE, 8, true};

	driver_add(d, q, &buf, 1);
}

static void choose_features(struct driver *d, uint64_t features)
{
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
}

/* ---- registers ---- */

static void the_fixed_registers_read_as_the_spec_says(void **state)
{
	static const struct {
		unsigned off;
		uint32_t val;
	} rows[] = {
		{VIRTIO_MMIO_MAGIC_VALUE, 0x74726976},
		{VIRTIO_MMIO_VERSION, 2},
		{VIRTIO_MMIO_DEVICE_ID, 42},
		{VIRTIO_MMIO_QUEUE_NUM_MAX, QUEUE_SIZE},
		{VIRTIO_MMIO_QUEUE_READY, 0},
		{VIRTIO_MMIO_INTERRUPT_STATUS, 0},
		{VIRTIO_MMIO_STATUS, 0},
		{VIRTIO_MMIO_SHM_LEN_LOW, 0xffffffff}, /* no shared memory: length -1 */
		{VIRTIO_MMIO_SHM_LEN_HIGH, 0xffffffff},
		{VIRTIO_MMIO_SHM_BASE_LOW, 0xffffffff},
		{VIRTIO_MMIO_SHM_BASE_HIGH, 0xffffffff},
		/* write-only ones, and gaps */
		{VIRTIO_MMIO_DRIVER_FEATURES, 0},
		{VIRTIO_MMIO_QUEUE_SEL, 0},
		{VIRTIO_MMIO_QUEUE_NUM, 0},
		{VIRTIO_MMIO_QUEUE_NOTIFY, 0},
		{VIRTIO_MMIO_QUEUE_DESC_LOW, 0},
		{0x028, 0},
		{0x0c4, 0},
		{0x0f8, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (driver_read(*state, rows[i].off) != rows[i].val)
			fail_msg("register %#x", rows[i].off);
}

static void an_access_of_another_size_is_ignored(void **state)
{
	static const struct {
		unsigned off, len;
	} rows[] = {
		{VIRTIO_MMIO_MAGIC_VALUE, 1},	  {VIRTIO_MMIO_MAGIC_VALUE, 2},
		{VIRTIO_MMIO_MAGIC_VALUE, 8},	  {VIRTIO_MMIO_MAGIC_VALUE + 1, 4},
		{VIRTIO_MMIO_MAGIC_VALUE + 2, 4}, {VIRTIO_MMIO_STATUS, 1},
		{VIRTIO_MMIO_STATUS, 2},	  {VIRTIO_MMIO_STATUS, 8},
		{VIRTIO_MMIO_STATUS - 2, 4},	  {VIRTIO_MMIO_QUEUE_NOTIFY, 8},
		{VIRTIO_MMIO_QUEUE_NOTIFY, 2},	  {VIRTIO_MMIO_CONFIG - 4, 8},
	};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t data[8];

		memset(data, 0xff, sizeof(data));
		virtio_mmio_access(d->mmio, rows[i].off, data, rows[i].len, false);
		for (unsigned k = 0; k < sizeof(data); k++)
			assert_int_equal(data[k], k < rows[i].len ? 0 : 0xff);
		memset(data, 0, sizeof(data));
		virtio_mmio_access(d->mmio, rows[i].off, data, rows[i].len, true);
	}
	/* a status of 0 written with the wrong size is no reset */
	assert_int_equal(echo.resets, 1);
	assert_int_equal(echo.notified[0], 0);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS),
			 ACK | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void the_config_space_takes_any_size(void **state)
{
	struct driver *d = *state;
	uint8_t data[8];

	for (unsigned len = 1; len <= 8; len *= 2)
		for (unsigned off = 0; off < 16; off++) {
			memset(data, 0xff, sizeof(data));
			virtio_mmio_access(d->mmio, VIRTIO_MMIO_CONFIG + off, data, len, false);
			for (unsigned i = 0; i < len; i++)
				assert_int_equal(data[i], off + i < 12 ? 0x10 + off + i : 0);
		}
	memset(data, 0xff, sizeof(data));
	virtio_mmio_access(d->mmio, VIRTIO_MMIO_LEN - 8, data, 8, false);
	assert_int_equal(get_le64(data), 0);
	put_le16(data, 0xabcd);
	virtio_mmio_access(d->mmio, VIRTIO_MMIO_CONFIG + 3, data, 2, true);
	assert_int_equal(echo.config[3], 0xcd);
	assert_int_equal(echo.config[4], 0xab);
}

/* ---- features and status ---- */

static void features_are_offered_in_two_halves(void **state)
{
	assert_int_equal(driver_offered(*state), OFFERED);
	driver_write(*state, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(driver_read(*state, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	assert_false(driver_offered(*state) & BIT(VIRTIO_F_ACCESS_PLATFORM));
}

static void features_are_agreed_only_if_offered_and_modern(void **state)
{
	static const struct {
		uint64_t features;
		bool ok;
	} rows[] = {
		{OFFERED, true},
		{BIT(VIRTIO_F_VERSION_1), true},
		{BIT(VIRTIO_F_VERSION_1) | BIT(55), true},
		{0, false},
		{OFFERED & ~BIT(VIRTIO_F_VERSION_1), false},
		{OFFERED | BIT(0), false},
		{OFFERED | BIT(63), false},
		{OFFERED | BIT(VIRTIO_F_ACCESS_PLATFORM), false},
		{~UINT64_C(0), false},
	};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_reset(d);
		driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER);
		choose_features(d, rows[i].features);
		driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
		if (driver_read(d, VIRTIO_MMIO_STATUS) !=
		    (ACK | DRIVER | (rows[i].ok ? FEATURES_OK : 0)))
			fail_msg("row %zu", i);
		assert_int_equal(echo.dev.negotiated, rows[i].ok ? rows[i].features : 0);
		/* a refused driver may think again, an agreed one may not */
		choose_features(d, BIT(VIRTIO_F_VERSION_1));
		driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
		assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS), ACK | DRIVER | FEATURES_OK);
		assert_int_equal(echo.dev.negotiated,
				 rows[i].ok ? rows[i].features : BIT(VIRTIO_F_VERSION_1));
	}
}

static void features_beyond_the_second_half_are_ignored(void **state)
{
	struct driver *d = *state;

	driver_reset(d);
	choose_features(d, BIT(VIRTIO_F_VERSION_1));
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
	assert_int_equal(echo.dev.negotiated, BIT(VIRTIO_F_VERSION_1));
}

static void the_device_starts_once_and_only_with_features(void **state)
{
	struct driver *d = *state;

	driver_reset(d);
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | DRIVER_OK);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS), ACK | DRIVER);
	assert_int_equal(echo.starts, 0);
	choose_features(d, OFFERED);
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
	assert_int_equal(echo.starts, 1);
	assert_int_equal(echo.negotiated_at_start, OFFERED);
}

static void status_bits_are_only_ever_added(void **state)
{
	struct driver *d = *state;

	driver_write(d, VIRTIO_MMIO_STATUS, FAILED | NEEDS_RESET | 0xffffff00u);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS),
			 ACK | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
}

static void a_reset_forgets_everything(void **state)
{
	struct driver *d = *state;

	add_one(d, 0);
	driver_kick(d, 0);
	assert_true(d->irq);
	driver_write(d, VIRTIO_MMIO_QUEUE_SEL, 1);
	driver_write(d, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(echo.resets, 2);
	assert_false(d->irq);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(echo.dev.negotiated, 0);
	for (unsigned q = 0; q < QUEUES; q++) {
		driver_write(d, VIRTIO_MMIO_QUEUE_SEL, q);
		assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
		assert_int_equal(echo.dev.queues[q].size, 0);
		assert_int_equal(echo.dev.queues[q].desc_gpa, 0);
	}
	/* the old choice of features does not count */
	driver_write(d, VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS), ACK | DRIVER);
}

/* ---- queues ---- */

static void queue_addresses_are_64_bits(void **state)
{
	struct driver *d = *state;

	driver_negotiate(d, DRIVER_ALL_FEATURES);
	d->queues[1] = (struct driver_queue){
		.size = 8,
		.desc = 0x1122334455667788ull,
		.avail = 0x99aabbccddeeff00ull,
		.used = 0xfedcba9876543210ull,
	};
	driver_write_queue(d, 1);
	assert_int_equal(echo.dev.queues[1].size, 8);
	assert_int_equal(echo.dev.queues[1].desc_gpa, d->queues[1].desc);
	assert_int_equal(echo.dev.queues[1].avail_gpa, d->queues[1].avail);
	assert_int_equal(echo.dev.queues[1].used_gpa, d->queues[1].used);
	assert_int_equal(echo.dev.queues[0].size, 0);
}

static void a_queue_that_does_not_exist_takes_nothing(void **state)
{
	static const uint32_t sels[] = {QUEUES, VIRTIO_MAX_QUEUES, 0x80000000u, UINT32_MAX};
	struct driver *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(sels); i++) {
		driver_write(d, VIRTIO_MMIO_QUEUE_SEL, sels[i]);
		assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
		assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
		driver_write(d, VIRTIO_MMIO_QUEUE_NUM, 8);
		driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
		driver_kick(d, sels[i]);
		assert_false(virtio_mmio_notify(d->mmio, sels[i]));
	}
	assert_false(driver_broken(d));
}

static void a_ready_queue_cannot_be_moved(void **state)
{
	struct driver *d = *state;
	struct virtqueue before = echo.dev.queues[0];

	d->queues[0].size /= 2;
	d->queues[0].desc += 0x100;
	d->queues[0].avail += 0x100;
	d->queues[0].used += 0x100;
	driver_write_queue(d, 0);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_memory_equal(&echo.dev.queues[0], &before, sizeof(before));
}

static void a_queue_in_no_memory_breaks_the_device_silently(void **state)
{
	struct driver *d = *state;

	driver_negotiate(d, DRIVER_ALL_FEATURES);
	driver_alloc_queue(d, 0, QUEUE_SIZE);
	d->queues[0].used = DRIVER_RAM_BASE + RAM_LEN - 4;
	driver_write_queue(d, 0);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_true(driver_broken(d));
	assert_false(d->irq); /* not before DRIVER_OK */
	driver_probe(d, DRIVER_ALL_FEATURES);
	assert_false(driver_broken(d));
}

static void queues_are_set_up_between_features_and_driver_ok(void **state)
{
	struct driver *d = *state;

	driver_reset(d);
	driver_alloc_queue(d, 0, QUEUE_SIZE);
	driver_write_queue(d, 0);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);

	driver_probe(d, DRIVER_ALL_FEATURES);
	driver_write(d, VIRTIO_MMIO_QUEUE_SEL, 0);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
	add_one(d, 0);
	driver_kick(d, 0);
	assert_int_equal(echo.notified[0], 0);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_false(driver_broken(d));
}

/* ---- kicks and interrupts ---- */

static void a_kick_counts_only_between_driver_ok_and_reset(void **state)
{
	struct driver *d = *state;

	driver_negotiate(d, DRIVER_ALL_FEATURES);
	driver_alloc_queue(d, 1, QUEUE_SIZE);
	driver_write_queue(d, 1);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	add_one(d, 1);
	driver_kick(d, 1);
	assert_int_equal(echo.notified[1], 0);
	driver_add_status(d, DRIVER_OK);
	driver_kick(d, 1);
	assert_int_equal(echo.notified[1], 1);
	assert_true(driver_reap(d, 1, NULL, NULL));
	driver_kick(d, 0); /* never set up */
	assert_int_equal(echo.notified[0], 0);
	driver_write(d, VIRTIO_MMIO_STATUS, 0);
	driver_kick(d, 1);
	assert_int_equal(echo.notified[1], 1);
}

static void the_line_is_high_until_all_is_acknowledged(void **state)
{
	struct driver *d = *state;

	add_one(d, 0);
	driver_kick(d, 0);
	assert_true(d->irq);
	pthread_mutex_lock(&echo.dev.lock);
	echo.dev.interrupt(&echo.dev, true);
	pthread_mutex_unlock(&echo.dev.lock);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_INTERRUPT_STATUS),
			 VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	driver_write(d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING | 0xfffffff0u);
	assert_true(d->irq);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	driver_write(d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
	assert_false(d->irq);
	assert_int_equal(d->irqs, 1);
}

static void a_config_change_has_a_new_generation(void **state)
{
	struct driver *d = *state;
	uint32_t before = driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION);

	assert_int_equal(driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION), before);
	pthread_mutex_lock(&echo.dev.lock);
	echo.dev.interrupt(&echo.dev, false);
	pthread_mutex_unlock(&echo.dev.lock);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION), before);
	pthread_mutex_lock(&echo.dev.lock);
	echo.dev.interrupt(&echo.dev, true);
	pthread_mutex_unlock(&echo.dev.lock);
	assert_int_not_equal(driver_read(d, VIRTIO_MMIO_CONFIG_GENERATION), before);
}

static void a_broken_device_says_so_and_stands_still(void **state)
{
	struct driver *d = *state;

	driver_make_avail(d, 0, 0xffff);
	driver_kick(d, 0);
	assert_true(driver_broken(d));
	assert_int_equal(driver_ack(d), VIRTIO_MMIO_INT_CONFIG);
	/* the other queue too */
	add_one(d, 1);
	driver_kick(d, 1);
	assert_int_equal(echo.notified[1], 0);
	driver_probe(d, DRIVER_ALL_FEATURES);
	assert_false(driver_broken(d));
	add_one(d, 1);
	driver_kick(d, 1);
	assert_true(driver_reap(d, 1, NULL, NULL));
}

static void a_kick_serves_a_ringful_and_says_when_more_waits(void **state)
{
	struct driver *d = *state;

	add_one(d, 0);
	echo.add_more = 2 * QUEUE_SIZE;
	assert_true(virtio_mmio_notify(d->mmio, 0));
	assert_int_equal(*driver_used(d, 0, 1), QUEUE_SIZE);
	assert_true(virtio_mmio_notify(d->mmio, 0));
	assert_int_equal(*driver_used(d, 0, 1), 2 * QUEUE_SIZE);
	assert_false(virtio_mmio_notify(d->mmio, 0));
	assert_int_equal(*driver_used(d, 0, 1), 2 * QUEUE_SIZE + 1);
	assert_int_equal(echo.notified[0], 3);
	/* a vCPU's own kick has nobody who would come back for the rest */
	driver_make_avail(d, 0, 0);
	echo.add_more = 2 * QUEUE_SIZE;
	driver_kick(d, 0);
	assert_int_equal(*driver_used(d, 0, 1), 4 * QUEUE_SIZE + 2);
}

/* ---- reset against the other threads ---- */

static uint32_t status_seen;
static pid_t status_tid;

static void *reset_thread(void *arg)
{
	driver_write(arg, VIRTIO_MMIO_STATUS, 0);
	return NULL;
}

static void *status_thread(void *arg)
{
	uint32_t status;

	__atomic_store_n(&status_tid, gettid(), __ATOMIC_RELEASE);
	status = driver_read(arg, VIRTIO_MMIO_STATUS);
	__atomic_store_n(&status_seen, status, __ATOMIC_RELEASE);
	return NULL;
}

/* sleeps - does this thread wait for something? */
static bool sleeps(pid_t tid)
{
	char path[64], stat[256] = "", *state = NULL;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	file = fopen(path, "r");
	if (file) {
		if (fgets(stat, sizeof(stat), file))
			state = strrchr(stat, ')');
		fclose(file);
	}
	return state && state[2] == 'S';
}

static void an_access_waits_for_a_reset_and_a_kick_does_not(void **state)
{
	struct driver *d = *state;
	pthread_t resetter, reader;

	add_one(d, 0);
	echo.hold_reset = true;
	status_seen = UINT32_MAX;
	status_tid = 0;
	assert_int_equal(pthread_create(&resetter, NULL, reset_thread, d), 0);
	pthread_mutex_lock(&echo.dev.lock);
	while (!echo.in_reset)
		pthread_cond_wait(&echo.changed, &echo.dev.lock);
	pthread_mutex_unlock(&echo.dev.lock);
	assert_int_equal(pthread_create(&reader, NULL, status_thread, d), 0);
	/* the event loop must get through, or nothing would end the reset */
	assert_false(virtio_mmio_notify(d->mmio, 0));
	assert_int_equal(echo.notified[0], 0);
	while (!sleeps(__atomic_load_n(&status_tid, __ATOMIC_ACQUIRE)) &&
	       __atomic_load_n(&status_seen, __ATOMIC_ACQUIRE) == UINT32_MAX)
		sched_yield();
	assert_int_equal(__atomic_load_n(&status_seen, __ATOMIC_ACQUIRE), UINT32_MAX);
	pthread_mutex_lock(&echo.dev.lock);
	echo.hold_reset = false;
	pthread_cond_broadcast(&echo.changed);
	pthread_mutex_unlock(&echo.dev.lock);
	pthread_join(resetter, NULL);
	pthread_join(reader, NULL);
	assert_int_equal(status_seen, 0);
}

/* ---- anything at all ---- */

static void random_accesses_harm_nothing(void **state)
{
	struct driver *d = *state;
	uint64_t x = 0x9e3779b97f4a7c15ull; /* xorshift: the same run every time */

	for (unsigned i = 0; i < 300000; i++) {
		static const unsigned lens[] = {1, 2, 4, 4, 4, 4, 8};
		uint8_t data[8];
		unsigned off, len;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		len = lens[x % ARRAY_SIZE(lens)];
		off = (unsigned)(x >> 8) % (VIRTIO_MMIO_LEN - len + 1);
		if (x >> 63)
			off &= ~3u;
		/* small values are the likely ones to get far */
		put_le64(data, (x >> 61) & 1 ? x >> 20 & 0xff : x);
		if ((x >> 20) % 50 == 0)
			driver_probe(d, x >> 10);
		if (d->next_gpa > DRIVER_RAM_BASE + RAM_LEN / 2)
			d->next_gpa = DRIVER_RAM_BASE;
		d->ram[(x >> 24) % (RAM_LEN / 2)] = (uint8_t)x;
		virtio_mmio_access(d->mmio, off, data, len, (x >> 62) & 1);
	}
	driver_probe(d, DRIVER_ALL_FEATURES);
	add_one(d, 0);
	driver_kick(d, 0);
	assert_true(driver_reap(d, 0, NULL, NULL));
}

int main(void)
{
#define FRESH(name)  cmocka_unit_test_setup_teardown(name, setup, teardown)
#define PROBED(name) cmocka_unit_test_setup_teardown(name, setup_probed, teardown)
	const struct CMUnitTest tests[] = {
		FRESH(the_fixed_registers_read_as_the_spec_says),
		PROBED(an_access_of_another_size_is_ignored),
		FRESH(the_config_space_takes_any_size),
		FRESH(features_are_offered_in_two_halves),
		FRESH(features_are_agreed_only_if_offered_and_modern),
		FRESH(features_beyond_the_second_half_are_ignored),
		FRESH(the_device_starts_once_and_only_with_features),
		PROBED(status_bits_are_only_ever_added),
		PROBED(a_reset_forgets_everything),
		FRESH(queue_addresses_are_64_bits),
		PROBED(a_queue_that_does_not_exist_takes_nothing),
		PROBED(a_ready_queue_cannot_be_moved),
		FRESH(a_queue_in_no_memory_breaks_the_device_silently),
		FRESH(queues_are_set_up_between_features_and_driver_ok),
		FRESH(a_kick_counts_only_between_driver_ok_and_reset),
		PROBED(the_line_is_high_until_all_is_acknowledged),
		PROBED(a_config_change_has_a_new_generation),
		PROBED(a_broken_device_says_so_and_stands_still),
		PROBED(a_kick_serves_a_ringful_and_says_when_more_waits),
		PROBED(an_access_waits_for_a_reset_and_a_kick_does_not),
		PROBED(random_accesses_harm_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
