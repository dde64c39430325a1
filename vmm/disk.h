/* SPDX-License-Identifier: Apache-2.0 */
/* disk - the file or block device behind a virtio-blk: opened, checked, locked. */
#ifndef VMM_DISK_H
#define VMM_DISK_H

#include <stdbool.h>
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

/* Lines about one disk: a guest can have it fail for as long as it lives. */
#define DISK_LOG_MAX 100

/* What was said of a disk that fails; zero at first. */
struct disk_log {
	unsigned said; /* lines */
	uint64_t last_ns;
	unsigned unsaid;
};

/* disk_log_failure - a line on stderr, at most one a minute and DISK_LOG_MAX; how many went unsaid
 * is in the next.
 * @what: of the guest's, "write" say; @error: an errno, 0: the file ends before. One thread at a
 * time. */
void disk_log_failure(struct disk_log *log, const char *path, const char *what, int error);

#endif
