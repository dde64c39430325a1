/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/cli.h"
#include "vmm/strict.h"

static void a_command_line_says_what_linux_reads_in_it(void **state)
{
	static const struct {
		const char *cmdline;
		enum strictness said;
	} rows[] = {
		{"", STRICT_UNSAID},
		{"console=ttyS0 quiet", STRICT_UNSAID},
		{"iommu.strict=0", STRICT_LAZY},
		{"iommu.strict=1", STRICT_YES},
		{"quiet iommu.strict=0 panic=-1", STRICT_LAZY},
		{"quiet\tiommu.strict=0\tpanic=-1", STRICT_LAZY},
		/* to Linux 0xa0 is a space, whatever it is a part of */
		{"a=1\xa0iommu.strict=0", STRICT_LAZY},
		{"a=\xc3\xa0iommu.strict=0\xa0quiet", STRICT_LAZY},
		{"iommu.strict=1 --\xa0iommu.strict=0", STRICT_YES},
		/* kstrtobool() */
		{"iommu.strict=n", STRICT_LAZY},
		{"iommu.strict=No", STRICT_LAZY},
		{"iommu.strict=off", STRICT_LAZY},
		{"iommu.strict=OF", STRICT_LAZY},
		{"iommu.strict=00", STRICT_LAZY},
		{"iommu.strict=y", STRICT_YES},
		{"iommu.strict=Yes", STRICT_YES},
		{"iommu.strict=on", STRICT_YES},
		{"iommu.strict=oN", STRICT_YES},
		{"iommu.strict=10", STRICT_YES},
		{"iommu.strict=", STRICT_UNSAID},
		{"iommu.strict= 0", STRICT_UNSAID},
		{"iommu.strict", STRICT_UNSAID},
		{"iommu.strict=o", STRICT_UNSAID},
		{"iommu.strict=2", STRICT_UNSAID},
		{"iommu.strict=-1", STRICT_UNSAID},
		/* that some kernels know: lazy is believed, strict is not */
		{"iommu.strict=false", STRICT_LAZY},
		{"iommu.strict=Disable", STRICT_LAZY},
		{"iommu.strict=true", STRICT_UNSAID},
		{"iommu.strict=enable", STRICT_UNSAID},
		{"iommu.strict=0 iommu.strict=true", STRICT_LAZY},
		/* the last valid one counts */
		{"iommu.strict=0 iommu.strict=1", STRICT_YES},
		{"iommu.strict=1 iommu.strict=0", STRICT_LAZY},
		{"iommu.strict=0 iommu.strict=maybe", STRICT_LAZY},
		{"iommu.strict=1 iommu.strict", STRICT_YES},
		/* what is for init */
		{"iommu.strict=1 -- iommu.strict=0", STRICT_YES},
		{"-- iommu.strict=0", STRICT_UNSAID},
		{"\"--\" iommu.strict=0", STRICT_UNSAID},
		{"--x iommu.strict=0", STRICT_LAZY},
		{"-- ", STRICT_UNSAID},
		/* other words */
		{"xiommu.strict=0", STRICT_UNSAID},
		{"iommu.strictly=0", STRICT_UNSAID},
		{"IOMMU.strict=0", STRICT_UNSAID},
		{"a=iommu.strict=0", STRICT_UNSAID},
		{"iommu.passthrough=0", STRICT_UNSAID},
		/* quotes */
		{"iommu.strict=\"0\"", STRICT_LAZY},
		{"\"iommu.strict=0\"", STRICT_LAZY},
		{"\"iommu.strict=0\" quiet", STRICT_LAZY},
		{"a=\"b iommu.strict=0\"", STRICT_UNSAID},
		{"a=\"b iommu.strict=0", STRICT_UNSAID},
		{"a=\"b\" iommu.strict=0", STRICT_LAZY},
		{"a=\"b -- c\" iommu.strict=0", STRICT_LAZY},
		{"a=\"b \"c iommu.strict=0", STRICT_LAZY},
		{"iommu.strict=\"", STRICT_UNSAID},
		{"\"iommu.strict=\" 0", STRICT_UNSAID},
		{"\"", STRICT_UNSAID},
		{"\"\" iommu.strict=0", STRICT_LAZY},
		{"  iommu.strict=0  ", STRICT_LAZY},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		/* ASan sees a look behind the end. */
		char *cmdline = strdup(rows[i].cmdline);

		if (strict_of(cmdline) != rows[i].said)
			fail_msg("'%s': %d", cmdline, (int)strict_of(cmdline));
		free(cmdline);
	}
}

