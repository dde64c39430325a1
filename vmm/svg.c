/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/svg.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/msg.h"

/* Pixels. */
#define WIDTH	   1200
#define MARGIN	   24
#define LABEL	   136 /* the iova at the left of a row */
#define ROW_WIDTH  (WIDTH - 2 * MARGIN - LABEL)
#define ROW_HEIGHT 26
#define ROW_STEP   38
#define MAX_ROWS   12
#define LINE	   19
#define BIN	   3	 /* frames too narrow to be seen are added up in bars of this width */
#define MAX_SINGLE 16384 /* stretches that are drawn one by one: more than there are pixels for */

/*
 * How wide things are drawn, in units of one frame: true up to FULL, then less and less, so that a
 * gigabyte in one piece does not hide everything else.
 */
#define FULL_STRETCH 32.0
#define FULL_HOLE    3.0
#define DOUBLED	     4.0 /* units more when a stretch is twice as long */
#define DOUBLED_HOLE 0.125
#define WIDEST	     20.0 /* pixels of a unit */

static const char *const colours[NR_STRETCH_CLASSES] = {
	[STRETCH_DIRECT] = "#5b9bd5",  [STRETCH_WINDOW] = "#9fe0e6",
	[STRETCH_EXPOSED] = "#d1495b", [STRETCH_BOUNCE] = "#eda82f",
	[STRETCH_PARKED] = "#b9b9b9",  [STRETCH_QUARANTINED] = "#8e5ea2",
	[STRETCH_BARE] = "#e8f0dc",
};

static const char *const meanings[NR_STRETCH_CLASSES] = {
	[STRETCH_DIRECT] = "guest memory",
	[STRETCH_WINDOW] = "guest memory, bounded",
	[STRETCH_EXPOSED] = "the whole host page of a part",
	[STRETCH_BOUNCE] = "a bounce page",
	[STRETCH_PARKED] = "zeros, kept for the next use",
	[STRETCH_QUARANTINED] = "unmapped, held back",
	[STRETCH_BARE] = "mapped without memory",
};

/* The picture's height comes first in the file and is known last: the body is kept till then. */
struct svg {
	FILE *file, *body;
	char *text;
	size_t len;
	const struct view_vm *vm;
	pid_t pid;
	double y; /* of what comes next */
};

/* What is drawn is measured in units from the domain's first frame on. */
struct span {
	double at, width;
};

static double log2_of(double x)
{
	double bits = 0;

	/* Without libm: to the next power of two, and a straight line between. */
	while (x >= 2) {
		x /= 2;
		bits++;
	}
	return bits + x - 1;
}

static double shorten(double frames, double full, double doubled)
{
	return frames <= full ? frames : full + doubled * log2_of(frames / full);
}

static double frames_of(const struct svg *svg, uint64_t start, uint64_t last)
{
	return ((double)(last - start) + 1) / (double)svg->vm->frame_size;
}

static double hole_width(const struct svg *svg, const struct stretch *before,
			 const struct stretch *after)
{
	if (after->start == before->last + 1)
		return 0;
	return shorten(frames_of(svg, before->last + 1, after->start - 1), FULL_HOLE, DOUBLED_HOLE);
}

/* ---- elements -------------------------------------------------------------------------------- */

static void put_escaped(FILE *file, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", file);
			break;
		case '<':
			fputs("&lt;", file);
			break;
		case '>':
			fputs("&gt;", file);
			break;
		case '"':
			fputs("&quot;", file);
			break;
		default:
			fputc(*text, file);
		}
	}
}

/* A line of text; @class is one of the style sheet's. */
__attribute__((format(printf, 5, 6))) static void put_text(struct svg *svg, double x, double y,
							   const char *class, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(svg->body, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
	put_escaped(svg->body, line);
	fputs("</text>\n", svg->body);
}

__attribute__((format(printf, 3, 4))) static void put_line(struct svg *svg, const char *class,
							   const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	svg->y += LINE;
	put_text(svg, MARGIN, svg->y, class, "%s", line);
}

static void put_legend(struct svg *svg)
{
	double x = MARGIN;

	svg->y += 10;
	for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++) {
		if (c == 4) {
			x = MARGIN;
			svg->y += LINE + 2;
		}
		fprintf(svg->body,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"16\" height=\"14\" class=\"c%u\"/>\n",
			x, svg->y, c);
		put_text(svg, x + 22, svg->y + 12, "s", "%s: %s",
			 stretch_name((enum stretch_class)c), meanings[c]);
		x += (WIDTH - 2 * MARGIN) / 4.0;
	}
	svg->y += LINE + 6;
}

/* ---- a domain -------------------------------------------------------------------------------- */

