/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/tests/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/blk.h"

#define RAM_LEN	 0x400000
#define SECTOR	 512
#define SECTORS	 2048
#define DISK_LEN (SECTORS * SECTOR)
#define SERIAL	 "serial-0123456789abcdef" /* longer than the 20 bytes there are */

#define NO_STATUS 0xee /* what a status byte holds before the device writes it */

/* One device on a real io_uring; the test's thread is the ring's. */
struct fixture {
	struct driver driver;
	struct io_uring ring;
	int ring_error; /* why there is no ring, -errno */
	int disk;	/* our own descriptor of the file, or the other end of the pipe */
};

static struct fixture fixture;

static void temp_file(char path[static 32])
{
	int fd;

	strcpy(path, "/tmp/granule-blk-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
}

/* The byte that a fresh disk holds at @off. */
static uint8_t pattern(uint64_t off)
{
	return (uint8_t)(off ^ off >> 8 ^ off >> 16);
}

static int start_ring(void **state)
{
	memset(&fixture, 0, sizeof(fixture));
	fixture.disk = -1;
	fixture.ring_error = io_uring_queue_init(64, &fixture.ring, 0);
	*state = &fixture;
	return 0;
}

/* The driver, once a device of @fd is probed; skips the test where there is no io_uring. */
static struct driver *wrap(struct fixture *f, int fd, uint64_t size, bool readonly,
			   uint64_t features)
{
	struct virtio_dev *dev;

	assert_int_equal(blk_create(fd, size, readonly, SERIAL, &f->ring, &dev), 0);
	driver_init(&f->driver, RAM_LEN);
	driver_wrap(&f->driver, dev);
	driver_probe(&f->driver, features);
	return &f->driver;
}

static void need_ring(struct fixture *f)
{
	if (!f->ring_error)
		return;
	print_message("skipped: io_uring_setup: %s; allow it to test virtio-blk\n",
		      strerror(-f->ring_error));
	skip();
}

static struct driver *file_disk(struct fixture *f, bool readonly, uint64_t features)
{
	static uint8_t block[DISK_LEN];
	char path[32];
	int fd;

	need_ring(f);
	temp_file(path);
	f->disk = open(path, O_RDWR | O_CLOEXEC);
	fd = open(path, O_RDWR | O_CLOEXEC); /* it is the device that must not write */
	unlink(path);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = pattern(i);
	assert_int_equal(pwrite(f->disk, block, sizeof(block), 0), sizeof(block));
	return wrap(f, fd, DISK_LEN, readonly, features);
}

/* A disk that gives and takes bytes as slowly as the test wants. */
static struct driver *pipe_disk(struct fixture *f, bool device_reads, uint64_t features)
{
	int fds[2];

	need_ring(f);
	assert_int_equal(pipe(fds), 0);
	f->disk = fds[device_reads];
	return wrap(f, fds[!device_reads], DISK_LEN, false, features);
}

static int stop_ring(void **state)
{
	struct fixture *f = *state;

	if (f->driver.mmio)
		driver_exit(&f->driver);
	if (f->disk >= 0)
		close(f->disk);
	if (!f->ring_error)
		io_uring_queue_exit(&f->ring);
	return 0;
}

/* One turn of an event loop: wait for a completion and hand out all there are. */
static void turn(struct fixture *f)
{
	struct io_uring_cqe *cqe;

	assert_true(io_uring_submit_and_wait(&f->ring, 1) >= 0);
	while (!io_uring_peek_cqe(&f->ring, &cqe)) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		unsigned flags = cqe->flags;

		io_uring_cqe_seen(&f->ring, cqe);
		op->done(op, res, flags);
	}
}

static void finish(struct fixture *f, uint16_t *id, uint32_t *len)
{
	while (!driver_reap(&f->driver, 0, id, len))
		turn(f);
}

/* A request: header, data of @len bytes, status, as Linux lays them out. */
struct request {
	uint64_t header, data, status; /* gpa */
	uint32_t len;
	uint16_t head;
};

