/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm - one machine from its config: what `granule run` is.
 *
 * vm_create() reads as the boot sequence; vm_destroy() mirrors it and takes a machine that got only
 * half way. Between them vm_play() runs the guest: vCPUs in their threads, everything else on this
 * one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "iommu/vfio.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/viommu.h"
#include "vmm/boot.h"
#include "vmm/bus.h"
#include "vmm/cli.h"
#include "vmm/disk.h"
#include "vmm/devmem.h"
#include "vmm/evloop.h"
#include "vmm/fdarg.h"
#include "vmm/fdt.h"
#include "vmm/gic.h"
#include "vmm/hold.h"
#include "vmm/layout.h"
#include "vmm/memory.h"
#include "vmm/msg.h"
#include "vmm/pci.h"
#include "vmm/rtc.h"
#include "vmm/sandbox.h"
#include "vmm/sim.h"
#include "vmm/stats.h"
#include "vmm/statsock.h"
#include "vmm/strict.h"
#include "vmm/tap.h"
#include "vmm/tell.h"
#include "vmm/term.h"
#include "vmm/trace.h"
#include "vmm/uart.h"
#include "vmm/vcpu.h"
#include "vmm/vfio_pci.h"

#define ERROR_LEN 512

/* Bounce pages and twins at most: half of RAM, and enough for rings however small the guest. */
#define POOL_LIMIT(ram) ((ram) / 2 + (64ull << 20))

/* Bounce pages and twins that stay mapped for the next use of their IOVA: some 500 frames. Linux
 * keeps as many freed IOVAs of a size at hand for each CPU: drivers/iommu/iova.c, IOVA_MAG_SIZE. */
#define PARK_LIMIT	  (16ull << 20)
/* Frames whose page may wait for an invalidation; VFIO invalidates in every unmap and needs none.
 */
#define QUARANTINE_FRAMES 64

/* Read-write mappings of up to so many bytes are rings if a device needs sync=full. Linux drivers'
 * rings are smaller; what a guest's own hypervisor maps for its guests is mostly larger, and would
 * eat the pool. */
#define RING_LIMIT (1ull << 20)

/* Faults a second that reach the guest; Linux prints each. */
#define FAULT_RATE 1000

/* Faults that could not be told, for a vCPU was at the virtio-iommu, are told this later. */
#define FAULT_RETRY_NS 1000000

/* More than Linux ever has: a domain per device, and mappings of 4 KiB up to 4 GiB. */
#define MAX_DOMAINS	   VIEW_MAX_DOMAINS
#define MAX_MAPPINGS	   (1u << 20)
/* Of all domains: a guest's mappings without rights cost nobody but us, some 30 bytes each. */
#define MAX_MAPPINGS_TOTAL (4u << 20)

/* viommu, rng, console, the disks and the networks */
#define MAX_SLOTS (3 + CONFIG_MAX_DISKS + CONFIG_MAX_NETS)
_Static_assert(MAX_SLOTS <= LAYOUT_VIRTIO_SLOTS, "the layout has too few virtio-mmio slots");

/* A queue whose kicks come to the event loop. */
struct kick {
	struct virtio_mmio *mmio;
	unsigned queue;
	int fd;
	struct evloop_watch *watch;
};

struct slot {
	struct vm *vm;
	unsigned index;
	const char *name;	  /* the device's */
	struct virtio_mmio *mmio; /* owns the device */
	struct bus_region *region;
	struct kick kicks[VIRTIO_MAX_QUEUES];
	unsigned nr_kicks;
};

/* Whom a failing disk's messages are about. */
struct disk {
	const char *path;
	struct disk_log log;
};

struct vm {
	const struct vm_config *cfg;

	struct kernel_image kernel;
	int initrd_fd;			/* -1: none */
	int disk_fds[CONFIG_MAX_DISKS]; /* -1: not open, or the device's by now */
	uint64_t disk_sizes[CONFIG_MAX_DISKS];
	struct disk disks[CONFIG_MAX_DISKS];
	struct tap taps[CONFIG_MAX_NETS]; /* fd -1: as above */
	struct boot_plan plan;
	char *cmdline; /* as the guest gets it; NULL: cfg's */

	struct evloop *loop;
	struct bus *bus;
	struct term *term;

	int kvm_fd, vm_fd;
	struct memory *memory;
	struct gic *gic;
	struct hold hold; /* of vCPUs */
	struct vcpu_machine vcpu_machine;
	struct vcpu *vcpus[LAYOUT_MAX_VCPUS];

	struct uart *uart;
	struct rtc *rtc;

	struct pci_machine pci_machine;
	struct pci_host *pci;
	struct pci_fronts *fronts;
	struct vfio_set *vfio;
	struct sim_machine sim_machine;
	struct sim_set *sim;
	struct mediator *mediator;
	uint64_t granule; /* the mediator's: what the guest may map at least, bytes */

	struct slot slots[MAX_SLOTS];
	unsigned nr_slots;
	struct virtio_dev *viommu, *console; /* their slots' */
	struct virtio_dev *nets[CONFIG_MAX_NETS];
	int fault_fd; /* signalled when faults wait for the guest */
	struct evloop_watch *fault_watch, *fault_timer;
	bool input_to_hvc;

	struct statsock *statsock;
	struct trace *trace; /* NULL: nobody asked for one */

	struct stats_file *stats_file;

	double started, seconds; /* when the guest was, by now(); how long it ran, at the end */
};

/* ---- files ----------------------------------------------------------------------------------- */

