/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attack - what a hostile guest does to one kind of thing, a few accesses at a time. Every vCPU may
 * call everything at once, and no attack looks at what came of it: guest-tests/bare/attack.c does.
 */
#ifndef BARE_ATTACK_H
#define BARE_ATTACK_H

#include <stdbool.h>
#include <stdint.h>

#include "arena.h"
#include "simedu.h"

#define ATTACK_MAX_VDEVS 16
#define ATTACK_MAX_PCI	 8

struct attack_vdev {
	uint64_t base;
	uint32_t id;
	unsigned slot, nr_queues;
	unsigned nr_broken; /* how often a driver found that it needs a reset */
};

/* A PCI function under attack. */
struct attack_pci {
	uint32_t rid;
	uint16_t vendor, device;
	uint64_t bar; /* 0, where it was at the start */
	uint32_t bar_len;
	uint32_t saved[16]; /* the header as it was */
	bool registers;	    /* its registers may be written at random; else only its config space */
	bool masters;	    /* a simedu that may be told of DMA */
};

/* What is attacked; written before the first attack. */
struct attack_targets {
	struct attack_vdev vdev[ATTACK_MAX_VDEVS];
	unsigned nr_vdevs;
	struct attack_pci pci[ATTACK_MAX_PCI];
	unsigned nr_pci;
	const struct attack_pci *nvme; /* the simulated one; NULL: there is none */
	const struct machine *machine;
	volatile bool viommu; /* the virtio-iommu is a target now; else somebody uses it */
	bool bypass;	      /* and so is its bypass byte */
};

extern struct attack_targets targets;

/* Return: false if what the dice chose cannot be attacked this way, and nothing was done. */
bool attack_queue(struct dice *dice);	    /* build a queue, spoil it, kick */
bool attack_rings(struct dice *dice);	    /* change what a device may be reading */
bool attack_restart(struct dice *dice);	    /* reset a virtio device, start it after a fashion */
bool attack_registers(struct dice *dice);   /* any access to any device */
bool attack_undecodable(struct dice *dice); /* accesses that KVM cannot decode */
bool attack_config(struct dice *dice);	    /* PCI configuration space */
bool attack_bars(struct dice *dice); /* BARs over anything, sized and switched while in use */
bool attack_msix(struct dice *dice); /* MSI and MSI-X pointing anywhere */
bool attack_dma(struct dice *dice);  /* DMA from and to anywhere */
bool attack_nvme(struct dice *dice); /* queues and commands of the simulated NVMe */
bool attack_psci(struct dice *dice); /* calls to the firmware */

/* attack_uart - its registers but for what sends; only the vCPU that reports: it is as it should be
 * afterwards */
void attack_uart(struct dice *dice);

/* attack_pci_restore - a function as it was found, reset */
void attack_pci_restore(const struct attack_pci *pci);

#endif
