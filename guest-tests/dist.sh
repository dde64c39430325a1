#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# dist.sh - what is installed and packaged: files, modes, the library through pkg-config alone, completion, the
# systemd unit, Debian packages. Needs what `make` builds. Ends with `N passed, N failed, N skipped`.
# shellcheck disable=SC2016 # for other shells
set -uo pipefail

cd "$(dirname "$(readlink -f "$0")")/.." || exit
tree=$PWD
make=${MAKE:-make}
unset MAKEFLAGS MFLAGS # of a make above: its jobs and its PREFIX
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0 failed=0 skipped=0
version=$(sed -n 's/^VERSION := //p' Makefile)

# claim NAME COMMAND...: COMMAND says what is wrong, or nothing, and ends with 0
claim() {
	local name=$1 said
	shift
	if said=$("$@" 2>&1) && [[ ! $said ]]; then
		passed=$((passed + 1))
	else
		echo "FAIL  $name: $(tail -n 3 <<<"${said:-failed, and said nothing}")"
		failed=$((failed + 1))
	fi
}

skip() {
	echo "skip  $1: $2"
	skipped=$((skipped + 1))
}

# same WANTED GOT: files
same() { diff -U 0 "$1" "$2" | sed '1,3d'; }

quiet_make() { "$make" --no-print-directory -s "$@"; }

# ---- make install ---------------------------------------------------------------------------------------

# What iommu.h needs, and nothing that is not for embedders.
mapfile -t headers < <(gcc -I. -MM -MT x iommu/iommu.h | grep -o 'iommu/[a-z_]*\.h' | sed 's|iommu/||; s|\.h||')
{
	echo "755 bin/granule"
	printf '644 include/granule/iommu/%s.h\n' "${headers[@]}"
	printf '644 lib/%s\n' libgranule-iommu.a pkgconfig/granule-iommu.pc systemd/system/granule@.service
	printf '644 share/%s\n' bash-completion/completions/granule man/man1/granule.1 \
		doc/granule/{coherence,dart,design,devices,security,sim,testing}.md doc/granule/examples/{granule.conf,mediator.c}
} | sort -k 2 >"$dir/files"

files() { (cd "$1" && find . -type f -printf '%m %P\n' | sort -k 2); }

installs() {
	(umask 077 && quiet_make install DESTDIR="$dir/a root") || return
	files "$dir/a root/usr/local" >"$dir/got"
	same "$dir/files" "$dir/got"
	find "$dir/a root" -mindepth 1 -type d ! -perm 755
	configured_in "$dir/a root" /usr/local /etc
}

# configured_in ROOT PREFIX DIR: guests' arguments are in DIR, which is there
configured_in() {
	[[ -d $1$3/granule ]] || echo "there is no $3/granule"
	grep -q -x "EnvironmentFile=$3/granule/%i.conf" "$1$2/lib/systemd/system/granule@.service" ||
		echo "the unit does not read $3/granule"
	grep -q " as $3/granule/NAME.conf\." "$1$2/share/doc/granule/examples/granule.conf" ||
		echo "granule.conf does not belong into $3/granule"
}

again() {
	echo old >"$dir/a root/usr/local/bin/granule"
	chmod 700 "$dir/a root/usr/local/share/man"
	quiet_make install DESTDIR="$dir/a root" || return
	files "$dir/a root/usr/local" >"$dir/got"
	same "$dir/files" "$dir/got"
	cmp build/arm64/granule "$dir/a root/usr/local/bin/granule"
	# What was there is the administrator's.
	[[ $(stat -c %a "$dir/a root/usr/local/share/man") == 700 ]] || echo "the mode of a directory has changed"
}

# Below this directory make writes, and nobody else: relative, as in DESTDIR=root.
relative() {
	mkdir "$dir/make" && cp -a Makefile docs guest-tests iommu "$dir/make" || return
	mkdir "$dir/make/build" && ln -s "$tree"/build/{arm64,native} "$dir/make/build"
	(cd "$dir/make" && quiet_make install DESTDIR=root PREFIX=/opt) || return
	files "$dir/make/root/opt" >"$dir/got"
	same "$dir/files" "$dir/got"
	configured_in "$dir/make/root" /opt /opt/etc
}

