/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/slots.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "vmm/msg.h"

#define SLOT_FUNCTIONS 8 /* of a PCI device */
_Static_assert(CONFIG_MAX_VFIO <= SLOT_FUNCTIONS, "one slot may not hold all functions");

/* The name of a host group is that of any of its functions. Return: the first that has one. */
static const struct slot_place *named(const struct slot_place *places, unsigned nr,
				      unsigned host_group)
{
	for (unsigned i = 0; i < nr; i++)
		if (places[i].host_group == host_group && places[i].group)
			return &places[i];
	return NULL;
}

static int check_names(const struct slot_place *places, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		const struct slot_place *other = named(places, nr, places[i].host_group);

		if (!places[i].group || !strcmp(places[i].group, other->group))
			continue;
		msg_error("--vfio %s,group=%s: it shares IOMMU group %u of the host with %s, which "
			  "has group=%s; give both the same",
			  places[i].bdf, places[i].group, places[i].host_group, other->bdf,
			  other->group);
		return -EINVAL;
	}
	return 0;
}

static bool share_slot(const struct slot_place *places, unsigned nr, unsigned a, unsigned b)
{
	const struct slot_place *name_a = named(places, nr, places[a].host_group);
	const struct slot_place *name_b = named(places, nr, places[b].host_group);

	if (places[a].host_group == places[b].host_group)
		return true;
	return name_a && name_b && !strcmp(name_a->group, name_b->group);
}

int slots_assign(struct slot_place *places, unsigned nr, unsigned *nr_slots)
{
	unsigned nr_functions[SLOT_FUNCTIONS] = {0};
	int ret = check_names(places, nr);

	if (ret)
		return ret;
	*nr_slots = 0;
	for (unsigned i = 0; i < nr; i++) {
		unsigned first = 0;

		while (first < i && !share_slot(places, nr, first, i))
			first++;
		places[i].slot = first < i ? places[first].slot : (*nr_slots)++;
		places[i].function = nr_functions[places[i].slot]++;
	}
	return 0;
}
