/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine - everything that is not passed through: vCPUs, timer, RTC, UART, disks, rng, console, and
 * accesses no driver would make.
 *
 * The command line says what the machine should have: cpus=N memory=MIB. Without cpus=, claims about
 * it are checked as far as possible. The first disk is writable and starts with DISK_MAGIC, the
 * second one is read-only.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "gic.h"
#include "pci.h"
#include "virtio.h"
#include "lib/string.h"

#define NR(array) (sizeof(array) / sizeof((array)[0]))
#define SECTOR 512u
#define WAIT_US 2000000

#define DISK_MAGIC   "granule test disk" /* what the scenario puts at its start */
#define DISK_WRITTEN "written by the guest" /* what the scenario looks for afterwards */
#define WRITTEN_AT   8 /* sector */

#define TIMER_PPI 27 /* INTID of the virtual timer */

static struct machine machine;

/* ---- device tree, vCPUs ---------------------------------------------------------------------- */

static void check_device_tree(void)
{
	uint64_t ram;

	claim_begin("device_tree_describes_the_machine");
	claim_check("it can be read", (uint64_t)dtb_read(boot_dtb, &machine), 0);
	ram = machine.ram_len + machine.ram_high_len;
	claim_check("cpus", machine.nr_cpus, dtb_parameter(&machine, "cpus", machine.nr_cpus));
	claim_check("memory in MiB", ram >> 20, dtb_parameter(&machine, "memory", ram >> 20));
	claim_check("we run in RAM", (uint64_t)(uintptr_t)&machine - machine.ram_base < machine.ram_len, true);
	claim_check("vCPU 0 is us", machine.mpidr[0], read_sysreg("mpidr_el1") & 0xff00ffffffull);
	claim_end();
}

static volatile uint64_t seen_mpidr[DTB_MAX_CPUS];
static volatile unsigned nr_seen;

static void say_hello(void *arg)
{
	seen_mpidr[(uintptr_t)arg] = read_sysreg("mpidr_el1") & 0xff00ffffffull;
	__atomic_fetch_add(&nr_seen, 1, __ATOMIC_SEQ_CST);
}

static bool wait_seen(unsigned nr)
{
	uint64_t end = now_us() + WAIT_US;

	while (nr_seen < nr && now_us() < end)
		;
	return nr_seen == nr;
}

/* AFFINITY_INFO becomes 1 (off) a moment after the vCPU asked for it. */
static bool wait_off(uint64_t mpidr)
{
	uint64_t end = now_us() + WAIT_US;

	while (now_us() < end) {
		if (psci(PSCI_AFFINITY_INFO, mpidr, 0, 0) == 1)
			return true;
	}
	return false;
}

static void check_psci(void)
{
	claim_begin("psci_starts_every_vcpu_and_again");
	claim_check("version 1.0 or later", psci(PSCI_VERSION, 0, 0, 0) >= 0x10000, true);
	for (unsigned round = 0; round < 2; round++) {
		nr_seen = 0;
		for (unsigned i = 1; i < machine.nr_cpus; i++) {
			claim_check_at("off before", i,
				       (uint64_t)psci(PSCI_AFFINITY_INFO, machine.mpidr[i], 0, 0), 1);
			claim_check_at("CPU_ON", i,
				       (uint64_t)cpu_start(i, machine.mpidr[i], say_hello,
							   (void *)(uintptr_t)i),
				       PSCI_SUCCESS);
		}
		claim_check_at("vCPUs came up, round", round, wait_seen(machine.nr_cpus - 1), true);
		for (unsigned i = 1; i < machine.nr_cpus; i++) {
			claim_check_at("mpidr as in the device tree", i, seen_mpidr[i], machine.mpidr[i]);
			claim_check_at("off after", i, wait_off(machine.mpidr[i]), true);
		}
	}
	claim_end();

	claim_begin("psci_refuses_what_is_wrong");
	claim_check("a vCPU that does not exist",
		    (uint64_t)psci(PSCI_CPU_ON, 0x7f00, 0x40000000, 0), (uint64_t)PSCI_INVALID);
	claim_check("one that is on", (uint64_t)psci(PSCI_CPU_ON, machine.mpidr[0], 0x40000000, 0),
		    (uint64_t)PSCI_ALREADY_ON);
	claim_check("an unknown function", (uint64_t)psci(0x840000ff, 0, 0, 0), (uint64_t)-1);
	claim_end();
}

