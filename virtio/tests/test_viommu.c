/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real device on the real mediator, driven through its registers and queues; below, fake
 * instances say what devices could reach.
 */
#include "virtio/tests/driver.h"

#include <linux/virtio_iommu.h>
#include <stdatomic.h>
#include <time.h>

#include "iommu/alloc.h"
#include "iommu/mediator.h"
#include "iommu/tests/fake_instance.h"
#include "virtio/viommu.h"

#define PAGE  0x1000ull
#define FRAME 0x4000ull

/* RAM that the guest maps; the queues lie in the driver's own. */
#define RAM	0x80000000ull
#define RAM_LEN 0x100000ull

#define INPUT_LAST     0xffffffffull
#define DOORBELL       0x08090000ull
#define DOORBELL_LAST  0x08090fffull
#define HOLE	       0x40000000ull /* in the apertures of EP_HOLE */
#define HOLE_LAST      0x4fffffffull
#define MAX_DOMAINS    4
#define MAX_MAPPINGS   1000
#define PAGE_SIZE_MASK (PAGE | FRAME)
#define MAX_PROBE      0x2000 /* larger than probe_size */

/* Two endpoints alone on their instances, two that share one, one with a hole, one that is
 * nobody's. */
enum {
	EP_A = 1,
	EP_B = 0x108,
	EP_SHARED = 0x20,
	EP_SHARED2 = 0x21,
	EP_HOLE = 0x10000,
	EP_NONE = 77
};
enum { INST_A, INST_B, INST_SHARED, INST_HOLE, NR_INST };

/* Where begin() puts them; the others are in no domain. */
#define DOM_A	   3u
#define DOM_BYPASS 4u
#define DOM_SHARED 5u
#define DOM_NONE   9u

/* What begin() maps in DOM_A: one direct frame, and one slot of a frame that must bounce. */
#define MAPPED	       0x100000ull
#define MAPPED_GPA     (RAM + 0x10000)
#define MAPPED_ONE     0x200000ull
#define MAPPED_ONE_GPA (RAM + 0x21000)

#define OK     VIRTIO_IOMMU_S_OK
#define IOERR  VIRTIO_IOMMU_S_IOERR
#define UNSUPP VIRTIO_IOMMU_S_UNSUPP
#define INVAL  VIRTIO_IOMMU_S_INVAL
#define RANGE  VIRTIO_IOMMU_S_RANGE
#define NOENT  VIRTIO_IOMMU_S_NOENT
#define FAULT  VIRTIO_IOMMU_S_FAULT
#define NOMEM  VIRTIO_IOMMU_S_NOMEM

#define RW	      (VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE)
#define BYPASS	      VIRTIO_IOMMU_ATTACH_F_BYPASS
#define WITHOUT(feat) (DRIVER_ALL_FEATURES & ~BIT(feat))

#define REQUESTQ 0
#define EVENTQ	 1

struct fixture {
	struct driver d;
	struct virtio_dev *dev;
	struct mediator *m;
	struct gmem gmem;
	uint8_t *ram;
	struct fake_instance inst[NR_INST];
	uint32_t probe_size;
	atomic_uint wakes;
	atomic_bool seen; /* a fault of fault_thread() has arrived */
};

/* ---- fixture
 * ---------------------------------------------------------------------------------------- */

static void count_wake(void *ctx)
{
	struct fixture *f = ctx;

	atomic_fetch_add(&f->wakes, 1);
}

static void add_endpoint(struct fixture *f, uint32_t id, struct fake_instance *fake)
{
	const struct stream stream = {.inst = &fake->inst};
	const struct endpoint_cfg cfg = {
		.id = id,
		.name = "endpoint",
		.streams = &stream,
		.nr_streams = 1,
		.sync = SYNC_NONE,
	};
	struct endpoint *ep;

	assert_int_equal(mediator_add_endpoint(f->m, &cfg, &ep), 0);
}

static struct fixture *create(uint64_t input_last)
{
	struct mediator_cfg cfg = {
		.guest_granule = PAGE,
		.pool_limit = 16 << 20,
		.max_domains = MAX_DOMAINS,
		.max_mappings = MAX_MAPPINGS,
		.doorbell = {DOORBELL, DOORBELL_LAST},
	};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->ram = aligned_alloc(FRAME, RAM_LEN);
	assert_non_null(f->ram);
	for (uint64_t i = 0; i < RAM_LEN; i++)
		f->ram[i] = (uint8_t)(i >> 12 ^ i);
	assert_int_equal(gmem_add(&f->gmem, RAM, RAM_LEN, f->ram), 0);
	cfg.gmem = &f->gmem;
	assert_int_equal(mediator_create(&cfg, &f->m), 0);
	for (unsigned i = 0; i < NR_INST; i++)
		fake_init(&f->inst[i], FRAME, 0, input_last);
	f->inst[INST_HOLE].inst.nr_apertures = 2;
	f->inst[INST_HOLE].inst.apertures[0].last = HOLE - 1;
	f->inst[INST_HOLE].inst.apertures[1] = (struct iova_range){HOLE_LAST + 1, input_last};
	add_endpoint(f, EP_A, &f->inst[INST_A]);
	add_endpoint(f, EP_B, &f->inst[INST_B]);
	add_endpoint(f, EP_SHARED, &f->inst[INST_SHARED]);
	add_endpoint(f, EP_SHARED2, &f->inst[INST_SHARED]);
	add_endpoint(f, EP_HOLE, &f->inst[INST_HOLE]);
	assert_int_equal(viommu_create(f->m, PAGE_SIZE_MASK, count_wake, f, &f->dev), 0);
	driver_init(&f->d, 1 << 20);
	driver_wrap(&f->d, f->dev);
	return f;
}

static int setup(void **state)
{
	*state = create(INPUT_LAST);
	return 0;
}

static int setup_full_range(void **state)
{
	*state = create(UINT64_MAX);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	driver_exit(&f->d);
	mediator_destroy(f->m);
	for (unsigned i = 0; i < NR_INST; i++)
		assert_int_equal(f->inst[i].nr, 0);
	free(f->ram);
	free(f);
	return 0;
}

/* restart_silently - reset the device and bring it up with @features; it has not heard of the
 * driver but for that */
static void restart_silently(struct fixture *f, uint64_t features)
{
	driver_reset(&f->d);
	f->d.next_gpa = DRIVER_RAM_BASE;
	driver_probe(&f->d, features);
	driver_config(&f->d, offsetof(struct virtio_iommu_config, probe_size), &f->probe_size,
		      sizeof(f->probe_size));
}

/* restart - the same with a driver that takes events; no endpoint is attached then */
static void restart(struct fixture *f, uint64_t features)
{
	restart_silently(f, features);
	driver_kick(&f->d, EVENTQ);
}

/* ---- requests
 * --------------------------------------------------------------------------------------- */

/* send - a request of @len readable bytes whose answer is a tail, all of it and nothing else */
static uint8_t send(struct fixture *f, const void *req, uint32_t len)
{
	struct virtio_iommu_req_tail tail;

	memset(&tail, 0xee, sizeof(tail));
	assert_int_equal(driver_request(&f->d, REQUESTQ, req, len, &tail, sizeof(tail)),
			 sizeof(tail));
	assert_int_equal(tail.reserved[0] | tail.reserved[1] | tail.reserved[2], 0);
	return tail.status;
}

#define SEND(f, req) send(f, &(req), offsetof(typeof(req), tail))

static uint8_t attach(struct fixture *f, uint32_t domain, uint32_t endpoint, uint32_t flags)
{
	const struct virtio_iommu_req_attach req = {
		.head.type = VIRTIO_IOMMU_T_ATTACH,
		.domain = domain,
		.endpoint = endpoint,
		.flags = flags,
	};

	return SEND(f, req);
}

static uint8_t detach(struct fixture *f, uint32_t domain, uint32_t endpoint)
{
	const struct virtio_iommu_req_detach req = {
		.head.type = VIRTIO_IOMMU_T_DETACH,
		.domain = domain,
		.endpoint = endpoint,
	};

	return SEND(f, req);
}

static struct virtio_iommu_req_map map_request(uint32_t domain, uint64_t start, uint64_t last,
					       uint64_t gpa, uint32_t flags)
{
	return (struct virtio_iommu_req_map){
		.head.type = VIRTIO_IOMMU_T_MAP,
		.domain = domain,
		.virt_start = start,
		.virt_end = last,
		.phys_start = gpa,
		.flags = flags,
	};
}

static uint8_t map(struct fixture *f, uint32_t domain, uint64_t start, uint64_t last, uint64_t gpa,
		   uint32_t flags)
{
	const struct virtio_iommu_req_map req = map_request(domain, start, last, gpa, flags);

	return SEND(f, req);
}

static uint8_t unmap(struct fixture *f, uint32_t domain, uint64_t start, uint64_t last)
{
	const struct virtio_iommu_req_unmap req = {
		.head.type = VIRTIO_IOMMU_T_UNMAP,
		.domain = domain,
		.virt_start = start,
		.virt_end = last,
	};

	return SEND(f, req);
}

/* probe - @properties has f->probe_size bytes */
static uint8_t probe(struct fixture *f, uint32_t endpoint, uint8_t *properties)
{
	const struct virtio_iommu_req_probe req = {
		.head.type = VIRTIO_IOMMU_T_PROBE,
		.endpoint = endpoint,
	};
	uint32_t len = f->probe_size + 4;
	uint8_t answer[MAX_PROBE + 4];
	const uint8_t *tail = answer + f->probe_size;

	assert_true(f->probe_size <= MAX_PROBE);
	memset(answer, 0xee, len);
	assert_int_equal(driver_request(&f->d, REQUESTQ, &req, sizeof(req), answer, len), len);
	memcpy(properties, answer, f->probe_size);
	assert_int_equal(tail[1] | tail[2] | tail[3], 0);
	return tail[0];
}

/* begin - a device with endpoints and mappings in all the places that the tables speak of */
static void begin(struct fixture *f, uint64_t features)
{
	restart(f, features);
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	if (features & BIT(VIRTIO_IOMMU_F_BYPASS_CONFIG))
		assert_int_equal(attach(f, DOM_BYPASS, EP_B, BYPASS), OK);
	assert_int_equal(attach(f, DOM_SHARED, EP_SHARED, 0), OK);
	assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + FRAME - 1, MAPPED_GPA, RW), OK);
	assert_int_equal(map(f, DOM_A, MAPPED_ONE, MAPPED_ONE + PAGE - 1, MAPPED_ONE_GPA, RW), OK);
}

/* ---- what devices reach
 * ----------------------------------------------------------------------------- */

static bool reads(struct fixture *f, unsigned inst, uint64_t iova, uint64_t gpa)
{
	uint8_t buf[64];

	if (!fake_dma_read(&f->inst[inst], iova, buf, sizeof(buf)))
		return false;
	assert_memory_equal(buf, f->ram + (gpa - RAM), sizeof(buf));
	return true;
}

