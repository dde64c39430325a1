/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver and a device share a bounced virtio split ring, both as eager to sleep and to keep the
 * other quiet as the specification lets them be, while a third party makes syncs at any time. All
 * three parts of the ring lie in one page, descriptors first. Nobody may find an index before what
 * it tells of, and driver and device must never both sleep while there is work.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	0x1000ull
#define H	0x4000ull
#define RAM	0x802e60000ull
#define RAM_LEN (16 * H)
#define IOVA	0x90000000ull
#define OFF	G /* of what is mapped, in RAM: out of step with the IOVA */

/* The ring, and behind its page that of the buffers, a word for each descriptor. */
#define NUM	 64u
#define AVAIL	 (16 * NUM)
#define USED	 ALIGN_UP(AVAIL + 6 + 2 * NUM, 4)
#define BUFFERS	 G
#define NO_NOISE 1u /* flags: VRING_USED_F_NO_NOTIFY, VRING_AVAIL_F_NO_INTERRUPT */

#ifdef __SANITIZE_THREAD__
#define TOTAL 2000u
#else
#define TOTAL 100000u
#endif

enum side { DRIVER, DEVICE };

struct bench {
	struct fake_instance fake;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep;
	uint8_t *mem[2]; /* the ring as each side has it */
	/* Who sleeps, and who has been woken. */
	pthread_mutex_t lock;
	pthread_cond_t woken;
	bool asleep[2], called[2];
	atomic_bool over; /* all is done, or something is wrong */
	const char *wrong;
};

static struct bench b;

static uint16_t ld16(enum side side, size_t off)
{
	return __atomic_load_n((uint16_t *)(uintptr_t)(b.mem[side] + off), __ATOMIC_ACQUIRE);
}

static void st16(enum side side, size_t off, unsigned val)
{
	__atomic_store_n((uint16_t *)(uintptr_t)(b.mem[side] + off), (uint16_t)val,
			 __ATOMIC_RELEASE);
}

static uint32_t ld32(enum side side, size_t off)
{
	return __atomic_load_n((uint32_t *)(uintptr_t)(b.mem[side] + off), __ATOMIC_ACQUIRE);
}

static void st32(enum side side, size_t off, uint32_t val)
{
	__atomic_store_n((uint32_t *)(uintptr_t)(b.mem[side] + off), val, __ATOMIC_RELEASE);
}

/* fence - as between one's own store and a look at the other's; the race detector knows none */
static void fence(void)
{
#ifdef __SANITIZE_THREAD__
	static atomic_uint word;

	atomic_fetch_add(&word, 1);
#else
	atomic_thread_fence(memory_order_seq_cst);
#endif
}

static void give_up(const char *what)
{
	pthread_mutex_lock(&b.lock);
	if (!b.wrong)
		b.wrong = what;
	atomic_store(&b.over, true);
	pthread_cond_broadcast(&b.woken);
	pthread_mutex_unlock(&b.lock);
}

static void call(enum side side)
{
	pthread_mutex_lock(&b.lock);
	b.called[side] = true;
	pthread_cond_broadcast(&b.woken);
	pthread_mutex_unlock(&b.lock);
}

/* wait_for_call - with work for the other side outstanding, or it is nobody's turn to sleep */
static void wait_for_call(enum side side)
{
	pthread_mutex_lock(&b.lock);
	b.asleep[side] = true;
	while (!b.called[side] && !b.over) {
		if (b.asleep[!side] && !b.called[!side]) {
			b.wrong = "driver and device wait for each other";
			atomic_store(&b.over, true);
			pthread_cond_broadcast(&b.woken);
			break;
		}
		pthread_cond_wait(&b.woken, &b.lock);
	}
	b.asleep[side] = false;
	b.called[side] = false;
	pthread_mutex_unlock(&b.lock);
}

static uint32_t hash(uint32_t v)
{
	return v * 0x9e3779b1u ^ v >> 7;
}

static void sometimes_pause(uint32_t *seed)
{
	*seed = *seed * 1103515245u + 12345;
	if (*seed >> 28 == 0)
		sched_yield();
}

/* ---- the device: from a descriptor's address it makes the buffer ---- */

static void use(unsigned at, unsigned last_used)
{
	unsigned id = ld16(DEVICE, AVAIL + 4 + 2 * (at % NUM));
	uint32_t what;

	if (id >= NUM) {
		give_up("the device finds an entry that nobody wrote");
		return;
	}
	what = ld32(DEVICE, 16 * id);
	if (ld32(DEVICE, 16 * id + 8) != hash(what) || ld32(DEVICE, 16 * id + 12) != ~what) {
		give_up("the device finds a descriptor that is torn");
		return;
	}
	st32(DEVICE, BUFFERS + 8 * id, what + 1);
	st32(DEVICE, BUFFERS + 8 * id + 4, hash(what));
	st32(DEVICE, USED + 4 + 8 * (last_used % NUM), id);
	st32(DEVICE, USED + 4 + 8 * (last_used % NUM) + 4, what);
}

