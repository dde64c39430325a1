/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/msg.h"
#include "vmm/sandbox.h"
#include "vmm/trace.h"

/* PSTATE at entry: EL1h, all of D, A, I, F masked. */
#define PSTATE_ENTRY 0x3c5

#define MPIDR_AFFINITY UINT64_C(0xff00ffffff)

#define CORE_REG(field)                                                                            \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.field))
#define MPIDR_EL1 ARM64_SYS_REG(3, 0, 0, 0, 5)

/* Lines that a guest may cause, per vCPU: in a second, and as long as it lives. */
#define WARNINGS_PER_SECOND 5
#define WARNINGS_MAX	    100

struct vcpu {
	struct vcpu_machine *machine;
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with KVM */
	size_t run_len;
	uint64_t mpidr;
	pthread_t thread; /* known to who started it, */
	pthread_t self;	  /* and to who finds the vCPU inside */
	bool started;
	struct hold_seat seat;
	/* Written by the thread alone, read by any: relaxed atomics. */
	uint64_t exits[NR_EXIT_KINDS];
	uint64_t exit_ns[NR_EXIT_KINDS];
	/* Rate limit of warnings. */
	time_t warn_second;
	unsigned warnings, all_warnings;
};

static int has_cap(int fd, int cap)
{
	return ioctl(fd, KVM_CHECK_EXTENSION, cap);
}

static int get_reg(struct vcpu *vcpu, uint64_t id, uint64_t *val)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)val};

	return ioctl(vcpu->fd, KVM_GET_ONE_REG, &reg) ? -errno : 0;
}

static int set_reg(struct vcpu *vcpu, uint64_t id, uint64_t val)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&val};

	return ioctl(vcpu->fd, KVM_SET_ONE_REG, &reg) ? -errno : 0;
}

/* The same features on every vCPU: KVM refuses one that differs. */
static int init_target(struct vcpu *vcpu)
{
	struct kvm_vcpu_init init;

	if (ioctl(vcpu->machine->vm_fd, KVM_ARM_PREFERRED_TARGET, &init))
		return -errno;
	init.features[0] |= BIT(KVM_ARM_VCPU_PSCI_0_2);
	if (vcpu->index)
		init.features[0] |= BIT(KVM_ARM_VCPU_POWER_OFF);
	/* KVM takes both keys or neither. */
	if (has_cap(vcpu->machine->vm_fd, KVM_CAP_ARM_PTRAUTH_ADDRESS) > 0 &&
	    has_cap(vcpu->machine->vm_fd, KVM_CAP_ARM_PTRAUTH_GENERIC) > 0)
		init.features[0] |=
			BIT(KVM_ARM_VCPU_PTRAUTH_ADDRESS) | BIT(KVM_ARM_VCPU_PTRAUTH_GENERIC);
	return ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init) ? -errno : 0;
}

/* For good: a handler that waits gets EINTR. */
static int stop_signal(void)
{
	return SIGRTMIN;
}

/* For a moment: it may come when the guest was left already, and a handler must not mind. KVM_RUN
 * is never restarted, other calls are. */
static int hold_signal(void)
{
	return SIGRTMIN + 1;
}

static void kick(void *ctx)
{
	struct vcpu *vcpu = ctx;

	pthread_kill(vcpu->self, hold_signal());
}

int vcpu_create(struct vcpu_machine *machine, unsigned index, struct vcpu **out)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int ret;

	if (!vcpu) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	vcpu->machine = machine;
	vcpu->index = index;
	vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0) {
		ret = -errno;
		goto err_free;
	}
	ret = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < 0) {
		ret = -errno;
		goto err_close;
	}
	vcpu->run_len = (size_t)ret;
	vcpu->run = mmap(NULL, vcpu->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		ret = -errno;
		goto err_close;
	}
	ret = init_target(vcpu);
	if (ret)
		goto err_unmap;
	ret = get_reg(vcpu, MPIDR_EL1, &vcpu->mpidr);
	if (ret)
		goto err_unmap;
	vcpu->mpidr &= MPIDR_AFFINITY;
	hold_add(machine->hold, &vcpu->seat, &vcpu->run->immediate_exit, kick, vcpu);
	*out = vcpu;
	return 0;