static int load_kernel(struct vm *vm)
{
	char error[ERROR_LEN];
	int ret;

	ret = kernel_load(vm->cfg->kernel, MIN(vm->cfg->memory, LAYOUT_RAM_LOW_MAX), &vm->kernel,
			  error, sizeof(error));
	if (ret)
		msg_error("%s", error);
	return ret;
}

static int open_initrd(struct vm *vm)
{
	const char *path = vm->cfg->initrd;
	struct stat st;

	if (!path)
		return 0;
	vm->initrd_fd = fdarg_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (vm->initrd_fd < 0) {
		msg_error("initrd %s: %s", path, strerror(-vm->initrd_fd));
		return -EINVAL;
	}
	if (fstat(vm->initrd_fd, &st)) {
		msg_error("initrd %s: %s", path, strerror(errno));
		return -EINVAL;
	}
	if (!S_ISREG(st.st_mode) || !st.st_size) {
		msg_error("initrd %s is %s; give an initramfs", path,
			  S_ISREG(st.st_mode) ? "empty" : "not a regular file");
		return -EINVAL;
	}
	vm->plan.initrd_len = (uint64_t)st.st_size;
	return 0;
}

static int open_disks(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cfg->nr_disks; i++) {
		vm->disk_fds[i] = disk_open(&vm->cfg->disks[i], &vm->disk_sizes[i]);
		if (vm->disk_fds[i] < 0)
			return vm->disk_fds[i];
	}
	return 0;
}

static int open_taps(struct vm *vm)
{
	int ret = 0;

	for (unsigned i = 0; !ret && i < vm->cfg->nr_nets; i++)
		ret = tap_open(&vm->cfg->nets[i], &vm->taps[i]);
	return ret;
}

static int open_sim(struct vm *vm)
{
	int ret = sim_set_create(&vm->sim);

	if (ret)
		msg_error("out of memory");
	for (unsigned i = 0; !ret && i < vm->cfg->nr_sim; i++)
		ret = sim_set_open(vm->sim, &vm->cfg->sim[i]);
	return ret;
}

static int open_trace(struct vm *vm)
{
	/* This thread sets the guest up, and turns the loop then. */
	trace_name_thread("loop");
	return vm->cfg->trace ? trace_create(vm->cfg->trace, vm->cfg->trace_max, &vm->trace) : 0;
}

static int open_stats(struct vm *vm)
{
	return vm->cfg->stats ? stats_file_open(vm->cfg->stats, &vm->stats_file) : 0;
}

/* ---- the sandbox ----------------------------------------------------------------------------- */

/* Interrupts, and what of a device's BARs the guest sees directly, change on either thread. */
#define MACHINE_IOCTLS                                                                             \
	KVM_IRQ_LINE, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_SET_USER_MEMORY_REGION

static int confine(struct vm *vm)
{
	static const uint32_t loop[] = {MACHINE_IOCTLS, 0};
	static const uint32_t vcpu[] = {VCPU_IOCTLS, MACHINE_IOCTLS, 0};
	static const uint32_t sim[] = {KVM_IRQ_LINE, 0}; /* of DARTs that are the guest's */
	struct sandbox_cfg cfg = {
		.ioctls = {[SANDBOX_LOOP] = loop,
			   [SANDBOX_VCPU] = vcpu,
			   [SANDBOX_NVME] = sim,
			   [SANDBOX_EDU] = sim},
		.pins = vm->cfg->nr_vfio,
		.socket = vm->cfg->live_stats,
	};
	char path[PATH_MAX];

	if (!vm->cfg->sandbox)
		return 0;
#ifdef __SANITIZE_ADDRESS__
	/* Its run-time makes calls of its own, also to tell what it has found. */
	return 0;
#endif
	if (vm->stats_file && stats_file_replaces(vm->stats_file))
		cfg.files[0] = vm->cfg->stats;
	/* If there is no such place, making the socket will say so. */
	if (vm->cfg->live_stats && !statsock_path(path, sizeof(path)))
		cfg.files[1] = path;
	return sandbox_prepare(&cfg);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static int create_loop_and_bus(struct vm *vm)
{
	int ret = evloop_create(vm->cfg->nr_disks ? BLK_RING_OPS : 0, &vm->loop);

	if (ret == -EOPNOTSUPP)
		msg_error("this host's io_uring cannot be restricted to what it is for; granule "
			  "needs Linux 5.10");
	else if (ret == -ENOSYS || ret == -EPERM)
		msg_error("this host's kernel has no io_uring or forbids it: %s; see sysctl "
			  "kernel.io_uring_disabled",
			  strerror(-ret));
	else if (ret)
		msg_error("io_uring cannot be set up: %s", strerror(-ret));
	if (ret)
		return ret;
	ret = bus_create(&vm->bus);
	if (ret)
		msg_error("out of memory");
	return ret;
}

/* ---- KVM ------------------------------------------------------------------------------------- */

static int open_kvm(struct vm *vm)
{
	const char *path = vm->cfg->kvm;
	int ret;

	vm->kvm_fd = fdarg_open(path, O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0) {
		ret = vm->kvm_fd;
		if (ret == -EACCES || ret == -EPERM)
			msg_error("%s: %s; run as root or join its group (usually kvm)", path,
				  strerror(-ret));
		else
			msg_error("%s: %s; this host has no KVM: its CPU or kernel lacks it, or it "
				  "booted without EL2",
				  path, strerror(-ret));
		return ret;
	}
	ret = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
	if (ret < 0) {
		msg_error("--kvm %s: this is not /dev/kvm", path);
		return -EINVAL;
	}
	if (ret != KVM_API_VERSION) {
		msg_error("%s speaks version %d, not %d", path, ret, KVM_API_VERSION);
		return -EINVAL;
	}
	return 0;
}

static int create_kvm_vm(struct vm *vm)
{
	struct kvm_enable_cap nisv = {.cap = KVM_CAP_ARM_NISV_TO_USER};
	int bits = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);
	int max = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	int ret;

	/* KVM before 4.20 has 40 bits and takes no other type than 0. */
	if (bits > 0 && bits < LAYOUT_IPA_BITS) {
		msg_error("this host gives guests %d bits of physical address space; granule needs "
			  "%d",
			  bits, LAYOUT_IPA_BITS);
		return -EINVAL;
	}
	if ((int)vm->cfg->vcpus > max) {
		msg_error("this host gives a guest %d vCPUs at most, not %u; ask for less with -c",
			  max, vm->cfg->vcpus);
		return -EINVAL;
	}
	vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM,
			  bits > 0 ? KVM_VM_TYPE_ARM_IPA_SIZE(LAYOUT_IPA_BITS) : 0ul);
	if (vm->vm_fd < 0) {
		ret = -errno;
		msg_error("KVM cannot create a VM: %s", strerror(-ret));
		return ret;
	}
	/* Without it such an access ends the VM instead of reaching the guest as an abort. */
	ioctl(vm->vm_fd, KVM_ENABLE_CAP, &nisv);
	return 0;
}

