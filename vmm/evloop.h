/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evloop - one event loop on one io_uring: file descriptors, eventfds, timers, and whatever a
 * device submits itself (virtio/uring.h). One thread, the one that calls evloop_run(), runs every
 * callback. Everything but evloop_stop() is called on that thread, or before it runs.
 */
#ifndef VMM_EVLOOP_H
#define VMM_EVLOOP_H

#include <stdatomic.h>
#include <stdint.h>

#include "iommu/base.h"
#include "virtio/uring.h"

struct evloop;
struct evloop_watch;

/* evloop_create - @ops: what devices on its ring ask of it, a bit per IORING_OP_*. The ring refuses
 * all but that and the loop's own: it could go where seccomp lets nobody. Return: 0; -errno of
 * io_uring; -EOPNOTSUPP, Linux before 5.10. */
int evloop_create(uint64_t ops, struct evloop **out);
void evloop_destroy(struct evloop *loop); /* frees every watch and timer left */

struct io_uring *evloop_ring(struct evloop *loop);

/* evloop_add_fd - call @fn whenever poll(2) would report @events on @fd; once with POLLNVAL if it
 * cannot be waited for (any more). Return: 0; -ENOMEM. */
int evloop_add_fd(struct evloop *loop, int fd, short events, void (*fn)(void *ctx, short revents),
		  void *ctx, struct evloop_watch **out);

/* evloop_add_eventfd - call @fn with the counter each time @fd is signalled; reads it. Not for an
 * EFD_NONBLOCK one, whose reads Linux before 6.9 does not let wait. If it cannot be read the loop
 * ends with that error. Return: 0; -ENOMEM. */
int evloop_add_eventfd(struct evloop *loop, int fd, void (*fn)(void *ctx, uint64_t count),
		       void *ctx, struct evloop_watch **out);

/* evloop_add_timer - call @fn once after @ns nanoseconds (again: add again, from @fn if need be).
 * The watch is gone when @fn returns: do not remove it after that. Return: 0; -ENOMEM. */
int evloop_add_timer(struct evloop *loop, uint64_t ns, void (*fn)(void *ctx), void *ctx,
		     struct evloop_watch **out);

/* evloop_remove - @fn is not called again after this returns; does not close the fd; NULL is fine
 */
void evloop_remove(struct evloop *loop, struct evloop_watch *watch);

/* evloop_run - run until evloop_stop(). Return: the status given to it, or -errno. */
int evloop_run(struct evloop *loop);

/* evloop_finish - after evloop_run(): turn until *@left is 0, for what still waits for completions.
 * Whoever makes it 0 calls evloop_wake() then. Return: 0; -errno of a broken ring. */
int evloop_finish(struct evloop *loop, const atomic_uint *left);

/* evloop_wake - end the wait of a turn; any thread, also a signal handler */
void evloop_wake(struct evloop *loop);

/* evloop_stop - any thread, also a signal handler; the first status wins */
void evloop_stop(struct evloop *loop, int status);

#endif
