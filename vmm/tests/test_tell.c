/* SPDX-License-Identifier: Apache-2.0 */
/* What --verbose says, and that without it nothing is said. */
#include "iommu/tests/check.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/msg.h"
#include "vmm/tell.h"

static char text[1 << 16];
static int saved;
static FILE *caught;

static int catch_messages(void **state)
{
	(void)state;
	caught = tmpfile();
	saved = dup(STDERR_FILENO);
	dup2(fileno(caught), STDERR_FILENO);
	return 0;
}

static int let_go(void **state)
{
	(void)state;
	dup2(saved, STDERR_FILENO);
	close(saved);
	fclose(caught);
	msg_verbose(false);
	return 0;
}

static const char *said(void)
{
	size_t n;

	rewind(caught);
	n = fread(text, 1, sizeof(text) - 1, caught);
	text[n] = '\0';
	return text;
}

static const struct view_vm some_vm = {
	.viommu = 1,
	.granule = 4096,
	.frame_size = 16384,
	.pool_limit = 576ull << 20,
	.range = {0, 0xffffffff},
	.nr_endpoints = 1,
	.nr_instances = 1,
	.endpoints = {{.name = "0000:00:02.0",
		       .id = 8,
		       .sync = SYNC_RINGS,
		       .may_turn_full = 1,
		       .nr_streams = 1,
		       .nr_resv = 1,
		       .resv = {{0x9000000, 0x900ffff, 1}}}},
	.instances = {{.kind = "VFIO", .name = "IOMMU group 3", .granule = 16384}},
};

static void tell_all(void)
{
	const struct vm_config cfg = {.kernel = "vmlinuz", .vcpus = 2};
	const struct kernel_image kernel = {.format = "gzip", .page_size = 4096};
	const struct boot_plan plan = {.kernel_entry = 0x40200000, .fdt = 0x48000000};
	const struct gmem gmem = {.spans = {{0x40000000, 512ull << 20, NULL}}, .nr_spans = 1};
	const struct tell_guest guest = {.cfg = &cfg,
					 .host_page = 16384,
					 .ipa_bits = 42,
					 .kernel = &kernel,
					 .plan = &plan,
					 .gmem = &gmem,
					 .cmdline = "quiet"};

	tell_guest(&guest);
	tell_iommu(&some_vm, 4096);
	tell_iommu(&(struct view_vm){0}, 4096);
	for (unsigned kind = 0; kind < NR_EVENT_KINDS; kind++) {
		const struct mediator_event event = {
			.kind = (enum mediator_event_kind)kind, .domain = 3, .endpoint = 8};

		tell_event(&event);
	}
}

static void the_page_says_what_there_is_and_why(void **state)
{
	(void)state;
	msg_verbose(true);
	tell_all();
	said();
	assert_non_null(strstr(text, "granule: host: pages of 16 KiB; KVM gives guests 42 bits"));
	assert_non_null(strstr(text, "kernel vmlinuz: gzip, pages of 4 KiB, entry 0x40200000\n"));
	assert_non_null(strstr(text, "RAM 0x40000000-0x5fffffff: 512 MiB\n"));
	assert_non_null(strstr(text, "virtio-iommu: granule 4 KiB, which is the kernel's page; "
				     "frames of 16 KiB"));
	assert_non_null(strstr(text, "instance IOMMU group 3: VFIO, granule 16 KiB\n"));
	assert_non_null(strstr(text, "endpoint 0x0008: 0000:00:02.0, 00:01.0 in the guest; "
				     "sync=rings until its driver needs full, hold=off"));
	assert_non_null(strstr(text, "reserved 0x9000000-0x900ffff (MSI doorbell)\n"));
	assert_non_null(strstr(text, "no virtio-iommu: "));
	assert_non_null(strstr(text, "endpoint 00:01.0: attached to domain 3\n"));
	assert_non_null(strstr(text, "endpoint 00:01.0: trapped, "));
}

static void without_it_nothing_is_said(void **state)
{
	(void)state;
	tell_all();
	msg_tell("nothing");
	msg_notable("nothing");
	assert_string_equal(said(), "");
}

/* The guest chooses when: it must not fill a disk. The last test: the count is the process's. */
static void moments_are_bounded(void **state)
{
	unsigned nr = 0;

	(void)state;
	msg_verbose(true);
	for (unsigned i = 0; i < 10 * MSG_NOTABLE_MAX; i++)
		msg_notable("again");
	said();
	for (const char *at = text; (at = strchr(at, '\n')); at++)
		nr++;
	assert_true(nr > MSG_NOTABLE_MAX / 2 && nr <= MSG_NOTABLE_MAX + 1);
	assert_non_null(strstr(text, "further moments are not shown\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, catch_messages, let_go)
		TEST(the_page_says_what_there_is_and_why),
		TEST(without_it_nothing_is_said),
		TEST(moments_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
