# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# reboot - the guest asks for a reset while its disk is in use: the device must come out of it clean.
# shellcheck source=lib.sh
. /test/lib.sh

claim nvme_appears wait_for_disk
claim direct_4k_reads_are_exact reads_direct_4k
finish
# still reading when the machine goes
blkcheck read -g "$generation" -d "$disk" >/dev/null 2>&1 &
usleep 200000
reboot -f
