/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"

#define IMAGE_LEN 4096

static char path[] = "/tmp/granule-inspect-XXXXXX";

static int setup(void **state)
{
	uint8_t *image = calloc(1, IMAGE_LEN);

	put_le64(image + 16, 0x100000);
	put_le64(image + 24, 1 << 1);
	memcpy(image + 56, "ARM\x64", 4);
	*state = image;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

/* What inspect_run() prints about @image. */
static char *inspect(const uint8_t *image, int status)
{
	static char text[2048];
	FILE *f = fopen(path, "wb"), *out = tmpfile();
	int saved = dup(STDOUT_FILENO);
	size_t n;

	assert_non_null(f);
	assert_int_equal(fwrite(image, 1, IMAGE_LEN, f), IMAGE_LEN);
	fclose(f);
	fflush(stdout);
	dup2(fileno(out), STDOUT_FILENO);
	assert_int_equal(inspect_run(&(struct inspect_config){.kernel = path}), status);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	rewind(out);
	n = fread(text, 1, sizeof(text) - 1, out);
	text[n] = '\0';
	fclose(out);
	return text;
}

static void says(const char *text, const char *label, const char *want)
{
	char line[512];

	snprintf(line, sizeof(line), "%-22s%s\n", label, want);
	if (!strstr(text, line))
		fail_msg("'%s' lacks '%s'", text, line);
}

static void everything_the_header_says_is_shown(void **state)
{
	uint8_t *image = *state;
	const char *text;

	strcpy((char *)image + 1000, "Linux version %s (%s)\n");
	strcpy((char *)image + 2000, "Linux version 6.12.57 (builder) #1 SMP\nrest");
	text = inspect(image, 0);
	says(text, "format", "Image");
	says(text, "version", "Linux version 6.12.57 (builder) #1 SMP");
	says(text, "page size", "4096 bytes");
	says(text, "text offset", "0x0");
	says(text, "image size", "1048576 bytes (4096 in the file, unpacked)");
	says(text, "endianness", "little");
	says(text, "virtio-iommu granule", "4096 bytes");
	put_le64(image + 24, 2 << 1 | 1);
	text = inspect(image, 0);
	says(text, "page size", "16384 bytes");
	says(text, "endianness", "big");
	says(text, "virtio-iommu granule", "16384 bytes");
}

static void what_the_header_does_not_say_is_unknown(void **state)
{
	uint8_t *image = *state;
	const char *text;

	put_le64(image + 24, 0);
	text = inspect(image, 0);
	says(text, "version", "unknown");
	says(text, "page size", "unknown: the header does not say");
	says(text, "virtio-iommu granule", "4096 bytes");
}

/* Nothing in the file moves the cursor, and a version at its very end is not read past. */
static void a_hostile_version_is_cut_off(void **state)
{
	uint8_t *image = *state;
	const char *text;

	memcpy(image + 1000, "Linux version 6\033[2J", 19);
	text = inspect(image, 0);
	says(text, "version", "Linux version 6");
	memset(image + 1000, 0, 19);
	memcpy(image + IMAGE_LEN - 15, "Linux version 6", 15);
	text = inspect(image, 0);
	says(text, "version", "Linux version 6");
	memset(image + IMAGE_LEN - 15, 0, 15);
	memcpy(image + IMAGE_LEN - 14, "Linux version ", 14);
	says(inspect(image, 0), "version", "unknown");
	memset(image + 1000, '9', IMAGE_LEN - 1000);
	memcpy(image + 1000, "Linux version ", 14);
	text = inspect(image, 0);
	assert_true(strlen(text) < 1000);
}

static int make_file(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(everything_the_header_says_is_shown),
		TEST(what_the_header_does_not_say_is_unknown),
		TEST(a_hostile_version_is_cut_off),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
