/* SPDX-License-Identifier: Apache-2.0 */
#include "simedu.h"

#include "cpu.h"
#include "lib/string.h"
#include "pci.h"

#define DMA_MAX_US 20000000

bool simedu_find(unsigned nth, struct simedu *out)
{
	if (!pci_find(SIM_EDU_VENDOR, SIM_EDU_DEVICE, nth, &out->rid))
		return false;
	out->bar = pci_enable(out->rid);
	return true;
}

uint32_t simedu_read(const struct simedu *edu, unsigned reg)
{
	return mmio_read32(edu->bar + reg);
}

uint64_t simedu_read64(const struct simedu *edu, unsigned reg)
{
	return mmio_read64(edu->bar + reg);
}

void simedu_write(const struct simedu *edu, unsigned reg, uint32_t val)
{
	mmio_write32(edu->bar + reg, val);
}

void simedu_write64(const struct simedu *edu, unsigned reg, uint64_t val)
{
	mmio_write64(edu->bar + reg, val);
}

void simedu_put(const struct simedu *edu, unsigned off, const void *from, unsigned len)
{
	for (unsigned i = 0; i < len; i += 8) {
		uint64_t word;

		memcpy(&word, (const uint8_t *)from + i, 8);
		mmio_write64(edu->bar + SIM_EDU_BUFFER + off + i, word);
	}
}

void simedu_get(const struct simedu *edu, unsigned off, void *to, unsigned len)
{
	for (unsigned i = 0; i < len; i += 8) {
		uint64_t word = mmio_read64(edu->bar + SIM_EDU_BUFFER + off + i);

		memcpy((uint8_t *)to + i, &word, 8);
	}
}

void simedu_start(const struct simedu *edu, uint64_t iova, unsigned off, unsigned len, uint32_t cmd)
{
	simedu_write64(edu, SIM_EDU_DMA_IOVA, iova);
	simedu_write(edu, SIM_EDU_DMA_OFFSET, off);
	simedu_write(edu, SIM_EDU_DMA_LEN, len);
	barrier();
	simedu_write(edu, SIM_EDU_DMA_CMD, cmd | SIM_EDU_RUN);
}

uint32_t simedu_copy(const struct simedu *edu, uint64_t iova, unsigned off, unsigned len, uint32_t cmd)
{
	uint64_t end = now_us() + DMA_MAX_US;

	simedu_start(edu, iova, off, len, cmd);
	while (simedu_read(edu, SIM_EDU_STATUS) & SIM_EDU_BUSY) {
		if (now_us() > end)
			return ~0u;
	}
	barrier();
	return simedu_read(edu, SIM_EDU_DMA_RESULT);
}

void simedu_pause(const struct simedu *edu, bool pause)
{
	simedu_write(edu, SIM_EDU_PAUSE, pause);
}
