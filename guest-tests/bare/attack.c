/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attack - a hostile guest: every vCPU does everything a guest can do to every device, at once, for
 * a while; then all must be as if nothing had been.
 *
 * Time is cut into slices. In one the virtio-iommu is a target like the rest. In the next vCPU 0
 * uses it as a driver should, with devices under attack in a domain of pages that lie between
 * canaries, and judges a tame device. A disk that nobody attacks is judged all the time. The last
 * vCPU comes and goes.
 *
 * Parameters: seed=, seconds= of attack, bypass=1: the bypass byte and bypass domains are used too
 * (not with a hostile device: its accesses go anywhere, and would then hit us), owned=1: the last
 * simulated edu is behind a DART of the guest's, nvme=1: there is a simulated NVMe. The first
 * simulated edu is the tame one, the last disk too; the first disk starts with DISK_MAGIC.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "attack.h"
#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "gic.h"
#include "iommu.h"
#include "nvme.h"
#include "pci.h"
#include "simedu.h"
#include "virtio.h"
#include "lib/string.h"

#define NR(array)  (sizeof(array) / sizeof((array)[0]))
#define OK	   VIRTIO_IOMMU_S_OK
#define SECTOR	   512u
#define DISK_MAGIC "granule test disk"

#define SLICE_US 5000000ull

/* Domains and IOVAs of the slices in which the virtio-iommu is not attacked. */
#define TAME_DOMAIN  7
#define BOARD_DOMAIN 8
#define TAME_IOVA    0x0a000000ull
#define BOARD_IOVA   0x20000000ull

#define MAX_VCPUS DTB_MAX_CPUS

static struct machine machine;
static struct iommu iommu;
static struct simedu tame;
static struct vdev tame_disk;
static uint64_t tame_sectors;

/* ---- attacks ---- */

static const struct attack {
	const char *name;
	bool (*fn)(struct dice *dice);
	unsigned weight;
} attacks[] = {
	{"queues", attack_queue, 8},
	{"rings", attack_rings, 6},
	{"restarts", attack_restart, 3},
	{"registers", attack_registers, 3},
	{"undecodable", attack_undecodable, 1},
	{"config", attack_config, 2},
	{"bars", attack_bars, 2},
	{"msix", attack_msix, 3},
	{"dma", attack_dma, 3},
	{"nvme", attack_nvme, 2},
	{"psci", attack_psci, 1},
};

struct vcpu {
	struct dice dice;
	volatile bool paused; /* it has seen that it should be */
	volatile uint64_t done;
	uint64_t counts[NR(attacks)]; /* of each kind */
} __attribute__((aligned(64)));

static struct vcpu vcpus[MAX_VCPUS];
static volatile bool pause_all = true, stop_all;
static volatile uint64_t longest[NR(attacks)], spent[NR(attacks)];

static bool has_target(unsigned kind)
{
	return attacks[kind].fn != attack_nvme || targets.nvme;
}

/* Every now and then the first kind that the vCPU has not made yet; else one by its weight. */
static unsigned next_attack(struct vcpu *self)
{
	unsigned total = 0, n, i = 0;

	if (one_in(&self->dice, 2)) {
		while (i < NR(attacks) && (self->counts[i] || !has_target(i)))
			i++;
		if (i < NR(attacks))
			return i;
	}
	for (i = 0; i < NR(attacks); i++)
		total += attacks[i].weight;
	n = below(&self->dice, total);
	for (i = 0; n >= attacks[i].weight; i++)
		n -= attacks[i].weight;
	return i;
}

static void attack_once(struct vcpu *self)
{
	unsigned i = next_attack(self);
	uint64_t start = now_us();

	self->counts[i] += attacks[i].fn(&self->dice);
	self->done++;
	start = now_us() - start;
	__atomic_fetch_add(&spent[i], start, __ATOMIC_RELAXED);
	if (start > longest[i])
		longest[i] = start;
}

static void run_attacks(void *arg)
{
	struct vcpu *self = arg;

	while (!stop_all) {
		if (pause_all) {
			self->paused = true;
			continue;
		}
		self->paused = false;
		attack_once(self);
	}
	self->paused = true;
}

