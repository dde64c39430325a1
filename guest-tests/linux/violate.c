/* SPDX-License-Identifier: Apache-2.0 */
/*
 * violate PID NAME - make the thread NAME of process PID call ptrace(2), which no sandbox allows:
 * stops it at a system call of its own and sends it there with another number. Ends with 0 once the
 * process is gone, 1 if it lives on, 2 if it cannot be done.
 */
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SVC   0xd4000001u
#define TRIES 20000 /* of 1 ms */

static void rest(void)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	nanosleep(&ms, NULL);
}

/* Has /proc/PID/task/TID/FILE this line? */
static bool has_line(int pid, int tid, const char *file, const char *want)
{
	char path[64], line[128];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, file);
	f = fopen(path, "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = !strcmp(line, want);
	if (f)
		fclose(f);
	return found;
}

/* The thread of that name, once it is confined. Return: its number; 0. */
static int find(int pid, const char *name)
{
	char path[32], want[32];
	struct dirent *entry;
	int found = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	snprintf(want, sizeof(want), "%s\n", name);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		int tid = atoi(entry->d_name);

		if (tid && has_line(pid, tid, "comm", want) &&
		    has_line(pid, tid, "status", "Seccomp:\t2\n"))
			found = tid;
	}
	if (dir)
		closedir(dir);
	return found;
}

static uint32_t word_at(int mem, uint64_t addr)
{
	uint32_t word = 0;

	return pread(mem, &word, sizeof(word), (off_t)addr) == sizeof(word) ? word : 0;
}

/* It is stopped: send it into the call, if it is at one. */
static bool redirect(int tid, int mem)
{
	struct user_regs_struct regs;
	struct iovec iov = {&regs, sizeof(regs)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov))
		return false;
	if (word_at(mem, regs.pc) != SVC) {
		regs.pc -= 4;
		if (word_at(mem, regs.pc) != SVC)
			return false;
	}
	regs.regs[8] = SYS_ptrace;
	regs.regs[0] = PTRACE_TRACEME;
	return !ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov);
}

int main(int argc, char **argv)
{
	int pid = argc == 3 ? atoi(argv[1]) : 0, tid = 0, mem, status;
	char path[32];
	bool sent = false;

	for (int i = 0; pid && !tid && i < TRIES; i++) {
		tid = find(pid, argv[2]);
		rest();
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDONLY);
	if (!tid || mem < 0 || ptrace(PTRACE_SEIZE, tid, 0, 0)) {
		fprintf(stderr, "violate: no thread %s to stop\n", argc == 3 ? argv[2] : "");
		return 2;
	}
	for (int i = 0; !sent && i < TRIES; i++) {
		if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) || waitpid(tid, &status, __WALL) != tid ||
		    !WIFSTOPPED(status))
			return 2;
		/* A signal of its own on the way there. */
		if (status >> 16 == PTRACE_EVENT_STOP)
			sent = redirect(tid, mem);
		ptrace(PTRACE_CONT, tid, 0, status >> 16 ? 0 : WSTOPSIG(status));
		if (!sent)
			rest();
	}
	/* Whatever signal comes is its own to handle. */
	while (sent && waitpid(tid, &status, __WALL) == tid) {
		if (!WIFSTOPPED(status))
			return 0;
		ptrace(PTRACE_CONT, tid, 0, status >> 16 ? 0 : WSTOPSIG(status));
	}
	return sent ? 1 : 2;
}
