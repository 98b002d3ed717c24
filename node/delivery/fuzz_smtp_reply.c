/* fuzz_smtp_reply.c - any octets from a server: the parser stays inside its limits, cuts of the input change nothing,
 * and what it keeps is fit for a log and a report. */
#include "node/delivery/smtp_reply_parser.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
    int rc, code;
    size_t used;
    char text[REPLY_TEXT + 1];
};

static void on_line(void *arg, unsigned number, const char *text, size_t len)
{
    unsigned *lines = arg;
    mr_assert(number == *lines && number < REPLY_MAX_LINES && len <= REPLY_MAX_LINE && (len == 0 || text != NULL));
    mr_assert(memchr(text, '\n', len) == NULL);
    (*lines)++;
}

/* The first reply, read in pieces of `step` octets. */
static struct result first_reply(const char *data, size_t size, size_t step)
{
    static struct smtp_reply_parser p;
    struct result r = {.rc = MR_MORE};
    unsigned lines = 0;
    p.on_line = on_line;
    p.arg = &lines;
    smtp_reply_begin(&p);
    while (r.rc == MR_MORE && r.used < size) {
        size_t n = size - r.used < step ? size - r.used : step, used = SIZE_MAX;
        r.rc = smtp_reply_feed(&p, data + r.used, n, &used);
        mr_assert(used <= n && (r.rc != MR_MORE || used == n));
        r.used += used;
    }
    mr_assert(r.rc == 0 || r.rc == MR_MORE || r.rc == MR_MALFORMED || r.rc == MR_LIMIT);
    if (r.rc == 0) {
        char status[16];
        mr_assert(p.code >= 200 && p.code < 600 && p.text_len <= REPLY_TEXT && strlen(p.text) == p.text_len);
        for (size_t i = 0; i < p.text_len; i++)
            mr_assert((unsigned char)p.text[i] >= 0x20 && p.text[i] != 0x7f);
        smtp_reply_status(p.code, p.text, status);
        mr_assert(strlen(status) >= 5 && strlen(status) < sizeof(status) && status[0] == '0' + p.code / 100);
        r.code = p.code;
        memcpy(r.text, p.text, p.text_len + 1);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct result whole = first_reply(text, size, size > 0 ? size : 1);
    for (size_t step = 1; step < 8; step += 3) {
        struct result cut = first_reply(text, size, step);
        mr_assert(cut.rc == whole.rc && cut.code == whole.code && strcmp(cut.text, whole.text) == 0);
        mr_assert(whole.rc != 0 || cut.used == whole.used);
    }
    return 0;
}
