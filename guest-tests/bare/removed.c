/* SPDX-License-Identifier: Apache-2.0 */
/*
 * removed - of two passed-through devices the host takes one back while it is in use: when a line
 * `host: take it` is printed. Its guest finds it gone, as if it had been pulled, and nothing else.
 */
#include <linux/pci_regs.h>

#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "edu.h"
#include "gic.h"
#include "iommu.h"
#include "pci.h"
#include "lib/string.h"

#define PAGE	0x1000u
#define FRAME	0x4000u
#define IOVA	0x0a001000ull
#define IOVA2	0x0b000000ull
#define OK	VIRTIO_IOMMU_S_OK
#define WAIT_US 60000000

static uint8_t pages[8][PAGE] __attribute__((aligned(FRAME)));
static struct iommu iommu;
static struct edu going, staying;

static unsigned map(uint32_t domain, uint64_t iova, void *at, unsigned len)
{
	return iommu_map(&iommu, domain, iova, iova + len - 1, (uint64_t)(uintptr_t)at, IOMMU_RW);
}

static bool works(const struct edu *edu, void *at, uint8_t byte)
{
	memset(at, byte, 64);
	if (!edu_copy(edu, EDU_FROM_RAM, IOVA, 0, 64))
		return false;
	memset(at, 0, 64);
	if (!edu_copy(edu, EDU_TO_RAM, IOVA, 0, 64))
		return false;
	for (unsigned i = 0; i < 64; i++)
		if (((uint8_t *)at)[i] != byte)
			return false;
	return true;
}

void payload(void)
{
	const char *error = iommu_start(&iommu, IOMMU_FEATURES);
	uint64_t end;

	claim_begin("both_devices_work");
	claim_check("the virtio-iommu starts", error == NULL, true);
	claim_check("there are two", edu_find(0, &going) && edu_find(1, &staying), true);
	claim_check("attach", iommu_attach(&iommu, 1, going.rid, 0), OK);
	claim_check("attach the other", iommu_attach(&iommu, 2, staying.rid, 0), OK);
	claim_check("map", map(1, IOVA, pages[0], PAGE), OK);
	claim_check("map a frame", map(1, IOVA2, pages[4], FRAME), OK);
	claim_check("map for the other", map(2, IOVA, pages[1], PAGE), OK);
	claim_check("the first works", works(&going, pages[0], 0x11), true);
	claim_check("the second works", works(&staying, pages[1], 0x22), true);
	claim_end();

	/* One under way, whatever becomes of it. */
	edu_start(&going, EDU_TO_RAM, IOVA, 0, 64, false);
	print("host: take it\n");
	end = now_us() + WAIT_US;
	/* Config space goes first, its registers a moment later. */
	while ((mmio_read32(pci_config(going.rid, PCI_VENDOR_ID)) != ~0u || edu_read(&going, EDU_ID) != ~0u) &&
	       now_us() < end)
		;

	claim_begin("device_that_the_host_took_reads_as_ones");
	claim_check("config space", mmio_read32(pci_config(going.rid, PCI_VENDOR_ID)), ~0u);
	claim_check("a register", edu_read(&going, EDU_ID), ~0u);
	edu_write(&going, EDU_IRQ_RAISE, 1);
	mmio_write32(pci_config(going.rid, PCI_BASE_ADDRESS_0), ~0u);
	claim_check("config space", mmio_read32(pci_config(going.rid, PCI_BASE_ADDRESS_0)), ~0u);
	claim_end();

	claim_begin("requests_for_its_endpoint_go_on");
	claim_check("unmap", iommu_unmap(&iommu, 1, IOVA, IOVA + PAGE - 1), OK);
	claim_check("map again", map(1, IOVA, pages[2], PAGE), OK);
	claim_check("map more", map(1, IOVA + 0x100000, pages[4], FRAME), OK);
	claim_check("unmap a frame", iommu_unmap(&iommu, 1, IOVA2, IOVA2 + FRAME - 1), OK);
	claim_check("detach", iommu_detach(&iommu, 1, going.rid), OK);
	claim_check("attach", iommu_attach(&iommu, 3, going.rid, 0), OK);
	claim_check("map elsewhere", map(3, IOVA, pages[2], PAGE), OK);
	claim_check("with the other", iommu_attach(&iommu, 2, going.rid, 0), OK);
	claim_check("map for both", map(2, IOVA2, pages[4], FRAME), OK);
	claim_end();

	claim_begin("other_device_works_on");
	claim_check("it works", works(&staying, pages[1], 0x33), true);
	claim_check("unmap", iommu_unmap(&iommu, 2, IOVA, IOVA + PAGE - 1), OK);
	claim_check("map", map(2, IOVA, pages[3], PAGE), OK);
	claim_check("it works there", works(&staying, pages[3], 0x44), true);
	claim_end();
}
