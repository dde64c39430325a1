/* SPDX-License-Identifier: Apache-2.0 */
/*
 * viommu - the virtio-iommu's interface: every request, every error, the framing, the config space.
 *
 * Needs at least one passed-through QEMU `edu` device (1234:11e8), two for the claims about sharing.
 * Source of every expected answer: virtio 1.3, "IOMMU Device", driver and device requirements.
 */
#include "board.h"
#include "claim.h"
#include "console.h"
#include "cpu.h"
#include "dtb.h"
#include "edu.h"
#include "iommu.h"
#include "lib/string.h"

#define PAGE 0x1000ull
#define FRAME 0x4000ull
/* IOVAs that no reserved region covers: checked against PROBE before anything is mapped. */
#define WINDOW	   0x0a000000ull
#define WINDOW_END 0x0c000000ull

#define OK     VIRTIO_IOMMU_S_OK
#define INVAL  VIRTIO_IOMMU_S_INVAL
#define RANGE  VIRTIO_IOMMU_S_RANGE
#define NOENT  VIRTIO_IOMMU_S_NOENT
#define FAULT  VIRTIO_IOMMU_S_FAULT

#define DOMAIN	  7
#define DOMAIN2	  9
#define STRANGER  0xabcd /* an endpoint id that is nobody's */
#define NR(array) (sizeof(array) / sizeof((array)[0]))

static struct iommu iommu;
static struct machine machine;
static uint32_t ep, ep2;
static bool has_ep2;
static uint8_t buffer[0x10000] __attribute__((aligned(0x4000)));

static uint64_t gpa_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static bool restart(uint64_t features)
{
	const char *error = iommu_start(&iommu, features);

	if (error)
		print("note: %s\n", error);
	return claim_check("the device starts", error == NULL, true);
}

/* Every claim starts with endpoint ep alone in DOMAIN and no mapping. */
static void begin(const char *name)
{
	claim_begin(name);
	if (restart(IOMMU_FEATURES))
		claim_check("attach", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
}

static unsigned map_page(uint64_t iova)
{
	return iommu_map(&iommu, DOMAIN, iova, iova + PAGE - 1, gpa_of(buffer), IOMMU_RW);
}

/* ---- config space and features -------------------------------------------------------------- */

static void check_features(void)
{
	uint64_t offered;

	claim_begin("features_offered");
	restart(IOMMU_FEATURES);
	offered = vdev_features(&iommu.dev);
	claim_check("all of the device's", offered & IOMMU_FEATURES, IOMMU_FEATURES);
	claim_check("VERSION_1", offered >> 32 & 1, 1);
	claim_check("not the old BYPASS", offered >> VIRTIO_IOMMU_F_BYPASS & 1, 0);
	claim_end();
}

static void check_config(void)
{
	struct vdev *dev = &iommu.dev;
	uint8_t bytes[40];

	claim_begin("config_describes_the_device");
	restart(IOMMU_FEATURES);
#ifdef BOARD_QEMU
	claim_check("smallest page", iommu.page_size_mask & -iommu.page_size_mask, PAGE);
#else
	claim_check("page_size_mask", iommu.page_size_mask, PAGE | FRAME);
#endif
	claim_check("input_range starts on a frame", iommu.input_start % FRAME, 0);
	claim_check("input_range ends with a frame", (iommu.input_end + 1) % FRAME, 0);
	claim_check("input_range has room", iommu.input_end > WINDOW_END, true);
	claim_check("domain_range.start", iommu.domain_start, 0);
	claim_check("domain_range has room", iommu.domain_end >= 255, true);
	claim_check("probe_size is set", iommu.probe_size >= 24, true);
	claim_check("probe_size is a multiple of 8", iommu.probe_size % 8, 0);
	claim_end();

	claim_begin("config_reads_of_every_size_agree");
	for (unsigned i = 0; i < NR(bytes); i++)
		bytes[i] = (uint8_t)vdev_config(dev, i, 1);
	for (unsigned i = 0; i < NR(bytes); i += 2)
		claim_check_at("16 bit at", i, vdev_config(dev, i, 2), bytes[i] | bytes[i + 1] << 8);
	for (unsigned i = 0; i < NR(bytes); i += 4)
		claim_check_at("32 bit at", i, vdev_config(dev, i, 4),
			       bytes[i] | bytes[i + 1] << 8 | bytes[i + 2] << 16 |
				       (uint32_t)bytes[i + 3] << 24);
	claim_check("past the end", vdev_config(dev, 64, 4), 0);
	claim_end();

	claim_begin("config_writes_change_nothing_but_bypass");
	for (unsigned i = 0; i < NR(bytes); i++) {
		if (i == offsetof(struct virtio_iommu_config, bypass))
			continue;
		mmio_write8(dev->base + VIRTIO_MMIO_CONFIG + i, (uint8_t)~bytes[i]);
		claim_check_at("byte", i, vdev_config(dev, i, 1), bytes[i]);
	}
	claim_end();
}

static void set_bypass(unsigned val)
{
	mmio_write8(iommu.dev.base + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_iommu_config, bypass),
		    (uint8_t)val);
}

static unsigned get_bypass(void)
{
	return (unsigned)vdev_config(&iommu.dev, offsetof(struct virtio_iommu_config, bypass), 1);
}

