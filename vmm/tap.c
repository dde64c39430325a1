/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "iommu/base.h"
#include "virtio/net.h"
#include "vmm/msg.h"

/* Kernel headers have them since Linux 6.2; the kernel knows what it does not know. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define CLONE_DEVICE "/dev/net/tun"

_Static_assert(CONFIG_TAP_NAME_MAX == IFNAMSIZ - 1, "as long as Linux lets it be");

static int set_offloads(int fd, unsigned flags)
{
	return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) ? -errno : 0;
}

void tap_set_offloads(int fd, uint64_t guest)
{
	static const struct {
		unsigned feature, flag;
	} offloads[] = {
		{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},	 {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
		{VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN}, {VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4},
		{VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6},
	};
	unsigned flags = 0;

	/* All others need this one: virtio 1.3, 5.1.3.1. */
	if (guest & BIT(VIRTIO_NET_F_GUEST_CSUM)) {
		flags |= TUN_F_CSUM;
		for (size_t i = 0; i < ARRAY_SIZE(offloads); i++)
			flags |= guest & BIT(offloads[i].feature) ? offloads[i].flag : 0;
	}
	/* A choice that makes no sense to the kernel (ECN without TSO): packets without any are
	 * always right. */
	if (set_offloads(fd, flags))
		set_offloads(fd, 0);
}

/* What the kernel can do in either direction. Offloads are off then. */
static uint64_t probe_offloads(int fd)
{
	const unsigned tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	uint64_t offloads = 0;

	if (!set_offloads(fd, tso))
		offloads |= BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |
			    BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) |
			    BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
			    BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN);
	if (!set_offloads(fd, tso | TUN_F_USO4 | TUN_F_USO6))
		offloads |= BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO4) |
			    BIT(VIRTIO_NET_F_GUEST_USO6);
	set_offloads(fd, 0);
	return offloads;
}

/* The interface's own flags (enum in <linux/if_tun.h>), or -1: it is no tun or tap. */
static long tun_flags(const char *name)
{
	char path[sizeof("/sys/class/net//tun_flags") + IFNAMSIZ], text[32];
	FILE *file;
	long flags = -1;

	snprintf(path, sizeof(path), "/sys/class/net/%s/tun_flags", name);
	file = fopen(path, "re");
	if (!file)
		return -1;
	if (fgets(text, sizeof(text), file))
		flags = strtol(text, NULL, 16);
	fclose(file);
	return flags;
}

/* Why TUNSETIFF failed, in words. */
static void explain(const char *name, int error, bool exists)
{
	long flags = exists ? tun_flags(name) : -1;

	if (error == EPERM && !exists)
		msg_error("--net %s: there is no such interface, and no right to make it; make it "
			  "with ip tuntap add dev %s mode tap user USER, or run as root",
			  name, name);
	else if (error == EPERM)
		msg_error("--net %s: it belongs to another user; make it with ip tuntap add dev %s "
			  "mode tap user USER, or run as root",
			  name, name);
	else if (error == EBUSY)
		msg_error("--net %s: another process uses it; give each guest a tap of its own",
			  name);
	else if (error == EINVAL && exists && flags < 0)
		msg_error("--net %s: this interface is not a tap; give a tap, and put both into a "
			  "bridge",
			  name);
	else if (error == EINVAL && exists && (flags & IFF_TUN))
		msg_error("--net %s: this is a tun, which carries IP packets; granule needs a tap",
			  name);
	else if (error == EINVAL && exists && (flags & IFF_MULTI_QUEUE))
		msg_error("--net %s: this tap was made with multi_queue; granule needs one without",
			  name);
	else
		msg_error("--net %s: the tap cannot be used: %s", name, strerror(error));
}

/* Headers as virtio has them, before each packet. Return: 0; -errno after a line on stderr. */
static int set_headers(int fd, const char *name)
{
	int hdr_len = sizeof(struct virtio_net_hdr_v1), little = 1, ret;

	if (!ioctl(fd, TUNSETVNETHDRSZ, &hdr_len) && !ioctl(fd, TUNSETVNETLE, &little))
		return 0;
	ret = -errno;
	msg_error("--net %s: this host's kernel has no virtio headers for it: %s", name,
		  strerror(-ret));
	return ret;
}

/* Attach @fd. Return: 0; -errno after a line on stderr. */
static int attach(int fd, const char *name, bool exists)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int ret;

	memcpy(ifr.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &ifr)) {
		ret = -errno;
		explain(name, -ret, exists);
		return ret;
	}
	return set_headers(fd, name);
}

