/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A B+tree. Keys are the starts of mappings; leaves hold the mappings and are linked, inner nodes
 * hold children. keys[i] of an inner node is a lower bound of what is below child i and lies above
 * everything below child i - 1; keys[0] is never compared.
 *
 * Keys stand apart from values so that a search reads few cache lines, and both kinds of node share
 * one layout so that one piece of code splits, merges and evens out either.
 */
#include "iommu/maptree.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "iommu/alloc.h"

#define NODE_SLOTS 32
/* A node below this is merged with or filled from a sibling. Well under half, so that the two
 * halves of a split do not merge again at once. A split at either end of the tree may leave fewer.
 */
#define NODE_MIN   (NODE_SLOTS / 4)
/* Inner nodes have NODE_MIN children or more, the root two: 16 levels outlive any memory. */
#define MAX_HEIGHT 16

struct value {
	uint64_t last;
	uint64_t gpa;
	uint32_t flags;
};

union slot {
	struct value value; /* leaf */
	struct node *child; /* inner node */
};

struct node {
	unsigned count;
	struct node *prev, *next; /* leaves only: neighbours in key order */
	uint64_t keys[NODE_SLOTS];
	union slot slots[NODE_SLOTS];
};

struct maptree {
	struct node *root;
	unsigned height; /* levels; 1: the root is a leaf */
	size_t count;
};

/* The way from a leaf (level 0) up to the root: which node, and which of its children was taken. */
struct path {
	struct node *node[MAX_HEIGHT];
	unsigned index[MAX_HEIGHT];
};

static struct node *node_create(void)
{
	struct node *node = iommu_alloc(sizeof(*node));

	if (node) {
		node->count = 0;
		node->prev = NULL;
		node->next = NULL;
	}
	return node;
}

/* node_upper_bound - how many of keys[first..] and those before it are <= @key */
static unsigned node_upper_bound(const struct node *node, unsigned first, uint64_t key)
{
	const uint64_t *base = node->keys + first;
	unsigned left = node->count - first;

	/* No branch depends on a key: which half is taken is a coin toss that no predictor learns.
	 */
	while (left > 1) {
		unsigned half = left / 2;

		base = base[half - 1] <= key ? base + half : base;
		left -= half;
	}
	return (unsigned)(base - node->keys) + (left && *base <= key);
}

/* node_move - @n entries to another node, or to another place in the same; counts are the caller's
 */
static void node_move(struct node *dst, unsigned at, const struct node *src, unsigned from,
		      unsigned n)
{
	memmove(&dst->keys[at], &src->keys[from], n * sizeof(src->keys[0]));
	memmove(&dst->slots[at], &src->slots[from], n * sizeof(src->slots[0]));
}

static void node_insert(struct node *node, unsigned at, uint64_t key, union slot slot)
{
	node_move(node, at + 1, node, at, node->count - at);
	node->keys[at] = key;
	node->slots[at] = slot;
	node->count++;
}

static void node_remove(struct node *node, unsigned at)
{
	node->count--;
	node_move(node, at, node, at + 1, node->count - at);
}

/* find_leaf - the only leaf that may hold @start; *pos: how many of its keys are <= @start */
static struct node *find_leaf(const struct maptree *tree, uint64_t start, unsigned *pos,
			      struct path *path)
{
	struct node *node = tree->root;

	for (unsigned level = tree->height - 1; level > 0; level--) {
		unsigned index = node_upper_bound(node, 1, start) - 1;

		if (path) {
			path->node[level] = node;
			path->index[level] = index;
		}
		node = node->slots[index].child;
	}
	if (path)
		path->node[0] = node;
	*pos = node_upper_bound(node, 0, start);
	return node;
}

/* find_overlap - leaf and index of the lowest mapping that overlaps [start, last]; NULL if none
 * does.
 * @leaf, @pos: what find_leaf() says of @start */
static const struct node *find_overlap(const struct node *leaf, unsigned *pos, uint64_t start,
				       uint64_t last)
{
	const struct node *before = leaf;
	unsigned before_pos = *pos;

	if (!before_pos && leaf->prev) {
		before = leaf->prev;
		before_pos = before->count;
	}
	if (before_pos && before->slots[before_pos - 1].value.last >= start) {
		*pos = before_pos - 1;
		return before;
	}
	if (*pos == leaf->count && leaf->next) {
		leaf = leaf->next;
		*pos = 0;
	}
	if (*pos < leaf->count && leaf->keys[*pos] <= last)
		return leaf;
	return NULL;
}

int maptree_create(struct maptree **out)
{
	struct maptree *tree;

	tree = iommu_alloc(sizeof(*tree));
	if (!tree)
		return -ENOMEM;
	tree->root = node_create();
	if (!tree->root)
		goto err_free;
	tree->height = 1;
	tree->count = 0;
	*out = tree;
	return 0;

err_free:
	iommu_free(tree);
	return -ENOMEM;
}

/* @level: 0 for a leaf; recursion is as deep as the tree is high */
static void free_subtree(struct node *node, unsigned level)
{
	for (unsigned i = 0; level > 0 && i < node->count; i++)
		free_subtree(node->slots[i].child, level - 1);
	iommu_free(node);
}

void maptree_destroy(struct maptree *tree)
{
	if (!tree)
		return;
	free_subtree(tree->root, tree->height - 1);
	iommu_free(tree);
}

