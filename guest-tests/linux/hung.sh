# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# hung - the disk's DARTs stop to invalidate while it is in use. Requests may fail then, but what is
# read is right or is an error, and the guest's kernel goes on.
# shellcheck source=lib.sh
. /test/lib.sh

# That the disk fails may be said.
kernel_complaints='WARNING:|BUG:|Oops|Call trace|Internal error|blocked for more than|rcu: INFO'

# exact_or_failed VERB ARG...: what blkcheck does may fail, but not be wrong; sets status
exact_or_failed() {
	hung_said=$(blkcheck "$@" -e -d $disk 2>&1)
	status=$?
	case $status in
	0 | 3) echo "note: blkcheck $1: ${hung_said:-all of it worked}" >/dev/console ;;
	*) echo "status $status: $(echo "$hung_said" | tr '\n' ' ')"; return 1 ;;
	esac
}

it_fails() {
	exact_or_failed "$@" && same 'status of blkcheck' $status 3
}

claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim direct_4k_reads_are_exact blkcheck read -d -n 20 $disk
claim writes_are_done_or_fail exact_or_failed write -g 1
claim reads_are_exact_or_fail exact_or_failed read -g 1 -s 131072
# The last one: with it, frames of all kinds come and go.
claim random_io_is_exact_until_it_fails it_fails random -g 1 -r "$(param random 1,1000)" -a 4
claim the_kernel_goes_on sh -c 'sync && echo 3 >/proc/sys/vm/drop_caches && dmesg >/tmp/log'
finish
