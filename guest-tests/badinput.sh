#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# badinput.sh - what a user gets wrong, and what goes wrong for a user: each time one line that names it, a
# status that is not 0, and nothing left behind. Runs granule in the lab, where a real host can be spoiled.
# Ends with `N passed, N failed`. On an arm64 host it changes nothing and skips.
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/build
lab=$here/lab/lab
dir=$build/badinput
claims=99 # as many as badinput-host.sh has

if [[ $(uname -m) == aarch64 ]]; then
	echo "skip  bad input: it spoils the host it runs on, so it needs the lab"
	echo "0 passed, 0 failed, 1 skipped"
	exit
fi

mkdir -p "$dir"
# One run at a time in a tree.
exec {lock}>"$dir/lock"
flock "$lock"
kernel=$("$lab" kernel linux-image-cloud-arm64) || exit
"$lab" initrd --kernel linux-image-cloud-arm64 --modules virtio_mmio,virtio_iommu \
	--script "$here/linux/idle.sh" -o "$dir/initrd" || exit
gzip -c "$kernel" | head -c 1000000 >"$dir/cut.gz"
# An Image's header and then 2 GiB of nothing, 2 MiB packed.
{ head -c 64 "$kernel" && head -c 2G /dev/zero; } | gzip -1 >"$dir/bomb.gz"
# The same in EFI zboot: "MZ", "zimg", where the payload is and how long, and from byte 24 how it is packed.
zboot() { # LENGTH-SAID PAYLOAD-FILE
	local len
	printf -v len '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24))
	printf 'MZ\0\0zimg\x40\0\0\0%b\0\0\0\0\0\0\0\0gzip' "$len"
	head -c $((64 - 28)) /dev/zero
	cat "$2"
}
zboot 900000000 "$dir/cut.gz" >"$dir/cut.zboot"
zboot "$(stat -c %s "$dir/bomb.gz")" "$dir/bomb.gz" >"$dir/bomb.zboot"

# shellcheck disable=SC2054 # QEMU's commas
# Slot 0x12 has a function for the guest and one that the host uses, in one IOMMU group.
args=(--device edu --device edu,addr=12.0,multifunction=on
	--host-device nvme,serial=a,drive=a,addr=12.1 --host-device nvme,serial=b,drive=b,addr=13.0
	--qemu -drive --qemu "if=none,id=a,driver=null-co,size=1G"
	--qemu -drive --qemu "if=none,id=b,driver=null-co,size=1G"
	--put "$kernel:/root/vmlinuz" --put "$dir/initrd" --put "$dir/cut.gz" --put "$dir/bomb.gz"
	--put "$dir/cut.zboot" --put "$dir/bomb.zboot"
	--put "$build/linux/hangup:/usr/bin/hangup" --put "$build/linux/violate:/usr/bin/violate" --put "$here/badinput-host.sh" --timeout 400)

"$lab" exec "${args[@]}" -- sh badinput-host.sh </dev/null 2>&1 | tr -d '\r' | tee "$dir/report.txt"
# The same on a real terminal: its modes are what they were. It echoes the end of script's input as ^@.
script -qec "'$lab' exec --device edu --put '$kernel':/root/vmlinuz --put '$dir/initrd' \
	--put '$here/badinput-host.sh' --timeout 200 -- sh badinput-host.sh terminal" /dev/null </dev/null |
	tr -d '\r' | sed 's/^\^@//' | tee -a "$dir/report.txt"

passed=$(grep -c '^ok ' "$dir/report.txt")
failed=$(grep -c '^FAIL ' "$dir/report.txt")
ends=$(grep -c '^done$' "$dir/report.txt")
# A report that lost a line must not pass.
if [[ $((passed + failed)) -lt $claims ]]; then
	echo "FAIL  bad input: $((passed + failed)) claims are reported instead of $claims"
	failed=$((failed + 1))
fi
if [[ $ends -ne 2 ]]; then
	echo "FAIL  bad input: only $ends of 2 reports came to their end"
	failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
