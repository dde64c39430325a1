/* SPDX-License-Identifier: Apache-2.0 */
/*
 * claim - the report: one line per claim, `ok NAME`, `FAIL NAME: got .. want ..` or
 * `skip NAME: reason`, and `done N ok M failed` at the end.
 *
 * A claim may take many checks; the first that fails decides and is the one reported.
 */
#ifndef BARE_CLAIM_H
#define BARE_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

void claim_begin(const char *name);
/* claim_check - one check of the current claim. Return: true if it holds. */
bool claim_check(const char *what, uint64_t got, uint64_t want);
/* claim_check_at - the same, for row @row of a table */
bool claim_check_at(const char *what, unsigned row, uint64_t got, uint64_t want);
bool claim_holds(void); /* so far */
void claim_end(void);

void claim_skip(const char *name, const char *reason);
void claims_done(void);

#endif
