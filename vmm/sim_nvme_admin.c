/* SPDX-License-Identifier: Apache-2.0 */
/* sim_nvme_admin - the admin command set */
#include "vmm/sim_nvme_core.h"

#include <stdio.h>
#include <string.h>

#define MODEL	    "granule simulated NVMe"
#define FIRMWARE    "1"
#define TEMPERATURE 300u /* kelvin; it never changes */
#define WARM	    343u
#define HOT	    353u
#define POWER	    2500u    /* centiwatts, at most */
#define D3_TIME	    5000000u /* microseconds to be ready for power off */
#define NR_ERRORS   1u	     /* entries of the error log: never used */

static uint32_t cdw10(const struct nvme_request *req)
{
	return nvme_dword(req, NVME_SQE_CDW10);
}

static uint32_t cdw11(const struct nvme_request *req)
{
	return nvme_dword(req, NVME_SQE_CDW11);
}

/* ---- queues: 5.3 to 5.6 --------------------------------------------------------------------- */

/* check_create - what both kinds of queue are made of. Return: a status. */
static int check_create(struct nvme_request *req, bool used, uint32_t entry_lg2_mask,
			unsigned entry_lg2)
{
	uint32_t size = (cdw10(req) >> 16) + 1;

	if (used)
		return NVME_SC_QID_INVALID;
	/* CC says the size of entries, and must have by now. */
	if (size < 2 || size > NVME_MAX_ENTRIES ||
	    FIELD_GET(entry_lg2_mask, req->nvme->cc) != entry_lg2)
		return NVME_SC_QUEUE_SIZE;
	if (!(cdw11(req) & NVME_CREATE_PC))
		return NVME_SC_INVALID_FIELD;
	if (!IS_ALIGNED(get_le64(req->sqe + NVME_SQE_PRP1), BIT(req->nvme->page_lg2)))
		return NVME_SC_PRP_OFFSET;
	return NVME_SC_SUCCESS;
}

static bool is_io_queue(const struct nvme_request *req, unsigned id)
{
	return id && id <= req->nvme->cfg.nr_io_queues;
}

static int create_cq(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	unsigned id = cdw10(req) & 0xffff, vector = cdw11(req) >> 16;
	int status;

	if (!is_io_queue(req, id))
		return NVME_SC_QID_INVALID;
	pthread_mutex_lock(&nvme->lock);
	status = check_create(req, nvme->cqs[id].live, NVME_CC_IOCQES, 4);
	if (!status && vector > nvme->cfg.nr_io_queues)
		status = NVME_SC_VECTOR;
	if (!status)
		nvme->cqs[id] = (struct nvme_cq){
			.live = true,
			.interrupts = cdw11(req) & NVME_CREATE_IEN,
			.phase = true,
			.vector = (uint16_t)vector,
			.size = (cdw10(req) >> 16) + 1,
			.base = get_le64(req->sqe + NVME_SQE_PRP1),
		};
	pthread_mutex_unlock(&nvme->lock);
	return status;
}

static int create_sq(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	unsigned id = cdw10(req) & 0xffff, cqid = cdw11(req) >> 16;
	int status;

	if (!is_io_queue(req, id) || !is_io_queue(req, cqid))
		return NVME_SC_QID_INVALID;
	pthread_mutex_lock(&nvme->lock);
	status = check_create(req, nvme->sqs[id].live, NVME_CC_IOSQES, 6);
	if (!status && !nvme->cqs[cqid].live)
		status = NVME_SC_CQ_INVALID;
	if (!status) {
		nvme->cqs[cqid].nr_sqs++;
		nvme->sqs[id] = (struct nvme_sq){
			.live = true,
			.id = (uint16_t)id,
			.cqid = (uint16_t)cqid,
			.size = (cdw10(req) >> 16) + 1,
			.base = get_le64(req->sqe + NVME_SQE_PRP1),
		};
	}
	pthread_mutex_unlock(&nvme->lock);
	return status;
}

static int delete_cq(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	unsigned id = cdw10(req) & 0xffff;
	int status = NVME_SC_SUCCESS;

	if (!is_io_queue(req, id))
		return NVME_SC_QID_INVALID;
	pthread_mutex_lock(&nvme->lock);
	if (!nvme->cqs[id].live) {
		status = NVME_SC_QID_INVALID;
	} else if (nvme->cqs[id].nr_sqs) {
		status = NVME_SC_QUEUE_DELETION;
	} else {
		/* Its share of INTx goes when this completes. */
		nvme->cqs[id] = (struct nvme_cq){0};
	}
	pthread_mutex_unlock(&nvme->lock);
	return status;
}

