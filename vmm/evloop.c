/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/evloop.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "iommu/base.h"

#define RING_ENTRIES 256

/* Completions that have room: of all requests of eight disks, and as many others. Linux 5.10 takes
 * no request while completions wait for room (io_submit_sqes()), and uring_get_sqe() waits for it
 * to. */
#define RING_COMPLETIONS 4096

/* What the loop itself asks of its ring. */
#define OWN_OPS                                                                                    \
	(BIT(IORING_OP_POLL_ADD) | BIT(IORING_OP_READ) | BIT(IORING_OP_TIMEOUT) |                  \
	 BIT(IORING_OP_TIMEOUT_REMOVE) | BIT(IORING_OP_ASYNC_CANCEL))

#define RUNNING INT_MIN /* the status of a loop nobody has stopped */

enum watch_kind { WATCH_FD, WATCH_EVENTFD, WATCH_TIMER };

struct evloop_watch {
	struct uring_op op; /* first: it is what a completion carries */
	struct evloop *loop;
	struct evloop_watch *next, **link; /* in loop->watches */
	enum watch_kind kind;
	int fd;
	short events;
	bool in_kernel; /* a request is under way: its completion must come before the watch is
			   freed */
	bool in_callback;
	bool removed;
	uint64_t count;
	struct __kernel_timespec delay;
	union {
		void (*fd)(void *ctx, short revents);
		void (*eventfd)(void *ctx, uint64_t count);
		void (*timer)(void *ctx);
	} fn;
	void *ctx;
};

struct evloop {
	struct io_uring ring;
	struct evloop_watch *watches;
	int stop_fd;
	atomic_int status;
	bool finishing; /* turns although it was stopped */
	bool dying;
};

static void watch_done(struct uring_op *op, int res, unsigned flags);

static void watch_free(struct evloop_watch *watch)
{
	*watch->link = watch->next;
	if (watch->next)
		watch->next->link = watch->link;
	free(watch);
}

static int watch_new(struct evloop *loop, enum watch_kind kind, int fd, void *ctx,
		     struct evloop_watch **out)
{
	struct evloop_watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		return -ENOMEM;
	watch->op.done = watch_done;
	watch->loop = loop;
	watch->kind = kind;
	watch->fd = fd;
	watch->ctx = ctx;
	watch->next = loop->watches;
	watch->link = &loop->watches;
	if (watch->next)
		watch->next->link = &watch->next;
	loop->watches = watch;
	*out = watch;
	return 0;
}

/* Queue the request that completes when the watch has something to tell. It is submitted by the
 * next turn of the loop. One-shot polls give the level semantics of poll(2); a multishot one
 * reports edges. */
static void watch_arm(struct evloop_watch *watch)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&watch->loop->ring);

	if (watch->kind == WATCH_TIMER)
		io_uring_prep_timeout(sqe, &watch->delay, 0, 0);
	else if (watch->kind == WATCH_FD)
		io_uring_prep_poll_add(sqe, watch->fd, (unsigned short)watch->events);
	else
		io_uring_prep_read(sqe, watch->fd, &watch->count, sizeof(watch->count), 0);
	io_uring_sqe_set_data(sqe, &watch->op);
	watch->in_kernel = true;
}

/* Tell the watch's owner. Return: false if there is nothing more to wait for. */
static bool watch_tell(struct evloop_watch *watch, int res)
{
	/* The kernel could not take the request just now. */
	if (res == -EINTR || res == -EAGAIN || res == -ENOMEM)
		return true;
	switch (watch->kind) {
	case WATCH_TIMER:
		watch->fn.timer(watch->ctx);
		return false;
	case WATCH_FD:
		/* Not a descriptor that can be waited for (any more): said once. */
		watch->fn.fd(watch->ctx, res < 0 ? POLLNVAL : (short)res);
		return res >= 0;
	case WATCH_EVENTFD:
		if (res == (int)sizeof(watch->count) && watch->fn.eventfd)
			watch->fn.eventfd(watch->ctx, watch->count);
		/* Somebody would wait for ever for what is never heard of again. */
		if (res < 0)
			evloop_stop(watch->loop, res);
		/* What ends the wait of a turn is still needed for evloop_finish(). */
		return res >= 0 || watch->fd == watch->loop->stop_fd;
	}
	return false;
}

static void watch_done(struct uring_op *op, int res, unsigned flags)
{
	struct evloop_watch *watch = container_of(op, struct evloop_watch, op);
	bool again;

	(void)flags; /* one-shot requests: every completion is the last */
	watch->in_kernel = false;
	if (watch->removed || watch->loop->dying) {
		watch_free(watch);
		return;
	}
	watch->in_callback = true;
	again = watch_tell(watch, res);
	watch->in_callback = false;
	/* A timer that fired is gone, so that whoever adds it again and again needs no remove. */
	if (watch->removed || (watch->kind == WATCH_TIMER && !again))
		watch_free(watch);
	else if (again)
		watch_arm(watch);
}

static void cancel(struct evloop_watch *watch)
{
	struct io_uring_sqe *sqe = uring_get_sqe(&watch->loop->ring);

	if (watch->kind == WATCH_TIMER)
		io_uring_prep_timeout_remove(sqe, (uintptr_t)&watch->op, 0);
	else
		io_uring_prep_cancel(sqe, &watch->op, 0);
	io_uring_sqe_set_data(sqe, NULL);
}

/*
 * A ring that takes requests of the kinds @ops, without flags, and no registrations at all.
 * Source: io_uring_register(2), "IORING_REGISTER_RESTRICTIONS".
 */
