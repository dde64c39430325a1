/* SPDX-License-Identifier: Apache-2.0 */
/* Source: PCI Local Bus 3.0, chapter 6; PCI Express Base 4.0, 7.5 and 7.7; NVM Express 1.4,
 * chapters 3 to 5. */
#include <linux/pci_regs.h>

#include "attack.h"
#include "board.h"
#include "cpu.h"
#include "nvme.h"
#include "pci.h"
#include "lib/string.h"
#include "vmm/layout.h"

#define NVME_QUEUES 4

static const struct attack_pci *any_function(struct dice *dice)
{
	return &targets.pci[below(dice, targets.nr_pci)];
}

static uint64_t capability(const struct attack_pci *pci, uint8_t id)
{
	unsigned at = pci_capability(pci->rid, id);

	return at ? pci_config(pci->rid, at) : 0;
}

bool attack_config(struct dice *dice)
{
	const struct attack_pci *pci = any_function(dice);

	for (unsigned n = 1 + below(dice, 16); n; n--) {
		unsigned size = 1u << below(dice, 4),
			 off = below(dice, one_in(dice, 2) ? 0x100 : 0x1000);

		if (!one_in(dice, 4))
			off &= ~(size - 1);
		if (one_in(dice, 2))
			mmio_read(pci_config(pci->rid, off), size);
		else
			mmio_write(pci_config(pci->rid, off), size, arena_value(dice));
	}
	mmio_write16(pci_config(pci->rid, PCI_COMMAND), one_in(dice, 4) ? (uint16_t)roll(dice) : 6);
	return true;
}

bool attack_bars(struct dice *dice)
{
	static const uint64_t places[] = {
		0,
		LAYOUT_GICD_BASE,
		LAYOUT_ITS_BASE,
		LAYOUT_DOORBELL_BASE,
		LAYOUT_GICR_BASE,
		LAYOUT_UART_BASE,
		LAYOUT_RTC_BASE,
		LAYOUT_VIRTIO_BASE,
		LAYOUT_VIRTIO_BASE + LAYOUT_VIRTIO_STRIDE,
		LAYOUT_DART_BASE,
		LAYOUT_PCI_ECAM_BASE,
		LAYOUT_PCI_IO_BASE,
		LAYOUT_RAM_LOW_BASE,
		LAYOUT_RAM_HIGH_BASE,
		LAYOUT_PCI_MEM64_BASE,
		LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN - 0x1000,
		LAYOUT_PCI_MEM32_BASE + LAYOUT_PCI_MEM32_LEN - 0x1000,
		~0ull,
		1ull << 36,
		1ull << 63,
	};
	const struct attack_pci *pci = any_function(dice);
	uint64_t cmd = pci_config(pci->rid, PCI_COMMAND), where, at;
	unsigned bar = below(dice, 7);

	at = pci_config(pci->rid, bar == 6 ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + bar * 4);
	switch (below(dice, 4)) {
	case 0: /* over a neighbour of the same kind */
		where = any_function(dice)->bar;
		break;
	case 1: /* over RAM: canaries, the payload, the arena */
		where = arena.ram + (below(dice, (uint32_t)(arena.end - arena.ram)) & ~0xfffull);
		break;
	case 2:
		where = LAYOUT_PCI_MEM32_BASE + (below(dice, 0x4000000) & ~0xfffull);
		break;
	default:
		where = places[below(dice, sizeof(places) / sizeof(places[0]))];
		break;
	}
	if (one_in(dice, 2)) {
		mmio_write16(cmd, (uint16_t)below(dice, 8));
		mmio_write32(at, (uint32_t)where);
		mmio_write32(at + 4, (uint32_t)(where >> 32));
		mmio_write16(cmd, 6);
	} else { /* while it decodes */
		mmio_write32(at, ~0u);
		mmio_read32(at);
		mmio_write32(at, (uint32_t)where);
		if (one_in(dice, 2))
			mmio_write32(at + 4, (uint32_t)(where >> 32));
	}
	/* what is not RAM only: the guest's own memory stays the guest's there, and is no register
	 */
	if (pci->registers && (where < arena.ram || where >= arena.end) && where < 1ull << 36) {
		mmio_read(where + (below(dice, 0x100) & ~7u), 4);
		/* back where others expect it, mostly */
		if (!one_in(dice, 4)) {
			mmio_write32(pci_config(pci->rid, PCI_BASE_ADDRESS_0), pci->saved[4]);
			mmio_write32(pci_config(pci->rid, PCI_BASE_ADDRESS_0 + 4), pci->saved[5]);
		}
	}
	return true;
}