static int delete_sq(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	unsigned id = cdw10(req) & 0xffff;
	int status = NVME_SC_SUCCESS;

	if (!is_io_queue(req, id))
		return NVME_SC_QID_INVALID;
	pthread_mutex_lock(&nvme->lock);
	if (!nvme->sqs[id].live || nvme->sqs[id].deleting) {
		status = NVME_SC_QID_INVALID;
	} else if (nvme->sqs[id].in_flight) {
		/* What has been fetched is completed first. */
		nvme->sqs[id].deleting = req;
		status = NVME_PENDING;
	} else {
		nvme->cqs[nvme->sqs[id].cqid].nr_sqs--;
		nvme->sqs[id] = (struct nvme_sq){0};
	}
	pthread_mutex_unlock(&nvme->lock);
	return status;
}

/* ---- identify: 5.15 ------------------------------------------------------------------------- */

static void put_text(uint8_t *dst, const char *text, size_t len)
{
	memset(dst, ' ', len);
	memcpy(dst, text, strnlen(text, len));
}

/* make_uuid - the same for the same serial number, and hardly for another; @what: whose.
 * FNV-1a, twice; version 8 is for what has rules of its own (RFC 9562). */
static void make_uuid(const struct sim_nvme *nvme, uint8_t what, uint8_t uuid[16])
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ what;

	for (unsigned half = 0; half < 2; half++) {
		for (unsigned i = 0; i < sizeof(nvme->serial); i++)
			hash = (hash ^ (uint8_t)nvme->serial[i]) * UINT64_C(0x100000001b3);
		put_le64(uuid + 8 * half, hash);
	}
	uuid[6] = (uint8_t)(0x80 | (uuid[6] & 0x0f));
	uuid[8] = (uint8_t)(0x80 | (uuid[8] & 0x3f));
}

/* identify_ctrl - Source: figure 247. What is not said is zero: not there. */
static void identify_ctrl(const struct sim_nvme *nvme, uint8_t *id)
{
	uint8_t u[16];

	put_le16(id + 0, NVME_VENDOR); /* VID */
	put_le16(id + 2, NVME_VENDOR); /* SSVID */
	memcpy(id + 4, nvme->serial, sizeof(nvme->serial));
	put_text(id + 24, MODEL, 40);
	put_text(id + 64, FIRMWARE, 8);
	id[77] = NVME_MDTS;
	put_le32(id + 80, NVME_VS_1_4);
	put_le32(id + 88, D3_TIME); /* RTD3E */
	id[111] = 1;		    /* CNTRLTYPE: I/O */
	id[258] = 3;		    /* ACL: 4 Aborts at a time, less one */
	id[259] = NVME_MAX_AERS - 1;
	id[260] = 3; /* FRMW: 1 slot, read-only */
	id[261] = 6; /* LPA: commands supported and effects; offsets and long lengths */
	id[262] = NR_ERRORS - 1;
	put_le16(id + 266, WARM);
	put_le16(id + 268, HOT);
	id[512] = 0x66;		  /* SQES: 64 bytes */
	id[513] = 0x44;		  /* CQES: 16 bytes */
	put_le32(id + 516, 1);	  /* NN */
	put_le16(id + 520, 0x0c); /* ONCS: Dataset Management, Write Zeroes */
	id[525] = 7; /* VWC: there is a cache; flush takes all namespaces at once, too */
	make_uuid(nvme, 0, u);
	snprintf((char *)id + 768, 256,
		 "nqn.2014-08.org.nvmexpress:uuid:"
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
		 u[13], u[14], u[15]);
	put_le16(id + 2048, POWER); /* of power state 0 */
}

/* identify_ns - Source: figure 245 */
static void identify_ns(const struct sim_nvme *nvme, uint8_t *id)
{
	put_le64(id + 0, nvme->nr_blocks);  /* NSZE */
	put_le64(id + 8, nvme->nr_blocks);  /* NCAP */
	put_le64(id + 16, nvme->nr_blocks); /* NUSE */
	id[33] = 9; /* DLFEAT: deallocated blocks read as zeroes; Write Zeroes may deallocate */
	put_le64(id + 48, nvme->nr_blocks * SIM_NVME_BLOCK); /* NVMCAP */
	id[99] = nvme->cfg.readonly;			     /* NSATTR: write protected */
	id[130] = 9;					     /* LBA format 0: log2 of a block */
}

