/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio.h"
#include "iommu/vfio_sys.h"

/* A kernel with one group, number 5; fds 10 (container) and 11 (group). */
static struct {
	int open_ret[2], extension_v2, extension_v1, set_iommu_ret, device_ret;
	unsigned long set_type;
	uint32_t group_flags;
	uint64_t pgsizes;
	unsigned nr_ranges;
	struct iova_range ranges[40];
	bool has_ranges;
	uint32_t avail;
	int map_ret, unmap_ret;
	uint8_t *mapped; /* by who asks in MAP_DMA: is it there? */
	bool was_there;
	const char *release;
	int populate_errno;
	uint64_t unmap_short; /* bytes fewer than asked */
	struct vfio_iommu_type1_dma_map last_map;
	int version_ret, status_ret;
	int open_fds;
	unsigned nr_opened;
} k;

static int fake_open(const char *path)
{
	int i = strcmp(path, "/dev/vfio/vfio") != 0;

	if (i)
		assert_string_equal(path, "/dev/vfio/5");
	if (k.open_ret[i])
		return k.open_ret[i];
	k.open_fds++;
	k.nr_opened++;
	return 10 + i;
}

static int get_info(struct vfio_iommu_type1_info *info)
{
	/* Laid out as the kernel does: info, then the ranges, then what is left of the entry limit.
	 */
	size_t ranges_off = sizeof(*info);
	size_t avail_off = ranges_off + sizeof(struct vfio_iommu_type1_info_cap_iova_range) +
			   k.nr_ranges * sizeof(struct vfio_iova_range);
	size_t need = avail_off + sizeof(struct vfio_iommu_type1_info_dma_avail);
	struct vfio_iommu_type1_info_cap_iova_range *ranges;
	struct vfio_iommu_type1_info_dma_avail *avail;

	info->flags = (k.pgsizes ? VFIO_IOMMU_INFO_PGSIZES : 0) | VFIO_IOMMU_INFO_CAPS;
	info->iova_pgsizes = k.pgsizes;
	if (info->argsz < need) {
		info->argsz = (uint32_t)need;
		info->cap_offset = 0;
		return 0;
	}
	ranges = (void *)((char *)info + ranges_off);
	avail = (void *)((char *)info + avail_off);
	info->cap_offset = (uint32_t)(k.has_ranges ? ranges_off : avail_off);
	ranges->header.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
	ranges->header.next = (uint32_t)avail_off;
	ranges->nr_iovas = k.nr_ranges;
	for (unsigned i = 0; i < k.nr_ranges; i++)
		ranges->iova_ranges[i] =
			(struct vfio_iova_range){k.ranges[i].start, k.ranges[i].last};
	avail->header.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
	avail->header.next = 0;
	avail->avail = k.avail;
	return 0;
}

int __wrap_uname(struct utsname *un);
int __wrap_uname(struct utsname *un)
{
	memset(un, 0, sizeof(*un));
	strcpy(un->release, k.release);
	return 0;
}

int __real_madvise(void *addr, size_t len, int advice);
int __wrap_madvise(void *addr, size_t len, int advice);
int __wrap_madvise(void *addr, size_t len, int advice)
{
	if (!k.populate_errno)
		return __real_madvise(addr, len, advice);
	errno = k.populate_errno;
	return -1;
}

#define NR_THERE 4u /* pages */

static bool all_is_there(uint8_t *at)
{
	unsigned char resident[NR_THERE] = {0};

	assert_int_equal(mincore(at, NR_THERE * (size_t)sysconf(_SC_PAGESIZE), resident), 0);
	for (unsigned i = 0; i < NR_THERE; i++) {
		if (!(resident[i] & 1))
			return false;
	}
	return true;
}

