/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iommu - all that a hypervisor needs of the mediator, in one header: requests and sync points
 * (mediator), guest memory (gmem), what an instance of its own has to do (instance), the instances
 * there are (vfio, dart), and simulated DARTs (dart_model).
 *
 * For C++ too, which includes this header and no other.
 */
#ifndef IOMMU_IOMMU_H
#define IOMMU_IOMMU_H

/* Here first, so that no header of the system is taken for one of ours below. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define class class_ /* a member's name; there it is a keyword */
#endif

#include "iommu/dart.h"
#include "iommu/dart_model.h"
#include "iommu/faultlog.h"
#include "iommu/gmem.h"
#include "iommu/instance.h"
#include "iommu/mediator.h"
#include "iommu/vfio.h"

#ifdef __cplusplus
#undef class
}
#endif

#endif
