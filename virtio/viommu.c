/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/viommu.h"

#include <errno.h>
#include <linux/virtio_iommu.h>
#include <stdatomic.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "virtio/queue.h"

#define REQUESTQ 0
#define EVENTQ	 1

#define QUEUE_SIZE	256
/* Looks at the event queue before the owner gets another turn: a driver that reposts as fast as its
 * device faults must not keep us. */
#define EVENTS_PER_TURN 256

#define FEATURES                                                                                   \
	(BIT(VIRTIO_IOMMU_F_INPUT_RANGE) | BIT(VIRTIO_IOMMU_F_DOMAIN_RANGE) |                      \
	 BIT(VIRTIO_IOMMU_F_MAP_UNMAP) | BIT(VIRTIO_IOMMU_F_PROBE) | BIT(VIRTIO_IOMMU_F_MMIO) |    \
	 BIT(VIRTIO_IOMMU_F_BYPASS_CONFIG))

/* A hole before, between and after all apertures an endpoint can have, one of them cut in two by
 * the doorbell, and the doorbell: no list of regions is ever cut short. */
#define MAX_RESV   (MEDIATOR_MAX_STREAMS * INSTANCE_MAX_APERTURES + 3)
#define PROBE_SIZE (MAX_RESV * sizeof(struct virtio_iommu_probe_resv_mem))

#define TAIL_SIZE sizeof(struct virtio_iommu_req_tail)

_Static_assert(sizeof(struct virtio_iommu_config) == 40, "config space, virtio 1.3");
_Static_assert(sizeof(struct virtio_iommu_probe_resv_mem) == 24, "RESV_MEM property, virtio 1.3");
_Static_assert(sizeof(struct virtio_iommu_fault) == 24, "fault report, virtio 1.3");
_Static_assert(MAP_READ == VIRTIO_IOMMU_MAP_F_READ && MAP_WRITE == VIRTIO_IOMMU_MAP_F_WRITE &&
		       MAP_MMIO == VIRTIO_IOMMU_MAP_F_MMIO,
	       "MAP flags go to the mediator as they come");
/* Structures of the guest are used as they lie. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian, as every host");

struct viommu {
	struct virtio_dev dev;
	struct mediator *m;
	void (*wake)(void *ctx);
	void *wake_ctx;
	struct virtio_iommu_config config;
	struct fault fault; /* taken from the log, waits for a buffer */
	bool fault_waits;
	/*
	 * The driver has made a request, or kicked the event queue. Linux fills that queue without
	 * a kick before it is ready for an event, and would take one for a NULL pointer
	 * (drivers/iommu/virtio-iommu.c, viommu_probe() sets vdev->priv after viommu_fill_evtq()):
	 * a device that already faults must not bring it down.
	 */
	bool heard;
	atomic_bool ending;
	uint8_t properties[PROBE_SIZE]; /* of the PROBE being answered */
};

static struct viommu *to_viommu(struct virtio_dev *dev)
{
	return container_of(dev, struct viommu, dev);
}

static bool has_feature(const struct viommu *v, unsigned bit)
{
	return v->dev.negotiated & BIT(bit);
}

/* ---- requests ---- */

/* The device-readable part of any request; the structures' tails are not used. */
union request {
	struct virtio_iommu_req_head head;
	struct virtio_iommu_req_attach attach;
	struct virtio_iommu_req_detach detach;
	struct virtio_iommu_req_map map;
	struct virtio_iommu_req_unmap unmap;
	struct virtio_iommu_req_probe probe;
};

static int do_attach(struct viommu *v, const union request *req)
{
	static const uint8_t zero[sizeof(req->attach.reserved)];
	uint32_t known =
		has_feature(v, VIRTIO_IOMMU_F_BYPASS_CONFIG) ? VIRTIO_IOMMU_ATTACH_F_BYPASS : 0;

	if (memcmp(req->attach.reserved, zero, sizeof(zero)) != 0 || (req->attach.flags & ~known))
		return -EINVAL;
	return mediator_attach(v->m, req->attach.domain, req->attach.endpoint,
			       req->attach.flags & VIRTIO_IOMMU_ATTACH_F_BYPASS);
}

