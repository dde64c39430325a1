/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BARE_STRING_H
#define BARE_STRING_H

#include <stddef.h>
#include <stdint.h>

void *memset(void *to, int c, size_t len);
void *memcpy(void *restrict to, const void *restrict from, size_t len);
int memcmp(const void *a, const void *b, size_t len);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t len);

#endif
