/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blkcheck - a disk on which every sector says what it should be (blkcontents.h).
 *
 * `fill` writes generation 0 all over. `write` rewrites a fixed set of blocks, one by one and in
 * runs of 1 MiB, as another generation. `random` reads, writes, zeroes and flushes at random, many
 * at once, and checks all it reads and, at the end, the whole disk. `read` checks. So a guest and,
 * after it, the machine that holds the image can both tell what is stale, torn, somewhere else, or
 * not there.
 *
 *     blkcheck fill   FILE MIB
 *     blkcheck read   [STEP]... [-e] [-d] [-s BYTES] [-n COUNT] [-t THREADS] FILE
 *     blkcheck write  [STEP]... -g GEN [-e] [-d] [-t THREADS] FILE
 *     blkcheck random [STEP]... -r SEED,COUNT [-e] [-d] [-p] [-q DEPTH] [-a ALIGN]
 *                     FILE
 *
 * STEP: what was done to the disk before, in order: -g GEN or -r SEED,COUNT; the last one of
 * `write` and `random` is what they do.
 *
 *     -d        O_DIRECT
 *     -s BYTES  of one request (4096)
 *     -n COUNT  that many requests at random places; without it the whole disk in order
 *     -q DEPTH  I/Os in flight (32)
 *     -p        by polling, with -d: io_uring's IORING_SETUP_IOPOLL
 *     -a ALIGN  of buffers in memory, bytes (512)
 *     -e        a request may fail, and what it was to write may be there or not: what `read`
 * reads, and `random` at the end, may also be as anything in the history left it
 *
 * Exit status: 0 all is right; 1 it is not, one line says where; 2 usage; 3 with -e: requests
 * failed, but nothing was wrong.
 */
#include "blkcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blkcontents.h"

#define MAX_THREADS 16

int disk, failed;
unsigned nr_errors;

static const char *path;
static uint64_t nr_blocks;
static unsigned generation, nr_threads = 1;
static size_t request = BLOCK;
static bool direct, polled, random_order;
static bool errors_expected; /* and what is read may be older */
static bool exact;	     /* but not now */
static uint64_t nr_requests;
static uint64_t next_request; /* shared by the threads */

void fail(uint64_t sector, const char *what)
{
	if (!__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST))
		fprintf(stderr, "blkcheck: %s: sector %" PRIu64 " (block %" PRIu64 "): %s\n", path,
			sector, sector * SECTOR / BLOCK, what);
}

void request_failed(uint64_t sector, int error)
{
	if (errors_expected)
		__atomic_fetch_add(&nr_errors, 1, __ATOMIC_SEQ_CST);
	else
		fail(sector, strerror(error));
}

void check_sectors(const uint64_t *got, uint64_t sector, uint64_t count)
{
	char what[320];

	for (; count && !failed; count--, sector++, got += SECTOR_WORDS) {
		if (contents_complaint(got, sector, errors_expected && !exact, what, sizeof(what)))
			fail(sector, what);
	}
}

/* Return: whether there is something to check. */
static bool transfer(bool write, void *buf, size_t len, uint64_t block)
{
	ssize_t n = write ? pwrite(disk, buf, len, (off_t)(block * BLOCK))
			  : pread(disk, buf, len, (off_t)(block * BLOCK));

	if (n == (ssize_t)len)
		return true;
	if (n <= 0) /* a disk that has gone has no bytes */
		request_failed(block * BLOCK / SECTOR, n ? errno : ENODATA);
	else
		fail(block * BLOCK / SECTOR, write ? "short write" : "short read");
	return false;
}

static void *buffer(size_t len)
{
	void *buf;

	if (posix_memalign(&buf, BLOCK, len)) {
		fprintf(stderr, "blkcheck: out of memory\n");
		exit(2);
	}
	return buf;
}

static void *reader(void *unused)
{
	uint64_t *buf = buffer(request), per = request / BLOCK, places = nr_blocks / per, i;

	(void)unused;
	while (!failed &&
	       (i = __atomic_fetch_add(&next_request, 1, __ATOMIC_SEQ_CST)) < nr_requests) {
		uint64_t block = (random_order ? mix(i + 77) % places : i) * per;

		memset(buf, POISON, request); /* what was there before must not pass */
		if (transfer(false, buf, request, block))
			check_sectors(buf, block * (BLOCK / SECTOR), request / SECTOR);
	}
	free(buf);
	return NULL;
}

/* Block i in an order that is not ascending: the step is odd and the number of blocks even. */
static uint64_t scattered(uint64_t i)
{
	return i * 40503 % nr_blocks;
}

static void *writer(void *unused)
{
	const uint64_t per = RUN / BLOCK;
	uint64_t *buf = buffer(RUN), i;

	(void)unused;
	while (!failed &&
	       (i = __atomic_fetch_add(&next_request, 1, __ATOMIC_SEQ_CST)) < nr_requests) {
		uint64_t block = scattered(i);

		if (written_alone(block)) {
			make_generation_block(buf, block, generation);
			transfer(true, buf, BLOCK, block);
		} else if (written_in_run(block) && block % per == 0) {
			for (uint64_t j = 0; j < per; j++)
				make_generation_block(buf + j * BLOCK_WORDS, block + j, generation);
			transfer(true, buf, RUN, block);
		}
	}
	free(buf);
	return NULL;
}

