/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pci_front - the PCI function a guest sees in front of a pci_dev: config space, BARs, interrupts.
 *
 * The guest is never given the device's own BARs, command register, MSI or MSI-X capability: these
 * are emulated. Of the capabilities it sees power management (D3 does nothing), MSI, MSI-X, PCI
 * Express (as a root complex integrated endpoint, for there is no port above it) and
 * vendor-specific ones (read-only); the rest, the expansion ROM and extended config space are
 * hidden. Accesses to I/O BARs are trapped, always, and are sync points as those to memory BARs
 * are. Registers that belong to none of these go to the device (through VFIO, which guards them).
 *
 * While the mediator wants sync points (endpoint_set_trap) every access of the guest traps and
 * every interrupt comes by the event loop. Otherwise the function is direct: pages of its BARs are
 * mapped into the guest, and vectors that are not masked are irqfds. What stays trapped then: pages
 * with the MSI-X table or pending bits, INTx, and messages to an IOVA that the guest has mapped.
 *
 * Locks, outermost first: the host bridge's (config accesses, BARs), pci_lines.lock (all interrupt
 * state), the mediator's, the function's own of what is mapped and which irqfds are on. BAR
 * handlers are entered with none held. From beginning to end they hold the function's own against
 * being unplugged, which only pci_front_unplug() takes besides, alone; in it the second, and only
 * for the MSI-X table.
 */
#ifndef VMM_PCI_FRONT_H
#define VMM_PCI_FRONT_H

#include "iommu/fair.h"
#include "iommu/mediator.h"
#include "vmm/evloop.h"
#include "vmm/pci.h"
#include "vmm/pci_dev.h"

/* The four INTx lines, and the lock of all functions' interrupt state. */
struct pci_lines {
	struct fair_mutex lock;
	unsigned asserted[4]; /* functions that hold the line up */
};

struct pci_front_cfg {
	struct pci_dev *dev; /* outlives the function */
	struct endpoint *ep; /* NULL: no mediator */
	struct pci_host *host;
	const struct pci_machine *machine;
	struct pci_lines *lines;
	struct evloop *loop; /* NULL: nobody watches, pci_front_fire() is called instead */
	uint8_t devfn;
};

struct pci_front;

/**
 * pci_front_create - put the function on the host bridge
 * @error: one line, without newline
 * Return: 0; -errno with @error filled: no room for a BAR, no eventfds, ...
 */
int pci_front_create(const struct pci_front_cfg *cfg, struct pci_front **out, char *error,
		     size_t error_len);

/* pci_front_quiesce - off the bus and the bridge; interrupts disabled, bus mastering off. The
 * guest, and the event loop, have stopped. May be called again. */
void pci_front_quiesce(struct pci_front *front);
/* pci_front_unplug - the same while guest and event loop run, on the loop's thread: the function is
 * gone from the bridge, its BARs read as ones, and the pci_dev is not touched again */
void pci_front_unplug(struct pci_front *front);
void pci_front_destroy(struct pci_front *front); /* after pci_front_quiesce; NULL is fine */

#define PCI_FRONT_INTX (~0u)

/* pci_front_fire - the device raised MSI or MSI-X vector @vec, or INTx; on the event loop's thread
 */
void pci_front_fire(struct pci_front *front, unsigned vec);

/* pci_front_eoi - the guest's end of interrupt lowered INTx line @line: unmask it at the device,
 * which raises it again if there is still a reason */
void pci_front_eoi(struct pci_front *front, unsigned line);

#endif
