/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench - what the mediator costs, next to what it cannot do without.
 *
 * Each number stands beside a yardstick that was measured in turn with it, in the same run and on
 * the same CPU: the copies that the job contains, a comparison of the same bytes, the bare stores
 * of page-table entries, GLib's GTree. So a slow or busy machine moves both, and a ratio means
 * something on any. Medians of many rounds; the reading of the clock is taken off.
 * docs/bench.md says what each number means. Exit status 0 whatever they are.
 *
 * usage: bench TRACES OUT.json [ITEM...]
 */
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#undef MIN /* GLib has its own */
#undef MAX
#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/dart_regs.h"
#include "iommu/diff.h"
#include "iommu/maptree.h"
#include "iommu/mediator.h"
#include "iommu/pool.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define SLOTS	 (H / G)
#define MiB	 0x100000ull
#define RAM_GPA	 0x40000000ull
#define RAM_LEN	 (2048 * MiB)
#define MAX_DART 4
#define DOMAIN	 0
#define ENDPOINT 8

/* ---- clock and statistics ---- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static double clock_ns; /* what a pair of readings sees when nothing lies between them */

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

#define MAX_ROUNDS 4096

struct series {
	double v[MAX_ROUNDS];
	size_t nr;
};

static void add(struct series *s, double v)
{
	if (s->nr < MAX_ROUNDS)
		s->v[s->nr++] = v;
}

static double median(struct series *s)
{
	qsort(s->v, s->nr, sizeof(s->v[0]), compare_doubles);
	return s->nr ? s->v[s->nr / 2] : NAN;
}

/* How far off the median of so many may be: two standard errors, from the quartiles. */
static double uncertainty(struct series *s)
{
	(void)median(s);
	return 2 * 1.253 * (s->v[s->nr * 3 / 4] - s->v[s->nr / 4]) / 1.349 / sqrt((double)s->nr);
}

static unsigned rnd_state = 1;

static unsigned rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 17;
	rnd_state ^= rnd_state << 5;
	return rnd_state;
}

static void keep(const void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

/* The library's, as the mediator calls them: not what a compiler makes of a known length. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
static int (*volatile compare)(const void *, const void *, size_t) = memcmp;

static void check(int ret, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "bench: %s: %s\n", what, strerror(-ret));
	exit(1);
}

/* ---- results ---- */

static FILE *json;
static bool first_row = true;

/* A row: what was measured, its yardstick, and the most that is allowed, all in ns (or as @unit).
 */
static void report(const char *item, const char *name, double value, const char *yard_name,
		   double yard, const char *target, double most)
{
	bool met = value <= most;

	printf("%-4s %-46s %12.1f %12.1f %12.1f  %-3s  %s; yardstick: %s\n", item, name, value,
	       yard, most, met ? "yes" : "NO", target, yard_name);
	fflush(stdout);
	fprintf(json,
		"%s\n  {\"item\": \"%s\", \"name\": \"%s\", \"value\": %.2f, \"yardstick\": %.2f, "
		"\"yardstick_is\": \"%s\", \"most\": %.2f, \"target\": \"%s\", \"met\": %s}",
		first_row ? "" : ",", item, name, value, yard, yard_name, most, target,
		met ? "true" : "false");
	first_row = false;
}

/* ---- DARTs behind a stub of registers, and what a device finds through their tables ---- */

/* Registers that remember; an invalidation is busy for @busy_ns of the real clock. */
struct stub {
	uint32_t regs[DART_REGS_SIZE / 4];
	uint64_t busy_ns, busy_until;
};

static uint32_t stub_read(void *ctx, uint32_t offset)
{
	struct stub *stub = ctx;
	uint32_t value = stub->regs[offset / 4];

	if (offset != DART_V1_STREAM_COMMAND)
		return value;
	value &= ~(uint32_t)DART_V1_STREAM_COMMAND_BUSY;
	if (stub->busy_ns && now_ns() < stub->busy_until)
		value |= DART_V1_STREAM_COMMAND_BUSY;
	return value;
}

static void stub_write(void *ctx, uint32_t offset, uint32_t value)
{
	struct stub *stub = ctx;

	stub->regs[offset / 4] = value;
	if (stub->busy_ns && offset == DART_V1_STREAM_COMMAND)
		stub->busy_until = now_ns() + stub->busy_ns;
}

static uint64_t stub_now(void *ctx)
{
	(void)ctx;
	return now_ns();
}

/* Physical addresses are the low bits of host addresses; all of ours share the high ones. */
#define PA_MASK GENMASK(41, 0)
static uintptr_t pa_high;

/* Tables, each a page: from where guest memory is, so that addresses share their high bits. */
#define NR_TABLES 1024
static uint8_t *tables;
static void *free_tables[NR_TABLES];
static unsigned nr_free_tables;

static void *table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	void *table;

	(void)ctx;
	if (!nr_free_tables || size > H)
		return NULL;
	table = free_tables[--nr_free_tables];
	memset(table, 0, size);
	*pa = (uintptr_t)table & PA_MASK;
	return table;
}

static void table_free(void *ctx, void *table, size_t size)
{
	(void)ctx;
	(void)size;
	free_tables[nr_free_tables++] = table;
}

