/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vfio_pci.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio.h"
#include "vmm/bdf.h"
#include "vmm/habits.h"
#include "vmm/msg.h"
#include "vmm/slots.h"
#include "vmm/vfio_dev.h"

#define ERROR_LEN 1024

/* Open files besides the vectors' eventfds: regions, disks, the ring, the terminal. */
#define OTHER_FDS 128u

struct group {
	unsigned nr; /* the host's number */
	struct vfio_container *container;
};

/* Something that the host may have to say of a device. */
struct notice {
	int fd; /* -1: it never will */
	struct evloop_watch *watch;
};

struct member {
	char bdf[BDF_LEN];
	struct vfio_config cfg;
	unsigned group; /* index in vfio_set.groups */
	uint16_t vendor, device;
	uint32_t class;
	unsigned poll_us;
	struct pci_dev *dev; /* NULL: the host has it back */
	struct endpoint *ep;
	bool shown; /* to the guest */
	struct vfio_set *set;
	struct notice request, error;
};

struct vfio_set {
	struct group groups[CONFIG_MAX_VFIO];
	struct member members[CONFIG_MAX_VFIO];
	struct slot_place places[CONFIG_MAX_VFIO]; /* of members */
	unsigned nr_groups, nr_members, nr_slots;
	bool quiet; /* vfio_set_quiesce() is done */
	struct pci_fronts *fronts;
	struct evloop *loop;
};

int vfio_set_create(struct vfio_set **out)
{
	struct vfio_set *set = calloc(1, sizeof(*set));

	if (!set)
		return -ENOMEM;
	*out = set;
	return 0;
}

/* ---- opening: what can be wrong is found before VFIO is asked, and named -------------------- */

/* find_device - the BDF that --vfio means, of a device that exists. Return: 0; -errno after a line.
 */
static int find_device(const char *arg, char bdf[BDF_LEN])
{
	char path[PATH_MAX];
	const char *name = arg;
	uint64_t vendor;

	if (strchr(arg, '/')) {
		if (!realpath(arg, path)) {
			msg_error("--vfio %s: %s; `granule devices` lists what there is", arg,
				  strerror(errno));
			return -ENODEV;
		}
		name = strrchr(path, '/') + 1;
	}
	if (bdf_parse(name, bdf)) {
		msg_error("--vfio %s: not a PCI address; give [DDDD:]BB:DD.F, or its directory in "
			  "/sys",
			  arg);
		return -EINVAL;
	}
	if (sysfs_read_u64(&vendor, "bus/pci/devices/%s/vendor", bdf)) {
		msg_error("--vfio %s: this host has no PCI device %s; `granule devices` lists what "
			  "there is",
			  arg, bdf);
		return -ENODEV;
	}
	return 0;
}

/* find_group - the IOMMU group of a device that is bound to vfio-pci. Return: as above. */
static int find_group(const char *bdf, unsigned *group)
{
	char driver[64], link[64], *end;
	int ret;

	if (sysfs_link(link, sizeof(link), "bus/pci/devices/%s/iommu_group", bdf)) {
		msg_error("%s is in no IOMMU group: the host has no IOMMU for it, or runs with it "
			  "off",
			  bdf);
		return -ENODEV;
	}
	*group = (unsigned)strtoul(link, &end, 10);
	if (*end || end == link) {
		msg_error("%s is in the IOMMU group \"%s\", which has no number", bdf, link);
		return -ENODEV;
	}
	ret = sysfs_link(driver, sizeof(driver), "bus/pci/devices/%s/driver", bdf);
	if (!ret && !strcmp(driver, "vfio-pci"))
		return 0;
	/* Variant drivers (mlx5_vfio_pci, ...) register a VFIO device too. */
	if (!ret && strstr(driver, "vfio"))
		return 0;
	if (ret)
		msg_error("%s is bound to no driver, not to vfio-pci; as root: modprobe vfio-pci; "
			  "echo vfio-pci "
			  "> /sys/bus/pci/devices/%s/driver_override; echo %s > "
			  "/sys/bus/pci/drivers_probe",
			  bdf, bdf, bdf);
	else
		msg_error("%s is bound to %s, not to vfio-pci; as root: modprobe vfio-pci; echo "
			  "vfio-pci > "
			  "/sys/bus/pci/devices/%s/driver_override; echo %s > "
			  "/sys/bus/pci/devices/%s/driver/unbind; echo %s > "
			  "/sys/bus/pci/drivers_probe",
			  bdf, driver, bdf, bdf, bdf, bdf);
	return -EBUSY;
}

static void log_container(void *ctx, const char *line)
{
	(void)ctx;
	msg_error("%s", line);
}

