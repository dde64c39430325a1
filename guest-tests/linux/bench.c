/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench - what `make bench-lab` times with, in guests and on the host of guests.
 *
 *     bench io FILE read|write BYTES COUNT DEPTH   direct I/O at random places, DEPTH in flight
 *     bench serve PORT                             a TCP peer, until it is killed
 *     bench tcp send|receive ADDRESS PORT MIB      as seen by `serve`'s other side
 *     bench memory PID RAM_MIB                     KiB that a granule has beside its guest's RAM,
 * and without bounce pages bench watch RAM_MIB COMMAND [ARG]...         run a VMM, and tell what
 * its output says when
 *
 * io and tcp print how many nanoseconds all of it took, by CLOCK_MONOTONIC. What is read is not
 * looked at: blkcheck does that. watch prints, when its command's standard output has a line
 * `bench: EVENT`, `EVENT NS` (since the command was started); for an EVENT with `memory` in it
 * `EVENT KIB KIB`: resident memory of the command, and its proportional share of it, less the
 * guest's RAM. All other lines are handed on to standard error. Exit status: 0; 1 after a line that
 * says why; watch: the command's.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 65536u
#define ALIGN 4096u

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void *buffer(size_t len)
{
	void *buf;

	if (posix_memalign(&buf, ALIGN, len))
		die("memory");
	memset(buf, 0x5a, len);
	return buf;
}

/* ---- disk ----------------------------------------------------------------------------------- */

struct io {
	int fd;
	bool write;
	size_t len;
	uint64_t places, seed;
};

/* The same places in every run. */
static off_t next_place(struct io *io)
{
	io->seed = io->seed * 6364136223846793005u + 1442695040888963407u;
	return (off_t)((io->seed >> 33) % io->places * io->len);
}

static void one_by_one(struct io *io, unsigned count, void *buf)
{
	for (unsigned i = 0; i < count; i++) {
		off_t at = next_place(io);
		ssize_t n = io->write ? pwrite(io->fd, buf, io->len, at)
				      : pread(io->fd, buf, io->len, at);

		if (n != (ssize_t)io->len)
			die("I/O");
	}
}

static void queue_one(struct io *io, struct io_uring *ring, void *buf)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	off_t at = next_place(io);

	if (io->write)
		io_uring_prep_write(sqe, io->fd, buf, (unsigned)io->len, (uint64_t)at);
	else
		io_uring_prep_read(sqe, io->fd, buf, (unsigned)io->len, (uint64_t)at);
	io_uring_sqe_set_data(sqe, buf);
}

static void many_at_once(struct io *io, unsigned count, unsigned depth, struct io_uring *ring,
			 uint8_t *bufs)
{
	unsigned queued = 0, done = 0;
	struct io_uring_cqe *cqe;

	for (; queued < depth && queued < count; queued++)
		queue_one(io, ring, bufs + queued * io->len);
	while (done < count) {
		if (io_uring_submit_and_wait(ring, 1) < 0)
			die("io_uring");
		while (io_uring_peek_cqe(ring, &cqe) == 0) {
			if (cqe->res != (int)io->len)
				die("I/O");
			if (queued < count) {
				queue_one(io, ring, io_uring_cqe_get_data(cqe));
				queued++;
			}
			io_uring_cqe_seen(ring, cqe);
			done++;
		}
	}
}

static int bench_io(char **argv)
{
	struct io io = {.write = !strcmp(argv[1], "write"), .len = strtoul(argv[2], NULL, 10)};
	unsigned count = (unsigned)atoi(argv[3]), depth = (unsigned)atoi(argv[4]);
	struct io_uring ring;
	uint8_t *bufs;
	uint64_t start;
	off_t size;

	io.fd = open(argv[0], (io.write ? O_RDWR : O_RDONLY) | O_DIRECT);
	size = io.fd < 0 ? -1 : lseek(io.fd, 0, SEEK_END);
	if (size < 0 || !io.len || !depth)
		die(argv[0]);
	io.places = (uint64_t)size / io.len;
	bufs = buffer(depth * io.len);
	if (depth > 1 && io_uring_queue_init(depth, &ring, 0))
		die("io_uring");
	start = now_ns();
	if (depth > 1)
		many_at_once(&io, count, depth, &ring, bufs);
	else
		one_by_one(&io, count, bufs);
	printf("%" PRIu64 "\n", now_ns() - start);
	return 0;
}

/* ---- network -------------------------------------------------------------------------------- */

/* What the client wants: so many bytes, from it or to it. */
struct order {
	uint64_t bytes;
	uint64_t to_client;
};

static void take_all(int fd, uint64_t bytes, void *buf)
{
	while (bytes) {
		ssize_t n = read(fd, buf, bytes < CHUNK ? bytes : CHUNK);

		if (n <= 0)
			die("connection");
		bytes -= (uint64_t)n;
	}
}

