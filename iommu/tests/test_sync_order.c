/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens between two of a copier's steps, judged without luck: a page is protected, so that
 * the copier traps when it comes there, and the handler plays the device or the CPU at that very
 * moment.
 */
#include "iommu/tests/check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommu/pool.h"
#include "iommu/sync.h"

#define PAGES	 4u /* host pages in a slot */
#define NR_SLOTS 20u

struct fixture {
	size_t page, slot; /* bytes */
	struct frame_table table;
	struct pool *pool;
	struct sync_scratch *scratch;
	struct mediator_stats stats;
	uint8_t *guest; /* NR_SLOTS */
};

/* What the handler knows. With two pages one of them is protected at a time, by turns. */
static struct {
	size_t page;
	uint8_t *watched[2];
	void (*step_in)(void);
	unsigned times;
	struct sigaction before;
	/* for step_in */
	uint64_t *entry, *flag;
	uint64_t nr;
	uint8_t *byte;
} trap;

static void trapped(int sig, siginfo_t *info, void *ctx)
{
	uint8_t *at = (uint8_t *)((uintptr_t)info->si_addr & ~(uintptr_t)(trap.page - 1));
	uint8_t *other = at == trap.watched[0] ? trap.watched[1] : trap.watched[0];

	(void)ctx;
	if (at != trap.watched[0] && at != trap.watched[1]) {
		signal(sig, SIG_DFL); /* an error of its own */
		return;
	}
	mprotect(at, trap.page, PROT_READ | PROT_WRITE);
	if (other)
		mprotect(other, trap.page, PROT_READ | PROT_WRITE);
	trap.times++;
	trap.step_in();
	if (other)
		mprotect(other, trap.page, PROT_NONE);
}

/* In the test itself: cmocka has a handler of its own before it. */
static void set_trap(void (*step_in)(void), uint8_t *first, uint8_t *second, int prot)
{
	struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};

	trap.step_in = step_in;
	trap.watched[0] = first;
	trap.watched[1] = second;
	assert_int_equal(sigaction(SIGSEGV, &action, &trap.before), 0);
	assert_int_equal(mprotect(first, trap.page, prot), 0);
}

static void end_trap(void)
{
	for (unsigned i = 0; i < 2; i++) {
		if (trap.watched[i])
			mprotect(trap.watched[i], trap.page, PROT_READ | PROT_WRITE);
	}
	sigaction(SIGSEGV, &trap.before, NULL);
}

static void write_entry(void)
{
	trap.nr++;
	__atomic_store_n(trap.entry, trap.nr, __ATOMIC_RELEASE);
	__atomic_store_n(trap.flag, trap.nr, __ATOMIC_RELEASE);
}

static void write_byte(void)
{
	__atomic_store_n(trap.byte, 0xdd, __ATOMIC_RELEASE);
}

static int setup_lines(void **state, size_t nr_slots_of_lines)
{
	static struct fixture fx;

	memset(&fx, 0, sizeof(fx));
	memset(&trap, 0, sizeof(trap));
	fx.page = (size_t)sysconf(_SC_PAGESIZE);
	trap.page = fx.page;
	fx.slot = PAGES * fx.page;
	assert_int_equal(pool_create(fx.slot, 2 * NR_SLOTS * fx.slot, &fx.pool), 0);
	assert_int_equal(sync_scratch_create(nr_slots_of_lines * fx.slot / 64, &fx.scratch), 0);
	fx.guest = aligned_alloc(fx.slot, NR_SLOTS * fx.slot);
	memset(fx.guest, 0, NR_SLOTS * fx.slot);
	assert_int_equal(frame_table_init(&fx.table, 1, fx.guest), 0);
	*state = &fx;
	return 0;
}

static int setup(void **state)
{
	return setup_lines(state, 2);
}

static int setup_tiny_scratch(void **state)
{
	return setup_lines(state, 1);
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	frame_table_fini(&fx->table);
	pool_destroy(fx->pool);
	sync_scratch_destroy(fx->scratch);
	free(fx->guest);
	return 0;
}

