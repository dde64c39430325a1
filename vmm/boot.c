/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/fdarg.h"

#define MIB 0x100000ull

/* No kernel comes near this; it bounds time and memory whatever the caller allows, bytes. */
#define KERNEL_MAX (1024 * MIB)

/* arm64 Image header. Source: Linux Documentation/arch/arm64/booting.rst, "Call the kernel image".
 */
#define IMAGE_TEXT_OFFSET 8
#define IMAGE_SIZE	  16
#define IMAGE_FLAGS	  24
#define IMAGE_FLAGS_PAGE  GENMASK(2, 1)
#define IMAGE_MAGIC	  56
#define IMAGE_HEADER_LEN  64
#define IMAGE_ALIGN	  (2 * MIB)

/* Before Linux 3.17 the header gave no sizes: the offset was always this, and .bss is anyone's
 * guess. */
#define IMAGE_OLD_TEXT_OFFSET 0x80000ull
#define IMAGE_OLD_BSS	      (16 * MIB)

/* EFI zboot header. Source: Linux drivers/firmware/efi/libstub/zboot-header.S. */
#define ZBOOT_MAGIC	  4
#define ZBOOT_PAYLOAD	  8
#define ZBOOT_PAYLOAD_LEN 12
#define ZBOOT_TYPE	  24
#define ZBOOT_TYPE_LEN	  32
#define ZBOOT_HEADER_LEN  64

/* PE/COFF. Source: Microsoft PE format, "COFF File Header" and "Section Table". */
#define PE_OFFSET	   60 /* in the DOS header: where "PE\0\0" is */
#define PE_MACHINE	   4
#define PE_NR_SECTIONS	   6
#define PE_OPTIONAL_LEN	   20
#define PE_OPTIONAL	   24
#define PE_SECTION_LEN	   40
#define PE_SECTION_RAW_LEN 16
#define PE_SECTION_RAW_OFF 20

/* How much of a file its kind is told from: x86 keeps its magic at 0x202. */
#define HEAD_LEN 4096

/* A file, or what was unpacked from one. */
struct blob {
	uint8_t *data;
	size_t len, cap;
};

/* Where a message goes, and what it is about. */
struct report {
	const char *path;
	char *error;
	size_t error_len;
};

__attribute__((format(printf, 3, 4))) static int report(const struct report *r, int err,
							const char *fmt, ...)
{
	/* A path of any length leaves room for what is wrong with it. */
	size_t len = strlen(r->path), max = r->error_len / 2, skip = len > max ? len - max : 0;
	int n = snprintf(r->error, r->error_len, "kernel %s%s: ", skip ? "..." : "",
			 r->path + skip);
	size_t used = MIN((size_t)MAX(n, 0), r->error_len);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->error + used, r->error_len - used, fmt, ap);
	va_end(ap);
	return err;
}

/* MiB, rounded up */
static uint64_t mib(uint64_t bytes)
{
	return bytes / MIB + (bytes % MIB != 0);
}

static bool has_magic(const uint8_t *data, size_t len, size_t off, const void *magic,
		      size_t magic_len)
{
	return off <= len && magic_len <= len - off && !memcmp(data + off, magic, magic_len);
}

/* ---- what a file is, when it is no kernel of ours ---- */

struct machine {
	uint16_t id;
	const char *name;
};

static const char *machine_name(const struct machine *table, size_t nr, uint16_t id)
{
	for (size_t i = 0; i < nr; i++) {
		if (table[i].id == id)
			return table[i].name;
	}
	return "an unknown machine";
}

static int refuse_elf(const struct report *r, const char *subject, const uint8_t *d, size_t len)
{
	static const struct machine machines[] = {
		{3, "i386"},	 {8, "MIPS"},	     {20, "PowerPC"}, {21, "PowerPC64"},
		{22, "s390"},	 {40, "32-bit Arm"}, {62, "x86-64"},  {183, "arm64"},
		{243, "RISC-V"}, {258, "LoongArch"},
	};
	bool big_endian = len > 5 && d[5] == 2;
	uint16_t id = 0;

	if (len >= 20)
		id = big_endian ? (uint16_t)(d[18] << 8 | d[19]) : get_le16(d + 18);
	if (id == 183)
		return report(r, -EINVAL,
			      "%s is an ELF file for arm64 (a vmlinux?): give the "
			      "arch/arm64/boot/Image of the same build",
			      subject);
	return report(r, -EINVAL, "%s is an ELF file for %s, not an arm64 kernel", subject,
		      machine_name(machines, ARRAY_SIZE(machines), id));
}

