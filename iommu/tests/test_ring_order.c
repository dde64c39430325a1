/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CPU that polls a ring finds no entry whose payload it cannot see, and neither does a device:
 * with SYNC_FULL what is read and written by both is bounced, however it came to be mapped, and so
 * becomes visible at sync points only, after all that it announces.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/dart_rig.h"
#include "iommu/tests/fake_instance.h"

#define G	0x1000ull
#define H	0x4000ull
#define RAM	0x802e60000ull
#define RAM_LEN (96 * H)
#define LIMIT	(8 * H) /* of mappings that are rings */
#define RO	MAP_READ
#define WO	MAP_WRITE
#define RW	(MAP_READ | MAP_WRITE)

/* Payload, always in a bounce page: its guest pages are out of step with its IOVAs. */
#define DATA	 0x90000000ull /* the device writes it */
#define COMMAND	 0x90100000ull /* and reads this */
#define DATA_GPA (RAM + 80 * H + G)
#define CMD_GPA	 (RAM + 81 * H + G)

/* Where rings are. */
#define RING	 0x9abc0000ull
#define RING_GPA (RAM + 16 * H)

/* The instances that the device masters through. */
enum machine {
	LIKE_VFIO, /* replaces no page */
	DART,	   /* replaces pages, knows no windows */
	DART_WINDOWS,
	DART_BOTH_GRANULES, /* two: a frame's slots are shown one by one as well */
	NR_MACHINES
};

struct fixture {
	struct rig_mem mem;
	struct rig_dart dart[2];
	struct fake_instance fake, other;
	enum machine machine;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep[2];
};

struct setup {
	enum machine machine;
	uint64_t granule, ring_limit;
	enum sync_mode sync[2]; /* of endpoint 0, the machine, and 1, on an instance of its own */
};

static const struct setup usual = {DART_WINDOWS, G, LIMIT, {SYNC_FULL, SYNC_FULL}};

static struct fixture *start(const struct setup *s)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	const struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = s->granule,
		.pool_limit = 2 * 64 * H,
		.max_domains = 8,
		.max_mappings = 64,
		.doorbell = {1, 0},
		.promote = true,
		.park_limit = 8 * H,
		.ring_limit = s->ring_limit,
	};
	struct stream streams[2], other = {&fx->other.inst, 0};
	unsigned nr = 0;

	assert_non_null(fx);
	fx->machine = s->machine;
	fx->ram = aligned_alloc(H, RAM_LEN);
	memset(fx->ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	if (s->machine == LIKE_VFIO) {
		fake_init(&fx->fake, H, 0, 0xffffffff);
		streams[nr++] = (struct stream){&fx->fake.inst, 0};
	} else {
		rig_dart_init(&fx->dart[0], &fx->mem, DART_MODEL_T6000, 14, 0,
			      s->machine == DART_WINDOWS);
		streams[nr++] = (struct stream){fx->dart[0].inst, 1};
	}
	if (s->machine == DART_BOTH_GRANULES) {
		rig_dart_init(&fx->dart[1], &fx->mem, DART_MODEL_T8020, 12, 0, false);
		streams[nr++] = (struct stream){fx->dart[1].inst, 1};
	}
	fake_init(&fx->other, H, 0, 0xffffffff);
	for (unsigned i = 0; i < 2; i++) {
		const struct endpoint_cfg ep = {
			.id = i,
			.name = "test",
			.streams = i ? &other : streams,
			.nr_streams = i ? 1 : nr,
			.sync = s->sync[i],
			.relaxed = true,
		};

		assert_int_equal(mediator_add_endpoint(fx->m, &ep, &fx->ep[i]), 0);
	}
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	return fx;
}

static void stop(struct fixture *fx)
{
	mediator_destroy(fx->m);
	for (unsigned i = 0; i < 2; i++) {
		if (fx->dart[i].inst)
			rig_dart_fini(&fx->dart[i]);
	}
	rig_mem_fini(&fx->mem);
	free(fx->ram);
	free(fx);
}

static void map(struct fixture *fx, uint64_t iova, uint64_t gpa, uint64_t len, uint32_t flags)
{
	const struct mapping map = {iova, iova + len - 1, gpa, flags};

	assert_int_equal(mediator_map(fx->m, 1, &map), 0);
}

static void unmap(struct fixture *fx, uint64_t iova, uint64_t len)
{
	assert_int_equal(mediator_unmap(fx->m, 1, iova, iova + len - 1), 0);
}

static struct mediator_stats stats_of(const struct fixture *fx)
{
	struct mediator_stats stats;

	mediator_get_stats(fx->m, &stats);
	return stats;
}

