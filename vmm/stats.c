/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/msg.h"

static const char *const exit_names[NR_EXIT_KINDS] = {
	[EXIT_KIND_UART] = "uart",	     [EXIT_KIND_RTC] = "rtc",
	[EXIT_KIND_VIRTIO] = "virtio",	     [EXIT_KIND_ECAM] = "ecam",
	[EXIT_KIND_DART] = "dart",	     [EXIT_KIND_BAR] = "bar",
	[EXIT_KIND_UNCLAIMED] = "unclaimed", [EXIT_KIND_NISV] = "nisv",
	[EXIT_KIND_OTHER] = "other",
};

enum exit_kind exit_kind_of(uint64_t gpa)
{
	static const struct {
		uint64_t base, len;
		enum exit_kind kind;
	} ranges[] = {
		{LAYOUT_UART_BASE, LAYOUT_UART_LEN, EXIT_KIND_UART},
		{LAYOUT_RTC_BASE, LAYOUT_RTC_LEN, EXIT_KIND_RTC},
		{LAYOUT_VIRTIO_BASE, LAYOUT_VIRTIO_STRIDE * LAYOUT_VIRTIO_SLOTS, EXIT_KIND_VIRTIO},
		{LAYOUT_DART_BASE, LAYOUT_DART_STRIDE * LAYOUT_DARTS, EXIT_KIND_DART},
		{LAYOUT_PCI_ECAM_BASE, LAYOUT_PCI_ECAM_LEN, EXIT_KIND_ECAM},
		{LAYOUT_PCI_IO_BASE, LAYOUT_PCI_IO_LEN, EXIT_KIND_BAR},
		{LAYOUT_PCI_MEM32_BASE, LAYOUT_PCI_MEM32_LEN, EXIT_KIND_BAR},
		{LAYOUT_PCI_MEM64_BASE, LAYOUT_PCI_MEM64_LEN, EXIT_KIND_BAR},
	};

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (gpa - ranges[i].base < ranges[i].len)
			return ranges[i].kind;
	}
	return EXIT_KIND_OTHER;
}

/* Bytes with a unit that keeps three digits or so; returns @buf. */
static const char *human(uint64_t bytes, char buf[24])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	double val = (double)bytes;
	unsigned unit = 0;

	while (val >= 1024 && unit < ARRAY_SIZE(units) - 1) {
		val /= 1024;
		unit++;
	}
	snprintf(buf, 24, unit && val < 100 ? "%.1f %s" : "%.0f %s", val, units[unit]);
	return buf;
}

/* Every field of struct mediator_stats under its own name: what only grows, and what tells a state.
 */
#define MEDIATOR_FIELDS(COUNT, LEVEL)                                                              \
	COUNT(maps)                                                                                \
	COUNT(unmaps)                                                                              \
	COUNT(attaches)                                                                            \
	COUNT(detaches)                                                                            \
	COUNT(refused)                                                                             \
	LEVEL(mappings)                                                                            \
	LEVEL(mappings_peak)                                                                       \
	COUNT(direct_frames)                                                                       \
	COUNT(window_frames)                                                                       \
	COUNT(exposed_frames)                                                                      \
	COUNT(bounce_frames)                                                                       \
	LEVEL(direct_live)                                                                         \
	LEVEL(window_live)                                                                         \
	LEVEL(exposed_live)                                                                        \
	LEVEL(bounce_live)                                                                         \
	COUNT(parked_hits)                                                                         \
	COUNT(parked_evicted)                                                                      \
	LEVEL(parked_live)                                                                         \
	COUNT(quarantined_frames)                                                                  \
	LEVEL(quarantined_live)                                                                    \
	COUNT(to_bounce)                                                                           \
	COUNT(to_direct)                                                                           \
	COUNT(bytes_to_device)                                                                     \
	COUNT(bytes_to_guest)                                                                      \
	COUNT(syncs_for_device)                                                                    \
	COUNT(syncs_for_cpu)                                                                       \
	COUNT(sync_ns)                                                                             \
	COUNT(traps)                                                                               \
	COUNT(untraps)                                                                             \
	COUNT(conflicts)                                                                           \
	COUNT(holds)                                                                               \
	COUNT(unstable)                                                                            \
	COUNT(reclassified)                                                                        \
	COUNT(instance_maps)                                                                       \
	COUNT(instance_unmaps)                                                                     \
	COUNT(instance_errors)                                                                     \
	COUNT(invalidations)                                                                       \
	COUNT(faults)                                                                              \
	COUNT(faults_lost)                                                                         \
	LEVEL(bounce_bytes)                                                                        \
	LEVEL(bounce_bytes_peak)