/* The last vCPU turns itself off after a while; vCPU 0 turns it on again. */
static void come_and_go(void *arg)
{
	struct vcpu *self = arg;

	self->paused = false;
	for (unsigned n = below(&self->dice, 64); n && !pause_all; n--)
		attack_once(self);
	self->paused = true;
}

static bool last_is_off(void)
{
	return psci(PSCI_AFFINITY_INFO, machine.mpidr[machine.nr_cpus - 1], 0, 0) == 1;
}

static void revive_last(void)
{
	unsigned last = machine.nr_cpus - 1;

	if (last && last_is_off())
		cpu_start(last, machine.mpidr[last], come_and_go, &vcpus[last]);
}

static void pause_attacks(void)
{
	pause_all = true;
	barrier();
	for (unsigned i = 1; i + 1 < machine.nr_cpus; i++)
		while (!vcpus[i].paused)
			;
	while (!last_is_off())
		;
}

static void resume_attacks(void)
{
	for (unsigned i = 1; i + 1 < machine.nr_cpus; i++)
		vcpus[i].paused = false;
	barrier();
	pause_all = false;
}

/* ---- what must be right all the time ---- */

static uint8_t sectors[16 * SECTOR] __attribute__((aligned(4096))), copy[sizeof(sectors)];
static uint8_t pages[4][ARENA_PAGE] __attribute__((aligned(0x4000)));
static uint8_t image[4][ARENA_PAGE];

#define NO_ANSWER 0x100

static unsigned blk(struct vdev *dev, uint32_t type, uint64_t sector, void *buf, uint32_t len)
{
	struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};
	uint8_t status = 0xee;
	struct seg segs[3] = {
		{.at = &hdr, .len = sizeof(hdr)},
		{.at = buf, .len = len, .write = type == VIRTIO_BLK_T_IN},
		{.at = &status, .len = 1, .write = true},
	};

	return vq_request(dev, 0, segs, 3) < 0 ? NO_ANSWER : status;
}

static void check_disk(struct dice *dice)
{
	uint64_t at = below(dice, (uint32_t)tame_sectors - 16);
	uint32_t len = (1 + below(dice, 16)) * SECTOR;

	for (uint32_t i = 0; i < len; i++)
		sectors[i] = copy[i] = (uint8_t)roll(dice);
	claim_check("write", blk(&tame_disk, VIRTIO_BLK_T_OUT, at, sectors, len), VIRTIO_BLK_S_OK);
	memset(sectors, 0, len);
	claim_check("read", blk(&tame_disk, VIRTIO_BLK_T_IN, at, sectors, len), VIRTIO_BLK_S_OK);
	claim_check("what was read", (uint64_t)memcmp(sectors, copy, len), 0);
}

/* The tame device in its domain: it reads and writes what is mapped, to the byte, and nothing
 * beside it. */
static void check_tame(struct dice *dice)
{
	unsigned page = below(dice, 4), off = below(dice, ARENA_PAGE / 8 - 1) * 8;
	unsigned len = 8 + below(dice, (ARENA_PAGE - off) / 8) * 8;
	uint64_t iova = TAME_IOVA + below(dice, 64) * (uint64_t)ARENA_PAGE;

	for (unsigned i = 0; i < sizeof(pages); i++)
		pages[i / ARENA_PAGE][i % ARENA_PAGE] = image[i / ARENA_PAGE][i % ARENA_PAGE] =
			(uint8_t)roll(dice);
	claim_check("map",
		    iommu_map(&iommu, TAME_DOMAIN, iova, iova + ARENA_PAGE - 1,
			      (uint64_t)pages[page], IOMMU_RW),
		    OK);
	for (unsigned i = 0; i < len; i++)
		image[page][off + i] = copy[i] = (uint8_t)roll(dice);
	simedu_put(&tame, 0, copy, len);
	claim_check("the device writes", simedu_copy(&tame, iova + off, 0, len, SIM_EDU_TO_MEMORY),
		    SIM_EDU_DONE);
	/* Beyond the page, and when it has gone, a write is refused or to a bounce page: it reaches
	 * nobody. */
	simedu_copy(&tame, iova + ARENA_PAGE, 0, 64, SIM_EDU_TO_MEMORY);
	claim_check("unmap", iommu_unmap(&iommu, TAME_DOMAIN, iova, iova + ARENA_PAGE - 1), OK);
	simedu_copy(&tame, iova, 0, 64, SIM_EDU_TO_MEMORY);
	for (unsigned i = 0; i < 4; i++)
		claim_check_at("page", i, (uint64_t)memcmp(pages[i], image[i], ARENA_PAGE), 0);
}