static int fake_ioctl(int fd, unsigned long req, void *arg)
{
	struct vfio_iommu_type1_dma_unmap *unmap = arg;

	switch (req) {
	case VFIO_GET_API_VERSION:
		return k.version_ret ? k.version_ret : VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION:
		return (unsigned long)arg == VFIO_TYPE1v2_IOMMU ? k.extension_v2 : k.extension_v1;
	case VFIO_GROUP_GET_STATUS:
		((struct vfio_group_status *)arg)->flags = k.group_flags;
		return k.status_ret;
	case VFIO_GROUP_SET_CONTAINER:
		assert_int_equal(fd, 11);
		assert_int_equal(*(int *)arg, 10);
		return 0;
	case VFIO_SET_IOMMU:
		k.set_type = (unsigned long)arg;
		return k.set_iommu_ret;
	case VFIO_IOMMU_GET_INFO:
		return get_info(arg);
	case VFIO_IOMMU_MAP_DMA:
		k.last_map = *(struct vfio_iommu_type1_dma_map *)arg;
		if (k.mapped)
			k.was_there = all_is_there(k.mapped);
		return k.map_ret;
	case VFIO_IOMMU_UNMAP_DMA:
		unmap->size -= k.unmap_short;
		return k.unmap_ret;
	case VFIO_GROUP_GET_DEVICE_FD:
		return k.device_ret;
	}
	return -ENOTTY;
}

static void fake_close(int fd)
{
	assert_in_range(fd, 10, 11);
	k.open_fds--;
}

static char error[512], logged[512];
static unsigned nr_logged;

static void log_line(void *ctx, const char *line)
{
	(void)ctx;
	snprintf(logged, sizeof(logged), "%s", line);
	nr_logged++;
}

static int a_kernel(void **state)
{
	(void)state;
	memset(&k, 0, sizeof(k));
	k.extension_v1 = k.extension_v2 = 1;
	k.group_flags = VFIO_GROUP_FLAGS_VIABLE;
	k.pgsizes = 0x2004000;
	k.has_ranges = true;
	k.ranges[k.nr_ranges++] = (struct iova_range){0, 0x7ffffff};
	k.ranges[k.nr_ranges++] = (struct iova_range){0x8100000, 0xffffffff};
	k.avail = 65535;
	k.release = "6.2.0";
	vfio_sys = (struct vfio_sys){fake_open, fake_ioctl, fake_close};
	error[0] = logged[0] = '\0';
	nr_logged = 0;
	return 0;
}

static int nothing_stays_open(void **state)
{
	(void)state;
	assert_int_equal(k.open_fds, 0);
	return 0;
}

static void assert_has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" does not say \"%s\"", text, part);
	if (strchr(text, '\n'))
		fail_msg("\"%s\" is more than one line", text);
}

static void refused(int ret, const char *says)
{
	struct vfio_container *c = NULL;

	assert_int_equal(vfio_container_open(5, &c, error, sizeof(error)), ret);
	assert_null(c);
	assert_has(error, says);
}

static struct shadow *shadow_of(struct instance *inst)
{
	struct shadow *shadow;

	assert_int_equal(inst->ops->shadow_create(inst, 0, &shadow), 0);
	return shadow;
}

static struct instance *open_ok(struct vfio_container **c)
{
	assert_int_equal(vfio_container_open(5, c, error, sizeof(error)), 0);
	vfio_container_set_log(*c, log_line, NULL);
	return vfio_container_instance(*c);
}

static void granule_and_apertures_are_what_the_kernel_reports(void **state)
{
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);

	(void)state;
	assert_int_equal(k.set_type, VFIO_TYPE1v2_IOMMU);
	assert_int_equal(inst->granule, 0x4000);
	assert_int_equal(inst->nr_apertures, 2);
	assert_int_equal(inst->apertures[0].start, 0);
	assert_int_equal(inst->apertures[0].last, 0x7ffffff);
	assert_int_equal(inst->apertures[1].start, 0x8100000);
	assert_int_equal(inst->apertures[1].last, 0xffffffff);
	vfio_container_close(c);
}

static void apertures_shrink_to_the_granule_and_merge(void **state)
{
	static const struct iova_range in[] = {
		{0x1000, 0x9fff},			   /* -> 0x4000..0x7fff */
		{0x10000, 0x13fff},    {0x14000, 0x1ffff}, /* touch: one */
		{0x30001, 0x33ffe},			   /* no whole page */
		{0x40000, UINT64_MAX},
	};
	struct vfio_container *c;
	struct instance *inst;

	(void)state;
	k.nr_ranges = ARRAY_SIZE(in);
	memcpy(k.ranges, in, sizeof(in));
	inst = open_ok(&c);
	assert_int_equal(inst->nr_apertures, 3);
	assert_int_equal(inst->apertures[0].start, 0x4000);
	assert_int_equal(inst->apertures[0].last, 0x7fff);
	assert_int_equal(inst->apertures[1].start, 0x10000);
	assert_int_equal(inst->apertures[1].last, 0x1ffff);
	assert_int_equal(inst->apertures[2].start, 0x40000);
	assert_true(inst->apertures[2].last == UINT64_MAX);
	vfio_container_close(c);
}

