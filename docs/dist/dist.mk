# SPDX-License-Identifier: Apache-2.0
# Installing and packaging.

# ---- the mediator as a library ------------------------------------------------------------------------
# One object, in which only what the public headers declare keeps its name: pool_create() and the like
# are not in an embedder's way.

LIB_PUBLIC := mediator_* endpoint_* gmem_* faultlog_* maptree_* stretch_* dart_* vfio_*

# $(1) flavour
define library
$(B)/$(1)/libgranule-iommu.a: $$(patsubst %.c,$(B)/$(1)/%.o,$$(iommu_SRCS)) docs/dist/dist.mk
	$$(call say,AR,$$@)
	$$(Q)$$($(1)_CC) -r -nostdlib -o $$(@:.a=.o) $$(filter %.o,$$^)
	$$(Q)$$($(1)_OBJCOPY) --strip-debug --remove-section=.comment --wildcard $$(LIB_PUBLIC:%=--keep-global-symbol='%') $$(@:.a=.o)
	$$(Q)rm -f $$@ && $$($(1)_AR) rcsD $$@ $$(@:.a=.o) && rm $$(@:.a=.o)
endef
native_OBJCOPY := objcopy
arm64_OBJCOPY := $(ARM_PREFIX)objcopy
$(foreach f,native arm64,$(eval $(call library,$(f))))

all: $(B)/native/libgranule-iommu.a

# ---- make install --------------------------------------------------------------------------------------
# Installs what `make` has built, and builds nothing: it is often run as root. The library is for
# this machine, the program for arm64.

PREFIX ?= /usr/local
bindir ?= $(PREFIX)/bin
libdir ?= $(PREFIX)/lib
includedir ?= $(PREFIX)/include
datadir ?= $(PREFIX)/share
mandir ?= $(datadir)/man
docdir ?= $(datadir)/doc/granule
unitdir ?= $(PREFIX)/lib/systemd/system
# /etc for what is below /usr; elsewhere beside the rest.
sysconfdir ?= $(if $(filter /usr /usr/local,$(PREFIX)),/etc,$(PREFIX)/etc)

install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export PROGRAM := $(B)/arm64/granule
install uninstall: export LIBRARY := $(B)/native/libgranule-iommu.a
$(foreach v,VERSION bindir libdir includedir datadir mandir docdir unitdir sysconfdir,$(eval install uninstall: export $(v) := $($(v))))

install: ## what make has built, below PREFIX=/usr/local, in DESTDIR
	$(Q)docs/dist/install.sh install program library

uninstall: ## remove what make install has put there
	$(Q)docs/dist/install.sh uninstall program library

.PHONY: install uninstall

# ---- make deb --------------------------------------------------------------------------------------------
# For arm64, program and library. MAINTAINER="Name <mail@address>" is who answers for them.

MAINTAINER ?= The granule authors <granule@packages.invalid>

deb: export VERSION := $(VERSION)
deb: export MAINTAINER := $(MAINTAINER)
deb: export PROGRAM := $(B)/arm64/granule
deb: export LIBRARY := $(B)/arm64/libgranule-iommu.a
deb: export STRIP := $(ARM_PREFIX)strip
deb: $(B)/arm64/granule $(B)/arm64/libgranule-iommu.a ## Debian packages for arm64, in build/deb
	$(Q)docs/dist/deb.sh $(B)/deb

.PHONY: deb

check-dist: all $(B)/arm64/libgranule-iommu.a ## what is installed and packaged: files, library, completion, unit
	$(Q)guest-tests/dist.sh

.PHONY: check-dist
