/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/term.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/msg.h"

#define ESCAPE 0x01 /* Ctrl-A */

#define STALL_MS 5000 /* how long output waits for a reader that takes nothing */
#define AGAIN_MS 10   /* a terminal that calls itself writable, but takes nothing, is asked after */

#define RETRY_NS 20000000 /* input the guest had no room for is offered again after this */

#define FLUSH_NS 10000000 /* output is written at the latest this long after it was printed */

/* poll(2) calls a pipe writable when this much fits; a larger write might wait. A terminal is
 * called so when a byte fits: see open_terminal(). */
#define CHUNK PIPE_BUF

struct term {
	struct term_cfg cfg;
	bool tty;     /* cfg.in is a terminal, in raw mode */
	bool out_tty; /* so is cfg.out; not asked later: a terminal that hung up is none */
	int out;      /* cfg.out, or the same terminal once more; written by flush() alone */
	int signal_fd;
	struct evloop_watch *signals, *input, *retry;
	bool escaped;	       /* the last byte was the escape */
	uint8_t waiting[4096]; /* input the guest has not taken yet */
	size_t nr_waiting;

	int printed_fd; /* signalled when out_buf is no longer empty */
	struct evloop_watch *printed, *flush_timer;

	pthread_mutex_t lock;  /* of what follows */
	uint8_t out_buf[4096]; /* a guest prints byte by byte: one write for many */
	size_t nr_out;
	bool stalled, gone;
	uint64_t dropped; /* bytes */
	atomic_bool hurry;
};

/* What a signal handler or exit() needs to put the terminal back. */
static struct {
	atomic_bool armed;
	int fd;
	struct termios saved;
} restore;

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT};

/* Those that end a run: all but the ignored ones. */
static sigset_t blocked;

static void add_terminal_signals(sigset_t *set)
{
	sigaddset(set, SIGWINCH);
	sigaddset(set, SIGCONT);
}

void term_block_signals(void)
{
	struct sigaction action;
	sigset_t set;

	sigemptyset(&blocked);
	for (size_t i = 0; i < ARRAY_SIZE(ending_signals); i++) {
		/* A blocked signal is queued even when it is ignored, so it must not be blocked. */
		if (sigaction(ending_signals[i], NULL, &action) || action.sa_handler != SIG_IGN)
			sigaddset(&blocked, ending_signals[i]);
	}
	/* The terminal's own already now: a thread that begins before the terminal is watched, and
	 * has them not blocked, would take them from it. */
	set = blocked;
	add_terminal_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* A limit of file sizes costs the write. */
	signal(SIGXFSZ, SIG_IGN);
}

int term_pending_signal(void)
{
	sigset_t pending;

	sigpending(&pending);
	for (size_t i = 0; i < ARRAY_SIZE(ending_signals); i++) {
		if (sigismember(&blocked, ending_signals[i]) &&
		    sigismember(&pending, ending_signals[i]))
			return ending_signals[i];
	}
	return 0;
}

void term_restore(void)
{
	if (atomic_exchange(&restore.armed, false))
		tcsetattr(restore.fd, TCSANOW, &restore.saved);
}

static void on_fatal_signal(int sig)
{
	term_restore();
	/* SA_RESETHAND: this time it does what it always does. */
	raise(sig);
}

static void make_raw(int fd)
{
	struct termios raw = restore.saved;

	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
}

static void take_terminal(struct term *term)
{
	static bool registered;
	struct sigaction action = {.sa_handler = on_fatal_signal, .sa_flags = SA_RESETHAND};

	if (tcgetattr(term->cfg.in, &restore.saved))
		return;
	term->tty = true;
	restore.fd = term->cfg.in;
	if (!registered)
		atexit(term_restore);
	registered = true;
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &action, NULL);
	restore.armed = true;
	make_raw(term->cfg.in);
	msg_raw_terminal(true);
}

static void give_terminal_back(struct term *term)
{
	if (!term->tty)
		return;
	/* The handlers stay: there is nothing left for them to do. */
	term_restore();
	msg_raw_terminal(false);
}

static void tell_size(struct term *term)
{
	struct winsize size;

	if (ioctl(term->cfg.out, TIOCGWINSZ, &size) && ioctl(term->cfg.in, TIOCGWINSZ, &size))
		return;
	term->cfg.resize(term->cfg.ctx, size.ws_col, size.ws_row);
}

