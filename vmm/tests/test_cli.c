/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/layout.h"

#define GIB UINT64_C(0x40000000)
#define MIB UINT64_C(0x100000)

#define MAX_ARGS 64

/* One call of the parser: what it was given, what it made of it, what it said. */
struct call {
	char *argv[MAX_ARGS + 1];
	int argc;
	struct cli_request req;
	char out[8192], err[8192]; /* standard output, standard error */
};

static struct call call;

/* Standard output or error, caught in a file. */
struct caught {
	int fd, saved;
	FILE *file;
};

static void catch_fd(struct caught *c, int fd)
{
	fflush(NULL);
	c->fd = fd;
	c->saved = dup(fd);
	c->file = tmpfile();
	assert_non_null(c->file);
	dup2(fileno(c->file), fd);
}

static void release_fd(struct caught *c, char *buf, size_t len)
{
	size_t n;

	fflush(NULL);
	dup2(c->saved, c->fd);
	close(c->saved);
	rewind(c->file);
	n = fread(buf, 1, len - 1, c->file);
	buf[n] = '\0';
	fclose(c->file);
}

/* Runs the program's parser on "granule " + @line, split at spaces; "''" is an empty argument. */
static void parse(const char *line)
{
	char copy[4096], *rest = copy, *arg;
	struct caught out, err;

	for (int i = 0; i < call.argc; i++)
		free(call.argv[i]);
	call.argc = 0;
	snprintf(copy, sizeof(copy), "granule %s", line);
	while ((arg = strsep(&rest, " "))) {
		if (!*arg)
			continue;
		assert_true(call.argc < MAX_ARGS);
		call.argv[call.argc++] = strdup(strcmp(arg, "''") ? arg : "");
	}
	call.argv[call.argc] = NULL;
	catch_fd(&out, STDOUT_FILENO);
	catch_fd(&err, STDERR_FILENO);
	cli_parse(call.argc, call.argv, &call.req);
	release_fd(&err, call.err, sizeof(call.err));
	release_fd(&out, call.out, sizeof(call.out));
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < call.argc; i++)
		free(call.argv[i]);
	call.argc = 0;
	return 0;
}

static const struct vm_config *runs(const char *line)
{
	parse(line);
	if (call.req.command != CLI_RUN)
		fail_msg("'%s' was refused: %s", line, call.err);
	assert_string_equal(call.err, "");
	assert_string_equal(call.out, "");
	return &call.req.vm;
}

/* Refused with exactly one line on stderr, which has @says in it, and the status for bad arguments.
 */
static void refused(const char *line, const char *says)
{
	parse(line);
	if (call.req.command != CLI_DONE || call.req.status != EXIT_USAGE)
		fail_msg("'%s' was taken", line);
	if (!strstr(call.err, says))
		fail_msg("'%s' was answered '%s', which lacks '%s'", line, call.err, says);
	assert_ptr_equal(strchr(call.err, '\n'), call.err + strlen(call.err) - 1);
	assert_int_equal(strncmp(call.err, "granule: ", 9), 0);
	assert_string_equal(call.out, "");
}

struct row {
	const char *args, *says;
};

static void refuses_all(const struct row *rows, size_t nr, const char *before)
{
	char line[4096];

	for (size_t i = 0; i < nr; i++) {
		snprintf(line, sizeof(line), "%s%s", before, rows[i].args);
		refused(line, rows[i].says);
	}
}

/* ---- run: what is taken ---- */

