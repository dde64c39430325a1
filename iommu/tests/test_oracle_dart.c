/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random requests, CPU writes and device accesses, on random machines of simulated DARTs (with the
 * real driver) and VFIO-like instances, against an oracle that knows only what the guest asked for.
 *
 * The oracle keeps for every byte of guest memory its value and, until a sync point has passed, the
 * value before and who wrote it: the CPU, or a device through one mapping. Who wrote a byte sees
 * it; the guest, and devices through other mappings, may see the old value until the sync points
 * that the mapping's sync mode promises (or its UNMAP) have passed, and never anything else. At any
 * time an access that the mappings allow succeeds; one that they do not allow faults, or ends in a
 * page that holds nothing of the guest's. Bytes of the CPU are 0x01..0x7f, of devices 0x80..0xbf,
 * and what devices write where they may not is 0xc0..0xff: so every value says what it is.
 *
 * Devices and CPU also act in the middle of requests: whenever a driver touches a register or asks
 * for memory. What devices write to a mapping while it is being unmapped arrives or does not.
 *
 * A world lives for some thousand operations. SEED=n begins with world n, OPS=n is how many
 * operations in all.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/mediator.h"
#include "iommu/tests/oracle_rig.h"
#include "iommu/tests/fake_instance.h"

#define PAGE	    0x1000ull
#define H	    0x4000ull /* of the oracle: what alignment is random about */
#define LOW	    0x40000000ull
#define LOW_LEN	    (8 * H)
#define HIGH	    0x100000000ull
#define HIGH_LEN    (4 * H)
#define RAM_LEN	    (LOW_LEN + HIGH_LEN)
#define NR_PAGES    (RAM_LEN / PAGE)
#define WINDOW_LEN  (24 * H)
#define MAX_SLOTS   (WINDOW_LEN / PAGE)
#define HOLE_AT	    (15 * H) /* in the window: reserved on some instances */
#define MAX_EPS	    6u
#define MAX_INSTS   5u
#define MAX_STREAMS (3 * MAX_EPS)
#define NR_DOMAINS  3u
#define MAX_MAPS    48u
#define MAX_DIRTY   256u
#define MAX_LATE    8u

#define STRAY 0xc0u /* and above: written where nobody may write */

/* Who wrote a byte that not everybody may have seen; views are numbered from VIEW on. */
enum { CLEAN, CPU, VIEW, LATE = 255 }; /* LATE: by a device, to what is being unmapped */
_Static_assert(VIEW + NR_DOMAINS * MAX_MAPS < LATE, "owners are bytes");

struct omap {
	bool used;
	uint64_t start, last, gpa;
	uint32_t flags;
};

struct odomain {
	bool bypass, relaxed;
	enum sync_mode mode;
	unsigned nr_eps, nr_maps;
	struct omap map[MAX_MAPS];
	uint8_t at[MAX_SLOTS];	 /* index of the mapping + 1 */
	bool corrupt[MAX_SLOTS]; /* a device has written there without the right to */
	bool touched[MAX_SLOTS]; /* by frame: it was bounced, and may be kept */
};

struct oinst {
	bool is_fake, hole;
	struct fake_instance *fake;
	struct dart_rig rig;
	struct instance *inst;
	uint64_t reach; /* of IOVA, as the driver uses it */
	uint64_t mask;	/* the bits of it that the hardware looks at */
	bool armed, hung;
	uint64_t faults;
	bool latched; /* the first fault since the last interrupt */
	uint64_t latched_iova;
	uint32_t latched_sid;
	bool told;
};

struct ostream {
	unsigned inst;
	uint32_t sid;
};

struct oendpoint {
	unsigned nr, stream[3];
	enum sync_mode mode;
	bool relaxed;
	int dom; /* -1: none */
	struct endpoint *ep;
};

struct dirty {
	uint32_t off, len;
};

/* A device's write to a mapping that was being unmapped. */
struct late {
	uint32_t off;
	uint8_t before, after;
};

struct counts {
	unsigned long worlds, refused, maps, unmaps, allowed, forbidden, absorbed, injected, mid,
		late, landed, dead, resets, replays;
	struct mediator_stats stats;
};

struct world {
	uint64_t seed, rng;
	unsigned long op;
	const char *what;
	struct counts *counts;

	struct rig_mem mem;
	struct gmem gmem;
	uint8_t *ram, *framebuffer;
	uint8_t cur[RAM_LEN], prev[RAM_LEN], owner[RAM_LEN];
	uint8_t unsynced[NR_PAGES]; /* mappings of the page that sync points pass over */
	struct dirty dirty[MAX_DIRTY];
	unsigned nr_dirty;

	struct mediator *m;
	uint64_t g, h, base;
	unsigned nr_slots, per_frame;
	struct oinst inst[MAX_INSTS];
	struct ostream stream[MAX_STREAMS];
	struct oendpoint ep[MAX_EPS];
	unsigned nr_insts, nr_streams, nr_eps;
	struct odomain dom[NR_DOMAINS];
	bool bypass;
	bool tight, parks, lazy, capped, dies; /* of the configuration */
	uint64_t pool_limit, park_limit, quarantine_limit;
	uint64_t ring_limit; /* what is read and written is bounced, up to so many bytes */
	bool undone;	     /* a MAP was, and something may be in quarantine for it */
	bool any_dead;

	/* The request under way. */
	bool busy, in_mid;
	int op_dom; /* with [op_start, op_last]: what changes; -1: nothing */
	uint64_t op_start, op_last;
	struct fake_instance *failing; /* that inject() armed */
	bool op_unmaps;
	unsigned op_dirty; /* what was written before it began */
	int op_ep;	   /* moves; -1: none, nr_eps: all */
	struct late late[MAX_LATE];
	unsigned nr_late;
};

static struct world *the_world; /* of the clock, which has no context */

static uint64_t rnd(struct world *w, uint64_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (w->rng >> 11) % n;
}

__attribute__((format(printf, 2, 3), noreturn)) static void bad(struct world *w, const char *fmt,
								...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fail_msg("SEED=%llu op %lu (%s%s): %s", (unsigned long long)w->seed, w->op, w->what,
		 w->in_mid ? ", in the middle of it" : "", text);
	abort(); /* not reached */
}

typedef unsigned long long ull;

/* ---- the oracle: guest memory ---- */

static int off_of(uint64_t gpa)
{
	if (gpa >= LOW && gpa < LOW + LOW_LEN)
		return (int)(gpa - LOW);
	if (gpa >= HIGH && gpa < HIGH + HIGH_LEN)
		return (int)(LOW_LEN + (gpa - HIGH));
	return -1;
}

static bool in_ram(uint64_t gpa, uint64_t len)
{
	return (gpa >= LOW && gpa + len <= LOW + LOW_LEN) ||
	       (gpa >= HIGH && gpa + len <= HIGH + HIGH_LEN);
}

static unsigned view_of(unsigned d, unsigned n)
{
	return VIEW + d * MAX_MAPS + n;
}

static bool mode_syncs(enum sync_mode mode, uint32_t flags)
{
	return mode == SYNC_FULL ||
	       (mode == SYNC_RINGS && (flags & (MAP_READ | MAP_WRITE)) == (MAP_READ | MAP_WRITE));
}

/* Do sync points bring what @owner writes to the others? */
static bool is_synced(const struct world *w, unsigned owner)
{
	const struct odomain *dom;

	if (owner < VIEW)
		return true;
	dom = &w->dom[(owner - VIEW) / MAX_MAPS];
	return mode_syncs(dom->mode, dom->map[(owner - VIEW) % MAX_MAPS].flags);
}

/* A driver does not write what a mapping without sync points shows; nor does it through another. */
static bool may_write(const struct world *w, unsigned off, unsigned who)
{
	unsigned others = w->unsynced[off / PAGE];

	if (who >= VIEW && !is_synced(w, who))
		others--;
	return !w->owner[off] && !others;
}

static void sync_all(struct world *w);

static void note_write(struct world *w, unsigned off, unsigned len, const uint8_t *bytes,
		       unsigned who)
{
	if (w->nr_dirty == MAX_DIRTY)
		bad(w, "the test's list of written bytes is full");
	w->dirty[w->nr_dirty++] = (struct dirty){off, len};
	for (unsigned i = 0; i < len; i++) {
		w->prev[off + i] = w->cur[off + i];
		w->cur[off + i] = bytes[i];
		w->owner[off + i] = (uint8_t)who;
	}
}

/* Is this what @who may find at @off? The guest itself is the CPU. */
static bool byte_ok(const struct world *w, unsigned off, unsigned who, uint8_t got)
{
	return got == w->cur[off] || (w->owner[off] && w->owner[off] != who && got == w->prev[off]);
}

static void check_ram_byte(struct world *w, unsigned off, bool strict)
{
	uint8_t got = __atomic_load_n(&w->ram[off], __ATOMIC_RELAXED);

	if (strict ? got != w->cur[off] : !byte_ok(w, off, CPU, got))
		bad(w, "guest byte 0x%x is %02x, the oracle says %02x (before: %02x, owner %u)%s",
		    off, got, w->cur[off], w->prev[off], w->owner[off],
		    strict ? ", and it should have arrived" : "");
}

static void check_ram(struct world *w)
{
	if (!memcmp(w->ram, w->cur, RAM_LEN))
		return;
	for (unsigned off = 0; off < RAM_LEN; off++)
		check_ram_byte(w, off, false);
}

