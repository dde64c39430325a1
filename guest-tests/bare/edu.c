/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edu - what a passed-through device's DMA really does to guest memory, judged with QEMU's edu device.
 *
 * A 4 KiB guest maps 4 KiB pages; the host has 16 KiB ones. Whatever shares a host page, each byte must
 * end where the guest's mappings say, and no other byte may change.
 * Needs one edu with dma_mask=0xffffffff, two for the claims about several endpoints. With rings=1 on
 * the command line only read-write slots are synced between MAP and UNMAP: what needs more is left out.
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

#define PAGE	 0x1000u
#define FRAME	 0x4000u
#define NR_PAGES 64
#define LEN	 EDU_MAX_LEN
#define DOMAIN	 7
#define DOMAIN2	 9
#define OK	 VIRTIO_IOMMU_S_OK
#define RO	 VIRTIO_IOMMU_MAP_F_READ
#define WO	 VIRTIO_IOMMU_MAP_F_WRITE
#define RW	 IOMMU_RW
#define NR(array) (sizeof(array) / sizeof((array)[0]))

/* IOVAs, clear of every reserved region (payload viommu checks the window). */
#define BASE   0x0a000000ull
#define WINDOW 0x0b000000ull /* one frame, always mapped directly to window[] */

#define MSI_EVENT 3
#define LPI	  (GIC_LPI_BASE + 7)
#define IRQ_US	  2000000
#define QUIET_US  20000

/* All memory that DMA is aimed at, and what it should hold. */
static uint8_t ram[NR_PAGES][PAGE] __attribute__((aligned(FRAME)));
static uint8_t want[NR_PAGES][PAGE] __attribute__((aligned(16)));
/* The way to see what is in the device's buffer: a frame that cannot need a bounce. */
static uint8_t window[FRAME] __attribute__((aligned(FRAME)));
static uint8_t expected[PAGE] __attribute__((aligned(16)));

static struct iommu iommu;
static struct edu edu, edu2;
static bool has_edu2;
static bool rings_only;
static uint32_t fill_seed = 1;

static uint64_t gpa_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void fill(void *to, unsigned len)
{
	uint8_t *p = to;

	while (len--) {
		fill_seed = fill_seed * 1103515245 + 12345;
		*p++ = (uint8_t)(fill_seed >> 16);
	}
}

static void set_bypass(uint8_t bypass)
{
	mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_iommu_config, bypass),
		    bypass);
}

/* Every claim starts with edu alone in DOMAIN, the window mapped, and fresh contents everywhere. */
static void begin(const char *name)
{
	const char *error;

	claim_begin(name);
	error = iommu_start(&iommu, IOMMU_FEATURES);
	if (error)
		print("note: %s\n", error);
	claim_check("the virtio-iommu starts", error == NULL, true);
	set_bypass(0);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
	claim_check("map the window",
		    iommu_map(&iommu, DOMAIN, WINDOW, WINDOW + FRAME - 1, gpa_of(window), RW), OK);
	fill(ram, sizeof(ram));
	memcpy(want, ram, sizeof(ram));
}

static void map(uint32_t domain, uint64_t iova, unsigned page, unsigned nr_pages, uint32_t flags)
{
	claim_check("map", iommu_map(&iommu, domain, iova, iova + nr_pages * PAGE - 1, gpa_of(ram[page]), flags),
		    OK);
}

static void unmap(uint32_t domain, uint64_t iova, unsigned nr_pages)
{
	claim_check("unmap", iommu_unmap(&iommu, domain, iova, iova + nr_pages * PAGE - 1), OK);
}

static void copy(const struct edu *dev, enum edu_dir dir, uint64_t iova, unsigned len)
{
	claim_check("the DMA ends", edu_copy(dev, dir, iova, 0, len), true);
}

