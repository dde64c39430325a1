// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * edu_maps - pages that a simulated edu may reach, mapped as drivers do, so that user space can
 * have the device do right and wrong things with them.
 *
 * They are mapped from probe to remove. The sysfs file `maps` has a line for each:
 *
 *     NAME IOVA WORD
 *
 * WORD is what its first 8 bytes are: a number of our own until the device writes there. Writing to
 * the file unmaps the page named `gone`, whose line stays.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>

enum { BOTH, READ_ONLY, WRITE_ONLY, GONE, NR_PAGES };

static const struct {
	const char *name;
	enum dma_data_direction dir;
} kinds[] = {
	[BOTH] = {"both", DMA_BIDIRECTIONAL},
	[READ_ONLY] = {"read", DMA_TO_DEVICE}, /* that is what the device may */
	[WRITE_ONLY] = {"write", DMA_FROM_DEVICE},
	[GONE] = {"gone", DMA_BIDIRECTIONAL},
};

struct maps {
	struct mutex lock;
	struct page *pages[NR_PAGES];
	dma_addr_t iova[NR_PAGES];
	bool mapped[NR_PAGES];
};

static void unmap(struct device *dev, struct maps *maps, unsigned int i)
{
	if (maps->mapped[i])
		dma_unmap_page(dev, maps->iova[i], PAGE_SIZE, kinds[i].dir);
	maps->mapped[i] = false;
}

static ssize_t maps_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct maps *maps = dev_get_drvdata(dev);
	ssize_t len = 0;

	mutex_lock(&maps->lock);
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		if (maps->mapped[i])
			dma_sync_single_for_cpu(dev, maps->iova[i], PAGE_SIZE, kinds[i].dir);
		len += sysfs_emit_at(buf, len, "%s 0x%llx 0x%016llx\n", kinds[i].name,
				     (u64)maps->iova[i], *(u64 *)page_address(maps->pages[i]));
		if (maps->mapped[i])
			dma_sync_single_for_device(dev, maps->iova[i], PAGE_SIZE, kinds[i].dir);
	}
	mutex_unlock(&maps->lock);
	return len;
}

static ssize_t maps_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t len)
{
	struct maps *maps = dev_get_drvdata(dev);

	mutex_lock(&maps->lock);
	unmap(dev, maps, GONE);
	mutex_unlock(&maps->lock);
	return len;
}
static DEVICE_ATTR_RW(maps);

static struct attribute *maps_attrs[] = {&dev_attr_maps.attr, NULL};
ATTRIBUTE_GROUPS(maps);

static void take_back(struct pci_dev *pdev, struct maps *maps)
{
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		unmap(&pdev->dev, maps, i);
		if (maps->pages[i])
			__free_page(maps->pages[i]);
	}
}

static int make(struct pci_dev *pdev, struct maps *maps, unsigned int i)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);

	if (!page)
		return -ENOMEM;
	maps->pages[i] = page;
	*(u64 *)page_address(page) = 0x6d61707000 + i;
	maps->iova[i] = dma_map_page(&pdev->dev, page, 0, PAGE_SIZE, kinds[i].dir);
	maps->mapped[i] = !dma_mapping_error(&pdev->dev, maps->iova[i]);
	return maps->mapped[i] ? 0 : -EIO;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct maps *maps = devm_kzalloc(&pdev->dev, sizeof(*maps), GFP_KERNEL);
	int ret;

	if (!maps)
		return -ENOMEM;
	mutex_init(&maps->lock);
	ret = pcim_enable_device(pdev);
	if (!ret)
		ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(32));
	for (unsigned int i = 0; !ret && i < NR_PAGES; i++)
		ret = make(pdev, maps, i);
	if (ret) {
		take_back(pdev, maps);
		return ret;
	}
	pci_set_drvdata(pdev, maps);
	pci_set_master(pdev);
	return 0;
}

static void leave(struct pci_dev *pdev)
{
	pci_clear_master(pdev);
	take_back(pdev, pci_get_drvdata(pdev));
}

static const struct pci_device_id ids[] = {{PCI_DEVICE(0x1234, 0x6564)}, {}};
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver edu_maps = {
	.name = "edu_maps",
	.id_table = ids,
	.probe = probe,
	.remove = leave,
	.dev_groups = maps_groups,
};
module_pci_driver(edu_maps);

MODULE_DESCRIPTION("pages for a simulated edu");
MODULE_LICENSE("GPL v2");
