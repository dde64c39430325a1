/* SPDX-License-Identifier: Apache-2.0 */
#include "blkcontents.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTORS_PER_BLOCK (BLOCK / SECTOR)
#define MAX_STEPS	  96u

/*
 * What a generation touches: single blocks, one in 16, in the third quarter of the disk, and every
 * fourth run of 1 MiB in the last.
 */
#define ONE_BLOCK_IN 16
#define ONE_RUN_IN   4

/* A word of a random run before it is mixed, from the top. */
#define TAG_BITS   12u /* which run */
#define INDEX_BITS 6u  /* where in the sector, words */
#define IO_BITS	   20u
#define PLACE_BITS 26u /* the sector's number: disks of up to 32 GiB */

struct step {
	bool random;
	unsigned generation;
	uint64_t seed;
	unsigned nr_ios;
	uint64_t tag;
};

/* What wrote a sector last. */
struct stamp {
	uint8_t step; /* 0: generation 0 */
	bool zero;
	uint32_t io;
};

static struct step history[MAX_STEPS + 1]; /* [0] is generation 0 */
static unsigned nr_steps;
static uint64_t nr_blocks, nr_sectors;
static struct stamp *stamps; /* one per sector */

uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* The factors are the inverses of mix()'s modulo 2^64. */
uint64_t unmix(uint64_t x)
{
	x = (x ^ x >> 31 ^ x >> 62) * UINT64_C(0x319642b2d24d8ec3);
	x = (x ^ x >> 27 ^ x >> 54) * UINT64_C(0x96de1b173f119089);
	x ^= x >> 30 ^ x >> 60;
	return x - UINT64_C(0x9e3779b97f4a7c15);
}

/* ---- history ---- */

static struct step *add_step(void)
{
	return nr_steps < MAX_STEPS ? &history[++nr_steps] : NULL;
}

int history_add_generation(unsigned generation)
{
	struct step *step = generation ? add_step() : NULL;

	if (!step)
		return -1;
	step->generation = generation;
	return 0;
}

int history_add_random(uint64_t seed, unsigned nr_ios)
{
	struct step *step = nr_ios && nr_ios <= MAX_RANDOM_IOS ? add_step() : NULL;

	if (!step)
		return -1;
	step->random = true;
	step->seed = seed;
	step->nr_ios = nr_ios;
	step->tag = mix(seed + nr_steps) >> (64 - TAG_BITS);
	return 0;
}

bool history_ends_in_generation(void)
{
	return nr_steps && !history[nr_steps].random;
}

bool history_ends_in_random(unsigned *nr_ios)
{
	*nr_ios = history[nr_steps].nr_ios;
	return history[nr_steps].random;
}

bool written_alone(uint64_t block)
{
	return block >= nr_blocks / 2 && block < nr_blocks / 4 * 3 &&
	       mix(block) % ONE_BLOCK_IN == 0;
}

bool written_in_run(uint64_t block)
{
	uint64_t run = block / (RUN / BLOCK);

	return block >= nr_blocks / 4 * 3 && run % ONE_RUN_IN == 0 &&
	       (run + 1) * (RUN / BLOCK) <= nr_blocks;
}

static void stamp(uint64_t sector, uint64_t count, struct stamp by)
{
	while (count--)
		stamps[sector++] = by;
}

static void do_generation(unsigned step)
{
	for (uint64_t block = 0; block < nr_blocks; block++) {
		if (written_alone(block) || written_in_run(block))
			stamp(block * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK,
			      (struct stamp){.step = (uint8_t)step});
	}
}

/*
 * Half of the I/Os are at most a page, a quarter at most four, the rest up to 128 KiB; none needs
 * to begin or end where a page does.
 */
static struct random_io io_of(const struct step *run, unsigned index)
{
	static const unsigned limits[] = {8, 8, 8, 8, 32, 32, 128, MAX_RANDOM_SECTORS};
	uint64_t dice = mix(mix(run->seed) + index), more = mix(dice);
	unsigned kind = dice % 64;
	struct random_io io = {.kind = kind < 31 ? RANDOM_READ : RANDOM_WRITE};

