/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_pci - a hostile guest against config space and BARs, in front of a hostile device.
 *
 * The input makes the device: its config space, its BARs, what it answers. Then the guest does as
 * it likes: ECAM, BARs wherever they have come to lie, while the device raises interrupts. Below,
 * the device and the machine hold pci_front to what their headers say, and to what must never be:
 * the device's own BARs, MSI and MSI-X registers out of the guest's reach, nothing mapped but the
 * device's memory and never its MSI-X table, no message but to the doorbell, no access outside a
 * region.
 *
 * Files: vmm/pci.c vmm/pci_front.c vmm/msix.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <unistd.h>

#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/msg.h"
#include "vmm/pci.h"
#include "vmm/pci_front.h"

#define HOST_PAGE  0x4000u
#define MAX_OPS	   300
#define MAX_VEC	   64
#define BAR_MEM	   0x10000u /* of a BAR that is mapped or answered from memory */
#define NR_SLOTS   48	    /* memslots the machine has */
#define DEVFN	   0x09u
#define RAM_LEN	   0x8000u
#define CONFIG_LEN 256u

static _Alignas(HOST_PAGE) uint8_t bar_mem[PCI_DEV_BARS * BAR_MEM]; /* BAR_MEM each */
static uint8_t ram[RAM_LEN];

static struct bench {
	struct pci_dev dev;
	uint8_t config[CONFIG_LEN], answers;
	bool fails;		/* the device's operations */
	unsigned irqs, nr_irqs; /* index enabled, vectors */
	bool unmasked;
	/* the machine */
	struct bus *bus;
	struct pci_host *host;
	struct pci_machine machine;
	struct pci_lines lines;
	struct gmem gmem;
	bool level[4];
	bool map_fails;
	struct {
		uint64_t gpa, len;
		uint8_t *hva;
	} slots[NR_SLOTS];
	struct pci_front *func;
	/* the mediator */
	bool sync;
	unsigned to_device, to_cpu; /* syncs */
} b;

/* ---- the mediator -----------------------------------------------------------------------------
 */

static char endpoint_storage;
#define EP ((struct endpoint *)&endpoint_storage)

bool endpoint_needs_sync(const struct endpoint *ep)
{
	demand(ep == EP);
	return b.sync;
}

/* It is told nothing: an endpoint starts trapped. */
void endpoint_set_guarded(struct endpoint *ep, bool guarded)
{
	(void)ep;
	(void)guarded;
}

bool endpoint_stays_trapped(const struct endpoint *ep)
{
	(void)ep;
	return false;
}

void endpoint_set_trap(struct endpoint *ep, void (*trap)(void *ctx, enum trap_state state),
		       void *ctx)
{
	(void)trap, (void)ctx;
	demand(ep == EP && b.sync);
}

void endpoint_sync_for_device(struct endpoint *ep)
{
	demand(ep == EP && b.sync);
	b.to_device++;
}

void endpoint_sync_for_cpu(struct endpoint *ep)
{
	demand(ep == EP && b.sync);
	b.to_cpu++;
}

void endpoint_sync_all_for_cpu(struct endpoint *ep)
{
	demand(ep == EP && b.sync);
	b.to_cpu++;
}

void endpoint_turn_full(struct endpoint *ep)
{
	demand(ep == EP && b.sync);
}

int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place)
{
	demand(ep == EP && b.sync);
	/* Of a virtio function only; of one that was given up, only one that was there. */
	demand(get_le16(b.config + PCI_VENDOR_ID) == 0x1af4 &&
	       (place || ring < MEDIATOR_MAX_RINGS));
	return ring < MEDIATOR_MAX_RINGS ? 0 : -ENOSPC;
}

int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	demand(ep == EP && (access == MAP_READ || access == MAP_WRITE));
	/* a doorbell, RAM, what is neither, and nothing */
	switch (iova >> 16 & 3) {
	case 0:
		*gpa = LAYOUT_DOORBELL_BASE + (iova & 0xffff);
		return 0;
	case 1:
		*gpa = LAYOUT_RAM_LOW_BASE + (iova & 0xffff);
		return 0;
	case 2:
		*gpa = iova;
		return 0;
	default:
		return -EFAULT;
	}
}

