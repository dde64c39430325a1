/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/bus.h"
#include "vmm/evloop.h"
#include "vmm/layout.h"
#include "vmm/pci.h"
#include "vmm/pci_front.h"
#include "vmm/pci_fronts.h"
#include "vmm/poller.h"
#include "vmm/trace.h"

/*
 * A device whose registers share a 16 KiB page with its MSI-X table, as those of NVMe controllers
 * do: BAR 0 (64-bit): 16 KiB, table at 0x2000, pending bits at 0x3000; BAR 2: 4 KiB; BAR 4: 32 I/O
 * ports; BAR 5: 64 KiB that cannot be mapped.
 */
#define HOST_PAGE 0x4000u
#define BAR0_LEN  0x4000u
#define BAR2_LEN  0x1000u
#define BAR4_LEN  0x20u
#define BAR5_LEN  0x10000u
#define TABLE	  0x2000u
#define PBA	  0x3000u
#define NR_MSIX	  4u
#define CAP_PM	  0x40u
#define CAP_MSI	  0x50u
#define CAP_VPD	  0x68u
#define CAP_EXP	  0x70u
#define CAP_MSIX  0xb0u
#define CAP_VNDR  0xc0u
#define CAP_AF	  0xe0u
#define DECODES	  (PCI_COMMAND_MEMORY | PCI_COMMAND_IO)
#define DEVFN	  0x09u
#define DOORBELL  (LAYOUT_DOORBELL_BASE + 0x40)
#define PIN_LINE  (((DEVFN >> 3) + 1 - 1) % 4)

enum event {
	SYNC_DEV = 1,
	SYNC_CPU,
	SYNC_LAST,
	REG_WRITE,
	REG_READ,
	CONFIG_WRITE,
	RESET,
	IRQS_ON,
	IRQS_OFF,
	UNMASK,
	TURN_FULL
};

static struct {
	struct pci_dev dev;
	uint8_t config[256];
	_Alignas(0x4000) uint8_t bar0[BAR0_LEN];
	_Alignas(0x4000) uint8_t bar2[HOST_PAGE];
	uint8_t bar4[BAR4_LEN];
	uint8_t bar5[BAR5_LEN];
	unsigned decodes; /* of the command register, always */
	unsigned irq_index, nr_irqs;
	int fds[64];
	int irq_ret;
} d;

static struct pci_dev *plugged; /* what the function is made of: d.dev, or a copy */

static enum event events[64];
static unsigned nr_log;

static struct {
	unsigned nr_msi, devid;
	uint64_t gpa;
	uint32_t data;
	bool level[4];
	unsigned nr_raised;
	struct {
		uint64_t gpa, len;
		uint8_t *hva;
	} slots[16];
	int map_ret;
	struct {
		bool used;
		uint64_t gpa;
		uint32_t data, devid;
	} routes[8];
	unsigned max_routes; /* of them that can be had */
	struct {
		int fd, route;
	} irqfds[8]; /* fd 0: none */
	int irqfd_ret;
} m;

static struct bus *bus;
static struct pci_host *host;
static struct pci_machine machine;
static struct pci_lines lines = {.lock = FAIR_INITIALIZER};
static struct pci_front *func;

static void note(enum event e)
{
	if (nr_log < ARRAY_SIZE(events))
		events[nr_log++] = e;
}

/* ---- unplugging in the middle of an access
 * --------------------------------------------------------------------------------- */

enum place { NOWHERE, BEFORE_THE_LOCK, AT_FIRST, AT_THE_GUARD };

static struct {
	enum place place; /* where the accessing thread has it done */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool waits, done; /* the thread, for who is inside; it has closed the device */
} pull = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void pull_is(bool *what)
{
	pthread_mutex_lock(&pull.lock);
	*what = true;
	pthread_cond_broadcast(&pull.changed);
	pthread_mutex_unlock(&pull.lock);
}

static void *unplug(void *arg);

/* pull_at - to be called there: goes on when the device is closed, or that waits for the caller */
static void pull_at(enum place place)
{
	if (pull.place != place)
		return;
	pull.place = NOWHERE;
	assert_int_equal(pthread_create(&pull.thread, NULL, unplug, NULL), 0);
	pthread_mutex_lock(&pull.lock);
	while (!pull.waits && !pull.done)
		pthread_cond_wait(&pull.changed, &pull.lock);
	pthread_mutex_unlock(&pull.lock);
}

uint64_t __real_trace_begin(const struct trace *trace);
uint64_t __wrap_trace_begin(const struct trace *trace);
uint64_t __wrap_trace_begin(const struct trace *trace)
{
	pull_at(AT_FIRST);
	return __real_trace_begin(trace);
}

int __real_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
	pull_at(BEFORE_THE_LOCK);
	return __real_pthread_rwlock_rdlock(lock);
}

int __real_pthread_rwlock_wrlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock);
int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
	if (!pthread_rwlock_trywrlock(lock))
		return 0;
	pull_is(&pull.waits);
	return __real_pthread_rwlock_wrlock(lock);
}

/* ---- the mediator
 * --------------------------------------------------------------------------------- */

static bool needs_sync;
static char endpoint_storage;
#define EP ((struct endpoint *)&endpoint_storage)

bool endpoint_needs_sync(const struct endpoint *ep)
{
	(void)ep;
	return needs_sync;
}

static void (*trap_fn)(void *ctx, enum trap_state state);
static void *trap_ctx;

void endpoint_set_trap(struct endpoint *ep, void (*trap)(void *ctx, enum trap_state state),
		       void *ctx)
{
	assert_ptr_equal(ep, EP);
	assert_true(needs_sync);
	trap_fn = trap;
	trap_ctx = ctx;
}

static bool guarded;

void endpoint_set_guarded(struct endpoint *ep, bool on)
{
	assert_ptr_equal(ep, EP);
	guarded = on;
}

bool endpoint_stays_trapped(const struct endpoint *ep)
{
	assert_ptr_equal(ep, EP);
	return guarded;
}

void endpoint_turn_full(struct endpoint *ep)
{
	assert_ptr_equal(ep, EP);
	note(TURN_FULL);
}

void endpoint_sync_for_device(struct endpoint *ep)
{
	assert_ptr_equal(ep, EP);
	note(SYNC_DEV);
}

static struct evloop *until_sync; /* NULL: none runs until then */

void endpoint_sync_for_cpu(struct endpoint *ep)
{
	assert_ptr_equal(ep, EP);
	note(SYNC_CPU);
	if (until_sync)
		evloop_stop(until_sync, SYNC_CPU);
}

static void (*at_last_sync)(void); /* NULL: nothing; once */

void endpoint_sync_all_for_cpu(struct endpoint *ep)
{
	void (*then)(void) = at_last_sync;

	assert_ptr_equal(ep, EP);
	assert_false(get_le16(d.config + PCI_COMMAND) & PCI_COMMAND_MASTER);
	note(SYNC_LAST);
	at_last_sync = NULL;
	if (then)
		then();
}

static struct ring_place ring_place;
static int ring_live = -1; /* the last one told of; -1: none */
static int ring_ret;

int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place)
{
	assert_ptr_equal(ep, EP);
	ring_live = place ? (int)ring : -1;
	if (place)
		ring_place = *place;
	pull_at(AT_THE_GUARD);
	return ring_ret;
}

int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	(void)ep;
	assert_int_equal(access, MAP_WRITE);
	/* one page of IOVA is the doorbell, one is RAM, the rest is not mapped */
	if (iova >> 16 == 0xabcd)
		*gpa = LAYOUT_DOORBELL_BASE + (iova & 0xffff);
	else if (iova >> 16 == 0xabce)
		*gpa = LAYOUT_RAM_LOW_BASE + (iova & 0xffff);
	else
		return -EFAULT;
	return 0;
}

/* ---- the device
 * ------------------------------------------------------------------------------------ */

static uint8_t *region(unsigned index, uint64_t off, unsigned len)
{
	static const uint64_t sizes[] = {BAR0_LEN, 0, BAR2_LEN, 0, BAR4_LEN, BAR5_LEN, 0, 256};
	uint8_t *const bases[] = {d.bar0, NULL, d.bar2, NULL, d.bar4, d.bar5, NULL, d.config};

	assert_in_range(index, 0, 7);
	assert_true(off + len <= sizes[index]);
	return bases[index] + off;
}

static int dev_read(struct pci_dev *dev, unsigned index, uint64_t off, void *buf, unsigned len)
{
	assert_ptr_equal(dev, plugged);
	assert_true(len == 256 || off % len == 0);
	memcpy(buf, region(index, off, len), len);
	note(REG_READ);
	return 0;
}

static int dev_write(struct pci_dev *dev, unsigned index, uint64_t off, const void *buf,
		     unsigned len)
{
	assert_ptr_equal(dev, plugged);
	assert_int_equal(off % len, 0);
	if (index == VFIO_PCI_CONFIG_REGION_INDEX) {
		bool command = off == PCI_COMMAND && len == 2;
		/* between capabilities, or 0xf0 and on */
		bool unclaimed =
			(off >= 0x48 && off + len <= 0x50) || (off >= 0xac && off + len <= 0xb0) ||
			(off >= 0xbc && off + len <= 0xc0) || (off >= 0xd0 && off + len <= 0xe0) ||
			(off >= 0xe8 && off + len <= 0x100) || (off >= 0xe6 && off + len <= 0xe8);

		if (!command && !unclaimed)
			fail_msg("config write of %u bytes at %#x reached the device", len,
				 (unsigned)off);
		if (command)
			assert_int_equal(get_le16(buf) & ~PCI_COMMAND_MASTER, d.decodes);
		note(CONFIG_WRITE);
	} else {
		note(REG_WRITE);
	}
	memcpy(region(index, off, len), buf, len);
	return 0;
}

static int dev_set_irqs(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds)
{
	(void)dev;
	if (!nr) {
		/* off only what is on */
		assert_int_equal(index, d.irq_index);
		assert_true(d.nr_irqs);
		d.nr_irqs = 0;
		note(IRQS_OFF);
		return 0;
	}
	assert_int_equal(d.nr_irqs, 0); /* VFIO wants the old index off first */
	if (d.irq_ret)
		return d.irq_ret;
	d.irq_index = index;
	d.nr_irqs = nr;
	assert_in_range(nr, 1, 64);
	memcpy(d.fds, fds, nr * sizeof(*fds));
	for (unsigned i = 0; i < nr; i++)
		assert_true(fds[i] >= 0);
	note(IRQS_ON);
	return 0;
}

