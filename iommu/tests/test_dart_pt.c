/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables live in an arena with physical addresses of its own, and every claim about what a device
 * would reach is judged by dart_walk() over that arena. Guest RAM is only addresses: no table code
 * touches it.
 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iommu/alloc.h"
#include "iommu/base.h"
#include "iommu/dart_pt.h"

#define RO PROT_DEV_READ
#define WO PROT_DEV_WRITE
#define RW (PROT_DEV_READ | PROT_DEV_WRITE)

#define SLOT	  0x4000u /* of the arena; a table takes one */
#define NR_SLOTS  256u
#define TABLES_PA UINT64_C(0x812340000)
#define RAM_LEN	  (UINT64_C(256) << 20)
#define RAM_PA	  UINT64_C(0x900000000)

/* ---- memory --------------------------------------------------------------------------------- */

struct mem {
	uint8_t *arena;
	bool used[NR_SLOTS];
	unsigned nr_used;
	uint64_t table_pa; /* of the first slot */
	char *ram;
	/* How RAM lies in physical memory. */
	uint64_t ram_pa;
	uint64_t chunk;	       /* contiguous pieces, in descending order; 0: one piece */
	uint64_t max_run;      /* longest run pa_of() reports; 0: all there is */
	uint64_t bad, bad_len; /* bytes of RAM that no device can reach */
	uint64_t firmware_top; /* the only table that may be mapped */
	unsigned nr_pa_of;
};

static struct dart_mem_ops mem_ops;

static uint8_t *mem_at(struct mem *m, uint64_t pa)
{
	if (pa < m->table_pa || pa >= m->table_pa + NR_SLOTS * SLOT)
		return NULL;
	return m->arena + (pa - m->table_pa);
}

static void *mem_table_alloc(void *ctx, size_t size, uint64_t *pa)
{
	struct mem *m = ctx;
	void *ticket = iommu_alloc(1); /* so that a sweep over allocations meets tables too */

	assert_true(size <= SLOT);
	if (!ticket)
		return NULL;
	iommu_free(ticket);
	for (unsigned i = 0; i < NR_SLOTS; i++) {
		if (m->used[i])
			continue;
		m->used[i] = true;
		m->nr_used++;
		*pa = m->table_pa + i * SLOT;
		memset(m->arena + i * SLOT, 0, SLOT);
		return m->arena + i * SLOT;
	}
	return NULL;
}

static void mem_table_free(void *ctx, void *table, size_t size)
{
	struct mem *m = ctx;
	uint64_t at = (uint64_t)((uint8_t *)table - m->arena);

	assert_true(at < NR_SLOTS * SLOT && at % SLOT == 0);
	assert_true(m->used[at / SLOT]);
	m->used[at / SLOT] = false;
	m->nr_used--;
	memset(table, 0xdb, size); /* a walk that gets here goes wrong */
}

static void *mem_table_map(void *ctx, uint64_t pa, size_t size)
{
	struct mem *m = ctx;

	assert_int_equal(size, SLOT);
	return pa == m->firmware_top ? mem_at(m, pa) : NULL;
}

/* Where RAM's byte at @off is. */
static uint64_t ram_pa(const struct mem *m, uint64_t off)
{
	if (!m->chunk)
		return m->ram_pa + off;
	return m->ram_pa + (RAM_LEN / m->chunk - 1 - off / m->chunk) * m->chunk + off % m->chunk;
}

static int mem_pa_of(void *ctx, const void *hva, uint64_t len, uint64_t *pa, uint64_t *run)
{
	struct mem *m = ctx;
	uint64_t off = (uint64_t)((const char *)hva - m->ram);

	m->nr_pa_of++;
	assert_true(len > 0 && off < RAM_LEN && len <= RAM_LEN - off);
	if (off >= m->bad && off < m->bad + m->bad_len)
		return -EFAULT;
	*pa = ram_pa(m, off);
	*run = len;
	if (m->chunk)
		*run = MIN(*run, m->chunk - off % m->chunk);
	if (m->max_run)
		*run = MIN(*run, m->max_run);
	if (m->bad_len && off < m->bad)
		*run = MIN(*run, m->bad - off);
	return 0;
}

static struct dart_mem_ops mem_ops = {
	.table_alloc = mem_table_alloc,
	.table_free = mem_table_free,
	.table_map = mem_table_map,
	.pa_of = mem_pa_of,
};

/* ---- fixture -------------------------------------------------------------------------------- */

/* Every geometry the driver can ask for. */
static const struct kind {
	const struct dart_fmt *fmt;
	unsigned page_lg2, ias, levels;
} kinds[] = {
	{&dart_fmt_1, 14, 32, 2}, {&dart_fmt_1, 12, 32, 2}, {&dart_fmt_2, 14, 32, 2},
	{&dart_fmt_2, 14, 36, 2}, {&dart_fmt_2, 14, 42, 3}, {&dart_fmt_2, 14, 36, 3},
};

#define KIND_4K 1

struct fx {
	struct mem mem;
	struct dart_pt_cfg cfg;
	struct dart_pt *pt;
	struct shadow *sh;
	uint64_t page;
};

static int setup(void **state)
{
	struct fx *fx = calloc(1, sizeof(*fx));

	fx->mem.arena = mmap(NULL, NR_SLOTS * SLOT, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fx->mem.ram = mmap(NULL, RAM_LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(fx->mem.arena, MAP_FAILED);
	assert_ptr_not_equal(fx->mem.ram, MAP_FAILED);
	*state = fx;
	return 0;
}

static int teardown(void **state)
{
	struct fx *fx = *state;

	munmap(fx->mem.arena, NR_SLOTS * SLOT);
	munmap(fx->mem.ram, RAM_LEN);
	free(fx);
	return 0;
}

/* A configuration of the given kind, on fresh memory. */
static void choose(struct fx *fx, const struct kind *kind)
{
	uint8_t *arena = fx->mem.arena;
	char *ram = fx->mem.ram;

	fx->mem = (struct mem){.arena = arena, .ram = ram, .table_pa = TABLES_PA, .ram_pa = RAM_PA};
	fx->cfg = (struct dart_pt_cfg){
		.fmt = kind->fmt, .mem = &mem_ops, .mem_ctx = &fx->mem, .can_window = true};
	assert_int_equal(dart_geometry_init(&fx->cfg.geo, kind->fmt, kind->page_lg2, kind->ias), 0);
	fx->cfg.geo.levels = kind->levels;
	fx->page = BIT(kind->page_lg2);
}

static void create(struct fx *fx)
{
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), 0);
	fx->sh = dart_pt_shadow(fx->pt);
	assert_int_equal(fx->sh->granule, fx->page);
}

static void destroy(struct fx *fx)
{
	fx->sh->ops->destroy(fx->sh);
	assert_int_equal(fx->mem.nr_used, 0);
}

static void *hva(struct fx *fx, uint64_t off)
{
	return fx->mem.ram + off;
}

static int prepare(struct fx *fx, uint64_t iova, uint64_t off, uint64_t len)
{
	return fx->sh->ops->prepare(fx->sh, iova, hva(fx, off), len);
}

static void map(struct fx *fx, uint64_t iova, uint64_t off, uint64_t len, unsigned prot)
{
	assert_int_equal(prepare(fx, iova, off, len), 0);
	assert_int_equal(fx->sh->ops->map(fx->sh, iova, hva(fx, off), len, prot), 0);
}