static int ring_create(struct io_uring *ring, uint64_t ops)
{
	struct io_uring_restriction allowed[64] = {0};
	struct io_uring_params params = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
		.cq_entries = RING_COMPLETIONS,
	};
	unsigned nr = 0;
	int ret = io_uring_queue_init_params(RING_ENTRIES, ring, &params);

	/* Every flag is known but that one. */
	if (ret == -EINVAL)
		return -EOPNOTSUPP;
	if (ret)
		return ret;
	for (unsigned op = 0; op < 64; op++)
		if (ops & BIT(op))
			allowed[nr++] = (struct io_uring_restriction){
				.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = (uint8_t)op};
	/* Without liburing: Debian 12's shared one does not export its functions for it. */
	if (!syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, allowed,
		     nr) &&
	    !syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0))
		return 0;
	ret = -errno;
	io_uring_queue_exit(ring);
	return ret;
}

int evloop_create(uint64_t ops, struct evloop **out)
{
	struct evloop *loop = calloc(1, sizeof(*loop));
	struct evloop_watch *stop;
	int ret;

	if (!loop)
		return -ENOMEM;
	loop->status = RUNNING;
	ret = ring_create(&loop->ring, OWN_OPS | ops);
	if (ret)
		goto err_free;
	loop->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->stop_fd < 0) {
		ret = -errno;
		goto err_ring;
	}
	/* Only there to end the wait: the status tells. */
	ret = evloop_add_eventfd(loop, loop->stop_fd, NULL, NULL, &stop);
	if (ret)
		goto err_stop;
	*out = loop;
	return 0;

err_stop:
	close(loop->stop_fd);
err_ring:
	io_uring_queue_exit(&loop->ring);
err_free:
	free(loop);
	return ret;
}

struct io_uring *evloop_ring(struct evloop *loop)
{
	return &loop->ring;
}

int evloop_add_fd(struct evloop *loop, int fd, short events, void (*fn)(void *ctx, short revents),
		  void *ctx, struct evloop_watch **out)
{
	struct evloop_watch *watch;
	int ret = watch_new(loop, WATCH_FD, fd, ctx, &watch);

	if (ret)
		return ret;
	watch->events = events;
	watch->fn.fd = fn;
	watch_arm(watch);
	if (out)
		*out = watch;
	return 0;
}

int evloop_add_eventfd(struct evloop *loop, int fd, void (*fn)(void *ctx, uint64_t count),
		       void *ctx, struct evloop_watch **out)
{
	struct evloop_watch *watch;
	int ret = watch_new(loop, WATCH_EVENTFD, fd, ctx, &watch);

	if (ret)
		return ret;
	watch->fn.eventfd = fn;
	watch_arm(watch);
	if (out)
		*out = watch;
	return 0;
}

int evloop_add_timer(struct evloop *loop, uint64_t ns, void (*fn)(void *ctx), void *ctx,
		     struct evloop_watch **out)
{
	struct evloop_watch *watch;
	int ret = watch_new(loop, WATCH_TIMER, -1, ctx, &watch);

	if (ret)
		return ret;
	watch->delay.tv_sec = (int64_t)(ns / 1000000000);
	watch->delay.tv_nsec = (int64_t)(ns % 1000000000);
	watch->fn.timer = fn;
	watch_arm(watch);
	if (out)
		*out = watch;
	return 0;
}

void evloop_remove(struct evloop *loop, struct evloop_watch *watch)
{
	(void)loop;
	if (!watch)
		return;
	watch->removed = true;
	if (watch->in_kernel)
		cancel(watch);
	else if (!watch->in_callback)
		watch_free(watch);
}

/* Hand every completion that is there to its owner. */
static void dispatch(struct evloop *loop)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&loop->ring, &cqe) == 0) {
		uring_deliver(&loop->ring, cqe);
		if (loop->status != RUNNING && !loop->finishing)
			return;
	}
}

/* One turn: submit, wait for a completion, dispatch. Return: 0; -errno of a broken ring. */
static int turn(struct evloop *loop)
{
	int ret = io_uring_submit_and_wait(&loop->ring, 1);

	/* EAGAIN, EBUSY: short of memory or of completion room; dispatching makes some. */
	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		return ret;
	dispatch(loop);
	return 0;
}

int evloop_run(struct evloop *loop)
{
	int ret;

	while (loop->status == RUNNING) {
		ret = turn(loop);
		if (ret)
			return ret;
	}
	return loop->status;
}

int evloop_finish(struct evloop *loop, const atomic_uint *left)
{
	int ret = 0;

	loop->finishing = true;
	while (atomic_load(left) && !ret)
		ret = turn(loop);
	loop->finishing = false;
	return ret;
}

void evloop_stop(struct evloop *loop, int status)
{
	int running = RUNNING;

	if (atomic_compare_exchange_strong(&loop->status, &running, status))
		evloop_wake(loop);
}

void evloop_wake(struct evloop *loop)
{
	static const uint64_t one = 1;
	int saved = errno;
	ssize_t ret;

	do
		ret = write(loop->stop_fd, &one, sizeof(one));
	while (ret < 0 && errno == EINTR);
	errno = saved;
}

void evloop_destroy(struct evloop *loop)
{
	struct evloop_watch *watch, *next;

	if (!loop)
		return;
	/* The kernel writes into watches (eventfd counters), so each is taken back before it is
	 * freed. */
	loop->finishing = loop->dying = true;
	for (watch = loop->watches; watch; watch = next) {
		next = watch->next;
		if (!watch->in_kernel)
			watch_free(watch);
		else if (!watch->removed)
			cancel(watch);
	}
	while (loop->watches && turn(loop) == 0)
		;
	io_uring_queue_exit(&loop->ring);
	close(loop->stop_fd);
	free(loop);
}
