#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# unit.sh PROGRAM... - run cmocka programs; the output of one that fails is shown whole.
set -u

passed=0
failed=0
for prog; do
	start=$(date +%s)
	if out=$("$prog" 2>&1); then
		n=$(printf '%s\n' "$out" | grep -c '^\[ *OK \]')
		# a program that ran no test proves nothing
		if [ "$n" -eq 0 ]; then
			printf 'FAIL  %s: ran no test\n' "$prog"
			failed=$((failed + 1))
			continue
		fi
		passed=$((passed + n))
		printf 'ok    %s (%s tests, %s s)\n' "$prog" "$n" $(($(date +%s) - start))
	else
		printf '%s\nFAIL  %s\n' "$out" "$prog"
		failed=$((failed + 1))
	fi
done
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
