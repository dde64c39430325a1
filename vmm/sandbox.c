/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sandbox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <malloc.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <asm/termbits.h>
#include <ucontext.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/msg.h"
#include "vmm/term.h"

/* Memory for libseccomp: less than glibc would map for itself each time, and several times what it
 * takes. */
#define ASIDE_BLOCK  (64 * 1024)
#define ASIDE_BLOCKS 8

#define LOOP  BIT(SANDBOX_LOOP)
#define VCPU  BIT(SANDBOX_VCPU)
#define NVME  BIT(SANDBOX_NVME)
#define EDU   BIT(SANDBOX_EDU)
#define TRACE BIT(SANDBOX_TRACE)
#define ALL   (LOOP | VCPU | NVME | EDU | TRACE)

/* Not in Debian 12's <linux/capability.h>, or larger in later ones: the kernel refuses what it does
 * not know, and that ends the search. */
#define CAP_END 64

/* One more than the largest number a system call may have to be told by name. */
#define NR_NAMES 512

/* As many as a kind of thread has, and more. */
#define MAX_RULES 128

static const char *const thread_names[] = {
	[SANDBOX_LOOP] = "the main thread",	      [SANDBOX_VCPU] = "a vCPU's thread",
	[SANDBOX_NVME] = "a simulated NVMe's thread", [SANDBOX_EDU] = "a simulated edu's thread",
	[SANDBOX_TRACE] = "the trace's thread",
};

/* A system call of some kinds; with the arguments that @args demand, all of them. */
struct call {
	int nr;
	unsigned kinds;
	bool of_us; /* argument 0 is our process */
	unsigned nr_args;
	struct scmp_arg_cmp args[2];
};

/* One operation for all: of what datum_a has, datum_b is set. */
#define ARG_HAS(n, bits)   ((struct scmp_arg_cmp){n, SCMP_CMP_MASKED_EQ, bits, bits})
#define ARG_IS(n, value)   ((struct scmp_arg_cmp){n, SCMP_CMP_MASKED_EQ, UINT64_MAX, value})
#define ARG_LACKS(n, bits) ((struct scmp_arg_cmp){n, SCMP_CMP_MASKED_EQ, bits, 0})

