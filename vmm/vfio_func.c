/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vfio_func.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/msg.h"
#include "vmm/msix.h"
#include "vmm/nvme_guard.h"

#define CONFIG_LEN  256u
#define MAX_CAPS    48 /* as many as fit behind the header, 4 bytes each */
#define CLASS_NVME  0x010802
#define MAX_MSI	    32
#define MAX_MSIX    2048
#define MIN_MEM_BAR 16u
/* An area loses at most two holes: table and PBA. */
#define PAGES_PER_BAR (VFIO_DEV_MAX_AREAS * 3)

enum irq_mode { IRQ_NONE, IRQ_INTX, IRQ_MSI, IRQ_MSIX };

static const unsigned vfio_index[] = {
	[IRQ_INTX] = VFIO_PCI_INTX_IRQ_INDEX,
	[IRQ_MSI] = VFIO_PCI_MSI_IRQ_INDEX,
	[IRQ_MSIX] = VFIO_PCI_MSIX_IRQ_INDEX,
};

static const char *const mode_names[] = {"none", "INTx", "MSI", "MSI-X"};

struct bar {
	struct vfio_func *func;
	unsigned index; /* of its first register */
	uint64_t size;	/* bytes as the guest sees it, a power of two; 0: no memory BAR here */
	bool is_64;
	uint64_t addr; /* where the guest reaches it now; 0: nowhere */
	struct bus_region *region;
	unsigned nr_slots;
	int slots[PAGES_PER_BAR];
};

struct vector {
	struct vfio_func *func;
	unsigned vec;
	int fd;
	struct evloop_watch *watch;
};

struct msi {
	unsigned pos; /* of the capability; 0: there is none */
	unsigned nr;  /* vectors the device can do */
	bool is_64, maskable;
	uint32_t pending;
};

struct vfio_func {
	struct pci_func pci;
	struct vfio_func_cfg cfg;
	const struct pci_machine *machine;
	struct vfio_dev *dev;
	struct endpoint *ep;	   /* NULL: no mediator */
	bool sync;		   /* register accesses are sync points */
	bool is_nvme;		   /* and behind sync: shadow doorbells must not be used */
	pthread_mutex_t nvme_lock; /* a leaf */
	struct nvme_guard nvme;
	bool on_bridge;

	/* Config space, under the host bridge's lock. A byte is either the device's (forward) or
	 * the shadow's, of which the guest may change the bits in writable. */
	uint8_t shadow[CONFIG_LEN], writable[CONFIG_LEN];
	bool forward[CONFIG_LEN];
	uint8_t after_reset[CONFIG_LEN]; /* shadow at power-on */
	struct bar bars[VFIO_DEV_BARS];
	unsigned exp_pos, pm_pos, msix_pos; /* capabilities; 0: there is none */

	/* Interrupts, under lines->lock. */
	enum irq_mode mode;
	bool intx_asserted;
	bool warned;
	struct msi msi;
	struct msix msix;
	unsigned msix_bar, pba_bar;
	uint64_t table_off, pba_off;
	unsigned nr_vectors;
	struct vector *vectors; /* shared by MSI and MSI-X: only one of them is on */
	struct vector intx;
};

/*
 * io_barrier - between RAM and device registers, both ways
 *
 * The device, unlike a vCPU, is outside the inner shareable domain: Linux's writel() has the same
 * barrier (arch/arm64/include/asm/io.h).
 */
static inline void io_barrier(void)
{
#ifdef __aarch64__
	__asm__ volatile("dmb osh" ::: "memory");
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static void sync_for_device(struct vfio_func *func)
{
	if (!func->sync)
		return;
	endpoint_sync_for_device(func->ep);
	io_barrier();
}

static void sync_for_cpu(struct vfio_func *func)
{
	if (!func->sync)
		return;
	io_barrier();
	endpoint_sync_for_cpu(func->ep);
}

/* ---- interrupts ----------------------------------------------------------------------------- */

/* send_msi - what the device's message at @addr would have done; elsewhere than at the doorbell it
 * is dropped: a message that writes to RAM is not an interrupt */
static void send_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct vfio_func *func = ctx;
	uint64_t gpa = addr;

	if (addr - LAYOUT_DOORBELL_BASE >= LAYOUT_DOORBELL_LEN && func->ep &&
	    endpoint_translate(func->ep, addr, MAP_WRITE, &gpa))
		return;
	if (gpa - LAYOUT_DOORBELL_BASE >= LAYOUT_DOORBELL_LEN)
		return;
	/* An ITS that does not know the event drops it, like a real one. */
	(void)func->machine->msi(func->machine->ctx, gpa, data, func->pci.devfn);
}

static unsigned msi_data_pos(const struct msi *msi)
{
	return msi->pos + (msi->is_64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32);
}

