# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# badinput-host [terminal] - the cases of badinput.sh, on the lab's host.

# shellcheck disable=SC2086
set -- "${1-}" $LAB_DEVICES
mode=$1 edu=${2-} shared=${3-}
held=0000:00:13.0
run="granule run -k vmlinuz"

driver_of() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")"; }
state() {
	ls /tmp /dev/shm /root 2>/dev/null
	for f in /sys/bus/pci/devices/*; do
		echo "${f##*/} $(driver_of "${f##*/}")"
	done
}

# refused NAME STATUS PATTERN COMMAND...: ends with STATUS and says one line that matches PATTERN
refused() {
	name=$1 want=$2 pattern=$3
	shift 3
	before=$(state)
	timeout 30 "$@" >/run/out 2>/run/err </dev/null
	status=$?
	grep -v warning: /run/err >/run/lines
	if [ $status -ne "$want" ]; then
		echo "FAIL $name: status $status instead of $want: $(head -n 1 /run/err)"
	elif [ "$(wc -l </run/lines)" -ne 1 ] || ! grep -q '^granule: ' /run/lines; then
		echo "FAIL $name: not one line: $(tr '\n' '|' </run/err)"
	elif ! grep -q -i -E -e "$pattern" /run/lines; then
		echo "FAIL $name: $(cat /run/lines)"
	elif [ "$(state)" != "$before" ] || pidof granule >/dev/null; then
		echo "FAIL $name: it left something behind"
	else
		echo "ok $name: $(cat /run/lines)"
	fi
}

# What holds after a guest with a device was ended: the device does no DMA and can be had again.
device_is_quiet() {
	# command register, bit 2: bus master
	command=$(dd if="/sys/bus/pci/devices/$edu/config" bs=1 skip=4 count=1 2>/dev/null | od -An -tu1)
	[ $((command & 4)) -eq 0 ] && [ "$(driver_of "$edu")" = vfio-pci ] && ! pidof granule >/dev/null
}

# ended NAME SIGNAL STATUS DELAY...: granule, ended by SIGNAL at some moments of its life, says so and
# cleans up. Its devices are in $devices.
devices="--vfio $edu"
ended() {
	name=$1 signal=$2 want=$3
	shift 3
	for delay; do
		# timeout's child sends the signal; granule itself is our child, with its own status
		timeout -s "$signal" "$delay" $run -i initrd -m 256 -c 2 $devices -p quiet \
			>/run/out 2>/run/err </dev/null
		status=$?
		if [ $status -ne "$want" ]; then
			echo "FAIL $name: after $delay s: status $status instead of $want: $(tail -n 1 /run/err)"
			return
		fi
		if ! device_is_quiet; then
			echo "FAIL $name: after $delay s: the device is not as it was"
			return
		fi
	done
	echo "ok $name"
}

