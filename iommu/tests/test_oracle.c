/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random requests, CPU writes and device accesses against an oracle that knows only what the guest
 * asked for and a plain array of bytes. After every operation guest memory must be what the oracle
 * says; every device access that the mappings allow must succeed and see the right bytes; none that
 * they forbid may change a byte of guest memory or see one.
 *
 * SEED=n repeats a run, OPS=n sets its length.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"

#define G	   0x1000ull
#define H	   0x4000ull
#define LOW	   0x40000000ull
#define LOW_LEN	   (8 * H)
#define HIGH	   0x100000000ull
#define HIGH_LEN   (4 * H)
#define RAM_LEN	   (LOW_LEN + HIGH_LEN)
#define WINDOW	   0x200000ull
#define NR_SLOTS   96u
#define HOLE	   (WINDOW + 60 * G) /* a reserved frame in the middle, on one instance */
#define NR_EPS	   4u
#define NR_INSTS   4u
#define NR_DOMAINS 3u
#define MAX_MAPS   64u
#define POOL_PAGES 24u

struct model_map {
	uint64_t start, last, gpa;
	uint32_t flags;
};

struct model_domain {
	bool bypass;
	unsigned nr_eps, nr_maps;
	struct model_map map[MAX_MAPS];
};

struct world {
	uint64_t rng;
	struct gmem gmem;
	uint8_t *ram, *model_ram;
	struct mediator *m;
	struct fake_instance inst[NR_INSTS];
	struct endpoint *ep[NR_EPS]; /* id = index */
	struct model_domain dom[NR_DOMAINS];
	int ep_dom[NR_EPS]; /* -1: none */
	bool bypass;
	unsigned long op;
	unsigned long refused, mapped, allowed, forbidden, injected;
};

/* Endpoints 0 and 3 share an instance; endpoint 1 masters through two. */
static const struct {
	unsigned nr, inst[2];
} ep_insts[NR_EPS] = {{1, {0}}, {2, {1, 2}}, {1, {3}}, {1, {0}}};

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (w->rng >> 11) % n;
}

/* ---- the oracle ---- */

static uint8_t *model_byte(struct world *w, uint64_t gpa)
{
	if (gpa >= LOW && gpa < LOW + LOW_LEN)
		return w->model_ram + (gpa - LOW);
	if (gpa >= HIGH && gpa < HIGH + HIGH_LEN)
		return w->model_ram + LOW_LEN + (gpa - HIGH);
	return NULL;
}

static bool model_in_ram(uint64_t gpa, uint64_t len)
{
	return (gpa >= LOW && gpa + len <= LOW + LOW_LEN) ||
	       (gpa >= HIGH && gpa + len <= HIGH + HIGH_LEN);
}

static bool has_inst(unsigned e, unsigned i)
{
	for (unsigned n = 0; n < ep_insts[e].nr; n++) {
		if (ep_insts[e].inst[n] == i)
			return true;
	}
	return false;
}

/* The byte that a device behind instance @i reaches at @iova with @rights, by what the guest asked
 * for. */
static uint8_t *model_access(struct world *w, unsigned i, uint64_t iova, uint32_t rights)
{
	int d = -1;

	for (unsigned e = 0; e < NR_EPS; e++) {
		if (has_inst(e, i) && w->ep_dom[e] >= 0)
			d = w->ep_dom[e];
	}
	if (d < 0)
		return w->bypass ? model_byte(w, iova) : NULL;
	if (w->dom[d].bypass)
		return model_byte(w, iova);
	for (unsigned n = 0; n < w->dom[d].nr_maps; n++) {
		const struct model_map *map = &w->dom[d].map[n];

		if (iova >= map->start && iova <= map->last)
			return (map->flags & rights) == rights
				       ? model_byte(w, map->gpa + iova - map->start)
				       : NULL;
	}
	return NULL;
}

