/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme - granule's simulated NVMe, with one I/O queue and one command at a time, polled. Each look
 * at a completion queue comes after a read of a register, which is a sync point. Source: NVM
 * Express base specification 1.4; numbers in vmm/sim_nvme_spec.h.
 */
#ifndef BARE_NVME_H
#define BARE_NVME_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/sim_nvme_spec.h"

#define NVME_VENDOR 0x1234
#define NVME_DEVICE 0x6e76

#define NVME_PAGE     0x1000u
#define NVME_MEM_LEN  (5 * NVME_PAGE) /* two queues of each kind, and a page of data */
#define NVME_QUEUE_SZ 16u

/* What a command came to: a status as in vmm/sim_nvme_spec.h, or one of these. */
#define NVME_NO_ANSWER 0x10000u
#define NVME_FATAL     0x10001u /* the controller has failed, and says so */

/* A submission queue and its completion queue. */
struct nvme_pair {
	uint8_t *sq, *cq;
	unsigned tail, head, phase;
};

struct nvme {
	uint32_t rid;
	uint64_t bar, iova; /* of the memory below, which it reaches there */
	uint8_t *data;	    /* what is written and read: one page */
	struct nvme_pair pairs[2];
	unsigned broken; /* no more commands: NVME_NO_ANSWER or NVME_FATAL; 0: none of them */
};

/* nvme_find - the @nth one, enabled. Return: false if there is none. */
bool nvme_find(unsigned nth, struct nvme *out);

/**
 * nvme_start - enable it, and create an I/O queue
 * @mem: NVME_MEM_LEN bytes at a page; at @iova to the device
 * Return: what that came to, 0 when it is well.
 */
unsigned nvme_start(struct nvme *nvme, void *mem, uint64_t iova);

/* nvme_io - a command of the NVM command set, of one block that is in nvme->data */
unsigned nvme_io(struct nvme *nvme, uint8_t opcode, uint64_t block);

/* nvme_stop - a shutdown as a driver does it, and disable it. Return: as nvme_start(). */
unsigned nvme_stop(struct nvme *nvme);

#endif
