/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "iommu/sysfs.h"
#include "vmm/devices.h"

static char dir[64], ids_path[96];

static void put(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "mkdir -p \"$(dirname '%s/%s')\"", dir, path);
	assert_int_equal(system(full), 0);
	snprintf(full, sizeof(full), "%s/%s", dir, path);
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void link_to(const char *path, const char *target)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), "ln -s '%s' '%s/%s'", target, dir, path);
	assert_int_equal(system(cmd), 0);
}

#define DEV "bus/pci/devices/0000:01:00.0/"

static int a_host(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_devices.XXXXXX");
	assert_non_null(mkdtemp(dir));
	sysfs_root = dir;
	put("pci.ids", "# a comment\n\n"
		       "1b36  Red Hat, Inc.\n"
		       "\t0008  QEMU PCIe Host bridge\n"
		       "\t0010  QEMU \"NVM\\Express\" Controller\n"
		       "\t\t1af4 1100  QEMU Virtual Machine\n"
		       "1b37  Signal Processing Devices Sweden AB\n"
		       "\t0011  not the one\n"
		       "C 01  Mass storage controller\n"
		       "\t08  Non-Volatile memory controller\n"
		       "\t\t02  NVM Express\n"
		       "C 02  Network controller\n");
	snprintf(ids_path, sizeof(ids_path), "%s/pci.ids", dir);
	devices_pci_ids = ids_path;
	return 0;
}

static int no_host(void **state)
{
	char cmd[128];

	(void)state;
	sysfs_root = "/sys";
	snprintf(cmd, sizeof(cmd), "rm -r '%s'", dir);
	return system(cmd);
}

static void put_nvme(void)
{
	put(DEV "class", "0x010802\n");
	put(DEV "vendor", "0x1b36\n");
	put(DEV "device", "0x0010\n");
	put(DEV "reset_method", "flr bus\n");
	put(DEV "resource", "0x0000008000000000 0x0000008000003fff 0x0000000000140204\n"
			    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
			    "0x0000000010000000 0x00000000100fffff 0x0000000000042208\n"
			    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
			    "0x000000000000e000 0x000000000000e01f 0x0000000000040101\n"
			    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
			    "0x0000000010100000 0x000000001010ffff 0x0000000000046200\n");
	put("kernel/iommu_groups/7/reserved_regions",
	    "0x0000000008000000 0x00000000080fffff msi\n"
	    "0x00000000ffffc000 0x00000000ffffffff direct\n");
	link_to(DEV "driver", "../../../../bus/pci/drivers/nvme");
	link_to(DEV "iommu_group", "../../../../kernel/iommu_groups/7");
}

static char *print(bool json)
{
	size_t len;
	char *text;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	assert_int_equal(devices_print(out, json), 0);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void assert_has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is not in:\n%s", part, text);
}

/* A judge of its own: one JSON value. Return: what follows it, or NULL. */
static const char *json_value(const char *s);

static const char *skip_space(const char *s)
{
	while (*s == ' ' || *s == '\n')
		s++;
	return s;
}

static const char *json_text(const char *s)
{
	if (*s++ != '"')
		return NULL;
	for (; *s != '"'; s++) {
		if ((unsigned char)*s < 0x20)
			return NULL;
		if (*s == '\\') {
			s++;
			if (*s == 'u')
				for (int i = 0; i < 4; i++)
					if (!isxdigit((unsigned char)*++s))
						return NULL;
			if (!strchr("\"\\/bfnrtu0123456789abcdef", *s))
				return NULL;
		}
	}
	return s + 1;
}

static const char *json_list(const char *s, char close, bool named)
{
	s = skip_space(s + 1);
	if (*s == close)
		return s + 1;
	for (;;) {
		if (named) {
			s = json_text(skip_space(s));
			if (!s || *(s = skip_space(s)) != ':')
				return NULL;
			s++;
		}
		s = json_value(s);
		if (!s)
			return NULL;
		s = skip_space(s);
		if (*s == close)
			return s + 1;
		if (*s++ != ',')
			return NULL;
	}
}

static const char *json_value(const char *s)
{
	static const char *const words[] = {"true", "false", "null"};

	s = skip_space(s);
	if (*s == '{')
		return json_list(s, '}', true);
	if (*s == '[')
		return json_list(s, ']', false);
	if (*s == '"')
		return json_text(s);
	for (unsigned i = 0; i < 3; i++)
		if (!strncmp(s, words[i], strlen(words[i])))
			return s + strlen(words[i]);
	if (!isdigit((unsigned char)*s))
		return NULL;
	while (isdigit((unsigned char)*s))
		s++;
	return s;
}

