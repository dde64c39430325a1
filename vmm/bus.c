/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"

struct bus_region {
	uint64_t base, last; /* inclusive */
	const char *name;
	bus_access_fn fn;
	void *ctx;
	unsigned running; /* handlers inside fn now */
	bool removed;	  /* no longer on the bus */
	bool orphaned;	  /* nobody waits in bus_remove(): the last handler out frees it */
};

struct bus {
	pthread_mutex_t lock;	     /* held for a look-up, never while a handler runs */
	pthread_cond_t idle;	     /* some removed region's last handler came out */
	struct bus_region **regions; /* ascending by base, disjoint */
	size_t nr_regions, room;
};

/* How many handlers (of any bus) the calling thread is inside: one that removes a region must not
 * wait, because two that remove each other's regions would wait for ever. */
static _Thread_local unsigned handler_depth;

int bus_create(struct bus **out)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	pthread_mutex_init(&bus->lock, NULL);
	pthread_cond_init(&bus->idle, NULL);
	*out = bus;
	return 0;
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	for (size_t i = 0; i < bus->nr_regions; i++)
		free(bus->regions[i]);
	free(bus->regions);
	pthread_cond_destroy(&bus->idle);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* The first region that ends at or after @gpa; nr_regions if there is none. */
static size_t first_at(const struct bus *bus, uint64_t gpa)
{
	size_t lo = 0, hi = bus->nr_regions;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (bus->regions[mid]->last < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int insert(struct bus *bus, struct bus_region *region)
{
	size_t at = first_at(bus, region->base);

	if (at < bus->nr_regions && bus->regions[at]->base <= region->last)
		return -EBUSY;
	if (bus->nr_regions == bus->room) {
		size_t room = bus->room ? 2 * bus->room : 32;
		struct bus_region **regions =
			realloc(bus->regions, room * sizeof(struct bus_region *));

		if (!regions)
			return -ENOMEM;
		bus->regions = regions;
		bus->room = room;
	}
	memmove(&bus->regions[at + 1], &bus->regions[at],
		(bus->nr_regions - at) * sizeof(struct bus_region *));
	bus->regions[at] = region;
	bus->nr_regions++;
	return 0;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t len, const char *name, bus_access_fn fn,
	    void *ctx, struct bus_region **out)
{
	struct bus_region *region;
	int ret;

	if (!len || base + (len - 1) < base)
		return -EINVAL;
	region = malloc(sizeof(*region));
	if (!region)
		return -ENOMEM;
	*region = (struct bus_region){
		.base = base, .last = base + (len - 1), .name = name, .fn = fn, .ctx = ctx};
	pthread_mutex_lock(&bus->lock);
	ret = insert(bus, region);
	pthread_mutex_unlock(&bus->lock);
	if (ret) {
		free(region);
		return ret;
	}
	if (out)
		*out = region;
	return 0;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
	size_t at;

	if (!region)
		return;
	pthread_mutex_lock(&bus->lock);
	at = first_at(bus, region->base);
	memmove(&bus->regions[at], &bus->regions[at + 1],
		(bus->nr_regions - at - 1) * sizeof(struct bus_region *));
	bus->nr_regions--;
	region->removed = true;
	if (region->running && handler_depth) {
		region->orphaned = true;
		region = NULL;
	}
	while (region && region->running)
		pthread_cond_wait(&bus->idle, &bus->lock);
	pthread_mutex_unlock(&bus->lock);
	free(region);
}

bool bus_access(struct bus *bus, uint64_t gpa, void *data, unsigned len, bool write)
{
	struct bus_region *region = NULL;
	size_t at;

	pthread_mutex_lock(&bus->lock);
	at = first_at(bus, gpa);
	if (at < bus->nr_regions && gpa >= bus->regions[at]->base &&
	    len - 1 <= bus->regions[at]->last - gpa) {
		region = bus->regions[at];
		region->running++;
	}
	pthread_mutex_unlock(&bus->lock);
	if (!region) {
		if (!write)
			memset(data, 0xff, len);
		return false;
	}

	handler_depth++;
	region->fn(region->ctx, gpa - region->base, data, len, write);
	handler_depth--;

	pthread_mutex_lock(&bus->lock);
	if (--region->running == 0 && region->removed) {
		if (region->orphaned)
			free(region);
		else
			pthread_cond_broadcast(&bus->idle);
	}
	pthread_mutex_unlock(&bus->lock);
	return true;
}
