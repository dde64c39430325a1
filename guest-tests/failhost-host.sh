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
