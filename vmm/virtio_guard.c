/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/virtio_guard.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "iommu/base.h"

#define COMMON_LEN (VIRTIO_PCI_COMMON_Q_USEDHI + 4u)

/* Feature bits that are kept from the guest. A queue that is reset alone begins with indexes of 0,
 * over which the next sync would write the old ones. */
#define HIDDEN (BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET))

void virtio_guard_cap(struct virtio_guard *guard, const uint8_t *cap, unsigned len)
{
	if (guard->found || len < sizeof(struct virtio_pci_cap) ||
	    cap[offsetof(struct virtio_pci_cap, cfg_type)] != VIRTIO_PCI_CAP_COMMON_CFG)
		return;
	guard->found = true;
	guard->bar = cap[offsetof(struct virtio_pci_cap, bar)];
	guard->off = get_le32(cap + offsetof(struct virtio_pci_cap, offset));
}

void virtio_guard_reset(struct virtio_guard *guard, struct endpoint *ep)
{
	for (; guard->nr; guard->nr--)
		(void)endpoint_set_ring(ep, guard->nr - 1, NULL);
	guard->page = 0;
}

static bool enable_ring(struct virtio_guard *guard, struct endpoint *ep, virtio_guard_read_fn read,
			void *ctx)
{
	unsigned ring = read(ctx, VIRTIO_PCI_COMMON_Q_SELECT, 2) & 0xffff;
	struct ring_place place = {
		.cpu_head = (uint64_t)read(ctx, VIRTIO_PCI_COMMON_Q_AVAILHI, 4) << 32 |
			    read(ctx, VIRTIO_PCI_COMMON_Q_AVAILLO, 4),
		.device_head = (uint64_t)read(ctx, VIRTIO_PCI_COMMON_Q_USEDHI, 4) << 32 |
			       read(ctx, VIRTIO_PCI_COMMON_Q_USEDLO, 4),
	};

	if (endpoint_set_ring(ep, ring, &place))
		return false;
	guard->nr = MAX(guard->nr, ring + 1);
	return true;
}

bool virtio_guard_write(struct virtio_guard *guard, struct endpoint *ep, unsigned bar, uint64_t off,
			const void *data, unsigned len, virtio_guard_read_fn read, void *ctx)
{
	uint64_t val = 0;

	if (!guard->found || bar != guard->bar || off < guard->off ||
	    off - guard->off >= COMMON_LEN)
		return true;
	/* A field is written as a whole, says the specification, and by an access of its size. */
	memcpy(&val, data, MIN(len, sizeof(val)));
	switch (off - guard->off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		guard->page = (uint32_t)val;
		return true;
	case VIRTIO_PCI_COMMON_STATUS:
		if (!(uint8_t)val)
			virtio_guard_reset(guard, ep);
		return true;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return (uint16_t)val != 1 || enable_ring(guard, ep, read, ctx);
	default:
		return true;
	}
}

void virtio_guard_answer(const struct virtio_guard *guard, unsigned bar, uint64_t off, void *data,
			 unsigned len)
{
	uint8_t hidden[4], *bytes = data;

	if (!guard->found || bar != guard->bar || guard->page > 1)
		return;
	put_le32(hidden, (uint32_t)(HIDDEN >> (32 * guard->page)));
	for (unsigned i = 0; i < len; i++) {
		uint64_t at = off + i - guard->off - VIRTIO_PCI_COMMON_DF;

		if (at < sizeof(hidden))
			bytes[i] &= (uint8_t)~hidden[at];
	}
}
