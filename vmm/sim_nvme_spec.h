/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_nvme_spec - numbers of the NVM Express base specification 1.4 that the simulated controller
 * needs: registers (3.1), commands (5, 6), status codes (4.6.1). A register is an offset in BAR 0.
 */
#ifndef VMM_SIM_NVME_SPEC_H
#define VMM_SIM_NVME_SPEC_H

#include "iommu/base.h"

/* ---- registers: 3.1 ---- */

#define NVME_CAP   0x00u /* 64 bits */
#define NVME_VS	   0x08u
#define NVME_INTMS 0x0cu
#define NVME_INTMC 0x10u
#define NVME_CC	   0x14u
#define NVME_CSTS  0x1cu
#define NVME_AQA   0x24u
#define NVME_ASQ   0x28u   /* 64 bits */
#define NVME_ACQ   0x30u   /* 64 bits */
#define NVME_DB	   0x1000u /* doorbells: submission 0, completion 0, submission 1, ... */

#define NVME_CAP_MQES	 GENMASK(15, 0) /* less one */
#define NVME_CAP_CQR	 BIT(16)
#define NVME_CAP_TO	 GENMASK(31, 24) /* 500 ms each */
#define NVME_CAP_CSS_NVM BIT(37)
#define NVME_CAP_MPSMIN	 GENMASK(51, 48) /* log2, less 12 */
#define NVME_CAP_MPSMAX	 GENMASK(55, 52)

#define NVME_VS_1_4 0x00010400u

#define NVME_CC_EN     BIT(0)
#define NVME_CC_CSS    GENMASK(6, 4)
#define NVME_CC_MPS    GENMASK(10, 7) /* log2, less 12 */
#define NVME_CC_AMS    GENMASK(13, 11)
#define NVME_CC_SHN    GENMASK(15, 14)
#define NVME_CC_IOSQES GENMASK(19, 16) /* log2 */
#define NVME_CC_IOCQES GENMASK(23, 20) /* log2 */

#define NVME_CSTS_RDY	      BIT(0)
#define NVME_CSTS_CFS	      BIT(1)
#define NVME_CSTS_SHST	      GENMASK(3, 2)
#define NVME_CSTS_SHST_OCCURS 1u
#define NVME_CSTS_SHST_DONE   2u

#define NVME_AQA_ASQS GENMASK(11, 0) /* less one */
#define NVME_AQA_ACQS GENMASK(27, 16)

/* ---- queue entries: 4.2, 4.6 ---- */

#define NVME_SQE_LEN 64u
#define NVME_CQE_LEN 16u

#define NVME_SQE_OPCODE	      0 /* 1 byte */
#define NVME_SQE_FLAGS	      1 /* 1 byte */
#define NVME_SQE_CID	      2 /* 2 bytes */
#define NVME_SQE_NSID	      4
#define NVME_SQE_PRP1	      24 /* 8 bytes */
#define NVME_SQE_PRP2	      32 /* 8 bytes */
#define NVME_SQE_CDW10	      40
#define NVME_SQE_CDW11	      44
#define NVME_SQE_CDW12	      48
#define NVME_SQE_CDW13	      52
#define NVME_SQE_FLAGS_FUSE   0x03u
#define NVME_SQE_FLAGS_PSDT   0xc0u /* not zero: SGLs */
#define NVME_CQE_PHASE	      BIT(16)
#define NVME_CQE_STATUS_SHIFT 17

#define NVME_NSID_ALL 0xffffffffu

/* ---- opcodes: 5, 6 ---- */

#define NVME_ADMIN_DELETE_SQ	0x00u
#define NVME_ADMIN_CREATE_SQ	0x01u
#define NVME_ADMIN_GET_LOG	0x02u
#define NVME_ADMIN_DELETE_CQ	0x04u
#define NVME_ADMIN_CREATE_CQ	0x05u
#define NVME_ADMIN_IDENTIFY	0x06u
#define NVME_ADMIN_ABORT	0x08u
#define NVME_ADMIN_SET_FEATURES 0x09u
#define NVME_ADMIN_GET_FEATURES 0x0au
#define NVME_ADMIN_AER		0x0cu

#define NVME_IO_FLUSH	     0x00u
#define NVME_IO_WRITE	     0x01u
#define NVME_IO_READ	     0x02u
#define NVME_IO_WRITE_ZEROES 0x08u
#define NVME_IO_DSM	     0x09u

