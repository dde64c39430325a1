/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pci.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/layout.h"

#define NR_DEVFNS	  256
#define ECAM_FUNC_LEN	  0x1000
#define HEADER_TYPE	  0x0e
#define HEADER_TYPE_MULTI 0x80

/* No BAR shares a page with another, whatever the host's page is (4, 16 or 64 KiB). */
#define BAR_ALIGN 0x10000u

/* Below are the ports of a PC's board; to Linux, port 0 is none. */
#define FIRST_PORT 0x1000u

struct window {
	uint64_t next, end;
};

struct pci_host {
	struct bus *bus;
	struct bus_region *ecam;
	pthread_mutex_t lock; /* serialises config accesses and additions */
	struct pci_func *funcs[NR_DEVFNS];
	struct window low, high, ports;
	struct pci_func bridge;
};

/* ---- the bridge itself: a header and nothing else ------------------------------------------- */

static uint32_t bridge_read(struct pci_func *func, unsigned off, unsigned len)
{
	/* 1b36:0008, the vendor and device of a generic PCIe host, class 0600 (host bridge) */
	static const uint8_t header[0x10] = {
		0x36, 0x1b, 0x08, 0x00, [0x0b] = 0x06,
	};
	uint32_t val = 0;

	(void)func;
	for (unsigned i = 0; i < len; i++)
		if (off + i < sizeof(header))
			val |= (uint32_t)header[off + i] << (8 * i);
	return val;
}

static void bridge_write(struct pci_func *func, unsigned off, unsigned len, uint32_t val)
{
	(void)func, (void)off, (void)len, (void)val;
}

/* ---- ECAM ------------------------------------------------------------------------------------ */

static bool multi_function(const struct pci_host *host, unsigned devfn)
{
	for (unsigned fn = 0; fn < 8; fn++)
		if (fn != (devfn & 7) && host->funcs[(devfn & ~7u) + fn])
			return true;
	return false;
}

/* ecam_access - PCI Express base specification 7.2.2: bus in bits 27:20, devfn in bits 19:12 */
static void ecam_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct pci_host *host = ctx;
	unsigned devfn = (unsigned)(off / ECAM_FUNC_LEN) % NR_DEVFNS;
	unsigned reg = (unsigned)(off % ECAM_FUNC_LEN);
	struct pci_func *func;
	uint32_t val = 0;

	if (!write)
		memset(data, 0xff, len);
	if (off / ECAM_FUNC_LEN >= NR_DEVFNS || (len != 1 && len != 2 && len != 4) || reg % len)
		return;
	pthread_mutex_lock(&host->lock);
	func = host->funcs[devfn];
	if (func && write) {
		memcpy(&val, data, len); /* LE, like every host this runs on */
		func->config_write(func, reg, len, val);
	} else if (func) {
		val = func->config_read(func, reg, len);
		if (reg <= HEADER_TYPE && HEADER_TYPE < reg + len && multi_function(host, devfn))
			val |= (uint32_t)HEADER_TYPE_MULTI << (8 * (HEADER_TYPE - reg));
		memcpy(data, &val, len);
	}
	pthread_mutex_unlock(&host->lock);
}

/* ---- set-up --------------------------------------------------------------------------------- */

int pci_host_create(const struct pci_machine *machine, struct pci_host **out)
{
	struct pci_host *host;
	int ret;

	host = calloc(1, sizeof(*host));
	if (!host)
		return -ENOMEM;
	pthread_mutex_init(&host->lock, NULL);
	host->bus = machine->bus;
	host->low = (struct window){LAYOUT_PCI_MEM32_BASE,
				    LAYOUT_PCI_MEM32_BASE + LAYOUT_PCI_MEM32_LEN};
	host->high = (struct window){LAYOUT_PCI_MEM64_BASE,
				     LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN};
	host->ports = (struct window){FIRST_PORT, LAYOUT_PCI_IO_LEN};
	host->bridge.name = "host bridge";
	host->bridge.config_read = bridge_read;
	host->bridge.config_write = bridge_write;
	host->funcs[0] = &host->bridge;
	ret = bus_add(host->bus, LAYOUT_PCI_ECAM_BASE, LAYOUT_PCI_ECAM_LEN, "pci-ecam", ecam_access,
		      host, &host->ecam);
	if (ret)
		goto err_free;
	*out = host;
	return 0;

err_free:
	pthread_mutex_destroy(&host->lock);
	free(host);
	return ret;
}

void pci_host_destroy(struct pci_host *host)
{
	if (!host)
		return;
	bus_remove(host->bus, host->ecam);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

int pci_host_add(struct pci_host *host, struct pci_func *func, int devfn)
{
	int ret = 0;

	if (devfn >= NR_DEVFNS)
		return -ENOSPC;
	pthread_mutex_lock(&host->lock);
	if (devfn < 0)
		for (devfn = 8; devfn < NR_DEVFNS; devfn += 8)
			if (!host->funcs[devfn] && !multi_function(host, (unsigned)devfn))
				break;
	if (devfn >= NR_DEVFNS) {
		ret = -ENOSPC;
	} else if (host->funcs[devfn]) {
		ret = -EBUSY;
	} else {
		func->devfn = (uint8_t)devfn;
		host->funcs[devfn] = func;
	}
	pthread_mutex_unlock(&host->lock);
	return ret;
}

void pci_host_remove(struct pci_host *host, struct pci_func *func)
{
	pthread_mutex_lock(&host->lock);
	if (host->funcs[func->devfn] == func)
		host->funcs[func->devfn] = NULL;
	pthread_mutex_unlock(&host->lock);
}

/* ---- BAR addresses -------------------------------------------------------------------------- */

static bool inside(uint64_t addr, uint64_t last, uint64_t base, uint64_t len)
{
	return addr >= base && last <= base + len - 1;
}

bool pci_in_window(uint64_t addr, uint64_t len)
{
	uint64_t last;

	if (!len || add_overflows(addr, len - 1, &last))
		return false;
	return inside(addr, last, LAYOUT_PCI_MEM32_BASE, LAYOUT_PCI_MEM32_LEN) ||
	       inside(addr, last, LAYOUT_PCI_MEM64_BASE, LAYOUT_PCI_MEM64_LEN);
}

static uint64_t window_alloc(struct window *w, uint64_t len)
{
	uint64_t addr = ALIGN_UP(w->next, len);

	if (addr >= w->end || len > w->end - addr)
		return 0;
	w->next = addr + len;
	return addr;
}

uint64_t pci_alloc_mem(struct pci_host *host, uint64_t len, bool above_4g)
{
	uint64_t addr = 0;

	if (!IS_POW2(len))
		return 0;
	len = MAX(len, BAR_ALIGN);
	pthread_mutex_lock(&host->lock);
	if (above_4g)
		addr = window_alloc(&host->high, len);
	if (!addr)
		addr = window_alloc(&host->low, len);
	pthread_mutex_unlock(&host->lock);
	return addr;
}

bool pci_in_io(uint64_t port, uint64_t len)
{
	return len && port < LAYOUT_PCI_IO_LEN && len <= LAYOUT_PCI_IO_LEN - port;
}

uint32_t pci_alloc_io(struct pci_host *host, uint64_t len)
{
	uint64_t port;

	if (!IS_POW2(len))
		return 0;
	pthread_mutex_lock(&host->lock);
	port = window_alloc(&host->ports, len);
	pthread_mutex_unlock(&host->lock);
	return (uint32_t)port;
}