static int create_vcpus(struct vm *vm)
{
	vm->vcpu_machine = (struct vcpu_machine){.kvm_fd = vm->kvm_fd,
						 .vm_fd = vm->vm_fd,
						 .bus = vm->bus,
						 .hold = &vm->hold,
						 .loop = vm->loop};
	for (unsigned i = 0; i < vm->cfg->vcpus; i++) {
		int ret = vcpu_create(&vm->vcpu_machine, i, &vm->vcpus[i]);

		if (ret)
			return ret;
	}
	return 0;
}

/* ---- what goes into RAM ---------------------------------------------------------------------- */

static int read_initrd(struct vm *vm)
{
	uint8_t *to = gmem_ptr(memory_gmem(vm->memory), vm->plan.initrd, vm->plan.initrd_len);
	uint64_t left = vm->plan.initrd_len;

	while (left) {
		ssize_t ret = read(vm->initrd_fd, to, MIN(left, 1ull << 30));

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0) {
			msg_error("initrd %s: %s", vm->cfg->initrd,
				  ret ? strerror(errno) : "it became shorter while it was read");
			return -EIO;
		}
		to += ret;
		left -= (uint64_t)ret;
	}
	return 0;
}

static int load_files(struct vm *vm)
{
	const struct gmem_span *low = &memory_gmem(vm->memory)->spans[0];
	char error[ERROR_LEN];
	int ret;

	ret = boot_plan(&vm->kernel, vm->plan.initrd_len, low->gpa, low->len, &vm->plan, error,
			sizeof(error));
	if (ret) {
		msg_error("%s", error);
		return ret;
	}
	memcpy(gmem_ptr(memory_gmem(vm->memory), vm->plan.kernel_entry, vm->kernel.len),
	       vm->kernel.data, vm->kernel.len);
	return vm->plan.initrd_len ? read_initrd(vm) : 0;
}

static int dump_dtb(const char *path, const void *fdt, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int ret = 0;

	if (fd < 0)
		ret = -errno;
	else if (write(fd, fdt, len) != (ssize_t)len)
		ret = -EIO;
	if (fd >= 0 && close(fd) && !ret)
		ret = -errno;
	if (ret)
		msg_error("--dump-dtb %s: cannot be written: %s", path, strerror(-ret));
	return ret;
}

static int build_fdt(struct vm *vm)
{
	void *to = gmem_ptr(memory_gmem(vm->memory), vm->plan.fdt, FDT_MAX_LEN);
	struct fdt_config cfg = {
		.cmdline = vm->cmdline ? vm->cmdline : vm->cfg->cmdline,
		.initrd = vm->plan.initrd,
		.initrd_len = vm->plan.initrd_len,
		.gmem = memory_gmem(vm->memory),
		.vcpus = vm->cfg->vcpus,
		.nr_virtio = vm->nr_slots,
		.viommu_slot = vm->viommu ? 0 : -1,
		.pci = vm->pci,
	};
	int len;

	for (unsigned i = 0; i < vm->cfg->vcpus; i++)
		cfg.mpidr[i] = vcpu_mpidr(vm->vcpus[i]);
	for (unsigned i = 0; vm->viommu && i < vfio_set_count(vm->vfio); i++)
		cfg.requesters[cfg.nr_requesters++] =
			(struct fdt_requester){vfio_set_rid(vm->vfio, i), -1};
	sim_set_describe(vm->sim, &cfg);
	len = fdt_build(&cfg, to, FDT_MAX_LEN);
	if (len < 0) {
		msg_error("the device tree cannot be built: %s", strerror(-len));
		return len;
	}
	return vm->cfg->dump_dtb ? dump_dtb(vm->cfg->dump_dtb, to, (size_t)len) : 0;
}

/* ---- console and clock ----------------------------------------------------------------------- */

static void set_uart_irq(void *ctx, bool level)
{
	struct vm *vm = ctx;

	gic_set_spi(vm->gic, LAYOUT_SPI_UART, level);
}

static void console_output(void *ctx, const void *buf, size_t len)
{
	struct vm *vm = ctx;

	if (vm->term)
		term_output(vm->term, buf, len);
}

