/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/view.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"

/* More than any VM has: each is a mapping or a frame without slots, but for the ends of pieces. */
#define MAX_STRETCHES (1u << 22)

/* More than any host's page, bytes. */
#define MAX_FRAME (UINT64_C(1) << 30)

/* ---- the VM's side --------------------------------------------------------------------------- */

static void take_instance(const struct instance *inst, struct view_instance *out)
{
	snprintf(out->kind, sizeof(out->kind), "%s", inst->kind ? inst->kind : "other");
	snprintf(out->name, sizeof(out->name), "%s", inst->name);
	out->granule = inst->granule;
	out->nr_streams = inst->nr_streams;
	out->exclusive = inst->exclusive;
	out->failed = inst->failed;
	out->nr_apertures = inst->nr_apertures;
	memcpy(out->apertures, inst->apertures, inst->nr_apertures * sizeof(out->apertures[0]));
}

static void take_endpoint(struct mediator *m, const struct endpoint_info *info,
			  struct view_endpoint *out)
{
	struct resv_region resv[VIEW_MAX_RESV];
	int nr = mediator_resv_regions(m, info->id, resv, VIEW_MAX_RESV);

	snprintf(out->name, sizeof(out->name), "%s", info->name);
	out->id = info->id;
	out->attached = info->attached;
	out->domain = info->domain;
	out->sync = info->sync;
	out->trap = info->trap;
	out->may_turn_full = info->may_turn_full;
	out->relaxed = info->relaxed;
	out->hold = info->hold;
	out->told = info->told;
	out->nr_resv = (uint32_t)MAX(nr, 0);
	for (unsigned i = 0; i < MIN(out->nr_resv, VIEW_MAX_RESV); i++) {
		out->resv[i].start = resv[i].start;
		out->resv[i].last = resv[i].last;
		out->resv[i].msi = resv[i].msi;
	}
}

void view_take_vm(struct mediator *m, uint64_t granule, uint64_t pool_limit, struct view_vm *out)
{
	const struct instance *seen[VIEW_MAX_INSTANCES];
	struct mediator_stats stats;
	struct endpoint_info info;

	mediator_get_stats(m, &stats);
	out->viommu = 1;
	out->granule = granule;
	out->frame_size = mediator_frame_size(m);
	out->pool_limit = pool_limit;
	out->bounce_bytes = stats.bounce_bytes;
	out->range = mediator_input_range(m);
	while (out->nr_endpoints < VIEW_MAX_ENDPOINTS &&
	       mediator_get_endpoint(m, out->nr_endpoints, &info)) {
		struct view_endpoint *ep = &out->endpoints[out->nr_endpoints++];

		take_endpoint(m, &info, ep);
		for (unsigned i = 0; i < info.nr_streams; i++) {
			unsigned n = 0;

			while (n < out->nr_instances && seen[n] != info.streams[i].inst)
				n++;
			if (n == VIEW_MAX_INSTANCES)
				break;
			if (n == out->nr_instances) {
				seen[n] = info.streams[i].inst;
				take_instance(seen[n], &out->instances[out->nr_instances++]);
			}
			ep->streams[ep->nr_streams].instance = n;
			ep->streams[ep->nr_streams++].sid = info.streams[i].sid;
		}
	}
}

void view_take_domain(struct mediator *m, uint32_t from, struct view_domain *out)
{
	struct domain_info info;

	if (mediator_next_domain(m, from, &info))
		return;
	*out = (struct view_domain){
		.found = 1,
		.id = info.id,
		.nr_endpoints = info.nr_endpoints,
		.bypass = info.bypass,
		.relaxed = info.relaxed,
		.needs_sync = info.needs_sync,
		.mappings = info.mappings,
	};
}

void view_take_piece(struct mediator *m, uint32_t domain, uint64_t at, struct view_piece *out)
{
	bool more;
	int nr = mediator_look(m, domain, &at, out->v, VIEW_MAX_STRETCHES, &more);

	if (nr < 0)
		return;
	out->found = 1;
	out->more = more;
	out->at = at;
	out->nr = (uint64_t)nr;
}

/* ---- is it sound? ---------------------------------------------------------------------------- */

static bool is_text(const char *text, size_t room)
{
	size_t len = strnlen(text, room);

	if (len == room)
		return false;
	while (len--)
		if (!isprint((unsigned char)text[len]))
			return false;
	return true;
}