if [ "$mode" = terminal ]; then
	tty=$(tty)
	for signal in INT TERM HUP; do
		case $signal in INT) want=130 ;; TERM) want=143 ;; HUP) want=129 ;; esac
		before=$(stty -g)
		# Once it has the terminal, or after a minute.
		sh -c "tries=0
			while stty -g <$tty >/run/during && [ \"\$(cat /run/during)\" = $before ] && [ \$tries -lt 600 ]; do
				tries=\$((tries + 1))
				usleep 100000
			done
			kill -$signal \$(pidof granule)" &
		$run -i initrd -m 256 -c 1 --vfio "$edu" -p quiet >/run/out 2>/run/err
		status=$?
		wait
		if [ $status -ne $want ]; then
			echo "FAIL terminal_is_restored_after_SIG$signal: status $status: $(tail -n 1 /run/err)"
		elif [ "$(cat /run/during)" = "$before" ]; then
			echo "FAIL terminal_is_restored_after_SIG$signal: it never was in raw mode"
		elif [ "$(stty -g)" != "$before" ]; then
			echo "FAIL terminal_is_restored_after_SIG$signal: $(stty -g) was $before"
		else
			echo "ok terminal_is_restored_after_SIG$signal"
		fi
	done
	echo "done"
	exit
fi

# ---- kernels ----
refused no_such_kernel 1 'nowhere.*No such file' granule run -k nowhere
refused kernel_is_a_directory 1 '/root.*directory' granule run -k /root
refused kernel_is_not_arm64 1 'badinput-host.sh' granule run -k badinput-host.sh
refused kernel_is_a_program 1 'busybox.*ELF' granule run -k /usr/bin/busybox
refused kernel_is_cut_off 1 'cut.gz.*(end|trunc|cut|short|incomplete)' granule run -k cut.gz
refused kernel_is_a_bomb 1 'bomb.gz.*(large|more|limit|big|MiB)' granule run -k bomb.gz
refused zboot_is_cut_off 1 'cut.zboot.*(end|trunc|cut|short|incomplete|payload)' granule run -k cut.zboot
refused zboot_is_a_bomb 1 'bomb.zboot.*(large|more|limit|big|MiB)' granule run -k bomb.zboot
refused inspect_says_the_same 1 'nowhere' granule inspect nowhere

# ---- memory ----
truncate -s 300M big
refused initrd_does_not_fit 1 'initrd.*MiB' $run -i big -m 256
rm big
refused initrd_is_missing 1 'nowhere' $run -i nowhere
refused memory_does_not_fit_the_machine 2 '-m|memory' $run -m 100G
refused memory_is_too_small 2 '-m|memory' $run -m 1
refused memory_is_no_size 2 'lots' $run -m lots

# ---- words ----
refused unknown_option 2 '--frobnicate' $run --frobnicate
refused unknown_subcommand 2 'rum' granule rum
refused unknown_key_of_vfio 2 'speed.*sync' $run --vfio "$edu,speed=9"
refused unknown_value_of_a_key 2 'often' $run --vfio "$edu,sync=often"
refused unknown_key_of_disk 2 'rw' $run --disk x,rw
refused no_kernel_given 2 '-k' granule run
refused too_many_vcpus 2 '9' $run -c 9
refused malformed_bdf 2 '00:zz.0' $run --vfio 00:zz.0

# ---- devices ----
refused device_is_absent 1 '0000:00:1f.7' $run --vfio 0000:00:1f.7
refused device_path_is_absent 1 'nowhere' $run --vfio /sys/bus/pci/devices/nowhere
refused device_is_the_hosts 1 "$held.*nvme" $run --vfio $held
refused group_is_not_viable 1 "12.1.*nvme" $run --vfio "$shared"
refused device_is_given_twice 2 "$edu" $run --vfio "$edu" --vfio "$edu"

# What a guest that puts UNMAPs off would spoil.
refused lazy_guest_without_full_sync 1 "$edu.*iommu.strict=0.*sync=" \
	$run -p 'quiet iommu.strict=0' --vfio "$edu,sync=rings"
refused no_room_for_iommu_strict 1 "$edu.*no room.*sync=full" \
	$run -p "$(head -c 2040 /dev/zero | tr '\0' x)" --vfio "$edu,sync=rings"

# In use by another granule. Its guest must be up: until then it may not have the device yet.
truncate -s 1M disk
$run -i initrd -m 256 --vfio "$edu" --disk disk -p quiet >/run/first 2>&1 </dev/null &
pid=$!
tries=0
until grep -q 'guest is up' /run/first; do
	tries=$((tries + 1))
	[ $tries -le 600 ] || break
	usleep 100000
done
# `state` wants no granule running: these look at the line alone
busy() {
	name=$1 pattern=$2
	shift 2
	if "$@" >/run/out 2>/run/err </dev/null; then
		echo "FAIL $name: it was not refused"
	elif [ "$(grep -v -c warning: /run/err)" -ne 1 ] || ! grep -q -i -E -e "$pattern" /run/err; then
		echo "FAIL $name: $(tr '\n' '|' </run/err)"
	else
		echo "ok $name: $(grep -v warning: /run/err)"
	fi
}
busy device_is_in_use "(group|$edu).*(use|busy)" $run --vfio "$edu"
busy disk_is_locked 'disk.*(lock|use)' $run --disk disk
kill -TERM $pid
wait $pid
rm disk

refused disk_is_missing 1 'nowhere' $run --disk nowhere
refused disk_is_a_directory 1 '/root' $run --disk /root
printf 'x' >odd
refused disk_has_an_odd_size 1 'odd.*512' $run --disk odd
rm odd

# ---- simulated devices ----
refused sim_of_nothing_known 2 'floppy.*nvme or edu' $run --sim floppy
refused sim_disk_is_missing 1 'nowhere' $run --sim nvme,disk=nowhere
refused sim_disk_is_a_directory 1 '/root' $run --sim nvme,disk=/root
printf 'x' >odd
truncate -s 1M disk
refused sim_disk_has_an_odd_size 1 'odd.*512' $run --sim nvme,disk=odd
refused second_sim_disk_is_missing 1 'nowhere' $run --sim nvme,disk=disk --sim nvme,disk=nowhere
refused sim_disk_is_given_twice 1 'disk.*(use|twice)' $run --sim nvme,disk=disk --sim nvme,disk=disk
refused sim_without_an_iommu 2 'iommu' $run --iommu off --sim nvme,disk=disk
refused sim_two_darts_of_the_guest 2 'darts' $run --sim nvme,disk=disk,darts=2,owner=guest
refused lazy_guest_of_a_sim_without_full_sync 1 'iommu.strict=0.*sync=' \
	$run -p 'quiet iommu.strict=0' --sim nvme,disk=disk,sync=rings
rm odd disk

# ---- networks ----
refused net_name_is_too_long 2 'sixteen--letters.*15 letters' $run --net tap=sixteen--letters
refused net_is_no_tap 1 'lo.*not a tap' $run --net tap=lo
# Under another name, so that it is not taken for one that was left behind.
cp /usr/local/bin/granule /run/holder
/run/holder run -k vmlinuz -i initrd -m 256 -p quiet --net tap=held0 >/dev/null 2>&1 </dev/null &
holder=$!
tries=0
until [ -e /sys/class/net/held0 ] || [ $tries -gt 300 ]; do
	tries=$((tries + 1))
	usleep 100000
done
refused net_tap_is_busy 1 'held0.*another process' $run --net tap=held0
kill $holder
wait $holder
mv /dev/net/tun /dev/tun.away
refused net_without_tun 1 '/dev/net/tun.*modprobe tun' $run --net tap=tap0
mv /dev/tun.away /dev/net/tun

refused stats_cannot_be_written 1 '/nowhere/s' $run --stats /nowhere/s
refused trace_cannot_be_written 1 '--trace /nowhere/t' $run --trace /nowhere/t
refused trace_into_a_full_disk 1 '--trace /dev/full: No space' $run --trace /dev/full
refused trace_too_small 2 'max=1K: give a size of at least 1M' $run --trace t,max=1K
refused live_stats_without_a_directory 1 'XDG_RUNTIME_DIR' \
	env XDG_RUNTIME_DIR=/nowhere $run --live-stats
refused stat_of_no_process 1 'no process 4000000' granule stat 4000000
# Root is no user of any directory when the sandbox has taken its capabilities.
mkdir /run/theirs && chown 1000 /run/theirs
refused live_stats_in_a_directory_of_somebody_else 1 'XDG_RUNTIME_DIR' \
	env XDG_RUNTIME_DIR=/run/theirs $run --live-stats
refused stat_of_another_program 1 'process 1 .*live-stats' granule stat 1
refused stat_of_nothing 2 'no process given' granule stat
refused inspect_of_no_process 1 'inspect: there is no process 4000000' granule inspect --domain 4000000
refused inspect_of_another_program 1 'inspect: process 1 .*live-stats' granule inspect --domain 1 --json
refused inspect_of_a_word 2 'give a process' granule inspect --domain init
refused inspect_of_a_kernel_as_a_picture 2 'give --domain PID' granule inspect --svg vmlinuz

# ---- the host ----
mv /dev/kvm /dev/kvm.away
refused no_kvm 1 '/dev/kvm' $run
truncate -s 1M disk
refused no_kvm_for_a_sim 1 '/dev/kvm' $run --sim nvme,disk=disk --sim edu,hostile
rm disk
mv /dev/kvm.away /dev/kvm
mv /dev/vfio/vfio /dev/vfio.away
refused no_vfio 1 '/dev/vfio' $run --vfio "$edu"
mv /dev/vfio.away /dev/vfio/vfio
# A user who may use both devices, but lock little memory.
group=$(basename "$(readlink "/sys/bus/pci/devices/$edu/iommu_group")")
chmod 666 /dev/kvm "/dev/vfio/$group" /dev/vfio/vfio
chmod 755 /root
echo 'nobody:x:65534:65534::/root:/bin/sh' >>/etc/passwd
chmod 755 /dev/net && chmod 666 /dev/net/tun
refused net_without_the_right_to_make_one 1 'new0.*no such interface.*ip tuntap' \
	su -s /bin/sh nobody -c "$run --net tap=new0"
refused memlock_is_too_low 1 'memlock|locked memory|ulimit -l' \
	sh -c "ulimit -l 64; exec su -s /bin/sh nobody -c '$run -m 256 --iommu off --vfio $edu'"

# A user who may not use one of them: what to do is said.
chmod 600 "/dev/vfio/$group"
refused group_is_not_the_users 1 "no permission to open /dev/vfio/$group; .*chown" \
	su -s /bin/sh nobody -c "$run --vfio $edu"
chmod 600 /dev/kvm
refused kvm_is_not_the_users 1 '/dev/kvm: Permission denied; .*join its group' su -s /bin/sh nobody -c "$run"

# ---- descriptors ----
refused fd_is_closed 2 '-k fd=7: this descriptor is not open' granule run -k fd=7
refused fd_is_standard_output 2 '--disk fd=1: give the number' $run --disk fd=1
refused fd_is_a_directory 1 'disk fd=7 is a directory' sh -c "exec $run --disk fd=7,ro 7</root"
refused fd_is_write_only 1 'fd=7: Permission denied' sh -c "exec granule run -k fd=7 7>>vmlinuz"
refused fd_is_read_only 1 'disk fd=7: .*fd=7,ro' sh -c "exec $run --disk fd=7 7<vmlinuz"
refused fd_is_given_twice 2 'fd=8: .*twice' sh -c "exec granule run -k fd=7 --disk fd=8,ro 7<vmlinuz 8<&7"
refused fd_is_no_kvm 1 '--kvm fd=7: this is not /dev/kvm' sh -c "exec $run --kvm fd=7 7<>/dev/null"
refused fd_is_no_tap 1 '--net fd=7: this descriptor is no tap' sh -c "exec $run --net fd=7 7<>/dev/null"
refused fd_is_no_group 1 "fd=7: this descriptor is not /dev/vfio/$group" \
	sh -c "exec $run --vfio $edu,fd=7 7<>/dev/null"
refused fd_is_no_container 1 'container=7: this descriptor is not /dev/vfio/vfio' \
	sh -c "exec $run --vfio $edu,container=7 7<>/dev/null"

# ---- the sandbox ----
# violation NAME THREAD PATTERN: the thread is made to call ptrace(2); that is granule's end, and said
truncate -s 1M disk
violation() {
	$run -i initrd -m 256 -c 1 --vfio "$edu" --sim edu --sim nvme,disk=disk --trace /run/trace -p quiet \
		>/run/out 2>/run/err </dev/null &
	if ! timeout 60 violate $! "$2" 2>/run/said; then
		echo "FAIL $1: violate: $(head -n 1 /run/said)"
		kill -9 $!
		wait $!
		return
	fi
	wait $!
	status=$?
	if [ $status -ne 5 ]; then
		echo "FAIL $1: status $status instead of 5: $(tail -n 1 /run/err)"
	elif [ "$(grep -c "^granule: sandbox: $3 made a system call that it may not: ptrace(" /run/err)" -ne 1 ]; then
		echo "FAIL $1: $(tail -n 1 /run/err)"
	elif ! device_is_quiet; then
		echo "FAIL $1: the device is not as it was"
	else
		echo "ok $1: $(tail -n 1 /run/err)"
	fi
}
violation violation_by_the_loop granule 'the main thread'
violation violation_by_a_vcpu vcpu0 "a vCPU's thread"
violation violation_by_a_simulated_nvme sim-nvme "a simulated NVMe's thread"
violation violation_by_a_simulated_edu sim-edu "a simulated edu's thread"
violation violation_by_the_trace trace "the trace's thread"
# confinement NAME WANT OPTION...: once the guest is up each kind of thread has WANT: of /proc's status Seccomp,
# NoNewPrivs and CapEff
confined() { awk '{ of[$1] = $2 } END { print of["Seccomp:"], of["NoNewPrivs:"], of["CapEff:"] }' "$1"; }
confinement() {
	name=$1 want=$2
	shift 2
	$run -i initrd -m 256 -c 1 --vfio "$edu" --sim edu --sim nvme,disk=disk --trace /run/trace -p quiet "$@" \
		>/run/out 2>/run/err </dev/null &
	pid=$!
	tries=0
	until grep -q 'guest is up' /run/out || [ $tries -gt 600 ]; do
		tries=$((tries + 1))
		usleep 100000
	done
	wrong=
	for thread in granule vcpu0 sim-nvme sim-edu trace; do
		has='not there'
		for task in "/proc/$pid"/task/*; do
			[ "$(cat "$task/comm")" != $thread ] || has=$(confined "$task/status")
		done
		[ "$has" = "$want" ] || wrong="$thread: '$has' instead of '$want'"
	done
	kill -TERM $pid
	wait $pid
	status=$?
	if [ "$wrong" ]; then
		echo "FAIL $name: $wrong"
	elif [ $status -ne 143 ]; then
		echo "FAIL $name: status $status instead of 143: $(tail -n 1 /run/err)"
	else
		echo "ok $name"
	fi
}
confinement every_thread_is_confined '2 1 0000000000000000'
confinement no_sandbox_confines_no_thread "$(confined /proc/self/status)" --no-sandbox
rm disk

# ---- ended from outside ----
ended ended_by_SIGTERM TERM 143 0.02 0.1 0.2 0.4 0.8 2 4
ended ended_by_SIGINT INT 130 0.1 1
devices='--stats /run/theirs/s'
ended ended_with_statistics_in_a_directory_of_somebody_else TERM 143 2
if [ "$(ls /run/theirs)" = s ] && grep -q '^}' /run/theirs/s; then
	echo "ok statistics_in_a_directory_of_somebody_else"
else
	echo "FAIL statistics_in_a_directory_of_somebody_else: $(head -c 300 /run/theirs/*)"
fi
devices="--vfio $edu --net tap=new0"
ended net_ended_by_SIGTERM TERM 143 0.1 3
devices="--vfio $edu"
ended ended_by_SIGHUP HUP 129 0.1 1
# The kernel takes the device back; the next guest can have it.
ended ended_by_SIGKILL_first KILL 137 1
ended ended_by_SIGTERM_after_SIGKILL TERM 143 2

# Simulated devices, one of which never rests.
truncate -s 1M disk
devices='--sim nvme,disk=disk,darts=2 --sim edu,hostile'
ended sim_ended_by_SIGTERM TERM 143 0.05 0.2 0.5 1 3
devices='--sim nvme,disk=disk,owner=guest'
ended sim_of_the_guest_ended_by_SIGINT INT 130 0.2 3
# It runs, but Linux's own driver would not translate for this kernel: that is said.
if grep -q 'owner=guest: vmlinuz has pages of 4096 bytes' /run/err; then
	echo "ok small_pages_with_owner_guest_are_warned_of"
else
	echo "FAIL small_pages_with_owner_guest_are_warned_of: $(head -n 1 /run/err)"
fi
devices="--vfio $edu"
rm disk

# The terminal goes away under it.
hangup 4 $run -i initrd -m 256 --vfio "$edu" -p quiet
status=$?
if [ $status -ne 129 ]; then
	echo "FAIL terminal_is_gone: status $status instead of 129"
elif ! device_is_quiet; then
	echo "FAIL terminal_is_gone: the device is not as it was"
else
	echo "ok terminal_is_gone"
fi
echo "done"
