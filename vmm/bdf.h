/* SPDX-License-Identifier: Apache-2.0 */
/* bdf - PCI addresses as people and sysfs write them: [DDDD:]BB:DD.F, hexadecimal. */
#ifndef VMM_BDF_H
#define VMM_BDF_H

#define BDF_LEN 20 /* with the NUL; a domain may have 8 digits */

/**
 * bdf_parse - the address in sysfs's spelling (domain and zeros filled in, lower case)
 * Return: 0; -EINVAL not an address.
 */
int bdf_parse(const char *text, char bdf[BDF_LEN]);

#endif
