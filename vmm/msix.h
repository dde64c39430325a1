/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msix - an MSI-X table and its pending bits, as the guest programs them; nothing of it reaches the
 * device. A vector that fires while it or the function is masked is pending until it is unmasked.
 * One thread at a time: the owner holds its lock, also while send() runs.
 * Source: PCI Local Bus specification 3.0, section 6.8.2.
 */
#ifndef VMM_MSIX_H
#define VMM_MSIX_H

#include <stdbool.h>
#include <stdint.h>

#define MSIX_ENTRY_LEN 16u

struct msix {
	unsigned nr;	      /* vectors */
	bool enabled, masked; /* the function's Enable and Function Mask bits */
	uint8_t *table;	      /* nr * MSIX_ENTRY_LEN */
	uint64_t *pending;    /* a bit per vector */
	/* Send the message of one vector; @addr is as the guest wrote it. */
	void (*send)(void *ctx, uint64_t addr, uint32_t data);
	void *ctx;
};

/* msix_init - @nr vectors (1..2048), all masked. Return: 0; -ENOMEM. */
int msix_init(struct msix *msix, unsigned nr, void (*send)(void *ctx, uint64_t addr, uint32_t data),
	      void *ctx);
void msix_destroy(struct msix *msix); /* of one never initialised: fine */

/* msix_reset - as after power-on: disabled, all vectors masked, none pending */
void msix_reset(struct msix *msix);

/* msix_control - the guest wrote Message Control */
void msix_control(struct msix *msix, bool enabled, bool masked);

/* msix_table_access, msix_pba_access - guest accesses inside the table or the pending bits; @off
 * counts from its start, off + len <= its length. Writes to the pending bits are ignored. */
void msix_table_access(struct msix *msix, unsigned off, void *data, unsigned len, bool write);
void msix_pba_access(struct msix *msix, unsigned off, void *data, unsigned len, bool write);

/* msix_table_len, msix_pba_len - bytes; pending bits come in 8-byte words */
static inline unsigned msix_table_len(const struct msix *msix)
{
	return msix->nr * MSIX_ENTRY_LEN;
}

static inline unsigned msix_pba_len(const struct msix *msix)
{
	return (msix->nr + 63) / 64 * 8;
}

/* msix_message - what vector @vec sends when it fires; false: it is masked, or all are off */
bool msix_message(const struct msix *msix, unsigned vec, uint64_t *addr, uint32_t *data);

/* msix_fire - the device raised vector @vec */
void msix_fire(struct msix *msix, unsigned vec);

#endif