static size_t terminal_input(void *ctx, const void *buf, size_t len)
{
	struct vm *vm = ctx;

	return vm->input_to_hvc ? console_input(vm->console, buf, len)
				: uart_input(vm->uart, buf, len);
}

static void terminal_resized(void *ctx, uint16_t cols, uint16_t rows)
{
	struct vm *vm = ctx;

	console_resize(vm->console, cols, rows);
}

/* Does the kernel's command line make hvc0 its console? The last console= is the one that counts.
 */
static bool console_is_hvc(const char *cmdline)
{
	static const char key[] = "console=", hvc[] = "hvc0";
	const char *at = cmdline;
	bool is_hvc = false;

	while ((at = strstr(at, key))) {
		bool word = at == cmdline || at[-1] == ' ';

		at += strlen(key);
		if (word)
			is_hvc = !strncmp(at, hvc, strlen(hvc)) && strchr(" ,", at[strlen(hvc)]);
	}
	return is_hvc;
}

static int create_uart_and_rtc(struct vm *vm)
{
	int ret;

	ret = uart_create(set_uart_irq, console_output, vm, &vm->uart);
	if (!ret)
		ret = bus_add(vm->bus, LAYOUT_UART_BASE, LAYOUT_UART_LEN, "uart", uart_access,
			      vm->uart, NULL);
	if (!ret)
		ret = rtc_create(&vm->rtc);
	if (!ret)
		ret = bus_add(vm->bus, LAYOUT_RTC_BASE, LAYOUT_RTC_LEN, "rtc", rtc_access, vm->rtc,
			      NULL);
	if (ret)
		msg_error("the console cannot be set up: %s", strerror(-ret));
	return ret;
}

/* ---- passed-through devices and their IOMMU -------------------------------------------------- */

static void set_intx(void *ctx, unsigned line, bool level)
{
	struct vm *vm = ctx;

	gic_set_spi(vm->gic, LAYOUT_SPI_INTX + line, level);
}

static int resample_intx(void *ctx, unsigned line)
{
	struct vm *vm = ctx;

	return gic_resample_fd(vm->gic, LAYOUT_SPI_INTX + line);
}

static int signal_msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	struct vm *vm = ctx;

	return gic_msi(vm->gic, gpa, data, devid);
}

static int map_bar(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	struct vm *vm = ctx;

	return memory_map(vm->memory, gpa, hva, len);
}

static void unmap_bar(void *ctx, int slot)
{
	struct vm *vm = ctx;

	memory_unmap(vm->memory, slot);
}

static int route_msi(void *ctx, int route, uint64_t gpa, uint32_t data, uint32_t devid)
{
	struct vm *vm = ctx;

	return gic_route(vm->gic, route, gpa, data, devid);
}

static void unroute_msi(void *ctx, int route)
{
	struct vm *vm = ctx;

	gic_unroute(vm->gic, route);
}

static int irqfd_on(void *ctx, int fd, int route)
{
	struct vm *vm = ctx;

	return gic_irqfd(vm->gic, fd, route);
}

static void irqfd_off(void *ctx, int fd, int route)
{
	struct vm *vm = ctx;

	gic_irqfd_off(vm->gic, fd, route);
}

static int create_pci(struct vm *vm)
{
	int ret;

	vm->pci_machine = (struct pci_machine){
		.bus = vm->bus,
		.set_intx = set_intx,
		.intx_resample = resample_intx,
		.msi = signal_msi,
		.map = map_bar,
		.unmap = unmap_bar,
		.route = route_msi,
		.unroute = unroute_msi,
		.irqfd = irqfd_on,
		.irqfd_off = irqfd_off,
		.ctx = vm,
		.gmem = memory_gmem(vm->memory),
		.host_page = (uint64_t)sysconf(_SC_PAGESIZE),
		.trace = vm->trace,
	};
	ret = pci_host_create(&vm->pci_machine, &vm->pci);
	if (!ret)
		ret = pci_fronts_create(vm->pci, &vm->pci_machine, vm->loop, &vm->fronts);
	if (ret)
		msg_error("the PCI host cannot be set up: %s", strerror(-ret));
	return ret;
}

static void set_dart_irq(void *ctx, unsigned dart, bool level)
{
	struct vm *vm = ctx;

	gic_set_spi(vm->gic, LAYOUT_SPI_DART + dart, level);
}

static int realize_sim(struct vm *vm)
{
	vm->sim_machine = (struct sim_machine){
		.gmem = memory_gmem(vm->memory),
		.bus = vm->bus,
		.vcpus = vm->cfg->vcpus,
		.dart_irq = set_dart_irq,
		.ctx = vm,
	};
	for (unsigned i = 0; i < vm->cfg->nr_sim; i++) {
		if (vm->cfg->sim[i].guest_owned && vm->kernel.page_size &&
		    vm->kernel.page_size < SIM_MEM_PAGE) {
			msg_warn("--sim owner=guest: %s has pages of %u bytes, and Linux's own "
				 "DART driver translates for none below 16384; give a 16 KiB "
				 "kernel, or leave owner=guest away",
				 vm->cfg->kernel, (unsigned)vm->kernel.page_size);
			break;
		}
	}
	return sim_set_realize(vm->sim, &vm->sim_machine, vm->fronts);
}

static int open_vfio(struct vm *vm)
{
	int ret = vfio_set_create(&vm->vfio);

	if (ret) {
		msg_error("out of memory");
		return ret;
	}
	for (unsigned i = 0; i < vm->cfg->nr_vfio; i++) {
		ret = vfio_set_open(vm->vfio, &vm->cfg->vfio[i]);
		if (ret)
			return ret;
	}
	sim_set_place(vm->sim, 1 + vfio_set_slots(vm->vfio)); /* device 0 is the host bridge */
	return 0;
}