/* What @owner wrote must be in guest memory; from now on it is as if the CPU had written it. */
static void arrive(struct world *w, unsigned first_owner, unsigned last_owner, bool only_synced)
{
	for (unsigned n = 0; n < w->nr_dirty; n++) {
		for (unsigned off = w->dirty[n].off; off < w->dirty[n].off + w->dirty[n].len;
		     off++) {
			unsigned owner = w->owner[off];

			if (owner < first_owner || owner > last_owner ||
			    (only_synced && !is_synced(w, owner)))
				continue;
			check_ram_byte(w, off, true);
			w->owner[off] = CPU;
		}
	}
}

/* ---- the oracle: mappings ---- */

static int slot_of(const struct world *w, uint64_t iova)
{
	return iova >= w->base && iova - w->base < WINDOW_LEN ? (int)((iova - w->base) / w->g) : -1;
}

/* Of an iova that is in the window. */
static unsigned slot_in(const struct world *w, uint64_t iova)
{
	return (unsigned)((iova - w->base) / w->g) % MAX_SLOTS;
}

static struct omap *map_at(struct world *w, int d, int slot)
{
	unsigned n = d >= 0 && slot >= 0 ? w->dom[d].at[slot] : 0;

	return n ? &w->dom[d].map[n - 1] : NULL;
}

static int stream_dom(const struct world *w, unsigned s)
{
	for (unsigned e = 0; e < w->nr_eps; e++) {
		for (unsigned i = 0; i < w->ep[e].nr; i++) {
			if (w->ep[e].stream[i] == s && w->ep[e].dom >= 0)
				return w->ep[e].dom;
		}
	}
	return -1;
}

static bool ep_has_stream(const struct oendpoint *ep, unsigned s)
{
	for (unsigned i = 0; i < ep->nr; i++) {
		if (ep->stream[i] == s)
			return true;
	}
	return false;
}

static bool ep_has_hole(const struct world *w, const struct oendpoint *ep)
{
	for (unsigned i = 0; i < ep->nr; i++) {
		if (w->inst[w->stream[ep->stream[i]].inst].hole)
			return true;
	}
	return false;
}

static bool in_hole(const struct world *w, uint64_t start, uint64_t last)
{
	return start <= w->base + HOLE_AT + H - 1 && last >= w->base + HOLE_AT;
}

static bool dom_has_hole(const struct world *w, unsigned d)
{
	for (unsigned e = 0; e < w->nr_eps; e++) {
		if (w->ep[e].dom == (int)d && ep_has_hole(w, &w->ep[e]))
			return true;
	}
	return false;
}

/* What an access through stream @s at @iova reaches by what the guest asked for. */
struct target {
	bool allowed;
	bool framebuffer; /* a reserved direct region */
	unsigned off;	  /* of guest memory */
	unsigned who;	  /* as owner */
	int d, slot;	  /* the stream's domain, or -1 */
	const struct omap *map;
};

static struct target target_of(struct world *w, unsigned s, uint64_t iova, uint32_t rights)
{
	const struct oinst *inst = &w->inst[w->stream[s].inst];
	struct target t = {.d = stream_dom(w, s), .who = CPU};
	int off;

	t.slot = slot_of(w, iova);
	if (inst->inst->failed || (t.d < 0 && !w->bypass))
		return t;
	if (inst->hole && in_hole(w, iova, iova)) {
		t.framebuffer = !inst->is_fake;
		return t;
	}
	if (t.d < 0 || w->dom[t.d].bypass) {
		off = iova <= inst->reach ? off_of(iova) : -1;
		t.allowed = off >= 0;
		t.off = (unsigned)off;
		return t;
	}
	t.map = map_at(w, t.d, t.slot);
	if (t.map && (t.map->flags & rights) == rights) {
		t.allowed = true;
		t.off = (unsigned)off_of(t.map->gpa + (iova - t.map->start));
		t.who = view_of((unsigned)t.d, w->dom[t.d].at[t.slot] - 1u);
	}
	return t;
}

/* Is the frame of @slot one host frame of @map alone, so that it must be direct? */
static bool is_direct(const struct world *w, const struct omap *map, int slot)
{
	uint64_t start = w->base + (unsigned)slot / w->per_frame * w->h;

	if ((map->flags & 3) == 3 && map->last - map->start + 1 <= w->ring_limit)
		return false;
	return (map->flags & 3) && map->start <= start && map->last >= start + w->h - 1 &&
	       IS_ALIGNED(map->start ^ map->gpa, w->h);
}

static bool frame_is_backed(struct world *w, int d, int slot)
{
	int first = slot - slot % (int)w->per_frame;

	for (int i = first; i < first + (int)w->per_frame; i++) {
		const struct omap *map = map_at(w, d, i);

		if (map && (map->flags & 3))
			return true;
	}
	return false;
}

/*
 * Does the request under way change the class of this frame? Then some translations lead to the old
 * page, some to the new one, and what is written by the one during it is not yet seen by the other.
 */
static bool is_moving(const struct world *w, const struct target *t)
{
	uint64_t frame;

	if (!w->in_mid || t->d < 0 || t->slot < 0)
		return false;
	frame = w->base + (unsigned)t->slot / w->per_frame * w->h;
	return w->op_ep >= 0 ||
	       (t->d == w->op_dom && frame <= w->op_last && frame + w->h > w->op_start);
}

/* Was this byte written during the request, to one page or the other? */
static bool is_fresh(const struct world *w, const struct target *t, unsigned off)
{
	if (!is_moving(w, t))
		return false;
	for (unsigned n = w->op_dirty; n < w->nr_dirty; n++) {
		if (off >= w->dirty[n].off && off < w->dirty[n].off + w->dirty[n].len)
			return true;
	}
	return false;
}

/* May an access that is not allowed end in a private page? */
static bool may_absorb(struct world *w, unsigned s, const struct target *t)
{
	const struct instance *inst = w->inst[w->stream[s].inst].inst;
	bool touched;

	if (t->d < 0 || t->slot < 0 || w->dom[t->d].bypass || inst->failed)
		return false;
	if (t->map && is_direct(w, t->map, t->slot))
		return false;
	touched = w->dom[t->d].touched[(unsigned)t->slot / w->per_frame];
	if (inst->granule <= w->g)
		return w->lazy && touched;
	return is_moving(w, t) || frame_is_backed(w, t->d, t->slot) ||
	       ((w->lazy || w->parks) && touched);
}

/* Does exposure=relaxed show what lies around mappings? Then nothing is said about it. */
static bool is_exempt(struct world *w, const struct target *t)
{
	return t->d >= 0 && t->slot >= 0 && !w->dom[t->d].bypass && w->dom[t->d].relaxed &&
	       (is_moving(w, t) || frame_is_backed(w, t->d, t->slot));
}

/* Has an invalidation of this instance hung? Then its streams may be blocked, or are. */
static bool is_hung(struct world *w, struct oinst *inst)
{
	struct dart_model_quirks quirks;

	if (inst->armed) {
		dart_model_get_quirks(inst->rig.model, &quirks);
		if (!quirks.fail_invalidation) {
			inst->armed = false;
			inst->hung = true;
			w->any_dead = true;
			w->counts->dead++;
		}
	}
	return inst->hung;
}

static bool may_fault(struct world *w, unsigned s, const struct target *t)
{
	struct oinst *inst = &w->inst[w->stream[s].inst];

	/* The moment in which an exposed frame becomes bounce. */
	return is_hung(w, inst) || (w->in_mid && is_exempt(w, t));
}

/* ---- devices ---- */

/* Where an access would end now, as it leaves no trace; NULL: it faults. */
static uint8_t *where(struct world *w, unsigned s, uint64_t iova, bool write)
{
	struct oinst *inst = &w->inst[w->stream[s].inst];
	uint64_t pa;
	uint8_t *hva;

	if (inst->is_fake)
		return fake_translate(inst->fake, iova, write ? PROT_DEV_WRITE : PROT_DEV_READ);
	if (dart_model_probe(inst->rig.model, w->stream[s].sid, iova, write, &pa))
		return NULL;
	hva = rig_hva(&w->mem, pa);
	if (!hva)
		bad(w, "stream %u at iova 0x%llx reaches pa 0x%llx, where nothing is", s, (ull)iova,
		    (ull)pa);
	return hva;
}

static bool dma(struct world *w, unsigned s, uint64_t iova, uint8_t *buf, unsigned len, bool write)
{
	struct oinst *inst = &w->inst[w->stream[s].inst];
	uint32_t sid = w->stream[s].sid;
	int ret;

	if (inst->is_fake)
		return write ? fake_dma_write(inst->fake, iova, buf, len)
			     : fake_dma_read(inst->fake, iova, buf, len);
	ret = write ? dart_model_dma_write(inst->rig.model, sid, iova, buf, len)
		    : dart_model_dma_read(inst->rig.model, sid, iova, buf, len);
	if (!ret)
		return true;
	inst->faults++;
	if (!inst->latched) {
		inst->latched = true;
		inst->latched_iova = iova;
		inst->latched_sid = sid;
	}
	return false;
}

static bool is_ram(const struct world *w, const uint8_t *hva)
{
	return hva >= w->ram && hva < w->ram + RAM_LEN;
}

