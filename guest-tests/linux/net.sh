# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# net - a virtio-net on a tap of the host, who has 192.0.2.1 and runs `netcheck serve`.
# shellcheck source=lib.sh
. /test/lib.sh

nic=eth0
at=/sys/class/net/$nic

appears() { [ -e $at ] || { echo "no $nic"; return 1; }; }

mac_is_as_given() { same 'MAC' "$(cat $at/address)" "$(param mac 02:00:00:00:00:01)"; }
mtu_is_the_taps() { same 'MTU' "$(cat $at/mtu)" "$(param mtu 1500)"; }

# Bits of <linux/virtio_net.h>: CSUM, GUEST_CSUM, MTU, MAC, GUEST_TSO4 and 6, GUEST_ECN, HOST_TSO4 and
# 6, HOST_ECN, MRG_RXBUF, STATUS, and both kinds of USO.
offloads_are_agreed() {
	features=$(cat "$at/device/features")
	for bit in 0 1 3 5 7 8 9 11 12 13 15 16 54 55 56; do
		same "feature $bit" "$(echo "$features" | cut -c $((bit + 1)))" 1 || return
	done
}

# The other --net gives no mac=: granule makes one, of the kind that is nobody's (bits 1:0 of it are 10).
other_mac() {
	mac=$(cat /sys/class/net/eth1/address) && [ "$mac" != "$(cat $at/address)" ] || return
	case $mac in ?[26ae]:*) ;; *) echo "$mac" && return 1 ;; esac
}

comes_up() {
	ifconfig $nic 192.0.2.2 netmask 255.255.255.0 up && same 'carrier' "$(cat $at/carrier)" 1 || return
	# Linux sends nothing before it has noticed the carrier, up to a second later.
	tries=0
	until ping -c 1 -W 1 192.0.2.1 >/dev/null; do
		tries=$((tries + 1))
		[ $tries -le 20 ] || { echo 'nobody answers'; return 1; }
	done
}

tcp() { /test/netcheck run 192.0.2.1 -s "$(param seconds 3)" -r "$1"; }

# counters: TCP segments that were sent, packets that the interface has sent; packets and bytes that came
counters() {
	awk '/^Tcp:/ { if (at) print $at; for (i = 1; i <= NF; i++) if ($i == "OutSegs") at = i }' /proc/net/snmp
	cat $at/statistics/tx_packets $at/statistics/rx_packets $at/statistics/rx_bytes
}

# What is sent are more segments than packets, and what comes is larger, acknowledgements and all, than
# Ethernet's packets (which proves it where the MTU is 1500).
segments_are_large() {
	before=$(counters) && /test/netcheck run 192.0.2.1 -c 1 -s 1 -r 4 >/dev/null || return
	# shellcheck disable=SC2046,SC2086 # words
	set -- $(counters) $before
	said="$(($1 - $5)) segments in $(($2 - $6)) packets out; $((($4 - $8) / ($3 - $7))) bytes in a packet in"
	[ $(($1 - $5)) -gt $(($2 - $6)) ] && [ $((($4 - $8) / ($3 - $7))) -gt 1518 ] ||
		{ echo "$said"; return 1; }
}

small_and_large_pings() {
	for size in 0 18 1472 1473 30000 65000; do
		ping -c 2 -i 0.1 -W 10 -s $size 192.0.2.1 >/tmp/ping || { tail -n 2 /tmp/ping; return 1; }
	done
}

unbind() { echo "$device" >/sys/bus/virtio/drivers/virtio_net/unbind && [ ! -e $at ]; }
rebind() { echo "$device" >/sys/bus/virtio/drivers/virtio_net/bind && appears && comes_up; }

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim interface_appears appears
claim its_mac_is_as_given mac_is_as_given
claim its_mtu_is_the_taps mtu_is_the_taps
claim offloads_are_agreed offloads_are_agreed
claim link_comes_up comes_up
claim other_interface_has_a_local_mac_of_its_own other_mac
claim pings_of_every_size_are_answered small_and_large_pings
claim tcp_both_ways_is_exact tcp 1
claim segments_are_large segments_are_large
if [ "$(param reboot 0)" = 1 ]; then
	# Under load: what is under way then is the next guest's to survive.
	tcp 2 >/dev/null 2>&1 &
	sleep 1
	done_line
	reboot -f
	sleep 100
fi
device=$(basename "$(readlink -f $at/device)")
claim driver_unbinds unbind
claim driver_binds_again rebind
claim tcp_after_that_is_exact tcp 3
finish
