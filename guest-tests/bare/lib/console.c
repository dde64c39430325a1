/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>

#include "board.h"
#include "console.h"
#include "cpu.h"

/* Offset 0 is the transmit register of a 16550 and of a PL011; both VMMs take it at once. */
static void put(char c)
{
	mmio_write8(BOARD_UART, (uint8_t)c);
}

static void put_number(uint64_t val, unsigned base)
{
	char text[24];
	unsigned n = 0;

	do {
		text[n++] = "0123456789abcdef"[val % base];
		val /= base;
	} while (val);
	while (n)
		put(text[--n]);
}

void print(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	for (; *fmt; fmt++) {
		bool wide = false;
		int64_t val;

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == 'l') {
			wide = true;
			fmt++;
		}
		switch (*fmt) {
		case 's':
			for (const char *s = va_arg(args, const char *); *s; s++)
				put(*s);
			break;
		case 'c':
			put((char)va_arg(args, int));
			break;
		case 'd':
			val = wide ? va_arg(args, int64_t) : va_arg(args, int);
			if (val < 0)
				put('-');
			put_number(val < 0 ? -(uint64_t)val : (uint64_t)val, 10);
			break;
		case 'u':
			put_number(wide ? va_arg(args, uint64_t) : va_arg(args, unsigned), 10);
			break;
		case 'x':
			put_number(wide ? va_arg(args, uint64_t) : va_arg(args, unsigned), 16);
			break;
		default:
			put(*fmt);
			break;
		}
	}
	va_end(args);
}
