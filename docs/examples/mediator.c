/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mediator - granule's mediator without granule: a hypervisor's guest maps a page of 4 KiB for a
 * device whose IOMMU, a simulated DART, has pages of 16 KiB.
 *
 *	cc -o mediator mediator.c $(pkg-config --cflags --libs granule-iommu)
 *
 * Prints what happens, and ends with status 0 if all of it was right. With a real DART behind
 * dart_host_ops, or a VFIO container (iommu/vfio.h) as the instance, nothing else changes.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <iommu/iommu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GUEST_PAGE 0x1000u
#define HOST_PAGE  0x4000u

#define RAM_GPA	 0x40000000u /* where the guest has its RAM */
#define RAM_LEN	 0x100000u
#define PAGE_GPA (RAM_GPA + 0x7000) /* the page that its driver maps, ... */
#define PAGE	 0x10001000u	    /* ... and at which IOVA: a quarter of a page of the DART */

#define DEVICE 1 /* the endpoint's number, as the guest knows it */
#define DOMAIN 1
#define STREAM 0 /* the device's stream on its DART */

/* ---- physical memory: any page of this process gets an address when the DART needs one ---- */

#define PA_BASE	  0x800000000u
#define MAX_PAGES 256u

static unsigned char *pages[MAX_PAGES];
static unsigned nr_pages;

static int pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	uintptr_t offset = (uintptr_t)hva % HOST_PAGE;
	unsigned char *page = (unsigned char *)hva - offset;
	unsigned i;

	(void)ctx;
	for (i = 0; i < nr_pages && pages[i] != page; i++)
		;
	if (i == MAX_PAGES)
		return -EFAULT;
	if (i == nr_pages)
		pages[nr_pages++] = page;
	*pa = PA_BASE + (uint64_t)i * HOST_PAGE + offset;
	*run = len < HOST_PAGE - offset ? len : HOST_PAGE - offset;
	return 0;
}

/* What the simulated DART reads and writes through. */
static void *at(void *ctx, uint64_t pa, size_t len)
{
	uint64_t i = (pa - PA_BASE) / HOST_PAGE;

	(void)ctx;
	(void)len; /* never beyond a page */
	return pa >= PA_BASE && i < nr_pages ? pages[i] + pa % HOST_PAGE : NULL;
}

static void *table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	void *table = aligned_alloc(HOST_PAGE, HOST_PAGE);
	uint64_t run;

	if (!table)
		return NULL;
	memset(table, 0, HOST_PAGE);
	if (pa_of(ctx, table, size, pa, &run)) {
		free(table);
		return NULL;
	}
	return table;
}

static void table_free(void *ctx, void *table, size_t size)
{
	(void)ctx;
	(void)size;
	free(table);
}

/* ---- registers: a real host has them behind an mmap() ---- */

static uint32_t reg_read(void *ctx, uint32_t offset)
{
	return dart_model_read((struct dart_model *)ctx, offset);
}

static void reg_write(void *ctx, uint32_t offset, uint32_t value)
{
	dart_model_write((struct dart_model *)ctx, offset, value);
}

static uint64_t now_ns(void *ctx)
{
	struct timespec now;

	(void)ctx;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static const struct dart_host_ops host = {
	.read = reg_read,
	.write = reg_write,
	.now_ns = now_ns,
	.mem = {.table_alloc = table_alloc,
		.table_free = table_free,
		.table_map = at,
		.pa_of = pa_of},
};

/* ---- faults: from the DART's interrupt to the mediator's log, and so to the guest ---- */

static void on_fault(void *ctx, struct dart *dart, const struct dart_fault *fault)
{
	const struct fault log = {
		.reason = fault->reason, .flags = fault->flags, .iova = fault->iova};

	mediator_fault(*(struct mediator **)ctx, dart_instance(dart), fault->sid, &log);
}

/* ---- what happens ---- */

static void must(int ret, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-ret));
	exit(1);
}

/* The device reads @text at @iova, or something else. */
static int device_reads(struct dart_model *model, uint64_t iova, const char *text)
{
	char got[32] = "";

	if (dart_model_dma_read(model, STREAM, iova, got, strlen(text) + 1)) {
		printf("device reads at 0x%llx: refused\n", (unsigned long long)iova);
		return 0;
	}
	printf("device reads at 0x%llx: \"%s\"\n", (unsigned long long)iova, got);
	return !strcmp(got, text);
}