static const struct call calls[] = {
	/* Locks, conditions, the ends of threads; time. */
	{.nr = SCMP_SYS(futex), .kinds = ALL},
	{.nr = SCMP_SYS(exit), .kinds = ALL},
	{.nr = SCMP_SYS(exit_group), .kinds = ALL},
	{.nr = SCMP_SYS(sched_yield), .kinds = ALL},
	{.nr = SCMP_SYS(clock_gettime), .kinds = ALL},
	{.nr = SCMP_SYS(clock_nanosleep), .kinds = ALL},
	{.nr = SCMP_SYS(restart_syscall), .kinds = ALL},
	/* Signals among our own threads: taking vCPUs out of the guest, and abort(). */
	{.nr = SCMP_SYS(rt_sigreturn), .kinds = ALL},
	{.nr = SCMP_SYS(rt_sigprocmask), .kinds = ALL},
	/* vmm/devmem, for a bus error that is no device's. */
	{.nr = SCMP_SYS(rt_sigaction), .kinds = ALL, .nr_args = 1, .args = {ARG_IS(0, SIGBUS)}},
	{.nr = SCMP_SYS(getpid), .kinds = ALL},
	{.nr = SCMP_SYS(gettid), .kinds = ALL},
	{.nr = SCMP_SYS(tgkill), .kinds = ALL, .of_us = true},
	/* Memory: malloc()'s, the pool's, stacks of threads that ended. Never any to run. */
	{.nr = SCMP_SYS(brk), .kinds = ALL},
	{.nr = SCMP_SYS(mmap),
	 .kinds = ALL,
	 .nr_args = 2,
	 .args = {ARG_LACKS(2, PROT_EXEC), ARG_HAS(3, MAP_ANONYMOUS)}},
	{.nr = SCMP_SYS(munmap), .kinds = ALL},
	{.nr = SCMP_SYS(mremap), .kinds = ALL},
	{.nr = SCMP_SYS(madvise), .kinds = ALL},
	/* Descriptors that are open: messages, eventfds, the terminal; no new ones. */
	{.nr = SCMP_SYS(write), .kinds = ALL},
	{.nr = SCMP_SYS(writev), .kinds = ALL}, /* glibc's last words */
	{.nr = SCMP_SYS(poll), .kinds = ALL},
	{.nr = SCMP_SYS(ppoll), .kinds = ALL},
	{.nr = SCMP_SYS(read), .kinds = LOOP | TRACE},
	/* Writing what was printed, at the end. */
	{.nr = SCMP_SYS(newfstatat),
	 .kinds = LOOP,
	 .nr_args = 1,
	 .args = {ARG_HAS(3, AT_EMPTY_PATH)}},
	{.nr = SCMP_SYS(fstat), .kinds = LOOP},
	{.nr = SCMP_SYS(lseek), .kinds = LOOP},
	{.nr = SCMP_SYS(close), .kinds = LOOP},
	{.nr = SCMP_SYS(ftruncate), .kinds = TRACE},
	/* Packets of a tap, straight to guest memory. */
	{.nr = SCMP_SYS(readv), .kinds = LOOP},
	/* Its registers and config space, of a passed-through device. */
	{.nr = SCMP_SYS(pread64), .kinds = LOOP | VCPU},
	{.nr = SCMP_SYS(pwrite64), .kinds = LOOP | VCPU},
	{.nr = SCMP_SYS(io_uring_enter), .kinds = LOOP | NVME},
	{.nr = SCMP_SYS(timerfd_settime), .kinds = LOOP},
	{.nr = SCMP_SYS(getrandom), .kinds = LOOP},
};

/* Those of a loop that answers `granule stat`. */
static const int socket_calls[] = {
	SCMP_SYS(accept4),
	SCMP_SYS(getsockopt),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
};

/* Those of a loop that replaces or removes files at the end. glibc makes the ones without "at" on
 * machines that have them. */
static const int file_calls[] = {
	SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2),
	SCMP_SYS(unlink), SCMP_SYS(unlinkat),
};

/* Besides the machine's. Of a terminal: putting it back, which any thread that crashes does. VFIO's
 * numbers mean one thing on a container and another on a device. */
static const struct {
	uint32_t request;
	unsigned kinds;
} ioctls[] = {
	{TCGETS, ALL},
	{TCSETS, ALL},
	{TCGETS2, ALL}, /* glibc's since 2.42 */
	{TCSETS2, ALL},
	{TIOCGWINSZ, LOOP},
	{TUNSETOFFLOAD, LOOP | VCPU},
	{VFIO_IOMMU_MAP_DMA, LOOP | VCPU},
	{VFIO_IOMMU_UNMAP_DMA, LOOP | VCPU},
	{VFIO_DEVICE_SET_IRQS, LOOP | VCPU},
	{VFIO_DEVICE_RESET, LOOP | VCPU},
	{VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, LOOP},
	{VFIO_DEVICE_PCI_HOT_RESET, LOOP},
};

static struct {
	bool on;
	pid_t pid;
	bool keeps_ipc_lock;
	int landlock_fd; /* a rule set; -1: the kernel has none */
	struct sock_fprog progs[NR_SANDBOX_THREADS];
	char *names[NR_NAMES]; /* of system calls; NULL: no such one */
} sandbox = {.landlock_fd = -1};

static __thread enum sandbox_thread own_kind;

/* ---- a violation ----------------------------------------------------------------------------- */

static size_t append(char *line, size_t len, size_t max, const char *text)
{
	while (*text && len < max)
		line[len++] = *text++;
	return len;
}