/* What all instances hold, in a form that can be compared. */
struct view {
	unsigned nr[NR_INST];
	struct fake_entry v[NR_INST][64];
};

static int by_iova(const void *a, const void *b)
{
	const struct fake_entry *x = a, *y = b;

	return (x->iova > y->iova) - (x->iova < y->iova);
}

static void look(const struct fixture *f, struct view *view)
{
	memset(view, 0, sizeof(*view));
	for (unsigned i = 0; i < NR_INST; i++) {
		const struct fake_instance *fake = &f->inst[i];

		assert_true(fake->nr <= ARRAY_SIZE(view->v[i]));
		view->nr[i] = fake->nr;
		for (unsigned e = 0; e < fake->nr; e++) {
			view->v[i][e].iova = fake->v[e].iova;
			view->v[i][e].len = fake->v[e].len;
			view->v[i][e].hva = fake->v[e].hva;
			view->v[i][e].prot = fake->v[e].prot;
			view->v[i][e].stale = fake->v[e].stale;
		}
		qsort(view->v[i], fake->nr, sizeof(view->v[i][0]), by_iova);
	}
}

static void assert_unchanged(struct fixture *f, const struct view *before)
{
	struct view now;

	look(f, &now);
	assert_memory_equal(&now, before, sizeof(now));
}

/* ---- features and config space
 * ---------------------------------------------------------------------- */

static void the_features_of_the_device_are_offered(void **state)
{
	struct fixture *f = *state;
	const uint64_t own = BIT(24) - 1;

	assert_int_equal(driver_read(&f->d, VIRTIO_MMIO_DEVICE_ID), 23);
	assert_int_equal(driver_offered(&f->d) & own,
			 BIT(VIRTIO_IOMMU_F_INPUT_RANGE) | BIT(VIRTIO_IOMMU_F_DOMAIN_RANGE) |
				 BIT(VIRTIO_IOMMU_F_MAP_UNMAP) | BIT(VIRTIO_IOMMU_F_PROBE) |
				 BIT(VIRTIO_IOMMU_F_MMIO) | BIT(VIRTIO_IOMMU_F_BYPASS_CONFIG));
}

static void the_config_space_has_forty_bytes_that_reads_of_any_size_show(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[48], wide[8], zero[8] = {0};

	driver_config(&f->d, 0, bytes, sizeof(bytes));
	assert_int_equal(get_le64(bytes), PAGE_SIZE_MASK);
	assert_int_equal(get_le64(bytes + 8), 0);
	assert_int_equal(get_le64(bytes + 16), INPUT_LAST);
	assert_int_equal(get_le32(bytes + 24), 0);
	assert_int_equal(get_le32(bytes + 28), UINT32_MAX);
	assert_true(get_le32(bytes + 32) >= 24 * (INSTANCE_MAX_APERTURES + 2));
	assert_int_equal(get_le32(bytes + 32) % 24, 0);
	for (unsigned i = 36; i < sizeof(bytes); i++)
		assert_int_equal(bytes[i], 0);

	for (unsigned len = 1; len <= 8; len *= 2) {
		for (unsigned off = 0; off + len <= sizeof(bytes); off++) {
			virtio_mmio_access(f->d.mmio, VIRTIO_MMIO_CONFIG + off, wide, len, false);
			assert_memory_equal(wide, bytes + off, len);
		}
		virtio_mmio_access(f->d.mmio, VIRTIO_MMIO_LEN - len, wide, len, false);
		assert_memory_equal(wide, zero, len);
	}
}

static void config_write(struct fixture *f, unsigned off, uint64_t val, unsigned len)
{
	uint8_t data[8];

	put_le64(data, val);
	virtio_mmio_access(f->d.mmio, VIRTIO_MMIO_CONFIG + off, data, len, true);
}

static uint8_t read_bypass(struct fixture *f)
{
	uint8_t bypass;

	driver_config(&f->d, 36, &bypass, 1);
	return bypass;
}

static void only_the_bypass_byte_can_be_written(void **state)
{
	struct fixture *f = *state;
	uint8_t before[64], now[64];

	restart(f, DRIVER_ALL_FEATURES);
	driver_config(&f->d, 0, before, sizeof(before));
	for (unsigned len = 1; len <= 8; len *= 2) {
		for (unsigned off = 0; off + len <= sizeof(before); off++) {
			bool covers = off <= 36 && off + len > 36;

			config_write(f, off, UINT64_MAX, len);
			assert_int_equal(read_bypass(f), covers);
			config_write(f, 36, 0, 1);
			driver_config(&f->d, 0, now, sizeof(now));
			assert_memory_equal(now, before, sizeof(now));
		}
		config_write(f, VIRTIO_MMIO_LEN - VIRTIO_MMIO_CONFIG - len, UINT64_MAX, len);
		assert_int_equal(read_bypass(f), 0);
	}
}

static void bypass_keeps_bit_0_of_what_is_written(void **state)
{
	struct fixture *f = *state;

	restart(f, DRIVER_ALL_FEATURES);
	for (unsigned val = 0; val < 256; val++) {
		config_write(f, 36, val, 1);
		assert_int_equal(read_bypass(f), val & 1);
	}
	/* the byte among others, in any position */
	config_write(f, 32, UINT64_C(1) << 32, 8);
	assert_int_equal(read_bypass(f), 1);
	config_write(f, 32, ~(UINT64_C(1) << 32), 8);
	assert_int_equal(read_bypass(f), 0);
	config_write(f, 35, 0x0100, 2);
	assert_int_equal(read_bypass(f), 1);
}

static void bypass_is_not_writable_unless_negotiated(void **state)
{
	struct fixture *f = *state;

	config_write(f, 36, 1, 1); /* no driver at all */
	assert_int_equal(read_bypass(f), 0);
	restart(f, WITHOUT(VIRTIO_IOMMU_F_BYPASS_CONFIG));
	config_write(f, 36, 1, 1);
	assert_int_equal(read_bypass(f), 0);
	assert_false(reads(f, INST_HOLE, RAM, RAM));
}

static void bypass_gives_unattached_endpoints_ram_and_survives_a_reset(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	assert_false(reads(f, INST_HOLE, RAM, RAM));
	config_write(f, 36, 1, 1);
	assert_true(reads(f, INST_HOLE, RAM, RAM));
	assert_true(reads(f, INST_HOLE, RAM + RAM_LEN - 64, RAM + RAM_LEN - 64));
	assert_false(reads(f, INST_A, RAM, RAM)); /* it is in a domain */
	assert_true(reads(f, INST_A, MAPPED, MAPPED_GPA));

	driver_reset(&f->d);
	assert_int_equal(read_bypass(f), 1);
	assert_true(reads(f, INST_A, RAM, RAM)); /* no longer in one */
	assert_false(reads(f, INST_A, MAPPED, MAPPED_GPA));
	/* even under a driver that does not know the feature */
	restart(f, WITHOUT(VIRTIO_IOMMU_F_BYPASS_CONFIG));
	assert_int_equal(read_bypass(f), 1);
	assert_true(reads(f, INST_A, RAM, RAM));

	restart(f, DRIVER_ALL_FEATURES);
	config_write(f, 36, 0, 1);
	for (unsigned i = 0; i < NR_INST; i++)
		assert_int_equal(f->inst[i].nr, 0);
}

static void an_endpoint_that_leaves_its_domain_falls_back_to_bypass(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	config_write(f, 36, 1, 1);
	assert_int_equal(detach(f, DOM_A, EP_A), OK);
	assert_true(reads(f, INST_A, RAM, RAM));
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	assert_false(reads(f, INST_A, RAM, RAM));
}

/* ---- ATTACH
 * ----------------------------------------------------------------------------------------- */

struct attach_row {
	const char *what;
	uint32_t domain, endpoint, flags;
	uint8_t status;
};

static const struct attach_row attach_rows[] = {
	{"a new domain", DOM_NONE, EP_HOLE, 0, OK},
	{"a new bypass domain", DOM_NONE, EP_HOLE, BYPASS, OK},
	{"the lowest domain id", 0, EP_HOLE, 0, OK},
	{"the highest domain id", UINT32_MAX, EP_HOLE, 0, OK},
	{"a domain with another endpoint", DOM_A, EP_HOLE, 0, OK},
	{"a bypass domain with another endpoint", DOM_BYPASS, EP_HOLE, BYPASS, OK},
	{"the domain it is in", DOM_A, EP_A, 0, OK},
	{"the bypass domain it is in", DOM_BYPASS, EP_B, BYPASS, OK},
	{"another domain than the one it is in", DOM_NONE, EP_A, 0, OK},
	{"the domain of the endpoint it shares with", DOM_SHARED, EP_SHARED2, 0, OK},
	{"an unknown endpoint", DOM_NONE, EP_NONE, 0, NOENT},
	{"an unknown endpoint, existing domain", DOM_A, EP_NONE, 0, NOENT},
	{"an endpoint id that differs in its high half", DOM_NONE, EP_A | 0x10000, 0, NOENT},
	{"a bypass domain without the flag", DOM_BYPASS, EP_A, 0, INVAL},
	{"an ordinary domain with the flag", DOM_A, EP_B, BYPASS, INVAL},
	{"its own domain with the flag", DOM_A, EP_A, BYPASS, INVAL},
	{"its own bypass domain without", DOM_BYPASS, EP_B, 0, INVAL},
	{"away from an endpoint that shares its instance", DOM_NONE, EP_SHARED2, 0, UNSUPP},
	{"the same, to a domain that exists", DOM_A, EP_SHARED2, 0, UNSUPP},
};

static void every_attach_has_its_status_and_a_refused_one_changes_nothing(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(attach_rows); i++) {
		const struct attach_row *row = &attach_rows[i];
		struct view before;
		uint8_t status;

		begin(f, DRIVER_ALL_FEATURES);
		look(f, &before);
		status = attach(f, row->domain, row->endpoint, row->flags);
		if (status != row->status)
			fail_msg("%s: status %u, not %u", row->what, status, row->status);
		if (status == OK) {
			assert_int_equal(detach(f, row->domain, row->endpoint), OK);
			continue;
		}
		assert_unchanged(f, &before);
		if (row->domain == DOM_NONE)
			assert_int_equal(unmap(f, DOM_NONE, 0, UINT64_MAX), NOENT);
		assert_int_equal(detach(f, DOM_A, EP_A), OK);
		assert_int_equal(detach(f, DOM_BYPASS, EP_B), OK);
		assert_int_equal(detach(f, DOM_SHARED, EP_SHARED), OK);
		assert_int_equal(unmap(f, DOM_A, 0, UINT64_MAX), NOENT);
	}
}