static void unmap(struct fx *fx, uint64_t iova, uint64_t len)
{
	fx->sh->ops->unmap(fx->sh, iova, len);
}

static bool mem_read(void *ctx, uint64_t pa, uint64_t *entry)
{
	struct mem *m = ctx;
	uint8_t *at = mem_at(m, pa);

	if (!at || pa % 8 || !m->used[(at - m->arena) / SLOT])
		return false;
	*entry = __atomic_load_n((uint64_t *)at, __ATOMIC_ACQUIRE);
	return true;
}

static int walk(struct fx *fx, uint64_t iova, struct dart_leaf *leaf)
{
	unsigned level;

	return dart_walk(fx->cfg.fmt, &fx->cfg.geo,
			 dart_pt_top(fx->pt, dart_ttbr_index(&fx->cfg.geo, iova)), iova, mem_read,
			 &fx->mem, leaf, &level);
}

static void assert_hole(struct fx *fx, uint64_t iova, uint64_t len)
{
	struct dart_leaf leaf;

	for (uint64_t at = 0; at < len; at += fx->page) {
		if (walk(fx, iova + at, &leaf) != -EFAULT)
			fail_msg("0x%jx is no hole", (uintmax_t)(iova + at));
	}
}

static void assert_leaf(struct fx *fx, uint64_t iova, uint64_t pa, unsigned prot, unsigned first,
			unsigned last)
{
	struct dart_leaf leaf = {0};
	int ret = walk(fx, iova, &leaf);

	if (ret || leaf.pa != pa || leaf.prot != prot || leaf.first != first || leaf.last != last)
		fail_msg("0x%jx: %d, pa 0x%jx not 0x%jx, prot %u not %u, [0x%x, 0x%x] not [0x%x, "
			 "0x%x]",
			 (uintmax_t)iova, ret, (uintmax_t)leaf.pa, (uintmax_t)pa, leaf.prot, prot,
			 leaf.first, leaf.last, first, last);
}

static void assert_mapped(struct fx *fx, uint64_t iova, uint64_t off, uint64_t len, unsigned prot)
{
	for (uint64_t at = 0; at < len; at += fx->page)
		assert_leaf(fx, iova + at, ram_pa(&fx->mem, off + at), prot, 0, fx->page - 1);
}

/* ---- map and unmap -------------------------------------------------------------------------- */

static void an_empty_table_maps_nothing(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		choose(fx, &kinds[k]);
		create(fx);
		for (unsigned i = 0; i < fx->cfg.geo.nr_ttbrs; i++)
			assert_true(dart_pt_top(fx->pt, i) != 0);
		assert_int_equal(dart_pt_top(fx->pt, fx->cfg.geo.nr_ttbrs), 0);
		for (uint64_t iova = 0; iova < BIT(kinds[k].ias); iova += BIT(kinds[k].ias) / 64)
			assert_hole(fx, iova, fx->page);
		destroy(fx);
	}
}

static void a_range_is_mapped_as_long_as_it_is_and_no_longer(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t reach, iova, len;

		choose(fx, &kinds[k]);
		create(fx);
		reach = BIT(dart_level_lg2(&fx->cfg.geo, 1));
		/* The last page of one leaf table, all of the next, the first page of a third. */
		iova = 3 * reach - fx->page;
		len = reach + 2 * fx->page;
		for (unsigned prot = RO; prot <= RW; prot++) {
			map(fx, iova, 8 * fx->page, len, prot);
			assert_mapped(fx, iova, 8 * fx->page, len, prot);
			assert_hole(fx, iova - fx->page, fx->page);
			assert_hole(fx, iova + len, fx->page);
			unmap(fx, iova, len);
			assert_hole(fx, iova - fx->page, len + 2 * fx->page);
		}
		destroy(fx);
	}
}

static void the_first_and_the_last_page_of_the_iova_space_can_be_mapped(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t last;

		choose(fx, &kinds[k]);
		create(fx);
		last = BIT(kinds[k].ias) - fx->page;
		map(fx, 0, 0, fx->page, RW);
		map(fx, last, fx->page, fx->page, RO);
		assert_mapped(fx, 0, 0, fx->page, RW);
		assert_mapped(fx, last, fx->page, fx->page, RO);
		unmap(fx, last, fx->page);
		assert_hole(fx, last, fx->page);
		assert_mapped(fx, 0, 0, fx->page, RW);
		destroy(fx);
	}
}

static void a_4k_range_goes_on_under_the_next_ttbr(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[KIND_4K]);
	create(fx);
	for (unsigned i = 1; i < 4; i++) {
		uint64_t iova = i * BIT(30) - 2 * fx->page;

		map(fx, iova, 0, 4 * fx->page, RW);
		assert_mapped(fx, iova, 0, 4 * fx->page, RW);
		assert_hole(fx, iova + 4 * fx->page, fx->page);
		unmap(fx, iova, 4 * fx->page);
		assert_hole(fx, iova, 4 * fx->page);
	}
	destroy(fx);
}

static void each_physical_run_lands_where_it_is(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (unsigned pages = 1; pages <= 8; pages *= 2) {
			choose(fx, &kinds[k]);
			fx->mem.chunk = pages * fx->page;
			create(fx);
			map(fx, 0x100000, 3 * fx->page, 37 * fx->page, RW);
			assert_mapped(fx, 0x100000, 3 * fx->page, 37 * fx->page, RW);
			assert_hole(fx, 0x100000 + 37 * fx->page, fx->page);
			destroy(fx);
		}
	}
}

static void pieces_smaller_than_a_page_are_joined_if_they_are_contiguous(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[0]);
	fx->mem.max_run = 0x1000;
	create(fx);
	map(fx, 0x100000, 0, 5 * fx->page, RW);
	assert_mapped(fx, 0x100000, 0, 5 * fx->page, RW);
	/* 4 KiB pages in descending order make no 16 KiB page. */
	fx->mem.chunk = 0x1000;
	assert_int_equal(prepare(fx, 0x200000, 0, fx->page), -EFAULT);
	fx->mem.ram_pa = RAM_PA + 0x1000; /* nor if the first is aligned to 16 KiB */
	assert_true(IS_ALIGNED(ram_pa(&fx->mem, 0), fx->page));
	assert_int_equal(prepare(fx, 0x200000, 0, fx->page), -EFAULT);
	destroy(fx);
}

static void an_address_is_asked_for_once_a_run(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[0]);
	create(fx);
	assert_int_equal(prepare(fx, 0, 0, UINT64_C(64) << 20), 0);
	fx->mem.nr_pa_of = 0;
	assert_int_equal(fx->sh->ops->map(fx->sh, 0, hva(fx, 0), UINT64_C(64) << 20, RW), 0);
	assert_int_equal(fx->mem.nr_pa_of, 1);
	destroy(fx);
}

/* ---- replace and windows -------------------------------------------------------------------- */

static void replace_changes_one_word_and_nothing_else(void **state)
{
	struct fx *fx = *state;
	uint64_t *before = malloc(NR_SLOTS * SLOT);

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t iova = 0x2000000 - 2 * SLOT, changed = 0;

		choose(fx, &kinds[k]);
		create(fx);
		map(fx, iova, 0, 8 * fx->page, RW);
		assert_int_equal(prepare(fx, iova + fx->page, 0x100000, fx->page), 0);
		memcpy(before, fx->mem.arena, NR_SLOTS * SLOT);
		fx->sh->ops->replace(fx->sh, iova + fx->page, hva(fx, 0x100000), RO, 0,
				     fx->page - 1);
		for (unsigned i = 0; i < NR_SLOTS * SLOT / 8; i++)
			changed += before[i] != ((uint64_t *)fx->mem.arena)[i];
		assert_int_equal(changed, 1);
		assert_mapped(fx, iova + fx->page, 0x100000, fx->page, RO);
		assert_mapped(fx, iova, 0, fx->page, RW);
		assert_mapped(fx, iova + 2 * fx->page, 2 * fx->page, 6 * fx->page, RW);
		destroy(fx);
	}
	free(before);
}

