/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_func - the PCI function a guest sees in front of a vfio_dev: config space, BARs, interrupts.
 *
 * The guest is never given the device's own BARs, command register, MSI or MSI-X capability: these
 * are emulated. Of the capabilities it sees power management (D3 does nothing), MSI, MSI-X, PCI
 * Express (as a root complex integrated endpoint, for there is no port above it) and
 * vendor-specific ones (read-only); the rest, the expansion ROM, I/O BARs and extended config space
 * are hidden. Registers that belong to none of these go to the device through VFIO, which guards
 * them.
 *
 * Locks, outermost first: the host bridge's (config accesses, BARs), vfio_lines.lock (all interrupt
 * state), the mediator's. BAR handlers hold none but the second, and only for the MSI-X table.
 */
#ifndef VMM_VFIO_FUNC_H
#define VMM_VFIO_FUNC_H

#include <pthread.h>

#include "iommu/mediator.h"
#include "vmm/evloop.h"
#include "vmm/pci.h"
#include "vmm/vfio_dev.h"

/* The four INTx lines, and the lock of all functions' interrupt state. */
struct vfio_lines {
	pthread_mutex_t lock;
	unsigned asserted[4]; /* functions that hold the line up */
};

struct vfio_func_cfg {
	struct vfio_dev *dev; /* outlives the function */
	struct endpoint *ep;  /* NULL: no mediator */
	struct pci_host *host;
	const struct pci_machine *machine;
	struct vfio_lines *lines;
	struct evloop *loop; /* NULL: nobody watches, vfio_func_fire() is called instead */
	uint8_t devfn;
};

struct vfio_func;

/**
 * vfio_func_create - put the function on the host bridge
 * @error: one line, without newline
 * Return: 0; -errno with @error filled: no room for a BAR, no eventfds, ...
 */
int vfio_func_create(const struct vfio_func_cfg *cfg, struct vfio_func **out, char *error,
		     size_t error_len);

/* vfio_func_quiesce - off the bus and the bridge; interrupts disabled, bus mastering off. The
 * guest, and the event loop, have stopped. May be called again. */
void vfio_func_quiesce(struct vfio_func *func);
void vfio_func_destroy(struct vfio_func *func); /* after vfio_func_quiesce; NULL is fine */

#define VFIO_FUNC_INTX (~0u)

/* vfio_func_fire - the device raised MSI or MSI-X vector @vec, or INTx; on the event loop's thread
 */
void vfio_func_fire(struct vfio_func *func, unsigned vec);

/* vfio_func_eoi - the guest's end of interrupt lowered INTx line @line: unmask it at the device,
 * which raises it again if there is still a reason */
void vfio_func_eoi(struct vfio_func *func, unsigned line);

#endif
