/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gic - KVM's GICv3 and ITS. Two steps, in the order KVM wants: create it, create every vCPU, then
 * realize it; no vCPU runs before that.
 */
#ifndef VMM_GIC_H
#define VMM_GIC_H

#include <stdbool.h>
#include <stdint.h>

struct gic;

/* gic_create - Return: 0; -errno after a line on stderr (the host has no GICv3). */
int gic_create(int vm_fd, struct gic **out);
void gic_destroy(struct gic *gic); /* NULL is fine */

/* gic_realize - addresses of layout.h, interrupt count, then the ITS; all vCPUs exist.
 * Return: 0; -errno after a line on stderr. */
int gic_realize(struct gic *gic, unsigned nr_vcpus);

/* gic_set_spi - drive a shared interrupt's line, numbered from 0 as in the FDT; any thread */
void gic_set_spi(struct gic *gic, unsigned spi, bool level);

/**
 * gic_resample_fd - an eventfd that is signalled each time a guest's end of interrupt has lowered a
 * shared interrupt that gic_set_spi() raised; the gic's. Once per @spi, after gic_realize().
 * Return: fd; -errno.
 */
int gic_resample_fd(struct gic *gic, unsigned spi);

/**
 * gic_msi - write @data to the doorbell at @gpa as requester @devid; any thread
 * Return: 0; -ENXIO the guest's ITS has no such device or event; -errno of KVM.
 */
int gic_msi(struct gic *gic, uint64_t gpa, uint32_t data, uint32_t devid);

/* gic_route, gic_unroute, gic_irqfd, gic_irqfd_off - MSIs that KVM delivers by itself when an
 * eventfd is signalled; as struct pci_machine says (pci.h). Any thread. */
int gic_route(struct gic *gic, int route, uint64_t gpa, uint32_t data, uint32_t devid);
void gic_unroute(struct gic *gic, int route);
int gic_irqfd(struct gic *gic, int fd, int route);
void gic_irqfd_off(struct gic *gic, int fd, int route);

#endif
