# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# vfiouser - the guest gives the device that it was given to a program of its own, through its own VFIO, whose
# IOMMU is the virtio-iommu: single pages, as a program in user space, or a hypervisor in the guest, maps them.
# shellcheck source=lib.sh
. /test/lib.sh

bdf=$(basename "$(dirname "$(grep -l 0x11e8 /sys/bus/pci/devices/*/device)")")

binds() {
	echo vfio-pci >"/sys/bus/pci/devices/$bdf/driver_override" &&
		echo "$bdf" >/sys/bus/pci/drivers_probe &&
		same 'its driver' "$(basename "$(readlink "/sys/bus/pci/devices/$bdf/driver")")" vfio-pci
}

claim guest_page_size has_page_size
claim device_binds_to_the_guests_vfio_pci binds
claim single_pages_are_read_and_written_to_the_byte /test/vfiouser "$bdf" single-pages
claim what_the_cpu_writes_meanwhile_is_read /test/vfiouser "$bdf" cpu-writes
claim holes_are_neither_written_nor_read /test/vfiouser "$bdf" holes
claim unmapped_pages_are_out_of_reach /test/vfiouser "$bdf" unmapped
claim rights_of_single_pages_hold /test/vfiouser "$bdf" rights
claim iova_used_again_reaches_the_new_page_only /test/vfiouser "$bdf" reused
claim maps_that_make_no_sense_are_refused /test/vfiouser "$bdf" refusals
claim interrupts_reach_the_program /test/vfiouser "$bdf" interrupts
finish
