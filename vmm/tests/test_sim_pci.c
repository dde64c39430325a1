/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/pci.h"
#include "vmm/pci_front.h"
#include "vmm/sim_pci.h"

#define BAR_LEN 0x4000u
#define NR_MSIX 65u /* two words of pending bits */
#define DEVFN	0x08u

static struct {
	uint64_t reg; /* the only register, 8 bytes at 0x10 */
	uint64_t off;
	unsigned len, nr_access, nr_reset, nr_master;
	bool write, master;
	char order[8]; /* m: mastering stopped, r: reset */
	unsigned nr_order;
} d;

static struct sim_pci *pci;
static struct pci_dev *dev;
static int fds[NR_MSIX];

static void on_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	assert_ptr_equal(ctx, &d);
	d.off = off;
	d.len = len;
	d.write = write;
	d.nr_access++;
	if (write)
		memcpy((uint8_t *)&d.reg + off % 8, data, len);
	else
		memcpy(data, (uint8_t *)&d.reg + off % 8, len);
}

static void on_reset(void *ctx)
{
	assert_ptr_equal(ctx, &d);
	d.nr_reset++;
	d.order[d.nr_order++] = 'r';
}

static void on_master(void *ctx, bool on)
{
	assert_ptr_equal(ctx, &d);
	assert_int_not_equal(d.master, on); /* only changes are told */
	d.master = on;
	d.nr_master++;
	if (!on)
		d.order[d.nr_order++] = 'm';
}

static int on_msi_target(void *ctx, uint64_t addr, uint64_t *gpa)
{
	assert_ptr_equal(ctx, &d);
	if (addr == 0xbad0)
		return -EFAULT;
	*gpa = addr + LAYOUT_DOORBELL_BASE;
	return 0;
}

static struct sim_pci_cfg config(void)
{
	return (struct sim_pci_cfg){
		.name = "sim",
		.vendor = 0x1234,
		.device = 0x5678,
		.class = 0x010802,
		.bar_len = BAR_LEN,
		.nr_msix = NR_MSIX,
		.access = on_access,
		.reset = on_reset,
		.set_master = on_master,
		.ctx = &d,
	};
}

static int setup(void **state)
{
	struct sim_pci_cfg cfg = config();

	(void)state;
	memset(&d, 0, sizeof(d));
	for (unsigned i = 0; i < NR_MSIX; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sim_pci_create(&cfg, &pci))
		return -1;
	dev = sim_pci_dev(pci);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dev->ops->close(dev);
	sim_pci_destroy(pci);
	sim_pci_destroy(NULL);
	for (unsigned i = 0; i < NR_MSIX; i++)
		close(fds[i]);
	return 0;
}

/* fired - signals of vector @vec since the last look */
static uint64_t fired(unsigned vec)
{
	uint64_t count;

	return read(fds[vec], &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void set_command(unsigned val)
{
	uint8_t bytes[2];

	put_le16(bytes, (uint16_t)val);
	assert_int_equal(dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes, 2),
			 0);
}

static unsigned command(void)
{
	uint8_t bytes[2];

	assert_int_equal(dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes, 2),
			 0);
	return get_le16(bytes);
}

/* ---- config space and registers ---- */

static void lengths_that_do_not_fit_are_refused(void **state)
{
	static const struct {
		uint64_t bar_len;
		unsigned nr_msix;
		int ret;
	} rows[] = {
		{64, 1, 0},
		{32, 1, -EINVAL}, /* 16 + 8 bytes into half of it */
		{0x4000, 0, -EINVAL},
		{0x3000, 1, -EINVAL},
		{0, 1, -EINVAL},
		{0x20000, 2048, 0},
		{0x20000, 2049, -EINVAL},
		{0x10000, 2048, -EINVAL},
		{0x1000, 127, 0}, /* 2032 + 16 is just it */
		{0x1000, 128, -EINVAL},
		{UINT64_C(1) << 32, 1, -EINVAL},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct sim_pci_cfg cfg = config();
		struct sim_pci *other = NULL;

		cfg.bar_len = rows[i].bar_len;
		cfg.nr_msix = rows[i].nr_msix;
		assert_int_equal(sim_pci_create(&cfg, &other), rows[i].ret);
		sim_pci_destroy(other);
	}
}

