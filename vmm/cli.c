/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/bdf.h"
#include "vmm/fdarg.h"
#include "vmm/layout.h"
#include "vmm/msg.h"
#include "vmm/poller.h"
#include "vmm/trace.h"

#define STAT_INTERVAL_MAX 86400 /* seconds: a day */

#define MIB UINT64_C(0x100000)

#define MEMORY_MIN     (64 * MIB)
#define MEMORY_ALIGN   (2 * MIB)
#define MEMORY_MAX     ((uint64_t)(LAYOUT_RAM_LOW_MAX + LAYOUT_RAM_HIGH_MAX))
#define MEMORY_DEFAULT (1024 * MIB)
#define VCPUS_DEFAULT  2 /* or as many as the host has, if fewer */

/* At most 80 columns, so that it reads well anywhere. */
static const char help_main[] =
	"granule - run 4 KiB-page Linux guests, with passed-through devices, on hosts\n"
	"          whose pages are 16 KiB\n"
	"\n"
	"usage: granule COMMAND [OPTION]...\n"
	"\n"
	"  run -k KERNEL [OPTION]...  start a guest; see granule run --help\n"
	"  check                      tell whether this host can run guests\n"
	"  devices [--json]           list the host's PCI functions\n"
	"  inspect KERNEL             tell what a kernel file is; with --domain PID how the\n"
	"                             devices of a guest that runs see its memory\n"
	"  stat PID [OPTION]...       tell what a guest that runs has done so far\n"
	"  help [COMMAND]             show this, or a command's own help\n"
	"  version                    show the version\n"
	"\n"
	"More in granule(1).\n";

static const char help_run[] =
	"usage: granule run -k KERNEL [OPTION]...\n"
	"\n"
	"  -k, --kernel FILE    arm64 kernel: Image, Image.gz, EFI zboot (gzip, zstd)\n"
	"  -i, --initrd FILE    initial RAM disk (also --initramfs)\n"
	"  -p, --params TEXT    kernel command line (also --append, --cmdline)\n"
	"  -m, --mem SIZE       memory: a number with K, M, G or T, or of MiB (also\n"
	"                       --memory); default 1G\n"
	"  -c, --cpus N         vCPUs, 1 to 8; default 2, or 1 on a host with one CPU\n"
	"  --disk FILE[,ro]     raw disk image or block device; up to 8 times\n"
	"  --vfio DEVICE[,KEY=VALUE]...\n"
	"                       host PCI function: DDDD:BB:DD.F, BB:DD.F or a path in\n"
	"                       /sys; up to 8 times. Keys:\n"
	"                         sync=full|rings|none\n"
	"                             when bounced pages are copied\n"
	"                         poll=MICROSECONDS\n"
	"                             and that they are, every so often besides\n"
	"                         hold=on|off\n"
	"                             are vCPUs held while rings are copied\n"
	"                         exposure=strict|relaxed\n"
	"                             relaxed: where a part of a host page is mapped,\n"
	"                             the device may see all of it\n"
	"                         group=NAME\n"
	"                             devices with one NAME are in one IOMMU group\n"
	"                             of the guest\n"
	"                         fd=N, container=N\n"
	"                             its group and a VFIO container, opened before\n"
	"  --sim nvme,disk=FILE[,ro][,KEY=VALUE]...\n"
	"  --sim edu[,hostile][,KEY=VALUE]...\n"
	"                       simulated device behind simulated DARTs; up to 4 times.\n"
	"                       sync, poll, hold and exposure as above, and:\n"
	"                         dart=t8103|t6000|t8110\n"
	"                             which DART; default t8103\n"
	"                         darts=1|2\n"
	"                             2: an NVMe's queues and data by different ones\n"
	"                         owner=host|guest\n"
	"                             guest: no mediation, the guest drives the DART\n"
	"                         quirk=locked-ttbr|slow-invalidate|hung-invalidate\n"
	"                             what is wrong with the DARTs\n"
	"  --net tap=NAME[,mac=MAC]\n"
	"                       network through the host's tap interface NAME, which is\n"
	"                       made if there is none; up to 4 times\n"
	"  --net fd=N[,mac=MAC]\n"
	"                       or through a tap that is descriptor N\n"
	"  --kvm FILE           instead of /dev/kvm\n"
	"  --iommu on|off       give the guest a virtio-iommu; default on\n"
	"  --dump-dtb FILE      write the guest's device tree to FILE\n"
	"  --stats FILE         write statistics to FILE when the guest has ended\n"
	"  --live-stats         let granule stat ask for them meanwhile\n"
	"  --trace FILE[,max=SIZE]\n"
	"                       record maps, unmaps, syncs, faults and the like in FILE,\n"
	"                       which Perfetto opens; default at most 1G of it\n"
	"  -v, --verbose        tell how the guest is set up, and notable moments\n"
	"  --no-sandbox         keep all privileges and all system calls\n"
	"  -h, --help           show this\n"
	"\n"
	"Each FILE that is read, and a disk, may also be fd=N: a descriptor that is open.\n"
	"Ctrl-A x quits, Ctrl-A h lists what else Ctrl-A does. More in granule(1).\n";

static const char help_check[] =
	"usage: granule check\n"
	"\n"
	"Tells, a line each, whether this host can run guests with passed-through\n"
	"devices, and how to fix what is amiss.\n";

static const char help_devices[] =
	"usage: granule devices [--json]\n"
	"\n"
	"Lists the host's PCI functions: address, name, driver, IOMMU group, aperture\n"
	"and BARs.\n"
	"\n"
	"      --json            as JSON\n"
	"  -h, --help            show this\n";

static const char help_inspect[] =
	"usage: granule inspect KERNEL\n"
	"       granule inspect --domain PID[,ID] [--json | --svg [FILE]]\n"
	"\n"
	"Tells what a kernel file is: format, version, page size, sizes, and the\n"
	"virtio-iommu granule that a guest with it is offered.\n"
	"\n"
	"With --domain, shows the devices of the guest of process PID, their IOMMUs, and\n"
	"how each IOVA of its domains, or of domain ID alone, is backed. The guest must\n"
	"have been started with --live-stats.\n"
	"\n"
	"      --domain PID[,ID]\n"
	"      --json            as JSON\n"
	"      --svg             as a picture, in FILE if one is given\n"
	"  -h, --help            show this\n";

