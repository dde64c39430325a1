/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/statsock.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/msg.h"

/* Seconds that a VM has to answer: its loop does nothing that takes long. */
#define ANSWER_SECONDS 10

/* Clients served in one turn of the loop: who comes in crowds shares it with the devices. */
#define CLIENTS_PER_TURN 8

struct message {
	char magic[8];
	uint32_t layout; /* stats_layout() */
	uint32_t len;
	struct stats stats;
};

static const char magic[8] = "granule";

struct statsock {
	int fd;
	struct evloop *loop;
	struct evloop_watch *watch;
	struct sockaddr_un addr;
	void (*collect)(void *ctx, struct stats *out);
	void *ctx;
};

/* Return: 0; -ENAMETOOLONG. */
static int make_addr(const char *dir, pid_t pid, struct sockaddr_un *addr)
{
	int len;

	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	len = snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/granule-%d.sock", dir, (int)pid);
	return len < (int)sizeof(addr->sun_path) ? 0 : -ENAMETOOLONG;
}

/* $XDG_RUNTIME_DIR, if it is what the specification of it allows; NULL */
static const char *runtime_dir(void)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	return dir && dir[0] == '/' ? dir : NULL;
}

static void user_dir(uid_t uid, char dir[32])
{
	snprintf(dir, 32, uid ? "/run/user/%u" : "/run", (unsigned)uid);
}

/* ---- the VM's side --------------------------------------------------------------------------- */

/* The socket's mode keeps others out; this holds where a file system knows no modes. */
static bool may_ask(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

static void answer(struct statsock *sock, int fd)
{
	struct message msg;

	/* Padding too: it must not tell what was on the stack. */
	memset(&msg, 0, sizeof(msg));
	memcpy(msg.magic, magic, sizeof(magic));
	msg.layout = stats_layout();
	msg.len = sizeof(msg);
	sock->collect(sock->ctx, &msg.stats);
	/* It fits an empty socket buffer; if not, the client finds it short. */
	(void)send(fd, &msg, sizeof(msg), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void on_client(void *ctx, short revents)
{
	struct statsock *sock = ctx;

	(void)revents;
	for (unsigned i = 0; i < CLIENTS_PER_TURN; i++) {
		int fd = accept4(sock->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			if (may_ask(fd))
				answer(sock, fd);
			close(fd);
		} else if (errno == EAGAIN) {
			return;
		} else if (errno != EINTR && errno != ECONNABORTED) {
			/* Who waits would be told of at once again, for ever. */
			msg_warn("--live-stats: no more of them: %s", strerror(errno));
			evloop_remove(sock->loop, sock->watch);
			sock->watch = NULL;
			return;
		}
	}
}

static int bind_private(struct statsock *sock)
{
	struct stat st;
	mode_t mask;
	int ret;

	/* Left by one that was killed and had our number. */
	if (!lstat(sock->addr.sun_path, &st) && S_ISSOCK(st.st_mode))
		unlink(sock->addr.sun_path);
	mask = umask(0177);
	ret = bind(sock->fd, (struct sockaddr *)&sock->addr, sizeof(sock->addr)) ? -errno : 0;
	umask(mask);
	return ret;
}

int statsock_create(struct evloop *loop, void (*collect)(void *ctx, struct stats *out), void *ctx,
		    struct statsock **out)
{
	const char *dir = runtime_dir();
	struct statsock *sock = calloc(1, sizeof(*sock));
	char user[32];
	int ret;

	if (!sock) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	sock->loop = loop;
	sock->collect = collect;
	sock->ctx = ctx;
	if (!dir) {
		user_dir(geteuid(), user);
		dir = user;
	}
	sock->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock->fd < 0) {
		ret = -errno;
		goto err_free;
	}
	ret = make_addr(dir, getpid(), &sock->addr);
	if (!ret)
		ret = bind_private(sock);
	if (ret)
		goto err_close;
	ret = listen(sock->fd, CLIENTS_PER_TURN) ? -errno : 0;
	if (!ret)
		ret = evloop_add_fd(loop, sock->fd, POLLIN, on_client, sock, &sock->watch);
	if (ret)
		goto err_unlink;
	*out = sock;
	return 0;

err_unlink:
	unlink(sock->addr.sun_path);
err_close:
	close(sock->fd);
err_free:
	free(sock);
	msg_error("--live-stats: no socket in %s: %s; set XDG_RUNTIME_DIR to a directory that is "
		  "yours",
		  dir, strerror(-ret));
	return ret;
}

void statsock_destroy(struct statsock *sock)
{
	if (!sock)
		return;
	evloop_remove(sock->loop, sock->watch);
	unlink(sock->addr.sun_path);
	close(sock->fd);
	free(sock);
}

/* ---- the asker's side ------------------------------------------------------------------------ */

/* Return: a connected descriptor >= 0; -errno. */
static int connect_in(const char *dir, pid_t pid)
{
	const struct timeval limit = {.tv_sec = ANSWER_SECONDS};
	struct sockaddr_un addr;
	int fd, ret = make_addr(dir, pid, &addr);

	if (ret)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Of connecting too: it waits while others do. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) ||
	    connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		ret = errno == EAGAIN ? -ETIMEDOUT : -errno;
		close(fd);
		return ret;
	}
	return fd;
}

