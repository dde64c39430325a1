/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Endpoints are told to trap before anything that needs sync points is there, and that they need
 * not a while after nothing does (endpoint_set_trap). A fake instance is a VFIO container, a
 * simulated DART can change the class of live frames.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"
#include "iommu/tests/oracle_rig.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define GPA	 0x40000000ull
#define IOVA	 0x2000000ull
#define RAM	 (16 * H)
#define NR_EPS	 3
#define ENOUGH	 1000u /* sync points that count as a while */
#define RING_LEN 0x100000ull

enum { RO = MAP_READ, WO = MAP_WRITE, RW = MAP_READ | MAP_WRITE };

struct told {
	struct world *w;
	unsigned nr, nr_on;
	enum trap_state state;
};

struct world {
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct fake_instance fake[NR_EPS];
	struct rig_mem mem;
	struct dart_rig rig, plain; /* with windows, and without */
	struct endpoint *ep[NR_EPS];
	struct told told[NR_EPS];
	unsigned nr_eps;
	void (*when_told)(struct world *w); /* TRAP_ON, whoever's */
};

static void trap(void *ctx, enum trap_state state)
{
	struct told *told = ctx;

	assert_true(!told->nr || told->state != state);
	told->nr++;
	told->nr_on += state == TRAP_ON;
	told->state = state;
	if (state == TRAP_ON && told->w->when_told)
		told->w->when_told(told->w);
}

static struct world *a_world(uint64_t granule, uint64_t park)
{
	struct world *w = calloc(1, sizeof(*w));
	struct mediator_cfg cfg = {
		.gmem = &w->gmem,
		.guest_granule = granule,
		.pool_limit = 64 * 2 * H,
		.max_domains = 4,
		.max_mappings = 100,
		.park_limit = park,
		.promote = true,
		.ring_limit = RING_LEN,
		.doorbell = {1, 0},
	};
	struct dart_rig_cfg rig = {.kind = DART_T8110, .page_lg2 = 14, .windows = true};

	w->ram = aligned_alloc(H, RAM);
	for (size_t i = 0; i < RAM; i++)
		w->ram[i] = (uint8_t)(1 + i * 7 % 251);
	rig_mem_init(&w->mem);
	assert_int_equal(gmem_add(&w->gmem, GPA, RAM, w->ram), 0);
	assert_int_equal(mediator_create(&cfg, &w->m), 0);
	w->rig.mem = w->plain.mem = &w->mem;
	rig_create(&w->rig, &rig);
	rig.kind = DART_T8103;
	rig.windows = false;
	rig_create(&w->plain, &rig);
	for (unsigned i = 0; i < NR_EPS; i++)
		fake_init(&w->fake[i], H, 0, UINT32_MAX);
	return w;
}

static void add_one(struct world *w, struct instance *inst, enum sync_mode sync, bool may_turn,
		    uint32_t kin)
{
	const struct stream one = {inst, 0};
	const struct endpoint_cfg cfg = {.id = w->nr_eps + 1,
					 .name = "test",
					 .streams = &one,
					 .nr_streams = 1,
					 .sync = sync,
					 .may_turn_full = may_turn,
					 .kin = kin};

	assert_int_equal(mediator_add_endpoint(w->m, &cfg, &w->ep[w->nr_eps]), 0);
	w->told[w->nr_eps++].w = w;
}

static void add(struct world *w, struct instance *inst, enum sync_mode sync)
{
	add_one(w, inst, sync, false, 0);
}

static void listen(struct world *w)
{
	for (unsigned i = 0; i < w->nr_eps; i++)
		endpoint_set_trap(w->ep[i], trap, &w->told[i]);
}

static void end(struct world *w)
{
	w->when_told = NULL;
	mediator_destroy(w->m);
	rig_destroy(&w->rig);
	rig_destroy(&w->plain);
	free(w->ram);
	free(w);
}