/* ---- messages ----------------------------------------------------------------------------------
 */

static void say(const char *fmt, va_list ap)
{
	char line[512];
	int n = vsnprintf(line, sizeof(line), fmt, ap);

	demand(n > 0 && !memchr(line, '\n', sizeof(line) < (size_t)n ? sizeof(line) : (size_t)n));
}

#define MESSAGE(name)                                                                              \
	void name(const char *fmt, ...)                                                            \
	{                                                                                          \
		va_list ap;                                                                        \
                                                                                                   \
		va_start(ap, fmt);                                                                 \
		say(fmt, ap);                                                                      \
		va_end(ap);                                                                        \
	}

MESSAGE(msg_error)
MESSAGE(msg_warn)
MESSAGE(msg_info)
MESSAGE(msg_tell)
MESSAGE(msg_notable)

void msg_verbose(bool on)
{
	(void)on;
}

bool msg_is_verbose(void)
{
	return true;
}

void msg_raw_terminal(bool raw)
{
	(void)raw;
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* is_io - by the device's own register */
static bool is_io(unsigned bar)
{
	return b.config[PCI_BASE_ADDRESS_0 + 4 * bar] & PCI_BASE_ADDRESS_SPACE_IO;
}

static void check_access(struct pci_dev *dev, unsigned region, uint64_t off, unsigned len)
{
	demand(dev == &b.dev);
	if (region == VFIO_PCI_CONFIG_REGION_INDEX) {
		demand(off < CONFIG_LEN && len <= CONFIG_LEN - off);
		demand(len == CONFIG_LEN || (len <= 4 && IS_POW2(len) && off % len == 0));
		return;
	}
	demand(region < PCI_DEV_BARS && (len <= 8 && IS_POW2(len) && off % len == 0));
	demand(len <= 4 || !is_io(region));
	demand(off < dev->bars[region].size && len <= dev->bars[region].size - off);
}

static int dev_read(struct pci_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len)
{
	check_access(dev, region, off, len);
	if (b.fails)
		return -EIO;
	if (region == VFIO_PCI_CONFIG_REGION_INDEX)
		memcpy(buf, b.config + off, len);
	else
		memset(buf, b.answers++, len);
	return 0;
}

/* next_cap - the lowest capability above @pos */
static unsigned next_cap(unsigned pos)
{
	unsigned next = CONFIG_LEN, seen = 0;

	for (unsigned at = b.config[PCI_CAPABILITY_LIST] & ~3u;
	     at >= PCI_STD_HEADER_SIZEOF && seen++ < 48; at = b.config[at + 1] & ~3u)
		if (at > pos && at < next)
			next = at;
	return next;
}

/* guarded - is this byte of the device's config space one that granule keeps to itself? */
static bool guarded(unsigned off)
{
	unsigned seen = 0;

	if (off < PCI_STD_HEADER_SIZEOF)
		return true;
	for (unsigned pos = b.config[PCI_CAPABILITY_LIST] & ~3u;
	     get_le16(b.config + PCI_STATUS) & PCI_STATUS_CAP_LIST &&
	     pos >= PCI_STD_HEADER_SIZEOF && seen++ < 48;
	     pos = b.config[pos + 1] & ~3u) {
		unsigned id = b.config[pos];
		unsigned len = id == PCI_CAP_ID_MSIX ? 12 : id == PCI_CAP_ID_MSI ? 10 : 2;

		/* one that the next begins inside of is not what it says */
		if (off >= pos && off < pos + len && off - pos < 4)
			return true;
		if (off >= pos && off < pos + len && next_cap(pos) >= pos + len)
			return true;
	}
	return false;
}

static int dev_write(struct pci_dev *dev, unsigned region, uint64_t off, const void *buf,
		     unsigned len)
{
	check_access(dev, region, off, len);
	if (region == VFIO_PCI_CONFIG_REGION_INDEX) {
		if (off == PCI_COMMAND) /* decoding never stops under an access */
			demand(len == 2 &&
			       (get_le16(buf) & ~(PCI_COMMAND_MASTER | PCI_COMMAND_IO)) ==
				       PCI_COMMAND_MEMORY);
		else
			for (unsigned i = 0; i < len; i++)
				demand(!guarded((unsigned)off + i));
	}
	return b.fails ? -EIO : 0;
}

static int dev_set_irqs(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds)
{
	demand(dev == &b.dev && index <= VFIO_PCI_MSIX_IRQ_INDEX);
	if (!nr) {
		demand(b.nr_irqs && b.irqs == index); /* off only what is on */
		b.nr_irqs = 0;
		return 0;
	}
	demand(!b.nr_irqs);
	demand(nr <= (index == VFIO_PCI_INTX_IRQ_INDEX	? b.dev.nr_intx
		      : index == VFIO_PCI_MSI_IRQ_INDEX ? b.dev.nr_msi
							: b.dev.nr_msix));
	for (unsigned i = 0; i < nr; i++)
		demand(fcntl(fds[i], F_GETFD) >= 0);
	if (b.fails)
		return -ENOSPC;
	b.irqs = index;
	b.nr_irqs = nr;
	b.unmasked = true;
	return 0;
}

static void dev_unmask(struct pci_dev *dev)
{
	demand(dev == &b.dev && b.nr_irqs && b.irqs == VFIO_PCI_INTX_IRQ_INDEX && !b.unmasked);
	b.unmasked = true;
}

static int dev_reset(struct pci_dev *dev)
{
	demand(dev == &b.dev && dev->can_reset && !b.nr_irqs);
	return b.fails ? -EIO : 0;
}

static const struct pci_dev_ops dev_ops = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
	.unmask_intx = dev_unmask,
	.reset = dev_reset,
};