static int model_attach(struct world *w, unsigned e, unsigned d, bool bypass)
{
	struct model_domain *dom = &w->dom[d];

	if (dom->nr_eps && dom->bypass != bypass)
		return -EINVAL;
	if (w->ep_dom[e] == (int)d)
		return 0;
	/* endpoint 2's instance has a reserved frame */
	if (dom->nr_eps && e == 2) {
		for (unsigned n = 0; n < dom->nr_maps; n++) {
			if (dom->map[n].start <= HOLE + H - 1 && dom->map[n].last >= HOLE)
				return -EINVAL;
		}
	}
	for (unsigned o = 0; o < NR_EPS; o++) {
		if (o != e && w->ep_dom[o] >= 0 && w->ep_dom[o] != (int)d &&
		    has_inst(o, ep_insts[e].inst[0]))
			return -EOPNOTSUPP;
	}
	return 0;
}

static void model_detach(struct world *w, unsigned e)
{
	struct model_domain *dom;

	if (w->ep_dom[e] < 0)
		return;
	dom = &w->dom[w->ep_dom[e]];
	w->ep_dom[e] = -1;
	if (!--dom->nr_eps)
		dom->nr_maps = 0;
}

static int model_map_error(const struct world *w, unsigned d, const struct mapping *map)
{
	const struct model_domain *dom = &w->dom[d];

	if (!dom->nr_eps)
		return -ENOENT;
	if (dom->bypass)
		return -EINVAL;
	if (map->start % G || (map->last + 1) % G || map->gpa % G || map->last < map->start)
		return -ERANGE;
	if (w->ep_dom[2] == (int)d && map->start <= HOLE + H - 1 && map->last >= HOLE)
		return -EINVAL;
	if (!model_in_ram(map->gpa, map->last - map->start + 1))
		return -EFAULT;
	for (unsigned n = 0; n < dom->nr_maps; n++) {
		if (dom->map[n].start <= map->last && map->start <= dom->map[n].last)
			return -EINVAL;
	}
	return 0;
}

/* ---- checks ---- */

static void check_ram(struct world *w)
{
	if (memcmp(w->ram, w->model_ram, RAM_LEN)) {
		for (size_t i = 0; i < RAM_LEN; i++) {
			if (w->ram[i] != w->model_ram[i])
				fail_msg("op %lu: guest byte 0x%zx is %02x, the oracle says %02x",
					 w->op, i, w->ram[i], w->model_ram[i]);
		}
	}
}

static void check_device_views(struct world *w)
{
	for (unsigned i = 0; i < NR_INSTS; i++) {
		for (unsigned s = 0; s < NR_SLOTS; s++) {
			uint64_t iova = WINDOW + s * G;
			const uint8_t *want = model_access(w, i, iova, MAP_READ);
			const uint8_t *wo = model_access(w, i, iova, MAP_WRITE);
			const uint8_t *got = fake_translate(&w->inst[i], iova, PROT_DEV_READ);

			if (want && (!got || memcmp(got, want, G)))
				fail_msg("op %lu: instance %u slot %u: %s", w->op, i, s,
					 got ? "wrong bytes" : "faults");
			if (wo && !fake_translate(&w->inst[i], iova, PROT_DEV_WRITE))
				fail_msg("op %lu: instance %u slot %u: write faults", w->op, i, s);
			/* CPU bytes are 0x01..0x7f: none may be seen where nothing is mapped. */
			for (size_t b = 0; !want && !wo && got && b < G; b++) {
				if (got[b] && got[b] < 0x80)
					fail_msg("op %lu: instance %u slot %u shows the guest's "
						 "bytes",
						 w->op, i, s);
			}
		}
	}
}

static void sync_all(struct world *w)
{
	for (unsigned e = 0; e < NR_EPS; e++)
		endpoint_sync_for_cpu(w->ep[e]);
	for (unsigned e = 0; e < NR_EPS; e++)
		endpoint_sync_for_device(w->ep[e]);
}

/* ---- operations ---- */

/* Sometimes something the next request needs will not be there. */
static void inject(struct world *w)
{
	if (rnd(w, 8))
		return;
	if (rnd(w, 2)) {
		iommu_alloc_fail_nth(1 + (unsigned)rnd(w, 6));
	} else {
		struct fake_instance *fake = &w->inst[rnd(w, NR_INSTS)];

		fake->fail_map = 1 + (unsigned)rnd(w, 3);
		fake->map_error = rnd(w, 2) ? -ENOSPC : -EIO;
	}
}

