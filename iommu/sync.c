/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/sync.h"

#include <errno.h>
#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/diff.h"
#include "iommu/pool.h"

#define LINE	   DIFF_LINE
#define LINE_WORDS (LINE / 8)

/* Collects until two agree, at most; a device that never pauses is then taken as it is: each slot
 * is still right for a valid flag written last, only slots among each other are no snapshot. */
#define COLLECT_LIMIT 16

/*
 * Slots that are looked at, at most, for a snapshot that must be one: a few milliseconds. A device
 * pauses when it has used up the descriptors it was given, and is given none while it is waited
 * for.
 */
#define PATIENT_LOOKS 65536

/* One changed line of a read-write slot. */
struct sync_line {
	uint64_t *dst;
	uint64_t *twin;
	uint64_t data[LINE_WORDS];
};

/* Ring frames that one sync moves to the front, at most. */
#define TOUCHED 8

struct sync_lines {
	struct sync_line *v;
	size_t nr;
	/* Where the last changed slot stands: frame of "rings", slot. */
	size_t last_frame;
	unsigned last_slot;
	/* The last TOUCHED frames with changed slots, as a ring. */
	struct frame *touched[TOUCHED];
	size_t nr_touched; /* all of them */
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

/* How many bytes a mask of whole bytes has. */
static inline unsigned nr_bytes(uint64_t mask)
{
	return (unsigned)(((mask & UINT64_C(0x0101010101010101)) * UINT64_C(0x0101010101010101)) >>
			  56);
}

/* The @mask bytes turn from @old to @new where the other side has written @cur. */
static inline void count_conflicts(uint64_t mask, uint64_t cur, uint64_t old, uint64_t new,
				   struct mediator_stats *stats)
{
	if (cur != old)
		stats->conflicts +=
			nr_bytes(mask & differing_bytes(cur, old) & differing_bytes(cur, new));
}

/* Bring the bytes in which @new differs from @*twin into *@dst and *@twin. Return: how many. */
static inline unsigned merge_word(uint64_t *dst, uint64_t *twin, uint64_t new,
				  struct mediator_stats *stats)
{
	uint64_t old = *twin;
	uint64_t mask, cur;

