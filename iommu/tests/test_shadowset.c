/* SPDX-License-Identifier: Apache-2.0 */
/* What shadowset says about a range that could not be mapped. */
#include "iommu/tests/check.h"

#include <errno.h>

#include "iommu/base.h"
#include "iommu/shadowset.h"

#define H 0x4000ull

struct part_shadow {
	struct shadow shadow;
	int prepare_ret;
	unsigned nr_maps, fail_maps; /* of which the first ones fail */
};

static struct part_shadow *part_of(struct shadow *shadow)
{
	return container_of(shadow, struct part_shadow, shadow);
}

static int part_prepare(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len)
{
	(void)iova, (void)hva, (void)len;
	return part_of(shadow)->prepare_ret;
}

static int part_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len, unsigned prot)
{
	struct part_shadow *part = part_of(shadow);

	(void)iova, (void)hva, (void)len, (void)prot;
	return part->nr_maps++ < part->fail_maps ? -EINVAL : 0;
}

static const struct shadow_ops part_ops = {.prepare = part_prepare, .map = part_map};

struct fixture {
	struct part_shadow part[2];
	struct shadowset set;
	struct mediator_stats stats;
};

static void start(struct fixture *fx, unsigned nr)
{
	*fx = (struct fixture){0};
	shadowset_init(&fx->set, 0, &fx->stats);
	for (unsigned i = 0; i < nr; i++) {
		fx->part[i].shadow.ops = &part_ops;
		fx->part[i].shadow.granule = H;
		assert_int_equal(shadowset_add(&fx->set, &fx->part[i].shadow), 0);
	}
}

static int map(struct fixture *fx, bool *exposed)
{
	static uint8_t memory[2 * H];

	*exposed = false;
	return shadowset_map(&fx->set, SHADOWS_ALL, 0, memory, sizeof(memory), PROT_DEV_READ,
			     exposed);
}

/* A shadow alone is mapped before it is prepared: devices may have seen the half that fitted. */
static void what_was_mapped_in_part_before_it_was_prepared_may_be_remembered(void **state)
{
	struct fixture fx;
	bool exposed;

	(void)state;
	start(&fx, 1);
	fx.part[0].fail_maps = 1;
	fx.part[0].prepare_ret = -ENOMEM;
	assert_int_equal(map(&fx, &exposed), -ENOMEM);
	assert_true(exposed);
}

static void what_is_mapped_at_last_was_not_taken_away(void **state)
{
	struct fixture fx;
	bool exposed;

	(void)state;
	start(&fx, 1);
	fx.part[0].fail_maps = 1;
	assert_int_equal(map(&fx, &exposed), 0);
	assert_false(exposed);
	assert_int_equal(fx.part[0].nr_maps, 2);
}

/* Several are prepared first: nothing is to be seen, so nothing needs an invalidation. */
static void what_could_not_be_prepared_was_never_seen(void **state)
{
	struct fixture fx;
	bool exposed;

	(void)state;
	start(&fx, 2);
	fx.part[1].prepare_ret = -ENOMEM;
	assert_int_equal(map(&fx, &exposed), -ENOMEM);
	assert_false(exposed);
	assert_int_equal(fx.part[0].nr_maps, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_mapped_in_part_before_it_was_prepared_may_be_remembered),
		cmocka_unit_test(what_is_mapped_at_last_was_not_taken_away),
		cmocka_unit_test(what_could_not_be_prepared_was_never_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