static int refuse_pe(const struct report *r, const char *subject, const uint8_t *pe)
{
	static const struct machine machines[] = {
		{0x014c, "i386"},   {0x01c2, "32-bit Arm"}, {0x5032, "32-bit RISC-V"},
		{0x5064, "RISC-V"}, {0x6264, "LoongArch"},  {0x8664, "x86-64"},
		{0xaa64, "arm64"},
	};
	uint16_t id = get_le16(pe + PE_MACHINE);

	if (id == 0xaa64)
		return report(
			r, -EINVAL,
			"%s is an EFI program for arm64, not a kernel (a unified kernel image?): "
			"give the kernel inside it",
			subject);
	return report(r, -EINVAL, "%s is an EFI program for %s, not an arm64 kernel", subject,
		      machine_name(machines, ARRAY_SIZE(machines), id));
}

/* Kinds known by bytes at a fixed place; the first that fits is it. */
struct kind {
	unsigned off, len;
	const char *magic, *name;
};

#define KIND(off, magic, name)                                                                     \
	{                                                                                          \
		off, sizeof(magic) - 1, magic, name                                                \
	}

static const struct kind kinds[] = {
	KIND(0x202, "HdrS", "an x86 kernel (bzImage), not an arm64 one"),
	KIND(0x24, "\x18\x28\x6f\x01", "a 32-bit Arm kernel (zImage), not an arm64 one"),
	KIND(0x38, "RSC\x05", "a RISC-V kernel, not an arm64 one"),
	KIND(0, "07070", "a cpio archive (an initrd?): give it with -i, and a kernel with -k"),
	KIND(0, "\x27\x05\x19\x56", "a U-Boot uImage: give the kernel inside it"),
	KIND(0, "\xd0\x0d\xfe\xed", "a device tree or a FIT image: give the kernel inside it"),
	KIND(0, "ANDROID!", "an Android boot image: give the kernel inside it"),
	KIND(0, "!<arch>\n", "an archive (a Debian package?): give the kernel inside it"),
	KIND(0, "PK\x03\x04", "a zip archive: give the kernel inside it"),
	KIND(0, "QFI\xfb", "a qcow2 disk image, not a kernel"),
	KIND(0, "#!", "a script, not an arm64 kernel"),
};

/* Ways to compress a file that are not unpacked here, at least not just there. */
static const struct kind compressions[] = {
	KIND(0, "\3757zXZ", "xz"),	     KIND(0, "\x04\x22\x4d\x18", "lz4"),
	KIND(0, "\x02\x21\x4c\x18", "lz4"),  KIND(0, "BZh", "bzip2"),
	KIND(0, "\x5d\x00\x00", "lzma"),     KIND(0, "\x89LZO", "lzo"),
	KIND(0, "\x28\xb5\x2f\xfd", "zstd"), KIND(0, "\x1f\x8b", "gzip"),
};

static const char *find_kind(const struct kind *table, size_t nr, const uint8_t *d, size_t len)
{
	for (size_t i = 0; i < nr; i++) {
		if (has_magic(d, len, table[i].off, table[i].magic, table[i].len))
			return table[i].name;
	}
	return NULL;
}

static bool is_text(const uint8_t *d, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if ((d[i] < ' ' && (d[i] < '\t' || d[i] > '\r')) || d[i] == 0x7f)
			return false;
	}
	return len;
}

/* The "PE\0\0" of a file that has one within its first @len bytes, with the whole COFF header. */
static const uint8_t *find_pe(const uint8_t *d, size_t len)
{
	uint32_t off;

	if (!has_magic(d, len, 0, "MZ", 2) || len < PE_OFFSET + 4)
		return NULL;
	off = get_le32(d + PE_OFFSET);
	if (off > len || len - off < PE_OPTIONAL || memcmp(d + off, "PE\0\0", 4) != 0)
		return NULL;
	return d + off;
}

