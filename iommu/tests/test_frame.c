/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include "iommu/base.h"
#include "iommu/domain.h"
#include "iommu/frame.h"

static uint8_t guest[0x10000] __attribute__((aligned(0x1000)));

static int four_slots(void **state)
{
	static struct frame_table table;

	assert_int_equal(frame_table_init(&table, 4, guest), 0);
	*state = &table;
	return 0;
}

static int fini(void **state)
{
	frame_table_fini(*state);
	return 0;
}

static void a_frame_of_four_slots_takes_64_bytes_with_all_that_leads_to_it(void **state)
{
	struct frame_table *table = *state;

	for (uint64_t i = 0; i < 200000; i++) {
		assert_non_null(frame_add(table, i * i, FRAME_BOUNCE, guest));
		if (i >= 1000)
			assert_true(frame_table_bytes(table) <= 64 * table->nr_frames);
	}
	while (table->nr_frames)
		frame_del(table, frame_walk(table, NULL));
	assert_int_equal(table->nr_slabs, 0);
	assert_non_null(frame_add(table, 1, FRAME_BOUNCE, guest));
	assert_int_equal(table->nr_slabs, 1);
}

static void frames_are_found_after_the_table_has_grown(void **state)
{
	struct frame_table *table = *state;

	for (uint64_t i = 0; i < 5000; i++)
		assert_non_null(frame_add(table, i * i, FRAME_BOUNCE, guest));
	for (uint64_t i = 0; i < 5000; i += 2)
		frame_del(table, frame_find(table, i * i));
	assert_int_equal(table->nr_frames, 2500);
	assert_int_equal(table->others.nr, 2500);
	for (uint64_t i = 0; i < 5000; i++) {
		struct frame *frame = frame_find(table, i * i);

		assert_int_equal(frame != NULL, i & 1);
		if (frame)
			assert_ptr_equal(frame_at(table, table->others.v[frame->pos]), frame);
	}
	assert_null(frame_find(table, 3));
}

/* A guest that maps and unmaps for ever beside one mapping that stays. */
static void frames_that_went_come_back_empty(void **state)
{
	enum { NR = 300 };
	struct frame_table *table = *state;
	size_t bytes = 0;

	assert_non_null(frame_add(table, NR, FRAME_WINDOW, guest));
	for (unsigned n = 0; n < 20; n++) {
		for (uint64_t i = 0; i < NR; i++) {
			struct frame *frame = frame_add(table, i, FRAME_WINDOW, guest);

			assert_non_null(frame);
			for (unsigned s = 0; s < 4; s++) {
				assert_int_equal(frame->slot[s], 0);
				frame->slot[s] = slot_of(table, guest, 3);
			}
			frame->live = 4;
		}
		if (n)
			assert_int_equal(frame_table_bytes(table), bytes);
		bytes = frame_table_bytes(table);
		for (uint64_t i = 0; i < NR; i++)
			frame_del(table, frame_find(table, i));
	}
	assert_int_equal(table->nr_frames, 1);
}

static void a_slot_names_any_page_within_reach(void **state)
{
	static const uint64_t offsets[] = {0,		0x1000,	       0xfffff000,
					   0x100000000, 0x12345678000, SLOT_REACH - 0x1000};
	struct frame_table table = {.base = (uint8_t *)(uintptr_t)0x7000};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(offsets); i++) {
		uint8_t *hva = table.base + offsets[i];

		for (unsigned rights = 1; rights <= SLOT_RIGHTS; rights++) {
			frame_slot slot = slot_of(&table, hva, rights);

			assert_ptr_equal(slot_hva(&table, slot), hva);
			assert_ptr_equal(slot_hva(&table, slot | SLOT_DYING), hva);
			assert_int_equal(slot & SLOT_RIGHTS, rights);
		}
	}
}

static void a_frame_with_a_read_write_slot_stands_in_rings(void **state)
{
	struct frame_table *table = *state;
	struct frame *frame = frame_add(table, 1, FRAME_BOUNCE, guest);

	frame->slot[2] = slot_of(table, guest, 1);
	frame_relist(table, frame);
	assert_int_equal(table->rings.nr, 0);
	assert_int_equal(table->others.nr, 1);
	frame->slot[3] = slot_of(table, guest, 3);
	frame_relist(table, frame);
	assert_int_equal(table->rings.nr, 1);
	assert_int_equal(table->others.nr, 0);
	frame->slot[3] = 0;
	frame_relist(table, frame);
	assert_int_equal(table->rings.nr, 0);
	assert_int_equal(table->others.nr, 1);
	assert_ptr_equal(slot_hva(table, frame->slot[2]), guest);
}