static void *table_map(void *ctx, uint64_t pa, size_t size)
{
	(void)ctx;
	(void)size;
	return (void *)(pa_high | (uintptr_t)pa);
}

static int pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	(void)ctx;
	*pa = (uintptr_t)hva & PA_MASK;
	*run = len;
	return ((uintptr_t)hva & ~PA_MASK) == pa_high ? 0 : -EFAULT;
}

static const struct dart_host_ops host_ops = {
	.read = stub_read,
	.write = stub_write,
	.now_ns = stub_now,
	.mem = {.table_alloc = table_alloc,
		.table_free = table_free,
		.table_map = table_map,
		.pa_of = pa_of},
};

struct rig_cfg {
	unsigned nr_darts; /* 0: one */
	uint64_t busy_ns;
	uint64_t park_limit;
	uint32_t quarantine_frames;
};

struct rig {
	struct stub stub[MAX_DART];
	struct dart *dart[MAX_DART];
	unsigned nr_darts;
	struct mediator *m;
	struct endpoint *ep;
};

static uint8_t *ram;
static struct gmem gmem;

static uint8_t *at_gpa(uint64_t gpa)
{
	return ram + (gpa - RAM_GPA);
}

static void rig_open(struct rig *rig, const struct rig_cfg *cfg)
{
	struct mediator_cfg mc = {
		.gmem = &gmem,
		.guest_granule = G,
		.pool_limit = 512 * MiB,
		.max_domains = 4,
		.max_mappings = 1u << 20,
		.park_limit = cfg->park_limit,
		.quarantine_frames = cfg->quarantine_frames,
		.quarantine_ns = cfg->quarantine_frames ? 10000000 : 0,
		.doorbell = {1, 0},
	};
	struct stream streams[MAX_DART];
	struct endpoint_cfg ec = {.id = ENDPOINT, .name = "bench", .streams = streams};
	char error[200] = "";

	memset(rig, 0, sizeof(*rig));
	rig->nr_darts = MAX(cfg->nr_darts, 1u);
	ec.nr_streams = rig->nr_darts;
	ec.sync = SYNC_RINGS;
	check(mediator_create(&mc, &rig->m), "mediator");
	for (unsigned i = 0; i < rig->nr_darts; i++) {
		struct dart_cfg dc = {
			.kind = DART_T6000,
			.name = "dart",
			.host = &host_ops,
			.host_ctx = &rig->stub[i],
			.aperture = {0, UINT32_MAX},
		};

		rig->stub[i].regs[DART_PARAMS1 / 4] = FIELD_PREP(DART_PARAMS1_PAGE_SHIFT_MASK, 14);
		check(dart_create(&dc, &rig->dart[i], error, sizeof(error)), error);
		streams[i] = (struct stream){.inst = dart_instance(rig->dart[i])};
		rig->stub[i].busy_ns = cfg->busy_ns;
	}
	check(mediator_add_endpoint(rig->m, &ec, &rig->ep), "endpoint");
	check(mediator_attach(rig->m, DOMAIN, ENDPOINT, false), "attach");
}

static void rig_close(struct rig *rig)
{
	mediator_destroy(rig->m);
	for (unsigned i = 0; i < rig->nr_darts; i++)
		dart_destroy(rig->dart[i]);
}

static inline void do_map(struct rig *rig, uint64_t iova, uint64_t len, uint64_t gpa,
			  unsigned flags)
{
	struct mapping map = {iova, iova + len - 1, gpa, flags};
	int ret = mediator_map(rig->m, DOMAIN, &map);

	if (ret)
		check(ret, "map");
}

static inline void do_unmap(struct rig *rig, uint64_t iova, uint64_t len)
{
	int ret = mediator_unmap(rig->m, DOMAIN, iova, iova + len - 1);

	if (ret)
		check(ret, "unmap");
}

/* Where a device's access lands: the walk that a DART does. NULL: a fault. */
static uint8_t *device_at(const struct rig *rig, uint64_t iova, unsigned prot)
{
	static struct dart_geometry geo;
	struct dart_leaf leaf;
	uint64_t pa;
	uint32_t ttbr;

	if (!geo.levels)
		check(dart_geometry_init(&geo, &dart_fmt_2, 14, 32), "geometry");
	ttbr = rig->stub[0].regs[DART_V1_TTBR(0, dart_ttbr_index(&geo, iova)) / 4];
	if (!(ttbr & DART_V1_TTBR_VALID))
		return NULL;
	pa = (uint64_t)(ttbr & DART_V1_TTBR_ADDR_MASK) << DART_V1_TTBR_ADDR_LG2;
	for (unsigned level = geo.levels - 1;; level--) {
		uint64_t entry =
			((uint64_t *)table_map(NULL, pa, H))[dart_index(&geo, level, iova)];

		if (!level) {
			if (!dart_leaf_unpack(&dart_fmt_2, &geo, entry, &leaf) ||
			    (leaf.prot & prot) != prot)
				return NULL;
			return (uint8_t *)table_map(NULL, leaf.pa, H) + iova % H;
		}
		if (!dart_table_unpack(&dart_fmt_2, &geo, entry, &pa))
			return NULL;
	}
}

/* What devices write: pages of which no two that follow each other agree in more bytes than chance
 * has it; and pages in which each byte differs. */
