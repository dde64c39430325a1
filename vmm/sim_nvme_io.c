/* SPDX-License-Identifier: Apache-2.0 */
/* sim_nvme_io - data by PRPs, the NVM command set, and the file beneath it */
#include "vmm/sim_nvme_core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

/* ---- data ----------------------------------------------------------------------------------- */

/* map_list - the second page and all after it, by a chain of lists. Source: 4.3. */
static int map_list(struct nvme_request *req, unsigned nr_pages, uint64_t list)
{
	const struct sim_port *port = &req->nvme->cfg.data;
	uint64_t page_mask = BIT(req->nvme->page_lg2) - 1;
	unsigned have = 1;

	/* Only the first list may start inside a page, so that those after it hold something. */
	if (list & 7)
		return NVME_SC_PRP_OFFSET;
	while (have < nr_pages) {
		unsigned room = (unsigned)((page_mask + 1 - (list & page_mask)) / 8);
		unsigned want = nr_pages - have, nr = MIN(want, room);
		uint64_t *entries = req->pages + have;

		if (port->read(port->ctx, list, entries, nr * sizeof(*entries)))
			return NVME_SC_TRANSFER;
		for (unsigned i = 0; i < nr; i++) {
			entries[i] = get_le64(&entries[i]);
			if (entries[i] & page_mask)
				return NVME_SC_PRP_OFFSET;
		}
		if (want > room)
			list = entries[--nr];
		have += nr;
	}
	return NVME_SC_SUCCESS;
}

int nvme_map(struct nvme_request *req, uint32_t len)
{
	uint64_t prp1 = get_le64(req->sqe + NVME_SQE_PRP1);
	uint64_t prp2 = get_le64(req->sqe + NVME_SQE_PRP2);
	unsigned page_lg2 = req->nvme->page_lg2;
	uint64_t page_mask = BIT(page_lg2) - 1;
	unsigned nr_pages;

	if (prp1 & 3)
		return NVME_SC_PRP_OFFSET;
	req->nr_bytes = len;
	req->first_offset = (unsigned)(prp1 & page_mask);
	req->pages[0] = prp1 & ~page_mask;
	nr_pages = (unsigned)((req->first_offset + len + page_mask) >> page_lg2);
	if (nr_pages > 2)
		return map_list(req, nr_pages, prp2);
	if (nr_pages == 2) {
		if (prp2 & page_mask)
			return NVME_SC_PRP_OFFSET;
		req->pages[1] = prp2;
	}
	return NVME_SC_SUCCESS;
}

static int transfer(struct nvme_request *req, bool to_memory)
{
	const struct sim_port *port = &req->nvme->cfg.data;
	unsigned off = req->first_offset;
	uint32_t n;

	for (uint32_t i = 0, pos = 0; pos < req->nr_bytes; pos += n, i++, off = 0) {
		uint64_t addr = req->pages[i] + off;

		n = (uint32_t)MIN(BIT(req->nvme->page_lg2) - off, req->nr_bytes - pos);
		if (to_memory ? port->write(port->ctx, addr, req->buf + pos, n)
			      : port->read(port->ctx, addr, req->buf + pos, n))
			return NVME_SC_TRANSFER;
	}
	return NVME_SC_SUCCESS;
}

int nvme_send(struct nvme_request *req)
{
	return transfer(req, true);
}

int nvme_receive(struct nvme_request *req)
{
	return transfer(req, false);
}

/* ---- the file ------------------------------------------------------------------------------- */

static int submit(struct nvme_request *req, enum nvme_step step)
{
	struct io_uring_sqe *sqe = uring_get_sqe(evloop_ring(req->nvme->loop));
	int fd = req->nvme->cfg.fd;

	req->step = step;
	switch (step) {
	case NVME_STEP_READ:
		io_uring_prep_read(sqe, fd, req->buf + req->pos, (unsigned)req->left, req->offset);
		break;
	case NVME_STEP_WRITE:
		io_uring_prep_write(sqe, fd, req->buf + req->pos, (unsigned)req->left, req->offset);
		break;
	case NVME_STEP_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case NVME_STEP_PUNCH:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)req->offset, (off_t)req->left);
		break;
	case NVME_STEP_ZERO:
		io_uring_prep_write(sqe, fd, req->buf, (unsigned)MIN(req->left, NVME_MAX_TRANSFER),
				    req->offset);
		break;
	}
	io_uring_sqe_set_data(sqe, &req->op);
	return NVME_PENDING;
}

