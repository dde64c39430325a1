/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pci_front.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/devmem.h"
#include "vmm/e1000e_guard.h"
#include "vmm/layout.h"
#include "vmm/msg.h"
#include "vmm/msix.h"
#include "vmm/nvme_guard.h"
#include "vmm/trace.h"
#include "vmm/virtio_guard.h"

#define CONFIG_LEN    256u
#define MAX_CAPS      48 /* as many as fit behind the header, 4 bytes each */
#define CLASS_NVME    0x010802
#define VENDOR_VIRTIO 0x1af4
#define CLASS_XHCI    0x0c0330
#define ID_QEMU_VGA   0x11111234
#define MAX_MSI	      32
#define MAX_MSIX      2048
#define MIN_MEM_BAR   16u
#define MIN_IO_BAR    4u
/* The table is in pages of its own, as PCI 3.0, 6.8.2 wants it, if they are no larger. */
#define MSIX_ALONE    0x1000ull
/* An area loses at most two holes: table and PBA. */
#define PAGES_PER_BAR (PCI_DEV_MAX_AREAS * 3)

enum irq_mode { IRQ_NONE, IRQ_INTX, IRQ_MSI, IRQ_MSIX };

static const unsigned vfio_index[] = {
	[IRQ_INTX] = VFIO_PCI_INTX_IRQ_INDEX,
	[IRQ_MSI] = VFIO_PCI_MSI_IRQ_INDEX,
	[IRQ_MSIX] = VFIO_PCI_MSIX_IRQ_INDEX,
};

static const char *const mode_names[] = {"none", "INTx", "MSI", "MSI-X"};

struct bar {
	struct pci_front *front;
	unsigned index; /* of its first register */
	uint64_t size;	/* bytes as the guest sees it, a power of two; 0: no BAR here */
	bool is_64, is_io;
	bool quiet;    /* no access to it need ever be a sync point */
	uint64_t addr; /* where the guest reaches it now; 0: nowhere; also under direct_lock */
	struct bus_region *region;
	/* What is mapped of it; under direct_lock. */
	unsigned nr_slots;
	int slots[PAGES_PER_BAR];
};

struct vector {
	struct pci_front *front;
	unsigned vec;
	int fd;
	struct evloop_watch *watch;
	/* What it would send now, if it can be an irqfd; under direct_lock. */
	bool wanted;
	uint64_t gpa;
	uint32_t data;
	int route; /* of the machine; -1: none yet */
	bool on;   /* it is an irqfd */
};

struct msi {
	unsigned pos; /* of the capability; 0: there is none */
	unsigned nr;  /* vectors the device can do */
	bool is_64, maskable;
	uint32_t pending;
};

struct pci_front {
	struct pci_func pci;
	struct pci_front_cfg cfg;
	const struct pci_machine *machine;
	struct pci_dev *dev;
	struct endpoint *ep; /* NULL: no mediator */
	bool sync;	     /* register accesses are sync points, unless they go past us */
	/* A leaf, also below the mediator's. */
	pthread_mutex_t direct_lock;
	atomic_bool direct;	    /* changes under it */
	bool is_e1000e;		    /* behind sync, see e1000e_guard */
	bool is_nvme;		    /* and behind sync: shadow doorbells must not be used */
	bool is_virtio;		    /* and behind sync: its rings need care */
	pthread_mutex_t guard_lock; /* the mediator's is taken inside */
	struct nvme_guard nvme;
	struct virtio_guard virtio;
	bool on_bridge;
	/* Read throughout a BAR access, outside every other lock; written, with none held, before
	 * the device goes. */
	pthread_rwlock_t dev_lock;
	bool gone;

	/* Config space, under the host bridge's lock. A byte is either the device's (forward) or
	 * the shadow's, of which the guest may change the bits in writable. */
	uint8_t shadow[CONFIG_LEN], writable[CONFIG_LEN];
	bool forward[CONFIG_LEN];
	uint8_t after_reset[CONFIG_LEN]; /* shadow at power-on */
	struct bar bars[PCI_DEV_BARS];
	bool has_io;			    /* one of them is of I/O ports */
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

static void sync_for_device(struct pci_front *front)
{
	if (!front->sync)
		return;
	endpoint_sync_for_device(front->ep);
	io_barrier();
}

static void sync_for_cpu(struct pci_front *front)
{
	if (!front->sync)
		return;
	io_barrier();
	endpoint_sync_for_cpu(front->ep);
}

/* sync_last - the device has been stopped: what it wrote is the last of it */
static void sync_last(struct pci_front *front)
{
	if (!front->sync)
		return;
	io_barrier();
	endpoint_sync_all_for_cpu(front->ep);
}

/* ---- irqfds --------------------------------------------------------------------------------- */

/* What follows is under direct_lock. A vector that the machine has no room for stays with the event
 * loop. */
static void route_vector(struct vector *v)
{
	const struct pci_machine *machine = v->front->machine;
	int ret = machine->route(machine->ctx, v->route, v->gpa, v->data, v->front->pci.devfn);

	if (ret >= 0)
		v->route = ret;
}

static void irqfd_on(struct vector *v)
{
	const struct pci_machine *machine = v->front->machine;

	v->on = v->route >= 0 && !machine->irqfd(machine->ctx, v->fd, v->route);
}

static void irqfd_off(struct vector *v)
{
	const struct pci_machine *machine = v->front->machine;

	if (v->on)
		machine->irqfd_off(machine->ctx, v->fd, v->route);
	v->on = false;
}

/* does_bypass - is the message at @addr an interrupt whatever the guest maps? */
static bool does_bypass(const struct pci_front *front, uint64_t addr)
{
	return !front->dev->ops->msi_target && addr - LAYOUT_DOORBELL_BASE < LAYOUT_DOORBELL_LEN;
}

static bool message_of(const struct pci_front *front, unsigned vec, uint64_t *addr, uint32_t *data);

/* update_vector - after what it sends may have changed; under lines->lock. What comes between is in
 * the eventfd, and the event loop waits for that lock to say what becomes of it. */
static void update_vector(struct vector *v)
{
	struct pci_front *front = v->front;
	uint64_t addr = 0;
	uint32_t data = 0;
	bool wanted = message_of(front, v->vec, &addr, &data) && does_bypass(front, addr);

	if (!front->machine->route)
		return;
	pthread_mutex_lock(&front->direct_lock);
	if (wanted != v->wanted || addr != v->gpa || data != v->data) {
		irqfd_off(v);
		v->wanted = wanted;
		v->gpa = addr;
		v->data = data;
		if (v->wanted && front->direct) {
			route_vector(v);
			irqfd_on(v);
		}
	}
	pthread_mutex_unlock(&front->direct_lock);
}

static void update_vectors(struct pci_front *front)
{
	for (unsigned i = 0; i < front->nr_vectors; i++)
		update_vector(&front->vectors[i]);
}

/* ---- interrupts ----------------------------------------------------------------------------- */

/* send_msi - what the device's message at @addr would have done; elsewhere than at the doorbell it
 * is dropped: a message that writes to RAM is not an interrupt */
static void send_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct pci_front *front = ctx;
	uint64_t gpa = addr;