static struct request add(struct driver *d, uint32_t type, uint64_t sector, const void *out,
			  uint32_t len)
{
	struct virtio_blk_outhdr header = {.type = type, .sector = sector};
	static const uint8_t no_status = NO_STATUS;
	struct request req = {
		.header = driver_put(d, &header, sizeof(header)),
		.data = out ? driver_put(d, out, len) : driver_alloc(d, len),
		.status = driver_put(d, &no_status, 1),
		.len = len,
	};
	const struct driver_buf bufs[] = {
		{req.header, sizeof(header), false},
		{req.data, len, !out},
		{req.status, 1, true},
	};

	req.head = driver_add(d, 0, bufs, ARRAY_SIZE(bufs));
	return req;
}

static uint8_t status_of(struct driver *d, const struct request *req)
{
	return *(uint8_t *)driver_hva(d, req->status);
}

/* Carry out one request. Return: the status; *used_len may be NULL. */
static uint8_t run(struct fixture *f, uint32_t type, uint64_t sector, const void *out, void *in,
		   uint32_t len, uint32_t *used_len)
{
	struct driver *d = &f->driver;
	uint64_t heap = d->next_gpa;
	struct request req = add(d, type, sector, out, len);
	uint32_t used;
	uint16_t id;

	driver_kick(d, 0);
	finish(f, &id, &used);
	assert_int_equal(id, req.head);
	if (in)
		memcpy(in, driver_hva(d, req.data), len);
	if (used_len)
		*used_len = used;
	d->next_gpa = heap;
	return status_of(d, &req);
}

static void assert_pattern(const uint8_t *data, uint64_t off, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (data[i] != pattern(off + i))
			fail_msg("byte %zu of what lies at %llu", i, (unsigned long long)off);
}

static uint8_t buf[0x100000], disk[DISK_LEN];

static const uint8_t *disk_now(struct fixture *f)
{
	assert_int_equal(pread(f->disk, disk, sizeof(disk), 0), sizeof(disk));
	return disk;
}

/* ---- what it is ---- */

static void the_config_space_describes_the_disk(void **state)
{
	struct driver *d = file_disk(*state, false, DRIVER_ALL_FEATURES);
	struct virtio_blk_config config;

	driver_config(d, 0, &config, sizeof(config));
	assert_int_equal(driver_read(d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BLOCK);
	assert_int_equal(config.capacity, SECTORS);
	assert_int_equal(config.seg_max, 254);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(config.max_discard_seg, 1);
	assert_int_not_equal(config.max_discard_sectors, 0);
	assert_true(d->features & BIT(VIRTIO_BLK_F_FLUSH));
	assert_true(d->features & BIT(VIRTIO_BLK_F_DISCARD));
	assert_true(d->features & BIT(VIRTIO_BLK_F_SEG_MAX));
	assert_true(d->features & BIT(VIRTIO_BLK_F_BLK_SIZE));
	assert_false(d->features & BIT(VIRTIO_BLK_F_RO));
}

static void the_serial_is_20_bytes_at_most(void **state)
{
	uint32_t used;

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	assert_int_equal(run(*state, VIRTIO_BLK_T_GET_ID, 0, NULL, buf, 20, &used),
			 VIRTIO_BLK_S_OK);
	assert_memory_equal(buf, SERIAL, 20);
	assert_int_equal(used, 21);
	memset(buf, 0, 32);
	assert_int_equal(run(*state, VIRTIO_BLK_T_GET_ID, 0, NULL, buf, 32, &used),
			 VIRTIO_BLK_S_OK);
	assert_memory_equal(buf, SERIAL, 20);
	assert_int_equal(buf[20], 0);
	assert_int_equal(used, 20);
	assert_int_equal(run(*state, VIRTIO_BLK_T_GET_ID, 0, NULL, buf, 4, &used), VIRTIO_BLK_S_OK);
	assert_memory_equal(buf, SERIAL, 4);
	assert_int_equal(used, 5);
}

/* ---- reads and writes ---- */

static void a_read_gives_what_the_file_holds(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} rows[] = {{0, 512}, {1, 4096}, {3, 512 * 3}, {SECTORS - 1, 512}, {0, 0x100000}};

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint32_t used;

		assert_int_equal(
			run(*state, VIRTIO_BLK_T_IN, rows[i].sector, NULL, buf, rows[i].len, &used),
			VIRTIO_BLK_S_OK);
		assert_int_equal(used, rows[i].len + 1);
		assert_pattern(buf, rows[i].sector * SECTOR, rows[i].len);
	}
}