static bool endpoint_sound(const struct view_endpoint *ep, uint32_t nr_instances)
{
	if (!is_text(ep->name, sizeof(ep->name)) || ep->sync > SYNC_FULL ||
	    ep->trap > TRAP_OFF_LONG || ep->nr_streams > MEDIATOR_MAX_STREAMS)
		return false;
	for (unsigned i = 0; i < ep->nr_streams; i++) {
		if (ep->streams[i].instance >= nr_instances)
			return false;
	}
	return true;
}

bool view_vm_sound(const struct view_vm *vm)
{
	if (!vm->viommu)
		return true;
	if (!isfinite(vm->seconds) || !IS_POW2(vm->granule) || !IS_POW2(vm->frame_size) ||
	    vm->frame_size < vm->granule || vm->frame_size > MAX_FRAME ||
	    vm->nr_endpoints > VIEW_MAX_ENDPOINTS || vm->nr_instances > VIEW_MAX_INSTANCES)
		return false;
	for (unsigned i = 0; i < vm->nr_endpoints; i++) {
		if (!endpoint_sound(&vm->endpoints[i], vm->nr_instances))
			return false;
	}
	for (unsigned i = 0; i < vm->nr_instances; i++) {
		const struct view_instance *inst = &vm->instances[i];

		if (!is_text(inst->kind, sizeof(inst->kind)) ||
		    !is_text(inst->name, sizeof(inst->name)) ||
		    inst->nr_apertures > INSTANCE_MAX_APERTURES)
			return false;
	}
	return true;
}

/* Any bits may stand where a bool is to be. */
static bool is_bool(const bool *value)
{
	uint8_t byte;

	memcpy(&byte, value, sizeof(byte));
	return byte <= 1;
}

bool view_piece_sound(const struct view_piece *piece, uint64_t at)
{
	if (piece->nr > VIEW_MAX_STRETCHES || (piece->more && piece->at < at))
		return false;
	for (uint64_t i = 0; i < piece->nr; i++) {
		const struct stretch *s = &piece->v[i];
		uint32_t class;

		memcpy(&class, &s->class, sizeof(class));
		if (class >= NR_STRETCH_CLASSES || s->rights > (MAP_READ | MAP_WRITE) ||
		    !is_bool(&s->mixed) || !is_bool(&s->linear) || s->start < at ||
		    s->last < s->start)
			return false;
		at = s->last + 1;
		if (!at && i + 1 < piece->nr)
			return false;
	}
	/* The next piece is further on, or this would never end. */
	return !piece->more || !piece->nr || (at && piece->at >= at);
}

/* ---- adding up ------------------------------------------------------------------------------- */

int view_map_add(struct view_map *map, const struct stretch *next, bool fold)
{
	struct stretch *last = map->nr ? &map->v[map->nr - 1] : NULL;
	bool goes_on = last && last->linear && next->linear &&
		       next->gpa - next->iova == last->gpa - last->iova;

	map->bytes[next->class] += next->last - next->start + 1;
	map->slots[next->class] += next->slots;
	/* Between two pieces stands what nobody has joined yet. */
	if (last && stretch_join(last, next, fold)) {
		map->pieces[map->nr - 1] += !goes_on && next->slots;
		return 0;
	}
	if (map->nr == map->cap) {
		size_t cap = map->cap ? 2 * map->cap : 256;
		void *v = NULL, *pieces = NULL;

		if (cap <= MAX_STRETCHES)
			v = realloc(map->v, cap * sizeof(map->v[0]));
		if (!v)
			return -ENOMEM;
		map->v = v;
		pieces = realloc(map->pieces, cap * sizeof(map->pieces[0]));
		if (!pieces)
			return -ENOMEM;
		map->pieces = pieces;
		map->cap = cap;
	}
	map->v[map->nr] = *next;
	map->pieces[map->nr++] = 1;
	return 0;
}

void view_map_clear(struct view_map *map)
{
	free(map->v);
	free(map->pieces);
	*map = (struct view_map){0};
}

/* ---- words ----------------------------------------------------------------------------------- */

const char *view_size(uint64_t bytes, char buf[24])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double val = (double)bytes;
	unsigned unit = 0;

	while (val >= 1024 && unit < ARRAY_SIZE(units) - 1) {
		val /= 1024;
		unit++;
	}
	snprintf(buf, 24, val >= 100 || val == (double)(unsigned)val ? "%.0f %s" : "%.1f %s", val,
		 units[unit]);
	return buf;
}