/* Wherever it may have put its socket. Return: as connect_in(). */
static int connect_to(pid_t pid)
{
	char proc[32], user[32];
	const char *dirs[] = {runtime_dir(), user, "/run"};
	int fd, ret = -ENOENT;
	struct stat st;

	snprintf(proc, sizeof(proc), "/proc/%d", (int)pid);
	if (stat(proc, &st))
		return -ESRCH;
	user_dir(st.st_uid, user);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		fd = dirs[i] ? connect_in(dirs[i], pid) : -ENOENT;
		if (fd >= 0)
			return fd;
		if (fd != -ENOENT && fd != -ENOTDIR)
			ret = fd;
	}
	/* A directory that we may not look into is as good as none, but for its owner's VMs. */
	return ret == -ENOENT && st.st_uid != geteuid() && geteuid() ? -EACCES : ret;
}

/* Whoever answers may be anybody's process: is it what stats.c can work with, and print? */
static bool is_sound(const struct stats *stats)
{
	uint8_t viommu;

	memcpy(&viommu, &stats->viommu, sizeof(viommu));
	if (viommu > 1 || stats->nr_nets > CONFIG_MAX_NETS)
		return false;
	for (unsigned i = 0; i < stats->nr_nets; i++) {
		const char *tap = stats->nets[i].tap;
		size_t len = strnlen(tap, sizeof(stats->nets[i].tap));

		if (len == sizeof(stats->nets[i].tap))
			return false;
		while (len--)
			if (!isprint((unsigned char)tap[len]))
				return false;
	}
	return true;
}

/* Return: 0; -EPROTO; -errno. */
static int receive(int fd, struct message *msg)
{
	uint64_t start = monotonic_ns();
	size_t got = 0;

	while (got < sizeof(*msg)) {
		ssize_t n = recv(fd, (char *)msg + got, sizeof(*msg) - got, 0);

		/* The time limit of the socket begins anew with every byte. */
		if (monotonic_ns() - start > ANSWER_SECONDS * UINT64_C(1000000000))
			return -ETIMEDOUT;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return got ? -EPROTO : -ECONNREFUSED;
		got += (size_t)n;
	}
	return memcmp(msg->magic, magic, sizeof(magic)) != 0 || msg->layout != stats_layout() ||
			       msg->len != sizeof(*msg) || !is_sound(&msg->stats)
		       ? -EPROTO
		       : 0;
}

int statsock_fetch(pid_t pid, bool again, struct stats *out)
{
	struct message msg;
	int fd = connect_to(pid), ret = MIN(fd, 0);

	if (!ret) {
		ret = receive(fd, &msg);
		close(fd);
	}
	if (again &&
	    (ret == -ESRCH || ret == -ENOENT || ret == -ECONNREFUSED || ret == -ECONNRESET))
		return -ESHUTDOWN;
	switch (ret) {
	case 0:
		*out = msg.stats;
		return 0;
	case -ESRCH:
		msg_error("stat: there is no process %d", (int)pid);
		return ret;
	case -ENOENT:
		msg_error("stat: process %d tells no statistics: it is no granule, or was started "
			  "without --live-stats, or with another XDG_RUNTIME_DIR",
			  (int)pid);
		return ret;
	case -EACCES:
	case -EPERM:
		msg_error("stat: process %d is another user's; run as that user or as root",
			  (int)pid);
		return -EACCES;
	case -EPROTO:
		msg_error("stat: process %d is another version of granule; use that one to ask it",
			  (int)pid);
		return ret;
	default:
		msg_error("stat: process %d does not answer: %s", (int)pid, strerror(-ret));
		return ret;
	}
}
