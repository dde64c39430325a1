/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copying rules alone: which bytes travel, in which order, and what is left alone. Order and
 * atomicity are judged with a second thread that plays the other side.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/base.h"
#include "iommu/diff.h"
#include "iommu/pool.h"
#include "iommu/sync.h"

#define G 0x1000u
#define H 0x4000u

/* How often a race is run: enough to meet; fewer where each access is watched. */
#ifdef __SANITIZE_THREAD__
#define TIMES(n) ((n) / 50)
#else
#define TIMES(n) (n)
#endif

static uint8_t guest[8 * G] __attribute__((aligned(0x1000)));

/* Statics lie near each other. */
static uint8_t *base_of(uint8_t *any)
{
	return (uint8_t *)ALIGN_DOWN((uintptr_t)any, SLOT_REACH / 2);
}

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
	assert_int_equal(frame_table_init(&fx.table, H / G, base_of(guest)), 0);
	assert_int_equal(pool_create(H, 128 * H, &fx.pool), 0);
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
		frame->slot[s] = slot_of(&fx->table, guest + (page0 + s) * G, r[s]);
		sync_fill(page + s * G, r[s] & MAP_WRITE ? pool_twin(fx->pool, page + s * G) : NULL,
			  guest + (page0 + s) * G, G, &fx->stats);
	}
	frame_relist(&fx->table, frame);
	return frame;
}

static void sync_now(struct fixture *fx, enum sync_dir dir, enum sync_mode mode)
{
	sync_frames(&fx->table, fx->pool, G, dir, mode, NULL, fx->scratch, &fx->stats);
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

/* A change that differs in one bit, whichever it is, whatever its neighbours hold. */
static void every_bit_of_every_byte_travels(void **state)
{
	static const uint64_t around[] = {0, UINT64_MAX, 0x0180ff7f01807fff};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ring);
	uint64_t *word = (uint64_t *)frame->page;

	for (size_t n = 0; n < ARRAY_SIZE(around); n++) {
		for (unsigned bit = 0; bit < 64; bit++) {
			*word = around[n];
			sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
			*word ^= BIT(bit);
			sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
			assert_int_equal(*(uint64_t *)guest, *word);
		}
	}
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

static void
what_the_cpu_changes_in_a_read_only_slot_reaches_the_device_at_its_sync_point(void **state)
{
	static const unsigned ro[4] = {1, 0, 0, 0};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, ro);

	guest[5] = 9;
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	assert_int_equal(frame->page[5], 9);
	assert_int_equal(fx->stats.bytes_to_guest, 0);
}

static void zeroing_leaves_nothing_and_takes_no_more(void **state)
{
	uint64_t words[10];

	(void)state;
	memset(words, 0xee, sizeof(words));
	sync_zero((uint8_t *)&words[1], 8 * 8);
	assert_int_equal(words[0], 0xeeeeeeeeeeeeeeee);
	assert_int_equal(words[9], 0xeeeeeeeeeeeeeeee);
	for (unsigned i = 1; i < 9; i++)
		assert_int_equal(words[i], 0);
}

