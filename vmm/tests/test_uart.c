/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/uart.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct fixture {
	struct uart *uart;
	bool level;
	unsigned edges;
	char sent[64];
	size_t nr_sent;
};

static void set_irq(void *ctx, bool level)
{
	struct fixture *f = ctx;

	assert_int_not_equal(level, f->level);
	f->level = level;
	f->edges++;
}

static void output(void *ctx, const void *buf, size_t len)
{
	struct fixture *f = ctx;

	memcpy(f->sent + f->nr_sent, buf, len);
	f->nr_sent += len;
}

static int fresh(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || uart_create(set_irq, output, f, &f->uart))
		return -1;
	*state = f;
	return 0;
}

static int drop(void **state)
{
	struct fixture *f = *state;

	uart_destroy(f->uart);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	uint8_t val;

	uart_access(f->uart, reg, &val, 1, false);
	return val;
}

static void out(struct fixture *f, unsigned reg, uint8_t val)
{
	uart_access(f->uart, reg, &val, 1, true);
}

static void what_the_guest_sends_comes_out(void **state)
{
	struct fixture *f = *state;

	for (const char *s = "boot\n"; *s; s++) {
		assert_int_equal(in(f, LSR) & 0x60, 0x60);
		out(f, DATA, *s);
	}
	assert_string_equal(f->sent, "boot\n");
	assert_int_equal(f->edges, 0);
}

static void input_raises_the_line_until_it_is_read(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0x07);
	out(f, IER, 0x01);
	assert_false(f->level);
	assert_int_equal(uart_input(f->uart, "ab", 2), 2);
	assert_true(f->level);
	assert_int_equal(in(f, IIR), 0xcc);
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, DATA), 'a');
	assert_true(f->level);
	assert_int_equal(in(f, DATA), 'b');
	assert_false(f->level);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, DATA), 0);
}

static void input_before_the_driver_waits(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(uart_input(f->uart, "x", 1), 1);
	assert_false(f->level);
	out(f, IER, 0x01);
	assert_true(f->level);
	assert_int_equal(in(f, IIR), 0x04);
}

/* What Linux's 8250 driver tests before it trusts the interrupt. */
static void thre_comes_back_when_enabled_again(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	assert_true(f->level);
	assert_int_equal(in(f, IIR), 0x02);
	assert_false(f->level);
	assert_int_equal(in(f, IIR), 0x01);
	out(f, IER, 0x00);
	out(f, IER, 0x02);
	assert_true(f->level);
	assert_int_equal(in(f, IIR), 0x02);
	out(f, DATA, 'x');
	assert_true(f->level);
	out(f, IER, 0x00);
	assert_false(f->level);
}

static void reading_iir_for_input_keeps_thre_pending(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x03);
	uart_input(f->uart, "x", 1);
	assert_int_equal(in(f, IIR), 0x04);
	assert_int_equal(in(f, DATA), 'x');
	assert_true(f->level);
	assert_int_equal(in(f, IIR), 0x02);
	assert_false(f->level);
}

static void the_divisor_hides_behind_dlab(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x05);
	out(f, LCR, 0x83);
	out(f, DATA, 0x12);
	out(f, IER, 0x34);
	assert_int_equal(in(f, DATA), 0x12);
	assert_int_equal(in(f, IER), 0x34);
	out(f, LCR, 0x03);
	assert_int_equal(in(f, IER), 0x05);
	assert_int_equal(in(f, LCR), 0x03);
	assert_int_equal(f->nr_sent, 0);
}

static void loopback_returns_lines_and_bytes(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, MSR), 0xb0);
	out(f, MCR, 0x10 | 0x08 | 0x02);
	assert_int_equal(in(f, MSR) & 0xf0, 0x90);
	out(f, MCR, 0x10 | 0x04 | 0x01);
	assert_int_equal(in(f, MSR) & 0xf0, 0x60);
	out(f, DATA, 'q');
	assert_int_equal(uart_input(f->uart, "z", 1), 0);
	assert_int_equal(in(f, DATA), 'q');
	assert_int_equal(f->nr_sent, 0);
	out(f, MCR, 0x00);
	assert_int_equal(uart_input(f->uart, "z", 1), 1);
}

static void fifo_control_clears_and_shows(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0x01);
	assert_int_equal(in(f, IIR), 0xc1);
	uart_input(f->uart, "abc", 3);
	out(f, FCR, 0x03);
	assert_int_equal(in(f, LSR), 0x60);
	uart_input(f->uart, "abc", 3);
	out(f, FCR, 0x00);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, IIR), 0x01);
}

static void a_full_fifo_takes_no_more_and_loses_nothing(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[4096];
	size_t taken, again;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	taken = uart_input(f->uart, bytes, sizeof(bytes));
	assert_in_range(taken, 16, sizeof(bytes) - 1);
	assert_int_equal(uart_input(f->uart, bytes + taken, sizeof(bytes) - taken), 0);
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(in(f, DATA), bytes[i]);
	again = uart_input(f->uart, bytes + taken, sizeof(bytes) - taken);
	assert_int_equal(again, 10);
	for (size_t i = 10; i < taken + again; i++)
		assert_int_equal(in(f, DATA), bytes[i]);
}

static void any_access_is_harmless(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8];

	for (uint64_t off = 0; off < 0x1000; off++) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			if (off != DATA) {
				memset(data, 0, sizeof(data));
				uart_access(f->uart, off, data, len, true);
			}
			memset(data, 0xee, sizeof(data));
			uart_access(f->uart, off, data, len, false);
			for (unsigned i = 1; i < len; i++)
				assert_int_equal(data[i], 0);
		}
	}
	out(f, SCR, 0xa5);
	assert_int_equal(in(f, SCR), 0xa5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, fresh, drop)
		T(what_the_guest_sends_comes_out),
		T(input_raises_the_line_until_it_is_read),
		T(input_before_the_driver_waits),
		T(thre_comes_back_when_enabled_again),
		T(reading_iir_for_input_keeps_thre_pending),
		T(the_divisor_hides_behind_dlab),
		T(loopback_returns_lines_and_bytes),
		T(fifo_control_clears_and_shows),
		T(a_full_fifo_takes_no_more_and_loses_nothing),
		T(any_access_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