/* A frame of one read-write slot. */
static struct frame *ring_of(struct fixture *fx, unsigned n)
{
	struct frame *frame;
	uint8_t *guest = fx->guest + n * fx->slot;
	size_t got;
	uint8_t *page = pool_get(fx->pool, 1, &got);

	frame = frame_add(&fx->table, n, FRAME_BOUNCE, page);
	frame->slot[0] = slot_of(&fx->table, guest, MAP_READ | MAP_WRITE);
	sync_fill(page, pool_twin(fx->pool, page), guest, fx->slot, &fx->stats);
	frame_relist(&fx->table, frame);
	return frame;
}

static void sync_for_cpu(struct fixture *fx)
{
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_CPU, SYNC_RINGS, NULL, fx->scratch,
		    &fx->stats);
}

/* ---- the order of reading ---- */

static uint64_t *entry_in(const uint8_t *slot)
{
	return (uint64_t *)(uintptr_t)slot;
}

static uint64_t *flag_in(const struct fixture *fx, const uint8_t *slot)
{
	return (uint64_t *)(uintptr_t)(slot + fx->slot) - 1;
}

/* One side writes an entry at the start of a slot and its flag at the end, again each time the
 * copier comes to one of the two: it never pauses. A first difference is there already. */
static void never_pause(const struct fixture *fx, uint8_t *slot)
{
	trap.entry = entry_in(slot);
	trap.flag = flag_in(fx, slot);
	*trap.entry = *trap.flag = trap.nr = 1;
	set_trap(write_entry, slot + fx->slot - fx->page, slot, PROT_NONE);
}

static void check_entry(const struct fixture *fx, const uint8_t *slot)
{
	assert_true(trap.times >= 2);
	assert_true(*flag_in(fx, slot) > 0);
	assert_true(*entry_in(slot) >= *flag_in(fx, slot));
}

static void a_flag_is_read_before_its_entry_though_the_device_never_pauses(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	never_pause(fx, frame->page);
	sync_for_cpu(fx);
	end_trap();
	check_entry(fx, fx->guest);
	/* it was taken as it is, and that is to be seen */
	assert_int_equal(fx->stats.unstable, 1);
}

static void a_flag_is_read_before_its_entry_though_the_scratch_is_full(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0), *other = ring_of(fx, 1);

	memset(other->page, 0xff, fx->slot);
	never_pause(fx, frame->page);
	sync_for_cpu(fx);
	end_trap();
	check_entry(fx, fx->guest);
	assert_true(fx->stats.unstable > 0);
}

static void a_class_change_reads_a_flag_before_its_entry(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	never_pause(fx, fx->guest);
	sync_to_bounce(frame->page, pool_twin(fx->pool, frame->page), fx->guest, fx->slot,
		       &fx->stats);
	end_trap();
	check_entry(fx, frame->page);
}

/* Payload is looked at once only, but in the same order. */
static void a_flag_in_payload_is_read_before_its_entry(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	frame->slot[0] &= ~(frame_slot)MAP_READ;
	frame_relist(&fx->table, frame);
	never_pause(fx, frame->page);
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_CPU, SYNC_FULL, NULL, fx->scratch,
		    &fx->stats);
	end_trap();
	check_entry(fx, fx->guest);
}

static void a_flag_in_a_read_only_slot_is_read_before_its_entry(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	frame->slot[0] &= ~(frame_slot)MAP_WRITE;
	frame_relist(&fx->table, frame);
	never_pause(fx, fx->guest);
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_DEVICE, SYNC_FULL, NULL, fx->scratch,
		    &fx->stats);
	end_trap();
	check_entry(fx, frame->page);
}