static unsigned msi_mask_pos(const struct msi *msi)
{
	return msi->pos + (msi->is_64 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
}

/* msi_enabled_vectors - Multiple Message Enable, at most what the device can do */
static unsigned msi_enabled_vectors(const struct vfio_func *func)
{
	unsigned ctrl = get_le16(func->shadow + func->msi.pos + PCI_MSI_FLAGS);
	unsigned nr = 1u << ((ctrl & PCI_MSI_FLAGS_QSIZE) >> 4);

	return MIN(nr, func->msi.nr);
}

static void msi_fire(struct vfio_func *func, unsigned vec)
{
	const uint8_t *cap = func->shadow + func->msi.pos;
	unsigned nr = msi_enabled_vectors(func);
	uint64_t addr = get_le32(cap + PCI_MSI_ADDRESS_LO);

	if (vec >= nr)
		return;
	if (func->msi.maskable && get_le32(func->shadow + msi_mask_pos(&func->msi)) & BIT(vec)) {
		func->msi.pending |= (uint32_t)BIT(vec);
		return;
	}
	if (func->msi.is_64)
		addr |= (uint64_t)get_le32(cap + PCI_MSI_ADDRESS_HI) << 32;
	/* The device puts the vector's number into the low bits of the data. */
	send_msi(func, addr, (get_le16(func->shadow + msi_data_pos(&func->msi)) & ~(nr - 1)) | vec);
}

static void msi_deliver_pending(struct vfio_func *func)
{
	uint32_t was = func->msi.pending;

	func->msi.pending = 0;
	for (; was; was &= was - 1)
		msi_fire(func, (unsigned)__builtin_ctz(was)); /* masked: pending again */
}

static unsigned intx_line(const struct vfio_func *func)
{
	return pci_intx_line(func->pci.devfn, func->shadow[PCI_INTERRUPT_PIN]);
}

static void intx_raise(struct vfio_func *func)
{
	unsigned line = intx_line(func);

	if (!func->intx_asserted) {
		func->intx_asserted = true;
		func->cfg.lines->asserted[line]++;
	}
	/* Even if it is up for us: an end of interrupt may have lowered it since. */
	func->machine->set_intx(func->machine->ctx, line, true);
}

static void intx_lower(struct vfio_func *func)
{
	unsigned line = intx_line(func);

	if (!func->intx_asserted)
		return;
	func->intx_asserted = false;
	if (!--func->cfg.lines->asserted[line])
		func->machine->set_intx(func->machine->ctx, line, false);
}

void vfio_func_eoi(struct vfio_func *func, unsigned line)
{
	pthread_mutex_lock(&func->cfg.lines->lock);
	if (func->intx_asserted && intx_line(func) == line) {
		func->intx_asserted = false;
		func->cfg.lines->asserted[line]--;
		func->dev->ops->unmask_intx(func->dev);
	}
	pthread_mutex_unlock(&func->cfg.lines->lock);
}

void vfio_func_fire(struct vfio_func *func, unsigned vec)
{
	/* What the device wrote before it raised the vector is there before the guest hears of it;
	 * of a masked vector too, for its unmasking is no sync point. */
	sync_for_cpu(func);
	pthread_mutex_lock(&func->cfg.lines->lock);
	if (vec == VFIO_FUNC_INTX) {
		if (func->mode == IRQ_INTX)
			intx_raise(func);
	} else if (func->mode == IRQ_MSIX) {
		msix_fire(&func->msix, vec);
	} else if (func->mode == IRQ_MSI) {
		msi_fire(func, vec);
	}
	pthread_mutex_unlock(&func->cfg.lines->lock);
}

static void on_eventfd(void *ctx, uint64_t count)
{
	struct vector *v = ctx;

	(void)count;
	vfio_func_fire(v->func, v->vec);
}

static enum irq_mode wanted_mode(const struct vfio_func *func)
{
	if (func->msix.enabled)
		return IRQ_MSIX;
	if (func->msi.pos && func->shadow[func->msi.pos + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE)
		return IRQ_MSI;
	if (func->shadow[PCI_INTERRUPT_PIN] &&
	    !(get_le16(func->shadow + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE))
		return IRQ_INTX;
	return IRQ_NONE;
}

/* VFIO has one of INTx, MSI and MSI-X on at a time, and needs the old one off first. */
static void set_mode(struct vfio_func *func, enum irq_mode mode)
{
	int fds[MAX_MSIX];
	unsigned nr = 0;
	int ret;

	if (mode == func->mode)
		return;
	if (func->mode != IRQ_NONE)
		(void)func->dev->ops->set_irqs(func->dev, vfio_index[func->mode], 0, NULL);
	intx_lower(func);
	func->mode = IRQ_NONE;
	if (mode == IRQ_NONE)
		return;
	if (mode == IRQ_INTX)
		fds[nr++] = func->intx.fd;
	else if (mode == IRQ_MSI)
		for (; nr < msi_enabled_vectors(func); nr++)
			fds[nr] = func->vectors[nr].fd;
	else
		/* All at once: what the guest leaves masked is held back in our table, and the host
		 * need not tear the index down to grow it (VFIO_IRQ_INFO_NORESIZE). */
		for (; nr < func->msix.nr; nr++)
			fds[nr] = func->vectors[nr].fd;
	ret = func->dev->ops->set_irqs(func->dev, vfio_index[mode], nr, fds);
	if (!ret) {
		func->mode = mode;
	} else if (!func->warned) {
		func->warned = true;
		msg_warn("%s: the host would not enable %s (%u vectors): %s; the guest gets no "
			 "interrupts "
			 "from it that way",
			 func->dev->name, mode_names[mode], nr, strerror(-ret));
	}
}

/* ---- BARs ----------------------------------------------------------------------------------- */

static void device_access(struct bar *bar, uint64_t off, void *data, unsigned len, bool write)
{
	struct vfio_dev *dev = bar->func->dev;
	struct vfio_bar *real = &dev->bars[bar->index];
	int ret;

	for (unsigned i = 0; i < real->nr_areas; i++) {
		struct vfio_area *area = &real->areas[i];
		volatile void *reg = area->hva + (off - area->off);

		if (off < area->off || off + len > area->off + area->len)
			continue;
		/* Exactly the guest's access: registers care. */
		switch (len) {
		case 1:
			if (write)
				*(volatile uint8_t *)reg = *(uint8_t *)data;
			else
				*(uint8_t *)data = *(volatile uint8_t *)reg;
			return;
		case 2:
			if (write)
				*(volatile uint16_t *)reg = get_le16(data);
			else
				put_le16(data, *(volatile uint16_t *)reg);
			return;
		case 4:
			if (write)
				*(volatile uint32_t *)reg = get_le32(data);
			else
				put_le32(data, *(volatile uint32_t *)reg);
			return;
		case 8:
			if (write)
				*(volatile uint64_t *)reg = get_le64(data);
			else
				put_le64(data, *(volatile uint64_t *)reg);
			return;
		}
	}
	ret = write ? dev->ops->write(dev, bar->index, off, data, len)
		    : dev->ops->read(dev, bar->index, off, data, len);
	if (ret && !write)
		memset(data, 0xff, len);
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* msix_access - true if the access is to the MSI-X table or pending bits, which the device never
 * sees */
static bool msix_access(struct bar *bar, uint64_t off, void *data, unsigned len, bool write)
{
	struct vfio_func *func = bar->func;
	struct msix *msix = &func->msix;
	bool table = bar->index == func->msix_bar &&
		     overlaps(off, len, func->table_off, msix_table_len(msix));
	bool pba = bar->index == func->pba_bar &&
		   overlaps(off, len, func->pba_off, msix_pba_len(msix));

	if (!func->msix_pos || (!table && !pba))
		return false;
	/* Both are 8-byte aligned and accesses naturally, so that none hangs over an edge. */
	pthread_mutex_lock(&func->cfg.lines->lock);
	if (table)
		msix_table_access(msix, (unsigned)(off - func->table_off), data, len, write);
	else
		msix_pba_access(msix, (unsigned)(off - func->pba_off), data, len, write);
	pthread_mutex_unlock(&func->cfg.lines->lock);
	return true;
}

static void guard_nvme(struct vfio_func *func, uint64_t off, const void *data, unsigned len)
{
	pthread_mutex_lock(&func->nvme_lock);
	nvme_guard_write(&func->nvme, func->ep, func->machine->gmem, off, data, len);
	pthread_mutex_unlock(&func->nvme_lock);
}

static void bar_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct bar *bar = ctx;

	/* To Device memory an unaligned access is a fault: the host's, not the guest's. And what
	 * the guest's BAR is larger than the device's answers nothing. */
	if ((len != 1 && len != 2 && len != 4 && len != 8) || off % len ||
	    off + len > bar->func->dev->bars[bar->index].size) {
		if (!write)
			memset(data, 0xff, len);
		return;
	}
	if (msix_access(bar, off, data, len, write))
		return;
	if (write) {
		if (bar->func->is_nvme && bar->index == 0)
			guard_nvme(bar->func, off, data, len);
		sync_for_device(bar->func);
		device_access(bar, off, data, len, true);
	} else {
		/* A read pushes the device's posted writes ahead of it. */
		device_access(bar, off, data, len, false);
		sync_for_cpu(bar->func);
	}
}

/* map_piece - give the guest the host pages [off, end) of an area, less what MSI-X needs trapped */
static void map_piece(struct bar *bar, const struct vfio_area *area, uint64_t off, uint64_t end)
{
	struct vfio_func *func = bar->func;
	uint64_t page = func->machine->host_page;
	const struct {
		bool here;
		uint64_t off, len;
	} holes[] = {
		{bar->index == func->msix_bar, func->table_off, msix_table_len(&func->msix)},
		{bar->index == func->pba_bar, func->pba_off, msix_pba_len(&func->msix)},
	};
	int slot;

	for (unsigned i = 0; func->msix_pos && i < ARRAY_SIZE(holes); i++) {
		uint64_t hole = ALIGN_DOWN(holes[i].off, page);
		uint64_t hole_end = ALIGN_UP(holes[i].off + holes[i].len, page);

		if (!holes[i].here || hole >= end || hole_end <= off)
			continue;
		if (off < hole)
			map_piece(bar, area, off, hole);
		if (hole_end < end)
			map_piece(bar, area, hole_end, end);
		return;
	}
	if (bar->nr_slots == PAGES_PER_BAR)
		return;
	slot = func->machine->map(func->machine->ctx, bar->addr + off,
				  area->hva + (off - area->off), end - off);
	/* Refused (over RAM, or no slot left): the bus region beneath it still answers. */
	if (slot >= 0)
		bar->slots[bar->nr_slots++] = slot;
}

/* map_pages - let the guest at the registers without an exit, where whole host pages allow it */
static void map_pages(struct bar *bar)
{
	struct vfio_bar *real = &bar->func->dev->bars[bar->index];
	uint64_t page = bar->func->machine->host_page;

	if (bar->func->sync || !IS_ALIGNED(bar->addr, page))
		return;
	for (unsigned i = 0; i < real->nr_areas; i++) {
		struct vfio_area *area = &real->areas[i];
		/* A BAR smaller than a host page is alone in it: on the host, else the kernel would
		 * not have mapped it; in the guest, because it was told that the BAR is as large as
		 * a page. */
		uint64_t end = area->off + (real->size < page && area->len == real->size
						    ? page
						    : ALIGN_DOWN(area->len, page));

		if (end > area->off)
			map_piece(bar, area, area->off, end);
	}
}

static void bar_unmap(struct bar *bar)
{
	if (!bar->addr)
		return;
	while (bar->nr_slots)
		bar->func->machine->unmap(bar->func->machine->ctx, bar->slots[--bar->nr_slots]);
	bus_remove(bar->func->machine->bus, bar->region);
	bar->region = NULL;
	bar->addr = 0;
}

/* bar_wanted - where the guest's registers put it: 0 if nowhere */
static uint64_t bar_wanted(const struct bar *bar)
{
	const uint8_t *reg = bar->func->shadow + PCI_BASE_ADDRESS_0 + 4 * bar->index;
	uint64_t addr = get_le32(reg) & PCI_BASE_ADDRESS_MEM_MASK;

	if (!bar->size || !(get_le16(bar->func->shadow + PCI_COMMAND) & PCI_COMMAND_MEMORY))
		return 0;
	if (bar->is_64)
		addr |= (uint64_t)get_le32(reg + 4) << 32;
	return pci_in_window(addr, bar->size) ? addr : 0;
}

/* update_bars - follow the guest: first all that leave, so that two may change places */
static void update_bars(struct vfio_func *func)
{
	for (unsigned i = 0; i < VFIO_DEV_BARS; i++)
		if (bar_wanted(&func->bars[i]) != func->bars[i].addr)
			bar_unmap(&func->bars[i]);
	for (unsigned i = 0; i < VFIO_DEV_BARS; i++) {
		struct bar *bar = &func->bars[i];
		uint64_t addr = bar_wanted(bar);

		if (!addr || addr == bar->addr ||
		    bus_add(func->machine->bus, addr, bar->size, func->dev->name, bar_access, bar,
			    &bar->region))
			continue; /* over another BAR: it answers nobody until it moves */
		bar->addr = addr;
		map_pages(bar);
	}
}

static int init_bars(struct vfio_func *func, const uint8_t *config, char *error, size_t error_len)
{
	for (unsigned i = 0; i < VFIO_DEV_BARS; i++) {
		func->bars[i].func = func;
		func->bars[i].index = i;
		put_le32(func->shadow + PCI_BASE_ADDRESS_0 + 4 * i, 0);
	}
	for (unsigned i = 0; i < VFIO_DEV_BARS; i++) {
		unsigned reg = PCI_BASE_ADDRESS_0 + 4 * i;
		uint32_t flags = get_le32(config + reg);
		struct bar *bar = &func->bars[i];
		uint64_t size = func->dev->bars[i].size, addr;

		if (!size || flags & PCI_BASE_ADDRESS_SPACE_IO)
			continue;
		bar->is_64 =
			(flags & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
		if (!IS_POW2(size) || size < MIN_MEM_BAR ||
		    (bar->is_64 && i == VFIO_DEV_BARS - 1) || (!bar->is_64 && size > BIT(31))) {
			msg_warn("%s: BAR %u has the impossible size %#" PRIx64
				 "; the guest does not see it",
				 func->dev->name, i, size);
			i += bar->is_64;
			continue;
		}
		/* Pages of it are mapped: the guest must not put another BAR into them. */
		if (!func->sync)
			size = MAX(size, func->machine->host_page);
		/* Low if it is small and not prefetchable: a guest then finds it in a window of its
		 * kind. */
		addr = pci_alloc_mem(
			func->cfg.host, size,
			bar->is_64 && (flags & PCI_BASE_ADDRESS_MEM_PREFETCH || size > BIT(24)));
		if (!addr) {
			snprintf(error, error_len,
				 "%s: no room in the guest's %s window for BAR %u of %" PRIu64
				 " MiB; pass fewer devices",
				 func->dev->name, bar->is_64 ? "PCI" : "32-bit PCI", i, size >> 20);
			return -ENOSPC;
		}
		bar->size = size;
		put_le32(func->shadow + reg, (uint32_t)addr | (flags & ~PCI_BASE_ADDRESS_MEM_MASK));
		put_le32(func->writable + reg, (uint32_t)(~(size - 1) & PCI_BASE_ADDRESS_MEM_MASK));
		if (bar->is_64) {
			put_le32(func->shadow + reg + 4, (uint32_t)(addr >> 32));
			put_le32(func->writable + reg + 4, (uint32_t)(~(size - 1) >> 32));
			i++; /* the upper half is no BAR of its own */
		}
	}
	return 0;
}

/* ---- config space --------------------------------------------------------------------------- */

struct capability {
	uint8_t pos, id;
	unsigned limit; /* where the next one in address order starts */
};

/* cap_len - bytes of a capability; 0: not known, it ends where the next one starts */
static unsigned cap_len(const uint8_t *cap, unsigned room)
{
	unsigned flags;

	switch (cap[0]) {
	case PCI_CAP_ID_PM:
	case PCI_CAP_ID_VPD:
	case PCI_CAP_ID_PCIX:
	case PCI_CAP_ID_SSVID:
		return 8;
	case PCI_CAP_ID_AGP:
	case PCI_CAP_ID_MSIX:
		return 12;
	case PCI_CAP_ID_SLOTID:
	case PCI_CAP_ID_CHSWP:
		return 4;
	case PCI_CAP_ID_AF:
		return 6;
	case PCI_CAP_ID_SATA:
		return 8;
	case PCI_CAP_ID_MSI:
		flags = room >= 4 ? get_le16(cap + PCI_MSI_FLAGS) : 0;
		return 10 + (flags & PCI_MSI_FLAGS_64BIT ? 4 : 0) +
		       (flags & PCI_MSI_FLAGS_MASKBIT ? 10 : 0);
	case PCI_CAP_ID_EXP:
		flags = room >= 4 ? get_le16(cap + PCI_EXP_FLAGS) : 0;
		return (flags & PCI_EXP_FLAGS_VERS) >= 2 ? 0x3c : 0x14;
	case PCI_CAP_ID_VNDR:
		return room >= 3 && cap[2] >= 3 ? cap[2] : 0;
	default:
		return 0;
	}
}

static void init_pm(struct vfio_func *func, unsigned pos)
{
	func->pm_pos = pos;
	/* Version 3; no D1, D2, PME or auxiliary current. */
	put_le16(func->shadow + pos + PCI_PM_PMC, 3);
	/* The guest may think it is in D3 and back; registers keep their values. */
	put_le16(func->shadow + pos + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
	func->writable[pos + PCI_PM_CTRL] = PCI_PM_CTRL_STATE_MASK;
}

static void init_exp(struct vfio_func *func, unsigned pos, const uint8_t *cap)
{
	unsigned flags = get_le16(cap + PCI_EXP_FLAGS);
	unsigned type = (flags & PCI_EXP_FLAGS_TYPE) >> 4;
	uint32_t devcap = get_le32(cap + PCI_EXP_DEVCAP);

	func->exp_pos = pos;
	if (type == PCI_EXP_TYPE_ENDPOINT || type == PCI_EXP_TYPE_LEG_END)
		type = PCI_EXP_TYPE_RC_END;
	put_le16(func->shadow + pos + PCI_EXP_FLAGS,
		 (uint16_t)((flags & PCI_EXP_FLAGS_VERS) | type << 4));
	devcap &= ~(uint32_t)(PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_PHANTOM | PCI_EXP_DEVCAP_PWR_VAL |
			      PCI_EXP_DEVCAP_PWR_SCL);
	if (func->dev->can_reset)
		devcap |= PCI_EXP_DEVCAP_FLR;
	put_le32(func->shadow + pos + PCI_EXP_DEVCAP, devcap);
	/* Payload and request sizes stay as the host set them, whatever the guest writes; the link
	 * registers do not exist on an integrated endpoint. */
	put_le16(func->shadow + pos + PCI_EXP_DEVCTL,
		 get_le16(cap + PCI_EXP_DEVCTL) & ~PCI_EXP_DEVCTL_BCR_FLR);
	put_le16(func->writable + pos + PCI_EXP_DEVCTL, 0x7fff);
}

static bool init_msi(struct vfio_func *func, unsigned pos, const uint8_t *cap)
{
	unsigned flags = get_le16(cap + PCI_MSI_FLAGS);
	struct msi *msi = &func->msi;
	unsigned nr_lg2;

	msi->nr = MIN(MIN(1u << ((flags & PCI_MSI_FLAGS_QMASK) >> 1), func->dev->nr_msi), MAX_MSI);
	if (!msi->nr)
		return false;
	nr_lg2 = 31 - (unsigned)__builtin_clz(msi->nr);
	msi->nr = 1u << nr_lg2;
	msi->pos = pos;
	msi->is_64 = flags & PCI_MSI_FLAGS_64BIT;
	msi->maskable = flags & PCI_MSI_FLAGS_MASKBIT;
	put_le16(func->shadow + pos + PCI_MSI_FLAGS,
		 (uint16_t)((flags & (PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT)) | nr_lg2 << 1));
	put_le16(func->writable + pos + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	put_le32(func->writable + pos + PCI_MSI_ADDRESS_LO, 0xfffffffc);
	if (msi->is_64)
		put_le32(func->writable + pos + PCI_MSI_ADDRESS_HI, 0xffffffff);
	put_le16(func->writable + msi_data_pos(msi), 0xffff);
	if (msi->maskable)
		put_le32(func->writable + msi_mask_pos(msi), (uint32_t)(BIT(msi->nr) - 1));
	return true;
}

/* locate - offset and BAR of the MSI-X table or pending bits. Return: false if they are in no BAR.
 */
static bool locate(const struct vfio_func *func, uint32_t reg, unsigned len, unsigned *bar,
		   uint64_t *off)
{
	*bar = reg & PCI_MSIX_TABLE_BIR;
	*off = reg & PCI_MSIX_TABLE_OFFSET;
	return *bar < VFIO_DEV_BARS && func->bars[*bar].size &&
	       *off + len <= func->dev->bars[*bar].size;
}

static int init_msix(struct vfio_func *func, unsigned pos, const uint8_t *cap)
{
	unsigned nr = (get_le16(cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u;
	int ret;

	if (func->dev->nr_msix < nr)
		return -EINVAL;
	ret = msix_init(&func->msix, nr, send_msi, func);
	if (ret)
		return ret;
	if (!locate(func, get_le32(cap + PCI_MSIX_TABLE), msix_table_len(&func->msix),
		    &func->msix_bar, &func->table_off) ||
	    !locate(func, get_le32(cap + PCI_MSIX_PBA), msix_pba_len(&func->msix), &func->pba_bar,
		    &func->pba_off)) {
		msix_destroy(&func->msix);
		return -EINVAL;
	}
	func->msix_pos = pos;
	put_le16(func->shadow + pos + PCI_MSIX_FLAGS, (uint16_t)(nr - 1));
	put_le16(func->writable + pos + PCI_MSIX_FLAGS,
		 PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	memcpy(func->shadow + pos + PCI_MSIX_TABLE, cap + PCI_MSIX_TABLE, 8);
	return 0;
}

/* init_cap - Return: true if the guest sees it; its bytes are the shadow's, zero, in either case.
 */
static bool init_cap(struct vfio_func *func, const struct capability *c, const uint8_t *config)
{
	const uint8_t *cap = config + c->pos;
	unsigned room = c->limit - c->pos;
	unsigned len = cap_len(cap, room);

	/* One that another starts inside of is not what it says. */
	if (!len || len > room)
		len = room;
	memset(func->forward + c->pos, false, len);
	memset(func->shadow + c->pos, 0, len);
	if (len < cap_len(cap, room))
		return false;
	switch (c->id) {
	case PCI_CAP_ID_PM:
		if (func->pm_pos)
			return false;
		init_pm(func, c->pos);
		return true;
	case PCI_CAP_ID_MSI:
		return !func->msi.pos && init_msi(func, c->pos, cap);
	case PCI_CAP_ID_MSIX:
		return !func->msix_pos && !init_msix(func, c->pos, cap);
	case PCI_CAP_ID_EXP:
		if (func->exp_pos)
			return false;
		init_exp(func, c->pos, cap);
		return true;
	case PCI_CAP_ID_VNDR:
		memcpy(func->shadow + c->pos, cap, len);
		return true;
	default:
		return false;
	}
}

static void init_caps(struct vfio_func *func, const uint8_t *config)
{
	struct capability caps[MAX_CAPS];
	unsigned nr = 0, link = PCI_CAPABILITY_LIST;
	bool seen[CONFIG_LEN] = {false};
	uint8_t pos;

	func->shadow[link] = 0;
	put_le16(func->shadow + PCI_STATUS,
		 get_le16(config + PCI_STATUS) &
			 (PCI_STATUS_66MHZ | PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MASK));
	if (!(get_le16(config + PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return;
	/* A list that loops or leaves the space ends there. */
	for (pos = config[PCI_CAPABILITY_LIST] & ~3u;
	     pos >= PCI_STD_HEADER_SIZEOF && !seen[pos] && nr < MAX_CAPS;
	     pos = config[pos + PCI_CAP_LIST_NEXT] & ~3u) {
		seen[pos] = true;
		caps[nr++] = (struct capability){pos, config[pos], CONFIG_LEN};
	}
	for (unsigned i = 0; i < nr; i++)
		for (unsigned j = 0; j < nr; j++)
			if (caps[j].pos > caps[i].pos && caps[j].pos < caps[i].limit)
				caps[i].limit = caps[j].pos;
	for (unsigned i = 0; i < nr; i++) {
		if (!init_cap(func, &caps[i], config))
			continue;
		func->shadow[caps[i].pos] = caps[i].id;
		func->shadow[caps[i].pos + PCI_CAP_LIST_NEXT] = 0;
		func->shadow[link] = caps[i].pos;
		link = caps[i].pos + PCI_CAP_LIST_NEXT;
		func->shadow[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	}
}

static int init_config(struct vfio_func *func, char *error, size_t error_len)
{
	uint8_t config[CONFIG_LEN];
	int ret;

	ret = func->dev->ops->read(func->dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, config, CONFIG_LEN);
	if (ret) {
		snprintf(error, error_len, "%s: its config space cannot be read: %s",
			 func->dev->name, strerror(-ret));
		return ret;
	}
	memcpy(func->shadow, config, PCI_STD_HEADER_SIZEOF);
	memset(func->forward + PCI_STD_HEADER_SIZEOF, true, CONFIG_LEN - PCI_STD_HEADER_SIZEOF);
	put_le16(func->shadow + PCI_COMMAND, 0);
	put_le16(func->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
						       PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
						       PCI_COMMAND_INTX_DISABLE);
	func->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	func->writable[PCI_INTERRUPT_LINE] = 0xff;
	func->shadow[PCI_LATENCY_TIMER] = 0;
	func->shadow[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_NORMAL;
	func->shadow[PCI_BIST] = 0;
	put_le32(func->shadow + PCI_CARDBUS_CIS, 0);
	put_le32(func->shadow + PCI_ROM_ADDRESS, 0);
	memset(func->shadow + PCI_CAPABILITY_LIST, 0, PCI_INTERRUPT_LINE - PCI_CAPABILITY_LIST);
	func->shadow[PCI_INTERRUPT_LINE] = 0;
	if (!func->dev->nr_intx || !func->machine->intx_resample ||
	    func->shadow[PCI_INTERRUPT_PIN] > 4)
		func->shadow[PCI_INTERRUPT_PIN] = 0;
	ret = init_bars(func, config, error, error_len);
	if (ret)
		return ret;
	init_caps(func, config);
	func->is_nvme = func->sync && func->machine->gmem &&
			get_le32(func->shadow + PCI_CLASS_REVISION) >> 8 == CLASS_NVME;
	memcpy(func->after_reset, func->shadow, CONFIG_LEN);
	return 0;
}

/* write_command - bus mastering is the guest's; memory decoding is always on at the device, for a
 * BAR that goes away under a register access would be a bus error in this process */
static void write_command(struct vfio_func *func)
{
	unsigned guest = get_le16(func->shadow + PCI_COMMAND);
	uint8_t command[2];

	put_le16(command, (uint16_t)(PCI_COMMAND_MEMORY | (guest & PCI_COMMAND_MASTER)));
	(void)func->dev->ops->write(func->dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command,
				    sizeof(command));
}

static void set_wanted_mode(struct vfio_func *func)
{
	pthread_mutex_lock(&func->cfg.lines->lock);
	set_mode(func, wanted_mode(func));
	pthread_mutex_unlock(&func->cfg.lines->lock);
}

/* function_reset - the guest asked for a Function Level Reset */
static void function_reset(struct vfio_func *func)
{
	int ret;

	pthread_mutex_lock(&func->cfg.lines->lock);
	set_mode(func, IRQ_NONE);
	pthread_mutex_unlock(&func->cfg.lines->lock);
	ret = func->dev->ops->reset(func->dev);
	if (ret && !func->warned) {
		func->warned = true;
		msg_warn("%s: the reset the guest asked for failed: %s", func->dev->name,
			 strerror(-ret));
	}
	pthread_mutex_lock(&func->cfg.lines->lock);
	memcpy(func->shadow, func->after_reset, CONFIG_LEN);
	for (unsigned reg = PCI_BASE_ADDRESS_0; reg < PCI_CARDBUS_CIS; reg++)
		func->shadow[reg] &= ~func->writable[reg];
	if (func->msix_pos)
		msix_reset(&func->msix);
	func->msi.pending = 0;
	pthread_mutex_unlock(&func->cfg.lines->lock);
	pthread_mutex_lock(&func->nvme_lock);
	func->nvme = (struct nvme_guard){0};
	pthread_mutex_unlock(&func->nvme_lock);
	update_bars(func);
	write_command(func);
	set_wanted_mode(func);
}

static bool touches(unsigned off, unsigned len, unsigned reg, unsigned reg_len)
{
	return overlaps(off, len, reg, reg_len);
}

/* written - act on registers of the shadow that the guest has just changed */
static void written(struct vfio_func *func, unsigned off, unsigned len, uint32_t val)
{
	if (func->exp_pos && touches(off, len, func->exp_pos + PCI_EXP_DEVCTL + 1, 1) &&
	    func->dev->can_reset &&
	    val >> (8 * (func->exp_pos + PCI_EXP_DEVCTL + 1 - off)) & PCI_EXP_DEVCTL_BCR_FLR >> 8) {
		function_reset(func);
		return;
	}
	if (touches(off, len, PCI_COMMAND, 2)) {
		write_command(func);
		set_wanted_mode(func);
		update_bars(func);
	}
	if (touches(off, len, PCI_BASE_ADDRESS_0, 4 * VFIO_DEV_BARS))
		update_bars(func);
	if (func->msix_pos && touches(off, len, func->msix_pos + PCI_MSIX_FLAGS, 2)) {
		unsigned ctrl = get_le16(func->shadow + func->msix_pos + PCI_MSIX_FLAGS);

		pthread_mutex_lock(&func->cfg.lines->lock);
		msix_control(&func->msix, ctrl & PCI_MSIX_FLAGS_ENABLE,
			     ctrl & PCI_MSIX_FLAGS_MASKALL);
		set_mode(func, wanted_mode(func));
		pthread_mutex_unlock(&func->cfg.lines->lock);
	}
	if (func->msi.pos && touches(off, len, func->msi.pos, 24)) {
		pthread_mutex_lock(&func->cfg.lines->lock);
		set_mode(func, wanted_mode(func));
		if (func->mode != IRQ_MSI)
			func->msi.pending = 0;
		msi_deliver_pending(func);
		pthread_mutex_unlock(&func->cfg.lines->lock);
	}
}

static uint8_t read_byte(struct vfio_func *func, unsigned off)
{
	uint8_t byte;

	if (!func->forward[off])
		return func->shadow[off];
	if (func->dev->ops->read(func->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, &byte, 1))
		return 0xff;
	return byte;
}

/* all_forwarded - the access as a whole is the device's; else it is taken byte by byte */
static bool all_forwarded(const struct vfio_func *func, unsigned off, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (!func->forward[off + i])
			return false;
	return true;
}

/* refresh - the shadow of registers that change by themselves */
static void refresh(struct vfio_func *func)
{
	pthread_mutex_lock(&func->cfg.lines->lock);
	if (func->intx_asserted)
		func->shadow[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		func->shadow[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	if (func->msi.maskable)
		put_le32(func->shadow + msi_mask_pos(&func->msi) + 4, func->msi.pending);
	pthread_mutex_unlock(&func->cfg.lines->lock);
}

static uint32_t config_read(struct pci_func *pci, unsigned off, unsigned len)
{
	struct vfio_func *func = container_of(pci, struct vfio_func, pci);
	uint8_t bytes[4] = {0};

	if (off >= CONFIG_LEN)
		return 0; /* no extended capabilities */
	refresh(func);
	if (all_forwarded(func, off, len)) {
		if (func->dev->ops->read(func->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, bytes, len))
			memset(bytes, 0xff, len);
		sync_for_cpu(func);
	} else {
		for (unsigned i = 0; i < len; i++)
			bytes[i] = read_byte(func, off + i);
	}
	return get_le32(bytes);
}

static void config_write(struct pci_func *pci, unsigned off, unsigned len, uint32_t val)
{
	struct vfio_func *func = container_of(pci, struct vfio_func, pci);
	uint8_t bytes[4];

	if (off >= CONFIG_LEN)
		return;
	put_le32(bytes, val);
	if (all_forwarded(func, off, len)) {
		sync_for_device(func);
		(void)func->dev->ops->write(func->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, bytes,
					    len);
		return;
	}
	/* The event loop reads the MSI registers. */
	pthread_mutex_lock(&func->cfg.lines->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t *shadow = &func->shadow[off + i];
		uint8_t writable = func->writable[off + i];

		*shadow = (uint8_t)((*shadow & ~writable) | (bytes[i] & writable));
	}
	pthread_mutex_unlock(&func->cfg.lines->lock);
	for (unsigned i = 0; i < len; i++)
		if (func->forward[off + i])
			(void)func->dev->ops->write(func->dev, VFIO_PCI_CONFIG_REGION_INDEX,
						    off + i, &bytes[i], 1);
	written(func, off, len, val);
}

/* ---- life ----------------------------------------------------------------------------------- */

static int init_vector(struct vfio_func *func, struct vector *v, unsigned vec)
{
	v->func = func;
	v->vec = vec;
	v->fd = eventfd(0, EFD_CLOEXEC);
	if (v->fd < 0)
		return -errno;
	return func->cfg.loop ? evloop_add_eventfd(func->cfg.loop, v->fd, on_eventfd, v, &v->watch)
			      : 0;
}

static int init_vectors(struct vfio_func *func, char *error, size_t error_len)
{
	unsigned want = MAX(func->msix.nr, func->msi.nr);
	int ret = 0;

	func->intx.fd = -1;
	if (want) {
		func->vectors = calloc(want, sizeof(*func->vectors));
		if (!func->vectors)
			ret = -ENOMEM;
	}
	if (!ret && func->shadow[PCI_INTERRUPT_PIN])
		ret = init_vector(func, &func->intx, VFIO_FUNC_INTX);
	while (!ret && func->nr_vectors < want) {
		unsigned vec = func->nr_vectors++;

		ret = init_vector(func, &func->vectors[vec], vec);
	}
	if (ret)
		snprintf(error, error_len,
			 "%s: no eventfd for interrupt vector %u of %u: %s; raise the limit of "
			 "open files "
			 "(ulimit -n)",
			 func->dev->name, func->nr_vectors, want, strerror(-ret));
	return ret;
}

static void free_vector(struct vfio_func *func, struct vector *v)
{
	if (v->watch)
		evloop_remove(func->cfg.loop, v->watch);
	v->watch = NULL;
	if (v->fd >= 0)
		close(v->fd);
	v->fd = -1;
}

int vfio_func_create(const struct vfio_func_cfg *cfg, struct vfio_func **out, char *error,
		     size_t error_len)
{
	struct vfio_func *func;
	int ret;

	func = calloc(1, sizeof(*func));
	if (!func) {
		snprintf(error, error_len, "%s: out of memory", cfg->dev->name);
		return -ENOMEM;
	}
	func->cfg = *cfg;
	func->dev = cfg->dev;
	func->machine = cfg->machine;
	func->ep = cfg->ep;
	func->sync = cfg->ep && endpoint_needs_sync(cfg->ep);
	pthread_mutex_init(&func->nvme_lock, NULL);
	func->intx.fd = -1;
	func->pci.name = cfg->dev->name;
	func->pci.devfn = cfg->devfn;
	func->pci.config_read = config_read;
	func->pci.config_write = config_write;
	ret = init_config(func, error, error_len);
	if (ret)
		goto err;
	ret = init_vectors(func, error, error_len);
	if (ret)
		goto err;
	write_command(func);
	ret = pci_host_add(cfg->host, &func->pci, cfg->devfn);
	if (ret) {
		snprintf(error, error_len, "%s: guest slot %02x.%x is taken", cfg->dev->name,
			 cfg->devfn >> 3, cfg->devfn & 7);
		goto err;
	}
	func->on_bridge = true;
	set_wanted_mode(func);
	*out = func;
	return 0;

err:
	vfio_func_destroy(func);
	return ret;
}

void vfio_func_quiesce(struct vfio_func *func)
{
	if (!func->on_bridge)
		return;
	pci_host_remove(func->cfg.host, &func->pci);
	func->on_bridge = false;
	pthread_mutex_lock(&func->cfg.lines->lock);
	set_mode(func, IRQ_NONE);
	pthread_mutex_unlock(&func->cfg.lines->lock);
	for (unsigned i = 0; i < func->nr_vectors; i++)
		free_vector(func, &func->vectors[i]);
	free_vector(func, &func->intx);
	for (unsigned i = 0; i < VFIO_DEV_BARS; i++)
		bar_unmap(&func->bars[i]);
	put_le16(func->shadow + PCI_COMMAND, 0);
	write_command(func);
}

void vfio_func_destroy(struct vfio_func *func)
{
	if (!func)
		return;
	/* What a failed create left; vfio_func_quiesce() leaves none. */
	for (unsigned i = 0; i < func->nr_vectors; i++)
		free_vector(func, &func->vectors[i]);
	free_vector(func, &func->intx);
	free(func->vectors);
	msix_destroy(&func->msix);
	pthread_mutex_destroy(&func->nvme_lock);
	free(func);
}
