/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/queue.h"

#include <errno.h>
#include <linux/virtio_ring.h>

#include "iommu/base.h"

/* Ring fields are little-endian, as is every host this runs on; 16-bit ones are read atomically. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are accessed in host byte order");

/* Offsets in the avail and used areas; each ends in the other side's event index. */
#define AVAIL_FLAGS   0
#define AVAIL_IDX     2
#define AVAIL_RING(i) (4 + 2 * (size_t)(i))
#define USED_IDX      2
#define USED_RING(i)  (4 + 8 * (size_t)(i))
#define EVENT_LEN     2

static uint16_t load16(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}

static uint16_t load16_acquire(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELAXED);
}

static void store16_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static bool has_feature(const struct virtqueue *vq, unsigned bit)
{
	return vq->dev->negotiated & BIT(bit);
}

/* ---- set-up ---- */

int virtqueue_enable(struct virtqueue *vq)
{
	const struct gmem *gmem = vq->dev->gmem;
	size_t event = has_feature(vq, VIRTIO_RING_F_EVENT_IDX) ? EVENT_LEN : 0;
	void *desc, *avail, *used;

	if (!IS_POW2(vq->size) || vq->size > vq->dev->queue_size_max)
		return -EINVAL;
	if (!IS_ALIGNED(vq->desc_gpa, VRING_DESC_ALIGN_SIZE) ||
	    !IS_ALIGNED(vq->avail_gpa, VRING_AVAIL_ALIGN_SIZE) ||
	    !IS_ALIGNED(vq->used_gpa, VRING_USED_ALIGN_SIZE))
		return -EINVAL;
	desc = gmem_ptr(gmem, vq->desc_gpa, vq->size * sizeof(struct vring_desc));
	avail = gmem_ptr(gmem, vq->avail_gpa, AVAIL_RING(vq->size) + event);
	used = gmem_ptr(gmem, vq->used_gpa, USED_RING(vq->size) + event);
	if (!desc || !avail || !used)
		return -EFAULT;
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	vq->avail_idx = vq->used_idx = vq->told_idx = 0;
	vq->budget = VIRTQUEUE_NO_BUDGET;
	vq->ready = vq->live = true;
	return 0;
}

void virtqueue_stop(struct virtqueue *vq)
{
	vq->live = false;
}

void virtqueue_reset(struct virtqueue *vq)
{
	*vq = (struct virtqueue){.dev = vq->dev};
}

void virtqueue_break(struct virtqueue *vq)
{
	virtqueue_stop(vq);
	vq->dev->needs_reset(vq->dev);
}

bool virtqueue_live(const struct virtqueue *vq)
{
	return vq->live;
}

void virtqueue_set_budget(struct virtqueue *vq, uint32_t chains)
{
	vq->budget = chains;
}

/* ---- available ring ---- */

/* Is a chain waiting? If none is, the driver has been asked for a kick. */
static bool chain_waits(struct virtqueue *vq)
{
	uint16_t waiting;

	if (!vq->live)
		return false;
	waiting = load16_acquire(vq->avail + AVAIL_IDX) - vq->avail_idx;
	if (!waiting && has_feature(vq, VIRTIO_RING_F_EVENT_IDX)) {
		/*
		 * The request for a kick must be visible before the last look, or a driver that
		 * adds a chain between the two sees no need to kick and nobody serves it. Without
		 * EVENT_IDX kicks are never turned off.
		 */
		store16(vq->used + USED_RING(vq->size), vq->avail_idx);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		waiting = load16_acquire(vq->avail + AVAIL_IDX) - vq->avail_idx;
	}
	if (waiting > vq->size) {
		virtqueue_break(vq);
		return false;
	}
	return waiting;
}

bool virtqueue_over_budget(struct virtqueue *vq)
{
	return !vq->budget && chain_waits(vq);
}

/* One table of descriptors: the ring's own, or an indirect one. */
struct desc_table {
	const uint8_t *base;
	uint32_t nr; /* entries */
};

/* Copy a descriptor that the guest may be writing: after this, only the copy is looked at. */
static bool desc_copy(const struct desc_table *table, uint32_t i, struct vring_desc *out)
{
	if (i >= table->nr)
		return false;
	memcpy(out, table->base + i * sizeof(*out), sizeof(*out));
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* or the compiler might load it again */
	return true;
}