/*
 * A child replaces the page, an instruction at a time; after each the shared table is walked. A
 * thread that watches would miss a moment of one instruction.
 */
static void a_page_being_replaced_is_the_old_or_the_new_one_after_every_instruction(void **state)
{
	struct fx *fx = *state;
	uint64_t iova = 0x40000, steps = 0;
	bool seen_old = false, seen_new = false;
	struct dart_leaf leaf;
	int status;
	pid_t pid;

	choose(fx, &kinds[0]);
	create(fx);
	map(fx, iova, 0, fx->page, RW);
	assert_int_equal(prepare(fx, iova, fx->page, fx->page), 0);

	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(1);
		raise(SIGSTOP);
		fx->sh->ops->replace(fx->sh, iova, hva(fx, fx->page), RO, 0, fx->page - 1);
		raise(SIGSTOP);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status)) {
		destroy(fx);
		print_message("skipped: no ptrace here\n");
		skip();
	}
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0);
	for (;;) {
		assert_int_equal(walk(fx, iova, &leaf), 0);
		if (leaf.pa == ram_pa(&fx->mem, 0) && leaf.prot == RW)
			seen_old = true;
		else if (leaf.pa == ram_pa(&fx->mem, fx->page) && leaf.prot == RO)
			seen_new = true;
		else
			fail_msg("pa 0x%jx, prot %u", (uintmax_t)leaf.pa, leaf.prot);
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL)) {
			steps = 0;
			break;
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSTOPPED(status));
		if (WSTOPSIG(status) == SIGSTOP)
			break;
		assert_int_equal(WSTOPSIG(status), SIGTRAP);
		steps++;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	destroy(fx);
	if (!steps) {
		print_message("skipped: no single steps here\n");
		skip();
	}
	assert_true(seen_old && seen_new);
}

static void a_window_bounds_its_page(void **state)
{
	struct fx *fx = *state;
	const struct shadow_ops *ops;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (kinds[k].page_lg2 != 14)
			continue;
		choose(fx, &kinds[k]);
		create(fx);
		ops = fx->sh->ops;
		assert_true(fx->sh->can_window);
		assert_int_equal(prepare(fx, 0x8000, 0x4000, 0x4000), 0);
		assert_int_equal(
			ops->map_window(fx->sh, 0x8000, hva(fx, 0x4000), RO, 0x1000, 0x2fff), 0);
		assert_leaf(fx, 0x8000, RAM_PA + 0x4000, RO, 0x1000, 0x2fff);
		assert_hole(fx, 0x4000, 0x4000);
		assert_hole(fx, 0xc000, 0x4000);
		ops->replace(fx->sh, 0x8000, hva(fx, 0x4000), RW, 8, 0x3fff);
		assert_leaf(fx, 0x8000, RAM_PA + 0x4000, RW, 8, 0x3fff);
		unmap(fx, 0x8000, 0x4000);
		assert_hole(fx, 0x8000, 0x4000);
		/* What no entry can say. */
		assert_int_equal(ops->map_window(fx->sh, 0x8000, hva(fx, 0), RW, 0x1000, 0x4fff),
				 -EINVAL);
		assert_int_equal(ops->map_window(fx->sh, 0x8000, hva(fx, 0), RW, 0, 0x100000fff),
				 -EINVAL);
		assert_int_equal(ops->map_window(fx->sh, 0x8000, hva(fx, 0), RW, 0x1000, 0xfff),
				 -EINVAL);
		assert_int_equal(ops->map_window(fx->sh, 0x8000, hva(fx, 0), 0, 0, 0xfff), -EINVAL);
		assert_hole(fx, 0x8000, 0x4000);
		destroy(fx);
	}
}

static void no_window_is_made_where_none_was_asked_for_or_known(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < 2; k++) { /* not asked for, 16 KiB; 4 KiB */
		choose(fx, &kinds[k ? KIND_4K : 0]);
		fx->cfg.can_window = k;
		create(fx);
		assert_false(fx->sh->can_window);
		assert_int_equal(prepare(fx, 0x8000, 0, fx->page), 0);
		assert_int_equal(fx->sh->ops->map_window(fx->sh, 0x8000, hva(fx, 0), RW, 0, 0x7ff),
				 -EINVAL);
		assert_hole(fx, 0x8000, fx->page);
		destroy(fx);
	}
}

static void a_replace_that_cannot_be_shuts_the_page(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[0]);
	fx->cfg.can_window = false;
	create(fx);
	map(fx, 0x8000, 0, 2 * fx->page, RW);
	fx->sh->ops->replace(fx->sh, 0x8000, hva(fx, 0), RW, 0, 0xfff);
	assert_hole(fx, 0x8000, fx->page);
	fx->mem.bad_len = fx->page;
	fx->sh->ops->replace(fx->sh, 0xc000, hva(fx, 0), RW, 0, 0x3fff);
	assert_hole(fx, 0xc000, fx->page);
	destroy(fx);
}

/* ---- prepare -------------------------------------------------------------------------------- */

static void what_cannot_be_mapped_is_refused_by_prepare(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t end = BIT(kinds[k].ias), bytes;
		int (*map_op)(struct shadow *, uint64_t, void *, uint64_t, unsigned);

		choose(fx, &kinds[k]);
		create(fx);
		map_op = fx->sh->ops->map;
		bytes = dart_pt_bytes(fx->pt);
		assert_int_equal(prepare(fx, 0x100000, 0, 0), -EINVAL);
		assert_int_equal(prepare(fx, 0x100800, 0, fx->page), -EINVAL);
		assert_int_equal(prepare(fx, 0x100000, 0, fx->page / 2), -EINVAL);
		assert_int_equal(prepare(fx, end, 0, fx->page), -ERANGE);
		assert_int_equal(prepare(fx, end - fx->page, 0, 2 * fx->page), -ERANGE);
		assert_int_equal(prepare(fx, UINT64_MAX - fx->page + 1, 0, fx->page), -ERANGE);
		assert_int_equal(prepare(fx, UINT64_MAX - fx->page + 1, 0, 2 * fx->page), -ERANGE);
		/* Host memory off the page. */
		assert_int_equal(prepare(fx, 0x100000, 0x800, fx->page), -EFAULT);
		/* A page that no device can reach, behind some that it can. */
		fx->mem.bad = 5 * fx->page;
		fx->mem.bad_len = fx->page;
		assert_int_equal(prepare(fx, 0x100000, 4 * fx->page, 2 * fx->page), -EFAULT);
		assert_int_equal(map_op(fx->sh, 0x100000, hva(fx, 5 * fx->page), fx->page, RW),
				 -EFAULT);
		fx->mem.bad_len = 0;
		/* Memory whose last page lies beyond the physical address width. */
		fx->mem.ram_pa = BIT(fx->cfg.geo.oas) - 2 * fx->page;
		assert_int_equal(prepare(fx, 0x100000, 0, 3 * fx->page), -EFAULT);
		fx->mem.ram_pa = UINT64_MAX - fx->page + 1;
		assert_int_equal(prepare(fx, 0x100000, 0, 2 * fx->page), -EFAULT);
		fx->mem.ram_pa = RAM_PA;
		assert_int_equal(dart_pt_bytes(fx->pt), bytes); /* no table for any of them */
		assert_hole(fx, 0x100000, 8 * fx->page);
		/* The last two pages below that width are fine. */
		fx->mem.ram_pa = BIT(fx->cfg.geo.oas) - 2 * fx->page;
		map(fx, 0x100000, 0, 2 * fx->page, RW);
		assert_mapped(fx, 0x100000, 0, 2 * fx->page, RW);
		/* No right at all is no mapping. */
		assert_int_equal(map_op(fx->sh, 0x200000, hva(fx, 0), fx->page, 0), -EINVAL);
		assert_int_equal(map_op(fx->sh, 0x200000, hva(fx, 0), fx->page, RW + 1), -EINVAL);
		assert_hole(fx, 0x200000, fx->page);
		destroy(fx);
	}
}

