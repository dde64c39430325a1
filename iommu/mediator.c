/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/mediator.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/domain.h"
#include "iommu/fair.h"

#define FAULTLOG_CAPACITY 256
#define SCRATCH_LINES	  8192
/* Lines a guest can make us log; what comes after is only counted. */
#define LOG_LIMIT	  32
#define MAX_RESV	  (MEDIATOR_MAX_STREAMS * INSTANCE_MAX_APERTURES + 3)
#define MIN_GRANULE	  4096
/* Sync points in a row with nothing to look at, before an endpoint is not trapped any more. Each
 * cost an exit, some microseconds; taking its registers from the guest and back costs some dozens
 * of these. */
#define CALM_POINTS	  128

struct endpoint {
	struct mediator *m;
	struct endpoint_cfg cfg;
	struct stream_state *streams[MEDIATOR_MAX_STREAMS];
	struct domain *domain; /* NULL: unattached */
	bool rings_in_order;   /* one of its kin is SYNC_FULL or may become so */
	bool full;	       /* it is SYNC_FULL, or has become so */
	bool told;	       /* the operator knows that an IOMMU of it is cut off */
	void (*trap)(void *ctx, enum trap_state state); /* NULL: always trapped */
	void *trap_ctx;
	enum trap_state trap_state; /* as last told */
	bool guarded;		    /* TRAP_OFF makes no difference to it */
	unsigned nr_calm;	    /* sync points in a row with nothing to look at */
	unsigned nr_resv;	    /* known once sealed */
	struct resv_region resv[MAX_RESV];
	struct ring_heads heads; /* in the frame table of its domain */
	struct endpoint *next;
};

struct mediator {
	struct fair_mutex lock;
	struct mediator_cfg cfg;
	struct domain_env env;
	struct sync_hold hold; /* cfg's */
	bool sealed;	       /* requests have begun: endpoints, granules and ranges are final */
	struct iova_range input_range;
	struct endpoint *endpoints;
	struct stream_state *streams;
	unsigned nr_domains;
	bool bypass; /* of unattached endpoints */
	struct domain
		*boot_bypass; /* holds the streams of unattached endpoints while bypass is on */
	struct faultlog *faults;
	unsigned nr_log_lines;
	uint64_t errors_told; /* stats.instance_errors, when last looked at */
	struct mediator_stats stats;
};

static void log_line(struct mediator *m, const char *line)
{
	if (!m->cfg.log || m->nr_log_lines > LOG_LIMIT)
		return;
	if (m->nr_log_lines++ == LOG_LIMIT)
		line = "further messages about the guest's IOMMU requests are only counted";
	m->cfg.log(m->cfg.log_ctx, line);
}

/* ---- events ---- */

/* When something began that may be told, and what had been copied. */
struct mark {
	uint64_t ns, copied;
};

static uint64_t bytes_copied(const struct mediator *m)
{
	return m->stats.bytes_to_device + m->stats.bytes_to_guest;
}

static struct mark mark_now(const struct mediator *m)
{
	if (!m->cfg.event)
		return (struct mark){0};
	return (struct mark){m->env.now_ns(), bytes_copied(m)};
}

static __attribute__((noinline)) void send_event(const struct mediator *m, struct mark mark,
						 int ret, struct mediator_event *event)
{
	event->ret = ret;
	event->copied = bytes_copied(m) - mark.copied;
	event->begin_ns = mark.ns;
	event->end_ns = m->env.now_ns();
	m->cfg.event(m->cfg.event_ctx, event);
}

/* Inline, so that with nobody to tell not even the event is made. */
static inline __attribute__((always_inline)) void
tell_event(const struct mediator *m, struct mark mark, int ret, struct mediator_event event)
{
	if (m->cfg.event)
		send_event(m, mark, ret, &event);
}

/* Does not need the lock. */
static void add_fault(struct mediator *m, const struct fault *fault)
{
	uint64_t now;

	faultlog_add(m->faults, fault);
	if (!m->cfg.event)
		return;
	now = m->env.now_ns();
	m->cfg.event(m->cfg.event_ctx, &(struct mediator_event){.kind = EVENT_FAULT,
								.endpoint = fault->endpoint,
								.start = fault->iova,
								.flags = fault->flags,
								.begin_ns = now,
								.end_ns = now});
}

/* ---- trapping ---- */

/* What an endpoint that was told @state is like. */
static enum trap_state seen_state(const struct endpoint *ep, enum trap_state state)
{
	return state == TRAP_OFF && ep->guarded ? TRAP_ON : state;
}

static void set_trap_state(struct endpoint *ep, enum trap_state state)
{
	enum trap_state before = seen_state(ep, ep->trap_state);
	struct mark mark;

	ep->nr_calm = 0;
	if (!ep->trap || ep->trap_state == state)
		return;
	ep->trap_state = state;
	mark = mark_now(ep->m);
	ep->trap(ep->trap_ctx, state);
	if (seen_state(ep, state) == before)
		return;
	if (seen_state(ep, state) == TRAP_ON)
		ep->m->stats.traps++;
	else
		ep->m->stats.untraps++;
	tell_event(ep->m, mark, 0,
		   (struct mediator_event){.kind = EVENT_TRAP,
					   .domain = ep->domain ? ep->domain->id : 0,
					   .endpoint = ep->cfg.id,
					   .flags = seen_state(ep, state)});
}

/* Every endpoint of the domain, before something in it needs sync points. */
static void trap_domain(struct domain *dom)
{
	struct mediator *m = container_of(dom->env, struct mediator, env);

	for (struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		if (ep->domain == dom)
			set_trap_state(ep, TRAP_ON);
	}
	dom->trapped = true;
}

/* Where a frame is one slot nothing is ever bounced. */
static bool can_bounce(const struct mediator *m)
{
	return m->env.frame_size > m->env.granule;
}

/* What the endpoint's accesses need be now. */
static enum trap_state needed_state(const struct endpoint *ep)
{
	if (!ep->domain || ep->domain->bypass || !can_bounce(ep->m))
		return TRAP_OFF_LONG;
	/* The write that tells must not go past who watches for it. */
	return domain_needs_sync(ep->domain) || ep->cfg.may_turn_full ? TRAP_ON : TRAP_OFF;
}