static void check_bytes(struct world *w, unsigned s, uint64_t iova, const struct target *t,
			const uint8_t *got, unsigned len, bool strict)
{
	bool corrupt = t->d >= 0 && t->slot >= 0 && w->dom[t->d].corrupt[t->slot];

	if (!memcmp(got, w->cur + t->off, len))
		return;
	for (unsigned i = 0; i < len; i++) {
		if (strict ? got[i] == w->cur[t->off + i] : byte_ok(w, t->off + i, t->who, got[i]))
			continue;
		if (corrupt && got[i] >= STRAY)
			continue;
		if (is_fresh(w, t, t->off + i) && got[i] == w->prev[t->off + i])
			continue;
		bad(w,
		    "stream %u at iova 0x%llx reads %02x, the oracle says %02x (before: %02x, "
		    "owner %u)%s",
		    s, (ull)(iova + i), got[i], w->cur[t->off + i], w->prev[t->off + i],
		    w->owner[t->off + i], strict ? " after a sync for the device" : "");
	}
}

/* What an access that is not allowed finds. */
static void check_absorbed(struct world *w, unsigned s, uint64_t iova, const struct target *t,
			   const uint8_t *hva, const uint8_t *got, unsigned len)
{
	struct target readable;

	if (is_exempt(w, t) || is_hung(w, &w->inst[w->stream[s].inst]))
		return;
	if (!may_absorb(w, s, t))
		bad(w, "stream %u at iova 0x%llx: a forbidden access succeeds", s, (ull)iova);
	if (is_ram(w, hva))
		bad(w, "stream %u at iova 0x%llx: a forbidden access reaches guest byte 0x%zx", s,
		    (ull)iova, (size_t)(hva - w->ram));
	if (t->map && (t->map->flags & 3)) {
		/* Mapped, but not with this right: the bytes are the mapping's, or nothing yet. */
		readable = target_of(w, s, iova, t->map->flags & 3);
		for (unsigned i = 0; i < len; i++) {
			unsigned off = readable.off + i;

			if (!byte_ok(w, off, readable.who, got[i]) && got[i] < STRAY &&
			    !(is_fresh(w, t, off) && got[i] == w->prev[off]))
				bad(w, "stream %u at iova 0x%llx: write-only, reads %02x", s,
				    (ull)(iova + i), got[i]);
		}
		return;
	}
	for (unsigned i = 0; i < len; i++) {
		if (got[i] && got[i] < STRAY)
			bad(w, "stream %u at iova 0x%llx: not mapped, shows %02x of somebody's", s,
			    (ull)(iova + i), got[i]);
	}
}

/* Both rights of [iova, iova + len), inside one slot, without a trace. */
static void check_at(struct world *w, unsigned s, uint64_t iova, unsigned len, bool strict)
{
	struct target t = target_of(w, s, iova, MAP_READ);
	const uint8_t *hva = where(w, s, iova, false);

	if (t.framebuffer) {
		if (hva != w->framebuffer + iova % H && !is_hung(w, &w->inst[w->stream[s].inst]))
			bad(w, "stream %u: the reserved direct region is not there", s);
		return;
	}
	if (t.allowed && !hva && !may_fault(w, s, &t))
		bad(w, "stream %u at iova 0x%llx: a read faults", s, (ull)iova);
	if (t.allowed && hva)
		check_bytes(w, s, iova, &t, hva, len, strict);
	if (!t.allowed && hva)
		check_absorbed(w, s, iova, &t, hva, hva, len);
	t = target_of(w, s, iova, MAP_WRITE);
	hva = where(w, s, iova, true);
	if (t.allowed && !hva && !may_fault(w, s, &t))
		bad(w, "stream %u at iova 0x%llx: a write faults", s, (ull)iova);
	if (!t.allowed && hva)
		check_absorbed(w, s, iova, &t, hva, hva, 0);
}

static void check_slot(struct world *w, unsigned s, unsigned slot)
{
	uint64_t iova = w->base + slot * w->g;

	if (rnd(w, 16))
		check_at(w, s, iova + rnd(w, w->g / 64) * 64, 64, false);
	else
		check_at(w, s, iova, (unsigned)w->g, false);
}

static void check_views(struct world *w, int d)
{
	for (unsigned s = 0; s < w->nr_streams; s++) {
		if (d >= 0 && stream_dom(w, s) != d)
			continue;
		for (unsigned slot = 0; slot < w->nr_slots; slot++)
			check_slot(w, s, slot);
	}
}

static uint64_t some_gpa(struct world *w)
{
	return rnd(w, 3) ? LOW + rnd(w, LOW_LEN / w->g) * w->g
			 : HIGH + rnd(w, HIGH_LEN / w->g) * w->g;
}

static uint64_t some_iova(struct world *w, unsigned s)
{
	int d = stream_dom(w, s);

	if (d >= 0 && w->dom[d].nr_maps && rnd(w, 5)) {
		unsigned n = (unsigned)rnd(w, MAX_MAPS);

		while (!w->dom[d].map[n].used)
			n = (n + 1) % MAX_MAPS;
		return w->dom[d].map[n].start +
		       rnd(w, w->dom[d].map[n].last - w->dom[d].map[n].start + 1);
	}
	return rnd(w, 4) ? w->base + rnd(w, WINDOW_LEN) : some_gpa(w) + rnd(w, w->g);
}

/* Is this access touched by the request under way, so that nothing can be said about it? */
static bool is_changing(struct world *w, unsigned s, const struct target *t, uint64_t iova,
			unsigned len)
{
	if (!w->in_mid)
		return false;
	/* It is being blocked, stream by stream. */
	if (is_hung(w, &w->inst[w->stream[s].inst]))
		return true;
	if (w->op_ep == (int)w->nr_eps || (w->op_ep >= 0 && ep_has_stream(&w->ep[w->op_ep], s)))
		return true;
	return t->d >= 0 && t->d == w->op_dom && iova <= w->op_last && iova + len > w->op_start;
}

/* A device that writes what is being unmapped: the write arrives, faults, or ends nowhere. */
static void write_late(struct world *w, unsigned s, uint64_t iova, const struct target *t)
{
	struct late late = {.off = t->off};

	if (!t->allowed || w->nr_late == MAX_LATE || w->owner[t->off] ||
	    w->unsynced[t->off / PAGE] > !is_synced(w, t->who))
		return;
	late.before = w->cur[t->off];
	late.after = (uint8_t)(STRAY + rnd(w, 64));
	w->counts->late++;
	if (!dma(w, s, iova, &late.after, 1, true))
		return;
	/* Nobody writes that byte a second time before it is known what became of it; until then
	 * whoever looks may find either value. */
	w->owner[t->off] = LATE;
	w->prev[t->off] = late.after;
	w->late[w->nr_late++] = late;
}

static void settle_late(struct world *w)
{
	for (unsigned n = 0; n < w->nr_late; n++) {
		const struct late *late = &w->late[n];

		if (w->ram[late->off] == late->after && late->after != late->before) {
			w->owner[late->off] = CLEAN;
			note_write(w, late->off, 1, &late->after, CPU);
			w->counts->landed++;
		}
	}
	w->nr_late = 0;
}

/* One slot's part of a device's write. */
static void device_write_piece(struct world *w, unsigned s, uint64_t iova, unsigned len)
{
	struct target t = target_of(w, s, iova, MAP_WRITE);
	uint8_t buf[H];
	uint8_t *hva;
	unsigned skip = 0, n;

	if (t.framebuffer)
		return;
	if (is_changing(w, s, &t, iova, len)) {
		if (w->op_unmaps && !w->inst[w->stream[s].inst].hung)
			write_late(w, s, iova, &t);
		return;
	}
	if (!t.allowed) {
		w->counts->forbidden++;
		if (is_exempt(w, &t))
			return;
		hva = where(w, s, iova, true);
		if (hva)
			check_absorbed(w, s, iova, &t, hva, hva, 0);
		for (n = 0; n < len; n++)
			buf[n] = (uint8_t)(STRAY + rnd(w, 64));
		if (dma(w, s, iova, buf, len, true)) {
			w->counts->absorbed++;
			/* It may have forgotten meanwhile that nothing was there. */
			hva = hva ? hva : where(w, s, iova, true);
			if (!hva)
				bad(w, "stream %u at iova 0x%llx: a write succeeds that would not",
				    s, (ull)iova);
			check_absorbed(w, s, iova, &t, hva, hva, 0);
			w->dom[t.d].corrupt[t.slot] = true;
		}
		return;
	}
	while (skip < len && !may_write(w, t.off + skip, t.who))
		skip++;
	for (n = 0; skip + n < len && may_write(w, t.off + skip + n, t.who); n++)
		buf[n] = (uint8_t)(0x80 + rnd(w, 64));
	if (!n || w->nr_dirty == MAX_DIRTY)
		return;
	w->counts->allowed++;
	if (!dma(w, s, iova + skip, buf, n, true)) {
		if (!may_fault(w, s, &t))
			bad(w, "stream %u at iova 0x%llx: a write faults", s, (ull)iova + skip);
		return;
	}
	note_write(w, t.off + skip, n, buf, t.who);
}

