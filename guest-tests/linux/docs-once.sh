# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# docs-once - a guest for the commands of the documents: it says what it has, and powers off.
for function in /sys/bus/pci/devices/*; do
	[ "$(cat "$function/class" 2>/dev/null)" = 0x010802 ] || continue
	# Behind a DART of the guest's own, with pages of 4 KiB, it never comes.
	! find /sys/firmware/devicetree/base -name compatible -exec cat {} + | grep -q apple, || continue
	tries=0
	until ls "$function"/nvme/nvme*/nvme*n1 >/dev/null 2>&1 || [ $tries -ge 300 ]; do
		tries=$((tries + 1))
		usleep 100000
	done
done
echo "guest: memory $(sed -n 's/^MemTotal: *//p' /proc/meminfo), CPUs $(grep -c ^processor /proc/cpuinfo)"
for disk in /sys/block/vd* /sys/block/nvme*; do
	[ ! -e "$disk" ] || echo "guest: disk ${disk##*/}, $(cat "$disk/size") sectors, read-only $(cat "$disk/ro")"
done
for net in /sys/class/net/*; do
	[ ! -e "$net/device" ] || echo "guest: network ${net##*/}"
done