/* A sync point had nothing to look at. */
static void calm_point(struct endpoint *ep)
{
	enum trap_state state = needed_state(ep);

	if (ep->trap_state == state || ++ep->nr_calm < CALM_POINTS)
		return;
	if (ep->domain)
		ep->domain->trapped = false;
	set_trap_state(ep, state);
}

/* ---- life, before the first request ---- */

static bool ram_aligned(const struct gmem *gmem, uint64_t align)
{
	for (unsigned i = 0; i < gmem->nr_spans; i++) {
		const struct gmem_span *span = &gmem->spans[i];

		if (!IS_ALIGNED(span->gpa | span->len | (uintptr_t)span->hva, align))
			return false;
	}
	return true;
}

/* The lowest host address of RAM; NULL: what a frame's slots can say does not reach all of it. */
static uint8_t *ram_base(const struct gmem *gmem)
{
	uintptr_t low = UINTPTR_MAX, high = 0;

	for (unsigned i = 0; i < gmem->nr_spans; i++) {
		const struct gmem_span *span = &gmem->spans[i];

		low = MIN(low, (uintptr_t)span->hva);
		high = MAX(high, (uintptr_t)span->hva + span->len);
	}
	return high - low <= SLOT_REACH ? (uint8_t *)low : NULL;
}

int mediator_create(const struct mediator_cfg *cfg, struct mediator **out)
{
	struct mediator *m;
	int ret;

	if (!IS_POW2(cfg->guest_granule) || cfg->guest_granule < MIN_GRANULE ||
	    !ram_aligned(cfg->gmem, cfg->guest_granule) || !ram_base(cfg->gmem))
		return -EINVAL;
	m = iommu_zalloc(sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->cfg = *cfg;
	m->hold = (struct sync_hold){cfg->hold, cfg->release, cfg->hold_ctx};
	m->input_range = (struct iova_range){0, UINT64_MAX};
	m->env.gmem = cfg->gmem;
	m->env.ram_base = ram_base(cfg->gmem);
	m->env.granule = cfg->guest_granule;
	m->env.frame_size = cfg->guest_granule;
	m->env.stats = &m->stats;
	m->env.quarantine_limit = cfg->quarantine_frames;
	m->env.quarantine_ns = cfg->quarantine_ns;
	m->env.now_ns = cfg->now_ns ? cfg->now_ns : monotonic_ns;
	m->env.promote = cfg->promote;
	m->env.salt = cfg->salt;
	m->env.trap = trap_domain;
	ret = faultlog_create(FAULTLOG_CAPACITY, &m->faults);
	if (ret)
		goto err_m;
	faultlog_set_limit(m->faults, cfg->fault_rate, m->env.now_ns);
	ret = sync_scratch_create(SCRATCH_LINES, &m->env.scratch);
	if (ret)
		goto err_faults;
	fair_init(&m->lock);
	*out = m;
	return 0;

err_faults:
	faultlog_destroy(m->faults);
err_m:
	iommu_free(m);
	return ret;
}

void mediator_destroy(struct mediator *m)
{
	if (!m)
		return;
	mediator_reset(m);
	for (struct stream_state *stream = m->streams; stream; stream = stream->next) {
		if (stream->domain)
			domain_leave(stream);
	}
	if (m->boot_bypass)
		domain_destroy(m->boot_bypass);
	/* The caller has stopped what could still walk them. */
	while (m->env.lost) {
		struct shadow *shadow = m->env.lost;

		m->env.lost = shadow->next;
		shadow->ops->destroy(shadow);
	}
	while (m->streams) {
		struct stream_state *stream = m->streams;

		m->streams = stream->next;
		iommu_free(stream);
	}
	while (m->endpoints) {
		struct endpoint *ep = m->endpoints;

		m->endpoints = ep->next;
		iommu_free(ep);
	}
	fair_destroy(&m->lock);
	pool_destroy(m->env.pool);
	sync_scratch_destroy(m->env.scratch);
	faultlog_destroy(m->faults);
	iommu_free(m);
}

static struct endpoint *find_endpoint(const struct mediator *m, uint32_t id)
{
	struct endpoint *ep = m->endpoints;

	while (ep && ep->cfg.id != id)
		ep = ep->next;
	return ep;
}

/* Of the endpoint's @i-th stream; while it is being added only its configuration knows. */
static struct instance *instance_of(const struct endpoint *ep, unsigned i)
{
	return ep->cfg.streams ? ep->cfg.streams[i].inst : ep->streams[i]->id.inst;
}

/* The usable ranges of all the endpoint's instances together, cut to whole frames of @align bytes.
 */
static unsigned common_apertures(const struct endpoint *ep, uint64_t align, struct iova_range *out,
				 unsigned max)
{
	struct iova_range now[MAX_RESV], next[MAX_RESV];
	unsigned nr = 1, n;

	now[0] = (struct iova_range){0, UINT64_MAX};
	for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
		const struct instance *inst = instance_of(ep, i);

		n = 0;
		for (unsigned a = 0; a < nr; a++) {
			for (unsigned b = 0; b < inst->nr_apertures && n < MAX_RESV; b++) {
				uint64_t start = MAX(now[a].start, inst->apertures[b].start);
				uint64_t last = MIN(now[a].last, inst->apertures[b].last);

				if (start <= last)
					next[n++] = (struct iova_range){start, last};
			}
		}
		memcpy(now, next, n * sizeof(now[0]));
		nr = n;
	}
	n = 0;
	for (unsigned a = 0; a < nr && n < max; a++) {
		uint64_t start = ALIGN_UP(now[a].start, align);
		uint64_t end = ALIGN_DOWN(now[a].last + 1, align); /* 0: up to the very end */

		if (start >= now[a].start && (end - 1) > start && end - 1 <= now[a].last)
			out[n++] = (struct iova_range){start, end - 1};
	}
	return n;
}

/* Frame size and input range as they would be with @ep among the endpoints. */
static int shape_with(const struct mediator *m, const struct endpoint *ep, uint64_t *frame_size,
		      struct iova_range *range)
{
	struct iova_range apertures[MAX_RESV];
	unsigned nr;

	*frame_size = m->env.frame_size;
	for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
		const struct stream *stream = &ep->cfg.streams[i];