bool attack_msix(struct dice *dice)
{
	const struct attack_pci *pci = any_function(dice);
	uint64_t cap = capability(pci, PCI_CAP_ID_MSIX), entry;
	uint64_t to = one_in(dice, 2) ? BOARD_DOORBELL : arena_address(dice);

	if (!cap) {
		pci_msi_enable(pci->rid, to, (uint32_t)roll(dice));
		if (one_in(dice, 2))
			pci_msi_disable(pci->rid);
		return true;
	}
	mmio_write16(cap + PCI_MSIX_FLAGS,
		     one_in(dice, 8) ? (uint16_t)roll(dice) : PCI_MSIX_FLAGS_ENABLE);
	if (!pci->registers)
		return true;
	for (unsigned n = 4; n; n--) {
		/* also past the end of the table, and the pending bits */
		entry = pci->bar +
			(mmio_read32(cap + PCI_MSIX_TABLE) & PCI_MSIX_TABLE_OFFSET &
			 (pci->bar_len - 1)) +
			below(dice, one_in(dice, 8) ? 2048 : 4) * PCI_MSIX_ENTRY_SIZE;
		switch (below(dice, 4)) {
		case 0:
			mmio_write64(entry, to);
			break;
		case 1:
			mmio_write32(entry + PCI_MSIX_ENTRY_DATA, (uint32_t)roll(dice));
			break;
		case 2:
			mmio_write(entry + below(dice, 16), 1u << below(dice, 4),
				   arena_value(dice));
			break;
		default:
			mmio_write32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, below(dice, 2));
			break;
		}
	}
	if (pci->masters) {
		mmio_write32(pci->bar + SIM_EDU_IRQ_RAISE, below(dice, 16));
		mmio_write32(pci->bar + SIM_EDU_IRQ_ACK, below(dice, 16));
	}
	if (one_in(dice, 8))
		mmio_write16(cap + PCI_MSIX_FLAGS, 0);
	if (one_in(dice, 64)) {
		uint64_t express = capability(pci, PCI_CAP_ID_EXP);

		if (express) /* a function reset in the middle of it all */
			mmio_write16(express + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR);
	}
	return true;
}

bool attack_dma(struct dice *dice)
{
	const struct attack_pci *pci = any_function(dice);
	uint64_t iova = one_in(dice, 2) ? arena_place(dice, 0x10000, 1)
					: 0x20000000ull + below(dice, 0x1000000);

	if (!pci->masters)
		return false;
	if (one_in(dice, 8))
		iova = arena_value(dice);
	mmio_write64(pci->bar + SIM_EDU_DMA_IOVA, iova);
	mmio_write32(pci->bar + SIM_EDU_DMA_OFFSET,
		     one_in(dice, 8) ? (uint32_t)roll(dice) : below(dice, 0x10000));
	mmio_write32(pci->bar + SIM_EDU_DMA_LEN,
		     one_in(dice, 8) ? (uint32_t)roll(dice) : below(dice, 0x10000));
	mmio_write32(pci->bar + SIM_EDU_DMA_CMD, SIM_EDU_RUN | (uint32_t)below(dice, 0x400));
	if (one_in(dice, 4)) {
		mmio_write64(pci->bar + SIM_EDU_RING_IOVA, arena_place(dice, 0x10000, 8));
		mmio_write64(pci->bar + SIM_EDU_RING_DATA, arena_place(dice, 0x10000, 8));
		mmio_write32(pci->bar + SIM_EDU_RING_ENTRIES, below(dice, 300));
		mmio_write32(pci->bar + SIM_EDU_RING_WORDS, below(dice, 34));
		mmio_write32(pci->bar + SIM_EDU_RING_PAYLOAD, below(dice, 34));
		mmio_write32(pci->bar + SIM_EDU_RING_CMD, below(dice, 16));
	}
	return true;
}

