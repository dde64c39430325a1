/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/virtio_guard.h"

#define BAR 4u
#define OFF 0x3000u

static struct virtio_guard guard;
static uint8_t regs[0x40]; /* the device's */
static char endpoint_storage;
#define EP ((struct endpoint *)&endpoint_storage)

/* ---- the mediator ---- */

static struct {
	bool live;
	struct ring_place place;
} rings[MEDIATOR_MAX_RINGS];
static unsigned nr_calls;

int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place)
{
	assert_ptr_equal(ep, EP);
	nr_calls++;
	if (ring >= MEDIATOR_MAX_RINGS)
		return -ENOSPC;
	if (place && place->cpu_head % 4)
		return -EINVAL;
	rings[ring].live = place;
	if (place)
		rings[ring].place = *place;
	return 0;
}

/* ---- the device ---- */

static uint32_t read_reg(void *ctx, unsigned off, unsigned len)
{
	assert_ptr_equal(ctx, regs);
	assert_true((len == 2 || len == 4) && off % len == 0 && off + len <= sizeof(regs));
	return len == 2 ? get_le16(regs + off) : get_le32(regs + off);
}

/* wr - by the guest, of @len bytes */
static bool wr(unsigned off, unsigned len, uint32_t val)
{
	uint8_t bytes[4];
	bool ok;

	put_le32(bytes, val);
	ok = virtio_guard_write(&guard, EP, BAR, OFF + off, bytes, len, read_reg, regs);
	memcpy(regs + off, bytes, len);
	return ok;
}

static uint64_t rd_features(unsigned page)
{
	uint8_t bytes[4];

	memset(bytes, 0xff, sizeof(bytes));
	wr(VIRTIO_PCI_COMMON_DFSELECT, 4, page);
	virtio_guard_answer(&guard, BAR, OFF + VIRTIO_PCI_COMMON_DF, bytes, 4);
	return get_le32(bytes);
}

static void put_cap(uint8_t *cap, unsigned type, unsigned bar, uint32_t off)
{
	memset(cap, 0, sizeof(struct virtio_pci_cap));
	cap[offsetof(struct virtio_pci_cap, cfg_type)] = (uint8_t)type;
	cap[offsetof(struct virtio_pci_cap, bar)] = (uint8_t)bar;
	put_le32(cap + offsetof(struct virtio_pci_cap, offset), off);
}

static int a_function(void **state)
{
	uint8_t cap[sizeof(struct virtio_pci_cap)];

	(void)state;
	memset(regs, 0, sizeof(regs));
	memset(rings, 0, sizeof(rings));
	guard = (struct virtio_guard){0};
	nr_calls = 0;
	put_cap(cap, VIRTIO_PCI_CAP_ISR_CFG, 1, 0x1000);
	virtio_guard_cap(&guard, cap, sizeof(cap));
	put_cap(cap, VIRTIO_PCI_CAP_COMMON_CFG, BAR, OFF);
	virtio_guard_cap(&guard, cap, sizeof(cap) - 1); /* too short to be one */
	virtio_guard_cap(&guard, cap, sizeof(cap));
	put_cap(cap, VIRTIO_PCI_CAP_COMMON_CFG, 0, 0); /* a second one */
	virtio_guard_cap(&guard, cap, sizeof(cap));
	return 0;
}

static void enable(unsigned ring, uint64_t avail, uint64_t used)
{
	wr(VIRTIO_PCI_COMMON_Q_SELECT, 2, ring);
	wr(VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)avail);
	wr(VIRTIO_PCI_COMMON_Q_AVAILHI, 4, (uint32_t)(avail >> 32));
	wr(VIRTIO_PCI_COMMON_Q_USEDLO, 4, (uint32_t)used);
	wr(VIRTIO_PCI_COMMON_Q_USEDHI, 4, (uint32_t)(used >> 32));
	assert_true(wr(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1));
}

static void what_needs_an_agreement_is_not_offered(void **state)
{
	uint64_t all;

	(void)state;
	all = rd_features(0) | rd_features(1) << 32;
	assert_int_equal(~all, BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) |
				       BIT(VIRTIO_F_RING_RESET));
	assert_int_equal(rd_features(2), UINT32_MAX);
	assert_int_equal(rd_features(UINT32_MAX), UINT32_MAX);
}

