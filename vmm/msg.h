/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msg - the operator's lines on stderr, each "granule: ...", whole even between threads; in raw
 * terminal mode with a carriage return. Errors say what is wrong, the value, what to do.
 */
#ifndef VMM_MSG_H
#define VMM_MSG_H

#include <stdbool.h>
#include <stddef.h>

void msg_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void msg_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void msg_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* msg_verbose - from now on msg_tell() and msg_notable() say something; before any thread does */
void msg_verbose(bool on);
bool msg_is_verbose(void);

/* msg_tell - a line of --verbose about how the guest is set up */
void msg_tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* msg_notable - a line of --verbose about a moment that the guest chooses: so many and no more. It
 * waits for nobody: a line that cannot go out at once is left out, and the next one says so. */
void msg_notable(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define MSG_NOTABLE_MAX 500

/* msg_text - @len bytes of whole lines as they are, with the patience that all messages have; not
 * while the terminal is raw */
void msg_text(const char *text, size_t len);

/* msg_raw_terminal - lines must end in \r\n from now on (or no longer) */
void msg_raw_terminal(bool raw);

#endif
