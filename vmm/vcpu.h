/* SPDX-License-Identifier: Apache-2.0 */
/* vcpu - one virtual CPU and its thread: KVM_RUN, dispatch of exits. */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/bus.h"
#include "vmm/evloop.h"
#include "vmm/hold.h"
#include "vmm/stats.h"

struct vcpu;

/* What all vCPUs of a machine share; outlives them. */
struct vcpu_machine {
	int kvm_fd, vm_fd;
	struct bus *bus;
	struct hold *hold;	/* keeps them out of the guest */
	struct evloop *loop;	/* stopped with a status of vmm/cli.h when the guest ends */
	atomic_uint nr_running; /* threads; the loop is woken when it becomes 0 */
};

/* The KVM ioctls that its thread makes once it runs, for struct sandbox_cfg. */
#define VCPU_IOCTLS KVM_RUN, KVM_GET_ONE_REG, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS

/**
 * vcpu_create
 * @index: from 0; all but vCPU 0 wait for PSCI CPU_ON
 * Return: 0; -errno after a line on stderr.
 */
int vcpu_create(struct vcpu_machine *machine, unsigned index, struct vcpu **out);
void vcpu_destroy(struct vcpu *vcpu); /* NULL is fine; it does not run */

/* vcpu_mpidr - the affinity bits KVM chose, for the FDT */
uint64_t vcpu_mpidr(const struct vcpu *vcpu);

/* vcpu_set_entry - first registers of vCPU 0. Return: 0; -errno after a line on stderr.
 * Source: Linux Documentation/arch/arm64/booting.rst, "Call the kernel image". */
int vcpu_set_entry(struct vcpu *vcpu, uint64_t entry, uint64_t fdt);

/* vcpu_start - let it run, in a thread of its own. Return: 0; -errno after a line on stderr. */
int vcpu_start(struct vcpu *vcpu);

/* vcpu_kick, vcpu_join - take it out of the guest for good: kick all, let the loop turn until none
 * runs, then join each. A handler that waits gets EINTR. Both do nothing for one that was never
 * started. */
void vcpu_kick(struct vcpu *vcpu);
void vcpu_join(struct vcpu *vcpu);

/* vcpu_count_exits - add its exits to @exits, and the time they took to @ns; any thread, any time
 */
void vcpu_count_exits(const struct vcpu *vcpu, uint64_t exits[NR_EXIT_KINDS],
		      uint64_t ns[NR_EXIT_KINDS]);

#endif
