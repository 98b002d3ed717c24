#include "node/tls/tls_server.h"

#include "cluster/tls_expiry.h"
#include "cluster/tls_files.h"
#include "node/tls/tls_tickets.h"
#include "proto/base/ascii.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 1000, MAX_NAME = 255, NAMES_TEXT = 300 };

/* One pair of files. */
struct pair {
    char *file;
    char *key_name; /* in the configuration: "smtp.tls.more[2].cert" */
    X509 *cert;
    char **names; /* lower case, sorted */
    unsigned n_names;
    SSL_CTX *ctx; /* of its own or shared with an earlier pair of the same names; one reference */
};

struct name {
    const char *name;
    unsigned pair;
};

struct tls_server {
    atomic_uint references;
    struct pair *pairs; /* [0]: the default */
    unsigned n_pairs;
    struct name *names; /* of all pairs, sorted; of equal ones the first pair's comes first */
    unsigned n_names;
    struct tls_tickets *tickets;
    bool ask; /* for a client's certificate */
    bool check_ca;
    uint8_t (*listed)[TLS_FINGERPRINT];
    unsigned n_listed;
};

/* ---- names ---- */

/* Keeps a name that can be one of DNS. */
static void add_name(struct pair *p, const ASN1_STRING *value)
{
    size_t len = value != NULL ? (size_t)ASN1_STRING_length(value) : 0;
    const unsigned char *text = value != NULL ? ASN1_STRING_get0_data(value) : NULL;
    char *name;

    if (len == 0 || len > MAX_NAME || memchr(text, 0, len) != NULL || p->n_names >= MAX_NAMES)
        return;
    name = ascii_lower_all(mr_strndup((const char *)text, len));
    p->names = mr_realloc(p->names, (p->n_names + 1) * sizeof(*p->names));
    p->names[p->n_names++] = name;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_names(struct pair *p)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(p->cert, NID_subject_alt_name, NULL, NULL);
    const X509_NAME *subject = X509_get_subject_name(p->cert);
    int at = -1;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);

        if (type == GEN_DNS)
            add_name(p, value);
    }
    GENERAL_NAMES_free(names);
    while (p->n_names == 0 && (at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0)
        add_name(p, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (p->n_names > 1)
        qsort(p->names, p->n_names, sizeof(*p->names), by_text);
    ERR_clear_error();
}

static int by_name(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order != 0 ? order : x->pair < y->pair ? -1 : x->pair > y->pair;
}

static void gather_names(struct tls_server *ts)
{
    unsigned n = 0;

    for (unsigned i = 0; i < ts->n_pairs; i++)
        n += ts->pairs[i].n_names;
    ts->names = mr_calloc(n, sizeof(*ts->names));
    for (unsigned i = 0; i < ts->n_pairs; i++)
        for (unsigned k = 0; k < ts->pairs[i].n_names; k++)
            ts->names[ts->n_names++] = (struct name){ts->pairs[i].names[k], i};
    if (n > 1)
        qsort(ts->names, n, sizeof(*ts->names), by_name);
}

/* The first pair that has this name; NULL: none. */
static const struct pair *find_name(const struct tls_server *ts, const char *name)
{
    unsigned low = 0, high = ts->n_names;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (strcmp(ts->names[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == ts->n_names || strcmp(ts->names[low].name, name) != 0)
        return NULL;
    return &ts->pairs[ts->names[low].pair];
}

static const struct pair *choose(const struct tls_server *ts, const char *asked)
{
    char name[MAX_NAME + 1];
    const struct pair *p;
    size_t len = strlen(asked);
    char *dot;

    if (len > 0 && asked[len - 1] == '.')
        len--;
    if (len == 0 || len > MAX_NAME)
        return NULL;
    for (size_t i = 0; i < len; i++)
        name[i] = ascii_lower(asked[i]);
    name[len] = '\0';
    p = find_name(ts, name);
    dot = strchr(name, '.');
    if (p != NULL || dot == NULL || dot == name)
        return p;
    dot[-1] = '*';
    return find_name(ts, dot - 1);
}

static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    const struct tls_server *ts = arg;
    const char *asked = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    const struct pair *p = asked != NULL ? choose(ts, asked) : NULL;

    (void)alert;
    if (p == NULL)
        return SSL_TLSEXT_ERR_NOACK; /* the default is shown; it is for the client to judge */
    if (SSL_set_SSL_CTX(ssl, p->ctx) == NULL)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    return SSL_TLSEXT_ERR_OK;
}

/* ---- clients' certificates ---- */

/* No certificate ends a connection; the result is kept, and looked at after the handshake. */
static int on_verify(X509_STORE_CTX *store, void *arg)
{
    (void)arg;
    if (X509_verify_cert(store) != 1 && X509_STORE_CTX_get_error(store) == X509_V_OK)
        X509_STORE_CTX_set_error(store, X509_V_ERR_UNSPECIFIED);
    ERR_clear_error();
    return 1;
}

static int read_listed(struct tls_server *ts, const struct config *c)
{
    ts->listed = mr_calloc(c->smtp.tls.n_relay_certs, sizeof(*ts->listed));
    for (unsigned i = 0; i < c->smtp.tls.n_relay_certs; i++) {
        size_t len = 0;

        if (OPENSSL_hexstr2buf_ex(ts->listed[i], TLS_FINGERPRINT, &len, c->smtp.tls.relay_certs[i], '\0') != 1 ||
            len != TLS_FINGERPRINT)
            return MR_CONFIG;
        ts->n_listed++;
    }
    return 0;
}

static int ask_clients(const struct tls_server *ts, SSL_CTX *ctx, const struct config *c, char *error, size_t error_len)
{
    char problem[400];

    if (!ts->ask)
        return 0;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, on_verify, NULL);
    if (!ts->check_ca)
        return 0;
    if (tls_files_trust(ctx, c->smtp.tls.client_ca, problem, sizeof(problem)) != 0) {
        (void)snprintf(error, error_len, "%s: smtp.tls.client_ca: %s", c->file, problem);
        return MR_CONFIG;
    }
    /* A client that knows whom we trust shows no certificate of another's, listed or not. */
    if (ts->n_listed == 0)
        SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(c->smtp.tls.client_ca));
    return 0;
}

