/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/memory.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/layout.h"
#include "vmm/msg.h"

/* A huge page of a 16 KiB host is 32 MiB, of a 4 KiB one 2 MiB. */
#define RAM_ALIGN 0x2000000ull

#define MAX_SLOTS 1024 /* far below KVM's limit, far above what 8 functions need */

struct memory {
	int vm_fd;
	uint64_t host_page;
	struct gmem gmem;
	void *areas[GMEM_MAX_SPANS]; /* what mmap gave for each span, with room to align */
	pthread_mutex_t lock;	     /* of used[] and its memslots */
	bool used[MAX_SLOTS];
};

static int set_slot(struct memory *memory, unsigned slot, uint64_t gpa, void *hva, uint64_t len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = len,
		.userspace_addr = (uintptr_t)hva,
	};

	return ioctl(memory->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

int memory_map(struct memory *memory, uint64_t gpa, void *hva, uint64_t len)
{
	unsigned slot = 0;
	int ret;

	if (!len || !IS_ALIGNED(gpa | (uintptr_t)hva | len, memory->host_page))
		return -EINVAL;
	pthread_mutex_lock(&memory->lock);
	while (slot < MAX_SLOTS && memory->used[slot])
		slot++;
	ret = slot < MAX_SLOTS ? set_slot(memory, slot, gpa, hva, len) : -ENOSPC;
	if (!ret)
		memory->used[slot] = true;
	pthread_mutex_unlock(&memory->lock);
	return ret ? ret : (int)slot;
}

void memory_unmap(struct memory *memory, int slot)
{
	pthread_mutex_lock(&memory->lock);
	/* KVM needs a little memory of its own for it, which a kernel waits for rather than
	 * refuses; a guest that could go on past us must not run on. */
	while (set_slot(memory, (unsigned)slot, 0, NULL, 0) == -ENOMEM)
		sched_yield();
	memory->used[slot] = false;
	pthread_mutex_unlock(&memory->lock);
}

/* One span of RAM, aligned so that KVM and the host can use huge pages for it. */
static int add_span(struct memory *memory, uint64_t gpa, uint64_t len)
{
	unsigned i = memory->gmem.nr_spans;
	void *area, *hva;
	int ret;

	/* Without MAP_NORESERVE the kernel refuses at once what it can never give. */
	area = mmap(NULL, len + RAM_ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (area == MAP_FAILED)
		return -errno;
	hva = (void *)ALIGN_UP((uintptr_t)area, RAM_ALIGN);
	madvise(hva, len, MADV_HUGEPAGE); /* as fast as it can be, but not needed */
	ret = gmem_add(&memory->gmem, gpa, len, hva);
	if (ret) {
		munmap(area, len + RAM_ALIGN);
		return ret;
	}
	memory->areas[i] = area;
	ret = memory_map(memory, gpa, hva, len);
	return ret < 0 ? ret : 0;
}

int memory_create(int vm_fd, uint64_t size, struct memory **out)
{
	struct memory *memory = calloc(1, sizeof(*memory));
	uint64_t low = MIN(size, LAYOUT_RAM_LOW_MAX);
	int ret;

	if (!memory) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	memory->vm_fd = vm_fd;
	memory->host_page = (uint64_t)sysconf(_SC_PAGESIZE);
	pthread_mutex_init(&memory->lock, NULL);
	ret = add_span(memory, LAYOUT_RAM_LOW_BASE, low);
	if (!ret && size > low)
		ret = add_span(memory, LAYOUT_RAM_HIGH_BASE, size - low);
	if (ret) {
		msg_error("the host cannot give the guest %llu MiB of memory: %s; ask for less "
			  "with -m",
			  (unsigned long long)(size >> 20), strerror(-ret));
		memory_destroy(memory);
		return ret;
	}
	*out = memory;
	return 0;
}

void memory_destroy(struct memory *memory)
{
	if (!memory)
		return;
	for (unsigned i = 0; i < MAX_SLOTS; i++) {
		if (memory->used[i])
			memory_unmap(memory, (int)i);
	}
	for (unsigned i = 0; i < memory->gmem.nr_spans; i++)
		munmap(memory->areas[i], memory->gmem.spans[i].len + RAM_ALIGN);
	pthread_mutex_destroy(&memory->lock);
	free(memory);
}

const struct gmem *memory_gmem(const struct memory *memory)
{
	return &memory->gmem;
}
