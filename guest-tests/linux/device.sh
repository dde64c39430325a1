# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# device - whatever is passed through, under its stock driver: work that is verified byte by byte, the driver
# taken away and given back, and then the end that the scenario is about.
#
#     t.devices=NAME,...  of the table below; more than one work at the same time
#     t.NAME=HISTORY      of a disk: steps of blkcheck with "_" for blanks; `maybe_` before them says that the
#                         last one was cut short. `history: NAME HISTORY` is said whenever it changes
#     t.seconds=N         of work
#     t.for=N             seconds to go on for after that, in rounds: work, every disk read back and made anew, and
#                         in every second one all drivers taken away, for t.quiet=N seconds, and given back
#     t.irq=msi|wire|any  how interrupts should arrive
#     t.end=off|reboot|panic|kill   how the machine ends; with all but the first while the devices work
# shellcheck source=lib.sh
. /test/lib.sh

# NAME, PCI id, driver, what work it does, and what is behind a USB controller: on which of its ports.
table='nvme 1b36:0010 nvme disk
simnvme 1234:6e76 nvme disk
ahci 8086:2922 ahci disk
usbdisk 1b36:000d xhci_hcd disk 1
uasdisk 1b36:000d xhci_hcd disk 2
e1000e 8086:10d3 e1000e net
igb 8086:10c9 igb net
vblk 1af4:1042 virtio-pci disk
vnet 1af4:1041 virtio-pci net
megasas 1000:0060 megaraid_sas disk
ehci 8086:24cd ehci-pci disk
sdhci 1b36:0007 sdhci-pci disk'

column() { echo "$table" | sed -n "s/^$1 //p" | cut -d ' ' -f "$2"; }
id_of() { column "$1" 1; }
driver_of() { column "$1" 2; }
work_of() { column "$1" 3; }
port_of() { column "$1" 4; }

# peer_of NAME: the host's address on the network of an interface; ours has a 0 more. Two have one each.
peer_of() { [ "$1" = vnet ] && [ "$(param two_networks 0)" = 1 ] && echo 198.51.100.1 || echo 192.0.2.1; }

devices=$(param devices '' | tr , ' ')
seconds=$(param seconds 3)

