#include "cluster/state_tree.h"

#include "proto/base/panic.h"

#include <stdbool.h>

/* Neither due times nor sequences may shape the tree (both come nearly sorted), hence a mix of all their bits. */
static uint64_t priority(const struct state_tree_node *node)
{
    uint64_t x = node->major * 0x9E3779B97F4A7C15ULL + node->minor;
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ULL;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static bool before(uint64_t major, uint64_t minor, const struct state_tree_node *node)
{
    return major < node->major || (major == node->major && minor < node->minor);
}

void state_tree_insert(struct state_tree *tree, struct state_tree_node *node, uint64_t major, uint64_t minor)
{
    node->major = major;
    node->minor = minor;
    uint64_t own = priority(node);
    struct state_tree_node **place = &tree->root;

    while (*place != NULL && priority(*place) >= own) {
        mr_assert((*place)->major != major || (*place)->minor != minor);
        place = before(major, minor, *place) ? &(*place)->left : &(*place)->right;
    }
    /* What was here is split by the new key and becomes its two children. */
    struct state_tree_node *rest = *place, **left = &node->left, **right = &node->right;
    while (rest != NULL) {
        mr_assert(rest->major != major || rest->minor != minor);
        if (before(major, minor, rest)) {
            *right = rest;
            right = &rest->left;
            rest = rest->left;
        } else {
            *left = rest;
            left = &rest->right;
            rest = rest->right;
        }
    }
    *left = *right = NULL;
    *place = node;
    tree->count++;
}

void state_tree_remove(struct state_tree *tree, struct state_tree_node *node)
{
    struct state_tree_node **place = &tree->root;

    while (*place != node) {
        mr_assert(*place != NULL);
        place = before(node->major, node->minor, *place) ? &(*place)->left : &(*place)->right;
    }
    struct state_tree_node *left = node->left, *right = node->right;
    while (left != NULL && right != NULL) {
        if (priority(left) >= priority(right)) {
            *place = left;
            place = &left->right;
            left = left->right;
        } else {
            *place = right;
            place = &right->left;
            right = right->left;
        }
    }
    *place = left != NULL ? left : right;
    node->left = node->right = NULL;
    tree->count--;
}

struct state_tree_node *state_tree_first(const struct state_tree *tree)
{
    struct state_tree_node *node = tree->root;

    while (node != NULL && node->left != NULL)
        node = node->left;
    return node;
}

struct state_tree_node *state_tree_after(const struct state_tree *tree, uint64_t major, uint64_t minor)
{
    struct state_tree_node *node = tree->root, *found = NULL;

    while (node != NULL) {
        if (before(major, minor, node)) {
            found = node;
            node = node->left;
        } else {
            node = node->right;
        }
    }
    return found;
}

void state_tree_check(const struct state_tree *tree)
{
    size_t count = 0;

    for (const struct state_tree_node *n = state_tree_first(tree), *next; n != NULL; n = next) {
        next = state_tree_after(tree, n->major, n->minor);
        mr_assert(next == NULL || before(n->major, n->minor, next));
        mr_assert(n->left == NULL || (priority(n->left) <= priority(n) && !before(n->major, n->minor, n->left)));
        mr_assert(n->right == NULL || (priority(n->right) <= priority(n) && before(n->major, n->minor, n->right)));
        count++;
    }
    mr_assert(count == tree->count);
}
