/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbells and interrupts that go past us while nothing is bounced, and frames that become bounce
 * in that very moment: none may be lost, and none may come before what it announces.
 *
 * A machine that models what KVM promises: an access to a mapped page is over before unmap()
 * returns, an irqfd's signals are delivered before irqfd_off() does. On it the real function front,
 * the real mediator and a simulated DART that can replace live pages. A device takes commands from
 * a ring when its doorbell is rung, writes a completion and raises an interrupt; a driver on one
 * vCPU rings and waits, by interrupt or by reading a register; another vCPU unmaps and maps the
 * ring's neighbour all the time, so that the ring's frame becomes bounce and direct again under
 * both. A third may mask and rewrite the vector meanwhile.
 *
 * OPS=n: changes of class (250). No time is asserted: what is lost shows as no progress at all for
 * a minute.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/tests/oracle_rig.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/pci.h"
#include "vmm/pci_front.h"

#define G	  0x1000ull
#define H	  0x4000ull
#define IOVA	  0x2000000ull
#define RAM_LEN	  (8 * H)
#define BAR_LEN	  (2 * H)
#define REG_BELL  0x0u
#define REG_DONE  0x8u /* how many commands are done */
#define TABLE	  (H + 0x100)
#define PBA	  (H + 0x800)
#define DEVFN	  0x08u
#define CAP_MSIX  0x40u
#define DOORBELL  (LAYOUT_DOORBELL_BASE + 0x40)
#define NR_CMDS	  32u
#define CMD_LEN	  32u	/* of a command, and of a completion */
#define DONE_OFF  2048u /* completions, in the ring's page */
#define PATIENCE  60
#define MAX_SLOTS 8

static struct {
	/* the machine */
	struct bus *bus;
	struct pci_host *host;
	struct pci_machine machine;
	struct pci_lines lines;
	pthread_rwlock_t map_lock;
	struct {
		uint64_t gpa, len;
		uint8_t *hva;
	} slots[MAX_SLOTS];
	pthread_mutex_t irq_lock;
	bool irqfd_on, route_used;
	uint32_t route_data;
	atomic_uint irqs, direct_irqs, direct_bells, trapped_bells;
	atomic_bool masked; /* the driver's masking write has returned */
	/* the device */
	struct pci_dev dev;
	uint8_t config[256];
	_Alignas(0x4000) uint8_t bar[BAR_LEN];
	int vector_fd;
	/* its IOMMU */
	struct rig_mem mem;
	struct dart_rig rig;
	struct gmem gmem;
	uint8_t *ram;
	struct mediator *m;
	struct endpoint *ep;
	struct pci_front *front;
	uint64_t bar_gpa;
	/* the run */
	bool maskers;
	unsigned ops;
	atomic_bool stop, failed;
	char error[200];
	atomic_ulong progress;
} t;

__attribute__((format(printf, 1, 2))) static void bad(const char *fmt, ...)
{
	va_list ap;

	if (atomic_exchange(&t.failed, true))
		return;
	va_start(ap, fmt);
	vsnprintf(t.error, sizeof(t.error), fmt, ap);
	va_end(ap);
	atomic_store(&t.stop, true);
}

/* ---- the machine ---- */

static int map(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	int i = 0;

	(void)ctx;
	pthread_rwlock_wrlock(&t.map_lock);
	while (t.slots[i].len)
		i++;
	t.slots[i].gpa = gpa;
	t.slots[i].len = len;
	t.slots[i].hva = hva;
	pthread_rwlock_unlock(&t.map_lock);
	return i;
}

static void unmap(void *ctx, int slot)
{
	(void)ctx;
	pthread_rwlock_wrlock(&t.map_lock);
	t.slots[slot].len = 0;
	pthread_rwlock_unlock(&t.map_lock);
}

