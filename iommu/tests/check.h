/* SPDX-License-Identifier: Apache-2.0 */
/* check - the cmocka includes, in the order cmocka wants them, once. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#endif