/* load - @len fresh bytes into the device's buffer, and into expected[] */
static void load(const struct edu *dev, unsigned len)
{
	fill(window, FRAME);
	memcpy(expected, window, len);
	copy(dev, EDU_FROM_RAM, WINDOW, len);
}

/* dump - the first @len bytes of the device's buffer, at window[] */
static void dump(const struct edu *dev, unsigned len)
{
	memset(window, 0, FRAME);
	copy(dev, EDU_TO_RAM, WINDOW, len);
}

static uint64_t first_difference(const void *a, const void *b, unsigned len)
{
	const uint8_t *p = a, *q = b;
	unsigned i = 0;

	while (i < len && p[i] == q[i])
		i++;
	return i;
}

/* All of ram[] is as want[] says; reports the first byte that is not. */
static void check_ram(const char *what)
{
	claim_check(what, first_difference(ram, want, sizeof(ram)), sizeof(ram));
}

static void check_window(const char *what, unsigned len)
{
	claim_check(what, first_difference(window, expected, len), len);
}

/* ---- one endpoint, one domain --------------------------------------------------------------- */

static void check_registers(void)
{
	claim_begin("device_registers_answer");
	claim_check("identification", edu_read(&edu, EDU_ID), EDU_ID_VALUE);
	for (uint32_t i = 0; i < 16; i++) {
		edu_write(&edu, EDU_LIVENESS, i * 0x01234567u);
		claim_check_at("liveness", i, edu_read(&edu, EDU_LIVENESS), (uint32_t)~(i * 0x01234567u));
	}
	edu_write(&edu, EDU_FACTORIAL, 10);
	for (uint64_t end = now_us() + IRQ_US; edu_read(&edu, EDU_STATUS) & 1 && now_us() < end;)
		;
	claim_check("10!", edu_read(&edu, EDU_FACTORIAL), 3628800);
	claim_end();

	claim_begin("bar_tells_its_size");
	claim_check("BAR 0", pci_bar_size(edu.rid, 0), 0x100000);
	claim_check("its registers are where they were", edu_read(&edu, EDU_ID), EDU_ID_VALUE);
	claim_end();
}

static void check_direct(void)
{
	begin("aligned_frame_is_read_and_written");
	load(&edu, LEN);
	/* out again into another page of the frame */
	copy(&edu, EDU_TO_RAM, WINDOW + 2 * PAGE, LEN);
	claim_check("what arrived", first_difference(window + 2 * PAGE, expected, LEN), LEN);
	claim_check("what was read is unchanged", first_difference(window, expected, LEN), LEN);
	claim_end();

	begin("read_only_aligned_frame_is_never_changed");
	map(DOMAIN, BASE, 8, 4, RO);
	copy(&edu, EDU_FROM_RAM, BASE + 0x100, 0x400);
	memcpy(expected, want[8] + 0x100, 0x400);
	copy(&edu, EDU_TO_RAM, BASE + PAGE, LEN);
	check_ram("memory while mapped");
	unmap(DOMAIN, BASE, 4);
	check_ram("memory after unmap");
	dump(&edu, 0x400);
	check_window("what the device read", 0x400);
	claim_end();
}

