/* test_side_thread.c - work beside a loop, whose end the loop is told. */
#include "proto/base/memory.h"
#include "proto/base/side_thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants the four above. */
#include <cmocka.h>

struct job {
    struct side_thread thread;
    pthread_t worked_by;
    unsigned worked, *done;
};

static void work(void *arg)
{
    struct job *j = arg;

    j->worked++;
    j->worked_by = pthread_self();
}

/* Nothing uses the struct any more: the sanitizers see it. */
static void done(void *arg)
{
    struct job *j = arg;

    assert_int_equal(j->worked, 1);
    assert_false(pthread_equal(j->worked_by, pthread_self()));
    ++*j->done;
    memset(j, 0xa5, sizeof(*j));
    free(j);
}

static void tells_each_end_once(void **state)
{
    enum { JOBS = 20 };
    uv_loop_t loop;
    unsigned ended = 0;
    (void)state;

    assert_int_equal(uv_loop_init(&loop), 0);
    for (unsigned i = 0; i < JOBS; i++) {
        struct job *j = mr_calloc(1, sizeof(*j));
        j->done = &ended;
        side_thread_start(&j->thread, &loop, work, done, j);
        assert_int_equal(ended, 0); /* on the loop only */
    }
    uv_run(&loop, UV_RUN_DEFAULT); /* goes on until all have ended */
    assert_int_equal(ended, JOBS);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tells_each_end_once)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
