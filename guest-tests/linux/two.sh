# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# two - two passed-through NVMe disks, from two IOMMU groups of the host, in one group of the guest: one
# domain, which both host containers follow. Both disks are used at the same time.
# shellcheck source=lib.sh
. /test/lib.sh

two_disks() {
	wait_for_disk
	for n in 0 1; do
		[ -b /dev/nvme${n}n1 ] || { tries=0; until [ -b /dev/nvme${n}n1 ]; do
			tries=$((tries + 1))
			[ $tries -le 200 ] || { echo "no /dev/nvme${n}n1 after 20 s"; return 1; }
			usleep 100000
		done; }
	done
}

group_of() { basename "$(readlink -f "/sys/class/nvme/nvme$1/device/iommu_group")"; }

one_group() {
	same 'IOMMU groups' "$(group_of 0)" "$(group_of 1)" &&
		same 'devices in it' "$(ls "/sys/kernel/iommu_groups/$(group_of 0)/devices" | wc -l)" 2
}

# on_both COMMAND...: at the same time, each with a disk's name behind it
on_both() {
	"$@" /dev/nvme0n1 >/tmp/first 2>&1 &
	if "$@" /dev/nvme1n1 && wait $!; then
		return
	fi
	wait
	cat /tmp/first
	return 1
}

reads_4k() { on_both blkcheck read -g "$generation" -d -n 300 -t "$(param threads 1)"; }
reads_1m() { on_both blkcheck read -g "$generation" -d -s 1048576 -n 16 -t "$(param threads 1)"; }
reads_all() { drop_caches && on_both blkcheck read -g "$generation" -s 131072; }
write_both() {
	generation=$(($(param gen 0) + 1))
	on_both blkcheck write -g $generation -d -t "$(param threads 1)" &&
		on_both blkcheck read -g $generation -d -s 1048576 -t "$(param threads 1)"
}

claim guest_page_size has_page_size
claim both_disks_appear two_disks
claim both_are_in_one_iommu_group one_group
claim nvme_in_its_iommu_group in_its_group
claim direct_4k_reads_of_both_are_exact reads_4k
claim direct_1m_reads_of_both_are_exact reads_1m
claim writes_to_both_read_back write_both
generation=$(($(param gen 0) + 1))
claim page_cache_reads_of_both_are_exact reads_all
finish
