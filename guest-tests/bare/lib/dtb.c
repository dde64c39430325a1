/* SPDX-License-Identifier: Apache-2.0 */
/* Source: Devicetree Specification 0.4, chapter 5 "Flattened Devicetree (DTB) Format". */
#include "dtb.h"
#include "lib/string.h"

#define FDT_MAGIC      0xd00dfeed
#define FDT_BEGIN_NODE 1
#define FDT_END_NODE   2
#define FDT_PROP       3
#define FDT_NOP	       4

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* @cells: 1 or 2 */
static uint64_t be_cells(const uint8_t *p, unsigned cells)
{
	return cells == 1 ? be32(p) : (uint64_t)be32(p) << 32 | be32(p + 4);
}

static void read_memory(struct machine *m, const uint8_t *reg, uint32_t len)
{
	for (; len >= 16; len -= 16, reg += 16) {
		uint64_t base = be_cells(reg, 2), size = be_cells(reg + 8, 2);

		if (base >= 1ull << 32) {
			m->ram_high_base = base;
			m->ram_high_len = size;
		} else {
			m->ram_base = base;
			m->ram_len = size;
		}
	}
}

int dtb_read(const void *dtb, struct machine *out)
{
	const uint8_t *base = dtb, *p, *strings;
	const char *node = "", *name;
	unsigned cpu_cells = 2;

	memset(out, 0, sizeof(*out));
	out->cmdline = "";
	if (!base || be32(base) != FDT_MAGIC)
		return -1;
	p = base + be32(base + 8);
	strings = base + be32(base + 12);
	for (;;) {
		uint32_t token = be32(p), len;

		p += 4;
		switch (token) {
		case FDT_BEGIN_NODE:
			node = (const char *)p;
			p += (strlen(node) + 4) & ~3ul;
			continue;
		case FDT_END_NODE:
			node = "";
			continue;
		case FDT_NOP:
			continue;
		case FDT_PROP:
			break;
		default:
			return out->ram_len && out->nr_cpus ? 0 : -1;
		}
		len = be32(p);
		name = (const char *)strings + be32(p + 4);
		p += 8;
		if (!strcmp(node, "cpus") && !strcmp(name, "#address-cells"))
			cpu_cells = be32(p);
		else if (!strncmp(node, "memory", 6) && !strcmp(name, "reg"))
			read_memory(out, p, len);
		else if (!strncmp(node, "cpu@", 4) && !strcmp(name, "reg") && out->nr_cpus < DTB_MAX_CPUS)
			out->mpidr[out->nr_cpus++] = be_cells(p, cpu_cells);
		else if (!strcmp(node, "chosen") && !strcmp(name, "bootargs"))
			out->cmdline = (const char *)p;
		p += (len + 3) & ~3u;
	}
}

uint64_t dtb_parameter(const struct machine *machine, const char *name, uint64_t otherwise)
{
	size_t len = strlen(name);
	uint64_t val = 0;

	for (const char *p = machine->cmdline; *p; p++) {
		if (strncmp(p, name, len) || p[len] != '=' || (p > machine->cmdline && p[-1] != ' '))
			continue;
		for (p += len + 1; *p >= '0' && *p <= '9'; p++)
			val = val * 10 + (uint64_t)(*p - '0');
		return val;
	}
	return otherwise;
}
