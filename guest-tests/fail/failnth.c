/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failnth - linked into granule-fail, and into nothing else: makes the nth call of a class fail.
 *
 * The linker's --wrap puts what is below between granule's own objects (and its static libraries)
 * and the functions that can fail. The environment says which call fails:
 *
 *     FAILNTH=CLASS:PHASE:N:ERRNO   e.g. ioctl:start:17:5
 *     FAILNTH_LOG=FILE              gets a line about the call that failed, and, at the end, lines
 *                                   `count CLASS PHASE N`: how many calls there were
 *
 * PHASE: `start` until the first vCPU is started, `run` until the event loop has ended, then
 * `exit`. What other threads do before that is `run` as well, so that `start` is the same calls
 * each time. A request on an io_uring fails before the kernel sees it: it becomes one that does
 * nothing, and its completion says ERRNO. close, munmap and free are not here: nobody could do
 * anything about those.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "virtio/uring.h"

enum class {
	CLASS_ALLOC,  /* malloc and its kind */
	CLASS_IOCTL,  /* all but KVM_RUN */
	CLASS_KVMRUN, /* KVM_RUN */
	CLASS_FILE,   /* open, read, write and what else there is to files */
	CLASS_FD,     /* eventfds, sockets, timers, io_urings */
	CLASS_MAP,    /* mmap, madvise */
	CLASS_THREAD, /* pthread_create */
	CLASS_URING, /* a request of an event loop's own on its io_uring: polls, timers, eventfds */
	CLASS_BLK,   /* one to a file, of a virtio-blk */
	CLASS_NVME,  /* one to a file, of a simulated NVMe */
	CLASS_SUBMIT, /* submitting to an io_uring, and waiting for it */
	NR_CLASSES,
};

enum phase { PHASE_START, PHASE_RUN, PHASE_EXIT, NR_PHASES };

static const char *const class_names[] = {"alloc",  "ioctl", "kvmrun", "file", "fd",	"map",
					  "thread", "uring", "blk",    "nvme", "submit"};
static const char *const phase_names[] = {"start", "run", "exit"};

static atomic_bool armed;
static bool aside; /* within libseccomp */
static atomic_int phase;
static atomic_uint counts[NR_CLASSES][NR_PHASES];
static int fail_class = -1, fail_phase, fail_errno;
static unsigned fail_nth;
static int log_fd = -1; /* opened at the start: later the sandbox would not have it */
static pthread_t main_thread;
static uint64_t failed_request;	     /* its user_data; 0: none */
static unsigned char is_event[1024]; /* eventfds */

/* Without anything that is wrapped. */
static void say(const char *fmt, ...)
{
	char line[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (log_fd >= 0)
		syscall(SYS_write, log_fd, line, n);
}

static int lookup(const char *word, size_t len, const char *const *names, int nr)
{
	for (int i = 0; i < nr; i++)
		if (strlen(names[i]) == len && !memcmp(names[i], word, len))
			return i;
	_exit(99);
}

__attribute__((constructor)) static void arm(void)
{
	const char *spec = getenv("FAILNTH"), *colon;

	main_thread = pthread_self();
	if (getenv("FAILNTH_LOG"))
		log_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("FAILNTH_LOG"),
				      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (spec) {
		colon = strchrnul(spec, ':');
		fail_class = lookup(spec, (size_t)(colon - spec), class_names, NR_CLASSES);
		spec = colon + (*colon != 0);
		colon = strchrnul(spec, ':');
		fail_phase = lookup(spec, (size_t)(colon - spec), phase_names, NR_PHASES);
		if (sscanf(colon, ":%u:%d", &fail_nth, &fail_errno) != 2)
			_exit(99);
	}
	atomic_store(&armed, true);
}

__attribute__((destructor)) static void report(void)
{
	atomic_store(&armed, false);
	for (int c = 0; c < NR_CLASSES; c++)
		for (int p = 0; p < NR_PHASES; p++)
			if (counts[c][p])
				say("count %s %s %u\n", class_names[c], phase_names[p],
				    (unsigned)counts[c][p]);
}

/* fails - count a call. Return: it is the one that fails. */
static bool fails(enum class class, const char *what, unsigned long detail, const void *caller)
{
	int saved = errno, now = phase;
	unsigned nth;

	if (!armed || aside)
		return false;
	if (now == PHASE_START && !pthread_equal(pthread_self(), main_thread))
		now = PHASE_RUN;
	nth = atomic_fetch_add(&counts[class][now], 1) + 1;
	if ((int)class != fail_class || now != fail_phase || nth != fail_nth)
		return false;
	say("failed %s %s %u: %s %#lx from %p\n", class_names[class], phase_names[now], nth, what,
	    detail, caller);
	errno = saved;
	return true;
}

#define FAILS(class, what, detail)                                                                 \
	(fails(class, what, (unsigned long)(detail), __builtin_return_address(0)) &&               \
	 (errno = fail_errno, true))

/* ---- the phases --------------------------------------------------------------------------------
 */

struct vcpu;
struct evloop;

int __real_vcpu_start(struct vcpu *vcpu);
int __wrap_vcpu_start(struct vcpu *vcpu);
int __wrap_vcpu_start(struct vcpu *vcpu)
{
	if (phase == PHASE_START)
		phase = PHASE_RUN;
	return __real_vcpu_start(vcpu);
}

/* Simulated devices have loops too, from the start; the machine's is the one that ends in this
 * phase first: theirs are stopped later. */
int __real_evloop_run(struct evloop *loop);
int __wrap_evloop_run(struct evloop *loop);
int __wrap_evloop_run(struct evloop *loop)
{
	int ret = __real_evloop_run(loop);

	if (phase == PHASE_RUN && pthread_equal(pthread_self(), main_thread))
		phase = PHASE_EXIT;
	return ret;
}

/* ---- memory ------------------------------------------------------------------------------------
 */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n)
{
	return FAILS(CLASS_ALLOC, "malloc", n) ? NULL : __real_malloc(n);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	return FAILS(CLASS_ALLOC, "calloc", n * size) ? NULL : __real_calloc(n, size);
}

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n)
{
	return FAILS(CLASS_ALLOC, "realloc", n) ? NULL : __real_realloc(p, n);
}

