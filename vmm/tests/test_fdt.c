/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libfdt.h>

#include "iommu/base.h"
#include "vmm/boot.h"
#include "vmm/fdt.h"
#include "vmm/pci.h"

static uint8_t ram[1];

struct built {
	struct gmem gmem;
	struct fdt_config cfg;
	void *fdt;
};

/* A machine with everything in it. */
static int setup(void **state)
{
	struct built *b = calloc(1, sizeof(*b));

	b->fdt = malloc(FDT_MAX_LEN);
	gmem_add(&b->gmem, LAYOUT_RAM_LOW_BASE, LAYOUT_RAM_LOW_MAX, ram);
	gmem_add(&b->gmem, LAYOUT_RAM_HIGH_BASE, 0x40000000, ram);
	b->cfg = (struct fdt_config){
		.cmdline = "console=ttyS0 quiet",
		.initrd = 0x48000000,
		.initrd_len = 0x123457,
		.gmem = &b->gmem,
		.vcpus = 3,
		.mpidr = {0x80000000, 0x80000001, 0x180000102},
		.nr_virtio = 4,
		.viommu_slot = 2,
		.pci = true,
		.nr_requesters = 5,
		.requesters = {{0x10, -1}, {0x8, -1}, {0x11, -1}, {0x12, -1}, {0x9, -1}},
	};
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct built *b = *state;

	free(b->fdt);
	free(b);
	return 0;
}

static void build(struct built *b)
{
	int len = fdt_build(&b->cfg, b->fdt, FDT_MAX_LEN);

	assert_true(len > 0);
	assert_int_equal(fdt_check_full(b->fdt, (size_t)len), 0);
	assert_int_equal(fdt_totalsize(b->fdt), len);
}

static int node(const void *fdt, const char *path)
{
	int off = fdt_path_offset(fdt, path);

	if (off < 0)
		fail_msg("no node %s", path);
	return off;
}

static void has_cells(const void *fdt, const char *path, const char *name, const uint32_t *want,
		      size_t nr)
{
	int len;
	const uint8_t *got = fdt_getprop(fdt, node(fdt, path), name, &len);

	if (!got)
		fail_msg("%s has no %s", path, name);
	assert_int_equal(len, nr * 4);
	for (size_t i = 0; i < nr; i++) {
		if (fdt32_ld((const fdt32_t *)(got + 4 * i)) != want[i])
			fail_msg("%s: %s: cell %zu is 0x%x, not 0x%x", path, name, i,
				 fdt32_ld((const fdt32_t *)(got + 4 * i)), want[i]);
	}
}

#define HAS_CELLS(fdt, path, name, ...)                                                            \
	has_cells(fdt, path, name, (const uint32_t[]){__VA_ARGS__},                                \
		  ARRAY_SIZE(((const uint32_t[]){__VA_ARGS__})))

static void has_str(const void *fdt, const char *path, const char *name, const char *want)
{
	const char *got = fdt_getprop(fdt, node(fdt, path), name, NULL);

	assert_non_null(got);
	assert_string_equal(got, want);
}

static bool has_prop(const void *fdt, const char *path, const char *name)
{
	return fdt_getprop(fdt, node(fdt, path), name, NULL);
}

static uint32_t phandle(const void *fdt, const char *path)
{
	uint32_t h = fdt_get_phandle(fdt, node(fdt, path));

	assert_true(h != 0 && h != UINT32_MAX);
	assert_int_equal(fdt_node_offset_by_phandle(fdt, h), node(fdt, path));
	return h;
}

static void chosen_says_what_to_boot(void **state)
{
	struct built *b = *state;
	int len;

	build(b);
	has_str(b->fdt, "/chosen", "bootargs", "console=ttyS0 quiet");
	HAS_CELLS(b->fdt, "/chosen", "linux,initrd-start", 0, 0x48000000);
	HAS_CELLS(b->fdt, "/chosen", "linux,initrd-end", 0, 0x48123457);
	HAS_CELLS(b->fdt, "/chosen", "linux,pci-probe-only", 1);
	assert_non_null(fdt_getprop(b->fdt, node(b->fdt, "/chosen"), "kaslr-seed", &len));
	assert_int_equal(len, 8);
	assert_non_null(fdt_getprop(b->fdt, node(b->fdt, "/chosen"), "rng-seed", &len));
	assert_true(len >= 32);

	b->cfg.initrd_len = 0;
	build(b);
	assert_false(has_prop(b->fdt, "/chosen", "linux,initrd-start"));
	assert_false(has_prop(b->fdt, "/chosen", "linux,initrd-end"));
}

