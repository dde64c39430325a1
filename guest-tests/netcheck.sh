#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# netcheck.sh - what the guest scenarios believe of a network is only as good as netcheck: either end must tell
# a byte that the other has spoilt, and where it is, and that a connection ended too soon.
set -uo pipefail

netcheck=$(readlink -f "$(dirname "$0")/..")/build/linux/netcheck-native
dir=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
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

# serve LOG [OPTION]...: on a port that is free; sets port
port=$((20000 + $$ % 20000))
serve() {
	local log=$1
	shift
	while port=$((port + 1)); do
		"$netcheck" serve "$log" -p $port "$@" 2>/dev/null &
		# It is there, or it has ended.
		until (: <>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do
			kill -0 $! 2>/dev/null || continue 2
		done
		kill -0 $! 2>/dev/null || continue
		servers+=($!)
		return
	done
}
# lines LOG: sorted, once the server has written as many as there were connections and one that said nothing
lines() {
	until [[ $(wc -l <"$1") -gt $2 ]]; do sleep 0.05; done
	sort "$1"
}

serve log
expect both_ways_are_exact 0 '[1-9][0-9]* KiB there, [1-9][0-9]* KiB back, [1-9][0-9]* answers' \
	"$netcheck" run 127.0.0.1 -p $port -s 1
expect server_tells_of_each_connection 0 '^cut .*(ok [0-9]+.*){4}$' lines log 4
: >log
expect server_tells_a_byte_that_is_spoilt 1 'netcheck: connection' "$netcheck" run 127.0.0.1 -p $port -s 1 -x 12345 -c 1
expect server_says_where_it_is 0 'wrong byte 12345, .* instead of' lines log 0
: >log
# The client is ended in the middle of its work.
timeout 0.5 "$netcheck" run 127.0.0.1 -p $port -s 30 -c 2
expect server_tells_of_connections_that_are_cut 0 '^cut .*cut ' lines log 1

serve spoiling -x 23456
expect client_tells_a_byte_that_is_spoilt 1 'byte 23456, .* instead of' "$netcheck" run 127.0.0.1 -p $port -s 1 -c 1
expect other_ball_games_end_too 1 'connection [0-9]: ' "$netcheck" run 127.0.0.1 -p $port -s 1
expect nobody_there_is_told 1 'refused' "$netcheck" run 127.0.0.1 -p 1 -s 1
expect no_arguments_are_told 2 'usage' "$netcheck"

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
