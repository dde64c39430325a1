# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# benchnet - the guest's part of bench-net: it prints `result NAME NANOSECONDS`.
ifconfig eth0 192.0.2.2 netmask 255.255.255.0 up
tries=0
until ping -c 1 -W 1 192.0.2.1 >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ $tries -le 60 ] || { echo "result failed no peer"; exit 1; }
done
# Once unmeasured: both sides' caches, and what TCP learns of the way.
for op in send receive; do
	bench tcp $op 192.0.2.1 5001 4 >/dev/null
done
for op in send receive; do
	echo "result tcp_$op $(bench tcp $op 192.0.2.1 5001 64 2>&1 | tail -n 1)"
done
echo "result ping $(ping -q -c 300 -i 0.002 192.0.2.1 | sed -n 's/^round-trip.*= [^/]*\/\([^/]*\)\/.*/\1/p' |
	awk '{ printf "%.0f", $1 * 1e6 }')"
