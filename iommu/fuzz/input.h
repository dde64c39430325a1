/* SPDX-License-Identifier: Apache-2.0 */
/*
 * input - a fuzzer's bytes, taken from the front as values; past their end all values are 0.
 *
 * Fuzzers that drive something step by step read an input as a list of operations, each an octet
 * that says which and the values that it needs, so that a mutation changes one step and not all
 * after it.
 */
#ifndef IOMMU_FUZZ_INPUT_H
#define IOMMU_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"

struct input {
	const uint8_t *at;
	size_t left;
};

/* take - @len bytes into @dst. Return: false if there were fewer; the rest is then 0. */
static inline bool take(struct input *in, void *dst, size_t len)
{
	size_t n = MIN(len, in->left);

	memset(dst, 0, len);
	if (n)
		memcpy(dst, in->at, n);
	in->at += n;
	in->left -= n;
	return n == len;
}

static inline uint8_t take8(struct input *in)
{
	uint8_t v;

	take(in, &v, sizeof(v));
	return v;
}

static inline uint16_t take16(struct input *in)
{
	uint8_t b[2];

	take(in, b, sizeof(b));
	return get_le16(b);
}

static inline uint32_t take32(struct input *in)
{
	uint8_t b[4];

	take(in, b, sizeof(b));
	return get_le32(b);
}

static inline uint64_t take64(struct input *in)
{
	uint8_t b[8];

	take(in, b, sizeof(b));
	return get_le64(b);
}

/* demand - what must hold whatever the input is: else this input is kept as one that crashes */
#define demand(cond)                                                                               \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: demand(%s) failed\n", __FILE__, __LINE__, #cond);  \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* libFuzzer's entry point. Return: 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#endif