/* A vCPU's access: to the page, if one is mapped, else it exits. Return: did it go past us? */
static bool access_gpa(uint64_t gpa, uint32_t *val, bool write)
{
	uint32_t *reg = NULL;

	pthread_rwlock_rdlock(&t.map_lock);
	for (unsigned i = 0; i < MAX_SLOTS; i++) {
		if (gpa - t.slots[i].gpa < t.slots[i].len)
			reg = (uint32_t *)(void *)(t.slots[i].hva + (gpa - t.slots[i].gpa));
	}
	if (reg && write)
		__atomic_store_n(reg, *val, __ATOMIC_SEQ_CST);
	else if (reg)
		*val = __atomic_load_n(reg, __ATOMIC_SEQ_CST);
	pthread_rwlock_unlock(&t.map_lock);
	if (!reg)
		bus_access(t.bus, gpa, val, sizeof(*val), write);
	return reg;
}

static void deliver(uint32_t data)
{
	if (atomic_load(&t.masked))
		bad("an interrupt came after its vector was masked");
	if (data < 1000)
		bad("a message that was never programmed: %u", data);
	atomic_fetch_add(&t.irqs, 1);
}

static int msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)devid;
	assert_true(gpa == DOORBELL);
	deliver(data);
	return 0;
}

static int route(void *ctx, int nr, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)devid;
	assert_true(gpa == DOORBELL && nr <= 0);
	pthread_mutex_lock(&t.irq_lock);
	assert_false(t.irqfd_on);
	t.route_used = true;
	t.route_data = data;
	pthread_mutex_unlock(&t.irq_lock);
	return 0;
}

static void unroute(void *ctx, int nr)
{
	(void)ctx, (void)nr;
	t.route_used = false;
}

static int irqfd(void *ctx, int fd, int nr)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	(void)ctx;
	assert_true(fd == t.vector_fd && nr == 0 && t.route_used);
	pthread_mutex_lock(&t.irq_lock);
	t.irqfd_on = true;
	/* as KVM does; the event loop reads it nonetheless */
	if (poll(&pfd, 1, 0) == 1)
		deliver(t.route_data);
	pthread_mutex_unlock(&t.irq_lock);
	return 0;
}

static void irqfd_off(void *ctx, int fd, int nr)
{
	(void)ctx, (void)fd, (void)nr;
	pthread_mutex_lock(&t.irq_lock);
	assert_true(t.irqfd_on);
	t.irqfd_on = false;
	pthread_mutex_unlock(&t.irq_lock);
}

static void signal_vector(void)
{
	pthread_mutex_lock(&t.irq_lock);
	if (t.irqfd_on) {
		atomic_fetch_add(&t.direct_irqs, 1);
		deliver(t.route_data);
	} else {
		eventfd_write(t.vector_fd, 1);
	}
	pthread_mutex_unlock(&t.irq_lock);
}

static void *event_loop(void *arg)
{
	struct pollfd pfd = {.events = POLLIN};
	eventfd_t count;

	(void)arg;
	while (!atomic_load(&t.stop)) {
		pfd.fd = t.vector_fd;
		if (poll(&pfd, 1, 10) == 1 && eventfd_read(t.vector_fd, &count) == 0)
			pci_front_fire(t.front, 0);
	}
	return NULL;
}

static void set_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx, (void)line, (void)level;
}

/* ---- the device ---- */

static int dev_read(struct pci_dev *dev, unsigned index, uint64_t off, void *buf, unsigned len)
{
	(void)dev;
	assert_int_equal(index, VFIO_PCI_CONFIG_REGION_INDEX);
	memcpy(buf, t.config + off, len);
	return 0;
}

static int dev_write(struct pci_dev *dev, unsigned index, uint64_t off, const void *buf,
		     unsigned len)
{
	(void)dev, (void)index, (void)off, (void)buf, (void)len;
	return 0;
}

static int dev_set_irqs(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds)
{
	(void)dev;
	if (nr && index == VFIO_PCI_MSIX_IRQ_INDEX)
		t.vector_fd = fds[0];
	return 0;
}