static uint64_t *guest(const struct fixture *fx, uint64_t gpa)
{
	return (uint64_t *)(fx->ram + (gpa - RAM));
}

static void dev_write(struct fixture *fx, unsigned dart, uint64_t iova, uint64_t value)
{
	if (fx->machine == LIKE_VFIO)
		assert_true(fake_dma_write(&fx->fake, iova, &value, 8));
	else
		assert_int_equal(dart_model_dma_write(fx->dart[dart].model, 1, iova, &value, 8), 0);
}

static uint64_t dev_read(struct fixture *fx, unsigned dart, uint64_t iova)
{
	uint64_t value = 0;

	if (fx->machine == LIKE_VFIO)
		assert_true(fake_dma_read(&fx->fake, iova, &value, 8));
	else
		assert_int_equal(dart_model_dma_read(fx->dart[dart].model, 1, iova, &value, 8), 0);
	return value;
}

/* ---- how a ring may come to be mapped ---- */

static void whole_frame(struct fixture *fx)
{
	map(fx, RING, RING_GPA, H, RW);
}

static void part_of_a_frame(struct fixture *fx)
{
	map(fx, RING, RING_GPA, 2 * G, RW);
}

static void most_of_a_frame(struct fixture *fx)
{
	map(fx, RING, RING_GPA, 3 * G, RW);
}

static void head_of_more(struct fixture *fx)
{
	map(fx, RING - G, RING_GPA - G, 2 * H, RW);
}

static void tail_of_more(struct fixture *fx)
{
	map(fx, RING - H, RING_GPA - H, H + 3 * G, RW);
}

static void slots_one_by_one(struct fixture *fx)
{
	for (uint64_t off = 0; off < H; off += G)
		map(fx, RING + off, RING_GPA + off, G, RW);
}

static void beside_a_large_mapping(struct fixture *fx)
{
	map(fx, RING + G, RING_GPA + G, LIMIT + H, RW);
	map(fx, RING, RING_GPA, G, RW);
}

static void beside_what_the_device_writes(struct fixture *fx)
{
	map(fx, RING + G, RING_GPA + G, 3 * G, WO);
	map(fx, RING, RING_GPA, G, RW);
}

static void all_that_is_left_of_a_frame(struct fixture *fx)
{
	slots_one_by_one(fx);
	unmap(fx, RING + G, 3 * G);
}

static void where_others_were(struct fixture *fx)
{
	map(fx, RING, RING_GPA, H, WO); /* direct */
	unmap(fx, RING, H);
	map(fx, RING, RING_GPA + G, H, RW); /* bounced, and parked then */
	unmap(fx, RING, H);
	whole_frame(fx);
}

static void list(struct fixture *fx)
{
	const struct sg_segment sg[] = {
		{RING_GPA, H}, {RING_GPA + 2 * H, G}, {RING_GPA + 3 * H + G, H}};

	assert_int_equal(mediator_map_sg(fx->m, 1, RING, sg, ARRAY_SIZE(sg), RW), 0);
}

static void before_the_device_came(struct fixture *fx)
{
	assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
	assert_int_equal(mediator_detach(fx->m, 1, 0), 0);
	whole_frame(fx);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
}

static const struct {
	const char *name;
	void (*map)(struct fixture *fx);
} ways[] = {
	{"whole_frame", whole_frame},
	{"part_of_a_frame", part_of_a_frame},
	{"most_of_a_frame", most_of_a_frame},
	{"head_of_more", head_of_more},
	{"tail_of_more", tail_of_more},
	{"slots_one_by_one", slots_one_by_one},
	{"beside_a_large_mapping", beside_a_large_mapping},
	{"beside_what_the_device_writes", beside_what_the_device_writes},
	{"all_that_is_left_of_a_frame", all_that_is_left_of_a_frame},
	{"where_others_were", where_others_were},
	{"list", list},
	{"before_the_device_came", before_the_device_came},
};

/*
 * The device writes payload, then the entry that announces it; the CPU polls the ring. And the
 * other way round, for a device that polls. @dart: by way of which instance
 */
static void ring_keeps_order(struct fixture *fx, unsigned dart, const char *name)
{
	for (uint64_t n = 1; n <= 3; n++) {
		dev_write(fx, dart, DATA, n);
		dev_write(fx, dart, RING, n);
		if (*guest(fx, RING_GPA) > *guest(fx, DATA_GPA))
			fail_msg("%s, machine %d: the CPU sees an entry before its payload", name,
				 fx->machine);
		endpoint_sync_for_cpu(fx->ep[0]);
		assert_int_equal(*guest(fx, DATA_GPA), n);
		assert_int_equal(*guest(fx, RING_GPA), n);

		*guest(fx, CMD_GPA) = n;
		*guest(fx, RING_GPA + 8) = n;
		if (dev_read(fx, dart, RING + 8) > dev_read(fx, dart, COMMAND))
			fail_msg("%s, machine %d: the device sees an entry before its payload",
				 name, fx->machine);
		endpoint_sync_for_device(fx->ep[0]);
		assert_int_equal(dev_read(fx, dart, COMMAND), n);
		assert_int_equal(dev_read(fx, dart, RING + 8), n);
	}
}

