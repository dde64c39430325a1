/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_view - whoever answers `granule stat` and `granule inspect --domain`, and whoever asks a VM.
 *
 * A process of another user's, or one that is no granule at all, may be behind a socket. The input
 * is what it answers: a good answer in which bytes are changed, cut short, or followed by more. It
 * is refused with one line, or what is then printed holds nothing that a terminal would take for a
 * command, JSON is JSON, and a picture is well-formed and without scripts. The other way round a VM
 * is asked anything: it answers good questions, and lives.
 *
 * Files: vmm/statsock.c vmm/view.c vmm/svg.c vmm/stats.c iommu/stretch.c
 */
#include "iommu/fuzz/input.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/msg.h"
#include "vmm/statsock.h"
#include "vmm/svg.h"
#include "vmm/view.h"

#define MAX_ANSWER (16 + sizeof(union answer) + 64) /* head, body, what is too much */

static char dir[] = "/tmp/granule-fuzz.XXXXXX";
static struct sockaddr_un addr = {.sun_family = AF_UNIX};
static int listener = -1;
static struct evloop *loop;
static unsigned lines; /* said on stderr */

/* What the server sends next: head and answer; and the head that it got, which is a good one. */
static uint8_t answer[MAX_ANSWER], head[16];
static size_t answer_len;

/* ---- messages ----------------------------------------------------------------------------------
 */

static void say(const char *fmt, va_list ap)
{
	char line[5000];
	int n = vsnprintf(line, sizeof(line), fmt, ap);

	demand(n > 0 && n < (int)sizeof(line));
	for (int i = 0; i < n; i++)
		demand(!iscntrl((unsigned char)line[i]));
	lines++;
}

#define MESSAGE(name)                                                                              \
	void name(const char *fmt, ...)                                                            \
	{                                                                                          \
		va_list ap;                                                                        \
                                                                                                   \
		va_start(ap, fmt);                                                                 \
		say(fmt, ap);                                                                      \
		va_end(ap);                                                                        \
	}

MESSAGE(msg_error)
MESSAGE(msg_warn)
MESSAGE(msg_info)
MESSAGE(msg_tell)
MESSAGE(msg_notable)

void msg_verbose(bool on)
{
	(void)on;
}

bool msg_is_verbose(void)
{
	return true;
}

void msg_raw_terminal(bool raw)
{
	(void)raw;
}

/* ---- what is printed ---------------------------------------------------------------------------
 */

static void check_text(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		demand(isprint(c) || c == '\n' || c >= 0x80);
	}
}

/* JSON by its grammar (RFC 8259), numbers and words not looked into. */
static const char *json(const char *at)
{
	char end = *at == '{' ? '}' : ']';

	if (*at == '"') {
		for (at++; *at != '"'; at++) {
			demand(!iscntrl((unsigned char)*at));
			if (*at == '\\')
				at++;
			demand(*at);
		}
		return at + 1;
	}
	if (*at != '{' && *at != '[') {
		size_t len = strspn(at, "-+.0123456789abcdefghijklmnopqrstuvwxyzE");

		demand(len && strncmp(at, "nan", 3) != 0 && strncmp(at, "-nan", 4) != 0 &&
		       strncmp(at, "inf", 3) != 0 && strncmp(at, "-inf", 4) != 0);
		return at + len;
	}
	at++;
	at += strspn(at, " \n\t");
	while (*at != end) {
		if (end == '}') {
			demand(*at == '"');
			at = json(at);
			at += strspn(at, " \n\t");
			demand(*at++ == ':');
			at += strspn(at, " \n\t");
		}
		at = json(at);
		at += strspn(at, " \n\t");
		demand(*at == end || *at == ',');
		if (*at == ',') {
			at++;
			at += strspn(at, " \n\t");
			demand(*at != end);
		}
	}
	return at + 1;
}

static void check_json(const char *text)
{
	const char *at = json(text + strspn(text, " \n\t"));

	demand(!at[strspn(at, " \n\t")]);
}