static int do_detach(struct viommu *v, const union request *req)
{
	return mediator_detach(v->m, req->detach.domain, req->detach.endpoint);
}

static int do_map(struct viommu *v, const union request *req)
{
	uint32_t known =
		MAP_READ | MAP_WRITE | (has_feature(v, VIRTIO_IOMMU_F_MMIO) ? MAP_MMIO : 0);
	const struct mapping map = {
		.start = req->map.virt_start,
		.last = req->map.virt_end,
		.gpa = req->map.phys_start,
		.flags = req->map.flags,
	};

	if (map.flags & ~known)
		return -EINVAL;
	return mediator_map(v->m, req->map.domain, &map);
}

/* Reserved bytes may be refused or not (virtio 1.3, "UNMAP request"): they are not. */
static int do_unmap(struct viommu *v, const union request *req)
{
	return mediator_unmap(v->m, req->unmap.domain, req->unmap.virt_start, req->unmap.virt_end);
}

/* Leaves the answer in v->properties, which is all zero before. */
static int do_probe(struct viommu *v, const union request *req)
{
	struct resv_region regions[MAX_RESV];
	int nr;

	nr = mediator_resv_regions(v->m, req->probe.endpoint, regions, MAX_RESV);
	if (nr < 0)
		return nr;
	/* A driver that does not know of a region would map into it. */
	if (nr > MAX_RESV)
		return -EIO;
	for (int i = 0; i < nr; i++) {
		const struct virtio_iommu_probe_resv_mem property = {
			.head.type = VIRTIO_IOMMU_PROBE_T_RESV_MEM,
			.head.length = sizeof(property) - sizeof(property.head),
			.subtype = regions[i].msi ? VIRTIO_IOMMU_RESV_MEM_T_MSI
						  : VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
			.start = regions[i].start,
			.end = regions[i].last,
		};

		memcpy(v->properties + i * sizeof(property), &property, sizeof(property));
	}
	return 0;
}

/* By type; a type without run() is unknown. */
static const struct request_type {
	int (*run)(struct viommu *v, const union request *req); /* Return: 0; -errno */
	uint64_t feature; /* to be negotiated before the type exists */
	size_t readable;
	size_t room; /* writable bytes before the tail */
} request_types[] = {
	[VIRTIO_IOMMU_T_ATTACH] = {do_attach, 0, offsetof(struct virtio_iommu_req_attach, tail), 0},
	[VIRTIO_IOMMU_T_DETACH] = {do_detach, 0, offsetof(struct virtio_iommu_req_detach, tail), 0},
	[VIRTIO_IOMMU_T_MAP] = {do_map, BIT(VIRTIO_IOMMU_F_MAP_UNMAP),
				offsetof(struct virtio_iommu_req_map, tail), 0},
	[VIRTIO_IOMMU_T_UNMAP] = {do_unmap, BIT(VIRTIO_IOMMU_F_MAP_UNMAP),
				  offsetof(struct virtio_iommu_req_unmap, tail), 0},
	[VIRTIO_IOMMU_T_PROBE] = {do_probe, BIT(VIRTIO_IOMMU_F_PROBE),
				  sizeof(struct virtio_iommu_req_probe), PROBE_SIZE},
};

static uint8_t to_status(int ret)
{
	static const struct {
		int ret;
		uint8_t status;
	} table[] = {
		{0, VIRTIO_IOMMU_S_OK},		 {-ENOENT, VIRTIO_IOMMU_S_NOENT},
		{-EINVAL, VIRTIO_IOMMU_S_INVAL}, {-ERANGE, VIRTIO_IOMMU_S_RANGE},
		{-EFAULT, VIRTIO_IOMMU_S_FAULT}, {-ENOMEM, VIRTIO_IOMMU_S_NOMEM},
		{-ENOSPC, VIRTIO_IOMMU_S_NOMEM}, {-EOPNOTSUPP, VIRTIO_IOMMU_S_UNSUPP},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].ret == ret)
			return table[i].status;
	}
	return VIRTIO_IOMMU_S_IOERR;
}

