/* SPDX-License-Identifier: Apache-2.0 */
/*
 * term - the operator's side of the console: standard input and output, and the signals that end a
 * run.
 *
 * A terminal on standard input is put into raw mode and always put back: by term_destroy(), by
 * exit(), by a fatal signal. There Ctrl-A is the escape: Ctrl-A x quits, Ctrl-A Ctrl-A sends one,
 * Ctrl-A h lists them. Input that is no terminal is passed as it is; when it ends, the guest runs
 * on.
 *
 * SIGINT, SIGTERM and SIGHUP stop the loop with 128 + n, and so does a terminal that is gone (129).
 */
#ifndef VMM_TERM_H
#define VMM_TERM_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/evloop.h"

/* term_block_signals - hold the signals above back from here on, in this thread and those it
 * starts; call it before anything that must be undone. One that the caller's parent had ignored
 * (nohup) stays ignored. */
void term_block_signals(void);

/* term_pending_signal - one of those signals that waits, for a set-up that takes long; 0: none */
int term_pending_signal(void);

/* term_restore - put the terminal back as it was, if it was taken; any thread, also in a signal
 * handler */
void term_restore(void);

struct term_cfg {
	int in, out; /* descriptors; stay the caller's */
	struct evloop *loop;
	/* Bytes for the guest, on the loop's thread. Return: how many were taken; the rest comes
	 * again. */
	size_t (*input)(void *ctx, const void *buf, size_t len);
	/* The terminal's size in characters, now and when it changes, on the loop's thread. */
	void (*resize)(void *ctx, uint16_t cols, uint16_t rows);
	void *ctx;
};

struct term;

/* term_create - take the terminal over. Return: 0; -errno. */
int term_create(const struct term_cfg *cfg, struct term **out);
/* term_destroy - write the last of the output, give the terminal back; says how many bytes could
 * not be written. NULL is fine. */
void term_destroy(struct term *term);

/**
 * term_output - write what the guest printed, any thread; it may come out 10 ms later
 *
 * Waits for a slow reader, but not for ever: after 5 s without any progress bytes are dropped until
 * it reads again. A pipe without a reader swallows everything.
 */
void term_output(struct term *term, const void *buf, size_t len);

/* term_hurry - nobody waits in term_output() from now on, and what finds no room is lost; any
 * thread */
void term_hurry(struct term *term);

#endif
