/* SPDX-License-Identifier: Apache-2.0 */
/* sim_port - where a simulated device masters: a stream of a simulated DART, or a test's memory */
#ifndef VMM_SIM_PORT_H
#define VMM_SIM_PORT_H

#include <stddef.h>
#include <stdint.h>

struct sim_port {
	/*
	 * @len bytes at the device's address @addr, in ascending order and after those of calls
	 * that returned before; aligned pieces of 8 bytes are single-copy atomic. Any thread.
	 * Return: 0; -EFAULT an access was refused: all bytes before it were copied, none from
	 * there on.
	 */
	int (*read)(void *ctx, uint64_t addr, void *buf, size_t len);
	int (*write)(void *ctx, uint64_t addr, const void *buf, size_t len);
	void *ctx;
};

#endif