err_unmap:
	munmap(vcpu->run, vcpu->run_len);
err_close:
	close(vcpu->fd);
err_free:
	free(vcpu);
	msg_error("KVM cannot create vCPU %u: %s", index, strerror(-ret));
	return ret;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (!vcpu)
		return;
	munmap(vcpu->run, vcpu->run_len);
	close(vcpu->fd);
	free(vcpu);
}

uint64_t vcpu_mpidr(const struct vcpu *vcpu)
{
	return vcpu->mpidr;
}

int vcpu_set_entry(struct vcpu *vcpu, uint64_t entry, uint64_t fdt)
{
	const struct {
		uint64_t id, val;
	} regs[] = {
		{CORE_REG(regs[0]), fdt}, {CORE_REG(regs[1]), 0}, {CORE_REG(regs[2]), 0},
		{CORE_REG(regs[3]), 0},	  {CORE_REG(pc), entry},  {CORE_REG(pstate), PSTATE_ENTRY},
	};

	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		int ret = set_reg(vcpu, regs[i].id, regs[i].val);

		if (ret) {
			msg_error("KVM cannot set the first registers of vCPU 0: %s",
				  strerror(-ret));
			return ret;
		}
	}
	return 0;
}

/* May the guest cause one more line now? Says so when it is the last of this second, or of all. The
 * statistics count on. */
static bool may_warn(struct vcpu *vcpu)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec != vcpu->warn_second) {
		vcpu->warn_second = now.tv_sec;
		vcpu->warnings = 0;
	}
	if (vcpu->warnings > WARNINGS_PER_SECOND || vcpu->all_warnings > WARNINGS_MAX)
		return false;
	if (vcpu->all_warnings++ == WARNINGS_MAX) {
		msg_warn("vCPU %u: more of these; no longer shown", vcpu->index);
		return false;
	}
	if (vcpu->warnings++ < WARNINGS_PER_SECOND)
		return true;
	msg_warn("vCPU %u: more of these; not shown for a second", vcpu->index);
	return false;
}

static void add_relaxed(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t gpa = run->mmio.phys_addr, start = monotonic_ns();
	enum exit_kind kind = EXIT_KIND_UNCLAIMED;

	if (bus_access(vcpu->machine->bus, gpa, run->mmio.data, run->mmio.len, run->mmio.is_write))
		kind = exit_kind_of(gpa);
	add_relaxed(&vcpu->exits[kind], 1);
	add_relaxed(&vcpu->exit_ns[kind], monotonic_ns() - start);
	if (kind != EXIT_KIND_UNCLAIMED)
		return;
	if (may_warn(vcpu))
		msg_warn("vCPU %u: %u-byte %s at 0x%llx, where nothing is", vcpu->index,
			 run->mmio.len, run->mmio.is_write ? "write" : "read",
			 (unsigned long long)gpa);
}

/*
 * An access for which the CPU gave no syndrome (load/store pair, writeback, vector, ...): nobody
 * knows what it was. The guest gets the external abort that a bus would answer with.
 */
static int handle_nisv(struct vcpu *vcpu)
{
	struct kvm_vcpu_events events;
	uint64_t pc = 0;

	add_relaxed(&vcpu->exits[EXIT_KIND_NISV], 1);
	get_reg(vcpu, CORE_REG(pc), &pc);
	if (may_warn(vcpu))
		msg_warn("vCPU %u: an instruction at pc 0x%llx that cannot be emulated accessed "
			 "0x%llx; "
			 "the guest gets an external abort",
			 vcpu->index, (unsigned long long)pc,
			 (unsigned long long)vcpu->run->arm_nisv.fault_ipa);
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	events.exception.ext_dabt_pending = 1;
	return ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) ? -errno : 0;
}

static void handle_system_event(struct vcpu *vcpu)
{
	struct evloop *loop = vcpu->machine->loop;

	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		evloop_stop(loop, EXIT_POWEROFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		evloop_stop(loop, EXIT_RESET);
		break;
	case KVM_SYSTEM_EVENT_CRASH:
		msg_error("the guest reports a crash");
		evloop_stop(loop, EXIT_CRASH);
		break;
	default:
		msg_error("vCPU %u: KVM reports system event %u, which is unknown", vcpu->index,
			  vcpu->run->system_event.type);
		evloop_stop(loop, EXIT_CRASH);
	}
}

