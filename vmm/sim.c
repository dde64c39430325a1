/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/disk.h"
#include "vmm/habits.h"
#include "vmm/msg.h"
#include "vmm/sim_edu.h"
#include "vmm/sim_nvme.h"

#define ERROR_LEN  512
#define MAX_DARTS  2
#define NAME_LEN   16
#define CLASS_NVME 0x010802

/* Streams are what device trees of the machines have: small numbers. Two DARTs number theirs each
 * its own way, so that a mix-up shows. */
#define FIRST_SID 1u

/* With quirk=hung-invalidate: so many I/O commands, or DMAs of the edu, work before the DARTs hang.
 * Enough for a guest to find its disk. */
#define COMMANDS_BEFORE_HANG 256

_Static_assert(LAYOUT_DART_LEN == SIM_DART_MMIO_LEN, "the guest sees all registers");

struct member {
	struct sim_config cfg;
	char name[NAME_LEN];
	char dart_name[MAX_DARTS][NAME_LEN];
	int fd; /* of the disk; -1: there is none, or it is the controller's by now */
	uint64_t size;
	struct disk_log disk_log;
	struct sim_dart *darts[MAX_DARTS];
	int guest_dart; /* its number; -1: the DARTs are ours */
	struct sim_set *set;
	struct bus_region *region;
	struct endpoint *ep;
	struct sim_nvme *nvme;
	struct sim_edu *edu;
};

struct sim_set {
	struct member members[CONFIG_MAX_SIM];
	unsigned nr, nr_guest_darts;
	unsigned first_slot;
	const struct sim_machine *machine;
	struct sim_mem *mem; /* of our DARTs */
};

static const char *const compatible[] = {
	[SIM_DART_T8103] = "apple,t8103-dart",
	[SIM_DART_T6000] = "apple,t6000-dart",
	[SIM_DART_T8110] = "apple,t8110-dart",
};