static void dev_unmask(struct pci_dev *dev)
{
	(void)dev;
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	assert_int_equal(d.nr_irqs, 1);
	note(UNMASK);
}

static int dev_reset(struct pci_dev *dev)
{
	(void)dev;
	assert_int_equal(d.nr_irqs, 0);
	note(RESET);
	return 0;
}

static const struct pci_dev_ops dev_ops = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
	.unmask_intx = dev_unmask,
	.reset = dev_reset,
};

static void cap(unsigned pos, unsigned id, unsigned next)
{
	d.config[pos] = (uint8_t)id;
	d.config[pos + 1] = (uint8_t)next;
}

static void power_on(void)
{
	uint8_t *c = d.config;

	memset(&d, 0, sizeof(d));
	d.dev = (struct pci_dev){.ops = &dev_ops, .name = "0000:01:00.0", .can_reset = true};
	d.dev.bars[0] = (struct pci_dev_bar){BAR0_LEN, 1, {{0, BAR0_LEN, d.bar0}}};
	d.dev.bars[2] = (struct pci_dev_bar){BAR2_LEN, 1, {{0, BAR2_LEN, d.bar2}}};
	d.dev.bars[4].size = BAR4_LEN;
	d.dev.bars[5].size = BAR5_LEN;
	d.decodes = DECODES;
	d.dev.nr_intx = 1;
	d.dev.nr_msi = 8;
	d.dev.nr_msix = NR_MSIX;

	memset(c + 0x40, 0xee, 0xc0); /* device-specific registers */
	put_le32(c, 0x12345678);
	put_le16(c + PCI_STATUS, PCI_STATUS_CAP_LIST | PCI_STATUS_SIG_SYSTEM_ERROR);
	put_le32(c + PCI_CLASS_REVISION, 0x02000001);
	c[PCI_HEADER_TYPE] = 0x80;
	put_le32(c + PCI_BASE_ADDRESS_0, 0xdead0000 | PCI_BASE_ADDRESS_MEM_TYPE_64);
	put_le32(c + PCI_BASE_ADDRESS_1, 0x77);
	put_le32(c + PCI_BASE_ADDRESS_2, 0xbeef0000);
	put_le32(c + PCI_BASE_ADDRESS_4, 0xe001);
	put_le32(c + PCI_BASE_ADDRESS_5, 0xbaad0000);
	put_le32(c + PCI_ROM_ADDRESS, 0xf0000001);
	c[PCI_INTERRUPT_PIN] = 1;
	c[PCI_INTERRUPT_LINE] = 99;

	c[PCI_CAPABILITY_LIST] = CAP_PM;
	cap(CAP_PM, PCI_CAP_ID_PM, CAP_MSI);
	put_le16(c + CAP_PM + 2, 0xffff);
	put_le32(c + CAP_PM + 4, 0xffffffff);
	cap(CAP_MSI, PCI_CAP_ID_MSI, CAP_VPD);
	put_le16(c + CAP_MSI + 2,
		 PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 3 << 1); /* 8 vectors */
	memset(c + CAP_MSI + 4, 0, 20);
	cap(CAP_VPD, PCI_CAP_ID_VPD, CAP_EXP);
	cap(CAP_EXP, PCI_CAP_ID_EXP, CAP_MSIX);
	put_le16(c + CAP_EXP + 2, 0x0102); /* version 2, endpoint, slot */
	put_le32(c + CAP_EXP + 4, 0x8001);
	put_le16(c + CAP_EXP + 8, 0x2810);
	cap(CAP_MSIX, PCI_CAP_ID_MSIX, CAP_VNDR);
	put_le16(c + CAP_MSIX + 2, NR_MSIX - 1);
	put_le32(c + CAP_MSIX + 4, TABLE);
	put_le32(c + CAP_MSIX + 8, PBA);
	cap(CAP_VNDR, PCI_CAP_ID_VNDR, CAP_AF);
	c[CAP_VNDR + 2] = 0x10;
	cap(CAP_AF, PCI_CAP_ID_AF, CAP_VPD); /* loops back */
}

/* ---- the machine
 * ------------------------------------------------------------------------------------ */

static void set_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx;
	assert_in_range(line, 0, 3);
	m.level[line] = level;
	m.nr_raised += level;
}

static int msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx;
	m.nr_msi++;
	m.gpa = gpa;
	m.data = data;
	m.devid = devid;
	return 0;
}

static int map(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	(void)ctx;
	assert_true(len && gpa % HOST_PAGE == 0 && len % HOST_PAGE == 0 &&
		    (uintptr_t)hva % HOST_PAGE == 0);
	if (m.map_ret)
		return m.map_ret;
	for (int i = 0; i < (int)ARRAY_SIZE(m.slots); i++) {
		if (m.slots[i].len)
			continue;
		m.slots[i].gpa = gpa;
		m.slots[i].len = len;
		m.slots[i].hva = hva;
		return i;
	}
	return -ENOSPC;
}

static void unmap(void *ctx, int slot)
{
	(void)ctx;
	assert_in_range(slot, 0, ARRAY_SIZE(m.slots) - 1);
	assert_true(m.slots[slot].len);
	m.slots[slot].len = 0;
}

static int route(void *ctx, int nr, uint64_t gpa, uint32_t data, uint32_t devid)
{
	int i = nr < 0 ? 0 : nr;

	(void)ctx;
	while (nr < 0 && i < (int)m.max_routes && m.routes[i].used)
		i++;
	if (i == (int)m.max_routes)
		return -ENOSPC;
	assert_true(nr < 0 || m.routes[i].used);
	for (unsigned n = 0; n < ARRAY_SIZE(m.irqfds); n++)
		assert_true(!m.irqfds[n].fd || m.irqfds[n].route != i);
	m.routes[i].used = true;
	m.routes[i].gpa = gpa;
	m.routes[i].data = data;
	m.routes[i].devid = devid;
	return i;
}

static void unroute(void *ctx, int nr)
{
	(void)ctx;
	assert_true(m.routes[nr].used);
	for (unsigned n = 0; n < ARRAY_SIZE(m.irqfds); n++)
		assert_true(!m.irqfds[n].fd || m.irqfds[n].route != nr);
	m.routes[nr].used = false;
}

static int irqfd(void *ctx, int fd, int nr)
{
	unsigned i = 0;

	(void)ctx;
	assert_true(fd > 0 && m.routes[nr].used);
	if (m.irqfd_ret)
		return m.irqfd_ret;
	for (unsigned n = 0; n < ARRAY_SIZE(m.irqfds); n++)
		assert_int_not_equal(m.irqfds[n].fd, fd);
	while (m.irqfds[i].fd)
		i++;
	m.irqfds[i].fd = fd;
	m.irqfds[i].route = nr;
	return 0;
}

static void irqfd_off(void *ctx, int fd, int nr)
{
	unsigned i = 0;

	(void)ctx;
	while (i < ARRAY_SIZE(m.irqfds) && m.irqfds[i].fd != fd)
		i++;
	assert_true(i < ARRAY_SIZE(m.irqfds) && m.irqfds[i].route == nr);
	m.irqfds[i].fd = 0;
}

/* The message that a signal of @fd is delivered as; 0: the event loop hears of it. */
static uint32_t irqfd_data(int fd)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m.irqfds); i++) {
		if (m.irqfds[i].fd != fd)
			continue;
		assert_true(m.routes[m.irqfds[i].route].gpa == DOORBELL);
		assert_int_equal(m.routes[m.irqfds[i].route].devid, DEVFN);
		return m.routes[m.irqfds[i].route].data;
	}
	return 0;
}

static unsigned nr_irqfds(void)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(m.irqfds); i++)
		nr += m.irqfds[i].fd != 0;
	return nr;
}

static unsigned nr_slots(void)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(m.slots); i++)
		nr += m.slots[i].len != 0;
	return nr;
}

static int resample(void *ctx, unsigned line)
{
	(void)ctx, (void)line;
	return -ENOSYS; /* only the set asks for it */
}

/* ---- fixture
 * ---------------------------------------------------------------------------------------- */

static int create(struct endpoint *ep, bool sync)
{
	struct pci_front_cfg cfg = {
		.dev = plugged,
		.ep = ep,
		.host = host,
		.machine = &machine,
		.lines = &lines,
		.devfn = DEVFN,
	};
	char error[256];
	int ret;

	needs_sync = sync;
	func = NULL;
	ret = pci_front_create(&cfg, &func, error, sizeof(error));
	nr_log = 0;
	return ret;
}

static int a_machine(void **state)
{
	(void)state;
	memset(&m, 0, sizeof(m));
	m.max_routes = ARRAY_SIZE(m.routes);
	trap_fn = NULL;
	memset(lines.asserted, 0, sizeof(lines.asserted));
	power_on();
	plugged = &d.dev;
	assert_int_equal(bus_create(&bus), 0);
	machine = (struct pci_machine){.bus = bus,
				       .set_intx = set_intx,
				       .msi = msi,
				       .map = map,
				       .unmap = unmap,
				       .intx_resample = resample,
				       .route = route,
				       .unroute = unroute,
				       .irqfd = irqfd,
				       .irqfd_off = irqfd_off,
				       .host_page = HOST_PAGE};
	return pci_host_create(&machine, &host);
}

static int a_trapped_function(void **state)
{
	return a_machine(state) || create(EP, true);
}

static int a_mapped_function(void **state)
{
	return a_machine(state) || create(NULL, false);
}

static int gone(void **state)
{
	(void)state;
	if (func) {
		pci_front_quiesce(func);
		assert_int_equal(d.nr_irqs, 0);
		assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES);
		pci_front_quiesce(func);
	}
	pci_front_destroy(func);
	func = NULL;
	assert_int_equal(nr_slots(), 0);
	assert_int_equal(nr_irqfds(), 0);
	assert_null(trap_fn);
	for (unsigned i = 0; i < ARRAY_SIZE(m.routes); i++)
		assert_false(m.routes[i].used);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(lines.asserted[i], 0);
		assert_false(m.level[i]);
	}
	pci_host_destroy(host);
	bus_destroy(bus);
	return 0;
}

static uint64_t rd(uint64_t gpa, unsigned len)
{
	uint64_t val = 0;

	bus_access(bus, gpa, &val, len, false);
	return val;
}

static void wr(uint64_t gpa, unsigned len, uint64_t val)
{
	bus_access(bus, gpa, &val, len, true);
}

static uint32_t crd(unsigned reg, unsigned len)
{
	return (uint32_t)rd(LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000 + reg, len);
}

static void cwr(unsigned reg, unsigned len, uint32_t val)
{
	wr(LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000 + reg, len, val);
}

