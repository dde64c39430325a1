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
# shellcheck disable=SC2046 # steps are words
polled_random_io() {
	blkcheck random $(param history -g_0 | tr _ ' ') -r "$(param random 1,300)" -d -p -q 64 -a 4 $disk
}

claim guest_page_size has_page_size
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim nvme_has_a_poll_queue has_poll_queue
claim polled_random_io_is_exact polled_random_io
finish
