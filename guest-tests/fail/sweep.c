/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep [-v] [-p POINTS] [-s SEED] [-o CLASS:PHASE] [-u DEVICE,...] [-c CLASS:PHASE,...]
 *     COMMAND [ARG]... - run COMMAND, a granule-fail that runs the payload failhost, again and
 * again; each time another call fails (failnth.c).
 *
 * Without a failure everything must work, before and after the sweep. With one granule either goes
 * on as if nothing had been, or tells its guest what the specification allows, or ends with status
 * 1 and one line that says why. It never crashes, hangs, leaves a file, socket or interface behind,
 * or loses a sector that it told the guest was written; and no device that was passed through is a
 * bus master afterwards. With --live-stats, each run is asked for them as soon as it listens.
 *
 * Nor may the failures be none. A call that is made must fail when it is told to, and `start` has
 * the same calls each time; the others depend on timing, but of a class in a phase some call must
 * fail.
 *
 * -p: at most so many points of each class in each phase, spread by SEED; -v: a line for each;
 * -u: devices that the guest must say it used; -c: calls that there must be. In the working
 * directory: disk and nvme, the images of the first --disk and of the simulated NVMe, if there is
 * one; stats.json, tree.dtb and trace.json are where COMMAND writes. Prints a line per class and
 * phase, `ok NAME` or `FAIL NAME: ...`.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECTOR	     512
#define NR_SECTORS   8
#define LIMIT_MS     60000 /* only for what hangs */
#define MAX_TEXT     16384
#define MAX_WARNINGS 3

/* What may be in the way of each class, and whether it is a moment's matter that nobody should
 * notice. */
static const struct class
{
	const char *name;
	struct {
		int error;
		bool transient;
	} errors[4];
} classes[] = {
	{"alloc", {{ENOMEM, false}}},
	{"ioctl", {{EIO, false}}},
	{"kvmrun", {{EFAULT, false}, {EINTR, true}}},
	{"file", {{EIO, false}}},
	{"fd", {{EMFILE, false}}},
	{"map", {{ENOMEM, false}}},
	{"thread", {{EAGAIN, false}}},
	{"uring", {{EIO, false}, {EAGAIN, true}, {EINTR, true}}},
	{"blk", {{EIO, false}, {EAGAIN, true}, {EINTR, true}}},
	{"nvme", {{EIO, false}, {EAGAIN, true}, {EINTR, true}}},
	{"submit", {{EIO, false}, {EINTR, true}}},
};
static const char *const phases[] = {"start", "run", "exit"};

/* What the guest writes: sector n is full of the letter @first + n. */
static const struct image {
	const char *path, *said;
	char first;
} images[] = {
	{"disk", "did blk ", 'A'},
	{"nvme", "did nvme ", 'a'},
};

#define NR_OF(a) (sizeof(a) / sizeof((a)[0]))

static bool verbose;
static char **command;
static const char *devices = ""; /* with commas between them */
static char before[MAX_TEXT];	 /* what there was */
static unsigned nr_asked, nr_answered, nr_refused_at_start;

struct run {
	int status; /* of wait(); -1: it was killed after LIMIT_MS */
	char out[MAX_TEXT], err[MAX_TEXT], log[MAX_TEXT];
};

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void slurp(const char *path, char text[MAX_TEXT])
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, MAX_TEXT - 1);

	text[n > 0 ? n : 0] = 0;
	if (fd >= 0)
		close(fd);
}

/* ---- what is left behind ------------------------------------------------------------------------
 */

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* What there is, in one text. */
static void look_around(char text[MAX_TEXT])
{
	static const char *const dirs[] = {".", "/tmp", "/run/sweep", "/sys/class/net"};
	static char names[256][80];
	size_t used = 0;

	text[0] = 0;
	for (size_t d = 0; d < sizeof(dirs) / sizeof(dirs[0]); d++) {
		DIR *dir = opendir(dirs[d]);
		struct dirent *entry;
		unsigned nr = 0;

		while (dir && (entry = readdir(dir)) && nr < 256)
			if (strcmp(entry->d_name, "stats.json") != 0 &&
			    strcmp(entry->d_name, "tree.dtb") != 0 &&
			    strcmp(entry->d_name, "trace.json") != 0)
				snprintf(names[nr++], sizeof(names[0]), "%.79s", entry->d_name);
		if (dir)
			closedir(dir);
		qsort(names, nr, sizeof(names[0]), by_name);
		for (unsigned i = 0; i < nr; i++)
			used += (size_t)snprintf(text + used, used < MAX_TEXT ? MAX_TEXT - used : 0,
						 "%s/%s\n", dirs[d], names[i]);
	}
}