static void identify_ns_desc(const struct sim_nvme *nvme, uint8_t *id)
{
	id[0] = NVME_NS_DESC_UUID;
	id[1] = 16;
	make_uuid(nvme, 1, id + 4);
}

static int identify(struct nvme_request *req)
{
	uint32_t nsid = nvme_dword(req, NVME_SQE_NSID);
	int status;

	status = nvme_map(req, NVME_IDENTIFY_LEN);
	if (status)
		return status;
	memset(req->buf, 0, NVME_IDENTIFY_LEN);
	switch (cdw10(req) & 0xff) {
	case NVME_CNS_CTRL:
		identify_ctrl(req->nvme, req->buf);
		break;
	case NVME_CNS_NS:
	case NVME_CNS_NS_DESC:
		if (nsid != 1)
			return NVME_SC_INVALID_NAMESPACE;
		if ((cdw10(req) & 0xff) == NVME_CNS_NS)
			identify_ns(req->nvme, req->buf);
		else
			identify_ns_desc(req->nvme, req->buf);
		break;
	case NVME_CNS_ACTIVE_NS: /* those above nsid */
		if (nsid >= NVME_NSID_ALL - 1)
			return NVME_SC_INVALID_NAMESPACE;
		put_le32(req->buf, nsid < 1);
		break;
	default:
		return NVME_SC_INVALID_FIELD;
	}
	return nvme_send(req);
}

/* ---- log pages: 5.14 ------------------------------------------------------------------------ */

static void log_smart(const struct sim_nvme *nvme, uint8_t *log)
{
	const struct nvme_features *f = &nvme->features;

	log[0] = TEMPERATURE >= f->over || TEMPERATURE <= f->under ? 2 : 0;
	put_le16(log + 1, TEMPERATURE);
	log[3] = 100; /* spare, percent */
	log[4] = 10;  /* below which that is critical */
	/* thousands of 512 bytes */
	put_le64(log + 32, (nvme->blocks_read + 999) / 1000);
	put_le64(log + 48, (nvme->blocks_written + 999) / 1000);
	put_le64(log + 64, nvme->nr_reads);
	put_le64(log + 80, nvme->nr_writes);
}

static void log_effects(uint8_t *log)
{
	for (const struct nvme_command *c = nvme_admin_commands; c->run; c++)
		put_le32(log + 4 * c->opcode, c->effects);
	for (const struct nvme_command *c = nvme_io_commands; c->run; c++)
		put_le32(log + NVME_EFFECTS_IO + 4 * c->opcode, c->effects);
}

/* make_log - Return: its length; 0: there is no such page. */
static unsigned make_log(const struct sim_nvme *nvme, unsigned id, uint8_t *log)
{
	switch (id) {
	case NVME_LOG_ERROR:
		return NR_ERRORS * NVME_ERROR_ENTRY_LEN;
	case NVME_LOG_SMART:
		log_smart(nvme, log);
		return 512;
	case NVME_LOG_FIRMWARE:
		log[0] = 1; /* the slot that runs */
		put_text(log + 8, FIRMWARE, 8);
		return 512;
	case NVME_LOG_EFFECTS:
		log_effects(log);
		return 4096;
	default:
		return 0;
	}
}

/* unmask_events - the host has seen what the last event was about */
static void unmask_events(struct sim_nvme *nvme)
{
	pthread_mutex_lock(&nvme->lock);
	nvme->events_masked = false;
	pthread_mutex_unlock(&nvme->lock);
}

static int get_log(struct nvme_request *req)
{
	uint32_t nsid = nvme_dword(req, NVME_SQE_NSID);
	unsigned id = cdw10(req) & 0xff, log_len;
	uint64_t len = (((uint64_t)(cdw11(req) & 0xffff) << 16 | cdw10(req) >> 16) + 1) * 4;
	uint64_t off = get_le64(req->sqe + NVME_SQE_CDW12);
	uint8_t log[4096] = {0};
	int status;

	log_len = make_log(req->nvme, id, log);
	if (!log_len)
		return NVME_SC_LOG_PAGE;
	if (len > NVME_MAX_TRANSFER || off % 4 || off > log_len ||
	    (id == NVME_LOG_SMART && nsid && nsid != NVME_NSID_ALL))
		return NVME_SC_INVALID_FIELD;
	status = nvme_map(req, (uint32_t)len);
	if (status)
		return status;
	/* What is past the end is zero. */
	memset(req->buf, 0, len);
	memcpy(req->buf, log + off, MIN(len, log_len - off));
	status = nvme_send(req);
	if (!status && id == NVME_LOG_ERROR && !(cdw10(req) & NVME_LOG_RAE))
		unmask_events(req->nvme);
	return status;
}

