/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vfio_dev.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/vfio.h"

/* The uapi's hot-reset structures end in flexible arrays; a bus has at most 256 functions. */
#define MAX_DEPENDENT 256u

struct real_dev {
	struct pci_dev dev;
	int fd;
	uint64_t region_off[VFIO_PCI_CONFIG_REGION_INDEX + 1]; /* in the fd */
};

static struct real_dev *real(struct pci_dev *dev)
{
	return container_of(dev, struct real_dev, dev);
}

static int dev_read(struct pci_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len)
{
	ssize_t n = pread(real(dev)->fd, buf, len, (off_t)(real(dev)->region_off[region] + off));

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static int dev_write(struct pci_dev *dev, unsigned region, uint64_t off, const void *buf,
		     unsigned len)
{
	ssize_t n = pwrite(real(dev)->fd, buf, len, (off_t)(real(dev)->region_off[region] + off));

	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -EIO;
}

static int dev_set_irqs(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds)
{
	struct vfio_irq_set *set;
	size_t size = sizeof(*set) + nr * sizeof(*fds);
	int ret;

	set = calloc(1, size);
	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)size;
	set->index = index;
	set->count = nr;
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER |
		     (nr ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE);
	if (nr)
		memcpy(set->data, fds, nr * sizeof(*fds));
	ret = vfio_ioctl(real(dev)->fd, VFIO_DEVICE_SET_IRQS, set);
	/* Positive: so many vectors could have been had, but none is set up. */
	if (ret > 0)
		ret = -ENOSPC;
	free(set);
	return ret;
}

static void dev_unmask_intx(struct pci_dev *dev)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.index = VFIO_PCI_INTX_IRQ_INDEX,
		.count = 1,
		.flags = VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_DATA_NONE,
	};

	/* Fails only when INTx has been disabled meanwhile: nothing is masked then. */
	(void)vfio_ioctl(real(dev)->fd, VFIO_DEVICE_SET_IRQS, &set);
}

static int dev_reset(struct pci_dev *dev)
{
	return vfio_ioctl(real(dev)->fd, VFIO_DEVICE_RESET, NULL);
}

static void dev_close(struct pci_dev *dev)
{
	struct real_dev *r = real(dev);

	for (unsigned i = 0; i < PCI_DEV_BARS; i++)
		for (unsigned a = 0; a < dev->bars[i].nr_areas; a++)
			munmap(dev->bars[i].areas[a].hva, dev->bars[i].areas[a].len);
	close(r->fd);
	free(r);
}

static const struct pci_dev_ops real_ops = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
	.unmask_intx = dev_unmask_intx,
	.reset = dev_reset,
	.close = dev_close,
};

/* ---- opening -------------------------------------------------------------------------------- */

/* add_area - map [off, off + len) of a BAR; what cannot be mapped is read and written instead */
static void add_area(struct real_dev *r, unsigned index, uint64_t off, uint64_t len)
{
	struct pci_dev_bar *bar = &r->dev.bars[index];
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), last;
	void *hva;

	if (!len || add_overflows(off, len - 1, &last) || last >= bar->size ||
	    !IS_ALIGNED(off, page) || bar->nr_areas == PCI_DEV_MAX_AREAS)
		return;
	hva = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		   (off_t)(r->region_off[index] + off));
	if (hva == MAP_FAILED)
		return;
	bar->areas[bar->nr_areas++] = (struct pci_dev_area){off, len, hva};
}

/* map_region - what the kernel lets be mapped: the sparse areas if it names any, else all */
static void map_region(struct real_dev *r, unsigned index, const struct vfio_region_info *info,
		       uint32_t size)
{
	uint32_t off = info->flags & VFIO_REGION_INFO_FLAG_CAPS ? info->cap_offset : 0;

	while (off && off <= size - sizeof(struct vfio_info_cap_header)) {
		const struct vfio_info_cap_header *hdr = (const void *)((const char *)info + off);
		const struct vfio_region_info_cap_sparse_mmap *sparse = (const void *)hdr;

		if (hdr->id == VFIO_REGION_INFO_CAP_SPARSE_MMAP && size - off >= sizeof(*sparse)) {
			uint32_t fit = (size - off - (uint32_t)sizeof(*sparse)) /
				       (uint32_t)sizeof(sparse->areas[0]);

			for (uint32_t i = 0; i < MIN(sparse->nr_areas, fit); i++)
				add_area(r, index, sparse->areas[i].offset, sparse->areas[i].size);
			return;
		}
		if (hdr->next <= off)
			break;
		off = hdr->next;
	}
	add_area(r, index, 0, info->size);
}

