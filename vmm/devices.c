/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/sysfs.h"
#include "iommu/vfio.h"
#include "vmm/bdf.h"
#include "vmm/cli.h"
#include "vmm/msg.h"

#define MAX_BARS     6
#define MAX_RESERVED 32

/* The flags column of sysfs's resource file: Linux include/linux/ioport.h. */
#define RESOURCE_IO	  0x00000100u
#define RESOURCE_MEM	  0x00000200u
#define RESOURCE_PREFETCH 0x00002000u
#define RESOURCE_MEM_64	  0x00100000u

const char *devices_pci_ids = "/usr/share/misc/pci.ids";

struct function {
	const char *bdf;
	char class_name[128], vendor_name[128], device_name[128]; /* "": not known */
	uint64_t class, vendor, device;
	char driver[64]; /* "": none */
	int group;	 /* -1: none */
	unsigned nr_bars;
	struct {
		unsigned index;
		uint64_t size, flags;
	} bars[MAX_BARS];
	unsigned nr_reserved;
	struct {
		struct iova_range range;
		char type[32];
	} reserved[MAX_RESERVED];
	char reset[128]; /* methods, separated by spaces; "": none */
	/* Only VFIO knows: of a function that is bound to it and in nobody's use. */
	bool has_aperture;
	uint64_t granule;
	unsigned nr_apertures;
	struct iova_range apertures[INSTANCE_MAX_APERTURES];
};

/* ---- names: the file of pci-utils ----------------------------------------------------------- */

struct ids {
	const char *text, *end; /* mapped; NULL: there is none */
};

static struct ids ids_open(void)
{
	struct ids ids = {0};
	struct stat st;
	void *map;
	int fd = open(devices_pci_ids, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return ids;
	if (!fstat(fd, &st) && st.st_size > 0) {
		map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map != MAP_FAILED)
			ids = (struct ids){map, (const char *)map + st.st_size};
	}
	close(fd);
	return ids;
}

static void ids_close(struct ids *ids)
{
	if (ids->text)
		munmap((void *)(uintptr_t)ids->text, (size_t)(ids->end - ids->text));
}

/* ids_find - the name on the line "@key  name" after @from, before a line that is less indented.
 * Return: where the next line starts, or NULL. */
static const char *ids_find(const struct ids *ids, const char *from, const char *key, char *name,
			    size_t name_len)
{
	size_t key_len = strlen(key), indent = strspn(key, "\t");
	const char *line, *eol;

	name[0] = '\0';
	for (line = from; line && line < ids->end; line = eol + 1) {
		size_t len, tabs;

		eol = memchr(line, '\n', (size_t)(ids->end - line));
		if (!eol)
			eol = ids->end;
		len = (size_t)(eol - line);
		if (!len || line[0] == '#')
			continue;
		for (tabs = 0; tabs < len && line[tabs] == '\t'; tabs++)
			;
		if (tabs < indent)
			return NULL;
		if (tabs > indent || len < key_len + 2 || memcmp(line, key, key_len) ||
		    line[key_len] != ' ')
			continue;
		line += key_len;
		while (line < eol && *line == ' ')
			line++;
		snprintf(name, name_len, "%.*s", (int)(eol - line), line);
		return eol < ids->end ? eol + 1 : eol;
	}
	return NULL;
}

/* What a class is when no file tells: the base classes of the PCI Code and ID Assignment. */
static const char *base_class(uint64_t class)
{
	static const char *const names[] = {
		"Unclassified",	   "Storage",	"Network",	 "Display",  "Multimedia",
		"Memory",	   "Bridge",	"Communication", "System",   "Input",
		"Docking station", "Processor", "Serial bus",	 "Wireless",
	};

	return class >> 16 < ARRAY_SIZE(names) ? names[class >> 16] : "Other";
}

