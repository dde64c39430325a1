/* SPDX-License-Identifier: Apache-2.0 */
/* disk - the file or block device behind a virtio-blk: opened, checked, locked. */
#ifndef VMM_DISK_H
#define VMM_DISK_H

#include <stdint.h>

#include "vmm/cli.h"

/**
 * disk_open - open @cfg->path so that no two guests write one disk
 * @size: bytes, a multiple of 512
 *
 * The lock is an open-file-description lock on the whole file, shared for a read-only disk; it goes
 * with the descriptor.
 * Return: a descriptor >= 0, the caller's; -errno after a line on stderr.
 */
int disk_open(const struct disk_config *cfg, uint64_t *size);

#endif
