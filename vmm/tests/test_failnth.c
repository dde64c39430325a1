/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine of everything that needs no KVM, built again and again while the nth call of a kind
 * fails: each time it says no and nothing is left, which ASan sees. The linker's --wrap is what
 * fails calls (Makefile); guest-tests/failhost.sh does the same to the whole program in the lab.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/mediator.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/viommu.h"
#include "vmm/disk.h"
#include "vmm/layout.h"
#include "vmm/rtc.h"
#include "vmm/sim.h"
#include "vmm/statsock.h"
#include "vmm/term.h"
#include "vmm/uart.h"

#define RAM_LEN 0x400000ull

enum kind { ALLOC, EVENTFD, MAP, THREAD, FILES, NR_KINDS };

static atomic_int failing = -1; /* a kind */
static atomic_uint countdown;
static atomic_bool failed;

static bool fails(enum kind kind)
{
	if (failing != (int)kind || atomic_fetch_sub(&countdown, 1) != 1)
		return false;
	failed = true;
	return true;
}

#define WRAP(kind, type, none, error, name, params, args)                                          \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (!fails(kind))                                                                  \
			return __real_##name args;                                                 \
		errno = error;                                                                     \
		return none;                                                                       \
	}

WRAP(ALLOC, void *, NULL, ENOMEM, malloc, (size_t n), (n))
WRAP(ALLOC, void *, NULL, ENOMEM, calloc, (size_t n, size_t size), (n, size))
WRAP(ALLOC, void *, NULL, ENOMEM, realloc, (void *p, size_t n), (p, n))
WRAP(ALLOC, void *, NULL, ENOMEM, aligned_alloc, (size_t align, size_t n), (align, n))
WRAP(EVENTFD, int, -1, EMFILE, eventfd, (unsigned count, int flags), (count, flags))
WRAP(EVENTFD, int, -1, EMFILE, timerfd_create, (int clock, int flags), (clock, flags))
WRAP(EVENTFD, int, -1, EMFILE, socket, (int domain, int type, int protocol),
     (domain, type, protocol))
WRAP(EVENTFD, int, -1, EMFILE, signalfd, (int fd, const void *set, int flags), (fd, set, flags))
WRAP(MAP, void *, MAP_FAILED, ENOMEM, mmap,
     (void *at, size_t len, int prot, int flags, int fd, off_t off),
     (at, len, prot, flags, fd, off))
WRAP(THREAD, int, EAGAIN, EAGAIN, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg),
     (thread, attr, fn, arg))
WRAP(FILES, int, -1, EIO, fstat, (int fd, struct stat *st), (fd, st))
WRAP(FILES, int, -1, EIO, open, (const char *path, int flags, unsigned mode), (path, flags, mode))
WRAP(FILES, int, -1, EIO, fcntl, (int fd, int cmd, unsigned long arg), (fd, cmd, arg))

/* ---- the machine ---------------------------------------------------------------------------- */

static char disk[] = "/tmp/test_failnth.XXXXXX", dir[] = "/tmp/test_failnth.XXXXXX";
static uint8_t *ram;

static void ignore_intx(void *ctx, unsigned line, bool level)
{
	(void)ctx, (void)line, (void)level;
}

static void ignore_irq(void *ctx, bool level)
{
	(void)ctx, (void)level;
}

static int ignore_msi(void *ctx, uint64_t gpa, uint32_t data, uint32_t devid)
{
	(void)ctx, (void)gpa, (void)data, (void)devid;
	return 0;
}

static int map_nothing(void *ctx, uint64_t gpa, void *hva, uint64_t len)
{
	(void)ctx, (void)gpa, (void)hva, (void)len;
	return -ENOSPC;
}

static void unmap_nothing(void *ctx, int slot)
{
	(void)ctx, (void)slot;
}

static void ignore_output(void *ctx, const void *buf, size_t len)
{
	(void)ctx, (void)buf, (void)len;
}

static size_t take_input(void *ctx, const void *buf, size_t len)
{
	(void)ctx, (void)buf;
	return len;
}

static void ignore_size(void *ctx, uint16_t cols, uint16_t rows)
{
	(void)ctx, (void)cols, (void)rows;
}

static void ignore_ask(void *ctx, const struct ask *ask, union answer *out)
{
	(void)ctx, (void)ask, (void)out;
}

static void ignore_wake(void *ctx)
{
	(void)ctx;
}

/* @ret: of what made @dev, which is the slot's from here on, also on an error */
static int add_slot(int ret, struct virtio_dev **dev, struct gmem *gmem, struct virtio_mmio **slot)
{
	if (ret)
		return ret;
	(*dev)->gmem = gmem;
	ret = virtio_mmio_create(*dev, ignore_irq, NULL, slot);
	if (ret)
		(*dev)->ops->destroy(*dev);
	return ret;
}

static int add_blk(struct evloop *loop, struct gmem *gmem, struct virtio_mmio **slot)
{
	struct disk_config cfg = {.path = disk, .readonly = true};
	struct virtio_dev *dev = NULL;
	uint64_t size;
	int ret, fd = disk_open(&cfg, &size);

	if (fd < 0)
		return fd;
	ret = blk_create(fd, size, true, "serial", evloop_ring(loop), &dev);
	if (ret)
		close(fd);
	return add_slot(ret, &dev, gmem, slot);
}

static int add_net(struct evloop *loop, struct gmem *gmem, struct virtio_mmio **slot)
{
	struct net_cfg cfg = {.ring = evloop_ring(loop), .fd = dup(STDIN_FILENO)};
	struct virtio_dev *dev = NULL;
	int ret = net_create(&cfg, &dev);

	if (ret)
		close(cfg.fd);
	return add_slot(ret, &dev, gmem, slot);
}

