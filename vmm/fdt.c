/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/fdt.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <libfdt.h>

#include "iommu/base.h"
#include "virtio/mmio.h"
#include "vmm/pci.h"

enum {
	PHANDLE_GIC = 1,
	PHANDLE_ITS,
	PHANDLE_CLOCK,
	PHANDLE_VIOMMU,
	PHANDLE_DART, /* + number */
};

/* Interrupt specifier cells. Source: Linux Documentation/devicetree/bindings/interrupt-controller/
 * arm,gic-v3.yaml. */
#define IRQ_SPI	       0
#define IRQ_PPI	       1
#define IRQ_LEVEL_HIGH 4

/* PCI address cell 0. Source: IEEE 1275 PCI bus binding, section 2.2.1.1. */
#define PCI_CELL_IO    0x01000000u
#define PCI_CELL_MEM32 0x02000000u
#define PCI_CELL_MEM64 0x03000000u

/* Bits of MPIDR_EL1 that name a CPU: Aff3 and Aff2..Aff0. */
#define MPIDR_AFFINITY (GENMASK(39, 32) | GENMASK(23, 0))

/* A PrimeCell's ID registers, said once in the tree so that the guest need not read them: PL031. */
#define PL031_PERIPHID 0x00041031u

/* A standard PC UART's input clock, Hz; 115200 baud is a divisor of 1. */
#define UART_CLOCK 1843200u

#define RNG_SEED_LEN 64 /* bytes; Linux takes whatever is there */

/* The tree being written; the first error sticks and turns what follows into nothing. */
struct tree {
	void *buf;
	int err; /* of libfdt */
};

