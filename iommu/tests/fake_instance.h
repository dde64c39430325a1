/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_instance - an instance that holds its caller to the contract of instance.h and lets a test
 * do DMA.
 *
 * What is unmapped stays usable ("stale") until sync(): a device may be in the middle of a write. A
 * test can have a write arrive at that last moment, make the nth map fail, or make sync fail.
 */
#ifndef TESTS_FAKE_INSTANCE_H
#define TESTS_FAKE_INSTANCE_H

#include "iommu/tests/check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "iommu/base.h"
#include "iommu/instance.h"

#ifndef FAKE_MAX
#define FAKE_MAX 4096 /* translations at once */
#endif

struct fake_entry {
	uint64_t iova, len;
	uint8_t *hva;
	unsigned prot;
	bool stale;
};

struct fake_instance {
	struct instance inst;
	struct shadow shadow;
	bool in_use; /* the shadow */
	bool enabled;
	unsigned nr;
	struct fake_entry v[FAKE_MAX];
	unsigned fail_map; /* 1: the next map() fails, 2: the one after, ...; 0: none */
	int map_error;	   /* with this, -ENOMEM if 0 */
	unsigned entries;  /* translations it takes, further ones fail with map_error; 0: any */
	bool fail_sync;
	/* A write in flight: lands in sync() if a stale translation still takes it. */
	bool late_write;
	uint64_t late_iova;
	uint8_t late_byte;
	unsigned nr_maps, nr_unmaps, nr_syncs;
};

static inline struct fake_instance *to_fake(struct instance *inst)
{
	return container_of(inst, struct fake_instance, inst);
}

/* Where a device's access at @iova goes; stale translations count. NULL: it faults. */
static inline uint8_t *fake_translate(struct fake_instance *fake, uint64_t iova, unsigned prot)
{
	if (!fake->enabled)
		return NULL;
	for (unsigned i = 0; i < fake->nr; i++) {
		struct fake_entry *e = &fake->v[i];

		if (iova >= e->iova && iova - e->iova < e->len && (e->prot & prot) == prot)
			return e->hva + (iova - e->iova);
	}
	return NULL;
}

static inline struct fake_instance *fake_of_shadow(struct shadow *shadow)
{
	return container_of(shadow, struct fake_instance, shadow);
}

static inline int fake_map(struct shadow *shadow, uint64_t iova, void *hva, uint64_t len,
			   unsigned prot)
{
	struct fake_instance *fake = fake_of_shadow(shadow);
	struct instance *inst = &fake->inst;
	bool in_aperture = false;
	unsigned live = 0;

	assert_true(len && IS_ALIGNED(iova | len | (uintptr_t)hva, inst->granule));
	assert_true(prot && !(prot & ~3u));
	for (unsigned i = 0; i < inst->nr_apertures; i++)
		in_aperture |= iova >= inst->apertures[i].start &&
			       iova + (len - 1) <= inst->apertures[i].last;
	assert_true(in_aperture);
	for (unsigned i = 0; i < fake->nr; i++) {
		const struct fake_entry *e = &fake->v[i];

		/* also nothing stale: a new translation over an old one needs an invalidation
		 * between, unless it leads to where the old one led */
		if (e->stale && (uintptr_t)e->hva - e->iova == (uintptr_t)hva - iova)
			continue;
		assert_true(iova + (len - 1) < e->iova || e->iova + (e->len - 1) < iova);
	}
	for (unsigned i = 0; i < fake->nr; i++)
		live += !fake->v[i].stale;
	if ((fake->entries && live >= fake->entries) || (fake->fail_map && !--fake->fail_map))
		return fake->map_error ? fake->map_error : -ENOMEM;
	assert_true(fake->nr < FAKE_MAX);
	fake->v[fake->nr++] = (struct fake_entry){iova, len, hva, prot, false};
	fake->nr_maps++;
	return 0;
}

static inline void fake_unmap(struct shadow *shadow, uint64_t iova, uint64_t len)
{
	struct fake_instance *fake = fake_of_shadow(shadow);

	for (unsigned i = 0; i < fake->nr; i++) {
		struct fake_entry *e = &fake->v[i];

		if (e->iova == iova && e->len == len && !e->stale) {
			e->stale = true;
			fake->nr_unmaps++;
			return;
		}
	}
	fail_msg("unmap of what was not mapped as such: iova 0x%llx", (unsigned long long)iova);
}