/* @nr pages of RAM from @page on, at IOVA slot @slot on. */
static int map(struct world *w, unsigned slot, unsigned page, unsigned nr, uint32_t flags)
{
	const struct mapping one = {IOVA + slot * G, IOVA + (slot + nr) * G - 1, GPA + page * G,
				    flags};

	return mediator_map(w->m, 1, &one);
}

static void unmap(struct world *w, unsigned slot, unsigned nr)
{
	assert_int_equal(mediator_unmap(w->m, 1, IOVA + slot * G, IOVA + (slot + nr) * G - 1), 0);
}

static void attach(struct world *w, unsigned ep)
{
	assert_int_equal(mediator_attach(w->m, 1, ep + 1, false), 0);
}

static struct mediator_stats stats_of(struct world *w)
{
	struct mediator_stats stats;

	mediator_get_stats(w->m, &stats);
	return stats;
}

/* Nothing but sync points. Return: whether it is not trapped after them. */
static bool calms_down(struct world *w, unsigned ep)
{
	for (unsigned i = 0; i < ENOUGH; i++) {
		if (i % 2)
			endpoint_sync_for_cpu(w->ep[ep]);
		else
			endpoint_sync_for_device(w->ep[ep]);
	}
	return w->told[ep].state != TRAP_ON;
}

static void calm(struct world *w)
{
	for (unsigned i = 0; i < w->nr_eps; i++)
		assert_true(calms_down(w, i));
}

/* ---- when it is told ---- */

/* What a device could be shown of a bounce page: none is mapped. */
static void nothing_is_bounced_yet(struct world *w)
{
	for (unsigned i = 0; i < NR_EPS; i++) {
		for (unsigned e = 0; e < w->fake[i].nr; e++) {
			const uint8_t *hva = w->fake[i].v[e].hva;

			assert_true(hva >= w->ram && hva < w->ram + RAM);
		}
	}
	/* what the CPU writes now is what the device is to see */
	for (unsigned page = 0; page < RAM / G; page++)
		w->ram[page * G] = 0xc1;
}

static void device_sees(struct world *w, unsigned slot)
{
	uint8_t *byte = fake_translate(&w->fake[0], IOVA + slot * G, 0);

	assert_non_null(byte);
	assert_int_equal(*byte, 0xc1);
}

/* Every kind of MAP that makes bounce frames. */
static void map_tells_before_the_first_bounce_frame(void **state)
{
	static const struct {
		unsigned slot, page, nr;
		uint32_t flags;
		uint64_t park;
	} rows[] = {
		{0, 0, 1, RW, 0},	   /* a part of a frame */
		{0, 5, 1, RO, 0},	   /* */
		{0, 1, 4, WO, 0},	   /* a whole frame that is out of step */
		{3, 3, 6, RW, 0},	   /* head, body and tail */
		{0, 1, 8, RO, 64 * 2 * H}, /* parked once, used again */
		{1, 0, 1, RW, 64 * 2 * H}, /* the same for a part */
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct world *w = a_world(G, rows[i].park);

		add(w, &w->fake[0].inst, SYNC_FULL);
		listen(w);
		attach(w, 0);
		assert_int_equal(w->told[0].nr, 0); /* as it starts */
		for (unsigned round = 0; round < 3; round++) {
			calm(w);
			assert_int_equal(w->told[0].nr_on, round);
			if (!rows[i].park)
				w->when_told = nothing_is_bounced_yet;
			assert_int_equal(
				map(w, rows[i].slot, rows[i].page, rows[i].nr, rows[i].flags), 0);
			assert_int_equal(w->told[0].nr_on, round + 1);
			assert_int_equal(w->told[0].state, TRAP_ON);
			if (!rows[i].park)
				device_sees(w, rows[i].slot);
			assert_false(calms_down(w, 0));
			unmap(w, rows[i].slot, rows[i].nr);
		}
		if (rows[i].park)
			assert_true(stats_of(w).parked_hits > 0 && stats_of(w).parked_live > 0);
		end(w);
	}
}

