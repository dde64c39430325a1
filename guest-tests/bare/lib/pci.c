/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/pci_regs.h>

#include "board.h"
#include "cpu.h"
#include "pci.h"

#define BAR_STEP 0x100000ull /* where we place BARs ourselves, one of up to 1 MiB each */

uint64_t pci_config(uint32_t rid, unsigned off)
{
	return BOARD_ECAM + ((uint64_t)rid << 12) + off;
}

bool pci_find(uint16_t vendor, uint16_t device, unsigned nth, uint32_t *rid)
{
	for (uint32_t devfn = 0; devfn < 256; devfn++) {
		if (mmio_read32(pci_config(devfn, PCI_VENDOR_ID)) != (vendor | (uint32_t)device << 16))
			continue;
		if (nth--)
			continue;
		*rid = devfn;
		return true;
	}
	return false;
}

uint64_t pci_enable(uint32_t rid)
{
	uint64_t bar = pci_config(rid, PCI_BASE_ADDRESS_0), cmd = pci_config(rid, PCI_COMMAND), addr;
	uint32_t low = mmio_read32(bar);
	bool wide = (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;

	addr = low & PCI_BASE_ADDRESS_MEM_MASK & 0xffffffff;
	if (wide)
		addr |= (uint64_t)mmio_read32(bar + 4) << 32;
	if (!addr) {
		addr = BOARD_PCI_MEM + rid * BAR_STEP;
		mmio_write32(bar, (uint32_t)addr);
	}
	mmio_write16(cmd, mmio_read16(cmd) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	return addr;
}

uint64_t pci_bar_size(uint32_t rid, unsigned bar)
{
	uint64_t at = pci_config(rid, PCI_BASE_ADDRESS_0 + bar * 4), cmd = pci_config(rid, PCI_COMMAND);
	uint16_t old_cmd = mmio_read16(cmd);
	uint32_t old = mmio_read32(at), mask;

	mmio_write16(cmd, old_cmd & ~PCI_COMMAND_MEMORY);
	mmio_write32(at, ~0u);
	mask = mmio_read32(at) & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;
	mmio_write32(at, old);
	mmio_write16(cmd, old_cmd);
	return mask ? (uint32_t)-mask : 0;
}

unsigned pci_capability(uint32_t rid, uint8_t id)
{
	unsigned at, hops = 48; /* as many as fit */

	if (!(mmio_read16(pci_config(rid, PCI_STATUS)) & PCI_STATUS_CAP_LIST))
		return 0;
	for (at = mmio_read8(pci_config(rid, PCI_CAPABILITY_LIST)) & ~3u; at && hops; hops--) {
		if (mmio_read8(pci_config(rid, at)) == id)
			return at;
		at = mmio_read8(pci_config(rid, at + PCI_CAP_LIST_NEXT)) & ~3u;
	}
	return 0;
}

bool pci_msi_enable(uint32_t rid, uint64_t address, uint32_t data)
{
	unsigned cap = pci_capability(rid, PCI_CAP_ID_MSI);
	uint16_t flags;

	if (!cap)
		return false;
	flags = mmio_read16(pci_config(rid, cap + PCI_MSI_FLAGS));
	mmio_write32(pci_config(rid, cap + PCI_MSI_ADDRESS_LO), (uint32_t)address);
	if (flags & PCI_MSI_FLAGS_64BIT) {
		mmio_write32(pci_config(rid, cap + PCI_MSI_ADDRESS_HI), (uint32_t)(address >> 32));
		mmio_write16(pci_config(rid, cap + PCI_MSI_DATA_64), (uint16_t)data);
	} else {
		mmio_write16(pci_config(rid, cap + PCI_MSI_DATA_32), (uint16_t)data);
	}
	flags = (uint16_t)((flags & ~PCI_MSI_FLAGS_QSIZE) | PCI_MSI_FLAGS_ENABLE);
	mmio_write16(pci_config(rid, cap + PCI_MSI_FLAGS), flags);
	return true;
}

void pci_msi_disable(uint32_t rid)
{
	unsigned cap = pci_capability(rid, PCI_CAP_ID_MSI);
	uint64_t flags = pci_config(rid, cap + PCI_MSI_FLAGS);

	if (cap)
		mmio_write16(flags, mmio_read16(flags) & ~PCI_MSI_FLAGS_ENABLE);
}

bool pci_msix_set(uint32_t rid, uint64_t bar, unsigned vec, uint64_t address, uint32_t data)
{
	unsigned cap = pci_capability(rid, PCI_CAP_ID_MSIX);
	uint64_t entry;
	uint32_t table;

	if (!cap || vec > (mmio_read16(pci_config(rid, cap + PCI_MSIX_FLAGS)) & PCI_MSIX_FLAGS_QSIZE))
		return false;
	table = mmio_read32(pci_config(rid, cap + PCI_MSIX_TABLE));
	if (table & PCI_MSIX_TABLE_BIR)
		return false;
	entry = bar + (table & PCI_MSIX_TABLE_OFFSET) + vec * PCI_MSIX_ENTRY_SIZE;
	mmio_write32(entry + PCI_MSIX_ENTRY_LOWER_ADDR, (uint32_t)address);
	mmio_write32(entry + PCI_MSIX_ENTRY_UPPER_ADDR, (uint32_t)(address >> 32));
	mmio_write32(entry + PCI_MSIX_ENTRY_DATA, data);
	mmio_write32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
	return true;
}

void pci_msix_enable(uint32_t rid, bool on)
{
	unsigned cap = pci_capability(rid, PCI_CAP_ID_MSIX);
	uint64_t flags = pci_config(rid, cap + PCI_MSIX_FLAGS);

	if (cap)
		mmio_write16(flags, (uint16_t)((mmio_read16(flags) & ~PCI_MSIX_FLAGS_ENABLE) |
					       (on ? PCI_MSIX_FLAGS_ENABLE : 0)));
}
