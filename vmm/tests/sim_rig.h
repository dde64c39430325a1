/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_rig - guest RAM, a mediator as the vmm has it, and simulated DARTs of its own in one
 * endpoint: what stands behind a simulated device.
 */
#ifndef TESTS_SIM_RIG_H
#define TESTS_SIM_RIG_H

#include "iommu/tests/check.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "vmm/hold.h"
#include "vmm/sim_dart.h"

#define G	  0x1000ull /* guest granule */
#define H	  0x4000ull /* host granule */
#define RAM	  0x40000000ull
#define RAM_LEN	  0x400000ull
#define SID	  5u
#define EP	  8u
#define MAX_DARTS 2u
#define RW	  (MAP_READ | MAP_WRITE)
#define NR_KINDS  3

struct sim_rig {
	uint8_t *ram;
	struct gmem gmem;
	struct sim_mem *mem;
	struct sim_dart *darts[MAX_DARTS];
	unsigned nr_darts;
	struct mediator *m;
	struct endpoint *ep;
	struct sim_port port; /* of the first */
};

static inline void sim_rig_ram(struct sim_rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	rig->ram = aligned_alloc(H, RAM_LEN);
	assert_non_null(rig->ram);
	memset(rig->ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&rig->gmem, RAM, RAM_LEN, rig->ram), 0);
}

static inline void sim_rig_hold(void *ctx)
{
	hold_take(ctx);
}

static inline void sim_rig_release(void *ctx)
{
	hold_release(ctx);
}

/* @lazy: what was bounced may stay mapped after it was unmapped, to a page of nobody's
 * @hold: of vCPUs that the endpoint wants held; NULL: it does not */
static inline void sim_rig_init_held(struct sim_rig *rig, enum sim_dart_kind kind,
				     enum sim_dart_quirk quirk, unsigned nr_darts, bool lazy,
				     struct hold *hold)
{
	const struct mediator_cfg cfg = {
		.gmem = &rig->gmem,
		.guest_granule = G,
		.pool_limit = RAM_LEN,
		.max_domains = 8,
		.max_mappings = 4096,
		.park_limit = lazy ? 16 * H : 0,
		.quarantine_frames = lazy ? 16 : 0,
		.promote = true,
		.hold = sim_rig_hold,
		.release = sim_rig_release,
		.hold_ctx = hold,
		.doorbell = {0x1030000, 0x103ffff},
	};
	struct stream streams[MAX_DARTS];
	char error[256];

	sim_rig_ram(rig);
	assert_int_equal(sim_mem_create(&rig->mem), 0);
	for (unsigned i = 0; i < nr_darts; i++) {
		const struct sim_dart_cfg dart = {
			.kind = kind, .quirk = quirk, .name = "dart", .sid = SID, .mem = rig->mem};

		if (sim_dart_create(&dart, &rig->darts[i], error, sizeof(error)))
			fail_msg("%s", error);
		streams[i] = sim_dart_stream(rig->darts[i]);
	}
	rig->nr_darts = nr_darts;
	assert_int_equal(mediator_create(&cfg, &rig->m), 0);
	assert_int_equal(mediator_add_endpoint(rig->m,
					       &(struct endpoint_cfg){.id = EP,
								      .name = "device",
								      .streams = streams,
								      .nr_streams = nr_darts,
								      .sync = SYNC_FULL,
								      .hold = hold != NULL},
					       &rig->ep),
			 0);
	for (unsigned i = 0; i < nr_darts; i++)
		sim_dart_set_mediator(rig->darts[i], rig->m);
	assert_int_equal(mediator_attach(rig->m, 1, EP, false), 0);
	rig->port = sim_dart_port(rig->darts[0]);
}

static inline void sim_rig_init(struct sim_rig *rig, enum sim_dart_kind kind,
				enum sim_dart_quirk quirk, unsigned nr_darts, bool lazy)
{
	sim_rig_init_held(rig, kind, quirk, nr_darts, lazy, NULL);
}

static inline void sim_rig_fini(struct sim_rig *rig)
{
	for (unsigned i = 0; i < rig->nr_darts; i++)
		sim_dart_set_mediator(rig->darts[i], NULL);
	if (rig->m)
		mediator_destroy(rig->m);
	while (rig->nr_darts)
		sim_dart_destroy(rig->darts[--rig->nr_darts]);
	sim_mem_destroy(rig->mem);
	free(rig->ram);
}

static inline int sim_rig_map(struct sim_rig *rig, uint64_t iova, uint64_t len, uint64_t gpa,
			      uint32_t flags)
{
	const struct mapping map = {iova, iova + (len - 1), gpa, flags};

	return mediator_map(rig->m, 1, &map);
}

static inline int sim_rig_unmap(struct sim_rig *rig, uint64_t iova, uint64_t len)
{
	return mediator_unmap(rig->m, 1, iova, iova + (len - 1));
}

#endif
