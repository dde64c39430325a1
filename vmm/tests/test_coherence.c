/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile ring device (vmm/sim_edu), and vCPUs that check each entry the moment its flag is seen:
 * none may be torn, come before its payload, or be lost. The device writes as fast as it can, or in
 * bursts; sync points come from a thread that does nothing else, as if by poll=, and from the exits
 * of the vCPUs. ENTRIES=n sets how many entries in all (make soak: 100 million), SEED=n repeats.
 *
 * Without holding, entries end in their flags and lie in one slot; with it, everything goes.
 */
#include "vmm/tests/sim_rig.h"

#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "vmm/sim_edu.h"

#define NR_CPUS	   2
#define FIRST_PAGE 5u /* of IOVA space; in the middle of a frame */
#define LOOKS	   500
#define STALL_S	   300 /* without an entry, for what hangs: not a measure */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ENTRIES_DEFAULT 40000
#else
#define ENTRIES_DEFAULT 400000
#endif

struct shape {
	const char *name;
	unsigned entries, words, payload, flag, offset; /* offset: of the ring, bytes */
	unsigned cmd;
	bool hold;
};

struct cpu {
	struct hold_seat seat;
	pthread_t thread;
	uint8_t leave_at_once;
	uint64_t next; /* entry; read by others */
	uint64_t seed;
};

static struct sim_rig rig;
static struct sim_edu *edu;
static struct pci_dev *dev;
static struct hold hold;
static struct cpu cpus[NR_CPUS];
static const struct shape *shape;
static uint64_t seed, total, weights, goal, data_iova;
static bool over;

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

/* ---- memory ---- */

/* Pages that lie nowhere in step with their IOVA, so that each is bounced. */
static uint64_t page_of(uint64_t iova_page)
{
	return 2 * iova_page + !(iova_page & 1);
}

static uint64_t *word_at(uint64_t iova)
{
	return (uint64_t *)(void *)(rig.ram + page_of(iova / G) * G + iova % G);
}

static uint64_t map_pages(uint64_t iova, uint64_t len, uint32_t flags)
{
	for (; len; len -= G, iova += G)
		assert_int_equal(sim_rig_map(&rig, iova, G, RAM + page_of(iova / G) * G, flags), 0);
	return iova;
}

/* ---- the device ---- */

static uint64_t reg(uint64_t off, unsigned len)
{
	uint8_t data[8] = {0};

	assert_int_equal(dev->ops->read(dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len), 0);
	return get_le64(data);
}

static void set(uint64_t off, unsigned len, uint64_t value)
{
	uint8_t data[8];

	put_le64(data, value);
	assert_int_equal(dev->ops->write(dev, VFIO_PCI_BAR0_REGION_INDEX, off, data, len), 0);
}

/* ---- vCPUs ---- */

/* Guest code loads a word; the guest is left between any two of its instructions. */
static uint64_t load(struct cpu *cpu, uint64_t iova)
{
	if (__atomic_load_n(&cpu->leave_at_once, __ATOMIC_RELAXED)) {
		hold_leave(&cpu->seat);
		(void)hold_enter(&cpu->seat);
	}
	return __atomic_load_n(word_at(iova), __ATOMIC_ACQUIRE);
}

static void check(uint64_t n, const char *what, unsigned i, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	fprintf(stderr, "%s: entry %llu, %s word %u: %#llx, not %#llx (SEED=%llu)\n", shape->name,
		(unsigned long long)n, what, i, (unsigned long long)got, (unsigned long long)want,
		(unsigned long long)seed);
	abort(); /* not a thread that may end a test */
}

/* Return: whether entry @n is there; if so it is complete. */
static bool look(struct cpu *cpu, uint64_t n)
{
	uint64_t at = FIRST_PAGE * G + shape->offset + n % shape->entries * shape->words * 8;
	uint64_t data = data_iova + n % shape->entries * shape->payload * 8;
	uint64_t flag = load(cpu, at + shape->flag * 8);

	if (flag != n + 1) {
		check(n, "flag", shape->flag, flag,
		      n < shape->entries ? 0 : n + 1 - shape->entries);
		return false;
	}
	for (unsigned i = 0; i < shape->words; i++)
		if (i != shape->flag)
			check(n, "entry", i, load(cpu, at + i * 8), sim_edu_ring_word(seed, n, i));
	for (unsigned i = 0; i < shape->payload; i++)
		check(n, "payload", i, load(cpu, data + i * 8),
		      sim_edu_ring_word(seed, n, SIM_EDU_RING_MAX_WORDS + i));
	return true;
}

