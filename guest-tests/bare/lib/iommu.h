/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iommu - virtio-iommu requests, with what the device must always do checked on each: used.len is
 * the whole writable part, the reserved bytes of the tail are zero.
 */
#ifndef BARE_IOMMU_H
#define BARE_IOMMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/virtio_iommu.h>

#include "virtio.h"

#define IOMMU_FEATURES                                                                             \
	(1ull << VIRTIO_IOMMU_F_INPUT_RANGE | 1ull << VIRTIO_IOMMU_F_DOMAIN_RANGE |                \
	 1ull << VIRTIO_IOMMU_F_MAP_UNMAP | 1ull << VIRTIO_IOMMU_F_PROBE |                         \
	 1ull << VIRTIO_IOMMU_F_MMIO | 1ull << VIRTIO_IOMMU_F_BYPASS_CONFIG)

#define IOMMU_RW (VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE)

/* What a request came to: a VIRTIO_IOMMU_S_ status, or one of these. */
#define IOMMU_NO_ANSWER 0x100
#define IOMMU_BAD_LEN	0x101 /* used.len is not the writable part */
#define IOMMU_BAD_TAIL	0x102 /* reserved bytes of the tail are not zero */

#define IOMMU_MAX_PROBE 4096
#define IOMMU_EVENTS	32 /* buffers for them */

struct iommu {
	struct vdev dev;
	uint64_t page_size_mask, input_start, input_end;
	uint32_t domain_start, domain_end, probe_size;
	uint8_t probe[IOMMU_MAX_PROBE]; /* properties of the last iommu_probe() */
	struct virtio_iommu_fault events[IOMMU_EVENTS];
};

/* iommu_start - find, reset and start it. Return: NULL, or what is wrong. */
const char *iommu_start(struct iommu *iommu, uint64_t features);

/* iommu_send - one request of @len readable bytes. Return: see above. */
unsigned iommu_send(struct iommu *iommu, const void *req, uint32_t len);

unsigned iommu_attach(struct iommu *iommu, uint32_t domain, uint32_t endpoint, uint32_t flags);
unsigned iommu_detach(struct iommu *iommu, uint32_t domain, uint32_t endpoint);
/* iommu_map, iommu_unmap - @last is inclusive */
unsigned iommu_map(struct iommu *iommu, uint32_t domain, uint64_t start, uint64_t last, uint64_t gpa,
		   uint32_t flags);
unsigned iommu_unmap(struct iommu *iommu, uint32_t domain, uint64_t start, uint64_t last);
unsigned iommu_probe(struct iommu *iommu, uint32_t endpoint);

/* iommu_listen - give the event queue buffers; once after each iommu_start() */
void iommu_listen(struct iommu *iommu);
/* iommu_event - the next fault, waiting for at most @us. Return: false: none came. */
bool iommu_event(struct iommu *iommu, uint64_t us, struct virtio_iommu_fault *out);

/* iommu_resv - the @nth RESV_MEM property of the last probe; NULL: there is none */
const struct virtio_iommu_probe_resv_mem *iommu_resv(const struct iommu *iommu, unsigned nth);

#endif
