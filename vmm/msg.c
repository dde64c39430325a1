/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/msg.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"

/* Longest line, bytes: a path (PATH_MAX) and a sentence around it. */
#define MSG_MAX 4608

/* What is written at once. A pipe that poll(2) calls writable has room for this; a terminal mostly
 * has (n_tty_poll(): for one byte it has). POSIX's smallest PIPE_BUF. */
#define CHUNK 512

/* How long a reader of stderr that takes nothing may hold a message up before the rest is dropped,
 * ms. */
#define MSG_PATIENCE 1000

static bool verbose;	       /* set before there are threads */
static atomic_uint nr_notable; /* lines of msg_notable(); stays a little above the most */
static atomic_uint nr_lost;    /* of these: nobody took them, and that has not been said */

static pthread_mutex_t msg_lock = PTHREAD_MUTEX_INITIALIZER;
static bool msg_raw;	 /* under msg_lock */
static bool msg_stalled; /* the reader took nothing last time; under msg_lock */

/*
 * A vCPU must not wait for ever for the reader of a message that its guest caused, so every write
 * is asked for first, and is no larger than what a pipe called writable has room for. Return: false
 * if it did not go out whole.
 */
static bool write_all(const char *buf, size_t len, bool wait)
{
	while (len) {
		struct pollfd pfd = {.fd = STDERR_FILENO, .events = POLLOUT};
		int ready = poll(&pfd, 1, msg_stalled || !wait ? 0 : MSG_PATIENCE);
		ssize_t n = ready > 0 ? write(STDERR_FILENO, buf, MIN(len, (size_t)CHUNK)) : -1;

		if (ready || wait)
			msg_stalled = !ready;
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		} else if (!ready || (errno != EINTR && errno != EAGAIN)) {
			return false; /* nobody is left to tell */
		}
	}
	return true;
}

/* @wait: for the reader, and for other threads' lines. Return: false if it did not go out whole. */
__attribute__((format(printf, 3, 0))) static bool msg_line(bool wait, const char *prefix,
							   const char *fmt, va_list ap)
{
	int saved = errno;
	char buf[MSG_MAX + 2]; /* and the line end */
	size_t len = (size_t)snprintf(buf, MSG_MAX, "granule: %s", prefix);
	int n = vsnprintf(buf + len, MSG_MAX - len, fmt, ap);
	bool done = false;

	if (n > 0)
		len += MIN((size_t)n, MSG_MAX - 1 - len);
	/* File names, device names: whatever they hold, a message is one line and moves no cursor.
	 */
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
			buf[i] = '?';
	}
	if (wait)
		pthread_mutex_lock(&msg_lock);
	else if (pthread_mutex_trylock(&msg_lock))
		goto out;
	if (msg_raw)
		buf[len++] = '\r';
	buf[len++] = '\n';
	done = write_all(buf, len, wait);
	pthread_mutex_unlock(&msg_lock);
out:
	errno = saved;
	return done;
}

void msg_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line(true, "", fmt, ap);
	va_end(ap);
}

void msg_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line(true, "warning: ", fmt, ap);
	va_end(ap);
}

void msg_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line(true, "", fmt, ap);
	va_end(ap);
}

void msg_verbose(bool on)
{
	verbose = on;
}

bool msg_is_verbose(void)
{
	return verbose;
}

void msg_tell(const char *fmt, ...)
{
	va_list ap;

	if (!verbose)
		return;
	va_start(ap, fmt);
	msg_line(true, "", fmt, ap);
	va_end(ap);
}

__attribute__((format(printf, 1, 2))) static bool try_line(const char *fmt, ...)
{
	va_list ap;
	bool done;

	va_start(ap, fmt);
	done = msg_line(false, "", fmt, ap);
	va_end(ap);
	return done;
}

/* Its callers hold locks that every vCPU needs: it waits for nobody. */
void msg_notable(const char *fmt, ...)
{
	va_list ap;
	unsigned nr, lost;

	if (!verbose)
		return;
	nr = atomic_fetch_add(&nr_notable, 1);
	if (nr >= MSG_NOTABLE_MAX) {
		atomic_store(&nr_notable, MSG_NOTABLE_MAX + 1);
		if (nr == MSG_NOTABLE_MAX)
			try_line("further moments are not shown");
		return;
	}
	lost = atomic_exchange(&nr_lost, 0);
	if (lost && !try_line("moments left out, for standard error took no more: %u", lost))
		atomic_fetch_add(&nr_lost, lost);
	va_start(ap, fmt);
	if (!msg_line(false, "", fmt, ap))
		atomic_fetch_add(&nr_lost, 1);
	va_end(ap);
}

void msg_text(const char *text, size_t len)
{
	pthread_mutex_lock(&msg_lock);
	(void)write_all(text, len, true);
	pthread_mutex_unlock(&msg_lock);
}

void msg_raw_terminal(bool raw)
{
	pthread_mutex_lock(&msg_lock);
	msg_raw = raw;
	pthread_mutex_unlock(&msg_lock);
}
