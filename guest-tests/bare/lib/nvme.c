/* SPDX-License-Identifier: Apache-2.0 */
#include "nvme.h"

#include "cpu.h"
#include "lib/string.h"
#include "pci.h"

#define MAX_US	5000000
#define LOOK_US 200 /* between two looks, each of which is an exit */

bool nvme_find(unsigned nth, struct nvme *out)
{
	*out = (struct nvme){0};
	if (!pci_find(NVME_VENDOR, NVME_DEVICE, nth, &out->rid))
		return false;
	out->bar = pci_enable(out->rid);
	return true;
}

/* Wait until the masked status is @want. Return: 0, NVME_NO_ANSWER or NVME_FATAL. */
static unsigned wait_status(struct nvme *nvme, uint32_t mask, uint32_t want)
{
	uint64_t end = now_us() + MAX_US;
	uint32_t status;

	while (((status = mmio_read32(nvme->bar + NVME_CSTS)) & mask) != want) {
		if (status & NVME_CSTS_CFS)
			return nvme->broken = NVME_FATAL;
		if (now_us() > end)
			return nvme->broken = NVME_NO_ANSWER;
		delay_us(LOOK_US);
	}
	return 0;
}

/* The status of the next completion, which must be that of command @id. */
static unsigned wait_completion(struct nvme *nvme, unsigned queue, uint16_t id)
{
	struct nvme_pair *pair = &nvme->pairs[queue];
	volatile uint32_t *entry = (void *)(pair->cq + pair->head * NVME_CQE_LEN);
	uint64_t end = now_us() + MAX_US;
	uint32_t said;

	for (;;) {
		uint32_t status = mmio_read32(nvme->bar + NVME_CSTS);

		barrier();
		said = entry[3];
		if ((said & NVME_CQE_PHASE ? 1u : 0u) == pair->phase)
			break;
		if (status & NVME_CSTS_CFS)
			return nvme->broken = NVME_FATAL;
		if (now_us() > end)
			return nvme->broken = NVME_NO_ANSWER;
		delay_us(LOOK_US);
	}
	if ((uint16_t)said != id)
		return nvme->broken = NVME_NO_ANSWER;
	if (++pair->head == NVME_QUEUE_SZ) {
		pair->head = 0;
		pair->phase = !pair->phase;
	}
	mmio_write32(nvme->bar + NVME_DB + queue * 8 + 4, pair->head);
	return said >> NVME_CQE_STATUS_SHIFT;
}

/* A command whose identifier is its place in the queue. */
static unsigned command(struct nvme *nvme, unsigned queue, const uint32_t words[16])
{
	struct nvme_pair *pair = &nvme->pairs[queue];
	uint8_t *entry = pair->sq + pair->tail * NVME_SQE_LEN;
	uint16_t id = (uint16_t)pair->tail;

	if (nvme->broken)
		return nvme->broken;
	memcpy(entry, words, NVME_SQE_LEN);
	memcpy(entry + NVME_SQE_CID, &id, sizeof(id));
	pair->tail = (pair->tail + 1) % NVME_QUEUE_SZ;
	barrier();
	mmio_write32(nvme->bar + NVME_DB + queue * 8, pair->tail);
	return wait_completion(nvme, queue, id);
}

static unsigned create_queue(struct nvme *nvme, uint8_t opcode, uint64_t iova, uint32_t more)
{
	uint32_t words[16] = {
		[0] = opcode,
		[NVME_SQE_PRP1 / 4] = (uint32_t)iova,
		[NVME_SQE_PRP1 / 4 + 1] = (uint32_t)(iova >> 32),
		[NVME_SQE_CDW10 / 4] = (NVME_QUEUE_SZ - 1) << 16 | 1,
		[NVME_SQE_CDW11 / 4] = (uint32_t)NVME_CREATE_PC | more,
	};

	return command(nvme, 0, words);
}

unsigned nvme_start(struct nvme *nvme, void *mem, uint64_t iova)
{
	uint8_t *pages = mem;
	unsigned status;

	memset(mem, 0, NVME_MEM_LEN);
	nvme->iova = iova;
	nvme->broken = 0;
	for (unsigned i = 0; i < 2; i++)
		nvme->pairs[i] = (struct nvme_pair){
			.sq = pages + 2 * i * NVME_PAGE,
			.cq = pages + (2 * i + 1) * NVME_PAGE,
			.phase = 1,
		};
	nvme->data = pages + 4 * NVME_PAGE;
	mmio_write32(nvme->bar + NVME_CC, 0);
	status = wait_status(nvme, (uint32_t)NVME_CSTS_RDY, 0);
	if (status)
		return status;
	mmio_write32(nvme->bar + NVME_AQA, (NVME_QUEUE_SZ - 1) << 16 | (NVME_QUEUE_SZ - 1));
	mmio_write64(nvme->bar + NVME_ASQ, iova);
	mmio_write64(nvme->bar + NVME_ACQ, iova + NVME_PAGE);
	barrier();
	mmio_write32(nvme->bar + NVME_CC, (uint32_t)(NVME_CC_EN | FIELD_PREP(NVME_CC_IOSQES, 6) |
						     FIELD_PREP(NVME_CC_IOCQES, 4)));
	status = wait_status(nvme, (uint32_t)NVME_CSTS_RDY, (uint32_t)NVME_CSTS_RDY);
	if (!status)
		status = create_queue(nvme, NVME_ADMIN_CREATE_CQ, iova + 3 * NVME_PAGE, 0);
	if (!status)
		status = create_queue(nvme, NVME_ADMIN_CREATE_SQ, iova + 2 * NVME_PAGE, 1 << 16);
	return status;
}

unsigned nvme_io(struct nvme *nvme, uint8_t opcode, uint64_t block)
{
	uint64_t data = nvme->iova + 4 * NVME_PAGE;
	uint32_t words[16] = {
		[0] = opcode,
		[NVME_SQE_NSID / 4] = 1,
		[NVME_SQE_PRP1 / 4] = (uint32_t)data,
		[NVME_SQE_PRP1 / 4 + 1] = (uint32_t)(data >> 32),
		[NVME_SQE_CDW10 / 4] = (uint32_t)block,
		[NVME_SQE_CDW11 / 4] = (uint32_t)(block >> 32),
	};

	return command(nvme, 1, words);
}

unsigned nvme_stop(struct nvme *nvme)
{
	uint32_t cc = mmio_read32(nvme->bar + NVME_CC);
	unsigned status = nvme->broken;

	if (!status) {
		mmio_write32(nvme->bar + NVME_CC, cc | (uint32_t)FIELD_PREP(NVME_CC_SHN, 1));
		status = wait_status(nvme, (uint32_t)NVME_CSTS_SHST,
				     (uint32_t)FIELD_PREP(NVME_CSTS_SHST, NVME_CSTS_SHST_DONE));
	}
	mmio_write32(nvme->bar + NVME_CC, 0);
	return status ? status : wait_status(nvme, (uint32_t)NVME_CSTS_RDY, 0);
}