static void start_tame(struct dice *dice)
{
	const char *error = iommu_start(&iommu, IOMMU_FEATURES);

	(void)dice;
	if (error)
		print("note: %s\n", error);
	claim_check("the virtio-iommu starts", error == NULL, true);
	mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG +
			    offsetof(struct virtio_iommu_config, bypass),
		    0);
	claim_check("the tame device is attached", iommu_attach(&iommu, TAME_DOMAIN, tame.rid, 0),
		    OK);
}

/*
 * A page of the board comes or goes at an IOVA, and a device under attack is told to write there
 * and around it: into what is mapped, and never into the pages beside it.
 */
static void change_board(struct dice *dice)
{
	const struct attack_pci *pci = &targets.pci[below(dice, targets.nr_pci)];
	unsigned page = below(dice, arena.board_pages / 2) * 2;
	uint64_t iova = BOARD_IOVA + below(dice, 256) * (uint64_t)ARENA_PAGE;

	if (one_in(dice, 3))
		iommu_unmap(&iommu, BOARD_DOMAIN, iova,
			    iova + below(dice, 16) * (uint64_t)ARENA_PAGE - 1);
	else
		iommu_map(&iommu, BOARD_DOMAIN, iova, iova + ARENA_PAGE - 1,
			  arena.board + page * ARENA_PAGE, 1 + below(dice, 3));
	if (!pci->masters)
		return;
	mmio_write64(pci->bar + SIM_EDU_DMA_IOVA, iova + (one_in(dice, 2) ? ARENA_PAGE : 0));
	mmio_write32(pci->bar + SIM_EDU_DMA_OFFSET, below(dice, 0x100) * 8);
	mmio_write32(pci->bar + SIM_EDU_DMA_LEN, 4 * ARENA_PAGE);
	mmio_write32(pci->bar + SIM_EDU_DMA_CMD, SIM_EDU_RUN | SIM_EDU_TO_MEMORY);
}

/* ---- the attack ---- */

static const char *const names[] = {
	"tame_disk_is_right_under_attack",
	"tame_device_is_right_beside_devices_under_attack",
	"memory_that_nothing_maps_is_unchanged",
};

/* Claims that are judged again and again, till one fails. */
static struct {
	unsigned good;
	bool bad;
} judged[NR(names)];

static void judge(unsigned which, void (*check)(struct dice *dice), struct dice *dice)
{
	if (judged[which].bad)
		return;
	claim_begin(names[which]);
	check(dice);
	judged[which].good++;
	judged[which].bad = !claim_holds();
}

static void check_canaries(struct dice *dice)
{
	(void)dice;
	claim_check("address of a canary that changed", arena_intact(), 0);
}

static void run_slice(unsigned n, uint64_t end)
{
	struct dice *dice = &vcpus[0].dice;
	bool driven = n % 2;

	targets.viommu = !driven;
	if (driven) {
		judge(1, start_tame, dice);
		for (unsigned i = 0; i < targets.nr_pci; i++)
			iommu_attach(&iommu, BOARD_DOMAIN, targets.pci[i].rid, 0);
	}
	/* A hostile device takes most of a CPU: half of the time. */
	for (unsigned i = 0; i < targets.nr_pci; i++) {
		if (targets.pci[i].masters)
			mmio_write32(targets.pci[i].bar + SIM_EDU_PAUSE, n / 2 % 2);
	}
	resume_attacks();
	while (now_us() < end) {
		revive_last();
		judge(0, check_disk, dice);
		attack_uart(dice);
		for (unsigned i = 0; i < 8; i++) {
			if (driven)
				change_board(dice);
			else
				attack_once(&vcpus[0]);
		}
		if (driven)
			judge(1, check_tame, dice);
	}
	pause_attacks();
	if (driven) {
		iommu_unmap(&iommu, BOARD_DOMAIN, 0, UINT64_MAX);
		arena_board_fill(dice);
	}
	judge(2, check_canaries, dice);
}

