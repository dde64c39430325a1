/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/layout.h"
#include "vmm/stats.h"

static char dir[] = "/tmp/test_stats.XXXXXX";
static char path[64];

static const struct stats some = {
	.seconds = 1.5,
	.exits = {[EXIT_KIND_UART] = 7, [EXIT_KIND_BAR] = 9},
	.viommu = true,
	.nr_endpoints = 1,
	.frame_size = 16384,
	.vfio = {.maps = 31, .unmaps = 32, .others = 33},
	.mediator = {.maps = 1234,
		     .bytes_to_guest = 5 << 20,
		     .bounce_frames = 77,
		     .bounce_live = 3,
		     .bounce_bytes_peak = 42},
};

static int in_a_directory(void **state)
{
	(void)state;
	strcpy(dir + sizeof(dir) - 7, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/stats", dir);
	return 0;
}

static int drop_directory(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir); /* fails if anything else was left behind */
}

static char *slurp(const char *name)
{
	static char text[4096];
	FILE *file = fopen(name, "r");
	size_t len;

	assert_non_null(file);
	len = fread(text, 1, sizeof(text) - 1, file);
	text[len] = '\0';
	fclose(file);
	return text;
}

static void the_table_names_what_was_done(void **state)
{
	char text[2048] = {0};
	FILE *file = fmemopen(text, sizeof(text), "w");

	(void)state;
	stats_print(file, &some);
	fclose(file);
	assert_non_null(strstr(text, "1234 made"));
	assert_non_null(strstr(text, "77 bounce"));
	assert_non_null(strstr(text, "5.0 MiB to the guest"));
	assert_non_null(strstr(text, "16.0 KiB frames"));
}

static const struct stats with_nets = {
	.nr_nets = 2,
	.nets = {{"tap0", {11, 2048, 33, 44, 55, 66}}, {"a\"b", {.rx_packets = 1}}},
};

static void a_network_has_a_line_with_every_count(void **state)
{
	char text[1024] = {0};
	FILE *file = fmemopen(text, sizeof(text), "w");

	(void)state;
	stats_print(file, &with_nets);
	fclose(file);
	assert_non_null(
		strstr(text, "granule: --net tap0: to the guest 11 packets (2.0 KiB), 33 dropped; "
			     "from it 44 (55 bytes), 66 dropped\n"));
}

static void a_network_has_an_object_with_every_count(void **state)
{
	struct stats stats = with_nets;
	char text[4096] = {0};
	FILE *file = fmemopen(text, sizeof(text), "w");

	(void)state;
	stats_since(&stats, &(struct stats){.nets = {{.counts = {1, 2, 3, 4, 5, 6}}}});
	stats_write_json(file, &stats);
	fclose(file);
	assert_non_null(strstr(text, "{\"tap\": \"tap0\", \"rx_packets\": 10, \"rx_bytes\": 2046, "
				     "\"rx_dropped\": 30, \"tx_packets\": 40, \"tx_bytes\": 50, "
				     "\"tx_dropped\": 60},\n"));
	assert_non_null(strstr(text, "{\"tap\": \"a\\u0022b\", \"rx_packets\": 1,"));
}

static void no_endpoint_no_table(void **state)
{
	char text[2048] = {0};
	FILE *file = fmemopen(text, sizeof(text), "w");
	struct stats stats = some;

	(void)state;
	stats.nr_endpoints = 0;
	stats_print(file, &stats);
	stats.nr_endpoints = 1;
	stats.viommu = false;
	stats_print(file, &stats);
	fclose(file);
	assert_string_equal(text, "");
}

static void the_live_table_has_exits_whatever_the_devices(void **state)
{
	struct stats stats = {.seconds = 3, .exits = {[EXIT_KIND_RTC] = 5}};
	char text[2048] = {0};
	FILE *file = fmemopen(text, sizeof(text), "w");

	(void)state;
	stats.exit_ns[EXIT_KIND_RTC] = 1500000000;
	stats_print_live(file, &stats);
	fclose(file);
	assert_string_equal(text, "granule: 3.0 s; exits of the guest: 5 rtc (1.500 s)\n");
	file = fmemopen(text, sizeof(text), "w");
	stats_print_live(file, &some);
	fclose(file);
	assert_non_null(strstr(text, "guest: 7 uart, 9 bar\n"));
	assert_non_null(strstr(text, "31 to map, 32 to unmap, 33 others"));
}