static void attach_with_reserved_bits_or_unknown_flags_is_inval(void **state)
{
	struct fixture *f = *state;
	struct virtio_iommu_req_attach req = {
		.head.type = VIRTIO_IOMMU_T_ATTACH,
		.domain = DOM_NONE,
		.endpoint = EP_HOLE,
	};
	struct view before;

	begin(f, DRIVER_ALL_FEATURES);
	look(f, &before);
	for (unsigned bit = 0; bit < 8 * sizeof(req.reserved); bit++) {
		req.reserved[bit / 8] = (uint8_t)(1 << bit % 8);
		assert_int_equal(SEND(f, req), INVAL);
		req.reserved[bit / 8] = 0;
	}
	for (unsigned bit = 1; bit < 32; bit++) {
		req.flags = 1u << bit;
		assert_int_equal(SEND(f, req), INVAL);
		req.flags |= BYPASS;
		assert_int_equal(SEND(f, req), INVAL);
	}
	assert_unchanged(f, &before);
	assert_int_equal(unmap(f, DOM_NONE, 0, 0), NOENT);
	/* while the head's reserved bytes are ignored */
	req.flags = 0;
	memset(req.head.reserved, 0xff, sizeof(req.head.reserved));
	assert_int_equal(SEND(f, req), OK);
}

static void the_bypass_flag_is_unknown_unless_negotiated(void **state)
{
	struct fixture *f = *state;

	begin(f, WITHOUT(VIRTIO_IOMMU_F_BYPASS_CONFIG));
	assert_int_equal(attach(f, DOM_NONE, EP_B, BYPASS), INVAL);
	assert_int_equal(attach(f, DOM_A, EP_A, BYPASS), INVAL);
	assert_int_equal(attach(f, DOM_NONE, EP_B, 0), OK);
}

static void an_endpoint_that_joins_sees_the_live_mappings(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[64];

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_A, EP_B, 0), OK); /* out of its bypass domain, too */
	assert_true(reads(f, INST_B, MAPPED, MAPPED_GPA));
	assert_true(reads(f, INST_B, MAPPED_ONE, MAPPED_ONE_GPA));
	assert_false(fake_dma_read(&f->inst[INST_B], RAM, buf, sizeof(buf)));
	/* and what is mapped and unmapped from then on */
	assert_int_equal(map(f, DOM_A, 0x300000, 0x300fff, RAM + 0x3000, RW), OK);
	assert_true(reads(f, INST_B, 0x300000, RAM + 0x3000));
	assert_true(reads(f, INST_A, 0x300000, RAM + 0x3000));
	assert_int_equal(unmap(f, DOM_A, MAPPED, MAPPED + FRAME - 1), OK);
	assert_false(fake_dma_read(&f->inst[INST_A], MAPPED, buf, sizeof(buf)));
	assert_false(fake_dma_read(&f->inst[INST_B], MAPPED, buf, sizeof(buf)));
}

static void attach_elsewhere_is_a_detach_and_the_last_endpoint_ends_the_domain(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_NONE, EP_A, 0), OK);
	assert_int_equal(f->inst[INST_A].nr, 0);
	assert_int_equal(map(f, DOM_A, 0, PAGE - 1, RAM, RW), NOENT);
	assert_int_equal(detach(f, DOM_A, EP_A), INVAL);
	/* the id is free, for another kind of domain too, and nothing of the old one is in it */
	assert_int_equal(attach(f, DOM_A, EP_A, BYPASS), OK);
	assert_int_equal(attach(f, DOM_NONE, EP_A, 0), OK);
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	assert_int_equal(f->inst[INST_A].nr, 0);
	assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + FRAME - 1, RAM, RW), OK);
}

static void attach_over_a_mapping_in_a_reserved_region_is_inval(void **state)
{
	struct fixture *f = *state;
	struct view before;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(map(f, DOM_A, HOLE, HOLE + FRAME - 1, RAM, RW), OK);
	look(f, &before);
	assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), INVAL);
	assert_unchanged(f, &before);
	assert_int_equal(unmap(f, DOM_A, HOLE, HOLE + FRAME - 1), OK);
	assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), OK);
}

/* What an instance says, and what the guest is told. */
static const struct {
	int error;
	uint8_t status;
} instance_errors[] = {
	{-ENOMEM, NOMEM}, {-ENOSPC, NOMEM}, {-EIO, IOERR}, {-EBUSY, IOERR}, {-E2BIG, IOERR},
};

static void an_attach_that_an_instance_fails_keeps_the_endpoint_where_it_was(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_NONE, EP_HOLE, 0), OK);
	assert_int_equal(map(f, DOM_NONE, 0x300000, 0x303fff, RAM, RW), OK);
	for (size_t i = 0; i < ARRAY_SIZE(instance_errors); i++) {
		struct view before;

		look(f, &before);
		f->inst[INST_HOLE].fail_map = 2; /* the second of what is replayed */
		f->inst[INST_HOLE].map_error = instance_errors[i].error;
		assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), instance_errors[i].status);
		assert_unchanged(f, &before);
		assert_int_equal(detach(f, DOM_A, EP_HOLE), INVAL);
		assert_true(reads(f, INST_HOLE, 0x300000, RAM));
	}
	assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), OK);
}

static void one_domain_more_than_there_can_be_is_nomem(void **state)
{
	struct fixture *f = *state;
	struct view before;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_NONE, EP_HOLE, 0), OK);
	look(f, &before);
	assert_int_equal(attach(f, DOM_NONE + 1, EP_A, 0), NOMEM);
	assert_unchanged(f, &before);
	assert_int_equal(detach(f, DOM_NONE, EP_HOLE), OK);
	assert_int_equal(attach(f, DOM_NONE + 1, EP_A, 0), OK);
}

static void an_attach_without_memory_is_nomem_and_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct view before;

	begin(f, DRIVER_ALL_FEATURES);
	look(f, &before);
	for (unsigned n = 1;; n++) {
		uint8_t status;

		iommu_alloc_fail_nth(n);
		status = attach(f, DOM_NONE, EP_A, 0);
		if (iommu_alloc_fail_nth(0)) {
			assert_int_equal(status, OK);
			break;
		}
		assert_int_equal(status, NOMEM);
		assert_unchanged(f, &before);
		assert_int_equal(unmap(f, DOM_NONE, 0, 0), NOENT);
	}
}

/* ---- DETACH
 * ----------------------------------------------------------------------------------------- */

static void every_detach_has_its_status_and_a_refused_one_changes_nothing(void **state)
{
	static const struct {
		const char *what;
		uint32_t domain, endpoint;
		uint8_t status;
	} rows[] = {
		{"from its domain", DOM_A, EP_A, OK},
		{"from its bypass domain", DOM_BYPASS, EP_B, OK},
		{"an unknown endpoint", DOM_A, EP_NONE, NOENT},
		{"an unknown endpoint, unknown domain", DOM_NONE, EP_NONE, NOENT},
		{"from an unknown domain", DOM_NONE, EP_A, INVAL},
		{"from another's domain", DOM_A, EP_B, INVAL},
		{"an endpoint in no domain", DOM_A, EP_HOLE, INVAL},
		{"one that shares an instance, from its partner's", DOM_SHARED, EP_SHARED2, INVAL},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct view before;
		uint8_t status;

		begin(f, DRIVER_ALL_FEATURES);
		look(f, &before);
		status = detach(f, rows[i].domain, rows[i].endpoint);
		if (status != rows[i].status)
			fail_msg("%s: status %u, not %u", rows[i].what, status, rows[i].status);
		if (status != OK) {
			assert_unchanged(f, &before);
			continue;
		}
		assert_int_equal(detach(f, rows[i].domain, rows[i].endpoint), INVAL);
		assert_int_equal(f->inst[rows[i].endpoint == EP_A ? INST_A : INST_B].nr, 0);
	}
}

static void detach_ignores_reserved_bytes(void **state)
{
	struct fixture *f = *state;
	struct virtio_iommu_req_detach req = {
		.head.type = VIRTIO_IOMMU_T_DETACH,
		.domain = DOM_A,
		.endpoint = EP_A,
	};

	begin(f, DRIVER_ALL_FEATURES);
	memset(req.head.reserved, 0xff, sizeof(req.head.reserved));
	memset(req.reserved, 0xff, sizeof(req.reserved));
	assert_int_equal(SEND(f, req), OK);
}

static void a_domain_lives_until_its_last_endpoint_leaves(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), OK);
	assert_int_equal(detach(f, DOM_A, EP_A), OK);
	assert_int_equal(f->inst[INST_A].nr, 0);
	assert_true(reads(f, INST_HOLE, MAPPED, MAPPED_GPA));
	assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + PAGE - 1, RAM, RW), INVAL);
	assert_int_equal(detach(f, DOM_A, EP_HOLE), OK);
	assert_int_equal(f->inst[INST_HOLE].nr, 0);
	assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + PAGE - 1, RAM, RW), NOENT);
	/* two endpoints that one instance cannot tell apart: the last one counts as well */
	assert_int_equal(attach(f, DOM_SHARED, EP_SHARED2, 0), OK);
	assert_int_equal(map(f, DOM_SHARED, 0, FRAME - 1, RAM, RW), OK);
	assert_int_equal(detach(f, DOM_SHARED, EP_SHARED), OK);
	assert_true(reads(f, INST_SHARED, 0, RAM));
	assert_int_equal(detach(f, DOM_SHARED, EP_SHARED2), OK);
	assert_int_equal(f->inst[INST_SHARED].nr, 0);
}

/* ---- MAP
 * -------------------------------------------------------------------------------------------- */

/* A place in DOM_A where nothing is mapped. */
#define FREE 0x500000ull

struct map_row {
	const char *what;
	uint32_t domain;
	uint64_t start, last, gpa;
	uint32_t flags;
	uint8_t status;
};