static void a_write_reaches_the_file_and_nothing_else(void **state)
{
	const uint8_t *now;
	uint32_t used;

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	memset(buf, 0x5a, 1536);
	assert_int_equal(run(*state, VIRTIO_BLK_T_OUT, 7, buf, NULL, 1536, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	assert_int_equal(run(*state, VIRTIO_BLK_T_FLUSH, 0, NULL, NULL, 0, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	now = disk_now(*state);
	assert_pattern(now, 0, 7 * SECTOR);
	assert_memory_equal(now + 7 * SECTOR, buf, 1536);
	assert_pattern(now + 10 * SECTOR, 10 * SECTOR, DISK_LEN - 10 * SECTOR);
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 7, NULL, buf, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(buf[0], 0x5a);
}

/* Header, data and status may be cut anywhere: virtio 1.3, 2.7.4. */
static void framing_does_not_matter(void **state)
{
	struct driver *d = file_disk(*state, false, DRIVER_ALL_FEATURES);
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 2};
	uint64_t out = driver_alloc(d, 16 + 1024), in = driver_alloc(d, 1024 + 1);
	uint8_t *out_hva = driver_hva(d, out), *in_hva = driver_hva(d, in);
	/* the header in two pieces, the second with data behind it; odd data pieces */
	const struct driver_buf write[] = {
		{out, 5, false},	 {out + 5, 11 + 3, false}, {out + 19, 1000, false},
		{out + 1019, 21, false}, {in + 1024, 1, true},
	};
	/* the status byte ends a data piece */
	const struct driver_buf read[] = {
		{out, 16, false},
		{in, 1, true},
		{in + 1, 600, true},
		{in + 601, 423 + 1, true},
	};
	uint32_t used;

	memset(out_hva + 16, 0xa5, 1024);
	memcpy(out_hva, &header, sizeof(header));
	in_hva[1024] = NO_STATUS;
	driver_add(d, 0, write, ARRAY_SIZE(write));
	driver_kick(d, 0);
	finish(*state, NULL, &used);
	assert_int_equal(in_hva[1024], VIRTIO_BLK_S_OK);
	assert_memory_equal(disk_now(*state) + 2 * SECTOR, out_hva + 16, 1024);
	assert_pattern(disk, 0, 2 * SECTOR);
	assert_pattern(disk + 4 * SECTOR, 4 * SECTOR, 4 * SECTOR);

	header.type = VIRTIO_BLK_T_IN;
	header.sector = 5;
	memcpy(out_hva, &header, sizeof(header));
	in_hva[1024] = NO_STATUS;
	driver_add(d, 0, read, ARRAY_SIZE(read));
	driver_kick(d, 0);
	finish(*state, NULL, &used);
	assert_int_equal(used, 1025);
	assert_int_equal(in_hva[1024], VIRTIO_BLK_S_OK);
	assert_pattern(in_hva, 5 * SECTOR, 1024);

	/* header and range of a discard in one piece */
	header.type = VIRTIO_BLK_T_DISCARD;
	memcpy(out_hva, &header, sizeof(header));
	memcpy(out_hva + 16,
	       &(struct virtio_blk_discard_write_zeroes){.sector = 8, .num_sectors = 8}, 16);
	driver_add(d, 0, (struct driver_buf[]){{out, 32, false}, {in, 1, true}}, 2);
	driver_kick(d, 0);
	finish(*state, NULL, &used);
	assert_int_equal(in_hva[0], VIRTIO_BLK_S_OK);
	assert_int_equal(disk_now(*state)[8 * SECTOR + 1], 0);
	assert_pattern(disk + 5 * SECTOR, 5 * SECTOR, 3 * SECTOR);
	assert_pattern(disk + 16 * SECTOR, 16 * SECTOR, SECTOR);
}

static void many_requests_are_in_flight_at_once(void **state)
{
	struct driver *d = file_disk(*state, false, DRIVER_ALL_FEATURES);
	struct request reqs[80];

	for (unsigned i = 0; i < ARRAY_SIZE(reqs); i++)
		reqs[i] = add(d, VIRTIO_BLK_T_IN, 13 * i, NULL, 4096);
	driver_kick(d, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(reqs); i++)
		finish(*state, NULL, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(reqs); i++) {
		assert_int_equal(status_of(d, &reqs[i]), VIRTIO_BLK_S_OK);
		assert_pattern(driver_hva(d, reqs[i].data), 13 * SECTOR * i, 4096);
	}
	assert_true(d->irq);
}

static void a_short_read_is_continued(void **state)
{
	struct fixture *f = *state;
	struct driver *d = pipe_disk(f, true, DRIVER_ALL_FEATURES);
	struct request req = add(d, VIRTIO_BLK_T_IN, 0, NULL, 2048);
	static const size_t pieces[] = {700, 1, 1300, 46};
	size_t sent = 0;
	uint32_t used;

	driver_kick(d, 0);
	for (size_t i = 0; i < 2048; i++)
		buf[i] = pattern(i * 3);
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		assert_int_equal(write(f->disk, buf + sent, pieces[i]), pieces[i]);
		sent += pieces[i];
		turn(f);
		assert_int_equal(status_of(d, &req), NO_STATUS);
		assert_false(driver_reap(d, 0, NULL, NULL));
	}
	assert_int_equal(write(f->disk, buf + sent, 2048 - sent), 2048 - sent);
	finish(f, NULL, &used);
	assert_int_equal(used, 2049);
	assert_int_equal(status_of(d, &req), VIRTIO_BLK_S_OK);
	assert_memory_equal(driver_hva(d, req.data), buf, 2048);
}

static void a_short_write_is_continued(void **state)
{
	struct fixture *f = *state;
	struct driver *d = pipe_disk(f, false, DRIVER_ALL_FEATURES);
	static uint8_t got[0x80000];
	struct request req;
	size_t len = 0;

	/* more than a pipe holds, from a device end that does not block */
	for (size_t i = 0; i < sizeof(got); i++)
		buf[i] = pattern(i * 5);
	req = add(d, VIRTIO_BLK_T_OUT, 0, buf, sizeof(got));
	driver_kick(d, 0);
	assert_int_equal(io_uring_submit(&f->ring), 1);
	while (len < sizeof(got)) {
		ssize_t n = read(f->disk, got + len, MIN(sizeof(got) - len, 5000u));

		assert_true(n > 0);
		len += (size_t)n;
		while (io_uring_cq_ready(&f->ring))
			turn(f);
		io_uring_submit(&f->ring);
	}
	finish(f, NULL, NULL);
	assert_int_equal(status_of(d, &req), VIRTIO_BLK_S_OK);
	assert_memory_equal(got, buf, sizeof(got));
}

/* ---- requests that fail ---- */

static void a_request_past_the_end_is_an_error(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} rows[] = {
		{SECTORS, 512},
		{SECTORS - 1, 1024},
		{SECTORS + 1, 0},
		{UINT64_MAX, 512},
		{UINT64_MAX / SECTOR, 512},
		{UINT64_MAX / SECTOR + 1, 512}, /* times 512 it wraps to 0 */
		{UINT64_MAX - 7, 4096},
		{0, 511}, /* no whole sectors */
		{0, 513},
	};

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint32_t used;

		memset(buf, 0x77, 4096);
		assert_int_equal(
			run(*state, VIRTIO_BLK_T_OUT, rows[i].sector, buf, NULL, rows[i].len, NULL),
			VIRTIO_BLK_S_IOERR);
		assert_int_equal(
			run(*state, VIRTIO_BLK_T_IN, rows[i].sector, NULL, buf, rows[i].len, &used),
			VIRTIO_BLK_S_IOERR);
		assert_int_equal(used, !rows[i].len); /* of data nothing was written */
	}
	assert_pattern(disk_now(*state), 0, DISK_LEN);
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, SECTORS, NULL, NULL, 0, NULL),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(lseek(fixture.disk, 0, SEEK_END), DISK_LEN);
}