/* ---- before and after ---- */

static void find_targets(bool owned)
{
	struct vdev dev;
	unsigned disks = 0, edus = 0;

	while (vdev_find(VIRTIO_ID_BLOCK, disks, &dev)) {
		tame_disk = dev;
		disks++;
	}
	for (unsigned i = 0; i < BOARD_VIRTIO_SLOTS; i++) {
		struct attack_vdev *v = &targets.vdev[targets.nr_vdevs];

		dev.base = BOARD_VIRTIO + i * BOARD_VIRTIO_STRIDE;
		*v = (struct attack_vdev){
			.base = dev.base, .slot = i, .id = vdev_reg(&dev, VIRTIO_MMIO_DEVICE_ID)};
		if (v->id + 1 <= 1 || v->base == tame_disk.base ||
		    targets.nr_vdevs == ATTACK_MAX_VDEVS - 1)
			continue;
		for (unsigned q = 0; q < 8; q++) {
			vdev_set_reg(&dev, VIRTIO_MMIO_QUEUE_SEL, q);
			v->nr_queues += vdev_reg(&dev, VIRTIO_MMIO_QUEUE_NUM_MAX) != 0;
		}
		targets.nr_vdevs++;
	}
	for (uint32_t rid = 0; rid < 256 && targets.nr_pci < ATTACK_MAX_PCI; rid++) {
		struct attack_pci *p = &targets.pci[targets.nr_pci];

		*p = (struct attack_pci){.rid = rid,
					 .vendor = mmio_read16(pci_config(rid, PCI_VENDOR_ID)),
					 .device = mmio_read16(pci_config(rid, PCI_DEVICE_ID))};
		/* the host bridge, the tame device */
		if (p->vendor == 0xffff || rid == tame.rid ||
		    mmio_read16(pci_config(rid, PCI_CLASS_DEVICE)) == 0x0600)
			continue;
		p->bar = pci_enable(rid);
		for (unsigned i = 0; i < NR(p->saved); i++)
			p->saved[i] = mmio_read32(pci_config(rid, i * 4));
		p->bar_len = (uint32_t)pci_bar_size(rid, 0);
		/* QEMU's edu ends its machine, our host, on many accesses that it does not like. */
		p->registers = !(p->vendor == 0x1234 && p->device == 0x11e8);
		p->masters = p->vendor == SIM_EDU_VENDOR && p->device == SIM_EDU_DEVICE;
		if (p->vendor == NVME_VENDOR && p->device == NVME_DEVICE)
			targets.nvme = p;
		edus += p->masters;
		targets.nr_pci++;
	}
	for (unsigned i = targets.nr_pci; owned && i-- > 0;) {
		if (!targets.pci[i].masters)
			continue;
		/* What its tables say is noise: it may not write. Its DART is attacked. */
		targets.pci[i].masters = targets.pci[i].registers = false;
		break;
	}
	print("note: %u disks, %u virtio devices and %u PCI functions to attack\n", disks,
	      targets.nr_vdevs, targets.nr_pci);
}

static void start_vcpus(void)
{
	for (unsigned i = 1; i + 1 < machine.nr_cpus; i++)
		cpu_start(i, machine.mpidr[i], run_attacks, &vcpus[i]);
	for (unsigned i = 1; i + 1 < machine.nr_cpus; i++)
		while (!vcpus[i].paused)
			;
}

