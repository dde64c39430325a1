/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool - the bounce pages: lent to frames in contiguous runs, each with room for its twins, given
 * back and handed to the kernel again beyond a stock that keeps its memory. The lowest free pages
 * are lent first, so that it is always the same memory that is in use.
 *
 * A page can be promised without being lent: a reservation is a place under the limit that only
 * pool_get_reserved() takes, so that a change which must not fail later finds its page.
 * A page that a device may still reach is simply never put back.
 * One thread at a time: the mediator holds its lock. A page that comes out of pool_get() holds
 * whatever its last user left: the caller overwrites all of it before a device can see it.
 */
#ifndef IOMMU_POOL_H
#define IOMMU_POOL_H

#include <stddef.h>
#include <stdint.h>

struct pool;

/**
 * pool_create
 * @page_size: bytes of one bounce page, a power of two, multiple of the host's page
 * @limit: bytes of bounce pages and twins together that may be in use
 * Return: 0; -EINVAL the limit is less than one page and its twin; -ENOMEM no address space.
 */
int pool_create(size_t page_size, uint64_t limit, struct pool **out);
void pool_destroy(struct pool *pool); /* NULL is fine */

/**
 * pool_get - borrow up to @want contiguous pages
 * @got: how many were lent, >= 1: the longest run there is when @want cannot be had in one piece
 *       without touching what is reserved
 * Return: the first page, aligned to the page size; NULL when none is free.
 */
uint8_t *pool_get(struct pool *pool, size_t want, size_t *got);

/* pool_spare - pages that are free and not reserved: pool_get() hands out all of them */
size_t pool_spare(const struct pool *pool);

/* pool_put - give @nr pages starting at @page back */
void pool_put(struct pool *pool, uint8_t *page, size_t nr);

/* pool_reserve - promise one page for later. Return: 0; -ENOMEM every page is lent or promised. */
int pool_reserve(struct pool *pool);

/* pool_unreserve - give one promise back */
void pool_unreserve(struct pool *pool);

/* pool_get_reserved - turn one promise into a page, as pool_get(); cannot fail */
uint8_t *pool_get_reserved(struct pool *pool);

/* pool_trim - hand the stock to the kernel: memory that nobody has borrowed costs nothing then
 */
void pool_trim(struct pool *pool);

/* pool_twin - where the twin of the byte at @byte (inside a bounce page) lives */
uint8_t *pool_twin(const struct pool *pool, const uint8_t *byte);

/* pool_used, pool_peak - bytes lent or promised (with twins) now, and at most so far */
uint64_t pool_used(const struct pool *pool);
uint64_t pool_peak(const struct pool *pool);

#endif
