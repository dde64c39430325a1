/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/tell.h"

#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "iommu/base.h"
#include "vmm/msg.h"

static void tell_memlock(void)
{
	struct rlimit limit;
	char size[24];

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return;
	if (limit.rlim_cur == RLIM_INFINITY)
		msg_tell("memory that may be locked: no limit");
	else
		msg_tell("memory that may be locked: %s, but for who has CAP_IPC_LOCK",
			 view_size(limit.rlim_cur, size));
}

void tell_guest(const struct tell_guest *guest)
{
	const struct boot_plan *plan = guest->plan;
	char size[24], page[24];

	msg_tell("host: pages of %s; KVM gives guests %d bits of addresses",
		 view_size(guest->host_page, page), guest->ipa_bits > 0 ? guest->ipa_bits : 40);
	msg_tell("kernel %s: %s, %s%s, entry 0x%" PRIx64, guest->cfg->kernel, guest->kernel->format,
		 guest->kernel->page_size ? "pages of " : "the header does not say its page size",
		 guest->kernel->page_size ? view_size(guest->kernel->page_size, page) : "",
		 plan->kernel_entry);
	if (plan->initrd_len)
		msg_tell("initrd %s: %s at 0x%" PRIx64, guest->cfg->initrd,
			 view_size(plan->initrd_len, size), plan->initrd);
	msg_tell("command line: %s", guest->cmdline);
	msg_tell("device tree at 0x%" PRIx64 "; vCPUs: %u", plan->fdt, guest->cfg->vcpus);
	for (unsigned i = 0; i < guest->gmem->nr_spans; i++) {
		const struct gmem_span *span = &guest->gmem->spans[i];

		msg_tell("RAM 0x%" PRIx64 "-0x%" PRIx64 ": %s", span->gpa,
			 span->gpa + (span->len - 1), view_size(span->len, size));
	}
	tell_memlock();
}

static void tell_endpoint(const struct view_vm *vm, const struct view_endpoint *ep)
{
	char bdf[16];

	msg_tell("endpoint 0x%04" PRIx32 ": %s, %s in the guest; sync=%s%s, hold=%s, exposure=%s",
		 ep->id, ep->name, view_bdf(ep->id, bdf), view_sync_name(ep->sync),
		 ep->may_turn_full && ep->sync != SYNC_FULL ? " until its driver needs full" : "",
		 ep->hold ? "on" : "off", ep->relaxed ? "relaxed" : "strict");
	for (unsigned i = 0; i < ep->nr_streams; i++)
		msg_tell("endpoint 0x%04" PRIx32 ": stream %" PRIu32 " of %s", ep->id,
			 ep->streams[i].sid, vm->instances[ep->streams[i].instance].name);
	for (unsigned i = 0; i < MIN(ep->nr_resv, VIEW_MAX_RESV); i++)
		msg_tell("endpoint 0x%04" PRIx32 ": reserved 0x%" PRIx64 "-0x%" PRIx64 "%s", ep->id,
			 ep->resv[i].start, ep->resv[i].last,
			 ep->resv[i].msi ? " (MSI doorbell)" : "");
}

void tell_iommu(const struct view_vm *vm, unsigned kernel_page)
{
	char g[24], h[24], limit[24];

	if (!vm->viommu) {
		msg_tell("no virtio-iommu: devices see guest memory at its own addresses");
		return;
	}
	msg_tell("virtio-iommu: granule %s, %s; frames of %s, the largest page of all its IOMMUs "
		 "and its own",
		 view_size(vm->granule, g),
		 kernel_page ? "which is the kernel's page"
			     : "for the kernel does not say its page",
		 view_size(vm->frame_size, h));
	msg_tell("virtio-iommu: iova 0x%" PRIx64 "-0x%" PRIx64
		 "; bounce pages and their twins up to %s",
		 vm->range.start, vm->range.last, view_size(vm->pool_limit, limit));
	if (vm->frame_size == vm->granule)
		msg_tell("virtio-iommu: nothing is ever bounced, for every page is a frame");
	for (unsigned i = 0; i < vm->nr_instances; i++)
		msg_tell("instance %s: %s, granule %s%s", vm->instances[i].name,
			 vm->instances[i].kind, view_size(vm->instances[i].granule, g),
			 vm->instances[i].exclusive ? ", one table" : "");
	for (unsigned i = 0; i < vm->nr_endpoints; i++)
		tell_endpoint(vm, &vm->endpoints[i]);
}

void tell_event(const struct mediator_event *event)
{
	char bdf[16];

	view_bdf(event->endpoint, bdf);
	switch (event->kind) {
	case EVENT_ATTACH:
		msg_notable("endpoint %s: attached to domain %" PRIu32 "%s%s", bdf, event->domain,
			    event->ret ? ": refused, " : "",
			    event->ret ? strerror(-event->ret) : "");
		return;
	case EVENT_DETACH:
		msg_notable("endpoint %s: detached from domain %" PRIu32 "%s%s", bdf, event->domain,
			    event->ret ? ": refused, " : "",
			    event->ret ? strerror(-event->ret) : "");
		return;
	case EVENT_RESET:
		msg_notable("virtio-iommu: reset, every endpoint has left its domain");
		return;
	case EVENT_TRAP:
		msg_notable(
			"endpoint %s: %s", bdf,
			event->flags == TRAP_ON
				? "trapped, its domain needs sync points or its queues are watched"
				: "direct, its domain needs no sync points");
		return;
	default:
		return;
	}
}
