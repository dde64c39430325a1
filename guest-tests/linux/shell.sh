# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# shell - `make shell`: a shell on the guest's console.
# shellcheck source=lib.sh
. /test/lib.sh
wait_for_disk >/dev/null
sleep 1
echo
echo "This is a guest with pages of $(page_size) bytes. Its disks:"
for nvme in /sys/class/nvme/nvme*; do
	echo "  /dev/${nvme##*/}n1, $(sed 's/ *$//' "$nvme/model"), in an IOMMU group of type" \
		"$(cat "$nvme/device/iommu_group/type" 2>/dev/null || echo '(none)')"
done
echo "'exit' powers it off, Ctrl-A x ends it at once."
export PS1='guest# ' TERM="${TERM:-linux}"
cd /root || exit
setsid -c sh -i </dev/console >/dev/console 2>&1
