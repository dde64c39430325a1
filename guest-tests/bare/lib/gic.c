/* SPDX-License-Identifier: Apache-2.0 */
/* Source: Arm IHI 0069 (GIC architecture, v3 and v4), chapters 5 (LPIs, ITS) and 12 (registers). */
#include "board.h"
#include "cpu.h"
#include "gic.h"
#include "lib/string.h"

#define GICD_CTLR	(BOARD_GICD + 0x0)
#define GICD_CTLR_GRP1	(1u << 1)
#define GICD_CTLR_ARE	(1u << 4)
#define GICD_IGROUPR	(BOARD_GICD + 0x80)
#define GICD_ISENABLER	(BOARD_GICD + 0x100)
#define GICD_ICENABLER	(BOARD_GICD + 0x180)
#define GICD_IPRIORITYR (BOARD_GICD + 0x400)
#define GICD_ICFGR	(BOARD_GICD + 0xc00)
#define GICD_IROUTER	(BOARD_GICD + 0x6000)

#define GICR_CTLR	      (BOARD_GICR + 0x0)
#define GICR_CTLR_ENABLE_LPIS (1u << 0)
#define GICR_TYPER	      (BOARD_GICR + 0x8)
#define GICR_WAKER	      (BOARD_GICR + 0x14)
#define GICR_WAKER_SLEEP      (1u << 1)
#define GICR_WAKER_ASLEEP     (1u << 2)
#define GICR_PROPBASER	      (BOARD_GICR + 0x70)
#define GICR_PENDBASER	      (BOARD_GICR + 0x78)
#define GICR_SGI	      (BOARD_GICR + 0x10000)
#define GICR_IGROUPR0	      (GICR_SGI + 0x80)
#define GICR_ISENABLER0	      (GICR_SGI + 0x100)
#define GICR_ICENABLER0	      (GICR_SGI + 0x180)
#define GICR_IPRIORITYR	      (GICR_SGI + 0x400)

#define GITS_CTLR    (BOARD_ITS + 0x0)
#define GITS_TYPER   (BOARD_ITS + 0x8)
#define GITS_CBASER  (BOARD_ITS + 0x80)
#define GITS_CWRITER (BOARD_ITS + 0x88)
#define GITS_CREADR  (BOARD_ITS + 0x90)
#define GITS_BASER   (BOARD_ITS + 0x100)

#define GITS_BASER_TYPE(v)     ((v) >> 56 & 7)
#define GITS_BASER_DEVICES     1
#define GITS_BASER_COLLECTIONS 4
#define GITS_BASER_64K	       (2ull << 8)
#define GITS_VALID	       (1ull << 63)
/* inner write-back, inner shareable, as encoded in GITS_*BASER and in GICR_*BASER */
#define GITS_CACHED (7ull << 59 | 1ull << 10)
#define GICR_CACHED (7ull << 7 | 1ull << 10)

#define ITS_SYNC  0x05
#define ITS_MAPD  0x08
#define ITS_MAPC  0x09
#define ITS_MAPTI 0x0a
#define ITS_INV	  0x0c

#define LPI_ID_BITS  14
#define LPI_NR	     ((1u << LPI_ID_BITS) - GIC_LPI_BASE)
#define ITT_BITS     5
#define ITT_LEN	     0x1000
#define PRIORITY     0xa0
#define MAX_DEVICES  4
#define QUEUE_LEN    0x10000
#define WAIT_US	     1000000

#define ALIGNED_64K __attribute__((aligned(0x10000)))

static uint8_t its_devices[0x10000] ALIGNED_64K, its_collections[0x10000] ALIGNED_64K;
static uint64_t its_queue[QUEUE_LEN / 8] ALIGNED_64K;
static uint8_t lpi_pending[0x10000] ALIGNED_64K, lpi_config[LPI_NR] ALIGNED_64K;
static uint8_t its_itt[MAX_DEVICES][ITT_LEN] ALIGNED_64K;
static uint32_t its_devids[MAX_DEVICES];
static unsigned its_nr_devices;
static uint64_t its_target; /* RDbase of the boot vCPU, as commands want it */

static uint64_t addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

void gic_init(void)
{
	mmio_write32(GICR_WAKER, mmio_read32(GICR_WAKER) & ~GICR_WAKER_SLEEP);
	while (mmio_read32(GICR_WAKER) & GICR_WAKER_ASLEEP)
		;
	mmio_write32(GICR_IGROUPR0, ~0u);
	mmio_write32(GICD_CTLR, GICD_CTLR_ARE);
	mmio_write32(GICD_CTLR, GICD_CTLR_ARE | GICD_CTLR_GRP1);
	write_sysreg("S3_0_C12_C12_5", 7);    /* ICC_SRE_EL1: system registers */
	write_sysreg("S3_0_C4_C6_0", 0xff);   /* ICC_PMR_EL1: every priority */
	write_sysreg("S3_0_C12_C12_4", 0);    /* ICC_CTLR_EL1: EOI also deactivates */
	write_sysreg("S3_0_C12_C12_7", 1);    /* ICC_IGRPEN1_EL1 */
}

