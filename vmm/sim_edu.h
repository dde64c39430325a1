/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_edu - a small device for payloads and tests: a DMA engine with a buffer, interrupts on
 * demand, and a hostile mode in which it reads and writes at random IOVAs all the time.
 * Its registers are described in docs/sim.md; payloads include this file for their names.
 */
#ifndef VMM_SIM_EDU_H
#define VMM_SIM_EDU_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/pci_dev.h"
#include "vmm/sim_port.h"

#define SIM_EDU_VENDOR 0x1234
#define SIM_EDU_DEVICE 0x6564
#define SIM_EDU_CLASS  0xff0000
#define SIM_EDU_VECS   4

/* Registers of BAR 0, 32 bits; those of 64 bits (marked) may be accessed whole or in halves. */
#define SIM_EDU_ID	   0x000
#define SIM_EDU_ID_VALUE   0x65640001u /* device, version */
#define SIM_EDU_SCRATCH	   0x004       /* reads as the complement of what was written */
#define SIM_EDU_STATUS	   0x008
#define SIM_EDU_BUSY	   1u	 /* a DMA is under way */
#define SIM_EDU_MASTER	   2u	 /* the bus master bit */
#define SIM_EDU_HOSTILE	   4u	 /* in hostile mode */
#define SIM_EDU_IRQ	   0x00c /* causes that are up; bit n goes with vector n */
#define SIM_EDU_IRQ_RAISE  0x010
#define SIM_EDU_IRQ_ACK	   0x014
#define SIM_EDU_DMA_IOVA   0x020 /* 64 bits */
#define SIM_EDU_DMA_OFFSET 0x028 /* in the buffer, bytes */
#define SIM_EDU_DMA_LEN	   0x02c /* bytes */
#define SIM_EDU_DMA_CMD	   0x030
#define SIM_EDU_RUN	   1u
#define SIM_EDU_TO_MEMORY  2u /* out of the buffer; else into it */
#define SIM_EDU_NOTIFY	   4u /* raise a cause at the end: bits 9:8 */
#define SIM_EDU_CAUSE(n)   ((uint32_t)(n) << 8)
#define SIM_EDU_DMA_RESULT 0x034
#define SIM_EDU_DMA_COUNT  0x038 /* bytes that were copied */

#define SIM_EDU_FIRST	0x100 /* 64 bits: where hostile accesses begin, at least */
#define SIM_EDU_LAST	0x108 /* 64 bits: the last byte they touch, at most */
#define SIM_EDU_PATTERN 0x110 /* 64 bits: what they write */
#define SIM_EDU_SECRET	0x118 /* 64 bits: what they look for; 0: nothing */
#define SIM_EDU_SEEN	0x120 /* 64 bits: words found; counters go to 0 when written to */
#define SIM_EDU_READS	0x128 /* 64 bits: reads that were carried out */
#define SIM_EDU_WRITES	0x130 /* 64 bits: writes that were carried out */
#define SIM_EDU_REFUSED                                                                            \
	0x138		    /* 64 bits: accesses that were refused, at their first byte or later */
#define SIM_EDU_PAUSE 0x140 /* 1: no hostile access is under way, or is made, until it is 0 */

/*
 * A ring that the device fills for as long as it runs: entry n goes to slot n modulo RING_ENTRIES,
 * with a piece of payload. What each word is: sim_edu_ring_word(). The valid flag of an entry is
 * its word RING_FLAG, n + 1; it is written when all else of the entry, and its payload, has been.
 */
#define SIM_EDU_RING_IOVA    0x180 /* 64 bits: a multiple of 8 */
#define SIM_EDU_RING_DATA    0x188 /* 64 bits: of the payload of slot 0; a multiple of 8 */
#define SIM_EDU_RING_SEED    0x190 /* 64 bits */
#define SIM_EDU_RING_COUNT   0x198 /* 64 bits: entries written since it was started */
#define SIM_EDU_RING_ENTRIES 0x1a0 /* 1 .. SIM_EDU_RING_MAX_ENTRIES */
#define SIM_EDU_RING_WORDS   0x1a4 /* of an entry, 1 .. SIM_EDU_RING_MAX_WORDS */
#define SIM_EDU_RING_PAYLOAD 0x1a8 /* words of a slot's payload, 0 .. SIM_EDU_RING_MAX_WORDS */
#define SIM_EDU_RING_FLAG    0x1ac /* which word of an entry is its flag, below RING_WORDS */
#define SIM_EDU_RING_HEAD    0x1b0 /* entries the driver has done with since the start, modulo 2^32 \
				    */
#define SIM_EDU_RING_CMD     0x1b4
#define SIM_EDU_RING_RUN     1u /* writing this bit starts it over; it reads 0 after a refusal */
#define SIM_EDU_RING_PAUSES  2u /* rest between any two writes now and then, for up to 65 us */
#define SIM_EDU_RING_SHUFFLE 4u /* also several entries in one another's midst; else one by one */
#define SIM_EDU_RING_NOTIFY  8u /* raise cause 0 whenever flags have been written */

#define SIM_EDU_RING_MAX_ENTRIES 65536u
#define SIM_EDU_RING_MAX_WORDS	 32u

/* sim_edu_ring_word - word @i of entry @n, if it is not the flag; from SIM_EDU_RING_MAX_WORDS on of
 * its payload. Some change in a few bytes only. */
static inline uint64_t sim_edu_ring_word(uint64_t seed, uint64_t n, unsigned i)
{
	uint64_t z = seed + n * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xd1342543de82ef95);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z ^= z >> 27;
	return n & 4 ? z : z & UINT64_C(0xff00000000ff);
}

#define SIM_EDU_BUFFER	   0x10000
#define SIM_EDU_BUFFER_LEN 0x10000u
#define SIM_EDU_BAR_LEN	   0x40000

enum sim_edu_result {
	SIM_EDU_NONE, /* none ended yet */
	SIM_EDU_DONE,
	SIM_EDU_REFUSED_AT, /* DMA_COUNT bytes after DMA_IOVA */
	SIM_EDU_NO_MASTER,  /* the bus master bit is off, or went off */
	SIM_EDU_INVALID,    /* DMA_LEN is 0, or the buffer ends before */
};

struct sim_edu_cfg {
	const char *name; /* for messages; outlives the device */
	bool hostile;	  /* on from power-on, whatever the guest writes, bus master or not */
	struct sim_port port;
	/* As in struct pci_dev_ops; may be NULL. */
	int (*msi_target)(void *ctx, uint64_t addr, uint64_t *gpa);
	/* @nr DMAs have ended since the device was made; any thread, it may not call the device;
	 * may be NULL. */
	void (*progress)(void *ctx, uint64_t nr);
	void *ctx; /* of both */
};

struct sim_edu;

/* sim_edu_create - Return: 0; -ENOMEM; -EAGAIN no thread. */
int sim_edu_create(const struct sim_edu_cfg *cfg, struct sim_edu **out);
void sim_edu_stop(struct sim_edu *edu); /* no DMA or interrupt after it returns; may be repeated */
void sim_edu_destroy(struct sim_edu *edu); /* stops first; its front is gone; NULL is fine */

struct pci_dev *sim_edu_dev(struct sim_edu *edu);

#endif
