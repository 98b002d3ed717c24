/* fuzz_sasl.c - what a client says in an exchange, and what a smarthost says to us: any messages, in base64 as the
 * session decodes it, one a line. Nobody who does not know a password is ever let in. */
#include "node/auth/auth_internal.h"
#include "node/auth/sasl_client.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char users[] =
    "user:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=\n";

/* with_user: for SCRAM; without anybody passwords are turned down before they cost a hash. */
static struct auth *open_auth(uv_loop_t *loop, struct mailbox *mailbox, bool with_user)
{
    static struct config config[2];
    struct config *c = &config[with_user];
    char path[] = "/tmp/mailraft-fuzz-XXXXXX", error[256];
    int fd = mkstemp(path);
    struct auth_store *store;
    struct auth *a;

    mr_assert(fd >= 0 && (!with_user || write(fd, users, sizeof(users) - 1) == (ssize_t)sizeof(users) - 1));
    (void)close(fd);
    c->smtp.auth.file = path;
    c->smtp.auth.mechanisms = SASL_ALL;
    mr_assert(auth_store_open(&store, c, error, sizeof(error)) == 0);
    (void)unlink(path);
    auth_open(&a, loop, mailbox, store, c);
    return a;
}

static void on_answer(void *arg, const struct auth_answer *answer)
{
    (void)arg;
    (void)answer;
    mr_panic("a hash was computed for nobody");
}

/* The next line's message; false: none, or no base64. */
static bool next_message(const char **at, const char *end, char **out, size_t *len)
{
    const char *lf = *at < end ? memchr(*at, '\n', (size_t)(end - *at)) : NULL;
    const char *stop = lf != NULL ? lf : end;
    size_t n = (size_t)(stop - *at);

    *out = NULL;
    *len = 0;
    if (*at >= end)
        return false;
    if (n > 0 && gsasl_base64_from(*at, n, out, len) != GSASL_OK)
        return false;
    *at = stop + 1;
    return true;
}

static void serve(struct auth *a, unsigned mechanism, const char *at, const char *end)
{
    const struct auth_client client = {.remote = "192.0.2.1"};
    struct auth_exchange *e = auth_begin(a, mechanism, &client, on_answer, NULL);
    struct auth_answer answer = {AUTH_CHALLENGE, ""};
    char *message;
    size_t len;

    while (answer.verdict == AUTH_CHALLENGE && next_message(&at, end, &message, &len)) {
        answer = auth_step(e, message != NULL ? message : "", len);
        mr_assert(answer.verdict != AUTH_ACCEPTED && answer.verdict != AUTH_WAIT);
        mr_assert(answer.verdict != AUTH_CHALLENGE || strpbrk(answer.text, "\r\n") == NULL);
        gsasl_free(message);
    }
    auth_end(e);
}

static void ask(unsigned mechanism, const char *at, const char *end)
{
    struct sasl_client *c = sasl_client_open(mechanism, "user", "pencil", NULL);
    char line[SASL_CLIENT_LINE], text[600];
    int rc = sasl_client_step(c, NULL, line);

    for (int i = 0; rc == 0 && i < 8 && at < end; i++) {
        const char *lf = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((lf != NULL ? lf : end) - at);

        (void)snprintf(text, sizeof(text), "%.*s", (int)(n < sizeof(text) ? n : sizeof(text) - 1), at);
        at += n + 1;
        rc = sasl_client_step(c, text, line);
        mr_assert(rc != 0 || strpbrk(line, "\r\n") == NULL);
        mr_assert(mechanism != SASL_SCRAM_SHA_256 || !sasl_client_done(c));
    }
    sasl_client_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned mechanisms[] = {SASL_PLAIN, SASL_LOGIN, SASL_SCRAM_SHA_256};
    static struct auth *with, *without;
    static struct mailbox *mailbox;
    static uv_loop_t loop;
    const char *text = (const char *)data;
    unsigned mechanism;

    if (with == NULL) {
        mr_assert(uv_loop_init(&loop) == 0 && mailbox_open(&mailbox, &loop, 10) == 0);
        with = open_auth(&loop, mailbox, true);
        without = open_auth(&loop, mailbox, false);
    }
    if (size == 0)
        return 0;
    mechanism = mechanisms[data[0] % 3];
    if (data[0] & 0x80)
        ask(mechanism, text + 1, text + size);
    else
        serve(mechanism == SASL_SCRAM_SHA_256 ? with : without, mechanism, text + 1, text + size);
    return 0;
}
