/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/term.h"

struct fixture {
	struct evloop *loop;
	struct term *term;
	int user_in, user_out; /* the operator's ends; one descriptor with a terminal */
	int in, out;	       /* term's ends */
	char got[8192];
	size_t nr_got, want, room;
	uint16_t cols, rows;
	unsigned resizes;
};

static size_t input(void *ctx, const void *buf, size_t len)
{
	struct fixture *f = ctx;

	len = MIN(len, f->room);
	memcpy(f->got + f->nr_got, buf, len);
	f->nr_got += len;
	if (f->want && f->nr_got >= f->want)
		evloop_stop(f->loop, 50);
	return len;
}

static void resize(void *ctx, uint16_t cols, uint16_t rows)
{
	struct fixture *f = ctx;

	f->cols = cols;
	f->rows = rows;
	if (++f->resizes == 2)
		evloop_stop(f->loop, 51);
}

static void create(struct fixture *f)
{
	const struct term_cfg cfg = {.in = f->in,
				     .out = f->out,
				     .loop = f->loop,
				     .input = input,
				     .resize = resize,
				     .ctx = f};

	assert_int_equal(term_create(&cfg, &f->term), 0);
}

static struct fixture *fixture(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(evloop_create(0, &f->loop), 0);
	f->room = sizeof(f->got);
	*state = f;
	return f;
}

static int with_pipes(void **state)
{
	struct fixture *f = fixture(state);
	int a[2], b[2];

	if (pipe(a) || pipe(b))
		return -1;
	f->in = a[0];
	f->user_in = a[1];
	f->user_out = b[0];
	f->out = b[1];
	create(f);
	return 0;
}

static int with_terminal(void **state)
{
	struct fixture *f = fixture(state);
	struct winsize size = {.ws_col = 100, .ws_row = 40};
	int master, slave;

	if (openpty(&master, &slave, NULL, NULL, &size))
		return -1;
	f->user_in = f->user_out = master;
	f->in = f->out = slave;
	create(f);
	return 0;
}

/* Input from a pipe, output to a terminal. */
static int with_output_terminal(void **state)
{
	struct fixture *f = fixture(state);
	int fds[2];

	if (pipe(fds) || openpty(&f->user_out, &f->out, NULL, NULL, NULL))
		return -1;
	f->in = fds[0];
	f->user_in = fds[1];
	create(f);
	return 0;
}

static int drop(void **state)
{
	struct fixture *f = *state;

	term_destroy(f->term);
	evloop_destroy(f->loop);
	close(f->user_in);
	close(f->user_out);
	close(f->in);
	close(f->out);
	free(f);
	return 0;
}

static void give_up(void *ctx)
{
	struct fixture *f = ctx;

	evloop_stop(f->loop, 99);
}

static int run(struct fixture *f, unsigned ms)
{
	struct evloop_watch *timeout;
	int status;

	assert_int_equal(evloop_add_timer(f->loop, ms * 1000000ull, give_up, f, &timeout), 0);
	status = evloop_run(f->loop);
	if (status != 99)
		evloop_remove(f->loop, timeout);
	return status;
}

static void type(struct fixture *f, const char *text, size_t len)
{
	assert_int_equal(write(f->user_in, text, len), len);
}

static void piped_input_arrives_as_it_is(void **state)
{
	struct fixture *f = *state;

	type(f, "ls\n\001x\001\001", 7);
	f->want = 7;
	assert_int_equal(run(f, 5000), 50);
	assert_memory_equal(f->got, "ls\n\001x\001\001", 7);
}

static void the_guest_runs_on_when_piped_input_ends(void **state)
{
	struct fixture *f = *state;

	type(f, "bye", 3);
	close(f->user_in);
	f->user_in = -1;
	assert_int_equal(run(f, 100), 99);
	assert_memory_equal(f->got, "bye", 3);
}

static void make_room(void *ctx)
{
	struct fixture *f = ctx;

	f->room = 7;
}

static void input_without_room_comes_again_in_order(void **state)
{
	struct fixture *f = *state;
	struct evloop_watch *timer;
	char text[3000];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i % 23);
	f->room = 0;
	/* 7 bytes at a time every 20 ms would take long: read only some of it. */
	f->want = 70;
	type(f, text, sizeof(text));
	assert_int_equal(evloop_add_timer(f->loop, 30000000, make_room, f, &timer), 0);
	assert_int_equal(run(f, 5000), 50);
	assert_memory_equal(f->got, text, f->nr_got);
	assert_in_range(f->nr_got, 70, 76);
}

static void *read_slowly(void *ctx)
{
	struct fixture *f = ctx;
	size_t want = 300000, got = 0;
	char buf[1000];

	usleep(50000);
	while (got < want) {
		ssize_t ret = read(f->user_out, buf, sizeof(buf));

		if (ret <= 0)
			break;
		for (ssize_t i = 0; i < ret; i++) {
			if (buf[i] != (char)((got + (size_t)i) % 251))
				return (void *)got;
		}
		got += (size_t)ret;
		if (got % 50000 == 0)
			usleep(1000);
	}
	return (void *)got;
}

