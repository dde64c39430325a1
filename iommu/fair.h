/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fair - a mutex that whoever has just let go of it does not take again while somebody waits. A
 * guest chooses how often its vCPUs take some locks, and for how long; with pthread's own, which
 * go to whoever comes first, and who runs comes before who is to be woken, the event loop could
 * wait for such a lock for ever.
 *
 * Turns are as fair as pthread's mutexes are among threads that sleep on one: in the order of
 * their coming, but for turns shorter than waking a thread takes.
 */
#ifndef IOMMU_FAIR_H
#define IOMMU_FAIR_H

#include <pthread.h>
#include <stdatomic.h>

struct fair_mutex {
	pthread_mutex_t lock; /* what is protected; taken last */
	pthread_mutex_t turn; /* of whoever has it next */
	atomic_uint waiting;  /* threads that wait for either */
};

#define FAIR_INITIALIZER                                                                           \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_MUTEX_INITIALIZER               \
	}

static inline void fair_init(struct fair_mutex *fair)
{
	pthread_mutex_init(&fair->lock, NULL);
	pthread_mutex_init(&fair->turn, NULL);
	atomic_init(&fair->waiting, 0);
}

static inline void fair_destroy(struct fair_mutex *fair)
{
	pthread_mutex_destroy(&fair->turn);
	pthread_mutex_destroy(&fair->lock);
}

static inline void fair_lock(struct fair_mutex *fair)
{
	if (!atomic_load_explicit(&fair->waiting, memory_order_relaxed) &&
	    !pthread_mutex_trylock(&fair->lock))
		return;
	atomic_fetch_add_explicit(&fair->waiting, 1, memory_order_relaxed);
	pthread_mutex_lock(&fair->turn);
	pthread_mutex_lock(&fair->lock);
	pthread_mutex_unlock(&fair->turn);
	atomic_fetch_sub_explicit(&fair->waiting, 1, memory_order_relaxed);
}

static inline void fair_unlock(struct fair_mutex *fair)
{
	pthread_mutex_unlock(&fair->lock);
}

#endif