/* strict_cmdline() with what it says on stderr in @said. */
static int ask(const char *cmdline, const char *needs_strict, char **out, char *said, size_t len)
{
	FILE *file = tmpfile();
	int keep = dup(STDERR_FILENO), ret;
	ssize_t n;

	assert_true(file && keep >= 0);
	dup2(fileno(file), STDERR_FILENO);
	ret = strict_cmdline(cmdline, needs_strict, out);
	dup2(keep, STDERR_FILENO);
	close(keep);
	n = pread(fileno(file), said, len - 1, 0);
	fclose(file);
	said[n < 0 ? 0 : n] = '\0';
	return ret;
}

static void the_guest_is_told_to_be_strict_where_nobody_has(void **state)
{
	static const struct {
		const char *cmdline, *out;
	} rows[] = {
		{"", "iommu.strict=1"},
		{"quiet", "iommu.strict=1 quiet"},
		{"quiet -- -x", "iommu.strict=1 quiet -- -x"},
		{"a=\"b", "iommu.strict=1 a=\"b"},
		{"iommu.strict=true", "iommu.strict=1 iommu.strict=true"},
		{"quiet iommu.strict=1", NULL},
	};
	char said[512], *out;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(ask(rows[i].cmdline, "nvme", &out, said, sizeof(said)), 0);
		if (rows[i].out) {
			assert_non_null(out);
			assert_string_equal(out, rows[i].out);
			assert_int_equal(strict_of(out), STRICT_YES);
		} else {
			assert_null(out);
		}
		free(out);
		/* and left alone if no device needs it */
		assert_int_equal(ask(rows[i].cmdline, NULL, &out, said, sizeof(said)), 0);
		assert_null(out);
	}
	assert_int_equal(ask("iommu.strict=0", NULL, &out, said, sizeof(said)), 0);
	assert_null(out);
}

static void a_lazy_guest_is_refused_a_device_that_it_would_spoil(void **state)
{
	char said[512], *out;

	(void)state;
	assert_int_equal(ask("quiet iommu.strict=0", "0000:01:00.0", &out, said, sizeof(said)),
			 -EINVAL);
	assert_null(out);
	assert_non_null(strstr(said, "granule: 0000:01:00.0: "));
	assert_non_null(strstr(said, "leave out sync="));
	assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

static void a_full_command_line_is_refused(void **state)
{
	char cmdline[CMDLINE_MAX], said[512], *out;
	size_t room = CMDLINE_MAX - 1 - strlen("iommu.strict=1 ");

	(void)state;
	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[room] = '\0';
	assert_int_equal(ask(cmdline, "nvme", &out, said, sizeof(said)), 0);
	assert_int_equal(strlen(out), CMDLINE_MAX - 1);
	free(out);
	cmdline[room] = 'x';
	cmdline[room + 1] = '\0';
	assert_int_equal(ask(cmdline, "nvme", &out, said, sizeof(said)), -EINVAL);
	assert_null(out);
	assert_non_null(strstr(said, "at most 2032 characters"));
	assert_non_null(strstr(said, "nvme"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_command_line_says_what_linux_reads_in_it),
		cmocka_unit_test(the_guest_is_told_to_be_strict_where_nobody_has),
		cmocka_unit_test(a_lazy_guest_is_refused_a_device_that_it_would_spoil),
		cmocka_unit_test(a_full_command_line_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
