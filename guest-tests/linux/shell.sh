# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# shell - the job of `make shell`'s guest.
echo
echo "A 4 KiB guest with a passed-through NVMe disk, /dev/nvme0n1. Power off with poweroff -f, or Ctrl-A x."
exec setsid cttyhack sh
