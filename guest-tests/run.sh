#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [-l] [-k] [-m|-s] [-a SECONDS] [NAME]... - run the scenarios of scenarios.cfg (all, or those whose name or
# host's name is given) and judge their reports. -l only lists them, -k keeps every log, -m has devices work for a
# minute (LOAD seconds) where they work for seconds else, and without a NAME runs the matrix of devices, all of it. -s is the
# soak: a guest that has all devices of the matrix works for DURATION seconds (3600), while one after the other of
# the matrix' hosts, as many as there is time for, have guests come and go. -a is how long a hostile guest
# attacks (20).
#
# On an arm64 machine with 16 KiB pages and /dev/kvm they run directly, elsewhere in the lab. Prints
# a line per scenario and what failed in it, and `N passed, N failed, N skipped`, which counts claims.
# The log of a scenario that failed stays in build/scenarios/.
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/build
out=$build/scenarios
lab=$here/lab/lab

# What no healthy host's kernel says, and what it says when a device is refused an address.
host_complaints='WARNING:|BUG:|Oops|Call trace|Internal error|rcu: INFO|blocked for more than'
host_faults='arm-smmu-v3.*(event 0x|F_TRANSLATION|F_PERMISSION|iova)'
default_kernel=linux-image-cloud-arm64

die() {
	echo "run.sh: $*" >&2
	exit 2
}

# ---- scenarios.cfg -------------------------------------------------------------------------------

hosts=()
scenarios=()
declare -A cfg # "section.key" -> value; repeated keys are joined by newlines

