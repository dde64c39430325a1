/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simedu - DMA through simulated DARTs whose tables the mediator writes, judged with granule's own
 * edu devices: a tame one, which tells exactly what became of each DMA, and a hostile one, which
 * reads and writes at random IOVAs all the time.
 *
 * The device's buffer is seen through its BAR, so nothing needs to be mapped to look at it.
 * Parameters: kind=8103|6000|8110; locked=1: the DARTs are locked (quirk=locked-ttbr); hung=1: the
 * tame device's DART is one that will hang (quirk=hung-invalidate), and nothing else is looked at.
 */
#include <linux/pci_regs.h>

#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "gic.h"
#include "iommu.h"
#include "pci.h"
#include "simedu.h"
#include "lib/string.h"
#include "vmm/sim_dart.h"

#define PAGE	 0x1000u
#define FRAME	 0x4000u
#define NR_PAGES 64
#define DOMAIN	 7
#define DOMAIN2	 9
#define OK	 VIRTIO_IOMMU_S_OK
#define RO	 VIRTIO_IOMMU_MAP_F_READ
#define WO	 VIRTIO_IOMMU_MAP_F_WRITE
#define RW	 IOMMU_RW
#define NR(array) (sizeof(array) / sizeof((array)[0]))

/* IOVAs, clear of every reserved region. */
#define BASE  0x0a000000ull
#define OTHER 0x0a800000ull
#define ARENA 0x0b000000ull

#define LPI	 (GIC_LPI_BASE + 16)
#define IRQ_US	 2000000
#define QUIET_US 20000
#define EVENT_US 2000000
#define NO_EVENT_US 50000

static uint8_t ram[NR_PAGES][PAGE] __attribute__((aligned(FRAME)));
static uint8_t want[NR_PAGES][PAGE] __attribute__((aligned(16)));
static uint8_t expected[PAGE] __attribute__((aligned(16)));
static uint8_t got[PAGE] __attribute__((aligned(16)));

static struct machine machine;
static struct iommu iommu;
static struct simedu edu, hostile;
static bool locked;
static unsigned kind;
static uint32_t fill_seed = 1;

static uint64_t gpa_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static uint32_t next_random(void)
{
	fill_seed = fill_seed * 1103515245 + 12345;
	return fill_seed >> 8;
}

static void fill(void *to, unsigned len)
{
	for (uint8_t *p = to; len--; p++)
		*p = (uint8_t)next_random();
}

static void set_bypass(uint8_t bypass)
{
	mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_iommu_config, bypass),
		    bypass);
}

/* Every claim starts with the tame device alone in DOMAIN, no event waiting, and fresh contents. */
static void begin(const char *name)
{
	struct virtio_iommu_fault fault;
	const char *error;

	claim_begin(name);
	simedu_pause(&hostile, true);
	error = iommu_start(&iommu, IOMMU_FEATURES);
	if (error)
		print("note: %s\n", error);
	claim_check("the virtio-iommu starts", error == NULL, true);
	set_bypass(0);
	iommu_listen(&iommu);
	while (iommu_event(&iommu, NO_EVENT_US, &fault))
		;
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), OK);
	fill(ram, sizeof(ram));
	memcpy(want, ram, sizeof(ram));
}

static void map(uint64_t iova, unsigned page, unsigned nr_pages, uint32_t flags)
{
	claim_check("map", iommu_map(&iommu, DOMAIN, iova, iova + nr_pages * PAGE - 1, gpa_of(ram[page]), flags),
		    OK);
}