static void every_word_of_a_slot_arrives_whatever_its_rights(void **state)
{
	static const unsigned mix[4] = {3, 2, 1, 0};
	struct fixture *fx = *state;
	struct frame *frame = frame_of(fx, 1, 0, mix);

	for (unsigned i = 0; i < G; i++)
		frame->page[i] = frame->page[G + i] = (uint8_t)(1 + i % 251);
	sync_now(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_memory_equal(guest, frame->page, 2 * G);
	for (unsigned i = 0; i < G; i++)
		guest[i] = guest[G + i] = guest[2 * G + i] = (uint8_t)(1 + i % 241);
	sync_now(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	assert_memory_equal(frame->page, guest, 3 * G);
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

/*
 * Lines of every kind: untouched, rewritten whole, with some bytes that stay, with bytes that the
 * other side has changed too; judged byte by byte.
 */
static void collecting_moves_exactly_the_bytes_that_changed(void **state)
{
	static uint8_t b[G], t[G], g[G], want[G];
	unsigned seed = 1;

	(void)state;
	for (unsigned round = 0; round < 600; round++) {
		struct mediator_stats stats = {0};
		uint64_t bytes = 0, conflicts = 0;
		size_t len = round % 3 ? G : 64 * (1 + round % 64);

		for (unsigned i = 0; i < G; i++) {
			unsigned line = i / 64 * 7 + round;

			seed = seed * 1103515245 + 12345;
			b[i] = t[i] = g[i] = want[i] = (uint8_t)(seed >> 16);
			if (line % 4 == 1 || (line % 4 > 1 && (seed >> 24) % 32))
				b[i]++;
			if (line % 4 == 3 && !((seed >> 20) % 16))
				g[i] = want[i] = (uint8_t)(seed >> 12);
			if (b[i] == t[i] || i >= len)
				continue;
			want[i] = b[i];
			bytes++;
			conflicts += g[i] != t[i] && g[i] != b[i];
		}
		if (round % 2)
			sync_collect_last(b, t, g, len, &stats);
		else
			sync_collect(b, t, g, len, &stats);
		assert_memory_equal(g, want, G);
		assert_int_equal(stats.bytes_to_guest, bytes);
		assert_int_equal(stats.conflicts, conflicts);
		if (round % 2 == 0)
			assert_memory_equal(t, b, len);
	}
}

/* ---- a live change of class ---- */

struct byte_case {
	uint8_t guest, twin, bounce; /* before */
	uint8_t guest_then, twin_then, bounce_then;
	bool conflict;
};

/* Each case in each byte of a line, its neighbours agreed upon. */
static void run_byte_cases(const struct byte_case *c, size_t nr, bool to_bounce)
{
	for (size_t n = 0; n < nr; n++) {
		for (unsigned at = 0; at < DIFF_LINE; at++) {
			_Alignas(uint64_t) uint8_t g[DIFF_LINE], t[DIFF_LINE], b[DIFF_LINE];
			uint8_t agreed[DIFF_LINE];
			struct mediator_stats stats = {0};

			memset(agreed, 0x11, DIFF_LINE);
			memset(g, 0x11, DIFF_LINE);
			memset(t, 0x11, DIFF_LINE);
			memset(b, 0x11, DIFF_LINE);
			g[at] = c[n].guest;
			t[at] = c[n].twin;
			b[at] = c[n].bounce;
			if (to_bounce)
				sync_to_bounce(b, t, g, DIFF_LINE, &stats);
			else
				sync_to_direct(g, t, b, DIFF_LINE, &stats);
			assert_int_equal(g[at], c[n].guest_then);
			assert_int_equal(t[at], c[n].twin_then);
			assert_int_equal(b[at], c[n].bounce_then);
			assert_int_equal(stats.conflicts, c[n].conflict);
			g[at] = t[at] = b[at] = 0x11;
			assert_memory_equal(g, agreed, DIFF_LINE);
			assert_memory_equal(t, agreed, DIFF_LINE);
			assert_memory_equal(b, agreed, DIFF_LINE);
		}
	}
}

static void on_the_way_to_bounce_each_byte_goes_where_it_belongs(void **state)
{
	static const struct byte_case cases[] = {
		{1, 1, 1, 1, 1, 1, false}, /* nobody */
		{2, 1, 1, 2, 2, 2, false}, /* late through a stale translation, or the CPU */
		{1, 1, 3, 1, 1, 3, false}, /* the device: the next sync's */
		{2, 1, 3, 2, 2, 3, true},  /* both: the device's is newer, and the next sync's */
		{2, 1, 2, 2, 2, 2, false}, /* both the same */
	};

	(void)state;
	run_byte_cases(cases, ARRAY_SIZE(cases), true);
}

static void on_the_way_to_direct_each_byte_goes_where_it_belongs(void **state)
{
	static const struct byte_case cases[] = {
		{1, 1, 1, 1, 1, 1, false}, /* nobody */
		{2, 1, 1, 2, 1, 1, false}, /* in its place already */
		{1, 1, 3, 3, 3, 3, false}, /* late through a stale translation */
		{2, 1, 3, 2, 3, 3, true},  /* the guest's page was written after that */
		{3, 1, 3, 3, 3, 3, false}, /* both the same */
	};

	(void)state;
	run_byte_cases(cases, ARRAY_SIZE(cases), false);
}

static void words_that_changed_whole_and_in_part_all_arrive(void **state)
{
	static uint8_t g[G], t[G], b[G];
	struct mediator_stats stats = {0};

	(void)state;
	for (unsigned i = 0; i < G; i++)
		g[i] = (uint8_t)(i % 24 < 13 ? i | 1 : 0);
	sync_to_bounce(b, t, g, G, &stats);
	assert_memory_equal(b, g, G);
	assert_memory_equal(t, g, G);
	memset(g, 0, G);
	memset(t, 0, G);
	sync_to_direct(g, t, b, G, &stats);
	assert_memory_equal(g, b, G);
	assert_int_equal(stats.bytes_to_guest, stats.bytes_to_device);
	assert_int_equal(stats.conflicts, 0);
}

static void a_read_only_slot_follows_the_guest_through_a_class_change(void **state)
{
	uint64_t g[DIFF_LINE / 8] = {2, 0, 0, 7}, b[DIFF_LINE / 8] = {0x0300, 0, 5};
	struct mediator_stats stats = {0};

	(void)state;
	sync_to_bounce((uint8_t *)b, NULL, (uint8_t *)g, DIFF_LINE, &stats);
	assert_memory_equal(b, g, DIFF_LINE);
	b[0] = 0x77;
	sync_to_direct((uint8_t *)g, NULL, (uint8_t *)b, DIFF_LINE, &stats);
	assert_int_equal(g[0], 2);
}

/*
 * A page changes its class over and over while a CPU writes the upper half of each word and a
 * device the lower half, wherever its translation leads at that moment. Every value is one byte
 * repeated, and no side writes a value again before a change has ended, so that a comparison sees
 * each write. Whenever both pause, the last write of each side to each word must be there.
 */
#define MOVER_WORDS 64u
#define MOVES	    TIMES(400u)

struct mover {
	_Atomic(uint64_t *) target;    /* where the device's translation leads */
	atomic_uint wanted, seen;      /* invalidations asked for, and done */
	atomic_uint phase;	       /* odd: pause */
	atomic_uint device_at, cpu_at; /* the phase each side is in */
	atomic_bool stop;
	uint32_t device_wrote[MOVER_WORDS], cpu_wrote[MOVER_WORDS];
};

/* Return: false to end; then and in a pause nothing more is written. */
static bool mover_may_write(struct mover *mover, atomic_uint *at, unsigned *budget)
{
	for (;;) {
		unsigned phase = atomic_load(&mover->phase);

		if (atomic_load(at) != phase) {
			atomic_store(at, phase);
			*budget = 200 * MOVER_WORDS;
		}
		if (atomic_load(&mover->stop))
			return false;
		if (at == &mover->device_at)
			atomic_store(&mover->seen, atomic_load(&mover->wanted));
		if (!(phase & 1) && *budget) {
			--*budget;
			return true;
		}
		sched_yield();
	}
}

static void mover_write(uint64_t *word, bool upper, uint32_t *wrote)
{
	*wrote = (uint8_t)(*wrote + 1) * 0x01010101u;
	__atomic_store_n((uint32_t *)word + upper, *wrote, __ATOMIC_RELEASE);
}

static void *moving_device(void *arg)
{
	struct mover *mover = arg;
	unsigned budget = 0;

	for (unsigned i = 0; mover_may_write(mover, &mover->device_at, &budget);
	     i = (i + 1) % MOVER_WORDS)
		mover_write(atomic_load(&mover->target) + i, false, &mover->device_wrote[i]);
	return NULL;
}

static void *moving_cpu(void *arg)
{
	struct mover *mover = arg;
	unsigned budget = 0;

	for (unsigned i = 0; mover_may_write(mover, &mover->cpu_at, &budget);
	     i = (i + 1) % MOVER_WORDS)
		mover_write((uint64_t *)guest + i, true, &mover->cpu_wrote[i]);
	return NULL;
}

/* As a translation is replaced: what is in flight still goes where the old one led. */
static void mover_replace(struct mover *mover, uint64_t *target)
{
	unsigned wanted;

	atomic_store(&mover->target, target);
	wanted = atomic_fetch_add(&mover->wanted, 1) + 1;
	while (atomic_load(&mover->seen) != wanted)
		sched_yield();
}

static void mover_next_phase(struct mover *mover)
{
	unsigned phase = atomic_fetch_add(&mover->phase, 1) + 1;

	while (atomic_load(&mover->device_at) != phase || atomic_load(&mover->cpu_at) != phase)
		sched_yield();
}

static unsigned mover_lost(const struct mover *mover, const uint64_t *device_side)
{
	unsigned lost = 0;

	for (unsigned i = 0; i < MOVER_WORDS; i++) {
		lost += (uint32_t)device_side[i] != mover->device_wrote[i];
		lost += ((const uint64_t *)guest)[i] >> 32 != mover->cpu_wrote[i];
	}
	return lost;
}

static void no_byte_is_lost_while_a_frame_changes_its_class(void **state)
{
	enum { LEN = MOVER_WORDS * 8 };
	static uint64_t bounce[MOVER_WORDS], twin[MOVER_WORDS];
	static struct mover mover;
	struct fixture *fx = *state;
	struct mediator_stats *stats = &fx->stats;
	uint8_t *b = (uint8_t *)bounce, *t = (uint8_t *)twin;
	pthread_t device, cpu;
	unsigned lost = 0;

	memset(&mover, 0, sizeof(mover));
	atomic_store(&mover.target, (uint64_t *)guest);
	assert_int_equal(pthread_create(&device, NULL, moving_device, &mover), 0);
	assert_int_equal(pthread_create(&cpu, NULL, moving_cpu, &mover), 0);
	for (unsigned n = 0; n < MOVES && !lost; n++) {
		sync_fill(b, t, guest, LEN, stats);
		mover_replace(&mover, bounce);
		sync_to_bounce(b, t, guest, LEN, stats);
		mover_next_phase(&mover);
		lost += mover_lost(&mover, bounce);
		/* from here on an ordinary bounce frame */
		sync_collect(b, t, guest, LEN, stats);
		lost += mover_lost(&mover, (uint64_t *)guest);
		mover_next_phase(&mover);

		sync_collect(b, t, guest, LEN, stats);
		mover_replace(&mover, (uint64_t *)guest);
		sync_to_direct(guest, t, b, LEN, stats);
		mover_next_phase(&mover);
		lost += mover_lost(&mover, (uint64_t *)guest);
		mover_next_phase(&mover);
	}
	atomic_store(&mover.stop, true);
	pthread_join(device, NULL);
	pthread_join(cpu, NULL);
	assert_int_equal(lost, 0);
	assert_true(stats->bytes_to_device > LEN);
}

/* ---- two sides at once ---- */

#define ROUNDS TIMES(100000u)

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
		/* Look for a while: at first this CPU only sees its own store buffer. */
		for (unsigned look = 0; look < 16; look++) {
			if (__atomic_load_n(upper, __ATOMIC_ACQUIRE) != i)
				return (void *)1; /* the merge undid our write */
		}
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

/* The same, of the last collect and of the side that a class change brings up to date. */
static void catching_up_never_undoes_a_concurrent_write(void **state)
{
	static uint64_t line_a[8], line_t[8], line_b[8];
	uint64_t *ahead = &line_a[3], *behind = &line_b[3];
	uint8_t *a = (uint8_t *)line_a, *t = (uint8_t *)line_t, *b = (uint8_t *)line_b;
	struct mediator_stats stats = {0};

	(void)state;
	for (int how = 0; how < 3; how++) {
		struct racer racer = {.word = ahead};
		unsigned met = 0;
		uint32_t i;
		pthread_t thread;
		void *undone;

		memset(line_a, 0, sizeof(line_a));
		memset(line_t, 0, sizeof(line_t));
		memset(line_b, 0, sizeof(line_b));
		assert_int_equal(pthread_create(&thread, NULL, neighbour_writer, &racer), 0);
		/* Until the two have met often enough; a machine of one CPU gives up some day. */
		for (i = 1; i < 10 * ROUNDS && met < ROUNDS / 10; i++) {
			uint64_t before = __atomic_load_n(ahead, __ATOMIC_ACQUIRE) >> 32;

			__atomic_store_n((uint32_t *)behind, i, __ATOMIC_RELEASE);
			if (how == 0)
				line_t[3] = ~(uint64_t)i << 32 >> 32; /* all four bytes are new */
			if (how == 0)
				sync_collect_last(b, t, a, 64, &stats);
			else if (how == 1)
				sync_to_bounce(a, t, b, 64, &stats);
			else
				sync_to_direct(a, t, b, 64, &stats);
			met += __atomic_load_n(ahead, __ATOMIC_ACQUIRE) >> 32 != before;
		}
		atomic_store(&racer.stop, true);
		pthread_join(thread, &undone);
		assert_null(undone);
		assert_int_equal((uint32_t)*ahead, i - 1);
	}
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

#define ENTRIES	    TIMES(2000u)
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

/*
 * A device writes one word of each of many rings, in another order each time: whatever a sync shows
 * the guest must have been the state of all rings at one moment, so the writes of one turn are
 * there up to some point of its order and none behind it.
 */
#define CHAIN 40u
#define TURNS 512u

struct chain {
	uint8_t order[TURNS][CHAIN];
	uint64_t *ring[CHAIN]; /* as the device sees them */
	atomic_bool stop;
};

static void *chain_device(void *arg)
{
	struct chain *chain = arg;

	for (uint64_t n = 1; !atomic_load(&chain->stop); n++) {
		for (unsigned i = 0; i < CHAIN; i++)
			__atomic_store_n(chain->ring[chain->order[n % TURNS][i]], n,
					 __ATOMIC_RELEASE);
		/* a pause of some length: syncs meet every part of a turn, and its end too */
		for (volatile unsigned i = 0; i < n * 2654435761u % 65536; i++)
			;
	}
	return NULL;
}

/* Is what the guest sees a state that there was? */
static bool chain_is_one_moment(const struct chain *chain, uint8_t *const page[CHAIN])
{
	uint64_t seen[CHAIN], newest = 0;
	bool behind = false;

	for (unsigned i = 0; i < CHAIN; i++) {
		seen[i] = *(uint64_t *)page[i];
		newest = MAX(newest, seen[i]);
	}
	for (unsigned i = 0; i < CHAIN && newest; i++) {
		uint64_t n = seen[chain->order[newest % TURNS][i]];

		behind |= n != newest;
		if (n != newest - behind)
			return false;
	}
	return true;
}

static void what_a_sync_shows_was_true_at_one_moment(void **state)
{
	static uint8_t ram[CHAIN * G] __attribute__((aligned(0x1000)));
	static struct chain chain;
	struct fixture *fx = *state;
	uint8_t *page[CHAIN];
	unsigned seed = 1, changed = 0, whole = 0;
	bool wrong = false;
	pthread_t device;

	memset(ram, 0, sizeof(ram));
	atomic_store(&chain.stop, false);
	for (unsigned n = 0; n < TURNS; n++) {
		for (unsigned i = 0; i < CHAIN; i++) {
			unsigned j = (seed = seed * 1103515245 + 12345, seed >> 16) % (i + 1);

			chain.order[n][i] = chain.order[n][j];
			chain.order[n][j] = (uint8_t)i;
		}
	}
	for (unsigned i = 0; i < CHAIN; i++) {
		struct frame *frame = frame_of(fx, i, 0, ring);

		page[i] = ram + i * G;
		frame->slot[0] = slot_of(&fx->table, page[i], SLOT_RIGHTS);
		chain.ring[i] = (uint64_t *)frame->page;
	}
	assert_int_equal(pthread_create(&device, NULL, chain_device, &chain), 0);
	for (unsigned n = 0; n < TIMES(4000) && changed < TIMES(1000) && !wrong; n++) {
		uint64_t unstable = fx->stats.unstable, bytes = fx->stats.bytes_to_guest;

		sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
		changed += fx->stats.bytes_to_guest != bytes;
		if (fx->stats.unstable == unstable) {
			wrong |= !chain_is_one_moment(&chain, page);
			whole += fx->stats.bytes_to_guest != bytes;
		}
	}
	atomic_store(&chain.stop, true);
	pthread_join(device, NULL);
	assert_false(wrong);
	/* Where each access is watched, the device may never have paused for long enough. */
	if (TIMES(50) == 50)
		assert_true(whole > 0);
}

/*
 * The same with a device that writes at the worst moment: when a sync is about to read a page, once
 * or the time after. Reading it raises a signal, and in its handler the device acts.
 */
struct trap {
	uint8_t *page;	   /* that is about to be read; NULL: the end */
	uint8_t *write[2]; /* then the device adds 1 here and there; NULL: nothing */
};

static const struct trap *trap;

static void set_trap(void)
{
	if (trap->page)
		assert_int_equal(mprotect(trap->page, H, PROT_NONE), 0);
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	const struct trap *now = trap;

	(void)context;
	if (!now->page || (uintptr_t)info->si_addr - (uintptr_t)now->page >= H) {
		signal(sig, SIG_DFL); /* not ours */
		return;
	}
	mprotect(now->page, H, PROT_READ | PROT_WRITE);
	for (unsigned i = 0; i < 2; i++)
		if (now->write[i])
			++*now->write[i];
	trap++;
	if (trap->page)
		mprotect(trap->page, H, PROT_NONE);
}

static void sync_with_traps(struct fixture *fx, const struct trap *traps)
{
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, before;

	trap = traps;
	sigaction(SIGSEGV, &action, &before);
	set_trap();
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	sigaction(SIGSEGV, &before, NULL);
	assert_null(trap->page); /* the device has had all its turns */
}

static void an_effect_found_is_not_shown_without_a_cause_read_before_it(void **state)
{
	struct fixture *fx = *state;
	struct frame *a = frame_of(fx, 1, 0, ring), *b = frame_of(fx, 2, 1, ring);
	const struct trap traps[] = {
		{b->page, {a->page, b->page}}, /* a has just been found clean */
		{0},
	};

	sync_with_traps(fx, traps);
	assert_int_equal(guest[G], 1);
	assert_int_equal(guest[0], 1);
}

static void an_effect_found_the_second_time_is_not_shown_without_a_cause_behind_it(void **state)
{
	struct fixture *fx = *state;
	struct frame *a = frame_of(fx, 1, 0, ring), *b = frame_of(fx, 2, 1, ring);
	struct frame *c = frame_of(fx, 3, 2, ring);
	const struct trap traps[] = {
		{b->page, {b->page}},	       /* the last that changed is b, c is clean */
		{a->page, {c->page, a->page}}, /* the second look begins */
		{0},
	};

	sync_with_traps(fx, traps);
	assert_int_equal(guest[G], 1);
	assert_int_equal(guest[0], 1);
	assert_int_equal(guest[2 * G], 1);
}

static void what_comes_behind_the_last_change_may_wait_for_the_next_sync(void **state)
{
	struct fixture *fx = *state;
	struct frame *a = frame_of(fx, 1, 0, ring), *b = frame_of(fx, 2, 1, ring);
	struct frame *c = frame_of(fx, 3, 2, ring);
	const struct trap traps[] = {
		{c->page, {a->page}}, /* b has been read, c not yet */
		{0},
	};

	b->page[0] = 1;
	sync_with_traps(fx, traps);
	assert_int_equal(guest[G], 1);
	sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
	assert_int_equal(guest[0], 1);
}

static void a_ring_that_changed_is_looked_at_first_from_then_on(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame[CHAIN];

	for (unsigned i = 0; i < CHAIN; i++)
		frame[i] = frame_of(fx, i, 0, ring);
	for (unsigned i = 0; i < CHAIN; i += 13) {
		frame[i]->page[1]++;
		sync_now(fx, SYNC_FOR_CPU, SYNC_RINGS);
		assert_ptr_equal(frame_at(&fx->table, fx->table.rings.v[0]), frame[i]);
	}
	for (unsigned i = 0; i < CHAIN; i++)
		assert_ptr_equal(frame_at(&fx->table, fx->table.rings.v[frame[i]->pos]), frame[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(only_changed_bytes_travel, setup, teardown),
		cmocka_unit_test(zeroing_leaves_nothing_and_takes_no_more),
		cmocka_unit_test_setup_teardown(every_word_of_a_slot_arrives_whatever_its_rights,
						setup, teardown),
		cmocka_unit_test_setup_teardown(every_bit_of_every_byte_travels, setup, teardown),
		cmocka_unit_test_setup_teardown(
			what_the_cpu_changes_in_a_read_only_slot_reaches_the_device_at_its_sync_point,
			setup, teardown),
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
		cmocka_unit_test(collecting_moves_exactly_the_bytes_that_changed),
		cmocka_unit_test_setup_teardown(what_a_sync_shows_was_true_at_one_moment, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			an_effect_found_is_not_shown_without_a_cause_read_before_it, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			an_effect_found_the_second_time_is_not_shown_without_a_cause_behind_it,
			setup, teardown),
		cmocka_unit_test_setup_teardown(
			what_comes_behind_the_last_change_may_wait_for_the_next_sync, setup,
			teardown),
		cmocka_unit_test_setup_teardown(a_ring_that_changed_is_looked_at_first_from_then_on,
						setup, teardown),
		cmocka_unit_test(on_the_way_to_bounce_each_byte_goes_where_it_belongs),
		cmocka_unit_test(on_the_way_to_direct_each_byte_goes_where_it_belongs),
		cmocka_unit_test(words_that_changed_whole_and_in_part_all_arrive),
		cmocka_unit_test(a_read_only_slot_follows_the_guest_through_a_class_change),
		cmocka_unit_test_setup_teardown(no_byte_is_lost_while_a_frame_changes_its_class,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_neighbours_concurrent_write_is_never_undone,
						setup, teardown),
		cmocka_unit_test(catching_up_never_undoes_a_concurrent_write),
		cmocka_unit_test_setup_teardown(no_entry_is_torn_or_early, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