/* The guest cannot go on. @why: of printf, no newline */
static void __attribute__((format(printf, 2, 3))) crash(struct vcpu *vcpu, const char *fmt, ...)
{
	uint64_t pc = 0;
	char why[160];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	get_reg(vcpu, CORE_REG(pc), &pc);
	msg_error("vCPU %u cannot go on at pc 0x%llx: %s", vcpu->index, (unsigned long long)pc,
		  why);
	evloop_stop(vcpu->machine->loop, EXIT_CRASH);
}

/* Return: true if the vCPU may enter the guest again. */
static bool handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int ret;

	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		return true;
	case KVM_EXIT_ARM_NISV:
		ret = handle_nisv(vcpu);
		if (ret)
			crash(vcpu, "the abort could not be injected: %s", strerror(-ret));
		return !ret;
	case KVM_EXIT_INTR:
		add_relaxed(&vcpu->exits[EXIT_KIND_OTHER], 1);
		return true;
	case KVM_EXIT_SYSTEM_EVENT:
		add_relaxed(&vcpu->exits[EXIT_KIND_OTHER], 1);
		handle_system_event(vcpu);
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		crash(vcpu, "KVM could not enter the guest, hardware reason 0x%llx",
		      (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		crash(vcpu, "KVM internal error %u", run->internal.suberror);
		return false;
	default:
		crash(vcpu, "KVM exit reason %u is unknown", run->exit_reason);
		return false;
	}
}

static void *vcpu_thread(void *ctx)
{
	struct vcpu *vcpu = ctx;
	char name[16];

	vcpu->self = pthread_self();
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(pthread_self(), name);
	sandbox_enter(SANDBOX_VCPU);
	snprintf(name, sizeof(name), "vcpu %u", vcpu->index);
	trace_name_thread(name);
	while (hold_enter(&vcpu->seat)) {
		int ret = ioctl(vcpu->fd, KVM_RUN, 0) ? errno : 0;

		/* What it does now is not guest code: whoever holds need not wait for it. */
		hold_leave(&vcpu->seat);
		if (!ret) {
			if (!handle_exit(vcpu))
				break;
		} else if (ret == EINTR || ret == EAGAIN) {
			add_relaxed(&vcpu->exits[EXIT_KIND_OTHER], 1);
		} else {
			crash(vcpu, "KVM_RUN: %s", strerror(ret));
			break;
		}
	}
	hold_end(&vcpu->seat);
	if (atomic_fetch_sub(&vcpu->machine->nr_running, 1) == 1)
		evloop_wake(vcpu->machine->loop);
	return NULL;
}

static void on_kick(int sig)
{
	(void)sig;
}

int vcpu_start(struct vcpu *vcpu)
{
	const struct sigaction stop = {.sa_handler = on_kick};
	const struct sigaction hold = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
	int ret;

	sigaction(stop_signal(), &stop, NULL);
	sigaction(hold_signal(), &hold, NULL);
	atomic_fetch_add(&vcpu->machine->nr_running, 1);
	ret = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (ret) {
		atomic_fetch_sub(&vcpu->machine->nr_running, 1);
		msg_error("cannot start a thread for vCPU %u: %s", vcpu->index, strerror(ret));
		return -ret;
	}
	vcpu->started = true;
	return 0;
}

void vcpu_kick(struct vcpu *vcpu)
{
	if (!vcpu || !vcpu->started)
		return;
	hold_stop(&vcpu->seat);
	/* A handler may wait, too. */
	pthread_kill(vcpu->thread, stop_signal());
}

void vcpu_join(struct vcpu *vcpu)
{
	if (!vcpu || !vcpu->started)
		return;
	pthread_join(vcpu->thread, NULL);
	vcpu->started = false;
}

void vcpu_count_exits(const struct vcpu *vcpu, uint64_t exits[NR_EXIT_KINDS],
		      uint64_t ns[NR_EXIT_KINDS])
{
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++) {
		exits[i] += __atomic_load_n(&vcpu->exits[i], __ATOMIC_RELAXED);
		ns[i] += __atomic_load_n(&vcpu->exit_ns[i], __ATOMIC_RELAXED);
	}
}