/* ---- a run --------------------------------------------------------------------------------------
 */

static bool has_option(const char *option)
{
	for (char **arg = command; *arg; arg++)
		if (!strcmp(*arg, option))
			return true;
	return false;
}

static void clear_image(const char *path)
{
	static const char zeros[SECTOR * NR_SECTORS];
	int fd = open(path, O_WRONLY);

	if (fd < 0 || pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros)) {
		fprintf(stderr, "sweep: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	close(fd);
}

static int redirect(const char *path, int to)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);

	return fd < 0 ? -1 : dup2(fd, to);
}

/* `granule stat` of @child, which listens. Return: its process; 0: @child does not listen yet. */
static pid_t ask(pid_t child)
{
	char socket[64], number[16];
	pid_t asker;

	snprintf(socket, sizeof(socket), "/run/sweep/granule-%d.sock", (int)child);
	if (access(socket, F_OK))
		return 0;
	snprintf(number, sizeof(number), "%d", (int)child);
	asker = fork();
	if (!asker) {
		redirect("/dev/null", 1);
		redirect("/dev/null", 2);
		execl(command[0], command[0], "stat", "--json", number, (char *)NULL);
		_exit(126);
	}
	return asker;
}

static void run(const char *spec, struct run *out)
{
	long end = now_ms() + LIMIT_MS;
	pid_t child, asker = 0;
	int said;

	for (size_t i = 0; i < NR_OF(images); i++)
		clear_image(images[i].path);
	unlink("stats.json");
	unlink("trace.json");
	unlink("/run/sweep.log");
	child = fork();
	if (!child) {
		int in = open("/dev/null", O_RDONLY);

		dup2(in, 0);
		redirect("/run/sweep.out", 1);
		redirect("/run/sweep.err", 2);
		setenv("FAILNTH_LOG", "/run/sweep.log", 1);
		if (spec)
			setenv("FAILNTH", spec, 1);
		execvp(command[0], command);
		_exit(126);
	}
	while (waitpid(child, &out->status, WNOHANG) == 0) {
		if (now_ms() > end) {
			kill(child, SIGKILL);
			waitpid(child, &out->status, 0);
			out->status = -1;
			break;
		}
		if (!asker && has_option("--live-stats"))
			asker = ask(child);
		usleep(2000);
	}
	/* Its patience has an end, and it has nobody to wait for any more. */
	if (asker > 0) {
		nr_asked++;
		nr_answered += waitpid(asker, &said, 0) == asker && said == 0;
	}
	slurp("/run/sweep.out", out->out);
	slurp("/run/sweep.err", out->err);
	slurp("/run/sweep.log", out->log);
}

/* ---- judging ------------------------------------------------------------------------------------
 */

/* Is this line of stderr from the statistics? */
static bool is_report(const char *line)
{
	size_t len = strcspn(line, "\n");

	return memmem(line, len, ": to the guest ", 15) ||
	       memmem(line, len, "granule: virtio-iommu, ", 23) ||
	       memmem(line, len, " s; exits of the guest:", 23);
}

/* Messages on stderr; warnings apart. */
static void count_messages(const struct run *run, unsigned *errors, unsigned *warnings)
{
	*errors = *warnings = 0;
	for (const char *line = run->err; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, "granule: warning: vCPU", 22))
			; /* the guest looks where nothing is */
		else if (!strncmp(line, "granule: warning:", 17))
			++*warnings;
		else if (!strncmp(line, "granule: ", 9) && !is_report(line))
			++*errors;
	}
}

