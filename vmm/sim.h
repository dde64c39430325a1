/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim - the simulated devices of one VM, each behind one or two simulated DARTs of its own: opened,
 * made endpoints of the mediator or put behind a DART that the guest owns, shown on PCI.
 */
#ifndef VMM_SIM_H
#define VMM_SIM_H

#include "iommu/mediator.h"
#include "vmm/bus.h"
#include "vmm/cli.h"
#include "vmm/fdt.h"
#include "vmm/pci_fronts.h"

/* What DARTs need that the guest owns, and how much of it there is; outlives the set. */
struct sim_machine {
	const struct gmem *gmem;
	struct bus *bus;
	unsigned vcpus;
	/* Drive the interrupt line of the guest's DART @dart; any thread. */
	void (*dart_irq)(void *ctx, unsigned dart, bool level);
	void *ctx;
};

struct sim_set; /* all simulated devices of one VM */

int sim_set_create(struct sim_set **out); /* Return: 0; -ENOMEM */
/* sim_set_destroy - after the fronts and the mediator. NULL is fine. */
void sim_set_destroy(struct sim_set *set);

/**
 * sim_set_open - take note of a device, and of its disk if it has one
 * Return: 0; -errno after a line on stderr.
 */
int sim_set_open(struct sim_set *set, const struct sim_config *cfg);

/* sim_set_place - the guest's PCI device numbers from @first on are theirs, one each */
void sim_set_place(struct sim_set *set, unsigned first);

/**
 * sim_set_add_endpoints - DARTs of our own for those that are mediated, and an endpoint each;
 * endpoint id = guest requester id.
 * @lazy: the guest puts its UNMAPs off, see vmm/strict.h
 * Return: 0; -errno after a line on stderr.
 */
int sim_set_add_endpoints(struct sim_set *set, struct mediator *m, bool lazy);

/* sim_set_realize - power everything on and put it before the guest; DARTs of the guest's are on
 * the bus at LAYOUT_DART_BASE. Return: 0; -errno after a line on stderr. */
int sim_set_realize(struct sim_set *set, const struct sim_machine *machine,
		    struct pci_fronts *fronts);

unsigned sim_set_nr_endpoints(const struct sim_set *set);

/* sim_set_describe - add every requester, and the DARTs that the guest owns, to @fdt */
void sim_set_describe(const struct sim_set *set, struct fdt_config *fdt);

/* sim_set_quiesce - no DMA, interrupt or file access after it returns. Fronts are quiet, vCPUs have
 * stopped. May be called again; NULL is fine. */
void sim_set_quiesce(struct sim_set *set);

#endif