static void config_space_says_what_it_is(void **state)
{
	uint8_t c[256];

	(void)state;
	assert_int_equal(dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, c, 256), 0);
	assert_int_equal(get_le32(c), 0x56781234);
	assert_int_equal(get_le32(c + PCI_CLASS_REVISION) >> 8, 0x010802);
	assert_int_equal(c[PCI_INTERRUPT_PIN], 1);
	assert_int_equal(get_le16(c + PCI_COMMAND), 0);
	assert_true(dev->can_reset);
	assert_int_equal(dev->bars[0].size, BAR_LEN);
	assert_int_equal(dev->bars[0].nr_areas, 0);
	assert_int_equal(dev->nr_intx, 1);
	assert_int_equal(dev->nr_msi, 0);
	assert_int_equal(dev->nr_msix, NR_MSIX);
	assert_null(dev->ops->msi_target);
	/* beyond it, and what hangs over its end */
	assert_int_equal(dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, 256, c, 4), -EINVAL);
	assert_int_equal(dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, 254, c, 4), -EINVAL);
	assert_int_equal(dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, UINT64_MAX, c, 4),
			 -EINVAL);
}

static void only_the_command_register_can_be_written(void **state)
{
	uint8_t before[256], after[256], ones[256];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, before, 256);
	assert_int_equal(dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, ones, 256), 0);
	dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, after, 256);
	assert_int_equal(get_le16(after + PCI_COMMAND),
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
				 PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	memcpy(after + PCI_COMMAND, before + PCI_COMMAND, 2);
	assert_memory_equal(after, before, 256);
}

static void the_bus_master_bit_is_told_when_it_changes(void **state)
{
	uint8_t zero = 0;

	(void)state;
	set_command(PCI_COMMAND_MEMORY);
	assert_int_equal(d.nr_master, 0);
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(d.master);
	set_command(PCI_COMMAND_MASTER);
	assert_int_equal(d.nr_master, 1);
	/* its upper byte alone leaves it be */
	dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND + 1, &zero, 1);
	assert_int_equal(d.nr_master, 1);
	dev->ops->write(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &zero, 1);
	assert_int_equal(d.nr_master, 2);
	assert_false(d.master);
	assert_int_equal(command(), 0);
}

static void registers_are_the_lower_half_of_bar_0(void **state)
{
	uint64_t val = UINT64_C(0x1122334455667788), back;

	(void)state;
	assert_int_equal(dev->ops->write(dev, 0, 0x10, &val, 8), 0);
	assert_true(d.write && d.off == 0x10 && d.len == 8 && d.reg == val);
	assert_int_equal(dev->ops->read(dev, 0, 0x14, &back, 4), 0);
	assert_true(!d.write && d.off == 0x14 && d.len == 4);
	assert_int_equal((uint32_t)back, 0x11223344);
	assert_int_equal(d.nr_access, 2);
	assert_int_equal(dev->ops->read(dev, 0, BAR_LEN / 2 - 8, &back, 8), 0);
	assert_int_equal(d.nr_access, 3);
	/* the upper half is the front's, and what it leaves is empty */
	assert_int_equal(dev->ops->read(dev, 0, BAR_LEN / 2, &back, 8), 0);
	assert_true(!back);
	assert_int_equal(dev->ops->write(dev, 0, BAR_LEN - 8, &val, 8), 0);
	assert_int_equal(d.nr_access, 3);
	/* nowhere */
	assert_int_equal(dev->ops->read(dev, 0, BAR_LEN, &back, 4), -EINVAL);
	assert_int_equal(dev->ops->read(dev, 0, UINT64_MAX - 3, &back, 4), -EINVAL);
	assert_int_equal(dev->ops->read(dev, 0, 2, &back, 4), -EINVAL);
	assert_int_equal(dev->ops->read(dev, 0, 0, &back, 3), -EINVAL);
	assert_int_equal(dev->ops->write(dev, 0, 0, &val, 16), -EINVAL);
	assert_int_equal(dev->ops->write(dev, 2, 0, &val, 4), -EINVAL);
	assert_int_equal(d.nr_access, 3);
}

/* ---- interrupts ---- */

