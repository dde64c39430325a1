/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_dart - the DART driver over hostile registers: they hold what was written, or not, or
 * anything; commands end, or never. The calls are the mediator's, in the order instance.h allows.
 *
 * Whatever the registers do, each call ends after a bounded number of accesses, all inside the
 * register window; a locked DART's contexts are never written; a table says what was mapped and
 * nothing else, as dart_walk() sees it; all tables are given back, and firmware's is left as it
 * was.
 *
 * Files: iommu/dart.c iommu/dart_pt.c iommu/dart_fmt.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>

#include "iommu/dart.h"
#include "iommu/dart_fmt.h"
#include "iommu/dart_regs.h"

#define PAGE	    0x4000ull
#define NR_TABLES   64u
#define NR_FIRMWARE 4u
#define NR_DATA	    16u
#define MEM_PAGES   (NR_FIRMWARE + NR_TABLES + NR_DATA)
#define PA	    0x800000000ull

#define MAX_OPS	     120
#define MAX_SHADOWS  4
#define MAX_MAPPINGS 24
/* No call has a reason for more: 256 streams, a few registers each, a few polls until the limit. */
#define MAX_ACCESSES 60000

/* Firmware's tables, ours, and what is mapped. */
static _Alignas(0x4000) uint8_t memory[MEM_PAGES * PAGE];

struct mapping {
	uint64_t iova;
	unsigned page, nr, prot;
	unsigned first, last; /* of a window; last 0: none */
	bool live;
};

struct user {
	struct shadow *shadow;
	struct mapping v[MAX_MAPPINGS];
};

static struct bench {
	uint32_t regs[DART_REGS_SIZE / 4];
	struct input *in;
	uint8_t noise; /* how registers misbehave, a bit each */
	uint64_t now;
	unsigned accesses; /* in this call */
	bool table_used[NR_TABLES];
	unsigned nr_tables;
	uint8_t fail_tables; /* n: the nth from now */
	bool fail_pa;
	enum dart_kind kind;
	struct dart *dart;
	bool was_locked, was_noisy;
	struct user users[MAX_SHADOWS];
	/* what each of the first streams walks; a call that failed leaves it unknown */
	struct shadow *walks[8];
	bool unknown[8];
	unsigned faults;
} b;

/* ---- registers ----------------------------------------------------------------------------------
 */

enum {
	DEAF = 1,    /* writes are lost */
	LOOSE = 2,   /* reads are the input's, now and then */
	BUSY = 4,    /* commands never end */
	MANGLED = 8, /* some written bits do not stick */
};

static bool is_context(uint32_t offset)
{
	if (b.kind == DART_T8110)
		return (offset >= 0x1000 && offset < 0x1800);
	if (b.kind == DART_T8103_USB4)
		return (offset >= 0x100 && offset < 0x200) || (offset >= 0x400 && offset < 0x800);
	return offset >= 0x100 && offset < 0x300;
}

static bool is_command(uint32_t offset)
{
	return offset == (b.kind == DART_T8110 ? DART_T8110_TLB_CMD : DART_V1_STREAM_COMMAND);
}

static void count(uint32_t offset)
{
	demand(offset < DART_REGS_SIZE && offset % 4 == 0);
	demand(b.accesses++ < MAX_ACCESSES);
}

static uint32_t reg_read(void *ctx, uint32_t offset)
{
	uint32_t v = b.regs[offset / 4];

	(void)ctx;
	count(offset);
	if (b.noise & BUSY && is_command(offset))
		return v | (b.kind == DART_T8110 ? DART_T8110_TLB_CMD_BUSY
						 : DART_V1_STREAM_COMMAND_BUSY);
	if (b.noise & LOOSE && b.in->left && take8(b.in) % 8 == 0)
		v ^= take32(b.in);
	return v;
}

static void reg_write(void *ctx, uint32_t offset, uint32_t value)
{
	uint32_t *reg = &b.regs[offset / 4];

	(void)ctx;
	count(offset);
	demand(!b.was_locked || !is_context(offset));
	if (b.noise & DEAF)
		return;
	if (b.noise & MANGLED)
		value &= ~(UINT32_C(1) << offset / 4 % 32);
	if (is_command(offset))
		value = 0; /* done at once */
	if (b.kind == DART_T8110 && offset >= 0xc20 && offset < 0xc40) {
		b.regs[(offset - 0x20) / 4] &= ~value;
		return;
	}
	if (offset == (b.kind == DART_T8110 ? DART_T8110_ERROR : DART_V1_ERROR))
		value = *reg & ~value; /* ones clear */
	*reg = value;
}

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	return b.now += 1000000;
}