static void hold_vcpus(void *ctx)
{
	hold_take(ctx);
}

static void release_vcpus(void *ctx)
{
	hold_release(ctx);
}

static void log_line(void *ctx, const char *line)
{
	(void)ctx;
	msg_warn("%s", line);
}

static void on_event(void *ctx, const struct mediator_event *event)
{
	struct vm *vm = ctx;

	if (vm->trace)
		trace_event(vm->trace, event);
	if (vm->cfg->verbose)
		tell_event(event);
}

/* What the guest may map: its own page, or the smallest if its kernel does not say. */
static uint64_t guest_granule(const struct vm *vm)
{
	return vm->kernel.page_size ? vm->kernel.page_size : 4096;
}

static int create_mediator(struct vm *vm)
{
	struct mediator_cfg cfg = {
		.gmem = memory_gmem(vm->memory),
		.guest_granule = guest_granule(vm),
		.pool_limit = POOL_LIMIT(vm->cfg->memory),
		.max_domains = MAX_DOMAINS,
		.max_mappings = MAX_MAPPINGS,
		.max_mappings_total = MAX_MAPPINGS_TOTAL,
		.park_limit = PARK_LIMIT,
		.quarantine_frames = QUARANTINE_FRAMES,
		.promote = true,
		.ring_limit = RING_LIMIT,
		.fault_rate = FAULT_RATE,
		.doorbell = {LAYOUT_DOORBELL_BASE, LAYOUT_DOORBELL_BASE + LAYOUT_DOORBELL_LEN - 1},
		.hold = hold_vcpus,
		.release = release_vcpus,
		.hold_ctx = &vm->hold,
		.log = log_line,
		.event = vm->trace || vm->cfg->verbose ? on_event : NULL,
		.event_ctx = vm,
	};
	bool lazy = strict_of(vm->cfg->cmdline) == STRICT_LAZY;
	int ret;

	if (getrandom(&cfg.salt, sizeof(cfg.salt), 0) != sizeof(cfg.salt)) {
		msg_error("no random numbers: %s", strerror(errno));
		return -EIO;
	}
	/* All of RAM and every bounce page, at worst; later it would be the guest's request that
	 * fails. */
	ret = vfio_set_check_memlock(vm->vfio, vm->cfg->memory + cfg.pool_limit);
	if (ret)
		return ret;
	vm->granule = cfg.guest_granule;
	ret = mediator_create(&cfg, &vm->mediator);
	if (ret) {
		msg_error("the IOMMU cannot be set up: %s", strerror(-ret));
		return ret;
	}
	if ((ret = vfio_set_add_endpoints(vm->vfio, vm->mediator, lazy)) ||
	    (ret = sim_set_add_endpoints(vm->sim, vm->mediator, lazy)))
		return ret;
	return strict_cmdline(vm->cfg->cmdline, mediator_needs_strict(vm->mediator), &vm->cmdline);
}

/* ---- virtio ---------------------------------------------------------------------------------- */

static void set_slot_irq(void *ctx, bool level)
{
	struct slot *slot = ctx;

	gic_set_spi(slot->vm->gic, LAYOUT_SPI_VIRTIO + slot->index, level);
}

static void slot_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct slot *slot = ctx;

	virtio_mmio_access(slot->mmio, off, data, len, write);
}

static void on_kick(void *ctx, uint64_t count)
{
	struct kick *kick = ctx;

	(void)count;
	/* A queue is served a ringful at a time: what is left waits its turn like everybody. */
	if (virtio_mmio_notify(kick->mmio, kick->queue))
		eventfd_write(kick->fd, 1);
}

/* Let kicks of every queue come to the event loop without an exit to this process. */
static int add_kicks(struct slot *slot, unsigned nr_queues)
{
	struct vm *vm = slot->vm;

	for (unsigned i = 0; i < nr_queues; i++) {
		struct kick *kick = &slot->kicks[i];
		struct kvm_ioeventfd io = {
			.datamatch = i,
			.addr = LAYOUT_VIRTIO_BASE + slot->index * LAYOUT_VIRTIO_STRIDE +
				VIRTIO_MMIO_QUEUE_NOTIFY,
			.len = 4,
			.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
		};
		int ret;

		kick->mmio = slot->mmio;
		kick->queue = i;
		kick->fd = eventfd(0, EFD_CLOEXEC);
		if (kick->fd < 0)
			return -errno;
		slot->nr_kicks++;
		ret = evloop_add_eventfd(vm->loop, kick->fd, on_kick, kick, &kick->watch);
		if (ret)
			return ret;
		io.fd = kick->fd;
		if (ioctl(vm->vm_fd, KVM_IOEVENTFD, &io))
			return -errno;
	}
	return 0;
}

/*
 * Put a device into the next slot, which owns it from here on, also on an error.
 * @on_loop: its queues run on the event loop; otherwise in the exit of the vCPU that kicks
 */
static int add_slot(struct vm *vm, struct virtio_dev *dev, bool on_loop)
{
	struct slot *slot = &vm->slots[vm->nr_slots];
	uint64_t base = LAYOUT_VIRTIO_BASE + vm->nr_slots * LAYOUT_VIRTIO_STRIDE;
	int ret;

	slot->vm = vm;
	slot->index = vm->nr_slots;
	slot->name = dev->name;
	dev->gmem = memory_gmem(vm->memory);
	ret = virtio_mmio_create(dev, set_slot_irq, slot, &slot->mmio);
	if (ret) {
		dev->ops->destroy(dev);
		return ret;
	}
	vm->nr_slots++;
	ret = bus_add(vm->bus, base, VIRTIO_MMIO_LEN, dev->name, slot_access, slot, &slot->region);
	if (ret)
		return ret;
	return on_loop ? add_kicks(slot, dev->nr_queues) : 0;
}

