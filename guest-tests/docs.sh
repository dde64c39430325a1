#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# docs.sh [-l] [PLACE]... - run every command of README.md, docs/*.md, the manual, and the comments of what is
# installed for systemd, as docs.cfg says, or of those only that run in a PLACE: tree, scratch, host. -l only lists
# them, with the file and where they run. A command that docs.cfg does not know is a failure, and so is an entry of
# docs.cfg that no document has any more.
#
# A command is a line of an indented or fenced block (or several, each but the last with a \ at its end), a line of
# the manual's EXAMPLES, and what stands between backquotes (in the manual, behind .Ql) in the text, if is_command()
# takes it for one. Ends with `N passed, N failed, N skipped`.
set -uo pipefail

cd "$(dirname "$(readlink -f "$0")")/.." || exit
tree=$PWD
lab=guest-tests/lab/lab
export MAKEFLAGS='' MAKE=${MAKE:-make} # what is run is a user's, not a part of this make
passed=0 failed=0 skipped=0

report_fail() {
	printf 'FAIL  %s\n' "$*"
	failed=$((failed + 1))
}

# ---- what there is to run ---------------------------------------------------------------------------------

# blocks FILE: the lines of its blocks
blocks() {
	case $1 in
	*.1) awk '/^\.Sh / { on = $2 == "EXAMPLES" } /^\.Ed/ { block = 0 }
		on && block { gsub(/\\e/, "\\"); print } /^\.Bd -literal/ { block = 1 }' "$1" ;;
	*.md) awk '
		/^```/ { fence = !fence; next }
		fence { print; next }
		# A blank line stands before an indented block.
		/^    / && (block || blank) { block = 1; print substr($0, 5); next }
		{ block = 0; blank = /^[[:blank:]]*$/ }' "$1" ;;
	esac
}

# quoted FILE: what its text has between backquotes, a line each, also where it goes on in the next line
quoted() {
	case $1 in
	*.1) sed -n -e '/^\.Ql /!d; s///; s/ [.,;:)]*$//; s/ Ns Ar //g; s/ Ar / /g; s/ Ns / /g; s/\\&//g' -e p "$1" ;;
	*) sed 's/^# *//' "$1" | awk '
		function tell() {
			while (match(text, /`[^`]*`/)) {
				print substr(text, RSTART + 1, RLENGTH - 2)
				text = substr(text, RSTART + RLENGTH)
			}
			text = ""
		}
		/^```/ { fence = !fence }
		fence || /^```/ || /^[[:blank:]]*$/ { tell(); next }
		{ text = text " " $0 }
		END { tell() }' ;;
	esac
}

# is_command TEXT: what has variables before it, a program with arguments, or a program of this tree
is_command() {
	local program=${1%% *}
	[[ $1 =~ ^[A-Z_]+=[^\ ]+\ [^\ ] || $1 =~ ^(make|lab|granule|blkcheck|cc|chown|git|ip|systemctl|build/[^\ ]+)\ [^\ ] ]] ||
		[[ $program == */* && -f $program && -x $program ]]
}

# commands FILE: each ended by a NUL; lines of one command stay lines
commands() {
	local text
	blocks "$1" | awk 'NF { printf "%s", $0; if (/\\$/) print ""; else printf "%c", 0 }'
	while IFS= read -r text; do
		! is_command "$text" || printf '%s\0' "$text"
	done < <(quoted "$1")
}

# name COMMAND: as docs.cfg has it: in one line, single blanks, without a comment
name() { sed -e 's/[[:blank:]]#[[:blank:]].*//' -e 's/\\$//' <<<"$1" | tr -s ' \t\n' ' ' | sed 's/^ //; s/ $//'; }

declare -A known # "command.key" -> value
order=()
while IFS= read -r line || [[ $line ]]; do
	case $line in
	'' | '#'*) continue ;;
	'['*']')
		entry=${line:1:-1}
		known[$entry.]=1
		order+=("$entry")
		;;
	*)
		if [[ ! $line =~ ^(not|by|has|tree|scratch|host|says|status)\ =(\ (.*))?$ ]]; then
			echo "docs.cfg: cannot read '$line'" >&2
			exit 2
		fi
		known[$entry.${BASH_REMATCH[1]}]=${BASH_REMATCH[3]}
		;;
	esac