# function_of NAME: its PCI function
function_of() {
	for at in /sys/bus/pci/devices/*; do
		[ "$(cut -c 3- <"$at/vendor"):$(cut -c 3- <"$at/device")" = "$(id_of "$1")" ] || continue
		basename "$at"
		return
	done
	return 1
}

# below NAME: the disk, or network interface, that its driver has made
below() {
	case $(work_of "$1") in
	disk) set -- "$1" /sys/block/* ;;
	net) set -- "$1" /sys/class/net/* ;;
	esac
	where=$(function_of "$1") || return 1
	[ ! "$(port_of "$1")" ] || where="$where/usb*/[0-9]-$(port_of "$1")"
	shift
	for entry; do
		# shellcheck disable=SC2254 # a pattern
		case $(readlink -f "$entry") in
		*/$where/*)
			basename "$entry"
			return
			;;
		esac
	done
	return 1
}

# appears NAME: within 60 s; a network interface gets its address, and a carrier
appears() {
	tries=0
	until interface=$(below "$1"); do
		tries=$((tries + 1))
		[ $tries -le 600 ] || { echo "there is no $(work_of "$1") after 60 s"; return 1; }
		usleep 100000
	done
	if [ "$(work_of "$1")" = disk ]; then
		until [ "$(blockdev --getsz "/dev/$interface")" -gt 0 ]; do usleep 100000; done
		return
	fi
	peer=$(peer_of "$1")
	ip addr replace "${peer}0" peer "$peer" dev "$interface" && ip link set "$interface" up || return 1
	tries=0
	until [ "$(cat "/sys/class/net/$interface/carrier" 2>&1)" = 1 ] &&
		ping -c 1 -W 1 "$peer" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -le 60 ] || { echo "$interface: no carrier, or no answer to a ping in 60 s"; return 1; }
		usleep 100000
	done
}

group_is_dma() {
	same 'type of its IOMMU group' "$(cat "/sys/bus/pci/devices/$(function_of "$1")/iommu_group/type" 2>&1)" \
		"$(param domain DMA)"
}

# Interrupts came, all of them in the way they should.
interrupts() {
	at=/sys/bus/pci/devices/$(function_of "$1")
	case $(param irq msi) in
	msi) numbers=$(ls "$at/msi_irqs" 2>/dev/null) how='no MSI is set up' ;;
	any) numbers=$(ls "$at/msi_irqs" 2>/dev/null || cat "$at/irq") how='no interrupt is set up' ;;
	*)
		[ ! -d "$at/msi_irqs" ] || { echo 'an MSI is set up'; return 1; }
		numbers=$(cat "$at/irq") how='there is no interrupt line'
		;;
	esac
	[ "$numbers" ] || { echo "$how"; return 1; }
	total=0
	for number in $numbers; do
		count=$(awk -v n="$number:" '$1 == n { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) s += $i } END { print s + 0 }' \
			/proc/interrupts)
		total=$((total + count))
	done
	[ $total -ge 10 ] || { echo "$total interrupts have come"; return 1; }
	! dmesg | grep -m 1 'nobody cared'
}

# ---- disks ----

steps() { eval "echo \"\$history_$1\"" | tr _ ' '; }

# now_holds NAME HISTORY
now_holds() {
	eval "history_$1=\$2"
	echo "history: $1 $2"
}

# made_anew NODE
made_anew() { blkcheck fill "$1" $(($(blockdev --getsz "$1") / 2048)) && blkcheck read -g 0 -d -s 131072 "$1"; }

# A disk whose last step was cut short holds what that left, or what was there before; and is then made anew.
as_it_was_left() {
	node=/dev/$(below "$1")
	case $(steps "$1") in
	maybe*)
		# shellcheck disable=SC2046 # steps are words
		blkcheck read -e $(steps "$1" | cut -d ' ' -f 2-) -d -s 131072 "$node" && made_anew "$node"
		;;
	*)
		# shellcheck disable=SC2046
		blkcheck read $(steps "$1") -d -s 131072 "$node"
		;;
	esac
}

# random NAME COUNT: so many I/Os at random, 64 in flight, which is what it takes to have 32 in a disk's queue
seed=0
random() {
	node=$(below "$1")
	seed=$(($(steps "$1" | wc -w) * 100 + 7))
	# shellcheck disable=SC2046
	blkcheck random $(steps "$1") -r $seed,"$2" -d -q 64 \
		-a $(($(cat "/sys/block/$node/queue/dma_alignment") + 1)) "/dev/$node"
}

centiseconds() { tr -d . </proc/uptime | cut -d ' ' -f 1; }

# A first run tells how many there can be in the time that is given.
disk_work() {
	began=$(centiseconds)
	random "$1" 150 || return 1
	now_holds "$1" "$(eval "echo \"\$history_$1\"")_-r_$seed,150"
	took=$(($(centiseconds) - began))
	count=$((150 * (seconds * 100 - took) / (took + 1)))
	[ $count -gt 0 ] || return 0
	[ $count -lt 1000000 ] || count=1000000
	random "$1" $count || return 1
	now_holds "$1" "$(eval "echo \"\$history_$1\"")_-r_$seed,$count"
}

# ---- networks ----

# snmp NAME: a counter of TCP
snmp() {
	awk -v name="$1" '$1 == "Tcp:" && !n++ { for (i = 2; i <= NF; i++) if ($i == name) at = i; next }
		$1 == "Tcp:" { print $at }' /proc/net/snmp
}

# A checksum that is wrong is a byte that was: TCP would only send it again.
net_work() {
	/test/netcheck run "$(peer_of "$1")" -s "$seconds" || return 1
	wrong=$(snmp InCsumErrors)
	[ "$wrong" = 0 ] || { echo "$wrong segments had wrong checksums"; return 1; }
	for count in rx_crc_errors rx_frame_errors tx_errors; do
		wrong=$(cat "/sys/class/net/$(below "$1")/statistics/$count")
		[ "$wrong" = 0 ] || { echo "$wrong $count"; return 1; }
	done
}

# ---- all of them ----

works() { "$(work_of "$1")_work" "$1"; }

# Each in a shell of its own; what its work says is kept for said_of.
work_of_all() {
	for name in $devices; do
		{
			started=$(centiseconds)
			works "$name" >"/tmp/$name.said" 2>&1
			echo $? >"/tmp/$name.status"
			echo "note: $name has worked for $((($(centiseconds) - started) / 100)) s"
		} &
	done
	wait
	for name in $devices; do
		text=$(sed -n "s/^history: $name //p" "/tmp/$name.said" | tail -n 1)
		[ ! "$text" ] || now_holds "$name" "$text"
		sed -n 's/^\(blkcheck\|netcheck\): [0-9]/note: &/p' "/tmp/$name.said"
	done
	echo "note: $(snmp RetransSegs) segments were sent again"
}
said_of() {
	grep -v -e '^history: ' -e 'in flight$' "/tmp/$1.said"
	return "$(cat "/tmp/$1.status")"
}

# unbind NAME, bind NAME: its function's driver
unbind() {
	bdf=$(function_of "$1")
	echo "$bdf" >"/sys/bus/pci/drivers/$(driver_of "$1")/unbind" || { echo "$1 does not unbind"; return 1; }
	tries=0
	while below "$1" >/dev/null; do
		tries=$((tries + 1))
		[ $tries -le 100 ] || { echo "what the driver of $1 made is still there"; return 1; }
		usleep 100000
	done
}
bind() {
	bdf=$(function_of "$1")
	echo "$bdf" >"/sys/bus/pci/drivers/$(driver_of "$1")/bind" || { echo "$1 does not bind"; return 1; }
}
rebind() { unbind "$1" && bind "$1"; }

claim guest_page_size has_page_size
claim guest_cpus has_cpus
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
for name in $devices; do
	eval "history_$name=\$(param $name -g_0)"
	claim "${name}_appears" appears "$name"
	claim "${name}_in_its_iommu_group" group_is_dma "$name"
	if [ "$(work_of "$name")" = disk ]; then
		claim "${name}_holds_what_it_should" as_it_was_left "$name"
		case $(steps "$name") in
		maybe*) now_holds "$name" -g_0 ;;
		esac
	fi
done
work_of_all
for name in $devices; do
	claim "${name}_works_to_the_byte" said_of "$name"
	claim "${name}_interrupts_as_it_should" interrupts "$name"
done

# A function once, however many devices there are behind it.
seen='' heads=''
for name in $devices; do
	case " $seen " in
	*" $(function_of "$name") "*) continue ;;
	esac
	seen="$seen $(function_of "$name")" heads="$heads $name"
done

# one_round: of what goes on; says what was wrong
one_round() {
	work_of_all
	for name in $devices; do
		said_of "$name" || return 1
		[ "$(work_of "$name")" = disk ] || continue
		as_it_was_left "$name" && made_anew "/dev/$(below "$name")" || return 1
		now_holds "$name" -g_0
	done
	[ $((rounds % 2)) = 1 ] || return 0
	for name in $heads; do
		unbind "$name" || return 1
	done
	sleep "$(param quiet 1)"
	for name in $heads; do
		bind "$name" || return 1
	done
	for name in $devices; do
		appears "$name" || return 1
	done
}
if [ "$(param for 0)" != 0 ]; then
	end=$(($(centiseconds) + $(param for 0) * 100))
	rounds=0
	wrong=''
	while [ "$(centiseconds)" -lt $end ]; do
		one_round >/tmp/round 2>&1 || wrong=" $(tail -n 1 /tmp/round)"
		grep -v '^note' /tmp/round
		rounds=$((rounds + 1))
		echo "note: at $(uptime_s) s: round $rounds is over"
		[ ! "$wrong" ] || break
	done
	claim works_in_every_round same "what was wrong in round $rounds" "$wrong" ''
fi
seconds=1
for name in $heads; do
	claim "${name}_unbinds_and_binds_again" rebind "$name"
done
for name in $devices; do
	claim "${name}_appears_again" appears "$name"
done
work_of_all
for name in $devices; do
	claim "${name}_works_again_to_the_byte" said_of "$name"
done
claim kernel_log_has_no_complaint quiet_kernel
# All is said that is to be said of the disks before they are written for no end.
if [ "$(param end off)" != off ]; then
	for name in $devices; do
		[ "$(work_of "$name")" = net ] || now_holds "$name" \
			"maybe_$(eval "echo \"\$history_$name\"")_-r_$(($(steps "$name" | wc -w) * 100 + 7)),100000"
	done
fi
done_line
[ "$(param end off)" = off ] && exit
seconds=1000
for name in $devices; do
	case $(work_of "$name") in
	disk)
		eval "history_$name=\${history_$name#maybe_}; history_$name=\${history_$name%_-r_*}"
		random "$name" 100000 >/dev/null 2>&1 &
		;;
	net) net_work "$name" >/dev/null 2>&1 & ;;
	esac
done
sleep 1
case $(param end off) in
reboot) reboot -f ;;
panic) echo c >/proc/sysrq-trigger ;;
kill) echo 'host: kill' && sleep 1000 ;;
esac
