# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# sim - a simulated NVMe disk behind simulated DARTs, short: there are many kinds of those.
# shellcheck source=lib.sh
. /test/lib.sh

# is_reserved FIRST,LAST
is_reserved() {
	grep -q "^${1%,*} ${1#*,} reserved\$" $nvme_pci/iommu_group/reserved_regions ||
		{ tr '\n' ';' <$nvme_pci/iommu_group/reserved_regions; return 1; }
}

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim page_mask_suits_the_guest offered_mask
[ ! "$(param reserved '')" ] || claim firmware_region_is_reserved is_reserved "$(param reserved '')"
claim direct_1m_reads_are_exact reads_direct_1m
claim writes_read_back writes
generation=$(($(param gen 0) + 1))

# A hostile device beside it: its faults are all there is to complain of.
if [ "$(param hostile '')" ]; then
	kernel_complaints=$(echo "$kernel_complaints" | sed 's/page fault from EP|//')
	claim hostile_device_is_told_of sh -c "dmesg | grep -q 'page fault from EP $(param hostile '') '"
fi
claim random_io_at_depth_32_is_exact random_io
finish