static uint64_t bar0(void)
{
	return (crd(0x10, 4) & ~0xfu) | (uint64_t)crd(0x14, 4) << 32;
}

static uint64_t bar2(void)
{
	return crd(0x18, 4) & ~0xfu;
}

/* Where the ports of BAR 4 are for the CPU. */
static uint64_t bar4(void)
{
	return LAYOUT_PCI_IO_BASE + (crd(0x20, 4) & ~3u);
}

static uint64_t bar5(void)
{
	return crd(0x24, 4) & ~0xfu;
}

static void enable(void)
{
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	nr_log = 0;
}

static void assert_log(unsigned nr, const enum event *want)
{
	assert_int_equal(nr_log, nr);
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(events[i], want[i]);
	nr_log = 0;
}

#define ASSERT_LOG(...)                                                                            \
	do {                                                                                       \
		const enum event e_[] = {__VA_ARGS__};                                             \
		assert_log(ARRAY_SIZE(e_), e_);                                                    \
	} while (0)

/* ---- config space
 * ------------------------------------------------------------------------------------ */

static void the_header_is_the_devices_without_its_addresses(void **state)
{
	(void)state;
	assert_int_equal(crd(0, 4), 0x12345678);
	assert_int_equal(crd(PCI_CLASS_REVISION, 4), 0x02000001);
	assert_int_equal(crd(PCI_COMMAND, 2), 0);
	assert_int_equal(crd(PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	assert_int_equal(crd(PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(crd(PCI_ROM_ADDRESS, 4), 0);
	cwr(PCI_ROM_ADDRESS, 4, UINT32_MAX);
	assert_int_equal(crd(PCI_ROM_ADDRESS, 4), 0);
	assert_int_equal(crd(PCI_INTERRUPT_PIN, 1), 1);
	cwr(PCI_INTERRUPT_LINE, 2, 0xff2a);
	assert_int_equal(crd(PCI_INTERRUPT_LINE, 2), 0x012a);
	assert_int_equal(crd(0x100, 4), 0);
	assert_int_equal(crd(0xffc, 4), 0);
	cwr(0x100, 4, UINT32_MAX);
}

static void the_capability_list_holds_what_is_safe(void **state)
{
	static const uint8_t want[][2] = {{CAP_PM, PCI_CAP_ID_PM},
					  {CAP_MSI, PCI_CAP_ID_MSI},
					  {CAP_EXP, PCI_CAP_ID_EXP},
					  {CAP_MSIX, PCI_CAP_ID_MSIX},
					  {CAP_VNDR, PCI_CAP_ID_VNDR}};
	unsigned pos = crd(PCI_CAPABILITY_LIST, 1);

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		assert_int_equal(pos, want[i][0]);
		assert_int_equal(crd(pos, 1), want[i][1]);
		pos = crd(pos + 1, 1);
	}
	assert_int_equal(pos, 0);
	/* hidden ones are gone altogether */
	for (unsigned off = 0; off < 8; off += 4)
		assert_int_equal(crd(CAP_VPD + off, 4), 0);
	assert_int_equal(crd(CAP_AF, 4), 0);
}

static void power_states_are_pretended(void **state)
{
	(void)state;
	assert_int_equal(crd(CAP_PM + 2, 2), 3); /* no PME, D1, D2 */
	cwr(CAP_PM + 4, 2, 0xffff);
	assert_int_equal(crd(CAP_PM + 4, 4), 0x0b); /* D3, no soft reset */
	cwr(CAP_PM + 4, 2, 0);
	assert_int_equal(crd(CAP_PM + 4, 4), 0x08);
}

static void pci_express_is_an_integrated_endpoint_without_link(void **state)
{
	(void)state;
	assert_int_equal(crd(CAP_EXP + 2, 2), 0x0092);
	assert_int_equal(crd(CAP_EXP + PCI_EXP_DEVCAP, 4), 0x8001 | PCI_EXP_DEVCAP_FLR);
	assert_int_equal(crd(CAP_EXP + PCI_EXP_DEVCTL, 2), 0x2810);
	for (unsigned reg = PCI_EXP_LNKCAP; reg < 0x3c; reg += 4) {
		cwr(CAP_EXP + reg, 4, UINT32_MAX);
		assert_int_equal(crd(CAP_EXP + reg, 4), 0);
	}
}

static void registers_of_no_capability_are_the_devices(void **state)
{
	(void)state;
	nr_log = 0;
	assert_int_equal(crd(0x4c, 4), 0xeeeeeeee);
	ASSERT_LOG(REG_READ, SYNC_CPU);
	cwr(0xf2, 2, 0x1234);
	ASSERT_LOG(SYNC_DEV, CONFIG_WRITE, SYNC_CPU);
	assert_int_equal(get_le16(d.config + 0xf2), 0x1234);
	/* a dword that is half a hidden capability's, half the device's */
	cwr(0xe4, 4, 0x55667788);
	assert_int_equal(crd(0xe4, 4), 0x55660000);
}

static void vendor_capabilities_are_read_only(void **state)
{
	(void)state;
	cwr(CAP_VNDR + 4, 4, 0x12345678);
	assert_int_equal(crd(CAP_VNDR + 4, 4), 0xeeeeeeee);
	assert_int_equal(crd(CAP_VNDR + 2, 1), 0x10);
}

static void bus_mastering_reaches_the_device_and_decoding_stays_on(void **state)
{
	(void)state;
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES | PCI_COMMAND_MASTER);
	assert_int_equal(crd(PCI_COMMAND, 2), PCI_COMMAND_MASTER);
	cwr(PCI_COMMAND, 2, 0xffff);
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES | PCI_COMMAND_MASTER);
	assert_int_equal(crd(PCI_COMMAND, 2), 0x0547);
	cwr(PCI_COMMAND, 2, 0);
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES);
}

