/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netcheck - TCP both ways in which either end knows every byte that must come.
 *
 *     netcheck serve LOG [-p PORT] [-x PLACE]
 *     netcheck run ADDRESS [-p PORT] [-x PLACE] [-s SECONDS] [-c CONNECTIONS] [-r SEED]
 *
 * `run` opens CONNECTIONS (4), which it uses for SECONDS (3). Those of even number are bulk: both
 * ends send as fast as they can. The others play ball: a message of 1 to 3000 bytes, and one that
 * answers it. What is sent follows from SEED (1), the connection, the direction and the place, so
 * the TCP checksum, which a device may work out of bytes that are wrong already, is not what is
 * trusted.
 *
 * A direction is a row of messages: a struct head, then bytes. The last has no bytes. That of the
 * end which finishes second says how many bytes it has received and found right.
 *
 * `serve` runs until it is killed, and adds a line to LOG per connection: `ok BYTES`, `wrong WHAT`,
 * or `cut WHY` when it ended too soon. PORT is 7777. -x spoils the byte at PLACE of every direction
 * on its way out, which must be told by the other end.
 *
 * Exit status of `run`: 0 all is right; 1 it is not, one line says what; 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "guest-tests/linux/blkcontents.h" /* mix, unmix */

#define MAX_LEN	  65536u /* of a message, bytes */
#define MAX_BALL  3000u
#define MAX_CONNS 16u
#define MAGIC	  UINT32_C(0x6e657463)
#define PATIENCE  300 /* seconds until an end that says nothing is taken for dead */

struct head {
	uint32_t magic;
	uint32_t len;	   /* bytes that follow; 0: the end */
	uint64_t received; /* at the end: bytes the sender found right */
};

/* What the client says first. */
struct hello {
	uint32_t magic;
	uint32_t bulk;
	uint64_t seed;
	uint64_t seconds;
};

/* A direction of a connection, as one end sees it. */
struct way {
	uint64_t seed;
	uint64_t place;		       /* bytes sent or received so far */
	uint64_t buf[MAX_LEN / 8 + 2]; /* what it carries next */
};

struct conn {
	int fd;
	struct hello hello;
	bool client;
	struct way out, in;
	uint8_t got[MAX_LEN];
	uint64_t confirmed; /* by the other end, once it has ended */
	uint64_t balls;
	int failed;	      /* 1 wrong, 2 cut */
	char said[200];	      /* of the first failure */
	uint64_t end;	      /* as now() counts */
	pthread_mutex_t lock; /* of failed and said */
};

static int log_fd = -1;
static uint16_t port = 7777;
static uint64_t spoiled = UINT64_MAX; /* place */

static uint64_t now(void) /* ms */
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

__attribute__((format(printf, 3, 4))) static int fail(struct conn *conn, int how, const char *fmt,
						      ...)
{
	va_list args;

	pthread_mutex_lock(&conn->lock);
	if (!conn->failed) {
		conn->failed = how;
		va_start(args, fmt);
		vsnprintf(conn->said, sizeof(conn->said), fmt, args);
		va_end(args);
	}
	pthread_mutex_unlock(&conn->lock);
	/* whoever else waits for this connection is to learn of it */
	shutdown(conn->fd, SHUT_RDWR);
	return -1;
}

/* Its byte i is the byte at 8 * @index + i of a direction. */
static uint64_t word(uint64_t seed, uint64_t index)
{
	return mix(seed + index);
}

/* contents - the next @len bytes of a direction; whole words, so the first may not be where they
 * begin */
static uint8_t *contents(struct way *way, uint32_t len)
{
	uint64_t first = way->place / 8;

	for (uint64_t i = 0; i <= (way->place % 8 + len) / 8; i++)
		way->buf[i] = word(way->seed, first + i);
	return (uint8_t *)way->buf + way->place % 8;
}