/* How many pixels a unit has, and how many rows that makes. */
struct scale {
	double px;
	unsigned rows;
	double y; /* of the first row */
};

static double row_x(double px, const struct scale *scale, unsigned *row)
{
	*row = (unsigned)(px / ROW_WIDTH);
	if (*row >= scale->rows)
		*row = scale->rows - 1;
	return MARGIN + LABEL + px - (double)*row * ROW_WIDTH;
}

static void put_title(struct svg *svg, const struct stretch *s, uint32_t pieces)
{
	uint64_t len = s->last - s->start + 1;
	char size[24];

	fprintf(svg->body, "<title>0x%" PRIx64 "-0x%" PRIx64 "\n%s, %s", s->start, s->last,
		stretch_name(s->class), view_size(len, size));
	if (s->slots)
		fprintf(svg->body,
			"\nrights %s, %" PRIu64 " of %" PRIu64
			" slots mapped\nfirst at gpa 0x%" PRIx64 "%s",
			view_rights(s), s->slots, len / svg->vm->granule, s->gpa,
			pieces > 1 || !s->linear ? ", and elsewhere" : "");
	fputs("</title>", svg->body);
}

/* One stretch, in as many rows as it spans. */
static void put_stretch(struct svg *svg, const struct scale *scale, struct span span,
			const struct stretch *s, uint32_t pieces)
{
	double px = span.at * scale->px, end = (span.at + span.width) * scale->px;
	bool first = true;
	char size[24];

	fputs("<g>", svg->body);
	put_title(svg, s, pieces);
	while (end - px > 0.01) {
		unsigned row;
		double x = row_x(px + 0.001, scale, &row);
		double y = scale->y + row * ROW_STEP;
		double width = MIN(end - px, MARGIN + LABEL + ROW_WIDTH - x);

		if (width < 0.01)
			break;
		fprintf(svg->body,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" class=\"c%u\"/>",
			x, y, width, ROW_HEIGHT, (unsigned)s->class);
		/* How long it is, where that does not show. */
		if (first && width > 64)
			fprintf(svg->body, "<text x=\"%.1f\" y=\"%.1f\" class=\"i\">%s</text>",
				x + width / 2, y + ROW_HEIGHT - 9.0,
				view_size(s->last - s->start + 1, size));
		first = false;
		px += width;
	}
	fputs("</g>\n", svg->body);
}

/* A hole that is drawn shorter than it is. */
static void put_hole(struct svg *svg, const struct scale *scale, struct span span, uint64_t start,
		     uint64_t last)
{
	unsigned row;
	double x = row_x((span.at + span.width / 2) * scale->px, scale, &row);
	double y = scale->y + row * ROW_STEP;
	char size[24];

	fprintf(svg->body,
		"<g><title>hole, 0x%" PRIx64 "-0x%" PRIx64
		"\n%s</title><path d=\"M%.1f %.1fl3 6l-6 7l6 7l-3 6\" class=\"h\"/></g>\n",
		start, last, view_size(last - start + 1, size), x, y);
}

/* Many frames in few pixels: what share of each bar has which class. */
struct bin {
	double units[NR_STRETCH_CLASSES];
	uint64_t start, last;
	bool used;
};

static void put_bin(struct svg *svg, const struct scale *scale, size_t i, const struct bin *bin)
{
	double all = BIN / scale->px, y;
	unsigned row;
	double x = row_x((double)i * BIN + 0.001, scale, &row);
	const char *between = "";

	if (!bin->used)
		return;
	fprintf(svg->body, "<g><title>0x%" PRIx64 "-0x%" PRIx64 "\n", bin->start, bin->last);
	for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++) {
		if (bin->units[c] <= 0)
			continue;
		fprintf(svg->body, "%s%s %.0f%%", between, stretch_name((enum stretch_class)c),
			100 * bin->units[c] / all);
		between = ", ";
	}
	fputs("</title>", svg->body);
	y = scale->y + row * ROW_STEP + ROW_HEIGHT;
	for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++) {
		double height = MIN(bin->units[c] / all, 1) * ROW_HEIGHT;

		if (height < 0.05)
			continue;
		y -= height;
		fprintf(svg->body,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" class=\"b%u\"/>",
			x, y, BIN, height, c);
	}
	fputs("</g>\n", svg->body);
}

static void add_to_bins(struct bin *bins, size_t nr, const struct scale *scale, struct span span,
			const struct stretch *s)
{
	double per_bin = BIN / scale->px, end = span.at + span.width;

	for (double at = span.at; at < end;) {
		size_t i = MIN((size_t)(at / per_bin), nr - 1);
		double next = i == nr - 1 ? end : MIN(end, (double)(i + 1) * per_bin);

		/* Rounding must not make it stand still. */
		if (next <= at)
			next = MIN(end, at + per_bin / 16);
		bins[i].units[s->class] += next - at;
		if (!bins[i].used)
			bins[i].start = s->start;
		bins[i].last = s->last;
		bins[i].used = true;
		at = next;
	}
}

