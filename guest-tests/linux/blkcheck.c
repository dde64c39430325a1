/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blkcheck - a disk on which every 4 KiB block says what it should be.
 *
 * A block's contents follow from its number and its generation. `fill` writes generation 0 all over;
 * `write -g N` rewrites a fixed set of blocks, one by one and in runs of 1 MiB, as generation N;
 * `read -g N` knows which those are. So a guest and, after it, the machine that holds the image can
 * both tell a block that is stale, torn, somewhere else, or not there.
 *
 *     blkcheck fill FILE MIB
 *     blkcheck read  [-g GEN] [-d] [-s BYTES] [-n COUNT] [-t THREADS] FILE
 *     blkcheck write -g GEN [-d] [-t THREADS] FILE
 *
 * -d: O_DIRECT. -s: bytes of one request (4096). -n: that many requests at random places; without it
 * the whole disk in order. Exit status: 0 all is right; 1 it is not, one line says where; 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK	    4096u
#define RUN	    0x100000u /* bytes of one large write */
#define WORDS	    (BLOCK / sizeof(uint64_t))
#define MAX_THREADS 16

/*
 * What `write` touches: single blocks, one in 16, in the third quarter of the disk, and every
 * fourth run of 1 MiB in the last.
 */
#define ONE_BLOCK_IN 16
#define ONE_RUN_IN   4

static const char *path;
static uint64_t nr_blocks;
static unsigned generation, nr_threads = 1;
static size_t request = BLOCK;
static bool direct, random_order;
static uint64_t nr_requests;
static int disk;
static uint64_t next_request; /* shared by the threads */
static int failed;

/* splitmix64: a well-mixed word from any other */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static bool written_alone(uint64_t block)
{
	return block >= nr_blocks / 2 && block < nr_blocks / 4 * 3 && mix(block) % ONE_BLOCK_IN == 0;
}

static bool written_in_run(uint64_t block)
{
	uint64_t run = block / (RUN / BLOCK);

	return block >= nr_blocks / 4 * 3 && run % ONE_RUN_IN == 0 &&
	       (run + 1) * (RUN / BLOCK) <= nr_blocks;
}

static unsigned generation_of(uint64_t block)
{
	return written_alone(block) || written_in_run(block) ? generation : 0;
}

static void make_block(uint64_t *words, uint64_t block, unsigned gen)
{
	uint64_t x = mix(block << 16 | gen);

	words[0] = block;
	words[1] = gen;
	for (size_t i = 2; i < WORDS; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		words[i] = x ^ x >> 32;
	}
}

static void fail(const char *what, uint64_t block)
{
	if (!__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST))
		fprintf(stderr, "blkcheck: %s: block %" PRIu64 ": %s\n", path, block, what);
}

static void check_block(const uint64_t *got, uint64_t block)
{
	uint64_t want[WORDS];
	char what[120];
	size_t i = 0;

	make_block(want, block, generation_of(block));
	if (!memcmp(got, want, BLOCK))
		return;
	while (got[i] == want[i])
		i++;
	snprintf(what, sizeof(what), "at byte %zu 0x%016" PRIx64 " instead of 0x%016" PRIx64
		 " (it calls itself block %" PRIu64 " of generation %" PRIu64 ")",
		 i * sizeof(uint64_t), got[i], want[i], got[0], got[1]);
	fail(what, block);
}

static void transfer(bool write, void *buf, size_t len, uint64_t block)
{
	ssize_t n = write ? pwrite(disk, buf, len, (off_t)(block * BLOCK)) :
			    pread(disk, buf, len, (off_t)(block * BLOCK));

	if (n != (ssize_t)len)
		fail(n < 0 ? strerror(errno) : write ? "short write" : "short read", block);
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
	while (!failed && (i = __atomic_fetch_add(&next_request, 1, __ATOMIC_SEQ_CST)) < nr_requests) {
		uint64_t block = (random_order ? mix(i + 77) % places : i) * per;

		memset(buf, 0xa5, request); /* what was there before must not pass */
		transfer(false, buf, request, block);
		for (uint64_t j = 0; j < per && !failed; j++)
			check_block(buf + j * WORDS, block + j);
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
	while (!failed && (i = __atomic_fetch_add(&next_request, 1, __ATOMIC_SEQ_CST)) < nr_requests) {
		uint64_t block = scattered(i);

		if (written_alone(block)) {
			make_block(buf, block, generation);
			transfer(true, buf, BLOCK, block);
		} else if (written_in_run(block) && block % per == 0) {
			for (uint64_t j = 0; j < per; j++)
				make_block(buf + j * WORDS, block + j, generation);
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
			make_block(buf + j * WORDS, block + j, 0);
		transfer(true, buf, RUN, block);
	}
	free(buf);
	if (close(disk))
		fail(strerror(errno), 0);
	return failed;
}

static int read_disk(void)
{
	if (open_disk(O_RDONLY))
		return 1;
	if (!random_order)
		nr_requests = nr_blocks / (request / BLOCK);
	run_threads(reader);
	return failed;
}

static int write_disk(void)
{
	if (open_disk(O_RDWR))
		return 1;
	nr_requests = nr_blocks;
	run_threads(writer);
	if (fsync(disk))
		fail(strerror(errno), 0);
	return failed;
}

static int usage(void)
{
	fprintf(stderr, "usage: blkcheck fill FILE MIB\n"
			"       blkcheck read [-g GEN] [-d] [-s BYTES] [-n COUNT] [-t THREADS] FILE\n"
			"       blkcheck write -g GEN [-d] [-t THREADS] FILE\n");
	return 2;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	int c;

	optind = 2;
	while ((c = getopt(argc, argv, "g:ds:n:t:")) != -1) {
		switch (c) {
		case 'g':
			generation = (unsigned)atoi(optarg);
			break;
		case 'd':
			direct = true;
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
		default:
			return usage();
		}
	}
	if (optind >= argc || !request || request % BLOCK || !nr_threads || nr_threads > MAX_THREADS)
		return usage();
	path = argv[optind];
	if (!strcmp(verb, "fill") && optind + 1 < argc)
		return fill((uint64_t)atoi(argv[optind + 1]));
	if (!strcmp(verb, "read"))
		return read_disk();
	if (!strcmp(verb, "write") && generation)
		return write_disk();
	return usage();
}
