/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gic - GICv3 with interrupts polled, never taken: PSTATE.I stays masked and gic_wait() reads the
 * acknowledge register. MSIs are LPIs through the ITS.
 * Interrupt numbers are INTIDs: PPIs 16..31, SPI n is 32 + n, LPIs from 8192.
 */
#ifndef BARE_GIC_H
#define BARE_GIC_H

#include <stdbool.h>
#include <stdint.h>

#define GIC_SPI(n)   (32 + (n))
#define GIC_PPI(n)   (16 + (n))
#define GIC_LPI_BASE 8192
#define GIC_NONE     1023

void gic_init(void); /* of the boot vCPU */
void gic_enable(unsigned intid); /* an SPI: as level-triggered */
void gic_disable(unsigned intid);

/* gic_ack - the pending interrupt, GIC_NONE if there is none; give it to gic_eoi() */
unsigned gic_ack(void);
void gic_eoi(unsigned intid);

/* gic_wait - wait for @intid for at most @us; it is acknowledged and ended, others are dropped */
bool gic_wait(unsigned intid, uint64_t us);

/* gic_its_init - Return: NULL, or what the ITS would not do. */
const char *gic_its_init(void);

/* gic_its_map - an MSI (@event) of device @devid becomes LPI @intid. Return: false on a stuck queue. */
bool gic_its_map(uint32_t devid, uint32_t event, unsigned intid);

#endif
