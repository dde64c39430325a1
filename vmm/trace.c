/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iommu/base.h"
#include "vmm/msg.h"
#include "vmm/sandbox.h"

/* Records that wait to be written, at most: some 100 ms of the busiest guest. A power of two. */
#define RING_LEN 16384
/* The writer is woken when so many more have come. */
#define WAKE_AT	 (RING_LEN / 4)

#define MAX_THREADS 64 /* that have names; more are told by number */

/* Bytes of one record at most, and what is kept free for the end of the file. */
#define TEXT_MAX 512
#define END_MAX	 2048 /* three records and a bracket */
#define BUF_LEN	 (64 * 1024)

struct record {
	uint64_t begin, end; /* ns */
	uint32_t kind;	     /* enum mediator_event_kind, or NR_EVENT_KINDS + enum trace_kind */
	uint32_t thread;
	uint32_t domain, endpoint;
	uint32_t flags;
	int32_t ret;
	uint64_t a, b, c; /* MAP: start, last, gpa; others: see trace_kind */
	uint64_t copied;
};

/*
 * A bounded queue of many who put and one who takes. A cell's turn says whose it is: i, that of who
 * puts the i-th record; i + 1, that of who takes it; i + RING_LEN, of who puts there next.
 */
struct cell {
	_Atomic uint64_t turn;
	struct record record;
};

struct thread_name {
	char text[24];
	bool told; /* the writer's */
};

struct trace {
	uint64_t generation;
	uint64_t start; /* ns */
	struct cell *cells;
	_Atomic uint64_t head __attribute__((aligned(64)));
	uint64_t tail __attribute__((aligned(64))); /* the writer's */
	_Atomic uint64_t nr_dropped;
	_Atomic uint32_t nr_threads;
	struct thread_name threads[MAX_THREADS];

	const char *path;
	int fd, wake_fd;
	pthread_t writer;
	atomic_bool ending;
	/* The writer's. */
	bool regular;
	bool full, failed; /* no more records; nothing more at all */
	uint64_t max, written;
	uint64_t nr_written, nr_dropped_told;
	size_t len;	      /* of buf */
	uint64_t nr_buffered; /* records in buf */
	char buf[BUF_LEN];
};

/* Traces that were made before, and which of them this thread is known to. */
static _Atomic uint64_t generations;
static _Thread_local uint64_t my_generation;
static _Thread_local uint32_t my_thread;
static _Thread_local char my_name[24];

void trace_name_thread(const char *name)
{
	snprintf(my_name, sizeof(my_name), "%s", name);
	my_generation = 0;
}

/* ---- recording ------------------------------------------------------------------------------- */

static uint32_t this_thread(struct trace *trace)
{
	if (my_generation == trace->generation)
		return my_thread;
	my_thread = atomic_fetch_add(&trace->nr_threads, 1);
	if (my_thread < MAX_THREADS)
		snprintf(trace->threads[my_thread].text, sizeof(trace->threads[0].text), "%s",
			 my_name[0] ? my_name : "device");
	my_generation = trace->generation;
	return my_thread;
}

static void put(struct trace *trace, const struct record *record)
{
	uint64_t at = atomic_load_explicit(&trace->head, memory_order_relaxed);
	struct cell *cell;

	for (;;) {
		int64_t ahead;

		cell = &trace->cells[at % RING_LEN];
		ahead = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - at);
		if (ahead < 0) {
			atomic_fetch_add_explicit(&trace->nr_dropped, 1, memory_order_relaxed);
			return;
		}
		if (ahead > 0)
			at = atomic_load_explicit(&trace->head, memory_order_relaxed);
		else if (atomic_compare_exchange_weak_explicit(&trace->head, &at, at + 1,
							       memory_order_relaxed,
							       memory_order_relaxed))
			break;
	}
	cell->record = *record;
	cell->record.thread = this_thread(trace);
	atomic_store_explicit(&cell->turn, at + 1, memory_order_release);
	if (at % WAKE_AT == WAKE_AT - 1)
		eventfd_write(trace->wake_fd, 1);
}

void trace_event(void *ctx, const struct mediator_event *event)
{
	put(ctx, &(struct record){
			 .begin = event->begin_ns,
			 .end = event->end_ns,
			 .kind = event->kind,
			 .domain = event->domain,
			 .endpoint = event->endpoint,
			 .flags = event->flags,
			 .ret = event->ret,
			 .a = event->start,
			 .b = event->last,
			 .c = event->gpa,
			 .copied = event->copied,
		 });
}