void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return FAILS(CLASS_ALLOC, "aligned_alloc", n) ? NULL : __real_aligned_alloc(align, n);
}

int __real_posix_memalign(void **p, size_t align, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n)
{
	return FAILS(CLASS_ALLOC, "posix_memalign", n) ? ENOMEM
						       : __real_posix_memalign(p, align, n);
}

char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
char *__wrap_strdup(const char *s)
{
	return FAILS(CLASS_ALLOC, "strdup", strlen(s)) ? NULL : __real_strdup(s);
}

void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	return FAILS(CLASS_MAP, "mmap", len) ? MAP_FAILED
					     : __real_mmap(at, len, prot, flags, fd, off);
}

int __real_madvise(void *at, size_t len, int advice);
int __wrap_madvise(void *at, size_t len, int advice);
int __wrap_madvise(void *at, size_t len, int advice)
{
	return FAILS(CLASS_MAP, "madvise", len) ? -1 : __real_madvise(at, len, advice);
}

/* What libseccomp takes has been set aside (vmm/sandbox.c): there it cannot fail, and must not.
 * Only the main thread calls these, when there is no other. */
#define ASIDE(type, name, params, args)                                                            \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		type ret;                                                                          \
                                                                                                   \
		aside = true;                                                                      \
		ret = __real_##name args;                                                          \
		aside = false;                                                                     \
		return ret;                                                                        \
	}

ASIDE(void *, seccomp_init, (uint32_t action), (action))
ASIDE(int, seccomp_rule_add_array,
      (void *ctx, uint32_t action, int nr, unsigned nr_args, const void *args),
      (ctx, action, nr, nr_args, args))
ASIDE(int, seccomp_export_bpf, (const void *ctx, int fd), (ctx, fd))

/* ---- descriptors -------------------------------------------------------------------------------
 */

int __real_ioctl(int fd, unsigned long req, unsigned long arg);
int __wrap_ioctl(int fd, unsigned long req, unsigned long arg);
int __wrap_ioctl(int fd, unsigned long req, unsigned long arg)
{
	if (FAILS(req == KVM_RUN ? CLASS_KVMRUN : CLASS_IOCTL, "ioctl", req))
		return -1;
	return __real_ioctl(fd, req, arg);
}

int __real_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags)
{
	int fd = FAILS(CLASS_FD, "eventfd", count) ? -1 : __real_eventfd(count, flags);

	if (fd >= 0 && fd < (int)sizeof(is_event))
		is_event[fd] = 1;
	return fd;
}

/* A function that returns -1 when it fails. */
#define WRAP(class, name, params, args)                                                            \
	int __real_##name params;                                                                  \
	int __wrap_##name params;                                                                  \
	int __wrap_##name params                                                                   \
	{                                                                                          \
		return FAILS(class, #name, 0) ? -1 : __real_##name args;                           \
	}

WRAP(CLASS_FD, signalfd, (int fd, const void *set, int flags), (fd, set, flags))
WRAP(CLASS_FD, timerfd_create, (int clock, int flags), (clock, flags))
WRAP(CLASS_FD, timerfd_settime, (int fd, int flags, const void *val, void *old),
     (fd, flags, val, old))
WRAP(CLASS_FD, socket, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(CLASS_FD, bind, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len))
WRAP(CLASS_FD, listen, (int fd, int backlog), (fd, backlog))
WRAP(CLASS_FD, accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags),
     (fd, addr, len, flags))
WRAP(CLASS_FILE, fstat, (int fd, struct stat *st), (fd, st))
WRAP(CLASS_FILE, mkostemp, (char *path, int flags), (path, flags))
WRAP(CLASS_FILE, rename, (const char *from, const char *to), (from, to))
WRAP(CLASS_FILE, ftruncate, (int fd, off_t len), (fd, len))
WRAP(CLASS_FILE, fchmod, (int fd, mode_t mode), (fd, mode))

