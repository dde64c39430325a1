# SPDX-License-Identifier: Apache-2.0
# What runs in guests: bare-metal payloads, Linux scenarios, and the targets that run them.

# ---- bare-metal payloads: build/bare/NAME.img, one per guest-tests/bare/NAME.c -----------------------

BARE := guest-tests/bare
BARE_PAYLOADS := $(sort $(basename $(notdir $(wildcard $(BARE)/*.c))))
BARE_LIB := $(sort $(wildcard $(BARE)/lib/*.c))
BARE_CFLAGS := -std=gnu11 $(WARN) -O2 -g -ffreestanding -nostdlib -fpie -mgeneral-regs-only \
  -mno-outline-atomics -fno-stack-protector -fno-tree-loop-distribute-patterns -fvisibility=hidden -I. -I$(BARE) -I$(BARE)/lib
BARE_LDFLAGS := -nostdlib -static -Wl,-pie,--no-dynamic-linker,-z,notext,--build-id=none,--no-warn-rwx-segments,-T,$(BARE)/bare.lds

# $(1) folder in build/, $(2) flags: bare for granule's machine, bare-qemu for QEMU's virt board
define bare
$(B)/$(1)/%.o: $(BARE)/%.c guest-tests/tests.mk $(B)/.deps
	@mkdir -p $$(dir $$@)
	$$(call say,CC,$$@)
	$$(Q)$(ARM_PREFIX)gcc $(BARE_CFLAGS) $(2) -MMD -MP -c -o $$@ $$<
$(B)/$(1)/start.o: $(BARE)/start.S guest-tests/tests.mk $(B)/.deps
	@mkdir -p $$(dir $$@)
	$$(call say,AS,$$@)
	$$(Q)$(ARM_PREFIX)gcc $(BARE_CFLAGS) $(2) -MMD -MP -c -o $$@ $$<
$(B)/$(1)/%.elf: $(B)/$(1)/start.o $(B)/$(1)/%.o $(patsubst $(BARE)/%.c,$(B)/$(1)/%.o,$(BARE_LIB)) $(BARE)/bare.lds
	$$(call say,LINK,$$@)
	$$(Q)$(ARM_PREFIX)gcc $(BARE_LDFLAGS) -o $$@ $$(filter %.o,$$^)
$(B)/$(1)/%.img: $(B)/$(1)/%.elf
	$$(Q)$(ARM_PREFIX)objcopy -O binary $$< $$@
-include $(patsubst $(BARE)/%.c,$(B)/$(1)/%.d,$(BARE_LIB)) $(patsubst %,$(B)/$(1)/%.d,$(BARE_PAYLOADS))
endef

$(eval $(call bare,bare,))
$(eval $(call bare,bare-qemu,-DBOARD_QEMU))

.PRECIOUS: $(B)/bare/%.elf $(B)/bare-qemu/%.elf $(B)/bare/%.o $(B)/bare-qemu/%.o

bare: $(patsubst %,$(B)/bare/%.img,$(BARE_PAYLOADS)) ## bare-metal payloads

.PHONY: bare

# ---- Linux guests -----------------------------------------------------------------------------------

BLKCHECK := $(addprefix guest-tests/linux/,blkcheck.c blkcontents.c blkrandom.c)
NETCHECK := $(addprefix guest-tests/linux/,netcheck.c blkcontents.c)
BLKCHECK_H := $(addprefix guest-tests/linux/,blkcheck.h blkcontents.h)

$(B)/linux/%: guest-tests/linux/%.c $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(ARM_PREFIX)gcc $(CSTD) $(WARN) -D_GNU_SOURCE -O2 -g -static -I. -o $@ $< -lpthread
$(B)/linux/simedu: vmm/sim_edu.h
$(B)/linux/blkcheck: $(BLKCHECK) $(BLKCHECK_H) $(arm64_DEPS) $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(arm64_CC) $(CSTD) $(WARN) -D_GNU_SOURCE $(arm64_CFLAGS) $(arm64_LDFLAGS) -o $@ $(BLKCHECK) -luring -lpthread
$(B)/linux/bench: guest-tests/linux/bench.c $(arm64_DEPS) $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(arm64_CC) $(CSTD) $(WARN) -D_GNU_SOURCE $(arm64_CFLAGS) $(arm64_LDFLAGS) -o $@ $< -luring
$(B)/linux/netcheck: $(NETCHECK) $(BLKCHECK_H) $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(ARM_PREFIX)gcc $(CSTD) $(WARN) -D_GNU_SOURCE -O2 -g -static -I. -o $@ $(NETCHECK) -lpthread
$(B)/linux/netcheck-native: $(NETCHECK) $(BLKCHECK_H) $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)gcc $(CSTD) $(WARN) -D_GNU_SOURCE -O2 -g -I. -o $@ $(NETCHECK) -lpthread
$(B)/linux/blkcheck-native: $(BLKCHECK) $(BLKCHECK_H) $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)gcc $(CSTD) $(WARN) -D_GNU_SOURCE -O2 -g -o $@ $(BLKCHECK) -luring -lpthread

# ---- a host that fails ------------------------------------------------------------------------------

# granule's own objects, with guest-tests/fail/failnth.c between them and all that can fail.
FAILNTH_WRAPS := vcpu_start evloop_run malloc calloc realloc aligned_alloc posix_memalign strdup mmap madvise ioctl \
  eventfd signalfd timerfd_create timerfd_settime socket bind listen accept4 fstat mkostemp rename ftruncate fchmod \
  open fcntl fopen fdopen read write pread pwrite readv writev pthread_create io_uring_queue_init_params io_uring_submit \
  io_uring_submit_and_wait uring_deliver seccomp_init seccomp_rule_add_array seccomp_export_bpf
comma := ,


$(B)/arm64/granule-fail: $(patsubst %.c,$(B)/arm64/%.o,$(vmm_KVM_SRCS)) $(B)/arm64/guest-tests/fail/failnth.o \
  $(foreach l,$(vmm_BELOW),$(B)/arm64/$(l).a) guest-tests/tests.mk
	$(call say,LINK,$@)
	$(Q)$(arm64_CC) $(arm64_CFLAGS) $(arm64_LDFLAGS) $(addprefix -Wl$(comma)--wrap=,$(FAILNTH_WRAPS)) -o $@ \
	  $(filter %.o %.a,$^) $(LIBS)
-include $(B)/arm64/guest-tests/fail/failnth.d
$(B)/linux/sweep: guest-tests/fail/sweep.c $(B)/.deps
	@mkdir -p $(dir $@)
	$(call say,CC,$@)
	$(Q)$(ARM_PREFIX)gcc $(CSTD) $(WARN) -D_GNU_SOURCE -O2 -g -static -o $@ $<

FAILHOST_DEPS := $(B)/arm64/granule-fail $(B)/bare/failhost.img $(B)/linux/sweep

failhost: $(FAILHOST_DEPS) ## every call to the host fails in turn, in the lab; long
	$(Q)guest-tests/failhost.sh

.PHONY: failhost

# Linux's own DART driver, as a module. The script knows whether there is anything to do. Without it only
# the scenarios fail that need it.
apple-dart: $(B)/.deps
	-$(Q)guest-tests/linux/apple-dart/build

.PHONY: apple-dart

# ---- targets ----------------------------------------------------------------------------------------

GUEST_DEPS := $(B)/arm64/granule $(B)/arm64-asan/granule bare $(FAILHOST_DEPS) $(addprefix $(B)/linux/,blkcheck blkcheck-native netcheck netcheck-native hangup serialcheck simedu vfiouser violate)

guest-check: $(GUEST_DEPS) apple-dart ## every guest scenario, in the lab
	$(Q)guest-tests/run.sh

bench-lab: $(B)/arm64/granule $(B)/linux/bench ## granule beside QEMU in the lab: a table, and build/bench-lab.json
	$(Q)guest-tests/bench-lab; status=$$?; guest-tests/bench-net && exit $$status

matrix: $(GUEST_DEPS) ## every device, LOAD=60 seconds each, in the lab; SCENARIOS="matrix-usb" picks some
	$(Q)guest-tests/run.sh -m $(SCENARIOS)

attack: $(GUEST_DEPS) ## a hostile guest for DURATION=600 seconds, also under ASan and UBSan
	$(Q)guest-tests/run.sh -k -a $(or $(DURATION),600) $$(guest-tests/run.sh -l | sed -n 's/^\(attack[a-z-]*\) .*/\1/p')

soak: $(GUEST_DEPS) $(B)/linux/bench ## an hour (DURATION=3600 seconds) of every device at once, and of the matrix beside it
	$(Q)guest-tests/run.sh -s

run: $(GUEST_DEPS) ## the main job: a 4 KiB guest with an NVMe disk on a 16 KiB host
	$(Q)guest-tests/run-demo

shell: $(GUEST_DEPS) ## the same guest, to look around in
	$(Q)guest-tests/run-demo shell

# What commands build is built before, so that none has to be waited for.
check-docs: all deb $(GUEST_DEPS) $(ORACLES) $(clang_FUZZERS) $(B)/linux/bench $(B)/native/vmm/tests/test_coherence ## every command in README, docs and the manual
	$(Q)guest-tests/docs.sh

test: $(GUEST_DEPS) apple-dart $(native_TESTS) $(asan_TESTS) $(tsan_TESTS) $(clang_FUZZERS) ## every test
	$(Q)guest-tests/test.sh

clean: clean-guests
clean-guests:
	$(Q)rm -rf $(addprefix $(B)/,bare bare-qemu linux apple-dart scenarios demo)

.PHONY: attack bench-lab check-docs guest-check matrix soak run shell test clean-guests
