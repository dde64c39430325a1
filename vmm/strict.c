/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/strict.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli.h"
#include "vmm/msg.h"

#define OPTION	   "iommu.strict="
#define SAY_STRICT OPTION "1"

/* A word of a command line: its text, less the quotes that Linux takes away. */
struct word {
	const char *text;
	size_t len;
};

/* What Linux takes for white space, whose table is Latin-1's: also a hard space. */
static bool is_space(char c)
{
	return isspace((unsigned char)c) || (unsigned char)c == 0xa0;
}

/* next_word - what is in quotes has no end but the closing one. False: there is none. */
static bool next_word(const char **at, struct word *word)
{
	const char *start = *at, *end;
	bool quoted = false;

	while (is_space(*start))
		start++;
	for (end = start; *end && (quoted || !is_space(*end)); end++)
		quoted ^= *end == '"';
	*at = end;
	if (*start == '"') {
		start++;
		end -= end > start && end[-1] == '"';
	}
	*word = (struct word){start, (size_t)(end - start)};
	return **at || word->len;
}

enum strictness strict_of(const char *cmdline)
{
	enum strictness said = STRICT_UNSAID;
	struct word word;

	while (next_word(&cmdline, &word)) {
		const char *value = word.text + strlen(OPTION);

		/* What follows is for init. */
		if (word.len == 2 && !memcmp(word.text, "--", 2))
			break;
		if (word.len < strlen(OPTION) || memcmp(word.text, OPTION, strlen(OPTION)) != 0)
			continue;
		/* Behind a word there is a space, a quote or the end: none of what follows. */
		value += *value == '"';
		switch (tolower((unsigned char)*value)) {
		case 'y':
		case '1':
			said = STRICT_YES;
			break;
		case 'n':
		case 'f':
		case 'd':
		case '0':
			said = STRICT_LAZY;
			break;
		case 'o':
			if (tolower((unsigned char)value[1]) == 'n')
				said = STRICT_YES;
			else if (tolower((unsigned char)value[1]) == 'f')
				said = STRICT_LAZY;
			break;
		default:
			break;
		}
	}
	return said;
}

int strict_cmdline(const char *cmdline, const char *needs_strict, char **out)
{
	enum strictness said = strict_of(cmdline);
	size_t len = strlen(SAY_STRICT) + 1 + strlen(cmdline);

	*out = NULL;
	if (!needs_strict || said == STRICT_YES)
		return 0;
	if (said == STRICT_LAZY) {
		msg_error("%s: iommu.strict=0 on the kernel's command line and a sync= other than "
			  "full: a lazy guest would use what is in its buffers before it is copied "
			  "there; leave out sync=, or give iommu.strict=1",
			  needs_strict);
		return -EINVAL;
	}
	if (len >= CMDLINE_MAX) {
		msg_error("%s: -p: the command line has no room for %s, without which a kernel may "
			  "be lazy; give at most %zu characters, or the device sync=full",
			  needs_strict, SAY_STRICT, CMDLINE_MAX - 2 - strlen(SAY_STRICT));
		return -EINVAL;
	}
	*out = malloc(len + 1);
	if (!*out) {
		msg_error("out of memory");
		return -ENOMEM;
	}
	/* In front: behind, it might stand in a quote that nobody closed, or after a "--". */
	snprintf(*out, len + 1, "%s%s%s", SAY_STRICT, *cmdline ? " " : "", cmdline);
	return 0;
}
