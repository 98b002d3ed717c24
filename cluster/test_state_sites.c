/* What applying drops of remembered sites must not hang on the size of a struct: two builds of one cluster would drop
 * at different entries (PROTOCOL.md 4.7). */
#include "cluster/state_internal.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void sites_count_the_same_everywhere(void **arg)
{
    char name[] = "there.example", reason[] = "handshake failed", id[] = "20261122";
    char mx1[] = "mx1.there.example", mx2[] = "*.there.example";
    char *mx[] = {mx1, mx2};
    struct site_texts t = {.name = name, .tls_reason = reason, .sts_id = id};
    struct state *s = state_open(&(struct state_observer){0});
    (void)arg;

    site_add(s, &t, 1, 1000, 0, 0);
    assert_int_equal(s->sites.bytes, 160);
    t.name = mx1;
    t.sts_mx = mx;
    t.n_sts_mx = 2;
    site_add(s, &t, 2, 1000, 1, 2000);
    assert_int_equal(s->sites.bytes, 160 + 214);
    s->now_ms = 3000;
    sites_expire(s, 2);
    assert_int_equal(s->sites.bytes, 0);
    state_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sites_count_the_same_everywhere)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