static void check_virtio_again(void)
{
	static uint8_t bytes[64];
	struct seg seg = {.at = bytes, .len = sizeof(bytes), .write = true};
	struct vdev dev;

	claim_begin("every_virtio_device_works_again");
	for (unsigned i = 0; i < targets.nr_vdevs; i++) {
		const struct attack_vdev *v = &targets.vdev[i];

		if (!claim_check_at("it is there", i, vdev_find(v->id, 0, &dev), true))
			continue;
		dev.base = v->base;
		dev.slot = v->slot;
		if (v->id == VIRTIO_ID_IOMMU)
			continue;
		claim_check_at("it starts", i,
			       vdev_start(&dev, 0, v->nr_queues < 2 ? v->nr_queues : 2) == NULL,
			       true);
		if (v->id == VIRTIO_ID_BLOCK)
			claim_check_at("it reads", i,
				       blk(&dev, VIRTIO_BLK_T_IN, 0, sectors, SECTOR),
				       VIRTIO_BLK_S_OK);
		if (v->id == VIRTIO_ID_RNG)
			claim_check_at("it gives bytes", i, (uint64_t)vq_request(&dev, 0, &seg, 1),
				       sizeof(bytes));
		if (v->id == VIRTIO_ID_CONSOLE)
			claim_check_at("it prints", i,
				       (uint64_t)vq_request(&dev, 1,
							    &(struct seg){.at = "\n", .len = 1}, 1),
				       0);
		vdev_reset(&dev);
	}
	claim_end();
}

static void check_pci_again(void)
{
	struct dice *dice = &vcpus[0].dice;

	claim_begin("every_pci_function_works_again");
	for (unsigned i = 0; i < targets.nr_pci; i++)
		attack_pci_restore(&targets.pci[i]);
	start_tame(dice);
	for (unsigned i = 0; i < targets.nr_pci; i++) {
		const struct attack_pci *p = &targets.pci[i];
		struct simedu edu = {p->rid, p->bar};

		claim_check_at("it is who it was", i, mmio_read32(pci_config(p->rid, 0)),
			       p->saved[0]);
		for (unsigned bar = 0; bar < 6; bar++)
			claim_check_at(
				"a BAR", i * 16 + bar,
				mmio_read32(pci_config(p->rid, PCI_BASE_ADDRESS_0 + bar * 4)),
				p->saved[4 + bar]);
		if (!p->masters)
			continue;
		claim_check_at("attach", i, iommu_attach(&iommu, TAME_DOMAIN, p->rid, 0), OK);
		claim_check_at("map", i,
			       iommu_map(&iommu, TAME_DOMAIN, TAME_IOVA, TAME_IOVA + ARENA_PAGE - 1,
					 (uint64_t)pages[1], IOMMU_RW),
			       OK);
		claim_check_at("its registers", i, simedu_read(&edu, SIM_EDU_ID), SIM_EDU_ID_VALUE);
		claim_check_at("it masters", i, simedu_copy(&edu, TAME_IOVA, 0, 64, 0),
			       SIM_EDU_DONE);
		claim_check_at(
			"unmap", i,
			iommu_unmap(&iommu, TAME_DOMAIN, TAME_IOVA, TAME_IOVA + ARENA_PAGE - 1),
			OK);
		claim_check_at("detach", i, iommu_detach(&iommu, TAME_DOMAIN, p->rid), OK);
	}
	check_tame(dice);
	claim_end();
}

