/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace - what happens between a guest and its devices, each event with its time, in a file that
 * Perfetto opens: `granule run --trace FILE`.
 *
 * Any thread records; it takes no lock, waits for nobody, and drops what finds no room, which is
 * counted. A thread of the trace's own writes the file, at least every TRACE_FLUSH_MS: if this
 * process is killed the file holds all but what was recorded since then, and its last line may be
 * cut, for a kill ends even a write halfway. The format is the Trace Event Format in its array
 * form, whose closing bracket may be missing. Source: "Trace Event Format", Google, 2016, "JSON
 * Array Format" and "Complete Events".
 */
#ifndef VMM_TRACE_H
#define VMM_TRACE_H

#include <stdint.h>

#include "iommu/mediator.h"

#define TRACE_FLUSH_MS 100

#define TRACE_MAX_MIN	  (UINT64_C(1) << 20)
#define TRACE_MAX_DEFAULT (UINT64_C(1) << 30)

enum trace_kind {
	TRACE_WRITE, /* a trapped write to a register: a doorbell maybe; a: BAR, b: offset, c: value
		      */
	TRACE_READ,  /* a trapped read; as above */
	TRACE_INTERRUPT, /* by way of the event loop; a: vector, TRACE_INTX */
	TRACE_RESET,	 /* the guest resets the function */
	NR_TRACE_KINDS,
};

#define TRACE_INTX UINT64_MAX

struct trace;

/**
 * trace_create - open the file, and start the thread
 * @path: what is there is replaced; a regular file or a device
 * @max: bytes of the file at most, at least TRACE_MAX_MIN; what comes after is dropped
 * Return: 0; -errno after a line on stderr.
 */
int trace_create(const char *path, uint64_t max, struct trace **out);

/* trace_destroy - write what is left, end the file, and say if anything was lost. Nobody records
 * any more. NULL is fine. */
void trace_destroy(struct trace *trace);

/* trace_name_thread - what the calling thread is called in every trace: "vcpu 0"; no
 * character that is special in JSON, and 23 of them at most */
void trace_name_thread(const char *name);

/* trace_event - as mediator_cfg.event; @trace is a struct trace */
void trace_event(void *trace, const struct mediator_event *event);

/* trace_begin - the time, for trace_end(); 0 if @trace is NULL */
uint64_t trace_begin(const struct trace *trace);

/* trace_end - something that began at @begin has ended now; nothing if @trace is NULL.
 * @endpoint: the function's requester id */
void trace_end(struct trace *trace, uint64_t begin, enum trace_kind kind, uint32_t endpoint,
	       uint64_t a, uint64_t b, uint64_t c);

#endif
