/* SPDX-License-Identifier: Apache-2.0 */
/* What is shown of a VM that runs: taken from a mediator, checked, as text, JSON and picture. */
#include "iommu/tests/check.h"

#include <math.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iommu/base.h"
#include "iommu/tests/fake_instance.h"
#include "vmm/svg.h"
#include "vmm/view.h"

#define G	 0x1000ull
#define H	 0x4000ull
#define RAM	 0x40000000ull
#define RAM_LEN	 0x100000ull
#define APERTURE 0xffffffffull

#define TEXT_MAX (8u << 20)

static char text[TEXT_MAX];

/* ---- taking ---- */

static void what_a_mediator_has_is_taken_and_sound(void **state)
{
	struct gmem gmem = {0};
	uint8_t *ram = aligned_alloc(0x10000, RAM_LEN);
	struct fake_instance *inst = calloc(1, sizeof(*inst));
	const struct mediator_cfg cfg = {.gmem = &gmem,
					 .guest_granule = G,
					 .pool_limit = 64 * 2 * H,
					 .max_domains = 8,
					 .max_mappings = 100,
					 .doorbell = {0x01030000, 0x0103ffff}};
	const struct stream one = {.inst = &inst->inst};
	struct endpoint_cfg ep = {.name = "0000:00:02.0",
				  .streams = &one,
				  .nr_streams = 1,
				  .sync = SYNC_RINGS,
				  .hold = true};
	const struct mapping map = {H + G, 3 * H + G - 1, RAM, MAP_READ};
	struct view_domain dom = {0}, none = {0};
	struct view_piece piece = {0};
	struct view_vm vm = {0};
	struct endpoint *out;
	struct mediator *m;

	(void)state;
	memset(ram, 0, RAM_LEN);
	assert_int_equal(gmem_add(&gmem, RAM, RAM_LEN, ram), 0);
	assert_int_equal(mediator_create(&cfg, &m), 0);
	fake_init(inst, H, 0, APERTURE);
	inst->inst.kind = NULL;
	for (ep.id = 8; ep.id < 10; ep.id++)
		assert_int_equal(mediator_add_endpoint(m, &ep, &out), 0);
	assert_int_equal(mediator_attach(m, 5, 8, false), 0);
	assert_int_equal(mediator_map(m, 5, &map), 0);

	view_take_vm(m, G, cfg.pool_limit, &vm);
	assert_true(view_vm_sound(&vm));
	assert_int_equal(vm.nr_endpoints, 2);
	assert_int_equal(vm.nr_instances, 1); /* both master through it */
	assert_string_equal(vm.endpoints[0].name, "0000:00:02.0");
	assert_true(vm.endpoints[0].attached && vm.endpoints[0].domain == 5);
	assert_false(vm.endpoints[1].attached);
	assert_int_equal(vm.endpoints[0].nr_resv, 1);
	assert_int_equal(vm.endpoints[0].resv[0].msi, 1);
	assert_int_equal(vm.frame_size, H);
	assert_int_equal(vm.bounce_bytes, 3 * 2 * H);
	view_take_domain(m, 1, &dom);
	assert_true(dom.found && dom.id == 5 && dom.mappings == 1);
	view_take_domain(m, 6, &none);
	assert_false(none.found);
	view_take_piece(m, 5, 0, &piece);
	assert_true(piece.found && !piece.more && view_piece_sound(&piece, 0));
	assert_int_equal(piece.nr, 1);
	assert_int_equal(piece.v[0].slots, 8);
	piece = (struct view_piece){0};
	view_take_piece(m, 6, 0, &piece);
	assert_false(piece.found);
	mediator_destroy(m);
	free(inst);
	free(ram);
}

/* ---- soundness ---- */

static const struct view_vm some_vm = {
	.seconds = 12.5,
	.viommu = 1,
	.granule = G,
	.frame_size = H,
	.pool_limit = 576ull << 20,
	.bounce_bytes = 3 << 20,
	.range = {0, 0xffffffffffull},
	.nr_endpoints = 3,
	.nr_instances = 2,
	.endpoints =
		{
			{.name = "0000:00:02.0",
			 .id = 8,
			 .attached = 1,
			 .domain = 1,
			 .sync = SYNC_RINGS,
			 .trap = TRAP_ON,
			 .told = 1,
			 .nr_streams = 1,
			 .nr_resv = 2,
			 .resv = {{0x8000000, 0x80fffff, 0}, {0x9000000, 0x900ffff, 1}}},
			{.name = "sim-nvme<0>&\"1\"",
			 .id = 16,
			 .attached = 1,
			 .domain = 1,
			 .sync = SYNC_FULL,
			 .hold = 1,
			 .trap = TRAP_OFF,
			 .told = 1,
			 .nr_streams = 2,
			 .streams = {{1, 3}, {1, 4}}},
			{.name = "0000:00:03.0", .id = 24, .sync = SYNC_NONE, .nr_streams = 1},
		},
	.instances = {{.kind = "VFIO",
		       .name = "IOMMU group 3",
		       .granule = H,
		       .nr_streams = 1,
		       .exclusive = 1,
		       .nr_apertures = 2,
		       .apertures = {{0, 0x7ffffff}, {0x8100000, 0xffffffffffull}}},
		      {.kind = "DART", .name = "sim-dart0.0", .granule = H, .nr_streams = 16}},
};