static void give_all(int fd, uint64_t bytes, const void *buf)
{
	while (bytes) {
		ssize_t n = write(fd, buf, bytes < CHUNK ? bytes : CHUNK);

		if (n <= 0)
			die("connection");
		bytes -= (uint64_t)n;
	}
}

static struct sockaddr_in address(const char *ip, const char *port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, ip, &addr.sin_addr) != 1)
		die(ip);
	return addr;
}

static int bench_serve(char **argv)
{
	struct sockaddr_in addr = address("0.0.0.0", argv[0]);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	void *buf = buffer(CHUNK);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 4))
		die("port");
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		struct order order;

		if (fd < 0)
			continue;
		if (fork() == 0) {
			take_all(fd, sizeof(order), &order);
			if (order.to_client)
				give_all(fd, order.bytes, buf);
			else
				take_all(fd, order.bytes, buf);
			give_all(fd, 1, buf); /* all of it has come */
			_exit(0);
		}
		close(fd);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static int bench_tcp(char **argv)
{
	struct order order = {.bytes = strtoull(argv[3], NULL, 10) << 20,
			      .to_client = !strcmp(argv[0], "receive")};
	struct sockaddr_in addr = address(argv[1], argv[2]);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	void *buf = buffer(CHUNK);
	uint64_t start;

	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die("connection");
	start = now_ns();
	give_all(fd, sizeof(order), &order);
	if (order.to_client)
		take_all(fd, order.bytes, buf);
	else
		give_all(fd, order.bytes, buf);
	take_all(fd, 1, buf);
	printf("%" PRIu64 "\n", now_ns() - start);
	return 0;
}

/* ---- a VMM ---------------------------------------------------------------------------------- */

/*
 * Resident memory less the guest's RAM: every mapping of exactly @ram bytes, or of @ram with some
 * alignment, is that; there are no others of such a size.
 */
static void tell_memory(const char *event, pid_t pid, uint64_t ram)
{
	uint64_t start, end, rss = 0, pss = 0, kib;
	char path[64], line[512];
	bool counts = true;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	file = fopen(path, "r");
	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			counts = end - start < ram || end - start > ram + ram / 8;
		else if (counts && sscanf(line, "Rss: %" SCNu64, &kib) == 1)
			rss += kib;
		else if (counts && sscanf(line, "Pss: %" SCNu64, &kib) == 1)
			pss += kib;
	}
	fclose(file);
	printf("%s %" PRIu64 " %" PRIu64 "\n", event, rss, pss);
	fflush(stdout);
}

/* What is as large as half of the guest's RAM is that, or the reservation of bounce pages. */
static int bench_memory(char **argv)
{
	uint64_t start, end, all = 0, rest = 0, kib, ram = strtoull(argv[1], NULL, 10) << 20;
	bool is_ram = true, is_pool = true;
	char path[64], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/smaps", argv[0]);
	file = fopen(path, "r");
	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
			is_ram = end - start >= ram && end - start <= ram + ram / 8;
			is_pool = !is_ram && end - start >= ram / 2;
		} else if (!is_ram && sscanf(line, "Rss: %" SCNu64, &kib) == 1) {
			all += kib;
			rest += is_pool ? 0 : kib;
		}
	}
	fclose(file);
	printf("%" PRIu64 " %" PRIu64 "\n", all, rest);
	return 0;
}

static int bench_watch(char **argv)
{
	static const char prefix[] = "bench: ";
	uint64_t ram = strtoull(argv[0], NULL, 10) << 20, start;
	int fds[2], status;
	char line[512];
	FILE *out;
	pid_t pid;

	if (pipe(fds))
		die("pipe");
	start = now_ns();
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		close(fds[0]);
		close(fds[1]);
		execvp(argv[1], argv + 1);
		die(argv[1]);
	}
	close(fds[1]);
	out = fdopen(fds[0], "r");
	while (out && fgets(line, sizeof(line), out)) {
		line[strcspn(line, "\r\n")] = '\0';
		if (strncmp(line, prefix, strlen(prefix)) != 0) {
			fprintf(stderr, "%s\n", line);
		} else if (strstr(line, "memory")) {
			tell_memory(line + strlen(prefix), pid, ram);
		} else {
			printf("%s %" PRIu64 "\n", line + strlen(prefix), now_ns() - start);
			fflush(stdout);
		}
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *verb;
		int args;
		int (*run)(char **argv);
	} verbs[] = {
		{"io", 5, bench_io},	   {"serve", 1, bench_serve},	{"tcp", 4, bench_tcp},
		{"watch", 2, bench_watch}, {"memory", 2, bench_memory},
	};

	for (size_t i = 0; argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (!strcmp(argv[1], verbs[i].verb) && argc - 2 >= verbs[i].args)
			return verbs[i].run(argv + 2);
	}
	fprintf(stderr, "usage: bench io|serve|tcp|watch|memory ARG...\n");
	return 1;
}