	if (new == old)
		return 0;
	mask = differing_bytes(new, old);
	cur = __atomic_load_n(dst, __ATOMIC_RELAXED);
	count_conflicts(mask, cur, old, new, stats);
	if (mask == UINT64_MAX) {
		__atomic_store_n(dst, new, __ATOMIC_RELEASE);
	} else {
		while (!__atomic_compare_exchange_n(dst, &cur, (cur & ~mask) | (new &mask), true,
						    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
			;
	}
	*twin = new;
	return nr_bytes(mask);
}

static uint64_t *words(const uint8_t *p)
{
	return (uint64_t *)(uintptr_t)p;
}

/* A line that was found changed, its last word first. */
static inline void read_line(uint64_t *data, const uint64_t *src)
{
	for (unsigned i = LINE_WORDS; i--;)
		data[i] = load_word(src + i);
}

/* ---- bulk: memory that the other side may be writing at this moment ---- */

#ifdef __SANITIZE_THREAD__
/* What the library's copies and vectors do on every machine we run on, word by word, said so that
 * the race detector knows that it is meant. */
static unsigned store_new_lines(uint64_t *dst, const uint64_t *twin, const uint64_t *src,
				unsigned nr, uint8_t *left)
{
	(void)dst, (void)twin, (void)src;
	for (unsigned n = 0; n < nr; n++)
		left[n] = (uint8_t)n;
	return nr;
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
/* Some bytes at once; the compiler makes of them what the machine has. */
typedef uint8_t vec __attribute__((vector_size(16), may_alias));
typedef uint64_t vec64 __attribute__((vector_size(16), may_alias));

#define LINE_VECS	(LINE / sizeof(vec))
#define any(v)		((((vec64)(v))[0] | ((vec64)(v))[1]) != 0)
#define vec_at(p, byte) (*(volatile vec *)((uintptr_t)(p) + (byte)))

/*
 * Of @nr lines, store those of which each byte has changed in @src, and where nobody has written
 * what is at @dst. @left gets the numbers of the others. Return: how many these are.
 * No branch in here depends on the data: there is no telling what a device writes, and a
 * mispredicted branch costs as much as the rest of a line.
 */
static unsigned store_new_lines(uint64_t *dst, const uint64_t *twin, const uint64_t *src,
				unsigned nr, uint8_t *left)
{
	uint8_t nowhere[LINE] __attribute__((aligned(LINE)));
	unsigned nr_left = 0;

	for (size_t n = 0; n < nr; n++) {
		vec new[LINE_VECS], stays = {0};
		bool part;
		uint8_t *to;

#pragma GCC unroll 4
		for (size_t v = 0; v < LINE_VECS; v++) {
			size_t at = n * LINE + v * sizeof(vec);
			vec old = vec_at(twin, at);

			new[v] = vec_at(src, at);
			/* a byte that is the same, or that somebody else has written */
			stays |= (vec)(new[v] == old) | (vec_at(dst, at) ^ old);
		}
		part = any(stays);
		to = part ? nowhere : (uint8_t *)dst + n * LINE;
#pragma GCC unroll 4
		for (size_t v = 0; v < LINE_VECS; v++)
			vec_at(to, v * sizeof(vec)) = new[v];
		left[nr_left] = (uint8_t)n;
		nr_left += part;
	}
	return nr_left;
}

/* Each byte of the guest's page is read once: a CPU that writes meanwhile must not make the twin
 * differ from what the device was given. */
static inline void fill_both(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len)
{
#ifdef __aarch64__
	/* One load for two stores: a third less to do than two copies. */
	for (size_t at = 0; twin && at < len; at += LINE) {
		uint8x16x4_t line = {{vld1q_u8(guest + at), vld1q_u8(guest + at + 16),
				      vld1q_u8(guest + at + 32), vld1q_u8(guest + at + 48)}};

		/* Not to be loaded again. */
		__asm__(""
			: "+w"(line.val[0]), "+w"(line.val[1]), "+w"(line.val[2]),
			  "+w"(line.val[3]));
#pragma GCC unroll 4
		for (unsigned v = 0; v < 4; v++)
			vst1q_u8(bounce + at + v * 16, line.val[v]);
#pragma GCC unroll 4
		for (unsigned v = 0; v < 4; v++)
			vst1q_u8(twin + at + v * 16, line.val[v]);
	}
	if (twin)
		return;
#endif
	/* Elsewhere the library's copies are as fast. */
	memcpy(bounce, guest, len);
	if (twin)
		memcpy(twin, bounce, len);
}

void sync_zero(uint8_t *bounce, size_t len)
{
	memset(bounce, 0, len);
}
#endif

/* ---- one slot ---- */

/* Lines among which an order is kept: read from the last to the first before any is written. */
#define ORDERED_LINES (0x10000 / LINE)

typedef unsigned (*word_fn)(uint64_t *dst, uint64_t *twin, uint64_t from,
			    struct mediator_stats *stats);

/* @word for each word of @from that is not @twin's, in order. Return: what @word did, summed. */
static inline __attribute__((always_inline)) uint64_t bring(uint8_t *dst, uint8_t *twin,
							    const uint8_t *from, size_t len,
							    word_fn word,
							    struct mediator_stats *stats)
{
	uint64_t seen[ORDERED_LINES][LINE_WORDS];
	uint16_t line[ORDERED_LINES];
	uint64_t bytes = 0;

	for (size_t done = 0; done < len; done += ORDERED_LINES * LINE) {
		size_t n = MIN((len - done) / LINE, (size_t)ORDERED_LINES), nr = 0;

		if (!diff_any(from + done, twin + done, n))
			continue;
		while ((n = diff_last(from + done, twin + done, n))) {
			n--;
			read_line(seen[nr], words(from + done) + n * LINE_WORDS);
			line[nr++] = (uint16_t)n;
		}
		while (nr--) {
			size_t at = done + line[nr] * (size_t)LINE;

			for (unsigned i = 0; i < LINE_WORDS; i++) {
				/* A read-only slot's is the bounce page: devices may write it. */
				uint64_t old =
					__atomic_load_n(words(twin + at) + i, __ATOMIC_RELAXED);

				if (seen[nr][i] != old)
					bytes += word(words(dst + at) + i, words(twin + at) + i,
						      seen[nr][i], stats);
			}
		}
	}
	return bytes;
}

/* What differs from @twin in @src -> @dst. */
static uint64_t merge_slot(uint8_t *dst, uint8_t *twin, const uint8_t *src, size_t len,
			   struct mediator_stats *stats)
{
	return bring(dst, twin, src, len, merge_word, stats);
}

static inline unsigned refresh_word(uint64_t *dst, uint64_t *twin, uint64_t from,
				    struct mediator_stats *stats)
{
	(void)twin;
	(void)stats;
	__atomic_store_n(dst, from, __ATOMIC_RELEASE);
	return sizeof(from);
}

/* A read-only slot: make the bounce page what the guest's page is. */
static uint64_t refresh_slot(uint8_t *bounce, const uint8_t *guest, size_t len)
{
	return bring(bounce, bounce, guest, len, refresh_word, NULL);
}

void sync_fill(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
	       struct mediator_stats *stats)
{
	fill_both(bounce, twin, guest, len);
	stats->bytes_to_device += len;
}

/*
 * The changed bytes of a word, one by one: a word that is not read before the request has been
 * answered may be torn, and this is many times faster than a locked compare-and-swap. The bytes
 * that stay are stored too, where they harm nobody: a branch that cannot be foretold costs more.
 */
static inline void store_bytes(uint64_t *dst, uint64_t new, uint64_t mask)
{
	uint8_t nobody;

#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *to = mask & (UINT64_C(0xff) << (8 * i)) ? (uint8_t *)dst + i : &nobody;

		__atomic_store_n(to, (uint8_t)(new >> (8 * i)), __ATOMIC_RELAXED);
	}
}

/* Has a word a byte that is zero? */
static inline bool has_zero_byte(uint64_t v)
{
	return ((v - UINT64_C(0x0101010101010101)) & ~v & UINT64_C(0x8080808080808080)) != 0;
}

/* A line of which some bytes have changed, or where both sides have written. Return: bytes stored.
 */
static unsigned collect_line(uint64_t *dst, const uint64_t *twin, const uint64_t *src,
			     struct mediator_stats *stats)
{
	uint64_t word[LINE_WORDS], nowhere;
	uint8_t left[LINE_WORDS];
	unsigned nr_left = 0, bytes;

	/* Whole words first, without a branch, for the reason given above. */
#pragma GCC unroll 8
	for (unsigned i = 0; i < LINE_WORDS; i++) {
		uint64_t old = twin[i];
		unsigned part;

		word[i] = load_word(src + i);
		part = (unsigned)has_zero_byte(word[i] ^ old) | (load_word(dst + i) != old);
		__atomic_store_n(part ? &nowhere : dst + i, word[i], __ATOMIC_RELAXED);
		left[nr_left] = (uint8_t)i;
		nr_left += part;
	}
	bytes = (LINE_WORDS - nr_left) * 8;
	for (unsigned n = 0; n < nr_left; n++) {
		unsigned i = left[n];
		uint64_t mask = differing_bytes(word[i], twin[i]);

		bytes += nr_bytes(mask);
		count_conflicts(mask, load_word(dst + i), twin[i], word[i], stats);
		store_bytes(dst + i, word[i], mask);
	}
	return bytes;
}

/* Lines looked at in one go. */
#define COLLECT_LINES 64

static uint64_t collect_lines(uint64_t *dst, const uint64_t *twin, const uint64_t *src, unsigned nr,
			      struct mediator_stats *stats)
{
	uint8_t left[COLLECT_LINES];
	unsigned nr_left = store_new_lines(dst, twin, src, nr, left);
	uint64_t bytes = (uint64_t)(nr - nr_left) * LINE;

	for (unsigned i = 0; i < nr_left; i++) {
		size_t at = left[i] * LINE_WORDS;

		if (diff_last((const uint8_t *)(src + at), (const uint8_t *)(twin + at), 1))
			bytes += collect_line(dst + at, twin + at, src + at, stats);
	}
	return bytes;
}

/* ASan's build runs the unit tests on the code above, which is all that other machines have. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* The same where a machine can store any bytes of a line at once. */
static __attribute__((target("avx512bw,popcnt"))) uint64_t
collect_lines_masked(uint64_t *dst, const uint64_t *twin, const uint64_t *src, unsigned nr,
		     struct mediator_stats *stats)
{
	uint64_t bytes = 0, conflicts = 0;

	for (size_t n = 0; n < nr * LINE_WORDS; n += LINE_WORDS) {
		__m512i new = _mm512_loadu_si512(src + n), old = _mm512_loadu_si512(twin + n);
		__m512i cur = _mm512_loadu_si512(dst + n);
		__mmask64 changed = _mm512_cmpneq_epi8_mask(new, old);
		__mmask64 foreign = _mm512_mask_cmpneq_epi8_mask(changed, cur, old);

		_mm512_mask_storeu_epi8(dst + n, changed, new);
		bytes += (unsigned)__builtin_popcountll(changed);
		conflicts += (unsigned)__builtin_popcountll(
			_mm512_mask_cmpneq_epi8_mask(foreign, cur, new));
	}
	stats->conflicts += conflicts;
	return bytes;
}

static bool can_store_masked(void)
{
	return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("popcnt");
}
#else
#define collect_lines_masked collect_lines
static bool can_store_masked(void)
{
	return false;
}
#endif

void sync_collect_last(const uint8_t *bounce, const uint8_t *twin, uint8_t *guest, size_t len,
		       struct mediator_stats *stats)
{
	uint64_t bytes = 0;

	dma_barrier();
	for (size_t done = 0; done < len; done += COLLECT_LINES * LINE) {
		const uint64_t *src = words(bounce + done), *old = words(twin + done);
		unsigned nr = (unsigned)MIN((len - done) / LINE, COLLECT_LINES);

		/* Whole or nothing is what devices mostly write; what they write in part begins at
		 * the beginning. */
		if (!diff_any(bounce + done, twin + done, nr))
			continue;
		nr = (unsigned)diff_last(bounce + done, twin + done, nr);
		if (can_store_masked())
			bytes += collect_lines_masked(words(guest + done), old, src, nr, stats);
		else
			bytes += collect_lines(words(guest + done), old, src, nr, stats);
	}
	/* No barrier: who answers the request publishes what was stored before the answer. */
	stats->bytes_to_guest += bytes;
}

/* ---- a slot that lives on ---- */

/*
 * A word of the side that was left behind says @from where the twin says @old: the bytes that
 * differ go to *dst, but only where *dst has not moved on from the twin itself.
 * Return: bytes moved.
 */
static inline unsigned catch_up_word(uint64_t *dst, uint64_t *twin, uint64_t from,
				     struct mediator_stats *stats)
{
	uint64_t old = *twin;
	uint64_t changed = differing_bytes(from, old);
	uint64_t cur = __atomic_load_n(dst, __ATOMIC_RELAXED);
	uint64_t mask;

	/* Also a word that changed whole: someone may write it between the look and the store, and
	 * that is the newer one. */
	do {
		mask = changed & ~differing_bytes(cur, old);
		if (!mask)
			break;
	} while (!__atomic_compare_exchange_n(dst, &cur, (cur & ~mask) | (from & mask), true,
					      __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	count_conflicts(changed & ~mask, cur, old, from, stats);
	*twin = from;
	return nr_bytes(mask);
}

void sync_collect(const uint8_t *bounce, uint8_t *twin, uint8_t *guest, size_t len,
		  struct mediator_stats *stats)
{
	dma_barrier();
	stats->bytes_to_guest += merge_slot(guest, twin, bounce, len, stats);
	dma_barrier();
}

void sync_to_bounce(uint8_t *bounce, uint8_t *twin, const uint8_t *guest, size_t len,
		    struct mediator_stats *stats)
{
	dma_barrier();
	stats->bytes_to_device += twin ? bring(bounce, twin, guest, len, catch_up_word, stats)
				       : refresh_slot(bounce, guest, len);
	dma_barrier();
}

void sync_to_direct(uint8_t *guest, uint8_t *twin, const uint8_t *bounce, size_t len,
		    struct mediator_stats *stats)
{
	if (!twin)
		return;
	dma_barrier();
	stats->bytes_to_guest += bring(guest, twin, bounce, len, catch_up_word, stats);
	dma_barrier();
}

/* ---- all slots of a domain ---- */

struct sync_run {
	struct frame_table *table;
	const struct pool *pool;
	size_t granule;
	enum sync_dir dir;
	size_t cap;
	const struct sync_hold *hold;
	struct mediator_stats *stats;
};

/* for_each_head - of the domain, live ones and others */
#define for_each_head(run, list, head)                                                             \
	for (struct ring_heads *list = (run)->table->heads; list; list = list->next)               \
		for (struct ring_head *head = list->v; head < list->v + list->nr; head++)

static uint64_t *count_of(const struct sync_run *run)
{
	return run->dir == SYNC_FOR_CPU ? &run->stats->bytes_to_guest
					: &run->stats->bytes_to_device;
}

/* ---- ring heads ---- */

static void find_head(const struct sync_run *run, struct ring_head *head)
{
	uint64_t frame_len = run->table->nr_slots * run->granule;
	uint64_t at = head->iova % frame_len;
	const struct frame *frame;
	frame_slot slot;

	head->bounce = NULL;
	if (!head->live)
		return;
	frame = frame_find(run->table, head->iova / frame_len);
	if (!frame || frame->class != FRAME_BOUNCE)
		return;
	slot = frame->slot[at / run->granule];
	if ((slot & SLOT_RIGHTS) != SLOT_RIGHTS)
		return;
	head->bounce = (head_word *)(uintptr_t)(frame->page + at);
	head->guest = (head_word *)(uintptr_t)(slot_hva(run->table, slot) + at % run->granule);
}

static bool is_source(const struct sync_run *run, const struct ring_head *head)
{
	return head->bounce && head->by_device == (run->dir == SYNC_FOR_CPU);
}

/* read_heads - before all else: what they tell of is in place, and so is found by who looks later
 */
static void read_heads(const struct sync_run *run)
{
	for_each_head(run, list, head)
	{
		find_head(run, head);
		if (is_source(run, head))
			head->seen =
				(uint16_t)(__atomic_load_n(run->dir == SYNC_FOR_CPU ? head->bounce
										    : head->guest,
							   __ATOMIC_ACQUIRE) >>
					   16);
	}
	if (run->table->heads)
		dma_barrier();
}

/* write_heads - after all else */
static void write_heads(const struct sync_run *run)
{
	if (run->table->heads)
		dma_barrier();
	for_each_head(run, list, head)
	{
		head_word *dst = run->dir == SYNC_FOR_CPU ? head->guest : head->bounce;
		uint32_t new = (uint32_t)head->seen << 16;

		if (!is_source(run, head))
			continue;
		if (__atomic_load_n(dst, __ATOMIC_RELAXED) != new) {
			__atomic_store_n(dst, new, __ATOMIC_RELEASE);
			*count_of(run) += sizeof(new);
		}
		memcpy(pool_twin(run->pool, (uint8_t *)head->bounce), &new, sizeof(new));
	}
}

/* leave_heads - of a line that was collected from @src, the bytes of heads stay as the twin has
 * them */
static void leave_heads(const struct sync_run *run, const uint64_t *src, const uint64_t *twin,
			uint64_t data[LINE_WORDS])
{
	for_each_head(run, list, head)
	{
		uintptr_t at = (uintptr_t)(run->dir == SYNC_FOR_CPU ? head->bounce : head->guest) -
			       (uintptr_t)src;
		uint64_t mask = UINT64_C(0xffffffff) << (8 * (at % 8));

		if (head->bounce && at < LINE)
			data[at / 8] = (data[at / 8] & ~mask) | (twin[at / 8] & mask);
	}
}

/* The changed lines of one read-write slot, its last word first. False when they do not fit. */
static bool collect_slot(const struct sync_run *run, struct sync_lines *lines, uint8_t *bounce,
			 uint8_t *guest)
{
	uint8_t *twin = pool_twin(run->pool, bounce);
	uint8_t *src = run->dir == SYNC_FOR_CPU ? bounce : guest;
	uint8_t *dst = run->dir == SYNC_FOR_CPU ? guest : bounce;
	size_t n = run->granule / LINE;

	if (!diff_any(src, twin, n))
		return true;
	while ((n = diff_last(src, twin, n))) {
		struct sync_line *line;

		if (lines->nr == run->cap)
			return false;
		n--;
		line = &lines->v[lines->nr];
		line->dst = words(dst) + n * LINE_WORDS;
		line->twin = words(twin) + n * LINE_WORDS;
		read_line(line->data, words(src) + n * LINE_WORDS);
		leave_heads(run, words(src) + n * LINE_WORDS, line->twin, line->data);
		/* It may have been changed back. */
		lines->nr += memcmp(line->data, line->twin, LINE) != 0;
	}
	return true;
}

/* Has more than one word changed? One is never seen in part. */
static bool many_words(const struct sync_lines *lines)
{
	unsigned nr = 0;

	if (lines->nr != 1)
		return lines->nr;
	for (unsigned i = 0; i < LINE_WORDS; i++)
		nr += lines->v[0].data[i] != lines->v[0].twin[i];
	return nr > 1;
}

/* What was collected last comes first: ascending inside every slot. */
static void store_lines(const struct sync_run *run, const struct sync_lines *lines)
{
	for (size_t n = lines->nr; n; n--) {
		const struct sync_line *line = &lines->v[n - 1];

		for (unsigned i = 0; i < LINE_WORDS; i++)
			*count_of(run) += merge_word(line->dst + i, line->twin + i, line->data[i],
						     run->stats);
	}
}

static void apply_lines(const struct sync_run *run, const struct sync_lines *lines)
{
	bool hold = run->hold && run->dir == SYNC_FOR_CPU && many_words(lines);

	if (hold) {
		run->hold->take(run->hold->ctx);
		run->stats->holds++;
	}
	store_lines(run, lines);
	if (hold)
		run->hold->release(run->hold->ctx);
}

/* A place in the order in which rings are collected: all slots before it. */
struct ring_pos {
	size_t frame;
	unsigned slot;
};

static void lines_clear(struct sync_lines *lines)
{
	lines->nr = 0;
	lines->nr_touched = 0;
}

static struct ring_pos past_last(const struct sync_lines *lines)
{
	return (struct ring_pos){lines->last_frame, lines->last_slot + 1};
}

/* The caches foresee how one page is read, not which comes next. An empty slot does no harm. */
static void prefetch_slot(const struct sync_run *run, const struct frame *frame, unsigned s)
{
	const uint8_t *bounce = frame->page + s * run->granule;
	const uint8_t *src =
		run->dir == SYNC_FOR_CPU ? bounce : slot_hva(run->table, frame->slot[s]);
	const uint8_t *twin = pool_twin(run->pool, bounce);

	for (unsigned i = 0; i < 4; i++) {
		__builtin_prefetch((const void *)((uintptr_t)src + i * LINE));
		__builtin_prefetch(twin + i * LINE);
	}
}

/* Add what has changed in the slots of [from, to). False when it does not fit. */
static bool collect_rings(const struct sync_run *run, struct sync_lines *lines,
			  struct ring_pos from, struct ring_pos to)
{
	const struct frame_list *rings = &run->table->rings;
	unsigned s = from.slot;

	for (size_t f = from.frame; f < rings->nr && f <= to.frame; f++, s = 0) {
		struct frame *frame = frame_at(run->table, rings->v[f]);
		unsigned end = f == to.frame ? to.slot : run->table->nr_slots;
		size_t before = lines->nr;

		for (; s < end; s++) {
			size_t nr = lines->nr;

			if ((frame->slot[s] & SLOT_RIGHTS) != SLOT_RIGHTS)
				continue;
			if (s + 1 < end)
				prefetch_slot(run, frame, s + 1);
			else if (f + 1 < rings->nr)
				prefetch_slot(run, frame_at(run->table, rings->v[f + 1]), 0);
			if (!collect_slot(run, lines, frame->page + s * run->granule,
					  slot_hva(run->table, frame->slot[s])))
				return false;
			if (lines->nr == nr)
				continue;
			lines->last_frame = f;
			lines->last_slot = s;
		}
		if (lines->nr != before)
			lines->touched[lines->nr_touched++ % TOUCHED] = frame;
	}
	/* What comes next is looked at after this. */
	dma_barrier();
	return true;
}

static bool same_lines(const struct sync_lines *a, const struct sync_lines *b)
{
	return a->nr == b->nr && !memcmp(a->v, b->v, a->nr * sizeof(a->v[0]));
}

/*
 * A snapshot of all rings, in one moment: when the last changed slot had been read.
 *
 * Let p be that slot. The slots behind p were found unchanged after the moment, so they were
 * unchanged in it. Those up to p were read before it; they are read again, and if nothing is
 * different, they had these values in it too. So only as many slots are read twice as stand before
 * p, and frames that change are moved to the front: they usually change again.
 *
 * If something is different, the second look becomes the beginning of a new first one. It has to go
 * on to the end of the list: what it has found may be younger than the look at the slots behind p,
 * and imply changes there.
 * Return: the lines, or NULL when they do not fit.
 */
static const struct sync_lines *snapshot_rings(const struct sync_run *run,
					       struct sync_scratch *scratch)
{
	const struct ring_pos begin = {0, 0}, end = {SIZE_MAX, 0};
	struct sync_lines *now = &scratch->snapshot[0], *before = &scratch->snapshot[1];
	size_t limit = COLLECT_LIMIT;

	if (run->hold && run->table->rings.nr)
		limit = MAX(limit, PATIENT_LOOKS / (run->table->rings.nr * run->table->nr_slots));
	lines_clear(now);
	if (!collect_rings(run, now, begin, end))
		return NULL;
	for (size_t n = 1; n < limit; n++) {
		struct sync_lines *swap = before;
		struct ring_pos p;

		/* Nothing to apply needs no order; what comes from now on belongs to the next sync
		 * point. */
		if (!now->nr)
			return now;
		before = now;
		now = swap;
		p = past_last(before);
		lines_clear(now);
		if (!collect_rings(run, now, begin, p))
			return NULL;
		if (same_lines(before, now))
			return now;
		if (!collect_rings(run, now, p, end))
			return NULL;
	}
	run->stats->unstable++;
	return now;
}

/*
 * The frames that changed stand in front from now on, unless they all do already; among each other
 * as before. What stands in front is applied last, and so it is what tells of the rest, as far as
 * one can guess: a ring changes without the buffers it tells of, with each entry for others, and
 * was mapped before them.
 */
static void move_touched_to_front(const struct sync_run *run, const struct sync_lines *lines)
{
	size_t nr = MIN(lines->nr_touched, (size_t)TOUCHED);

	if (!lines->nr || lines->last_frame < lines->nr_touched)
		return;
	for (size_t i = 1; i <= nr; i++)
		frame_to_front(run->table, lines->touched[(lines->nr_touched - i) % TOUCHED]);
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
		const struct frame *frame = frame_at(run->table, list->v[f]);

		for (unsigned s = 0; s < run->table->nr_slots; s++) {
			frame_slot rights = frame->slot[s] & SLOT_RIGHTS;
			uint8_t *bounce = frame->page + s * run->granule;
			uint8_t *guest = slot_hva(run->table, frame->slot[s]);

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

static void sync_all_payload(const struct sync_run *run)
{
	sync_payload(run, &run->table->rings);
	sync_payload(run, &run->table->others);
}

/*
 * More has changed in rings than the scratch holds: as much at a time as it does, with payload in
 * between, so that no part shows an entry before its payload. Not without end: a look at all
 * payload is long. From the back of the list, for in front stands what changes most often, and so
 * is most likely what tells of the rest.
 */
static void sync_rings_by_part(const struct sync_run *run, struct sync_lines *lines,
			       enum sync_mode mode)
{
	const struct frame_list *rings = &run->table->rings;
	unsigned looks = mode == SYNC_FULL ? COLLECT_LIMIT : 0;

	run->stats->unstable++;
	lines_clear(lines);
	for (size_t n = rings->nr * run->table->nr_slots; n--;) {
		const struct frame *frame =
			frame_at(run->table, rings->v[n / run->table->nr_slots]);
		unsigned s = (unsigned)(n % run->table->nr_slots);
		uint8_t *bounce = frame->page + s * run->granule;
		size_t before = lines->nr;

		if ((frame->slot[s] & SLOT_RIGHTS) != SLOT_RIGHTS)
			continue;
		if (collect_slot(run, lines, bounce, slot_hva(run->table, frame->slot[s])))
			continue;
		lines->nr = before;
		dma_barrier();
		/* One look is left for the last part. */
		if (looks > 1) {
			sync_all_payload(run);
			looks--;
		}
		apply_lines(run, lines);
		lines_clear(lines);
		(void)collect_slot(run, lines, bounce, slot_hva(run->table, frame->slot[s]));
	}
	dma_barrier();
	if (looks)
		sync_all_payload(run);
	apply_lines(run, lines);
}

void sync_frames(struct frame_table *table, const struct pool *pool, size_t granule,
		 enum sync_dir dir, enum sync_mode mode, const struct sync_hold *hold,
		 struct sync_scratch *scratch, struct mediator_stats *stats)
{
	const struct sync_run run = {
		.table = table,
		.pool = pool,
		.granule = granule,
		.dir = dir,
		.cap = scratch->cap,
		.hold = hold,
		.stats = stats,
	};
	const struct sync_lines *rings;

	dma_barrier();
	read_heads(&run);
	rings = snapshot_rings(&run, scratch);
	if (rings) {
		if (mode == SYNC_FULL)
			sync_all_payload(&run);
		apply_lines(&run, rings);
		move_touched_to_front(&run, rings);
	} else {
		sync_rings_by_part(&run, &scratch->snapshot[0], mode);
	}
	write_heads(&run);
	dma_barrier();
}
