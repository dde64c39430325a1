# shellcheck shell=sh source-path=SCRIPTDIR disable=SC2034,SC3013 # lib.sh uses what is set here; busybox
# SPDX-License-Identifier: Apache-2.0
# owner - the guest owns DARTs of every kind, and Linux's own driver judges them.
# t.part=disks, lazy: disks behind them, which /dev/vda lists: SHA-256 and kind of DART, a line each.
# t.part=edus: simulated edus behind them, to provoke faults.
# t.part=locked: the DARTs are locked, with edus behind them.
# shellcheck source=lib.sh
. /test/lib.sh

kinds='t8103 t6000 t8110'

# What the driver complains of counts too, but for what is provoked here.
kernel_complaints="$kernel_complaints|apple-dart .*(busy bit|too small|Too many|Failed)"
case $(param part disks) in
disks | lazy) kernel_complaints="$kernel_complaints|apple-dart .*fault|apple-dart .*failed" ;;
esac

# ---- which is behind which ----

# use KIND: from now on it is about this DART and what is behind it; sets kind, dart (its platform
# device), bdf, nvme_pci, disk. Starts no process but the first time: each takes a while here.
use() {
	kind=$1 bdf='' disk=/dev/none
	eval "dart=\${dart_$kind-}"
	if [ ! "$dart" ]; then
		dart=$(grep -l "^apple,$kind-dart" /sys/bus/platform/devices/*.iommu/of_node/compatible)
		dart=${dart%/of_node/compatible}
		dart=${dart##*/}
		eval "dart_$kind=\$dart"
	fi
	for device in /sys/bus/pci/devices/*; do
		[ ! "$device/iommu/device" -ef "/sys/bus/platform/devices/$dart" ] || bdf=${device##*/}
	done
	nvme_pci=/sys/bus/pci/devices/$bdf
	for name in "$nvme_pci"/nvme/nvme*/nvme*n*; do
		[ ! -e "$name" ] || disk=/dev/${name##*/}
	done
}

# each NAME COMMAND [ARG]...: a claim for each kind
each() {
	each_name=$1
	shift
	for kind in $kinds; do
		use "$kind"
		claim "${kind}_$each_name" "$@"
	done
}

wait_for_its_disk() {
	tries=0
	until use "$kind" && [ -b "$disk" ]; do
		tries=$((tries + 1))
		[ $tries -le 200 ] || { echo "no disk behind $dart after 20 s"; return 1; }
		usleep 100000
	done
}

# ---- the driver ----

# said_of DART: what the driver says of it, the latest line last
said_of() { dmesg | sed -n "s/.*apple-dart $1: //p"; }

probed() {
	same 'its first line' "$(said_of "$dart" | head -n 1)" \
		'DART [pagesize 4000, 16 streams, bypass support: 0, bypass forced: 0] initialized' &&
		same 'driver' "$(basename "$(readlink "/sys/bus/platform/devices/$dart/driver")")" apple-dart
}

is_busy() { ! rmmod apple_dart; }