		if (!IS_POW2(stream->inst->granule) || stream->sid >= stream->inst->nr_streams)
			return -EINVAL;
		*frame_size = MAX(*frame_size, stream->inst->granule);
	}
	if (*frame_size / m->env.granule > FRAME_MAX_SLOTS ||
	    !ram_aligned(m->cfg.gmem, *frame_size))
		return -EINVAL;
	nr = common_apertures(ep, *frame_size, apertures, MAX_RESV);
	if (!nr)
		return -EINVAL;
	range->start = MAX(m->input_range.start, apertures[0].start);
	range->last = MIN(m->input_range.last, apertures[nr - 1].last);
	return range->start < range->last ? 0 : -EINVAL;
}

/* The state of a stream, made when its first endpoint comes. Those of a refused endpoint stay: they
 * are as good for the next, and go with the mediator. */
static struct stream_state *get_stream(struct mediator *m, const struct stream *id)
{
	struct stream_state *stream = m->streams;

	while (stream && (stream->id.inst != id->inst || stream->id.sid != id->sid))
		stream = stream->next;
	if (stream)
		return stream;
	stream = iommu_zalloc(sizeof(*stream));
	if (!stream)
		return NULL;
	stream->id = *id;
	stream->next = m->streams;
	m->streams = stream;
	return stream;
}

/* Find the endpoint's streams; one named twice is one. */
static int get_streams(struct mediator *m, struct endpoint *ep, const struct endpoint_cfg *cfg)
{
	ep->cfg.nr_streams = 0;
	for (unsigned i = 0; i < cfg->nr_streams; i++) {
		struct stream_state *stream = get_stream(m, &cfg->streams[i]);
		unsigned n = 0;

		if (!stream)
			return -ENOMEM;
		while (n < ep->cfg.nr_streams && ep->streams[n] != stream)
			n++;
		if (n < ep->cfg.nr_streams)
			continue;
		ep->streams[ep->cfg.nr_streams++] = stream;
	}
	ep->cfg.streams = NULL;
	return 0;
}

int mediator_add_endpoint(struct mediator *m, const struct endpoint_cfg *cfg, struct endpoint **out)
{
	struct iova_range range;
	uint64_t frame_size;
	struct endpoint *ep;
	int ret;

	if (!cfg->nr_streams || cfg->nr_streams > MEDIATOR_MAX_STREAMS)
		return -EINVAL;
	ep = iommu_zalloc(sizeof(*ep));
	if (!ep)
		return -ENOMEM;
	ep->m = m;
	ep->cfg = *cfg;
	ep->full = cfg->sync == SYNC_FULL;
	fair_lock(&m->lock);
	if (m->sealed)
		ret = -EBUSY;
	else if (find_endpoint(m, cfg->id))
		ret = -EEXIST;
	else
		ret = shape_with(m, ep, &frame_size, &range);
	if (!ret)
		ret = get_streams(m, ep, cfg);
	if (!ret) {
		m->env.frame_size = frame_size;
		m->input_range = range;
		ep->next = m->endpoints;
		m->endpoints = ep;
		*out = ep;
	}
	fair_unlock(&m->lock);
	if (ret)
		iommu_free(ep);
	return ret;
}

/* [start, last] less the doorbell, which has a region of its own: regions must not overlap. */
static void add_hole(struct endpoint *ep, uint64_t start, uint64_t last,
		     const struct resv_region *msi)
{
	if (msi->start > msi->last || msi->last < start || msi->start > last) {
		ep->resv[ep->nr_resv++] = (struct resv_region){start, last, false};
		return;
	}
	if (start < msi->start)
		ep->resv[ep->nr_resv++] = (struct resv_region){start, msi->start - 1, false};
	if (msi->last < last)
		ep->resv[ep->nr_resv++] = (struct resv_region){msi->last + 1, last, false};
}

/* What an endpoint cannot use: the MSI doorbell, and the holes of its apertures inside the input
 * range. */
static void find_resv(const struct mediator *m, struct endpoint *ep)
{
	uint64_t h = m->env.frame_size;
	struct iova_range apertures[MAX_RESV];
	struct resv_region msi = {.start = 1, .last = 0, .msi = true};
	unsigned nr = common_apertures(ep, h, apertures, MAX_RESV - 3);
	const struct iova_range *range = &m->input_range;
	uint64_t at = range->start;
	bool open = true; /* what lies at and above @at is not known to be usable */

	if (m->cfg.doorbell.start <= m->cfg.doorbell.last) {
		msi.start = ALIGN_DOWN(m->cfg.doorbell.start, h);
		msi.last = m->cfg.doorbell.last | (h - 1);
	}
	ep->nr_resv = 0;
	for (unsigned a = 0; a < nr && open; a++) {
		if (apertures[a].last < at)
			continue;
		if (apertures[a].start > at)
			add_hole(ep, at, MIN(apertures[a].start - 1, range->last), &msi);
		open = apertures[a].last < range->last;
		at = apertures[a].last + 1;
	}
	if (open)
		add_hole(ep, at, range->last, &msi);
	if (msi.start <= msi.last) {
		unsigned i = ep->nr_resv++;

		for (; i && ep->resv[i - 1].start > msi.start; i--)
			ep->resv[i] = ep->resv[i - 1];
		ep->resv[i] = msi;
	}
}

/* From the first question or request on, what the guest was told holds. Return: 0; -ENOMEM. */
static int seal(struct mediator *m)
{
	uint64_t page = MAX(m->env.frame_size, m->env.granule);

	if (m->sealed)
		return 0;
	if (!m->env.pool) {
		int ret = pool_create(page, MAX(m->cfg.pool_limit, 2 * page), &m->env.pool);

		if (ret)
			return ret;
	}
	for (struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		find_resv(m, ep);
		for (struct endpoint *kin = m->endpoints; kin && can_bounce(m); kin = kin->next)
			ep->rings_in_order |= kin->cfg.kin == ep->cfg.kin &&
					      (kin->full || kin->cfg.may_turn_full);
	}
	m->env.park_limit = m->cfg.park_limit / (2 * page);
	m->env.granule_lg2 = (unsigned)__builtin_ctzll(m->env.granule);
	m->env.frame_lg2 = (unsigned)__builtin_ctzll(m->env.frame_size);
	m->sealed = true;
	return 0;
}

struct iova_range mediator_input_range(struct mediator *m)
{
	struct iova_range range;

	fair_lock(&m->lock);
	range = m->input_range;
	fair_unlock(&m->lock);
	return range;
}

uint64_t mediator_frame_size(struct mediator *m)
{
	uint64_t size;

	fair_lock(&m->lock);
	size = m->env.frame_size;
	fair_unlock(&m->lock);
	return size;
}

