/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring heads: the words of a virtio split ring that say how far each side has got. What they tell
 * of lies before them (descriptors), behind them (entries) and elsewhere (payload), so neither the
 * order of addresses nor that of pages is right for them.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	0x1000ull
#define H	0x4000ull
#define RAM	0x802e60000ull
#define RAM_LEN (64 * H)
#define RW	(MAP_READ | MAP_WRITE)

/* Three bounce frames of one page each, in the order in which they are mapped and looked at; the
 * ring's heads are in the second one. */
#define IOVA(frame) (0x90000000ull + (frame)*H)
#define PAGE(frame) (2 * (frame)*H + G) /* in RAM, out of step with the IOVA */
#define HEADS	    1
#define CPU_HEAD    0x804u /* in its page, a word's upper half */
#define DEVICE_HEAD 0xa00u

struct fixture {
	struct fake_instance fake;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep;
};

static const struct ring_place place = {IOVA(HEADS) + CPU_HEAD, IOVA(HEADS) + DEVICE_HEAD};

static void map_frame(struct fixture *fx, uint32_t domain, unsigned frame)
{
	const struct mapping map = {IOVA(frame), IOVA(frame) + G - 1, RAM + PAGE(frame), RW};

	assert_int_equal(mediator_map(fx->m, domain, &map), 0);
}

static int setup(void **state)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	const struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = G,
		.pool_limit = 64 * H,
		.max_domains = 8,
		.max_mappings = 64,
		.doorbell = {1, 0},
		.ring_limit = 64 * H,
	};
	const struct stream stream = {&fx->fake.inst, 0};
	const struct endpoint_cfg ep = {
		.name = "test", .streams = &stream, .nr_streams = 1, .sync = SYNC_FULL};

	assert_non_null(fx);
	fx->ram = aligned_alloc(H, RAM_LEN);
	memset(fx->ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	fake_init(&fx->fake, H, 0, 0xffffffff);
	assert_int_equal(mediator_add_endpoint(fx->m, &ep, &fx->ep), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	for (unsigned frame = 0; frame < 3; frame++)
		map_frame(fx, 1, frame);
	assert_int_equal(endpoint_set_ring(fx->ep, 0, &place), 0);
	*state = fx;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;

	mediator_destroy(fx->m);
	free(fx->ram);
	free(fx);
	return 0;
}

static uint8_t *cpu(struct fixture *fx, unsigned frame, unsigned off)
{
	return fx->ram + PAGE(frame) + off;
}

static uint8_t *device(struct fixture *fx, unsigned frame, unsigned off)
{
	return fake_translate(&fx->fake, IOVA(frame) + off, PROT_READ | PROT_WRITE);
}

static void set(uint8_t *head, unsigned flags, unsigned idx)
{
	put_le16(head, (uint16_t)flags);
	put_le16(head + 2, (uint16_t)idx);
}

static void assert_head(const uint8_t *head, unsigned flags, unsigned idx)
{
	assert_int_equal(get_le16(head), flags);
	assert_int_equal(get_le16(head + 2), idx);
}

static void the_index_travels_and_the_flags_do_not(void **state)
{
	struct fixture *fx = *state;

	for (unsigned n = 0xfffe; n < 0x10003; n++) {
		set(cpu(fx, HEADS, CPU_HEAD), n & 1, n);
		set(device(fx, HEADS, DEVICE_HEAD), n & 1, n + 100);
		endpoint_sync_for_device(fx->ep);
		assert_head(device(fx, HEADS, CPU_HEAD), 0, n & 0xffff);
		endpoint_sync_for_cpu(fx->ep);
		assert_head(cpu(fx, HEADS, DEVICE_HEAD), 0, (n + 100) & 0xffff);
		/* nor does either come back */
		assert_head(cpu(fx, HEADS, CPU_HEAD), n & 1, n & 0xffff);
		assert_head(device(fx, HEADS, DEVICE_HEAD), n & 1, (n + 100) & 0xffff);
	}
}

static void neighbours_of_a_head_travel_both_ways(void **state)
{
	static const unsigned at[] = {CPU_HEAD - 1, CPU_HEAD + 4, DEVICE_HEAD - 1, DEVICE_HEAD + 4};
	struct fixture *fx = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		set(cpu(fx, HEADS, CPU_HEAD), 1, i);
		*cpu(fx, HEADS, at[i]) = 0x11;
		endpoint_sync_for_device(fx->ep);
		assert_int_equal(*device(fx, HEADS, at[i]), 0x11);
		*device(fx, HEADS, at[i]) = 0x22;
		endpoint_sync_for_cpu(fx->ep);
		assert_int_equal(*cpu(fx, HEADS, at[i]), 0x22);
	}
}

