# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# bench-net-host - the lab host's part of bench-net: rounds of every VMM in turn, on one tap.
# usage: bench-net-host.sh ROUNDS CONFIG...; prints `@ CONFIG ROUND`, then lines `NAME VALUE`.
rounds=$1
shift
ram=512

tunctl -t tap0 >/dev/null
ifconfig tap0 192.0.2.1 netmask 255.255.255.0 up
./bench serve 5001 &

# The packages' disk is slow at first.
for file in /usr/bin/qemu-system-aarch64 $(ldd /usr/bin/qemu-system-aarch64 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p'); do
	cat "$file" >/dev/null
done

# one CONFIG
one() {
	append='quiet panic=-1'
	case $1 in
	granule)
		granule run -c 1 -m $ram -k Image -i initrd -p "console=ttyS0 $append" --net tap=tap0
		;;
	qemu-*)
		device=virtio-net-pci,romfile= vhost=off
		case $1 in
		*-vhost) vhost=on ;;
		*-mmio) device=virtio-net-device ;;
		esac
		qemu-system-aarch64 -M virt,gic-version=3 -accel kvm -cpu host -smp 1 -m ${ram}M -nodefaults \
			-display none -serial stdio -no-reboot -kernel Image -initrd initrd \
			-append "console=ttyAMA0 $append" -device "$device,netdev=tap" \
			-netdev tap,id=tap,ifname=tap0,script=no,downscript=no,vhost=$vhost
		;;
	esac </dev/null >log 2>&1
	status=$?
	sed -n 's/^result //p' log | tr -d '\r'
	if [ $status -ne 0 ] || ! grep -q 'job: exit 0' log; then
		echo "failed status $status"
		sed 's/^/# /' log
	fi
}

round=1
while [ $round -le "$rounds" ]; do
	for config; do
		echo "@ $config $round"
		one "$config"
	done
	round=$((round + 1))
done