static void a_list_tells_too_and_a_direct_mapping_does_not(void **state)
{
	struct world *w = a_world(G, 0);
	const struct sg_segment direct[] = {{GPA + 4 * G, H}},
				bounced[] = {{GPA + 9 * G, G}, {GPA + 3 * G, G}};

	(void)state;
	add(w, &w->fake[0].inst, SYNC_FULL);
	listen(w);
	attach(w, 0);
	calm(w);
	assert_int_equal(mediator_map_sg(w->m, 1, IOVA, direct, 1, RO), 0);
	assert_int_equal(w->told[0].nr_on, 0);
	w->when_told = nothing_is_bounced_yet;
	assert_int_equal(mediator_map_sg(w->m, 1, IOVA + H, bounced, 2, RW), 0);
	assert_int_equal(w->told[0].nr_on, 1);
	device_sees(w, 4);
	assert_int_equal(stats_of(w).direct_live, 1);
	end(w);
}

/* ---- live changes of class ---- */

static uint8_t seen_by(struct dart_rig *rig, unsigned slot)
{
	uint8_t byte = 0;

	assert_int_equal(dart_model_dma_read(rig->model, 0, IOVA + slot * G, &byte, 1), 0);
	return byte;
}

static void write_by(struct dart_rig *rig, unsigned slot, unsigned off, uint8_t byte)
{
	assert_int_equal(dart_model_dma_write(rig->model, 0, IOVA + slot * G + off, &byte, 1), 0);
}

/*
 * At the moment of being told a doorbell may still go past us, and an interrupt: what the CPU has
 * written is what the device reads then, and what the device has written is the guest's.
 */
static void both_sides_share_memory_still(struct world *w)
{
	w->ram[0] = 0xc2;
	assert_int_equal(seen_by(&w->rig, 0), 0xc2);
	write_by(&w->rig, 0, 1, 0xd2);
	assert_int_equal(w->ram[1], 0xd2);
	/* the last ring entry before a doorbell that traps */
	w->ram[2] = 0xc3;
}

static struct world *a_live_window(void)
{
	struct world *w = a_world(G, 0);

	add(w, w->rig.inst, SYNC_RINGS);
	add(w, w->plain.inst, SYNC_RINGS);
	listen(w);
	attach(w, 0);
	assert_int_equal(map(w, 0, 0, 1, RW), 0);
	assert_int_equal(map(w, 1, 1, 1, RW), 0);
	assert_int_equal(stats_of(w).window_live, 1);
	assert_int_equal(stats_of(w).bounce_frames, 0);
	calm(w);
	w->when_told = both_sides_share_memory_still;
	return w;
}

static void is_bounced_now(struct world *w)
{
	uint8_t byte;

	assert_int_equal(w->told[0].nr_on, 1);
	assert_int_equal(w->told[0].state, TRAP_ON);
	assert_int_equal(stats_of(w).to_bounce, 1);
	assert_int_equal(w->ram[1], 0xd2);
	/* written before the copy, or brought by the sync of the trapped doorbell */
	endpoint_sync_for_device(w->ep[0]);
	assert_int_equal(dart_model_dma_read(w->rig.model, 0, IOVA + 2, &byte, 1), 0);
	assert_int_equal(byte, 0xc3);
	write_by(&w->rig, 0, 3, 0xd4);
	endpoint_sync_for_cpu(w->ep[0]);
	assert_int_equal(w->ram[3], 0xd4);
	end(w);
}

static void a_neighbour_that_does_not_fit_tells_before_the_window_goes(void **state)
{
	struct world *w = a_live_window();

	(void)state;
	assert_int_equal(map(w, 2, 7, 1, RO), 0);
	is_bounced_now(w);
}

static void an_unmap_that_splits_tells_before_the_window_goes(void **state)
{
	struct world *w = a_live_window();

	(void)state;
	assert_int_equal(map(w, 2, 2, 1, RW), 0);
	assert_int_equal(w->told[0].nr_on, 0);
	unmap(w, 1, 1);
	is_bounced_now(w);
}

