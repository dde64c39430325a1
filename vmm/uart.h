/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uart - a 16550A with byte-wide registers one byte apart: the system console.
 *
 * Sending takes no time: what the guest writes is handed on at once, so the transmitter is always
 * empty. Received bytes wait in a FIFO larger than a real one, which drivers cannot tell.
 * Source: National Semiconductor PC16550D data sheet; Linux drivers/tty/serial/8250/8250_port.c for
 * what a driver tests (loopback, and the THRE interrupt that comes back when it is enabled again).
 */
#ifndef VMM_UART_H
#define VMM_UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uart;

/**
 * uart_create
 * @set_irq: drive the level-triggered interrupt line; called on a change only, with the lock held
 * @output: what the guest sent; called with the lock held
 * Return: 0; -ENOMEM.
 */
int uart_create(void (*set_irq)(void *ctx, bool level),
		void (*output)(void *ctx, const void *buf, size_t len), void *ctx,
		struct uart **out);
void uart_destroy(struct uart *uart); /* NULL is fine */

/* uart_access - one guest access (a bus_access_fn): registers are a byte each; wider accesses see
 * the one at @off, zero-extended */
void uart_access(void *uart, uint64_t off, void *data, unsigned len, bool write);

/* uart_input - bytes for the guest, any thread. Return: how many were taken (the rest: later). */
size_t uart_input(struct uart *uart, const void *buf, size_t len);

#endif
