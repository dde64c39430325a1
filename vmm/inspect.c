/* SPDX-License-Identifier: Apache-2.0 */
/* inspect - `granule inspect`: what a kernel file is, and how a VM that runs maps its devices. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/cli.h"
#include "vmm/msg.h"
#include "vmm/statsock.h"
#include "vmm/svg.h"

/* arm64 Image header: flags. Source: Linux Documentation/arch/arm64/booting.rst. */
#define IMAGE_FLAGS	       24
#define IMAGE_FLAGS_BIG_ENDIAN 1

#define VERSION_MAX 256 /* longest version line printed, bytes */

/* The granule that suits a kernel whose header does not say its page size: the smallest there is.
 */
#define GRANULE_UNKNOWN 4096u

/* Linux's banner, "Linux version 6.12.57+deb13-arm64 (...) ...". Return: its length; 0: none. */
static size_t find_version(const struct kernel_image *image, const char **out)
{
	static const char words[] = "Linux version ";
	const size_t words_len = sizeof(words) - 1;
	const uint8_t *p = image->data, *end = image->data + image->len;

	while ((p = memmem(p, (size_t)(end - p), words, words_len))) {
		size_t len = words_len;

		while (len < (size_t)(end - p) && len < VERSION_MAX && p[len] >= ' ' &&
		       p[len] <= '~')
			len++;
		/* Not the format strings that start alike. */
		if (len > words_len && p[words_len] >= '0' && p[words_len] <= '9') {
			*out = (const char *)p;
			return len;
		}
		p += words_len;
	}
	return 0;
}

static int inspect_kernel(const char *kernel)
{
	struct kernel_image image;
	const char *version;
	char error[512];
	size_t len;

	if (kernel_load(kernel, UINT64_MAX, &image, error, sizeof(error))) {
		msg_error("%s", error);
		return EXIT_FAILED;
	}
	len = find_version(&image, &version);
	printf("format                %s\n", image.format);
	printf("version               %.*s\n", len ? (int)len : 7, len ? version : "unknown");
	if (image.page_size)
		printf("page size             %u bytes\n", image.page_size);
	else
		printf("page size             unknown: the header does not say\n");
	printf("text offset           0x%" PRIx64 "\n", image.text_offset);
	printf("image size            %" PRIu64 " bytes (%zu in the file, unpacked)\n",
	       image.image_size, image.len);
	printf("endianness            %s\n",
	       image.data[IMAGE_FLAGS] & IMAGE_FLAGS_BIG_ENDIAN ? "big" : "little");
	printf("virtio-iommu granule  %u bytes\n",
	       image.page_size ? image.page_size : GRANULE_UNKNOWN);
	kernel_free(&image);
	return EXIT_POWEROFF;
}

/* ---- a VM that runs -------------------------------------------------------------------------- */

/* Pieces of one domain at most: a VM has less than this, whatever its guest has mapped. */
#define MAX_PIECES 65536

struct inspection {
	const struct inspect_config *cfg;
	FILE *file;
	struct view_vm vm;
	struct svg *svg;
	unsigned nr_shown;
};

static int ask(const struct inspection *in, const struct ask *question, union answer *out)
{
	return statsock_ask("inspect", in->cfg->pid, false, question, out);
}

/* All stretches of a domain; it may be gone by now, and is empty then. Return: 0; -errno after a
 * line on stderr. */
static int fetch_domain(const struct inspection *in, uint32_t id, struct view_map *map)
{
	struct ask question = {.what = ASK_PIECE, .domain = id};
	union answer answer;
	bool more = true;

	for (unsigned i = 0; more; i++) {
		const struct view_piece *piece = &answer.piece;
		int ret = i < MAX_PIECES ? ask(in, &question, &answer) : -ENOMEM;

		for (uint64_t n = 0; !ret && n < piece->nr; n++)
			ret = view_map_add(map, &piece->v[n], !in->cfg->json);
		if (ret == -ENOMEM)
			msg_error("inspect: domain %" PRIu32 " of process %d is too large to show",
				  id, (int)in->cfg->pid);
		if (ret)
			return ret;
		more = piece->found && piece->more;
		question.at = piece->at;
	}
	return 0;
}

static int show_domain(struct inspection *in, const struct view_domain *dom)
{
	struct view_map map = {0};
	int ret = dom->bypass ? 0 : fetch_domain(in, dom->id, &map);

	if (!ret && in->svg)
		ret = svg_add_domain(in->svg, dom, &map);
	else if (!ret && in->cfg->json)
		view_json_domain(in->file, dom, &map, !in->nr_shown);
	else if (!ret)
		view_print_domain(in->file, &in->vm, dom, &map);
	in->nr_shown++;
	view_map_clear(&map);
	return ret;
}

/* Those with a number from the wanted one on, or that one alone. */
static int show_domains(struct inspection *in)
{
	struct ask question = {.what = ASK_DOMAIN, .domain = in->cfg->domain};
	union answer answer;
	int ret;

	do {
		ret = ask(in, &question, &answer);
		if (ret || !answer.domain.found ||
		    (in->cfg->one && answer.domain.id != in->cfg->domain))
			break;
		if (in->nr_shown == VIEW_MAX_DOMAINS) {
			msg_error("inspect: process %d has more domains than can be shown",
				  (int)in->cfg->pid);
			ret = -E2BIG;
			break;
		}
		question.domain = answer.domain.id + 1;
		ret = show_domain(in, &answer.domain);
	} while (!ret && question.domain && !in->cfg->one);
	if (!ret && in->cfg->one && !in->nr_shown) {
		msg_error("inspect: process %d has no domain %" PRIu32, (int)in->cfg->pid,
			  in->cfg->domain);
		ret = -ENOENT;
	}
	return ret;
}

static int show(struct inspection *in)
{
	const struct inspect_config *cfg = in->cfg;
	const struct ask question = {.what = ASK_VM};
	union answer answer;
	int ret = ask(in, &question, &answer);

	if (ret)
		return ret;
	in->vm = answer.vm;
	if (!in->vm.viommu) {
		msg_error("inspect: the guest of process %d has no virtio-iommu", (int)cfg->pid);
		return -ENOENT;
	}
	if (cfg->file) {
		in->file = fopen(cfg->file, "we");
		if (!in->file) {
			ret = -errno;
			msg_error("inspect: %s: cannot write there: %s", cfg->file, strerror(-ret));
			return ret;
		}
	}
	if (cfg->svg)
		ret = svg_begin(in->file, cfg->pid, &in->vm, &in->svg);
	else if (cfg->json)
		view_json_begin(in->file, cfg->pid, &in->vm);
	else
		view_print_vm(in->file, cfg->pid, &in->vm);
	if (!ret)
		ret = show_domains(in);
	if (in->svg)
		svg_end(in->svg);
	else if (cfg->json)
		view_json_end(in->file);
	return ret;
}

static int inspect_vm(const struct inspect_config *cfg)
{
	struct inspection in = {.cfg = cfg, .file = cfg->file ? NULL : stdout};
	int ret = show(&in);

	/* What is wrong with standard output main() says. */
	if (cfg->file && in.file) {
		bool bad = ferror(in.file);

		if ((fclose(in.file) || bad) && !ret) {
			ret = -EIO;
			msg_error("inspect: %s: cannot be written", cfg->file);
		}
	}
	return ret ? EXIT_FAILED : EXIT_POWEROFF;
}

int inspect_run(const struct inspect_config *cfg)
{
	return cfg->kernel ? inspect_kernel(cfg->kernel) : inspect_vm(cfg);
}
