/* test_link.h - for the tests of links: certificates, nodes on one loop, waiting for conditions. */
#ifndef MR_CLUSTER_TEST_LINK_H
#define MR_CLUSTER_TEST_LINK_H

#include "cluster/link.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TEST_FUNCTION __attribute__((unused)) static

enum { TEST_NODES = 3, TEST_WAIT_MS = 30000 };

/* ---- certificates: DIR/NAME.pem, DIR/NAME.key ---- */

struct test_ca {
    EVP_PKEY *key;
    X509 *cert;
};

TEST_FUNCTION void test_write_pem(const char *dir, const char *name, X509 *cert, EVP_PKEY *key)
{
    char path[400];
    (void)snprintf(path, sizeof(path), "%s/%s.pem", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, cert), 1);
    assert_int_equal(fclose(file), 0);
    (void)snprintf(path, sizeof(path), "%s/%s.key", dir, name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(file), 0);
}

TEST_FUNCTION void test_extension(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

TEST_FUNCTION X509 *test_cert(EVP_PKEY *key, const char *common_name, X509 *issuer, EVP_PKEY *issuer_key,
                              const char *alt)
{
    static long serial = 1;
    X509 *cert = X509_new();
    assert_non_null(cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1,
                               -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer != NULL ? issuer : cert));
    X509_set_pubkey(cert, key);
    test_extension(cert, NID_basic_constraints, issuer == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    if (alt != NULL)
        test_extension(cert, NID_subject_alt_name, alt);
    assert_true(X509_sign(cert, issuer_key, EVP_sha256()) > 0);
    return cert;
}

TEST_FUNCTION struct test_ca test_ca_new(const char *dir, const char *name)
{
    struct test_ca ca = {.key = EVP_EC_gen("P-256")};
    assert_non_null(ca.key);
    ca.cert = test_cert(ca.key, name, NULL, ca.key, NULL);
    test_write_pem(dir, name, ca.cert, ca.key);
    return ca;
}

TEST_FUNCTION void test_ca_issue(const struct test_ca *ca, const char *dir, const char *file, const char *common_name,
                                 const char *alt)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = test_cert(key, common_name, ca->cert, ca->key, alt);
    test_write_pem(dir, file, cert, key);
    X509_free(cert);
    EVP_PKEY_free(key);
}

TEST_FUNCTION void test_ca_free(struct test_ca *ca)
{
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
}

/* ---- nodes ---- */

struct test_node {
    struct links *links;
    uint32_t id;
    char name[16];
    bool up[TEST_NODES + 1][LINK_CHANNELS];
    unsigned ups, downs, refusals, frames;
    char refused[300], down_reason[300];
    const char *check_says; /* for each Hello */
    uint32_t check_only;    /* not 0: only the Hello of this node id */
    unsigned checks;
    /* The test's own view of frames; NULL: counted only. */
    int (*on_frame)(struct test_node *n, uint32_t peer, enum link_channel channel, enum frame_type type,
                    const uint8_t *meta, size_t meta_len, const uint8_t *tail, size_t tail_len);
    void *test;
    bool closed;
};

struct test_mesh {
    uv_loop_t loop;
    uv_timer_t tick; /* wakes the loop, so that conditions with a time limit are looked at */
    char dir[64];
    bool insecure;
    struct test_node nodes[TEST_NODES];
};

TEST_FUNCTION void test_hello(void *arg, Mailraft__Hello *out)
{
    struct test_node *n = arg;
    out->node = n->id;
    out->incarnation = 7;
}

TEST_FUNCTION const char *test_check(void *arg, const Mailraft__Hello *peer)
{
    struct test_node *n = arg;
    n->checks++;
    assert_int_equal(peer->incarnation, 7);
    return n->check_only == 0 || n->check_only == peer->node ? n->check_says : NULL;
}

TEST_FUNCTION void test_up(void *arg, uint32_t peer, enum link_channel channel)
{
    struct test_node *n = arg;
    assert_false(n->up[peer][channel]);
    n->up[peer][channel] = true;
    n->ups++;
}

TEST_FUNCTION void test_down(void *arg, uint32_t peer, enum link_channel channel, const char *reason)
{
    struct test_node *n = arg;
    assert_true(n->up[peer][channel]);
    n->up[peer][channel] = false;
    n->downs++;
    (void)snprintf(n->down_reason, sizeof(n->down_reason), "%s", reason);
}

TEST_FUNCTION void test_refused(void *arg, uint32_t peer, const char *reason)
{
    struct test_node *n = arg;
    (void)peer;
    n->refusals++;
    (void)snprintf(n->refused, sizeof(n->refused), "%s", reason);
}

TEST_FUNCTION int test_frame(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type,
                             const uint8_t *meta, size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct test_node *n = arg;
    n->frames++;
    return n->on_frame != NULL ? n->on_frame(n, peer, channel, type, meta, meta_len, tail, tail_len) : 0;
}