static void an_attach_tells_before_the_window_goes(void **state)
{
	struct world *w = a_live_window();

	(void)state;
	attach(w, 1);
	assert_int_equal(w->told[1].state, TRAP_ON);
	is_bounced_now(w);
}

/* ---- who needs it ---- */

static void payload_needs_none_where_rings_are_synced_only(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add(w, &w->fake[0].inst, SYNC_RINGS);
	add(w, &w->fake[1].inst, SYNC_FULL);
	add(w, &w->fake[2].inst, SYNC_NONE);
	listen(w);
	attach(w, 0);
	attach(w, 2);
	assert_true(calms_down(w, 0));
	assert_int_equal(map(w, 0, 5, 1, WO), 0);
	assert_int_equal(map(w, 1, 6, 1, RO), 0);
	assert_int_equal(stats_of(w).bounce_live, 1);
	assert_int_equal(w->told[0].nr_on, 0);
	/* a slot that both sides write makes the frame a ring */
	assert_int_equal(map(w, 2, 7, 1, RW), 0);
	assert_int_equal(w->told[0].nr_on, 1);
	unmap(w, 2, 1);
	assert_true(calms_down(w, 0));
	/* one comes for whom payload counts: the others' sync points bring it, too */
	attach(w, 1);
	assert_int_equal(w->told[0].state, TRAP_ON);
	assert_int_equal(w->told[1].state, TRAP_ON);
	assert_false(calms_down(w, 0));
	assert_false(calms_down(w, 1));
	assert_int_equal(mediator_detach(w->m, 1, 2), 0);
	assert_true(calms_down(w, 0));
	assert_int_equal(w->told[0].state, TRAP_OFF);
	assert_true(calms_down(w, 1));
	assert_int_equal(w->told[1].state, TRAP_OFF_LONG);
	/* who wants no sync points is never told of any */
	assert_int_equal(w->told[2].nr, 0);
	end(w);
}

static void one_that_needs_none_is_told_how_long(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add(w, &w->fake[0].inst, SYNC_FULL);
	listen(w);
	assert_int_equal(w->told[0].nr, 0);
	assert_true(calms_down(w, 0));
	assert_int_equal(w->told[0].state, TRAP_OFF_LONG); /* in no domain */
	assert_int_equal(mediator_attach(w->m, 2, 1, true), 0);
	assert_int_equal(w->told[0].nr_on, 0); /* a bypass domain bounces nothing */
	attach(w, 0);
	assert_int_equal(w->told[0].state, TRAP_ON);
	assert_true(calms_down(w, 0));
	assert_int_equal(w->told[0].state, TRAP_OFF);
	assert_int_equal(mediator_attach(w->m, 2, 1, true), 0);
	assert_true(calms_down(w, 0));
	assert_int_equal(w->told[0].state, TRAP_OFF_LONG);
	assert_int_equal(stats_of(w).traps, 1);
	assert_int_equal(stats_of(w).untraps, 3);
	end(w);

	/* pages as large as frames */
	w = a_world(H, 0);
	add(w, &w->fake[0].inst, SYNC_FULL);
	listen(w);
	assert_int_equal(w->told[0].state, TRAP_OFF_LONG);
	attach(w, 0);
	assert_int_equal(map(w, 0, 4, 4, RW), 0);
	unmap(w, 0, 4);
	assert_int_equal(w->told[0].nr, 1);
	end(w);
}

/* Going back and forth costs more than a trapped access. */
static void a_moment_without_bounce_frames_is_not_enough(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add(w, &w->fake[0].inst, SYNC_FULL);
	listen(w);
	attach(w, 0);
	for (unsigned i = 0; i < ENOUGH; i++) {
		assert_int_equal(map(w, 0, 5, 1, RW), 0);
		endpoint_sync_for_device(w->ep[0]);
		unmap(w, 0, 1);
		for (unsigned n = 0; n < 10; n++)
			endpoint_sync_for_cpu(w->ep[0]);
	}
	assert_int_equal(w->told[0].nr, 0);
	end(w);
}

