/* SPDX-License-Identifier: Apache-2.0 */
/* console - virtio-console, one port. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "virtio/device.h"

/**
 * console_create
 * @output: what the guest wrote; called with dev->lock held
 * Return: 0; -ENOMEM.
 */
int console_create(void (*output)(void *ctx, const void *buf, size_t len), void *ctx,
		   struct virtio_dev **out);

/* The two below: any thread, once the transport has the device; they take dev->lock. */

/* console_input - bytes for the guest. Return: how many were taken (the rest: later). */
size_t console_input(struct virtio_dev *dev, const void *buf, size_t len);

/* console_resize - tell the guest the terminal's size, in characters */
void console_resize(struct virtio_dev *dev, uint16_t cols, uint16_t rows);

#endif
