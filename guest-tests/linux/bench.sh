# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# bench - the guest's part of `make bench-lab`: it prints `bench: EVENT` lines for `bench watch`, and
# `result NAME NANOSECONDS`. t.only=NAME,... does some of it.
echo 'bench: userspace'

only=,$(tr ' ' '\n' </proc/cmdline | sed -n 's/^t\.only=//p'),

# timed NAME COMMAND [ARG]...: COMMAND prints how long it took
timed() {
	name=$1
	shift
	[ "$only" = ,, ] || [ "${only#*,"$name",}" != "$only" ] || return
	echo "result $name $("$@" 2>&1 | tail -n 1)"
}

disk=/dev/nvme0n1
tries=0
until [ -b $disk ] && [ -e /sys/class/net/eth0 ]; do
	tries=$((tries + 1))
	[ $tries -le 300 ] || { echo "result failed no disk or no network"; exit 1; }
	usleep 100000
done
ifconfig eth0 192.0.2.2 netmask 255.255.255.0 up
tries=0
until ping -c 1 -W 1 192.0.2.1 >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -le 60 ] || { echo "result failed no peer"; exit 1; }
done
echo 'bench: memory_idle'

# Once unmeasured: both sides' caches, the guest's allocator, pages that are touched first.
bench io $disk read 4096 100 1 >/dev/null
bench io $disk read 1048576 4 4 >/dev/null
for op in read write; do
	timed ${op}_4k_d1 bench io $disk $op 4096 3000 1
	timed ${op}_4k_d32 bench io $disk $op 4096 3000 32
	timed ${op}_1m_d1 bench io $disk $op 1048576 48 1
	timed ${op}_1m_d32 bench io $disk $op 1048576 48 32
done
timed tcp_send bench tcp send 192.0.2.1 5001 4
timed tcp_receive bench tcp receive 192.0.2.1 5001 4
echo 'bench: memory_after_io'
