# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# debs - Debian arm64 packages for the lab, without touching the machine's own apt.
#
# Sourced by lab and sysroot. The caller sets `me` (its name, for messages) and LAB_BUILD
# (default: build/ at the top of the tree). Everything lives below $LAB_BUILD:
#
#   lab/apt/SUITE/          apt's configuration, state, index and archives for one Debian suite
#   lab/root/SUITE/NAME     symlink to the unpacked package NAME (a metapackage: what it stands for)
#                           or NAME:ARCH
#   lab/sets/KEY/           tree.sqfs: a set of packages with all they depend on
#
# What is there is never fetched again, so a second run needs no network. A shared directory is
# made under a temporary name, under a lock, and renamed: a reader sees all of it or nothing.

debs_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_BUILD=${LAB_BUILD:-$(cd "$debs_here/../.." && pwd)/build}
mkdir -p "$LAB_BUILD/lab" || exit 125
LAB_BUILD=$(cd "$LAB_BUILD" && pwd)
LAB=$LAB_BUILD/lab

say() { printf '%s: %s\n' "${me:-lab}" "$*" >&2; }
# The lab itself cannot go on: one line, status 125.
fail() { say "$*"; exit 125; }
# The caller asked for something that cannot be: one line, status 2.
misuse() { say "$*"; exit 2; }

# need COMMAND PACKAGE: stop unless COMMAND is there.
need() {
	command -v "$1" >/dev/null || fail "$1 is missing: apt-get install $2"
}

# locked NAME FUNCTION [ARG]...: run it while holding the lock NAME (in a subshell).
locked() (
	name=$1
	shift
	exec {fd}>"$LAB/$name.lock"
	flock "$fd"
	# Whatever the function starts must not keep the lock when this shell dies.
	"$@" {fd}>&-
)

