/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gmem - guest RAM as spans of host virtual memory: (gpa, len) -> hva.
 *
 * The vmm fills it once before any vCPU runs; everyone reads it without a lock afterwards.
 * Spans are ordered by gpa, never overlap and never touch (one span per contiguous piece).
 */
#ifndef IOMMU_GMEM_H
#define IOMMU_GMEM_H

#include <stddef.h>
#include <stdint.h>

#define GMEM_MAX_SPANS 4

struct gmem_span {
	uint64_t gpa; /* first byte, bytes */
	uint64_t len; /* bytes, > 0 */
	uint8_t *hva;
};

struct gmem {
	struct gmem_span spans[GMEM_MAX_SPANS];
	unsigned nr_spans;
};

/**
 * gmem_add - append one span
 * Return: 0; -EINVAL empty, overlapping, touching, out of order or wrapping; -ENOSPC too many.
 */
int gmem_add(struct gmem *gmem, uint64_t gpa, uint64_t len, void *hva);

/**
 * gmem_ptr - host address of [gpa, gpa + len)
 * @len: bytes, > 0
 * Return: NULL unless the whole range lies in one span.
 */
static inline void *gmem_ptr(const struct gmem *gmem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < gmem->nr_spans; i++) {
		const struct gmem_span *span = &gmem->spans[i];

		if (gpa >= span->gpa && gpa - span->gpa < span->len)
			return len && len <= span->len - (gpa - span->gpa)
				       ? span->hva + (gpa - span->gpa)
				       : NULL;
	}
	return NULL;
}

/* gmem_gpa - where the byte at @hva lies; UINT64_MAX: in no span */
uint64_t gmem_gpa(const struct gmem *gmem, const uint8_t *hva);

/* gmem_size - bytes of RAM in all spans */
uint64_t gmem_size(const struct gmem *gmem);

#endif