static int pa_of_no_progress(void *ctx, const void *p, uint64_t len, uint64_t *pa, uint64_t *run)
{
	(void)ctx, (void)p, (void)len;
	*pa = RAM_PA;
	*run = 0;
	return 0;
}

static int pa_of_too_long(void *ctx, const void *p, uint64_t len, uint64_t *pa, uint64_t *run)
{
	(void)len;
	*pa = ram_pa(ctx, (uint64_t)((const char *)p - ((struct mem *)ctx)->ram));
	*run = UINT64_MAX;
	return 0;
}

static void a_run_that_is_nonsense_neither_hangs_nor_maps_more(void **state)
{
	struct fx *fx = *state;
	struct dart_mem_ops ops = mem_ops;

	choose(fx, &kinds[0]);
	fx->cfg.mem = &ops;
	create(fx);
	ops.pa_of = pa_of_no_progress;
	assert_int_equal(prepare(fx, 0x100000, 0, 4 * fx->page), -EFAULT);
	ops.pa_of = pa_of_too_long;
	map(fx, 0x100000, 0, 2 * fx->page, RW);
	assert_mapped(fx, 0x100000, 0, 2 * fx->page, RW);
	assert_hole(fx, 0x100000 + 2 * fx->page, 4 * fx->page);
	destroy(fx);
}

static void what_was_prepared_is_mapped_without_an_allocation(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t iova;

		choose(fx, &kinds[k]);
		create(fx);
		iova = BIT(dart_level_lg2(&fx->cfg.geo, 1)) - 4 * fx->page;
		assert_int_equal(prepare(fx, iova, 0, 8 * fx->page), 0);
		assert_int_equal(prepare(fx, iova, 0, 8 * fx->page), 0); /* again */
		iommu_alloc_fail_nth(1);
		assert_int_equal(fx->sh->ops->map(fx->sh, iova, hva(fx, 0), 8 * fx->page, RW), 0);
		fx->sh->ops->replace(fx->sh, iova, hva(fx, 0), RO, 0, fx->page - 1);
		unmap(fx, iova + fx->page, fx->page);
		assert_int_equal(iommu_alloc_fail_nth(0), 1); /* none was made */
		assert_mapped(fx, iova, 0, fx->page, RO);
		assert_hole(fx, iova + fx->page, fx->page);
		assert_mapped(fx, iova + 2 * fx->page, 2 * fx->page, 6 * fx->page, RW);
		destroy(fx);
	}
}

static void a_map_that_nobody_prepared_maps_nothing(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t reach;

		choose(fx, &kinds[k]);
		create(fx);
		reach = BIT(dart_level_lg2(&fx->cfg.geo, 1));
		map(fx, 0, 0, fx->page, RW); /* the first leaf table is there, the second not */
		assert_int_equal(fx->sh->ops->map(fx->sh, reach - 2 * fx->page, hva(fx, 0),
						  4 * fx->page, RW),
				 -EINVAL);
		assert_hole(fx, reach - 2 * fx->page, 4 * fx->page);
		assert_mapped(fx, 0, 0, fx->page, RW);
		/* Nor do these write anywhere. */
		fx->sh->ops->replace(fx->sh, reach, hva(fx, 0), RW, 0, fx->page - 1);
		fx->sh->ops->replace(fx->sh, BIT(kinds[k].ias), hva(fx, 0), RW, 0, fx->page - 1);
		unmap(fx, reach, fx->page);
		unmap(fx, BIT(kinds[k].ias), fx->page);
		unmap(fx, 0, UINT64_MAX & ~(fx->page - 1));
		unmap(fx, 0, fx->page / 2);
		assert_mapped(fx, 0, 0, fx->page, RW);
		destroy(fx);
	}
}

static void any_allocation_of_prepare_may_fail(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		uint64_t iova, reach;
		unsigned n;
		int ret;

		for (n = 1;; n++) {
			choose(fx, &kinds[k]);
			create(fx);
			reach = BIT(dart_level_lg2(&fx->cfg.geo, 1));
			map(fx, 0, 0, fx->page, RW);
			/* Two leaf tables, below two directories where there are three levels. */
			iova = BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1)) -
			       4 * fx->page;
			if (iova + reach >= BIT(kinds[k].ias))
				iova = 2 * reach - 4 * fx->page;
			iommu_alloc_fail_nth(n);
			ret = prepare(fx, iova, 0x100000, 8 * fx->page);
			if (iommu_alloc_fail_nth(0))
				break;
			assert_int_equal(ret, -ENOMEM);
			assert_int_equal(dart_pt_bytes(fx->pt), fx->mem.nr_used * fx->page);
			assert_hole(fx, iova, 8 * fx->page);
			assert_mapped(fx, 0, 0, fx->page, RW);
			/* The same request can be made again. */
			map(fx, iova, 0x100000, 8 * fx->page, RW);
			assert_mapped(fx, iova, 0x100000, 8 * fx->page, RW);
			destroy(fx);
		}
		assert_int_equal(ret, 0);
		assert_true(n > 1);
		destroy(fx);
	}
}

static void any_allocation_of_create_may_fail(void **state)
{
	static const struct dart_region direct[] = {{0x40000, 0xa00000000, 0x8000, RW},
						    {0x80000000, 0xb00000000, 0x4000, RO}};
	struct fx *fx = *state;
	struct dart_pt *pt;
	unsigned n;
	int ret;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		choose(fx, &kinds[k]);
		fx->cfg.direct = direct;
		fx->cfg.nr_direct = ARRAY_SIZE(direct);
		for (n = 1;; n++) {
			iommu_alloc_fail_nth(n);
			ret = dart_pt_create(&fx->cfg, &pt);
			if (iommu_alloc_fail_nth(0))
				break;
			assert_int_equal(ret, -ENOMEM);
			assert_int_equal(fx->mem.nr_used, 0);
		}
		assert_int_equal(ret, 0);
		assert_true(n > 4);
		fx->pt = pt;
		fx->sh = dart_pt_shadow(pt);
		destroy(fx);
	}
}

