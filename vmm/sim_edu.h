/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_edu - a small device for payloads and tests: a DMA engine with a buffer, interrupts on
 * demand, and a hostile mode in which it reads and writes at random IOVAs all the time.
 * Its registers are described in docs/sim.md.
 */
#ifndef VMM_SIM_EDU_H
#define VMM_SIM_EDU_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/pci_dev.h"
#include "vmm/sim_port.h"

struct sim_edu_cfg {
	const char *name; /* for messages; outlives the device */
	bool hostile;	  /* on from power-on, whatever the guest writes, bus master or not */
	struct sim_port port;
	/* As in struct pci_dev_ops; may be NULL. */
	int (*msi_target)(void *ctx, uint64_t addr, uint64_t *gpa);
	void *ctx;
};

struct sim_edu;

/* sim_edu_create - Return: 0; -ENOMEM; -EAGAIN no thread. */
int sim_edu_create(const struct sim_edu_cfg *cfg, struct sim_edu **out);
void sim_edu_stop(struct sim_edu *edu); /* no DMA or interrupt after it returns; may be repeated */
void sim_edu_destroy(struct sim_edu *edu); /* stops first; its front is gone; NULL is fine */

struct pci_dev *sim_edu_dev(struct sim_edu *edu);

#endif