static void check_bypass_config(void)
{
	unsigned initial;

	claim_begin("bypass_config_is_written_and_kept");
	restart(IOMMU_FEATURES);
	initial = get_bypass();
	claim_check("initially 0 or 1", initial <= 1, true);
	set_bypass(1);
	claim_check("after 1", get_bypass(), 1);
	restart(IOMMU_FEATURES);
	claim_check("1 after a device reset", get_bypass(), 1);
	set_bypass(0);
	claim_check("after 0", get_bypass(), 0);
	restart(IOMMU_FEATURES);
	claim_check("0 after a device reset", get_bypass(), 0);
	claim_end();

	claim_begin("bypass_config_is_never_anything_but_0_or_1");
	for (unsigned val = 2; val < 256; val += 23) {
		set_bypass(val);
		claim_check_at("after writing", val, get_bypass() <= 1, true);
		/* a device may call this an error and want a reset */
		restart(IOMMU_FEATURES);
	}
	set_bypass(0);
	claim_end();

	claim_begin("bypass_config_needs_its_feature");
	restart(IOMMU_FEATURES & ~(1ull << VIRTIO_IOMMU_F_BYPASS_CONFIG));
	set_bypass(1);
	restart(IOMMU_FEATURES);
	claim_check("bypass", get_bypass(), 0);
	claim_end();
	set_bypass(initial & 1);
}

/* ---- PROBE ---------------------------------------------------------------------------------- */

static void check_probe(void)
{
	const struct virtio_iommu_probe_resv_mem *resv, *other;
	struct virtio_iommu_req_probe req = {.head.type = VIRTIO_IOMMU_T_PROBE, .endpoint = ep};
	unsigned nr_msi = 0, end = 0;
	struct virtio_iommu_req_tail tail;
	struct seg segs[] = {
		{.at = &req, .len = sizeof(req)},
		{.at = iommu.probe, .len = 16, .write = true},
		{.at = &tail, .len = sizeof(tail), .write = true},
	};

	claim_begin("probe_reports_reserved_regions_in_whole_frames");
	restart(IOMMU_FEATURES);
	claim_check("status", iommu_probe(&iommu, ep), OK);
	for (unsigned i = 0; (resv = iommu_resv(&iommu, i)); i++) {
		claim_check_at("length of property", i, resv->head.length, 20);
		claim_check_at("reserved bytes of", i,
			       resv->reserved[0] | resv->reserved[1] | resv->reserved[2], 0);
		claim_check_at("start within its frame", i, resv->start % FRAME, 0);
		claim_check_at("end within its frame", i, (resv->end + 1) % FRAME, 0);
		claim_check_at("start < end", i, resv->start < resv->end, true);
		claim_check_at("the test window is free of", i,
			       resv->end < WINDOW || resv->start >= WINDOW_END, true);
		for (unsigned j = 0; j < i; j++) {
			other = iommu_resv(&iommu, j);
			claim_check_at("no overlap with an earlier one", i,
				       resv->start > other->end || resv->end < other->start, true);
		}
		if (resv->subtype == VIRTIO_IOMMU_RESV_MEM_T_MSI)
			nr_msi++;
		end = (unsigned)((const uint8_t *)(resv + 1) - iommu.probe);
	}
	for (; end < iommu.probe_size; end++)
		claim_check_at("unused byte", end, iommu.probe[end], 0);
	claim_end();

	claim_begin("probe_reports_the_msi_doorbell");
	claim_check("MSI regions", nr_msi, 1);
	for (unsigned i = 0; (resv = iommu_resv(&iommu, i)); i++) {
		if (resv->subtype == VIRTIO_IOMMU_RESV_MEM_T_MSI)
			claim_check("the doorbell is inside",
				    resv->start <= BOARD_DOORBELL && BOARD_DOORBELL <= resv->end, true);
	}
	claim_end();

	claim_begin("probe_of_an_unknown_endpoint_is_noent");
	claim_check("status", iommu_probe(&iommu, STRANGER), NOENT);
	claim_end();

	claim_begin("probe_ignores_reserved_fields");
	memset(req.reserved, 0x5a, sizeof(req.reserved));
	memset(req.head.reserved, 0x5a, sizeof(req.head.reserved));
	segs[1].len = iommu.probe_size;
	memset(&tail, 0xff, sizeof(tail));
	claim_check("used.len", (uint64_t)vq_request(&iommu.dev, 0, segs, 3),
		    iommu.probe_size + sizeof(tail));
	claim_check("status", tail.status, OK);
	claim_end();

#ifndef BOARD_QEMU /* QEMU 7.2 ends on an assertion */
	claim_begin("probe_with_a_short_buffer_is_inval_and_writes_no_property");
	segs[1].len = 16;
	memset(iommu.probe, 0xee, sizeof(iommu.probe));
	memset(&tail, 0xff, sizeof(tail));
	claim_check("answered", vq_request(&iommu.dev, 0, segs, 3) >= 0, true);
	claim_check("status", tail.status, INVAL);
	for (unsigned i = 0; i < 16; i++)
		claim_check_at("property byte is not written", i,
			       iommu.probe[i] == 0xee || iommu.probe[i] == 0, true);
	claim_end();
#endif
}

/* ---- ATTACH and DETACH ---------------------------------------------------------------------- */

