# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# descriptors - the passed-through NVMe disk, a simulated one and a virtio disk, all of them handed to granule open.
# The disks are those of t.gen, and of one more in the end.
# shellcheck source=lib.sh
. /test/lib.sh

# find_nvme PCI-ID: sets disk and nvme_pci, if they are there. Which of two controllers is nvme0 is chance.
find_nvme() {
	for at in /sys/bus/pci/devices/*/nvme/nvme*/nvme*n1; do
		disk=/dev/${at##*/} nvme_pci=${at%/nvme/*/*}
		[ "$(cut -c 3- <"$nvme_pci/vendor"):$(cut -c 3- <"$nvme_pci/device")" != "$1" ] || [ ! -b "$disk" ] || return 0
	done 2>/dev/null
	disk='' nvme_pci=''
	return 1
}

wait_for_nvme() {
	tries=0
	until find_nvme "$1"; do
		tries=$((tries + 1))
		[ $tries -le 200 ] || { echo "no disk of $1 after 20 s"; return 1; }
		usleep 100000
	done
}

is_exact() { reads_direct_4k && reads_direct_1m; }

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim page_mask_suits_the_guest offered_mask
for id in 1b36:0010 1234:6e76; do
	name=nvme
	[ $id = 1b36:0010 ] || name=simulated_nvme
	claim ${name}_appears wait_for_nvme $id
	find_nvme $id
	claim ${name}_in_its_iommu_group in_its_group
	claim ${name}_reads_are_exact is_exact
	claim ${name}_writes_read_back writes
done
disk=/dev/vda
claim virtio_disk_appears wait_for_disk
claim virtio_disk_reads_are_exact is_exact
claim virtio_disk_writes_read_back writes
finish
