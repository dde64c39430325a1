/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_viommu - a hostile driver against virtio-iommu: any request, split over descriptors in any
 * way, at any time, on the real mediator over fake instances.
 *
 * A model of its own believes the statuses: a MAP that was answered OK maps, and so on. After each
 * step devices look at many addresses. What the model maps they must reach, with its rights; guest
 * memory they must reach nowhere else; and what they write is in guest memory after the next sync.
 *
 * Files: virtio/viommu.c
 */
#include "iommu/fuzz/input.h"

#include <linux/virtio_iommu.h>

#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"
#include "virtio/tests/driver.h"
#include "virtio/viommu.h"

#define PAGE	      0x1000ull
#define FRAME	      0x4000ull
#define RAM	      0x80000000ull
#define RAM_LEN	      (32 * PAGE)
#define IOVA	      0x100000ull /* most of what is mapped is in the 64 pages from here */
#define INPUT_LAST    0xffffffffull
#define DOORBELL      0x08090000ull
#define DOORBELL_LAST 0x08090fffull
#define HOLE	      0x108000ull /* in the apertures of the last instance */
#define HOLE_LAST     0x10bfffull

#define REQUESTQ 0
#define EVENTQ	 1

#define MAX_OPS	     120
#define MAX_DOMAINS  4
#define MAX_MAPPINGS 24
#define POOL_LIMIT   (1 << 20)
#define NR_IDS	     6 /* domain ids that requests name, more than there may be */
#define MAX_BUF	     0x3000

/* Endpoints alone on an instance, and two that share one. */
enum { INST_A, INST_SHARED, INST_HOLE, NR_INST };
static const struct {
	uint32_t id;
	unsigned inst;
	enum sync_mode sync;
	bool relaxed;
} endpoints[] = {
	{1, INST_A, SYNC_FULL, false},
	{0x20, INST_SHARED, SYNC_FULL, false},
	{0x21, INST_SHARED, SYNC_FULL, false},
	{0x108, INST_HOLE, SYNC_FULL, false},
};
#define NR_EPS ARRAY_SIZE(endpoints)

struct model_domain {
	bool live, bypass;
	unsigned nr;
	struct mapping v[MAX_MAPPINGS];
};

static struct bench {
	struct driver d;
	struct virtio_dev *dev;
	struct mediator *m;
	struct gmem gmem;
	uint8_t *ram;
	struct fake_instance inst[NR_INST];
	struct endpoint *eps[NR_EPS];
	uint32_t probe_size;
	/* the model */
	bool bypass;
	struct model_domain domains[NR_IDS];
	int in[NR_EPS]; /* domain of each endpoint, or -1 */
} b;

/* ---- instances: all that knows what they are ---------------------------------------------------
 */

static void instances_create(void)
{
	for (unsigned i = 0; i < NR_INST; i++)
		fake_init(&b.inst[i], FRAME, 0, INPUT_LAST);
	b.inst[INST_HOLE].inst.nr_apertures = 2;
	b.inst[INST_HOLE].inst.apertures[0].last = HOLE - 1;
	b.inst[INST_HOLE].inst.apertures[1] = (struct iova_range){HOLE_LAST + 1, INPUT_LAST};
}

static int add_endpoint(unsigned i)
{
	const struct stream stream = {&b.inst[endpoints[i].inst].inst, 0};
	const struct endpoint_cfg cfg = {
		.id = endpoints[i].id,
		.name = "endpoint",
		.streams = &stream,
		.nr_streams = 1,
		.sync = endpoints[i].sync,
		.relaxed = endpoints[i].relaxed,
	};

	return mediator_add_endpoint(b.m, &cfg, &b.eps[i]);
}

/* reach - host memory behind @iova for devices of endpoint @i; NULL: a fault */
static uint8_t *reach(unsigned i, uint64_t iova, unsigned prot)
{
	return fake_translate(&b.inst[endpoints[i].inst], iova, prot);
}

static void instances_destroy(void)
{
	for (unsigned i = 0; i < NR_INST; i++)
		demand(b.inst[i].nr == 0);
}

/* ---- the model ---------------------------------------------------------------------------------
 */

