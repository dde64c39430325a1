/* SPDX-License-Identifier: Apache-2.0 */
/* devices - `granule devices`: every PCI function of the host, as text or JSON. */
#ifndef VMM_DEVICES_H
#define VMM_DEVICES_H

#include <stdbool.h>
#include <stdio.h>

/* The names of vendors, devices and classes; need not exist. A unit test has its own. */
extern const char *devices_pci_ids;

/* devices_print - Return: 0; -ENOMEM; -errno of reading /sys. */
int devices_print(FILE *out, bool json);

#endif