static void check_attach(void)
{
	struct virtio_iommu_req_attach attach = {
		.head.type = VIRTIO_IOMMU_T_ATTACH,
		.domain = DOMAIN2,
		.endpoint = ep,
	};

	begin("attach_with_reserved_bits_is_inval");
	for (unsigned i = 0; i < 4; i++) {
		memset(attach.reserved, 0, 4);
		attach.reserved[i] = 1;
		claim_check_at("reserved", i, iommu_send(&iommu, &attach, 20), INVAL);
	}
	claim_check("still where it was", map_page(WINDOW), OK);
	claim_end();

	begin("attach_with_an_unknown_flag_is_inval");
	for (unsigned bit = 1; bit < 32; bit++)
		claim_check_at("flag bit", bit, iommu_attach(&iommu, DOMAIN2, ep, 1u << bit), INVAL);
	claim_check("still where it was", map_page(WINDOW), OK);
	claim_end();

	begin("attach_of_an_unknown_endpoint_is_noent");
	claim_check("status", iommu_attach(&iommu, DOMAIN2, STRANGER, 0), NOENT);
	claim_check("no domain was made", iommu_unmap(&iommu, DOMAIN2, 0, PAGE - 1), NOENT);
	claim_end();

	begin("attach_outside_domain_range_is_range");
	if (iommu.domain_end != UINT32_MAX)
		claim_check("status", iommu_attach(&iommu, iommu.domain_end + 1, ep, 0), RANGE);
	claim_check("still where it was", map_page(WINDOW), OK);
	claim_end();

	begin("attach_ignores_reserved_bytes_of_the_head");
	memset(attach.reserved, 0, 4);
	memset(attach.head.reserved, 0xff, 3);
	claim_check("status", iommu_send(&iommu, &attach, 20), OK);
	claim_end();

	begin("attach_again_to_the_same_domain_is_ok");
	claim_check("status", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
	claim_check("the domain is there", iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	claim_end();

	begin("attach_elsewhere_detaches_and_ends_the_old_domain");
	claim_check("map", map_page(WINDOW), OK);
	claim_check("attach", iommu_attach(&iommu, DOMAIN2, ep, 0), OK);
	claim_check("map in the old one", map_page(WINDOW), NOENT);
	claim_check("detach from the old one", iommu_detach(&iommu, DOMAIN, ep), INVAL);
	claim_check("attach back", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
	claim_check("its mappings are gone", map_page(WINDOW), OK);
	claim_end();

	begin("attach_without_bypass_config_takes_no_bypass_flag");
	restart(IOMMU_FEATURES & ~(1ull << VIRTIO_IOMMU_F_BYPASS_CONFIG));
	claim_check("status", iommu_attach(&iommu, DOMAIN, ep, VIRTIO_IOMMU_ATTACH_F_BYPASS), INVAL);
	claim_end();

	begin("bypass_domain_takes_no_map_and_no_unmap");
	claim_check("attach", iommu_attach(&iommu, DOMAIN2, ep, VIRTIO_IOMMU_ATTACH_F_BYPASS), OK);
	claim_check("map", iommu_map(&iommu, DOMAIN2, WINDOW, WINDOW + PAGE - 1, gpa_of(buffer), IOMMU_RW),
		    INVAL);
	claim_check("unmap", iommu_unmap(&iommu, DOMAIN2, 0, UINT64_MAX), INVAL);
	claim_check("detach", iommu_detach(&iommu, DOMAIN2, ep), OK);
	claim_check("the id is free again", iommu_attach(&iommu, DOMAIN2, ep, 0), OK);
	claim_check("as an ordinary domain", iommu_unmap(&iommu, DOMAIN2, 0, UINT64_MAX), OK);
	claim_end();
}

static void check_attach_two(void)
{
	static const char *const names[] = {
		"domain_lives_until_its_last_endpoint_leaves",
		"attach_that_disagrees_about_bypass_is_inval_and_keeps_the_endpoint",
	};

	if (!has_ep2) {
		for (unsigned i = 0; i < NR(names); i++)
			claim_skip(names[i], "needs a second passed-through device");
		return;
	}
	begin(names[0]);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, ep2, 0), OK);
	claim_check("map", map_page(WINDOW), OK);
	claim_check("detach one", iommu_detach(&iommu, DOMAIN, ep), OK);
	claim_check("the mapping is there", map_page(WINDOW), INVAL);
	claim_check("detach it again", iommu_detach(&iommu, DOMAIN, ep), INVAL);
	claim_check("detach the other", iommu_detach(&iommu, DOMAIN, ep2), OK);
	claim_check("the domain is gone", map_page(WINDOW), NOENT);
	claim_end();

	begin(names[1]);
	claim_check("a bypass domain", iommu_attach(&iommu, DOMAIN2, ep2, VIRTIO_IOMMU_ATTACH_F_BYPASS),
		    OK);
	claim_check("join it without", iommu_attach(&iommu, DOMAIN2, ep, 0), INVAL);
	claim_check("join ours with", iommu_attach(&iommu, DOMAIN, ep2, VIRTIO_IOMMU_ATTACH_F_BYPASS),
		    INVAL);
	claim_check("the first is where it was", map_page(WINDOW), OK);
	claim_check("the second is where it was", iommu_detach(&iommu, DOMAIN2, ep2), OK);
	claim_end();
}

static void check_detach(void)
{
	struct virtio_iommu_req_detach detach = {
		.head.type = VIRTIO_IOMMU_T_DETACH,
		.domain = DOMAIN,
		.endpoint = ep,
	};

	begin("detach_ignores_reserved_fields");
	memset(detach.reserved, 0xff, sizeof(detach.reserved));
	claim_check("status", iommu_send(&iommu, &detach, 20), OK);
	claim_check("the domain is gone", map_page(WINDOW), NOENT);
	claim_end();

	begin("detach_of_an_unknown_endpoint_is_noent");
	claim_check("status", iommu_detach(&iommu, DOMAIN, STRANGER), NOENT);
	claim_end();

	begin("detach_from_a_domain_it_is_not_in_is_inval");
	claim_check("no such domain", iommu_detach(&iommu, DOMAIN2, ep), INVAL);
	if (has_ep2)
		claim_check("not in it", iommu_detach(&iommu, DOMAIN, ep2), INVAL);
	claim_check("still where it was", map_page(WINDOW), OK);
	claim_end();

	begin("device_reset_drops_every_domain");
	claim_check("map", map_page(WINDOW), OK);
	restart(IOMMU_FEATURES);
	claim_check("the domain is gone", map_page(WINDOW), NOENT);
	claim_check("the endpoint is free", iommu_detach(&iommu, DOMAIN, ep), INVAL);
	claim_end();
}

/* ---- MAP and UNMAP -------------------------------------------------------------------------- */

static void check_map(void)
{
	const uint64_t gpa = gpa_of(buffer), ram_end = machine.ram_base + machine.ram_len;
	const uint64_t w = WINDOW, out = iommu.input_end + 1; /* 0: nothing is outside */
	const struct {
		const char *what;
		uint64_t start, last, gpa;
		uint32_t domain, flags;
		unsigned want;
	} refused[] = {
		{"start off the granule", w + 0x800, w + 0x17ff, gpa, DOMAIN, IOMMU_RW, RANGE},
		{"end off the granule", w, w + 0x7fe, gpa, DOMAIN, IOMMU_RW, RANGE},
		{"gpa off the granule", w, w + PAGE - 1, gpa + 0x10, DOMAIN, IOMMU_RW, RANGE},
		{"end before start", w + FRAME, w - 1, gpa, DOMAIN, IOMMU_RW, RANGE},
		{"above input_range", out, out + PAGE - 1, gpa, DOMAIN, IOMMU_RW, RANGE},
		{"across the end of input_range", out - PAGE, out + PAGE - 1, gpa, DOMAIN, IOMMU_RW, RANGE},
		{"all of the address space", 0, UINT64_MAX, 0, DOMAIN, IOMMU_RW, RANGE},
		{"unknown flag", w, w + PAGE - 1, gpa, DOMAIN, IOMMU_RW | 8, INVAL},
		{"unknown high flag", w, w + PAGE - 1, gpa, DOMAIN, IOMMU_RW | 1u << 31, INVAL},
		{"unknown domain", w, w + PAGE - 1, gpa, DOMAIN2, IOMMU_RW, NOENT},
		{"gpa is no RAM", w, w + PAGE - 1, BOARD_NOWHERE & ~(PAGE - 1), DOMAIN, IOMMU_RW, FAULT},
		{"gpa is a device", w, w + PAGE - 1, BOARD_UART, DOMAIN, IOMMU_RW, FAULT},
		{"gpa runs past RAM", w, w + 2 * PAGE - 1, ram_end - PAGE, DOMAIN, IOMMU_RW, FAULT},
		{"gpa wraps", w, w + 2 * PAGE - 1, -PAGE, DOMAIN, IOMMU_RW, FAULT},
	};

	begin("map_error_table");
	for (unsigned i = 0; i < NR(refused); i++) {
		if (!out && refused[i].start >= refused[i].last)
			continue;
		claim_check_at(refused[i].what, i,
			       iommu_map(&iommu, refused[i].domain, refused[i].start, refused[i].last,
					 refused[i].gpa, refused[i].flags),
			       refused[i].want);
	}
	claim_check("nothing was mapped", iommu_map(&iommu, DOMAIN, w, w + 0xffff, gpa, IOMMU_RW), OK);
	claim_end();

	begin("map_takes_any_rights_and_none");
	for (uint32_t flags = 0; flags <= IOMMU_RW; flags++)
		claim_check_at("flags", flags,
			       iommu_map(&iommu, DOMAIN, w + flags * PAGE, w + flags * PAGE + PAGE - 1,
					 gpa, flags),
			       OK);
	claim_end();

	begin("map_that_overlaps_is_inval_and_changes_nothing");
	claim_check("map", iommu_map(&iommu, DOMAIN, w + 0x8000, w + 0xffff, gpa, IOMMU_RW), OK);
	for (unsigned i = 0; i < 5; i++) {
		static const uint16_t rows[5][2] = {{0x8, 0xf}, {0x9, 0xa}, {0x7, 0x8}, {0xf, 0x10}, {0, 0x1f}};

		claim_check_at("overlap", i,
			       iommu_map(&iommu, DOMAIN, w + rows[i][0] * PAGE,
					 w + rows[i][1] * PAGE + PAGE - 1,
					 machine.ram_base, IOMMU_RW),
			       INVAL);
	}
	claim_check("before it is free", iommu_map(&iommu, DOMAIN, w, w + 0x7fff, gpa, IOMMU_RW), OK);
	claim_check("after it is free", iommu_map(&iommu, DOMAIN, w + 0x10000, w + 0x1ffff, gpa, IOMMU_RW),
		    OK);
	claim_check("it can be removed", iommu_unmap(&iommu, DOMAIN, w + 0x8000, w + 0xffff), OK);
	claim_end();

	begin("map_of_the_doorbell_needs_the_mmio_flag");
	claim_check("without", iommu_map(&iommu, DOMAIN, w, w + PAGE - 1, BOARD_DOORBELL & ~(PAGE - 1),
					 VIRTIO_IOMMU_MAP_F_WRITE),
		    FAULT);
	claim_check("with", iommu_map(&iommu, DOMAIN, w, w + PAGE - 1, BOARD_DOORBELL & ~(PAGE - 1),
				      VIRTIO_IOMMU_MAP_F_WRITE | VIRTIO_IOMMU_MAP_F_MMIO),
		    OK);
	claim_check("beside data in the same frame", map_page(w + PAGE), OK);
	claim_check("and unmapped", iommu_unmap(&iommu, DOMAIN, w, w + FRAME - 1), OK);
	restart(IOMMU_FEATURES & ~(1ull << VIRTIO_IOMMU_F_MMIO));
	claim_check("attach", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
	claim_check("an unknown flag without the feature",
		    iommu_map(&iommu, DOMAIN, w, w + PAGE - 1, gpa, IOMMU_RW | VIRTIO_IOMMU_MAP_F_MMIO),
		    INVAL);
	claim_end();
}

static void check_map_reserved(void)
{
	const struct virtio_iommu_probe_resv_mem *resv;
	const uint64_t gpa = machine.ram_base & ~(PAGE - 1);

	begin("map_over_a_reserved_region_is_inval");
	claim_check("probe", iommu_probe(&iommu, ep), OK);
	for (unsigned i = 0; (resv = iommu_resv(&iommu, i)); i++) {
		uint64_t start = resv->start, end = resv->end;

		/* what lies outside input_range is refused for that */
		if (start < iommu.input_start || end > iommu.input_end)
			continue;
		claim_check_at("its first page", i, iommu_map(&iommu, DOMAIN, start, start + PAGE - 1, gpa, 1),
			       INVAL);
		claim_check_at("its last page", i, iommu_map(&iommu, DOMAIN, end - PAGE + 1, end, gpa, 1),
			       INVAL);
		if (start > iommu.input_start)
			claim_check_at("into it from below", i,
				       iommu_map(&iommu, DOMAIN, start - PAGE, start + PAGE - 1, gpa, 1),
				       INVAL);
	}
	claim_end();
}

/* Ranges in pages, inclusive, as in the table of the "UNMAP request" section. */
static void check_unmap(void)
{
	static const struct {
		uint8_t nr_maps, map[2][2], unmap[2];
		unsigned want;
		uint8_t gone[2]; /* of each mapping */
	} rows[] = {
		{0, {}, {0, 4}, OK, {}},
		{1, {{0, 9}}, {0, 9}, OK, {1}},
		{2, {{0, 4}, {5, 9}}, {0, 9}, OK, {1, 1}},
		{1, {{0, 9}}, {0, 4}, RANGE, {0}},
		{2, {{0, 4}, {5, 9}}, {0, 4}, OK, {1, 0}},
		{1, {{0, 4}}, {0, 9}, OK, {1}},
		{2, {{0, 4}, {10, 14}}, {0, 14}, OK, {1, 1}},
		/* and the rule behind them, from the other side */
		{1, {{0, 9}}, {5, 9}, RANGE, {0}},
		{1, {{0, 9}}, {3, 6}, RANGE, {0}},
		{2, {{0, 4}, {10, 14}}, {0, 12}, RANGE, {0, 0}},
	};
	const uint64_t w = WINDOW, gpa = gpa_of(buffer);

	begin("unmap_table_of_the_specification");
	for (unsigned i = 0; i < NR(rows); i++) {
		for (unsigned j = 0; j < rows[i].nr_maps; j++)
			claim_check_at("map", i,
				       iommu_map(&iommu, DOMAIN, w + rows[i].map[j][0] * PAGE,
						 w + rows[i].map[j][1] * PAGE + PAGE - 1, gpa, IOMMU_RW),
				       OK);
		claim_check_at("unmap", i,
			       iommu_unmap(&iommu, DOMAIN, w + rows[i].unmap[0] * PAGE,
					   w + rows[i].unmap[1] * PAGE + PAGE - 1),
			       rows[i].want);
		for (unsigned j = 0; j < rows[i].nr_maps; j++)
			claim_check_at("its mapping is as it should be", i,
				       map_page(w + rows[i].map[j][1] * PAGE),
				       rows[i].gone[j] ? OK : INVAL);
		claim_check_at("unmap the rest", i, iommu_unmap(&iommu, DOMAIN, w, w + 0xffff), OK);
	}
	claim_end();

	begin("unmap_of_everything_takes_everything");
	claim_check("map", map_page(w), OK);
	claim_check("map", map_page(w + 0x100000), OK);
	claim_check("unmap", iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	claim_check("gone", map_page(w), OK);
	claim_check("gone too", map_page(w + 0x100000), OK);
	claim_end();

	begin("unmap_of_an_unknown_domain_is_noent");
	claim_check("status", iommu_unmap(&iommu, DOMAIN2, w, w + PAGE - 1), NOENT);
	claim_end();

	begin("unmap_off_the_granule_is_ok_over_a_hole_and_range_over_a_mapping");
	claim_check("map", map_page(w), OK);
	claim_check("hole", iommu_unmap(&iommu, DOMAIN, w + 0x1003, w + 0x1803), OK);
	claim_check("part of it", iommu_unmap(&iommu, DOMAIN, w + 1, w + PAGE - 1), RANGE);
	claim_check("all but a byte", iommu_unmap(&iommu, DOMAIN, w, w + PAGE - 2), RANGE);
	claim_check("more than it", iommu_unmap(&iommu, DOMAIN, w - 5, w + PAGE + 5), OK);
	claim_check("gone", map_page(w), OK);
	claim_end();

	begin("unmap_with_end_before_start_removes_nothing");
	claim_check("map", map_page(w), OK);
	claim_check("refused", iommu_unmap(&iommu, DOMAIN, w + PAGE - 1, w) != OK, true);
	claim_check("still there", map_page(w), INVAL);
	claim_end();
}

static void check_many(void)
{
	const uint64_t gpa = gpa_of(buffer);
	const unsigned nr = 2048;

	/* four mappings of different pages in each frame, in an order that fills frames piecemeal */
	begin("thousands_of_mappings_come_and_go");
	for (unsigned i = 0; i < nr; i++) {
		unsigned at = i * 641 % nr;

		if (!claim_check_at("map", at,
				    iommu_map(&iommu, DOMAIN, WINDOW + at * PAGE,
					      WINDOW + at * PAGE + PAGE - 1, gpa + i % 16 * PAGE,
					      i % 3 + 1),
				    OK))
			break;
	}
	for (unsigned i = 0; i < nr / 2; i++) {
		unsigned at = i * 257 % nr;

		if (!claim_check_at("unmap", at,
				    iommu_unmap(&iommu, DOMAIN, WINDOW + at * PAGE,
						WINDOW + at * PAGE + PAGE - 1),
				    OK))
			break;
	}
	claim_check("the rest", iommu_unmap(&iommu, DOMAIN, 0, UINT64_MAX), OK);
	claim_check("all is free", iommu_map(&iommu, DOMAIN, WINDOW, WINDOW + 0xffff, gpa, IOMMU_RW), OK);
	claim_end();
}

/* ---- framing -------------------------------------------------------------------------------- */

static void check_framing(void)
{
	static const uint8_t unknown[] = {0, 6, 7, 0x80, 0xff};
	static const uint8_t sizes[] = {0, VIRTIO_IOMMU_T_ATTACH, VIRTIO_IOMMU_T_DETACH, VIRTIO_IOMMU_T_MAP,
					VIRTIO_IOMMU_T_UNMAP};
	static const uint8_t lengths[] = {0, 20, 20, 36, 28};
	struct virtio_iommu_req_map map = {
		.head.type = VIRTIO_IOMMU_T_MAP,
		.domain = DOMAIN,
		.virt_start = WINDOW,
		.virt_end = WINDOW + PAGE - 1,
		.phys_start = gpa_of(buffer),
		.flags = IOMMU_RW,
	};
	uint8_t req[80] = {0}, tail[4];
	struct seg segs[VQ_SIZE] = {
		{.at = req, .len = sizeof(req)},
		{.at = tail, .len = sizeof(tail), .write = true},
	};
	unsigned n = 0;

	begin("unknown_request_types_are_returned_unwritten");
	for (unsigned i = 0; i < NR(unknown); i++) {
		req[0] = unknown[i];
		memset(tail, 0xee, sizeof(tail));
		claim_check_at("used.len of type", req[0], (uint64_t)vq_request(&iommu.dev, 0, segs, 2), 0);
		claim_check_at("tail of type", req[0], tail[0], 0xee);
	}
	claim_check("the queue goes on", map_page(WINDOW), OK);
	claim_end();

	begin("requests_too_short_are_returned_unwritten");
	for (unsigned i = 1; i < NR(sizes); i++) {
		req[0] = sizes[i];
		for (unsigned len = 1; len < lengths[i]; len += 6) {
			segs[0].len = len;
			memset(tail, 0xee, sizeof(tail));
			claim_check_at("used.len of type", req[0],
				       (uint64_t)vq_request(&iommu.dev, 0, segs, 2), 0);
			claim_check_at("tail of type", req[0], tail[0], 0xee);
		}
	}
	claim_check("the queue goes on", map_page(WINDOW), OK);
	claim_end();

	begin("requests_without_room_for_a_tail_are_returned_unwritten");
	memcpy(req, &map, 36);
	segs[0].len = 36;
	for (unsigned room = 0; room < 4; room++) {
		segs[1].len = room;
		memset(tail, 0xee, sizeof(tail));
		claim_check_at("used.len with room", room,
			       (uint64_t)vq_request(&iommu.dev, 0, segs, room ? 2 : 1), 0);
		claim_check_at("tail with room", room, tail[0], 0xee);
	}
	claim_check("nothing was mapped", map_page(WINDOW), OK);
	claim_end();

	begin("requests_in_many_pieces_are_gathered");
	for (unsigned i = 0; i < 36; i++)
		segs[n++] = (struct seg){.at = req + i, .len = 1};
	for (unsigned i = 0; i < 4; i++)
		segs[n++] = (struct seg){.at = tail + i, .len = 1, .write = true};
	memset(tail, 0xee, sizeof(tail));
	claim_check("used.len", (uint64_t)vq_request(&iommu.dev, 0, segs, n), 4);
	claim_check("status", tail[0] | tail[1] | tail[2] | tail[3], OK);
	claim_check("it was carried out", map_page(WINDOW), INVAL);
	claim_end();
}

static void check_batch(void)
{
	static struct {
		struct virtio_iommu_req_map map;
		struct virtio_iommu_req_tail tail;
	} batch[16];
	static struct virtio_iommu_req_unmap unmap;
	struct vq *vq = &iommu.dev.vq[0];
	struct seg segs[2] = {{.len = 36}, {.len = 4, .write = true}};
	uint32_t head, len;

	begin("one_kick_carries_out_many_requests_in_order");
	for (unsigned i = 0; i < NR(batch); i++) {
		/* each second one overlaps the one before it */
		batch[i].map = (struct virtio_iommu_req_map){
			.head.type = VIRTIO_IOMMU_T_MAP,
			.domain = DOMAIN,
			.virt_start = WINDOW + i / 2 * PAGE,
			.virt_end = WINDOW + i / 2 * PAGE + PAGE - 1,
			.phys_start = gpa_of(buffer),
			.flags = IOMMU_RW,
		};
		batch[i].tail.status = 0xee;
		segs[0].at = &batch[i].map;
		segs[1].at = &batch[i].tail;
		vq_add(vq, segs, 2);
	}
	unmap = (struct virtio_iommu_req_unmap){
		.head.type = VIRTIO_IOMMU_T_UNMAP,
		.domain = DOMAIN,
		.virt_end = UINT64_MAX,
	};
	segs[0] = (struct seg){.at = &unmap, .len = 28};
	segs[1].at = &unmap.tail;
	unmap.tail.status = 0xee;
	vq_add(vq, segs, 2);
	vq_kick(&iommu.dev, vq);
	for (unsigned i = 0; i < NR(batch) + 1; i++) {
		if (!claim_check_at("answer", i, vq_wait(vq, &head, &len), true))
			break;
		claim_check_at("order", i, head, i * 2);
		claim_check_at("used.len", i, len, 4);
	}
	for (unsigned i = 0; i < NR(batch); i++)
		claim_check_at("status", i, batch[i].tail.status, i % 2 ? INVAL : OK);
	claim_check("unmap", unmap.tail.status, OK);
	claim_check("all is free", map_page(WINDOW), OK);
	claim_end();
}

/* ---- a bad driver --------------------------------------------------------------------------- */

static struct virtio_iommu_req_map bad_req;

/* A request that is right but for what @spoil does to the ring; then the device must still be there. */
static void spoiled(unsigned row, void (*spoil)(struct vq *vq, uint16_t head))
{
	struct vq *vq = &iommu.dev.vq[0];
	struct seg segs[2] = {
		{.at = &bad_req, .len = 36},
		{.at = (uint8_t *)&bad_req + 36, .len = 4, .write = true},
	};
	uint16_t head;

	bad_req = (struct virtio_iommu_req_map){
		.head.type = VIRTIO_IOMMU_T_MAP,
		.domain = DOMAIN,
		.virt_start = WINDOW,
		.virt_end = WINDOW + PAGE - 1,
		.phys_start = gpa_of(buffer),
	};
	head = vq_add(vq, segs, 2);
	spoil(vq, head);
	vq_kick(&iommu.dev, vq);
	/* whatever came of it, a reset brings the device back */
	if (restart(IOMMU_FEATURES))
		claim_check_at("attach after", row, iommu_attach(&iommu, DOMAIN, ep, 0), OK);
}

static void spoil_read_nowhere(struct vq *vq, uint16_t head)
{
	vq->desc[head].addr = BOARD_NOWHERE;
}

static void spoil_write_nowhere(struct vq *vq, uint16_t head)
{
	vq->desc[head + 1].addr = BOARD_NOWHERE;
}

static void spoil_write_device(struct vq *vq, uint16_t head)
{
	vq->desc[head + 1].addr = BOARD_GICD;
}

static void spoil_wrap(struct vq *vq, uint16_t head)
{
	vq->desc[head].addr = UINT64_MAX - 3;
}

static void spoil_past_ram(struct vq *vq, uint16_t head)
{
	vq->desc[head].addr = machine.ram_base + machine.ram_len - 4;
}

static void spoil_huge(struct vq *vq, uint16_t head)
{
	vq->desc[head].len = UINT32_MAX;
}

static void spoil_loop(struct vq *vq, uint16_t head)
{
	vq->desc[head].next = head;
}

static void spoil_long_loop(struct vq *vq, uint16_t head)
{
	vq->desc[head + 1].flags |= VRING_DESC_F_NEXT;
	vq->desc[head + 1].next = head;
}

static void spoil_next(struct vq *vq, uint16_t head)
{
	vq->desc[head].next = 0xffff;
}

static void spoil_head(struct vq *vq, uint16_t head)
{
	(void)head;
	vq->avail->ring[0] = 0xfff0;
}

static void spoil_idx(struct vq *vq, uint16_t head)
{
	(void)head;
	vq->avail->idx = (uint16_t)(vq->avail->idx + 30000);
}

static void spoil_order(struct vq *vq, uint16_t head)
{
	vq->desc[head].flags |= VRING_DESC_F_WRITE;
	vq->desc[head + 1].flags = 0;
}

static void spoil_indirect_loop(struct vq *vq, uint16_t head)
{
	vq->desc[head].addr = gpa_of(vq->desc);
	vq->desc[head].len = 16 * VQ_SIZE;
	vq->desc[head].flags = VRING_DESC_F_INDIRECT;
}

static void spoil_indirect_odd(struct vq *vq, uint16_t head)
{
	vq->desc[head].len = 17;
	vq->desc[head].flags = VRING_DESC_F_INDIRECT;
}

static void spoil_indirect_huge(struct vq *vq, uint16_t head)
{
	vq->desc[head].len = 0xfffffff0;
	vq->desc[head].flags = VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT;
}

static void spoil_empty(struct vq *vq, uint16_t head)
{
	vq->desc[head].len = 0;
	vq->desc[head + 1].len = 0;
}

static void spoil_queue_nowhere(struct vq *vq, uint16_t head)
{
	struct vdev *dev = &iommu.dev;

	(void)vq;
	(void)head;
	/* a queue set up afresh, its rings where there is no RAM */
	vdev_reset(dev);
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, 1);
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, 3);
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	vdev_set_reg(dev, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, 11);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_NUM, 0xffff);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffffffff);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_AVAIL_LOW, BOARD_NOWHERE);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_USED_LOW, 3);
	vdev_set_reg(dev, VIRTIO_MMIO_QUEUE_READY, 1);
	vdev_set_reg(dev, VIRTIO_MMIO_STATUS, 15);
}

