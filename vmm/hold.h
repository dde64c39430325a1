/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold - keep all vCPUs of a machine out of the guest for a moment, so that what changes in memory
 * meanwhile changes at once for all of them.
 *
 * A vCPU's thread is inside from hold_enter() to hold_leave(), that is while it may run guest code.
 * One that is outside, whatever it does or waits for there, counts as held: so a thread may hold
 * while others wait for its locks, and a vCPU may hold in its own exit. Holders do not exclude each
 * other. Nothing in here is KVM's.
 */
#ifndef VMM_HOLD_H
#define VMM_HOLD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct hold_seat;

struct hold {
	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t changed;
	atomic_uint held; /* holders now; changed under the lock */
	struct hold_seat *seats;
};

/* A vCPU's. */
struct hold_seat {
	struct hold *hold;
	struct hold_seat *next;
	atomic_bool inside, stopped;
	/* While it is not 0 the guest is left as soon as it is entered: kvm_run.immediate_exit. */
	uint8_t *leave_at_once;
	/* Make the thread leave the guest if it is there; may come when it has just left. */
	void (*kick)(void *ctx);
	void *ctx;
};

void hold_init(struct hold *hold);
void hold_fini(struct hold *hold); /* its seats are gone */

/* hold_add - before anybody holds; @seat outlives @hold's last use */
void hold_add(struct hold *hold, struct hold_seat *seat, uint8_t *leave_at_once,
	      void (*kick)(void *ctx), void *ctx);

/* hold_enter - wait until nobody holds. Return: true: the thread is inside; false: the seat was
 * stopped. */
bool hold_enter(struct hold_seat *seat);
void hold_leave(struct hold_seat *seat);

/* hold_stop - the guest is left and never entered again; any thread, while the seat's one exists.
 * Not kicked is who is outside. */
void hold_stop(struct hold_seat *seat);

/* hold_end - the seat's thread is outside and about to end: nobody kicks it after this returns */
void hold_end(struct hold_seat *seat);

/* hold_take - when it returns no thread is inside, and none will be before hold_release(). Any
 * thread that is outside. */
void hold_take(struct hold *hold);
void hold_release(struct hold *hold);

#endif
