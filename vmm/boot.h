/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot - kernel files: arm64 Image, gzip, EFI zboot (gzip, zstd) -> an Image in guest RAM; initrd.
 * The file is untrusted: every size is checked and what is unpacked is bounded by the room it has.
 * Source: Linux Documentation/arch/arm64/booting.rst, drivers/firmware/efi/libstub/zboot-header.S.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct kernel_image {
	uint8_t *data; /* the unpacked Image, malloc'd */
	size_t len;    /* bytes in data */
	uint64_t text_offset; /* from a 2 MiB aligned base, bytes */
	uint64_t image_size;  /* bytes it needs from there, >= len */
	unsigned page_size;   /* bytes: 4096, 16384, 65536; 0 if the header does not say */
	const char *format;   /* "Image", "gzip", "EFI zboot (gzip)", "EFI zboot (zstd)" */
};

/**
 * kernel_load - read and unpack a kernel file
 * @limit: bytes the unpacked Image may have at most
 * @error: one line, without newline: what is wrong, the value, what to do
 * Return: 0; -errno with @error filled.
 */
int kernel_load(const char *path, uint64_t limit, struct kernel_image *out, char *error, size_t error_len);
void kernel_free(struct kernel_image *image);

/* Where everything goes in guest RAM, guest-physical bytes. */
struct boot_plan {
	uint64_t kernel_entry; /* = where the Image is copied */
	uint64_t initrd, initrd_len; /* len 0: none */
	uint64_t fdt; /* FDT_MAX_LEN bytes are free from here */
};

#define FDT_MAX_LEN 0x200000u /* 2 MiB */

/**
 * boot_plan - lay kernel, initrd and FDT out in low RAM so that none overlaps
 * @ram_base, @ram_len: the low RAM span
 * Return: 0; -ENOSPC with @error filled.
 */
int boot_plan(const struct kernel_image *image, uint64_t initrd_len, uint64_t ram_base, uint64_t ram_len,
	      struct boot_plan *out, char *error, size_t error_len);

#endif
