/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_nvme - a simulated NVMe 1.4 controller over a file: what the stock Linux driver binds.
 *
 * It has a thread of its own with an io_uring of its own, so that it works beside the vCPUs as
 * hardware does, and reaches memory through its two ports only: queues through one, data and
 * PRP lists through the other. Nothing that a guest writes into registers, queues or lists makes it
 * do more than fail a command or, where NVMe says so, the controller.
 * Source: NVM Express base specification 1.4.
 */
#ifndef VMM_SIM_NVME_H
#define VMM_SIM_NVME_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/pci_dev.h"
#include "vmm/sim_port.h"

#define SIM_NVME_BLOCK 512u /* bytes of a logical block */

struct sim_nvme_cfg {
	const char *name;   /* for messages; outlives the controller */
	const char *serial; /* at most 20 characters, copied */
	int fd;		    /* the disk, its own from here on unless create fails */
	uint64_t size;	    /* bytes, a multiple of SIM_NVME_BLOCK, > 0 */
	bool readonly;
	unsigned nr_io_queues; /* 1 .. 64: as many as there are vCPUs */
	struct sim_port queues, data;
	/* As in struct pci_dev_ops; may be NULL. */
	int (*msi_target)(void *ctx, uint64_t addr, uint64_t *gpa);
	/* The controller has completed @nr I/O commands since it was made; on its thread; may be
	 * NULL. */
	void (*progress)(void *ctx, uint64_t nr);
	/* The file has failed a command, as blk_on_failure() has it; on its thread; may be NULL. */
	void (*failed)(void *ctx, const char *what, int error);
	void *ctx; /* of all */
};

struct sim_nvme;

/* sim_nvme_create - Return: 0; -errno of io_uring_setup; -ENOMEM. */
int sim_nvme_create(const struct sim_nvme_cfg *cfg, struct sim_nvme **out);
/* sim_nvme_stop - no DMA, interrupt or file access after it returns; what was written is in the
 * file. May be called again. */
void sim_nvme_stop(struct sim_nvme *nvme);
void sim_nvme_destroy(struct sim_nvme *nvme); /* stops first; its front is gone; NULL is fine */

struct pci_dev *sim_nvme_dev(struct sim_nvme *nvme);

#endif
