/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that never pause, a CPU that never pauses, and a guest that maps and unmaps around their
 * pages all the time, so that frames go from window to bounce to direct and back, are parked, put
 * into quarantine and evicted, at the same time and in earnest.
 *
 * Each of some ring pages stays mapped. Two devices, each through a DART of its own, write words of
 * them that nobody else writes; the CPU writes others, and half of words whose other half a device
 * writes. A word is a count, twice, so a torn one shows, and so does one that is lost: whoever
 * looks must never see a count go back, and when all pause and the sync points have passed, both
 * sides must have the last ones. No access to a ring may ever fault. A third device writes wherever
 * the guest maps and unmaps, mapped or not: from the moment UNMAP has returned, the page must keep
 * what it holds.
 *
 * A comparison cannot see that a byte was written which then had its old value again. So nobody
 * writes a word so often during one request that any byte of it comes round.
 *
 * Not asked: what a device reads back of its own, or of the CPU's, while the frame changes its
 * class, for translations that lead to the old page and such that lead to the new one are in use
 * together until the invalidation has ended. Devices check that words are whole and not from the
 * future; the last ones when all is quiet.
 *
 * SEED=n and OPS=n (requests in all) as for the other oracles, though threads do not repeat.
 */
#include "iommu/tests/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/oracle_rig.h"

#define G	   0x1000ull
#define H	   0x4000ull
#define NR_RINGS   6u /* frames with a ring page each */
#define NR_LOOSE   4u /* frames without */
#define NR_FRAMES  (NR_RINGS + NR_LOOSE)
#define NR_SLOTS   (NR_FRAMES * 4)
#define WORDS	   (G / 8)
#define GPA	   0x40000000ull
#define BASE	   0x2000000ull
#define OTHER	   (NR_FRAMES * H) /* a second set of pages, one granule off */
#define RAM_LEN	   (2 * NR_FRAMES * H + H)
#define MAX_AHEAD  500u /* accesses of one device during one request before it yields */
#define MAX_WRITES 64u	/* of one word by one writer during one request */
#define ROUND_OPS  400u
#define WORLD_OPS  (4 * ROUND_OPS)

/* Who writes word i of a ring page; HALVES: device 0 the first half, the CPU the other. */
enum { DEVICE0, DEVICE1, THE_CPU, HALVES };

struct ring {
	unsigned slot;
	/* The last count that each writer has written, told after the fact by its one writer. */
	_Atomic uint32_t device[WORDS], cpu[WORDS];
	/* What the guest has last seen of the devices'. */
	uint32_t seen[WORDS];
	/* Of the one writer of a word: in which request it last wrote, and how often. */
	struct budget {
		unsigned request, used;
	} by_device[WORDS], by_cpu[WORDS];
};

struct world {
	uint64_t seed, rng;
	struct rig_mem mem;
	struct dart_rig rig[2];
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep[2];
	struct ring ring[NR_RINGS];
	/* What the guest has mapped at a slot that is no ring: 0 nothing. */
	struct {
		uint64_t gpa;
		uint8_t *page;
		bool closed; /* unmapped: page must stay as in was */
		uint8_t was[G];
	} slot[NR_SLOTS];
	atomic_uint request; /* the one under way */
	atomic_bool stop, failed;
	char error[200];
	atomic_ulong accesses, hostile, landed;
};

static uint64_t rnd(uint64_t *rng, uint64_t n)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return (*rng >> 11) % n;
}

/* From any thread: the first one is told when all have ended. */
__attribute__((format(printf, 2, 3))) static void bad(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (atomic_exchange(&w->failed, true))
		return;
	va_start(ap, fmt);
	vsnprintf(w->error, sizeof(w->error), fmt, ap);
	va_end(ap);
	atomic_store(&w->stop, true);
}

static uint64_t word_of(uint32_t count)
{
	return (uint64_t)count << 32 | count;
}

static uint64_t *ring_word(struct world *w, unsigned r, unsigned i)
{
	return (uint64_t *)(void *)(w->ram + r * H + w->ring[r].slot * G) + i;
}

static uint64_t ring_iova(const struct world *w, unsigned r, unsigned i)
{
	return BASE + r * H + w->ring[r].slot * G + i * 8;
}

static bool may_write(struct world *w, struct budget *budget)
{
	unsigned request = atomic_load_explicit(&w->request, memory_order_relaxed);

	if (budget->request != request)
		*budget = (struct budget){.request = request};
	return budget->used++ < MAX_WRITES;
}

