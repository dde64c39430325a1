/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base - the few macros, checked sums and the clock that every layer uses.
 */
#ifndef IOMMU_BASE_H
#define IOMMU_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define BIT(n)		 (UINT64_C(1) << (n))
#define GENMASK(hi, lo)	 ((~UINT64_C(0) >> (63 - (hi))) & (~UINT64_C(0) << (lo)))
#define FIELD_GET(m, v)	 (((uint64_t)(v) & (m)) >> __builtin_ctzll(m))
#define FIELD_PREP(m, v) (((uint64_t)(v) << __builtin_ctzll(m)) & (m))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* align must be a power of two */
#define ALIGN_DOWN(v, align) ((uint64_t)(v) & ~((uint64_t)(align)-1))
#define ALIGN_UP(v, align)   ALIGN_DOWN((uint64_t)(v) + ((uint64_t)(align)-1), align)
#define IS_ALIGNED(v, align) (((uint64_t)(v) & ((uint64_t)(align)-1)) == 0)
#define IS_POW2(v)	     ((v) && (((v) & ((v)-1)) == 0))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Each argument is evaluated once: it may be a clock, or memory that another thread writes. */
#define MIN(a, b)                                                                                  \
	__extension__({                                                                            \
		__typeof__(1 ? (a) : (b)) min_a_ = (a), min_b_ = (b);                              \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define MAX(a, b)                                                                                  \
	__extension__({                                                                            \
		__typeof__(1 ? (a) : (b)) max_a_ = (a), max_b_ = (b);                              \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})

/* add_overflows - *sum = a + b; true when the sum does not fit 64 bits (*sum is then useless) */
static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

/* Little-endian loads and stores at any alignment. */
static inline uint16_t get_le16(const void *p)
{
	const uint8_t *b = p;

	return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t get_le32(const void *p)
{
	const uint8_t *b = p;

	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t get_le64(const void *p)
{
	return get_le32(p) | (uint64_t)get_le32((const uint8_t *)p + 4) << 32;
}

static inline void put_le16(void *p, uint16_t v)
{
	uint8_t *b = p;

	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

static inline void put_le32(void *p, uint32_t v)
{
	put_le16(p, (uint16_t)v);
	put_le16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void put_le64(void *p, uint64_t v)
{
	put_le32(p, (uint32_t)v);
	put_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

/* monotonic_ns - CLOCK_MONOTONIC, nanoseconds */
static inline uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

#endif
