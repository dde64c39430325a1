#!/usr/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# /init of an initramfs made by `lab initrd`: load the modules, run /job, say how it ended, power
# off. This shell never exits, so a job that fails cannot hang the machine.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
/usr/bin/busybox --install -s 2>/dev/null
mkdir -p /proc /sys /dev /tmp /run /root /etc /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
[ "$(ls /tmp)" ] || mount -t tmpfs tmp /tmp
ln -sf /proc/self/fd /dev/fd
exec </dev/console >/dev/console 2>&1

while read -r module; do
	insmod "$module" || echo "init: cannot load $module"
done </lab/modules

(cd /root && exec setsid sh /job)
echo "job: exit $?"
poweroff -f
