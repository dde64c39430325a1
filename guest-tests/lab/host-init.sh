#!/usr/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# shellcheck disable=SC1091,SC2154 # /lab/job comes with the run
#
# /init of the lab host. It binds devices, runs the command of `lab exec` with the caller's
# standard streams, copies files out, reports and powers off. /lab/job, written by lab, sets:
#
#   vfio           PCI functions to give to vfio-pci
#   host_devices   set when there are functions for the host's own drivers
#   packages       set when the first virtio disk holds a tree of packages
#   tty            which of the standard streams are the terminal /dev/hvc0: any of 0, 1, 2
#   rows, cols     the terminal's size
#   ports          the names of the virtio-serial ports lab gave the machine
#   gets           how many files to copy out; get_I is where the I-th one is
#   command()      runs the command
#
# What travels goes through named virtio-serial ports. QEMU writes what the host sends to
# a file before the sending write() returns, so nothing is under way when the machine stops.

export PATH=/lab/bin HOME=/root
/usr/bin/busybox mkdir -p /lab/bin /lab/port /proc /sys /dev /tmp /run /root /etc /var /mnt
/usr/bin/busybox --install -s /lab/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debug /sys/kernel/debug
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname lab
ifconfig lo 127.0.0.1 up

die() {
	echo "lab: $*" >/dev/console
	[ -e /lab/port/status ] && echo "fail $*" >/lab/port/status
	poweroff -f
}

while read -r module; do
	insmod "$module" || die "cannot load $module"
done </lab/modules

. /lab/job

# The driver learns of the ports, their names and that QEMU has them open, one message at a time.
tries=0
for name in $ports; do
	until [ -e "/lab/port/$name" ]; do
		for port in /sys/class/virtio-ports/*; do
			[ "$(cat "$port/name" 2>/dev/null)" = "$name" ] &&
				grep -q '^host_connected: 1' "/sys/kernel/debug/virtio-ports/${port##*/}" &&
				ln -s "/dev/${port##*/}" "/lab/port/$name"
		done
		[ -e "/lab/port/$name" ] || usleep 5000
		tries=$((tries + 1))
		[ $tries -lt 2000 ] || die "no virtio port $name"
	done
done
exec 9<>/lab/port/status

# Busybox comes last: what the caller put wins over packages, and packages over busybox.
if [ "$packages" ]; then
	mkdir -p /lab/packages /lab/busybox/usr /lab/upper
	mount -t squashfs -o ro /dev/vda /lab/packages || die "cannot mount the packages"
	mount -t tmpfs upper /lab/upper
	mv /lab/bin /lab/busybox/usr/bin
	export PATH=/lab/busybox/usr/bin
	for dir in usr etc var opt srv; do
		[ -d /lab/packages/$dir ] || continue
		mkdir -p /$dir /lab/busybox/$dir /lab/upper/$dir /lab/upper/.$dir
		mount -t overlay -o "lowerdir=/$dir:/lab/packages/$dir:/lab/busybox/$dir" \
			-o "upperdir=/lab/upper/$dir,workdir=/lab/upper/.$dir" overlay /$dir ||
			die "cannot mount the packages' /$dir"
	done
else
	busybox --install -s 2>/dev/null
fi

for bdf in $vfio; do
	dev=/sys/bus/pci/devices/$bdf
	[ -d "$dev" ] || die "no PCI function $bdf"
	echo vfio-pci >"$dev/driver_override"
	[ -e "$dev/driver" ] && echo "$bdf" >"$dev/driver/unbind"
	echo "$bdf" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "$dev/driver")")" = vfio-pci ] ||
		die "vfio-pci does not bind $bdf"
done

# Only now the host's drivers: none gets to see a function that is not for it.
if [ "$host_devices" ]; then
	seen=
	while :; do
		found=$(cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u)
		[ "$found" = "$seen" ] && break
		seen=$found
		echo "$found" | xargs -n 1 modprobe -q -b 2>/dev/null
		usleep 300000
	done
fi

# Held open: a terminal nobody has open forgets its size.
[ "$tty" ] && exec 7<>/dev/hvc0
[ "$rows" ] && stty rows "$rows" cols "$cols" <&7

relays=$$
if [ "${tty#*0}" != "$tty" ]; then
	ln -s /dev/hvc0 /lab/0
	# The terminal's size changes: a line "rows columns" from the caller's side.
	while read -r rows cols; do
		stty rows "$rows" cols "$cols" <&7
	done <&9 &
	relays="$relays $!"
	session='setsid -c'
else
	mkfifo /lab/0
	cat </lab/port/stdin >/lab/0 &
	session=setsid
fi
flush=
for fd in 1 2; do
	if [ "${tty#*"$fd"}" != "$tty" ]; then
		ln -s /dev/hvc0 /lab/$fd
		continue
	fi
	mkfifo /lab/$fd
	cat </lab/$fd >/lab/port/out$fd &
	relays="$relays $!"
	flush="$flush $!"
done

(
	exec 7>&- 9>&-
	cd /root || exit 125
	exec $session sh /lab/run </lab/0 >/lab/1 2>/lab/2
)
status=$?

# What the command left behind must not keep its pipes open.
for proc in /proc/[0-9]*; do
	pid=${proc#/proc/}
	case " $relays " in
	*" $pid "*) ;;
	*) readlink "$proc/exe" >/dev/null && kill -9 "$pid" ;;
	esac
done 2>/dev/null
for pid in $flush; do
	wait "$pid"
done
[ "$tty" ] && stty sane <&7

i=0
while [ $i -lt "${gets:-0}" ]; do
	eval "src=\$get_$i"
	if [ -e "$src" ] || [ -L "$src" ]; then
		tar -c -f - -C "$(dirname "$src")" "$(basename "$src")" >/lab/port/get$i ||
			echo "bad $i" >&9
	else
		echo "missing $i" >&9
	fi
	i=$((i + 1))
done

[ $status = 0 ] || dmesg >/dev/console
for port in /sys/class/virtio-ports/*; do
	sent=$(sed -n 's/^bytes_sent: //p' "/sys/kernel/debug/virtio-ports/${port##*/}")
	echo "sent $(cat "$port/name") $sent" >&9
done
echo "exit $status" >&9
poweroff -f