/* ---- timer, clock, UART ---------------------------------------------------------------------- */

static void check_timer(void)
{
	uint64_t hz = read_sysreg("cntfrq_el0"), start;
	unsigned intid;

	claim_begin("timer_interrupts_when_it_should");
	gic_enable(TIMER_PPI);
	for (unsigned ms = 1; ms <= 100; ms *= 10) {
		start = now_us();
		write_sysreg("cntv_cval_el0", read_sysreg("cntvct_el0") + hz / 1000 * ms);
		write_sysreg("cntv_ctl_el0", 1);
		/* asleep until then: an interrupt that is masked still wakes */
		__asm__ volatile("wfi" : : : "memory");
		while ((intid = gic_ack()) != TIMER_PPI && now_us() < start + WAIT_US)
			;
		claim_check_at("interrupt after ms", ms, intid, TIMER_PPI);
		/* its line is level-triggered: lower it first */
		write_sysreg("cntv_ctl_el0", 0);
		gic_eoi(intid);
		claim_check_at("not before ms", ms, now_us() - start >= ms * 1000ull, true);
	}
	gic_disable(TIMER_PPI);
	claim_end();
}

static void check_rtc(void)
{
	uint32_t first = mmio_read32(BOARD_RTC);
	uint64_t start = now_us(), end = start + 2 * WAIT_US;

	claim_begin("rtc_tells_a_sane_time");
	claim_check("after 2025-01-01", first >= 1735689600u, true);
	claim_check("before 2100-01-01", first < 4102444800u, true);
	while (mmio_read32(BOARD_RTC) == first && now_us() < end)
		delay_us(1000);
	claim_check("a second later", mmio_read32(BOARD_RTC) - first, 1);
	claim_check("that was at most a second", now_us() - start < 1100000, true);
	claim_end();
}

#ifndef BOARD_QEMU /* whose UART is a PL011 */
#define UART_IER     1
#define UART_LCR     3
#define UART_MCR     4
#define UART_LSR     5
#define UART_SCRATCH 7

static void check_uart(void)
{
	unsigned irq = GIC_SPI(LAYOUT_SPI_UART);

	claim_begin("uart_is_a_16550");
	claim_check("transmitter empty", mmio_read8(BOARD_UART + UART_LSR) & 0x60, 0x60);
	mmio_write8(BOARD_UART + UART_SCRATCH, 0x5a);
	claim_check("scratch register", mmio_read8(BOARD_UART + UART_SCRATCH), 0x5a);
	abort_expected = true;
	claim_check("the same, not aligned", mmio_read(BOARD_UART + UART_SCRATCH, 4), 0x5a);
	abort_expected = false;
	gic_enable(irq);
	mmio_write8(BOARD_UART + UART_IER, 2);
	claim_check("interrupt when it can send", gic_wait(irq, WAIT_US), true);
	mmio_write8(BOARD_UART + UART_IER, 0);
	gic_disable(irq);
	claim_end();
}

static void check_nowhere(void)
{
	claim_begin("reads_where_nothing_is_are_all_ones");
	claim_check("8 bit", mmio_read(BOARD_NOWHERE, 1), 0xff);
	claim_check("16 bit", mmio_read(BOARD_NOWHERE, 2), 0xffff);
	claim_check("32 bit", mmio_read(BOARD_NOWHERE, 4), 0xffffffff);
	claim_check("64 bit", mmio_read(BOARD_NOWHERE, 8), UINT64_MAX);
	claim_check("no function at 00:1f.7", mmio_read32(pci_config(0xff, 0)), 0xffffffff);
	mmio_write(BOARD_NOWHERE, 8, 0);
	claim_end();

	/* no syndrome: whatever this becomes, neither machine nor VMM may end */
	claim_begin("access_that_cannot_be_decoded_is_an_abort");
	abort_expected = true;
	aborts = 0;
	__asm__ volatile("ldp x0, x1, [%0]" : : "r"(BOARD_UART) : "x0", "x1", "memory");
	__asm__ volatile("mov x2, %0\n\tldr x0, [x2], #8" : : "r"(BOARD_VIRTIO) : "x0", "x2", "memory");
	abort_expected = false;
	claim_check("aborts", aborts, 2);
	claim_end();
}
#endif