/*
 * answer - carry out one request
 * Return: used.len. 0 for what is no request we know, left unwritten; else all of the answer
 * whatever the status, since Linux reads a status only with exactly that length.
 */
static uint32_t answer(struct viommu *v, const struct virtqueue_chain *chain)
{
	struct virtio_iommu_req_tail tail = {0};
	const struct request_type *type;
	union request req = {0};
	size_t len, room;
	int ret;

	len = chain_read(chain, 0, &req, sizeof(req));
	if (req.head.type >= ARRAY_SIZE(request_types))
		return 0;
	type = &request_types[req.head.type];
	if (!type->run || (type->feature & ~v->dev.negotiated))
		return 0;
	if (len < type->readable || chain->writable < TAIL_SIZE)
		return 0;
	room = MIN(chain->writable - TAIL_SIZE, type->room);
	if (room)
		memset(v->properties, 0, sizeof(v->properties));
	ret = room < type->room ? -EINVAL : type->run(v, &req);
	tail.status = to_status(ret);
	chain_write(chain, 0, v->properties, room);
	chain_write(chain, room, &tail, sizeof(tail));
	return (uint32_t)(room + sizeof(tail));
}

static void serve_requests(struct viommu *v)
{
	struct virtqueue *vq = &v->dev.queues[REQUESTQ];
	struct virtqueue_chain chain;

	while (!v->ending && virtqueue_pop(vq, &chain))
		virtqueue_push(vq, chain.head, answer(v, &chain));
	virtqueue_interrupt(vq);
}

void viommu_end(struct virtio_dev *dev)
{
	to_viommu(dev)->ending = true;
}

/* ---- faults ---- */

static struct virtio_iommu_fault to_event(const struct fault *fault)
{
	static const uint8_t reasons[] = {
		[FAULT_UNKNOWN] = VIRTIO_IOMMU_FAULT_R_UNKNOWN,
		[FAULT_DOMAIN] = VIRTIO_IOMMU_FAULT_R_DOMAIN,
		[FAULT_MAPPING] = VIRTIO_IOMMU_FAULT_R_MAPPING,
	};
	struct virtio_iommu_fault event = {
		.reason = reasons[fault->reason],
		.endpoint = fault->endpoint,
	};

	if (fault->flags & FAULT_READ)
		event.flags |= VIRTIO_IOMMU_FAULT_F_READ;
	if (fault->flags & FAULT_WRITE)
		event.flags |= VIRTIO_IOMMU_FAULT_F_WRITE;
	if (fault->flags & FAULT_ADDRESS) {
		event.flags |= VIRTIO_IOMMU_FAULT_F_ADDRESS;
		event.address = fault->iova;
	}
	return event;
}

/* Is there a fault to tell? It then is v->fault, and stays so until a buffer has taken it. */
static bool next_fault(struct viommu *v)
{
	if (!v->fault_waits)
		v->fault_waits = faultlog_take(mediator_faultlog(v->m), &v->fault);
	return v->fault_waits;
}

static void deliver_faults(struct viommu *v)
{
	struct virtqueue *vq = &v->dev.queues[EVENTQ];
	unsigned turns = EVENTS_PER_TURN;
	struct virtio_iommu_fault event;
	struct virtqueue_chain chain;

	if (!v->heard)
		return;
	while (turns && next_fault(v) && virtqueue_pop(vq, &chain)) {
		turns--;
		/* An event is never split: a buffer that is too small goes back, the fault waits.
		 */
		if (chain.writable < sizeof(event)) {
			virtqueue_push(vq, chain.head, 0);
			continue;
		}
		event = to_event(&v->fault);
		chain_write(&chain, 0, &event, sizeof(event));
		virtqueue_push(vq, chain.head, sizeof(event));
		v->fault_waits = false;
	}
	virtqueue_interrupt(vq);
	if (!turns)
		v->wake(v->wake_ctx);
}

