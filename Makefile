# SPDX-License-Identifier: Apache-2.0
# One Makefile: `make help` lists what it can do. Output goes to build/; V=1 shows the commands.

VERSION := 0.1.0

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

B := build
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)')

HOST_ARCH := $(shell uname -m)
ifeq ($(HOST_ARCH),aarch64)
ARM_PREFIX :=
ARM_SYSROOT :=
else
ARM_PREFIX := aarch64-linux-gnu-
ARM_SYSROOT := $(B)/sysroot-arm64
endif

# ---- sources: one noun per file, found by folder ---------------------------------------------------

LAYERS := iommu virtio vmm
# Only these say KVM_ and only these need an arm64 <asm/kvm.h>; the rest of vmm/ is tested natively.
VMM_KVM := vmm/check.c vmm/gic.c vmm/main.c vmm/memory.c vmm/vcpu.c vmm/vm.c
iommu_SRCS := $(sort $(wildcard iommu/*.c))
virtio_SRCS := $(sort $(wildcard virtio/*.c))
vmm_SRCS := $(sort $(filter-out $(VMM_KVM),$(wildcard vmm/*.c)))
vmm_KVM_SRCS := $(sort $(wildcard $(VMM_KVM)))
# An archive's tests link that archive and those below it, nothing else.
iommu_BELOW := iommu
virtio_BELOW := virtio iommu
vmm_BELOW := vmm virtio iommu

# ---- flags ----------------------------------------------------------------------------------------

CSTD := -std=gnu11
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
CPPFLAGS_ALL := -I. -D_GNU_SOURCE
CFLAGS ?= -O2 -g
comma := ,
LIBS := -luring -lfdt -lz -lzstd -lseccomp -lpthread

native_CC := gcc
native_AR := gcc-ar
native_CFLAGS := $(CFLAGS)
native_LDFLAGS :=
asan_CC := gcc
asan_AR := gcc-ar
asan_CFLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
asan_LDFLAGS := -fsanitize=address,undefined
tsan_CC := gcc
tsan_AR := gcc-ar
# Fences are not understood: a false alarm would say so.
tsan_CFLAGS := -O1 -g -fsanitize=thread -fno-omit-frame-pointer -Wno-tsan
tsan_LDFLAGS := -fsanitize=thread
arm64_CC := $(ARM_PREFIX)gcc
arm64_AR := $(ARM_PREFIX)gcc-ar
arm64_CFLAGS := $(CFLAGS) $(if $(ARM_SYSROOT),-isystem $(ARM_SYSROOT)/usr/include)
arm64_LDFLAGS := -static $(if $(ARM_SYSROOT),-L$(ARM_SYSROOT)/usr/lib/aarch64-linux-gnu)
# cmocka has no static library: its package comes along in the lab.
arm64_TEST_LDFLAGS := $(if $(ARM_SYSROOT),-L$(ARM_SYSROOT)/usr/lib/aarch64-linux-gnu) -Wl,--as-needed
arm64_DEPS := $(if $(ARM_SYSROOT),$(ARM_SYSROOT)/.stamp)
# granule alone, for attacks in the lab. The sanitizers' libraries and libc are shared and come along there.
arm64-asan_CC := $(arm64_CC)
arm64-asan_AR := $(arm64_AR)
arm64-asan_CFLAGS := $(asan_CFLAGS) $(if $(ARM_SYSROOT),-isystem $(ARM_SYSROOT)/usr/include)
arm64-asan_LDFLAGS := $(asan_LDFLAGS) $(if $(ARM_SYSROOT),-L$(ARM_SYSROOT)/usr/lib/aarch64-linux-gnu)
arm64-asan_DEPS := $(arm64_DEPS)
# For the fuzzers: gcc has no libFuzzer.
clang_CC := clang
clang_AR := gcc-ar
clang_CFLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
  -Wno-bitwise-instead-of-logical
clang_LDFLAGS := -fsanitize=fuzzer,address,undefined
clang_DEPS := $(B)/.deps-clang
# The same without sanitizers, whose checks would count as branches.
cov_CC := clang
cov_AR := gcc-ar
cov_CFLAGS := -O1 -g -fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping -Wno-bitwise-instead-of-logical
cov_LDFLAGS := -fsanitize=fuzzer -fprofile-instr-generate
cov_DEPS := $(B)/.deps-cov

FLAVOURS := native asan tsan arm64 arm64-asan clang cov

# ---- what the machine must have -------------------------------------------------------------------

DEPS_BUILD := gcc libc6-dev libcmocka-dev liburing-dev libfdt-dev libseccomp-dev zlib1g-dev libzstd-dev libxml2-utils python3
DEPS_CROSS := $(if $(ARM_PREFIX),gcc-aarch64-linux-gnu libc6-dev-arm64-cross binutils-aarch64-linux-gnu)
DEPS_LAB := qemu-system-arm ipxe-qemu cpio kmod xz-utils squashfs-tools debian-archive-keyring bsdutils procps
DEPS_PROOFS := spin
# Only `make bench`: GLib's tree is a yardstick there.
DEPS_BENCH := libglib2.0-dev pkg-config
DEPS_DIST := g++ pkg-config
DEPS := $(DEPS_BUILD) $(DEPS_CROSS) $(DEPS_LAB) $(DEPS_PROOFS) $(DEPS_DIST)

$(B)/.deps: Makefile
	@mkdir -p $(B)
	$(Q)guest-tests/deps.sh $(DEPS)
	@touch $@

# libFuzzer and the sanitizers come in a package of the compiler's version.
$(B)/.deps-clang: $(B)/.deps
	$(Q)guest-tests/deps.sh clang
	$(Q)guest-tests/deps.sh libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev
	@touch $@

$(B)/.deps-cov: $(B)/.deps-clang
	$(Q)guest-tests/deps.sh llvm
	@touch $@

ifneq ($(ARM_SYSROOT),)
$(ARM_SYSROOT)/.stamp: $(B)/.deps guest-tests/lab/sysroot
	$(call say,SYSROOT,$(ARM_SYSROOT))
	$(Q)guest-tests/lab/sysroot
	@touch $@
endif

# ---- rules per flavour ----------------------------------------------------------------------------

# $(1) flavour
define flavour
$(B)/$(1)/%.o: %.c $(B)/.deps $($(1)_DEPS)
	@mkdir -p $$(dir $$@)
	$$(call say,CC,$$@)
	$$(Q)$$($(1)_CC) $$(CSTD) $$(WARN) $$(CPPFLAGS_ALL) $$($(1)_CFLAGS) -MMD -MP -c -o $$@ $$<
$(foreach l,$(LAYERS),$(call archive,$(1),$(l)))
endef

# $(1) flavour, $(2) layer
define archive

$(B)/$(1)/$(2).a: $$(patsubst %.c,$(B)/$(1)/%.o,$$($(2)_SRCS))
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$($(1)_AR) rcs $$@ $$^
-include $$(patsubst %.c,$(B)/$(1)/%.d,$$($(2)_SRCS))
endef

$(foreach f,$(FLAVOURS),$(eval $(call flavour,$(f))))

# $(1) flavour, $(2) libraries
define program
$(B)/$(1)/granule: $(patsubst %.c,$(B)/$(1)/%.o,$(vmm_KVM_SRCS)) $(foreach l,$(vmm_BELOW),$(B)/$(1)/$(l).a)
	$$(call say,LINK,$$@)
	$$(Q)$$($(1)_CC) $$($(1)_CFLAGS) $$($(1)_LDFLAGS) -o $$@ $$^ $(2)
-include $(patsubst %.c,$(B)/$(1)/%.d,$(vmm_KVM_SRCS))
endef

$(eval $(call program,arm64,$(LIBS)))
# Only what the sanitizers come with is shared.
$(eval $(call program,arm64-asan,-Wl$(comma)-Bstatic $(filter-out -lpthread,$(LIBS)) -Wl$(comma)-Bdynamic -lpthread))

# The version is in here, and in nothing else that is compiled.
$(B)/%/vmm/cli.o: CPPFLAGS_ALL += -DVERSION='"$(VERSION)"'

# ---- unit tests -----------------------------------------------------------------------------------

THREADED := test_coherence test_dart* test_fair test_faultlog test_hold test_mediator* test_oracle* test_poller test_ring_order test_sim test_sim_* test_statsock test_sync test_trace test_virtio_ring

# Calls that test_failnth fails.
WRAPS_test_failnth := $(addprefix -Xlinker --wrap=,malloc calloc realloc aligned_alloc eventfd timerfd_create socket \
  signalfd mmap pthread_create fstat open fcntl)

# Where test_sandbox has a filter spoilt.
WRAPS_test_sandbox := -Xlinker --wrap=pread

# What test_vfio's kernel is and can do.
WRAPS_test_vfio := $(addprefix -Xlinker --wrap=,uname madvise)
WRAPS_test_vfio_pci := $(addprefix -Xlinker --wrap=,vfio_memlock_check)
# Where test_pci_front has a device unplugged.
WRAPS_test_pci_front := $(addprefix -Xlinker --wrap=,trace_begin pthread_rwlock_rdlock pthread_rwlock_wrlock)

# $(1) flavour, $(2) layer, $(3) test_<noun>
define unit_test
$(B)/$(1)/$(2)/tests/$(3): $(B)/$(1)/$(2)/tests/$(3).o $$(foreach l,$$($(2)_BELOW),$(B)/$(1)/$$(l).a)
	$$(call say,LINK,$$@)
	$$(Q)$$($(1)_CC) $$($(1)_CFLAGS) $$(or $$($(1)_TEST_LDFLAGS),$$($(1)_LDFLAGS)) $$(WRAPS_$(3)) -o $$@ $$^ $$(LIBS) -lcmocka
$(1)_TESTS += $(B)/$(1)/$(2)/tests/$(3)
-include $(B)/$(1)/$(2)/tests/$(3).d
endef

$(foreach f,native asan,$(foreach l,$(LAYERS),$(foreach t,$(sort $(basename $(notdir $(wildcard $(l)/tests/test_*.c)))),\
  $(eval $(call unit_test,$(f),$(l),$(t))))))
$(foreach t,$(sort $(basename $(notdir $(wildcard iommu/tests/test_*.c)))),$(eval $(call unit_test,arm64,iommu,$(t))))
# Those that have threads.
$(foreach l,iommu vmm,$(foreach t,$(sort $(basename $(notdir $(wildcard $(addprefix $(l)/tests/,$(addsuffix .c,$(THREADED))))))),\
  $(eval $(call unit_test,tsan,$(l),$(t)))))

check: $(native_TESTS) ## unit tests, native
	$(Q)guest-tests/unit.sh $(native_TESTS)

check-asan: $(asan_TESTS) ## unit tests under ASan and UBSan
	$(Q)guest-tests/unit.sh $(asan_TESTS)

# Without ASLR where that is allowed: TSan has fixed ideas of what lies where. OPS: an oracle's operations.
check-tsan: $(tsan_TESTS) ## unit tests that have threads, under TSan
	$(Q)! setarch -R true 2>/dev/null || fixed='setarch -R'; OPS=$${OPS:-5000} $$fixed guest-tests/unit.sh $(tsan_TESTS)

# An emulated CPU is some 20 times slower. OPS: as above.
check-arm64: $(arm64_TESTS) ## unit tests of iommu/ on arm64, with 16 KiB pages
ifeq ($(HOST_ARCH),aarch64)
	$(Q)guest-tests/unit.sh $(arm64_TESTS)
else
	$(Q)guest-tests/lab/lab exec --timeout 900 --packages libcmocka0 $(addprefix --put ,guest-tests/unit.sh $(arm64_TESTS)) \
	  -- env OPS=$${OPS:-20000} sh unit.sh $(patsubst %,./%,$(notdir $(arm64_TESTS))) </dev/null
endif

# ---- fuzzers: LAYER/fuzz/fuzz_NOUN.c, seeds in LAYER/fuzz/NOUN/ ------------------------------------

# $(1) flavour, $(2) layer, $(3) fuzz_<noun>
define fuzzer
$(B)/$(1)/$(2)/fuzz/$(3): $(B)/$(1)/$(2)/fuzz/$(3).o $$(foreach l,$$($(2)_BELOW),$(B)/$(1)/$$(l).a)
	$$(call say,LINK,$$@)
	$$(Q)$$($(1)_CC) $$($(1)_CFLAGS) $$($(1)_LDFLAGS) -o $$@ $$^ $$(LIBS) -lcmocka
$(1)_FUZZERS += $(B)/$(1)/$(2)/fuzz/$(3)
-include $(B)/$(1)/$(2)/fuzz/$(3).d
endef

$(foreach f,clang cov,$(foreach l,$(LAYERS),$(foreach t,$(sort $(basename $(notdir $(wildcard $(l)/fuzz/fuzz_*.c)))),\
  $(eval $(call fuzzer,$(f),$(l),$(t))))))

# TARGET picks some of them by noun.
wanted_fuzzers = $(if $(TARGET),$(filter $(addprefix %/fuzz_,$(TARGET)),$($(1)_FUZZERS)),$($(1)_FUZZERS))

check-fuzz: $(clang_FUZZERS) ## fuzzers: their seeds, and some thousand inputs made from them
	$(Q)guest-tests/fuzz.sh check $(clang_FUZZERS)

fuzz: $(call wanted_fuzzers,clang) ## fuzzers, DURATION=600 seconds each; TARGET="queue pci" picks some
	$(Q)guest-tests/fuzz.sh run $^

fuzz-coverage: $(call wanted_fuzzers,cov) ## what check-fuzz reaches of the code, by file; TARGET as above
	$(Q)guest-tests/fuzz.sh coverage $^

.PHONY: check-fuzz fuzz fuzz-coverage

# ---- proofs of the protocols, and of the tests ------------------------------------------------------

ORACLES := $(foreach t,$(native_TESTS) $(asan_TESTS),$(if $(findstring /test_oracle,$(t)),$(t)))

proofs: $(B)/.deps ## check the Promela models of the protocols
	$(Q)iommu/proofs/run.sh

mutants: $(B)/.deps ## break each guarantee in turn; a unit test must go red
	$(Q)iommu/tests/mutants/run.sh $(MUTANTS)

soak-oracles: $(ORACLES) ## random operations until interrupted, or DURATION=seconds
	$(Q)iommu/tests/soak.sh $(ORACLES)

soak-coherence: $(B)/native/vmm/tests/test_coherence ## 100 million entries of a hostile ring device, checked
	$(Q)ENTRIES=$${ENTRIES:-100000000} $<

# ---- speed ----------------------------------------------------------------------------------------

$(B)/.deps-bench: $(B)/.deps
	$(Q)guest-tests/deps.sh $(DEPS_BENCH)
	@touch $@

$(B)/native/iommu/bench/bench.o: iommu/bench/bench.c $(B)/.deps-bench
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(native_CC) $(CSTD) $(WARN) $(CPPFLAGS_ALL) $(CFLAGS) -O2 $$(pkg-config --cflags glib-2.0) -MMD -MP -c -o $@ $<
-include $(B)/native/iommu/bench/bench.d

$(B)/native/iommu/bench/bench: $(B)/native/iommu/bench/bench.o $(B)/native/iommu.a
	$(call say,LINK,$@)
	$(Q)$(native_CC) $(native_CFLAGS) $(native_LDFLAGS) -o $@ $^ $$(pkg-config --libs glib-2.0) -lm -lpthread

bench: $(B)/native/iommu/bench/bench ## what the mediator costs: a table, and build/bench.json
	$(Q)$< iommu/tests/data $(B)/bench.json

# ---- the program, the lab, the guests -------------------------------------------------------------

all: $(B)/arm64/granule $(foreach l,$(LAYERS),$(B)/native/$(l).a) ## build everything (default)

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile guest-tests/tests.mk docs/dist/dist.mk | expand -t 22

format: ## clang-format every source
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h')

tidy: ## clang-tidy the native sources
	$(Q)clang-tidy --quiet $(iommu_SRCS) $(virtio_SRCS) $(vmm_SRCS) -- $(CSTD) $(CPPFLAGS_ALL) -DVERSION='"$(VERSION)"'

clean: ## remove what was built; fetched packages stay
	$(Q)rm -rf $(addprefix $(B)/,$(FLAVOURS))

.PHONY: all soak-coherence soak-oracles bench check check-asan check-tsan check-arm64 proofs mutants help format tidy clean

-include guest-tests/tests.mk
-include docs/dist/dist.mk