/* ---- virtio-blk ------------------------------------------------------------------------------ */

#define NO_ANSWER 0x100

static uint8_t data[64 * 1024] __attribute__((aligned(4096))), copy[64 * 1024];

static unsigned blk(struct vdev *dev, uint32_t type, uint64_t sector, void *buf, uint32_t len)
{
	struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};
	uint8_t status = 0xee;
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct seg segs[3] = {{.at = &hdr, .len = sizeof(hdr)}};
	unsigned n = 1;

	if (len)
		segs[n++] = (struct seg){.at = buf, .len = len, .write = in};
	segs[n++] = (struct seg){.at = &status, .len = 1, .write = true};
	return vq_request(dev, 0, segs, n) < 0 ? NO_ANSWER : status;
}

static void check_blk(void)
{
	struct virtio_blk_discard_write_zeroes range = {.sector = 64, .num_sectors = 64};
	static const uint32_t lengths[] = {512, 1024, 4096, 4096 + 512, 65536};
	uint64_t features, capacity;
	struct vdev dev;
	uint8_t id[20];

	claim_begin("disk_reads_what_the_host_put_there");
	if (!claim_check("there is a disk", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true)) {
		claim_end();
		return;
	}
	features = vdev_features(&dev);
	claim_check("it starts", vdev_start(&dev, features & (1ull << VIRTIO_BLK_F_FLUSH |
							      1ull << VIRTIO_BLK_F_DISCARD |
							      1ull << VIRTIO_BLK_F_WRITE_ZEROES), 1) == NULL,
		    true);
	capacity = vdev_config(&dev, 0, 8);
	claim_check("capacity", capacity >= 2048, true);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("contents", (uint64_t)memcmp(data, DISK_MAGIC, sizeof(DISK_MAGIC) - 1), 0);
	claim_end();

	claim_begin("disk_keeps_what_is_written");
	for (unsigned i = 0; i < NR(lengths); i++) {
		uint64_t sector = i % 2 ? capacity - lengths[i] / SECTOR : 1024;

		for (unsigned j = 0; j < lengths[i]; j++)
			data[j] = (uint8_t)(j * 7 + j / 256 + i);
		memcpy(copy, data, lengths[i]);
		claim_check_at("write", i, blk(&dev, VIRTIO_BLK_T_OUT, sector, data, lengths[i]),
			       VIRTIO_BLK_S_OK);
		memset(data, 0, lengths[i]);
		claim_check_at("read", i, blk(&dev, VIRTIO_BLK_T_IN, sector, data, lengths[i]),
			       VIRTIO_BLK_S_OK);
		claim_check_at("contents", i, (uint64_t)memcmp(data, copy, lengths[i]), 0);
	}
	memset(data, 0, SECTOR);
	memcpy(data, DISK_WRITTEN, sizeof(DISK_WRITTEN));
	claim_check("write for the host to find", blk(&dev, VIRTIO_BLK_T_OUT, WRITTEN_AT, data, SECTOR),
		    VIRTIO_BLK_S_OK);
	claim_end();

	claim_begin("disk_flushes_and_discards");
	claim_check("FLUSH is offered", features >> VIRTIO_BLK_F_FLUSH & 1, 1);
	claim_check("flush", blk(&dev, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	claim_check("DISCARD is offered", features >> VIRTIO_BLK_F_DISCARD & 1, 1);
	claim_check("discard", blk(&dev, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range)), VIRTIO_BLK_S_OK);
	range.sector = capacity;
	claim_check("discard past the end",
		    blk(&dev, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range)), VIRTIO_BLK_S_IOERR);
	range.sector = UINT64_MAX - 3;
	claim_check("discard that wraps", blk(&dev, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range)),
		    VIRTIO_BLK_S_IOERR);
	claim_end();

	claim_begin("disk_refuses_what_is_wrong_and_goes_on");
	claim_check("read past the end", blk(&dev, VIRTIO_BLK_T_IN, capacity, data, SECTOR),
		    VIRTIO_BLK_S_IOERR);
	claim_check("read across the end", blk(&dev, VIRTIO_BLK_T_IN, capacity - 1, data, 2 * SECTOR),
		    VIRTIO_BLK_S_IOERR);
	claim_check("read that wraps", blk(&dev, VIRTIO_BLK_T_IN, UINT64_MAX, data, 2 * SECTOR),
		    VIRTIO_BLK_S_IOERR);
	claim_check("write past the end", blk(&dev, VIRTIO_BLK_T_OUT, capacity, data, SECTOR),
		    VIRTIO_BLK_S_IOERR);
	claim_check("half a sector", blk(&dev, VIRTIO_BLK_T_IN, 0, data, 100), VIRTIO_BLK_S_IOERR);
	claim_check("unknown request", blk(&dev, 99, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	claim_check("id", blk(&dev, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), VIRTIO_BLK_S_OK);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("contents", (uint64_t)memcmp(data, DISK_MAGIC, sizeof(DISK_MAGIC) - 1), 0);
	claim_end();
}

static void check_blk_interrupt(void)
{
	struct vdev dev;
	unsigned irq;

	claim_begin("disk_interrupts");
	if (!claim_check("there is a disk", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true)) {
		claim_end();
		return;
	}
	irq = GIC_SPI(BOARD_SPI_VIRTIO + dev.slot);
	claim_check("it starts", vdev_start(&dev, 0, 1) == NULL, true);
	gic_enable(irq);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("interrupt", gic_wait(irq, WAIT_US), true);
	claim_check("cause", vdev_reg(&dev, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	vdev_set_reg(&dev, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	claim_check("acknowledged", vdev_reg(&dev, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	gic_wait(irq, 1000);
	claim_check("and quiet", gic_wait(irq, 20000), false);
	gic_disable(irq);
	claim_end();
}

static void check_blk_readonly(void)
{
	struct vdev dev;
	uint64_t features;

	claim_begin("read_only_disk_is_never_written");
	if (!claim_check("there is a second disk", vdev_find(VIRTIO_ID_BLOCK, 1, &dev), true)) {
		claim_end();
		return;
	}
	features = vdev_features(&dev);
	claim_check("RO is offered", features >> VIRTIO_BLK_F_RO & 1, 1);
	/* and the driver ignores it */
	claim_check("it starts", vdev_start(&dev, 0, 1) == NULL, true);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	memcpy(copy, data, SECTOR);
	memset(data, 0x77, SECTOR);
	claim_check("write", blk(&dev, VIRTIO_BLK_T_OUT, 0, data, SECTOR), VIRTIO_BLK_S_IOERR);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("contents", (uint64_t)memcmp(data, copy, SECTOR), 0);
	claim_end();
}

/* ---- virtio-rng ------------------------------------------------------------------------------ */

static void check_rng(void)
{
	struct vdev dev;
	struct seg seg = {.at = data, .len = 64, .write = true};
	unsigned zeros = 0;

	claim_begin("rng_gives_bytes");
	if (!claim_check("there is one", vdev_find(VIRTIO_ID_RNG, 0, &dev), true)) {
		claim_end();
		return;
	}
	claim_check("it starts", vdev_start(&dev, 0, 1) == NULL, true);
	memset(data, 0, 64);
	claim_check("used.len", (uint64_t)vq_request(&dev, 0, &seg, 1), 64);
	memcpy(copy, data, 64);
	claim_check("used.len again", (uint64_t)vq_request(&dev, 0, &seg, 1), 64);
	claim_check("not the same twice", memcmp(data, copy, 64) != 0, true);
	for (unsigned i = 0; i < 64; i++)
		zeros += !data[i];
	claim_check("not zeros", zeros < 16, true);
	claim_end();
}

/* ---- virtio-console -------------------------------------------------------------------------- */

#define CONSOLE_TX 1 /* queue of port 0 */

static void check_console(void)
{
	static char text[] = "printed through virtio-console\n"; /* the scenario looks for it */
	struct seg seg = {.at = text, .len = sizeof(text) - 1};
	struct vdev dev;

	claim_begin("virtio_console_takes_output");
	if (!claim_check("there is one", vdev_find(VIRTIO_ID_CONSOLE, 0, &dev), true)) {
		claim_end();
		return;
	}
	claim_check("it starts", vdev_start(&dev, 0, 2) == NULL, true);
	claim_check("used.len", (uint64_t)vq_request(&dev, CONSOLE_TX, &seg, 1), 0);
	vdev_reset(&dev);
	claim_end();
}

/* ---- accesses of no driver ------------------------------------------------------------------- */

#define POKE_ALL  0x200 /* so far every byte of a page is accessed, */
#define POKE_STEP 61	/* behind that every 61st: at all alignments too */

/* Accesses of every size at every alignment, to a page of a device's. */
static void poke(uint64_t base, unsigned len, bool write)
{
	for (unsigned off = 0; off < len; off += off < POKE_ALL ? 1 : POKE_STEP) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			uint64_t val = (off + 1) * 0x9e3779b97f4a7c15ull;

			if (base == BOARD_UART && !off)
				val = '\n'; /* it is sent */
			mmio_read(base + off, size);
			if (write)
				mmio_write(base + off, size, val);
		}
	}
}

#ifdef BOARD_QEMU
#define POKE_UART false /* a PL011, whose first register is not the only one that matters */
#else
#define POKE_UART true
#endif

static void check_pokes(void)
{
	static const struct {
		uint32_t id;
		unsigned nr;
	} kinds[] = {{VIRTIO_ID_BLOCK, 2}, {VIRTIO_ID_RNG, 1}, {VIRTIO_ID_CONSOLE, 1}};
	unsigned nr[64] = {0}, functions = 0;
	struct vdev dev;

	claim_begin("accesses_of_every_size_to_every_register_are_survived");
	abort_expected = true;
	aborts = 0;
	for (unsigned i = 0; i < BOARD_VIRTIO_SLOTS; i++) {
		uint32_t id;

		dev.base = BOARD_VIRTIO + i * BOARD_VIRTIO_STRIDE;
		id = vdev_reg(&dev, VIRTIO_MMIO_DEVICE_ID);
		/* nothing, or a slot without a device */
		if (id + 1 <= 1)
			continue;
		vdev_reset(&dev); /* its rings tell of stacks that are gone */
		poke(dev.base, BOARD_VIRTIO_STRIDE < 0x1000 ? 0x140 : 0x1000, true);
		vdev_reset(&dev);
		nr[id % NR(nr)] += vdev_reg(&dev, VIRTIO_MMIO_DEVICE_ID) == id;
	}
	for (unsigned i = 0; i < NR(kinds); i++)
		claim_check_at("virtio devices of a kind", kinds[i].id, nr[kinds[i].id],
			       kinds[i].nr);
	poke(BOARD_UART, 0x1000, POKE_UART);
#ifndef BOARD_QEMU
	mmio_write8(BOARD_UART + UART_LCR, 3);
	mmio_write8(BOARD_UART + UART_MCR, 0);
	mmio_write8(BOARD_UART + UART_IER, 0);
	claim_check("the UART", mmio_read8(BOARD_UART + UART_LSR) & 0x60, 0x60);
#endif
	poke(BOARD_RTC, 0x1000, true);
	claim_check("the clock", mmio_read32(BOARD_RTC + 0xfe0) & 0xff, 0x31);
	for (uint32_t rid = 0; rid < 256; rid++) {
		uint32_t who = mmio_read32(pci_config(rid, PCI_VENDOR_ID));

		if ((uint16_t)who == 0xffff)
			continue;
		if (mmio_read16(pci_config(rid, PCI_CLASS_DEVICE)) != 0x0600) {
			uint64_t bar = pci_enable(rid);

			/* DMA to anywhere is not for here */
			mmio_write16(pci_config(rid, PCI_COMMAND), PCI_COMMAND_MEMORY);
			poke(bar, 0x1000, true);
			functions++;
		}
		poke(pci_config(rid, 0), 0x1000, true);
		claim_check_at("a function", rid, mmio_read32(pci_config(rid, PCI_VENDOR_ID)), who);
	}
	claim_check("PCI functions", functions, dtb_parameter(&machine, "functions", functions));
	poke(pci_config(0xf8, 0), 0x40, true); /* a function that is not there */
	abort_expected = false;
#ifndef BOARD_QEMU
	claim_check("aborts: accesses that were not looked at", aborts, 0);
#endif
	claim_check("a disk is found", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true);
	claim_check("it starts", vdev_start(&dev, 0, 1) == NULL, true);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("contents", (uint64_t)memcmp(data, DISK_MAGIC, sizeof(DISK_MAGIC) - 1), 0);
	claim_end();
}

static void spoil_data(struct vq *vq, unsigned row)
{
	switch (row) {
	case 0:
		vq->desc[1].addr = BOARD_NOWHERE;
		break;
	case 1:
		vq->desc[1].addr = UINT64_MAX - 100;
		break;
	case 2:
		vq->desc[1].len = UINT32_MAX - 511;
		break;
	case 3:
		vq->desc[2].len = 0;
		break;
	case 4:
		vq->desc[1].flags &= (uint16_t)~VRING_DESC_F_NEXT; /* no status byte */
		break;
	case 5:
		vq->desc[0].flags = 0; /* a header and nothing else */
		break;
	case 6:
		vq->desc[0].len = 7;
		break;
	case 7:
		vq->desc[2].next = 0;
		vq->desc[2].flags |= VRING_DESC_F_NEXT;
		break;
	case 8:
		vq->desc[0].addr = BOARD_GICD;
		break;
	case 9:
		vq->desc[2].addr = machine.ram_base + machine.ram_len;
		break;
	default:
		vq->avail->ring[0] = 0xffff;
		break;
	}
}

static void check_blk_spoiled(void)
{
	struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_IN};
	uint8_t status;
	struct seg segs[3] = {
		{.at = &hdr, .len = sizeof(hdr)},
		{.at = data, .len = 4096, .write = true},
		{.at = &status, .len = 1, .write = true},
	};
	struct vdev dev;

	claim_begin("spoiled_disk_requests_are_survived");
	if (!claim_check("there is a disk", vdev_find(VIRTIO_ID_BLOCK, 0, &dev), true)) {
		claim_end();
		return;
	}
	for (unsigned i = 0; i < 11; i++) {
		claim_check_at("it starts", i, vdev_start(&dev, 0, 1) == NULL, true);
		vq_add(&dev.vq[0], segs, 3);
		spoil_data(&dev.vq[0], i);
		vq_kick(&dev, &dev.vq[0]);
		delay_us(2000);
		/* also with requests in flight: a reset right behind the kick */
		claim_check_at("it starts", i, vdev_start(&dev, 0, 1) == NULL, true);
		vq_add(&dev.vq[0], segs, 3);
		vq_kick(&dev, &dev.vq[0]);
	}
	claim_check("it starts", vdev_start(&dev, 0, 1) == NULL, true);
	claim_check("read", blk(&dev, VIRTIO_BLK_T_IN, 0, data, SECTOR), VIRTIO_BLK_S_OK);
	claim_check("contents", (uint64_t)memcmp(data, DISK_MAGIC, sizeof(DISK_MAGIC) - 1), 0);
	vdev_reset(&dev);
	claim_end();
}

void payload(void)
{
	check_device_tree();
	gic_init();
	check_psci();
	check_timer();
	check_rtc();
#ifndef BOARD_QEMU
	check_uart();
	check_nowhere();
#endif
	check_blk();
	check_blk_interrupt();
	check_blk_readonly();
	check_rng();
	check_console();
	check_blk_spoiled();
	check_pokes();
}