void payload(void)
{
	uint64_t seconds, seed, end;

	if (dtb_read(boot_dtb, &machine) || !arena_init(&machine) || machine.nr_cpus < 3 ||
	    !simedu_find(0, &tame)) {
		print("FAIL attack: it needs 64 MiB, 3 vCPUs and a simulated edu\n");
		return;
	}
	seconds = dtb_parameter(&machine, "seconds", 30);
	seed = dtb_parameter(&machine, "seed", 1);
	targets.machine = &machine;
	targets.bypass = dtb_parameter(&machine, "bypass", 0);
	find_targets(dtb_parameter(&machine, "owned", 0));
	for (unsigned i = 0; i < MAX_VCPUS; i++)
		vcpus[i].dice.state = (seed * MAX_VCPUS + i + 1) * 0x9e3779b97f4a7c15ull;
	claim_begin("there_are_targets_and_tame_devices");
	claim_check("the tame disk starts", vdev_start(&tame_disk, 0, 1) == NULL, true);
	tame_sectors = vdev_config(&tame_disk, 0, 8);
	claim_check("virtio devices", targets.nr_vdevs >= 4, true);
	claim_check("PCI functions", targets.nr_pci >= 1, true);
	claim_check("a simulated NVMe", targets.nvme != NULL, dtb_parameter(&machine, "nvme", 0));
	claim_end();
	gic_init();
	if (gic_its_init() == NULL)
		for (unsigned i = 0; i < 4 && i < targets.nr_pci; i++)
			gic_its_map(targets.pci[i].rid, 0, GIC_LPI_BASE + i);

	print("note: seed %lu, %lu s, %u vCPUs\n", seed, seconds, machine.nr_cpus);
	abort_expected = true;
	start_vcpus();
	end = now_us() + seconds * 1000000;
	for (unsigned n = 0; now_us() < end; n++) {
		run_slice(n, now_us() + SLICE_US);
		print("note: slice %u, %lu attacks, disk %u tame %u\n", n, vcpus[1].done,
		      judged[0].good, judged[1].good);
	}
	stop_all = true;
	pause_all = true;
	for (unsigned i = 1; i < machine.nr_cpus; i++)
		while (psci(PSCI_AFFINITY_INFO, machine.mpidr[i], 0, 0) != 1)
			;
	for (unsigned i = 0; i < targets.nr_vdevs; i++) {
		struct vdev dev = {.base = targets.vdev[i].base};

		vdev_reset(&dev);
	}
	abort_expected = false;

	print("\nnote: attacks:");
	for (unsigned i = 0; i < NR(attacks); i++) {
		uint64_t made = 0;

		print(" %s", attacks[i].name);
		for (unsigned cpu = 0; cpu < machine.nr_cpus; cpu++) {
			print("%c%lu", cpu ? '+' : ' ', vcpus[cpu].counts[i]);
			made += vcpus[cpu].counts[i];
		}
		print(" (%lu us, at most %lu)", spent[i] / (made + !made), longest[i]);
	}
	print(", %u aborts, %u of them for alignment\n", aborts, alignment_faults);
	print("note: broken:");
	for (unsigned i = 0; i < targets.nr_vdevs; i++)
		print(" device %u %u", targets.vdev[i].id, targets.vdev[i].nr_broken);
	print("\n");
	claim_begin("every_attack_was_made_by_every_vcpu");
	for (unsigned i = 0; i < NR(attacks) * machine.nr_cpus; i++) {
		unsigned cpu = i / NR(attacks), kind = i % NR(attacks);

		if (has_target(kind))
			claim_check_at("attacks of a vCPU and kind", cpu * 100 + kind,
				       vcpus[cpu].counts[kind] > 0, true);
	}
	claim_end();
	claim_begin("every_virtio_device_was_broken");
	for (unsigned i = 0; i < targets.nr_vdevs; i++)
		claim_check_at("times a device", targets.vdev[i].id, targets.vdev[i].nr_broken > 0,
			       true);
	claim_end();
	for (unsigned i = 0; i < NR(names); i++) {
		claim_begin(names[i]);
		claim_check("it held all the time", judged[i].bad, false);
		claim_check("it was looked at", judged[i].good > 0, true);
		claim_end();
	}
	check_virtio_again();
	check_pci_again();
	claim_begin("clock_and_uart_answer");
	claim_check("the clock's identity", mmio_read32(BOARD_RTC + 0xfe0) & 0xff, 0x31);
	claim_check("transmitter empty", mmio_read8(BOARD_UART + 5) & 0x60, 0x60);
	claim_end();
	/* The machine is turned off while a vCPU loops in a place where there is no memory. */
	claim_begin("a_vcpu_may_be_started_where_nothing_is");
	claim_check("CPU_ON", (uint64_t)psci(PSCI_CPU_ON, machine.mpidr[1], BOARD_NOWHERE, 0),
		    PSCI_SUCCESS);
	claim_end();
}