static uint64_t rnd(struct cpu *cpu)
{
	cpu->seed = cpu->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return cpu->seed >> 33;
}

/* In an exit: what all vCPUs have seen goes back to the device. */
static void tell_device(void)
{
	uint64_t head = UINT64_MAX;

	for (unsigned i = 0; i < NR_CPUS; i++)
		head = MIN(head, __atomic_load_n(&cpus[i].next, __ATOMIC_ACQUIRE));
	endpoint_sync_for_device(rig.ep);
	set(SIM_EDU_RING_HEAD, 4, (uint32_t)head);
}

static void *run_cpu(void *ctx)
{
	struct cpu *cpu = ctx;
	time_t end = time(NULL) + STALL_S;

	(void)hold_enter(&cpu->seat);
	while (cpu->next < goal) {
		bool any = false;

		/* It stays for a while though nothing is there: what is seen in part is seen by
		 * who looks all the time. */
		for (unsigned looks = 0; looks < LOOKS && cpu->next < goal; looks++) {
			if (!look(cpu, cpu->next))
				continue;
			__atomic_store_n(&cpu->next, cpu->next + 1, __ATOMIC_RELEASE);
			any = true;
			looks = 0;
		}
		if (any)
			end = time(NULL) + STALL_S;
		else if (time(NULL) > end)
			check(cpu->next, "number of entries, which", 0, cpu->next, goal);
		hold_leave(&cpu->seat);
		if (cpu == cpus)
			tell_device();
		if (rnd(cpu) % 4 == 0)
			endpoint_sync_for_cpu(rig.ep); /* it reads a register */
		if (!any)
			sched_yield();
		(void)hold_enter(&cpu->seat);
	}
	hold_leave(&cpu->seat);
	hold_end(&cpu->seat);
	return NULL;
}

static void *run_poll(void *ctx)
{
	struct cpu *random = ctx;

	while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE)) {
		endpoint_sync_for_cpu(rig.ep);
		for (uint64_t n = rnd(random) % 4; n; n--)
			sched_yield();
	}
	return NULL;
}

static void no_kick(void *ctx)
{
	(void)ctx; /* the flag is looked at before each load */
}

/* How much of the total it gets: who pauses takes longer, and finds more in less. */
static unsigned weight(const struct shape *s)
{
	return s->cmd & SIM_EDU_RING_PAUSES ? 1 : 16;
}

static uint64_t round_up(uint64_t len)
{
	return ALIGN_UP(len, G);
}

