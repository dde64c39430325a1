/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena - the memory of an attack. A guest that attacks its VMM must not hit itself, or nobody is
 * left to report: devices may be told of the open part, which lies at the very end of RAM, so that
 * a length that grows leaves RAM; of every other page of the board, and of what is no RAM at all.
 */
#ifndef BARE_ARENA_H
#define BARE_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "dtb.h"

#define ARENA_PAGE 0x1000u

/* A random number generator; one for each vCPU. */
struct dice {
	uint64_t state; /* not 0 */
};

uint64_t roll(struct dice *dice);		   /* any 64 bits */
uint32_t below(struct dice *dice, uint32_t limit); /* 0 .. limit - 1 */
static inline bool one_in(struct dice *dice, uint32_t n)
{
	return below(dice, n) == 0;
}

struct arena {
	uint64_t ram, end;	     /* all of low RAM, the end exclusive */
	uint64_t canary, canary_len; /* never shown to any device */
	uint64_t board;		     /* pages 0, 2, 4, ... may be mapped, the others are canaries */
	unsigned board_pages;
	uint64_t open, open_len; /* anything may write here; ends with RAM */
};

extern struct arena arena;

/* arena_init - Return: false: there is less than 64 MiB. Fills board and canary. */
bool arena_init(const struct machine *machine);

/* arena_intact - the first address of a canary that has changed; 0: none has */
uint64_t arena_intact(void);

/* arena_board_fill - write the pages that devices may write again */
void arena_board_fill(struct dice *dice);

/* arena_place - an address in the open part with room for @len (up to 64 KiB), a multiple of @align
 */
uint64_t arena_place(struct dice *dice, uint32_t len, uint32_t align);

/* arena_address - any address: open RAM, RAM's end and beyond it, devices, holes, the ends of 2^64
 */
uint64_t arena_address(struct dice *dice);

/* arena_value - what to write to a register: like arena_address(), small numbers, single bits,
 * noise. It is no address of RAM outside the open part, nor is a half of it. */
uint64_t arena_value(struct dice *dice);

/* arena_length - a length no driver would use, or one it would */
uint32_t arena_length(struct dice *dice);

#endif