/* ---- the devices ---- */

struct device {
	struct world *w;
	unsigned nr; /* and stream of which rig */
	uint64_t rng;
	unsigned request, done; /* what it did in which request */
};

/* One more access; one who is far ahead of the requests leaves the processor to others. */
static bool goes_on(struct device *dev)
{
	unsigned request = atomic_load_explicit(&dev->w->request, memory_order_relaxed);

	if (dev->request != request) {
		dev->request = request;
		dev->done = 0;
	}
	if (++dev->done > MAX_AHEAD)
		sched_yield();
	else
		atomic_fetch_add_explicit(&dev->w->accesses, 1, memory_order_relaxed);
	return !atomic_load_explicit(&dev->w->stop, memory_order_relaxed);
}

static void device_write(struct device *dev)
{
	struct world *w = dev->w;
	unsigned r = (unsigned)rnd(&dev->rng, NR_RINGS), i = (unsigned)rnd(&dev->rng, WORDS);
	struct ring *ring = &w->ring[r];
	uint32_t count;
	uint64_t word;
	size_t len = 8;

	if (i % 4 == HALVES && dev->nr == 0)
		len = 4;
	else
		i = i / 4 * 4 + dev->nr;
	if (!may_write(w, &ring->by_device[i]))
		return;
	count = atomic_load_explicit(&ring->device[i], memory_order_relaxed) + 1;
	word = word_of(count);
	if (dart_model_dma_write(w->rig[dev->nr].model, 0, ring_iova(w, r, i), &word, len))
		bad(w, "device %u: a write to ring %u faults", dev->nr, r);
	atomic_store_explicit(&ring->device[i], count, memory_order_release);
}

static void device_read(struct device *dev)
{
	struct world *w = dev->w;
	unsigned r = (unsigned)rnd(&dev->rng, NR_RINGS), i = (unsigned)rnd(&dev->rng, WORDS);
	uint64_t word;
	uint32_t last;

	i = i / 4 * 4 + THE_CPU;
	if (dart_model_dma_read(w->rig[dev->nr].model, 0, ring_iova(w, r, i), &word, 8)) {
		bad(w, "device %u: a read of ring %u faults", dev->nr, r);
		return;
	}
	/* The CPU tells one count late. */
	last = atomic_load_explicit(&w->ring[r].cpu[i], memory_order_acquire) + 1;
	if (word != word_of((uint32_t)word))
		bad(w, "device %u reads a torn word %016llx", dev->nr, (unsigned long long)word);
	else if ((uint32_t)word > last)
		bad(w, "device %u reads %u, the CPU is at %u", dev->nr, (uint32_t)word, last);
}

static void *run_device(void *arg)
{
	struct device *dev = arg;

	while (goes_on(dev)) {
		if (rnd(&dev->rng, 3))
			device_write(dev);
		else
			device_read(dev);
	}
	return NULL;
}

/* It writes where it may and where it may not, but never a ring. */
static void *run_hostile(void *arg)
{
	struct device *dev = arg;
	struct world *w = dev->w;
	uint8_t buf[64];

	while (goes_on(dev)) {
		unsigned s = (unsigned)rnd(&dev->rng, NR_SLOTS);
		unsigned len = 8 + (unsigned)rnd(&dev->rng, 7) * 8;
		uint64_t at = rnd(&dev->rng, (G - 64) / 8) * 8;

		if (s / 4 < NR_RINGS && s % 4 == w->ring[s / 4].slot)
			continue;
		memset(buf, (int)rnd(&dev->rng, 256), sizeof(buf));
		if (!dart_model_dma_write(w->rig[rnd(&dev->rng, 2)].model, 1, BASE + s * G + at,
					  buf, len))
			atomic_fetch_add_explicit(&w->landed, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&w->hostile, 1, memory_order_relaxed);
	}
	return NULL;
}

/* ---- the CPU ---- */

static void cpu_write(struct device *cpu)
{
	struct world *w = cpu->w;
	unsigned r = (unsigned)rnd(&cpu->rng, NR_RINGS), i = (unsigned)rnd(&cpu->rng, WORDS);
	uint64_t *word;
	uint32_t count;

	i = i / 4 * 4 + THE_CPU + i % 2; /* THE_CPU or HALVES */
	if (!may_write(w, &w->ring[r].by_cpu[i]))
		return;
	word = ring_word(w, r, i);
	count = atomic_load_explicit(&w->ring[r].cpu[i], memory_order_relaxed) + 1;
	if (i % 4 == HALVES)
		__atomic_store_n((uint32_t *)(void *)word + 1, count, __ATOMIC_RELAXED);
	else
		__atomic_store_n(word, word_of(count), __ATOMIC_RELAXED);
	atomic_store_explicit(&w->ring[r].cpu[i], count, memory_order_release);
}