static void each_entry_is_whole_when_it_is_seen(void **state)
{
	struct sim_edu_cfg cfg = {.name = "edu"};
	uint8_t command[2] = {PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER};
	struct cpu poll = {.seed = 7};
	struct mediator_stats stats;
	pthread_t thread;

	shape = *state;
	goal = total * weight(shape) / weights + 1;
	over = false;
	hold_init(&hold);
	sim_rig_init_held(&rig, SIM_DART_T8103, SIM_DART_SOUND, 1, false,
			  shape->hold ? &hold : NULL);
	cfg.port = rig.port;
	assert_int_equal(sim_edu_create(&cfg, &edu), 0);
	dev = sim_edu_dev(edu);
	assert_int_equal(
		dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command, 2), 0);
	data_iova = map_pages(FIRST_PAGE * G,
			      round_up(shape->offset + shape->entries * shape->words * 8), RW);
	map_pages(data_iova, round_up(shape->entries * shape->payload * 8), MAP_WRITE);

	set(SIM_EDU_RING_IOVA, 8, FIRST_PAGE * G + shape->offset);
	set(SIM_EDU_RING_DATA, 8, data_iova);
	set(SIM_EDU_RING_SEED, 8, seed);
	set(SIM_EDU_RING_ENTRIES, 4, shape->entries);
	set(SIM_EDU_RING_WORDS, 4, shape->words);
	set(SIM_EDU_RING_PAYLOAD, 4, shape->payload);
	set(SIM_EDU_RING_FLAG, 4, shape->flag);
	set(SIM_EDU_RING_CMD, 4, SIM_EDU_RING_RUN | shape->cmd);
	for (unsigned i = 0; i < NR_CPUS; i++) {
		cpus[i] = (struct cpu){.seed = seed + i};
		hold_add(&hold, &cpus[i].seat, &cpus[i].leave_at_once, no_kick, NULL);
	}
	assert_int_equal(pthread_create(&thread, NULL, run_poll, &poll), 0);
	for (unsigned i = 0; i < NR_CPUS; i++)
		assert_int_equal(pthread_create(&cpus[i].thread, NULL, run_cpu, &cpus[i]), 0);
	for (unsigned i = 0; i < NR_CPUS; i++)
		pthread_join(cpus[i].thread, NULL);
	__atomic_store_n(&over, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);

	/* It was never refused, and is ahead by no more than the ring holds. */
	assert_true(reg(SIM_EDU_RING_CMD, 4) & SIM_EDU_RING_RUN);
	assert_in_range(reg(SIM_EDU_RING_COUNT, 8), goal, goal + shape->entries);
	mediator_get_stats(rig.m, &stats);
	assert_int_equal(stats.conflicts, 0);
	assert_int_equal(stats.faults, 0);
	assert_true(stats.bounce_live);
	if (shape->hold) {
		assert_int_equal(stats.unstable, 0);
		assert_true(stats.holds > 0 || shape->words + shape->payload == 1);
	}
	printf("# %s: %llu entries, %llu syncs, %llu holds, %llu unstable\n", shape->name,
	       (unsigned long long)goal, (unsigned long long)stats.syncs_for_cpu,
	       (unsigned long long)stats.holds, (unsigned long long)stats.unstable);
	sim_edu_destroy(edu);
	sim_rig_fini(&rig);
	hold_fini(&hold);
}

int main(void)
{
#define SHUFFLE SIM_EDU_RING_SHUFFLE
#define PAUSES	SIM_EDU_RING_PAUSES
	static const struct shape shapes[] = {
		/* entries, words, payload, flag, offset */
		{"ends in its flag", 256, 2, 8, 1, 0, SHUFFLE, false},
		{"ends in its flag, with pauses", 32, 2, 4, 1, 0, SHUFFLE | PAUSES, false},
		{"two lines", 64, 16, 5, 15, 0, SHUFFLE | PAUSES, false},
		{"three slots, with pauses", 192, 8, 3, 7, 0, SHUFFLE | PAUSES, false},
		{"one by one", 500, 4, 8, 3, 0, 0, false},
		{"a mailbox", 1, 4, 2, 3, 0x40, PAUSES, false},
		{"held: flag first", 256, 2, 8, 0, 0, SHUFFLE, true},
		{"held: flag first, with pauses", 64, 4, 3, 0, 0, SHUFFLE | PAUSES, true},
		{"held: across lines", 100, 3, 4, 1, 0x1d8, SHUFFLE | PAUSES, true},
		{"held: across slots and frames", 300, 9, 2, 4, 0x3d8, SHUFFLE | PAUSES, true},
		{"held: a large ring", 3000, 5, 3, 0, 0, SHUFFLE, true},
		{"held: a mailbox", 1, 16, 2, 7, 0xfc0, PAUSES, true},
		{"held: several in two lines", 4, 5, 0, 2, 0x18, SHUFFLE, true},
	};
	struct CMUnitTest tests[ARRAY_SIZE(shapes)];

	seed = env("SEED", 1);
	total = env("ENTRIES", ENTRIES_DEFAULT);
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		weights += weight(&shapes[i]);
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		tests[i] = (struct CMUnitTest){.name = shapes[i].name,
					       .test_func = each_entry_is_whole_when_it_is_seen,
					       .initial_state = (void *)&shapes[i]};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
