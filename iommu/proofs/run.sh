#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [NAME...] - check the Promela models beside this script with spin; NAME is a run, or a model with all
# its runs. A model's head lists its runs:
#
#	run: holds|broken|limit NAME CLAIM|- [-D...]...
#
# CLAIM is a regular expression: a mistake may violate more than one claim.
#
# A run that holds must be searched whole without an error. One that is broken on purpose, or asks for
# more than can be promised (limit), must violate CLAIM: any other outcome is a failure.
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
out=${PROOFS_BUILD:-$here/../../build/proofs}
jobs=${PROOFS_JOBS:-2}

# One line: ok or FAIL, what, why.
one() { # MODEL KIND NAME CLAIM FLAGS...
	local model=$1 kind=$2 name=$3 claim=$4 dir log verdict states violated opt=-O0
	shift 4
	dir=$out/$(basename "$model" .pml)/$name
	log=$dir/log
	[[ $kind == holds ]] && opt=-O1 # worth it for a search that does not end early
	rm -rf "$dir" && mkdir -p "$dir" && cd "$dir" || return
	if ! { spin -a "$@" "$model" && gcc "$opt" -w -DSAFETY -DMEMLIM=4096 -o pan pan.c; } >"$log" 2>&1; then
		cat "$log"
		echo "FAIL  $name: the model does not build"
		return
	fi
	timeout 300 ./pan -m1000000 >>"$log" 2>&1
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$log")
	violated=$(sed -n 's/^pan:1: \(.*\) (at depth \([0-9]*\))$/\1, step \2/p' "$log")
	if grep -q -E 'max search depth too small|out of memory|search not completed|hash table full' "$log" &&
		[[ -z $violated ]] || [[ -z $states ]]; then
		tail -n 5 "$log"
		verdict="FAIL  $name: the search did not end"
	elif [[ $kind == holds ]]; then
		if [[ -n $violated ]]; then
			verdict="FAIL  $name: $violated"
			spin -t -p -g "$@" "$model" >trail 2>&1 && verdict+=" ($dir/trail)"
		elif [[ $states != *e+* && ${states%.*} -lt 500 ]]; then
			verdict="FAIL  $name: only $states states"
		else
			verdict="ok    $name: holds in $states states"
		fi
	elif [[ $violated =~ "assertion violated".*\|\|($claim)\) ]]; then
		verdict="ok    $name: ${BASH_REMATCH[1]} is found ($kind)"
	elif [[ -n $violated ]]; then
		verdict="FAIL  $name: should violate $claim: $violated"
	else
		verdict="FAIL  $name: violates nothing"
	fi
	rm -f pan pan.*
	echo "$verdict"
}

if [[ ${1-} == --one ]]; then
	shift
	one "$@"
	exit
fi

list() {
	local model line
	for model in "$here"/*.pml; do
		sed -n 's/^ \* run: *//p' "$model" | while read -r line; do
			echo "$model $line"
		done
	done
}

wanted() { # keep the lines of list() that the arguments name
	local model kind name rest arg
	while read -r model kind name rest; do
		for arg; do
			if [[ $arg == "$name" || $arg == "$(basename "$model" .pml)" ]]; then
				echo "$model $kind $name $rest"
			fi
		done
	done
}

if [[ $# -gt 0 ]]; then runs=$(list | wanted "$@"); else runs=$(list); fi
if [[ -z $runs ]]; then
	echo "proofs: no such run: $*" >&2
	exit 2
fi
mkdir -p "$out"
xargs -P "$jobs" -L 1 "$(readlink -f "$0")" --one <<<"$runs" | tee "$out/result"
passed=$(grep -c '^ok ' "$out/result")
failed=$(($(wc -l <<<"$runs") - passed))
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
