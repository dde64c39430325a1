/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copying rules alone: which bytes travel, in which order, and what is left alone. Order and
 * atomicity are judged with a second thread that plays the other side.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/pool.h"
#include "iommu/sync.h"

#define G 0x1000u
#define H 0x4000u

static uint8_t guest[8 * G] __attribute__((aligned(0x1000)));

struct fixture {
	struct frame_table table;
	struct pool *pool;
	struct sync_scratch *scratch;
	struct mediator_stats stats;
};

static int setup_lines(void **state, size_t nr_lines)
{
	static struct fixture fx;

	memset(&fx, 0, sizeof(fx));
	memset(guest, 0, sizeof(guest));
	assert_int_equal(frame_table_init(&fx.table, H / G), 0);
	assert_int_equal(pool_create(H, 64 * H, &fx.pool), 0);
	assert_int_equal(sync_scratch_create(nr_lines, &fx.scratch), 0);
	*state = &fx;
	return 0;
}

static int setup(void **state)
{
	return setup_lines(state, 1024);
}

static int setup_tiny_scratch(void **state)
{
	return setup_lines(state, G / 64);
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	frame_table_fini(&fx->table);
	pool_destroy(fx->pool);
	sync_scratch_destroy(fx->scratch);
	return 0;
}

/* A bounce frame whose slot s is guest page s of @page0 on, with rights r[s] (0: none). */
static struct frame *frame_of(struct fixture *fx, uint64_t index, unsigned page0,
			      const unsigned r[4])
{
	struct frame *frame;
	size_t got;
	uint8_t *page = pool_get(fx->pool, 1, &got);

	memset(page, 0, H);
	frame = frame_add(&fx->table, index, FRAME_BOUNCE, page);
	for (unsigned s = 0; s < 4; s++) {
		if (!r[s])
			continue;
		frame->slot[s] = (frame_slot)(guest + (page0 + s) * G) | r[s];
		sync_fill(page + s * G, r[s] & MAP_WRITE ? pool_twin(fx->pool, page + s * G) : NULL,
			  guest + (page0 + s) * G, G, &fx->stats);
	}
	frame_relist(&fx->table, frame);
	return frame;
}

static void sync_now(struct fixture *fx, enum sync_dir dir, enum sync_mode mode)
{
	sync_frames(&fx->table, fx->pool, G, dir, mode, fx->scratch, &fx->stats);
}

static const unsigned ring[4] = {3, 0, 0, 0};

static void only_changed_bytes_travel(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ring);

	/* the same word, different bytes, both sides */
	frame->page[8] = 0xd0;
	guest[9] = 0xc0;
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	assert_int_equal(guest[8], 0xd0);
	assert_int_equal(guest[9], 0xc0);
	assert_int_equal(frame->page[9], 0);
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_RINGS);
	assert_int_equal(frame->page[8], 0xd0);
	assert_int_equal(frame->page[9], 0xc0);
	assert_int_equal(fx->stats.bytes_to_guest, 1);
	assert_int_equal(fx->stats.conflicts, 0);
}

static void a_byte_goes_to_and_fro_between_sync_points(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ring);

	for (unsigned i = 0; i < 100; i++) {
		frame->page[0x123] = 1;
		sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
		assert_int_equal(guest[0x123], 1);
		guest[0x123] = 0;
		sync_now(fx, SYNC_FOR_DEVICE, SYNC_RINGS);
		assert_int_equal(frame->page[0x123], 0);
	}
	assert_int_equal(fx->stats.conflicts, 0);
}

static void a_byte_changed_by_both_sides_is_counted(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ring);

	frame->page[5] = 1;
	guest[5] = 2;
	frame->page[6] = 3;
	guest[6] = 3; /* the same value: nothing is lost */
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	assert_int_equal(fx->stats.conflicts, 1);
	assert_int_equal(guest[5], 1);
}

