# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# pretend - in the place of a granule-fail, for sweep: with $FAULT, something is wrong with it that must be
# noticed. It makes two calls alloc:start and one nvme:run. $WRITTEN has the images as the guest leaves them,
# $EDU is the device that is passed through.
class='' n=0 error='' starts=2 runs=1 failed='' outcome=. end=']'
if [ "${FAILNTH-}" ]; then
	IFS=: read -r class _ n error <<-END
		$FAILNTH
	END
	case $FAULT in
	fewer_at_start) starts=1 ;;
	never_reached) runs=0 ;;
	esac
fi
[ "$FAULT" != no_such_call ] || runs=0
case $class in
alloc) [ "$n" -gt $starts ] || failed=alloc ;;
nvme) [ "$n" -gt $runs ] || failed=nvme.$error ;;
esac
[ "$FAULT" != not_failing ] || failed=
{
	[ ! "$failed" ] || echo "failed $FAILNTH"
	echo "count alloc start $starts"
	[ $runs -eq 0 ] || echo "count nvme run $runs"
} >>"$FAILNTH_LOG"

if [ "$failed" = alloc ] && [ "$FAULT" != failing_without_effect ]; then
	echo 'granule: out of memory' >&2
	exit 1
fi
cp "$WRITTEN/disk" "$WRITTEN/nvme" .
if [ "$failed" = nvme.5 ]; then
	outcome=E
	echo 'granule: warning: disk nvme: a write failed' >&2
fi
case $FAULT:$failed in
sector_lost_of_disk:nvme.5) dd if=/dev/zero of=disk bs=512 seek=7 count=1 conv=notrunc 2>/dev/null ;;
sector_lost_of_nvme:nvme.5) dd if=/dev/zero of=nvme bs=512 seek=7 count=1 conv=notrunc 2>/dev/null ;;
trace_cut_unsaid:nvme.11) end=',{}' ;;
trace_broken:nvme.5) end=',{' ;;
bus_master:nvme.5) printf '\004' | dd of="/sys/bus/pci/devices/$EDU/config" bs=1 seek=4 conv=notrunc 2>/dev/null ;;
device_sick:*) outcome=E ;;
eagain_noticed:nvme.11) outcome=E ;;
esac
printf '[{}%s' "$end" >trace.json
[ "$end" != ']' ] || echo >>trace.json
echo '{}' >stats.json
printf 'did blk ........\ndid nvme %s.......\nend\n' "$outcome"