static void msix_vectors_signal_their_eventfds(void **state)
{
	(void)state;
	sim_pci_fire(pci, 0); /* not on */
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, NR_MSIX, fds), 0);
	assert_int_equal(fired(0), 0);
	sim_pci_fire(pci, 0);
	sim_pci_fire(pci, 64);
	sim_pci_fire(pci, 64);
	sim_pci_fire(pci, NR_MSIX); /* there is none */
	assert_int_equal(fired(0), 1);
	assert_int_equal(fired(64), 2);
	for (unsigned i = 0; i < NR_MSIX; i++)
		assert_int_equal(fired(i), 0);
	sim_pci_set_intx(pci, true);
	assert_int_equal(fired(0), 0);
	/* fewer than there are */
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL), 0);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 2, fds), 0);
	sim_pci_fire(pci, 2);
	sim_pci_fire(pci, 1);
	assert_int_equal(fired(2), 0);
	assert_int_equal(fired(1), 1);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL), 0);
	sim_pci_fire(pci, 1);
	assert_int_equal(fired(1), 0);
}

static void one_index_is_on_at_a_time_and_none_has_too_many(void **state)
{
	(void)state;
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSI_IRQ_INDEX, 1, fds), -EINVAL);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 2, fds), -EINVAL);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, NR_MSIX + 1, fds),
			 -EINVAL);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 1, fds), 0);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 1, fds), -EINVAL);
	/* another's being off already is no news */
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_MSIX_IRQ_INDEX, 0, NULL), 0);
	sim_pci_set_intx(pci, true);
	assert_int_equal(fired(0), 1);
}

static void intx_masks_itself_and_fires_again_while_it_is_up(void **state)
{
	(void)state;
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 1, fds), 0);
	assert_int_equal(fired(0), 0);
	sim_pci_fire(pci, 0); /* MSI-X is off */
	assert_int_equal(fired(0), 0);
	sim_pci_set_intx(pci, true);
	assert_int_equal(fired(0), 1);
	sim_pci_set_intx(pci, false);
	sim_pci_set_intx(pci, true);
	assert_int_equal(fired(0), 0); /* masked */
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 1); /* still up */
	sim_pci_set_intx(pci, false);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
	sim_pci_set_intx(pci, true);
	assert_int_equal(fired(0), 1);
	/* off and on again with the level up */
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 0, NULL), 0);
	dev->ops->unmask_intx(dev);
	assert_int_equal(fired(0), 0);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 1, fds), 0);
	assert_int_equal(fired(0), 1);
}

static void a_reset_stops_mastering_first_and_lowers_intx(void **state)
{
	(void)state;
	set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	sim_pci_set_intx(pci, true);
	assert_int_equal(dev->ops->reset(dev), 0);
	assert_string_equal(d.order, "mr");
	assert_int_equal(command(), 0);
	assert_int_equal(dev->ops->set_irqs(dev, VFIO_PCI_INTX_IRQ_INDEX, 1, fds), 0);
	assert_int_equal(fired(0), 0);
	assert_int_equal(dev->ops->reset(dev), 0);
	assert_string_equal(d.order, "mrr");
}

static void msi_targets_are_asked_of_the_device(void **state)
{
	struct sim_pci_cfg cfg = config();
	struct sim_pci *other;
	uint64_t gpa = 0;

	(void)state;
	cfg.msi_target = on_msi_target;
	assert_int_equal(sim_pci_create(&cfg, &other), 0);
	dev = sim_pci_dev(other);
	assert_int_equal(dev->ops->msi_target(dev, 0x40, &gpa), 0);
	assert_true(gpa == LAYOUT_DOORBELL_BASE + 0x40);
	assert_int_equal(dev->ops->msi_target(dev, 0xbad0, &gpa), -EFAULT);
	sim_pci_destroy(other);
	dev = sim_pci_dev(pci);
}

/* ---- behind a front ---- */

static struct {
	unsigned nr_msi;
	uint64_t gpa;
	uint32_t data;
} m;

static int machine_msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)devid;
	m.nr_msi++;
	m.gpa = gpa;
	m.data = data;
	return 0;
}

static void machine_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx, (void)line, (void)level;
}

static int machine_map(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	(void)ctx, (void)gpa, (void)hva, (void)len;
	fail_msg("there is nothing to map");
	return -1;
}

static void machine_unmap(void *ctx, int slot)
{
	(void)ctx, (void)slot;
}

static int machine_resample(void *ctx, unsigned line)
{
	(void)ctx, (void)line;
	return -ENOSYS;
}

static struct bus *bus;

