/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/statsock.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
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

/* Clients taken in one turn of the loop: who comes in crowds shares it with the devices. */
#define CLIENTS_PER_TURN 8

/* How long nobody is taken when there is no descriptor or memory for one more. */
#define PAUSE_NS UINT64_C(1000000000)

uint64_t statsock_patience_ns = UINT64_C(10000000000);

static const char magic[8] = "granule";

/* Both ways; what comes after it says the rest. */
struct head {
	char magic[8];
	uint32_t layout; /* layout() */
	uint32_t len;	 /* bytes of all of it */
};

struct request {
	struct head head;
	struct ask ask;
};

struct reply {
	struct head head;
	union answer body; /* the member asked for, no more is sent */
};

/* Somebody who has connected and not asked yet. */
struct client {
	struct statsock *sock;
	int fd; /* -1: none */
	struct evloop_watch *watch, *timer;
	uint64_t nr; /* in the order in which they came */
	size_t got;  /* bytes of request */
	struct request request;
};

struct statsock {
	int fd;
	uid_t uid; /* ours; a thread that is confined cannot ask */
	struct evloop *loop;
	/* One of them, or neither: nobody is answered any more. */
	struct evloop_watch *watch, *pause;
	struct sockaddr_un addr;
	void (*answer)(void *ctx, const struct ask *ask, union answer *out);
	void *ctx;
	struct client clients[STATSOCK_MAX_CLIENTS];
	uint64_t nr_clients; /* that ever were */
	struct reply reply;
};

static size_t answer_len(uint32_t what)
{
	static const size_t lens[NR_ASKS] = {
		[ASK_STATS] = sizeof(struct stats),
		[ASK_VM] = sizeof(struct view_vm),
		[ASK_DOMAIN] = sizeof(struct view_domain),
		[ASK_PIECE] = sizeof(struct view_piece),
	};

	return lens[what];
}

/* A number that no other version's messages have, as good as certainly. */
static uint32_t layout(void)
{
	uint32_t hash = stats_layout();

	for (unsigned i = 0; i < NR_ASKS; i++)
		hash = (hash ^ (uint32_t)answer_len(i)) * 16777619u;
	return hash;
}

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
static bool may_ask(const struct statsock *sock, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
	       (peer.uid == 0 || peer.uid == sock->uid);
}