static void what_no_vm_would_say_is_not_believed(void **state)
{
	struct view_vm vm = some_vm;

	(void)state;
	assert_true(view_vm_sound(&vm));
#define REFUSED(change)                                                                            \
	vm = some_vm;                                                                              \
	change;                                                                                    \
	assert_false(view_vm_sound(&vm))
	REFUSED(vm.seconds = INFINITY);
	REFUSED(vm.granule = 0);
	REFUSED(vm.frame_size = 3 * G);
	REFUSED(vm.frame_size = G / 2);
	REFUSED(vm.frame_size = UINT64_C(1) << 31);
	REFUSED(vm.nr_endpoints = VIEW_MAX_ENDPOINTS + 1);
	REFUSED(vm.nr_instances = VIEW_MAX_INSTANCES + 1);
	REFUSED(vm.endpoints[1].name[3] = '\033');
	REFUSED(memset(vm.endpoints[2].name, 'x', sizeof(vm.endpoints[2].name)));
	REFUSED(vm.endpoints[0].sync = SYNC_FULL + 1);
	REFUSED(vm.endpoints[0].trap = TRAP_OFF_LONG + 1);
	REFUSED(vm.endpoints[0].nr_streams = MEDIATOR_MAX_STREAMS + 1);
	REFUSED(vm.endpoints[1].streams[1].instance = 2);
	REFUSED(vm.instances[1].kind[0] = '\n');
	REFUSED(vm.instances[0].nr_apertures = INSTANCE_MAX_APERTURES + 1);
	REFUSED(memset(vm.instances[0].name, 'x', sizeof(vm.instances[0].name)));
}

static void pieces_ascend_and_go_on(void **state)
{
	const struct view_piece good = {
		.found = 1,
		.more = 1,
		.at = 3 * H,
		.nr = 2,
		.v = {{.start = 0, .last = H - 1, .linear = true},
		      {.start = 2 * H, .last = 3 * H - 1, .class = STRETCH_PARKED}}};
	struct view_piece piece = good;

	(void)state;
	assert_true(view_piece_sound(&piece, 0));
#undef REFUSED
#define REFUSED(change)                                                                            \
	piece = good;                                                                              \
	change;                                                                                    \
	assert_false(view_piece_sound(&piece, 0))
	REFUSED(piece.nr = VIEW_MAX_STRETCHES + 1);
	REFUSED(piece.at = 3 * H - 1);
	REFUSED(piece.v[1].start = H - 1);
	REFUSED(piece.v[1].last = H);
	REFUSED(piece.v[0].class = NR_STRETCH_CLASSES);
	REFUSED(piece.v[0].rights = 4);
	REFUSED(memset(&piece.v[0].linear, 2, 1));
	REFUSED(memset(&piece.v[0].mixed, 0x80, 1));
	REFUSED(piece.v[0].last = UINT64_MAX);
	piece = good;
	assert_false(view_piece_sound(&piece, H)); /* before what was asked for */
}

/* ---- showing ---- */

static void add(struct view_map *map, struct stretch s)
{
	assert_int_equal(view_map_add(map, &s, true), 0);
}

/* @nr bounced pages side by side, from all over guest memory */
static void add_scattered(struct view_map *map, uint64_t iova, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		add(map, (struct stretch){.start = iova + i * H,
					  .last = iova + (i + 1) * H - 1,
					  .iova = iova + i * H,
					  .gpa = RAM + i * 7919 % 1000 * G,
					  .slots = 2,
					  .class = STRETCH_BOUNCE,
					  .rights = MAP_READ | MAP_WRITE,
					  .linear = true});
}

static void add_each(struct view_map *map)
{
	add(map,
	    (struct stretch){0x10000, 0x13fff, 0x11000, RAM + G, 1, STRETCH_BARE, 0, false, true});
	add_scattered(map, 0x100000, 1000);
	add(map, (struct stretch){0xf0000000, 0xf7ffffff, 0xf0000000, RAM, 32768, STRETCH_DIRECT,
				  MAP_READ, false, true});
	add(map, (struct stretch){0xf8000000, 0xf8003fff, 0xf8001000, RAM + 5 * G, 2,
				  STRETCH_WINDOW, MAP_WRITE, false, true});
	add(map, (struct stretch){0xf8004000, 0xf8007fff, 0xf8004000, RAM, 3, STRETCH_EXPOSED,
				  MAP_READ, false, true});
	add(map, (struct stretch){0xf8008000, 0xf800ffff, 0, 0, 0, STRETCH_PARKED, 0, false, true});
	add(map, (struct stretch){0xffffffffc000, 0xffffffffffff, 0, 0, 0, STRETCH_QUARANTINED, 0,
				  false, true});
}