/* Their mode or argument is passed on as it came. */
int __real_open(const char *path, int flags, unsigned mode);
int __wrap_open(const char *path, int flags, unsigned mode);
int __wrap_open(const char *path, int flags, unsigned mode)
{
	return FAILS(CLASS_FILE, path, flags) ? -1 : __real_open(path, flags, mode);
}

int __real_fcntl(int fd, int cmd, unsigned long arg);
int __wrap_fcntl(int fd, int cmd, unsigned long arg);
int __wrap_fcntl(int fd, int cmd, unsigned long arg)
{
	return FAILS(CLASS_FILE, "fcntl", cmd) ? -1 : __real_fcntl(fd, cmd, arg);
}

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode)
{
	return FAILS(CLASS_FILE, path, 0) ? NULL : __real_fopen(path, mode);
}

FILE *__real_fdopen(int fd, const char *mode);
FILE *__wrap_fdopen(int fd, const char *mode);
FILE *__wrap_fdopen(int fd, const char *mode)
{
	return FAILS(CLASS_FILE, "fdopen", 0) ? NULL : __real_fdopen(fd, mode);
}

ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	return FAILS(CLASS_FILE, "read", len) ? -1 : __real_read(fd, buf, len);
}

/* An eventfd takes what it is told, and messages have nobody else to go to. */
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	bool counts_not =
		fd == STDERR_FILENO || (fd >= 0 && fd < (int)sizeof(is_event) && is_event[fd]);

	return !counts_not && FAILS(CLASS_FILE, "write", len) ? -1 : __real_write(fd, buf, len);
}

ssize_t __real_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t off)
{
	return FAILS(CLASS_FILE, "pread", len) ? -1 : __real_pread(fd, buf, len, off);
}

ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return FAILS(CLASS_FILE, "pwrite", len) ? -1 : __real_pwrite(fd, buf, len, off);
}

ssize_t __real_readv(int fd, const struct iovec *iov, int nr);
ssize_t __wrap_readv(int fd, const struct iovec *iov, int nr);
ssize_t __wrap_readv(int fd, const struct iovec *iov, int nr)
{
	return FAILS(CLASS_FILE, "readv", nr) ? -1 : __real_readv(fd, iov, nr);
}

ssize_t __real_writev(int fd, const struct iovec *iov, int nr);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int nr);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int nr)
{
	return FAILS(CLASS_FILE, "writev", nr) ? -1 : __real_writev(fd, iov, nr);
}

/* ---- threads ------------------------------------------------------------------------------------
 */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg)
{
	return FAILS(CLASS_THREAD, "pthread_create", 0)
		       ? fail_errno
		       : __real_pthread_create(thread, attr, fn, arg);
}

/* ---- io_uring -----------------------------------------------------------------------------------
 */

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
				      struct io_uring_params *params)
{
	if (FAILS(CLASS_FD, "io_uring_queue_init_params", entries))
		return -fail_errno;
	return __real_io_uring_queue_init_params(entries, ring, params);
}

/* Return: the enum class of a request. */
static int class_of(const struct io_uring_sqe *sqe)
{
	switch (sqe->opcode) {
	case IORING_OP_READ:
		if (sqe->fd < (int)sizeof(is_event) && is_event[sqe->fd])
			return CLASS_URING;
		break;
	case IORING_OP_READV:
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
	case IORING_OP_FSYNC:
	case IORING_OP_FALLOCATE:
		break;
	default:
		return CLASS_URING;
	}
	return pthread_equal(pthread_self(), main_thread) ? CLASS_BLK : CLASS_NVME;
}

/* Those that are about to be submitted. Cancels are not counted: they are the answer to a failure.
 */
static void count_requests(struct io_uring *ring)
{
	for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++) {
		struct io_uring_sqe *sqe = &ring->sq.sqes[i & ring->sq.ring_mask];
		uint64_t user_data = sqe->user_data;

		if (!user_data || !FAILS((enum class)class_of(sqe), "request", sqe->opcode))
			continue;
		io_uring_prep_nop(sqe);
		sqe->user_data = user_data;
		__atomic_store_n(&failed_request, user_data, __ATOMIC_RELEASE);
	}
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (FAILS(CLASS_SUBMIT, "io_uring_submit", 0))
		return -fail_errno;
	count_requests(ring);
	return __real_io_uring_submit(ring);
}

int __real_io_uring_submit_and_wait(struct io_uring *ring, unsigned nr);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned nr);
int __wrap_io_uring_submit_and_wait(struct io_uring *ring, unsigned nr)
{
	if (FAILS(CLASS_SUBMIT, "io_uring_submit_and_wait", nr))
		return -fail_errno;
	count_requests(ring);
	return __real_io_uring_submit_and_wait(ring, nr);
}

void __real_uring_deliver(struct io_uring *ring, struct io_uring_cqe *cqe);
void __wrap_uring_deliver(struct io_uring *ring, struct io_uring_cqe *cqe);
void __wrap_uring_deliver(struct io_uring *ring, struct io_uring_cqe *cqe)
{
	if (cqe->user_data &&
	    cqe->user_data == __atomic_load_n(&failed_request, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(&failed_request, 0, __ATOMIC_RELEASE);
		cqe->res = -fail_errno;
	}
	__real_uring_deliver(ring, cqe);
}