/* refuse - say what the file that starts with @b is, given that it is no arm64 Image */
static int refuse(const struct report *r, const char *subject, const struct blob *b)
{
	size_t len = MIN(b->len, (size_t)HEAD_LEN);
	const uint8_t *d = b->data, *pe = find_pe(d, len);
	const char *name = find_kind(kinds, ARRAY_SIZE(kinds), d, len);

	if (name)
		return report(r, -EINVAL, "%s is %s", subject, name);
	name = find_kind(compressions, ARRAY_SIZE(compressions), d, len);
	if (name)
		return report(r, -EINVAL,
			      "%s is compressed with %s: unpack it first (only a gzip file and an "
			      "EFI zboot file with gzip or zstd are unpacked here)",
			      subject, name);
	if (has_magic(d, len, 0, "\177ELF", 4))
		return refuse_elf(r, subject, d, len);
	if (pe)
		return refuse_pe(r, subject, pe);
	if (is_text(d, len))
		return report(r, -EINVAL, "%s is text, not an arm64 kernel", subject);
	if (len < IMAGE_HEADER_LEN)
		return report(r, -EINVAL, "%s is %zu bytes long, too short for a kernel", subject,
			      len);
	return report(
		r, -EINVAL,
		"%s is not an arm64 kernel: it starts with bytes %02x %02x %02x %02x and lacks the "
		"magic at byte %d; give an arm64 Image, Image.gz or EFI zboot file",
		subject, d[0], d[1], d[2], d[3], IMAGE_MAGIC);
}

/* ---- reading ---- */

/* Appends up to @want bytes. Return: 0, also at the end of the file; -errno. */
static int read_more(int fd, struct blob *b, size_t want)
{
	while (want) {
		ssize_t n = read(fd, b->data + b->len, want);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		b->len += (size_t)n;
		want -= (size_t)n;
	}
	return 0;
}

static const char *not_regular(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
	case S_IFBLK:
		return "a device";
	case S_IFIFO:
		return "a pipe";
	default:
		return "not a regular file";
	}
}

/* Whether @b, the head of a file, starts something that kernel_load() takes. */
static bool looks_right(const struct blob *b)
{
	return has_magic(b->data, b->len, IMAGE_MAGIC, "ARM\x64", 4) ||
	       has_magic(b->data, b->len, ZBOOT_MAGIC, "zimg", 4) ||
	       has_magic(b->data, b->len, 0, "\x1f\x8b", 2);
}

