# shellcheck shell=sh source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# sim - a simulated NVMe disk behind simulated DARTs, short: there are many kinds of those.
# shellcheck source=lib.sh
. /test/lib.sh

claim guest_page_size has_page_size
claim guest_cpus has_cpus
claim nvme_appears wait_for_disk
claim nvme_in_its_iommu_group in_its_group
claim page_mask_suits_the_guest offered_mask
claim direct_1m_reads_are_exact reads_direct_1m
claim writes_read_back writes
generation=$(($(param gen 0) + 1))
claim random_io_at_depth_32_is_exact random_io
finish
