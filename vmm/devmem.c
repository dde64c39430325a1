/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devmem.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "iommu/base.h"

static struct sigaction before;
static _Thread_local sigjmp_buf *volatile armed; /* while this thread makes an access */

static void on_bus_error(int sig)
{
	if (armed)
		siglongjmp(*armed, 1);
	/* Not ours: the instruction is tried again, and has the end it would have had. */
	sigaction(sig, &before, NULL);
}

void devmem_catch_aborts(void)
{
	/* Not blocked meanwhile: nobody returns from the handler. */
	const struct sigaction action = {.sa_handler = on_bus_error, .sa_flags = SA_NODEFER};
	struct sigaction old;

	sigaction(SIGBUS, &action, &old);
	if (old.sa_handler != on_bus_error)
		before = old;
}

int devmem_read(const volatile void *reg, void *data, unsigned len)
{
	sigjmp_buf here;
	int ret = 0;

	if (sigsetjmp(here, 0)) {
		armed = NULL;
		return -EIO;
	}
	armed = &here;
	switch (len) {
	case 1:
		*(uint8_t *)data = *(const volatile uint8_t *)reg;
		break;
	case 2:
		put_le16(data, *(const volatile uint16_t *)reg);
		break;
	case 4:
		put_le32(data, *(const volatile uint32_t *)reg);
		break;
	case 8:
		put_le64(data, *(const volatile uint64_t *)reg);
		break;
	default:
		ret = -EINVAL;
	}
	armed = NULL;
	return ret;
}

int devmem_write(volatile void *reg, const void *data, unsigned len)
{
	sigjmp_buf here;
	int ret = 0;

	if (sigsetjmp(here, 0)) {
		armed = NULL;
		return -EIO;
	}
	armed = &here;
	switch (len) {
	case 1:
		*(volatile uint8_t *)reg = *(const uint8_t *)data;
		break;
	case 2:
		*(volatile uint16_t *)reg = get_le16(data);
		break;
	case 4:
		*(volatile uint32_t *)reg = get_le32(data);
		break;
	case 8:
		*(volatile uint64_t *)reg = get_le64(data);
		break;
	default:
		ret = -EINVAL;
	}
	armed = NULL;
	return ret;
}
