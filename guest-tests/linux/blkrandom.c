/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blkrandom - random I/O at a queue depth, verified.
 *
 * I/Os that overlap are carried out in the order of their numbers, one after the other, so the
 * outcome follows from the seed alone, in whatever order the disk ends them. Others overtake them.
 *
 * Buffers come from one arena, in up to eight pieces at any multiple of @align, closely packed:
 * pages are shared by several I/Os in flight and by bytes that the CPU writes meanwhile. Whatever
 * is not in use is POISON, and must still be afterwards; a buffer that was only to be read from
 * must not change.
 */
#include "blkcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "blkcontents.h"

#define MAX_PIECES    8u
#define SMALL_SECTORS 8u
/* The arena in cells of a sector; a piece takes one more if it does not begin where a cell does. */
#define CELLS_PER_IO  (2 * MAX_RANDOM_SECTORS)

struct io {
	bool busy;
	struct random_io what;
	unsigned nr_pieces;
	struct iovec pieces[MAX_PIECES];
};

struct run {
	unsigned depth, align, nr_ios;
	bool polled;
	int zero_mode; /* of fallocate() */
	struct io_uring ring;
	struct io ios[MAX_DEPTH];
	uint8_t *arena;
	bool *taken; /* one per cell */
	unsigned nr_cells;
	unsigned next;		     /* I/O that has not even waited */
	unsigned waiting[MAX_DEPTH]; /* numbers of others before it, ascending */
	unsigned nr_waiting;
	unsigned nr_busy, most_in_flight;
	uint64_t nr_done[NR_RANDOM_KINDS], bytes;
};

/* ---- memory ---- */

/*
 * The small pieces are in small pages, the others where Linux may put huge ones: memory that is
 * scattered, and memory that is in one piece.
 */
static int make_arena(struct run *run)
{
	size_t size;

	run->nr_cells = run->depth * CELLS_PER_IO;
	size = (size_t)run->nr_cells * SECTOR;
	run->taken = calloc(run->nr_cells, sizeof(*run->taken));
	run->arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!run->taken || run->arena == MAP_FAILED) {
		fprintf(stderr, "blkcheck: out of memory\n");
		return 1;
	}
	madvise(run->arena, size / 4 & ~(size_t)(BLOCK * 16 - 1), MADV_NOHUGEPAGE);
	memset(run->arena, POISON, size);
	return 0;
}

/*
 * A punched hole is a command of its own to the disk. One that has none refuses it; then the kernel
 * is asked for zeroes however it makes them, which is by writing them.
 */
