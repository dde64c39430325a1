/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats - what a run did, told after it and while it runs: a table for people, JSON for tools.
 */
#ifndef VMM_STATS_H
#define VMM_STATS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "iommu/mediator.h"
#include "iommu/vfio.h"
#include "virtio/net.h"
#include "vmm/cli.h"

/* Why vCPUs left the guest. */
enum exit_kind {
	EXIT_KIND_UART,
	EXIT_KIND_RTC,
	EXIT_KIND_VIRTIO, /* virtio-mmio registers */
	EXIT_KIND_ECAM,
	EXIT_KIND_BAR,
	EXIT_KIND_DART,	     /* registers of a DART that the guest owns */
	EXIT_KIND_UNCLAIMED, /* MMIO where nothing is */
	EXIT_KIND_NISV,	     /* an access KVM could not decode */
	EXIT_KIND_OTHER,     /* signals, system events */
	NR_EXIT_KINDS,
};

/* exit_kind_of - by the address of an MMIO access that something claimed */
enum exit_kind exit_kind_of(uint64_t gpa);

/* What went through one --net. */
struct stats_net {
	char tap[CONFIG_TAP_NAME_MAX + 1];
	struct net_stats counts;
};

struct stats {
	double seconds; /* the guest ran */
	uint64_t exits[NR_EXIT_KINDS];
	uint64_t exit_ns[NR_EXIT_KINDS]; /* spent on them, of all vCPUs together */
	struct vfio_counts vfio;
	unsigned nr_nets;
	struct stats_net nets[CONFIG_MAX_NETS];
	bool viommu; /* there was one: the rest is valid */
	unsigned nr_endpoints;
	uint64_t frame_size; /* bytes */
	struct mediator_stats mediator;
};

/* stats_print - a line for each --net, and the table, when devices were behind the virtio-iommu */
void stats_print(FILE *file, const struct stats *stats);

/* stats_print_live - the same of a VM that runs, and its exits; there is always something */
void stats_print_live(FILE *file, const struct stats *stats);

/* stats_write_json - one object and a newline */
void stats_write_json(FILE *file, const struct stats *stats);

/* stats_since - what came after @before, in @stats' place; what tells a state (levels, peaks) stays
 */
void stats_since(struct stats *stats, const struct stats *before);

/* stats_layout - a number that no other version's struct stats has, as good as certainly */
uint32_t stats_layout(void);

/* A file that statistics go to in the end; opened before, for then it is too late. A regular one is
 * replaced, whole or not at all, by a new file beside it. */
struct stats_file;

/* stats_file_open - @path is kept, not copied. Return: 0; -errno after a line on stderr. */
int stats_file_open(const char *path, struct stats_file **out);

/* stats_file_replaces - will the file be replaced, which takes the right to rename? */
bool stats_file_replaces(const struct stats_file *file);

/* stats_file_write - JSON, once. Return: 0; -errno after a line on stderr. */
int stats_file_write(struct stats_file *file, const struct stats *stats);

/* stats_file_close - leaves nothing behind if it was not written; NULL is fine */
void stats_file_close(struct stats_file *file);

#endif
