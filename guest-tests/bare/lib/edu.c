/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu.h"
#include "edu.h"
#include "pci.h"

#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8

#define EDU_DMA_SRC	0x80
#define EDU_DMA_DST	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_CMD	0x98
#define EDU_DMA_RUN	1u
#define EDU_DMA_TO_RAM	2u
#define EDU_DMA_IRQ	4u
#define EDU_BUFFER	0x40000
#define EDU_DMA_US	100000
#define EDU_DMA_MAX_US	3000000

bool edu_find(unsigned nth, struct edu *out)
{
	if (!pci_find(EDU_VENDOR, EDU_DEVICE, nth, &out->rid))
		return false;
	out->bar = pci_enable(out->rid);
	return true;
}

uint32_t edu_read(const struct edu *edu, unsigned reg)
{
	return mmio_read32(edu->bar + reg);
}

void edu_write(const struct edu *edu, unsigned reg, uint32_t val)
{
	mmio_write32(edu->bar + reg, val);
}

void edu_start(const struct edu *edu, enum edu_dir dir, uint64_t iova, unsigned off, unsigned len, bool irq)
{
	uint32_t local = EDU_BUFFER + off, cmd = EDU_DMA_RUN | (irq ? EDU_DMA_IRQ : 0);

	if (dir == EDU_TO_RAM)
		cmd |= EDU_DMA_TO_RAM;
	edu_write(edu, EDU_DMA_SRC, dir == EDU_TO_RAM ? local : (uint32_t)iova);
	edu_write(edu, EDU_DMA_DST, dir == EDU_TO_RAM ? (uint32_t)iova : local);
	edu_write(edu, EDU_DMA_COUNT, len);
	barrier();
	edu_write(edu, EDU_DMA_CMD, cmd);
}

bool edu_busy(const struct edu *edu)
{
	return edu_read(edu, EDU_DMA_CMD) & EDU_DMA_RUN;
}

bool edu_finish(const struct edu *edu)
{
	uint64_t end = now_us() + EDU_DMA_MAX_US;

	delay_us(EDU_DMA_US);
	while (edu_busy(edu)) {
		if (now_us() > end)
			return false;
		delay_us(EDU_DMA_US / 50);
	}
	return true;
}

bool edu_copy(const struct edu *edu, enum edu_dir dir, uint64_t iova, unsigned off, unsigned len)
{
	edu_start(edu, dir, iova, off, len, false);
	return edu_finish(edu);
}
