/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statsock - the statistics of a VM that runs, over a socket of its own that only its user (and
 * root) may connect to: `granule run --live-stats`, `granule stat PID`.
 *
 * Whoever connects is sent one struct stats and is hung up on: there is nothing to wait for, and a
 * client that never reads holds nothing up. The socket is granule-PID.sock in $XDG_RUNTIME_DIR;
 * without it, in /run for root and in /run/user/UID for others.
 */
#ifndef VMM_STATSOCK_H
#define VMM_STATSOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/evloop.h"
#include "vmm/stats.h"

struct statsock;

/**
 * statsock_create - listen
 * @collect: fills what is all zero; called on the loop's thread
 * Return: 0; -errno after a line on stderr.
 */
int statsock_create(struct evloop *loop, void (*collect)(void *ctx, struct stats *out), void *ctx,
		    struct statsock **out);
void statsock_destroy(struct statsock *sock); /* removes the socket; NULL is fine */

/**
 * statsock_fetch - ask process @pid
 * @again: it has answered before
 * Return: 0; -ESHUTDOWN @again, and it has ended; after a line on stderr: -ESRCH no such process,
 * -ENOENT it has no socket, -EACCES it is another user's, -EPROTO it is of another version,
 * -ECONNREFUSED or -ETIMEDOUT nobody answers.
 */
int statsock_fetch(pid_t pid, bool again, struct stats *out);

#endif
