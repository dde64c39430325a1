/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim_pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"

#define CONFIG_LEN 256u
#define CAP_PM	   0x40u
#define CAP_MSIX   0x50u
#define CAP_EXP	   0x60u
#define MAX_MSIX   2048u
#define REVISION   1u

#define IRQ_OFF (~0u)

struct sim_pci {
	struct pci_dev dev;
	struct sim_pci_cfg cfg;

	/* Around changes of the command register and resets, callbacks included. */
	pthread_mutex_t config_lock;
	uint8_t config[CONFIG_LEN]; /* only the command register ever changes */

	pthread_mutex_t irq_lock; /* a leaf: eventfds are written under it */
	unsigned irq_index;	  /* VFIO_PCI_*_IRQ_INDEX that is enabled; IRQ_OFF */
	unsigned nr_fds;
	bool intx_level, intx_masked;
	int fds[];
};

static struct sim_pci *to_sim(struct pci_dev *dev)
{
	return container_of(dev, struct sim_pci, dev);
}

/* ---- interrupts ----------------------------------------------------------------------------- */

static void signal_fd(int fd)
{
	static const uint64_t one = 1;
	ssize_t ret;

	/* It can only block after 2^64 signals that nobody took. */
	do
		ret = write(fd, &one, sizeof(one));
	while (ret < 0 && errno == EINTR);
}

static void intx_update(struct sim_pci *pci)
{
	if (pci->irq_index != VFIO_PCI_INTX_IRQ_INDEX || !pci->intx_level || pci->intx_masked)
		return;
	pci->intx_masked = true;
	signal_fd(pci->fds[0]);
}

void sim_pci_fire(struct sim_pci *pci, unsigned vec)
{
	pthread_mutex_lock(&pci->irq_lock);
	if (pci->irq_index == VFIO_PCI_MSIX_IRQ_INDEX && vec < pci->nr_fds)
		signal_fd(pci->fds[vec]);
	pthread_mutex_unlock(&pci->irq_lock);
}

void sim_pci_set_intx(struct sim_pci *pci, bool level)
{
	pthread_mutex_lock(&pci->irq_lock);
	pci->intx_level = level;
	intx_update(pci);
	pthread_mutex_unlock(&pci->irq_lock);
}

static int dev_set_irqs(struct pci_dev *dev, unsigned index, unsigned nr, const int *fds)
{
	struct sim_pci *pci = to_sim(dev);
	unsigned max = index == VFIO_PCI_INTX_IRQ_INDEX	  ? dev->nr_intx
		       : index == VFIO_PCI_MSIX_IRQ_INDEX ? dev->nr_msix
							  : 0;
	int ret = 0;

	pthread_mutex_lock(&pci->irq_lock);
	if (nr > max || (nr && pci->irq_index != IRQ_OFF && pci->irq_index != index)) {
		ret = -EINVAL;
	} else if (nr) {
		memcpy(pci->fds, fds, nr * sizeof(*fds));
		pci->nr_fds = nr;
		pci->irq_index = index;
		pci->intx_masked = false;
		intx_update(pci); /* a level that is up already */
	} else if (pci->irq_index == index) {
		pci->irq_index = IRQ_OFF;
		pci->nr_fds = 0;
	}
	pthread_mutex_unlock(&pci->irq_lock);
	return ret;
}

static void dev_unmask_intx(struct pci_dev *dev)
{
	struct sim_pci *pci = to_sim(dev);

	pthread_mutex_lock(&pci->irq_lock);
	pci->intx_masked = false;
	intx_update(pci);
	pthread_mutex_unlock(&pci->irq_lock);
}

/* ---- regions -------------------------------------------------------------------------------- */

