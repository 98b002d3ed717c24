/* fuzz_smtp_data.c - the dot reader and the count of Received fields: fed in pieces cut by the first octets of the
 * input, they must come to what one piece comes to; and what is produced has no bare CR or LF (T1, T2, T3). */
#include "node/smtp_data.h"
#include "node/smtp_received.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 8 };

struct run {
    struct smtp_data reader;
    struct smtp_hops hops;
    uint8_t *text;
    size_t len, consumed;
};

/* Pieces of cuts[0], cuts[1], ... octets in turn (0: all at once), into room of as many octets, at least two. */
static void run(struct run *r, const uint8_t *in, size_t len, const uint8_t *cuts)
{
    unsigned turn = 0;

    memset(r, 0, sizeof(*r));
    smtp_data_init(&r->reader);
    r->text = malloc(len + 2);
    mr_assert(r->text != NULL);
    while (r->consumed < len && !smtp_data_ended(&r->reader)) {
        size_t cut = cuts != NULL ? cuts[turn++ % CUTS] : 0;
        size_t rest = len - r->consumed;
        size_t room = len + 2 - r->len;
        size_t n, used;

        if (cut > 0) {
            rest = cut < rest ? cut : rest;
            room = cut + 2 < room ? cut + 2 : room;
        }
        used = smtp_data_feed(&r->reader, in + r->consumed, rest, r->text + r->len, room, &n);
        mr_assert(used > 0 && used <= rest && n <= room);
        smtp_hops_feed(&r->hops, r->text + r->len, n);
        r->consumed += used;
        r->len += n;
    }
}

/* Without a bare CR or LF the input up to the end is the text with its dots doubled. */
static void check_text(const struct run *r)
{
    for (size_t i = 0; i < r->len; i++) {
        if (r->text[i] == '\r')
            mr_assert(i + 1 < r->len && r->text[i + 1] == '\n');
        if (r->text[i] == '\n')
            mr_assert(i > 0 && r->text[i - 1] == '\r');
    }
}

/* The place behind the first CR LF . CR LF, by plain search; size_t's maximum: there is none. */
static size_t find_end(const uint8_t *in, size_t len)
{
    const uint8_t *p;

    if (len >= 3 && memcmp(in, ".\r\n", 3) == 0)
        return 3;
    p = memmem(in, len, "\r\n.\r\n", 5);
    return p != NULL ? (size_t)(p - in) + 5 : SIZE_MAX;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run whole, cut;
    size_t end;

    if (size < CUTS)
        return 0;
    run(&whole, data + CUTS, size - CUTS, NULL);
    run(&cut, data + CUTS, size - CUTS, data);
    mr_assert(whole.consumed == cut.consumed && whole.reader.state == cut.reader.state);
    mr_assert(whole.reader.bare_cr == cut.reader.bare_cr && whole.reader.bare_lf == cut.reader.bare_lf);
    end = find_end(data + CUTS, size - CUTS);
    mr_assert(smtp_data_ended(&whole.reader) == (end != SIZE_MAX));
    if (end != SIZE_MAX)
        mr_assert(whole.consumed == end);
    if (!smtp_data_bare(&whole.reader)) {
        mr_assert(whole.len == cut.len && memcmp(whole.text, cut.text, whole.len) == 0);
        mr_assert(whole.hops.count == cut.hops.count);
        check_text(&whole);
    }
    free(whole.text);
    free(cut.text);
    return 0;
}
