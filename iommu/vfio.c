/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio_sys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14, asm-generic/mman-common.h */
#endif

/* Why the kernel refused; each is reported once, for the guest decides how often it happens. */
enum refusal {
	REFUSED_MEMLOCK,
	REFUSED_ENTRIES,
	REFUSED_MAP,
	REFUSED_UNMAP,
	NR_REFUSALS,
};

/* A container is one instance with one stream, and its shadow is the kernel's: it cannot be walked
 * by another, nor can what it maps be replaced. */
struct vfio_container {
	struct instance instance;
	struct shadow shadow;
	bool in_use; /* the shadow */
	bool mapped; /* something may be */
	unsigned group;
	int fd, group_fd;
	uint32_t dma_avail; /* mappings the kernel takes; 0: it does not say */
	uint64_t memlock;   /* bytes; UINT64_MAX: no limit; a thread that is confined cannot ask */
	atomic_bool released; /* there is no device any more */
	bool pins_zeroes;     /* see populate() */
	bool broken;	      /* an unmap failed: nothing unmapped may be reused any more */
	bool reported[NR_REFUSALS];
	void (*log)(void *ctx, const char *line);
	void *log_ctx;
	char name[32];
};

static int sys_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int sys_ioctl(int fd, unsigned long req, void *arg)
{
	int ret = ioctl(fd, req, arg);

	return ret < 0 ? -errno : ret;
}

static void sys_close(int fd)
{
	close(fd);
}

struct vfio_sys vfio_sys = {sys_open, sys_ioctl, sys_close};

/* ---- what is counted ------------------------------------------------------------------------ */

static struct vfio_counts counts; /* of all containers and devices; relaxed atomics */

int vfio_ioctl(int fd, unsigned long req, void *arg)
{
	uint64_t *count = req == VFIO_IOMMU_MAP_DMA	? &counts.maps
			  : req == VFIO_IOMMU_UNMAP_DMA ? &counts.unmaps
							: &counts.others;

	__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
	return vfio_sys.ioctl(fd, req, arg);
}

void vfio_get_counts(struct vfio_counts *out)
{
	out->maps = __atomic_load_n(&counts.maps, __ATOMIC_RELAXED);
	out->unmaps = __atomic_load_n(&counts.unmaps, __ATOMIC_RELAXED);
	out->others = __atomic_load_n(&counts.others, __ATOMIC_RELAXED);
}

/* fail - fill the caller's error line. Return: @ret. */
__attribute__((format(printf, 4, 5))) static int fail(int ret, char *error, size_t error_len,
						      const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, error_len, fmt, ap);
	va_end(ap);
	return ret;
}

/* ---- what the mediator calls ---------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static void report(struct vfio_container *c,
							 enum refusal cause, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (c->reported[cause] || !c->log)
		return;
	c->reported[cause] = true;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->log(c->log_ctx, line);
}

static bool may_lock_without_limit(void)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	if (syscall(SYS_capget, &hdr, data))
		return false;
	return data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

static uint64_t memlock_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_MEMLOCK, &lim))
		return 0;
	return lim.rlim_cur == RLIM_INFINITY ? UINT64_MAX : lim.rlim_cur;
}

void vfio_memlock_raise(void)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	/* Beyond the hard limit only with CAP_SYS_RESOURCE. */
	if (!setrlimit(RLIMIT_MEMLOCK, &limit) || getrlimit(RLIMIT_MEMLOCK, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_MEMLOCK, &limit);
}

int vfio_memlock_check(uint64_t need, char *error, size_t error_len)
{
	uint64_t limit = memlock_limit();

	/* type1 holds nobody with CAP_IPC_LOCK to the limit: vfio_iommu_type1.c, vfio_lock_acct().
	 */
	if (limit >= need || may_lock_without_limit())
		return 0;
	return fail(-ENOMEM, error, error_len,
		    "the locked-memory limit is %" PRIu64 " MiB and devices may need %" PRIu64
		    " MiB pinned; raise it (ulimit -l %" PRIu64 ") or give granule CAP_IPC_LOCK",
		    limit >> 20, (need + BIT(20) - 1) >> 20, (need + 1023) >> 10);
}

