/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/stretch.h"

const char *stretch_name(enum stretch_class class)
{
	static const char *const names[NR_STRETCH_CLASSES] = {
		[STRETCH_DIRECT] = "direct",   [STRETCH_WINDOW] = "window",
		[STRETCH_EXPOSED] = "exposed", [STRETCH_BOUNCE] = "bounce",
		[STRETCH_PARKED] = "parked",   [STRETCH_QUARANTINED] = "quarantined",
		[STRETCH_BARE] = "bare",
	};

	return names[class];
}

bool stretch_join(struct stretch *all, const struct stretch *next, bool fold)
{
	bool linear = all->linear && next->linear && next->gpa - next->iova == all->gpa - all->iova;

	if (all->last == UINT64_MAX || next->start != all->last + 1 || next->class != all->class ||
	    next->rights != all->rights)
		return false;
	if (!fold && (linear != all->linear || next->mixed != all->mixed || !next->linear))
		return false;
	all->last = next->last;
	all->slots += next->slots;
	all->mixed |= next->mixed;
	all->linear = linear;
	return true;
}