enum tls_client tls_server_client(const struct tls_server *ts, const struct tls *t)
{
    uint8_t fingerprint[TLS_FINGERPRINT];

    if (!tls_peer_fingerprint(t, fingerprint))
        return TLS_CLIENT_NONE;
    for (unsigned i = 0; i < ts->n_listed; i++)
        if (memcmp(ts->listed[i], fingerprint, TLS_FINGERPRINT) == 0)
            return TLS_CLIENT_LISTED;
    return ts->check_ca && tls_peer_verified(t) ? TLS_CLIENT_VERIFIED : TLS_CLIENT_UNKNOWN;
}

/* ---- files ---- */

static bool same_names(const struct pair *a, const struct pair *b)
{
    if (a->n_names != b->n_names)
        return false;
    for (unsigned i = 0; i < a->n_names; i++)
        if (strcmp(a->names[i], b->names[i]) != 0)
            return false;
    return true;
}

static int kind_of_key(const X509 *cert)
{
    return EVP_PKEY_get_base_id(X509_get0_pubkey(cert));
}

/* The context of an earlier pair with the same names, which has no key of this kind yet; NULL: none. */
static SSL_CTX *companion(const struct tls_server *ts, const struct pair *p)
{
    for (const struct pair *other = ts->pairs; other < p; other++) {
        bool taken = false;

        if (!same_names(other, p))
            continue;
        for (const struct pair *q = ts->pairs; q < p; q++)
            if (q->ctx == other->ctx && kind_of_key(q->cert) == kind_of_key(p->cert))
                taken = true;
        if (!taken)
            return other->ctx;
    }
    return NULL;
}

static int open_pair(struct tls_server *ts, const struct certificate_config *files, const struct config *c, char *error,
                     size_t error_len)
{
    struct pair *p = &ts->pairs[ts->n_pairs];
    SSL_CTX *shared;
    char problem[400];
    int rc;

    p->ctx = tls_context(true);
    if (p->ctx == NULL)
        mr_panic("out of memory for TLS");
    ts->n_pairs++;
    tls_tickets_use(ts->tickets, p->ctx);
    p->file = mr_strdup(files->cert);
    p->key_name = ts->n_pairs == 1 ? mr_strdup("smtp.tls") : mr_asprintf("smtp.tls.more[%u]", ts->n_pairs - 1);
    if (tls_files_use(p->ctx, files->cert, files->key, problem, sizeof(problem)) != 0) {
        (void)snprintf(error, error_len, "%s: %s: %s", c->file, p->key_name, problem);
        return MR_CONFIG;
    }
    p->cert = SSL_CTX_get0_certificate(p->ctx);
    X509_up_ref(p->cert);
    read_names(p);
    if (SSL_CTX_set_session_id_context(p->ctx, (const unsigned char *)"smtp", 4) != 1)
        mr_panic("TLS session context");
    rc = ask_clients(ts, p->ctx, c, error, error_len);
    shared = rc == 0 ? companion(ts, p) : NULL;
    if (shared != NULL && tls_files_use(shared, files->cert, files->key, problem, sizeof(problem)) == 0) {
        SSL_CTX_up_ref(shared);
        SSL_CTX_free(p->ctx);
        p->ctx = shared;
    }
    return rc;
}