static void check_slots(void)
{
	static const uint8_t pages[4] = {21, 35, 2, 12};

	begin("four_slots_of_a_frame_reach_four_pages");
	for (unsigned i = 0; i < 4; i++)
		map(DOMAIN, BASE + i * PAGE, pages[i], 1, RW);
	/* one transfer over each boundary: half of one page, half of the next */
	for (unsigned i = 0; i < 3; i += 2) {
		copy(&edu, EDU_FROM_RAM, BASE + i * PAGE + PAGE / 2, LEN);
		memcpy(expected, want[pages[i]] + PAGE / 2, PAGE / 2);
		memcpy(expected + PAGE / 2, want[pages[i + 1]], LEN - PAGE / 2);
		dump(&edu, LEN);
		check_window("what the device read", LEN);
	}
	load(&edu, LEN);
	copy(&edu, EDU_TO_RAM, BASE + PAGE + 0x123, LEN);
	memcpy(want[pages[1]] + 0x123, expected, PAGE - 0x123);
	memcpy(want[pages[2]], expected + PAGE - 0x123, LEN + 0x123 - PAGE);
	check_ram("memory before unmap");
	unmap(DOMAIN, BASE, 4);
	check_ram("memory after unmap");
	claim_end();

	begin("misaligned_pages_in_one_mapping_are_read_and_written");
	/* 1 page and 9 pages off: congruent with the frame, and not */
	map(DOMAIN, BASE + PAGE, 17, 9, RW);
	map(DOMAIN, BASE + 0x100000, 31, 9, RW);
	copy(&edu, EDU_FROM_RAM, BASE + PAGE + 0x2f80, LEN);
	memcpy(expected, want[17] + 0x2f80, LEN);
	dump(&edu, LEN);
	check_window("what the device read", LEN);
	copy(&edu, EDU_TO_RAM, BASE + 0x100000 + 0x3e10, LEN);
	memcpy(want[31] + 0x3e10, expected, LEN);
	check_ram("memory before unmap");
	unmap(DOMAIN, BASE, 256 + 9);
	check_ram("memory after unmap");
	claim_end();
}

static void check_read_only(void)
{
	begin("read_only_slot_is_never_changed");
	map(DOMAIN, BASE, 5, 1, RO);
	map(DOMAIN, BASE + PAGE, 10, 1, RW);
	load(&edu, LEN);
	copy(&edu, EDU_TO_RAM, BASE + PAGE / 2, LEN);
	memcpy(want[10], expected + PAGE / 2, LEN - PAGE / 2);
	check_ram("memory before unmap");
	if (rings_only) {
		unmap(DOMAIN, BASE, 2);
		check_ram("memory after unmap");
		claim_end();
		return;
	}
	/* what the CPU writes there still reaches the device, over what the device had put there */
	fill(want[5], PAGE);
	memcpy(ram[5], want[5], PAGE);
	copy(&edu, EDU_FROM_RAM, BASE, LEN);
	unmap(DOMAIN, BASE, 2);
	check_ram("memory after unmap");
	memcpy(expected, want[5], LEN);
	dump(&edu, LEN);
	check_window("what the device read", LEN);
	claim_end();
}

static void check_write_only(void)
{
	begin("write_only_page_keeps_what_the_device_leaves_alone");
	map(DOMAIN, BASE + 2 * PAGE, 7, 1, WO);
	load(&edu, 64);
	/* the CPU changes bytes of the page while it is mapped */
	fill(want[7] + 100, 50);
	memcpy(ram[7] + 100, want[7] + 100, 50);
	copy(&edu, EDU_TO_RAM, BASE + 2 * PAGE + 2048, 64);
	fill(want[7] + 3000, 60);
	memcpy(ram[7] + 3000, want[7] + 3000, 60);
	unmap(DOMAIN, BASE + 2 * PAGE, 1);
	memcpy(want[7] + 2048, expected, 64);
	check_ram("memory after unmap");
	claim_end();

	begin("two_write_only_mappings_of_a_page_keep_each_others_bytes");
	map(DOMAIN, BASE, 7, 1, WO);
	map(DOMAIN, BASE + 3 * PAGE, 7, 1, WO);
	load(&edu, 128);
	copy(&edu, EDU_TO_RAM, BASE + 512, 128);
	memcpy(want[7] + 512, expected, 128);
	copy(&edu, EDU_TO_RAM, BASE + 3 * PAGE + 1024, 128);
	memcpy(want[7] + 1024, expected, 128);
	unmap(DOMAIN, BASE, 1);
	unmap(DOMAIN, BASE + 3 * PAGE, 1);
	check_ram("memory after both unmaps");
	claim_end();
}

