/* SPDX-License-Identifier: Apache-2.0 */
/* fdt - the device tree, from a plain description of the machine. Addresses are those of layout.h.
 */
#ifndef VMM_FDT_H
#define VMM_FDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/gmem.h"
#include "vmm/layout.h"

/* A DART of the guest's; its registers and interrupt are LAYOUT_DART_*'s and LAYOUT_SPI_DART's. */
struct fdt_dart {
	const char *compatible; /* "apple,t8103-dart", say */
	uint32_t sid;		/* of all requesters behind it */
};

struct fdt_requester {
	uint16_t rid; /* bus 0: devfn */
	int dart; /* which of the guest's DARTs; -1: the virtio-iommu, where endpoint id = rid */
};

struct fdt_config {
	const char *cmdline;
	uint64_t initrd, initrd_len; /* len 0: none */
	const struct gmem *gmem;     /* for the memory nodes */
	unsigned vcpus;
	uint64_t mpidr[LAYOUT_MAX_VCPUS]; /* affinity bits */
	unsigned nr_virtio;		  /* virtio-mmio slots 0 .. nr_virtio - 1 exist */
	int viommu_slot;		  /* which of them is the virtio-iommu; -1: none */
	bool pci;			  /* the PCI host bridge exists */
	unsigned nr_darts;		  /* that the guest owns, 0 .. LAYOUT_DARTS */
	struct fdt_dart darts[LAYOUT_DARTS];
	unsigned nr_requesters; /* on PCI that an IOMMU translates for */
	struct fdt_requester requesters[256];
};

/**
 * fdt_build - write the tree to @buf
 * Return: its length in bytes (> 0); -ENOSPC does not fit; -EIO no randomness.
 */
int fdt_build(const struct fdt_config *cfg, void *buf, size_t size);

#endif