/*
 * Before Linux 6.2 ("mm/gup: reliable R/O long-term pinning in COW mappings") what is pinned for
 * reading alone, and was never written, is the kernel's one page of zeroes: the process gets
 * another with its first write, the device does not.
 */
static bool pins_zeroes(void)
{
	unsigned major, minor;
	struct utsname un;

	return !uname(&un) && sscanf(un.release, "%u.%u", &major, &minor) == 2 &&
	       (major < 6 || (major == 6 && minor < 2));
}

/* Pages of its own for all of it. A failure is MAP_DMA's to tell. */
static void populate(uint8_t *hva, uint64_t len)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (!madvise(hva, len, MADV_POPULATE_WRITE) || errno != EINVAL)
		return;
	/* Linux before 5.14. A byte that somebody else changes meanwhile is written as well. */
	for (uint64_t at = 0; at < len; at += page) {
		uint8_t byte = __atomic_load_n(hva + at, __ATOMIC_RELAXED);

		(void)__atomic_compare_exchange_n(hva + at, &byte, byte, false, __ATOMIC_RELAXED,
						  __ATOMIC_RELAXED);
	}
}

static int container_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len,
			 unsigned prot)
{
	struct vfio_container *c = container_of(shadow, struct vfio_container, shadow);
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = (prot & PROT_DEV_READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
			 (prot & PROT_DEV_WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
		.vaddr = (uintptr_t)hva,
		.iova = iova,
		.size = len,
	};
	int ret;

	if (c->pins_zeroes && !(prot & PROT_DEV_WRITE))
		populate(hva, len);
	ret = vfio_ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &map);
	if (ret >= 0) {
		c->mapped = true;
		return 0;
	}
	/* Nothing can reach what is mapped now. */
	if (c->released)
		return 0;
	switch (ret) {
	case -ENOMEM:
		if (c->memlock != UINT64_MAX)
			report(c, REFUSED_MEMLOCK,
			       "%s: the host would not pin memory for the device: out of memory, "
			       "or past "
			       "the locked-memory limit of %" PRIu64
			       " KiB; raise it (ulimit -l unlimited) or give granule CAP_IPC_LOCK",
			       c->name, c->memlock >> 10);
		else
			report(c, REFUSED_MEMLOCK,
			       "%s: the host is out of memory to pin for the device; give the "
			       "guest less",
			       c->name);
		break;
	case -ENOSPC:
		report(c, REFUSED_ENTRIES,
		       "%s: the host's limit of mappings (%u were free at the start) is reached; "
		       "raise "
		       "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
		       c->name, c->dma_avail);
		break;
	default:
		report(c, REFUSED_MAP,
		       "%s: the host refused to map %#" PRIx64 " bytes at iova %#" PRIx64 ": %s",
		       c->name, len, iova, strerror(-ret));
	}
	return ret;
}

static void container_unmap(struct shadow *shadow, uint64_t iova, uint64_t len)
{
	struct vfio_container *c = container_of(shadow, struct vfio_container, shadow);
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = iova, .size = len};
	int ret = vfio_ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);

	if ((ret >= 0 && unmap.size == len) || c->released)
		return;
	c->broken = true;
	report(c, REFUSED_UNMAP,
	       "%s: the host unmapped %#" PRIx64 " of %#" PRIx64 " bytes at iova %#" PRIx64
	       " (%s); memory the device may still reach is not used again",
	       c->name, ret < 0 ? 0 : (uint64_t)unmap.size, len, iova,
	       ret < 0 ? strerror(-ret) : "short");
}

/* Everything in [start, last]; the kernel takes any range that cuts no mapping. */
static void unmap_range(struct vfio_container *c, uint64_t start, uint64_t last)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = start, .size = last - start + 1};
	int ret;

	if (!unmap.size) {
		/* All of 2^64 has no length. */
		unmap_range(c, 0, INT64_MAX);
		unmap_range(c, BIT(63), UINT64_MAX);
		return;
	}
	ret = vfio_ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
	if (ret >= 0 || c->released)
		return;
	c->broken = true;
	report(c, REFUSED_UNMAP,
	       "%s: the host would not unmap iova %#" PRIx64 "-%#" PRIx64
	       ": %s; memory the device may still reach is not used again",
	       c->name, start, last, strerror(-ret));
}