/* ---- the machine -------------------------------------------------------------------------------
 */

static void set_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx;
	demand(line < 4);
	b.level[line] = level;
}

static int msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)data;
	demand(gpa >= LAYOUT_DOORBELL_BASE && gpa - LAYOUT_DOORBELL_BASE < LAYOUT_DOORBELL_LEN);
	demand(devid == DEVFN);
	demand(b.nr_irqs && b.irqs != VFIO_PCI_INTX_IRQ_INDEX);
	return data & 1 ? -EINVAL : 0;
}

/* is_quiet - a BAR that may be mapped although accesses to others are sync points: NVMe's but for
 * 0, Intel network cards' flash, QEMU's VGA's frame buffer */
static bool is_quiet(unsigned bar)
{
	uint32_t id = get_le32(b.config + PCI_VENDOR_ID);

	if (get_le32(b.config + PCI_CLASS_REVISION) >> 8 == 0x010802)
		return bar != 0;
	return (id & 0xffff) == 0x8086 ? bar == 1 : id == 0x11111234 && bar == 0;
}

static int map(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	uint8_t *at = hva;
	unsigned bar;
	int slot = -1;

	(void)ctx;
	demand(len && IS_ALIGNED(gpa | len | (uintptr_t)hva, HOST_PAGE));
	demand(pci_in_window(gpa, len));
	demand(at >= bar_mem && at < bar_mem + sizeof(bar_mem));
	bar = (unsigned)((size_t)(at - bar_mem) / BAR_MEM);
	demand(!b.sync || is_quiet(bar));
	demand(!is_io(bar)); /* of ports there is nothing to map */
	demand((size_t)(at - bar_mem) % BAR_MEM + len <= ALIGN_UP(b.dev.bars[bar].size, HOST_PAGE));
	if (b.map_fails)
		return -ENOSPC;
	for (int i = 0; i < NR_SLOTS; i++) {
		if (!b.slots[i].len)
			slot = slot < 0 ? i : slot;
		else /* memslots never overlap */
			demand(gpa + len <= b.slots[i].gpa ||
			       b.slots[i].gpa + b.slots[i].len <= gpa);
	}
	if (slot < 0)
		return -ENOSPC;
	b.slots[slot].gpa = gpa;
	b.slots[slot].len = len;
	b.slots[slot].hva = at;
	return slot;
}