/* Endpoints on one instance cannot be told apart: one that is in a domain speaks for all. */
static int domain_of(unsigned i)
{
	for (unsigned j = 0; j < NR_EPS; j++)
		if (endpoints[j].inst == endpoints[i].inst && b.in[j] >= 0)
			return b.in[j];
	return -1;
}

static bool is_ram(uint64_t gpa, uint64_t len)
{
	return gpa >= RAM && gpa < RAM + RAM_LEN && len <= RAM + RAM_LEN - gpa;
}

/* model - may devices of endpoint @i access @iova? Then *@gpa is where. */
static bool model(unsigned i, uint64_t iova, unsigned prot, uint64_t *gpa)
{
	const struct model_domain *dom;
	int id = domain_of(i);

	*gpa = iova;
	if (id < 0 || b.domains[id].bypass)
		return (id >= 0 || b.bypass) && is_ram(iova, 1) && iova <= INPUT_LAST;
	dom = &b.domains[id];
	for (unsigned k = 0; k < dom->nr; k++) {
		const struct mapping *map = &dom->v[k];

		if (iova < map->start || iova > map->last || !is_ram(map->gpa, 1))
			continue;
		*gpa = map->gpa + (iova - map->start);
		return (map->flags & prot) == prot;
	}
	return false;
}

static void look(unsigned i, uint64_t iova)
{
	for (unsigned prot = 1; prot <= 3; prot++) {
		uint8_t *at = reach(i, iova, prot);
		uint64_t gpa;
		bool may = model(i, iova, prot, &gpa);

		demand(!may || at);
		if (at && at >= b.ram && at < b.ram + RAM_LEN)
			demand(may && at == b.ram + (gpa - RAM));
	}
}

static void look_around(uint64_t any)
{
	for (unsigned i = 0; i < NR_EPS; i++) {
		int id = domain_of(i);

		look(i, any);
		look(i, RAM);
		look(i, HOLE);
		look(i, DOORBELL);
		if (id < 0)
			continue;
		for (unsigned k = 0; k < b.domains[id].nr; k++) {
			const struct mapping *map = &b.domains[id].v[k];

			look(i, map->start);
			look(i, map->last);
			look(i, map->start - 1);
			look(i, map->last + 1);
			look(i, map->start + (any & ~(PAGE - 1)) % (map->last - map->start + 1));
		}
	}
}

static void model_leave(unsigned i)
{
	int id = b.in[i];

	b.in[i] = -1;
	for (unsigned j = 0; j < NR_EPS; j++)
		if (b.in[j] == id)
			return;
	if (id >= 0)
		b.domains[id] = (struct model_domain){0};
}

static int endpoint_index(uint32_t id)
{
	for (unsigned i = 0; i < NR_EPS; i++)
		if (endpoints[i].id == id)
			return (int)i;
	return -1;
}

static bool in_a_hole(int id, uint64_t start, uint64_t last)
{
	for (unsigned i = 0; i < NR_EPS; i++)
		if (b.in[i] == id && endpoints[i].inst == INST_HOLE && start <= HOLE_LAST &&
		    last >= HOLE)
			return true;
	return false;
}

static void believe_map(const struct virtio_iommu_req_map *req)
{
	const struct mapping map = {req->virt_start, req->virt_end, req->phys_start, req->flags};
	struct model_domain *dom = &b.domains[req->domain];
	uint64_t len = map.last - map.start + 1;

	demand(req->domain < NR_IDS && dom->live && !dom->bypass);
	demand(map.last >= map.start && map.last <= INPUT_LAST);
	demand(IS_ALIGNED(map.start | len | map.gpa, PAGE) && map.flags <= 7);
	/* RAM, whatever it is called; or the doorbell, which needs no mapping and may have one */
	demand(is_ram(map.gpa, len) || (map.flags & MAP_MMIO && map.gpa >= DOORBELL &&
					map.gpa + (len - 1) <= DOORBELL_LAST));
	demand(!in_a_hole((int)req->domain, map.start, map.last));
	for (unsigned i = 0; i < dom->nr; i++)
		demand(map.last < dom->v[i].start || map.start > dom->v[i].last);
	demand(dom->nr < MAX_MAPPINGS);
	dom->v[dom->nr++] = map;
}

