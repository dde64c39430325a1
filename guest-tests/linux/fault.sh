# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# fault - simulated edus reach for what is not mapped: the guest's kernel is told which one, and where.
# shellcheck source=lib.sh
. /test/lib.sh

kernel_complaints=$(echo "$kernel_complaints" | sed 's/page fault from EP|//')

edus() {
	for device in /sys/bus/pci/devices/*; do
		[ "$(cat "$device/device")" != 0x6564 ] || basename "$device"
	done
}

# what_is_said: of faults, all of it, each as ENDPOINT ADDRESS
what_is_said() { dmesg | sed -n 's/.* page fault from EP \([0-9]*\) at \(0x[0-9a-f]*\) .*/\1 \2/p'; }

# wait_for_faults COUNT
wait_for_faults() {
	tries=0
	until [ "$(what_is_said | wc -l)" -ge "$1" ]; do
		tries=$((tries + 1))
		[ $tries -le 50 ] || { echo "$(what_is_said | wc -l) faults are in the log instead of $1"; return 1; }
		usleep 100000
	done
}

# A device is in a group once a driver is given it. This one does nothing.
have_groups() {
	for bdf in $(edus); do
		echo pci-pf-stub >"/sys/bus/pci/devices/$bdf/driver_override" &&
			echo "$bdf" >/sys/bus/pci/drivers_probe || return
		same "type of $bdf's IOMMU group" "$(cat "/sys/bus/pci/devices/$bdf/iommu_group/type")" DMA || return
	done
	same 'how many there are' "$(edus | wc -l)" 3
}

# are_refused read|write FIRST: each at an address of its own, FIRST and 0x1000008 on, and so on
are_refused() {
	before=$(what_is_said | wc -l) n=0
	for bdf in $(edus); do
		iova=$(printf '0x%x' $(($2 + n * 0x1000008)))
		n=$((n + 1))
		case $1 in
		read) said=$(/test/simedu "$bdf" read "$iova") ;;
		write) said=$(/test/simedu "$bdf" write "$iova" 0x6e6f) ;;
		esac
		same "the device at $iova" "$said" 'refused 0' || return
	done
	wait_for_faults $((before + n)) || return
	n=0
	for bdf in $(edus); do
		dev=${bdf#*:*:} # DEVICE.FUNCTION; endpoints have the numbers of requesters
		iova=$(printf '0x%x' $(($2 + n * 0x1000008)))
		n=$((n + 1))
		same "fault $n" "$(what_is_said | sed -n "$((before + n))p")" "$((0x${dev%.*} * 8 + ${dev#*.})) $iova" ||
			return
	done
}

claim guest_page_size has_page_size
claim edus_in_their_iommu_groups have_groups
claim reads_where_nothing_is_mapped_are_reported are_refused read 0x12345678
claim writes_where_nothing_is_mapped_are_reported are_refused write 0x2345abc0
finish