/* ---- memory -------------------------------------------------------------------------------------
 */

static uint8_t *at(unsigned page)
{
	return memory + page * PAGE;
}

static void *table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	(void)ctx;
	demand(size <= PAGE);
	if (b.fail_tables && !--b.fail_tables)
		return NULL;
	for (unsigned i = 0; i < NR_TABLES; i++) {
		if (b.table_used[i])
			continue;
		b.table_used[i] = true;
		b.nr_tables++;
		memset(at(NR_FIRMWARE + i), 0, PAGE);
		*pa = PA + (NR_FIRMWARE + i) * PAGE;
		return at(NR_FIRMWARE + i);
	}
	return NULL;
}

static void table_free(void *ctx, void *table, size_t size)
{
	size_t i = ((uint8_t *)table - memory) / PAGE - NR_FIRMWARE;

	(void)ctx, (void)size;
	demand(i < NR_TABLES && b.table_used[i]);
	b.table_used[i] = false;
	b.nr_tables--;
	memset(table, 0xa5, PAGE);
}

/* Firmware's tables are the first pages; what else it may have named is out of reach. */
static void *table_map(void *ctx, uint64_t pa, size_t size)
{
	(void)ctx;
	demand(size && size <= PAGE);
	if (pa < PA || pa - PA > NR_FIRMWARE * PAGE - size)
		return NULL;
	return memory + (pa - PA);
}

static int pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	uint64_t off = (uint64_t)((const uint8_t *)hva - memory);

	(void)ctx;
	demand(len && off < sizeof(memory) && len <= sizeof(memory) - off);
	if (b.fail_pa)
		return -EFAULT;
	*pa = PA + off;
	*run = MIN(len, 1 + off % (2 * PAGE)); /* at least 1, else anything */
	return 0;
}

static void on_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	(void)ctx;
	demand(dart == b.dart && dart);
	demand(fault->reason <= FAULT_MAPPING &&
	       !(fault->flags & ~(unsigned)(FAULT_READ | FAULT_WRITE | FAULT_ADDRESS)));
	b.faults++;
}

static const struct dart_host_ops host = {
	.read = reg_read,
	.write = reg_write,
	.now_ns = now_ns,
	.mem = {table_alloc, table_free, table_map, pa_of},
};

/* ---- what the tables say ------------------------------------------------------------------------
 */

static bool read_entry(void *ctx, uint64_t pa, uint64_t *entry)
{
	(void)ctx;
	demand(pa >= PA && pa - PA <= sizeof(memory) - 8);
	*entry = get_le64(memory + (pa - PA));
	return true;
}

/* check_table - each page of each mapping is where it should be, and what was unmapped is not there
 */
static void check_table(struct user *u)
{
	const struct dart_fmt *fmt =
		b.kind == DART_T8103 || b.kind == DART_T8103_USB4 ? &dart_fmt_1 : &dart_fmt_2;
	unsigned page_lg2 = (unsigned)__builtin_ctzll(u->shadow->granule), level;
	struct dart_pt *pt = dart_pt_of(u->shadow);
	struct instance *inst = dart_instance(b.dart);
	uint64_t last = inst->apertures[inst->nr_apertures - 1].last;
	struct dart_geometry geo;
	struct dart_leaf leaf;

	/* an adopted table may have more levels than its width needs: not judged here */
	if (!pt || dart_is_locked(b.dart) ||
	    dart_geometry_init(&geo, fmt, page_lg2, 64 - (unsigned)__builtin_clzll(last)))
		return;
	if (b.kind != DART_T8110)
		geo.ias = page_lg2 == 12 ? 32 : geo.ias;
	for (unsigned i = 0; i < MAX_MAPPINGS; i++) {
		const struct mapping *map = &u->v[i];

		for (unsigned n = 0; map->nr && n < map->nr; n++) {
			uint64_t iova = map->iova + n * u->shadow->granule;
			uint64_t top = dart_pt_top(pt, dart_ttbr_index(&geo, iova));
			int ret = top ? dart_walk(fmt, &geo, top, iova, read_entry, NULL, &leaf,
						  &level)
				      : -EFAULT;

			if (!map->live) {
				demand(ret == -EFAULT);
				continue;
			}
			demand(!ret && leaf.prot == map->prot);
			demand(leaf.first == map->first &&
			       leaf.last == (map->last ? map->last : u->shadow->granule - 1));
			demand(leaf.pa == PA + map->page * PAGE + n * u->shadow->granule);
		}
	}
}

/* ---- the mediator -------------------------------------------------------------------------------
 */

