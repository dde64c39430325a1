/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sysfs - attributes, links and directories of the host's /sys, by printf-style relative path.
 */
#ifndef IOMMU_SYSFS_H
#define IOMMU_SYSFS_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>

/* "/sys"; unit tests point it at a tree of their own */
extern const char *sysfs_root;

/* sysfs_read - an attribute's text, trailing white space removed, cut to @len - 1 bytes.
 * Return: its length; -errno, with @buf empty. */
int sysfs_read(char *buf, size_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* sysfs_read_u64 - an attribute that is one number, decimal or 0x. Return: 0; -errno; -EINVAL. */
int sysfs_read_u64(uint64_t *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* sysfs_link - the last component of what a link points at (a driver's name, a group's number).
 * Return: 0; -errno (-ENOENT: no link), with @buf empty. */
int sysfs_link(char *buf, size_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* sysfs_list - the names in a directory, sorted, without dot files.
 * Return: how many, *out to be freed by sysfs_list_free(); -errno, *out then NULL. */
int sysfs_list(struct dirent ***out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sysfs_list_free(struct dirent **list, int nr);

#endif
