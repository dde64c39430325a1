/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim_dart.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "iommu/dart.h"
#include "iommu/dart_model.h"
#include "iommu/dart_regs.h"

#define PAGE_LG2	14
#define NR_STREAMS	16 /* of all kinds */
/* Twice what the tables of 36 bits of IOVA need. */
#define MAX_TABLE_BYTES (UINT64_C(64) << 20)

#define MAX_DRAIN_NS   UINT64_C(10000000000)
#define DRAIN_PAUSE_NS 50000

_Static_assert(SIM_DART_MMIO_LEN == DART_REGS_SIZE, "what drivers expect");
_Static_assert(SIM_MEM_PAGE == 1u << PAGE_LG2, "tables are pages");

struct sim_dart {
	struct sim_dart_cfg cfg;
	struct dart_model *model;

	/* The driver's: */
	struct dart *dart;
	pthread_mutex_t fault_lock; /* of mediator; while it is told of a fault, too */
	struct mediator *mediator;
};

/* ---- kinds ----------------------------------------------------------------------------------- */

static const struct {
	enum dart_model_kind model;
	enum dart_kind driver;
	/* What firmware needs to know. */
	const struct dart_fmt *fmt;
	unsigned ias;
	uint32_t tcr, ttbr_valid, ttbr_mask;
	unsigned ttbr_lg2;
} kinds[] = {
	[SIM_DART_T8103] = {DART_MODEL_T8020, DART_T8103, &dart_fmt_1, 32, DART_V1_TCR_TRANSLATE,
			    DART_V1_TTBR_VALID, DART_V1_TTBR_ADDR_MASK, DART_V1_TTBR_ADDR_LG2},
	[SIM_DART_T6000] = {DART_MODEL_T6000, DART_T6000, &dart_fmt_2, 32, DART_V1_TCR_TRANSLATE,
			    DART_V1_TTBR_VALID, DART_V1_TTBR_ADDR_MASK, DART_V1_TTBR_ADDR_LG2},
	[SIM_DART_T8110] = {DART_MODEL_T8110, DART_T8110, &dart_fmt_2, 36, DART_T8110_TCR_TRANSLATE,
			    DART_T8110_TTBR_VALID, DART_T8110_TTBR_ADDR_MASK,
			    DART_T8110_TTBR_ADDR_LG2},
};

/* ---- waiting --------------------------------------------------------------------------------- */

/*
 * Accesses that an invalidation waits for take no time in hardware, but the thread that makes one
 * here may be scheduled away meanwhile. Drivers know nothing of that: guests' have been seen to
 * give an invalidation 100 us and then to go on as if it had ended, ours gives up a DART after
 * 100 ms. So it is the thread that looks at the registers that waits. Bounded, since that other
 * thread may be waiting for a page of guest RAM.
 */
static void drain(struct sim_dart *dart)
{
	const struct timespec pause = {.tv_nsec = DRAIN_PAUSE_NS};
	uint64_t start = 0;

	for (unsigned n = 0; dart_model_draining(dart->model); n++) {
		if (!n)
			start = monotonic_ns();
		else if (monotonic_ns() - start >= MAX_DRAIN_NS)
			return;
		if (n < 10)
			sched_yield();
		else
			nanosleep(&pause, NULL);
	}
}

/* ---- what stands behind our driver ----------------------------------------------------------- */

static uint32_t host_read(void *ctx, uint32_t offset)
{
	struct sim_dart *dart = ctx;

	drain(dart);
	return dart_model_read(dart->model, offset);
}

static void host_write(void *ctx, uint32_t offset, uint32_t value)
{
	dart_model_write(((struct sim_dart *)ctx)->model, offset, value);
}

static uint64_t host_now(void *ctx)
{
	(void)ctx;
	return monotonic_ns();
}

static void host_relax(void *ctx)
{
	(void)ctx;
	sched_yield();
}

static void *host_table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	return size <= SIM_MEM_PAGE ? sim_mem_alloc(((struct sim_dart *)ctx)->cfg.mem, pa) : NULL;
}

static void host_table_free(void *ctx, void *table, size_t size)
{
	(void)size;
	sim_mem_free(((struct sim_dart *)ctx)->cfg.mem, table);
}

static void *host_table_map(void *ctx, uint64_t pa, size_t size)
{
	return sim_mem_at(((struct sim_dart *)ctx)->cfg.mem, pa, size);
}

