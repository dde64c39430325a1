#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh check FUZZER... - run each over its seeds, then over a fixed number of inputs made from them:
#                           the same ones each time. Prints `N passed, N failed`.
# fuzz.sh run FUZZER...   - run each for DURATION seconds (600), or those that TARGET names only
#
# FUZZER is build/clang/LAYER/fuzz/fuzz_NOUN; its seeds are in LAYER/fuzz/NOUN. What crashes one is kept in
# build/fuzz/NOUN, and so is, by `run`, every input that reached something new: the next run starts there.
set -uo pipefail

cd "$(dirname "$(readlink -f "$0")")/.." || exit
mode=$1
shift

# Inputs of a check by noun: a few seconds' worth.
declare -A runs=([queue]=60000 [viommu]=3000 [boot]=6000 [pci]=15000 [dart]=8000 [dart_model]=20000 [sim_nvme]=8000 [net]=3000)
# No input needs a tenth of either, however it is made; -timeout is for what would never end.
limits=(-rss_limit_mb=2048 -malloc_limit_mb=512 -timeout=300)
# A failed assertion of a fake ends the process with a stack, not with a long jump to nowhere.
export CMOCKA_TEST_ABORT=1
export UBSAN_OPTIONS=print_stacktrace=1

# What a fuzzer said, without its diary.
show() { grep -v -E '^(#[0-9]|INFO:|[[:blank:]]*NEW_FUNC|"|#####)' <<<"$1"; }

# Where pointers are compared their values steer it: give them the same ones each time, where that is allowed.
fixed=()
! setarch -R true 2>/dev/null || fixed=(setarch -R)

passed=0 failed=0
for fuzzer; do
	noun=${fuzzer##*/fuzz_}
	seeds=${fuzzer#build/clang/}
	seeds=${seeds%/*}/$noun
	kept=build/fuzz/$noun
	mkdir -p "$kept/corpus"
	common=("${limits[@]}" "-artifact_prefix=$kept/")
	if [[ $mode == run ]]; then
		[[ ! ${TARGET:-} || " $TARGET " == *" $noun "* ]] || continue
		echo "== $noun: ${DURATION:-600} s"
		"$fuzzer" "${common[@]}" -max_total_time="${DURATION:-600}" "$kept/corpus" "$seeds" || failed=$((failed + 1))
		continue
	fi
	start=$SECONDS
	scratch=$(mktemp -d)
	# the first folder takes what is new
	if ! out=$("${fixed[@]}" "$fuzzer" "${common[@]}" -runs=0 "$seeds" 2>&1); then
		show "$out"
		printf 'FAIL  %s: a seed\n' "$fuzzer"
		failed=$((failed + 1))
	elif [[ ! $out =~ "INITED" ]]; then
		printf 'FAIL  %s: there are no seeds\n' "$fuzzer"
		failed=$((failed + 1))
	else
		passed=$((passed + 1))
	fi
	if out=$("${fixed[@]}" "$fuzzer" "${common[@]}" -seed=1 -runs="${runs[$noun]:-10000}" "$scratch" "$seeds" 2>&1); then
		passed=$((passed + 1))
		printf 'ok    %s (%s inputs, %s s)\n' "$fuzzer" "${runs[$noun]:-10000}" $((SECONDS - start))
	else
		show "$out"
		printf 'FAIL  %s\n' "$fuzzer"
		failed=$((failed + 1))
	fi
	rm -rf "$scratch"
done
if [[ $mode == run ]]; then
	[[ $failed -eq 0 ]] || echo "what made them fail is in build/fuzz/; run the fuzzer on such a file to see it again"
else
	echo "$passed passed, $failed failed"
fi
[[ $failed -eq 0 ]]
