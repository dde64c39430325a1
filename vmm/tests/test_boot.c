/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "iommu/base.h"
#include "vmm/boot.h"
#include "vmm/layout.h"

#define MIB 0x100000ull

/* Every test starts with a good Image in memory and an empty directory. */
#define IMAGE_LEN 300000

struct bench {
	char dir[64], path[96];
	uint8_t image[IMAGE_LEN]; /* text offset 0, image size 1 MiB, 4 KiB pages, a PE section */
	struct kernel_image out;
	char error[256];
};

/* A kernel's bytes compress, but not to nothing. */
static void fill(uint8_t *data, size_t len)
{
	uint32_t x = 1;

	for (size_t i = 0; i < len; i++) {
		x = x * 1103515245 + 12345;
		data[i] = (uint8_t)((x >> 16) & 0x3f);
	}
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	uint8_t *d = b->image;

	strcpy(b->dir, "/tmp/granule-boot-XXXXXX");
	if (!mkdtemp(b->dir))
		return -1;
	snprintf(b->path, sizeof(b->path), "%s/kernel", b->dir);
	fill(d, IMAGE_LEN);
	memset(d, 0, 512);
	memcpy(d, "MZ", 2);
	put_le64(d + 8, 0);
	put_le64(d + 16, MIB);
	put_le64(d + 24, 1 << 1 | 1 << 3);
	memcpy(d + 56, "ARM\x64", 4);
	put_le32(d + 60, 64);
	memcpy(d + 64, "PE\0\0", 4);
	put_le16(d + 64 + 4, 0xaa64);
	put_le16(d + 64 + 6, 1);   /* one section */
	put_le16(d + 64 + 20, 96); /* optional header */
	put_le32(d + 64 + 24 + 96 + 16, IMAGE_LEN - 4096);
	put_le32(d + 64 + 24 + 96 + 20, 4096);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	unlink(b->path);
	rmdir(b->path);
	rmdir(b->dir);
	kernel_free(&b->out);
	free(b);
	return 0;
}

