/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_guard - keeps guests of a trapped NVMe controller from using shadow doorbells.
 *
 * With the Doorbell Buffer Config command a driver asks to ring by memory: it writes queue tails to
 * a page and skips the register when the controller's event index says that it is still looking.
 * With that page bounced, neither sees the other's last word, and a command sits in its queue for
 * ever. Linux goes on with the registers when the command fails. So the guard makes it fail: it
 * reads the admin commands that a doorbell write announces, in guest memory, and turns that one
 * into a command that no PCI Express controller knows. A guest that outwits it only starves its own
 * queue. Source: NVM Express base specification 2.0, "Doorbell Buffer Config command", figure
 * "Opcodes for Admin Commands"; Linux drivers/nvme/host/pci.c, nvme_dbbuf_set().
 *
 * One thread at a time: the owner holds a lock.
 */
#ifndef VMM_NVME_GUARD_H
#define VMM_NVME_GUARD_H

#include <stdint.h>

#include "iommu/gmem.h"
#include "iommu/mediator.h"

struct nvme_guard {
	uint32_t aqa;  /* queue sizes, as the guest wrote them */
	uint64_t asq;  /* iova of the admin submission queue */
	uint32_t tail; /* entries before it have been looked at */
};

/* nvme_guard_write - the guest is about to write a register of BAR 0; before the write's sync */
void nvme_guard_write(struct nvme_guard *guard, struct endpoint *ep, const struct gmem *gmem,
		      uint64_t off, const void *data, unsigned len);

#endif