static void check_ring(void)
{
	begin("long_lived_mapping_is_coherent_without_unmap");
	map(DOMAIN, BASE + PAGE, 14, 1, RW);
	for (unsigned round = 0; round < 3; round++) {
		unsigned from = round * 200 + 1, to = 2048 + round * 300 + 5;

		/* CPU writes, doorbell; device writes, register read; neighbours change meanwhile */
		fill(want[14] + from, 150);
		memcpy(ram[14] + from, want[14] + from, 150);
		copy(&edu, EDU_FROM_RAM, BASE + PAGE + from, 150);
		copy(&edu, EDU_TO_RAM, BASE + PAGE + to, 150);
		memcpy(want[14] + to, want[14] + from, 150);
		check_ram("memory after a register read");
	}
	unmap(DOMAIN, BASE + PAGE, 1);
	check_ram("memory after unmap");
	claim_end();
}

static void check_holes(void)
{
	begin("hole_beside_a_mapped_slot_reaches_nothing");
	map(DOMAIN, BASE, 40, 1, RW);
	map(DOMAIN, BASE + 2 * PAGE, 43, 1, RW);
	load(&edu, LEN);
	copy(&edu, EDU_TO_RAM, BASE + PAGE, LEN);
	copy(&edu, EDU_TO_RAM, BASE + 3 * PAGE, LEN);
	check_ram("memory before unmap");
	/* a slot mapped where the device has scribbled shows the guest's page, and keeps it */
	map(DOMAIN, BASE + PAGE, 50, 1, RW);
	copy(&edu, EDU_FROM_RAM, BASE + PAGE, LEN);
	unmap(DOMAIN, BASE, 4);
	check_ram("memory after unmap");
	memcpy(expected, want[50], LEN);
	dump(&edu, LEN);
	check_window("what the device read", LEN);
	claim_end();

	begin("unmapped_slot_of_a_live_frame_shows_nothing");
	map(DOMAIN, BASE, 40, 1, RW);
	map(DOMAIN, BASE + PAGE, 41, 1, RW);
	unmap(DOMAIN, BASE + PAGE, 1);
	copy(&edu, EDU_FROM_RAM, BASE + PAGE, 256);
	dump(&edu, 256);
	claim_check("the device saw the page", first_difference(window, want[41], 256) < 4, true);
	check_ram("memory");
	claim_end();

	begin("unmapped_iova_reaches_nothing");
	load(&edu, LEN);
	copy(&edu, EDU_TO_RAM, BASE + 0x200000, LEN);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[3]), LEN);
	check_ram("memory");
	claim_end();

	begin("dma_after_unmap_changes_nothing");
	map(DOMAIN, BASE, 20, 4, RW);
	map(DOMAIN, BASE + FRAME, 33, 2, RW);
	load(&edu, LEN);
	unmap(DOMAIN, BASE, 6);
	copy(&edu, EDU_TO_RAM, BASE + PAGE, LEN);
	copy(&edu, EDU_TO_RAM, BASE + FRAME + 512, LEN);
	check_ram("memory");
	claim_end();
}