static int host_pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	return sim_mem_pa_of(((struct sim_dart *)ctx)->cfg.mem, hva, len, pa, run);
}

static const struct dart_host_ops host_ops = {
	.read = host_read,
	.write = host_write,
	.now_ns = host_now,
	.relax = host_relax,
	.mem = {host_table_alloc, host_table_free, host_table_map, host_pa_of},
};

static void *model_memory(void *ctx, uint64_t pa, size_t len)
{
	return sim_mem_at(ctx, pa, len);
}

static void on_fault(void *ctx, struct dart *driver, const struct dart_fault *fault)
{
	struct sim_dart *dart = ctx;
	const struct fault out = {
		.reason = fault->reason,
		.flags = fault->flags,
		.iova = fault->iova,
	};

	pthread_mutex_lock(&dart->fault_lock);
	if (dart->mediator)
		mediator_fault(dart->mediator, dart_instance(driver), fault->sid, &out);
	pthread_mutex_unlock(&dart->fault_lock);
}

/* What ran before our driver: one table for a framebuffer of its own, then the lock. */
static int run_firmware(struct sim_dart *dart)
{
	const struct dart_fmt *fmt = kinds[dart->cfg.kind].fmt;
	uint64_t iova = SIM_DART_FIRMWARE_IOVA, *top, *leaf, top_pa, leaf_pa, page_pa;
	uint32_t ttbr[4] = {0};
	struct dart_geometry geo;

	if (dart_geometry_init(&geo, fmt, PAGE_LG2, kinds[dart->cfg.kind].ias))
		return -EINVAL;
	top = sim_mem_alloc(dart->cfg.mem, &top_pa);
	leaf = sim_mem_alloc(dart->cfg.mem, &leaf_pa);
	if (!top || !leaf || dart_table_pack(fmt, &geo, leaf_pa, &top[dart_index(&geo, 1, iova)]))
		return -ENOMEM;
	for (; iova < SIM_DART_FIRMWARE_IOVA + SIM_DART_FIRMWARE_LEN; iova += SIM_MEM_PAGE) {
		if (!sim_mem_alloc(dart->cfg.mem, &page_pa) ||
		    dart_leaf_pack(fmt, &geo,
				   &(struct dart_leaf){.pa = page_pa,
						       .prot = PROT_DEV_READ | PROT_DEV_WRITE,
						       .last = SIM_MEM_PAGE - 1},
				   &leaf[dart_index(&geo, 0, iova)]))
			return -ENOMEM;
	}
	ttbr[0] = (uint32_t)FIELD_PREP((uint64_t)kinds[dart->cfg.kind].ttbr_mask,
				       top_pa >> kinds[dart->cfg.kind].ttbr_lg2) |
		  kinds[dart->cfg.kind].ttbr_valid;
	dart_model_firmware(dart->model, dart->cfg.sid, ttbr, kinds[dart->cfg.kind].tcr);
	return 0;
}

static int start_driver(struct sim_dart *dart, char *error, size_t error_len)
{
	const struct dart_cfg cfg = {
		.kind = kinds[dart->cfg.kind].driver,
		.name = dart->cfg.name,
		.host = &host_ops,
		.host_ctx = dart,
		.windows = true, /* the model has them */
		.aperture = {0, UINT64_MAX},
		.max_table_bytes = MAX_TABLE_BYTES,
		.fault = on_fault,
		.fault_ctx = dart,
	};

	return dart_create(&cfg, &dart->dart, error, error_len);
}

/* ---- what stands behind a guest's driver ----------------------------------------------------- */

static void *guest_memory(void *ctx, uint64_t pa, size_t len)
{
	return gmem_ptr(((struct sim_dart *)ctx)->cfg.gmem, pa, len);
}

static void guest_irq(void *ctx, bool level)
{
	struct sim_dart *dart = ctx;

	dart->cfg.irq(dart->cfg.irq_ctx, level);
}

void sim_dart_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct sim_dart *dart = ctx;

	if (len != 4 || off & 3 || off >= SIM_DART_MMIO_LEN) {
		if (!write)
			memset(data, 0xff, len);
		return;
	}
	if (write)
		dart_model_write(dart->model, (uint32_t)off, get_le32(data));
	drain(dart);
	if (!write)
		put_le32(data, dart_model_read(dart->model, (uint32_t)off));
}

/* ---- devices --------------------------------------------------------------------------------- */

