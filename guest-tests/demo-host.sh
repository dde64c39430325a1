#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# demo-host KERNEL INITRD SHELL sim
# demo-host KERNEL INITRD SHELL vfio PARAMS DEVICE - the part of run-demo that runs on the host, in the
# lab or not: a guest with a simulated disk, of whose file it takes care itself, or with a device of the
# host (and for a shell with both). ./blkcheck is there. Status 0: granule ended well, the guest says that all is well, and so does
# the simulated disk's file. SHELL: `shell` for an interactive guest, of which nothing is asked.
kernel=$1 initrd=$2 shell=$3 what=$4
shift 4
mib=64

log=$(mktemp)
file=$(mktemp)
trap 'rm -f "$log" "$log.status" "$file"' EXIT

# run PARAMS GRANULE-ARGUMENT...
run() {
	params=$1
	shift
	echo "host:  granule run -k $(basename "$kernel") -i $(basename "$initrd") -m 1G -c 2 $*"
	set -- granule run -k "$kernel" -i "$initrd" -m 1G -c 2 \
		-p "console=ttyS0 quiet panic=-1 deferred_probe_timeout=60 $params" "$@"
	if [ "$shell" ]; then
		"$@"
		return
	fi
	{
		"$@"
		echo $? >"$log.status"
	} | tee "$log"
	status=$(cat "$log.status")
	if [ "$status" != 0 ]; then
		echo "host:  granule ended with status $status"
		return 1
	fi
	grep -q '^guest: all is well' "$log"
}

simulated="nvme,disk=$file,dart=t6000,darts=2"

kib=$(sed -n '/^KernelPageSize: */{s///;s/ kB//p;q}' /proc/self/smaps)
echo "host:  Linux $(uname -r), page size $((kib * 1024)) bytes"
if [ "$what" = sim ] || [ "$shell" ]; then
	./blkcheck fill "$file" $mib
fi
if [ "$what" = vfio ]; then
	for group in /sys/kernel/iommu_groups/*; do
		for dev in "$group"/devices/*; do
			[ "$(basename "$(readlink "$dev/driver")")" = vfio-pci ] &&
				echo "host:  PCI function ${dev##*/} is bound to vfio-pci, IOMMU group ${group##*/}"
		done
	done
	if [ "$shell" ]; then
		run "$1" --vfio "$2" --sim "$simulated"
	else
		run "$1" --vfio "$2"
	fi
elif [ "$shell" ]; then
	run '' --sim "$simulated"
else
	sha256=$(sha256sum "$file" | cut -d ' ' -f 1)
	echo "host:  $mib MiB of a file will be the disk, SHA-256 $sha256"
	run "t.sha256=$sha256 t.gen=0" --sim "$simulated" || exit
	./blkcheck read -g 1 "$file" || exit
	echo "host:  the disk's file has what the guest wrote, where it wrote it, and is unchanged elsewhere"
fi
