# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# granule - completion for bash.
#
# Options, their values and the keys of --vfio, --sim and the like are what `granule COMMAND --help` says, so
# there is no list here that could fall behind.
#
# Names of files are anybody's: none is ever expanded as `compgen -W` would, and each is offered quoted.

# _granule_table HELP: a line each of
#   o OPTION VALUE    an option and what follows it, in the help's words; VALUE may be missing
#   k OPTION KEY=... FIRST   a key of the option's value, or of such values only as begin with FIRST
_granule_table() {
	awk '
	/^usage:/ { usage = 1 }
	/^$/ { usage = 0 }
	{ text = text " " $0 }
	usage {
		gsub(/[][]/, " ")
		for (i = 1; i <= NF; i++)
			if ($i ~ /^--?[a-z][a-z-]*$/)
				print "o", $i
		next
	}
	/^ ? ? ? ? ? ?-/ {
		sub(/^ */, "")
		sub(/   *.*/, "")
		value = ""
		for (i = 1; i <= NF; i++)
			if ($i !~ /^-/)
				value = value $i
		option = ""
		for (i = 1; i <= NF; i++) {
			if ($i !~ /^-/)
				continue
			sub(/,$/, "", $i)
			print "o", $i, value
			option = option " " $i
		}
		# `nvme,disk=FILE[,ro][,KEY=VALUE]...`: what stands behind the first comma
		n = split(value, piece, /[],[]+/)
		first = n > 1 && piece[1] ~ /^[a-z]+$/ ? piece[1] : ""
		for (i = 1; i <= n; i++)
			if (piece[i] ~ /^[a-z]/ && (value ~ /^[a-z]+=/ || i > 1))
				keys(piece[i])
		first = ""
		next
	}
	/^ *[a-z_-]+=[^ ,]+(, [a-z_-]+=[^ ,]+)*$/ {
		gsub(/,/, "")
		for (i = 1; i <= NF; i++)
			keys($i)
	}
	/ as above/ {
		line = $0
		sub(/ as above.*/, "", line)
		n = split(line, piece, /,? +(and )?/)
		for (i = 1; i <= n; i++)
			if (piece[i] in known)
				keys(piece[i] "=" known[piece[i]])
	}
	function keys(key,    name, m, j, option_of) {
		name = key
		sub(/=.*/, "", name)
		if (key ~ /=/)
			known[name] = substr(key, length(name) + 2)
		m = split(option, option_of, " ")
		for (j = 1; j <= m; j++)
			print "k", option_of[j], key, first
	}
	END {
		while (match(text, /\(also [^)]*\)/)) {
			n = split(substr(text, RSTART + 6, RLENGTH - 7), piece, /[, ]+/)
			for (i = 1; i <= n; i++)
				if (piece[i] ~ /^--/)
					print "o", piece[i], "FILE"
			text = substr(text, RSTART + RLENGTH)
		}
	}' <<<"$1"
}

# The processes that answer `granule stat`.
_granule_pids() {
	local sock pid
	for sock in "${XDG_RUNTIME_DIR:-/run/user/$UID}"/granule-*.sock /run/granule-*.sock; do
		[[ -e $sock ]] || continue
		pid=${sock##*/granule-}
		pid=${pid%.sock}
		[[ -d /proc/$pid ]] && echo "$pid"
	done
}

# _granule_value TABLE OPTION TEXT: what TEXT may become
_granule_value() {
	local table=$1 option=$2 text=$3 kind='' key head word path start
	kind=$(awk -v o="$option" '$1 == "o" && $2 == o && $3 { print $3 }' <<<"$table")
	head=${text%"${text##*,}"} # what is there, up to the last comma
	key=${text##*,}
	if [[ $key == *=* ]]; then
		word=$(awk -v o="$option" -v k="${key%%=*}" \
			'$1 == "k" && $2 == o && index($3, k "=") == 1 { print substr($3, length(k) + 2); exit }' <<<"$table")
		head+=${key%%=*}=
		case $word in
		*'|'*)
			for word in ${word//|/ }; do
				echo "$head$word"
			done
			;;
		FILE*)
			# Without -r, what was typed loses its backslashes; they come back with %q.
			# shellcheck disable=SC2162
			IFS= read start <<<"${key#*=}"
			shopt -u failglob # only here: this is a subshell
			for path in "$start"*; do
				# No value of a key has a comma in it.
				[[ (-e $path || -L $path) && $path != *,* ]] && printf '%s%q\n' "$head" "$path"
			done
			;;
		NAME)
			for path in /sys/class/net/*/tun_flags; do
				path=${path%/tun_flags}
				[[ ${key%%=*} == tap && -e $path ]] && printf '%s%q\n' "$head" "${path##*/}"
			done
			;;
		esac
	elif [[ $head ]]; then
		awk -v o="$option" -v d="$head" '$1 == "k" && $2 == o && (!$4 || index(d, $4 ",") == 1) {
			sub(/=.*/, "=", $3)
			if (!index("," d, "," $3))
				print d $3
		}' <<<"$table"
	else
		while IFS= read -r word; do
			case $word in
			DEVICE*) ls /sys/bus/pci/devices 2>/dev/null ;;
			PID*) _granule_pids ;;
			[a-z]*)
				word=${word%%[*}
				[[ $word != *=* ]] || word=${word%%=*}=
				printf '%s\n' "${word//|/$'\n'}"
				;;
			esac
		done <<<"$kind"
	fi
}

# _granule_offer CUR [BEFORE]: of the lines read, with BEFORE in front, those that go on from CUR
_granule_offer() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		[[ $line && ${2-}$line == "$1"* ]] && COMPREPLY+=("${2-}$line")
	done
}

_granule() {
	local line=${COMP_LINE:0:COMP_POINT} words cur='' prev command table help option breaks tail
	COMPREPLY=()
	# bash has cut the line at : and = as well.
	read -ra words <<<"$line"
	if [[ $line != *[[:blank:]] ]]; then
		cur=${words[-1]}
		unset 'words[-1]'
	fi
	prev=${words[-1]-} command=${words[1]-}
	if [[ ${#words[@]} -eq 1 || $command == help ]]; then
		[[ ${#words[@]} -le 2 ]] || return
		_granule_offer "$cur" < <("${1/#\~/$HOME}" help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')
		return
	fi
	help=$("${1/#\~/$HOME}" help "$command" 2>/dev/null) || return
	table=$(_granule_table "$help")
	option=$(awk -v o="$prev" '$1 == "o" && $2 == o && $3 { print o; exit }' <<<"$table")
	if [[ $option ]]; then
		_granule_offer "$cur" < <(_granule_value "$table" "$option" "$cur")
	elif [[ $cur == --*=* ]]; then
		_granule_offer "$cur" "${cur%%=*}=" < <(_granule_value "$table" "${cur%%=*}" "${cur#*=}")
	elif [[ $cur == -* ]]; then
		_granule_offer "$cur" < <(awk '$1 == "o" { print $2 }' <<<"$table" | sort -u)
	elif [[ $help == usage:*PID* ]]; then
		_granule_offer "$cur" < <(_granule_pids)
	fi
	case ${COMPREPLY[0]-} in
	*[,=]) compopt -o nospace 2>/dev/null ;;
	esac
	# What is completed is what comes behind the last break.
	breaks=${COMP_WORDBREAKS//[^:=]/}
	if [[ $breaks ]]; then
		tail=${cur##*["$breaks"]}
		COMPREPLY=("${COMPREPLY[@]#"${cur%"$tail"}"}")
	fi
}

complete -o bashdefault -o default -F _granule granule
