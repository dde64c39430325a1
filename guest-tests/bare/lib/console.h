/* SPDX-License-Identifier: Apache-2.0 */
/* console - text on the UART. */
#ifndef BARE_CONSOLE_H
#define BARE_CONSOLE_H

/* print - knows %s %c %u %d %x and the same with l, and %% */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