/* The words after `did` that say how requests ended; NULL: none has one of @chars. */
static const char *find_outcome(const struct run *run, const char *chars)
{
	const char *line = run->out;

	while ((line = strstr(line, "did "))) {
		const char *words = strchr(line + 4, ' ');
		size_t len = words ? strcspn(words, "\r\n") : 0,
		       bad = words ? strcspn(words, chars) : 0;

		if (strncmp(line, "did events", 10) != 0 && bad < len)
			return line;
		line += 4;
	}
	return NULL;
}

/* What was acknowledged is in @image. Return: the first sector that is not; -1: all are. */
static int find_lost_sector(const struct run *run, const struct image *image)
{
	const char *said = strstr(run->out, image->said);
	char sector[SECTOR];
	int fd, lost = -1;

	if (!said)
		return -1;
	said += strlen(image->said);
	if (strcspn(said, " \r\n") != NR_SECTORS)
		return -1;
	fd = open(image->path, O_RDONLY);
	for (int i = 0; i < NR_SECTORS && lost < 0; i++) {
		if (said[i] != '.')
			continue;
		if (pread(fd, sector, SECTOR, (off_t)i * SECTOR) != SECTOR)
			lost = i;
		for (int at = 0; at < SECTOR && lost < 0; at++)
			if (sector[at] != image->first + i)
				lost = i;
	}
	close(fd);
	return lost;
}

/* Each function that was passed through: nobody's, and no bus master. Return: the one that is not
 * so; NULL. */
static const char *find_busy_device(void)
{
	char path[128], driver[128];

	for (char **arg = command; *arg; arg++) {
		unsigned char config[6];
		ssize_t n;
		int fd;

		if (strcmp(*arg, "--vfio") != 0)
			continue;
		arg++;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", *arg);
		fd = open(path, O_RDONLY);
		n = fd < 0 ? -1 : read(fd, config, sizeof(config));
		close(fd);
		/* Bit 2 of the command register: bus master. */
		if (n != sizeof(config) || config[4] & 4)
			return *arg;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", *arg);
		n = readlink(path, driver, sizeof(driver) - 1);
		driver[n > 0 ? n : 0] = 0;
		if (!strstr(driver, "/vfio-pci"))
			return *arg;
	}
	return NULL;
}

/* How the trace ends. */
enum trace { TRACE_NONE, TRACE_WHOLE, TRACE_CUT, TRACE_BROKEN };

static enum trace find_trace(void)
{
	int fd = open("trace.json", O_RDONLY);
	char end[2] = "";
	off_t len = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

	if (len >= 2 && pread(fd, end, 2, len - 2) != 2)
		len = 0;
	if (fd >= 0)
		close(fd);
	if (len < 2)
		return TRACE_NONE;
	return !memcmp(end, "]\n", 2) ? TRACE_WHOLE : end[1] == '}' ? TRACE_CUT : TRACE_BROKEN;
}

enum verdict { BAD, REFUSED, WENT_ON, NOT_REACHED };

__attribute__((format(printf, 2, 3))) static enum verdict bad(char why[256], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, 256, fmt, ap);
	va_end(ap);
	return BAD;
}