/* Elements that are opened are closed, in that order; nothing else is between < and >. */
static void check_svg(const char *text)
{
	char names[16][16];
	unsigned depth = 0;

	for (const char *at = text; *at; at++) {
		if (*at == '&') {
			demand(!strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4) ||
			       !strncmp(at, "&amp;", 5) || !strncmp(at, "&quot;", 6) ||
			       !strncmp(at, "&#", 2));
		} else if (*at == '<') {
			const char *name = at[1] == '/' ? at + 2 : at + 1, *end = strchr(at, '>');
			size_t len = strcspn(name, " />\n");

			demand(end && len && len < sizeof(names[0]));
			demand(strncmp(name, "script", 6) != 0);
			demand(!memchr(at + 1, '<', (size_t)(end - at - 1)));
			if (at[1] == '/') {
				demand(depth-- && !strncmp(names[depth], name, len) &&
				       !names[depth][len]);
			} else if (at[1] != '?' && at[1] != '!' && end[-1] != '/') {
				demand(depth < ARRAY_SIZE(names));
				memcpy(names[depth], name, len);
				names[depth++][len] = '\0';
			}
			at = end;
		}
	}
	demand(!depth);
}

/* ---- good answers ------------------------------------------------------------------------------
 */

static void good_vm(struct view_vm *vm)
{
	memset(vm, 0, sizeof(*vm));
	vm->viommu = 1;
	vm->granule = 0x1000;
	vm->frame_size = 0x4000;
	vm->range.last = UINT32_MAX;
	vm->nr_endpoints = vm->nr_instances = 2;
	for (unsigned i = 0; i < 2; i++) {
		struct view_endpoint *ep = &vm->endpoints[i];

		strcpy(ep->name, "0000:01:00.0");
		ep->id = 8 * i + 8;
		ep->attached = ep->nr_streams = ep->nr_resv = 1;
		ep->domain = 3; /* as good_answer() has it */
		ep->streams[0].instance = i;
		ep->resv[0].msi = 1;
		strcpy(vm->instances[i].kind, "vfio");
		strcpy(vm->instances[i].name, "group 7");
		vm->instances[i].granule = 0x4000;
		vm->instances[i].nr_apertures = 1;
	}
}

static void good_piece(struct view_piece *piece)
{
	memset(piece, 0, sizeof(*piece));
	piece->found = 1;
	piece->nr = 12;
	for (unsigned i = 0; i < piece->nr; i++) {
		uint64_t at = (i + i / 4 * 0x1000ull) * 0x4000;

		piece->v[i] = (struct stretch){
			.start = at,
			.last = at + 0x3fff,
			.iova = at,
			.gpa = 0x40000000 + at,
			.slots = 4,
			.class = i % NR_STRETCH_CLASSES,
			.rights = i % 4,
			.linear = true,
		};
	}
}

static void good_answer(uint32_t what, union answer *out)
{
	memset(out, 0, sizeof(*out));
	switch (what) {
	case ASK_STATS:
		out->stats.viommu = true;
		out->stats.nr_nets = 1;
		strcpy(out->stats.nets[0].tap, "tap0");
		out->stats.seconds = 2.5;
		break;
	case ASK_VM:
		good_vm(&out->vm);
		break;
	case ASK_DOMAIN:
		out->domain.found = 1;
		out->domain.id = 3;
		break;
	default:
		good_piece(&out->piece);
		break;
	}
}

static size_t body_len(uint32_t what)
{
	static const size_t lens[NR_ASKS] = {sizeof(struct stats), sizeof(struct view_vm),
					     sizeof(struct view_domain), sizeof(struct view_piece)};

	return lens[what];
}

/* ---- the server that is not granule ------------------------------------------------------------
 */

static void *serve(void *ctx)
{
	static uint8_t bytes[MAX_ANSWER]; /* who has enough does not wait for the rest */
	uint8_t request[256];
	size_t len;

	(void)ctx;
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		ssize_t n;

		demand(fd >= 0);
		len = answer_len;
		memcpy(bytes, answer, len);
		n = recv(fd, request, sizeof(request), 0);
		if (n >= (ssize_t)sizeof(head) && !head[0])
			memcpy(head, request, sizeof(head));
		for (size_t at = 0; at < len; at += (size_t)n) {
			n = send(fd, bytes + at, len - at, MSG_NOSIGNAL);
			if (n <= 0)
				break;
		}
		close(fd);
	}
	return NULL;
}

