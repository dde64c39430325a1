/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim_nvme.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/msg.h"
#include "vmm/sandbox.h"
#include "vmm/sim_nvme_core.h"
#include "vmm/trace.h"

#define BAR_LEN	   0x4000u
#define CLASS_NVME 0x010802u

/* Commands started in a row before completions, and whoever wants it to stop, have their turn. */
#define BURST 64u

/* Disabling waits for what the file is doing: half seconds. */
#define READY_TIMEOUT 60u

#define BUFS_LEN ((size_t)NVME_MAX_REQUESTS * NVME_MAX_TRANSFER)

static unsigned nr_queues(const struct sim_nvme *nvme)
{
	return nvme->cfg.nr_io_queues + 1;
}

/* ---- under lock ----------------------------------------------------------------------------- */

/* wake - have the thread look at the queues */
static void wake(struct sim_nvme *nvme)
{
	static const uint64_t one = 1;
	ssize_t ret;

	if (nvme->woken)
		return;
	nvme->woken = true;
	do
		ret = write(nvme->wake_fd, &one, sizeof(one));
	while (ret < 0 && errno == EINTR);
}

static unsigned shutdown_status(const struct sim_nvme *nvme)
{
	return (unsigned)FIELD_GET(NVME_CSTS_SHST, nvme->csts);
}

static void set_shutdown_status(struct sim_nvme *nvme, unsigned status)
{
	nvme->csts &= (uint32_t)~NVME_CSTS_SHST;
	nvme->csts |= (uint32_t)FIELD_PREP(NVME_CSTS_SHST, status);
}

static bool may_run(const struct sim_nvme *nvme)
{
	return nvme->enabled && nvme->master && !nvme->stopped && !shutdown_status(nvme);
}

static void update_intx(struct sim_nvme *nvme)
{
	bool level = false;

	for (unsigned i = 0; i < nr_queues(nvme); i++) {
		const struct nvme_cq *cq = &nvme->cqs[i];

		level |= cq->live && cq->interrupts && cq->nr_waiting > 0 &&
			 (cq->vector >= 32 || !(nvme->intm & BIT(cq->vector)));
	}
	sim_pci_set_intx(nvme->pci, level);
}

static bool has_room(const struct nvme_cq *cq)
{
	uint32_t used = (cq->tail + cq->size - cq->head) % cq->size;

	/* One entry stays empty: a full queue would look like an empty one. */
	return used + cq->reserved < cq->size - 1;
}

/* wants_room - as has_room(); if there is none, the thread is woken when there is */
static bool wants_room(struct nvme_cq *cq)
{
	cq->starved = !has_room(cq);
	return !cq->starved;
}

static void tell_event(struct sim_nvme *nvme, unsigned event)
{
	if (nvme->events & BIT(event))
		return;
	nvme->events |= (unsigned)BIT(event);
	wake(nvme);
}

/* wait_idle - until no command is under way. The caller has seen to it that none starts. */
static void wait_idle(struct sim_nvme *nvme)
{
	while (nvme->in_flight && !nvme->dead)
		pthread_cond_wait(&nvme->idle, &nvme->lock);
}

static void fail(struct sim_nvme *nvme)
{
	nvme->csts |= (uint32_t)NVME_CSTS_CFS;
	nvme->enabled = false;
}

/* forget - all that a controller reset takes away; nothing is in flight */
static void forget(struct sim_nvme *nvme)
{
	nvme->csts = 0;
	nvme->intm = 0;
	nvme->events = 0;
	nvme->events_masked = false;
	nvme->nr_aers = 0;
	memset(nvme->sqs, 0, sizeof(nvme->sqs));
	memset(nvme->cqs, 0, sizeof(nvme->cqs));
	nvme_reset_features(nvme);
	update_intx(nvme);
}

static void disable(struct sim_nvme *nvme)
{
	nvme->enabled = false;
	wait_idle(nvme);
	forget(nvme);
}

