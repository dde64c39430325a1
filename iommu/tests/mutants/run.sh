#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [-l] [NAME...] - break one guarantee after the other, each in a copy of the tree, and demand that a
# unit test goes red for it. NAME is a mutant or a list (sync: all of sync.list); -l only lists them.
#
# A list is a sequence of these, indented text as it is in the file, by tabs as there:
#
#	mutant NAME
#	why WHAT MUST NOT HAPPEN
#	file PATH
#	tests NAME...		(NAME*: those there are)
#	cflags FLAG...		(may be left out: for the file alone)
#	<<<<
#	text that is in the file exactly once (the last line may be the beginning of one)
#	====
#	text to put there instead
#	>>>>
#
# killed: a test failed, crashed or hung. SURVIVED: all of them passed. ERROR: the text is not there exactly once,
# or what came of it does not compile; a mutant that breaks nothing any more must be mended or dropped.
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
top=$(readlink -f "$here/../../..")
work=${MUTANTS_BUILD:-$top/build/mutants}
jobs=${JOBS:-$(nproc)}
limit=300 # seconds for one test program as it is; one with a mutant gets 20 times what it took, and 10
export SEED=1 OPS=${OPS:-20000} # what random tests do must not be left to chance
export CFLAGS=-O1
unset MAKEFLAGS MFLAGS MAKELEVEL

