/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/pci.h"

static struct bus *bus;
static struct pci_host *host;

static int a_host(void **state)
{
	struct pci_machine machine = {.host_page = 0x4000};

	(void)state;
	assert_int_equal(bus_create(&bus), 0);
	machine.bus = bus;
	return pci_host_create(&machine, &host);
}

static int no_host(void **state)
{
	(void)state;
	pci_host_destroy(host);
	bus_destroy(bus);
	return 0;
}

static uint64_t ecam(unsigned devfn, unsigned reg)
{
	return LAYOUT_PCI_ECAM_BASE + devfn * 0x1000 + reg;
}

static uint64_t rd(uint64_t gpa, unsigned len)
{
	uint64_t val = 0;

	bus_access(bus, gpa, &val, len, false);
	return val;
}

static void wr(uint64_t gpa, unsigned len, uint64_t val)
{
	bus_access(bus, gpa, &val, len, true);
}

/* A function that remembers what it was asked. */
struct probe {
	struct pci_func func;
	unsigned accesses, off, len;
	uint32_t val;
};

static uint32_t probe_read(struct pci_func *func, unsigned off, unsigned len)
{
	struct probe *p = container_of(func, struct probe, func);

	assert_in_range(off, 0, 0x1000 - len);
	assert_true(len == 1 || len == 2 || len == 4);
	assert_int_equal(off % len, 0);
	p->accesses++;
	p->off = off;
	p->len = len;
	return off == 0 || off == 0x0c || off == 0x0e ? 0 : 0xa5a5a5a5;
}

static void probe_write(struct pci_func *func, unsigned off, unsigned len, uint32_t val)
{
	struct probe *p = container_of(func, struct probe, func);

	probe_read(func, off, len);
	p->val = val;
}

static struct probe a_probe(void)
{
	return (struct probe){.func = {"probe", 0, probe_read, probe_write}};
}

static void the_bridge_is_a_generic_host_bridge(void **state)
{
	(void)state;
	assert_int_equal(rd(ecam(0, 0), 4), 0x00081b36);
	assert_int_equal(rd(ecam(0, 2), 2), 0x0008);
	assert_int_equal(rd(ecam(0, 0x0a), 2), 0x0600);
	assert_int_equal(rd(ecam(0, 0x0e), 1), 0);
	for (unsigned bar = 0x10; bar < 0x28; bar += 4) {
		wr(ecam(0, bar), 4, UINT32_MAX);
		assert_int_equal(rd(ecam(0, bar), 4), 0);
	}
	assert_int_equal(rd(ecam(0, 0x34), 1), 0);
	assert_int_equal(rd(ecam(0, 0x100), 4), 0);
}

static void where_nothing_is_everything_reads_all_ones(void **state)
{
	(void)state;
	for (unsigned devfn = 1; devfn < 256; devfn++)
		assert_int_equal(rd(ecam(devfn, 0), 4), 0xffffffff);
	wr(ecam(8, 4), 4, 7);
}

static void an_access_reaches_its_function_as_made(void **state)
{
	struct probe p = a_probe();

	(void)state;
	assert_int_equal(pci_host_add(host, &p.func, 0x1a), 0);
	assert_int_equal(p.func.devfn, 0x1a);
	assert_int_equal(rd(ecam(0x1a, 0xffe), 2), 0xa5a5);
	assert_int_equal(p.off, 0xffe);
	assert_int_equal(p.len, 2);
	wr(ecam(0x1a, 0x43), 1, 0x1234567890abcdef);
	assert_int_equal(p.off, 0x43);
	assert_int_equal(p.len, 1);
	assert_int_equal(p.val, 0xef);
}

