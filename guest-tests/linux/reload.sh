# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# reload - the NVMe driver's module is unloaded and loaded again, under the same checks.
# shellcheck source=lib.sh
. /test/lib.sh

claim nvme_appears wait_for_disk
claim direct_4k_reads_are_exact reads_direct_4k
unload() {
	modprobe -r nvme && [ ! -e "$disk" ] && ! grep -q '^nvme ' /proc/modules
}
claim module_unloads unload
load() { modprobe nvme && wait_for_disk; }
claim module_loads_again load
claim nvme_in_its_iommu_group_again in_its_group
claim direct_4k_reads_after_reload_are_exact reads_direct_4k
claim direct_1m_reads_after_reload_are_exact reads_direct_1m
claim writes_read_back writes
generation=$(($(param gen 0) + 1))
claim page_cache_reads_after_writes_are_exact reads_cached
finish