static int zero_mode(void)
{
	char name[96], most[24] = "1";
	struct stat st;
	int fd;

	if (!fstat(disk, &st) && S_ISBLK(st.st_mode)) {
		snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/queue/write_zeroes_max_bytes",
			 major(st.st_rdev), minor(st.st_rdev));
		fd = open(name, O_RDONLY);
		if (fd >= 0 && read(fd, most, sizeof(most) - 1) < 1)
			most[0] = '1';
		if (fd >= 0)
			close(fd);
	}
	return (atoi(most) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

static void check_poison(const uint8_t *at, size_t len, uint64_t sector, const char *complaint)
{
	for (size_t i = 0; i < len; i++) {
		if (at[i] != POISON) {
			fail(sector, complaint);
			return;
		}
	}
}

/* Free cells in a row, at or after @from if there are any. Return: the first; nr_cells: none. */
static unsigned take_cells(struct run *run, unsigned from, unsigned count)
{
	unsigned i = from, row = 0;

	for (unsigned looked = 0; looked < run->nr_cells + from; looked++, i++) {
		if (i == run->nr_cells)
			i = row = 0;
		row = run->taken[i] ? 0 : row + 1;
		if (row == count) {
			memset(run->taken + i + 1 - count, true, count);
			return i + 1 - count;
		}
	}
	return run->nr_cells;
}

static unsigned first_cell(const struct run *run, const struct iovec *piece)
{
	return (unsigned)(((uint8_t *)piece->iov_base - run->arena) / SECTOR);
}

static unsigned cells_of(const struct run *run, const struct iovec *piece)
{
	size_t begin = (size_t)((uint8_t *)piece->iov_base - run->arena);

	return (unsigned)((begin % SECTOR + piece->iov_len + SECTOR - 1) / SECTOR);
}

/* Cells go back as they came: nothing around the piece was written. */
static void give_back(struct run *run, struct io *io)
{
	for (unsigned i = 0; i < io->nr_pieces; i++) {
		unsigned first = first_cell(run, &io->pieces[i]),
			 count = cells_of(run, &io->pieces[i]);
		uint8_t *cells = run->arena + (size_t)first * SECTOR;

		memset(io->pieces[i].iov_base, POISON, io->pieces[i].iov_len);
		check_poison(cells, (size_t)count * SECTOR, io->what.sector,
			     "memory beside its buffer was written");
		memset(run->taken + first, false, count);
	}
	io->nr_pieces = 0;
}

/* Memory for an I/O, by its number and what is in use. Return: false if there is no room. */
static bool place(struct run *run, struct io *io, unsigned index)
{
	static const unsigned nr_pieces[] = {1, 1, 1, 1, 2, 3, 5, MAX_PIECES};
	uint64_t dice = mix(UINT64_C(1) << 32 | index);
	unsigned left = io->what.nr_sectors, want = nr_pieces[dice & 7];

	io->nr_pieces = 0;
	while (left) {
		bool last = io->nr_pieces + 1 == want;
		unsigned sectors = last ? left : 1 + (unsigned)(dice >> 32) % left;
		unsigned offset = 0, from = 0, cell;

		if (dice >> 3 & 1)
			offset = (unsigned)(dice >> 4) % (SECTOR / run->align);
		if (sectors > SMALL_SECTORS)
			from = run->nr_cells / 4 + (unsigned)(dice >> 20) % (run->nr_cells / 2);
		cell = take_cells(run, from, sectors + (offset ? 1 : 0));
		if (cell == run->nr_cells) {
			give_back(run, io);
			return false;
		}
		check_poison(run->arena + (size_t)cell * SECTOR,
			     (sectors + (offset ? 1 : 0)) * SECTOR, io->what.sector,
			     "memory of no buffer was written before it");
		io->pieces[io->nr_pieces++] = (struct iovec){
			.iov_base = run->arena + (size_t)cell * SECTOR + offset * run->align,
			.iov_len = sectors * SECTOR,
		};
		left -= sectors;
		dice = mix(dice);
	}
	return true;
}

/* @fn on every sector of an I/O's buffer. A sector need not be aligned to its words there. */
static void each_sector(struct io *io, void (*fn)(uint64_t *at, uint64_t sector))
{
	uint64_t sector = io->what.sector;

	for (unsigned i = 0; i < io->nr_pieces; i++) {
		uint8_t *at = io->pieces[i].iov_base;

		for (size_t j = 0; j < io->pieces[i].iov_len; j += SECTOR)
			fn((uint64_t *)(at + j), sector++);
	}
}

static void fill_sector(uint64_t *at, uint64_t sector)
{
	uint64_t words[SECTOR_WORDS];

	make_sector(words, sector);
	memcpy(at, words, SECTOR);
}

static void check_sector(uint64_t *at, uint64_t sector)
{
	uint64_t words[SECTOR_WORDS];

	memcpy(words, at, SECTOR);
	check_sectors(words, sector, 1);
}

/* ---- I/O ---- */

static bool overlap(const struct random_io *a, const struct random_io *b)
{
	return a->sector < b->sector + b->nr_sectors && b->sector < a->sector + a->nr_sectors;
}

/* Has it to wait for one in flight, or for one of the first @nr that wait themselves? */
static bool has_to_wait(const struct run *run, const struct random_io *what, unsigned nr)
{
	for (unsigned i = 0; i < run->depth; i++) {
		if (run->ios[i].busy && overlap(&run->ios[i].what, what))
			return true;
	}
	for (unsigned i = 0; i < nr; i++) {
		struct random_io other = random_io_get(run->waiting[i]);

		if (overlap(&other, what))
			return true;
	}
	return false;
}

static struct io *free_io(struct run *run)
{
	for (unsigned i = 0; i < run->depth; i++) {
		if (!run->ios[i].busy)
			return &run->ios[i];
	}
	return NULL;
}

static void end(struct run *run, struct io *io, int res);

/* What a polled ring does not take. */
static int zero_or_flush(const struct random_io *what)
{
	int ret = what->kind == RANDOM_ZERO
			  ? fallocate(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      (off_t)(what->sector * SECTOR),
				      (off_t)(what->nr_sectors * SECTOR))
			  : fsync(disk);

	return ret ? -errno : 0;
}

/* begin - I/O number @index, behind the first @nr that wait. Return: false if it has to wait. */
static bool begin(struct run *run, unsigned index, unsigned nr)
{
	struct io *io = free_io(run);
	struct io_uring_sqe *sqe;
	off_t at;

	if (!io)
		return false;
	io->what = random_io_get(index);
	if (has_to_wait(run, &io->what, nr))
		return false;
	if (io->what.kind <= RANDOM_WRITE && !place(run, io, index))
		return false;
	if (run->polled && io->what.kind > RANDOM_WRITE) {
		random_io_done(&io->what, index);
		run->nr_busy++;
		end(run, io, zero_or_flush(&io->what));
		return true;
	}
	at = (off_t)(io->what.sector * SECTOR);
	sqe = io_uring_get_sqe(&run->ring); /* as many as there are I/Os */
	switch (io->what.kind) {
	case RANDOM_READ:
		io_uring_prep_readv(sqe, disk, io->pieces, io->nr_pieces, (uint64_t)at);
		break;
	case RANDOM_WRITE:
		io_uring_prep_writev(sqe, disk, io->pieces, io->nr_pieces, (uint64_t)at);
		break;
	case RANDOM_ZERO:
		io_uring_prep_fallocate(sqe, disk, run->zero_mode, at,
					(off_t)(io->what.nr_sectors * SECTOR));
		break;
	default:
		io_uring_prep_fsync(sqe, disk, 0);
	}
	io_uring_sqe_set_data(sqe, io);
	random_io_done(&io->what, index);
	if (io->what.kind == RANDOM_WRITE)
		each_sector(io, fill_sector);
	io->busy = true;
	run->nr_busy++;
	return true;
}

/* As many as there is room for: those that have waited, then new ones. */
static void begin_batch(struct run *run)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < run->nr_waiting; i++) {
		if (!begin(run, run->waiting[i], kept))
			run->waiting[kept++] = run->waiting[i];
	}
	run->nr_waiting = kept;
	while (run->next < run->nr_ios && run->nr_busy < run->depth &&
	       run->nr_waiting < run->depth) {
		if (!begin(run, run->next, run->nr_waiting))
			run->waiting[run->nr_waiting++] = run->next;
		run->next++;
	}
}