static void run_threads(void *(*fn)(void *))
{
	pthread_t threads[MAX_THREADS];

	for (unsigned i = 0; i < nr_threads; i++) {
		if (pthread_create(&threads[i], NULL, fn, NULL)) {
			fprintf(stderr, "blkcheck: cannot start a thread\n");
			exit(2);
		}
	}
	for (unsigned i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
}

static int open_disk(int flags)
{
	off_t size;

	disk = open(path, flags | (direct ? O_DIRECT : 0), 0644);
	size = disk < 0 ? -1 : lseek(disk, 0, SEEK_END);
	if (size < 0) {
		fprintf(stderr, "blkcheck: %s: %s\n", path, strerror(errno));
		return -1;
	}
	nr_blocks = (uint64_t)size / BLOCK;
	return 0;
}

static int fill(uint64_t mib)
{
	uint64_t *buf = buffer(RUN);

	if (open_disk(O_WRONLY | O_CREAT | O_TRUNC))
		return 1;
	for (uint64_t block = 0; block < mib * (RUN / BLOCK) && !failed; block += RUN / BLOCK) {
		for (uint64_t j = 0; j < RUN / BLOCK; j++)
			make_generation_block(buf + j * BLOCK_WORDS, block + j, 0);
		transfer(true, buf, RUN, block);
	}
	free(buf);
	if (close(disk))
		fail(0, strerror(errno));
	return failed;
}

/* Everything, in order or not. */
static int read_disk(void)
{
	next_request = 0;
	if (!random_order)
		nr_requests = nr_blocks / (request / BLOCK);
	run_threads(reader);
	return failed;
}

static int write_disk(void)
{
	nr_requests = nr_blocks;
	run_threads(writer);
	if (fsync(disk))
		request_failed(0, errno);
	return failed;
}

static int random_disk(unsigned depth, unsigned align)
{
	exact = true;
	if (blkrandom(depth, align, polled))
		return 1;
	exact = false;
	request = MAX_RANDOM_SECTORS * SECTOR;
	return read_disk();
}

static int result(int status)
{
	if (nr_errors)
		printf("blkcheck: %s: %u requests failed\n", path, nr_errors);
	return status ? status : nr_errors ? 3 : 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: blkcheck fill   FILE MIB\n"
		"       blkcheck read   [STEP]... [-e] [-d] [-s BYTES] [-n COUNT] [-t THREADS] "
		"FILE\n"
		"       blkcheck write  [STEP]... -g GEN [-e] [-d] [-t THREADS] FILE\n"
		"       blkcheck random [STEP]... -r SEED,COUNT [-e] [-d] [-p] [-q DEPTH] "
		"[-a ALIGN] FILE\n"
		"STEP: -g GEN or -r SEED,COUNT, what was done to FILE before\n");
	return 2;
}

static int parse_step(int option, const char *value)
{
	uint64_t seed;
	unsigned count;
	char end;

	if (option == 'r')
		return sscanf(value, "%" SCNu64 ",%u%c", &seed, &count, &end) == 2
			       ? history_add_random(seed, count)
			       : -1;
	generation = (unsigned)atoi(value);
	return generation ? history_add_generation(generation) : 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	unsigned depth = 32, align = SECTOR, nr_ios;
	bool write = !strcmp(verb, "write"), random = !strcmp(verb, "random"), ok;
	int c;

	optind = 2;
	while ((c = getopt(argc, argv, "g:r:edps:n:t:q:a:")) != -1) {
		switch (c) {
		case 'g':
		case 'r':
			if (parse_step(c, optarg))
				return usage();
			break;
		case 'e':
			errors_expected = true;
			break;
		case 'd':
			direct = true;
			break;
		case 'p':
			polled = true;
			break;
		case 's':
			request = (size_t)atoi(optarg);
			break;
		case 'n':
			nr_requests = (uint64_t)atoi(optarg);
			random_order = true;
			break;
		case 't':
			nr_threads = (unsigned)atoi(optarg);
			break;
		case 'q':
			depth = (unsigned)atoi(optarg);
			break;
		case 'a':
			align = (unsigned)atoi(optarg);
			break;
		default:
			return usage();
		}
	}
	if (optind >= argc || !request || request % BLOCK || !nr_threads ||
	    nr_threads > MAX_THREADS)
		return usage();
	path = argv[optind];
	if (!strcmp(verb, "fill"))
		return optind + 1 < argc ? fill((uint64_t)atoi(argv[optind + 1])) : usage();
	if (write)
		ok = history_ends_in_generation();
	else if (random)
		ok = history_ends_in_random(&nr_ios) && (direct || !polled) && depth &&
		     depth <= MAX_DEPTH && align && SECTOR % align == 0;
	else
		ok = !strcmp(verb, "read");
	if (!ok)
		return usage();
	if (open_disk(write || random ? O_RDWR : O_RDONLY))
		return 1;
	contents_init(nr_blocks, write || random);
	return result(write ? write_disk() : random ? random_disk(depth, align) : read_disk());
}
