/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/sync.h"

#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/pool.h"

#define LINE_WORDS 8 /* 64 bytes */

/* Collects until two agree, at most; a device that never pauses is then taken as it is: each slot
 * is still right for a valid flag written last, only slots among each other are no snapshot. */
#define COLLECT_LIMIT 16

/* One changed line of a read-write slot. */
struct sync_line {
	uint64_t *dst;
	uint64_t *twin;
	uint64_t data[LINE_WORDS];
};

struct sync_lines {
	struct sync_line *v;
	size_t nr;
};

struct sync_scratch {
	size_t cap;
	struct sync_lines snapshot[2];
};

int sync_scratch_create(size_t nr_lines, struct sync_scratch **out)
{
	struct sync_scratch *s = iommu_zalloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->cap = nr_lines;
	for (int i = 0; i < 2; i++) {
		s->snapshot[i].v = iommu_alloc(nr_lines * sizeof(struct sync_line));
		if (!s->snapshot[i].v) {
			sync_scratch_destroy(s);
			return -ENOMEM;
		}
	}
	*out = s;
	return 0;
}

void sync_scratch_destroy(struct sync_scratch *scratch)
{
	if (!scratch)
		return;
	iommu_free(scratch->snapshot[0].v);
	iommu_free(scratch->snapshot[1].v);
	iommu_free(scratch);
}

/* ---- words ---- */

/*
 * Order this CPU's accesses to normal memory against a coherent device's: outer shareable on arm64,
 * as Linux dma_mb() does it.
 */
