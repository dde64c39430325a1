/* SPDX-License-Identifier: Apache-2.0 */
/* cpu - MMIO accesses, time, exceptions, PSCI and the other vCPUs. */
#ifndef BARE_CPU_H
#define BARE_CPU_H

#include <stdbool.h>
#include <stdint.h>

/*
 * One plain load or store each: KVM gets a syndrome only for these (no pairs, no writeback), so the
 * compiler must not choose the instruction.
 */
#define MMIO_ACCESSORS(bits, type, insn, reg)                                                      \
	static inline type mmio_read##bits(uint64_t addr)                                          \
	{                                                                                          \
		type val;                                                                          \
		__asm__ volatile("ldr" insn " %" reg "0, [%1]" : "=r"(val) : "r"(addr) : "memory"); \
		return val;                                                                        \
	}                                                                                          \
	static inline void mmio_write##bits(uint64_t addr, type val)                               \
	{                                                                                          \
		__asm__ volatile("str" insn " %" reg "0, [%1]" : : "r"(val), "r"(addr) : "memory"); \
	}

MMIO_ACCESSORS(8, uint8_t, "b", "w")
MMIO_ACCESSORS(16, uint16_t, "h", "w")
MMIO_ACCESSORS(32, uint32_t, "", "w")
MMIO_ACCESSORS(64, uint64_t, "", "x")

/*
 * All devices a second time, from here on, as Normal memory. An unaligned access to Device memory is
 * an alignment fault of the guest's own, which comes before any fault of the host's tables, so the
 * VMM would never see it (Arm ARM, D8, "Alignment fault caused by the memory type"). Hardware does
 * so; QEMU 7.2 and 10.0 let such accesses through either way. start.S has the table.
 */
#define MMIO_UNALIGNED (1ull << 37)

/* mmio_read, mmio_write - an access of @len 1, 2, 4 or 8 bytes; unaligned ones reach the VMM too */
uint64_t mmio_read(uint64_t addr, unsigned len);
void mmio_write(uint64_t addr, unsigned len, uint64_t val);

/* barrier - everything before is seen by the other vCPUs, the VMM and devices before what follows */
static inline void barrier(void)
{
	__asm__ volatile("dsb sy" : : : "memory");
}

#define read_sysreg(name)                                                                          \
	({                                                                                         \
		uint64_t sysreg_val;                                                               \
		__asm__ volatile("isb\n\tmrs %0, " name : "=r"(sysreg_val) : : "memory");          \
		sysreg_val;                                                                        \
	})
#define write_sysreg(name, val) \
	__asm__ volatile("msr " name ", %0\n\tisb" : : "r"((uint64_t)(val)) : "memory")

uint64_t now_us(void); /* since some moment before boot */
void delay_us(uint64_t us);

/* While set, a data abort skips the instruction and is counted; else it ends the payload. */
extern volatile bool abort_expected;
extern volatile unsigned aborts;
extern volatile unsigned alignment_faults; /* of these: accesses that never left the CPU */

#define PSCI_SUCCESS	0
#define PSCI_INVALID	(-2)
#define PSCI_ALREADY_ON (-4)

#define PSCI_VERSION	   0x84000000u
#define PSCI_CPU_OFF	   0x84000002u
#define PSCI_CPU_ON	   0xc4000003u
#define PSCI_AFFINITY_INFO 0xc4000004u
#define PSCI_SYSTEM_OFF	   0x84000008u
#define PSCI_SYSTEM_RESET  0x84000009u
#define PSCI_FEATURES	   0x8400000au

int64_t psci(uint64_t fn, uint64_t a, uint64_t b, uint64_t c);

/**
 * cpu_start - run @fn(@arg) on the vCPU with affinity @mpidr; it turns itself off when @fn returns
 * @index: 1 .. 7, which of the stacks it gets
 * Return: a PSCI_ code.
 */
int64_t cpu_start(unsigned index, uint64_t mpidr, void (*fn)(void *arg), void *arg);

/* The device tree the VMM passed. */
extern const void *boot_dtb;

/* What a payload defines. */
void payload(void);

#endif
