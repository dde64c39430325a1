/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim_edu.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "vmm/sandbox.h"
#include "vmm/sim_pci.h"
#include "vmm/trace.h"

#define ALL_CAUSES  ((1u << SIM_EDU_VECS) - 1)
#define WORD	    8u /* bytes of one access of the DMA engine */
#define MAX_ACCESS  4096u
#define BURST	    64u /* hostile accesses between two rests */
#define MIN_REST_NS 100000u
#define MAX_REST_NS 5000000u
#define CMD_MASK    (SIM_EDU_RUN | SIM_EDU_TO_MEMORY | SIM_EDU_NOTIFY | SIM_EDU_CAUSE(3))

_Static_assert(SIM_EDU_VECS == 4, "two bits name a cause");

/* Entries that the ring device has under way at once, and the writes that they are at most. */
#define BATCH	   8u
#define MAX_WRITES (BATCH * 2 * SIM_EDU_RING_MAX_WORDS)

/* What a reset brings back; all of it under the lock. */
struct regs {
	uint32_t scratch, irq;
	uint64_t iova;
	uint32_t offset, len, cmd, result;
	uint32_t count; /* bytes copied; the DMA under way goes on from there */
	uint64_t first, last, pattern, secret;
	uint64_t seen, reads, writes, refused;
	bool pause;
	struct {
		uint64_t iova, data, seed, count;
		uint32_t entries, words, payload, flag, head, cmd;
	} ring;
};

/* One write of the ring device. */
struct ring_write {
	uint64_t iova;
	uint32_t nr; /* words */
	uint64_t words[SIM_EDU_RING_MAX_WORDS];
};

static const struct regs power_on = {
	.last = UINT32_MAX,
	.pattern = 0xedededededededed,
};

struct sim_edu {
	struct sim_edu_cfg cfg;
	struct sim_pci *pci;
	pthread_t thread;

	/*
	 * Everything below. Never held during an access to memory. Order: sim_pci's lock around
	 * reset and set_master, this one, sim_pci's interrupt lock.
	 */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* for whoever waits for any of what follows */
	struct regs regs;
	bool master, stop, joined;
	bool accessing;	     /* the thread is in an access */
	unsigned nr_waiting; /* threads that wait until it is not: it begins no other */
	uint64_t nr_dmas;    /* that ended, whatever became of them */
	uint64_t random;
	unsigned burst; /* hostile accesses since the last rest */
	uint64_t burst_start;

	uint8_t buffer[SIM_EDU_BUFFER_LEN];
	uint8_t hostile_data[MAX_ACCESS]; /* the thread's */
	/* What is left of the ring device's batch: writes [next, nr), which end in flags. */
	struct ring_write writes[MAX_WRITES];
	unsigned nr_writes, next_write, nr_batch;
};

/* ---- the thread that masters; the lock is held where nothing else is said ---------------------
 */

/* Wait until no access is under way. None begins before the lock is given up. */
static void wait_idle(struct sim_edu *edu)
{
	edu->nr_waiting++;
	while (edu->accessing)
		pthread_cond_wait(&edu->changed, &edu->lock);
	edu->nr_waiting--;
	pthread_cond_broadcast(&edu->changed);
}

/* One access. Return: as the port's. */
static int master(struct sim_edu *edu, bool write, uint64_t iova, void *data, size_t len)
{
	const struct sim_port *port = &edu->cfg.port;
	int ret;

	edu->accessing = true;
	pthread_mutex_unlock(&edu->lock);
	ret = write ? port->write(port->ctx, iova, data, len)
		    : port->read(port->ctx, iova, data, len);
	pthread_mutex_lock(&edu->lock);
	edu->accessing = false;
	if (edu->nr_waiting)
		pthread_cond_broadcast(&edu->changed);
	return ret;
}

static void raise_causes(struct sim_edu *edu, uint32_t causes)
{
	if (edu->stop)
		return;
	edu->regs.irq |= causes & ALL_CAUSES;
	sim_pci_set_intx(edu->pci, edu->regs.irq);
	for (unsigned vec = 0; vec < SIM_EDU_VECS; vec++)
		if (causes >> vec & 1)
			sim_pci_fire(edu->pci, vec);
}

