/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dart_regs - the registers of Apple DARTs: offsets, and the fields in them.
 *
 * The only thing the driver (dart.c) and the simulated hardware (dart_model.c) share: names, no
 * code. Registers are 32 bits wide, little-endian. NAME is an offset from the DART's base;
 * NAME_xxx_MASK is a field of it, NAME_xxx a single bit or a value. Three layouts: v1 (t8020,
 * t8103, t6000), the same with 64 streams (t8103-usb4), and t8110.
 *
 * No public document exists. Each source is an open driver, of which the facts are restated:
 * [L] Linux drivers/iommu/apple-dart.c, [M] m1n1 src/dart.c and proxyclient/m1n1/hw/dart8020.py,
 * dart8110.py, [B] OpenBSD sys/arch/arm64/dev/apldart.c, [C] Corellium's 2021 Linux driver,
 * [D] derived from these. A [?] stands where the sources do not agree, or only guess.
 */
#ifndef IOMMU_DART_REGS_H
#define IOMMU_DART_REGS_H

#include "iommu/base.h"

/* Bytes of the register window: Linux refuses less. [L] */
#define DART_REGS_SIZE 0x4000

/* ---- both layouts ---- */

#define DART_PARAMS1 0x00 /* [L M B] */
#define DART_PARAMS1_PAGE_SHIFT_MASK                                                               \
	GENMASK(27, 24) /* 14: 16 KiB, 12: 4 KiB; nothing else says it */

#define DART_PARAMS2	    0x04   /* [L M B] */
#define DART_PARAMS2_BYPASS BIT(0) /* a stream can be let through untranslated */

/* ---- layout v1: t8020, t8103, t6000; and t8103-usb4 where not said otherwise ---- */

#define DART_V1_NR_STREAMS 16 /* [L B]; m1n1's limit of 32 only fits the gaps */
#define DART_V1_NR_TTBRS   4  /* [L M B] */

#define DART_V1_STREAM_COMMAND		  0x20	  /* [L M B C] */
#define DART_V1_STREAM_COMMAND_INVALIDATE BIT(20) /* the TLB of the selected streams */
#define DART_V1_STREAM_COMMAND_BUSY	  BIT(2)  /* reads 1 until it is done */

/* Streams the next command is for: bit n of word w is SID 32 * w + n. Word 1 only with 64 streams.
 */
#define DART_V1_STREAM_SELECT(word) (0x34 + 4 * (word)) /* [L M B C]; word 1 as [C] writes it */

#define DART_V1_ERROR		      0x40 /* latched fault; written back to clear it [L M B C] */
#define DART_V1_ERROR_FLAG	      BIT(31)	      /* something is latched [L M C] */
#define DART_V1_ERROR_STREAM_MASK     GENMASK(27, 24) /* 4 bits also with 64 streams [L M C] */
#define DART_V1_ERROR_NO_DAPF_MATCH   BIT(11)	      /* refused by the address filter [M C] */
#define DART_V1_ERROR_WRITE	      BIT(10) /* the access was a write, by its name in [M] [?] */
#define DART_V1_ERROR_CTRR_WRITE_PROT BIT(8)  /* write to kernel text [C] */
#define DART_V1_ERROR_SUBPAGE_PROT    BIT(7)  /* outside the sub-page window [M C] */
#define DART_V1_ERROR_PTE_READ_FAULT  BIT(6)  /* bus error while walking [M]; AXI slave error [C] */
#define DART_V1_ERROR_AXI_DECODE      BIT(5)  /* nothing at that physical address [C] */
#define DART_V1_ERROR_READ_FAULT      BIT(4)  /* not readable [L M C] */
#define DART_V1_ERROR_WRITE_FAULT     BIT(3)  /* not writable [L M C] */
#define DART_V1_ERROR_NO_PTE	      BIT(2)  /* leaf invalid [L M C] */
#define DART_V1_ERROR_NO_PMD	      BIT(1)  /* L1 entry invalid [L M C] */
#define DART_V1_ERROR_NO_TTBR	      BIT(0)  /* TTBR invalid [L M C] */