static void a_device_write_to_a_read_only_slot_never_reaches_the_guest(void **state)
{
	static const unsigned ro[4] = {1, 3, 0, 0};
	struct fixture *fx = *state;
	struct frame *frame;

	guest[0] = 7;
	frame = frame_of(fx, 1, 0, ro);
	frame->page[0] = 0xee;
	frame->page[2 * G] = 0xee; /* nothing mapped */
	sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(guest[0], 7);
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	assert_int_equal(guest[0], 7);
	assert_int_equal(frame->page[0], 7);
	assert_int_equal(guest[2 * G], 0);
}

static void rings_mode_leaves_payload_to_map_and_unmap(void **state)
{
	static const unsigned mix[4] = {3, 2, 1, 0};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, mix);

	frame->page[0] = 1;
	frame->page[G] = 2;
	guest[2 * G] = 3;
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_RINGS);
	assert_int_equal(guest[0], 1);
	assert_int_equal(guest[G], 0);
	assert_int_equal(frame->page[2 * G], 0);
	sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	assert_int_equal(guest[G], 2);
	assert_int_equal(frame->page[2 * G], 3);
}

/* A receive buffer that stays mapped: the second transfer brings a byte that the CPU changed in
 * between. */
static void a_recycled_receive_buffer_loses_no_byte(void **state)
{
	static const unsigned wo[4] = {2, 0, 0, 0};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, wo);

	frame->page[22] = 64;
	sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(guest[22], 64);
	guest[22] = 63; /* the CPU works in the buffer, then hands it out again */
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	frame->page[22] = 64;
	sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(guest[22], 64);
}

static void more_changes_than_the_scratch_holds_still_arrive(void **state)
{
	static const unsigned all[4] = {3, 3, 3, 3};
	struct fixture *fx = *state;
	struct frame *a = frame_of(fx, 1, 0, all), *b = frame_of(fx, 9, 4, all);

	memset(a->page, 0x5a, H);
	memset(b->page, 0xa5, H);
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	for (unsigned i = 0; i < 4 * G; i++) {
		assert_int_equal(guest[i], 0x5a);
		assert_int_equal(guest[4 * G + i], 0xa5);
	}
	memset(guest, 0x11, sizeof(guest));
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_RINGS);
	for (unsigned i = 0; i < 4 * G; i++) {
		assert_int_equal(a->page[i], 0x11);
		assert_int_equal(b->page[i], 0x11);
	}
	assert_true(fx->stats.unstable >= 2);
}

static void unmap_collects_what_the_device_changed_and_no_more(void **state)
{
	static const unsigned wo[4] = {2, 0, 0, 0};
	struct fixture *fx = *state;
	struct frame *frame;

	memset(guest, 0x33, G);
	frame = frame_of(fx, 1, 0, wo);
	memset(frame->page + 512, 0x44, 512);
	guest[100] = 0x55; /* a neighbour in the same page */
	sync_collect(frame->page, pool_twin(fx->pool, frame->page), guest, G, &fx->stats);
	for (unsigned i = 0; i < G; i++)
		assert_int_equal(guest[i], i == 100 ? 0x55 : i >= 512 && i < 1024 ? 0x44 : 0x33);
	assert_int_equal(fx->stats.bytes_to_guest, 512);
}

/* ---- two sides at once ---- */

#define ROUNDS 100000u

struct racer {
	uint64_t *word;
	atomic_bool stop;
};

/* The CPU counts in the upper half of a word whose lower half the device owns. */
static void *neighbour_writer(void *arg)
{
	struct racer *racer = arg;
	uint32_t *upper = (uint32_t *)racer->word + 1;

	for (uint32_t i = 1; !atomic_load(&racer->stop); i++) {
		__atomic_store_n(upper, i, __ATOMIC_RELEASE);
		if (__atomic_load_n(upper, __ATOMIC_ACQUIRE) != i)
			return (void *)1; /* the merge undid our write */
	}
	return NULL;
}

static void a_neighbours_concurrent_write_is_never_undone(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ring);
	struct racer racer = {.word = (uint64_t *)guest + 5};
	pthread_t thread;
	void *undone;

	assert_int_equal(pthread_create(&thread, NULL, neighbour_writer, &racer), 0);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		__atomic_store_n((uint32_t *)(frame->page + 40), i, __ATOMIC_RELEASE);
		sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
		assert_int_equal(__atomic_load_n((uint32_t *)(guest + 40), __ATOMIC_ACQUIRE), i);
	}
	atomic_store(&racer.stop, true);
	pthread_join(thread, &undone);
	assert_null(undone);
}