static void believe_unmap(const struct virtio_iommu_req_unmap *req)
{
	struct model_domain *dom = &b.domains[req->domain];
	unsigned kept = 0;

	demand(req->domain < NR_IDS && dom->live && !dom->bypass);
	for (unsigned i = 0; i < dom->nr; i++) {
		const struct mapping *map = &dom->v[i];

		if (map->last < req->virt_start || map->start > req->virt_end) {
			dom->v[kept++] = *map;
			continue;
		}
		demand(map->start >= req->virt_start && map->last <= req->virt_end);
	}
	dom->nr = kept;
}

static void believe_attach(const struct virtio_iommu_req_attach *req)
{
	int i = endpoint_index(req->endpoint);
	bool bypass = req->flags & VIRTIO_IOMMU_ATTACH_F_BYPASS;
	struct model_domain *dom = &b.domains[req->domain];

	demand(i >= 0 && req->domain < NR_IDS && req->flags <= 1);
	if (b.in[i] == (int)req->domain) {
		demand(dom->bypass == bypass);
		return;
	}
	demand(!dom->live || dom->bypass == bypass);
	model_leave((unsigned)i);
	b.in[i] = (int)req->domain;
	dom->live = true;
	dom->bypass = bypass;
	for (unsigned k = 0; k < dom->nr; k++)
		demand(!in_a_hole(b.in[i], dom->v[k].start, dom->v[k].last));
	for (unsigned j = 0; j < NR_EPS; j++) /* one table, one domain */
		demand(endpoints[j].inst != endpoints[i].inst || b.in[j] < 0 || b.in[j] == b.in[i]);
}

static void believe_detach(const struct virtio_iommu_req_detach *req)
{
	int i = endpoint_index(req->endpoint);

	demand(i >= 0 && b.in[i] == (int)req->domain);
	model_leave((unsigned)i);
}

static void believe(const void *req)
{
	switch (((const struct virtio_iommu_req_head *)req)->type) {
	case VIRTIO_IOMMU_T_ATTACH:
		believe_attach(req);
		break;
	case VIRTIO_IOMMU_T_DETACH:
		believe_detach(req);
		break;
	case VIRTIO_IOMMU_T_MAP:
		believe_map(req);
		break;
	case VIRTIO_IOMMU_T_UNMAP:
		believe_unmap(req);
		break;
	case VIRTIO_IOMMU_T_PROBE:
		demand(endpoint_index(((const struct virtio_iommu_req_probe *)req)->endpoint) >= 0);
		break;
	default:
		demand(!"a type that was answered OK");
	}
}

/* ---- the driver --------------------------------------------------------------------------------
 */

/* The readable part of each type, by the specification. */
static const uint32_t readable[] = {0, 20, 20, 36, 28, 72};