/* ---- features: 5.13, 5.21 ------------------------------------------------------------------- */

void nvme_reset_features(struct sim_nvme *nvme)
{
	nvme->features = (struct nvme_features){.write_cache = true, .over = WARM};
}

/* threshold - Return: the one that CDW11 selects; NULL: there is none. */
static uint16_t *threshold(struct nvme_request *req, bool set)
{
	unsigned sensor = cdw11(req) >> 16 & 0xf, kind = cdw11(req) >> 20 & 3;

	/* Of the composite temperature; all of them, when set. */
	if (sensor && !(set && sensor == 0xf))
		return NULL;
	return kind == 0   ? &req->nvme->features.over
	       : kind == 1 ? &req->nvme->features.under
			   : NULL;
}

static bool has_io_queues(struct sim_nvme *nvme)
{
	bool has = false;

	pthread_mutex_lock(&nvme->lock);
	for (unsigned i = 1; i <= nvme->cfg.nr_io_queues; i++)
		has |= nvme->cqs[i].live || nvme->sqs[i].live;
	pthread_mutex_unlock(&nvme->lock);
	return has;
}

static int set_nr_queues(struct nvme_request *req)
{
	uint32_t most = req->nvme->cfg.nr_io_queues - 1;

	if ((cdw11(req) & 0xffff) == 0xffff || cdw11(req) >> 16 == 0xffff)
		return NVME_SC_INVALID_FIELD;
	if (has_io_queues(req->nvme))
		return NVME_SC_SEQUENCE;
	req->dw0 = most << 16 | most;
	return NVME_SC_SUCCESS;
}

static int set_features(struct nvme_request *req)
{
	unsigned id = cdw10(req) & 0xff, vector = cdw11(req) & 0xffff;
	struct nvme_features *f = &req->nvme->features;
	uint32_t nsid = nvme_dword(req, NVME_SQE_NSID);
	uint16_t *kelvin;

	if (cdw10(req) & NVME_FEATURE_SAVE)
		return NVME_SC_NOT_SAVEABLE;
	if (nsid > 1 && nsid != NVME_NSID_ALL)
		return NVME_SC_INVALID_NAMESPACE;
	if (id == NVME_FEATURE_ERROR_RECOVERY ? !nsid : nsid == 1)
		return nsid ? NVME_SC_NOT_PER_NAMESPACE : NVME_SC_INVALID_NAMESPACE;
	switch (id) {
	case NVME_FEATURE_ARBITRATION:
		f->arbitration = cdw11(req);
		break;
	case NVME_FEATURE_POWER: /* state 0 is all there is */
		return cdw11(req) & 0x1f ? NVME_SC_INVALID_FIELD : NVME_SC_SUCCESS;
	case NVME_FEATURE_TEMPERATURE:
		kelvin = threshold(req, true);
		if (!kelvin)
			return NVME_SC_INVALID_FIELD;
		*kelvin = (uint16_t)cdw11(req);
		break;
	case NVME_FEATURE_ERROR_RECOVERY: /* retry time; no error for deallocated blocks */
		if (cdw11(req) & ~0xffffu)
			return NVME_SC_INVALID_FIELD;
		f->error_recovery = cdw11(req);
		break;
	case NVME_FEATURE_WRITE_CACHE:
		f->write_cache = cdw11(req) & 1;
		break;
	case NVME_FEATURE_NR_QUEUES:
		return set_nr_queues(req);
	case NVME_FEATURE_COALESCING:
		f->coalescing = cdw11(req) & 0xffff;
		break;
	case NVME_FEATURE_VECTOR:
		if (vector > req->nvme->cfg.nr_io_queues)
			return NVME_SC_INVALID_FIELD;
		f->no_coalescing[vector] = cdw11(req) >> 16 & 1;
		break;
	case NVME_FEATURE_WRITE_ATOMICITY:
		f->write_atomicity = cdw11(req) & 1;
		break;
	case NVME_FEATURE_ASYNC_EVENTS:
		f->async_events = cdw11(req);
		break;
	default:
		return NVME_SC_INVALID_FIELD;
	}
	return NVME_SC_SUCCESS;
}