static void a_difference_keeps_what_tells_a_state(void **state)
{
	struct stats before = some, stats = some;

	(void)state;
	stats.seconds = 4;
	stats.exits[EXIT_KIND_BAR] += 3;
	stats.exit_ns[EXIT_KIND_BAR] = 100;
	stats.vfio.maps++;
	stats.vfio.unmaps += 2;
	stats.vfio.others += 3;
	stats.mediator.maps += 5;
	stats.mediator.faults_lost = 6;
	stats.mediator.bounce_live = 8;
	stats_since(&stats, &before);
	assert_true(stats.seconds > 2.4 && stats.seconds < 2.6);
	assert_int_equal(stats.exits[EXIT_KIND_BAR], 3);
	assert_int_equal(stats.exits[EXIT_KIND_UART], 0);
	assert_int_equal(stats.exit_ns[EXIT_KIND_BAR], 100);
	assert_int_equal(stats.vfio.maps, 1);
	assert_int_equal(stats.vfio.unmaps, 2);
	assert_int_equal(stats.vfio.others, 3);
	assert_int_equal(stats.mediator.maps, 5);
	assert_int_equal(stats.mediator.faults_lost, 6);
	assert_int_equal(stats.mediator.bounce_live, 8);
	assert_int_equal(stats.mediator.bounce_bytes_peak, 42);
	assert_int_equal(stats.mediator.bounce_frames, 0);
	assert_int_equal(stats.frame_size, 16384);
}

/* Open, write and close. Return: that of the first that failed. */
static int write_file(const char *name, const struct stats *stats)
{
	struct stats_file *file;
	int ret = stats_file_open(name, &file);

	if (ret)
		return ret;
	ret = stats_file_write(file, stats);
	stats_file_close(file);
	return ret;
}

static unsigned nr_files(void)
{
	struct dirent **list;
	int nr = scandir(dir, &list, NULL, NULL);

	assert_true(nr >= 2);
	for (int i = 0; i < nr; i++)
		free(list[i]);
	free(list);
	return (unsigned)nr - 2;
}

