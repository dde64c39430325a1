/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep [-v] [-p POINTS] [-s SEED] [-o CLASS:PHASE] COMMAND [ARG]... - run COMMAND, a granule-fail
 * that runs the payload failhost, again and again; each time another call fails (failnth.c).
 *
 * Without a failure everything must work, before and after the sweep. With one granule either goes
 * on as if nothing had been, or tells its guest what the specification allows, or ends with status
 * 1 and one line that says why. It never crashes, hangs, leaves a file, socket or interface behind,
 * or loses a sector that it told the guest was written.
 *
 * -p: at most so many points of each class in each phase, spread by SEED; -v: a line for each.
 * In the working directory: disk, the image of the first --disk. Prints a line per class and phase,
 * `ok NAME` or `FAIL NAME: ...`.
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
	{"submit", {{EIO, false}, {EINTR, true}}},
};
static const char *const phases[] = {"start", "run", "exit"};

static bool verbose;
static char **command;
static char before[MAX_TEXT]; /* what there was */

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
			    strcmp(entry->d_name, "tree.dtb") != 0)
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

static void clear_disk(void)
{
	static const char zeros[SECTOR * NR_SECTORS];
	int fd = open("disk", O_WRONLY);

	if (fd < 0 || pwrite(fd, zeros, sizeof(zeros), 0) != sizeof(zeros)) {
		fprintf(stderr, "sweep: disk: %s\n", strerror(errno));
		exit(2);
	}
	close(fd);
}

static int redirect(const char *path, int to)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);

	return fd < 0 ? -1 : dup2(fd, to);
}

static void run(const char *spec, struct run *out)
{
	long end = now_ms() + LIMIT_MS;
	pid_t child;

	clear_disk();
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
		usleep(2000);
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

/* What was acknowledged is on the disk. Return: the first sector that is not; -1: all are. */
static int find_lost_sector(const struct run *run)
{
	const char *said = strstr(run->out, "did blk ");
	char sector[SECTOR];
	int fd, lost = -1;

	if (!said || strcspn(said + 8, " \r\n") != NR_SECTORS)
		return -1;
	fd = open("disk", O_RDONLY);
	for (int i = 0; i < NR_SECTORS && lost < 0; i++) {
		if (said[8 + i] != '.')
			continue;
		if (pread(fd, sector, SECTOR, (off_t)i * SECTOR) != SECTOR)
			lost = i;
		for (int at = 0; at < SECTOR && lost < 0; at++)
			if (sector[at] != 'A' + i)
				lost = i;
	}
	close(fd);
	return lost;
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
	int status, lost;

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
	lost = find_lost_sector(run);
	if (lost >= 0)
		return bad(why, "sector %d was acknowledged and is not on the disk", lost);
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
	if (find_outcome(run, "TX") && errors + warnings <= well_errors + well_warnings)
		return bad(why, "a request was not answered, or wrongly");
	if ((!phase || transient || strcmp(phase, "run") != 0) && strcmp(run->out, well.out) != 0)
		return bad(why, "the guest did not get what it always gets");
	if (access("stats.json", F_OK))
		return bad(why, "no statistics, and no line about that");
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

/* Return: a healthy run is healthy. */
static bool healthy(struct run *result, const char *name)
{
	char why[256];

	unlink("stats.json");
	run(NULL, result);
	if (judge(result, "", NULL, false, why) == NOT_REACHED) {
		printf("ok %s\n", name);
		return true;
	}
	printf("FAIL %s: %s\n", name, why);
	show(result);
	return false;
}

/* Every (@step)th call of a class in a phase. */
static void sweep(const struct class *class, const char *phase, unsigned nr, unsigned first,
		  unsigned step)
{
	unsigned verdicts[4] = {0};
	static struct run result;
	char spec[64], why[256];

	for (unsigned e = 0; e < 4 && class->errors[e].error; e++) {
		for (unsigned n = first; n <= nr; n += step) {
			enum verdict verdict;

			snprintf(spec, sizeof(spec), "%s:%s:%u:%d", class->name, phase, n,
				 class->errors[e].error);
			unlink("stats.json");
			run(spec, &result);
			verdict =
				judge(&result, class->name, phase, class->errors[e].transient, why);
			verdicts[verdict]++;
			if (verdict == BAD || verbose)
				printf("  %s %s: %s\n", verdict == BAD ? "FAIL" : "note", spec,
				       verdict == BAD	    ? why
				       : verdict == REFUSED ? "refused"
				       : verdict == WENT_ON ? "went on"
							    : "not reached");
			if (verdict == BAD || verbose)
				show(&result);
			fflush(stdout);
		}
	}
	printf("%s %s_that_fails_in_%s: of %u calls every %u: %u refused, %u went on, %u not "
	       "reached, %u bad\n",
	       verdicts[BAD] ? "FAIL" : "ok", class->name, phase, nr, step, verdicts[REFUSED],
	       verdicts[WENT_ON], verdicts[NOT_REACHED], verdicts[BAD]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct run base, last;
	unsigned points = ~0u, seed = 0;
	const char *only = NULL;
	long start = now_ms();
	int opt;

	while ((opt = getopt(argc, argv, "+vp:s:o:")) != -1) {
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
		default:
			return 2;
		}
	}
	command = argv + optind;
	look_around(before);
	if (!healthy(&base, "all_is_well_while_nothing_fails"))
		return 1;
	printf("note: one run takes %ld ms; seed %u\n", now_ms() - start, seed);
	for (size_t c = 0; c < sizeof(classes) / sizeof(classes[0]); c++) {
		for (size_t p = 0; p < 3; p++) {
			unsigned nr = count_of(&base, classes[c].name, phases[p]);
			unsigned step = points && nr > points ? (nr + points - 1) / points : 1;
			char name[32];

			snprintf(name, sizeof(name), "%s:%s", classes[c].name, phases[p]);
			if (nr && (!only || !strncmp(name, only, strlen(only))))
				sweep(&classes[c], phases[p], nr, 1 + seed % step, step);
		}
	}
	healthy(&last, "all_is_well_afterwards");
	return 0;
}