static void begin(struct tree *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void begin(struct tree *t, const char *fmt, ...)
{
	char name[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	if (!t->err)
		t->err = fdt_begin_node(t->buf, name);
}

static void end(struct tree *t)
{
	if (!t->err)
		t->err = fdt_end_node(t->buf);
}

static void prop(struct tree *t, const char *name, const void *val, size_t len)
{
	if (!t->err)
		t->err = len > INT_MAX ? -FDT_ERR_NOSPACE
				       : fdt_property(t->buf, name, val, (int)len);
}

static void prop_flag(struct tree *t, const char *name)
{
	prop(t, name, NULL, 0);
}

static void prop_str(struct tree *t, const char *name, const char *val)
{
	prop(t, name, val, strlen(val) + 1);
}

static void prop_cells(struct tree *t, const char *name, const uint32_t *cells, size_t nr)
{
	void *val;

	if (t->err)
		return;
	if (nr > INT_MAX / sizeof(*cells)) {
		t->err = -FDT_ERR_NOSPACE;
		return;
	}
	t->err = fdt_property_placeholder(t->buf, name, (int)(nr * sizeof(*cells)), &val);
	for (size_t i = 0; !t->err && i < nr; i++)
		fdt32_st((uint8_t *)val + i * sizeof(*cells), cells[i]);
}

#define PROP_CELLS(t, name, ...)                                                                   \
	prop_cells(t, name, (const uint32_t[]){__VA_ARGS__},                                       \
		   ARRAY_SIZE(((const uint32_t[]){__VA_ARGS__})))

/* The two cells of a 64-bit value. */
#define CELLS64(v) (uint32_t)((uint64_t)(v) >> 32), (uint32_t)(v)

static void prop_reg(struct tree *t, uint64_t base, uint64_t len)
{
	PROP_CELLS(t, "reg", CELLS64(base), CELLS64(len));
}

/* Linux takes the seeds out of the tree before anyone in the guest can read it. */
static int write_chosen(struct tree *t, const struct fdt_config *cfg)
{
	uint8_t seed[sizeof(uint64_t) + RNG_SEED_LEN]; /* <= 256: getrandom never gives less */

	if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		return -EIO;
	begin(t, "chosen");
	prop_str(t, "bootargs", cfg->cmdline);
	prop_str(t, "stdout-path", "serial0:115200n8");
	if (cfg->initrd_len) {
		PROP_CELLS(t, "linux,initrd-start", CELLS64(cfg->initrd));
		PROP_CELLS(t, "linux,initrd-end", CELLS64(cfg->initrd + cfg->initrd_len));
	}
	prop(t, "kaslr-seed", seed, sizeof(uint64_t));
	prop(t, "rng-seed", seed + sizeof(uint64_t), RNG_SEED_LEN);
	/* A guest with small pages packs small BARs into one host page, which would have to be
	 * trapped; ours sit alone in theirs, so ask it to leave them there. */
	if (cfg->pci)
		PROP_CELLS(t, "linux,pci-probe-only", 1);
	end(t);
	return 0;
}

static void write_cpus(struct tree *t, const struct fdt_config *cfg)
{
	begin(t, "cpus");
	PROP_CELLS(t, "#address-cells", 2);
	PROP_CELLS(t, "#size-cells", 0);
	for (unsigned i = 0; i < cfg->vcpus; i++) {
		uint64_t mpidr = cfg->mpidr[i] & MPIDR_AFFINITY;

		begin(t, "cpu@%" PRIx64, mpidr);
		prop_str(t, "device_type", "cpu");
		prop_str(t, "compatible", "arm,armv8");
		prop_str(t, "enable-method", "psci");
		PROP_CELLS(t, "reg", CELLS64(mpidr));
		end(t);
	}
	end(t);

	begin(t, "psci");
	prop(t, "compatible", "arm,psci-1.0\0arm,psci-0.2", sizeof("arm,psci-1.0\0arm,psci-0.2"));
	prop_str(t, "method", "hvc");
	end(t);
}

static void write_memory(struct tree *t, const struct gmem *gmem)
{
	for (unsigned i = 0; i < gmem->nr_spans; i++) {
		const struct gmem_span *span = &gmem->spans[i];

		begin(t, "memory@%" PRIx64, span->gpa);
		prop_str(t, "device_type", "memory");
		prop_reg(t, span->gpa, span->len);
		end(t);
	}
}

static void write_gic(struct tree *t, const struct fdt_config *cfg)
{
	begin(t, "interrupt-controller@%" PRIx64, (uint64_t)LAYOUT_GICD_BASE);
	prop_str(t, "compatible", "arm,gic-v3");
	prop_flag(t, "interrupt-controller");
	PROP_CELLS(t, "#interrupt-cells", 3);
	PROP_CELLS(t, "#address-cells", 2);
	PROP_CELLS(t, "#size-cells", 2);
	prop_flag(t, "ranges");
	PROP_CELLS(t, "reg", CELLS64(LAYOUT_GICD_BASE), CELLS64(LAYOUT_GICD_LEN),
		   CELLS64(LAYOUT_GICR_BASE), CELLS64(LAYOUT_GICR_LEN * cfg->vcpus));
	PROP_CELLS(t, "phandle", PHANDLE_GIC);

	begin(t, "msi-controller@%" PRIx64, (uint64_t)LAYOUT_ITS_BASE);
	prop_str(t, "compatible", "arm,gic-v3-its");
	prop_flag(t, "msi-controller");
	PROP_CELLS(t, "#msi-cells", 1);
	prop_reg(t, LAYOUT_ITS_BASE, LAYOUT_ITS_LEN);
	PROP_CELLS(t, "phandle", PHANDLE_ITS);
	end(t);
	end(t);
}

/* Secure, non-secure, virtual, hypervisor. Source: bindings/timer/arm,arch_timer.yaml. */
static void write_timer(struct tree *t)
{
	begin(t, "timer");
	prop_str(t, "compatible", "arm,armv8-timer");
	PROP_CELLS(t, "interrupts", IRQ_PPI, 13, IRQ_LEVEL_HIGH, IRQ_PPI, 14, IRQ_LEVEL_HIGH,
		   IRQ_PPI, 11, IRQ_LEVEL_HIGH, IRQ_PPI, 10, IRQ_LEVEL_HIGH);
	prop_flag(t, "always-on");
	end(t);
}

static void write_uart(struct tree *t)
{
	char path[32];

	snprintf(path, sizeof(path), "/serial@%" PRIx64, (uint64_t)LAYOUT_UART_BASE);
	begin(t, "aliases");
	prop_str(t, "serial0", path);
	end(t);

	begin(t, "%s", path + 1);
	prop_str(t, "compatible", "ns16550a");
	prop_reg(t, LAYOUT_UART_BASE, LAYOUT_UART_LEN);
	PROP_CELLS(t, "interrupts", IRQ_SPI, LAYOUT_SPI_UART, IRQ_LEVEL_HIGH);
	PROP_CELLS(t, "clock-frequency", UART_CLOCK);
	PROP_CELLS(t, "reg-shift", 0);
	/*
	 * Sending takes no time, so a driver may hand over more than the 16 bytes of a real FIFO
	 * for each interrupt. Bounded, because Linux does it with interrupts off. Source: Linux
	 * Documentation/devicetree/bindings/serial/8250.yaml.
	 */
	PROP_CELLS(t, "fifo-size", 256);
	PROP_CELLS(t, "tx-threshold", 1);
	end(t);
}

static void write_rtc(struct tree *t)
{
	begin(t, "apb-clock");
	prop_str(t, "compatible", "fixed-clock");
	PROP_CELLS(t, "#clock-cells", 0);
	PROP_CELLS(t, "clock-frequency", 24000000);
	PROP_CELLS(t, "phandle", PHANDLE_CLOCK);
	end(t);

	begin(t, "rtc@%" PRIx64, (uint64_t)LAYOUT_RTC_BASE);
	prop(t, "compatible", "arm,pl031\0arm,primecell", sizeof("arm,pl031\0arm,primecell"));
	PROP_CELLS(t, "arm,primecell-periphid", PL031_PERIPHID);
	prop_reg(t, LAYOUT_RTC_BASE, LAYOUT_RTC_LEN);
	PROP_CELLS(t, "interrupts", IRQ_SPI, LAYOUT_SPI_RTC, IRQ_LEVEL_HIGH);
	PROP_CELLS(t, "clocks", PHANDLE_CLOCK);
	prop_str(t, "clock-names", "apb_pclk");
	end(t);
}

static void write_virtio(struct tree *t, const struct fdt_config *cfg)
{
	for (unsigned i = 0; i < cfg->nr_virtio; i++) {
		uint64_t base = LAYOUT_VIRTIO_BASE + i * LAYOUT_VIRTIO_STRIDE;
		bool viommu = (int)i == cfg->viommu_slot;

		begin(t, "%s@%" PRIx64, viommu ? "iommu" : "virtio", base);
		prop_str(t, "compatible", "virtio,mmio");
		prop_reg(t, base, VIRTIO_MMIO_LEN);
		PROP_CELLS(t, "interrupts", IRQ_SPI, LAYOUT_SPI_VIRTIO + i, IRQ_LEVEL_HIGH);
		prop_flag(t, "dma-coherent");
		if (viommu) {
			PROP_CELLS(t, "#iommu-cells", 1);
			PROP_CELLS(t, "phandle", PHANDLE_VIOMMU);
		}
		end(t);
	}
}

/* Source: Linux Documentation/devicetree/bindings/iommu/apple,dart.yaml. */
static void write_darts(struct tree *t, const struct fdt_config *cfg)
{
	for (unsigned i = 0; i < cfg->nr_darts; i++) {
		uint64_t base = LAYOUT_DART_BASE + i * LAYOUT_DART_STRIDE;

		begin(t, "iommu@%" PRIx64, base);
		prop_str(t, "compatible", cfg->darts[i].compatible);
		prop_reg(t, base, LAYOUT_DART_LEN);
		PROP_CELLS(t, "interrupts", IRQ_SPI, LAYOUT_SPI_DART + i, IRQ_LEVEL_HIGH);
		PROP_CELLS(t, "#iommu-cells", 1);
		PROP_CELLS(t, "phandle", PHANDLE_DART + i);
		end(t);
	}
}

static int compare_rids(const void *a, const void *b)
{
	return ((const struct fdt_requester *)a)->rid - ((const struct fdt_requester *)b)->rid;
}

/* Linux takes every requester in iommu-map for a translated one, so the rest must not be in it. */
static void prop_iommu_map(struct tree *t, const struct fdt_config *cfg)
{
	struct fdt_requester all[ARRAY_SIZE(cfg->requesters)];
	uint32_t cells[4 * ARRAY_SIZE(all)];
	size_t nr = MIN(cfg->nr_requesters, ARRAY_SIZE(all)), used = 0;

	memcpy(all, cfg->requesters, nr * sizeof(all[0]));
	qsort(all, nr, sizeof(all[0]), compare_rids);
	for (size_t i = 0; i < nr; i++) {
		bool dart = all[i].dart >= 0;

		if (!dart && cfg->viommu_slot < 0)
			continue;
		if (i && all[i].rid == all[i - 1].rid)
			continue;
		/* One entry for endpoints in a row; of a DART, each requester has the same stream.
		 */
		if (used && !dart && cells[used - 3] == PHANDLE_VIOMMU &&
		    all[i].rid == cells[used - 4] + cells[used - 1]) {
			cells[used - 1]++;
			continue;
		}
		cells[used++] = all[i].rid;
		cells[used++] = dart ? PHANDLE_DART + (uint32_t)all[i].dart : PHANDLE_VIOMMU;
		cells[used++] = dart ? cfg->darts[all[i].dart].sid : all[i].rid;
		cells[used++] = 1;
	}
	if (used)
		prop_cells(t, "iommu-map", cells, used);
}

/* The swizzle repeats every 4 devices, so 4 devices of 4 pins stand for all of them. */
static void prop_interrupt_map(struct tree *t)
{
	enum { DEVICES = 4, PINS = 4, ENTRY = 4 + 1 + 2 + 3 };
	uint32_t cells[DEVICES * PINS * ENTRY];
	size_t used = 0;

	for (unsigned dev = 0; dev < DEVICES; dev++) {
		for (unsigned pin = 1; pin <= PINS; pin++) {
			const uint32_t entry[ENTRY] = {
				dev << 11,
				0,
				0,
				pin,
				PHANDLE_GIC,
				0,
				0,
				IRQ_SPI,
				LAYOUT_SPI_INTX + pci_intx_line((uint8_t)(dev << 3), pin),
				IRQ_LEVEL_HIGH,
			};

			memcpy(&cells[used], entry, sizeof(entry));
			used += ENTRY;
		}
	}
	PROP_CELLS(t, "interrupt-map-mask", (DEVICES - 1) << 11, 0, 0, 7);
	prop_cells(t, "interrupt-map", cells, used);
}

/*
 * The 64-bit window is not marked prefetchable: Linux, told to leave BARs where they are, drops a
 * non-prefetchable 64-bit BAR (an NVMe's) in a prefetchable window, but takes either kind in this
 * one. Source: Linux drivers/pci/pci.c, pci_find_parent_resource().
 */
static void write_pci(struct tree *t, const struct fdt_config *cfg)
{
	begin(t, "pcie@%" PRIx64, (uint64_t)LAYOUT_PCI_ECAM_BASE);
	prop_str(t, "compatible", "pci-host-ecam-generic");
	prop_str(t, "device_type", "pci");
	PROP_CELLS(t, "#address-cells", 3);
	PROP_CELLS(t, "#size-cells", 2);
	PROP_CELLS(t, "#interrupt-cells", 1);
	prop_reg(t, LAYOUT_PCI_ECAM_BASE, LAYOUT_PCI_ECAM_LEN);
	PROP_CELLS(t, "bus-range", 0, 0);
	PROP_CELLS(t, "linux,pci-domain", 0);
	prop_flag(t, "dma-coherent");
	PROP_CELLS(t, "ranges", PCI_CELL_IO, CELLS64(0), CELLS64(LAYOUT_PCI_IO_BASE),
		   CELLS64(LAYOUT_PCI_IO_LEN), PCI_CELL_MEM32, CELLS64(LAYOUT_PCI_MEM32_BASE),
		   CELLS64(LAYOUT_PCI_MEM32_BASE), CELLS64(LAYOUT_PCI_MEM32_LEN), PCI_CELL_MEM64,
		   CELLS64(LAYOUT_PCI_MEM64_BASE), CELLS64(LAYOUT_PCI_MEM64_BASE),
		   CELLS64(LAYOUT_PCI_MEM64_LEN));
	prop_interrupt_map(t);
	PROP_CELLS(t, "msi-map", 0, PHANDLE_ITS, 0, 0x10000);
	prop_iommu_map(t, cfg);
	end(t);
}

int fdt_build(const struct fdt_config *cfg, void *buf, size_t size)
{
	struct tree t = {.buf = buf};
	int ret;

	t.err = fdt_create(buf, (int)MIN(size, (size_t)INT_MAX));
	if (!t.err)
		t.err = fdt_finish_reservemap(buf);

	begin(&t, "%s", "");
	prop_str(&t, "compatible", "linux,dummy-virt");
	prop_str(&t, "model", "granule");
	PROP_CELLS(&t, "#address-cells", 2);
	PROP_CELLS(&t, "#size-cells", 2);
	PROP_CELLS(&t, "interrupt-parent", PHANDLE_GIC);
	ret = write_chosen(&t, cfg);
	if (ret)
		return ret;
	write_memory(&t, cfg->gmem);
	write_cpus(&t, cfg);
	write_gic(&t, cfg);
	write_timer(&t);
	write_uart(&t);
	write_rtc(&t);
	write_virtio(&t, cfg);
	write_darts(&t, cfg);
	if (cfg->pci)
		write_pci(&t, cfg);
	end(&t);

	if (!t.err)
		t.err = fdt_finish(buf);
	/* What is written is ours, so the only thing that can be wrong is the room for it. */
	return t.err ? -ENOSPC : (int)fdt_totalsize(buf);
}
