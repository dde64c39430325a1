/* SPDX-License-Identifier: Apache-2.0 */
/* fdt - the device tree, from a plain description of the machine. Addresses are those of layout.h. */
#ifndef VMM_FDT_H
#define VMM_FDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/gmem.h"
#include "vmm/layout.h"

struct fdt_config {
	const char *cmdline;
	uint64_t initrd, initrd_len; /* len 0: none */
	const struct gmem *gmem;     /* for the memory nodes */
	unsigned vcpus;
	uint64_t mpidr[LAYOUT_MAX_VCPUS]; /* affinity bits */
	unsigned nr_virtio;		  /* virtio-mmio slots 0 .. nr_virtio - 1 exist */
	int viommu_slot;		  /* which of them is the virtio-iommu; -1: none */
	bool pci;			  /* the PCI host bridge exists */
	/* requester IDs (bus 0: devfn) translated by the virtio-iommu; endpoint id = requester id */
	unsigned nr_iommu_rids;
	uint16_t iommu_rids[256];
};

/**
 * fdt_build - write the tree to @buf
 * Return: its length in bytes (> 0); -ENOSPC does not fit; -EIO no randomness.
 */
int fdt_build(const struct fdt_config *cfg, void *buf, size_t size);

#endif
