# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# docs-idle - a guest whose process the commands of the documents ask: it reads its disk now and then.
until [ -b /dev/nvme0n1 ]; do
	usleep 100000
done
dd if=/dev/nvme0n1 of=/dev/null bs=4096 count=8 iflag=direct 2>/dev/null
echo "guest is up"
while :; do
	dd if=/dev/nvme0n1 of=/dev/null bs=4096 count=8 iflag=direct 2>/dev/null
	sleep 5
done