static void check_changes(void)
{
	begin("frame_that_fills_and_empties_loses_no_byte");
	/* congruent slots: bounced at first, all of a frame of RAM in the end */
	map(DOMAIN, BASE, 24, 1, RW);
	load(&edu, 256);
	copy(&edu, EDU_TO_RAM, BASE + 16, 256);
	memcpy(want[24] + 16, expected, 256);
	for (unsigned i = 1; i < 4; i++)
		map(DOMAIN, BASE + i * PAGE, 24 + i, 1, RW);
	check_ram("memory when the frame is full");
	copy(&edu, EDU_TO_RAM, BASE + 2 * PAGE - 128, 256);
	memcpy(want[25] + PAGE - 128, expected, 256);
	unmap(DOMAIN, BASE + 3 * PAGE, 1);
	unmap(DOMAIN, BASE, 1);
	check_ram("memory when two are gone");
	copy(&edu, EDU_TO_RAM, BASE + 2 * PAGE + 77, 256);
	memcpy(want[26] + 77, expected, 256);
	unmap(DOMAIN, BASE, 4);
	check_ram("memory when all are gone");
	claim_end();

	begin("iova_used_again_for_another_page_reaches_only_that");
	map(DOMAIN, BASE, 24, 1, RW);
	load(&edu, 512);
	copy(&edu, EDU_TO_RAM, BASE, 512);
	memcpy(want[24], expected, 512);
	unmap(DOMAIN, BASE, 1);
	map(DOMAIN, BASE, 47, 1, RW);
	copy(&edu, EDU_TO_RAM, BASE + 1000, 512);
	memcpy(want[47] + 1000, expected, 512);
	unmap(DOMAIN, BASE, 1);
	check_ram("memory");
	claim_end();

	begin("reset_of_the_virtio_iommu_drops_all_mappings");
	map(DOMAIN, BASE, 20, 4, RW);
	map(DOMAIN, BASE + FRAME, 33, 1, RW);
	load(&edu, LEN);
	copy(&edu, EDU_TO_RAM, BASE + FRAME, 100);
	vdev_reset(&iommu.dev);
	/* what the device had written by then is the guest's */
	memcpy(want[33], expected, 100);
	check_ram("memory after reset");
	copy(&edu, EDU_TO_RAM, BASE, LEN);
	copy(&edu, EDU_TO_RAM, BASE + FRAME, LEN);
	check_ram("memory after more DMA");
	claim_end();

	begin("detached_device_reaches_nothing");
	map(DOMAIN, BASE, 20, 4, RW);
	load(&edu, LEN);
	claim_check("detach", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	copy(&edu, EDU_TO_RAM, BASE, LEN);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[20]), LEN);
	check_ram("memory");
	claim_end();
}

static void check_bypass(void)
{
	begin("bypass_domain_reaches_memory_at_its_own_address");
	load(&edu, LEN);
	claim_check("attach", iommu_attach(&iommu, DOMAIN2, edu.rid, VIRTIO_IOMMU_ATTACH_F_BYPASS), OK);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[29]) + 64, LEN);
	memcpy(want[29] + 64, expected, LEN);
	check_ram("memory");
	claim_check("back", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[2]), LEN);
	check_ram("memory after leaving it");
	claim_end();

	begin("bypass_config_governs_a_device_in_no_domain");
	load(&edu, LEN);
	claim_check("detach", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	set_bypass(1);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[30]) + 64, LEN);
	memcpy(want[30] + 64, expected, LEN);
	check_ram("memory");
	set_bypass(0);
	copy(&edu, EDU_TO_RAM, gpa_of(ram[2]), LEN);
	check_ram("memory after it is off");
	claim_end();
}

/* ---- two endpoints -------------------------------------------------------------------------- */