/* set_command - with config_lock */
static void set_command(struct sim_pci *pci, unsigned command)
{
	bool was = get_le16(pci->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
	bool on = command & PCI_COMMAND_MASTER;

	put_le16(pci->config + PCI_COMMAND, (uint16_t)command);
	if (was != on && pci->cfg.set_master)
		pci->cfg.set_master(pci->cfg.ctx, on);
}

static int config_access(struct sim_pci *pci, uint64_t off, void *buf, unsigned len, bool write)
{
	static const uint8_t writable[] = {
		PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY,
		(PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE) >> 8,
	};
	const uint8_t *bytes = buf;
	uint8_t command[2];

	if (off > CONFIG_LEN || len > CONFIG_LEN - off)
		return -EINVAL;
	pthread_mutex_lock(&pci->config_lock);
	if (!write) {
		memcpy(buf, pci->config + off, len);
		goto out;
	}
	/* All else that a guest may write, BARs and capabilities, is emulated by the front. */
	memcpy(command, pci->config + PCI_COMMAND, sizeof(command));
	for (unsigned i = 0; i < len; i++)
		if (off + i - PCI_COMMAND < sizeof(command))
			command[off + i - PCI_COMMAND] = bytes[i] & writable[off + i - PCI_COMMAND];
	set_command(pci, get_le16(command));
out:
	pthread_mutex_unlock(&pci->config_lock);
	return 0;
}

static int bar_access(struct sim_pci *pci, uint64_t off, void *buf, unsigned len, bool write)
{
	if (!len || len > 8 || !IS_POW2(len) || off % len || off >= pci->cfg.bar_len ||
	    len > pci->cfg.bar_len - off)
		return -EINVAL;
	/* What the front leaves of the upper half is empty. */
	if (off < pci->cfg.bar_len / 2)
		pci->cfg.access(pci->cfg.ctx, off, buf, len, write);
	else if (!write)
		memset(buf, 0, len);
	return 0;
}

static int dev_read(struct pci_dev *dev, unsigned region, uint64_t off, void *buf, unsigned len)
{
	if (region == VFIO_PCI_CONFIG_REGION_INDEX)
		return config_access(to_sim(dev), off, buf, len, false);
	if (region == VFIO_PCI_BAR0_REGION_INDEX)
		return bar_access(to_sim(dev), off, buf, len, false);
	return -EINVAL;
}

static int dev_write(struct pci_dev *dev, unsigned region, uint64_t off, const void *buf,
		     unsigned len)
{
	uint8_t bytes[8];

	if (region == VFIO_PCI_CONFIG_REGION_INDEX)
		return config_access(to_sim(dev), off, (void *)buf, len, true);
	if (region != VFIO_PCI_BAR0_REGION_INDEX || len > sizeof(bytes))
		return -EINVAL;
	memcpy(bytes, buf, len);
	return bar_access(to_sim(dev), off, bytes, len, true);
}

static int dev_reset(struct pci_dev *dev)
{
	struct sim_pci *pci = to_sim(dev);

	pthread_mutex_lock(&pci->config_lock);
	set_command(pci, 0);
	pci->cfg.reset(pci->cfg.ctx);
	pthread_mutex_unlock(&pci->config_lock);
	sim_pci_set_intx(pci, false);
	return 0;
}

static int dev_msi_target(struct pci_dev *dev, uint64_t addr, uint64_t *gpa)
{
	struct sim_pci *pci = to_sim(dev);

	return pci->cfg.msi_target(pci->cfg.ctx, addr, gpa);
}

static void dev_close(struct pci_dev *dev)
{
	(void)dev;
}

static const struct pci_dev_ops ops = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
	.unmask_intx = dev_unmask_intx,
	.reset = dev_reset,
	.close = dev_close,
};

static const struct pci_dev_ops ops_msi_target = {
	.read = dev_read,
	.write = dev_write,
	.set_irqs = dev_set_irqs,
	.unmask_intx = dev_unmask_intx,
	.reset = dev_reset,
	.msi_target = dev_msi_target,
	.close = dev_close,
};

/* ---- life ----------------------------------------------------------------------------------- */

