/* SPDX-License-Identifier: Apache-2.0 */
/* What who records a mediator's requests is told: as many events as there are in the statistics. */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x40000000ull
#define RAM_LEN	 0x100000ull
#define APERTURE 0xffffffffull

enum { RW = MAP_READ | MAP_WRITE };

struct fixture {
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct fake_instance inst;
	struct endpoint *ep;
	unsigned nr[NR_EVENT_KINDS], nr_refused;
	struct mediator_event last;
};

static uint64_t fake_clock;

static uint64_t now(void)
{
	return fake_clock += 10;
}

static void on_event(void *ctx, const struct mediator_event *event)
{
	struct fixture *fx = ctx;

	fx->nr[event->kind]++;
	fx->nr_refused += event->ret != 0;
	assert_true(event->begin_ns <= event->end_ns && event->end_ns > fx->last.end_ns);
	fx->last = *event;
}

static void ignore_trap(void *ctx, enum trap_state state)
{
	(void)ctx;
	(void)state;
}

static int setup(void **state)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	const struct mediator_cfg cfg = {
		.gmem = &fx->gmem,
		.guest_granule = G,
		.pool_limit = 8 * 2 * H,
		.max_domains = 8,
		.max_mappings = 100,
		.now_ns = now,
		.event = on_event,
		.event_ctx = fx,
	};
	const struct stream one = {.inst = &fx->inst.inst};
	const struct endpoint_cfg ep = {
		.id = 8, .name = "test", .streams = &one, .nr_streams = 1, .sync = SYNC_FULL};

	fx->ram = aligned_alloc(0x10000, RAM_LEN);
	memset(fx->ram, 0x5a, RAM_LEN);
	assert_int_equal(gmem_add(&fx->gmem, RAM, RAM_LEN, fx->ram), 0);
	assert_int_equal(mediator_create(&cfg, &fx->m), 0);
	fake_init(&fx->inst, H, 0, APERTURE);
	assert_int_equal(mediator_add_endpoint(fx->m, &ep, &fx->ep), 0);
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

static void each_request_is_one_event_with_what_it_did(void **state)
{
	struct fixture *fx = *state;
	const struct mapping map = {H + G, H + 2 * G - 1, RAM + 5 * G, RW};
	const struct sg_segment sg[] = {{RAM, G}, {RAM + 2 * G, G}};

	assert_int_equal(mediator_attach(fx->m, 3, 8, false), 0);
	assert_int_equal(fx->last.kind, EVENT_ATTACH);
	assert_int_equal(fx->last.domain, 3);
	assert_int_equal(fx->last.endpoint, 8);
	assert_int_equal(mediator_map(fx->m, 3, &map), 0);
	assert_int_equal(fx->last.kind, EVENT_MAP);
	assert_int_equal(fx->last.start, H + G);
	assert_int_equal(fx->last.last, H + 2 * G - 1);
	assert_int_equal(fx->last.gpa, RAM + 5 * G);
	assert_int_equal(fx->last.flags, RW);
	assert_int_equal(fx->last.copied, G);
	assert_int_equal(mediator_map(fx->m, 3, &map), -EINVAL);
	assert_int_equal(fx->last.ret, -EINVAL);
	assert_int_equal(fx->last.copied, 0);
	assert_int_equal(mediator_map_sg(fx->m, 3, 8 * H, sg, 2, RW), 0);
	assert_int_equal(fx->last.start, 8 * H);
	assert_int_equal(fx->last.last, 8 * H + 2 * G - 1);
	memset(fx->ram + 5 * G, 0x77, 64);
	endpoint_sync_for_device(fx->ep);
	assert_int_equal(fx->last.kind, EVENT_SYNC_FOR_DEVICE);
	assert_true(fx->last.copied >= 64);
	endpoint_sync_for_cpu(fx->ep);
	assert_int_equal(fx->last.kind, EVENT_SYNC_FOR_CPU);
	assert_int_equal(mediator_unmap(fx->m, 3, 0, 4 * H), 0);
	assert_int_equal(fx->last.kind, EVENT_UNMAP);
	assert_int_equal(fx->last.last, 4 * H);
	assert_int_equal(mediator_detach(fx->m, 3, 8), 0);
	assert_int_equal(fx->last.kind, EVENT_DETACH);
	assert_int_equal(mediator_detach(fx->m, 3, 8), -EINVAL);
	mediator_reset(fx->m);
	assert_int_equal(fx->last.kind, EVENT_RESET);
}