int mediator_resv_regions(struct mediator *m, uint32_t endpoint, struct resv_region *out,
			  unsigned max)
{
	const struct endpoint *ep;
	int ret;

	fair_lock(&m->lock);
	ret = seal(m);
	if (ret)
		goto out;
	ret = -ENOENT;
	ep = find_endpoint(m, endpoint);
	if (ep) {
		memcpy(out, ep->resv, MIN(max, ep->nr_resv) * sizeof(*out));
		ret = (int)ep->nr_resv;
	}
out:
	fair_unlock(&m->lock);
	return ret;
}

/* ---- attach and detach ---- */

static struct domain *find_domain(const struct mediator *m, uint32_t id)
{
	struct domain *dom = m->env.domains;

	while (dom && dom->id != id)
		dom = dom->next;
	return dom;
}

/* Does [start, last] touch a reserved region of @ep? */
static bool hits_resv(const struct endpoint *ep, uint64_t start, uint64_t last)
{
	for (unsigned i = 0; i < ep->nr_resv; i++) {
		if (ep->resv[i].start <= last && start <= ep->resv[i].last)
			return true;
	}
	return false;
}

/* Could @ep live in @dom? */
static int check_join(const struct endpoint *ep, const struct domain *dom)
{
	struct mapping map;

	for (unsigned i = 0; i < ep->nr_resv; i++) {
		if (maptree_first(dom->maps, ep->resv[i].start, ep->resv[i].last, &map))
			return -EINVAL;
	}
	/* A ring that is direct already stays so. */
	if (ep->rings_in_order && !dom->ring_limit && ep->m->cfg.ring_limit && !dom->bypass &&
	    maptree_first(dom->maps, 0, UINT64_MAX, &map))
		return -EINVAL;
	/* What is exposed already was so for endpoints that agreed to it. */
	if (!ep->cfg.relaxed && dom->relaxed) {
		for (const struct frame *frame = frame_walk(&dom->frames, NULL); frame;
		     frame = frame_walk(&dom->frames, frame)) {
			if (frame->class == FRAME_EXPOSED)
				return -EOPNOTSUPP;
		}
	}
	return 0;
}

static bool masters_through(const struct endpoint *ep, const struct stream_state *stream)
{
	for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
		if (ep->streams[i] == stream)
			return true;
	}
	return false;
}

/*
 * Is a stream of @ep that of some other endpoint in a domain other than @dom? Endpoints are asked,
 * not streams: one that an instance did not take back is in no domain.
 */
static bool is_held_elsewhere(const struct mediator *m, const struct endpoint *ep,
			      const struct domain *dom)
{
	for (const struct endpoint *o = m->endpoints; o; o = o->next) {
		if (o == ep || !o->domain || o->domain == dom)
			continue;
		for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
			if (masters_through(o, ep->streams[i]))
				return true;
		}
	}
	return false;
}

static void put_back(struct mediator *m, struct stream_state *stream, struct domain *dom)
{
	if (!dom || !domain_join(dom, stream))
		return;
	log_line(m,
		 "an IOMMU refused to take back the mappings it had a moment ago: its devices have "
		 "no access to memory until the guest attaches them again");
}

/* Bring the endpoint's streams from wherever they are into @dom, all or none. */
static int move_streams(struct mediator *m, struct endpoint *ep, struct domain *dom)
{
	struct domain *from[MEDIATOR_MAX_STREAMS];
	struct shadow *held[MEDIATOR_MAX_STREAMS] = {NULL};
	unsigned i, done = 0;
	int ret = 0;

	/* What can be made before anything is left is made first. */
	for (i = 0; i < ep->cfg.nr_streams && !ret; i++) {
		struct stream_state *stream = ep->streams[i];

		from[i] = stream->domain;
		if (from[i] != dom && !stream->id.inst->exclusive)
			ret = domain_hold_shadow(dom, &stream->id, &held[i]);
	}
	for (; done < ep->cfg.nr_streams && !ret; done++) {
		struct stream_state *stream = ep->streams[done];

		if (from[done] == dom)
			continue;
		if (from[done])
			domain_leave(stream);
		ret = domain_join(dom, stream);
		if (ret) {
			put_back(m, stream, from[done]);
			break;
		}
	}
	while (ret && done--) {
		if (from[done] == dom)
			continue;
		domain_leave(ep->streams[done]);
		put_back(m, ep->streams[done], from[done]);
	}
	for (i = 0; i < ep->cfg.nr_streams; i++) {
		if (held[i])
			domain_drop_shadow(dom, held[i]);
	}
	return ret;
}

static void forget_domain(struct mediator *m, struct domain *dom)
{
	struct domain **link = &m->env.domains;

	while (*link != dom)
		link = &(*link)->next;
	*link = dom->next;
	m->nr_domains--;
	m->stats.mappings -= maptree_count(dom->maps);
	domain_destroy(dom);
}

/* The domain has lost an endpoint; with the last one it dies. */
static void drop_endpoint(struct mediator *m, struct domain *dom, struct endpoint *ep)
{
	struct ring_heads **link = &dom->frames.heads;

	while (*link != &ep->heads)
		link = &(*link)->next;
	*link = ep->heads.next;
	dom->nr_full -= ep->full;
	dom->nr_held -= ep->cfg.hold;
	if (!--dom->nr_endpoints)
		forget_domain(m, dom);
}

static int get_domain(struct mediator *m, uint32_t id, bool bypass, struct domain **out)
{
	int ret;

	*out = find_domain(m, id);
	if (*out)
		return (*out)->bypass == bypass ? 0 : -EINVAL;
	if (m->nr_domains >= m->cfg.max_domains)
		return -ENOMEM;
	ret = domain_create(&m->env, id, bypass, out);
	if (ret)
		return ret;
	(*out)->next = m->env.domains;
	m->env.domains = *out;
	m->nr_domains++;
	return 0;
}