static void end(struct run *run, struct io *io, int res)
{
	bool moves = io->what.kind <= RANDOM_WRITE;

	if (res < 0 || (moves && !res)) /* a disk that has gone has no bytes */
		request_failed(io->what.sector, res ? -res : ENODATA);
	else if (moves && (unsigned)res != io->what.nr_sectors * SECTOR)
		fail(io->what.sector, io->what.kind == RANDOM_READ ? "short read" : "short write");
	else if (moves)
		each_sector(io, check_sector);
	give_back(run, io);
	run->nr_done[io->what.kind]++;
	run->bytes += (uint64_t)io->what.nr_sectors * SECTOR;
	io->busy = false;
	run->nr_busy--;
}

/* Wait until at most @few are in flight. Return: 0 or negative errno. */
static int reap(struct run *run, unsigned few)
{
	struct io_uring_cqe *cqe;
	int ret;

	while (run->nr_busy > few) {
		ret = io_uring_wait_cqe(&run->ring, &cqe);
		if (ret)
			return ret;
		end(run, io_uring_cqe_get_data(cqe), cqe->res);
		io_uring_cqe_seen(&run->ring, cqe);
	}
	return 0;
}

/*
 * I/Os go out in batches: one by one, a quick disk would be done with each before the next. A batch
 * begins when as few are in flight as chance will have it. In flight is what was submitted and has
 * not been reaped, as in fio.
 */
static int go(struct run *run)
{
	int ret;

	while ((run->next < run->nr_ios || run->nr_waiting) && !failed && !nr_errors) {
		begin_batch(run);
		/* with nothing in flight there is memory for any */
		if (run->polled && !run->nr_busy)
			continue;
		ret = run->nr_busy ? io_uring_submit(&run->ring) : -ENOMEM;
		if (ret >= 0) {
			if (run->nr_busy > run->most_in_flight)
				run->most_in_flight = run->nr_busy;
			/* at least one has to end, others may be waiting for it */
			ret = reap(run, (unsigned)mix(run->next) % run->nr_busy);
		}
		if (ret < 0) {
			fprintf(stderr, "blkcheck: random I/O: %s\n", strerror(-ret));
			return 1;
		}
	}
	if (reap(run, 0))
		return 1;
	check_poison(run->arena, (size_t)run->nr_cells * SECTOR, 0,
		     "memory of no buffer was written");
	return failed;
}

int blkrandom(unsigned depth, unsigned align, bool polled)
{
	struct run *run = calloc(1, sizeof(*run));
	int ret;

	if (!run)
		return 1;
	run->depth = depth;
	run->align = align;
	run->polled = polled;
	run->zero_mode = zero_mode();
	history_ends_in_random(&run->nr_ios);
	if (make_arena(run))
		return 1;
	ret = io_uring_queue_init(depth, &run->ring, polled ? IORING_SETUP_IOPOLL : 0);
	if (ret) {
		fprintf(stderr, "blkcheck: io_uring: %s\n", strerror(-ret));
		return 1;
	}
	ret = go(run);
	printf("blkcheck: %" PRIu64 " reads, %" PRIu64 " writes, %" PRIu64 " zeroes, %" PRIu64
	       " flushes, %" PRIu64 " KiB; up to %u in flight\n",
	       run->nr_done[RANDOM_READ], run->nr_done[RANDOM_WRITE], run->nr_done[RANDOM_ZERO],
	       run->nr_done[RANDOM_FLUSH], run->bytes / 1024, run->most_in_flight);
	io_uring_queue_exit(&run->ring);
	munmap(run->arena, (size_t)run->nr_cells * SECTOR);
	free(run->taken);
	free(run);
	return ret;
}