#define COUNT_FIELD(name) char name;
struct mediator_field_count {
	MEDIATOR_FIELDS(COUNT_FIELD, COUNT_FIELD)
};
_Static_assert(sizeof(struct mediator_stats) / sizeof(uint64_t) ==
		       sizeof(struct mediator_field_count),
	       "a field of struct mediator_stats is missing in MEDIATOR_FIELDS");

void stats_print(FILE *file, const struct stats *stats)
{
	const struct mediator_stats *m = &stats->mediator;
	char a[24], b[24], c[24];

	for (unsigned i = 0; i < stats->nr_nets; i++) {
		const struct net_stats *n = &stats->nets[i].counts;

		fprintf(file,
			"granule: --net %s: to the guest %" PRIu64 " packets (%s), %" PRIu64
			" dropped; from it %" PRIu64 " (%s), %" PRIu64 " dropped\n",
			stats->nets[i].tap, n->rx_packets, human(n->rx_bytes, a), n->rx_dropped,
			n->tx_packets, human(n->tx_bytes, b), n->tx_dropped);
	}
	if (!stats->viommu || !stats->nr_endpoints)
		return;
	fprintf(file, "granule: virtio-iommu, %u endpoint%s, %s frames, %.1f s\n",
		stats->nr_endpoints, stats->nr_endpoints == 1 ? "" : "s",
		human(stats->frame_size, a), stats->seconds);
	fprintf(file,
		"  %-14s %" PRIu64 " made, %" PRIu64 " at most at once, %" PRIu64
		" requests refused\n",
		"mappings", m->maps, m->mappings_peak, m->refused);
	fprintf(file,
		"  %-14s %" PRIu64 " direct, %" PRIu64 " window, %" PRIu64 " exposed, %" PRIu64
		" bounce\n",
		"frames", m->direct_frames, m->window_frames, m->exposed_frames, m->bounce_frames);
	fprintf(file,
		"  %-14s %" PRIu64 " maps and %" PRIu64 " unmaps, %" PRIu64
		" frames reused as they were\n",
		"host IOMMU", m->instance_maps, m->instance_unmaps, m->parked_hits);
	fprintf(file, "  %-14s %" PRIu64 " to map, %" PRIu64 " to unmap, %" PRIu64 " others\n",
		"VFIO calls", stats->vfio.maps, stats->vfio.unmaps, stats->vfio.others);
	fprintf(file, "  %-14s %s to devices, %s to the guest, %s of bounce pages at most\n",
		"bytes copied", human(m->bytes_to_device, a), human(m->bytes_to_guest, b),
		human(m->bounce_bytes_peak, c));
	fprintf(file, "  %-14s %" PRIu64 " for devices, %" PRIu64 " for the guest, %.3f s\n",
		"syncs", m->syncs_for_device, m->syncs_for_cpu, (double)m->sync_ns / 1e9);
	fprintf(file, "  %-14s %" PRIu64 "\n", "conflicts", m->conflicts);
	fprintf(file, "  %-14s %" PRIu64 ", %" PRIu64 " of them not told to the guest\n", "faults",
		m->faults, m->faults_lost);
}

void stats_print_live(FILE *file, const struct stats *stats)
{
	const char *between = "";

	fprintf(file, "granule: %.1f s; exits of the guest:", stats->seconds);
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++) {
		if (!stats->exits[i])
			continue;
		fprintf(file, "%s %" PRIu64 " %s", between, stats->exits[i], exit_names[i]);
		between = ",";
		if (stats->exit_ns[i])
			fprintf(file, " (%.3f s)", (double)stats->exit_ns[i] / 1e9);
	}
	fprintf(file, "%s\n", *between ? "" : " none");
	stats_print(file, stats);
}

