# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# shell - `make shell`: a shell on the guest's console.
# shellcheck source=lib.sh
. /test/lib.sh
wait_for_disk >/dev/null
echo
echo "This is a guest with pages of $(page_size) bytes. Its disk is $disk, in an IOMMU group of type"
echo "$(cat $nvme_pci/iommu_group/type 2>/dev/null || echo '(none)'). 'exit' powers it off, Ctrl-A x ends it at once."
export PS1='guest# ' TERM="${TERM:-linux}"
cd /root || exit
setsid -c sh -i </dev/console >/dev/console 2>&1
