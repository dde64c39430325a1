/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/gic.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/msg.h"

/* SGIs and PPIs come before the shared ones in KVM's numbers. */
#define NR_PRIVATE_IRQS 32

/* A route's number, in KVM's table, comes after those of the shared interrupts. */
#define FIRST_ROUTE LAYOUT_NR_SPIS

struct route {
	bool used;
	uint64_t gpa;
	uint32_t data, devid;
};

struct gic {
	int vm_fd, gic_fd, its_fd; /* -1: not there */
	int trigger_fds[LAYOUT_NR_SPIS], resample_fds[LAYOUT_NR_SPIS];
	unsigned nr_resample_fds;

	pthread_mutex_t lock; /* of routes */
	struct route *routes;
	unsigned nr_routes, max_routes;
	bool changed; /* since KVM was last told */
};

/* Return: a device fd >= 0; -errno. */
static int create_device(int vm_fd, uint32_t type)
{
	struct kvm_create_device dev = {.type = type};

	return ioctl(vm_fd, KVM_CREATE_DEVICE, &dev) ? -errno : (int)dev.fd;
}

static int set_attr(int fd, uint32_t group, uint64_t attr, void *val)
{
	struct kvm_device_attr arg = {.group = group, .attr = attr, .addr = (uintptr_t)val};

	return ioctl(fd, KVM_SET_DEVICE_ATTR, &arg) ? -errno : 0;
}

int gic_create(int vm_fd, struct gic **out)
{
	struct gic *gic = malloc(sizeof(*gic));
	int ret;

	if (!gic) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	*gic = (struct gic){.vm_fd = vm_fd, .gic_fd = -1, .its_fd = -1};
	ret = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IRQ_ROUTING);
	gic->max_routes = ret > FIRST_ROUTE ? (unsigned)ret - FIRST_ROUTE : 0;
	pthread_mutex_init(&gic->lock, NULL);
	ret = create_device(vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3);
	if (ret < 0) {
		msg_error(
			"this host's KVM has no virtual GICv3: %s; its CPUs need a GICv3 interface",
			strerror(-ret));
		pthread_mutex_destroy(&gic->lock);
		free(gic);
		return ret;
	}
	gic->gic_fd = ret;
	*out = gic;
	return 0;
}

void gic_destroy(struct gic *gic)
{
	if (!gic)
		return;
	if (gic->its_fd >= 0)
		close(gic->its_fd);
	close(gic->gic_fd);
	for (unsigned i = 0; i < gic->nr_resample_fds; i++) {
		close(gic->trigger_fds[i]);
		close(gic->resample_fds[i]);
	}
	pthread_mutex_destroy(&gic->lock);
	free(gic->routes);
	free(gic);
}

/* Source: Linux Documentation/virt/kvm/devices/arm-vgic-v3.rst, "KVM_VGIC_V3_ADDR_TYPE_DIST" and
 * on. */
