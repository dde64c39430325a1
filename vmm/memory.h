/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory - guest RAM where layout.h says, and every memslot of the VM.
 *
 * Every address and length given to KVM is a multiple of the host page, which sysconf tells.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include <stdint.h>

#include "iommu/gmem.h"

struct memory;

/**
 * memory_create - give a VM its RAM
 * @size: bytes, a multiple of 2 MiB
 * Return: 0; -errno after a line on stderr.
 */
int memory_create(int vm_fd, uint64_t size, struct memory **out);

/* memory_destroy - the VM loses its RAM; nothing may still use the gmem. NULL is fine. */
void memory_destroy(struct memory *memory);

const struct gmem *memory_gmem(const struct memory *memory);

/**
 * memory_map - show the guest host memory that is not RAM (a BAR); any thread
 * @gpa, @hva, @len: multiples of the host page
 * Return: a slot number >= 0; -EINVAL; -ENOSPC no slot is left; -errno of KVM (-EEXIST: overlaps).
 */
int memory_map(struct memory *memory, uint64_t gpa, void *hva, uint64_t len);
/* memory_unmap - no access of the guest goes there any more when it returns */
void memory_unmap(struct memory *memory, int slot);

#endif
