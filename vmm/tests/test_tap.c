/* SPDX-License-Identifier: Apache-2.0 */
/* Where the machine has no /dev/net/tun, or gives no right to make interfaces, most of it is
 * skipped. */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommu/base.h"
#include "virtio/net.h"
#include "vmm/tap.h"

static char name[CONFIG_TAP_NAME_MAX + 1];

/* A tap of ours, made; skips the test if that is not allowed. */
static void make(struct tap *tap, struct net_config *cfg)
{
	int ret;

	snprintf(name, sizeof(name), "grn%d", (int)getpid());
	*cfg = (struct net_config){.tap = name};
	ret = tap_open(cfg, tap);
	if (ret) {
		print_message("skipped: no tap can be made here: %s\n", strerror(-ret));
		skip();
	}
}

static void a_tap_is_made_and_goes(void **state)
{
	struct net_config cfg;
	struct ifreq ifr;
	struct tap tap;
	int hdr_len = 0;

	(void)state;
	make(&tap, &cfg);
	assert_int_not_equal(if_nametoindex(name), 0);
	assert_true(fcntl(tap.fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(tap.fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(ioctl(tap.fd, TUNGETIFF, &ifr), 0);
	assert_int_equal(ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR),
			 IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	assert_int_equal(ioctl(tap.fd, TUNGETVNETHDRSZ, &hdr_len), 0);
	assert_int_equal(hdr_len, sizeof(struct virtio_net_hdr_v1));
	assert_int_equal(tap.mtu, 1500);
	assert_int_equal(tap.mac[0] & 3, 2); /* local, and no group's */
	assert_true(tap.offloads & BIT(VIRTIO_NET_F_HOST_TSO4));
	close(tap.fd);
	assert_int_equal(if_nametoindex(name), 0);
}

static void what_another_uses_is_busy(void **state)
{
	struct net_config cfg;
	struct tap tap, other;

	(void)state;
	make(&tap, &cfg);
	assert_int_equal(tap_open(&cfg, &other), -EBUSY);
	assert_int_equal(other.fd, -1);
	close(tap.fd);
}

static void a_tap_that_stays_has_the_same_mac_for_every_guest(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 7};
	struct net_config cfg;
	struct tap tap, again;

	(void)state;
	make(&tap, &cfg);
	assert_int_equal(ioctl(tap.fd, TUNSETPERSIST, 1), 0);
	close(tap.fd);
	assert_int_equal(tap_open(&cfg, &again), 0);
	assert_memory_equal(tap.mac, again.mac, sizeof(mac));
	close(again.fd);
	cfg.mac_set = true;
	memcpy(cfg.mac, mac, sizeof(mac));
	assert_int_equal(tap_open(&cfg, &again), 0);
	assert_memory_equal(again.mac, mac, sizeof(mac));
	ioctl(again.fd, TUNSETPERSIST, 0);
	close(again.fd);
}

/* tap_open() fails with -EINVAL and a line that has @text in it; it closes @fd, if that is not 0.
 */
static void assert_refused(const char *tap_name, int tap_fd, const char *text)
{
	const struct net_config cfg = {.tap = tap_name, .fd = tap_fd};
	int file = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO), ret;
	char said[512] = {0};
	struct tap tap;

	dup2(file, STDERR_FILENO);
	ret = tap_open(&cfg, &tap);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_true(pread(file, said, sizeof(said) - 1, 0) > 0);
	close(file);
	if (ret != -EINVAL || tap.fd != -1)
		fail_msg("%s: %d", text, ret);
	if (!strstr(said, text))
		fail_msg("'%s' lacks '%s'", said, text);
}

static void another_kind_of_interface_is_refused(void **state)
{
	static const struct {
		short flags;
		const char *text;
	} rows[] = {
		{IFF_TUN | IFF_NO_PI, "this is a tun, which carries IP packets"},
		{IFF_TAP | IFF_MULTI_QUEUE, "was made with multi_queue"},
	};
	struct net_config cfg;
	struct tap tap;

	(void)state;
	make(&tap, &cfg); /* or skip */
	close(tap.fd);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct ifreq ifr = {.ifr_flags = rows[i].flags};
		int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

		assert_true(fd >= 0);
		strcpy(ifr.ifr_name, name);
		assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
		assert_refused(name, 0, rows[i].text);
		close(fd);
	}
	assert_refused("lo", 0, "this interface is not a tap");
}

/* As whoever starts granule opens one. Return: a descriptor. */
static int open_tap(short flags)
{
	struct ifreq ifr = {.ifr_flags = flags};
	int fd = open("/dev/net/tun", O_RDWR);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, name);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	return fd;
}

static void a_descriptor_that_is_a_tap_is_taken(void **state)
{
	struct net_config cfg;
	struct tap tap, by_name;
	int hdr_len = 0;

	(void)state;
	make(&by_name, &cfg); /* or skip */
	assert_string_equal(by_name.name, name);
	close(by_name.fd);
	cfg.tap = "fd=N";
	cfg.fd = open_tap(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	assert_int_equal(tap_open(&cfg, &tap), 0);
	assert_int_equal(tap.fd, cfg.fd);
	assert_string_equal(tap.name, name);
	assert_int_equal(tap.mtu, 1500);
	assert_true(fcntl(tap.fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(ioctl(tap.fd, TUNGETVNETHDRSZ, &hdr_len), 0);
	assert_int_equal(hdr_len, sizeof(struct virtio_net_hdr_v1));
	assert_true(tap.offloads & BIT(VIRTIO_NET_F_HOST_TSO4));
	close(tap.fd);
}

static void a_descriptor_that_is_none_is_refused(void **state)
{
	struct net_config cfg;
	struct tap tap;
	int fd = open("/dev/null", O_RDWR);

	(void)state;
	assert_refused("fd=N", fd, "no tap that is attached");
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	make(&tap, &cfg); /* or skip */
	close(tap.fd);
	assert_refused("fd=N", open("/dev/net/tun", O_RDWR), "no tap that is attached");
	assert_refused("fd=N", open_tap(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR), "without IFF_TAP;");
	assert_refused("fd=N", open_tap(IFF_TAP | IFF_NO_PI), "without IFF_VNET_HDR;");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tap_is_made_and_goes),
		cmocka_unit_test(what_another_uses_is_busy),
		cmocka_unit_test(a_tap_that_stays_has_the_same_mac_for_every_guest),
		cmocka_unit_test(another_kind_of_interface_is_refused),
		cmocka_unit_test(a_descriptor_that_is_a_tap_is_taken),
		cmocka_unit_test(a_descriptor_that_is_none_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