static const struct map_row map_rows[] = {
	{"a page", DOM_A, FREE, FREE + PAGE - 1, RAM, RW, OK},
	{"a frame", DOM_A, FREE, FREE + FRAME - 1, RAM, RW, OK},
	{"read only", DOM_A, FREE, FREE + PAGE - 1, RAM, VIRTIO_IOMMU_MAP_F_READ, OK},
	{"write only", DOM_A, FREE, FREE + PAGE - 1, RAM, VIRTIO_IOMMU_MAP_F_WRITE, OK},
	{"no rights", DOM_A, FREE, FREE + PAGE - 1, RAM, 0, OK},
	{"the last page of RAM", DOM_A, FREE, FREE + PAGE - 1, RAM + RAM_LEN - PAGE, RW, OK},
	{"all of RAM", DOM_A, 0x1000000, 0x1000000 + RAM_LEN - 1, RAM, RW, OK},
	{"iova 0", DOM_A, 0, PAGE - 1, RAM, RW, OK},
	{"the end of input_range", DOM_A, INPUT_LAST - PAGE + 1, INPUT_LAST, RAM, RW, OK},
	{"the page below a mapping", DOM_A, MAPPED - PAGE, MAPPED - 1, RAM, RW, OK},
	{"the page above a mapping", DOM_A, MAPPED + FRAME, MAPPED + FRAME + PAGE - 1, RAM, RW, OK},
	{"the doorbell", DOM_A, FREE, FREE + PAGE - 1, DOORBELL,
	 VIRTIO_IOMMU_MAP_F_WRITE | VIRTIO_IOMMU_MAP_F_MMIO, OK},
	{"what only EP_HOLE cannot reach", DOM_A, HOLE, HOLE + PAGE - 1, RAM, RW, OK},

	{"start off the granule", DOM_A, FREE + 0x800, FREE + PAGE - 1, RAM, RW, RANGE},
	{"start and end off the granule", DOM_A, FREE + 0x800, FREE + 0x17ff, RAM, RW, RANGE},
	{"end off the granule", DOM_A, FREE, FREE + PAGE - 2, RAM, RW, RANGE},
	{"end on the granule", DOM_A, FREE, FREE + PAGE, RAM, RW, RANGE},
	{"gpa off the granule", DOM_A, FREE, FREE + PAGE - 1, RAM + 1, RW, RANGE},
	{"end before start", DOM_A, FREE + FRAME, FREE - 1, RAM, RW, RANGE},
	{"end just before start", DOM_A, FREE, FREE - 1, RAM, RW, RANGE},
	{"end 0", DOM_A, FREE, 0, RAM, RW, RANGE},
	{"above input_range", DOM_A, INPUT_LAST + 1, INPUT_LAST + PAGE, RAM, RW, RANGE},
	{"across the end of input_range", DOM_A, INPUT_LAST - PAGE + 1, INPUT_LAST + PAGE, RAM, RW,
	 RANGE},
	{"the end of the address space", DOM_A, -PAGE, UINT64_MAX, RAM, RW, RANGE},
	{"all of the address space", DOM_A, 0, UINT64_MAX, 0, RW, RANGE},

	{"a mapping again", DOM_A, MAPPED, MAPPED + FRAME - 1, MAPPED_GPA, RW, INVAL},
	{"inside a mapping", DOM_A, MAPPED + PAGE, MAPPED + 2 * PAGE - 1, RAM, RW, INVAL},
	{"over the start of a mapping", DOM_A, MAPPED - PAGE, MAPPED + PAGE - 1, RAM, RW, INVAL},
	{"over the end of a mapping", DOM_A, MAPPED + FRAME - PAGE, MAPPED + FRAME + PAGE - 1, RAM,
	 RW, INVAL},
	{"over a whole mapping", DOM_A, MAPPED - PAGE, MAPPED + FRAME + PAGE - 1, RAM, RW, INVAL},
	{"over the doorbell's region", DOM_A, DOORBELL, DOORBELL + PAGE - 1, RAM, RW, INVAL},
	{"over the end of that region's frame", DOM_A, DOORBELL + FRAME - PAGE,
	 DOORBELL + FRAME - 1, RAM, RW, INVAL},
	{"into that region", DOM_A, DOORBELL - PAGE, DOORBELL + PAGE - 1, RAM, RW, INVAL},
	{"unknown flag", DOM_A, FREE, FREE + PAGE - 1, RAM, RW | 1u << 3, INVAL},
	{"unknown high flag", DOM_A, FREE, FREE + PAGE - 1, RAM, RW | 1u << 31, INVAL},
	{"a bypass domain", DOM_BYPASS, FREE, FREE + PAGE - 1, RAM, RW, INVAL},

	{"unknown domain", DOM_NONE, FREE, FREE + PAGE - 1, RAM, RW, NOENT},
	{"domain 0, unknown", 0, FREE, FREE + PAGE - 1, RAM, RW, NOENT},

	{"gpa below RAM", DOM_A, FREE, FREE + PAGE - 1, RAM - PAGE, RW, FAULT},
	{"gpa above RAM", DOM_A, FREE, FREE + PAGE - 1, RAM + RAM_LEN, RW, FAULT},
	{"gpa runs past RAM", DOM_A, FREE, FREE + 2 * PAGE - 1, RAM + RAM_LEN - PAGE, RW, FAULT},
	{"gpa runs into RAM", DOM_A, FREE, FREE + 2 * PAGE - 1, RAM - PAGE, RW, FAULT},
	{"gpa wraps", DOM_A, FREE, FREE + 2 * PAGE - 1, -PAGE, RW, FAULT},
	{"gpa 0", DOM_A, FREE, FREE + PAGE - 1, 0, RW, FAULT},
	{"the queues, which are no RAM of the mediator", DOM_A, FREE, FREE + PAGE - 1,
	 DRIVER_RAM_BASE, RW, FAULT},
	{"the doorbell without MMIO", DOM_A, FREE, FREE + PAGE - 1, DOORBELL,
	 VIRTIO_IOMMU_MAP_F_WRITE, FAULT},
	{"more than the doorbell", DOM_A, FREE, FREE + 2 * PAGE - 1, DOORBELL,
	 VIRTIO_IOMMU_MAP_F_WRITE | VIRTIO_IOMMU_MAP_F_MMIO, FAULT},
	{"nearly all of input_range", DOM_A, 0x10000000, INPUT_LAST, RAM, RW, FAULT},

	/* More than one thing wrong: flags, then domain, then its kind, then the range, then
	   overlap. */
	{"unknown flag and domain", DOM_NONE, FREE, FREE + PAGE - 1, RAM, 8, INVAL},
	{"unknown domain, bad range", DOM_NONE, FREE + 1, FREE, RAM, RW, NOENT},
	{"bypass domain, bad range", DOM_BYPASS, FREE + 1, FREE, RAM, RW, INVAL},
	{"bad range over a mapping", DOM_A, MAPPED + 1, MAPPED + PAGE - 1, RAM, RW, RANGE},
	{"bad range, no RAM", DOM_A, FREE + 1, FREE + PAGE - 1, 0, RW, RANGE},
};

static void every_map_has_its_status_and_a_refused_one_changes_nothing(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(map_rows); i++) {
		const struct map_row *row = &map_rows[i];
		struct view before;
		uint8_t status;

		begin(f, DRIVER_ALL_FEATURES);
		look(f, &before);
		status = map(f, row->domain, row->start, row->last, row->gpa, row->flags);
		if (status != row->status)
			fail_msg("%s: status %u, not %u", row->what, status, row->status);
		if (status != OK) {
			assert_unchanged(f, &before);
			assert_int_equal(unmap(f, DOM_A, MAPPED, MAPPED + FRAME - 1), OK);
			assert_int_equal(unmap(f, DOM_A, MAPPED_ONE, MAPPED_ONE + PAGE - 1), OK);
			assert_int_equal(f->inst[INST_A].nr, 0);
			continue;
		}
		if ((row->flags & VIRTIO_IOMMU_MAP_F_READ) && row->gpa >= RAM) {
			assert_true(reads(f, INST_A, row->start, row->gpa));
			assert_true(reads(f, INST_A, row->last - 63,
					  row->gpa + (row->last - row->start) - 63));
		}
		assert_true(reads(f, INST_A, MAPPED, MAPPED_GPA));
		assert_int_equal(unmap(f, row->domain, row->start, row->last), OK);
		assert_unchanged(f, &before);
	}
}

static void the_mmio_flag_is_unknown_unless_negotiated(void **state)
{
	struct fixture *f = *state;

	begin(f, WITHOUT(VIRTIO_IOMMU_F_MMIO));
	assert_int_equal(map(f, DOM_A, FREE, FREE + PAGE - 1, DOORBELL,
			     VIRTIO_IOMMU_MAP_F_WRITE | VIRTIO_IOMMU_MAP_F_MMIO),
			 INVAL);
	assert_int_equal(map(f, DOM_A, FREE, FREE + PAGE - 1, RAM, VIRTIO_IOMMU_MAP_F_MMIO), INVAL);
	assert_int_equal(map(f, DOM_A, FREE, FREE + PAGE - 1, RAM, RW), OK);
}

static void map_ignores_reserved_bytes_of_the_head(void **state)
{
	struct fixture *f = *state;
	struct virtio_iommu_req_map req = map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);

	begin(f, DRIVER_ALL_FEATURES);
	memset(req.head.reserved, 0xff, sizeof(req.head.reserved));
	assert_int_equal(SEND(f, req), OK);
}

static void a_region_counts_for_the_domains_its_endpoint_is_in(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_A, EP_HOLE, 0), OK);
	assert_int_equal(map(f, DOM_A, HOLE, HOLE + PAGE - 1, RAM, RW), INVAL);
	assert_int_equal(map(f, DOM_A, HOLE_LAST - PAGE + 1, HOLE_LAST, RAM, RW), INVAL);
	assert_int_equal(map(f, DOM_A, HOLE - PAGE, HOLE + PAGE - 1, RAM, RW), INVAL);
	assert_int_equal(map(f, DOM_A, HOLE - PAGE, HOLE - 1, RAM, RW), OK);
	assert_int_equal(map(f, DOM_A, HOLE_LAST + 1, HOLE_LAST + PAGE, RAM, RW), OK);
	assert_int_equal(detach(f, DOM_A, EP_HOLE), OK);
	assert_int_equal(map(f, DOM_A, HOLE, HOLE + PAGE - 1, RAM, RW), OK);
}

static void the_last_byte_of_the_address_space_can_be_mapped(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[64];

	begin(f, DRIVER_ALL_FEATURES);
	assert_int_equal(map(f, DOM_A, -PAGE, UINT64_MAX, RAM + PAGE, RW), OK);
	assert_true(fake_dma_read(&f->inst[INST_A], -(uint64_t)64, buf, sizeof(buf)));
	assert_memory_equal(buf, f->ram + 2 * PAGE - 64, sizeof(buf));
	assert_int_equal(map(f, DOM_A, -FRAME, UINT64_MAX, RAM, RW), INVAL);
	assert_int_equal(map(f, DOM_A, 0, UINT64_MAX, RAM, RW) != OK, true);
	assert_int_equal(unmap(f, DOM_A, -PAGE, UINT64_MAX - 1), RANGE);
	assert_int_equal(unmap(f, DOM_A, UINT64_MAX, UINT64_MAX), RANGE);
	assert_int_equal(unmap(f, DOM_A, -PAGE, UINT64_MAX), OK);
	assert_int_equal(map(f, DOM_A, -FRAME, UINT64_MAX, RAM, RW), OK);
	assert_int_equal(unmap(f, DOM_A, 0, UINT64_MAX), OK);
	assert_int_equal(f->inst[INST_A].nr, 0);
}

/* ---- UNMAP
 * ------------------------------------------------------------------------------------------ */