static void tables_take_no_more_memory_than_they_may(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		unsigned nr, tops = kinds[k].page_lg2 == 12 ? 4 : 1;
		uint64_t reach;

		choose(fx, &kinds[k]);
		/* One byte short of the top tables. */
		fx->cfg.max_table_bytes = tops * fx->page - 1;
		assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -ENOMEM);
		assert_int_equal(fx->mem.nr_used, 0);
		fx->cfg.max_table_bytes = (tops + 6) * fx->page;
		create(fx);
		reach = BIT(dart_level_lg2(&fx->cfg.geo, 1));
		assert_int_equal(dart_pt_bytes(fx->pt), tops * fx->page);
		for (nr = 0; prepare(fx, nr * reach, 0, fx->page) == 0; nr++) {
			map(fx, nr * reach, 0, fx->page, RW);
			assert_true(nr < 10);
		}
		assert_int_equal(nr, 6 - (kinds[k].levels - 2)); /* one directory on the way */
		assert_int_equal(prepare(fx, nr * reach, 0, fx->page), -ENOMEM);
		assert_int_equal(dart_pt_bytes(fx->pt), fx->cfg.max_table_bytes);
		assert_int_equal(fx->mem.nr_used, tops + 6);
		/* What is there can still be used. */
		map(fx, fx->page, fx->page, fx->page, RO);
		assert_mapped(fx, fx->page, fx->page, fx->page, RO);
		assert_mapped(fx, (nr - 1) * reach, 0, fx->page, RW);
		destroy(fx);
	}
}

static void a_table_where_darts_cannot_reach_is_given_back(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[0]);
	fx->mem.table_pa = BIT(36); /* DART1 has 36 bits */
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -ENOMEM);
	assert_int_equal(fx->mem.nr_used, 0);
	fx->mem.table_pa = BIT(36) - SLOT; /* the top is below, the leaf table above */
	create(fx);
	assert_int_equal(prepare(fx, 0, 0, fx->page), -ENOMEM);
	assert_int_equal(fx->mem.nr_used, 1);
	assert_hole(fx, 0, fx->page);
	destroy(fx);
	fx->mem.table_pa = TABLES_PA + 0x1000; /* off the page */
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -ENOMEM);
	assert_int_equal(fx->mem.nr_used, 0);
}

/* ---- direct regions ------------------------------------------------------------------------- */

static void direct_regions_are_there_from_the_start_and_stay(void **state)
{
	/* Not in order; the second crosses from one leaf table to the next at both page sizes. */
	static const struct dart_region direct[] = {{0x80000000, 0xb00000000, 0x4000, RO},
						    {0x1ffc000, 0xa00000000, 0x8000, RW}};
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		choose(fx, &kinds[k]);
		fx->cfg.direct = direct;
		fx->cfg.nr_direct = 2;
		create(fx);
		for (unsigned round = 0; round < 3; round++) {
			for (uint64_t at = 0; at < 0x8000; at += fx->page)
				assert_leaf(fx, 0x1ffc000 + at, 0xa00000000 + at, RW, 0,
					    fx->page - 1);
			for (uint64_t at = 0; at < 0x4000; at += fx->page)
				assert_leaf(fx, 0x80000000 + at, 0xb00000000 + at, RO, 0,
					    fx->page - 1);
			assert_hole(fx, 0x1ffc000 - fx->page, fx->page);
			assert_hole(fx, 0x2004000, fx->page);
			assert_hole(fx, 0x80000000 - fx->page, fx->page);
			assert_hole(fx, 0x80004000, fx->page);
			if (round == 0) {
				/* Neighbours, and one far away, go by clear(). */
				map(fx, 0x1ffc000 - fx->page, 0, fx->page, RW);
				map(fx, 0x2004000, 0, fx->page, RW);
				map(fx, 0x80000000 - fx->page, 0, fx->page, RW);
				map(fx, 0x80004000, 0, fx->page, RW);
				map(fx, BIT(kinds[k].ias) - fx->page, 0, fx->page, RW);
				dart_pt_clear(fx->pt);
				assert_hole(fx, BIT(kinds[k].ias) - fx->page, fx->page);
			} else if (round == 1) {
				/* Nothing else can be put there, nothing taken away. */
				assert_int_equal(prepare(fx, 0x1ff8000, 0, 0x8000), -EINVAL);
				assert_int_equal(prepare(fx, 0x2000000, 0, fx->page), -EINVAL);
				assert_int_equal(fx->sh->ops->map(fx->sh, 0x2000000, hva(fx, 0),
								  fx->page, RW),
						 -EINVAL);
				fx->sh->ops->replace(fx->sh, 0x2000000, hva(fx, 0), RW, 0,
						     fx->page - 1);
				unmap(fx, 0x1ff8000, 0x10000);
				unmap(fx, 0x80000000, 0x4000);
				/* An unmap behind a region reaches no farther back than it says. */
				map(fx, 0x2004000, 0, 2 * fx->page, RW);
				unmap(fx, 0x2004000 + fx->page, fx->page);
				assert_mapped(fx, 0x2004000, 0, fx->page, RW);
				assert_hole(fx, 0x2004000 + fx->page, fx->page);
				unmap(fx, 0x2004000, fx->page);
			}
		}
		destroy(fx);
	}
}

static const struct {
	const char *why;
	struct dart_region r[2];
} bad_regions[] = {
	{"IOVA off the page", {{0x40800, 0xa00000000, 0x4000, RW}, {0x80000, 0, 0x4000, RW}}},
	{"PA off the page", {{0x40000, 0xa00000800, 0x4000, RW}, {0x80000, 0, 0x4000, RW}}},
	{"half a page", {{0x40000, 0xa00000000, 0x4800, RW}, {0x80000, 0, 0x4000, RW}}},
	{"empty", {{0x40000, 0xa00000000, 0, RW}, {0x80000, 0, 0x4000, RW}}},
	{"no right", {{0x40000, 0xa00000000, 0x4000, 0}, {0x80000, 0, 0x4000, RW}}},
	{"overlap", {{0x40000, 0xa00000000, 0x8000, RW}, {0x44000, 0, 0x4000, RW}}},
	{"twice", {{0x40000, 0xa00000000, 0x4000, RW}, {0x40000, 0xa00000000, 0x4000, RW}}},
	{"beyond the IOVA", {{BIT(42), 0xa00000000, 0x4000, RW}, {0x80000, 0, 0x4000, RW}}},
	{"wraps", {{0x40000, 0xa00000000, 0xffffffffffffc000, RW}, {0x80000, 0, 0x4000, RW}}},
	{"PA too wide", {{0x40000, BIT(42) - 0x4000, 0x8000, RW}, {0x80000, 0, 0x4000, RW}}},
	{"PA wraps", {{0x40000, 0xffffffffffffc000, 0x8000, RW}, {0x80000, 0, 0x4000, RW}}},
};

static void a_bad_direct_region_is_refused(void **state)
{
	struct fx *fx = *state;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (unsigned i = 0; i < ARRAY_SIZE(bad_regions); i++) {
			choose(fx, &kinds[k]);
			fx->cfg.direct = bad_regions[i].r;
			fx->cfg.nr_direct = 2;
			if (dart_pt_create(&fx->cfg, &fx->pt) != -EINVAL)
				fail_msg("kind %u: %s", k, bad_regions[i].why);
			assert_int_equal(fx->mem.nr_used, 0);
		}
	}
}

static void a_geometry_that_does_not_fit_the_format_is_refused(void **state)
{
	struct fx *fx = *state;

	choose(fx, &kinds[0]);
	fx->cfg.geo.levels = 3; /* DART1 has two */
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	choose(fx, &kinds[4]);
	fx->cfg.geo.levels = 2; /* 42 bits need three */
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	choose(fx, &kinds[0]);
	fx->cfg.geo.nr_ttbrs = 4;
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	choose(fx, &kinds[0]);
	fx->cfg.geo.oas = 42;
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	assert_int_equal(fx->mem.nr_used, 0);
}