void gic_enable(unsigned intid)
{
	uint64_t cfg = GICD_ICFGR + intid / 16 * 4;

	if (intid < 32) {
		mmio_write8(GICR_IPRIORITYR + intid, PRIORITY);
		mmio_write32(GICR_ISENABLER0, 1u << intid);
		return;
	}
	mmio_write32(GICD_IGROUPR + intid / 32 * 4, ~0u);
	/* 2 bits each, 0: level. Edge, where KVM starts, would never report the end of an interrupt. */
	mmio_write32(cfg, mmio_read32(cfg) & ~(3u << intid % 16 * 2));
	mmio_write8(GICD_IPRIORITYR + intid, PRIORITY);
	mmio_write64(GICD_IROUTER + intid * 8ull, read_sysreg("mpidr_el1") & 0xff00ffffffull);
	mmio_write32(GICD_ISENABLER + intid / 32 * 4, 1u << intid % 32);
}

void gic_disable(unsigned intid)
{
	if (intid < 32)
		mmio_write32(GICR_ICENABLER0, 1u << intid);
	else
		mmio_write32(GICD_ICENABLER + intid / 32 * 4, 1u << intid % 32);
}

unsigned gic_ack(void)
{
	return (unsigned)read_sysreg("S3_0_C12_C12_0") & 0xffffff; /* ICC_IAR1_EL1 */
}

void gic_eoi(unsigned intid)
{
	write_sysreg("S3_0_C12_C12_1", intid); /* ICC_EOIR1_EL1 */
}

bool gic_wait(unsigned intid, uint64_t us)
{
	uint64_t end = now_us() + us;

	do {
		unsigned got = gic_ack();

		if (got >= 1020 && got <= GIC_NONE)
			continue;
		gic_eoi(got);
		if (got == intid)
			return true;
	} while (now_us() < end);
	return false;
}

static bool its_command(uint64_t dw0, uint64_t dw1, uint64_t dw2)
{
	uint64_t at = mmio_read64(GITS_CWRITER), end = now_us() + WAIT_US;

	its_queue[at / 8] = dw0;
	its_queue[at / 8 + 1] = dw1;
	its_queue[at / 8 + 2] = dw2;
	its_queue[at / 8 + 3] = 0;
	barrier();
	at = (at + 32) % QUEUE_LEN;
	mmio_write64(GITS_CWRITER, at);
	while (mmio_read64(GITS_CREADR) != at) {
		if (now_us() > end)
			return false;
	}
	return true;
}

const char *gic_its_init(void)
{
	uint64_t typer = mmio_read64(GITS_TYPER);
	bool devices = false, collections = false;

	memset(lpi_config, PRIORITY, sizeof(lpi_config)); /* bit 0 clear: disabled */
	mmio_write64(GICR_PROPBASER, addr_of(lpi_config) | GICR_CACHED | (LPI_ID_BITS - 1));
	mmio_write64(GICR_PENDBASER, addr_of(lpi_pending) | GICR_CACHED | 1ull << 62);
	barrier();
	mmio_write32(GICR_CTLR, mmio_read32(GICR_CTLR) | GICR_CTLR_ENABLE_LPIS);
	if (!(mmio_read32(GICR_CTLR) & GICR_CTLR_ENABLE_LPIS))
		return "the redistributor does not enable LPIs";

	/* PTA: targets are redistributor addresses, else processor numbers */
	its_target = typer & 1ull << 19 ? BOARD_GICR : (mmio_read64(GICR_TYPER) >> 8 & 0xffff) << 16;
	for (unsigned i = 0; i < 8; i++) {
		uint64_t baser = GITS_BASER + i * 8ull, type = GITS_BASER_TYPE(mmio_read64(baser));
		void *table;

		if (type == GITS_BASER_DEVICES) {
			table = its_devices;
			devices = true;
		} else if (type == GITS_BASER_COLLECTIONS) {
			table = its_collections;
			collections = true;
		} else {
			continue;
		}
		mmio_write64(baser, GITS_VALID | GITS_CACHED | GITS_BASER_64K | addr_of(table));
		if (!(mmio_read64(baser) & GITS_VALID))
			return "the ITS refuses a table";
	}
	/* collections may live in the ITS itself */
	if (!devices || (!collections && !(typer >> 24 & 0xff)))
		return "the ITS has no device or no collection table";
	mmio_write64(GITS_CBASER, GITS_VALID | GITS_CACHED | addr_of(its_queue) | (QUEUE_LEN / 4096 - 1));
	mmio_write64(GITS_CWRITER, 0);
	mmio_write32(GITS_CTLR, 1);
	if (!its_command(ITS_MAPC, 0, GITS_VALID | its_target) || !its_command(ITS_SYNC, 0, its_target))
		return "the ITS does not carry out commands";
	return NULL;
}

bool gic_its_map(uint32_t devid, uint32_t event, unsigned intid)
{
	uint64_t dev = (uint64_t)devid << 32;
	unsigned i = 0;

	while (i < its_nr_devices && its_devids[i] != devid)
		i++;
	if (i == its_nr_devices) {
		if (i == MAX_DEVICES)
			return false;
		its_devids[its_nr_devices++] = devid;
		if (!its_command(ITS_MAPD | dev, ITT_BITS - 1, GITS_VALID | addr_of(its_itt[i])))
			return false;
	}
	lpi_config[intid - GIC_LPI_BASE] = PRIORITY | 1;
	barrier();
	return its_command(ITS_MAPTI | dev, (uint64_t)intid << 32 | event, 0) &&
	       its_command(ITS_INV | dev, event, 0) && its_command(ITS_SYNC, 0, its_target);
}
