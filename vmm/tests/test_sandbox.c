/* SPDX-License-Identifier: Apache-2.0 */
/* Each case is a child of its own: what enters the sandbox does not come back. */
#include "iommu/tests/check.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/sandbox.h"

/* The machine's in this test: nobody's else. */
#define OF_VCPU 0x5101u
#define OF_LOOP 0x5102u
#define OF_BOTH 0x5103u

#ifdef __SANITIZE_ADDRESS__
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

#define PASSED 42 /* a child's status when its call came back */

static char dir[] = "/tmp/test_sandbox.XXXXXX";
static int fds[2]; /* a pipe */
static char said[1024];
static void (*prelude)(void); /* in the child, before it prepares */

static const uint32_t loop_ioctls[] = {OF_LOOP, OF_BOTH, 0};
static const uint32_t vcpu_ioctls[] = {OF_VCPU, OF_BOTH, 0};
static const struct sandbox_cfg bare = {
	.ioctls = {[SANDBOX_LOOP] = loop_ioctls, [SANDBOX_VCPU] = vcpu_ioctls},
};

/* Within the sandbox: a sanitizer's _exit() makes calls of its own, and so does a call of what does
 * not return. */
static void quit(int status)
{
	syscall(SYS_exit_group, status);
}

/* Run @fn as a thread of @kind. Return: its exit status, or 256 + a signal; stderr is in said. */
static int run(const struct sandbox_cfg *cfg, enum sandbox_thread kind, void (*fn)(void))
{
	size_t len = 0;
	ssize_t n;
	int err[2], status;
	pid_t pid;

	assert_int_equal(pipe(err), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(err[1], STDERR_FILENO);
		if (prelude)
			prelude();
		if (sandbox_prepare(cfg))
			_exit(1);
		sandbox_enter(kind);
		fn();
		quit(PASSED);
	}
	close(err[1]);
	while ((n = read(err[0], said + len, sizeof(said) - 1 - len)) > 0)
		len += (size_t)n;
	said[len] = '\0';
	close(err[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Each kind must be stopped, by name, but those of @allowed. */
static void check(const char *name, void (*fn)(void), unsigned allowed)
{
	static const char *const names[] = {"main thread", "vCPU's thread", "simulated NVMe's",
					    "simulated edu's", "trace's thread"};

	for (unsigned kind = 0; kind < NR_SANDBOX_THREADS; kind++) {
		int status = run(&bare, (enum sandbox_thread)kind, fn);
		bool may = allowed & BIT(kind);

		if (status != (may ? PASSED : EXIT_SANDBOX))
			fail_msg("%s of kind %u: status %d: %s", name, kind, status, said);
		if (may)
			continue;
		/* One line, with the thread and the call in it. */
		if (!strstr(said, names[kind]) || !strstr(said, name) ||
		    strchr(said, '\n') != said + strlen(said) - 1)
			fail_msg("%s of kind %u says: %s", name, kind, said);
	}
}

#define LOOP  BIT(SANDBOX_LOOP)
#define VCPU  BIT(SANDBOX_VCPU)
#define NVME  BIT(SANDBOX_NVME)
#define TRACE BIT(SANDBOX_TRACE)
#define ALL   (BIT(NR_SANDBOX_THREADS) - 1)

/* ---- what nobody may ------------------------------------------------------------------------- */

#define CALL(name, ...)                                                                            \
	static void do_##name(void)                                                                \
	{                                                                                          \
		syscall(SYS_##name, __VA_ARGS__);                                                  \
	}

CALL(execve, "/bin/true", NULL, NULL)
CALL(execveat, AT_FDCWD, "/bin/true", NULL, NULL, 0)
CALL(openat, AT_FDCWD, "/dev/null", O_RDONLY)
CALL(openat2, AT_FDCWD, "/dev/null", NULL, 0)
CALL(socket, AF_UNIX, SOCK_STREAM, 0)
CALL(connect, 1, NULL, 0)
CALL(bind, 1, NULL, 0)
CALL(sendmsg, 1, NULL, 0)
CALL(ptrace, PTRACE_TRACEME, 0, 0, 0)
CALL(process_vm_readv, 1, NULL, 0, NULL, 0, 0)
CALL(process_vm_writev, 1, NULL, 0, NULL, 0, 0)
CALL(clone, SIGCHLD, 0, 0, 0, 0)
CALL(clone3, NULL, 0)
CALL(kill, 1, 0)
CALL(prctl, PR_SET_NAME, "x")
CALL(seccomp, 0, 0, NULL)
CALL(rt_sigaction, SIGSYS, NULL, NULL, 8)
CALL(sigaltstack, NULL, NULL)
CALL(mprotect, 0, 0, PROT_READ | PROT_WRITE | PROT_EXEC)
CALL(pkey_mprotect, 0, 0, 0, 0)
CALL(memfd_create, "x", 0)
CALL(io_uring_setup, 1, NULL)
CALL(io_uring_register, -1, 0, NULL, 0)
CALL(bpf, 0, NULL, 0)
CALL(perf_event_open, NULL, 0, -1, -1, 0)
CALL(userfaultfd, 0)
CALL(keyctl, 0, 0)
CALL(unshare, CLONE_NEWUSER)
CALL(setns, -1, 0)
CALL(mount, NULL, NULL, NULL, 0, NULL)
CALL(chroot, "/")
CALL(setuid, 0)
CALL(setrlimit, RLIMIT_CORE, NULL)
CALL(prlimit64, 0, RLIMIT_CORE, NULL, NULL)
CALL(capset, NULL, NULL)
CALL(unlinkat, AT_FDCWD, "/nonexistent", 0)
CALL(renameat2, AT_FDCWD, "/nonexistent", AT_FDCWD, "/nonexistent", 0)
CALL(linkat, AT_FDCWD, "/nonexistent", AT_FDCWD, "/nonexistent", 0)
CALL(fchmodat, AT_FDCWD, "/nonexistent", 0)
CALL(fchmod, -1, 0)
CALL(fcntl, 0, F_SETFL, 0)
CALL(dup3, 0, 5, 0)
CALL(accept4, -1, NULL, NULL, 0)
CALL(recvfrom, -1, NULL, 0, 0, NULL, NULL)
CALL(pidfd_open, 1, 0)
CALL(eventfd2, 0, 0)
CALL(shmat, 0, NULL, 0)
CALL(personality, 0)
CALL(finit_module, -1, "", 0)
CALL(reboot, 0, 0, 0, NULL)

static void nobody_may(void **state)
{
	(void)state;
#define NOBODY(name) check(#name, do_##name, 0)
	NOBODY(execve);
	NOBODY(execveat);
	NOBODY(openat);
	NOBODY(openat2);
	NOBODY(socket);
	NOBODY(connect);
	NOBODY(bind);
	NOBODY(sendmsg);
	NOBODY(ptrace);
	NOBODY(process_vm_readv);
	NOBODY(process_vm_writev);
	NOBODY(clone);
	NOBODY(clone3);
	NOBODY(kill);
	NOBODY(prctl);
	NOBODY(seccomp);
	NOBODY(rt_sigaction);
	NOBODY(sigaltstack);
	NOBODY(mprotect);
	NOBODY(pkey_mprotect);
	NOBODY(memfd_create);
	NOBODY(io_uring_setup);
	NOBODY(io_uring_register);
	NOBODY(bpf);
	NOBODY(perf_event_open);
	NOBODY(userfaultfd);
	NOBODY(keyctl);
	NOBODY(unshare);
	NOBODY(setns);
	NOBODY(mount);
	NOBODY(chroot);
	NOBODY(setuid);
	NOBODY(setrlimit);
	NOBODY(prlimit64);
	NOBODY(capset);
	NOBODY(unlinkat);
	NOBODY(renameat2);
	NOBODY(linkat);
	NOBODY(fchmodat);
	NOBODY(fchmod);
	NOBODY(fcntl);
	NOBODY(dup3);
	NOBODY(accept4);
	NOBODY(recvfrom);
	NOBODY(pidfd_open);
	NOBODY(eventfd2);
	NOBODY(shmat);
	NOBODY(personality);
	NOBODY(finit_module);
	NOBODY(reboot);
}

static void map_code(void)
{
	syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void map_file(void)
{
	syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, fds[0], 0);
}

static void give_up_bus_errors(void)
{
	signal(SIGBUS, SIG_DFL);
}

static void read_by_path(void)
{
	struct stat st;

	syscall(SYS_newfstatat, AT_FDCWD, "/etc", &st, 0);
}

static void arguments_count(void **state)
{
	(void)state;
	check("mmap", map_code, 0);
	check("mmap", map_file, 0);
	check("newfstatat", read_by_path, 0);
	check("rt_sigaction", give_up_bus_errors, ALL);
}

static pid_t parent;

static void signal_parent(void)
{
	syscall(SYS_tgkill, parent, parent, 0);
}

static void signals_stay_in_the_process(void **state)
{
	(void)state;
	parent = getpid();
	check("tgkill", signal_parent, 0);
}

/* ---- ioctls ---------------------------------------------------------------------------------- */

static unsigned long request;

static void do_ioctl(void)
{
	if (ioctl(fds[0], request, NULL) == 0 || (errno != ENOTTY && errno != EFAULT))
		quit(1);
}

static void each_kind_has_its_own_ioctls(void **state)
{
	static const struct {
		unsigned long request;
		unsigned allowed;
	} rows[] = {
		{OF_VCPU, VCPU},
		{OF_LOOP, LOOP},
		{OF_BOTH, LOOP | VCPU},
		{VFIO_IOMMU_MAP_DMA, LOOP | VCPU},
		{VFIO_DEVICE_PCI_HOT_RESET, LOOP | VCPU}, /* the number of VFIO_IOMMU_MAP_DMA */
		{VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, LOOP},
		{VFIO_SET_IOMMU, 0},
		{VFIO_GROUP_GET_DEVICE_FD, 0},
		{TUNSETOFFLOAD, LOOP | VCPU},
		{TUNSETIFF, 0},
		{TCSETS, ALL},
		{TIOCSTI, 0},
		{TIOCLINUX, 0},
		{FIONBIO, 0},
		/* a higher half is none to the kernel, so it is none to the filter */
		{OF_VCPU | UINT64_C(0xffffffff00000000), VCPU},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		request = rows[i].request;
		check("ioctl", do_ioctl, rows[i].allowed);
	}
}

/* ---- what each kind does all day ------------------------------------------------------------- */

static void use_memory(void)
{
	char *blocks[512];
	char *big;

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++) {
			blocks[i] = malloc(997 * (i + 1));
			memset(blocks[i], 1, 997 * (i + 1));
		}
		for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
			free(blocks[(i * 7) % ARRAY_SIZE(blocks)]);
	}
	big = malloc(1 << 20);
	big = realloc(big, 8 << 20);
	memset(big, 1, 8 << 20);
	free(big);
	big = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (big == MAP_FAILED || madvise(big, 1 << 20, MADV_DONTNEED) || munmap(big, 1 << 20))
		quit(1);
}

static void on_signal(int sig)
{
	(void)sig;
}

static void work(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	const struct timespec moment = {.tv_nsec = 1000};
	struct pollfd pfd = {.fd = fds[1], .events = POLLOUT};
	struct timespec now;
	sigset_t set;

	use_memory();
	clock_gettime(CLOCK_REALTIME, &now);
	pthread_mutex_lock(&lock);
	pthread_cond_timedwait(&cond, &lock, &now);
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
	sigemptyset(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	nanosleep(&moment, NULL);
	sched_yield();
	if (poll(&pfd, 1, 0) != 1 || write(fds[1], "x", 1) != 1)
		quit(1);
	pthread_kill(pthread_self(), SIGUSR1);
	fprintf(stderr, "%d %s %g\n", 1, strerror(ENOENT), 1.5);
}

static void daily_work_is_allowed(void **state)
{
	struct sigaction action = {.sa_handler = on_signal};

	(void)state;
	sigaction(SIGUSR1, &action, NULL);
	for (unsigned kind = 0; kind < NR_SANDBOX_THREADS; kind++) {
		int status = run(&bare, (enum sandbox_thread)kind, work);

		if (status != PASSED)
			fail_msg("kind %u: status %d: %s", kind, status, said);
	}
}

static void do_abort(void)
{
	abort();
}

static void fail_an_assertion(void)
{
	assert(fds[0] < 0);
}

/* As when malloc() finds its lists spoiled. */
static void die_of_glibc(void)
{
	static char *volatile block;

	block = malloc(100000);
	free(block - 16);
}

static void what_aborts_says_why(void **state)
{
	(void)state;
	if (IS_SANITIZED)
		skip(); /* it has handlers of its own for what aborts */
	for (unsigned kind = 0; kind < NR_SANDBOX_THREADS; kind++) {
		enum sandbox_thread thread = (enum sandbox_thread)kind;

		assert_int_equal(run(&bare, thread, do_abort), 256 + SIGABRT);
		assert_int_equal(run(&bare, thread, fail_an_assertion), 256 + SIGABRT);
		assert_non_null(strstr(said, "fds[0] < 0"));
		assert_int_equal(run(&bare, thread, die_of_glibc), 256 + SIGABRT);
		if (!strstr(said, "invalid"))
			fail_msg("%s", said);
	}
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *violate(void *ctx)
{
	sigset_t all;

	(void)ctx;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sandbox_enter(SANDBOX_NVME);
	do_execve();
	return NULL;
}

/* As when a device's thread has all signals blocked, and others sleep. */
static void one_thread_ends_them_all(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (!pid) {
		pthread_t thread;

		close(STDERR_FILENO);
		if (sandbox_prepare(&bare) || pthread_create(&thread, NULL, violate, NULL))
			quit(1);
		sandbox_enter(SANDBOX_LOOP);
		pthread_join(thread, NULL);
		quit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), EXIT_SANDBOX);
}

static void *enter_and_end(void *ctx)
{
	(void)ctx;
	sandbox_enter(SANDBOX_VCPU);
	use_memory();
	return NULL;
}

static void threads_end_within_it(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	if (IS_SANITIZED)
		skip(); /* it makes calls of its own when a thread ends */
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		pthread_t threads[4];

		if (sandbox_prepare(&bare))
			quit(1);
		for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
			if (pthread_create(&threads[i], NULL, enter_and_end, NULL))
				quit(1);
		sandbox_enter(SANDBOX_LOOP);
		for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
			pthread_join(threads[i], NULL);
		quit(PASSED);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), PASSED);
}

/* ---- privileges and paths -------------------------------------------------------------------- */

/* What the kernel says of a thread is not to be read from inside: its parent does. */
static void capabilities_are_gone(void **state)
{
	static const char *const sets[] = {"CapInh:", "CapPrm:", "CapEff:", "CapAmb:"};
	char path[64], line[128];
	unsigned seen = 0;
	int status, wake[2];
	FILE *file;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(wake), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		char byte;

		if (sandbox_prepare(&bare))
			quit(1);
		sandbox_enter(SANDBOX_LOOP);
		if (write(wake[1], "x", 1) != 1 || read(fds[0], &byte, 1) < 0)
			quit(1);
		quit(PASSED);
	}
	assert_int_equal(read(wake[0], line, 1), 1);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
			if (!strncmp(line, sets[i], strlen(sets[i]))) {
				assert_true(strtoull(line + strlen(sets[i]), NULL, 16) == 0);
				seen++;
			}
		if (!strncmp(line, "NoNewPrivs:", 11)) {
			assert_int_equal(atoi(line + 11), 1);
			seen++;
		}
		if (!strncmp(line, "Seccomp:", 8)) {
			assert_int_equal(atoi(line + 8), 2);
			seen++;
		}
	}
	fclose(file);
	assert_int_equal(seen, ARRAY_SIZE(sets) + 2);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), PASSED);
	close(wake[0]);
	close(wake[1]);
}