static void assert_json(const char *text)
{
	const char *end = json_value(text);

	if (!end || *skip_space(end))
		fail_msg("not JSON:\n%s", text);
}

static void a_function_is_told_with_all_that_is_known(void **state)
{
	static const char *const parts[] = {
		"0000:01:00.0  Non-Volatile memory controller: Red Hat, Inc. QEMU \"NVM\\Express\" "
		"Controller "
		"[1b36:0010]\n",
		"\tdriver   nvme\n",
		"\tgroup    7\n",
		"\treserved 0x8000000-0x80fffff (msi)\n",
		"\t         0xffffc000-0xffffffff (direct)\n",
		"\tBAR 0    16 KiB, memory, 64-bit\n",
		"\tBAR 2    1 MiB, memory, prefetchable\n",
		"\tBAR 4    32 bytes, I/O ports: the guest does not see them\n",
		"\treset    flr bus\n",
	};
	char *text;

	(void)state;
	put_nvme();
	text = print(false);
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)

		assert_has(text, parts[i]);
	assert_null(strstr(text, "BAR 6")); /* the ROM */
	free(text);
}

static void json_says_the_same_and_escapes(void **state)
{
	static const char *const parts[] = {
		"\"bdf\": \"0000:01:00.0\"",
		"\"vendor\": \"1b36\", \"device\": \"0010\", \"class\": \"010802\"",
		"\"device_name\": \"QEMU \\\"NVM\\\\Express\\\" Controller\"",
		"\"driver\": \"nvme\"",
		"\"group\": 7",
		"\"apertures\": null",
		"{\"start\": \"0x8000000\", \"last\": \"0x80fffff\", \"type\": \"msi\"}",
		"{\"index\": 0, \"size\": 16384, \"kind\": \"memory\", \"wide\": true, "
		"\"prefetchable\": false}",
		"\"kind\": \"io\"",
		"\"reset\": [\"flr\", \"bus\"]",
	};
	char *text;

	(void)state;
	put_nvme();
	text = print(true);
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		assert_has(text, parts[i]);
	assert_json(text);
	free(text);
}

static void what_is_not_there_is_none(void **state)
{
	char *text;

	(void)state;
	put("bus/pci/devices/0000:02:00.0/class", "0x028000\n");
	put("bus/pci/devices/0000:02:00.0/vendor", "0x1b37\n");
	put("bus/pci/devices/0000:02:00.0/device", "0x0010\n");
	text = print(false);
	assert_has(text,
		   "Network controller: Signal Processing Devices Sweden AB device [1b37:0010]");
	assert_has(text, "driver   none");
	assert_has(text, "group    none");
	assert_has(text, "reset    not possible");
	free(text);
	text = print(true);
	assert_has(text, "\"driver\": null, \"group\": null");
	assert_has(text, "\"device_name\": null");
	assert_has(text, "\"reset\": []");
	assert_json(text);
	free(text);
}

static void without_a_file_of_names_the_class_is_still_told(void **state)
{
	char *text;

	(void)state;
	devices_pci_ids = "/nonexistent/pci.ids";
	put_nvme();
	text = print(false);
	assert_has(text, "Storage: [1b36:0010]");
	free(text);
}

static void odd_text_in_sysfs_and_names_stays_json(void **state)
{
	static const char *const odd[] = {"flr\x01\x7f\"\\", "\xff\xfe\xc3", "\xc3\xa9t\xc3\xa9"};
	char *text;

	(void)state;
	put_nvme();
	for (unsigned i = 0; i < 3; i++) {
		put(DEV "reset_method", odd[i]);
		put(DEV "resource", odd[i]);
		put(DEV "class", odd[i]);
		put("kernel/iommu_groups/7/reserved_regions", "1 2 \"\n\n3\n");
		text = print(true);
		assert_json(text);
		free(text);
		text = print(false);
		free(text);
	}
	put("pci.ids", "1b36  \x01\xe2\x82");
	text = print(true);
	assert_json(text);
	free(text);
	put("pci.ids", "");
	text = print(true);
	assert_json(text);
	free(text);
}

static void a_host_without_pci_says_so(void **state)
{
	char *text;

	(void)state;
	text = print(false);
	assert_string_equal(text, "this host has no PCI functions\n");
	free(text);
	text = print(true);
	assert_json(text);
	free(text);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, a_host, no_host)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_function_is_told_with_all_that_is_known),
		TEST(json_says_the_same_and_escapes),
		TEST(what_is_not_there_is_none),
		TEST(without_a_file_of_names_the_class_is_still_told),
		TEST(odd_text_in_sysfs_and_names_stays_json),
		TEST(a_host_without_pci_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