static void remove_slot(struct slot *slot)
{
	for (unsigned i = slot->nr_kicks; i--;) {
		evloop_remove(slot->vm->loop, slot->kicks[i].watch);
		close(slot->kicks[i].fd);
	}
	bus_remove(slot->vm->bus, slot->region);
	virtio_mmio_destroy(slot->mmio);
}

static void wake_for_faults(void *ctx)
{
	struct vm *vm = ctx;

	eventfd_write(vm->fault_fd, 1);
}

static void deliver_faults(void *ctx)
{
	struct vm *vm = ctx;

	vm->fault_timer = NULL;
	if (!viommu_deliver_faults(vm->viommu) &&
	    evloop_add_timer(vm->loop, FAULT_RETRY_NS, deliver_faults, vm, &vm->fault_timer))
		wake_for_faults(vm);
}

static void on_faults(void *ctx, uint64_t count)
{
	struct vm *vm = ctx;

	(void)count;
	if (!vm->fault_timer)
		deliver_faults(vm);
}

static int add_viommu(struct vm *vm)
{
	struct virtio_dev *dev;
	int ret;

	vm->fault_fd = eventfd(0, EFD_CLOEXEC);
	if (vm->fault_fd < 0)
		return -errno;
	/*
	 * The larger size makes Linux build coherent memory from whole frames and map the middle of
	 * a congruent buffer as such: those need no bounce page.
	 */
	ret = viommu_create(vm->mediator, guest_granule(vm) | mediator_frame_size(vm->mediator),
			    wake_for_faults, vm, &dev);
	if (ret)
		return ret;
	/* A guest busy-polls its queue: requests are carried out in the vCPU's own exit. */
	ret = add_slot(vm, dev, false);
	if (ret)
		return ret;
	vm->viommu = dev;
	return evloop_add_eventfd(vm->loop, vm->fault_fd, on_faults, vm, &vm->fault_watch);
}

static int add_rng(struct vm *vm)
{
	struct virtio_dev *dev;
	int ret = rng_create(&dev);

	return ret ? ret : add_slot(vm, dev, true);
}

static int add_console(struct vm *vm)
{
	int ret = console_create(console_output, vm, &vm->console);

	if (ret)
		return ret;
	vm->input_to_hvc = console_is_hvc(vm->cfg->cmdline);
	return add_slot(vm, vm->console, true);
}

static void disk_failed(void *ctx, const char *what, int error)
{
	struct disk *disk = ctx;

	disk_log_failure(&disk->log, disk->path, what, error);
}

static int add_disk(struct vm *vm, unsigned i)
{
	char serial[] = "granule-disk0";
	struct virtio_dev *dev;
	int ret;

	serial[strlen(serial) - 1] = (char)('0' + i);
	ret = blk_create(vm->disk_fds[i], vm->disk_sizes[i], vm->cfg->disks[i].readonly, serial,
			 evloop_ring(vm->loop), &dev);
	if (ret)
		return ret;
	vm->disk_fds[i] = -1;
	vm->disks[i].path = vm->cfg->disks[i].path;
	blk_on_failure(dev, disk_failed, &vm->disks[i]);
	return add_slot(vm, dev, true);
}

static void tap_lost(void *ctx)
{
	const struct net_config *cfg = ctx;

	msg_warn("--net %s: the interface is gone; the guest's link is down", cfg->tap);
}

static int add_net(struct vm *vm, unsigned i)
{
	struct tap *tap = &vm->taps[i];
	struct net_cfg cfg = {
		.fd = tap->fd,
		.ring = evloop_ring(vm->loop),
		.mtu = tap->mtu,
		.offloads = tap->offloads,
		.set_offloads = tap_set_offloads,
		.lost = tap_lost,
		.ctx = (void *)&vm->cfg->nets[i],
	};
	struct virtio_dev *dev;
	int ret;

	memcpy(cfg.mac, tap->mac, sizeof(cfg.mac));
	ret = net_create(&cfg, &dev);
	if (ret)
		return ret;
	tap->fd = -1;
	vm->nets[i] = dev;
	return add_slot(vm, dev, true);
}

/* The order is the guest's: the IOMMU is there before what it translates for. */
static int add_virtio(struct vm *vm)
{
	int ret = vm->mediator ? add_viommu(vm) : 0;

	if (!ret)
		ret = add_rng(vm);
	if (!ret)
		ret = add_console(vm);
	for (unsigned i = 0; !ret && i < vm->cfg->nr_disks; i++)
		ret = add_disk(vm, i);
	for (unsigned i = 0; !ret && i < vm->cfg->nr_nets; i++)
		ret = add_net(vm, i);
	if (ret)
		msg_error("virtio device %u cannot be set up: %s", vm->nr_slots, strerror(-ret));
	return ret;
}

/* ---- the machine ----------------------------------------------------------------------------- */

static void vm_destroy(struct vm *vm);
static void answer(void *ctx, const struct ask *ask, union answer *out);

