/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/faultlog.h"

#include <errno.h>
#include <pthread.h>

#include "iommu/alloc.h"

#define FAULT_UNITS UINT64_C(1000000000)

struct faultlog {
	pthread_mutex_t lock;
	void (*notify)(void *ctx);
	void *notify_ctx;
	uint64_t total, lost;
	/* A bucket of 10^9 units a fault, filled at per_second units a nanosecond. */
	uint32_t per_second; /* 0: no limit */
	uint64_t (*now_ns)(void);
	uint64_t bucket, filled_at;
	bool over; /* the last one was beyond the limit */
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

void faultlog_set_limit(struct faultlog *log, uint32_t per_second, uint64_t (*now_ns)(void))
{
	pthread_mutex_lock(&log->lock);
	log->per_second = per_second;
	log->now_ns = now_ns;
	log->bucket = log->capacity * FAULT_UNITS;
	log->filled_at = per_second ? now_ns() : 0;
	log->over = false;
	pthread_mutex_unlock(&log->lock);
}

/* Is there a fault's worth in the bucket? Takes it. */
static bool within_limit(struct faultlog *log)
{
	uint64_t full = log->capacity * FAULT_UNITS, now, units;

	if (!log->per_second)
		return true;
	now = log->now_ns();
	/* After a long time it is full, and the product may not fit. */
	if (__builtin_mul_overflow(now - log->filled_at, log->per_second, &units) ||
	    units > full - log->bucket)
		units = full - log->bucket;
	log->bucket += units;
	log->filled_at = now;
	if (log->bucket < FAULT_UNITS)
		return false;
	log->bucket -= FAULT_UNITS;
	return true;
}

void faultlog_add(struct faultlog *log, const struct fault *fault)
{
	bool within, told;

	pthread_mutex_lock(&log->lock);
	within = within_limit(log);
	told = !within && log->over;
	log->over = !within;
	log->total++;
	if (within && log->count < log->capacity)
		log->ring[((uint64_t)log->oldest + log->count++) % log->capacity] = *fault;
	else
		log->lost++;
	/* Under the lock, so that set_notify() returns only when the old function is done. */
	if (log->notify && !told)
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
