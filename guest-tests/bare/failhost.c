/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failhost - a guest that uses each device once, fast, and says what became of each request, however
 * the host fails. guest-tests/fail/sweep.c judges that.
 *
 * One line per device, `did DEVICE WORD...`; in a word one character per request: `.` it was carried
 * out; E, U or a hexadecimal digit: refused with that status; T: never answered; F: the controller has
 * failed, and says so; R: a DMA was refused; X: carried out, but wrong; -: not tried. The last line is
 * `end`.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "board.h"
#include "console.h"
#include "cpu.h"
#include "edu.h"
#include "iommu.h"
#include "nvme.h"
#include "pci.h"
#include "simedu.h"
#include "virtio.h"
#include "lib/string.h"

#define SECTOR	   512u
#define NR_SECTORS 8
#define PAGE	   0x1000u
#define FRAME	   0x4000u
#define IOVA	   0x0a001000ull /* not as its page is in a frame: bounced */
#define IOVA_WHOLE 0x0b000000ull
#define IOVA_NVME  0x0c001000ull /* bounced, too */

static uint8_t pages[8][PAGE] __attribute__((aligned(FRAME)));
static uint8_t nvme_mem[NVME_MEM_LEN] __attribute__((aligned(FRAME)));
static uint8_t sector[SECTOR] __attribute__((aligned(8)));
static struct iommu iommu;

/* What sector @n says. */
static uint8_t contents(unsigned n)
{
	return (uint8_t)('A' + n);
}

/* ---- disk --------------------------------------------------------------------------------------- */

static char blk(struct vdev *dev, uint32_t type, uint64_t nr)
{
	static struct virtio_blk_outhdr header;
	static uint8_t status;
	struct seg segs[3] = {
		{.at = &header, .len = sizeof(header)},
		{.at = sector, .len = SECTOR, .write = type == VIRTIO_BLK_T_IN},
		{.at = &status, .len = 1, .write = true},
	};

	header = (struct virtio_blk_outhdr){.type = type, .sector = nr};
	status = 0xff;
	if (type == VIRTIO_BLK_T_FLUSH)
		segs[1] = segs[2];
	if (vq_request(dev, 0, segs, type == VIRTIO_BLK_T_FLUSH ? 2 : 3) < 0)
		return 'T';
	return status == VIRTIO_BLK_S_OK ? '.' : status == VIRTIO_BLK_S_IOERR ? 'E' : 'U';
}

static void use_disk(void)
{
	char wrote[NR_SECTORS + 1] = "", got[NR_SECTORS + 1] = "";
	struct vdev dev;
	char flushed;

	if (!vdev_find(VIRTIO_ID_BLOCK, 0, &dev) || vdev_start(&dev, 1ull << VIRTIO_BLK_F_FLUSH, 1)) {
		print("did blk T\n");
		return;
	}
	for (unsigned i = 0; i < NR_SECTORS; i++) {
		memset(sector, contents(i), SECTOR);
		wrote[i] = blk(&dev, VIRTIO_BLK_T_OUT, i);
	}
	flushed = blk(&dev, VIRTIO_BLK_T_FLUSH, 0);
	for (unsigned i = 0; i < NR_SECTORS; i++) {
		memset(sector, 0, SECTOR);
		got[i] = blk(&dev, VIRTIO_BLK_T_IN, i);
		for (unsigned at = 0; at < SECTOR && wrote[i] == '.' && got[i] == '.'; at++)
			if (sector[at] != contents(i))
				got[i] = 'X';
	}
	print("did blk %s %c %s\n", wrote, flushed, got);
}

/* ---- other virtio devices ----------------------------------------------------------------------- */

static void use_rng(void)
{
	struct seg seg = {.at = sector, .len = 64, .write = true};
	struct vdev dev;

	if (!vdev_find(VIRTIO_ID_RNG, 0, &dev) || vdev_start(&dev, 0, 1))
		print("did rng T\n");
	else
		print("did rng %c\n", vq_request(&dev, 0, &seg, 1) == 64 ? '.' : 'T');
}

static void use_net(void)
{
	struct seg seg = {.at = sector, .len = sizeof(struct virtio_net_hdr_v1) + 60};
	struct vdev dev;

	if (!vdev_find(VIRTIO_ID_NET, 0, &dev))
		return;
	memset(sector, 0, SECTOR);
	memset(sector + sizeof(struct virtio_net_hdr_v1), 0xff, 6); /* to everybody */
	if (vdev_start(&dev, 0, 2))
		print("did net T\n");
	else
		print("did net %c\n", vq_request(&dev, 1, &seg, 1) == 0 ? '.' : 'T');
}

/* ---- IOMMU --------------------------------------------------------------------------------------- */

static char status_of(unsigned status)
{
	return status == VIRTIO_IOMMU_S_OK ? '.' : status > 0xf ? 'T' : "0123456789abcdef"[status];
}

/* Attach an endpoint, map a bounced page and a whole frame. */
static void map_for(uint32_t domain, uint32_t rid, char said[8])
{
	said[0] = status_of(iommu_attach(&iommu, domain, rid, 0));
	said[1] = status_of(iommu_map(&iommu, domain, IOVA, IOVA + PAGE - 1, (uint64_t)(uintptr_t)pages[0], IOMMU_RW));
	said[2] = status_of(iommu_map(&iommu, domain, IOVA_WHOLE, IOVA_WHOLE + FRAME - 1,
				      (uint64_t)(uintptr_t)pages[4], IOMMU_RW));
}