/*
 * The device writes an entry's payload (a write-only page), then its body and last its valid word
 * (a ring). The guest, polling the ring, must never see a valid word before what it covers.
 */
struct entry_race {
	uint8_t *ring, *payload; /* as the device sees them */
	atomic_uint seen;	 /* by the guest */
	atomic_bool stop;
};

#define ENTRIES	    2000u
#define ENTRY_WORDS 16 /* two cache lines, valid word last */

static void *entry_device(void *arg)
{
	struct entry_race *race = arg;
	uint64_t *entry = (uint64_t *)race->ring, *data = (uint64_t *)race->payload;

	for (uint64_t n = 1; !atomic_load(&race->stop); n++) {
		for (unsigned i = 0; i < 64; i++)
			__atomic_store_n(data + i * 8, n, __ATOMIC_RELEASE);
		for (unsigned i = 0; i < ENTRY_WORDS; i++)
			__atomic_store_n(entry + i, n, __ATOMIC_RELEASE);
		/* the driver owns the entry until it hands it back */
		while (atomic_load(&race->seen) < n && !atomic_load(&race->stop))
			sched_yield();
	}
	return NULL;
}

static void *entry_verdict(struct entry_race *race, uintptr_t what)
{
	atomic_store(&race->stop, true);
	return (void *)what;
}

static void *entry_guest(void *arg)
{
	struct entry_race *race = arg;
	const uint64_t *entry = (const uint64_t *)guest, *data = (const uint64_t *)(guest + G);

	for (uint64_t n = 1; !atomic_load(&race->stop); n++) {
		while (__atomic_load_n(entry + ENTRY_WORDS - 1, __ATOMIC_ACQUIRE) != n) {
			if (atomic_load(&race->stop))
				return NULL;
			sched_yield();
		}
		for (unsigned i = 0; i < ENTRY_WORDS; i++) {
			if (__atomic_load_n(entry + i, __ATOMIC_ACQUIRE) != n)
				return entry_verdict(race, 1); /* torn */
		}
		for (unsigned i = 0; i < 64; i++) {
			if (__atomic_load_n(data + i * 8, __ATOMIC_ACQUIRE) != n)
				return entry_verdict(race, 2); /* early */
		}
		atomic_store(&race->seen, (unsigned)n);
	}
	return NULL;
}

static void no_entry_is_torn_or_early(void **state)
{
	static const unsigned mix[4] = {3, 2, 0, 0};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, mix);
	struct entry_race race = {.ring = frame->page, .payload = frame->page + G};
	pthread_t device, driver;
	void *verdict;

	assert_int_equal(pthread_create(&device, NULL, entry_device, &race), 0);
	assert_int_equal(pthread_create(&driver, NULL, entry_guest, &race), 0);
	while (atomic_load(&race.seen) < ENTRIES && !atomic_load(&race.stop))
		sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	atomic_store(&race.stop, true);
	pthread_join(device, NULL);
	pthread_join(driver, &verdict);
	assert_int_equal((uintptr_t)verdict, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(only_changed_bytes_travel, setup, teardown),
		cmocka_unit_test_setup_teardown(a_byte_goes_to_and_fro_between_sync_points, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_byte_changed_by_both_sides_is_counted, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			a_device_write_to_a_read_only_slot_never_reaches_the_guest, setup,
			teardown),
		cmocka_unit_test_setup_teardown(rings_mode_leaves_payload_to_map_and_unmap, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_recycled_receive_buffer_loses_no_byte, setup,
						teardown),
		cmocka_unit_test_setup_teardown(more_changes_than_the_scratch_holds_still_arrive,
						setup_tiny_scratch, teardown),
		cmocka_unit_test_setup_teardown(unmap_collects_what_the_device_changed_and_no_more,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_neighbours_concurrent_write_is_never_undone,
						setup, teardown),
		cmocka_unit_test_setup_teardown(no_entry_is_torn_or_early, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