static int attach(struct mediator *m, struct endpoint *ep, uint32_t id, bool bypass)
{
	struct domain *old = ep->domain;
	struct domain *dom;
	int ret;

	ret = get_domain(m, id, bypass, &dom);
	if (ret)
		return ret;
	/* All of it is there, but for what could not be put back. */
	if (dom == old)
		return move_streams(m, ep, dom);
	ret = check_join(ep, dom);
	if (!ret && is_held_elsewhere(m, ep, dom))
		ret = -EOPNOTSUPP;
	if (!ret && ep->rings_in_order)
		dom->ring_limit = m->cfg.ring_limit;
	/* What is bounced there already is so for all who come; and with a SYNC_FULL one the
	 * others' sync points change. */
	if (!ret && !dom->bypass && can_bounce(m)) {
		trap_domain(dom);
		if (ep->cfg.sync != SYNC_NONE)
			set_trap_state(ep, TRAP_ON);
	}
	/* check_join() has seen no mapping there, but a parked frame has none. */
	for (unsigned i = 0; i < ep->nr_resv && !ret; i++)
		domain_vacate(dom, ep->resv[i].start, ep->resv[i].last);
	if (!ret)
		ret = move_streams(m, ep, dom);
	if (ret) {
		if (!dom->nr_endpoints)
			forget_domain(m, dom);
		return ret;
	}
	if (!old) {
		for (unsigned i = 0; i < ep->cfg.nr_streams; i++)
			ep->streams[i]->nr_users++;
	}
	ep->domain = dom;
	dom->nr_endpoints++;
	dom->nr_full += ep->full;
	dom->nr_held += ep->cfg.hold;
	dom->relaxed = dom->relaxed && ep->cfg.relaxed;
	if (old)
		drop_endpoint(m, old, ep);
	ep->heads.next = dom->frames.heads;
	dom->frames.heads = &ep->heads;
	return 0;
}

/* An IOMMU that does not answer is cut off, maybe by a request that could be carried out all the
 * same: the invalidation of what was quarantined before. */
static void tell_failures(struct mediator *m)
{
	char line[256];

	if (m->stats.instance_errors == m->errors_told)
		return;
	m->errors_told = m->stats.instance_errors;
	for (struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		bool failed = false;

		for (unsigned i = 0; i < ep->cfg.nr_streams; i++)
			failed |= ep->streams[i] && ep->streams[i]->id.inst->failed;
		if (!failed || ep->told)
			continue;
		ep->told = true;
		snprintf(line, sizeof(line),
			 "%s: an IOMMU did not confirm an invalidation: the device is cut off, and "
			 "the bounce pages concerned are never used again",
			 ep->cfg.name);
		log_line(m, line);
	}
}

static int refusal(struct mediator *m, int ret)
{
	tell_failures(m);
	if (ret)
		m->stats.refused++;
	return ret;
}

int mediator_attach(struct mediator *m, uint32_t domain, uint32_t endpoint, bool bypass)
{
	struct endpoint *ep;
	struct mark mark;
	int ret;

	fair_lock(&m->lock);
	mark = mark_now(m);
	ret = seal(m);
	if (ret)
		goto out;
	ret = -ENOENT;
	ep = find_endpoint(m, endpoint);
	if (!ep)
		goto out;
	ret = attach(m, ep, domain, bypass);
	if (ret == -ENOSPC)
		ret = -ENOMEM;
	if (!ret)
		m->stats.attaches++;
	else if (ret != -EINVAL) {
		char line[160];

		snprintf(line, sizeof(line),
			 "device %s could not be attached to the guest's domain %" PRIu32 ": %s",
			 ep->cfg.name, domain,
			 ret == -EOPNOTSUPP
				 ? "it shares its IOMMU group with a device in another domain"
				 : strerror(-ret));
		log_line(m, line);
	}
out:
	ret = refusal(m, ret);
	tell_event(m, mark, ret,
		   (struct mediator_event){
			   .kind = EVENT_ATTACH, .domain = domain, .endpoint = endpoint});
	fair_unlock(&m->lock);
	return ret;
}

/* Give a stream that no attached endpoint uses what the bypass setting grants. Return: 0; -errno.
 */
static int set_idle_stream(struct mediator *m, struct stream_state *stream)
{
	if (!m->bypass) {
		if (stream->domain)
			domain_leave(stream);
		return 0;
	}
	return stream->domain ? 0 : domain_join(m->boot_bypass, stream);
}

static void detach(struct mediator *m, struct endpoint *ep)
{
	struct domain *dom = ep->domain;

	ep->domain = NULL;
	for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
		struct stream_state *stream = ep->streams[i];

		if (--stream->nr_users)
			continue;
		/* Nowhere: an instance did not take it back after a failed ATTACH. */
		if (stream->domain)
			domain_leave(stream);
		if (set_idle_stream(m, stream))
			log_line(m, "a detached device could not be given bypass access to memory");
	}
	drop_endpoint(m, dom, ep);
}

int mediator_detach(struct mediator *m, uint32_t domain, uint32_t endpoint)
{
	struct endpoint *ep;
	struct mark mark;
	int ret = 0;

	fair_lock(&m->lock);
	mark = mark_now(m);
	ep = find_endpoint(m, endpoint);
	if (!ep)
		ret = -ENOENT;
	else if (!ep->domain || ep->domain->id != domain)
		ret = -EINVAL;
	else
		detach(m, ep);
	if (!ret)
		m->stats.detaches++;
	ret = refusal(m, ret);
	tell_event(m, mark, ret,
		   (struct mediator_event){
			   .kind = EVENT_DETACH, .domain = domain, .endpoint = endpoint});
	fair_unlock(&m->lock);
	return ret;
}

int mediator_set_bypass(struct mediator *m, bool bypass)
{
	int ret;

	fair_lock(&m->lock);
	ret = seal(m);
	if (!ret && bypass && !m->boot_bypass)
		ret = domain_create(&m->env, 0, true, &m->boot_bypass);
	if (ret)
		goto out;
	m->bypass = bypass;
	for (struct stream_state *stream = m->streams; stream; stream = stream->next) {
		int err = stream->nr_users ? 0 : set_idle_stream(m, stream);

		ret = ret ? ret : err;
	}
	if (ret)
		log_line(m, "a device could not be given bypass access to memory");
out:
	fair_unlock(&m->lock);
	return ret;
}

void mediator_reset(struct mediator *m)
{
	struct mark mark;

	fair_lock(&m->lock);
	mark = mark_now(m);
	for (struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		if (ep->domain)
			detach(m, ep);
	}
	tell_event(m, mark, 0, (struct mediator_event){.kind = EVENT_RESET});
	fair_unlock(&m->lock);
}

/* ---- map and unmap ---- */

static bool is_doorbell(const struct mediator *m, uint64_t gpa, uint64_t last)
{
	return gpa >= m->cfg.doorbell.start && last <= m->cfg.doorbell.last;
}

