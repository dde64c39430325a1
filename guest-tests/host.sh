# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# host - runs scenarios on the host they need, in the lab or directly; sourced by a plan that run.sh
# writes. Everything goes to standard output at once, so that what was said before a crash is there:
#
#     '@ NAME'             a scenario begins
#     '| LINE'             what the guest prints
#     '! LINE'             what granule says of it, on standard error
#     '# LINE'             what the host's kernel logs meanwhile
#     '= STATUS SECONDS'   how granule ended
#     '* LINE'             what a claim about the host has to tell
#     'history: DISK ...'  at the end, of each disk whose guests told: what is on it now
#
# A guest that prints `host: kill` has granule killed by SIGKILL.

# The plan sets: where we are, and whether that is the lab.
work=${work:?} in_lab=${in_lab-}

# killed_on_demand: what a guest prints, and granule gone when it asks for that. $work/pid is granule's, for
# busybox's timeout becomes the command.
killed_on_demand() { awk -v pid="$work/pid" '{ print; fflush() } /^host: kill/ { system("kill -9 $(cat " pid ")") }'; }

# history DISK: what is on it, in steps of blkcheck with "_" for blanks
history() {
	if [ -e "$work/history.$1" ]; then
		cat "$work/history.$1"
	else
		echo -g_0
	fi
}

# histories: of what the guest said, read from standard input, the last word on each disk
histories() {
	sed -n 's/^| history: //p' | while read -r disk text; do
		echo "$text" >"$work/history.$disk"
	done
}

# prefixed CHARACTER: each line as soon as it is there, in one write
prefixed() { awk -v p="$1" '{ sub(/\r$/, ""); print p " " $0; fflush() }'; }

kernel_log() { dmesg -c 2>/dev/null; }

# scenario NAME SECONDS COMMAND [ARG]...; $typed, if it is set, is a file with what is typed
scenario() {
	name=$1 limit=$2
	shift 2
	echo "@ $name"
	[ ! "$in_lab" ] || kernel_log >/dev/null
	started=$(date +%s)
	{
		{
			{
				# shellcheck disable=SC2016
				sh -c 'echo $$ >"$0/pid"; exec timeout -k 10 "$@"' "$work" "$limit" "$@" \
					<"${typed:-/dev/null}" 2>&4
				echo $? >"$work/status"
			} | killed_on_demand | prefixed '|' | tee "$work/said" >&5
		} 4>&1 | tee "$work/complaints" | prefixed '!' >&5
	} 5>&1
	typed=
	histories <"$work/said"
	echo "= $(cat "$work/status") $(($(date +%s) - started))"
	[ ! "$in_lab" ] || kernel_log | prefixed '#'
}

# after NAME COMMAND [ARG]...: a claim about the host, in the report of the scenario before it; skipped if COMMAND
# ends with 77; what COMMAND writes to descriptor 3 comes before it
after() {
	name=$1
	shift
	said=$("$@" 3>&1 >"$work/why" 2>&1)
	ended=$?
	[ ! "$said" ] || echo "$said"
	said=$(tail -n 1 "$work/why")
	case $ended in
	0) echo "| ok $name" ;;
	77) echo "| skip $name: $said" ;;
	*) echo "| FAIL $name: ${said:-failed, and said nothing}" ;;
	esac
}

# as_user KIB COMMAND: from now on granule is run by the user 1000, who may lock so much memory, after COMMAND
# by root, for descriptors 3 to 5, 8 and 9. Kernel and initrd are opened by root too, as 6 and 7.
as_user() {
	real=${real:-$(command -v granule)}
	mkdir -p "$work/bin"
	cat >"$work/bin/granule" <<-END
		#!/bin/sh
		ulimit -l $1
		$2
		for arg; do
			shift
			case \$last in
			-k) exec 6<"\$arg"; arg=fd=6 ;;
			-i) exec 7<"\$arg"; arg=fd=7 ;;
			esac
			last=\$arg
			set -- "\$@" "\$arg"
		done
		exec su -s /bin/sh -c 'exec $real "\$@"' -- user granule "\$@"
	END
	chmod 755 "$work/bin/granule"
	PATH=$work/bin:$PATH
}

# asks_live FILE: the user does, until the next granule has answered
asks_live() {
	rm -f "$work/pid"
	until [ -s "$work/pid" ] && su -s /bin/sh user -c "exec $real stat $(cat "$work/pid")" >"$1" 2>&1; do
		usleep 200000
	done
}

# ---- what `after` often asks ----