static int put_bins(struct svg *svg, const struct scale *scale, const struct view_map *map)
{
	size_t nr = (size_t)scale->rows * ROW_WIDTH / BIN + 1;
	struct bin *bins = calloc(nr, sizeof(*bins));
	double at = 0;

	if (!bins)
		return -ENOMEM;
	for (size_t i = 0; i < map->nr; i++) {
		const struct stretch *s = &map->v[i];
		struct span span;

		at += i ? hole_width(svg, s - 1, s) : 0;
		span = (struct span){
			at, shorten(frames_of(svg, s->start, s->last), FULL_STRETCH, DOUBLED)};
		add_to_bins(bins, nr, scale, span, s);
		at += span.width;
	}
	for (size_t i = 0; i < nr; i++)
		put_bin(svg, scale, i, &bins[i]);
	free(bins);
	return 0;
}

static void put_stretches(struct svg *svg, const struct scale *scale, const struct view_map *map)
{
	double at = 0;

	for (size_t i = 0; i < map->nr; i++) {
		const struct stretch *s = &map->v[i];
		struct span span;

		if (i && hole_width(svg, s - 1, s) > 0) {
			span = (struct span){at, hole_width(svg, s - 1, s)};
			if (frames_of(svg, s[-1].last + 1, s->start - 1) > FULL_HOLE)
				put_hole(svg, scale, span, s[-1].last + 1, s->start - 1);
			at += span.width;
		}
		span = (struct span){
			at, shorten(frames_of(svg, s->start, s->last), FULL_STRETCH, DOUBLED)};
		put_stretch(svg, scale, span, s, map->pieces[i]);
		at += span.width;
	}
}

/* Where each row begins. */
static void put_row_labels(struct svg *svg, const struct scale *scale, const struct view_map *map)
{
	unsigned row = 0;
	double at = 0;

	for (size_t i = 0; i < map->nr && row < scale->rows; i++) {
		const struct stretch *s = &map->v[i];
		double width = shorten(frames_of(svg, s->start, s->last), FULL_STRETCH, DOUBLED);

		at += i ? hole_width(svg, s - 1, s) : 0;
		while (row < scale->rows && row * ROW_WIDTH < (at + width) * scale->px - 0.01) {
			double into = row * ROW_WIDTH / scale->px - at;
			double y = scale->y + row++ * ROW_STEP + ROW_HEIGHT - 8.0;

			/* Nothing where a stretch goes on that is drawn shorter than it is. */
			if (into <= 0)
				put_text(svg, MARGIN, y, "m", "0x%" PRIx64, s->start);
			else if (width <= FULL_STRETCH)
				put_text(svg, MARGIN, y, "m", "0x%" PRIx64,
					 s->start + (uint64_t)into * svg->vm->frame_size);
		}
		at += width;
	}
}

static void put_endpoints(struct svg *svg, uint32_t domain, bool attached)
{
	const struct view_vm *vm = svg->vm;
	char bdf[16];

	for (unsigned i = 0; i < vm->nr_endpoints; i++) {
		const struct view_endpoint *ep = &vm->endpoints[i];

		if (ep->attached != attached || (attached && ep->domain != domain))
			continue;
		put_line(svg, "s",
			 "%s (guest %s): %s, sync=%s, hold=%s, exposure=%s, by %s stream %" PRIu32
			 "%s",
			 ep->name, view_bdf(ep->id, bdf), view_trap_name(ep),
			 view_sync_name(ep->sync), ep->hold ? "on" : "off",
			 ep->relaxed ? "relaxed" : "strict",
			 ep->nr_streams ? vm->instances[ep->streams[0].instance].name : "none",
			 ep->nr_streams ? ep->streams[0].sid : 0,
			 ep->nr_streams > 1 ? " and others" : "");
	}
}

static void put_totals(struct svg *svg, const struct view_domain *dom, const struct view_map *map)
{
	char line[256], size[24];
	size_t len;

	len = (size_t)snprintf(line, sizeof(line), "%" PRIu64 " mapping%s", dom->mappings,
			       dom->mappings == 1 ? "" : "s");
	for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++) {
		if (map->bytes[c] && len < sizeof(line))
			len += (size_t)snprintf(line + len, sizeof(line) - len, ", %s %s",
						view_size(map->bytes[c], size),
						stretch_name((enum stretch_class)c));
	}
	put_line(svg, "s", "%s", line);
}