const char *view_bdf(uint32_t id, char buf[16])
{
	snprintf(buf, 16, "%02x:%02x.%x", id >> 8 & 0xff, id >> 3 & 0x1f, id & 7);
	return buf;
}

const char *view_rights(const struct stretch *s)
{
	static const char *const names[] = {"--", "r-", "-w", "rw", "--*", "r-*", "-w*", "rw*"};

	return names[s->rights + 4 * s->mixed];
}

const char *view_sync_name(uint32_t sync)
{
	static const char *const names[] = {
		[SYNC_NONE] = "none", [SYNC_RINGS] = "rings", [SYNC_FULL] = "full"};

	return names[sync];
}

const char *view_trap_name(const struct view_endpoint *ep)
{
	if (ep->sync == SYNC_NONE)
		return "direct";
	return ep->told && ep->trap != TRAP_ON ? "direct" : "trapped";
}

static const char *on_off(uint32_t on)
{
	return on ? "on" : "off";
}

/* ---- text ------------------------------------------------------------------------------------ */

static void print_range(FILE *file, uint64_t start, uint64_t last)
{
	fprintf(file, "0x%" PRIx64 "-0x%" PRIx64, start, last);
}

static void print_endpoint(FILE *file, const struct view_vm *vm, const struct view_endpoint *ep)
{
	char bdf[16];

	fprintf(file, "endpoint 0x%04" PRIx32 "  %s, which the guest has at %s\n", ep->id, ep->name,
		view_bdf(ep->id, bdf));
	if (ep->attached)
		fprintf(file, "  domain %" PRIu32, ep->domain);
	else
		fprintf(file, "  in no domain");
	fprintf(file, ", %s, sync=%s%s, hold=%s, exposure=%s\n", view_trap_name(ep),
		view_sync_name(ep->sync),
		ep->may_turn_full && ep->sync != SYNC_FULL ? " (may become full)" : "",
		on_off(ep->hold), ep->relaxed ? "relaxed" : "strict");
	for (unsigned i = 0; i < ep->nr_streams; i++)
		fprintf(file, "  stream %" PRIu32 " of %s\n", ep->streams[i].sid,
			vm->instances[ep->streams[i].instance].name);
	for (unsigned i = 0; i < MIN(ep->nr_resv, VIEW_MAX_RESV); i++) {
		fprintf(file, "  reserved ");
		print_range(file, ep->resv[i].start, ep->resv[i].last);
		fprintf(file, "%s\n", ep->resv[i].msi ? " (MSI doorbell)" : "");
	}
	if (ep->nr_resv > VIEW_MAX_RESV)
		fprintf(file, "  reserved: %u more\n", ep->nr_resv - VIEW_MAX_RESV);
}

static void print_instance(FILE *file, const struct view_instance *inst)
{
	char size[24];

	fprintf(file, "instance %s: %s, granule %s, %" PRIu32 " stream%s%s%s\n", inst->name,
		inst->kind, view_size(inst->granule, size), inst->nr_streams,
		inst->nr_streams == 1 ? "" : "s", inst->exclusive ? ", one table" : "",
		inst->failed ? ", CUT OFF: it did not confirm an invalidation" : "");
	for (unsigned i = 0; i < inst->nr_apertures; i++) {
		fprintf(file, "  reaches ");
		print_range(file, inst->apertures[i].start, inst->apertures[i].last);
		fputc('\n', file);
	}
}

void view_print_vm(FILE *file, pid_t pid, const struct view_vm *vm)
{
	char g[24], h[24], used[24], limit[24];

	fprintf(file, "process %d, %.1f s: virtio-iommu, guest granule %s, frames of %s\n",
		(int)pid, vm->seconds, view_size(vm->granule, g), view_size(vm->frame_size, h));
	fprintf(file, "iova ");
	print_range(file, vm->range.start, vm->range.last);
	fprintf(file, "; bounce pages and their twins %s of %s\n",
		view_size(vm->bounce_bytes, used), view_size(vm->pool_limit, limit));
	for (unsigned i = 0; i < vm->nr_instances; i++)
		print_instance(file, &vm->instances[i]);
	for (unsigned i = 0; i < vm->nr_endpoints; i++)
		print_endpoint(file, vm, &vm->endpoints[i]);
}

