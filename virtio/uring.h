/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring - the convention by which one io_uring is shared: the user_data of every request is a
 * struct uring_op, whose done() the ring's owner calls once per completion, on the ring's thread.
 */
#ifndef VIRTIO_URING_H
#define VIRTIO_URING_H

#include <liburing.h>

struct uring_op {
	/* @res: as in the CQE, negative errno on failure; @flags: CQE flags (IORING_CQE_F_MORE,
	 * ...) */
	void (*done)(struct uring_op *op, int res, unsigned flags);
};

/* uring_get_sqe - a free SQE with @op as user_data set by the caller after prep; submits to make
 * room when the ring is full. Never NULL on a working ring. Use on the ring's own thread only. */
static inline struct io_uring_sqe *uring_get_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	while (!sqe) {
		io_uring_submit(ring);
		sqe = io_uring_get_sqe(ring);
	}
	return sqe;
}

/* uring_deliver - give @cqe, which is @ring's next, back and hand it to its owner */
void uring_deliver(struct io_uring *ring, struct io_uring_cqe *cqe);

#endif