static void answer(struct statsock *sock, int fd, const struct ask *ask)
{
	struct reply *reply = &sock->reply;
	size_t len = sizeof(reply->head) + answer_len(ask->what);

	/* Padding too: it must not tell what was there before. */
	memset(reply, 0, sizeof(*reply));
	memcpy(reply->head.magic, magic, sizeof(magic));
	reply->head.layout = layout();
	reply->head.len = (uint32_t)len;
	sock->answer(sock->ctx, ask, &reply->body);
	/* It fits an empty socket buffer; if not, the client finds it short. */
	(void)send(fd, reply, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void hang_up(struct client *client)
{
	evloop_remove(client->sock->loop, client->watch);
	evloop_remove(client->sock->loop, client->timer);
	close(client->fd);
	*client = (struct client){.sock = client->sock, .fd = -1};
}

/* Read what there is of the request. False: that was all there will be of this client. */
static bool serve(struct client *client)
{
	const struct request *request = &client->request;
	ssize_t n = recv(client->fd, (char *)&client->request + client->got,
			 sizeof(*request) - client->got, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0)
		return false;
	client->got += (size_t)n;
	if (client->got < sizeof(*request))
		return true;
	/* One of another version is answered too: it finds out by the head. */
	if (!memcmp(request->head.magic, magic, sizeof(magic)) && request->ask.what < NR_ASKS)
		answer(client->sock, client->fd, &request->ask);
	return false;
}

static void on_request(void *ctx, short revents)
{
	struct client *client = ctx;

	(void)revents;
	if (!serve(client))
		hang_up(client);
}

static void on_impatience(void *ctx)
{
	struct client *client = ctx;

	client->timer = NULL; /* it is gone by itself */
	hang_up(client);
}

/* A place for one more; the one who has been there for longest without asking goes. */
static struct client *client_place(struct statsock *sock)
{
	struct client *oldest = &sock->clients[0];

	for (unsigned i = 0; i < STATSOCK_MAX_CLIENTS; i++) {
		struct client *client = &sock->clients[i];

		if (client->fd < 0)
			return client;
		if (client->nr < oldest->nr)
			oldest = client;
	}
	hang_up(oldest);
	return oldest;
}

static void add_client(struct statsock *sock, int fd)
{
	struct client *client = client_place(sock);

	client->fd = fd;
	client->nr = sock->nr_clients++;
	/* Most have asked by now. */
	if (!may_ask(sock, fd) || !serve(client) ||
	    evloop_add_fd(sock->loop, fd, POLLIN, on_request, client, &client->watch) ||
	    evloop_add_timer(sock->loop, statsock_patience_ns, on_impatience, client,
			     &client->timer))
		hang_up(client);
}

/* Nobody is answered any more. */
static void give_up(struct statsock *sock, int error)
{
	msg_warn("--live-stats: no more of them: %s", strerror(error));
	evloop_remove(sock->loop, sock->watch);
	sock->watch = NULL;
}

static void on_client(void *ctx, short revents);

static void on_pause_end(void *ctx)
{
	struct statsock *sock = ctx;
	int ret;

	sock->pause = NULL; /* it is gone by itself */
	ret = evloop_add_fd(sock->loop, sock->fd, POLLIN, on_client, sock, &sock->watch);
	if (ret)
		give_up(sock, -ret);
}

/* Who waits would be told of at once again and again: they wait for a while. */
static void pause_clients(struct statsock *sock)
{
	int ret = evloop_add_timer(sock->loop, PAUSE_NS, on_pause_end, sock, &sock->pause);

	if (ret) {
		give_up(sock, -ret);
		return;
	}
	evloop_remove(sock->loop, sock->watch);
	sock->watch = NULL;
}

static void on_client(void *ctx, short revents)
{
	struct statsock *sock = ctx;

	if (revents & POLLNVAL) {
		give_up(sock, EBADF);
		return;
	}
	for (unsigned i = 0; i < CLIENTS_PER_TURN; i++) {
		int fd = accept4(sock->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			add_client(sock, fd);
		} else if (errno == EAGAIN) {
			return;
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			   errno == ENOBUFS) {
			pause_clients(sock);
			return;
		} else if (errno != EINTR && errno != ECONNABORTED) {
			give_up(sock, errno);
			return;
		}
	}
}

static int bind_private(struct statsock *sock, const char *dir)
{
	struct stat st;
	mode_t mask;
	int ret;

	/* Root could make one there now, but not take it away: the sandbox leaves it no capability.
	 */
	if (!geteuid() && !stat(dir, &st) && st.st_uid)
		return -EPERM;
	/* Left by one that was killed and had our number. */
	if (!lstat(sock->addr.sun_path, &st) && S_ISSOCK(st.st_mode))
		unlink(sock->addr.sun_path);
	mask = umask(0177);
	ret = bind(sock->fd, (struct sockaddr *)&sock->addr, sizeof(sock->addr)) ? -errno : 0;
	umask(mask);
	return ret;
}

int statsock_path(char *path, size_t len)
{
	const char *dir = runtime_dir();
	char user[32];

	user_dir(geteuid(), user);
	return snprintf(path, len, "%s/granule-%d.sock", dir ? dir : user, (int)getpid()) < (int)len
		       ? 0
		       : -ENAMETOOLONG;
}

int statsock_create(struct evloop *loop,
		    void (*answer_fn)(void *ctx, const struct ask *ask, union answer *out),
		    void *ctx, struct statsock **out)
{
	const char *dir = runtime_dir();
	struct statsock *sock = calloc(1, sizeof(*sock));
	char user[32];
	int ret;

	if (!sock) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	sock->uid = geteuid();
	sock->loop = loop;
	sock->answer = answer_fn;
	sock->ctx = ctx;
	for (unsigned i = 0; i < STATSOCK_MAX_CLIENTS; i++)
		sock->clients[i] = (struct client){.sock = sock, .fd = -1};
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
		ret = bind_private(sock, dir);
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
	evloop_remove(sock->loop, sock->pause);
	for (unsigned i = 0; i < STATSOCK_MAX_CLIENTS; i++) {
		if (sock->clients[i].fd >= 0)
			hang_up(&sock->clients[i]);
	}
	unlink(sock->addr.sun_path);
	close(sock->fd);
	free(sock);
}

/* ---- the asker's side ------------------------------------------------------------------------ */

/* Return: a connected descriptor >= 0; -errno. */
static int connect_in(const char *dir, pid_t pid)
{
	const struct timeval limit = {
		.tv_sec = (time_t)(statsock_patience_ns / 1000000000),
		.tv_usec = (suseconds_t)(statsock_patience_ns % 1000000000 / 1000),
	};
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
static bool stats_sound(const struct stats *stats)
{
	uint8_t viommu;

	memcpy(&viommu, &stats->viommu, sizeof(viommu));
	if (viommu > 1 || stats->nr_nets > CONFIG_MAX_NETS || !isfinite(stats->seconds))
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

static bool is_sound(const struct ask *ask, const union answer *answer)
{
	switch ((enum ask_what)ask->what) {
	case ASK_STATS:
		return stats_sound(&answer->stats);
	case ASK_VM:
		return view_vm_sound(&answer->vm);
	case ASK_DOMAIN:
		return !answer->domain.found || answer->domain.id >= ask->domain;
	case ASK_PIECE:
		return view_piece_sound(&answer->piece, ask->at);
	case NR_ASKS:
		break;
	}
	return false;
}

/* Return: 0; -EPROTO; -errno. */
static int receive(int fd, const struct ask *ask, struct reply *reply)
{
	size_t len = sizeof(reply->head) + answer_len(ask->what), got = 0;
	uint64_t start = monotonic_ns();

	while (got < len) {
		ssize_t n = recv(fd, (char *)reply + got, len - got, 0);

		/* The time limit of the socket begins anew with every byte. */
		if (monotonic_ns() - start > statsock_patience_ns)
			return -ETIMEDOUT;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return got ? -EPROTO : -ECONNREFUSED;
		got += (size_t)n;
	}
	return memcmp(reply->head.magic, magic, sizeof(magic)) != 0 ||
			       reply->head.layout != layout() || reply->head.len != len ||
			       !is_sound(ask, &reply->body)
		       ? -EPROTO
		       : 0;
}

static int exchange(pid_t pid, const struct ask *ask, union answer *out)
{
	struct request request = {.head = {.layout = layout(), .len = sizeof(request)},
				  .ask = *ask};
	struct reply reply;
	int fd = connect_to(pid), ret;

	if (fd < 0)
		return fd;
	memcpy(request.head.magic, magic, sizeof(magic));
	/* One that hangs up at once may have said why. */
	(void)send(fd, &request, sizeof(request), MSG_NOSIGNAL);
	ret = receive(fd, ask, &reply);
	close(fd);
	if (!ret)
		memcpy(out, &reply.body, answer_len(ask->what));
	return ret;
}

int statsock_ask(const char *command, pid_t pid, bool again, const struct ask *ask,
		 union answer *out)
{
	int ret = exchange(pid, ask, out);

	if (again &&
	    (ret == -ESRCH || ret == -ENOENT || ret == -ECONNREFUSED || ret == -ECONNRESET))
		return -ESHUTDOWN;
	switch (ret) {
	case 0:
		return 0;
	case -ESRCH:
		msg_error("%s: there is no process %d", command, (int)pid);
		return ret;
	case -ENOENT:
		msg_error(
			"%s: process %d tells nothing of itself: it is no granule, or was started "
			"without --live-stats, or with another XDG_RUNTIME_DIR",
			command, (int)pid);
		return ret;
	case -EACCES:
	case -EPERM:
		msg_error("%s: process %d is another user's; run as that user or as root", command,
			  (int)pid);
		return -EACCES;
	case -EPROTO:
		msg_error("%s: process %d is another version of granule; use that one to ask it",
			  command, (int)pid);
		return ret;
	default:
		msg_error("%s: process %d does not answer: %s", command, (int)pid, strerror(-ret));
		return ret;
	}
}
