# shellcheck shell=sh source-path=SCRIPTDIR disable=SC2154
# SPDX-License-Identifier: Apache-2.0
# steady - reads that go on and on, with marks between which the host looks at granule's statistics.
# shellcheck source=lib.sh
. /test/lib.sh

# mark NAME: tell the host, on the first sector of /dev/vda, and wait for its answer on the second
mark() {
	[ -b /dev/vda ] || { echo "no /dev/vda"; return 1; }
	printf '%-511s\n' "$1" | dd of=/dev/vda bs=512 count=1 oflag=direct 2>/dev/null || return
	tries=0
	until [ "$(dd if=/dev/vda bs=512 skip=1 count=1 iflag=direct 2>/dev/null | tr -d ' \0')" = "$1" ]; do
		tries=$((tries + 1))
		[ $tries -le 600 ] || { echo "no answer to the mark $1"; return 1; }
		usleep 100000
	done
}

# Some sizes, each at random places: none needs whole frames of its own.
mixed() {
	for size in 4096 8192 20480 12288 36864 4096 28672; do
		blkcheck read -g "$generation" -d -s $size -n "$1" "$disk" || return
	done
}

# 4 KiB, in a frame that others may use as well; 12 KiB, whose IOVAs Linux gives a frame of their own that they
# never fill, so that it is bounced wherever the pages are, and parked when the read is over.
streams() {
	blkcheck read -g "$generation" -d -n "$1" "$disk" && blkcheck read -g "$generation" -d -s 12288 -n "$1" "$disk"
}

claim nvme_appears wait_for_disk
claim reads_warm_up streams 300
claim marked_warm mark warm
claim thousands_of_reads_are_exact streams 2000
claim marked_streamed mark streamed
claim mixed_reads_warm_up mixed 60
claim marked_mixed_warm mark mixed_warm
claim mixed_reads_are_exact mixed 150
claim marked_mixed mark mixed
claim marked_end mark end
finish
