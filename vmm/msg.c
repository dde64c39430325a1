/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/msg.h"

#include <errno.h>
#include <limits.h>
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

/* How long a reader of stderr that takes nothing may hold a message up before the rest is dropped,
 * ms. */
#define MSG_PATIENCE 1000

static bool verbose;	       /* set before there are threads */
static atomic_uint nr_notable; /* lines of msg_notable(); stays a little above the most */

static pthread_mutex_t msg_lock = PTHREAD_MUTEX_INITIALIZER;
static bool msg_raw;	 /* under msg_lock */
static bool msg_stalled; /* the reader took nothing last time; under msg_lock */

/*
 * A vCPU must not wait for ever for the reader of a message that its guest caused, so every write
 * is asked for first, and is no larger than what a pipe called writable has room for.
 */
static void write_all(const char *buf, size_t len)
{
	while (len) {
		struct pollfd pfd = {.fd = STDERR_FILENO, .events = POLLOUT};
		int ready = poll(&pfd, 1, msg_stalled ? 0 : MSG_PATIENCE);
		ssize_t n = ready > 0 ? write(STDERR_FILENO, buf, MIN(len, (size_t)PIPE_BUF)) : -1;

		msg_stalled = !ready;
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		} else if (!ready || (errno != EINTR && errno != EAGAIN)) {
			return; /* nobody is left to tell */
		}
	}
}

__attribute__((format(printf, 2, 0))) static void msg_line(const char *prefix, const char *fmt,
							   va_list ap)
{
	int saved = errno;
	char buf[MSG_MAX + 2]; /* and the line end */
	size_t len = (size_t)snprintf(buf, MSG_MAX, "granule: %s", prefix);
	int n = vsnprintf(buf + len, MSG_MAX - len, fmt, ap);

	if (n > 0)
		len += MIN((size_t)n, MSG_MAX - 1 - len);
	/* File names, device names: whatever they hold, a message is one line and moves no cursor.
	 */
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)buf[i] < ' ' || buf[i] == 0x7f)
			buf[i] = '?';
	}
	pthread_mutex_lock(&msg_lock);
	if (msg_raw)
		buf[len++] = '\r';
	buf[len++] = '\n';
	write_all(buf, len);
	pthread_mutex_unlock(&msg_lock);
	errno = saved;
}

void msg_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line("", fmt, ap);
	va_end(ap);
}

void msg_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line("warning: ", fmt, ap);
	va_end(ap);
}

void msg_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	msg_line("", fmt, ap);
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
	msg_line("", fmt, ap);
	va_end(ap);
}

void msg_notable(const char *fmt, ...)
{
	va_list ap;
	unsigned nr;

	if (!verbose)
		return;
	nr = atomic_fetch_add(&nr_notable, 1);
	if (nr >= MSG_NOTABLE_MAX) {
		atomic_store(&nr_notable, MSG_NOTABLE_MAX + 1);
		if (nr == MSG_NOTABLE_MAX)
			msg_info("further moments are not shown");
		return;
	}
	va_start(ap, fmt);
	msg_line("", fmt, ap);
	va_end(ap);
}

void msg_raw_terminal(bool raw)
{
	pthread_mutex_lock(&msg_lock);
	msg_raw = raw;
	pthread_mutex_unlock(&msg_lock);
}