/* The page of --verbose, of a machine that is complete; devices have told of themselves. */
static void tell_machine(const struct vm *vm)
{
	const struct tell_guest guest = {
		.cfg = vm->cfg,
		.host_page = (uint64_t)sysconf(_SC_PAGESIZE),
		.ipa_bits = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE),
		.kernel = &vm->kernel,
		.plan = &vm->plan,
		.gmem = memory_gmem(vm->memory),
		.cmdline = vm->cmdline ? vm->cmdline : vm->cfg->cmdline,
	};
	struct view_vm view = {0};

	tell_guest(&guest);
	for (unsigned i = 0; i < vm->nr_slots; i++)
		msg_tell("virtio-mmio %u: %s", i, vm->slots[i].name);
	if (vm->mediator)
		view_take_vm(vm->mediator, vm->granule, POOL_LIMIT(vm->cfg->memory), &view);
	tell_iommu(&view, vm->kernel.page_size);
}

/* An interrupt is honoured between two steps. */
static int interrupted(void)
{
	return term_pending_signal() ? -EINTR : 0;
}

/*
 * Build the machine. Return: 0; -errno after a line on stderr; -EINTR when a signal that ends a run
 * is pending.
 */
static int vm_create(const struct vm_config *cfg, struct vm **out)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	vm->cfg = cfg;
	hold_init(&vm->hold);
	vm->initrd_fd = vm->kvm_fd = vm->vm_fd = vm->fault_fd = -1;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		vm->disk_fds[i] = -1;
	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++)
		vm->taps[i].fd = -1;

	if ((ret = open_stats(vm)) || (ret = confine(vm)) || (ret = open_trace(vm)) ||
	    (ret = load_kernel(vm)) || (ret = open_initrd(vm)) || (ret = open_disks(vm)) ||
	    (ret = open_taps(vm)) || (ret = open_sim(vm)) || (ret = create_loop_and_bus(vm)) ||
	    (ret = interrupted()))
		goto err_vm;
	/* The GIC comes in two halves, around the vCPUs. */
	if ((ret = open_kvm(vm)) || (ret = create_kvm_vm(vm)) ||
	    (ret = memory_create(vm->vm_fd, cfg->memory, &vm->memory)) ||
	    (ret = gic_create(vm->vm_fd, &vm->gic)) || (ret = create_vcpus(vm)) ||
	    (ret = gic_realize(vm->gic, cfg->vcpus)) || (ret = interrupted()))
		goto err_vm;
	if ((ret = create_uart_and_rtc(vm)) || (ret = open_vfio(vm)) || (ret = interrupted()))
		goto err_vm;
	/* Every endpoint is known before the guest is told what its IOMMU can do. */
	if (cfg->iommu)
		ret = create_mediator(vm);
	else if (cfg->nr_vfio)
		ret = vfio_set_map_ram(vm->vfio, memory_gmem(vm->memory));
	if (ret || (ret = interrupted()))
		goto err_vm;
	if (cfg->nr_vfio + cfg->nr_sim &&
	    ((ret = create_pci(vm)) || (ret = vfio_set_realize(vm->vfio, vm->fronts, vm->loop)) ||
	     (ret = realize_sim(vm))))
		goto err_vm;
	if ((ret = add_virtio(vm)) || (ret = interrupted()))
		goto err_vm;
	if ((ret = load_files(vm)) || (ret = build_fdt(vm)) ||
	    (ret = vcpu_set_entry(vm->vcpus[0], vm->plan.kernel_entry, vm->plan.fdt)))
		goto err_vm;
	if (cfg->verbose)
		tell_machine(vm);
	kernel_free(&vm->kernel);
	if (cfg->live_stats && (ret = statsock_create(vm->loop, answer, vm, &vm->statsock)))
		goto err_vm;
	*out = vm;
	return 0;

err_vm:
	vm_destroy(vm);
	return ret;
}

/* No device reaches the guest or its memory any more. */
static void quiesce(struct vm *vm)
{
	pci_fronts_quiesce(vm->fronts);
	if (vm->vfio)
		vfio_set_quiesce(vm->vfio);
	sim_set_quiesce(vm->sim);
}

/* Mirrors vm_create(); devices are silent before the memory that they reach goes. */
static void vm_destroy(struct vm *vm)
{
	quiesce(vm);
	stats_file_close(vm->stats_file);
	statsock_destroy(vm->statsock);
	evloop_remove(vm->loop, vm->fault_watch);
	evloop_remove(vm->loop, vm->fault_timer);
	while (vm->nr_slots)
		remove_slot(&vm->slots[--vm->nr_slots]);
	if (vm->fault_fd >= 0)
		close(vm->fault_fd);
	if (vm->mediator)
		mediator_destroy(vm->mediator);
	pci_fronts_destroy(vm->fronts);
	vfio_set_destroy(vm->vfio);
	sim_set_destroy(vm->sim);
	trace_destroy(vm->trace);
	if (vm->pci)
		pci_host_destroy(vm->pci);
	rtc_destroy(vm->rtc);
	uart_destroy(vm->uart);
	for (unsigned i = vm->cfg->vcpus; i--;)
		vcpu_destroy(vm->vcpus[i]);
	hold_fini(&vm->hold);
	gic_destroy(vm->gic);
	memory_destroy(vm->memory);
	if (vm->vm_fd >= 0)
		close(vm->vm_fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	bus_destroy(vm->bus);
	evloop_destroy(vm->loop);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		if (vm->disk_fds[i] >= 0)
			close(vm->disk_fds[i]);
	}
	for (unsigned i = 0; i < CONFIG_MAX_NETS; i++) {
		if (vm->taps[i].fd >= 0)
			close(vm->taps[i].fd);
	}
	if (vm->initrd_fd >= 0)
		close(vm->initrd_fd);
	kernel_free(&vm->kernel);
	free(vm->cmdline);
	free(vm);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int start_vcpus(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cfg->vcpus; i++) {
		int ret = vcpu_start(vm->vcpus[i]);

		if (ret)
			return ret;
	}
	return 0;
}