static void of_too_many_apertures_the_largest_stay(void **state)
{
	struct vfio_container *c;
	struct instance *inst;
	uint64_t total = 0;

	(void)state;
	k.nr_ranges = 40;
	for (unsigned i = 0; i < 40; i++) {
		uint64_t start = i * UINT64_C(0x10000000);

		/* every third one is large */
		k.ranges[i] =
			(struct iova_range){start, start + (i % 3 ? 0x3fff : 0xfffffff - 0x4000)};
	}
	inst = open_ok(&c);
	assert_int_equal(inst->nr_apertures, INSTANCE_MAX_APERTURES);
	for (unsigned i = 0; i < inst->nr_apertures; i++) {
		total += inst->apertures[i].last - inst->apertures[i].start + 1;
		if (i)
			assert_true(inst->apertures[i].start > inst->apertures[i - 1].last);
	}
	assert_true(total >= 14 * UINT64_C(0xfffc000));
	vfio_container_close(c);
}

static void a_kernel_that_says_little_gets_defaults(void **state)
{
	struct vfio_container *c;
	struct instance *inst;

	(void)state;
	k.pgsizes = 0;
	k.has_ranges = false;
	k.extension_v2 = 0;
	inst = open_ok(&c);
	assert_int_equal(k.set_type, VFIO_TYPE1_IOMMU);
	assert_int_equal(inst->granule, sysconf(_SC_PAGESIZE));
	assert_int_equal(inst->nr_apertures, 1);
	assert_true(inst->apertures[0].last == UINT64_MAX);
	vfio_container_close(c);
}

static void map_says_exactly_what_was_asked(void **state)
{
	static const struct {
		unsigned prot;
		uint32_t flags;
	} rows[] = {
		{PROT_DEV_READ, VFIO_DMA_MAP_FLAG_READ},
		{PROT_DEV_WRITE, VFIO_DMA_MAP_FLAG_WRITE},
		{PROT_DEV_READ | PROT_DEV_WRITE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE},
	};
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);
	struct shadow *shadow = shadow_of(inst);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(
			shadow->ops->map(shadow, 0x8000, (void *)0x100000, 0xc000, rows[i].prot),
			0);
		assert_int_equal(k.last_map.flags, rows[i].flags);
		assert_int_equal(k.last_map.iova, 0x8000);
		assert_int_equal(k.last_map.vaddr, 0x100000);
		assert_int_equal(k.last_map.size, 0xc000);
		assert_int_equal(k.last_map.argsz, sizeof(k.last_map));
	}
	vfio_container_close(c);
}

/* Else it is the kernel's page of zeroes that is pinned, for ever. */
static void what_devices_may_only_read_has_pages_of_its_own_before_it_is_pinned(void **state)
{
	static const struct {
		const char *release;
		int populate_errno;
		unsigned prot;
		bool there;
	} rows[] = {
		{"6.1.0-42-generic", 0, PROT_DEV_READ, true},
		{"5.10.4", EINVAL, PROT_DEV_READ, true},  /* it knows no MADV_POPULATE_WRITE */
		{"5.15.9", ENOMEM, PROT_DEV_READ, false}, /* which MAP_DMA is to say */
		{"6.1.0", 0, PROT_DEV_WRITE, false},
		{"6.1.0", 0, PROT_DEV_READ | PROT_DEV_WRITE, false},
		{"6.2.0", 0, PROT_DEV_READ, false}, /* the kernel does it */
		{"10.0", 0, PROT_DEV_READ, false},
	};
	size_t len = NR_THERE * (size_t)sysconf(_SC_PAGESIZE);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vfio_container *c;
		struct shadow *shadow;

		k.release = rows[i].release;
		shadow = shadow_of(open_ok(&c));
		k.populate_errno = rows[i].populate_errno;
		k.mapped =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_ptr_not_equal(k.mapped, MAP_FAILED);
		assert_false(all_is_there(k.mapped));
		assert_int_equal(shadow->ops->map(shadow, 0x8000, k.mapped, len, rows[i].prot), 0);
		if (k.was_there != rows[i].there)
			fail_msg("row %zu: %d", i, k.was_there);
		assert_int_equal(munmap(k.mapped, len), 0);
		k.mapped = NULL;
		k.populate_errno = 0;
		vfio_container_close(c);
	}
}

