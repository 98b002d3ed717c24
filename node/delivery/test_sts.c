/* The worker's table of MTA-STS policies when it is full: of domains, of bytes. */
#include "node/delivery/test_delivery_fake.h"

static unsigned answered, with_policy;

static void on_found(void *arg, struct sts_policy *policy)
{
    (void)arg;
    answered++;
    with_policy += policy != NULL;
}

/* Names that no question can be made of: the answer, that there is no record, costs nobody a packet. */
static void find(const char *prefix, unsigned number, const struct attempt_site *site)
{
    char name[40];
    (void)snprintf(name, sizeof(name), "%s..%u", prefix, number);
    (void)sts_find(host.delivery->sts, name, site, 1000, on_found, NULL);
}

static void start(void)
{
    answered = with_policy = 0;
    server_open();
    host_open();
}

/* Whose answer is on its way is not forgotten for others. */
static void full_of_domains(void **state)
{
    const struct attempt_site none = {.tls_reason = ""};
    (void)state;
    start();
    for (unsigned i = 0; i < STS_MAX_DOMAINS; i++)
        find("old", i, &none);
    WAIT_FOR(answered == STS_MAX_DOMAINS);
    find("old", 7, &none); /* known: told on the next turn */
    for (unsigned i = 0; i < STS_MAX_DOMAINS + 10; i++)
        find("new", i, &none);
    WAIT_FOR(answered == 2 * STS_MAX_DOMAINS + 11);
    assert_int_equal(with_policy, 0);
    host_close();
}

static void full_of_policies(void **state)
{
    enum { DOMAINS = 4000, LEN = 250 };
    char pattern[LEN + 1];
    const char *mx[STS_MAX_MX];
    const struct attempt_site none = {.tls_reason = ""};
    struct attempt_site large = {.sts_id = "1", .sts_mode = STS_ENFORCE, .sts_mx = mx, .n_sts_mx = STS_MAX_MX};
    (void)state;
    start();
    memset(pattern, 'a', LEN);
    pattern[LEN] = 0;
    for (unsigned i = 0; i < STS_MAX_MX; i++)
        mx[i] = pattern;
    large.sts_expires_ms = 1000 + 86400 * 1000;
    for (unsigned i = 0; i < DOMAINS; i++) {
        find("large", i, &large);
        WAIT_FOR(answered == i + 1);
    }
    assert_int_equal(with_policy, DOMAINS); /* also those that come when the table is full */
    with_policy = 0;
    for (unsigned i = 0; i < DOMAINS; i++) {
        find("large", i, &none);
        WAIT_FOR(answered == DOMAINS + i + 1);
    }
    assert_in_range(with_policy, 1000, STS_MAX_BYTES / (STS_MAX_MX * LEN) + 1);
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_of_domains),
        cmocka_unit_test(full_of_policies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
