/* What all connections of a worker share under TLS: contexts, and sessions to be resumed.
 *
 * A session is offered only to the address that it was had from, for the same next hop and under the same demands,
 * once, and not later than SESSION_MS after: what was proven by the handshake before is then as good as proven again.
 */
#include "node/delivery/delivery_internal.h"

#include "cluster/tls_files.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT_MS = 3600 * 1000, /* the files are read again then */
    SESSION_MS = 3600 * 1000,
};

/* ---- contexts ---- */

/* verified: by authorities or TLSA records; else for encryption alone, where ciphers that are too old to be trusted are
 * still better than none. NULL: error says why. */
static SSL_CTX *make_context(const struct config *config, bool verified, char *error, size_t error_len)
{
    SSL_CTX *ctx = tls_context(false);
    bool fine = ctx != NULL && SSL_CTX_dane_enable(ctx) == 1;

    (void)snprintf(error, error_len, "out of memory for TLS");
    if (fine && !verified)
        fine = SSL_CTX_set_cipher_list(ctx, "DEFAULT:@SECLEVEL=1") == 1;
    if (fine && verified && config->delivery.tls_ca != NULL)
        fine = tls_files_trust(ctx, config->delivery.tls_ca, error, error_len) == 0;
    else if (fine && verified)
        fine = SSL_CTX_set_default_verify_paths(ctx) == 1;
    if (fine && config->delivery.tls_cert != NULL)
        fine = tls_files_use(ctx, config->delivery.tls_cert, config->delivery.tls_key, error, error_len) == 0;
    ERR_clear_error();
    if (fine)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

int delivery_tls_check(const struct config *config, char *error, size_t error_len)
{
    char reason[300];
    SSL_CTX *ctx = make_context(config, true, reason, sizeof(reason));
    if (ctx == NULL)
        (void)snprintf(error, error_len, "%s: delivery: %s", config->file, reason);
    SSL_CTX_free(ctx);
    return ctx == NULL ? MR_TLS : 0;
}

/* The files are read again from time to time: authorities come and go, and our own certificate is renewed. */
SSL_CTX *delivery_tls_context(struct delivery *d, bool verified)
{
    struct tls_made *made = &d->tls[verified];
    uint64_t now = mr_boot_ns(&mr_clock_real);
    char error[300];

    if (made->ctx != NULL && now - made->at_ns < CONTEXT_MS * MR_NS_PER_MS)
        return made->ctx;
    SSL_CTX *ctx = make_context(d->w->config, verified, error, sizeof(error));
    made->at_ns = now;
    if (ctx == NULL) { /* what was read before is still better */
        log_event(LOG_ERROR, "delivery_tls_unusable", LOG_S("reason", error));
        return made->ctx;
    }
    SSL_CTX_free(made->ctx);
    made->ctx = ctx;
    return ctx;
}

/* ---- sessions ---- */

static struct tls_kept *place_of(struct delivery *d, const char *key)
{
    uint64_t h = 1469598103934665603ULL; /* FNV-1a */
    for (const char *p = key; *p != 0; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211ULL;
    return &d->sessions[h % DELIVERY_SESSIONS];
}

static void forget(struct tls_kept *k)
{
    SSL_SESSION_free(k->session);
    free(k->key);
    *k = (struct tls_kept){0};
}

void delivery_tls_resume(struct delivery *d, const char *key, struct tls *t)
{
    struct tls_kept *k = place_of(d, key);
    if (k->session != NULL && strcmp(k->key, key) == 0) {
        if (mr_boot_ns(&mr_clock_real) - k->at_ns < SESSION_MS * MR_NS_PER_MS)
            tls_offer_session(t, k->session);
        forget(k); /* a ticket is for one use (RFC 8446 C.4) */
    }
}

void delivery_tls_keep(struct delivery *d, const char *key, struct tls *t)
{
    SSL_SESSION *session = tls_take_session(t);
    if (session == NULL)
        return;
    struct tls_kept *k = place_of(d, key);
    forget(k);
    *k = (struct tls_kept){.key = mr_strdup(key), .session = session, .at_ns = mr_boot_ns(&mr_clock_real)};
}

void delivery_tls_close(struct delivery *d)
{
    SSL_CTX_free(d->tls[false].ctx);
    SSL_CTX_free(d->tls[true].ctx);
    for (unsigned i = 0; i < DELIVERY_SESSIONS; i++)
        forget(&d->sessions[i]);
}