static void cpu_read(struct device *cpu)
{
	struct world *w = cpu->w;
	unsigned r = (unsigned)rnd(&cpu->rng, NR_RINGS), i = (unsigned)rnd(&cpu->rng, WORDS);
	struct ring *ring = &w->ring[r];
	uint64_t word = __atomic_load_n(ring_word(w, r, i), __ATOMIC_RELAXED);
	uint32_t count = (uint32_t)word;

	if (i % 4 == THE_CPU)
		return;
	if (i % 4 != HALVES && word != word_of(count))
		bad(w, "the guest reads a torn word %016llx", (unsigned long long)word);
	if (i % 4 == HALVES && (uint32_t)(word >> 32) != atomic_load(&ring->cpu[i]))
		bad(w, "the guest's own half of a word is %u, it wrote %u", (uint32_t)(word >> 32),
		    atomic_load(&ring->cpu[i]));
	if (count < ring->seen[i])
		bad(w, "ring %u word %u went back from %u to %u", r, i, ring->seen[i], count);
	ring->seen[i] = count;
}

static void *run_cpu(void *arg)
{
	struct device *cpu = arg;

	while (goes_on(cpu)) {
		if (rnd(&cpu->rng, 2))
			cpu_write(cpu);
		else
			cpu_read(cpu);
	}
	return NULL;
}

/* ---- the guest's IOMMU driver ---- */

static bool is_ring(const struct world *w, unsigned s)
{
	return s / 4 < NR_RINGS && s % 4 == w->ring[s / 4].slot;
}

/* As words: a device that should not may be writing. */
static void copy_page(uint8_t *to, const uint8_t *page)
{
	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t word =
			__atomic_load_n((const uint64_t *)(const void *)page + i, __ATOMIC_RELAXED);

		memcpy(to + 8 * i, &word, 8);
	}
}

static void check_closed(struct world *w, unsigned s)
{
	uint8_t now[G];

	if (!w->slot[s].closed)
		return;
	copy_page(now, w->slot[s].page);
	if (memcmp(now, w->slot[s].was, G))
		bad(w, "slot %u: the page was written after UNMAP had returned", s);
	w->slot[s].closed = false;
}

static void unmap_slot(struct world *w, unsigned s)
{
	int ret = mediator_unmap(w->m, 1, BASE + s * G, BASE + s * G + G - 1);

	if (ret)
		bad(w, "unmap: %d", ret);
	w->slot[s].gpa = 0;
	w->slot[s].closed = true;
	copy_page(w->slot[s].was, w->slot[s].page);
}

static void map_slot(struct world *w, unsigned s, bool congruent, uint32_t flags)
{
	/* Its own page, or that of its own in the second set, which lies one granule off. */
	uint64_t off = congruent ? s * G : OTHER + s * G + G;
	const struct mapping map = {BASE + s * G, BASE + s * G + G - 1, GPA + off, flags};
	int ret;

	check_closed(w, s);
	ret = mediator_map(w->m, 1, &map);
	if (ret)
		bad(w, "map: %d", ret);
	w->slot[s].gpa = GPA + off;
	w->slot[s].page = w->ram + off;
}

static void request(struct world *w)
{
	unsigned s = (unsigned)rnd(&w->rng, NR_SLOTS), first = s / 4 * 4;
	uint32_t flags = rnd(&w->rng, 6) ? MAP_READ | MAP_WRITE : 1 + (uint32_t)rnd(&w->rng, 2);

	switch (rnd(&w->rng, 12)) {
	case 0:
		endpoint_sync_for_cpu(w->ep[rnd(&w->rng, 2)]);
		break;
	case 1:
		endpoint_sync_for_device(w->ep[rnd(&w->rng, 2)]);
		break;
	case 2:
		if (rnd(&w->rng, 4))
			(void)mediator_expire(w->m);
		else
			mediator_trim(w->m);
		break;
	case 3:
	case 4:
	case 5: /* all of a frame, so that it becomes direct */
		for (s = first; s < first + 4; s++) {
			if (!is_ring(w, s) && w->slot[s].gpa && w->slot[s].gpa != GPA + s * G)
				unmap_slot(w, s);
		}
		for (s = first; s < first + 4; s++) {
			if (!is_ring(w, s) && !w->slot[s].gpa)
				map_slot(w, s, true, MAP_READ | MAP_WRITE);
		}
		break;
	case 6: /* nothing of one is left: it is parked, or waits, or goes */
		for (s = first; s < first + 4; s++) {
			if (!is_ring(w, s) && w->slot[s].gpa)
				unmap_slot(w, s);
		}
		break;
	default:
		if (is_ring(w, s))
			break;
		if (w->slot[s].gpa)
			unmap_slot(w, s);
		else
			map_slot(w, s, rnd(&w->rng, 3), flags);
		break;
	}
}

