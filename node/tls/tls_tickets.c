#include "node/tls/tls_tickets.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { NAME = 16, SECRET = 32, IV = 16 };

struct key {
    uint8_t name[NAME]; /* in front of each ticket */
    uint8_t cipher[SECRET];
    uint8_t mac[SECRET];
    uint64_t made_ns;
};

struct tls_tickets {
    const struct mr_clock *clock;
    atomic_uint references;
    uv_mutex_t mutex; /* of the keys; held for a copy */
    struct key now, before;
    EVP_CIPHER *aes;
};

static void unref(struct tls_tickets *k)
{
    if (k == NULL || atomic_fetch_sub_explicit(&k->references, 1, memory_order_acq_rel) > 1)
        return;
    uv_mutex_destroy(&k->mutex);
    OPENSSL_cleanse(&k->now, sizeof(k->now));
    OPENSSL_cleanse(&k->before, sizeof(k->before));
    EVP_CIPHER_free(k->aes);
    free(k);
}

/* Where a context keeps them; for the process, never changed once it is made. */
static int context_index;
static uv_once_t index_once = UV_ONCE_INIT;

static void on_context_free(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long number, void *arg)
{
    (void)parent, (void)all, (void)index, (void)number, (void)arg;
    unref(data);
}

static void make_index(void)
{
    context_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_context_free);
    if (context_index < 0)
        mr_panic("out of memory for TLS");
}

static void make_key(struct tls_tickets *k)
{
    k->before = k->now;
    if (RAND_bytes(k->now.name, NAME) != 1 || RAND_priv_bytes(k->now.cipher, SECRET) != 1 ||
        RAND_priv_bytes(k->now.mac, SECRET) != 1)
        mr_panic("no random numbers for TLS");
    k->now.made_ns = mr_boot_ns(k->clock);
}

struct tls_tickets *tls_tickets_open(const struct mr_clock *clock)
{
    struct tls_tickets *k = mr_calloc(1, sizeof(*k));

    uv_once(&index_once, make_index);
    k->clock = clock;
    atomic_init(&k->references, 1);
    k->aes = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    if (k->aes == NULL || uv_mutex_init(&k->mutex) != 0)
        mr_panic("out of memory for TLS");
    make_key(k);
    make_key(k); /* the one before is as unknown as this one */
    return k;
}

void tls_tickets_close(struct tls_tickets *k)
{
    unref(k);
}

/* The key for a new ticket. */
static struct key newest(struct tls_tickets *k)
{
    struct key key;

    uv_mutex_lock(&k->mutex);
    if (mr_boot_ns(k->clock) - k->now.made_ns >= (uint64_t)TLS_TICKETS_CHANGE_MS * MR_NS_PER_MS)
        make_key(k);
    key = k->now;
    uv_mutex_unlock(&k->mutex);
    return key;
}

/* 0: it is none of ours; 1: the newest; 2: the one before, so that the client shall have a new ticket. */
static int find(struct tls_tickets *k, const uint8_t name[NAME], struct key *key)
{
    int found = 0;

    uv_mutex_lock(&k->mutex);
    if (memcmp(name, k->now.name, NAME) == 0)
        found = 1;
    else if (memcmp(name, k->before.name, NAME) == 0)
        found = 2;
    if (found != 0)
        *key = found == 1 ? k->now : k->before;
    uv_mutex_unlock(&k->mutex);
    return found;
}

static bool set_mac(EVP_MAC_CTX *mac, struct key *key)
{
    OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, SECRET),
                           OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
                           OSSL_PARAM_construct_end()};

    return EVP_MAC_CTX_set_params(mac, params) == 1;
}

static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int make)
{
    struct tls_tickets *k = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), context_index);
    struct key key;
    int result = 1;

    if (make) {
        key = newest(k);
        memcpy(name, key.name, NAME);
        if (RAND_bytes(iv, IV) != 1 || EVP_EncryptInit_ex2(cipher, k->aes, key.cipher, iv, NULL) != 1)
            result = -1;
    } else {
        result = find(k, name, &key);
        /* RFC 8446 section C.4: a client uses a ticket once, and wants the next. */
        if (result == 1 && SSL_version(ssl) == TLS1_3_VERSION)
            result = 2;
        if (result > 0 && EVP_DecryptInit_ex2(cipher, k->aes, key.cipher, iv, NULL) != 1)
            result = -1;
    }
    if (result > 0 && !set_mac(mac, &key))
        result = -1;
    if (result != 0)
        OPENSSL_cleanse(&key, sizeof(key));
    return result;
}

void tls_tickets_use(struct tls_tickets *k, SSL_CTX *ctx)
{
    atomic_fetch_add_explicit(&k->references, 1, memory_order_relaxed);
    if (SSL_CTX_set_ex_data(ctx, context_index, k) != 1 || SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket) != 1)
        mr_panic("out of memory for TLS");
}
