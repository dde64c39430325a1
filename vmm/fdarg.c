/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/fdarg.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char prefix[] = "fd=";

int fdarg_parse(const char *text)
{
	const char *digits = text + strlen(prefix);
	char *end;
	long fd;

	if (strncmp(text, prefix, strlen(prefix)) != 0)
		return -ENOENT;
	if (*digits < '0' || *digits > '9')
		return -EINVAL; /* strtol would take spaces and signs */
	fd = strtol(digits, &end, 10);
	return *end || fd <= STDERR_FILENO || fd > INT_MAX ? -EINVAL : (int)fd;
}

int fdarg_take(int fd, const int *taken, unsigned nr_taken)
{
	pid_t self = getpid();

	if (fcntl(fd, F_SETFD, FD_CLOEXEC))
		return -EBADF;
	for (unsigned i = 0; i < nr_taken; i++)
		/* A kernel without kcmp(2) knows numbers only. */
		if (fd == taken[i] || !syscall(SYS_kcmp, self, self, KCMP_FILE, (unsigned long)fd,
					       (unsigned long)taken[i]))
			return -EEXIST;
	return 0;
}

int fdarg_open(const char *path, int flags)
{
	int fd = fdarg_parse(path), have, mode = flags & O_ACCMODE;

	if (fd == -ENOENT) {
		fd = open(path, flags);
		return fd < 0 ? -errno : fd;
	}
	if (fd < 0)
		return fd;
	have = fcntl(fd, F_GETFL);
	if (have < 0 || (have & O_PATH))
		return -EBADF;
	have &= O_ACCMODE;
	if (have != mode && have != O_RDWR)
		return -EACCES;
	(void)lseek(fd, 0, SEEK_SET); /* what has no place needs none */
	return fd;
}