static void enable(struct sim_nvme *nvme)
{
	uint32_t sq_size = (uint32_t)FIELD_GET(NVME_AQA_ASQS, nvme->aqa) + 1;
	uint32_t cq_size = (uint32_t)FIELD_GET(NVME_AQA_ACQS, nvme->aqa) + 1;
	unsigned mps = (unsigned)FIELD_GET(NVME_CC_MPS, nvme->cc);

	/* A flush from a shutdown before. */
	set_shutdown_status(nvme, 0);
	wait_idle(nvme);
	nvme->csts = 0;
	if (mps > NVME_MAX_MPS || nvme->cc & (NVME_CC_CSS | NVME_CC_AMS) || sq_size < 2 ||
	    cq_size < 2 || !IS_ALIGNED(nvme->asq | nvme->acq, BIT(12 + mps)) || nvme->dead) {
		fail(nvme);
		return;
	}
	nvme->page_lg2 = 12 + mps;
	nvme->sqs[0] = (struct nvme_sq){.live = true, .size = sq_size, .base = nvme->asq};
	nvme->cqs[0] = (struct nvme_cq){
		.live = true,
		.interrupts = true,
		.phase = true,
		.size = cq_size,
		.base = nvme->acq,
		.nr_sqs = 1,
	};
	nvme->csts = NVME_CSTS_RDY;
	nvme->enabled = true;
}

/* ---- the thread: commands ------------------------------------------------------------------- */

static void publish(void)
{
	/* What was written to memory before is there before what is written from here on. */
	atomic_thread_fence(memory_order_release);
}

/* take_request - begin a command of @sq; with the lock held */
static struct nvme_request *take_request(struct sim_nvme *nvme, struct nvme_sq *sq)
{
	struct nvme_request *req = nvme->free;

	nvme->free = req->next;
	nvme->in_flight++;
	sq->in_flight++;
	nvme->cqs[sq->cqid].reserved++;
	req->sq = sq;
	req->dw0 = 0;
	return req;
}

/* release - the command is over; with the lock held. Return: one that waited for it, to be
 * finished; NULL. */
static struct nvme_request *release(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	struct nvme_sq *sq = req->sq;
	struct nvme_request *deleting = NULL;

	nvme->cqs[sq->cqid].reserved--;
	if (!--sq->in_flight && sq->deleting) {
		deleting = sq->deleting;
		nvme->cqs[sq->cqid].nr_sqs--;
		*sq = (struct nvme_sq){0};
	}
	req->next = nvme->free;
	nvme->free = req;
	if (!--nvme->in_flight)
		pthread_cond_broadcast(&nvme->idle);
	return deleting;
}

void nvme_drop(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	struct nvme_request *deleting;

	pthread_mutex_lock(&nvme->lock);
	deleting = release(req);
	pthread_mutex_unlock(&nvme->lock);
	if (deleting)
		nvme_finish(deleting, NVME_SC_SUCCESS);
}

/* post - the completion entry into memory. Return: 0; -errno. */
static int post(struct sim_nvme *nvme, uint64_t addr, const uint8_t *cqe)
{
	const struct sim_port *port = &nvme->cfg.queues;
	int ret;

	publish();
	ret = port->write(port->ctx, addr, cqe, NVME_CQE_LEN / 2);
	/* The phase bit tells the driver that all of it is there. */
	publish();
	return ret ? ret
		   : port->write(port->ctx, addr + NVME_CQE_LEN / 2, cqe + NVME_CQE_LEN / 2,
				 NVME_CQE_LEN / 2);
}