static int realize_gic(struct gic *gic, unsigned nr_vcpus)
{
	uint64_t dist = LAYOUT_GICD_BASE;
	/* Region 0: how many redistributors, from where. */
	uint64_t redist = LAYOUT_GICR_BASE | (uint64_t)nr_vcpus << 52;
	uint32_t nr_irqs = NR_PRIVATE_IRQS + LAYOUT_NR_SPIS;
	int ret;

	ret = set_attr(gic->gic_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &dist);
	if (ret)
		return ret;
	ret = set_attr(gic->gic_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
		       &redist);
	if (ret)
		return ret;
	ret = set_attr(gic->gic_fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &nr_irqs);
	if (ret)
		return ret;
	return set_attr(gic->gic_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

static int realize_its(struct gic *gic)
{
	uint64_t base = LAYOUT_ITS_BASE;
	int ret;

	ret = create_device(gic->vm_fd, KVM_DEV_TYPE_ARM_VGIC_ITS);
	if (ret < 0)
		return ret;
	gic->its_fd = ret;
	ret = set_attr(gic->its_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, &base);
	if (ret)
		return ret;
	return set_attr(gic->its_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

int gic_realize(struct gic *gic, unsigned nr_vcpus)
{
	int ret;

	ret = realize_gic(gic, nr_vcpus);
	if (ret) {
		msg_error("KVM cannot set up its GICv3 for %u vCPUs: %s", nr_vcpus, strerror(-ret));
		return ret;
	}
	ret = realize_its(gic);
	/* The capability answers 0 until an ITS exists. */
	if (!ret && ioctl(gic->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MSI_DEVID) <= 0)
		ret = -EOPNOTSUPP;
	if (ret)
		msg_error("KVM cannot set up an ITS for the guest's MSIs: %s", strerror(-ret));
	return ret;
}

void gic_set_spi(struct gic *gic, unsigned spi, bool level)
{
	struct kvm_irq_level line = {
		.irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (spi + NR_PRIVATE_IRQS),
		.level = level,
	};

	ioctl(gic->vm_fd, KVM_IRQ_LINE, &line);
}

int gic_resample_fd(struct gic *gic, unsigned spi)
{
	struct kvm_irqfd irqfd = {.gsi = spi, .flags = KVM_IRQFD_FLAG_RESAMPLE};
	int trigger, resample, ret = 0;

	if (gic->nr_resample_fds == LAYOUT_NR_SPIS)
		return -ENOSPC;
	trigger = eventfd(0, EFD_CLOEXEC);
	resample = eventfd(0, EFD_CLOEXEC);
	if (trigger < 0 || resample < 0) {
		ret = -errno;
		goto err_close;
	}
	irqfd.fd = (uint32_t)trigger;
	irqfd.resamplefd = (uint32_t)resample;
	if (ioctl(gic->vm_fd, KVM_IRQFD, &irqfd)) {
		ret = -errno;
		goto err_close;
	}
	/* The line is raised by gic_set_spi(), never by the trigger; but KVM lets go of an irqfd
	 * when its trigger is closed. */
	gic->trigger_fds[gic->nr_resample_fds] = trigger;
	gic->resample_fds[gic->nr_resample_fds++] = resample;
	return resample;

err_close:
	if (trigger >= 0)
		close(trigger);
	if (resample >= 0)
		close(resample);
	return ret;
}

int gic_msi(struct gic *gic, uint64_t gpa, uint32_t data, uint32_t devid)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)gpa,
		.address_hi = (uint32_t)(gpa >> 32),
		.data = data,
		.flags = KVM_MSI_VALID_DEVID,
		.devid = devid,
	};
	int ret = ioctl(gic->vm_fd, KVM_SIGNAL_MSI, &msi);

	if (ret < 0)
		return -errno;
	return ret ? 0 : -ENXIO;
}

/* ---- irqfds --------------------------------------------------------------------------------- */

int gic_route(struct gic *gic, int route, uint64_t gpa, uint32_t data, uint32_t devid)
{
	const struct route want = {true, gpa, data, devid};
	struct route *routes, *was;
	unsigned i;

	pthread_mutex_lock(&gic->lock);
	i = route < 0 ? 0 : (unsigned)route;
	while (route < 0 && i < gic->nr_routes && gic->routes[i].used)
		i++;
	if (i == gic->nr_routes) {
		routes = i < gic->max_routes ? realloc(gic->routes, (i + 1) * sizeof(*routes))
					     : NULL;
		if (!routes) {
			pthread_mutex_unlock(&gic->lock);
			return -ENOSPC;
		}
		gic->routes = routes;
		gic->nr_routes++;
		routes[i].used = false;
	}
	was = &gic->routes[i];
	if (!was->used || was->gpa != gpa || was->data != data || was->devid != devid) {
		*was = want;
		gic->changed = true;
	}
	pthread_mutex_unlock(&gic->lock);
	return (int)i;
}

void gic_unroute(struct gic *gic, int route)
{
	/* KVM may keep it until there is something else to tell. */
	pthread_mutex_lock(&gic->lock);
	gic->routes[route].used = false;
	pthread_mutex_unlock(&gic->lock);
}

/*
 * The whole table at once, as KVM takes it: shared interrupts as KVM has them without a table, then
 * ours. Source: Linux Documentation/virt/kvm/api.rst, "KVM_SET_GSI_ROUTING"; of the default,
 * arch/arm64/kvm/vgic/vgic-irqfd.c, kvm_vgic_setup_default_irq_routing().
 */
static int tell_routes(struct gic *gic)
{
	struct kvm_irq_routing *table;
	int ret;

	if (!gic->changed)
		return 0;
	table = calloc(1,
		       sizeof(*table) + (FIRST_ROUTE + gic->nr_routes) * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	for (; table->nr < FIRST_ROUTE; table->nr++)
		table->entries[table->nr] = (struct kvm_irq_routing_entry){
			.gsi = table->nr,
			.type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip.pin = table->nr,
		};
	for (unsigned i = 0; i < gic->nr_routes; i++) {
		const struct route *route = &gic->routes[i];

		if (!route->used)
			continue;
		table->entries[table->nr++] = (struct kvm_irq_routing_entry){
			.gsi = FIRST_ROUTE + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.flags = KVM_MSI_VALID_DEVID,
			.u.msi.address_lo = (uint32_t)route->gpa,
			.u.msi.address_hi = (uint32_t)(route->gpa >> 32),
			.u.msi.data = route->data,
			.u.msi.devid = route->devid,
		};
	}
	ret = ioctl(gic->vm_fd, KVM_SET_GSI_ROUTING, table) ? -errno : 0;
	free(table);
	gic->changed = ret;
	return ret;
}

int gic_irqfd(struct gic *gic, int fd, int route)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = FIRST_ROUTE + (uint32_t)route};
	int ret;

	pthread_mutex_lock(&gic->lock);
	ret = tell_routes(gic);
	pthread_mutex_unlock(&gic->lock);
	if (ret)
		return ret;
	return ioctl(gic->vm_fd, KVM_IRQFD, &irqfd) ? -errno : 0;
}

void gic_irqfd_off(struct gic *gic, int fd, int route)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = FIRST_ROUTE + (uint32_t)route,
		.flags = KVM_IRQFD_FLAG_DEASSIGN,
	};

	/* It waits for what is being delivered: virt/kvm/eventfd.c, kvm_irqfd_deassign(). It could
	 * only refuse a descriptor that is no eventfd. */
	ioctl(gic->vm_fd, KVM_IRQFD, &irqfd);
}
