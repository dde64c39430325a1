# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# lazy - a guest that puts UNMAPs off reads and writes its NVMe disk, deep and at random, and takes the driver
# away and gives it back: what was queued then is unmapped, late, too.
# shellcheck source=lib.sh
. /test/lib.sh

bdf=''
rebind() {
	bdf=$(basename "$(readlink -f "$nvme_pci")")
	echo "$bdf" >/sys/bus/pci/drivers/nvme/unbind && [ ! -e "$disk" ] &&
		echo "$bdf" >/sys/bus/pci/drivers/nvme/bind && wait_for_disk
}

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim page_mask_suits_the_guest offered_mask
claim direct_4k_reads_are_exact reads_direct_4k
claim direct_1m_reads_are_exact reads_direct_1m
claim writes_read_back writes
generation=$(($(param gen 0) + 1))
claim page_cache_reads_are_exact reads_cached
claim driver_unbinds_and_binds_again rebind
claim random_io_is_exact random_io
finish