bool attack_nvme(struct dice *dice)
{
	const struct attack_pci *pci = targets.nvme;
	uint64_t queues = arena.open + arena.open_len - NVME_QUEUES * 0x8000;

	if (!pci)
		return false;
	if (one_in(dice, 16)) {
		mmio_write32(pci->bar + NVME_CC, 0);
		mmio_write32(pci->bar + NVME_AQA,
			     one_in(dice, 8) ? (uint32_t)roll(dice) : 0x003f003f);
		mmio_write64(pci->bar + NVME_ASQ, one_in(dice, 8) ? arena_value(dice) : queues);
		mmio_write64(pci->bar + NVME_ACQ,
			     one_in(dice, 8) ? arena_value(dice) : queues + 0x4000);
		mmio_write32(pci->bar + NVME_CC,
			     one_in(dice, 8) ? (uint32_t)roll(dice) : 0x00460001);
	}
	for (unsigned n = 8; n; n--) {
		static const uint8_t opcodes[] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x7f};
		unsigned queue = below(dice, NVME_QUEUES);
		uint32_t *command = (void *)(queues + queue * 0x8000 + below(dice, 64) * 64);

		command[0] = opcodes[below(dice, sizeof(opcodes))] | (uint32_t)roll(dice) << 16;
		command[1] = below(dice, 3);
		*(uint64_t *)&command[6] =
			one_in(dice, 8) ? arena_value(dice) : arena_place(dice, 0x1000, 4);
		*(uint64_t *)&command[8] =
			one_in(dice, 8) ? arena_value(dice) : arena_place(dice, 0x1000, 4096);
		if (queue == 0 && one_in(dice, 2)) /* an I/O queue of its own */
			*(uint64_t *)&command[6] = queues +
						   (1 + below(dice, NVME_QUEUES - 1)) * 0x8000 +
						   (command[0] & 4) * 0x1000;
		for (unsigned i = 10; i < 16; i++)
			command[i] =
				one_in(dice, 4) ? (uint32_t)arena_value(dice) : below(dice, 64);
		if (queue == 0)
			command[10] = below(dice, 4) | 0x3f0000;
		barrier();
		mmio_write32(pci->bar + NVME_DB + queue * 8,
			     one_in(dice, 16) ? (uint32_t)roll(dice) : below(dice, 64));
		mmio_write32(pci->bar + NVME_DB + queue * 8 + 4, below(dice, 64));
	}
	return true;
}

void attack_pci_restore(const struct attack_pci *pci)
{
	uint64_t express = capability(pci, PCI_CAP_ID_EXP);

	if (express)
		mmio_write16(express + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR);
	delay_us(200000); /* which a driver has to allow for */
	mmio_write16(pci_config(pci->rid, PCI_COMMAND), 0);
	for (unsigned i = PCI_BASE_ADDRESS_0 / 4; i <= PCI_BASE_ADDRESS_5 / 4; i++)
		mmio_write32(pci_config(pci->rid, i * 4), pci->saved[i]);
	mmio_write32(pci_config(pci->rid, PCI_ROM_ADDRESS), pci->saved[PCI_ROM_ADDRESS / 4]);
	mmio_write16(pci_config(pci->rid, PCI_COMMAND), 6);
}