bool viommu_deliver_faults(struct virtio_dev *dev)
{
	/* A vCPU's requests may take long, and there may be more and more of them. */
	if (pthread_mutex_trylock(&dev->lock))
		return false;
	deliver_faults(to_viommu(dev));
	pthread_mutex_unlock(&dev->lock);
	return true;
}

/* ---- device ops ---- */

static uint64_t viommu_features(struct virtio_dev *dev)
{
	(void)dev;
	return FEATURES;
}

static void viommu_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	const struct viommu *v = to_viommu(dev);

	virtio_config_copy(&v->config, sizeof(v->config), off, buf, len);
}

static void viommu_config_write(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len)
{
	const unsigned at = offsetof(struct virtio_iommu_config, bypass);
	struct viommu *v = to_viommu(dev);

	if (!has_feature(v, VIRTIO_IOMMU_F_BYPASS_CONFIG) || off > at || at - off >= len)
		return;
	/* A device must only ever present 0 or 1. */
	v->config.bypass = ((const uint8_t *)buf)[at - off] & 1;
	/* There is no answer to a write: an endpoint that could not be given RAM stays without, and
	 * the mediator has told the operator. */
	(void)mediator_set_bypass(v->m, v->config.bypass);
}

static void viommu_notify(struct virtio_dev *dev, unsigned q)
{
	struct viommu *v = to_viommu(dev);

	v->heard = true;
	if (q == REQUESTQ)
		serve_requests(v);
	/* After requests too: one may have left a fault, and Linux fills the event queue without a
	 * kick. */
	deliver_faults(v);
}

/* config.bypass stays: it outlives a device reset (virtio 1.3, "Device configuration layout"). */
static void viommu_reset(struct virtio_dev *dev)
{
	struct viommu *v = to_viommu(dev);

	mediator_reset(v->m);
	/* The next driver is not told what happened to the one before it. */
	faultlog_clear(mediator_faultlog(v->m));
	v->fault_waits = false;
	v->heard = false;
}

static void viommu_destroy(struct virtio_dev *dev)
{
	struct viommu *v = to_viommu(dev);

	faultlog_set_notify(mediator_faultlog(v->m), NULL, NULL);
	pthread_mutex_destroy(&dev->lock);
	iommu_free(v);
}

static const struct virtio_dev_ops viommu_ops = {
	.features = viommu_features,
	.config_read = viommu_config_read,
	.config_write = viommu_config_write,
	.notify = viommu_notify,
	.reset = viommu_reset,
	.destroy = viommu_destroy,
};

int viommu_create(struct mediator *m, uint64_t page_size_mask, void (*wake)(void *ctx),
		  void *wake_ctx, struct virtio_dev **out)
{
	struct iova_range range = mediator_input_range(m);
	struct viommu *v;

	v = iommu_zalloc(sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->dev.ops = &viommu_ops;
	v->dev.name = "virtio-iommu";
	v->dev.id = VIRTIO_ID_IOMMU;
	v->dev.nr_queues = 2;
	v->dev.queue_size_max = QUEUE_SIZE;
	pthread_mutex_init(&v->dev.lock, NULL);
	v->m = m;
	v->wake = wake;
	v->wake_ctx = wake_ctx;
	v->config.page_size_mask = page_size_mask;
	v->config.input_range.start = range.start;
	v->config.input_range.end = range.last;
	/* From 0: Linux since 2025 says 0 when it means the first id of the range. */
	v->config.domain_range.start = 0;
	v->config.domain_range.end = UINT32_MAX;
	v->config.probe_size = PROBE_SIZE;
	faultlog_set_notify(mediator_faultlog(m), wake, wake_ctx);
	*out = &v->dev;
	return 0;
}
