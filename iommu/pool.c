/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

/* Bytes of free pages and twins that keep their memory, so that streaming I/O does not fault it in
 * again each time: what some large requests at once bounce. */
#define POOL_WARM_BYTES (32u << 20)

/*
 * Pages between the last page and the first twin. Without them a page and its twin may lie a large
 * power of two apart, where caches (or the predictors of their ways) cannot tell them apart: a
 * comparison was seen to take 1.4 times as long.
 */
#define TWIN_GAP 1

struct pool {
	size_t page_size;
	size_t nr_pages;
	uint8_t *map; /* the whole reservation, for munmap */
	size_t map_len;
	uint8_t *pages; /* nr_pages bounce pages, the gap, then as many twins */
	uint64_t *busy; /* a bit per page: lent */
	uint64_t *warm; /* a bit per page: lent, or free with its memory */
	size_t low;	/* no page below is free */
	/* What a search that fell short has learnt, until a page comes back: no free run is longer,
	 * and none of that length starts below. Without it, many pieces for one request are
	 * quadratic. */
	size_t longest, longest_from;
	size_t nr_lent;
	size_t nr_reserved; /* free pages that only pool_get_reserved() may take */
	size_t nr_peak;	    /* of both together */
	size_t nr_warm;	    /* free ones */
	size_t max_warm;
};

