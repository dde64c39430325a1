# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# nvme - a passed-through NVMe disk, used as anyone would, then taken away and given back.
# shellcheck source=lib.sh
. /test/lib.sh

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim page_mask_suits_the_guest offered_mask
claim direct_4k_reads_are_exact reads_direct_4k
claim direct_1m_reads_are_exact reads_direct_1m
claim page_cache_reads_are_exact reads_cached
claim writes_read_back writes
generation=$(($(param gen 0) + 1))
claim page_cache_reads_after_writes_are_exact reads_cached

# The driver lets go of the device and takes it again.
bdf=$(basename "$(readlink -f "$nvme_pci")")
rebind() {
	echo "$bdf" >/sys/bus/pci/drivers/nvme/unbind && [ ! -e "$disk" ] &&
		echo "$bdf" >/sys/bus/pci/drivers/nvme/bind && wait_for_disk
}
claim driver_unbinds_and_binds_again rebind
claim nvme_in_its_iommu_group_again in_its_group
claim direct_4k_reads_after_rebind_are_exact reads_direct_4k
claim direct_1m_reads_after_rebind_are_exact reads_direct_1m
finish