void stats_since(struct stats *stats, const struct stats *before)
{
	stats->seconds -= before->seconds;
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++) {
		stats->exits[i] -= before->exits[i];
		stats->exit_ns[i] -= before->exit_ns[i];
	}
	stats->vfio.maps -= before->vfio.maps;
	stats->vfio.unmaps -= before->vfio.unmaps;
	stats->vfio.others -= before->vfio.others;
	for (unsigned i = 0; i < stats->nr_nets; i++) {
		struct net_stats *n = &stats->nets[i].counts;
		const struct net_stats *b = &before->nets[i].counts;

		n->rx_packets -= b->rx_packets;
		n->rx_bytes -= b->rx_bytes;
		n->rx_dropped -= b->rx_dropped;
		n->tx_packets -= b->tx_packets;
		n->tx_bytes -= b->tx_bytes;
		n->tx_dropped -= b->tx_dropped;
	}
#define SUBTRACT_FIELD(name) stats->mediator.name -= before->mediator.name;
#define KEEP_FIELD(name)
	MEDIATOR_FIELDS(SUBTRACT_FIELD, KEEP_FIELD)
}

uint32_t stats_layout(void)
{
#define NAME_FIELD(name) #name " "
	static const char names[] = MEDIATOR_FIELDS(NAME_FIELD, NAME_FIELD);
	uint32_t hash = 2166136261u ^ (uint32_t)sizeof(struct stats); /* FNV-1a */

	for (size_t i = 0; i < sizeof(names); i++)
		hash = (hash ^ (uint8_t)names[i]) * 16777619u;
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++) {
		for (const char *c = exit_names[i]; *c; c++)
			hash = (hash ^ (uint8_t)*c) * 16777619u;
	}
	return hash;
}

void stats_write_json(FILE *file, const struct stats *stats)
{
	fprintf(file, "{\n  \"seconds\": %.3f,\n  \"exits\": {", stats->seconds);
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++)
		fprintf(file, "%s\n    \"%s\": %" PRIu64, i ? "," : "", exit_names[i],
			stats->exits[i]);
	fprintf(file, "\n  },\n  \"exit_ns\": {");
	for (unsigned i = 0; i < NR_EXIT_KINDS; i++)
		fprintf(file, "%s\n    \"%s\": %" PRIu64, i ? "," : "", exit_names[i],
			stats->exit_ns[i]);
	fprintf(file,
		"\n  },\n  \"vfio_calls\": {\n    \"map\": %" PRIu64 ",\n    \"unmap\": %" PRIu64
		",\n    \"others\": %" PRIu64 "\n  },\n  \"nets\": [",
		stats->vfio.maps, stats->vfio.unmaps, stats->vfio.others);
	for (unsigned i = 0; i < stats->nr_nets; i++) {
		const struct net_stats *n = &stats->nets[i].counts;

		/* A name may have any other letter: Linux's only limits are '/' and blanks. */
		fprintf(file, "%s\n    {\"tap\": \"", i ? "," : "");
		for (const char *c = stats->nets[i].tap; *c; c++) {
			if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
				fprintf(file, "\\u%04x", (unsigned)(unsigned char)*c);
			else
				fputc(*c, file);
		}
		fprintf(file,
			"\", \"rx_packets\": %" PRIu64 ", \"rx_bytes\": %" PRIu64
			", \"rx_dropped\": %" PRIu64 ", \"tx_packets\": %" PRIu64
			", \"tx_bytes\": %" PRIu64 ", \"tx_dropped\": %" PRIu64 "}",
			n->rx_packets, n->rx_bytes, n->rx_dropped, n->tx_packets, n->tx_bytes,
			n->tx_dropped);
	}
	fprintf(file, "%s],\n  \"viommu\": ", stats->nr_nets ? "\n  " : "");
	if (!stats->viommu) {
		fprintf(file, "null\n}\n");
		return;
	}
	fprintf(file, "{\n    \"endpoints\": %u,\n    \"frame_size\": %" PRIu64,
		stats->nr_endpoints, stats->frame_size);