/* All is quiet: after the sync points both sides have the last counts. */
static void check_quiet(struct world *w)
{
	for (unsigned e = 0; e < 2; e++)
		endpoint_sync_for_cpu(w->ep[e]);
	for (unsigned e = 0; e < 2; e++)
		endpoint_sync_for_device(w->ep[e]);
	for (unsigned r = 0; r < NR_RINGS; r++) {
		for (unsigned i = 0; i < WORDS; i++) {
			uint32_t device = w->ring[r].device[i], cpu = w->ring[r].cpu[i];
			uint64_t want = word_of(i % 4 == THE_CPU ? cpu : device), got;

			if (i % 4 == HALVES)
				want = (uint64_t)cpu << 32 | device;
			if (*ring_word(w, r, i) != want)
				bad(w, "ring %u word %u: the guest has %016llx, not %016llx", r, i,
				    (unsigned long long)*ring_word(w, r, i),
				    (unsigned long long)want);
			for (unsigned n = 0; n < 2; n++) {
				if (dart_model_dma_read(w->rig[n].model, 0, ring_iova(w, r, i),
							&got, 8))
					bad(w, "ring %u: device %u faults", r, n);
				else if (got != want)
					bad(w,
					    "ring %u word %u: device %u has %016llx, not %016llx",
					    r, i, n, (unsigned long long)got,
					    (unsigned long long)want);
			}
		}
	}
	for (unsigned s = 0; s < NR_SLOTS; s++)
		check_closed(w, s);
}

static void run_round(struct world *w)
{
	struct device arg[4];
	void *(*const run[4])(void *) = {run_device, run_device, run_hostile, run_cpu};
	pthread_t thread[4];
	unsigned long before;

	atomic_store(&w->stop, false);
	before = atomic_load(&w->accesses);
	for (unsigned i = 0; i < 4; i++) {
		arg[i] = (struct device){.w = w, .nr = i == 1, .rng = rnd(&w->rng, UINT32_MAX) + 1};
		assert_int_equal(pthread_create(&thread[i], NULL, run[i], &arg[i]), 0);
	}
	for (unsigned n = 0; n < ROUND_OPS && !atomic_load(&w->failed); n++) {
		request(w);
		atomic_fetch_add(&w->request, 1);
		/* On one core the others must come to something too. */
		if (n % 16 == 0)
			sched_yield();
	}
	while (atomic_load(&w->accesses) < before + ROUND_OPS && !atomic_load(&w->failed))
		sched_yield();
	atomic_store(&w->stop, true);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	if (!atomic_load(&w->failed))
		check_quiet(w);
	if (atomic_load(&w->failed))
		fail_msg("SEED=%llu: %s", (unsigned long long)w->seed, w->error);
}

