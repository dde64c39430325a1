/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/disk.h"

static char path[] = "/tmp/test_disk.XXXXXX";

static int with_file(void **state)
{
	int fd;

	(void)state;
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, 1 << 20))
		return -1;
	return close(fd);
}

static int drop_file(void **state)
{
	(void)state;
	return unlink(path);
}

static const struct disk_config rw = {.path = path}, ro = {.path = path, .readonly = true};

static void a_file_opens_with_its_size(void **state)
{
	uint64_t size;
	int fd = disk_open(&rw, &size);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(size, 1 << 20);
	assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	fd = disk_open(&ro, &size);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	close(fd);
}

static void nobody_writes_what_another_uses(void **state)
{
	uint64_t size;
	int a, b;

	(void)state;
	a = disk_open(&rw, &size);
	assert_true(a >= 0);
	assert_int_equal(disk_open(&rw, &size), -EBUSY);
	assert_int_equal(disk_open(&ro, &size), -EBUSY);
	close(a);
	a = disk_open(&ro, &size);
	b = disk_open(&ro, &size);
	assert_true(a >= 0 && b >= 0);
	assert_int_equal(disk_open(&rw, &size), -EBUSY);
	close(a);
	close(b);
	a = disk_open(&rw, &size);
	assert_true(a >= 0);
	close(a);
}

static void what_is_no_disk_is_refused(void **state)
{
	struct disk_config cfg = {.path = "/no/such/disk"};
	uint64_t size;

	(void)state;
	assert_int_equal(disk_open(&cfg, &size), -ENOENT);
	cfg.path = "/tmp";
	assert_int_equal(disk_open(&cfg, &size), -EISDIR);
	cfg.readonly = true;
	assert_int_equal(disk_open(&cfg, &size), -EINVAL);
	cfg.path = "/dev/null";
	assert_int_equal(disk_open(&cfg, &size), -EINVAL);
}

static void a_pipe_is_refused_at_once(void **state)
{
	struct disk_config cfg = {.path = "/tmp/test_disk.fifo"};
	uint64_t size;

	(void)state;
	unlink(cfg.path);
	assert_int_equal(mkfifo(cfg.path, 0600), 0);
	assert_int_equal(disk_open(&cfg, &size), -EINVAL);
	cfg.readonly = true;
	assert_int_equal(disk_open(&cfg, &size), -EINVAL);
	unlink(cfg.path);
}

static void a_size_that_is_no_multiple_of_512_is_refused(void **state)
{
	uint64_t size;

	(void)state;
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(disk_open(&rw, &size), -EINVAL);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(disk_open(&rw, &size), -EINVAL);
	assert_int_equal(truncate(path, 512), 0);
	close(disk_open(&rw, &size));
	assert_int_equal(size, 512);
}

static void a_disk_that_fails_says_so_once_a_minute_and_not_for_ever(void **state)
{
	struct disk_log log = {0};

	(void)state;
	disk_log_failure(&log, path, "write", ENOSPC);
	assert_int_equal(log.said, 1);
	for (unsigned i = 0; i < 1000; i++)
		disk_log_failure(&log, path, "read", 0);
	assert_int_equal(log.unsaid, 1000);
	log.last_ns -= UINT64_C(61000000000);
	disk_log_failure(&log, path, "read", 0);
	assert_int_equal(log.unsaid, 0);
	assert_int_equal(log.said, 2);
	for (unsigned i = 0; i < 2 * DISK_LOG_MAX; i++) {
		log.last_ns -= UINT64_C(61000000000);
		disk_log_failure(&log, path, "read", 0);
	}
	assert_int_equal(log.said, DISK_LOG_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, with_file, drop_file)
		T(a_file_opens_with_its_size),
		T(nobody_writes_what_another_uses),
		T(what_is_no_disk_is_refused),
		T(a_pipe_is_refused_at_once),
		T(a_size_that_is_no_multiple_of_512_is_refused),
		T(a_disk_that_fails_says_so_once_a_minute_and_not_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