static void a_head_that_the_other_side_writes_is_not_its_own(void **state)
{
	struct fixture *fx = *state;

	set(cpu(fx, HEADS, DEVICE_HEAD), 1, 7);
	set(device(fx, HEADS, CPU_HEAD), 1, 8);
	endpoint_sync_for_device(fx->ep);
	assert_head(device(fx, HEADS, DEVICE_HEAD), 0, 0);
	endpoint_sync_for_cpu(fx->ep);
	/* each is as its writer has it */
	assert_head(cpu(fx, HEADS, DEVICE_HEAD), 0, 0);
	assert_head(device(fx, HEADS, CPU_HEAD), 0, 0);
	assert_head(cpu(fx, HEADS, CPU_HEAD), 0, 0);
}

/* ---- order: pages of one side are protected, and who runs into one is looked at ---- */

static struct {
	struct fixture *fx;
	uint8_t *page[2]; /* protected */
	unsigned nr;
	void (*hit)(struct fixture *fx);
	unsigned hits;
} trap;

static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)context;
	for (unsigned i = 0; i < trap.nr; i++) {
		if ((uintptr_t)info->si_addr - (uintptr_t)trap.page[i] >= H)
			continue;
		mprotect(trap.page[i], H, PROT_READ | PROT_WRITE);
		trap.hits++;
		trap.hit(trap.fx);
		return;
	}
	signal(sig, SIG_DFL); /* not ours */
}

/* sync_trapped - with frames 0 and 2 as the device sees them protected */
static void sync_trapped(struct fixture *fx, int prot, void (*hit)(struct fixture *),
			 void (*sync)(struct endpoint *))
{
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, before;

	trap.fx = fx;
	trap.hit = hit;
	trap.hits = 0;
	trap.nr = 2;
	for (unsigned i = 0; i < 2; i++)
		trap.page[i] = device(fx, 2 * i, 0);
	sigaction(SIGSEGV, &action, &before);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mprotect(trap.page[i], H, prot), 0);
	sync(fx->ep);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(mprotect(trap.page[i], H, PROT_READ | PROT_WRITE), 0);
	sigaction(SIGSEGV, &before, NULL);
	assert_int_equal(trap.hits, 2);
}

static bool told_early;

static void look_at_head(struct fixture *fx)
{
	told_early |= get_le16(device(fx, HEADS, CPU_HEAD) + 2) != 0;
}

static void a_head_is_written_after_all_that_it_tells_of(void **state)
{
	struct fixture *fx = *state;

	told_early = false;
	*cpu(fx, 0, 0) = 1;
	*cpu(fx, 2, 0) = 1;
	*cpu(fx, HEADS, 0) = 1;
	*cpu(fx, HEADS, G - 1) = 1;
	set(cpu(fx, HEADS, CPU_HEAD), 0, 1);
	sync_trapped(fx, PROT_READ, look_at_head, endpoint_sync_for_device);
	assert_false(told_early);
	assert_head(device(fx, HEADS, CPU_HEAD), 0, 1);
	assert_int_equal(*device(fx, 0, 0), 1);
	assert_int_equal(*device(fx, 2, 0), 1);
}

static void use_one_more(struct fixture *fx)
{
	uint8_t *head = device(fx, HEADS, DEVICE_HEAD);

	/* frame 0 has been looked at when frame 2 is come to */
	++*device(fx, 0, 8);
	set(head, 0, get_le16(head + 2) + 1u);
}

static void a_head_is_read_before_all_that_it_tells_of(void **state)
{
	struct fixture *fx = *state;

	sync_trapped(fx, PROT_NONE, use_one_more, endpoint_sync_for_cpu);
	assert_int_equal(get_le16(device(fx, HEADS, DEVICE_HEAD) + 2), 2);
	assert_in_range(get_le16(cpu(fx, HEADS, DEVICE_HEAD) + 2), 0, *cpu(fx, 0, 8));
	assert_head(cpu(fx, HEADS, DEVICE_HEAD), 0, 0);
	endpoint_sync_for_cpu(fx->ep);
	assert_head(cpu(fx, HEADS, DEVICE_HEAD), 0, 2);
	assert_int_equal(*cpu(fx, 0, 8), 2);
}

