/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msg - the operator's lines on stderr, each "granule: ...", whole even between threads; in raw
 * terminal mode with a carriage return. Errors say what is wrong, the value, what to do.
 */
#ifndef VMM_MSG_H
#define VMM_MSG_H

#include <stdbool.h>

void msg_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void msg_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void msg_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* msg_raw_terminal - lines must end in \r\n from now on (or no longer) */
void msg_raw_terminal(bool raw);

#endif
