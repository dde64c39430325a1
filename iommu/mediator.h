/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mediator - what a hypervisor talks to: domains by number, endpoints by number, and the requests a
 * guest's IOMMU driver makes of them, carried out on the host's instances.
 *
 * It knows neither KVM nor virtio. Every call takes the mediator's one lock and any thread may make
 * it. A request is all or nothing: on an error every domain, instance and byte is as it was.
 * Addresses and lengths are bytes; ranges [start, last] are inclusive.
 */
#ifndef IOMMU_MEDIATOR_H
#define IOMMU_MEDIATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/faultlog.h"
#include "iommu/gmem.h"
#include "iommu/instance.h"
#include "iommu/maptree.h"
#include "iommu/stretch.h"

/* When a bounced slot is synced besides MAP and UNMAP; coherence.md. */
enum sync_mode {
	SYNC_NONE,  /* never */
	SYNC_RINGS, /* read-write slots, at every sync point */
	SYNC_FULL,  /* every slot, at every sync point */
};

/* What accesses to an endpoint's registers, and its interrupts, must be. */
enum trap_state {
	/* Each access is a sync point, each interrupt follows one: neither gets past the embedder.
	 */
	TRAP_ON,
	/* They need not, until TRAP_ON is told. */
	TRAP_OFF,
	/* Nor will they before the endpoint is attached elsewhere: it is in no domain, in a bypass
	 * domain, or nothing is ever bounced. */
	TRAP_OFF_LONG,
};

/* A reserved region of one endpoint, inclusive bytes. */
struct resv_region {
	uint64_t start;
	uint64_t last;
	bool msi; /* the MSI doorbell: device writes there become interrupts, no mapping is needed
		   */
};

struct mediator_stats {
	uint64_t maps, unmaps, attaches, detaches, refused; /* requests carried out, and refused */
	uint64_t mappings, mappings_peak;		    /* live now, most at once */
	/* frames that entered each class since the start, and live now */
	uint64_t direct_frames, window_frames, exposed_frames, bounce_frames;
	uint64_t direct_live, window_live, exposed_live, bounce_live;
	/* bounce frames kept mapped without a slot: reused since the start, evicted, held now */
	uint64_t parked_hits, parked_evicted, parked_live;
	/* bounce frames unmapped, whose page waits for an invalidation: since the start, now */
	uint64_t quarantined_frames, quarantined_live;
	uint64_t to_bounce,
		to_direct; /* live frames that changed their class, by replacing a page */
	uint64_t bytes_to_device, bytes_to_guest; /* copied between guest pages and bounce pages */
	uint64_t syncs_for_device, syncs_for_cpu;
	uint64_t sync_ns;	 /* time in them, by the mediator's clock */
	uint64_t traps, untraps; /* endpoints told TRAP_ON, and otherwise: as EVENT_TRAP */
	uint64_t conflicts; /* bytes that guest and device both changed between two sync points */
	uint64_t holds;	    /* times that vCPUs were held */
	uint64_t unstable;  /* syncs in which the device kept writing past the collect limit */
	uint64_t reclassified; /* exposed frames that had to become bounce */
	uint64_t instance_maps, instance_unmaps, instance_errors;
	uint64_t invalidations; /* of all of a domain's streams at once */
	uint64_t faults, faults_lost;
	uint64_t bounce_bytes, bounce_bytes_peak; /* pool memory in use */
};

enum mediator_event_kind {
	EVENT_MAP, /* also of a list */
	EVENT_UNMAP,
	EVENT_ATTACH,
	EVENT_DETACH,
	EVENT_RESET, /* every endpoint has left its domain */
	EVENT_SYNC_FOR_DEVICE,
	EVENT_SYNC_FOR_CPU,
	EVENT_TRAP, /* an endpoint was told a trap_state, in .flags, and goes by it */
	EVENT_FAULT,
	NR_EVENT_KINDS,
};

/* What was done, for who records it. Fields that a kind has no use for are 0. */
struct mediator_event {
	enum mediator_event_kind kind;
	uint32_t domain;
	uint32_t endpoint;	   /* ATTACH, DETACH, SYNC_*, TRAP, FAULT */
	uint64_t start, last;	   /* MAP, UNMAP: iova; FAULT: start, of the access */
	uint64_t gpa;		   /* MAP, of start; 0 of a list */
	unsigned flags;		   /* MAP: MAP_*; TRAP: trap_state; FAULT: FAULT_* */
	uint64_t copied;	   /* bytes, between guest pages and bounce pages */
	int ret;		   /* 0 or -errno, as the caller sees it */
	uint64_t begin_ns, end_ns; /* by the mediator's clock; the lock was held between them */
};