/* Ranges in pages, inclusive. The first seven are those of virtio 1.3, "UNMAP request". */
static const struct unmap_row {
	unsigned nr_maps;
	unsigned maps[2][2];
	unsigned start, last;
	uint8_t status;
	bool gone[2]; /* of each mapping */
} unmap_rows[] = {
	{0, {{0}}, 0, 4, OK, {0}},
	{1, {{0, 9}}, 0, 9, OK, {1}},
	{2, {{0, 4}, {5, 9}}, 0, 9, OK, {1, 1}},
	{1, {{0, 9}}, 0, 4, RANGE, {0}},
	{2, {{0, 4}, {5, 9}}, 0, 4, OK, {1, 0}},
	{1, {{0, 4}}, 0, 9, OK, {1}},
	{2, {{0, 4}, {10, 14}}, 0, 14, OK, {1, 1}},
	/* the same rules from other sides */
	{1, {{0, 9}}, 5, 9, RANGE, {0}},
	{1, {{0, 9}}, 3, 6, RANGE, {0}},
	{1, {{1, 9}}, 0, 8, RANGE, {0}},
	{1, {{1, 9}}, 2, 12, RANGE, {0}},
	{2, {{0, 4}, {10, 14}}, 0, 13, RANGE, {0, 0}},
	{2, {{0, 4}, {10, 14}}, 1, 14, RANGE, {0, 0}},
	{2, {{0, 4}, {10, 14}}, 5, 9, OK, {0, 0}},
	{2, {{0, 4}, {10, 14}}, 5, 14, OK, {0, 1}},
	{2, {{0, 4}, {5, 9}}, 5, 9, OK, {0, 1}},
	{2, {{0, 0}, {1, 1}}, 1, 1, OK, {0, 1}},
};

static void unmap_removes_whole_mappings_or_nothing(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(unmap_rows); i++) {
		const struct unmap_row *row = &unmap_rows[i];
		struct view before;

		begin(f, DRIVER_ALL_FEATURES);
		for (unsigned j = 0; j < row->nr_maps; j++)
			assert_int_equal(map(f, DOM_A, FREE + row->maps[j][0] * PAGE,
					     FREE + row->maps[j][1] * PAGE + PAGE - 1,
					     RAM + j * 0x40000, RW),
					 OK);
		look(f, &before);
		assert_int_equal(unmap(f, DOM_A, FREE + row->start * PAGE,
				       FREE + row->last * PAGE + PAGE - 1),
				 row->status);
		if (row->status != OK)
			assert_unchanged(f, &before);
		for (unsigned j = 0; j < row->nr_maps; j++) {
			uint64_t first = FREE + row->maps[j][0] * PAGE;
			uint64_t last = FREE + row->maps[j][1] * PAGE;

			if (!row->gone[j])
				assert_true(reads(f, INST_A, first, RAM + j * 0x40000));
			assert_int_equal(map(f, DOM_A, first, first + PAGE - 1, RAM, RW),
					 row->gone[j] ? OK : INVAL);
			if (last != first)
				assert_int_equal(map(f, DOM_A, last, last + PAGE - 1, RAM, RW),
						 row->gone[j] ? OK : INVAL);
		}
	}
}

static void unmap_in_bytes_follows_the_same_rule(void **state)
{
	static const struct {
		uint64_t start, last;
		uint8_t status;
	} rows[] = {
		/* off the granule is OK over a hole, RANGE over part of a mapping */
		{FREE + 3, FREE + 0x803, OK},
		{FREE, FREE, OK},
		{MAPPED - 5, MAPPED - 1, OK},
		{MAPPED - 5, MAPPED, RANGE},
		{MAPPED, MAPPED, RANGE},
		{MAPPED + 1, MAPPED + FRAME - 1, RANGE},
		{MAPPED, MAPPED + FRAME - 2, RANGE},
		{MAPPED + FRAME - 1, MAPPED + FRAME + 5, RANGE},
		{MAPPED + FRAME, MAPPED + FRAME + 5, OK},
		{MAPPED - 5, MAPPED + FRAME + 5, OK},
		/* last < start removes nothing */
		{MAPPED + FRAME - 1, MAPPED, RANGE},
		{UINT64_MAX, 0, RANGE},
		{FREE + 1, FREE, RANGE},
		/* anything goes for addresses nobody could map */
		{INPUT_LAST + 1, UINT64_MAX, OK},
		{UINT64_MAX, UINT64_MAX, OK},
		{0, MAPPED, RANGE},
		{0, UINT64_MAX, OK},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		bool covers = rows[i].start <= MAPPED && rows[i].last >= MAPPED + FRAME - 1;
		struct view before;

		begin(f, DRIVER_ALL_FEATURES);
		look(f, &before);
		assert_int_equal(unmap(f, DOM_A, rows[i].start, rows[i].last), rows[i].status);
		if (rows[i].status == OK && covers)
			assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + PAGE - 1, RAM, RW), OK);
		else
			assert_unchanged(f, &before);
	}
}

static void unmap_of_an_unknown_or_bypass_domain_is_refused(void **state)
{
	struct fixture *f = *state;
	struct view before;

	begin(f, DRIVER_ALL_FEATURES);
	look(f, &before);
	assert_int_equal(unmap(f, DOM_NONE, 0, UINT64_MAX), NOENT);
	assert_int_equal(unmap(f, DOM_NONE, 1, 0), NOENT);
	assert_int_equal(unmap(f, DOM_BYPASS, 0, UINT64_MAX), INVAL);
	assert_int_equal(unmap(f, DOM_BYPASS, 1, 0), INVAL);
	assert_unchanged(f, &before);
}

static void unmap_ignores_reserved_bytes(void **state)
{
	struct fixture *f = *state;
	struct virtio_iommu_req_unmap req = {
		.head.type = VIRTIO_IOMMU_T_UNMAP,
		.domain = DOM_A,
		.virt_start = MAPPED,
		.virt_end = MAPPED + FRAME - 1,
	};

	begin(f, DRIVER_ALL_FEATURES);
	memset(req.head.reserved, 0xff, sizeof(req.head.reserved));
	memset(req.reserved, 0xff, sizeof(req.reserved));
	assert_int_equal(SEND(f, req), OK);
	assert_false(reads(f, INST_A, MAPPED, MAPPED_GPA));
}

static void what_a_device_wrote_is_in_ram_when_unmap_is_answered(void **state)
{
	struct fixture *f = *state;
	const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

	begin(f, DRIVER_ALL_FEATURES);
	assert_true(fake_dma_write(&f->inst[INST_A], MAPPED_ONE + 5, data, sizeof(data)));
	assert_int_equal(unmap(f, DOM_A, MAPPED_ONE, MAPPED_ONE + PAGE - 1), OK);
	assert_memory_equal(f->ram + (MAPPED_ONE_GPA - RAM) + 5, data, sizeof(data));
}

/* ---- PROBE
 * ------------------------------------------------------------------------------------------ */

static void probe_lists_the_reserved_regions_and_zeros_the_rest(void **state)
{
	static const struct {
		uint32_t endpoint;
		unsigned nr;
		struct {
			uint64_t start, last;
			uint8_t subtype;
		} regions[2];
	} rows[] = {
		{EP_A, 1, {{DOORBELL, DOORBELL + FRAME - 1, VIRTIO_IOMMU_RESV_MEM_T_MSI}}},
		{EP_HOLE,
		 2,
		 {{DOORBELL, DOORBELL + FRAME - 1, VIRTIO_IOMMU_RESV_MEM_T_MSI},
		  {HOLE, HOLE_LAST, VIRTIO_IOMMU_RESV_MEM_T_RESERVED}}},
		{EP_SHARED2, 1, {{DOORBELL, DOORBELL + FRAME - 1, VIRTIO_IOMMU_RESV_MEM_T_MSI}}},
	};
	struct fixture *f = *state;
	uint8_t properties[MAX_PROBE];

	restart(f, DRIVER_ALL_FEATURES);
	/* before any attach, and after one that fills the buffer with a longer list than the next
	 */
	for (unsigned round = 0; round < 2; round++) {
		for (size_t i = ARRAY_SIZE(rows); i-- > 0;) {
			const uint8_t *p = properties;

			assert_int_equal(probe(f, rows[i].endpoint, properties), OK);
			for (unsigned r = 0; r < rows[i].nr; r++, p += 24) {
				assert_int_equal(get_le16(p), VIRTIO_IOMMU_PROBE_T_RESV_MEM);
				assert_int_equal(get_le16(p + 2), 20);
				assert_int_equal(p[4], rows[i].regions[r].subtype);
				assert_int_equal(p[5] | p[6] | p[7], 0);
				assert_int_equal(get_le64(p + 8), rows[i].regions[r].start);
				assert_int_equal(get_le64(p + 16), rows[i].regions[r].last);
			}
			for (; p < properties + f->probe_size; p++)
				assert_int_equal(*p, 0);
		}
		assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	}
}

static void probe_of_an_unknown_endpoint_is_noent_with_its_full_answer(void **state)
{
	struct fixture *f = *state;
	uint8_t properties[MAX_PROBE];

	restart(f, DRIVER_ALL_FEATURES);
	assert_int_equal(probe(f, EP_HOLE, properties), OK);
	assert_int_equal(probe(f, EP_NONE, properties), NOENT);
	for (uint32_t i = 0; i < f->probe_size; i++)
		assert_int_equal(properties[i], 0);
}

static void probe_ignores_reserved_bytes(void **state)
{
	struct fixture *f = *state;
	struct virtio_iommu_req_probe req = {
		.head.type = VIRTIO_IOMMU_T_PROBE,
		.endpoint = EP_A,
	};
	uint8_t answer[MAX_PROBE + 4];
	uint32_t len;

	restart(f, DRIVER_ALL_FEATURES);
	len = f->probe_size + 4;
	memset(req.head.reserved, 0xff, sizeof(req.head.reserved));
	memset(req.reserved, 0xff, sizeof(req.reserved));
	assert_int_equal(driver_request(&f->d, REQUESTQ, &req, sizeof(req), answer, len), len);
	assert_int_equal(answer[f->probe_size], OK);
}

static void probe_with_too_small_a_buffer_is_inval_and_writes_no_property(void **state)
{
	struct fixture *f = *state;
	const struct virtio_iommu_req_probe req = {
		.head.type = VIRTIO_IOMMU_T_PROBE,
		.endpoint = EP_HOLE,
	};
	uint8_t answer[MAX_PROBE + 4];

	restart(f, DRIVER_ALL_FEATURES);
	for (uint32_t len = 4; len < f->probe_size + 4; len += len < 100 ? 1 : 97) {
		memset(answer, 0xee, sizeof(answer));
		assert_int_equal(driver_request(&f->d, REQUESTQ, &req, sizeof(req), answer, len),
				 len);
		for (uint32_t i = 0; i < len; i++)
			assert_int_equal(answer[i], i == len - 4 ? INVAL : 0);
	}
}

/* ---- framing
 * ---------------------------------------------------------------------------------------- */