static size_t append_hex(char *line, size_t len, size_t max, uint64_t value)
{
	char digits[19] = "0x";
	unsigned n = 2;

	for (int shift = 60; shift >= 0; shift -= 4)
		if (value >> shift || !shift)
			digits[n++] = "0123456789abcdef"[value >> shift & 15];
	digits[n] = '\0';
	return append(line, len, max, digits);
}

/* Argument @i < 3 of the call that was stopped. */
static uint64_t argument(const ucontext_t *uc, unsigned i)
{
#if defined(__aarch64__)
	return uc->uc_mcontext.regs[i];
#elif defined(__x86_64__)
	static const int regs[] = {REG_RDI, REG_RSI, REG_RDX};

	return (uint64_t)uc->uc_mcontext.gregs[regs[i]];
#else
#error "which registers have a system call's arguments?"
#endif
}

/* The call was not made. Nothing here may take a lock: the thread may hold any. */
static void on_violation(int sig, siginfo_t *info, void *context)
{
	unsigned nr = (unsigned)info->si_syscall;
	const char *name = nr < NR_NAMES ? sandbox.names[nr] : NULL;
	char line[256];
	const size_t max = sizeof(line) - 1;
	size_t len = 0;

	(void)sig;
	term_restore();
	len = append(line, len, max, "granule: sandbox: ");
	len = append(line, len, max, thread_names[own_kind]);
	len = append(line, len, max, " made a system call that it may not: ");
	if (name)
		len = append(line, len, max, name);
	else
		len = append_hex(line, len, max, nr);
	for (unsigned i = 0; i < 3; i++) {
		len = append(line, len, max, i ? ", " : "(");
		len = append_hex(line, len, max, argument(context, i));
	}
	len = append(line, len, max, "); the guest is ended");
	line[len++] = '\n';
	/* Not write() and _exit(): what a sanitizer has put before them makes calls of its own. */
	syscall(SYS_write, STDERR_FILENO, line, len);
	syscall(SYS_exit_group, EXIT_SANDBOX);
}

static void name_calls(void)
{
	for (int nr = 0; nr < NR_NAMES; nr++)
		if (!sandbox.names[nr])
			sandbox.names[nr] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, nr);
}

/* ---- filters --------------------------------------------------------------------------------- */

/* A system call is allowed if one of its rules has all its @args. */
struct rule {
	int nr;
	unsigned nr_args;
	struct scmp_arg_cmp args[2];
};

struct rules {
	unsigned nr;
	struct rule rule[MAX_RULES];
};

/* libseccomp's number of a call that this machine has not is negative. */
static void add_rule(struct rules *rules, int nr, unsigned nr_args, const struct scmp_arg_cmp *args)
{
	struct rule *rule = &rules->rule[rules->nr];

	if (nr < 0)
		return;
	assert(rules->nr < MAX_RULES);
	rules->nr++;
	rule->nr = nr;
	rule->nr_args = nr_args;
	for (unsigned i = 0; i < nr_args; i++)
		rule->args[i] = args[i];
}

static void add_call(struct rules *rules, const struct call *call)
{
	struct scmp_arg_cmp pid = ARG_IS(0, (scmp_datum_t)sandbox.pid);

	if (call->of_us)
		add_rule(rules, call->nr, 1, &pid);
	else
		add_rule(rules, call->nr, call->nr_args, call->args);
}

/* The kernel looks at 32 bits of a request. */
static void add_ioctl(struct rules *rules, uint32_t request)
{
	struct scmp_arg_cmp is = {1, SCMP_CMP_MASKED_EQ, UINT32_MAX, request};

	add_rule(rules, SCMP_SYS(ioctl), 1, &is);
}

static void add_calls(struct rules *rules, const int *nrs, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		add_rule(rules, nrs[i], 0, NULL);
}