static void two_guests_get_different_seeds(void **state)
{
	static const char *const names[] = {"kaslr-seed", "rng-seed"};
	struct built *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		uint8_t first[256];
		const void *got;
		int len;

		build(b);
		got = fdt_getprop(b->fdt, node(b->fdt, "/chosen"), names[i], &len);
		assert_true(len > 0 && len <= (int)sizeof(first));
		memcpy(first, got, (size_t)len);
		build(b);
		got = fdt_getprop(b->fdt, node(b->fdt, "/chosen"), names[i], &len);
		assert_memory_not_equal(first, got, (size_t)len);
	}
}

static void the_console_is_found_through_stdout_path(void **state)
{
	struct built *b = *state;
	const char *out, *path;
	char alias[32];

	build(b);
	out = fdt_getprop(b->fdt, node(b->fdt, "/chosen"), "stdout-path", NULL);
	assert_non_null(out);
	snprintf(alias, sizeof(alias), "%.*s", (int)strcspn(out, ":"), out);
	path = fdt_get_alias(b->fdt, alias);
	assert_non_null(path);
	has_str(b->fdt, path, "compatible", "ns16550a");
	HAS_CELLS(b->fdt, path, "reg", 0, LAYOUT_UART_BASE, 0, LAYOUT_UART_LEN);
	HAS_CELLS(b->fdt, path, "interrupts", 0, LAYOUT_SPI_UART, 4);
	HAS_CELLS(b->fdt, path, "clock-frequency", 1843200);
}

static void every_span_of_ram_is_a_memory_node(void **state)
{
	struct built *b = *state;

	build(b);
	HAS_CELLS(b->fdt, "/memory@40000000", "reg", 0, LAYOUT_RAM_LOW_BASE, 0, LAYOUT_RAM_LOW_MAX);
	HAS_CELLS(b->fdt, "/memory@100000000", "reg", 1, 0, 0, 0x40000000);
	has_str(b->fdt, "/memory@100000000", "device_type", "memory");
}

static void cpus_carry_their_affinity_only(void **state)
{
	struct built *b = *state;

	build(b);
	HAS_CELLS(b->fdt, "/cpus/cpu@0", "reg", 0, 0);
	HAS_CELLS(b->fdt, "/cpus/cpu@1", "reg", 0, 1);
	HAS_CELLS(b->fdt, "/cpus/cpu@100000102", "reg", 1, 0x102);
	has_str(b->fdt, "/cpus/cpu@1", "enable-method", "psci");
	has_str(b->fdt, "/psci", "method", "hvc");
	assert_int_equal(fdt_node_check_compatible(b->fdt, node(b->fdt, "/psci"), "arm,psci-1.0"),
			 0);
	assert_int_equal(fdt_node_check_compatible(b->fdt, node(b->fdt, "/psci"), "arm,psci-0.2"),
			 0);
}

static void the_gic_has_a_redistributor_per_cpu_and_an_its(void **state)
{
	static const char gic[] = "/interrupt-controller@1000000";
	static const char its[] = "/interrupt-controller@1000000/msi-controller@1020000";
	struct built *b = *state;

	build(b);
	has_str(b->fdt, gic, "compatible", "arm,gic-v3");
	HAS_CELLS(b->fdt, gic, "#interrupt-cells", 3);
	HAS_CELLS(b->fdt, gic, "reg", 0, LAYOUT_GICD_BASE, 0, LAYOUT_GICD_LEN, 0, LAYOUT_GICR_BASE,
		  0, 3 * LAYOUT_GICR_LEN);
	HAS_CELLS(b->fdt, "/", "interrupt-parent", phandle(b->fdt, gic));
	has_str(b->fdt, its, "compatible", "arm,gic-v3-its");
	HAS_CELLS(b->fdt, its, "reg", 0, LAYOUT_ITS_BASE, 0, LAYOUT_ITS_LEN);
	HAS_CELLS(b->fdt, its, "#msi-cells", 1);
	HAS_CELLS(b->fdt, "/timer", "interrupts", 1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4);
	assert_true(has_prop(b->fdt, "/timer", "always-on"));
}

static void the_rtc_has_the_clock_a_primecell_needs(void **state)
{
	struct built *b = *state;
	int rtc;

	build(b);
	rtc = node(b->fdt, "/rtc@2010000");
	assert_int_equal(fdt_node_check_compatible(b->fdt, rtc, "arm,pl031"), 0);
	assert_int_equal(fdt_node_check_compatible(b->fdt, rtc, "arm,primecell"), 0);
	has_str(b->fdt, "/rtc@2010000", "clock-names", "apb_pclk");
	HAS_CELLS(b->fdt, "/rtc@2010000", "clocks", phandle(b->fdt, "/apb-clock"));
	HAS_CELLS(b->fdt, "/rtc@2010000", "interrupts", 0, LAYOUT_SPI_RTC, 4);
}