static bool chain_add(const struct virtqueue *vq, struct virtqueue_chain *chain,
		      const struct vring_desc *desc)
{
	bool writable = desc->flags & VRING_DESC_F_WRITE;
	void *hva;

	if (!writable && chain->nr_writable)
		return false;
	if (!desc->len)
		return true;
	hva = gmem_ptr(vq->dev->gmem, desc->addr, desc->len);
	/* "longer than 2^32 bytes in total" is forbidden; one less fits used.len */
	if (!hva || desc->len > UINT32_MAX - chain->readable - chain->writable)
		return false;
	chain->iov[chain->nr_readable + chain->nr_writable] =
		(struct iovec){.iov_base = hva, .iov_len = desc->len};
	if (writable) {
		chain->nr_writable++;
		chain->writable += desc->len;
	} else {
		chain->nr_readable++;
		chain->readable += desc->len;
	}
	return true;
}

/* Follow a chain from descriptor @head to its end; false when it is malformed. */
static bool chain_walk(const struct virtqueue *vq, uint16_t head, struct virtqueue_chain *chain)
{
	struct desc_table table = {.base = vq->desc, .nr = vq->size};
	bool indirect = false;
	uint32_t i = head, total = 0;
	struct vring_desc desc;

	chain->head = head;
	chain->nr_readable = chain->nr_writable = 0;
	chain->readable = chain->writable = 0;
	for (;;) {
		if (!desc_copy(&table, i, &desc))
			return false;
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (indirect || (desc.flags & VRING_DESC_F_NEXT) ||
			    !has_feature(vq, VIRTIO_RING_F_INDIRECT_DESC) ||
			    desc.len % sizeof(desc))
				return false;
			table.base = gmem_ptr(vq->dev->gmem, desc.addr, desc.len);
			table.nr = desc.len / sizeof(desc);
			if (!table.base)
				return false;
			indirect = true;
			i = 0;
			continue;
		}
		/* a loop ends here too */
		if (total++ == VIRTQUEUE_MAX_SEGS || !chain_add(vq, chain, &desc))
			return false;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return true;
		i = desc.next;
	}
}

bool virtqueue_pop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
	uint16_t head;

	if (!chain_waits(vq) || !vq->budget)
		return false;
	head = load16(vq->avail + AVAIL_RING(vq->avail_idx & (vq->size - 1)));
	if (!chain_walk(vq, head, chain)) {
		virtqueue_break(vq);
		return false;
	}
	vq->avail_idx++;
	if (vq->budget != VIRTQUEUE_NO_BUDGET)
		vq->budget--;
	return true;
}

/* ---- used ring ---- */

void virtqueue_push_all(struct virtqueue *vq, const struct vring_used_elem *elems, unsigned nr)
{
	if (!vq->live)
		return;
	for (unsigned i = 0; i < nr; i++)
		memcpy(vq->used + USED_RING((vq->used_idx + i) & (vq->size - 1)), &elems[i],
		       sizeof(elems[i]));
	/* entries and buffers are visible before the index that names them */
	vq->used_idx = (uint16_t)(vq->used_idx + nr);
	store16_release(vq->used + USED_IDX, vq->used_idx);
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t len)
{
	const struct vring_used_elem elem = {.id = head, .len = len};

	virtqueue_push_all(vq, &elem, 1);
}

bool virtqueue_should_interrupt(struct virtqueue *vq)
{
	uint16_t told = vq->told_idx;

	if (!vq->live || told == vq->used_idx)
		return false;
	vq->told_idx = vq->used_idx;
	/* The used index is visible before the driver's wish is read: it writes its wish, then
	 * looks. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (has_feature(vq, VIRTIO_RING_F_EVENT_IDX))
		return vring_need_event(load16(vq->avail + AVAIL_RING(vq->size)), vq->used_idx,
					told);
	return !(load16(vq->avail + AVAIL_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
}

void virtqueue_interrupt(struct virtqueue *vq)
{
	if (virtqueue_should_interrupt(vq))
		vq->dev->interrupt(vq->dev, false);
}

/* ---- buffers ---- */

/* Copy between @buf and bytes [off, off + len) of an iovec list, as far as it goes. */
static size_t iov_copy(const struct iovec *iov, unsigned nr, size_t off, uint8_t *buf, size_t len,
		       bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < nr && done < len; i++) {
		uint8_t *base = iov[i].iov_base;
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - off, len - done);
		if (to_guest)
			memcpy(base + off, buf + done, n);
		else
			memcpy(buf + done, base + off, n);
		done += n;
		off = 0;
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST); /* what was read is checked in the copy only */
	return done;
}

size_t chain_read(const struct virtqueue_chain *chain, size_t off, void *dst, size_t len)
{
	return iov_copy(chain->iov, chain->nr_readable, off, dst, len, false);
}

size_t chain_write(const struct virtqueue_chain *chain, size_t off, const void *src, size_t len)
{
	return iov_write(chain->iov + chain->nr_readable, chain->nr_writable, off, src, len);
}

size_t iov_write(const struct iovec *iov, unsigned nr, size_t off, const void *src, size_t len)
{
	return iov_copy(iov, nr, off, (uint8_t *)src, len, true);
}
