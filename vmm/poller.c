/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/poller.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct poller {
	struct evloop *loop;
	struct evloop_watch *watch;
	struct endpoint *ep;
	struct itimerspec delay; /* once */
	int fd;
};

/* A timerfd and not a timer of the loop: starting it again cannot fail for want of memory. */
static void start(struct poller *poller)
{
	(void)timerfd_settime(poller->fd, 0, &poller->delay, NULL);
}

static void on_timer(void *ctx, uint64_t count)
{
	struct poller *poller = ctx;

	(void)count;
	endpoint_sync_for_cpu(poller->ep);
	endpoint_sync_for_device(poller->ep);
	start(poller);
}

int poller_create(struct evloop *loop, struct endpoint *ep, unsigned us, struct poller **out)
{
	struct poller *poller = calloc(1, sizeof(*poller));
	int ret;

	if (!poller)
		return -ENOMEM;
	*poller = (struct poller){
		.loop = loop,
		.ep = ep,
		.delay.it_value = {us / 1000000, (long)(us % 1000000) * 1000},
	};
	poller->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (poller->fd < 0) {
		ret = -errno;
		goto err_free;
	}
	/* Its reads give a count, as an eventfd's do. */
	ret = evloop_add_eventfd(loop, poller->fd, on_timer, poller, &poller->watch);
	if (ret)
		goto err_close;
	if (endpoint_needs_sync(ep))
		start(poller);
	*out = poller;
	return 0;

err_close:
	close(poller->fd);
err_free:
	free(poller);
	return ret;
}

void poller_destroy(struct poller *poller)
{
	if (!poller)
		return;
	evloop_remove(poller->loop, poller->watch);
	close(poller->fd);
	free(poller);
}