static int send_all(struct conn *conn, const void *data, size_t len, int flags)
{
	const uint8_t *at = data;

	while (len) {
		ssize_t n = send(conn->fd, at, len, flags | MSG_NOSIGNAL);

		if (n <= 0)
			return fail(conn, 2, "send: %s", strerror(errno));
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int receive_all(struct conn *conn, void *data, size_t len)
{
	uint8_t *at = data;

	while (len) {
		ssize_t n = recv(conn->fd, at, len, 0);

		if (n <= 0)
			return fail(conn, 2, "receive: %s", n ? strerror(errno) : "end of stream");
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_message(struct conn *conn, uint32_t len)
{
	struct head head = {.magic = MAGIC, .len = len};
	uint8_t *bytes = contents(&conn->out, len);

	if (spoiled - conn->out.place < len)
		bytes[spoiled - conn->out.place] ^= 1;
	if (send_all(conn, &head, sizeof(head), MSG_MORE) || send_all(conn, bytes, len, 0))
		return -1;
	conn->out.place += len;
	return 0;
}

static int send_end(struct conn *conn, uint64_t received)
{
	struct head head = {.magic = MAGIC, .received = received};

	return send_all(conn, &head, sizeof(head), 0);
}

/* fail - at the first byte that is wrong; where a word belongs is in the word. */
static int wrong(struct conn *conn, const uint8_t *got, const uint8_t *want, uint32_t len)
{
	uint64_t words[2] = {0}, place, from;
	char origin[64] = "";
	uint32_t i = 0;

	while (got[i] == want[i])
		i++;
	place = conn->in.place + i;
	i -= place % 8 < i ? (uint32_t)(place % 8) : i;
	memcpy(&words[0], got + i, len - i < 8 ? len - i : 8);
	memcpy(&words[1], want + i, len - i < 8 ? len - i : 8);
	from = unmix(words[0]) - conn->in.seed;
	if (from < conn->in.place) /* nothing else is likely to look like it */
		snprintf(origin, sizeof(origin), " which is that of byte %" PRIu64 ",", from * 8);
	return fail(conn, 1,
		    "byte %" PRIu64 ", in a message of %u from byte %" PRIu64 ": word %016" PRIx64
		    ",%s instead of %016" PRIx64,
		    place, len, conn->in.place, words[0], origin, words[1]);
}

/* Return: its length, 0 at the end, -1 after fail(). */
static int receive_message(struct conn *conn)
{
	struct way *in = &conn->in;
	struct head head;
	const uint8_t *want;

	if (receive_all(conn, &head, sizeof(head)))
		return -1;
	if (head.magic != MAGIC || head.len > MAX_LEN || (head.len && head.received))
		return fail(conn, 1, "after %" PRIu64 " bytes: a head of %08x %08x %016" PRIx64,
			    in->place, head.magic, head.len, head.received);
	if (!head.len) {
		conn->confirmed = head.received;
		return 0;
	}
	if (receive_all(conn, conn->got, head.len))
		return -1;
	want = contents(in, head.len);
	if (memcmp(conn->got, want, head.len) != 0)
		return wrong(conn, conn->got, want, head.len);
	in->place += head.len;
	return (int)head.len;
}

/* Lengths: many small, some of whole buffers. */
static uint32_t next_len(struct conn *conn)
{
	uint64_t random = mix(conn->out.seed ^ conn->out.place);
	uint32_t most = conn->hello.bulk ? (random >> 60 ? 20000 : MAX_LEN) : MAX_BALL;

	return (uint32_t)(random % most) + 1;
}

/* The client ends first: only who has all of the other's bytes can say that they were right. */
static void *bulk_sender(void *arg)
{
	struct conn *conn = arg;

	/* At least one: a busy machine may not let a thread run before its time is over. */
	do {
		if (send_message(conn, next_len(conn)))
			return NULL;
	} while (now() < conn->end);
	if (conn->client)
		send_end(conn, 0);
	return NULL;
}

static void bulk(struct conn *conn)
{
	pthread_t sender;
	int ret;

	if (pthread_create(&sender, NULL, bulk_sender, conn)) {
		fail(conn, 2, "cannot start a thread");
		return;
	}
	do {
		ret = receive_message(conn);
	} while (ret > 0);
	pthread_join(sender, NULL);
	if (!ret && !conn->client)
		send_end(conn, conn->in.place);
}

static void play_ball(struct conn *conn)
{
	int ret = 1;

	while (ret > 0) {
		if (conn->client && conn->balls && now() >= conn->end)
			break;
		if (conn->client && send_message(conn, next_len(conn)))
			return;
		ret = receive_message(conn);
		if (!conn->client && ret > 0 && send_message(conn, next_len(conn)))
			return;
		conn->balls++;
	}
	if (ret < 0 || send_end(conn, conn->in.place))
		return;
	if (conn->client && receive_message(conn) > 0)
		fail(conn, 1, "a message where the end should be");
}

static void use(struct conn *conn)
{
	struct timeval patience = {.tv_sec = PATIENCE};
	uint64_t up = mix(conn->hello.seed), down = mix(up);

	setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(conn->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	conn->out.seed = conn->client ? up : down;
	conn->in.seed = conn->client ? down : up;
	conn->end = now() + conn->hello.seconds * 1000;
	if (conn->hello.bulk)
		bulk(conn);
	else
		play_ball(conn);
	/* The server cannot know: it has sent its verdict last. */
	if (!conn->failed && conn->client && conn->confirmed != conn->out.place)
		fail(conn, 1, "sent %" PRIu64 " bytes, of which the other end has %" PRIu64,
		     conn->out.place, conn->confirmed);
}

static struct conn *new_conn(int fd, bool client)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (!conn) {
		fprintf(stderr, "netcheck: out of memory\n");
		exit(2);
	}
	conn->fd = fd;
	conn->client = client;
	pthread_mutex_init(&conn->lock, NULL);
	return conn;
}

/* ---- server ---- */

static void *server(void *arg)
{
	static const char *const words[] = {"ok", "wrong", "cut"};
	struct conn *conn = arg;

	if (!receive_all(conn, &conn->hello, sizeof(conn->hello))) {
		if (conn->hello.magic != MAGIC)
			fail(conn, 1, "a hello of %08x", conn->hello.magic);
		else
			use(conn);
	}
	if (conn->failed)
		dprintf(log_fd, "%s %s\n", words[conn->failed], conn->said);
	else
		dprintf(log_fd, "ok %" PRIu64 "\n", conn->in.place);
	close(conn->fd);
	free(conn);
	return NULL;
}

static int serve(const char *log)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (log_fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) || listen(fd, 64)) {
		fprintf(stderr, "netcheck: %s: %s\n", log_fd < 0 ? log : "bind", strerror(errno));
		return 1;
	}
	for (;;) {
		int one = accept(fd, NULL, NULL);
		pthread_t thread;

		if (one < 0)
			continue;
		if (pthread_create(&thread, NULL, server, new_conn(one, false)))
			return 1;
		pthread_detach(thread);
	}
}

/* ---- client ---- */

static void *client(void *arg)
{
	struct conn *conn = arg;

	if (!send_all(conn, &conn->hello, sizeof(conn->hello), 0))
		use(conn);
	return NULL;
}

static int run(const char *address, unsigned nr, unsigned seconds, uint64_t seed)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct conn *conns[MAX_CONNS];
	pthread_t threads[MAX_CONNS];
	uint64_t sent = 0, received = 0, balls = 0;
	int ret = 0;

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
		fprintf(stderr, "netcheck: '%s' is no IPv4 address\n", address);
		return 2;
	}
	for (unsigned i = 0; i < nr; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (struct sockaddr *)&to, sizeof(to))) {
			fprintf(stderr, "netcheck: %s: %s\n", address, strerror(errno));
			return 1;
		}
		conns[i] = new_conn(fd, true);
		conns[i]->hello = (struct hello){MAGIC, i % 2 == 0, mix(seed) + i, seconds};
	}
	for (unsigned i = 0; i < nr; i++) {
		if (pthread_create(&threads[i], NULL, client, conns[i])) {
			fprintf(stderr, "netcheck: cannot start a thread\n");
			return 1;
		}
	}
	for (unsigned i = 0; i < nr; i++) {
		pthread_join(threads[i], NULL);
		if (conns[i]->failed && !ret) {
			fprintf(stderr, "netcheck: connection %u: %s\n", i, conns[i]->said);
			ret = 1;
		}
		sent += conns[i]->out.place;
		received += conns[i]->in.place;
		balls += conns[i]->balls;
		close(conns[i]->fd);
		free(conns[i]);
	}
	if (!ret && (!sent || !received || (nr > 1 && !balls))) {
		fprintf(stderr, "netcheck: nothing travelled\n");
		ret = 1;
	}
	if (!ret)
		printf("netcheck: %" PRIu64 " KiB there, %" PRIu64 " KiB back, %" PRIu64
		       " answers\n",
		       sent / 1024, received / 1024, balls);
	return ret;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: netcheck serve LOG [-p PORT] [-x PLACE]\n"
		"       netcheck run ADDRESS [-p PORT] [-x PLACE] [-s SECONDS] [-c CONNECTIONS] "
		"[-r SEED]\n");
	return 2;
}

int main(int argc, char **argv)
{
	unsigned seconds = 3, nr = 4;
	uint64_t seed = 1;
	int c;

	signal(SIGPIPE, SIG_IGN);
	optind = 3;
	while ((c = getopt(argc, argv, "p:x:s:c:r:")) != -1) {
		switch (c) {
		case 'p':
			port = (uint16_t)atoi(optarg);
			break;
		case 'x':
			spoiled = strtoull(optarg, NULL, 0);
			break;
		case 's':
			seconds = (unsigned)atoi(optarg);
			break;
		case 'c':
			nr = (unsigned)atoi(optarg);
			break;
		case 'r':
			seed = strtoull(optarg, NULL, 0);
			break;
		default:
			return usage();
		}
	}
	if (argc < 3 || optind != argc || !port || !seconds || !nr || nr > MAX_CONNS)
		return usage();
	if (!strcmp(argv[1], "serve"))
		return serve(argv[2]);
	return strcmp(argv[1], "run") != 0 ? usage() : run(argv[2], nr, seconds, seed);
}