/* The device has gone: the guest's requests mean nothing any more, and do not fail. */
static void what_is_released_maps_nothing_and_refuses_nothing(void **state)
{
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);
	struct shadow *shadow = shadow_of(inst);

	(void)state;
	assert_int_equal(shadow->ops->map(shadow, 0, (void *)0x100000, 0x4000, PROT_DEV_READ), 0);
	vfio_container_release(c);
	assert_int_equal(k.open_fds, 1);
	k.map_ret = k.unmap_ret = -EINVAL;
	assert_int_equal(shadow->ops->map(shadow, 0x8000, (void *)0x100000, 0x4000, PROT_DEV_READ),
			 0);
	shadow->ops->unmap(shadow, 0, 0x4000);
	assert_int_equal(inst->ops->invalidate_wait(inst), 0);
	shadow->ops->destroy(shadow);
	assert_int_equal(inst->ops->disable(inst, 0), 0);
	assert_int_equal(nr_logged, 0);
	vfio_container_close(c);
	assert_int_equal(k.open_fds, 0);
}

static void every_call_is_counted_by_kind(void **state)
{
	struct vfio_counts before, after;
	struct vfio_container *c;
	struct instance *inst;
	struct shadow *shadow;

	(void)state;
	vfio_get_counts(&before);
	inst = open_ok(&c);
	vfio_get_counts(&after);
	assert_true(after.others > before.others);
	assert_int_equal(after.maps, before.maps);
	assert_int_equal(after.unmaps, before.unmaps);

	shadow = shadow_of(inst);
	vfio_get_counts(&before);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(shadow->ops->map(shadow, 0x8000 + i * 0x4000, (void *)0x100000,
						  0x4000, PROT_DEV_READ),
				 0);
	shadow->ops->unmap(shadow, 0x8000, 0x4000);
	shadow->ops->unmap(shadow, 0xc000, 0x4000);
	vfio_get_counts(&after);
	assert_int_equal(after.maps - before.maps, 3);
	assert_int_equal(after.unmaps - before.unmaps, 2);
	assert_int_equal(after.others, before.others);

	/* What the kernel refuses was asked for all the same. */
	k.map_ret = -ENOSPC;
	assert_int_equal(shadow->ops->map(shadow, 0x8000, (void *)0x100000, 0x4000, PROT_DEV_READ),
			 -ENOSPC);
	vfio_get_counts(&after);
	assert_int_equal(after.maps - before.maps, 4);
	vfio_container_close(c);
}

static void a_refused_map_is_reported_once_per_cause(void **state)
{
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);
	struct shadow *shadow = shadow_of(inst);

	(void)state;
	k.map_ret = -ENOSPC;
	for (int i = 0; i < 3; i++)
		assert_int_equal(shadow->ops->map(shadow, 0, (void *)0x4000, 0x4000, PROT_DEV_READ),
				 -ENOSPC);
	assert_int_equal(nr_logged, 1);
	assert_has(logged, "dma_entry_limit");
	k.map_ret = -ENOMEM;
	for (int i = 0; i < 3; i++)
		assert_int_equal(shadow->ops->map(shadow, 0, (void *)0x4000, 0x4000, PROT_DEV_READ),
				 -ENOMEM);
	assert_int_equal(nr_logged, 2);
	assert_int_equal(inst->ops->invalidate_wait(inst), 0);
	vfio_container_close(c);
}

