/* All lines are gathered first, by key and recipient in one hash table of pairs; judging walks the pairs. Deliveries of
 * keys that no run owns are told apart only then, so that the order of the files does not matter. */
#include "client/load_verify.h"

#include "client/smtp_line.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A recipient of a message. */
struct pair {
    struct pair *next;                                  /* of the same message */
    uint32_t accepted, explaining, permanent, attempts; /* attempts' lines */
    uint32_t delivered, unanswered;                     /* sinks' lines; unanswered is a part of delivered */
    bool bounced;
    bool queued;
    char recipient[]; /* domain in lower case */
};

struct message {
    struct pair *pairs;
    bool sent; /* some attempt's line */
    bool has_sum;
    bool all_queued;
    uint32_t altered;
    char sum[33];
    uint32_t sums_seen;     /* deliveries whose claimed sum is compared at the end */
    char delivered_sum[33]; /* of the first delivery; another one is compared at once */
    char key[];
};

struct run {
    char *prefix;
    uint64_t messages;
    bool ended;
};

struct verify {
    struct message **table;
    size_t mask, count;
    struct run runs[VERIFY_RUNS_MAX];
    size_t run_count;
    uint64_t show;
    json_t *lists[VERIFY_LISTS];
    struct verify_result result;
};

struct verify *verify_open(uint64_t show)
{
    struct verify *v = mr_calloc(1, sizeof(*v));

    v->mask = 4095;
    v->table = mr_calloc(v->mask + 1, sizeof(struct message *));
    v->show = show;
    for (int i = 0; i < VERIFY_LISTS; i++) {
        v->lists[i] = json_array();
        mr_assert(v->lists[i] != NULL);
    }
    return v;
}

static void free_message(struct message *m)
{
    while (m->pairs != NULL) {
        struct pair *next = m->pairs->next;
        free(m->pairs);
        m->pairs = next;
    }
    free(m);
}

void verify_close(struct verify *v)
{
    for (size_t i = 0; i <= v->mask; i++) {
        if (v->table[i] != NULL)
            free_message(v->table[i]);
    }
    for (size_t i = 0; i < v->run_count; i++)
        free(v->runs[i].prefix);
    for (int i = 0; i < VERIFY_LISTS; i++)
        json_decref(v->lists[i]);
    free(v->table);
    free(v);
}

static size_t slot_of(struct message *const *table, size_t mask, const char *key)
{
    size_t at = (size_t)XXH3_64bits(key, strlen(key)) & mask;

    while (table[at] != NULL && strcmp(table[at]->key, key) != 0)
        at = (at + 1) & mask;
    return at;
}

static void grow(struct verify *v)
{
    size_t mask = v->mask * 2 + 1;
    struct message **table = mr_calloc(mask + 1, sizeof(struct message *));

    for (size_t i = 0; i <= v->mask; i++) {
        if (v->table[i] != NULL)
            table[slot_of(table, mask, v->table[i]->key)] = v->table[i];
    }
    free(v->table);
    v->table = table;
    v->mask = mask;
}

static struct message *find_message(struct verify *v, const char *key)
{
    if (v->count * 2 > v->mask)
        grow(v);
    size_t at = slot_of(v->table, v->mask, key);
    if (v->table[at] == NULL) {
        size_t size = strlen(key) + 1;
        v->table[at] = mr_calloc(1, sizeof(struct message) + size);
        memcpy(v->table[at]->key, key, size);
        v->count++;
    }
    return v->table[at];
}

/* The domain's letters have no case, the local part's do (RFC 5321 section 2.4). */
static struct pair *find_pair(struct message *m, const char *recipient)
{
    char text[SMTP_ADDRESS_MAX + 1];
    struct pair **last = &m->pairs;

    (void)snprintf(text, sizeof(text), "%s", recipient);
    char *at = strrchr(text, '@');
    for (char *c = at != NULL ? at : text + strlen(text); *c != '\0'; c++)
        *c = (char)tolower((unsigned char)*c);
    for (; *last != NULL; last = &(*last)->next) {
        if (strcmp((*last)->recipient, text) == 0)
            return *last;
    }
    size_t size = strlen(text) + 1;
    *last = mr_calloc(1, sizeof(struct pair) + size);
    memcpy((*last)->recipient, text, size);
    return *last;
}

static const char *text_of(const json_t *line, const char *name)
{
    const char *text = json_string_value(json_object_get(line, name));
    return text != NULL ? text : "";
}