/* Start every thread; each confines itself first, and none enters the guest before this one is. */
static int start(struct vm *vm)
{
	int ret;

	hold_take(&vm->hold);
	ret = start_vcpus(vm);
	sandbox_enter(SANDBOX_LOOP);
	hold_release(&vm->hold);
	return ret;
}

/*
 * The loop goes on turning until every vCPU has stopped: one that resets a disk with I/O in flight
 * waits for completions that only the loop can take.
 */
static void stop_vcpus(struct vm *vm)
{
	term_hurry(vm->term);
	if (vm->viommu)
		viommu_end(vm->viommu);
	for (unsigned i = 0; i < vm->cfg->vcpus; i++)
		vcpu_kick(vm->vcpus[i]);
	(void)evloop_finish(vm->loop, &vm->vcpu_machine.nr_running);
	for (unsigned i = 0; i < vm->cfg->vcpus; i++)
		vcpu_join(vm->vcpus[i]);
}

/* Run the guest until it ends or is ended. Return: an exit status. */
static int vm_play(struct vm *vm)
{
	const struct term_cfg term_cfg = {
		.in = STDIN_FILENO,
		.out = STDOUT_FILENO,
		.loop = vm->loop,
		.input = terminal_input,
		.resize = terminal_resized,
		.ctx = vm,
	};
	int status;

	vm->started = now();
	status = term_create(&term_cfg, &vm->term);
	if (status) {
		msg_error("the terminal cannot be set up: %s", strerror(-status));
		return EXIT_FAILED;
	}
	devmem_catch_aborts(); /* the terminal has a say in SIGBUS too: after it */
	status = start(vm) ? EXIT_FAILED : evloop_run(vm->loop);
	stop_vcpus(vm);
	/* Before anything that could wait for the terminal. */
	quiesce(vm);
	term_destroy(vm->term);
	vm->term = NULL;
	vm->seconds = now() - vm->started;
	if (status < 0) {
		msg_error("the event loop failed: %s", strerror(-status));
		status = EXIT_FAILED;
	}
	return status;
}

static double seconds_run(const struct vm *vm)
{
	return vm->seconds > 0 ? vm->seconds : now() - vm->started;
}

/* @out is all zero before. */
static void collect_stats(struct vm *vm, struct stats *out)
{
	out->seconds = seconds_run(vm);
	for (unsigned i = 0; i < vm->cfg->vcpus; i++)
		vcpu_count_exits(vm->vcpus[i], out->exits, out->exit_ns);
	vfio_get_counts(&out->vfio);
	for (unsigned i = 0; i < vm->cfg->nr_nets; i++) {
		strcpy(out->nets[i].tap, vm->taps[i].name);
		net_get_stats(vm->nets[i], &out->nets[i].counts);
	}
	out->nr_nets = vm->cfg->nr_nets;
	out->viommu = vm->mediator;
	if (!vm->mediator)
		return;
	out->nr_endpoints = vfio_set_count(vm->vfio) + sim_set_nr_endpoints(vm->sim);
	out->frame_size = mediator_frame_size(vm->mediator);
	mediator_get_stats(vm->mediator, &out->mediator);
}

static void answer(void *ctx, const struct ask *ask, union answer *out)
{
	struct vm *vm = ctx;

	if (ask->what == ASK_STATS)
		collect_stats(vm, &out->stats);
	if (ask->what == ASK_VM)
		out->vm.seconds = seconds_run(vm);
	if (!vm->mediator)
		return;
	if (ask->what == ASK_VM)
		view_take_vm(vm->mediator, vm->granule, POOL_LIMIT(vm->cfg->memory), &out->vm);
	else if (ask->what == ASK_DOMAIN)
		view_take_domain(vm->mediator, ask->domain, &out->domain);
	else if (ask->what == ASK_PIECE)
		view_take_piece(vm->mediator, ask->domain, ask->at, &out->piece);
}

/* By way of memory: a reader of stderr that takes nothing must not hold up the end. */
static void print_stats(const struct stats *stats)
{
	char *text = NULL;
	size_t len;
	FILE *memory = open_memstream(&text, &len);

	if (!memory)
		return;
	stats_print(memory, stats);
	if (!fclose(memory))
		msg_text(text, len);
	free(text);
}

/* Tell what was done. Return: 0; -errno after a line on stderr. */
static int report(struct vm *vm)
{
	struct stats stats = {0};

	collect_stats(vm, &stats);
	print_stats(&stats);
	return vm->stats_file ? stats_file_write(vm->stats_file, &stats) : 0;
}

/* An eventfd per vector and queue: more than the usual soft limit of 1024. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int vm_run(const struct vm_config *cfg)
{
	struct vm *vm;
	int status, ret;

	/* From here on a signal is honoured where everything can be undone. */
	term_block_signals();
	raise_file_limit();
	msg_verbose(cfg->verbose);
	if (cfg->nr_vfio)
		vfio_memlock_raise();
	ret = vm_create(cfg, &vm);
	if (ret)
		return ret == -EINTR && term_pending_signal() ? 128 + term_pending_signal()
							      : EXIT_FAILED;
	status = vm_play(vm);
	if (report(vm) && !status)
		status = EXIT_FAILED;
	vm_destroy(vm);
	return status;
}