uninstalls() {
	local doc="$dir/a root/usr/local/share/doc/granule" conf="$dir/a root/etc/granule/web.conf"
	echo mine | tee "$doc/mine" >"$conf"
	quiet_make uninstall DESTDIR="$dir/a root" || return
	[[ -e $doc/mine && -e $conf ]] || echo "it removes files of others"
	rm "$doc/mine" "$conf"
	quiet_make uninstall DESTDIR="$dir/a root" || return
	find "$dir/a root" -type f -o -name granule
}

# Links of the pages, and pages that the manual names.
links() {
	local doc="$dir/a root/usr/local/share/doc/granule" link
	grep -o '](\([^)#]*\)' "$doc"/*.md | sed 's/.*](//' | grep -v -e '^$' -e '^https*:' | sort -u >"$dir/links"
	sed -n 's|^\.Pa share/doc/granule/\([^ ]*\).*|\1|p' "$doc/../../man/man1/granule.1" >>"$dir/links"
	[[ $(wc -l <"$dir/links") -ge 8 ]] || echo "only $(wc -l <"$dir/links") links"
	while IFS= read -r link; do
		[[ -e $doc/$link ]] || echo "$link is not installed"
	done <"$dir/links"
	! grep -n 'docs/' "$doc/../../man/man1/granule.1"
}

builds_nothing() {
	rm -f "$dir/make/build/arm64"
	if (cd "$dir/make" && quiet_make install DESTDIR=other) >"$dir/out" 2>&1; then
		echo "it installs what is not there"
	fi
	grep -q 'granule is not built; run make first' "$dir/out" || cat "$dir/out"
	[[ ! -e $dir/make/other && ! -e $dir/make/build/arm64 ]] || echo "and makes something"
}

refuses_relative_prefix() {
	! quiet_make install PREFIX=opt >"$dir/out" 2>&1 && grep -q "opt/bin.*not an absolute path" "$dir/out"
}

claim install_puts_each_file_in_its_place installs
claim install_over_an_install again
claim install_below_a_relative_destdir relative
claim install_has_every_page_that_is_linked links
claim install_builds_nothing builds_nothing
claim install_refuses_a_relative_prefix refuses_relative_prefix
claim uninstall_leaves_nothing_but_what_others_put_there uninstalls

# ---- the library ----------------------------------------------------------------------------------------

prefix="$dir/some where"
quiet_make install PREFIX="$prefix" || failed=$((failed + 1))
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"

compiles_alone() {
	local header
	cd "$dir" || return
	for header in "${headers[@]}"; do
		echo "#include <iommu/$header.h>" >alone.c
		echo "typedef int not_empty;" >>alone.c
		eval "gcc -std=c11 -pedantic -Wall -Wextra -Werror $(pkg-config --cflags granule-iommu) -c alone.c"
	done
}

# No header of the tree is in reach.
example() {
	cd "$dir" && cp "$prefix/share/doc/granule/examples/mediator.c" . || return
	eval "gcc -std=c11 -pedantic -Wall -Wextra -Werror -o mediator mediator.c \
		$(pkg-config --cflags --libs granule-iommu)" || return
	./mediator >out || return
	cat >want <<-'END'
		a page of the guest has 4096 bytes, one of the DART 16384
		mapped: 0x10001000 is the guest's 0x40007000
		device reads at 0x10001000: "hello, device"
		device reads at 0x10002000: ""
		guest reads: "hello, guest"
		device reads at 0x10001000: "again"
		unmapped
		device reads at 0x10001000: refused
		the guest is told of a fault of endpoint 1 at 0x10001000
	END
	head -n -1 out >got
	same want got
}

example_leaks_nothing() {
	cd "$dir" && eval "gcc -g -fsanitize=address,undefined -fno-sanitize-recover=all -o mediator-asan mediator.c \
		$(pkg-config --cflags --libs granule-iommu)" && ./mediator-asan >out
}

from_cxx() {
	cd "$dir" || return
	cat >cxx.cc <<-'END'
		#include <iommu/iommu.h>
		#include <vector>
		int main()
		{
			std::vector<unsigned char> ram(4096);
			gmem g = {};
			mediator *m = nullptr;
			mediator_cfg cfg = {};
			cfg.gmem = &g;
			cfg.guest_granule = 3;
			return gmem_add(&g, 0, ram.size(), ram.data()) || !mediator_create(&cfg, &m);
		}
	END
	eval "g++ -std=c++14 -pedantic -Wall -Wextra -Wno-missing-field-initializers -Werror -o cxx cxx.cc \
		$(pkg-config --cflags --libs granule-iommu)" && ./cxx
}

# What the headers declare is there; no other name can meet one of the embedder's.
names() {
	local lib="$prefix/lib/libgranule-iommu.a"
	cd "$dir" || return
	echo '#include <iommu/iommu.h>' >names.c
	eval "gcc -aux-info names.X -c names.c $(pkg-config --cflags granule-iommu)" || return
	sed -n -E 's|^/\* .*/granule/iommu/.*:NC \*/ extern [^(]*[ *]([a-z_0-9]+) \(.*|\1|p' names.X | sort -u >declared
	[[ $(wc -l <declared) -gt 60 ]] || echo "only $(wc -l <declared) functions are declared"
	nm -g --defined-only "$lib" | sed -n 's/.* [A-Z] //p' | sort -u >defined
	comm -23 declared defined | sed 's/$/ is declared, and not there/'
	! grep -v -E '^(mediator|endpoint|gmem|faultlog|maptree|stretch|dart|vfio)_' defined
}

versions() {
	[[ $(pkg-config --modversion granule-iommu) == "$version" ]] || echo "pkg-config has another version"
	[[ $("$dir/granule" version) == "granule $version" ]] || echo "the program has another version"
}

# The command line is parsed here as it is on arm64.
cat >"$dir/granule.c" <<'END'
#include "vmm/cli.h"
int main(int argc, char **argv)
{
	static struct cli_request request;
	cli_parse(argc, argv, &request);
	return request.status;
}
END
gcc -I. -o "$dir/granule" "$dir/granule.c" build/native/{vmm,virtio,iommu}.a -luring -lfdt -lz -lzstd -lseccomp -lpthread ||
	failed=$((failed + 1))

claim headers_compile_alone compiles_alone
claim headers_are_for_cxx_too from_cxx
claim example_maps_a_page_into_a_simulated_dart example
claim example_leaks_nothing example_leaks_nothing
claim library_has_what_headers_declare_and_no_other_name names
claim version_is_one_everywhere versions

# ---- completion -----------------------------------------------------------------------------------------

# completed LINE: what bash would offer behind it, a line each, as readline inserts it
completed() {
	bash -c '. "$1"; COMP_LINE=$2; COMP_POINT=${#2}; _granule "$3"; printf "%s\n" "${COMPREPLY[@]}"' - \
		"$prefix/share/bash-completion/completions/granule" "$1" "$dir/granule" 2>&1
}

# completes LINE WORD...: these and no others
completes() {
	completed "$1" | sort >"$dir/got"
	shift
	printf '%s\n' "$@" | sort >"$dir/want"
	same "$dir/want" "$dir/got"
}

# Every option that getopt_long() knows is offered, and every option offered is in the help.
options_of() { # COMMAND
	sed -n "/^static const struct option $1_options/,/^}/s/.*{\"\([a-z-]*\)\".*/--\1/p" vmm/cli.c | sort >"$dir/want"
	[[ -s $dir/want ]] || echo "vmm/cli.c has no options of $1"
	completed "granule $1 --" | sort >"$dir/got"
	same "$dir/want" "$dir/got"
	while read -r option; do
		"$dir/granule" "$1" --help | grep -q -e "$option" || echo "$option is not in the help"
	done <"$dir/got"
}

# What is typed and what files are called is only text, for TAB and for Enter.
odd_names() {
	local names=('a b' 'a$(touch PWNED)' 'a`touch PWNED`' 'a;touch PWNED' $'a\ntouch PWNED' "a'b" a~)
	local name text typed offered=()
	mkdir -p "$dir/names" && cd "$dir/names" || return
	touch -- "${names[@]}" 'a,b' || return
	mapfile -t offered < <(completed 'granule run --sim nvme,disk=')
	[[ ${#offered[@]} -eq ${#names[@]} ]] || echo "${#offered[@]} names are offered"
	for name in "${offered[@]}"; do
		eval "printf '%s\\0' nvme,disk=$name"
	done | sort -z >"$dir/got"
	printf 'nvme,disk=%s\0' "${names[@]}" | sort -z | cmp - "$dir/got"
	[[ $(completed 'granule run --sim nvme,disk=a\$') == 'a\$\(touch\ PWNED\)' ]] || echo "nothing for what is quoted"
	for text in '$(touch${IFS}PWNED)' '`touch${IFS}PWNED`' '|wPWNED;'; do
		for typed in "run --vfio $text," "run --vfio=$text," "run --sim nvme,disk=$text" "run --net tap=$text" \
			"run --$text=" "run --$text" "stat $text" "$text" "$text run" "help $text"; do
			completed "granule $typed" >/dev/null
		done
	done
	rm -- "${names[@]}" 'a,b'
	find . -mindepth 1
}

# Every key that a parser knows, of --vfio or --sim.
keys_of_vfio() {
	completed 'granule run --vfio 01:00.0,' | sed 's/.*,//' >"$dir/got"
	"$dir/granule" run -k x --vfio 01:00.0,nonsense=1 2>&1 | sed 's/.*known keys: //; s/, /=\n/g; s/$/=/' >"$dir/want"
	[[ $(wc -l <"$dir/want") -ge 5 ]] || cat "$dir/want"
	same <(sort "$dir/want") <(sort "$dir/got")
}

pids() {
	export XDG_RUNTIME_DIR=$dir
	: >"$dir/granule-$$.sock"
	: >"$dir/granule-4000000.sock" # of one that was killed
	completed "granule stat " >"$dir/got"
	grep -q -x $$ "$dir/got" || echo "$$ is not there"
	! grep -x 4000000 "$dir/got"
}

# shellcheck disable=SC2046 # words
claim completion_offers_commands completes 'granule ' $(sed -n 's/^\t{"\([a-z]*\)", help_.*/\1/p' vmm/cli.c)
claim completion_offers_half_a_command completes 'granule ru' run
claim completion_offers_the_options_of_run options_of run
claim completion_offers_the_options_of_stat options_of stat
claim completion_offers_the_options_of_inspect options_of inspect
claim completion_offers_the_options_of_devices options_of devices
claim completion_offers_the_keys_of_vfio keys_of_vfio
claim completion_offers_values_of_a_key completes 'granule run --vfio 0000:01:00.0,sync=' full none rings
claim completion_offers_values_behind_an_equals_sign completes 'granule run --iommu=' on off
claim completion_offers_simulated_devices completes 'granule run -k x --sim ' nvme,disk= edu
claim completion_offers_values_of_sim completes 'granule run --sim nvme,dart=t8110,owner=' host guest
claim completion_offers_the_pids_of_guests pids
claim completion_executes_nothing_and_quotes_names odd_names
functions=(/sys/bus/pci/devices/0000:*)
if [[ -e ${functions[0]} ]]; then
	claim completion_offers_pci_addresses completes 'granule run --vfio=0000:' "${functions[@]#*0000:}"
else
	skip completion_offers_pci_addresses "there are no PCI functions"
fi

# ---- the systemd unit -----------------------------------------------------------------------------------

# Also with what it proposes.
unit_verifies() {
	cp "$prefix/lib/systemd/system/granule@.service" "$dir/granule@test.service"
	sed 's/^#\([A-Za-z]*=\)/\1/' "$dir/granule@test.service" >"$dir/granule@more.service"
	systemd-analyze verify --man=no "$dir/granule@test.service" "$dir/granule@more.service"
}

# The arguments of ExecStart, with those of the example, as systemd makes words of them.
unit_arguments() {
	local args
	# shellcheck disable=SC1091,SC2153
	args=$(. "$prefix/share/doc/granule/examples/granule.conf" && echo "$ARGS")
	[[ $args == -k* ]] || echo "granule.conf sets no ARGS"
	sed -n 's/^ExecStart=//p' "$prefix/lib/systemd/system/granule@.service" >"$dir/exec"
	[[ $(cat "$dir/exec") == "\"$prefix/bin/granule\" run \$ARGS" ]] || cat "$dir/exec"
	eval "'$dir/granule' run $args" || echo "status $?"
	# The other one, in a comment.
	eval "'$dir/granule' run $(sed -n "s/^#ARGS='\(.*\)'/\1/p" "$prefix/share/doc/granule/examples/granule.conf")" ||
		echo "status $? of the example with a device"
}

# What granule ends with when the guest asks for a reset is what systemd starts again for.
unit_restarts() {
	local reset
	reset=$(sed -n 's/.*EXIT_RESET = \([0-9]*\),.*/\1/p' vmm/cli.h)
	grep -q -x "RestartForceExitStatus=$reset" "docs/dist/granule@.service" || echo "not for status '$reset'"
	# And for nothing else: a sandbox that was left, say, is for the administrator to see.
	grep -q -x Restart=no "docs/dist/granule@.service" || echo "for more than that"
}

if command -v systemd-analyze >/dev/null; then
	claim unit_is_accepted_by_systemd unit_verifies
else
	skip unit_is_accepted_by_systemd "there is no systemd-analyze"
fi
claim unit_arguments_are_granules unit_arguments
claim unit_starts_a_guest_that_reboots_again unit_restarts

# ---- the manual -----------------------------------------------------------------------------------------

manual() { { LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z docs/granule.1 >/dev/null; } 2>&1; }
if command -v man >/dev/null && command -v groff >/dev/null; then
	claim manual_is_formatted_without_a_warning manual
else
	skip manual_is_formatted_without_a_warning "there is no man or groff"
fi

# ---- Debian packages ------------------------------------------------------------------------------------

# Of a release without git, or one that lies in a repository of others.
packages_need_a_date() {
	unset SOURCE_DATE_EPOCH
	mkdir -p "$dir/foreign/release" && cp -a docs iommu "$dir/foreign/release" || return
	export VERSION=$version PROGRAM=$tree/build/arm64/granule LIBRARY=$tree/build/arm64/libgranule-iommu.a \
		STRIP=true MAINTAINER=nobody
	for repository in no yes; do
		if [[ $repository == yes ]]; then
			git -C "$dir/foreign" init -q && git -C "$dir/foreign" -c user.name=a -c user.email=a@b.invalid \
				commit -q --allow-empty -m a || return
		fi
		"$dir/foreign/release/docs/dist/deb.sh" "$dir/dateless" >"$dir/out" 2>&1 && echo "it needs none"
		grep -q 'set SOURCE_DATE_EPOCH' "$dir/out" || echo "it says nothing of a date"
		sed 1d "$dir/out"
	done
	[[ ! -e $dir/dateless ]] || echo "it makes something"
}

packages_build() {
	[[ -e .git ]] || export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000}
	quiet_make deb >/dev/null || return
	cp -r build/deb "$dir/deb"
	(umask 077 && quiet_make deb >/dev/null) || return
	for package in granule libgranule-iommu-dev; do
		cmp "$dir/deb/${package}_${version}_arm64.deb" "build/deb/${package}_${version}_arm64.deb"
	done
}

contents() {
	local package=$1 root=$dir/$1
	dpkg-deb -R "build/deb/${package}_${version}_arm64.deb" "$root" || return
	dpkg-deb -c "build/deb/${package}_${version}_arm64.deb" | awk '$2 != "root/root" { print }
		$1 !~ /^(drwxr-xr-x|-rw-r--r--)$/ && $6 != "./usr/bin/granule" { print }
		$6 == "./usr/bin/granule" && $1 != "-rwxr-xr-x" { print }'
	(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | sort) >"$dir/got"
	sort >"$dir/want"
	same "$dir/want" "$dir/got"
	(cd "$root" && md5sum --quiet -c DEBIAN/md5sums)
	[[ $(wc -l <"$root/DEBIAN/md5sums") -eq $(wc -l <"$dir/got") ]] || echo "md5sums is not complete"
	[[ $(dpkg-deb -f "build/deb/${package}_${version}_arm64.deb" Version) == "$version" ]] || echo "another version"
	(cd "$root/DEBIAN" && find . -type f ! -name control ! -name md5sums -printf '%m %P\n' | sort) >"$dir/got"
	printf '%s' "${2-}" | same - "$dir/got"
}

# script NAME ACTION OTHER: only at ACTION, and only where systemd runs, it reloads the units; it never fails
script() {
	local action
	mkdir -p "$dir/bin" "$dir/run"
	printf '#!/bin/sh\necho "$*" >>"%s/reloaded"\nexit 1\n' "$dir" >"$dir/bin/systemctl"
	chmod 755 "$dir/bin/systemctl"
	sed "s|/run/systemd/system|$dir/run/system|" "$dir/granule/DEBIAN/$1" >"$dir/script"
	for action in "$2" "$3" "$2"; do
		rm -f "$dir/reloaded"
		PATH=$dir/bin:$PATH sh "$dir/script" "$action" || echo "$1 $action fails"
		if [[ -d $dir/run/system && $action == "$2" ]]; then
			[[ $(cat "$dir/reloaded") == '--system daemon-reload' ]] || echo "$1 $action reloads nothing"
		else
			[[ ! -e $dir/reloaded ]] || echo "$1 $action calls systemctl"
		fi
		[[ $action == "$2" ]] || continue
		mkdir -p "$dir/run/system"
	done
	rmdir "$dir/run/system"
}

program_package() {
	contents granule $'755 postinst\n755 postrm\n' <<-END
		usr/bin/granule
		usr/lib/systemd/system/granule@.service
		usr/share/bash-completion/completions/granule
		usr/share/doc/granule/changelog.gz
		usr/share/doc/granule/coherence.md
		usr/share/doc/granule/copyright
		usr/share/doc/granule/dart.md
		usr/share/doc/granule/design.md
		usr/share/doc/granule/devices.md
		usr/share/doc/granule/examples/granule.conf
		usr/share/doc/granule/security.md
		usr/share/doc/granule/sim.md
		usr/share/doc/granule/testing.md
		usr/share/lintian/overrides/granule
		usr/share/man/man1/granule.1.gz
	END
	configured_in "$dir/granule" /usr /etc
	script postinst configure abort-upgrade
	script postrm remove upgrade
	readelf -h "$dir/granule/usr/bin/granule" | grep -q AArch64 || echo "usr/bin/granule is not for arm64"
	! strings "$dir/granule/usr/bin/granule" | grep -F "$tree"
}

library_package() {
	{
		printf 'usr/include/granule/iommu/%s.h\n' "${headers[@]}"
		printf 'usr/share/doc/libgranule-iommu-dev/%s\n' changelog.gz copyright examples/mediator.c
		printf 'usr/lib/aarch64-linux-gnu/%s\n' libgranule-iommu.a pkgconfig/granule-iommu.pc
	} | contents libgranule-iommu-dev
	# With the cross compiler, where it is not at home.
	local root=$dir/libgranule-iommu-dev cc=gcc
	[[ $(uname -m) == aarch64 ]] || cc=aarch64-linux-gnu-gcc
	# shellcheck disable=SC2046
	$cc -o "$dir/mediator-arm64" docs/examples/mediator.c $(PKG_CONFIG_PATH='' PKG_CONFIG_SYSROOT_DIR=$root \
		PKG_CONFIG_LIBDIR=$root/usr/lib/aarch64-linux-gnu/pkgconfig pkg-config --cflags --libs granule-iommu)
}

if command -v dpkg-deb >/dev/null; then
	claim packages_need_a_date_of_their_own packages_need_a_date
	claim packages_are_the_same_bytes_each_time packages_build
	mv "$dir/granule" "$dir/cli"
	claim package_has_the_program program_package
	claim package_has_the_library library_package
	if command -v lintian >/dev/null; then
		claim lintian_says_nothing lintian --allow-root -L '>=info' build/deb/*_"${version}"_arm64.deb
	else
		skip lintian_says_nothing "lintian is not installed"
	fi
else
	skip packages "there is no dpkg-deb"
fi

echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 ]]
