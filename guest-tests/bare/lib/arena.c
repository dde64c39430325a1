/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include "board.h"
#include "lib/string.h"
#include "vmm/layout.h"

#define MIB	   0x100000ull
#define OPEN_LEN   (16 * MIB)
#define BOARD_LEN  (4 * MIB)
#define CANARY_LEN (4 * MIB)
#define RINGS_LEN                                                                                  \
	MIB /* of the open part: that they are written over is rare, or nothing would run */

#define NR(array) (sizeof(array) / sizeof((array)[0]))

struct arena arena;

/* xorshift64*. Source: Marsaglia, "Xorshift RNGs", with Vigna's multiplier. */
uint64_t roll(struct dice *dice)
{
	dice->state ^= dice->state >> 12;
	dice->state ^= dice->state << 25;
	dice->state ^= dice->state >> 27;
	return dice->state * 0x2545f4914f6cdd1dull;
}

uint32_t below(struct dice *dice, uint32_t limit)
{
	return (uint32_t)((roll(dice) >> 32) * limit >> 32);
}

/* What a canary holds at @at. */
static uint64_t canary_word(uint64_t at)
{
	return (at + 1) * 0x9e3779b97f4a7c15ull;
}

static void fill(uint64_t at, uint64_t len)
{
	for (uint64_t *p = (uint64_t *)at; p < (uint64_t *)(at + len); p++)
		*p = canary_word((uint64_t)p);
}

static uint64_t first_change(uint64_t at, uint64_t len)
{
	for (const volatile uint64_t *p = (uint64_t *)at; p < (uint64_t *)(at + len); p++) {
		if (*p != canary_word((uint64_t)p))
			return (uint64_t)p;
	}
	return 0;
}

bool arena_init(const struct machine *machine)
{
	if (machine->ram_len < 64 * MIB)
		return false;
	arena.ram = machine->ram_base;
	arena.end = machine->ram_base + machine->ram_len;
	arena.open = arena.end - OPEN_LEN;
	arena.open_len = OPEN_LEN;
	arena.board = arena.open - BOARD_LEN;
	arena.board_pages = BOARD_LEN / ARENA_PAGE;
	arena.canary = arena.board - CANARY_LEN;
	arena.canary_len = CANARY_LEN;
	fill(arena.canary, CANARY_LEN + BOARD_LEN);
	return true;
}

uint64_t arena_intact(void)
{
	uint64_t at = first_change(arena.canary, arena.canary_len);

	for (unsigned i = 1; !at && i < arena.board_pages; i += 2)
		at = first_change(arena.board + i * ARENA_PAGE, ARENA_PAGE);
	return at;
}

void arena_board_fill(struct dice *dice)
{
	for (unsigned i = 0; i < arena.board_pages; i += 2)
		memset((void *)(arena.board + i * ARENA_PAGE), (int)below(dice, 256), ARENA_PAGE);
}

uint64_t arena_place(struct dice *dice, uint32_t len, uint32_t align)
{
	uint32_t first = one_in(dice, 256) ? 0 : RINGS_LEN,
		 room = (uint32_t)arena.open_len - len - first;

	return arena.open + first + (below(dice, room + 1) & ~(align - 1));
}

/* Also what is so near below RAM that a ring or transfer from there would reach it. */
static bool forbidden(uint64_t v)
{
	return v >= arena.ram - 32 * MIB && v < arena.open;
}

static uint64_t allow(uint64_t v)
{
	return forbidden(v) || forbidden(v & 0xffffffff) || forbidden(v >> 32)
		       ? arena.open | (v & 0xfff)
		       : v;
}

uint64_t arena_address(struct dice *dice)
{
	static const uint64_t windows[] = {
		0,
		LAYOUT_GICD_BASE,
		LAYOUT_ITS_BASE,
		LAYOUT_DOORBELL_BASE + 0x40,
		LAYOUT_GICR_BASE,
		LAYOUT_UART_BASE,
		LAYOUT_RTC_BASE,
		LAYOUT_VIRTIO_BASE,
		LAYOUT_DART_BASE,
		LAYOUT_PCI_MEM32_BASE,
		LAYOUT_PCI_ECAM_BASE,
		LAYOUT_PCI_IO_BASE,
		BOARD_NOWHERE,
		LAYOUT_RAM_HIGH_BASE,
		LAYOUT_PCI_MEM64_BASE,
		1ull << 32,
		1ull << 36,
		1ull << 40,
		1ull << 52,
		1ull << 63,
	};
	uint64_t v;

	switch (below(dice, 8)) {
	case 0:
		v = arena.end - below(dice, 0x40);
		break;
	case 1:
		v = arena.end + below(dice, 0x10000) - 0x8000;
		break;
	case 2:
		v = windows[below(dice, NR(windows))] + below(dice, 0x200);
		break;
	case 3:
		v = -(uint64_t)below(dice, 0x2000);
		break;
	case 4:
		v = roll(dice);
		break;
	default:
		return arena_place(dice, 0x1000, one_in(dice, 2) ? 0x1000 : 1u << below(dice, 5));
	}
	return allow(v);
}

uint64_t arena_value(struct dice *dice)
{
	uint64_t v;

	switch (below(dice, 8)) {
	case 0:
		return below(dice, 8);
	case 1:
		v = 1ull << below(dice, 64);
		break;
	case 2:
		v = ~(1ull << below(dice, 64));
		break;
	case 3:
		v = -(uint64_t)below(dice, 4);
		break;
	case 4:
		v = below(dice, 0x10000);
		break;
	case 5:
		v = roll(dice);
		break;
	default:
		return arena_address(dice);
	}
	return allow(v);
}

uint32_t arena_length(struct dice *dice)
{
	switch (below(dice, 8)) {
	case 0:
		return 0;
	case 1:
		return below(dice, 32);
	case 2:
		return 0xffffffffu - below(dice, 0x2000);
	case 3:
		return (uint32_t)roll(dice);
	case 4:
		return 1u << below(dice, 32);
	default:
		return 512u * (1 + below(dice, 64));
	}
}