static bool in_range(const struct sim_nvme *nvme, uint64_t block, uint64_t nr)
{
	return block <= nvme->nr_blocks && nr <= nvme->nr_blocks - block;
}

/* next_range - of Dataset Management: punch it, or be done */
static int next_range(struct nvme_request *req)
{
	while (req->range < req->nr_ranges) {
		const uint8_t *range = req->buf + NVME_DSM_LEN * req->range++;

		req->left = (uint64_t)get_le32(range + 4) * SIM_NVME_BLOCK;
		req->offset = get_le64(range + 8) * SIM_NVME_BLOCK;
		if (req->left)
			return submit(req, NVME_STEP_PUNCH);
	}
	return NVME_SC_SUCCESS;
}

static int write_error(int res)
{
	return res == -ENOSPC || res == -EDQUOT ? NVME_SC_CAPACITY : NVME_SC_WRITE_FAULT;
}

/* moved - @n bytes are in the file or read from it. Return: all are. */
static bool moved(struct nvme_request *req, int n)
{
	req->offset += (unsigned)n;
	req->left -= (unsigned)n;
	req->pos += (unsigned)n;
	return !req->left;
}

/* written - all of it is in the file */
static int written(struct nvme_request *req)
{
	return req->sync ? submit(req, NVME_STEP_SYNC) : NVME_SC_SUCCESS;
}

/* without_holes - a file system, or a device, that knows none */
static bool without_holes(int res)
{
	return res == -EOPNOTSUPP || res == -ENODEV;
}

/* proceed - after the file has done a step. Return: a status; NVME_PENDING, there is another one.
 */
static int proceed(struct nvme_request *req, int res)
{
	if (res == -EINTR || res == -EAGAIN)
		return submit(req, req->step);
	switch (req->step) {
	case NVME_STEP_READ:
		if (res <= 0) /* 0: the file was truncated under us */
			return NVME_SC_READ_ERROR;
		return moved(req, res) ? nvme_send(req) : submit(req, NVME_STEP_READ);
	case NVME_STEP_WRITE:
		if (res <= 0)
			return write_error(res);
		return moved(req, res) ? written(req) : submit(req, NVME_STEP_WRITE);
	case NVME_STEP_SYNC:
		if (res < 0)
			return write_error(res);
		return req->left ? submit(req, NVME_STEP_READ) : NVME_SC_SUCCESS;
	case NVME_STEP_PUNCH:
		if (req->nr_ranges) /* advice: a file without holes may ignore it */
			return res < 0 && !without_holes(res) ? write_error(res) : next_range(req);
		if (without_holes(res)) {
			memset(req->buf, 0, MIN(req->left, NVME_MAX_TRANSFER));
			return submit(req, NVME_STEP_ZERO);
		}
		req->left = 0;
		return res < 0 ? write_error(res) : written(req);
	case NVME_STEP_ZERO:
		if (res <= 0)
			return write_error(res);
		return moved(req, res) ? written(req) : submit(req, NVME_STEP_ZERO);
	}
	return NVME_SC_SUCCESS;
}

static void account(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;

	if (req->sqe[NVME_SQE_OPCODE] == NVME_IO_READ) {
		nvme->nr_reads++;
		nvme->blocks_read += req->nr_bytes / SIM_NVME_BLOCK;
	} else if (req->sqe[NVME_SQE_OPCODE] == NVME_IO_WRITE) {
		nvme->nr_writes++;
		nvme->blocks_written += req->nr_bytes / SIM_NVME_BLOCK;
	}
}

/* tell_failure - the file has failed @step; @error: an errno, 0: it ends before */
static void tell_failure(const struct sim_nvme *nvme, enum nvme_step step, int error)
{
	static const char *const names[] = {
		[NVME_STEP_READ] = "read",  [NVME_STEP_WRITE] = "write",
		[NVME_STEP_SYNC] = "flush", [NVME_STEP_PUNCH] = "discard",
		[NVME_STEP_ZERO] = "write",
	};

	if (nvme->cfg.failed)
		nvme->cfg.failed(nvme->cfg.ctx, names[step], error);
}

void nvme_io_done(struct uring_op *op, int res, unsigned flags)
{
	struct nvme_request *req = container_of(op, struct nvme_request, op);
	struct sim_nvme *nvme = req->nvme;
	enum nvme_step step = req->step;
	int status;

	(void)flags;
	if (!nvme_enabled(nvme)) {
		nvme_drop(req);
	} else {
		status = proceed(req, res);
		if (status == NVME_SC_SUCCESS)
			account(req);
		else if (status != NVME_PENDING && res <= 0)
			tell_failure(nvme, step, -res);
		if (status != NVME_PENDING)
			nvme_finish(req, (unsigned)status);
	}
	nvme_serve(nvme);
}