uint64_t trace_begin(const struct trace *trace)
{
	return trace ? monotonic_ns() : 0;
}

void trace_end(struct trace *trace, uint64_t begin, enum trace_kind kind, uint32_t endpoint,
	       uint64_t a, uint64_t b, uint64_t c)
{
	if (!trace)
		return;
	put(trace, &(struct record){
			   .begin = begin,
			   .end = monotonic_ns(),
			   .kind = NR_EVENT_KINDS + kind,
			   .endpoint = endpoint,
			   .a = a,
			   .b = b,
			   .c = c,
		   });
}

/* ---- writing --------------------------------------------------------------------------------- */

static void give_up(struct trace *trace, const char *why)
{
	msg_error("--trace %s: %s; nothing more is recorded", trace->path, why);
	trace->failed = true;
	/* No half of a record stays in it. */
	if (trace->regular && ftruncate(trace->fd, (off_t)trace->written))
		msg_warn("--trace %s: its last line is not whole", trace->path);
}

static void flush(struct trace *trace)
{
	size_t done = 0;

	while (done < trace->len && !trace->failed) {
		ssize_t n = write(trace->fd, trace->buf + done, trace->len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			give_up(trace, n ? strerror(errno) : "it takes no more");
		else
			done += (size_t)n;
	}
	trace->written += done;
	trace->len = 0;
	/* What did not go out whole was cut off again, and maybe some that had. */
	if (trace->failed)
		atomic_fetch_add_explicit(&trace->nr_dropped, trace->nr_buffered,
					  memory_order_relaxed);
	else
		trace->nr_written += trace->nr_buffered;
	trace->nr_buffered = 0;
}

/* A record, or more of them, that belong together. */
__attribute__((format(printf, 2, 3))) static void add(struct trace *trace, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (trace->len > BUF_LEN - TEXT_MAX)
		flush(trace);
	va_start(ap, fmt);
	n = vsnprintf(trace->buf + trace->len, TEXT_MAX, fmt, ap);
	va_end(ap);
	trace->len += MIN((size_t)n, TEXT_MAX - 1); /* the longest there is fits */
}

static const char *status_name(int ret)
{
	const char *name = ret ? strerrorname_np(-ret) : "ok";

	return name ? name : "error";
}

/* Microseconds with three digits behind the point. */
#define US	  "%" PRIu64 ".%03u"
#define US_OF(ns) (ns) / 1000, (unsigned)((ns) % 1000)

/* The range of a request. What was refused may end before it begins, and all there is has no length
 * of 64 bits. */
static void format_range(const struct record *r, char buf[96])
{
	uint64_t len = r->b - r->a + 1;
	int n = snprintf(buf, 96, "\"iova\":\"0x%" PRIx64 "\",\"last\":\"0x%" PRIx64 "\"", r->a,
			 r->b);

	if (r->b >= r->a && len)
		snprintf(buf + n, 96 - (size_t)n, ",\"length\":%" PRIu64, len);
}

/* Append what is between the braces of args. Return: its length. */
static int format_args(const struct record *r, char *buf, size_t len)
{
	char range[96];

	switch (r->kind) {
	case EVENT_MAP:
		format_range(r, range);
		return snprintf(buf, len,
				"\"domain\":%" PRIu32 ",%s,\"gpa\":\"0x%" PRIx64
				"\",\"rights\":\"%s%s%s\",\"copied\":%" PRIu64 ",\"status\":\"%s\"",
				r->domain, range, r->c, r->flags & MAP_READ ? "r" : "",
				r->flags & MAP_WRITE ? "w" : "", r->flags & MAP_MMIO ? "m" : "",
				r->copied, status_name(r->ret));
	case EVENT_UNMAP:
		format_range(r, range);
		return snprintf(buf, len,
				"\"domain\":%" PRIu32 ",%s,\"copied\":%" PRIu64
				",\"status\":\"%s\"",
				r->domain, range, r->copied, status_name(r->ret));
	case EVENT_ATTACH:
	case EVENT_DETACH:
		return snprintf(buf, len,
				"\"domain\":%" PRIu32 ",\"endpoint\":%" PRIu32 ",\"status\":\"%s\"",
				r->domain, r->endpoint, status_name(r->ret));
	case EVENT_SYNC_FOR_DEVICE:
	case EVENT_SYNC_FOR_CPU:
		return snprintf(buf, len,
				"\"domain\":%" PRIu32 ",\"endpoint\":%" PRIu32
				",\"copied\":%" PRIu64,
				r->domain, r->endpoint, r->copied);
	case EVENT_TRAP:
		return snprintf(buf, len, "\"domain\":%" PRIu32 ",\"endpoint\":%" PRIu32, r->domain,
				r->endpoint);
	case EVENT_FAULT:
		return snprintf(buf, len,
				"\"endpoint\":%" PRIu32 ",\"iova\":\"0x%" PRIx64
				"\",\"access\":\"%s%s\"",
				r->endpoint, r->a, r->flags & FAULT_READ ? "r" : "",
				r->flags & FAULT_WRITE ? "w" : "");
	case NR_EVENT_KINDS + TRACE_WRITE:
	case NR_EVENT_KINDS + TRACE_READ:
		return snprintf(buf, len,
				"\"endpoint\":%" PRIu32 ",\"bar\":%" PRIu64
				",\"offset\":\"0x%" PRIx64 "\",\"value\":\"0x%" PRIx64 "\"",
				r->endpoint, r->a, r->b, r->c);
	case NR_EVENT_KINDS + TRACE_INTERRUPT:
		if (r->a == TRACE_INTX)
			return snprintf(buf, len, "\"endpoint\":%" PRIu32 ",\"vector\":\"INTx\"",
					r->endpoint);
		return snprintf(buf, len, "\"endpoint\":%" PRIu32 ",\"vector\":%" PRIu64,
				r->endpoint, r->a);
	default:
		return snprintf(buf, len, "\"endpoint\":%" PRIu32, r->endpoint);
	}
}

static const char *name_of(const struct record *r)
{
	static const char *const names[NR_EVENT_KINDS + NR_TRACE_KINDS] = {
		[EVENT_MAP] = "map",
		[EVENT_UNMAP] = "unmap",
		[EVENT_ATTACH] = "attach",
		[EVENT_DETACH] = "detach",
		[EVENT_RESET] = "reset of the IOMMU",
		[EVENT_SYNC_FOR_DEVICE] = "sync for device",
		[EVENT_SYNC_FOR_CPU] = "sync for cpu",
		[EVENT_FAULT] = "fault",
		[NR_EVENT_KINDS + TRACE_WRITE] = "doorbell",
		[NR_EVENT_KINDS + TRACE_READ] = "register",
		[NR_EVENT_KINDS + TRACE_INTERRUPT] = "interrupt",
		[NR_EVENT_KINDS + TRACE_RESET] = "reset",
	};

	if (r->kind == EVENT_TRAP)
		return r->flags == TRAP_ON ? "trapped" : "direct";
	return names[r->kind];
}

static void add_thread(struct trace *trace, uint32_t thread)
{
	struct thread_name *name = &trace->threads[thread];

	if (thread >= MAX_THREADS || name->told)
		return;
	name->told = true;
	add(trace,
	    ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32
	    ",\"args\":{\"name\":\"%s\"}}",
	    thread + 1, name->text);
}

static void add_record(struct trace *trace, const struct record *r)
{
	uint64_t ts = r->begin - MIN(r->begin, trace->start);
	char args[TEXT_MAX - 160];

	if (!trace->full && trace->written + trace->len > trace->max - END_MAX) {
		trace->full = true;
		msg_warn("--trace %s: it is as large as it may be, see max=; nothing more is "
			 "recorded",
			 trace->path);
	}
	if (trace->full || trace->failed) {
		atomic_fetch_add_explicit(&trace->nr_dropped, 1, memory_order_relaxed);
		return;
	}
	add_thread(trace, r->thread);
	format_args(r, args, sizeof(args));
	if (r->kind == EVENT_FAULT)
		add(trace,
		    ",\n{\"name\":\"%s\",\"ph\":\"i\",\"s\":\"p\",\"ts\":" US
		    ",\"pid\":1,\"tid\":%" PRIu32 ",\"args\":{%s}}",
		    name_of(r), US_OF(ts), r->thread + 1, args);
	else
		add(trace,
		    ",\n{\"name\":\"%s\",\"ph\":\"X\",\"ts\":" US ",\"dur\":" US
		    ",\"pid\":1,\"tid\":%" PRIu32 ",\"args\":{%s}}",
		    name_of(r), US_OF(ts), US_OF(r->end - r->begin), r->thread + 1, args);
	trace->nr_buffered++;
}

/* What was lost is said where it was. */
static void add_dropped(struct trace *trace)
{
	uint64_t nr = atomic_load_explicit(&trace->nr_dropped, memory_order_relaxed);
	uint64_t ts = monotonic_ns() - trace->start;

	if (nr == trace->nr_dropped_told || trace->full || trace->failed)
		return;
	add(trace,
	    ",\n{\"name\":\"dropped\",\"ph\":\"i\",\"s\":\"g\",\"ts\":" US
	    ",\"pid\":1,\"tid\":0,\"args\":{\"events\":%" PRIu64 "}}",
	    US_OF(ts), nr - trace->nr_dropped_told);
	trace->nr_dropped_told = nr;
}

static bool take(struct trace *trace, struct record *out)
{
	struct cell *cell = &trace->cells[trace->tail % RING_LEN];

	if (atomic_load_explicit(&cell->turn, memory_order_acquire) != trace->tail + 1)
		return false;
	*out = cell->record;
	atomic_store_explicit(&cell->turn, trace->tail + RING_LEN, memory_order_release);
	trace->tail++;
	return true;
}

static void drain(struct trace *trace)
{
	struct record record;

	while (take(trace, &record))
		add_record(trace, &record);
	add_dropped(trace);
	flush(trace);
}

static void *write_records(void *ctx)
{
	struct trace *trace = ctx;
	struct pollfd pfd = {.fd = trace->wake_fd, .events = POLLIN};

	pthread_setname_np(pthread_self(), "trace");
	sandbox_enter(SANDBOX_TRACE);
	while (!atomic_load(&trace->ending)) {
		eventfd_t count;

		if (poll(&pfd, 1, TRACE_FLUSH_MS) > 0)
			eventfd_read(trace->wake_fd, &count);
		drain(trace);
	}
	/* Nobody has recorded since it is ending. */
	drain(trace);
	add(trace, "\n]\n");
	flush(trace);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int open_file(struct trace *trace)
{
	struct stat st;

	/* A pipe without a reader would keep us waiting. */
	trace->fd = open(trace->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
	if (trace->fd < 0 || fstat(trace->fd, &st)) {
		int ret = -errno;

		msg_error("--trace %s: cannot write there: %s", trace->path, strerror(-ret));
		return ret;
	}
	trace->regular = S_ISREG(st.st_mode);
	if (!trace->regular && !S_ISCHR(st.st_mode)) {
		msg_error("--trace %s: not a regular file; give another name", trace->path);
		return -EINVAL;
	}
	if (trace->regular && ftruncate(trace->fd, 0)) {
		msg_error("--trace %s: cannot be emptied: %s", trace->path, strerror(errno));
		return -EINVAL;
	}
	return 0;
}

static void free_trace(struct trace *trace)
{
	if (trace->fd >= 0)
		close(trace->fd);
	if (trace->wake_fd >= 0)
		close(trace->wake_fd);
	free(trace->cells);
	free(trace);
}

int trace_create(const char *path, uint64_t max, struct trace **out)
{
	struct trace *trace = aligned_alloc(64, ALIGN_UP(sizeof(*trace), 64));
	int ret;

	if (!trace) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	memset(trace, 0, sizeof(*trace));
	trace->path = path;
	trace->max = max;
	trace->generation = atomic_fetch_add(&generations, 1) + 1;
	trace->start = monotonic_ns();
	trace->fd = trace->wake_fd = -1;
	trace->cells = calloc(RING_LEN, sizeof(*trace->cells));
	ret = trace->cells ? open_file(trace) : -ENOMEM;
	if (!trace->cells)
		msg_error("out of memory");
	if (ret)
		goto err;
	for (uint64_t i = 0; i < RING_LEN; i++)
		atomic_init(&trace->cells[i].turn, i);
	add(trace, "[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"tid\":0,"
		   "\"args\":{\"name\":\"granule\"}}");
	flush(trace);
	if (trace->failed) { /* it has said why */
		ret = -EIO;
		goto err;
	}
	trace->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = trace->wake_fd < 0 ? -errno
				 : -pthread_create(&trace->writer, NULL, write_records, trace);
	if (ret) {
		msg_error("--trace %s: cannot be set up: %s", path, strerror(-ret));
		goto err;
	}
	*out = trace;
	return 0;

err:
	free_trace(trace);
	return ret;
}

void trace_destroy(struct trace *trace)
{
	uint64_t nr_dropped;

	if (!trace)
		return;
	atomic_store(&trace->ending, true);
	eventfd_write(trace->wake_fd, 1);
	pthread_join(trace->writer, NULL);
	nr_dropped = atomic_load(&trace->nr_dropped);
	if (nr_dropped)
		msg_warn("--trace %s: %" PRIu64 " events recorded, %" PRIu64 " lost", trace->path,
			 trace->nr_written, nr_dropped);
	free_trace(trace);
}