static void dma_end(struct sim_edu *edu, enum sim_edu_result result)
{
	struct regs *regs = &edu->regs;

	regs->result = result;
	regs->cmd &= ~SIM_EDU_RUN;
	edu->nr_dmas++;
	if (edu->cfg.progress)
		edu->cfg.progress(edu->cfg.ctx, edu->nr_dmas);
	if (regs->cmd & SIM_EDU_NOTIFY)
		raise_causes(edu, 1u << (regs->cmd >> 8 & 3));
}

/* The next word of a DMA: so the count is exact, whatever bounds a mapping. */
static void dma_step(struct sim_edu *edu)
{
	struct regs *regs = &edu->regs;
	bool write = regs->cmd & SIM_EDU_TO_MEMORY;
	uint64_t iova = regs->iova + regs->count;
	uint32_t at = regs->offset + regs->count;
	uint32_t len = (uint32_t)MIN(WORD - iova % WORD, regs->len - regs->count);
	uint8_t word[WORD];
	int ret;

	if (!edu->master) {
		dma_end(edu, SIM_EDU_NO_MASTER);
		return;
	}
	memcpy(word, edu->buffer + at, len);
	ret = master(edu, write, iova, word, len);
	if (ret) {
		dma_end(edu, SIM_EDU_REFUSED_AT);
		return;
	}
	if (!write)
		memcpy(edu->buffer + at, word, len);
	regs->count += len;
	if (regs->count == regs->len)
		dma_end(edu, SIM_EDU_DONE);
}

/* xorshift64*; the state is never 0 */
static uint64_t random64(struct sim_edu *edu)
{
	edu->random ^= edu->random >> 12;
	edu->random ^= edu->random << 25;
	edu->random ^= edu->random >> 27;
	return edu->random * UINT64_C(0x2545f4914f6cdd1d);
}

/* Words are those of IOVA space, so that what was written can be told wherever it ends. */
static void fill_pattern(uint8_t *data, uint64_t iova, size_t len, uint64_t pattern)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(pattern >> (iova + i) % 8 * 8);
}

static uint64_t count_words(const uint8_t *data, uint64_t iova, size_t len, uint64_t word)
{
	uint64_t count = 0;

	for (size_t i = -iova % 8; i + 8 <= len; i += 8)
		count += get_le64(data + i) == word;
	return count;
}

static void hostile_step(struct sim_edu *edu)
{
	struct regs *regs = &edu->regs;
	uint64_t span = regs->last - regs->first; /* less one byte */
	uint64_t draw = random64(edu), secret = regs->secret, iova, left;
	bool write = draw & 1;
	size_t len;

	iova = random64(edu);
	iova = regs->first + (span == UINT64_MAX ? iova : iova % (span + 1));
	if (draw & 2)
		iova = MAX(regs->first, ALIGN_DOWN(iova, 8));
	/* Short ones as often as long ones. */
	len = 1 + (draw >> 8) % (UINT64_C(1) << (draw >> 2) % 13);
	left = regs->last - iova;
	len = left < len ? left + 1 : len;

	if (write)
		fill_pattern(edu->hostile_data, iova, len, regs->pattern);
	else
		memset(edu->hostile_data, 0, len);
	if (master(edu, write, iova, edu->hostile_data, len)) {
		regs->refused++;
	} else if (write) {
		regs->writes++;
	} else {
		regs->reads++;
	}
	/* Of a read that was refused on its way, too: what came before was read. */
	if (!write && secret)
		regs->seen += count_words(edu->hostile_data, iova, len, secret);
	edu->burst++;
}

/* ---- the ring ---------------------------------------------------------------------------------
 */

static uint64_t ring_room(const struct regs *regs)
{
	uint32_t used = (uint32_t)regs->ring.count - regs->ring.head;

	return used < regs->ring.entries ? regs->ring.entries - used : 0;
}

static bool ring_runs(const struct sim_edu *edu)
{
	return edu->master && edu->regs.ring.cmd & SIM_EDU_RING_RUN &&
	       (edu->next_write < edu->nr_writes || ring_room(&edu->regs));
}

/* Add a write of @nr words. Return: where they go. */
static uint64_t *ring_add(struct sim_edu *edu, uint64_t iova, uint32_t nr)
{
	struct ring_write *w = &edu->writes[edu->nr_writes++];

	w->iova = iova;
	w->nr = nr;
	return w->words;
}