static void an_unmap_that_fails_makes_every_later_sync_fail(void **state)
{
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);
	struct shadow *shadow = shadow_of(inst);

	(void)state;
	shadow->ops->unmap(shadow, 0x4000, 0x4000);
	assert_int_equal(inst->ops->invalidate_wait(inst), 0);
	k.unmap_ret = -EINVAL;
	shadow->ops->unmap(shadow, 0x4000, 0x4000);
	k.unmap_ret = 0;
	shadow->ops->unmap(shadow, 0x8000, 0x4000);
	assert_int_equal(inst->ops->invalidate_wait(inst), -EIO);
	assert_int_equal(nr_logged, 1);
	vfio_container_close(c);
}

static void an_unmap_of_another_size_makes_every_later_sync_fail(void **state)
{
	struct vfio_container *c;
	struct instance *inst = open_ok(&c);
	struct shadow *shadow = shadow_of(inst);

	(void)state;
	k.unmap_short = 0x4000;
	shadow->ops->unmap(shadow, 0x4000, 0x8000);
	assert_int_equal(inst->ops->invalidate_wait(inst), -EIO);
	assert_int_equal(nr_logged, 1);
	vfio_container_close(c);
}

static void what_cannot_be_opened_says_why_and_what_to_do(void **state)
{
	(void)state;
	k.open_ret[0] = -ENOENT;
	refused(-ENOENT, "modprobe vfio-pci");
	k.open_ret[0] = -EACCES;
	refused(-EACCES, "no permission to open /dev/vfio/vfio");
	k.open_ret[0] = 0;
	k.open_ret[1] = -ENOENT;
	refused(-ENOENT,
		"/dev/vfio/5 does not exist: no device of IOMMU group 5 is bound to vfio-pci");
	k.open_ret[1] = -EBUSY;
	refused(-EBUSY, "/dev/vfio/5 is in use");
	k.open_ret[1] = -EACCES;
	refused(-EACCES, "no permission to open /dev/vfio/5");
	k.open_ret[1] = 0;
	k.extension_v1 = k.extension_v2 = 0;
	refused(-EOPNOTSUPP, "modprobe vfio_iommu_type1");
	k.extension_v2 = 1;
	k.set_iommu_ret = -EPERM;
	refused(-EPERM, "allow_unsafe_interrupts");
	k.set_iommu_ret = -EBUSY;
	refused(-EBUSY, "VFIO_SET_IOMMU failed");
	k.set_iommu_ret = 0;
	k.nr_ranges = 0;
	refused(-ENOSPC, "no usable address");
}

/* Taken over in every case; what is not given is opened. */
static void descriptors_that_are_handed_in_are_used(void **state)
{
	static const struct {
		int group, container;
		unsigned opened;
	} rows[] = {{11, 10, 0}, {11, 0, 1}, {0, 10, 1}, {0, 0, 2}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vfio_container *c;

		k.nr_opened = 0;
		k.open_fds = !!rows[i].group + !!rows[i].container;
		assert_int_equal(vfio_container_take(5, rows[i].group, rows[i].container, &c, error,
						     sizeof(error)),
				 0);
		assert_int_equal(k.nr_opened, rows[i].opened);
		assert_int_equal(vfio_container_group_fd(c), 11);
		vfio_container_close(c);
		assert_int_equal(k.open_fds, 0);
	}
}

static void wrong_descriptors_are_told_and_closed(void **state)
{
	static const struct {
		int version_ret, status_ret, open_ret, ret;
		const char *says;
	} rows[] = {
		{-ENOTTY, 0, 0, -EPROTO, "container=10: this descriptor is not /dev/vfio/vfio"},
		{0, -ENOTTY, 0, -ENOTTY, "fd=11: this descriptor is not /dev/vfio/5"},
		{0, -EIO, 0, -EIO, "fd=11: VFIO_GROUP_GET_STATUS failed"},
	};
	struct vfio_container *c = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		k.version_ret = rows[i].version_ret;
		k.status_ret = rows[i].status_ret;
		k.open_fds = 2;
		assert_int_equal(vfio_container_take(5, 11, 10, &c, error, sizeof(error)),
				 rows[i].ret);
		assert_has(error, rows[i].says);
		assert_int_equal(k.open_fds, 0);
	}
	/* the container cannot be opened: the group is not kept either */
	k.version_ret = k.status_ret = 0;
	k.open_ret[0] = -ENOENT;
	k.open_fds = 1;
	assert_int_equal(vfio_container_take(5, 11, 0, &c, error, sizeof(error)), -ENOENT);
	assert_int_equal(k.open_fds, 0);
	assert_null(c);
}