unload() {
	for device in /sys/bus/pci/devices/*/iommu; do
		echo 1 >"${device%/iommu}/remove" || return
	done
	rmmod apple_dart
}

# ---- disks behind them ----

# All of it, through the page cache.
has_its_sha256() {
	want=$(sed -n "s/ $kind\$//p" /dev/vda)
	same 'SHA-256' "$(sha256sum <"$disk" | cut -d ' ' -f 1)" "${want:?no SHA-256 of it}"
}

rebind() {
	echo "$bdf" >/sys/bus/pci/drivers/nvme/unbind && [ ! -e "$disk" ] &&
		echo "$bdf" >/sys/bus/pci/drivers/nvme/bind && wait_for_its_disk
}

# Which the device sends through its DART.
gets_messages() { grep -q "^ *[0-9]*: .*[1-9][0-9]* .*MSIX-$bdf .*nvme" /proc/interrupts; }

has_policy() { dmesg | grep -q "DMA domain TLB invalidation policy: $1 mode"; }

use_disks() {
	each driver_probes probed
	each nvme_appears wait_for_its_disk
	each nvme_in_a_dma_domain in_its_group
	each nvme_interrupts_by_messages gets_messages
	each whole_disk_has_its_sha256 has_its_sha256
	each direct_4k_reads_are_exact reads_direct_4k
	each writes_read_back writes
	generation=1
	each page_cache_reads_after_writes_are_exact reads_cached
}

rebind_disks() {
	each nvme_unbinds_and_binds_again rebind
	each nvme_in_a_dma_domain_again in_its_group
	each direct_1m_reads_after_rebind_are_exact reads_direct_1m

	# DARTs cannot be unbound one by one; but their module goes once no device is behind them.
	claim module_is_busy_while_devices_are_there is_busy
	claim module_unloads_without_them unload
	claim module_loads_again insmod /test/apple_dart.ko
	echo 1 >/sys/bus/pci/rescan
	each nvme_appears_after_reload wait_for_its_disk
	each direct_1m_reads_after_reload_are_exact reads_direct_1m
}

# ---- edus behind them, with pages mapped by edu_maps ----

# map_of NAME: sets iova and word
map_of() {
	read -r iova word <<-END
		$(sed -n "s/^$1 //p" "/sys/bus/pci/devices/$bdf/maps")
	END
	[ "$iova" ] || { echo "no map '$1' behind $dart"; return 1; }
}

has_edu() {
	same 'driver of the edu' "$(basename "$(readlink "/sys/bus/pci/devices/$bdf/driver")")" edu_maps &&
		in_its_group
}

mapped_page_works() {
	map_of both &&
		same 'what the device reads' "$(/test/simedu "$bdf" read "$iova")" "done $word" &&
		same 'what it writes' "$(/test/simedu "$bdf" write "$iova" 0x1122334455667788)" 'done 0x1122334455667788' &&
		map_of both && same 'what is there then' "$word" 0x1122334455667788
}

# is_refused IOVA read|write V1-CODE T8110-CODE REASON: nothing happens, and the driver says so, once
is_refused() {
	code=$3
	[ "$kind" != t8110 ] || code=$4
	before=$(said_of "$dart" | wc -l)
	case $2 in
	read) said=$(/test/simedu "$bdf" read "$1") ;;
	write) said=$(/test/simedu "$bdf" write "$1" 0x6e6f) ;;
	esac
	same 'the device' "$said" 'refused 0' || return
	tries=0
	while [ "$(said_of "$dart" | wc -l)" = "$before" ] && [ $tries -lt 50 ]; do
		tries=$((tries + 1))
		usleep 100000
	done
	same 'the driver' "$(said_of "$dart" | tail -n +$((before + 1)) | sed 's/status:0x[0-9a-f]* //')" \
		"translation fault: stream:1 code:0x$code ($5) at $1"
}

# An address inside the page.
inside() { printf '0x%x' $((iova + 0x1238)); }

# In all not more than ten faults for one handler: the kernel's log would leave out the rest.
page_is_not_written() {
	map_of read && was=$word && is_refused "$iova" write 408 10 "$1" && map_of read &&
		same 'what is there then' "$word" "$was"
}
page_is_not_read() { map_of write && is_refused "$(inside)" read 10 20 'READ FAULT'; }
# The DART has it in its TLB when it goes.
page_is_gone() {
	map_of gone && same 'before' "$(/test/simedu "$bdf" read "$iova")" "done $word" &&
		echo >"/sys/bus/pci/devices/$bdf/maps" && is_refused "$(inside)" read 4 8 'NO PTE FOR IOVA'
}
nothing_is_there() { is_refused 0x12345678 read 2 4 'NO PMD FOR IOVA'; }

use_edus() {
	each driver_probes probed
	each edu_in_a_dma_domain has_edu
	each mapped_page_is_read_and_written mapped_page_works
	for kind in $kinds; do
		use "$kind"
		# Of what the older DARTs say of a write, the driver knows only half: docs/dart.md.
		reason='unknown'
		[ "$kind" != t8110 ] || reason='WRITE FAULT'
		claim "${kind}_page_mapped_for_reading_is_not_written" page_is_not_written "$reason"
	done
	each page_mapped_for_writing_is_not_read page_is_not_read
	each unmapped_page_is_not_reached page_is_gone
	each iova_without_a_table_is_not_reached nothing_is_there
}

# ---- locked DARTs ----

locked() {
	config=00008000
	[ "$kind" != t8110 ] || config=00000001
	same 'the driver' "$(said_of "$dart" | head -n 1)" "DART is locked down until reboot: $config" &&
		[ ! -e "/sys/bus/platform/devices/$dart/driver" ]
}

edus() {
	for device in /sys/bus/pci/devices/*; do
		[ "$(cat "$device/device")" != 0x6564 ] || basename "$device"
	done
}

have_no_driver() {
	for bdf in $(edus); do
		[ ! -e "/sys/bus/pci/devices/$bdf/driver" ] || { echo "$bdf has one"; return 1; }
	done
	same 'how many there are' "$(edus | wc -l)" 3
}

reach_nothing() {
	for bdf in $(edus); do
		same "$bdf" "$(/test/simedu "$bdf" read 0x80000000)" 'refused 0' || return
	done
}

meet_locked_darts() {
	each locked_dart_is_refused locked
	claim edus_behind_them_get_no_driver have_no_driver
	claim edus_behind_them_reach_nothing reach_nothing
}

# ---- what it is about ----

claim guest_page_size has_page_size
[ "$(param part disks)" = disks ] || [ "$(param part disks)" = lazy ] || insmod /test/edu_maps.ko
claim module_loads insmod /test/apple_dart.ko
case $(param part disks) in
disks)
	claim invalidation_is_strict has_policy strict
	use_disks
	rebind_disks
	;;
lazy)
	claim invalidation_is_lazy has_policy lazy
	use_disks
	;;
edus) use_edus ;;
locked) meet_locked_darts ;;
esac
finish