void nvme_finish(struct nvme_request *req, unsigned status)
{
	struct sim_nvme *nvme = req->nvme;
	struct nvme_cq *cq = &nvme->cqs[req->sq->cqid];
	bool io = req->sq->id;
	struct nvme_request *deleting;
	uint8_t cqe[NVME_CQE_LEN] = {0};
	uint64_t addr;

	pthread_mutex_lock(&nvme->lock);
	if (!nvme->enabled) {
		pthread_mutex_unlock(&nvme->lock);
		nvme_drop(req);
		return;
	}
	put_le32(cqe, req->dw0);
	put_le16(cqe + 8, (uint16_t)req->sq->head);
	put_le16(cqe + 10, req->sq->id);
	put_le32(cqe + 12, (uint32_t)get_le16(req->sqe + NVME_SQE_CID) |
				   (cq->phase ? (uint32_t)NVME_CQE_PHASE : 0) |
				   status << NVME_CQE_STATUS_SHIFT);
	addr = cq->base + cq->tail * NVME_CQE_LEN;
	/* Before it is written: a driver that polls may take it, and say so, at once. */
	if (++cq->tail == cq->size) {
		cq->tail = 0;
		cq->phase = !cq->phase;
	}
	pthread_mutex_unlock(&nvme->lock);

	if (post(nvme, addr, cqe)) {
		pthread_mutex_lock(&nvme->lock);
		fail(nvme);
		pthread_mutex_unlock(&nvme->lock);
		nvme_drop(req);
		return;
	}

	pthread_mutex_lock(&nvme->lock);
	cq->nr_waiting++;
	update_intx(nvme);
	if (cq->interrupts)
		sim_pci_fire(nvme->pci, cq->vector);
	deleting = release(req);
	pthread_mutex_unlock(&nvme->lock);
	if (io) {
		nvme->nr_io++;
		if (nvme->cfg.progress)
			nvme->cfg.progress(nvme->cfg.ctx, nvme->nr_io);
	}
	if (deleting)
		nvme_finish(deleting, NVME_SC_SUCCESS);
}

bool nvme_enabled(struct sim_nvme *nvme)
{
	bool enabled;

	pthread_mutex_lock(&nvme->lock);
	enabled = nvme->enabled;
	pthread_mutex_unlock(&nvme->lock);
	return enabled;
}

static const struct nvme_command *find_command(const struct nvme_request *req)
{
	const struct nvme_command *c = req->sq->id ? nvme_io_commands : nvme_admin_commands;

	while (c->run && c->opcode != req->sqe[NVME_SQE_OPCODE])
		c++;
	return c;
}

static void execute(struct nvme_request *req)
{
	const struct nvme_command *command = find_command(req);
	int status;

	if (!command->run)
		status = NVME_SC_INVALID_OPCODE;
	else if (req->sqe[NVME_SQE_FLAGS] & (NVME_SQE_FLAGS_FUSE | NVME_SQE_FLAGS_PSDT))
		status = NVME_SC_INVALID_FIELD;
	else
		status = command->run(req);
	if (status != NVME_PENDING)
		nvme_finish(req, (unsigned)status);
}

/* next_queue - round robin over those that have a command; with the lock held */
static struct nvme_sq *next_queue(struct sim_nvme *nvme)
{
	for (unsigned i = 0; i < nr_queues(nvme); i++) {
		unsigned id = (nvme->next_sq + i) % nr_queues(nvme);
		struct nvme_sq *sq = &nvme->sqs[id];

		if (!sq->live || sq->deleting || sq->head == sq->tail ||
		    !wants_room(&nvme->cqs[sq->cqid]))
			continue;
		nvme->next_sq = id + 1;
		return sq;
	}
	return NULL;
}

/* next_event - answer an Asynchronous Event Request if there is something to tell; with the lock
 * held. Return: the request to be finished; NULL. */
static struct nvme_request *next_event(struct sim_nvme *nvme)
{
	struct nvme_request *req;
	unsigned event;

	if (!nvme->events || nvme->events_masked || !nvme->nr_aers || !wants_room(&nvme->cqs[0]))
		return NULL;
	event = (unsigned)__builtin_ctz(nvme->events);
	nvme->events &= (unsigned)~BIT(event);
	nvme->events_masked = true;
	req = take_request(nvme, &nvme->sqs[0]);
	put_le16(req->sqe + NVME_SQE_CID, nvme->aers[--nvme->nr_aers]);
	req->dw0 = event << 8 | NVME_LOG_ERROR << 16;
	return req;
}

