/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct - a device whose registers and interrupts go past the VMM while nothing is bounced, and a
 * second vCPU that maps a page out of step with the host's and unmaps it, all the time: none of the
 * first one's register accesses, interrupts and transfers may be lost or come to something else.
 *
 * Needs one edu with sync=rings, and two vCPUs. switches=N: mappings to make. After each change the
 * first vCPU must have made ACCESSES more accesses before the next, so that the VMM has had reason
 * to let it at the registers again.
 */
#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "edu.h"
#include "gic.h"
#include "iommu.h"
#include "pci.h"
#include "lib/string.h"

#define PAGE	  0x1000u
#define FRAME	  0x4000u
#define DOMAIN	  7
#define OK	  VIRTIO_IOMMU_S_OK
#define BASE	  0x0a000000ull
#define WINDOW	  0x0b000000ull /* two frames, direct */
#define MSI_EVENT 3
#define LPI	  (GIC_LPI_BASE + 7)
#define PATIENCE  20000000 /* us */
#define ACCESSES  160

static uint8_t page[FRAME] __attribute__((aligned(FRAME)));
static uint8_t window[2][FRAME] __attribute__((aligned(FRAME)));
static struct iommu iommu;
static struct edu edu;
static unsigned switches;

/* The second vCPU, and what the two tell each other. */
static volatile uint32_t accesses, done, ended;
static volatile uint32_t refused; /* a request that was not OK, and what it came to */

static void wait_for_accesses(void)
{
	uint32_t from = accesses;

	while (accesses - from < ACCESSES && !ended)
		delay_us(1);
}

static void switcher(void *arg)
{
	uint32_t status;

	(void)arg;
	for (uint32_t i = 0; i < switches && !refused && !ended; i++) {
		uint64_t iova = BASE + i % 3 * PAGE;

		/* any moment of what the other one does */
		delay_us(i * 37 % 900);
		status = iommu_map(&iommu, DOMAIN, iova, iova + PAGE - 1,
				   (uint64_t)(uintptr_t)page + 3 * PAGE, IOMMU_RW);
		if (status != OK)
			refused = 0x1000 | status;
		delay_us(i * 53 % 700);
		status = iommu_unmap(&iommu, DOMAIN, iova, iova + PAGE - 1);
		if (status != OK)
			refused = 0x2000 | status;
		wait_for_accesses();
		done = i + 1;
	}
	barrier();
	ended = 1;
}

/* ---- the first one ---- */

/* A transfer that goes on beside everything else: out of one half of the window, into the other. */
static struct {
	bool running, out;
	uint32_t nr, seed;
} dma;

static void fill(uint8_t *to, unsigned len)
{
	while (len--) {
		dma.seed = dma.seed * 1103515245 + 12345;
		*to++ = (uint8_t)(dma.seed >> 16);
	}
}

static bool go_on_with_dma(void)
{
	if (dma.running && edu_busy(&edu))
		return true;
	if (dma.running && !dma.out) {
		dma.nr++;
		for (unsigned i = 0; i < EDU_MAX_LEN; i++) {
			if (window[1][i] != window[0][i])
				return false;
		}
	}
	dma.out = !dma.running || !dma.out;
	dma.running = true;
	if (dma.out)
		fill(window[0], EDU_MAX_LEN);
	barrier();
	edu_start(&edu, dma.out ? EDU_FROM_RAM : EDU_TO_RAM, WINDOW + (dma.out ? 0 : FRAME), 0,
		  EDU_MAX_LEN, false);
	return true;
}

