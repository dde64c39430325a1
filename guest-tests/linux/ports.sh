# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# ports - functions whose only BAR is of I/O ports: serial cards.
#
#     t.nr=N   of them
# shellcheck source=lib.sh
. /test/lib.sh

# A function with one resource, which is I/O ports; its ports are beside no one else's.
only_ports() {
	found=0
	for at in /sys/bus/pci/devices/*; do
		[ "$(cat "$at/class")" = 0x070002 ] || continue
		found=$((found + 1))
		flags=$(cut -d ' ' -f 3 "$at/resource" | grep -v '^0x0*$')
		same 'flags of its resources' "$(echo "$flags" | wc -l)" 1 || return 1
		[ $((flags & 0x100)) != 0 ] || { echo "$flags is no I/O"; return 1; }
	done
	same 'serial cards' $found "$(param nr 1)"
}

# ttys: of the cards
ttys() {
	for tty in /sys/class/tty/ttyS*; do
		case $(readlink -f "$tty/device") in
		*/pci0000:*) echo "/dev/${tty##*/}" ;;
		esac
	done
}

bytes_come_back() {
	nr=0
	for tty in $(ttys); do
		/test/serialcheck "$tty" 400 || return 1
		nr=$((nr + 1))
	done
	same 'ports with a driver' $nr "$(param nr 1)"
}

# hold_open: what nobody has open has no interrupt
holders=
hold_open() {
	for tty in $(ttys); do
		# shellcheck disable=SC2217 # it only holds it
		sleep 1000 <"$tty" &
		holders="$holders $!"
	done
}

driver=/sys/bus/pci/drivers/serial

interrupts() {
	for at in "$driver"/*:*; do
		count=$(awk -v n="$(cat "$at/irq"):" '$1 == n { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) s += $i }
			END { print s + 0 }' /proc/interrupts)
		[ "$count" -ge 10 ] || { echo "$count interrupts of ${at##*/}, $(cat "$at/irq"), have come"; return 1; }
	done
	! dmesg | grep -m 1 'nobody cared'
}

rebind() {
	for at in "$driver"/*:*; do
		echo "${at##*/}" >"$driver/unbind" && echo "${at##*/}" >"$driver/bind" || return 1
	done
}

claim functions_have_ports_and_nothing_else only_ports
hold_open
claim bytes_come_back bytes_come_back
claim interrupts_arrive interrupts
# shellcheck disable=SC2086 # words
kill $holders
wait
claim driver_unbinds_and_binds_again rebind
claim bytes_come_back_again bytes_come_back
finish