static bool in_use(const struct shadow *shadow)
{
	for (unsigned i = 0; i < ARRAY_SIZE(b.walks); i++)
		if (b.walks[i] == shadow)
			return true;
	return false;
}

static bool overlaps(const struct user *u, uint64_t iova, uint64_t len)
{
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		if (u->v[i].live && iova < u->v[i].iova + u->v[i].nr * u->shadow->granule &&
		    u->v[i].iova < iova + len)
			return true;
	return false;
}

static void map(struct input *in, struct user *u)
{
	struct instance *inst = dart_instance(b.dart);
	const struct iova_range *r = &inst->apertures[take8(in) % inst->nr_apertures];
	uint64_t granule = u->shadow->granule, page = take8(in), len, iova;
	struct mapping *slot = NULL;
	uint8_t how;
	struct mapping map = {.page = NR_FIRMWARE + NR_TABLES + take8(in) % NR_DATA,
			      .prot = 1 + take8(in) % 3};
	int ret;

	if (page & 0x80) /* from the end, or in another table */
		iova = ALIGN_DOWN(r->last, granule) - (page & 0x3f) * granule;
	else
		iova = r->start + (page & 7) * granule +
		       (page >> 3 & 7) * (uint64_t)take8(in) * granule * 512;
	map.nr = 1 + take8(in) % 6;
	map.nr = MIN(map.nr, (MEM_PAGES - map.page) * (unsigned)(PAGE / granule));
	len = map.nr * granule;
	map.iova = iova;
	if (iova < r->start || iova > r->last || len - 1 > r->last - iova || overlaps(u, iova, len))
		return;
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		if (!u->v[i].live && (!slot || (slot->nr && !u->v[i].nr)))
			slot = &u->v[i];
	if (!slot)
		return;
	ret = u->shadow->ops->prepare ? u->shadow->ops->prepare(u->shadow, iova, at(map.page), len)
				      : 0;
	if (ret) {
		demand(ret < 0);
		return;
	}
	how = take8(in);
	if (how % 8 == 0)
		return; /* another shadow could not prepare */
	if (how & 0x80 && u->shadow->can_window && map.nr == 1) {
		map.first = take8(in) * 8u;
		map.last = take16(in) % (unsigned)granule;
		map.last = MAX(map.first, map.last) | 7;
		demand(!u->shadow->ops->map_window(u->shadow, iova, at(map.page), map.prot,
						   map.first, map.last));
		goto mapped;
	}
	demand(!u->shadow->ops->map(u->shadow, iova, at(map.page), len, map.prot));
mapped:
	/* what lay there is no claim any more */
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		if (u->v[i].nr && iova < u->v[i].iova + u->v[i].nr * granule &&
		    u->v[i].iova < iova + len)
			u->v[i] = (struct mapping){0};
	map.live = true;
	*slot = map;
}

static void invalidate(struct input *in)
{
	struct instance *inst = dart_instance(b.dart);
	struct stream_set set = {0};
	uint8_t bits = take8(in);
	int ret;

	for (unsigned sid = 0; sid < 8 && sid < inst->nr_streams; sid++)
		if (bits >> sid & 1)
			stream_set_add(&set, sid);
	inst->ops->invalidate_start(inst, &set);
	ret = inst->ops->invalidate_wait(inst);
	demand(ret == 0 || ret == -EIO || ret == -ETIMEDOUT);
}

static void disable(struct instance *inst, unsigned sid)
{
	int ret = inst->ops->disable(inst, sid);

	demand(ret <= 0);
	/* What is on its way is not simulated. */
	b.unknown[sid] = ret && ret != -ETIMEDOUT;
	if (!b.unknown[sid])
		b.walks[sid] = NULL;
}

static void destroy_shadow(struct user *u)
{
	if (!u->shadow || in_use(u->shadow))
		return;
	u->shadow->ops->destroy(u->shadow);
	memset(u, 0, sizeof(*u));
}

static void dump_line(void *ctx, const char *text)
{
	(void)ctx;
	demand(text[0] && !strchr(text, '\n'));
}