struct mediator_cfg {
	const struct gmem *gmem;     /* outlives the mediator */
	uint64_t guest_granule;	     /* smallest page the guest may map, a power of two */
	uint64_t pool_limit;	     /* bytes of bounce pages and twins at most */
	uint32_t max_domains;	     /* more is -ENOMEM */
	uint32_t max_mappings;	     /* per domain; more is -ENOMEM */
	uint32_t max_mappings_total; /* of all domains; 0: no bound of its own */
	/*
	 * Bytes of bounce pages (with twins) that may stay parked: mapped at their IOVA after the
	 * last slot went, scrubbed, so that mapping there again is a copy and no more. 0: none.
	 */
	uint64_t park_limit;
	/*
	 * Bounce frames whose page may wait for a later invalidation, so that UNMAP of bounced
	 * memory is answered at once; guest memory is always cut off before the answer. 0: none
	 * waits.
	 */
	uint32_t quarantine_frames;
	uint64_t quarantine_ns; /* and how long, see mediator_expire(); 0: until there are too many
				 */
	uint64_t (*now_ns)(void); /* monotonic; NULL: CLOCK_MONOTONIC */
	uint32_t fault_rate; /* faults a second that are kept for the guest, after a burst; 0: all
				that fit */
	/* A bounce frame whose last hole fills becomes direct, where instances can replace a page.
	 */
	bool promote;
	/*
	 * For endpoints with SYNC_FULL: read-write mappings of up to so many bytes are bounced even
	 * where they could be direct, so that no ring entry is seen before the bounced payload it
	 * announces. Counts in domains of endpoints with a SYNC_FULL one among their kin, if
	 * frames have more than one slot. 0: none, and only who waits for a sync point before every
	 * look at a ring is served.
	 */
	uint64_t ring_limit;
	uint64_t salt; /* a number that the guest does not know, or it can choose IOVAs whose frames
			  take long to find; 0 makes runs repeatable */
	struct iova_range
		doorbell; /* guest-physical page(s) of the MSI doorbell; start > last: none */
	/*
	 * Keep every vCPU out of the guest until release(), for endpoints with endpoint_cfg.hold.
	 * Called with the mediator's lock held, also in a vCPU's own exit: neither may wait for
	 * what waits for the mediator. May be NULL: nobody is held.
	 */
	void (*hold)(void *ctx);
	void (*release)(void *ctx);
	void *hold_ctx;
	void (*log)(void *ctx, const char *line); /* a line for the operator; may be NULL */
	void *log_ctx;
	/*
	 * Is told each request, carried out or refused, each sync that had something to look at,
	 * and each fault. Called from any thread, and with the lock held, but for faults that
	 * mediator_fault() is told of: it neither waits nor calls back. NULL: nobody is, and
	 * nothing is measured for it.
	 */
	void (*event)(void *ctx, const struct mediator_event *event);
	void *event_ctx;
};

/* One requester on one instance. */
struct stream {
	struct instance *inst;
	uint32_t sid; /* below inst->nr_streams */
};

struct endpoint_cfg {
	uint32_t id;
	/* Endpoints with one number may come into one domain at any time, as the functions of one
	 * guest device do, which its kernel groups. Others may not join every domain, see
	 * mediator_attach(). */
	uint32_t kin;
	const char *name; /* for messages; outlives the endpoint */
	const struct stream
		*streams;    /* every one it masters through; copied, instances outlive it */
	unsigned nr_streams; /* 1 .. MEDIATOR_MAX_STREAMS */
	enum sync_mode sync;
	bool may_turn_full; /* SYNC_RINGS: endpoint_turn_full() may come */
	bool relaxed;	    /* exposure=relaxed: class "exposed" is allowed */
	/* Its device sets the valid flag of what it writes last, but who knows at which address: a
	 * change of more than one word of a ring is one step for vCPUs, which are held for it. */
	bool hold;
};

#define MEDIATOR_MAX_STREAMS 8

struct mediator;
struct endpoint;

