/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/evloop.h"

struct fixture {
	struct evloop *loop;
	struct evloop_watch *watch, *other;
	int pipe[2];
	unsigned calls, left;
	uint64_t sum;
	short revents;
	char seen[64];
};

static int fresh(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || evloop_create(BIT(IORING_OP_NOP), &f->loop) || pipe(f->pipe))
		return -1;
	*state = f;
	return 0;
}

static int drop(void **state)
{
	struct fixture *f = *state;

	evloop_destroy(f->loop);
	close(f->pipe[0]);
	close(f->pipe[1]);
	free(f);
	return 0;
}

/* A test that hangs is a test that fails. */
static void give_up(void *ctx)
{
	struct fixture *f = ctx;

	evloop_stop(f->loop, 99);
}

static int run(struct fixture *f)
{
	struct evloop_watch *timeout;
	int status;

	assert_int_equal(evloop_add_timer(f->loop, 5000000000, give_up, f, &timeout), 0);
	status = evloop_run(f->loop);
	if (status != 99)
		evloop_remove(f->loop, timeout);
	return status;
}

/* Reads one byte a call, so only level semantics bring the rest. */
static void read_one(void *ctx, short revents)
{
	struct fixture *f = ctx;

	f->revents = revents;
	assert_int_equal(read(f->pipe[0], &f->seen[f->calls++], 1), 1);
	if (--f->left == 0)
		evloop_stop(f->loop, 7);
}

static void count_call(void *ctx, uint64_t count)
{
	struct fixture *f = ctx;

	f->calls++;
	f->sum += count;
}

/* Whoever it was for would wait for ever. */
static void an_eventfd_that_cannot_be_read_ends_the_loop(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(evloop_add_eventfd(f->loop, f->pipe[1], count_call, f, &f->watch), 0);
	assert_int_equal(run(f), -EBADF);
	assert_int_equal(f->calls, 0);
}

static void a_readable_fd_is_told_until_it_is_drained(void **state)
{
	struct fixture *f = *state;

	f->left = 5;
	assert_int_equal(write(f->pipe[1], "hello", 5), 5);
	assert_int_equal(evloop_add_fd(f->loop, f->pipe[0], POLLIN, read_one, f, &f->watch), 0);
	assert_int_equal(run(f), 7);
	assert_string_equal(f->seen, "hello");
	assert_int_equal(f->revents, POLLIN);
}

static void hung_up(void *ctx, short revents)
{
	struct fixture *f = ctx;

	f->revents = revents;
	evloop_stop(f->loop, 8);
}

static void a_hang_up_is_told(void **state)
{
	struct fixture *f = *state;

	close(f->pipe[1]);
	f->pipe[1] = -1;
	assert_int_equal(evloop_add_fd(f->loop, f->pipe[0], POLLIN, hung_up, f, &f->watch), 0);
	assert_int_equal(run(f), 8);
	assert_true(f->revents & POLLHUP);
}

static void a_closed_fd_is_told_once(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(evloop_add_fd(f->loop, 1000, POLLIN, hung_up, f, &f->watch), 0);
	assert_int_equal(run(f), 8);
	assert_int_equal(f->revents, POLLNVAL);
}

static void a_file_without_poll_is_always_ready(void **state)
{
	struct fixture *f = *state;
	int fd = open("/dev/null", O_RDWR);
	int file = open("/proc/self/exe", O_RDONLY);

	assert_int_equal(evloop_add_fd(f->loop, fd, POLLIN, hung_up, f, &f->watch), 0);
	assert_int_equal(run(f), 8);
	assert_true(f->revents & POLLIN);
	evloop_destroy(f->loop);
	assert_int_equal(evloop_create(0, &f->loop), 0);
	assert_int_equal(evloop_add_fd(f->loop, file, POLLIN, hung_up, f, &f->watch), 0);
	assert_int_equal(run(f), 8);
	assert_true(f->revents & POLLIN);
	close(fd);
	close(file);
}

static void count_up(void *ctx, uint64_t count)
{
	struct fixture *f = ctx;

	f->calls++;
	f->sum += count;
	if (f->sum >= f->left)
		evloop_stop(f->loop, 9);
}

/* Faster than the loop at first, then slower, so that it finds the counter empty too. */
static void *signal_it(void *ctx)
{
	int fd = *(int *)ctx;

	for (int i = 0; i < 1000; i++) {
		eventfd_write(fd, 1);
		if (i > 950)
			usleep(200);
	}
	return NULL;
}

static void no_count_of_an_eventfd_is_lost(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	int fd = eventfd(0, EFD_CLOEXEC);

	f->left = 1000;
	assert_int_equal(evloop_add_eventfd(f->loop, fd, count_up, f, &f->watch), 0);
	assert_int_equal(pthread_create(&thread, NULL, signal_it, &fd), 0);
	assert_int_equal(run(f), 9);
	pthread_join(thread, NULL);
	assert_int_equal(f->sum, 1000);
	evloop_remove(f->loop, f->watch);
	close(fd);
}

