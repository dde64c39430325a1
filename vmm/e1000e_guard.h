/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e1000e_guard - sees when Linux's e1000e driver begins to look at buffers before it unmaps them.
 *
 * Its ordinary receive paths unmap a buffer, then look, so bounced payload is there with the UNMAP:
 * SYNC_RINGS is right, and in it the cost of a sync does not grow with the receive ring. Two paths
 * keep the mapping and look: packet split, for an MTU above 1500, and the loopback self-test. Both
 * let in long packets first: they set LPE in the receive control register. Source: Linux
 * drivers/net/ethernet/intel/e1000e/netdev.c, e1000_clean_rx_irq*() and e1000_setup_rctl();
 * ethtool.c, e1000_setup_desc_rings(); Intel 82574 datasheet, "Receive Control Register".
 */
#ifndef VMM_E1000E_GUARD_H
#define VMM_E1000E_GUARD_H

#include <stdbool.h>
#include <stdint.h>

/* is_e1000e - a device that this driver, and no other, binds, and whose registers are as said */
bool is_e1000e(uint16_t vendor, uint16_t device);

/* e1000e_guard_write - true if a write to BAR 0 announces one of these paths */
bool e1000e_guard_write(uint64_t off, const void *data, unsigned len);

#endif
