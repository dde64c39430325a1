# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# panic - the guest's kernel panics while its disk is in use; with panic=-1 it asks for a reset.
# shellcheck source=lib.sh
. /test/lib.sh

claim nvme_appears wait_for_disk
finish
blkcheck read -g "$generation" -d "$disk" >/dev/null 2>&1 &
usleep 200000
echo c >/proc/sysrq-trigger
