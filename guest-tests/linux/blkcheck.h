/* SPDX-License-Identifier: Apache-2.0 */
/* blkcheck - what its parts share. */
#ifndef GUEST_TESTS_LINUX_BLKCHECK_H
#define GUEST_TESTS_LINUX_BLKCHECK_H

#include <stdbool.h>
#include <stdint.h>

#define MAX_DEPTH 256u

extern int disk;	   /* open */
extern int failed;	   /* something was wrong and has been said */
extern unsigned nr_errors; /* requests that failed, where that may be */

/* fail - say what is wrong with a sector, if it is the first thing that is. Any thread. */
void fail(uint64_t sector, const char *what);

/* request_failed - fail(), unless requests may fail; @error: positive errno */
void request_failed(uint64_t sector, int error);

/* check_sectors - fail() if they do not hold what they should */
void check_sectors(const uint64_t *got, uint64_t sector, uint64_t count);

/**
 * blkrandom - carry out the history's last step, a random run (blkrandom.c)
 * @depth: I/Os in flight, at most MAX_DEPTH
 * @align: of buffers in memory, bytes, a divisor of SECTOR
 * @polled: the disk gives no interrupts: the kernel looks for completions (IORING_SETUP_IOPOLL)
 * A request that may fail and does ends it, once those in flight have ended. What it was to write
 * is there or not. Return: 0; 1 after fail() or a line that says what went wrong.
 */
int blkrandom(unsigned depth, unsigned align, bool polled);

#endif
