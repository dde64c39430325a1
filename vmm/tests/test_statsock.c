/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/statsock.h"

static char dir[64];
static struct sockaddr_un addr = {.sun_family = AF_UNIX};
static struct evloop *loop;
static struct statsock *sock;
static pthread_t thread;
static unsigned nr_collected; /* the loop's thread counts */
static unsigned nr_endless;   /* if not 0: so many domains, each that is asked for */

static const struct view_vm some_vm = {
	.viommu = 1,
	.granule = 4096,
	.frame_size = 16384,
	.nr_endpoints = 1,
	.nr_instances = 1,
	.endpoints = {{.name = "0000:00:02.0", .nr_streams = 1}},
	.instances = {{.kind = "VFIO", .name = "IOMMU group 3", .nr_apertures = 1}},
};

/* As `granule stat` asks. */
static int fetch(pid_t pid, bool again, struct stats *out)
{
	const struct ask ask = {.what = ASK_STATS};
	union answer answer;
	int ret = statsock_ask("test", pid, again, &ask, &answer);

	if (!ret)
		*out = answer.stats;
	return ret;
}

static void collect(void *ctx, const struct ask *ask, union answer *answer)
{
	struct stats *out = &answer->stats;

	(void)ctx;
	if (ask->what == ASK_VM)
		answer->vm = some_vm;
	if (ask->what == ASK_DOMAIN && ask->domain <= 7)
		answer->domain = (struct view_domain){.found = 1, .id = 7, .mappings = 3};
	if (ask->what == ASK_DOMAIN && ask->domain < nr_endless)
		answer->domain = (struct view_domain){.found = 1, .id = ask->domain, .bypass = 1};
	if (ask->what == ASK_PIECE && ask->domain == 7)
		answer->piece = (struct view_piece){.found = 1, .more = 1, .at = ask->at + 1};
	if (ask->what != ASK_STATS)
		return;
	out->seconds = 2.5;
	out->exits[EXIT_KIND_BAR] = 41;
	out->viommu = true;
	out->mediator.maps = ++nr_collected;
	out->mediator.bounce_bytes_peak = 99;
}

static void *turn_loop(void *ctx)
{
	evloop_run(ctx);
	return NULL;
}

static int in_a_directory(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_statsock.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	setenv("XDG_RUNTIME_DIR", dir, 1);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/granule-%d.sock", dir, (int)getpid());
	return 0;
}

static int drop_directory(void **state)
{
	(void)state;
	return rmdir(dir); /* fails if anything was left behind */
}

static int start(void **state)
{
	nr_collected = nr_endless = 0;
	statsock_patience_ns = UINT64_C(10000000000);
	return in_a_directory(state) || evloop_create(0, &loop) ||
	       statsock_create(loop, collect, NULL, &sock) ||
	       pthread_create(&thread, NULL, turn_loop, loop);
}

static int stop(void **state)
{
	evloop_stop(loop, 0);
	pthread_join(thread, NULL);
	statsock_destroy(sock);
	evloop_destroy(loop);
	return drop_directory(state);
}

static void what_was_collected_arrives_each_time(void **state)
{
	struct stats got;

	(void)state;
	for (unsigned i = 1; i <= 3; i++) {
		memset(&got, 0xee, sizeof(got));
		assert_int_equal(fetch(getpid(), false, &got), 0);
		assert_true(got.seconds > 2.4 && got.seconds < 2.6);
		assert_int_equal(got.exits[EXIT_KIND_BAR], 41);
		assert_int_equal(got.mediator.maps, i);
		assert_int_equal(got.mediator.bounce_bytes_peak, 99);
		assert_int_equal(got.mediator.faults, 0);
	}
}