static void take_run(struct verify *v, const json_t *line, bool ended)
{
    const char *prefix = text_of(line, "key_prefix");

    for (size_t i = 0; i < v->run_count; i++) {
        if (strcmp(v->runs[i].prefix, prefix) != 0)
            continue;
        v->runs[i].ended = ended; /* a second run with the same prefix begins anew */
        if (!ended && (uint64_t)json_integer_value(json_object_get(line, "messages")) > v->runs[i].messages)
            v->runs[i].messages = (uint64_t)json_integer_value(json_object_get(line, "messages"));
        return;
    }
    if (ended || v->run_count == VERIFY_RUNS_MAX)
        return;
    v->runs[v->run_count].prefix = mr_strdup(prefix);
    v->runs[v->run_count].messages = (uint64_t)json_integer_value(json_object_get(line, "messages"));
    v->run_count++;
}

/* May the attempt have left a copy, although it was not answered 250? */
static bool explains(const char *event, const char *verb, json_int_t code)
{
    if (strcmp(event, "indeterminate") == 0)
        return true;
    if (strcmp(event, "broken") == 0)
        return strcmp(verb, "body") == 0 || strcmp(verb, "dot") == 0;
    return strcmp(event, "refused") == 0 && strcmp(verb, "dot") == 0 && code / 100 == 4;
}

/* 5xx at the banner or EHLO is about the session, not about the message. */
static bool permanent(const char *event, const char *verb, json_int_t code)
{
    return strcmp(event, "refused") == 0 && code / 100 == 5 && strcmp(verb, "banner") != 0 && strcmp(verb, "ehlo") != 0;
}

static void take_sent(void *arg, const json_t *line)
{
    struct verify *v = arg;
    const char *event = text_of(line, "event");
    const char *key = text_of(line, "key");
    const char *verb = text_of(line, "verb");
    json_int_t code = json_integer_value(json_object_get(line, "code"));
    size_t i;
    json_t *value;

    if (strcmp(event, "begin") == 0 || strcmp(event, "end") == 0) {
        take_run(v, line, event[0] == 'e');
        return;
    }
    if (key[0] == '\0')
        return;
    struct message *m = find_message(v, key);
    m->sent = true;
    if (!m->has_sum && text_of(line, "sum")[0] != '\0') {
        m->has_sum = true;
        (void)snprintf(m->sum, sizeof(m->sum), "%s", text_of(line, "sum"));
    }
    json_array_foreach(json_object_get(line, "recipients"), i, value)
    {
        if (!json_is_string(value))
            continue;
        struct pair *p = find_pair(m, json_string_value(value));
        p->attempts++;
        p->accepted += strcmp(event, "sent") == 0;
        p->explaining += explains(event, verb, code);
        p->permanent += permanent(event, verb, code);
    }
}

static void note(struct verify *v, enum verify_list list, const char *key, const char *recipient)
{
    if (json_array_size(v->lists[list]) >= v->show)
        return;
    char *text = mr_asprintf("%s %s", key, recipient);
    (void)json_array_append_new(v->lists[list], json_string(text));
    free(text);
}

/* A bounce: the recipients that it says have failed are answered for. */
static void take_bounce(struct verify *v, const json_t *line)
{
    const char *key = text_of(line, "original_key");
    size_t i;
    json_t *report;

    v->result.dsn++;
    if (key[0] == '\0')
        return;
    struct message *m = find_message(v, key);
    json_array_foreach(json_object_get(line, "reports"), i, report)
    {
        if (strcasecmp(text_of(report, "action"), "failed") == 0)
            find_pair(m, text_of(report, "recipient"))->bounced = true;
    }
}

static void take_received(void *arg, const json_t *line)
{
    struct verify *v = arg;
    const char *key = text_of(line, "key");
    const char *sum = text_of(line, "sum");
    bool replied = !json_is_false(json_object_get(line, "replied"));
    size_t i;
    json_t *value;

    if (strcmp(text_of(line, "event"), "received") != 0)
        return;
    if (json_is_true(json_object_get(line, "dsn"))) {
        take_bounce(v, line);
        return;
    }
    v->result.deliveries++;
    if (key[0] == '\0') {
        v->result.invented++;
        note(v, VERIFY_INVENTED, "(no key)", text_of(line, "peer"));
        return;
    }
    struct message *m = find_message(v, key);
    /* What the body's own header claims is judged here; whether it is what the client sent, when all lines are known.
     */
    bool differs = m->sums_seen > 0 && strcmp(m->delivered_sum, sum) != 0;
    if (!json_is_true(json_object_get(line, "sum_ok")) || differs)
        m->altered++;
    else if (m->sums_seen++ == 0)
        (void)snprintf(m->delivered_sum, sizeof(m->delivered_sum), "%s", sum);
    json_array_foreach(json_object_get(line, "recipients"), i, value)
    {
        if (!json_is_string(value))
            continue;
        struct pair *p = find_pair(m, json_string_value(value));
        p->delivered++;
        p->unanswered += !replied;
    }
}

