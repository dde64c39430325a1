#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# deb.sh OUT - the Debian packages granule and libgranule-iommu-dev for arm64, of what make has built, in OUT. From the
# environment, as dist.mk sets it: VERSION, PROGRAM, LIBRARY, STRIP; MAINTAINER; SOURCE_DATE_EPOCH, without which it
# is the time of the last commit, if this tree is a repository. The same inputs give the same bytes.
# shellcheck disable=SC2154
set -eu

here=$(dirname "$0")
out=$1
# A repository that this tree only lies in has dates of its own.
if [ -z "${SOURCE_DATE_EPOCH-}" ] &&
	[ "$(git -C "$here" rev-parse --show-toplevel 2>/dev/null)" = "$(readlink -f "$here/../..")" ]; then
	SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct 2>/dev/null) || :
fi
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
	echo "deb: set SOURCE_DATE_EPOCH, the date of the packages: there is no commit to take it from" >&2
	exit 1
fi
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# What the packages have of install.sh, in Debian's places.
PREFIX=/usr
bindir=$PREFIX/bin libdir=$PREFIX/lib/aarch64-linux-gnu includedir=$PREFIX/include datadir=$PREFIX/share
mandir=$datadir/man unitdir=$PREFIX/lib/systemd/system sysconfdir=/etc
export VERSION PROGRAM LIBRARY bindir libdir includedir datadir mandir unitdir sysconfdir

# compressed FILE: as FILE.gz, without name and time
compressed() {
	gzip -9n "$1"
	chmod 644 "$1.gz"
}

# reloads SCRIPT ACTION: a maintainer script that lets systemd see the unit's files as they are after ACTION
reloads() {
	cat >"$1" <<-END
		#!/bin/sh
		set -e
		if [ "\$1" = $2 ] && [ -d /run/systemd/system ]; then
		    systemctl --system daemon-reload >/dev/null || true
		fi
	END
	chmod 755 "$1"
}

# package NAME PART: reads the rest of its control file
package() {
	name=$1 root=$tmp/$1 doc=$tmp/$1/usr/share/doc/$1
	docdir=/usr/share/doc/$name DESTDIR=$root "$here/install.sh" install "$2"
	install -m 644 "$here/copyright" "$doc/copyright"
	cat >"$doc/changelog" <<-END
		granule ($VERSION) unstable; urgency=medium

		  * Release $VERSION.

		 -- $MAINTAINER  $(date -R -d "@$SOURCE_DATE_EPOCH")
	END
	compressed "$doc/changelog"
	if [ "$2" = program ]; then
		# The build's id is of the debugging information, which names the directory it was built in.
		"$STRIP" --strip-all --remove-section=.comment --remove-section=.note.gnu.build-id "$root$bindir/granule"
		compressed "$root$mandir/man1/granule.1"
		install -d -m 755 "$root$datadir/lintian/overrides"
		# It runs with no more privilege than its user has, on hosts of any age.
		printf '%s: %s [usr/bin/granule]\n' "$name" statically-linked-binary "$name" 'embedded-library zlib' \
			>"$root$datadir/lintian/overrides/$name"
	fi
	install -d -m 755 "$root/DEBIAN"
	if [ "$2" = program ]; then
		reloads "$root/DEBIAN/postinst" configure
		reloads "$root/DEBIAN/postrm" remove
	fi
	(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
	{
		cat <<-END
			Package: $name
			Source: granule
			Version: $VERSION
			Architecture: arm64
			Maintainer: $MAINTAINER
			Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
			Priority: optional
		END
		cat
	} >"$root/DEBIAN/control"
	find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	mkdir -p "$out"
	dpkg-deb --root-owner-group -Zxz --build "$root" "$out/${name}_${VERSION}_arm64.deb"
}

package granule program <<END
Section: admin
Recommends: iproute2
Suggests: bash-completion
Description: run 4 KiB-page Linux guests with devices on 16 KiB-page hosts
 granule is a small virtual machine monitor for arm64 hosts with KVM whose
 kernel and IOMMU work in pages of 16 KiB, such as Apple Silicon under Linux.
 It gives guests with pages of 4 KiB PCI functions of the host, behind a
 virtio-iommu with pages of 4 KiB, and keeps the host's IOMMU in step with it.
 .
 The program is linked statically.
END
package libgranule-iommu-dev library <<END
Section: libdevel
Recommends: libc6-dev, pkgconf | pkg-config
Description: mediate 4 KiB guest pages onto 16 KiB IOMMUs (static library)
 The mediator of granule, for other hypervisors: domains of a guest whose pages
 are smaller than those of the host's IOMMU, kept in step with the IOMMU by
 direct mappings where pages fit, and by coherent bounce pages where not. It
 knows neither KVM nor virtio, and has a driver and a simulation of Apple's
 DART.
 .
 This package has the static library, its headers, and an example.
END