done <guest-tests/docs.cfg

names=() files=() texts=()
declare -A seen
for file in docs/granule.1 README.md docs/*.md docs/dist/granule{@.service,.conf}; do
	while IFS= read -r -d '' text; do
		name=$(name "$text")
		[[ ! ${seen[$name]-} ]] || continue
		seen[$name]=1
		names+=("$name") files+=("$file") texts+=("$text")
	done < <(commands "$file")
done

# where NAME: not, by, tree, scratch, host, or nothing
where() {
	local place
	for place in not by tree scratch host; do
		if [[ ${known[$1.$place]+x} ]]; then
			echo "$place"
			return
		fi
	done
}

# runs PLACE: is it wanted?
wanted=" ${*:-tree scratch host} "
runs() { [[ $wanted == *" $1 "* ]]; }

if [[ ${1-} == -l ]]; then
	for i in "${!names[@]}"; do
		printf '%-8s %-20s %s\n' "$(where "${names[i]}")" "${files[i]}" "${names[i]}"
	done
	exit
fi

for entry in "${order[@]}"; do
	[[ ${seen[$entry]-} ]] || report_fail "docs.cfg: no document has this any more: $entry"
done

# ---- running them -------------------------------------------------------------------------------------------

# What several commands come down to is run once.
declare -A done_before
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# judge NAME STATUS FILE: what it has said is in FILE
judge() {
	local name=$1 status=$2 said=${known[$1.says]-}
	if [[ $status != "${known[$name.status]-0}" ]]; then
		report_fail "$name: status $status instead of ${known[$name.status]-0}"
		tail -n 5 "$3" | sed 's/^/      /'
	elif [[ $said ]] && ! grep -q -a -E -e "$said" "$3"; then
		report_fail "$name: nothing that matches '$said'"
		tail -n 5 "$3" | sed 's/^/      /'
	else
		passed=$((passed + 1))
	fi
}

# locally I PLACE DIR: the I-th command, in DIR
locally() {
	local name=${names[$1]} text status
	text=${known[$name.$2]}
	[[ $text ]] || text=${texts[$1]}
	if [[ ! ${done_before[$2 $text]-} ]]; then
		(cd "$3" && timeout -k 10 "$limit" bash -c "$text") >"$work/$1.out" 2>&1 </dev/null
		status=$?
		done_before[$2 $text]=$1:$status
	fi
	judge "$name" "${done_before[$2 $text]#*:}" "$work/${done_before[$2 $text]%%:*}.out"
}

# host_plan: the script that docs-host.sh reads
host_plan() {
	local i text
	for i in "${!names[@]}"; do
		[[ $(where "${names[i]}") == host ]] || continue
		text=${known[${names[i]}.host]}
		[[ $text ]] || text=${texts[i]}
		printf 'command %s <<"END-OF-COMMAND"\n%s\nEND-OF-COMMAND\n' "$i" "$text"
	done
}

in_host() {
	local kernel args
	kernel=$("$lab" kernel linux-image-cloud-arm64) || return
	for script in once idle; do
		"$lab" initrd --kernel linux-image-cloud-arm64 --modules virtio_mmio,virtio_iommu,virtio_blk,virtio_net,nvme \
			--script "guest-tests/linux/docs-$script.sh" -o "$work/$script.initrd" || return
	done
	host_plan >"$work/plan"
	truncate -s 16M "$work/nvme.img"
	# shellcheck disable=SC2054 # QEMU's commas
	args=(--host-device pcie-root-port,id=rp,chassis=1 --host-device "nvme,serial=docs,drive=nvme,bus=rp"
		--qemu -drive --qemu "if=none,id=nvme,format=raw,file=$work/nvme.img"
		--packages dash,dpkg,iproute2,libc-bin,mandoc --modules bridge
		--put "$kernel:/root/vmlinuz" --put "$kernel:/root/Image" --put "$work/once.initrd:/root/initrd.img"
		--put "$work/once.initrd:/root/initrd" --put "$work/idle.initrd:/root/idle.img"
		--put "$work/plan:/root/plan" --put guest-tests/docs-host.sh --put docs/granule.1
		--put build/deb:/root/build/deb --timeout 3000)
	"$lab" exec "${args[@]}" -- dash docs-host.sh </dev/null 2>&1 | tr -d '\r' >"$work/host"
}

judge_host() {
	local i
	if ! grep -q '^@ ' "$work/host"; then
		report_fail "the host never came up: $(tail -n 1 "$work/host")"
		return
	fi
	for i in "${!names[@]}"; do
		[[ $(where "${names[i]}") == host ]] || continue
		if ! grep -q -x -e "@ $i" "$work/host"; then
			report_fail "${names[i]}: the host never came to it: $(tail -n 1 "$work/host")"
			continue
		fi
		sed -n "/^@ $i\$/,/^= /p" "$work/host" | sed '1d' >"$work/$i.out"
		judge "${names[i]}" "$(sed -n 's/^= //p' "$work/$i.out")" "$work/$i.out"
	done
}

# program COMMAND: which of the tree's scripts it comes to, if it does; else its first two words
program() {
	local words script
	# shellcheck disable=SC2016 # as test.sh has it
	words=$(sed -e 's/"$make" --no-print-directory/make/' -e 's/^\([A-Z_]*=[^ ]* \)*//' <<<"$1" | cut -d ' ' -f 1,2)
	script=${words%% *}
	if [[ $words == 'make '* ]]; then
		script=$(awk -v target="${words#make }:" '$1 == target { on = 1; next } /^[^\t]/ { on = 0 }
			on && match($0, /[a-z-]+\/[a-z\/-]*[a-z.-]+/) { print substr($0, RSTART, RLENGTH); exit }' \
			Makefile guest-tests/tests.mk docs/dist/dist.mk)
	fi
	if [[ -x $script ]]; then echo "$script"; else echo "$words"; fi
}