#define NR_PATTERNS 16
static uint8_t pattern[NR_PATTERNS][G] __attribute__((aligned(64)));

static void make_patterns(void)
{
	for (unsigned p = 0; p < NR_PATTERNS; p++)
		for (unsigned i = 0; i < G; i++)
			pattern[p][i] = (uint8_t)(rnd() >> 8);
}

/* ---- 1: 4 KiB map and unmap in a parked frame ---- */

enum device_write { NOTHING, EVERY_BYTE, RANDOM };

static void device_write(uint8_t *page, enum device_write how, unsigned n)
{
	if (how == RANDOM)
		copy(page, pattern[n % NR_PATTERNS], G);
	else if (how == EVERY_BYTE)
		memset(page, (int)n, G);
	keep(page);
}

static void bench_parked(void)
{
	static const char *const names[] = {
		[NOTHING] = "parked 4 KiB map+unmap, device wrote nothing",
		[EVERY_BYTE] = "parked 4 KiB map+unmap, device changed all",
		[RANDOM] = "parked 4 KiB map+unmap, device wrote random",
	};
	enum { FRAMES = 16, BATCH = 64, ROUNDS = 401 };
	static uint8_t own[2][FRAMES][G] __attribute__((aligned(0x4000)));
	static struct rig rig;
	struct mediator_stats stats;
	uint8_t *bounce[FRAMES];
	struct series all, copies, writes;

	rig_open(&rig, &(struct rig_cfg){.park_limit = 16 * MiB});
#define IOVA(f) (0x100000 + (f)*H)
#define GPA(f)	(RAM_GPA + 16 * MiB + (f)*H + G)
	for (unsigned f = 0; f < FRAMES; f++) {
		memset(at_gpa(GPA(f)), 0x5a, G);
		do_map(&rig, IOVA(f), G, GPA(f), MAP_READ | MAP_WRITE);
		bounce[f] = device_at(&rig, IOVA(f), MAP_WRITE);
	}
	for (unsigned f = 0; f < FRAMES; f++)
		do_unmap(&rig, IOVA(f), G);
	for (enum device_write how = NOTHING; how <= RANDOM; how++) {
		all.nr = copies.nr = writes.nr = 0;
		for (unsigned r = 0; r < ROUNDS; r++) {
			uint64_t t[4];

			t[0] = now_ns();
			for (unsigned i = 0; i < BATCH; i++) {
				unsigned f = i % FRAMES;

				do_map(&rig, IOVA(f), G, GPA(f), MAP_READ | MAP_WRITE);
				device_write(bounce[f], how, r * 5 + i / FRAMES);
				do_unmap(&rig, IOVA(f), G);
			}
			t[1] = now_ns();
			for (unsigned i = 0; i < BATCH; i++) {
				unsigned f = i % FRAMES;
				uint8_t *guest = at_gpa(GPA(f));

				copy(own[0][f], guest, G);
				keep(own[0][f]);
				copy(own[1][f], guest, G);
				keep(own[1][f]);
				device_write(own[0][f], how, r * 5 + i / FRAMES);
				if (how != NOTHING)
					copy(guest, own[0][f], G);
				keep(guest);
			}
			t[2] = now_ns();
			for (unsigned i = 0; i < BATCH; i++)
				device_write(own[0][i % FRAMES], how, r * 5 + i / FRAMES);
			t[3] = now_ns();
			add(&all, ((double)(t[1] - t[0]) - clock_ns) / BATCH);
			add(&copies, ((double)(t[2] - t[1]) - clock_ns) / BATCH);
			add(&writes, ((double)(t[3] - t[2]) - clock_ns) / BATCH);
		}
		double yard = median(&copies) - median(&writes);

		report("1", names[how], median(&all) - median(&writes),
		       how == NOTHING ? "2 memcpy of 4 KiB" : "3 memcpy of 4 KiB", yard,
		       "<= 1.5 x + 150 ns", 1.5 * yard + 150);
	}
	mediator_get_stats(rig.m, &stats);
	if (stats.parked_hits < FRAMES * ROUNDS)
		fprintf(stderr, "bench: item 1 found only %" PRIu64 " parked frames\n",
			stats.parked_hits);
	rig_close(&rig);
#undef IOVA
#undef GPA
}

/* ---- 2: clean sync, and one dirty line ---- */

/* Page i of guest memory is not where page i of IOVA space would like it: order[i] * 5 + 1. */
static unsigned *shuffled(unsigned nr)
{
	unsigned *v = malloc(nr * sizeof(*v));

	for (unsigned i = 0; i < nr; i++)
		v[i] = i;
	for (unsigned i = nr - 1; i; i--) {
		unsigned j = rnd() % (i + 1), x = v[i];

		v[i] = v[j];
		v[j] = x;
	}
	return v;
}