	if (kind >= 62) {
		io.kind = kind == 62 ? RANDOM_ZERO : RANDOM_FLUSH;
		if (io.kind == RANDOM_FLUSH)
			return io;
	}
	io.nr_sectors = 1 + (unsigned)(dice >> 32) % limits[dice >> 8 & 7];
	if (io.nr_sectors > nr_sectors)
		io.nr_sectors = 1;
	io.sector = more % (nr_sectors - io.nr_sectors + 1);
	return io;
}

struct random_io random_io_get(unsigned index)
{
	return io_of(&history[nr_steps], index);
}

static void do_io(const struct random_io *io, unsigned step, unsigned index)
{
	if (io->kind == RANDOM_WRITE || io->kind == RANDOM_ZERO)
		stamp(io->sector, io->nr_sectors,
		      (struct stamp){(uint8_t)step, io->kind == RANDOM_ZERO, index});
}

void random_io_done(const struct random_io *io, unsigned index)
{
	do_io(io, nr_steps, index);
}

void contents_init(uint64_t blocks, bool leave_last)
{
	nr_blocks = blocks;
	nr_sectors = blocks * SECTORS_PER_BLOCK;
	stamps = calloc(nr_sectors + 1, sizeof(*stamps));
	if (!stamps) {
		fprintf(stderr, "blkcheck: out of memory\n");
		exit(2);
	}
	for (unsigned i = 1; i <= nr_steps - (leave_last ? 1 : 0); i++) {
		if (!history[i].random)
			do_generation(i);
		for (unsigned j = 0; j < history[i].nr_ios; j++) {
			struct random_io io = io_of(&history[i], j);

			do_io(&io, i, j);
		}
	}
}

/* ---- contents ---- */

void make_generation_block(uint64_t *words, uint64_t block, unsigned generation)
{
	uint64_t x = mix(block << 16 | generation);

	words[0] = block;
	words[1] = generation;
	for (size_t i = 2; i < BLOCK_WORDS; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		words[i] = x ^ x >> 32;
	}
}

/* A generation's part of one sector. Sectors are asked for in order, so the block is kept. */
static const uint64_t *generation_sector(uint64_t sector, unsigned generation)
{
	static _Thread_local uint64_t words[BLOCK_WORDS], made = UINT64_MAX;
	static _Thread_local unsigned made_generation;
	uint64_t block = sector / SECTORS_PER_BLOCK;

	if (made != block || made_generation != generation)
		make_generation_block(words, block, generation);
	made = block;
	made_generation = generation;
	return words + sector % SECTORS_PER_BLOCK * SECTOR_WORDS;
}

static void make_stamped(uint64_t *words, uint64_t sector, struct stamp by)
{
	const struct step *step = &history[by.step];
	uint64_t base;

	if (!step->random) {
		memcpy(words, generation_sector(sector, step->generation), SECTOR);
	} else if (by.zero) {
		memset(words, 0, SECTOR);
	} else {
		base = (step->tag << (64 - TAG_BITS)) | (uint64_t)by.io << PLACE_BITS | sector;
		for (uint64_t i = 0; i < SECTOR_WORDS; i++)
			words[i] = mix(base | i << (IO_BITS + PLACE_BITS));
	}
}

void make_sector(uint64_t *words, uint64_t sector)
{
	make_stamped(words, sector, stamps[sector]);
}

/* ---- complaints ---- */