static void list_rules(struct rules *rules, enum sandbox_thread kind, const struct sandbox_cfg *cfg)
{
	const uint32_t *machine = cfg->ioctls[kind];

	rules->nr = 0;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (calls[i].kinds & BIT(kind))
			add_call(rules, &calls[i]);
	for (; machine && *machine; machine++)
		add_ioctl(rules, *machine);
	for (size_t i = 0; i < ARRAY_SIZE(ioctls); i++)
		if (ioctls[i].kinds & BIT(kind))
			add_ioctl(rules, ioctls[i].request);
	if (kind == SANDBOX_LOOP && cfg->socket)
		add_calls(rules, socket_calls, ARRAY_SIZE(socket_calls));
	if (kind == SANDBOX_LOOP && (cfg->files[0] || cfg->files[1]))
		add_calls(rules, file_calls, ARRAY_SIZE(file_calls));
}

/* The program for the kernel: libseccomp hands it out through a file. */
static int export(scmp_filter_ctx ctx, struct sock_fprog *prog)
{
	int fd = memfd_create("filter", MFD_CLOEXEC), ret;
	off_t len;

	if (fd < 0)
		return -errno;
	ret = seccomp_export_bpf(ctx, fd);
	len = lseek(fd, 0, SEEK_END);
	if (!ret && len <= 0)
		ret = -EIO;
	if (!ret)
		prog->filter = malloc((size_t)len);
	if (!ret && (!prog->filter || pread(fd, prog->filter, (size_t)len, 0) != len))
		ret = -ENOMEM;
	prog->len = (unsigned short)((size_t)len / sizeof(*prog->filter));
	close(fd);
	return ret;
}

/* What the kernel would do with the call @data, if it does what libseccomp's programs need: a
 * switch on numbers and arguments. Anything else is no program of ours. */
static uint32_t run_filter(const struct sock_fprog *prog, const struct seccomp_data *data)
{
	uint32_t value = 0;
	bool taken;

	for (size_t pc = 0; pc < prog->len; pc++) {
		const struct sock_filter *insn = &prog->filter[pc];

		switch (insn->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (insn->k > sizeof(*data) - sizeof(value))
				return SECCOMP_RET_KILL_PROCESS;
			memcpy(&value, (const uint8_t *)data + insn->k, sizeof(value));
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			value &= insn->k;
			continue;
		case BPF_RET | BPF_K:
			return insn->k;
		case BPF_JMP | BPF_JA:
			pc += insn->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			taken = value == insn->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			taken = value > insn->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			taken = value >= insn->k;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			taken = value & insn->k;
			break;
		default:
			return SECCOMP_RET_KILL_PROCESS;
		}
		pc += taken ? insn->jt : insn->jf;
	}
	return SECCOMP_RET_KILL_PROCESS;
}

static bool matches(const struct rule *rule, const struct seccomp_data *data)
{
	if (rule->nr != data->nr)
		return false;
	for (unsigned i = 0; i < rule->nr_args; i++)
		if ((data->args[rule->args[i].arg] & rule->args[i].datum_a) !=
		    rule->args[i].datum_b)
			return false;
	return true;
}

static bool agrees(const struct sock_fprog *prog, const struct rules *rules,
		   const struct seccomp_data *data)
{
	uint32_t action = SECCOMP_RET_TRAP;

	for (unsigned i = 0; i < rules->nr; i++)
		if (matches(&rules->rule[i], data))
			action = SECCOMP_RET_ALLOW;
	return run_filter(prog, data) == action;
}

/* @rule lets its call through, and with either end of what an argument is asked for changed none
 * that others do not; all other bits are @fill. */