static const struct pci_dev_ops dev_ops = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
};

static uint32_t *reg(unsigned off)
{
	return (uint32_t *)(void *)(t.bar + off);
}

static uint64_t word_of(uint32_t n)
{
	return (uint64_t)n << 32 | ~n;
}

static void *device(void *arg)
{
	uint32_t done = 0, bell;
	uint64_t word;

	(void)arg;
	while (!atomic_load(&t.stop)) {
		bell = __atomic_load_n(reg(REG_BELL), __ATOMIC_SEQ_CST);
		if (bell == done) {
			sched_yield();
			continue;
		}
		/* one command at a time is in the ring */
		if (bell != done + 1)
			bad("doorbell %u after %u", bell, done);
		if (dart_model_dma_read(t.rig.model, 0, IOVA + bell % NR_CMDS * CMD_LEN, &word, 8))
			bad("reading the ring faulted");
		if (word != word_of(bell))
			bad("doorbell %u came before its command: %#llx", bell,
			    (unsigned long long)word);
		if (dart_model_dma_write(t.rig.model, 0, IOVA + DONE_OFF + bell % NR_CMDS * CMD_LEN,
					 &word, 8))
			bad("writing the ring faulted");
		done = bell;
		__atomic_store_n(reg(REG_DONE), done, __ATOMIC_SEQ_CST);
		signal_vector();
	}
	return NULL;
}

/* ---- the guest ---- */

static uint64_t completion(uint32_t n)
{
	return __atomic_load_n((uint64_t *)(void *)(t.ram + DONE_OFF + n % NR_CMDS * CMD_LEN),
			       __ATOMIC_ACQUIRE);
}

static void *driver(void *arg)
{
	uint32_t n, val;
	unsigned irqs;

	(void)arg;
	for (n = 1; !atomic_load(&t.stop); n++) {
		irqs = atomic_load(&t.irqs);
		__atomic_store_n((uint64_t *)(void *)(t.ram + n % NR_CMDS * CMD_LEN), word_of(n),
				 __ATOMIC_RELEASE);
		val = n;
		if (access_gpa(t.bar_gpa + REG_BELL, &val, true))
			atomic_fetch_add(&t.direct_bells, 1);
		else
			atomic_fetch_add(&t.trapped_bells, 1);
		while (!atomic_load(&t.stop)) {
			/* by turns: wait for the register, or for the interrupt */
			if (n % 3 == 0) {
				access_gpa(t.bar_gpa + REG_DONE, &val, false);
				if (val == n && completion(n) != word_of(n))
					bad("the register told of %u before its completion", n);
				if (val == n)
					break;
			} else if (atomic_load(&t.irqs) != irqs) {
				/* one for an earlier command may come late */
				irqs = atomic_load(&t.irqs);
				if (completion(n) == word_of(n))
					break;
			}
			sched_yield();
		}
		atomic_fetch_add(&t.progress, 1);
	}
	return NULL;
}

static void *masker(void *arg)
{
	uint64_t entry = t.bar_gpa + TABLE;
	uint32_t data = 1000, one = 1, zero = 0;

	(void)arg;
	while (!atomic_load(&t.stop)) {
		access_gpa(entry + 12, &one, true);
		atomic_store(&t.masked, true);
		for (unsigned i = 0; i < 3; i++)
			sched_yield();
		data++;
		access_gpa(entry + 8, &data, true);
		atomic_store(&t.masked, false);
		access_gpa(entry + 12, &zero, true);
		for (unsigned i = 0; i < 50; i++)
			sched_yield();
	}
	return NULL;
}

static uint64_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void map_slot(unsigned slot)
{
	const struct mapping one = {IOVA + slot * G, IOVA + (slot + 1) * G - 1,
				    LAYOUT_RAM_LOW_BASE + slot * G, MAP_READ | MAP_WRITE};

	assert_int_equal(mediator_map(t.m, 1, &one), 0);
}