/* Two rings; the device writes first one, then the other, when the copier is between the two. */
static void check_snapshot(struct fixture *fx, unsigned first, unsigned second)
{
	const struct frame *frame[] = {ring_of(fx, 0), ring_of(fx, 1)};
	const uint64_t *entry = entry_in(fx->guest + first * fx->slot);
	const uint64_t *flag = entry_in(fx->guest + second * fx->slot);

	trap.entry = entry_in(frame[first]->page);
	trap.flag = entry_in(frame[second]->page);
	set_trap(write_entry, frame[second]->page, NULL, PROT_NONE);
	sync_for_cpu(fx);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_true(*entry >= *flag);
	assert_int_equal(fx->stats.unstable, 0);
	sync_for_cpu(fx);
	assert_true(*entry == 1 && *flag == 1);
}

static void several_rings_are_one_snapshot(void **state)
{
	check_snapshot(*state, 0, 1);
}

static void several_rings_are_one_snapshot_in_the_other_order_too(void **state)
{
	check_snapshot(*state, 1, 0);
}

static void a_ring_is_read_before_the_payload_it_tells_of(void **state)
{
	struct fixture *fx = *state;
	struct frame *ring = ring_of(fx, 0), *payload = ring_of(fx, 1);

	payload->slot[0] &= ~(frame_slot)MAP_READ;
	frame_relist(&fx->table, payload);
	trap.entry = entry_in(payload->page);
	trap.flag = entry_in(ring->page);
	set_trap(write_entry, ring->page, NULL, PROT_NONE);
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_CPU, SYNC_FULL, NULL, fx->scratch,
		    &fx->stats);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_true(*entry_in(fx->guest + fx->slot) >= *entry_in(fx->guest));
}

/* More has changed than fits, each of @nr slots as much as does; the device writes payload and its
 * entry again each time the copier comes to one of them. */
static void check_parts(struct fixture *fx, unsigned nr)
{
	struct frame *ring = ring_of(fx, 0), *payload = ring_of(fx, NR_SLOTS - 1);

	payload->slot[0] &= ~(frame_slot)MAP_READ;
	frame_relist(&fx->table, payload);
	for (unsigned i = 1; i <= nr; i++)
		memset(ring_of(fx, i)->page, (int)i, fx->slot);
	trap.entry = entry_in(payload->page);
	trap.flag = entry_in(ring->page);
	*trap.entry = *trap.flag = trap.nr = 1;
	set_trap(write_entry, payload->page, ring->page, PROT_NONE);
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_CPU, SYNC_FULL, NULL, fx->scratch,
		    &fx->stats);
	end_trap();
	assert_true(trap.times >= 2);
	assert_true(*entry_in(fx->guest) > 0);
	assert_true(*entry_in(fx->guest + (NR_SLOTS - 1) * fx->slot) >= *entry_in(fx->guest));
	for (unsigned i = 1; i <= nr; i++)
		assert_int_equal(*(fx->guest + i * fx->slot + fx->slot / 2), i);
}

static void a_ring_is_read_before_its_payload_though_the_scratch_is_full(void **state)
{
	check_parts(*state, 1);
}

static void a_ring_is_read_before_its_payload_though_the_scratch_is_full_many_times(void **state)
{
	check_parts(*state, NR_SLOTS - 2);
}

static void look_at_the_flag(void)
{
	trap.nr = *trap.flag;
}

static void check_order_of_writing(struct fixture *fx, unsigned rights)
{
	struct frame *frame = ring_of(fx, 0);

	frame->slot[0] = slot_of(&fx->table, fx->guest, rights);
	frame_relist(&fx->table, frame);
	*entry_in(frame->page) = 1;
	*flag_in(fx, frame->page) = 1;
	trap.flag = flag_in(fx, fx->guest);
	set_trap(look_at_the_flag, fx->guest, NULL, PROT_READ);
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_CPU, SYNC_FULL, NULL, fx->scratch,
		    &fx->stats);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_int_equal(trap.nr, 0);
	assert_int_equal(*flag_in(fx, fx->guest), 1);
}