static void unmap(void *ctx, int slot)
{
	(void)ctx;
	demand(slot >= 0 && slot < NR_SLOTS && b.slots[slot].len);
	b.slots[slot].len = 0;
}

static int resample(void *ctx, unsigned line)
{
	(void)ctx, (void)line;
	return -ENOSYS;
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

static uint64_t ecam(unsigned devfn, unsigned reg)
{
	return LAYOUT_PCI_ECAM_BASE + devfn * 0x1000ull + reg;
}

static uint64_t rd(uint64_t gpa, unsigned len)
{
	uint64_t val = 0;

	bus_access(b.bus, gpa, &val, len, false);
	return val;
}

static void wr(uint64_t gpa, unsigned len, uint64_t val)
{
	bus_access(b.bus, gpa, &val, len, true);
}

/* bar_address - by the guest's own registers */
static uint64_t bar_address(size_t i)
{
	uint32_t low = (uint32_t)rd(ecam(DEVFN, PCI_BASE_ADDRESS_0 + 4 * (unsigned)i), 4);
	uint64_t addr = low & ~0xfu;

	if (low & PCI_BASE_ADDRESS_SPACE_IO)
		return LAYOUT_PCI_IO_BASE + (low & ~3u);
	if ((low & 6) == 4 && i < 5)
		addr |= rd(ecam(DEVFN, PCI_BASE_ADDRESS_0 + 4 * (unsigned)i + 4), 4) << 32;
	return addr;
}

/* walk_caps - what a guest reads of them: a list that ends, within config space. Return: where
 * MSI-X is; 0: nowhere. */
static unsigned walk_caps(void)
{
	unsigned pos, nr = 0, msix = 0;

	if (!(rd(ecam(DEVFN, PCI_STATUS), 2) & PCI_STATUS_CAP_LIST))
		return 0;
	for (pos = (unsigned)rd(ecam(DEVFN, PCI_CAPABILITY_LIST), 1); pos;
	     pos = (unsigned)rd(ecam(DEVFN, pos + 1), 1)) {
		unsigned id = (unsigned)rd(ecam(DEVFN, pos), 1);

		demand(pos >= PCI_STD_HEADER_SIZEOF && pos % 4 == 0 && nr++ < 48);
		demand(id == PCI_CAP_ID_PM || id == PCI_CAP_ID_MSI || id == PCI_CAP_ID_MSIX ||
		       id == PCI_CAP_ID_EXP || id == PCI_CAP_ID_VNDR);
		if (id == PCI_CAP_ID_MSIX)
			msix = pos;
	}
	return msix;
}

/* check_trapped - @len bytes of MSI-X that register @reg places are not among what the guest has
 * mapped */
static void check_trapped(unsigned reg, unsigned len)
{
	uint32_t where = (uint32_t)rd(ecam(DEVFN, reg), 4);
	const uint8_t *at = bar_mem + (where & 7) * BAR_MEM + (where & ~7u);

	demand((where & 7) < PCI_DEV_BARS);
	for (unsigned i = 0; (where & ~7u) < BAR_MEM && i < NR_SLOTS; i++)
		demand(!b.slots[i].len || at + len <= b.slots[i].hva ||
		       b.slots[i].hva + b.slots[i].len <= at);
}

/* Memory that is mapped is where the BAR is, and nowhere else. */
static void check_slots(void)
{
	bool decodes = rd(ecam(DEVFN, PCI_COMMAND), 2) & PCI_COMMAND_MEMORY;
	unsigned msix = walk_caps(), nr;

	if (msix) {
		nr = (rd(ecam(DEVFN, msix + 2), 2) & PCI_MSIX_FLAGS_QSIZE) + 1;
		check_trapped(msix + PCI_MSIX_TABLE, 16 * nr);
		check_trapped(msix + PCI_MSIX_PBA, (nr + 63) / 64 * 8);
	}
	for (unsigned i = 0; i < NR_SLOTS; i++) {
		size_t off;

		if (!b.slots[i].len)
			continue;
		demand(decodes);
		off = (size_t)(b.slots[i].hva - bar_mem);
		demand(b.slots[i].gpa == bar_address(off / BAR_MEM) + off % BAR_MEM);
	}
}

static void step(struct input *in)
{
	unsigned how, reg, len;
	uint64_t addr;

	switch (take8(in) % 12) {
	case 0:
	case 1:
	case 2: /* config space */
		how = take8(in);
		len = 1u << how % 4;
		reg = (how & 0x40 ? take16(in) % 0x1000 : take8(in)) &
		      (how & 0x80 ? ~0u : ~(len - 1));
		addr = ecam(how & 0x20 && how & 0x10 ? take8(in) : DEVFN, reg);
		if (how & 8)
			wr(addr, len, len == 8 ? take64(in) : len == 1 ? take8(in) : take32(in));
		else
			rd(addr, len);
		break;
	case 3: /* the command register, and a BAR to a place in a window */
		how = take8(in);
		if (how & 1) {
			wr(ecam(DEVFN, PCI_COMMAND), 2, take16(in));
			break;
		}
		reg = PCI_BASE_ADDRESS_0 + 4 * ((how >> 1) % 6);
		if (how & 0x80 && rd(ecam(DEVFN, reg), 4) & PCI_BASE_ADDRESS_SPACE_IO)
			wr(ecam(DEVFN, reg), 4, take16(in));
		else if (how & 0x80)
			wr(ecam(DEVFN, reg), 4,
			   (uint32_t)LAYOUT_PCI_MEM32_BASE + take8(in) * HOST_PAGE);
		else
			wr(ecam(DEVFN, reg), 4, take8(in) & 1 ? UINT32_MAX : 0xc);
		break;
	case 4:
	case 5:
	case 6: /* a register, by the BAR's address */
		how = take8(in);
		len = 1u << (how >> 3) % 4;
		addr = bar_address(how % 8 % 6) + take16(in);
		if (how & 0x20)
			addr &= ~(uint64_t)(len - 1);
		if (how & 0x80) {
			rd(addr, len);
		} else {
			wr(addr, len, how & 0x40 ? take64(in) : take8(in));
		}
		break;
	case 7: /* the device raises an interrupt that is on */
		if (!b.nr_irqs)
			break;
		if (b.irqs == VFIO_PCI_INTX_IRQ_INDEX) {
			if (b.unmasked) {
				b.unmasked = false;
				pci_front_fire(b.func, PCI_FRONT_INTX);
			}
			break;
		}
		pci_front_fire(b.func, take8(in) % b.nr_irqs);
		break;
	case 8: /* one that was on a moment ago: its eventfd was read late */
		how = take8(in);
		if (how & 0x80)
			pci_front_fire(b.func, PCI_FRONT_INTX);
		else if (b.dev.nr_msi && b.dev.nr_msix) /* vectors there are eventfds for */
			pci_front_fire(b.func, how % MIN(b.dev.nr_msi, b.dev.nr_msix));
		if (b.irqs == VFIO_PCI_INTX_IRQ_INDEX && how & 0x80)
			b.unmasked = false;
		break;
	case 9: /* the guest's end of interrupt */
		reg = take8(in) % 4;
		if (b.level[reg]) {
			b.level[reg] = false;
			pci_front_eoi(b.func, reg);
		}
		break;
	case 10:
		how = take8(in);
		b.fails = how & 1;
		b.map_fails = how & 2;
		break;
	case 11:
		walk_caps();
		ram[take16(in) % RAM_LEN] = take8(in);
		break;
	}
}

/* power_on - a device that the input makes: much like a real one, or not at all */
static void power_on(struct input *in)
{
	uint8_t how = take8(in), *c = b.config;
	unsigned n = take8(in);

	b.dev.ops = &dev_ops;
	b.dev.name = "0000:01:00.0";
	b.dev.can_reset = how & 1;
	b.dev.nr_intx = how >> 1 & 1;
	b.dev.nr_msi = how & 4 ? take8(in) % 40 : 4;
	b.dev.nr_msix = how & 8 ? take8(in) % MAX_VEC : 4;
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		uint8_t kind = take8(in);
		/* none, a power of two, anything */
		uint64_t size = kind & 0x80 ? take32(in) : kind % 64 < 41 ? BIT(kind % 64) : 0;
		struct pci_dev_bar *bar = &b.dev.bars[i];

		bar->size = size;
		if (!(kind & 0x40) || !size || size > BAR_MEM ||
		    (size < HOST_PAGE && !IS_POW2(size)))
			continue;
		bar->nr_areas = 1;
		bar->areas[0] = (struct pci_dev_area){0, size, bar_mem + i * BAR_MEM};
		if (size > 2 * HOST_PAGE && kind & 1) {
			bar->nr_areas = 2;
			bar->areas[0].len = HOST_PAGE;
			bar->areas[1] =
				(struct pci_dev_area){2 * HOST_PAGE, size - 2 * HOST_PAGE,
						      bar_mem + i * BAR_MEM + 2 * HOST_PAGE};
		}
	}
	put_le16(c + PCI_STATUS, PCI_STATUS_CAP_LIST);
	put_le32(c + PCI_CLASS_REVISION, how & 0x10 ? 0x01080200 : 0x02000000);
	c[PCI_INTERRUPT_PIN] = 1;
	if (how & 0x20) { /* a virtio function, its structure in BAR 0 */
		put_le16(c + PCI_VENDOR_ID, 0x1af4);
		c[0x40] = PCI_CAP_ID_VNDR;
		c[0x42] = 0x10;
		c[0x43] = 1;
	}
	c[PCI_CAPABILITY_LIST] = 0x40;
	/* any bytes anywhere, most of them in capabilities */
	for (unsigned i = 0; i < n % 40; i++) {
		unsigned at = take8(in), len = 1 + take8(in) % 16;

		take(in, c + at, MIN(len, CONFIG_LEN - at));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct pci_front_cfg cfg = {
		.dev = &b.dev,
		.machine = &b.machine,
		.lines = &b.lines,
		.devfn = DEVFN,
	};
	struct input in = {data, len};
	uint8_t how = take8(&in);
	char error[256];
	int ret;

	memset(&b, 0, sizeof(b));
	b.sync = how & 1;
	cfg.ep = how & 2 || b.sync ? EP : NULL;
	fair_init(&b.lines.lock);
	demand(!gmem_add(&b.gmem, LAYOUT_RAM_LOW_BASE, RAM_LEN, ram));
	power_on(&in);
	demand(!bus_create(&b.bus));
	b.machine = (struct pci_machine){
		.bus = b.bus,
		.set_intx = set_intx,
		.msi = msi,
		.map = map,
		.unmap = unmap,
		.intx_resample = how & 4 ? NULL : resample,
		.gmem = &b.gmem,
		.host_page = HOST_PAGE,
	};
	demand(!pci_host_create(&b.machine, &b.host));
	cfg.host = b.host;
	memset(error, 0x5a, sizeof(error));
	ret = pci_front_create(&cfg, &b.func, error, sizeof(error));
	if (ret) {
		demand(memchr(error, 0, sizeof(error)) && error[0]);
	} else {
		walk_caps();
		for (unsigned i = 0; in.left && i < MAX_OPS; i++) {
			step(&in);
			check_slots();
		}
		b.fails = false;
		pci_front_quiesce(b.func);
		demand(!b.nr_irqs);
		pci_front_destroy(b.func);
	}
	for (unsigned i = 0; i < NR_SLOTS; i++)
		demand(!b.slots[i].len);
	for (unsigned i = 0; i < 4; i++)
		demand(!b.lines.asserted[i] && !b.level[i]);
	pci_host_destroy(b.host);
	bus_destroy(b.bus);
	fair_destroy(&b.lines.lock);
	return 0;
}
