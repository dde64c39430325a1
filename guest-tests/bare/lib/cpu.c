/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu.h"
#include "claim.h"
#include "console.h"

#define ESR_EC_SHIFT	26
#define ESR_EC_DATA_EL1 0x25
#define ESR_DFSC_ALIGN	0x21

#define NR_SECONDARIES 7
#define STACK_LEN      8192

const void *boot_dtb;
volatile bool abort_expected;
volatile unsigned aborts, alignment_faults;

static uint64_t way(uint64_t addr, unsigned len)
{
	return addr & (len - 1) ? addr | MMIO_UNALIGNED : addr;
}

uint64_t mmio_read(uint64_t addr, unsigned len)
{
	addr = way(addr, len);
	switch (len) {
	case 1:
		return mmio_read8(addr);
	case 2:
		return mmio_read16(addr);
	case 4:
		return mmio_read32(addr);
	default:
		return mmio_read64(addr);
	}
}

void mmio_write(uint64_t addr, unsigned len, uint64_t val)
{
	addr = way(addr, len);
	switch (len) {
	case 1:
		mmio_write8(addr, (uint8_t)val);
		break;
	case 2:
		mmio_write16(addr, (uint16_t)val);
		break;
	case 4:
		mmio_write32(addr, (uint32_t)val);
		break;
	default:
		mmio_write64(addr, val);
		break;
	}
}

uint64_t now_us(void)
{
	uint64_t ticks = read_sysreg("cntvct_el0"), hz = read_sysreg("cntfrq_el0");

	/* split so that the product cannot overflow */
	return ticks / hz * 1000000 + ticks % hz * 1000000 / hz;
}

void delay_us(uint64_t us)
{
	uint64_t end = now_us() + us;

	while (now_us() < end)
		;
}

int64_t psci(uint64_t fn, uint64_t a, uint64_t b, uint64_t c)
{
	register uint64_t x0 __asm__("x0") = fn;
	register uint64_t x1 __asm__("x1") = a;
	register uint64_t x2 __asm__("x2") = b;
	register uint64_t x3 __asm__("x3") = c;

	__asm__ volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "x4", "x5", "x6", "x7",
			 "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "memory");
	/* the 32-bit functions return a 32-bit value */
	return fn & 0x40000000 ? (int64_t)x0 : (int32_t)x0;
}

struct exception_frame {
	uint64_t elr, spsr;
};

void exception(struct exception_frame *frame, unsigned kind);

void exception(struct exception_frame *frame, unsigned kind)
{
	uint64_t esr = read_sysreg("esr_el1");

	if (abort_expected && (esr >> ESR_EC_SHIFT & 0x3f) == ESR_EC_DATA_EL1) {
		aborts++;
		alignment_faults += (esr & 0x3f) == ESR_DFSC_ALIGN;
		frame->elr += 4;
		return;
	}
	print("FAIL exception: vector %u esr 0x%lx elr 0x%lx far 0x%lx\n", kind, esr, frame->elr,
	      read_sysreg("far_el1"));
	psci(PSCI_SYSTEM_OFF, 0, 0, 0);
	for (;;)
		;
}

/* Top of each stack: what to run, found there by secondary_main(). */
struct secondary {
	void (*fn)(void *arg);
	void *arg;
};

static uint8_t stacks[NR_SECONDARIES][STACK_LEN] __attribute__((aligned(16)));

void secondary_entry(void);
void secondary_main(struct secondary *self);

void secondary_main(struct secondary *self)
{
	self->fn(self->arg);
	psci(PSCI_CPU_OFF, 0, 0, 0);
}

int64_t cpu_start(unsigned index, uint64_t mpidr, void (*fn)(void *arg), void *arg)
{
	struct secondary *self = (struct secondary *)(stacks[index - 1] + STACK_LEN) - 1;
	int64_t ret;

	self->fn = fn;
	self->arg = arg;
	barrier();
	ret = psci(PSCI_CPU_ON, mpidr, (uint64_t)(uintptr_t)secondary_entry, (uint64_t)(uintptr_t)self);
	return ret;
}

void bare_main(const void *dtb);

void bare_main(const void *dtb)
{
	boot_dtb = dtb;
	payload();
	claims_done();
	psci(PSCI_SYSTEM_OFF, 0, 0, 0);
}
