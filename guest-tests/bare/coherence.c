/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coherence - a hostile ring device, granule's own edu, and vCPUs that check each entry of its ring
 * the moment they see its flag: whole, with its payload, and none left out. All vCPUs look at all
 * entries; the first tells the device how far they are.
 *
 * Parameters: seconds=N, of all rings together (5); held=1: vCPUs are held (hold=on), so flags may
 * be anywhere in entries and entries anywhere in memory.
 */
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "iommu.h"
#include "simedu.h"
#include "lib/string.h"

#define PAGE	  0x1000u
#define FRAME	  0x4000u
#define NR_PAGES  64u
#define DOMAIN	  7
#define BASE	  (0x0a000000ull + PAGE) /* in the middle of a frame */
#define STALL_US  60000000
#define NR(array) (sizeof(array) / sizeof((array)[0]))

struct shape {
	unsigned entries, words, payload, flag, offset; /* offset: of the ring, bytes */
	uint32_t cmd;
};

struct checker {
	volatile uint64_t next;
	volatile bool ended;
	/* The first thing that was wrong. */
	volatile bool bad;
	uint64_t n, got, want;
	const char *what;
};

#define SHUFFLE SIM_EDU_RING_SHUFFLE
#define PAUSES	SIM_EDU_RING_PAUSES

/* Entries that end in their flags and lie in one page: nobody is held. */
static const struct shape known[] = {
	{256, 2, 8, 1, 0, SHUFFLE},
	{32, 2, 4, 1, 0, SHUFFLE | PAUSES},
	{64, 16, 5, 15, 0, SHUFFLE | PAUSES},
	{1, 4, 2, 3, 0x40, PAUSES},
};

static const struct shape any[] = {
	{256, 2, 8, 0, 0, SHUFFLE},
	{64, 4, 3, 0, 0, SHUFFLE | PAUSES},
	{100, 3, 4, 1, 0x1d8, SHUFFLE | PAUSES},
	{300, 9, 2, 4, 0x3d8, SHUFFLE | PAUSES},
	{1, 16, 2, 7, 0xfc0, PAUSES},
};

static uint8_t ram[2 * NR_PAGES][PAGE] __attribute__((aligned(FRAME)));
static struct machine machine;
static struct iommu iommu;
static struct simedu edu;
static struct checker checkers[DTB_MAX_CPUS];
static const struct shape *shape;
static uint64_t data_iova, seed;
static volatile bool stop;

/* Page @i of IOVA space lies out of step with it by an odd number of pages: it is bounced. */
static uint8_t *page_of(uint64_t i)
{
	return ram[2 * i + (i & 1)];
}