/*
 * split_insert - move the upper part of full @left into empty @right, then insert into the one it
 * belongs
 *
 * Half and half, but for a leaf at either end of the tree that grows outwards: its entries stay
 * together and the new one gets a node of its own, so that mappings made in ascending order, or in
 * descending order as Linux allocates IOVAs, fill their nodes.
 */
static void split_insert(struct node *left, struct node *right, unsigned at, uint64_t key,
			 union slot slot, bool leaf)
{
	unsigned keep = NODE_SLOTS / 2;

	if (leaf) {
		if (at == NODE_SLOTS && !left->next)
			keep = NODE_SLOTS;
		else if (at == 0 && !left->prev)
			keep = 0;
		right->prev = left;
		right->next = left->next;
		if (right->next)
			right->next->prev = right;
		left->next = right;
	}
	right->count = NODE_SLOTS - keep;
	node_move(right, 0, left, keep, right->count);
	left->count = keep;
	if (at < keep || (at == keep && right->count))
		node_insert(left, at, key, slot);
	else
		node_insert(right, at - keep, key, slot);
}

int maptree_insert(struct maptree *tree, const struct mapping *map)
{
	union slot slot = {.value = {.last = map->last, .gpa = map->gpa, .flags = map->flags}};
	struct node *spare[MAX_HEIGHT], *leaf, *node;
	unsigned nr_spare = 0, nr_full = 0, level, pos, at;
	uint64_t key = map->start;
	struct path path;

	if (map->last < map->start)
		return -EINVAL;
	leaf = find_leaf(tree, map->start, &pos, &path);
	at = pos;
	if (find_overlap(leaf, &pos, map->start, map->last))
		return -EEXIST;

	/* Whatever the splits need is there before the first change. */
	while (nr_full < tree->height && path.node[nr_full]->count == NODE_SLOTS)
		nr_full++;
	for (; nr_spare < nr_full + (nr_full == tree->height); nr_spare++) {
		spare[nr_spare] = node_create();
		if (!spare[nr_spare])
			goto err_spare;
	}

	for (level = 0; level < nr_full; level++) {
		struct node *right = spare[level];

		split_insert(path.node[level], right, at, key, slot, level == 0);
		/* What goes into the level above is the new node. */
		key = right->keys[0];
		slot.child = right;
		if (level + 1 < tree->height)
			at = path.index[level + 1] + 1;
	}
	if (level < tree->height) {
		node_insert(path.node[level], at, key, slot);
	} else {
		assert(tree->height < MAX_HEIGHT);
		node = spare[level];
		node_insert(node, 0, 0, (union slot){.child = tree->root});
		node_insert(node, 1, key, slot);
		tree->root = node;
		tree->height++;
	}
	tree->count++;
	return 0;

err_spare:
	while (nr_spare--)
		iommu_free(spare[nr_spare]);
	return -ENOMEM;
}

bool maptree_first(const struct maptree *tree, uint64_t start, uint64_t last, struct mapping *out)
{
	const struct node *leaf;
	unsigned pos;

	leaf = find_leaf(tree, start, &pos, NULL);
	leaf = find_overlap(leaf, &pos, start, last);
	if (!leaf)
		return false;
	*out = (struct mapping){
		.start = leaf->keys[pos],
		.last = leaf->slots[pos].value.last,
		.gpa = leaf->slots[pos].value.gpa,
		.flags = leaf->slots[pos].value.flags,
	};
	return true;
}

/*
 * rebalance - bring child @index of @parent, which has got few entries, together with a sibling
 * @leaf: the children are leaves
 * One of the two may go; it is then no longer among @parent's.
 */
static void rebalance(struct node *parent, unsigned index, bool leaf)
{
	unsigned right_index = index ? index : 1;
	struct node *left = parent->slots[right_index - 1].child;
	struct node *right = parent->slots[right_index].child;
	unsigned sum = left->count + right->count;
	unsigned n, half = sum / 2;

	if (sum <= NODE_SLOTS) {
		node_move(left, left->count, right, 0, right->count);
		left->count = sum;
		if (leaf) {
			left->next = right->next;
			if (left->next)
				left->next->prev = left;
		}
		node_remove(parent, right_index);
		iommu_free(right);
		return;
	}
	if (left->count > half) {
		n = left->count - half;
		node_move(right, n, right, 0, right->count);
		node_move(right, 0, left, half, n);
	} else {
		n = half - left->count;
		node_move(left, left->count, right, 0, n);
		node_move(right, 0, right, n, right->count - n);
	}
	left->count = half;
	right->count = sum - half;
	parent->keys[right_index] = right->keys[0];
}

int maptree_remove(struct maptree *tree, uint64_t start)
{
	struct path path;
	struct node *root, *leaf;
	unsigned pos;

	leaf = find_leaf(tree, start, &pos, &path);
	if (!pos || leaf->keys[pos - 1] != start)
		return -ENOENT;
	node_remove(leaf, pos - 1);
	tree->count--;
	for (unsigned level = 0; level + 1 < tree->height; level++) {
		if (path.node[level]->count >= NODE_MIN)
			break;
		rebalance(path.node[level + 1], path.index[level + 1], level == 0);
	}
	root = tree->root;
	if (tree->height > 1 && root->count == 1) {
		tree->root = root->slots[0].child;
		tree->height--;
		iommu_free(root);
	}
	return 0;
}

size_t maptree_count(const struct maptree *tree)
{
	return tree->count;
}