/* next_command - Return: one whose entry is to be fetched from @addr; NULL. With the lock held. */
static struct nvme_request *next_command(struct sim_nvme *nvme, uint64_t *addr)
{
	struct nvme_sq *sq = next_queue(nvme);

	if (!sq)
		return NULL;
	*addr = sq->base + sq->head * NVME_SQE_LEN;
	sq->head = (sq->head + 1) % sq->size;
	return take_request(nvme, sq);
}

/* begin_shutdown - once all is quiet; with the lock held. Return: the file is to be flushed. */
static bool begin_shutdown(struct sim_nvme *nvme)
{
	if (shutdown_status(nvme) != NVME_CSTS_SHST_OCCURS || nvme->in_flight || nvme->stopped)
		return false;
	nvme->in_flight++;
	return true;
}

static void flush_for_shutdown(struct sim_nvme *nvme)
{
	struct io_uring_sqe *sqe = uring_get_sqe(evloop_ring(nvme->loop));

	io_uring_prep_fsync(sqe, nvme->cfg.fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, &nvme->shutdown_op);
}

static void shutdown_done(struct uring_op *op, int res, unsigned flags)
{
	struct sim_nvme *nvme = container_of(op, struct sim_nvme, shutdown_op);

	/* The guest has no more commands to be told of it. */
	if (res < 0 && nvme->cfg.failed)
		nvme->cfg.failed(nvme->cfg.ctx, "flush", -res);
	(void)flags;
	pthread_mutex_lock(&nvme->lock);
	if (shutdown_status(nvme) == NVME_CSTS_SHST_OCCURS)
		set_shutdown_status(nvme, NVME_CSTS_SHST_DONE);
	nvme->in_flight--;
	pthread_cond_broadcast(&nvme->idle);
	pthread_mutex_unlock(&nvme->lock);
	nvme_serve(nvme);
}

void nvme_serve(struct sim_nvme *nvme)
{
	const struct sim_port *port = &nvme->cfg.queues;

	for (unsigned i = 0; i < BURST; i++) {
		struct nvme_request *req = NULL, *event = NULL;
		bool shutdown = false;
		uint64_t addr;

		pthread_mutex_lock(&nvme->lock);
		if (may_run(nvme) && nvme->free) {
			event = next_event(nvme);
			req = event ? event : next_command(nvme, &addr);
		}
		if (!req)
			shutdown = begin_shutdown(nvme);
		pthread_mutex_unlock(&nvme->lock);

		if (event) {
			nvme_finish(event, NVME_SC_SUCCESS);
		} else if (!req) {
			if (shutdown)
				flush_for_shutdown(nvme);
			return;
		} else if (port->read(port->ctx, addr, req->sqe, NVME_SQE_LEN)) {
			pthread_mutex_lock(&nvme->lock);
			fail(nvme);
			pthread_mutex_unlock(&nvme->lock);
			nvme_drop(req);
		} else {
			execute(req);
		}
	}
	pthread_mutex_lock(&nvme->lock);
	wake(nvme);
	pthread_mutex_unlock(&nvme->lock);
}

static void on_wake(void *ctx, uint64_t count)
{
	struct sim_nvme *nvme = ctx;

	(void)count;
	pthread_mutex_lock(&nvme->lock);
	nvme->woken = false;
	pthread_mutex_unlock(&nvme->lock);
	nvme_serve(nvme);
}

static void *run(void *ctx)
{
	struct sim_nvme *nvme = ctx;
	int ret;

	pthread_setname_np(pthread_self(), "sim-nvme");
	sandbox_enter(SANDBOX_NVME);
	trace_name_thread(nvme->cfg.name);
	ret = evloop_run(nvme->loop);
	if (ret < 0) {
		msg_warn("%s: it has failed: %s; the guest finds it dead", nvme->cfg.name,
			 strerror(-ret));
		pthread_mutex_lock(&nvme->lock);
		nvme->dead = true;
		fail(nvme);
		pthread_cond_broadcast(&nvme->idle);
		pthread_mutex_unlock(&nvme->lock);
	}
	return NULL;
}

