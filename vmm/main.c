/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli.h"
#include "vmm/msg.h"

/* A standard stream that is closed would be the next file opened, and messages would go into it. */
static void claim_standard_streams(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static int dispatch(const struct cli_request *request)
{
	switch (request->command) {
	case CLI_RUN:
		/* A reader of our output that goes away must not end the VM before its devices are
		 * reset. */
		signal(SIGPIPE, SIG_IGN);
		return vm_run(&request->vm);
	case CLI_CHECK:
		return check_run();
	case CLI_DEVICES:
		return devices_run(request->json);
	case CLI_STAT:
		return stat_run(&request->stat);
	case CLI_INSPECT:
		return inspect_run(&request->inspect);
	case CLI_DONE:
		break;
	}
	return request->status;
}

int main(int argc, char **argv)
{
	struct cli_request request;
	int status;

	claim_standard_streams();
	cli_parse(argc, argv, &request);
	status = dispatch(&request);
	if (fflush(stdout) || ferror(stdout)) {
		msg_error("cannot write to standard output");
		if (!status)
			status = EXIT_FAILED;
	}
	return status;
}