static void put(struct bench *b, const void *data, size_t len)
{
	FILE *f;

	/* A file system may flush one that is truncated and written again. */
	unlink(b->path);
	f = fopen(b->path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static size_t gz(const void *data, size_t len, uint8_t *out, size_t room)
{
	z_stream zs = {0};

	assert_int_equal(deflateInit2(&zs, 6, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
	zs.next_in = (Bytef *)data;
	zs.avail_in = (uInt)len;
	zs.next_out = out;
	zs.avail_out = (uInt)room;
	assert_int_equal(deflate(&zs, Z_FINISH), Z_STREAM_END);
	deflateEnd(&zs);
	return zs.total_out;
}

static size_t zst(const void *data, size_t len, uint8_t *out, size_t room)
{
	size_t n = ZSTD_compress(out, room, data, len, 3);

	assert_false(ZSTD_isError(n));
	return n;
}

static const char *const zboot_types[] = {"gzip", "zstd", "zstd22"};

/* An EFI zboot file of @data; what follows the payload is not part of it. Return: its length. */
static size_t zboot(const char *type, const void *data, size_t len, uint8_t *out, size_t room)
{
	size_t n;

	memset(out, 0, 512);
	memcpy(out, "MZ", 2);
	memcpy(out + 4, "zimg", 4);
	strcpy((char *)out + 24, type);
	memcpy(out + 56, "\xcd\x23\x82\x81", 4);
	n = strcmp(type, "gzip") ? zst(data, len, out + 512, room - 512)
				 : gz(data, len, out + 512, room - 512);
	put_le32(out + 8, 512);
	put_le32(out + 12, (uint32_t)n);
	put_le32(out + 512 + n, (uint32_t)len);
	return 512 + n + 4;
}

static uint8_t packed[2 * IMAGE_LEN];

static int load(struct bench *b, uint64_t limit)
{
	kernel_free(&b->out);
	memset(b->error, 0, sizeof(b->error));
	return kernel_load(b->path, limit, &b->out, b->error, sizeof(b->error));
}

static void loads(struct bench *b, const char *format)
{
	int ret = load(b, 64 * MIB);

	if (ret)
		fail_msg("%s: %d, %s", format, ret, b->error);
	assert_string_equal(b->out.format, format);
	assert_int_equal(b->out.len, IMAGE_LEN);
	assert_memory_equal(b->out.data, b->image, IMAGE_LEN);
	assert_int_equal(b->out.text_offset, 0);
	assert_int_equal(b->out.image_size, MIB);
	assert_int_equal(b->out.page_size, 4096);
}

/* Refused with a line that names the file and says @what. */
static void refused(struct bench *b, uint64_t limit, int err, const char *what)
{
	int ret = load(b, limit);

	if (ret != err)
		fail_msg("%s: returned %d, not %d: %s", what, ret, err, b->error);
	assert_null(b->out.data);
	if (!strstr(b->error, b->path) || !strstr(b->error, what))
		fail_msg("'%s' lacks '%s'", b->error, what);
	assert_null(strchr(b->error, '\n'));
	assert_true(strlen(b->error) < sizeof(b->error) - 1); /* nothing cut off */
}

/* ---- what is taken ---- */

static void every_format_gives_the_same_image(void **state)
{
	struct bench *b = *state;

	put(b, b->image, IMAGE_LEN);
	loads(b, "Image");
	put(b, packed, gz(b->image, IMAGE_LEN, packed, sizeof(packed)));
	loads(b, "gzip");
	for (size_t i = 0; i < ARRAY_SIZE(zboot_types); i++) {
		put(b, packed, zboot(zboot_types[i], b->image, IMAGE_LEN, packed, sizeof(packed)));
		loads(b, i ? "EFI zboot (zstd)" : "EFI zboot (gzip)");
	}
}

static void the_page_size_comes_from_the_header(void **state)
{
	static const unsigned sizes[] = {0, 4096, 16384, 65536};
	struct bench *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		put_le64(b->image + 24, i << 1 | 1 << 3 | 1);
		put(b, b->image, IMAGE_LEN);
		assert_int_equal(load(b, 64 * MIB), 0);
		assert_int_equal(b->out.page_size, sizes[i]);
	}
}

static void an_image_without_a_size_is_an_old_one(void **state)
{
	struct bench *b = *state;

	put_le64(b->image + 8, 0x12345678); /* means nothing then */
	put_le64(b->image + 16, 0);
	put(b, b->image, IMAGE_LEN);
	assert_int_equal(load(b, 64 * MIB), 0);
	assert_int_equal(b->out.text_offset, 0x80000);
	assert_true(b->out.image_size > IMAGE_LEN);
	assert_int_equal(b->out.page_size, 0);
}

static void what_follows_the_image_has_room_too(void **state)
{
	struct bench *b = *state;

	put_le64(b->image + 16, IMAGE_LEN - 1000);
	put(b, b->image, IMAGE_LEN);
	assert_int_equal(load(b, 64 * MIB), 0);
	assert_int_equal(b->out.image_size, IMAGE_LEN);
}

static void what_follows_the_compressed_data_is_left_alone(void **state)
{
	struct bench *b = *state;
	size_t n = gz(b->image, IMAGE_LEN, packed, sizeof(packed));

	memset(packed + n, 0xa5, 5000);
	put(b, packed, n + 5000);
	loads(b, "gzip");
}

/* ---- what is refused ---- */

static void a_file_that_is_no_file_is_refused(void **state)
{
	struct bench *b = *state;

	refused(b, 64 * MIB, -ENOENT, "No such file");
	put(b, "", 0);
	refused(b, 64 * MIB, -EINVAL, "empty");
	unlink(b->path);
	assert_int_equal(mkdir(b->path, 0700), 0);
	refused(b, 64 * MIB, -EINVAL, "a directory");
	rmdir(b->path);
	assert_int_equal(mkfifo(b->path, 0600), 0); /* and nobody ever opens its other end */
	refused(b, 64 * MIB, -EINVAL, "a pipe");
	unlink(b->path);
	assert_int_equal(symlink("/dev/zero", b->path), 0);
	refused(b, 64 * MIB, -EINVAL, "a device");
}

static void a_path_of_any_length_leaves_room_for_the_reason(void **state)
{
	struct bench *b = *state;
	struct kernel_image image;
	char path[5000];

	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(kernel_load(path, MIB, &image, b->error, sizeof(b->error)), -ENAMETOOLONG);
	assert_non_null(strstr(b->error, "kernel ...xxx"));
	assert_non_null(strstr(b->error, "xxx: File name too long; check the path"));
}

/* A file of zeroes but for the bytes given, and what it should be called. */
struct alien {
	const char *says;
	struct {
		unsigned off, len;
		const char *bytes;
	} at[3];
};

#define AT(off, bytes)                                                                             \
	{                                                                                          \
		off, sizeof(bytes) - 1, bytes                                                      \
	}

static const struct alien aliens[] = {
	{"an x86 kernel (bzImage)", {AT(0, "MZ"), AT(0x1fe, "\x55\xaa"), AT(0x202, "HdrS")}},
	{"a 32-bit Arm kernel (zImage)", {AT(0x24, "\x18\x28\x6f\x01")}},
	{"a RISC-V kernel", {AT(0, "MZ"), AT(0x38, "RSC\x05")}},
	{"an ELF file for x86-64", {AT(0, "\177ELF\x02\x01"), AT(18, "\x3e\x00")}},
	{"an ELF file for s390", {AT(0, "\177ELF\x02\x02"), AT(18, "\x00\x16")}},
	{"an ELF file for arm64", {AT(0, "\177ELF\x02\x01"), AT(18, "\xb7\x00")}},
	{"an ELF file for an unknown machine", {AT(0, "\177ELF\x02\x01"), AT(18, "\xff\xff")}},
	{"an EFI program for x86-64", {AT(0, "MZ"), AT(60, "\x80"), AT(0x80, "PE\0\0\x64\x86")}},
	{"an EFI program for arm64, not",
	 {AT(0, "MZ"), AT(60, "\x80"), AT(0x80, "PE\0\0\x64\xaa")}},
	{"an EFI program for RISC-V", {AT(0, "MZ"), AT(60, "\x80"), AT(0x80, "PE\0\0\x64\x50")}},
	{"compressed with xz", {AT(0, "\3757zXZ\0")}},
	{"compressed with lz4", {AT(0, "\x02\x21\x4c\x18")}},
	{"compressed with lz4", {AT(0, "\x04\x22\x4d\x18")}},
	{"compressed with bzip2", {AT(0, "BZh91AY&SY")}},
	{"compressed with lzma", {AT(0, "\x5d\0\0\x80")}},
	{"compressed with lzo", {AT(0, "\x89LZO\0")}},
	{"compressed with zstd", {AT(0, "\x28\xb5\x2f\xfd")}},
	{"a cpio archive (an initrd?)", {AT(0, "070701")}},
	{"a U-Boot uImage", {AT(0, "\x27\x05\x19\x56")}},
	{"an Android boot image", {AT(0, "ANDROID!")}},
	{"a script", {AT(0, "#!/bin/sh\n")}},
	{"starts with bytes 01 02 03 04", {AT(0, "\x01\x02\x03\x04")}},
	/* a DOS header that points nowhere */
	{"starts with bytes 4d 5a 00 00", {AT(0, "MZ"), AT(60, "\xff\xff\xff\xff")}},
	{"starts with bytes 4d 5a 00 00", {AT(0, "MZ"), AT(60, "\xf0\x0f")}},
	{"an EFI zboot file compressed with 'xzkern'",
	 {AT(4, "zimg\x40\0\0\0\x10"), AT(24, "xzkern")}},
	{"an EFI zboot file compressed with '?[1m'",
	 {AT(4, "zimg\x40\0\0\0\x10"), AT(24, "\033[1m")}},
};

static size_t make_alien(const struct alien *alien, uint8_t *data, size_t len)
{
	memset(data, 0, len);
	for (size_t j = 0; j < ARRAY_SIZE(alien->at); j++)
		if (alien->at[j].len)
			memcpy(data + alien->at[j].off, alien->at[j].bytes, alien->at[j].len);
	return len;
}

static void a_file_that_is_something_else_is_named(void **state)
{
	struct bench *b = *state;
	uint8_t data[4096];

	for (size_t i = 0; i < ARRAY_SIZE(aliens); i++) {
		put(b, data, make_alien(&aliens[i], data, sizeof(data)));
		refused(b, 64 * MIB, -EINVAL, aliens[i].says);
	}
	put(b, "Not a kernel\n", 13);
	refused(b, 64 * MIB, -EINVAL, "is text");
	put(b, "\x01\x02", 2);
	refused(b, 64 * MIB, -EINVAL, "2 bytes long");
}

/* What it is is said even of a file that is too large to load. */
static void a_large_file_is_named_before_its_size_is_blamed(void **state)
{
	struct bench *b = *state;
	uint8_t data[4096];

	put(b, data, make_alien(&aliens[3], data, sizeof(data)));
	assert_int_equal(truncate(b->path, 1LL << 40), 0);
	refused(b, 64 * MIB, -EINVAL, "an ELF file for x86-64");
	put(b, b->image, IMAGE_LEN);
	assert_int_equal(truncate(b->path, 1LL << 40), 0);
	refused(b, 64 * MIB, -EFBIG, "is 1048576 MiB large");
	refused(b, UINT64_MAX, -EFBIG, "room for 1024 MiB");
}

static void what_unpacks_to_something_else_is_named(void **state)
{
	struct bench *b = *state;
	uint8_t data[4096];
	size_t n;

	for (size_t i = 0; i < 10; i++) {
		make_alien(&aliens[i], data, sizeof(data));
		put(b, packed, gz(data, sizeof(data), packed, sizeof(packed)));
		refused(b, 64 * MIB, -EINVAL, aliens[i].says);
		put(b, packed, zboot("zstd", data, sizeof(data), packed, sizeof(packed)));
		refused(b, 64 * MIB, -EINVAL, aliens[i].says);
	}
	put(b, packed, gz("", 0, packed, sizeof(packed)));
	refused(b, 64 * MIB, -EINVAL, "0 bytes long");
	n = gz(b->image, 8192, packed, sizeof(packed));
	put(b, packed + n, gz(packed, n, packed + n, sizeof(packed) - n));
	refused(b, 64 * MIB, -EINVAL, "compressed with gzip");
}

static void a_header_that_cannot_be_is_refused(void **state)
{
	static const struct {
		uint64_t text_offset, image_size;
		int err;
		const char *says;
	} rows[] = {
		{MIB, MIB, -EINVAL, "header is damaged"},
		{UINT64_MAX, MIB, -EINVAL, "header is damaged"},
		{0, 64 * MIB + 1, -EFBIG, "needs 65 MiB"},
		{0, UINT64_MAX, -EFBIG, "room for 64 MiB"},
		{UINT64_MAX - 1, UINT64_MAX, -EFBIG, "room for 64 MiB"},
	};
	struct bench *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		put_le64(b->image + 8, rows[i].text_offset);
		put_le64(b->image + 16, rows[i].image_size);
		put(b, b->image, IMAGE_LEN);
		refused(b, 64 * MIB, rows[i].err, rows[i].says);
	}
}

static void a_truncated_image_is_refused(void **state)
{
	struct bench *b = *state;

	put(b, b->image, IMAGE_LEN - 1);
	refused(b, 64 * MIB, -EINVAL, "299999 of 300000 bytes");
	put(b, b->image, 62);
	refused(b, 64 * MIB, -EINVAL, "62 bytes of an Image header");
	put(b, b->image, 200); /* within the section table */
	refused(b, 64 * MIB, -EINVAL, "is truncated");
}

/* Wherever a compressed kernel is cut off, it is refused, and never with a wrong reason. */
static void a_truncated_compressed_kernel_is_refused(void **state)
{
	struct bench *b = *state;

	for (size_t i = 0; i <= ARRAY_SIZE(zboot_types); i++) {
		size_t n =
			i ? zboot(zboot_types[i - 1], b->image, IMAGE_LEN, packed, sizeof(packed)) -
					4
			  : gz(b->image, IMAGE_LEN, packed, sizeof(packed));

		for (size_t cut = i ? 30 : 3; cut < n; cut = cut < 1000 ? cut + 7 : cut + 9973) {
			put(b, packed, cut);
			refused(b, 64 * MIB, -EINVAL, "is truncated");
		}
		put(b, packed, n - 1);
		refused(b, 64 * MIB, -EINVAL, "is truncated");
	}
}

static void a_zboot_payload_outside_its_file_is_refused(void **state)
{
	static const struct {
		uint32_t off, len;
		const char *says;
	} rows[] = {
		{512, UINT32_MAX, "is truncated"},
		{UINT32_MAX, 1, "is truncated"},
		{UINT32_MAX, UINT32_MAX, "is truncated"},
		{512, 0, "header is damaged"},
		{0, 100, "header is damaged"},
	};
	struct bench *b = *state;
	size_t n = zboot("gzip", b->image, IMAGE_LEN, packed, sizeof(packed));

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		put_le32(packed + 8, rows[i].off);
		put_le32(packed + 12, rows[i].len);
		put(b, packed, n);
		refused(b, 64 * MIB, -EINVAL, rows[i].says);
	}
}

/* 64 MiB that start like a kernel and compress a thousandfold. */
static void a_bomb_stops_at_the_limit(void **state)
{
	struct bench *b = *state;
	size_t room = 4 * MIB, n = 0, left = 64 * MIB;
	uint8_t *bomb = malloc(room), *zeroes = calloc(1, MIB);
	ZSTD_CStream *cs = ZSTD_createCStream();
	ZSTD_outBuffer ob = {.dst = bomb + 512, .size = room - 512};
	z_stream zs = {0};

	put_le64(b->image + 16, 4 * MIB);
	assert_int_equal(deflateInit2(&zs, 6, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
	zs.next_out = bomb;
	zs.avail_out = (uInt)room;
	zs.next_in = b->image;
	zs.avail_in = IMAGE_LEN;
	assert_int_equal(deflate(&zs, Z_NO_FLUSH), Z_OK);
	for (n = 0; n < left; n += MIB) {
		zs.next_in = zeroes;
		zs.avail_in = MIB;
		assert_int_equal(deflate(&zs, Z_NO_FLUSH), Z_OK);
	}
	assert_int_equal(deflate(&zs, Z_FINISH), Z_STREAM_END);
	put(b, bomb, zs.total_out);
	deflateEnd(&zs);
	refused(b, 8 * MIB, -EFBIG, "more than the 8 MiB");

	memset(bomb, 0, 512);
	memcpy(bomb + 4, "zimg", 4);
	strcpy((char *)bomb + 24, "zstd");
	ZSTD_initCStream(cs, 3);
	ZSTD_compressStream(cs, &ob, &(ZSTD_inBuffer){.src = b->image, .size = IMAGE_LEN});
	for (n = 0; n < left; n += MIB) {
		ZSTD_inBuffer ib = {.src = zeroes, .size = MIB};

		while (ib.pos < ib.size)
			assert_false(ZSTD_isError(ZSTD_compressStream(cs, &ob, &ib)));
	}
	assert_int_equal(ZSTD_endStream(cs, &ob), 0);
	put_le32(bomb + 8, 512);
	put_le32(bomb + 12, (uint32_t)ob.pos);
	put(b, bomb, 512 + ob.pos);
	refused(b, 8 * MIB, -EFBIG, "more than the 8 MiB");

	ZSTD_freeCStream(cs);
	free(zeroes);
	free(bomb);
}

static void a_stream_that_ends_at_the_limit_is_taken(void **state)
{
	struct bench *b = *state;

	put_le64(b->image + 16, IMAGE_LEN - 1000);
	for (size_t i = 0; i < ARRAY_SIZE(zboot_types); i++) {
		put(b, packed, zboot(zboot_types[i], b->image, IMAGE_LEN, packed, sizeof(packed)));
		assert_int_equal(load(b, IMAGE_LEN), 0);
		assert_int_equal(b->out.len, IMAGE_LEN);
		refused(b, IMAGE_LEN - 1, -EFBIG, "more than the 1 MiB");
	}
}

static void a_zstd_window_beyond_reason_is_refused(void **state)
{
	/* A frame header that asks for a window of 2^41 bytes. */
	static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00};
	struct bench *b = *state;

	memset(packed, 0, 512);
	memcpy(packed + 4, "zimg", 4);
	strcpy((char *)packed + 24, "zstd");
	memcpy(packed + 512, frame, sizeof(frame));
	put_le32(packed + 8, 512);
	put_le32(packed + 12, sizeof(frame));
	put(b, packed, 512 + sizeof(frame));
	refused(b, 64 * MIB, -EINVAL, "damaged");
}

/* Whatever is in the file, the answer is an image within its bounds or a line. */
static void random_damage_never_gets_past_the_checks(void **state)
{
	struct bench *b = *state;
	unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)getpid();
	const size_t small = 8192;
	size_t n[4];
	static uint8_t good[4][16384], bad[16384];

	print_message("SEED=%u\n", seed);
	srand(seed);
	put_le32(b->image + 64 + 24 + 96 + 16, (uint32_t)small - 4096);
	memcpy(good[0], b->image, n[0] = small);
	n[1] = gz(b->image, small, good[1], sizeof(good[1]));
	n[2] = zboot("gzip", b->image, small, good[2], sizeof(good[2]));
	n[3] = zboot("zstd", b->image, small, good[3], sizeof(good[3]));
	for (unsigned i = 0; i < 2000; i++) {
		unsigned which = i % 4, hits = 1 + (unsigned)rand() % 4;
		size_t len = n[which];

		memcpy(bad, good[which], len);
		while (hits--) {
			/* mostly the headers */
			size_t range = rand() % 4 ? 256 : len,
			       at = (size_t)rand() % MIN(range, len);

			bad[at] = rand() % 3 ? (uint8_t)rand() : rand() % 2 ? 0 : 0xff;
		}
		if (rand() % 8 == 0)
			len = (size_t)rand() % len;
		put(b, bad, len);
		if (load(b, 8 * MIB)) {
			assert_true(b->error[0] && !strchr(b->error, '\n'));
			assert_null(b->out.data);
			continue;
		}
		assert_true(b->out.len >= 64 && b->out.len <= b->out.image_size);
		assert_true(b->out.image_size <= 8 * MIB + 32 * MIB);
		assert_true(b->out.text_offset < b->out.image_size);
	}
}

/* ---- where it all goes ---- */

static void the_plan_keeps_everything_apart(void **state)
{
	static const struct {
		uint64_t text_offset, image_size, initrd_len;
	} rows[] = {
		{0, 30 * MIB, 20 * MIB},
		{0x80000, 30 * MIB, 20 * MIB + 1},
		{0, 1, 1},
		{0x1ff000, 2 * MIB, 0},
		{0, 100 * MIB + 1, 5 * MIB},
		{3 * MIB, 4 * MIB, 65537},
	};
	struct bench *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kernel_image image = {.text_offset = rows[i].text_offset,
					     .image_size = rows[i].image_size};
		struct boot_plan p;
		uint64_t ram_end = LAYOUT_RAM_LOW_BASE + 256 * MIB;
		uint64_t kernel_end;

		assert_int_equal(boot_plan(&image, rows[i].initrd_len, LAYOUT_RAM_LOW_BASE,
					   256 * MIB, &p, b->error, sizeof(b->error)),
				 0);
		kernel_end = p.kernel_entry + image.image_size;
		assert_int_equal((p.kernel_entry - image.text_offset) % (2 * MIB), 0);
		assert_true(p.kernel_entry >= LAYOUT_RAM_LOW_BASE);
		assert_int_equal(p.fdt % (2 * MIB), 0);
		assert_true(p.fdt >= kernel_end);
		assert_int_equal(p.initrd_len, rows[i].initrd_len);
		if (p.initrd_len) {
			assert_int_equal(p.initrd % 65536, 0);
			assert_true(p.initrd >= p.fdt + FDT_MAX_LEN);
			assert_true(p.initrd + p.initrd_len <= ram_end);
		}
		assert_true(p.fdt + FDT_MAX_LEN <= ram_end);
	}
}

