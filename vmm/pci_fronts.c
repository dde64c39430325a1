/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pci_fronts.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/msg.h"
#include "vmm/poller.h"

#define ERROR_LEN 512

struct line {
	struct pci_fronts *fronts;
	unsigned nr;
	struct evloop_watch *watch; /* of its ends of interrupt; NULL: none of ours drives it */
};

struct pci_fronts {
	struct pci_host *host;
	const struct pci_machine *machine;
	struct evloop *loop;
	struct pci_lines lines;
	struct line line_ctx[4];
	struct pci_front *fronts[PCI_FRONTS_MAX];
	const struct pci_dev *devs[PCI_FRONTS_MAX];
	struct poller *pollers[PCI_FRONTS_MAX]; /* NULL: it is not polled */
	unsigned nr;
	bool quiet;
};

int pci_fronts_create(struct pci_host *host, const struct pci_machine *machine, struct evloop *loop,
		      struct pci_fronts **out)
{
	struct pci_fronts *fronts = calloc(1, sizeof(*fronts));

	if (!fronts)
		return -ENOMEM;
	fronts->host = host;
	fronts->machine = machine;
	fronts->loop = loop;
	fair_init(&fronts->lines.lock);
	*out = fronts;
	return 0;
}

static void on_eoi(void *ctx, uint64_t count)
{
	struct line *line = ctx;

	(void)count;
	for (unsigned i = 0; i < line->fronts->nr; i++)
		pci_front_eoi(line->fronts->fronts[i], line->nr);
}

/* watch_line - hear of the guest's ends of interrupt on the line that @dev drives, if it does */
static int watch_line(struct pci_fronts *fronts, struct pci_dev *dev, uint8_t devfn)
{
	uint8_t pin;
	struct line *line;
	int ret;

	if (!fronts->machine->intx_resample || !dev->nr_intx ||
	    dev->ops->read(dev, VFIO_PCI_CONFIG_REGION_INDEX, PCI_INTERRUPT_PIN, &pin, 1) ||
	    pin < 1 || pin > 4)
		return 0;
	line = &fronts->line_ctx[pci_intx_line(devfn, pin)];
	if (line->watch)
		return 0;
	*line = (struct line){.fronts = fronts, .nr = pci_intx_line(devfn, pin)};
	ret = fronts->machine->intx_resample(fronts->machine->ctx, line->nr);
	if (ret < 0)
		return ret;
	return evloop_add_eventfd(fronts->loop, ret, on_eoi, line, &line->watch);
}

int pci_fronts_add(struct pci_fronts *fronts, struct pci_dev *dev, struct endpoint *ep,
		   unsigned poll_us, uint8_t devfn)
{
	struct pci_front_cfg cfg = {
		.dev = dev,
		.ep = ep,
		.host = fronts->host,
		.machine = fronts->machine,
		.lines = &fronts->lines,
		.loop = fronts->loop,
		.devfn = devfn,
	};
	char error[ERROR_LEN];
	int ret;

	if (fronts->nr == PCI_FRONTS_MAX) {
		msg_error("%s: the guest has %d PCI functions already", dev->name, PCI_FRONTS_MAX);
		return -ENOSPC;
	}
	ret = watch_line(fronts, dev, devfn);
	if (ret) {
		msg_error("%s: its INTx line cannot be watched: %s", dev->name, strerror(-ret));
		return ret;
	}
	ret = pci_front_create(&cfg, &fronts->fronts[fronts->nr], error, sizeof(error));
	if (ret) {
		msg_error("%s", error);
		return ret;
	}
	fronts->devs[fronts->nr] = dev;
	if (ep && poll_us)
		ret = poller_create(fronts->loop, ep, poll_us, &fronts->pollers[fronts->nr]);
	fronts->nr++;
	if (ret)
		msg_error("%s: its memory cannot be polled: %s", dev->name, strerror(-ret));
	return ret;
}

void pci_fronts_unplug(struct pci_fronts *fronts, const struct pci_dev *dev)
{
	for (unsigned i = 0; i < fronts->nr; i++) {
		if (fronts->devs[i] != dev)
			continue;
		poller_destroy(fronts->pollers[i]);
		fronts->pollers[i] = NULL;
		pci_front_unplug(fronts->fronts[i]);
	}
}

void pci_fronts_quiesce(struct pci_fronts *fronts)
{
	if (!fronts || fronts->quiet)
		return;
	fronts->quiet = true;
	for (unsigned i = 0; i < fronts->nr; i++) {
		poller_destroy(fronts->pollers[i]);
		pci_front_quiesce(fronts->fronts[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(fronts->line_ctx); i++)
		if (fronts->line_ctx[i].watch)
			evloop_remove(fronts->loop, fronts->line_ctx[i].watch);
}

void pci_fronts_destroy(struct pci_fronts *fronts)
{
	if (!fronts)
		return;
	pci_fronts_quiesce(fronts);
	for (unsigned i = 0; i < fronts->nr; i++)
		pci_front_destroy(fronts->fronts[i]);
	fair_destroy(&fronts->lines.lock);
	free(fronts);
}
