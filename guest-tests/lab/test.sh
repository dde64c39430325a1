#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests of the lab itself. One line per claim; not zero when one failed.
# Needs what lab needs, and util-linux's script for the terminal.
# shellcheck disable=SC2016,SC2094 # eval'd claims; the terminal's output is awaited
set -uo pipefail
export LC_ALL=C

here=$(dirname "$(readlink -f "$0")")
lab=$here/lab
shared=${LAB_BUILD:-$(cd "$here/../.." && pwd)/build}
# Runs of its own, so that no other lab's is taken for ours; the caches are everybody's.
"$lab" fetch || exit
mkdir -p "$shared/lab"/{sets,initrd}
tmp=$(mktemp -d "$shared/lab-test.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
build=$tmp/build
mkdir -p "$build/lab"
ln -s "$shared"/lab/{apt,root,sets,initrd,debs.lock,initrd.lock,modules.lock} "$build/lab"
export LAB_BUILD=$build
passed=0
failed=0

# claim TEXT COMMAND [ARG]...: COMMAND says whether it is true.
claim() {
	if "${@:2}"; then
		echo "ok $1"
		passed=$((passed + 1))
	else
		echo "FAIL $1"
		failed=$((failed + 1))
	fi
}

# run COMMAND [ARG]...: sets status; what it prints is in $tmp/out and $tmp/err.
run() {
	status=0
	"$@" >"$tmp/out" 2>"$tmp/err" || status=$?
}

status_is() { [[ $status -eq $1 ]] || { echo "# status $status"; sed 's/^/# /' "$tmp/err"; return 1; }; }
out_is() { printf '%s\n' "$@" | cmp - "$tmp/out"; }
err_is() { printf '%s\n' "$@" | cmp - "$tmp/err"; }
err_has() { [[ $(wc -l <"$tmp/err") -eq 1 ]] && grep -q -e "$1" "$tmp/err"; }
line() { grep -qxF -- "$1" "$tmp/out"; }
last_run() { basename "$(readlink -f "$build/lab/last")"; }
no_process() { ! pgrep -f "$1" >/dev/null; }
fails_with() { # STATUS TEXT LAB-ARGUMENT...
	run "$lab" "${@:3}"
	status_is "$1" && err_has "$2"
}

claim "an unknown command is refused" fails_with 2 "unknown command 'nosuch'" nosuch
claim "an unknown option is refused" fails_with 2 "unknown option '--nosuch'" exec --nosuch -- true
claim "an option without its value is refused" fails_with 2 "--put needs a value" exec --put
claim "no command is refused" fails_with 2 "no command" exec --smp 1
claim "a command without -- is refused" fails_with 2 "comes after --" exec true
claim "a time-out that is no number is refused" fails_with 2 "'soon'" exec --timeout soon -- true
claim "a missing file to put is refused" fails_with 2 "'/nosuch'" exec --put /nosuch -- true
claim "a missing directory to get into is refused" \
	fails_with 2 "'/nosuch'" exec --get /x:/nosuch/x -- true
claim "a wrong PCI address is refused" fails_with 2 "addr=99" exec --device nvme,addr=99 -- true
claim "an unknown module is refused" \
	fails_with 2 "no module 'nosuch'" initrd --kernel linux-image-cloud-arm64 --modules nosuch \
	--script "$0" -o "$tmp/x"
claim "an unknown kernel package is refused" fails_with 2 "'nosuch'" kernel nosuch
claim "a device QEMU does not know is the lab's failure" \
	fails_with 125 "QEMU failed.*nosuch.*logs: " exec --device nosuch -- true

# One boot for all that a plain command needs.
for i in {0..255}; do
	# shellcheck disable=SC2059
	printf "\\x$(printf %x "$i")"
done >"$tmp/all"
cat "$tmp/all" "$tmp/all" "$tmp/all" >"$tmp/in"
run "$lab" exec -- sh -c 'cat; printf "%s|" "$@" >&2; exit 3' sh 'a b' "it's" '' '$HOME *' <"$tmp/in"
claim "the command's exit status comes back" status_is 3
claim "standard input and output are binary clean and end" cmp "$tmp/in" "$tmp/out"
claim "arguments arrive as they were, and standard error is apart" \
	cmp <(printf '%s|' 'a b' "it's" '' '$HOME *') "$tmp/err"
claim "a failed command's run is kept" test -s "$build/lab/last/console.log"
rm -rf "${build:?}/lab/$(last_run)"

mkdir -p "$tmp/dir/sub"
head -c 10000000 /dev/urandom >"$tmp/dir/sub/big"
ln -s sub/big "$tmp/dir/link"
"$lab" exec --put "$tmp/dir" --put "$tmp/in:/opt/" --get /root/dir:"$tmp/copy" --get /opt/in:"$tmp" \
	--get /nosuch:"$tmp/nosuch" -- sh -c 'cat dir/sub/big; exit 4' 2>"$tmp/err" </dev/null |
	(sleep 8; cat) >"$tmp/out"
status=${PIPESTATUS[0]}
claim "10 MB reach a slow reader whole" cmp "$tmp/dir/sub/big" "$tmp/out"
claim "a directory is put and got, though the command failed" diff -r "$tmp/dir" "$tmp/copy"
claim "links stay links" test -L "$tmp/copy/link"
claim "a missing file to get is one line, and the status the command's" \
	eval 'status_is 4 && err_has "/nosuch"'
rm -rf "${build:?}/lab/$(last_run)"

run "$lab" exec --device nvme,serial=a,drive=a --host-device nvme,serial=b,drive=b \
	--device e1000e,addr=5,romfile= --get /nosuch:"$tmp/nosuch" \
	--qemu -drive --qemu if=none,id=a,driver=null-co,size=1G \
	--qemu -drive --qemu if=none,id=b,driver=null-co,size=2M -- sh -c '
	echo "$LAB_DEVICES"
	for dev in $LAB_DEVICES; do basename "$(readlink /sys/bus/pci/devices/$dev/driver)"; done
	for dev in $LAB_DEVICES; do ls "/dev/vfio/$(basename "$(readlink /sys/bus/pci/devices/$dev/iommu_group)")"; done | wc -l
	cat /sys/block/nvme0n1/size
	ls /dev/kvm /dev/vfio/vfio
	awk "/KernelPageSize/ { print \$2; exit }" /proc/self/smaps'
claim "devices are bound to vfio-pci, in order" \
	eval 'line "0000:00:10.0 0000:00:05.0" && [[ $(grep -cx vfio-pci "$tmp/out") = 2 ]]'
claim "each has its IOMMU group" line 2
claim "a host device is left to the host's driver" line 4096
claim "the host has KVM and VFIO" eval 'line /dev/kvm && line /dev/vfio/vfio'
claim "the host's pages are 16 KiB" line 16
claim "a missing file to get fails a run that went well" eval 'status_is 125 && err_has /nosuch'
rm -rf "${build:?}/lab/$(last_run)"

timeout -s KILL 60 "$lab" exec -- yes 2>"$tmp/err" </dev/null | head -n 1 >"$tmp/out"
status=${PIPESTATUS[0]}
claim "a reader that goes away ends the run" eval 'status_is 141 && out_is y'
claim "and QEMU" no_process "$(last_run)"
rm -rf "${build:?}/lab/$(last_run)"

run "$lab" exec --timeout 2 -- true
claim "a time-out is status 124 and one line that names the logs" \
	eval 'status_is 124 && err_has "after 2 s.*$(last_run)"'
claim "a time-out ends QEMU" no_process "$(last_run)"
rm -rf "${build:?}/lab/$(last_run)"

run "$lab" exec --timeout 60 -- sh -c 'echo c >/proc/sysrq-trigger'
claim "a panic of the host is status 125 and one line" eval 'status_is 125 && err_has "panicked"'
rm -rf "${build:?}/lab/$(last_run)"

"$lab" exec -- sleep 60 <&0 >"$tmp/out" 2>"$tmp/err" &
pid=$!
sleep 3
dir=$(last_run)
kill -TERM $pid
status=0
wait $pid || status=$?
claim "SIGTERM ends the lab with 143" status_is 143
claim "and QEMU" no_process "$dir"
claim "and leaves no large file" eval '[[ $(du -sk "$build/lab/$dir" | cut -f 1) -lt 1000 ]]'
rm -rf "${build:?}/lab/$dir"

# A terminal of 33 by 77; Ctrl-C once the command says it is ready.
cat >"$tmp/terminal" <<END
stty rows 33 cols 77
stty -a >$tmp/before
$lab exec --timeout 60 -- sh -c '
	tty
	stty size
	trap "echo interrupted; exit 7" INT
	echo ready
	while :; do sleep 1; done'
echo "status \$?"
stty -a >$tmp/after
END
: >"$tmp/out"
{
	for ((i = 0; i < 300; i++)); do
		grep -q ready "$tmp/out" && break
		sleep 0.1
	done
	printf '\003'
	while [[ ! -s $tmp/after ]] && ((i++ < 600)); do sleep 0.1; done
} | script -qfec "sh $tmp/terminal" /dev/null >"$tmp/out" 2>&1
tr -d '\r' <"$tmp/out" >"$tmp/lines" && mv "$tmp/lines" "$tmp/out"
claim "at a terminal the command has a terminal" line /dev/hvc0
claim "of the same size" line "33 77"
claim "Ctrl-C goes to the command" eval 'grep -q interrupted "$tmp/out" && line "status 7"'
claim "the terminal is as it was" cmp "$tmp/before" "$tmp/after"
rm -rf "${build:?}/lab/$(last_run)"

run "$lab" exec --packages pciutils -- sh -c 'lspci -n | wc -l; readlink -f "$(which lspci)"; ls -L /bin/sh'
claim "packages are there, with what they depend on, and busybox still is" \
	out_is 1 /usr/bin/lspci /bin/sh
claim "a run that went well leaves nothing" eval '[[ ! -e $build/lab/last/ ]]'

printf '%s\n' 'cat /etc/motto' 'exit 5' >"$tmp/job"
echo 'small pages' >"$tmp/motto"
for i in 1 2; do
	[[ $i = 1 ]] || { rm "$build/lab/initrd" && mkdir "$build/lab/initrd"; }
	"$lab" initrd --kernel linux-image-cloud-arm64 --modules nvme,vfat --script "$tmp/job" \
		--put "$tmp/motto:/etc/motto" -o "$tmp/initrd$i"
done
claim "the same inputs give the same initramfs" cmp "$tmp/initrd1" "$tmp/initrd2"
timeout -s KILL 60 qemu-system-aarch64 -M virt -cpu neoverse-n1 -accel tcg -m 512M -nographic -no-reboot \
	-kernel "$("$lab" kernel linux-image-cloud-arm64)" -initrd "$tmp/initrd1" \
	-append "console=ttyAMA0 quiet panic=-1" </dev/null 2>&1 | tr -d '\r' >"$tmp/out"
claim "a job runs, says how it ended, and the machine stops" \
	eval 'line "small pages" && line "job: exit 5"'

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