/* May the domain have a mapping at these IOVAs? */
static int check_range(const struct mediator *m, const struct domain *dom, uint64_t start,
		       uint64_t last)
{
	if (dom->bypass)
		return -EINVAL;
	if (!IS_ALIGNED(start | (last + 1), m->env.granule) || last < start)
		return -ERANGE;
	if (start < m->input_range.start || last > m->input_range.last)
		return -ERANGE;
	for (const struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		if (ep->domain == dom && hits_resv(ep, start, last))
			return -EINVAL;
	}
	return 0;
}

static int check_map(const struct mediator *m, const struct domain *dom, const struct mapping *map)
{
	uint64_t gpa_last;
	int ret = check_range(m, dom, map->start, map->last);

	if (ret)
		return ret;
	if (!IS_ALIGNED(map->gpa, m->env.granule))
		return -ERANGE;
	/* The whole of 2^64 has no length, and no RAM behind it. */
	if (map->last - map->start == UINT64_MAX ||
	    add_overflows(map->gpa, map->last - map->start, &gpa_last))
		return -EFAULT;
	if (!gmem_ptr(m->cfg.gmem, map->gpa, map->last - map->start + 1) &&
	    !((map->flags & MAP_MMIO) && is_doorbell(m, map->gpa, gpa_last)))
		return -EFAULT;
	return 0;
}

/* Linux never reads the status of a MAP: what could not be carried out must be seen elsewhere. */
static void tell_failed_map(struct mediator *m, const struct domain *dom, const struct mapping *map,
			    int ret)
{
	char line[256];

	for (const struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		const struct fault fault = {
			.endpoint = ep->cfg.id,
			.reason = FAULT_UNKNOWN,
			.flags = FAULT_ADDRESS | ((map->flags & MAP_READ) ? FAULT_READ : 0) |
				 ((map->flags & MAP_WRITE) ? FAULT_WRITE : 0),
			.iova = map->start,
		};

		if (ep->domain == dom)
			add_fault(m, &fault);
	}
	snprintf(line, sizeof(line),
		 "the guest's MAP of iova 0x%" PRIx64 "-0x%" PRIx64 " failed: %s (%" PRIu64
		 " of %" PRIu64 " MiB of bounce memory in use, %zu mappings)",
		 map->start, map->last, strerror(-ret), pool_used(m->env.pool) >> 20,
		 m->cfg.pool_limit >> 20, maptree_count(dom->maps));
	log_line(m, line);
}

static bool has_room(const struct mediator *m, const struct domain *dom, size_t nr)
{
	return maptree_count(dom->maps) + nr <= m->cfg.max_mappings &&
	       (!m->cfg.max_mappings_total || m->stats.mappings + nr <= m->cfg.max_mappings_total);
}

/* Count and tell. Return: @ret as the caller is to see it. */
static int end_map(struct mediator *m, const struct domain *dom, const struct mapping *map,
		   size_t nr_maps, int ret)
{
	if (ret == -ENOSPC)
		ret = -ENOMEM;
	if (ret && ret != -EINVAL)
		tell_failed_map(m, dom, map, ret);
	if (!ret) {
		m->stats.maps++;
		m->stats.mappings += nr_maps;
		m->stats.mappings_peak = MAX(m->stats.mappings_peak, m->stats.mappings);
	}
	return ret;
}

int mediator_map(struct mediator *m, uint32_t domain, const struct mapping *map)
{
	struct domain *dom;
	struct mark mark;
	int ret = -EINVAL;

	fair_lock(&m->lock);
	mark = mark_now(m);
	if (map->flags & ~(uint32_t)(MAP_READ | MAP_WRITE | MAP_MMIO))
		goto out;
	ret = -ENOENT;
	dom = find_domain(m, domain);
	if (!dom)
		goto out;
	ret = check_map(m, dom, map);
	if (ret)
		goto out;
	ret = has_room(m, dom, 1) ? domain_map(dom, map) : -ENOMEM;
	ret = end_map(m, dom, map, 1, ret);
out:
	ret = refusal(m, ret);
	tell_event(m, mark, ret,
		   (struct mediator_event){.kind = EVENT_MAP,
					   .domain = domain,
					   .start = map->start,
					   .last = map->last,
					   .gpa = map->gpa,
					   .flags = map->flags});
	fair_unlock(&m->lock);
	return ret;
}

/* A list of segments as the mappings they become: those that continue each other are one. */
struct sg_list {
	const struct sg_segment *sg;
	size_t nr, at;
	uint64_t start, iova;
	uint32_t flags;
};

static void sg_rewind(void *ctx)
{
	struct sg_list *list = ctx;

	list->at = 0;
	list->iova = list->start;
}

static bool sg_next(void *ctx, struct mapping *out)
{
	struct sg_list *list = ctx;
	uint64_t len = 0;

	if (list->at == list->nr)
		return false;
	*out = (struct mapping){
		.start = list->iova, .gpa = list->sg[list->at].gpa, .flags = list->flags};
	while (list->at < list->nr && list->sg[list->at].gpa == out->gpa + len)
		len += list->sg[list->at++].len;
	out->last = out->start + (len - 1);
	list->iova += len;
	return true;
}

/*
 * Every segment is whole granules, and the list ends inside the 64 bits that IOVAs have.
 * @last: of its IOVAs; @nr_maps: the mappings it becomes
 */
static int check_sg(const struct mediator *m, const struct sg_list *list, uint64_t *last,
		    size_t *nr_maps)
{
	uint64_t g = m->env.granule, at = list->start, gpa = 0, end;

	if (!list->nr || (list->flags & ~(uint32_t)(MAP_READ | MAP_WRITE)))
		return -EINVAL;
	*nr_maps = 0;
	for (size_t i = 0; i < list->nr; i++) {
		const struct sg_segment *sg = &list->sg[i];

		if (!sg->len || !IS_ALIGNED(sg->gpa | sg->len, g) ||
		    add_overflows(sg->gpa, sg->len - 1, &end) ||
		    add_overflows(at, sg->len - 1, last) || (i && !at))
			return -ERANGE;
		*nr_maps += !i || sg->gpa != gpa;
		gpa = end + 1;
		at = *last + 1;
	}
	return 0;
}

/* Is all of it RAM, and at IOVAs that the domain may use? What is wrong with the first mapping that
 * is. */