static void check_bad_driver(void)
{
	static void (*const spoils[])(struct vq *, uint16_t) = {
		spoil_read_nowhere, spoil_write_nowhere, spoil_write_device, spoil_wrap,
		spoil_past_ram,	    spoil_huge,		 spoil_loop,	     spoil_long_loop,
		spoil_next,	    spoil_head,		 spoil_idx,	     spoil_order,
		spoil_indirect_loop, spoil_indirect_odd, spoil_indirect_huge, spoil_empty,
		spoil_queue_nowhere,
	};

	begin("spoiled_rings_are_survived");
	for (unsigned i = 0; i < NR(spoils); i++)
		spoiled(i, spoils[i]);
	claim_check("and work again", map_page(WINDOW), OK);
	claim_end();

	begin("register_writes_of_every_kind_are_survived");
	for (unsigned off = 0; off < 0x200; off += 4) {
		mmio_write32(iommu.dev.base + off, 0xffffffff);
		mmio_write32(iommu.dev.base + off, 0);
		mmio_write8(iommu.dev.base + off, 0xff);
		mmio_write16(iommu.dev.base + off + 2, 0xffff);
	}
	restart(IOMMU_FEATURES);
	set_bypass(0);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
	claim_check("map", map_page(WINDOW), OK);
	claim_end();
}

