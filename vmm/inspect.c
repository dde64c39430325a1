/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/cli.h"
#include "vmm/msg.h"

/* arm64 Image header: flags. Source: Linux Documentation/arch/arm64/booting.rst. */
#define IMAGE_FLAGS	       24
#define IMAGE_FLAGS_BIG_ENDIAN 1

#define VERSION_MAX 256 /* longest version line printed, bytes */

/* The granule that suits a kernel whose header does not say its page size: the smallest there is.
 */
#define GRANULE_UNKNOWN 4096u

/* Linux's banner, "Linux version 6.12.57+deb13-arm64 (...) ...". Return: its length; 0: none. */
static size_t find_version(const struct kernel_image *image, const char **out)
{
	static const char words[] = "Linux version ";
	const size_t words_len = sizeof(words) - 1;
	const uint8_t *p = image->data, *end = image->data + image->len;

	while ((p = memmem(p, (size_t)(end - p), words, words_len))) {
		size_t len = words_len;

		while (len < (size_t)(end - p) && len < VERSION_MAX && p[len] >= ' ' &&
		       p[len] <= '~')
			len++;
		/* Not the format strings that start alike. */
		if (len > words_len && p[words_len] >= '0' && p[words_len] <= '9') {
			*out = (const char *)p;
			return len;
		}
		p += words_len;
	}
	return 0;
}

int inspect_run(const char *kernel)
{
	struct kernel_image image;
	const char *version;
	char error[512];
	size_t len;

	if (kernel_load(kernel, UINT64_MAX, &image, error, sizeof(error))) {
		msg_error("%s", error);
		return EXIT_FAILED;
	}
	len = find_version(&image, &version);
	printf("format                %s\n", image.format);
	printf("version               %.*s\n", len ? (int)len : 7, len ? version : "unknown");
	if (image.page_size)
		printf("page size             %u bytes\n", image.page_size);
	else
		printf("page size             unknown: the header does not say\n");
	printf("text offset           0x%" PRIx64 "\n", image.text_offset);
	printf("image size            %" PRIu64 " bytes (%zu in the file, unpacked)\n",
	       image.image_size, image.len);
	printf("endianness            %s\n",
	       image.data[IMAGE_FLAGS] & IMAGE_FLAGS_BIG_ENDIAN ? "big" : "little");
	printf("virtio-iommu granule  %u bytes\n",
	       image.page_size ? image.page_size : GRANULE_UNKNOWN);
	kernel_free(&image);
	return EXIT_POWEROFF;
}
