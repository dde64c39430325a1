/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/nvme_guard.h"

#include "iommu/base.h"

/* Registers: NVM Express base specification 2.0, figure "Property Definition". */
#define REG_CC	0x14u
#define REG_AQA 0x24u
#define REG_ASQ 0x28u
#define REG_SQ0 0x1000u /* admin submission queue tail doorbell */

#define CC_EN	  1u
#define AQA_ASQS  0xfffu /* entries, less one */
#define SQE_LEN	  64u
#define OPC_DBBUF 0x7cu
/* Fabrics transports only: a PCI Express controller answers Invalid Opcode. */
#define OPC_FABRICS 0x7fu

/* look - at every command that the new tail announces */
static void look(struct nvme_guard *guard, struct endpoint *ep, const struct gmem *gmem,
		 uint32_t tail)
{
	uint32_t nr = (guard->aqa & AQA_ASQS) + 1;
	uint64_t gpa;

	if (tail >= nr)
		return; /* the controller ignores it, too */
	for (guard->tail %= nr; guard->tail != tail; guard->tail = (guard->tail + 1) % nr) {
		volatile uint8_t *sqe;

		if (endpoint_translate(ep, guard->asq + guard->tail * SQE_LEN, MAP_READ, &gpa))
			continue;
		sqe = gmem_ptr(gmem, gpa, SQE_LEN);
		if (sqe && *sqe == OPC_DBBUF)
			*sqe = OPC_FABRICS;
	}
}

void nvme_guard_write(struct nvme_guard *guard, struct endpoint *ep, const struct gmem *gmem,
		      uint64_t off, const void *data, unsigned len)
{
	/* Registers are written whole, 64-bit ones perhaps in halves. */
	uint32_t val = len >= 4 ? get_le32(data) : 0;

	if (len < 4)
		return;
	switch (off) {
	case REG_CC:
		/* A controller that is disabled forgets its queues. */
		if (!(val & CC_EN))
			guard->tail = 0;
		break;
	case REG_AQA:
		guard->aqa = val;
		break;
	case REG_ASQ:
		guard->asq = len == 8 ? get_le64(data) : (guard->asq & GENMASK(63, 32)) | val;
		break;
	case REG_ASQ + 4:
		guard->asq = (guard->asq & GENMASK(31, 0)) | (uint64_t)val << 32;
		break;
	case REG_SQ0:
		look(guard, ep, gmem, val & 0xffff);
		break;
	}
}