static const struct view_domain some_domain = {
	.found = 1, .id = 1, .nr_endpoints = 2, .needs_sync = 1, .mappings = 2003};

static void check_columns(void)
{
	for (char *line = text; *line;) {
		char *end = strchr(line, '\n');

		assert_non_null(end);
		assert_true(end - line <= 100);
		line = end + 1;
	}
}

static void the_text_folds_a_thousand_frames_into_a_line(void **state)
{
	FILE *file = fmemopen(text, sizeof(text), "w");
	struct view_map map = {0};

	(void)state;
	add_each(&map);
	assert_int_equal(map.nr, 7);
	assert_int_equal(map.pieces[1], 1000);
	view_print_vm(file, 4711, &some_vm);
	view_print_domain(file, &some_vm, &some_domain, &map);
	fclose(file);
	view_map_clear(&map);
	check_columns();
	assert_non_null(strstr(text, "process 4711, 12.5 s: virtio-iommu, guest granule 4 KiB, "
				     "frames of 16 KiB\n"));
	assert_non_null(strstr(text, "bounce pages and their twins 3 MiB of 576 MiB\n"));
	assert_non_null(strstr(text, "instance IOMMU group 3: VFIO, granule 16 KiB, 1 stream, one "
				     "table\n  reaches 0x0-0x7ffffff\n"));
	assert_non_null(strstr(text, "endpoint 0x0008  0000:00:02.0, which the guest has at "
				     "00:01.0\n  domain 1, trapped, sync=rings, hold=off, "
				     "exposure=strict\n  stream 0 of IOMMU group 3\n"));
	assert_non_null(strstr(text, "  reserved 0x9000000-0x900ffff (MSI doorbell)\n"));
	assert_non_null(strstr(text, "  domain 1, direct, sync=full, hold=on"));
	assert_non_null(strstr(text, "  in no domain, direct, sync=none"));
	assert_non_null(strstr(text, "domain 1, endpoints 0x0008 0x0010: 2003 mappings, synced\n"));
	assert_non_null(strstr(text, "  0x000000100000-0x00000109ffff  15.6 MiB  bounce      rw  "
				     "      2000/4000  0x40000000 and others\n"));
	assert_non_null(strstr(text, "  128 MiB  direct      r- "));
	assert_non_null(strstr(text, "bounce pages 15.7 MiB, and as much of twins\n"));
}

