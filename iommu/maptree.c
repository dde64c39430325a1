/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A B+tree of 1 KiB nodes. A leaf's entry is a whole mapping in 16 bytes:
 *
 *	key: first page of the iova, 52 bits << 3 | MAP_* flags
 *	val: first page of the gpa, 36 bits << 28 | pages - 1
 *
 * An inner node's entry is a child: val is a ref to it, key a lower bound of what is below it,
 *above everything below the child before it, flags 0. A node's first key is its own key in its
 *parent; on the left edge it is 0, so that a search always finds a child.
 *
 * A node is nothing but its entries, so that 64 of them fill it: how many are in use stands in the
 * ref to the node, in bits that its alignment leaves. Keys that are not in use are KEY_NONE, above
 * any key, so a search has a fixed number of steps, and few wait for another: eight compares, eight
 * cache lines asked for at once, say which eight entries to compare next. In a million mappings
 *made in no order the time goes to memory, and this is about once for each leaf. Nothing points to
 *a neighbour; who needs one goes over the path from the root.
 */
#include "iommu/maptree.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "iommu/alloc.h"
#include "iommu/base.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1, asm-generic/mman-common.h */
#endif

#define PAGE_LG2  12
#define PAGE_MASK ((UINT64_C(1) << PAGE_LG2) - 1)

#define KEY_FLAGS     UINT64_C(7)
#define KEY_PAGE_LG2  3
#define KEY_NONE      UINT64_MAX
#define VAL_PAGES_LG2 28
#define VAL_PAGES     ((UINT64_C(1) << VAL_PAGES_LG2) - 1)
#define VAL_GPA_LG2   48

#define GROUP_SLOTS 8
#define NODE_SLOTS  64
/* A node below this is merged with or filled from a sibling. */
#define NODE_MIN    (NODE_SLOTS / 3)
/* Merged nodes have room, and nodes that lend to a full sibling have more: the work of moving half
 * a node is paid for by the operations that must come before it is done again. */
#define MERGE_MAX   (NODE_SLOTS - 4)
#define SPILL_MAX   (NODE_SLOTS - 8)
/* A node has NODE_MIN entries or a nearly full sibling, so that ten children a node are few. */
#define MAX_HEIGHT  16

struct entry {
	uint64_t key;
	uint64_t val;
};

struct node {
	struct entry e[NODE_SLOTS];
};

#define NODE_SIZE  sizeof(struct node)
#define NODE_ALIGN 128
/* A ref is the address of a node | entries in use, 0 to NODE_SLOTS. */
#define REF_COUNT  (NODE_ALIGN - UINT64_C(1))

/*
 * Nodes come from chunks, the first of them small, each new one a fraction of what there is, in the
 * end CHUNK_MAX. A chunk goes when it is empty, unless a new one would soon be needed.
 */
#define CHUNK_MIN    (4096 / NODE_SIZE)
#define CHUNK_MAX    ((2u << 20) / NODE_SIZE)
#define CHUNK_GROWTH 8		     /* a new chunk is 1/8 of what there is */
#define CHUNK_ENOUGH (CHUNK_MAX / 2) /* nodes in all from which on chunks are CHUNK_MAX */

struct chunk {
	struct chunk *next;
	struct node *nodes;
	struct node *free; /* given back; each holds the next in e[0].val */
	unsigned nr;
	unsigned used;
	unsigned fresh; /* nodes[fresh..] have never been lent: the kernel need not back them */
};

/* The way from a leaf (level 0) up to the root: which node, and which of its children was taken. */
struct path {
	struct node *node[MAX_HEIGHT];
	unsigned index[MAX_HEIGHT];
	/* Keys of the leaf are in [low, high): the bounds that the inner nodes set. */
	uint64_t low, high;
};

struct maptree {
	/* The leftmost leaf, always: a split makes a node to the right, a merge empties the right
	 * one. So a tree of one leaf holds no chunk. First, for its alignment. */
	struct node leaf;
	uint64_t root;	 /* a ref */
	unsigned height; /* levels; 1: the root is a leaf */
	size_t count;
	struct chunk *chunks;	  /* oldest first */
	size_t nr_nodes, nr_used; /* of all chunks */
	/* Where the last search ended. MAP looks and inserts, UNMAP looks, looks and removes, all
	 * in one leaf; and neighbours are often next. low > high: none. */
	struct path last_path;
	uint64_t last_key; /* inserted last; where the next is beside it, more are expected there */
};

