# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# simnvme - the simulated NVMe controller as the stock driver sees it: who it says it is, what it can
# do, resets of every kind, and interrupts without MSI-X.
# shellcheck source=lib.sh
. /test/lib.sh

ctrl=/sys/class/nvme/nvme0
queue=/sys/block/nvme0n1/queue
bdf=$(basename "$(readlink -f "$nvme_pci")")

# text FILE: without the spaces that fields are padded with
text() { sed 's/ *$//' "$1"; }

identity() {
	same model "$(text $ctrl/model)" 'granule simulated NVMe' &&
		same transport "$(cat $ctrl/transport)" pcie &&
		case $(cat $ctrl/subsysnqn) in
		nqn.2014-08.org.nvmexpress:uuid:????????-????-8???-????-????????????) ;;
		*) cat $ctrl/subsysnqn; return 1 ;;
		esac &&
		case $(cat /sys/block/nvme0n1/wwid) in
		uuid.????????-????-8???-????-????????????) ;;
		*) cat /sys/block/nvme0n1/wwid; return 1 ;;
		esac
}

abilities() {
	same 'write cache' "$(cat $queue/write_cache)" 'write back' &&
		same 'read-only' "$(cat /sys/block/nvme0n1/ro)" "$(param ro 0)" &&
		{ [ "$(cat $queue/discard_max_bytes)" != 0 ] || { echo 'no discard'; return 1; }; } &&
		{ [ "$(cat $queue/write_zeroes_max_bytes)" != 0 ] || { echo 'no write zeroes'; return 1; }; }
}

# one queue per CPU beside the admin queue, each with a vector; or all on one wire
interrupts() {
	said=$(grep -c ' nvme0q[0-9]*$' /proc/interrupts)
	case $(param irq msix) in
	msix) same 'vectors' "$said" $(($(param cpus 1) + 1)) ;;
	*)
		grep -q 'Level.* nvme0q0' /proc/interrupts || { grep nvme /proc/interrupts; return 1; }
		number=$(sed -n 's/^ *\([0-9]*\):.* nvme0q0.*/\1/p' /proc/interrupts)
		# count, unhandled, last: not one in a hundred may have been for nothing
		# shellcheck disable=SC2046
		set -- $(sed -n 's/^\(count\|unhandled\) //p' "/proc/irq/$number/spurious")
		[ "$2" -le $(($1 / 100)) ] || { echo "$2 of $1 interrupts were nobody's"; return 1; }
		;;
	esac
}

wait_live() {
	tries=0
	until [ "$(cat $ctrl/state)" = live ]; do
		tries=$((tries + 1))
		[ $tries -le 200 ] || { echo "after 20 s it is $(cat $ctrl/state)"; return 1; }
		usleep 100000
	done
}

controller_reset() { echo 1 >$ctrl/reset_controller && wait_live && reads_direct_4k; }
function_reset() { echo 1 >"/sys/bus/pci/devices/$bdf/reset" && wait_live && reads_direct_4k; }
rescan() { echo 1 >$ctrl/rescan_controller && wait_live && wait_for_disk && reads_direct_4k; }

# The controller is reset for as long as there is something to read: the driver queues commands anew,
# and all data are exact.
reset_while_busy() {
	blkcheck read -g "$generation" -d -n 300 -t 8 $disk >/tmp/busy 2>&1 &
	resets=0
	while kill -0 $! 2>/dev/null; do
		{ echo 1 >$ctrl/reset_controller && wait_live; } || return 1
		resets=$((resets + 1))
	done
	wait $! || { tail -n 1 /tmp/busy; return 1; }
	[ $resets -ge 3 ] || { echo "only $resets resets"; return 1; }
}

discards() {
	blkdiscard -o 1048576 -l 1048576 $disk &&
		dd if=$disk bs=1048576 skip=1 count=1 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero
}

refuses_writes() {
	! dd if=/dev/zero of=$disk bs=4096 count=1 conv=notrunc oflag=direct 2>/dev/null
}

# The driver has nothing to say against it.
driver_is_content() {
	! dmesg | grep -i 'nvme' | grep -v -E 'pci function|default/read/poll queues|nvme0n1: |resetting' |
		grep -i -E 'invalid|missing|fail|error|unsupported|duplicate|abort|timeout|ignor|broken'
}

claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim it_says_who_it_is identity
claim it_says_what_it_can_do abilities
claim direct_1m_reads_are_exact reads_direct_1m
if [ "$(param ro 0)" = 1 ]; then
	claim it_refuses_writes refuses_writes
else
	claim controller_reset_brings_it_back controller_reset
	claim function_reset_brings_it_back function_reset
	claim namespaces_can_be_scanned_again rescan
	claim resets_under_load_lose_nothing reset_while_busy
	claim random_io_at_depth_32_is_exact random_io
	claim discarded_blocks_are_zeroes discards
fi
claim interrupts_arrive_as_they_should interrupts
claim driver_is_content driver_is_content
finish
