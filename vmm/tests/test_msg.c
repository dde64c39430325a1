/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/msg.h"

/* stderr is a pipe for the time of a test; what arrives there is in @text. */
struct pipe_end {
	int saved, fd[2];
	char text[2000000];
	size_t len;
};

static int setup(void **state)
{
	struct pipe_end *p = calloc(1, sizeof(*p));

	*state = p;
	p->saved = dup(STDERR_FILENO);
	if (pipe(p->fd) || dup2(p->fd[1], STDERR_FILENO) < 0)
		return -1;
	close(p->fd[1]);
	return 0;
}

static void restore(struct pipe_end *p)
{
	if (p->saved >= 0)
		dup2(p->saved, STDERR_FILENO);
	close(p->saved);
	p->saved = -1;
}

/* Everything written so far; stderr is what it was. */
static const char *heard(struct pipe_end *p)
{
	ssize_t n;

	restore(p);
	while ((n = read(p->fd[0], p->text + p->len, sizeof(p->text) - 1 - p->len)) > 0)
		p->len += (size_t)n;
	p->text[p->len] = '\0';
	return p->text;
}

static int teardown(void **state)
{
	struct pipe_end *p = *state;

	msg_raw_terminal(false);
	if (p->saved >= 0)
		restore(p);
	close(p->fd[0]);
	free(p);
	return 0;
}

static void every_line_names_the_program(void **state)
{
	msg_error("cannot do %s: %d", "this", 5);
	msg_warn("that is slow");
	msg_info("ready");
	assert_string_equal(heard(*state), "granule: cannot do this: 5\n"
					   "granule: warning: that is slow\n"
					   "granule: ready\n");
}

static void a_raw_terminal_gets_carriage_returns(void **state)
{
	msg_raw_terminal(true);
	msg_info("raw");
	msg_raw_terminal(false);
	msg_info("cooked");
	assert_string_equal(heard(*state), "granule: raw\r\ngranule: cooked\n");
}

static void a_message_stays_one_line(void **state)
{
	msg_error("disk %s", "a\nb\r\033[2J\x7f\xc3\xa9");
	assert_string_equal(heard(*state), "granule: disk a?b??[2J?\xc3\xa9\n");
}

static void a_long_message_is_cut_and_still_ends(void **state)
{
	char *name = malloc(10000);
	const char *text;

	memset(name, 'x', 9999);
	name[9999] = '\0';
	msg_error("%s", name);
	free(name);
	text = heard(*state);
	assert_true(strlen(text) > 4096 && strlen(text) < 9999);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void errno_survives(void **state)
{
	struct pipe_end *p = *state;

	dup2(p->fd[0], STDERR_FILENO); /* cannot be written to */
	errno = ENOSPC;
	msg_error("full");
	assert_int_equal(errno, ENOSPC);
}

#define THREADS 4
#define LINES	50
#define DIGITS	4400 /* more than a pipe takes at once (PIPE_BUF) */

static void *talk(void *ctx)
{
	for (int i = 0; i < LINES; i++)
		msg_info("%0*d", DIGITS, *(int *)ctx);
	return NULL;
}

static void a_text_arrives_as_it_is(void **state)
{
	msg_text("a\t1\nb\t2\nand more", 8);
	assert_string_equal(heard(*state), "a\t1\nb\t2\n");
}

/* Several threads, a pipe that fills up, and a writer that may not block. */
static void a_reader_that_takes_nothing_holds_nobody_up(void **state)
{
	static const char table[10000] = "a table";
	time_t start = time(NULL);
	const char *text;

	for (unsigned i = 0; i < 5000; i++)
		msg_warn("a guest can cause lines like this one again and again");
	for (unsigned i = 0; i < 5; i++)
		msg_text(table, sizeof(table));
	assert_true(time(NULL) - start < 5);
	text = heard(*state);
	assert_true(strlen(text) > 4096);
	assert_memory_equal(text, "granule: warning: a guest", 25);
}

static uint64_t ms_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void *warn(void *ctx)
{
	(void)ctx;
	msg_warn("this one waits for the reader");
	return NULL;
}

/* Its callers hold the mediator's lock: neither the reader nor another thread's line holds it up.
 */
static void a_moment_waits_for_nobody(void **state)
{
	struct pipe_end *p = *state;
	unsigned nr = 0; /* bytes in the pipe: its room is the host's page times 16 */
	pthread_t thread;
	uint64_t start;
	char byte;

	msg_verbose(true);
	msg_notable("first");
	while (read(p->fd[0], &byte, 1) == 1 && byte != '\n') /* and nobody has stalled */
		;
	fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
	while (write(STDERR_FILENO, "x", 1) == 1)
		nr++;
	start = ms_now();
	for (unsigned i = 0; i < 5; i++)
		msg_notable("nobody reads");
	assert_true(ms_now() - start < 500);
	assert_int_equal(pthread_create(&thread, NULL, warn, NULL), 0);
	usleep(100000);
	start = ms_now();
	msg_notable("nobody reads, and another waits");
	assert_true(ms_now() - start < 500);
	pthread_join(thread, NULL);
	while (nr--)
		assert_int_equal(read(p->fd[0], &byte, 1), 1);
	msg_notable("again");
	msg_verbose(false);
	assert_string_equal(heard(p),
			    "granule: moments left out, for standard error took no more: 6\n"
			    "granule: again\n");
}

static void lines_of_many_threads_stay_whole(void **state)
{
	struct pipe_end *p = *state;
	pthread_t threads[THREADS];
	int ids[THREADS], count[THREADS] = {0};

	fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < THREADS; i++) {
		ids[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, talk, &ids[i]), 0);
	}
	while (p->len < THREADS * LINES * (9 + DIGITS + 1)) {
		ssize_t n = read(p->fd[0], p->text + p->len, 1000);

		assert_true(n > 0);
		p->len += (size_t)n;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	heard(p);
	for (char *line = strtok(p->text, "\n"); line; line = strtok(NULL, "\n")) {
		int id;

		assert_int_equal(strlen(line), 9 + DIGITS);
		assert_int_equal(sscanf(line, "granule: %d", &id), 1);
		assert_true(id >= 0 && id < THREADS);
		count[id]++;
	}
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(count[i], LINES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(every_line_names_the_program),
		TEST(a_raw_terminal_gets_carriage_returns),
		TEST(a_message_stays_one_line),
		TEST(a_long_message_is_cut_and_still_ends),
		TEST(errno_survives),
		TEST(a_text_arrives_as_it_is),
		TEST(a_moment_waits_for_nobody),
		TEST(a_reader_that_takes_nothing_holds_nobody_up),
		TEST(lines_of_many_threads_stay_whole),
	};

	alarm(120); /* what should have been refused may wait for ever */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
