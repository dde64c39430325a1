#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh check FUZZER... - run each over its seeds, then over a fixed number of inputs made from them:
#                           the same ones each time. Prints `N passed, N failed`.
# fuzz.sh run FUZZER...   - run each for DURATION seconds (600)
# fuzz.sh coverage FUZZER... - how much of its files, by lines and branches, each reaches with what `check`
#                           gives it and what `run` has kept. Its files are on the lines `Files:` of its source.
#                           Each line that is never reached is in build/fuzz/NOUN/coverage.
#
# FUZZER is build/FLAVOUR/LAYER/fuzz/fuzz_NOUN; its seeds are in LAYER/fuzz/NOUN. What crashes one is kept in
# build/fuzz/NOUN, and so is, by `run`, every input that reached something new: the next run starts there.
set -uo pipefail

cd "$(dirname "$(readlink -f "$0")")/.." || exit
mode=$1
shift

# Inputs of a check by noun: a few seconds' worth.
declare -A runs=([queue]=60000 [viommu]=3000 [boot]=6000 [pci]=15000 [dart]=8000 [dart_model]=20000 [sim_nvme]=8000 [net]=3000 [blk]=600 [console]=4000
	[uart]=10000 [guard]=4000 [sim_edu]=500 [cli]=10000 [view]=1500)
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

# One line per file, from what the runs have left in build/fuzz/NOUN/profraw.
report() { # FUZZER NOUN SOURCE
	local files=()
	read -ra files <<<"$(sed -n 's/^ \* Files: //p' "$3" | tr '\n' ' ')"
	[[ ${#files[@]} -gt 0 ]] || { echo "FAIL  $3 names no files" && return 1; }
	llvm-profdata merge -o "build/fuzz/$2/profdata" "build/fuzz/$2/profraw" || return
	llvm-cov show "$1" -instr-profile="build/fuzz/$2/profdata" "${files[@]}" | grep -E '^ +[0-9]+\| +0\||^/' \
		>"build/fuzz/$2/coverage"
	llvm-cov report "$1" -instr-profile="build/fuzz/$2/profdata" "${files[@]}" |
		awk -v noun="$2" -v "file=${files[0]}" -v "top=$PWD" '
			function of(all, missed) { return sprintf("%d of %d", all - missed, all) }
			# File, and of regions, functions, lines, branches each: all, missed, share.
			$1 ~ /\.c$/ {
				name = $1
				sub("^" top "/", "", name)
				if (name !~ /\//) name = substr(file, 1, match(file, /[^\/]*$/) - 1) name
				printf "%-12s %-24s %14s %7s %14s %7s\n", noun, name, of($8, $9), $10, of($11, $12), $13
			}'
}

[[ $# -gt 0 ]] || { echo "fuzz: there is no such fuzzer: ${TARGET-}" >&2 && exit 2; }
[[ $mode != coverage ]] || printf '%-12s %-24s %14s %7s %14s %7s\n' fuzzer file lines '' branches ''
passed=0 failed=0
for fuzzer; do
	noun=${fuzzer##*/fuzz_}
	seeds=${fuzzer#build/*/}
	source=$seeds.c
	seeds=${seeds%/*}/$noun
	kept=build/fuzz/$noun
	mkdir -p "$kept/corpus"
	common=("${limits[@]}" "-artifact_prefix=$kept/")
	if [[ $mode == coverage ]]; then
		scratch=$(mktemp -d)
		if out=$(LLVM_PROFILE_FILE=$kept/profraw "${fixed[@]}" "$fuzzer" "${common[@]}" -seed=1 \
			-runs="${runs[$noun]:-10000}" "$scratch" "$seeds" "$kept/corpus" 2>&1); then
			report "$fuzzer" "$noun" "$source" || failed=$((failed + 1))
		else
			show "$out"
			printf 'FAIL  %s\n' "$fuzzer"
			failed=$((failed + 1))
		fi
		rm -rf "$scratch"
		continue
	fi
	if [[ $mode == run ]]; then
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
if [[ $mode != check ]]; then
	[[ $failed -eq 0 ]] || echo "what made them fail is in build/fuzz/; run the fuzzer on such a file to see it again"
else
	echo "$passed passed, $failed failed"
fi
[[ $failed -eq 0 ]]