static void who_has_left_is_not_told(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add(w, &w->fake[0].inst, SYNC_FULL);
	listen(w);
	attach(w, 0);
	calm(w);
	assert_int_equal(w->told[0].nr, 1);
	endpoint_set_trap(w->ep[0], NULL, NULL);
	assert_int_equal(map(w, 0, 5, 1, RW), 0);
	unmap(w, 0, 1);
	calms_down(w, 0);
	assert_int_equal(w->told[0].nr, 1);
	end(w);
}

/*
 * Anything: whenever a request has ended with a bounced slot that needs it, every endpoint of the
 * domain is trapped; and none was told while a bounce page was mapped that it had not been told of.
 */
static void needs_are_told_whatever_is_asked_for(void **state)
{
	struct world *w = a_world(G, 8 * 2 * H);
	uint64_t rng = 0x5eed;
	unsigned trapped = 0;

	(void)state;
	add(w, &w->fake[0].inst, SYNC_RINGS);
	add(w, w->rig.inst, SYNC_RINGS);
	add(w, w->plain.inst, SYNC_FULL);
	listen(w);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned what, ep, slot, page;
		struct mediator_stats stats;
		uint64_t maps;

		rng = rng * 6364136223846793005ull + 1442695040888963407ull;
		what = rng >> 33 & 15, ep = (rng >> 37) % NR_EPS, slot = rng >> 40 & 31;
		page = rng >> 46 & 31;
		stats = stats_of(w);
		maps = stats.maps;
		if (what < 5)
			(void)map(w, slot, what < 3 ? slot : page, 1 + (rng >> 52 & 7) % 6,
				  (uint32_t)(1 + (rng >> 56) % 3));
		else if (what < 10)
			(void)mediator_unmap(w->m, 1, IOVA + slot * G, IOVA + (slot + 8) * G - 1);
		else if (what == 10)
			(void)mediator_attach(w->m, 1 + (rng >> 60 & 1), ep + 1, false);
		else if (what == 11)
			(void)mediator_detach(w->m, 1, ep + 1);
		else if (what < 15)
			for (unsigned n = 0; n < 150; n++)
				endpoint_sync_for_cpu(w->ep[ep]);
		stats = stats_of(w);
		if (!stats.bounce_live || stats.maps != maps + 1)
			continue;
		/* domain 2 maps nothing, so all that is bounced is domain 1's: a sync point of one
		 * of its endpoints has something to look at if that counts as a sync */
		for (unsigned n = 0; n < NR_EPS; n++) {
			uint64_t before = stats.syncs_for_cpu;

			endpoint_sync_for_cpu(w->ep[n]);
			stats = stats_of(w);
			if (stats.syncs_for_cpu == before)
				continue;
			trapped++;
			assert_true(!w->told[n].nr || w->told[n].state == TRAP_ON);
		}
	}
	assert_true(trapped > 100);
	assert_true(stats_of(w).traps > 100);
	end(w);
}

static void device_writes(struct world *w, unsigned slot, uint8_t byte)
{
	*fake_translate(&w->fake[0], IOVA + slot * G, PROT_DEV_WRITE) = byte;
}

/* Payload that has been bounced for long is synced from the next sync point on, whoever's it is;
 * and no more once the endpoint has left. */
