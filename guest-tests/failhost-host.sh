# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# failhost-host [OPTION]... - the part of failhost.sh on the lab's host; options for sweep

# shellcheck disable=SC2086
set -- "$LAB_DEVICES" "$@"
edu=$1
shift
mkdir -p /run/sweep
chmod 700 /run/sweep
export XDG_RUNTIME_DIR=/run/sweep
ulimit -c 0
truncate -s 64K disk nvme
printf 'not much of an initrd' >initrd
# A sweep that notices nothing could call anything well.
# notices FAULT PATTERN: of a program with that fault it says a line that matches PATTERN
export WRITTEN=/run/written EDU="$edu"
mkdir $WRITTEN
for letter in A B C D E F G H; do head -c 512 /dev/zero | tr '\0' $letter; done >$WRITTEN/disk
tr A-H a-h <$WRITTEN/disk >$WRITTEN/nvme
notices() {
	export FAULT="$1"
	./sweep -u blk,nvme -c alloc:start,nvme:run sh pretend.sh --vfio "$edu" --trace trace.json >/run/said
	if grep -q "^ *$2" /run/said; then
		echo "ok the_sweep_notices_$1"
	else
		echo "FAIL the_sweep_notices_$1: $(grep -v ^ok /run/said | head -n 3 | tr '\n' '|')"
	fi
	printf '\000' | dd of="/sys/bus/pci/devices/$edu/config" bs=1 seek=4 conv=notrunc 2>/dev/null
}
echo "== the sweep itself"
notices nothing 'ok nvme_that_fails_in_run: of 1 calls every 1: 0 refused, 3 went on, 0 not reached, 0 bad'
notices not_failing 'FAIL alloc:start:1:12: of 2 calls this did not fail'
notices failing_without_effect 'FAIL a_start_without_what_it_takes_is_refused'
notices fewer_at_start 'FAIL alloc:start:2:12: there were 1 calls'
notices never_reached 'FAIL nvme_that_fails_in_run: .* 3 not reached'
notices no_such_call 'FAIL nvme_that_fails_in_run: there are none'
notices device_sick 'FAIL all_is_well_while_nothing_fails: nvme does not work'
notices eagain_noticed 'FAIL nvme:run:1:11: the guest did not get what it always gets'
notices sector_lost_of_disk 'FAIL nvme:run:1:5: sector 7 .* disk'
notices sector_lost_of_nvme 'FAIL nvme:run:1:5: sector 7 .* nvme'
notices trace_cut_unsaid 'FAIL nvme:run:1:11: the trace has no end'
notices trace_broken 'FAIL nvme:run:1:5: the trace ends within a line'
notices bus_master "FAIL nvme:run:1:5: $edu is not as it was"

# What must be used, and what must fail, whatever else does.
calls=alloc:start,alloc:run,alloc:exit,ioctl:start,ioctl:run,ioctl:exit,kvmrun:run,file:start,file:run,file:exit
calls=$calls,fd:start,map:start,thread:run,uring:run,blk:run,submit:run,submit:exit
echo "== with all devices"
./sweep "$@" -u blk,rng,net,simedu,nvme,edu -c "$calls,fd:run,thread:start,uring:exit,nvme:run" \
	./granule-fail run -k failhost.gz -i initrd -c 1 -m 64 --disk disk --net tap=fail0 \
	--sim edu,dart=t8103 --sim nvme,disk=nvme,dart=t6000,darts=2 --vfio "$edu" \
	--live-stats --stats stats.json --trace trace.json --dump-dtb tree.dtb || exit
echo "== without an IOMMU for the guest"
./sweep "$@" -u blk,rng -c "$calls" \
	./granule-fail run -k failhost.gz -c 2 -m 64 --disk disk --iommu off --vfio "$edu" \
	--stats stats.json || exit
echo "done"
