/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/gic.h"

#include <errno.h>
#include <linux/kvm.h>
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

struct gic {
	int vm_fd, gic_fd, its_fd; /* -1: not there */
	int trigger_fds[LAYOUT_NR_SPIS], resample_fds[LAYOUT_NR_SPIS];
	unsigned nr_resample_fds;
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
	ret = create_device(vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3);
	if (ret < 0) {
		msg_error(
			"this host's KVM has no virtual GICv3: %s; its CPUs need a GICv3 interface",
			strerror(-ret));
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