#define NVME_RW_NLB	  GENMASK(15, 0) /* of CDW12; less one */
#define NVME_RW_DEAC	  BIT(25)	 /* Write Zeroes only */
#define NVME_RW_FUA	  BIT(30)
#define NVME_DSM_NR	  GENMASK(7, 0) /* of CDW10; less one */
#define NVME_DSM_AD	  BIT(2)	/* of CDW11 */
#define NVME_DSM_LEN	  16u		/* bytes of a range: attributes, blocks, first block */
#define NVME_CREATE_PC	  BIT(0)	/* of CDW11 */
#define NVME_CREATE_IEN	  BIT(1)
#define NVME_LOG_RAE	  BIT(15) /* of CDW10 */
#define NVME_FEATURE_SEL  GENMASK(10, 8)
#define NVME_FEATURE_SAVE BIT(31)

/* ---- identify, log pages, features: 5.14, 5.15, 5.21 ---- */

#define NVME_CNS_NS	   0x00u
#define NVME_CNS_CTRL	   0x01u
#define NVME_CNS_ACTIVE_NS 0x02u
#define NVME_CNS_NS_DESC   0x03u
#define NVME_IDENTIFY_LEN  4096u
#define NVME_NS_DESC_UUID  3u

#define NVME_LOG_ERROR	     0x01u
#define NVME_LOG_SMART	     0x02u
#define NVME_LOG_FIRMWARE    0x03u
#define NVME_LOG_EFFECTS     0x05u
#define NVME_ERROR_ENTRY_LEN 64u
#define NVME_EFFECTS_CSUPP   BIT(0)
#define NVME_EFFECTS_LBCC    BIT(1)
#define NVME_EFFECTS_IO	     1024u /* offset of I/O commands; 4 bytes each */

#define NVME_FEATURE_ARBITRATION     0x01u
#define NVME_FEATURE_POWER	     0x02u
#define NVME_FEATURE_TEMPERATURE     0x04u
#define NVME_FEATURE_ERROR_RECOVERY  0x05u
#define NVME_FEATURE_WRITE_CACHE     0x06u
#define NVME_FEATURE_NR_QUEUES	     0x07u
#define NVME_FEATURE_COALESCING	     0x08u
#define NVME_FEATURE_VECTOR	     0x09u
#define NVME_FEATURE_WRITE_ATOMICITY 0x0au
#define NVME_FEATURE_ASYNC_EVENTS    0x0bu

/* ---- asynchronous events: 5.2 ---- */

#define NVME_EVENT_BAD_DOORBELL	      0u /* information of type 0, error status */
#define NVME_EVENT_BAD_DOORBELL_VALUE 1u

/* ---- status: 4.6.1; type << 8 | code ---- */

#define NVME_DNR (1 << 14) /* trying again will not help */

#define NVME_SC_SUCCESS		  0x000
#define NVME_SC_INVALID_OPCODE	  (0x001 | NVME_DNR)
#define NVME_SC_INVALID_FIELD	  (0x002 | NVME_DNR)
#define NVME_SC_TRANSFER	  0x004
#define NVME_SC_INVALID_NAMESPACE (0x00b | NVME_DNR)
#define NVME_SC_SEQUENCE	  (0x00c | NVME_DNR)
#define NVME_SC_PRP_OFFSET	  (0x013 | NVME_DNR)
#define NVME_SC_WRITE_PROTECTED	  (0x020 | NVME_DNR)
#define NVME_SC_LBA_RANGE	  (0x080 | NVME_DNR)
#define NVME_SC_CAPACITY	  (0x081 | NVME_DNR)
#define NVME_SC_CQ_INVALID	  (0x100 | NVME_DNR)
#define NVME_SC_QID_INVALID	  (0x101 | NVME_DNR)
#define NVME_SC_QUEUE_SIZE	  (0x102 | NVME_DNR)
#define NVME_SC_AER_LIMIT	  (0x105 | NVME_DNR)
#define NVME_SC_VECTOR		  (0x108 | NVME_DNR)
#define NVME_SC_LOG_PAGE	  (0x109 | NVME_DNR)
#define NVME_SC_QUEUE_DELETION	  (0x10c | NVME_DNR)
#define NVME_SC_NOT_SAVEABLE	  (0x10d | NVME_DNR)
#define NVME_SC_NOT_PER_NAMESPACE (0x10f | NVME_DNR)
#define NVME_SC_WRITE_FAULT	  0x280
#define NVME_SC_READ_ERROR	  0x281

#endif