# expand TEXT: `a-{b,c}` is a-b and a-c; sets names and, for each, alternatives[name]: what was taken, with
# the value it may have: `{b=1,c=2}`
expand() {
	local rest taken
	if [[ $1 =~ ^([^{]*)\{([^}]*)\}(.*)$ ]]; then
		rest=${BASH_REMATCH[3]}
		set -- "$1" "${2-}" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
		for taken in ${4//,/ }; do
			expand "$3${taken%%=*}$rest" "$2 $taken"
		done
	else
		names+=("$1")
		alternatives[$1]=${2-}
	fi
}

read_config() {
	local line key='' value said text name names=() taken i
	local -A alternatives=()
	while IFS= read -r line || [[ $line ]]; do
		[[ $line && $line != '#'* ]] || continue
		if [[ $line == '['*']' ]]; then
			names=()
			expand "${line:1:-1}"
			for name in "${names[@]}"; do
				case $name in
				'host '*) hosts+=("${name#host }") ;;
				*) scenarios+=("$name") ;;
				esac
			done
			continue
		fi
		if [[ $line == [[:blank:]]* ]]; then
			value=" ${line##*([[:blank:]])}"
		else
			[[ $line =~ ^([a-z]+)\ =\ (.*)$ ]] || die "scenarios.cfg: cannot read '$line'"
			key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
			case $key in
			device | hostdevice | qemu | packages | files | setup | quick | soak | disk | generation | host | payload | script | kernel | modules | put | \
				run | params | before | status | time | faults | says | claims | after) ;;
			*) die "scenarios.cfg: [${names[*]}] has an unknown key '$key'" ;;
			esac
		fi
		said=$value
		for name in "${names[@]}"; do
			text=$said i=0
			for taken in ${alternatives[$name]}; do
				i=$((i + 1))
				value=''
				[[ $taken != *=* ]] || value=${taken#*=}
				text=${text//"%$i="/"$value"}
				text=${text//"%$i"/"${taken%%=*}"}
			done
			[[ $line == [[:blank:]]* || ! ${cfg[$name.$key]+x} ]] || text=$'\n'$text
			cfg[$name.$key]+=$text
		done
	done <"$here/scenarios.cfg"
	for name in "${scenarios[@]}"; do
		[[ ${cfg[$name.host]+x} ]] || die "scenarios.cfg: [$name] has no host"
		[[ " ${hosts[*]} " == *" ${cfg[$name.host]} "* ]] ||
			die "scenarios.cfg: [$name]: there is no [host ${cfg[$name.host]}]"
	done
}
shopt -s extglob

# get SECTION KEY [DEFAULT]
get() { printf '%s' "${cfg[$1.$2]-${3-}}"; }

# is_quick NAME: is it part of a run without a NAME?
is_quick() {
	local ending
	[[ ! ${cfg[$1.soak]+x} ]] || return 1
	[[ ${cfg[$1.quick]+x} ]] || return 0
	for ending in $(get "$1" quick); do
		[[ $1 != *-"$ending" ]] || return 0
	done
	return 1
}

# time_limit NAME: seconds
time_limit() {
	echo $(($(get "$1" time 180) + (${cfg[$1.soak]+1} + 0 ? 2 * duration : matrix ? 10 * load : 0) + 2 * attack))
}

# ---- results -------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0

report_fail() {
	printf 'FAIL  %s: %s\n' "$1" "$2"
	failed=$((failed + 1))
}

report_skip() {
	printf 'skip  %s: %s\n' "$1" "$2"
	skipped=$((skipped + 1))
}

# all_claims NAME: those of the report and those about the host
all_claims() {
	local line
	get "$1" claims
	while IFS= read -r line; do
		[[ ! $line ]] || printf ' %s' "${line%% *}"
	done <<<"$(get "$1" after)"
}

# judge NAME FILE: the lines host.sh printed about the scenario
judge() {
	local name=$1 file=$2 log=$out/$1.log claim line status='' seconds='' before=$failed bad ok=0
	cp "$file" "$log"
	read -r status seconds < <(sed -n 's/^= //p' "$file")
	if [[ ! $status ]]; then
		report_fail "$name" "the host stopped before it ended"
	elif [[ $seconds -ge $(time_limit "$name") ]]; then
		report_fail "$name" "timed out after $seconds s"
	elif [[ $status != "$(get "$name" status 0)" ]]; then
		report_fail "$name" "granule ended with status $status instead of $(get "$name" status 0)"
	fi
	for claim in $(all_claims "$name"); do
		if grep -q -x "| ok $claim" "$file" && ! grep -q "^| FAIL $claim:" "$file"; then
			ok=$((ok + 1))
		elif line=$(grep -m 1 "^| skip $claim: " "$file"); then
			report_skip "$name" "${line#| skip }"
		elif line=$(grep -m 1 "^| FAIL $claim: " "$file"); then
			report_fail "$name" "${line#| FAIL }"
		else
			report_fail "$name" "$claim: not reported"
		fi
	done
	# What the report has and scenarios.cfg does not.
	while read -r line; do
		claim=${line%%:*}
		[[ " $(all_claims "$name") " == *[[:space:]]"$claim"[[:space:]]* ]] ||
			report_fail "$name" "$line: not among its claims in scenarios.cfg"
	done < <(sed -n 's/^| \(ok\|FAIL\|skip\) //p' "$file")
	[[ $(grep -c '^| done [0-9]* ok [0-9]* failed$' "$file") -eq 1 ]] ||
		report_fail "$name" "its report has no end, or more than one"
	while IFS= read -r line; do
		[[ ! $line ]] || grep -q -E "^[|!] .*($line)" "$file" || report_fail "$name" "it does not say '$line'"
	done <<<"$(get "$name" says)"
	bad=$host_complaints
	[[ $(get "$name" faults) == expected ]] || bad+="|$host_faults"
	line=$(grep -m 1 -E "^# .*($bad)" "$file") && report_fail "$name" "host kernel: ${line#\# }"
	line=$(grep -m 1 -E '^[|!] .*(AddressSanitizer|LeakSanitizer|runtime error:|Segmentation fault|Assertion .* failed|core dumped)' "$file") &&
		report_fail "$name" "${line:2}"
	passed=$((passed + ok))
	[[ ! ${cfg[$name.soak]+x} ]] || sed -n 's/^\* /      /p' "$file"
	if [[ $failed -eq $before ]]; then
		printf 'pass  %s (%s claims, %s s)\n' "$name" "$ok" "$seconds"
		[[ $keep ]] || rm -f "$log"
	else
		printf '      log of %s: %s\n' "$name" "$log"
	fi
}

# ---- running -------------------------------------------------------------------------------------

native() { [[ $(uname -m) == aarch64 && $(getconf PAGESIZE) -eq 16384 && -w /dev/kvm ]]; }

# What host $1 needs that this machine does not have; empty: nothing
missing() {
	local device
	if native; then
		if [[ $(get "host $1" device) ]]; then
			echo "needs a lab device ($(get "host $1" device | head -n 1))"
		elif [[ $(get "host $1" setup) ]]; then
			echo "changes the host, so it needs the lab"
		fi
		return
	fi
	while IFS= read -r device; do
		[[ ! $device ]] || grep -q "^name \"${device%%,*}\"" <<<"$qemu_devices" ||
			{ echo "this QEMU has no ${device%%,*}" && return; }
	done <<<"$(get "host $1" device)"
}

# guest_files NAME: build what the scenario's guest needs; sets kernel and initrd
guest_files() {
	local name=$1 package modules script file extra=()
	kernel='' initrd=''
	if [[ $(get "$name" payload) ]]; then
		kernel=$build/bare/$(get "$name" payload).img
		return
	fi
	package=$(get "$name" kernel $default_kernel)
	script=$(get "$name" script)
	modules=$(get "$name" modules)
	kernel=$("$lab" kernel "$package") || return
	for file in $(get "$name" put); do
		extra+=(--put "$build/$file:/test/$(basename "$file")")
	done
	file=$script-$package-$modules-$(get "$name" put)
	initrd=$out/${file//[,\/ ]/-}.initrd
	"$lab" initrd --kernel "$package" --modules "$modules" --script "$here/linux/$script.sh" \
		--put "$here/linux/lib.sh:/test/lib.sh" --put "$build/linux/blkcheck:/usr/bin/blkcheck" \
		"${extra[@]}" -o "$initrd"
}

# plan HOST NAME...: the script that the host runs; sets puts
plan() {
	local host=$1 name line args params
	shift
	puts=("$here/host.sh" "$build/linux/"{blkcheck,netcheck})
	[[ ! $soak ]] || puts+=("$build/linux/bench")
	echo "in_lab=$in_lab load=$load attack=$attack duration=$duration"
	echo "work=\$PWD; . \"\$work/host.sh\""
	get "host $host" setup
	echo
	for name; do
		guest_files "$name" || return
		puts+=("$kernel")
		args=()
		[[ " $(get "$name" run) " == *' -k '* ]] || args=(-k "$(basename "$kernel")")
		params=$(get "$name" params)
		if [[ $initrd ]]; then
			puts+=("$initrd")
			args+=(-i "$(basename "$initrd")")
			params="console=ttyS0 quiet panic=-1 deferred_probe_timeout=60 $params"
		fi
		echo "set -- \$LAB_DEVICES"
		get "$name" before
		echo
		# What params has of $(history) and $load is the host's to expand.
		printf 'scenario %q %q granule run %s -p "%s" %s\n' "$name" "$(time_limit "$name")" \
			"${args[*]-}" "$params" "$(get "$name" run)"
		while IFS= read -r line; do
			[[ ! $line ]] || echo "after $line"
		done <<<"$(get "$name" after)"
	done
}

# make_disk FILE MIB NAME: with the contents that scenario NAME expects
make_disk() {
	local gen
	"$build/linux/blkcheck-native" fill "$1" "$2" || return
	[[ " $(get "$3" params) " != *' t.gen='[1-9]* ]] && return
	gen=$(get "$3" params | sed 's/.*t\.gen=\([0-9]*\).*/\1/')
	"$build/linux/blkcheck-native" write -g "$gen" "$1"
}

# run_host HOST NAME...
run_host() {
	local host=$1 name id mib args=() files=() reason image file said history status=0 limit=60
	shift
	reason=$(missing "$host")
	if [[ $reason ]]; then
		for name; do
			report_skip "$name" "$reason"
		done
		return
	fi
	in_lab=1
	native && in_lab=
	plan "$host" "$@" >"$out/$host.plan" || {
		report_fail "$host" "its guests could not be built"
		return
	}
	: >"$out/$host.out"
	if native; then
		rm -rf "$out/$host.work" && mkdir "$out/$host.work"
		cp "${puts[@]}" "$out/$host.work"
		(cd "$out/$host.work" && PATH=$build/arm64:$PATH LAB_DEVICES='' sh "$out/$host.plan") \
			>"$out/$host.out" 2>&1 </dev/null
		status=$?
		rm -rf "$out/$host.work"
	else
		while IFS= read -r name; do
			[[ ! $name ]] || args+=(--device "$name")
		done <<<"$(get "host $host" device)"
		while IFS= read -r name; do
			[[ ! $name ]] || args+=(--host-device "$name")
		done <<<"$(get "host $host" hostdevice)"
		for name in $(get "host $host" qemu); do
			args+=(--qemu "$name")
		done
		for name in $(get "host $host" files); do
			args+=(--put "$build/$name:/opt/$name")
		done
		[[ ! $(get "host $host" packages) ]] || args+=(--packages "$(get "host $host" packages)")
		while read -r id mib; do
			[[ $id ]] || continue
			image=$out/$host-$id.img
			make_disk "$image" "$mib" "$1" || exit 2
			args+=(--qemu -drive --qemu "if=none,id=$id,format=raw,discard=unmap,file=$image")
			files+=("$image")
		done <<<"$(get "host $host" disk)"
		while IFS= read -r file; do
			args+=(--put "$file")
		done < <(printf '%s\n' "${puts[@]}" "$out/$host.plan" | sort -u)
		for name; do
			limit=$((limit + $(time_limit "$name") + 15))
		done
		"$lab" exec "${args[@]}" --timeout "$limit" -- sh "$host.plan" \
			>"$out/$host.out" 2>"$out/$host.err" </dev/null &
		# A signal for us is one for the lab too.
		# shellcheck disable=SC2064 # this one
		trap "kill $!; wait; exit 143" TERM
		wait $!
		status=$?
	fi
	# QEMU 7.2's e1000e has assertions that a change of the kind of interrupts under load can violate: an
	# emulator that aborts is no test of a guest. Once more, and said.
	if [[ $status -eq 125 && ! ${again-} ]] && grep -q 'hw/net/e1000e_core.c:.*Assertion' "$out/$host.err"; then
		echo "note  $host: $(tail -n 1 "$out/$host.err" | cut -c1-200); once more"
		local again=1
		run_host "$host" "$@"
		return
	fi
	for name; do
		# its part of the output
		awk -v name="$name" '/^@ / { on = $2 == name } on' "$out/$host.out" >"$out/$name.part"
		judge "$name" "$out/$name.part"
		rm -f "$out/$name.part"
	done
	if [[ $status -ne 0 ]]; then
		report_fail "$host" "the host ended with status $status: $(tail -n 1 "$out/$host.err" 2>/dev/null)"
	fi
	for image in ${files[@]+"${files[@]}"}; do
		# What the guests said is on it; else what must be there when all of them have run.
		history=$(sed -n "s/^| history: $(basename "${image%.img}" | sed "s/^$host-//") //p" "$out/$host.out" | tail -n 1)
		if [[ ! $history ]]; then
			[[ $complete ]] || continue
			history="-g $(get "host $host" generation 0)"
		fi
		history=${history//_/ }
		# shellcheck disable=SC2086 # words
		if said=$("$build/linux/blkcheck-native" read ${history/#maybe/-e} "$image" 2>&1); then
			echo "pass  $host: its disk image holds what the guests wrote"
			passed=$((passed + 1))
		else
			report_fail "$host" "its disk image: $said"
		fi
	done
	rm -f "${files[@]}" "$out/$host.plan" "$out/$host".{out,err}
}

read_config
keep='' matrix=0 load=3 attack=20 list='' soak='' duration=${DURATION:-3600}
while [[ ${1-} == -? ]]; do
	case $1 in
	-l) list=1 ;;
	-k) keep=1 ;;
	-m) matrix=1 load=${LOAD:-60} ;;
	-a)
		[[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "-a: '${2-}' is no number of seconds"
		attack=$2
		shift
		;;
	-s) matrix=1 soak=1 ;;
	*) die "unknown option '$1'" ;;
	esac
	shift
done
[[ $duration =~ ^[1-9][0-9]{0,5}$ ]] || die "DURATION '$duration' is no number of seconds"
if [[ $list ]]; then
	for name in "${scenarios[@]}"; do
		printf '%-28s on %s%s\n' "$name" "$(get "$name" host)" "$(is_quick "$name" || echo ', not in a run of all')"
	done
	exit
fi
for name; do
	[[ " ${scenarios[*]} ${hosts[*]} " == *" $name "* ]] ||
		die "there is no scenario or host '$name': see run.sh -l"
done
mkdir -p "$out"
# One run at a time in a tree: they share its disks and logs.
exec {lock}>"$out/lock"
flock "$lock"

# finish_host HOST: show what its subshell had to say
finish_host() {
	local p=0 f=1 s=0 # of one that could not even count
	cat "$out/$1.report"
	[[ ! -e $out/$1.counts ]] || read -r p f s <"$out/$1.counts"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	rm -f "$out/$1".{report,counts}
}

# A lab host keeps one CPU busy: as many at once as this machine has.
jobs=${JOBS:-$(nproc)}
native && jobs=1
qemu_devices=$(native || qemu-system-aarch64 -device help 2>&1)
declare -A running=() # process -> host
wait_for_one() {
	local pid
	wait -n -p pid "${!running[@]}"
	finish_host "${running[$pid]}"
	unset "running[$pid]"
}
trap 'kill "${!running[@]}" 2>/dev/null; exit 130' INT TERM HUP

# late HOST SCENARIO...: is there no time for them beside the soak? A minute for each.
late() { [[ $soak && ! ${cfg[$2.soak]+x} ]] && [[ $((SECONDS + 60 * ($# - 1))) -gt $duration ]]; }

# wanted SCENARIO NAME...: by one of the names, or, without any, because it is part of what is run
wanted() {
	local host
	host=$(get "$1" host)
	if [[ $# -gt 1 ]]; then
		[[ " ${*:2} " == *" $1 "* || " ${*:2} " == *" $host "* ]]
	elif [[ $matrix -eq 1 ]]; then
		[[ ${cfg[$1.quick]+x} || ( $soak && ${cfg[$1.soak]+x} ) ]]
	else
		is_quick "$1"
	fi
}

for host in "${hosts[@]}"; do
	names=()
	complete=1
	for name in "${scenarios[@]}"; do
		[[ $(get "$name" host) == "$host" ]] || continue
		if wanted "$name" "$@"; then
			names+=("$name")
		else
			complete=
		fi
	done
	[[ ${#names[@]} -gt 0 ]] || continue
	[[ ${#running[@]} -lt $jobs ]] || wait_for_one
	if late "$host" "${names[@]}"; then
		echo "note  $host: there is no time for it"
		continue
	fi
	rm -f "$out/$host".{report,counts}
	(
		exec {lock}>&-
		trap - INT TERM HUP
		# shellcheck disable=SC2030,SC2031 # its own; they travel in a file
		passed=0 failed=0 skipped=0
		run_host "$host" "${names[@]}" >"$out/$host.report" 2>&1
		echo "$passed $failed $skipped" >"$out/$host.counts"
	) &
	running[$!]=$host
done
while [[ ${#running[@]} -gt 0 ]]; do
	wait_for_one
done
# shellcheck disable=SC2031
echo "$passed passed, $failed failed, $skipped skipped"
# shellcheck disable=SC2031
[[ $failed -eq 0 ]]
