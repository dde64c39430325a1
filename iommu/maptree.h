/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maptree - the guest's view of one domain: every live MAP, ordered by iova.
 *
 * Ranges are [start, last], both inclusive, in bytes; UINT64_MAX is a legal last.
 * They never overlap, and each is removed whole or not at all.
 * A mapping costs 16 bytes plus its share of a node that is seldom less than half full, and nearly
 * always full when mappings are made in ascending or descending order. What cannot be packed into
 * 16 bytes is refused: pages are of 4 KiB, gpa lies below 2^48, and 2^28 pages (1 TiB) is the
 * longest. One thread at a time, also for maptree_first(), which notes where it was: the mediator
 * holds its lock. The tree owns its nodes.
 */
#ifndef IOMMU_MAPTREE_H
#define IOMMU_MAPTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAP_READ  1u /* values are those of the virtio-iommu MAP flags */
#define MAP_WRITE 2u
#define MAP_MMIO  4u

struct mapping {
	uint64_t start;
	uint64_t last;
	uint64_t gpa;	/* guest-physical address of start */
	uint32_t flags; /* MAP_* */
};

struct maptree; /* opaque: layout in maptree.c, private even to domain.c */

/* maptree_create - an empty tree. Return: 0; -ENOMEM. */
int maptree_create(struct maptree **out);
/* maptree_destroy - free the tree and every node; NULL is fine */
void maptree_destroy(struct maptree *tree);

/**
 * maptree_insert - record one mapping (copied)
 * Return: 0; -EINVAL last < start; -ERANGE start, last + 1 or gpa is no multiple of 4 KiB, or a
 *         field does not fit (see above); -EEXIST overlaps a live mapping; -ENOMEM.
 *         On error the tree is as it was.
 */
int maptree_insert(struct maptree *tree, const struct mapping *map);

/**
 * maptree_first - the lowest mapping that overlaps [start, last]
 * Return: false if there is none; else *out is a copy of it. To walk a range: call again with
 *         start = out->last + 1 until false or out->last >= last.
 */
bool maptree_first(const struct maptree *tree, uint64_t start, uint64_t last, struct mapping *out);

/**
 * maptree_remove - remove the mapping that starts at @start
 * Return: 0; -ENOENT no mapping starts there. Allocates nothing and cannot fail otherwise.
 */
int maptree_remove(struct maptree *tree, uint64_t start);

/* maptree_count - live mappings */
size_t maptree_count(const struct maptree *tree);

/* maptree_bytes - memory the tree holds: nodes in use, and nodes kept for reuse */
size_t maptree_bytes(const struct maptree *tree);

#endif