static void send(const uint8_t *req, uint32_t len, uint32_t room, const uint8_t *cuts)
{
	uint64_t heap = b.d.next_gpa, in_gpa;
	struct driver_buf bufs[8];
	uint8_t *answer;
	uint32_t used = 0, off = 0;
	unsigned nr = 0;
	uint16_t id, head;
	uint8_t type = len ? req[0] : 0;

	/* Descriptors end where the input says: a head may come in two, a tail in three. */
	for (unsigned i = 0; off < len; i++) {
		uint32_t n = i < 2 && cuts[i] ? MIN((uint32_t)cuts[i], len - off) : len - off;

		bufs[nr++] = (struct driver_buf){driver_put(&b.d, req + off, n), n, false};
		off += n;
	}
	in_gpa = driver_alloc(&b.d, room);
	answer = room ? driver_hva(&b.d, in_gpa) : NULL;
	memset(b.d.ram + (in_gpa - DRIVER_RAM_BASE), 0xee, room);
	for (unsigned i = 2; room && i < 5; i++) {
		uint32_t n = i < 4 && cuts[i] ? MIN((uint32_t)cuts[i], room) : room;

		bufs[nr++] = (struct driver_buf){in_gpa, n, true};
		in_gpa += n;
		room -= n;
	}
	if (!nr)
		return;
	room = (uint32_t)(answer ? in_gpa - (uint64_t)(answer - b.d.ram) - DRIVER_RAM_BASE : 0);
	head = driver_add(&b.d, REQUESTQ, bufs, nr);
	driver_kick(&b.d, REQUESTQ);
	/* answered inside the kick, all of it, and nothing behind it is touched */
	demand(driver_reap(&b.d, REQUESTQ, &id, &used) && id == head);
	demand(!driver_reap(&b.d, REQUESTQ, NULL, NULL));
	demand(used <= room);
	for (uint32_t i = used; i < room; i++)
		demand(answer[i] == 0xee);
	if (used) {
		demand(type >= 1 && type <= 5 && len >= readable[type] && used >= 4);
		demand(used == 4 || type == VIRTIO_IOMMU_T_PROBE);
		demand(answer[used - 4] <= VIRTIO_IOMMU_S_NOMEM);
		demand(!(answer[used - 3] | answer[used - 2] | answer[used - 1]));
		if (type == VIRTIO_IOMMU_T_PROBE && answer[used - 4] == VIRTIO_IOMMU_S_OK)
			demand(used == b.probe_size + 4);
		if (answer[used - 4] == VIRTIO_IOMMU_S_OK)
			believe(req);
	} else {
		/* ...but what we know is not left unanswered */
		demand(type < 1 || type > 5 || len < readable[type] || room < 4 ||
		       !(b.d.features &
			 BIT(type == 5 ? VIRTIO_IOMMU_F_PROBE : VIRTIO_IOMMU_F_MAP_UNMAP)));
	}
	b.d.next_gpa = heap;
}

static void restart(uint64_t features)
{
	driver_reset(&b.d);
	b.d.next_gpa = DRIVER_RAM_BASE;
	driver_probe(&b.d, features);
	driver_config(&b.d, offsetof(struct virtio_iommu_config, probe_size), &b.probe_size,
		      sizeof(b.probe_size));
	memset(b.domains, 0, sizeof(b.domains));
	for (unsigned i = 0; i < NR_EPS; i++)
		b.in[i] = -1;
}

static void reap_events(void)
{
	uint32_t len;
	uint16_t id;

	while (driver_reap(&b.d, EVENTQ, &id, &len)) {
		const struct vring_desc *desc = driver_desc(&b.d, EVENTQ, id);
		const struct virtio_iommu_fault *event = driver_hva(&b.d, desc->addr);

		demand(len == 0 ? desc->len < sizeof(*event) : len == sizeof(*event));
		if (len)
			demand(desc->len >= sizeof(*event) &&
			       event->reason <= VIRTIO_IOMMU_FAULT_R_MAPPING &&
			       !event->reserved[0] && !event->reserved2[0]);
	}
}

/* ---- an input ----------------------------------------------------------------------------------
 */

static uint64_t take_iova(struct input *in)
{
	uint8_t page = take8(in);

	if (page == 255)
		return take64(in);
	if (page >= 250)
		return (page & 1 ? DOORBELL : RAM) + (page & 2 ? PAGE : 0);
	return IOVA + page % 64 * PAGE + (page >= 240 ? 0x800 : 0);
}

static uint64_t take_gpa(struct input *in)
{
	uint8_t page = take8(in);

	if (page == 255)
		return take64(in);
	return page >= 250 ? DOORBELL : RAM + page % 34 * PAGE;
}

static uint64_t take_last(struct input *in, uint64_t start)
{
	uint8_t pages = take8(in);

	return pages == 255 ? take64(in) : start + (1 + pages % 20) * PAGE - 1 - (pages == 254);
}

static uint32_t take_endpoint(struct input *in)
{
	uint8_t i = take8(in);

	return i < 250 ? endpoints[i % NR_EPS].id : i;
}

