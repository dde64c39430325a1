# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# bench - the guest's part of `make bench-lab`: it prints `bench: EVENT` lines for `bench watch`, and
# `result NAME NANOSECONDS`. t.only=NAME,... does some of it.
echo 'bench: userspace'

# param NAME: t.NAME of the command line
param() { tr ' ' '\n' </proc/cmdline | sed -n "s/^t\.$1=//p"; }

only=,$(param only),

# timed NAME COMMAND [ARG]...: COMMAND prints how long it took
timed() {
	name=$1
	shift
	[ "$only" = ,, ] || [ "${only#*,"$name",}" != "$only" ] || return
	echo "result $name $("$@" 2>&1 | tail -n 1)"
}

# wait_for WHAT COMMAND [ARG]...: until COMMAND succeeds, 30 s at most
wait_for() {
	what=$1 tries=0
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -le 300 ] || { echo "result failed $what"; exit 1; }
		usleep 100000
	done
}

case $(param job) in
disk)
	disk=/dev/nvme0n1
	wait_for 'no disk' [ -b $disk ]
	echo 'bench: disk_memory_idle'
	# Once unmeasured: the guest's allocator, pages that are touched first.
	bench io $disk read 4096 100 1 >/dev/null
	bench io $disk read 1048576 4 4 >/dev/null
	for op in read write; do
		timed ${op}_4k_d1 bench io $disk $op 4096 3000 1
		timed ${op}_4k_d32 bench io $disk $op 4096 3000 32
		timed ${op}_1m_d1 bench io $disk $op 1048576 48 1
		timed ${op}_1m_d32 bench io $disk $op 1048576 48 32
	done
	echo 'bench: disk_memory_after'
	;;
net)
	wait_for 'no network' [ -e /sys/class/net/eth0 ]
	ifconfig eth0 192.0.2.2 netmask 255.255.255.0 up
	wait_for 'no peer' ping -c 1 -W 1 192.0.2.1
	echo 'bench: net_memory_idle'
	timed tcp_send bench tcp send 192.0.2.1 5001 4
	timed tcp_receive bench tcp receive 192.0.2.1 5001 4
	echo 'bench: net_memory_after'
	;;
esac