# clean FILE: the statistics have neither conflicts nor faults; granule that was killed has written none. The next
# scenario must write its own.
clean() {
	[ "$(cat "$work/status")" != 137 ] || return 0
	for count in conflicts faults; do
		line=$(grep -m 1 "\"$count\":" "$1") || return
		case $line in
		*' 0,') ;;
		*) echo "$line" && return 1 ;;
		esac
	done
	rm "$1"
}

# count NAME FILE: a number of the statistics
count() { sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$2" | head -n 1; }

# at_most, at_least N NAME FILE
at_most() { echo "$2: $(count "$2" "$3")" && [ "$(count "$2" "$3")" -le "$1" ]; }
at_least() { echo "$2: $(count "$2" "$3")" && [ "$(count "$2" "$3")" -ge "$1" ]; }

# serve_tcp: the host's end of netcheck, on the peer of the devices' network
serve_tcp() {
	echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
	ip addr add 192.0.2.1/24 dev eth0 && ip link set eth0 up && ./netcheck serve served &
}

# served FILE: the log of `netcheck serve` has connections, and not a wrong byte in any; it begins anew. Nor has
# a segment come with a wrong checksum, which TCP would have hidden.
served() {
	! grep -m 1 wrong "$1" && grep -q ok "$1" && : >"$1" || return
	awk '$1 == "Tcp:" && !n++ { for (i = 2; i <= NF; i++) if ($i == "InCsumErrors") at = i; next }
		$1 == "Tcp:" && $at { print $at " segments had wrong checksums"; exit 1 }' /proc/net/snmp
}

# stat_marks FILE [MARK]: answer a guest that marks moments on its disk FILE (linux/steady.sh): keep the
# statistics of each in stat.MARK, and of MARK its domains in inspect.MARK.*; until the mark `end`
stat_marks() {
	last=
	while [ "$last" != end ]; do
		mark=$(dd if="$1" bs=512 count=1 2>/dev/null | tr -d ' \0')
		if [ "$mark" != "$last" ]; then
			granule stat --json "$(pidof granule)" >"stat.$mark"
			if [ "$mark" = "${2-}" ]; then
				granule inspect --json --domain "$(pidof granule)" >"inspect.$mark.json"
				granule inspect --domain "$(pidof granule)" >"inspect.$mark.txt"
				granule inspect --domain "$(pidof granule)" --svg "inspect.$mark.svg"
			fi
			printf '%-511s\n' "$mark" | dd of="$1" bs=512 seek=1 conv=notrunc 2>/dev/null
			last=$mark
		fi
		usleep 50000
	done
}

# with_entry_limit N COMMAND...: containers that are opened meanwhile take N mappings
with_entry_limit() {
	echo "$1" >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit
	shift
	"$@"
}

# one_line PATTERN COMMAND...: it ends with status 1 and one line (warnings and statistics apart) that matches
one_line() {
	pattern=$1
	shift
	timeout 30 "$@" >/dev/null 2>one_line.err </dev/null
	code=$?
	grep '^granule: ' one_line.err | grep -v -E 'warning:|: to the guest|virtio-iommu, | s; exits' >one_line.said
	cat one_line.said
	[ $code -eq 1 ] && [ "$(wc -l <one_line.said)" -eq 1 ] && grep -q -E "$pattern" one_line.said
}

# small_disks MIB: file systems of 128 KiB, an image of MIB in each: small1/image, small2/image
small_disks() {
	for fs in small1 small2; do
		mkdir -p $fs && mount -t tmpfs -o size=128k none $fs && truncate -s "$1M" $fs/image || return
	done
}

# full_marks FILE: answer linux/full.sh, which marks moments on its disk FILE: after `full` there is room again,
# after `cut` the images have 16 KiB
full_marks() {
	last=
	while [ "$last" != cut ]; do
		mark=$(dd if="$1" bs=512 count=1 2>/dev/null | tr -d ' \0')
		if [ "$mark" != "$last" ]; then
			case $mark in
			full) mount -o remount,size=8m none small1 && mount -o remount,size=8m none small2 ;;
			cut)
				cp small1/image kept1 && cp small2/image kept2
				truncate -s 16K small1/image && truncate -s 16K small2/image
				;;
			esac
			printf '%-511s\n' "$mark" | dd of="$1" bs=512 seek=1 conv=notrunc 2>/dev/null
			last=$mark
		fi
		usleep 50000
	done
}

# holds_acked FILE DISK: what the guest was told is written is in the file
holds_acked() {
	nr=$(sed -n "s/^| acked $2 //p" "$work/said")
	[ "$nr" ] || { echo "nothing is said of $2"; return 1; }
	i=0
	while [ $i -lt $((nr + 4)) ]; do
		dd if="$1" bs=4096 skip=$i count=1 2>/dev/null | grep -q "^block $i of $2 " || { echo "block $i of $2"; return 1; }
		i=$((i + 1))
	done
}