static void bench_sync_of(unsigned nr)
{
	const unsigned rounds = nr > 1000 ? 301 : 601, inner = MAX(1u, 256 / nr);
	const uint64_t iova0 = 0x1000000, gpa0 = RAM_GPA + 256 * MiB;
	unsigned *order = shuffled(nr);
	uint8_t *own, *twin, *near = at_gpa(RAM_GPA + 768 * MiB);
	struct pool *pool;
	size_t got;
	uint8_t **bounce = malloc(nr * sizeof(*bounce)), **guest = malloc(nr * sizeof(*guest));
	static struct rig rig;
	static struct series clean[2], yard[2], same, random;
	char name[80];

	rig_open(&rig, &(struct rig_cfg){});
	clean[0].nr = clean[1].nr = yard[0].nr = yard[1].nr = same.nr = random.nr = 0;
	check(pool_create(H, 512 * MiB, &pool), "pool");
	own = pool_get(pool, nr / SLOTS, &got);
	twin = pool_twin(pool, own);
	memset(own, 1, (size_t)nr * G);
	memset(twin, 1, (size_t)nr * G);
	memset(near, 1, (size_t)nr * G);
	for (unsigned i = 0; i < nr; i++) {
		uint64_t gpa = gpa0 + (5 * (uint64_t)order[i] + 1 + (i % 4 == order[i] % 4)) * G;

		guest[i] = at_gpa(gpa);
		memset(guest[i], 1, G);
		do_map(&rig, iova0 + i * G, G, gpa, MAP_READ | MAP_WRITE);
		bounce[i] = device_at(&rig, iova0 + i * G, MAP_WRITE);
	}
	for (unsigned r = 0; r < rounds; r++) {
		unsigned differ = 0;
		double base;
		uint64_t t[6];

		for (unsigned dir = 0; dir < 2; dir++) {
			t[0] = now_ns();
			for (unsigned n = 0; n < inner; n++) {
				if (dir)
					endpoint_sync_for_cpu(rig.ep);
				else
					endpoint_sync_for_device(rig.ep);
			}
			t[1] = now_ns();
			/* As many bytes, placed like them: guest pages in no order, bounce pages
			 * and twins in frames. */
			for (unsigned n = 0; n < inner; n++)
				for (unsigned i = 0; i < nr; i++)
					differ += compare(dir ? own + i * G : near + order[i] * G,
							  twin + i * G, G) != 0;
			t[2] = now_ns();
			keep(&differ);
			add(&clean[dir], ((double)(t[1] - t[0]) - clock_ns) / inner);
			add(&yard[dir], ((double)(t[2] - t[1]) - clock_ns) / inner);
		}
		/* a dirty one between two clean ones of its own */
		for (unsigned kind = 0; kind < 2; kind++) {
			unsigned at = kind ? rnd() % nr : nr / 2;

			/* the caches as the clean ones will find them */
			endpoint_sync_for_cpu(rig.ep);
			t[0] = now_ns();
			for (unsigned n = 0; n < inner; n++)
				endpoint_sync_for_cpu(rig.ep);
			t[1] = now_ns();
			for (unsigned n = 0; n < inner; n++) {
				bounce[kind ? rnd() % nr : at][20 * 64 + 8]++;
				endpoint_sync_for_cpu(rig.ep);
			}
			t[2] = now_ns();
			for (unsigned n = 0; n < inner; n++)
				endpoint_sync_for_cpu(rig.ep);
			t[3] = now_ns();
			base = ((double)(t[1] - t[0]) + (double)(t[3] - t[2])) / 2;
			add(kind ? &random : &same, ((double)(t[2] - t[1]) - base) / inner);
		}
	}
	for (unsigned dir = 0; dir < 2; dir++) {
		double y = median(&yard[dir]);

		snprintf(name, sizeof(name), "clean sync for %s of %u ring slots",
			 dir ? "the CPU" : "devices", nr);
		report("2", name, median(&clean[dir]), "memcmp of the same bytes", y, "<= 1.25 x",
		       1.25 * y);
	}
	/* What is sought drowns in the noise of a long comparison: say how much of it there is. */
	snprintf(name, sizeof(name), "one dirty line among %u, the same slot", nr);
	report("2", name, median(&same), "the noise of this", uncertainty(&same), "<= 2 us + noise",
	       2000 + uncertainty(&same));
	snprintf(name, sizeof(name), "one dirty line among %u, any slot", nr);
	report("2", name, median(&random), "the noise of this", uncertainty(&random),
	       "<= 2 us + noise", 2000 + uncertainty(&random));
	rig_close(&rig);
	free(order);
	pool_destroy(pool);
	free(bounce);
	free(guest);
}

static void bench_sync(void)
{
	bench_sync_of(16);
	bench_sync_of(256);
	bench_sync_of(4096);
}

/* ---- 3: direct map and unmap ---- */