static void a_part_of_the_features_is_as_the_whole(void **state)
{
	uint8_t bytes[8];

	(void)state;
	wr(VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	for (unsigned len = 1; len <= 8; len *= 2) {
		for (unsigned off = 0; off < 16; off += len) {
			memset(bytes, 0xff, sizeof(bytes));
			virtio_guard_answer(&guard, BAR, OFF + off, bytes, len);
			for (unsigned i = 0; i < len; i++)
				assert_int_equal(bytes[i], off + i == 7 ? 0xdf : 0xff);
		}
	}
}

static void other_registers_are_as_the_device_has_them(void **state)
{
	static const uint64_t offs[] = {0, 4, OFF - 4, OFF, OFF + 0xc, OFF + 0x40, UINT64_MAX - 3};
	uint8_t bytes[4];

	(void)state;
	for (unsigned bar = 0; bar < 6; bar++) {
		for (unsigned i = 0; i < ARRAY_SIZE(offs) + 1; i++) {
			if (i == ARRAY_SIZE(offs) && bar == BAR)
				continue;
			memset(bytes, 0xff, sizeof(bytes));
			virtio_guard_answer(&guard, bar,
					    i < ARRAY_SIZE(offs) ? offs[i]
								 : OFF + VIRTIO_PCI_COMMON_DF,
					    bytes, 4);
			assert_int_equal(get_le32(bytes), UINT32_MAX);
		}
	}
	assert_true(virtio_guard_write(&guard, EP, BAR + 1, OFF + VIRTIO_PCI_COMMON_Q_ENABLE,
				       (uint8_t[]){1, 0}, 2, read_reg, regs));
	assert_true(virtio_guard_write(&guard, EP, BAR, OFF - 4, (uint8_t[]){1, 0, 0, 0}, 4,
				       read_reg, regs));
	assert_true(virtio_guard_write(&guard, EP, BAR, OFF + 0x4000, (uint8_t[]){1, 0, 0, 0}, 4,
				       read_reg, regs));
	assert_int_equal(nr_calls, 0);
}

static void the_mediator_learns_of_rings_when_they_are_enabled(void **state)
{
	(void)state;
	enable(0, 0x123456000, 0x123457000);
	enable(5, 0xfffff800, 0xfffffc00);
	assert_true(rings[0].live && rings[5].live && !rings[1].live);
	assert_int_equal(rings[0].place.cpu_head, 0x123456000);
	assert_int_equal(rings[0].place.device_head, 0x123457000);
	assert_int_equal(rings[5].place.cpu_head, 0xfffff800);
	assert_int_equal(rings[5].place.device_head, 0xfffffc00);
	/* a driver that writes 0 there, which it may not, changes nothing */
	wr(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_true(rings[5].live);
}

static void a_reset_ends_all_rings(void **state)
{
	(void)state;
	enable(0, 0x1000, 0x2000);
	enable(3, 0x3000, 0x4000);
	wr(VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	wr(VIRTIO_PCI_COMMON_STATUS, 1, 1);
	assert_true(rings[0].live && rings[3].live);
	wr(VIRTIO_PCI_COMMON_STATUS, 1, 0);
	for (unsigned i = 0; i < MEDIATOR_MAX_RINGS; i++)
		assert_false(rings[i].live);
	enable(1, 0x1000, 0x2000);
	virtio_guard_reset(&guard, EP);
	assert_false(rings[1].live);
	nr_calls = 0;
	virtio_guard_reset(&guard, EP);
	assert_int_equal(nr_calls, 0);
}

static void a_ring_that_cannot_be_looked_after_is_told(void **state)
{
	(void)state;
	wr(VIRTIO_PCI_COMMON_Q_SELECT, 2, MEDIATOR_MAX_RINGS);
	assert_false(wr(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1));
	wr(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0xffff);
	assert_false(wr(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1));
	wr(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	wr(VIRTIO_PCI_COMMON_Q_AVAILLO, 4, 0x1002);
	assert_false(wr(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1));
	nr_calls = 0;
	virtio_guard_reset(&guard, EP); /* of none of them */
	assert_int_equal(nr_calls, 0);
}

#define TEST(fn) cmocka_unit_test_setup(fn, a_function)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_needs_an_agreement_is_not_offered),
		TEST(a_part_of_the_features_is_as_the_whole),
		TEST(other_registers_are_as_the_device_has_them),
		TEST(the_mediator_learns_of_rings_when_they_are_enabled),
		TEST(a_reset_ends_all_rings),
		TEST(a_ring_that_cannot_be_looked_after_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
