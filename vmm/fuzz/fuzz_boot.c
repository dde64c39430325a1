/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_boot - hostile kernel files: arm64 Image, gzip, EFI zboot with gzip or zstd; and where they
 * go.
 *
 * The first octet of an input says what is made of the rest: a file as it is; or the file is packed
 * first, so that what is inside a stream with a good checksum is fuzzed too. What is loaded must be
 * within its bounds, and kernel, device tree and initrd must lie in RAM, aligned, beside each
 * other.
 *
 * Files: vmm/boot.c
 */
#include "iommu/fuzz/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "vmm/boot.h"
#include "vmm/cli.h"
#include "vmm/layout.h"

#define MIB	 0x100000ull
#define MAX_FILE (1 << 18)

enum { AS_IT_IS, GZIP, ZBOOT_GZIP, ZBOOT_ZSTD, NR_WAYS };

static int file = -1;
static char path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	file = memfd_create("kernel", MFD_CLOEXEC);
	demand(file >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	/* inspect_run() prints; libFuzzer reports on stderr */
	demand(freopen("/dev/null", "w", stdout));
	return 0;
}

static size_t gz(const uint8_t *data, size_t len, uint8_t *out, size_t room)
{
	z_stream zs = {0};

	demand(deflateInit2(&zs, 1, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	zs.next_in = (Bytef *)data;
	zs.avail_in = (uInt)len;
	zs.next_out = out;
	zs.avail_out = (uInt)room;
	demand(deflate(&zs, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&zs);
	return zs.total_out;
}

/* pack - the file that @how makes of @data. Return: its length. */
static size_t pack(unsigned how, const uint8_t *data, size_t len, uint8_t *out, size_t room)
{
	const size_t head = 64;
	size_t n;

	switch (how) {
	case GZIP:
		return gz(data, len, out, room);
	case ZBOOT_GZIP:
	case ZBOOT_ZSTD:
		memset(out, 0, head);
		memcpy(out, "MZ", 2);
		memcpy(out + 4, "zimg", 4);
		if (how == ZBOOT_GZIP) {
			strcpy((char *)out + 24, "gzip");
			n = gz(data, len, out + head, room - head);
		} else {
			strcpy((char *)out + 24, len % 2 ? "zstd" : "zstd22");
			n = ZSTD_compress(out + head, room - head, data, len, 1);
			demand(!ZSTD_isError(n));
		}
		put_le32(out + 8, (uint32_t)head);
		put_le32(out + 12, (uint32_t)n);
		return head + n;
	default:
		memcpy(out, data, len);
		return len;
	}
}

/* A message is one line of print that ends in its buffer and says what it is about. */
static void check_error(const char *error, size_t room)
{
	size_t len = strnlen(error, room);

	demand(len && len < room);
	for (size_t i = 0; i < len; i++)
		demand(error[i] >= ' ' && error[i] <= '~');
}

static void check_plan(const struct kernel_image *image, struct input *in)
{
	uint64_t ram_len = (take8(in) * 64ull + take8(in)) * MIB / 4;
	uint64_t initrd_len = take8(in) & 1 ? take64(in) : take16(in) * 4096ull;
	uint64_t end = LAYOUT_RAM_LOW_BASE + ram_len;
	struct boot_plan plan;
	char error[200];
	int ret;

	memset(&plan, 0x5a, sizeof(plan));
	memset(error, 0x5a, sizeof(error));
	ret = boot_plan(image, initrd_len, LAYOUT_RAM_LOW_BASE, ram_len, &plan, error,
			sizeof(error));
	if (ret) {
		demand(ret == -ENOSPC);
		check_error(error, sizeof(error));
		return;
	}
	demand(IS_ALIGNED(plan.kernel_entry - image->text_offset, 2 * MIB));
	demand(plan.kernel_entry >= LAYOUT_RAM_LOW_BASE && plan.kernel_entry <= end);
	demand(image->image_size <= end - plan.kernel_entry);
	demand(IS_ALIGNED(plan.fdt, 8) && plan.fdt >= plan.kernel_entry + image->image_size);
	demand(plan.fdt <= end && FDT_MAX_LEN <= end - plan.fdt);
	demand(plan.initrd_len == initrd_len);
	if (initrd_len)
		demand(IS_ALIGNED(plan.initrd, 4096) && plan.initrd >= plan.fdt + FDT_MAX_LEN &&
		       plan.initrd <= end && initrd_len <= end - plan.initrd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t packed[2 * MAX_FILE];
	struct input in = {data, len};
	uint8_t how = take8(&in);
	/* what is left of the input decides on the plan; the file comes last */
	uint8_t tail[12];
	struct input plan = {tail, sizeof(tail)};
	uint64_t limit = how & 0x40 ? MAX_FILE - 16 : how & 0x80 ? 64 * MIB : 16 * MIB;
	static uint8_t body[MAX_FILE];
	size_t body_len;
	struct kernel_image image;
	char error[160];
	size_t n;
	int ret;

	take(&in, tail, sizeof(tail));
	body_len = MIN(in.left, sizeof(body));
	memset(body, 0, sizeof(body));
	if (body_len)
		memcpy(body, in.at, body_len);
	if (how & 0x10) /* zeros follow, up to a little before or after the limit */
		body_len = MAX_FILE - tail[10] % 32;
	n = pack(how % NR_WAYS, body, body_len, packed, sizeof(packed));
	if (how & 0x20) /* cut short */
		n -= MIN(n, (size_t)tail[11]);
	demand(!ftruncate(file, 0));
	demand(pwrite(file, packed, n, 0) == (ssize_t)n);

	memset(&image, 0x5a, sizeof(image));
	memset(error, 0x5a, sizeof(error));
	ret = kernel_load(path, limit, &image, error, sizeof(error));
	if (ret) {
		demand(ret < 0);
		check_error(error, sizeof(error));
		return 0;
	}
	demand(image.len >= 64 && image.len <= limit);
	demand(image.image_size >= image.len && image.text_offset < image.image_size);
	demand(image.image_size <= limit);
	demand(image.page_size == 0 || image.page_size == 4096 || image.page_size == 16384 ||
	       image.page_size == 65536);
	demand(!memcmp(image.data + 56, "ARM\x64", 4));
	if (how % NR_WAYS != AS_IT_IS && !(how & 0x20)) {
		/* it is what was packed */
		demand(image.len == body_len && !memcmp(image.data, body, body_len));
	}
	/* and nothing behind the end of the file was taken for a part of it */
	if (!strncmp(image.format, "EFI", 3))
		demand(n >= 64 && (uint64_t)get_le32(packed + 8) + get_le32(packed + 12) <= n);
	check_plan(&image, &plan);
	kernel_free(&image);
	demand(inspect_run(&(struct inspect_config){.kernel = path}) == EXIT_POWEROFF);
	return 0;
}