static void ring_swap(struct sim_edu *edu, unsigned a, unsigned b)
{
	struct ring_write w = edu->writes[a];

	edu->writes[a] = edu->writes[b];
	edu->writes[b] = w;
}

/* The payload in one go, or in words from either end. */
static void ring_add_payload(struct sim_edu *edu, uint64_t n, unsigned how)
{
	const struct regs *regs = &edu->regs;
	uint32_t nr = regs->ring.payload;
	uint64_t at = regs->ring.data + n % regs->ring.entries * nr * WORD;

	if (how % 2 && nr) {
		uint64_t *to = ring_add(edu, at, nr);

		for (unsigned i = 0; i < nr; i++)
			to[i] = sim_edu_ring_word(regs->ring.seed, n, SIM_EDU_RING_MAX_WORDS + i);
		return;
	}
	for (unsigned k = 0; k < nr; k++) {
		unsigned i = how & 2 ? nr - 1 - k : k;

		*ring_add(edu, at + i * WORD, 1) =
			sim_edu_ring_word(regs->ring.seed, n, SIM_EDU_RING_MAX_WORDS + i);
	}
}

/* All words but the flag, from either end. */
static void ring_add_entry(struct sim_edu *edu, uint64_t n, unsigned how)
{
	const struct regs *regs = &edu->regs;
	uint64_t at = regs->ring.iova + n % regs->ring.entries * regs->ring.words * WORD;

	for (unsigned k = 0; k < regs->ring.words; k++) {
		unsigned i = how & 1 ? regs->ring.words - 1 - k : k;

		if (i != regs->ring.flag)
			*ring_add(edu, at + i * WORD, 1) = sim_edu_ring_word(regs->ring.seed, n, i);
	}
}

/*
 * The next entries, in an order that chance chooses: everything but flags, entry by entry or all
 * mixed up, then the flags from the first entry on, or towards it.
 */
static void ring_begin(struct sim_edu *edu)
{
	const struct regs *regs = &edu->regs;
	uint64_t draw = random64(edu), room = ring_room(regs), first = regs->ring.count;
	unsigned nr = 1;

	edu->next_write = edu->nr_writes = 0;
	if (regs->ring.cmd & SIM_EDU_RING_SHUFFLE)
		nr += (unsigned)(draw % MIN(room, BATCH));
	for (unsigned k = 0; k < nr; k++) {
		ring_add_payload(edu, first + k, (unsigned)(draw >> 8));
		ring_add_entry(edu, first + k, (unsigned)(draw >> 10));
	}
	if (regs->ring.cmd & SIM_EDU_RING_SHUFFLE && draw >> 11 & 1) {
		for (unsigned i = edu->nr_writes; i > 1; i--)
			ring_swap(edu, i - 1, (unsigned)(random64(edu) % i));
	}
	for (unsigned k = 0; k < nr; k++) {
		uint64_t n = first + (draw >> 12 & 1 ? nr - 1 - k : k);

		*ring_add(edu,
			  regs->ring.iova +
				  (n % regs->ring.entries * regs->ring.words + regs->ring.flag) *
					  WORD,
			  1) = n + 1;
	}
	edu->nr_batch = nr;
}

/* Short ones are much more frequent than long ones. */
static void ring_rest(struct sim_edu *edu)
{
	uint64_t draw = random64(edu);
	struct timespec time = {0};

	time.tv_nsec = (long)((draw >> 8) % (UINT64_C(1) << draw % 17));
	pthread_mutex_unlock(&edu->lock);
	if (draw >> 61)
		sched_yield();
	else
		nanosleep(&time, NULL);
	pthread_mutex_lock(&edu->lock);
}

/* One write. */
static void ring_step(struct sim_edu *edu)
{
	struct regs *regs = &edu->regs;
	struct ring_write *w;

	if (edu->next_write == edu->nr_writes)
		ring_begin(edu);
	w = &edu->writes[edu->next_write++];
	if (master(edu, true, w->iova, w->words, w->nr * WORD)) {
		regs->ring.cmd &= ~SIM_EDU_RING_RUN;
		return;
	}
	if (edu->next_write == edu->nr_writes) {
		regs->ring.count += edu->nr_batch;
		if (regs->ring.cmd & SIM_EDU_RING_NOTIFY)
			raise_causes(edu, 1);
	}
	if (regs->ring.cmd & SIM_EDU_RING_PAUSES && random64(edu) >> 60 == 0)
		ring_rest(edu);
}