static int run(const char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_json_has_every_stretch(void **state)
{
	FILE *file = fmemopen(text, sizeof(text), "w");
	const struct view_domain bypass = {.found = 1, .id = 2, .bypass = 1};
	struct view_map map = {0}, none = {0};
	struct stretch s = {0, H - 1, 0, RAM, 4, STRETCH_BOUNCE, MAP_READ, true, false};

	(void)state;
	assert_int_equal(view_map_add(&map, &s, false), 0);
	s = (struct stretch){H, 2 * H - 1, H, RAM, 4, STRETCH_BOUNCE, MAP_READ, true, false};
	assert_int_equal(view_map_add(&map, &s, false), 0);
	assert_int_equal(map.nr, 2);
	view_json_begin(file, 4711, &some_vm);
	view_json_domain(file, &some_domain, &map, true);
	view_json_domain(file, &bypass, &none, false);
	view_json_end(file);
	fclose(file);
	view_map_clear(&map);
	assert_non_null(strstr(text, "{\"id\": 1, \"bypass\": false, \"mappings\": 2003"));
	assert_non_null(strstr(text,
			       "{\"start\": \"0x0\", \"last\": \"0x3fff\", \"class\": \"bounce\", "
			       "\"slots\": 4, \"rights\": \"r-\", \"mixed\": true, \"linear\": "
			       "false, \"iova\": \"0x0\", \"gpa\": \"0x40000000\"},\n"));
	assert_non_null(strstr(text, "\"name\": \"sim-nvme<0>&\\\"1\\\"\""));
	assert_non_null(strstr(text, "{\"id\": 2, \"bypass\": true"));
}

/* A parser that is not ours finds it well-formed. Return: its length. */
static size_t draw(const struct view_map *map, const char *name)
{
	char path[64];
	const char *const lint[] = {"xmllint", "--noout", "--nonet", path, NULL};
	struct svg *svg;
	size_t len;
	FILE *file;

	snprintf(path, sizeof(path), "/tmp/test_view.%d.%s.svg", (int)getpid(), name);
	file = fopen(path, "w+");
	assert_non_null(file);
	assert_int_equal(svg_begin(file, 4711, &some_vm, &svg), 0);
	assert_int_equal(svg_add_domain(svg, &some_domain, map), 0);
	assert_int_equal(
		svg_add_domain(svg, &(struct view_domain){.found = 1, .id = 9, .bypass = 1}, map),
		0);
	svg_end(svg);
	rewind(file);
	len = fread(text, 1, sizeof(text) - 1, file);
	text[len] = '\0';
	fclose(file);
	assert_int_equal(run(lint), 0);
	/* SHOW=1: keep them to be looked at. */
	if (!getenv("SHOW"))
		unlink(path);
	assert_null(strstr(text, "<script"));
	assert_null(strstr(text, "href"));
	assert_null(strstr(text, "nan"));
	assert_null(strstr(text, "inf\""));
	return len;
}

static unsigned count(const char *what)
{
	unsigned nr = 0;

	for (const char *at = text; (at = strstr(at, what)); at++)
		nr++;
	return nr;
}

static void the_picture_has_every_stretch_and_says_what_it_is(void **state)
{
	struct view_map map = {0};

	(void)state;
	add_each(&map);
	draw(&map, "each");
	view_map_clear(&map);
	assert_non_null(strstr(text, "<title>0x100000-0x109ffff\nbounce, 15.6 MiB\nrights rw, 2000 "
				     "of 4000 slots mapped\nfirst at gpa 0x40000000, and elsewhere"
				     "</title>"));
	assert_non_null(strstr(text, "sim-nvme&lt;0&gt;&amp;&quot;1&quot;"));
	assert_int_equal(count("<title>hole, "), 3);
	/* One in the legend, one in its place. */
	assert_int_equal(count("class=\"c1\"/>"), 2);
	assert_int_equal(count("class=\"c5\"/>"), 2);
	assert_non_null(strstr(text, "domain 9: bypass"));
}

static void a_hundred_thousand_frames_are_a_picture_of_bounded_size(void **state)
{
	struct view_map map = {0};
	unsigned seed = 1;

	(void)state;
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t iova = (i + i / 5000 * 100000ull) * H;

		seed = seed * 1103515245 + 12345;
		add(&map, (struct stretch){.start = iova,
					   .last = iova + H - 1,
					   .iova = iova,
					   .gpa = RAM + seed % 4096 * G,
					   .slots = 4,
					   .class = i / 20000 == 1	? (seed >> 16) % 6
						    : (seed >> 16) % 20 ? STRETCH_BOUNCE
									: STRETCH_DIRECT,
					   .rights = MAP_READ,
					   .linear = true});
	}
	assert_true(map.nr > 20000);
	assert_true(draw(&map, "many") < (2u << 20));
	view_map_clear(&map);
	assert_true(count("<title>") > 1000);
}

/* Frames that are large and stretches that are tiny: few pixels, and all of them wide. */
static void tiny_stretches_are_a_picture_of_bounded_size(void **state)
{
	struct view_map map = {0};

	(void)state;
	for (unsigned i = 0; i < 50000; i++)
		add(&map, (struct stretch){.start = i * 64,
					   .last = i * 64 + 63,
					   .iova = i * 64,
					   .gpa = RAM,
					   .slots = 1,
					   .class = i % 2 ? STRETCH_BARE : STRETCH_BOUNCE,
					   .linear = true});
	assert_int_equal(map.nr, 50000);
	assert_true(draw(&map, "tiny") < (2u << 20));
	view_map_clear(&map);
}

static void the_ends_of_the_space_can_be_drawn(void **state)
{
	struct view_map map = {0};

	(void)state;
	draw(&map, "empty");
	add(&map, (struct stretch){0, G - 1, 0, RAM, 1, STRETCH_BARE, 0, false, true});
	add(&map, (struct stretch){UINT64_MAX - H + 1, UINT64_MAX, UINT64_MAX - H + 1, RAM, 4,
				   STRETCH_DIRECT, MAP_READ, false, true});
	draw(&map, "ends");
	view_map_clear(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_mediator_has_is_taken_and_sound),
		cmocka_unit_test(what_no_vm_would_say_is_not_believed),
		cmocka_unit_test(pieces_ascend_and_go_on),
		cmocka_unit_test(the_text_folds_a_thousand_frames_into_a_line),
		cmocka_unit_test(the_json_has_every_stretch),
		cmocka_unit_test(the_picture_has_every_stretch_and_says_what_it_is),
		cmocka_unit_test(a_hundred_thousand_frames_are_a_picture_of_bounded_size),
		cmocka_unit_test(tiny_stretches_are_a_picture_of_bounded_size),
		cmocka_unit_test(the_ends_of_the_space_can_be_drawn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