static void device_read_piece(struct world *w, unsigned s, uint64_t iova, unsigned len)
{
	struct target t = target_of(w, s, iova, MAP_READ);
	uint8_t buf[H];
	uint8_t *hva;

	if (is_changing(w, s, &t, iova, len))
		return;
	if (t.framebuffer) {
		check_at(w, s, iova, 1, false);
		return;
	}
	if (t.allowed) {
		w->counts->allowed++;
		if (dma(w, s, iova, buf, len, false))
			check_bytes(w, s, iova, &t, buf, len, false);
		else if (!may_fault(w, s, &t))
			bad(w, "stream %u at iova 0x%llx: a read faults", s, (ull)iova);
		return;
	}
	w->counts->forbidden++;
	hva = where(w, s, iova, false);
	if (dma(w, s, iova, buf, len, false)) {
		w->counts->absorbed++;
		hva = hva ? hva : where(w, s, iova, false);
		check_absorbed(w, s, iova, &t, hva, buf, len);
	}
}

static void device_access(struct world *w, bool write)
{
	unsigned s = (unsigned)rnd(w, w->nr_streams);
	uint64_t mask = w->inst[w->stream[s].inst].mask, iova = some_iova(w, s) & mask;
	unsigned len = 1 + (unsigned)rnd(w, rnd(w, 16) ? 24 : 2 * w->g);

	while (len) {
		unsigned n = (unsigned)MIN(len, w->g - iova % w->g);

		if (write)
			device_write_piece(w, s, iova, n);
		else
			device_read_piece(w, s, iova, n);
		iova = (iova + n) & mask;
		len -= n;
	}
}

static void cpu_write(struct world *w, unsigned max)
{
	unsigned off = (unsigned)rnd(w, RAM_LEN), len = 1 + (unsigned)rnd(w, max), n;
	uint8_t buf[2 * PAGE];

	len = MIN(len, RAM_LEN - off);
	while (len && !may_write(w, off, CPU)) {
		off++;
		len--;
	}
	for (n = 0; n < len && may_write(w, off + n, CPU); n++)
		buf[n] = (uint8_t)(1 + rnd(w, 127));
	if (!n || w->nr_dirty == MAX_DIRTY)
		return;
	memcpy(w->ram + off, buf, n);
	note_write(w, off, n, buf, CPU);
}

/* In the middle of a request. */
static void on_event(void *ctx)
{
	struct world *w = ctx;
	unsigned armed;

	if (!w->busy || w->in_mid || rnd(w, 4))
		return;
	/* What is to fail is the request's. */
	armed = iommu_alloc_fail_nth(0);
	w->in_mid = true;
	w->counts->mid++;
	switch (rnd(w, 4)) {
	case 0:
		cpu_write(w, 16);
		break;
	case 1:
		device_access(w, false);
		break;
	default:
		device_access(w, true);
		break;
	}
	w->in_mid = false;
	iommu_alloc_fail_nth(armed);
}

/* ---- a VFIO-like instance ---- */

static void fake_hooked_start(struct instance *inst, const struct stream_set *streams)
{
	on_event(the_world);
	fake_invalidate_start(inst, streams);
}

/* A quarantined run may be mapped again where devices still remember it, onto the same page. */
static int fake_hooked_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len,
			   unsigned prot)
{
	struct fake_instance *fake = fake_of_shadow(shadow);

	on_event(the_world);
	for (unsigned i = 0; i < fake->nr; i++) {
		const struct fake_entry *e = &fake->v[i];

		if (e->stale && e->iova == iova && e->len == len && e->hva == hva)
			fake->v[i--] = fake->v[--fake->nr];
	}
	return fake_map(shadow, iova, hva, len, prot);
}

static const struct shadow_ops fake_hooked_shadow_ops = {
	.map = fake_hooked_map,
	.unmap = fake_unmap,
	.destroy = fake_destroy,
};

static int fake_hooked_shadow(struct instance *inst, uint32_t sid, struct shadow **out)
{
	int ret = fake_shadow(inst, sid, out);

	if (!ret)
		(*out)->ops = &fake_hooked_shadow_ops;
	return ret;
}

static const struct instance_ops fake_hooked_ops = {
	.shadow_create = fake_hooked_shadow,
	.shadow_fits = fake_shadow_fits,
	.enable = fake_enable,
	.disable = fake_disable,
	.invalidate_start = fake_hooked_start,
	.invalidate_wait = fake_invalidate_wait,
};

/* ---- requests ---- */

static void begin(struct world *w, int d, uint64_t start, uint64_t last, int e)
{
	w->op_dom = d;
	w->op_start = start;
	w->op_last = last;
	w->op_ep = e;
	w->op_dirty = w->nr_dirty;
	w->op_unmaps = false;
	w->busy = true;
}

/* Sometimes something the request needs is not there. */
static unsigned inject(struct world *w)
{
	unsigned what = 1 + (unsigned)rnd(w, 20), i;

	/* Two failures at once are too many: what is put back may be refused. */
	if (w->dies)
		return 0;
	switch (what) {
	case 1:
		iommu_alloc_fail_nth(1 + (unsigned)rnd(w, 8));
		break;
	case 2:
		w->mem.fail_table = 1 + (unsigned)rnd(w, 3);
		break;
	case 3:
		i = (unsigned)rnd(w, w->nr_insts);
		if (!w->inst[i].is_fake)
			return 0;
		w->failing = w->inst[i].fake;
		w->failing->fail_map = 1 + (unsigned)rnd(w, 3);
		w->failing->map_error = rnd(w, 2) ? -ENOSPC : -EIO;
		break;
	default:
		return 0;
	}
	return what;
}

/* Return: has what was injected happened? */
static bool end(struct world *w, unsigned armed)
{
	unsigned left = iommu_alloc_fail_nth(0);
	bool hit = (armed == 1 && !left) || (armed == 2 && !w->mem.fail_table);

	w->busy = false;
	w->mem.fail_table = 0;
	for (unsigned i = 0; i < w->nr_insts; i++)
		(void)is_hung(w, &w->inst[i]);
	if (armed == 3) {
		hit = !w->failing->fail_map;
		w->failing->fail_map = 0;
		w->failing->map_error = 0;
	}
	w->counts->injected += hit;
	return hit;
}

/* Is an error that the oracle does not know of one that something explains? */
static bool is_explained(struct world *w, int ret, bool hit)
{
	if (ret == -ENOMEM)
		return hit || w->tight || w->capped || w->any_dead;
	if (ret == -EIO || ret == -ETIMEDOUT)
		return hit || w->any_dead;
	return false;
}

static void forget_map(struct world *w, unsigned d, unsigned n)
{
	struct odomain *dom = &w->dom[d];
	struct omap *map = &dom->map[n];

	arrive(w, view_of(d, n), view_of(d, n), false);
	for (uint64_t iova = map->start; iova <= map->last; iova += w->g) {
		unsigned slot = slot_in(w, iova);

		dom->at[slot] = 0;
		dom->corrupt[slot] = false;
	}
	if (!mode_syncs(dom->mode, map->flags)) {
		for (uint64_t gpa = map->gpa; gpa <= map->gpa + (map->last - map->start);
		     gpa += PAGE)
			w->unsynced[(unsigned)off_of(gpa) / PAGE]--;
	}
	map->used = false;
	dom->nr_maps--;
}

static void forget_domain(struct world *w, unsigned d)
{
	for (unsigned n = 0; n < MAX_MAPS; n++) {
		if (w->dom[d].map[n].used)
			forget_map(w, d, n);
	}
	memset(&w->dom[d], 0, sizeof(w->dom[d]));
}

static void leave(struct world *w, unsigned e)
{
	int d = w->ep[e].dom;

	if (d < 0)
		return;
	w->ep[e].dom = -1;
	if (!--w->dom[d].nr_eps)
		forget_domain(w, (unsigned)d);
}

static int attach_error(struct world *w, unsigned e, unsigned d, bool bypass)
{
	const struct odomain *dom = &w->dom[d];

	if (dom->nr_eps && dom->bypass != bypass)
		return -EINVAL;
	if (w->ep[e].dom == (int)d)
		return 0;
	for (unsigned n = 0; n < MAX_MAPS && dom->nr_eps && ep_has_hole(w, &w->ep[e]); n++) {
		if (dom->map[n].used && in_hole(w, dom->map[n].start, dom->map[n].last))
			return -EINVAL;
	}
	for (unsigned o = 0; o < w->nr_eps; o++) {
		if (o == e || w->ep[o].dom < 0 || w->ep[o].dom == (int)d)
			continue;
		for (unsigned i = 0; i < w->ep[e].nr; i++) {
			if (ep_has_stream(&w->ep[o], w->ep[e].stream[i]))
				return -EOPNOTSUPP;
		}
	}
	return 0;
}

/* A domain, mostly one that exists. */
static unsigned some_domain(struct world *w)
{
	int d = w->ep[rnd(w, w->nr_eps)].dom;

	return d >= 0 && rnd(w, 16) ? (unsigned)d : (unsigned)rnd(w, NR_DOMAINS);
}

