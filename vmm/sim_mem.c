/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sim_mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/base.h"
#include "vmm/msg.h"

#define BLOCK_LG2   21
#define BLOCK	    BIT(BLOCK_LG2)
#define BLOCK_PAGES (BLOCK / SIM_MEM_PAGE)
#define NR_BLOCKS   (1u << (SIM_MEM_PA_BITS - BLOCK_LG2))
#define HASH_LG2    16	 /* at most half full */
#define NR_SLABS    1024 /* of tables: 2 GiB */

/* Blocks of addresses are taken in turn and never given back. */
struct block {
	_Atomic uintptr_t base;			  /* host address; 0: nothing is here */
	_Atomic uint64_t pages[BLOCK_PAGES / 64]; /* which exist, by bit */
};

struct free_page {
	struct free_page *next;
};

struct sim_mem {
	struct block blocks[NR_BLOCKS]; /* [0] stays empty: address 0 names no table */

	/* A leaf lock, for all that is below. */
	pthread_mutex_t lock;
	unsigned nr_blocks;	       /* the next to be taken */
	uint16_t hash[1u << HASH_LG2]; /* host block -> block; 0: empty */
	bool refused;		       /* and said so */
	void *slabs[NR_SLABS];	       /* of BLOCK bytes each */
	unsigned nr_slabs, slab_used;  /* pages of the last one that were handed out */
	struct free_page *free;
};

_Static_assert(NR_BLOCKS <= UINT16_MAX && NR_BLOCKS * 2 <= 1u << HASH_LG2, "the hash holds all");

int sim_mem_create(struct sim_mem **out)
{
	struct sim_mem *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	pthread_mutex_init(&mem->lock, NULL);
	mem->nr_blocks = 1;
	*out = mem;
	return 0;
}

void sim_mem_destroy(struct sim_mem *mem)
{
	if (!mem)
		return;
	while (mem->nr_slabs)
		munmap(mem->slabs[--mem->nr_slabs], BLOCK);
	pthread_mutex_destroy(&mem->lock);
	free(mem);
}

/* The block of addresses that stands for the host's block @base. Return: 0: there is none left. */
static unsigned block_of(struct sim_mem *mem, uintptr_t base)
{
	uint64_t key = base >> BLOCK_LG2;
	uint32_t at = (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - HASH_LG2));

	for (; mem->hash[at]; at = (at + 1) & ((1u << HASH_LG2) - 1))
		if (atomic_load_explicit(&mem->blocks[mem->hash[at]].base, memory_order_relaxed) ==
		    base)
			return mem->hash[at];
	if (mem->nr_blocks == NR_BLOCKS)
		return 0;
	mem->hash[at] = (uint16_t)mem->nr_blocks;
	atomic_store_explicit(&mem->blocks[mem->nr_blocks].base, base, memory_order_relaxed);
	return mem->nr_blocks++;
}

/* Take note of all pages that [@offset, @offset + @len) of a block touches. */
static void note_pages(struct block *block, uint64_t offset, uint64_t len)
{
	uint64_t first = offset / SIM_MEM_PAGE, last = (offset + len - 1) / SIM_MEM_PAGE;

	for (uint64_t word = first / 64; word <= last / 64; word++) {
		uint64_t from = MAX(first, 64 * word), to = MIN(last, 64 * word + 63);

		/* Whoever finds the address in a table found it after this. */
		atomic_fetch_or_explicit(&block->pages[word], GENMASK(to % 64, from % 64),
					 memory_order_release);
	}
}

/* Of at least one byte in one block. */
static int address_of(struct sim_mem *mem, const void *hva, uint64_t len, uint64_t *pa)
{
	uintptr_t base = ALIGN_DOWN((uintptr_t)hva, BLOCK);
	uint64_t offset = (uintptr_t)hva - base;
	unsigned nr = block_of(mem, base);

	if (!nr)
		return -EFAULT;
	note_pages(&mem->blocks[nr], offset, len);
	*pa = ((uint64_t)nr << BLOCK_LG2) + offset;
	return 0;
}

int sim_mem_pa_of(struct sim_mem *mem, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	uint64_t left = BLOCK - ((uintptr_t)hva & (BLOCK - 1));
	bool first = false;
	int ret;

	*run = MIN(len, left);
	pthread_mutex_lock(&mem->lock);
	ret = address_of(mem, hva, *run, pa);
	if (ret) {
		first = !mem->refused;
		mem->refused = true;
	}
	pthread_mutex_unlock(&mem->lock);
	if (first)
		msg_error("simulated DARTs: %u-bit addresses do not reach all of the guest's RAM "
			  "and bounce pages, mappings are refused: give the guest less memory",
			  SIM_MEM_PA_BITS);
	return ret;
}

void *sim_mem_at(const struct sim_mem *mem, uint64_t pa, size_t len)
{
	uint64_t nr = pa >> BLOCK_LG2, offset = pa & (BLOCK - 1), page = offset / SIM_MEM_PAGE;
	const struct block *block;

	(void)len;
	if (nr >= NR_BLOCKS)
		return NULL;
	block = &mem->blocks[nr];
	if (!(atomic_load_explicit(&block->pages[page / 64], memory_order_acquire) >> page % 64 &
	      1))
		return NULL;
	return (void *)(atomic_load_explicit(&block->base, memory_order_relaxed) + offset);
}

/* Room for BLOCK_PAGES more. */
static int add_slab(struct sim_mem *mem)
{
	uintptr_t from, base;
	void *map;

	if (mem->nr_slabs == NR_SLABS)
		return -ENOMEM;
	map = mmap(NULL, 2 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	/* One block that is aligned; the rest goes back. */
	from = (uintptr_t)map;
	base = ALIGN_UP(from, BLOCK);
	if (base != from)
		munmap(map, base - from);
	munmap((void *)(base + BLOCK), from + BLOCK - base);
	mem->slabs[mem->nr_slabs++] = (void *)base;
	mem->slab_used = 0;
	return 0;
}

void *sim_mem_alloc(struct sim_mem *mem, uint64_t *pa)
{
	void *page = NULL;

	pthread_mutex_lock(&mem->lock);
	if (mem->free) {
		page = mem->free;
	} else {
		if ((!mem->nr_slabs || mem->slab_used == BLOCK_PAGES) && add_slab(mem))
			goto out;
		page = (uint8_t *)mem->slabs[mem->nr_slabs - 1] + mem->slab_used * SIM_MEM_PAGE;
	}
	if (address_of(mem, page, SIM_MEM_PAGE, pa)) {
		page = NULL;
		goto out;
	}
	if (page == mem->free) {
		mem->free = mem->free->next;
		memset(page, 0, SIM_MEM_PAGE);
	} else {
		mem->slab_used++;
	}
out:
	pthread_mutex_unlock(&mem->lock);
	return page;
}

void sim_mem_free(struct sim_mem *mem, void *page)
{
	uintptr_t base = ALIGN_DOWN((uintptr_t)page, BLOCK);
	uint64_t nr = ((uintptr_t)page - base) / SIM_MEM_PAGE;
	struct free_page *entry = page;

	pthread_mutex_lock(&mem->lock);
	atomic_fetch_and_explicit(&mem->blocks[block_of(mem, base)].pages[nr / 64], ~BIT(nr % 64),
				  memory_order_relaxed);
	entry->next = mem->free;
	mem->free = entry;
	pthread_mutex_unlock(&mem->lock);
}
