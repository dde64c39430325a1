/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio_sys.h"
#include "vmm/vfio_pci.h"

/*
 * A host with four devices: 01:00.0 bound to nvme, 02:00.0 to nothing, 03:00.0 to vfio-pci, 04:00.0
 * in no IOMMU group. VFIO itself is the table of vfio_sys.
 */
static char dir[64], said[4096];
static int open_ret;
static bool viable; /* groups are, and their devices in use */
static uint64_t locked;

int __wrap_vfio_memlock_check(uint64_t need, char *error, size_t error_len);
int __wrap_vfio_memlock_check(uint64_t need, char *error, size_t error_len)
{
	(void)error, (void)error_len;
	locked = need;
	return 0;
}

static int fake_open(const char *path)
{
	return strcmp(path, "/dev/vfio/vfio") ? open_ret : 100;
}

static int fake_ioctl(int fd, unsigned long req, void *arg)
{
	(void)fd;
	if (viable && req == VFIO_GROUP_GET_STATUS)
		((struct vfio_group_status *)arg)->flags = VFIO_GROUP_FLAGS_VIABLE;
	else if (viable && req == VFIO_CHECK_EXTENSION)
		return 1;
	else if (viable && req == VFIO_GROUP_GET_DEVICE_FD)
		return -EBUSY;
	return 0; /* also the API version */
}

static void fake_close(int fd)
{
	assert_in_range(fd, 100, 101);
}

static int a_host(void **state)
{
	char cmd[1024];

	(void)state;
	strcpy(dir, "/tmp/test_vfio_pci.XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(cmd, sizeof(cmd),
		 "cd %s && mkdir -p bus/pci/drivers/nvme bus/pci/drivers/vfio-pci bus/pci/devices "
		 "&& "
		 "for n in 1 2 3 4; do d=bus/pci/devices/0000:0$n:00.0; mkdir $d && echo 0x1b36 "
		 ">$d/vendor && "
		 "mkdir -p kernel/iommu_groups/$n && "
		 "ln -s ../../../../kernel/iommu_groups/$n $d/iommu_group; done && "
		 "ln -s ../../drivers/nvme bus/pci/devices/0000:01:00.0/driver && "
		 "ln -s ../../drivers/vfio-pci bus/pci/devices/0000:03:00.0/driver && "
		 "ln -s ../../drivers/vfio-pci bus/pci/devices/0000:04:00.0/driver && "
		 "rm bus/pci/devices/0000:04:00.0/iommu_group",
		 dir);
	assert_int_equal(system(cmd), 0);
	sysfs_root = dir;
	vfio_sys = (struct vfio_sys){fake_open, fake_ioctl, fake_close};
	open_ret = -EBUSY;
	return 0;
}

static int no_host(void **state)
{
	char cmd[128];

	(void)state;
	sysfs_root = "/sys";
	snprintf(cmd, sizeof(cmd), "rm -r '%s'", dir);
	return system(cmd);
}

/* open_one - vfio_set_open() of @device; what it says on stderr is in said. Return: its result. */
static int open_one(const char *device)
{
	struct vfio_config cfg = {.device = device};
	struct vfio_set *set;
	char path[96];
	int fd, keep, ret;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/stderr", dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	keep = dup(STDERR_FILENO);
	assert_true(fd >= 0 && keep >= 0);
	dup2(fd, STDERR_FILENO);
	ret = vfio_set_create(&set);
	if (!ret) {
		ret = vfio_set_open(set, &cfg);
		if (vfio_set_count(set))
			ret = 1;
		vfio_set_destroy(set);
	}
	dup2(keep, STDERR_FILENO);
	close(keep);
	n = pread(fd, said, sizeof(said) - 1, 0);
	close(fd);
	said[n < 0 ? 0 : n] = '\0';
	return ret;
}