static void print_stretch(FILE *file, const struct view_vm *vm, const struct stretch *s,
			  uint32_t pieces)
{
	uint64_t len = s->last - s->start + 1; /* 0: all there is */
	char size[24];

	fprintf(file, "  0x%012" PRIx64 "-0x%012" PRIx64 " %9s  %-11s %-3s ", s->start, s->last,
		view_size(len, size), stretch_name(s->class), view_rights(s));
	if (!s->slots) {
		fprintf(file, "%15s  -\n", "-");
		return;
	}
	snprintf(size, sizeof(size), "%" PRIu64 "/%" PRIu64, s->slots, len / vm->granule);
	fprintf(file, "%15s  0x%" PRIx64, size, s->gpa);
	if (pieces > 1 || !s->linear)
		fprintf(file, " and others");
	fputc('\n', file);
}

/* What stands in bounce pages: whole frames, with as many bytes of twins. */
static uint64_t bounce_bytes(const struct view_map *map)
{
	return map->bytes[STRETCH_BOUNCE] + map->bytes[STRETCH_PARKED] +
	       map->bytes[STRETCH_QUARANTINED];
}

void view_print_domain(FILE *file, const struct view_vm *vm, const struct view_domain *dom,
		       const struct view_map *map)
{
	const char *between = ":";
	char size[24];

	fprintf(file, "\ndomain %" PRIu32 ", endpoints", dom->id);
	for (unsigned i = 0; i < vm->nr_endpoints; i++) {
		const struct view_endpoint *ep = &vm->endpoints[i];

		if (ep->attached && ep->domain == dom->id)
			fprintf(file, " 0x%04" PRIx32, ep->id);
	}
	if (dom->bypass) {
		fprintf(file, ": bypass, all of guest RAM at its own address\n");
		return;
	}
	fprintf(file, ": %" PRIu64 " mapping%s, %s\n", dom->mappings, dom->mappings == 1 ? "" : "s",
		dom->needs_sync ? "synced" : "nothing to sync");
	if (map->nr)
		fprintf(file, "  %-29s %9s  %-11s %-3s %15s  %s\n", "iova", "size", "class", "",
			"slots mapped", "gpa");
	for (size_t i = 0; i < map->nr; i++)
		print_stretch(file, vm, &map->v[i], map->pieces[i]);
	fprintf(file, "  total");
	for (unsigned c = 0, nr = 0; c < NR_STRETCH_CLASSES; c++) {
		if (!map->bytes[c])
			continue;
		fprintf(file, "%s%s %s %s", between, nr && nr % 4 == 0 ? "\n        " : "",
			view_size(map->bytes[c], size), stretch_name((enum stretch_class)c));
		between = ",";
		nr++;
	}
	if (*between == ':')
		fprintf(file, ": nothing is mapped");
	else
		fprintf(file, "\n  bounce pages %s, and as much of twins",
			view_size(bounce_bytes(map), size));
	fputc('\n', file);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* Printable ASCII: only two letters are special. */
static void json_text(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', file);
		fputc(*text, file);
	}
	fputc('"', file);
}

static void json_range(FILE *file, uint64_t start, uint64_t last)
{
	/* Texts: many readers keep 53 bits of a number. */
	fprintf(file, "\"start\": \"0x%" PRIx64 "\", \"last\": \"0x%" PRIx64 "\"", start, last);
}

static const char *json_bool(uint64_t value)
{
	return value ? "true" : "false";
}

static void json_instance(FILE *file, const struct view_instance *inst, bool first)
{
	fprintf(file, "%s\n    {\"name\": ", first ? "" : ",");
	json_text(file, inst->name);
	fprintf(file, ", \"kind\": ");
	json_text(file, inst->kind);
	fprintf(file,
		", \"granule\": %" PRIu64 ", \"streams\": %" PRIu32
		", \"exclusive\": %s, \"failed\": %s,\n     \"apertures\": [",
		inst->granule, inst->nr_streams, json_bool(inst->exclusive),
		json_bool(inst->failed));
	for (unsigned i = 0; i < inst->nr_apertures; i++) {
		fprintf(file, "%s{", i ? ", " : "");
		json_range(file, inst->apertures[i].start, inst->apertures[i].last);
		fputc('}', file);
	}
	fprintf(file, "]}");
}

