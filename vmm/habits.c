/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/habits.h"

#include "vmm/e1000e_guard.h"

#define VENDOR_VIRTIO 0x1af4
#define VENDOR_INTEL  0x8086

#define CLASS_NVME	  0x010802
#define CLASS_AHCI	  0x010601
#define CLASS_XHCI	  0x0c0330
#define SUBCLASS_ETHERNET 0x0200

#define CLASS_UHCI 0x0c0300
#define CLASS_OHCI 0x0c0310
#define CLASS_EHCI 0x0c0320
#define CLASS_HDA  0x040300

/* Kicks and interrupts of virtio devices need none (vmm/virtio_guard.h), but Linux waits for
 * answers in some control queues by looking at memory: virtnet_send_command(),
 * __send_control_msg(). */
#define VIRTIO_POLL_US 2000u

/* Schedules and buffers that a controller walks again and again, to which a driver adds by writing
 * memory alone: Linux qh_append_tds() and its like; an open PCM stream. A USB frame is 1 ms. */
#define WALKER_POLL_US 250u

static unsigned poll_us(uint16_t vendor, uint32_t class)
{
	switch (class) {
	case CLASS_UHCI:
	case CLASS_OHCI:
	case CLASS_EHCI:
	case CLASS_HDA:
		return WALKER_POLL_US;
	default:
		return vendor == VENDOR_VIRTIO ? VIRTIO_POLL_US : 0;
	}
}

/* Classes whose Linux drivers look at a buffer only after they unmapped it: coherence.md. */
static bool unmaps_before_it_looks(uint32_t class)
{
	return class == CLASS_NVME || class == CLASS_AHCI || class == CLASS_XHCI;
}

/*
 * Devices whose entries end in the word that makes them valid: the phase tag of an NVMe completion,
 * the cycle bit of an xHCI TRB, the status of an Intel Ethernet descriptor. AHCI has no ring that
 * is looked at without a register. In virtio rings it is the index, which stands before the
 * entries, but is known (vmm/virtio_guard) and so written last wherever it is.
 * Source: NVM Express 1.4 4.6; xHCI 1.2 6.4; Linux drivers/net/ethernet/intel/e1000/e1000_hw.h and
 * igb/e1000_82575.h.
 */
static bool writes_valid_flags_last(uint16_t vendor, uint32_t class)
{
	return class == CLASS_NVME || class == CLASS_AHCI || class == CLASS_XHCI ||
	       vendor == VENDOR_VIRTIO ||
	       (vendor == VENDOR_INTEL && class >> 8 == SUBCLASS_ETHERNET);
}

/* Why it has the sync mode that it gets. */
static const char *why(uint32_t class, bool e1000e, bool lazy)
{
	if (lazy && (e1000e || unmaps_before_it_looks(class)))
		return "the guest may put unmaps off";
	if (e1000e)
		return "its driver unmaps before it looks, until it lets long packets in";
	return unmaps_before_it_looks(class)
		       ? "drivers of its class unmap before they look"
		       : "its driver may look at buffers before it unmaps them";
}

struct habits habits_of(uint16_t vendor, uint16_t device, uint32_t class, bool lazy)
{
	bool e1000e = is_e1000e(vendor, device);

	return (struct habits){
		.sync = (unmaps_before_it_looks(class) || e1000e) && !lazy ? SYNC_RINGS : SYNC_FULL,
		.why = why(class, e1000e, lazy),
		.may_turn_full = e1000e,
		.poll_us = poll_us(vendor, class),
		.hold = !writes_valid_flags_last(vendor, class),
	};
}