static void bench_direct(void)
{
	static const struct {
		uint64_t len;
		const char *name;
	} sizes[] = {{16 * 1024, "direct map+unmap of 16 KiB"},
		     {MiB, "direct map+unmap of 1 MiB"},
		     {32 * MiB, "direct map+unmap of 32 MiB"}};
	static uint64_t table[32 * MiB / H];
	static struct rig rig;
	static struct series all, bare;

	rig_open(&rig, &(struct rig_cfg){});
	for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
		unsigned inner = (unsigned)MAX(1, 4 * MiB / sizes[s].len),
			 nr = (unsigned)(sizes[s].len / H);

		all.nr = bare.nr = 0;
		for (unsigned r = 0; r < 401; r++) {
			uint64_t t[3];

			t[0] = now_ns();
			for (unsigned i = 0; i < inner; i++) {
				do_map(&rig, 0x10000000, sizes[s].len, RAM_GPA,
				       MAP_READ | MAP_WRITE);
				do_unmap(&rig, 0x10000000, sizes[s].len);
			}
			t[1] = now_ns();
			for (unsigned i = 0; i < inner; i++) {
				uint64_t pte = ((uintptr_t)ram & PA_MASK) >> 4 | 3;

				for (unsigned n = 0; n < nr; n++, pte += H >> 4)
					__atomic_store_n(&table[n], pte, __ATOMIC_RELAXED);
				for (unsigned n = 0; n < nr; n++)
					__atomic_store_n(&table[n], 0, __ATOMIC_RELAXED);
			}
			t[2] = now_ns();
			add(&all, ((double)(t[1] - t[0]) - clock_ns) / inner);
			add(&bare, ((double)(t[2] - t[1]) - clock_ns) / inner);
		}
		report("3", sizes[s].name, median(&all), "bare PTE stores", median(&bare),
		       "<= 1.5 x + 300 ns", 1.5 * median(&bare) + 300);
	}
	rig_close(&rig);
}

/* ---- 4: the mapping tree ---- */

/* What QEMU's virtio-iommu keeps: intervals as keys, allocated one by one. */
struct interval {
	uint64_t low, high;
};

static gint compare_intervals(gconstpointer a, gconstpointer b, gpointer data)
{
	const struct interval *x = a, *y = b;

	(void)data;
	if (x->high < y->low)
		return -1;
	return x->low > y->high;
}

/* One turn of a mapping: found, removed and inserted again, at places in random order. */
static void turn_maptree(struct maptree *tree, uint64_t start)
{
	struct mapping map;

	if (!maptree_first(tree, start, start + G - 1, &map) || maptree_remove(tree, map.start))
		abort();
	map.flags ^= MAP_WRITE;
	check(maptree_insert(tree, &map), "maptree_insert");
}

static void insert_gtree(GTree *tree, uint64_t start)
{
	struct interval *key = g_malloc(sizeof(*key));
	struct mapping *map = g_malloc(sizeof(*map));

	*key = (struct interval){start, start + G - 1};
	*map = (struct mapping){start, start + G - 1, start, MAP_READ};
	g_tree_insert(tree, key, map);
}

static void turn_gtree(GTree *tree, uint64_t start)
{
	struct interval key = {start, start + G - 1};

	if (!g_tree_lookup(tree, &key) || !g_tree_remove(tree, &key))
		abort();
	insert_gtree(tree, start);
}

static void bench_tree(void)
{
	static const unsigned sizes[] = {1000, 10000, 100000, 1000000};
	enum { BATCH = 500, ROUNDS = 75 };
	double ours[4], theirs[4];
	static struct series a, b;
	char name[80];

	for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct maptree *tree;
		GTree *gtree = g_tree_new_full(compare_intervals, NULL, g_free, g_free);
		unsigned *order = shuffled(sizes[s]);

		a.nr = b.nr = 0;
		check(maptree_create(&tree), "maptree");
		for (unsigned i = 0; i < sizes[s]; i++) {
			uint64_t start = order[i] * 2 * G;
			struct mapping map = {start, start + G - 1, start, MAP_READ};

			check(maptree_insert(tree, &map), "maptree_insert");
			insert_gtree(gtree, start);
		}
		/* In blocks, for GTree's nodes would drive ours out of the caches; each after turns
		 * of its own that are not counted. */
		for (unsigned block = 0; block < 4; block++) {
			for (unsigned r = 0; r < (block % 2 ? 50 : 200) + ROUNDS; r++) {
				uint64_t at[BATCH], t;

				for (unsigned i = 0; i < BATCH; i++)
					at[i] = rnd() % sizes[s] * 2 * G;
				t = now_ns();
				for (unsigned i = 0; i < BATCH; i++) {
					if (block % 2)
						turn_gtree(gtree, at[i]);
					else
						turn_maptree(tree, at[i]);
				}
				t = now_ns() - t;
				if (r >= (block % 2 ? 50 : 200))
					add(block % 2 ? &b : &a, ((double)t - clock_ns) / BATCH);
			}
		}
		ours[s] = median(&a);
		theirs[s] = median(&b);
		maptree_destroy(tree);
		g_tree_destroy(gtree);
		free(order);
	}
	for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
		snprintf(name, sizeof(name), "find+remove+insert among %u mappings", sizes[s]);
		report("4", name, ours[s], "the same among 1000", ours[0], "growth <= 2.5 x",
		       2.5 * ours[0]);
	}
	report("4", "find+remove+insert among 1000000 mappings", ours[3], "GTree, the same",
	       theirs[3], "<= 1/3 of GTree", theirs[3] / 3);
}

/* ---- 5: several DARTs, waits overlapped ---- */

static void bench_overlap(void)
{
	static struct rig rig[2];
	static struct series t4, t1;

	rig_open(&rig[0], &(struct rig_cfg){.nr_darts = 1, .busy_ns = 10000});
	rig_open(&rig[1], &(struct rig_cfg){.nr_darts = 4, .busy_ns = 10000});
	for (unsigned r = 0; r < 401; r++) {
		for (unsigned i = 0; i < 2; i++) {
			uint64_t start = now_ns();

			do_map(&rig[i], 0x10000000, H, RAM_GPA, MAP_READ | MAP_WRITE);
			do_unmap(&rig[i], 0x10000000, H);
			add(i ? &t4 : &t1, (double)(now_ns() - start) - clock_ns);
		}
	}
	report("5", "map+unmap on 4 DARTs, invalidation 10 us", median(&t4), "on 1 DART",
	       median(&t1), "<= 1.5 x", 1.5 * median(&t1));
	rig_close(&rig[0]);
	rig_close(&rig[1]);
}