static void odd_sizes_and_alignments_never_reach_a_function(void **state)
{
	struct probe p = a_probe();

	(void)state;
	assert_int_equal(pci_host_add(host, &p.func, 8), 0);
	assert_true(rd(ecam(8, 0), 8) == UINT64_MAX);
	assert_int_equal(rd(ecam(8, 1), 4), 0xffffffff);
	assert_int_equal(rd(ecam(8, 2), 4), 0xffffffff);
	assert_int_equal(rd(ecam(8, 1), 2), 0xffff);
	assert_int_equal(rd(ecam(8, 0xfff), 2), 0xffff);
	assert_int_equal(rd(ecam(8, 0xffe), 4), 0xffffffff);
	wr(ecam(8, 0), 8, 0);
	wr(ecam(8, 3), 2, 0);
	assert_int_equal(p.accesses, 0);
}

static void slots_are_given_out_once(void **state)
{
	struct probe p[32];

	(void)state;
	for (unsigned i = 0; i < 32; i++)
		p[i] = a_probe();
	assert_int_equal(pci_host_add(host, &p[0].func, 0), -EBUSY);
	assert_int_equal(pci_host_add(host, &p[0].func, 256), -ENOSPC);
	assert_int_equal(pci_host_add(host, &p[0].func, 0x11), 0);
	/* device 2 has a function already, so it is not free */
	for (unsigned i = 1; i < 31; i++) {
		assert_int_equal(pci_host_add(host, &p[i].func, -1), 0);
		assert_int_equal(p[i].func.devfn, 8 * (i == 1 ? 1 : i + 1));
	}
	assert_int_equal(pci_host_add(host, &p[31].func, -1), -ENOSPC);
	pci_host_remove(host, &p[5].func);
	assert_int_equal(rd(ecam(p[5].func.devfn, 0), 4), 0xffffffff);
	assert_int_equal(pci_host_add(host, &p[31].func, -1), 0);
	assert_int_equal(p[31].func.devfn, p[5].func.devfn);
}

static void functions_that_share_a_device_are_marked_multi_function(void **state)
{
	struct probe a = a_probe(), b = a_probe(), c = a_probe();

	(void)state;
	assert_int_equal(pci_host_add(host, &a.func, 0x10), 0);
	assert_int_equal(pci_host_add(host, &c.func, 0x18), 0);
	assert_int_equal(rd(ecam(0x10, 0x0e), 1), 0);
	assert_int_equal(pci_host_add(host, &b.func, 0x11), 0);
	assert_int_equal(rd(ecam(0x10, 0x0e), 1), 0x80);
	assert_int_equal(rd(ecam(0x10, 0x0e), 2), 0x80);
	assert_int_equal(rd(ecam(0x11, 0x0c), 4), 0x800000);
	assert_int_equal(rd(ecam(0x10, 0x0c), 1), 0);
	assert_int_equal(rd(ecam(0x18, 0x0e), 1), 0);
}

static void no_two_bars_share_64_kib(void **state)
{
	static const struct {
		uint64_t len;
		bool high;
	} rows[] = {
		{0x10, 0},	{0x1000, 0}, {0x4000, 1},  {0x100000, 0},
		{0x1000, 1},	{0x80, 0},   {0x10000, 0}, {UINT64_C(1) << 32, 1},
		{0x2000000, 0}, {0x10, 1},
	};
	uint64_t got[ARRAY_SIZE(rows)];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		got[i] = pci_alloc_mem(host, rows[i].len, rows[i].high);
		assert_true(got[i]);
		assert_true(IS_ALIGNED(got[i], MAX(rows[i].len, 0x10000)));
		assert_true(pci_in_window(got[i], MAX(rows[i].len, 0x10000)));
		assert_int_equal(got[i] >= BIT(32), rows[i].high);
		for (size_t j = 0; j < i; j++)
			assert_true(got[i] + MAX(rows[i].len, 0x10000) <= got[j] ||
				    got[j] + MAX(rows[j].len, 0x10000) <= got[i]);
	}
}