static void a_kernel_is_all_that_run_needs(void **state)
{
	const struct vm_config *vm = runs("run -k vmlinuz");

	(void)state;
	assert_string_equal(vm->kernel, "vmlinuz");
	assert_null(vm->initrd);
	assert_string_equal(vm->cmdline, "");
	assert_int_equal(vm->memory, GIB);
	assert_true(vm->vcpus == 1 || vm->vcpus == 2);
	assert_true(vm->vcpus <= (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
	assert_int_equal(vm->nr_disks, 0);
	assert_int_equal(vm->nr_vfio, 0);
	assert_true(vm->iommu);
	assert_null(vm->dump_dtb);
	assert_null(vm->stats);
}

static void every_option_reaches_its_field(void **state)
{
	const struct vm_config *vm = runs(
		"run -k K -i I -p root=/dev/vda -m 4G -c 3 --disk a.img --disk b.img,ro "
		"--vfio 0001:02:03.4,sync=rings,exposure=relaxed,poll=10 --vfio "
		"01:00.0,poll=0,hold=off "
		"--vfio /sys/bus/pci/devices/0000:05:00.0,sync=none,exposure=strict,group=aZ_-09 "
		"--iommu off --dump-dtb D --stats S");

	(void)state;
	assert_string_equal(vm->kernel, "K");
	assert_string_equal(vm->initrd, "I");
	assert_string_equal(vm->cmdline, "root=/dev/vda");
	assert_int_equal(vm->memory, 4 * GIB);
	assert_int_equal(vm->vcpus, 3);
	assert_int_equal(vm->nr_disks, 2);
	assert_string_equal(vm->disks[0].path, "a.img");
	assert_false(vm->disks[0].readonly);
	assert_string_equal(vm->disks[1].path, "b.img");
	assert_true(vm->disks[1].readonly);
	assert_int_equal(vm->nr_vfio, 3);
	assert_string_equal(vm->vfio[0].device, "0001:02:03.4");
	assert_true(vm->vfio[0].sync_set);
	assert_int_equal(vm->vfio[0].sync, SYNC_RINGS);
	assert_true(vm->vfio[0].relaxed);
	assert_string_equal(vm->vfio[1].device, "01:00.0");
	assert_true(vm->vfio[0].poll_set);
	assert_int_equal(vm->vfio[0].poll_us, 10);
	assert_true(vm->vfio[1].poll_set);
	assert_int_equal(vm->vfio[1].poll_us, 0);
	assert_false(vm->vfio[2].poll_set);
	assert_false(vm->vfio[0].hold_set);
	assert_true(vm->vfio[1].hold_set);
	assert_false(vm->vfio[1].hold);
	assert_false(vm->vfio[1].sync_set);
	assert_int_equal(vm->vfio[1].sync, SYNC_FULL);
	assert_false(vm->vfio[1].relaxed);
	assert_string_equal(vm->vfio[2].device, "/sys/bus/pci/devices/0000:05:00.0");
	assert_true(vm->vfio[2].sync_set);
	assert_int_equal(vm->vfio[2].sync, SYNC_NONE);
	assert_false(vm->vfio[2].relaxed);
	assert_null(vm->vfio[0].group);
	assert_string_equal(vm->vfio[2].group, "aZ_-09");
	assert_false(vm->iommu);
	assert_string_equal(vm->dump_dtb, "D");
	assert_string_equal(vm->stats, "S");
}

/* Every spelling of an option, with its value behind a space, an equals sign or nothing. */
static void every_spelling_means_the_same(void **state)
{
	static const char *const lines[] = {
		"run -k K -i I -p P -m 4096 -c 2",
		"run -kK -iI -pP -m4096 -c2",
		"run --kernel K --initrd I --params P --mem 4G --cpus 2",
		"run --kernel=K --initramfs=I --append=P --memory=4g --cpus=2",
		"run --kernel=K --initramfs I --cmdline P --memory 4194304k --cpus=2",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		const struct vm_config *vm = runs(lines[i]);

		assert_string_equal(vm->kernel, "K");
		assert_string_equal(vm->initrd, "I");
		assert_string_equal(vm->cmdline, "P");
		assert_int_equal(vm->memory, 4 * GIB);
		assert_int_equal(vm->vcpus, 2);
	}
	assert_string_equal(runs("run --kernel=a=b,c")->kernel, "a=b,c");
	assert_string_equal(runs("run -k K -p ''")->cmdline, "");
	assert_string_equal(runs("run -k K -p --verbose")->cmdline, "--verbose");
	assert_true(runs("run -k K --iommu=on")->iommu);
	assert_true(runs("run -k K --disk /dev/vg/a,ro")->disks[0].readonly);
}

static void a_size_is_read_in_every_unit(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
		{"64", 64 * MIB},	{"64M", 64 * MIB},     {"64m", 64 * MIB},
		{"64MB", 64 * MIB},	{"64MiB", 64 * MIB},   {"64mib", 64 * MIB},
		{"65536K", 64 * MIB},	{"65536kB", 64 * MIB}, {"1G", GIB},
		{"3g", 3 * GIB},	{"4GiB", 4 * GIB},     {"0064", 64 * MIB},
		{"43968", 43968 * MIB},
	};
	char line[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		snprintf(line, sizeof(line), "run -k K -m %s", rows[i].text);
		assert_int_equal(runs(line)->memory, rows[i].bytes);
	}
	assert_int_equal(43968 * MIB, LAYOUT_RAM_LOW_MAX + LAYOUT_RAM_HIGH_MAX);
}

static void as_many_devices_as_there_is_room_for_are_taken(void **state)
{
	const struct vm_config *vm = runs(
		"run -k K --disk 1 --disk 2 --disk 3 --disk 4 --disk 5 --disk 6 --disk 7 --disk 8 "
		"--vfio 00:01.0 --vfio 00:02.0 --vfio 00:03.0 --vfio 00:04.0 --vfio 00:05.0 "
		"--vfio 00:06.0 --vfio 00:07.0 --vfio 00:07.1");

	(void)state;
	assert_int_equal(vm->nr_disks, CONFIG_MAX_DISKS);
	assert_int_equal(vm->nr_vfio, CONFIG_MAX_VFIO);
}

/* ---- run: what is refused ---- */

static void a_bad_memory_size_is_refused(void **state)
{
	static const struct row rows[] = {
		{"-m banana", "-m banana: not a size"},
		{"-m ''", "not a size"},
		{"-m -64", "not a size"},
		{"-m +64", "not a size"},
		{"-m 1.5G", "not a size"},
		{"-m 64MM", "not a size"},
		{"-m 64B", "not a size"},
		{"-m 64i", "not a size"},
		{"-m 64@", "not a size"},
		{"-m 0x40", "not a size"},
		{"-m 1P", "not a size"},
		{"-m 99999999999999999999", "not a size"},
		{"-m 18446744073709551615", "not a size"},
		{"-m 16777216T", "not a size"},
		{"-m 0", "at least 64M"},
		{"-m 62", "-m 62: too little memory; give at least 64M"},
		{"-m 1K", "at least 64M"},
		{"-m 65", "steps of 2 MiB; give 64M or 66M"},
		{"-m 65537K", "steps of 2 MiB; give 64M or 66M"},
		{"-m 43970", "at most 43968M"},
		{"-m 64G", "at most 43968M"},
		{"-m 16777215T", "at most 43968M"},
	};
	const char *argv[] = {"run", "-k", "K", "-m", "64 ", NULL};
	struct vm_config vm;
	struct caught err;
	char text[256];

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
	/* a space is no letter of any size */
	catch_fd(&err, STDERR_FILENO);
	assert_int_equal(cli_parse_run(5, (char **)argv, &vm), -EINVAL);
	release_fd(&err, text, sizeof(text));
	assert_non_null(strstr(text, "not a size"));
}

static void a_bad_number_of_cpus_is_refused(void **state)
{
	static const struct row rows[] = {
		{"-c 0", "1 to 8"},  {"-c 9", "-c 9: give a number of vCPUs from 1 to 8"},
		{"-c -1", "1 to 8"}, {"-c two", "1 to 8"},
		{"-c 2x", "1 to 8"}, {"-c 4294967297", "1 to 8"},
		{"-c ''", "1 to 8"}, {"-c 99999999999999999999", "1 to 8"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

static void an_unknown_option_is_named_with_its_nearest(void **state)
{
	static const struct row rows[] = {
		{"--kernal K", "unknown option '--kernal'; did you mean --kernel?"},
		{"--kenrel=K", "did you mean --kernel?"},
		{"--init I", "did you mean --initrd?"},
		{"--cmd-line P", "did you mean --cmdline?"},
		{"--vifo 00:01.0", "did you mean --vfio?"},
		{"--disks a", "did you mean --disk?"},
		{"--dump-dbt D", "did you mean --dump-dtb?"},
		{"-kernel K", "unknown option '-kernel'; did you mean --kernel?"},
		{"-append P", "did you mean --append?"},
		{"-initrd=I", "did you mean --initrd?"},
		{"--frobnicate", "unknown option '--frobnicate'; see granule run --help"},
		{"--frobnicate=yes", "unknown option '--frobnicate=yes'"},
		{"-x", "unknown option '-x'; see granule run --help"},
		{"--k K", "unknown option '--k'; see granule run --help"},
		{"--kern K", "did you mean --kernel?"}, /* no abbreviations */
		{"--ker K", "unknown option '--ker'"},
		{"--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		 "unknown option"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run ");
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

static void an_option_without_its_value_is_refused(void **state)
{
	static const struct row rows[] = {
		{"-k", "option '-k' needs a value"},
		{"--kernel", "option '--kernel' needs a value"},
		{"-k K --disk", "option '--disk' needs a value"},
		{"-k ''", "-k: no file given"},
		{"--kernel=", "-k: no file given"},
		{"-k K -i ''", "-i: no file given"},
		{"-k K --dump-dtb=", "--dump-dtb: no file given"},
		{"-k K --stats=", "--stats: no file given"},
		{"--help=me", "option '--help=me' takes no value"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run ");
}

static void a_missing_kernel_is_refused(void **state)
{
	(void)state;
	refused("run", "no kernel given; give one with -k FILE");
	refused("run -m 1G -i initrd", "no kernel given");
	refused("run vmlinuz", "unexpected argument 'vmlinuz'; a kernel is given with -k");
	refused("run -k K quiet", "unexpected argument 'quiet'");
	refused("run -k K -- quiet", "unexpected argument 'quiet'");
	refused("run -k K -", "unexpected argument '-'");
}

static void an_option_given_twice_is_refused(void **state)
{
	static const struct row rows[] = {
		{"-k K -k L", "option '-k' is given a second time"},
		{"-k K --kernel L", "option '--kernel' is given a second time"},
		{"-k K -p a --append=b", "option '--append=b' is given a second time"},
		{"-k K -m 1G --memory 2G", "option '--memory' is given a second time"},
		{"-k K --iommu on --iommu off", "option '--iommu' is given a second time"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run ");
}

static void a_bad_disk_is_refused(void **state)
{
	static const struct row rows[] = {
		{"--disk ''", "--disk: no file given"},
		{"--disk ,ro", "--disk: no file given"},
		{"--disk a.img,rw", "--disk a.img: unknown key 'rw'; known keys: ro"},
		{"--disk a.img,ro,sync=on", "unknown key 'sync=on'; known keys: ro"},
		{"--disk a.img,", "unknown key ''; known keys: ro"},
		{"--disk 1 --disk 2 --disk 3 --disk 4 --disk 5 --disk 6 --disk 7 --disk 8 --disk 9",
		 "--disk 9: too many disks; give at most 8"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

static void a_malformed_pci_address_is_refused(void **state)
{
	static const char *const texts[] = {
		"''",
		"banana",
		"1:2:3",
		"01:00",
		"01:00.8",
		"01:20.0",
		"100:00.0",
		"0000:01:00",
		"0000:01:00.0x",
		"0000:01:00.0:",
		":01:00.0",
		"0000:0g:00.0",
		"0000.01:00.0",
		"01-00.0",
		"123456789:01:00.0",
		"0000:01:00.0/",
		"sys/bus/pci/devices/0000:01:00.0",
		",sync=full",
		"-1:00.0",
		"01:00.-",
		"0x1:00.0",
	};
	char line[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		snprintf(line, sizeof(line), "run -k K --vfio %s", texts[i]);
		refused(line, "not a PCI address; give DDDD:BB:DD.F");
	}
}

static void simulated_devices_are_described(void **state)
{
	const struct vm_config *vm = &call.req.vm;

	(void)state;
	parse("run -k K --sim nvme,disk=a/b --sim nvme,disk=c,ro,dart=t6000,darts=2,"
	      "quirk=locked-ttbr,sync=full,exposure=relaxed,poll=1000000,hold=on --sim "
	      "edu,hostile,dart=t8110 "
	      "--sim edu,owner=guest,quirk=slow-invalidate");
	assert_int_equal(call.req.command, CLI_RUN);
	assert_int_equal(vm->nr_sim, 4);
	assert_int_equal(vm->sim[0].kind, SIM_NVME);
	assert_string_equal(vm->sim[0].disk.path, "a/b");
	assert_false(vm->sim[0].disk.readonly);
	assert_int_equal(vm->sim[0].dart, SIM_DART_T8103);
	assert_int_equal(vm->sim[0].darts, 1);
	assert_int_equal(vm->sim[0].quirk, SIM_DART_SOUND);
	assert_false(vm->sim[0].guest_owned);
	assert_false(vm->sim[0].sync_set);
	assert_false(vm->sim[0].relaxed);
	assert_string_equal(vm->sim[1].disk.path, "c");
	assert_true(vm->sim[1].disk.readonly);
	assert_int_equal(vm->sim[1].dart, SIM_DART_T6000);
	assert_int_equal(vm->sim[1].darts, 2);
	assert_int_equal(vm->sim[1].quirk, SIM_DART_LOCKED_TTBR);
	assert_true(vm->sim[1].sync_set);
	assert_int_equal(vm->sim[1].sync, SYNC_FULL);
	assert_int_equal(vm->sim[1].poll_us, 1000000);
	assert_true(vm->sim[1].hold);
	assert_int_equal(vm->sim[0].poll_us, 0);
	assert_true(vm->sim[1].relaxed);
	assert_int_equal(vm->sim[2].kind, SIM_EDU);
	assert_true(vm->sim[2].hostile);
	assert_int_equal(vm->sim[2].dart, SIM_DART_T8110);
	assert_false(vm->sim[3].hostile);
	assert_true(vm->sim[3].guest_owned);
	assert_int_equal(vm->sim[3].quirk, SIM_DART_SLOW_INVALIDATE);

	/* What the guest owns needs no virtio-iommu. */
	parse("run -k K --iommu off --sim edu,owner=guest");
	assert_int_equal(call.req.command, CLI_RUN);
}

static void a_bad_simulated_device_is_refused(void **state)
{
	static const struct row rows[] = {
		{"--sim floppy", "--sim floppy: no such simulated device; give nvme or edu"},
		{"--sim nvme", "--sim nvme: no disk given; give disk=FILE"},
		{"--sim nvme,disk=", "give the file that is its disk"},
		{"--sim nvme,disk", "give the file that is its disk"},
		{"--sim nvme,disk=a,hostile", "--sim nvme: 'hostile' is a key of --sim edu"},
		{"--sim edu,disk=a", "--sim edu: 'disk' is a key of --sim nvme"},
		{"--sim edu,ro", "'ro' is a key of --sim nvme"},
		{"--sim nvme,disk=a,ro=1", "'ro' takes no value"},
		{"--sim edu,hostile=yes", "'hostile' takes no value"},
		{"--sim edu,colour=red",
		 "--sim edu: unknown key 'colour'; known keys: hostile, dart, darts, owner"},
		{"--sim nvme,disk=a,colour", "unknown key 'colour'; known keys: disk, ro, dart"},
		{"--sim edu,dart=m1", "dart=m1: give dart=t8103, dart=t6000 or dart=t8110"},
		{"--sim edu,dart", "dart=: give dart=t8103"},
		{"--sim nvme,disk=a,darts=3", "darts=3: give darts=1 or darts=2"},
		{"--sim edu,darts=2", "--sim edu: darts=2: it masters through one DART only"},
		{"--sim nvme,disk=a,darts=2,owner=guest", "owner=guest with darts=2"},
		{"--sim edu,owner=me", "owner=me: give owner=host or owner=guest"},
		{"--sim edu,quirk=slow", "quirk=slow: give quirk=locked-ttbr"},
		{"--sim edu,sync=fast", "sync=fast: give sync=full, sync=rings or sync=none"},
		{"--sim edu,exposure=no", "give exposure=strict or exposure=relaxed"},
		{"--sim edu,poll=9", "--sim edu: poll=9: give microseconds from 10 to 1000000, or"},
		{"--sim edu,poll", "poll=: give microseconds"},
		{"--sim edu,poll=50,sync=none", "--sim edu: poll=50 with sync=none: there is"},
		{"--sim edu,poll=50,owner=guest", "poll is about mediation"},
		{"--sim edu,owner=guest,sync=full", "sync is about mediation"},
		{"--sim edu,exposure=strict,owner=guest", "exposure is about mediation"},
		{"--iommu off --sim edu", "--sim devices are behind the virtio-iommu"},
		{"--sim edu --sim edu --sim edu --sim edu --sim edu", "give at most 4"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

static void networks_are_described(void **state)
{
	static const uint8_t mac[6] = {0x02, 0xab, 0xcd, 0xef, 0x00, 0xff};
	const struct vm_config *vm = &call.req.vm;

	(void)state;
	parse("run -k K");
	assert_int_equal(vm->nr_nets, 0);
	parse("run -k K --net tap=tap0 --net mac=02:ab:CD:eF:00:ff,tap=fifteen-letters "
	      "--net tap=b.1 --net tap=c");
	assert_int_equal(vm->nr_nets, 4);
	assert_string_equal(vm->nets[0].tap, "tap0");
	assert_false(vm->nets[0].mac_set);
	assert_string_equal(vm->nets[1].tap, "fifteen-letters");
	assert_true(vm->nets[1].mac_set);
	assert_memory_equal(vm->nets[1].mac, mac, sizeof(mac));
	assert_string_equal(vm->nets[2].tap, "b.1");
}

/* Descriptors 50 to 53 and 55 are open, each another file; 54 is a duplicate of 50. */
static void open_descriptors(void)
{
	for (int fd = 50; fd <= 55; fd++) {
		int null = open("/dev/null", O_RDWR);

		assert_int_equal(dup2(fd == 54 ? 50 : null, fd), fd);
		close(null);
	}
}

static void close_descriptors(void)
{
	for (int fd = 50; fd <= 55; fd++)
		close(fd);
}

static void descriptors_may_stand_for_files(void **state)
{
	const struct vm_config *vm = &call.req.vm;

	(void)state;
	open_descriptors();
	parse("run -k fd=50 --disk fd=51,ro --net fd=52,mac=02:00:00:00:00:01 --net tap=a "
	      "--vfio 0000:01:00.0,fd=53,sync=rings,container=55 --disk ./fd=50");
	assert_string_equal(vm->kernel, "fd=50");
	assert_string_equal(vm->disks[0].path, "fd=51");
	assert_true(vm->disks[0].readonly);
	assert_string_equal(vm->disks[1].path, "./fd=50");
	assert_string_equal(vm->nets[0].tap, "fd=52");
	assert_int_equal(vm->nets[0].fd, 52);
	assert_true(vm->nets[0].mac_set);
	assert_int_equal(vm->nets[1].fd, 0);
	assert_int_equal(vm->vfio[0].group_fd, 53);
	assert_int_equal(vm->vfio[0].container_fd, 55);
	assert_int_equal(vm->nr_fds, 5);
	assert_true(fcntl(50, F_GETFD) & FD_CLOEXEC);
	parse("run --kvm fd=50 -k K -i fd=51 --sim nvme,disk=fd=52 --vfio 0000:01:00.0");
	assert_string_equal(vm->kvm, "fd=50");
	assert_string_equal(vm->initrd, "fd=51");
	assert_string_equal(vm->sim[0].disk.path, "fd=52");
	assert_int_equal(vm->vfio[0].group_fd, 0);
	assert_int_equal(vm->vfio[0].container_fd, 0);
	close_descriptors();
	parse("run -k K");
	assert_string_equal(vm->kvm, "/dev/kvm");
}

static void a_bad_descriptor_is_refused(void **state)
{
	static const struct row rows[] = {
		{"-k fd=57", "-k fd=57: this descriptor is not open"},
		{"-k fd=0", "-k fd=0: give the number of an open descriptor from 3 on"},
		{"-k fd=2", "from 3 on (a file of that name is ./fd=2)"},
		{"-k K -i fd=x", "-i fd=x: give the number"},
		{"-k K -i fd=", "-i fd=: give the number"},
		{"-k K --kvm fd=57", "--kvm fd=57: this descriptor is not open"},
		{"-k K --disk fd=-1", "--disk fd=-1: give the number"},
		{"-k K --disk fd=57,ro", "--disk fd=57: this descriptor is not open"},
		{"-k fd=50 --disk fd=50",
		 "--disk fd=50: this descriptor, or a duplicate of it, is"},
		{"-k fd=50 --disk fd=54",
		 "--disk fd=54: this descriptor, or a duplicate of it, is"},
		{"-k K --sim nvme,disk=fd=57", "fd=57: this descriptor is not open"},
		{"-k K --disk fd=50 --sim nvme,disk=fd=50", "fd=50: this descriptor, or a dup"},
		{"-k K --net fd", "--net: fd: give fd=N"},
		{"-k K --net fd=57", "--net fd=57: this descriptor is not open"},
		{"-k K --net fd=50 --net fd=50", "--net fd=50: this descriptor, or a duplicate"},
		{"-k K --vfio 01:00.0,fd", "--vfio 01:00.0,fd: fd=: give the number"},
		{"-k K --vfio 01:00.0,fd=57", "--vfio 01:00.0,fd: fd=57: this descriptor is not"},
		{"-k K --vfio 01:00.0,container=57",
		 "container: fd=57: this descriptor is not open"},
		{"-k K --vfio 01:00.0,fd=50,container=50", "container: fd=50: this descriptor, or"},
	};

	(void)state;
	open_descriptors();
	refuses_all(rows, ARRAY_SIZE(rows), "run ");
	close_descriptors();
}

static void the_sandbox_is_on_unless_told(void **state)
{
	(void)state;
	parse("run -k K");
	assert_true(call.req.vm.sandbox);
	parse("run -k K --no-sandbox");
	assert_false(call.req.vm.sandbox);
}

static void a_bad_network_is_refused(void **state)
{
	static const struct row rows[] = {
		{"--net user", "--net: unknown key 'user'; known keys: tap, fd, mac"},
		{"--net tap=a,speed=1", "unknown key 'speed'"},
		{"--net tap=a,", "unknown key ''"},
		{"--net tap", "--net: tap=: give the name of a tap interface, up to 15 letters"},
		{"--net tap=", "give the name of a tap interface"},
		{"--net tap=sixteen--letters", "tap=sixteen--letters: give the name"},
		{"--net tap=a/b", "give the name of a tap interface"},
		{"--net tap=..", "give the name of a tap interface"},
		{"--net tap=tap%d", "give the name of a tap interface"},
		{"--net mac=02:00:00:00:00:01", "--net: no tap interface given; give tap=NAME"},
		{"--net tap=a,mac", "--net: mac=: give six bytes, as in mac=02:00:00:00:00:01"},
		{"--net tap=a,mac=02:00:00:00:00", "give six bytes"},
		{"--net tap=a,mac=02:00:00:00:00:001", "give six bytes"},
		{"--net tap=a,mac=02:00:00:00:00:0g", "give six bytes"},
		{"--net tap=a,mac=02-00-00-00-00-01", "give six bytes"},
		{"--net tap=a,mac=02:00:00:00:00:01:", "give six bytes"},
		{"--net tap=a,mac=+2:00:00:00:00:01", "give six bytes"},
		{"--net tap=a,mac=00:00:00:00:00:00", "all zeroes and no interface's own"},
		{"--net tap=a,mac=01:00:5e:00:00:01", "a group address and no interface's own"},
		{"--net tap=a,mac=ff:ff:ff:ff:ff:ff", "a group address"},
		{"--net tap=a --net tap=a", "--net: tap=a is given twice"},
		{"--net tap=a,mac=02:00:00:00:00:01 --net tap=b,mac=02:00:00:00:00:01",
		 "tap=a and tap=b have one mac"},
		{"--net tap=a --net tap=b --net tap=c --net tap=d --net tap=e", "give at most 4"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

static void a_bad_vfio_key_is_refused(void **state)
{
	static const struct row rows[] = {
		{"--vfio 01:00.0,speed=fast",
		 "--vfio 01:00.0: unknown key 'speed'; known keys: sync, exposure, group"},
		{"--vfio 01:00.0,Sync=full", "unknown key 'Sync'"},
		{"--vfio 01:00.0,", "unknown key ''; known keys: sync, exposure, group"},
		{"--vfio 01:00.0,sync=fast", "sync=fast: give sync=full, sync=rings or sync=none"},
		{"--vfio 01:00.0,sync", "give sync=full, sync=rings or sync=none"},
		{"--vfio 01:00.0,sync=", "give sync=full, sync=rings or sync=none"},
		{"--vfio 01:00.0,sync=full,exposure=none",
		 "give exposure=strict or exposure=relaxed"},
		{"--vfio 01:00.0,exposure", "give exposure=strict or exposure=relaxed"},
		{"--vfio 01:00.0,poll=1000001", "--vfio 01:00.0: poll=1000001: give microseconds "
						"from 10 to 1000000, or 0 for none"},
		{"--vfio 01:00.0,hold", "--vfio 01:00.0: hold=: give hold=on or hold=off"},
		{"--vfio 01:00.0,hold=1", "hold=1: give hold=on or hold=off"},
		{"--sim edu,hold=maybe", "--sim edu: hold=maybe: give hold=on or hold=off"},
		{"--sim edu,hold=off,owner=guest", "hold is about mediation"},
		{"--vfio 01:00.0,poll=9", "poll=9: give microseconds"},
		{"--vfio 01:00.0,poll=", "poll=: give microseconds"},
		{"--vfio 01:00.0,poll=-20", "poll=-20: give microseconds"},
		{"--vfio 01:00.0,poll=20us", "poll=20us: give microseconds"},
		{"--vfio 01:00.0,poll=20.5", "poll=20.5: give microseconds"},
		{"--vfio 01:00.0,poll=18446744073709551636", "give microseconds"},
		{"--vfio 01:00.0,poll=20,sync=none", "--vfio 01:00.0: poll=20 with sync=none"},
		{"--vfio 01:00.0,group", "--vfio 01:00.0: group=: give a name of 1 to 16 letters"},
		{"--vfio 01:00.0,group=", "group=: give a name"},
		{"--vfio 01:00.0,group=a.b", "group=a.b: give a name"},
		{"--vfio 01:00.0,group=abcdefghijklmnopq", "give a name of 1 to 16 letters"},
		{"--iommu maybe", "--iommu maybe: give on or off"},
		{"--iommu ''", "give on or off"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
}

/* However it is spelled. */
static void a_device_given_twice_is_refused(void **state)
{
	static const struct row rows[] = {
		{"--vfio 01:00.0 --vfio 01:00.0", "--vfio 01:00.0: this device is given twice"},
		{"--vfio 01:00.0 --vfio 0000:01:00.0", "given twice"},
		{"--vfio 0A:00.0 --vfio 0000:0a:00.0,sync=none", "given twice"},
		{"--vfio 01:00.0 --vfio /sys/bus/pci/devices/0000:01:00.0", "given twice"},
		{"--vfio /sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/ --vfio 01:00.0",
		 "given twice"},
		{"--vfio /sys/devices/platform/x --vfio /sys/devices/platform/x", "given twice"},
		{"--vfio 00:00.0 --vfio 00:01.0 --vfio 00:02.0 --vfio 00:03.0 --vfio 00:04.0 "
		 "--vfio 00:05.0 --vfio 00:06.0 --vfio 00:07.0 --vfio 00:08.0",
		 "--vfio 00:08.0: too many devices; give at most 8"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "run -k K ");
	assert_int_equal(runs("run -k K --vfio 0001:01:00.0 --vfio 01:00.0 --vfio 01:00.1 "
			      "--vfio /sys/devices/platform/x --vfio /sys/devices/platform/y")
				 ->nr_vfio,
			 5);
}

static void a_command_line_longer_than_linux_takes_is_refused(void **state)
{
	char line[4096];
	int n = snprintf(line, sizeof(line), "run -k K -p ");

	(void)state;
	memset(line + n, 'x', 2048);
	line[n + 2048] = '\0';
	refused(line, "the command line has 2048 bytes; Linux takes at most 2047");
	line[n + 2047] = '\0';
	assert_int_equal(strlen(runs(line)->cmdline), 2047);
}

/* ---- the other commands ---- */

static void a_trace_has_a_file_and_a_bound(void **state)
{
	(void)state;
	assert_null(runs("run -k K")->trace);
	assert_false(runs("run -k K")->verbose);
	assert_string_equal(runs("run -k K --trace t.json -v")->trace, "t.json");
	assert_true(call.req.vm.verbose);
	assert_int_equal(call.req.vm.trace_max, 1ull << 30);
	assert_int_equal(runs("run -k K --trace t.json,max=3M")->trace_max, 3ull << 20);
	assert_int_equal(runs("run -k K --verbose --trace t,max=64")->trace_max, 64ull << 20);
	assert_string_equal(call.req.vm.trace, "t");
}

static void the_other_commands_are_understood(void **state)
{
	(void)state;
	parse("check");
	assert_int_equal(call.req.command, CLI_CHECK);
	parse("devices");
	assert_int_equal(call.req.command, CLI_DEVICES);
	assert_false(call.req.json);
	parse("devices --json");
	assert_int_equal(call.req.command, CLI_DEVICES);
	assert_true(call.req.json);
	parse("inspect vmlinuz");
	assert_int_equal(call.req.command, CLI_INSPECT);
	assert_string_equal(call.req.inspect.kernel, "vmlinuz");
	parse("inspect --domain 4711");
	assert_null(call.req.inspect.kernel);
	assert_int_equal(call.req.inspect.pid, 4711);
	assert_false(call.req.inspect.one || call.req.inspect.json || call.req.inspect.svg);
	parse("inspect --json --domain=4711,4294967295");
	assert_true(call.req.inspect.one && call.req.inspect.json);
	assert_int_equal(call.req.inspect.domain, UINT32_MAX);
	parse("inspect --domain 4711,0 --svg");
	assert_true(call.req.inspect.one && call.req.inspect.svg);
	assert_null(call.req.inspect.file);
	parse("inspect --domain 4711 --svg out.svg");
	assert_string_equal(call.req.inspect.file, "out.svg");
	parse("stat 4711");
	assert_int_equal(call.req.command, CLI_STAT);
	assert_int_equal(call.req.stat.pid, 4711);
	assert_int_equal(call.req.stat.count, 1);
	assert_false(call.req.stat.json);
	parse("stat --json 4711");
	assert_true(call.req.stat.json);
	parse("stat 4711 -i 5 --json");
	assert_int_equal(call.req.stat.pid, 4711);
	assert_int_equal(call.req.stat.interval, 5);
	assert_int_equal(call.req.stat.count, 0);
	parse("stat --interval=86400 4711 --count 3");
	assert_int_equal(call.req.stat.interval, 86400);
	assert_int_equal(call.req.stat.count, 3);
	parse("inspect -- -file");
	assert_int_equal(call.req.command, CLI_INSPECT);
	assert_string_equal(call.req.inspect.kernel, "-file");
}

static void what_the_other_commands_do_not_take_is_refused(void **state)
{
	static const struct row rows[] = {
		{"check now", "check: unexpected argument 'now'"},
		{"check --json", "check: unknown option '--json'"},
		{"devices all", "devices: unexpected argument 'all'"},
		{"devices --jsno", "did you mean --json?"},
		{"devices --json=yes", "takes no value"},
		{"inspect", "inspect: no kernel given"},
		{"inspect ''", "no file given"},
		{"inspect a b", "unexpected argument 'b'"},
		{"inspect -- a b", "unexpected argument 'b'"},
		{"inspect a -- b", "unexpected argument 'b'"},
		{"inspect --domain", "option '--domain' needs a value"},
		{"inspect --domain 0", "inspect: --domain 0: give a process"},
		{"inspect --domain x", "inspect: --domain x: give a process"},
		{"inspect --domain 12,", "inspect: --domain 12,: give a process"},
		{"inspect --domain 12,x", "--domain 12,x: give a process"},
		{"inspect --domain 12,4294967296", "--domain 12,4294967296: give a process"},
		{"inspect --domain 12,1,1", "--domain 12,1,1: give a process"},
		{"inspect --domain 3000000000", "--domain 3000000000: give a process"},
		{"inspect --domain 12 file", "inspect: unexpected argument 'file'"},
		{"inspect --domain 12 --json file", "inspect: unexpected argument 'file'"},
		{"inspect --domain 12 --json --svg", "--json and --svg: give one of them"},
		{"inspect --domain 12 --svg ''", "no file given"},
		{"inspect --json vmlinuz", "--json is about a guest that runs; give --domain PID"},
		{"inspect --svg", "--svg is about a guest that runs; give --domain PID"},
		{"inspect --doman 1", "did you mean --domain?"},
		{"stat", "stat: no process given; give its number"},
		{"stat --json", "stat: no process given"},
		{"stat x", "stat: process 'x': give a number from 1 to"},
		{"stat 0", "stat: process '0': give a number from 1 to"},
		{"stat 12x", "stat: process '12x'"},
		{"stat 99999999999999999999", "stat: process '9999"},
		{"stat 1 2", "stat: unexpected argument '2'"},
		{"stat 1 --jsno", "did you mean --json?"},
		{"stat 1 -i 0", "stat: --interval '0': give a number from 1 to 86400"},
		{"stat 1 -i 86401", "stat: --interval '86401'"},
		{"stat 1 -i", "option '-i' needs a value"},
		{"stat 1 -i 1 -n 0", "stat: --count '0'"},
		{"stat 1 -n 2", "stat: --count without --interval"},
		{"run -k K --live-stats=1", "takes no value"},
		{"run -k K --verbose=1", "takes no value"},
		{"run -k K -v --verbose", "given a second time"},
		{"run -k K --trace", "option '--trace' needs a value"},
		{"run -k K --trace ''", "--trace: no file given"},
		{"run -k K --trace ,max=1G", "--trace: no file given"},
		{"run -k K --trace f,min=1", "--trace f: unknown key 'min=1'; known keys: max"},
		{"run -k K --trace f,max=", "--trace f: max=: give a size of at least 1M"},
		{"run -k K --trace f,max=1023K",
		 "--trace f: max=1023K: give a size of at least 1M"},
		{"run -k K --trace f,max=1X", "--trace f: max=1X: give a size"},
		{"run -k K --trace a --trace b", "given a second time"},
		{"run -k K --no-sandbox=1", "takes no value"},
		{"run -k K --kvm", "needs a value"},
		{"run -k K --live-stats --live-stats", "given a second time"},
		{"version 1", "unexpected argument '1'"},
		{"help run more", "unexpected argument 'more'"},
		{"help rnu", "unknown command 'rnu'; did you mean run?"},
		{"rnu", "unknown command 'rnu'; did you mean run?"},
		{"device", "did you mean devices?"},
		{"launch",
		 "unknown command 'launch'; the commands are run, check, devices, inspect, stat"},
		{"frobnicate-all-that-there-is-and-more", "unknown command 'frobnicate-all"},
		{"''", "unknown command ''"},
		{"-k vmlinuz", "the command comes first, as in granule run -k FILE"},
		{"--kernel=vmlinuz run", "the command comes first"},
	};

	(void)state;
	refuses_all(rows, ARRAY_SIZE(rows), "");
}

static void help_goes_to_standard_output_when_asked_for(void **state)
{
	static const struct row rows[] = {
		{"--help", "usage: granule COMMAND"},
		{"-h", "usage: granule COMMAND"},
		{"help", "usage: granule COMMAND"},
		{"help help", "usage: granule COMMAND"},
		{"help run", "usage: granule run"},
		{"run --help", "usage: granule run"},
		{"run -k K -h", "usage: granule run"},
		{"check --help", "usage: granule check"},
		{"help devices", "usage: granule devices"},
		{"devices -h", "usage: granule devices"},
		{"inspect --help", "usage: granule inspect"},
		{"stat -h", "usage: granule stat"},
		{"stat 1 -h", "usage: granule stat"},
		{"version", "granule 0."},
		{"--version", "granule 0."},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		parse(rows[i].args);
		assert_int_equal(call.req.command, CLI_DONE);
		assert_int_equal(call.req.status, 0);
		assert_string_equal(call.err, "");
		if (!strstr(call.out, rows[i].says))
			fail_msg("'%s' printed '%s'", rows[i].args, call.out);
	}
}

static void no_arguments_at_all_is_an_error_with_help(void **state)
{
	(void)state;
	parse("");
	assert_int_equal(call.req.command, CLI_DONE);
	assert_int_equal(call.req.status, EXIT_USAGE);
	assert_non_null(strstr(call.err, "usage: granule COMMAND"));
	assert_string_equal(call.out, "");
}

static void help_for_run_names_every_option(void **state)
{
	static const char *const words[] = {
		"-k, --kernel", "-i, --initrd", "--initramfs", "-p, --params", "--append",
		"--cmdline",	"-m, --mem",	"--memory",    "-c, --cpus",   "--disk",
		"--vfio",	"--sim",	"--iommu",     "--dump-dtb",   "--stats",
		"--help",	"sync=",	"exposure=",   "Ctrl-A x",
	};

	(void)state;
	parse("run --help");
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (!strstr(call.out, words[i]))
			fail_msg("help lacks %s", words[i]);
	}
	for (char *line = strtok(call.out, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_teardown(name, teardown)
		TEST(a_kernel_is_all_that_run_needs),
		TEST(every_option_reaches_its_field),
		TEST(every_spelling_means_the_same),
		TEST(a_size_is_read_in_every_unit),
		TEST(as_many_devices_as_there_is_room_for_are_taken),
		TEST(a_bad_memory_size_is_refused),
		TEST(a_bad_number_of_cpus_is_refused),
		TEST(an_unknown_option_is_named_with_its_nearest),
		TEST(an_option_without_its_value_is_refused),
		TEST(a_missing_kernel_is_refused),
		TEST(an_option_given_twice_is_refused),
		TEST(a_bad_disk_is_refused),
		TEST(a_malformed_pci_address_is_refused),
		TEST(simulated_devices_are_described),
		TEST(a_bad_simulated_device_is_refused),
		TEST(networks_are_described),
		TEST(a_bad_network_is_refused),
		TEST(descriptors_may_stand_for_files),
		TEST(a_bad_descriptor_is_refused),
		TEST(the_sandbox_is_on_unless_told),
		TEST(a_bad_vfio_key_is_refused),
		TEST(a_device_given_twice_is_refused),
		TEST(a_command_line_longer_than_linux_takes_is_refused),
		TEST(a_trace_has_a_file_and_a_bound),
		TEST(the_other_commands_are_understood),
		TEST(what_the_other_commands_do_not_take_is_refused),
		TEST(help_goes_to_standard_output_when_asked_for),
		TEST(no_arguments_at_all_is_an_error_with_help),
		TEST(help_for_run_names_every_option),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