/* @phase: NULL: nothing was to fail */
static enum verdict judge(const struct run *run, const char *class, const char *phase,
			  bool transient, char why[256])
{
	bool failed = strstr(run->log, "failed ") != NULL;
	static char after[MAX_TEXT];
	static struct run well; /* the first one */
	static unsigned well_errors, well_warnings;
	unsigned errors, warnings;
	const char *device;
	enum trace trace;
	int status;

	if (run->status == -1)
		return bad(why, "it hangs");
	if (WIFSIGNALED(run->status))
		return bad(why, "signal %d", WTERMSIG(run->status));
	status = WEXITSTATUS(run->status);
	count_messages(run, &errors, &warnings);
	look_around(after);
	if (strcmp(before, after) != 0) {
		size_t at = 0, end;

		while (before[at] && before[at] == after[at])
			at++;
		while (at && after[at - 1] != '\n')
			at--;
		end = strcspn(after + at, "\n");
		strcpy(before, after);
		return bad(why, "it left %.*s behind", (int)end, after + at);
	}
	for (size_t i = 0; i < NR_OF(images); i++) {
		int lost = find_lost_sector(run, &images[i]);

		if (lost >= 0)
			return bad(why, "sector %d was acknowledged and is not in %s", lost,
				   images[i].path);
	}
	device = find_busy_device();
	if (device)
		return bad(why, "%s is not as it was", device);
	trace = find_trace();
	if (trace == TRACE_BROKEN && !strstr(run->err, "its last line is not whole"))
		return bad(why, "the trace ends within a line");
	if (warnings > MAX_WARNINGS || errors > 1)
		return bad(why, "%u errors and %u warnings", errors, warnings);
	if (status == 1 || (status == 4 && !strcmp(class, "kvmrun"))) {
		if (!failed)
			return bad(why, "status %d, and nothing had failed", status);
		if (transient)
			return bad(why, "it ends for something that passes");
		return errors == 1 ? REFUSED : bad(why, "status %d without a line", status);
	}
	if (status)
		return bad(why, "status %d", status);
	/* What a reader of standard output does not take is not ours to judge. */
	if (strstr(run->err, "console output were lost"))
		return WENT_ON;
	if (!strstr(run->out, "\nend"))
		return bad(why, "status 0, but the guest did not come to its end");
	if (!phase && !well.out[0]) {
		well = *run;
		count_messages(&well, &well_errors, &well_warnings);
	}
	/* A device may be lost if that is said. */
	if (find_outcome(run, "TFX") && errors + warnings <= well_errors + well_warnings)
		return bad(why, "a request was not answered, or wrongly");
	if ((!phase || transient || strcmp(phase, "run") != 0) && strcmp(run->out, well.out) != 0)
		return bad(why, "the guest did not get what it always gets");
	if (access("stats.json", F_OK))
		return bad(why, "no statistics, and no line about that");
	if (has_option("--trace") && trace != TRACE_WHOLE &&
	    errors + warnings <= well_errors + well_warnings)
		return bad(why, "the trace has no end, and no line about that");
	return failed ? WENT_ON : NOT_REACHED;
}

static void show(const struct run *run)
{
	const char *texts[] = {run->log, run->err, run->out};

	for (int i = 0; i < 3; i++) {
		const char *line = texts[i];

		for (int nr = 0; *line && nr < 12; nr++) {
			size_t len = strcspn(line, "\r\n");

			if (len && strncmp(line, "count ", 6) != 0 &&
			    (i != 1 || (!strncmp(line, "granule:", 8) && !is_report(line))))
				printf("      %.*s\n", (int)len, line);
			line += len;
			line += strspn(line, "\r\n");
		}
	}
}

static unsigned count_of(const struct run *run, const char *class, const char *phase)
{
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "count %s %s ", class, phase);
	at = strstr(run->log, key);
	return at ? (unsigned)atoi(at + strlen(key)) : 0;
}

/* Return: every device that must be used was, and did all it was told to. */
static bool all_used(const struct run *run, char why[256])
{
	char names[256], line[64], *save, *name;

	snprintf(names, sizeof(names), "%s", devices);
	for (name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		const char *said;

		snprintf(line, sizeof(line), "did %s ", name);
		said = strstr(run->out, line);
		if (!said ||
		    strspn(said + strlen(line), ". ") != strcspn(said + strlen(line), "\r\n")) {
			snprintf(why, 256, "%s does not work", name);
			return false;
		}
	}
	return true;
}

/* Return: a healthy run is healthy. */
static bool healthy(struct run *result, const char *name)
{
	char why[256];

	run(NULL, result);
	if (judge(result, "", NULL, false, why) == NOT_REACHED && all_used(result, why)) {
		printf("ok %s\n", name);
		return true;
	}
	printf("FAIL %s: %s\n", name, why);
	show(result);
	return false;
}

/* Have the @n-th call fail. */
static enum verdict fail_nth(const struct class *class, const char *phase, unsigned n, unsigned e,
			     struct run *result, char why[256])
{
	enum verdict verdict;
	unsigned made;
	char spec[64];

