/* state_tree.h - intrusive ordered set of the queue's state: what falls due when, and messages by sequence.
 *
 * A treap: a binary tree by key, a heap by a priority that is a fixed mix of the key, so that its shape is a function
 * of the keys alone. Against an array heap it gives iteration in order from any key, and no reallocation that would
 * stall an apply. T1: keys (major, minor) are unique in a tree and do not change while the node is in it. Every call is
 * O(log n) expected. Thread: the state's. */
#ifndef MR_CLUSTER_STATE_TREE_H
#define MR_CLUSTER_STATE_TREE_H

#include <stddef.h>
#include <stdint.h>

struct state_tree_node {
    struct state_tree_node *left, *right;
    uint64_t major, minor;
};
struct state_tree {
    struct state_tree_node *root;
    size_t count;
};

void state_tree_insert(struct state_tree *tree, struct state_tree_node *node, uint64_t major, uint64_t minor);
void state_tree_remove(struct state_tree *tree, struct state_tree_node *node);
/* Smallest; NULL: empty. */
struct state_tree_node *state_tree_first(const struct state_tree *tree);
/* Smallest of those greater than the key, which need not be in the tree; NULL: none. */
struct state_tree_node *state_tree_after(const struct state_tree *tree, uint64_t major, uint64_t minor);
/* Panics unless order, heap property and count hold. */
void state_tree_check(const struct state_tree *tree);

#endif