/* ---- registers: on vCPUs' threads ----------------------------------------------------------- */

static void write_cc(struct sim_nvme *nvme, uint32_t val)
{
	uint32_t was;

	pthread_mutex_lock(&nvme->control);
	pthread_mutex_lock(&nvme->lock);
	was = nvme->cc;
	if (was & NVME_CC_EN && !(val & NVME_CC_EN))
		disable(nvme);
	nvme->cc = val;
	if (!(was & NVME_CC_EN) && val & NVME_CC_EN)
		enable(nvme);
	if (val & NVME_CC_SHN && !shutdown_status(nvme)) {
		set_shutdown_status(nvme, NVME_CSTS_SHST_OCCURS);
		wake(nvme);
	}
	pthread_mutex_unlock(&nvme->lock);
	pthread_mutex_unlock(&nvme->control);
}

static void ring_sq(struct sim_nvme *nvme, struct nvme_sq *sq, uint32_t tail)
{
	if (tail >= sq->size) {
		tell_event(nvme, NVME_EVENT_BAD_DOORBELL_VALUE);
	} else if (tail != sq->tail) {
		sq->tail = tail;
		wake(nvme);
	}
}

static void ring_cq(struct sim_nvme *nvme, struct nvme_cq *cq, uint32_t head)
{
	uint32_t nr_taken = (head + cq->size - cq->head) % cq->size;

	/* Past the tail there is nothing that could have been taken. */
	if (head >= cq->size || nr_taken > (cq->tail + cq->size - cq->head) % cq->size) {
		tell_event(nvme, NVME_EVENT_BAD_DOORBELL_VALUE);
		return;
	}
	cq->head = head;
	cq->nr_waiting -= (int)nr_taken;
	/* Now and not by the thread: the line must be down before the guest's end of interrupt. */
	update_intx(nvme);
	if (cq->starved) {
		cq->starved = false;
		wake(nvme);
	}
}

/* ring - Source: 3.1.24, 3.1.25. */
static void ring(struct sim_nvme *nvme, unsigned index, uint32_t val)
{
	unsigned id = index / 2;

	if (!nvme->enabled)
		return;
	if (id >= nr_queues(nvme) || !(index % 2 ? nvme->cqs[id].live : nvme->sqs[id].live))
		tell_event(nvme, NVME_EVENT_BAD_DOORBELL);
	else if (index % 2)
		ring_cq(nvme, &nvme->cqs[id], val & 0xffff);
	else
		ring_sq(nvme, &nvme->sqs[id], val & 0xffff);
}

static void write_reg(struct sim_nvme *nvme, unsigned off, uint32_t val)
{
	if (off == NVME_CC) {
		write_cc(nvme, val);
		return;
	}
	pthread_mutex_lock(&nvme->lock);
	switch (off) {
	case NVME_INTMS:
		nvme->intm |= val;
		update_intx(nvme);
		break;
	case NVME_INTMC:
		nvme->intm &= ~val;
		update_intx(nvme);
		break;
	case NVME_AQA:
		nvme->aqa = val & (uint32_t)(NVME_AQA_ASQS | NVME_AQA_ACQS);
		break;
	case NVME_ASQ:
		nvme->asq = (nvme->asq & GENMASK(63, 32)) | (val & GENMASK(31, 12));
		break;
	case NVME_ASQ + 4:
		nvme->asq = (nvme->asq & GENMASK(31, 0)) | (uint64_t)val << 32;
		break;
	case NVME_ACQ:
		nvme->acq = (nvme->acq & GENMASK(63, 32)) | (val & GENMASK(31, 12));
		break;
	case NVME_ACQ + 4:
		nvme->acq = (nvme->acq & GENMASK(31, 0)) | (uint64_t)val << 32;
		break;
	default:
		if (off >= NVME_DB)
			ring(nvme, (off - NVME_DB) / 4, val);
	}
	pthread_mutex_unlock(&nvme->lock);
}