/* Build all, then take it down, as vm_create() and vm_destroy() do. Return: 0; -errno. */
static int build_and_destroy(void)
{
	static const struct sim_config sims[] = {
		{.kind = SIM_NVME, .disk = {.path = disk, .readonly = true}, .darts = 2},
		{.kind = SIM_EDU, .darts = 1},
	};
	struct gmem gmem = {0};
	struct evloop *loop = NULL;
	struct bus *bus = NULL;
	struct uart *uart = NULL;
	struct rtc *rtc = NULL;
	struct mediator *m = NULL;
	struct pci_host *host = NULL;
	struct pci_fronts *fronts = NULL;
	struct sim_set *sim = NULL;
	struct statsock *sock = NULL;
	struct term *term = NULL;
	struct virtio_mmio *slots[5] = {NULL};
	struct virtio_dev *dev = NULL;
	struct mediator_cfg cfg = {
		.gmem = &gmem,
		.guest_granule = 0x1000,
		.pool_limit = RAM_LEN,
		.max_domains = 8,
		.max_mappings = 4096,
		.doorbell = {LAYOUT_DOORBELL_BASE, LAYOUT_DOORBELL_BASE + LAYOUT_DOORBELL_LEN - 1},
	};
	struct pci_machine machine = {
		.set_intx = ignore_intx,
		.msi = ignore_msi,
		.map = map_nothing,
		.unmap = unmap_nothing,
		.gmem = &gmem,
		.host_page = 0x4000,
	};
	struct sim_machine sim_machine = {.gmem = &gmem, .vcpus = 2};
	struct term_cfg term_cfg = {
		.in = -1, .out = -1, .input = take_input, .resize = ignore_size};
	int ret;

	(void)gmem_add(&gmem, LAYOUT_RAM_LOW_BASE, RAM_LEN, ram);
	ret = sim_set_create(&sim);
	for (size_t i = 0; !ret && i < ARRAY_SIZE(sims); i++)
		ret = sim_set_open(sim, &sims[i]);
	if (!ret)
		sim_set_place(sim, 1);
	if (ret || (ret = evloop_create(0, &loop)) || (ret = bus_create(&bus)) ||
	    (ret = uart_create(ignore_irq, ignore_output, NULL, &uart)) ||
	    (ret = bus_add(bus, LAYOUT_UART_BASE, LAYOUT_UART_LEN, "uart", uart_access, uart,
			   NULL)) ||
	    (ret = rtc_create(&rtc)) || (ret = mediator_create(&cfg, &m)) ||
	    (ret = sim_set_add_endpoints(sim, m, false)))
		goto out;
	machine.bus = sim_machine.bus = bus;
	term_cfg.loop = loop;
	if ((ret = pci_host_create(&machine, &host)) ||
	    (ret = pci_fronts_create(host, &machine, loop, &fronts)) ||
	    (ret = sim_set_realize(sim, &sim_machine, fronts)) ||
	    (ret = add_slot(viommu_create(m, 0x5000, ignore_wake, NULL, &dev), &dev, &gmem,
			    &slots[0])) ||
	    (ret = add_slot(rng_create(&dev), &dev, &gmem, &slots[1])) ||
	    (ret = add_slot(console_create(ignore_output, NULL, &dev), &dev, &gmem, &slots[2])) ||
	    (ret = add_blk(loop, &gmem, &slots[3])) || (ret = add_net(loop, &gmem, &slots[4])) ||
	    (ret = statsock_create(loop, ignore_ask, NULL, &sock)) ||
	    (ret = term_create(&term_cfg, &term)))
		goto out;
out:
	pci_fronts_quiesce(fronts);
	sim_set_quiesce(sim);
	term_destroy(term);
	statsock_destroy(sock);
	for (size_t i = 0; i < ARRAY_SIZE(slots); i++)
		if (slots[i])
			virtio_mmio_destroy(slots[i]);
	if (m)
		mediator_destroy(m);
	pci_fronts_destroy(fronts);
	sim_set_destroy(sim);
	if (host)
		pci_host_destroy(host);
	rtc_destroy(rtc);
	uart_destroy(uart);
	bus_destroy(bus);
	evloop_destroy(loop);
	return ret;
}

static unsigned open_fds(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 1024; fd++)
		nr += __real_fcntl(fd, F_GETFD, 0) >= 0;
	return nr;
}

static void whatever_fails_nothing_is_left(void **state)
{
	unsigned nr, fds;
	int ret;

	(void)state;
	ret = build_and_destroy();
	if (ret == -ENOSYS || ret == -EPERM) {
		print_message("skipped: no io_uring here\n");
		skip();
	}
	assert_int_equal(ret, 0);
	fds = open_fds();
	for (int kind = 0; kind < NR_KINDS; kind++) {
		nr = 0;
		do {
			failed = false;
			countdown = ++nr;
			failing = kind;
			ret = build_and_destroy();
			failing = -1;
			/* What can be done without is not an error; all else is said. */
			assert_true(failed || !ret);
			assert_int_equal(open_fds(), fds);
			assert_int_equal(rmdir(dir), 0); /* no socket is left in it */
			assert_int_equal(mkdir(dir, 0700), 0);
		} while (failed);
		print_message("kind %d: %u calls\n", kind, nr - 1);
		assert_true(nr > 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whatever_fails_nothing_is_left),
	};
	int fd = mkstemp(disk), ret;

	ram = __real_aligned_alloc(0x4000, RAM_LEN);
	if (fd < 0 || ftruncate(fd, 1 << 20) || !mkdtemp(dir) || !ram)
		return 1;
	close(fd);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(disk);
	rmdir(dir);
	free(ram);
	return ret;
}