/*
 * Our driver's interrupt is taken by the thread that caused it: only a refused access raises the
 * line, so whoever had one lets the driver look. What it finds may be another's, and its own
 * another's to find.
 */
static int accessed(struct sim_dart *dart, int ret)
{
	if (ret && dart->dart)
		dart_irq(dart->dart);
	return ret;
}

static int port_read(void *ctx, uint64_t addr, void *buf, size_t len)
{
	struct sim_dart *dart = ctx;

	return accessed(dart, dart_model_dma_read(dart->model, dart->cfg.sid, addr, buf, len));
}

static int port_write(void *ctx, uint64_t addr, const void *buf, size_t len)
{
	struct sim_dart *dart = ctx;

	return accessed(dart, dart_model_dma_write(dart->model, dart->cfg.sid, addr, buf, len));
}

struct sim_port sim_dart_port(struct sim_dart *dart)
{
	return (struct sim_port){.read = port_read, .write = port_write, .ctx = dart};
}

int sim_dart_translate(struct sim_dart *dart, uint64_t addr, uint64_t *pa)
{
	return dart_model_probe(dart->model, dart->cfg.sid, addr, true, pa);
}

/* ---- lifetime -------------------------------------------------------------------------------- */

struct stream sim_dart_stream(struct sim_dart *dart)
{
	return (struct stream){dart_instance(dart->dart), dart_remap(dart->dart, dart->cfg.sid)};
}

void sim_dart_set_mediator(struct sim_dart *dart, struct mediator *m)
{
	pthread_mutex_lock(&dart->fault_lock);
	dart->mediator = m;
	pthread_mutex_unlock(&dart->fault_lock);
}

void sim_dart_hang(struct sim_dart *dart)
{
	struct dart_model_quirks quirks;

	if (dart->cfg.quirk != SIM_DART_HUNG_INVALIDATE)
		return;
	dart_model_get_quirks(dart->model, &quirks);
	quirks.invalidate_hangs = true;
	dart_model_set_quirks(dart->model, &quirks);
}

/* A model as after reset, but for its quirk. */
static int create_model(struct sim_dart *dart)
{
	const struct sim_dart_cfg *cfg = &dart->cfg;
	const struct dart_model_quirks quirks = {
		.locked = cfg->quirk == SIM_DART_LOCKED_TTBR,
		.invalidate_delay_ns =
			cfg->quirk == SIM_DART_SLOW_INVALIDATE ? SIM_DART_SLOW_NS : 0,
	};
	struct dart_model_cfg model = {
		.kind = kinds[cfg->kind].model,
		.page_lg2 = PAGE_LG2,
		.nr_streams = NR_STREAMS,
		.tlb = true,
		.mem = guest_memory,
		.mem_ctx = dart,
		.irq = guest_irq,
		.irq_ctx = dart,
	};
	int ret;

	if (cfg->sid >= NR_STREAMS)
		return -EINVAL;
	if (cfg->mem) {
		model.mem = model_memory;
		model.mem_ctx = cfg->mem;
		model.irq = NULL;
	}
	ret = dart_model_create(&model, &dart->model);
	if (ret)
		return ret;
	dart_model_set_quirks(dart->model, &quirks);
	return 0;
}

int sim_dart_create(const struct sim_dart_cfg *cfg, struct sim_dart **out, char *error,
		    size_t error_len)
{
	struct sim_dart *dart = calloc(1, sizeof(*dart));
	int ret = -ENOMEM;

	if (!dart)
		goto out;
	dart->cfg = *cfg;
	pthread_mutex_init(&dart->fault_lock, NULL);
	ret = create_model(dart);
	if (!ret && cfg->mem && cfg->quirk == SIM_DART_LOCKED_TTBR)
		ret = run_firmware(dart);
	if (ret)
		goto out;
	if (cfg->mem)
		ret = start_driver(dart, error, error_len);
	if (ret)
		goto err;
	*out = dart;
	return 0;

out:
	snprintf(error, error_len, "%s: %s", cfg->name, strerror(-ret));
err:
	sim_dart_destroy(dart);
	return ret;
}

void sim_dart_destroy(struct sim_dart *dart)
{
	if (!dart)
		return;
	dart_destroy(dart->dart);
	dart_model_destroy(dart->model);
	pthread_mutex_destroy(&dart->fault_lock);
	free(dart);
}