static void ring_command(struct sim_edu *edu, uint32_t cmd)
{
	struct regs *regs = &edu->regs;

	wait_idle(edu);
	edu->nr_writes = edu->next_write = 0;
	regs->ring.cmd = cmd & (SIM_EDU_RING_RUN | SIM_EDU_RING_PAUSES | SIM_EDU_RING_SHUFFLE |
				SIM_EDU_RING_NOTIFY);
	if (cmd & SIM_EDU_RING_RUN)
		regs->ring.count = regs->ring.head = 0;
	if (!regs->ring.entries || regs->ring.entries > SIM_EDU_RING_MAX_ENTRIES ||
	    regs->ring.flag >= regs->ring.words || regs->ring.words > SIM_EDU_RING_MAX_WORDS ||
	    regs->ring.payload > SIM_EDU_RING_MAX_WORDS ||
	    (regs->ring.iova | regs->ring.data) % WORD)
		regs->ring.cmd &= ~SIM_EDU_RING_RUN;
	pthread_cond_broadcast(&edu->changed);
}

static bool is_hostile(const struct sim_edu *edu)
{
	return edu->cfg.hostile && !edu->regs.pause && edu->regs.first <= edu->regs.last;
}

/* Half of a CPU is the most it takes: a guest that shares it must get on. */
static void rest(struct sim_edu *edu)
{
	uint64_t ns = monotonic_ns() - edu->burst_start;
	struct timespec time = {0};

	time.tv_nsec = (long)MIN(MAX(ns, MIN_REST_NS), MAX_REST_NS);
	pthread_mutex_unlock(&edu->lock);
	nanosleep(&time, NULL);
	pthread_mutex_lock(&edu->lock);
	edu->burst = 0;
	edu->burst_start = monotonic_ns();
}

static void *run(void *arg)
{
	struct sim_edu *edu = arg;

	pthread_setname_np(pthread_self(), "sim-edu");
	sandbox_enter(SANDBOX_EDU);
	trace_name_thread(edu->cfg.name);
	pthread_mutex_lock(&edu->lock);
	edu->burst_start = monotonic_ns();
	while (!edu->stop) {
		if (edu->nr_waiting ||
		    !(is_hostile(edu) || edu->regs.cmd & SIM_EDU_RUN || ring_runs(edu))) {
			pthread_cond_wait(&edu->changed, &edu->lock);
		} else if (edu->burst == BURST) {
			rest(edu);
		} else {
			if (edu->regs.cmd & SIM_EDU_RUN)
				dma_step(edu);
			if (ring_runs(edu) && !edu->nr_waiting)
				ring_step(edu);
			if (is_hostile(edu) && !edu->nr_waiting)
				hostile_step(edu);
		}
	}
	pthread_mutex_unlock(&edu->lock);
	return NULL;
}

/* ---- registers; the lock is held ---------------------------------------------------------------
 */

static void dma_command(struct sim_edu *edu, uint32_t cmd)
{
	struct regs *regs = &edu->regs;

	if (regs->cmd & SIM_EDU_RUN)
		return;
	regs->cmd = cmd & CMD_MASK;
	if (!(cmd & SIM_EDU_RUN))
		return;
	regs->count = 0;
	if (!regs->len || regs->offset > SIM_EDU_BUFFER_LEN ||
	    regs->len > SIM_EDU_BUFFER_LEN - regs->offset)
		dma_end(edu, SIM_EDU_INVALID);
	else
		pthread_cond_broadcast(&edu->changed);
}

/* The 64-bit register that @off is a half of; NULL: there is none. */
static uint64_t *wide_reg(struct regs *regs, uint64_t off)
{
	switch (off & ~UINT64_C(7)) {
	case SIM_EDU_DMA_IOVA:
		return &regs->iova;
	case SIM_EDU_FIRST:
		return &regs->first;
	case SIM_EDU_LAST:
		return &regs->last;
	case SIM_EDU_PATTERN:
		return &regs->pattern;
	case SIM_EDU_SECRET:
		return &regs->secret;
	case SIM_EDU_SEEN:
		return &regs->seen;
	case SIM_EDU_READS:
		return &regs->reads;
	case SIM_EDU_WRITES:
		return &regs->writes;
	case SIM_EDU_REFUSED:
		return &regs->refused;
	case SIM_EDU_RING_IOVA:
		return &regs->ring.iova;
	case SIM_EDU_RING_DATA:
		return &regs->ring.data;
	case SIM_EDU_RING_SEED:
		return &regs->ring.seed;
	case SIM_EDU_RING_COUNT:
		return &regs->ring.count;
	}
	return NULL;
}

