# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# host - runs scenarios on the host they need, in the lab or directly; sourced by a plan that run.sh
# writes. Everything goes to standard output at once, so that what was said before a crash is there:
#
#     '@ NAME'             a scenario begins
#     '| LINE'             what the guest prints
#     '! LINE'             what granule says of it, on standard error
#     '# LINE'             what the host's kernel logs meanwhile
#     '= STATUS SECONDS'   how granule ended

# The plan sets: where we are, and whether that is the lab.
work=${work:?} in_lab=${in_lab-}

# prefixed CHARACTER: each line as soon as it is there, in one write
prefixed() { awk -v p="$1" '{ sub(/\r$/, ""); print p " " $0; fflush() }'; }

kernel_log() { dmesg -c 2>/dev/null; }

# scenario NAME SECONDS COMMAND [ARG]...
scenario() {
	name=$1 limit=$2
	shift 2
	echo "@ $name"
	[ ! "$in_lab" ] || kernel_log >/dev/null
	started=$(date +%s)
	{
		{
			{
				timeout -k 10 "$limit" "$@" </dev/null 2>&4
				echo $? >"$work/status"
			} | prefixed '|' >&5
		} 4>&1 | prefixed '!' >&5
	} 5>&1
	echo "= $(cat "$work/status") $(($(date +%s) - started))"
	[ ! "$in_lab" ] || kernel_log | prefixed '#'
}

# after NAME COMMAND [ARG]...: a claim about the host, in the report of the scenario before it
after() {
	name=$1
	shift
	if said=$("$@" 2>&1); then
		echo "| ok $name"
	else
		echo "| FAIL $name: $(echo "${said:-failed, and said nothing}" | tail -n 1)"
	fi
}
