/* SPDX-License-Identifier: Apache-2.0 */
/* Source: virtio 1.3, "IOMMU Device". */
#include <linux/virtio_ids.h>

#include "cpu.h"
#include "iommu.h"
#include "lib/string.h"

#define CONFIG(field) offsetof(struct virtio_iommu_config, field)

/* The readable part of a request: all but its tail. */
#define READABLE(req) (sizeof(req) - sizeof(struct virtio_iommu_req_tail))

const char *iommu_start(struct iommu *iommu, uint64_t features)
{
	struct vdev *dev = &iommu->dev;
	const char *error;

	if (!vdev_find(VIRTIO_ID_IOMMU, 0, dev))
		return "there is no virtio-iommu";
	error = vdev_start(dev, features, 2);
	if (error)
		return error;
	iommu->page_size_mask = vdev_config(dev, CONFIG(page_size_mask), 8);
	iommu->input_start = vdev_config(dev, CONFIG(input_range.start), 8);
	iommu->input_end = vdev_config(dev, CONFIG(input_range.end), 8);
	iommu->domain_start = (uint32_t)vdev_config(dev, CONFIG(domain_range.start), 4);
	iommu->domain_end = (uint32_t)vdev_config(dev, CONFIG(domain_range.end), 4);
	iommu->probe_size = (uint32_t)vdev_config(dev, CONFIG(probe_size), 4);
	return iommu->probe_size <= IOMMU_MAX_PROBE ? NULL : "probe_size is out of all proportion";
}

static unsigned judge(int64_t used, uint32_t writable, const struct virtio_iommu_req_tail *tail)
{
	if (used < 0)
		return IOMMU_NO_ANSWER;
	if (used != writable)
		return IOMMU_BAD_LEN;
	if (tail->reserved[0] || tail->reserved[1] || tail->reserved[2])
		return IOMMU_BAD_TAIL;
	return tail->status;
}

unsigned iommu_send(struct iommu *iommu, const void *req, uint32_t len)
{
	struct virtio_iommu_req_tail tail;
	struct seg segs[] = {
		{.at = (void *)(uintptr_t)req, .len = len},
		{.at = &tail, .len = sizeof(tail), .write = true},
	};

	memset(&tail, 0xff, sizeof(tail));
	return judge(vq_request(&iommu->dev, 0, segs, 2), sizeof(tail), &tail);
}

unsigned iommu_attach(struct iommu *iommu, uint32_t domain, uint32_t endpoint, uint32_t flags)
{
	struct virtio_iommu_req_attach req = {
		.head.type = VIRTIO_IOMMU_T_ATTACH,
		.domain = domain,
		.endpoint = endpoint,
		.flags = flags,
	};

	return iommu_send(iommu, &req, READABLE(req));
}

unsigned iommu_detach(struct iommu *iommu, uint32_t domain, uint32_t endpoint)
{
	struct virtio_iommu_req_detach req = {
		.head.type = VIRTIO_IOMMU_T_DETACH,
		.domain = domain,
		.endpoint = endpoint,
	};

	return iommu_send(iommu, &req, READABLE(req));
}

unsigned iommu_map(struct iommu *iommu, uint32_t domain, uint64_t start, uint64_t last, uint64_t gpa,
		   uint32_t flags)
{
	struct virtio_iommu_req_map req = {
		.head.type = VIRTIO_IOMMU_T_MAP,
		.domain = domain,
		.virt_start = start,
		.virt_end = last,
		.phys_start = gpa,
		.flags = flags,
	};

	return iommu_send(iommu, &req, READABLE(req));
}

unsigned iommu_unmap(struct iommu *iommu, uint32_t domain, uint64_t start, uint64_t last)
{
	struct virtio_iommu_req_unmap req = {
		.head.type = VIRTIO_IOMMU_T_UNMAP,
		.domain = domain,
		.virt_start = start,
		.virt_end = last,
	};

	return iommu_send(iommu, &req, READABLE(req));
}

unsigned iommu_probe(struct iommu *iommu, uint32_t endpoint)
{
	struct virtio_iommu_req_probe req = {
		.head.type = VIRTIO_IOMMU_T_PROBE,
		.endpoint = endpoint,
	};
	struct virtio_iommu_req_tail tail;
	struct seg segs[] = {
		{.at = &req, .len = sizeof(req)},
		{.at = iommu->probe, .len = iommu->probe_size, .write = true},
		{.at = &tail, .len = sizeof(tail), .write = true},
	};

	memset(iommu->probe, 0xff, iommu->probe_size);
	memset(&tail, 0xff, sizeof(tail));
	return judge(vq_request(&iommu->dev, 0, segs, 3), iommu->probe_size + sizeof(tail), &tail);
}

void iommu_listen(struct iommu *iommu)
{
	struct vq *vq = &iommu->dev.vq[1];

	for (unsigned i = 0; i < IOMMU_EVENTS; i++) {
		const struct seg seg = {
			.at = &iommu->events[i], .len = sizeof(iommu->events[i]), .write = true};

		vq_add(vq, &seg, 1); /* descriptor i */
	}
	vq_kick(&iommu->dev, vq);
}

bool iommu_event(struct iommu *iommu, uint64_t us, struct virtio_iommu_fault *out)
{
	struct vq *vq = &iommu->dev.vq[1];
	uint64_t end = now_us() + us;
	uint32_t i;

	while (*(volatile uint16_t *)&vq->used->idx == vq->seen) {
		if (now_us() > end)
			return false;
	}
	barrier();
	i = vq->used->ring[vq->seen++ % vq->size].id;
	if (i >= IOMMU_EVENTS)
		return false;
	*out = iommu->events[i];
	memset(&iommu->events[i], 0xff, sizeof(iommu->events[i]));
	vq->avail->ring[vq->avail->idx % vq->size] = (uint16_t)i;
	barrier();
	*(volatile uint16_t *)&vq->avail->idx = (uint16_t)(vq->avail->idx + 1);
	vq_kick(&iommu->dev, vq);
	return true;
}

const struct virtio_iommu_probe_resv_mem *iommu_resv(const struct iommu *iommu, unsigned nth)
{
	uint32_t at = 0;

	while (at + sizeof(struct virtio_iommu_probe_property) <= iommu->probe_size) {
		const struct virtio_iommu_probe_property *prop = (const void *)(iommu->probe + at);

		if ((prop->type & VIRTIO_IOMMU_PROBE_T_MASK) == VIRTIO_IOMMU_PROBE_T_NONE)
			return NULL;
		if ((prop->type & VIRTIO_IOMMU_PROBE_T_MASK) == VIRTIO_IOMMU_PROBE_T_RESV_MEM && !nth--)
			return (const void *)prop;
		at += sizeof(*prop) + prop->length;
	}
	return NULL;
}