static void check_two(void)
{
	static const char *const names[] = {
		"two_domains_keep_their_devices_apart",
		"two_devices_share_a_domain",
		"domain_switch_leaves_the_old_mappings_behind",
	};

	if (!has_edu2) {
		for (unsigned i = 0; i < NR(names); i++)
			claim_skip(names[i], "needs a second edu device");
		return;
	}

	begin(names[0]);
	claim_check("attach", iommu_attach(&iommu, DOMAIN2, edu2.rid, 0), OK);
	claim_check("map the other's window",
		    iommu_map(&iommu, DOMAIN2, WINDOW, WINDOW + FRAME - 1, gpa_of(window), RW), OK);
	map(DOMAIN, BASE + PAGE, 9, 1, RW);
	map(DOMAIN2, BASE + PAGE, 18, 1, RW);
	map(DOMAIN2, BASE + 2 * PAGE, 19, 1, RW);
	load(&edu, 1024);
	copy(&edu2, EDU_FROM_RAM, WINDOW, 1024);
	edu_start(&edu, EDU_TO_RAM, BASE + PAGE, 0, 1024, false);
	edu_start(&edu2, EDU_TO_RAM, BASE + 2 * PAGE - 512, 0, 1024, false);
	claim_check("the DMA ends", edu_finish(&edu) && edu_finish(&edu2), true);
	memcpy(want[9], expected, 1024);
	memcpy(want[18] + PAGE - 512, expected, 512);
	memcpy(want[19], expected + 512, 512);
	check_ram("memory");
	/* mapped in the other domain only */
	copy(&edu, EDU_TO_RAM, BASE + 2 * PAGE, 1024);
	unmap(DOMAIN, BASE, 4);
	unmap(DOMAIN2, BASE, 4);
	check_ram("memory after unmap");
	claim_end();

	begin(names[1]);
	map(DOMAIN, BASE + PAGE, 9, 1, RW);
	/* it sees what was mapped before it came */
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu2.rid, 0), OK);
	map(DOMAIN, BASE + 2 * PAGE, 22, 1, RW);
	load(&edu, 1024);
	copy(&edu, EDU_TO_RAM, BASE + PAGE + 8, 1024);
	memcpy(want[9] + 8, expected, 1024);
	copy(&edu2, EDU_FROM_RAM, BASE + PAGE + 8, 1024);
	copy(&edu2, EDU_TO_RAM, BASE + 2 * PAGE + 8, 1024);
	memcpy(want[22] + 8, expected, 1024);
	check_ram("memory");
	claim_check("one leaves", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	edu_start(&edu, EDU_TO_RAM, BASE + 2 * PAGE + 2048, 0, 64, false);
	edu_start(&edu2, EDU_TO_RAM, BASE + PAGE + 2048, 0, 64, false);
	claim_check("the DMA ends", edu_finish(&edu) && edu_finish(&edu2), true);
	memcpy(want[9] + 2048, expected, 64);
	unmap(DOMAIN, BASE, 4);
	check_ram("memory after one left");
	claim_end();

	begin(names[2]);
	map(DOMAIN, BASE, 3, 1, RW);
	load(&edu, 512);
	copy(&edu, EDU_TO_RAM, BASE, 512);
	memcpy(want[3], expected, 512);
	claim_check("the other's domain", iommu_attach(&iommu, DOMAIN2, edu2.rid, 0), OK);
	map(DOMAIN2, BASE, 6, 1, RW);
	claim_check("switch", iommu_attach(&iommu, DOMAIN2, edu.rid, 0), OK);
	check_ram("memory after the switch");
	copy(&edu, EDU_TO_RAM, BASE + 700, 512);
	memcpy(want[6] + 700, expected, 512);
	check_ram("memory after DMA");
	claim_end();
}

/* ---- interrupts ----------------------------------------------------------------------------- */

static unsigned intx_spi(const struct edu *dev)
{
	unsigned pin = mmio_read8(pci_config(dev->rid, 0x3d));

	return GIC_SPI(BOARD_SPI_INTX + ((dev->rid >> 3) + pin - 1) % 4);
}

static void check_intx(void)
{
	unsigned spi = intx_spi(&edu);

	claim_begin("intx_arrives_each_time_and_ends");
	gic_enable(spi);
	for (unsigned i = 0; i < 3; i++) {
		edu_write(&edu, EDU_IRQ_RAISE, 1u << i);
		claim_check_at("arrives", i, gic_wait(spi, IRQ_US), true);
		claim_check_at("cause", i, edu_read(&edu, EDU_IRQ), 1u << i);
		edu_write(&edu, EDU_IRQ_ACK, 1u << i);
		/* what came in between the acknowledge and now is one more of the same level */
		gic_wait(spi, QUIET_US);
		claim_check_at("quiet after it", i, gic_wait(spi, QUIET_US), false);
	}
	gic_disable(spi);
	claim_end();
}