static void op_attach(struct world *w)
{
	unsigned e = (unsigned)rnd(w, w->nr_eps);
	unsigned d = rnd(w, 2) ? some_domain(w) : (unsigned)rnd(w, NR_DOMAINS);
	struct odomain *dom = &w->dom[d];
	bool bypass = !rnd(w, 10), hit;
	unsigned armed;
	int want, got;

	if (dom->nr_eps && rnd(w, 8))
		bypass = dom->bypass;
	if (w->capped)
		bypass = false;
	want = attach_error(w, e, d, bypass);
	if (dom->nr_eps && !dom->bypass && !bypass && dom->mode != w->ep[e].mode)
		return;
	w->what = "attach";
	armed = inject(w);
	begin(w, -1, 0, 0, (int)e);
	got = mediator_attach(w->m, d, e, bypass);
	hit = end(w, armed);
	/* A domain is made before anything is looked at. */
	if (got != want && !(!want && is_explained(w, got, hit)) && !(hit && got == -ENOMEM) &&
	    !(!want && got == -EOPNOTSUPP && dom->relaxed && !w->ep[e].relaxed))
		bad(w, "endpoint %u to domain %u: %d, the oracle says %d", e, d, got, want);
	if (got || w->ep[e].dom == (int)d) {
		w->counts->refused++;
		if (got)
			check_views(w, w->ep[e].dom);
		return;
	}
	leave(w, e);
	w->ep[e].dom = (int)d;
	if (!dom->nr_eps++) {
		dom->bypass = bypass;
		dom->relaxed = true;
		dom->mode = w->ep[e].mode;
	}
	dom->relaxed = dom->relaxed && w->ep[e].relaxed;
	w->counts->replays += dom->nr_maps > 0;
	check_views(w, (int)d);
}

static void op_detach(struct world *w)
{
	unsigned e = (unsigned)rnd(w, w->nr_eps), d = (unsigned)rnd(w, NR_DOMAINS);
	int want = w->ep[e].dom == (int)d ? 0 : -EINVAL, got;

	w->what = "detach";
	begin(w, -1, 0, 0, (int)e);
	got = mediator_detach(w->m, d, e);
	(void)end(w, 0);
	if (got != want)
		bad(w, "endpoint %u of domain %u: %d, the oracle says %d", e, d, got, want);
	if (!want)
		leave(w, e);
}

static int map_error(struct world *w, unsigned d, const struct omap *map)
{
	const struct odomain *dom = &w->dom[d];

	if (!dom->nr_eps)
		return -ENOENT;
	if (dom->bypass)
		return -EINVAL;
	if (!IS_ALIGNED(map->start | (map->last + 1) | map->gpa, w->g))
		return -ERANGE;
	if (dom_has_hole(w, d) && in_hole(w, map->start, map->last))
		return -EINVAL;
	if (!in_ram(map->gpa, map->last - map->start + 1))
		return -EFAULT;
	for (uint64_t iova = map->start; iova <= map->last; iova += w->g) {
		if (dom->at[slot_in(w, iova)])
			return -EINVAL;
	}
	return 0;
}

/* Is @ret what is wrong with a list, or one of several things that are? */
static bool is_wrong(struct world *w, unsigned d, const struct omap *map, unsigned nr, int ret)
{
	const struct odomain *dom = &w->dom[d];

	for (unsigned n = 0; n < nr; n++) {
		if (ret == map_error(w, d, &map[n]) ||
		    (ret == -EFAULT && !in_ram(map[n].gpa, map[n].last - map[n].start + 1)))
			return true;
		for (uint64_t iova = map[n].start; ret == -EINVAL && iova <= map[n].last;
		     iova += w->g) {
			if (dom->at[slot_in(w, iova)])
				return true;
		}
	}
	return false;
}

/* Do mappings that sync points pass over, or would, see pages that devices are still writing? */
static bool pages_are_clean(const struct world *w, const struct omap *map, unsigned nr)
{
	for (unsigned n = 0; n < nr; n++) {
		unsigned first = (unsigned)off_of(map[n].gpa);
		unsigned len = (unsigned)(map[n].last - map[n].start + 1);

		for (unsigned off = first; off < first + len; off++) {
			if (w->owner[off])
				return false;
		}
	}
	return true;
}

static void count_unsynced(struct world *w, const struct omap *map, unsigned nr, int by)
{
	for (unsigned n = 0; n < nr; n++) {
		for (uint64_t at = 0; at <= map[n].last - map[n].start; at += PAGE) {
			uint8_t *count = &w->unsynced[(unsigned)off_of(map[n].gpa + at) / PAGE];

			*count = (uint8_t)(*count + by);
		}
	}
}

/* Frames that become bounce because of @map, or cease to be kept. */
static void touch(struct world *w, struct odomain *dom, const struct omap *map, bool done)
{
	if (!(map->flags & 3))
		return;
	for (uint64_t iova = map->start; iova <= map->last; iova += w->g) {
		int slot = (int)slot_in(w, iova);

		if (is_direct(w, map, slot)) {
			if (done)
				dom->touched[(unsigned)slot / w->per_frame] = false;
		} else {
			dom->touched[(unsigned)slot / w->per_frame] = true;
		}
	}
}

/* MAP, or with @sg a list. */
static void op_map_list(struct world *w, unsigned d, const struct omap *map, unsigned nr, int want,
			const struct sg_segment *sg, size_t nr_sg)
{
	struct odomain *dom = &w->dom[d];
	struct mapping one = {map[0].start, map[0].last, map[0].gpa, map[0].flags};
	bool hit, unsynced = false;
	unsigned armed;
	int got;

	if (!want) {
		if (dom->nr_maps + nr > MAX_MAPS)
			return;
		unsynced = (map[0].flags & 3) && !mode_syncs(dom->mode, map[0].flags);
		unsynced |= !mode_syncs(dom->mode, map[0].flags);
		if (unsynced && !pages_are_clean(w, map, nr)) {
			sync_all(w);
			if (!pages_are_clean(w, map, nr))
				return;
		}
		if (unsynced)
			count_unsynced(w, map, nr, 1);
	}
	/* Also if it is refused: what was done of it until then may be parked. */
	for (unsigned n = 0; n < nr && (!want || want == -EINVAL); n++)
		touch(w, dom, &map[n], false);
	w->what = sg ? "map_sg" : "map";
	armed = inject(w);
	begin(w, (int)d, map[0].start, map[nr - 1].last, -1);
	got = sg ? mediator_map_sg(w->m, d, map[0].start, sg, nr_sg, map[0].flags)
		 : mediator_map(w->m, d, &one);
	hit = end(w, armed);
	/* An overlap is found piece by piece, after other things may have gone wrong. */
	if (got != want && !(sg && want && is_wrong(w, d, map, nr, got)) &&
	    !((!want || (sg && want == -EINVAL)) && is_explained(w, got, hit)))
		bad(w, "domain %u iova 0x%llx-0x%llx gpa 0x%llx: %d, the oracle says %d", d,
		    (ull)map[0].start, (ull)map[nr - 1].last, (ull)map[0].gpa, got, want);
	if (got) {
		w->counts->refused++;
		w->undone = true;
		if (unsynced)
			count_unsynced(w, map, nr, -1);
		if (!want)
			check_views(w, (int)d);
		return;
	}
	for (unsigned n = 0; n < nr; n++) {
		unsigned at = 0;

		while (dom->map[at].used)
			at++;
		dom->map[at] = map[n];
		dom->map[at].used = true;
		dom->nr_maps++;
		w->counts->maps++;
		for (uint64_t iova = map[n].start; iova <= map[n].last; iova += w->g) {
			dom->at[slot_in(w, iova)] = (uint8_t)(at + 1);
			dom->corrupt[slot_in(w, iova)] = false;
		}
		touch(w, dom, &map[n], true);
	}
	for (unsigned s = 0; s < w->nr_streams; s++) {
		if (stream_dom(w, s) == (int)d)
			check_at(w, s, map[0].start, (unsigned)w->g, false);
	}
}

static void op_map(struct world *w)
{
	unsigned d = some_domain(w);
	uint64_t slot = rnd(w, w->nr_slots);
	uint64_t nr = 1 + rnd(w, rnd(w, 3) ? 4 : 16);
	struct omap map = {0};

	for (int i = 0; i < 4 && map_at(w, (int)d, (int)slot); i++)
		slot = rnd(w, w->nr_slots);
	if (!rnd(w, 3))
		slot = slot / w->per_frame * w->per_frame;
	nr = MIN(nr, w->nr_slots - slot);
	map.start = w->base + slot * w->g;
	map.last = map.start + nr * w->g - 1;
	map.gpa = some_gpa(w);
	if (rnd(w, 2))
		map.gpa = ALIGN_DOWN(map.gpa, H) + map.start % H;
	map.flags = (uint32_t)(rnd(w, 12) ? 1 + rnd(w, 3) : 0);
	if (!rnd(w, 3))
		map.flags = MAP_READ | MAP_WRITE;
	if (!rnd(w, 50))
		map.start += 0x800;
	op_map_list(w, d, &map, 1, map_error(w, d, &map), NULL, 0);
}

/* A neighbour of what is there, of the same host frame: windows grow. */
static void op_map_neighbour(struct world *w)
{
	unsigned d = some_domain(w), n = (unsigned)rnd(w, MAX_MAPS);
	struct odomain *dom = &w->dom[d];
	struct omap map, *there;

	if (!dom->nr_maps)
		return;
	while (!dom->map[n].used)
		n = (n + 1) % MAX_MAPS;
	there = &dom->map[n];
	map = *there;
	if (rnd(w, 2)) {
		map.start = there->last + 1;
		map.gpa = there->gpa + (there->last - there->start + 1);
	} else {
		map.start = there->start - w->g;
		map.gpa = there->gpa - w->g;
	}
	map.last = map.start + w->g - 1;
	if (slot_of(w, map.start) < 0)
		return;
	op_map_list(w, d, &map, 1, map_error(w, d, &map), NULL, 0);
}