static void a_capability_list_that_cannot_be_is_cut_short(void **state)
{
	static const uint8_t starts[] = {0x04, 0xff, 0xfc, 0x40, 0x41};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(starts); i++) {
		power_on();
		memset(d.config + 0x40, i == 2 ? PCI_CAP_ID_MSIX : 0xee, 0xc0);
		d.config[PCI_CAPABILITY_LIST] = starts[i];
		if (starts[i] == 0x41) { /* PCIe and MSI-X, each cut by the next */
			cap(0x40, PCI_CAP_ID_EXP, 0x44);
			cap(0x44, PCI_CAP_ID_MSIX, 0x48);
			cap(0x48, PCI_CAP_ID_MSI, 0x4c);
			cap(0x4c, PCI_CAP_ID_VNDR, 0x50);
			cap(0x50, PCI_CAP_ID_PM, 0x54);
			cap(0x54, PCI_CAP_ID_PM, 0x40);
			d.config[0x4e] = 0;
		}
		assert_int_equal(create(NULL, false), 0);
		for (unsigned pos = crd(PCI_CAPABILITY_LIST, 1), n = 0; pos; n++) {
			assert_true(n < 48);
			pos = crd(pos + 1, 1);
		}
		if (starts[i] == 0x41) { /* the vendor's, of 4 bytes, and the last are whole */
			assert_int_equal(crd(PCI_CAPABILITY_LIST, 1), 0x4c);
			assert_int_equal(crd(0x4d, 1), 0x54);
			assert_int_equal(crd(0x55, 1), 0);
		}
		assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

static void an_msix_table_that_is_in_no_bar_is_hidden(void **state)
{
	static const uint32_t tables[] = {0x4000, 0x3fd0, 0x2001, 0x2002 | 0xff0,
					  0x2004, 0x2006, 0x2007, 0xfffffff8};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
		power_on();
		put_le32(d.config + CAP_MSIX + 4, tables[i]);
		assert_int_equal(create(NULL, false), 0);
		assert_int_equal(crd(CAP_MSIX, 4), 0);
		cwr(CAP_MSIX, 4, UINT32_MAX);
		assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

/* ---- BARs
 * -------------------------------------------------------------------------------------------- */

static void bars_are_sized_by_writing_ones(void **state)
{
	(void)state;
	assert_int_equal(crd(0x10, 4) & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	for (unsigned reg = 0x10; reg < 0x28; reg += 4)
		cwr(reg, 4, UINT32_MAX);
	assert_int_equal(crd(0x10, 4), 0xffffc004);
	assert_int_equal(crd(0x14, 4), 0xffffffff);
	assert_int_equal(crd(0x18, 4), 0xffffc000); /* a host page: it may be mapped */
	assert_int_equal(crd(0x1c, 4), 0);
	assert_int_equal(crd(0x20, 4), 0xffffffe1);
	assert_int_equal(crd(0x24, 4), 0xffff0000);
}

static void bars_have_addresses_in_the_windows_64_kib_apart(void **state)
{
	(void)state;
	assert_true(pci_in_window(bar0(), BAR0_LEN));
	assert_true(pci_in_window(bar2(), BAR2_LEN));
	assert_true(pci_in_window(bar5(), BAR5_LEN));
	assert_int_equal(bar0() & 0xffff, 0);
	assert_int_equal(bar2() & 0xffff, 0);
	assert_int_not_equal(bar0(), bar2());
}

static void a_bar_answers_only_while_memory_is_enabled(void **state)
{
	(void)state;
	put_le32(d.bar0 + 0x1000, 0xcafe);
	assert_int_equal(rd(bar0() + 0x1000, 4), UINT32_MAX);
	enable();
	assert_int_equal(rd(bar0() + 0x1000, 4), 0xcafe);
	cwr(PCI_COMMAND, 2, 0);
	assert_int_equal(rd(bar0() + 0x1000, 4), UINT32_MAX);
}

static int never_read(struct pci_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len)
{
	(void)dev, (void)region, (void)off, (void)buf, (void)len;
	fail_msg("the device is gone, and is read");
	return 0;
}

static int never_written(struct pci_dev *dev, unsigned region, uint64_t off, const void *buf,
			 unsigned len)
{
	(void)dev, (void)region, (void)off, (void)buf, (void)len;
	fail_msg("the device is gone, and is written to");
	return 0;
}

static void a_function_that_is_unplugged_reads_as_ones_and_touches_nothing(void **state)
{
	static struct pci_dev_ops none = {.read = never_read, .write = never_written};
	const struct pci_dev_ops *was = d.dev.ops;
	uint64_t at = bar0();

	(void)state;
	put_le32(d.bar0 + 0x10, 0xcafe);
	enable();
	assert_int_equal(rd(at + 0x10, 4), 0xcafe);
	pci_front_unplug(func);
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES);
	d.dev.ops = &none;
	assert_int_equal(crd(PCI_VENDOR_ID, 4), UINT32_MAX);
	assert_int_equal(rd(at + 0x10, 4), UINT32_MAX);
	wr(at + 0x10, 4, 1);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(rd(at + 0x10, 4), UINT32_MAX);
	d.dev.ops = was;
}

/* Another vCPU moves the BARs away, for whose handlers bus_remove() does not wait then; the host
 * takes the device back. */
static void *unplug(void *arg)
{
	(void)arg;
	cwr(PCI_COMMAND, 2, 0);
	pci_front_unplug(func);
	free(plugged);
	pull_is(&pull.done);
	return NULL;
}

/* a_function_to_pull - its device is on the heap, to be freed by who closes it */
static void a_function_to_pull(void)
{
	plugged = malloc(sizeof(*plugged));
	assert_non_null(plugged);
	*plugged = d.dev;
	assert_int_equal(create(EP, true), 0);
	enable();
	pull.waits = pull.done = false;
}

static void assert_pulled(bool waited)
{
	assert_int_equal(pull.place, NOWHERE);
	pthread_join(pull.thread, NULL);
	assert_int_equal(pull.waits, waited);
	assert_true(pull.done);
}

static void a_device_is_there_until_the_register_access_ends(void **state)
{
	uint64_t at;

	(void)state;
	a_function_to_pull();
	put_le32(d.bar0 + 0x10, 0xcafe);
	at = bar0() + 0x10;
	pull.place = AT_FIRST;
	assert_int_equal(rd(at, 4), 0xcafe);
	assert_pulled(true);
}

static int at_the_doorbell(struct pci_dev *dev, uint64_t addr, uint64_t *gpa)
{
	assert_ptr_equal(dev, plugged);
	*gpa = addr;
	return 0;
}

static void a_device_is_there_until_the_pending_message_is_sent(void **state)
{
	static struct pci_dev_ops ops;
	uint64_t at;

	(void)state;
	ops = dev_ops;
	ops.msi_target = at_the_doorbell;
	d.dev.ops = &ops;
	a_function_to_pull();
	at = bar0() + TABLE;
	wr(at, 8, DOORBELL);
	wr(at + 8, 4, 70);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	pci_front_fire(func, 0);
	assert_int_equal(m.nr_msi, 0);
	pull.place = AT_FIRST;
	wr(at + 12, 4, 0);
	assert_pulled(true);
	assert_int_equal(m.nr_msi, 1);
}

/* virtio_function - one whose common configuration structure is in BAR 5 at 0x100 */
static void virtio_function(void)
{
	uint8_t *cap = d.config + CAP_VNDR;

	put_le16(d.config, 0x1af4);
	memset(cap + 3, 0, 13);
	cap[3] = 1; /* VIRTIO_PCI_CAP_COMMON_CFG */
	cap[4] = 5;
	put_le32(cap + 8, 0x100);
	put_le32(d.bar5 + 0x104, UINT32_MAX); /* features */
	put_le32(d.bar5 + 0x128, 0x7000);     /* available ring */
	put_le32(d.bar5 + 0x130, 0x8000);     /* used ring */
	put_le16(d.bar5 + 0x116, 2);	      /* queue select */
	ring_live = -1;
}

static void a_device_is_there_until_its_guard_has_spoken(void **state)
{
	(void)state;
	virtio_function();
	a_function_to_pull();
	ring_ret = -ENOSPC; /* there is something to say */
	pull.place = AT_THE_GUARD;
	wr(bar5() + 0x11c, 2, 1);
	ring_ret = 0;
	assert_pulled(true);
	assert_int_equal(get_le16(d.bar5 + 0x11c), 1);
}

static void an_access_that_comes_as_the_device_goes_finds_nothing(void **state)
{
	static const struct {
		uint64_t off;
		bool write;
	} accesses[] = {{0x10, false}, {0x10, true},	   {TABLE, false},
			{TABLE, true}, {TABLE + 12, true}, {PBA, false}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(accesses); i++) {
		uint64_t at;

		a_function_to_pull();
		at = bar0() + accesses[i].off;
		nr_log = 0;
		pull.place = BEFORE_THE_LOCK;
		if (accesses[i].write)
			wr(at, 4, 0xcafe);
		else
			assert_int_equal(rd(at, 4), UINT32_MAX);
		assert_pulled(false);
		assert_int_equal(get_le32(d.bar0 + accesses[i].off), 0);
		pci_front_destroy(func);
		func = NULL;
	}
}

static void time_is_up(void *ctx)
{
	evloop_stop(ctx, 0);
}

/* run_until_sync - for @ns at most. Return: SYNC_CPU; 0: there was no sync. */
static int run_until_sync(struct evloop *loop, uint64_t ns)
{
	struct evloop_watch *watch;
	int status;

	assert_int_equal(evloop_add_timer(loop, ns, time_is_up, loop, &watch), 0);
	until_sync = loop;
	status = evloop_run(loop);
	until_sync = NULL;
	return status;
}

static void a_device_that_is_unplugged_is_not_polled(void **state)
{
	static const struct {
		bool unplugged;
		uint64_t ns;
		int status;
	} runs[] = {{false, UINT64_C(60000000000), SYNC_CPU}, {true, 20000000, 0}};

	(void)state;
	machine.intx_resample = NULL;
	needs_sync = true;
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		struct pci_fronts *fronts;
		struct evloop *loop;

		assert_int_equal(evloop_create(0, &loop), 0);
		assert_int_equal(pci_fronts_create(host, &machine, loop, &fronts), 0);
		assert_int_equal(pci_fronts_add(fronts, &d.dev, EP, POLL_US_MIN, DEVFN), 0);
		if (runs[i].unplugged)
			pci_fronts_unplug(fronts, &d.dev);
		assert_int_equal(run_until_sync(loop, runs[i].ns), runs[i].status);
		pci_fronts_destroy(fronts);
		evloop_destroy(loop);
	}
}

static void a_bar_that_moves_is_followed(void **state)
{
	uint64_t was = bar0(), to = LAYOUT_PCI_MEM64_BASE + 0x123454000;

	(void)state;
	put_le32(d.bar0 + 8, 0xcafe);
	enable();
	cwr(0x14, 4, (uint32_t)(to >> 32));
	cwr(0x10, 4, (uint32_t)to);
	assert_int_equal(rd(to + 8, 4), 0xcafe);
	assert_int_equal(rd(was + 8, 4), UINT32_MAX);
	/* out of the windows: nobody answers there */
	cwr(0x14, 4, 0);
	cwr(0x10, 4, LAYOUT_RAM_LOW_BASE);
	assert_int_equal(rd(LAYOUT_RAM_LOW_BASE + 8, 4), UINT32_MAX);
	cwr(0x10, 4, LAYOUT_GICD_BASE);
	assert_int_equal(rd(LAYOUT_GICD_BASE + 8, 4), UINT32_MAX);
	cwr(0x10, 4, (uint32_t)was);
	assert_int_equal(rd(was + 8, 4), 0xcafe);
}

static void two_bars_in_one_place_do_no_harm(void **state)
{
	uint64_t zero = bar0(), two = bar2();

	(void)state;
	put_le32(d.bar0, 0xa);
	put_le32(d.bar2, 0xb);
	enable();
	cwr(0x18, 4, (uint32_t)zero + 0x1000);
	assert_int_equal(rd(zero, 4), 0xa);
	assert_int_equal(rd(two, 4), UINT32_MAX);
	cwr(0x10, 4, (uint32_t)two); /* they change places */
	assert_int_equal(rd(two, 4), 0xa);
	cwr(0x18, 4, (uint32_t)zero);
	assert_int_equal(rd(zero, 4), 0xb);
}

static void ports_are_reached_while_io_is_enabled_and_where_the_bar_is(void **state)
{
	uint64_t was = bar4();

	(void)state;
	assert_true(crd(0x20, 4) & PCI_BASE_ADDRESS_SPACE_IO);
	assert_true(pci_in_io(was - LAYOUT_PCI_IO_BASE, BAR4_LEN));
	put_le32(d.bar4 + 0x1c, 0xcafe);
	enable();
	assert_int_equal(rd(was + 0x1c, 4), UINT32_MAX); /* memory is, I/O is not */
	cwr(PCI_COMMAND, 2, PCI_COMMAND_IO);
	assert_int_equal(rd(was + 0x1c, 4), 0xcafe);
	assert_int_equal(rd(bar5(), 4), UINT32_MAX);
	assert_int_equal(rd(was + 0x20, 4), UINT32_MAX);
	cwr(0x20, 4, 0xfff4); /* the last ones, whatever is in the lower bits */
	assert_int_equal(crd(0x20, 4), 0xffe1);
	assert_int_equal(rd(LAYOUT_PCI_IO_BASE + 0xfffc, 4), 0xcafe);
	assert_int_equal(rd(was + 0x1c, 4), UINT32_MAX);
	cwr(0x20, 4, 0); /* port 0 is a port */
	assert_int_equal(rd(LAYOUT_PCI_IO_BASE + 0x1c, 4), 0xcafe);
	cwr(0x20, 4, 0x10000); /* behind the last */
	assert_int_equal(rd(LAYOUT_PCI_IO_BASE + 0x1001c, 4), UINT32_MAX);
	cwr(0x20, 4, (uint32_t)LAYOUT_PCI_MEM32_BASE);
	assert_int_equal(rd(LAYOUT_PCI_MEM32_BASE + 0x1c, 4), UINT32_MAX);
	cwr(0x20, 4, (uint32_t)(was - LAYOUT_PCI_IO_BASE));
	assert_int_equal(rd(was + 0x1c, 4), 0xcafe);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(rd(was + 0x1c, 4), UINT32_MAX);
}

static void port_accesses_are_of_1_2_or_4_bytes_and_sync_points(void **state)
{
	(void)state;
	cwr(PCI_COMMAND, 2, PCI_COMMAND_IO);
	for (unsigned len = 1; len <= 4; len *= 2) {
		memset(d.bar4, 0xff, sizeof(d.bar4));
		nr_log = 0;
		wr(bar4() + 4, len, 0);
		ASSERT_LOG(SYNC_DEV, REG_WRITE);
		assert_int_equal(rd(bar4() + 4, len), 0);
		ASSERT_LOG(REG_READ, SYNC_CPU);
		assert_int_equal(d.bar4[4 + len], 0xff);
		assert_int_equal(d.bar4[3], 0xff);
	}
	memset(d.bar4, 0x11, sizeof(d.bar4));
	wr(bar4() + 8, 8, 0);
	wr(bar4() + 5, 2, 0);
	wr(bar4() + 6, 4, 0);
	assert_int_equal(rd(bar4() + 8, 8), UINT64_MAX);
	assert_int_equal(rd(bar4() + 5, 2), 0xffff);
	for (unsigned i = 0; i < BAR4_LEN; i++)
		assert_int_equal(d.bar4[i], 0x11);
}

static void the_rings_of_a_virtio_function_are_looked_after(void **state)
{
	(void)state;
	virtio_function();
	assert_int_equal(create(EP, true), 0);
	enable();
	assert_int_equal(rd(bar5() + 0x104, 4), 0xdfffffff); /* no RING_EVENT_IDX */
	nr_log = 0;
	wr(bar5() + 0x11c, 2, 1);
	assert_int_equal(ring_live, 2);
	assert_int_equal(ring_place.cpu_head, 0x7000);
	assert_int_equal(ring_place.device_head, 0x8000);
	/* before the device starts on it */
	assert_true(nr_log >= 2);
	assert_int_equal(events[nr_log - 2], SYNC_DEV);
	assert_int_equal(events[nr_log - 1], REG_WRITE);
	cwr(CAP_EXP + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
	assert_int_equal(ring_live, -1);
}

static void a_virtio_function_that_needs_no_sync_is_left_alone(void **state)
{
	(void)state;
	virtio_function();
	assert_int_equal(create(NULL, false), 0);
	enable();
	assert_int_equal(rd(bar5() + 0x104, 4), UINT32_MAX);
	wr(bar5() + 0x11c, 2, 1);
	assert_int_equal(ring_live, -1);
}

static void a_virtio_structure_that_is_nowhere_is_survived(void **state)
{
	static const struct {
		uint8_t bar;
		uint32_t off;
	} places[] = {{6, 0}, {255, 0}, {1, 0}, {3, 0x100}, {5, 0xfff8}, {5, UINT32_MAX}, {5, 3}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		virtio_function();
		d.config[CAP_VNDR + 4] = places[i].bar;
		put_le32(d.config + CAP_VNDR + 8, places[i].off);
		assert_int_equal(create(EP, true), 0);
		enable();
		for (unsigned off = 0; off < 0x40; off += 2) {
			wr(bar5() + ((places[i].off + off) & 0xfffe), 2, 1);
			(void)rd(bar5() + ((places[i].off + off) & 0xfffe), 2);
		}
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

/* function_of_ports - all the device has is BAR 4 */
static void function_of_ports(void)
{
	for (unsigned i = 0; i < PCI_DEV_BARS; i++)
		if (i != 4)
			d.dev.bars[i] = (struct pci_dev_bar){0};
}

static void a_function_with_ports_only_works_and_nothing_of_it_is_mapped(void **state)
{
	(void)state;
	function_of_ports();
	d.dev.bars[4].nr_areas = 1; /* which no kernel says of ports */
	d.dev.bars[4].areas[0] = (struct pci_dev_area){0, BAR4_LEN, d.bar2};
	put_le32(d.config + CAP_MSIX + 4, 4); /* nor is there an MSI-X table */
	put_le32(d.config + CAP_MSIX + 8, 4);
	assert_int_equal(create(NULL, false), 0);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
	cwr(0x20, 4, 0x8000); /* host pages of it, if it were memory */
	assert_int_equal(nr_slots(), 0);
	cwr(0x20, 4, UINT32_MAX);
	assert_int_equal(crd(0x20, 4), 0xffffffe1);
	assert_int_equal(crd(0x10, 4), 0);
	assert_int_equal(crd(CAP_MSIX, 4), 0);
	cwr(0x20, 4, 0x1000);
	d.bar2[3] = 5;
	assert_int_equal(rd(bar4() + 3, 1), 5);
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	cwr(CAP_MSI + 2, 2, PCI_MSI_FLAGS_ENABLE);
	assert_int_equal(d.irq_index, VFIO_PCI_MSI_IRQ_INDEX);
}

static void impossible_numbers_of_ports_are_hidden(void **state)
{
	static const uint64_t lens[] = {1, 2, 24, 0x20000, UINT64_C(1) << 32, UINT64_MAX};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		d.dev.bars[4].size = lens[i];
		d.decodes = PCI_COMMAND_MEMORY;
		assert_int_equal(create(NULL, false), 0);
		cwr(0x20, 4, UINT32_MAX);
		assert_int_equal(crd(0x20, 4), 0);
		cwr(PCI_COMMAND, 2, 0xffff);
		assert_int_equal(crd(PCI_COMMAND, 2), 0x0546);
		/* nor does the device decode what nobody can reach */
		assert_int_equal(get_le16(d.config + PCI_COMMAND), d.decodes | PCI_COMMAND_MASTER);
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

static void ports_that_are_used_up_are_an_error(void **state)
{
	(void)state;
	d.dev.bars[4].size = LAYOUT_PCI_IO_LEN;
	assert_int_equal(create(NULL, false), -ENOSPC);
}

static void accesses_are_made_at_the_guests_size(void **state)
{
	static const unsigned lens[] = {1, 2, 4, 8};

	(void)state;
	enable();
	for (unsigned i = 0; i < 4; i++) {
		uint64_t val = UINT64_C(0x1122334455667788) >> (64 - 8 * lens[i]);

		memset(d.bar0 + 0x10, 0xff, 16);
		memset(d.bar5 + 0x10, 0xff, 16);
		wr(bar0() + 0x10, lens[i], val);
		wr(bar5() + 0x10, lens[i], val);
		assert_int_equal(rd(bar0() + 0x10, lens[i]), val);
		assert_int_equal(rd(bar5() + 0x10, lens[i]), val);
		assert_int_equal(d.bar0[0x10 + lens[i]], 0xff);
		assert_int_equal(d.bar5[0x10 + lens[i]], 0xff);
	}
	/* unaligned ones would be a fault of ours: they go nowhere */
	memset(d.bar0 + 0x10, 0x11, 16);
	wr(bar0() + 0x11, 2, 0);
	wr(bar0() + 0x12, 4, 0);
	wr(bar0() + 0x14, 8, 0);
	assert_int_equal(rd(bar0() + 0x13, 2), 0xffff);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(d.bar0[0x10 + i], 0x11);
}

static void a_write_is_preceded_by_sync_and_a_read_followed(void **state)
{
	(void)state;
	enable();
	wr(bar5() + 0x100, 4, 1);
	(void)rd(LAYOUT_PCI_MEM32_BASE, 1);
	nr_log = 0;
	wr(bar5() + 0x100, 4, 1);
	ASSERT_LOG(SYNC_DEV, REG_WRITE);
	(void)rd(bar5() + 0x100, 4);
	ASSERT_LOG(REG_READ, SYNC_CPU);
	wr(bar0() + 0x1000, 4, 1);
	(void)rd(bar0() + 0x1000, 4);
	ASSERT_LOG(SYNC_DEV, SYNC_CPU);
	assert_int_equal(nr_slots(), 0);
}

static void a_device_that_is_stopped_has_nothing_left_to_bring(void **state)
{
	(void)state;
	enable();
	nr_log = 0;
	cwr(0x48, 4, 1); /* a register of its own */
	ASSERT_LOG(SYNC_DEV, CONFIG_WRITE, SYNC_CPU);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ASSERT_LOG(CONFIG_WRITE, SYNC_LAST);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ASSERT_LOG(CONFIG_WRITE, SYNC_CPU);
}

/* Another vCPU looks for the device, and lets it master again. */
static void use_it_once_more(void)
{
	assert_int_equal(crd(PCI_VENDOR_ID, 2), get_le16(d.config + PCI_VENDOR_ID));
	cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(get_le16(d.config + PCI_COMMAND) & PCI_COMMAND_MASTER);
	nr_log = 0;
}

static void a_device_that_is_unplugged_is_stopped_and_synced_before_and_after(void **state)
{
	(void)state;
	enable();
	pci_front_unplug(func);
	ASSERT_LOG(CONFIG_WRITE, REG_READ, SYNC_LAST, IRQS_OFF, CONFIG_WRITE, CONFIG_WRITE,
		   REG_READ, SYNC_LAST);
	pci_front_destroy(func);
	assert_int_equal(create(EP, true), 0);
	enable();
	at_last_sync = use_it_once_more;
	pci_front_unplug(func);
	assert_null(at_last_sync);
	ASSERT_LOG(IRQS_OFF, CONFIG_WRITE, CONFIG_WRITE, REG_READ, SYNC_LAST);
}

static void the_msix_table_does_not_swallow_its_neighbours(void **state)
{
	(void)state;
	enable();
	for (unsigned off = 0; off < BAR0_LEN; off += 4)
		wr(bar0() + off, 4, off | 1);
	for (unsigned off = 0; off < BAR0_LEN; off += 4) {
		bool emulated = (off >= TABLE && off < TABLE + NR_MSIX * 16) ||
				(off >= PBA && off < PBA + 8);

		assert_int_equal(get_le32(d.bar0 + off), emulated ? 0 : off | 1);
	}
	assert_int_equal(rd(bar0() + TABLE + 4, 4), (TABLE + 4) | 1);
	assert_int_equal(rd(bar0() + PBA, 8), 0);
}

static void pages_without_msix_are_mapped_when_nothing_needs_sync(void **state)
{
	(void)state;
	enable();
	/* BAR 0's only page holds the table; BAR 5 cannot be mapped; BAR 2 is shown as a whole page
	 */
	cwr(0x18, 4, UINT32_MAX);
	assert_int_equal(crd(0x18, 4), 0xffffc000);
	cwr(0x18, 4, LAYOUT_PCI_MEM32_BASE + 0x7f4000);
	assert_int_equal(nr_slots(), 1);
	assert_int_equal(m.slots[0].gpa, LAYOUT_PCI_MEM32_BASE + 0x7f4000);
	assert_int_equal(m.slots[0].len, HOST_PAGE);
	assert_ptr_equal(m.slots[0].hva, d.bar2);
	/* what is trapped all the same: inside the BAR the device, past it nothing */
	put_le32(d.bar2 + 0xffc, 7);
	assert_int_equal(rd(bar2() + 0xffc, 4), 7);
	assert_int_equal(rd(bar2() + 0x1000, 4), UINT32_MAX);
	assert_int_equal(rd(bar0() + TABLE + 12, 4), 1);
	cwr(PCI_COMMAND, 2, 0);
	assert_int_equal(nr_slots(), 0);
}

static void a_large_bar_is_mapped_around_its_msix_pages(void **state)
{
	static uint8_t big[0x20000] __attribute__((aligned(0x4000)));
	uint64_t base;

	(void)state;
	d.dev.bars[0] = (struct pci_dev_bar){sizeof(big), 1, {{0, sizeof(big), big}}};
	put_le32(d.config + CAP_MSIX + 4, 0x8010);
	put_le32(d.config + CAP_MSIX + 8, 0x1c000);
	assert_int_equal(create(NULL, false), 0);
	enable();
	base = bar0();
	/* 0..0x7fff, 0xc000..0x1bfff, and BAR 2 */
	assert_int_equal(nr_slots(), 3);
	assert_int_equal(m.slots[0].gpa, base);
	assert_int_equal(m.slots[0].len, 0x8000);
	assert_int_equal(m.slots[1].gpa, base + 0xc000);
	assert_int_equal(m.slots[1].len, 0x10000);
	assert_ptr_equal(m.slots[1].hva, big + 0xc000);
	big[0x8004] = 0x42;
	assert_int_equal(rd(base + 0x8004, 1), 0x42);
}

static void a_map_that_is_refused_leaves_the_bar_trapped(void **state)
{
	(void)state;
	m.map_ret = -EEXIST;
	enable();
	put_le32(d.bar2 + 4, 9);
	assert_int_equal(rd(bar2() + 4, 4), 9);
}

static void program_msix(unsigned vec, uint64_t addr, uint32_t data, bool masked)
{
	uint64_t entry = bar0() + TABLE + 16 * vec;

	wr(entry, 8, addr);
	wr(entry + 8, 4, data);
	wr(entry + 12, 4, masked);
}

/* ---- trapped, direct, and back
 * ------------------------------------------------------------------------- */

static void tell(enum trap_state state)
{
	assert_non_null(trap_fn);
	trap_fn(trap_ctx, state);
}

/* MSI-X in a BAR of its own. */
static int a_plain_function(void **state)
{
	int ret = a_machine(state);

	put_le32(d.config + CAP_MSIX + 4, 0x1000 | 5);
	put_le32(d.config + CAP_MSIX + 8, 0x2000 | 5);
	return ret || create(EP, true);
}

static void long_packets_of_an_e1000e_need_every_slot_synced(void **state)
{
	(void)state;
	put_le32(d.config, 0x10d38086);
	assert_int_equal(create(EP, true), 0);
	enable();
	nr_log = 0;
	wr(bar0() + 0x100, 4, 0x04048002);
	ASSERT_LOG(SYNC_DEV);
	wr(bar0() + 0x100, 4, 0x04048022);
	ASSERT_LOG(TURN_FULL, SYNC_DEV);
	wr(bar5() + 0x100, 4, 0x04048022);
	ASSERT_LOG(SYNC_DEV, REG_WRITE);
}

static void program_vector(unsigned vec, uint64_t addr, uint32_t data, bool masked)
{
	uint64_t entry = bar5() + 0x1000 + 16 * vec;

	wr(entry, 8, addr);
	wr(entry + 8, 4, data);
	wr(entry + 12, 4, masked);
}

static void what_the_mediator_says_is_done_before_it_goes_on(void **state)
{
	(void)state;
	enable();
	program_vector(0, DOORBELL, 70, false);
	program_vector(1, DOORBELL, 71, false);
	program_vector(2, DOORBELL, 72, true);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(nr_slots() + nr_irqfds(), 0);
		tell(i % 2 ? TRAP_OFF_LONG : TRAP_OFF);
		assert_int_equal(nr_slots(), 2); /* BARs 0 and 2 */
		assert_true(m.slots[0].gpa == bar0() && m.slots[0].hva == d.bar0);
		assert_int_equal(nr_irqfds(), 2);
		assert_int_equal(irqfd_data(d.fds[0]), 70);
		assert_int_equal(irqfd_data(d.fds[1]), 71);
		/* what still traps is a sync point as ever: the mediator counts them */
		nr_log = 0;
		(void)rd(bar5() + 8, 4);
		ASSERT_LOG(REG_READ, SYNC_CPU);
		tell(TRAP_ON);
	}
	/* what was on its way to the event loop is delivered */
	pci_front_fire(func, 1);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 71);
}

static void a_bar_that_moves_while_direct_is_followed(void **state)
{
	(void)state;
	tell(TRAP_OFF);
	assert_int_equal(nr_slots(), 0); /* nowhere yet */
	enable();
	assert_int_equal(nr_slots(), 2);
	cwr(0x18, 4, LAYOUT_PCI_MEM32_BASE + 0x7f4000);
	assert_int_equal(nr_slots(), 2);
	assert_true(m.slots[1].gpa == LAYOUT_PCI_MEM32_BASE + 0x7f4000);
	tell(TRAP_ON);
	assert_int_equal(nr_slots(), 0);
	cwr(0x18, 4, LAYOUT_PCI_MEM32_BASE + 0x7f8000);
	assert_int_equal(nr_slots(), 0);
	tell(TRAP_OFF);
	assert_int_equal(nr_slots(), 2);
	cwr(PCI_COMMAND, 2, 0);
	assert_int_equal(nr_slots(), 0);
	enable();
	assert_int_equal(nr_slots(), 2);
}

static void irqfds_follow_the_msix_table(void **state)
{
	(void)state;
	enable();
	tell(TRAP_OFF);
	program_vector(0, DOORBELL, 70, false);
	assert_int_equal(nr_irqfds(), 0); /* not enabled */
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	assert_int_equal(nr_irqfds(), 0);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(irqfd_data(d.fds[0]), 70);
	/* masked: what the device raises is pending */
	wr(bar5() + 0x100c, 4, 1);
	assert_int_equal(nr_irqfds(), 0);
	pci_front_fire(func, 0);
	assert_int_equal(rd(bar5() + 0x2000, 8), 1);
	assert_int_equal(m.nr_msi, 0);
	wr(bar5() + 0x1008, 4, 75);
	wr(bar5() + 0x100c, 4, 0);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 75);
	assert_int_equal(irqfd_data(d.fds[0]), 75);
	/* rewritten without being masked */
	wr(bar5() + 0x1008, 4, 76);
	assert_int_equal(irqfd_data(d.fds[0]), 76);
	/* where a message goes by the guest's mappings, these decide when it is sent */
	wr(bar5() + 0x1000, 4, 0xabcd0040);
	assert_int_equal(nr_irqfds(), 0);
	pci_front_fire(func, 0);
	assert_int_equal(m.nr_msi, 2);
	assert_true(m.gpa == DOORBELL);
	wr(bar5() + 0x1000, 4, DOORBELL);
	assert_int_equal(irqfd_data(d.fds[0]), 76);
	cwr(CAP_MSIX + 2, 2, 0);
	assert_int_equal(nr_irqfds(), 0);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(irqfd_data(d.fds[0]), 76);
	assert_int_equal(m.routes[1].used, false); /* one vector, one route */
	cwr(CAP_EXP + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
	assert_int_equal(nr_irqfds(), 0);
}

static void irqfds_follow_msi(void **state)
{
	(void)state;
	enable();
	tell(TRAP_OFF);
	cwr(CAP_MSI + 4, 4, (uint32_t)DOORBELL);
	cwr(CAP_MSI + 12, 2, 0x4440);
	cwr(CAP_MSI + 2, 2, PCI_MSI_FLAGS_ENABLE | 1 << 4);
	assert_int_equal(nr_irqfds(), 2);
	assert_int_equal(irqfd_data(d.fds[1]), 0x4441);
	cwr(CAP_MSI + 16, 4, 2);
	assert_int_equal(nr_irqfds(), 1);
	pci_front_fire(func, 1);
	assert_int_equal(m.nr_msi, 0);
	cwr(CAP_MSI + 16, 4, 0);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(nr_irqfds(), 2);
	cwr(CAP_MSI + 2, 2, 0);
	assert_int_equal(nr_irqfds(), 0);
}

static void vectors_without_a_route_stay_with_the_event_loop(void **state)
{
	(void)state;
	enable();
	m.max_routes = 2;
	for (unsigned i = 0; i < NR_MSIX; i++)
		program_vector(i, DOORBELL, 70 + i, false);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	tell(TRAP_OFF);
	assert_int_equal(nr_irqfds(), 2);
	pci_front_fire(func, 3);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 73);
	/* the machine has a route, but no irqfd for it */
	tell(TRAP_ON);
	m.irqfd_ret = -ENOSPC;
	tell(TRAP_OFF);
	assert_int_equal(nr_irqfds(), 0);
	wr(bar5() + 0x100c, 4, 1);
	wr(bar5() + 0x100c, 4, 0);
	pci_front_fire(func, 0);
	assert_int_equal(m.nr_msi, 2);
}

/* nvme_guard: it must see the admin queue whenever bounce frames may come. */
static void an_nvme_controller_is_direct_only_for_long(void **state)
{
	(void)state;
	machine.gmem = (const struct gmem *)&machine; /* there is one */
	pci_front_quiesce(func);
	pci_front_destroy(func);
	put_le32(d.config + PCI_CLASS_REVISION, 0x01080201);
	assert_false(guarded);
	assert_int_equal(create(EP, true), 0);
	assert_true(guarded);
	enable();
	assert_int_equal(nr_slots(), 1); /* BAR 2, see below */
	tell(TRAP_OFF);
	assert_int_equal(nr_slots(), 1);
	tell(TRAP_OFF_LONG);
	assert_int_equal(nr_slots(), 2);
	tell(TRAP_ON);
	assert_int_equal(nr_slots(), 1);
}

static void a_bar_without_doorbells_is_never_trapped(void **state)
{
	static const struct {
		uint32_t id, class;
		unsigned quiet; /* a bit per BAR */
	} rows[] = {
		{0x12345678, 0x01080201, 1 << 1 | 1 << 2}, /* NVMe, not BAR 0 */
		{0x12345678, 0x01080101, 0},
		{0x10d38086, 0x02000000, 1 << 1}, /* 82574, its flash */
		{0x10d38087, 0x02000000, 0},
		{0x11111234, 0x03000000, 1 << 0}, /* QEMU's VGA */
		{0x12345678, 0x03000000, 0},
	};
	static uint8_t flash[HOST_PAGE] __attribute__((aligned(0x4000)));

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		power_on();
		put_le32(d.config, rows[i].id);
		put_le32(d.config + PCI_CLASS_REVISION, rows[i].class);
		put_le32(d.config + PCI_BASE_ADDRESS_0, 0);
		d.dev.bars[1] = (struct pci_dev_bar){HOST_PAGE, 1, {{0, HOST_PAGE, flash}}};
		put_le32(d.config + PCI_BASE_ADDRESS_1, 0);
		/* so that all of BAR 0 can be mapped */
		put_le32(d.config + CAP_MSIX + 4, 0x1000 | 5);
		put_le32(d.config + CAP_MSIX + 8, 0x2000 | 5);
		assert_int_equal(create(EP, true), 0);
		enable();
		for (unsigned round = 0; round < 2; round++) {
			assert_int_equal(nr_slots(), __builtin_popcount(rows[i].quiet));
			for (unsigned n = 0; n < nr_slots(); n++)
				assert_true((m.slots[n].hva == d.bar0 && rows[i].quiet & 1) ||
					    (m.slots[n].hva == flash && rows[i].quiet & 2) ||
					    (m.slots[n].hva == d.bar2 && rows[i].quiet & 4));
			tell(TRAP_OFF_LONG);
			assert_int_equal(nr_slots(), 3);
			tell(TRAP_ON);
		}
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

static void expect_msix_in(unsigned bar, uint32_t table, uint32_t pba)
{
	assert_int_equal(crd(CAP_MSIX + 4, 4), table | bar);
	assert_int_equal(crd(CAP_MSIX + 8, 4), pba | bar);
}

static void msix_makes_room_for_doorbells_where_drivers_look_at_bar_0_only(void **state)
{
	uint64_t bar3;

	(void)state;
	put_le32(d.config + PCI_CLASS_REVISION, 0x01080201);
	put_le32(d.bar0 + TABLE, 0x12345678);
	assert_int_equal(create(EP, true), 0);
	expect_msix_in(3, 0, 0x1000);
	enable();
	cwr(0x1c, 4, UINT32_MAX);
	assert_int_equal(crd(0x1c, 4), 0xffffc000);
	cwr(0x1c, 4, bar3 = LAYOUT_PCI_MEM32_BASE + 0x7f4000);
	/* table and pending bits are there, and nothing else */
	wr(bar3, 8, DOORBELL);
	wr(bar3 + 8, 8, 70);
	assert_true(rd(bar3, 8) == DOORBELL);
	assert_int_equal(rd(bar3 + NR_MSIX * 16, 4), UINT32_MAX);
	assert_int_equal(rd(bar3 + 0x1000, 8), 0);
	assert_int_equal(rd(bar3 + 0x1008, 8), UINT64_MAX);
	assert_int_equal(rd(bar3 + 0x3ffc, 4), UINT32_MAX);
	wr(bar3 + 0x2000, 4, 1);
	assert_int_equal(get_le32(d.bar0 + TABLE), 0x12345678);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	pci_front_fire(func, 0);
	assert_int_equal(m.data, 70);
	/* and the doorbells' page can be mapped */
	tell(TRAP_OFF_LONG);
	assert_int_equal(nr_slots(), 2);
	assert_true(m.slots[1].gpa == bar0() && m.slots[1].hva == d.bar0);
	assert_int_equal(irqfd_data(d.fds[0]), 70);
}

static void msix_stays_where_moving_it_is_no_use(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		power_on();
		put_le32(d.config + PCI_CLASS_REVISION, i ? 0x0c033001 : 0x01080301);
		if (i == 1) /* the host's kernel does not let it be mapped */
			d.dev.bars[0].nr_areas = 0;
		if (i == 2) /* no BAR is free */
			d.dev.bars[3].size = 1;
		if (i == 3) /* it is in none of the pages with registers */
			put_le32(d.config + CAP_MSIX + 4, 0x1000 | 5);
		machine.host_page = i == 4 ? 0x1000 : HOST_PAGE;
		assert_int_equal(create(EP, true), 0);
		if (i == 3)
			assert_int_equal(crd(CAP_MSIX + 4, 4), 0x1000 | 5);
		else
			expect_msix_in(0, TABLE, PBA);
		pci_front_quiesce(func);
		pci_front_destroy(func);
		func = NULL;
	}
}

static void without_a_mediator_vectors_are_irqfds_from_the_start(void **state)
{
	(void)state;
	enable();
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	wr(bar0() + TABLE, 8, DOORBELL);
	wr(bar0() + TABLE + 8, 8, 70);
	assert_int_equal(irqfd_data(d.fds[0]), 70);
	wr(bar0() + TABLE, 8, 0xabcd0040);
	assert_int_equal(nr_irqfds(), 0);
}

static int nowhere(struct pci_dev *dev, uint64_t addr, uint64_t *gpa)
{
	(void)dev, (void)addr, (void)gpa;
	return -EFAULT;
}

static void where_the_guest_drives_the_iommu_its_messages_are_no_irqfds(void **state)
{
	static struct pci_dev_ops ops;

	(void)state;
	ops = dev_ops;
	ops.msi_target = nowhere;
	d.dev.ops = &ops;
	assert_int_equal(create(NULL, false), 0);
	enable();
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	program_msix(0, DOORBELL, 70, false);
	assert_int_equal(nr_irqfds(), 0);
	pci_front_fire(func, 0);
	assert_int_equal(m.nr_msi, 0);
}

/* ---- interrupts
 * --------------------------------------------------------------------------------------- */

static void msix_fires_after_sync_with_what_the_guest_programmed(void **state)
{
	(void)state;
	enable();
	program_msix(2, DOORBELL, 77, false);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(d.irq_index, VFIO_PCI_MSIX_IRQ_INDEX);
	assert_int_equal(d.nr_irqs, NR_MSIX);
	ASSERT_LOG(IRQS_OFF, IRQS_ON, SYNC_CPU); /* INTx was on */
	pci_front_fire(func, 2);
	ASSERT_LOG(SYNC_CPU);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.gpa, DOORBELL);
	assert_int_equal(m.data, 77);
	assert_int_equal(m.devid, DEVFN);
	/* INTx that was on its way is not delivered */
	pci_front_fire(func, PCI_FRONT_INTX);
	assert_int_equal(m.nr_raised, 0);
	cwr(CAP_MSIX + 2, 2, 0);
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	pci_front_fire(func, 2);
	assert_int_equal(m.nr_msi, 1);
}

static void a_masked_msix_vector_waits_for_its_unmask(void **state)
{
	(void)state;
	enable();
	program_msix(0, DOORBELL, 5, true);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_front_fire(func, 0);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(m.nr_msi, 0);
	assert_int_equal(rd(bar0() + PBA, 4), 1);
	wr(bar0() + TABLE + 12, 4, 0);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 5);
	assert_int_equal(rd(bar0() + PBA, 4), 0);
}