static void find_names(const struct ids *ids, struct function *f)
{
	char key[16];
	const char *at;

	snprintf(key, sizeof(key), "%04" PRIx64, f->vendor);
	at = ids_find(ids, ids->text, key, f->vendor_name, sizeof(f->vendor_name));
	snprintf(key, sizeof(key), "\t%04" PRIx64, f->device);
	ids_find(ids, at, key, f->device_name, sizeof(f->device_name));
	snprintf(key, sizeof(key), "C %02" PRIx64, f->class >> 16 & 0xff);
	at = ids_find(ids, ids->text, key, f->class_name, sizeof(f->class_name));
	snprintf(key, sizeof(key), "\t%02" PRIx64, f->class >> 8 & 0xff);
	if (at) {
		char sub[sizeof(f->class_name)];

		ids_find(ids, at, key, sub, sizeof(sub));
		if (sub[0])
			strcpy(f->class_name, sub);
	} else {
		snprintf(f->class_name, sizeof(f->class_name), "%s", base_class(f->class));
	}
}

/* ---- what sysfs tells
 * ---------------------------------------------------------------------------- */

static void read_bars(struct function *f)
{
	char text[4096], *line, *save = NULL;
	unsigned i = 0;

	sysfs_read(text, sizeof(text), "bus/pci/devices/%s/resource", f->bdf);
	for (line = strtok_r(text, "\n", &save); line && i < MAX_BARS;
	     line = strtok_r(NULL, "\n", &save)) {
		uint64_t start, end, flags;

		if (sscanf(line, "%" SCNx64 " %" SCNx64 " %" SCNx64, &start, &end, &flags) == 3 &&
		    flags & (RESOURCE_IO | RESOURCE_MEM) && end >= start) {
			f->bars[f->nr_bars].index = i;
			f->bars[f->nr_bars].size = end - start + 1;
			f->bars[f->nr_bars++].flags = flags;
		}
		i++;
	}
}

static void read_group(struct function *f)
{
	char link[32], text[4096], *line, *save = NULL, *end;

	f->group = -1;
	if (sysfs_link(link, sizeof(link), "bus/pci/devices/%s/iommu_group", f->bdf))
		return;
	f->group = (int)strtol(link, &end, 10);
	if (*end || end == link)
		f->group = -1;
	sysfs_read(text, sizeof(text), "bus/pci/devices/%s/iommu_group/reserved_regions", f->bdf);
	for (line = strtok_r(text, "\n", &save); line && f->nr_reserved < MAX_RESERVED;
	     line = strtok_r(NULL, "\n", &save)) {
		struct iova_range *r = &f->reserved[f->nr_reserved].range;

		if (sscanf(line, "%" SCNx64 " %" SCNx64 " %31s", &r->start, &r->last,
			   f->reserved[f->nr_reserved].type) == 3)
			f->nr_reserved++;
	}
}

static void read_aperture(struct function *f)
{
	struct vfio_container *c;
	struct instance *inst;
	char error[512];

	if (f->group < 0 || strcmp(f->driver, "vfio-pci"))
		return;
	if (vfio_container_open((unsigned)f->group, &c, error, sizeof(error)))
		return;
	inst = vfio_container_instance(c);
	f->has_aperture = true;
	f->granule = inst->granule;
	f->nr_apertures = inst->nr_apertures;
	memcpy(f->apertures, inst->apertures, sizeof(f->apertures));
	vfio_container_close(c);
}

static void read_function(struct function *f, const char *bdf, const struct ids *ids)
{
	*f = (struct function){.bdf = bdf};
	sysfs_read_u64(&f->class, "bus/pci/devices/%s/class", bdf);
	sysfs_read_u64(&f->vendor, "bus/pci/devices/%s/vendor", bdf);
	sysfs_read_u64(&f->device, "bus/pci/devices/%s/device", bdf);
	sysfs_link(f->driver, sizeof(f->driver), "bus/pci/devices/%s/driver", bdf);
	/* The file is there only if some method works. */
	sysfs_read(f->reset, sizeof(f->reset), "bus/pci/devices/%s/reset_method", bdf);
	read_bars(f);
	read_group(f);
	read_aperture(f);
	find_names(ids, f);
}