/* All that is missing of one frame, one by one: bounced frames become direct. */
static void op_fill(struct world *w)
{
	unsigned d = some_domain(w), first = (unsigned)rnd(w, w->nr_slots);
	uint32_t flags = 1 + (uint32_t)rnd(w, 3);
	uint64_t gpa;

	first -= first % w->per_frame;
	gpa = ALIGN_DOWN(some_gpa(w), H) + first * w->g % H;
	for (unsigned i = 0; i < w->per_frame; i++) {
		const struct omap *map = map_at(w, (int)d, (int)(first + i));
		uint64_t iova = w->base + first * w->g;

		if (map && map->start >= iova && (map->flags & 3)) {
			gpa = map->gpa - (map->start - iova);
			flags = map->flags;
		}
	}
	for (unsigned n = 0; n < 2 * w->per_frame; n++) {
		unsigned i = (unsigned)rnd(w, w->per_frame);
		struct omap map = {.start = w->base + (first + i) * w->g,
				   .gpa = gpa + i * w->g,
				   .flags = flags};

		map.last = map.start + w->g - 1;
		if (!map_at(w, (int)d, (int)(first + i)))
			op_map_list(w, d, &map, 1, map_error(w, d, &map), NULL, 0);
		if (!rnd(w, 3)) {
			w->what = "device write", device_access(w, true);
			w->what = "cpu write", cpu_write(w, 16);
		}
		if (w->nr_dirty > MAX_DIRTY - 32)
			sync_all(w);
	}
}

static void op_map_sg(struct world *w)
{
	unsigned d = some_domain(w), nr_sg = 1 + (unsigned)rnd(w, 6), nr = 0;
	uint64_t slot = rnd(w, w->nr_slots), iova = w->base + slot * w->g;
	struct sg_segment sg[6];
	struct omap map[6];
	uint32_t flags = 1 + (uint32_t)rnd(w, 3);
	int want = 0;

	for (unsigned i = 0; i < nr_sg; i++) {
		uint64_t len = (1 + rnd(w, rnd(w, 2) ? 2 : 5)) * w->g;

		sg[i].gpa = i && !rnd(w, 3) ? sg[i - 1].gpa + sg[i - 1].len : some_gpa(w);
		if (rnd(w, 2) && !(i && sg[i].gpa == sg[i - 1].gpa + sg[i - 1].len))
			sg[i].gpa = ALIGN_DOWN(sg[i].gpa, H) + iova % H;
		sg[i].len = len;
		if (iova + len > w->base + WINDOW_LEN) {
			nr_sg = i;
			break;
		}
		if (nr && sg[i].gpa == map[nr - 1].gpa + (map[nr - 1].last - map[nr - 1].start + 1))
			map[nr - 1].last += len;
		else
			map[nr++] = (struct omap){.start = iova,
						  .last = iova + len - 1,
						  .gpa = sg[i].gpa,
						  .flags = flags};
		iova += len;
	}
	if (!nr)
		return;
	for (unsigned n = 0; n < nr && !want; n++)
		want = map_error(w, d, &map[n]);
	op_map_list(w, d, map, nr, want, sg, nr_sg);
}

/* What is kept for speed, and all that is lent, has its bounds. */
static void check_bounds(struct world *w)
{
	struct mediator_stats stats;

	mediator_get_stats(w->m, &stats);
	if (stats.parked_live * 2 * w->h > w->park_limit)
		bad(w, "%llu frames parked", (ull)stats.parked_live);
	/* A MAP that was undone may leave some more, until the next UNMAP there. */
	w->undone = w->undone && stats.quarantined_live;
	if (stats.quarantined_live > NR_DOMAINS * w->quarantine_limit + (w->undone ? 24 : 0))
		bad(w, "%llu frames in quarantine", (ull)stats.quarantined_live);
	if (stats.bounce_bytes > w->pool_limit)
		bad(w, "%llu bytes of bounce pages", (ull)stats.bounce_bytes);
}

static void op_unmap(struct world *w)
{
	unsigned d = some_domain(w), n = (unsigned)rnd(w, MAX_MAPS);
	struct odomain *dom = &w->dom[d];
	uint64_t start = w->base + rnd(w, w->nr_slots) * w->g;
	uint64_t last = start + (1 + rnd(w, 12)) * w->g - 1;
	int want = dom->nr_eps ? dom->bypass ? -EINVAL : 0 : -ENOENT, got;

	if (dom->nr_maps && rnd(w, 4)) {
		while (!dom->map[n].used)
			n = (n + 1) % MAX_MAPS;
		start = dom->map[n].start;
		last = dom->map[n].last + rnd(w, 3) / 2 * 2 * w->g;
	}
	if (!rnd(w, 60)) {
		start = 0;
		last = UINT64_MAX;
	}
	for (n = 0; !want && n < MAX_MAPS; n++) {
		const struct omap *map = &dom->map[n];

		if (map->used && map->start <= last && start <= map->last &&
		    !(map->start >= start && map->last <= last))
			want = -ERANGE;
	}
	/* An UNMAP needs nothing that can be missing. */
	if (!rnd(w, 10))
		iommu_alloc_fail_nth(1);
	w->what = "unmap";
	begin(w, want ? -1 : (int)d, start, last, -1);
	w->op_unmaps = true;
	got = mediator_unmap(w->m, d, start, last);
	(void)end(w, 0);
	if (got != want && !(!want && got == -EIO && w->any_dead))
		bad(w, "domain %u iova 0x%llx-0x%llx: %d, the oracle says %d", d, (ull)start,
		    (ull)last, got, want);
	/* What write_late() marked is known now. */
	for (unsigned i = 0; i < w->nr_late; i++)
		w->owner[w->late[i].off] = CLEAN;
	if (!want) {
		for (n = 0; n < MAX_MAPS; n++) {
			struct omap *map = &dom->map[n];

			if (!map->used || map->start < start || map->last > last)
				continue;
			w->counts->unmaps++;
			forget_map(w, d, n);
		}
	}
	settle_late(w);
	check_bounds(w);
	if (want)
		return;
	for (unsigned s = 0; s < w->nr_streams; s++) {
		if (stream_dom(w, s) != (int)d)
			continue;
		for (unsigned i = 0; i < 4; i++) {
			uint64_t iova = start + i * w->g;

			if (slot_of(w, iova) >= 0)
				check_at(w, s, iova, (unsigned)w->g, false);
		}
	}
}

static void sync_all(struct world *w)
{
	unsigned kept = 0;

	for (unsigned e = 0; e < w->nr_eps; e++)
		endpoint_sync_for_cpu(w->ep[e].ep);
	arrive(w, VIEW, UINT8_MAX, true);
	for (unsigned e = 0; e < w->nr_eps; e++)
		endpoint_sync_for_device(w->ep[e].ep);
	for (unsigned n = 0; n < w->nr_dirty; n++) {
		const struct dirty rec = w->dirty[n];
		bool keep = false;

		for (unsigned off = rec.off; off < rec.off + rec.len; off++) {
			if (w->owner[off] == CPU) {
				check_ram_byte(w, off, true);
				w->owner[off] = CLEAN;
			}
			keep |= w->owner[off] != CLEAN;
		}
		if (keep)
			w->dirty[kept++] = rec;
	}
	w->nr_dirty = kept;
	for (unsigned d = 0; d < NR_DOMAINS; d++) {
		if (w->dom[d].mode == SYNC_FULL)
			memset(w->dom[d].corrupt, 0, sizeof(w->dom[d].corrupt));
	}
}

static void op_sync_cpu(struct world *w)
{
	unsigned e = (unsigned)rnd(w, w->nr_eps);
	int d = w->ep[e].dom;

	w->what = "sync for the CPU";
	endpoint_sync_for_cpu(w->ep[e].ep);
	if (d >= 0)
		arrive(w, view_of((unsigned)d, 0), view_of((unsigned)d, MAX_MAPS - 1), true);
}

static void op_sync_device(struct world *w)
{
	unsigned e = (unsigned)rnd(w, w->nr_eps);
	int d = w->ep[e].dom;
	struct odomain *dom;

	w->what = "sync for the device";
	endpoint_sync_for_device(w->ep[e].ep);
	if (d < 0 || w->dom[d].bypass)
		return;
	dom = &w->dom[d];
	if (dom->mode == SYNC_FULL)
		memset(dom->corrupt, 0, sizeof(dom->corrupt));
	/* What the CPU wrote is there now. */
	for (unsigned n = 0; n < w->nr_dirty && n < 8; n++) {
		unsigned off = w->dirty[rnd(w, w->nr_dirty)].off;
		unsigned page = off / w->g * (unsigned)w->g;

		if (w->owner[off] != CPU)
			continue;
		for (unsigned slot = 0; slot < w->nr_slots; slot++) {
			const struct omap *map = map_at(w, d, (int)slot);
			uint64_t iova = w->base + slot * w->g;

			if (!map || !mode_syncs(dom->mode, map->flags) ||
			    !(map->flags & MAP_READ) ||
			    (unsigned)off_of(map->gpa + (iova - map->start)) != page)
				continue;
			for (unsigned i = 0; i < w->ep[e].nr; i++)
				check_at(w, w->ep[e].stream[i], iova + (off - page), 1, true);
		}
	}
}

static void op_irq(struct world *w)
{
	struct oinst *inst = &w->inst[rnd(w, w->nr_insts)];

	w->what = "interrupt";
	if (inst->is_fake)
		return;
	inst->told = false;
	if (dart_irq(inst->rig.dart) != inst->latched || inst->told != inst->latched)
		bad(w, "the DART has latched %s, its driver found %s",
		    inst->latched ? "a fault" : "none", inst->told ? "one" : "none");
	inst->latched = false;
}