static void no_entry_is_seen_before_its_payload_however_its_ring_is_mapped(void **state)
{
	(void)state;
	for (enum machine machine = 0; machine < NR_MACHINES; machine++) {
		for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
			struct setup s = usual;
			struct fixture *fx;

			s.machine = machine;
			fx = start(&s);
			map(fx, DATA, DATA_GPA, G, WO);
			map(fx, COMMAND, CMD_GPA, G, RO);
			ways[i].map(fx);
			ring_keeps_order(fx, 0, ways[i].name);
			if (machine == DART_BOTH_GRANULES)
				ring_keeps_order(fx, 1, ways[i].name);
			assert_int_equal(stats_of(fx).conflicts, 0);
			stop(fx);
		}
	}
}

/* Sync points of a neighbour in the domain, whose own mode asks for less, keep the order too. */
static void a_neighbours_sync_point_shows_no_entry_before_its_payload(void **state)
{
	static const enum sync_mode modes[] = {SYNC_NONE, SYNC_RINGS, SYNC_FULL};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		struct setup s = usual;
		struct fixture *fx;

		s.machine = LIKE_VFIO;
		s.sync[1] = modes[i];
		fx = start(&s);
		assert_int_equal(mediator_attach(fx->m, 1, 1, false), 0);
		map(fx, DATA, DATA_GPA, G, WO);
		map(fx, COMMAND, CMD_GPA, G, RO);
		whole_frame(fx);
		dev_write(fx, 0, DATA, 1);
		dev_write(fx, 0, RING, 1);
		endpoint_sync_for_cpu(fx->ep[1]);
		assert_true(*guest(fx, RING_GPA) <= *guest(fx, DATA_GPA));
		*guest(fx, CMD_GPA) = 1;
		*guest(fx, RING_GPA + 8) = 1;
		endpoint_sync_for_device(fx->ep[1]);
		assert_true(dev_read(fx, 0, RING + 8) <= dev_read(fx, 0, COMMAND));
		/* once it is alone, its own mode counts */
		assert_int_equal(mediator_detach(fx->m, 1, 0), 0);
		*guest(fx, CMD_GPA) = 2;
		*guest(fx, RING_GPA + 8) = 2;
		endpoint_sync_for_device(fx->ep[1]);
		assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
		assert_int_equal(dev_read(fx, 0, RING + 8) == 2, modes[i] != SYNC_NONE);
		assert_int_equal(dev_read(fx, 0, COMMAND) == 2, modes[i] == SYNC_FULL);
		stop(fx);
	}
}

/* ---- what is no ring ---- */

/* Is a frame of it guest memory itself? */
static bool is_direct(struct fixture *fx, uint64_t len, uint32_t flags)
{
	bool direct;

	map(fx, RING, RING_GPA, len, flags);
	direct = stats_of(fx).direct_live > 0;
	assert_int_equal(stats_of(fx).bounce_live, direct ? 0 : len / H);
	unmap(fx, RING, len);
	return direct;
}

static void what_is_large_or_goes_one_way_is_no_ring(void **state)
{
	struct fixture *fx = start(&usual);

	(void)state;
	assert_false(is_direct(fx, H, RW));
	assert_false(is_direct(fx, LIMIT, RW));
	assert_true(is_direct(fx, LIMIT + H, RW));
	assert_true(is_direct(fx, H, RO));
	assert_true(is_direct(fx, H, WO));
	stop(fx);
}

