/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/e1000e_guard.h"

#include "iommu/base.h"

#define VENDOR_INTEL 0x8086

#define REG_RCTL  0x100u
#define RCTL_LPE  0x20u	 /* long packets */
#define RCTL_DTYP 0xc00u /* descriptor type: not 0 for packet split */

bool is_e1000e(uint16_t vendor, uint16_t device)
{
	/* Linux drivers/net/ethernet/intel/e1000e/hw.h: 82574L, 82574LA, 82583V */
	return vendor == VENDOR_INTEL && (device == 0x10d3 || device == 0x10f6 || device == 0x150c);
}

bool e1000e_guard_write(uint64_t off, const void *data, unsigned len)
{
	return off == REG_RCTL && len >= 4 && get_le32(data) & (RCTL_LPE | RCTL_DTYP);
}