/* ---- text
 * ------------------------------------------------------------------------------------------ */

static void print_size(FILE *out, uint64_t size)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	unsigned unit = 0;

	while (size && size % 1024 == 0 && unit < ARRAY_SIZE(units) - 1) {
		size /= 1024;
		unit++;
	}
	fprintf(out, "%" PRIu64 " %s", size, units[unit]);
}

static void print_text(FILE *out, const struct function *f)
{
	fprintf(out, "%s  %s: ", f->bdf, f->class_name);
	if (f->vendor_name[0])
		fprintf(out, "%s %s ", f->vendor_name,
			f->device_name[0] ? f->device_name : "device");
	fprintf(out, "[%04" PRIx64 ":%04" PRIx64 "]\n", f->vendor, f->device);
	fprintf(out, "\tdriver   %s\n", f->driver[0] ? f->driver : "none");
	if (f->group < 0)
		fprintf(out, "\tgroup    none: no IOMMU translates for it, so it cannot be passed "
			     "through\n");
	else
		fprintf(out, "\tgroup    %d\n", f->group);
	if (f->has_aperture) {
		fprintf(out, "\tiova    ");
		for (unsigned i = 0; i < f->nr_apertures; i++)
			fprintf(out, " 0x%" PRIx64 "-0x%" PRIx64, f->apertures[i].start,
				f->apertures[i].last);
		fprintf(out, " in pages of ");
		print_size(out, f->granule);
		fputc('\n', out);
	}
	for (unsigned i = 0; i < f->nr_reserved; i++)
		fprintf(out, "\t%s 0x%" PRIx64 "-0x%" PRIx64 " (%s)\n", i ? "        " : "reserved",
			f->reserved[i].range.start, f->reserved[i].range.last, f->reserved[i].type);
	for (unsigned i = 0; i < f->nr_bars; i++) {
		fprintf(out, "\tBAR %u    ", f->bars[i].index);
		print_size(out, f->bars[i].size);
		if (f->bars[i].flags & RESOURCE_IO)
			fprintf(out, ", I/O ports: the guest does not see them\n");
		else
			fprintf(out, ", memory%s%s\n",
				f->bars[i].flags & RESOURCE_MEM_64 ? ", 64-bit" : "",
				f->bars[i].flags & RESOURCE_PREFETCH ? ", prefetchable" : "");
	}
	fprintf(out, "\treset    %s\n", f->reset[0] ? f->reset : "not possible");
}

/* ---- JSON
 * ------------------------------------------------------------------------------------------- */

/* utf8_len - bytes of the well-formed character at @s; 0 if there is none (a name cut short, say)
 */