static void an_exposed_frame_stands_in_no_list_until_it_bounces(void **state)
{
	struct frame_table *table = *state;
	struct frame *frame = frame_add(table, 7, FRAME_EXPOSED, guest);

	frame->slot[0] = slot_of(table, guest, 3);
	frame_relist(table, frame);
	assert_int_equal(table->rings.nr + table->others.nr, 0);
	frame_set_class(table, frame, FRAME_BOUNCE, guest + 0x4000);
	frame_relist(table, frame);
	assert_int_equal(table->rings.nr, 1);
	assert_int_equal(table->others.nr, 0);
	assert_ptr_equal(frame->page, guest + 0x4000);
}

static void a_frame_stands_in_a_list_while_it_is_bounce_and_no_longer(void **state)
{
	struct frame_table *table = *state;
	struct frame *frame[3];

	for (unsigned rights = 1; rights <= 3; rights += 2) { /* an other, a ring */
		struct frame_list *list = rights == 3 ? &table->rings : &table->others;

		for (uint64_t i = 0; i < 3; i++) {
			frame[i] = frame_add(table, i, FRAME_EXPOSED, guest);
			frame[i]->slot[0] = slot_of(table, guest, rights);
			frame_set_class(table, frame[i], FRAME_BOUNCE, guest);
			frame_relist(table, frame[i]);
			assert_int_equal(list->nr, i + 1);
		}
		/* there and back */
		frame_set_class(table, frame[1], FRAME_WINDOW, guest);
		assert_int_equal(list->nr, 2);
		frame_relist(table, frame[1]);
		assert_int_equal(list->nr, 2);
		frame_set_class(table, frame[1], FRAME_BOUNCE, guest);
		frame_relist(table, frame[1]);
		assert_int_equal(list->nr, 3);
		/* one that is in no list takes nobody out of it */
		frame_set_class(table, frame[0], FRAME_WINDOW, guest);
		frame_del(table, frame[0]);
		assert_int_equal(list->nr, 2);
		for (unsigned i = 1; i < 3; i++)
			assert_ptr_equal(frame_at(table, list->v[frame[i]->pos]), frame[i]);
		frame_del(table, frame[1]);
		frame_del(table, frame[2]);
		assert_int_equal(list->nr, 0);
	}
}

static void frames_used_last_stand_in_front(void **state)
{
	enum { NR = 100 };
	struct frame_table *table = *state;
	struct frame *frame[NR];

	for (unsigned i = 0; i < NR; i++) {
		frame[i] = frame_add(table, i, FRAME_BOUNCE, guest);
		frame[i]->slot[0] = slot_of(table, guest, 3);
		frame_relist(table, frame[i]);
	}
	for (unsigned n = 1; n <= 300; n++) {
		frame_to_front(table, frame[n * 37 % NR]);
		/* the last ones, in order of use */
		for (unsigned back = 0; back < MIN(n, 20u); back++)
			assert_ptr_equal(frame_at(table, table->rings.v[back]),
					 frame[(n - back) * 37 % NR]);
		assert_int_equal(table->rings.nr, NR);
		for (unsigned i = 0; i < NR; i++)
			assert_int_equal(table->rings.v[frame[i]->pos], frame[i]->id);
	}
}

static void every_frame_has_a_place_in_either_list(void **state)
{
	struct frame_table *table = *state;

	for (uint64_t i = 0; i < 100; i++) {
		struct frame *frame = frame_add(table, i, FRAME_EXPOSED, guest);

		frame->slot[0] = slot_of(table, guest, i % 2 ? 3 : 1);
	}
	/* nothing of this may fail */
	for (uint64_t i = 0; i < 100; i++)
		frame_set_class(table, frame_find(table, i), FRAME_BOUNCE, guest);
	for (uint64_t i = 0; i < 100; i++) {
		frame_find(table, i)->slot[0] = slot_of(table, guest, 3);
		frame_relist(table, frame_find(table, i));
	}
	assert_int_equal(table->rings.nr, 100);
	for (uint64_t i = 0; i < 100; i++) {
		frame_find(table, i)->slot[0] = slot_of(table, guest, 2);
		frame_relist(table, frame_find(table, i));
	}
	assert_int_equal(table->others.nr, 100);
}