#define DART_V1_ERROR_ADDR_LO 0x50 /* IOVA of the latched fault [L M B C] */
#define DART_V1_ERROR_ADDR_HI 0x54

#define DART_V1_CONFIG	    0x60    /* [L M B] */
#define DART_V1_CONFIG_LOCK BIT(15) /* TCRs and TTBRs take no writes until reset */

/* The stream whose context (TCR, TTBRs) SID n uses: byte n % 4 of word n / 4. [C]; [M] the layout
 */
#define DART_V1_STREAM_REMAP(word)	    (0x80 + 4 * (word))
#define DART_V1_STREAM_REMAP_WORDS	    4 /* 16 SIDs; where the rest of 64 would be is not known */
#define DART_V1_STREAM_REMAP_BYTE_MASK(sid) GENMASK((sid) % 4 * 8 + 7, (sid) % 4 * 8)

/*
 * Streams let in at all, bit n is SID n. Drivers set all of it and isolate with TCR. [L M B C]
 * With 64 streams Linux writes 0xfc and 0x100, but 0x100 is the TCR of SID 0; another source places
 * the two words at 0xf8 and 0xfc. Ones in both are right by either. [?]
 */
#define DART_V1_STREAMS_ENABLE	       0xfc
#define DART_USB4_STREAMS_ENABLE(word) (0xf8 + 4 * (word))

#define DART_V1_TCR(sid)	(0x100 + 4 * (sid)) /* [L M B C] */
#define DART_V1_TCR_TRANSLATE	BIT(7)
#define DART_V1_TCR_BYPASS_DART BIT(8)
#define DART_V1_TCR_BYPASS_DAPF BIT(12)

/* PA >> 12 of the table of the ith quarter of IOVA space. [L M B C] */
#define DART_V1_TTBR(sid, i)   (0x200 + 16 * (sid) + 4 * (i))
#define DART_V1_TTBR_VALID     BIT(31)
#define DART_V1_TTBR_ADDR_MASK GENMASK(30, 0)
#define DART_V1_TTBR_ADDR_LG2  12

/* t8103-usb4: TTBRs moved up to make room for 64 TCRs. [L C] */
#define DART_USB4_NR_STREAMS   64
#define DART_USB4_TTBR(sid, i) (0x400 + 16 * (sid) + 4 * (i))

/* ---- layout t8110 ---- */

#define DART_T8110_NR_TTBRS 1 /* [L M B] */

#define DART_T8110_PARAMS3		 0x08 /* [L M] */
#define DART_T8110_PARAMS3_PA_WIDTH_MASK GENMASK(29, 24)
#define DART_T8110_PARAMS3_VA_WIDTH_MASK GENMASK(21, 16)
#define DART_T8110_PARAMS3_REV_MAJ_MASK	 GENMASK(15, 8)
#define DART_T8110_PARAMS3_REV_MIN_MASK	 GENMASK(7, 0)

#define DART_T8110_PARAMS4		   0x0c /* [L M B] */
#define DART_T8110_PARAMS4_NR_CLIENTS_MASK GENMASK(24, 16)
#define DART_T8110_PARAMS4_NR_SIDS_MASK	   GENMASK(8, 0)

#define DART_T8110_TLB_CMD		0x80 /* writing starts it [L M B] */
#define DART_T8110_TLB_CMD_BUSY		BIT(31)
#define DART_T8110_TLB_CMD_OP_MASK	GENMASK(10, 8)
#define DART_T8110_TLB_CMD_OP_FLUSH_ALL 0
#define DART_T8110_TLB_CMD_OP_FLUSH_SID 1
#define DART_T8110_TLB_CMD_STREAM_MASK	GENMASK(7, 0)

