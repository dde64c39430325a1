# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# demo - the job of `make run`'s guest. Its lines "guest: WHAT: VALUE" are what run-demo judges.

param() { tr ' ' '\n' </proc/cmdline | sed -n "s/^t\.$1=//p" | tail -n 1; }

disk=/dev/nvme0n1
echo "guest: kernel: $(uname -r)"
echo "guest: host page size: $(param host_page)"
echo "guest: guest page size: $(($(sed -n '/^KernelPageSize: */{s///;s/ kB//p;q}' /proc/self/smaps) * 1024))"
tries=0
until [ -b $disk ]; do
	tries=$((tries + 1))
	[ $tries -le 300 ] || { echo "guest: no $disk after 30 s"; exit 1; }
	usleep 100000
done
group=/sys/class/nvme/nvme0/device/iommu_group
echo "guest: IOMMU group: $(basename "$(readlink -f $group)")"
echo "guest: IOMMU group type: $(cat $group/type)"
dmesg | sed -n 's/.*\(virtio_iommu.*\)/guest: \1/p'
echo "guest: reading $(($(cat /sys/class/block/nvme0n1/size) / 2048)) MiB"
echo "guest: disk sha256: $(sha256sum $disk | cut -d ' ' -f 1)"
[ "$(param write)" != no ] || exit 0
dd if=/dev/urandom of=/tmp/region bs=1M count=8 2>/dev/null
echo "guest: writing 8 MiB of random data at 64 MiB"
dd if=/tmp/region of=$disk bs=1M seek=64 oflag=direct conv=fsync 2>/dev/null || exit 1
echo 3 >/proc/sys/vm/drop_caches
echo "guest: wrote sha256: $(sha256sum /tmp/region | cut -d ' ' -f 1)"
echo "guest: reads back: $(dd if=$disk bs=1M skip=64 count=8 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