static unsigned table_len(unsigned nr)
{
	return nr * PCI_MSIX_ENTRY_SIZE;
}

static unsigned pba_len(unsigned nr)
{
	return (nr + 63) / 64 * 8;
}

/* init_config - Source: PCI Express base specification 4.0, 7.5.1 to 7.5.3, 7.7.2. */
static void init_config(struct sim_pci *pci)
{
	uint32_t table = (uint32_t)(pci->cfg.bar_len / 2);
	uint8_t *c = pci->config, *cap;

	put_le16(c + PCI_VENDOR_ID, pci->cfg.vendor);
	put_le16(c + PCI_DEVICE_ID, pci->cfg.device);
	put_le16(c + PCI_STATUS, PCI_STATUS_CAP_LIST);
	put_le32(c + PCI_CLASS_REVISION, pci->cfg.class << 8 | REVISION);
	put_le32(c + PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_MEM_TYPE_64);
	put_le16(c + PCI_SUBSYSTEM_VENDOR_ID, pci->cfg.vendor);
	put_le16(c + PCI_SUBSYSTEM_ID, pci->cfg.device);
	c[PCI_CAPABILITY_LIST] = CAP_PM;
	c[PCI_INTERRUPT_PIN] = 1;

	cap = c + CAP_PM;
	cap[PCI_CAP_LIST_ID] = PCI_CAP_ID_PM;
	cap[PCI_CAP_LIST_NEXT] = CAP_MSIX;
	put_le16(cap + PCI_PM_PMC, 3);
	put_le16(cap + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);

	cap = c + CAP_MSIX;
	cap[PCI_CAP_LIST_ID] = PCI_CAP_ID_MSIX;
	cap[PCI_CAP_LIST_NEXT] = CAP_EXP;
	put_le16(cap + PCI_MSIX_FLAGS, (uint16_t)(pci->cfg.nr_msix - 1));
	put_le32(cap + PCI_MSIX_TABLE, table);
	put_le32(cap + PCI_MSIX_PBA, table + table_len(pci->cfg.nr_msix));

	/* Integrated into the root complex: no port above it, no link to describe. */
	cap = c + CAP_EXP;
	cap[PCI_CAP_LIST_ID] = PCI_CAP_ID_EXP;
	put_le16(cap + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4);
	put_le32(cap + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	put_le16(cap + PCI_EXP_DEVCTL,
		 PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B);
}

int sim_pci_create(const struct sim_pci_cfg *cfg, struct sim_pci **out)
{
	struct sim_pci *pci;

	if (!IS_POW2(cfg->bar_len) || cfg->bar_len > BIT(31) || !cfg->nr_msix ||
	    cfg->nr_msix > MAX_MSIX ||
	    table_len(cfg->nr_msix) + pba_len(cfg->nr_msix) > cfg->bar_len / 2)
		return -EINVAL;
	pci = calloc(1, sizeof(*pci) + cfg->nr_msix * sizeof(pci->fds[0]));
	if (!pci)
		return -ENOMEM;
	pci->cfg = *cfg;
	pci->dev.ops = cfg->msi_target ? &ops_msi_target : &ops;
	pci->dev.name = cfg->name;
	pci->dev.can_reset = true;
	pci->dev.bars[0].size = cfg->bar_len;
	pci->dev.nr_intx = 1;
	pci->dev.nr_msix = cfg->nr_msix;
	pci->irq_index = IRQ_OFF;
	pthread_mutex_init(&pci->config_lock, NULL);
	pthread_mutex_init(&pci->irq_lock, NULL);
	init_config(pci);
	*out = pci;
	return 0;
}

void sim_pci_destroy(struct sim_pci *pci)
{
	if (!pci)
		return;
	pthread_mutex_destroy(&pci->irq_lock);
	pthread_mutex_destroy(&pci->config_lock);
	free(pci);
}

struct pci_dev *sim_pci_dev(struct sim_pci *pci)
{
	return &pci->dev;
}
