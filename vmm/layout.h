/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout - the guest physical map. Everything lies below 2^36 (Apple M1's guest-physical space) and
 * nothing is closer to its neighbour than 64 KiB, so no host page (4, 16 or 64 KiB) is shared.
 */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

#include <stdint.h>

#define LAYOUT_IPA_BITS 36

#define LAYOUT_MAX_VCPUS 8

#define LAYOUT_GICD_BASE 0x01000000ull
#define LAYOUT_GICD_LEN	 0x00010000ull
#define LAYOUT_ITS_BASE	 0x01020000ull
#define LAYOUT_ITS_LEN	 0x00020000ull
/* The ITS translater frame: where guests write MSIs. */
#define LAYOUT_DOORBELL_BASE 0x01030000ull
#define LAYOUT_DOORBELL_LEN  0x00010000ull
#define LAYOUT_GICR_BASE     0x01100000ull
#define LAYOUT_GICR_LEN	     0x00020000ull /* one vCPU's */

#define LAYOUT_UART_BASE 0x02000000ull
#define LAYOUT_UART_LEN	 0x1000ull
#define LAYOUT_RTC_BASE	 0x02010000ull
#define LAYOUT_RTC_LEN	 0x1000ull

/* virtio-mmio slot i: base + i * stride */
#define LAYOUT_VIRTIO_BASE   0x03000000ull
#define LAYOUT_VIRTIO_STRIDE 0x10000ull
#define LAYOUT_VIRTIO_SLOTS  32

/* Simulated DARTs that the guest owns: base + i * stride */
#define LAYOUT_DART_BASE   0x04000000ull
#define LAYOUT_DART_LEN	   0x4000ull
#define LAYOUT_DART_STRIDE 0x10000ull
#define LAYOUT_DARTS	   4

#define LAYOUT_PCI_MEM32_BASE 0x10000000ull
#define LAYOUT_PCI_MEM32_LEN  0x20000000ull
#define LAYOUT_PCI_ECAM_BASE  0x30000000ull
#define LAYOUT_PCI_ECAM_LEN   0x00100000ull /* bus 0 only */

/* I/O ports: port p is at base + p */
#define LAYOUT_PCI_IO_BASE 0x30200000ull
#define LAYOUT_PCI_IO_LEN  0x00010000ull

/* RAM: low part first; the hole below 4 GiB keeps a DART's MSI doorbell (0xfffff000) free. */
#define LAYOUT_RAM_LOW_BASE  0x40000000ull
#define LAYOUT_RAM_LOW_MAX   0xbc000000ull /* 3 GiB - 64 MiB */
#define LAYOUT_RAM_HIGH_BASE 0x100000000ull
#define LAYOUT_RAM_HIGH_MAX  0xa00000000ull /* 40 GiB */

#define LAYOUT_PCI_MEM64_BASE 0xc00000000ull
#define LAYOUT_PCI_MEM64_LEN  0x400000000ull /* up to 2^36 */

/* Shared peripheral interrupts, counted from 0 as in the FDT. */
#define LAYOUT_SPI_UART	  0
#define LAYOUT_SPI_RTC	  1
#define LAYOUT_SPI_INTX	  4  /* 4 lines: INTA..INTD after the swizzle */
#define LAYOUT_SPI_VIRTIO 16 /* + slot */
#define LAYOUT_SPI_DART	  48 /* + number */
#define LAYOUT_NR_SPIS	  64

#endif