/**
 * mediator_create
 * Return: 0; -EINVAL a granule that is no power of two, RAM not aligned to it, or spread over more
 * than 2 TiB of host addresses; -ENOMEM.
 */
int mediator_create(const struct mediator_cfg *cfg, struct mediator **out);

/* mediator_destroy - unmap everything everywhere and free it; the instances stay the caller's */
void mediator_destroy(struct mediator *m);

/**
 * mediator_add_endpoint - make an endpoint known; before the guest runs
 *
 * Its instances' granules and apertures shape the frame size, the input range and the reserved
 * regions that the guest is shown, so all endpoints are added before the first request.
 * Return: 0; -EEXIST the id is taken; -EINVAL no or too many instances, or no common aperture;
 *         -EBUSY a request has been made already; -ENOMEM.
 */
int mediator_add_endpoint(struct mediator *m, const struct endpoint_cfg *cfg,
			  struct endpoint **out);

/* mediator_input_range - the IOVA range all domains accept: what every instance can reach */
struct iova_range mediator_input_range(struct mediator *m);

/* mediator_frame_size - bytes of a frame: the largest granule of all instances and the guest's */
uint64_t mediator_frame_size(struct mediator *m);

/**
 * mediator_resv_regions - the reserved regions of one endpoint, frame-aligned, ascending, disjoint
 * @max: size of @out
 * Return: how many there are (may exceed @max; only @max are written); -ENOENT endpoint unknown.
 */
int mediator_resv_regions(struct mediator *m, uint32_t endpoint, struct resv_region *out,
			  unsigned max);

/**
 * mediator_attach - put an endpoint into a domain, which is created if need be
 * @bypass: the domain maps guest RAM 1:1 and takes no MAP
 *
 * An endpoint that is in another domain leaves it first (that domain dies with its last endpoint),
 * but only once everything has been checked and the new shadow prepared. Live mappings of the
 * domain are replayed before this returns. Return: 0; -ENOENT endpoint unknown; -EINVAL the domain
 * exists and @bypass disagrees with it, or a live mapping lies in one of the endpoint's reserved
 * regions, or the endpoint needs rings in order (cfg.ring_limit) and the domain has mappings that
 * were made without; -EOPNOTSUPP the endpoint shares a stream with an endpoint that stays in
 * another domain; -ENOMEM; -EIO.
 */
int mediator_attach(struct mediator *m, uint32_t domain, uint32_t endpoint, bool bypass);

/**
 * mediator_detach - take an endpoint out of a domain
 * Return: 0; -ENOENT endpoint unknown; -EINVAL domain unknown, or the endpoint is not in it.
 */
int mediator_detach(struct mediator *m, uint32_t domain, uint32_t endpoint);

/**
 * mediator_map - record one MAP and let the domain's devices see it
 * Return: 0; -ENOENT domain unknown; -EINVAL bypass domain, overlap with a mapping or a reserved
 *         region, unknown flag; -ERANGE off the guest granule, last < start, or outside the input
 * range; -EFAULT not guest RAM (with MAP_MMIO: nor the doorbell); -ENOMEM; -EIO. Source:
 * virtio 1.3, IOMMU device, "MAP request".
 */
int mediator_map(struct mediator *m, uint32_t domain, const struct mapping *map);

/* A piece of guest memory for mediator_map_sg(). */
struct sg_segment {
	uint64_t gpa, len; /* bytes, multiples of the guest granule; len > 0 */
};

/**
 * mediator_map_sg - map a list onto one contiguous IOVA range from @iova on, all or nothing
 * @flags: MAP_READ and/or MAP_WRITE, for all of it
 *
 * Exactly the bytes of the list are mapped: no address is rounded back, no length up. Segments that
 * continue each other become one mapping; each mapping is removed whole by mediator_unmap().
 * Return: as mediator_map(); -ERANGE also for a segment off the guest granule or empty; -EINVAL
 *         an empty list.
 */
int mediator_map_sg(struct mediator *m, uint32_t domain, uint64_t iova, const struct sg_segment *sg,
		    size_t nr, uint32_t flags);

/**
 * mediator_unmap - remove every mapping inside [start, last]
 *
 * When it returns no device can reach what was unmapped, and what devices wrote is in guest memory.
 * Return: 0 (also if nothing was mapped); -ENOENT domain unknown; -EINVAL bypass domain; -ERANGE
 * the range cuts a mapping or last < start, nothing was removed.
 */
