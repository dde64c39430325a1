/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check - `granule check`: can a guest with a passed-through device run on this host? One line per
 * thing that it takes, with the fix below the line where something is in the way.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio.h"
#include "virtio/uring.h"
#include "vmm/cli.h"
#include "vmm/layout.h"

/* A small guest with its bounce pages; what one really needs is checked when it starts. */
#define MEMLOCK_NEED (UINT64_C(1) << 30)
#define NOFILE_NEED  1024u

/* What the checks so far have found. */
struct check {
	bool failed;
	int kvm_fd, vm_fd; /* -1: not there, and what needs it is not checked */
	unsigned nr_groups;
	unsigned nr_usable; /* devices that VFIO would hand out now */
};

__attribute__((format(printf, 1, 2))) static void ok(const char *fmt, ...)
{
	va_list ap;

	fputs("ok    ", stdout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* A thing that may be in the way. */
__attribute__((format(printf, 2, 3))) static void warn(const char *fix, const char *fmt, ...)
{
	va_list ap;

	fputs("warn  ", stdout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n      %s\n", fix);
}

/* A thing that is in the way. @fix: NULL if the line says it. */
__attribute__((format(printf, 3, 4))) static void bad(struct check *c, const char *fix,
						      const char *fmt, ...)
{
	va_list ap;

	c->failed = true;
	fputs("FAIL  ", stdout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	if (fix)
		printf("\n      %s", fix);
	putchar('\n');
}

/* ---- the machine and its KVM ---------------------------------------------------------------- */

static void check_machine(struct check *c)
{
	long page = sysconf(_SC_PAGESIZE);
	struct utsname un;

	uname(&un);
	if (!strcmp(un.machine, "aarch64"))
		ok("architecture: %s, Linux %s", un.machine, un.release);
	else
		bad(c, "run it on a 64-bit arm host", "architecture: %s", un.machine);
	ok("host page: %ld KiB", page >> 10);
}

static void check_kvm(struct check *c)
{
	int version;

	c->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (c->kvm_fd < 0) {
		if (errno == EACCES || errno == EPERM)
			bad(c, "run as root, or join its group: usermod -aG kvm USER",
			    "/dev/kvm: no permission");
		else
			bad(c, "the kernel needs CONFIG_KVM and must have been booted at EL2",
			    "/dev/kvm: %s", strerror(errno));
		return;
	}
	version = ioctl(c->kvm_fd, KVM_GET_API_VERSION, 0);
	if (version == KVM_API_VERSION)
		ok("/dev/kvm: API version %d", version);
	else
		bad(c, "this kernel is too old or too new", "/dev/kvm: API version %d, not %d",
		    version, KVM_API_VERSION);
}

static void check_vm(struct check *c)
{
	int bits = ioctl(c->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);

	/* KVM before 4.20 does not say and has 40. */
	if (bits > 0 && bits < LAYOUT_IPA_BITS) {
		bad(c, "none: it is a property of the CPU and of the host's page size",
		    "guest-physical space: %d bits, %d are needed", bits, LAYOUT_IPA_BITS);
		return;
	}
	ok("guest-physical space: %d bits", bits > 0 ? bits : 40);
	c->vm_fd = ioctl(c->kvm_fd, KVM_CREATE_VM,
			 bits > 0 ? KVM_VM_TYPE_ARM_IPA_SIZE(LAYOUT_IPA_BITS) : 0ul);
	if (c->vm_fd < 0)
		bad(c, "the kernel's log may say why", "virtual machine: cannot be created: %s",
		    strerror(errno));
}

static void check_device(struct check *c, uint32_t type, const char *name, const char *fix)
{
	struct kvm_create_device dev = {.type = type, .flags = KVM_CREATE_DEVICE_TEST};

	if (ioctl(c->vm_fd, KVM_CREATE_DEVICE, &dev))
		bad(c, fix, "%s: KVM has none: %s", name, strerror(errno));
	else
		ok("%s", name);
}

static void check_io_uring(struct check *c)
{
	struct io_uring ring;
	int ret = io_uring_queue_init(4, &ring, 0);

	if (!ret) {
		io_uring_queue_exit(&ring);
		ok("io_uring");
	} else if (ret == -EPERM) {
		bad(c, "sysctl kernel.io_uring_disabled=0, or run as root",
		    "io_uring: not permitted");
	} else {
		bad(c,
		    ret == -ENOMEM ? "raise the locked-memory limit: ulimit -l unlimited"
				   : "the kernel needs CONFIG_IO_URING",
		    "io_uring: %s", strerror(-ret));
	}
}

static void check_limits(struct check *c)
{
	struct rlimit lim;
	char error[512];

	if (vfio_memlock_check(MEMLOCK_NEED, error, sizeof(error))) {
		bad(c, NULL, "locked memory: %s", error);
	} else {
		getrlimit(RLIMIT_MEMLOCK, &lim);
		if (lim.rlim_cur == RLIM_INFINITY)
			ok("locked memory: no limit");
		else if (lim.rlim_cur >= MEMLOCK_NEED)
			ok("locked memory: up to %" PRIu64 " MiB", (uint64_t)lim.rlim_cur >> 20);
		else
			ok("locked memory: no limit (CAP_IPC_LOCK)");
	}
	/* The soft limit is raised as needed. */
	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_max >= NOFILE_NEED)
		ok("open files: up to %" PRIu64, (uint64_t)lim.rlim_max);
	else
		warn("raise the hard limit: ulimit -Hn 4096",
		     "open files: at most %" PRIu64 "; each interrupt vector takes one",
		     (uint64_t)lim.rlim_max);
}

/* ---- VFIO and what is behind it
 * ------------------------------------------------------------------ */

static bool check_vfio(struct check *c)
{
	int fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	bool type1;

	if (fd < 0) {
		if (errno == EACCES || errno == EPERM)
			bad(c, "run as root", "/dev/vfio/vfio: no permission");
		else
			bad(c, "modprobe vfio-pci; the kernel needs CONFIG_VFIO_PCI",
			    "/dev/vfio/vfio: %s", strerror(errno));
		return false;
	}
	ok("/dev/vfio/vfio: API version %d", ioctl(fd, VFIO_GET_API_VERSION));
	type1 = ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0 ||
		ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU) > 0;
	close(fd);
	if (type1)
		ok("VFIO type1 IOMMU");
	else
		bad(c, "modprobe vfio_iommu_type1", "VFIO type1 IOMMU: not there");
	return type1;
}

static void check_groups(struct check *c)
{
	struct dirent **list;
	int nr = sysfs_list(&list, "kernel/iommu_groups");

	sysfs_list_free(list, nr);
	c->nr_groups = (unsigned)MAX(nr, 0);
	if (c->nr_groups)
		ok("IOMMU groups: %u", c->nr_groups);
	else
		bad(c,
		    "the host needs an IOMMU that its kernel drives (SMMU, DART); "
		    "iommu.passthrough=1 does no "
		    "harm",
		    "IOMMU groups: none");
}

/* has_dart - is any of the host's IOMMUs Apple's? */
static bool has_dart(void)
{
	struct dirent **list;
	char driver[64];
	bool found = false;
	int nr = sysfs_list(&list, "class/iommu");

	for (int i = 0; i < nr; i++)
		if (!sysfs_link(driver, sizeof(driver), "class/iommu/%s/device/driver",
				list[i]->d_name) &&
		    !strcmp(driver, "apple-dart"))
			found = true;
	sysfs_list_free(list, nr);
	return found;
}

/* check_group - open the group of a device bound to vfio-pci: this passes the kernel's gates for
 * viability and interrupt isolation, and says what the IOMMU can do */
static void check_group(struct check *c, unsigned group, const char *bdf)
{
	struct vfio_container *container;
	struct instance *inst;
	char error[1024];

	switch (vfio_container_open(group, &container, error, sizeof(error))) {
	case 0:
		inst = vfio_container_instance(container);
		ok("%s: IOMMU group %u can be used; pages of %" PRIu64
		   " KiB, addresses up to %#" PRIx64,
		   bdf, group, inst->granule >> 10, inst->apertures[inst->nr_apertures - 1].last);
		vfio_container_close(container);
		c->nr_usable++;
		return;
	case -EBUSY:
		warn("end the other process first if the device is meant for a new guest", "%s: %s",
		     bdf, error);
		return;
	default:
		bad(c, NULL, "%s: %s", bdf, error);
	}
}

/* VFIO refuses devices whose IOMMU does not claim cache coherency: vfio_main.c,
 * vfio_register_group_dev(); the kernel's log has nothing about it. */
static const char dart_fix[] = "binding fails with EINVAL where the kernel's DART driver does not "
			       "claim coherent DMA: it must be "
			       "patched to do so";
static const char stuck_fix[] = "try: echo DEVICE > /sys/bus/pci/drivers/vfio-pci/bind; EINVAL "
				"means that its IOMMU does not claim "
				"coherent DMA";

static void check_devices(struct check *c)
{
	struct dirent **list;
	unsigned nr_bound = 0, nr_stuck = 0;
	bool dart = has_dart(), failed_before = c->failed;
	char driver[64], override[64], link[64], param[8];
	int nr;

	nr = sysfs_list(&list, "bus/pci/devices");
	if (nr <= 0)
		warn("`granule run --sim` needs none: it has simulated ones", "PCI devices: none");
	for (int i = 0; i < nr; i++) {
		const char *bdf = list[i]->d_name;
		unsigned long group;
		char *end;

		sysfs_link(driver, sizeof(driver), "bus/pci/devices/%s/driver", bdf);
		sysfs_read(override, sizeof(override), "bus/pci/devices/%s/driver_override", bdf);
		if (!driver[0] && !strcmp(override, "vfio-pci")) {
			nr_stuck++;
			bad(c, dart ? dart_fix : stuck_fix,
			    "%s: meant for vfio-pci (driver_override), but not bound to it", bdf);
		}
		if (strcmp(driver, "vfio-pci"))
			continue;
		if (sysfs_link(link, sizeof(link), "bus/pci/devices/%s/iommu_group", bdf))
			continue;
		group = strtoul(link, &end, 10);
		nr_bound++;
		check_group(c, (unsigned)group, bdf);
	}
	sysfs_list_free(list, nr);
	/* One device that can be used is enough. */
	if (c->nr_usable)
		c->failed = failed_before;
	if (nr > 0 && !nr_bound && !nr_stuck)
		warn(dart ? dart_fix : "bind one: driverctl set-override DEVICE vfio-pci",
		     "PCI devices: none of %d is bound to vfio-pci", nr);
	sysfs_read(param, sizeof(param),
		   "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
	if (param[0] == 'Y' || param[0] == '1')
		warn("on a host that isolates interrupts allow_unsafe_interrupts need not be set",
		     "interrupt isolation: not demanded, so guests could forge interrupts");
	else if (c->nr_usable)
		ok("interrupt isolation: the host has it");
	else
		ok("interrupt isolation: not known before a device is bound to vfio-pci");
}

int check_run(void)
{
	struct check c = {.kvm_fd = -1, .vm_fd = -1};

	check_machine(&c);
	check_kvm(&c);
	if (c.kvm_fd >= 0)
		check_vm(&c);
	if (c.vm_fd >= 0) {
		check_device(
			&c, KVM_DEV_TYPE_ARM_VGIC_V3, "virtual GICv3",
			"the host's CPUs need a GICv3 interface; GICv2 hosts are not supported");
		check_device(&c, KVM_DEV_TYPE_ARM_VGIC_ITS, "virtual ITS",
			     "the kernel needs KVM with GICv3");
	}
	check_io_uring(&c);
	check_limits(&c);
	check_groups(&c);
	if (check_vfio(&c) && c.nr_groups)
		check_devices(&c);
	if (c.vm_fd >= 0)
		close(c.vm_fd);
	if (c.kvm_fd >= 0)
		close(c.kvm_fd);
	return c.failed ? EXIT_FAILED : 0;
}