static void a_group_that_is_not_viable_names_the_devices_in_the_way(void **state)
{
	static const char *const make =
		"cd %s && mkdir -p bus/pci/drivers/nvme bus/pci/drivers/vfio-pci "
		"bus/pci/drivers/pcieport kernel/iommu_groups/5/devices && "
		"for d in 1.0:vfio-pci 2.0:nvme 3.0:pcieport 4.0:; do "
		"mkdir -p dev/0000:00:0${d%%:*} && "
		"ln -s ../../../../dev/0000:00:0${d%%:*} kernel/iommu_groups/5/devices/ && "
		"{ [ -z ${d#*:} ] || ln -s ../../bus/pci/drivers/${d#*:} "
		"dev/0000:00:0${d%%:*}/driver; }; done";
	char dir[] = "/tmp/test_vfio.XXXXXX", cmd[1024];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(cmd, sizeof(cmd), make, dir);
	assert_int_equal(system(cmd), 0);
	sysfs_root = dir;
	k.group_flags = 0;
	refused(-EPERM,
		"group 5 is not viable: it also holds 0000:00:02.0 (nvme), driven by the host");
	sysfs_root = "/sys";
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

static void a_device_that_is_in_use_says_so(void **state)
{
	struct vfio_container *c;

	(void)state;
	open_ok(&c);
	k.device_ret = 42;
	assert_int_equal(vfio_container_device(c, "0000:01:00.0", error, sizeof(error)), 42);
	k.device_ret = -EBUSY;
	assert_int_equal(vfio_container_device(c, "0000:01:00.0", error, sizeof(error)), -EBUSY);
	assert_has(error, "0000:01:00.0 is in use");
	assert_int_equal(vfio_container_group_fd(c), 11);
	vfio_container_close(c);
}

/* may_lock - take CAP_IPC_LOCK (root has it) out of the effective set, or put it back */
static void may_lock(bool yes)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	assert_int_equal(syscall(SYS_capget, &hdr, data), 0);
	if (yes)
		data[0].effective |= data[0].permitted & CAP_TO_MASK(CAP_IPC_LOCK);
	else
		data[0].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	assert_int_equal(syscall(SYS_capset, &hdr, data), 0);
}

static void a_low_memlock_limit_is_told_with_both_numbers(void **state)
{
	struct rlimit old, low;
	int ret;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &old), 0);
	low = (struct rlimit){1 << 20, old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &low), 0);
	may_lock(false);
	ret = vfio_memlock_check(UINT64_C(64) << 20, error, sizeof(error));
	assert_int_equal(vfio_memlock_check(1 << 20, error, 0), 0);
	may_lock(true);
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &old), 0);
	assert_int_equal(ret, -ENOMEM);
	assert_has(error, "limit is 1 MiB");
	assert_has(error, "64 MiB");
	assert_has(error, "ulimit -l 65536");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, a_kernel, nothing_stays_open)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(granule_and_apertures_are_what_the_kernel_reports),
		TEST(apertures_shrink_to_the_granule_and_merge),
		TEST(of_too_many_apertures_the_largest_stay),
		TEST(a_kernel_that_says_little_gets_defaults),
		TEST(map_says_exactly_what_was_asked),
		TEST(what_devices_may_only_read_has_pages_of_its_own_before_it_is_pinned),
		TEST(what_is_released_maps_nothing_and_refuses_nothing),
		TEST(every_call_is_counted_by_kind),
		TEST(a_refused_map_is_reported_once_per_cause),
		TEST(an_unmap_that_fails_makes_every_later_sync_fail),
		TEST(an_unmap_of_another_size_makes_every_later_sync_fail),
		TEST(what_cannot_be_opened_says_why_and_what_to_do),
		TEST(descriptors_that_are_handed_in_are_used),
		TEST(wrong_descriptors_are_told_and_closed),
		TEST(a_group_that_is_not_viable_names_the_devices_in_the_way),
		TEST(a_device_that_is_in_use_says_so),
		TEST(a_low_memlock_limit_is_told_with_both_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