int main(void)
{
	const struct dart_model_cfg model_cfg = {
		.kind = DART_MODEL_T8020, .page_lg2 = 14, .tlb = true, .mem = at};
	struct dart_cfg dart_cfg = {.kind = DART_T8103,
				    .name = "dart",
				    .host = &host,
				    .aperture = {0, UINT64_MAX},
				    .fault = on_fault};
	struct gmem gmem = {.nr_spans = 0};
	const struct mediator_cfg cfg = {
		.gmem = &gmem,
		.guest_granule = GUEST_PAGE,
		.pool_limit = 0x100000,
		.max_domains = 4,
		.max_mappings = 1024,
		.doorbell = {1, 0}, /* none */
	};
	const struct mapping map = {.start = PAGE,
				    .last = PAGE + GUEST_PAGE - 1,
				    .gpa = PAGE_GPA,
				    .flags = MAP_READ | MAP_WRITE};
	static const char to_device[] = "hello, device", to_guest[] = "hello, guest";
	struct mediator_stats stats;
	struct dart_model *model;
	struct mediator *mediator = NULL;
	struct endpoint *endpoint;
	struct fault fault = {0};
	struct dart *dart;
	char error[256], *ram, *page;
	int good;

	/* The guest's RAM. Its neighbour pages hold what is nobody's business. */
	ram = aligned_alloc(HOST_PAGE, RAM_LEN);
	must(ram ? 0 : -ENOMEM, "RAM");
	memset(ram, '!', RAM_LEN);
	page = ram + (PAGE_GPA - RAM_GPA);
	must(gmem_add(&gmem, RAM_GPA, RAM_LEN, ram), "gmem_add");

	/* The DART: hardware, and its driver. */
	must(dart_model_create(&model_cfg, &model), "dart_model_create");
	dart_cfg.host_ctx = model;
	dart_cfg.fault_ctx = &mediator;
	if (dart_create(&dart_cfg, &dart, error, sizeof(error))) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}

	/* The mediator, and the device, which masters through one stream of the DART. */
	must(mediator_create(&cfg, &mediator), "mediator_create");
	{
		const struct stream stream = {dart_instance(dart), STREAM};
		const struct endpoint_cfg endpoint_cfg = {.id = DEVICE,
							  .kin = DEVICE,
							  .name = "device",
							  .streams = &stream,
							  .nr_streams = 1,
							  .sync = SYNC_FULL};

		must(mediator_add_endpoint(mediator, &endpoint_cfg, &endpoint), "add_endpoint");
	}
	printf("a page of the guest has %u bytes, one of the DART %llu\n", GUEST_PAGE,
	       (unsigned long long)mediator_frame_size(mediator));

	/* What the guest's IOMMU driver asks for: ATTACH and MAP. */
	must(mediator_attach(mediator, DOMAIN, DEVICE, false), "ATTACH");
	strcpy(page, to_device);
	must(mediator_map(mediator, DOMAIN, &map), "MAP");
	printf("mapped: 0x%llx is the guest's 0x%llx\n", (unsigned long long)map.start,
	       (unsigned long long)map.gpa);
	good = device_reads(model, PAGE, to_device);

	/* The rest of the DART's page is mapped too, but is none of the guest's memory. */
	good &= device_reads(model, PAGE + GUEST_PAGE, "");

	/* The device writes; before its interrupt is injected, the guest is to see that. */
	must(dart_model_dma_write(model, STREAM, PAGE, to_guest, sizeof(to_guest)),
	     "device writes");
	endpoint_sync_for_cpu(endpoint);
	printf("guest reads: \"%.20s\"\n", page);
	good &= !strcmp(page, to_guest);

	/* The guest writes; before its register write reaches the device, the device is to see it.
	 */
	strcpy(page, "again");
	endpoint_sync_for_device(endpoint);
	good &= device_reads(model, PAGE, "again");

	/* UNMAP: what comes later is refused, and told to the guest. */
	must(mediator_unmap(mediator, DOMAIN, map.start, map.last), "UNMAP");
	printf("unmapped\n");
	good &= !device_reads(model, PAGE, "again") && !strcmp(page, "again");
	good &= dart_irq(dart) && faultlog_take(mediator_faultlog(mediator), &fault) &&
		fault.endpoint == DEVICE && fault.iova == PAGE;
	printf("the guest is told of a fault of endpoint %u at 0x%llx\n", fault.endpoint,
	       (unsigned long long)fault.iova);

	mediator_get_stats(mediator, &stats);
	printf("%llu bounce frame, %llu bytes copied to the device, %llu to the guest\n",
	       (unsigned long long)stats.bounce_frames, (unsigned long long)stats.bytes_to_device,
	       (unsigned long long)stats.bytes_to_guest);

	mediator_destroy(mediator);
	dart_destroy(dart);
	dart_model_destroy(model);
	free(ram);
	if (!good)
		fprintf(stderr, "that is not as it should be\n");
	return good ? 0 : 1;
}
