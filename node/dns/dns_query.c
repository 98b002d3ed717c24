#include "node/dns/dns_query.h"

#include "node/dns/dns_answer.h"
#include "proto/base/memory.h"

#include <arpa/nameser.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

/* ares_create_query and ares_send stand in both 1.18 (Debian 12) and 1.34 (Debian 13); the second would like others. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

enum {
    EDNS_SIZE = 1232, /* what passes everywhere without fragments */
    ASK_AD = 0x20,    /* of a header's fourth octet */
};

struct question {
    ares_channel channel;
    dns_query_cb cb;
    void *arg;
    int type;
    bool without_edns;
    char name[];
};

static int status_of(const struct dns_head *head, const uint8_t *answer)
{
    switch (head->rcode) {
    case DNS_RCODE_NONE:
        return answer[6] == 0 && answer[7] == 0 ? ARES_ENODATA : ARES_SUCCESS;
    case DNS_RCODE_NAME:
        return ARES_ENOTFOUND;
    case ns_r_formerr:
        return ARES_EFORMERR;
    case ns_r_notimpl:
        return ARES_ENOTIMP;
    case ns_r_refused:
        return ARES_EREFUSED;
    default:
        return ARES_ESERVFAIL;
    }
}

static void send_question(struct question *q);

static void on_answer(void *arg, int status, int timeouts, unsigned char *answer, int len)
{
    struct question *q = arg;
    struct dns_head head = {0};

    (void)timeouts;
    if (status == ARES_SUCCESS && (len < 0 || dns_read_head(answer, (size_t)len, &head) != 0))
        status = ARES_EBADRESP;
    if (status == ARES_SUCCESS)
        status = status_of(&head, answer);
    if (status == ARES_EFORMERR && !q->without_edns) { /* a server from before EDNS (RFC 6891 7) */
        q->without_edns = true;
        send_question(q);
        return;
    }
    q->cb(q->arg, status, head.ad, status == ARES_SUCCESS ? answer : NULL, status == ARES_SUCCESS ? (size_t)len : 0);
    free(q);
}

static void send_question(struct question *q)
{
    unsigned short id;
    unsigned char *text;
    int len;

    int rc = RAND_bytes((unsigned char *)&id, sizeof(id)) == 1
                 ? ares_create_query(q->name, ns_c_in, q->type, id, 1, &text, &len, q->without_edns ? 0 : EDNS_SIZE)
                 : ARES_ENOMEM;
    if (rc != ARES_SUCCESS) {
        on_answer(q, rc, 0, NULL, 0);
        return;
    }
    text[3] |= ASK_AD;
    ares_send(q->channel, text, len, on_answer, q); /* copies */
    ares_free_string(text);
}

void dns_query(ares_channel channel, const char *name, int type, dns_query_cb cb, void *arg)
{
    size_t len = strlen(name) + 1;
    struct question *q = mr_calloc(1, sizeof(*q) + len);

    q->channel = channel;
    q->cb = cb;
    q->arg = arg;
    q->type = type;
    memcpy(q->name, name, len);
    send_question(q);
}
