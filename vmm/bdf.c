/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/bdf.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* take - one hexadecimal number of 1..@digits digits. Return: false if there is none such. */
static bool take(const char **text, unsigned digits, unsigned long *out)
{
	char buf[9];
	unsigned n = 0;

	while (n < digits && isxdigit((unsigned char)(*text)[n])) {
		buf[n] = (*text)[n];
		n++;
	}
	buf[n] = '\0';
	*text += n;
	*out = strtoul(buf, NULL, 16);
	return n;
}

int bdf_parse(const char *text, char bdf[BDF_LEN])
{
	unsigned long field[3], domain = 0, bus, device, function;

	if (!take(&text, 8, &field[0]) || *text++ != ':' || !take(&text, 8, &field[1]))
		return -EINVAL;
	if (*text == ':') {
		text++;
		if (!take(&text, 8, &field[2]))
			return -EINVAL;
		domain = field[0];
		bus = field[1];
		device = field[2];
	} else {
		bus = field[0];
		device = field[1];
	}
	if (*text++ != '.' || !take(&text, 8, &function) || *text)
		return -EINVAL;
	if (bus > 0xff || device > 0x1f || function > 7)
		return -EINVAL;
	snprintf(bdf, BDF_LEN, "%04lx:%02lx:%02lx.%lx", domain, bus, device, function);
	return 0;
}