static void tick(void *ctx)
{
	struct fixture *f = ctx;

	f->calls++;
	if (--f->left == 0)
		evloop_stop(f->loop, 10);
	else
		assert_int_equal(evloop_add_timer(f->loop, 2000000, tick, f, &f->watch), 0);
}

static void a_timer_fires_after_its_time_and_can_be_added_again(void **state)
{
	struct fixture *f = *state;
	struct timespec a, b;

	f->left = 5;
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(evloop_add_timer(f->loop, 2000000, tick, f, &f->watch), 0);
	assert_int_equal(run(f), 10);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_int_equal(f->calls, 5);
	assert_true((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec >= 10000000);
}

static void must_not_run(void *ctx)
{
	(void)ctx;
	fail();
}

static void must_not_run_fd(void *ctx, short revents)
{
	(void)revents;
	must_not_run(ctx);
}

/* Both pipes are ready in one batch: the first callback removes the second watch. */
static void remove_other(void *ctx, short revents)
{
	struct fixture *f = ctx;

	(void)revents;
	evloop_remove(f->loop, f->other);
	evloop_remove(f->loop, f->watch);
	f->calls++;
}

static void a_removed_watch_is_never_called_again(void **state)
{
	struct fixture *f = *state;
	struct evloop_watch *timer, *end;
	int fd = dup(f->pipe[0]);

	f->left = 1;
	assert_int_equal(write(f->pipe[1], "x", 1), 1);
	assert_int_equal(evloop_add_timer(f->loop, 1000000, must_not_run, f, &timer), 0);
	assert_int_equal(evloop_add_fd(f->loop, f->pipe[0], POLLIN, remove_other, f, &f->watch), 0);
	assert_int_equal(evloop_add_fd(f->loop, fd, POLLIN, must_not_run_fd, f, &f->other), 0);
	evloop_remove(f->loop, timer);
	evloop_remove(f->loop, NULL);
	assert_int_equal(evloop_add_timer(f->loop, 20000000, tick, f, &end), 0);
	assert_int_equal(run(f), 10);
	assert_int_equal(f->calls, 2);
	close(fd);
}

static void *stop_it(void *ctx)
{
	struct fixture *f = ctx;

	usleep(10000);
	evloop_stop(f->loop, 11);
	evloop_stop(f->loop, 12);
	return NULL;
}

static void the_first_status_of_any_thread_wins(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, stop_it, f), 0);
	assert_int_equal(run(f), 11);
	pthread_join(thread, NULL);
	assert_int_equal(evloop_run(f->loop), 11);
}

struct late {
	struct fixture *f;
	int fd;
	atomic_uint left;
};

static void finish_it(void *ctx, uint64_t count)
{
	struct late *late = ctx;

	(void)count;
	atomic_store(&late->left, 0);
}

static void *signal_late(void *ctx)
{
	struct late *late = ctx;

	assert_int_equal(eventfd_write(late->fd, 1), 0);
	return NULL;
}

/* A vCPU that waits for a completion must get it after the guest was told to stop. */
static void callbacks_run_on_until_all_is_finished(void **state)
{
	struct late late = {.f = *state, .fd = eventfd(0, EFD_CLOEXEC), .left = 1};
	pthread_t thread;

	assert_int_equal(evloop_add_eventfd(late.f->loop, late.fd, finish_it, &late, NULL), 0);
	evloop_stop(late.f->loop, 21);
	assert_int_equal(evloop_run(late.f->loop), 21);
	assert_int_equal(pthread_create(&thread, NULL, signal_late, &late), 0);
	assert_int_equal(evloop_finish(late.f->loop, &late.left), 0);
	assert_int_equal(atomic_load(&late.left), 0);
	pthread_join(thread, NULL);
	/* and a finish whose end comes from elsewhere is woken for it */
	evloop_wake(late.f->loop);
	assert_int_equal(evloop_finish(late.f->loop, &late.left), 0);
	close(late.fd);
}

static void a_stop_before_the_loop_runs_is_kept(void **state)
{
	struct fixture *f = *state;

	evloop_stop(f->loop, 0);
	assert_int_equal(run(f), 0);
}

static struct evloop *signalled;

static void on_signal(int sig)
{
	evloop_stop(signalled, 128 + sig);
}

static void a_signal_handler_may_stop_it(void **state)
{
	struct fixture *f = *state;

	signalled = f->loop;
	signal(SIGALRM, on_signal);
	ualarm(10000, 0);
	assert_int_equal(run(f), 128 + SIGALRM);
	signal(SIGALRM, SIG_DFL);
}

