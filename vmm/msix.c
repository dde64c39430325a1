/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/msix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iommu/base.h"

#define ENTRY_ADDR	0u
#define ENTRY_DATA	8u
#define ENTRY_CTRL	12u
#define ENTRY_CTRL_MASK 1u

int msix_init(struct msix *msix, unsigned nr, void (*send)(void *ctx, uint64_t addr, uint32_t data),
	      void *ctx)
{
	*msix = (struct msix){.nr = nr, .send = send, .ctx = ctx};
	msix->table = malloc(msix_table_len(msix));
	msix->pending = malloc(msix_pba_len(msix));
	if (!msix->table || !msix->pending) {
		msix_destroy(msix);
		return -ENOMEM;
	}
	msix_reset(msix);
	return 0;
}

void msix_destroy(struct msix *msix)
{
	free(msix->table);
	free(msix->pending);
	*msix = (struct msix){0};
}

void msix_reset(struct msix *msix)
{
	msix->enabled = msix->masked = false;
	memset(msix->table, 0, msix_table_len(msix));
	memset(msix->pending, 0, msix_pba_len(msix));
	for (unsigned vec = 0; vec < msix->nr; vec++)
		msix->table[vec * MSIX_ENTRY_LEN + ENTRY_CTRL] = ENTRY_CTRL_MASK;
}

static bool vector_masked(const struct msix *msix, unsigned vec)
{
	return msix->table[vec * MSIX_ENTRY_LEN + ENTRY_CTRL] & ENTRY_CTRL_MASK;
}

static void send(struct msix *msix, unsigned vec)
{
	const uint8_t *entry = msix->table + vec * MSIX_ENTRY_LEN;

	msix->send(msix->ctx, get_le64(entry + ENTRY_ADDR), get_le32(entry + ENTRY_DATA));
}

/* deliver_pending - send what waited, of vectors that may be sent now */
static void deliver_pending(struct msix *msix)
{
	if (!msix->enabled || msix->masked)
		return;
	for (unsigned word = 0; word < msix_pba_len(msix) / 8; word++) {
		for (uint64_t left = msix->pending[word]; left; left &= left - 1) {
			unsigned vec = word * 64 + (unsigned)__builtin_ctzll(left);

			if (vector_masked(msix, vec))
				continue;
			msix->pending[word] &= ~BIT(vec % 64);
			send(msix, vec);
		}
	}
}

void msix_control(struct msix *msix, bool enabled, bool masked)
{
	/* What was pending belonged to the use that ends here: the vectors are torn down. */
	if (!enabled)
		memset(msix->pending, 0, msix_pba_len(msix));
	msix->enabled = enabled;
	msix->masked = masked;
	deliver_pending(msix);
}

void msix_table_access(struct msix *msix, unsigned off, void *data, unsigned len, bool write)
{
	const uint8_t *bytes = data;

	if (!write) {
		memcpy(data, msix->table + off, len);
		return;
	}
	for (unsigned i = 0; i < len; i++) {
		unsigned reg = (off + i) % MSIX_ENTRY_LEN;
		uint8_t writable = 0xff;

		if (reg == ENTRY_ADDR)
			writable = 0xfc; /* a message is one aligned dword */
		else if (reg == ENTRY_CTRL)
			writable = ENTRY_CTRL_MASK;
		else if (reg > ENTRY_CTRL)
			writable = 0;
		msix->table[off + i] = bytes[i] & writable;
	}
	deliver_pending(msix);
}

void msix_pba_access(struct msix *msix, unsigned off, void *data, unsigned len, bool write)
{
	/* LE, like every host this runs on */
	if (!write)
		memcpy(data, (const uint8_t *)msix->pending + off, len);
}

bool msix_message(const struct msix *msix, unsigned vec, uint64_t *addr, uint32_t *data)
{
	const uint8_t *entry = msix->table + vec * MSIX_ENTRY_LEN;

	if (!msix->enabled || msix->masked || vec >= msix->nr || vector_masked(msix, vec))
		return false;
	*addr = get_le64(entry + ENTRY_ADDR);
	*data = get_le32(entry + ENTRY_DATA);
	return true;
}

void msix_fire(struct msix *msix, unsigned vec)
{
	if (!msix->enabled || vec >= msix->nr)
		return;
	if (msix->masked || vector_masked(msix, vec))
		msix->pending[vec / 64] |= BIT(vec % 64);
	else
		send(msix, vec);
}
