/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fdarg - descriptors from whoever starts granule: `fd=N` where the name of a file may stand, so
 * that the user it runs as needs no right to the file. (A file of such a name is ./fd=N.)
 */
#ifndef VMM_FDARG_H
#define VMM_FDARG_H

/* fdarg_parse - Return: N >= 3 of "fd=N"; -ENOENT: @text is no such argument but a file's name;
 * -EINVAL: N is missing, or 0 to 2, which are the console's and the messages'. */
int fdarg_parse(const char *text);

/**
 * fdarg_take - is descriptor @fd open, and another open file than each of @taken?
 *
 * Before anything else is opened, or it could be that. From here on an exec closes it.
 * Return: 0; -EBADF it is not open; -EEXIST it is one of them, or a duplicate, which would have
 * their locks.
 */
int fdarg_take(int fd, const int *taken, unsigned nr_taken);

/**
 * fdarg_open - open @path, or hand out the descriptor that it means, at its file's start
 * @flags: of open(2); a descriptor must be open for what they say, to read or write or both
 * Return: a descriptor >= 0, the caller's; -errno, of a descriptor: -EACCES, -EBADF.
 */
int fdarg_open(const char *path, int flags);

#endif