int mediator_unmap(struct mediator *m, uint32_t domain, uint64_t start, uint64_t last);

/* mediator_expire - carry out what has waited long enough: quarantined pages older than
 * cfg.quarantine_ns go back to the pool. For a timer; requests do it too. Return: ns until it is
 * worth calling again, UINT64_MAX: nothing waits. */
uint64_t mediator_expire(struct mediator *m);

/* mediator_trim - give memory back that is only kept for speed: parked and quarantined frames, free
 * pages */
void mediator_trim(struct mediator *m);

/* mediator_fault - an instance reports that a stream's access was refused; every endpoint that
 * masters through the stream gets it in the fault log (@fault->endpoint is ignored). Does not take
 * the mediator's lock: any thread, interrupt-like contexts included. */
void mediator_fault(struct mediator *m, const struct instance *inst, uint32_t sid,
		    const struct fault *fault);

/* mediator_set_bypass - what endpoints in no domain may do: all of guest RAM 1:1, or nothing.
 * Return: 0; -ENOMEM, -EIO: some endpoint could not be given RAM; it stays without access. */
int mediator_set_bypass(struct mediator *m, bool bypass);

/* mediator_reset - device reset: every endpoint leaves its domain, every domain dies */
void mediator_reset(struct mediator *m);

/**
 * mediator_needs_strict - must the guest be kept from putting UNMAPs off?
 *
 * So it must if something may be bounced for an endpoint that is not SYNC_FULL: what its device
 * wrote reaches the guest at UNMAP, and must do so before the guest looks at it, or uses the memory
 * for something else. All endpoints have been added.
 * Return: the name of such an endpoint; NULL: there is none.
 */
const char *mediator_needs_strict(struct mediator *m);

/* endpoint_needs_sync - true if it may have to be trapped: its sync mode is not NONE */
bool endpoint_needs_sync(const struct endpoint *ep);

/**
 * endpoint_set_trap - who lets the guest at its registers, and its interrupts at the guest
 * @trap: is told when it must stand between them, and when it need not; NULL: nobody, it is running
 *        nowhere any more when this returns
 *
 * A domain needs sync points if it has a bounced read-write slot, or, while an endpoint of it is
 * SYNC_FULL, any bounced slot (parked frames have none). Then all its endpoints but those with
 * SYNC_NONE are TRAP_ON. It is told before the first such slot: before a guest page is copied or a
 * translation changes, for a live frame may become bounce inside any request, while other vCPUs
 * ring doorbells and devices raise interrupts. When @trap(TRAP_ON) returns every access of the
 * guest traps and no interrupt goes past the embedder; what is trapped meanwhile waits in
 * endpoint_sync_for_*() for the end of the request. Accesses before that, and interrupts, told of
 * memory that both sides still shared.
 *
 * TRAP_OFF comes late: after some sync points in a row that had nothing to look at, from one of
 * them. An endpoint starts TRAP_ON; where nothing is ever bounced @trap is told otherwise at once.
 *
 * @trap runs with the mediator's lock held, whatever else the caller of the request or of
 * endpoint_sync_for_*() holds: it takes a lock that nobody holds who calls the mediator, and does
 * not fail. All endpoints have been added.
 */
void endpoint_set_trap(struct endpoint *ep, void (*trap)(void *ctx, enum trap_state state),
		       void *ctx);

/* endpoint_set_guarded - its accesses trap in TRAP_OFF too, for the embedder watches what they
 * tell: it is shown, counted, and told of in events, as TRAP_ON then. Nothing else comes of it. */
void endpoint_set_guarded(struct endpoint *ep, bool guarded);

/* endpoint_stays_trapped - true if it never goes by TRAP_OFF: guarded, or cfg.may_turn_full */
bool endpoint_stays_trapped(const struct endpoint *ep);

/**
 * endpoint_turn_full - from now on it is as if the endpoint had always been SYNC_FULL
 *
 * For a driver that has just been seen to choose a way of working in which it looks at buffers
 * before it unmaps them. Only with cfg.may_turn_full, which keeps rings from being direct from the
 * start, and the endpoint from TRAP_OFF; else, and the second time, nothing happens. There is no
 * way back.
 */
void endpoint_turn_full(struct endpoint *ep);

/* endpoint_sync_for_device - before a guest's register write reaches the device: what the CPU
 * changed in bounced slots of the endpoint's domain since the last sync becomes visible to devices
 */