static inline void dma_barrier(void)
{
#ifdef __aarch64__
	__asm__ volatile("dmb osh" ::: "memory");
#elif defined(__SANITIZE_THREAD__) && defined(__x86_64__)
	__asm__ volatile("mfence" ::: "memory"); /* the race detector knows no fences */
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline uint64_t load_word(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* 0xff in every byte in which a and b differ */
static inline uint64_t differing_bytes(uint64_t a, uint64_t b)
{
	const uint64_t low7 = UINT64_C(0x7f7f7f7f7f7f7f7f);
	uint64_t x = a ^ b;
	uint64_t high = (((x & low7) + low7) | x) & ~low7;

	return (high >> 7) * 0xff;
}

/* Bring the bytes in which @new differs from *@twin into *@dst and *@twin. Return: how many. */
static inline unsigned merge_word(uint64_t *dst, uint64_t *twin, uint64_t new,
				  struct mediator_stats *stats)
{
	uint64_t old = *twin;
	uint64_t mask, cur, conflict;

	if (new == old)
		return 0;
	mask = differing_bytes(new, old);
	cur = __atomic_load_n(dst, __ATOMIC_RELAXED);
	conflict = mask & differing_bytes(cur, old) & differing_bytes(cur, new);
	if (conflict)
		stats->conflicts += (unsigned)__builtin_popcountll(conflict) / 8;
	if (mask == UINT64_MAX) {
		__atomic_store_n(dst, new, __ATOMIC_RELEASE);
	} else {
		while (!__atomic_compare_exchange_n(dst, &cur, (cur & ~mask) | (new &mask), true,
						    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
			;
	}
	*twin = new;
	return (unsigned)__builtin_popcountll(mask) / 8;
}

static uint64_t *words(const uint8_t *p)
{
	return (uint64_t *)(uintptr_t)p;
}

/* ---- bulk: memory that the other side may be writing at this moment ---- */

#ifdef __SANITIZE_THREAD__
/* What the library's copies do on every machine we run on, word by word, said so that the race
 * detector knows that it is meant. */
static bool differs(const uint8_t *a, const uint8_t *b, size_t len)
{
	for (size_t i = 0; i < len / 8; i++) {
		if (load_word(words(a) + i) != load_word(words(b) + i))
			return true;
	}
	return false;
}

static void fill_both(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len)
{
	for (size_t i = 0; i < len / 8; i++) {
		uint64_t word = load_word(words(guest) + i);

		__atomic_store_n(words(bounce) + i, word, __ATOMIC_RELEASE);
		if (twin)
			words(twin)[i] = word;
	}
}

void sync_zero(uint8_t *bounce, size_t len)
{
	for (size_t i = 0; i < len / 8; i++)
		__atomic_store_n(words(bounce) + i, 0, __ATOMIC_RELEASE);
}
#else
/*
 * Do @len bytes differ? What is missed because the other side writes meanwhile belongs to the next
 * sync point; what is seen is read again, in order, by whoever acts on it.
 */
static inline bool differs(const uint8_t *a, const uint8_t *b, size_t len)
{
	return memcmp(a, b, len) != 0;
}

static inline void fill_both(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len)
{
	memcpy(bounce, guest, len);
	/* From the bounce page, not from the guest's: a CPU that writes meanwhile must not make the
	 * twin differ from what the device was given. */
	if (twin)
		memcpy(twin, bounce, len);
}

void sync_zero(uint8_t *bounce, size_t len)
{
	memset(bounce, 0, len);
}
#endif

/* ---- one slot ---- */

/* What differs from @twin in @src -> @dst. */
static uint64_t merge_slot(uint8_t *dst, uint8_t *twin, const uint8_t *src, size_t len,
			   struct mediator_stats *stats)
{
	uint64_t bytes = 0;

	if (!differs(src, twin, len))
		return 0;
	for (size_t i = 0; i < len / 8; i++)
		bytes += merge_word(words(dst) + i, words(twin) + i, load_word(words(src) + i),
				    stats);
	return bytes;
}

/* A read-only slot: make the bounce page what the guest's page is. */
static uint64_t refresh_slot(uint8_t *bounce, const uint8_t *guest, size_t len)
{
	uint64_t bytes = 0;

	if (!differs(bounce, guest, len))
		return 0;
	for (size_t i = 0; i < len / 8; i++) {
		uint64_t new = load_word(words(guest) + i);

		if (load_word(words(bounce) + i) == new)
			continue;
		__atomic_store_n(words(bounce) + i, new, __ATOMIC_RELEASE);
		bytes += 8;
	}
	return bytes;
}

void sync_fill(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
	       struct mediator_stats *stats)
{
	fill_both(bounce, twin, guest, len);
	stats->bytes_to_device += len;
}

void sync_collect(const uint8_t *bounce, uint8_t *twin, uint8_t *guest, size_t len,
		  struct mediator_stats *stats)
{
	dma_barrier();
	stats->bytes_to_guest += merge_slot(guest, twin, bounce, len, stats);
}

/* ---- a slot whose frame changes its class ---- */

/*
 * A word of the side that was left behind says @from where the twin says @old: the bytes that
 * differ go to *dst, but only where *dst has not moved on from the twin itself.
 * The caller gives the twin its new value. Return: bytes moved.
 */
static unsigned catch_up_word(uint64_t *dst, uint64_t old, uint64_t from,
			      struct mediator_stats *stats)
{
	uint64_t changed = differing_bytes(from, old);
	uint64_t cur = __atomic_load_n(dst, __ATOMIC_RELAXED);
	uint64_t mask, newer;

	/* Also a word that changed whole: someone may write it between the look and the store, and
	 * that is the newer one. */
	do {
		mask = changed & ~differing_bytes(cur, old);
		if (!mask)
			break;
	} while (!__atomic_compare_exchange_n(dst, &cur, (cur & ~mask) | (from & mask), true,
					      __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	newer = changed & ~mask & differing_bytes(cur, from);
	stats->conflicts += (unsigned)__builtin_popcountll(newer) / 8;
	return (unsigned)__builtin_popcountll(mask) / 8;
}

/* Words of which an order can be kept: read from the last to the first before any is written. */
#define CATCH_UP_WORDS (0x10000 / 8)

static uint64_t catch_up(uint8_t *dst, uint8_t *twin, const uint8_t *from, size_t len,
			 struct mediator_stats *stats)
{
	uint64_t seen[CATCH_UP_WORDS];
	uint64_t bytes = 0;

	dma_barrier();
	for (size_t done = 0; done < len; done += sizeof(seen)) {
		size_t part = MIN(len - done, sizeof(seen));

		if (!differs(from + done, twin + done, part))
			continue;
		for (size_t i = part / 8; i--;)
			seen[i] = load_word(words(from + done) + i);
		for (size_t i = 0; i < part / 8; i++) {
			uint64_t *agreed = words(twin + done) + i;

			if (seen[i] == *agreed)
				continue;
			bytes += catch_up_word(words(dst + done) + i, *agreed, seen[i], stats);
			*agreed = seen[i];
		}
	}
	dma_barrier();
	return bytes;
}

void sync_to_bounce(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
		    struct mediator_stats *stats)
{
	if (twin) {
		stats->bytes_to_device += catch_up(bounce, twin, guest, len, stats);
	} else {
		dma_barrier();
		stats->bytes_to_device += refresh_slot(bounce, guest, len);
		dma_barrier();
	}
}

void sync_to_direct(uint8_t *guest, uint8_t *twin, const uint8_t *bounce, size_t len,
		    struct mediator_stats *stats)
{
	if (twin)
		stats->bytes_to_guest += catch_up(guest, twin, bounce, len, stats);
}

/* ---- all slots of a domain ---- */

struct sync_run {
	const struct frame_table *table;
	const struct pool *pool;
	size_t granule;
	enum sync_dir dir;
	size_t cap;
	struct mediator_stats *stats;
};

static uint64_t *count_of(const struct sync_run *run)
{
	return run->dir == SYNC_FOR_CPU ? &run->stats->bytes_to_guest
					: &run->stats->bytes_to_device;
}

/*
 * The changed lines of one read-write slot, its last word first. False when they do not fit.
 * Everything is read again after the comparison said "changed", so that an order holds among all
 * lines.
 */
static bool collect_slot(const struct sync_run *run, struct sync_lines *lines, uint8_t *bounce,
			 uint8_t *guest)
{
	uint8_t *twin = pool_twin(run->pool, bounce);
	uint8_t *src = run->dir == SYNC_FOR_CPU ? bounce : guest;
	uint8_t *dst = run->dir == SYNC_FOR_CPU ? guest : bounce;

	if (!differs(src, twin, run->granule))
		return true;
	for (size_t off = run->granule; off; off -= 8 * LINE_WORDS) {
		size_t first = off / 8 - LINE_WORDS;
		struct sync_line *line;
		bool changed = false;

		if (lines->nr == run->cap)
			return false;
		line = &lines->v[lines->nr];
		for (int i = LINE_WORDS - 1; i >= 0; i--) {
			line->data[i] = load_word(words(src) + first + i);
			changed |= line->data[i] != words(twin)[first + i];
		}
		if (!changed)
			continue;
		line->dst = words(dst) + first;
		line->twin = words(twin) + first;
		lines->nr++;
	}
	return true;
}

/* What was collected last comes first: ascending inside every slot. */
static void apply_lines(const struct sync_run *run, const struct sync_lines *lines)
{
	for (size_t n = lines->nr; n; n--) {
		const struct sync_line *line = &lines->v[n - 1];

		for (unsigned i = 0; i < LINE_WORDS; i++)
			*count_of(run) += merge_word(line->dst + i, line->twin + i, line->data[i],
						     run->stats);
	}
}

static bool collect_rings(const struct sync_run *run, struct sync_lines *lines)
{
	const struct frame_list *rings = &run->table->rings;

	lines->nr = 0;
	for (size_t f = 0; f < rings->nr; f++) {
		const struct frame *frame = rings->v[f];

		for (unsigned s = 0; s < run->table->nr_slots; s++) {
			if ((frame->slot[s] & SLOT_RIGHTS) != SLOT_RIGHTS)
				continue;
			if (!collect_slot(run, lines, frame->page + s * run->granule,
					  SLOT_HVA(frame->slot[s])))
				return false;
		}
	}
	/* Payload is looked at after this. */
	dma_barrier();
	return true;
}

static bool same_lines(const struct sync_lines *a, const struct sync_lines *b)
{
	return a->nr == b->nr && !memcmp(a->v, b->v, a->nr * sizeof(a->v[0]));
}

/*
 * A snapshot of all rings: nothing changed while it was taken, for two collects in a row agree.
 * Return: the lines, or NULL when they do not fit.
 */
static const struct sync_lines *snapshot_rings(const struct sync_run *run,
					       struct sync_scratch *scratch)
{
	unsigned turn = 0;

	if (!collect_rings(run, &scratch->snapshot[0]))
		return NULL;
	/* Nothing to apply needs no order; what comes from now on belongs to the next sync point.
	 */
	if (!scratch->snapshot[0].nr)
		return &scratch->snapshot[0];
	for (unsigned n = 1; n < COLLECT_LIMIT; n++) {
		turn = !turn;
		if (!collect_rings(run, &scratch->snapshot[turn]))
			return NULL;
		if (same_lines(&scratch->snapshot[0], &scratch->snapshot[1]))
			return &scratch->snapshot[turn];
	}
	run->stats->unstable++;
	return &scratch->snapshot[turn];
}

/* More has changed than the scratch holds: slot by slot, each in order. */
static void sync_rings_by_slot(const struct sync_run *run, struct sync_lines *lines)
{
	const struct frame_list *rings = &run->table->rings;

	run->stats->unstable++;
	for (size_t f = 0; f < rings->nr; f++) {
		const struct frame *frame = rings->v[f];

		for (unsigned s = 0; s < run->table->nr_slots; s++) {
			if ((frame->slot[s] & SLOT_RIGHTS) != SLOT_RIGHTS)
				continue;
			lines->nr = 0;
			(void)collect_slot(run, lines, frame->page + s * run->granule,
					   SLOT_HVA(frame->slot[s]));
			apply_lines(run, lines);
		}
	}
}

/*
 * Slots that only one side may write. A write-only one is merged both ways, as a ring is: a driver
 * that keeps a receive buffer mapped, looks into it, writes it and hands it out again (dma_sync_*
 * tells us nothing) would otherwise lose device bytes that happen to equal those of the last
 * transfer.
 */
static void sync_payload(const struct sync_run *run, const struct frame_list *list)
{
	for (size_t f = 0; f < list->nr; f++) {
		const struct frame *frame = list->v[f];

		for (unsigned s = 0; s < run->table->nr_slots; s++) {
			frame_slot rights = frame->slot[s] & SLOT_RIGHTS;
			uint8_t *bounce = frame->page + s * run->granule;
			uint8_t *guest = SLOT_HVA(frame->slot[s]);

			if (rights == MAP_WRITE && run->dir == SYNC_FOR_CPU)
				*count_of(run) += merge_slot(guest, pool_twin(run->pool, bounce),
							     bounce, run->granule, run->stats);
			else if (rights == MAP_WRITE)
				*count_of(run) += merge_slot(bounce, pool_twin(run->pool, bounce),
							     guest, run->granule, run->stats);
			else if (rights == MAP_READ && run->dir == SYNC_FOR_DEVICE)
				*count_of(run) += refresh_slot(bounce, guest, run->granule);
		}
	}
}

void sync_frames(const struct frame_table *table, const struct pool *pool, size_t granule,
		 enum sync_dir dir, enum sync_mode mode, struct sync_scratch *scratch,
		 struct mediator_stats *stats)
{
	const struct sync_run run = {
		.table = table,
		.pool = pool,
		.granule = granule,
		.dir = dir,
		.cap = scratch->cap,
		.stats = stats,
	};
	const struct sync_lines *rings;

	dma_barrier();
	rings = snapshot_rings(&run, scratch);
	if (mode == SYNC_FULL) {
		sync_payload(&run, &table->rings);
		sync_payload(&run, &table->others);
	}
	if (rings)
		apply_lines(&run, rings);
	else
		sync_rings_by_slot(&run, &scratch->snapshot[0]);
	dma_barrier();
}
