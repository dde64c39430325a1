/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_blk - a hostile driver, and a file that shrinks, against virtio-blk.
 *
 * An input is requests cut into any pieces, several under way at once, resets in the midst of them,
 * a file that becomes shorter, and RAM that is written anyhow, rings included. Of requests whose
 * memory is nobody else's the outcome is known to the byte: status, used length, what is on the
 * disk, what is in RAM. Of all others what must not be is known: RAM that changes after a reset, a
 * file that grows, a write-protected one that changes; and a good driver after all that is served.
 *
 * Files: virtio/blk.c
 */
#include "iommu/fuzz/input.h"

#include <linux/virtio_blk.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/blk.h"
#include "virtio/queue.h"
#include "virtio/tests/driver.h"

#define MAX_OPS	   200
#define RAM_LEN	   0x50000u
#define GUARD	   0x10000u /* on either side of RAM: the kernel writes there for us */
#define NR_SLOTS   8u
#define SLOT_LEN   0x8000u /* of RAM: half for what the device reads, half for what it writes */
#define SLOT(i)	   (0x10000u + (i)*SLOT_LEN)
#define PIECES_MAX 6u
#define SECTOR	   512u
#define SECTORS	   96u
#define DISK_LEN   (SECTORS * SECTOR)

/* A request of which everything is known. */
struct request {
	bool under_way;
	uint16_t head;
	uint32_t used_len;
	uint8_t status;
	uint32_t nr_out, nr_in;		/* bytes the device may read, and write */
	uint32_t out_at[PIECES_MAX][2]; /* offset in RAM, bytes */
	uint32_t in_at[PIECES_MAX][2];
	bool writes; /* to the disk: these sectors */
	uint64_t first, nr;
	uint32_t filled;       /* bytes of what the device writes, before the status */
	uint8_t data[0x4000u]; /* these bytes */
};

static struct bench {
	struct driver d;
	struct io_uring ring;
	unsigned in_ring; /* submitted, not completed */
	bool readonly, wild;
	uint64_t file_len;
	struct request requests[NR_SLOTS];
	unsigned irqs_before;
} b;

static uint8_t *ram;		/* for good, with its guards */
static uint8_t shadow[RAM_LEN]; /* what RAM should be */
static uint8_t disk[DISK_LEN], was[DISK_LEN], file_now[DISK_LEN];
static int file = -1;
static struct io_uring ring;

/* ---- the event loop ---- */

static void turn(bool wait)
{
	struct io_uring_cqe *cqe;
	int ret = wait && (b.in_ring || io_uring_sq_ready(&ring))
			  ? io_uring_submit_and_wait(&ring, 1)
			  : io_uring_submit(&ring);

	demand(ret >= 0);
	b.in_ring += (unsigned)ret;
	while (!io_uring_peek_cqe(&ring, &cqe)) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		unsigned flags = cqe->flags;

		io_uring_cqe_seen(&ring, cqe);
		b.in_ring--;
		op->done(op, res, flags);
	}
}

/* ---- what should come of a request ---- */

static void shadow_rings(void)
{
	memcpy(shadow, ram, SLOT(0));
}

static void put_pieces(const uint32_t (*at)[2], const uint8_t *src, uint32_t off, uint32_t len,
		       uint8_t *into)
{
	for (unsigned i = 0; i < PIECES_MAX && len; i++) {
		uint32_t n;

		if (off >= at[i][1]) {
			off -= at[i][1];
			continue;
		}
		n = MIN(len, at[i][1] - off);
		memcpy(into + at[i][0] + off, src, n);
		src += n;
		len -= n;
		off = 0;
	}
}