void endpoint_sync_for_device(struct endpoint *ep);

/* endpoint_sync_for_cpu - before an interrupt is injected and after a register read: what devices
 * changed in bounced slots of the endpoint's domain becomes visible to the guest */
void endpoint_sync_for_cpu(struct endpoint *ep);

/* endpoint_sync_all_for_cpu - after the endpoint was stopped: the same, and with SYNC_RINGS too of
 * every slot. What its devices have written is with the guest then, so an UNMAP however late brings
 * nothing into memory that has become something else. */
void endpoint_sync_all_for_cpu(struct endpoint *ep);

/* Heads of a ring, iovas: the words that say how far each side has got, see iommu/frame.h. */
struct ring_place {
	uint64_t cpu_head, device_head;
};

#define MEDIATOR_MAX_RINGS 64u

/**
 * endpoint_set_ring - tell where the heads of ring @ring are, before the device uses it; by iova,
 * in whatever domain the endpoint is
 * @place: NULL: nowhere, the ring is not in use
 * Return: 0; -EINVAL a head is not aligned to 4 bytes; -ENOSPC @ring is not below
 * MEDIATOR_MAX_RINGS; then the ring is memory like any other, and so are the requests to be quiet
 * in it: driver or device may wait for ever.
 * Without a domain that bounces the heads, and in read-only or write-only mappings, nothing
 * changes.
 */
int endpoint_set_ring(struct endpoint *ep, unsigned ring, const struct ring_place *place);

/**
 * endpoint_translate - where a device's access at @iova goes, by the guest's mappings alone
 * @access: MAP_READ and/or MAP_WRITE, all needed
 * @gpa: guest-physical address; identity for the MSI region, bypass and bypass domains
 * Return: 0; -EFAULT not mapped with these rights.
 * Used for MSI messages that a guest programs as IOVAs.
 */
int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa);

struct faultlog *mediator_faultlog(struct mediator *m);
void mediator_get_stats(struct mediator *m, struct mediator_stats *out);

/* An endpoint as it is now. */
struct endpoint_info {
	uint32_t id;
	const char *name; /* as endpoint_cfg.name */
	bool attached;
	uint32_t domain;     /* attached: to which */
	enum sync_mode sync; /* SYNC_FULL too after endpoint_turn_full() */
	bool may_turn_full, relaxed, hold;
	bool told;	      /* somebody hears when it must trap, see endpoint_set_trap() */
	enum trap_state trap; /* TRAP_ON too where it stays so, see endpoint_set_guarded() */
	unsigned nr_streams;
	struct stream streams[MEDIATOR_MAX_STREAMS]; /* with their instances as they are now */
};

/* mediator_get_endpoint - the @i-th endpoint added, from 0 on. Return: false: there are not so
 * many. */
bool mediator_get_endpoint(struct mediator *m, unsigned i, struct endpoint_info *out);

/* A domain as it is now. */
struct domain_info {
	uint32_t id;
	bool bypass;
	bool relaxed;	   /* every endpoint allows class "exposed" */
	bool needs_sync;   /* it has slots that sync points must look at */
	uint64_t mappings; /* live ones */
	unsigned nr_endpoints;
};

/**
 * mediator_next_domain - the domain with the lowest number from @id on
 * Return: 0; -ENOENT there is none.
 */
int mediator_next_domain(struct mediator *m, uint32_t id, struct domain_info *out);

/**
 * mediator_look - how a domain's IOVAs are backed, a piece at a time
 * @at: first iova of interest; where to go on, if more is left
 * @max: room in @out, at least 1
 * @more: call again, with *@at as it is then; even if nothing was written
 *
 * Every call looks at a bounded number of frames and mappings, allocates nothing, and keeps the
 * lock for less than a millisecond; what it writes was so at one moment. Between calls the guest
 * goes on. Stretches ascend and do not overlap; what stays as it is between the first call and the
 * last is in exactly one of them; what changes meanwhile may be told as it was or as it is.
 * Neighbours that are alike, with gpa going on as iova does, come as one. Holes are left out, and
 * so is all of a bypass domain. Return: stretches written; -ENOENT domain unknown (now).
 */
int mediator_look(struct mediator *m, uint32_t domain, uint64_t *at, struct stretch *out,
		  unsigned max, bool *more);

#endif
