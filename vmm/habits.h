/* SPDX-License-Identifier: Apache-2.0 */
/* habits - how devices and their Linux drivers use memory, by their PCI IDs: what a device gets
 * that was not told otherwise. */
#ifndef VMM_HABITS_H
#define VMM_HABITS_H

#include <stdbool.h>
#include <stdint.h>

#include "iommu/mediator.h"

struct habits {
	enum sync_mode sync;
	const char *why; /* sync */
	/* The driver has a way of working in which it needs SYNC_FULL; vmm/e1000e_guard knows when
	 * it takes it. */
	bool may_turn_full;
	unsigned poll_us; /* as poll=, microseconds; 0: none */
	bool hold; /* vCPUs are held while rings change: it is not known at which address of an
		      entry, or of a ring, its device writes last */
};

/**
 * habits_of
 * @vendor, @device: PCI IDs
 * @class: 24 bits, base class first
 * @lazy: the guest may put UNMAPs off, see vmm/strict.h
 */
struct habits habits_of(uint16_t vendor, uint16_t device, uint32_t class, bool lazy);

#endif