static volatile bool stop_scribbling, scribbling;

/* Changes descriptors while the device reads them. */
static void scribble(void *arg)
{
	volatile struct vring_desc *desc = arg;
	uint32_t seed = 1;

	scribbling = true;
	while (!stop_scribbling) {
		seed = seed * 1103515245 + 12345;
		desc[seed >> 16 & 3].len = seed >> 8 & 63;
		seed = seed * 1103515245 + 12345;
		desc[seed >> 16 & 3].flags = seed >> 20 & 7;
		desc[seed >> 18 & 3].next = seed >> 24 & 127;
		/* only the buffer or no RAM at all: the device may well write there */
		desc[seed >> 17 & 3].addr = seed & 1 << 20 ? gpa_of(buffer) : (uint64_t)seed << 36;
	}
	scribbling = false;
}

static void check_race(void)
{
	const char *name = "descriptors_that_change_under_way_are_survived";
	uint64_t end;

	if (machine.nr_cpus < 2) {
		claim_skip(name, "needs a second vCPU");
		return;
	}
	begin(name);
	stop_scribbling = false;
	claim_check("second vCPU", (uint64_t)cpu_start(1, machine.mpidr[1], scribble, iommu.dev.vq[0].desc),
		    PSCI_SUCCESS);
	for (end = now_us() + VQ_TIMEOUT_US; !scribbling && now_us() < end;)
		;
	for (unsigned i = 0; i < 3000; i++) {
		struct vq *vq = &iommu.dev.vq[0];
		struct seg segs[2] = {
			{.at = &bad_req, .len = 36},
			{.at = (uint8_t *)&bad_req + 36, .len = 4, .write = true},
		};

		vq->next_desc = 0;
		vq_add(vq, segs, 2);
		vq_kick(&iommu.dev, vq);
		if (i % 64 == 63)
			restart(IOMMU_FEATURES);
	}
	stop_scribbling = true;
	for (end = now_us() + VQ_TIMEOUT_US; scribbling && now_us() < end;)
		;
	restart(IOMMU_FEATURES);
	claim_check("attach", iommu_attach(&iommu, DOMAIN, ep, 0), OK);
	claim_check("map", map_page(WINDOW), OK);
	claim_end();
}

void payload(void)
{
	struct edu edu;

	if (dtb_read(boot_dtb, &machine)) {
		print("FAIL viommu: the device tree cannot be read\n");
		return;
	}
	if (!edu_find(0, &edu)) {
		print("FAIL viommu: there is no edu device to attach\n");
		return;
	}
	ep = edu.rid;
	has_ep2 = edu_find(1, &edu);
	ep2 = edu.rid;

	check_features();
	check_config();
	check_bypass_config();
	check_probe();
	check_attach();
	check_attach_two();
	check_detach();
	check_map();
	check_map_reserved();
	check_unmap();
	check_many();
	check_framing();
	check_batch();
	check_bad_driver();
	check_race();
	vdev_reset(&iommu.dev);
}