static void request(struct input *in, uint8_t type)
{
	union {
		uint8_t bytes[80];
		struct virtio_iommu_req_head head;
		struct virtio_iommu_req_attach attach;
		struct virtio_iommu_req_detach detach;
		struct virtio_iommu_req_map map;
		struct virtio_iommu_req_unmap unmap;
		struct virtio_iommu_req_probe probe;
	} req = {0};
	uint8_t cuts[4] = {0}, how = take8(in), dom = how % NR_IDS;
	uint32_t len = type < ARRAY_SIZE(readable) ? readable[type] : 20;
	uint32_t room = type == VIRTIO_IOMMU_T_PROBE ? b.probe_size + 4 : 4;

	req.head.type = type;
	switch (type) {
	case VIRTIO_IOMMU_T_ATTACH:
		req.attach.domain = dom;
		req.attach.endpoint = take_endpoint(in);
		req.attach.flags = how & 0x10 ? take8(in) : 0;
		break;
	case VIRTIO_IOMMU_T_DETACH:
		req.detach.domain = dom;
		req.detach.endpoint = take_endpoint(in);
		break;
	case VIRTIO_IOMMU_T_MAP:
		req.map.domain = dom;
		req.map.virt_start = take_iova(in);
		req.map.virt_end = take_last(in, req.map.virt_start);
		req.map.phys_start = take_gpa(in);
		req.map.flags = how & 0x10 ? take32(in) : 3;
		if (how & 8)
			req.map.flags = 1 + (how >> 6) % 3;
		break;
	case VIRTIO_IOMMU_T_UNMAP:
		req.unmap.domain = dom;
		req.unmap.virt_start = take_iova(in);
		req.unmap.virt_end = take_last(in, req.unmap.virt_start);
		break;
	case VIRTIO_IOMMU_T_PROBE:
		req.probe.endpoint = take_endpoint(in);
		break;
	default:
		take(in, req.bytes, sizeof(req.bytes));
		len = take8(in) % (sizeof(req.bytes) + 1);
		room = take16(in) % MAX_BUF;
	}
	if (how & 0x20) {
		take(in, cuts, sizeof(cuts));
		len += take8(in) % 4;
		len -= take8(in) % 4 % (len + 1);
		len = MIN(len, (uint32_t)sizeof(req.bytes));
		/* a tail that does not fit, or has room behind it */
		room += 4;
		room -= take8(in) % 9 % (room + 1);
	}
	send(req.bytes, len, room, cuts);
}

/* device_write - what a device writes is in guest memory after the next sync */
static void device_write(unsigned i, uint64_t iova)
{
	uint8_t *at = reach(i, iova, PROT_DEV_WRITE), val;
	uint64_t gpa;

	if (!at)
		return;
	if (!model(i, iova, PROT_DEV_WRITE, &gpa)) {
		/* a slot of a bounce page that nobody mapped, or not for writing: it reaches nobody
		 */
		static uint8_t before[RAM_LEN];

		demand(at < b.ram || at >= b.ram + RAM_LEN);
		endpoint_sync_for_cpu(b.eps[i]);
		memcpy(before, b.ram, RAM_LEN);
		*at = (uint8_t) ~*at;
		endpoint_sync_for_cpu(b.eps[i]);
		demand(!memcmp(before, b.ram, RAM_LEN));
		return;
	}
	val = (uint8_t) ~*at;
	*at = val;
	if (b.in[i] >= 0 || (at >= b.ram && at < b.ram + RAM_LEN)) {
		endpoint_sync_for_cpu(b.eps[i]);
		demand(b.ram[gpa - RAM] == val);
	}
}

static void check_bounds(void)
{
	struct mediator_stats stats;

	mediator_get_stats(b.m, &stats);
	demand(stats.mappings <= MAX_DOMAINS * MAX_MAPPINGS);
	demand(stats.bounce_bytes <= POOL_LIMIT);
}

