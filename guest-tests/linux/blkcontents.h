/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blkcontents - what every 512-byte sector of a test disk holds, by what was done to it.
 *
 * A disk starts as generation 0, and has a history: steps that `blkcheck` carried out, in order. A
 * step is a generation, which rewrites a fixed set of 4 KiB blocks, or a random run, whose reads,
 * writes and zeroes all follow from its seed. So whoever is told the history knows each byte: the
 * guest that made it and, after it, the machine that holds the image.
 *
 * A block of a generation says its number, its generation, and then words that follow from both. A
 * word of a random run says which sector it belongs to, where in it, and which I/O of which run
 * wrote it, all in 64 bits that look like noise; so wherever it turns up, it can be named.
 *
 * The history is complete before any thread asks; a random run under way moves it on by itself.
 */
#ifndef GUEST_TESTS_LINUX_BLKCONTENTS_H
#define GUEST_TESTS_LINUX_BLKCONTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR	     512u
#define BLOCK	     4096u
#define RUN	     0x100000u /* bytes of one large write of a generation */
#define SECTOR_WORDS (SECTOR / sizeof(uint64_t))
#define BLOCK_WORDS  (BLOCK / sizeof(uint64_t))

/* What a buffer holds before anything is read into it, and what lies around it. */
#define POISON UINT8_C(0xa5)

#define MAX_RANDOM_IOS	   (1u << 20)
#define MAX_RANDOM_SECTORS 256u /* of one I/O: 128 KiB */

/* One I/O of a random run. */
struct random_io {
	enum random_kind {
		RANDOM_READ,
		RANDOM_WRITE,
		RANDOM_ZERO,  /* the sectors are made to read as zeroes, without data */
		RANDOM_FLUSH, /* the disk's cache */
		NR_RANDOM_KINDS,
	} kind;
	uint64_t sector;
	unsigned nr_sectors; /* 1 .. MAX_RANDOM_SECTORS; RANDOM_FLUSH: 0 */
};

/* A well-mixed word from any other, and the other way round. */
uint64_t mix(uint64_t x);
uint64_t unmix(uint64_t x);

/**
 * history_add_generation, history_add_random - one more step; all of them before contents_init()
 * @generation: 1 or more
 * @nr_ios: at most MAX_RANDOM_IOS
 * Return: 0; -1 if the step makes no sense or there are too many.
 */
int history_add_generation(unsigned generation);
int history_add_random(uint64_t seed, unsigned nr_ios);

/* Is there a last step, and is it a random run? */
bool history_ends_in_generation(void);
bool history_ends_in_random(unsigned *nr_ios);

/**
 * contents_init - work out what a disk of @nr_blocks blocks holds
 * @leave_last: without the last step, which is still to be done
 */
void contents_init(uint64_t nr_blocks, bool leave_last);

/* Does the last step, a generation, write this block by itself, or the 1 MiB it is in? */
bool written_alone(uint64_t block);
bool written_in_run(uint64_t block);

/**
 * random_io_get - the I/O number @index of the last step, a random run
 * Same answer every time, whatever was answered before.
 */
struct random_io random_io_get(unsigned index);

/* From now on the sectors it writes hold what it writes. One thread; those that overlap in order.
 */
void random_io_done(const struct random_io *io, unsigned index);

/* make_sector - what sector @sector holds now; @words: SECTOR_WORDS */
void make_sector(uint64_t *words, uint64_t sector);

/* make_generation_block - what a block holds in a generation; @words: BLOCK_WORDS */
void make_generation_block(uint64_t *words, uint64_t block, unsigned generation);

/**
 * contents_complaint - what is wrong with a sector that was read
 * @older: it may also be, whole, as anything in the history left it
 * @said: a line that names what is there and what should be, when something is wrong
 * Return: whether something is wrong.
 */
bool contents_complaint(const uint64_t *got, uint64_t sector, bool older, char *said, size_t size);

#endif