#define WRITE_FIELD(name) fprintf(file, ",\n    \"" #name "\": %" PRIu64, stats->mediator.name);
	MEDIATOR_FIELDS(WRITE_FIELD, WRITE_FIELD)
	fprintf(file, "\n  }\n}\n");
}

struct stats_file {
	const char *path;
	int fd;
	int reader;    /* of a pipe with a name, so that nobody has to be there yet; -1: not one */
	bool replaces; /* by temp, which is there until then */
	char temp[PATH_MAX];
};

/*
 * May we put a file in place of @path at the end? Root may not everywhere: the sandbox leaves it no
 * capability, so it is like any user in a directory of somebody else's, and in a sticky one with a
 * file of somebody else's.
 */
static bool may_replace(const char *path)
{
	char dir[PATH_MAX];
	struct stat st;

	if (geteuid())
		return true; /* what it may do now it may do then */
	snprintf(dir, sizeof(dir), "%s", path);
	if (stat(dirname(dir), &st))
		return true; /* there is no such place: it is told soon */
	if (st.st_uid)
		return false;
	return !(st.st_mode & S_ISVTX) || stat(path, &st) || !st.st_uid;
}

/* Return: 0; -errno. */
static int target_open(struct stats_file *file)
{
	struct stat st;

	if (stat(file->path, &st) == 0 && !S_ISREG(st.st_mode)) {
		if (S_ISFIFO(st.st_mode))
			file->reader = open(file->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		file->fd = open(file->path, O_WRONLY | O_CLOEXEC);
		return file->fd < 0 ? -errno : 0;
	}
	if (!may_replace(file->path)) {
		file->fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		return file->fd < 0 ? -errno : 0;
	}
	if (snprintf(file->temp, sizeof(file->temp), "%s.XXXXXX", file->path) >=
	    (int)sizeof(file->temp))
		return -ENAMETOOLONG;
	file->fd = mkostemp(file->temp, O_CLOEXEC);
	file->replaces = file->fd >= 0;
	return file->fd < 0 ? -errno : 0;
}

int stats_file_open(const char *path, struct stats_file **out)
{
	struct stats_file *file = calloc(1, sizeof(*file));
	mode_t mask = umask(0);
	int ret;

	umask(mask);
	if (!file) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	file->path = path;
	file->fd = file->reader = -1;
	ret = target_open(file);
	if (ret) {
		msg_error("--stats %s: cannot write there: %s", path, strerror(-ret));
		stats_file_close(file);
		return ret;
	}
	/* mkostemp gives 0600; a file the user asked for is as readable as any other. */
	if (file->replaces)
		(void)fchmod(file->fd, 0666 & ~mask);
	*out = file;
	return 0;
}

bool stats_file_replaces(const struct stats_file *file)
{
	return file->replaces;
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

static void close_reader(struct stats_file *file)
{
	if (file->reader >= 0)
		close(file->reader);
	file->reader = -1;
}

int stats_file_write(struct stats_file *file, const struct stats *stats)
{
	char *text = NULL;
	size_t len;
	FILE *memory = open_memstream(&text, &len);
	int ret = -ENOMEM;

	/* A pipe without another one is an error now. */
	close_reader(file);
	if (memory) {
		stats_write_json(memory, stats);
		ret = fclose(memory) ? -errno : write_all(file->fd, text, len);
	}
	free(text);
	/* What the file system has put off it may refuse now. */
	if (close(file->fd) && !ret)
		ret = -errno;
	file->fd = -1;
	if (!ret && file->replaces) {
		ret = rename(file->temp, file->path) ? -errno : 0;
		file->replaces = ret;
	}
	if (ret)
		msg_error("--stats %s: cannot be written: %s", file->path, strerror(-ret));
	return ret;
}

void stats_file_close(struct stats_file *file)
{
	if (!file)
		return;
	close_reader(file);
	if (file->fd >= 0)
		close(file->fd);
	if (file->replaces)
		unlink(file->temp);
	free(file);
}
