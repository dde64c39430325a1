/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci - the host bridge: ECAM for bus 0, windows of memory and of I/O ports, a slot per function,
 * INTx swizzle. Knows no KVM: what it needs of the machine comes in as struct pci_machine, so it is
 * tested natively.
 */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "iommu/gmem.h"
#include "vmm/bus.h"

/* What PCI functions need of the machine. Any thread may call. */
struct trace;

struct pci_machine {
	struct bus *bus;
	/* Drive the level-triggered SPI of one of the 4 INTx lines. */
	void (*set_intx)(void *ctx, unsigned line, bool level);
	/* Deliver an MSI: @gpa is the guest-physical doorbell, @devid the guest requester id.
	 * Return: 0; -errno when the guest's ITS would not take it. */
	int (*msi)(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid);
	/* Map host memory @hva at @gpa into the guest (a memslot; all multiples of the host page).
	 * Return: a slot number >= 0, or -errno. */
	int (*map)(void *ctx, uint64_t gpa, void *hva, uint64_t len);
	/* When it returns no access of the guest goes there any more. Never fails. */
	void (*unmap)(void *ctx, int slot);
	/*
	 * What an irqfd delivers: the MSI @data, written to the doorbell at @gpa by @devid.
	 * @route: one this function gave, that no irqfd is using; -1: a new one
	 * Return: the route >= 0; -ENOSPC. NULL, like what follows: the machine has no irqfds.
	 */
	int (*route)(void *ctx, int route, uint64_t gpa, uint32_t data, uint32_t devid);
	void (*unroute)(void *ctx, int route);
	/* From now on each signal of eventfd @fd is delivered as @route says, and nobody else reads
	 * it; one that is there already may be delivered and be read. Return: 0; -errno. */
	int (*irqfd)(void *ctx, int fd, int route);
	/* What was signalled before has been delivered when it returns; what is signalled then is
	 * left in @fd. Never fails. */
	void (*irqfd_off)(void *ctx, int fd, int route);
	/* An eventfd that is signalled each time the guest's end of interrupt has lowered the SPI
	 * of INTx line @line (KVM_IRQFD with RESAMPLE); the machine's. NULL: functions have no
	 * INTx. Return: fd; -errno. */
	int (*intx_resample)(void *ctx, unsigned line);
	void *ctx;
	const struct gmem *gmem; /* guest RAM; outlives the functions */
	uint64_t host_page;	 /* bytes */
	struct trace *trace;	 /* records what functions do; NULL: nobody does */
};

struct pci_host;

/* A function on bus 0. Config accesses are 1, 2 or 4 bytes, naturally aligned, inside 4 KiB; the
 * host serialises them with its lock, and adds the multi-function bit where it is due. */
struct pci_func {
	const char *name;
	uint8_t devfn; /* set by pci_host_add */
	uint32_t (*config_read)(struct pci_func *func, unsigned off, unsigned len);
	void (*config_write)(struct pci_func *func, unsigned off, unsigned len, uint32_t val);
};

/* pci_host_create - claims the ECAM range on the bus and puts a host bridge at 00:00.0 */
int pci_host_create(const struct pci_machine *machine, struct pci_host **out);
void pci_host_destroy(struct pci_host *host);

/* pci_host_add - put @func at @devfn (8 * device + function), or at the next free device if < 0.
 * Return: 0; -EBUSY taken; -ENOSPC. */
int pci_host_add(struct pci_host *host, struct pci_func *func, int devfn);

/* pci_host_remove - nobody reaches @func any more when this returns */
void pci_host_remove(struct pci_host *host, struct pci_func *func);

/* pci_in_io - does the bridge decode all of the I/O ports [port, port + len)? */
bool pci_in_io(uint64_t port, uint64_t len);

/* pci_alloc_io - free ports for a BAR of @len (a power of two). Return: the first one, never 0; 0
 * when none is left. */
uint32_t pci_alloc_io(struct pci_host *host, uint64_t len);

/* pci_in_window - does the bridge decode all of [addr, addr + len)? Elsewhere a BAR answers nobody.
 */
bool pci_in_window(uint64_t addr, uint64_t len);

/* pci_alloc_mem - a free guest address for a BAR of @len bytes (a power of two), alone in its 64
 * KiB.
 * @above_4g: wanted there, for a 64-bit BAR; the low window is the fallback
 * Return: 0 when none is left. */
uint64_t pci_alloc_mem(struct pci_host *host, uint64_t len, bool above_4g);

/* pci_intx_line - which of the 4 lines pin @pin (1..4) of @devfn drives: (device + pin - 1) % 4 */
static inline unsigned pci_intx_line(uint8_t devfn, unsigned pin)
{
	return ((devfn >> 3) + pin - 1) % 4;
}

#endif
