/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator is shown of a domain: its stretches, in pieces of every size. */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#define FAKE_MAX 10000
#include "iommu/tests/fake_instance.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x40000000ull
#define RAM_LEN	 0x5000000ull
#define APERTURE 0xffffffffull
#define PAGES	 300
#define BARE	 0x02000000ull /* above the doorbell */

enum { RW = MAP_READ | MAP_WRITE, RO = MAP_READ, WO = MAP_WRITE };

struct fixture {
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct fake_instance inst[2];
	struct endpoint *ep[2];
};

static int make(void **state, uint64_t park_pages)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = G,
		.pool_limit = MAX(park_pages, (uint64_t)PAGES) * 2 * H,
		.max_domains = 8,
		.max_mappings = 100000,
		.park_limit = park_pages * 2 * H,
		.quarantine_frames = park_pages ? 8 : 0,
		.doorbell = {0x01030000, 0x0103ffff},
	};

	fx->ram = aligned_alloc(0x10000, RAM_LEN); /* what is in it does not matter */
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	for (unsigned i = 0; i < 2; i++) {
		const struct stream one = {.inst = &fx->inst[i].inst};
		const struct endpoint_cfg ep = {
			.id = 8 + i,
			.name = i ? "second" : "first",
			.streams = &one,
			.nr_streams = 1,
			.sync = i ? SYNC_FULL : SYNC_RINGS,
			.relaxed = !i,
		};

		fake_init(&fx->inst[i], H, 0, APERTURE);
		assert_int_equal(mediator_add_endpoint(fx->m, &ep, &fx->ep[i]), 0);
	}
	assert_int_equal(mediator_attach(fx->m, 1, 8, false), 0);
	*state = fx;
	return 0;
}

static int setup(void **state)
{
	return make(state, 0);
}

static int setup_parking(void **state)
{
	return make(state, 4);
}

static int setup_parking_much(void **state)
{
	return make(state, 10000);
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	mediator_destroy(fx->m);
	free(fx->ram);
	free(fx);
	return 0;
}

static void map(struct fixture *fx, uint64_t start, uint64_t len, uint64_t gpa, uint32_t flags)
{
	const struct mapping one = {start, start + len - 1, gpa, flags};

	assert_int_equal(mediator_map(fx->m, 1, &one), 0);
}

/* All of domain 1, with room for @max at a time. */
static unsigned look(struct fixture *fx, struct stretch *out, unsigned room, unsigned max)
{
	uint64_t at = 0;
	unsigned nr = 0;
	bool more = true;

	while (more) {
		int got;

		assert_true(nr + max <= room);
		got = mediator_look(fx->m, 1, &at, out + nr, max, &more);
		assert_true(got >= 0 && got <= (int)max);
		nr += (unsigned)got;
	}
	for (unsigned i = 1; i < nr; i++)
		assert_true(out[i].start > out[i - 1].last);
	return nr;
}

static void expect(const struct stretch *got, struct stretch want)
{
	assert_int_equal(got->start, want.start);
	assert_int_equal(got->last, want.last);
	assert_string_equal(stretch_name(got->class), stretch_name(want.class));
	assert_int_equal(got->iova, want.iova);
	assert_int_equal(got->gpa, want.gpa);
	assert_int_equal(got->slots, want.slots);
	assert_int_equal(got->rights, want.rights);
	assert_int_equal(got->mixed, want.mixed);
	assert_int_equal(got->linear, want.linear);
}

static void an_empty_domain_has_none_and_an_unknown_one_is_told(void **state)
{
	struct fixture *fx = *state;
	struct stretch out[4];
	uint64_t at = 0;
	bool more;

	assert_int_equal(look(fx, out, 4, 4), 0);
	assert_int_equal(mediator_look(fx->m, 2, &at, out, 4, &more), -ENOENT);
	assert_false(more);
}

/* One of each class that this instance has, and a body with a head and a tail. */
static void make_each(struct fixture *fx)
{
	/* head: slots 2, 3 of frame 4; body: frames 5 and 6; tail: slot 0 of frame 7 */
	map(fx, 4 * H + 2 * G, 2 * G + 2 * H + G, RAM + 4 * H + 2 * G, RO);
	/* joins frame 7, elsewhere and with other rights */
	map(fx, 7 * H + 3 * G, G, RAM + 99 * G, WO);
	/* relaxed, and most of its frame */
	map(fx, 9 * H, 3 * G, RAM + 9 * H, RO);
	/* a body that is bounced: another place in its frame */
	map(fx, 16 * H, 3 * H, RAM + 32 * H + G, RW);
	/* no rights */
	map(fx, 20 * H + G, 5 * G, RAM, 0);
	/* after it in a frame that it has begun */
	map(fx, 21 * H + 3 * G, G, RAM + 8 * G, RW);
}

