# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# two - two passed-through NVMe disks, from two IOMMU groups of the host, in one group of the guest: one
# domain, which both host containers follow. Both disks are used at the same time. Their history so far is
# t.history, with "_" for blanks; this job adds `-g t.step` and `-r t.random`.
# shellcheck source=lib.sh
. /test/lib.sh

# shellcheck disable=SC2086 # steps are words
history=$(param history '-g_0' | tr _ ' ')

second_disk() {
	disk=/dev/nvme1n1
	wait_for_disk
}
two_disks() { wait_for_disk && (second_disk); }

group_of() { basename "$(readlink -f "/sys/class/nvme/nvme$1/device/iommu_group")"; }

one_group() {
	# shellcheck disable=SC2012 # there are no names to mangle
	same 'IOMMU groups' "$(group_of 0)" "$(group_of 1)" &&
		same 'devices in it' "$(ls "/sys/kernel/iommu_groups/$(group_of 0)/devices" | wc -l)" 2
}

# on_both COMMAND...: at the same time, each with a disk's name behind it
on_both() {
	"$@" /dev/nvme0n1 >/tmp/first 2>&1 &
	first=$!
	"$@" /dev/nvme1n1
	second=$?
	wait $first || { cat /tmp/first; return 1; }
	return $second
}

# shellcheck disable=SC2086
{
	reads_4k() { on_both blkcheck read $history -d -n 200 -t "$(param threads 1)"; }
	reads_1m() { on_both blkcheck read $history -d -s 1048576 -n 8 -t "$(param threads 1)"; }
	reads_all() { drop_caches && on_both blkcheck read $history -s 131072; }
	write_both() {
		on_both blkcheck write $history -g "$(param step 1)" -d -t "$(param threads 1)"
	}
	random_both() { on_both blkcheck random $history -r "$(param random 1,300)" -d -a 4; }
}

claim guest_page_size has_page_size
claim both_disks_appear two_disks
claim both_are_in_one_iommu_group one_group
claim nvme_in_its_iommu_group in_its_group
claim direct_4k_reads_of_both_are_exact reads_4k
claim direct_1m_reads_of_both_are_exact reads_1m
claim writes_to_both_are_done write_both
history="$history -g $(param step 1)"
claim random_io_on_both_is_exact random_both
history="$history -r $(param random 1,300)"
claim page_cache_reads_of_both_are_exact reads_all
finish