static int read_file(const struct report *r, uint64_t limit, struct blob *out)
{
	struct blob b = {0};
	struct stat st;
	int ret, fd;

	/* Not blocking: opening a pipe must not wait for its writer. */
	fd = fdarg_open(r->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return report(r, fd, "%s; check the path", strerror(-fd));
	if (fstat(fd, &st)) {
		ret = report(r, -errno, "cannot read it: %s", strerror(errno));
		goto out_close;
	}
	if (!S_ISREG(st.st_mode)) {
		ret = report(r, -EINVAL, "it is %s: give a kernel file", not_regular(st.st_mode));
		goto out_close;
	}
	if (!st.st_size) {
		ret = report(r, -EINVAL, "it is empty: give a kernel file");
		goto out_close;
	}
	b.cap = MIN((uint64_t)st.st_size, limit);
	b.data = malloc(MAX(b.cap, (size_t)HEAD_LEN));
	if (!b.data) {
		ret = report(r, -ENOMEM, "no memory for its %" PRIu64 " MiB", mib(b.cap));
		goto out_close;
	}
	/* What it is matters more than how large it is. */
	ret = read_more(fd, &b, MIN((uint64_t)st.st_size, HEAD_LEN));
	if (!ret && !looks_right(&b)) {
		ret = refuse(r, "it", &b);
		goto out_free;
	}
	if (!ret && (uint64_t)st.st_size > limit) {
		ret = report(r, -EFBIG,
			     "is %" PRIu64 " MiB large, but there is room for %" PRIu64
			     " MiB: is it a kernel? If so, give more memory (-m)",
			     mib((uint64_t)st.st_size), mib(limit));
		goto out_free;
	}
	if (!ret && b.len < b.cap)
		ret = read_more(fd, &b, b.cap - b.len);
	if (ret) {
		ret = report(r, ret, "cannot read it: %s", strerror(-ret));
		goto out_free;
	}
	close(fd);
	*out = b;
	return 0;

out_free:
	free(b.data);
out_close:
	close(fd);
	return ret;
}

/* ---- unpacking ---- */

/*
 * Makes room for more output: up to one byte past @limit, so that a stream that ends at the limit
 * is told from one that goes on. @b must be within the limit. Return: 0; -ENOMEM.
 */
static int grow(struct blob *b, uint64_t limit)
{
	uint8_t *data;
	size_t cap;

	if (b->len < b->cap)
		return 0;
	cap = MIN(b->cap ? 2 * b->cap : (size_t)HEAD_LEN, limit + 1);
	data = realloc(b->data, cap);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->cap = cap;
	return 0;
}

/*
 * One step of a stream: consume from [@in, @in + *@len), append to @out (which has room).
 * Return: 1 at its end; 0 to go on; -EINVAL damaged. *@len becomes what was consumed.
 */
typedef int (*step_fn)(void *stream, const uint8_t *in, size_t *len, struct blob *out);

static int gzip_step(void *stream, const uint8_t *in, size_t *len, struct blob *out)
{
	z_stream *zs = stream;
	int ret;

	zs->next_in = (Bytef *)in;
	zs->avail_in = (uInt)*len; /* <= KERNEL_MAX */
	zs->next_out = out->data + out->len;
	zs->avail_out = (uInt)(out->cap - out->len);
	ret = inflate(zs, Z_NO_FLUSH);
	*len -= zs->avail_in;
	out->len = out->cap - zs->avail_out;
	if (ret == Z_STREAM_END)
		return 1;
	if (ret == Z_MEM_ERROR)
		return -ENOMEM;
	return ret == Z_OK || ret == Z_BUF_ERROR ? 0 : -EINVAL;
}

static int zstd_step(void *stream, const uint8_t *in, size_t *len, struct blob *out)
{
	ZSTD_inBuffer ib = {.src = in, .size = *len};
	ZSTD_outBuffer ob = {.dst = out->data, .size = out->cap, .pos = out->len};
	size_t ret = ZSTD_decompressStream(stream, &ob, &ib);

	*len = ib.pos;
	out->len = ob.pos;
	if (ZSTD_isError(ret))
		return -EINVAL;
	return ret == 0;
}

static int unpack_stream(const struct report *r, step_fn step, void *stream, const uint8_t *in,
			 size_t in_len, uint64_t limit, struct blob *out)
{
	struct blob b = {0};
	bool known = false;
	int ret;

	for (;;) {
		size_t len = in_len;

		ret = grow(&b, limit);
		if (!ret)
			ret = step(stream, in, &len, &b);
		if (ret == -ENOMEM) {
			report(r, ret, "no memory to unpack it");
			goto err;
		}
		if (ret < 0) {
			report(r, ret, "its compressed data is damaged: get it again");
			goto err;
		}
		if (b.len > limit) {
			ret = report(r, -EFBIG,
				     "it unpacks to more than the %" PRIu64 " MiB there is room "
				     "for: it is damaged, or the guest needs more memory (-m)",
				     mib(limit));
			goto err;
		}
		/* Anything else is not worth unpacking, however much there is of it. */
		if (!known && (ret == 1 || b.len >= HEAD_LEN)) {
			if (!has_magic(b.data, b.len, IMAGE_MAGIC, "ARM\x64", 4)) {
				ret = refuse(r, "what it unpacks to", &b);
				goto err;
			}
			known = true;
		}
		if (ret == 1)
			break;
		in += len;
		in_len -= len;
		if (!in_len && b.len < b.cap) {
			ret = report(r, -EINVAL,
				     "it is truncated: its compressed data has no end; get "
				     "it again");
			goto err;
		}
	}
	*out = b;
	return 0;

err:
	free(b.data);
	return ret;
}

static int gunzip(const struct report *r, const uint8_t *in, size_t len, uint64_t limit,
		  struct blob *out)
{
	z_stream zs = {0};
	int ret;

	if (inflateInit2(&zs, 16 + MAX_WBITS) != Z_OK)
		return report(r, -ENOMEM, "no memory to unpack it");
	ret = unpack_stream(r, gzip_step, &zs, in, len, limit, out);
	inflateEnd(&zs);
	return ret;
}

static int unzstd(const struct report *r, const uint8_t *in, size_t len, uint64_t limit,
		  struct blob *out)
{
	/* Refuses frames whose window is over 128 MiB, which is what its highest level uses. */
	ZSTD_DStream *ds = ZSTD_createDStream();
	int ret;

	if (!ds)
		return report(r, -ENOMEM, "no memory to unpack it");
	ret = unpack_stream(r, zstd_step, ds, in, len, limit, out);
	ZSTD_freeDStream(ds);
	return ret;
}

/* Linux calls the best zstd it writes "zstd22" in some versions. */
static int unpack_zboot(const struct report *r, const struct blob *file, uint64_t limit,
			struct blob *out, const char **format)
{
	char type[ZBOOT_TYPE_LEN + 1] = "";
	uint32_t off, len;

	if (file->len < ZBOOT_HEADER_LEN)
		return report(r, -EINVAL,
			      "it is truncated: %zu bytes of an EFI zboot header; get it again",
			      file->len);
	off = get_le32(file->data + ZBOOT_PAYLOAD);
	len = get_le32(file->data + ZBOOT_PAYLOAD_LEN);
	memcpy(type, file->data + ZBOOT_TYPE, ZBOOT_TYPE_LEN);
	if (off < ZBOOT_HEADER_LEN || !len)
		return report(r, -EINVAL,
			      "its EFI zboot header is damaged: payload of %u bytes at %u", len,
			      off);
	if (off > file->len || len > file->len - off)
		return report(r, -EINVAL,
			      "it is truncated: it has %zu of %" PRIu64 " bytes; get it again",
			      file->len, (uint64_t)off + len);
	if (!strcmp(type, "gzip")) {
		*format = "EFI zboot (gzip)";
		return gunzip(r, file->data + off, len, limit, out);
	}
	if (!strcmp(type, "zstd") || !strcmp(type, "zstd22")) {
		*format = "EFI zboot (zstd)";
		return unzstd(r, file->data + off, len, limit, out);
	}
	for (char *c = type; *c; c++) {
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
	return report(r, -EINVAL,
		      "it is an EFI zboot file compressed with '%s': only gzip and zstd are "
		      "supported",
		      type);
}

/* ---- the Image ---- */

/* How long the file must be by its own section table; 0 if it has none (no EFI stub). */
static uint64_t pe_file_len(const uint8_t *d, size_t len)
{
	const uint8_t *pe = find_pe(d, len);
	uint64_t end = 0;
	size_t off;

	if (!pe)
		return 0;
	off = (size_t)(pe - d) + PE_OPTIONAL + get_le16(pe + PE_OPTIONAL_LEN);
	for (unsigned i = 0; i < get_le16(pe + PE_NR_SECTIONS); i++, off += PE_SECTION_LEN) {
		if (off > len || len - off < PE_SECTION_LEN)
			return off + PE_SECTION_LEN;
		end = MAX(end, (uint64_t)get_le32(d + off + PE_SECTION_RAW_OFF) +
				       get_le32(d + off + PE_SECTION_RAW_LEN));
	}
	return end;
}

/* Checks the header of the Image in out->data and fills the rest of @out from it. */
static int parse_image(const struct report *r, uint64_t limit, struct kernel_image *out)
{
	static const unsigned page_sizes[] = {0, 4096, 16384, 65536};
	const uint8_t *d = out->data;
	uint64_t pe_len;

	if (out->len < IMAGE_HEADER_LEN)
		return report(r, -EINVAL,
			      "it is truncated: %zu bytes of an Image header; get it again",
			      out->len);
	out->text_offset = get_le64(d + IMAGE_TEXT_OFFSET);
	out->image_size = get_le64(d + IMAGE_SIZE);
	out->page_size = page_sizes[FIELD_GET(IMAGE_FLAGS_PAGE, get_le64(d + IMAGE_FLAGS))];
	if (!out->image_size) {
		out->text_offset = IMAGE_OLD_TEXT_OFFSET;
		out->image_size = out->len + IMAGE_OLD_BSS;
		out->page_size = 0;
	}
	if (out->text_offset >= out->image_size)
		return report(r, -EINVAL,
			      "its Image header is damaged: text offset 0x%" PRIx64
			      " in an image of 0x%" PRIx64 " bytes",
			      out->text_offset, out->image_size);
	if (out->image_size > limit)
		return report(r, -EFBIG,
			      "it needs %" PRIu64 " MiB by its Image header, but there is room "
			      "for %" PRIu64 " MiB: it is damaged, or the guest needs more "
			      "memory (-m)",
			      mib(out->image_size), mib(limit));
	pe_len = pe_file_len(d, out->len);
	if (pe_len > out->len)
		return report(r, -EINVAL,
			      "it is truncated: the Image has %zu of %" PRIu64
			      " bytes; get it again",
			      out->len, pe_len);
	/* A signature behind the Image is not counted in its size. */
	out->image_size = MAX(out->image_size, (uint64_t)out->len);
	return 0;
}

int kernel_load(const char *path, uint64_t limit, struct kernel_image *out, char *error,
		size_t error_len)
{
	const struct report r = {.path = path, .error = error, .error_len = error_len};
	struct kernel_image image = {0};
	struct blob file = {0}, unpacked = {0};
	int ret;

	limit = MIN(limit, KERNEL_MAX);
	ret = read_file(&r, limit, &file);
	if (ret)
		return ret;
	if (has_magic(file.data, file.len, IMAGE_MAGIC, "ARM\x64", 4)) {
		image.format = "Image";
		unpacked = file;
		file.data = NULL;
	} else if (has_magic(file.data, file.len, ZBOOT_MAGIC, "zimg", 4)) {
		ret = unpack_zboot(&r, &file, limit, &unpacked, &image.format);
	} else {
		image.format = "gzip";
		ret = gunzip(&r, file.data, file.len, limit, &unpacked);
	}
	free(file.data);
	if (ret)
		return ret;
	image.data = unpacked.data;
	image.len = unpacked.len;
	ret = parse_image(&r, limit, &image);
	if (ret) {
		free(unpacked.data);
		return ret;
	}
	*out = image;
	return 0;
}

void kernel_free(struct kernel_image *image)
{
	free(image->data);
	*image = (struct kernel_image){0};
}

/* ---- where it all goes ---- */

/* 64 KiB: the largest page a guest kernel may have. */
#define INITRD_ALIGN 0x10000ull

/* Takes @len bytes at the next multiple of @align from *@next. Return: false past @end. */
static bool take(uint64_t *next, uint64_t align, uint64_t len, uint64_t end, uint64_t *at)
{
	uint64_t start;

	if (add_overflows(*next, align - 1, &start))
		return false;
	start = ALIGN_DOWN(start, align);
	if (start > end || len > end - start)
		return false;
	*at = start;
	*next = start + len;
	return true;
}

static int no_room(uint64_t need, uint64_t ram_len, const char *what, uint64_t what_len,
		   char *error, size_t error_len)
{
	need = ALIGN_UP(need, IMAGE_ALIGN);
	if (need <= LAYOUT_RAM_LOW_MAX)
		snprintf(error, error_len,
			 "the %s (%" PRIu64 " MiB) does not fit into %" PRIu64
			 " MiB of memory: give at least -m %" PRIu64 "M",
			 what, mib(what_len), mib(ram_len), mib(need));
	else
		snprintf(error, error_len,
			 "the %s (%" PRIu64
			 " MiB) is too large: with the rest of what is loaded it "
			 "must fit into %llu MiB",
			 what, mib(what_len), LAYOUT_RAM_LOW_MAX / MIB);
	return -ENOSPC;
}

/*
 * Kernel, FDT, initrd, from the bottom up. The FDT keeps 2 MiB to itself because Linux before 4.2
 * maps it as one block. Source: booting.rst, "Setup the device tree" and "Call the kernel image".
 */
int boot_plan(const struct kernel_image *image, uint64_t initrd_len, uint64_t ram_base,
	      uint64_t ram_len, struct boot_plan *out, char *error, size_t error_len)
{
	struct boot_plan plan = {.initrd_len = initrd_len};
	uint64_t end = ram_base + ram_len, next, base;

	/* What else is placed is small beside 2^63, so these two keep every sum below from
	 * wrapping. */
	if (image->image_size > KERNEL_MAX || image->text_offset > KERNEL_MAX)
		return no_room(UINT64_MAX / 2, ram_len, "kernel", image->image_size, error,
			       error_len);
	if (initrd_len > UINT64_MAX / 4)
		return no_room(UINT64_MAX / 2, ram_len, "initrd", initrd_len, error, error_len);

	base = ALIGN_UP(ram_base, IMAGE_ALIGN);
	plan.kernel_entry = base + image->text_offset;
	next = plan.kernel_entry + image->image_size;
	if (next > end || !take(&next, FDT_MAX_LEN, FDT_MAX_LEN, end, &plan.fdt))
		return no_room(ALIGN_UP(plan.kernel_entry + image->image_size, FDT_MAX_LEN) +
				       FDT_MAX_LEN - ram_base,
			       ram_len, "kernel", image->image_size, error, error_len);
	if (initrd_len && !take(&next, INITRD_ALIGN, initrd_len, end, &plan.initrd))
		return no_room(next + initrd_len - ram_base, ram_len, "initrd", initrd_len, error,
			       error_len);
	*out = plan;
	return 0;
}
