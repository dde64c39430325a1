/* SPDX-License-Identifier: Apache-2.0 */
/*
 * view - what `granule inspect --domain` shows of a VM that runs: endpoints, instances, domains and
 * how their IOVAs are backed. Taken by the VM, sent as it is (vmm/statsock), looked through for
 * what cannot be, printed as text or JSON; drawn by vmm/svg.
 */
#ifndef VMM_VIEW_H
#define VMM_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "iommu/mediator.h"
#include "vmm/cli.h"

#define VIEW_MAX_ENDPOINTS (CONFIG_MAX_VFIO + CONFIG_MAX_SIM)
#define VIEW_MAX_INSTANCES (CONFIG_MAX_VFIO + 2 * CONFIG_MAX_SIM)
#define VIEW_MAX_RESV	   16
#define VIEW_MAX_STRETCHES 256 /* in one piece: it fits an empty socket buffer */
#define VIEW_NAME_MAX	   39
#define VIEW_MAX_DOMAINS   256 /* at once */

struct view_instance {
	char kind[16], name[VIEW_NAME_MAX + 1];
	uint64_t granule; /* bytes */
	uint32_t nr_streams;
	uint32_t exclusive, failed; /* 0 or 1 */
	uint32_t nr_apertures;
	struct iova_range apertures[INSTANCE_MAX_APERTURES];
};

struct view_endpoint {
	char name[VIEW_NAME_MAX + 1];
	uint32_t id, attached, domain;
	uint32_t sync, trap; /* enum sync_mode, enum trap_state */
	uint32_t may_turn_full, relaxed, hold, told;
	uint32_t nr_streams;
	struct {
		uint32_t instance, sid; /* which of view_vm.instances */
	} streams[MEDIATOR_MAX_STREAMS];
	uint32_t nr_resv; /* may be more than there is room for */
	struct {
		uint64_t start, last;
		uint64_t msi; /* 0 or 1 */
	} resv[VIEW_MAX_RESV];
};

struct view_vm {
	double seconds;
	uint64_t viommu; /* 0: there is none, and nothing of the rest */
	uint64_t granule, frame_size, pool_limit, bounce_bytes;
	struct iova_range range;
	uint32_t nr_endpoints, nr_instances;
	struct view_endpoint endpoints[VIEW_MAX_ENDPOINTS];
	struct view_instance instances[VIEW_MAX_INSTANCES];
};

struct view_domain {
	uint64_t found; /* 0: there is none with this number or above */
	uint32_t id, nr_endpoints;
	uint32_t bypass, relaxed, needs_sync;
	uint64_t mappings;
};

/* Stretches of one domain from an IOVA on. */
struct view_piece {
	uint32_t found; /* 0: the domain is no more */
	uint32_t more;
	uint64_t at; /* more: where to go on */
	uint64_t nr;
	struct stretch v[VIEW_MAX_STRETCHES];
};

/* view_take_* - on the VM's side; @out is all zero before */
void view_take_vm(struct mediator *m, uint64_t granule, uint64_t pool_limit, struct view_vm *out);
void view_take_domain(struct mediator *m, uint32_t from, struct view_domain *out);
void view_take_piece(struct mediator *m, uint32_t domain, uint64_t at, struct view_piece *out);

/* view_*_sound - could a VM have said so? What is printed relies on it. @at: that was asked for */
bool view_vm_sound(const struct view_vm *vm);
bool view_piece_sound(const struct view_piece *piece, uint64_t at);

/* Stretches of one domain, folded or not, and what they add up to. */
struct view_map {
	struct stretch *v;
	uint32_t *pieces; /* places of guest memory folded into each of v */
	size_t nr, cap;
	uint64_t bytes[NR_STRETCH_CLASSES], slots[NR_STRETCH_CLASSES];
};

/* view_map_add - append what comes after all in it, and so is likely to be folded into its last.
 * Return: 0; -ENOMEM also for more stretches than a VM can have. */
int view_map_add(struct view_map *map, const struct stretch *next, bool fold);
void view_map_clear(struct view_map *map); /* frees; all zero after it */

/* One part after the other: the VM, then domains. Text is at most 100 columns wide, names and
 * unusual addresses apart. */
void view_print_vm(FILE *file, pid_t pid, const struct view_vm *vm);
void view_print_domain(FILE *file, const struct view_vm *vm, const struct view_domain *dom,
		       const struct view_map *map);

/* The same as one object; @first: of the domains */
void view_json_begin(FILE *file, pid_t pid, const struct view_vm *vm);
void view_json_domain(FILE *file, const struct view_domain *dom, const struct view_map *map,
		      bool first);
void view_json_end(FILE *file);

/* view_size - bytes in a few letters, "16 KiB"; returns @buf */
const char *view_size(uint64_t bytes, char buf[24]);
/* view_bdf - the guest's address of an endpoint, "00:01.0"; returns @buf */
const char *view_bdf(uint32_t id, char buf[16]);
/* view_rights - "r-", "-w", "rw", "--"; of several "rw*" */
const char *view_rights(const struct stretch *s);
/* view_sync_name, view_trap_name - as the options and the documents have it */
const char *view_sync_name(uint32_t sync);
const char *view_trap_name(const struct view_endpoint *ep);

#endif
