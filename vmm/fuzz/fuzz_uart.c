/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_uart - a hostile guest at the small devices of the machine: UART and clock, on the bus.
 *
 * Regions come and go, accesses of any size go anywhere, over the ends of regions and of the
 * address space too. Each must reach the one region that holds it whole, at the right offset, or
 * none. What the UART sends is what the guest wrote, in that order; what is typed comes out
 * once, in that order, and none of it is lost but by the guest's own word; its line is up exactly
 * while there is a cause. The clock goes on from where it was set.
 *
 * Files: vmm/uart.c vmm/rtc.c vmm/bus.c
 */
#include "iommu/fuzz/input.h"

#include <time.h>

#include "vmm/bus.h"
#include "vmm/rtc.h"
#include "vmm/uart.h"

#define MAX_OPS	   400
#define NR_REGIONS 8u
#define FIFO	   1024u
#define UART	   UINT64_C(0x9000000)
#define RTC	   UINT64_C(0x9010000)
#define LEN	   UINT64_C(0x1000)

/* 16550A registers: National Semiconductor PC16550D data sheet, table II. */
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define DLAB 0x80
#define LOOP 0x10

static struct bench {
	struct bus *bus;
	struct uart *uart;
	struct rtc *rtc;
	struct {
		struct bus_region *region;
		uint64_t base, len;
	} regions[NR_REGIONS];
	/* of the access that was made last */
	unsigned hit, hits;
	uint64_t hit_off;
	bool remove_inside; /* the next handler removes its own region */
	/* the UART */
	bool level;
	uint8_t ier, fcr, lcr, mcr, scr, divisor[2];
	uint8_t fifo[FIFO];
	unsigned waiting;
	uint8_t next_typed;
	int sent; /* the next byte that must be sent; -1: none */
	bool thre;
	/* the clock */
	uint32_t ahead; /* of the host's, seconds modulo 2^32 */
} b;

/* ---- the bus -----------------------------------------------------------------------------------
 */

static void handler(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	unsigned i = (unsigned)(uintptr_t)ctx;

	demand(b.regions[i].region && off < b.regions[i].len && len <= b.regions[i].len - off);
	b.hits++;
	b.hit = i;
	b.hit_off = off;
	if (!write)
		memset(data, (int)i, len);
	if (b.remove_inside) {
		bus_remove(b.bus, b.regions[i].region);
		b.regions[i].region = NULL;
	}
}

static bool overlap(uint64_t base, uint64_t len, uint64_t other, uint64_t other_len)
{
	return base <= other + (other_len - 1) && other <= base + (len - 1);
}

static uint64_t place(struct input *in)
{
	uint8_t how = take8(in);

	switch (how % 4) {
	case 0:
		return UINT64_C(0x10000000) + (uint64_t)take8(in) * 16;
	case 1:
		return UINT64_MAX - take8(in);
	case 2:
		return (how & 4 ? UART : RTC) + 0xf80 + take8(in);
	default:
		return take64(in);
	}
}

static void add_region(struct input *in)
{
	unsigned i = take8(in) % NR_REGIONS;
	uint64_t base = place(in), len = take8(in) % 64 ? take16(in) : take64(in);
	int ret, want = 0;

	bus_remove(b.bus, b.regions[i].region);
	b.regions[i].region = NULL;
	if (!len || base + (len - 1) < base)
		want = -22; /* EINVAL */
	else if (overlap(base, len, UART, LEN) || overlap(base, len, RTC, LEN))
		want = -16; /* EBUSY */
	for (unsigned j = 0; !want && j < NR_REGIONS; j++)
		if (b.regions[j].region && overlap(base, len, b.regions[j].base, b.regions[j].len))
			want = -16;
	ret = bus_add(b.bus, base, len, "fuzz", handler, (void *)(uintptr_t)i,
		      &b.regions[i].region);
	demand(ret == want);
	if (ret)
		b.regions[i].region = NULL;
	b.regions[i].base = base;
	b.regions[i].len = len;
}

static void access_any(struct input *in)
{
	uint8_t how = take8(in), data[8];
	uint64_t gpa = place(in);
	unsigned len = 1u << how % 4, want = NR_REGIONS;
	bool write = how & 0x10, found;

	for (unsigned i = 0; i < NR_REGIONS; i++)
		if (b.regions[i].region && gpa >= b.regions[i].base &&
		    gpa - b.regions[i].base < b.regions[i].len &&
		    len <= b.regions[i].len - (gpa - b.regions[i].base))
			want = i;
	if (want == NR_REGIONS && (gpa - UART < LEN || gpa - RTC < LEN))
		return; /* known only through uart_reg() and clock() */
	memset(data, 0x5a, sizeof(data));
	b.hits = 0;
	b.remove_inside = how & 0x20;
	found = bus_access(b.bus, gpa, data, len, write);
	b.remove_inside = false;
	demand(found == (want < NR_REGIONS) && b.hits == found);
	if (found)
		demand(b.hit == want && b.hit_off == gpa - b.regions[want].base);
	for (unsigned i = 0; i < len && !write; i++)
		demand(data[i] == (found ? want : 0xff));
}

/* ---- the UART ----------------------------------------------------------------------------------
 */

static void set_irq(void *ctx, bool level)
{
	(void)ctx;
	demand(level != b.level); /* changes only */
	b.level = level;
}

static void output(void *ctx, const void *buf, size_t len)
{
	(void)ctx;
	demand(len == 1 && *(const uint8_t *)buf == b.sent);
	b.sent = -1;
}

static uint8_t cause(void)
{
	if (b.ier & 1 && b.waiting)
		return b.fcr & 1 ? 0x0c : 0x04;
	return b.ier & 2 && b.thre ? 0x02 : 0x01;
}