static uint32_t cfg_read(unsigned reg, unsigned len)
{
	uint32_t val = 0;

	bus_access(bus, LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000u + reg, &val, len, false);
	return val;
}

static void cfg_write(unsigned reg, unsigned len, uint32_t val)
{
	bus_access(bus, LAYOUT_PCI_ECAM_BASE + DEVFN * 0x1000u + reg, &val, len, true);
}

static unsigned find_cap(unsigned id)
{
	unsigned pos = cfg_read(PCI_CAPABILITY_LIST, 1);

	while (pos && cfg_read(pos, 1) != id)
		pos = cfg_read(pos + 1, 1);
	return pos;
}

static void a_front_offers_all_of_it_to_the_guest(void **state)
{
	struct pci_lines lines = {.lock = FAIR_INITIALIZER};
	struct pci_machine machine = {
		.msi = machine_msi,
		.set_intx = machine_intx,
		.map = machine_map,
		.unmap = machine_unmap,
		.intx_resample = machine_resample,
		.host_page = 0x4000,
	};
	struct pci_front_cfg cfg = {
		.dev = dev, .machine = &machine, .lines = &lines, .devfn = DEVFN};
	struct pci_front *front;
	unsigned exp, msix;
	uint64_t bar, val;
	char error[128];
	uint32_t table;

	(void)state;
	memset(&m, 0, sizeof(m));
	assert_int_equal(bus_create(&bus), 0);
	machine.bus = bus;
	assert_int_equal(pci_host_create(&machine, &cfg.host), 0);
	assert_int_equal(pci_front_create(&cfg, &front, error, sizeof(error)), 0);
	assert_int_equal(cfg_read(0, 4), 0x56781234);
	assert_int_equal(cfg_read(PCI_INTERRUPT_PIN, 1), 1);
	assert_true(find_cap(PCI_CAP_ID_PM));
	exp = find_cap(PCI_CAP_ID_EXP);
	msix = find_cap(PCI_CAP_ID_MSIX);
	assert_true(exp && msix);
	assert_true(cfg_read(exp + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR);
	assert_int_equal(cfg_read(msix + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE, NR_MSIX - 1);

	/* registers, then a vector through the table */
	cfg_write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(d.master);
	bar = cfg_read(PCI_BASE_ADDRESS_0, 4) & PCI_BASE_ADDRESS_MEM_MASK;
	bar |= (uint64_t)cfg_read(PCI_BASE_ADDRESS_0 + 4, 4) << 32;
	val = 0xabcdef;
	bus_access(bus, bar + 0x10, &val, 8, true);
	assert_true(d.reg == 0xabcdef);
	table = cfg_read(msix + PCI_MSIX_TABLE, 4);
	assert_int_equal(table, BAR_LEN / 2);
	val = LAYOUT_DOORBELL_BASE + 0x40;
	bus_access(bus, bar + table + 16 * 3, &val, 8, true);
	val = 77; /* data; vector control: unmasked */
	bus_access(bus, bar + table + 16 * 3 + 8, &val, 8, true);
	cfg_write(msix + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(d.nr_access, 1); /* none of the table's */
	pci_front_fire(front, 3);
	assert_int_equal(m.nr_msi, 1);
	assert_int_equal(m.data, 77);

	/* the guest resets it */
	cfg_write(exp + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
	assert_int_equal(d.nr_reset, 1);
	assert_false(d.master);
	assert_int_equal(cfg_read(msix + PCI_MSIX_FLAGS, 2), NR_MSIX - 1);

	pci_front_quiesce(front);
	pci_front_destroy(front);
	pci_host_destroy(cfg.host);
	bus_destroy(bus);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(lengths_that_do_not_fit_are_refused),
		TEST(config_space_says_what_it_is),
		TEST(only_the_command_register_can_be_written),
		TEST(the_bus_master_bit_is_told_when_it_changes),
		TEST(registers_are_the_lower_half_of_bar_0),
		TEST(msix_vectors_signal_their_eventfds),
		TEST(one_index_is_on_at_a_time_and_none_has_too_many),
		TEST(intx_masks_itself_and_fires_again_while_it_is_up),
		TEST(a_reset_stops_mastering_first_and_lowers_intx),
		TEST(msi_targets_are_asked_of_the_device),
		TEST(a_front_offers_all_of_it_to_the_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
