/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board - where things are: granule's guest physical map, or (BOARD_QEMU) that of QEMU's virt board
 * with highmem off, on which a payload and its drivers can be tried without granule.
 */
#ifndef BARE_BOARD_H
#define BARE_BOARD_H

#ifdef BOARD_QEMU

#define BOARD_UART	    0x09000000ull
#define BOARD_RTC	    0x09010000ull
#define BOARD_VIRTIO	    0x0a000000ull
#define BOARD_VIRTIO_STRIDE 0x200ull
#define BOARD_VIRTIO_SLOTS  32
#define BOARD_GICD	    0x08000000ull
#define BOARD_GICR	    0x080a0000ull
#define BOARD_ITS	    0x08080000ull
#define BOARD_ECAM	    0x3f000000ull
#define BOARD_PCI_MEM	    0x10000000ull
#define BOARD_SPI_INTX	    3
#define BOARD_SPI_VIRTIO    16
/* Nothing answers here: all-ones in granule, an abort on QEMU's board. */
#define BOARD_NOWHERE 0x0c100000ull

#else

#include "vmm/layout.h"

#define BOARD_UART	    LAYOUT_UART_BASE
#define BOARD_RTC	    LAYOUT_RTC_BASE
#define BOARD_VIRTIO	    LAYOUT_VIRTIO_BASE
#define BOARD_VIRTIO_STRIDE LAYOUT_VIRTIO_STRIDE
#define BOARD_VIRTIO_SLOTS  LAYOUT_VIRTIO_SLOTS
#define BOARD_GICD	    LAYOUT_GICD_BASE
#define BOARD_GICR	    LAYOUT_GICR_BASE
#define BOARD_ITS	    LAYOUT_ITS_BASE
#define BOARD_ECAM	    LAYOUT_PCI_ECAM_BASE
#define BOARD_PCI_MEM	    LAYOUT_PCI_MEM32_BASE
#define BOARD_SPI_INTX	    LAYOUT_SPI_INTX
#define BOARD_SPI_VIRTIO    LAYOUT_SPI_VIRTIO
#define BOARD_NOWHERE	    0x08000000ull

#endif

/* The ITS translater register, where MSIs are written: in its second 64 KiB frame. */
#define BOARD_DOORBELL (BOARD_ITS + 0x10040)

#endif