/* ---- where there is none ---- */

static void a_ring_that_is_given_up_is_memory_like_any_other(void **state)
{
	struct fixture *fx = *state;

	set(cpu(fx, HEADS, CPU_HEAD), 1, 5);
	endpoint_sync_for_device(fx->ep);
	set(cpu(fx, HEADS, CPU_HEAD), 1, 6);
	assert_int_equal(endpoint_set_ring(fx->ep, 0, NULL), 0);
	endpoint_sync_for_cpu(fx->ep); /* no old index comes back */
	assert_head(cpu(fx, HEADS, CPU_HEAD), 1, 6);
	endpoint_sync_for_device(fx->ep);
	assert_head(device(fx, HEADS, CPU_HEAD), 1, 6);
	set(device(fx, HEADS, CPU_HEAD), 0, 7);
	endpoint_sync_for_cpu(fx->ep);
	assert_head(cpu(fx, HEADS, CPU_HEAD), 0, 7);
}

static void heads_where_nothing_is_do_no_harm(void **state)
{
	static const uint64_t iovas[] = {0, IOVA(3), IOVA(1) + G, 0xfffffffc, UINT64_MAX - 3};
	struct fixture *fx = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(iovas); i++) {
		const struct ring_place there = {iovas[i], iovas[i]};

		assert_int_equal(endpoint_set_ring(fx->ep, i + 1, &there), 0);
	}
	*cpu(fx, 0, 0) = 1;
	endpoint_sync_for_device(fx->ep);
	endpoint_sync_for_cpu(fx->ep);
	assert_int_equal(*device(fx, 0, 0), 1);
	assert_int_equal(mediator_unmap(fx->m, 1, IOVA(HEADS), IOVA(HEADS) + G - 1), 0);
	endpoint_sync_for_device(fx->ep);
	endpoint_sync_for_cpu(fx->ep);
}

static void heads_follow_their_endpoint_into_its_domain(void **state)
{
	struct fixture *fx = *state;

	assert_int_equal(mediator_attach(fx->m, 2, 0, false), 0);
	endpoint_sync_for_device(fx->ep);
	set(cpu(fx, HEADS, CPU_HEAD), 0, 3);
	map_frame(fx, 2, HEADS);
	set(cpu(fx, HEADS, CPU_HEAD), 1, 4);
	endpoint_sync_for_device(fx->ep);
	assert_head(device(fx, HEADS, CPU_HEAD), 0, 4);
	assert_int_equal(mediator_detach(fx->m, 2, 0), 0);
	assert_int_equal(mediator_attach(fx->m, 1, 0, false), 0);
	map_frame(fx, 1, HEADS);
	endpoint_sync_for_device(fx->ep);
	assert_head(device(fx, HEADS, CPU_HEAD), 0, 4);
	mediator_reset(fx->m);
	endpoint_sync_for_device(fx->ep);
}

static void places_that_cannot_be_are_refused(void **state)
{
	const struct ring_place odd[] = {{IOVA(0) + 2, IOVA(0)}, {IOVA(0), IOVA(0) + 1}};
	struct fixture *fx = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(odd); i++)
		assert_int_equal(endpoint_set_ring(fx->ep, 1, &odd[i]), -EINVAL);
	assert_int_equal(endpoint_set_ring(fx->ep, MEDIATOR_MAX_RINGS, &place), -ENOSPC);
	assert_int_equal(endpoint_set_ring(fx->ep, UINT32_MAX, &place), -ENOSPC);
	assert_int_equal(endpoint_set_ring(fx->ep, UINT32_MAX, NULL), 0);
	assert_int_equal(endpoint_set_ring(fx->ep, MEDIATOR_MAX_RINGS - 1, &place), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_index_travels_and_the_flags_do_not),
		TEST(neighbours_of_a_head_travel_both_ways),
		TEST(a_head_that_the_other_side_writes_is_not_its_own),
		TEST(a_head_is_written_after_all_that_it_tells_of),
		TEST(a_head_is_read_before_all_that_it_tells_of),
		TEST(a_ring_that_is_given_up_is_memory_like_any_other),
		TEST(heads_where_nothing_is_do_no_harm),
		TEST(heads_follow_their_endpoint_into_its_domain),
		TEST(places_that_cannot_be_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
