#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# blkcheck.sh - what the guest scenarios believe of a disk is only as good as blkcheck: spoil a file in
# every way that it must tell, and see that it does, and says where.
set -uo pipefail

blkcheck=$(readlink -f "$(dirname "$0")/..")/build/linux/blkcheck-native
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit
passed=0 failed=0

# expect NAME STATUS TEXT COMMAND...: its exit status, and a line that matches TEXT
expect() {
	local name=$1 status=$2 text=$3 said got
	shift 3
	said=$("$@" 2>&1)
	got=$?
	if [[ $got -eq $status && $said =~ $text ]]; then
		passed=$((passed + 1))
	else
		echo "FAIL  $name: status $got instead of $status, or not '$text': $said"
		failed=$((failed + 1))
	fi
}

# The history of the file, and of one that has all of it but the last step.
history=(-g 1 -r '7,400' -g 2 -r '8,400')
before=(-g 1 -r '7,400' -g 2)
"$blkcheck" fill disk 8
expect generation_is_written 0 '' "$blkcheck" write -g 1 disk
expect random_io_is_right_and_at_depth 0 'up to 32 in flight' "$blkcheck" random -g 1 -r 7,400 disk
expect generation_is_written_over_it 0 '' "$blkcheck" write "${before[@]}" disk
cp disk old
expect random_io_goes_on 0 'in flight' "$blkcheck" random "${history[@]}" -q 5 -a 4 disk
cp disk good
expect whole_history_is_known 0 '^$' "$blkcheck" read "${history[@]}" disk
expect missing_step_is_noticed 1 'sector [0-9]+ .*nothing wrote that' "$blkcheck" read "${before[@]}" disk
expect other_seed_is_noticed 1 'sector [0-9]+' "$blkcheck" read -g 1 -r 6,400 -g 2 -r 8,400 disk
expect other_order_is_noticed 1 'sector [0-9]+' "$blkcheck" read -g 1 -g 2 -r 7,400 -r 8,400 disk
expect random_io_on_another_disk_is_noticed 1 'sector [0-9]+' "$blkcheck" random -r 9,400 disk

# A sector that the last run wrote, one that it did not, and a block of the last generation.
sector_of() { # which first sector a reader of the disk without the last step complains about
	"$blkcheck" read "${before[@]}" disk 2>&1 | sed -n 's/.*: sector \([0-9]*\) .*/\1/p'
}
cp good disk
fresh=$(sector_of)

# spoil NAME TEXT FROM SKIP SEEK BYTES: copy BYTES from FROM into the disk, and see it named
spoil() {
	cp good disk
	dd if="$3" of=disk iflag=skip_bytes,count_bytes oflag=seek_bytes skip="$4" seek="$5" count="$6" \
		conv=notrunc status=none
	expect "$1" 1 "sector $(($5 / 512)) .*$2" "$blkcheck" read "${history[@]}" disk
}
at=$((fresh * 512))
spoil stale_sector 'instead of byte .* of seed 8' old $at $at 512
spoil torn_sector '256 bytes are wrong: at byte 256' old $((at + 256)) $((at + 256)) 256
spoil lost_byte '8 bytes are wrong: at byte 8 .*nothing wrote that' old $((at + 9)) $((at + 9)) 1
spoil zeroed_sector 'is zero instead of' /dev/zero 0 $at 512
spoil sector_of_elsewhere 'instead of' good $((at + 4096)) $at 512
spoil last_sector 'is zero instead of' /dev/zero 0 $((8 * 1048576 - 512)) 512
expect whatever_was_left_is_right_after_errors 0 '' "$blkcheck" read -e "${history[@]}" old
expect garbage_is_wrong_after_errors_too 1 "sector $(((8 * 1048576 - 512) / 512))" \
	"$blkcheck" read -e "${history[@]}" disk

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