static void step(struct input *in)
{
	uint64_t iova = IOVA;
	uint8_t op = take8(in), how;

	switch (op % 20) {
	case 0:
	case 1:
		request(in, VIRTIO_IOMMU_T_ATTACH);
		break;
	case 2:
		request(in, VIRTIO_IOMMU_T_DETACH);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
		request(in, VIRTIO_IOMMU_T_MAP);
		break;
	case 7:
	case 8:
		request(in, VIRTIO_IOMMU_T_UNMAP);
		break;
	case 9:
		request(in, VIRTIO_IOMMU_T_PROBE);
		break;
	case 10:
		request(in, take8(in));
		break;
	case 11: /* the CPU writes */
		b.ram[take16(in) * 4u % RAM_LEN] = take8(in);
		break;
	case 12:
	case 13:
		how = take8(in);
		iova = take_iova(in) + take16(in) % PAGE;
		device_write(how % NR_EPS, iova);
		break;
	case 14:
		endpoint_sync_for_device(b.eps[take8(in) % NR_EPS]);
		break;
	case 15:
		endpoint_sync_for_cpu(b.eps[take8(in) % NR_EPS]);
		break;
	case 16: /* a buffer for events, which stays where it is */
	{
		struct driver_buf buf = {.len = take8(in) % 40, .write = true};

		if (b.d.next_gpa + 64 + MAX_BUF * 2 > DRIVER_RAM_BASE + b.d.ram_len)
			break;
		buf.gpa = driver_alloc(&b.d, buf.len);
		if ((uint16_t)(b.d.queues[EVENTQ].avail_idx - b.d.queues[EVENTQ].used_idx) <
		    b.d.queues[EVENTQ].size)
			driver_add(&b.d, EVENTQ, &buf, 1);
		break;
	}
	case 17: {
		const struct fault fault = {
			.endpoint = take_endpoint(in),
			.reason = take8(in) % 3,
			.flags = take8(in) % 8,
			.iova = take64(in),
		};

		faultlog_add(mediator_faultlog(b.m), &fault);
		viommu_deliver_faults(b.dev);
		reap_events();
		break;
	}
	case 18: {
		uint8_t data[8], off = take8(in) % 48, len = 1u << take8(in) % 4, now;

		take(in, data, sizeof(data));
		virtio_mmio_access(b.d.mmio, VIRTIO_MMIO_CONFIG + off, data, len, true);
		driver_config(&b.d, offsetof(struct virtio_iommu_config, bypass), &now, 1);
		demand(now <= 1);
		b.bypass = now;
		break;
	}
	case 19:
		how = take8(in);
		if (how % 8 == 1)
			mediator_trim(b.m);
		if (how % 8 == 2)
			demand(mediator_expire(b.m));
		if (how % 8 == 0)
			restart(how & 8 ? ~((uint64_t)take8(in) << 0) : DRIVER_ALL_FEATURES);
		break;
	}
	reap_events();
	demand(!driver_broken(&b.d));
	look_around(iova);
	check_bounds();
}

static void wake(void *ctx)
{
	(void)ctx;
}

static _Alignas(FRAME) uint8_t guest_ram[RAM_LEN], pattern[RAM_LEN];

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	for (uint64_t i = 0; i < RAM_LEN; i++)
		pattern[i] = (uint8_t)(i >> 12 ^ i);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct mediator_cfg cfg = {
		.gmem = &b.gmem,
		.guest_granule = PAGE,
		.pool_limit = POOL_LIMIT,
		.max_domains = MAX_DOMAINS,
		.max_mappings = MAX_MAPPINGS,
		.doorbell = {DOORBELL, DOORBELL_LAST},
	};
	struct input in = {data, len};
	uint8_t how = take8(&in);

	/* frames that stay mapped, and pages that wait for an invalidation, or none */
	cfg.park_limit = how & 1 ? POOL_LIMIT / 8 : 0;
	cfg.quarantine_frames = how & 2 ? 4 : 0;
	cfg.promote = how & 4;
	cfg.ring_limit = how & 8 ? 4 * PAGE * 4 : 0;
	memset(&b, 0, sizeof(b));
	b.ram = guest_ram;
	memcpy(b.ram, pattern, RAM_LEN);
	demand(!gmem_add(&b.gmem, RAM, RAM_LEN, b.ram));
	demand(!mediator_create(&cfg, &b.m));
	instances_create();
	for (unsigned i = 0; i < NR_EPS; i++)
		demand(!add_endpoint(i));
	demand(!viommu_create(b.m, PAGE | FRAME, wake, NULL, &b.dev));
	driver_init(&b.d, 1 << 17);
	driver_wrap(&b.d, b.dev);
	restart(DRIVER_ALL_FEATURES);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	driver_exit(&b.d);
	mediator_destroy(b.m);
	instances_destroy();
	return 0;
}