static void a_queue_keeps_its_order_and_counts_the_frames_of_its_runs(void **state)
{
	static const unsigned drops[] = {3, 0, 5, 1, 4, 2}; /* inside, head, tail, ... */
	struct frame_table *table = *state;
	struct frame_queue queue = {0};
	struct frame *run[6];
	bool in[6];
	size_t nr = 0;

	for (unsigned i = 0; i < 6; i++) {
		run[i] = frame_add(table, i * 100, FRAME_PARKED, guest);
		run[i]->run = (i + 1) & 0xfff;
		frame_queue_push(&queue, run[i]);
		in[i] = true;
		nr += run[i]->run;
		assert_int_equal(queue.nr, nr);
	}
	for (unsigned d = 0; d < 6; d++) {
		const struct frame *at;

		frame_queue_drop(table, &queue, run[drops[d]]);
		in[drops[d]] = false;
		nr -= run[drops[d]]->run;
		assert_int_equal(queue.nr, nr);
		at = queue.head;
		for (unsigned i = 0; i < 6; i++) {
			if (!in[i])
				continue;
			assert_ptr_equal(at, run[i]);
			at = frame_queue_next(table, at);
		}
		assert_null(at);
	}
	assert_null(queue.head);
	assert_null(queue.tail);
	/* an empty one serves again */
	frame_queue_push(&queue, run[2]);
	assert_ptr_equal(queue.head, run[2]);
	assert_ptr_equal(queue.tail, run[2]);
	frame_queue_drop(table, &queue, run[2]);
}

static size_t longest_chain(const struct frame_table *table)
{
	size_t longest = 0;

	for (size_t b = 0; b < table->nr_buckets; b++) {
		size_t nr = 0;

		for (uint32_t id = table->bucket[b]; id; id = frame_at(table, id)->next)
			nr++;
		longest = nr > longest ? nr : longest;
	}
	return longest;
}

/* A guest chooses frames that share a bucket in a table without a salt. */
static void chosen_frames_share_no_bucket_of_a_table_with_a_salt(void **state)
{
	const uint64_t salts[] = {0, 0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0};
	size_t chain[ARRAY_SIZE(salts)];

	(void)state;
	for (unsigned n = 0; n < ARRAY_SIZE(salts); n++) {
		struct frame_table table;
		uint64_t index = 0;

		assert_int_equal(frame_table_init(&table, 4, NULL), 0);
		frame_table_salt(&table, salts[n]);
		for (unsigned i = 0; i < 500; i++) {
			while ((index * 0x9e3779b97f4a7c15) >> 32 & 0x1ff)
				index++;
			assert_non_null(frame_add(&table, index++, FRAME_BOUNCE, NULL));
		}
		chain[n] = longest_chain(&table);
		frame_table_fini(&table);
	}
	assert_int_equal(chain[0], 500);
	for (unsigned n = 1; n < ARRAY_SIZE(salts); n++)
		assert_true(chain[n] < 50);
}

static void the_table_of_a_domain_has_the_salt_of_its_mediator(void **state)
{
	struct mediator_stats stats = {0};
	struct domain_env env = {
		.granule = 0x1000, .frame_size = 0x4000, .ram_base = guest, .stats = &stats};
	struct domain *dom;
	uint64_t spread[2];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		env.salt = i * 0x243f6a8885a308d3;
		assert_int_equal(domain_create(&env, 1, false, &dom), 0);
		spread[i] = dom->frames.spread;
		domain_destroy(dom);
	}
	assert_int_not_equal(spread[0], spread[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_frame_stands_in_a_list_while_it_is_bounce_and_no_longer, four_slots,
			fini),
		cmocka_unit_test(the_table_of_a_domain_has_the_salt_of_its_mediator),
		cmocka_unit_test(a_slot_names_any_page_within_reach),
		cmocka_unit_test_setup_teardown(frames_that_went_come_back_empty, four_slots, fini),
		cmocka_unit_test(chosen_frames_share_no_bucket_of_a_table_with_a_salt),
		cmocka_unit_test_setup_teardown(
			a_frame_of_four_slots_takes_64_bytes_with_all_that_leads_to_it, four_slots,
			fini),
		cmocka_unit_test_setup_teardown(frames_are_found_after_the_table_has_grown,
						four_slots, fini),
		cmocka_unit_test_setup_teardown(a_frame_with_a_read_write_slot_stands_in_rings,
						four_slots, fini),
		cmocka_unit_test_setup_teardown(an_exposed_frame_stands_in_no_list_until_it_bounces,
						four_slots, fini),
		cmocka_unit_test_setup_teardown(frames_used_last_stand_in_front, four_slots, fini),
		cmocka_unit_test_setup_teardown(every_frame_has_a_place_in_either_list, four_slots,
						fini),
		cmocka_unit_test_setup_teardown(
			a_queue_keeps_its_order_and_counts_the_frames_of_its_runs, four_slots,
			fini),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