static void json_endpoint(FILE *file, const struct view_endpoint *ep, bool first)
{
	char bdf[16];

	fprintf(file, "%s\n    {\"id\": %" PRIu32 ", \"guest_address\": \"%s\", \"name\": ",
		first ? "" : ",", ep->id, view_bdf(ep->id, bdf));
	json_text(file, ep->name);
	fprintf(file, ",\n     \"domain\": ");
	if (ep->attached)
		fprintf(file, "%" PRIu32, ep->domain);
	else
		fprintf(file, "null");
	fprintf(file,
		", \"sync\": \"%s\", \"may_turn_full\": %s, \"hold\": %s, \"relaxed\": %s, "
		"\"trapped\": %s,\n     \"streams\": [",
		view_sync_name(ep->sync), json_bool(ep->may_turn_full), json_bool(ep->hold),
		json_bool(ep->relaxed), json_bool(*view_trap_name(ep) == 't'));
	for (unsigned i = 0; i < ep->nr_streams; i++)
		fprintf(file, "%s{\"instance\": %" PRIu32 ", \"sid\": %" PRIu32 "}", i ? ", " : "",
			ep->streams[i].instance, ep->streams[i].sid);
	fprintf(file, "],\n     \"reserved\": [");
	for (unsigned i = 0; i < MIN(ep->nr_resv, VIEW_MAX_RESV); i++) {
		fprintf(file, "%s{", i ? ", " : "");
		json_range(file, ep->resv[i].start, ep->resv[i].last);
		fprintf(file, ", \"msi\": %s}", json_bool(ep->resv[i].msi));
	}
	fprintf(file, "]}");
}

void view_json_begin(FILE *file, pid_t pid, const struct view_vm *vm)
{
	fprintf(file,
		"{\n  \"pid\": %d,\n  \"seconds\": %.3f,\n  \"granule\": %" PRIu64
		",\n  \"frame_size\": %" PRIu64 ",\n  \"pool_limit\": %" PRIu64
		",\n  \"bounce_bytes\": %" PRIu64 ",\n  \"input_range\": {",
		(int)pid, vm->seconds, vm->granule, vm->frame_size, vm->pool_limit,
		vm->bounce_bytes);
	json_range(file, vm->range.start, vm->range.last);
	fprintf(file, "},\n  \"instances\": [");
	for (unsigned i = 0; i < vm->nr_instances; i++)
		json_instance(file, &vm->instances[i], !i);
	fprintf(file, "],\n  \"endpoints\": [");
	for (unsigned i = 0; i < vm->nr_endpoints; i++)
		json_endpoint(file, &vm->endpoints[i], !i);
	fprintf(file, "],\n  \"domains\": [");
}

void view_json_domain(FILE *file, const struct view_domain *dom, const struct view_map *map,
		      bool first)
{
	fprintf(file,
		"%s\n    {\"id\": %" PRIu32 ", \"bypass\": %s, \"mappings\": %" PRIu64
		", \"needs_sync\": %s,\n     \"bytes\": {",
		first ? "" : ",", dom->id, json_bool(dom->bypass), dom->mappings,
		json_bool(dom->needs_sync));
	for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++)
		fprintf(file, "%s\"%s\": %" PRIu64, c ? ", " : "",
			stretch_name((enum stretch_class)c), map->bytes[c]);
	fprintf(file, "},\n     \"stretches\": [");
	for (size_t i = 0; i < map->nr; i++) {
		const struct stretch *s = &map->v[i];

		fprintf(file, "%s\n      {", i ? "," : "");
		json_range(file, s->start, s->last);
		fprintf(file, ", \"class\": \"%s\", \"slots\": %" PRIu64, stretch_name(s->class),
			s->slots);
		if (s->slots)
			fprintf(file,
				", \"rights\": \"%.2s\", \"mixed\": %s, \"linear\": %s, "
				"\"iova\": \"0x%" PRIx64 "\", \"gpa\": \"0x%" PRIx64 "\"",
				view_rights(s), json_bool(s->mixed), json_bool(s->linear), s->iova,
				s->gpa);
		fputc('}', file);
	}
	fprintf(file, "]}");
}

void view_json_end(FILE *file)
{
	fprintf(file, "]\n}\n");
}
