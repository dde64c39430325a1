# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# bench-host - the lab host's part of `make bench-lab`: rounds of every configuration in turn.
# usage: bench-host.sh ROUNDS PARAMS CONFIG...; prints `@ CONFIG ROUND JOB`, then lines `NAME VALUE`.
rounds=$1 params=$2
shift 2
ram=512

for nic in /sys/class/net/eth*; do
	ifconfig "$(basename "$nic")" 192.0.2.1 netmask 255.255.255.0 up
done
./bench serve 5001 &

# The packages' disk is slow at first.
echo quit | qemu-system-aarch64 -M virt -nodefaults -display none -S -monitor stdio >/dev/null 2>&1
cat ./*-Image ./*-initrd /usr/local/bin/granule >/dev/null

# one CONFIG JOB DEVICE
one() {
	config=$1 device=$3
	case $config in
	*-16k*) kernel=16k ;;
	*) kernel=4k ;;
	esac
	append="quiet panic=-1 t.job=$2 $params"
	case $config in
	granule-*)
		./bench watch $ram granule run -c 1 -m $ram -k $kernel-Image -i $kernel-initrd \
			-p "console=ttyS0 $append" --vfio "$device" --stats stats.json
		;;
	qemu-*)
		viommu=
		case $config in
		*-viommu) viommu='-device virtio-iommu-pci' ;;
		esac
		# shellcheck disable=SC2086 # words
		./bench watch $ram qemu-system-aarch64 -M virt,gic-version=3 -accel kvm -cpu host -smp 1 \
			-m ${ram}M -nodefaults -display none -serial stdio -no-reboot \
			-kernel $kernel-Image -initrd $kernel-initrd -append "console=ttyAMA0 $append" \
			$viommu -device vfio-pci,host="$device" </dev/null
		;;
	esac 2>log
	status=$?
	sed -n 's/^result //p' log | tr -d '\r'
	if [ $status -ne 0 ] || ! grep -q 'job: exit 0' log; then
		echo "failed status $status"
		sed 's/^/# /' log
	fi
	case $config in
	granule-*) sed -n 's/^ *"\([a-z_]*\)": \([0-9.]*\),*$/'"$2"'_\1 \2/p' stats.json ;;
	esac
}

# Each device in a machine of its own: what one needs must not slow the other.
round=1
while [ $round -le "$rounds" ]; do
	for job in disk net; do
		device=${LAB_DEVICES% *}
		[ $job = disk ] || device=${LAB_DEVICES#* }
		for config; do
			echo "@ $config $round $job"
			one "$config" $job "$device"
		done
	done
	round=$((round + 1))
done