static void only_its_user_may_connect(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(addr.sun_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static int connect_raw(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* What is sent to ask; the number of its version does not matter. */
struct raw_request {
	char magic[8];
	uint32_t layout, len;
	struct ask ask;
};

static int ask_raw(uint32_t what)
{
	const struct raw_request request = {.magic = "granule", .ask = {.what = what}};
	int fd = connect_raw();

	assert_int_equal(send(fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
	return fd;
}

static void clients_that_never_read_hold_nobody_up(void **state)
{
	int fds[300];
	struct stats got;

	(void)state;
	for (size_t i = 0; i < 300; i++)
		fds[i] = ask_raw(ASK_STATS);
	assert_int_equal(fetch(getpid(), false, &got), 0);
	/* Each was served and let go: the loop keeps nothing of it. */
	assert_int_equal(got.mediator.maps, 301);
	for (size_t i = 0; i < 300; i++) {
		char buf[2 * sizeof(got)];
		ssize_t n, total = 0;

		while ((n = recv(fds[i], buf, sizeof(buf), 0)) > 0)
			total += n;
		assert_int_equal(n, 0); /* hung up on */
		assert_true((size_t)total >= sizeof(got));
		close(fds[i]);
	}
}

static void clients_that_talk_or_go_at_once_are_no_harm(void **state)
{
	static const char noise[70000];
	struct stats got;

	(void)state;
	for (size_t i = 0; i < 50; i++) {
		int fd = connect_raw();

		if (i % 2)
			(void)!send(fd, noise, sizeof(noise), MSG_DONTWAIT | MSG_NOSIGNAL);
		close(fd);
	}
	assert_int_equal(fetch(getpid(), false, &got), 0);
	assert_int_equal(got.mediator.maps, 1); /* nobody else was answered */
}

/* Return: all that is said before the other side hangs up, bytes. */
static size_t drain(int fd)
{
	char buf[4096];
	size_t total = 0;
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		total += (size_t)n;
	close(fd);
	return total;
}

static void what_nobody_asks_is_not_answered(void **state)
{
	struct raw_request request = {.magic = "Granule"};
	int fd = ask_raw(NR_ASKS);

	(void)state;
	assert_int_equal(drain(fd), 0);
	assert_int_equal(drain(ask_raw(UINT32_MAX)), 0);
	fd = connect_raw();
	assert_int_equal(send(fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
	assert_int_equal(drain(fd), 0);
	assert_int_equal(nr_collected, 0);
}

static void each_question_has_its_answer(void **state)
{
	struct ask ask = {.what = ASK_VM};
	union answer got;

	(void)state;
	assert_int_equal(statsock_ask("test", getpid(), false, &ask, &got), 0);
	assert_string_equal(got.vm.endpoints[0].name, "0000:00:02.0");
	ask = (struct ask){.what = ASK_DOMAIN, .domain = 5};
	assert_int_equal(statsock_ask("test", getpid(), false, &ask, &got), 0);
	assert_true(got.domain.found && got.domain.id == 7 && got.domain.mappings == 3);
	ask.domain = 8;
	assert_int_equal(statsock_ask("test", getpid(), false, &ask, &got), 0);
	assert_false(got.domain.found);
	ask = (struct ask){.what = ASK_PIECE, .domain = 7, .at = 4096};
	assert_int_equal(statsock_ask("test", getpid(), false, &ask, &got), 0);
	assert_true(got.piece.found && got.piece.more && got.piece.at == 4097);
}

/* Whoever answers may have as many as it likes to say. */
static void domains_without_end_are_not_shown(void **state)
{
	char path[sizeof(dir) + 8];
	const struct inspect_config cfg = {.pid = getpid(), .svg = true, .file = path};

	(void)state;
	snprintf(path, sizeof(path), "%s/svg", dir);
	nr_endless = VIEW_MAX_DOMAINS;
	assert_int_equal(inspect_run(&cfg), EXIT_POWEROFF);
	nr_endless = 2 * VIEW_MAX_DOMAINS;
	assert_int_equal(inspect_run(&cfg), EXIT_FAILED);
	unlink(path);
}

static void a_request_in_pieces_is_a_request(void **state)
{
	const struct raw_request request = {.magic = "granule", .ask = {.what = ASK_STATS}};
	int fd = connect_raw();
	struct stats got;

	(void)state;
	assert_int_equal(send(fd, &request, 5, MSG_NOSIGNAL), 5);
	assert_int_equal(fetch(getpid(), false, &got), 0); /* it has been looked at by then */
	assert_int_equal(send(fd, (const char *)&request + 5, sizeof(request) - 5, MSG_NOSIGNAL),
			 sizeof(request) - 5);
	assert_true(drain(fd) > sizeof(got));
}

static void clients_that_say_nothing_make_room_for_others(void **state)
{
	enum { NR = 5 * STATSOCK_MAX_CLIENTS };
	int fds[NR];
	struct stats got;
	char byte;

	(void)state;
	for (unsigned i = 0; i < NR; i++)
		fds[i] = connect_raw();
	/* There is a place for it, and the last ones keep theirs. */
	assert_int_equal(fetch(getpid(), false, &got), 0);
	for (unsigned i = 0; i < NR - STATSOCK_MAX_CLIENTS + 1; i++)
		assert_int_equal(drain(fds[i]), 0);
	for (unsigned i = NR - STATSOCK_MAX_CLIENTS + 1; i < NR; i++) {
		assert_int_equal(recv(fds[i], &byte, 1, MSG_DONTWAIT), -1);
		assert_int_equal(errno, EAGAIN);
		close(fds[i]);
	}
}

static void clients_that_say_nothing_are_let_go_in_time(void **state)
{
	const struct raw_request request = {.magic = "granule"};
	unsigned sent = 0;
	int silent, slow;

	(void)state;
	statsock_patience_ns = 100000000;
	silent = connect_raw();
	slow = connect_raw();
	/* All but the last byte, one now and then. */
	while (sent < sizeof(request) - 1 &&
	       send(slow, (const char *)&request + sent, 1, MSG_NOSIGNAL) == 1) {
		usleep(10000);
		sent++;
	}
	assert_int_equal(drain(slow), 0);
	assert_int_equal(drain(silent), 0);
	assert_int_equal(nr_collected, 0);
}

/* For a moment there is no descriptor for one more: who comes then waits, and is answered. */
static void without_descriptors_clients_wait(void **state)
{
	const struct raw_request request = {.magic = "granule", .ask = {.what = ASK_STATS}};
	const struct timeval limit = {.tv_sec = 10};
	struct rlimit old, few;
	struct stats got;
	char byte;
	int fd, second;

	(void)state;
	assert_int_equal(fetch(getpid(), false, &got), 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	second = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(send(fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
	usleep(200000); /* it has been tried, and is not over and over */
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	assert_true(drain(fd) > sizeof(got));
	assert_int_equal(fetch(getpid(), false, &got), 0);
	/* It may end in such a pause. */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(connect(second, (struct sockaddr *)&addr, sizeof(addr)), 0);
	usleep(100000);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	close(second);
}

/* Taken down with clients in every state: ASan and rmdir() see what is left. */
static void it_may_end_while_somebody_waits(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++)
		connect_raw();
}

static void a_socket_left_by_one_that_was_killed_is_replaced(void **state)
{
	struct evloop *own;
	struct statsock *second;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stats got;

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	assert_int_equal(fetch(getpid(), false, &got), -ECONNREFUSED);
	assert_int_equal(evloop_create(0, &own), 0);
	assert_int_equal(statsock_create(own, collect, NULL, &second), 0);
	statsock_destroy(second);
	evloop_destroy(own);
	assert_int_equal(fetch(getpid(), false, &got), -ENOENT);
}

static void a_file_of_that_name_is_not_removed(void **state)
{
	FILE *file = fopen(addr.sun_path, "w");
	struct evloop *own;
	struct statsock *second;

	(void)state;
	fclose(file);
	assert_int_equal(evloop_create(0, &own), 0);
	assert_int_equal(statsock_create(own, collect, NULL, &second), -EADDRINUSE);
	evloop_destroy(own);
	assert_int_equal(unlink(addr.sun_path), 0);
}

static void a_directory_that_is_not_there_is_refused(void **state)
{
	struct evloop *own;
	struct statsock *second;

	(void)state;
	setenv("XDG_RUNTIME_DIR", "/nowhere/at/all", 1);
	assert_int_equal(evloop_create(0, &own), 0);
	assert_int_equal(statsock_create(own, collect, NULL, &second), -ENOENT);
	evloop_destroy(own);
}

static void no_process_is_told_from_no_socket(void **state)
{
	struct stats got;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	assert_int_equal(fetch(pid, false, &got), -ESRCH);
	assert_int_equal(fetch(getpid(), false, &got), -ENOENT);
}

/* One that answers, and not as we do: @len bytes of @answer. */
static void fetch_from_a_stranger(const void *answer, size_t len, int want)
{
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), fd;
	struct stats got;
	pid_t pid;

	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 1), 0);
	pid = fork();
	if (!pid) {
		struct raw_request request;

		fd = accept(listener, NULL, NULL);
		_exit(fd < 0 || read(fd, &request, sizeof(request)) != sizeof(request) ||
		      write(fd, answer, len) != (ssize_t)len);
	}
	close(listener);
	assert_int_equal(fetch(getpid(), false, &got), want);
	waitpid(pid, NULL, 0);
	unlink(addr.sun_path);
}

static void another_version_is_not_believed(void **state)
{
	char answer[sizeof(struct stats) + 64];

	(void)state;
	memset(answer, 0x31, sizeof(answer));
	fetch_from_a_stranger(answer, sizeof(answer), -EPROTO);
	fetch_from_a_stranger(answer, 12, -EPROTO);
	fetch_from_a_stranger(answer, 0, -ECONNREFUSED);
}

/* Right but for what stats.c relies on: root may ask a process that only looks like a VM. */
static void one_that_answers_nothing_or_slowly_is_not_waited_for(void **state)
{
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stats got;
	pid_t pid;

	(void)state;
	statsock_patience_ns = 100000000;
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 2), 0);
	/* Connected, for the kernel does that, and never accepted. */
	assert_int_equal(fetch(getpid(), false, &got), -ETIMEDOUT);
	pid = fork();
	if (!pid) {
		int fd;

		signal(SIGPIPE, SIG_DFL);
		while ((fd = accept(listener, NULL, NULL)) >= 0) {
			for (;; usleep(20000)) {
				if (send(fd, "g", 1, MSG_NOSIGNAL) != 1)
					break;
			}
			close(fd);
		}
		_exit(0);
	}
	close(listener);
	assert_int_equal(fetch(getpid(), false, &got), -ETIMEDOUT);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	unlink(addr.sun_path);
}

static void numbers_that_nobody_counted_are_not_believed(void **state)
{
	char answer[sizeof(struct stats) + 64], other[sizeof(dir) + 8];
	const struct sockaddr_un ours = addr;
	size_t len = 0, head;
	struct stats stats;
	ssize_t n;
	int fd = ask_raw(ASK_STATS);

	(void)state;
	while ((n = recv(fd, answer + len, sizeof(answer) - len, 0)) > 0)
		len += (size_t)n;
	close(fd);
	assert_true(len > sizeof(stats) && len < sizeof(answer));
	head = len - sizeof(stats);
	memcpy(&stats, answer + head, sizeof(stats));
	snprintf(other, sizeof(other), "%s/other", dir);
	assert_int_equal(mkdir(other, 0700), 0);
	setenv("XDG_RUNTIME_DIR", other, 1);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/granule-%d.sock", other, (int)getpid());

	stats.nr_nets = CONFIG_MAX_NETS;
	strcpy(stats.nets[CONFIG_MAX_NETS - 1].tap, "tap0");
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, 0);
	stats.nets[0].tap[0] = '\033';
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, -EPROTO);
	memset(stats.nets[0].tap, 'x', sizeof(stats.nets[0].tap));
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, -EPROTO);
	stats.nets[0].tap[0] = '\0';
	stats.nr_nets = CONFIG_MAX_NETS + 1;
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, -EPROTO);
	stats.nr_nets = 0;
	stats.seconds = NAN; /* no number in JSON */
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, -EPROTO);
	stats.seconds = 1;
	memset(&stats.viommu, 2, 1);
	memcpy(answer + head, &stats, sizeof(stats));
	fetch_from_a_stranger(answer, len, -EPROTO);

	assert_int_equal(rmdir(other), 0);
	addr = ours;
	setenv("XDG_RUNTIME_DIR", dir, 1);
}