static int open_group(struct vfio_set *set, const struct member *m, unsigned nr, unsigned *index)
{
	struct group *group;
	char error[ERROR_LEN];
	int ret;

	for (*index = 0; *index < set->nr_groups; (*index)++) {
		if (set->groups[*index].nr != nr)
			continue;
		if (!m->cfg.group_fd && !m->cfg.container_fd)
			return 0;
		msg_error("--vfio %s: its IOMMU group %u is open already, with another device; "
			  "give fd and container with the first of a group only",
			  m->cfg.device, nr);
		return -EBUSY;
	}
	group = &set->groups[set->nr_groups];
	*group = (struct group){.nr = nr};
	ret = vfio_container_take(nr, m->cfg.group_fd, m->cfg.container_fd, &group->container,
				  error, sizeof(error));
	if (ret) {
		msg_error("%s: %s", m->bdf, error);
		return ret;
	}
	vfio_container_set_log(group->container, log_container, NULL);
	set->nr_groups++;
	return 0;
}

int vfio_set_open(struct vfio_set *set, const struct vfio_config *cfg)
{
	struct member *m = &set->members[set->nr_members];
	char error[ERROR_LEN];
	uint8_t ids[PCI_CLASS_REVISION + 4]; /* the header's first registers */
	unsigned nr;
	int ret, fd;

	if (set->nr_members == CONFIG_MAX_VFIO) {
		msg_error("--vfio %s: more than %d devices", cfg->device, CONFIG_MAX_VFIO);
		return -ENOSPC;
	}
	*m = (struct member){.cfg = *cfg, .set = set, .request = {.fd = -1}, .error = {.fd = -1}};
	ret = find_device(cfg->device, m->bdf);
	if (ret)
		return ret;
	for (unsigned i = 0; i < set->nr_members; i++) {
		if (!strcmp(set->members[i].bdf, m->bdf)) {
			msg_error("--vfio %s: %s is given twice", cfg->device, m->bdf);
			return -EEXIST;
		}
	}
	ret = find_group(m->bdf, &nr);
	if (ret)
		return ret;
	set->places[set->nr_members] =
		(struct slot_place){.bdf = m->bdf, .host_group = nr, .group = cfg->group};
	ret = slots_assign(set->places, set->nr_members + 1, &set->nr_slots);
	if (ret)
		return ret;
	ret = open_group(set, m, nr, &m->group);
	if (ret)
		return ret;
	fd = vfio_container_device(set->groups[m->group].container, m->bdf, error, sizeof(error));
	if (fd < 0) {
		msg_error("%s", error);
		return fd;
	}
	ret = vfio_dev_open(fd, m->bdf, &m->dev, error, sizeof(error));
	if (ret) {
		msg_error("%s", error);
		return ret;
	}
	ret = m->dev->ops->read(m->dev, VFIO_PCI_CONFIG_REGION_INDEX, 0, ids, sizeof(ids));
	if (ret) {
		msg_error("%s: its config space cannot be read: %s", m->bdf, strerror(-ret));
		m->dev->ops->close(m->dev);
		return ret;
	}
	m->vendor = get_le16(ids + PCI_VENDOR_ID);
	m->device = get_le16(ids + PCI_DEVICE_ID);
	m->class = get_le32(ids + PCI_CLASS_REVISION) >> 8;
	set->nr_members++;
	return 0;
}

unsigned vfio_set_count(const struct vfio_set *set)
{
	return set->nr_members;
}

unsigned vfio_set_slots(const struct vfio_set *set)
{
	return set->nr_slots;
}

/* Device 0 is the host bridge. */
uint16_t vfio_set_rid(const struct vfio_set *set, unsigned i)
{
	return (uint16_t)((set->places[i].slot + 1) << 3 | set->places[i].function);
}

/* ---- DMA
 * ----------------------------------------------------------------------------------------- */

int vfio_set_add_endpoints(struct vfio_set *set, struct mediator *m, bool lazy)
{
	for (unsigned i = 0; i < set->nr_members; i++) {
		struct member *member = &set->members[i];
		struct vfio_container *container = set->groups[member->group].container;
		struct habits habits =
			habits_of(member->vendor, member->device, member->class, lazy);
		struct stream stream = {.inst = vfio_container_instance(container)};
		struct endpoint_cfg cfg = {
			.id = vfio_set_rid(set, i),
			.kin = vfio_set_rid(set, i) >> 3,
			.name = member->bdf,
			.streams = &stream,
			.nr_streams = 1,
			.sync = member->cfg.sync_set ? member->cfg.sync : habits.sync,
			.may_turn_full = !member->cfg.sync_set && habits.may_turn_full,
			.relaxed = member->cfg.relaxed,
			.hold = member->cfg.hold_set ? member->cfg.hold : habits.hold,
		};
		int ret = mediator_add_endpoint(m, &cfg, &member->ep);

		member->poll_us = member->cfg.poll_set ? member->cfg.poll_us : habits.poll_us;
		msg_tell("%s: %04x:%04x class %06x, sync %s, hold %s, poll %u us%s", member->bdf,
			 member->vendor, member->device, member->class,
			 member->cfg.sync_set ? "as asked for" : habits.why,
			 member->cfg.hold_set ? "as asked for"
			 : habits.hold	      ? "for it may write anywhere last"
					      : "not, for it writes valid flags last",
			 member->poll_us, member->cfg.poll_set ? ", as asked for" : "");
		if (ret == -EINVAL) {
			msg_error("%s: its IOMMU reaches no address that those of the other "
				  "devices reach "
				  "too; pass it to a guest of its own",
				  member->bdf);
			return ret;
		}
		if (ret) {
			msg_error("%s: cannot be put behind the guest's IOMMU: %s", member->bdf,
				  strerror(-ret));
			return ret;
		}
	}
	return 0;
}