int pool_create(size_t page_size, uint64_t limit, struct pool **out)
{
	uint64_t nr = limit / (2 * (uint64_t)page_size);
	struct pool *pool;

	if (!nr || nr > UINT32_MAX)
		return -EINVAL;
	pool = iommu_zalloc(sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pool->page_size = page_size;
	pool->nr_pages = nr;
	pool->longest = SIZE_MAX;
	pool->max_warm = MAX(POOL_WARM_BYTES / (2 * page_size), 64u);
	pool->busy = iommu_zalloc((nr + 63) / 64 * sizeof(uint64_t));
	if (!pool->busy)
		goto err_pool;
	pool->warm = iommu_zalloc((nr + 63) / 64 * sizeof(uint64_t));
	if (!pool->warm)
		goto err_busy;
	/* Address space only: memory comes with the first touch and goes with MADV_DONTNEED. */
	pool->map_len = (2 * nr + TWIN_GAP + 1) * page_size;
	pool->map = mmap(NULL, pool->map_len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool->map == MAP_FAILED)
		goto err_warm;
	/* A fork would make pinned pages copy-on-write and part us from the device. */
	(void)madvise(pool->map, pool->map_len, MADV_DONTFORK);
	/* One touch would cost a huge page: 32 MiB where pages have 16 KiB. */
	(void)madvise(pool->map, pool->map_len, MADV_NOHUGEPAGE);
	pool->pages = (uint8_t *)ALIGN_UP((uintptr_t)pool->map, page_size);
	*out = pool;
	return 0;

err_warm:
	iommu_free(pool->warm);
err_busy:
	iommu_free(pool->busy);
err_pool:
	iommu_free(pool);
	return -ENOMEM;
}

void pool_destroy(struct pool *pool)
{
	if (!pool)
		return;
	munmap(pool->map, pool->map_len);
	iommu_free(pool->warm);
	iommu_free(pool->busy);
	iommu_free(pool);
}

static bool has_bit(const uint64_t *bits, size_t i)
{
	return bits[i / 64] & BIT(i % 64);
}

static void set_bits(uint64_t *bits, size_t first, size_t nr)
{
	for (size_t i = first; i < first + nr; i++)
		bits[i / 64] |= BIT(i % 64);
}

static void clear_bits(uint64_t *bits, size_t first, size_t nr)
{
	for (size_t i = first; i < first + nr; i++)
		bits[i / 64] &= ~BIT(i % 64);
}

/* Give the memory of a free run back to the kernel, its twins' too. */
static void release(struct pool *pool, size_t first, size_t nr)
{
	uint8_t *page = pool->pages + first * pool->page_size;

	(void)madvise(page, nr * pool->page_size, MADV_DONTNEED);
	(void)madvise(pool_twin(pool, page), nr * pool->page_size, MADV_DONTNEED);
	clear_bits(pool->warm, first, nr);
	pool->nr_warm -= nr;
}

static bool is_warm_free(const struct pool *pool, size_t i)
{
	return has_bit(pool->warm, i) && !has_bit(pool->busy, i);
}

/* The highest free pages with memory give it up until @max are left: the lowest are lent first. */
static void cool(struct pool *pool, size_t max)
{
	size_t end = pool->nr_pages;

	while (pool->nr_warm > max) {
		size_t nr = 0;

		while (!is_warm_free(pool, end - 1))
			end -= (end % 64) || (pool->warm[end / 64 - 1] & ~pool->busy[end / 64 - 1])
				       ? 1
				       : 64;
		while (nr < end && nr < pool->nr_warm - max && is_warm_free(pool, end - 1 - nr))
			nr++;
		end -= nr;
		release(pool, end, nr);
	}
}

/* The first free run of @want pages from @from on, or else the longest; 0 when there is none. */
static size_t find_run(const struct pool *pool, size_t from, size_t want, size_t *first)
{
	size_t best = 0;

	for (size_t i = from; i < pool->nr_pages;) {
		size_t start;

		if (i % 64 == 0 && pool->busy[i / 64] == UINT64_MAX) {
			i += 64;
			continue;
		}
		if (has_bit(pool->busy, i)) {
			i++;
			continue;
		}
		for (start = i; i < pool->nr_pages && i - start < want && !has_bit(pool->busy, i);
		     i++)
			;
		if (i - start > best) {
			best = i - start;
			*first = start;
			if (best == want)
				break;
		}
	}
	return best;
}

/* find_run() from the lowest page on, with what is known of the longest runs. */
static size_t find_best(struct pool *pool, size_t want, size_t *first)
{
	size_t nr;

	if (want >= pool->longest) {
		want = pool->longest;
		nr = find_run(pool, MAX(pool->low, pool->longest_from), want, first);
		if (nr == want) {
			pool->longest_from = *first + nr;
			return nr;
		}
	}
	nr = find_run(pool, pool->low, want, first);
	if (nr < want) {
		pool->longest = nr;
		pool->longest_from = *first + nr;
	}
	return nr;
}

static void note_peak(struct pool *pool)
{
	pool->nr_peak = MAX(pool->nr_peak, pool->nr_lent + pool->nr_reserved);
}

size_t pool_spare(const struct pool *pool)
{
	return pool->nr_pages - pool->nr_lent - pool->nr_reserved;
}

uint8_t *pool_get(struct pool *pool, size_t want, size_t *got)
{
	size_t first = 0, nr;

	want = MIN(want, pool_spare(pool));
	if (!want)
		return NULL;
	/* From the lowest on: these have their memory still, and are the likeliest to be cached. */
	nr = find_best(pool, want, &first);
	assert(nr); /* lent pages are fewer than there are */
	for (size_t i = first; i < first + nr; i++)
		pool->nr_warm -= has_bit(pool->warm, i);
	set_bits(pool->busy, first, nr);
	set_bits(pool->warm, first, nr);
	if (want == 1 || first == pool->low)
		pool->low = first + nr;
	pool->nr_lent += nr;
	note_peak(pool);
	*got = nr;
	return pool->pages + first * pool->page_size;
}

int pool_reserve(struct pool *pool)
{
	if (pool->nr_lent + pool->nr_reserved == pool->nr_pages)
		return -ENOMEM;
	pool->nr_reserved++;
	note_peak(pool);
	return 0;
}

void pool_unreserve(struct pool *pool)
{
	assert(pool->nr_reserved);
	pool->nr_reserved--;
}

uint8_t *pool_get_reserved(struct pool *pool)
{
	uint8_t *page;
	size_t got;

	pool_unreserve(pool);
	page = pool_get(pool, 1, &got);
	assert(page); /* lent and reserved pages together never exceed what there is */
	return page;
}

static size_t page_index(const struct pool *pool, const uint8_t *page)
{
	return (size_t)(page - pool->pages) / pool->page_size;
}

void pool_put(struct pool *pool, uint8_t *page, size_t nr)
{
	size_t first = page_index(pool, page);

	pool->nr_lent -= nr;
	clear_bits(pool->busy, first, nr);
	pool->nr_warm += nr;
	pool->low = MIN(pool->low, first);
	pool->longest = SIZE_MAX;
	/* Some at a time: each call into the kernel costs more than a page is worth. */
	if (pool->nr_warm > pool->max_warm)
		cool(pool, pool->max_warm - pool->max_warm / 8);
}

void pool_trim(struct pool *pool)
{
	cool(pool, 0);
}

uint8_t *pool_twin(const struct pool *pool, const uint8_t *byte)
{
	return (uint8_t *)(uintptr_t)byte + (pool->nr_pages + TWIN_GAP) * pool->page_size;
}

uint64_t pool_used(const struct pool *pool)
{
	return 2 * (uint64_t)(pool->nr_lent + pool->nr_reserved) * pool->page_size;
}

uint64_t pool_peak(const struct pool *pool)
{
	return 2 * (uint64_t)pool->nr_peak * pool->page_size;
}
