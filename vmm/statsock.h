/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statsock - what a VM that runs tells of itself, over a socket of its own that only its user (and
 * root) may connect to: `granule run --live-stats`, `granule stat PID`, `granule inspect --domain`.
 *
 * Whoever connects sends one struct ask, is sent one answer that fits an empty socket buffer, and
 * is hung up on. Who asks nothing, or slowly, is waited for statsock_patience_ns at most, and
 * clients that have not asked yet are bounded: one more, and the oldest is hung up on. The socket
 * is granule-PID.sock in $XDG_RUNTIME_DIR; without it, in /run for root and in /run/user/UID for
 * others.
 */
#ifndef VMM_STATSOCK_H
#define VMM_STATSOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/evloop.h"
#include "vmm/stats.h"
#include "vmm/view.h"

enum ask_what {
	ASK_STATS,
	ASK_VM,
	ASK_DOMAIN, /* the one with the lowest number from .domain on */
	ASK_PIECE,  /* of .domain, from iova .at on */
	NR_ASKS,
};

struct ask {
	uint32_t what; /* enum ask_what */
	uint32_t domain;
	uint64_t at;
};

union answer {
	struct stats stats;
	struct view_vm vm;
	struct view_domain domain;
	struct view_piece piece;
};

struct statsock;

/* statsock_path - where statsock_create() will put this process's. Return: 0; -ENAMETOOLONG. */
int statsock_path(char *path, size_t len);

/* Clients that have connected and not asked yet, at most. */
#define STATSOCK_MAX_CLIENTS 16

/* How long either side waits for the other: 10 s; tests make it short. */
extern uint64_t statsock_patience_ns;

/**
 * statsock_create - listen
 * @answer: fills what is all zero, the member of @ask->what, which is below NR_ASKS; called on the
 * loop's thread
 * Return: 0; -errno after a line on stderr.
 */
int statsock_create(struct evloop *loop,
		    void (*answer)(void *ctx, const struct ask *ask, union answer *out), void *ctx,
		    struct statsock **out);
void statsock_destroy(struct statsock *sock); /* removes the socket; NULL is fine */

/**
 * statsock_ask - ask process @pid
 * @command: for messages
 * @again: it has answered before
 * Return: 0, and what it said is sound; -ESHUTDOWN @again, and it has ended; after a line on
 * stderr: -ESRCH no such process, -ENOENT it has no socket, -EACCES it is another user's, -EPROTO
 * it is of another version, -ECONNREFUSED or -ETIMEDOUT nobody answers.
 */
int statsock_ask(const char *command, pid_t pid, bool again, const struct ask *ask,
		 union answer *out);

#endif