static void unmap_all(struct vfio_container *c)
{
	for (unsigned i = 0; i < c->instance.nr_apertures && c->mapped; i++)
		unmap_range(c, c->instance.apertures[i].start, c->instance.apertures[i].last);
	c->mapped = false;
}

static void container_destroy(struct shadow *shadow)
{
	struct vfio_container *c = container_of(shadow, struct vfio_container, shadow);

	unmap_all(c);
	c->in_use = false;
}

static const struct shadow_ops container_shadow_ops = {
	.map = container_map,
	.unmap = container_unmap,
	.destroy = container_destroy,
};

static int container_shadow(struct instance *inst, uint32_t sid, struct shadow **out)
{
	struct vfio_container *c = container_of(inst, struct vfio_container, instance);

	(void)sid;
	if (c->in_use)
		return -EBUSY;
	c->in_use = true;
	c->shadow = (struct shadow){.ops = &container_shadow_ops, .granule = inst->granule};
	*out = &c->shadow;
	return 0;
}

static bool container_shadow_fits(const struct instance *inst, uint32_t sid,
				  const struct shadow *shadow)
{
	(void)sid;
	return shadow == &container_of(inst, const struct vfio_container, instance)->shadow;
}

/* The devices of a container reach what is mapped as soon as it is. */
static int container_enable(struct instance *inst, uint32_t sid, struct shadow *shadow)
{
	(void)inst;
	(void)sid;
	(void)shadow;
	return 0;
}

static int container_disable(struct instance *inst, uint32_t sid)
{
	struct vfio_container *c = container_of(inst, struct vfio_container, instance);

	(void)sid;
	unmap_all(c);
	return c->broken ? -EIO : 0;
}

static void container_invalidate_start(struct instance *inst, const struct stream_set *streams)
{
	(void)inst;
	(void)streams;
}

static int container_invalidate_wait(struct instance *inst)
{
	/* type1 has invalidated the IOTLB when UNMAP_DMA returns: vfio_unmap_unpin(). */
	return container_of(inst, struct vfio_container, instance)->broken ? -EIO : 0;
}

static const struct instance_ops container_ops = {
	.shadow_create = container_shadow,
	.shadow_fits = container_shadow_fits,
	.enable = container_enable,
	.disable = container_disable,
	.invalidate_start = container_invalidate_start,
	.invalidate_wait = container_invalidate_wait,
};

int vfio_container_map(struct vfio_container *c, uint64_t iova, void *hva, uint64_t len)
{
	return container_map(&c->shadow, iova, hva, len, PROT_DEV_READ | PROT_DEV_WRITE);
}

/* ---- what the kernel says about the container ------------------------------------------------ */

/* add_aperture - ascending and disjoint; ranges that touch become one; too many: the smallest goes
 */
static void add_aperture(struct instance *inst, uint64_t start, uint64_t last)
{
	struct iova_range *a = inst->apertures;
	unsigned n = inst->nr_apertures, small = 0;
	uint64_t mask = inst->granule - 1;

	if (start & mask) {
		if ((start | mask) == UINT64_MAX)
			return;
		start = (start | mask) + 1;
	}
	if ((last & mask) != mask) {
		if (last < mask)
			return;
		last = (last & ~mask) - 1;
	}
	if (start > last)
		return;
	if (n && (a[n - 1].last == UINT64_MAX || start <= a[n - 1].last + 1)) {
		/* The kernel lists them in order; a liar can only make them fewer. */
		if (start >= a[n - 1].start)
			a[n - 1].last = MAX(a[n - 1].last, last);
		return;
	}
	if (n == INSTANCE_MAX_APERTURES) {
		for (unsigned i = 1; i < n; i++)
			if (a[i].last - a[i].start < a[small].last - a[small].start)
				small = i;
		if (last - start <= a[small].last - a[small].start)
			return;
		memmove(&a[small], &a[small + 1], (n - small - 1) * sizeof(*a));
		n--;
	}
	a[n++] = (struct iova_range){start, last};
	inst->nr_apertures = n;
}

