/* SPDX-License-Identifier: Apache-2.0 */
/* tell - what `granule run --verbose` says of a machine that has been set up, and of moments of its
 * endpoints; devices tell of themselves, see msg_tell(). */
#ifndef VMM_TELL_H
#define VMM_TELL_H

#include "iommu/gmem.h"
#include "iommu/mediator.h"
#include "vmm/boot.h"
#include "vmm/cli.h"
#include "vmm/view.h"

struct tell_guest {
	const struct vm_config *cfg;
	uint64_t host_page; /* bytes */
	int ipa_bits;	    /* as KVM says; 0: it does not */
	const struct kernel_image *kernel;
	const struct boot_plan *plan;
	const struct gmem *gmem;
	const char *cmdline; /* as the guest gets it */
};

/* tell_guest - host, kernel, vCPUs, memory */
void tell_guest(const struct tell_guest *guest);

/* tell_iommu - the virtio-iommu (or that there is none), instances and endpoints
 * @kernel_page: of the guest's kernel, bytes; 0: its header does not say */
void tell_iommu(const struct view_vm *vm, unsigned kernel_page);

/* tell_event - an endpoint is attached, detached, trapped, direct; other events are not notable */
void tell_event(const struct mediator_event *event);

#endif