static void on_fault(struct dart_rig *rig, const struct dart_fault *fault)
{
	struct world *w = rig->on_fault_ctx;
	struct oinst *inst = container_of(rig, struct oinst, rig);

	inst->told = true;
	if (fault->sid != inst->latched_sid || fault->iova < inst->latched_iova ||
	    fault->iova > inst->latched_iova + w->g)
		bad(w, "the driver reports a fault of stream %u at 0x%llx, it was %u at 0x%llx",
		    fault->sid, (ull)fault->iova, inst->latched_sid, (ull)inst->latched_iova);
}

static void op_bypass(struct world *w)
{
	bool bypass = rnd(w, 2);
	int got;

	if (w->capped)
		return;
	w->what = "set_bypass";
	begin(w, -1, 0, 0, (int)w->nr_eps);
	got = mediator_set_bypass(w->m, bypass);
	(void)end(w, 0);
	if (got && !is_explained(w, got, false))
		bad(w, "%d", got);
	w->bypass = bypass;
	check_views(w, -1);
}

static void op_reset(struct world *w)
{
	w->what = "reset";
	w->counts->resets++;
	begin(w, -1, 0, 0, (int)w->nr_eps);
	mediator_reset(w->m);
	(void)end(w, 0);
	for (unsigned e = 0; e < w->nr_eps; e++)
		leave(w, e);
	check_views(w, -1);
	check_ram(w);
}

static void op_keep(struct world *w)
{
	struct mediator_stats stats;

	begin(w, -1, 0, 0, -1);
	if (rnd(w, 2)) {
		w->what = "trim";
		mediator_trim(w->m);
		mediator_get_stats(w->m, &stats);
		if (stats.parked_live || stats.quarantined_live)
			bad(w, "%llu parked, %llu in quarantine", (ull)stats.parked_live,
			    (ull)stats.quarantined_live);
	} else {
		w->what = "expire";
		(void)mediator_expire(w->m);
	}
	(void)end(w, 0);
}

static void step(struct world *w)
{
	uint64_t what = rnd(w, 10000);
	unsigned attached = 0;

	if (w->nr_dirty > MAX_DIRTY - 32)
		sync_all(w);
	for (unsigned e = 0; e < w->nr_eps; e++)
		attached += w->ep[e].dom >= 0;
	if (what < (attached > w->nr_eps / 2 ? 60 : 1500))
		op_attach(w);
	else if (what < 75)
		op_detach(w);
	else if (what < 900)
		op_map(w);
	else if (what < 1100)
		op_map_neighbour(w);
	else if (what < 1200)
		op_fill(w);
	else if (what < 1350)
		op_map_sg(w);
	else if (what < 2350)
		op_unmap(w);
	else if (what < 2600)
		op_sync_cpu(w);
	else if (what < 2850)
		op_sync_device(w);
	else if (what < 2890)
		op_keep(w);
	else if (what < 2900)
		op_bypass(w);
	else if (what < 2903)
		op_reset(w);
	else if (what < 3000)
		op_irq(w);
	else if (what < 5200)
		w->what = "cpu write", cpu_write(w, rnd(w, 8) ? 16 : 2 * PAGE);
	else if (what < 7600)
		w->what = "device read", device_access(w, false);
	else
		w->what = "device write", device_access(w, true);
}

/* ---- worlds ---- */

static uint64_t world_now(void)
{
	/* A request takes some time, and now and then a pause comes. */
	static uint64_t now;

	now += rnd(the_world, 50) ? 1000 : 10000000;
	return now;
}

static const uint64_t bases[] = {
	0x2000000 - 12 * H,   /* across a leaf table of 16 KiB pages, and of 4 KiB ones */
	0x40000000 - 12 * H,  /* across TTBRs, and into RAM's own addresses */
	0x100000000 - 24 * H, /* up to the end of 32 bits */
	0,
};

static void make_instance(struct world *w, unsigned i, uint64_t what, uint64_t max_table_bytes)
{
	struct oinst *inst = &w->inst[i];
	const struct dart_region direct = {
		.iova = w->base + HOLE_AT,
		.pa = rig_pa(&w->mem, w->framebuffer),
		.len = H,
		.prot = PROT_DEV_READ | PROT_DEV_WRITE,
	};
	struct dart_rig_cfg cfg = {
		.kind = DART_T8103,
		.page_lg2 = 14,
		.windows = rnd(w, 3),
		.direct = &direct,
		.max_table_bytes = max_table_bytes,
	};

	inst->hole = !rnd(w, 6);
	inst->reach = UINT32_MAX;
	inst->mask = UINT64_MAX;
	inst->is_fake = what == 0;
	if (inst->is_fake) {
		inst->fake = malloc(sizeof(*inst->fake));
		fake_init(inst->fake, rnd(w, 3) ? H : PAGE, 0, BIT(48) - 1);
		inst->fake->inst.ops = &fake_hooked_ops;
		inst->inst = &inst->fake->inst;
		inst->reach = BIT(48) - 1;
		if (inst->hole) {
			inst->inst->nr_apertures = 2;
			inst->inst->apertures[0].last = w->base + HOLE_AT - 1;
			inst->inst->apertures[1] =
				(struct iova_range){w->base + HOLE_AT + H, BIT(48) - 1};
			if (!w->base && HOLE_AT == 0)
				inst->hole = false;
		}
		return;
	}
	cfg.nr_direct = inst->hole;
	inst->rig.mem = &w->mem;
	inst->rig.on_fault = on_fault;
	inst->rig.on_fault_ctx = w;
	switch (what) {
	case 1:
	case 2:
		break;
	case 3:
		cfg.page_lg2 = 12;
		inst->mask = UINT32_MAX;
		break;
	case 4:
		cfg.kind = DART_T8103_USB4;
		break;
	case 5:
	case 6:
		cfg.kind = DART_T6000;
		break;
	case 7:
		cfg.kind = DART_T8110;
		cfg.va_width = 36;
		inst->reach = BIT(36) - 1;
		break;
	default:
		cfg.kind = DART_T8110;
		cfg.va_width = 42;
		inst->reach = BIT(42) - 1;
		break;
	}
	rig_create(&inst->rig, &cfg);
	inst->inst = inst->rig.inst;
}

static void make_endpoint(struct world *w, unsigned e, enum sync_mode mode, bool relaxed)
{
	struct oendpoint *ep = &w->ep[e];
	struct stream streams[3];
	struct endpoint_cfg cfg = {.id = e, .name = "oracle", .streams = streams};

	ep->nr = 1 + (unsigned)rnd(w, 3);
	for (unsigned i = 0; i < ep->nr; i++) {
		unsigned n = (unsigned)rnd(w, w->nr_insts), s = 0;
		uint32_t sid = w->inst[n].is_fake ? 0 : (uint32_t)rnd(w, 5) * 3;

		while (s < w->nr_streams && (w->stream[s].inst != n || w->stream[s].sid != sid))
			s++;
		if (s == w->nr_streams)
			w->stream[w->nr_streams++] = (struct ostream){n, sid};
		ep->stream[i] = s;
		streams[i] = (struct stream){w->inst[n].inst, sid};
	}
	ep->mode = mode;
	ep->relaxed = relaxed;
	ep->dom = -1;
	cfg.nr_streams = ep->nr;
	cfg.sync = mode;
	cfg.relaxed = relaxed;
	if (mediator_add_endpoint(w->m, &cfg, &ep->ep))
		bad(w, "an endpoint is refused");
}

/* Quirks of every DART; @dies: the invalidation that hangs is a random one. */
static void set_quirks(struct world *w)
{
	for (unsigned i = 0; i < w->nr_insts; i++) {
		struct dart_model_quirks quirks = {
			.evict_one_in = rnd(w, 2) ? 1 + (unsigned)rnd(w, 16) : 0,
			.seed = rnd(w, 1000),
		};

		if (w->inst[i].is_fake)
			continue;
		if (w->dies && rnd(w, 2)) {
			quirks.fail_invalidation = 1 + (unsigned)rnd(w, 400);
			w->inst[i].armed = true;
		}
		dart_model_set_quirks(w->inst[i].rig.model, &quirks);
	}
}

static void fill_ram(struct world *w)
{
	for (unsigned i = 0; i < RAM_LEN; i += 8) {
		uint64_t word = rnd(w, BIT(53)) * 2049;

		word = (word & UINT64_C(0x7f7f7f7f7f7f7f7f)) | UINT64_C(0x0101010101010101);
		memcpy(w->ram + i, &word, sizeof(word));
	}
	memcpy(w->cur, w->ram, RAM_LEN);
	memcpy(w->prev, w->ram, RAM_LEN);
}