/* ---- adoption ------------------------------------------------------------------------------- */

/*
 * Where a firmware's table lies in the arena (not among what table_alloc() lends), and which of its
 * entries are in use. What they name is nowhere: nobody may follow them.
 */
#define FW_SLOT (NR_SLOTS - 1)
static const unsigned fw_entries[] = {0, 1, 5, 7, 8, 9};

static void adopt(struct fx *fx, const struct kind *kind)
{
	uint64_t *top = (uint64_t *)(fx->mem.arena + FW_SLOT * SLOT);

	choose(fx, kind);
	memset(top, 0, SLOT);
	for (unsigned i = 0; i < ARRAY_SIZE(fw_entries); i++)
		assert_int_equal(dart_table_pack(fx->cfg.fmt, &fx->cfg.geo,
						 UINT64_C(0x7ffff0000) + i * SLOT,
						 &top[fw_entries[i]]),
				 0);
	top[9] &= ~UINT64_C(1); /* not valid, but not empty either */
	fx->mem.used[FW_SLOT] = true;
	fx->mem.firmware_top = TABLES_PA + FW_SLOT * SLOT;
	fx->cfg.adopt = fx->mem.firmware_top;
}

static const unsigned adopting_kinds[] = {0, 2, 3, 4};

static void adoption_fills_only_what_firmware_left_empty(void **state)
{
	struct fx *fx = *state;
	uint64_t before[SLOT / 8];

	for (unsigned a = 0; a < ARRAY_SIZE(adopting_kinds); a++) {
		const uint64_t *top = (const uint64_t *)(fx->mem.arena + FW_SLOT * SLOT);
		uint64_t reach, page;

		adopt(fx, &kinds[adopting_kinds[a]]);
		memcpy(before, top, sizeof(before));
		create(fx);
		page = fx->page;
		reach = BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1));
		assert_int_equal(dart_pt_top(fx->pt, 0), fx->cfg.adopt);
		assert_int_equal(dart_pt_bytes(fx->pt), 0);
		assert_memory_equal(top, before, sizeof(before));

		/* Entries 2, 3 and 4 are free; 5 is not. */
		map(fx, 2 * reach, 0, page, RW);
		map(fx, 4 * reach - page, page, 2 * page, RO);
		assert_mapped(fx, 2 * reach, 0, page, RW);
		assert_mapped(fx, 4 * reach - page, page, 2 * page, RO);
		for (unsigned i = 0; i < SLOT / 8; i++) {
			if (i >= 2 && i <= 4)
				assert_int_not_equal(top[i], 0);
			else
				assert_int_equal(top[i], before[i]);
		}

		/* Under an entry of the firmware nothing is mapped, replaced or unmapped. */
		assert_int_equal(prepare(fx, 0, 0, page), -EINVAL);
		assert_int_equal(prepare(fx, 5 * reach - page, 0, 2 * page), -EINVAL);
		assert_int_equal(prepare(fx, 9 * reach, 0, page), -EINVAL);
		assert_int_equal(fx->sh->ops->map(fx->sh, reach, hva(fx, 0), page, RW), -EINVAL);
		fx->sh->ops->replace(fx->sh, reach, hva(fx, 0), RW, 0, page - 1);
		unmap(fx, 0, 2 * reach);
		for (unsigned i = 0; i < ARRAY_SIZE(fw_entries); i++)
			assert_int_equal(top[fw_entries[i]], before[fw_entries[i]]);

		dart_pt_clear(fx->pt);
		assert_hole(fx, 2 * reach, page);
		assert_hole(fx, 4 * reach - page, 2 * page);
		for (unsigned i = 0; i < ARRAY_SIZE(fw_entries); i++)
			assert_int_equal(top[fw_entries[i]], before[fw_entries[i]]);
		map(fx, 2 * reach, 0, page, RW); /* it goes on after clear() */
		assert_mapped(fx, 2 * reach, 0, page, RW);

		destroy(fx);
		assert_memory_equal(top, before, sizeof(before));
	}
}

static void what_firmware_maps_is_reported(void **state)
{
	struct fx *fx = *state;

	for (unsigned a = 0; a < ARRAY_SIZE(adopting_kinds); a++) {
		struct iova_range r[4];
		uint64_t reach;

		adopt(fx, &kinds[adopting_kinds[a]]);
		create(fx);
		reach = BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1));
		map(fx, 6 * reach, 0, fx->page, RW); /* ours is not the firmware's */
		assert_int_equal(dart_pt_firmware_ranges(fx->pt, NULL, 0), 3);
		memset(r, 0xee, sizeof(r));
		assert_int_equal(dart_pt_firmware_ranges(fx->pt, r, 2), 3);
		assert_int_equal(r[2].start, UINT64_C(0xeeeeeeeeeeeeeeee));
		assert_int_equal(dart_pt_firmware_ranges(fx->pt, r, 4), 3);
		assert_int_equal(r[0].start, 0);
		assert_int_equal(r[0].last, 2 * reach - 1);
		assert_int_equal(r[1].start, 5 * reach);
		assert_int_equal(r[1].last, 6 * reach - 1);
		assert_int_equal(r[2].start, 7 * reach);
		assert_int_equal(r[2].last, 10 * reach - 1);
		destroy(fx);
	}
	choose(fx, &kinds[0]);
	create(fx);
	assert_int_equal(dart_pt_firmware_ranges(fx->pt, NULL, 0), 0);
	destroy(fx);
}

static void a_firmware_range_ends_with_the_iova_space(void **state)
{
	struct fx *fx = *state;
	uint64_t *top = (uint64_t *)(fx->mem.arena + FW_SLOT * SLOT);
	struct iova_range r;

	/* 36 bits in three levels: the one entry in use reaches exactly that far, 33 bits less. */
	for (unsigned ias = 33; ias <= 36; ias += 3) {
		choose(fx, &kinds[5]);
		fx->cfg.geo.ias = ias;
		memset(top, 0, SLOT);
		top[0] = top[2] = 0x1001; /* no IOVA reaches the second */
		fx->mem.used[FW_SLOT] = true;
		fx->mem.firmware_top = fx->cfg.adopt = TABLES_PA + FW_SLOT * SLOT;
		create(fx);
		assert_int_equal(dart_pt_firmware_ranges(fx->pt, &r, 1), 1);
		assert_int_equal(r.start, 0);
		assert_int_equal(r.last, BIT(ias) - 1);
		destroy(fx);
	}

	/* 32 bits reach 128 entries of a table. */
	adopt(fx, &kinds[0]);
	top[128] = 0x1001;
	create(fx);
	assert_int_equal(dart_pt_firmware_ranges(fx->pt, NULL, 0), 3);
	top[127] = 0x1001;
	assert_int_equal(dart_pt_firmware_ranges(fx->pt, NULL, 0), 4);
	destroy(fx);
}

/* Judged when the DART is told to forget: nothing of ours is in the table, nothing in our leaves,
 * and nothing is freed yet. */
struct forgetter {
	struct fx *fx;
	const uint64_t *top, *before;
	const uint8_t *leaf_table; /* one of ours */
	unsigned calls, nr_used;
	bool result;
};