	snprintf(spec, sizeof(spec), "%s:%s:%u:%d", class->name, phase, n, class->errors[e].error);
	run(spec, result);
	verdict = judge(result, class->name, phase, class->errors[e].transient, why);
	made = count_of(result, class->name, phase);
	if (verdict != BAD && !strstr(result->log, "failed ")) {
		if (made >= n)
			verdict = bad(why, "of %u calls this did not fail", made);
		else if (!strcmp(phase, "start"))
			verdict = bad(why, "there were %u calls, not as many as before", made);
	}
	if (verdict == BAD || verbose) {
		printf("  %s %s: %s\n", verdict == BAD ? "FAIL" : "note", spec,
		       verdict == BAD	    ? why
		       : verdict == REFUSED ? "refused"
		       : verdict == WENT_ON ? "went on"
					    : "not reached");
		show(result);
	}
	fflush(stdout);
	return verdict;
}

/* Every (@step)th call of a class in a phase. */
static void sweep(const struct class *class, const char *phase, unsigned nr, unsigned first,
		  unsigned step)
{
	unsigned verdicts[4] = {0};
	static struct run result;
	const char *what = "ok";
	char why[256];

	for (unsigned e = 0; e < 4 && class->errors[e].error; e++) {
		for (unsigned n = first; n <= nr; n += step) {
			enum verdict verdict = fail_nth(class, phase, n, e, &result, why);
			unsigned made = count_of(&result, class->name, phase);

			/* Fewer calls than the first time: then the last of them. */
			if (verdict == NOT_REACHED && made)
				verdict = fail_nth(class, phase, made, e, &result, why);
			verdicts[verdict]++;
			nr_refused_at_start += verdict == REFUSED && !strcmp(phase, "start");
		}
	}
	if (verdicts[BAD] || !(verdicts[REFUSED] + verdicts[WENT_ON]))
		what = "FAIL";
	printf("%s %s_that_fails_in_%s: of %u calls every %u: %u refused, %u went on, %u not "
	       "reached, %u bad\n",
	       what, class->name, phase, nr, step, verdicts[REFUSED], verdicts[WENT_ON],
	       verdicts[NOT_REACHED], verdicts[BAD]);
	fflush(stdout);
}

/* Is @name one of @list, which has commas between them? */
static bool is_listed(const char *name, const char *list)
{
	size_t len = strlen(name);

	for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == len && !memcmp(at, name, len))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	static struct run base, last;
	unsigned points = ~0u, seed = 0;
	const char *only = NULL, *calls = "";
	long start = now_ms();
	int opt;

	while ((opt = getopt(argc, argv, "+vp:s:o:u:c:")) != -1) {
		switch (opt) {
		case 'v':
			verbose = true;
			break;
		case 'p':
			points = (unsigned)atoi(optarg);
			break;
		case 's':
			seed = (unsigned)atoi(optarg);
			break;
		case 'o':
			only = optarg;
			break;
		case 'u':
			devices = optarg;
			break;
		case 'c':
			calls = optarg;
			break;
		default:
			return 2;
		}
	}
	command = argv + optind;
	look_around(before);
	if (!healthy(&base, "all_is_well_while_nothing_fails"))
		return 1;
	printf("note: one run takes %ld ms; seed %u\n", now_ms() - start, seed);
	for (size_t c = 0; c < NR_OF(classes); c++) {
		for (size_t p = 0; p < NR_OF(phases); p++) {
			unsigned nr = count_of(&base, classes[c].name, phases[p]);
			unsigned step = points && nr > points ? (nr + points - 1) / points : 1;
			char name[32];

			snprintf(name, sizeof(name), "%s:%s", classes[c].name, phases[p]);
			if (only && strncmp(name, only, strlen(only)) != 0)
				continue;
			if (nr)
				sweep(&classes[c], phases[p], nr, 1 + seed % step, step);
			else if (is_listed(name, calls))
				printf("FAIL %s_that_fails_in_%s: there are none\n",
				       classes[c].name, phases[p]);
		}
	}
	healthy(&last, "all_is_well_afterwards");
	/* Failures that are only said change nothing. */
	if (!only)
		printf("%s a_start_without_what_it_takes_is_refused: %u times\n",
		       nr_refused_at_start ? "ok" : "FAIL", nr_refused_at_start);
	if (has_option("--live-stats"))
		printf("%s statistics_are_asked_for_meanwhile: %u of %u times with an answer\n",
		       nr_answered > nr_asked / 2 ? "ok" : "FAIL", nr_answered, nr_asked);
	return 0;
}
