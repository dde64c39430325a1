/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/faultlog.h"

#include <errno.h>
#include <pthread.h>

#include "iommu/alloc.h"

struct faultlog {
	pthread_mutex_t lock;
	void (*notify)(void *ctx);
	void *notify_ctx;
	uint64_t total, lost;
	unsigned capacity, oldest, count;
	struct fault ring[];
};

int faultlog_create(unsigned capacity, struct faultlog **out)
{
	struct faultlog *log;

	log = iommu_zalloc(sizeof(*log) + (size_t)capacity * sizeof(log->ring[0]));
	if (!log)
		return -ENOMEM;
	pthread_mutex_init(&log->lock, NULL);
	log->capacity = capacity;
	*out = log;
	return 0;
}

void faultlog_destroy(struct faultlog *log)
{
	if (!log)
		return;
	pthread_mutex_destroy(&log->lock);
	iommu_free(log);
}

void faultlog_set_notify(struct faultlog *log, void (*fn)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&log->lock);
	log->notify = fn;
	log->notify_ctx = ctx;
	pthread_mutex_unlock(&log->lock);
}

void faultlog_add(struct faultlog *log, const struct fault *fault)
{
	pthread_mutex_lock(&log->lock);
	log->total++;
	if (log->count < log->capacity)
		log->ring[((uint64_t)log->oldest + log->count++) % log->capacity] = *fault;
	else
		log->lost++;
	/* Under the lock, so that set_notify() returns only when the old function is done. */
	if (log->notify)
		log->notify(log->notify_ctx);
	pthread_mutex_unlock(&log->lock);
}

bool faultlog_take(struct faultlog *log, struct fault *out)
{
	bool found;

	pthread_mutex_lock(&log->lock);
	found = log->count > 0;
	if (found) {
		*out = log->ring[log->oldest];
		log->oldest = (log->oldest + 1) % log->capacity;
		log->count--;
	}
	pthread_mutex_unlock(&log->lock);
	return found;
}

void faultlog_clear(struct faultlog *log)
{
	pthread_mutex_lock(&log->lock);
	log->count = 0;
	pthread_mutex_unlock(&log->lock);
}

uint64_t faultlog_total(struct faultlog *log)
{
	uint64_t total;

	pthread_mutex_lock(&log->lock);
	total = log->total;
	pthread_mutex_unlock(&log->lock);
	return total;
}

uint64_t faultlog_lost(struct faultlog *log)
{
	uint64_t lost;

	pthread_mutex_lock(&log->lock);
	lost = log->lost;
	pthread_mutex_unlock(&log->lock);
	return lost;
}