/* Return: true if an injected failure has happened. */
static bool injected(struct world *w, bool was_armed_alloc)
{
	bool hit = was_armed_alloc && !iommu_alloc_fail_nth(0);

	for (unsigned i = 0; i < NR_INSTS; i++) {
		hit |= w->inst[i].map_error && !w->inst[i].fail_map;
		w->inst[i].fail_map = 0;
		w->inst[i].map_error = 0;
	}
	w->injected += hit;
	return hit;
}

static bool alloc_armed(void)
{
	unsigned left = iommu_alloc_fail_nth(0);

	if (left)
		iommu_alloc_fail_nth(left);
	return left != 0;
}

static void op_attach(struct world *w)
{
	unsigned e = (unsigned)rnd(w, NR_EPS), d = (unsigned)rnd(w, NR_DOMAINS);
	bool bypass = !rnd(w, 6), armed, hit;
	int want = model_attach(w, e, d, bypass), got;

	inject(w);
	armed = alloc_armed();
	got = mediator_attach(w->m, d, e, bypass);
	hit = injected(w, armed);
	/* whichever error comes first */
	if (got != want && !(hit && (got == -ENOMEM || got == -EIO)))
		fail_msg("op %lu: attach: %d, the oracle says %d", w->op, got, want);
	if (got || w->ep_dom[e] == (int)d) {
		w->refused++;
		return;
	}
	model_detach(w, e);
	w->ep_dom[e] = (int)d;
	w->dom[d].bypass = bypass;
	w->dom[d].nr_eps++;
}

static void op_detach(struct world *w)
{
	unsigned e = (unsigned)rnd(w, NR_EPS), d = (unsigned)rnd(w, NR_DOMAINS);
	int want = w->ep_dom[e] == (int)d ? 0 : -EINVAL;

	assert_int_equal(mediator_detach(w->m, d, e), want);
	if (!want)
		model_detach(w, e);
}

static uint64_t some_gpa(struct world *w)
{
	return rnd(w, 3) ? LOW + rnd(w, LOW_LEN / G) * G : HIGH + rnd(w, HIGH_LEN / G) * G;
}

static void op_map(struct world *w)
{
	unsigned d = (unsigned)rnd(w, NR_DOMAINS);
	uint64_t slot = rnd(w, NR_SLOTS), nr = 1 + rnd(w, rnd(w, 3) ? 4 : 16);
	struct model_domain *dom = &w->dom[d];
	struct mapping map;
	bool armed, hit;
	int want, got;

	if (slot + nr > NR_SLOTS)
		nr = NR_SLOTS - slot;
	map.start = WINDOW + slot * G;
	map.last = map.start + nr * G - 1;
	map.gpa = some_gpa(w);
	if (!rnd(w, 3))
		map.gpa = ALIGN_DOWN(map.gpa, H) + map.start % H;
	map.flags = (uint32_t)(rnd(w, 12) ? 1 + rnd(w, 3) : 0);
	if (!rnd(w, 50))
		map.start += 0x800;
	want = model_map_error(w, d, &map);
	if (!want && dom->nr_maps == MAX_MAPS)
		return;
	inject(w);
	armed = alloc_armed();
	got = mediator_map(w->m, d, &map);
	hit = injected(w, armed);
	if (got != want && !(!want && got == -ENOMEM) && !(!want && hit && got == -EIO))
		fail_msg("op %lu: map: %d, the oracle says %d", w->op, got, want);
	if (got) {
		w->refused++;
		return;
	}
	w->mapped++;
	dom->map[dom->nr_maps++] = (struct model_map){map.start, map.last, map.gpa, map.flags};
}

