/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start - the arm64 Image header, and the way from it to main(): MMU on, relocate, zero, call.
 *
 * The MMU comes first: with it off a guest's accesses bypass the caches that the host writes through,
 * so the two would not see each other's rings. The table is built by the assembler, nothing has to
 * be written before it is used.
 * Source: Linux Documentation/arch/arm64/booting.rst; Arm ARM D8 (VMSAv8-64).
 */
#define SCTLR_MMU_CACHES ((1 << 0) | (1 << 2) | (1 << 12)) /* M, C, I */
#define SCTLR_RES1	 0x30d00800

/* MAIR: attribute 0 normal write-back, 1 device nGnRE, 2 normal non-cacheable */
#define MAIR 0x4404ff
/* 38-bit addresses, 4 KiB granule, inner shareable write-back walks, no TTBR1, 36-bit physical */
#define TCR ((1 << 32) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 26)
#define BLOCK	 0x701		     /* valid block, AF, inner shareable, attribute 0 */
#define DEVICE	 (0x405 | (3 << 53)) /* valid block, AF, attribute 1, never executed */
#define UNCACHED (0x409 | (3 << 53)) /* the same, attribute 2 */

#define R_AARCH64_RELATIVE 1027

	.section .head, "ax"
	.globl	_start
_start:
	b	boot
	.long	0
	.quad	0			/* text offset */
	/* bare.lds puts the image size here */
	.section .head_rest, "ax"
	.quad	0xa			/* little-endian, 4 KiB pages, anywhere */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

boot:
	mov	x19, x0			/* the device tree */
	bl	mmu_on
	adrp	x0, _rela_start
	add	x0, x0, :lo12:_rela_start
	adrp	x1, _rela_end
	add	x1, x1, :lo12:_rela_end
	adr	x2, _start		/* linked at 0: where it runs is what to add */
1:	cmp	x0, x1
	b.hs	2f
	ldp	x3, x4, [x0], #16
	ldr	x5, [x0], #8
	cmp	x4, #R_AARCH64_RELATIVE
	b.ne	park			/* the linker made something this loop does not know */
	add	x5, x5, x2
	str	x5, [x2, x3]
	b	1b
2:	adrp	x0, _bss_start
	add	x0, x0, :lo12:_bss_start
	adrp	x1, _bss_end
	add	x1, x1, :lo12:_bss_end
3:	cmp	x0, x1
	b.hs	4f
	stp	xzr, xzr, [x0], #16
	b	3b
4:	adrp	x0, boot_stack_top
	add	x0, x0, :lo12:boot_stack_top
	mov	sp, x0
	mov	x0, x19
	bl	bare_main
park:
	wfi
	b	park

/* Where PSCI CPU_ON starts a secondary: x0 is the top of its stack. */
	.globl	secondary_entry
secondary_entry:
	mov	x19, x0
	bl	mmu_on
	mov	sp, x19
	mov	x0, x19
	bl	secondary_main
	b	park

mmu_on:
	msr	daifset, #0xf
	ldr	x0, =MAIR
	msr	mair_el1, x0
	ldr	x0, =TCR
	msr	tcr_el1, x0
	adrp	x0, page_table
	msr	ttbr0_el1, x0
	adrp	x0, vectors
	add	x0, x0, :lo12:vectors
	msr	vbar_el1, x0
	tlbi	vmalle1
	dsb	sy
	isb
	ldr	x0, =(SCTLR_RES1 | SCTLR_MMU_CACHES)
	msr	sctlr_el1, x0
	isb
	ret

/* Every exception saves what C may clobber and calls exception(frame, kind). */
	.macro	vector kind
	.balign	0x80
	sub	sp, sp, #192
	stp	x0, x1, [sp, #0]
	stp	x2, x3, [sp, #16]
	mov	x1, #\kind
	b	exception_entry
	.endm

	.text
	.balign	0x800
vectors:
	.irp	kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vector	\kind
	.endr

exception_entry:
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x30, [sp, #144]
	mrs	x2, elr_el1
	mrs	x3, spsr_el1
	stp	x2, x3, [sp, #160]
	add	x0, sp, #160		/* so that C can move the return address */
	bl	exception
	ldp	x2, x3, [sp, #160]
	msr	elr_el1, x2
	msr	spsr_el1, x3
	ldp	x0, x1, [sp, #0]
	ldp	x2, x3, [sp, #16]
	ldp	x4, x5, [sp, #32]
	ldp	x6, x7, [sp, #48]
	ldp	x8, x9, [sp, #64]
	ldp	x10, x11, [sp, #80]
	ldp	x12, x13, [sp, #96]
	ldp	x14, x15, [sp, #112]
	ldp	x16, x17, [sp, #128]
	ldp	x18, x30, [sp, #144]
	add	sp, sp, #192
	eret

/*
 * 1 GiB a line: devices, 47 GiB that may be RAM, the high PCI window (vmm/layout.h), each at its
 * own address. From MMIO_UNALIGNED (cpu.h) on devices and window again, for accesses that no CPU
 * makes to Device memory.
 */
	.data
	.balign	4096
page_table:
	.quad	DEVICE
	.set	gib, 1
	.rept	47
	.quad	(gib << 30) + BLOCK
	.set	gib, gib + 1
	.endr
	.rept	16
	.quad	(gib << 30) + DEVICE
	.set	gib, gib + 1
	.endr
	.fill	64, 8, 0
	.quad	UNCACHED
	.fill	47, 8, 0
	.set	gib, 48
	.rept	16
	.quad	(gib << 30) + UNCACHED
	.set	gib, gib + 1
	.endr
	.fill	64, 8, 0

	.bss
	.balign	16
	.skip	0x8000
boot_stack_top:
