/* smtp_data.c - the reader as a state machine with a fast way through text.
 *
 * LINE_START --'.'--> DOT --CR--> DOT_CR --LF--> END
 * LINE_START, MENDED_START, TEXT, DOT --other--> TEXT; those --CR--> CR --LF--> LINE_START
 * mended: those --LF--> MENDED_START; CR, DOT_CR --other--> MENDED_START, which looks at that octet again
 * MENDED_START --'.'--> TEXT, and the dot is gone
 * A CR is held back until the octet behind it is known, so that CR LF is produced as a whole.
 * Most text takes none of these steps: it is looked at in blocks, and those in which nothing is out of the ordinary are
 * copied in one go, line ends and all. */
#include "node/server/smtp_data.h"

#include <string.h>

void smtp_data_init(struct smtp_data *d, bool dots, bool mend)
{
    *d = (struct smtp_data){.state = DATA_LINE_START, .dots = dots, .mend = mend};
}

enum { BLOCK = 64 };

struct feed {
    struct smtp_data *d;
    uint8_t *out;
    size_t produced;
    size_t cap;
};

static bool has_room(const struct feed *f)
{
    return smtp_data_bare(f->d) || f->cap - f->produced >= 2;
}

static void put(struct feed *f, const void *bytes, size_t n)
{
    if (smtp_data_bare(f->d))
        return;
    memcpy(f->out + f->produced, bytes, n);
    f->produced += n;
}

/* Octets in whole blocks that come out as they are: each CR has its LF and each LF its CR, and no line begins with a
 * dot. p[-1] is looked at too. Without branches inside a block, so that the compiler makes vectors of it. */
static size_t plain_blocks(const uint8_t *p, size_t n)
{
    size_t len = 0;

    for (; n - len >= BLOCK; len += BLOCK) {
        const uint8_t *at = p + len, *before = at - 1;
        uint8_t odd = 0;

        for (size_t i = 0; i < BLOCK; i++)
            odd |= (uint8_t)(((at[i] == '\n') ^ (before[i] == '\r')) | ((at[i] == '.') & (before[i] == '\n')));
        if (odd != 0)
            break;
    }
    return len;
}

/* In LINE_START or TEXT, behind at least one octet of this input: the blocks that come out as they are. Returns octets
 * consumed. */
static size_t take_blocks(struct feed *f, const uint8_t *p, size_t n)
{
    struct smtp_data *d = f->d;

    if (smtp_data_bare(d))
        return 0;
    if (n > f->cap - f->produced)
        n = f->cap - f->produced;
    n = plain_blocks(p, n);
    if (n == 0)
        return 0;
    d->state = p[n - 1] == '\r' ? DATA_CR : p[n - 1] == '\n' ? DATA_LINE_START : DATA_TEXT;
    put(f, p, d->state == DATA_CR ? n - 1 : n);
    return n;
}

/* As much text as there is before the next CR or LF. */
static size_t take_text(struct feed *f, const uint8_t *p, size_t n)
{
    const uint8_t *stop;

    if (!smtp_data_bare(f->d) && n > f->cap - f->produced)
        n = f->cap - f->produced;
    stop = memchr(p, '\n', n);
    if (stop != NULL)
        n = (size_t)(stop - p);
    stop = memchr(p, '\r', n);
    if (stop != NULL)
        n = (size_t)(stop - p);
    put(f, p, n);
    return n;
}

/* A line end that is none in SMTP. */
static void bare(struct feed *f, bool *which)
{
    struct smtp_data *d = f->d;

    if (!d->mend) {
        *which = true;
        d->state = DATA_TEXT;
        return;
    }
    put(f, "\r\n", 2);
    d->state = DATA_MENDED_START;
}

/* One octet in LINE_START, MENDED_START, TEXT or DOT that begins or ends something. True: it was consumed. */
static bool take_octet(struct feed *f, uint8_t ch)
{
    struct smtp_data *d = f->d;

    if (ch == '\r') {
        d->state = d->state == DATA_DOT ? DATA_DOT_CR : DATA_CR;
        return true;
    }
    if (ch == '\n') {
        bare(f, &d->bare_lf);
        return true;
    }
    if (ch == '.' && d->dots && d->state == DATA_LINE_START) {
        d->state = DATA_DOT;
        return true;
    }
    if (ch == '.' && d->dots && d->state == DATA_MENDED_START) {
        d->state = DATA_TEXT;
        return true;
    }
    d->state = DATA_TEXT; /* a dot before it was stuffing */
    return false;
}

/* The octet after a CR. True: it was consumed. */
static bool after_cr(struct feed *f, uint8_t ch)
{
    struct smtp_data *d = f->d;

    if (ch != '\n') {
        bare(f, &d->bare_cr);
        return false; /* it may be a CR itself, which begins a line end */
    }
    if (d->state == DATA_DOT_CR) {
        d->state = DATA_END;
    } else {
        put(f, "\r\n", 2);
        d->state = DATA_LINE_START;
    }
    return true;
}

size_t smtp_data_feed(struct smtp_data *d, const uint8_t *in, size_t len, uint8_t *out, size_t cap, size_t *produced)
{
    struct feed f = {d, out, 0, cap};
    size_t i = 0, next_block = 1;

    while (i < len && d->state != DATA_END && has_room(&f)) {
        if (i >= next_block && (d->state == DATA_LINE_START || d->state == DATA_TEXT)) {
            i += take_blocks(&f, in + i, len - i);
            next_block = i + BLOCK; /* that one has something in it, or there is none */
            continue;
        }
        switch (d->state) {
        case DATA_CR:
        case DATA_DOT_CR:
            i += after_cr(&f, in[i]);
            break;
        case DATA_TEXT:
            i += take_text(&f, in + i, len - i);
            if (i < len && has_room(&f) && (in[i] == '\r' || in[i] == '\n'))
                i += take_octet(&f, in[i]);
            break;
        case DATA_LINE_START:
        case DATA_MENDED_START:
        case DATA_DOT:
            i += take_octet(&f, in[i]);
            break;
        case DATA_END:
            break;
        }
    }
    *produced = f.produced;
    return i;
}

size_t smtp_data_finish(struct smtp_data *d, uint8_t out[2])
{
    struct feed f = {d, out, 0, 2};

    if (d->state == DATA_CR)
        bare(&f, &d->bare_cr);
    else if (d->state == DATA_TEXT)
        put(&f, "\r\n", 2);
    d->state = DATA_END;
    return f.produced;
}