static uint32_t read_reg(struct sim_nvme *nvme, unsigned off)
{
	static const uint64_t cap = FIELD_PREP(NVME_CAP_MQES, NVME_MAX_ENTRIES - 1) | NVME_CAP_CQR |
				    FIELD_PREP(NVME_CAP_TO, READY_TIMEOUT) | NVME_CAP_CSS_NVM |
				    FIELD_PREP(NVME_CAP_MPSMAX, NVME_MAX_MPS);
	uint32_t val;

	pthread_mutex_lock(&nvme->lock);
	switch (off) {
	case NVME_CAP:
		val = (uint32_t)cap;
		break;
	case NVME_CAP + 4:
		val = (uint32_t)(cap >> 32);
		break;
	case NVME_VS:
		val = NVME_VS_1_4;
		break;
	case NVME_INTMS:
	case NVME_INTMC:
		val = nvme->intm;
		break;
	case NVME_CC:
		val = nvme->cc;
		break;
	case NVME_CSTS:
		val = nvme->csts;
		break;
	case NVME_AQA:
		val = nvme->aqa;
		break;
	case NVME_ASQ:
		val = (uint32_t)nvme->asq;
		break;
	case NVME_ASQ + 4:
		val = (uint32_t)(nvme->asq >> 32);
		break;
	case NVME_ACQ:
		val = (uint32_t)nvme->acq;
		break;
	case NVME_ACQ + 4:
		val = (uint32_t)(nvme->acq >> 32);
		break;
	default:
		val = 0;
	}
	pthread_mutex_unlock(&nvme->lock);
	return val;
}

static void access_reg(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct sim_nvme *nvme = ctx;
	unsigned reg = (unsigned)off & ~3u;
	uint8_t bytes[8];

	if (write) {
		/* 64-bit registers may be written in halves, nothing in less. */
		for (unsigned i = 0; i + 4 <= len; i += 4)
			write_reg(nvme, reg + i, get_le32((uint8_t *)data + i));
		return;
	}
	put_le32(bytes, read_reg(nvme, reg));
	if (len == 8)
		put_le32(bytes + 4, read_reg(nvme, reg + 4));
	memcpy(data, bytes + off % 4, len);
}

static void on_reset(void *ctx)
{
	struct sim_nvme *nvme = ctx;

	pthread_mutex_lock(&nvme->control);
	pthread_mutex_lock(&nvme->lock);
	disable(nvme);
	nvme->cc = 0;
	nvme->aqa = 0;
	nvme->asq = nvme->acq = 0;
	pthread_mutex_unlock(&nvme->lock);
	pthread_mutex_unlock(&nvme->control);
}

static void on_master(void *ctx, bool on)
{
	struct sim_nvme *nvme = ctx;

	pthread_mutex_lock(&nvme->control);
	pthread_mutex_lock(&nvme->lock);
	nvme->master = on;
	if (on)
		wake(nvme);
	else
		wait_idle(nvme);
	pthread_mutex_unlock(&nvme->lock);
	pthread_mutex_unlock(&nvme->control);
}

static int on_msi_target(void *ctx, uint64_t addr, uint64_t *gpa)
{
	struct sim_nvme *nvme = ctx;

	return nvme->cfg.msi_target(nvme->cfg.ctx, addr, gpa);
}

/* ---- life ----------------------------------------------------------------------------------- */