static void what_cannot_be_passed_through_is_told_in_one_line_with_the_fix(void **state)
{
	char device[128];
	const struct {
		const char *device;
		int ret;
		const char *says[3];
	} rows[] = {
		{"nvme0", -EINVAL, {"nvme0", "not a PCI address", "BB:DD.F"}},
		{"01:00.9", -EINVAL, {"not a PCI address"}},
		{"0000:09:00.0", -ENODEV, {"no PCI device 0000:09:00.0", "granule devices"}},
		{"/nonexistent/0000:01:00.0", -ENODEV, {"No such file", "granule devices"}},
		{"/tmp", -EINVAL, {"not a PCI address"}},
		{"01:00.0",
		 -EBUSY,
		 {"0000:01:00.0 is bound to nvme, not to vfio-pci",
		  "echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind",
		  "echo 0000:01:00.0 > /sys/bus/pci/drivers_probe"}},
		{"02:00.0", -EBUSY, {"bound to no driver", "echo vfio-pci >", "driver_override"}},
		{"03:00.0", -EBUSY, {"0000:03:00.0: /dev/vfio/3 is in use", "end it"}},
		{device, -EBUSY, {"0000:03:00.0: /dev/vfio/3 is in use"}},
		{"04:00.0", -ENODEV, {"0000:04:00.0 is in no IOMMU group"}},
	};

	(void)state;
	snprintf(device, sizeof(device), "%s/bus/pci/devices/0000:03:00.0/", dir);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int ret = open_one(rows[i].device);

		if (ret != rows[i].ret)
			fail_msg("--vfio %s: %d, not %d", rows[i].device, ret, rows[i].ret);
		for (unsigned s = 0; s < 3 && rows[i].says[s]; s++)
			if (!strstr(said, rows[i].says[s]))
				fail_msg("--vfio %s: \"%s\" does not say \"%s\"", rows[i].device,
					 said, rows[i].says[s]);
		if (strncmp(said, "granule: ", 9) || strchr(said, '\n') != said + strlen(said) - 1)
			fail_msg("--vfio %s: \"%s\" is not one line", rows[i].device, said);
	}
}

static void a_group_that_nobody_bound_says_how(void **state)
{
	(void)state;
	open_ret = -ENOENT;
	assert_int_equal(open_one("03:00.0"), -ENOENT);
	assert_non_null(strstr(said, "/dev/vfio/3 does not exist"));
	open_ret = -EACCES;
	assert_int_equal(open_one("03:00.0"), -EACCES);
	assert_non_null(strstr(said, "no permission to open /dev/vfio/3"));
}

static void memory_is_locked_for_each_group(void **state)
{
	static const struct gmem gmem = {.nr_spans = 0};
	struct vfio_config cfg = {.device = "03:00.0"};
	struct vfio_set *set;
	char cmd[160];

	(void)state;
	snprintf(cmd, sizeof(cmd),
		 "ln -s ../../drivers/vfio-pci '%s/bus/pci/devices/0000:02:00.0/driver'", dir);
	assert_int_equal(system(cmd), 0);
	open_ret = 101;
	viable = true;
	assert_int_equal(vfio_set_create(&set), 0);
	assert_int_equal(vfio_set_check_memlock(set, BIT(30)), 0);
	assert_int_equal(locked, 0);
	assert_int_equal(vfio_set_open(set, &cfg), -EBUSY); /* its group is open then */
	assert_int_equal(vfio_set_check_memlock(set, BIT(30)), 0);
	assert_int_equal(locked, BIT(30));
	cfg.device = "02:00.0";
	assert_int_equal(vfio_set_open(set, &cfg), -EBUSY);
	assert_int_equal(vfio_set_check_memlock(set, BIT(30)), 0);
	assert_int_equal(locked, 2 * BIT(30));
	locked = 1;
	assert_int_equal(vfio_set_map_ram(set, &gmem), 0);
	assert_int_equal(locked, 0);
	vfio_set_destroy(set);
	viable = false;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, a_host, no_host)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_cannot_be_passed_through_is_told_in_one_line_with_the_fix),
		TEST(a_group_that_nobody_bound_says_how),
		TEST(memory_is_locked_for_each_group),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