static uint32_t reg_read(struct sim_edu *edu, uint64_t off)
{
	struct regs *regs = &edu->regs;
	const uint64_t *wide = wide_reg(regs, off);

	if (wide)
		return (uint32_t)(*wide >> off % 8 * 8);
	switch (off) {
	case SIM_EDU_ID:
		return SIM_EDU_ID_VALUE;
	case SIM_EDU_SCRATCH:
		return ~regs->scratch;
	case SIM_EDU_STATUS:
		return (regs->cmd & SIM_EDU_RUN ? SIM_EDU_BUSY : 0) |
		       (edu->master ? SIM_EDU_MASTER : 0) |
		       (edu->cfg.hostile ? SIM_EDU_HOSTILE : 0);
	case SIM_EDU_IRQ:
		return regs->irq;
	case SIM_EDU_DMA_OFFSET:
		return regs->offset;
	case SIM_EDU_DMA_LEN:
		return regs->len;
	case SIM_EDU_DMA_CMD:
		return regs->cmd;
	case SIM_EDU_DMA_RESULT:
		return regs->result;
	case SIM_EDU_DMA_COUNT:
		return regs->count;
	case SIM_EDU_PAUSE:
		return regs->pause;
	case SIM_EDU_RING_ENTRIES:
		return regs->ring.entries;
	case SIM_EDU_RING_WORDS:
		return regs->ring.words;
	case SIM_EDU_RING_PAYLOAD:
		return regs->ring.payload;
	case SIM_EDU_RING_FLAG:
		return regs->ring.flag;
	case SIM_EDU_RING_HEAD:
		return regs->ring.head;
	case SIM_EDU_RING_CMD:
		return regs->ring.cmd;
	}
	return 0;
}

static void reg_write(struct sim_edu *edu, uint64_t off, uint32_t value)
{
	struct regs *regs = &edu->regs;
	uint64_t *wide = wide_reg(regs, off);

	if (off - SIM_EDU_RING_IOVA <= SIM_EDU_RING_FLAG - SIM_EDU_RING_IOVA &&
	    (regs->ring.cmd & SIM_EDU_RING_RUN || (off & ~UINT64_C(7)) == SIM_EDU_RING_COUNT))
		return; /* it goes on as it began */
	if (wide && off >= SIM_EDU_SEEN && off < SIM_EDU_RING_IOVA) {
		*wide = 0;
		return;
	}
	/* A DMA under way goes where it was told to. */
	if (regs->cmd & SIM_EDU_RUN && off >= SIM_EDU_DMA_IOVA && off <= SIM_EDU_DMA_LEN)
		return;
	if (wide) {
		*wide = (*wide & ~((uint64_t)UINT32_MAX << off % 8 * 8)) | (uint64_t)value
										   << off % 8 * 8;
		pthread_cond_broadcast(&edu->changed);
		return;
	}
	switch (off) {
	case SIM_EDU_SCRATCH:
		regs->scratch = value;
		break;
	case SIM_EDU_IRQ_RAISE:
		raise_causes(edu, value & ALL_CAUSES);
		break;
	case SIM_EDU_IRQ_ACK:
		regs->irq &= ~value;
		sim_pci_set_intx(edu->pci, regs->irq);
		break;
	case SIM_EDU_DMA_OFFSET:
		regs->offset = value;
		break;
	case SIM_EDU_DMA_LEN:
		regs->len = value;
		break;
	case SIM_EDU_DMA_CMD:
		dma_command(edu, value);
		break;
	case SIM_EDU_PAUSE:
		wait_idle(edu);
		regs->pause = value & 1;
		break;
	case SIM_EDU_RING_ENTRIES:
		regs->ring.entries = value;
		break;
	case SIM_EDU_RING_WORDS:
		regs->ring.words = value;
		break;
	case SIM_EDU_RING_PAYLOAD:
		regs->ring.payload = value;
		break;
	case SIM_EDU_RING_FLAG:
		regs->ring.flag = value;
		break;
	case SIM_EDU_RING_HEAD:
		regs->ring.head = value;
		pthread_cond_broadcast(&edu->changed);
		break;
	case SIM_EDU_RING_CMD:
		ring_command(edu, value);
		break;
	}
}