static void every_virtio_slot_is_coherent_and_one_is_the_iommu(void **state)
{
	static const char *const paths[] = {"/virtio@3000000", "/virtio@3010000", "/iommu@3020000",
					    "/virtio@3030000"};
	struct built *b = *state;

	build(b);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		has_str(b->fdt, paths[i], "compatible", "virtio,mmio");
		HAS_CELLS(b->fdt, paths[i], "reg", 0,
			  (uint32_t)(LAYOUT_VIRTIO_BASE + i * LAYOUT_VIRTIO_STRIDE), 0, 0x200);
		HAS_CELLS(b->fdt, paths[i], "interrupts", 0, LAYOUT_SPI_VIRTIO + (uint32_t)i, 4);
		assert_true(has_prop(b->fdt, paths[i], "dma-coherent"));
		assert_int_equal(has_prop(b->fdt, paths[i], "#iommu-cells"), i == 2);
	}
	HAS_CELLS(b->fdt, paths[2], "#iommu-cells", 1);
	assert_true(fdt_path_offset(b->fdt, "/virtio@3040000") < 0);
}

static const char pcie[] = "/pcie@30000000";

static void the_pci_host_has_its_windows(void **state)
{
	struct built *b = *state;

	build(b);
	has_str(b->fdt, pcie, "compatible", "pci-host-ecam-generic");
	has_str(b->fdt, pcie, "device_type", "pci");
	HAS_CELLS(b->fdt, pcie, "reg", 0, LAYOUT_PCI_ECAM_BASE, 0, LAYOUT_PCI_ECAM_LEN);
	HAS_CELLS(b->fdt, pcie, "bus-range", 0, 0);
	HAS_CELLS(b->fdt, pcie, "ranges", 0x01000000, 0, 0, 0, LAYOUT_PCI_IO_BASE, 0,
		  LAYOUT_PCI_IO_LEN, 0x02000000, 0, LAYOUT_PCI_MEM32_BASE, 0, LAYOUT_PCI_MEM32_BASE,
		  0, LAYOUT_PCI_MEM32_LEN, 0x03000000, 0xc, 0, 0xc, 0, 4, 0);
	HAS_CELLS(b->fdt, pcie, "msi-map", 0,
		  phandle(b->fdt, "/interrupt-controller@1000000/msi-controller@1020000"), 0,
		  0x10000);
	assert_true(has_prop(b->fdt, pcie, "dma-coherent"));

	b->cfg.pci = false;
	build(b);
	assert_true(fdt_path_offset(b->fdt, pcie) < 0);
	assert_false(has_prop(b->fdt, "/chosen", "linux,pci-probe-only"));
}

/* Looks an interrupt up as the guest does: mask the unit address, find the entry. */
static void intx_of_every_pin_reaches_the_line_of_the_swizzle(void **state)
{
	struct built *b = *state;
	const fdt32_t *map, *mask;
	uint32_t gic;
	int len;

	build(b);
	gic = phandle(b->fdt, "/interrupt-controller@1000000");
	mask = fdt_getprop(b->fdt, node(b->fdt, pcie), "interrupt-map-mask", &len);
	assert_int_equal(len, 4 * 4);
	map = fdt_getprop(b->fdt, node(b->fdt, pcie), "interrupt-map", &len);
	assert_int_equal(len % 40, 0);
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		for (unsigned pin = 1; pin <= 4; pin++) {
			unsigned found = 0;

			for (int i = 0; i < len / 40; i++) {
				const fdt32_t *e = map + 10 * i;

				if (fdt32_ld(&e[0]) != (devfn << 8 & fdt32_ld(&mask[0])) ||
				    fdt32_ld(&e[3]) != (pin & fdt32_ld(&mask[3])))
					continue;
				found++;
				assert_int_equal(fdt32_ld(&e[4]), gic);
				assert_int_equal(fdt32_ld(&e[7]), 0);
				assert_int_equal(fdt32_ld(&e[8]),
						 LAYOUT_SPI_INTX +
							 pci_intx_line((uint8_t)devfn, pin));
				assert_int_equal(fdt32_ld(&e[9]), 4);
			}
			assert_int_equal(found, 1);
		}
	}
}