static void unmap_for(uint32_t domain, uint32_t rid, char *said)
{
	/* What was refused is not there to be removed, which is no error. */
	said[0] = status_of(iommu_unmap(&iommu, domain, IOVA, IOVA + PAGE - 1));
	said[1] = status_of(iommu_unmap(&iommu, domain, IOVA_WHOLE, IOVA_WHOLE + FRAME - 1));
	said[2] = status_of(iommu_detach(&iommu, domain, rid));
}

static char dma_of(const struct simedu *edu, uint64_t iova, void *to, uint64_t word, bool mapped)
{
	uint64_t found;

	simedu_put(edu, 0, &word, 8);
	switch (simedu_copy(edu, iova, 0, 8, SIM_EDU_TO_MEMORY)) {
	case SIM_EDU_DONE:
		memcpy(&found, to, 8);
		return mapped && found == word ? '.' : 'X';
	case SIM_EDU_REFUSED_AT:
		return 'R';
	default:
		return 'T';
	}
}

static void use_simedu(void)
{
	char said[9] = "";
	struct simedu edu;

	if (!simedu_find(0, &edu))
		return;
	map_for(1, edu.rid, said);
	said[3] = dma_of(&edu, IOVA + 8, pages[0] + 8, 0x1122334455667788, said[1] == '.');
	said[4] = dma_of(&edu, IOVA_WHOLE + PAGE, pages[5], 0x99aabbccddeeff00, said[2] == '.');
	unmap_for(1, edu.rid, said + 5);
	print("did simedu %s\n", said);
}

static char answer_of(unsigned status)
{
	switch (status) {
	case NVME_SC_SUCCESS:
		return '.';
	case NVME_SC_WRITE_FAULT:
	case NVME_SC_READ_ERROR:
		return 'E';
	case NVME_NO_ANSWER:
		return 'T';
	case NVME_FATAL:
		return 'F';
	default:
		return 'U';
	}
}

/* What sector @n of the NVMe says: another thing than that of the disk. */
static uint8_t contents_nvme(unsigned n)
{
	return (uint8_t)('a' + n);
}

static void use_nvme(void)
{
	char wrote[NR_SECTORS + 1] = "--------", got[NR_SECTORS + 1] = "--------", said[5] = "----";
	char started = '-', flushed = '-', stopped = '-';
	struct nvme nvme;

	if (!nvme_find(0, &nvme))
		return;
	said[0] = status_of(iommu_attach(&iommu, 3, nvme.rid, 0));
	said[1] = status_of(iommu_map(&iommu, 3, IOVA_NVME, IOVA_NVME + NVME_MEM_LEN - 1,
				      (uint64_t)(uintptr_t)nvme_mem, IOMMU_RW));
	/* What it cannot reach it would fail for, and nobody but us be to blame. */
	if (said[0] == '.' && said[1] == '.')
		started = answer_of(nvme_start(&nvme, nvme_mem, IOVA_NVME));
	if (started == '.') {
		for (unsigned i = 0; i < NR_SECTORS; i++) {
			memset(nvme.data, contents_nvme(i), SECTOR);
			wrote[i] = answer_of(nvme_io(&nvme, NVME_IO_WRITE, i));
		}
		flushed = answer_of(nvme_io(&nvme, NVME_IO_FLUSH, 0));
		for (unsigned i = 0; i < NR_SECTORS; i++) {
			memset(nvme.data, 0, SECTOR);
			got[i] = answer_of(nvme_io(&nvme, NVME_IO_READ, i));
			for (unsigned at = 0; at < SECTOR && wrote[i] == '.' && got[i] == '.'; at++)
				if (nvme.data[at] != contents_nvme(i))
					got[i] = 'X';
		}
		stopped = answer_of(nvme_stop(&nvme));
	}
	said[2] = status_of(iommu_unmap(&iommu, 3, IOVA_NVME, IOVA_NVME + NVME_MEM_LEN - 1));
	said[3] = status_of(iommu_detach(&iommu, 3, nvme.rid));
	print("did nvme %s %c %s %c%c %s\n", wrote, flushed, got, started, stopped, said);
}

static void use_edu(void)
{
	struct edu edu;
	char said[8] = "";

	if (!edu_find(0, &edu))
		return;
	map_for(2, edu.rid, said);
	said[3] = edu_read(&edu, EDU_ID) == EDU_ID_VALUE ? '.' : 'X';
	pci_msi_enable(edu.rid, BOARD_DOORBELL, 0);
	edu_write(&edu, EDU_IRQ_RAISE, 1);
	edu_write(&edu, EDU_IRQ_ACK, 1);
	pci_msi_disable(edu.rid);
	unmap_for(2, edu.rid, said + 4);
	print("did edu %s\n", said);
}

void payload(void)
{
	struct virtio_iommu_fault fault;
	unsigned events = 0;

	use_disk();
	use_rng();
	use_net();
	if (!vdev_find(VIRTIO_ID_IOMMU, 0, &iommu.dev)) {
		print("did iommu -\n");
	} else if (iommu_start(&iommu, IOMMU_FEATURES)) {
		print("did iommu T\n");
	} else {
		iommu_listen(&iommu);
		use_simedu();
		use_nvme();
		use_edu();
		while (iommu_event(&iommu, 1000, &fault))
			events++;
		print("did events %u\n", events);
	}
	print("end\n");
	psci(PSCI_SYSTEM_OFF, 0, 0, 0);
}