static bool forget(void *ctx)
{
	struct forgetter *f = ctx;

	f->calls++;
	f->nr_used = f->fx->mem.nr_used;
	assert_memory_equal(f->top, f->before, SLOT);
	for (unsigned i = 0; f->leaf_table && i < SLOT; i++)
		assert_int_equal(f->leaf_table[i], 0);
	return f->result;
}

static void adopted_tables_are_forgotten_before_ours_are_given_back(void **state)
{
	struct fx *fx = *state;
	uint64_t before[SLOT / 8];
	struct forgetter f = {.fx = fx,
			      .top = (const uint64_t *)(fx->mem.arena + FW_SLOT * SLOT),
			      .before = before};

	for (unsigned a = 0; a < ARRAY_SIZE(adopting_kinds); a++) {
		for (unsigned result = 0; result < 2; result++) {
			struct dart_region direct = {0, 0xa00000000, SLOT, RW};
			unsigned ours;

			adopt(fx, &kinds[adopting_kinds[a]]);
			memcpy(before, f.top, sizeof(before));
			f.calls = 0;
			f.result = result;
			fx->cfg.forget = forget;
			fx->cfg.forget_ctx = &f;
			/* Entry 3 is free. */
			direct.iova = 3 * BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1));
			fx->cfg.direct = &direct;
			fx->cfg.nr_direct = 1;
			create(fx);
			map(fx, direct.iova + SLOT, 0, SLOT, RW);
			ours = fx->cfg.geo.levels - 1;
			assert_int_equal(fx->mem.nr_used, ours);
			f.leaf_table = fx->mem.arena + (ours - 1) * SLOT;
			assert_int_not_equal(*(const uint64_t *)f.leaf_table, 0);
			fx->sh->ops->destroy(fx->sh);
			assert_int_equal(f.calls, 1);
			assert_int_equal(f.nr_used, ours);
			/* If the DART may still know them they are nobody's ever again. */
			assert_int_equal(fx->mem.nr_used, result ? 0 : ours);
			assert_memory_equal(f.top, before, sizeof(before));
		}
	}
}

static void whoever_leaves_an_adopted_table_says_so(void **state)
{
	struct fx *fx = *state;
	uint64_t before[SLOT / 8];
	struct forgetter f = {.fx = fx,
			      .top = (const uint64_t *)(fx->mem.arena + FW_SLOT * SLOT),
			      .before = before,
			      .result = true};
	/* The second is under an entry of the firmware, after the first was installed. */
	struct dart_region direct[2] = {{.pa = 0xa00000000, .len = SLOT, .prot = RW},
					{.pa = 0xa00000000, .len = SLOT, .prot = RW}};

	for (unsigned a = 0; a < ARRAY_SIZE(adopting_kinds); a++) {
		uint64_t reach;

		adopt(fx, &kinds[adopting_kinds[a]]);
		memcpy(before, f.top, sizeof(before));
		fx->cfg.forget = forget;
		fx->cfg.forget_ctx = &f;
		create(fx);
		f.calls = 0;
		destroy(fx); /* nothing was added */
		assert_int_equal(f.calls, 1);

		reach = BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1));
		direct[0].iova = 3 * reach;
		direct[1].iova = 5 * reach;
		fx->cfg.direct = direct;
		fx->cfg.nr_direct = 2;
		f.calls = 0;
		assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
		assert_int_equal(f.calls, 1);
		assert_int_equal(fx->mem.nr_used, 0);
		assert_memory_equal(f.top, before, sizeof(before));
	}
}

static void an_adopted_table_that_cannot_be_used_is_refused(void **state)
{
	static const struct dart_region direct = {0x2000000, 0xa00000000, 0x4000, RW};
	struct fx *fx = *state;
	uint64_t before[SLOT / 8], *top = (uint64_t *)(fx->mem.arena + FW_SLOT * SLOT);

	adopt(fx, &kinds[0]);
	fx->cfg.adopt += SLOT / 2;
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	fx->cfg.adopt = BIT(36);
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	fx->cfg.adopt = fx->mem.firmware_top - SLOT;
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EIO);
	/* Entry 1, which the region would need, is the firmware's. */
	fx->cfg.adopt = fx->mem.firmware_top;
	fx->cfg.direct = &direct;
	fx->cfg.nr_direct = 1;
	memcpy(before, top, sizeof(before));
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	assert_memory_equal(top, before, sizeof(before));
	/* Four top tables are not adopted. */
	choose(fx, &kinds[KIND_4K]);
	fx->cfg.adopt = TABLES_PA;
	assert_int_equal(dart_pt_create(&fx->cfg, &fx->pt), -EINVAL);
	assert_int_equal(fx->mem.nr_used, 0);
}

static void any_allocation_under_an_adopted_table_may_fail(void **state)
{
	struct fx *fx = *state;
	uint64_t before[SLOT / 8], *top = (uint64_t *)(fx->mem.arena + FW_SLOT * SLOT);
	struct dart_region direct = {0, 0xa00000000, 0x4000, RW};
	unsigned n;
	int ret;

	for (unsigned a = 0; a < ARRAY_SIZE(adopting_kinds); a++) {
		for (n = 1;; n++) {
			adopt(fx, &kinds[adopting_kinds[a]]);
			direct.iova = 3 * BIT(dart_level_lg2(&fx->cfg.geo, fx->cfg.geo.levels - 1));
			fx->cfg.direct = &direct;
			fx->cfg.nr_direct = 1;
			memcpy(before, top, sizeof(before));
			iommu_alloc_fail_nth(n);
			ret = dart_pt_create(&fx->cfg, &fx->pt);
			if (iommu_alloc_fail_nth(0))
				break;
			assert_int_equal(ret, -ENOMEM);
			assert_int_equal(fx->mem.nr_used, 0);
			assert_memory_equal(top, before, sizeof(before));
		}
		assert_int_equal(ret, 0);
		assert_true(n > 3);
		fx->sh = dart_pt_shadow(fx->pt);
		assert_leaf(fx, direct.iova, direct.pa, RW, 0, SLOT - 1);
		destroy(fx);
		assert_memory_equal(top, before, sizeof(before));
	}
}

/* ---- sharing -------------------------------------------------------------------------------- */