# The base URI of the Debian mirror this machine already uses; LAB_MIRROR overrides it.
# shellcheck disable=SC2016 # $(REPO_URI) is apt's, not the shell's
debs_mirror() {
	local uri origin first=
	if [[ ${LAB_MIRROR:-} ]]; then
		echo "$LAB_MIRROR"
		return
	fi
	while read -r uri origin; do
		uri=${uri%/}
		[[ $uri == */debian ]] || continue
		first=${first:-$uri}
		[[ $origin == Debian ]] && break
		uri=
	done < <(apt-get indextargets --no-release-info --format '$(REPO_URI) -' \
			'Created-By: Packages' 2>/dev/null
		apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages')
	uri=${uri:-$first}
	[[ $uri ]] || fail "no Debian mirror in this machine's apt sources:" \
		"set LAB_MIRROR to the base URI of one"
	echo "$uri"
}

# This machine's architecture.
debs_arch() { dpkg --print-architecture; }

# Write apt's configuration for a suite. The machine's own (proxies, time-outs) is read first. Of the
# suite whose kernel modules are built for, the build tools are fetched too: as NAME:ARCH of this machine.
debs_configure() {
	local suite=$1 dir=$LAB/apt/$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
	local arches=arm64
	[[ -e $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"
	mirror=$(debs_mirror) || exit
	[[ $suite != *-backports || $(debs_arch) == arm64 ]] || arches+=,$(debs_arch)
	mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,log}
	: >"$dir/status"
	cat >"$dir/sources.list" <<-END
		deb [arch=$arches target=Packages signed-by=$keyring] $mirror $suite main
	END
	cat >"$dir/apt.conf" <<-END
		Dir::State "$dir/state";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir/cache";
		Dir::Cache::pkgcache "pkgcache.bin";
		Dir::Cache::srcpkgcache "srcpkgcache.bin";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::Log "$dir/log";
		#clear APT::Architectures;
		#clear APT::Update;
		#clear DPkg;
		APT::Architecture "arm64";
		APT::Architectures { "${arches//,/\"; \"}"; };
		APT::Sandbox::User "";
		APT::Install-Recommends "false";
		APT::Install-Suggests "false";
		Acquire::Retries "3";
		Acquire::Languages "none";
	END
}

# debs_apt SUITE TOOL [ARG]...: apt-get or apt-cache, on the suite's own state.
debs_apt() {
	local suite=$1 tool=$2
	shift 2
	"$tool" -q -c "$LAB/apt/$suite/apt.conf" "$@"
}

# Fetch the suite's index unless it is there. Lock held.
debs_index() {
	local suite=$1 dir=$LAB/apt/$1
	debs_configure "$suite"
	[[ -e $dir/fresh ]] && return
	say "fetching the package index of $suite"
	debs_apt "$suite" apt-get -o APT::Update::Error-Mode=any update >"$dir/log/update" 2>&1 ||
		fail "apt-get update failed for $suite: see $dir/log/update"
	: >"$dir/fresh"
}

# The image package a kernel metapackage stands for; any other name is its own.
debs_resolve() {
	local suite=$1 name=$2 real=
	if [[ $name == linux-image-* ]]; then
		real=$(debs_apt "$suite" apt-cache depends --important "$name" 2>/dev/null |
			sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1)
	fi
	echo "${real:-$name}"
}

# unpack_deb FILE DIR: into a tree that may hold /lib -> usr/lib and its like.
unpack_deb() {
	dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --no-same-owner -C "$2"
}

# debs_download SUITE NAME DIR: fetch the package into DIR. Lock held.
debs_download() {
	local suite=$1 name=$2 dir=$3
	say "fetching $name"
	(cd "$dir" && debs_apt "$suite" apt-get download "$name") >"$dir/log" 2>&1 ||
		fail "cannot fetch $name from $suite: $(grep -m 1 '^E:' "$dir/log"); see $dir/log"
}

# Lock held.
debs_unpack_locked() {
	local suite=$1 name real deb tmp dest
	shift
	[[ ! ${LAB_UPDATE:-} ]] || rm -f "$LAB/apt/$suite/fresh"
	for name in "$@"; do
		[[ -e $LAB/root/$suite/$name/. && ! ${LAB_UPDATE:-} ]] && continue
		debs_index "$suite"
		real=$(debs_resolve "$suite" "$name")
		tmp=$(mktemp -d "$LAB/tmp.XXXXXX")
		debs_download "$suite" "$real" "$tmp"
		deb=$(echo "$tmp"/*.deb)
		dest=$LAB/root/$suite/$(basename "$deb" .deb)
		if [[ ! -d $dest ]]; then
			mkdir -p "$tmp/tree" "$LAB/root/$suite"
			unpack_deb "$deb" "$tmp/tree" || fail "cannot unpack $deb"
			mv "$tmp/tree" "$dest"
		fi
		ln -sfn "$(basename "$dest")" "$tmp/link"
		mv -T "$tmp/link" "$LAB/root/$suite/$name"
		rm -rf "$tmp"
	done
}

# debs_unpack SUITE NAME...: have each package unpacked at $LAB/root/$suite/NAME.
debs_unpack() {
	local suite=$1 name missing=
	for name in "${@:2}"; do
		[[ -e $LAB/root/$suite/$name/. ]] || missing=1
	done
	[[ $missing || ${LAB_UPDATE:-} ]] || return 0
	need dpkg-deb dpkg
	need apt-get apt
	locked debs debs_unpack_locked "$@" || exit
}

# Lock held.
debs_set_locked() {
	local suite=$1 key=$2 tmp deb
	shift 2
	[[ -e $LAB/sets/$key/tree.sqfs ]] && return
	debs_index "$suite"
	tmp=$(mktemp -d "$LAB/tmp.XXXXXX")
	say "fetching $* and what they depend on"
	# An archive directory of its own: afterwards it holds this set and nothing else.
	mkdir -p "$tmp/archives/partial"
	if ! debs_apt "$suite" apt-get -y --download-only -o Dir::Cache::archives="$tmp/archives" \
		install "$@" >"$tmp/log" 2>&1; then
		fail "cannot fetch $*: $(grep -m 1 '^E:' "$tmp/log"); see $tmp/log"
	fi
	mkdir -p "$tmp/set/tree/usr"/{bin,sbin,lib} "$LAB/sets"
	ln -s usr/bin usr/sbin usr/lib "$tmp/set/tree"
	for deb in "$tmp/archives"/*.deb; do
		unpack_deb "$deb" "$tmp/set/tree" || fail "cannot unpack $deb"
		basename "$deb"
	done >"$tmp/set/packages"
	# Not compressed: the lab host would decompress in emulation.
	mksquashfs "$tmp/set/tree" "$tmp/set/tree.sqfs" -all-root -no-progress -quiet \
		-noI -noD -noF -noX >"$tmp/log" 2>&1 || fail "mksquashfs failed: see $tmp/log"
	rm -rf "$tmp/set/tree"
	rm -rf "${LAB:?}/sets/$key"
	mv "$tmp/set" "$LAB/sets/$key"
	rm -rf "$tmp"
}

# debs_set SUITE NAME...: have the packages and all they depend on in one squashfs image; its path.
debs_set() {
	local suite=$1 key names
	shift
	names=$(printf '%s\n' "$@" | sort -u)
	key=$suite-$(sha256sum <<<"$names" | cut -c 1-16)
	if [[ ! -e $LAB/sets/$key/tree.sqfs ]]; then
		need mksquashfs squashfs-tools
		# shellcheck disable=SC2086 # one argument per package
		locked debs debs_set_locked "$suite" "$key" $names || exit
	fi
	echo "$LAB/sets/$key/tree.sqfs"
}