static void one_that_has_ended_is_told_from_one_that_never_was(void **state)
{
	struct stats got;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	assert_int_equal(fetch(pid, true, &got), -ESHUTDOWN);
	assert_int_equal(fetch(getpid(), true, &got), -ESHUTDOWN);
	fetch_from_a_stranger("", 0, -ECONNREFUSED);
}

static void another_user_is_refused(void **state)
{
	struct stats got;
	int status;
	pid_t vm = getpid(), pid;

	(void)state;
	if (geteuid() != 0)
		skip(); /* only root can be somebody else */
	chmod(dir, 0755);
	pid = fork();
	if (!pid) {
		if (setgid(12345) || setuid(12345))
			_exit(2);
		_exit(fetch(vm, false, &got) != -EACCES);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define RUNNING(name) cmocka_unit_test_setup_teardown(name, start, stop)
#define ALONE(name)   cmocka_unit_test_setup_teardown(name, in_a_directory, drop_directory)
		RUNNING(what_was_collected_arrives_each_time),
		RUNNING(only_its_user_may_connect),
		RUNNING(clients_that_never_read_hold_nobody_up),
		RUNNING(clients_that_talk_or_go_at_once_are_no_harm),
		RUNNING(what_nobody_asks_is_not_answered),
		RUNNING(each_question_has_its_answer),
		RUNNING(domains_without_end_are_not_shown),
		RUNNING(a_request_in_pieces_is_a_request),
		RUNNING(clients_that_say_nothing_make_room_for_others),
		RUNNING(clients_that_say_nothing_are_let_go_in_time),
		RUNNING(without_descriptors_clients_wait),
		RUNNING(it_may_end_while_somebody_waits),
		RUNNING(another_user_is_refused),
		ALONE(a_socket_left_by_one_that_was_killed_is_replaced),
		ALONE(a_file_of_that_name_is_not_removed),
		ALONE(a_directory_that_is_not_there_is_refused),
		ALONE(no_process_is_told_from_no_socket),
		RUNNING(numbers_that_nobody_counted_are_not_believed),
		ALONE(one_that_has_ended_is_told_from_one_that_never_was),
		ALONE(another_version_is_not_believed),
		ALONE(one_that_answers_nothing_or_slowly_is_not_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