static void *device(void *arg)
{
	uint16_t last = 0; /* of both rings: it works in order */
	uint32_t seed = 7;

	(void)arg;
	while (!b.over) {
		st16(DEVICE, USED, NO_NOISE);
		while (ld16(DEVICE, AVAIL + 2) != last && !b.over) {
			use(last, last);
			last++;
			st16(DEVICE, USED + 2, last);
			fence();
			if (!(ld16(DEVICE, AVAIL) & NO_NOISE)) {
				endpoint_sync_for_cpu(b.ep);
				call(DRIVER);
			}
			sometimes_pause(&seed);
		}
		st16(DEVICE, USED, 0);
		fence();
		if (ld16(DEVICE, AVAIL + 2) == last)
			wait_for_call(DEVICE);
	}
	return NULL;
}

/* ---- the driver ---- */

static unsigned nr_free, free_ids[NUM];
static uint32_t expected[NUM];

static void add(uint32_t what, uint16_t idx)
{
	unsigned id = free_ids[--nr_free];

	expected[id] = what;
	st32(DRIVER, 16 * id, what);
	st32(DRIVER, 16 * id + 8, hash(what));
	st32(DRIVER, 16 * id + 12, ~what);
	st16(DRIVER, AVAIL + 4 + 2 * (idx % NUM), id);
	st16(DRIVER, AVAIL + 2, idx + 1u);
}

static void take(uint16_t at)
{
	unsigned id = ld32(DRIVER, USED + 4 + 8 * (at % NUM));

	if (id >= NUM || ld32(DRIVER, USED + 4 + 8 * (at % NUM) + 4) != expected[id])
		give_up("the driver finds an entry that is not there yet");
	else if (ld32(DRIVER, BUFFERS + 8 * id) != expected[id] + 1 ||
		 ld32(DRIVER, BUFFERS + 8 * id + 4) != hash(expected[id]))
		give_up("the driver finds a buffer that is not there yet");
	else
		free_ids[nr_free++] = id;
}

static void kick(void)
{
	fence();
	if (ld16(DRIVER, USED) & NO_NOISE)
		return;
	endpoint_sync_for_device(b.ep);
	call(DEVICE);
}

static void drive(void)
{
	uint32_t added = 0, seed = 3;
	uint16_t taken = 0;

	while (!b.over && (added < TOTAL || nr_free < NUM)) {
		unsigned burst = 1 + (seed >> 20) % 8;

		for (; added < TOTAL && nr_free && burst; burst--, added++)
			add(added, (uint16_t)added);
		kick();
		sometimes_pause(&seed);
		/* the interrupt's handler, or a poll with interrupts off */
		st16(DRIVER, AVAIL, NO_NOISE);
		while (!b.over && ld16(DRIVER, USED + 2) != taken)
			take(taken++);
		if (added < TOTAL && nr_free)
			continue;
		st16(DRIVER, AVAIL, 0);
		fence();
		if (nr_free < NUM && ld16(DRIVER, USED + 2) == taken)
			wait_for_call(DRIVER);
	}
}

/* ---- a third: another vCPU at other registers ---- */

static void *onlooker(void *arg)
{
	uint32_t seed = 11;

	(void)arg;
	while (!b.over) {
		endpoint_sync_for_cpu(b.ep);
		sometimes_pause(&seed);
		endpoint_sync_for_device(b.ep);
		sched_yield();
	}
	return NULL;
}

static void nobody_sleeps_on_work_and_nobody_is_told_early(void **state)
{
	const struct mediator_cfg cfg = {
		.gmem = &b.gmem,
		.guest_granule = G,
		.pool_limit = 16 * H,
		.max_domains = 2,
		.max_mappings = 8,
		.doorbell = {1, 0},
		.ring_limit = H,
	};
	const struct stream stream = {&b.fake.inst, 0};
	const struct endpoint_cfg ep = {
		.name = "test", .streams = &stream, .nr_streams = 1, .sync = SYNC_FULL};
	const struct mapping map = {IOVA, IOVA + 2 * G - 1, RAM + OFF, MAP_READ | MAP_WRITE};
	const struct ring_place place = {IOVA + AVAIL, IOVA + USED};
	pthread_t threads[2];

	(void)state;
	b.ram = aligned_alloc(H, RAM_LEN);
	memset(b.ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&b.gmem, RAM, RAM_LEN, b.ram), 0);
	assert_int_equal(mediator_create(&cfg, &b.m), 0);
	fake_init(&b.fake, H, 0, 0xffffffff);
	assert_int_equal(mediator_add_endpoint(b.m, &ep, &b.ep), 0);
	assert_int_equal(mediator_attach(b.m, 1, 0, false), 0);
	assert_int_equal(mediator_map(b.m, 1, &map), 0);
	assert_int_equal(endpoint_set_ring(b.ep, 0, &place), 0);
	b.mem[DRIVER] = b.ram + OFF;
	b.mem[DEVICE] = fake_translate(&b.fake, IOVA, PROT_READ | PROT_WRITE);
	assert_non_null(b.mem[DEVICE]);
	assert_ptr_not_equal(b.mem[DEVICE], b.mem[DRIVER]);
	pthread_mutex_init(&b.lock, NULL);
	pthread_cond_init(&b.woken, NULL);
	for (nr_free = 0; nr_free < NUM; nr_free++)
		free_ids[nr_free] = nr_free;

	assert_int_equal(pthread_create(&threads[0], NULL, device, NULL), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, onlooker, NULL), 0);
	drive();
	atomic_store(&b.over, true);
	call(DEVICE);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	if (b.wrong)
		fail_msg("%s", b.wrong);
	assert_int_equal(nr_free, NUM);
	mediator_destroy(b.m);
	free(b.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_sleeps_on_work_and_nobody_is_told_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