static int get_features(struct nvme_request *req)
{
	unsigned id = cdw10(req) & 0xff, vector = cdw11(req) & 0xffff;
	const struct nvme_features *f = &req->nvme->features;
	uint32_t nsid = nvme_dword(req, NVME_SQE_NSID);
	uint32_t most = req->nvme->cfg.nr_io_queues - 1;
	const uint16_t *kelvin;

	/* Nothing is saved, so that only current values can be asked for. */
	if (cdw10(req) & NVME_FEATURE_SEL)
		return NVME_SC_INVALID_FIELD;
	if (id == NVME_FEATURE_ERROR_RECOVERY ? nsid != 1 : nsid > 1 && nsid != NVME_NSID_ALL)
		return NVME_SC_INVALID_NAMESPACE;
	switch (id) {
	case NVME_FEATURE_ARBITRATION:
		req->dw0 = f->arbitration;
		break;
	case NVME_FEATURE_POWER:
		break;
	case NVME_FEATURE_TEMPERATURE:
		kelvin = threshold(req, false);
		if (!kelvin)
			return NVME_SC_INVALID_FIELD;
		req->dw0 = *kelvin;
		break;
	case NVME_FEATURE_ERROR_RECOVERY:
		req->dw0 = f->error_recovery;
		break;
	case NVME_FEATURE_WRITE_CACHE:
		req->dw0 = f->write_cache;
		break;
	case NVME_FEATURE_NR_QUEUES:
		req->dw0 = most << 16 | most;
		break;
	case NVME_FEATURE_COALESCING:
		req->dw0 = f->coalescing;
		break;
	case NVME_FEATURE_VECTOR:
		if (vector > req->nvme->cfg.nr_io_queues)
			return NVME_SC_INVALID_FIELD;
		req->dw0 = vector | (uint32_t)f->no_coalescing[vector] << 16;
		break;
	case NVME_FEATURE_WRITE_ATOMICITY:
		req->dw0 = f->write_atomicity;
		break;
	case NVME_FEATURE_ASYNC_EVENTS:
		req->dw0 = f->async_events;
		break;
	default:
		return NVME_SC_INVALID_FIELD;
	}
	return NVME_SC_SUCCESS;
}

/* ---- the rest ------------------------------------------------------------------------------- */

/* abort_command - Source: 5.1. It is best effort, and what has been fetched is not worth it. */
static int abort_command(struct nvme_request *req)
{
	req->dw0 = 1; /* not aborted */
	return NVME_SC_SUCCESS;
}

/* async_event - kept until there is something to tell; its completion has no place until then */
static int async_event(struct nvme_request *req)
{
	struct sim_nvme *nvme = req->nvme;
	bool full;

	pthread_mutex_lock(&nvme->lock);
	full = nvme->nr_aers == NVME_MAX_AERS;
	if (!full)
		nvme->aers[nvme->nr_aers++] = get_le16(req->sqe + NVME_SQE_CID);
	pthread_mutex_unlock(&nvme->lock);
	if (full)
		return NVME_SC_AER_LIMIT;
	nvme_drop(req);
	return NVME_PENDING;
}

const struct nvme_command nvme_admin_commands[] = {
	{NVME_ADMIN_DELETE_SQ, NVME_EFFECTS_CSUPP, delete_sq},
	{NVME_ADMIN_CREATE_SQ, NVME_EFFECTS_CSUPP, create_sq},
	{NVME_ADMIN_GET_LOG, NVME_EFFECTS_CSUPP, get_log},
	{NVME_ADMIN_DELETE_CQ, NVME_EFFECTS_CSUPP, delete_cq},
	{NVME_ADMIN_CREATE_CQ, NVME_EFFECTS_CSUPP, create_cq},
	{NVME_ADMIN_IDENTIFY, NVME_EFFECTS_CSUPP, identify},
	{NVME_ADMIN_ABORT, NVME_EFFECTS_CSUPP, abort_command},
	{NVME_ADMIN_SET_FEATURES, NVME_EFFECTS_CSUPP, set_features},
	{NVME_ADMIN_GET_FEATURES, NVME_EFFECTS_CSUPP, get_features},
	{NVME_ADMIN_AER, NVME_EFFECTS_CSUPP, async_event},
	{0},
};
