/* SPDX-License-Identifier: Apache-2.0 */
/* reset - the guest asks for a reset: the VMM ends, and its exit status says so. */
#include "claim.h"
#include "cpu.h"

void payload(void)
{
	claim_begin("reset_is_known_to_psci");
	claim_check("PSCI_FEATURES", psci(PSCI_FEATURES, PSCI_SYSTEM_RESET, 0, 0) >= 0, true);
	claim_end();
	claims_done();
	psci(PSCI_SYSTEM_RESET, 0, 0, 0);
	claim_begin("reset_does_not_return");
	claim_check("we are still here", 1, 0);
}