static void push(uint8_t byte)
{
	if (b.waiting < FIFO)
		b.fifo[b.waiting++] = byte;
}

static uint8_t uart_read(unsigned reg)
{
	uint8_t val = 0;

	switch (reg) {
	case DATA:
		if (b.lcr & DLAB)
			return b.divisor[0];
		if (b.waiting) {
			val = b.fifo[0];
			memmove(b.fifo, b.fifo + 1, --b.waiting);
		}
		return val;
	case IER:
		return b.lcr & DLAB ? b.divisor[1] : b.ier;
	case IIR:
		val = cause();
		if (val == 0x02)
			b.thre = false;
		return val | (b.fcr & 1 ? 0xc0 : 0);
	case LCR:
		return b.lcr;
	case MCR:
		return b.mcr;
	case LSR:
		return 0x60 | (b.waiting != 0);
	case MSR: /* in loopback MCR's outputs are its inputs */
		if (!(b.mcr & LOOP))
			return 0xb0;
		return (uint8_t)((b.mcr & 2) << 3 | (b.mcr & 1) << 5 | (b.mcr & 0x0c) << 4);
	default:
		return b.scr;
	}
}

static void uart_write(unsigned reg, uint8_t val)
{
	switch (reg) {
	case DATA:
		if (b.lcr & DLAB) {
			b.divisor[0] = val;
			return;
		}
		if (b.mcr & LOOP)
			push(val);
		else
			b.sent = val;
		b.thre = true;
		return;
	case IER:
		if (b.lcr & DLAB) {
			b.divisor[1] = val;
			return;
		}
		b.thre |= val & 2 && !(b.ier & 2);
		b.ier = val & 0x0f;
		return;
	case IIR: /* FCR */
		if (val & 2 || (val ^ b.fcr) & 1)
			b.waiting = 0;
		b.fcr = val & 1;
		return;
	case LCR:
		b.lcr = val;
		return;
	case MCR:
		b.mcr = val & 0x1f;
		return;
	case SCR:
		b.scr = val;
		return;
	}
}

static void uart_reg(struct input *in)
{
	uint8_t how = take8(in), data[8], want = 0;
	unsigned len = 1u << (how & 0x40 ? take8(in) % 4 : 0);
	unsigned reg = how & 0x20 ? take8(in) : how % 8;
	bool write = how & 0x80;

	memset(data, 0x5a, sizeof(data));
	if (write) {
		data[0] = take8(in);
		if (reg <= SCR)
			uart_write(reg, data[0]);
	} else if (reg <= SCR) {
		want = uart_read(reg);
	}
	demand(bus_access(b.bus, UART + reg, data, len, write));
	demand(b.sent == -1); /* at once */
	for (unsigned i = 0; i < len && !write; i++)
		demand(data[i] == (i ? 0 : want));
	demand(b.level == (cause() != 0x01));
}

static void type(struct input *in)
{
	uint8_t buf[256];
	size_t len = take8(in), taken, want = b.mcr & LOOP ? 0 : MIN(len, FIFO - b.waiting);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(b.next_typed + i);
	taken = uart_input(b.uart, buf, len);
	demand(taken == want);
	for (size_t i = 0; i < taken; i++)
		push(buf[i]);
	b.next_typed = (uint8_t)(b.next_typed + taken);
	demand(b.level == (cause() != 0x01));
}

/* ---- the clock ---------------------------------------------------------------------------------
 */

static void clock_reg(struct input *in)
{
	static const uint8_t id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
	uint8_t how = take8(in), data[8] = {0};
	unsigned len = how & 0x40 ? 1u << take8(in) % 4 : 4;
	uint64_t off = how & 0x20 ? take16(in) % (LEN - 8) : how % 16 * 4u;
	uint32_t before, after, val = take32(in);
	bool write = how & 0x80;

	put_le32(data, val);
	before = (uint32_t)time(NULL);
	demand(bus_access(b.bus, RTC + off, data, len, write));
	after = (uint32_t)time(NULL);
	if (write && len == 4 && off == 8) { /* load: between the two */
		memset(data, 0, sizeof(data));
		demand(bus_access(b.bus, RTC, data, 4, false));
		demand(get_le32(data) - val <= (uint32_t)time(NULL) - before);
		b.ahead = val - after;
		if (before != after) /* which of them is not known */
			b.ahead = get_le32(data) - (uint32_t)time(NULL);
	} else if (!write && off == 0 && len == 4) {
		demand(get_le32(data) - (before + b.ahead) + 1 <= after - before + 2);
	} else if (!write && off >= 0xfe0 && off % 4 == 0) {
		demand(data[0] == id[(off - 0xfe0) / 4]);
	} else if (!write && off % 4) {
		for (unsigned i = 0; i < len; i++)
			demand(!data[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	memset(&b, 0, sizeof(b));
	b.sent = -1;
	b.divisor[0] = 1;
	demand(!bus_create(&b.bus));
	demand(!uart_create(set_irq, output, NULL, &b.uart));
	demand(!rtc_create(&b.rtc));
	demand(!bus_add(b.bus, UART, LEN, "uart", uart_access, b.uart, NULL));
	demand(!bus_add(b.bus, RTC, LEN, "rtc", rtc_access, b.rtc, NULL));
	for (unsigned i = 0; in.left && i < MAX_OPS; i++) {
		switch (take8(&in) % 8) {
		case 0:
			add_region(&in);
			break;
		case 1:
			access_any(&in);
			break;
		case 2:
		case 3:
		case 4:
			uart_reg(&in);
			break;
		case 5:
			type(&in);
			break;
		default:
			clock_reg(&in);
			break;
		}
	}
	bus_destroy(b.bus);
	uart_destroy(b.uart);
	rtc_destroy(b.rtc);
	return 0;
}