static void unmap(uint64_t iova, unsigned nr_pages)
{
	claim_check("unmap", iommu_unmap(&iommu, DOMAIN, iova, iova + nr_pages * PAGE - 1), OK);
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

/* The device reads all of [iova, iova + len): @as. */
static void reads(uint64_t iova, const void *as, unsigned len)
{
	unsigned off = next_random() % 0x800 * 8;

	claim_check("the read", simedu_copy(&edu, iova, off, len, 0), SIM_EDU_DONE);
	claim_check("its count", simedu_read(&edu, SIM_EDU_DMA_COUNT), len);
	simedu_get(&edu, off, got, (len + 7) & ~7u);
	claim_check("what the device read", first_difference(got, as, len), len);
}

/* The device writes fresh bytes there; they are in expected[]. */
static void writes(uint64_t iova, unsigned len)
{
	unsigned off = next_random() % 0x800 * 8;

	fill(expected, PAGE);
	simedu_put(&edu, off, expected, (len + 7) & ~7u);
	claim_check("the write", simedu_copy(&edu, iova, off, len, SIM_EDU_TO_MEMORY), SIM_EDU_DONE);
	claim_check("its count", simedu_read(&edu, SIM_EDU_DMA_COUNT), len);
}

/* A DMA is refused after @before bytes, and the guest is told. */
static void refused(uint64_t iova, unsigned len, uint32_t cmd, unsigned before)
{
	uint32_t direction = cmd & SIM_EDU_TO_MEMORY ? VIRTIO_IOMMU_FAULT_F_WRITE : VIRTIO_IOMMU_FAULT_F_READ;
	struct virtio_iommu_fault fault;

	claim_check("the DMA", simedu_copy(&edu, iova, 0, len, cmd), SIM_EDU_REFUSED_AT);
	claim_check("bytes before", simedu_read(&edu, SIM_EDU_DMA_COUNT), before);
	if (!claim_check("an event", iommu_event(&iommu, EVENT_US, &fault), true))
		return;
	claim_check("its endpoint", fault.endpoint, edu.rid);
	claim_check("its address", fault.address, iova + before);
	claim_check("its reason", fault.reason, VIRTIO_IOMMU_FAULT_R_MAPPING);
	claim_check("address is valid", fault.flags & VIRTIO_IOMMU_FAULT_F_ADDRESS, VIRTIO_IOMMU_FAULT_F_ADDRESS);
	/* Older DARTs do not tell of every read that it was one. */
	fault.flags &= VIRTIO_IOMMU_FAULT_F_READ | VIRTIO_IOMMU_FAULT_F_WRITE;
	if (fault.flags || kind == 8110 || direction == VIRTIO_IOMMU_FAULT_F_WRITE)
		claim_check("direction", fault.flags, direction);
	claim_check("another event", iommu_event(&iommu, 0, &fault), false);
}

/* ---- the device ------------------------------------------------------------------------------ */

static void check_registers(void)
{
	uint64_t word = 0x1122334455667788;

	claim_begin("device_registers_answer");
	claim_check("identification", simedu_read(&edu, SIM_EDU_ID), SIM_EDU_ID_VALUE);
	claim_check("class", mmio_read32(pci_config(edu.rid, PCI_CLASS_REVISION)) >> 8, SIM_EDU_CLASS);
	claim_check("BAR 0", pci_bar_size(edu.rid, 0), SIM_EDU_BAR_LEN);
	for (uint32_t i = 0; i < 16; i++) {
		simedu_write(&edu, SIM_EDU_SCRATCH, i * 0x01234567u);
		claim_check_at("scratch", i, simedu_read(&edu, SIM_EDU_SCRATCH), (uint32_t)~(i * 0x01234567u));
	}
	claim_check("status", simedu_read(&edu, SIM_EDU_STATUS), SIM_EDU_MASTER);
	simedu_put(&edu, SIM_EDU_BUFFER_LEN - 8, &word, 8);
	for (unsigned len = 1; len <= 8; len *= 2)
		claim_check_at("buffer, bytes", len,
			       mmio_read(edu.bar + SIM_EDU_BUFFER + SIM_EDU_BUFFER_LEN - 8, len),
			       word & ~0ull >> (64 - 8 * len));
	claim_end();
}

static void check_hostility(void)
{
	uint64_t command = pci_config(hostile.rid, PCI_COMMAND), end = now_us() + IRQ_US, before;

	claim_begin("hostile_device_needs_no_permission_and_gets_none");
	claim_check("it is hostile", simedu_read(&hostile, SIM_EDU_STATUS) & SIM_EDU_HOSTILE, SIM_EDU_HOSTILE);
	mmio_write16(command, mmio_read16(command) & ~PCI_COMMAND_MASTER);
	claim_check("bus master", simedu_read(&hostile, SIM_EDU_STATUS) & SIM_EDU_MASTER, 0);
	before = simedu_read64(&hostile, SIM_EDU_REFUSED);
	while (simedu_read64(&hostile, SIM_EDU_REFUSED) < before + 100 && now_us() < end)
		;
	claim_check("it goes on", simedu_read64(&hostile, SIM_EDU_REFUSED) >= before + 100, true);
	if (!locked) { /* else there is what firmware let it have */
		claim_check("reads", simedu_read64(&hostile, SIM_EDU_READS), 0);
		claim_check("writes", simedu_read64(&hostile, SIM_EDU_WRITES), 0);
	}
	claim_end();
}

/* ---- DMA ------------------------------------------------------------------------------------- */

static void check_mapped(void)
{
	static const uint8_t pages[4] = {21, 35, 2, 12};

	begin("mapped_pages_are_read_and_written_to_the_byte");
	/* four pages in a frame, nine that are not congruent, four that are a frame */
	for (unsigned i = 0; i < 4; i++)
		map(BASE + i * PAGE, pages[i], 1, RW);
	map(BASE + 0x100000, 41, 9, RW);
	map(BASE + 0x200000, 28, 4, RW);
	for (unsigned i = 0; i < 3; i++) {
		memcpy(expected, want[pages[i]] + 0x801, 0x7ff);
		memcpy(expected + 0x7ff, want[pages[i + 1]], 0x7f0);
		reads(BASE + i * PAGE + 0x801, expected, 0xfef);
	}
	reads(BASE + 0x100000 + 0x3e17, want[44] + 0xe17, 0x901);
	reads(BASE + 0x200000 + 0x0fff, want[28] + 0xfff, 0x802);
	writes(BASE + PAGE + 0x123, PAGE);
	memcpy(want[pages[1]] + 0x123, expected, PAGE - 0x123);
	memcpy(want[pages[2]], expected + PAGE - 0x123, 0x123);
	writes(BASE + 0x100000 + 0x3e13, 0x777);
	memcpy(want[44] + 0xe13, expected, 0x777);
	writes(BASE + 0x200000 + 0x3001, 0xfff);
	memcpy(want[31] + 1, expected, 0xfff);
	check_ram("memory while mapped");
	unmap(BASE, 0x300);
	check_ram("memory after unmap");
	claim_end();
}

static void check_refused(void)
{
	static const uint64_t nowhere[] = {0, 7, BASE, ARENA + 0x123, 0x7ffffff9, 0xfffffff0, 0x123456789, 0xdeadbeef08};

	begin("dma_is_refused_from_the_first_byte_that_is_not_mapped");
	map(BASE, 24, 4, RW);
	/* congruent, and nothing that both sides write: only a window of the frame is open */
	map(OTHER + PAGE, 29, 1, WO);
	map(OTHER + 0x100000 + 2 * PAGE, 34, 2, RO);
	fill(expected, 304);
	simedu_put(&edu, 0, expected, 304);
	refused(BASE + FRAME - 100, 300, SIM_EDU_TO_MEMORY, 100);
	memcpy(want[27] + PAGE - 100, expected, 100);
	check_ram("memory before the edge of a frame");
	refused(BASE + FRAME - 3, PAGE, 0, 3);
	refused(BASE - 1, 2, SIM_EDU_TO_MEMORY, 0);
	simedu_put(&edu, 0, expected, 304);
	refused(OTHER + 2 * PAGE - 16, 64, SIM_EDU_TO_MEMORY, 16);
	memcpy(want[29] + PAGE - 16, expected, 16);
	refused(OTHER + PAGE - 8, 64, SIM_EDU_TO_MEMORY, 0);
	refused(OTHER + 2 * PAGE, 8, SIM_EDU_TO_MEMORY, 0);
	check_ram("memory before the edge of a page");
	reads(OTHER + 0x100000 + 2 * PAGE + 0xf00, want[34] + 0xf00, 0x800);
	refused(OTHER + 0x100000 + 2 * PAGE - 64, 128, 0, 0);
	refused(OTHER + 0x100000 + FRAME - 24, 128, 0, 24);
	claim_end();

	begin("faults_tell_endpoint_address_and_direction");
	for (unsigned i = 0; i < NR(nowhere); i++) {
		refused(nowhere[i], 8, SIM_EDU_TO_MEMORY, 0);
		refused(nowhere[i], 8, 0, 0);
	}
	for (unsigned page = 0; page < NR_PAGES; page += 7)
		refused(gpa_of(ram[page]), PAGE, page % 2 ? SIM_EDU_TO_MEMORY : 0, 0);
	check_ram("memory");
	claim_end();
}

static void check_rights(void)
{
	begin("read_only_pages_are_never_written");
	map(BASE, 8, 4, RO);
	refused(BASE + PAGE, 64, SIM_EDU_TO_MEMORY, 0);
	reads(BASE + 0x123, want[8] + 0x123, 0x400);
	/* beside a page that is not read-only, in a frame that is bounced */
	map(OTHER, 5, 1, RO);
	map(OTHER + PAGE, 10, 1, RW);
	writes(OTHER + PAGE - 0x80, 0x100);
	memcpy(want[10], expected + 0x80, 0x80);
	check_ram("memory while mapped");
	reads(OTHER + 0x100, want[5] + 0x100, 0x300);
	unmap(BASE, 4);
	unmap(OTHER, 2);
	check_ram("memory after unmap");
	claim_end();

	begin("write_only_pages_are_never_read");
	map(BASE, 12, 4, WO);
	map(OTHER + 3 * PAGE, 19, 1, WO);
	refused(BASE + 0x80, 0x100, 0, 0);
	refused(OTHER + 3 * PAGE, 8, 0, 0);
	simedu_get(&edu, 0, got, 8);
	claim_check("the device has it", first_difference(got, want[19], 8) < 8, true);
	writes(BASE + 0x82, 0x205);
	memcpy(want[12] + 0x82, expected, 0x205);
	writes(OTHER + 3 * PAGE + 8, 0x20);
	memcpy(want[19] + 8, expected, 0x20);
	check_ram("memory");
	claim_end();
}

static void check_gone(void)
{
	uint64_t command = pci_config(edu.rid, PCI_COMMAND);

	begin("dma_after_unmap_reaches_nothing");
	map(BASE, 20, 4, WO);
	map(OTHER, 33, 2, RW);
	writes(BASE, PAGE);
	memcpy(want[20], expected, PAGE);
	unmap(BASE, 4);
	unmap(OTHER, 2);
	refused(BASE, PAGE, SIM_EDU_TO_MEMORY, 0);
	refused(BASE + FRAME - 8, 8, 0, 0);
	/* what was bounced may stay, onto a page that is nobody's */
	simedu_copy(&edu, OTHER, 0, 2 * PAGE, SIM_EDU_TO_MEMORY);
	check_ram("memory");
	simedu_copy(&edu, OTHER + PAGE, 0, 64, 0);
	simedu_get(&edu, 0, got, 64);
	claim_check("the device has it", first_difference(got, want[34], 64) < 8, true);
	claim_end();

	begin("detached_device_is_refused");
	map(BASE, 20, 4, RW);
	reads(BASE, want[20], 64);
	claim_check("detach", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	refused(BASE, 64, 0, 0);
	refused(gpa_of(ram[20]), 64, SIM_EDU_TO_MEMORY, 0);
	check_ram("memory");
	claim_end();

	begin("device_that_may_not_master_does_not");
	map(BASE, 20, 4, RW);
	mmio_write16(command, mmio_read16(command) & ~PCI_COMMAND_MASTER);
	claim_check("the DMA", simedu_copy(&edu, BASE, 0, 64, SIM_EDU_TO_MEMORY), SIM_EDU_NO_MASTER);
	check_ram("memory");
	mmio_write16(command, mmio_read16(command) | PCI_COMMAND_MASTER);
	writes(BASE, 64);
	memcpy(want[20], expected, 64);
	check_ram("memory when it may again");
	claim_end();
}

static void check_firmware(void)
{
	const char *name = "what_firmware_mapped_stays_and_is_not_the_guests";
	const struct virtio_iommu_probe_resv_mem *resv;
	uint64_t last = SIM_DART_FIRMWARE_IOVA + SIM_DART_FIRMWARE_LEN - 1;
	bool told = false;

	if (!locked)
		return;
	begin(name);
	claim_check("probe", iommu_probe(&iommu, edu.rid), OK);
	for (unsigned i = 0; (resv = iommu_resv(&iommu, i)); i++)
		told |= resv->start <= SIM_DART_FIRMWARE_IOVA && resv->end >= last;
	claim_check("its region is told to the guest", told, true);
	claim_check("map there", iommu_map(&iommu, DOMAIN, SIM_DART_FIRMWARE_IOVA, SIM_DART_FIRMWARE_IOVA + PAGE - 1,
					   gpa_of(ram[0]), RW), VIRTIO_IOMMU_S_INVAL);
	for (uint64_t iova = SIM_DART_FIRMWARE_IOVA; iova <= last; iova += FRAME) {
		writes(iova, PAGE);
		reads(iova, expected, PAGE);
	}
	check_ram("memory");
	refused(last + 1, 8, SIM_EDU_TO_MEMORY, 0);
	/* and it is still there when the device is in no domain */
	claim_check("detach", iommu_detach(&iommu, DOMAIN, edu.rid), OK);
	writes(SIM_DART_FIRMWARE_IOVA + 0x10, 64);
	reads(SIM_DART_FIRMWARE_IOVA + 0x10, expected, 64);
	check_ram("memory in no domain");
	claim_end();
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static unsigned intx_spi(void)
{
	unsigned pin = mmio_read8(pci_config(edu.rid, PCI_INTERRUPT_PIN));

	return GIC_SPI(BOARD_SPI_INTX + ((edu.rid >> 3) + pin - 1) % 4);
}

static void check_intx(void)
{
	unsigned spi = intx_spi();

	begin("intx_arrives_each_time_and_ends");
	map(BASE, 6, 1, RW);
	gic_enable(spi);
	for (unsigned i = 0; i < SIM_EDU_VECS; i++) {
		if (i % 2)
			simedu_start(&edu, BASE, 0, 8, SIM_EDU_NOTIFY | SIM_EDU_CAUSE(i));
		else
			simedu_write(&edu, SIM_EDU_IRQ_RAISE, 1u << i);
		claim_check_at("arrives", i, gic_wait(spi, IRQ_US), true);
		claim_check_at("cause", i, simedu_read(&edu, SIM_EDU_IRQ), 1u << i);
		simedu_write(&edu, SIM_EDU_IRQ_ACK, 1u << i);
		/* what came in between the acknowledge and now is one more of the same level */
		gic_wait(spi, QUIET_US);
		claim_check_at("quiet after it", i, gic_wait(spi, QUIET_US), false);
	}
	gic_disable(spi);
	claim_end();
}

static void check_msix(void)
{
	const char *error = gic_its_init();

	begin("each_msix_vector_arrives_each_time");
	for (unsigned vec = 0; vec < SIM_EDU_VECS && !error; vec++)
		if (!gic_its_map(edu.rid, vec, LPI + vec))
			error = "the ITS does not map an event";
	if (error)
		print("note: %s\n", error);
	claim_check("the ITS works", error == NULL, true);
	map(BASE, 6, 1, RW);
	for (unsigned vec = 0; vec < SIM_EDU_VECS; vec++)
		claim_check_at("table entry", vec, pci_msix_set(edu.rid, edu.bar, vec, BOARD_DOORBELL, vec), true);
	pci_msix_enable(edu.rid, true);
	for (unsigned i = 0; i < 2 * SIM_EDU_VECS; i++) {
		unsigned vec = i % SIM_EDU_VECS;

		if (i < SIM_EDU_VECS)
			simedu_write(&edu, SIM_EDU_IRQ_RAISE, 1u << vec);
		else
			simedu_start(&edu, BASE, 0, 8, SIM_EDU_NOTIFY | SIM_EDU_CAUSE(vec));
		claim_check_at("arrives", i, gic_wait(LPI + vec, IRQ_US), true);
		claim_check_at("only once", i, gic_wait(LPI + vec, QUIET_US), false);
	}
	simedu_write(&edu, SIM_EDU_IRQ_ACK, ~0u);
	claim_end();

	begin("interrupt_implies_visible_data");
	map(BASE, 4, 1, RW);
	map(BASE + PAGE, 13, 1, RW);
	for (unsigned i = 0; i < 3; i++) {
		fill(expected, PAGE);
		simedu_put(&edu, 0, expected, PAGE);
		simedu_start(&edu, BASE + PAGE / 2, 0, PAGE, SIM_EDU_TO_MEMORY | SIM_EDU_NOTIFY);
		/* no register is read between the interrupt and the look at memory */
		claim_check_at("arrives", i, gic_wait(LPI, IRQ_US), true);
		memcpy(want[4] + PAGE / 2, expected, PAGE / 2);
		memcpy(want[13], expected + PAGE / 2, PAGE / 2);
		check_ram("memory at the interrupt");
		claim_check_at("the result", i, simedu_read(&edu, SIM_EDU_DMA_RESULT), SIM_EDU_DONE);
		simedu_write(&edu, SIM_EDU_IRQ_ACK, 1);
	}
	pci_msix_enable(edu.rid, false);
	claim_end();
}

/* ---- the hostile device ---------------------------------------------------------------------- */

#define SECRET	0x5ec2e75ec2e75ec2ull /* in all memory that is not mapped */
#define OPEN	0x0be40be40be40be4ull /* in what is, when it is mapped */
#define PATTERN 0xedededededededEDull
#define NR_SLOTS 64
#define NR_MAPS	 20
#define ACCESSES 100000
#define WIDE_ACCESSES 15000
#define HOSTILE_US 600000000ull

struct range {
	uint64_t start, end;
};

static struct live {
	uint64_t iova;
	unsigned page, nr; /* nr 0: none */
	uint32_t flags;
} live[NR_MAPS];
static bool used[NR_PAGES];
static struct range elsewhere[3];
static unsigned nr_elsewhere;
static uint64_t bad_word_at;

extern char _start[], _bss_end[];

static uint32_t be32_at(const void *p)
{
	const uint8_t *b = p;

	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* RAM that is neither this program nor the device tree. */
static void find_elsewhere(void)
{
	struct range holes[2] = {
		{gpa_of(_start), (gpa_of(_bss_end) + PAGE) & ~(PAGE - 1ull)},
		{gpa_of(boot_dtb) & ~(PAGE - 1ull),
		 (gpa_of(boot_dtb) + be32_at((const uint8_t *)boot_dtb + 4) + PAGE) & ~(PAGE - 1ull)},
	};
	uint64_t at = machine.ram_base, end = at + machine.ram_len;

	if (holes[0].start > holes[1].start) {
		struct range first = holes[1];

		holes[1] = holes[0];
		holes[0] = first;
	}
	for (unsigned i = 0; i < 2; i++) {
		if (holes[i].start > at)
			elsewhere[nr_elsewhere++] = (struct range){at, holes[i].start};
		at = holes[i].end;
	}
	if (end > at)
		elsewhere[nr_elsewhere++] = (struct range){at, end};
}

static void fill_words(uint64_t from, uint64_t end, uint64_t word)
{
	for (volatile uint64_t *p = (void *)from; (uint64_t)p < end; p++)
		*p = word;
}

/* Every byte is the one of @a or of @b at its place. */
static bool words_are(uint64_t from, uint64_t end, uint64_t a, uint64_t b)
{
	for (volatile uint64_t *p = (void *)from; (uint64_t)p < end; p++) {
		uint64_t word = *p, is_a = 0;

		if (word == a || word == b)
			continue;
		for (unsigned byte = 0; byte < 64; byte += 8)
			if ((word >> byte & 0xff) == (a >> byte & 0xff))
				is_a |= 0xffull << byte;
		if ((word & ~is_a) != (b & ~is_a)) {
			bad_word_at = (uint64_t)p;
			return false;
		}
	}
	return true;
}

static bool pages_are(unsigned page, unsigned nr, uint64_t a, uint64_t b)
{
	return words_are(gpa_of(ram[page]), gpa_of(ram[page]) + nr * PAGE, a, b);
}

/* What was mapped is as its rights allow; then it is secret again. */
static void close_live(struct live *l)
{
	if (!claim_check("what was mapped", pages_are(l->page, l->nr, OPEN, l->flags & WO ? PATTERN : OPEN), true))
		print("note: 0x%lx at 0x%lx\n", *(uint64_t *)bad_word_at, bad_word_at);
	fill_words(gpa_of(ram[l->page]), gpa_of(ram[l->page]) + l->nr * PAGE, SECRET);
	for (unsigned i = 0; i < l->nr; i++)
		used[l->page + i] = false;
	l->nr = 0;
}

static void try_map(const struct live *new)
{
	struct live *l = NULL;

	for (unsigned i = 0; i < NR_MAPS; i++) {
		if (!live[i].nr)
			l = &live[i];
		else if (new->iova < live[i].iova + live[i].nr * PAGE &&
			 live[i].iova < new->iova + new->nr * PAGE)
			return;
	}
	for (unsigned i = 0; i < new->nr; i++)
		if (used[new->page + i])
			return;
	if (!l)
		return;
	fill_words(gpa_of(ram[new->page]), gpa_of(ram[new->page]) + new->nr * PAGE, OPEN);
	map(new->iova, new->page, new->nr, new->flags);
	for (unsigned i = 0; i < new->nr; i++)
		used[new->page + i] = true;
	*l = *new;
}

static void churn(void)
{
	static const uint32_t rights[] = {RW, RW, RW, RO, RO, WO};
	struct live *l = &live[next_random() % NR_MAPS], new;
	unsigned slot = next_random() % NR_SLOTS;

	if (l->nr) {
		unmap(l->iova, l->nr);
		close_live(l);
		return;
	}
	if (next_random() % 4) {
		new = (struct live){
			.iova = ARENA + slot * PAGE,
			.nr = 1 + next_random() % (next_random() % 4 ? 3 : 12),
			.flags = rights[next_random() % NR(rights)],
		};
		new.page = next_random() % (NR_PAGES - 12);
		if (next_random() % 2) /* often congruent */
			new.page = new.page / 4 * 4 + slot % 4;
		if (new.page + new.nr <= NR_PAGES)
			try_map(&new);
		return;
	}
	/* a frame that fills slot by slot turns direct while the device is at it */
	new.page = next_random() % (NR_PAGES / 4) * 4;
	for (unsigned i = 0; i < 4; i++) {
		const struct live one = {
			.iova = ARENA + slot / 4 * FRAME + (slot + i) % 4 * PAGE,
			.page = new.page + (slot + i) % 4,
			.nr = 1,
			.flags = RW,
		};

		try_map(&one);
	}
}

static void check_secrets(void)
{
	for (unsigned page = 0; page < NR_PAGES; page++)
		if (!used[page] && !claim_check_at("page", page, pages_are(page, 1, SECRET, SECRET), true))
			print("note: 0x%lx at 0x%lx\n", *(uint64_t *)bad_word_at, bad_word_at);
}

static uint64_t accesses(void)
{
	return simedu_read64(&hostile, SIM_EDU_READS) + simedu_read64(&hostile, SIM_EDU_WRITES) +
	       simedu_read64(&hostile, SIM_EDU_REFUSED);
}

/* A device of another domain, at the same IOVA, is not disturbed. */
static void use_neighbour(void)
{
	static uint8_t mine[64], back[64];

	fill(mine, sizeof(mine));
	simedu_put(&edu, 0, mine, sizeof(mine));
	simedu_copy(&edu, ARENA + 0x5010, 0, sizeof(mine), SIM_EDU_TO_MEMORY);
	simedu_copy(&edu, ARENA + 0x5010, 64, sizeof(mine), 0);
	simedu_get(&edu, 64, back, sizeof(back));
	claim_check("its neighbour's data", first_difference(mine, back, sizeof(mine)), sizeof(mine));
}

/* A new domain: nothing of the old one is left, not even kept for later. */
static void leave(void)
{
	claim_check("leave", iommu_detach(&iommu, DOMAIN, hostile.rid), OK);
	for (unsigned i = 0; i < NR_MAPS; i++)
		if (live[i].nr)
			close_live(&live[i]);
	claim_check("come back", iommu_attach(&iommu, DOMAIN, hostile.rid, 0), OK);
}

static void churn_on(void)
{
	for (unsigned i = 0; i < 20; i++)
		churn();
	if (next_random() % 4 == 0)
		leave();
	check_secrets();
	use_neighbour();
}

/* Let it loose on [first, last] for so many accesses. */
static void provoke(uint64_t first, uint64_t last, uint64_t nr, void (*meanwhile)(void))
{
	uint64_t from = accesses(), end = now_us() + HOSTILE_US;

	simedu_write64(&hostile, SIM_EDU_FIRST, first);
	simedu_write64(&hostile, SIM_EDU_LAST, last);
	simedu_pause(&hostile, false);
	while (accesses() - from < nr && claim_check("it makes accesses", now_us() < end, true))
		if (meanwhile)
			meanwhile();
	simedu_pause(&hostile, true);
}

static void check_hostile(void)
{
	static uint8_t page[PAGE] __attribute__((aligned(PAGE)));

	begin("hostile_device_neither_sees_nor_changes_what_is_not_mapped");
	find_elsewhere();
	for (unsigned i = 0; i < nr_elsewhere; i++)
		fill_words(elsewhere[i].start, elsewhere[i].end, SECRET);
	fill_words(gpa_of(ram), gpa_of(ram) + sizeof(ram), SECRET);
	claim_check("the tame one elsewhere", iommu_attach(&iommu, DOMAIN2, edu.rid, 0), OK);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, hostile.rid, 0), OK);
	claim_check("map for the tame one",
		    iommu_map(&iommu, DOMAIN2, ARENA + 0x5000, ARENA + 0x5000 + PAGE - 1, gpa_of(page), RW), OK);
	simedu_write64(&hostile, SIM_EDU_SECRET, SECRET);
	simedu_write64(&hostile, SIM_EDU_PATTERN, PATTERN);
	for (unsigned reg = SIM_EDU_SEEN; reg <= SIM_EDU_REFUSED; reg += 8)
		simedu_write64(&hostile, reg, 0);

	provoke(ARENA - FRAME, ARENA + NR_SLOTS * PAGE + FRAME, ACCESSES, churn_on);
	print("note: %lu reads, %lu writes, %lu refused\n", simedu_read64(&hostile, SIM_EDU_READS),
	      simedu_read64(&hostile, SIM_EDU_WRITES), simedu_read64(&hostile, SIM_EDU_REFUSED));
	claim_check("many reads", simedu_read64(&hostile, SIM_EDU_READS) > ACCESSES / 50, true);
	claim_check("many writes", simedu_read64(&hostile, SIM_EDU_WRITES) > ACCESSES / 50, true);
	claim_check("many refused", simedu_read64(&hostile, SIM_EDU_REFUSED) > ACCESSES / 50, true);
	provoke(machine.ram_base, machine.ram_base + machine.ram_len - 1, WIDE_ACCESSES, churn_on);
	provoke(0, UINT32_MAX, WIDE_ACCESSES, churn_on);
	provoke(0, UINT64_MAX, WIDE_ACCESSES, churn_on);

	claim_check("secrets seen", simedu_read64(&hostile, SIM_EDU_SEEN), 0);
	claim_check("unmap all", iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	for (unsigned i = 0; i < NR_MAPS; i++)
		if (live[i].nr)
			close_live(&live[i]);
	check_secrets();
	for (unsigned i = 0; i < nr_elsewhere; i++)
		if (!claim_check_at("memory elsewhere", i,
				    words_are(elsewhere[i].start, elsewhere[i].end, SECRET, SECRET), true))
			print("note: 0x%lx at 0x%lx\n", *(uint64_t *)bad_word_at, bad_word_at);
	claim_end();

	/* A page with the secret in it, mapped: the test is not blind. */
	begin("hostile_device_sees_and_changes_what_is_mapped");
	claim_check("attach", iommu_attach(&iommu, DOMAIN, hostile.rid, 0), OK);
	fill_words(gpa_of(ram[40]), gpa_of(ram[40]) + 4 * PAGE, SECRET);
	map(ARENA, 40, 4, RO);
	simedu_write64(&hostile, SIM_EDU_SEEN, 0);
	provoke(ARENA, ARENA + FRAME - 1, 1000, NULL);
	claim_check("secrets seen", simedu_read64(&hostile, SIM_EDU_SEEN) > 0, true);
	claim_check("page is unchanged", pages_are(40, 4, SECRET, SECRET), true);
	claim_end();
}

/* ---- a DART that hangs ----------------------------------------------------------------------- */

#define DMAS_BEFORE_HANG 256

static void check_hung(void)
{
	struct virtio_iommu_fault fault;

	begin("device_whose_dart_hangs_is_cut_off_and_memory_is_safe");
	map(BASE, 24, 4, WO);
	map(OTHER, 33, 2, RW);
	map(OTHER + 0x100000, 36, 4, RO);
	for (unsigned i = 0; i < DMAS_BEFORE_HANG; i++) {
		fill(expected, 8);
		simedu_put(&edu, 0, expected, 8);
		claim_check_at("a DMA", i, simedu_copy(&edu, BASE + i * 16, 0, 8, SIM_EDU_TO_MEMORY), SIM_EDU_DONE);
		memcpy(want[24] + i * 16, expected, 8);
	}
	/* what it remembers of these pages cannot be taken from it: only the device can be stopped */
	claim_check("unmap", iommu_unmap(&iommu, DOMAIN, BASE, BASE + FRAME - 1), VIRTIO_IOMMU_S_IOERR);
	check_ram("memory");
	for (uint64_t iova = BASE; iova < BASE + FRAME; iova += PAGE)
		claim_check("where it was mapped", simedu_copy(&edu, iova, 0, 8, SIM_EDU_TO_MEMORY),
			    SIM_EDU_REFUSED_AT);
	claim_check("where it is mapped", simedu_copy(&edu, OTHER, 0, 8, SIM_EDU_TO_MEMORY), SIM_EDU_REFUSED_AT);
	claim_check("where it may read", simedu_copy(&edu, OTHER + 0x100000, 0, 8, 0), SIM_EDU_REFUSED_AT);
	check_ram("memory after more DMA");
	claim_check("the guest is told", iommu_event(&iommu, EVENT_US, &fault), true);
	claim_check("of whom", fault.endpoint, edu.rid);
	/* no request of the guest's brings it back */
	(void)iommu_detach(&iommu, DOMAIN, edu.rid);
	(void)iommu_attach(&iommu, DOMAIN2, edu.rid, 0);
	(void)iommu_map(&iommu, DOMAIN2, BASE, BASE + FRAME - 1, gpa_of(ram[24]), RW);
	claim_check("in a new domain", simedu_copy(&edu, BASE, 0, 8, SIM_EDU_TO_MEMORY), SIM_EDU_REFUSED_AT);
	vdev_reset(&iommu.dev);
	check_ram("memory after a reset");
	claim_end();

	claim_begin("other_devices_work_on");
	claim_check("the virtio-iommu starts", iommu_start(&iommu, IOMMU_FEATURES) == NULL, true);
	fill_words(gpa_of(ram), gpa_of(ram) + sizeof(ram), SECRET);
	simedu_write64(&hostile, SIM_EDU_SECRET, SECRET);
	simedu_write64(&hostile, SIM_EDU_PATTERN, PATTERN);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, hostile.rid, 0), OK);
	map(ARENA, 40, 4, RW);
	provoke(ARENA, ARENA + FRAME - 1, 3000, NULL);
	claim_check("secrets seen", simedu_read64(&hostile, SIM_EDU_SEEN) > 0, true);
	unmap(ARENA, 4);
	claim_check("what it wrote", pages_are(40, 4, PATTERN, SECRET), true);
	claim_check("that it wrote", pages_are(40, 4, SECRET, SECRET), false);
	claim_end();
}

void payload(void)
{
	if (dtb_read(boot_dtb, &machine)) {
		print("FAIL simedu: the device tree cannot be read\n");
		return;
	}
	locked = dtb_parameter(&machine, "locked", 0);
	kind = (unsigned)dtb_parameter(&machine, "kind", 0);
	if (!simedu_find(0, &edu) || !simedu_find(1, &hostile)) {
		print("FAIL simedu: it needs two simulated edu devices\n");
		return;
	}
	if (dtb_parameter(&machine, "hung", 0)) {
		check_hung();
		vdev_reset(&iommu.dev);
		return;
	}
	gic_init();
	check_hostility();
	check_registers();
	check_mapped();
	check_refused();
	check_rights();
	check_gone();
	check_firmware();
	check_intx();
	check_msix();
	check_hostile();
	vdev_reset(&iommu.dev);
}