static void a_message_goes_to_the_doorbell_or_nowhere(void **state)
{
	static const struct {
		uint64_t addr, gpa; /* 0: nowhere */
	} rows[] = {
		{DOORBELL, DOORBELL},
		{0xabcd0040, DOORBELL}, /* mapped onto it */
		{0xabce0040, 0},	/* mapped, but RAM */
		{0x12340000, 0},	/* not mapped */
		{LAYOUT_DOORBELL_BASE + LAYOUT_DOORBELL_LEN, 0},
		{LAYOUT_DOORBELL_BASE - 4, 0},
		{UINT64_C(0x100000000) + DOORBELL, 0},
	};

	(void)state;
	enable();
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		m.nr_msi = 0;
		program_msix(1, rows[i].addr, i, false);
		pci_front_fire(func, 1);
		assert_int_equal(m.nr_msi, rows[i].gpa != 0);
		if (rows[i].gpa)
			assert_true(m.gpa == rows[i].gpa);
	}
}

static void msi_has_the_vector_in_the_low_bits(void **state)
{
	(void)state;
	enable();
	assert_int_equal(crd(CAP_MSI + 2, 2), PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 3 << 1);
	cwr(CAP_MSI + 4, 4, (uint32_t)DOORBELL);
	cwr(CAP_MSI + 8, 4, (uint32_t)(DOORBELL >> 32));
	cwr(CAP_MSI + 12, 2, 0x4443);
	cwr(CAP_MSI + 2, 2, PCI_MSI_FLAGS_ENABLE | 2 << 4);
	assert_int_equal(d.irq_index, VFIO_PCI_MSI_IRQ_INDEX);
	assert_int_equal(d.nr_irqs, 4);
	pci_front_fire(func, 1);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 0x4441);
	assert_int_equal(m.gpa, DOORBELL);
	pci_front_fire(func, 4);
	assert_int_equal(m.nr_msi, 1);
	/* masked: pending until unmasked */
	cwr(CAP_MSI + 16, 4, UINT32_MAX);
	assert_int_equal(crd(CAP_MSI + 16, 4), 0xff);
	pci_front_fire(func, 3);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(crd(CAP_MSI + 20, 4), 8);
	cwr(CAP_MSI + 16, 4, 0xf7);
	assert_int_equal(m.nr_msi, 2);
	assert_int_equal(m.data, 0x4443);
	assert_int_equal(crd(CAP_MSI + 20, 4), 0);
	/* more vectors than there are, then off: back to INTx */
	cwr(CAP_MSI + 2, 2, 0);
	cwr(CAP_MSI + 2, 2, PCI_MSI_FLAGS_ENABLE | 7 << 4);
	assert_int_equal(d.nr_irqs, 8);
	cwr(CAP_MSI + 2, 2, 0);
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	assert_int_equal(d.nr_irqs, 1);
}