static void op_unmap(struct world *w)
{
	unsigned d = (unsigned)rnd(w, NR_DOMAINS), kept = 0;
	struct model_domain *dom = &w->dom[d];
	uint64_t start = WINDOW + rnd(w, NR_SLOTS) * G;
	uint64_t last = start + (1 + rnd(w, 12)) * G - 1;
	struct fake_instance *fake = &w->inst[rnd(w, NR_INSTS)];
	uint8_t *late = NULL;
	int want = dom->nr_eps ? dom->bypass ? -EINVAL : 0 : -ENOENT;

	if (dom->nr_maps && rnd(w, 3)) {
		const struct model_map *map = &dom->map[rnd(w, dom->nr_maps)];

		start = map->start;
		last = map->last + rnd(w, 3) / 2 * 2 * G;
	}
	if (!rnd(w, 100)) {
		start = 0;
		last = UINT64_MAX;
	}
	for (unsigned n = 0; !want && n < dom->nr_maps; n++) {
		const struct model_map *map = &dom->map[n];

		if (map->start <= last && start <= map->last &&
		    !(map->start >= start && map->last <= last))
			want = -ERANGE;
	}
	if (rnd(w, 2)) {
		fake->late_write = true;
		fake->late_iova = start + rnd(w, MIN(last - start, 8 * H) + 1);
		fake->late_byte = (uint8_t)(0x80 | rnd(w, 128));
		late = model_access(w, (unsigned)(fake - w->inst), fake->late_iova, MAP_WRITE);
	}
	assert_int_equal(mediator_unmap(w->m, d, start, last), want);
	/* it came while the request was being carried out, so before its answer */
	if (late && !fake->late_write)
		*late = fake->late_byte;
	fake->late_write = false;
	if (want)
		return;
	for (unsigned n = 0; n < dom->nr_maps; n++) {
		if (!(dom->map[n].start >= start && dom->map[n].last <= last))
			dom->map[kept++] = dom->map[n];
	}
	dom->nr_maps = kept;
}

static void op_cpu_write(struct world *w)
{
	size_t at = rnd(w, RAM_LEN), len = 1 + rnd(w, rnd(w, 4) ? 16 : 6000);

	for (size_t i = at; i < at + len && i < RAM_LEN; i++)
		w->ram[i] = w->model_ram[i] = (uint8_t)(1 + rnd(w, 127));
}

static uint64_t some_iova(struct world *w, unsigned inst)
{
	for (unsigned e = 0; e < NR_EPS && rnd(w, 4); e++) {
		if (has_inst(e, inst) && w->ep_dom[e] >= 0 && w->dom[w->ep_dom[e]].nr_maps) {
			const struct model_domain *dom = &w->dom[w->ep_dom[e]];
			const struct model_map *map = &dom->map[rnd(w, dom->nr_maps)];

			return map->start + rnd(w, map->last - map->start + 1);
		}
	}
	return rnd(w, 4) ? WINDOW + rnd(w, NR_SLOTS * G) : some_gpa(w) + rnd(w, G);
}

static void op_device_write(struct world *w)
{
	unsigned i = (unsigned)rnd(w, NR_INSTS);
	uint64_t iova = some_iova(w, i), len = 1 + rnd(w, rnd(w, 4) ? 24 : 4096);

	/* inside one slot, so that it meets no other mapping of the same guest page */
	len = MIN(len, G - iova % G);
	for (; len; len--, iova++) {
		uint8_t *want = model_access(w, i, iova, MAP_WRITE);
		uint8_t *got = fake_translate(&w->inst[i], iova, PROT_DEV_WRITE);
		uint8_t byte = (uint8_t)(0x80 | rnd(w, 128));

		if (want && !got)
			fail_msg("op %lu: device write at 0x%llx faults", w->op,
				 (unsigned long long)iova);
		if (want)
			w->allowed++;
		else
			w->forbidden++;
		if (want)
			*want = byte;
		if (got)
			*got = byte;
	}
}

static void op_bypass(struct world *w)
{
	w->bypass = rnd(w, 2);
	assert_int_equal(mediator_set_bypass(w->m, w->bypass), 0);
}

static void op_reset(struct world *w)
{
	mediator_reset(w->m);
	for (unsigned e = 0; e < NR_EPS; e++)
		model_detach(w, e);
}

static void step(struct world *w)
{
	uint64_t what = rnd(w, 1000);

	if (what < 30)
		op_attach(w);
	else if (what < 40)
		op_detach(w);
	else if (what < 330)
		op_map(w);
	else if (what < 560)
		op_unmap(w);
	else if (what < 740)
		op_cpu_write(w);
	else if (what < 990)
		op_device_write(w);
	else if (what < 997)
		op_bypass(w);
	else
		op_reset(w);
}