static void the_file_is_json_with_every_count(void **state)
{
	struct stat st;
	char *text;

	(void)state;
	assert_int_equal(write_file(path, &some), 0);
	text = slurp(path);
	assert_non_null(strstr(text, "\"uart\": 7,"));
	assert_non_null(strstr(text, "\"bar\": 9,"));
	assert_non_null(strstr(text, "\"maps\": 1234,"));
	assert_non_null(strstr(text, "\"map\": 31,"));
	assert_non_null(strstr(text, "\"unmap\": 32,"));
	assert_non_null(strstr(text, "\"others\": 33\n"));
	assert_non_null(strstr(text, "\"bounce_bytes_peak\": 42\n"));
	assert_int_equal(text[strlen(text) - 2], '}');
	umask(022);
	assert_int_equal(write_file(path, &some), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(nr_files(), 1);
}

static void an_old_file_is_kept_until_the_new_one_is_whole(void **state)
{
	struct stats none = {0};
	struct stats_file *file;

	(void)state;
	assert_int_equal(write_file(path, &some), 0);
	assert_int_equal(stats_file_open(path, &file), 0);
	assert_true(stats_file_replaces(file));
	assert_non_null(strstr(slurp(path), "1234"));
	assert_int_equal(stats_file_write(file, &none), 0);
	stats_file_close(file);
	assert_null(strstr(slurp(path), "1234"));
	assert_non_null(strstr(slurp(path), "\"viommu\": null"));
	assert_int_equal(nr_files(), 1);
}

static void what_is_never_written_leaves_nothing(void **state)
{
	struct stats_file *file;

	(void)state;
	unlink(path);
	assert_int_equal(stats_file_open(path, &file), 0);
	assert_int_equal(access(path, F_OK), -1);
	stats_file_close(file);
	assert_int_equal(nr_files(), 0);
	stats_file_close(NULL);
}

static void a_place_that_cannot_be_written_is_refused(void **state)
{
	struct stats_file *file;
	char missing[128];

	(void)state;
	snprintf(missing, sizeof(missing), "%s/no/such/file", dir);
	assert_int_equal(write_file(missing, &some), -ENOENT);
	assert_int_equal(write_file(dir, &some), -EISDIR);
	assert_int_equal(write_file("/dev/full", &some), -ENOSPC);
	/* and one that cannot be replaced in the end */
	assert_int_equal(stats_file_open(path, &file), 0);
	assert_int_equal(mkdir(path, 0777), 0);
	assert_int_equal(stats_file_write(file, &some), -EISDIR);
	stats_file_close(file);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(nr_files(), 0);
}

static void a_pipe_is_written_in_place(void **state)
{
	char text[4096] = {0}, name[32];
	struct stats_file *file;
	int fds[2], reader;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	snprintf(name, sizeof(name), "/dev/fd/%d", fds[1]);
	assert_int_equal(write_file(name, &some), 0);
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "1234"));
	close(fds[0]);
	close(fds[1]);
	/* one whose reader comes later */
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(stats_file_open(path, &file), 0);
	assert_false(stats_file_replaces(file));
	reader = open(path, O_RDONLY);
	assert_int_equal(stats_file_write(file, &some), 0);
	stats_file_close(file);
	memset(text, 0, sizeof(text));
	assert_true(read(reader, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "1234"));
	assert_int_equal(read(reader, text, sizeof(text)), 0);
	close(reader);
	/* one whose reader never comes */
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(stats_file_open(path, &file), 0);
	assert_int_equal(stats_file_write(file, &some), -EPIPE);
	stats_file_close(file);
	assert_int_equal(unlink(path), 0);
}

static void an_address_tells_the_kind_of_exit(void **state)
{
	static const struct {
		uint64_t gpa;
		enum exit_kind kind;
	} rows[] = {
		{LAYOUT_UART_BASE, EXIT_KIND_UART},
		{LAYOUT_UART_BASE + 7, EXIT_KIND_UART},
		{LAYOUT_RTC_BASE, EXIT_KIND_RTC},
		{LAYOUT_VIRTIO_BASE + 3 * LAYOUT_VIRTIO_STRIDE + 0x50, EXIT_KIND_VIRTIO},
		{LAYOUT_PCI_ECAM_BASE + 0xfffff, EXIT_KIND_ECAM},
		{LAYOUT_PCI_IO_BASE, EXIT_KIND_BAR},
		{LAYOUT_PCI_MEM32_BASE, EXIT_KIND_BAR},
		{LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN - 1, EXIT_KIND_BAR},
		{LAYOUT_PCI_MEM64_BASE + LAYOUT_PCI_MEM64_LEN, EXIT_KIND_OTHER},
		{0, EXIT_KIND_OTHER},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(exit_kind_of(rows[i].gpa), rows[i].kind);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, in_a_directory, drop_directory)
		cmocka_unit_test(the_table_names_what_was_done),
		cmocka_unit_test(a_network_has_a_line_with_every_count),
		cmocka_unit_test(a_network_has_an_object_with_every_count),
		cmocka_unit_test(no_endpoint_no_table),
		cmocka_unit_test(the_live_table_has_exits_whatever_the_devices),
		cmocka_unit_test(a_difference_keeps_what_tells_a_state),
		T(the_file_is_json_with_every_count),
		T(an_old_file_is_kept_until_the_new_one_is_whole),
		T(what_is_never_written_leaves_nothing),
		T(a_place_that_cannot_be_written_is_refused),
		T(a_pipe_is_written_in_place),
		cmocka_unit_test(an_address_tells_the_kind_of_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
