/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/gmem.h"

#include <errno.h>

#include "iommu/base.h"

int gmem_add(struct gmem *gmem, uint64_t gpa, uint64_t len, void *hva)
{
	uint64_t end;

	if (!len || !hva || add_overflows(gpa, len, &end))
		return -EINVAL;
	if (gmem->nr_spans == GMEM_MAX_SPANS)
		return -ENOSPC;
	if (gmem->nr_spans) {
		const struct gmem_span *prev = &gmem->spans[gmem->nr_spans - 1];

		if (gpa <= prev->gpa + prev->len)
			return -EINVAL;
	}
	gmem->spans[gmem->nr_spans++] = (struct gmem_span){.gpa = gpa, .len = len, .hva = hva};
	return 0;
}

uint64_t gmem_gpa(const struct gmem *gmem, const uint8_t *hva)
{
	for (unsigned i = 0; i < gmem->nr_spans; i++) {
		const struct gmem_span *span = &gmem->spans[i];

		if (hva >= span->hva && (uint64_t)(hva - span->hva) < span->len)
			return span->gpa + (uint64_t)(hva - span->hva);
	}
	return UINT64_MAX;
}

uint64_t gmem_size(const struct gmem *gmem)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < gmem->nr_spans; i++)
		size += gmem->spans[i].len;
	return size;
}
