/* sasl_client.c - see the header. */
#include "node/auth/sasl_client.h"

#include "node/auth/auth_file.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <gsasl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sasl_client {
    Gsasl *gsasl;
    Gsasl_session *session;
    unsigned mechanism;
    unsigned steps;
    bool done;
};

static bool binding(const struct tls *tls, enum tls_binding type, char out[(TLS_MAX_BINDING + 2) / 3 * 4 + 1])
{
    uint8_t bytes[TLS_MAX_BINDING];
    size_t len;

    if (tls == NULL || tls_channel_binding(tls, type, bytes, &len) != 0)
        return false;
    (void)EVP_EncodeBlock((uint8_t *)out, bytes, (int)len);
    return true;
}

static bool can_bind(const struct tls *tls)
{
    char text[(TLS_MAX_BINDING + 2) / 3 * 4 + 1];

    return binding(tls, TLS_BINDING_EXPORTER, text) || binding(tls, TLS_BINDING_UNIQUE, text);
}

unsigned sasl_client_choose(unsigned offered, const struct tls *tls, bool trusted)
{
    if ((offered & SASL_SCRAM_SHA_256_PLUS) && can_bind(tls))
        return SASL_SCRAM_SHA_256_PLUS;
    if (offered & SASL_SCRAM_SHA_256)
        return SASL_SCRAM_SHA_256;
    if (tls == NULL || !trusted)
        return 0;
    return offered & SASL_PLAIN ? SASL_PLAIN : offered & SASL_LOGIN;
}

struct sasl_client *sasl_client_open(unsigned mechanism, const char *user, const char *password, const struct tls *tls)
{
    struct sasl_client *c = mr_calloc(1, sizeof(*c));
    char text[(TLS_MAX_BINDING + 2) / 3 * 4 + 1];

    c->mechanism = mechanism;
    if (gsasl_init(&c->gsasl) != GSASL_OK ||
        gsasl_client_start(c->gsasl, sasl_name(mechanism), &c->session) != GSASL_OK) {
        sasl_client_close(c);
        return NULL;
    }
    mr_assert(gsasl_property_set(c->session, GSASL_AUTHID, user) == GSASL_OK);
    mr_assert(gsasl_property_set(c->session, GSASL_PASSWORD, password) == GSASL_OK);
    /* Not without -PLUS: GNU SASL cannot say "could have bound" (RFC 5802 section 6, flag "y"). Whoever takes -PLUS out
     * of an offer had to get into TLS with the name of the host first. */
    if (mechanism == SASL_SCRAM_SHA_256_PLUS && binding(tls, TLS_BINDING_EXPORTER, text))
        mr_assert(gsasl_property_set(c->session, GSASL_CB_TLS_EXPORTER, text) == GSASL_OK);
    if (mechanism == SASL_SCRAM_SHA_256_PLUS && binding(tls, TLS_BINDING_UNIQUE, text))
        mr_assert(gsasl_property_set(c->session, GSASL_CB_TLS_UNIQUE, text) == GSASL_OK);
    return c;
}

void sasl_client_close(struct sasl_client *c)
{
    if (c == NULL)
        return;
    if (c->session != NULL)
        gsasl_finish(c->session);
    if (c->gsasl != NULL)
        gsasl_done(c->gsasl);
    free(c);
}

static bool is_scram(const struct sasl_client *c)
{
    return (c->mechanism & SASL_PASSWORD_SENT) == 0;
}

bool sasl_client_done(const struct sasl_client *c)
{
    return c->done;
}

bool sasl_client_slow(const struct sasl_client *c)
{
    return is_scram(c) && c->steps > 0;
}

/* "i=4096" of a SCRAM server's first message: too few would give the password away to whoever reads the answer, too
 * many would keep us busy for as long as the server likes. */
static bool iterations_fit(const char *message, size_t len)
{
    const char *end = message + len;
    const char *i = memmem(message, len, ",i=", 3);
    unsigned long n = 0;

    if (i == NULL)
        return true; /* GNU SASL finds out */
    for (i += 3; i < end && *i >= '0' && *i <= '9' && n <= AUTH_SCRAM_ITERATIONS_MAX; i++)
        n = n * 10 + (unsigned long)(*i - '0');
    return n >= AUTH_SCRAM_ITERATIONS_MIN && n <= AUTH_SCRAM_ITERATIONS_MAX;
}

static int decode(const struct sasl_client *c, const char *challenge, char **out, size_t *len)
{
    *out = NULL;
    *len = 0;
    if (challenge == NULL || challenge[0] == '\0')
        return 0;
    /* What LOGIN's prompts say is for people; some servers do not even encode it. */
    if (gsasl_base64_from(challenge, strlen(challenge), out, len) != GSASL_OK)
        return c->mechanism == SASL_LOGIN ? 0 : MR_MALFORMED;
    return is_scram(c) && c->steps == 1 && !iterations_fit(*out, *len) ? MR_REFUSED : 0;
}

static int encode(const char *out, size_t len, bool first, char line[SASL_CLIENT_LINE])
{
    if ((len + 2) / 3 * 4 + 1 > SASL_CLIENT_LINE)
        return MR_MALFORMED;
    if (len > 0)
        (void)EVP_EncodeBlock((uint8_t *)line, (const uint8_t *)out, (int)len);
    else
        (void)snprintf(line, SASL_CLIENT_LINE, "%s", first ? "=" : "");
    return 0;
}

int sasl_client_step(struct sasl_client *c, const char *challenge, char line[SASL_CLIENT_LINE])
{
    char *in, *out = NULL;
    size_t in_len, out_len = 0;
    int rc = decode(c, challenge, &in, &in_len);

    if (rc != 0) {
        gsasl_free(in);
        return rc;
    }
    if (c->done) {
        /* Nothing more is ours to say; a server may still ask for an empty answer. */
        rc = GSASL_OK;
    } else {
        rc = gsasl_step(c->session, in != NULL ? in : "", in_len, &out, &out_len);
        c->done = rc == GSASL_OK;
    }
    gsasl_free(in);
    if (rc == GSASL_OK || rc == GSASL_NEEDS_MORE)
        rc = encode(out, out_len, c->steps == 0, line);
    else
        rc = rc == GSASL_MECHANISM_PARSE_ERROR || rc == GSASL_BASE64_ERROR ? MR_MALFORMED : MR_REFUSED;
    if (out != NULL)
        OPENSSL_cleanse(out, out_len);
    gsasl_free(out);
    c->steps++;
    return rc;
}
