/* SPDX-License-Identifier: Apache-2.0 */
/* rng - virtio-rng from getrandom(2). */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "virtio/device.h"

int rng_create(struct virtio_dev **out); /* Return: 0; -ENOMEM. */

#endif