/* ---- commands ------------------------------------------------------------------------------- */

/* check_blocks - namespace and blocks of a command; what it will do to the file. Return: a status.
 */
static int check_blocks(struct nvme_request *req, bool write)
{
	uint64_t block = get_le64(req->sqe + NVME_SQE_CDW10);
	uint32_t control = nvme_dword(req, NVME_SQE_CDW12);
	uint64_t nr = FIELD_GET(NVME_RW_NLB, control) + 1;

	if (nvme_dword(req, NVME_SQE_NSID) != 1)
		return NVME_SC_INVALID_NAMESPACE;
	if (!in_range(req->nvme, block, nr))
		return NVME_SC_LBA_RANGE;
	if (write && req->nvme->cfg.readonly)
		return NVME_SC_WRITE_PROTECTED;
	req->offset = block * SIM_NVME_BLOCK;
	req->left = nr * SIM_NVME_BLOCK;
	req->pos = 0;
	req->nr_ranges = 0;
	req->sync = control & NVME_RW_FUA;
	if (write)
		req->sync |= !req->nvme->features.write_cache;
	return NVME_SC_SUCCESS;
}

static int check_transfer(struct nvme_request *req, bool write)
{
	int status = check_blocks(req, write);

	if (status)
		return status;
	if (req->left > NVME_MAX_TRANSFER)
		return NVME_SC_INVALID_FIELD;
	return nvme_map(req, (uint32_t)req->left);
}

static int io_read(struct nvme_request *req)
{
	int status = check_transfer(req, false);

	if (status)
		return status;
	/* What is read with FUA is on the medium by then. */
	return submit(req, req->sync ? NVME_STEP_SYNC : NVME_STEP_READ);
}

static int io_write(struct nvme_request *req)
{
	int status = check_transfer(req, true);

	if (!status)
		status = nvme_receive(req);
	return status ? status : submit(req, NVME_STEP_WRITE);
}

static int io_write_zeroes(struct nvme_request *req)
{
	int status = check_blocks(req, true);

	/* Holes read as zeroes: whether they were asked for makes no difference. */
	return status ? status : submit(req, NVME_STEP_PUNCH);
}

static int io_flush(struct nvme_request *req)
{
	uint32_t nsid = nvme_dword(req, NVME_SQE_NSID);

	if (nsid != 1 && nsid != NVME_NSID_ALL)
		return NVME_SC_INVALID_NAMESPACE;
	req->left = 0;
	return submit(req, NVME_STEP_SYNC);
}

static int io_dsm(struct nvme_request *req)
{
	int status;

	if (nvme_dword(req, NVME_SQE_NSID) != 1)
		return NVME_SC_INVALID_NAMESPACE;
	req->nr_ranges = (unsigned)FIELD_GET(NVME_DSM_NR, nvme_dword(req, NVME_SQE_CDW10)) + 1;
	req->range = 0;
	status = nvme_map(req, req->nr_ranges * NVME_DSM_LEN);
	if (!status)
		status = nvme_receive(req);
	if (status)
		return status;
	for (unsigned i = 0; i < req->nr_ranges; i++) {
		const uint8_t *range = req->buf + NVME_DSM_LEN * i;

		if (!in_range(req->nvme, get_le64(range + 8), get_le32(range + 4)))
			return NVME_SC_LBA_RANGE;
	}
	/* All else it may say is a hint about accesses to come. */
	if (!(nvme_dword(req, NVME_SQE_CDW11) & NVME_DSM_AD))
		return NVME_SC_SUCCESS;
	return req->nvme->cfg.readonly ? NVME_SC_WRITE_PROTECTED : next_range(req);
}

const struct nvme_command nvme_io_commands[] = {
	{NVME_IO_FLUSH, NVME_EFFECTS_CSUPP, io_flush},
	{NVME_IO_WRITE, NVME_EFFECTS_CSUPP | NVME_EFFECTS_LBCC, io_write},
	{NVME_IO_READ, NVME_EFFECTS_CSUPP, io_read},
	{NVME_IO_WRITE_ZEROES, NVME_EFFECTS_CSUPP | NVME_EFFECTS_LBCC, io_write_zeroes},
	{NVME_IO_DSM, NVME_EFFECTS_CSUPP | NVME_EFFECTS_LBCC, io_dsm},
	{0},
};
