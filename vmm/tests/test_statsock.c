/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static void collect(void *ctx, struct stats *out)
{
	(void)ctx;
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
	nr_collected = 0;
	return in_a_directory(state) || evloop_create(&loop) ||
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
		assert_int_equal(statsock_fetch(getpid(), false, &got), 0);
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

static void clients_that_never_read_hold_nobody_up(void **state)
{
	int fds[300];
	struct stats got;

	(void)state;
	for (size_t i = 0; i < 300; i++)
		fds[i] = connect_raw();
	assert_int_equal(statsock_fetch(getpid(), false, &got), 0);
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
	assert_int_equal(statsock_fetch(getpid(), false, &got), 0);
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
	assert_int_equal(statsock_fetch(getpid(), false, &got), -ECONNREFUSED);
	assert_int_equal(evloop_create(&own), 0);
	assert_int_equal(statsock_create(own, collect, NULL, &second), 0);
	statsock_destroy(second);
	evloop_destroy(own);
	assert_int_equal(statsock_fetch(getpid(), false, &got), -ENOENT);
}

static void a_file_of_that_name_is_not_removed(void **state)
{
	FILE *file = fopen(addr.sun_path, "w");
	struct evloop *own;
	struct statsock *second;

	(void)state;
	fclose(file);
	assert_int_equal(evloop_create(&own), 0);
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
	assert_int_equal(evloop_create(&own), 0);
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
	assert_int_equal(statsock_fetch(pid, false, &got), -ESRCH);
	assert_int_equal(statsock_fetch(getpid(), false, &got), -ENOENT);
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
		fd = accept(listener, NULL, NULL);
		_exit(fd < 0 || write(fd, answer, len) != (ssize_t)len);
	}
	close(listener);
	assert_int_equal(statsock_fetch(getpid(), false, &got), want);
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
static void numbers_that_nobody_counted_are_not_believed(void **state)
{
	char answer[sizeof(struct stats) + 64], other[sizeof(dir) + 8];
	const struct sockaddr_un ours = addr;
	size_t len = 0, head;
	struct stats stats;
	ssize_t n;
	int fd = connect_raw();

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
	assert_int_equal(statsock_fetch(pid, true, &got), -ESHUTDOWN);
	assert_int_equal(statsock_fetch(getpid(), true, &got), -ESHUTDOWN);
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
		_exit(statsock_fetch(vm, false, &got) != -EACCES);
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
		RUNNING(another_user_is_refused),
		ALONE(a_socket_left_by_one_that_was_killed_is_replaced),
		ALONE(a_file_of_that_name_is_not_removed),
		ALONE(a_directory_that_is_not_there_is_refused),
		ALONE(no_process_is_told_from_no_socket),
		RUNNING(numbers_that_nobody_counted_are_not_believed),
		ALONE(one_that_has_ended_is_told_from_one_that_never_was),
		ALONE(another_version_is_not_believed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
