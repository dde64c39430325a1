/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_mem - the physical memory behind simulated DARTs that our driver owns. Host pages (guest RAM,
 * bounce pages) get a physical address when the driver first asks for one; tables come from memory
 * of its own. Shared by all DARTs of a VM, so that they can share tables.
 *
 * Addresses have 36 bits, the width of the narrowest DART, and are given out 2 MiB at a time: a
 * 2 MiB block of this process gets a 2 MiB block of addresses, for good. So what is contiguous and
 * congruent here is there too, and the books are of fixed size. Within a block only pages that were
 * asked for (or are tables) exist; an access to any other is a bus error.
 *
 * Any thread may call anything but create and destroy; sim_mem_at() takes no lock.
 */
#ifndef VMM_SIM_MEM_H
#define VMM_SIM_MEM_H

#include <stddef.h>
#include <stdint.h>

#define SIM_MEM_PAGE	0x4000u /* bytes of a DART's page and table, whatever the host's page is */
#define SIM_MEM_PA_BITS 36

struct sim_mem;

int sim_mem_create(struct sim_mem **out);  /* Return: 0; -ENOMEM */
void sim_mem_destroy(struct sim_mem *mem); /* after the DARTs and the mediator; NULL is fine */

/**
 * sim_mem_pa_of - the address of host memory; as dart_mem_ops.pa_of
 * @run: bytes from @hva on that are contiguous, <= @len; ends at a multiple of 2 MiB
 * Return: 0; -EFAULT all addresses are taken (the first time after a line on stderr).
 */
int sim_mem_pa_of(struct sim_mem *mem, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run);

/* sim_mem_at - what is at @pa; @len bytes within one page. NULL: nothing, a bus error. */
void *sim_mem_at(const struct sim_mem *mem, uint64_t pa, size_t len);

/* sim_mem_alloc - a page of zeroes that is no host page's, for a table; NULL: no memory */
void *sim_mem_alloc(struct sim_mem *mem, uint64_t *pa);
/* sim_mem_free - give it back: from now on nothing is there. What is not given back goes with @mem.
 */
void sim_mem_free(struct sim_mem *mem, void *page);

#endif