/* The memory the message asks for is the least that works. */
static void what_does_not_fit_says_how_much_memory_would_do(void **state)
{
	static const struct {
		uint64_t image_size, initrd_len, ram;
		const char *says;
	} rows[] = {
		{62 * MIB + 1, 0, 64 * MIB, "the kernel (63 MiB) does not fit into 64 MiB"},
		{200 * MIB, 100 * MIB, 64 * MIB, "the kernel (200 MiB) does not fit into 64 MiB"},
		{20 * MIB, 100 * MIB, 64 * MIB, "the initrd (100 MiB) does not fit into 64 MiB"},
		{20 * MIB, 42 * MIB + 1, 64 * MIB, "the initrd (43 MiB) does not fit into 64 MiB"},
	};
	struct bench *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kernel_image image = {.image_size = rows[i].image_size};
		uint64_t ram = rows[i].ram;
		struct boot_plan p = {.fdt = 1234};
		unsigned tries = 0;

		assert_int_equal(boot_plan(&image, rows[i].initrd_len, LAYOUT_RAM_LOW_BASE, ram, &p,
					   b->error, sizeof(b->error)),
				 -ENOSPC);
		assert_non_null(strstr(b->error, rows[i].says));
		assert_int_equal(p.fdt, 1234);
		/* first for the kernel, then for the initrd */
		do {
			const char *m = strstr(b->error, "-m ");

			assert_non_null(m);
			assert_true(++tries <= 2);
			ram = strtoull(m + 3, NULL, 10) * MIB;
			assert_int_equal(boot_plan(&image, rows[i].initrd_len, LAYOUT_RAM_LOW_BASE,
						   ram - 2 * MIB, &p, b->error, sizeof(b->error)),
					 -ENOSPC);
		} while (boot_plan(&image, rows[i].initrd_len, LAYOUT_RAM_LOW_BASE, ram, &p,
				   b->error, sizeof(b->error)));
	}
}

