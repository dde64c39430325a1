/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc - the memory of iommu/, from one place, so that a test can make any one allocation fail.
 *
 * Thread-safe as malloc is.
 */
#ifndef IOMMU_ALLOC_H
#define IOMMU_ALLOC_H

#include <stddef.h>

/* iommu_alloc, iommu_zalloc - @size bytes, undefined or zero; NULL when there is no memory */
void *iommu_alloc(size_t size);
void *iommu_zalloc(size_t size);

/* iommu_alloc_aligned - the same at a multiple of @align, a power of two that divides @size */
void *iommu_alloc_aligned(size_t size, size_t align);

/* iommu_free - give back what any of these returned; NULL is fine */
void iommu_free(void *ptr);

/**
 * iommu_alloc_fail_nth - for tests: let the @n-th allocation from now on (1 is the next) return NULL
 *
 * Only that one fails: those after it succeed again. 0 disarms.
 * Return: what was left of the count armed before; 0 if that failure has happened, or none was armed.
 *
 * A sweep over every allocation of an operation:
 *	for (n = 1;; n++) {
 *		iommu_alloc_fail_nth(n);
 *		ret = operation();
 *		if (iommu_alloc_fail_nth(0))
 *			break;  it made fewer than n allocations, so all were tried
 *		check that ret is -ENOMEM and that nothing has changed
 *	}
 */
unsigned iommu_alloc_fail_nth(unsigned n);

#endif
