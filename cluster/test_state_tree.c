#include "cluster/state_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 400, STEPS = 20000 };

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Against a plain array: what is in it, first, and next after any key. */
static void agrees_with_an_array(void **arg)
{
    struct state_tree tree = {0};
    struct state_tree_node nodes[N];
    uint8_t in[N] = {0};
    uint64_t seed = 0x1234567, random = seed;
    (void)arg;
    print_message("seed %llx\n", (unsigned long long)seed);
    for (int step = 0; step < STEPS; step++) {
        unsigned i = (unsigned)(next_random(&random) % N);
        if (in[i])
            state_tree_remove(&tree, &nodes[i]);
        else
            state_tree_insert(&tree, &nodes[i], i / 7, i % 7);
        in[i] = !in[i];
        unsigned from = (unsigned)(next_random(&random) % N), expect = from + 1;
        while (expect < N && !in[expect])
            expect++;
        struct state_tree_node *found = state_tree_after(&tree, from / 7, from % 7);
        assert_ptr_equal(found, expect < N ? &nodes[expect] : NULL);
        if (step % 500 == 0)
            state_tree_check(&tree);
    }
    for (unsigned i = 0; i < N; i++)
        if (in[i])
            state_tree_remove(&tree, &nodes[i]);
    assert_null(tree.root);
    assert_int_equal(tree.count, 0);
}

static unsigned depth(const struct state_tree_node *n)
{
    if (n == NULL)
        return 0;
    unsigned l = depth(n->left), r = depth(n->right);
    return 1 + (l > r ? l : r);
}

/* Sequences come sorted, due times nearly: a plain binary tree would become a list. */
static void stays_flat_for_sorted_keys(void **arg)
{
    enum { MANY = 100000 };
    struct state_tree tree = {0};
    struct state_tree_node *nodes = calloc(MANY, sizeof(*nodes));
    (void)arg;
    for (unsigned i = 0; i < MANY; i++)
        state_tree_insert(&tree, &nodes[i], i + 1, 0);
    assert_true(depth(tree.root) < 70);
    assert_ptr_equal(state_tree_first(&tree), &nodes[0]);
    free(nodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_an_array),
        cmocka_unit_test(stays_flat_for_sorted_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