static bool is_direct(void)
{
	struct mediator_stats stats;

	mediator_get_stats(t.m, &stats);
	return stats.traps + 1 == stats.untraps;
}

/* Wait until the driver has done @nr more commands, if it does. */
static void wait_for(unsigned nr)
{
	unsigned long from = atomic_load(&t.progress), last = from;
	uint64_t since = seconds();

	while (atomic_load(&t.progress) < from + nr && !atomic_load(&t.stop)) {
		if (atomic_load(&t.progress) != last) {
			last = atomic_load(&t.progress);
			since = seconds();
		} else if (seconds() - since > PATIENCE) {
			bad("no progress after %lu commands: a doorbell or an interrupt is lost",
			    last);
		}
		sched_yield();
	}
}

/* The other vCPU: the ring's neighbour goes and comes, at any moment of the traffic. */
static void toggle(void)
{
	for (unsigned i = 0; i < t.ops && !atomic_load(&t.stop); i++) {
		while (!is_direct() && !atomic_load(&t.stop))
			wait_for(10);
		wait_for(i % 5);
		assert_int_equal(mediator_unmap(t.m, 1, IOVA + G, IOVA + 2 * G - 1), 0);
		wait_for(i % 3);
		map_slot(1);
	}
	wait_for(1000);
}

/* ---- */

static void cwr(unsigned off, unsigned len, uint64_t val)
{
	bus_access(t.bus, LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000 + off, &val, len, true);
}

/* In the middle of a request: let the others go on as far as they can, but for what traps. */
static void dawdle(void *ctx)
{
	unsigned long from = atomic_load(&t.progress);

	(void)ctx;
	for (unsigned i = 0; i < 120 && atomic_load(&t.progress) < from + 2; i++)
		sched_yield();
}

static void build(void)
{
	struct mediator_cfg cfg = {
		.gmem = &t.gmem,
		.guest_granule = G,
		.pool_limit = 64 * H,
		.max_domains = 4,
		.max_mappings = 100,
		.promote = true,
		.doorbell = {LAYOUT_DOORBELL_BASE, LAYOUT_DOORBELL_BASE + LAYOUT_DOORBELL_LEN - 1},
	};
	struct dart_rig_cfg rig = {
		.kind = DART_T8103, .page_lg2 = 14, .timeout_ns = UINT64_MAX / 2};
	const struct pci_machine machine = {
		.set_intx = set_intx,
		.msi = msi,
		.map = map,
		.unmap = unmap,
		.route = route,
		.unroute = unroute,
		.irqfd = irqfd,
		.irqfd_off = irqfd_off,
		.host_page = H,
	};
	struct pci_front_cfg front = {.dev = &t.dev, .lines = &t.lines, .devfn = DEVFN};
	struct endpoint_cfg ep = {.id = 1, .name = "test", .nr_streams = 1, .sync = SYNC_RINGS};
	uint64_t entry[2] = {DOORBELL, 1000};
	char error[200];

	t.ram = aligned_alloc(H, RAM_LEN);
	memset(t.ram, 0, RAM_LEN);
	rig_mem_init(&t.mem);
	t.mem.event = dawdle;
	t.rig.mem = &t.mem;
	rig_create(&t.rig, &rig);
	assert_int_equal(gmem_add(&t.gmem, LAYOUT_RAM_LOW_BASE, RAM_LEN, t.ram), 0);
	assert_int_equal(mediator_create(&cfg, &t.m), 0);
	ep.streams = &(struct stream){t.rig.inst, 0};
	assert_int_equal(mediator_add_endpoint(t.m, &ep, &t.ep), 0);

	t.dev = (struct pci_dev){.ops = &dev_ops, .name = "test", .nr_msix = 1};
	t.dev.bars[0] = (struct pci_dev_bar){BAR_LEN, 1, {{0, BAR_LEN, t.bar}}};
	put_le32(t.config, 0x12345678);
	put_le16(t.config + PCI_STATUS, PCI_STATUS_CAP_LIST);
	put_le32(t.config + PCI_CLASS_REVISION, 0x02000000);
	t.config[PCI_CAPABILITY_LIST] = CAP_MSIX;
	t.config[CAP_MSIX] = PCI_CAP_ID_MSIX;
	put_le32(t.config + CAP_MSIX + 4, TABLE);
	put_le32(t.config + CAP_MSIX + 8, PBA);

	fair_init(&t.lines.lock);
	pthread_mutex_init(&t.irq_lock, NULL);
	pthread_rwlock_init(&t.map_lock, NULL);
	assert_int_equal(bus_create(&t.bus), 0);
	t.machine = machine;
	t.machine.bus = t.bus;
	assert_int_equal(pci_host_create(&t.machine, &t.host), 0);
	front.ep = t.ep;
	front.host = t.host;
	front.machine = &t.machine;
	if (pci_front_create(&front, &t.front, error, sizeof(error)))
		fail_msg("%s", error);

	cwr(PCI_BASE_ADDRESS_0, 4, LAYOUT_PCI_MEM32_BASE);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	t.bar_gpa = LAYOUT_PCI_MEM32_BASE;
	bus_access(t.bus, t.bar_gpa + TABLE, &entry[0], 8, true);
	bus_access(t.bus, t.bar_gpa + TABLE + 8, &entry[1], 8, true);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(mediator_attach(t.m, 1, 1, false), 0);
	for (unsigned slot = 0; slot < 4; slot++)
		map_slot(slot);
}