/* Stale translations are used a last time and go. */
static inline void fake_forget(struct fake_instance *fake)
{
	unsigned kept = 0;

	if (fake->late_write) {
		uint8_t *byte = fake_translate(fake, fake->late_iova, PROT_DEV_WRITE);

		if (byte)
			*byte = fake->late_byte;
		fake->late_write = false;
	}
	for (unsigned i = 0; i < fake->nr; i++) {
		if (!fake->v[i].stale)
			fake->v[kept++] = fake->v[i];
	}
	fake->nr = kept;
}

static inline void fake_destroy(struct shadow *shadow)
{
	struct fake_instance *fake = fake_of_shadow(shadow);

	assert_true(fake->in_use && !fake->enabled);
	fake->nr = 0;
	fake->in_use = false;
}

static const struct shadow_ops fake_shadow_ops = {
	.map = fake_map,
	.unmap = fake_unmap,
	.destroy = fake_destroy,
};

static inline int fake_shadow(struct instance *inst, uint32_t sid, struct shadow **out)
{
	struct fake_instance *fake = to_fake(inst);

	assert_int_equal(sid, 0);
	if (fake->in_use)
		return -EBUSY;
	fake->in_use = true;
	fake->shadow = (struct shadow){.ops = &fake_shadow_ops, .granule = inst->granule};
	*out = &fake->shadow;
	return 0;
}

static inline bool fake_shadow_fits(const struct instance *inst, uint32_t sid,
				    const struct shadow *shadow)
{
	(void)sid;
	return shadow == &container_of(inst, const struct fake_instance, inst)->shadow;
}

static inline int fake_enable(struct instance *inst, uint32_t sid, struct shadow *shadow)
{
	(void)sid;
	assert_ptr_equal(shadow, &to_fake(inst)->shadow);
	to_fake(inst)->enabled = true;
	return 0;
}

static inline int fake_disable(struct instance *inst, uint32_t sid)
{
	struct fake_instance *fake = to_fake(inst);

	(void)sid;
	if (fake->enabled)
		fake_forget(fake);
	fake->enabled = false;
	return 0;
}

static inline void fake_invalidate_start(struct instance *inst, const struct stream_set *streams)
{
	assert_true(stream_set_has(streams, 0));
	to_fake(inst)->nr_syncs++;
}

static inline int fake_invalidate_wait(struct instance *inst)
{
	fake_forget(to_fake(inst));
	return to_fake(inst)->fail_sync ? -EIO : 0;
}

static const struct instance_ops fake_ops = {
	.shadow_create = fake_shadow,
	.shadow_fits = fake_shadow_fits,
	.enable = fake_enable,
	.disable = fake_disable,
	.invalidate_start = fake_invalidate_start,
	.invalidate_wait = fake_invalidate_wait,
};

static inline void fake_init(struct fake_instance *fake, uint64_t granule, uint64_t first,
			     uint64_t last)
{
	memset(fake, 0, sizeof(*fake));
	fake->inst.ops = &fake_ops;
	fake->inst.name = "fake";
	fake->inst.granule = granule;
	fake->inst.nr_streams = 1;
	fake->inst.exclusive = true;
	fake->inst.nr_apertures = 1;
	fake->inst.apertures[0] = (struct iova_range){first, last};
}

/* A device writes @len bytes, byte by byte. Return: false if one of them faulted (those before are
 * written). */
static inline bool fake_dma_write(struct fake_instance *fake, uint64_t iova, const void *buf,
				  size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t *byte = fake_translate(fake, iova + i, PROT_DEV_WRITE);

		if (!byte)
			return false;
		*byte = ((const uint8_t *)buf)[i];
	}
	return true;
}

static inline bool fake_dma_read(struct fake_instance *fake, uint64_t iova, void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		const uint8_t *byte = fake_translate(fake, iova + i, PROT_DEV_READ);

		if (!byte)
			return false;
		((uint8_t *)buf)[i] = *byte;
	}
	return true;
}

#endif