static bool rule_agrees(const struct sock_fprog *prog, const struct rules *rules,
			const struct rule *rule, uint64_t fill)
{
	struct seccomp_data data = {.nr = rule->nr, .arch = seccomp_arch_native()};
	bool ok;

	for (unsigned i = 0; i < ARRAY_SIZE(data.args); i++)
		data.args[i] = fill;
	for (unsigned i = 0; i < rule->nr_args; i++) {
		const struct scmp_arg_cmp *is = &rule->args[i];

		data.args[is->arg] = (fill & ~is->datum_a) | is->datum_b;
	}
	ok = agrees(prog, rules, &data);
	for (unsigned i = 0; i < rule->nr_args && ok; i++) {
		const struct scmp_arg_cmp *is = &rule->args[i];
		const uint64_t ends[] = {is->datum_a & -is->datum_a,
					 BIT(63 - __builtin_clzll(is->datum_a))};

		for (unsigned end = 0; end < ARRAY_SIZE(ends) && ok; end++) {
			data.args[is->arg] ^= ends[end];
			ok = agrees(prog, rules, &data);
			data.args[is->arg] ^= ends[end];
		}
	}
	data.arch = ~data.arch;
	return ok && run_filter(prog, &data) == SECCOMP_RET_KILL_PROCESS;
}

/* is_whole - does @prog do what @rules say? */
static bool is_whole(const struct sock_fprog *prog, const struct rules *rules)
{
	struct seccomp_data data = {.arch = seccomp_arch_native()};
	bool ok = true;

	for (; data.nr < NR_NAMES && ok; data.nr++)
		ok = agrees(prog, rules, &data);
	for (unsigned i = 0; i < rules->nr && ok; i++)
		ok = rule_agrees(prog, rules, &rules->rule[i], 0) &&
		     rule_agrees(prog, rules, &rules->rule[i], UINT64_MAX);
	return ok;
}

static int build_filter(enum sandbox_thread kind, const struct sandbox_cfg *cfg)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	struct rules rules;
	int ret;

	if (!ctx)
		return -ENOMEM;
	list_rules(&rules, kind, cfg);
	/* Another machine's numbers (32-bit) are no calls of ours. */
	ret = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	/* A search tree, and not one comparison after the other. */
	if (!ret)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (unsigned i = 0; i < rules.nr && !ret; i++)
		ret = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, rules.rule[i].nr,
					     rules.rule[i].nr_args, rules.rule[i].args);
	if (!ret)
		ret = export(ctx, &sandbox.progs[kind]);
	/* It calls a filter that lacks something for want of memory a success. */
	if (!ret && !is_whole(&sandbox.progs[kind], &rules))
		ret = -ENOMEM;
	seccomp_release(ctx);
	return ret;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* All that the first version knows. Source: Linux include/uapi/linux/landlock.h. */
#define LANDLOCK_ALL (LANDLOCK_ACCESS_FS_MAKE_SYM | (LANDLOCK_ACCESS_FS_MAKE_SYM - 1))

static int allow_dir(int landlock_fd, const char *file)
{
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE,
	};
	char path[PATH_MAX];
	int ret = 0;

	if (snprintf(path, sizeof(path), "%s", file) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	beneath.parent_fd = open(dirname(path), O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* Where no directory is there is nothing to allow: whoever needs it will say so. But what
	 * is there and cannot be allowed would be missed at the end. */
	if (beneath.parent_fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : -errno;
	if (syscall(SYS_landlock_add_rule, landlock_fd, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0))
		ret = -errno;
	close(beneath.parent_fd);
	return ret;
}

static int prepare_landlock(const struct sandbox_cfg *cfg)
{
	const struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ALL};
	bool files = cfg->files[0] || cfg->files[1];
	int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0), ret = 0;

	if (fd < 0 && files)
		msg_warn("sandbox: this host's kernel has no Landlock: files of this user could be "
			 "renamed and removed; leave --stats and --live-stats away, or boot it "
			 "with lsm=landlock,...");
	for (unsigned i = 0; i < ARRAY_SIZE(cfg->files) && fd >= 0 && !ret; i++)
		if (cfg->files[i])
			ret = allow_dir(fd, cfg->files[i]);
	sandbox.landlock_fd = fd;
	return ret;
}

/* ---- privileges ------------------------------------------------------------------------------ */

/* Does the kernel ask for CAP_IPC_LOCK when it pins memory for a device? Not below the limit. */
static bool needs_ipc_lock(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur != RLIM_INFINITY;
}