static void step(struct input *in)
{
	struct instance *inst = dart_instance(b.dart);
	struct user *u = &b.users[take8(in) % MAX_SHADOWS];
	unsigned sid = take8(in) % MIN(inst->nr_streams, 8u), i;
	struct dart_fault fault;
	uint32_t raw;
	int ret;

	b.accesses = 0;
	switch (take8(in) % 14) {
	case 0:
	case 1:
		if (u->shadow)
			break;
		ret = inst->ops->shadow_create(inst, sid, &u->shadow);
		demand(ret <= 0);
		if (ret) {
			u->shadow = NULL;
			break;
		}
		demand(u->shadow->granule == inst->granule);
		break;
	case 2:
		if (!u->shadow || !inst->ops->shadow_fits(inst, sid, u->shadow))
			break;
		ret = inst->ops->enable(inst, sid, u->shadow);
		demand(ret <= 0);
		if (ret) /* blocked, as far as it lets itself be told: the mediator makes sure */
			b.unknown[sid] = true;
		if (!ret || !b.walks[sid])
			b.walks[sid] = u->shadow;
		if (ret)
			disable(inst, sid);
		break;
	case 3:
		disable(inst, sid);
		break;
	case 4:
	case 5:
	case 6:
		if (u->shadow)
			map(in, u);
		break;
	case 7:
		i = take8(in) % MAX_MAPPINGS;
		if (!u->shadow || !u->v[i].live)
			break;
		u->shadow->ops->unmap(u->shadow, u->v[i].iova, u->v[i].nr * u->shadow->granule);
		u->v[i].live = false;
		break;
	case 8:
		i = take8(in) % MAX_MAPPINGS;
		if (!u->shadow || !u->v[i].live || !u->shadow->can_replace)
			break;
		if (u->v[i].nr != 1 || u->v[i].page + 1 >= MEM_PAGES ||
		    (u->shadow->ops->prepare &&
		     u->shadow->ops->prepare(u->shadow, u->v[i].iova, at(u->v[i].page + 1),
					     u->shadow->granule)))
			break;
		u->v[i].page++;
		u->v[i].first = u->v[i].last = 0;
		u->v[i].prot = 1 + take8(in) % 3;
		u->shadow->ops->replace(u->shadow, u->v[i].iova, at(u->v[i].page), u->v[i].prot, 0,
					u->shadow->granule - 1);
		break;
	case 9:
		invalidate(in);
		break;
	case 10:
		raw = take32(in);
		b.regs[(b.kind == DART_T8110 ? DART_T8110_ERROR : DART_V1_ERROR) / 4] = raw;
		i = b.faults;
		(void)dart_irq(b.dart);
		demand(b.faults - i <= 256);
		if (dart_decode_error(b.kind, raw, take64(in), &fault))
			demand(fault.raw == raw && fault.reason <= FAULT_MAPPING);
		break;
	case 11:
		dart_dump(b.dart, dump_line, NULL);
		break;
	case 12:
		b.noise = take8(in);
		b.was_noisy |= b.noise != 0;
		b.fail_tables = b.noise & 0x10 ? take8(in) % 4 : 0;
		b.fail_pa = b.noise & 0x20;
		if (b.noise & 0x40)
			b.regs[take16(in) % ARRAY_SIZE(b.regs)] = take32(in);
		break;
	case 13:
		destroy_shadow(u);
		break;
	}
	for (i = 0; i < MAX_SHADOWS; i++)
		if (b.users[i].shadow)
			check_table(&b.users[i]);
}

/* power_on - registers as after reset, or as firmware left them, or anything */
static void power_on(struct input *in, uint8_t how)
{
	uint8_t n = take8(in) % 8;
	uint32_t *r = b.regs;

	b.kind = how % 4;
	r[DART_PARAMS1 / 4] = (b.kind == DART_T8103 && how & 4 ? 12u : 14u) << 24;
	r[DART_PARAMS2 / 4] = 1;
	if (b.kind == DART_T8110) {
		r[DART_T8110_PARAMS3 / 4] =
			(uint32_t)(FIELD_PREP(DART_T8110_PARAMS3_PA_WIDTH_MASK, 42) |
				   FIELD_PREP(DART_T8110_PARAMS3_VA_WIDTH_MASK, how & 4 ? 42 : 32));
		r[DART_T8110_PARAMS4 / 4] = 8 | 8 << 16;
	} else {
		for (unsigned i = 0; i < 16; i++)
			r[DART_V1_STREAM_REMAP(i / 4) / 4] |= i << i % 4 * 8;
	}
	if (how & 0x10) { /* firmware had streams 0 and 2 translate, by tables it filled a little */
		for (unsigned sid = 0; sid < 3; sid += 2) {
			uint64_t top = PA + sid * PAGE;

			if (b.kind == DART_T8110) {
				r[DART_T8110_TCR(sid) / 4] =
					1 | (how & 4 ? DART_T8110_TCR_FOUR_LEVEL : 0);
				r[DART_T8110_TTBR(sid) / 4] = (uint32_t)(top >> 14 << 2) | 1;
			} else {
				r[DART_V1_TCR(sid) / 4] = DART_V1_TCR_TRANSLATE;
				r[(b.kind == DART_T8103_USB4 ? DART_USB4_TTBR(sid, 0)
							     : DART_V1_TTBR(sid, 0)) /
				  4] = (uint32_t)(top >> 12) | DART_V1_TTBR_VALID;
			}
		}
		for (unsigned i = 0; i < n; i++)
			take(in, at(take8(in) % NR_FIRMWARE) + take8(in) % 16 * 8u, 8);
	}
	if (how & 0x20) {
		if (b.kind == DART_T8110)
			r[DART_T8110_PROTECT / 4] = DART_T8110_PROTECT_TTBR_TCR;
		else
			r[DART_V1_CONFIG / 4] = DART_V1_CONFIG_LOCK;
	}
	for (unsigned i = 0; how & 0x40 && i < n; i++)
		r[take16(in) % (0x1800 / 4)] = take32(in);
}

