/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio_pci - passed-through functions: regions, config space and interrupts (their DMA is
 * iommu/vfio).
 *
 * Set up in two steps, because the mediator must know every endpoint before the machine is
 * described: open all, then add each to the PCI host. Every eventfd is watched from the start, so
 * that a vCPU that enables a vector only makes one VFIO call.
 */
#ifndef VMM_VFIO_PCI_H
#define VMM_VFIO_PCI_H

#include <stddef.h>

#include "iommu/mediator.h"
#include "vmm/cli.h"
#include "vmm/pci_fronts.h"

struct vfio_set; /* all passed-through functions of one VM, and their containers */

int vfio_set_create(struct vfio_set **out);
/* vfio_set_destroy - reset every function, close devices, then containers. The mediator is
 * destroyed after vfio_set_quiesce() and before this, and so are the fronts. NULL is fine. */
void vfio_set_destroy(struct vfio_set *set);

/* vfio_set_quiesce - reset what the guest had: no DMA after it returns. Their fronts are quiet. May
 * be called again. */
void vfio_set_quiesce(struct vfio_set *set);

/**
 * vfio_set_open - open one function (and its group's container, once per group)
 * Return: 0; -errno after a line on stderr that says what is wrong and what to do.
 */
int vfio_set_open(struct vfio_set *set, const struct vfio_config *cfg);

unsigned vfio_set_count(const struct vfio_set *set);
/* vfio_set_slots - how many PCI devices of the guest they are, from device 1 on */
unsigned vfio_set_slots(const struct vfio_set *set);

/**
 * vfio_set_add_endpoints - add every function as an endpoint; endpoint id = guest requester id
 * (what shares a host group or a name shares a guest slot, see slots.h)
 * @lazy: the guest may put UNMAPs off, see habits_of()
 * Return: 0; -errno after a line on stderr.
 */
int vfio_set_add_endpoints(struct vfio_set *set, struct mediator *m, bool lazy);

/* vfio_set_check_memlock - may each container pin @len bytes? Return: 0; -ENOMEM, told. */
int vfio_set_check_memlock(const struct vfio_set *set, uint64_t len);

/* vfio_set_map_ram - without a mediator (--iommu off): all guest RAM 1:1 into every container.
 * Return: 0; -errno after a line on stderr (a reserved region in the way, memlock, ...). */
int vfio_set_map_ram(struct vfio_set *set, const struct gmem *gmem);

/* vfio_set_rid - requester id of function @i; known after vfio_set_open of all */
uint16_t vfio_set_rid(const struct vfio_set *set, unsigned i);

/* vfio_set_realize - reset every function and put it before the guest; its interrupts are watched.
 * BARs of an endpoint that needs sync are trapped; others are mapped. A function that the host
 * wants back is taken from the guest and closed, on the loop's thread. Return: 0; -errno after a
 * line on stderr. */
int vfio_set_realize(struct vfio_set *set, struct pci_fronts *fronts, struct evloop *loop);

#endif
