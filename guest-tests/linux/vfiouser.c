/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfiouser - a program in the guest that owns a device through the guest's own VFIO: it maps single
 * pages for QEMU's `edu` device, has it read and write them, and looks at every byte of its memory
 * afterwards.
 *
 *     vfiouser BDF TEST
 *
 * The device is bound to vfio-pci in the guest. It can only copy: RAM to its buffer, or its buffer
 * to RAM. Exit status: 0 the test passes; 1 it does not, one line says why; 2 usage.
 *
 * Registers: QEMU, docs/specs/edu. VFIO: linux/vfio.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE	 4096u
#define NR_PAGES 32u
#define IOVA	 UINT64_C(0x40000000)

#define EDU_ID	       0x00
#define EDU_ID_VALUE   0x010000edu
#define EDU_IRQ_RAISE  0x60
#define EDU_IRQ_ACK    0x64
#define EDU_DMA_SRC    0x80
#define EDU_DMA_DST    0x88
#define EDU_DMA_COUNT  0x90
#define EDU_DMA_CMD    0x98
#define EDU_CMD_START  0x1u
#define EDU_CMD_TO_RAM 0x2u
#define EDU_BUFFER     0x40000u /* PAGE bytes, seen by its DMA only */
#define EDU_MOST       4088u	/* bytes of it: QEMU 7 ends at once if one uses all 4096 */

static int container, group, device;
static volatile uint8_t *bar;
static uint8_t *memory, *expected; /* NR_PAGES each: what is there, what must be */

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	exit(1);
}

/* ---- VFIO ---- */

static void open_device(const char *bdf)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	struct vfio_region_info region = {.argsz = sizeof(region),
					  .index = VFIO_PCI_BAR0_REGION_INDEX};
	struct vfio_region_info config = {.argsz = sizeof(config),
					  .index = VFIO_PCI_CONFIG_REGION_INDEX};
	char path[96], link[256], *name;
	uint16_t command;
	ssize_t len;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		die("%s: %s", path, strerror(errno));
	link[len] = 0;
	name = strrchr(link, '/') + 1;
	snprintf(path, sizeof(path), "/dev/vfio/%s", name);
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open(path, O_RDWR);
	if (container < 0 || group < 0)
		die("%s: %s", container < 0 ? "/dev/vfio/vfio" : path, strerror(errno));
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		die("the group is not viable");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("VFIO_SET_IOMMU: %s", strerror(errno));
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (device < 0 || ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) ||
	    ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config))
		die("%s: %s", bdf, strerror(errno));
	bar = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
		   (off_t)region.offset);
	if (bar == MAP_FAILED)
		die("BAR 0: %s", strerror(errno));
	if (pread(device, &command, 2, (off_t)config.offset + PCI_COMMAND) != 2)
		die("config space: %s", strerror(errno));
	command |= PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY;
	if (pwrite(device, &command, 2, (off_t)config.offset + PCI_COMMAND) != 2)
		die("config space: %s", strerror(errno));
	if (*(volatile uint32_t *)(bar + EDU_ID) != EDU_ID_VALUE)
		die("BAR 0 says %08x", *(volatile uint32_t *)(bar + EDU_ID));
}

#define RW (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

static int try_map(uint64_t iova, const void *at, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)at,
		.iova = iova,
		.size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

/* map - one page of memory at one page of IOVA space */
static void map(unsigned slot, unsigned page, uint32_t flags)
{
	int ret = try_map(IOVA + slot * PAGE, memory + page * PAGE, PAGE, flags);

	if (ret)
		die("mapping page %u at %u: %s", page, slot, strerror(-ret));
}

/* Return: bytes unmapped, or negative errno. */
static int64_t try_unmap(uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = iova, .size = size};

	return ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) ? -errno : (int64_t)unmap.size;
}

static void unmap(unsigned slot)
{
	int64_t ret = try_unmap(IOVA + slot * PAGE, PAGE);

	if (ret != PAGE)
		die("unmapping %u: %" PRId64, slot, ret);
}