/* ---- 6: map_sg ---- */

static void bench_sg(void)
{
	enum { NR = 256 };
	static const struct {
		const char *name;
		uint64_t len, offset; /* of a segment, and of its gpa in a frame */
		unsigned flags;
		unsigned copies;
	} cases[] = {
		{"map_sg of 256 x 16 KiB, aligned", H, 0, MAP_READ | MAP_WRITE, 0},
		{"map_sg of 256 x 4 KiB, misaligned, read-only", G, G, MAP_READ, 1},
		{"map_sg of 256 x 4 KiB, misaligned, read-write", G, G, MAP_READ | MAP_WRITE, 2},
		{"map_sg of 256 x 16 KiB, misaligned, read-only", H, G, MAP_READ, 1},
	};
	static uint8_t own[2][NR * H] __attribute__((aligned(0x4000)));
	static struct rig rig;
	static struct series all, copies;

	for (unsigned c = 0; c < ARRAY_SIZE(cases); c++) {
		struct sg_segment sg[NR];
		unsigned *order = shuffled(NR);
		double yard;

		rig_open(&rig, &(struct rig_cfg){.park_limit = 64 * MiB});
		all.nr = copies.nr = 0;
		for (unsigned i = 0; i < NR; i++) {
			/* never slot s of a host frame for slot s of an IOVA frame, unless aligned
			 */
			uint64_t slot = cases[c].len == G ? (i + 1) % SLOTS * G : cases[c].offset;

			sg[i].gpa = RAM_GPA + 512 * MiB + order[i] * 3 * H + slot;
			sg[i].len = cases[c].len;
			memset(at_gpa(sg[i].gpa), 1, sg[i].len);
		}
		memset(own, 1, sizeof(own));
		for (unsigned r = 0; r < 201; r++) {
			uint64_t t[3], at = 0;

			t[0] = now_ns();
			check(mediator_map_sg(rig.m, DOMAIN, 0x20000000, sg, NR, cases[c].flags),
			      "map_sg");
			t[1] = now_ns();
			do_unmap(&rig, 0x20000000, NR * cases[c].len);
			t[2] = now_ns();
			for (unsigned i = 0; i < NR; i++, at += cases[c].len) {
				for (unsigned n = 0; n < cases[c].copies; n++) {
					copy(own[n] + at, at_gpa(sg[i].gpa), sg[i].len);
					keep(own[n]);
				}
			}
			t[2] = now_ns() - t[2];
			add(&all, (double)(t[1] - t[0]) - clock_ns);
			add(&copies, MAX((double)t[2] - clock_ns, 0));
		}
		yard = cases[c].copies ? median(&copies) : 0;
		report("6", cases[c].name, median(&all), "the copies it must make", yard,
		       "<= 1.5 x + 50 ns a segment", 1.5 * yard + 50 * NR);
		rig_close(&rig);
		free(order);
	}
}

/* ---- 7: lazy against strict ---- */

static void bench_lazy(void)
{
	enum { NR = 512 };
	static struct rig rig[2]; /* strict, lazy */
	static struct series t[2];

	rig_open(&rig[0], &(struct rig_cfg){.busy_ns = 10000});
	rig_open(&rig[1], &(struct rig_cfg){.busy_ns = 10000, .quarantine_frames = 256});
	for (unsigned r = 0; r < 31; r++) {
		for (unsigned k = 0; k < 2; k++) {
			uint64_t start;

			for (unsigned i = 0; i < NR; i++)
				do_map(&rig[k], 0x20000000 + i * H, G, RAM_GPA + i * H + G,
				       MAP_READ);
			start = now_ns();
			for (unsigned i = 0; i < NR; i++)
				do_unmap(&rig[k], 0x20000000 + i * H, G);
			add(&t[k], ((double)(now_ns() - start) - clock_ns) / NR);
		}
	}
	report("7", "unmap of bounced 4 KiB, lazy, invalidation 10 us", median(&t[1]), "strict",
	       median(&t[0]), "<= 1/5 of strict", median(&t[0]) / 5);
	rig_close(&rig[0]);
	rig_close(&rig[1]);
}

/* ---- 8: what stock guests map ---- */

struct request {
	bool map;
	uint64_t first, last, gpa;
	unsigned flags;
};

#define MAX_REQUESTS 16384
static struct request requests[MAX_REQUESTS];

static size_t read_trace(const char *folder, const char *name)
{
	char path[512], line[200];
	size_t nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.txt", folder, name);
	f = fopen(path, "r");
	if (!f)
		check(-errno, path);
	while (fgets(line, sizeof(line), f) && nr < MAX_REQUESTS) {
		struct request *r = &requests[nr];
		unsigned domain;
		int n = sscanf(line + 1, "%x %" SCNx64 " %" SCNx64 " %" SCNx64 " %x", &domain,
			       &r->first, &r->last, &r->gpa, &r->flags);

		r->map = line[0] == 'M';
		if (n == (r->map ? 5 : 3) && (r->map || line[0] == 'U'))
			nr++;
	}
	fclose(f);
	return nr;
}