static uint64_t load(uint64_t iova)
{
	uint64_t at = iova - BASE;
	const uint8_t *p = page_of(at / PAGE) + at % PAGE;

	return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void check(struct checker *c, uint64_t n, const char *what, uint64_t got, uint64_t want)
{
	if (got == want || c->bad)
		return;
	c->n = n;
	c->what = what;
	c->got = got;
	c->want = want;
	c->bad = true;
	stop = true;
}

static bool look(struct checker *c)
{
	uint64_t n = c->next, slot = n % shape->entries;
	uint64_t at = BASE + shape->offset + slot * shape->words * 8;
	uint64_t data = data_iova + slot * shape->payload * 8;
	uint64_t flag = load(at + shape->flag * 8);

	if (flag != n + 1) {
		check(c, n, "flag", flag, n < shape->entries ? 0 : n + 1 - shape->entries);
		return false;
	}
	for (unsigned i = 0; i < shape->words; i++)
		if (i != shape->flag)
			check(c, n, "word", load(at + i * 8), sim_edu_ring_word(seed, n, i));
	for (unsigned i = 0; i < shape->payload; i++)
		check(c, n, "payload", load(data + i * 8),
		      sim_edu_ring_word(seed, n, SIM_EDU_RING_MAX_WORDS + i));
	c->next = n + 1;
	return true;
}

static void run_checker(void *arg)
{
	struct checker *c = arg;

	while (!stop)
		(void)look(c);
	barrier();
	c->ended = true;
}

/* The first vCPU: it also tells the device, which it does without reading a register. */
static void run_first(uint64_t us)
{
	uint64_t end = now_us() + us, stall = now_us() + STALL_US, told = 0;

	while (!stop && now_us() < end) {
		uint64_t head = UINT64_MAX;

		for (unsigned i = 0; i < 100; i++)
			(void)look(&checkers[0]);
		for (unsigned i = 0; i < machine.nr_cpus; i++)
			if (checkers[i].next < head)
				head = checkers[i].next;
		if (head == told) {
			check(&checkers[0], told, "time without an entry", now_us() > stall, false);
			continue;
		}
		stall = now_us() + STALL_US;
		told = head;
		simedu_write(&edu, SIM_EDU_RING_HEAD, (uint32_t)head);
	}
	stop = true;
	for (unsigned i = 1; i < machine.nr_cpus; i++) {
		stall = now_us() + STALL_US;
		while (!checkers[i].ended && now_us() < stall)
			;
		claim_check_at("a vCPU ends", i, checkers[i].ended, true);
	}
}

static unsigned map_pages(unsigned first, unsigned bytes, uint32_t flags)
{
	unsigned page = first;

	for (; bytes > (page - first) * PAGE; page++)
		claim_check("map",
			    iommu_map(&iommu, DOMAIN, BASE + page * PAGE,
				      BASE + (page + 1) * PAGE - 1,
				      (uint64_t)(uintptr_t)page_of(page), flags),
			    VIRTIO_IOMMU_S_OK);
	return page;
}

static void run_shape(unsigned nr, uint64_t us)
{
	unsigned pages;

	memset(checkers, 0, sizeof(checkers));
	stop = false;
	seed = nr + 1;
	claim_check("the virtio-iommu starts", iommu_start(&iommu, IOMMU_FEATURES) == NULL, true);
	/* Not before its reset, which brings what the device wrote last to the ring before. */
	memset(ram, 0, sizeof(ram));
	claim_check("attach", iommu_attach(&iommu, DOMAIN, edu.rid, 0), VIRTIO_IOMMU_S_OK);
	pages = map_pages(0, shape->offset + shape->entries * shape->words * 8, IOMMU_RW);
	data_iova = BASE + pages * PAGE;
	pages = map_pages(pages, shape->entries * shape->payload * 8, VIRTIO_IOMMU_MAP_F_WRITE);
	claim_check("it fits", pages < NR_PAGES, true);
	simedu_write64(&edu, SIM_EDU_RING_IOVA, BASE + shape->offset);
	simedu_write64(&edu, SIM_EDU_RING_DATA, data_iova);
	simedu_write64(&edu, SIM_EDU_RING_SEED, seed);
	simedu_write(&edu, SIM_EDU_RING_ENTRIES, shape->entries);
	simedu_write(&edu, SIM_EDU_RING_WORDS, shape->words);
	simedu_write(&edu, SIM_EDU_RING_PAYLOAD, shape->payload);
	simedu_write(&edu, SIM_EDU_RING_FLAG, shape->flag);
	simedu_write(&edu, SIM_EDU_RING_CMD, SIM_EDU_RING_RUN | shape->cmd);
	barrier();
	for (unsigned i = 1; i < machine.nr_cpus; i++)
		claim_check_at("a vCPU starts", i,
			       (uint64_t)cpu_start(i, machine.mpidr[i], run_checker, &checkers[i]),
			       PSCI_SUCCESS);
	run_first(us);
	claim_check_at("the device was never refused", nr,
		       simedu_read(&edu, SIM_EDU_RING_CMD) & SIM_EDU_RING_RUN, SIM_EDU_RING_RUN);
	simedu_write(&edu, SIM_EDU_RING_CMD, 0);
	for (unsigned i = 0; i < machine.nr_cpus; i++) {
		struct checker *c = &checkers[i];

		if (c->bad) {
			print("note: ring %u, vCPU %u, entry %lu: %s\n", nr, i, c->n, c->what);
			claim_check_at(c->what, nr, c->got, c->want);
		}
		claim_check_at("entries came", nr, c->next > 0, true);
	}
	print("note: ring %u: %lu entries\n", nr, checkers[0].next);
	/* Each is off before it is started again. */
	for (unsigned i = 1; i < machine.nr_cpus; i++)
		while (psci(PSCI_AFFINITY_INFO, machine.mpidr[i], 0, 0) != 1)
			;
}

void payload(void)
{
	const struct shape *shapes = known;
	unsigned nr = NR(known);

	if (dtb_read(boot_dtb, &machine) || !simedu_find(0, &edu)) {
		print("FAIL coherence: it needs a simulated edu device\n");
		return;
	}
	if (dtb_parameter(&machine, "held", 0)) {
		shapes = any;
		nr = NR(any);
	}
	claim_begin("ring_entries_are_never_torn_early_or_lost");
	for (unsigned i = 0; i < nr; i++) {
		shape = &shapes[i];
		run_shape(i, dtb_parameter(&machine, "seconds", 5) * 1000000 / nr);
	}
	claim_end();
	vdev_reset(&iommu.dev);
}
