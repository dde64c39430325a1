# shellcheck shell=sh disable=SC2034 # what is set here is used by the scenarios
# SPDX-License-Identifier: Apache-2.0
# lib - what every Linux scenario uses: claims, parameters, and the disk.
#
# A scenario runs in the guest as the initramfs's job, with `. /test/lib.sh` first and `finish` last.
# Parameters come by the kernel's command line: t.NAME=VALUE.

nr_ok=0
nr_failed=0

# param NAME DEFAULT
param() {
	value=$(tr ' ' '\n' </proc/cmdline | sed -n "s/^t\.$1=//p" | tail -n 1)
	echo "${value:-$2}"
}

uptime_s() { cut -d ' ' -f 1 /proc/uptime; }

# claim NAME COMMAND [ARG]...: it holds if COMMAND succeeds; what COMMAND says is the reason if not.
claim() {
	claim_name=$1
	shift
	echo "note: at $(uptime_s) s: $claim_name"
	if claim_said=$("$@" 2>&1); then
		nr_ok=$((nr_ok + 1))
		echo "ok $claim_name"
	else
		nr_failed=$((nr_failed + 1))
		echo "FAIL $claim_name: $(echo "${claim_said:-failed, and said nothing}" | tail -n 1)"
	fi
}

# same WHAT GOT WANT
same() {
	[ "$2" = "$3" ] || { echo "$1: got '$2' want '$3'"; return 1; }
}

done_line() { echo "done $nr_ok ok $nr_failed failed"; }

# Nothing in the kernel's log that no healthy machine has.
quiet_kernel() {
	! dmesg | grep -v 'Kernel command line' | grep -E -m 1 "$kernel_complaints"
}
kernel_complaints='WARNING:|BUG:|Oops|Call trace|Internal error|page fault from EP|domain fault from EP|unknown fault from EP|nvme .*(timeout|I/O .* QID|controller is down|Removing after probe failure)|I/O error|exception Emask|failed command|usb .*: reset .*-speed|[Xx][Hh][Cc][Ii].*(died|not responding|ERROR)|NETDEV WATCHDOG|Reset adapter|Hardware Unit Hang|blocked for more than|rcu: INFO|granule .* larger than system page|late IOMMU probe'

finish() {
	claim kernel_log_has_no_complaint quiet_kernel
	done_line
}

# ---- the machine ----

page_size() {
	echo $(($(sed -n '/^KernelPageSize: */{s///;s/ kB//p;q}' /proc/self/smaps) * 1024))
}

has_page_size() { same 'page size' "$(page_size)" "$(param page 4096)"; }

has_cpus() { same 'CPUs' "$(grep -c '^processor' /proc/cpuinfo)" "$(param cpus 1)"; }

# ---- the NVMe disk ----

disk=/dev/nvme0n1
nvme_pci=/sys/class/nvme/nvme0/device

wait_for_disk() {
	tries=0
	until [ -b $disk ]; do
		tries=$((tries + 1))
		[ $tries -le 200 ] || { echo "no $disk after 20 s"; return 1; }
		usleep 100000
	done
}

# --iommu on: a group whose domain is a DMA one. off: no group at all.
in_its_group() {
	if [ "$(param iommu on)" = off ]; then
		[ ! -e $nvme_pci/iommu_group ] || { echo 'it is in an IOMMU group'; return 1; }
		return
	fi
	same 'type of its IOMMU group' "$(cat $nvme_pci/iommu_group/type 2>&1)" "$(param domain DMA)"
}

# offered_pages: the page_size_mask that the guest's driver logged.
offered_mask() {
	[ "$(param iommu on)" = off ] && return
	mask=$(dmesg | sed -n 's/.*virtio_iommu.*page mask: //p' | tail -n 1)
	case $(param page 4096) in
	4096) same 'page mask' "$mask" 0x5000 ;;
	*) same 'page mask' "$mask" "$(printf '0x%x' "$(param page 4096)")" ;;
	esac
}

generation=$(param gen 0)

drop_caches() { sync && echo 3 >/proc/sys/vm/drop_caches; }

reads_direct_4k() { blkcheck read -g "$generation" -d -n 300 -t "$(param threads 1)" $disk; }
reads_direct_1m() { blkcheck read -g "$generation" -d -s 1048576 -n 16 -t "$(param threads 1)" $disk; }
reads_cached() { drop_caches && blkcheck read -g "$generation" -s 131072 $disk; }

# A new generation, read back past the cache and, once it is dropped, through it.
writes() {
	generation=$(($(param gen 0) + 1))
	blkcheck write -g $generation -d -t "$(param threads 1)" $disk &&
		blkcheck read -g $generation -d -s 1048576 -t "$(param threads 1)" $disk
}

# random_io: reads, writes, zeroes and flushes at random, all verified, and the whole disk at the end;
# t.random=SEED,COUNT. The disk's history is then `-g GENERATION -r SEED,COUNT`. 64 in flight are what it
# takes for Linux to queue 32 commands at once. Buffers need no more alignment than NVMe's four bytes.
random_io() {
	random_said=$(blkcheck random -g "$generation" -r "$(param random 1,1000)" -d -q 64 -a 4 $disk 2>&1) ||
		{ echo "$random_said" | tr '\n' ' '; return 1; }
	case $random_said in
	*'up to 64 in flight'*) ;;
	*) echo "$random_said"; return 1 ;;
	esac
}