/* ask - what is answered is a good answer, changed by the input */
static bool ask(struct input *in, uint32_t what, uint32_t domain, uint64_t at, union answer *out)
{
	const struct ask question = {.what = what, .domain = domain, .at = at};
	uint8_t how = take8(in);
	union answer good;
	int ret;

	good_answer(what, &good);
	answer_len = sizeof(head) + body_len(what);
	memset(answer, 0, sizeof(answer));
	memcpy(answer, head, sizeof(head));
	put_le32(answer + 12, (uint32_t)answer_len);
	memcpy(answer + sizeof(head), &good, body_len(what));
	for (unsigned i = 0; i < (how & 7u); i++) { /* changes */
		uint8_t len = take8(in) % 17;
		size_t off = sizeof(head) + take16(in) % body_len(what);

		if (off + len <= answer_len)
			take(in, answer + off, len);
	}
	if (how & 8)
		answer[take8(in) % sizeof(head)] ^= take8(in);
	if (how & 0x10)
		answer_len -= take16(in) % (answer_len + 1);
	else if (how & 0x20)
		answer_len += take8(in) % 64;
	lines = 0;
	memset(out, 0, sizeof(*out));
	ret = statsock_ask("fuzz", getpid(), how & 0x40, &question, out);
	demand(ret <= 0);
	demand(lines == (ret && ret != -ESHUTDOWN));
	demand(ret || (answer_len >= sizeof(head) + body_len(what) && !memcmp(answer, head, 12)));
	return !ret;
}

/* ---- the VM that is asked ----------------------------------------------------------------------
 */

static void answer_ask(void *ctx, const struct ask *question, union answer *out)
{
	(void)ctx;
	demand(question->what < NR_ASKS);
	good_answer(question->what, out);
}

static void stop(void *ctx)
{
	(void)ctx;
	evloop_stop(loop, 0);
}

/* question_vm - clients send what they like; a good one is answered all the same */
static void question_vm(struct input *in)
{
	struct evloop_watch *timer;
	struct sockaddr_un vm = addr;
	struct statsock *sock;
	uint8_t bytes[64], reply[16];
	int fds[4];
	unsigned nr = 1 + take8(in) % 3;

	snprintf(vm.sun_path, sizeof(vm.sun_path), "%s-vm", dir);
	demand(!evloop_create(0, &loop));
	setenv("XDG_RUNTIME_DIR", vm.sun_path, 1);
	demand(!statsock_create(loop, answer_ask, NULL, &sock));
	snprintf(vm.sun_path + strlen(vm.sun_path), 32, "/granule-%d.sock", (int)getpid());
	for (unsigned i = 0; i <= nr; i++) {
		uint8_t how = take8(in), len = take8(in) % (sizeof(bytes) + 1);

		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		demand(!connect(fds[i], (struct sockaddr *)&vm, sizeof(vm)));
		take(in, bytes, sizeof(bytes));
		if (i == nr || how & 1)
			memcpy(bytes, head, sizeof(head));
		if (i == nr) { /* a good one */
			memset(bytes + sizeof(head), 0, sizeof(struct ask));
			put_le32(bytes + sizeof(head), how % NR_ASKS);
			len = sizeof(head) + sizeof(struct ask);
		}
		demand(send(fds[i], bytes, len, MSG_NOSIGNAL) == len);
		if (i < nr && how & 2)
			shutdown(fds[i], SHUT_WR);
	}
	demand(!evloop_add_timer(loop, 200000, stop, NULL, &timer));
	demand(!evloop_run(loop));
	demand(recv(fds[nr], reply, sizeof(reply), MSG_WAITALL) == sizeof(reply));
	demand(!memcmp(reply, head, 12));
	for (unsigned i = 0; i <= nr; i++)
		close(fds[i]);
	statsock_destroy(sock);
	evloop_destroy(loop);
	setenv("XDG_RUNTIME_DIR", dir, 1);
}

/* ---- an input ----------------------------------------------------------------------------------
 */

