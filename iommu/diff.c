/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/diff.h"

#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Lines that are looked at together while nothing differs: one branch for all of them. */
#define BLOCK 4

static uint64_t load_word(const uint8_t *p)
{
#ifdef __SANITIZE_THREAD__
	return __atomic_load_n((const uint64_t *)(uintptr_t)p, __ATOMIC_ACQUIRE);
#else
	uint64_t word;

	memcpy(&word, p, sizeof(word));
	return word;
#endif
}

bool diff_any_plain(const uint8_t *a, const uint8_t *b, size_t nr)
{
	for (size_t i = 0; i < nr * DIFF_LINE; i += sizeof(uint64_t)) {
		if (load_word(a + i) != load_word(b + i))
			return true;
	}
	return false;
}

size_t diff_last_plain(const uint8_t *a, const uint8_t *b, size_t nr)
{
	for (; nr; nr--) {
		for (size_t i = (nr - 1) * DIFF_LINE; i < nr * DIFF_LINE; i += sizeof(uint64_t)) {
			if (load_word(a + i) != load_word(b + i))
				return nr;
		}
	}
	return 0;
}

/*
 * One body for all vectors. A macro, because what a compiler may use is said function by function.
 * DIFFERS(a, b, lines): do so many lines differ? Its loads are made where it stands: the empty
 * statement says that memory may have changed since the last ones.
 */
#define DEFINE_ANY(name, attribute, DIFFERS)                                                       \
	static attribute bool name(const uint8_t *a, const uint8_t *b, size_t nr)                  \
	{                                                                                          \
		for (; nr >= BLOCK; nr -= BLOCK) {                                                 \
			if (DIFFERS(a, b, BLOCK))                                                  \
				return true;                                                       \
			a += BLOCK * DIFF_LINE;                                                    \
			b += BLOCK * DIFF_LINE;                                                    \
		}                                                                                  \
		for (size_t n = 0; n < nr; n++) {                                                  \
			if (DIFFERS(a + n * DIFF_LINE, b + n * DIFF_LINE, 1))                      \
				return true;                                                       \
		}                                                                                  \
		return false;                                                                      \
	}

#define DEFINE_LAST(name, attribute, DIFFERS)                                                      \
	static attribute size_t name(const uint8_t *a, const uint8_t *b, size_t nr)                \
	{                                                                                          \
		for (; nr % BLOCK; nr--) {                                                         \
			if (DIFFERS(a + (nr - 1) * DIFF_LINE, b + (nr - 1) * DIFF_LINE, 1))        \
				return nr;                                                         \
		}                                                                                  \
		for (; nr; nr -= BLOCK) {                                                          \
			const uint8_t *p = a + (nr - BLOCK) * DIFF_LINE;                           \
			const uint8_t *q = b + (nr - BLOCK) * DIFF_LINE;                           \
                                                                                                   \
			if (!DIFFERS(p, q, BLOCK))                                                 \
				continue;                                                          \
			for (size_t n = BLOCK; n; n--) {                                           \
				__asm__ volatile("" ::: "memory");                                 \
				if (DIFFERS(p + (n - 1) * DIFF_LINE, q + (n - 1) * DIFF_LINE, 1))  \
					return nr - BLOCK + n;                                     \
			}                                                                          \
			/* It has been changed back. */                                            \
		}                                                                                  \
		return 0;                                                                          \
	}

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
static inline bool differs_sse2(const uint8_t *a, const uint8_t *b, size_t lines)
{
	__m128i sum = _mm_setzero_si128();

#pragma GCC unroll 16
	for (size_t i = 0; i < lines * DIFF_LINE; i += sizeof(sum)) {
		__m128i x = _mm_loadu_si128((const void *)(a + i));
		__m128i y = _mm_loadu_si128((const void *)(b + i));

		sum = _mm_or_si128(sum, _mm_xor_si128(x, y));
	}
	return _mm_movemask_epi8(_mm_cmpeq_epi8(sum, _mm_setzero_si128())) != 0xffff;
}