static int start_thread(struct sim_nvme *nvme)
{
	sigset_t all, was;
	int ret;

	/* Signals are for the threads that wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	ret = pthread_create(&nvme->thread, NULL, run, nvme);
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	if (ret)
		return -ret;
	nvme->has_thread = true;
	return 0;
}

static int init_pci(struct sim_nvme *nvme)
{
	const struct sim_pci_cfg cfg = {
		.name = nvme->cfg.name,
		.vendor = NVME_VENDOR,
		.device = NVME_DEVICE,
		.class = CLASS_NVME,
		.bar_len = BAR_LEN,
		.nr_msix = nr_queues(nvme),
		.access = access_reg,
		.reset = on_reset,
		.set_master = on_master,
		.msi_target = nvme->cfg.msi_target ? on_msi_target : NULL,
		.ctx = nvme,
	};

	return sim_pci_create(&cfg, &nvme->pci);
}

static void init_requests(struct sim_nvme *nvme)
{
	for (unsigned i = 0; i < NVME_MAX_REQUESTS; i++) {
		struct nvme_request *req = &nvme->requests[i];

		req->op.done = nvme_io_done;
		req->nvme = nvme;
		req->buf = nvme->bufs + (size_t)i * NVME_MAX_TRANSFER;
		req->next = nvme->free;
		nvme->free = req;
	}
	nvme->shutdown_op.done = shutdown_done;
}

int sim_nvme_create(const struct sim_nvme_cfg *cfg, struct sim_nvme **out)
{
	size_t serial_len = strnlen(cfg->serial, sizeof((*out)->serial));
	struct sim_nvme *nvme;
	int ret = -ENOMEM;

	nvme = calloc(1, sizeof(*nvme));
	if (!nvme)
		return -ENOMEM;
	nvme->cfg = *cfg;
	nvme->nr_blocks = cfg->size / SIM_NVME_BLOCK;
	memset(nvme->serial, ' ', sizeof(nvme->serial));
	memcpy(nvme->serial, cfg->serial, serial_len);
	pthread_mutex_init(&nvme->control, NULL);
	pthread_mutex_init(&nvme->lock, NULL);
	pthread_cond_init(&nvme->idle, NULL);
	nvme_reset_features(nvme);
	/* Pages of it are there once they have been used. */
	nvme->bufs = mmap(NULL, BUFS_LEN, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (nvme->bufs == MAP_FAILED)
		goto err_free;
	init_requests(nvme);
	ret = init_pci(nvme);
	if (ret)
		goto err_bufs;
	nvme->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (nvme->wake_fd < 0) {
		ret = -errno;
		goto err_pci;
	}
	ret = evloop_create(BIT(IORING_OP_WRITE) | BIT(IORING_OP_FSYNC) | BIT(IORING_OP_FALLOCATE),
			    &nvme->loop);
	if (ret)
		goto err_wake;
	ret = evloop_add_eventfd(nvme->loop, nvme->wake_fd, on_wake, nvme, NULL);
	if (ret)
		goto err_loop;
	ret = start_thread(nvme);
	if (ret)
		goto err_loop;
	*out = nvme;
	return 0;

err_loop:
	evloop_destroy(nvme->loop);
err_wake:
	close(nvme->wake_fd);
err_pci:
	sim_pci_destroy(nvme->pci);
err_bufs:
	munmap(nvme->bufs, BUFS_LEN);
err_free:
	pthread_cond_destroy(&nvme->idle);
	pthread_mutex_destroy(&nvme->lock);
	pthread_mutex_destroy(&nvme->control);
	free(nvme);
	return ret;
}

void sim_nvme_stop(struct sim_nvme *nvme)
{
	pthread_mutex_lock(&nvme->control);
	pthread_mutex_lock(&nvme->lock);
	nvme->stopped = true;
	wait_idle(nvme);
	pthread_mutex_unlock(&nvme->lock);
	if (nvme->has_thread) {
		evloop_stop(nvme->loop, 0);
		pthread_join(nvme->thread, NULL);
		nvme->has_thread = false;
	}
	pthread_mutex_unlock(&nvme->control);
}

void sim_nvme_destroy(struct sim_nvme *nvme)
{
	if (!nvme)
		return;
	sim_nvme_stop(nvme);
	evloop_destroy(nvme->loop);
	close(nvme->wake_fd);
	sim_pci_destroy(nvme->pci);
	munmap(nvme->bufs, BUFS_LEN);
	close(nvme->cfg.fd);
	pthread_cond_destroy(&nvme->idle);
	pthread_mutex_destroy(&nvme->lock);
	pthread_mutex_destroy(&nvme->control);
	free(nvme);
}

struct pci_dev *sim_nvme_dev(struct sim_nvme *nvme)
{
	return sim_pci_dev(nvme->pci);
}
