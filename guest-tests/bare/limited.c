/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limited - the host takes only entries=N mappings of the passed-through edu: of a page, which is
 * bounced (vfio_iommu_type1's dma_entry_limit), or, with large=1, of 32 MiB of RAM (the limit of
 * locked memory, in which type1 counts a page each time it is mapped). What is refused is told,
 * nothing that is mapped suffers, and what is unmapped makes room again.
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
#define MAX	 24
#define LARGE	 0x2000000ull
#define EVENT_US 2000000

static uint8_t frames[MAX][FRAME] __attribute__((aligned(FRAME)));
static struct machine machine;
static struct iommu iommu;
static struct edu edu;
static bool large;

static uint64_t gpa_of(unsigned n)
{
	return (uint64_t)(uintptr_t)frames[n];
}

/* What is mapped. */
static uint64_t gpa_start(unsigned n)
{
	return large ? gpa_of(n) & ~(LARGE - 1) : gpa_of(n);
}

/* Apart from each other, so that none joins another. */
static uint64_t start_of(unsigned n)
{
	return large ? 0x10000000ull + n * 2 * LARGE : 0x0a000000ull + n * 0x100000ull + PAGE;
}

static uint64_t last_of(unsigned n)
{
	return start_of(n) + (large ? LARGE : PAGE) - 1;
}

static unsigned map(unsigned n)
{
	return iommu_map(&iommu, DOMAIN, start_of(n), last_of(n), gpa_start(n), IOMMU_RW);
}

static unsigned unmap(unsigned n)
{
	return iommu_unmap(&iommu, DOMAIN, start_of(n), last_of(n));
}

static bool works(unsigned n)
{
	uint64_t iova = start_of(n) + (gpa_of(n) - gpa_start(n));

	memset(frames[n], (int)n + 1, 64);
	if (!edu_copy(&edu, EDU_FROM_RAM, iova, 0, 64))
		return false;
	memset(frames[n], 0, 64);
	if (!edu_copy(&edu, EDU_TO_RAM, iova, 0, 64))
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
	large = dtb_parameter(&machine, "large", 0);
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
	claim_check("its address", fault.address, start_of(nr));
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
