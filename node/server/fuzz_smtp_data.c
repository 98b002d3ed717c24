/* fuzz_smtp_data.c - the reader of text and the scanner of headers: fed in pieces cut by the first octets of the input,
 * they must come to what one piece comes to; what is produced has no bare CR or LF, and mended text could not end
 * anywhere on its way out (T1, T2, T3, H1). */
#include "node/mail/smtp_header.h"
#include "node/server/smtp_data.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 8 };

struct run {
    struct smtp_data reader;
    struct smtp_header header;
    uint8_t *text;
    size_t len, consumed;
};

static void feed_header(struct run *r, size_t n)
{
    size_t used = r->header.ended ? 0 : smtp_header_feed(&r->header, r->text + r->len, n);

    mr_assert(used <= n && (used == n || r->header.ended));
}

/* Pieces of cuts[0], cuts[1], ... octets in turn (0: all at once), into room of as many octets, at least two. */
static void run(struct run *r, const uint8_t *in, size_t len, const uint8_t *cuts, unsigned how)
{
    unsigned turn = 0;

    memset(r, 0, sizeof(*r));
    smtp_data_init(&r->reader, how & 1, how & 2);
    r->text = malloc(2 * len + 4); /* a mended line end is one octet more */
    mr_assert(r->text != NULL);
    while (r->consumed < len && !smtp_data_ended(&r->reader)) {
        size_t cut = cuts != NULL ? cuts[turn++ % CUTS] : 0;
        size_t rest = len - r->consumed;
        size_t room = 2 * len + 2 - r->len;
        size_t n, used;

        if (cut > 0) {
            rest = cut < rest ? cut : rest;
            room = cut + 2 < room ? cut + 2 : room;
        }
        used = smtp_data_feed(&r->reader, in + r->consumed, rest, r->text + r->len, room, &n);
        mr_assert((used > 0 || n > 0) && used <= rest && n <= room);
        feed_header(r, n);
        r->consumed += used;
        r->len += n;
    }
    if (!(how & 1)) {
        size_t n = smtp_data_finish(&r->reader, r->text + r->len);

        feed_header(r, n);
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

static void check_header(const struct smtp_header *a, const struct smtp_header *b)
{
    mr_assert(a->received == b->received && a->seen == b->seen && a->eight_bit == b->eight_bit &&
              a->ended == b->ended && a->fields_ended == b->fields_ended && a->empty_line == b->empty_line &&
              a->fields_end == b->fields_end && a->octets == b->octets);
    mr_assert(!a->fields_ended || a->fields_end <= a->octets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run whole, cut;
    unsigned how;
    size_t end;

    if (size < CUTS + 1)
        return 0;
    how = data[CUTS];
    data++;
    size--;
    run(&whole, data + CUTS, size - CUTS, NULL, how);
    run(&cut, data + CUTS, size - CUTS, data, how);
    mr_assert(whole.consumed == cut.consumed && whole.reader.state == cut.reader.state);
    mr_assert(whole.reader.bare_cr == cut.reader.bare_cr && whole.reader.bare_lf == cut.reader.bare_lf);
    if (how & 1) {
        end = find_end(data + CUTS, size - CUTS);
        mr_assert(smtp_data_ended(&whole.reader) == (end != SIZE_MAX));
        if (end != SIZE_MAX)
            mr_assert(whole.consumed == end);
    } else {
        mr_assert(whole.consumed == size - CUTS);
    }
    if (how & 2)
        mr_assert(!smtp_data_bare(&whole.reader));
    if (!smtp_data_bare(&whole.reader)) {
        mr_assert(whole.len == cut.len && memcmp(whole.text, cut.text, whole.len) == 0);
        check_header(&whole.header, &cut.header);
        check_text(&whole);
    }
    free(whole.text);
    free(cut.text);
    return 0;
}