int svg_add_domain(struct svg *svg, const struct view_domain *dom, const struct view_map *map)
{
	struct scale scale;
	double units = 0;
	int ret = 0;

	svg->y += 18;
	put_line(svg, "t", "domain %" PRIu32 "%s", dom->id,
		 dom->bypass ? ": bypass, all of guest RAM at its own address" : "");
	put_endpoints(svg, dom->id, true);
	if (dom->bypass)
		return 0;
	put_totals(svg, dom, map);
	if (!map->nr)
		return 0;
	for (size_t i = 0; i < map->nr; i++) {
		units += i ? hole_width(svg, &map->v[i - 1], &map->v[i]) : 0;
		units += shorten(frames_of(svg, map->v[i].start, map->v[i].last), FULL_STRETCH,
				 DOUBLED);
	}
	scale.px = MIN(MAX_ROWS * (double)ROW_WIDTH / units, WIDEST);
	scale.rows = MIN((unsigned)(units * scale.px / ROW_WIDTH) + 1, MAX_ROWS);
	scale.y = svg->y + 12;
	for (unsigned r = 0; r < scale.rows; r++)
		fprintf(svg->body,
			"<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%d\" class=\"r\"/>\n",
			MARGIN + LABEL, scale.y + r * ROW_STEP, ROW_WIDTH, ROW_HEIGHT);
	put_row_labels(svg, &scale, map);
	if (scale.px >= BIN && map->nr <= MAX_SINGLE)
		put_stretches(svg, &scale, map);
	else
		ret = put_bins(svg, &scale, map);
	svg->y = scale.y + scale.rows * ROW_STEP;
	if (ret)
		msg_error("out of memory");
	return ret;
}

/* ---- the whole ------------------------------------------------------------------------------- */

int svg_begin(FILE *file, pid_t pid, const struct view_vm *vm, struct svg **out)
{
	struct svg *svg = calloc(1, sizeof(*svg));
	char g[24], h[24], used[24], limit[24];

	if (svg)
		svg->body = open_memstream(&svg->text, &svg->len);
	if (!svg || !svg->body) {
		free(svg);
		msg_error("out of memory");
		return -ENOMEM;
	}
	svg->file = file;
	svg->vm = vm;
	svg->pid = pid;
	svg->y = MARGIN;
	put_line(svg, "t", "granule, process %d, after %.1f s", (int)pid, vm->seconds);
	put_line(svg, "s", "guest granule %s, frames of %s, bounce pages and their twins %s of %s",
		 view_size(vm->granule, g), view_size(vm->frame_size, h),
		 view_size(vm->bounce_bytes, used), view_size(vm->pool_limit, limit));
	for (unsigned i = 0; i < vm->nr_instances; i++) {
		const struct view_instance *inst = &vm->instances[i];

		put_line(svg, "s", "%s: %s, granule %s%s", inst->name, inst->kind,
			 view_size(inst->granule, g), inst->failed ? ", CUT OFF" : "");
	}
	put_endpoints(svg, 0, false);
	put_legend(svg);
	*out = svg;
	return 0;
}

void svg_end(struct svg *svg)
{
	double height;

	put_line(
		svg, "s",
		"Large holes (zigzag) and long stretches are drawn shorter than they are; point at "
		"a place to see what it is.");
	height = svg->y + MARGIN;
	if (fclose(svg->body) || !svg->text) {
		/* Short of memory: the picture is not whole, and says so. */
		fputs("<!-- not complete -->\n", svg->file);
	} else {
		fprintf(svg->file,
			"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
			"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" "
			"viewBox=\"0 0 %d %.0f\" font-family=\"sans-serif\" font-size=\"13\">\n"
			"<title>granule, process %d</title>\n<style>\n"
			"text{fill:#222}.t{font-size:16px;font-weight:bold}.s{font-size:13px}"
			".m{font-family:monospace;font-size:11px}"
			".i{font-size:11px;text-anchor:middle;pointer-events:none}"
			".r{fill:#fafafa;stroke:#ddd;stroke-width:1}"
			".h{fill:none;stroke:#999;stroke-width:1.2}\n",
			WIDTH, height, WIDTH, height, (int)svg->pid);
		for (unsigned c = 0; c < NR_STRETCH_CLASSES; c++)
			fprintf(svg->file,
				".c%u{fill:%s;stroke:#fff;stroke-width:.6}.b%u{fill:%s}\n", c,
				colours[c], c, colours[c]);
		fprintf(svg->file, "</style>\n<rect width=\"%d\" height=\"%.0f\" fill=\"#fff\"/>\n",
			WIDTH, height);
		fwrite(svg->text, 1, svg->len, svg->file);
		fputs("</svg>\n", svg->file);
	}
	free(svg->text);
	free(svg);
}