/* caught - what @print wrote, for free() */
static char *caught(void (*print)(FILE *file, void *ctx), void *ctx)
{
	size_t len;
	char *text;
	FILE *file = open_memstream(&text, &len);

	demand(file);
	print(file, ctx);
	demand(!fclose(file));
	demand(strlen(text) == len);
	check_text(text, len);
	return text;
}

struct shown {
	struct view_vm vm;
	struct view_domain domain;
	struct view_map folded, whole;
	struct stats stats;
};

static void print_view(FILE *file, void *ctx)
{
	struct shown *s = ctx;

	view_print_vm(file, 1, &s->vm);
	view_print_domain(file, &s->vm, &s->domain, &s->folded);
}

static void write_view(FILE *file, void *ctx)
{
	struct shown *s = ctx;

	view_json_begin(file, 1, &s->vm);
	view_json_domain(file, &s->domain, &s->whole, true);
	view_json_domain(file, &s->domain, &s->whole, false);
	view_json_end(file);
}

static void draw_view(FILE *file, void *ctx)
{
	struct shown *s = ctx;
	struct svg *svg;

	demand(!svg_begin(file, 1, &s->vm, &svg));
	demand(!svg_add_domain(svg, &s->domain, &s->folded));
	svg_end(svg);
}

static void print_stats(FILE *file, void *ctx)
{
	struct shown *s = ctx;

	stats_print_live(file, &s->stats);
	stats_print(file, &s->stats);
}

static void write_stats(FILE *file, void *ctx)
{
	stats_write_json(file, &((struct shown *)ctx)->stats);
}

static void inspect(struct input *in)
{
	static struct shown s;
	union answer out;
	uint64_t at = 0;
	char *text;

	memset(&s, 0, sizeof(s));
	if (!ask(in, ASK_VM, 0, 0, &out))
		return;
	s.vm = out.vm;
	if (!s.vm.viommu || !ask(in, ASK_DOMAIN, 0, 0, &out))
		return;
	s.domain = out.domain;
	for (unsigned i = 0; i < 4; i++) {
		if (!ask(in, ASK_PIECE, s.domain.id, at, &out))
			break;
		for (uint64_t n = 0; n < out.piece.nr; n++)
			demand(!view_map_add(&s.folded, &out.piece.v[n], true) &&
			       !view_map_add(&s.whole, &out.piece.v[n], false));
		if (!out.piece.more)
			break;
		demand(out.piece.at >= at);
		at = out.piece.at;
	}
	free(caught(print_view, &s));
	text = caught(write_view, &s);
	check_json(text);
	free(text);
	text = caught(draw_view, &s);
	check_svg(text);
	free(text);
	view_map_clear(&s.folded);
	view_map_clear(&s.whole);
}

static void stat_twice(struct input *in)
{
	static struct shown s;
	struct stats before;
	union answer out;
	char *text;

	if (!ask(in, ASK_STATS, 0, 0, &out))
		return;
	before = out.stats;
	if (!ask(in, ASK_STATS, 0, 0, &out))
		return;
	s.stats = out.stats;
	stats_since(&s.stats, &before);
	free(caught(print_stats, &s));
	text = caught(write_stats, &s);
	check_json(text);
	free(text);
}

static void clean_up(void)
{
	char vm[sizeof(dir) + 8];

	unlink(addr.sun_path);
	rmdir(dir);
	snprintf(vm, sizeof(vm), "%s-vm", dir);
	rmdir(vm);
}

static void make_all(void)
{
	const struct ask question = {.what = ASK_DOMAIN};
	char vm[sizeof(dir) + 8];
	union answer out;
	pthread_t thread;

	demand(mkdtemp(dir));
	snprintf(vm, sizeof(vm), "%s-vm", dir);
	demand(!mkdir(vm, 0700));
	atexit(clean_up);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/granule-%d.sock", dir, (int)getpid());
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	demand(!bind(listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(listener, 8));
	demand(!pthread_create(&thread, NULL, serve, NULL));
	statsock_ask("fuzz", getpid(), false, &question, &out); /* the head that is a good one */
	demand(head[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	if (listener < 0)
		make_all();
	switch (take8(&in) % 4) {
	case 0:
	case 1:
		inspect(&in);
		break;
	case 2:
		stat_twice(&in);
		break;
	case 3:
		question_vm(&in);
		break;
	}
	return 0;
}
