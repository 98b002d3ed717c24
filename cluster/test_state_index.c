#include "cluster/state_index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 20000 };

static uint64_t hash_of(unsigned i)
{
    return (uint64_t)(i / 2) * 0x9E3779B97F4A7C15ULL; /* two of each hash */
}

static bool holds(const struct state_index *index, const struct state_index_node *node, unsigned i)
{
    const struct state_index_node *n = state_index_first(index, hash_of(i));

    while (n != NULL && n != node)
        n = state_index_next(n);
    return n != NULL;
}

/* Each step may be in the middle of a resize, up or down. */
static void finds_what_is_in_it_while_it_grows_and_shrinks(void **arg)
{
    struct state_index index;
    struct state_index_node *nodes = calloc(N, sizeof(*nodes));
    (void)arg;
    state_index_init(&index);
    size_t small = state_index_memory(&index);
    for (unsigned i = 0; i < N; i++) {
        state_index_insert(&index, &nodes[i], hash_of(i));
        assert_true(holds(&index, &nodes[i], i));
        assert_true(holds(&index, &nodes[i / 3], i / 3));
        assert_false(i + 2 < N && holds(&index, &nodes[i + 2], i + 2));
    }
    assert_true(state_index_memory(&index) > small);
    for (unsigned i = 0; i < N; i++) {
        state_index_remove(&index, &nodes[i]);
        assert_false(holds(&index, &nodes[i], i));
        unsigned other = i + (N - i) / 2;
        assert_true(i + 1 >= N || other == i || holds(&index, &nodes[other], other));
    }
    assert_int_equal(index.count, 0);
    assert_true(state_index_memory(&index) <= small * 4);
    state_index_close(&index);
    free(nodes);
}

static void room_made_before_is_enough(void **arg)
{
    struct state_index index;
    struct state_index_node *nodes = calloc(N, sizeof(*nodes));
    (void)arg;
    state_index_init(&index);
    size_t small = state_index_memory(&index);
    state_index_reserve(&index, N);
    size_t reserved = state_index_memory(&index);
    for (unsigned i = 0; i < N; i++) {
        state_index_insert(&index, &nodes[i], hash_of(i));
        assert_true(holds(&index, &nodes[i], i) && holds(&index, &nodes[i / 2], i / 2));
    }
    assert_int_equal(state_index_memory(&index), reserved);
    for (unsigned i = 0; i < N; i++) {
        state_index_remove(&index, &nodes[i]);
        assert_true(i + 1 >= N || holds(&index, &nodes[N - 1], N - 1));
    }
    assert_true(state_index_memory(&index) <= small * 4);
    state_index_close(&index);
    free(nodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_is_in_it_while_it_grows_and_shrinks),
        cmocka_unit_test(room_made_before_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