static int check_sg_maps(const struct mediator *m, const struct domain *dom, struct sg_list *list,
			 uint64_t last)
{
	struct mapping map;
	int ret = 0;

	if (!check_range(m, dom, list->start, last)) {
		for (size_t i = 0; i < list->nr && !ret; i++) {
			if (!gmem_ptr(m->cfg.gmem, list->sg[i].gpa, list->sg[i].len))
				ret = -EFAULT;
		}
		return ret;
	}
	sg_rewind(list);
	while (!ret && sg_next(list, &map))
		ret = check_map(m, dom, &map);
	return ret;
}

int mediator_map_sg(struct mediator *m, uint32_t domain, uint64_t iova, const struct sg_segment *sg,
		    size_t nr, uint32_t flags)
{
	struct sg_list list = {.sg = sg, .nr = nr, .start = iova, .flags = flags};
	struct mapping all = {.start = iova, .flags = flags};
	struct domain *dom;
	struct mark mark;
	size_t nr_maps;
	int ret;

	fair_lock(&m->lock);
	mark = mark_now(m);
	ret = check_sg(m, &list, &all.last, &nr_maps);
	if (ret)
		goto out;
	ret = -ENOENT;
	dom = find_domain(m, domain);
	if (!dom)
		goto out;
	ret = check_sg_maps(m, dom, &list, all.last);
	if (ret)
		goto out;
	ret = has_room(m, dom, nr_maps) ? domain_map_list(dom, sg_next, sg_rewind, &list) : -ENOMEM;
	ret = end_map(m, dom, &all, nr_maps, ret);
out:
	ret = refusal(m, ret);
	tell_event(m, mark, ret,
		   (struct mediator_event){.kind = EVENT_MAP,
					   .domain = domain,
					   .start = iova,
					   .last = all.last,
					   .flags = flags});
	fair_unlock(&m->lock);
	return ret;
}

int mediator_unmap(struct mediator *m, uint32_t domain, uint64_t start, uint64_t last)
{
	struct domain *dom;
	struct mark mark;
	size_t before;
	int ret;

	fair_lock(&m->lock);
	mark = mark_now(m);
	dom = find_domain(m, domain);
	if (!dom) {
		ret = -ENOENT;
	} else if (dom->bypass) {
		ret = -EINVAL;
	} else {
		before = maptree_count(dom->maps);
		ret = domain_unmap(dom, start, last);
		m->stats.mappings -= before - maptree_count(dom->maps);
	}
	if (!ret)
		m->stats.unmaps++;
	ret = refusal(m, ret);
	tell_event(m, mark, ret,
		   (struct mediator_event){
			   .kind = EVENT_UNMAP, .domain = domain, .start = start, .last = last});
	fair_unlock(&m->lock);
	return ret;
}

/* ---- memory kept for speed ---- */

uint64_t mediator_expire(struct mediator *m)
{
	uint64_t wait = UINT64_MAX;

	fair_lock(&m->lock);
	for (struct domain *dom = m->env.domains; dom; dom = dom->next) {
		uint64_t this = domain_expire(dom, m->env.now_ns());

		wait = MIN(wait, this);
	}
	tell_failures(m);
	fair_unlock(&m->lock);
	return wait;
}

void mediator_trim(struct mediator *m)
{
	fair_lock(&m->lock);
	for (struct domain *dom = m->env.domains; dom; dom = dom->next)
		domain_trim(dom);
	if (m->env.pool)
		pool_trim(m->env.pool);
	fair_unlock(&m->lock);
}

/* ---- endpoints ---- */

void mediator_fault(struct mediator *m, const struct instance *inst, uint32_t sid,
		    const struct fault *fault)
{
	/* Endpoints and their streams do not change once the guest runs. */
	for (const struct endpoint *ep = m->endpoints; ep; ep = ep->next) {
		for (unsigned i = 0; i < ep->cfg.nr_streams; i++) {
			struct fault copy = *fault;

			if (ep->streams[i]->id.inst != inst || ep->streams[i]->id.sid != sid)
				continue;
			copy.endpoint = ep->cfg.id;
			add_fault(m, &copy);
		}
	}
}

const char *mediator_needs_strict(struct mediator *m)
{
	const struct endpoint *ep;

	fair_lock(&m->lock);
	ep = can_bounce(m) ? m->endpoints : NULL;
	while (ep && ep->cfg.sync == SYNC_FULL)
		ep = ep->next;
	fair_unlock(&m->lock);
	return ep ? ep->cfg.name : NULL;
}

bool endpoint_needs_sync(const struct endpoint *ep)
{
	return ep->cfg.sync != SYNC_NONE;
}

void endpoint_set_trap(struct endpoint *ep, void (*trap)(void *ctx, enum trap_state state),
		       void *ctx)
{
	struct mediator *m = ep->m;

	fair_lock(&m->lock);
	ep->trap = ep->cfg.sync == SYNC_NONE ? NULL : trap;
	ep->trap_ctx = ctx;
	ep->trap_state = TRAP_ON;
	ep->nr_calm = 0;
	if (!seal(m) && !can_bounce(m))
		set_trap_state(ep, TRAP_OFF_LONG);
	fair_unlock(&m->lock);
}

void endpoint_set_guarded(struct endpoint *ep, bool guarded)
{
	fair_lock(&ep->m->lock);
	ep->guarded = guarded;
	fair_unlock(&ep->m->lock);
}

bool endpoint_stays_trapped(const struct endpoint *ep)
{
	return ep->guarded || ep->cfg.may_turn_full;
}

void endpoint_turn_full(struct endpoint *ep)
{
	struct mediator *m = ep->m;
	struct domain *dom;

	fair_lock(&m->lock);
	dom = ep->domain;
	if (ep->cfg.may_turn_full && !ep->full) {
		/* Payload that is bounced already now needs the others' sync points as well. */
		if (dom && !dom->bypass && can_bounce(m))
			trap_domain(dom);
		ep->full = true;
		if (dom)
			dom->nr_full++;
	}
	fair_unlock(&m->lock);
}

/* A sync point shows every ring of the domain. If one of them is that of an endpoint with SYNC_FULL
 * its payload must be there too, whoever's sync point it is. */
static enum sync_mode mode_of(const struct domain *dom)
{
	return dom->nr_full ? SYNC_FULL : SYNC_RINGS;
}

