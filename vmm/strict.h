/* SPDX-License-Identifier: Apache-2.0 */
/*
 * strict - when the guest's kernel tells its IOMMU of an UNMAP, and what that asks of granule.
 *
 * A lazy kernel (iommu.strict=0, DMA-FQ) puts UNMAP off: its drivers look at a buffer, and give its
 * pages to others, before it. Bounced payload must be there by then, so it has to be copied at sync
 * points: SYNC_FULL. coherence.md, "Lazy guests".
 */
#ifndef VMM_STRICT_H
#define VMM_STRICT_H

#include <stdbool.h>
#include <stdint.h>

enum strictness {
	STRICT_UNSAID, /* its default decides: CONFIG_IOMMU_DEFAULT_DMA_* */
	STRICT_YES,
	STRICT_LAZY,
};

/**
 * strict_of - what Linux makes of iommu.strict= in a command line
 *
 * Values that only some kernels know (t and e for true, f and d for false) are taken for lazy, or
 * for nothing. Source: Linux drivers/iommu/iommu.c iommu_dma_setup(), lib/kstrtox.c kstrtobool(),
 * kernel/params.c parse_args(), lib/cmdline.c next_arg().
 */
enum strictness strict_of(const char *cmdline);

/**
 * strict_cmdline - the command line that the guest gets
 * @needs_strict: mediator_needs_strict(): the name of a device that must not meet a lazy guest;
 *                NULL: there is none
 * @out: NULL: @cmdline is good as it is; else allocated, with iommu.strict=1 in it
 * Return: 0; -EINVAL after a line on stderr: it says lazy, or has no room; -ENOMEM after a line.
 */
int strict_cmdline(const char *cmdline, const char *needs_strict, char **out);

#endif
