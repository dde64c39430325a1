/* SPDX-License-Identifier: Apache-2.0 */
/* blk - virtio-blk on a file, asynchronous on an io_uring its owner hands it. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "virtio/device.h"
#include "virtio/uring.h"

/**
 * blk_create
 * @fd: open, locked and checked by the caller; the device closes it
 * @size: bytes, a multiple of 512 is served
 * @serial: up to 20 characters, for VIRTIO_BLK_T_GET_ID
 * Its notify() must run on the ring's thread.
 * Return: 0; -ENOMEM (fd then still the caller's).
 */
int blk_create(int fd, uint64_t size, bool readonly, const char *serial, struct io_uring *ring,
	       struct virtio_dev **out);

#endif
