/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots - which PCI device and function of the guest each passed-through function is.
 *
 * A slot is a device of the guest without access control services between its functions, so that
 * Linux puts all of them into one IOMMU group, and so into one domain. What shares a group of the
 * host must share one; what is given one name shall.
 */
#ifndef VMM_SLOTS_H
#define VMM_SLOTS_H

#include "vmm/cli.h"

struct slot_place {
	const char *bdf;	 /* for messages */
	unsigned host_group;	 /* number of its IOMMU group */
	const char *group;	 /* group=NAME; NULL: none given */
	unsigned slot, function; /* found: from 0 on, in the order of places */
};

/**
 * slots_assign
 * @places: at most 8, the functions a slot has
 * @nr_slots: how many there are
 * Return: 0; -EINVAL after a line on stderr: functions of one host group have different names.
 */
int slots_assign(struct slot_place *places, unsigned nr, unsigned *nr_slots);

#endif