static void check_under_switches(void)
{
	uint32_t i, cause;

	claim_begin("no_register_access_interrupt_or_transfer_is_lost");
	for (i = 0; !ended; i++) {
		edu_write(&edu, EDU_LIVENESS, i);
		if (!claim_check_at("a register keeps what is written", i,
				    edu_read(&edu, EDU_LIVENESS), ~i))
			break;
		cause = 1u << i % 8;
		edu_write(&edu, EDU_IRQ_RAISE, cause);
		if (!claim_check_at("the interrupt arrives", i, gic_wait(LPI, PATIENCE), true) ||
		    !claim_check_at("cause", i, edu_read(&edu, EDU_IRQ), cause))
			break;
		edu_write(&edu, EDU_IRQ_ACK, cause);
		if (!claim_check_at("acknowledged", i, edu_read(&edu, EDU_IRQ), 0) ||
		    !claim_check_at("transfers are exact", i, go_on_with_dma(), true))
			break;
		accesses += 7;
	}
	if (!ended)
		ended = 1;
	else
		claim_check("switches made", done, switches);
	claim_check("requests that were refused", refused, 0);
	claim_end();
	print("note: %u interrupts, %u transfers, %u switches\n", i, dma.nr, done);
}

static void check_after(void)
{
	uint32_t i;

	claim_begin("bounced_pages_are_synced_after_all_that");
	fill(page, FRAME);
	claim_check("map",
		    iommu_map(&iommu, DOMAIN, BASE, BASE + PAGE - 1,
			      (uint64_t)(uintptr_t)page + 3 * PAGE, IOMMU_RW),
		    OK);
	fill(page + 3 * PAGE, EDU_MAX_LEN);
	while (dma.running && edu_busy(&edu))
		;
	claim_check("out", edu_copy(&edu, EDU_FROM_RAM, BASE, 0, EDU_MAX_LEN), true);
	claim_check("in", edu_copy(&edu, EDU_TO_RAM, WINDOW, 0, EDU_MAX_LEN), true);
	for (i = 0; i < EDU_MAX_LEN && window[0][i] == page[3 * PAGE + i]; i++)
		;
	claim_check("bytes that the device saw", i, EDU_MAX_LEN);
	fill(window[1], EDU_MAX_LEN);
	claim_check("out again", edu_copy(&edu, EDU_FROM_RAM, WINDOW + FRAME, 0, EDU_MAX_LEN),
		    true);
	claim_check("in again", edu_copy(&edu, EDU_TO_RAM, BASE, 0, EDU_MAX_LEN), true);
	for (i = 0; i < EDU_MAX_LEN && window[1][i] == page[3 * PAGE + i]; i++)
		;
	claim_check("bytes that it wrote", i, EDU_MAX_LEN);
	claim_end();
}

void payload(void)
{
	struct machine machine;
	const char *error;

	if (dtb_read(boot_dtb, &machine) || machine.nr_cpus < 2) {
		print("FAIL direct: needs a device tree, and two vCPUs\n");
		return;
	}
	switches = (unsigned)dtb_parameter(&machine, "switches", 100);
	if (!edu_find(0, &edu)) {
		print("FAIL direct: there is no edu device\n");
		return;
	}
	gic_init();
	claim_begin("device_and_iommu_start");
	error = iommu_start(&iommu, IOMMU_FEATURES);
	claim_check("the virtio-iommu starts", error == NULL, true);
	error = gic_its_init();
	claim_check("the ITS works", error == NULL && gic_its_map(edu.rid, MSI_EVENT, LPI), true);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
	claim_check("map the window",
		    iommu_map(&iommu, DOMAIN, WINDOW, WINDOW + 2 * FRAME - 1,
			      (uint64_t)(uintptr_t)window, IOMMU_RW),
		    OK);
	claim_check("there is an MSI capability",
		    pci_msi_enable(edu.rid, BOARD_DOORBELL, MSI_EVENT), true);
	claim_check("the second vCPU starts",
		    (uint64_t)cpu_start(1, machine.mpidr[1], switcher, NULL), PSCI_SUCCESS);
	claim_end();
	check_under_switches();
	check_after();
	pci_msi_disable(edu.rid);
	vdev_reset(&iommu.dev);
}