/* ---- refs and entries ---- */

static struct node *ref_node(uint64_t ref)
{
	return (struct node *)(uintptr_t)(ref & ~REF_COUNT);
}

static unsigned ref_count(uint64_t ref)
{
	return ref & REF_COUNT;
}

static uint64_t ref_make(const struct node *node, unsigned count)
{
	return (uintptr_t)node | count;
}

static uint64_t key_page(uint64_t key)
{
	return key >> KEY_PAGE_LG2;
}

/* entry_last_page - last page of the mapping, inclusive */
static uint64_t entry_last_page(const struct entry *entry)
{
	return key_page(entry->key) + (entry->val & VAL_PAGES);
}

static int pack(const struct mapping *map, struct entry *out)
{
	uint64_t more;

	if (map->last < map->start)
		return -EINVAL;
	more = (map->last - map->start) >> PAGE_LG2;
	if ((map->start & PAGE_MASK) || (~map->last & PAGE_MASK) || (map->gpa & PAGE_MASK) ||
	    map->gpa >> VAL_GPA_LG2 || more > VAL_PAGES || map->flags > KEY_FLAGS)
		return -ERANGE;
	out->key = map->start >> PAGE_LG2 << KEY_PAGE_LG2 | map->flags;
	out->val = map->gpa >> PAGE_LG2 << VAL_PAGES_LG2 | more;
	return 0;
}

static void unpack(const struct entry *entry, struct mapping *out)
{
	*out = (struct mapping){
		.start = key_page(entry->key) << PAGE_LG2,
		.last = entry_last_page(entry) << PAGE_LG2 | PAGE_MASK,
		.gpa = entry->val >> VAL_PAGES_LG2 << PAGE_LG2,
		.flags = entry->key & KEY_FLAGS,
	};
}

/* ---- chunks ---- */