static int read_region(struct real_dev *r, unsigned index)
{
	uint32_t size = sizeof(struct vfio_region_info);
	struct vfio_region_info *info, *bigger;
	int ret = 0;

	info = calloc(1, size);
	if (!info)
		return -ENOMEM;
	for (;;) {
		info->argsz = size;
		info->index = index;
		ret = vfio_ioctl(r->fd, VFIO_DEVICE_GET_REGION_INFO, info);
		if (ret)
			goto out;
		if (info->argsz <= size)
			break;
		size = info->argsz;
		bigger = realloc(info, size);
		if (!bigger) {
			ret = -ENOMEM;
			goto out;
		}
		info = bigger;
		memset(info, 0, size);
	}
	r->region_off[index] = info->offset;
	if (index < PCI_DEV_BARS) {
		r->dev.bars[index].size = info->size;
		if (info->flags & VFIO_REGION_INFO_FLAG_MMAP)
			map_region(r, index, info, size);
	}
out:
	free(info);
	return ret;
}

static unsigned count_irqs(struct real_dev *r, unsigned index)
{
	struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};

	if (vfio_ioctl(r->fd, VFIO_DEVICE_GET_IRQ_INFO, &info) ||
	    !(info.flags & VFIO_IRQ_INFO_EVENTFD))
		return 0;
	return info.count;
}

static int open_failed(int ret, const char *name, const char *what, char *error, size_t error_len)
{
	snprintf(error, error_len, "%s: %s: %s", name, what, strerror(-ret));
	return ret;
}

int vfio_dev_open(int fd, const char *name, struct pci_dev **out, char *error, size_t error_len)
{
	struct vfio_device_info info = {.argsz = sizeof(info)};
	struct real_dev *r;
	int ret;

	r = calloc(1, sizeof(*r));
	if (!r) {
		close(fd);
		return open_failed(-ENOMEM, name, "cannot be opened", error, error_len);
	}
	r->fd = fd;
	r->dev.ops = &real_ops;
	r->dev.name = name;
	ret = vfio_ioctl(fd, VFIO_DEVICE_GET_INFO, &info);
	if (ret) {
		ret = open_failed(ret, name, "VFIO_DEVICE_GET_INFO failed", error, error_len);
		goto err_close;
	}
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI)) {
		ret = open_failed(-ENODEV, name, "not a PCI device to VFIO", error, error_len);
		goto err_close;
	}
	r->dev.can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	for (unsigned i = 0; i <= VFIO_PCI_CONFIG_REGION_INDEX; i++) {
		if (i == VFIO_PCI_ROM_REGION_INDEX)
			continue; /* guests never see it, and asking reads the ROM */
		ret = read_region(r, i);
		if (ret) {
			open_failed(ret, name, "VFIO_DEVICE_GET_REGION_INFO failed", error,
				    error_len);
			goto err_close;
		}
	}
	r->dev.nr_intx = count_irqs(r, VFIO_PCI_INTX_IRQ_INDEX);
	r->dev.nr_msi = count_irqs(r, VFIO_PCI_MSI_IRQ_INDEX);
	r->dev.nr_msix = count_irqs(r, VFIO_PCI_MSIX_IRQ_INDEX);
	*out = &r->dev;
	return 0;

err_close:
	dev_close(&r->dev);
	return ret;
}

int vfio_dev_hot_reset(struct pci_dev *dev, const unsigned *groups, const int *group_fds,
		       unsigned nr)
{
	struct vfio_pci_hot_reset_info *info;
	struct vfio_pci_hot_reset *reset;
	uint32_t size = sizeof(*info) + MAX_DEPENDENT * sizeof(info->devices[0]);
	int ret;

	info = calloc(1, size);
	reset = calloc(1, sizeof(*reset) + nr * sizeof(reset->group_fds[0]));
	if (!info || !reset) {
		ret = -ENOMEM;
		goto out;
	}
	info->argsz = size;
	ret = vfio_ioctl(real(dev)->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
	if (ret)
		goto out;
	reset->argsz = (uint32_t)(sizeof(*reset) + nr * sizeof(reset->group_fds[0]));
	for (unsigned g = 0; g < nr; g++) {
		for (uint32_t i = 0; i < MIN(info->count, MAX_DEPENDENT); i++)
			if (info->devices[i].group_id == groups[g]) {
				reset->group_fds[reset->count++] = group_fds[g];
				break;
			}
	}
	for (uint32_t i = 0; i < MIN(info->count, MAX_DEPENDENT); i++) {
		unsigned g;

		for (g = 0; g < nr && groups[g] != info->devices[i].group_id; g++)
			;
		if (g == nr) {
			ret = -EBUSY;
			goto out;
		}
	}
	ret = vfio_ioctl(real(dev)->fd, VFIO_DEVICE_PCI_HOT_RESET, reset);
out:
	free(info);
	free(reset);
	return ret;
}