/* find_cap - a capability in the chain behind GET_INFO, at least @min bytes long. Return: NULL. */
static const void *find_cap(const struct vfio_iommu_type1_info *info, uint32_t size, unsigned id,
			    size_t min, uint32_t *left)
{
	uint32_t off;

	if (!(info->flags & VFIO_IOMMU_INFO_CAPS))
		return NULL;
	/* Bounded: the chain only moves forward. */
	for (off = info->cap_offset; off && off <= size - sizeof(struct vfio_info_cap_header);) {
		const struct vfio_info_cap_header *hdr = (const void *)((const char *)info + off);

		if (hdr->id == id && size - off >= min) {
			*left = size - off;
			return hdr;
		}
		if (hdr->next <= off)
			return NULL;
		off = hdr->next;
	}
	return NULL;
}

static int read_info(struct vfio_container *c, char *error, size_t error_len)
{
	const struct vfio_iommu_type1_info_cap_iova_range *ranges;
	const struct vfio_iommu_type1_info_dma_avail *avail;
	struct vfio_iommu_type1_info *info, *bigger;
	uint32_t size = sizeof(*info), left;
	uint64_t pgsizes = 0;
	int ret;

	info = calloc(1, size);
	if (!info)
		return fail(-ENOMEM, error, error_len, "%s: out of memory", c->name);
	for (;;) {
		info->argsz = size;
		ret = vfio_ioctl(c->fd, VFIO_IOMMU_GET_INFO, info);
		if (ret < 0) {
			fail(ret, error, error_len, "%s: VFIO_IOMMU_GET_INFO failed: %s", c->name,
			     strerror(-ret));
			goto out;
		}
		if (info->argsz <= size)
			break;
		size = info->argsz;
		bigger = realloc(info, size);
		if (!bigger) {
			ret = fail(-ENOMEM, error, error_len, "%s: out of memory", c->name);
			goto out;
		}
		info = bigger;
		memset(info, 0, size);
	}

	if (info->flags & VFIO_IOMMU_INFO_PGSIZES)
		pgsizes = info->iova_pgsizes;
	c->instance.granule = pgsizes ? pgsizes & -pgsizes : (uint64_t)sysconf(_SC_PAGESIZE);

	ranges = find_cap(info, size, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, sizeof(*ranges), &left);
	if (ranges) {
		uint32_t fit = (left - sizeof(*ranges)) / sizeof(ranges->iova_ranges[0]);

		for (uint32_t i = 0; i < MIN(ranges->nr_iovas, fit); i++)
			add_aperture(&c->instance, ranges->iova_ranges[i].start,
				     ranges->iova_ranges[i].end);
	} else {
		/* Kernels before 5.4 do not say; a map outside is then refused when it comes. */
		add_aperture(&c->instance, 0, UINT64_MAX);
	}
	avail = find_cap(info, size, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, sizeof(*avail), &left);
	if (avail)
		c->dma_avail = avail->avail;
	ret = c->instance.nr_apertures
		      ? 0
		      : fail(-ENOSPC, error, error_len,
			     "%s: the host's IOMMU has no usable address at all", c->name);
out:
	free(info);
	return ret;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int open_failed(const char *path, int ret, unsigned group, char *error, size_t error_len)
{
	switch (ret) {
	case -ENOENT:
		return fail(ret, error, error_len,
			    "%s does not exist: no device of IOMMU group %u is bound to vfio-pci; "
			    "bind each "
			    "(modprobe vfio-pci; driverctl set-override BDF vfio-pci), see "
			    "`granule devices`",
			    path, group);
	case -EBUSY:
		return fail(ret, error, error_len,
			    "%s is in use: another process has a device of IOMMU group %u; end it "
			    "first "
			    "(fuser -v %s names it)",
			    path, group, path);
	case -EACCES:
	case -EPERM:
		return fail(ret, error, error_len,
			    "no permission to open %s; run as root, or give yourself the file "
			    "(chown USER %s)",
			    path, path);
	default:
		return fail(ret, error, error_len, "%s cannot be opened: %s", path, strerror(-ret));
	}
}

/* The kernel lets a group be used only if nobody else drives a device in it: vfio_main.c. PCIe port
 * drivers do no DMA of their own and do not count. */
static int not_viable(unsigned group, char *error, size_t error_len)
{
	struct dirent **list;
	char others[256] = "", driver[64];
	size_t used = 0;
	int nr;

	nr = sysfs_list(&list, "kernel/iommu_groups/%u/devices", group);
	for (int i = 0; i < nr && used < sizeof(others); i++) {
		if (sysfs_link(driver, sizeof(driver), "kernel/iommu_groups/%u/devices/%s/driver",
			       group, list[i]->d_name) ||
		    strstr(driver, "vfio") || !strcmp(driver, "pci-stub") ||
		    !strcmp(driver, "pcieport"))
			continue;
		used += (size_t)snprintf(others + used, sizeof(others) - used, "%s%s (%s)",
					 used ? ", " : "", list[i]->d_name, driver);
	}
	sysfs_list_free(list, nr);
	return fail(-EPERM, error, error_len,
		    "IOMMU group %u is not viable: it also holds %s, driven by the host; bind "
		    "every device of "
		    "the group to vfio-pci (driverctl set-override BDF vfio-pci), or unbind it",
		    group, used ? others : "a device");
}

static int set_iommu(struct vfio_container *c, char *error, size_t error_len)
{
	unsigned long type = VFIO_TYPE1v2_IOMMU;
	char param[8] = "";
	int ret;

	/* Version 1 may unmap more than it was asked; v2 is exact (and there since Linux 3.12). */
	if (vfio_ioctl(c->fd, VFIO_CHECK_EXTENSION, (void *)type) <= 0) {
		type = VFIO_TYPE1_IOMMU;
		if (vfio_ioctl(c->fd, VFIO_CHECK_EXTENSION, (void *)type) <= 0)
			return fail(-EOPNOTSUPP, error, error_len,
				    "the host kernel offers no type1 VFIO IOMMU; load it: "
				    "modprobe vfio_iommu_type1");
	}
	ret = vfio_ioctl(c->fd, VFIO_SET_IOMMU, (void *)type);
	if (ret >= 0)
		return 0;
	sysfs_read(param, sizeof(param),
		   "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
	if (ret == -EPERM && param[0] != 'Y' && param[0] != '1')
		return fail(ret, error, error_len,
			    "IOMMU group %u: this host cannot keep a device from forging "
			    "interrupts of others; if "
			    "you trust the guest with that: echo Y > "
			    "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
			    c->group);
	return fail(ret, error, error_len, "IOMMU group %u: VFIO_SET_IOMMU failed: %s", c->group,
		    strerror(-ret));
}

/* The container's descriptor, opened if none is given. Return: >= 0; -errno with @error filled. */
static int open_container(unsigned group, int given, char *error, size_t error_len)
{
	int fd = given ? given : vfio_sys.open("/dev/vfio/vfio"), ret;

	if (fd == -ENOENT || fd == -ENODEV)
		return fail(fd, error, error_len,
			    "/dev/vfio/vfio does not exist; load VFIO: modprobe vfio-pci");
	if (fd < 0)
		return open_failed("/dev/vfio/vfio", fd, group, error, error_len);
	ret = vfio_ioctl(fd, VFIO_GET_API_VERSION, NULL);
	if (ret == VFIO_API_VERSION)
		return fd;
	vfio_sys.close(fd);
	if (given && ret < 0)
		return fail(-EPROTO, error, error_len,
			    "container=%d: this descriptor is not /dev/vfio/vfio", given);
	return fail(-EPROTO, error, error_len, "/dev/vfio/vfio speaks API version %d, wanted %d",
		    ret, VFIO_API_VERSION);
}

int vfio_container_open(unsigned group, struct vfio_container **out, char *error, size_t error_len)
{
	return vfio_container_take(group, 0, 0, out, error, error_len);
}

int vfio_container_take(unsigned group, int group_fd, int container_fd, struct vfio_container **out,
			char *error, size_t error_len)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	struct vfio_container *c;
	char path[32];
	int ret;

	c = calloc(1, sizeof(*c));
	if (!c)
		return fail(-ENOMEM, error, error_len, "out of memory");
	c->group = group;
	c->memlock = memlock_limit();
	c->pins_zeroes = pins_zeroes();
	snprintf(c->name, sizeof(c->name), "IOMMU group %u", group);
	c->instance.ops = &container_ops;
	c->instance.name = c->name;
	c->instance.kind = "VFIO";
	c->instance.nr_streams = 1;
	c->instance.exclusive = true;

	c->fd = ret = open_container(group, container_fd, error, error_len);
	if (ret < 0)
		goto err_free;
	if (group_fd)
		snprintf(path, sizeof(path), "fd=%d", group_fd);
	else
		snprintf(path, sizeof(path), "/dev/vfio/%u", group);
	c->group_fd = group_fd ? group_fd : vfio_sys.open(path);
	if (c->group_fd < 0) {
		ret = open_failed(path, c->group_fd, group, error, error_len);
		goto err_container;
	}
	group_fd = 0;
	ret = vfio_ioctl(c->group_fd, VFIO_GROUP_GET_STATUS, &status);
	if (ret == -ENOTTY) {
		fail(ret, error, error_len, "%s: this descriptor is not /dev/vfio/%u", path, group);
		goto err_group;
	}
	if (ret < 0) {
		fail(ret, error, error_len, "%s: VFIO_GROUP_GET_STATUS failed: %s", path,
		     strerror(-ret));
		goto err_group;
	}
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
		ret = not_viable(group, error, error_len);
		goto err_group;
	}
	ret = vfio_ioctl(c->group_fd, VFIO_GROUP_SET_CONTAINER, &c->fd);
	if (ret < 0) {
		fail(ret, error, error_len, "IOMMU group %u: VFIO_GROUP_SET_CONTAINER failed: %s",
		     group, strerror(-ret));
		goto err_group;
	}
	ret = set_iommu(c, error, error_len);
	if (ret)
		goto err_group;
	ret = read_info(c, error, error_len);
	if (ret)
		goto err_group;
	*out = c;
	return 0;

err_group:
	/* Closing a group takes it out of its container. */
	vfio_sys.close(c->group_fd);
err_container:
	vfio_sys.close(c->fd);
err_free:
	if (group_fd)
		vfio_sys.close(group_fd);
	free(c);
	return ret;
}

