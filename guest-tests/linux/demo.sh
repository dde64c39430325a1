# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# demo - what `make run` shows from inside the guest: whose pages are how large, who translates for
# the disk, and that what is read and written is right. With t.sha256= the disk is the demo's own, and
# is written too; without it the device is somebody's, and is only looked at.
# shellcheck source=lib.sh
. /test/lib.sh

say() { echo "guest: $*"; }
give_up() {
	say "FAILED: $*"
	exit 1
}

sha256=$(param sha256 '')
say "Linux $(uname -r), $(grep -c '^processor' /proc/cpuinfo) CPUs, page size $(page_size) bytes"
[ ! "$sha256" ] || [ "$(page_size)" = 4096 ] || give_up "a page size of 4096 bytes was expected"

[ ! "$sha256" ] || said=$(wait_for_disk) || give_up "$said"
sleep 1
for dev in /sys/bus/pci/devices/*; do
	group=$(readlink "$dev/iommu_group") || continue
	say "PCI function ${dev##*/} ($(cat "$dev/vendor"):$(cat "$dev/device")), driver" \
		"$(basename "$(readlink "$dev/driver")"), IOMMU group $(basename "$group")" \
		"of type $(cat "$dev/iommu_group/type")"
done
if [ "$sha256" ]; then
	[ "$(cat $nvme_pci/iommu_group/type)" = DMA ] || give_up "the NVMe's IOMMU group is not of type DMA"
fi

if [ -b "$disk" ]; then
	mib=$(($(cat /sys/block/nvme0n1/size) / 2048))
	if [ "$sha256" ]; then
		say "reading all $mib MiB of the NVMe disk"
		got=$(sha256sum "$disk" | cut -d ' ' -f 1)
		say "SHA-256 read in the guest  $got"
		say "SHA-256 of the host's file $sha256"
		[ "$got" = "$sha256" ] || give_up "they differ"
		say "they are equal; writing a region, a block or a megabyte at a time, and reading it back"
		said=$(writes 2>&1) || give_up "$said"
		say "it reads back as it was written"
	else
		say "reading 16 MiB of the NVMe disk's $mib MiB (nothing is written)"
		dd if="$disk" of=/dev/null bs=1M count=16 2>/tmp/dd || give_up "$(tail -n 1 /tmp/dd)"
		say "$(tail -n 1 /tmp/dd)"
	fi
fi
said=$(quiet_kernel) || give_up "the guest's kernel complains: $said"
say "all is well; powering off"
