/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Allocations until the one that fails; 0: none. Only ever set by a test. */
static atomic_uint fail_countdown;

/* One relaxed load, never taken, is what production pays for the hook. */
static bool must_fail(void)
{
	if (__builtin_expect(!atomic_load_explicit(&fail_countdown, memory_order_relaxed), 1))
		return false;
	return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

void *iommu_alloc(size_t size)
{
	return must_fail() ? NULL : malloc(size);
}

void *iommu_zalloc(size_t size)
{
	return must_fail() ? NULL : calloc(1, size);
}

void *iommu_alloc_aligned(size_t size, size_t align)
{
	return must_fail() ? NULL : aligned_alloc(align, size);
}

void iommu_free(void *ptr)
{
	free(ptr);
}

unsigned iommu_alloc_fail_nth(unsigned n)
{
	return atomic_exchange(&fail_countdown, n);
}