static void an_entry_is_written_before_its_flag(void **state)
{
	check_order_of_writing(*state, MAP_READ | MAP_WRITE);
}

static void an_entry_in_payload_is_written_before_its_flag(void **state)
{
	check_order_of_writing(*state, MAP_WRITE);
}

/* A driver may be told by one ring of what is in another slot that both sides write. */
static void what_was_mapped_first_is_written_last(void **state)
{
	struct fixture *fx = *state;
	struct frame *ring, *data;

	(void)ring_of(fx, 0); /* changes never, so that the others have to move */
	ring = ring_of(fx, 1);
	(void)ring_of(fx, 2);
	data = ring_of(fx, 3);
	for (uint64_t n = 1; n <= 3; n++) {
		*entry_in(data->page) = n;
		*entry_in(ring->page) = n;
		trap.flag = entry_in(fx->guest + fx->slot);
		set_trap(look_at_the_flag, fx->guest + 3 * fx->slot, NULL, PROT_READ);
		sync_for_cpu(fx);
		end_trap();
		assert_int_equal(trap.times, n);
		assert_int_equal(trap.nr, n - 1);
		assert_int_equal(*trap.flag, n);
	}
}

static void what_changes_by_itself_is_written_last(void **state)
{
	struct fixture *fx = *state;
	struct frame *data = ring_of(fx, 0), *ring = ring_of(fx, 1);

	*entry_in(ring->page) = 1;
	sync_for_cpu(fx);
	*entry_in(data->page) = 2;
	*entry_in(ring->page) = 2;
	trap.flag = entry_in(fx->guest + fx->slot);
	set_trap(look_at_the_flag, fx->guest, NULL, PROT_READ);
	sync_for_cpu(fx);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_int_equal(trap.nr, 1);
	assert_int_equal(*trap.flag, 2);
}

/* ---- between the look and the store ---- */

static void a_neighbours_byte_written_before_the_store_stays(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	frame->page[0] = 1;
	trap.byte = fx->guest + 1; /* the CPU's */
	set_trap(write_byte, fx->guest, NULL, PROT_READ);
	sync_for_cpu(fx);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_int_equal(fx->guest[0], 1);
	assert_int_equal(fx->guest[1], 0xdd);
}

/* Byte @at of the side that counts now is written by its owner when byte 0 of the other is about to
 * be brought there. */
static void check_move(struct fixture *fx, bool to_bounce, unsigned at, uint8_t first_then)
{
	struct frame *frame = ring_of(fx, 0);
	uint8_t *twin = pool_twin(fx->pool, frame->page);
	uint8_t *from = to_bounce ? fx->guest : frame->page;
	uint8_t *to = to_bounce ? frame->page : fx->guest;

	from[0] = 1;
	trap.byte = to + at;
	set_trap(write_byte, to, NULL, PROT_READ);
	if (to_bounce)
		sync_to_bounce(frame->page, twin, fx->guest, fx->slot, &fx->stats);
	else
		sync_to_direct(fx->guest, twin, frame->page, fx->slot, &fx->stats);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_int_equal(to[at], 0xdd);
	assert_int_equal(to[0], first_then);
}

static void a_class_change_leaves_a_byte_that_was_written_before_the_store(void **state)
{
	check_move(*state, true, 0, 0xdd);
}

static void a_class_change_leaves_a_neighbour_that_was_written_before_the_store(void **state)
{
	check_move(*state, true, 1, 1);
}

static void a_change_back_leaves_a_byte_that_was_written_before_the_store(void **state)
{
	check_move(*state, false, 0, 0xdd);
}

static void a_change_back_leaves_a_neighbour_that_was_written_before_the_store(void **state)
{
	check_move(*state, false, 1, 1);
}