static void on_signal(void *ctx, short revents)
{
	struct term *term = ctx;
	struct signalfd_siginfo info;

	/* One that hears no signals any more could not be ended. */
	if (revents & POLLNVAL)
		evloop_stop(term->cfg.loop, -EIO);
	if (read(term->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGWINCH:
		tell_size(term);
		break;
	case SIGCONT:
		/* The shell had the terminal meanwhile. */
		if (term->tty)
			make_raw(term->cfg.in);
		break;
	default:
		evloop_stop(term->cfg.loop, 128 + (int)info.ssi_signo);
	}
}

static void terminal_gone(struct term *term)
{
	evloop_stop(term->cfg.loop, 128 + SIGHUP);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait until some output can be written, or @end. Return: false if the reader takes nothing. */
static bool wait_writable(struct term *term, int64_t end)
{
	struct pollfd pfd = {.fd = term->out, .events = POLLOUT};
	int64_t left;
	int ret;

	do {
		left = term->stalled || term->hurry ? 0 : MAX(end - now_ms(), 0);
		ret = poll(&pfd, 1, (int)left);
	} while ((ret < 0 && errno == EINTR) || (ret == 0 && left));
	term->stalled = ret == 0;
	return ret != 0;
}

/* Write out_buf, or as much as the reader takes; it is empty afterwards. Lock held. */
static void flush(struct term *term)
{
	int64_t end = now_ms() + STALL_MS;
	size_t at = 0;

	while (at < term->nr_out && !term->gone && wait_writable(term, end)) {
		ssize_t ret =
			write(term->out, term->out_buf + at, MIN(term->nr_out - at, (size_t)CHUNK));

		if (ret > 0) {
			at += (size_t)ret;
			end = now_ms() + STALL_MS;
		} else if (ret == 0 || errno == EAGAIN) {
			/* Room that is no room for what comes next. */
			if (term->hurry || now_ms() >= end) {
				term->stalled = true;
				break;
			}
			poll(NULL, 0, AGAIN_MS);
		} else if (errno != EINTR) {
			/* EPIPE: the reader left, which ends no guest; EIO: a terminal hung up,
			 * which does. */
			term->gone = true;
			if (errno == EIO && term->out_tty)
				terminal_gone(term);
		}
	}
	term->dropped += term->nr_out - at;
	term->nr_out = 0;
}

void term_output(struct term *term, const void *buf, size_t len)
{
	const uint8_t *bytes = buf;
	bool was_empty;

	pthread_mutex_lock(&term->lock);
	was_empty = !term->nr_out;
	while (len) {
		size_t part = MIN(len, sizeof(term->out_buf) - term->nr_out);

		memcpy(term->out_buf + term->nr_out, bytes, part);
		term->nr_out += part;
		bytes += part;
		len -= part;
		if (term->nr_out == sizeof(term->out_buf))
			flush(term);
	}
	if (was_empty && term->nr_out)
		eventfd_write(term->printed_fd, 1);
	pthread_mutex_unlock(&term->lock);
}

static void on_flush_timer(void *ctx)
{
	struct term *term = ctx;

	term->flush_timer = NULL;
	pthread_mutex_lock(&term->lock);
	flush(term);
	pthread_mutex_unlock(&term->lock);
}

static void on_printed(void *ctx, uint64_t count)
{
	struct term *term = ctx;

	(void)count;
	if (!term->flush_timer &&
	    evloop_add_timer(term->cfg.loop, FLUSH_NS, on_flush_timer, term, &term->flush_timer))
		on_flush_timer(term);
}

static void help(struct term *term)
{
	static const char text[] =
		"\r\ngranule: Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h is this\r\n";

	term_output(term, text, sizeof(text) - 1);
}

/* Act on the escapes in @buf and take them out. Return: how many bytes are left. */
static size_t filter_escapes(struct term *term, uint8_t *buf, size_t len)
{
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		if (!term->escaped) {
			term->escaped = buf[i] == ESCAPE;
			if (!term->escaped)
				buf[kept++] = buf[i];
			continue;
		}
		term->escaped = false;
		switch (buf[i]) {
		case ESCAPE:
			buf[kept++] = ESCAPE;
			break;
		case 'x':
			evloop_stop(term->cfg.loop, EXIT_POWEROFF);
			break;
		case 'h':
		case '?':
			help(term);
			break;
		}
	}
	return kept;
}

static void on_input(void *ctx, short revents);
static void offer_input(struct term *term);

static void watch_input(struct term *term)
{
	if (!term->input && term->cfg.in >= 0 &&
	    evloop_add_fd(term->cfg.loop, term->cfg.in, POLLIN, on_input, term, &term->input))
		evloop_stop(term->cfg.loop, -ENOMEM);
}

static void stop_input(struct term *term)
{
	evloop_remove(term->cfg.loop, term->input);
	term->input = NULL;
}

static void on_retry(void *ctx)
{
	struct term *term = ctx;

	term->retry = NULL;
	offer_input(term);
}

/* Give the guest what waits; come back later for what it does not take. */
static void offer_input(struct term *term)
{
	size_t taken = 0;

	if (term->nr_waiting)
		taken = term->cfg.input(term->cfg.ctx, term->waiting, term->nr_waiting);
	term->nr_waiting -= taken;
	memmove(term->waiting, term->waiting + taken, term->nr_waiting);
	if (!term->nr_waiting) {
		watch_input(term);
		return;
	}
	if (!term->retry &&
	    evloop_add_timer(term->cfg.loop, RETRY_NS, on_retry, term, &term->retry))
		evloop_stop(term->cfg.loop, -ENOMEM);
	if (!term->tty)
		stop_input(term);
}

static void on_input(void *ctx, short revents)
{
	struct term *term = ctx;
	uint8_t buf[1024];
	ssize_t ret;
	size_t len;

	ret = revents & POLLNVAL ? 0 : read(term->cfg.in, buf, sizeof(buf));
	if (ret < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (ret <= 0) {
		term->cfg.in = -1;
		stop_input(term);
		if (term->tty)
			terminal_gone(term);
		return;
	}
	len = (size_t)ret;
	if (term->tty)
		len = filter_escapes(term, buf, len);
	/* At a terminal the escape must always work: reading goes on, what finds no room is lost.
	 */
	len = MIN(len, sizeof(term->waiting) - term->nr_waiting);
	memcpy(term->waiting + term->nr_waiting, buf, len);
	term->nr_waiting += len;
	offer_input(term);
}

static int watch_signals(struct term *term)
{
	sigset_t set = blocked;

	add_terminal_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	term->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (term->signal_fd < 0)
		return -errno;
	return evloop_add_fd(term->cfg.loop, term->signal_fd, POLLIN, on_signal, term,
			     &term->signals);
}

/*
 * A terminal is called writable when one byte fits (n_tty_poll()), and a write of more then waits
 * for whoever reads it (n_tty_write()), for ever if need be. So it is opened once more, not to
 * wait: whoever shares the descriptor we were given wants that as it is. Return: a descriptor.
 */
static int open_terminal(int fd)
{
	char path[32];
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	return ret < 0 ? fd : ret; /* not ours any more, after su(1) say: it must do as it is */
}

int term_create(const struct term_cfg *cfg, struct term **out)
{
	struct term *term = calloc(1, sizeof(*term));
	int ret;

	if (!term)
		return -ENOMEM;
	term->cfg = *cfg;
	pthread_mutex_init(&term->lock, NULL);
	term->signal_fd = -1;
	term->printed_fd = eventfd(0, EFD_CLOEXEC);
	if (term->printed_fd < 0) {
		ret = -errno;
		goto err_free;
	}
	ret = evloop_add_eventfd(cfg->loop, term->printed_fd, on_printed, term, &term->printed);
	if (ret)
		goto err_printed;
	ret = watch_signals(term);
	if (ret)
		goto err_signals;
	term->out_tty = isatty(cfg->out);
	term->out = term->out_tty ? open_terminal(cfg->out) : cfg->out;
	if (isatty(cfg->in))
		take_terminal(term);
	watch_input(term);
	tell_size(term);
	*out = term;
	return 0;

err_signals:
	if (term->signal_fd >= 0)
		close(term->signal_fd);
	evloop_remove(cfg->loop, term->printed);
err_printed:
	close(term->printed_fd);
err_free:
	pthread_mutex_destroy(&term->lock);
	free(term);
	return ret;
}

void term_destroy(struct term *term)
{
	if (!term)
		return;
	term->hurry = false;
	pthread_mutex_lock(&term->lock);
	flush(term);
	pthread_mutex_unlock(&term->lock);
	give_terminal_back(term);
	if (term->out != term->cfg.out)
		close(term->out);
	stop_input(term);
	evloop_remove(term->cfg.loop, term->flush_timer);
	evloop_remove(term->cfg.loop, term->printed);
	close(term->printed_fd);
	evloop_remove(term->cfg.loop, term->retry);
	evloop_remove(term->cfg.loop, term->signals);
	close(term->signal_fd);
	if (term->dropped)
		msg_warn("%llu bytes of console output were lost: standard output took no more",
			 (unsigned long long)term->dropped);
	pthread_mutex_destroy(&term->lock);
	free(term);
}

void term_hurry(struct term *term)
{
	term->hurry = true;
}