TEST_FUNCTION struct links_handler test_handler(struct test_node *n)
{
    return (struct links_handler){.arg = n,
                                  .hello = test_hello,
                                  .check = test_check,
                                  .up = test_up,
                                  .down = test_down,
                                  .refused = test_refused,
                                  .frame = test_frame};
}

/* port 0: any. */
TEST_FUNCTION void test_node_open(struct test_mesh *m, struct test_node *n, int port)
{
    char listen[40], ca[100], cert[100], key[100], error[300] = "";
    (void)snprintf(listen, sizeof(listen), "127.0.0.1:%d", port);
    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", m->dir);
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", m->dir, n->name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", m->dir, n->name);
    struct links_config config = {.loop = &m->loop,
                                  .listen = listen,
                                  .name = n->name,
                                  .insecure = m->insecure,
                                  .ca = ca,
                                  .cert = cert,
                                  .key = key,
                                  .handler = test_handler(n)};
    memset(n->up, 0, sizeof(n->up));
    n->closed = false;
    int rc = links_open(&n->links, &config, error, sizeof(error));
    if (rc != 0)
        fail_msg("links_open: %s", error);
}

TEST_FUNCTION void test_add_peers(struct test_mesh *m, struct test_node *n)
{
    for (int i = 0; i < TEST_NODES; i++) {
        char address[40];
        struct test_node *peer = &m->nodes[i];
        if (peer == n)
            continue;
        (void)snprintf(address, sizeof(address), "127.0.0.1:%d", links_port(peer->links));
        assert_int_equal(links_add_peer(n->links, peer->id, peer->name, address), 0);
    }
}

TEST_FUNCTION void test_on_tick(uv_timer_t *timer)
{
    (void)timer;
}

TEST_FUNCTION void test_wait(struct test_mesh *m, bool (*done)(void *arg), void *arg, const char *what)
{
    uint64_t end = uv_hrtime() + TEST_WAIT_MS * 1000000ULL;
    while (!done(arg)) {
        if (uv_hrtime() > end)
            fail_msg("waited too long for: %s", what);
        uv_run(&m->loop, UV_RUN_ONCE);
    }
}

TEST_FUNCTION bool test_all_up(void *arg)
{
    struct test_mesh *m = arg;
    for (int i = 0; i < TEST_NODES; i++)
        for (int k = 0; k < TEST_NODES; k++)
            for (int channel = 0; channel < LINK_CHANNELS; channel++)
                if (i != k && !m->nodes[i].up[k + 1][channel])
                    return false;
    return true;
}

/* Three nodes mx1 to mx3, not yet peers of each other. */
TEST_FUNCTION void test_mesh_init(struct test_mesh *m, bool insecure)
{
    memset(m, 0, sizeof(*m));
    m->insecure = insecure;
    assert_int_equal(uv_loop_init(&m->loop), 0);
    uv_timer_init(&m->loop, &m->tick);
    uv_timer_start(&m->tick, test_on_tick, 5, 5);
    (void)snprintf(m->dir, sizeof(m->dir), "/tmp/mailraft-link-XXXXXX");
    assert_non_null(mkdtemp(m->dir));
    struct test_ca ca = {0};
    if (!insecure)
        ca = test_ca_new(m->dir, "ca");
    for (uint32_t i = 0; i < TEST_NODES; i++) {
        struct test_node *n = &m->nodes[i];
        n->id = i + 1;
        (void)snprintf(n->name, sizeof(n->name), "mx%u", n->id);
        char alt[64];
        (void)snprintf(alt, sizeof(alt), "DNS:%s,DNS:localhost,IP:127.0.0.1", n->name);
        if (!insecure) /* one of them by its common name */
            test_ca_issue(&ca, m->dir, n->name, i == 0 ? n->name : "node", i == 0 ? NULL : alt);
        test_node_open(m, n, 0);
    }
    test_ca_free(&ca);
}

TEST_FUNCTION void test_mesh_connect(struct test_mesh *m)
{
    for (int i = 0; i < TEST_NODES; i++)
        test_add_peers(m, &m->nodes[i]);
    test_wait(m, test_all_up, m, "all links up");
}

TEST_FUNCTION void test_on_closed(void *arg)
{
    struct test_node *n = arg;
    n->closed = true;
    n->links = NULL;
}

TEST_FUNCTION bool test_is_closed(void *arg)
{
    return ((struct test_node *)arg)->closed;
}

TEST_FUNCTION void test_node_close(struct test_mesh *m, struct test_node *n)
{
    if (n->links == NULL)
        return;
    links_close(n->links, test_on_closed, n);
    test_wait(m, test_is_closed, n, "close");
}

TEST_FUNCTION void test_mesh_close(struct test_mesh *m)
{
    for (int i = 0; i < TEST_NODES; i++)
        test_node_close(m, &m->nodes[i]);
    uv_close((uv_handle_t *)&m->tick, NULL);
    uv_run(&m->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&m->loop), 0);
    char command[100];
    (void)snprintf(command, sizeof(command), "rm -r %s", m->dir);
    assert_int_equal(system(command), 0);
}

#endif
