/* SPDX-License-Identifier: Apache-2.0 */
/* stat - `granule stat PID`: the statistics of a VM that runs, once or again and again. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "vmm/cli.h"
#include "vmm/statsock.h"

static void wait_seconds(unsigned seconds)
{
	struct timespec left = {.tv_sec = seconds};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

int stat_run(const struct stat_config *cfg)
{
	const struct ask ask = {.what = ASK_STATS};
	struct stats before, shown;
	union answer now;

	for (unsigned i = 0; !cfg->count || i < cfg->count; i++) {
		int ret;

		if (i)
			wait_seconds(cfg->interval);
		ret = statsock_ask("stat", cfg->pid, i > 0, &ask, &now);
		if (ret)
			return ret == -ESHUTDOWN ? EXIT_POWEROFF : EXIT_FAILED;
		shown = now.stats;
		/* Tools subtract for themselves. */
		if (i && !cfg->json)
			stats_since(&shown, &before);
		before = now.stats;
		if (cfg->json)
			stats_write_json(stdout, &shown);
		else
			stats_print_live(stdout, &shown);
		if (fflush(stdout))
			return EXIT_FAILED; /* main() says so */
	}
	return EXIT_POWEROFF;
}
