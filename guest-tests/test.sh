#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# test.sh - every test, and one line over all of them at the end: `N passed, N failed, N skipped`.
# A part that ends without its own such line, or with a status that disagrees with it, has failed.
set -uo pipefail

cd "$(dirname "$(readlink -f "$0")")/.." || exit
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

part() { # NAME COMMAND...
	local name=$1 status total start=$SECONDS
	shift
	echo "== $name"
	"$@" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	total=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
	if [[ $total =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)?$ ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		failed=$((failed + BASH_REMATCH[2]))
		skipped=$((skipped + ${BASH_REMATCH[4]:-0}))
		if [[ ${BASH_REMATCH[2]} -eq 0 && $status -ne 0 ]]; then
			echo "FAIL  $name: ended with status $status"
			failed=$((failed + 1))
		fi
	else
		echo "FAIL  $name: no result (status $status)"
		failed=$((failed + 1))
	fi
	echo "== $name: $((SECONDS - start)) s"
}

# shows PART TEXT: has the text a line that matches, for each line of standard input? Counts in ok, bad.
shows() {
	local line
	while IFS= read -r line; do
		if grep -q -E "$line" <<<"$2"; then
			ok=$((ok + 1))
		else
			echo "FAIL  make run does not show of $1: $line"
			bad=$((bad + 1))
		fi
	done
}

# What the README promises of `make run`, line by line: of the simulated disk, and, in the lab, of the
# passed-through one.
demo() {
	local out ok=0 bad=0 text common
	if out=$("$make" --no-print-directory run </dev/null 2>&1 | tee /dev/stderr); then
		ok=1
	else
		echo "FAIL  make run ends with a status that is not 0"
		bad=1
	fi
	common=$(cat <<-'END'
		^host: .*page size (4096|16384|65536) bytes
		^guest:.*page size 4096 bytes
		^guest: PCI function .*driver nvme, IOMMU group [0-9]+ of type DMA
		^guest: SHA-256 read in the guest +[0-9a-f]{64}
		^guest: it reads back as it was written
		^ +mappings +[1-9][0-9]* made
		^ +frames +[0-9]+ direct, [0-9]+ window, [0-9]+ exposed, [1-9][0-9]* bounce
		^ +bytes copied +.* to devices, .* to the guest
		^ +syncs +[1-9]
		^ +conflicts +0
		^ +faults +0
	END
	)
	text=$(sed -n '/^== a simulated/,/^== a device of the host/p' <<<"$out")
	shows 'the simulated disk' "$text" <<<"$common"
	shows 'the simulated disk' "$text" <<-'END'
		^host:  granule run .*--sim nvme,disk=.*,dart=t6000,darts=2
		^host:  the disk's file has what the guest wrote
	END
	if [[ $(uname -m) == aarch64 ]]; then
		echo "$ok passed, $bad failed"
		[[ $bad -eq 0 ]]
		return
	fi
	text=$(sed -n '/^== a device of the host/,$p' <<<"$out")
	shows 'the passed-through disk' "$text" <<<"$common"
	shows 'the passed-through disk' "$text" <<-'END'
		^host: .*page size 16384 bytes
		^host:  PCI function .* is bound to vfio-pci
		^host:  granule run .*--vfio
		^host:  the backing file has what the guest wrote
		^make run: OK
	END
	echo "$ok passed, $bad failed"
	[[ $bad -eq 0 ]]
}

make=${MAKE:-make}
part 'unit tests' "$make" --no-print-directory check
part 'unit tests under ASan and UBSan' "$make" --no-print-directory check-asan
part 'unit tests under TSan' "$make" --no-print-directory check-tsan
part 'fuzzers' "$make" --no-print-directory check-fuzz
part 'proofs' "$make" --no-print-directory proofs
if [[ $(uname -m) != aarch64 ]]; then
	part 'the lab' guest-tests/lab/test.sh
	part 'unit tests on arm64' "$make" --no-print-directory check-arm64
fi
part 'installing and packages' "$make" --no-print-directory check-dist
part 'blkcheck' guest-tests/blkcheck.sh
part 'netcheck' guest-tests/netcheck.sh
part 'bad input' guest-tests/badinput.sh
part 'failing host' guest-tests/failhost.sh -q
part 'guest scenarios' "$make" --no-print-directory guest-check
part 'commands of the documents' "$make" --no-print-directory check-docs
if [[ $(uname -m) != aarch64 || -w /dev/kvm ]]; then
	part 'make run' demo
fi
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 ]]