# inspected MARK: the guest waited meanwhile, so its domains have what the statistics count, and there is
# something of what Linux's NVMe driver has: bounced rings, and parked buffers
inspected() {
	for class in direct bounce parked quarantined; do
		shown=$(sed -n "s/.*\"$class\": \([0-9]*\).*/\1/p" "inspect.$1.json" | awk '{ n += $1 } END { print n + 0 }')
		counted=$(($(stat_field "$1" ${class}_live) * $(stat_field "$1" frame_size)))
		[ "$shown" = "$counted" ] || { echo "$shown bytes $class are shown, $counted counted"; return 1; }
		[ "$shown" -gt 0 ] || [ $class = direct ] || [ $class = quarantined ] || { echo "nothing is $class"; return 1; }
	done
	awk 'length > 100 { print "too wide:", $0; exit 1 }' "inspect.$1.txt" || return
	grep -q '^endpoint 0x0008 ' "inspect.$1.txt" && grep -q '^instance IOMMU group' "inspect.$1.txt" &&
		grep -q ' bounce  *rw ' "inspect.$1.txt" && grep -q ' parked ' "inspect.$1.txt" || { cat "inspect.$1.txt"; return 1; }
	[ "$(tail -n 1 "inspect.$1.svg")" = '</svg>' ] && grep -q '<title>.*' "inspect.$1.svg"
}

