# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# quick - the disk is there and right, reads and writes: for the variations of a machine.
# shellcheck source=lib.sh
. /test/lib.sh

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim page_mask_suits_the_guest offered_mask
claim direct_4k_reads_are_exact reads_direct_4k
claim direct_1m_reads_are_exact reads_direct_1m
claim writes_read_back writes
finish