/* Is it a word of a random run? */
static bool say_random_word(uint64_t word, char *said, size_t size)
{
	uint64_t plain = unmix(word), place = plain & ((UINT64_C(1) << PLACE_BITS) - 1);
	unsigned io = plain >> PLACE_BITS & ((1u << IO_BITS) - 1);
	unsigned index = plain >> (PLACE_BITS + IO_BITS) & ((1u << INDEX_BITS) - 1);

	for (unsigned i = 1; i <= nr_steps; i++) {
		const struct step *step = &history[i];

		if (!step->random || plain >> (64 - TAG_BITS) != step->tag || io >= step->nr_ios ||
		    place >= nr_sectors)
			continue;
		snprintf(said, size,
			 "byte %zu of sector %" PRIu64 " as I/O %u of seed %" PRIu64 " wrote it",
			 index * sizeof(uint64_t), place, io, step->seed);
		return true;
	}
	return false;
}

/* Is it a word of a generation, in some block? */
static bool say_generation_word(uint64_t word, char *said, size_t size)
{
	uint64_t words[BLOCK_WORDS];

	for (unsigned i = 0; i <= nr_steps; i++) {
		if (history[i].random)
			continue;
		for (uint64_t block = 0; block < nr_blocks; block++) {
			make_generation_block(words, block, history[i].generation);
			for (size_t j = 0; j < BLOCK_WORDS; j++) {
				/* block and generation are small numbers: any block may have them
				 */
				if (words[j] != word || j == 1)
					continue;
				snprintf(said, size,
					 "byte %zu of block %" PRIu64 " in generation %u",
					 j * sizeof(uint64_t), block, history[i].generation);
				return true;
			}
		}
	}
	return false;
}

static void say_word(uint64_t word, char *said, size_t size)
{
	uint64_t poison;

	memset(&poison, POISON, sizeof(poison));
	if (word == poison)
		snprintf(said, size, "what was there before");
	else if (!word)
		snprintf(said, size, "zero");
	else if (!say_random_word(word, said, size) && !say_generation_word(word, said, size))
		snprintf(said, size, "0x%016" PRIx64 " (nothing wrote that)", word);
}

/* Is it what some I/O of a random run made of the sector? */
static bool is_of_run(const uint64_t *got, uint64_t sector, unsigned step)
{
	uint64_t want[SECTOR_WORDS];

	for (unsigned i = 0; i < history[step].nr_ios; i++) {
		struct random_io io = io_of(&history[step], i);
		struct stamp by = {(uint8_t)step, io.kind == RANDOM_ZERO, i};

		if ((io.kind != RANDOM_WRITE && io.kind != RANDOM_ZERO) || sector < io.sector ||
		    sector >= io.sector + io.nr_sectors)
			continue;
		make_stamped(want, sector, by);
		if (!memcmp(got, want, SECTOR))
			return true;
	}
	return false;
}

/* Is the sector whole, as some step left it? */
static bool is_older(const uint64_t *got, uint64_t sector)
{
	uint64_t block = sector / SECTORS_PER_BLOCK;
	bool touched = written_alone(block) || written_in_run(block);

	for (unsigned i = 0; i <= nr_steps; i++) {
		if (history[i].random
			    ? is_of_run(got, sector, i)
			    : (!i || touched) &&
				      !memcmp(got, generation_sector(sector, history[i].generation),
					      SECTOR))
			return true;
	}
	return false;
}

bool contents_complaint(const uint64_t *got, uint64_t sector, bool older, char *said, size_t size)
{
	uint64_t want[SECTOR_WORDS];
	char is[120], should[120];
	unsigned wrong = 0;
	size_t i = 0;

	make_sector(want, sector);
	if (!memcmp(got, want, SECTOR) || (older && is_older(got, sector)))
		return false;
	for (size_t j = SECTOR_WORDS; j-- > 0;) {
		if (got[j] == want[j])
			continue;
		i = j;
		wrong++;
	}
	/* The first two words of a block are small numbers, which tell less than the third. */
	if (i < 2 && got[2] != want[2])
		i = 2;
	say_word(got[i], is, sizeof(is));
	say_word(want[i], should, sizeof(should));
	snprintf(said, size, "%u bytes are wrong: at byte %zu is %s instead of %s",
		 wrong * (unsigned)sizeof(uint64_t), i * sizeof(uint64_t), is, should);
	return true;
}