static void only_tables_of_the_same_kind_are_shared(void **state)
{
	static const struct dart_region a[] = {{0x40000, 0xa00000000, 0x8000, RW},
					       {0x80000, 0xb00000000, 0x4000, RO}};
	static const struct dart_region swapped[] = {{0x80000, 0xb00000000, 0x4000, RO},
						     {0x40000, 0xa00000000, 0x8000, RW}};
	static const struct dart_region other[][2] = {
		{{0x40000, 0xa00000000, 0x8000, RW}, {0x84000, 0xb00000000, 0x4000, RO}},
		{{0x40000, 0xa00000000, 0x8000, RW}, {0x80000, 0xb00004000, 0x4000, RO}},
		{{0x40000, 0xa00000000, 0x8000, RW}, {0x80000, 0xb00000000, 0x8000, RO}},
		{{0x40000, 0xa00000000, 0x8000, RW}, {0x80000, 0xb00000000, 0x4000, RW}},
	};
	struct fx *fx = *state;
	struct dart_pt_cfg cfg;
	struct shadow foreign = {0};

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		choose(fx, &kinds[k]);
		fx->cfg.direct = a;
		fx->cfg.nr_direct = 2;
		create(fx);
		assert_ptr_equal(dart_pt_of(fx->sh), fx->pt);
		assert_true(dart_pt_same_kind(fx->pt, &fx->cfg));
		cfg = fx->cfg;
		cfg.direct = swapped;
		assert_true(dart_pt_same_kind(fx->pt, &cfg));
		for (unsigned i = 0; i < ARRAY_SIZE(other); i++) {
			cfg.direct = other[i];
			assert_false(dart_pt_same_kind(fx->pt, &cfg));
		}
		cfg.direct = a;
		cfg.nr_direct = 1;
		assert_false(dart_pt_same_kind(fx->pt, &cfg));
		cfg = fx->cfg;
		cfg.adopt = TABLES_PA;
		assert_false(dart_pt_same_kind(fx->pt, &cfg));
		cfg = fx->cfg;
		cfg.geo.oas--;
		assert_false(dart_pt_same_kind(fx->pt, &cfg));
		/* A stream that does no windows cannot walk a table that has some. */
		cfg = fx->cfg;
		cfg.can_window = false;
		assert_int_equal(dart_pt_same_kind(fx->pt, &cfg), !fx->sh->can_window);
		for (unsigned o = 0; o < ARRAY_SIZE(kinds); o++) {
			cfg = fx->cfg;
			cfg.fmt = kinds[o].fmt;
			assert_int_equal(dart_geometry_init(&cfg.geo, cfg.fmt, kinds[o].page_lg2,
							    kinds[o].ias),
					 0);
			cfg.geo.levels = kinds[o].levels;
			assert_int_equal(dart_pt_same_kind(fx->pt, &cfg), o == k);
		}
		destroy(fx);
	}
	assert_null(dart_pt_of(&foreign));

	adopt(fx, &kinds[0]);
	create(fx);
	cfg = fx->cfg;
	cfg.adopt = 0;
	assert_false(dart_pt_same_kind(fx->pt, &fx->cfg));
	assert_false(dart_pt_same_kind(fx->pt, &cfg));
	destroy(fx);
}

/* ---- random runs ---------------------------------------------------------------------------- */

#define PAGES 96u /* around a border of leaf tables */

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void random_operations_agree_with_an_array(void **state)
{
	static const uint64_t chunks[] = {0, 1, 4};
	struct fx *fx = *state;
	uint64_t seed = 0x2545f4914f6cdd1d;

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct dart_leaf model[PAGES] = {0}; /* prot 0: a hole */
		uint64_t base;

		choose(fx, &kinds[k]);
		fx->mem.chunk = chunks[k % ARRAY_SIZE(chunks)] * fx->page;
		create(fx);
		/* The highest border there is: of top entries, or of TTBRs, if there are two. */
		base = BIT(dart_level_lg2(&fx->cfg.geo,
					  fx->cfg.geo.levels - (fx->cfg.geo.nr_ttbrs == 1)));
		if (base >= BIT(kinds[k].ias))
			base = BIT(dart_level_lg2(&fx->cfg.geo, 1));
		base -= PAGES / 2 * fx->page;

		for (unsigned step = 0; step < 4000; step++) {
			unsigned i = next_random(&seed) % PAGES;
			unsigned nr = 1 + next_random(&seed) % 20, run;
			unsigned prot = 1 + next_random(&seed) % 3;
			uint64_t off = next_random(&seed) % 1000 * fx->page;
			unsigned first = 0, last = fx->page - 1;
			bool hole = !model[i].prot;

			for (run = 0; run < nr && i + run < PAGES && !model[i + run].prot == hole;)
				run++;
			if (fx->sh->can_window && next_random(&seed) % 2) {
				first = next_random(&seed) % (fx->page / 8);
				last = 8 * (first + next_random(&seed) % (fx->page / 8 - first)) +
				       7;
				first *= 8;
			}
			switch (next_random(&seed) % 3) {
			case 0:
				if (!hole)
					break;
				map(fx, base + i * fx->page, off, run * fx->page, prot);
				for (unsigned j = 0; j < run; j++)
					model[i + j] = (struct dart_leaf){
						ram_pa(&fx->mem, off + j * fx->page), prot, 0,
						fx->page - 1};
				break;
			case 1:
				if (hole)
					break;
				unmap(fx, base + i * fx->page, run * fx->page);
				for (unsigned j = 0; j < run; j++)
					model[i + j].prot = 0;
				break;
			case 2:
				if (hole && !fx->sh->can_window)
					break;
				assert_int_equal(prepare(fx, base + i * fx->page, off, fx->page),
						 0);
				if (hole)
					assert_int_equal(fx->sh->ops->map_window(
								 fx->sh, base + i * fx->page,
								 hva(fx, off), prot, first, last),
							 0);
				else
					fx->sh->ops->replace(fx->sh, base + i * fx->page,
							     hva(fx, off), prot, first, last);
				model[i] = (struct dart_leaf){ram_pa(&fx->mem, off), prot, first,
							      last};
				break;
			}
			for (unsigned j = 0; j < PAGES; j++) {
				if (model[j].prot)
					assert_leaf(fx, base + j * fx->page, model[j].pa,
						    model[j].prot, model[j].first, model[j].last);
				else
					assert_hole(fx, base + j * fx->page, fx->page);
			}
		}
		assert_hole(fx, base - fx->page, fx->page);
		assert_hole(fx, base + PAGES * fx->page, fx->page);
		dart_pt_clear(fx->pt);
		assert_hole(fx, base, PAGES * fx->page);
		destroy(fx);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_empty_table_maps_nothing),
		TEST(a_range_is_mapped_as_long_as_it_is_and_no_longer),
		TEST(the_first_and_the_last_page_of_the_iova_space_can_be_mapped),
		TEST(a_4k_range_goes_on_under_the_next_ttbr),
		TEST(each_physical_run_lands_where_it_is),
		TEST(pieces_smaller_than_a_page_are_joined_if_they_are_contiguous),
		TEST(an_address_is_asked_for_once_a_run),
		TEST(replace_changes_one_word_and_nothing_else),
		TEST(a_page_being_replaced_is_the_old_or_the_new_one_after_every_instruction),
		TEST(a_window_bounds_its_page),
		TEST(no_window_is_made_where_none_was_asked_for_or_known),
		TEST(a_replace_that_cannot_be_shuts_the_page),
		TEST(what_cannot_be_mapped_is_refused_by_prepare),
		TEST(a_run_that_is_nonsense_neither_hangs_nor_maps_more),
		TEST(what_was_prepared_is_mapped_without_an_allocation),
		TEST(a_map_that_nobody_prepared_maps_nothing),
		TEST(any_allocation_of_prepare_may_fail),
		TEST(any_allocation_of_create_may_fail),
		TEST(tables_take_no_more_memory_than_they_may),
		TEST(a_table_where_darts_cannot_reach_is_given_back),
		TEST(direct_regions_are_there_from_the_start_and_stay),
		TEST(a_bad_direct_region_is_refused),
		TEST(a_geometry_that_does_not_fit_the_format_is_refused),
		TEST(adoption_fills_only_what_firmware_left_empty),
		TEST(what_firmware_maps_is_reported),
		TEST(a_firmware_range_ends_with_the_iova_space),
		TEST(adopted_tables_are_forgotten_before_ours_are_given_back),
		TEST(whoever_leaves_an_adopted_table_says_so),
		TEST(an_adopted_table_that_cannot_be_used_is_refused),
		TEST(any_allocation_under_an_adopted_table_may_fail),
		TEST(only_tables_of_the_same_kind_are_shared),
		TEST(random_operations_agree_with_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