static void iommu_map_holds_the_given_requesters_in_runs(void **state)
{
	struct built *b = *state;
	uint32_t iommu;

	build(b);
	iommu = phandle(b->fdt, "/iommu@3020000");
	HAS_CELLS(b->fdt, pcie, "iommu-map", 0x8, iommu, 0x8, 2, 0x10, iommu, 0x10, 3);

	b->cfg.nr_requesters = 1;
	build(b);
	HAS_CELLS(b->fdt, pcie, "iommu-map", 0x10, iommu, 0x10, 1);

	b->cfg.nr_requesters = 256;
	for (unsigned i = 0; i < 256; i++)
		b->cfg.requesters[i] = (struct fdt_requester){(uint16_t)(2 * i),
							      -1}; /* the most runs there can be */
	build(b);
	assert_true(has_prop(b->fdt, pcie, "iommu-map"));
}

static void a_dart_of_the_guests_has_a_node_and_its_requester(void **state)
{
	struct built *b = *state;
	uint32_t viommu, dart;

	b->cfg.nr_darts = 2;
	b->cfg.darts[0] = (struct fdt_dart){"apple,t8103-dart", 1};
	b->cfg.darts[1] = (struct fdt_dart){"apple,t8110-dart", 5};
	b->cfg.nr_requesters = 4;
	b->cfg.requesters[1] = (struct fdt_requester){0x18, 1};
	b->cfg.requesters[2] = (struct fdt_requester){0x20, -1};
	b->cfg.requesters[3] = (struct fdt_requester){0x19, -1};
	build(b);
	has_str(b->fdt, "/iommu@4000000", "compatible", "apple,t8103-dart");
	has_str(b->fdt, "/iommu@4010000", "compatible", "apple,t8110-dart");
	HAS_CELLS(b->fdt, "/iommu@4010000", "reg", 0, LAYOUT_DART_BASE + LAYOUT_DART_STRIDE, 0,
		  LAYOUT_DART_LEN);
	HAS_CELLS(b->fdt, "/iommu@4010000", "interrupts", 0, LAYOUT_SPI_DART + 1, 4);
	HAS_CELLS(b->fdt, "/iommu@4010000", "#iommu-cells", 1);
	viommu = phandle(b->fdt, "/iommu@3020000");
	dart = phandle(b->fdt, "/iommu@4010000");
	assert_int_not_equal(dart, phandle(b->fdt, "/iommu@4000000"));
	HAS_CELLS(b->fdt, pcie, "iommu-map", 0x10, viommu, 0x10, 1, 0x18, dart, 5, 1, 0x19, viommu,
		  0x19, 1, 0x20, viommu, 0x20, 1);

	/* Without a virtio-iommu only those behind a DART are translated. */
	b->cfg.viommu_slot = -1;
	build(b);
	HAS_CELLS(b->fdt, pcie, "iommu-map", 0x18, phandle(b->fdt, "/iommu@4010000"), 5, 1);
}

static void without_an_iommu_nothing_is_translated(void **state)
{
	struct built *b = *state;

	b->cfg.viommu_slot = -1;
	build(b);
	assert_false(has_prop(b->fdt, pcie, "iommu-map"));
	assert_true(fdt_path_offset(b->fdt, "/virtio@3020000") > 0);

	b->cfg.viommu_slot = 2;
	b->cfg.nr_requesters = 0;
	build(b);
	assert_false(has_prop(b->fdt, pcie, "iommu-map"));
}

/* No size, up to the one that fits, may write past its end or give a broken tree. */
static void a_tree_that_does_not_fit_is_refused(void **state)
{
	struct built *b = *state;
	int len = fdt_build(&b->cfg, b->fdt, FDT_MAX_LEN);

	assert_true(len > 0);
	for (size_t size = 0; size < (size_t)len; size++) {
		uint8_t *buf = malloc(size ? size : 1); /* its own, for ASan to watch the end */

		assert_int_equal(fdt_build(&b->cfg, buf, size), -ENOSPC);
		free(buf);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(chosen_says_what_to_boot),
		TEST(two_guests_get_different_seeds),
		TEST(the_console_is_found_through_stdout_path),
		TEST(every_span_of_ram_is_a_memory_node),
		TEST(cpus_carry_their_affinity_only),
		TEST(the_gic_has_a_redistributor_per_cpu_and_an_its),
		TEST(the_rtc_has_the_clock_a_primecell_needs),
		TEST(every_virtio_slot_is_coherent_and_one_is_the_iommu),
		TEST(the_pci_host_has_its_windows),
		TEST(intx_of_every_pin_reaches_the_line_of_the_swizzle),
		TEST(iommu_map_holds_the_given_requesters_in_runs),
		TEST(a_dart_of_the_guests_has_a_node_and_its_requester),
		TEST(without_an_iommu_nothing_is_translated),
		TEST(a_tree_that_does_not_fit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