static char inside[64], other[64], beside[64];

static void replace_files(void)
{
	if (rename(beside, inside) || unlink(inside))
		quit(1);
	/* with Landlock these fail; without, they would not, and the warning said so */
	if (!rename(other, inside) || !unlink(other))
		quit(2);
}

static void make(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void only_named_directories_change(void **state)
{
	struct sandbox_cfg cfg = bare;
	char sub[64];
	int status;

	(void)state;
	snprintf(sub, sizeof(sub), "%s/sub", dir);
	snprintf(inside, sizeof(inside), "%s/sub/stats.json", dir);
	snprintf(beside, sizeof(beside), "%s/sub/stats.json.temp", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	assert_int_equal(mkdir(sub, 0700), 0);
	make(beside);
	make(other);
	cfg.files[1] = inside;
	status = run(&cfg, SANDBOX_LOOP, replace_files);
	if (status == 2 && strstr(said, "no Landlock")) {
		print_message("this kernel has no Landlock\n");
		return;
	}
	assert_int_equal(status, PASSED);
	assert_int_equal(access(other, F_OK), 0);
	/* and a vCPU never */
	assert_int_equal(run(&cfg, SANDBOX_VCPU, do_unlinkat), EXIT_SANDBOX);
}

static void accept_one(void)
{
	accept4(-1, NULL, NULL, 0);
	recv(-1, NULL, 0, 0);
	send(-1, NULL, 0, 0);
}

CALL(io_uring_enter, -1, 0, 0, 0, NULL)
CALL(getrandom, NULL, 0, 0)
CALL(timerfd_settime, -1, 0, NULL, NULL)
CALL(close, -1)
CALL(pread64, -1, NULL, 0, 0)
CALL(pwrite64, -1, NULL, 0, 0)
CALL(ftruncate, -1, 0)
CALL(read, -1, NULL, 0)

static void each_kind_has_its_own_calls(void **state)
{
	(void)state;
	check("io_uring_enter", do_io_uring_enter, LOOP | NVME);
	check("getrandom", do_getrandom, LOOP);
	check("timerfd_settime", do_timerfd_settime, LOOP);
	check("close", do_close, LOOP);
	check("pread64", do_pread64, LOOP | VCPU);
	check("pwrite64", do_pwrite64, LOOP | VCPU);
	check("ftruncate", do_ftruncate, TRACE);
	check("read", do_read, LOOP | TRACE);
}

static void a_loop_with_a_socket_answers(void **state)
{
	struct sandbox_cfg cfg = bare;

	(void)state;
	cfg.socket = true;
	assert_int_equal(run(&cfg, SANDBOX_LOOP, accept_one), PASSED);
	assert_int_equal(run(&cfg, SANDBOX_LOOP, do_socket), EXIT_SANDBOX);
	assert_int_equal(run(&cfg, SANDBOX_VCPU, do_accept4), EXIT_SANDBOX);
}

/* ---- a host without memory --------------------------------------------------------------------
 */

#define MUCH (64u << 20) /* bytes; less is free in the heap */

static size_t heap_room;  /* bytes that are free in the heap */
static rlim_t space_room; /* and by which it may grow */

static rlim_t address_space(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%lu", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	return pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* As much, and no more. */
static void leave_room(void)
{
	struct rlimit limit = {address_space(), RLIM_INFINITY};
	void *volatile kept, *volatile block; /* no compiler may see that they are not used */

	mallopt(M_MMAP_MAX, 0);
	block = malloc(heap_room);
	if (setrlimit(RLIMIT_AS, &limit))
		quit(3);
	for (size_t len = 65536, taken = 0; len; len /= 2) {
		do {
			kept = malloc(len);
			taken += len;
		} while (kept && taken < MUCH);
		if (kept)
			quit(4); /* this host keeps no such limit */
	}
	free(block);
	limit.rlim_cur += space_room;
	if (setrlimit(RLIMIT_AS, &limit))
		quit(3);
}

CALL(getpid, 0)

static void violate_by_name(void)
{
	syscall(SYS_sched_yield);
	do_ptrace();
}

static void want_of_memory_is_refused_before(void **state)
{
	(void)state;
	if (IS_SANITIZED)
		skip(); /* its heap is another one */
	prelude = leave_room;
	for (heap_room = 0; heap_room < 120 << 10; heap_room += 1 << 10) {
		int status = run(&bare, SANDBOX_VCPU, violate_by_name);

		if (status != EXIT_FAILED ||
		    strcmp(said,
			   "granule: sandbox: it cannot be set up: Cannot allocate memory\n") != 0)
			fail_msg("with %zu bytes: status %d: %s", heap_room, status, said);
	}
	space_room = 4 << 20;
	assert_int_equal(run(&bare, SANDBOX_VCPU, violate_by_name), EXIT_SANDBOX);
	assert_non_null(strstr(said, "ptrace("));
	prelude = NULL;
}

/* For the rule set; none is left for a directory. */
static void leave_one_descriptor(void)
{
	struct rlimit limit;
	int fd = dup(STDERR_FILENO);

	if (fd < 0 || close(fd) || getrlimit(RLIMIT_NOFILE, &limit))
		quit(3);
	limit.rlim_cur = (rlim_t)fd + 1;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		quit(3);
}

static void a_directory_that_cannot_be_allowed_is_no_success(void **state)
{
	struct sandbox_cfg cfg = bare;
	char file[64];
	int status;

	(void)state;
	snprintf(file, sizeof(file), "%s/stats.json", dir);
	cfg.files[0] = file;
	prelude = leave_one_descriptor;
	status = run(&cfg, SANDBOX_LOOP, do_getpid);
	prelude = NULL;
	if (strstr(said, "no Landlock")) {
		print_message("this kernel has no Landlock\n");
		return;
	}
	assert_int_equal(status, EXIT_FAILED);
	assert_string_equal(said, "granule: sandbox: it cannot be set up: Too many open files\n");
	/* One that is not there is no matter of the sandbox. */
	snprintf(file, sizeof(file), "%s/nowhere/stats.json", dir);
	assert_int_equal(run(&cfg, SANDBOX_LOOP, do_getpid), PASSED);
}

/* What libseccomp hands out comes through a file; here with one instruction changed. */
static unsigned spoilt; /* 2, 3...: the first one loads; 0: none */

static bool (*spoil)(struct sock_filter *insn); /* false: it might mean the same */

static bool spoil_comparison(struct sock_filter *insn)
{
	insn->k ^= BIT(3);
	return insn->code == (BPF_JMP | BPF_JEQ | BPF_K) && ~insn->k != BIT(3);
}

/* Only where it must not mean the same: there are numbers beside this one that nobody may, and the
 * architecture and an argument's higher half count. */
static bool spoil_branch(struct sock_filter *insn)
{
	const unsigned loaded = insn[-1].code == (BPF_LD | BPF_W | BPF_ABS) ? insn[-1].k : 0;

	insn->jf = insn->jt;
	return insn->code == (BPF_JMP | BPF_JEQ | BPF_K) &&
	       (insn->k == SYS_exit_group || loaded == offsetof(struct seccomp_data, arch) ||
		loaded == offsetof(struct seccomp_data, args) + sizeof(uint32_t));
}

static bool spoil_mask(struct sock_filter *insn)
{
	insn->k = UINT32_MAX;
	return insn->code == (BPF_ALU | BPF_AND | BPF_K);
}

static bool spoil_action(struct sock_filter *insn)
{
	insn->k ^= SECCOMP_RET_ALLOW ^ SECCOMP_RET_TRAP;
	return insn->code == (BPF_RET | BPF_K);
}

ssize_t __real_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off)
{
	static unsigned nr_filters;
	ssize_t n = __real_pread(fd, buf, len, off);
	struct sock_filter *insns = buf;

	if (!spoilt || nr_filters++ != SANDBOX_VCPU)
		return n;
	if (spoilt > (size_t)n / sizeof(*insns) || !spoil(&insns[spoilt - 1]))
		quit(PASSED); /* nothing to spoil */
	return n;
}

static void a_filter_that_is_another_is_refused(void **state)
{
	static bool (*const ways[])(struct sock_filter * insn) = {
		spoil_comparison,
		spoil_branch,
		spoil_mask,
		spoil_action,
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(ways) * 128; i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid) {
			dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
			spoil = ways[i / 128];
			spoilt = 2 + i % 128;
			quit(sandbox_prepare(&bare) == -ENOMEM ? PASSED : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != PASSED)
			fail_msg("instruction %u, way %u", 2 + i % 128, i / 128);
	}
}

static void without_preparation_nothing_changes(void **state)
{
	int fd;

	(void)state;
	sandbox_enter(SANDBOX_EDU);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	close(fd);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) && !pipe(fds) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_may),
		cmocka_unit_test(arguments_count),
		cmocka_unit_test(signals_stay_in_the_process),
		cmocka_unit_test(each_kind_has_its_own_ioctls),
		cmocka_unit_test(each_kind_has_its_own_calls),
		cmocka_unit_test(daily_work_is_allowed),
		cmocka_unit_test(what_aborts_says_why),
		cmocka_unit_test(one_thread_ends_them_all),
		cmocka_unit_test(threads_end_within_it),
		cmocka_unit_test(capabilities_are_gone),
		cmocka_unit_test(only_named_directories_change),
		cmocka_unit_test(a_loop_with_a_socket_answers),
		cmocka_unit_test(want_of_memory_is_refused_before),
		cmocka_unit_test(a_directory_that_cannot_be_allowed_is_no_success),
		cmocka_unit_test(a_filter_that_is_another_is_refused),
		cmocka_unit_test(without_preparation_nothing_changes),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