static const char help_stat[] =
	"usage: granule stat PID [--json] [-i SECONDS [-n COUNT]]\n"
	"\n"
	"Tells what the guest of process PID has done: exits and the time they took,\n"
	"frames, copies, syncs, VFIO calls, conflicts, faults. It must have been started\n"
	"with --live-stats.\n"
	"\n"
	"      --json            as JSON, an object each time, always since the start\n"
	"  -i, --interval N      every N seconds, each time what came since the last;\n"
	"                        until the guest ends\n"
	"  -n, --count N         so many times\n"
	"  -h, --help            show this\n";

static const struct command {
	const char *name, *help;
	enum cli_command command;
} commands[] = {
	{"run", help_run, CLI_RUN},
	{"check", help_check, CLI_CHECK},
	{"devices", help_devices, CLI_DEVICES},
	{"inspect", help_inspect, CLI_INSPECT},
	{"stat", help_stat, CLI_STAT},
	{"help", help_main, CLI_DONE},
	{"version", help_main, CLI_DONE},
};

/* ---- near misses ---- */

#define WORD_MAX 24

/* How many letters to insert, drop, change or swap with the next to get from @a to @b. */
static unsigned distance(const char *a, const char *b)
{
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];
	size_t len_a = strlen(a), len_b = strlen(b);

	if (len_a > WORD_MAX || len_b > WORD_MAX)
		return WORD_MAX;
	for (size_t i = 0; i <= len_a; i++) {
		for (size_t j = 0; j <= len_b; j++) {
			if (!i || !j) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			d[i][j] = MIN(d[i - 1][j], d[i][j - 1]) + 1;
			d[i][j] = MIN(d[i][j], d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[len_a][len_b];
}

struct nearest {
	const char *word, *best;
	unsigned distance;
};

static void consider(struct nearest *n, const char *candidate)
{
	unsigned d = distance(n->word, candidate);

	/* In a word of three letters, two mistakes are another word. */
	if (d > (strlen(candidate) <= 4 ? 1 : 2) || (n->best && d >= n->distance))
		return;
	n->best = candidate;
	n->distance = d;
}

/* ---- values ---- */

/* A decimal number and nothing else but what follows at @end. */
static bool parse_number(const char *text, uint64_t *out, const char **end)
{
	char *stop;

	if (*text < '0' || *text > '9')
		return false; /* strtoull would take spaces and signs */
	errno = 0;
	*out = strtoull(text, &stop, 10);
	*end = stop;
	return !errno;
}

/* Bytes from a number with K, M, G or T, MiB without; "B" and "iB" may follow the letter. */
static bool parse_size(const char *text, uint64_t *out)
{
	static const char letters[] = "KMGT";
	const char *end, *letter;
	unsigned shift = 20;

	if (!parse_number(text, out, &end))
		return false;
	if (*end) {
		letter = strchr(letters, toupper((unsigned char)*end));
		if (!letter ||
		    (end[1] && strcasecmp(end + 1, "B") != 0 && strcasecmp(end + 1, "iB") != 0))
			return false;
		shift = 10 * (unsigned)(letter - letters + 1);
	}
	if (*out > UINT64_MAX >> shift)
		return false;
	*out <<= shift;
	return true;
}

static int parse_memory(const char *text, uint64_t *out)
{
	uint64_t bytes;

	if (!parse_size(text, &bytes)) {
		msg_error(
			"-m %s: not a size; give for example 512M or 4G (a bare number counts MiB)",
			text);
		return -EINVAL;
	}
	if (bytes < MEMORY_MIN) {
		msg_error("-m %s: too little memory; give at least %" PRIu64 "M", text,
			  MEMORY_MIN / MIB);
		return -EINVAL;
	}
	if (bytes > MEMORY_MAX) {
		msg_error("-m %s: more memory than a guest can have; give at most %" PRIu64 "M",
			  text, MEMORY_MAX / MIB);
		return -EINVAL;
	}
	if (!IS_ALIGNED(bytes, MEMORY_ALIGN)) {
		msg_error("-m %s: memory comes in steps of 2 MiB; give %" PRIu64 "M or %" PRIu64
			  "M",
			  text, ALIGN_DOWN(bytes, MEMORY_ALIGN) / MIB,
			  ALIGN_UP(bytes, MEMORY_ALIGN) / MIB);
		return -EINVAL;
	}
	*out = bytes;
	return 0;
}

static int parse_cpus(const char *text, unsigned *out)
{
	const char *end;
	uint64_t n;

	if (!parse_number(text, &n, &end) || *end || n < 1 || n > LAYOUT_MAX_VCPUS) {
		msg_error("-c %s: give a number of vCPUs from 1 to %d", text, LAYOUT_MAX_VCPUS);
		return -EINVAL;
	}
	*out = (unsigned)n;
	return 0;
}

/*
 * Descriptor @text, if it is "fd=N", is @cfg's from here on. @option: for messages.
 * Return: N; -ENOENT: it is a file's name; -EINVAL after a line on stderr.
 */
static int take_fd(const char *option, const char *text, struct vm_config *cfg)
{
	int fd = fdarg_parse(text);

	if (fd == -ENOENT)
		return fd;
	if (fd < 0) {
		msg_error("%s %s: give the number of an open descriptor from 3 on (a file of that "
			  "name is ./%s)",
			  option, text, text);
		return fd;
	}
	switch (fdarg_take(fd, cfg->fds, cfg->nr_fds)) {
	case 0:
		break;
	case -EEXIST:
		msg_error("%s %s: this descriptor, or a duplicate of it, is given twice; open the "
			  "file once for each",
			  option, text);
		return -EINVAL;
	default:
		msg_error("%s %s: this descriptor is not open; whoever starts granule must open it "
			  "and leave it open",
			  option, text);
		return -EINVAL;
	}
	/* Never too many: what may have one may only be given so often. */
	if (cfg->nr_fds < CONFIG_MAX_FDS)
		cfg->fds[cfg->nr_fds++] = fd;
	return fd;
}

/* Which of @nr words @text is, or -1. */
static int find_word(const char *const *words, size_t nr, const char *text)
{
	for (size_t i = 0; i < nr; i++) {
		if (!strcmp(words[i], text))
			return (int)i;
	}
	return -1;
}

static int parse_iommu(const char *text, bool *out)
{
	static const char *const words[] = {"off", "on"};
	int i = find_word(words, ARRAY_SIZE(words), text);

	if (i < 0) {
		msg_error("--iommu %s: give on or off", text);
		return -EINVAL;
	}
	*out = i;
	return 0;
}

static int parse_disk(char *text, struct vm_config *cfg)
{
	struct disk_config disk = {.path = strsep(&text, ",")};
	const char *key;

	if (!*disk.path) {
		msg_error("--disk: no file given; give FILE or FILE,ro");
		return -EINVAL;
	}
	while ((key = strsep(&text, ","))) {
		if (strcmp(key, "ro") != 0) {
			msg_error("--disk %s: unknown key '%s'; known keys: ro", disk.path, key);
			return -EINVAL;
		}
		disk.readonly = true;
	}
	if (cfg->nr_disks == CONFIG_MAX_DISKS) {
		msg_error("--disk %s: too many disks; give at most %d", disk.path,
			  CONFIG_MAX_DISKS);
		return -EINVAL;
	}
	if (take_fd("--disk", disk.path, cfg) == -EINVAL)
		return -EINVAL;
	cfg->disks[cfg->nr_disks++] = disk;
	return 0;
}

/* The address of a device given either way. Return: 0; -EINVAL a path that does not end in one. */
static int bdf_of(const char *device, char bdf[BDF_LEN])
{
	const char *end = device + strlen(device), *start;
	char name[BDF_LEN];

	while (end > device && end[-1] == '/')
		end--;
	for (start = end; start > device && start[-1] != '/'; start--)
		;
	if ((size_t)(end - start) >= sizeof(name))
		return -EINVAL;
	memcpy(name, start, (size_t)(end - start));
	name[end - start] = '\0';
	return bdf_parse(name, bdf);
}

static bool same_device(const char *a, const char *b)
{
	char bdf_a[BDF_LEN], bdf_b[BDF_LEN];

	if (!bdf_of(a, bdf_a) && !bdf_of(b, bdf_b))
		return !strcmp(bdf_a, bdf_b);
	return !strcmp(a, b);
}

#define GROUP_NAME_MAX 16

static bool is_group_name(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz"
				  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

	return len && len <= GROUP_NAME_MAX && !text[len];
}

/* poll=: @option and @device are for messages. */
static int parse_poll(const char *option, const char *device, const char *value, unsigned *out)
{
	const char *end;
	uint64_t us;

	if (!value || !parse_number(value, &us, &end) || *end ||
	    (us && (us < POLL_US_MIN || us > POLL_US_MAX))) {
		msg_error("%s %s: poll=%s: give microseconds from %u to %u, or 0 for none", option,
			  device, value ? value : "", POLL_US_MIN, POLL_US_MAX);
		return -EINVAL;
	}
	*out = (unsigned)us;
	return 0;
}

static int parse_hold(const char *option, const char *device, const char *value, bool *out)
{
	static const char *const words[] = {"off", "on"};
	int i = value ? find_word(words, ARRAY_SIZE(words), value) : -1;

	if (i < 0) {
		msg_error("%s %s: hold=%s: give hold=on or hold=off", option, device,
			  value ? value : "");
		return -EINVAL;
	}
	*out = i;
	return 0;
}

/* What is never synced need not be looked at. */
static int check_poll(const char *option, const char *device, unsigned poll_us, bool sync_set,
		      enum sync_mode sync)
{
	if (!poll_us || !sync_set || sync != SYNC_NONE)
		return 0;
	msg_error("%s %s: poll=%u with sync=none: there is nothing to do then; give one of them",
		  option, device, poll_us);
	return -EINVAL;
}

/* fd=N or container=N of --vfio */
static int parse_vfio_fd(const char *device, const char *key, const char *value,
			 struct vm_config *cfg, int *out)
{
	char option[64], text[32];
	int fd;

	snprintf(option, sizeof(option), "--vfio %.40s,%s:", device, key);
	snprintf(text, sizeof(text), "fd=%s", value ? value : "");
	fd = take_fd(option, text, cfg);
	if (fd >= 0)
		*out = fd;
	return MIN(fd, 0);
}

static int parse_vfio_key(const char *device, char *key, struct vm_config *cfg,
			  struct vfio_config *vfio)
{
	static const char *const keys[] = {"sync", "exposure", "group",	   "poll",
					   "hold", "fd",       "container"};
	static const char *const syncs[] = {
		[SYNC_NONE] = "none", [SYNC_RINGS] = "rings", [SYNC_FULL] = "full"};
	static const char *const exposures[] = {"strict", "relaxed"};
	char *value = strchr(key, '=');
	int i;

	if (value)
		*value++ = '\0';
	switch (find_word(keys, ARRAY_SIZE(keys), key)) {
	case 0:
		i = value ? find_word(syncs, ARRAY_SIZE(syncs), value) : -1;
		if (i < 0) {
			msg_error("--vfio %s: sync=%s: give sync=full, sync=rings or sync=none",
				  device, value ? value : "");
			return -EINVAL;
		}
		vfio->sync_set = true;
		vfio->sync = (enum sync_mode)i;
		return 0;
	case 1:
		i = value ? find_word(exposures, ARRAY_SIZE(exposures), value) : -1;
		if (i < 0) {
			msg_error(
				"--vfio %s: exposure=%s: give exposure=strict or exposure=relaxed",
				device, value ? value : "");
			return -EINVAL;
		}
		vfio->relaxed = i;
		return 0;
	case 2:
		if (!value || !is_group_name(value)) {
			msg_error(
				"--vfio %s: group=%s: give a name of 1 to %d letters, digits, '-' "
				"and '_'",
				device, value ? value : "", GROUP_NAME_MAX);
			return -EINVAL;
		}
		vfio->group = value;
		return 0;
	case 3:
		vfio->poll_set = true;
		return parse_poll("--vfio", device, value, &vfio->poll_us);
	case 4:
		vfio->hold_set = true;
		return parse_hold("--vfio", device, value, &vfio->hold);
	case 5:
		return parse_vfio_fd(device, key, value, cfg, &vfio->group_fd);
	case 6:
		return parse_vfio_fd(device, key, value, cfg, &vfio->container_fd);
	default:
		msg_error("--vfio %s: unknown key '%s'; known keys: sync, exposure, group, poll, "
			  "hold, fd, container",
			  device, key);
		return -EINVAL;
	}
}

static int parse_vfio(char *text, struct vm_config *cfg)
{
	struct vfio_config vfio = {.device = strsep(&text, ","), .sync = SYNC_FULL};
	char bdf[BDF_LEN], *key;
	int ret;

	if (vfio.device[0] != '/' && bdf_parse(vfio.device, bdf)) {
		msg_error("--vfio %s: not a PCI address; give DDDD:BB:DD.F as `granule devices` "
			  "shows "
			  "it, or a path in /sys",
			  vfio.device);
		return -EINVAL;
	}
	while ((key = strsep(&text, ","))) {
		ret = parse_vfio_key(vfio.device, key, cfg, &vfio);
		if (ret)
			return ret;
	}
	ret = check_poll("--vfio", vfio.device, vfio.poll_us, vfio.sync_set, vfio.sync);
	if (ret)
		return ret;
	for (unsigned i = 0; i < cfg->nr_vfio; i++) {
		if (same_device(cfg->vfio[i].device, vfio.device)) {
			msg_error("--vfio %s: this device is given twice", vfio.device);
			return -EINVAL;
		}
	}
	if (cfg->nr_vfio == CONFIG_MAX_VFIO) {
		msg_error("--vfio %s: too many devices; give at most %d", vfio.device,
			  CONFIG_MAX_VFIO);
		return -EINVAL;
	}
	cfg->vfio[cfg->nr_vfio++] = vfio;
	return 0;
}

static int sim_value(const char *sim, const char *key, const char *value, const char *const *words,
		     size_t nr, const char *wanted, int *out)
{
	*out = value ? find_word(words, nr, value) : -1;
	if (*out >= 0)
		return 0;
	msg_error("--sim %s: %s=%s: give %s", sim, key, value ? value : "", wanted);
	return -EINVAL;
}

enum {
	SIM_KEY_DISK,
	SIM_KEY_RO,
	SIM_KEY_HOSTILE,
	SIM_KEY_DART,
	SIM_KEY_DARTS,
	SIM_KEY_OWNER,
	SIM_KEY_QUIRK,
	SIM_KEY_SYNC,
	SIM_KEY_EXPOSURE,
	SIM_KEY_POLL,
	SIM_KEY_HOLD,
};

static int parse_sim_key(const char *name, char *key, struct sim_config *sim)
{
	static const char *const keys[] = {
		[SIM_KEY_DISK] = "disk",	 [SIM_KEY_RO] = "ro",
		[SIM_KEY_HOSTILE] = "hostile",	 [SIM_KEY_DART] = "dart",
		[SIM_KEY_DARTS] = "darts",	 [SIM_KEY_OWNER] = "owner",
		[SIM_KEY_QUIRK] = "quirk",	 [SIM_KEY_SYNC] = "sync",
		[SIM_KEY_EXPOSURE] = "exposure", [SIM_KEY_POLL] = "poll",
		[SIM_KEY_HOLD] = "hold"};
	static const char *const kinds[] = {
		[SIM_DART_T8103] = "t8103", [SIM_DART_T6000] = "t6000", [SIM_DART_T8110] = "t8110"};
	static const char *const numbers[] = {"1", "2"};
	static const char *const owners[] = {"host", "guest"};
	static const char *const quirks[] = {
		[SIM_DART_LOCKED_TTBR] = "locked-ttbr",
		[SIM_DART_SLOW_INVALIDATE] = "slow-invalidate",
		[SIM_DART_HUNG_INVALIDATE] = "hung-invalidate",
		[SIM_DART_SOUND] = "none",
	};
	static const char *const syncs[] = {
		[SYNC_NONE] = "none", [SYNC_RINGS] = "rings", [SYNC_FULL] = "full"};
	static const char *const exposures[] = {"strict", "relaxed"};
	char *value = strchr(key, '=');
	int which, i = 0, ret = 0;

	if (value)
		*value++ = '\0';
	which = find_word(keys, ARRAY_SIZE(keys), key);
	if (which >= 0 && (sim->kind == SIM_NVME ? which == SIM_KEY_HOSTILE
						 : which == SIM_KEY_DISK || which == SIM_KEY_RO)) {
		msg_error("--sim %s: '%s' is a key of --sim %s", name, key,
			  sim->kind == SIM_NVME ? "edu" : "nvme");
		return -EINVAL;
	}
	if ((which == SIM_KEY_RO || which == SIM_KEY_HOSTILE) && value) {
		msg_error("--sim %s: '%s' takes no value", name, key);
		return -EINVAL;
	}
	switch (which) {
	case SIM_KEY_DISK:
		if (!value || !*value) {
			msg_error("--sim %s: disk=: give the file that is its disk", name);
			return -EINVAL;
		}
		sim->disk.path = value;
		return 0;
	case SIM_KEY_RO:
		sim->disk.readonly = true;
		return 0;
	case SIM_KEY_HOSTILE:
		sim->hostile = true;
		return 0;
	case SIM_KEY_DART:
		ret = sim_value(name, key, value, kinds, ARRAY_SIZE(kinds),
				"dart=t8103, dart=t6000 or dart=t8110", &i);
		sim->dart = (enum sim_dart_kind)i;
		return ret;
	case SIM_KEY_DARTS:
		ret = sim_value(name, key, value, numbers, ARRAY_SIZE(numbers),
				"darts=1 or darts=2", &i);
		sim->darts = (unsigned)i + 1;
		return ret;
	case SIM_KEY_OWNER:
		ret = sim_value(name, key, value, owners, ARRAY_SIZE(owners),
				"owner=host or owner=guest", &i);
		sim->guest_owned = i;
		return ret;
	case SIM_KEY_QUIRK:
		ret = sim_value(name, key, value, quirks, ARRAY_SIZE(quirks),
				"quirk=locked-ttbr, quirk=slow-invalidate or quirk=hung-invalidate",
				&i);
		sim->quirk = (enum sim_dart_quirk)i;
		return ret;
	case SIM_KEY_SYNC:
		ret = sim_value(name, key, value, syncs, ARRAY_SIZE(syncs),
				"sync=full, sync=rings or sync=none", &i);
		sim->sync_set = true;
		sim->sync = (enum sync_mode)i;
		return ret;
	case SIM_KEY_EXPOSURE:
		ret = sim_value(name, key, value, exposures, ARRAY_SIZE(exposures),
				"exposure=strict or exposure=relaxed", &i);
		sim->relaxed_set = true;
		sim->relaxed = i;
		return ret;
	case SIM_KEY_POLL:
		sim->poll_set = true;
		return parse_poll("--sim", name, value, &sim->poll_us);
	case SIM_KEY_HOLD:
		sim->hold_set = true;
		return parse_hold("--sim", name, value, &sim->hold);
	default:
		msg_error("--sim %s: unknown key '%s'; known keys: %sdart, darts, owner, quirk, "
			  "sync, poll, hold, exposure",
			  name, key, sim->kind == SIM_NVME ? "disk, ro, " : "hostile, ");
		return -EINVAL;
	}
}

/* What each key alone cannot tell. */
static int check_sim(const char *name, const struct sim_config *sim)
{
	if (sim->kind == SIM_NVME && !sim->disk.path) {
		msg_error("--sim nvme: no disk given; give disk=FILE");
		return -EINVAL;
	}
	if (sim->kind == SIM_EDU && sim->darts != 1) {
		msg_error("--sim edu: darts=%u: it masters through one DART only; leave darts away",
			  sim->darts);
		return -EINVAL;
	}
	if (sim->guest_owned && sim->darts != 1) {
		msg_error("--sim %s: owner=guest with darts=%u: a device tree names one IOMMU for "
			  "a PCI function; leave darts away",
			  name, sim->darts);
		return -EINVAL;
	}
	if (sim->guest_owned &&
	    (sim->sync_set || sim->poll_set || sim->hold_set || sim->relaxed_set)) {
		msg_error("--sim %s: %s is about mediation, and owner=guest has none; give one of "
			  "them",
			  name,
			  sim->sync_set	  ? "sync"
			  : sim->poll_set ? "poll"
			  : sim->hold_set ? "hold"
					  : "exposure");
		return -EINVAL;
	}
	return check_poll("--sim", name, sim->poll_us, sim->sync_set, sim->sync);
}

static int parse_sim(char *text, struct vm_config *cfg)
{
	static const char *const names[] = {[SIM_NVME] = "nvme", [SIM_EDU] = "edu"};
	const char *name = strsep(&text, ",");
	int kind = find_word(names, ARRAY_SIZE(names), name);
	struct sim_config sim = {.darts = 1};
	char *key;
	int ret;

	if (kind < 0) {
		msg_error("--sim %s: no such simulated device; give nvme or edu", name);
		return -EINVAL;
	}
	sim.kind = (enum sim_kind)kind;
	while ((key = strsep(&text, ","))) {
		ret = parse_sim_key(name, key, &sim);
		if (ret)
			return ret;
	}
	ret = check_sim(name, &sim);
	if (ret)
		return ret;
	if (cfg->nr_sim == CONFIG_MAX_SIM) {
		msg_error("--sim %s: too many simulated devices; give at most %d", name,
			  CONFIG_MAX_SIM);
		return -EINVAL;
	}
	if (sim.disk.path && take_fd("--sim nvme,disk", sim.disk.path, cfg) == -EINVAL)
		return -EINVAL;
	cfg->sim[cfg->nr_sim++] = sim;
	return 0;
}

/* Six bytes in hexadecimal, two digits each, with colons between. */
static bool parse_mac(const char *text, uint8_t mac[6])
{
	if (strlen(text) != 17)
		return false;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		const char byte[] = {text[0], text[1], '\0'};

		if (strspn(byte, "0123456789abcdefABCDEF") != 2 || (i < 5 && text[2] != ':'))
			return false;
		mac[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	return true;
}

/* What Linux takes for an interface's name, and no pattern that it would fill in (tap%d). */
static bool is_tap_name(const char *text)
{
	return strlen(text) <= CONFIG_TAP_NAME_MAX && !strpbrk(text, "/:% \t\n\v\f\r") &&
	       strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

static int parse_net_key(char *key, struct vm_config *cfg, struct net_config *net)
{
	static const char *const keys[] = {"tap", "mac", "fd"};
	static const uint8_t zero[6];
	char *value = strchr(key, '=');

	if (value)
		*value++ = '\0';
	switch (find_word(keys, ARRAY_SIZE(keys), key)) {
	case 0:
		if (!value || !*value || !is_tap_name(value)) {
			msg_error("--net: tap=%s: give the name of a tap interface, up to %d "
				  "letters",
				  value ? value : "", CONFIG_TAP_NAME_MAX);
			return -EINVAL;
		}
		net->tap = value;
		return 0;
	case 1:
		if (!value || !parse_mac(value, net->mac)) {
			msg_error("--net: mac=%s: give six bytes, as in mac=02:00:00:00:00:01",
				  value ? value : "");
			return -EINVAL;
		}
		if (!memcmp(net->mac, zero, sizeof(zero)) || (net->mac[0] & 1)) {
			msg_error("--net: mac=%s: this is %s and no interface's own; give another, "
				  "such as 02:00:00:00:00:01",
				  value, net->mac[0] & 1 ? "a group address" : "all zeroes");
			return -EINVAL;
		}
		net->mac_set = true;
		return 0;
	case 2:
		if (!value) {
			msg_error("--net: fd: give fd=N, the number of a descriptor of a tap");
			return -EINVAL;
		}
		value[-1] = '=';
		net->fd = take_fd("--net", key, cfg);
		net->tap = key;
		return MIN(net->fd, 0);
	default:
		msg_error("--net: unknown key '%s'; known keys: tap, fd, mac", key);
		return -EINVAL;
	}
}

static int parse_net(char *text, struct vm_config *cfg)
{
	struct net_config net = {0};
	char *key;
	int ret;

	while ((key = strsep(&text, ","))) {
		ret = parse_net_key(key, cfg, &net);
		if (ret)
			return ret;
	}
	if (!net.tap) {
		msg_error("--net: no tap interface given; give tap=NAME or fd=N");
		return -EINVAL;
	}
	for (unsigned i = 0; i < cfg->nr_nets; i++) {
		const struct net_config *other = &cfg->nets[i];

		if (!strcmp(other->tap, net.tap)) {
			msg_error("--net: tap=%s is given twice; give each --net its own", net.tap);
			return -EINVAL;
		}
		if (other->mac_set && net.mac_set &&
		    !memcmp(other->mac, net.mac, sizeof(net.mac))) {
			msg_error("--net: tap=%s and tap=%s have one mac; give each its own",
				  other->tap, net.tap);
			return -EINVAL;
		}
	}
	if (cfg->nr_nets == CONFIG_MAX_NETS) {
		msg_error("--net: tap=%s: too many networks; give at most %d", net.tap,
			  CONFIG_MAX_NETS);
		return -EINVAL;
	}
	cfg->nets[cfg->nr_nets++] = net;
	return 0;
}

static int parse_file(const char *option, const char *text, const char **out)
{
	if (!*text) {
		msg_error("%s: no file given", option);
		return -EINVAL;
	}
	*out = text;
	return 0;
}

static int parse_trace(char *text, struct vm_config *cfg)
{
	const char *key;

	cfg->trace = strsep(&text, ",");
	cfg->trace_max = TRACE_MAX_DEFAULT;
	if (!*cfg->trace) {
		msg_error("--trace: no file given; give FILE or FILE,max=SIZE");
		return -EINVAL;
	}
	while ((key = strsep(&text, ","))) {
		if (strncmp(key, "max=", 4) != 0) {
			msg_error("--trace %s: unknown key '%s'; known keys: max", cfg->trace, key);
			return -EINVAL;
		}
		if (!parse_size(key + 4, &cfg->trace_max) || cfg->trace_max < TRACE_MAX_MIN) {
			msg_error("--trace %s: %s: give a size of at least 1M, for example max=64M",
				  cfg->trace, key);
			return -EINVAL;
		}
	}
	return 0;
}

/* A file that is there, and may be a descriptor. */
static int parse_input(const char *option, const char *text, struct vm_config *cfg,
		       const char **out)
{
	int ret = parse_file(option, text, out);

	return ret || take_fd(option, text, cfg) == -EINVAL ? -EINVAL : 0;
}

static int parse_cmdline(const char *text, const char **out)
{
	if (strlen(text) >= CMDLINE_MAX) {
		msg_error("-p: the command line has %zu bytes; Linux takes at most %d",
			  strlen(text), CMDLINE_MAX - 1);
		return -EINVAL;
	}
	*out = text;
	return 0;
}

/* ---- options ---- */

enum {
	OPT_DISK = 1,
	OPT_VFIO,
	OPT_SIM,
	OPT_NET,
	OPT_IOMMU,
	OPT_DUMP_DTB,
	OPT_STATS,
	OPT_LIVE_STATS,
	OPT_TRACE,
	OPT_NO_SANDBOX,
	OPT_KVM,
	OPT_JSON,
	OPT_DOMAIN,
	OPT_SVG,
};

static const struct option run_options[] = {
	{"kernel", required_argument, NULL, 'k'},
	{"initrd", required_argument, NULL, 'i'},
	{"initramfs", required_argument, NULL, 'i'},
	{"params", required_argument, NULL, 'p'},
	{"append", required_argument, NULL, 'p'},
	{"cmdline", required_argument, NULL, 'p'},
	{"mem", required_argument, NULL, 'm'},
	{"memory", required_argument, NULL, 'm'},
	{"cpus", required_argument, NULL, 'c'},
	{"disk", required_argument, NULL, OPT_DISK},
	{"vfio", required_argument, NULL, OPT_VFIO},
	{"sim", required_argument, NULL, OPT_SIM},
	{"net", required_argument, NULL, OPT_NET},
	{"iommu", required_argument, NULL, OPT_IOMMU},
	{"dump-dtb", required_argument, NULL, OPT_DUMP_DTB},
	{"stats", required_argument, NULL, OPT_STATS},
	{"live-stats", no_argument, NULL, OPT_LIVE_STATS},
	{"trace", required_argument, NULL, OPT_TRACE},
	{"verbose", no_argument, NULL, 'v'},
	{"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
	{"kvm", required_argument, NULL, OPT_KVM},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static const struct option stat_options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"interval", required_argument, NULL, 'i'},
	{"count", required_argument, NULL, 'n'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static const struct option inspect_options[] = {
	{"domain", required_argument, NULL, OPT_DOMAIN},
	{"json", no_argument, NULL, OPT_JSON},
	{"svg", no_argument, NULL, OPT_SVG},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static const struct option devices_options[] = {
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static const struct option no_options[] = {
	{"help", no_argument, NULL, 'h'},
	{0},
};

static const struct option *find_option(const struct option *options, const char *name, size_t len)
{
	for (; options->name; options++) {
		if (strlen(options->name) == len && !memcmp(options->name, name, len))
			return options;
	}
	return NULL;
}

static int unknown_option(const char *command, const struct option *options, const char *arg)
{
	char word[WORD_MAX + 1];
	struct nearest n = {.word = word};
	size_t dashes = strspn(arg, "-");

	snprintf(word, sizeof(word), "%.*s", (int)strcspn(arg + dashes, "="), arg + dashes);
	/* One letter is near to nothing. */
	for (; word[0] && word[1] && options->name; options++)
		consider(&n, options->name);
	if (n.best)
		msg_error("%s: unknown option '%s'; did you mean --%s?", command, arg, n.best);
	else
		msg_error("%s: unknown option '%s'; see granule %s --help", command, arg, command);
	return -EINVAL;
}

/*
 * The next option, with its value in optarg; getopt_long() with messages that say what to do and
 * without abbreviations, which would change their meaning when an option is added.
 * Return: the option's value; -1 at the end; -EINVAL after a line on stderr.
 */
static int next_option(int argc, char **argv, const char *letters, const struct option *options)
{
	const char *command = argv[0], *arg;
	int c;

	arg = argv[MAX(optind, 1)]; /* 0 asks for a fresh start */
	if (!arg)
		arg = "";
	/* -kernel is how QEMU has it, and would be taken for -k ernel. */
	if (arg[0] == '-' && arg[1] && arg[1] != '-' && arg[2] &&
	    find_option(options, arg + 1, strcspn(arg + 1, "=")))
		return unknown_option(command, options, arg);
	if (!strncmp(arg, "--", 2) && arg[2] &&
	    !find_option(options, arg + 2, strcspn(arg + 2, "=")))
		return unknown_option(command, options, arg);

	c = getopt_long(argc, argv, letters, options, NULL);
	switch (c) {
	case ':':
		msg_error("%s: option '%s' needs a value; see granule %s --help", command,
			  argv[optind - 1], command);
		return -EINVAL;
	case '?':
		if (!strncmp(arg, "--", 2))
			msg_error("%s: option '%s' takes no value", command, arg);
		else
			return unknown_option(command, options, arg);
		return -EINVAL;
	default:
		return c;
	}
}

/* Options are over: nothing may follow but @wanted arguments. */
static int check_rest(int argc, char **argv, int wanted, const char *hint)
{
	if (argc - optind > wanted) {
		msg_error("%s: unexpected argument '%s'; %s", argv[0], argv[optind + wanted], hint);
		return -EINVAL;
	}
	return 0;
}

static unsigned default_vcpus(void)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);

	return online < 1 ? 1 : (unsigned)MIN(online, VCPUS_DEFAULT);
}

static int parse_run_option(int c, struct vm_config *cfg)
{
	switch (c) {
	case 'k':
		return parse_input("-k", optarg, cfg, &cfg->kernel);
	case 'i':
		return parse_input("-i", optarg, cfg, &cfg->initrd);
	case OPT_KVM:
		return parse_input("--kvm", optarg, cfg, &cfg->kvm);
	case 'p':
		return parse_cmdline(optarg, &cfg->cmdline);
	case 'm':
		return parse_memory(optarg, &cfg->memory);
	case 'c':
		return parse_cpus(optarg, &cfg->vcpus);
	case OPT_DISK:
		return parse_disk(optarg, cfg);
	case OPT_VFIO:
		return parse_vfio(optarg, cfg);
	case OPT_SIM:
		return parse_sim(optarg, cfg);
	case OPT_NET:
		return parse_net(optarg, cfg);
	case OPT_IOMMU:
		return parse_iommu(optarg, &cfg->iommu);
	case OPT_DUMP_DTB:
		return parse_file("--dump-dtb", optarg, &cfg->dump_dtb);
	case OPT_LIVE_STATS:
		cfg->live_stats = true;
		return 0;
	case OPT_TRACE:
		return parse_trace(optarg, cfg);
	case 'v':
		cfg->verbose = true;
		return 0;
	case OPT_NO_SANDBOX:
		cfg->sandbox = false;
		return 0;
	default: /* OPT_STATS */
		return parse_file("--stats", optarg, &cfg->stats);
	}
}

int cli_parse_run(int argc, char **argv, struct vm_config *out)
{
	struct vm_config cfg = {
		.cmdline = "",
		.kvm = "/dev/kvm",
		.memory = MEMORY_DEFAULT,
		.vcpus = default_vcpus(),
		.iommu = true,
		.sandbox = true,
	};
	bool seen[128] = {false};
	int c, ret;

	optind = 0;
	while ((c = next_option(argc, argv, "+:k:i:p:m:c:vh", run_options)) >= 0) {
		if (c == 'h') {
			fputs(help_run, stdout);
			return 1;
		}
		if (seen[c] && c != OPT_DISK && c != OPT_VFIO && c != OPT_SIM && c != OPT_NET) {
			msg_error("run: option '%s' is given a second time; give it once",
				  argv[optind - 1] == optarg ? argv[optind - 2] : argv[optind - 1]);
			return -EINVAL;
		}
		seen[c] = true;
		ret = parse_run_option(c, &cfg);
		if (ret)
			return ret;
	}
	if (c != -1)
		return c;
	ret = check_rest(argc, argv, 0,
			 "a kernel is given with -k, and every other file with its option");
	if (ret)
		return ret;
	if (!cfg.kernel) {
		msg_error("run: no kernel given; give one with -k FILE");
		return -EINVAL;
	}
	for (unsigned i = 0; i < cfg.nr_sim && !cfg.iommu; i++) {
		if (!cfg.sim[i].guest_owned) {
			msg_error("--iommu off: --sim devices are behind the virtio-iommu; leave "
				  "it on, or say owner=guest");
			return -EINVAL;
		}
	}
	*out = cfg;
	return 0;
}

/* Return: as cli_parse_run(). */
static int parse_devices(int argc, char **argv, bool *json)
{
	int c;

	optind = 0;
	*json = false;
	while ((c = next_option(argc, argv, "+:h", devices_options)) >= 0) {
		if (c == 'h') {
			fputs(help_devices, stdout);
			return 1;
		}
		*json = true;
	}
	return c != -1 ? c : check_rest(argc, argv, 0, "devices takes none but --json");
}

/* A number from 1 to @max. Return: 0; -EINVAL after a line on stderr. */
static int parse_count(const char *what, const char *text, uint64_t max, unsigned *out)
{
	const char *end = "";
	uint64_t nr = 0;

	if (!parse_number(text, &nr, &end) || *end || !nr || nr > max) {
		msg_error("stat: %s '%s': give a number from 1 to %" PRIu64, what, text, max);
		return -EINVAL;
	}
	*out = (unsigned)nr;
	return 0;
}

/* Options may stand before and after the process. Return: as cli_parse_run(). */
static int parse_stat(int argc, char **argv, struct stat_config *out)
{
	struct stat_config cfg = {0};
	const char *pid = NULL;
	unsigned nr;
	int c, ret = 0;

	optind = 0;
	while (!ret) {
		c = next_option(argc, argv, "+:hi:n:", stat_options);
		switch (c) {
		case -1:
			if (argc == optind)
				goto done;
			if (pid)
				return check_rest(argc, argv, 0, "stat takes one process");
			pid = argv[optind++];
			break;
		case 'h':
			fputs(help_stat, stdout);
			return 1;
		case 'i':
			ret = parse_count("--interval", optarg, STAT_INTERVAL_MAX, &cfg.interval);
			break;
		case 'n':
			ret = parse_count("--count", optarg, INT_MAX, &cfg.count);
			break;
		case OPT_JSON:
			cfg.json = true;
			break;
		default:
			return c;
		}
	}
	return ret;

done:
	if (!pid) {
		msg_error("stat: no process given; give its number, as in granule stat 1234");
		return -EINVAL;
	}
	ret = parse_count("process", pid, INT_MAX, &nr);
	if (ret)
		return ret;
	if (cfg.count && !cfg.interval) {
		msg_error("stat: --count without --interval; give -i SECONDS too");
		return -EINVAL;
	}
	if (!cfg.interval)
		cfg.count = 1;
	cfg.pid = (pid_t)nr;
	*out = cfg;
	return 0;
}

/* PID[,ID]. Return: 0; -EINVAL after a line on stderr. */
static int parse_domain(const char *text, struct inspect_config *cfg)
{
	const char *end = text;
	uint64_t pid = 0, id = 0;
	bool good = parse_number(text, &pid, &end) && pid && pid <= INT_MAX;

	if (good && *end == ',') {
		cfg->one = true;
		good = parse_number(end + 1, &id, &end) && id <= UINT32_MAX;
	}
	if (!good || *end) {
		msg_error("inspect: --domain %s: give a process, and maybe a domain, as in "
			  "--domain 1234 or --domain 1234,1",
			  text);
		return -EINVAL;
	}
	cfg->pid = (pid_t)pid;
	cfg->domain = (uint32_t)id;
	return 0;
}

/* What each option alone cannot tell. @file: the argument that is none of an option; NULL: none */
static int check_inspect(struct inspect_config *cfg, const char *file)
{
	if (!cfg->pid) {
		if (cfg->json || cfg->svg) {
			msg_error("inspect: --%s is about a guest that runs; give --domain PID too",
				  cfg->json ? "json" : "svg");
			return -EINVAL;
		}
		if (!file) {
			msg_error("inspect: no kernel given; give one, as in granule inspect FILE");
			return -EINVAL;
		}
		return parse_file("inspect", file, &cfg->kernel);
	}
	if (cfg->json && cfg->svg) {
		msg_error("inspect: --json and --svg: give one of them");
		return -EINVAL;
	}
	if (file && !cfg->svg) {
		msg_error("inspect: unexpected argument '%s'; with --domain only --svg takes one",
			  file);
		return -EINVAL;
	}
	return file ? parse_file("inspect: --svg", file, &cfg->file) : 0;
}

/* Options may stand before and after the argument. Return: as cli_parse_run(). */
static int parse_inspect(int argc, char **argv, struct inspect_config *out)
{
	struct inspect_config cfg = {0};
	const char *file = NULL;
	int c, ret = 0;

	optind = 0;
	while (!ret) {
		c = next_option(argc, argv, "+:h", inspect_options);
		switch (c) {
		case -1:
			if (argc == optind) {
				ret = check_inspect(&cfg, file);
				*out = cfg;
				return ret;
			}
			if (file)
				return check_rest(argc, argv, 0, "inspect takes one file");
			file = argv[optind++];
			/* After that there are no options, and getopt_long() would not go on. */
			if (!strcmp(argv[optind - 2], "--")) {
				ret = check_rest(argc, argv, 0, "inspect takes one file");
				ret = ret ? ret : check_inspect(&cfg, file);
				*out = cfg;
				return ret;
			}
			break;
		case 'h':
			fputs(help_inspect, stdout);
			return 1;
		case OPT_DOMAIN:
			ret = parse_domain(optarg, &cfg);
			break;
		case OPT_JSON:
			cfg.json = true;
			break;
		case OPT_SVG:
			cfg.svg = true;
			break;
		default:
			return c;
		}
	}
	return ret;
}

/* A command of @wanted arguments and no options. Return: as cli_parse_run(). */
static int parse_plain(int argc, char **argv, int wanted, const char *help)
{
	int c;

	optind = 0;
	c = next_option(argc, argv, "+:h", no_options);
	if (c == 'h') {
		fputs(help, stdout);
		return 1;
	}
	return c != -1 ? c : check_rest(argc, argv, wanted, "see granule help");
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	}
	return NULL;
}

static int unknown_command(const char *name)
{
	struct nearest n = {.word = name};

	if (name[0] == '-') {
		msg_error("'%s' is not a command: the command comes first, as in granule run -k "
			  "FILE; "
			  "see granule help",
			  name);
		return -EINVAL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		consider(&n, commands[i].name);
	if (n.best)
		msg_error("unknown command '%s'; did you mean %s?", name, n.best);
	else
		msg_error("unknown command '%s'; the commands are run, check, devices, inspect, "
			  "stat, help "
			  "and version",
			  name);
	return -EINVAL;
}

static int parse_help(int argc, char **argv)
{
	const struct command *about;
	int ret = parse_plain(argc, argv, 1, help_main);

	if (ret)
		return ret;
	if (argc == optind) {
		fputs(help_main, stdout);
		return 1;
	}
	about = find_command(argv[optind]);
	if (!about)
		return unknown_command(argv[optind]);
	fputs(about->help, stdout);
	return 1;
}

static int parse_version(int argc, char **argv)
{
	int ret = parse_plain(argc, argv, 0, help_main);

	if (ret)
		return ret;
	puts("granule " VERSION);
	return 1;
}

/* Return: as cli_parse_run(). */
static int parse_command(int argc, char **argv, struct cli_request *out)
{
	const struct command *command;
	const char *name = argv[0];

	if (!strcmp(name, "-h") || !strcmp(name, "--help"))
		name = "help";
	if (!strcmp(name, "-V") || !strcmp(name, "--version"))
		name = "version";
	command = find_command(name);
	if (!command)
		return unknown_command(name);
	out->command = command->command;
	switch (command->command) {
	case CLI_RUN:
		return cli_parse_run(argc, argv, &out->vm);
	case CLI_CHECK:
		return parse_plain(argc, argv, 0, command->help);
	case CLI_DEVICES:
		return parse_devices(argc, argv, &out->json);
	case CLI_STAT:
		return parse_stat(argc, argv, &out->stat);
	case CLI_INSPECT:
		return parse_inspect(argc, argv, &out->inspect);
	case CLI_DONE:
		break;
	}
	return strcmp(name, "help") ? parse_version(argc, argv) : parse_help(argc, argv);
}

void cli_parse(int argc, char **argv, struct cli_request *out)
{
	int ret;

	*out = (struct cli_request){.command = CLI_DONE};
	if (argc < 2) {
		fputs(help_main, stderr);
		out->status = EXIT_USAGE;
		return;
	}
	ret = parse_command(argc - 1, argv + 1, out);
	if (ret) {
		out->command = CLI_DONE;
		out->status = ret < 0 ? EXIT_USAGE : EXIT_POWEROFF;
	}
}