/* assert_left_alone - a request that comes back with used.len 0 and not a byte written */
static void assert_left_alone(struct fixture *f, const void *req, uint32_t len, uint32_t room)
{
	uint8_t answer[64];

	assert_true(room <= sizeof(answer));
	memset(answer, 0xee, sizeof(answer));
	assert_int_equal(
		driver_request(&f->d, REQUESTQ, len ? req : NULL, len, room ? answer : NULL, room),
		0);
	for (uint32_t i = 0; i < room; i++)
		assert_int_equal(answer[i], 0xee);
}

static void unknown_types_are_left_alone_and_the_queue_goes_on(void **state)
{
	struct fixture *f = *state;
	uint8_t req[128] = {0};

	begin(f, DRIVER_ALL_FEATURES);
	for (unsigned type = 0; type < 256; type++) {
		req[0] = (uint8_t)type;
		if (type < VIRTIO_IOMMU_T_ATTACH || type > VIRTIO_IOMMU_T_PROBE)
			assert_left_alone(f, req, sizeof(req), 4);
	}
	assert_false(driver_broken(&f->d));
	assert_int_equal(map(f, DOM_A, FREE, FREE + PAGE - 1, RAM, RW), OK);
}

static void types_of_features_not_negotiated_are_unknown(void **state)
{
	struct fixture *f = *state;
	const struct virtio_iommu_req_probe probe_req = {
		.head.type = VIRTIO_IOMMU_T_PROBE,
		.endpoint = EP_A,
	};
	struct virtio_iommu_req_map map_req = map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);

	restart(f, WITHOUT(VIRTIO_IOMMU_F_PROBE));
	assert_left_alone(f, &probe_req, sizeof(probe_req), 64);
	restart(f, WITHOUT(VIRTIO_IOMMU_F_MAP_UNMAP));
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	assert_left_alone(f, &map_req, sizeof(map_req), 4);
	map_req.head.type = VIRTIO_IOMMU_T_UNMAP;
	assert_left_alone(f, &map_req, sizeof(map_req), 4);
	assert_int_equal(f->inst[INST_A].nr, 0);
}

static const struct {
	uint8_t type;
	uint32_t readable;
} sizes[] = {
	{VIRTIO_IOMMU_T_ATTACH, 20}, {VIRTIO_IOMMU_T_DETACH, 20}, {VIRTIO_IOMMU_T_MAP, 36},
	{VIRTIO_IOMMU_T_UNMAP, 28},  {VIRTIO_IOMMU_T_PROBE, 72},
};

static void chains_too_short_for_their_type_are_left_alone(void **state)
{
	struct fixture *f = *state;
	struct view before;
	uint8_t req[128] = {0};

	begin(f, DRIVER_ALL_FEATURES);
	look(f, &before);
	put_le32(req + 4, DOM_A);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		req[0] = sizes[i].type;
		for (uint32_t len = 0; len < sizes[i].readable; len++)
			assert_left_alone(f, req, len, 4);
		for (uint32_t room = 0; room < 4; room++)
			assert_left_alone(f, req, sizes[i].readable, room);
	}
	assert_unchanged(f, &before);
	assert_false(driver_broken(&f->d));
	assert_int_equal(map(f, DOM_A, FREE, FREE + PAGE - 1, RAM, RW), OK);
}

static void what_a_chain_has_too_much_is_not_looked_at_and_not_written(void **state)
{
	struct fixture *f = *state;
	struct {
		struct virtio_iommu_req_map map;
		uint8_t more[100];
	} req;
	uint8_t answer[64];

	begin(f, DRIVER_ALL_FEATURES);
	memset(&req, 0xff, sizeof(req));
	req.map = map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);
	memset(answer, 0xee, sizeof(answer));
	assert_int_equal(driver_request(&f->d, REQUESTQ, &req, sizeof(req), answer, sizeof(answer)),
			 4);
	assert_int_equal(get_le32(answer), OK);
	for (unsigned i = 4; i < sizeof(answer); i++)
		assert_int_equal(answer[i], 0xee);
	assert_true(reads(f, INST_A, FREE, RAM));
}

static void a_request_in_single_bytes_is_gathered_and_its_answer_scattered(void **state)
{
	struct fixture *f = *state;
	const struct virtio_iommu_req_map req = map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);
	struct driver_buf bufs[36 + 4];
	uint64_t gpa, tail;
	uint16_t head, id;
	uint32_t len;

	begin(f, DRIVER_ALL_FEATURES);
	gpa = driver_put(&f->d, &req, 36);
	tail = driver_alloc(&f->d, 8);
	memset(driver_hva(&f->d, tail), 0xee, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i] = i < 36 ? (struct driver_buf){gpa + i, 1, false}
				 : (struct driver_buf){tail + 7 - 2 * (i - 36), 1, true};
	head = driver_add(&f->d, REQUESTQ, bufs, ARRAY_SIZE(bufs));
	driver_kick(&f->d, REQUESTQ);
	assert_true(driver_reap(&f->d, REQUESTQ, &id, &len));
	assert_int_equal(id, head);
	assert_int_equal(len, 4);
	/* bytes 7, 5, 3, 1 are the tail; those between are nobody's */
	assert_int_equal(get_le64(driver_hva(&f->d, tail)), 0x00ee00ee00ee00eeull);
	assert_true(reads(f, INST_A, FREE, RAM));
}

static void one_kick_carries_out_everything_queued_in_its_order(void **state)
{
	enum { NR = 60 };
	struct fixture *f = *state;
	uint64_t tails[NR];
	uint16_t heads[NR], id;
	uint32_t len;

	begin(f, DRIVER_ALL_FEATURES);
	/* in turn: map, map again (INVAL), unmap */
	for (unsigned i = 0; i < NR; i++) {
		struct virtio_iommu_req_map req =
			map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);
		struct driver_buf bufs[2];

		if (i % 3 == 2)
			req.head.type = VIRTIO_IOMMU_T_UNMAP;
		tails[i] = driver_alloc(&f->d, 4);
		bufs[0] = (struct driver_buf){driver_put(&f->d, &req, 36), 36, false};
		bufs[1] = (struct driver_buf){tails[i], 4, true};
		heads[i] = driver_add(&f->d, REQUESTQ, bufs, 2);
	}
	driver_kick(&f->d, REQUESTQ);
	for (unsigned i = 0; i < NR; i++) {
		assert_true(driver_reap(&f->d, REQUESTQ, &id, &len));
		assert_int_equal(id, heads[i]);
		assert_int_equal(len, 4);
		assert_int_equal(get_le32(driver_hva(&f->d, tails[i])), i % 3 == 1 ? INVAL : OK);
	}
	assert_false(driver_reap(&f->d, REQUESTQ, NULL, NULL));
}

static void requests_left_in_the_queue_need_a_kick(void **state)
{
	struct fixture *f = *state;
	const struct virtio_iommu_req_map req = map_request(DOM_A, FREE, FREE + PAGE - 1, RAM, RW);
	struct driver_buf bufs[2];

	begin(f, DRIVER_ALL_FEATURES);
	bufs[0] = (struct driver_buf){driver_put(&f->d, &req, 36), 36, false};
	bufs[1] = (struct driver_buf){driver_alloc(&f->d, 4), 4, true};
	driver_add(&f->d, REQUESTQ, bufs, 2);
	driver_kick(&f->d, EVENTQ);
	viommu_deliver_faults(f->dev);
	assert_false(driver_reap(&f->d, REQUESTQ, NULL, NULL));
	driver_kick(&f->d, REQUESTQ);
	assert_true(driver_reap(&f->d, REQUESTQ, NULL, NULL));
}

/* ---- faults
 * ----------------------------------------------------------------------------------------- */

#define EVENT_LEN 24

/* post - an event buffer of @len bytes, without a kick, as Linux does at probe. Return: gpa. */
static uint64_t post(struct fixture *f, uint32_t len)
{
	uint64_t gpa = driver_alloc(&f->d, len);
	const struct driver_buf buf = {gpa, len, true};

	memset(driver_hva(&f->d, gpa), 0xee, len);
	driver_add(&f->d, EVENTQ, &buf, 1);
	return gpa;
}

static void raise(struct fixture *f, uint64_t iova)
{
	const struct fault fault = {EP_A, FAULT_MAPPING, FAULT_WRITE | FAULT_ADDRESS, iova};

	faultlog_add(mediator_faultlog(f->m), &fault);
}

/* assert_event - the next used event buffer holds the fault that raise(f, iova) made */
static void assert_event(struct fixture *f, uint64_t gpa, uint64_t iova)
{
	uint32_t len;

	assert_true(driver_reap(&f->d, EVENTQ, NULL, &len));
	assert_int_equal(len, EVENT_LEN);
	assert_int_equal(get_le64((uint8_t *)driver_hva(&f->d, gpa) + 16), iova);
}

static void assert_no_event(struct fixture *f)
{
	assert_false(driver_reap(&f->d, EVENTQ, NULL, NULL));
}

static void a_fault_becomes_an_event(void **state)
{
	static const struct {
		struct fault fault;
		uint8_t reason;
		uint32_t flags;
		uint64_t address;
	} rows[] = {
		{{EP_A, FAULT_MAPPING, FAULT_READ | FAULT_ADDRESS, 0x123456789abcdef0},
		 2,
		 0x101,
		 0x123456789abcdef0},
		{{EP_HOLE, FAULT_MAPPING, FAULT_WRITE | FAULT_ADDRESS, UINT64_MAX},
		 2,
		 0x102,
		 UINT64_MAX},
		{{EP_B, FAULT_DOMAIN, FAULT_READ | FAULT_WRITE | FAULT_ADDRESS, 0}, 1, 0x103, 0},
		{{EP_SHARED, FAULT_DOMAIN, FAULT_WRITE, 0x1000}, 1, 2, 0},
		{{UINT32_MAX, FAULT_UNKNOWN, 0, 0x1000}, 0, 0, 0},
		{{EP_A, FAULT_UNKNOWN, FAULT_ADDRESS, 0x1000}, 0, 0x100, 0x1000},
	};
	struct fixture *f = *state;

	restart(f, DRIVER_ALL_FEATURES);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t gpa = post(f, EVENT_LEN);
		const uint8_t *event = driver_hva(&f->d, gpa);
		uint32_t len;

		faultlog_add(mediator_faultlog(f->m), &rows[i].fault);
		viommu_deliver_faults(f->dev);
		assert_true(driver_reap(&f->d, EVENTQ, NULL, &len));
		assert_int_equal(len, EVENT_LEN);
		assert_int_equal(event[0], rows[i].reason);
		assert_int_equal(event[1] | event[2] | event[3], 0);
		assert_int_equal(get_le32(event + 4), rows[i].flags);
		assert_int_equal(get_le32(event + 8), rows[i].fault.endpoint);
		assert_int_equal(get_le32(event + 12), 0);
		assert_int_equal(get_le64(event + 16), rows[i].address);
	}
	assert_true(f->d.irq);
}

