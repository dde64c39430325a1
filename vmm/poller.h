/* SPDX-License-Identifier: Apache-2.0 */
/*
 * poller - sync points that nobody announces: for a guest that polls memory and takes no
 * interrupts, and for a device that learns of work through memory alone.
 */
#ifndef VMM_POLLER_H
#define VMM_POLLER_H

#include "iommu/mediator.h"
#include "vmm/evloop.h"

/* Of poll=, microseconds; 0: no polling. */
#define POLL_US_MIN 10u
#define POLL_US_MAX 1000000u

struct poller;

/**
 * poller_create - sync both ways, for the CPU and then for devices, again and again
 * @ep: outlives it; where it is SYNC_NONE nothing is done
 * @us: microseconds between the end of one turn and the next, POLL_US_MIN to POLL_US_MAX: however
 *      long a sync takes, the loop has time for others. A turn that took longer is followed by
 *      as long a rest, for vCPUs may have been held.
 * Return: 0; -ENOMEM; -errno of timerfd_create(2).
 */
int poller_create(struct evloop *loop, struct endpoint *ep, unsigned us, struct poller **out);
void poller_destroy(struct poller *poller); /* on the loop's thread, or when that is over; NULL is
					       fine */

#endif
