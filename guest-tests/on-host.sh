# SPDX-License-Identifier: Apache-2.0
# on-host - what `make run` and `make shell` do on the lab's host: show it, then run the guest.
# $1: the guest's command line
set -e
echo "host: $(uname -r), the device to pass through is $LAB_DEVICES"
granule devices
# shellcheck disable=SC2086
exec granule run -k vmlinuz -i initrd -m 1G -c 2 --vfio $LAB_DEVICES -p "$1"
