#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# soak.sh PROGRAM... - run random tests with ever new seeds, one per CPU at a time, until interrupted, or
# for DURATION seconds if that is set. Stops at the first failure, with its output and the command that
# repeats it. OPS is the length of a run (default 100000), SEED the first seed (default: of the clock).
set -uo pipefail

ops=${OPS:-100000}
first=${SEED:-$(date +%s%N)}
duration=${DURATION:-0}
jobs=${JOBS:-$(nproc)}
state=$(mktemp -d)
workers=()

finish() {
	trap '' INT TERM
	if [[ ${#workers[@]} -gt 0 ]]; then
		kill "${workers[@]}" 2>/dev/null
		wait "${workers[@]}"
	fi
	local runs
	runs=$(cat "$state"/runs.* 2>/dev/null | wc -l)
	if [[ -e $state/failure ]]; then
		cat "$state/failure"
		echo "$runs passed, 1 failed"
		rm -rf "$state"
		exit 1
	fi
	echo "$runs passed, 0 failed"
	rm -rf "$state"
	[[ $runs -gt 0 ]]
	exit
}

worker() { # NUMBER PROGRAM...
	local n=$1 seed prog out=$state/out.$1 pid=
	shift
	trap '[[ -z $pid ]] || kill "$pid" 2>/dev/null; exit 0' TERM
	trap '' INT
	for ((seed = first + n; ; seed += jobs)); do
		for prog; do
			SEED=$seed OPS=$ops "$prog" >"$out" 2>&1 &
			pid=$!
			if ! wait "$pid"; then
				# the first one to fail is told of
				mkdir "$state/taken" 2>/dev/null || return
				{
					cat "$out"
					echo "FAIL  repeat it with: SEED=$seed OPS=$ops $prog"
				} >"$state/failure"
				return
			fi
			pid=
			echo "ok    SEED=$seed OPS=$ops $prog"
			echo >>"$state/runs.$n"
		done
	done
}

[[ $# -gt 0 ]] || { echo "soak: no programs" >&2; exit 2; }
trap finish INT TERM
for ((n = 0; n < jobs; n++)); do
	worker "$n" "$@" &
	workers+=($!)
done
end=$((SECONDS + duration))
while [[ ! -e $state/failure ]] && { [[ $duration -eq 0 ]] || [[ $SECONDS -lt $end ]]; }; do
	sleep 1
done
finish
