#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# install.sh install|uninstall PART... - what `make install` puts where, and what `make uninstall` takes away.
# PART: program, library. From the environment, as the Makefile sets it: DESTDIR, which may be empty or
# relative, the absolute directories PREFIX and *dir, VERSION, PROGRAM, LIBRARY.
# Modes are 644 and 755 whatever the umask is; a directory that is there stays as it is.
# shellcheck disable=SC2154
set -eu

here=$(dirname "$0")
umask 022

fail() {
	echo "install: $*" >&2
	exit 1
}

# make_dir DIR: with those above it
make_dir() {
	[ -d "$1" ] || install -d -m 755 "$1"
}

# file MODE SOURCE DIR NAME
file() {
	to=${DESTDIR-}$3
	if [ "$action" = uninstall ]; then
		rm -f "$to/$4"
		return
	fi
	make_dir "$to"
	# Beside it and renamed: a program that runs, or a reader, keeps the old file.
	install -m "$1" "$2" "$to/.$4.new"
	mv -f "$to/.$4.new" "$to/$4"
}

# filled MODE SOURCE DIR NAME: the same, with what stands between @ in the source. A blank in a path is
# escaped for pkg-config.
filled() {
	[ "$action" = uninstall ] || sed -e "s|@version@|$VERSION|" -e "s|@bindir@|$bindir|" -e "s|@sysconfdir@|$sysconfdir|" \
		-e "s|@includedir@|$(blanks "$includedir")|" -e "s|@libdir@|$(blanks "$libdir")|" "$2" >"$tmp"
	file "$1" "$tmp" "$3" "$4"
}

blanks() { printf '%s\n' "$1" | sed 's/ /\\\\ /g'; }

# own DIR: a directory of ours, which goes when it is empty
own() {
	[ "$action" = install ] || [ ! -d "${DESTDIR-}$1" ] || rmdir --ignore-fail-on-non-empty "${DESTDIR-}$1"
}

# headers NAME...: those of iommu/, and those that they include
headers() {
	all="$* "
	more=$(cd "$here/../../iommu" && sed -n 's|^#include "iommu/\(.*\)"|\1|p' "$@" && printf '%s\n' "$@")
	more=$(echo "$more" | sort -u | tr '\n' ' ')
	# shellcheck disable=SC2086 # words
	if [ "$more" = "$all" ]; then echo "$more"; else headers $more; fi
}

# No page links one that is not among them.
pages='coherence dart design devices security sim testing'

program() {
	file 755 "$PROGRAM" "$bindir" granule
	file 644 "$here/../granule.1" "$mandir/man1" granule.1
	file 644 "$here/granule.bash" "$datadir/bash-completion/completions" granule
	filled 644 "$here/granule@.service" "$unitdir" granule@.service
	filled 644 "$here/granule.conf" "$docdir/examples" granule.conf
	# Of each guest its NAME.conf, which is the administrator's.
	[ "$action" = uninstall ] || make_dir "${DESTDIR-}$sysconfdir/granule"
	own "$sysconfdir/granule"
	for name in $pages; do
		file 644 "$here/../$name.md" "$docdir" "$name.md"
	done
}

library() {
	file 644 "$LIBRARY" "$libdir" libgranule-iommu.a
	filled 644 "$here/granule-iommu.pc" "$libdir/pkgconfig" granule-iommu.pc
	for name in $(headers iommu.h); do
		file 644 "$here/../../iommu/$name" "$includedir/granule/iommu" "$name"
	done
	file 644 "$here/../examples/mediator.c" "$docdir/examples" mediator.c
	own "$includedir/granule/iommu"
	own "$includedir/granule"
}

action=$1
shift
for dir in "$bindir" "$libdir" "$includedir" "$datadir" "$mandir" "$docdir" "$unitdir" "$sysconfdir"; do
	case $dir in
	/*) ;;
	*) fail "'$dir' is not an absolute path; PREFIX and the directories are, DESTDIR need not be" ;;
	esac
	case $dir in
	*['|&\@']*) fail "'$dir': not with one of | & \\ @ in it" ;;
	esac
done
case $bindir$sysconfdir in
*[%\"\']*) fail "'$bindir', '$sysconfdir': the systemd unit names them, where % and quotes mean something else" ;;
esac
for part; do
	case $part in
	program) built=$PROGRAM ;;
	*) built=$LIBRARY ;;
	esac
	[ "$action" = uninstall ] || [ -e "$built" ] || fail "$built is not built; run make first"
done
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
for part; do
	$part
done
own "$docdir/examples"
own "$docdir"
