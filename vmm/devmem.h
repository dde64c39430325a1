/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devmem - loads and stores to registers of a device that are mapped here. A guest says where and
 * how wide, and a device or its bus may answer an access that it does not like with an abort: Linux
 * sends SIGBUS then. The access fails; granule goes on.
 */
#ifndef VMM_DEVMEM_H
#define VMM_DEVMEM_H

/* devmem_catch_aborts - from now on, in every thread; another SIGBUS is as deadly as before. To be
 * called again when somebody else has set what SIGBUS does. */
void devmem_catch_aborts(void);

/**
 * devmem_read, devmem_write - one access, neither split nor repeated
 * @data: little-endian
 * @len: 1, 2, 4 or 8, bytes
 * Return: 0; -EINVAL another @len; -EIO it was answered with an abort: @data is as it was.
 */
int devmem_read(const volatile void *reg, void *data, unsigned len);
int devmem_write(volatile void *reg, const void *data, unsigned len);

#endif