static void create(struct world *w, uint64_t seed)
{
	struct mediator_cfg cfg = {
		.gmem = &w->gmem,
		.guest_granule = G,
		.pool_limit = 128 * 2 * H,
		.max_domains = 4,
		.max_mappings = 1000,
		.promote = true,
		.doorbell = {1, 0},
	};
	struct dart_rig_cfg rig = {.page_lg2 = 14, .timeout_ns = UINT64_MAX / 2};

	w->seed = seed;
	w->rng = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
	w->ram = aligned_alloc(H, RAM_LEN);
	memset(w->ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&w->gmem, GPA, RAM_LEN, w->ram), 0);
	rig_mem_init(&w->mem);
	cfg.park_limit = (seed / 2 % 3) * 4 * 2 * H;
	cfg.quarantine_frames = (uint32_t)(seed % 3) * 4;
	assert_int_equal(mediator_create(&cfg, &w->m), 0);
	/* Windows or not, one shared table, two, or one of small pages beside a large one. */
	rig.windows = seed % 4 != 1;
	for (unsigned i = 0; i < 2; i++) {
		struct dart_model_quirks quirks = {
			.evict_one_in = (unsigned)(seed / 3 % 3) * 8,
			.invalidate_delay_ns = seed % 5 * 500,
			.seed = seed + i,
		};

		rig.kind = i && seed % 4 == 2 ? DART_T6000 : DART_T8103;
		rig.page_lg2 = i && seed % 4 == 3 ? 12 : 14;
		w->rig[i].mem = &w->mem;
		rig_create(&w->rig[i], &rig);
		dart_model_set_quirks(w->rig[i].model, &quirks);
	}
	for (unsigned e = 0; e < 2; e++) {
		const struct stream streams[2] = {{w->rig[e].inst, 0}, {w->rig[e].inst, 1}};
		const struct endpoint_cfg ep = {.id = e,
						.name = "oracle",
						.streams = streams,
						.nr_streams = 2,
						.sync = SYNC_FULL};

		assert_int_equal(mediator_add_endpoint(w->m, &ep, &w->ep[e]), 0);
	}
	for (unsigned e = 0; e < 2; e++)
		assert_int_equal(mediator_attach(w->m, 1, e, false), 0);
	for (unsigned r = 0; r < NR_RINGS; r++) {
		unsigned s;

		w->ring[r].slot = (unsigned)rnd(&w->rng, 4);
		s = r * 4 + w->ring[r].slot;
		map_slot(w, s, true, MAP_READ | MAP_WRITE);
	}
}

static void add_stats(struct mediator_stats *sum, const struct mediator_stats *stats)
{
	sum->to_bounce += stats->to_bounce;
	sum->to_direct += stats->to_direct;
	sum->parked_hits += stats->parked_hits;
	sum->quarantined_frames += stats->quarantined_frames;
	sum->window_frames += stats->window_frames;
	sum->maps += stats->maps;
}

static void destroy(struct world *w, struct mediator_stats *sum)
{
	struct mediator_stats stats;

	mediator_reset(w->m);
	mediator_get_stats(w->m, &stats);
	add_stats(sum, &stats);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bounce_bytes, 0);
	assert_int_equal(stats.bounce_live + stats.window_live + stats.direct_live, 0);
	mediator_destroy(w->m);
	for (unsigned i = 0; i < 2; i++)
		rig_destroy(&w->rig[i]);
	assert_int_equal(w->mem.tables, 0);
	pthread_mutex_destroy(&w->mem.lock);
	free(w->ram);
}

static void nothing_is_lost_torn_or_written_late_while_everything_changes(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	unsigned long ops = 60 * WORLD_OPS;
#else
	unsigned long ops = 120 * WORLD_OPS;
#endif
	const char *seed_env = getenv("SEED"), *ops_env = getenv("OPS");
	uint64_t seed = seed_env ? strtoull(seed_env, NULL, 0) : 1;
	struct mediator_stats sum = {0};
	unsigned long accesses = 0, hostile = 0, landed = 0;

	(void)state;
	if (ops_env)
		ops = strtoul(ops_env, NULL, 0);
	printf("SEED=%llu OPS=%lu\n", (unsigned long long)seed, ops);
	fflush(stdout);
	for (unsigned long done = 0; done < ops; done += WORLD_OPS, seed++) {
		struct world *w = calloc(1, sizeof(*w));

		create(w, seed);
		for (unsigned n = 0; n < WORLD_OPS / ROUND_OPS; n++)
			run_round(w);
		accesses += w->accesses;
		hostile += w->hostile;
		landed += w->landed;
		destroy(w, &sum);
		free(w);
	}
	printf("accesses %lu, hostile %lu of which landed %lu; maps %llu, to bounce %llu, to "
	       "direct "
	       "%llu, parked hits %llu, quarantined %llu, windows %llu\n",
	       accesses, hostile, landed, (unsigned long long)sum.maps,
	       (unsigned long long)sum.to_bounce, (unsigned long long)sum.to_direct,
	       (unsigned long long)sum.parked_hits, (unsigned long long)sum.quarantined_frames,
	       (unsigned long long)sum.window_frames);
	/* A run that did nothing proves nothing. */
	if (ops >= 60 * WORLD_OPS) {
		assert_true(accesses >= ops);
		assert_true(sum.to_bounce > ops / 100 && sum.to_direct > ops / 100);
		assert_true(sum.parked_hits && sum.quarantined_frames && sum.window_frames);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_torn_or_written_late_while_everything_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
