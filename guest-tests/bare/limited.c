/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limited - the host's IOMMU takes only entries=N mappings of the passed-through edu
 * (vfio_iommu_type1's dma_entry_limit): what is refused is told, nothing that is mapped suffers, and
 * what is unmapped makes room again.
 */
#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "edu.h"
#include "iommu.h"
#include "lib/string.h"

#define PAGE	 0x1000u
#define FRAME	 0x4000u
#define DOMAIN	 1
#define OK	 VIRTIO_IOMMU_S_OK
#define MAX	 64
#define EVENT_US 2000000

static uint8_t frames[MAX][FRAME] __attribute__((aligned(FRAME)));
static struct machine machine;
static struct iommu iommu;
static struct edu edu;

/* Apart from each other, so that none joins another. */
static uint64_t iova_of(unsigned n)
{
	return 0x0a000000ull + n * 0x100000ull;
}

/* A page: bounced. */
static unsigned map(unsigned n)
{
	return iommu_map(&iommu, DOMAIN, iova_of(n) + PAGE, iova_of(n) + 2 * PAGE - 1,
			 (uint64_t)(uintptr_t)frames[n], IOMMU_RW);
}

static unsigned unmap(unsigned n)
{
	return iommu_unmap(&iommu, DOMAIN, iova_of(n) + PAGE, iova_of(n) + 2 * PAGE - 1);
}

static bool works(unsigned n)
{
	memset(frames[n], (int)n + 1, 64);
	if (!edu_copy(&edu, EDU_FROM_RAM, iova_of(n) + PAGE, 0, 64))
		return false;
	memset(frames[n], 0, 64);
	if (!edu_copy(&edu, EDU_TO_RAM, iova_of(n) + PAGE, 0, 64))
		return false;
	for (unsigned i = 0; i < 64; i++)
		if (frames[n][i] != n + 1)
			return false;
	return true;
}

void payload(void)
{
	struct virtio_iommu_fault fault;
	unsigned entries, nr = 0, status = OK;
	const char *error;

	dtb_read(boot_dtb, &machine);
	entries = (unsigned)dtb_parameter(&machine, "entries", 8);
	error = iommu_start(&iommu, IOMMU_FEATURES);
	claim_begin("map_past_the_hosts_limit_is_nomem_and_an_event");
	claim_check("the virtio-iommu starts", error == NULL, true);
	claim_check("there is an edu", edu_find(0, &edu), true);
	iommu_listen(&iommu);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
	while (nr < MAX && (status = map(nr)) == OK)
		nr++;
	claim_check("status", status, VIRTIO_IOMMU_S_NOMEM);
	claim_check("mapped before", nr > entries / 2 && nr <= entries, true);
	claim_check("an event", iommu_event(&iommu, EVENT_US, &fault), true);
	claim_check("its endpoint", fault.endpoint, edu.rid);
	claim_check("its address", fault.address, iova_of(nr) + PAGE);
	claim_check("and again", map(nr), VIRTIO_IOMMU_S_NOMEM);
	claim_end();

	claim_begin("what_is_mapped_works_on");
	claim_check("the first", works(0), true);
	claim_check("the last", works(nr - 1), true);
	claim_end();

	claim_begin("what_is_unmapped_makes_room");
	claim_check("unmap", unmap(0), OK);
	claim_check("map elsewhere", map(nr), OK);
	claim_check("it works", works(nr), true);
	claim_check("one that stayed", works(1), true);
	claim_check("one too many", map(nr + 1), VIRTIO_IOMMU_S_NOMEM);
	claim_check("unmap another", unmap(nr), OK);
	claim_check("and back", map(0), OK);
	claim_check("it works", works(0), true);
	claim_end();
}