static void a_read_only_disk_is_not_written(void **state)
{
	struct driver *d = file_disk(*state, true, DRIVER_ALL_FEATURES);
	struct virtio_blk_discard_write_zeroes range = {.num_sectors = 8};

	assert_true(d->features & BIT(VIRTIO_BLK_F_RO));
	assert_false(d->features & BIT(VIRTIO_BLK_F_DISCARD));
	memset(buf, 0x77, 512);
	assert_int_equal(run(*state, VIRTIO_BLK_T_OUT, 0, buf, NULL, 512, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(*state, VIRTIO_BLK_T_DISCARD, 0, &range, NULL, sizeof(range), NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(*state, VIRTIO_BLK_T_FLUSH, 0, NULL, NULL, 0, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 0, NULL, buf, 512, NULL), VIRTIO_BLK_S_OK);
	assert_pattern(buf, 0, 512);
	assert_pattern(disk_now(*state), 0, DISK_LEN);
}

static void an_unknown_type_is_unsupported(void **state)
{
	static const uint32_t types[] = {2, 3, 5, 7, 13, 0x80000000u, UINT32_MAX};

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		assert_int_equal(run(*state, types[i], 0, NULL, buf, 512, NULL),
				 VIRTIO_BLK_S_UNSUPP);
	assert_false(driver_broken(&fixture.driver));
}

static void an_error_of_the_host_is_an_error_of_the_disk(void **state)
{
	int fd;

	need_ring(*state);
	fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	wrap(*state, fd, DISK_LEN, false, DRIVER_ALL_FEATURES);
	assert_int_equal(run(*state, VIRTIO_BLK_T_OUT, 0, buf, NULL, 512, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 0, NULL, buf, 512, NULL), VIRTIO_BLK_S_OK);
}

static struct {
	unsigned nr;
	const char *what;
	int error;
} told;

static void on_failure(void *ctx, const char *what, int error)
{
	(void)ctx;
	told.nr++;
	told.what = what;
	told.error = error;
}

static void a_file_that_was_truncated_is_an_error(void **state)
{
	uint32_t used;

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	memset(&told, 0, sizeof(told));
	blk_on_failure(fixture.driver.dev, on_failure, NULL);
	assert_int_equal(ftruncate(fixture.disk, 1000), 0);
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 1, NULL, buf, 1024, &used),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(used, 488); /* so much was read */
	assert_int_equal(told.nr, 1);
	assert_string_equal(told.what, "read");
	assert_int_equal(told.error, 0);
	/* What is still there can be read. */
	assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 0, NULL, buf, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(told.nr, 1);
}

static void a_request_without_header_or_status_breaks_the_device(void **state)
{
	static const struct driver_buf rows[][2] = {
		{{DRIVER_RAM_BASE, 15, false}, {DRIVER_RAM_BASE + 16, 1, true}},
		{{DRIVER_RAM_BASE, 16, true}, {DRIVER_RAM_BASE + 16, 1, true}},
		{{DRIVER_RAM_BASE, 16, false}, {DRIVER_RAM_BASE + 16, 1, false}},
		{{DRIVER_RAM_BASE, 16, false}, {DRIVER_RAM_BASE + 16, 0, true}},
		{{DRIVER_RAM_BASE, 0, false}, {DRIVER_RAM_BASE + 16, 0, true}},
		{{DRIVER_RAM_BASE, 16, false}, {DRIVER_RAM_BASE + RAM_LEN, 1, true}},
	};
	struct driver *d = file_disk(*state, false, DRIVER_ALL_FEATURES);

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		driver_add(d, 0, rows[i], 2);
		driver_kick(d, 0);
		assert_true(driver_broken(d));
		assert_false(driver_reap(d, 0, NULL, NULL));
		driver_probe(d, DRIVER_ALL_FEATURES);
		assert_int_equal(run(*state, VIRTIO_BLK_T_IN, 0, NULL, buf, 512, NULL),
				 VIRTIO_BLK_S_OK);
	}
}