/* foresee - from what the driver asks for: status, lengths, data, and what the disk is then */
static void foresee(struct request *req, uint32_t type, uint64_t sector, const uint8_t *out)
{
	uint64_t data = 0, file_has;
	bool in_range;

	req->status = VIRTIO_BLK_S_UNSUPP;
	if (type == VIRTIO_BLK_T_IN)
		data = req->nr_in - 1;
	else if (type == VIRTIO_BLK_T_OUT)
		data = req->nr_out - 16;
	in_range = data % SECTOR == 0 && sector <= SECTORS && data / SECTOR <= SECTORS - sector;
	switch (type) {
	case VIRTIO_BLK_T_IN:
		req->status = VIRTIO_BLK_S_IOERR;
		if (!in_range)
			break;
		file_has = sector * SECTOR >= b.file_len ? 0 : b.file_len - sector * SECTOR;
		req->filled = (uint32_t)MIN(data, file_has);
		memcpy(req->data, disk + sector * SECTOR, req->filled);
		if (req->filled == data)
			req->status = VIRTIO_BLK_S_OK;
		req->first = sector;
		req->nr = data / SECTOR;
		break;
	case VIRTIO_BLK_T_OUT:
		req->status = VIRTIO_BLK_S_IOERR;
		if (!in_range || b.readonly)
			break;
		req->status = VIRTIO_BLK_S_OK;
		req->writes = true;
		req->first = sector;
		req->nr = data / SECTOR;
		memcpy(disk + sector * SECTOR, out + 16, data);
		if (data)
			b.file_len = MAX(b.file_len, sector * SECTOR + data);
		break;
	case VIRTIO_BLK_T_FLUSH:
		req->status = VIRTIO_BLK_S_OK;
		break;
	case VIRTIO_BLK_T_DISCARD:
		if (b.readonly)
			req->status = VIRTIO_BLK_S_IOERR;
		if (!(b.d.features & BIT(VIRTIO_BLK_F_DISCARD)))
			break;
		req->status = VIRTIO_BLK_S_IOERR;
		if (req->nr_out != 32)
			break;
		sector = get_le64(out + 16);
		data = get_le32(out + 24);
		if (get_le32(out + 28))
			req->status = VIRTIO_BLK_S_UNSUPP;
		else if (sector <= SECTORS && data <= SECTORS - sector) {
			req->status = VIRTIO_BLK_S_OK;
			req->writes = true;
			req->first = sector;
			req->nr = data;
			memset(disk + sector * SECTOR, 0, data * SECTOR);
		}
		break;
	case VIRTIO_BLK_T_GET_ID:
		req->status = VIRTIO_BLK_S_OK;
		memcpy(req->data, "fuzz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
		req->filled = MIN(20, req->nr_in - 1);
		break;
	}
	/* Contiguous from the start: the status byte counts if nothing before it is left out. */
	req->used_len = req->filled + (req->filled == req->nr_in - 1);
}

static void reap(void)
{
	uint16_t id;
	uint32_t len;

	while (!b.wild && driver_reap(&b.d, 0, &id, &len)) {
		struct request *req = NULL;

		for (unsigned i = 0; i < NR_SLOTS; i++)
			if (b.requests[i].under_way && b.requests[i].head == id)
				req = &b.requests[i];
		demand(req);
		demand(len == req->used_len);
		put_pieces(req->in_at, req->data, 0, req->filled, shadow);
		put_pieces(req->in_at, &req->status, req->nr_in - 1, 1, shadow);
		req->under_way = false;
	}
}

static bool any_under_way(void)
{
	for (unsigned i = 0; i < NR_SLOTS; i++)
		if (b.requests[i].under_way)
			return true;
	return false;
}

/* settle - everything comes to its end; all is then as it should be */
static void settle(void)
{
	bool any = any_under_way();

	if (any)
		driver_kick(&b.d, 0);
	while (b.in_ring || io_uring_sq_ready(&ring)) {
		turn(true);
		reap();
	}
	if (b.wild)
		return;
	reap();
	demand(!any_under_way());
	demand(!driver_broken(&b.d));
	demand(!any || b.d.irq || b.d.features & BIT(VIRTIO_RING_F_EVENT_IDX));
	driver_ack(&b.d);
	/* The used ring is the device's. */
	memcpy(shadow + (b.d.queues[0].used - DRIVER_RAM_BASE),
	       driver_hva(&b.d, b.d.queues[0].used), 6 + 8 * (size_t)b.d.queues[0].size);
	demand(!memcmp(ram, shadow, RAM_LEN));
}

/* ---- reset ---- */

static void *write_zero_status(void *done)
{
	driver_reset(&b.d);
	memcpy(shadow, ram, RAM_LEN);
	__atomic_store_n((bool *)done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* reset_device - which waits for I/O, so that the loop must go on turning */
static void reset_device(void)
{
	bool done = false;
	pthread_t thread;

	demand(!pthread_create(&thread, NULL, write_zero_status, &done));
	while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
		turn(false);
		sched_yield();
	}
	pthread_join(thread, NULL);
	while (b.in_ring || io_uring_sq_ready(&ring))
		turn(true);
	demand(!memcmp(ram, shadow, RAM_LEN));
}

/* check_disk - sectors that no request was about are what they were */
static void check_disk(void)
{
	struct stat st;
	uint64_t len;

	demand(!fstat(file, &st) && st.st_size <= DISK_LEN);
	len = (uint64_t)st.st_size;
	memset(file_now, 0, sizeof(file_now));
	demand(pread(file, file_now, DISK_LEN, 0) == (ssize_t)len);
	if (!b.wild) {
		for (unsigned i = 0; i < NR_SLOTS; i++) {
			const struct request *req = &b.requests[i];

			if (req->under_way && req->writes)
				memcpy(disk + req->first * SECTOR, file_now + req->first * SECTOR,
				       req->nr * SECTOR);
		}
		demand(any_under_way() || len == b.file_len);
		demand(!memcmp(disk, file_now, DISK_LEN));
	}
	if (b.readonly)
		demand(!memcmp(file_now, was, len));
	memcpy(disk, file_now, DISK_LEN);
	b.file_len = len;
}

static void set_up(uint64_t features)
{
	reset_device();
	check_disk();
	b.wild = false;
	memset(b.requests, 0, sizeof(b.requests));
	b.d.next_gpa = DRIVER_RAM_BASE;
	driver_probe(&b.d, features);
	memcpy(shadow, ram, RAM_LEN);
}

/* ---- the driver ---- */

/* cut - @len bytes of RAM from @at on, in pieces with or without gaps. Return: pieces. */
static unsigned cut(struct input *in, uint32_t at, uint32_t len, uint32_t (*pieces)[2])
{
	uint8_t how = take8(in);
	unsigned nr = 0;

	memset(pieces, 0, PIECES_MAX * sizeof(*pieces));
	while (len) {
		uint32_t n = nr + 1 == PIECES_MAX || !(how >> nr & 1) ? len : 1u + take16(in);

		pieces[nr][0] = at;
		pieces[nr][1] = n = MIN(n, len);
		at += n + (how & 0x80 ? 16 : 0);
		len -= n;
		nr++;
	}
	return nr;
}

/* request - one that keeps to its own memory; well made, unless it asks for nonsense */
static void request(struct input *in)
{
	static const uint8_t types[] = {VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,
					VIRTIO_BLK_T_FLUSH,   VIRTIO_BLK_T_GET_ID,
					VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};
	struct driver_buf bufs[2 * PIECES_MAX];
	static uint8_t out[0x3800];
	uint32_t type, out_len = 16, in_len = 1, i;
	struct request *req = NULL;
	unsigned slot, nr_out, nr_in, nr = 0;
	uint8_t how = take8(in), bytes;
	uint64_t sector;

	type = types[how % 6];
	if (how >= 0xf0)
		type = take32(in);
	bytes = take8(in);
	sector = bytes < 0xf0 ? bytes % (SECTORS + 2) : take64(in);
	bytes = take8(in);
	if (type == VIRTIO_BLK_T_DISCARD)
		out_len = bytes < 0xf0 ? 32 : 16u + bytes % 32;
	else if (type == VIRTIO_BLK_T_OUT)
		out_len += bytes < 0xf0 ? bytes % 24 * SECTOR : bytes;
	else
		in_len += bytes < 0xf0 ? bytes % 24 * SECTOR : bytes % 32;
	for (i = 0; i < out_len; i++)
		out[i] = (uint8_t)(bytes + i * 7 + i / 256);
	put_le32(out, type);
	put_le32(out + 4, 0);
	put_le64(out + 8, sector);
	if (type == VIRTIO_BLK_T_DISCARD) {
		put_le64(out + 16, sector);
		put_le32(out + 24, bytes & 0x80 ? take32(in) : bytes % 64);
		put_le32(out + 28, how & 0x40 ? take8(in) & 3 : 0);
	}

	/* What others have under way on the same sectors may come before or after: in that order.
	 */
	for (i = 0; i < NR_SLOTS; i++) {
		struct request *other = &b.requests[i];
		bool may_write = type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD;

		if (other->under_way && (may_write || other->writes) &&
		    sector < other->first + other->nr && sector + 64 > other->first)
			settle();
	}
	if (b.file_len < DISK_LEN)
		settle();
	for (slot = 0; slot < NR_SLOTS && b.requests[slot].under_way; slot++)
		;
	if (slot == NR_SLOTS) {
		settle();
		slot = 0;
	}
	req = &b.requests[slot];
	memset(req, 0, offsetof(struct request, data));
	req->nr_out = out_len;
	req->nr_in = in_len;
	nr_out = cut(in, SLOT(slot), out_len, req->out_at);
	nr_in = cut(in, SLOT(slot) + SLOT_LEN / 2, in_len, req->in_at);
	for (i = 0; i < nr_out + nr_in; i++) {
		const uint32_t *at = i < nr_out ? req->out_at[i] : req->in_at[i - nr_out];

		bufs[nr++] = (struct driver_buf){DRIVER_RAM_BASE + at[0], at[1], i >= nr_out};
	}
	put_pieces(req->out_at, out, 0, out_len, ram);
	put_pieces(req->out_at, out, 0, out_len, shadow);
	foresee(req, type, sector, out);
	req->under_way = true;
	req->head = driver_add(&b.d, 0, bufs, nr);
	shadow_rings();
	if (how & 8)
		driver_kick(&b.d, 0);
}

/* go_wild - from now on nothing is known, until a reset */
static void go_wild(struct input *in)
{
	uint8_t how = take8(in), *at;
	unsigned len;

	b.wild = true;
	switch (how % 4) {
	case 0: /* any bytes: descriptors, rings, buffers that are being read */
		at = ram + take32(in) % (RAM_LEN - 256);
		len = take8(in);
		take(in, at, len);
		break;
	case 1: /* a request that may lie anywhere, over another, over the rings */
		for (unsigned i = 0; i < 3; i++)
			*driver_desc(&b.d, 0, (uint16_t)(how / 4 + i)) = (struct vring_desc){
				.addr = DRIVER_RAM_BASE + take32(in) % (RAM_LEN + 0x1000),
				.len = i == 1	? take16(in)
				       : i == 2 ? 1
						: 16,
				.flags =
					(uint16_t)(i < 2 ? VRING_DESC_F_NEXT : VRING_DESC_F_WRITE) |
					(i == 1 && how & 0x80 ? VRING_DESC_F_WRITE : 0),
				.next = (uint16_t)(how / 4 + i + 1),
			};
		driver_make_avail(&b.d, 0, how / 4);
		break;
	case 2:
		driver_make_avail(&b.d, 0, take8(in));
		break;
	case 3:
		*driver_avail(&b.d, 0, 1) = (uint16_t)(*driver_avail(&b.d, 0, 1) + take16(in));
		break;
	}
	driver_kick(&b.d, 0);
}

static void step(struct input *in)
{
	uint8_t how, config[8];
	bool broken;

	switch (take8(in) % 10) {
	case 0:
	case 1:
	case 2:
		if (!b.wild)
			request(in);
		break;
	case 3:
		turn(false);
		reap();
		break;
	case 4:
		settle();
		break;
	case 5:
		how = take8(in);
		set_up((how & 1 ? BIT(VIRTIO_BLK_F_FLUSH) : 0) |
		       (how & 2 ? BIT(VIRTIO_BLK_F_DISCARD) : 0) |
		       (how & 4 ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0));
		break;
	case 6: /* the file becomes shorter, and so what is to be read */
		if (b.wild || b.readonly)
			break;
		settle();
		how = take8(in);
		b.file_len = MIN(b.file_len, how % (DISK_LEN / 256) * 256u);
		demand(!ftruncate(file, (off_t)b.file_len));
		memset(&disk[b.file_len], 0, DISK_LEN - b.file_len);
		break;
	case 7: /* what has no header, or nowhere to be answered, ends it all */
		if (b.wild)
			break;
		settle();
		how = take8(in);
		broken = (how & 0x0f) != 0 || how & 0x80;
		driver_add(&b.d, 0,
			   (struct driver_buf[]){
				   {DRIVER_RAM_BASE + SLOT(0), 16u - (how & 0x0f), false},
				   {DRIVER_RAM_BASE + SLOT(1), 1, !(how & 0x80)}},
			   2);
		memset(ram + SLOT(0), 0xff, 16);
		driver_kick(&b.d, 0);
		demand(driver_broken(&b.d) == broken);
		b.wild = true;
		break;
	case 8:
		how = take8(in);
		driver_config(&b.d, how, config, take8(in) % sizeof(config));
		virtio_mmio_access(b.d.mmio, VIRTIO_MMIO_CONFIG + how, config, 4, true);
		if (how == 0)
			demand(driver_read(&b.d, VIRTIO_MMIO_CONFIG) == SECTORS);
		break;
	case 9:
		go_wild(in);
		break;
	}
}

static void behave(void)
{
	static const uint8_t write_and_read[] = {1 | 8, 3, 2,	  0, 0, 0 | 8, 3, 2,
						 0,	0, 3 | 8, 0, 1, 0,     0};
	struct input in = {write_and_read, sizeof(write_and_read)};

	set_up(DRIVER_ALL_FEATURES);
	for (unsigned i = 0; i < 3; i++) {
		request(&in);
		settle();
	}
}

/* Made once: a ring takes longer to make than an input to run. */
static void make_all(void)
{
	uint8_t *all =
		mmap(NULL, RAM_LEN + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	demand(all != MAP_FAILED);
	ram = all + GUARD;
	demand(!mprotect(ram, RAM_LEN, PROT_READ | PROT_WRITE));
	for (unsigned i = 0; i < DISK_LEN; i++)
		was[i] = (uint8_t)(i * 5 + i / SECTOR);
	file = memfd_create("disk", MFD_CLOEXEC);
	demand(file >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct virtio_dev *dev;
	uint8_t how = take8(&in);

	if (file < 0) {
		if (io_uring_queue_init(512, &ring, 0))
			return 0; /* not allowed here */
		make_all();
	}
	memset(&b.d, 0, sizeof(b.d));
	memset(b.requests, 0, sizeof(b.requests));
	memset(ram, 0, RAM_LEN);
	b.wild = false;
	b.in_ring = 0;
	b.readonly = how & 1;
	b.file_len = DISK_LEN;
	memcpy(disk, was, DISK_LEN);
	demand(!ftruncate(file, 0) && pwrite(file, was, DISK_LEN, 0) == DISK_LEN);
	b.d.ram = ram;
	b.d.ram_len = RAM_LEN;
	b.d.next_gpa = DRIVER_RAM_BASE;
	demand(!gmem_add(&b.d.gmem, DRIVER_RAM_BASE, RAM_LEN, ram));
	demand(!blk_create(dup(file), DISK_LEN, b.readonly, "fuzz", &ring, &dev));
	driver_wrap(&b.d, dev);
	driver_probe(&b.d, DRIVER_ALL_FEATURES);
	memcpy(shadow, ram, RAM_LEN);
	for (unsigned i = 0; in.left && i < MAX_OPS; i++)
		step(&in);
	if (how & 2)
		behave();
	if (!(how & 4)) {
		settle();
		check_disk();
	}
	virtio_mmio_destroy(b.d.mmio); /* with requests under way or without */
	demand(!io_uring_sq_ready(&ring));
	return 0;
}