/* All capabilities go but, in threads that map memory for devices, the one to pin it. */
static int drop_capabilities(bool keep_ipc_lock)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
	uint32_t kept = 0;

	/* Refused to who has no CAP_SETPCAP: then there is nothing that it would bound. */
	for (unsigned long cap = 0; cap < CAP_END && !prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); cap++)
		;
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* since Linux 4.3 */
	if (keep_ipc_lock && !syscall(SYS_capget, &hdr, data))
		kept = data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
	memset(data, 0, sizeof(data));
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective = kept;
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].permitted = kept;
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Return: 0; -errno: this kernel has no filters that trap. */
static int check_kernel(void)
{
	const uint32_t action = SECCOMP_RET_TRAP;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) ? -errno : 0;
}

/*
 * libseccomp 2.5 does not survive want of memory: it crashes, or hands out a filter that lacks
 * something and calls that a success. So what it will take is free in glibc's heap before it
 * begins. Return: what keeps the heap from shrinking until it is freed; NULL.
 */
static void *set_memory_aside(void)
{
	void *blocks[ASIDE_BLOCKS], *fence = NULL;
	unsigned nr = 0;

	while (nr < ASIDE_BLOCKS && (blocks[nr] = malloc(ASIDE_BLOCK)))
		nr++;
	if (nr == ASIDE_BLOCKS)
		fence = malloc(1);
	for (unsigned i = 0; i < nr; i++)
		free(blocks[i]);
	return fence;
}

static int build_filters(const struct sandbox_cfg *cfg)
{
	void *fence = set_memory_aside();
	int ret = 0;

	if (!fence)
		return -ENOMEM;
	name_calls();
	for (unsigned kind = 0; kind < NR_SANDBOX_THREADS && !ret; kind++)
		ret = build_filter((enum sandbox_thread)kind, cfg);
	free(fence);
	return ret;
}

int sandbox_prepare(const struct sandbox_cfg *cfg)
{
	const struct sigaction action = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO};
	int ret = check_kernel();

	if (ret) {
		msg_error("sandbox: this host's kernel has no seccomp filters: %s; use "
			  "--no-sandbox, and give the guest nothing it should not have",
			  strerror(-ret));
		return ret;
	}
	sandbox.pid = getpid();
	/* glibc's arenas of other threads look into /proc before they shrink: malloc/arena.c,
	 * shrink_heap(). Ours share one, and what they take from it they mostly take under one
	 * lock, the mediator's. */
	mallopt(M_ARENA_MAX, 1);
	ret = build_filters(cfg);
	if (!ret)
		ret = prepare_landlock(cfg);
	if (!ret && sigaction(SIGSYS, &action, NULL))
		ret = -errno;
	if (ret) {
		msg_error("sandbox: it cannot be set up: %s", strerror(-ret));
		return ret;
	}
	sandbox.keeps_ipc_lock = cfg->pins;
	sandbox.on = true;
	return 0;
}

void sandbox_enter(enum sandbox_thread kind)
{
	bool maps = kind == SANDBOX_LOOP || kind == SANDBOX_VCPU;
	sigset_t violation;
	int ret;

	if (!sandbox.on)
		return;
	own_kind = kind;
	/* A blocked one would end the process as well, but say nothing. */
	sigemptyset(&violation);
	sigaddset(&violation, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &violation, NULL);
	ret = drop_capabilities(maps && sandbox.keeps_ipc_lock && needs_ipc_lock());
	if (!ret && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		ret = -errno;
	if (!ret && sandbox.landlock_fd >= 0 &&
	    syscall(SYS_landlock_restrict_self, sandbox.landlock_fd, 0))
		ret = -errno;
	if (!ret && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &sandbox.progs[kind]))
		ret = -errno;
	if (!ret)
		return;
	term_restore();
	msg_error("sandbox: %s cannot be confined: %s", thread_names[kind], strerror(-ret));
	_exit(EXIT_FAILED);
}