static void demolish(void)
{
	pci_front_quiesce(t.front);
	pci_front_destroy(t.front);
	pci_host_destroy(t.host);
	bus_destroy(t.bus);
	mediator_destroy(t.m);
	rig_destroy(&t.rig);
	free(t.ram);
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		assert_int_equal(t.slots[i].len, 0);
	assert_false(t.irqfd_on || t.route_used);
}

static void run(bool masks)
{
	void *(*const threads[])(void *) = {event_loop, device, driver, masker};
	unsigned nr = masks ? 4 : 3;
	struct mediator_stats stats;
	pthread_t ids[4];

	memset(&t, 0, sizeof(t));
	t.ops = getenv("OPS") ? (unsigned)atoi(getenv("OPS")) : 250;
	build();
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(pthread_create(&ids[i], NULL, threads[i], NULL), 0);
	toggle();
	atomic_store(&t.stop, true);
	for (unsigned i = 0; i < nr; i++)
		pthread_join(ids[i], NULL);
	mediator_get_stats(t.m, &stats);
	print_message("%lu commands, %llu times trapped; doorbells %u direct, %u trapped; "
		      "interrupts %u direct of %u\n",
		      t.progress, (unsigned long long)stats.traps, t.direct_bells, t.trapped_bells,
		      t.direct_irqs, t.irqs);
	if (t.failed)
		fail_msg("%s", t.error);
	/* it was what it says */
	assert_int_equal(stats.traps, t.ops);
	assert_true(stats.to_bounce >= t.ops && stats.to_direct >= t.ops);
	assert_true(t.direct_bells > t.ops && t.trapped_bells > t.ops);
	assert_true(t.direct_irqs > t.ops && t.irqs - t.direct_irqs > t.ops);
	demolish();
}

static void no_doorbell_and_no_interrupt_is_lost(void **state)
{
	(void)state;
	run(false);
}

static void nor_while_the_vector_is_masked_and_rewritten(void **state)
{
	(void)state;
	run(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_doorbell_and_no_interrupt_is_lost),
		cmocka_unit_test(nor_while_the_vector_is_masked_and_rewritten),
	};

	return cmocka_run_group_tests_name("pci_direct", tests, NULL, NULL);
}