static void a_full_window_says_so(void **state)
{
	(void)state;
	assert_int_equal(pci_alloc_mem(host, 0, true), 0);
	assert_int_equal(pci_alloc_mem(host, 0x3000, true), 0);
	assert_int_equal(pci_alloc_mem(host, UINT64_C(1) << 63, true), 0);
	assert_int_equal(pci_alloc_mem(host, 0x10000000, false), 0x10000000);
	assert_int_equal(pci_alloc_mem(host, 0x10000000, false), 0x20000000);
	assert_int_equal(pci_alloc_mem(host, 0x1000, false), 0);
	assert_true(pci_alloc_mem(host, 0x10000000, true));
}

static void only_the_windows_are_decoded(void **state)
{
	(void)state;
	assert_true(pci_in_window(LAYOUT_PCI_MEM32_BASE, LAYOUT_PCI_MEM32_LEN));
	assert_true(pci_in_window(LAYOUT_PCI_MEM64_BASE, LAYOUT_PCI_MEM64_LEN));
	assert_false(pci_in_window(LAYOUT_PCI_MEM32_BASE - 1, 2));
	assert_false(pci_in_window(LAYOUT_PCI_MEM32_BASE + 1, LAYOUT_PCI_MEM32_LEN));
	assert_false(pci_in_window(LAYOUT_RAM_LOW_BASE, 0x1000));
	assert_false(pci_in_window(0, 0x1000));
	assert_false(pci_in_window(UINT64_MAX - 0xfff, 0x1000));
	assert_false(pci_in_window(UINT64_MAX - 0xfff, 0x2000));
	assert_false(pci_in_window(LAYOUT_PCI_MEM64_BASE, UINT64_MAX));
	assert_false(pci_in_window(LAYOUT_PCI_MEM32_BASE, 0));
}

static void ports_are_given_out_once_and_never_port_0(void **state)
{
	static const uint32_t lens[] = {0x20, 4, 0x100, 8, 0x1000, 0x40};
	uint32_t got[ARRAY_SIZE(lens)];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		got[i] = pci_alloc_io(host, lens[i]);
		assert_true(got[i] && IS_ALIGNED(got[i], lens[i]) && pci_in_io(got[i], lens[i]));
		for (size_t j = 0; j < i; j++)
			assert_true(got[i] + lens[i] <= got[j] || got[j] + lens[j] <= got[i]);
	}
	assert_int_equal(pci_alloc_io(host, 0), 0);
	assert_int_equal(pci_alloc_io(host, 24), 0);
	assert_int_equal(pci_alloc_io(host, LAYOUT_PCI_IO_LEN), 0);
	assert_int_equal(pci_alloc_io(host, 0x8000), 0x8000);
	assert_int_equal(pci_alloc_io(host, 4), 0);
	assert_true(pci_in_io(0, LAYOUT_PCI_IO_LEN));
	assert_true(pci_in_io(0xfffc, 4));
	assert_false(pci_in_io(0xfffc, 8));
	assert_false(pci_in_io(0x10000, 4));
	assert_false(pci_in_io(4, LAYOUT_PCI_IO_LEN));
	assert_false(pci_in_io(UINT64_MAX, 4));
	assert_false(pci_in_io(0, 0));
}

static void pins_are_swizzled_over_the_lines(void **state)
{
	(void)state;
	assert_int_equal(pci_intx_line(8 * 0, 1), 0);
	assert_int_equal(pci_intx_line(8 * 1, 1), 1);
	assert_int_equal(pci_intx_line(8 * 1 + 1, 2), 2);
	assert_int_equal(pci_intx_line(8 * 3, 4), 2);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, a_host, no_host)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_bridge_is_a_generic_host_bridge),
		TEST(where_nothing_is_everything_reads_all_ones),
		TEST(an_access_reaches_its_function_as_made),
		TEST(odd_sizes_and_alignments_never_reach_a_function),
		TEST(slots_are_given_out_once),
		TEST(functions_that_share_a_device_are_marked_multi_function),
		TEST(no_two_bars_share_64_kib),
		TEST(a_full_window_says_so),
		TEST(only_the_windows_are_decoded),
		TEST(ports_are_given_out_once_and_never_port_0),
		TEST(pins_are_swizzled_over_the_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