void vfio_container_release(struct vfio_container *c)
{
	/* First, for the container then refuses what is mapped. Closing a group takes it out. */
	c->released = true;
	vfio_sys.close(c->group_fd);
	c->group_fd = -1;
}

void vfio_container_close(struct vfio_container *c)
{
	if (!c)
		return;
	if (c->group_fd >= 0)
		vfio_sys.close(c->group_fd);
	vfio_sys.close(c->fd);
	free(c);
}

struct instance *vfio_container_instance(struct vfio_container *c)
{
	return &c->instance;
}

void vfio_container_set_log(struct vfio_container *c, void (*log)(void *ctx, const char *line),
			    void *ctx)
{
	c->log = log;
	c->log_ctx = ctx;
}

int vfio_container_group_fd(const struct vfio_container *c)
{
	return c->group_fd;
}

int vfio_container_device(struct vfio_container *c, const char *bdf, char *error, size_t error_len)
{
	int ret = vfio_ioctl(c->group_fd, VFIO_GROUP_GET_DEVICE_FD, (void *)bdf);

	if (ret >= 0)
		return ret;
	if (ret == -EBUSY)
		return fail(ret, error, error_len, "%s is in use by another process; end it first",
			    bdf);
	if (ret == -ENODEV)
		return fail(
			ret, error, error_len,
			"%s is not in the IOMMU group that was opened as its group %u: give its "
			"own",
			bdf, c->group);
	return fail(ret, error, error_len,
		    "%s: VFIO would not open it: %s; the host's dmesg says why", bdf,
		    strerror(-ret));
}