static void endpoint_turns_full_for_good_and_its_neighbours_are_told(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add_one(w, &w->fake[0].inst, SYNC_RINGS, true, 0);
	add(w, &w->fake[1].inst, SYNC_RINGS);
	listen(w);
	attach(w, 0);
	attach(w, 1);
	assert_int_equal(map(w, 1, 6, 1, WO), 0);
	/* who may turn full is watched, where its payload is bounced or may be */
	assert_false(calms_down(w, 0));
	assert_true(calms_down(w, 1));
	device_writes(w, 1, 0xd1);
	endpoint_sync_for_cpu(w->ep[0]);
	assert_int_not_equal(w->ram[6 * G], 0xd1);
	/* its rings are none that are seen before a sync point */
	assert_int_equal(map(w, 4, 4, 4, RW), 0);
	assert_int_equal(stats_of(w).direct_live, 0);
	unmap(w, 4, 4);
	assert_true(calms_down(w, 1));

	endpoint_turn_full(w->ep[1]); /* not one that may */
	assert_int_not_equal(w->told[1].state, TRAP_ON);
	endpoint_turn_full(w->ep[0]);
	assert_int_equal(w->told[1].state, TRAP_ON);
	endpoint_turn_full(w->ep[0]);
	endpoint_sync_for_cpu(w->ep[1]);
	assert_int_equal(w->ram[6 * G], 0xd1);
	w->ram[6 * G + 1] = 0xc1;
	endpoint_sync_for_device(w->ep[1]);
	assert_int_equal(fake_translate(&w->fake[0], IOVA + G, 0)[1], 0xc1);

	assert_int_equal(mediator_detach(w->m, 1, 1), 0);
	assert_true(calms_down(w, 1));
	attach(w, 0);
	assert_int_equal(w->told[1].state, TRAP_ON);
	assert_false(calms_down(w, 1));
	end(w);
}

/* A ring that is direct shows entries before their payload is copied: what needs it otherwise does
 * not come where one is. */
static void direct_rings_and_full_sync_never_share_a_domain(void **state)
{
	struct world *w = a_world(G, 0);

	(void)state;
	add_one(w, &w->fake[0].inst, SYNC_RINGS, false, 1);
	add_one(w, &w->fake[1].inst, SYNC_FULL, false, 2);
	add_one(w, &w->fake[2].inst, SYNC_RINGS, false, 2);
	attach(w, 0);
	assert_int_equal(map(w, 0, 0, 4, RW), 0);
	assert_int_equal(stats_of(w).direct_live, 1);
	assert_int_equal(mediator_attach(w->m, 1, 2, false), -EINVAL);
	assert_int_equal(mediator_attach(w->m, 1, 3, false), -EINVAL);
	unmap(w, 0, 4);

	attach(w, 2);
	assert_int_equal(map(w, 0, 0, 4, RW), 0);
	assert_int_equal(stats_of(w).direct_live, 0);
	attach(w, 1); /* its kin has seen to it */
	assert_int_equal(mediator_detach(w->m, 1, 1), 0);
	attach(w, 0); /* who needs nothing may come always */
	unmap(w, 0, 4);
	assert_int_equal(map(w, 4, 4, 4, RW), 0);
	assert_int_equal(stats_of(w).direct_live, 0);
	end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(map_tells_before_the_first_bounce_frame),
		cmocka_unit_test(a_list_tells_too_and_a_direct_mapping_does_not),
		cmocka_unit_test(a_neighbour_that_does_not_fit_tells_before_the_window_goes),
		cmocka_unit_test(an_unmap_that_splits_tells_before_the_window_goes),
		cmocka_unit_test(an_attach_tells_before_the_window_goes),
		cmocka_unit_test(payload_needs_none_where_rings_are_synced_only),
		cmocka_unit_test(one_that_needs_none_is_told_how_long),
		cmocka_unit_test(a_moment_without_bounce_frames_is_not_enough),
		cmocka_unit_test(endpoint_turns_full_for_good_and_its_neighbours_are_told),
		cmocka_unit_test(direct_rings_and_full_sync_never_share_a_domain),
		cmocka_unit_test(who_has_left_is_not_told),
		cmocka_unit_test(needs_are_told_whatever_is_asked_for),
	};

	return cmocka_run_group_tests_name("trap", tests, NULL, NULL);
}
