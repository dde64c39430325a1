/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/uart.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"

/* Register offsets; the first two are the divisor's bytes while LCR_DLAB is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, NR_REGS };

#define IER_RX	 BIT(0)
#define IER_THRE BIT(1)
#define IER_MASK 0x0f

#define IIR_NONE	 0x01
#define IIR_THRE	 0x02
#define IIR_RX		 0x04
#define IIR_RX_TIMEOUT	 0x0c
#define IIR_FIFO_ENABLED 0xc0

#define FCR_ENABLE   BIT(0)
#define FCR_CLEAR_RX BIT(1)

#define LCR_DLAB BIT(7)

#define MCR_DTR	 BIT(0)
#define MCR_RTS	 BIT(1)
#define MCR_OUT1 BIT(2)
#define MCR_OUT2 BIT(3)
#define MCR_LOOP BIT(4)
#define MCR_MASK 0x1f

#define LSR_DATA_READY BIT(0)
#define LSR_THRE       BIT(5)
#define LSR_TEMT       BIT(6)

#define MSR_CTS BIT(4)
#define MSR_DSR BIT(5)
#define MSR_RI	BIT(6)
#define MSR_DCD BIT(7)

#define RX_SIZE 1024 /* bytes; a power of two */

struct uart {
	pthread_mutex_t lock;
	void (*set_irq)(void *ctx, bool level);
	void (*output)(void *ctx, const void *buf, size_t len);
	void *ctx;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	bool thre_pending; /* the transmitter became empty and IIR has not told it yet */
	bool level;	   /* of the interrupt line */
	uint8_t rx[RX_SIZE];
	unsigned head, tail; /* free-running; head - tail bytes wait */
};

int uart_create(void (*set_irq)(void *ctx, bool level),
		void (*output)(void *ctx, const void *buf, size_t len), void *ctx,
		struct uart **out)
{
	struct uart *uart = calloc(1, sizeof(*uart));

	if (!uart)
		return -ENOMEM;
	pthread_mutex_init(&uart->lock, NULL);
	uart->set_irq = set_irq;
	uart->output = output;
	uart->ctx = ctx;
	uart->dll = 1; /* 115200 baud, which nobody measures */
	*out = uart;
	return 0;
}

void uart_destroy(struct uart *uart)
{
	if (!uart)
		return;
	pthread_mutex_destroy(&uart->lock);
	free(uart);
}

static unsigned rx_used(const struct uart *uart)
{
	return uart->head - uart->tail;
}

static void rx_push(struct uart *uart, uint8_t byte)
{
	if (rx_used(uart) < RX_SIZE)
		uart->rx[uart->head++ % RX_SIZE] = byte;
}

/* What IIR says, without the FIFO bits: the highest of the pending and enabled causes. */
static uint8_t cause(const struct uart *uart)
{
	if ((uart->ier & IER_RX) && rx_used(uart))
		/* Whatever the trigger level, waiting bytes are told at once: a FIFO whose sender
		 * pauses. */
		return uart->fcr & FCR_ENABLE ? IIR_RX_TIMEOUT : IIR_RX;
	if ((uart->ier & IER_THRE) && uart->thre_pending)
		return IIR_THRE;
	return IIR_NONE;
}

static void update_irq(struct uart *uart)
{
	bool level = cause(uart) != IIR_NONE;

	if (level == uart->level)
		return;
	uart->level = level;
	uart->set_irq(uart->ctx, level);
}

static uint8_t modem_status(const struct uart *uart)
{
	if (!(uart->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
	       (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static uint8_t reg_read(struct uart *uart, unsigned reg)
{
	uint8_t val;

	switch (reg) {
	case REG_DATA:
		if (uart->lcr & LCR_DLAB)
			return uart->dll;
		return rx_used(uart) ? uart->rx[uart->tail++ % RX_SIZE] : 0;
	case REG_IER:
		return uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
	case REG_IIR_FCR:
		val = cause(uart);
		if (val == IIR_THRE)
			uart->thre_pending = false;
		return val | (uart->fcr & FCR_ENABLE ? IIR_FIFO_ENABLED : 0);
	case REG_LCR:
		return uart->lcr;
	case REG_MCR:
		return uart->mcr;
	case REG_LSR:
		return LSR_THRE | LSR_TEMT | (rx_used(uart) ? LSR_DATA_READY : 0);
	case REG_MSR:
		return modem_status(uart);
	case REG_SCR:
		return uart->scr;
	}
	return 0;
}

static void reg_write(struct uart *uart, unsigned reg, uint8_t val)
{
	switch (reg) {
	case REG_DATA:
		if (uart->lcr & LCR_DLAB) {
			uart->dll = val;
			break;
		}
		if (uart->mcr & MCR_LOOP)
			rx_push(uart, val);
		else
			uart->output(uart->ctx, &val, 1);
		uart->thre_pending = true;
		break;
	case REG_IER:
		if (uart->lcr & LCR_DLAB) {
			uart->dlm = val;
			break;
		}
		/* Enabling it with an empty transmitter raises it, which is how drivers start to
		 * send. */
		if (!(uart->ier & IER_THRE) && (val & IER_THRE))
			uart->thre_pending = true;
		uart->ier = val & IER_MASK;
		break;
	case REG_IIR_FCR:
		/* Turning the FIFOs on or off empties them too. */
		if ((val & FCR_CLEAR_RX) || (val ^ uart->fcr) & FCR_ENABLE)
			uart->tail = uart->head;
		uart->fcr = val & FCR_ENABLE;
		break;
	case REG_LCR:
		uart->lcr = val;
		break;
	case REG_MCR:
		uart->mcr = val & MCR_MASK;
		break;
	case REG_SCR:
		uart->scr = val;
		break;
	}
}

void uart_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct uart *uart = ctx;
	uint8_t *bytes = data;

	pthread_mutex_lock(&uart->lock);
	if (write) {
		if (off < NR_REGS)
			reg_write(uart, (unsigned)off, bytes[0]);
	} else {
		memset(bytes, 0, len);
		if (off < NR_REGS)
			bytes[0] = reg_read(uart, (unsigned)off);
	}
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
}

size_t uart_input(struct uart *uart, const void *buf, size_t len)
{
	const uint8_t *bytes = buf;
	size_t taken;

	pthread_mutex_lock(&uart->lock);
	taken = MIN(len, (size_t)(RX_SIZE - rx_used(uart)));
	/* In loopback the line is cut off; bytes wait outside. */
	if (uart->mcr & MCR_LOOP)
		taken = 0;
	for (size_t i = 0; i < taken; i++)
		rx_push(uart, bytes[i]);
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
	return taken;
}