/* Must the page at @iova be bounced? Not if its whole frame is in step with one frame of RAM. */
static bool must_bounce(const struct request *r, uint64_t iova)
{
	uint64_t frame = ALIGN_DOWN(iova, H);

	return (r->gpa - r->first) % H || frame < r->first || frame + H - 1 > r->last;
}

static uint64_t device_sum;

/* What a device does with a mapping: reads it all or writes it all; rings it leaves alone. */
static void transfer(uint8_t *at, unsigned flags, unsigned n)
{
	if (flags == MAP_WRITE)
		copy(at, pattern[n % NR_PATTERNS], G);
	else if (flags == MAP_READ)
		for (unsigned i = 0; i < G; i += 64)
			device_sum += at[i];
}

static const struct request *map_of(size_t *index, const struct request *unmap)
{
	for (size_t i = *index; i--;) {
		if (requests[i].map && requests[i].first == unmap->first)
			return &requests[i];
	}
	return NULL;
}

#define REPLAYS 11

/* Each request's times; their medians are summed, so that what interrupts one run counts in none.
 */
static float took[MAX_REQUESTS][REPLAYS];

static double sum_of_medians(size_t nr)
{
	double sum = 0;

	for (size_t i = 0; i < nr; i++) {
		static struct series s;

		s.nr = 0;
		for (unsigned r = 0; r < REPLAYS; r++)
			add(&s, took[i][r]);
		sum += median(&s);
	}
	return sum;
}

/* The requests through a mediator that has seen them all before, as one that has run for a while.
 */
static void replay_once(struct rig *rig, size_t nr, unsigned run)
{
	for (size_t i = 0; i < nr; i++) {
		const struct request *r = &requests[i];
		uint64_t start;

		if (r->map) {
			start = now_ns();
			do_map(rig, r->first, r->last - r->first + 1, r->gpa, r->flags);
			took[i][run] = (float)((double)(now_ns() - start) - clock_ns);
			for (uint64_t at = r->first; at < r->last; at += G) {
				uint8_t *page = device_at(rig, at, r->flags);

				if (!page)
					check(-EFAULT, "replay: a device met a hole");
				transfer(page, r->flags, (unsigned)(i + at / G));
			}
		} else {
			start = now_ns();
			do_unmap(rig, r->first, r->last - r->first + 1);
			took[i][run] = (float)((double)(now_ns() - start) - clock_ns);
		}
	}
}

static double replay(size_t nr, const struct rig_cfg *cfg)
{
	static struct rig rig;

	rig_open(&rig, cfg);
	for (unsigned r = 0; r < 1 + REPLAYS; r++) {
		replay_once(&rig, nr, r ? r - 1 : 0);
		check(mediator_unmap(rig.m, DOMAIN, 0, UINT32_MAX), "unmap");
	}
	rig_close(&rig);
	return sum_of_medians(nr);
}

/* The copies alone that no mediator could do without, in the same order, with the same data. */
#define OWN_PAGES 1024
static void copy_once(size_t nr, unsigned run)
{
	static uint8_t bounce[OWN_PAGES][G] __attribute__((aligned(0x4000)));
	static uint8_t twin[OWN_PAGES][G] __attribute__((aligned(0x4000)));

	for (size_t i = 0; i < nr; i++) {
		const struct request *r = &requests[i], *m = r->map ? r : map_of(&i, r);
		uint64_t start;

		if (!m)
			continue;
		if (!r->map) {
			if (m->flags != MAP_WRITE)
				continue;
			start = now_ns();
			for (uint64_t at = r->first; at < r->last; at += G)
				if (must_bounce(m, at))
					copy(at_gpa(m->gpa + (at - m->first)),
					     bounce[at / G % OWN_PAGES], G);
			took[i][run] = (float)((double)(now_ns() - start) - clock_ns);
			continue;
		}
		start = now_ns();
		for (uint64_t at = r->first; at < r->last; at += G) {
			const uint8_t *guest = at_gpa(r->gpa + (at - r->first));

			if (!must_bounce(r, at))
				continue;
			copy(bounce[at / G % OWN_PAGES], guest, G);
			if (r->flags & MAP_WRITE)
				copy(twin[at / G % OWN_PAGES], guest, G);
		}
		took[i][run] = (float)((double)(now_ns() - start) - clock_ns);
		for (uint64_t at = r->first; at < r->last; at += G)
			transfer(must_bounce(r, at) ? bounce[at / G % OWN_PAGES]
						    : at_gpa(r->gpa + (at - r->first)),
				 r->flags, (unsigned)(i + at / G));
	}
}

static double copy_only(size_t nr)
{
	memset(took, 0, sizeof(took));
	for (unsigned r = 0; r < 1 + REPLAYS; r++)
		copy_once(nr, r ? r - 1 : 0);
	return sum_of_medians(nr);
}

static const char *traces;