static void what_the_cpu_writes_while_a_slot_is_filled_is_not_taken_for_agreed(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);
	uint8_t *twin = pool_twin(fx->pool, frame->page);

	/* in the middle: a copy may look at both ends before it writes anything */
	trap.byte = fx->guest + fx->slot / 2;
	set_trap(write_byte, twin, NULL, PROT_NONE);
	sync_fill(frame->page, twin, fx->guest, fx->slot, &fx->stats);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_memory_equal(frame->page, twin, fx->slot);
	/* so it is brought at the next sync point */
	sync_frames(&fx->table, fx->pool, fx->slot, SYNC_FOR_DEVICE, SYNC_RINGS, NULL, fx->scratch,
		    &fx->stats);
	assert_int_equal(frame->page[fx->slot / 2], 0xdd);
}

/* ---- vCPUs that are held ---- */

static struct {
	unsigned taken, released;
	bool held;
} gate;

static void gate_take(void *ctx)
{
	(void)ctx;
	gate.taken++;
	gate.held = true;
}

static void gate_release(void *ctx)
{
	(void)ctx;
	gate.released++;
	gate.held = false;
}

static const struct sync_hold hold = {gate_take, gate_release, NULL};

static void sync_held(struct fixture *fx, enum sync_dir dir, enum sync_mode mode)
{
	gate.taken = gate.released = 0;
	sync_frames(&fx->table, fx->pool, fx->slot, dir, mode, &hold, fx->scratch, &fx->stats);
	assert_int_equal(gate.taken, gate.released);
	assert_false(gate.held);
}

static void note_hold(void)
{
	trap.nr += gate.held;
}

/* Each store into the guest's ring is one that no vCPU can look between. */
static void many_words_of_a_ring_change_while_vcpus_are_held(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	/* two words of one line; of two lines; of two pages */
	for (unsigned round = 0; round < 3; round++) {
		static const size_t at[] = {8, 64, 0};
		size_t second = at[round] ? at[round] : fx->page;
		uint64_t holds = fx->stats.holds;

		trap.times = trap.nr = 0;
		*entry_in(frame->page) += 1;
		*entry_in(frame->page + second) += 1;
		set_trap(note_hold, fx->guest, second == fx->page ? fx->guest + fx->page : NULL,
			 PROT_READ);
		sync_held(fx, SYNC_FOR_CPU, SYNC_RINGS);
		end_trap();
		assert_true(trap.times >= 1);
		assert_int_equal(trap.nr, trap.times);
		assert_int_equal(gate.taken, 1);
		assert_int_equal(fx->stats.holds, holds + 1);
		assert_int_equal(*entry_in(fx->guest), round + 1);
		assert_int_equal(*entry_in(fx->guest + second), 1);
	}
}