static int chunk_create(struct maptree *tree)
{
	size_t nr = MAX(tree->nr_nodes / CHUNK_GROWTH / CHUNK_MIN * CHUNK_MIN, CHUNK_MIN);
	struct chunk *chunk, **end;

	if (tree->nr_nodes >= CHUNK_ENOUGH)
		nr = CHUNK_MAX;
	chunk = iommu_zalloc(sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	chunk->nodes =
		iommu_alloc_aligned(nr * NODE_SIZE, nr == CHUNK_MAX ? nr * NODE_SIZE : NODE_SIZE);
	if (!chunk->nodes)
		goto err_free;
	chunk->nr = nr;
	for (end = &tree->chunks; *end; end = &(*end)->next)
		;
	*end = chunk;
	tree->nr_nodes += nr;
	return 0;

err_free:
	iommu_free(chunk);
	return -ENOMEM;
}

static void chunk_destroy(struct maptree *tree, struct chunk **link)
{
	struct chunk *chunk = *link;

	*link = chunk->next;
	tree->nr_nodes -= chunk->nr;
	iommu_free(chunk->nodes);
	iommu_free(chunk);
}

/*
 * A chunk becomes one huge page when it is in use whole, not when it is made, or the part never
 * used would cost memory too. Without, random searches of a large tree miss the TLB as often as the
 * cache. Where the kernel cannot, that is all that happens.
 */
static struct node *chunk_fresh_node(struct chunk *chunk)
{
	struct node *node = &chunk->nodes[chunk->fresh++];

	if (chunk->fresh == CHUNK_MAX) {
		(void)madvise(chunk->nodes, CHUNK_MAX * NODE_SIZE, MADV_HUGEPAGE);
		(void)madvise(chunk->nodes, CHUNK_MAX * NODE_SIZE, MADV_COLLAPSE);
	}
	return node;
}

static struct node *node_get(struct maptree *tree)
{
	struct chunk *chunk = tree->chunks;
	struct node *node;

	if (tree->nr_used == tree->nr_nodes && chunk_create(tree))
		return NULL;
	/* The oldest that has room, so that the young ones empty. */
	for (chunk = tree->chunks; chunk->used == chunk->nr; chunk = chunk->next)
		;
	node = chunk->free;
	if (node)
		chunk->free = ref_node(node->e[0].val);
	else
		node = chunk_fresh_node(chunk);
	chunk->used++;
	tree->nr_used++;
	for (unsigned i = 0; i < NODE_SLOTS; i++)
		node->e[i].key = KEY_NONE;
	return node;
}

static void node_put(struct maptree *tree, struct node *node)
{
	struct chunk **link = &tree->chunks, *chunk;

	while (node < (*link)->nodes || node >= (*link)->nodes + (*link)->nr)
		link = &(*link)->next;
	chunk = *link;
	node->e[0].val = ref_make(chunk->free, 0);
	chunk->free = node;
	chunk->used--;
	tree->nr_used--;
	/* Unless the others are nearly full: it would be back soon. */
	if (!chunk->used && tree->nr_nodes - chunk->nr - tree->nr_used >= chunk->nr / 4)
		chunk_destroy(tree, link);
}

/* ---- nodes ---- */

/* node_upper_bound - how many keys are <= @key */
static unsigned node_upper_bound(const struct node *node, uint64_t key)
{
	const struct entry *group;
	unsigned nr = 0, within = 0;

#pragma GCC unroll 8
	for (unsigned i = 1; i < NODE_SLOTS / GROUP_SLOTS; i++)
		nr += node->e[i * GROUP_SLOTS].key <= key;
	group = &node->e[nr * GROUP_SLOTS];
#pragma GCC unroll 8
	for (unsigned i = 0; i < GROUP_SLOTS; i++)
		within += group[i].key <= key;
	return nr * GROUP_SLOTS + within;
}

/* @count: entries in use before */
static void node_insert(struct node *node, unsigned count, unsigned at, struct entry entry)
{
	memmove(&node->e[at + 1], &node->e[at], (count - at) * sizeof(entry));
	node->e[at] = entry;
}

static void node_remove(struct node *node, unsigned count, unsigned at)
{
	memmove(&node->e[at], &node->e[at + 1], (count - at - 1) * sizeof(node->e[0]));
	node->e[count - 1].key = KEY_NONE;
}

/* node_distribute - of @nl and @nr entries in neighbours leave @want in the left one, the rest in
 * the right */
static void node_distribute(struct node *left, unsigned nl, struct node *right, unsigned nr,
			    unsigned want)
{
	if (nl > want) {
		unsigned n = nl - want;

		memmove(&right->e[n], &right->e[0], nr * sizeof(right->e[0]));
		memcpy(&right->e[0], &left->e[want], n * sizeof(right->e[0]));
		for (unsigned i = want; i < nl; i++)
			left->e[i].key = KEY_NONE;
	} else {
		unsigned n = want - nl;

		memcpy(&left->e[nl], &right->e[0], n * sizeof(left->e[0]));
		memmove(&right->e[0], &right->e[n], (nr - n) * sizeof(left->e[0]));
		for (unsigned i = nr - n; i < nr; i++)
			right->e[i].key = KEY_NONE;
	}
}

/* ---- paths ---- */

/* path_ref - what refers to the node at @level: its count is there */
static uint64_t *path_ref(struct maptree *tree, const struct path *path, unsigned level)
{
	if (level + 1 == tree->height)
		return &tree->root;
	return &path->node[level + 1]->e[path->index[level + 1]].val;
}

static void forget_path(struct maptree *tree)
{
	tree->last_path.low = 1;
	tree->last_path.high = 0;
}

/* find_path - to the only leaf that may hold a mapping that starts at @page */
static struct path *find_path(struct maptree *tree, uint64_t page)
{
	uint64_t ref = tree->root, key = page << KEY_PAGE_LG2 | KEY_FLAGS;
	struct path *path = &tree->last_path;

	if (key >= path->low && key < path->high)
		return path;
	path->low = 0;
	path->high = KEY_NONE;
	for (unsigned level = tree->height - 1; level > 0; level--) {
		struct node *node = ref_node(ref);
		unsigned index = node_upper_bound(node, key) - 1;

		path->node[level] = node;
		path->index[level] = index;
		if (index)
			path->low = node->e[index].key;
		if (index + 1 < ref_count(ref))
			path->high = node->e[index + 1].key;
		ref = node->e[index].val;
	}
	path->node[0] = ref_node(ref);
	/* The lines between those that the search reads: an insert or a removal moves them. */
	for (unsigned i = GROUP_SLOTS / 2; i < NODE_SLOTS; i += GROUP_SLOTS)
		__builtin_prefetch(&path->node[0]->e[i], 1);
	return path;
}

/* before_leaf - the last entry of the leaf before the path's; NULL: there is none */
static const struct entry *before_leaf(const struct maptree *tree, const struct path *path)
{
	unsigned level = 1;
	uint64_t ref;

	while (level < tree->height && !path->index[level])
		level++;
	if (level == tree->height)
		return NULL;
	ref = path->node[level]->e[path->index[level] - 1].val;
	while (--level)
		ref = ref_node(ref)->e[ref_count(ref) - 1].val;
	return &ref_node(ref)->e[ref_count(ref) - 1];
}

/* after_leaf - the first entry of the leaf after the path's; NULL: there is none */
static const struct entry *after_leaf(struct maptree *tree, const struct path *path)
{
	unsigned level = 1;
	uint64_t ref;

	while (level < tree->height &&
	       path->index[level] + 1 == ref_count(*path_ref(tree, path, level)))
		level++;
	if (level == tree->height)
		return NULL;
	ref = path->node[level]->e[path->index[level] + 1].val;
	while (--level)
		ref = ref_node(ref)->e[0].val;
	return &ref_node(ref)->e[0];
}

/* find_overlap - the lowest mapping that has one of the pages [page, last]; NULL if none has
 * @at: how many keys of the path's leaf are <= @page */
static const struct entry *find_overlap(struct maptree *tree, const struct path *path, unsigned at,
					uint64_t page, uint64_t last)
{
	const struct node *leaf = path->node[0];
	const struct entry *entry;

	entry = at ? &leaf->e[at - 1] : before_leaf(tree, path);
	if (entry && entry_last_page(entry) >= page)
		return entry;
	if (at < NODE_SLOTS && leaf->e[at].key != KEY_NONE)
		entry = &leaf->e[at];
	else if (last >= key_page(path->high))
		entry = after_leaf(tree, path);
	else
		return NULL;
	return entry && key_page(entry->key) <= last ? entry : NULL;
}

/* ---- the tree ---- */

int maptree_create(struct maptree **out)
{
	struct maptree *tree;

	tree = iommu_alloc_aligned(ALIGN_UP(sizeof(*tree), NODE_ALIGN), NODE_ALIGN);
	if (!tree)
		return -ENOMEM;
	memset(tree, 0, sizeof(*tree));
	for (unsigned i = 0; i < NODE_SLOTS; i++)
		tree->leaf.e[i].key = KEY_NONE;
	tree->root = ref_make(&tree->leaf, 0);
	tree->height = 1;
	tree->last_key = KEY_NONE;
	forget_path(tree);
	*out = tree;
	return 0;
}

void maptree_destroy(struct maptree *tree)
{
	if (!tree)
		return;
	while (tree->chunks)
		chunk_destroy(tree, &tree->chunks);
	iommu_free(tree);
}

/*
 * cut - how many entries of two neighbours, @total in all, stay in the left one before the next
 * goes to @at
 *
 * Half of them. But mappings made one beside the other, upwards or downwards as Linux allocates
 * IOVAs, go on from there: cut there, as near as the nodes' size lets, they fill nodes to the last
 * entry. Inner nodes keep two children at least, so that each has a sibling.
 */
static unsigned cut(unsigned total, unsigned at, bool in_order, bool leaf)
{
	unsigned least = total > NODE_SLOTS ? total - NODE_SLOTS : 0;
	unsigned most = leaf ? NODE_SLOTS : NODE_SLOTS - 2;

	return in_order ? MIN(MAX(at, least), most) : total / 2;
}

/*
 * insert_in_two - distribute two neighbours' entries, at least one place being free, and insert one
 * at @at, counted from the first of the left
 */
static void insert_in_two(uint64_t *left, uint64_t *right, unsigned at, struct entry entry,
			  bool in_order, bool leaf)
{
	unsigned nl = ref_count(*left), nr = ref_count(*right);
	unsigned keep = cut(nl + nr, at, in_order, leaf);

	node_distribute(ref_node(*left), nl, ref_node(*right), nr, keep);
	nr = nl + nr - keep;
	nl = keep;
	if (at < nl || (at == nl && nl < NODE_SLOTS)) {
		node_insert(ref_node(*left), nl, at, entry);
		nl++;
	} else {
		node_insert(ref_node(*right), nr, at - nl, entry);
		nr++;
	}
	*left = ref_make(ref_node(*left), nl);
	*right = ref_make(ref_node(*right), nr);
}

/* set_bound - the parent's key of child @index is what the child's first entry says */
static void set_bound(struct node *parent, unsigned index)
{
	parent->e[index].key = ref_node(parent->e[index].val)->e[0].key & ~KEY_FLAGS;
}

/* spill_index - the child of the full node's parent that can take from it; the parent's count if
 * none can */
static unsigned spill_index(struct maptree *tree, const struct path *path, unsigned level)
{
	unsigned nr, index, nl_count, nr_count;
	const struct node *parent;

	if (level + 1 == tree->height)
		return UINT32_MAX;
	nr = ref_count(*path_ref(tree, path, level + 1));
	parent = path->node[level + 1];
	index = path->index[level + 1];
	nl_count = index ? ref_count(parent->e[index - 1].val) : NODE_SLOTS;
	nr_count = index + 1 < nr ? ref_count(parent->e[index + 1].val) : NODE_SLOTS;
	if (MIN(nl_count, nr_count) > SPILL_MAX)
		return UINT32_MAX;
	return nl_count < nr_count ? index - 1 : index + 1;
}

/* spill - insert @entry at @at of the full node at @level with the help of child @other of its
 * parent */
static void spill(const struct path *path, unsigned level, unsigned other, unsigned at,
		  struct entry entry, bool in_order)
{
	struct node *parent = path->node[level + 1];
	unsigned index = path->index[level + 1];
	unsigned right = MAX(index, other);

	if (other < index)
		at += ref_count(parent->e[other].val);
	insert_in_two(&parent->e[right - 1].val, &parent->e[right].val, at, entry, in_order,
		      !level);
	set_bound(parent, right);
}

static bool is_in_order(const struct maptree *tree, const struct path *path, unsigned at)
{
	const struct node *leaf = path->node[0];

	if (at && leaf->e[at - 1].key == tree->last_key)
		return true;
	if (at < NODE_SLOTS)
		return leaf->e[at].key == tree->last_key;
	/* Not a look at the next leaf: the bound is exact where the leaves were just split. */
	return path->high == (tree->last_key & ~KEY_FLAGS);
}

/* insert_full - insert @entry at @at of the path's leaf, which is full */
static int insert_full(struct maptree *tree, const struct path *path, unsigned at,
		       struct entry entry)
{
	unsigned nr_split = 0, nr_spare = 0, other = UINT32_MAX, level;
	bool in_order = is_in_order(tree, path, at);
	struct node *spare[MAX_HEIGHT + 1];
	uint64_t right = 0;

	/* Whatever the splits need is there before the first change. */
	while (nr_split < tree->height &&
	       ref_count(*path_ref(tree, path, nr_split)) == NODE_SLOTS) {
		other = spill_index(tree, path, nr_split);
		if (other != UINT32_MAX)
			break;
		nr_split++;
	}
	for (; nr_spare < nr_split + (nr_split == tree->height); nr_spare++) {
		spare[nr_spare] = node_get(tree);
		if (!spare[nr_spare])
			goto err_spare;
	}

	for (level = 0; level < nr_split; level++) {
		right = ref_make(spare[level], 0);
		insert_in_two(path_ref(tree, path, level), &right, at, entry, in_order, !level);
		/* What goes into the level above is the new node. */
		entry.key = spare[level]->e[0].key & ~KEY_FLAGS;
		entry.val = right;
		at = level + 1 < tree->height ? path->index[level + 1] + 1 : 0;
	}
	if (level == tree->height) {
		assert(tree->height < MAX_HEIGHT);
		spare[level]->e[0] = (struct entry){.key = 0, .val = tree->root};
		spare[level]->e[1] = entry;
		tree->root = ref_make(spare[level], 2);
		tree->height++;
	} else if (other != UINT32_MAX) {
		spill(path, level, other, at, entry, in_order);
	} else {
		uint64_t *ref = path_ref(tree, path, level);

		node_insert(path->node[level], ref_count(*ref), at, entry);
		++*ref;
	}
	forget_path(tree);
	return 0;

err_spare:
	while (nr_spare--)
		node_put(tree, spare[nr_spare]);
	return -ENOMEM;
}

int maptree_insert(struct maptree *tree, const struct mapping *map)
{
	struct entry entry;
	struct path *path;
	unsigned at, count;
	uint64_t page;
	int ret;

	ret = pack(map, &entry);
	if (ret)
		return ret;
	page = key_page(entry.key);
	path = find_path(tree, page);
	at = node_upper_bound(path->node[0], entry.key | KEY_FLAGS);
	if (find_overlap(tree, path, at, page, entry_last_page(&entry)))
		return -EEXIST;
	count = ref_count(*path_ref(tree, path, 0));
	if (count == NODE_SLOTS) {
		ret = insert_full(tree, path, at, entry);
		if (ret)
			return ret;
	} else {
		node_insert(path->node[0], count, at, entry);
		++*path_ref(tree, path, 0);
	}
	tree->last_key = entry.key;
	tree->count++;
	return 0;
}

bool maptree_first(const struct maptree *const_tree, uint64_t start, uint64_t last,
		   struct mapping *out)
{
	/* The mappings stay as they are, which is what a caller's const means: only the path is
	 * noted. */
	struct maptree *tree = (struct maptree *)const_tree;
	uint64_t page = start >> PAGE_LG2;
	const struct entry *entry;
	struct path *path;
	unsigned at;

	path = find_path(tree, page);
	at = node_upper_bound(path->node[0], page << KEY_PAGE_LG2 | KEY_FLAGS);
	entry = find_overlap(tree, path, at, page, last >> PAGE_LG2);
	if (!entry)
		return false;
	unpack(entry, out);
	return true;
}

/*
 * rebalance - bring the path's node at @level, which has got few entries, together with a sibling
 * One of the two may go; it is then no longer among its parent's.
 */
static void rebalance(struct maptree *tree, const struct path *path, unsigned level)
{
	struct node *parent = path->node[level + 1];
	unsigned index = path->index[level + 1];
	unsigned right = index ? index : 1;
	uint64_t *rl = &parent->e[right - 1].val, *rr = &parent->e[right].val;
	unsigned nl = ref_count(*rl), nr = ref_count(*rr), sum = nl + nr;
	unsigned want = sum <= MERGE_MAX ? sum : sum / 2;

	node_distribute(ref_node(*rl), nl, ref_node(*rr), nr, want);
	*rl = ref_make(ref_node(*rl), want);
	if (want < sum) {
		*rr = ref_make(ref_node(*rr), sum - want);
		set_bound(parent, right);
		return;
	}
	node_put(tree, ref_node(*rr));
	rl = path_ref(tree, path, level + 1);
	node_remove(parent, ref_count(*rl), right);
	--*rl;
}

/* shrink - take off a root that has one child; what is left of one leaf needs no chunk */
static void shrink(struct maptree *tree)
{
	struct node *root = ref_node(tree->root);

	if (tree->height == 1 || ref_count(tree->root) > 1)
		return;
	tree->root = root->e[0].val;
	tree->height--;
	node_put(tree, root);
	if (tree->height > 1)
		return;
	assert(ref_node(tree->root) == &tree->leaf && !tree->nr_used);
	while (tree->chunks)
		chunk_destroy(tree, &tree->chunks);
}

int maptree_remove(struct maptree *tree, uint64_t start)
{
	uint64_t page = start >> PAGE_LG2, *ref;
	struct path *path;
	unsigned at;

	path = find_path(tree, page);
	at = node_upper_bound(path->node[0], page << KEY_PAGE_LG2 | KEY_FLAGS);
	if ((start & PAGE_MASK) || !at || key_page(path->node[0]->e[at - 1].key) != page)
		return -ENOENT;
	ref = path_ref(tree, path, 0);
	node_remove(path->node[0], ref_count(*ref), at - 1);
	--*ref;
	tree->count--;
	for (unsigned level = 0; level + 1 < tree->height; level++) {
		if (ref_count(*path_ref(tree, path, level)) >= NODE_MIN)
			break;
		rebalance(tree, path, level);
		forget_path(tree);
	}
	shrink(tree);
	return 0;
}

size_t maptree_count(const struct maptree *tree)
{
	return tree->count;
}

size_t maptree_bytes(const struct maptree *tree)
{
	size_t bytes = sizeof(*tree);

	for (const struct chunk *chunk = tree->chunks; chunk; chunk = chunk->next)
		bytes += sizeof(*chunk) +
			 (chunk->nr == CHUNK_MAX ? chunk->fresh : chunk->nr) * NODE_SIZE;
	return bytes;
}
