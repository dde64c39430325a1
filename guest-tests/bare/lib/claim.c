/* SPDX-License-Identifier: Apache-2.0 */
#include "claim.h"
#include "console.h"

static const char *current;
static bool failed;
static unsigned nr_ok, nr_failed;

void claim_begin(const char *name)
{
	current = name;
	failed = false;
}

static bool check(const char *what, bool has_row, unsigned row, uint64_t got, uint64_t want)
{
	if (got == want)
		return true;
	if (!failed) {
		print("FAIL %s: %s", current, what);
		if (has_row)
			print(" (%u)", row);
		print(": got 0x%lx want 0x%lx\n", got, want);
	}
	failed = true;
	return false;
}

bool claim_check(const char *what, uint64_t got, uint64_t want)
{
	return check(what, false, 0, got, want);
}

bool claim_check_at(const char *what, unsigned row, uint64_t got, uint64_t want)
{
	return check(what, true, row, got, want);
}

bool claim_holds(void)
{
	return !failed;
}

void claim_end(void)
{
	if (failed) {
		nr_failed++;
		return;
	}
	nr_ok++;
	print("ok %s\n", current);
}

void claim_skip(const char *name, const char *reason)
{
	print("skip %s: %s\n", name, reason);
}

void claims_done(void)
{
	print("done %u ok %u failed\n", nr_ok, nr_failed);
}
