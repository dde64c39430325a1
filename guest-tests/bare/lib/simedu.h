/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simedu - granule's simulated edu: DMA between memory and a buffer that is seen through its BAR,
 * interrupts on demand; perhaps hostile. Registers: vmm/sim_edu.h, docs/sim.md.
 */
#ifndef BARE_SIMEDU_H
#define BARE_SIMEDU_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/sim_edu.h"

struct simedu {
	uint32_t rid;
	uint64_t bar;
};

/* simedu_find - the @nth one, enabled. Return: false if there is none. */
bool simedu_find(unsigned nth, struct simedu *out);

uint32_t simedu_read(const struct simedu *edu, unsigned reg);
uint64_t simedu_read64(const struct simedu *edu, unsigned reg);
void simedu_write(const struct simedu *edu, unsigned reg, uint32_t val);
void simedu_write64(const struct simedu *edu, unsigned reg, uint64_t val);

/* simedu_put, simedu_get - its buffer at @off, which with @len is a multiple of 8 */
void simedu_put(const struct simedu *edu, unsigned off, const void *from, unsigned len);
void simedu_get(const struct simedu *edu, unsigned off, void *to, unsigned len);

/**
 * simedu_start - copy @len bytes between @iova and its buffer at @off
 * @cmd: SIM_EDU_TO_MEMORY, SIM_EDU_NOTIFY | SIM_EDU_CAUSE(n)
 */
void simedu_start(const struct simedu *edu, uint64_t iova, unsigned off, unsigned len, uint32_t cmd);

/* simedu_copy - the same, and wait for it. Return: SIM_EDU_DMA_RESULT, ~0 when it does not end. */
uint32_t simedu_copy(const struct simedu *edu, uint64_t iova, unsigned off, unsigned len, uint32_t cmd);

/* simedu_pause - hostile accesses stop, or go on */
void simedu_pause(const struct simedu *edu, bool pause);

#endif
