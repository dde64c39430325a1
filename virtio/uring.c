/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/uring.h"

void uring_deliver(struct io_uring *ring, struct io_uring_cqe *cqe)
{
	struct uring_op *op = io_uring_cqe_get_data(cqe);
	int res = cqe->res;
	unsigned flags = cqe->flags;

	/* Given back first: done() may queue requests and wait for room. */
	io_uring_cqe_seen(ring, cqe);
	if (op)
		op->done(op, res, flags);
}