static void a_slow_reader_gets_every_byte(void **state)
{
	struct fixture *f = *state;
	static char text[300000];
	pthread_t thread;
	void *got;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i % 251);
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, f), 0);
	for (size_t i = 0; i < sizeof(text); i += 10000)
		term_output(f->term, text + i, 10000);
	term_destroy(f->term);
	f->term = NULL;
	pthread_join(thread, &got);
	assert_int_equal((size_t)got, sizeof(text));
}

static void a_reader_that_stopped_holds_nobody_for_ever(void **state)
{
	struct fixture *f = *state;
	static char text[200000];
	struct timespec a, b;
	ssize_t got;

	/* term_hurry() takes the same way out as the time limit, without the wait. */
	term_hurry(f->term);
	clock_gettime(CLOCK_MONOTONIC, &a);
	term_output(f->term, text, sizeof(text));
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true(b.tv_sec - a.tv_sec < 4);
	/* It reads again, so output goes on. */
	while (poll(&(struct pollfd){.fd = f->user_out, .events = POLLIN}, 1, 0) > 0)
		assert_true(read(f->user_out, text, sizeof(text)) > 0);
	term_output(f->term, "more", 4);
	assert_int_equal(run(f, 50), 99);
	got = read(f->user_out, text, sizeof(text));
	assert_true(got >= 4);
	assert_memory_equal(text + got - 4, "more", 4);
}

static void a_reader_that_left_ends_nothing(void **state)
{
	struct fixture *f = *state;
	static char text[10000];

	close(f->user_out);
	f->user_out = -1;
	term_output(f->term, "x", 1);
	assert_int_equal(run(f, 50), 99);
	term_output(f->term, text, sizeof(text));
}

static void the_last_output_is_written_at_the_end(void **state)
{
	struct fixture *f = *state;
	char text[16] = {0};

	term_output(f->term, "Power ", 6);
	term_output(f->term, "down", 4);
	term_hurry(f->term);
	term_destroy(f->term);
	f->term = NULL;
	assert_int_equal(read(f->user_out, text, sizeof(text)), 10);
	assert_string_equal(text, "Power down");
}

static void signals_stop_the_loop(void **state)
{
	struct fixture *f = *state;

	kill(getpid(), SIGTERM);
	assert_int_equal(term_pending_signal(), SIGTERM);
	assert_int_equal(run(f, 5000), 128 + SIGTERM);
	assert_int_equal(term_pending_signal(), 0);
}

static void a_terminal_is_raw_meanwhile_and_put_back(void **state)
{
	struct fixture *f = *state;
	struct termios during, after;

	assert_int_equal(tcgetattr(f->in, &during), 0);
	assert_false(during.c_lflag & (ICANON | ECHO | ISIG));
	assert_false(during.c_oflag & OPOST);
	term_destroy(f->term);
	f->term = NULL;
	assert_int_equal(tcgetattr(f->in, &after), 0);
	assert_true(after.c_lflag & ICANON);
	assert_true(after.c_lflag & ECHO);
	assert_true(after.c_lflag & ISIG);
}

static void ctrl_a_x_quits(void **state)
{
	struct fixture *f = *state;

	type(f, "a\003\001", 3);
	type(f, "xb", 2);
	assert_int_equal(run(f, 5000), 0);
	assert_memory_equal(f->got, "a\003", 2);
}

static void ctrl_a_twice_sends_one(void **state)
{
	struct fixture *f = *state;

	f->want = 3;
	type(f, "a\001\001\001zb", 6);
	assert_int_equal(run(f, 5000), 50);
	assert_memory_equal(f->got, "a\001b", 3);
}

static void ctrl_a_h_prints_a_line(void **state)
{
	struct fixture *f = *state;
	char text[200] = {0};

	f->want = 1;
	type(f, "\001h.", 3);
	assert_int_equal(run(f, 5000), 50);
	term_destroy(f->term);
	f->term = NULL;
	assert_true(read(f->user_out, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "Ctrl-A x quits"));
}

static void the_escape_works_when_the_guest_takes_nothing(void **state)
{
	struct fixture *f = *state;

	f->room = 0;
	for (int i = 0; i < 6; i++) {
		char text[1000];

		memset(text, 'a', sizeof(text));
		type(f, text, sizeof(text));
		assert_int_equal(
			evloop_add_timer(f->loop, 1, make_room, f, &(struct evloop_watch *){0}), 0);
		f->room = 0;
	}
	type(f, "\001x", 2);
	assert_int_equal(run(f, 5000), 0);
}

static void a_terminal_that_hangs_up_ends_the_run(void **state)
{
	struct fixture *f = *state;

	close(f->user_in);
	f->user_in = f->user_out = -1;
	assert_int_equal(run(f, 5000), 128 + SIGHUP);
}

static void output_to_a_terminal_that_hung_up_ends_the_run(void **state)
{
	struct fixture *f = *state;

	close(f->user_out);
	f->user_out = -1;
	term_output(f->term, "x", 1);
	assert_int_equal(run(f, 5000), 128 + SIGHUP);
}

