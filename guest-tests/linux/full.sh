# shellcheck shell=sh source-path=SCRIPTDIR disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# full - disks whose image is on a file system that becomes full, has room again, and is cut off. The host
# acts when a mark is written to /dev/vda: host.sh, full_marks.
# shellcheck source=lib.sh
. /test/lib.sh

mark() {
	printf '%-511s\n' "$1" | dd of=/dev/vda bs=512 count=1 oflag=direct 2>/dev/null || return
	tries=0
	until [ "$(dd if=/dev/vda bs=512 skip=1 count=1 iflag=direct 2>/dev/null | tr -d ' \0')" = "$1" ]; do
		tries=$((tries + 1))
		[ $tries -le 600 ] || { echo "no answer to the mark $1"; return 1; }
		usleep 100000
	done
}

write_block() { printf '%-4095s\n' "block $2 of ${1##*/}" | dd of="$1" bs=4096 seek="$2" oflag=direct 2>/dev/null; }
read_block() { dd if="$1" bs=4096 skip="$2" count=1 iflag=direct 2>/dev/null; }
has_block() { [ "$(read_block "$1" "$2" | head -n 1 | tr -s ' ' | sed 's/ $//')" = "block $2 of ${1##*/}" ]; }

# fill DISK: sets nr, the blocks that were written, and tells the host
fill() {
	nr=0
	while write_block "$1" $nr; do
		nr=$((nr + 1))
		[ $nr -lt 200 ] || { echo "200 blocks, and it is not full"; return 1; }
	done
	echo "acked ${1##*/} $nr" >/dev/console
	[ $nr -gt 4 ] || { echo "only $nr blocks were written"; return 1; }
}

# holds DISK FIRST END: blocks FIRST.. before END are as they were written
holds() {
	i=$2
	while [ "$i" -lt "$3" ]; do
		has_block "$1" "$i" || { echo "block $i is not as it was written"; return 1; }
		i=$((i + 1))
	done
}

# claim runs these in a subshell: what they find out is kept in files.
fill_all() { fill /dev/vdb && echo "$nr" >/nr_vdb && fill /dev/nvme0n1 && echo "$nr" >/nr_nvme; }
still_read() {
	holds /dev/vdb 0 "$(cat /nr_vdb)" && holds /dev/nvme0n1 0 "$(cat /nr_nvme)" && read_block /dev/vdb 300 >/dev/null
}
write_more() {
	nr_vdb=$(cat /nr_vdb) nr_nvme=$(cat /nr_nvme)
	for i in 0 1 2 3; do
		write_block /dev/vdb $((nr_vdb + i)) && write_block /dev/nvme0n1 $((nr_nvme + i)) || return
	done
	holds /dev/vdb 0 $((nr_vdb + 4)) && holds /dev/nvme0n1 0 $((nr_nvme + 4))
}
# The images have four blocks now.
cut_off() {
	for disk in /dev/vdb /dev/nvme0n1; do
		holds $disk 0 4 || return
		! read_block $disk 5 >/dev/null || { echo "$disk gives what is not there"; return 1; }
	done
}

tries=0
until [ -b /dev/vdb ] && [ -b /dev/nvme0n1 ]; do
	tries=$((tries + 1))
	[ $tries -le 300 ] || break
	usleep 100000
done
claim writes_fail_when_the_host_has_no_room fill_all
claim what_was_acknowledged_is_read still_read
claim marked_full mark full
claim writes_go_on_when_there_is_room write_more
claim marked_cut mark cut
claim what_was_cut_off_is_an_error cut_off
done_line