int sim_set_create(struct sim_set **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

int sim_set_open(struct sim_set *set, const struct sim_config *cfg)
{
	struct member *m = &set->members[set->nr];

	*m = (struct member){.cfg = *cfg, .fd = -1, .guest_dart = -1, .set = set};
	snprintf(m->name, sizeof(m->name), "sim-%s%u", cfg->kind == SIM_NVME ? "nvme" : "edu",
		 set->nr);
	for (unsigned i = 0; i < MAX_DARTS; i++)
		snprintf(m->dart_name[i], sizeof(m->dart_name[i]), "sim-dart%u.%u", set->nr, i);
	if (cfg->kind == SIM_NVME) {
		m->fd = disk_open(&cfg->disk, &m->size);
		if (m->fd < 0)
			return m->fd;
	}
	if (cfg->guest_owned)
		m->guest_dart = (int)set->nr_guest_darts++;
	set->nr++;
	return 0;
}

void sim_set_place(struct sim_set *set, unsigned first)
{
	set->first_slot = first;
}

static uint8_t devfn_of(const struct sim_set *set, const struct member *m)
{
	return (uint8_t)((set->first_slot + (unsigned)(m - set->members)) << 3);
}

static int create_dart(struct member *m, unsigned i, const struct sim_dart_cfg *cfg)
{
	char error[ERROR_LEN];
	int ret = sim_dart_create(cfg, &m->darts[i], error, sizeof(error));

	if (ret)
		msg_error("%s: %s", m->name, error);
	return ret;
}

/* ---- mediated -------------------------------------------------------------------------------- */

static int add_endpoint(struct member *m, struct mediator *mediator, bool lazy)
{
	struct stream streams[MAX_DARTS];
	struct endpoint_cfg cfg = {
		.id = devfn_of(m->set, m),
		.kin = devfn_of(m->set, m) >> 3,
		.name = m->name,
		.streams = streams,
		.nr_streams = m->cfg.darts,
		.sync = m->cfg.sync_set
				? m->cfg.sync
				: habits_of(0, 0, m->cfg.kind == SIM_NVME ? CLASS_NVME : 0, lazy)
					  .sync,
		.relaxed = m->cfg.relaxed,
		.hold = m->cfg.hold, /* they write valid flags last */
	};
	int ret;

	msg_tell("%s: a simulated device, sync %s, hold %s, poll %u us", m->name,
		 m->cfg.sync_set ? "as asked for" : "by its class",
		 m->cfg.hold ? "as asked for" : "not, for it writes valid flags last",
		 m->cfg.poll_us);
	for (unsigned i = 0; i < m->cfg.darts; i++) {
		const struct sim_dart_cfg dart = {
			.kind = m->cfg.dart,
			.quirk = m->cfg.quirk,
			.name = m->dart_name[i],
			.sid = FIRST_SID + i,
			.mem = m->set->mem,
		};

		ret = create_dart(m, i, &dart);
		if (ret)
			return ret;
		streams[i] = sim_dart_stream(m->darts[i]);
	}
	ret = mediator_add_endpoint(mediator, &cfg, &m->ep);
	if (ret) {
		msg_error("%s: cannot be put behind the guest's IOMMU: %s", m->name,
			  ret == -EINVAL ? "its DARTs reach no address that the IOMMUs of the "
					   "other devices reach too"
					 : strerror(-ret));
		return ret;
	}
	for (unsigned i = 0; i < m->cfg.darts; i++)
		sim_dart_set_mediator(m->darts[i], mediator);
	return 0;
}

int sim_set_add_endpoints(struct sim_set *set, struct mediator *m, bool lazy)
{
	int ret = 0;

	for (unsigned i = 0; i < set->nr && !ret; i++) {
		if (set->members[i].cfg.guest_owned)
			continue;
		if (!set->mem)
			ret = sim_mem_create(&set->mem);
		if (ret)
			msg_error("out of memory");
		else
			ret = add_endpoint(&set->members[i], m, lazy);
	}
	return ret;
}

unsigned sim_set_nr_endpoints(const struct sim_set *set)
{
	return set->nr - set->nr_guest_darts;
}

/* ---- the guest's ----------------------------------------------------------------------------- */

static void set_dart_irq(void *ctx, bool level)
{
	struct member *m = ctx;
	const struct sim_machine *machine = m->set->machine;

	machine->dart_irq(machine->ctx, (unsigned)m->guest_dart, level);
}

static int add_guest_dart(struct member *m)
{
	const struct sim_dart_cfg cfg = {
		.kind = m->cfg.dart,
		.quirk = m->cfg.quirk,
		.name = m->dart_name[0],
		.sid = FIRST_SID,
		.gmem = m->set->machine->gmem,
		.irq = set_dart_irq,
		.irq_ctx = m,
	};
	uint64_t base = LAYOUT_DART_BASE + (unsigned)m->guest_dart * LAYOUT_DART_STRIDE;
	int ret = create_dart(m, 0, &cfg);

	if (ret)
		return ret;
	ret = bus_add(m->set->machine->bus, base, LAYOUT_DART_LEN, m->dart_name[0], sim_dart_access,
		      m->darts[0], &m->region);
	if (ret)
		msg_error("%s: its registers cannot be put on the bus: %s", m->name,
			  strerror(-ret));
	return ret;
}

static int msi_target(void *ctx, uint64_t addr, uint64_t *gpa)
{
	struct member *m = ctx;

	return sim_dart_translate(m->darts[0], addr, gpa);
}

void sim_set_describe(const struct sim_set *set, struct fdt_config *fdt)
{
	for (unsigned i = 0; i < set->nr; i++) {
		const struct member *m = &set->members[i];

		fdt->requesters[fdt->nr_requesters++] =
			(struct fdt_requester){devfn_of(set, m), m->guest_dart};
		if (m->guest_dart >= 0)
			fdt->darts[fdt->nr_darts++] =
				(struct fdt_dart){compatible[m->cfg.dart], FIRST_SID};
	}
}

/* ---- devices --------------------------------------------------------------------------------- */

static void on_progress(void *ctx, uint64_t nr)
{
	struct member *m = ctx;

	if (m->cfg.quirk == SIM_DART_HUNG_INVALIDATE && nr == COMMANDS_BEFORE_HANG)
		for (unsigned i = 0; i < m->cfg.darts; i++)
			sim_dart_hang(m->darts[i]);
}

static void disk_failed(void *ctx, const char *what, int error)
{
	struct member *m = ctx;

	disk_log_failure(&m->disk_log, m->cfg.disk.path, what, error);
}

static int create_nvme(struct member *m, struct pci_dev **dev)
{
	char serial[] = "granule-sim0";
	struct sim_nvme_cfg cfg = {
		.name = m->name,
		.serial = serial,
		.fd = m->fd,
		.size = m->size,
		.readonly = m->cfg.disk.readonly,
		.nr_io_queues = m->set->machine->vcpus,
		.queues = sim_dart_port(m->darts[0]),
		.data = sim_dart_port(m->darts[m->cfg.darts - 1]),
		.msi_target = m->cfg.guest_owned ? msi_target : NULL,
		.progress = on_progress,
		.failed = disk_failed,
		.ctx = m,
	};
	int ret;

	serial[strlen(serial) - 1] = (char)('0' + (m - m->set->members));
	ret = sim_nvme_create(&cfg, &m->nvme);
	if (ret)
		return ret;
	m->fd = -1;
	*dev = sim_nvme_dev(m->nvme);
	return 0;
}

static int create_edu(struct member *m, struct pci_dev **dev)
{
	struct sim_edu_cfg cfg = {
		.name = m->name,
		.hostile = m->cfg.hostile,
		.port = sim_dart_port(m->darts[0]),
		.msi_target = m->cfg.guest_owned ? msi_target : NULL,
		.progress = on_progress,
		.ctx = m,
	};
	int ret = sim_edu_create(&cfg, &m->edu);

	if (!ret)
		*dev = sim_edu_dev(m->edu);
	return ret;
}

int sim_set_realize(struct sim_set *set, const struct sim_machine *machine,
		    struct pci_fronts *fronts)
{
	set->machine = machine;
	for (unsigned i = 0; i < set->nr; i++) {
		struct member *m = &set->members[i];
		struct pci_dev *dev = NULL;
		int ret;

		if (m->cfg.guest_owned) {
			ret = add_guest_dart(m);
			if (ret)
				return ret;
		}
		ret = m->cfg.kind == SIM_NVME ? create_nvme(m, &dev) : create_edu(m, &dev);
		if (ret) {
			msg_error("%s: cannot be made: %s", m->name, strerror(-ret));
			return ret;
		}
		ret = pci_fronts_add(fronts, dev, m->ep, m->cfg.poll_us, devfn_of(set, m));
		if (ret)
			return ret;
	}
	return 0;
}

void sim_set_quiesce(struct sim_set *set)
{
	for (unsigned i = 0; set && i < set->nr; i++) {
		struct member *m = &set->members[i];

		if (m->nvme)
			sim_nvme_stop(m->nvme);
		if (m->edu)
			sim_edu_stop(m->edu);
	}
}

void sim_set_destroy(struct sim_set *set)
{
	if (!set)
		return;
	for (unsigned i = 0; i < set->nr; i++) {
		struct member *m = &set->members[i];

		sim_nvme_destroy(m->nvme);
		sim_edu_destroy(m->edu);
		if (m->region)
			bus_remove(set->machine->bus, m->region);
		for (unsigned d = 0; d < MAX_DARTS; d++)
			sim_dart_destroy(m->darts[d]);
		if (m->fd >= 0)
			close(m->fd);
	}
	sim_mem_destroy(set->mem);
	free(set);
}