static void every_fault_wakes_the_owner(void **state)
{
	struct fixture *f = *state;

	raise(f, 0); /* with no driver at all */
	assert_int_equal(f->wakes, 1);
	viommu_deliver_faults(f->dev);
	restart(f, DRIVER_ALL_FEATURES);
	raise(f, 0);
	assert_int_equal(f->wakes, 2);
	/* A buffer was posted since, without a kick: only the next fault makes us look. */
	post(f, EVENT_LEN);
	raise(f, 1);
	assert_int_equal(f->wakes, 3);
}

/* Linux posts its buffers before it can take an event. */
static void no_event_comes_before_the_driver_has_spoken(void **state)
{
	struct fixture *f = *state;
	uint64_t gpa;

	for (unsigned by_request = 0; by_request < 2; by_request++) {
		restart_silently(f, DRIVER_ALL_FEATURES);
		gpa = post(f, EVENT_LEN);
		raise(f, 7);
		viommu_deliver_faults(f->dev);
		assert_no_event(f);
		assert_false(f->d.irq);
		if (by_request)
			assert_int_equal(attach(f, 1, EP_A, 0), VIRTIO_IOMMU_S_OK);
		else
			driver_kick(&f->d, EVENTQ);
		assert_event(f, gpa, 7);
		/* From then on whenever there is one, until a reset. */
		gpa = post(f, EVENT_LEN);
		raise(f, 8);
		viommu_deliver_faults(f->dev);
		assert_event(f, gpa, 8);
	}
}

static void faults_wait_for_buffers_and_come_in_order(void **state)
{
	struct fixture *f = *state;
	uint64_t gpa[6];

	restart(f, DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 5; i++)
		raise(f, i);
	viommu_deliver_faults(f->dev);
	viommu_deliver_faults(f->dev);
	assert_no_event(f);
	for (unsigned i = 0; i < 3; i++)
		gpa[i] = post(f, EVENT_LEN);
	driver_kick(&f->d, EVENTQ);
	for (unsigned i = 0; i < 3; i++)
		assert_event(f, gpa[i], i);
	assert_no_event(f);
	for (unsigned i = 3; i < 6; i++)
		gpa[i] = post(f, EVENT_LEN);
	/* a kick of the request queue does as well */
	driver_kick(&f->d, REQUESTQ);
	assert_event(f, gpa[3], 3);
	assert_event(f, gpa[4], 4);
	assert_no_event(f);
	raise(f, 5);
	viommu_deliver_faults(f->dev);
	assert_event(f, gpa[5], 5);
}

static void an_event_is_never_split_and_waits_for_a_buffer_that_holds_it(void **state)
{
	struct fixture *f = *state;
	uint64_t small[3], good, large;
	uint8_t untouched[EVENT_LEN];
	uint32_t len;

	memset(untouched, 0xee, sizeof(untouched));
	restart(f, DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 3; i++)
		small[i] = post(f, i == 0 ? 1 : EVENT_LEN - i);
	good = post(f, EVENT_LEN);
	large = post(f, 100);
	raise(f, 7);
	raise(f, 8);
	viommu_deliver_faults(f->dev);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(driver_reap(&f->d, EVENTQ, NULL, &len));
		assert_int_equal(len, 0);
		assert_memory_equal(driver_hva(&f->d, small[i]), untouched,
				    i == 0 ? 1 : EVENT_LEN - i);
	}
	assert_event(f, good, 7);
	assert_event(f, large, 8);
	assert_memory_equal((uint8_t *)driver_hva(&f->d, large) + EVENT_LEN, untouched, EVENT_LEN);
	assert_int_equal(faultlog_lost(mediator_faultlog(f->m)), 0);
}

static void a_buffer_in_pieces_or_one_that_is_not_writable_is_dealt_with(void **state)
{
	struct fixture *f = *state;
	struct driver_buf bufs[EVENT_LEN];
	uint64_t gpa;
	uint32_t len;

	restart(f, DRIVER_ALL_FEATURES);
	gpa = driver_alloc(&f->d, EVENT_LEN);
	for (unsigned i = 0; i < EVENT_LEN; i++)
		bufs[i] = (struct driver_buf){gpa + i, 1, false};
	driver_add(&f->d, EVENTQ, bufs, EVENT_LEN); /* readable: no room at all */
	for (unsigned i = 0; i < EVENT_LEN; i++)
		bufs[i].write = true;
	driver_add(&f->d, EVENTQ, bufs, EVENT_LEN);
	raise(f, 0xabcdef);
	viommu_deliver_faults(f->dev);
	assert_true(driver_reap(&f->d, EVENTQ, NULL, &len));
	assert_int_equal(len, 0);
	assert_event(f, gpa, 0xabcdef);
}

static void what_the_log_cannot_keep_is_counted(void **state)
{
	struct faultlog *log;
	struct fixture *f = *state;
	uint64_t gpa;

	restart(f, DRIVER_ALL_FEATURES);
	log = mediator_faultlog(f->m);
	for (unsigned i = 0; i < 5000; i++)
		raise(f, i);
	assert_int_equal(faultlog_total(log), 5000);
	assert_in_range(faultlog_lost(log), 1, 4999);
	gpa = post(f, EVENT_LEN);
	driver_kick(&f->d, EVENTQ);
	assert_event(f, gpa, 0);
}

static void a_long_turn_ends_and_asks_for_another(void **state)
{
	struct fixture *f = *state;
	unsigned nr = 0, wakes;

	restart(f, DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 256; i++) {
		post(f, EVENT_LEN);
		raise(f, i);
	}
	wakes = f->wakes;
	viommu_deliver_faults(f->dev);
	while (driver_reap(&f->d, EVENTQ, NULL, NULL))
		nr++;
	assert_int_equal(nr, 256);
	assert_int_equal(f->wakes, wakes + 1);
	viommu_deliver_faults(f->dev);
	assert_int_equal(f->wakes, wakes + 1);
}

static void a_valid_map_that_fails_is_told_in_an_event_too(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(instance_errors); i++) {
		const uint8_t *event;
		struct view before;
		uint64_t gpa;

		begin(f, DRIVER_ALL_FEATURES);
		gpa = post(f, EVENT_LEN);
		event = driver_hva(&f->d, gpa);
		look(f, &before);
		f->inst[INST_A].fail_map = 1;
		f->inst[INST_A].map_error = instance_errors[i].error;
		assert_int_equal(map(f, DOM_A, FREE, FREE + FRAME - 1, RAM, RW),
				 instance_errors[i].status);
		assert_unchanged(f, &before);
		/* there when the request is answered, and without a kick of the event queue */
		assert_event(f, gpa, FREE);
		assert_int_equal(get_le32(event + 8), EP_A);
		assert_int_equal(map(f, DOM_A, FREE, FREE + FRAME - 1, RAM, RW), OK);
		/* one that is refused because it is wrong is not */
		post(f, EVENT_LEN);
		assert_int_equal(map(f, DOM_A, FREE, FREE + FRAME - 1, RAM, RW), INVAL);
		assert_no_event(f);
	}
}

