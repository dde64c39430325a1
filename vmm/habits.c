/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/habits.h"

#include "vmm/e1000e_guard.h"

#define VENDOR_VIRTIO 0x1af4

#define CLASS_NVME 0x010802
#define CLASS_AHCI 0x010601
#define CLASS_XHCI 0x0c0330

/* A virtio device that works through its ring asks for no kicks meanwhile (used ring flags, event
 * index): it finds what is added by looking at memory. */
#define VIRTIO_POLL_US 200u

/* Classes whose Linux drivers look at a buffer only after they unmapped it: design.md, "Bounce
 * coherence". */
static bool unmaps_before_it_looks(uint32_t class)
{
	return class == CLASS_NVME || class == CLASS_AHCI || class == CLASS_XHCI;
}

struct habits habits_of(uint16_t vendor, uint16_t device, uint32_t class, bool lazy)
{
	bool e1000e = is_e1000e(vendor, device);

	return (struct habits){
		.sync = (unmaps_before_it_looks(class) || e1000e) && !lazy ? SYNC_RINGS : SYNC_FULL,
		.may_turn_full = e1000e,
		.poll_us = vendor == VENDOR_VIRTIO ? VIRTIO_POLL_US : 0,
	};
}
