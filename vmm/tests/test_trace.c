/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a trace, read by a reader of JSON that is not ours: Python's. What is demanded of
 * each event is what the Trace Event Format says: name, ph, pid, tid, ts, and dur of complete
 * events.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/trace.h"

static char path[64];

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/test_trace.%d", (int)getpid());
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

/*
 * Is the file sound, and has it @nr events named @name (NULL: of any kind but metadata)? @cut: its
 * closing bracket may be missing. Threads' ends ascend. Return: 0; 3: sound, but not so many.
 */
static int check(const char *name, unsigned nr, bool cut)
{
	static const char script[] =
		"import json, sys\n"
		"text = open(sys.argv[1]).read()\n"
		"if sys.argv[4] == 'cut': text += ']'\n"
		"last, n = {}, 0\n"
		"names = set()\n"
		"for e in json.loads(text):\n"
		"    assert e['pid'] == 1 and e['tid'] >= 0 and e['name'], e\n"
		"    if e['ph'] == 'M':\n"
		"        names.add(e['tid'])\n"
		"        continue\n"
		"    assert e['ph'] in 'Xi' and e['ts'] >= 0, e\n"
		"    assert not e['tid'] or e['tid'] > 64 or e['tid'] in names, e\n"
		"    if e['name'] != 'dropped':\n"
		"        end = e['ts'] + e.get('dur', 0)\n"
		"        assert end >= last.get(e['tid'], 0) - 0.01, e\n"
		"        last[e['tid']] = end\n"
		"        assert (e['ph'] == 'X') == ('dur' in e), e\n"
		"    n += sys.argv[2] in (e['name'], '')\n"
		"sys.exit(0 if n == int(sys.argv[3]) else 3)\n";
	char number[16];
	int status;
	pid_t pid = fork();

	snprintf(number, sizeof(number), "%u", nr);
	if (!pid) {
		execlp("python3", "python3", "-c", script, path, name ? name : "", number,
		       cut ? "cut" : "whole", NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char *slurp(void)
{
	static char text[1 << 16];
	FILE *file = fopen(path, "r");
	size_t len;

	assert_non_null(file);
	len = fread(text, 1, sizeof(text) - 1, file);
	text[len] = '\0';
	fclose(file);
	return text;
}

static void each_event_says_what_it_was(void **state)
{
	uint64_t now = monotonic_ns();
	struct mediator_event event = {.kind = EVENT_MAP,
				       .domain = 3,
				       .start = 0xfffff000,
				       .last = 0xffffffff,
				       .gpa = 0x40001000,
				       .flags = MAP_READ | MAP_WRITE,
				       .copied = 4096,
				       .ret = -ENOMEM,
				       .begin_ns = now + 1000000,
				       .end_ns = now + 1001234};
	struct trace *trace;
	char *text;

	(void)state;
	trace_name_thread("vcpu 7");
	assert_int_equal(trace_create(path, TRACE_MAX_MIN, &trace), 0);
	trace_event(trace, &event);
	for (unsigned kind = 0; kind < NR_EVENT_KINDS; kind++) {
		event.kind = (enum mediator_event_kind)kind;
		event.ret = 0;
		event.begin_ns += 2000;
		event.end_ns += 2000;
		trace_event(trace, &event);
	}
	/* These have the real time. */
	while (monotonic_ns() < event.end_ns)
		;
	trace_end(trace, trace_begin(trace), TRACE_WRITE, 8, 0, 0x1008, 42);
	trace_end(trace, trace_begin(trace), TRACE_READ, 8, 2, 0x1c, UINT64_MAX);
	trace_end(trace, trace_begin(trace), TRACE_INTERRUPT, 8, 5, 0, 0);
	trace_end(trace, trace_begin(trace), TRACE_INTERRUPT, 8, TRACE_INTX, 0, 0);
	trace_end(trace, trace_begin(trace), TRACE_RESET, 8, 0, 0, 0);
	trace_destroy(trace);
	assert_int_equal(check(NULL, 1 + NR_EVENT_KINDS + 5, false), 0);
	assert_int_equal(check("map", 2, false), 0);
	assert_int_equal(check("interrupt", 2, false), 0);
	text = slurp();
	assert_non_null(strstr(text,
			       "\"dur\":1.234,\"pid\":1,\"tid\":1,\"args\":{\"domain\":3,"
			       "\"iova\":\"0xfffff000\",\"last\":\"0xffffffff\",\"length\":4096,"
			       "\"gpa\":\"0x40001000\","
			       "\"rights\":\"rw\",\"copied\":4096,\"status\":\"ENOMEM\"}}"));
	assert_non_null(strstr(text, "\"status\":\"ok\""));
	assert_non_null(strstr(text, "\"args\":{\"name\":\"vcpu 7\"}"));
	assert_non_null(strstr(text, "{\"endpoint\":8,\"bar\":0,\"offset\":\"0x1008\",\"value\":"
				     "\"0x2a\"}"));
	assert_non_null(strstr(text, "\"vector\":\"INTx\""));
	assert_int_equal(text[strlen(text) - 2], ']');
}

/* All there is has no length of 64 bits, and what is refused may end before it begins. */
static void a_range_without_a_length_has_its_ends(void **state)
{
	struct mediator_event event = {.kind = EVENT_UNMAP, .last = UINT64_MAX};
	struct trace *trace;
	char *text;

	(void)state;
	assert_int_equal(trace_create(path, TRACE_MAX_MIN, &trace), 0);
	trace_event(trace, &event);
	event = (struct mediator_event){
		.kind = EVENT_MAP, .start = 0x5000, .last = 0x1fff, .ret = -ERANGE};
	trace_event(trace, &event);
	trace_destroy(trace);
	assert_int_equal(check(NULL, 2, false), 0);
	text = slurp();
	assert_non_null(
		strstr(text, "\"iova\":\"0x0\",\"last\":\"0xffffffffffffffff\",\"copied\":0"));
	assert_non_null(strstr(text, "\"iova\":\"0x5000\",\"last\":\"0x1fff\",\"gpa\""));
	assert_null(strstr(text, "length"));
}

static void nobody_traces_into_nothing(void **state)
{
	(void)state;
	assert_int_equal(trace_begin(NULL), 0);
	trace_end(NULL, 0, TRACE_RESET, 1, 2, 3, 4);
	trace_destroy(NULL);
}

enum { NR_THREADS = 4, NR_EACH = 30000 };

static void *record_many(void *ctx)
{
	static unsigned nr;
	char name[24];

	snprintf(name, sizeof(name), "vcpu %u", __atomic_fetch_add(&nr, 1, __ATOMIC_RELAXED));
	trace_name_thread(name);
	for (unsigned i = 0; i < NR_EACH; i++) {
		uint64_t begin = trace_begin(ctx);

		trace_end(ctx, begin, TRACE_WRITE, 8, 0, i, i);
		/* As many as there is time for them to be written. */
		if (i % 512 == 511)
			usleep(1000);
	}
	return NULL;
}

/* Whatever was dropped is counted, and nothing else is missing. */
static unsigned nr_dropped(void)
{
	unsigned nr = 0, one;
	char line[512], *at;
	FILE *file = fopen(path, "r");

	while (fgets(line, sizeof(line), file)) {
		at = strstr(line, "\"name\":\"dropped\"");
		if (at && sscanf(strstr(at, "\"events\":"), "\"events\":%u", &one) == 1)
			nr += one;
	}
	fclose(file);
	return nr;
}

static void threads_record_at_once(void **state)
{
	pthread_t threads[NR_THREADS];
	struct trace *trace;

	(void)state;
	assert_int_equal(trace_create(path, TRACE_MAX_DEFAULT, &trace), 0);
	for (unsigned i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, record_many, trace), 0);
	for (unsigned i = 0; i < NR_THREADS; i++)
		pthread_join(threads[i], NULL);
	trace_destroy(trace);
	assert_int_equal(check("doorbell", NR_THREADS * NR_EACH - nr_dropped(), false), 0);
}

/* Without a pause: more than there is room for. */
static void what_finds_no_room_is_dropped_and_counted(void **state)
{
	struct trace *trace;
	unsigned lost;

	(void)state;
	assert_int_equal(trace_create(path, TRACE_MAX_DEFAULT, &trace), 0);
	for (unsigned i = 0; i < 1000000; i++)
		trace_end(trace, 1, TRACE_RESET, 8, 0, 0, 0);
	trace_destroy(trace);
	lost = nr_dropped();
	assert_true(lost && lost < 1000000);
	assert_int_equal(check("reset", 1000000 - lost, false), 0);
}

static void it_grows_to_its_bound_and_no_further(void **state)
{
	struct trace *trace;
	struct stat st;

	(void)state;
	assert_int_equal(trace_create(path, TRACE_MAX_MIN, &trace), 0);
	for (unsigned i = 0; i < 60000; i++) {
		trace_end(trace, trace_begin(trace), TRACE_WRITE, 8, 0, i, i);
		if (i % 2048 == 0)
			usleep(2000);
	}
	trace_destroy(trace);
	assert_int_equal(stat(path, &st), 0);
	assert_true((uint64_t)st.st_size <= TRACE_MAX_MIN);
	assert_true((uint64_t)st.st_size > TRACE_MAX_MIN - 4096);
	slurp();
	assert_int_equal(check("doorbell", 0, false), 3); /* sound, and not 0 of them */
}

/* What was there at the last write is all there is, and can be opened. */
static void one_that_is_killed_leaves_what_it_has_written(void **state)
{
	int pipes[2];
	char byte;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	if (!pid) {
		struct trace *trace;

		if (trace_create(path, TRACE_MAX_MIN, &trace))
			_exit(1);
		for (unsigned i = 0; i < 100; i++)
			trace_end(trace, trace_begin(trace), TRACE_RESET, 8, 0, 0, 0);
		(void)!write(pipes[1], "", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	/* It is written within TRACE_FLUSH_MS, whenever that is on this machine. */
	for (unsigned i = 0; check("reset", 100, true); i++) {
		assert_true(i < 200);
		usleep(50000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(pipes[0]);
	close(pipes[1]);
	assert_int_equal(check("reset", 100, true), 0);
	assert_int_not_equal(check("reset", 100, false), 0); /* it has not ended */
}

/* A file that may not grow is cut to whole records, and everybody goes on. */
static void a_full_disk_ends_the_trace_and_nothing_else(void **state)
{
	struct rlimit old, limit = {.rlim_cur = 100000};
	unsigned recorded = 0, lost = 0;
	struct trace *trace;
	char line[512];
	FILE *said;
	int saved;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit.rlim_max = old.rlim_max;
	assert_int_equal(trace_create(path, TRACE_MAX_DEFAULT, &trace), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (unsigned i = 0; i < 10000; i++)
		trace_end(trace, trace_begin(trace), TRACE_WRITE, 8, 0, i, i);
	said = tmpfile();
	saved = dup(STDERR_FILENO);
	dup2(fileno(said), STDERR_FILENO);
	trace_destroy(trace);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(check("doorbell", 0, true), 3);
	/* What was cut off was not recorded. */
	rewind(said);
	while (fgets(line, sizeof(line), said)) {
		const char *at = strstr(line, ": ");

		while (at && sscanf(at, ": %u events recorded, %u lost", &recorded, &lost) != 2)
			at = strstr(at + 1, ": ");
	}
	fclose(said);
	assert_int_equal(recorded + lost, 10000);
	assert_int_equal(check("doorbell", recorded, true), 0);
	assert_null(strstr(slurp(), "\n]"));
}

static void a_file_that_cannot_be_written_is_refused(void **state)
{
	struct trace *trace;

	(void)state;
	assert_int_equal(trace_create("/nowhere/at/all", TRACE_MAX_MIN, &trace), -ENOENT);
	assert_int_equal(trace_create("/tmp", TRACE_MAX_MIN, &trace), -EISDIR);
	assert_int_equal(trace_create("/dev/full", TRACE_MAX_MIN, &trace), -EIO);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(trace_create(path, TRACE_MAX_MIN, &trace), -ENXIO);
	assert_int_equal(trace_create("/dev/null", TRACE_MAX_MIN, &trace), 0);
	trace_end(trace, trace_begin(trace), TRACE_RESET, 8, 0, 0, 0);
	trace_destroy(trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(each_event_says_what_it_was),
		TEST(a_range_without_a_length_has_its_ends),
		TEST(nobody_traces_into_nothing),
		TEST(threads_record_at_once),
		TEST(what_finds_no_room_is_dropped_and_counted),
		TEST(it_grows_to_its_bound_and_no_further),
		TEST(one_that_is_killed_leaves_what_it_has_written),
		TEST(a_full_disk_ends_the_trace_and_nothing_else),
		TEST(a_file_that_cannot_be_written_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