static void create(struct world *w, uint8_t *ram, uint64_t seed)
{
	struct mediator_cfg cfg = {
		.gmem = &w->gmem,
		.max_domains = NR_DOMAINS,
		.max_mappings = 1000,
		.doorbell = {1, 0},
		.now_ns = world_now,
	};
	static const enum sync_mode modes[] = {SYNC_FULL, SYNC_RINGS, SYNC_NONE};
	uint64_t sort, max_table_bytes, large;
	bool relaxed;

	the_world = w;
	w->seed = seed;
	w->rng = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
	w->what = "create";
	for (int i = 0; i < 8; i++)
		(void)rnd(w, 2);
	w->ram = ram;
	w->framebuffer = ram + RAM_LEN;
	fill_ram(w);
	memset(w->framebuffer, 0xfb, H);
	rig_mem_init(&w->mem);
	w->mem.event = on_event;
	w->mem.event_ctx = w;
	assert_int_equal(gmem_add(&w->gmem, LOW, LOW_LEN, w->ram), 0);
	assert_int_equal(gmem_add(&w->gmem, HIGH, HIGH_LEN, w->ram + LOW_LEN), 0);

	w->base = bases[rnd(w, ARRAY_SIZE(bases))];
	w->tight = !rnd(w, 4);
	w->capped = !rnd(w, 8);
	w->dies = !rnd(w, 8);
	cfg.guest_granule = rnd(w, 12) ? 0x1000 : H;
	cfg.pool_limit = (w->tight ? 2 + rnd(w, 24) : 256) * 2 * H;
	cfg.promote = rnd(w, 2);
	cfg.ring_limit = rnd(w, 3) ? 0 : (1 + rnd(w, 8)) * H;
	large = rnd(w, 3);
	cfg.park_limit = large == 0 ? 0 : (large == 1 ? 1 + rnd(w, 8) : 128) * 2 * H;
	large = rnd(w, 3);
	cfg.quarantine_frames = large == 0 ? 0 : large == 1 ? 1 + (uint32_t)rnd(w, 6) : 64;
	cfg.quarantine_ns = rnd(w, 2) ? 20000 : 0;
	w->parks = cfg.park_limit;
	w->lazy = cfg.quarantine_frames;
	w->pool_limit = cfg.pool_limit;
	w->park_limit = cfg.park_limit;
	w->quarantine_limit = cfg.quarantine_frames;
	w->g = cfg.guest_granule;
	w->nr_slots = (unsigned)(WINDOW_LEN / w->g);
	assert_int_equal(mediator_create(&cfg, &w->m), 0);

	/* All of one kind, all DARTs that may share tables, or anything. */
	sort = rnd(w, 8);
	w->nr_insts = 2 + (unsigned)rnd(w, MAX_INSTS - 1);
	max_table_bytes = w->capped ? (1 + rnd(w, 3)) * H : 0;
	for (unsigned i = 0; i < w->nr_insts; i++)
		make_instance(w, i,
			      sort < 3	 ? 1 + sort
			      : sort < 5 ? 5 + 2 * (sort - 3)
					 : rnd(w, 9),
			      max_table_bytes);
	relaxed = !rnd(w, 6);
	sort = rnd(w, 6);
	w->nr_eps = 2 + (unsigned)rnd(w, MAX_EPS - 1);
	for (unsigned e = 0; e < w->nr_eps; e++)
		make_endpoint(w, e,
			      sort < 3	  ? SYNC_FULL
			      : sort == 3 ? SYNC_RINGS
					  : modes[rnd(w, 3)],
			      relaxed && rnd(w, 4));
	w->h = mediator_frame_size(w->m);
	w->per_frame = (unsigned)(w->h / w->g);
	for (unsigned e = 0; e < w->nr_eps; e++) {
		if (w->ep[e].mode == SYNC_FULL && w->h > w->g)
			w->ring_limit = cfg.ring_limit;
	}
	set_quirks(w);
}

static void add_stats(struct counts *counts, const struct mediator_stats *stats)
{
	const uint64_t *from = (const uint64_t *)stats;
	uint64_t *to = (uint64_t *)&counts->stats;

	for (size_t i = 0; i < sizeof(*stats) / sizeof(*from); i++)
		to[i] += from[i];
}

static void destroy(struct world *w)
{
	struct mediator_stats stats;

	check_views(w, -1);
	sync_all(w);
	check_ram(w);
	op_reset(w);
	w->what = "end";
	if (mediator_set_bypass(w->m, false))
		bad(w, "bypass cannot be taken away");
	w->bypass = false;
	check_views(w, -1);
	sync_all(w);
	for (unsigned off = 0; off < RAM_LEN; off++)
		check_ram_byte(w, off, true);
	mediator_get_stats(w->m, &stats);
	if (stats.mappings || stats.direct_live || stats.window_live || stats.exposed_live ||
	    stats.bounce_live || stats.parked_live || stats.quarantined_live)
		bad(w,
		    "left: %llu mappings, %llu direct, %llu window, %llu exposed, %llu bounce, "
		    "%llu parked, %llu in quarantine",
		    (ull)stats.mappings, (ull)stats.direct_live, (ull)stats.window_live,
		    (ull)stats.exposed_live, (ull)stats.bounce_live, (ull)stats.parked_live,
		    (ull)stats.quarantined_live);
	if (!w->any_dead && (stats.bounce_bytes || w->mem.tables))
		bad(w, "left: %llu bytes of bounce pages, %u tables", (ull)stats.bounce_bytes,
		    w->mem.tables);
	if (stats.conflicts)
		bad(w, "%llu conflicts, but nobody wrote what another had", (ull)stats.conflicts);
	add_stats(w->counts, &stats);
	mediator_destroy(w->m);
	for (unsigned i = 0; i < w->nr_insts; i++) {
		struct dart_model_stats model;
		struct oinst *inst = &w->inst[i];

		if (inst->is_fake) {
			assert_int_equal(inst->fake->nr, 0);
			free(inst->fake);
			continue;
		}
		dart_model_get_stats(inst->rig.model, &model);
		if (model.faults != inst->faults)
			bad(w, "instance %u: the model counts %llu faults, devices saw %llu", i,
			    (ull)model.faults, (ull)inst->faults);
		if (inst->inst->loose)
			bad(w, "instance %u: a stream could not be blocked", i);
		rig_destroy(&inst->rig);
	}
	if (w->mem.tables)
		bad(w, "%u tables leak", w->mem.tables);
	pthread_mutex_destroy(&w->mem.lock);
}

static void run_world(struct world *w, uint8_t *ram, struct counts *counts, uint64_t seed,
		      unsigned long ops)
{
	memset(w, 0, sizeof(*w));
	w->counts = counts;
	counts->worlds++;
	create(w, ram, seed);
	for (w->op = 0; w->op < ops; w->op++) {
		step(w);
		if (w->op % 16 == 0)
			sync_all(w);
		if (w->op % 64 == 0) {
			check_ram(w);
			check_views(w, -1);
			check_bounds(w);
		}
	}
	destroy(w);
}

#define WORLD_OPS 4000ul

static void print_counts(const struct counts *c)
{
	const struct mediator_stats *s = &c->stats;

	printf("worlds %lu: maps %lu unmaps %lu refused %lu, device accesses allowed %lu forbidden "
	       "%lu "
	       "(absorbed %lu), injected %lu, amid requests %lu, late %lu landed %lu, hung %lu, "
	       "resets %lu, replays %lu\n",
	       c->worlds, c->maps, c->unmaps, c->refused, c->allowed, c->forbidden, c->absorbed,
	       c->injected, c->mid, c->late, c->landed, c->dead, c->resets, c->replays);
	printf("frames: direct %llu window %llu exposed %llu bounce %llu; to bounce %llu to direct "
	       "%llu; parked hits %llu evicted %llu; quarantined %llu; reclassified %llu\n",
	       (ull)s->direct_frames, (ull)s->window_frames, (ull)s->exposed_frames,
	       (ull)s->bounce_frames, (ull)s->to_bounce, (ull)s->to_direct, (ull)s->parked_hits,
	       (ull)s->parked_evicted, (ull)s->quarantined_frames, (ull)s->reclassified);
}

static void random_operations_on_random_machines_agree_with_the_oracle(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	unsigned long ops = 400000;
#else
	unsigned long ops = 10000000;
#endif
	const char *seed_env = getenv("SEED"), *ops_env = getenv("OPS");
	uint64_t seed = seed_env ? strtoull(seed_env, NULL, 0) : 1;
	uint8_t *ram = aligned_alloc(H, RAM_LEN + H);
	struct world *w = malloc(sizeof(*w));
	struct counts counts = {0};

	(void)state;
	if (ops_env)
		ops = strtoul(ops_env, NULL, 0);
	printf("SEED=%llu OPS=%lu\n", (ull)seed, ops);
	fflush(stdout);
	for (unsigned long done = 0; done < ops; done += WORLD_OPS)
		run_world(w, ram, &counts, seed++, MIN(ops - done, WORLD_OPS));
	print_counts(&counts);
	/* A run that did nothing proves nothing. */
	if (ops >= 400000) {
		const struct mediator_stats *s = &counts.stats;

		assert_true(counts.maps > ops / 50 && counts.unmaps > ops / 50);
		assert_true(counts.allowed > ops / 8 && counts.forbidden > ops / 8);
		assert_true(counts.absorbed > ops / 100 && counts.injected > ops / 5000);
		assert_true(counts.mid > ops / 100 && counts.landed > ops / 20000);
		assert_true(counts.dead && counts.resets && counts.replays);
		assert_true(s->direct_frames > ops / 200 && s->bounce_frames > ops / 200);
		assert_true(s->window_frames > ops / 1000 && s->exposed_frames);
		assert_true(s->to_bounce > ops / 10000 && s->to_direct > ops / 20000);
		assert_true(s->parked_hits && s->parked_evicted && s->quarantined_frames);
	}
	free(w);
	free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_on_random_machines_agree_with_the_oracle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
