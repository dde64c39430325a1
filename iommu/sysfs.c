/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/sysfs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *sysfs_root = "/sys";

/* Return: 0; -ENAMETOOLONG. */
static int make_path(char path[PATH_MAX], const char *fmt, va_list ap)
{
	int n = snprintf(path, PATH_MAX, "%s/", sysfs_root);
	int m;

	if (n >= PATH_MAX)
		return -ENAMETOOLONG;
	m = vsnprintf(path + n, PATH_MAX - (size_t)n, fmt, ap);
	return m >= PATH_MAX - n ? -ENAMETOOLONG : 0;
}

static int read_path(char *buf, size_t len, const char *path)
{
	ssize_t n;
	int fd;

	buf[0] = '\0';
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0) {
		n = -errno;
		buf[0] = '\0';
		close(fd);
		return (int)n;
	}
	close(fd);
	while (n > 0 && isspace((unsigned char)buf[n - 1]))
		n--;
	buf[n] = '\0';
	return (int)n;
}

int sysfs_read(char *buf, size_t len, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int ret;

	buf[0] = '\0';
	va_start(ap, fmt);
	ret = make_path(path, fmt, ap);
	va_end(ap);
	return ret ? ret : read_path(buf, len, path);
}

int sysfs_read_u64(uint64_t *out, const char *fmt, ...)
{
	char path[PATH_MAX], text[64], *end;
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = make_path(path, fmt, ap);
	va_end(ap);
	if (ret)
		return ret;
	ret = read_path(text, sizeof(text), path);
	if (ret < 0)
		return ret;
	errno = 0;
	*out = strtoull(text, &end, 0);
	return errno || end == text || *end ? -EINVAL : 0;
}

int sysfs_link(char *buf, size_t len, const char *fmt, ...)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *base;
	va_list ap;
	ssize_t n;
	int ret;

	buf[0] = '\0';
	va_start(ap, fmt);
	ret = make_path(path, fmt, ap);
	va_end(ap);
	if (ret)
		return ret;
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	base = strrchr(target, '/');
	base = base ? base + 1 : target;
	if (strlen(base) >= len)
		return -ENAMETOOLONG;
	strcpy(buf, base);
	return 0;
}

static int no_dot_files(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

int sysfs_list(struct dirent ***out, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int ret;

	*out = NULL;
	va_start(ap, fmt);
	ret = make_path(path, fmt, ap);
	va_end(ap);
	if (ret)
		return ret;
	ret = scandir(path, out, no_dot_files, alphasort);
	return ret < 0 ? -errno : ret;
}

void sysfs_list_free(struct dirent **list, int nr)
{
	for (int i = 0; i < nr; i++)
		free(list[i]);
	free(list);
}