/* What @tap->fd is attached to, by whoever opened it. Return: 0; -errno after a line on stderr. */
static int take(struct tap *tap, const char *text)
{
	struct ifreq ifr = {0};
	int flags;

	if (ioctl(tap->fd, TUNGETIFF, &ifr)) {
		msg_error("--net %s: this descriptor is no tap that is attached: open " CLONE_DEVICE
			  " and use TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
			  text);
		return -EINVAL;
	}
	flags = ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	if (flags != (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) {
		msg_error("--net %s: %s was attached without %s; granule needs IFF_TAP, IFF_NO_PI "
			  "and IFF_VNET_HDR",
			  text, ifr.ifr_name,
			  !(flags & IFF_TAP)	 ? "IFF_TAP"
			  : !(flags & IFF_NO_PI) ? "IFF_NO_PI"
						 : "IFF_VNET_HDR");
		return -EINVAL;
	}
	if (fcntl(tap->fd, F_SETFL, O_NONBLOCK)) {
		msg_error("--net %s: %s", text, strerror(errno));
		return -EINVAL;
	}
	memcpy(tap->name, ifr.ifr_name, sizeof(tap->name));
	tap->name[sizeof(tap->name) - 1] = '\0';
	return set_headers(tap->fd, text);
}

/*
 * The guest's address, if none was given: locally administered, and the same as long as the
 * interface is the same, whose own address the kernel chose at random. Not that address: it is the
 * host's.
 */
static void derive_mac(const uint8_t *own, const char *name, uint8_t mac[6])
{
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	for (unsigned i = 0; i < 6; i++)
		hash = (hash ^ own[i]) * UINT64_C(1099511628211);
	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * UINT64_C(1099511628211);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)(hash >> (8 * i + 8));
	mac[0] = (uint8_t)((mac[0] & ~1u) | 2u);
}

/* What the interface itself tells, and its state if it is new. Return: 0; -errno after a line. */
static int look_at(struct tap *tap, const struct net_config *cfg, bool is_new)
{
	struct ifreq ifr = {0};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any, for its ioctls */
	int ret = 0;

	memcpy(ifr.ifr_name, tap->name, strlen(tap->name));
	if (fd < 0 || ioctl(fd, SIOCGIFMTU, &ifr))
		goto err_ioctl;
	tap->mtu = (uint16_t)MIN(ifr.ifr_mtu, UINT16_MAX);
	if (ioctl(fd, SIOCGIFHWADDR, &ifr))
		goto err_ioctl;
	if (cfg->mac_set)
		memcpy(tap->mac, cfg->mac, sizeof(tap->mac));
	else
		derive_mac((uint8_t *)ifr.ifr_hwaddr.sa_data, tap->name, tap->mac);
	if (!memcmp(tap->mac, ifr.ifr_hwaddr.sa_data, sizeof(tap->mac)))
		msg_warn("--net %s: mac= is the interface's own address; the guest needs another",
			 cfg->tap);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr))
		goto err_ioctl;
	if (is_new) {
		ifr.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &ifr))
			goto err_ioctl;
	} else if (!(ifr.ifr_flags & IFF_UP)) {
		msg_warn("--net %s: the interface is down: no packet gets through before ip link "
			 "set %s up",
			 cfg->tap, tap->name);
	}
	close(fd);
	return 0;

err_ioctl:
	ret = -errno;
	msg_error("--net %s: the interface cannot be set up: %s", cfg->tap, strerror(-ret));
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Attach to the interface @cfg->tap. Return: 0; -errno after a line on stderr; out->fd is open or
 * -1.
 */
static int open_by_name(const struct net_config *cfg, bool exists, struct tap *out)
{
	int ret;

	out->fd = open(CLONE_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (out->fd < 0) {
		ret = -errno;
		if (ret == -ENOENT || ret == -ENODEV || ret == -ENXIO)
			msg_error("--net %s: this host has no " CLONE_DEVICE
				  ": load its module with modprobe tun",
				  cfg->tap);
		else
			msg_error("--net %s: " CLONE_DEVICE ": %s%s", cfg->tap, strerror(-ret),
				  ret == -EACCES
					  ? "; run as root, or give it mode 666, as udev does"
					  : "");
		return ret;
	}
	strcpy(out->name, cfg->tap);
	return attach(out->fd, cfg->tap, exists);
}

int tap_open(const struct net_config *cfg, struct tap *out)
{
	bool exists = cfg->fd || if_nametoindex(cfg->tap);
	int ret;

	out->fd = cfg->fd;
	ret = cfg->fd ? take(out, cfg->tap) : open_by_name(cfg, exists, out);
	if (!ret)
		ret = look_at(out, cfg, !exists);
	if (ret) {
		if (out->fd >= 0)
			close(out->fd);
		out->fd = -1;
		return ret;
	}
	out->offloads = probe_offloads(out->fd);
	return 0;
}
