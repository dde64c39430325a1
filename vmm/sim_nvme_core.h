/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_nvme_core - what the parts of the simulated NVMe controller share: sim_nvme (registers,
 * queues, thread), sim_nvme_admin and sim_nvme_io (commands). Nobody else's business.
 *
 * A command is fetched by the controller's thread, only once its completion has a place in its
 * completion queue and there is a free struct nvme_request for it. Everything it does, DMA too,
 * happens on that thread, until nvme_finish() or nvme_drop().
 *
 * Locks, outermost first: control, lock. DMA is done under neither.
 */
#ifndef VMM_SIM_NVME_CORE_H
#define VMM_SIM_NVME_CORE_H

#include <pthread.h>

#include "virtio/uring.h"
#include "vmm/evloop.h"
#include "vmm/sim_nvme.h"
#include "vmm/sim_nvme_spec.h"
#include "vmm/sim_pci.h"

#define NVME_MAX_IO_QUEUES 64u
#define NVME_MAX_ENTRIES   256u /* of a queue: 16 KiB of commands, 4 KiB of completions */
#define NVME_MAX_REQUESTS  64u
#define NVME_MDTS	   7u /* log2 of pages of 4 KiB */
#define NVME_MAX_TRANSFER  (4096u << NVME_MDTS)
#define NVME_MAX_PAGES	   (NVME_MAX_TRANSFER / 4096 + 1) /* the first one may start inside */
#define NVME_MAX_MPS	   4u				  /* 64 KiB */
#define NVME_MAX_AERS	   4u
#define NVME_VENDOR	   0x1234u /* nobody's; emulators have long used it */
#define NVME_DEVICE	   0x6e76u

/* What a command returns that nvme_finish() or nvme_drop() will be called for later. */
#define NVME_PENDING (-1)

enum nvme_step { NVME_STEP_READ, NVME_STEP_WRITE, NVME_STEP_SYNC, NVME_STEP_PUNCH, NVME_STEP_ZERO };

struct nvme_sq;

struct nvme_request {
	struct uring_op op;
	struct sim_nvme *nvme;
	struct nvme_request *next; /* in nvme->free */
	struct nvme_sq *sq;
	uint32_t dw0; /* of the completion */
	uint8_t sqe[NVME_SQE_LEN];

	/* Data: nr_bytes of buf, which the PRPs scatter in memory. */
	uint8_t *buf; /* NVME_MAX_TRANSFER bytes */
	uint32_t nr_bytes;
	unsigned first_offset; /* of the first page */
	uint64_t pages[NVME_MAX_PAGES];

	/* What the file is doing for it. */
	enum nvme_step step;
	bool sync;		   /* on the medium before it completes */
	uint64_t offset, left;	   /* bytes, in the file */
	uint32_t pos;		   /* bytes, in buf */
	unsigned range, nr_ranges; /* of Dataset Management, in buf */
};

struct nvme_sq {
	bool live;
	uint16_t id, cqid;
	uint32_t size, head, tail; /* entries; tail is the guest's, < size */
	uint64_t base;
	unsigned in_flight;	       /* commands fetched and not completed */
	struct nvme_request *deleting; /* waits for them; nothing is fetched any more */
};

struct nvme_cq {
	bool live, interrupts;
	bool starved; /* somebody waits for room */
	bool phase;
	uint16_t vector;
	uint32_t size, head, tail; /* entries; head is the guest's, < size */
	uint64_t base;
	unsigned reserved; /* entries that commands under way will need */
	int nr_waiting;	   /* entries told and not taken; -1: one is taken before it was told */
	unsigned nr_sqs;
};

struct nvme_features {
	uint32_t arbitration, error_recovery, coalescing, write_atomicity, async_events;
	bool write_cache;
	uint16_t over, under;			    /* temperature thresholds, kelvin */
	bool no_coalescing[NVME_MAX_IO_QUEUES + 1]; /* by vector */
};

struct sim_nvme {
	struct sim_nvme_cfg cfg;
	char serial[20]; /* padded with spaces */
	uint64_t nr_blocks;
	struct sim_pci *pci;
	struct evloop *loop;
	int wake_fd;
	pthread_t thread;
	bool has_thread; /* control */

	pthread_mutex_t control; /* one change of state at a time: CC, bus master, reset, stop */
	pthread_mutex_t lock;
	pthread_cond_t idle; /* in_flight became 0 */

	/* Under lock. */
	uint32_t cc, csts, intm, aqa;
	uint64_t asq, acq;
	bool master, stopped;
	bool enabled; /* commands run; off from the moment on that disables it */
	bool dead;    /* no ring, no thread */
	bool woken;   /* the thread will look */
	unsigned in_flight;
	unsigned next_sq; /* whose turn it is */
	struct nvme_request *free;
	struct nvme_sq sqs[NVME_MAX_IO_QUEUES + 1];
	struct nvme_cq cqs[NVME_MAX_IO_QUEUES + 1];
	unsigned events;    /* to be told: BIT(NVME_EVENT_*) */
	bool events_masked; /* until the log page of the last one is read */

	/* The thread's, and of who changes the state while nothing is in flight. */
	unsigned page_lg2;	      /* CC.MPS */
	uint16_t aers[NVME_MAX_AERS]; /* command identifiers */
	unsigned nr_aers;
	struct nvme_features features;
	uint64_t nr_io; /* I/O commands completed */
	uint64_t nr_reads, nr_writes, blocks_read, blocks_written;

	struct uring_op shutdown_op;
	uint8_t *bufs;
	struct nvme_request requests[NVME_MAX_REQUESTS];
};

struct nvme_command {
	uint8_t opcode;
	uint32_t effects;
	/* Return: a status; NVME_PENDING. */
	int (*run)(struct nvme_request *req);
};

/* Each ends with one whose run is NULL. */
extern const struct nvme_command nvme_admin_commands[], nvme_io_commands[];

/* ---- sim_nvme.c ---- */

/* nvme_finish - complete the command: its data is in memory, or was taken from there */
void nvme_finish(struct nvme_request *req, unsigned status);
/* nvme_drop - the command is over and says nothing */
void nvme_drop(struct nvme_request *req);
/* nvme_enabled - false: what is under way should end, for nobody will hear of it */
bool nvme_enabled(struct sim_nvme *nvme);
/* nvme_serve - fetch and start what the queues hold; the last thing in a completion's handler */
void nvme_serve(struct sim_nvme *nvme);

/* ---- sim_nvme_admin.c ---- */

/* nvme_reset_features - as at power-on */
void nvme_reset_features(struct sim_nvme *nvme);

/* ---- sim_nvme_io.c ---- */

/* nvme_map - find the pages of @len bytes of data, <= NVME_MAX_TRANSFER, > 0. Return: a status. */
int nvme_map(struct nvme_request *req, uint32_t len);
/* nvme_send, nvme_receive - buf into the pages, and back. Return: a status. */
int nvme_send(struct nvme_request *req);
int nvme_receive(struct nvme_request *req);
/* nvme_io_done - uring_op.done of a request */
void nvme_io_done(struct uring_op *op, int res, unsigned flags);

static inline uint32_t nvme_dword(const struct nvme_request *req, unsigned off)
{
	return get_le32(req->sqe + off);
}

#endif