static bool reachable(const struct instance *inst, uint64_t start, uint64_t last)
{
	for (unsigned i = 0; i < inst->nr_apertures; i++)
		if (start >= inst->apertures[i].start && last <= inst->apertures[i].last)
			return true;
	return false;
}

static int map_span(const struct group *group, const struct gmem_span *span)
{
	struct instance *inst = vfio_container_instance(group->container);
	uint64_t last = span->gpa + (span->len - 1);

	if (!reachable(inst, span->gpa, last)) {
		msg_error("guest RAM %#" PRIx64 "-%#" PRIx64
			  " is not all within reach of IOMMU group %u "
			  "(its last address is %#" PRIx64
			  "); give the guest less (-m), or use --iommu on",
			  span->gpa, last, group->nr, inst->apertures[inst->nr_apertures - 1].last);
		return -ERANGE;
	}
	if (!IS_ALIGNED(span->gpa | span->len | (uintptr_t)span->hva, inst->granule)) {
		msg_error("guest RAM at %#" PRIx64
			  " is not in whole pages of IOMMU group %u (%#" PRIx64 ")",
			  span->gpa, group->nr, inst->granule);
		return -EINVAL;
	}
	/* If it fails the container has said why. */
	return vfio_container_map(group->container, span->gpa, span->hva, span->len);
}

int vfio_set_check_memlock(const struct vfio_set *set, uint64_t len)
{
	char error[ERROR_LEN];
	int ret;

	/* type1 counts a page for each container in which it is pinned. */
	ret = vfio_memlock_check(len * set->nr_groups, error, sizeof(error));
	if (ret)
		msg_error("%s", error);
	return ret;
}

int vfio_set_map_ram(struct vfio_set *set, const struct gmem *gmem)
{
	int ret;

	ret = vfio_set_check_memlock(set, gmem_size(gmem));
	if (ret)
		return ret;
	for (unsigned i = 0; i < set->nr_groups; i++) {
		for (unsigned s = 0; s < gmem->nr_spans; s++) {
			ret = map_span(&set->groups[i], &gmem->spans[s]);
			if (ret)
				return ret;
		}
	}
	return 0;
}

/* ---- reset
 * --------------------------------------------------------------------------------------- */

/* reset - the function alone if it can be, else its whole bus if all of that is ours */
static int reset(struct vfio_set *set, struct member *m)
{
	unsigned groups[CONFIG_MAX_VFIO];
	int fds[CONFIG_MAX_VFIO];

	if (m->dev->can_reset)
		return m->dev->ops->reset(m->dev);
	for (unsigned i = 0; i < set->nr_groups; i++) {
		groups[i] = set->groups[i].nr;
		fds[i] = vfio_container_group_fd(set->groups[i].container);
	}
	return vfio_dev_hot_reset(m->dev, groups, fds, set->nr_groups);
}

/* ---- putting them before the guest
 * ---------------------------------------------------------------- */

/* raise_nofile - each vector costs an eventfd. Not a failure: what is missing shows at its eventfd.
 */