static void check_each(const struct stretch *out, unsigned nr)
{
	assert_int_equal(nr, 7);
	expect(&out[0], (struct stretch){4 * H, 5 * H - 1, 4 * H + 2 * G, RAM + 4 * H + 2 * G, 2,
					 STRETCH_BOUNCE, RO, false, true});
	expect(&out[1], (struct stretch){5 * H, 7 * H - 1, 5 * H, RAM + 5 * H, 8, STRETCH_DIRECT,
					 RO, false, true});
	expect(&out[2], (struct stretch){7 * H, 8 * H - 1, 7 * H, RAM + 7 * H, 2, STRETCH_BOUNCE,
					 RW, true, false});
	expect(&out[3], (struct stretch){9 * H, 10 * H - 1, 9 * H, RAM + 9 * H, 3, STRETCH_EXPOSED,
					 RO, false, true});
	expect(&out[4], (struct stretch){16 * H, 19 * H - 1, 16 * H, RAM + 32 * H + G, 12,
					 STRETCH_BOUNCE, RW, false, true});
	expect(&out[5], (struct stretch){20 * H + G, 21 * H + 2 * G - 1, 20 * H + G, RAM, 5,
					 STRETCH_BARE, 0, false, true});
	expect(&out[6], (struct stretch){21 * H + 2 * G, 22 * H - 1, 21 * H + 3 * G, RAM + 8 * G, 1,
					 STRETCH_BOUNCE, RW, false, true});
}

static void each_class_is_told_with_what_backs_it(void **state)
{
	struct fixture *fx = *state;
	struct stretch out[16];

	make_each(fx);
	check_each(out, look(fx, out, 16, 9));
}

/* Neighbours come apart at the end of a piece at worst. */
static unsigned join(struct stretch *v, unsigned nr, bool fold)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nr; i++) {
		if (!n || !stretch_join(&v[n - 1], &v[i], fold))
			v[n++] = v[i];
	}
	return n;
}

static void pieces_of_any_size_make_the_same_whole(void **state)
{
	struct fixture *fx = *state;
	struct stretch out[64];

	make_each(fx);
	for (unsigned max = 1; max < 9; max++)
		check_each(out, join(out, look(fx, out, 64, max), false));
}

/* Scattered pages: each frame its own stretch, all of them one line when folded. */
static void a_thousand_frames_fold_into_one(void **state)
{
	struct fixture *fx = *state;
	static struct stretch out[400];
	unsigned nr;

	for (unsigned i = 0; i < 200 * 4; i++)
		map(fx, 0x100 * H + i * G, G, RAM + (i * 37 % 1000) * G + H, RO);
	nr = look(fx, out, 400, 16);
	assert_int_equal(nr, 200);
	assert_false(out[0].linear);
	assert_int_equal(join(out, nr, true), 1);
	assert_int_equal(out[0].start, 0x100 * H);
	assert_int_equal(out[0].last, 0x1c8 * H - 1);
	assert_int_equal(out[0].slots, 800);
}

/* Mappings as many as are looked at in some turns: none takes all of them. */
static void a_turn_is_bounded(void **state)
{
	struct fixture *fx = *state;
	unsigned turns = 0, slots = 0;
	struct stretch out[64];
	uint64_t at = 0;
	bool more = true;

	/* No rights: mappings without frames, and no two of them neighbours. */
	for (unsigned i = 0; i < 10000; i++)
		map(fx, BARE + i * 2 * G, G, RAM + i * 2 * G, 0);
	map(fx, 0x10000 * G, 16 * H, RAM, RO);
	while (more) {
		int got = mediator_look(fx->m, 1, &at, out, 64, &more);

		assert_true(got >= 0 && got <= 64);
		for (int i = 0; i < got; i++)
			slots += (unsigned)out[i].slots;
		turns++;
	}
	assert_int_equal(slots, 10000 + 64);
	assert_true(turns > 10000 / 64);
	/* Neighbours become one, however many there are: then it is not the room that bounds. */
	for (unsigned i = 0; i < 10000; i++)
		map(fx, BARE + (i * 2 + 1) * G, G, RAM + (i * 2 + 1) * G, 0);
	at = 0;
	more = true;
	assert_int_equal(mediator_look(fx->m, 1, &at, out, 64, &more), 1);
	assert_true(more && at > BARE + 1000 * G && at < BARE + 20000 * G);
}

