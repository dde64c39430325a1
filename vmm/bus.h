/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus - guest-physical MMIO range -> handler. Any vCPU thread looks up; regions may come and go
 * while the guest runs (a BAR that moves). bus_remove() returns once no handler of it is running,
 * unless it is called from inside a handler.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdbool.h>
#include <stdint.h>

/* @data: @len (1, 2, 4 or 8) bytes, little-endian; a read handler fills all of them */
typedef void (*bus_access_fn)(void *ctx, uint64_t off, void *data, unsigned len, bool write);

struct bus;
struct bus_region;

int bus_create(struct bus **out);
void bus_destroy(struct bus *bus);

/* Return: 0; -EBUSY overlaps another region; -EINVAL; -ENOMEM. */
int bus_add(struct bus *bus, uint64_t base, uint64_t len, const char *name, bus_access_fn fn, void *ctx,
	    struct bus_region **out);
void bus_remove(struct bus *bus, struct bus_region *region);

/* bus_access - false if no region holds the whole access; a read's data is then all ones */
bool bus_access(struct bus *bus, uint64_t gpa, void *data, unsigned len, bool write);

#endif