struct nop {
	struct uring_op op;
	struct fixture *f;
	int res;
};

static void nop_done(struct uring_op *op, int res, unsigned flags)
{
	struct nop *nop = (struct nop *)op;

	(void)flags;
	nop->res = res;
	if (++nop->f->calls == 600)
		evloop_stop(nop->f->loop, 13);
}

/* More requests at once than the ring has room for. */
static void a_devices_own_requests_complete_on_the_loop(void **state)
{
	struct fixture *f = *state;
	static struct nop nops[600];

	for (unsigned i = 0; i < 600; i++) {
		struct io_uring_sqe *sqe = uring_get_sqe(evloop_ring(f->loop));

		nops[i] = (struct nop){.op = {nop_done}, .f = f, .res = -1};
		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data(sqe, &nops[i].op);
	}
	assert_int_equal(run(f), 13);
	for (unsigned i = 0; i < 600; i++)
		assert_int_equal(nops[i].res, 0);
}

static void refused_done(struct uring_op *op, int res, unsigned flags)
{
	struct nop *nop = (struct nop *)op;

	(void)flags;
	nop->res = res;
	evloop_stop(nop->f->loop, 14);
}

/* What seccomp forbids must not be had from the ring instead. */
static void a_ring_does_what_it_is_for_and_nothing_else(void **state)
{
	static const struct {
		const char *name;
		uint8_t op, flags;
	} rows[] = {
		{"openat", IORING_OP_OPENAT, 0},
		{"socket", IORING_OP_SOCKET, 0},
		{"connect", IORING_OP_CONNECT, 0},
		{"accept", IORING_OP_ACCEPT, 0},
		{"unlinkat", IORING_OP_UNLINKAT, 0},
		{"renameat", IORING_OP_RENAMEAT, 0},
		{"statx", IORING_OP_STATX, 0},
		{"madvise", IORING_OP_MADVISE, 0},
		{"write", IORING_OP_WRITE, 0}, /* a device's, and this ring has none */
		{"msg_ring", IORING_OP_MSG_RING, 0},
		{"fixed file", IORING_OP_NOP, IOSQE_FIXED_FILE},
		{"drain", IORING_OP_NOP, IOSQE_IO_DRAIN},
		{"async", IORING_OP_NOP, IOSQE_ASYNC},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct io_uring_sqe *sqe;
		struct nop nop = {.op = {refused_done}, .f = f};

		evloop_destroy(f->loop);
		assert_int_equal(evloop_create(BIT(IORING_OP_NOP), &f->loop), 0);
		sqe = uring_get_sqe(evloop_ring(f->loop));
		io_uring_prep_rw(rows[i].op, sqe, -1, NULL, 0, 0);
		sqe->flags = rows[i].flags;
		io_uring_sqe_set_data(sqe, &nop.op);
		if (run(f) != 14 || nop.res != -EACCES)
			fail_msg("%s: %d", rows[i].name, nop.res);
	}
	assert_int_equal(io_uring_register_files(evloop_ring(f->loop), f->pipe, 2), -EACCES);
	assert_int_equal(io_uring_register_eventfd(evloop_ring(f->loop), f->pipe[0]), -EACCES);
}

static void destroy_takes_back_what_is_still_watched(void **state)
{
	struct fixture *f = *state;
	int fd = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(evloop_add_eventfd(f->loop, fd, count_up, f, NULL), 0);
	assert_int_equal(evloop_add_fd(f->loop, f->pipe[0], POLLIN, must_not_run_fd, f, NULL), 0);
	assert_int_equal(evloop_add_timer(f->loop, 3600000000000, must_not_run, f, NULL), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_int_equal(write(f->pipe[1], "x", 1), 1);
	evloop_destroy(f->loop);
	assert_int_equal(f->calls, 0);
	close(fd);
	assert_int_equal(evloop_create(0, &f->loop), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, drop)
		T(a_readable_fd_is_told_until_it_is_drained),
		T(an_eventfd_that_cannot_be_read_ends_the_loop),
		T(a_hang_up_is_told),
		T(a_closed_fd_is_told_once),
		T(a_file_without_poll_is_always_ready),
		T(no_count_of_an_eventfd_is_lost),
		T(a_timer_fires_after_its_time_and_can_be_added_again),
		T(a_removed_watch_is_never_called_again),
		T(the_first_status_of_any_thread_wins),
		T(callbacks_run_on_until_all_is_finished),
		T(a_stop_before_the_loop_runs_is_kept),
		T(a_signal_handler_may_stop_it),
		T(a_devices_own_requests_complete_on_the_loop),
		T(a_ring_does_what_it_is_for_and_nothing_else),
		T(destroy_takes_back_what_is_still_watched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