	if (front->dev->ops->msi_target) {
		if (front->dev->ops->msi_target(front->dev, addr, &gpa))
			return;
	} else if (addr - LAYOUT_DOORBELL_BASE >= LAYOUT_DOORBELL_LEN && front->ep &&
		   endpoint_translate(front->ep, addr, MAP_WRITE, &gpa)) {
		return;
	}
	if (gpa - LAYOUT_DOORBELL_BASE >= LAYOUT_DOORBELL_LEN)
		return;
	/* An ITS that does not know the event drops it, like a real one. */
	(void)front->machine->msi(front->machine->ctx, gpa, data, front->pci.devfn);
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
static unsigned msi_enabled_vectors(const struct pci_front *front)
{
	unsigned ctrl = get_le16(front->shadow + front->msi.pos + PCI_MSI_FLAGS);
	unsigned nr = 1u << ((ctrl & PCI_MSI_FLAGS_QSIZE) >> 4);

	return MIN(nr, front->msi.nr);
}

/* msi_message - what MSI vector @vec sends when it fires; false: it is masked, or there is none */
static bool msi_message(const struct pci_front *front, unsigned vec, uint64_t *addr, uint32_t *data)
{
	const uint8_t *cap = front->shadow + front->msi.pos;
	unsigned nr = msi_enabled_vectors(front);

	if (vec >= nr ||
	    (front->msi.maskable && get_le32(front->shadow + msi_mask_pos(&front->msi)) & BIT(vec)))
		return false;
	*addr = get_le32(cap + PCI_MSI_ADDRESS_LO);
	if (front->msi.is_64)
		*addr |= (uint64_t)get_le32(cap + PCI_MSI_ADDRESS_HI) << 32;
	/* The device puts the vector's number into the low bits of the data. */
	*data = (get_le16(front->shadow + msi_data_pos(&front->msi)) & ~(nr - 1)) | vec;
	return true;
}

static bool message_of(const struct pci_front *front, unsigned vec, uint64_t *addr, uint32_t *data)
{
	if (front->mode == IRQ_MSIX)
		return msix_message(&front->msix, vec, addr, data);
	return front->mode == IRQ_MSI && msi_message(front, vec, addr, data);
}

static void msi_fire(struct pci_front *front, unsigned vec)
{
	uint64_t addr;
	uint32_t data;

	if (msi_message(front, vec, &addr, &data))
		send_msi(front, addr, data);
	else if (vec < msi_enabled_vectors(front))
		front->msi.pending |= (uint32_t)BIT(vec);
}

static void msi_deliver_pending(struct pci_front *front)
{
	uint32_t was = front->msi.pending;

	front->msi.pending = 0;
	for (; was; was &= was - 1)
		msi_fire(front, (unsigned)__builtin_ctz(was)); /* masked: pending again */
}

static unsigned intx_line(const struct pci_front *front)
{
	return pci_intx_line(front->pci.devfn, front->shadow[PCI_INTERRUPT_PIN]);
}

static void intx_raise(struct pci_front *front)
{
	unsigned line = intx_line(front);

	if (!front->intx_asserted) {
		front->intx_asserted = true;
		front->cfg.lines->asserted[line]++;
	}
	/* Even if it is up for us: an end of interrupt may have lowered it since. */
	front->machine->set_intx(front->machine->ctx, line, true);
}

static void intx_lower(struct pci_front *front)
{
	unsigned line = intx_line(front);

	if (!front->intx_asserted)
		return;
	front->intx_asserted = false;
	if (!--front->cfg.lines->asserted[line])
		front->machine->set_intx(front->machine->ctx, line, false);
}

void pci_front_eoi(struct pci_front *front, unsigned line)
{
	fair_lock(&front->cfg.lines->lock);
	if (front->intx_asserted && intx_line(front) == line) {
		front->intx_asserted = false;
		front->cfg.lines->asserted[line]--;
		front->dev->ops->unmask_intx(front->dev);
	}
	fair_unlock(&front->cfg.lines->lock);
}

void pci_front_fire(struct pci_front *front, unsigned vec)
{
	uint64_t begin = trace_begin(front->machine->trace);

	/* What the device wrote before it raised the vector is there before the guest hears of it;
	 * of a masked vector too, for its unmasking is no sync point. */
	sync_for_cpu(front);
	fair_lock(&front->cfg.lines->lock);
	if (vec == PCI_FRONT_INTX) {
		if (front->mode == IRQ_INTX)
			intx_raise(front);
	} else if (front->mode == IRQ_MSIX) {
		msix_fire(&front->msix, vec);
	} else if (front->mode == IRQ_MSI) {
		msi_fire(front, vec);
	}
	fair_unlock(&front->cfg.lines->lock);
	trace_end(front->machine->trace, begin, TRACE_INTERRUPT, front->pci.devfn,
		  vec == PCI_FRONT_INTX ? TRACE_INTX : vec, 0, 0);
}

static void on_eventfd(void *ctx, uint64_t count)
{
	struct vector *v = ctx;

	(void)count;
	pci_front_fire(v->front, v->vec);
}

static enum irq_mode wanted_mode(const struct pci_front *front)
{
	if (front->msix.enabled)
		return IRQ_MSIX;
	if (front->msi.pos && front->shadow[front->msi.pos + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE)
		return IRQ_MSI;
	if (front->shadow[PCI_INTERRUPT_PIN] &&
	    !(get_le16(front->shadow + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE))
		return IRQ_INTX;
	return IRQ_NONE;
}

/* VFIO has one of INTx, MSI and MSI-X on at a time, and needs the old one off first. */
static void change_mode(struct pci_front *front, enum irq_mode mode)
{
	int fds[MAX_MSIX];
	unsigned nr = 0;
	int ret;

	if (front->mode != IRQ_NONE)
		(void)front->dev->ops->set_irqs(front->dev, vfio_index[front->mode], 0, NULL);
	intx_lower(front);
	front->mode = IRQ_NONE;
	if (mode == IRQ_NONE)
		return;
	if (mode == IRQ_INTX)
		fds[nr++] = front->intx.fd;
	else if (mode == IRQ_MSI)
		for (; nr < msi_enabled_vectors(front); nr++)
			fds[nr] = front->vectors[nr].fd;
	else
		/* All at once: what the guest leaves masked is held back in our table, and the host
		 * need not tear the index down to grow it (VFIO_IRQ_INFO_NORESIZE). */
		for (; nr < front->msix.nr; nr++)
			fds[nr] = front->vectors[nr].fd;
	ret = front->dev->ops->set_irqs(front->dev, vfio_index[mode], nr, fds);
	if (!ret) {
		front->mode = mode;
		if (mode != IRQ_INTX)
			msg_notable("%s: the guest has enabled %s, %u vector%s", front->dev->name,
				    mode_names[mode], nr, nr == 1 ? "" : "s");
	} else if (!front->warned) {
		front->warned = true;
		msg_warn("%s: the host would not enable %s (%u vectors): %s; the guest gets no "
			 "interrupts "
			 "from it that way",
			 front->dev->name, mode_names[mode], nr, strerror(-ret));
	}
}

static void set_mode(struct pci_front *front, enum irq_mode mode)
{
	if (mode != front->mode)
		change_mode(front, mode);
	update_vectors(front);
}

/* ---- BARs ----------------------------------------------------------------------------------- */

static void device_access(struct bar *bar, uint64_t off, void *data, unsigned len, bool write)
{
	struct pci_dev *dev = bar->front->dev;
	struct pci_dev_bar *real = &dev->bars[bar->index];
	unsigned i = 0;
	int ret;

	while (i < real->nr_areas &&
	       (off < real->areas[i].off || off + len > real->areas[i].off + real->areas[i].len))
		i++;
	if (i < real->nr_areas) {
		/* Exactly the guest's access: registers care. */
		uint8_t *reg = (uint8_t *)real->areas[i].hva + (off - real->areas[i].off);

		ret = write ? devmem_write(reg, data, len) : devmem_read(reg, data, len);
	} else {
		ret = write ? dev->ops->write(dev, bar->index, off, data, len)
			    : dev->ops->read(dev, bar->index, off, data, len);
	}
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
	struct pci_front *front = bar->front;
	struct msix *msix = &front->msix;
	bool table = bar->index == front->msix_bar &&
		     overlaps(off, len, front->table_off, msix_table_len(msix));
	bool pba = bar->index == front->pba_bar &&
		   overlaps(off, len, front->pba_off, msix_pba_len(msix));

	if (!front->msix_pos || (!table && !pba))
		return false;
	/* Both are 8-byte aligned and accesses naturally, so that none hangs over an edge. */
	fair_lock(&front->cfg.lines->lock);
	off -= table ? front->table_off : front->pba_off;
	if (table)
		msix_table_access(msix, (unsigned)off, data, len, write);
	if (table && write && off / MSIX_ENTRY_LEN < front->nr_vectors)
		update_vector(&front->vectors[off / MSIX_ENTRY_LEN]);
	if (!table)
		msix_pba_access(msix, (unsigned)off, data, len, write);
	fair_unlock(&front->cfg.lines->lock);
	return true;
}

static void guard_nvme(struct pci_front *front, uint64_t off, const void *data, unsigned len)
{
	pthread_mutex_lock(&front->guard_lock);
	nvme_guard_write(&front->nvme, front->ep, front->machine->gmem, off, data, len);
	pthread_mutex_unlock(&front->guard_lock);
}

/* read_common - of a virtio function's common configuration structure */
static uint32_t read_common(void *ctx, unsigned off, unsigned len)
{
	struct pci_front *front = ctx;
	struct bar *bar = &front->bars[front->virtio.bar];
	uint64_t at = front->virtio.off + off;
	uint8_t bytes[4] = {0xff, 0xff, 0xff, 0xff};

	if (at % len == 0 && at + len <= front->dev->bars[bar->index].size)
		device_access(bar, at, bytes, len, false);
	return get_le32(bytes);
}

static void guard_virtio(struct bar *bar, uint64_t off, const void *data, unsigned len)
{
	struct pci_front *front = bar->front;
	bool ok;

	pthread_mutex_lock(&front->guard_lock);
	ok = virtio_guard_write(&front->virtio, front->ep, bar->index, off, data, len, read_common,
				front);
	if (!ok && !front->warned) {
		front->warned = true;
		msg_warn(
			"%s: the guest has more virtqueues, or places them otherwise, than granule "
			"looks after: one may stall",
			front->dev->name);
	}
	pthread_mutex_unlock(&front->guard_lock);
}

static void answer_virtio(struct bar *bar, uint64_t off, void *data, unsigned len)
{
	struct pci_front *front = bar->front;

	pthread_mutex_lock(&front->guard_lock);
	virtio_guard_answer(&front->virtio, bar->index, off, data, len);
	pthread_mutex_unlock(&front->guard_lock);
}

/* access_bar - under dev_lock, while the device is there */
static void access_bar(struct bar *bar, uint64_t off, void *data, unsigned len, bool write)
{
	struct trace *trace = bar->front->machine->trace;
	uint64_t begin = trace_begin(trace), value = 0;
	/* To Device memory an unaligned access is a fault: the host's, not the guest's. */
	bool odd = (len != 1 && len != 2 && len != 4 && (len != 8 || bar->is_io)) || off % len;

	if (!odd && msix_access(bar, off, data, len, write))
		return;
	/* What the guest's BAR is larger than the device's answers nothing. */
	if (odd || off + len > bar->front->dev->bars[bar->index].size) {
		if (!write)
			memset(data, 0xff, len);
		return;
	}
	if (write) {
		if (bar->front->is_nvme && bar->index == 0 && !bar->front->direct)
			guard_nvme(bar->front, off, data, len);
		if (bar->front->is_e1000e && bar->index == 0 && e1000e_guard_write(off, data, len))
			endpoint_turn_full(bar->front->ep);
		if (bar->front->is_virtio)
			guard_virtio(bar, off, data, len);
		sync_for_device(bar->front);
		device_access(bar, off, data, len, true);
	} else {
		/* A read pushes the device's posted writes ahead of it. */
		device_access(bar, off, data, len, false);
		if (bar->front->is_virtio)
			answer_virtio(bar, off, data, len);
		sync_for_cpu(bar->front);
	}
	memcpy(&value, data, len);
	trace_end(trace, begin, write ? TRACE_WRITE : TRACE_READ, bar->front->pci.devfn, bar->index,
		  off, value);
}

static void bar_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct bar *bar = ctx;
	struct pci_front *front = bar->front;

	pthread_rwlock_rdlock(&front->dev_lock);
	if (!front->gone)
		access_bar(bar, off, data, len, write);
	else if (!write)
		memset(data, 0xff, len);
	pthread_rwlock_unlock(&front->dev_lock);
}

/* map_piece - give the guest the host pages [off, end) of an area, less what MSI-X needs trapped */
static void map_piece(struct bar *bar, const struct pci_dev_area *area, uint64_t off, uint64_t end)
{
	struct pci_front *front = bar->front;
	uint64_t page = front->machine->host_page;
	const struct {
		bool here;
		uint64_t off, len;
	} holes[] = {
		{bar->index == front->msix_bar, front->table_off, msix_table_len(&front->msix)},
		{bar->index == front->pba_bar, front->pba_off, msix_pba_len(&front->msix)},
	};
	int slot;

	for (unsigned i = 0; front->msix_pos && i < ARRAY_SIZE(holes); i++) {
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
	slot = front->machine->map(front->machine->ctx, bar->addr + off,
				   area->hva + (off - area->off), end - off);
	/* Refused (over RAM, or no slot left): the bus region beneath it still answers. */
	if (slot >= 0)
		bar->slots[bar->nr_slots++] = slot;
}

/* map_pages - let the guest at the registers without an exit, where whole host pages allow it;
 * under direct_lock */
static void map_pages(struct bar *bar)
{
	struct pci_dev_bar *real = &bar->front->dev->bars[bar->index];
	uint64_t page = bar->front->machine->host_page;

	if (!(bar->front->direct || bar->quiet) || !bar->addr || bar->is_io ||
	    !IS_ALIGNED(bar->addr, page))
		return;
	for (unsigned i = 0; i < real->nr_areas; i++) {
		struct pci_dev_area *area = &real->areas[i];
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

static void unmap_pages(struct bar *bar)
{
	while (bar->nr_slots)
		bar->front->machine->unmap(bar->front->machine->ctx, bar->slots[--bar->nr_slots]);
}

static void set_addr(struct bar *bar, uint64_t addr)
{
	pthread_mutex_lock(&bar->front->direct_lock);
	unmap_pages(bar);
	bar->addr = addr;
	map_pages(bar);
	pthread_mutex_unlock(&bar->front->direct_lock);
}

static void bar_unmap(struct bar *bar)
{
	if (!bar->addr)
		return;
	set_addr(bar, 0);
	bus_remove(bar->front->machine->bus, bar->region);
	bar->region = NULL;
}

/* bar_wanted - where the guest's registers put it: 0 if nowhere */
static uint64_t bar_wanted(const struct bar *bar)
{
	const uint8_t *reg = bar->front->shadow + PCI_BASE_ADDRESS_0 + 4 * bar->index;
	unsigned decodes = bar->is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	uint64_t addr = get_le32(reg) & PCI_BASE_ADDRESS_MEM_MASK;

	if (!bar->size || !(get_le16(bar->front->shadow + PCI_COMMAND) & decodes))
		return 0;
	if (bar->is_io) {
		addr = get_le32(reg) & PCI_BASE_ADDRESS_IO_MASK;
		return pci_in_io(addr, bar->size) ? LAYOUT_PCI_IO_BASE + addr : 0;
	}
	if (bar->is_64)
		addr |= (uint64_t)get_le32(reg + 4) << 32;
	return pci_in_window(addr, bar->size) ? addr : 0;
}

/* update_bars - follow the guest: first all that leave, so that two may change places */
static void update_bars(struct pci_front *front)
{
	for (unsigned i = 0; i < PCI_DEV_BARS; i++)
		if (bar_wanted(&front->bars[i]) != front->bars[i].addr)
			bar_unmap(&front->bars[i]);
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		struct bar *bar = &front->bars[i];
		uint64_t addr = bar_wanted(bar);
		int ret;

		if (!addr || addr == bar->addr)
			continue;
		ret = bus_add(front->machine->bus, addr, bar->size, front->dev->name, bar_access,
			      bar, &bar->region);
		if (!ret)
			set_addr(bar, addr);
		else if (ret != -EBUSY && !front->warned) {
			front->warned = true;
			msg_warn("%s: BAR %u answers nobody: %s", front->dev->name, bar->index,
				 strerror(-ret));
		}
		/* Over another BAR it answers nobody until it moves. */
	}
}

/* When anything is bounced again the guards must know what the guest has told the device: so these
 * stay trapped, but where a driver begins anew before. */
static bool is_guarded(const struct pci_front *front)
{
	return front->is_nvme || front->is_virtio;
}

static void set_direct(struct pci_front *front, bool direct)
{
	pthread_mutex_lock(&front->direct_lock);
	if (front->direct == direct)
		goto out;
	front->direct = direct;
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		if (front->bars[i].quiet)
			continue;
		if (direct)
			map_pages(&front->bars[i]);
		else
			unmap_pages(&front->bars[i]);
	}
	/* The machine is told of all routes at once. */
	for (unsigned i = 0; i < front->nr_vectors; i++) {
		if (direct && front->vectors[i].wanted)
			route_vector(&front->vectors[i]);
	}
	for (unsigned i = 0; i < front->nr_vectors; i++) {
		if (direct && front->vectors[i].wanted)
			irqfd_on(&front->vectors[i]);
		else
			irqfd_off(&front->vectors[i]);
	}
out:
	pthread_mutex_unlock(&front->direct_lock);
}

/* on_trap - the mediator holds its lock, and maybe the bridge's and pci_lines.lock are held */
static void on_trap(void *ctx, enum trap_state state)
{
	struct pci_front *front = ctx;

	set_direct(front, state == TRAP_OFF_LONG || (state == TRAP_OFF && !is_guarded(front)));
}

static void hide_bar(const struct bar *bar, uint64_t size)
{
	msg_warn("%s: BAR %u has the impossible size %#" PRIx64 "; the guest does not see it",
		 bar->front->dev->name, bar->index, size);
}

/* place_mem_bar - give a BAR its size and an address. False: no address is free. */
static bool place_mem_bar(struct bar *bar, uint32_t flags, uint64_t size)
{
	struct pci_front *front = bar->front;
	unsigned reg = PCI_BASE_ADDRESS_0 + 4 * bar->index;
	/* Low if it is small and not prefetchable: a guest then finds it in a window of its kind.
	 */
	uint64_t addr = pci_alloc_mem(
		front->cfg.host, size,
		bar->is_64 && (flags & PCI_BASE_ADDRESS_MEM_PREFETCH || size > BIT(24)));

	if (!addr)
		return false;
	bar->size = size;
	put_le32(front->shadow + reg, (uint32_t)addr | (flags & ~PCI_BASE_ADDRESS_MEM_MASK));
	put_le32(front->writable + reg, (uint32_t)(~(size - 1) & PCI_BASE_ADDRESS_MEM_MASK));
	if (bar->is_64) {
		put_le32(front->shadow + reg + 4, (uint32_t)(addr >> 32));
		put_le32(front->writable + reg + 4, (uint32_t)(~(size - 1) >> 32));
	}
	return true;
}

/*
 * is_quiet - a BAR in which no driver of Linux tells the device of anything in memory, or reads
 * that the device has done so: no access needs to be a sync point.
 *
 * NVMe: what is behind another BAR than 0 is memory, of which Linux uses the controller memory
 * buffer for submission queues, rung in BAR 0, and reads no completions there
 * (drivers/nvme/host/pci.c, nvme_map_cmb(), nvme_alloc_sq_cmds()). Intel 82574: BAR 1 is its flash
 * (datasheet, "Base Address Registers"). QEMU's VGA: BAR 0 is the frame buffer of a device that
 * does no DMA (docs/specs/standard-vga.rst). Not the memory of GPUs: some drivers keep their fences
 * there.
 */
static bool is_quiet(const struct bar *bar)
{
	const uint8_t *shadow = bar->front->shadow;
	uint32_t id = get_le32(shadow + PCI_VENDOR_ID);

	if (get_le32(shadow + PCI_CLASS_REVISION) >> 8 == CLASS_NVME)
		return bar->index != 0;
	if (is_e1000e((uint16_t)id, (uint16_t)(id >> 16)))
		return bar->index == 1;
	return id == ID_QEMU_VGA && bar->index == 0;
}

static int init_mem_bar(struct bar *bar, uint32_t flags, char *error, size_t error_len)
{
	struct pci_front *front = bar->front;
	uint64_t size = front->dev->bars[bar->index].size;

	bar->is_64 = (flags & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (!IS_POW2(size) || size < MIN_MEM_BAR ||
	    (bar->is_64 && bar->index == PCI_DEV_BARS - 1) || (!bar->is_64 && size > BIT(31))) {
		hide_bar(bar, size);
		return 0;
	}
	/* Pages of it are mapped: the guest must not put another BAR into them. */
	size = MAX(size, front->machine->host_page);
	if (!place_mem_bar(bar, flags, size)) {
		snprintf(error, error_len,
			 "%s: no room in the guest's %s window for BAR %u of %" PRIu64
			 " MiB; pass fewer devices",
			 front->dev->name, bar->is_64 ? "PCI" : "32-bit PCI", bar->index,
			 size >> 20);
		return -ENOSPC;
	}
	bar->quiet = is_quiet(bar);
	return 0;
}

static int init_io_bar(struct bar *bar, char *error, size_t error_len)
{
	struct pci_front *front = bar->front;
	unsigned reg = PCI_BASE_ADDRESS_0 + 4 * bar->index;
	uint64_t size = front->dev->bars[bar->index].size;
	uint32_t port;

	bar->is_io = true;
	if (!IS_POW2(size) || size < MIN_IO_BAR || size > LAYOUT_PCI_IO_LEN) {
		hide_bar(bar, size);
		return 0;
	}
	port = pci_alloc_io(front->cfg.host, size);
	if (!port) {
		snprintf(error, error_len,
			 "%s: no room for the %" PRIu64 " I/O ports of BAR %u; pass fewer devices",
			 front->dev->name, size, bar->index);
		return -ENOSPC;
	}
	bar->size = size;
	front->has_io = true;
	put_le32(front->shadow + reg, port | PCI_BASE_ADDRESS_SPACE_IO);
	put_le32(front->writable + reg, (uint32_t)(~(size - 1) & PCI_BASE_ADDRESS_IO_MASK));
	return 0;
}

static int init_bars(struct pci_front *front, const uint8_t *config, char *error, size_t error_len)
{
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		front->bars[i].front = front;
		front->bars[i].index = i;
		put_le32(front->shadow + PCI_BASE_ADDRESS_0 + 4 * i, 0);
	}
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		uint32_t flags = get_le32(config + PCI_BASE_ADDRESS_0 + 4 * i);
		struct bar *bar = &front->bars[i];
		int ret;

		if (!front->dev->bars[i].size)
			continue;
		ret = flags & PCI_BASE_ADDRESS_SPACE_IO
			      ? init_io_bar(bar, error, error_len)
			      : init_mem_bar(bar, flags, error, error_len);
		if (ret)
			return ret;
		i += bar->is_64; /* the upper half is no BAR of its own */
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

static void init_pm(struct pci_front *front, unsigned pos)
{
	front->pm_pos = pos;
	/* Version 3; no D1, D2, PME or auxiliary current. */
	put_le16(front->shadow + pos + PCI_PM_PMC, 3);
	/* The guest may think it is in D3 and back; registers keep their values. */
	put_le16(front->shadow + pos + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
	front->writable[pos + PCI_PM_CTRL] = PCI_PM_CTRL_STATE_MASK;
}

static void init_exp(struct pci_front *front, unsigned pos, const uint8_t *cap)
{
	unsigned flags = get_le16(cap + PCI_EXP_FLAGS);
	unsigned type = (flags & PCI_EXP_FLAGS_TYPE) >> 4;
	uint32_t devcap = get_le32(cap + PCI_EXP_DEVCAP);

	front->exp_pos = pos;
	if (type == PCI_EXP_TYPE_ENDPOINT || type == PCI_EXP_TYPE_LEG_END)
		type = PCI_EXP_TYPE_RC_END;
	put_le16(front->shadow + pos + PCI_EXP_FLAGS,
		 (uint16_t)((flags & PCI_EXP_FLAGS_VERS) | type << 4));
	devcap &= ~(uint32_t)(PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_PHANTOM | PCI_EXP_DEVCAP_PWR_VAL |
			      PCI_EXP_DEVCAP_PWR_SCL);
	if (front->dev->can_reset)
		devcap |= PCI_EXP_DEVCAP_FLR;
	put_le32(front->shadow + pos + PCI_EXP_DEVCAP, devcap);
	/* Payload and request sizes stay as the host set them, whatever the guest writes; the link
	 * registers do not exist on an integrated endpoint. */
	put_le16(front->shadow + pos + PCI_EXP_DEVCTL,
		 get_le16(cap + PCI_EXP_DEVCTL) & ~PCI_EXP_DEVCTL_BCR_FLR);
	put_le16(front->writable + pos + PCI_EXP_DEVCTL, 0x7fff);
}

static bool init_msi(struct pci_front *front, unsigned pos, const uint8_t *cap)
{
	unsigned flags = get_le16(cap + PCI_MSI_FLAGS);
	struct msi *msi = &front->msi;
	unsigned nr_lg2;

	msi->nr = MIN(1u << ((flags & PCI_MSI_FLAGS_QMASK) >> 1), front->dev->nr_msi);
	msi->nr = MIN(msi->nr, MAX_MSI);
	if (!msi->nr)
		return false;
	nr_lg2 = 31 - (unsigned)__builtin_clz(msi->nr);
	msi->nr = 1u << nr_lg2;
	msi->pos = pos;
	msi->is_64 = flags & PCI_MSI_FLAGS_64BIT;
	msi->maskable = flags & PCI_MSI_FLAGS_MASKBIT;
	put_le16(front->shadow + pos + PCI_MSI_FLAGS,
		 (uint16_t)((flags & (PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT)) | nr_lg2 << 1));
	put_le16(front->writable + pos + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	put_le32(front->writable + pos + PCI_MSI_ADDRESS_LO, 0xfffffffc);
	if (msi->is_64)
		put_le32(front->writable + pos + PCI_MSI_ADDRESS_HI, 0xffffffff);
	put_le16(front->writable + msi_data_pos(msi), 0xffff);
	if (msi->maskable)
		put_le32(front->writable + msi_mask_pos(msi), (uint32_t)(BIT(msi->nr) - 1));
	return true;
}

/* locate - offset and BAR of the MSI-X table or pending bits. Return: false if they are in no BAR.
 */
static bool locate(const struct pci_front *front, uint32_t reg, unsigned len, unsigned *bar,
		   uint64_t *off)
{
	*bar = reg & PCI_MSIX_TABLE_BIR;
	*off = reg & PCI_MSIX_TABLE_OFFSET;
	return *bar < PCI_DEV_BARS && front->bars[*bar].size && !front->bars[*bar].is_io &&
	       *off + len <= front->dev->bars[*bar].size;
}

/*
 * Drivers that look for registers in BAR 0 only, so that one more BAR is no surprise to them.
 * Sources, in Linux: drivers/nvme/host/pci.c, nvme_dev_map(), and nvme_map_cmb(), which asks the
 * controller for the BAR; drivers/usb/core/hcd-pci.c, usb_hcd_pci_probe().
 */
static bool looks_at_bar_0_only(const struct pci_front *front)
{
	uint32_t class = get_le32(front->shadow + PCI_CLASS_REVISION) >> 8;

	return class == CLASS_NVME || class == CLASS_XHCI;
}

/* in_area - is the host page at @off of a BAR mapped into this process? */
static bool in_area(const struct pci_dev_bar *real, uint64_t off)
{
	for (unsigned i = 0; i < real->nr_areas; i++) {
		if (off - real->areas[i].off < real->areas[i].len)
			return true;
	}
	return false;
}

/*
 * Functions put their MSI-X table into 4 KiB of its own, which on a host of larger pages is one
 * page with the doorbells. What the guest sees is ours to choose: table and pending bits move to a
 * BAR that the function has not, and the page can be mapped. It has the real table in it then,
 * which is no more than a guest can do anyhow: its device can write any message to where MSIs go.
 * It is the kernel that says so, by letting the page be mapped
 * (VFIO_REGION_INFO_CAP_MSIX_MAPPABLE).
 */
static void move_msix(struct pci_front *front)
{
	uint64_t page = front->machine->host_page;
	uint64_t pba = ALIGN_UP((uint64_t)msix_table_len(&front->msix), MSIX_ALONE);
	uint64_t size = MAX(page, MSIX_ALONE), last_upper = 0;
	struct bar *to = NULL;

	if (page <= MSIX_ALONE || !looks_at_bar_0_only(front) || front->msix_bar ||
	    !in_area(&front->dev->bars[0], ALIGN_DOWN(front->table_off, page)))
		return;
	while (size < pba + msix_pba_len(&front->msix))
		size *= 2;
	for (unsigned i = 1; i < PCI_DEV_BARS; i++) {
		if (front->bars[i - 1].is_64)
			last_upper = i;
		if (!front->dev->bars[i].size && last_upper != i)
			to = &front->bars[i];
	}
	if (!to || !place_mem_bar(to, 0, size))
		return;
	front->msix_bar = front->pba_bar = to->index;
	front->table_off = 0;
	front->pba_off = pba;
}

static int init_msix(struct pci_front *front, unsigned pos, const uint8_t *cap)
{
	unsigned nr = (get_le16(cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u;
	int ret;

	if (front->dev->nr_msix < nr)
		return -EINVAL;
	ret = msix_init(&front->msix, nr, send_msi, front);
	if (ret)
		return ret;
	if (!locate(front, get_le32(cap + PCI_MSIX_TABLE), msix_table_len(&front->msix),
		    &front->msix_bar, &front->table_off) ||
	    !locate(front, get_le32(cap + PCI_MSIX_PBA), msix_pba_len(&front->msix),
		    &front->pba_bar, &front->pba_off)) {
		msix_destroy(&front->msix);
		return -EINVAL;
	}
	front->msix_pos = pos;
	move_msix(front);
	put_le16(front->shadow + pos + PCI_MSIX_FLAGS, (uint16_t)(nr - 1));
	put_le16(front->writable + pos + PCI_MSIX_FLAGS,
		 PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	put_le32(front->shadow + pos + PCI_MSIX_TABLE,
		 (uint32_t)front->table_off | front->msix_bar);
	put_le32(front->shadow + pos + PCI_MSIX_PBA, (uint32_t)front->pba_off | front->pba_bar);
	return 0;
}

/* init_cap - Return: true if the guest sees it; its bytes are the shadow's, zero, in either case.
 */
static bool init_cap(struct pci_front *front, const struct capability *c, const uint8_t *config)
{
	const uint8_t *cap = config + c->pos;
	unsigned room = c->limit - c->pos;
	unsigned len = cap_len(cap, room);

	/* One that another starts inside of is not what it says. */
	if (!len || len > room)
		len = room;
	memset(front->forward + c->pos, false, len);
	memset(front->shadow + c->pos, 0, len);
	if (len < cap_len(cap, room))
		return false;
	switch (c->id) {
	case PCI_CAP_ID_PM:
		if (front->pm_pos)
			return false;
		init_pm(front, c->pos);
		return true;
	case PCI_CAP_ID_MSI:
		return !front->msi.pos && init_msi(front, c->pos, cap);
	case PCI_CAP_ID_MSIX:
		return !front->msix_pos && !init_msix(front, c->pos, cap);
	case PCI_CAP_ID_EXP:
		if (front->exp_pos)
			return false;
		init_exp(front, c->pos, cap);
		return true;
	case PCI_CAP_ID_VNDR:
		memcpy(front->shadow + c->pos, cap, len);
		if (get_le16(config + PCI_VENDOR_ID) == VENDOR_VIRTIO)
			virtio_guard_cap(&front->virtio, cap, len);
		return true;
	default:
		return false;
	}
}

static void init_caps(struct pci_front *front, const uint8_t *config)
{
	struct capability caps[MAX_CAPS];
	unsigned nr = 0, link = PCI_CAPABILITY_LIST;
	bool seen[CONFIG_LEN] = {false};
	uint8_t pos;

	front->shadow[link] = 0;
	put_le16(front->shadow + PCI_STATUS,
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
		if (!init_cap(front, &caps[i], config))
			continue;
		front->shadow[caps[i].pos] = caps[i].id;
		front->shadow[caps[i].pos + PCI_CAP_LIST_NEXT] = 0;
		front->shadow[link] = caps[i].pos;
		link = caps[i].pos + PCI_CAP_LIST_NEXT;
		front->shadow[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	}
}

static int init_config(struct pci_front *front, char *error, size_t error_len)
{
	uint8_t config[CONFIG_LEN];
	int ret;

	ret = front->dev->ops->read(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, config,
				    CONFIG_LEN);
	if (ret) {
		snprintf(error, error_len, "%s: its config space cannot be read: %s",
			 front->dev->name, strerror(-ret));
		return ret;
	}
	memcpy(front->shadow, config, PCI_STD_HEADER_SIZEOF);
	memset(front->forward + PCI_STD_HEADER_SIZEOF, true, CONFIG_LEN - PCI_STD_HEADER_SIZEOF);
	put_le16(front->shadow + PCI_COMMAND, 0);
	put_le16(front->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
							PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
							PCI_COMMAND_INTX_DISABLE);
	front->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	front->writable[PCI_INTERRUPT_LINE] = 0xff;
	front->shadow[PCI_LATENCY_TIMER] = 0;
	front->shadow[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_NORMAL;
	front->shadow[PCI_BIST] = 0;
	put_le32(front->shadow + PCI_CARDBUS_CIS, 0);
	put_le32(front->shadow + PCI_ROM_ADDRESS, 0);
	memset(front->shadow + PCI_CAPABILITY_LIST, 0, PCI_INTERRUPT_LINE - PCI_CAPABILITY_LIST);
	front->shadow[PCI_INTERRUPT_LINE] = 0;
	if (!front->dev->nr_intx || !front->machine->intx_resample ||
	    front->shadow[PCI_INTERRUPT_PIN] > 4)
		front->shadow[PCI_INTERRUPT_PIN] = 0;
	ret = init_bars(front, config, error, error_len);
	if (ret)
		return ret;
	init_caps(front, config);
	front->is_e1000e = front->sync && is_e1000e(get_le16(front->shadow + PCI_VENDOR_ID),
						    get_le16(front->shadow + PCI_DEVICE_ID));
	front->is_nvme = front->sync && front->machine->gmem &&
			 get_le32(front->shadow + PCI_CLASS_REVISION) >> 8 == CLASS_NVME;
	front->is_virtio = front->sync && front->virtio.found && front->virtio.bar < PCI_DEV_BARS &&
			   front->bars[front->virtio.bar].size;
	if (front->has_io)
		front->writable[PCI_COMMAND] |= PCI_COMMAND_IO;
	memcpy(front->after_reset, front->shadow, CONFIG_LEN);
	return 0;
}

static bool is_master(const struct pci_front *front)
{
	return get_le16(front->shadow + PCI_COMMAND) & PCI_COMMAND_MASTER;
}

/* set_master - bus mastering; decoding is always on at the device, for a BAR that goes away under a
 * register access would be a bus error in this process */
static void set_master(struct pci_front *front, bool on)
{
	uint8_t command[2];

	put_le16(command, (uint16_t)(PCI_COMMAND_MEMORY | (front->has_io ? PCI_COMMAND_IO : 0) |
				     (on ? PCI_COMMAND_MASTER : 0)));
	(void)front->dev->ops->write(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command,
				     sizeof(command));
}

/* write_command - bus mastering is the guest's */
static void write_command(struct pci_front *front)
{
	set_master(front, is_master(front));
}

static void set_wanted_mode(struct pci_front *front)
{
	fair_lock(&front->cfg.lines->lock);
	set_mode(front, wanted_mode(front));
	fair_unlock(&front->cfg.lines->lock);
}

/* function_reset - the guest asked for a Function Level Reset */
static void function_reset(struct pci_front *front)
{
	uint64_t begin = trace_begin(front->machine->trace);
	int ret;

	fair_lock(&front->cfg.lines->lock);
	set_mode(front, IRQ_NONE);
	fair_unlock(&front->cfg.lines->lock);
	ret = front->dev->ops->reset(front->dev);
	if (ret && !front->warned) {
		front->warned = true;
		msg_warn("%s: the reset the guest asked for failed: %s", front->dev->name,
			 strerror(-ret));
	}
	fair_lock(&front->cfg.lines->lock);
	memcpy(front->shadow, front->after_reset, CONFIG_LEN);
	for (unsigned reg = PCI_BASE_ADDRESS_0; reg < PCI_CARDBUS_CIS; reg++)
		front->shadow[reg] &= ~front->writable[reg];
	if (front->msix_pos)
		msix_reset(&front->msix);
	front->msi.pending = 0;
	fair_unlock(&front->cfg.lines->lock);
	pthread_mutex_lock(&front->guard_lock);
	front->nvme = (struct nvme_guard){0};
	if (front->is_virtio)
		virtio_guard_reset(&front->virtio, front->ep);
	pthread_mutex_unlock(&front->guard_lock);
	update_bars(front);
	write_command(front);
	set_wanted_mode(front);
	trace_end(front->machine->trace, begin, TRACE_RESET, front->pci.devfn, 0, 0, 0);
	msg_notable("%s: the guest has reset it", front->dev->name);
}

static bool touches(unsigned off, unsigned len, unsigned reg, unsigned reg_len)
{
	return overlaps(off, len, reg, reg_len);
}

/* written - act on registers of the shadow that the guest has just changed */
static void written(struct pci_front *front, unsigned off, unsigned len, uint32_t val)
{
	if (front->exp_pos && touches(off, len, front->exp_pos + PCI_EXP_DEVCTL + 1, 1) &&
	    front->dev->can_reset &&
	    val >> (8 * (front->exp_pos + PCI_EXP_DEVCTL + 1 - off)) &
		    PCI_EXP_DEVCTL_BCR_FLR >> 8) {
		function_reset(front);
		return;
	}
	if (touches(off, len, PCI_COMMAND, 2)) {
		write_command(front);
		set_wanted_mode(front);
		update_bars(front);
	}
	if (touches(off, len, PCI_BASE_ADDRESS_0, 4 * PCI_DEV_BARS))
		update_bars(front);
	if (front->msix_pos && touches(off, len, front->msix_pos + PCI_MSIX_FLAGS, 2)) {
		unsigned ctrl = get_le16(front->shadow + front->msix_pos + PCI_MSIX_FLAGS);

		fair_lock(&front->cfg.lines->lock);
		msix_control(&front->msix, ctrl & PCI_MSIX_FLAGS_ENABLE,
			     ctrl & PCI_MSIX_FLAGS_MASKALL);
		set_mode(front, wanted_mode(front));
		fair_unlock(&front->cfg.lines->lock);
	}
	if (front->msi.pos && touches(off, len, front->msi.pos, 24)) {
		fair_lock(&front->cfg.lines->lock);
		set_mode(front, wanted_mode(front));
		if (front->mode != IRQ_MSI)
			front->msi.pending = 0;
		msi_deliver_pending(front);
		fair_unlock(&front->cfg.lines->lock);
	}
}

static uint8_t read_byte(struct pci_front *front, unsigned off)
{
	uint8_t byte;

	if (!front->forward[off])
		return front->shadow[off];
	if (front->dev->ops->read(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, &byte, 1))
		return 0xff;
	return byte;
}

/* all_forwarded - the access as a whole is the device's; else it is taken byte by byte */
static bool all_forwarded(const struct pci_front *front, unsigned off, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (!front->forward[off + i])
			return false;
	return true;
}

/* refresh - the shadow of registers that change by themselves */
static void refresh(struct pci_front *front)
{
	fair_lock(&front->cfg.lines->lock);
	if (front->intx_asserted)
		front->shadow[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		front->shadow[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	if (front->msi.maskable)
		put_le32(front->shadow + msi_mask_pos(&front->msi) + 4, front->msi.pending);
	fair_unlock(&front->cfg.lines->lock);
}

static uint32_t config_read(struct pci_func *pci, unsigned off, unsigned len)
{
	struct pci_front *front = container_of(pci, struct pci_front, pci);
	uint8_t bytes[4] = {0};

	if (off >= CONFIG_LEN)
		return 0; /* no extended capabilities */
	refresh(front);
	if (all_forwarded(front, off, len)) {
		if (front->dev->ops->read(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, bytes,
					  len))
			memset(bytes, 0xff, len);
		sync_for_cpu(front);
	} else {
		for (unsigned i = 0; i < len; i++)
			bytes[i] = read_byte(front, off + i);
	}
	return get_le32(bytes);
}

static void config_write(struct pci_func *pci, unsigned off, unsigned len, uint32_t val)
{
	struct pci_front *front = container_of(pci, struct pci_front, pci);
	bool was_master = is_master(front);
	uint8_t bytes[4];

	if (off >= CONFIG_LEN)
		return;
	put_le32(bytes, val);
	if (all_forwarded(front, off, len)) {
		sync_for_device(front);
		(void)front->dev->ops->write(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, off, bytes,
					     len);
		sync_for_cpu(front);
		return;
	}
	/* The event loop reads the MSI registers. */
	fair_lock(&front->cfg.lines->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t *shadow = &front->shadow[off + i];
		uint8_t writable = front->writable[off + i];

		*shadow = (uint8_t)((*shadow & ~writable) | (bytes[i] & writable));
	}
	fair_unlock(&front->cfg.lines->lock);
	for (unsigned i = 0; i < len; i++)
		if (front->forward[off + i])
			(void)front->dev->ops->write(front->dev, VFIO_PCI_CONFIG_REGION_INDEX,
						     off + i, &bytes[i], 1);
	written(front, off, len, val);
	/* A config write has an answer, which pushes the device's writes ahead of it as a read's
	 * does. If this one stopped it (bus mastering off, a reset) they are the last: a guest that
	 * is lazy, or starts another kernel, may use the memory for something else now. */
	if (was_master && !is_master(front))
		sync_last(front);
	else
		sync_for_cpu(front);
}

/* ---- life ----------------------------------------------------------------------------------- */

static int init_vector(struct pci_front *front, struct vector *v, unsigned vec)
{
	v->front = front;
	v->vec = vec;
	v->route = -1;
	v->fd = eventfd(0, EFD_CLOEXEC);
	if (v->fd < 0)
		return -errno;
	return front->cfg.loop
		       ? evloop_add_eventfd(front->cfg.loop, v->fd, on_eventfd, v, &v->watch)
		       : 0;
}

static int init_vectors(struct pci_front *front, char *error, size_t error_len)
{
	unsigned want = MAX(front->msix.nr, front->msi.nr);
	int ret = 0;

	if (want) {
		front->vectors = calloc(want, sizeof(*front->vectors));
		if (!front->vectors)
			ret = -ENOMEM;
	}
	if (!ret && front->shadow[PCI_INTERRUPT_PIN])
		ret = init_vector(front, &front->intx, PCI_FRONT_INTX);
	while (!ret && front->nr_vectors < want) {
		unsigned vec = front->nr_vectors++;

		ret = init_vector(front, &front->vectors[vec], vec);
	}
	if (ret)
		snprintf(error, error_len,
			 "%s: no eventfd for interrupt vector %u of %u: %s; raise the limit of "
			 "open files "
			 "(ulimit -n)",
			 front->dev->name, front->nr_vectors, want, strerror(-ret));
	return ret;
}

static void free_vector(struct pci_front *front, struct vector *v)
{
	if (v->watch)
		evloop_remove(front->cfg.loop, v->watch);
	v->watch = NULL;
	if (v->fd >= 0)
		close(v->fd);
	v->fd = -1;
	if (v->route >= 0)
		front->machine->unroute(front->machine->ctx, v->route);
	v->route = -1;
}

/* What --verbose says of a function. */
static void tell(const struct pci_front *front)
{
	const struct pci_dev *dev = front->dev;

	msg_tell("%s: the guest has it at 00:%02x.%x; vectors: %u of MSI-X, %u of MSI%s", dev->name,
		 front->cfg.devfn >> 3, front->cfg.devfn & 7, front->msix_pos ? front->msix.nr : 0,
		 front->msi.pos ? front->msi.nr : 0,
		 front->shadow[PCI_INTERRUPT_PIN] ? ", INTx" : "");
	for (unsigned i = 0; i < PCI_DEV_BARS; i++) {
		const struct bar *bar = &front->bars[i];
		bool msix = front->msix_pos && (front->msix_bar == i || front->pba_bar == i);

		if (!bar->size)
			continue;
		msg_tell("%s: BAR %u of %#" PRIx64 " bytes: %s%s", dev->name, i, bar->size,
			 bar->is_io ? "trapped, for it is of I/O ports"
			 : !dev->bars[i].nr_areas
				 ? "trapped, for the host lets none of it be mapped"
			 : bar->quiet	? "mapped, for it has no doorbell"
			 : !front->sync ? "mapped, for nothing is synced"
			 : endpoint_stays_trapped(front->ep)
				 ? "trapped while it is in a domain, for its queues are watched"
				 : "trapped while its domain needs sync points",
			 msix && !bar->is_io ? "; the pages of the MSI-X table are trapped" : "");
	}
}

int pci_front_create(const struct pci_front_cfg *cfg, struct pci_front **out, char *error,
		     size_t error_len)
{
	struct pci_front *front;
	int ret;

	front = calloc(1, sizeof(*front));
	if (!front) {
		snprintf(error, error_len, "%s: out of memory", cfg->dev->name);
		return -ENOMEM;
	}
	front->cfg = *cfg;
	front->dev = cfg->dev;
	front->machine = cfg->machine;
	front->ep = cfg->ep;
	front->sync = cfg->ep && endpoint_needs_sync(cfg->ep);
	front->direct = !front->sync;
	pthread_mutex_init(&front->direct_lock, NULL);
	pthread_mutex_init(&front->guard_lock, NULL);
	pthread_rwlock_init(&front->dev_lock, NULL);
	front->intx.fd = front->intx.route = -1;
	front->pci.name = cfg->dev->name;
	front->pci.devfn = cfg->devfn;
	front->pci.config_read = config_read;
	front->pci.config_write = config_write;
	ret = init_config(front, error, error_len);
	if (ret)
		goto err;
	ret = init_vectors(front, error, error_len);
	if (ret)
		goto err;
	write_command(front);
	ret = pci_host_add(cfg->host, &front->pci, cfg->devfn);
	if (ret) {
		snprintf(error, error_len, "%s: guest slot %02x.%x is taken", cfg->dev->name,
			 cfg->devfn >> 3, cfg->devfn & 7);
		goto err;
	}
	front->on_bridge = true;
	if (front->sync) {
		endpoint_set_guarded(front->ep, is_guarded(front));
		endpoint_set_trap(front->ep, on_trap, front);
	}
	set_wanted_mode(front);
	tell(front);
	*out = front;
	return 0;

err:
	pci_front_destroy(front);
	return ret;
}

void pci_front_quiesce(struct pci_front *front)
{
	if (!front->on_bridge)
		return;
	pci_host_remove(front->cfg.host, &front->pci);
	front->on_bridge = false;
	if (front->sync)
		endpoint_set_trap(front->ep, NULL, NULL);
	fair_lock(&front->cfg.lines->lock);
	set_mode(front, IRQ_NONE);
	fair_unlock(&front->cfg.lines->lock);
	for (unsigned i = 0; i < front->nr_vectors; i++)
		free_vector(front, &front->vectors[i]);
	free_vector(front, &front->intx);
	for (unsigned i = 0; i < PCI_DEV_BARS; i++)
		bar_unmap(&front->bars[i]);
	put_le16(front->shadow + PCI_COMMAND, 0);
	write_command(front);
}

/* stop_master - whatever the guest has set; what the device wrote until then is brought */
static void stop_master(struct pci_front *front)
{
	uint8_t command[2];

	set_master(front, false);
	/* An answer that pushes the device's writes ahead of it. */
	(void)front->dev->ops->read(front->dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, command,
				    sizeof(command));
	sync_last(front);
}

void pci_front_unplug(struct pci_front *front)
{
	/* A driver that finds the device gone uses its buffers for something else. */
	stop_master(front);
	pci_front_quiesce(front);
	/* A vCPU may have let it master once more before it was off the bridge. */
	stop_master(front);
	/* A vCPU may still be in a BAR that another moved away under it: for such a one
	 * bus_remove() has not waited. Whoever comes now finds the device gone before it looks at
	 * anything of it. */
	pthread_rwlock_wrlock(&front->dev_lock);
	front->gone = true;
	pthread_rwlock_unlock(&front->dev_lock);
}

void pci_front_destroy(struct pci_front *front)
{
	if (!front)
		return;
	/* What a failed create left; pci_front_quiesce() leaves none. */
	for (unsigned i = 0; i < front->nr_vectors; i++)
		free_vector(front, &front->vectors[i]);
	free_vector(front, &front->intx);
	free(front->vectors);
	msix_destroy(&front->msix);
	pthread_mutex_destroy(&front->direct_lock);
	pthread_mutex_destroy(&front->guard_lock);
	pthread_rwlock_destroy(&front->dev_lock);
	free(front);
}
