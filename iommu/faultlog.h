/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faultlog - bounded log of faults: endpoint, iova, access, reason, count lost.
 *
 * Any thread may add, any thread may take; a leaf lock inside. What does not fit, or comes faster
 * than the limit allows, is counted as lost, not kept: the oldest faults stay, since the first of a
 * burst tells most.
 */
#ifndef IOMMU_FAULTLOG_H
#define IOMMU_FAULTLOG_H

#include <stdbool.h>
#include <stdint.h>

enum fault_reason {
	FAULT_UNKNOWN, /* something else; a MAP that could not be carried out, say */
	FAULT_DOMAIN,  /* the endpoint is in no domain */
	FAULT_MAPPING, /* not mapped, or not with these rights */
};

#define FAULT_READ    1u
#define FAULT_WRITE   2u
#define FAULT_ADDRESS 4u /* iova is valid */

struct fault {
	uint32_t endpoint;
	enum fault_reason reason;
	unsigned flags; /* FAULT_* */
	uint64_t iova;
};

struct faultlog;

/**
 * faultlog_create
 * @capacity: faults kept until taken, >= 1
 * Return: 0; -ENOMEM.
 */
int faultlog_create(unsigned capacity, struct faultlog **out);
void faultlog_destroy(struct faultlog *log); /* NULL is fine */

/**
 * faultlog_set_limit - keep at most @per_second faults a second, after a burst of the log's
 * capacity
 * @per_second: 0: no limit
 * @now_ns: a monotonic clock
 *
 * A device that faults all the time would otherwise keep its owner, and the guest, busy with
 * nothing else.
 */
void faultlog_set_limit(struct faultlog *log, uint32_t per_second, uint64_t (*now_ns)(void));

/**
 * faultlog_set_notify - @fn is called after faultlog_add(); NULL: nobody is
 *
 * Also after one that was lost, because a taker that once found no room for what it took may have
 * room now and not know; but of those beyond the limit only after the first in a row. It is called
 * from whatever thread adds, which may hold the mediator's lock, with the log's own lock held: it
 * must only wake somebody (write an eventfd) and return. Once this function returns, the function
 * set before is not running and is not called any more.
 */
void faultlog_set_notify(struct faultlog *log, void (*fn)(void *ctx), void *ctx);

/* faultlog_add - keep a copy of @fault, or count it as lost when the log is full */
void faultlog_add(struct faultlog *log, const struct fault *fault);

/* faultlog_take - the oldest fault, removed; false when there is none */
bool faultlog_take(struct faultlog *log, struct fault *out);

/* faultlog_clear - drop what is kept; the counts stay */
void faultlog_clear(struct faultlog *log);

/* faultlog_total, faultlog_lost - faults ever added (kept or lost), and of these lost */
uint64_t faultlog_total(struct faultlog *log);
uint64_t faultlog_lost(struct faultlog *log);

#endif