static unsigned utf8_len(const unsigned char *s)
{
	unsigned len = s[0] < 0x80		     ? 1
		       : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
		       : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
						     : 0;

	for (unsigned i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

static void json_string(FILE *out, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	fputc('"', out);
	while (*s) {
		unsigned len = utf8_len(s);

		if (!len)
			fputc('?', out);
		else if (*s == '"' || *s == '\\')
			fprintf(out, "\\%c", *s);
		else if (*s < 0x20 || *s == 0x7f)
			fprintf(out, "\\u%04x", *s);
		else
			fwrite(s, 1, len, out);
		s += MAX(len, 1u);
	}
	fputc('"', out);
}

/* json_name - a string member; null if there is none */
static void json_name(FILE *out, const char *key, const char *val)
{
	fprintf(out, ", \"%s\": ", key);
	if (val[0])
		json_string(out, val);
	else
		fputs("null", out);
}

/* Addresses are strings: JSON's numbers lose what is past 2^53. */
static void json_range(FILE *out, const struct iova_range *r)
{
	fprintf(out, "\"start\": \"0x%" PRIx64 "\", \"last\": \"0x%" PRIx64 "\"", r->start,
		r->last);
}

static void print_json(FILE *out, const struct function *f)
{
	char methods[sizeof(f->reset)], *save = NULL;
	const char *sep = "";

	fprintf(out, "  {\"bdf\": ");
	json_string(out, f->bdf);
	fprintf(out,
		", \"vendor\": \"%04" PRIx64 "\", \"device\": \"%04" PRIx64
		"\", \"class\": \"%06" PRIx64 "\"",
		f->vendor, f->device, f->class);
	json_name(out, "class_name", f->class_name);
	json_name(out, "vendor_name", f->vendor_name);
	json_name(out, "device_name", f->device_name);
	json_name(out, "driver", f->driver);
	if (f->group < 0)
		fprintf(out, ", \"group\": null");
	else
		fprintf(out, ", \"group\": %d", f->group);
	if (f->has_aperture) {
		fprintf(out, ", \"granule\": %" PRIu64 ", \"apertures\": [", f->granule);
		for (unsigned i = 0; i < f->nr_apertures; i++) {
			fprintf(out, "%s{", i ? ", " : "");
			json_range(out, &f->apertures[i]);
			fputc('}', out);
		}
		fputc(']', out);
	} else {
		fprintf(out, ", \"granule\": null, \"apertures\": null");
	}
	fprintf(out, ", \"reserved\": [");
	for (unsigned i = 0; i < f->nr_reserved; i++) {
		fprintf(out, "%s{", i ? ", " : "");
		json_range(out, &f->reserved[i].range);
		json_name(out, "type", f->reserved[i].type);
		fputc('}', out);
	}
	fprintf(out, "], \"bars\": [");
	for (unsigned i = 0; i < f->nr_bars; i++)
		fprintf(out,
			"%s{\"index\": %u, \"size\": %" PRIu64 ", \"kind\": \"%s\", \"wide\": %s, "
			"\"prefetchable\": %s}",
			i ? ", " : "", f->bars[i].index, f->bars[i].size,
			f->bars[i].flags & RESOURCE_IO ? "io" : "memory",
			f->bars[i].flags & RESOURCE_MEM_64 ? "true" : "false",
			f->bars[i].flags & RESOURCE_PREFETCH ? "true" : "false");
	fprintf(out, "], \"reset\": [");
	strcpy(methods, f->reset);
	for (char *m = strtok_r(methods, " ", &save); m; m = strtok_r(NULL, " ", &save)) {
		fputs(sep, out);
		json_string(out, m);
		sep = ", ";
	}
	fprintf(out, "]}");
}

int devices_print(FILE *out, bool json)
{
	struct dirent **list;
	struct function *f;
	struct ids ids;
	int nr;

	f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	nr = sysfs_list(&list, "bus/pci/devices");
	if (nr < 0 && nr != -ENOENT) {
		free(f);
		return nr;
	}
	nr = MAX(nr, 0);
	ids = ids_open();
	if (json)
		fprintf(out, "[\n");
	else if (!nr)
		fprintf(out, "this host has no PCI functions\n");
	for (int i = 0; i < nr; i++) {
		read_function(f, list[i]->d_name, &ids);
		if (json)
			print_json(out, f);
		else
			print_text(out, f);
		if (json)
			fprintf(out, "%s\n", i < nr - 1 ? "," : "");
	}
	if (json)
		fprintf(out, "]\n");
	ids_close(&ids);
	sysfs_list_free(list, nr);
	free(f);
	return 0;
}

int devices_run(bool json)
{
	int ret = devices_print(stdout, json);

	if (!ret && (fflush(stdout) || ferror(stdout)))
		ret = -EIO;
	if (ret)
		msg_error("the devices cannot be listed: %s", strerror(-ret));
	return ret ? EXIT_FAILED : 0;
}
