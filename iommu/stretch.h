/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stretch - IOVAs in a row of one domain that are backed alike: what an operator is shown.
 */
#ifndef IOMMU_STRETCH_H
#define IOMMU_STRETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stretch_class {
	STRETCH_DIRECT,
	STRETCH_WINDOW,
	STRETCH_EXPOSED,
	STRETCH_BOUNCE,
	STRETCH_PARKED,
	STRETCH_QUARANTINED,
	STRETCH_BARE, /* mapped, and backed by nothing: no rights, or the doorbell */
	NR_STRETCH_CLASSES,
};

struct stretch {
	uint64_t start, last; /* iova; whole frames, but for STRETCH_BARE */
	/* Of the first slot that is mapped; of parked and quarantined frames 0. */
	uint64_t iova, gpa;
	uint64_t slots; /* mapped ones, of the guest granule */
	enum stretch_class class;
	unsigned rights; /* MAP_READ | MAP_WRITE: what the guest's mappings in it give, together */
	bool mixed;	 /* and not each of them the same */
	bool linear;	 /* gpa - iova is one number for all of its slots */
};

/* stretch_name - "direct", ... */
const char *stretch_name(enum stretch_class class);

/**
 * stretch_join - make @next, which comes after it, part of @all
 * @fold: also if it loses what is not told for both: linear, mixed
 * Return: false: they are not neighbours, or not alike; nothing has changed.
 */
bool stretch_join(struct stretch *all, const struct stretch *next, bool fold);

#endif
