/* What resolver_cache.h promises; how long entries live is test_resolver.c's. */
#include "node/dns/resolver_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct resolver_cache cache;

static void put(const char *key, unsigned n, uint32_t ttl_s)
{
    resolver_cache_put(&cache, key, &(struct resolution){.n = n}, ttl_s);
}

static unsigned found(const char *key)
{
    const struct resolution *r = resolver_cache_find(&cache, key);
    return r == NULL ? 0 : r->n;
}

static void test_replaced(void **state)
{
    (void)state;
    assert_int_equal(found("mx:a.example"), 0);
    put("mx:a.example", 1, 60);
    put("mx:b.example", 2, 60);
    assert_int_equal(found("mx:a.example"), 1);
    put("mx:a.example", 3, 60);
    assert_int_equal(found("mx:a.example"), 3);
    assert_int_equal(cache.size, 2);
    put("mx:a.example", 4, 0);
    assert_int_equal(found("mx:a.example"), 0);
    assert_int_equal(found("mx:b.example"), 2);
    resolver_cache_clear(&cache);
    assert_int_equal(cache.size, 0);
    assert_int_equal(found("mx:b.example"), 0);
}

/* C1; the newest stays. */
static void test_full(void **state)
{
    char key[32];
    unsigned kept = 0;

    (void)state;
    for (unsigned i = 1; i <= RESOLVER_MAX_CACHE + 100; i++) {
        (void)snprintf(key, sizeof(key), "mx:%u.example", i);
        put(key, i, 60);
        assert_true(cache.size <= RESOLVER_MAX_CACHE);
        assert_int_equal(found(key), i);
    }
    for (unsigned i = 1; i <= RESOLVER_MAX_CACHE + 100; i++) {
        (void)snprintf(key, sizeof(key), "mx:%u.example", i);
        kept += found(key) == i;
    }
    assert_int_equal(kept, RESOLVER_MAX_CACHE);
    resolver_cache_clear(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