# runs_it NAME: does the part of `make test` that is said to run it? What is wrong, if not.
runs_it() {
	local name=$1 by=${known[$1.by]} has=${known[$1.has]-} part word list
	part=$(sed -n "s/^	*part '$by' //p" guest-tests/test.sh)
	if [[ ! $part ]]; then
		echo "make test has no part '$by'"
		return 1
	fi
	if [[ $has ]]; then
		grep -q -F -e "${has#* }" "${has%% *}" || { echo "${has%% *} has no '${has#* }'" && return 1; }
		return
	fi
	if [[ $(program "$part") != "$(program "$name")" ]]; then
		echo "'$by' runs $(program "$part")"
		return 1
	fi
	[[ $name != guest-tests/run.sh\ * ]] || list=$(guest-tests/run.sh -l)
	for word in ${list:+${name#* }}; do
		[[ $word == -* || $word =~ ^[0-9]+$ ]] || grep -q -E -x -e "$word +on [a-z0-9-]+|.* on $word" <<<"$list" ||
			{ echo "'$by' runs no $word" && return 1; }
	done
}

for i in "${!names[@]}"; do
	name=${names[i]}
	case $(where "$name") in
	not) ;;
	by)
		if said=$(runs_it "$name"); then
			passed=$((passed + 1))
		else
			report_fail "$name: $said"
		fi
		;;
	tree | scratch | host) ;;
	*) report_fail "${files[i]}: docs.cfg does not know how to run: $name" ;;
	esac
done

if [[ $(uname -m) == aarch64 ]]; then
	echo "skip  commands of the documents: they need a host that can be spoiled, the lab"
	skipped=$((skipped + 1))
else
	limit=600 # seconds for a command; none takes more than some
	# What goes on in the lab's host needs one CPU of this machine.
	! runs host || in_host &
	host_pid=$!
	mkdir "$work/scratch"
	(
		cd "$work/scratch" || exit
		truncate -s 16M disk.img
		head -c 100000 /dev/urandom >big.bin
		mkdir tests && echo test >tests/test && mkdir data && echo data >data/data
	)
	PATH=$tree/guest-tests/lab:$PATH
	for i in "${!names[@]}"; do
		runs "$(where "${names[i]}")" || continue
		case $(where "${names[i]}") in
		tree) locally "$i" tree "$tree" ;;
		scratch) locally "$i" scratch "$work/scratch" ;;
		esac
	done
	wait $host_pid
	if runs host; then
		mkdir -p build/docs && cp "$work/host" build/docs/host.log
		judge_host
	fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 ]]
