#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# failhost.sh [-q] [-v] [-s SEED] [-o CLASS:PHASE] - in the lab, every call that granule makes to the host
# fails in turn: fail/sweep.c says what must be then, fail/failnth.c what is a call. -q takes a sample
# of some minutes, 4 calls at most of each class and phase, chosen by SEED (0 unless told). -v shows
# every point; with -o only those of one class and phase.
# Ends with `N passed, N failed, N skipped`; a claim is a class of calls in a phase, or a
# fault that the sweep must notice.
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/build
dir=$build/failhost

if [[ $(uname -m) == aarch64 ]]; then
	echo "skip  failing host: it passes a device of the lab"
	echo "0 passed, 0 failed, 1 skipped"
	exit
fi
points='' args=()
while getopts qvs:o: opt; do
	case $opt in
	q) points=4 ;;
	v) args+=(-v) ;;
	s | o) args+=("-$opt" "$OPTARG") ;;
	*) exit 2 ;;
	esac
done
mkdir -p "$dir"
gzip -c "$build/bare/failhost.img" >"$dir/failhost.gz"
"$here/lab/lab" exec --device edu --timeout 14400 \
	--put "$build/arm64/granule-fail" --put "$build/linux/sweep" --put "$dir/failhost.gz" \
	--put "$here/failhost-host.sh" --put "$here/fail/pretend.sh" \
	-- sh failhost-host.sh ${points:+-p "$points"} "${args[@]}" </dev/null 2>&1 | tee "$dir/report.txt"
[[ ${PIPESTATUS[0]} -eq 0 ]] || echo "FAIL the lab did not come to its end" | tee -a "$dir/report.txt"
passed=$(grep -c '^ok ' "$dir/report.txt")
failed=$(grep -c '^FAIL ' "$dir/report.txt")
grep -q '^done$' "$dir/report.txt" || { echo "FAIL  its report has no end" && failed=$((failed + 1)); }
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed -eq 0 ]]
