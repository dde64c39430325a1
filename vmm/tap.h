/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap - the host's end of a virtio-net: a tap interface, attached and set up for packets with a
 * struct virtio_net_hdr_v1 before each.
 * Source: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c.
 */
#ifndef VMM_TAP_H
#define VMM_TAP_H

#include <stdint.h>

#include "vmm/cli.h"

struct tap {
	int fd; /* non-blocking */
	char name[CONFIG_TAP_NAME_MAX + 1];
	uint8_t mac[6];	   /* the guest's: as given, or made from the interface's own */
	uint16_t mtu;	   /* of the interface, bytes */
	uint64_t offloads; /* for struct net_cfg */
};

/**
 * tap_open - attach to the interface @cfg->tap, or make it, or take @cfg->fd, which is attached
 *
 * One that is made is set up and goes with the descriptor; the addresses of either are the user's
 * affair. Return: 0; -errno after a line on stderr.
 */
int tap_open(const struct net_config *cfg, struct tap *out);

/* tap_set_offloads - struct net_cfg's set_offloads() */
void tap_set_offloads(int fd, uint64_t guest);

#endif