/* The doorbell as the device must write it: in a reserved region, or mapped 1:1. */
static void map_doorbell(void)
{
	const struct virtio_iommu_probe_resv_mem *resv;
	uint64_t page = BOARD_DOORBELL & ~(PAGE - 1ull);

	iommu_probe(&iommu, edu.rid);
	for (unsigned i = 0; (resv = iommu_resv(&iommu, i)); i++) {
		if (resv->subtype == VIRTIO_IOMMU_RESV_MEM_T_MSI && resv->start <= page && page <= resv->end)
			return;
	}
	claim_check("map the doorbell", iommu_map(&iommu, DOMAIN, page, page + PAGE - 1, page,
						  WO | VIRTIO_IOMMU_MAP_F_MMIO), OK);
}

static void check_msi(void)
{
	static const char *const names[] = {
		"msi_arrives_each_time",
		"msi_through_a_mapped_doorbell_arrives",
		"interrupt_implies_visible_data",
		"intx_comes_back_when_msi_is_off",
	};
	const char *error = gic_its_init();
	uint64_t at = BOARD_DOORBELL & (PAGE - 1);

	if (!error && !gic_its_map(edu.rid, MSI_EVENT, LPI))
		error = "the ITS does not map an event";
	if (error)
		print("note: %s\n", error);

	begin(names[0]);
	claim_check("the ITS works", error == NULL, true);
	map_doorbell();
	claim_check("there is an MSI capability", pci_msi_enable(edu.rid, BOARD_DOORBELL, MSI_EVENT), true);
	for (unsigned i = 0; i < 5; i++) {
		edu_write(&edu, EDU_IRQ_RAISE, 1u << i);
		claim_check_at("arrives", i, gic_wait(LPI, IRQ_US), true);
		edu_write(&edu, EDU_IRQ_ACK, 1u << i);
		claim_check_at("only once", i, gic_wait(LPI, QUIET_US), false);
	}
	pci_msi_disable(edu.rid);
	claim_end();

	begin(names[1]);
	claim_check("map the doorbell",
		    iommu_map(&iommu, DOMAIN, BASE + PAGE, BASE + 2 * PAGE - 1, BOARD_DOORBELL - at,
			      WO | VIRTIO_IOMMU_MAP_F_MMIO), OK);
	map(DOMAIN, BASE, 4, 1, RW);
	pci_msi_enable(edu.rid, BASE + PAGE + at, MSI_EVENT);
	edu_write(&edu, EDU_IRQ_RAISE, 1);
	claim_check("arrives", gic_wait(LPI, IRQ_US), true);
	edu_write(&edu, EDU_IRQ_ACK, 1);
	pci_msi_disable(edu.rid);
	claim_end();

	begin(names[2]);
	map_doorbell();
	pci_msi_enable(edu.rid, BOARD_DOORBELL, MSI_EVENT);
	map(DOMAIN, BASE, 4, 1, RW);
	map(DOMAIN, BASE + PAGE, 13, 1, RW);
	load(&edu, LEN);
	edu_start(&edu, EDU_TO_RAM, BASE + PAGE / 2, 0, LEN, true);
	/* no register is read between the interrupt and the look at memory */
	claim_check("arrives", gic_wait(LPI, IRQ_US), true);
	memcpy(want[4] + PAGE / 2, expected, PAGE / 2);
	memcpy(want[13], expected + PAGE / 2, LEN - PAGE / 2);
	check_ram("memory at the interrupt");
	edu_write(&edu, EDU_IRQ_ACK, EDU_IRQ_DMA);
	claim_check("the DMA ended", edu_finish(&edu), true);
	pci_msi_disable(edu.rid);
	claim_end();

	claim_begin(names[3]);
	gic_enable(intx_spi(&edu));
	edu_write(&edu, EDU_IRQ_RAISE, 1);
	claim_check("arrives", gic_wait(intx_spi(&edu), IRQ_US), true);
	edu_write(&edu, EDU_IRQ_ACK, 1);
	gic_disable(intx_spi(&edu));
	claim_end();
}