static void run(uint64_t seed, unsigned long ops)
{
	struct world *w = calloc(1, sizeof(*w));
	struct mediator_stats stats;
	const struct mediator_cfg cfg = {
		.gmem = &w->gmem,
		.guest_granule = G,
		.pool_limit = POOL_PAGES * 2 * H,
		.max_domains = NR_DOMAINS,
		.max_mappings = 1000,
		.doorbell = {1, 0},
		.ring_limit = seed % 3 * 2 * H,
	};

	w->rng = seed * 2654435761u + 1;
	w->ram = aligned_alloc(H, RAM_LEN);
	w->model_ram = malloc(RAM_LEN);
	for (size_t i = 0; i < RAM_LEN; i++)
		w->ram[i] = w->model_ram[i] = (uint8_t)(1 + rnd(w, 127));
	assert_int_equal(gmem_add(&w->gmem, LOW, LOW_LEN, w->ram), 0);
	assert_int_equal(gmem_add(&w->gmem, HIGH, HIGH_LEN, w->ram + LOW_LEN), 0);
	assert_int_equal(mediator_create(&cfg, &w->m), 0);
	for (unsigned i = 0; i < NR_INSTS; i++)
		fake_init(&w->inst[i], H, 0, 0xffffffffffff);
	w->inst[3].inst.nr_apertures = 2;
	w->inst[3].inst.apertures[0].last = HOLE - 1;
	w->inst[3].inst.apertures[1] = (struct iova_range){HOLE + H, 0xffffffffffff};
	for (unsigned e = 0; e < NR_EPS; e++) {
		const struct stream streams[2] = {{&w->inst[ep_insts[e].inst[0]].inst, 0},
						  {&w->inst[ep_insts[e].inst[1]].inst, 0}};
		const struct endpoint_cfg ep = {
			.id = e,
			.name = "oracle",
			.streams = streams,
			.nr_streams = ep_insts[e].nr,
			.sync = SYNC_FULL,
		};

		assert_int_equal(mediator_add_endpoint(w->m, &ep, &w->ep[e]), 0);
		w->ep_dom[e] = -1;
	}
	for (w->op = 0; w->op < ops; w->op++) {
		step(w);
		sync_all(w);
		check_ram(w);
		if (w->op % 8 == 0)
			check_device_views(w);
	}
	op_reset(w);
	mediator_set_bypass(w->m, false);
	check_ram(w);
	mediator_get_stats(w->m, &stats);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bounce_bytes, 0);
	assert_int_equal(stats.bounce_live + stats.direct_live + stats.exposed_live, 0);
	/* every change was synced before the other side made one */
	assert_int_equal(stats.conflicts, 0);
	for (unsigned i = 0; i < NR_INSTS; i++)
		assert_int_equal(w->inst[i].nr, 0);
	/* a run that did nothing proves nothing */
	if (ops >= 10000) {
		assert_true(w->mapped > ops / 50);
		assert_true(w->allowed > ops && w->forbidden > ops);
		assert_true(w->injected > ops / 1000);
		assert_true(stats.direct_frames > ops / 200 && stats.bounce_frames > ops / 50);
	}
	mediator_destroy(w->m);
	free(w->ram);
	free(w->model_ram);
	free(w);
}

static void random_operations_agree_with_the_oracle(void **state)
{
	const char *seed_env = getenv("SEED"), *ops_env = getenv("OPS");
	unsigned long ops = ops_env ? strtoul(ops_env, NULL, 0) : 20000;
	uint64_t seed = seed_env ? strtoull(seed_env, NULL, 0) : 3;

	(void)state;
	/* the same each time, so that what is red was made red by a change; soak looks elsewhere */
	if (!seed_env) {
		run(1, ops);
		run(2, ops);
	}
	printf("SEED=%llu OPS=%lu\n", (unsigned long long)seed, ops);
	fflush(stdout);
	run(seed, ops);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_agree_with_the_oracle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
