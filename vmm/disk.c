/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/fdarg.h"
#include "vmm/msg.h"

#define SECTOR 512

#define LOG_INTERVAL_NS UINT64_C(60000000000)

static int disk_size(int fd, const char *path, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st)) {
		msg_error("disk %s: %s", path, strerror(errno));
		return -EIO;
	}
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, size)) {
			msg_error("disk %s: its size cannot be read: %s", path, strerror(errno));
			return -EIO;
		}
	} else if (S_ISREG(st.st_mode)) {
		*size = (uint64_t)st.st_size;
	} else {
		msg_error("disk %s is a %s; give a file or a block device", path,
			  S_ISDIR(st.st_mode)	 ? "directory"
			  : S_ISFIFO(st.st_mode) ? "pipe"
						 : "character device");
		return -EINVAL;
	}
	if (*size == 0 || *size % SECTOR) {
		msg_error("disk %s has %" PRIu64
			  " bytes; its size must be a multiple of %d and not 0",
			  path, *size, SECTOR);
		return -EINVAL;
	}
	return 0;
}

static int disk_lock(int fd, const struct disk_config *cfg)
{
	struct flock lock = {.l_type = cfg->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		msg_error("disk %s is locked: another process uses it, or it is given twice%s",
			  cfg->path,
			  cfg->readonly ? "; whoever may write it must go first"
					: "; stop that, or let all use it with ,ro");
	else
		msg_error("disk %s cannot be locked: %s", cfg->path, strerror(errno));
	return -EBUSY;
}

int disk_open(const struct disk_config *cfg, uint64_t *size)
{
	/* Non-blocking: a pipe must be refused, not waited for. Reads and writes of files do not
	 * care. */
	int fd =
		fdarg_open(cfg->path, (cfg->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	int ret;

	if (fd < 0) {
		ret = fd;
		if (ret == -EISDIR)
			msg_error("disk %s is a directory; give a file or a block device",
				  cfg->path);
		else if ((ret == -EACCES || ret == -EROFS || ret == -EPERM) && !cfg->readonly)
			msg_error("disk %s: %s; make it writable, or give it as %s,ro", cfg->path,
				  strerror(-ret), cfg->path);
		else
			msg_error("disk %s: %s", cfg->path, strerror(-ret));
		return ret;
	}
	ret = disk_size(fd, cfg->path, size);
	if (!ret)
		ret = disk_lock(fd, cfg);
	/* io_uring answers EAGAIN for a non-blocking file instead of waiting; and a descriptor that
	 * was handed in may append whatever the place, or want aligned memory. */
	if (!ret && fcntl(fd, F_SETFL, 0)) {
		ret = -errno;
		msg_error("disk %s: %s", cfg->path, strerror(-ret));
	}
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

void disk_log_failure(struct disk_log *log, const char *path, const char *what, int error)
{
	uint64_t now = monotonic_ns();
	char more[64] = "";

	if (log->said && (log->said >= DISK_LOG_MAX || now - log->last_ns < LOG_INTERVAL_NS)) {
		log->unsaid++;
		return;
	}
	if (log->unsaid)
		snprintf(more, sizeof(more), " (and %u failures before it)", log->unsaid);
	*log = (struct disk_log){.said = log->said + 1, .last_ns = now};
	msg_warn("disk %s: a %s failed: %s%s; the guest is told%s", path, what,
		 error ? strerror(error) : "it has become shorter", more,
		 log->said == DISK_LOG_MAX ? ", further ones are not shown" : "");
}