static void one_mapping_more_than_there_can_be_is_nomem(void **state)
{
	struct fixture *f = *state;
	uint64_t iova = 0x10000000, gpa;

	restart(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	for (unsigned i = 0; i < MAX_MAPPINGS; i++)
		assert_int_equal(
			map(f, DOM_A, iova + i * PAGE, iova + i * PAGE + PAGE - 1, RAM, RW), OK);
	gpa = post(f, EVENT_LEN);
	assert_int_equal(map(f, DOM_A, 0, PAGE - 1, RAM, RW), NOMEM);
	assert_event(f, gpa, 0);
	assert_int_equal(unmap(f, DOM_A, iova, iova + PAGE - 1), OK);
	assert_int_equal(map(f, DOM_A, 0, PAGE - 1, RAM, RW), OK);
}

/* ---- reset, life
 * ------------------------------------------------------------------------------------ */

static void device_reset_drops_domains_mappings_and_waiting_faults(void **state)
{
	struct fixture *f = *state;

	begin(f, DRIVER_ALL_FEATURES);
	raise(f, 1);
	viommu_deliver_faults(f->dev); /* one is out of the log and waits, ... */
	raise(f, 2);		       /* ... one is in it */
	driver_reset(&f->d);
	for (unsigned i = 0; i < NR_INST; i++)
		assert_int_equal(f->inst[i].nr, 0);
	restart(f, DRIVER_ALL_FEATURES);
	post(f, EVENT_LEN);
	driver_kick(&f->d, EVENTQ);
	assert_no_event(f);
	assert_int_equal(map(f, DOM_A, MAPPED, MAPPED + PAGE - 1, RAM, RW), NOENT);
	assert_int_equal(detach(f, DOM_A, EP_A), INVAL);
	/* each endpoint is free for any domain, those that share an instance too */
	assert_int_equal(attach(f, DOM_A, EP_SHARED2, 0), OK);
}

static void a_fault_after_the_device_is_gone_wakes_nobody(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *dev;

	/* a second device: the first one is the fixture's */
	assert_int_equal(viommu_create(f->m, PAGE_SIZE_MASK, count_wake, f, &dev), 0);
	raise(f, 0);
	assert_int_equal(f->wakes, 1);
	dev->ops->destroy(dev);
	raise(f, 1);
	assert_int_equal(f->wakes, 1);
}

static void create_without_memory_is_enomem(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *dev;

	iommu_alloc_fail_nth(1);
	assert_int_equal(viommu_create(f->m, PAGE_SIZE_MASK, count_wake, f, &dev), -ENOMEM);
	assert_int_equal(iommu_alloc_fail_nth(0), 0);
}

/* ---- a hostile guest
 * -------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_below(uint64_t end)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % end;
}

static uint64_t pick(const uint64_t *from, size_t nr)
{
	return from[random_below(nr)];
}

/* Values that get past some checks and not others. */
static uint64_t odd_address(void)
{
	static const uint64_t bases[] = {0,    RAM,	 FREE,		 MAPPED,
					 HOLE, DOORBELL, INPUT_LAST + 1, -FRAME};
	static const uint64_t units[] = {1, PAGE, PAGE, PAGE, PAGE, FRAME};

	return pick(bases, ARRAY_SIZE(bases)) + random_below(8) * pick(units, ARRAY_SIZE(units));
}

static void random_requests_are_all_answered_and_leave_nothing_behind(void **state)
{
	static const uint64_t endpoints[] = {EP_A, EP_B, EP_SHARED, EP_SHARED2, EP_HOLE, EP_NONE};
	static const uint64_t rooms[] = {4, 4, 4, 4, 0, 3, 5, 64};
	static const uint64_t flags[] = {1, 2, 3, 3, 3, 7, 0, 8};
	const char *seed = getenv("SEED");
	struct fixture *f = *state;
	unsigned nr_ok = 0;

	random_state = seed ? strtoull(seed, NULL, 0) : 0x6772616e756c65;
	print_message("SEED=%#llx\n", (unsigned long long)random_state);
	restart(f, DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 40000; i++) {
		uint8_t req[80], answer[64];
		uint32_t len = 72, room = (uint32_t)pick(rooms, ARRAY_SIZE(rooms));
		int64_t used;

		for (unsigned b = 0; b < sizeof(req); b++)
			req[b] = random_below(50) ? 0 : (uint8_t)random_state;
		req[0] = (uint8_t)random_below(7);
		put_le32(req + 4, (uint32_t)random_below(5));
		if (req[0] == VIRTIO_IOMMU_T_ATTACH || req[0] == VIRTIO_IOMMU_T_DETACH) {
			put_le32(req + 8, (uint32_t)pick(endpoints, ARRAY_SIZE(endpoints)));
			put_le32(req + 12, !random_below(8));
		} else {
			uint64_t start = odd_address();

			put_le64(req + 8, start);
			put_le64(req + 16, random_below(4) ? start + random_below(9) * PAGE - 1
							   : odd_address() - 1);
			put_le64(req + 24, odd_address());
			put_le32(req + 32, (uint32_t)pick(flags, ARRAY_SIZE(flags)));
		}
		if (!random_below(20))
			len = (uint32_t)random_below(sizeof(req) + 1);
		if (!random_below(500))
			f->inst[random_below(NR_INST)].fail_map = 1;
		if (!random_below(2000))
			config_write(f, 36, random_below(2), 1);
		used = driver_request(&f->d, REQUESTQ, len ? req : NULL, len, answer, room);
		assert_true(used == 0 || used == 4 ||
			    (req[0] == VIRTIO_IOMMU_T_PROBE && used == room));
		nr_ok += used == 4 && answer[0] == OK;
		assert_false(driver_broken(&f->d));
		if (!random_below(5000))
			restart(f, DRIVER_ALL_FEATURES);
	}
	assert_true(nr_ok > 1000); /* they were not all nonsense */
	restart(f, DRIVER_ALL_FEATURES);
	config_write(f, 36, 0, 1);
	for (unsigned i = 0; i < NR_INST; i++)
		assert_int_equal(f->inst[i].nr, 0);
}

struct owner {
	struct fixture *f;
	atomic_bool stop;
};

/* What the owner's event loop does: deliver whenever it was woken. */
static void *owner_thread(void *ctx)
{
	struct owner *owner = ctx;
	unsigned seen = 0;

	while (!owner->stop) {
		unsigned wakes = owner->f->wakes;

		if (wakes != seen && viommu_deliver_faults(owner->f->dev))
			seen = wakes;
	}
	return NULL;
}

/* The event loop has other things to do than to wait for a vCPU's requests. */
static void deliver_waits_for_no_vcpu(void **state)
{
	struct fixture *f = *state;
	uint64_t gpa;

	restart(f, DRIVER_ALL_FEATURES);
	gpa = post(f, EVENT_LEN);
	raise(f, 5);
	pthread_mutex_lock(&f->dev->lock); /* as the transport does around a vCPU's access */
	assert_false(viommu_deliver_faults(f->dev));
	assert_no_event(f);
	pthread_mutex_unlock(&f->dev->lock);
	assert_true(viommu_deliver_faults(f->dev));
	assert_event(f, gpa, 5);
}

static void at_the_end_no_request_is_begun(void **state)
{
	struct fixture *f = *state;
	uint64_t gpa;

	restart(f, DRIVER_ALL_FEATURES);
	assert_int_equal(attach(f, DOM_A, EP_A, 0), OK);
	gpa = driver_alloc(&f->d, 64);
	viommu_end(f->dev);
	driver_add(&f->d, REQUESTQ,
		   (const struct driver_buf[]){{gpa, 32, false}, {gpa + 32, 32, true}}, 2);
	driver_kick(&f->d, REQUESTQ);
	assert_false(driver_reap(&f->d, REQUESTQ, NULL, NULL));
}

#define NR_RAISED 20000

static void *fault_thread(void *ctx)
{
	struct fixture *f = ctx;

	/* The log may be full for all of that time: go on until one got through. */
	for (unsigned i = 1; i <= NR_RAISED || !f->seen; i++)
		raise(f, i);
	return NULL;
}

/* Reap events and post their buffers again. Those of fault_thread() count up; some may be lost. */
static void reap_events(struct fixture *f, uint64_t *last)
{
	uint16_t head;
	uint32_t len;

	while (driver_reap(&f->d, EVENTQ, &head, &len)) {
		const struct vring_desc *desc = driver_desc(&f->d, EVENTQ, head);
		uint64_t iova = get_le64((uint8_t *)driver_hva(&f->d, desc->addr) + 16);

		assert_int_equal(len, EVENT_LEN);
		assert_true(iova == FREE || iova > *last);
		if (iova != FREE)
			*last = iova;
		driver_make_avail(&f->d, EVENTQ, head);
	}
}

static void faults_and_requests_of_several_threads_stay_whole_and_in_order(void **state)
{
	struct fixture *f = *state;
	struct owner owner = {.f = f};
	pthread_t threads[2];
	uint64_t last = 0;

	begin(f, DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 128; i++)
		post(f, EVENT_LEN);
	assert_int_equal(pthread_create(&threads[0], NULL, owner_thread, &owner), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, fault_thread, f), 0);
	for (unsigned i = 0; i < 3000 || !f->seen; i++) {
		f->inst[INST_A].fail_map = 1; /* the mediator logs a fault of its own */
		assert_int_equal(map(f, DOM_A, FREE, FREE + FRAME - 1, RAM, RW), NOMEM);
		reap_events(f, &last);
		f->seen = last > 0;
	}
	pthread_join(threads[1], NULL);
	owner.stop = true;
	pthread_join(threads[0], NULL);
	reap_events(f, &last);
	assert_false(driver_broken(&f->d));
}

#define VIOMMU_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		VIOMMU_TEST(the_features_of_the_device_are_offered),
		VIOMMU_TEST(the_config_space_has_forty_bytes_that_reads_of_any_size_show),
		VIOMMU_TEST(only_the_bypass_byte_can_be_written),
		VIOMMU_TEST(bypass_keeps_bit_0_of_what_is_written),
		VIOMMU_TEST(bypass_is_not_writable_unless_negotiated),
		VIOMMU_TEST(bypass_gives_unattached_endpoints_ram_and_survives_a_reset),
		VIOMMU_TEST(an_endpoint_that_leaves_its_domain_falls_back_to_bypass),
		VIOMMU_TEST(every_attach_has_its_status_and_a_refused_one_changes_nothing),
		VIOMMU_TEST(attach_with_reserved_bits_or_unknown_flags_is_inval),
		VIOMMU_TEST(the_bypass_flag_is_unknown_unless_negotiated),
		VIOMMU_TEST(an_endpoint_that_joins_sees_the_live_mappings),
		VIOMMU_TEST(attach_elsewhere_is_a_detach_and_the_last_endpoint_ends_the_domain),
		VIOMMU_TEST(attach_over_a_mapping_in_a_reserved_region_is_inval),
		VIOMMU_TEST(an_attach_that_an_instance_fails_keeps_the_endpoint_where_it_was),
		VIOMMU_TEST(one_domain_more_than_there_can_be_is_nomem),
		VIOMMU_TEST(an_attach_without_memory_is_nomem_and_changes_nothing),
		VIOMMU_TEST(every_detach_has_its_status_and_a_refused_one_changes_nothing),
		VIOMMU_TEST(detach_ignores_reserved_bytes),
		VIOMMU_TEST(a_domain_lives_until_its_last_endpoint_leaves),
		VIOMMU_TEST(every_map_has_its_status_and_a_refused_one_changes_nothing),
		VIOMMU_TEST(the_mmio_flag_is_unknown_unless_negotiated),
		VIOMMU_TEST(map_ignores_reserved_bytes_of_the_head),
		VIOMMU_TEST(a_region_counts_for_the_domains_its_endpoint_is_in),
		cmocka_unit_test_setup_teardown(the_last_byte_of_the_address_space_can_be_mapped,
						setup_full_range, teardown),
		VIOMMU_TEST(unmap_removes_whole_mappings_or_nothing),
		VIOMMU_TEST(unmap_in_bytes_follows_the_same_rule),
		VIOMMU_TEST(unmap_of_an_unknown_or_bypass_domain_is_refused),
		VIOMMU_TEST(unmap_ignores_reserved_bytes),
		VIOMMU_TEST(what_a_device_wrote_is_in_ram_when_unmap_is_answered),
		VIOMMU_TEST(probe_lists_the_reserved_regions_and_zeros_the_rest),
		VIOMMU_TEST(probe_of_an_unknown_endpoint_is_noent_with_its_full_answer),
		VIOMMU_TEST(probe_ignores_reserved_bytes),
		VIOMMU_TEST(probe_with_too_small_a_buffer_is_inval_and_writes_no_property),
		VIOMMU_TEST(unknown_types_are_left_alone_and_the_queue_goes_on),
		VIOMMU_TEST(types_of_features_not_negotiated_are_unknown),
		VIOMMU_TEST(chains_too_short_for_their_type_are_left_alone),
		VIOMMU_TEST(what_a_chain_has_too_much_is_not_looked_at_and_not_written),
		VIOMMU_TEST(a_request_in_single_bytes_is_gathered_and_its_answer_scattered),
		VIOMMU_TEST(one_kick_carries_out_everything_queued_in_its_order),
		VIOMMU_TEST(requests_left_in_the_queue_need_a_kick),
		VIOMMU_TEST(a_fault_becomes_an_event),
		VIOMMU_TEST(every_fault_wakes_the_owner),
		VIOMMU_TEST(no_event_comes_before_the_driver_has_spoken),
		VIOMMU_TEST(faults_wait_for_buffers_and_come_in_order),
		VIOMMU_TEST(an_event_is_never_split_and_waits_for_a_buffer_that_holds_it),
		VIOMMU_TEST(a_buffer_in_pieces_or_one_that_is_not_writable_is_dealt_with),
		VIOMMU_TEST(what_the_log_cannot_keep_is_counted),
		VIOMMU_TEST(a_long_turn_ends_and_asks_for_another),
		VIOMMU_TEST(a_valid_map_that_fails_is_told_in_an_event_too),
		VIOMMU_TEST(one_mapping_more_than_there_can_be_is_nomem),
		VIOMMU_TEST(device_reset_drops_domains_mappings_and_waiting_faults),
		VIOMMU_TEST(a_fault_after_the_device_is_gone_wakes_nobody),
		VIOMMU_TEST(create_without_memory_is_enomem),
		VIOMMU_TEST(random_requests_are_all_answered_and_leave_nothing_behind),
		VIOMMU_TEST(deliver_waits_for_no_vcpu),
		VIOMMU_TEST(at_the_end_no_request_is_begun),
		VIOMMU_TEST(faults_and_requests_of_several_threads_stay_whole_and_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
