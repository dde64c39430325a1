# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# poll - a guest whose NVMe driver finds completions by polling memory, and takes no interrupts for them.
# shellcheck source=lib.sh
. /test/lib.sh

# One besides those of the two CPUs: requests that ask for polling are refused where there is none.
has_poll_queue() {
	same 'queues' "$(dmesg | sed -n 's|.* nvme0: \(.*\) default/read/poll queues|\1|p')" 2/0/1 &&
		same 'io_poll' "$(cat /sys/block/nvme0n1/queue/io_poll)" 1
}

# The disk's history so far is t.history, with "_" for blanks.
history=$(param history '-g_0' | tr _ ' ')

# polled SEED,COUNT DEPTH ALIGN. One by one there is nothing but the poll: deep ones are split for their
# alignment, and then some have an interrupt, which is a sync point for all.
# shellcheck disable=SC2086 # steps are words
polled() { blkcheck random $history -r "$1" -d -p -q "$2" -a "$3" $disk; }

claim guest_page_size has_page_size
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim nvme_has_a_poll_queue has_poll_queue
claim polled_io_one_by_one_is_exact polled "$(param single 1,60)" 1 512
history="$history -r $(param single 1,60)"
claim polled_random_io_is_exact polled "$(param random 2,300)" 64 4
finish
