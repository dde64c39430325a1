/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_dart - a simulated DART of this machine: the model, and who owns its registers: our driver,
 * as an instance for the mediator, or the guest, through MMIO.
 */
#ifndef VMM_SIM_DART_H
#define VMM_SIM_DART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/mediator.h"
#include "vmm/sim_mem.h"
#include "vmm/sim_port.h"

enum sim_dart_kind {
	SIM_DART_T8103,
	SIM_DART_T6000,
	SIM_DART_T8110,
};

enum sim_dart_quirk {
	SIM_DART_SOUND,
	SIM_DART_LOCKED_TTBR,	  /* firmware left a table, and TTBR and TCR are frozen */
	SIM_DART_SLOW_INVALIDATE, /* each invalidation takes SIM_DART_SLOW_NS */
	SIM_DART_HUNG_INVALIDATE, /* from sim_dart_hang() on, none ends */
};

#define SIM_DART_SLOW_NS  UINT64_C(2000000)
#define SIM_DART_MMIO_LEN UINT64_C(0x4000) /* bytes of registers */

/*
 * What the firmware of a locked DART of ours mapped for stream cfg.sid: memory of the machine's
 * own, as a boot framebuffer is. The 32 MiB around it are no part of the aperture.
 */
#define SIM_DART_FIRMWARE_IOVA UINT64_C(0xf0000000)
#define SIM_DART_FIRMWARE_LEN  UINT64_C(0x10000) /* bytes */

struct sim_dart_cfg {
	enum sim_dart_kind kind;
	enum sim_dart_quirk quirk;
	const char *name; /* for messages; outlives it */
	uint32_t sid; /* the stream that masters; of a locked one, the one that firmware let in */

	/* The driver's: */
	struct sim_mem *mem; /* shared by all of a VM's; outlives it. NULL: the guest's */

	/* The guest's: */
	const struct gmem *gmem;
	void (*irq)(void *ctx, bool level); /* any thread */
	void *irq_ctx;
};

struct sim_dart;

/**
 * sim_dart_create
 * @error: one line, without newline
 * Return: 0; -errno with @error filled.
 */
int sim_dart_create(const struct sim_dart_cfg *cfg, struct sim_dart **out, char *error,
		    size_t error_len);
/* sim_dart_destroy - no device masters through it, the mediator is gone. NULL is fine. */
void sim_dart_destroy(struct sim_dart *dart);

/* sim_dart_port - masters as stream cfg.sid; lives as long as the DART */
struct sim_port sim_dart_port(struct sim_dart *dart);

/* sim_dart_stream - for the mediator; only of the driver's */
struct stream sim_dart_stream(struct sim_dart *dart);
/* sim_dart_set_mediator - faults go there from now on (NULL: nowhere); only of the driver's */
void sim_dart_set_mediator(struct sim_dart *dart, struct mediator *m);

/* sim_dart_access - a guest's register access (a bus_access_fn, ctx: the sim_dart); only 4 bytes at
 * multiples of 4 are answered. Only of the guest's. */
void sim_dart_access(void *ctx, uint64_t off, void *data, unsigned len, bool write);
/* sim_dart_translate - where a write of stream cfg.sid to @addr would go, without a trace; for MSI
 * messages. Return: 0; -EFAULT. */
int sim_dart_translate(struct sim_dart *dart, uint64_t addr, uint64_t *pa);

/* sim_dart_hang - from now on no invalidation ends; only with SIM_DART_HUNG_INVALIDATE; any thread
 */
void sim_dart_hang(struct sim_dart *dart);

#endif