# trace_agrees FILE STATS: the trace has as many events as the statistics count, none was dropped, and on each track
# they end in the order in which they stand
trace_agrees() {
	[ "$(tail -n 1 "$1")" = ']' ] || { echo "no end: $(tail -n 1 "$1")"; return 1; }
	awk -v stats="$2" '
	function field(name) { match($0, "\"" name "\":[0-9.]*"); return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) + 0 }
	/"name":/ {
		match($0, /"name":"[^"]*"/)
		name = substr($0, RSTART + 8, RLENGTH - 9)
		seen[/"status":"/ && !/"status":"ok"/ ? "refused" : name]++
		if (/"ph":"X"/) {
			tid = field("tid")
			end = field("ts") + field("dur")
			if (end < last[tid] - 0.01) { print "out of order: " $0; bad = 1; exit 1 }
			last[tid] = end
		}
	}
	END {
		if (bad) exit 1
		n = split("map maps unmap unmaps attach attaches refused refused fault faults " \
			"sync_for_device syncs_for_device sync_for_cpu syncs_for_cpu trapped traps direct untraps", pair, " ")
		while ((getline line < stats) > 0)
			if (split(line, part, /[":, ]+/) >= 3 && !(part[2] in count))
				count[part[2]] = part[3] + 0
		for (i = 1; i < n; i += 2) {
			name = pair[i]
			gsub(/_/, " ", name)
			if (seen[name] + 0 != count[pair[i + 1]]) {
				print seen[name] + 0 " events " name ", " count[pair[i + 1]] " counted"
				exit 1
			}
		}
		if (seen["dropped"]) { print "some were dropped"; exit 1 }
		if (!seen["map"] && !seen["fault"]) { print "there is nothing in it"; exit 1 }
	}' "$1"
}

# stat_field MARK NAME: a number of its statistics
stat_field() { sed -n "s/^ *\"$2\": \([0-9]*\),*$/\1/p" "stat.$1"; }

# stat_grew MARK MARK NAME MIN MAX: by how much from one to the other
stat_grew() {
	from=$(stat_field "$1" "$3") to=$(stat_field "$2" "$3")
	if ! { [ "$from" ] && [ "$to" ] && [ $((to - from)) -ge "$4" ] && [ $((to - from)) -le "$5" ]; }; then
		echo "$3 from '$from' to '$to': not by $4 to $5"
		return 1
	fi
}

# watch_memory RAM_MIB FILE: of granule from its beginning to its end, some 200 times or each second, a line
# `SECONDS KIB REST FDS THREADS`: resident memory beside the guest's RAM, and beside bounce pages too. Its first line
# tells what they are.
watch_memory() {
	rm -f "$work/pid"
	echo '# seconds KiB rest fds threads' >"$2"
	until [ -s "$work/pid" ] && pid=$(cat "$work/pid") && [ "$(readlink "/proc/$pid/exe")" = "$(command -v granule)" ]; do
		usleep 100000
	done
	started=$(date +%s)
	while kib=$(./bench memory "$pid" "$1") && [ "$kib" ]; do
		# shellcheck disable=SC2012 # numbers
		echo "$(($(date +%s) - started)) $kib $(ls "/proc/$pid/fd" | wc -l) $(ls "/proc/$pid/task" | wc -l)"
		sleep $((${duration:?} / 200 + 1))
	done >>"$2" 2>/dev/null
}

# flat FILE: in the last sixth of the time there was no more memory but for bounce pages, where least was in use, than in
# the sixth before, but for 64 KiB, nor than in the second, but for 2 MiB; nor were there at most more descriptors and
# threads than in the second. Tables keep what they have grown to, until once they were as large as they get. Bounce
# pages have a bound of their own, up to which free ones stay warm (iommu/pool.c).
flat() {
	[ "$duration" -ge 1200 ] || { echo "in $duration s there is too little to compare"; return 77; }
	awk '$1 != "#" { at[++n] = $1; all[n] = $2; kib[n] = $3; fds[n] = $4; threads[n] = $5 }
		function most(of, sixth,   i, m) { for (i = 1; i <= n; i++) if (int(at[i] * 6 / end) + 1 == sixth && of[i] > m) m = of[i]; return m }
		function least(of, sixth,   i, m) { for (i = 1; i <= n; i++) if (int(at[i] * 6 / end) + 1 == sixth && (!m || of[i] < m)) m = of[i]; return m }
		END {
			if (n < 40) { print n " samples"; exit 1 }
			for (i = 1; i <= n; i += int(n / 20)) print "* after " at[i] " s: " all[i] " KiB, " kib[i] " of them no bounce pages, " fds[i] " descriptors, " threads[i] " threads"
			end = at[n] + 1
			for (i = 1; i <= 6; i++)
				print "* sixth " i ": at least " least(kib, i) " KiB, at most " most(fds, i) " descriptors, " most(threads, i) " threads"
			exit least(kib, 6) > least(kib, 5) + 64 || least(kib, 6) > least(kib, 2) + 2048 ||
				most(fds, 6) > most(fds, 2) || most(threads, 6) > most(threads, 2)
		}' "$1" >&3 || { echo 'there is more at the end, or too few samples'; return 1; }
}

# no_vfio_calls MARK MARK: between them
no_vfio_calls() {
	stat_grew "$1" "$2" map 0 0 && stat_grew "$1" "$2" unmap 0 0 && stat_grew "$1" "$2" others 0 0
}

# sample_granule FILE: of the next granule, from the first line of its guest on, what it has of the machine: KiB of
# memory, KiB of address space, threads, descriptors. Every 2 s, and more often at first: some guests are done in that time.
sample_granule() {
	rm -f "$work/pid" "$work/said" "$1"
	(
		while [ ! -s "$work/said" ] || ! pid=$(cat "$work/pid" 2>/dev/null); do
			usleep 50000
		done
		pause=50000
		while line=$(awk '/^(VmRSS|VmSize|Threads):/ { v[$1] = $2 }
				END { if (v["VmRSS:"]) print v["VmRSS:"], v["VmSize:"], v["Threads:"] }' \
			"/proc/$pid/status" 2>/dev/null) && [ "$line" ]; do
			# shellcheck disable=SC2012 # numbers
			echo "$line $(ls "/proc/$pid/fd" 2>/dev/null | wc -l)" >>"$1"
			usleep $pause
			[ $pause -ge 2000000 ] || pause=$((pause * 5 / 4))
		done
	) &
}

# stays_below FILE RSS/GROWTH THREADS FDS: in MiB; the samples never had more; GROWTH is of the address space, from the
# first sample on; says what there was
stays_below() {
	# in the report: `after` shows no more of us than a complaint
	awk '$1 > r { r = $1 } $3 > t { t = $3 } $4 > f { f = $4 } { all[NR] = $1 }
		NR == 1 { size = $2 } $2 - size > g { g = $2 - size }
		END { printf "| note: %d KiB of memory at first, %d in the middle, %d at the end, %d at most; ", \
				all[1], all[int((NR + 1) / 2)], all[NR], r
			printf "%d KiB more address space, %d threads, %d descriptors at most, %d samples\n", g, t, f, NR }' "$1" >&3
	awk -v rss="${2%/*}" -v growth="${2#*/}" -v threads="$3" -v fds="$4" '
		NR == 1 { size = $2 }
		$1 > rss * 1024 { bad = "memory " $1 " KiB" }
		$2 - size > growth * 1024 { bad = "address space grew by " $2 - size " KiB" }
		$3 > threads { bad = $3 " threads" }
		$4 > fds { bad = $4 " descriptors" }
		END { if (NR < 2) bad = NR " samples"; if (bad) { print bad; exit 1 } }' "$1"
}

# says_little BYTES: on standard error, of which a guest must not be the master
says_little() {
	size=$(wc -c <"$work/complaints")
	echo "$size bytes" && [ "$size" -le "$1" ]
}
