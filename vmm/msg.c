/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/msg.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"

/* Longest line, bytes: a path (PATH_MAX) and a sentence around it. */
#define MSG_MAX 4608

/* How long a full, non-blocking stderr may hold a message up before the rest is dropped, ms. */
#define MSG_PATIENCE 1000

static pthread_mutex_t msg_lock = PTHREAD_MUTEX_INITIALIZER;
static bool msg_raw; /* under msg_lock */

/* The terminal's other users may have made the shared file description non-blocking. */
static void write_all(const char *buf, size_t len)
{
	while (len) {
		ssize_t n = write(STDERR_FILENO, buf, len);

		if (n > 0) {
			buf += n;
			len -= (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = STDERR_FILENO, .events = POLLOUT};

			if (poll(&pfd, 1, MSG_PATIENCE) > 0 && (pfd.revents & POLLOUT))
				continue;
		}
		return; /* nobody is left to tell */
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

void msg_raw_terminal(bool raw)
{
	pthread_mutex_lock(&msg_lock);
	msg_raw = raw;
	pthread_mutex_unlock(&msg_lock);
}