static void sync_point(struct endpoint *ep, enum sync_dir dir, bool all)
{
	struct mediator *m = ep->m;
	struct mark mark;
	uint64_t start;

	if (ep->cfg.sync == SYNC_NONE)
		return;
	fair_lock(&m->lock);
	if (ep->domain &&
	    (domain_needs_sync(ep->domain) || (all && ep->domain->frames.others.nr))) {
		mark = mark_now(m);
		start = m->env.now_ns();
		ep->nr_calm = 0;
		sync_frames(&ep->domain->frames, m->env.pool, m->env.granule, dir,
			    all ? SYNC_FULL : mode_of(ep->domain),
			    ep->domain->nr_held && m->cfg.hold ? &m->hold : NULL, m->env.scratch,
			    &m->stats);
		if (dir == SYNC_FOR_DEVICE)
			m->stats.syncs_for_device++;
		else
			m->stats.syncs_for_cpu++;
		m->stats.sync_ns += m->env.now_ns() - start;
		tell_event(m, mark, 0,
			   (struct mediator_event){.kind = dir == SYNC_FOR_DEVICE
								   ? EVENT_SYNC_FOR_DEVICE
								   : EVENT_SYNC_FOR_CPU,
						   .domain = ep->domain->id,
						   .endpoint = ep->cfg.id});
	} else {
		calm_point(ep);
	}
	fair_unlock(&m->lock);
}

void endpoint_sync_for_device(struct endpoint *ep)
{
	sync_point(ep, SYNC_FOR_DEVICE, false);
}

void endpoint_sync_for_cpu(struct endpoint *ep)
{
	sync_point(ep, SYNC_FOR_CPU, false);
}

void endpoint_sync_all_for_cpu(struct endpoint *ep)
{
	sync_point(ep, SYNC_FOR_CPU, true);
}

int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place)
{
	struct ring_head *heads = ep->heads.v;

	if (place && (place->cpu_head % 4 || place->device_head % 4))
		return -EINVAL;
	if (ring >= MEDIATOR_MAX_RINGS)
		return place ? -ENOSPC : 0;
	_Static_assert(RING_HEADS_MAX == 2 * MEDIATOR_MAX_RINGS, "two of each");
	fair_lock(&ep->m->lock);
	ep->heads.nr = MAX(ep->heads.nr, 2 * ring + 2);
	heads += 2 * (size_t)ring;
	heads[0] = (struct ring_head){.live = place, .iova = place ? place->cpu_head : 0};
	heads[1] = (struct ring_head){
		.live = place, .iova = place ? place->device_head : 0, .by_device = true};
	fair_unlock(&ep->m->lock);
	return 0;
}

static int translate(const struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	struct mapping map;

	*gpa = iova;
	for (unsigned i = 0; i < ep->nr_resv; i++) {
		if (ep->resv[i].msi && iova >= ep->resv[i].start && iova <= ep->resv[i].last)
			return 0;
	}
	if (!ep->domain)
		return ep->m->bypass ? 0 : -EFAULT;
	if (ep->domain->bypass)
		return 0;
	if (!maptree_first(ep->domain->maps, iova, iova, &map) || (map.flags & access) != access)
		return -EFAULT;
	*gpa = map.gpa + (iova - map.start);
	return 0;
}

int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	int ret;

	fair_lock(&ep->m->lock);
	ret = seal(ep->m);
	if (!ret)
		ret = translate(ep, iova, access, gpa);
	fair_unlock(&ep->m->lock);
	return ret;
}

/* ---- what an operator can see ---- */

struct faultlog *mediator_faultlog(struct mediator *m)
{
	return m->faults;
}

void mediator_get_stats(struct mediator *m, struct mediator_stats *out)
{
	fair_lock(&m->lock);
	*out = m->stats;
	if (m->env.pool) {
		out->bounce_bytes = pool_used(m->env.pool);
		out->bounce_bytes_peak = pool_peak(m->env.pool);
	}
	fair_unlock(&m->lock);
	out->faults = faultlog_total(m->faults);
	out->faults_lost = faultlog_lost(m->faults);
}

bool mediator_get_endpoint(struct mediator *m, unsigned i, struct endpoint_info *out)
{
	const struct endpoint *ep;
	unsigned nr = 0;

	fair_lock(&m->lock);
	/* The last one added comes first. */
	for (ep = m->endpoints; ep; ep = ep->next)
		nr++;
	ep = i < nr ? m->endpoints : NULL;
	for (unsigned n = nr - 1 - i; ep && n; n--)
		ep = ep->next;
	if (ep) {
		*out = (struct endpoint_info){
			.id = ep->cfg.id,
			.name = ep->cfg.name,
			.attached = ep->domain,
			.domain = ep->domain ? ep->domain->id : 0,
			.sync = ep->full ? SYNC_FULL : ep->cfg.sync,
			.may_turn_full = ep->cfg.may_turn_full,
			.relaxed = ep->cfg.relaxed,
			.hold = ep->cfg.hold,
			.told = ep->trap,
			.trap = seen_state(ep, ep->trap_state),
			.nr_streams = ep->cfg.nr_streams,
		};
		for (unsigned n = 0; n < ep->cfg.nr_streams; n++)
			out->streams[n] = ep->streams[n]->id;
	}
	fair_unlock(&m->lock);
	return ep;
}

int mediator_next_domain(struct mediator *m, uint32_t id, struct domain_info *out)
{
	const struct domain *best = NULL;

	fair_lock(&m->lock);
	for (const struct domain *dom = m->env.domains; dom; dom = dom->next) {
		if (dom->id >= id && (!best || dom->id < best->id))
			best = dom;
	}
	if (best)
		*out = (struct domain_info){
			.id = best->id,
			.bypass = best->bypass,
			.relaxed = best->relaxed,
			.needs_sync = domain_needs_sync(best),
			.mappings = maptree_count(best->maps),
			.nr_endpoints = best->nr_endpoints,
		};
	fair_unlock(&m->lock);
	return best ? 0 : -ENOENT;
}

int mediator_look(struct mediator *m, uint32_t domain, uint64_t *at, struct stretch *out,
		  unsigned max, bool *more)
{
	const struct domain *dom;
	int ret = -ENOENT;

	*more = false;
	fair_lock(&m->lock);
	dom = find_domain(m, domain);
	if (dom)
		ret = dom->bypass ? 0 : (int)domain_look(dom, at, out, max, more);
	fair_unlock(&m->lock);
	return ret;
}
