/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff - where two pieces of memory differ, found as fast as the machine can read them: NEON on
 * arm64; on x86-64 AVX2 where the CPU has it, else SSE2.
 *
 * The memory may change while it is looked at. So an answer only says which line to read next, and
 * whoever acts on it reads that line again, word by word. The question is for the *last* line that
 * differs, because this is the order in which changes are collected: what stands before a line that
 * was found changed, and read, is looked at (for the next answer) after that reading. A mask of all
 * lines, taken at once, would be older than the reading, and could show a flag without what it
 * covers. Whether there is any is asked first, for caches fetch ahead best from low to high: four
 * times as fast, when the memory is in none.
 */
#ifndef IOMMU_DIFF_H
#define IOMMU_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIFF_LINE 64 /* bytes */

/* diff_any - do @nr lines at @a and @b differ? At any alignment; the race detector's build wants
 * that of a word. */
bool diff_any(const uint8_t *a, const uint8_t *b, size_t nr);

/**
 * diff_last - the last of @nr lines in which @a and @b differ; as diff_any()
 *
 * Lines are looked at from the last to the first; none before the answer decides it.
 * Return: its number + 1, which is how many lines there are up to it; 0: all are the same.
 */
size_t diff_last(const uint8_t *a, const uint8_t *b, size_t nr);

/* diff_any_plain, diff_last_plain - the same without vectors: the only ones that the race detector
 * understands. Words are read one by one. */
bool diff_any_plain(const uint8_t *a, const uint8_t *b, size_t nr);
size_t diff_last_plain(const uint8_t *a, const uint8_t *b, size_t nr);

/* diff_kinds - every implementation that this machine can run, for tests and benchmarks. Return:
 * how many; the last is the one that is used. */
struct diff_kind {
	const char *name;
	bool (*any)(const uint8_t *a, const uint8_t *b, size_t nr);
	size_t (*last)(const uint8_t *a, const uint8_t *b, size_t nr);
};

#define DIFF_MAX_KINDS 3

size_t diff_kinds(struct diff_kind out[DIFF_MAX_KINDS]);

#endif