int verify_add_sent(struct verify *v, const char *path)
{
    return journal_read(path, take_sent, v, &v->result.sent_lines);
}

int verify_add_received(struct verify *v, const char *path)
{
    return journal_read(path, take_received, v, &v->result.received_lines);
}

int verify_add_queued(struct verify *v, const char *path)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    char *save = NULL;

    if (file == NULL)
        return MR_IO;
    while (getline(&line, &cap, file) > 0) {
        const char *key = strtok_r(line, " \t\r\n", &save);
        const char *recipient = strtok_r(NULL, " \t\r\n", &save);
        if (key == NULL)
            continue;
        struct message *m = find_message(v, key);
        if (recipient != NULL)
            find_pair(m, recipient)->queued = true;
        else
            m->all_queued = true;
    }
    int saved = errno;
    bool failed = ferror(file) != 0;
    free(line);
    if (file != stdin)
        (void)fclose(file);
    errno = saved;
    return failed ? MR_IO : 0;
}

/* Does the key belong to a run whose last lines may be missing, because it was killed? */
static bool unrecorded(const struct verify *v, const char *key)
{
    for (size_t i = 0; i < v->run_count; i++) {
        size_t n = strlen(v->runs[i].prefix);
        char *end = NULL;
        if (v->runs[i].ended || strncmp(key, v->runs[i].prefix, n) != 0 || !isdigit((unsigned char)key[n]))
            continue;
        errno = 0;
        unsigned long long number = strtoull(key + n, &end, 10);
        if (errno == 0 && *end == '\0' && number < v->runs[i].messages)
            return true;
    }
    return false;
}

/* No reply of the client's gives this pair: delivered all the same? */
static void judge_unaccepted(struct verify *v, const struct message *m, const struct pair *p)
{
    struct verify_result *r = &v->result;

    if (p->permanent > 0)
        r->refused++;
    else if (p->explaining > 0)
        r->indeterminate++;
    if (p->delivered == 0)
        return;
    if (p->explaining == 0) {
        r->refused_but_delivered++;
        note(v, VERIFY_REFUSED_DELIVERED, m->key, p->recipient);
    } else if (p->permanent == 0) {
        r->indeterminate_delivered++;
    }
}

static void judge_accepted(struct verify *v, const struct message *m, const struct pair *p)
{
    struct verify_result *r = &v->result;

    r->accepted++;
    if (p->delivered > p->unanswered) {
        r->delivered++;
    } else if (p->bounced) {
        r->bounced++;
    } else if (p->queued || m->all_queued) {
        r->queued++;
    } else {
        r->lost++;
        note(v, VERIFY_LOST, m->key, p->recipient);
    }
}

static void judge_copies(struct verify *v, const struct message *m, const struct pair *p)
{
    uint32_t allowed = p->accepted + p->explaining + p->unanswered;

    if (allowed == 0)
        allowed = 1; /* a refused message that was delivered is one fault, its further copies are duplicates */
    uint32_t natural = p->accepted > 0 ? p->accepted : 1;
    if (p->delivered > allowed) {
        v->result.duplicated += p->delivered - allowed;
        note(v, VERIFY_DUPLICATED, m->key, p->recipient);
    }
    uint32_t within = p->delivered < allowed ? p->delivered : allowed;
    if (within > natural)
        v->result.explained += within - natural;
}

static void judge_invented(struct verify *v, const struct message *m, const struct pair *p)
{
    v->result.invented += p->delivered;
    note(v, VERIFY_INVENTED, m->key, p->recipient);
}

static void judge_message(struct verify *v, const struct message *m)
{
    bool killed = !m->sent && unrecorded(v, m->key);
    bool seen = false;

    for (const struct pair *p = m->pairs; p != NULL; p = p->next) {
        seen = seen || p->delivered > 0;
        if (p->attempts > 0) {
            if (p->accepted > 0)
                judge_accepted(v, m, p);
            else
                judge_unaccepted(v, m, p);
            judge_copies(v, m, p);
        } else if (p->delivered > 0 && !killed) {
            judge_invented(v, m, p);
        }
    }
    v->result.messages += m->sent;
    v->result.unrecorded += killed && seen;
    uint64_t altered = m->altered;
    if (m->has_sum && m->sums_seen > 0 && strcmp(m->sum, m->delivered_sum) != 0)
        altered += m->sums_seen;
    if (altered > 0) {
        v->result.altered += altered;
        note(v, VERIFY_ALTERED, m->key, "");
    }
}

void verify_judge(struct verify *v, struct verify_result *out)
{
    for (size_t i = 0; i <= v->mask; i++) {
        if (v->table[i] != NULL)
            judge_message(v, v->table[i]);
    }
    *out = v->result;
}

const json_t *verify_listed(const struct verify *v, enum verify_list list)
{
    return v->lists[list];
}
