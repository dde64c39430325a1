#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# demo-host KERNEL INITRD PARAMS SHELL [GRANULE-ARGUMENT]... - the part of run-demo that runs on the
# 16 KiB host, in the lab or not. Status 0: granule ended well, and the guest says so too.
# SHELL: `shell` for an interactive guest, of which nothing is asked.
kernel=$1 initrd=$2 params=$3 shell=$4
shift 4

kib=$(sed -n '/^KernelPageSize: */{s///;s/ kB//p;q}' /proc/self/smaps)
echo "host:  Linux $(uname -r), page size $((kib * 1024)) bytes"
for group in /sys/kernel/iommu_groups/*; do
	for dev in "$group"/devices/*; do
		[ "$(basename "$(readlink "$dev/driver")")" = vfio-pci ] &&
			echo "host:  PCI function ${dev##*/} is bound to vfio-pci, IOMMU group ${group##*/}"
	done
done
echo "host:  granule run -k $(basename "$kernel") -i $(basename "$initrd") $*"
set -- granule run -k "$kernel" -i "$initrd" -p "console=ttyS0 quiet panic=-1 deferred_probe_timeout=60 $params" "$@"
if [ "$shell" ]; then
	exec "$@"
fi
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT
{
	"$@"
	echo $? >"$log.status"
} | tee "$log"
status=$(cat "$log.status")
if [ "$status" != 0 ]; then
	echo "host:  granule ended with status $status"
	exit 1
fi
grep -q '^guest: all is well' "$log"