static void bench_traces(void)
{
	static const char *const names[] = {"nvme", "ahci", "xhci"};
	static struct series with, without, copies;

	for (unsigned n = 0; n < ARRAY_SIZE(names); n++) {
		size_t nr = read_trace(traces, names[n]);
		double yard, each = 1 / (double)MAX(nr, 1);
		char name[80];

		with.nr = without.nr = copies.nr = 0;
		for (unsigned r = 0; r < 3; r++) {
			add(&copies, copy_only(nr) * each);
			add(&with, replay(nr, &(struct rig_cfg){.park_limit = 64 * MiB,
								.quarantine_frames = 256}) *
					   each);
			add(&without, replay(nr, &(struct rig_cfg){}) * each);
		}
		yard = median(&copies);
		snprintf(name, sizeof(name), "%s trace, a request, parking", names[n]);
		report("8", name, median(&with), "the copies it must make", yard,
		       "<= 1.3 x + 250 ns", 1.3 * yard + 250);
		snprintf(name, sizeof(name), "%s trace, a request, no parking", names[n]);
		report("8", name, median(&without), "the copies it must make", yard,
		       "<= 1.3 x + 250 ns", 1.3 * yard + 250);
	}
}

/* ---- 9: where memory differs ---- */

static void bench_diff(void)
{
	enum { PAGES = 16, BATCH = 64, ROUNDS = 401 };
	static uint8_t own[2][PAGES][G] __attribute__((aligned(0x4000)));
	static const char *const names[] = {"a look at 4 KiB, nothing differs",
					    "every changed line found, 4 of 64"};
	static struct series fast, plain, library;
	struct diff_kind kinds[DIFF_MAX_KINDS];
	const struct diff_kind *best = &kinds[diff_kinds(kinds) - 1];

	memset(own, 1, sizeof(own));
	for (unsigned dirty = 0; dirty < 2; dirty++) {
		fast.nr = plain.nr = library.nr = 0;
		for (unsigned f = 0; f < PAGES && dirty; f++)
			for (unsigned i = 0; i < 4; i++)
				own[0][f][i * 16 * DIFF_LINE + f]++;
		for (unsigned r = 0; r < ROUNDS; r++) {
			const struct diff_kind *kind[2] = {best, &kinds[0]};
			size_t found = 0;
			uint64_t t;

			for (unsigned k = 0; k < 2; k++) {
				t = now_ns();
				for (unsigned i = 0; i < BATCH; i++) {
					const uint8_t *a = own[0][i % PAGES],
						      *b = own[1][i % PAGES];
					size_t n = G / DIFF_LINE;

					if (kind[k]->any(a, b, n))
						while ((n = kind[k]->last(a, b, n)))
							found += n--;
				}
				add(k ? &plain : &fast,
				    ((double)(now_ns() - t) - clock_ns) / BATCH);
			}
			t = now_ns();
			for (unsigned i = 0; i < BATCH; i++)
				found += compare(own[0][i % PAGES], own[1][i % PAGES], G) != 0;
			add(&library, ((double)(now_ns() - t) - clock_ns) / BATCH);
			keep(&found);
		}
		report("9", names[dirty], median(&fast), "the plain twin", median(&plain),
		       "<= 1/1.5", median(&plain) / 1.5);
		if (!dirty)
			report("9", names[dirty], median(&fast), "memcmp", median(&library),
			       "<= 1.1 x", 1.1 * median(&library));
	}
}

/* ---- all of it ---- */

static void (*const items[])(void) = {bench_parked, bench_sync,	   bench_direct,
				      bench_tree,   bench_overlap, bench_sg,
				      bench_lazy,   bench_traces,  bench_diff};

/* On one CPU, the one we are on: moving costs caches. */
static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)sched_getcpu(), &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static void prepare(void)
{
	static struct series pairs;

	pin();
	for (unsigned i = 0; i < 2001; i++) {
		uint64_t start = now_ns();

		add(&pairs, (double)(now_ns() - start));
	}
	clock_ns = median(&pairs);
	make_patterns();
	ram = mmap(NULL, RAM_LEN + (NR_TABLES + 1) * H, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED)
		check(-errno, "guest memory");
	ram = (uint8_t *)ALIGN_UP((uintptr_t)ram, H);
	tables = ram + RAM_LEN;
	for (unsigned i = 0; i < NR_TABLES; i++)
		free_tables[nr_free_tables++] = tables + i * H;
	pa_high = (uintptr_t)ram & ~PA_MASK;
	check(gmem_add(&gmem, RAM_GPA, RAM_LEN, ram), "guest memory");
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: bench TRACES OUT.json [ITEM...]\n");
		return 2;
	}
	traces = argv[1];
	json = fopen(argv[2], "w");
	if (!json)
		check(-errno, argv[2]);
	prepare();
	fprintf(json, "{\"unit\": \"ns\", \"clock_ns\": %.1f, \"rows\": [", clock_ns);
	printf("%-4s %-46s %12s %12s %12s  %s\n", "item", "measured, ns", "value", "yardstick",
	       "at most", "met");
	for (unsigned i = 0; i < ARRAY_SIZE(items); i++) {
		bool wanted = argc == 3;

		for (int a = 3; a < argc; a++)
			wanted |= atoi(argv[a]) == (int)i + 1;
		if (wanted)
			items[i]();
	}
	fprintf(json, "\n]}\n");
	return fclose(json) ? 1 : 0;
}