static void events_add_up_to_the_statistics(void **state)
{
	struct fixture *fx = *state;
	const struct fault fault = {.flags = FAULT_WRITE | FAULT_ADDRESS, .iova = 0x1234000};
	struct mediator_stats stats;

	endpoint_set_trap(fx->ep, ignore_trap, NULL);
	assert_int_equal(mediator_attach(fx->m, 1, 8, false), 0);
	for (unsigned i = 0; i < 40; i++) {
		const struct mapping map = {i * H, i * H + G - 1, RAM + G + i * G, RW};

		/* The pool is short of some of them: those are faults too. */
		(void)mediator_map(fx->m, 1, &map);
		endpoint_sync_for_device(fx->ep);
	}
	mediator_fault(fx->m, &fx->inst.inst, 0, &fault);
	assert_int_equal(fx->last.kind, EVENT_FAULT);
	assert_int_equal(fx->last.endpoint, 8);
	assert_int_equal(fx->last.start, 0x1234000);
	assert_int_equal(fx->last.flags, FAULT_WRITE | FAULT_ADDRESS);
	assert_int_equal(mediator_unmap(fx->m, 1, 0, UINT64_MAX), 0);
	for (unsigned i = 0; i < 200; i++)
		endpoint_sync_for_device(fx->ep); /* nothing to look at: none */
	mediator_get_stats(fx->m, &stats);
	assert_true(stats.refused && stats.faults > 1 && stats.untraps);
	assert_int_equal(fx->nr_refused, stats.refused);
	assert_int_equal(fx->nr[EVENT_MAP], stats.maps + stats.refused);
	assert_int_equal(fx->nr[EVENT_UNMAP], stats.unmaps);
	assert_int_equal(fx->nr[EVENT_ATTACH], stats.attaches);
	assert_int_equal(fx->nr[EVENT_FAULT], stats.faults);
	assert_int_equal(fx->nr[EVENT_SYNC_FOR_DEVICE], stats.syncs_for_device);
	assert_int_equal(fx->nr[EVENT_TRAP], stats.traps + stats.untraps);
}

/* One whose embedder watches its queues: what goes on trapping is not called direct. */
static void what_stays_trapped_is_told_so(void **state)
{
	struct fixture *fx = *state;
	const struct mapping map = {H, H + G - 1, RAM + G, RW};
	struct mediator_stats stats;
	struct endpoint_info info;

	assert_false(endpoint_stays_trapped(fx->ep));
	endpoint_set_guarded(fx->ep, true);
	assert_true(endpoint_stays_trapped(fx->ep));
	endpoint_set_trap(fx->ep, ignore_trap, NULL);
	assert_int_equal(mediator_attach(fx->m, 1, 8, false), 0);
	for (unsigned i = 0; i < 200; i++)
		endpoint_sync_for_device(fx->ep);
	mediator_get_stats(fx->m, &stats);
	assert_int_equal(stats.untraps, 0);
	assert_int_equal(mediator_map(fx->m, 1, &map), 0);
	assert_true(mediator_get_endpoint(fx->m, 0, &info));
	assert_int_equal(info.trap, TRAP_ON);
	assert_int_equal(mediator_unmap(fx->m, 1, H, H + G - 1), 0);
	for (unsigned i = 0; i < 200; i++)
		endpoint_sync_for_device(fx->ep);
	assert_true(mediator_get_endpoint(fx->m, 0, &info));
	assert_int_equal(info.trap, TRAP_ON);
	assert_int_equal(fx->nr[EVENT_TRAP], 0);
	/* In no domain it goes by what it is told. */
	assert_int_equal(mediator_detach(fx->m, 1, 8), 0);
	for (unsigned i = 0; i < 200; i++)
		endpoint_sync_for_device(fx->ep);
	assert_true(mediator_get_endpoint(fx->m, 0, &info));
	assert_int_equal(info.trap, TRAP_OFF_LONG);
	assert_int_equal(fx->nr[EVENT_TRAP], 1);
	assert_int_equal(fx->last.flags, TRAP_OFF_LONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(each_request_is_one_event_with_what_it_did),
		TEST(events_add_up_to_the_statistics),
		TEST(what_stays_trapped_is_told_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