static void nobody_is_held_for_nothing(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0), *payload = ring_of(fx, 1);

	payload->slot[0] &= ~(frame_slot)MAP_READ;
	frame_relist(&fx->table, payload);
	/* nothing, one word, payload, and what goes to the device */
	sync_held(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(gate.taken, 0);
	*entry_in(frame->page) = 1;
	sync_held(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(gate.taken, 0);
	memset(payload->page, 0x77, fx->slot);
	sync_held(fx, SYNC_FOR_CPU, SYNC_FULL);
	assert_int_equal(gate.taken, 0);
	memset(fx->guest, 0x55, fx->slot);
	sync_held(fx, SYNC_FOR_DEVICE, SYNC_FULL);
	assert_int_equal(gate.taken, 0);
	assert_int_equal(fx->stats.holds, 0);
	/* and while they are, they do not wait for payload to be copied */
	memset(payload->page, 0x88, fx->slot);
	memset(frame->page, 0x88, fx->slot);
	set_trap(note_hold, payload->page, NULL, PROT_NONE);
	sync_held(fx, SYNC_FOR_CPU, SYNC_FULL);
	end_trap();
	assert_int_equal(trap.times, 1);
	assert_int_equal(trap.nr, 0);
	assert_int_equal(gate.taken, 1);
}

#define PAUSE_AFTER 200 /* entries: more than COLLECT_LIMIT looks */

static void write_entry_until_the_ring_is_full(void)
{
	if (trap.nr == PAUSE_AFTER)
		return;
	trap.nr++;
	__atomic_store_n(trap.flag, trap.nr, __ATOMIC_RELEASE); /* the data: last in memory */
	__atomic_store_n(trap.entry, trap.nr, __ATOMIC_RELEASE);
}

/* The valid flag stands first: only a snapshot is right, and the device pauses at last. */
static void a_snapshot_is_waited_for_where_nobody_knows_the_flag(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	trap.entry = entry_in(frame->page);
	trap.flag = flag_in(fx, frame->page);
	*trap.flag = *trap.entry = trap.nr = 1;
	set_trap(write_entry_until_the_ring_is_full, frame->page, frame->page + fx->slot - fx->page,
		 PROT_NONE);
	sync_held(fx, SYNC_FOR_CPU, SYNC_RINGS);
	end_trap();
	assert_int_equal(fx->stats.unstable, 0);
	assert_int_equal(*entry_in(fx->guest), *flag_in(fx, fx->guest));
	assert_int_equal(*entry_in(fx->guest), PAUSE_AFTER);
}

/* But not for ever. */
static void a_snapshot_is_not_waited_for_for_ever(void **state)
{
	struct fixture *fx = *state;
	struct frame *frame = ring_of(fx, 0);

	never_pause(fx, frame->page);
	sync_held(fx, SYNC_FOR_CPU, SYNC_RINGS);
	end_trap();
	check_entry(fx, fx->guest);
	assert_int_equal(fx->stats.unstable, 1);
	assert_int_equal(gate.taken, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_flag_is_read_before_its_entry_though_the_device_never_pauses, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			a_flag_is_read_before_its_entry_though_the_scratch_is_full,
			setup_tiny_scratch, teardown),
		cmocka_unit_test_setup_teardown(a_flag_in_payload_is_read_before_its_entry, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_flag_in_a_read_only_slot_is_read_before_its_entry,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_class_change_reads_a_flag_before_its_entry, setup,
						teardown),
		cmocka_unit_test_setup_teardown(several_rings_are_one_snapshot, setup, teardown),
		cmocka_unit_test_setup_teardown(
			several_rings_are_one_snapshot_in_the_other_order_too, setup, teardown),
		cmocka_unit_test_setup_teardown(a_neighbours_byte_written_before_the_store_stays,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_class_change_leaves_a_byte_that_was_written_before_the_store, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			a_class_change_leaves_a_neighbour_that_was_written_before_the_store, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			a_change_back_leaves_a_byte_that_was_written_before_the_store, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			a_change_back_leaves_a_neighbour_that_was_written_before_the_store, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			what_the_cpu_writes_while_a_slot_is_filled_is_not_taken_for_agreed, setup,
			teardown),
		cmocka_unit_test_setup_teardown(a_ring_is_read_before_the_payload_it_tells_of,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_ring_is_read_before_its_payload_though_the_scratch_is_full,
			setup_tiny_scratch, teardown),
		cmocka_unit_test_setup_teardown(
			a_ring_is_read_before_its_payload_though_the_scratch_is_full_many_times,
			setup_tiny_scratch, teardown),
		cmocka_unit_test_setup_teardown(what_was_mapped_first_is_written_last, setup,
						teardown),
		cmocka_unit_test_setup_teardown(what_changes_by_itself_is_written_last, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_entry_in_payload_is_written_before_its_flag,
						setup, teardown),
		cmocka_unit_test_setup_teardown(an_entry_is_written_before_its_flag, setup,
						teardown),
		cmocka_unit_test_setup_teardown(many_words_of_a_ring_change_while_vcpus_are_held,
						setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_is_held_for_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_snapshot_is_waited_for_where_nobody_knows_the_flag, setup, teardown),
		cmocka_unit_test_setup_teardown(a_snapshot_is_not_waited_for_for_ever, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
