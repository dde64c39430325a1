/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simedu DEVICE read IOVA | simedu DEVICE write IOVA WORD - one DMA of 8 bytes by the simulated edu
 * at PCI address DEVICE, whose registers it maps; its driver, if it has one, must leave them alone.
 *
 * Prints `done WORD`, what was read or written, or `refused COUNT`, the bytes done before. Exit
 * status: 0 either way; 1 if the device cannot be used or says anything else; 2 for arguments that
 * make no sense.
 */
#include <endian.h>
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SIM_EDU_REGISTERS_ONLY
#include "vmm/sim_edu.h"

#define PATIENCE_S	  10
/* Of standard config space: the command register; its memory space and bus master bits. */
#define PCI_COMMAND	  4
#define PCI_MEMORY_MASTER 6

static volatile uint8_t *bar;

static uint32_t get32(unsigned off)
{
	return le32toh(*(volatile uint32_t *)(bar + off));
}
static void put32(unsigned off, uint32_t value)
{
	*(volatile uint32_t *)(bar + off) = htole32(value);
}
static uint64_t get64(unsigned off)
{
	return le64toh(*(volatile uint64_t *)(bar + off));
}
static void put64(unsigned off, uint64_t value)
{
	*(volatile uint64_t *)(bar + off) = htole64(value);
}

static int open_file(const char *device, const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", device, name);
	fd = open(path, O_RDWR | O_SYNC);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void map(const char *device)
{
	uint8_t command[2];
	int fd = open_file(device, "config");

	if (pread(fd, command, 2, PCI_COMMAND) != 2)
		err(1, "config space of %s", device);
	command[0] |= PCI_MEMORY_MASTER;
	if (pwrite(fd, command, 2, PCI_COMMAND) != 2)
		err(1, "config space of %s", device);
	close(fd);
	fd = open_file(device, "resource0");
	bar = mmap(NULL, SIM_EDU_BAR_LEN / 2, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bar == MAP_FAILED)
		err(1, "registers of %s", device);
	close(fd);
	if (get32(SIM_EDU_ID) != SIM_EDU_ID_VALUE)
		errx(1, "%s is no simulated edu: it reads 0x%" PRIx32, device, get32(SIM_EDU_ID));
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (!*text || *end)
		errx(2, "'%s' is no number", text);
	return value;
}

int main(int argc, char **argv)
{
	bool write = argc == 5 && !strcmp(argv[2], "write");
	time_t start = time(NULL);
	uint64_t iova;

	if (!write && (argc != 4 || strcmp(argv[2], "read") != 0))
		errx(2, "usage: simedu DEVICE read IOVA | simedu DEVICE write IOVA WORD");
	iova = number(argv[3]);
	map(argv[1]);
	put64(SIM_EDU_BUFFER, write ? number(argv[4]) : 0);
	put64(SIM_EDU_DMA_IOVA, iova);
	put32(SIM_EDU_DMA_OFFSET, 0);
	put32(SIM_EDU_DMA_LEN, 8);
	put32(SIM_EDU_DMA_CMD, SIM_EDU_RUN | (write ? SIM_EDU_TO_MEMORY : 0));
	while (get32(SIM_EDU_STATUS) & SIM_EDU_BUSY)
		if (time(NULL) - start > PATIENCE_S)
			errx(1, "the DMA does not end");
	switch (get32(SIM_EDU_DMA_RESULT)) {
	case SIM_EDU_DONE:
		printf("done 0x%016" PRIx64 "\n", get64(SIM_EDU_BUFFER));
		return 0;
	case SIM_EDU_REFUSED_AT:
		printf("refused %" PRIu32 "\n", get32(SIM_EDU_DMA_COUNT));
		return 0;
	default:
		errx(1, "the DMA ended with %" PRIu32, get32(SIM_EDU_DMA_RESULT));
	}
}
