/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hangup SECONDS COMMAND [ARG]... - run COMMAND on a terminal of its own and take the terminal away
 * after SECONDS. Exit status: COMMAND's, 128 + n if signal n ended it, 124 if it does not end within
 * 10 s of that, 125 if it ended before, 126 if it could not be run.
 */
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads and drops what it prints, so that it is not the full terminal that ends it. */
static void drain_until(int fd, long end)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	char buf[4096];
	long left;

	while ((left = end - now_ms()) > 0) {
		if (poll(&pfd, 1, (int)left) > 0 && read(fd, buf, sizeof(buf)) <= 0)
			return;
	}
}

int main(int argc, char **argv)
{
	int master, status;
	pid_t child;

	if (argc < 3)
		return 126;
	child = forkpty(&master, NULL, NULL, NULL);
	if (child < 0)
		return 126;
	if (!child) {
		execvp(argv[2], argv + 2);
		_exit(126);
	}
	drain_until(master, now_ms() + atol(argv[1]) * 1000);
	if (waitpid(child, &status, WNOHANG) == child)
		return 125;
	close(master);
	for (long end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(20000)) {
		if (waitpid(child, &status, WNOHANG) == child)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	}
	kill(child, SIGKILL);
	return 124;
}
