/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/poller.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "iommu/base.h"

#define NS_PER_S UINT64_C(1000000000)

struct poller {
	struct evloop *loop;
	struct evloop_watch *watch;
	struct endpoint *ep;
	uint64_t delay_ns;
	int fd;
};

/* A timerfd and not a timer of the loop: starting it again cannot fail for want of memory. */
static void start(struct poller *poller, uint64_t ns)
{
	const struct itimerspec once = {
		.it_value = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)}};

	(void)timerfd_settime(poller->fd, 0, &once, NULL);
}

static void on_timer(void *ctx, uint64_t count)
{
	struct poller *poller = ctx;
	uint64_t began = monotonic_ns(), took;

	(void)count;
	endpoint_sync_for_cpu(poller->ep);
	endpoint_sync_for_device(poller->ep);
	/* It may have held the vCPUs: they get as much time as it took, at least. */
	took = monotonic_ns() - began;
	start(poller, MAX(poller->delay_ns, took));
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
		.delay_ns = us * UINT64_C(1000),
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
		start(poller, poller->delay_ns);
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