/* Of the leak sanitizer, where there is one: what @object leads to is lost on purpose. */
__attribute__((weak)) void __lsan_ignore_object(const void *object);

static void lose(const void *object)
{
	if (__lsan_ignore_object)
		__lsan_ignore_object(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t firmware[NR_FIRMWARE * PAGE];
	struct input in = {data, len};
	uint8_t how = take8(&in);
	struct dart_region direct = {0x40000, PA + (MEM_PAGES - 2) * PAGE, 2 * PAGE, PROT_DEV_READ};
	struct dart_cfg cfg = {
		.name = "dart",
		.host = &host,
		.aperture = {0, UINT64_MAX},
		.fault = on_fault,
	};
	struct instance *inst;
	bool clean = true;
	char error[256];
	int ret;

	memset(&b, 0, sizeof(b));
	memset(memory, 0, NR_FIRMWARE * PAGE);
	b.in = &in;
	power_on(&in, how);
	memcpy(firmware, memory, sizeof(firmware));
	cfg.kind = b.kind;
	how = take8(&in);
	cfg.windows = how & 1;
	if (how & 2)
		cfg.aperture = (struct iova_range){PAGE * take8(&in), PAGE * (1 + take16(&in)) - 1};
	if (how & 4 && !(how & 0x40)) {
		cfg.direct = &direct;
		cfg.nr_direct = 1;
	}
	if (how & 8)
		cfg.max_table_bytes = PAGE * 4;
	b.noise = how & 0x80 ? take8(&in) : 0;
	b.was_noisy = b.noise;
	memset(error, 0x5a, sizeof(error));
	ret = dart_create(&cfg, &b.dart, error, sizeof(error));
	if (ret) {
		demand(ret < 0 && memchr(error, 0, sizeof(error)) && error[0] &&
		       !strchr(error, '\n'));
		demand(!b.nr_tables);
		return 0;
	}
	b.was_locked = dart_is_locked(b.dart);
	inst = dart_instance(b.dart);
	demand(dart_of(inst) == b.dart && inst->nr_streams &&
	       inst->nr_streams <= INSTANCE_MAX_STREAMS);
	demand(IS_POW2(inst->granule) && inst->nr_apertures <= INSTANCE_MAX_APERTURES);
	for (unsigned i = 0; i < inst->nr_apertures; i++)
		demand(inst->apertures[i].start <= inst->apertures[i].last &&
		       (!i || inst->apertures[i].start > inst->apertures[i - 1].last));
	for (unsigned i = 0; in.left && inst->nr_apertures && i < MAX_OPS; i++)
		step(&in);

	/* the end: registers that obey, if that is still possible */
	b.noise = 0;
	b.in->left = 0;
	for (unsigned sid = 0; sid < 8 && sid < inst->nr_streams; sid++) {
		b.accesses = 0;
		disable(inst, sid);
		clean &= !b.unknown[sid];
	}
	for (unsigned i = 0; i < MAX_SHADOWS; i++) {
		struct user *u = &b.users[i];

		if (!u->shadow)
			continue;
		b.accesses = 0;
		/* What devices may walk for ever is never given back. */
		if (in_use(u->shadow)) {
			lose(u->shadow);
			clean = false;
		} else {
			destroy_shadow(u);
		}
	}
	if (clean) {
		b.accesses = 0;
		dart_destroy(b.dart);
		/* tables that a locked DART may still walk are lost on purpose */
		demand(!b.nr_tables || (b.was_locked && b.was_noisy));
		demand(!memcmp(memory, firmware, sizeof(firmware)));
	} else {
		lose(b.dart);
	}
	return 0;
}
