/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/virtio_ids.h>

#include "attack.h"
#include "board.h"
#include "cpu.h"
#include "pci.h"
#include "vmm/layout.h"

#define UART_IER 1
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4

struct attack_targets targets;

struct window {
	uint64_t base;
	uint32_t len;
	bool write;
};

static struct window any_window(struct dice *dice)
{
	const struct attack_vdev *dev = &targets.vdev[below(dice, targets.nr_vdevs)];
	const struct attack_pci *pci =
		&targets.pci[below(dice, targets.nr_pci ? targets.nr_pci : 1)];

	switch (below(dice, 16)) {
	case 0:
		return (struct window){LAYOUT_RTC_BASE, LAYOUT_RTC_LEN, true};
	case 1: /* the report goes through it: it is only read here */
		return (struct window){LAYOUT_UART_BASE, LAYOUT_UART_LEN, false};
	case 2:
		return (struct window){LAYOUT_GICD_BASE, LAYOUT_GICD_LEN, true};
	case 3:
		return (struct window){LAYOUT_ITS_BASE, LAYOUT_ITS_LEN, true};
	case 4:
		return (struct window){LAYOUT_GICR_BASE, LAYOUT_GICR_LEN * targets.machine->nr_cpus,
				       true};
	case 5:
		return (struct window){LAYOUT_DART_BASE, LAYOUT_DART_LEN, true};
	case 6:
		return (struct window){LAYOUT_PCI_IO_BASE, LAYOUT_PCI_IO_LEN, true};
	case 7: /* functions that are not there */
		return (struct window){pci_config(0x80 + below(dice, 0x80), 0), 0x1000, true};
	case 8: /* holes, and where a window ends */
		return (struct window){LAYOUT_VIRTIO_BASE +
					       LAYOUT_VIRTIO_SLOTS * LAYOUT_VIRTIO_STRIDE - 0x100,
				       0x200, true};
	case 9:
		return (struct window){LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN - 0x1000,
				       0x1000, true};
	case 10:
	case 11:
		if (targets.nr_pci && pci->registers)
			return (struct window){pci->bar, pci->bar_len, true};
		/* fallthrough */
	default:
		if (dev->id == VIRTIO_ID_IOMMU && !targets.viommu)
			return (struct window){dev->base, 0x200, false};
		if (dev->id == VIRTIO_ID_IOMMU &&
		    !targets.bypass) /* which is in the config space */
			return (struct window){dev->base, 0x100, true};
		return (struct window){dev->base, one_in(dice, 8) ? 0x10000 : 0x200, true};
	}
}

bool attack_registers(struct dice *dice)
{
	struct window w = any_window(dice);

	for (unsigned n = 1 + below(dice, 32); n; n--) {
		unsigned size = 1u << below(dice, 4);
		uint64_t at = w.base + below(dice, w.len);

		if (one_in(dice, 16)) /* across the end */
			at = w.base + w.len - below(dice, 9);
		else if (!one_in(dice, 4))
			at &= ~(uint64_t)(size - 1);
		if (!w.write || one_in(dice, 2))
			mmio_read(at, size);
		else
			mmio_write(at, size, arena_value(dice));
	}
	return true;
}

void attack_uart(struct dice *dice)
{
	for (unsigned n = 16; n; n--)
		mmio_write(LAYOUT_UART_BASE + 1 + below(dice, one_in(dice, 4) ? 0xfff : 7),
			   1u << below(dice, 4), arena_value(dice));
	mmio_write8(LAYOUT_UART_BASE + UART_LCR, 3);
	mmio_write8(LAYOUT_UART_BASE + UART_MCR, 0);
	mmio_write8(LAYOUT_UART_BASE + UART_FCR, 1);
	mmio_write8(LAYOUT_UART_BASE + UART_IER, 0);
}

bool attack_undecodable(struct dice *dice)
{
	struct window w = any_window(dice);
	uint64_t at = w.base + (below(dice, w.len) & ~15u), a = arena_value(dice), b = at;

	switch (below(dice, 8)) {
	case 0:
		__asm__ volatile("ldp %0, %1, [%2]" : "=&r"(a), "=&r"(b) : "r"(at) : "memory");
		break;
	case 1:
		__asm__ volatile("ldr %0, [%1], #8" : "=&r"(a), "+r"(b) : : "memory");
		break;
	case 2:
		__asm__ volatile("ldrb %w0, [%1, #1]!" : "=&r"(a), "+r"(b) : : "memory");
		break;
	case 3:
		__asm__ volatile("ldxr %0, [%1]" : "=&r"(a) : "r"(at) : "memory");
		break;
	case 4:
		if (!w.write)
			return false;
		__asm__ volatile("stp %0, %0, [%1]" : : "r"(a), "r"(at) : "memory");
		break;
	case 5:
		if (!w.write)
			return false;
		__asm__ volatile("str %0, [%1], #8" : : "r"(a), "r"(b) : "memory");
		break;
	case 6:
		if (!w.write)
			return false;
		__asm__ volatile(".arch_extension lse\n\tswp %0, %0, [%1]"
				 : "+r"(a)
				 : "r"(at)
				 : "memory");
		break;
	default:
		__asm__ volatile("dc civac, %0" : : "r"(at) : "memory");
		break;
	}
	return true;
}

bool attack_psci(struct dice *dice)
{
	static const uint32_t calls[] = {
		PSCI_VERSION, PSCI_AFFINITY_INFO, 0x84000004, PSCI_FEATURES, 0x84000003,
		0x84000005,   0xc4000005,	  0x84000006, 0x84000007,    0x80000000,
		0x80000001,   0x84000050,	  0x84000053, 0xc4000053,    0xc5000020,
		0xc5000021,   0x86000000,	  0xc6000001, 0x8600ff01,    0xffffffff,
	};
	const struct machine *machine = targets.machine;

	switch (below(dice, 4)) {
	case 0: /* vCPUs that are not there */
		psci(PSCI_CPU_ON, 0x100 + below(dice, 0x10000), arena_address(dice), roll(dice));
		break;
	case 1: /* one that is on: the last may be off, and is started by nobody but its owner */
		psci(PSCI_CPU_ON, machine->mpidr[below(dice, machine->nr_cpus - 1)],
		     arena_address(dice), roll(dice));
		break;
	default:
		psci(calls[below(dice, sizeof(calls) / sizeof(calls[0]))], roll(dice),
		     arena_value(dice), roll(dice));
		break;
	}
	return true;
}
