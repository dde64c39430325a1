/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/fdarg.h"

static char path[] = "/tmp/test_fdarg.XXXXXX";

static void only_numbers_from_three_on_are_meant(void **state)
{
	(void)state;
	assert_int_equal(fdarg_parse("fd=3"), 3);
	assert_int_equal(fdarg_parse("fd=1000"), 1000);
	assert_int_equal(fdarg_parse("disk.img"), -ENOENT);
	assert_int_equal(fdarg_parse("./fd=3"), -ENOENT);
	assert_int_equal(fdarg_parse("fd"), -ENOENT);
	assert_int_equal(fdarg_parse("fd="), -EINVAL);
	assert_int_equal(fdarg_parse("fd=0"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=2"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=-3"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=+3"), -EINVAL);
	assert_int_equal(fdarg_parse("fd= 3"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=3x"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=0x3"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=4294967299"), -EINVAL);
	assert_int_equal(fdarg_parse("fd=99999999999999999999"), -EINVAL);
}

static void an_open_file_is_taken_once(void **state)
{
	int a = open(path, O_RDWR), b = open(path, O_RDWR), again = dup(a);
	const int taken[] = {b, a};

	(void)state;
	assert_int_equal(fdarg_take(a, NULL, 0), 0);
	assert_int_equal(fcntl(a, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fdarg_take(a, taken, 1), 0); /* the same file, opened by itself */
	assert_int_equal(fdarg_take(a, taken, 2), -EEXIST);
	assert_int_equal(fdarg_take(again, taken, 2), -EEXIST);
	close(a);
	close(b);
	close(again);
	assert_int_equal(fdarg_take(again, NULL, 0), -EBADF);
}

static void it_must_be_open_for_what_it_is_for(void **state)
{
	static const struct {
		int have, want, ret; /* 0: the descriptor itself */
	} rows[] = {
		{O_RDONLY, O_RDONLY, 0},     {O_RDWR, O_RDONLY, 0},
		{O_RDWR, O_RDWR, 0},	     {O_WRONLY, O_RDONLY, -EACCES},
		{O_WRONLY, O_RDWR, -EACCES}, {O_RDONLY, O_RDWR, -EACCES},
		{O_PATH, O_RDONLY, -EBADF},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd = open(path, rows[i].have), ret;
		char text[32];

		snprintf(text, sizeof(text), "fd=%d", fd);
		ret = fdarg_open(text, rows[i].want | O_CLOEXEC);
		if (ret != (rows[i].ret ? rows[i].ret : fd))
			fail_msg("row %zu: %d", i, ret);
		close(fd);
		assert_int_equal(fdarg_open(text, rows[i].want), -EBADF);
	}
}

static void a_file_is_read_from_its_start(void **state)
{
	int fd = open(path, O_RDWR);
	char text[32];

	(void)state;
	assert_int_equal(write(fd, "granule", 7), 7);
	snprintf(text, sizeof(text), "fd=%d", fd);
	assert_int_equal(fdarg_open(text, O_RDONLY), fd);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
	close(fd);
}

static void any_other_text_is_a_files_name(void **state)
{
	int fd = fdarg_open(path, O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(fdarg_open("/no/such", O_RDONLY), -ENOENT);
	assert_int_equal(fdarg_open("fd=x", O_RDONLY), -EINVAL);
}

static int make_file(void **state)
{
	(void)state;
	return close(mkstemp(path));
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_numbers_from_three_on_are_meant),
		cmocka_unit_test(an_open_file_is_taken_once),
		cmocka_unit_test(it_must_be_open_for_what_it_is_for),
		cmocka_unit_test(a_file_is_read_from_its_start),
		cmocka_unit_test(any_other_text_is_a_files_name),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