int tls_server_open(struct tls_server **out, const struct config *c, char *error, size_t error_len)
{
    struct certificate_config first = {c->smtp.tls.cert, c->smtp.tls.key};
    struct tls_server *ts;
    int rc;

    *out = NULL;
    if (first.cert == NULL)
        return 0;
    ts = mr_calloc(1, sizeof(*ts));
    atomic_init(&ts->references, 1);
    ts->pairs = mr_calloc(1 + c->smtp.tls.n_more, sizeof(*ts->pairs));
    ts->tickets = tls_tickets_open(&mr_clock_real);
    ts->check_ca = c->smtp.tls.client_ca != NULL;
    ts->ask = ts->check_ca || c->smtp.tls.n_relay_certs > 0;
    rc = read_listed(ts, c);
    if (rc != 0)
        (void)snprintf(error, error_len, "%s: smtp.tls.relay_certs: not a SHA-256 fingerprint", c->file);
    if (rc == 0)
        rc = open_pair(ts, &first, c, error, error_len);
    for (unsigned i = 0; rc == 0 && i < c->smtp.tls.n_more; i++)
        rc = open_pair(ts, &c->smtp.tls.more[i], c, error, error_len);
    if (rc != 0) {
        tls_server_unref(ts);
        return rc;
    }
    gather_names(ts);
    SSL_CTX_set_tlsext_servername_callback(ts->pairs[0].ctx, on_server_name);
    SSL_CTX_set_tlsext_servername_arg(ts->pairs[0].ctx, ts);
    *out = ts;
    return 0;
}

/* ---- life ---- */

struct tls_server *tls_server_ref(struct tls_server *ts)
{
    if (ts != NULL)
        atomic_fetch_add_explicit(&ts->references, 1, memory_order_relaxed);
    return ts;
}

void tls_server_unref(struct tls_server *ts)
{
    if (ts == NULL || atomic_fetch_sub_explicit(&ts->references, 1, memory_order_acq_rel) > 1)
        return;
    for (unsigned i = 0; i < ts->n_pairs; i++) {
        struct pair *p = &ts->pairs[i];

        for (unsigned k = 0; k < p->n_names; k++)
            free(p->names[k]);
        free(p->names);
        free(p->file);
        free(p->key_name);
        X509_free(p->cert);
        SSL_CTX_free(p->ctx);
    }
    tls_tickets_close(ts->tickets);
    free(ts->pairs);
    free(ts->names);
    free(ts->listed);
    free(ts);
}

struct tls *tls_server_accept(const struct tls_server *ts)
{
    struct tls *t = tls_accept(ts->pairs[0].ctx);

    tls_start(t);
    return t;
}

/* ---- expiry ---- */

static void names_text(const struct pair *p, char out[NAMES_TEXT])
{
    size_t len = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < p->n_names; i++) {
        size_t need = strlen(p->names[i]) + 2;

        if (len + need + sizeof(" ...") >= NAMES_TEXT) {
            (void)snprintf(out + len, NAMES_TEXT - len, " ...");
            return;
        }
        len += (size_t)snprintf(out + len, NAMES_TEXT - len, "%s%s", i > 0 ? " " : "", p->names[i]);
    }
}

void tls_server_log(const struct tls_server *ts, bool only_warnings)
{
    for (unsigned i = 0; i < ts->n_pairs; i++) {
        const struct pair *p = &ts->pairs[i];
        char names[NAMES_TEXT];

        names_text(p, names);
        tls_expiry_log(p->cert, p->key_name, p->file, names, only_warnings);
    }
}

void tls_server_warnings(const struct tls_server *ts, char *text, size_t len)
{
    size_t at = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < ts->n_pairs && at < len; i++) {
        const struct pair *p = &ts->pairs[i];
        const char *what = NULL;

        if (X509_cmp_current_time(X509_get0_notAfter(p->cert)) < 0)
            what = "has expired";
        else if (X509_cmp_current_time(X509_get0_notBefore(p->cert)) > 0)
            what = "is not valid yet";
        else if (tls_expiry_days_left(p->cert) < TLS_EXPIRY_WARNING_DAYS)
            what = "expires within 14 days";
        if (what != NULL)
            at += (size_t)snprintf(text + at, len - at, "%s: warning: the certificate %s %s\n", p->key_name, p->file,
                                   what);
    }
}