static void parked_frames_are_told_between_the_others(void **state)
{
	struct fixture *fx = *state;
	struct stretch out[16];
	unsigned nr;

	map(fx, 2 * H, G, RAM + G, RO);
	map(fx, 3 * H, G, RAM + G, RO);
	map(fx, 9 * H, G, RAM + G, RO);
	map(fx, 5 * H, 4 * G, RAM + G, RO);
	assert_int_equal(mediator_unmap(fx->m, 1, 3 * H, 4 * H - 1), 0);
	assert_int_equal(mediator_unmap(fx->m, 1, 9 * H, 10 * H - 1), 0);
	for (unsigned max = 1; max < 5; max++) {
		nr = look(fx, out, 16, max);
		assert_int_equal(nr, 4);
		assert_int_equal(out[0].class, STRETCH_BOUNCE);
		expect(&out[1],
		       (struct stretch){3 * H, 4 * H - 1, 0, 0, 0, STRETCH_PARKED, 0, false, true});
		assert_int_equal(out[2].class, STRETCH_BOUNCE);
		assert_int_equal(out[3].class, STRETCH_PARKED);
	}
	/* More than may be parked: the oldest have been unmapped, and wait. */
	for (unsigned i = 0; i < 6; i++)
		map(fx, (20 + i) * H, G, RAM + G, RO);
	assert_int_equal(mediator_unmap(fx->m, 1, 20 * H, 26 * H - 1), 0);
	nr = look(fx, out, 16, 16);
	assert_true(nr >= 4 && out[1].class == STRETCH_QUARANTINED);
}

/* Longer queues than there are frames looked at in one go: each piece goes on all the same. */
static void however_much_is_parked_there_is_an_end(void **state)
{
	enum { NR = 9000 };
	struct fixture *fx = *state;
	struct stretch out[64];
	unsigned nr = 0, turns = 0;
	uint64_t at = 0, before;
	bool more = true;

	for (unsigned i = 0; i < NR; i++)
		map(fx, BARE + 2 * i * H, G, RAM + G, RO);
	assert_int_equal(mediator_unmap(fx->m, 1, BARE, BARE + 2 * NR * H - 1), 0);
	while (more) {
		int got;

		before = at;
		got = mediator_look(fx->m, 1, &at, out, 64, &more);
		assert_true(got >= 0 && (!more || at > before));
		for (int i = 0; i < got; i++)
			nr += out[i].class == STRETCH_PARKED;
		turns++;
	}
	assert_int_equal(nr, NR);
	assert_true(turns > 1);
}

static void the_top_of_the_space_is_no_end_to_run_over(void **state)
{
	struct fixture *fx = *state;
	struct stretch out[4];

	map(fx, APERTURE - H + 1, H, RAM, RO);
	assert_int_equal(look(fx, out, 4, 1), 1);
	assert_int_equal(out[0].last, APERTURE);
}

static void endpoints_and_domains_are_told(void **state)
{
	struct fixture *fx = *state;
	struct endpoint_info ep;
	struct domain_info dom;

	assert_true(mediator_get_endpoint(fx->m, 0, &ep));
	assert_int_equal(ep.id, 8);
	assert_string_equal(ep.name, "first");
	assert_true(ep.attached && ep.relaxed);
	assert_int_equal(ep.domain, 1);
	assert_int_equal(ep.sync, SYNC_RINGS);
	assert_int_equal(ep.nr_streams, 1);
	assert_ptr_equal(ep.streams[0].inst, &fx->inst[0].inst);
	assert_true(mediator_get_endpoint(fx->m, 1, &ep));
	assert_int_equal(ep.id, 9);
	assert_false(ep.attached);
	assert_int_equal(ep.sync, SYNC_FULL);
	assert_false(mediator_get_endpoint(fx->m, 2, &ep));

	assert_int_equal(mediator_attach(fx->m, 0xffffffff, 9, true), 0);
	map(fx, H, G, RAM, RW);
	assert_int_equal(mediator_next_domain(fx->m, 0, &dom), 0);
	assert_int_equal(dom.id, 1);
	assert_int_equal(dom.mappings, 1);
	assert_int_equal(dom.nr_endpoints, 1);
	assert_true(dom.needs_sync && !dom.bypass);
	assert_int_equal(mediator_next_domain(fx->m, 2, &dom), 0);
	assert_int_equal(dom.id, 0xffffffff);
	assert_true(dom.bypass);
	assert_int_equal(mediator_detach(fx->m, 0xffffffff, 9), 0);
	assert_int_equal(mediator_next_domain(fx->m, 2, &dom), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name)    cmocka_unit_test_setup_teardown(name, setup, teardown)
#define PARKING(name) cmocka_unit_test_setup_teardown(name, setup_parking, teardown)
		TEST(an_empty_domain_has_none_and_an_unknown_one_is_told),
		TEST(each_class_is_told_with_what_backs_it),
		TEST(pieces_of_any_size_make_the_same_whole),
		TEST(a_thousand_frames_fold_into_one),
		TEST(a_turn_is_bounded),
		PARKING(parked_frames_are_told_between_the_others),
		cmocka_unit_test_setup_teardown(however_much_is_parked_there_is_an_end,
						setup_parking_much, teardown),
		TEST(the_top_of_the_space_is_no_end_to_run_over),
		TEST(endpoints_and_domains_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