#define DART_T8110_ERROR		 0x100 /* latched fault; written back to clear it [L M B] */
#define DART_T8110_ERROR_FLAG		 BIT(31) /* [L M] */
#define DART_T8110_ERROR_SMMU		 BIT(30) /* names without a tag: [M], from symbols */
#define DART_T8110_ERROR_REGION_PROTECT	 BIT(29) /* probably: outside the sub-page window [D ?] */
#define DART_T8110_ERROR_WRITE_NREAD	 BIT(28) /* 1: write, 0: read */
#define DART_T8110_ERROR_STREAM_MASK	 GENMASK(27, 20) /* [L M] */
#define DART_T8110_ERROR_SECONDARY	 BIT(19)	 /* further faults were not latched */
#define DART_T8110_ERROR_FILL_REGION	 BIT(18)
#define DART_T8110_ERROR_BPF_REJECT	 BIT(14)
#define DART_T8110_ERROR_EXTERNAL	 BIT(13)
#define DART_T8110_ERROR_STT_FLUSH	 BIT(12)
#define DART_T8110_ERROR_STT_MISMATCH	 BIT(11)
#define DART_T8110_ERROR_APF_REJECT	 BIT(10) /* refused by the address filter */
#define DART_T8110_ERROR_DROP_PROTECT	 BIT(9)
#define DART_T8110_ERROR_CTRR_WRITE_PROT BIT(8)
#define DART_T8110_ERROR_AXI_ERROR	 BIT(7)
#define DART_T8110_ERROR_AXI_DECODE	 BIT(6)
#define DART_T8110_ERROR_READ_FAULT	 BIT(5) /* not readable [L M] */
#define DART_T8110_ERROR_WRITE_FAULT	 BIT(4) /* not writable [L M] */
#define DART_T8110_ERROR_NO_PTE		 BIT(3) /* leaf invalid [L M] */
#define DART_T8110_ERROR_NO_PMD		 BIT(2) /* L1 entry invalid [L M] */
#define DART_T8110_ERROR_NO_PGD		 BIT(1) /* L0 entry invalid, four levels only [L M] */
#define DART_T8110_ERROR_NO_TTBR	 BIT(0) /* TTBR invalid [L M] */

#define DART_T8110_ERROR_MASK 0x104 /* bits as ERROR; 1: that cause is not reported [L M] */

#define DART_T8110_ERROR_ADDR_LO 0x170 /* IOVA of the latched fault [L M B] */
#define DART_T8110_ERROR_ADDR_HI 0x174

/* Which streams faulted, bit n of word w is SID 32 * w + n; ones clear. [L M] */
#define DART_T8110_ERROR_STREAMS(word) (0x1c0 + 4 * (word))
#define DART_T8110_STREAM_WORDS	       8 /* also of ENABLE_ and DISABLE_STREAMS */

/* What takes no writes; ones protect, ones in UNPROTECT undo it unless locked. [L M]; use [M] */
#define DART_T8110_PROTECT	    0x200
#define DART_T8110_UNPROTECT	    0x204
#define DART_T8110_PROTECT_LOCK	    0x208 /* protection of these can be added, not removed */
#define DART_T8110_PROTECT_TTBR_TCR BIT(0)

/* Streams let in at all, bit n of word w is SID 32 * w + n: ones set, ones clear. [L M B] */
#define DART_T8110_ENABLE_STREAMS(word)	 (0xc00 + 4 * (word))
#define DART_T8110_DISABLE_STREAMS(word) (0xc20 + 4 * (word))

#define DART_T8110_TCR(sid)	   (0x1000 + 4 * (sid)) /* [L M B] */
#define DART_T8110_TCR_TRANSLATE   BIT(0)
#define DART_T8110_TCR_BYPASS_DART BIT(1)
#define DART_T8110_TCR_BYPASS_DAPF BIT(2)
#define DART_T8110_TCR_FOUR_LEVEL  BIT(3) /* three tables below the TTBR; not in revision 1 [M] */
#define DART_T8110_TCR_REMAP_EN	   BIT(7) /* probably: use the tables of stream REMAP [M ?] */
#define DART_T8110_TCR_REMAP_MASK  GENMASK(11, 8)

#define DART_T8110_TTBR(sid)	  (0x1400 + 4 * (sid)) /* [L M B] */
#define DART_T8110_TTBR_VALID	  BIT(0)
#define DART_T8110_TTBR_ADDR_MASK GENMASK(29, 2)
#define DART_T8110_TTBR_ADDR_LG2  14

#endif
