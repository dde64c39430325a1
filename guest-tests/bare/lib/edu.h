/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edu - QEMU's teaching device: it copies up to 4 KiB between memory and a buffer of its own, a tenth
 * of a second after it was told to, and raises interrupts on demand.
 * Its DMA addresses are masked (dma_mask= of the device), by default to 28 bits.
 * Source: QEMU docs/specs/edu.rst.
 */
#ifndef BARE_EDU_H
#define BARE_EDU_H

#include <stdbool.h>
#include <stdint.h>

#define EDU_ID	      0x00
#define EDU_ID_VALUE  0x010000edu
#define EDU_LIVENESS  0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS    0x20
#define EDU_IRQ	      0x24
#define EDU_IRQ_RAISE 0x60
#define EDU_IRQ_ACK   0x64
#define EDU_IRQ_DMA   0x100 /* the cause it gives for a finished DMA */

/* Its buffer has 4 KiB, but QEMU 7.2 ends on a transfer that touches the last of them. */
#define EDU_MAX_LEN 0xff0u

struct edu {
	uint32_t rid;
	uint64_t bar;
};

/* edu_find - the @nth one, enabled. Return: false if there is none. */
bool edu_find(unsigned nth, struct edu *out);

uint32_t edu_read(const struct edu *edu, unsigned reg);
void edu_write(const struct edu *edu, unsigned reg, uint32_t val);

enum edu_dir {
	EDU_FROM_RAM,
	EDU_TO_RAM,
};

/**
 * edu_start - tell it to copy @len bytes between @iova and its buffer at @off
 * @irq: raise EDU_IRQ_DMA at the end
 */
void edu_start(const struct edu *edu, enum edu_dir dir, uint64_t iova, unsigned off, unsigned len, bool irq);

/* edu_busy - is it still at what edu_start() told it? */
bool edu_busy(const struct edu *edu);

/* edu_finish - wait for it, reading its registers. Return: false when it does not end. */
bool edu_finish(const struct edu *edu);

/* edu_copy - start and finish */
bool edu_copy(const struct edu *edu, enum edu_dir dir, uint64_t iova, unsigned off, unsigned len);

#endif