DEFINE_ANY(any_sse2, , differs_sse2)
DEFINE_LAST(last_sse2, , differs_sse2)

#define AVX2 __attribute__((target("avx2")))

static inline AVX2 bool differs_avx2(const uint8_t *a, const uint8_t *b, size_t lines)
{
	__m256i sum = _mm256_setzero_si256();

#pragma GCC unroll 8
	for (size_t i = 0; i < lines * DIFF_LINE; i += sizeof(sum)) {
		__m256i x = _mm256_loadu_si256((const void *)(a + i));
		__m256i y = _mm256_loadu_si256((const void *)(b + i));

		sum = _mm256_or_si256(sum, _mm256_xor_si256(x, y));
	}
	return !_mm256_testz_si256(sum, sum);
}

DEFINE_ANY(any_avx2, AVX2, differs_avx2)
DEFINE_LAST(last_avx2, AVX2, differs_avx2)

size_t diff_kinds(struct diff_kind out[DIFF_MAX_KINDS])
{
	size_t nr = 0;

	out[nr++] = (struct diff_kind){"plain", diff_any_plain, diff_last_plain};
	out[nr++] = (struct diff_kind){"sse2", any_sse2, last_sse2};
	if (__builtin_cpu_supports("avx2"))
		out[nr++] = (struct diff_kind){"avx2", any_avx2, last_avx2};
	return nr;
}

bool diff_any(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return __builtin_cpu_supports("avx2") ? any_avx2(a, b, nr) : any_sse2(a, b, nr);
}

size_t diff_last(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return __builtin_cpu_supports("avx2") ? last_avx2(a, b, nr) : last_sse2(a, b, nr);
}

#elif defined(__aarch64__) && !defined(__SANITIZE_THREAD__)
static inline bool differs_neon(const uint8_t *a, const uint8_t *b, size_t lines)
{
	uint8x16_t sum = vdupq_n_u8(0);
	uint64x2_t halves;

#pragma GCC unroll 8
	for (size_t i = 0; i < lines * DIFF_LINE; i += 2 * sizeof(sum)) {
		uint8x16_t x = vld1q_u8(a + i), y = vld1q_u8(a + i + sizeof(sum));
		uint8x16_t v = vld1q_u8(b + i), w = vld1q_u8(b + i + sizeof(sum));

		/* Kept side by side, two loads become one instruction. */
		__asm__ volatile("" : "+w"(x), "+w"(y), "+w"(v), "+w"(w) : : "memory");
		x = veorq_u8(x, v);
		y = veorq_u8(y, w);
		sum = vorrq_u8(sum, vorrq_u8(x, y));
	}
	halves = vreinterpretq_u64_u8(sum);
	return (vgetq_lane_u64(halves, 0) | vgetq_lane_u64(halves, 1)) != 0;
}

DEFINE_ANY(any_neon, , differs_neon)
DEFINE_LAST(last_neon, , differs_neon)

size_t diff_kinds(struct diff_kind out[DIFF_MAX_KINDS])
{
	out[0] = (struct diff_kind){"plain", diff_any_plain, diff_last_plain};
	out[1] = (struct diff_kind){"neon", any_neon, last_neon};
	return 2;
}

bool diff_any(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return any_neon(a, b, nr);
}

size_t diff_last(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return last_neon(a, b, nr);
}

#else
size_t diff_kinds(struct diff_kind out[DIFF_MAX_KINDS])
{
	out[0] = (struct diff_kind){"plain", diff_any_plain, diff_last_plain};
	return 1;
}

bool diff_any(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return diff_any_plain(a, b, nr);
}

size_t diff_last(const uint8_t *a, const uint8_t *b, size_t nr)
{
	return diff_last_plain(a, b, nr);
}
#endif