/* ---- the device ---- */

static void copy(uint64_t src, uint64_t dst, uint64_t len, uint64_t direction)
{
	volatile uint64_t *cmd = (volatile uint64_t *)(bar + EDU_DMA_CMD);

	*(volatile uint64_t *)(bar + EDU_DMA_SRC) = src;
	*(volatile uint64_t *)(bar + EDU_DMA_DST) = dst;
	*(volatile uint64_t *)(bar + EDU_DMA_COUNT) = len;
	*cmd = EDU_CMD_START | direction;
	for (unsigned tries = 0; *cmd & EDU_CMD_START; tries++) {
		if (tries > 3000)
			die("the device does not end its DMA");
		usleep(10000);
	}
}

/* fetch - into its buffer at @at; @slot, @offset: where in IOVA space from */
static void fetch(unsigned slot, unsigned offset, unsigned at, unsigned len)
{
	copy(IOVA + slot * PAGE + offset, EDU_BUFFER + at, len, 0);
}

static void store(unsigned slot, unsigned offset, unsigned at, unsigned len)
{
	copy(EDU_BUFFER + at, IOVA + slot * PAGE + offset, len, EDU_CMD_TO_RAM);
}

/* ---- memory ---- */

static void make_memory(void)
{
	uint64_t word = 88172645463325252u;

	memory = mmap(NULL, 2 * NR_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		die("out of memory");
	expected = memory + NR_PAGES * PAGE;
	for (size_t i = 0; i < NR_PAGES * PAGE; i += 8) {
		word ^= word << 13;
		word ^= word >> 7;
		word ^= word << 17;
		memcpy(memory + i, &word, 8);
	}
	memcpy(expected, memory, NR_PAGES * PAGE);
}

static void check_memory(const char *when)
{
	for (size_t i = 0; i < NR_PAGES * PAGE; i++) {
		if (memory[i] != expected[i])
			die("%s: byte %zu of page %zu is %02x instead of %02x", when, i % PAGE,
			    i / PAGE, memory[i], expected[i]);
	}
}

/* A page of IOVA space whose frames of 16 KiB are full, or have holes, and the page of memory it
 * has. */
static const struct {
	unsigned slot, page;
} scattered[] = {{0, 7}, {1, 3}, {2, 12}, {3, 0}, {5, 9}, {9, 2}, {10, 15}, {21, 5}};

#define NR_SCATTERED (sizeof(scattered) / sizeof(scattered[0]))

static void map_scattered(void)
{
	for (unsigned i = 0; i < NR_SCATTERED; i++)
		map(scattered[i].slot, scattered[i].page, RW);
}

/* ---- tests ---- */

static void single_pages(void)
{
	map_scattered();
	for (unsigned i = 0; i < NR_SCATTERED; i++) {
		unsigned to = (i + 3) % NR_SCATTERED, len = PAGE - 500 * i - 77, skip = 13 * i + 1;

		fetch(scattered[i].slot, skip, 0, len);
		store(scattered[to].slot, 64 + i, 0, len - 64);
		memcpy(expected + scattered[to].page * PAGE + 64 + i,
		       expected + scattered[i].page * PAGE + skip, len - 64);
		check_memory("after a copy");
	}
	for (unsigned i = 0; i < NR_SCATTERED; i++)
		unmap(scattered[i].slot);
	check_memory("after the last unmap");
}

/* The CPU writes while the page stays mapped: the next transfer has it. */
static void cpu_writes(void)
{
	map(2, 4, RW);
	map(3, 5, RW);
	for (unsigned i = 0; i < 8; i++) {
		memset(memory + 4 * PAGE + i * 100, (int)(0x30 + i), 100);
		memset(expected + 4 * PAGE + i * 100, (int)(0x30 + i), 100);
		fetch(2, i * 100, 0, 100);
		store(3, 3000 - i * 100, 0, 100);
		memcpy(expected + 5 * PAGE + 3000 - i * 100, expected + 4 * PAGE + i * 100, 100);
		check_memory("with pages that stay mapped");
	}
}

/* What is not mapped, in a frame where others are and far from any, is neither written nor read. */
static void holes(void)
{
	static const unsigned holes[] = {4, 8, 11, 20, 64};
	static const uint8_t zeroes[256];

	map_scattered();
	for (unsigned i = 0; i < sizeof(holes) / sizeof(holes[0]); i++) {
		/* something in its buffer that could be told */
		fetch(0, 0, 0, 256);
		store(holes[i], 0, 0, 256);
		check_memory("after a write to a hole");
		fetch(holes[i], 0, 0, 256);
		store(1, 0, 0, 256);
		/* its buffer is as it was, or what a hole has: nothing of ours */
		if (memcmp(memory + 3 * PAGE, expected + 7 * PAGE, 256) != 0 &&
		    memcmp(memory + 3 * PAGE, zeroes, 256) != 0) {
			uint8_t first = memory[3 * PAGE];
			unsigned same = 0;

			while (same < 256 && memory[3 * PAGE + same] == first)
				same++;
			if (same < 256)
				die("a hole at %u reads as %02x %02x ...", holes[i], first,
				    memory[3 * PAGE + 1]);
		}
		memcpy(expected + 3 * PAGE, memory + 3 * PAGE, 256);
		check_memory("after a read of a hole");
	}
}

static void unmapped(void)
{
	map_scattered();
	fetch(0, 0, 0, EDU_MOST);
	for (unsigned i = 1; i < NR_SCATTERED; i++) {
		unmap(scattered[i].slot);
		store(scattered[i].slot, 0, 0, EDU_MOST);
		check_memory("after a write to what was unmapped");
	}
	unmap(0);
	store(0, 8, 0, 64);
	check_memory("after a write to the last that was unmapped");
}

static void rights(void)
{
	map(0, 1, VFIO_DMA_MAP_FLAG_READ);
	map(1, 2, RW);
	map(2, 3, VFIO_DMA_MAP_FLAG_WRITE);
	fetch(1, 0, 0, EDU_MOST);
	store(0, 0, 0, EDU_MOST);
	check_memory("after a write to a page for reading");
	fetch(0, 0, 0, EDU_MOST);
	store(2, 100, 0, 1000);
	/* what it read: its page, as the guest has it, for the write above never happened */
	memcpy(expected + 3 * PAGE + 100, expected + 1 * PAGE, 1000);
	unmap(0);
	unmap(2);
	check_memory("after a read of a page for reading");
}

static void reused(void)
{
	map(1, 31, RW);
	for (unsigned i = 0; i < 12; i++) {
		map(2, i, RW);
		fetch(2, 0, 0, 512);
		store(1, 1024, 0, 512);
		memcpy(expected + 31 * PAGE + 1024, expected + i * PAGE, 512);
		store(2, 2048, 0, 512);
		memcpy(expected + i * PAGE + 2048, expected + i * PAGE, 512);
		unmap(2);
		check_memory("with an IOVA that is used again");
	}
}

static void refusals(void)
{
	struct vfio_iommu_type1_info info = {.argsz = sizeof(info)};
	static const struct {
		uint64_t iova, size;
		unsigned skew;
		int want;
		const char *what;
	} rows[] = {
		{IOVA, 2048, 0, -EINVAL, "half a page"},
		{IOVA + 2048, PAGE, 0, -EINVAL, "an IOVA in the middle of a page"},
		{IOVA, PAGE, 2048, -EINVAL, "memory in the middle of a page"},
		{IOVA, 0, 0, -EINVAL, "nothing"},
		{IOVA + 4 * PAGE, PAGE, 0, -EEXIST, "what is mapped"},
		{IOVA + 3 * PAGE, 2 * PAGE, 0, -EEXIST, "what is mapped in part"},
		{IOVA + 3 * PAGE, PAGE, 0, 0, "what is free"},
	};
	int64_t ret;

	if (ioctl(container, VFIO_IOMMU_GET_INFO, &info) ||
	    !(info.flags & VFIO_IOMMU_INFO_PGSIZES) || !(info.iova_pgsizes & PAGE))
		die("VFIO_IOMMU_GET_INFO: page sizes %" PRIx64, (uint64_t)info.iova_pgsizes);
	map(4, 4, RW);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ret = try_map(rows[i].iova, memory + rows[i].skew, rows[i].size, RW);
		if (ret != rows[i].want)
			die("mapping %s: %" PRId64, rows[i].what, ret);
	}
	ret = try_unmap(IOVA + 64 * PAGE, PAGE);
	if (ret)
		die("unmapping what is free: %" PRId64, ret);
	if (try_map(IOVA + 8 * PAGE, memory + 8 * PAGE, 4 * PAGE, RW))
		die("mapping four pages: %s", strerror(errno));
	ret = try_unmap(IOVA + 9 * PAGE, PAGE);
	if (ret != -EINVAL)
		die("unmapping a part of a mapping: %" PRId64, ret);
	/* and all of that has left what is mapped as it was */
	fetch(10, 0, 0, EDU_MOST);
	store(4, 0, 0, EDU_MOST);
	memcpy(expected + 4 * PAGE, expected + 10 * PAGE, EDU_MOST);
	check_memory("after refusals");
}