# One file per mutant: head (name, why, file, tests), old, new.
split() {
	rm -rf "$work/m" && mkdir -p "$work/m"
	perl -e '
		my ($dir, @lists) = @ARGV;
		my ($n, %m, $in) = (0);
		for my $list (@lists) {
			open(my $f, "<", $list) or die "$list: $!\n";
			(my $base = $list) =~ s,.*/(.*)\.list$,$1,;
			while (<$f>) {
				if ($in) {
					if ($_ eq "====\n" && $in eq "old") { $in = "new"; next }
					if ($_ ne ">>>>\n") { $m{$in} .= $_; next }
					$in = "";
					for (qw(mutant why file tests)) {
						die "$list:$.: no \"$_\"\n" unless defined $m{$_};
					}
					die "$list:$.: $m{mutant}: twice\n" if $seen{$m{mutant}}++;
					my $d = sprintf("%s/%03d", $dir, $n++);
					mkdir $d or die "$d: $!\n";
					my %text = (list => $base, name => $m{mutant}, why => $m{why}, file => $m{file},
						    tests => $m{tests}, cflags => $m{cflags} // "", old => $m{old}, new => $m{new} // "");
					for (keys %text) {
						open(my $o, ">", "$d/$_") or die;
						print $o $text{$_};
						close $o;
					}
					%m = ();
				} elsif ($_ eq "<<<<\n") { $in = "old" }
				elsif (/^(mutant|why|file|tests|cflags) (.*)$/) { $m{$1} = $2 }
				elsif (!/^(#.*)?$/) { die "$list:$.: what is this: $_" }
			}
			die "$list: ends in the middle of a mutant\n" if %m;
		}' "$work/m" "$here"/*.list
}

# A copy of the tree, built, in which tests pass.
prepare() { # COPY TEST...
	local copy=$1 test start
	shift
	mkdir -p "$copy"
	(cd "$top" && git ls-files -z --cached --others --exclude-standard -- Makefile iommu virtio vmm guest-tests/tests.mk) |
		tar -C "$top" --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -C "$copy" -xf - || return
	mkdir -p "$copy/build" && touch "$copy/build/.deps"
	build "$copy" "$@" || return
	for test; do
		start=$SECONDS
		run_test "$copy" "$test" || { tail -n 5 "$copy/log"; echo "ERROR   $test fails as it is"; return 1; }
		echo $((10 + 20 * (SECONDS - start))) >"$work/limit.$test"
	done
}

tests_of() { # MUTANT: one a line
	local name path names
	read -ra names <"$1/tests"
	for name in "${names[@]}"; do
		if [[ $name != *'*' ]]; then
			echo "$name"
			continue
		fi
		for path in "$top"/*/tests/"${name%'*'}"*.c; do
			path=${path##*/}
			[[ $path == *'*'* ]] || echo "${path%.c}"
		done
	done
}

path_of() { # COPY TEST: below build/native
	(cd "$1" && ls -d */tests/"$2".c) | sed 's,\.c$,,'
}

build() { # COPY TEST...
	local copy=$1 test targets=()
	shift
	for test; do targets+=("build/native/$(path_of "$copy" "$test")"); done
	make -C "$copy" --no-print-directory -j "${make_jobs:-1}" WARN=-w "${targets[@]}" >"$copy/log" 2>&1 || { cat "$copy/log"; return 1; }
}

# timeout and what runs under it.
stop() { # PID
	local child
	child=$(cat "/proc/$1/task/$1/children" 2>/dev/null)
	# shellcheck disable=SC2086
	kill -KILL $child "$1" 2>/dev/null
	wait "$1" 2>/dev/null
}

# Ends with the first test that fails: its threads may never end. Return: 0 passed, 1 failed, 2 crashed, 3 hung.
run_test() { # COPY TEST
	local copy=$1 pid status tenths=0 limit=$limit
	[[ -e $work/limit.$2 ]] && limit=$(<"$work/limit.$2")
	timeout -s KILL $((limit + 5)) "$copy/build/native/$(path_of "$copy" "$2")" >"$copy/log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		if grep -q '^\[  FAILED  \] [a-z]' "$copy/log"; then
			stop "$pid"
			return 1
		elif [[ $((tenths++)) -ge $((10 * limit)) ]]; then
			stop "$pid"
			return 3
		fi
		sleep 0.1
	done 2>/dev/null
	wait "$pid" 2>/dev/null
	status=$?
	[[ $status -gt 128 ]] && return 2
	[[ $status -eq 0 ]]
}

# One line: killed, SURVIVED or ERROR.
mutate() { # COPY MUTANT
	local copy=$1 m=$2 name file tests test status by verdict=
	name=$(<"$m/name") file=$(<"$m/file")
	mapfile -t tests < <(tests_of "$m")
	cp "$copy/$file" "$m/orig" || return
	if ! perl -e '
		my ($m, $path) = @ARGV;
		sub slurp { local $/; open(my $f, "<", $_[0]) or die; my $t = <$f>; $t // "" }
		my ($old, $new, $text) = (slurp("$m/old"), slurp("$m/new"), slurp($path));
		chomp($old, $new); # it may begin or end inside a line
		my $at = index($text, $old);
		exit 1 if $at < 0 || index($text, $old, $at + 1) >= 0 || $old eq $new;
		substr($text, $at, length $old) = $new;
		open(my $f, ">", $path) or die;
		print $f $text;' "$m" "$copy/$file"; then
		verdict="ERROR   $name: the text to change is not in $file exactly once"
	elif ! CFLAGS="$CFLAGS $(<"$m/cflags")" build "$copy" "${tests[@]}" >"$m/log"; then
		verdict="ERROR   $name: does not build: $(grep -m 1 'error' "$m/log")"
	else
		for test in "${tests[@]}"; do
			run_test "$copy" "$test"
			status=$?
			[[ $status -eq 0 ]] && continue
			by=$(sed -n 's/^\[  FAILED  \] \([a-z]\)/\1/p' "$copy/log" | sed '/test(s)/d' | head -n 1)
			[[ $status -eq 2 ]] && by="${by:-crash in $(sed -n 's/^\[ RUN      \] //p' "$copy/log" | tail -n 1)}"
			[[ $status -eq 3 ]] && by="hang in $(sed -n 's/^\[ RUN      \] //p' "$copy/log" | tail -n 1)"
			verdict="killed  $name: $test: ${by:-failed}"
			break
		done
		[[ -n $verdict ]] || verdict="SURVIVED $name: $(<"$m/why") ($file; ${tests[*]})"
	fi
	cp "$m/orig" "$copy/$file"
	echo "$verdict"
}

split || exit 2
chosen=() # directories
for m in "$work"/m/*; do
	if [[ ${1-} == -l ]]; then
		echo "$(<"$m/list")/$(<"$m/name"): $(<"$m/why")"
	elif [[ $# -eq 0 ]]; then
		chosen+=("$m")
	else
		for arg; do
			[[ $arg == "$(<"$m/name")" || $arg == "$(<"$m/list")" ]] && chosen+=("$m")
		done
	fi
done
[[ ${1-} == -l ]] && exit 0
if [[ ${#chosen[@]} -eq 0 ]]; then
	echo "mutants: no such mutant: $*" >&2
	exit 2
fi
mapfile -t all_tests < <(for m in "${chosen[@]}"; do tests_of "$m"; done | sort -u)

# Each worker has a copy, and takes every jobs-th mutant.
[[ $jobs -gt ${#chosen[@]} ]] && jobs=${#chosen[@]}
worker() { # NUMBER
	local i
	for ((i = $1; i < ${#chosen[@]}; i += jobs)); do
		mutate "$work/copy.$1" "${chosen[i]}"
	done
}

rm -rf "$work"/copy.* "$work"/limit.*
make_jobs=$jobs prepare "$work/copy.0" "${all_tests[@]}" || exit
for ((j = 1; j < jobs; j++)); do
	cp -a "$work/copy.0" "$work/copy.$j" || exit
done
{
	for ((j = 0; j < jobs; j++)); do
		worker "$j" &
	done
	wait
} | tee "$work/result"
killed=$(grep -c '^killed ' "$work/result")
echo "$killed passed, $((${#chosen[@]} - killed)) failed"
[[ $killed -eq ${#chosen[@]} ]]
