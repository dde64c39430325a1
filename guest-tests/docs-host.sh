# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# docs-host - the part of docs.sh that runs on the lab's host: the commands in ./plan, each with its report:
#
#     '@ NUMBER'   a command begins
#     LINE         what it says
#     '= STATUS'   how it ended
#
# The place: vmlinuz, initrd.img (a guest that says what it has, and powers off) and disk images in the current
# directory, an NVMe disk of the host at 0000:01:00.0, a bridge br0, and a guest that runs, with --live-stats,
# whose process stands for PID.

export USER=root LC_ALL=C
echo 'root:x:0:0:root:/root:/bin/sh' >>/etc/passwd
# We are root. Not by busybox, whose sh takes its own dpkg.
printf '#!/usr/bin/dash\nexec "$@"\n' >/usr/local/bin/sudo
chmod 755 /usr/local/bin/sudo
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates
touch /var/lib/dpkg/status
for image in root disk debian data FILE; do
	[ "$image" = FILE ] || image=$image.img
	truncate -s 16M "$image"
done
truncate -s 16M running.img
ip link add br0 type bridge
ip link set br0 up

/usr/local/bin/granule run -k vmlinuz -i idle.img -m 256 -c 1 -p quiet --sim nvme,disk=running.img --live-stats \
	>running.log 2>&1 </dev/null &
pid=$!
tries=0
until grep -q 'guest is up' running.log || [ $tries -ge 300 ]; do
	tries=$((tries + 1))
	usleep 100000
done

# What a kernel prints goes through a UART that traps in emulation: quiet, where the command says nothing of it.
mkdir -p /root/bin
cat >/root/bin/granule <<'END'
#!/bin/sh
case " $* " in
" run "*" -p "*) ;;
" run "*) shift && set -- run -p quiet "$@" ;;
esac
exec /usr/local/bin/granule "$@"
END
chmod 755 /root/bin/granule
PATH=/root/bin:$PATH

# command NUMBER: of standard input
command() {
	echo "@ $1"
	sed "s/\bPID\b/$pid/g" >command.sh
	timeout 600 dash command.sh </dev/null 2>&1
	printf '\n= %s\n' $? # also behind half a line
}

. ./plan
kill $pid
wait
