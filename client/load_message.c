/* Lines are cut out of a pool of random characters at random places: a copy of 70 bytes costs far less than 70 random
 * numbers. A body of one piece is rendered once; a longer one is read once for its checksum and again for the wire. */
#include "client/load_message.h"

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void load_text_init(struct load_text *text, uint64_t seed)
{
    struct rng rng = rng_seeded(seed, UINT64_MAX);

    text->seed = seed;
    for (size_t i = 0; i < LOAD_POOL; i++)
        text->pool[i] = rng_below(&rng, 6) == 0 ? ' ' : (char)('!' + rng_below(&rng, 94));
    memcpy(text->pool + LOAD_POOL, text->pool, LOAD_LINE_MAX);
}

void load_body_start(struct load_body *body, const struct load_text *text, uint64_t number, uint64_t size)
{
    mr_assert(size != 1);
    body->text = text;
    body->rng = rng_seeded(text->seed, number);
    body->left = size;
}

/* Length of the next line without its end. What stays behind it is nothing or a whole line. */
static size_t line_length(struct load_body *body, uint64_t dice)
{
    size_t n = LOAD_LINE_MAX - 16 + (size_t)(dice & 15);

    if ((dice >> 4 & 15) == 0)
        n = (size_t)(dice >> 8 & 7);
    if (n + 2 >= body->left)
        return (size_t)body->left - 2;
    if (n + 3 == body->left)
        return n > 0 ? n - 1 : n + 1;
    return n;
}

size_t load_body_fill(struct load_body *body, char *out, size_t cap)
{
    size_t len = 0;

    mr_assert(cap >= 256);
    while (body->left > 0 && cap - len >= LOAD_LINE_MAX + 2) {
        uint64_t dice = rng_next(&body->rng);
        size_t n = line_length(body, dice);
        memcpy(out + len, body->text->pool + (dice >> 48), n);
        if (n > 0 && (dice >> 12 & 7) == 0)
            out[len] = '.';
        out[len + n] = '\r';
        out[len + n + 1] = '\n';
        len += n + 2;
        body->left -= n + 2;
    }
    return len;
}

size_t load_stuff(const char *in, size_t len, char *out)
{
    size_t at = 0;
    size_t n = 0;

    while (at < len) {
        if (in[at] == '.')
            out[n++] = '.';
        const char *lf = memchr(in + at, '\n', len - at);
        size_t end = lf != NULL ? (size_t)(lf - in) + 1 : len;
        memcpy(out + n, in + at, end - at);
        n += end - at;
        at = end;
    }
    return n;
}

static void format_sum(XXH128_hash_t hash, char out[LOAD_SUM_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t c;

    XXH128_canonicalFromHash(&c, hash);
    for (size_t i = 0; i < sizeof(c.digest); i++) {
        out[2 * i] = digits[c.digest[i] >> 4];
        out[2 * i + 1] = digits[c.digest[i] & 15];
    }
    out[LOAD_SUM_SIZE - 1] = '\0';
}

/* Header and blank line, into wire. */
static void render_head(struct load_message *m, const struct load_envelope *e)
{
    char date[MR_RFC5322_DATE_SIZE];
    const char *at = strrchr(e->sender, '@');
    const char *domain = at != NULL ? at + 1 : "load.invalid";

    int n = snprintf(m->wire, LOAD_HEAD_MAX,
                     "From: <%s>\r\nTo: <%s>\r\nSubject: load %s\r\nDate: %s\r\nMessage-ID: <%s@%s>\r\n"
                     "X-Load-Key: %s\r\nX-Load-Sum: %s\r\n\r\n",
                     at != NULL ? e->sender : "load@load.invalid", e->recipient, e->key,
                     mr_rfc5322_date(e->wall_ms, date), e->key, domain, e->key, m->sum);
    mr_assert(n > 0 && n < LOAD_HEAD_MAX);
    m->wire_len = (size_t)n;
}

static void end_piece(struct load_message *m)
{
    m->last = m->body.left == 0;
    if (m->last) {
        memcpy(m->wire + m->wire_len, ".\r\n", 3);
        m->wire_len += 3;
    }
    mr_assert(m->wire_len <= m->wire_cap);
}

void load_message_start(struct load_message *m, struct load_text *text, uint64_t number, uint64_t size,
                        const struct load_envelope *envelope)
{
    size_t piece = size < LOAD_PIECE ? (size_t)size : LOAD_PIECE;
    size_t need = LOAD_HEAD_MAX + piece + piece / 3 + 8;

    if (m->wire_cap < need) {
        m->wire = mr_realloc(m->wire, need);
        m->wire_cap = need;
    }
    load_body_start(&m->body, text, number, size);
    size_t len = load_body_fill(&m->body, text->scratch, sizeof(text->scratch));
    struct load_body second = m->body;
    if (second.left == 0) {
        format_sum(XXH3_128bits(text->scratch, len), m->sum);
    } else {
        XXH3_state_t *hash = XXH3_createState();
        mr_assert(hash != NULL);
        (void)XXH3_128bits_reset(hash);
        for (size_t n = len; n > 0; n = load_body_fill(&second, text->scratch, sizeof(text->scratch)))
            (void)XXH3_128bits_update(hash, text->scratch, n);
        format_sum(XXH3_128bits_digest(hash), m->sum);
        (void)XXH3_freeState(hash);
        load_body_start(&m->body, text, number, size);
        len = load_body_fill(&m->body, text->scratch, sizeof(text->scratch));
    }
    m->size = size;
    render_head(m, envelope);
    m->total = m->wire_len + size;
    m->wire_len += load_stuff(text->scratch, len, m->wire + m->wire_len);
    end_piece(m);
}

void load_message_next(struct load_message *m, struct load_text *text)
{
    mr_assert(!m->last);
    size_t len = load_body_fill(&m->body, text->scratch, sizeof(text->scratch));
    m->wire_len = load_stuff(text->scratch, len, m->wire);
    end_piece(m);
}

void load_message_free(struct load_message *m)
{
    free(m->wire);
    m->wire = NULL;
    m->wire_cap = 0;
}