/* A terminal is called writable though what comes next does not fit. */
static void a_terminal_nobody_reads_holds_nobody_for_ever(void **state)
{
	struct fixture *f = *state;
	static char text[4096];
	char path[32];
	int fill;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->out);
	fill = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY);
	assert_true(fill >= 0);
	term_hurry(f->term); /* the same way out as the time limit, without the wait */
	/* Filled in pieces of many sizes, so that some leave room, and less of it than is wanted.
	 */
	for (size_t piece = 8; piece < sizeof(text); piece += 93) {
		while (write(fill, text, piece) > 0)
			;
		for (unsigned i = 0; i < 4; i++) {
			(void)!read(f->user_out, text, 1000);
			term_output(f->term, text, sizeof(text));
		}
	}
	/* Whoever shares the descriptor still waits, if it wants to. */
	assert_false(fcntl(f->out, F_GETFL) & O_NONBLOCK);
	close(fill);
}

static void the_size_is_told_at_first_and_when_it_changes(void **state)
{
	struct fixture *f = *state;
	struct winsize size = {.ws_col = 81, .ws_row = 25};

	assert_int_equal(f->resizes, 1);
	assert_int_equal(f->cols, 100);
	assert_int_equal(f->rows, 40);
	assert_int_equal(ioctl(f->user_in, TIOCSWINSZ, &size), 0);
	kill(getpid(), SIGWINCH);
	assert_int_equal(run(f, 5000), 51);
	assert_int_equal(f->cols, 81);
	assert_int_equal(f->rows, 25);
}

/* In a child: take the terminal, then end in some way that never comes to term_destroy(). */
static void ends_with(struct fixture *f, int how)
{
	struct termios attr;
	int status;
	pid_t pid;

	term_destroy(f->term);
	f->term = NULL;
	pid = fork();
	if (pid == 0) {
		struct evloop *loop;
		const struct term_cfg cfg = {
			.in = f->in, .out = f->out, .input = input, .resize = resize, .ctx = f};
		struct term_cfg own = cfg;

		if (evloop_create(0, &loop))
			_exit(9);
		own.loop = loop;
		f->resizes = 5;
		if (term_create(&own, &f->term) || tcgetattr(f->in, &attr) || (attr.c_lflag & ECHO))
			_exit(9);
		if (how)
			raise(how);
		exit(8);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (how)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == how);
	else
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 8);
	assert_int_equal(tcgetattr(f->in, &attr), 0);
	assert_true(attr.c_lflag & ECHO);
}

static void exit_puts_the_terminal_back(void **state)
{
	ends_with(*state, 0);
}

static void a_fatal_signal_puts_the_terminal_back(void **state)
{
	ends_with(*state, SIGABRT);
	ends_with(*state, SIGSEGV);
}

static void an_ignored_signal_stays_ignored(void **state)
{
	(void)state;
	signal(SIGHUP, SIG_IGN);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	term_block_signals();
	kill(getpid(), SIGHUP);
	assert_int_equal(term_pending_signal(), 0);
	signal(SIGHUP, SIG_DFL);
	term_block_signals();
}

/* A thread that began before the terminal is watched must not take them from it. */
static void the_terminals_signals_are_blocked_from_the_start(void **state)
{
	sigset_t set;

	(void)state;
	sigemptyset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	term_block_signals();
	pthread_sigmask(SIG_BLOCK, NULL, &set);
	assert_true(sigismember(&set, SIGWINCH));
	assert_true(sigismember(&set, SIGCONT));
	kill(getpid(), SIGCONT);
	assert_int_equal(term_pending_signal(), 0); /* it ends nothing */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define P(name) cmocka_unit_test_setup_teardown(name, with_pipes, drop)
#define T(name) cmocka_unit_test_setup_teardown(name, with_terminal, drop)
#define O(name) cmocka_unit_test_setup_teardown(name, with_output_terminal, drop)
		P(piped_input_arrives_as_it_is),
		P(the_guest_runs_on_when_piped_input_ends),
		P(input_without_room_comes_again_in_order),
		P(a_slow_reader_gets_every_byte),
		P(a_reader_that_stopped_holds_nobody_for_ever),
		P(a_reader_that_left_ends_nothing),
		P(the_last_output_is_written_at_the_end),
		P(signals_stop_the_loop),
		T(a_terminal_is_raw_meanwhile_and_put_back),
		T(ctrl_a_x_quits),
		T(ctrl_a_twice_sends_one),
		T(ctrl_a_h_prints_a_line),
		T(the_escape_works_when_the_guest_takes_nothing),
		T(a_terminal_that_hangs_up_ends_the_run),
		O(output_to_a_terminal_that_hung_up_ends_the_run),
		T(a_terminal_nobody_reads_holds_nobody_for_ever),
		T(the_size_is_told_at_first_and_when_it_changes),
		T(exit_puts_the_terminal_back),
		T(a_fatal_signal_puts_the_terminal_back),
		cmocka_unit_test(an_ignored_signal_stays_ignored),
		cmocka_unit_test(the_terminals_signals_are_blocked_from_the_start),
	};

	alarm(60); /* a test that hangs must end: SIGTERM is blocked */
	term_block_signals();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