static void interrupt(uint32_t index, const char *what)
{
	struct {
		struct vfio_irq_set set;
		int32_t fd;
	} irq = {
		.set =
			{
				.argsz = sizeof(irq),
				.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
				.index = index,
				.count = 1,
			},
		.fd = eventfd(0, EFD_CLOEXEC),
	};
	struct vfio_irq_set unmask = {
		.argsz = sizeof(unmask),
		.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
		.index = VFIO_PCI_INTX_IRQ_INDEX,
		.count = 1,
	};
	struct pollfd poll_fd = {.fd = irq.fd, .events = POLLIN};
	uint64_t count;

	if (ioctl(device, VFIO_DEVICE_SET_IRQS, &irq))
		die("%s: %s", what, strerror(errno));
	for (unsigned i = 1; i <= 8; i++) {
		*(volatile uint32_t *)(bar + EDU_IRQ_RAISE) = i;
		if (poll(&poll_fd, 1, 30000) != 1 || read(irq.fd, &count, 8) != 8)
			die("%s: number %u does not arrive in 30 s", what, i);
		*(volatile uint32_t *)(bar + EDU_IRQ_ACK) = i;
		if (index == VFIO_PCI_INTX_IRQ_INDEX &&
		    ioctl(device, VFIO_DEVICE_SET_IRQS, &unmask))
			die("unmask: %s", strerror(errno));
	}
	irq.set.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
	irq.set.count = 0;
	if (ioctl(device, VFIO_DEVICE_SET_IRQS, &irq))
		die("%s: %s", what, strerror(errno));
	close(irq.fd);
}

static void interrupts(void)
{
	interrupt(VFIO_PCI_MSI_IRQ_INDEX, "MSI");
	interrupt(VFIO_PCI_INTX_IRQ_INDEX, "INTx");
	interrupt(VFIO_PCI_MSI_IRQ_INDEX, "MSI again");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{"single-pages", single_pages}, {"cpu-writes", cpu_writes}, {"holes", holes},
		{"unmapped", unmapped},		{"rights", rights},	    {"reused", reused},
		{"refusals", refusals},		{"interrupts", interrupts},
	};

	for (unsigned i = 0; argc == 3 && i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (strcmp(argv[2], tests[i].name) != 0)
			continue;
		make_memory();
		open_device(argv[1]);
		tests[i].run();
		return 0;
	}
	fprintf(stderr, "usage: vfiouser BDF TEST\n");
	return 2;
}