static void msix_wins_over_msi(void **state)
{
	(void)state;
	cwr(CAP_MSI + 2, 2, PCI_MSI_FLAGS_ENABLE);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(d.irq_index, VFIO_PCI_MSIX_IRQ_INDEX);
	cwr(CAP_MSIX + 2, 2, 0);
	assert_int_equal(d.irq_index, VFIO_PCI_MSI_IRQ_INDEX);
}

static void intx_stays_up_until_the_end_of_interrupt(void **state)
{
	(void)state;
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	pci_front_fire(func, PCI_FRONT_INTX);
	ASSERT_LOG(SYNC_CPU);
	assert_true(m.level[PIN_LINE]);
	assert_int_equal(crd(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	pci_front_eoi(func, (PIN_LINE + 1) % 4); /* another line's */
	assert_int_equal(nr_log, 0);
	assert_true(m.level[PIN_LINE]);
}

static void the_end_of_interrupt_unmasks_at_the_device(void **state)
{
	(void)state;
	pci_front_fire(func, PCI_FRONT_INTX);
	nr_log = 0;
	m.level[PIN_LINE] = false; /* the irqfd lowers it */
	pci_front_eoi(func, PIN_LINE);
	ASSERT_LOG(UNMASK);
	assert_int_equal(crd(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
	pci_front_eoi(func, PIN_LINE); /* nothing was masked */
	assert_int_equal(nr_log, 0);
	/* still a reason: it fires again at once */
	pci_front_fire(func, PCI_FRONT_INTX);
	assert_true(m.level[PIN_LINE]);
}

static void disabling_intx_lowers_the_line_unless_another_holds_it(void **state)
{
	(void)state;
	pci_front_fire(func, PCI_FRONT_INTX);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(m.level[PIN_LINE]);
	assert_int_equal(d.nr_irqs, 0);
	cwr(PCI_COMMAND, 2, 0);
	assert_int_equal(d.nr_irqs, 1);
	lines.asserted[PIN_LINE]++; /* a neighbour on the line */
	pci_front_fire(func, PCI_FRONT_INTX);
	cwr(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_true(m.level[PIN_LINE]);
	lines.asserted[PIN_LINE]--;
	m.level[PIN_LINE] = false;
}

static void without_resampling_there_is_no_intx(void **state)
{
	(void)state;
	machine.intx_resample = NULL;
	assert_int_equal(create(EP, true), 0);
	assert_int_equal(crd(PCI_INTERRUPT_PIN, 1), 0);
	assert_int_equal(d.nr_irqs, 0);
	pci_front_fire(func, PCI_FRONT_INTX);
	assert_int_equal(m.nr_raised, 0);
}

static void vectors_the_host_refuses_can_be_asked_for_again(void **state)
{
	(void)state;
	d.irq_ret = -ENOSPC;
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(d.nr_irqs, 0);
	cwr(CAP_MSIX + 2, 2, 0);
	d.irq_ret = 0;
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(d.nr_irqs, NR_MSIX);
}

/* ---- reset
 * ---------------------------------------------------------------------------------------------- */

static void a_function_level_reset_resets_device_and_registers(void **state)
{
	uint64_t was = bar0();

	(void)state;
	enable();
	program_msix(0, DOORBELL, 5, true);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	pci_front_fire(func, 0);
	nr_log = 0;
	cwr(CAP_EXP + PCI_EXP_DEVCTL, 2, 0x2810 | PCI_EXP_DEVCTL_BCR_FLR);
	ASSERT_LOG(IRQS_OFF, RESET, CONFIG_WRITE, IRQS_ON, SYNC_LAST);
	assert_int_equal(crd(PCI_COMMAND, 2), 0);
	assert_int_equal(bar0(), 0);
	assert_int_equal(crd(0x10, 4), PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_int_equal(rd(was, 4), UINT32_MAX);
	assert_int_equal(crd(CAP_MSIX + 2, 2), NR_MSIX - 1);
	assert_int_equal(crd(CAP_EXP + PCI_EXP_DEVCTL, 2), 0x2810);
	assert_int_equal(get_le16(d.config + PCI_COMMAND), DECODES);
	assert_int_equal(d.irq_index, VFIO_PCI_INTX_IRQ_INDEX);
	/* the guest restores what it saved, and all is well */
	cwr(0x10, 4, (uint32_t)was);
	cwr(0x14, 4, (uint32_t)(was >> 32));
	enable();
	assert_int_equal(rd(was + PBA, 4), 0);
	program_msix(0, DOORBELL, 6, false);
	cwr(CAP_MSIX + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	pci_front_fire(func, 0);
	assert_int_equal(m.data, 6);
}

static void without_reset_there_is_no_function_level_reset(void **state)
{
	(void)state;
	d.dev.can_reset = false;
	assert_int_equal(create(EP, true), 0);
	assert_int_equal(crd(CAP_EXP + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR, 0);
	cwr(CAP_EXP + PCI_EXP_DEVCTL + 1, 1, 0x80);
	for (unsigned i = 0; i < nr_log; i++)
		assert_int_not_equal(events[i], RESET);
}

/* ---- the hostile guest
 * ------------------------------------------------------------------------------------ */

static void nothing_a_guest_writes_reaches_what_is_emulated(void **state)
{
	const char *seed_text = getenv("SEED");
	unsigned seed = seed_text ? (unsigned)atoi(seed_text) : 1;
	uint8_t header[64];

	(void)state;
	print_message("SEED=%u\n", seed);
	srand(seed);
	memcpy(header, d.config, sizeof(header));
	for (unsigned i = 0; i < 200000; i++) {
		static const unsigned lens[] = {1, 2, 4, 8};
		unsigned len = lens[rand() % 4], off;
		uint64_t val = (uint64_t)rand() << 33 ^ (uint64_t)rand() << 2 ^ (uint64_t)rand();
		uint64_t gpa;

		if (rand() % 4 == 0)
			val = UINT64_MAX;
		switch (rand() % 8) {
		case 0 ... 3: /* config space, mostly the first 256 bytes; dev_write() above judges
			       */
			off = (unsigned)rand() % (rand() % 8 ? 0x100 : 0x1000);
			gpa = LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000 + off;
			break;
		case 4: /* enable and place BAR 0, so that the next case hits it */
			cwr(0x10, 4, LAYOUT_PCI_MEM32_BASE);
			cwr(0x14, 4, 0);
			cwr(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
			continue;
		case 5:
			gpa = LAYOUT_PCI_MEM32_BASE + (unsigned)rand() % BAR0_LEN;
			break;
		case 6:
			pci_front_fire(func, rand() % 2 ? PCI_FRONT_INTX : (unsigned)rand() % 16);
			continue;
		default:
			off = (unsigned)rand() % 4;
			m.level[off] = false;
			pci_front_eoi(func, off);
			continue;
		}
		if (rand() % 2)
			wr(gpa, len, val);
		else
			(void)rd(gpa, len);
		nr_log = 0;
	}
	header[PCI_COMMAND] = d.config[PCI_COMMAND];
	assert_memory_equal(d.config, header, sizeof(header));
	for (unsigned off = TABLE; off < TABLE + NR_MSIX * 16; off++)
		assert_int_equal(d.bar0[off], 0);
	cwr(PCI_COMMAND, 2, 0);
}

#define TRAPPED(fn) cmocka_unit_test_setup_teardown(fn, a_trapped_function, gone)
#define PLAIN(fn)   cmocka_unit_test_setup_teardown(fn, a_plain_function, gone)
#define MAPPED(fn)  cmocka_unit_test_setup_teardown(fn, a_mapped_function, gone)
#define ALONE(fn)   cmocka_unit_test_setup_teardown(fn, a_machine, gone)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TRAPPED(the_header_is_the_devices_without_its_addresses),
		TRAPPED(the_capability_list_holds_what_is_safe),
		ALONE(long_packets_of_an_e1000e_need_every_slot_synced),
		TRAPPED(power_states_are_pretended),
		TRAPPED(pci_express_is_an_integrated_endpoint_without_link),
		TRAPPED(registers_of_no_capability_are_the_devices),
		TRAPPED(vendor_capabilities_are_read_only),
		TRAPPED(bus_mastering_reaches_the_device_and_decoding_stays_on),
		ALONE(a_capability_list_that_cannot_be_is_cut_short),
		ALONE(an_msix_table_that_is_in_no_bar_is_hidden),
		TRAPPED(bars_are_sized_by_writing_ones),
		TRAPPED(bars_have_addresses_in_the_windows_64_kib_apart),
		TRAPPED(a_bar_answers_only_while_memory_is_enabled),
		TRAPPED(a_function_that_is_unplugged_reads_as_ones_and_touches_nothing),
		ALONE(a_device_is_there_until_the_register_access_ends),
		ALONE(a_device_is_there_until_the_pending_message_is_sent),
		ALONE(a_device_is_there_until_its_guard_has_spoken),
		ALONE(an_access_that_comes_as_the_device_goes_finds_nothing),
		ALONE(a_device_that_is_unplugged_is_not_polled),
		TRAPPED(a_bar_that_moves_is_followed),
		TRAPPED(two_bars_in_one_place_do_no_harm),
		TRAPPED(ports_are_reached_while_io_is_enabled_and_where_the_bar_is),
		TRAPPED(port_accesses_are_of_1_2_or_4_bytes_and_sync_points),
		ALONE(the_rings_of_a_virtio_function_are_looked_after),
		ALONE(a_virtio_function_that_needs_no_sync_is_left_alone),
		ALONE(a_virtio_structure_that_is_nowhere_is_survived),
		ALONE(a_function_with_ports_only_works_and_nothing_of_it_is_mapped),
		ALONE(impossible_numbers_of_ports_are_hidden),
		ALONE(ports_that_are_used_up_are_an_error),
		TRAPPED(accesses_are_made_at_the_guests_size),
		TRAPPED(a_write_is_preceded_by_sync_and_a_read_followed),
		TRAPPED(a_device_that_is_stopped_has_nothing_left_to_bring),
		TRAPPED(a_device_that_is_unplugged_is_stopped_and_synced_before_and_after),
		TRAPPED(the_msix_table_does_not_swallow_its_neighbours),
		MAPPED(pages_without_msix_are_mapped_when_nothing_needs_sync),
		ALONE(a_large_bar_is_mapped_around_its_msix_pages),
		MAPPED(a_map_that_is_refused_leaves_the_bar_trapped),
		PLAIN(what_the_mediator_says_is_done_before_it_goes_on),
		PLAIN(a_bar_that_moves_while_direct_is_followed),
		PLAIN(irqfds_follow_the_msix_table),
		PLAIN(irqfds_follow_msi),
		PLAIN(vectors_without_a_route_stay_with_the_event_loop),
		PLAIN(an_nvme_controller_is_direct_only_for_long),
		ALONE(a_bar_without_doorbells_is_never_trapped),
		ALONE(msix_makes_room_for_doorbells_where_drivers_look_at_bar_0_only),
		ALONE(msix_stays_where_moving_it_is_no_use),
		ALONE(where_the_guest_drives_the_iommu_its_messages_are_no_irqfds),
		MAPPED(without_a_mediator_vectors_are_irqfds_from_the_start),
		TRAPPED(msix_fires_after_sync_with_what_the_guest_programmed),
		TRAPPED(a_masked_msix_vector_waits_for_its_unmask),
		TRAPPED(a_message_goes_to_the_doorbell_or_nowhere),
		TRAPPED(msi_has_the_vector_in_the_low_bits),
		TRAPPED(msix_wins_over_msi),
		TRAPPED(intx_stays_up_until_the_end_of_interrupt),
		TRAPPED(the_end_of_interrupt_unmasks_at_the_device),
		TRAPPED(disabling_intx_lowers_the_line_unless_another_holds_it),
		ALONE(without_resampling_there_is_no_intx),
		TRAPPED(vectors_the_host_refuses_can_be_asked_for_again),
		TRAPPED(a_function_level_reset_resets_device_and_registers),
		ALONE(without_reset_there_is_no_function_level_reset),
		TRAPPED(nothing_a_guest_writes_reaches_what_is_emulated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
