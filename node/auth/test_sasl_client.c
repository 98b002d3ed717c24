/* sasl_client.c against GNU SASL's server side, and against servers that cheat. */
#include "node/auth/sasl_client.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <gsasl.h>

static int on_property(Gsasl *gsasl, Gsasl_session *session, Gsasl_property property)
{
    (void)gsasl;
    if (property == GSASL_PASSWORD)
        return gsasl_property_set(session, property, "secret");
    return GSASL_NO_CALLBACK;
}

/* True: both sides are content. */
static bool meet(unsigned mechanism, const char *user, const char *password)
{
    struct sasl_client *c = sasl_client_open(mechanism, user, password, NULL);
    char line[SASL_CLIENT_LINE];
    Gsasl_session *session;
    const char *challenge = NULL;
    char *out = NULL;
    Gsasl *gsasl;
    int rc, theirs;

    assert_non_null(c);
    assert_int_equal(gsasl_init(&gsasl), GSASL_OK);
    gsasl_callback_set(gsasl, on_property);
    assert_int_equal(gsasl_server_start(gsasl, sasl_name(mechanism), &session), GSASL_OK);
    if (mechanism == SASL_LOGIN) {
        assert_int_equal(gsasl_step64(session, "", &out), GSASL_NEEDS_MORE);
        challenge = out;
    }
    do {
        rc = sasl_client_step(c, challenge, line);
        gsasl_free(out);
        out = NULL;
        theirs = rc == 0 ? gsasl_step64(session, line, &out) : GSASL_AUTHENTICATION_ERROR;
        challenge = out;
    } while (theirs == GSASL_NEEDS_MORE);
    /* The server's last word is a challenge over SMTP. */
    if (theirs == GSASL_OK && out != NULL && out[0] != '\0')
        rc = sasl_client_step(c, out, line);
    theirs = theirs == GSASL_OK && rc == 0 && sasl_client_done(c);
    gsasl_free(out);
    gsasl_finish(session);
    gsasl_done(gsasl);
    sasl_client_close(c);
    return theirs;
}

static void test_mechanisms(void **state)
{
    static const unsigned all[] = {SASL_PLAIN, SASL_LOGIN, SASL_SCRAM_SHA_256};

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        assert_true(meet(all[i], "user", "secret"));
        assert_false(meet(all[i], "user", "other"));
    }
    assert_true(meet(SASL_SCRAM_SHA_256, "a,b=c", "secret")); /* which SCRAM has to escape */
}

static void test_choice(void **state)
{
    (void)state;
    assert_int_equal(sasl_client_choose(SASL_ALL, NULL, true), SASL_SCRAM_SHA_256);
    assert_int_equal(sasl_client_choose(SASL_PASSWORD_SENT, NULL, true), 0);
    assert_int_equal(sasl_client_choose(SASL_SCRAM_SHA_256_PLUS, NULL, true), 0);
    assert_int_equal(sasl_client_choose(0, NULL, true), 0);
}

static int after_first(const char *server_first, char line[SASL_CLIENT_LINE])
{
    struct sasl_client *c = sasl_client_open(SASL_SCRAM_SHA_256, "user", "secret", NULL);
    char *first, *text = NULL;
    size_t n;
    int rc;

    assert_int_equal(sasl_client_step(c, NULL, line), 0);
    assert_int_equal(gsasl_base64_from(line, strlen(line), &first, &n), GSASL_OK);
    first[n - 1] = '\0'; /* the nonce's last octet is as good without */
    assert_true(asprintf(&text, server_first, strstr(first, ",r=") + 3) > 0);
    gsasl_free(first);
    assert_int_equal(gsasl_base64_to(text, strlen(text), &first, NULL), GSASL_OK);
    rc = sasl_client_step(c, first, line);
    assert_false(sasl_client_done(c));
    gsasl_free(first);
    free(text);
    sasl_client_close(c);
    return rc;
}

/* What a server may ask for has limits on both ends. */
static void test_servers_that_cheat(void **state)
{
    char line[SASL_CLIENT_LINE];
    struct sasl_client *c;

    (void)state;
    assert_int_equal(after_first("r=%s,s=c2FsdHNhbHQ=,i=1", line), MR_REFUSED);
    assert_int_equal(after_first("r=%s,s=c2FsdHNhbHQ=,i=4000000000", line), MR_REFUSED);
    assert_int_equal(after_first("r=%s,s=c2FsdHNhbHQ=,i=99999999999999999999999", line), MR_REFUSED);
    assert_int_equal(after_first("r=other%s,s=c2FsdHNhbHQ=,i=4096", line), MR_REFUSED);
    assert_int_equal(after_first("hello %s", line), MR_MALFORMED);
    c = sasl_client_open(SASL_SCRAM_SHA_256, "user", "secret", NULL);
    assert_int_equal(sasl_client_step(c, NULL, line), 0);
    assert_int_equal(sasl_client_step(c, "no base64!", line), MR_MALFORMED);
    sasl_client_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mechanisms),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_servers_that_cheat),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