/* ---- anything, against a plain model -------------------------------------------------------- */

#define RANDOM_SLOTS 16 /* of 4 frames */
#define RANDOM_STEPS 600
#define RANDOM_DMAS  30

static uint32_t random_seed;

static uint32_t random_below(uint32_t limit)
{
	random_seed = random_seed * 1664525 + 1013904223;
	return (random_seed >> 8) % limit;
}

struct model {
	int8_t page[RANDOM_SLOTS]; /* -1: a hole */
	uint8_t flags[RANDOM_SLOTS];
};

static void random_map(struct model *m)
{
	unsigned slot = random_below(RANDOM_SLOTS), page = random_below(NR_PAGES);
	uint8_t flags = (uint8_t)(random_below(3) + 1);

	if (m->page[slot] >= 0) {
		unmap(DOMAIN, BASE + slot * PAGE, 1);
		m->page[slot] = -1;
		return;
	}
	/* two mappings of a page see each other only when the guest says so: keep them apart */
	for (unsigned i = 0; i < RANDOM_SLOTS; i++) {
		if (m->page[i] == (int)page)
			return;
	}
	map(DOMAIN, BASE + slot * PAGE, page, 1, flags);
	m->page[slot] = (int8_t)page;
	m->flags[slot] = flags;
}

/* The device writes over up to two slots; a write-only slot shows it at UNMAP at the latest. */
static void random_dma(struct model *m)
{
	unsigned at = random_below((RANDOM_SLOTS - 1) * PAGE), off = random_below(LEN);
	unsigned len = random_below(LEN - off) + 1;

	claim_check("the DMA ends", edu_copy(&edu, EDU_TO_RAM, BASE + at, off, len), true);
	for (unsigned i = 0; i < len; i++) {
		unsigned slot = (at + i) / PAGE;

		if (m->page[slot] >= 0 && m->flags[slot] & WO)
			want[m->page[slot]][(at + i) % PAGE] = expected[off + i];
	}
}

static void check_random(void)
{
	struct model m;

	begin("random_maps_and_writes_match_a_plain_model");
	random_seed = (uint32_t)now_us();
	print("note: seed 0x%x\n", random_seed);
	memset(m.page, -1, sizeof(m.page));
	load(&edu, LEN);
	for (unsigned i = 0; i < RANDOM_STEPS; i++) {
		random_map(&m);
		if (i % (RANDOM_STEPS / RANDOM_DMAS) == 0)
			random_dma(&m);
		if (i % 8 == 0) {
			/* the CPU writes, into a mapped page or not */
			unsigned page = random_below(NR_PAGES), at = random_below(PAGE - 16);

			fill(want[page] + at, 16);
			memcpy(ram[page] + at, want[page] + at, 16);
		}
	}
	unmap(DOMAIN, BASE, RANDOM_SLOTS);
	check_ram("memory");
	claim_end();
}

void payload(void)
{
	struct machine machine;

	if (dtb_read(boot_dtb, &machine)) {
		print("FAIL edu: the device tree cannot be read\n");
		return;
	}
	rings_only = dtb_parameter(&machine, "rings", 0);
	if (!edu_find(0, &edu)) {
		print("FAIL edu: there is no edu device\n");
		return;
	}
	has_edu2 = edu_find(1, &edu2);
	gic_init();
	check_registers();
	check_intx();
	check_direct();
	check_slots();
	check_read_only();
	check_write_only();
	check_ring();
	check_holes();
	check_changes();
	check_bypass();
	check_two();
	check_msi();
	if (!rings_only)
		check_random();
	vdev_reset(&iommu.dev);
}
