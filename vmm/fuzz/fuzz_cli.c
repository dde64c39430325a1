/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_cli - any command line at all: arguments, a line each.
 *
 * Not what a guest can write, but what scripts and services pass on from elsewhere. Whatever it is,
 * either all of it is understood, and what is returned keeps to the limits that the rest of granule
 * relies on; or one printable line says why not, and the status is not 0.
 *
 * Files: vmm/cli.c
 */
#include "iommu/fuzz/input.h"

#include <ctype.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/layout.h"
#include "vmm/poller.h"

#define MAX_ARGS 64
#define MAX_LEN	 4096u

static char text[MAX_LEN + 1]; /* the arguments, which the result may point into */
static size_t text_len;

/* What was said on a descriptor is caught in a file. */
struct caught {
	int fd, saved, file;
};

static void catch_fd(struct caught *c, int fd)
{
	fflush(NULL);
	c->fd = fd;
	c->saved = dup(fd);
	c->file = memfd_create("said", MFD_CLOEXEC);
	demand(c->saved >= 0 && c->file >= 0 && dup2(c->file, fd) == fd);
}

/* release_fd - Return: bytes said, of which @len are in @buf. */
static size_t release_fd(struct caught *c, char *buf, size_t len)
{
	off_t end;
	ssize_t n;

	fflush(NULL);
	demand(dup2(c->saved, c->fd) == c->fd);
	end = lseek(c->file, 0, SEEK_END);
	n = pread(c->file, buf, len, 0);
	demand(end >= 0 && n >= 0);
	close(c->saved);
	close(c->file);
	return (size_t)end;
}

/* a string of the command line, or a default of the parser's */
static void check_string(const char *s)
{
	demand(s);
	if (s >= text && s <= text + text_len)
		demand(strlen(s) <= (size_t)(text + text_len - s));
}

static void check_sync(bool set, enum sync_mode sync, bool poll_set, unsigned poll_us)
{
	demand(!set || sync == SYNC_FULL || sync == SYNC_RINGS || sync == SYNC_NONE);
	demand(!poll_set || !poll_us || (poll_us >= POLL_US_MIN && poll_us <= POLL_US_MAX));
}

static void check_config(const struct vm_config *vm)
{
	check_string(vm->kernel);
	check_string(vm->cmdline);
	demand(strlen(vm->cmdline) < CMDLINE_MAX);
	demand(vm->memory && vm->memory % (2 << 20) == 0 && vm->memory >= 64 << 20);
	demand(vm->memory <= UINT64_C(43968) << 20);
	demand(vm->vcpus >= 1 && vm->vcpus <= LAYOUT_MAX_VCPUS);
	demand(vm->nr_disks <= CONFIG_MAX_DISKS && vm->nr_vfio <= CONFIG_MAX_VFIO);
	demand(vm->nr_sim <= CONFIG_MAX_SIM && vm->nr_nets <= CONFIG_MAX_NETS);
	for (unsigned i = 0; i < vm->nr_disks; i++)
		if (vm->disks[i].path)
			check_string(vm->disks[i].path);
	for (unsigned i = 0; i < vm->nr_vfio; i++) {
		const struct vfio_config *vfio = &vm->vfio[i];

		check_string(vfio->device);
		check_sync(vfio->sync_set, vfio->sync, vfio->poll_set, vfio->poll_us);
		demand(!vfio->group || (*vfio->group && strlen(vfio->group) <= 16));
	}
	for (unsigned i = 0; i < vm->nr_sim; i++) {
		const struct sim_config *sim = &vm->sim[i];

		demand(sim->kind == SIM_EDU || (sim->kind == SIM_NVME && sim->disk.path));
		demand(sim->darts == 1 || (sim->darts == 2 && sim->kind == SIM_NVME));
		demand(sim->dart <= SIM_DART_T8110 && sim->quirk <= SIM_DART_HUNG_INVALIDATE);
		check_sync(sim->sync_set, sim->sync, sim->poll_set, sim->poll_us);
	}
	for (unsigned i = 0; i < vm->nr_nets; i++) {
		check_string(vm->nets[i].tap);
		demand(*vm->nets[i].tap && strlen(vm->nets[i].tap) <= CONFIG_TAP_NAME_MAX);
		demand(!vm->nets[i].mac_set || !(vm->nets[i].mac[0] & 1));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static char program[] = "granule", out[1], err[8192];
	char *argv[MAX_ARGS + 2] = {program};
	struct caught errors, output;
	struct cli_request req;
	size_t said, printed;
	int argc = 1;

	text_len = MIN(len, MAX_LEN);
	memcpy(text, data, text_len);
	text[text_len] = '\0';
	for (char *at = text; at && argc <= MAX_ARGS;)
		argv[argc++] = strsep(&at, "\n");
	memset(&req, 0xa5, sizeof(req));
	catch_fd(&errors, STDERR_FILENO);
	catch_fd(&output, STDOUT_FILENO);
	cli_parse(argc, argv, &req);
	printed = release_fd(&output, out, sizeof(out));
	said = release_fd(&errors, err, sizeof(err));

	if (req.command == CLI_DONE && !req.status) {
		demand(printed && !said); /* help */
	} else if (req.command == CLI_DONE) {
		demand(req.status == EXIT_USAGE && said && said <= sizeof(err) && !printed);
		for (size_t i = 0; i < said; i++)
			demand(i == said - 1 ? err[i] == '\n' : !iscntrl((unsigned char)err[i]));
	} else {
		demand(!said && !printed);
	}
	if (req.command == CLI_RUN)
		check_config(&req.vm);
	if (req.command == CLI_INSPECT && req.inspect.kernel)
		check_string(req.inspect.kernel);
	else if (req.command == CLI_INSPECT)
		demand(req.inspect.pid > 0 && !(req.inspect.json && req.inspect.svg));
	if (req.command == CLI_STAT)
		demand(req.stat.pid > 0);
	return 0;
}
