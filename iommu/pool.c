/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

/* Free pages that keep their memory, so that streaming I/O does not fault it in again each time. */
#define POOL_HOT_MAX 256

struct pool {
	size_t page_size;
	size_t nr_pages;
	uint8_t *map; /* the whole reservation, for munmap */
	size_t map_len;
	uint8_t *pages; /* nr_pages bounce pages, then as many twins */
	uint64_t *busy; /* a bit per page: lent or hot */
	size_t next;	/* where the next search starts */
	size_t nr_lent;
	size_t nr_reserved; /* free or hot pages that only pool_get_reserved() may take */
	size_t nr_peak;	    /* of both together */
	unsigned nr_hot;
	uint32_t hot[POOL_HOT_MAX];
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
	pool->busy = iommu_zalloc((nr + 63) / 64 * sizeof(uint64_t));
	if (!pool->busy)
		goto err_pool;
	/* Address space only: memory comes with the first touch and goes with MADV_DONTNEED. */
	pool->map_len = 2 * nr * page_size + page_size;
	pool->map = mmap(NULL, pool->map_len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool->map == MAP_FAILED)
		goto err_busy;
	/* A fork would make pinned pages copy-on-write and part us from the device. */
	(void)madvise(pool->map, pool->map_len, MADV_DONTFORK);
	pool->pages = (uint8_t *)ALIGN_UP((uintptr_t)pool->map, page_size);
	*out = pool;
	return 0;

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
	iommu_free(pool->busy);
	iommu_free(pool);
}

static bool is_busy(const struct pool *pool, size_t i)
{
	return pool->busy[i / 64] & BIT(i % 64);
}

static void set_busy(struct pool *pool, size_t first, size_t nr, bool busy)
{
	for (size_t i = first; i < first + nr; i++) {
		if (busy)
			pool->busy[i / 64] |= BIT(i % 64);
		else
			pool->busy[i / 64] &= ~BIT(i % 64);
	}
}

/* Give the memory of a free run back to the kernel, its twins' too. */
static void release(struct pool *pool, size_t first, size_t nr)
{
	uint8_t *page = pool->pages + first * pool->page_size;

	(void)madvise(page, nr * pool->page_size, MADV_DONTNEED);
	(void)madvise(pool_twin(pool, page), nr * pool->page_size, MADV_DONTNEED);
	set_busy(pool, first, nr, false);
}

/* The first free run of @want pages in [from, to), or else the longest; 0 when there is none. */
static size_t find_run(const struct pool *pool, size_t from, size_t to, size_t want, size_t *first)
{
	size_t best = 0;

	for (size_t i = from; i < to;) {
		size_t start;

		if (i % 64 == 0 && pool->busy[i / 64] == UINT64_MAX) {
			i += 64;
			continue;
		}
		if (is_busy(pool, i)) {
			i++;
			continue;
		}
		for (start = i; i < to && i - start < want && !is_busy(pool, i); i++)
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

static void note_peak(struct pool *pool)
{
	pool->nr_peak = MAX(pool->nr_peak, pool->nr_lent + pool->nr_reserved);
}

static uint8_t *lend(struct pool *pool, size_t first, size_t nr, size_t *got)
{
	pool->nr_lent += nr;
	note_peak(pool);
	*got = nr;
	return pool->pages + first * pool->page_size;
}

uint8_t *pool_get(struct pool *pool, size_t want, size_t *got)
{
	size_t spare = pool->nr_pages - pool->nr_lent - pool->nr_reserved;
	size_t first = 0, wrapped = 0, nr, nr_wrapped;

	want = MIN(want, spare);
	if (!want)
		return NULL;
	if (want == 1 && pool->nr_hot)
		return lend(pool, pool->hot[--pool->nr_hot], 1, got);

	for (;;) {
		nr = find_run(pool, pool->next, pool->nr_pages, want, &first);
		if (nr < want) {
			nr_wrapped = find_run(pool, 0, pool->next, want, &wrapped);
			if (nr_wrapped > nr) {
				nr = nr_wrapped;
				first = wrapped;
			}
		}
		if (nr || !pool->nr_hot)
			break;
		/* Only hot pages are left: they are as good as any, but not in one piece. */
		pool_trim(pool);
	}
	if (!nr)
		return NULL;
	set_busy(pool, first, nr, true);
	pool->next = first + nr == pool->nr_pages ? 0 : first + nr;
	return lend(pool, first, nr, got);
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
	while (nr && pool->nr_hot < POOL_HOT_MAX) {
		pool->hot[pool->nr_hot++] = (uint32_t)first++;
		nr--;
	}
	if (nr)
		release(pool, first, nr);
}

void pool_trim(struct pool *pool)
{
	while (pool->nr_hot)
		release(pool, pool->hot[--pool->nr_hot], 1);
}

uint8_t *pool_twin(const struct pool *pool, const uint8_t *byte)
{
	return pool->pages + pool->nr_pages * pool->page_size + (byte - pool->pages);
}

uint64_t pool_used(const struct pool *pool)
{
	return 2 * (uint64_t)(pool->nr_lent + pool->nr_reserved) * pool->page_size;
}

uint64_t pool_peak(const struct pool *pool)
{
	return 2 * (uint64_t)pool->nr_peak * pool->page_size;
}
