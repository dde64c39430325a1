/* SPDX-License-Identifier: Apache-2.0 */
/* dtb - the few questions a payload has for the device tree. */
#ifndef BARE_DTB_H
#define BARE_DTB_H

#include <stdint.h>

#define DTB_MAX_CPUS 8

struct machine {
	uint64_t ram_base, ram_len; /* the lowest memory node's first range, bytes */
	uint64_t ram_high_base, ram_high_len; /* RAM from 4 GiB up; 0: none */
	unsigned nr_cpus;
	uint64_t mpidr[DTB_MAX_CPUS]; /* in tree order */
	const char *cmdline;	      /* "" if there is none */
};

/* dtb_read - Return: 0; -1 it is no device tree, or has no memory or cpu in it. */
int dtb_read(const void *dtb, struct machine *out);

/* dtb_parameter - the number in the command line's word @name=number; @otherwise: it is not there */
uint64_t dtb_parameter(const struct machine *machine, const char *name, uint64_t otherwise);

#endif