static void what_can_never_fit_is_refused(void **state)
{
	static const struct {
		uint64_t text_offset, image_size, initrd_len;
	} rows[] = {
		{0, MIB, LAYOUT_RAM_LOW_MAX},
		{0, MIB, UINT64_MAX},
		{0, MIB, UINT64_MAX / 2},
		{0, UINT64_MAX, 0},
		{UINT64_MAX, UINT64_MAX, 0},
		{UINT64_MAX - 4096, MIB, 0},
		{0, UINT64_MAX / 2, UINT64_MAX / 2},
	};
	struct bench *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kernel_image image = {.text_offset = rows[i].text_offset,
					     .image_size = rows[i].image_size};
		struct boot_plan p;

		assert_int_equal(boot_plan(&image, rows[i].initrd_len, LAYOUT_RAM_LOW_BASE,
					   LAYOUT_RAM_LOW_MAX, &p, b->error, sizeof(b->error)),
				 -ENOSPC);
		assert_non_null(strstr(b->error, "too large"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(every_format_gives_the_same_image),
		TEST(the_page_size_comes_from_the_header),
		TEST(an_image_without_a_size_is_an_old_one),
		TEST(what_follows_the_image_has_room_too),
		TEST(what_follows_the_compressed_data_is_left_alone),
		TEST(a_file_that_is_no_file_is_refused),
		TEST(a_path_of_any_length_leaves_room_for_the_reason),
		TEST(a_file_that_is_something_else_is_named),
		TEST(a_large_file_is_named_before_its_size_is_blamed),
		TEST(what_unpacks_to_something_else_is_named),
		TEST(a_header_that_cannot_be_is_refused),
		TEST(a_truncated_image_is_refused),
		TEST(a_truncated_compressed_kernel_is_refused),
		TEST(a_zboot_payload_outside_its_file_is_refused),
		TEST(a_bomb_stops_at_the_limit),
		TEST(a_stream_that_ends_at_the_limit_is_taken),
		TEST(a_zstd_window_beyond_reason_is_refused),
		TEST(random_damage_never_gets_past_the_checks),
		TEST(the_plan_keeps_everything_apart),
		TEST(what_does_not_fit_says_how_much_memory_would_do),
		TEST(what_can_never_fit_is_refused),
	};

	alarm(120); /* what should have been refused may wait for ever */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