static void rings_are_direct_where_no_endpoint_needs_them_in_order(void **state)
{
	static const struct {
		struct setup setup;
		bool direct, needs_strict;
	} rows[] = {
		{{LIKE_VFIO, G, LIMIT, {SYNC_RINGS, SYNC_NONE}}, true, true},
		{{LIKE_VFIO, G, 0, {SYNC_FULL, SYNC_FULL}}, true, false},
		/* each frame is one slot */
		{{LIKE_VFIO, H, LIMIT, {SYNC_FULL, SYNC_FULL}}, true, false},
		{{LIKE_VFIO, H, LIMIT, {SYNC_NONE, SYNC_RINGS}}, true, false},
		/* one is enough: it may be put into any domain, when its mappings are there */
		{{LIKE_VFIO, G, LIMIT, {SYNC_RINGS, SYNC_FULL}}, false, true},
		{{LIKE_VFIO, G, LIMIT, {SYNC_FULL, SYNC_RINGS}}, false, true},
		{{LIKE_VFIO, G, LIMIT, {SYNC_FULL, SYNC_NONE}}, false, true},
		{{LIKE_VFIO, G, LIMIT, {SYNC_FULL, SYNC_FULL}}, false, false},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fixture *fx = start(&rows[i].setup);

		if (is_direct(fx, H, RW) != rows[i].direct)
			fail_msg("row %u", i);
		/* who is not synced everywhere must not meet a guest that puts UNMAPs off */
		if (!mediator_needs_strict(fx->m) == rows[i].needs_strict)
			fail_msg("row %u: strict", i);
		stop(fx);
	}
}

static void a_bypass_domain_is_guest_memory_as_ever(void **state)
{
	struct setup s = usual;
	struct fixture *fx;

	(void)state;
	s.machine = LIKE_VFIO;
	fx = start(&s);
	fx->fake.inst.apertures[0].last = UINT64_MAX >> 8; /* up to where RAM is */
	assert_int_equal(mediator_detach(fx->m, 1, 0), 0);
	assert_int_equal(mediator_attach(fx->m, 2, 0, true), 0);
	dev_write(fx, 0, RAM + H, 7);
	assert_int_equal(*guest(fx, RAM + H), 7);
	stop(fx);
}

/* ---- in threads ---- */

#define ENTRIES 100u /* that the CPU shall have seen */
#define ROUNDS	50000000u

static struct {
	struct fixture *fx;
	atomic_bool done;
	atomic_uint entries, early;
} race;

static void *device(void *arg)
{
	struct fixture *fx = race.fx;
	uint64_t *data = (uint64_t *)fake_translate(&fx->fake, DATA, PROT_DEV_WRITE);
	uint64_t *ring = (uint64_t *)fake_translate(&fx->fake, RING, PROT_DEV_WRITE);

	(void)arg;
	for (uint64_t n = 1; !atomic_load(&race.done); n++) {
		/* Far apart and in many words, so that it takes time to copy. */
		for (unsigned i = 0; i < G / 8; i += 8)
			__atomic_store_n(data + i, n, __ATOMIC_RELEASE);
		__atomic_store_n(ring, n, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void *cpu(void *arg)
{
	struct fixture *fx = race.fx;
	const uint64_t *data = guest(fx, DATA_GPA), *ring = guest(fx, RING_GPA);
	uint64_t seen = 0;

	(void)arg;
	while (!atomic_load(&race.done)) {
		uint64_t n = __atomic_load_n(ring, __ATOMIC_ACQUIRE);

		for (unsigned i = 0; i < G / 8; i += 8) {
			if (__atomic_load_n(data + i, __ATOMIC_ACQUIRE) < n)
				atomic_fetch_add(&race.early, 1);
		}
		if (n != seen)
			atomic_fetch_add(&race.entries, 1);
		seen = n;
	}
	return NULL;
}

/* Neither waits for a sync point; the third thread makes them, as interrupts of others do. */
static void a_cpu_that_only_polls_finds_the_payload_of_every_entry(void **state)
{
	struct setup s = usual;
	pthread_t threads[2];

	(void)state;
	s.machine = LIKE_VFIO;
	race.fx = start(&s);
	map(race.fx, DATA, DATA_GPA, G, WO);
	map(race.fx, RING, RING_GPA, H, RW);
	assert_int_equal(pthread_create(&threads[0], NULL, device, NULL), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, cpu, NULL), 0);
	for (unsigned n = 0; n < ROUNDS && atomic_load(&race.entries) < ENTRIES; n++)
		endpoint_sync_for_cpu(race.fx->ep[0]);
	atomic_store(&race.done, true);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	assert_int_equal(atomic_load(&race.early), 0);
	assert_true(atomic_load(&race.entries) >= ENTRIES);
	stop(race.fx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_entry_is_seen_before_its_payload_however_its_ring_is_mapped),
		cmocka_unit_test(a_neighbours_sync_point_shows_no_entry_before_its_payload),
		cmocka_unit_test(what_is_large_or_goes_one_way_is_no_ring),
		cmocka_unit_test(rings_are_direct_where_no_endpoint_needs_them_in_order),
		cmocka_unit_test(a_bypass_domain_is_guest_memory_as_ever),
		cmocka_unit_test(a_cpu_that_only_polls_finds_the_payload_of_every_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