static void edu_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct sim_edu *edu = ctx;

	pthread_mutex_lock(&edu->lock);
	if (off >= SIM_EDU_BUFFER) {
		uint8_t *at = edu->buffer + (off - SIM_EDU_BUFFER);

		memcpy(write ? at : data, write ? data : at, len);
	} else if (len >= 4) {
		for (unsigned i = 0; i < len; i += 4) {
			if (write)
				reg_write(edu, off + i, get_le32((uint8_t *)data + i));
			else
				put_le32((uint8_t *)data + i, reg_read(edu, off + i));
		}
	} else if (!write) {
		memset(data, 0, len);
	}
	pthread_mutex_unlock(&edu->lock);
}

static void edu_reset(void *ctx)
{
	struct sim_edu *edu = ctx;

	pthread_mutex_lock(&edu->lock);
	wait_idle(edu);
	edu->regs = power_on;
	edu->nr_writes = edu->next_write = 0;
	memset(edu->buffer, 0, sizeof(edu->buffer));
	sim_pci_set_intx(edu->pci, false);
	pthread_mutex_unlock(&edu->lock);
}

static void edu_set_master(void *ctx, bool on)
{
	struct sim_edu *edu = ctx;

	pthread_mutex_lock(&edu->lock);
	wait_idle(edu);
	edu->master = on;
	pthread_mutex_unlock(&edu->lock);
}

static int edu_msi_target(void *ctx, uint64_t addr, uint64_t *gpa)
{
	struct sim_edu *edu = ctx;

	return edu->cfg.msi_target(edu->cfg.ctx, addr, gpa);
}

/* ---- lifetime ----------------------------------------------------------------------------------
 */

int sim_edu_create(const struct sim_edu_cfg *cfg, struct sim_edu **out)
{
	struct sim_edu *edu = calloc(1, sizeof(*edu));
	const struct sim_pci_cfg pci = {
		.name = cfg->name,
		.vendor = SIM_EDU_VENDOR,
		.device = SIM_EDU_DEVICE,
		.class = SIM_EDU_CLASS,
		.bar_len = SIM_EDU_BAR_LEN,
		.nr_msix = SIM_EDU_VECS,
		.access = edu_access,
		.reset = edu_reset,
		.set_master = edu_set_master,
		.msi_target = cfg->msi_target ? edu_msi_target : NULL,
		.ctx = edu,
	};
	int ret;

	if (!edu)
		return -ENOMEM;
	edu->cfg = *cfg;
	edu->regs = power_on;
	edu->random = 0x6564;
	ret = sim_pci_create(&pci, &edu->pci);
	if (ret)
		goto err_free;
	pthread_mutex_init(&edu->lock, NULL);
	pthread_cond_init(&edu->changed, NULL);
	ret = -pthread_create(&edu->thread, NULL, run, edu);
	if (ret)
		goto err_pci;
	*out = edu;
	return 0;

err_pci:
	pthread_cond_destroy(&edu->changed);
	pthread_mutex_destroy(&edu->lock);
	sim_pci_destroy(edu->pci);
err_free:
	free(edu);
	return ret;
}

void sim_edu_stop(struct sim_edu *edu)
{
	pthread_mutex_lock(&edu->lock);
	edu->stop = true;
	pthread_cond_broadcast(&edu->changed);
	pthread_mutex_unlock(&edu->lock);
	if (!edu->joined)
		pthread_join(edu->thread, NULL);
	edu->joined = true;
}

void sim_edu_destroy(struct sim_edu *edu)
{
	if (!edu)
		return;
	sim_edu_stop(edu);
	pthread_cond_destroy(&edu->changed);
	pthread_mutex_destroy(&edu->lock);
	sim_pci_destroy(edu->pci);
	free(edu);
}

struct pci_dev *sim_edu_dev(struct sim_edu *edu)
{
	return sim_pci_dev(edu->pci);
}