static void raise_nofile(const struct vfio_set *set)
{
	struct rlimit lim;
	rlim_t want = OTHER_FDS;

	for (unsigned i = 0; i < set->nr_members; i++) {
		const struct pci_dev *dev = set->members[i].dev;

		want += 4 + MAX(dev->nr_msi, dev->nr_msix) + dev->nr_intx;
	}
	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur >= want)
		return;
	lim.rlim_cur = want;
	lim.rlim_max = MAX(lim.rlim_max, want);
	if (setrlimit(RLIMIT_NOFILE, &lim)) {
		/* Only root raises the hard limit. */
		getrlimit(RLIMIT_NOFILE, &lim);
		lim.rlim_cur = MIN(want, lim.rlim_max);
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

/* ---- the host takes a device back
 * ---------------------------------------------------------------- */

static bool is_group_used(const struct vfio_set *set, unsigned group)
{
	for (unsigned i = 0; i < set->nr_members; i++)
		if (set->members[i].dev && set->members[i].group == group)
			return true;
	return false;
}

/*
 * give_back - the guest finds that the device was pulled. The host's kernel waits until the device
 * is closed, what is mapped of it included; kernels before 6.2 wait for its group too
 * (drivers/vfio/vfio.c, vfio_unregister_group_dev()). Closed, the device is reset by the kernel.
 */
static void give_back(struct member *m)
{
	struct vfio_set *set = m->set;

	pci_fronts_unplug(set->fronts, m->dev);
	m->dev->ops->close(m->dev);
	m->dev = NULL;
	if (!is_group_used(set, m->group))
		vfio_container_release(set->groups[m->group].container);
}

/* The kernel asks again and again. */
static void on_request(void *ctx, uint64_t count)
{
	struct member *m = ctx;

	(void)count;
	if (!m->dev)
		return;
	msg_warn("%s: the host takes it back: the guest finds it gone", m->bdf);
	give_back(m);
}

static void on_error(void *ctx, uint64_t count)
{
	struct member *m = ctx;

	(void)count;
	if (!m->dev)
		return;
	msg_warn("%s: the host reports an error that it cannot recover from: the guest finds it "
		 "gone",
		 m->bdf);
	give_back(m);
}

static void stop_notice(struct vfio_set *set, struct notice *notice)
{
	evloop_remove(set->loop, notice->watch);
	notice->watch = NULL;
	if (notice->fd >= 0)
		close(notice->fd);
	notice->fd = -1;
}

/* hear - of @index (VFIO_PCI_*_IRQ_INDEX). A kernel, or a device, that knows none has nothing to
 * say.
 */
static int hear(struct member *m, struct notice *notice, unsigned index,
		void (*fn)(void *ctx, uint64_t count))
{
	int ret;

	notice->fd = eventfd(0, EFD_CLOEXEC);
	if (notice->fd < 0)
		return -errno;
	ret = evloop_add_eventfd(m->set->loop, notice->fd, fn, m, &notice->watch);
	if (!ret && m->dev->ops->set_irqs(m->dev, index, 1, &notice->fd))
		stop_notice(m->set, notice);
	return ret;
}

static int hear_of_host(struct member *m)
{
	int ret = hear(m, &m->request, VFIO_PCI_REQ_IRQ_INDEX, on_request);

	if (!ret)
		ret = hear(m, &m->error, VFIO_PCI_ERR_IRQ_INDEX, on_error);
	if (ret)
		msg_error("%s: what the host says of it cannot be heard: %s", m->bdf,
			  strerror(-ret));
	return ret;
}

int vfio_set_realize(struct vfio_set *set, struct pci_fronts *fronts, struct evloop *loop)
{
	int ret;

	set->fronts = fronts;
	set->loop = loop;

	raise_nofile(set);
	/* All before the first is set up: a bus reset hits more than one. */
	for (unsigned i = 0; i < set->nr_members; i++) {
		ret = reset(set, &set->members[i]);
		if (ret)
			msg_warn("%s cannot be reset%s%s: the guest finds it as the host left it",
				 set->members[i].bdf, ret == -ENODEV ? "" : ", ",
				 ret == -ENODEV ? "" : strerror(-ret));
	}
	for (unsigned i = 0; i < set->nr_members; i++) {
		struct member *m = &set->members[i];

		ret = pci_fronts_add(fronts, m->dev, m->ep, m->poll_us,
				     (uint8_t)vfio_set_rid(set, i));
		if (ret)
			return ret;
		m->shown = true;
		ret = hear_of_host(m);
		if (ret)
			return ret;
	}
	return 0;
}

void vfio_set_quiesce(struct vfio_set *set)
{
	if (set->quiet)
		return;
	set->quiet = true;
	for (unsigned i = 0; i < set->nr_members; i++) {
		stop_notice(set, &set->members[i].request);
		stop_notice(set, &set->members[i].error);
	}
	/* After all of them are silent: a bus reset hits more than one. One that never came so far
	 * as to be given to the guest has nothing to forget. */
	for (unsigned i = 0; i < set->nr_members; i++)
		if (set->members[i].shown && set->members[i].dev)
			(void)reset(set, &set->members[i]);
}

void vfio_set_destroy(struct vfio_set *set)
{
	if (!set)
		return;
	vfio_set_quiesce(set);
	for (unsigned i = 0; i < set->nr_members; i++)
		if (set->members[i].dev)
			set->members[i].dev->ops->close(set->members[i].dev);
	for (unsigned i = 0; i < set->nr_groups; i++)
		vfio_container_close(set->groups[i].container);
	free(set);
}