/* ---- flush, discard ---- */

/* A pipe takes data but cannot be synced: an error tells that somebody tried. */
static void a_write_without_flush_is_synced_before_it_ends(void **state)
{
	pipe_disk(*state, false, 0);
	assert_int_equal(run(*state, VIRTIO_BLK_T_OUT, 0, buf, NULL, 512, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(read(fixture.disk, buf, 1024), 512);
}

static void a_write_with_flush_is_synced_by_the_flush(void **state)
{
	pipe_disk(*state, false, DRIVER_ALL_FEATURES);
	assert_int_equal(run(*state, VIRTIO_BLK_T_OUT, 0, buf, NULL, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(run(*state, VIRTIO_BLK_T_FLUSH, 0, NULL, NULL, 0, NULL),
			 VIRTIO_BLK_S_IOERR);
}

static void a_discard_frees_the_range_and_no_more(void **state)
{
	struct virtio_blk_discard_write_zeroes range = {.sector = 64, .num_sectors = 1024};
	struct stat before, after;
	const uint8_t *now;

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	assert_int_equal(fsync(fixture.disk), 0);
	assert_int_equal(fstat(fixture.disk, &before), 0);
	assert_int_equal(run(*state, VIRTIO_BLK_T_DISCARD, 0, &range, NULL, sizeof(range), NULL),
			 VIRTIO_BLK_S_OK);
	now = disk_now(*state);
	for (size_t i = 64 * SECTOR; i < (64 + 1024) * SECTOR; i++)
		assert_int_equal(now[i], 0);
	assert_pattern(now, 0, 64 * SECTOR);
	assert_pattern(now + 1088 * SECTOR, 1088 * SECTOR, DISK_LEN - 1088 * SECTOR);
	assert_int_equal(fstat(fixture.disk, &after), 0);
	assert_int_equal(after.st_size, DISK_LEN);
	assert_true(after.st_blocks < before.st_blocks);
}

static void a_bad_discard_is_refused(void **state)
{
	static const struct {
		struct virtio_blk_discard_write_zeroes range[2];
		uint32_t len;
		uint8_t status;
	} rows[] = {
		{{{.sector = SECTORS, .num_sectors = 1}}, 16, VIRTIO_BLK_S_IOERR},
		{{{.sector = 1, .num_sectors = SECTORS}}, 16, VIRTIO_BLK_S_IOERR},
		{{{.sector = UINT64_MAX, .num_sectors = 2}}, 16, VIRTIO_BLK_S_IOERR},
		{{{.sector = 0, .num_sectors = UINT32_MAX}}, 16, VIRTIO_BLK_S_IOERR},
		{{{.sector = UINT64_MAX / SECTOR + 1, .num_sectors = 8}}, 16, VIRTIO_BLK_S_IOERR},
		{{{.num_sectors = 8}, {.num_sectors = 8}}, 32, VIRTIO_BLK_S_IOERR},
		{{{.num_sectors = 8}}, 15, VIRTIO_BLK_S_IOERR},
		{{{.num_sectors = 8}}, 0, VIRTIO_BLK_S_IOERR},
		{{{.num_sectors = 8, .flags = 1}}, 16, VIRTIO_BLK_S_UNSUPP},
		{{{.num_sectors = 8, .flags = 0x80000000u}}, 16, VIRTIO_BLK_S_UNSUPP},
		{{{.num_sectors = 0}}, 16, VIRTIO_BLK_S_OK},
	};

	file_disk(*state, false, DRIVER_ALL_FEATURES);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (run(*state, VIRTIO_BLK_T_DISCARD, 0, rows[i].range, NULL, rows[i].len, NULL) !=
		    rows[i].status)
			fail_msg("row %zu", i);
	assert_pattern(disk_now(*state), 0, DISK_LEN);
}

static void a_discard_is_at_most_as_long_as_the_config_space_says(void **state)
{
	struct virtio_blk_discard_write_zeroes range = {.sector = 8};
	struct virtio_blk_config config;
	struct driver *d;
	char path[32];
	int fd;

	need_ring(*state);
	temp_file(path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	unlink(path);
	assert_int_equal(ftruncate(fd, 1ll << 33), 0); /* holes only */
	d = wrap(*state, fd, UINT64_C(1) << 33, false, DRIVER_ALL_FEATURES);
	driver_config(d, 0, &config, sizeof(config));
	range.num_sectors = config.max_discard_sectors;
	assert_int_equal(run(*state, VIRTIO_BLK_T_DISCARD, 0, &range, NULL, sizeof(range), NULL),
			 VIRTIO_BLK_S_OK);
	range.num_sectors++;
	assert_int_equal(run(*state, VIRTIO_BLK_T_DISCARD, 0, &range, NULL, sizeof(range), NULL),
			 VIRTIO_BLK_S_IOERR);
}

static void a_discard_that_the_file_system_cannot_do_is_unsupported(void **state)
{
	struct virtio_blk_discard_write_zeroes range = {.num_sectors = 8};
	int fd;

	need_ring(*state);
	/* a regular file that can be written, on a file system without fallocate() */
	fd = open("/proc/self/comm", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	wrap(*state, fd, DISK_LEN, false, DRIVER_ALL_FEATURES);
	assert_int_equal(run(*state, VIRTIO_BLK_T_DISCARD, 0, &range, NULL, sizeof(range), NULL),
			 VIRTIO_BLK_S_UNSUPP);
}

/* ---- a hostile guest, reset, destroy ---- */

static void one_chain_made_available_without_end_stays_bounded(void **state)
{
	struct fixture *f = *state;
	struct driver *d = pipe_disk(f, true, DRIVER_ALL_FEATURES);
	struct request req = add(d, VIRTIO_BLK_T_IN, 0, NULL, 512);
	uint16_t size = d->queues[0].size;
	unsigned done = 0;

	/* the same chain, three rings full of it, none of it answered yet */
	for (unsigned i = 1; i < 3u * size; i++) {
		driver_make_avail(d, 0, req.head);
		driver_kick(d, 0);
		if (i < size)
			continue;
		/* every request is busy, so the rest waits in the ring */
		assert_false(driver_broken(d));
		if (i == 2u * size - 1)
			break;
	}
	for (unsigned i = 0; i < 2u * size; i++) {
		assert_int_equal(write(f->disk, buf, 512), 512);
		finish(f, NULL, NULL);
		done++;
	}
	assert_int_equal(done, 2u * size);
	assert_false(driver_reap(d, 0, NULL, NULL));
}

static void requests_without_io_do_not_hold_the_loop(void **state)
{
	struct driver *d = file_disk(*state, false, DRIVER_ALL_FEATURES);
	struct request req = add(d, 99, 0, NULL, 512);
	uint16_t size = d->queues[0].size;

	for (unsigned i = 1; i < size; i++)
		driver_make_avail(d, 0, req.head);
	driver_kick(d, 0);
	/* taken, but answered only when the loop turns */
	assert_false(driver_reap(d, 0, NULL, NULL));
	for (unsigned i = 0; i < size; i++)
		driver_make_avail(d, 0, req.head);
	driver_kick(d, 0);
	assert_false(driver_broken(d));
	for (unsigned i = 0; i < 2u * size; i++)
		finish(*state, NULL, NULL);
}

static bool reset_returned;

static void *reset_on_a_vcpu(void *arg)
{
	struct driver *d = arg;

	driver_write(d, VIRTIO_MMIO_STATUS, 0);
	__atomic_store_n(&reset_returned, true, __ATOMIC_RELEASE);
	return NULL;
}

static void a_reset_waits_for_io_and_drops_its_answer(void **state)
{
	struct fixture *f = *state;
	struct driver *d = pipe_disk(f, true, DRIVER_ALL_FEATURES);
	struct request a = add(d, VIRTIO_BLK_T_IN, 0, NULL, 1024);
	struct request b = add(d, VIRTIO_BLK_T_IN, 0, NULL, 512);
	pthread_t vcpu;

	driver_kick(d, 0);
	assert_int_equal(io_uring_submit(&f->ring), 2);
	reset_returned = false;
	assert_int_equal(pthread_create(&vcpu, NULL, reset_on_a_vcpu, d), 0);
	usleep(50000);
	assert_false(__atomic_load_n(&reset_returned, __ATOMIC_ACQUIRE));
	/* a kick during the reset is nobody's */
	virtio_mmio_notify(d->mmio, 0);
	/* half of a: it is not continued */
	assert_int_equal(write(f->disk, buf, 512), 512);
	turn(f);
	usleep(20000);
	assert_false(__atomic_load_n(&reset_returned, __ATOMIC_ACQUIRE));
	assert_int_equal(write(f->disk, buf, 512), 512);
	turn(f);
	pthread_join(vcpu, NULL);
	assert_true(reset_returned);
	assert_int_equal(status_of(d, &a), NO_STATUS);
	assert_int_equal(status_of(d, &b), NO_STATUS);
	assert_int_equal(*driver_used(d, 0, 1), 0);
	assert_false(d->irq);
	assert_int_equal(driver_read(d, VIRTIO_MMIO_STATUS), 0);

	/* and it works again */
	driver_probe(d, DRIVER_ALL_FEATURES);
	a = add(d, VIRTIO_BLK_T_IN, 0, NULL, 512);
	driver_kick(d, 0);
	assert_int_equal(write(f->disk, buf, 512), 512);
	finish(f, NULL, NULL);
	assert_int_equal(status_of(d, &a), VIRTIO_BLK_S_OK);
}

static void destroy_waits_for_io(void **state)
{
	struct fixture *f = *state;
	struct driver *d = pipe_disk(f, true, DRIVER_ALL_FEATURES);

	for (unsigned i = 0; i < 5; i++)
		add(d, VIRTIO_BLK_T_IN, 0, NULL, 512);
	driver_kick(d, 0);
	add(d, VIRTIO_BLK_T_GET_ID, 0, NULL, 20);
	driver_kick(d, 0);
	/* whatever has completed by now has not been reaped */
	assert_int_equal(io_uring_submit(&f->ring), 6);
	assert_int_equal(write(f->disk, buf, 5 * 512), 5 * 512);
	driver_exit(d);
	d->mmio = NULL;
	assert_int_equal(io_uring_sq_ready(&f->ring), 0);
	assert_int_equal(io_uring_cq_ready(&f->ring), 0);
}

int main(void)
{
#define BLK_TEST(name) cmocka_unit_test_setup_teardown(name, start_ring, stop_ring)
	const struct CMUnitTest tests[] = {
		BLK_TEST(the_config_space_describes_the_disk),
		BLK_TEST(the_serial_is_20_bytes_at_most),
		BLK_TEST(a_read_gives_what_the_file_holds),
		BLK_TEST(a_write_reaches_the_file_and_nothing_else),
		BLK_TEST(framing_does_not_matter),
		BLK_TEST(many_requests_are_in_flight_at_once),
		BLK_TEST(a_short_read_is_continued),
		BLK_TEST(a_short_write_is_continued),
		BLK_TEST(a_request_past_the_end_is_an_error),
		BLK_TEST(a_read_only_disk_is_not_written),
		BLK_TEST(an_unknown_type_is_unsupported),
		BLK_TEST(an_error_of_the_host_is_an_error_of_the_disk),
		BLK_TEST(a_file_that_was_truncated_is_an_error),
		BLK_TEST(a_request_without_header_or_status_breaks_the_device),
		BLK_TEST(a_write_without_flush_is_synced_before_it_ends),
		BLK_TEST(a_write_with_flush_is_synced_by_the_flush),
		BLK_TEST(a_discard_frees_the_range_and_no_more),
		BLK_TEST(a_bad_discard_is_refused),
		BLK_TEST(a_discard_is_at_most_as_long_as_the_config_space_says),
		BLK_TEST(a_discard_that_the_file_system_cannot_do_is_unsupported),
		BLK_TEST(one_chain_made_available_without_end_stays_bounded),
		BLK_TEST(requests_without_io_do_not_hold_the_loop),
		BLK_TEST(a_reset_waits_for_io_and_drops_its_answer),
		BLK_TEST(destroy_waits_for_io),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
