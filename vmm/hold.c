/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two flags, each of one side: "inside" is set before "held" is looked at, and "held" is raised
 * before "inside" is looked at, all in one order for all (sequentially consistent). So a holder and
 * a vCPU that enters cannot miss each other, and an exit costs no lock.
 */
#include "vmm/hold.h"

#include <stddef.h>

void hold_init(struct hold *hold)
{
	*hold = (struct hold){.lock = PTHREAD_MUTEX_INITIALIZER,
			      .changed = PTHREAD_COND_INITIALIZER};
}

void hold_fini(struct hold *hold)
{
	pthread_cond_destroy(&hold->changed);
	pthread_mutex_destroy(&hold->lock);
}

void hold_add(struct hold *hold, struct hold_seat *seat, uint8_t *leave_at_once,
	      void (*kick)(void *ctx), void *ctx)
{
	*seat = (struct hold_seat){
		.hold = hold,
		.next = hold->seats,
		.leave_at_once = leave_at_once,
		.kick = kick,
		.ctx = ctx,
	};
	hold->seats = seat;
}

/* A kick that comes before the guest is entered would be lost but for the flag. */
static void kick(struct hold_seat *seat)
{
	__atomic_store_n(seat->leave_at_once, 1, __ATOMIC_SEQ_CST);
	seat->kick(seat->ctx);
}

/* Until nobody holds, nor is about to kick. */
static void wait_for_release(struct hold *hold)
{
	pthread_mutex_lock(&hold->lock);
	pthread_cond_broadcast(&hold->changed);
	while (hold->held)
		pthread_cond_wait(&hold->changed, &hold->lock);
	pthread_mutex_unlock(&hold->lock);
}

bool hold_enter(struct hold_seat *seat)
{
	for (;;) {
		/* Whoever kicks from here on finds it inside, or stopped it: either is seen below.
		 * A holder's earlier kick has done its work, for it holds no more. */
		__atomic_store_n(seat->leave_at_once, 0, __ATOMIC_SEQ_CST);
		seat->inside = true;
		if (!seat->hold->held && !seat->stopped)
			return true;
		seat->inside = false;
		wait_for_release(seat->hold);
		if (seat->stopped)
			return false;
	}
}

void hold_leave(struct hold_seat *seat)
{
	seat->inside = false;
	if (!seat->hold->held)
		return;
	pthread_mutex_lock(&seat->hold->lock);
	pthread_cond_broadcast(&seat->hold->changed);
	pthread_mutex_unlock(&seat->hold->lock);
}

void hold_stop(struct hold_seat *seat)
{
	seat->stopped = true;
	if (seat->inside)
		kick(seat);
}

void hold_end(struct hold_seat *seat)
{
	wait_for_release(seat->hold);
}

static bool anybody_inside(const struct hold *hold)
{
	for (struct hold_seat *seat = hold->seats; seat; seat = seat->next)
		if (seat->inside)
			return true;
	return false;
}

void hold_take(struct hold *hold)
{
	pthread_mutex_lock(&hold->lock);
	hold->held++;
	for (struct hold_seat *seat = hold->seats; seat; seat = seat->next)
		if (seat->inside)
			kick(seat);
	while (anybody_inside(hold))
		pthread_cond_wait(&hold->changed, &hold->lock);
	pthread_mutex_unlock(&hold->lock);
}

void hold_release(struct hold *hold)
{
	pthread_mutex_lock(&hold->lock);
	if (!--hold->held)
		pthread_cond_broadcast(&hold->changed);
	pthread_mutex_unlock(&hold->lock);
}
