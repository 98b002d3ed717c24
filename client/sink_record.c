/* The body streams through here to checksum and kept file. At the dot: journal line first, 250 after it; a kill between
 * the two leaves a recorded message without an answer, which the sender must take as not delivered and send again. */
#include "client/sink_session.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *kept_path(const struct sink_session *s, const char *suffix)
{
    return mr_asprintf("%s/%llu-%llu%s", s->server->options->keep_bodies, (unsigned long long)s->number,
                       (unsigned long long)s->transactions, suffix);
}

void sink_record_begin(struct sink_session *s)
{
    s->transactions++;
    sink_data_reset(&s->data);
    sink_message_reset(&s->message);
    s->keep_failed = false;
    if (s->server->options->keep_bodies == NULL)
        return;
    char *path = kept_path(s, ".part");
    s->kept = fopen(path, "we");
    s->keep_failed = s->kept == NULL;
    free(path);
}

void sink_record_take(void *arg, const char *bytes, size_t len)
{
    struct sink_session *s = arg;

    sink_message_take(&s->message, bytes, len);
    if (s->kept != NULL && fwrite(bytes, 1, len, s->kept) != len)
        s->keep_failed = true;
}

void sink_record_forget(struct sink_session *s)
{
    if (s->kept == NULL)
        return;
    char *path = kept_path(s, ".part");
    (void)fclose(s->kept);
    s->kept = NULL;
    (void)unlink(path);
    free(path);
}

static int finish_kept(struct sink_session *s)
{
    if (s->keep_failed) {
        sink_record_forget(s);
        return MR_IO;
    }
    if (s->kept == NULL)
        return 0;
    char *from = kept_path(s, ".part");
    char *to = kept_path(s, ".eml");
    int rc = fclose(s->kept) == 0 && rename(from, to) == 0 ? 0 : MR_IO;
    s->kept = NULL;
    free(from);
    free(to);
    return rc;
}

static int write_line(struct sink_session *s, const bool *refused, bool replied)
{
    struct sink_server *server = s->server;
    struct journal_line *line = &server->line;

    if (server->journal == NULL)
        return 0;
    journal_line_begin(line, "received");
    sink_message_describe(&s->message, line);
    journal_number(line, "session", s->number);
    journal_number(line, "connection", s->number);
    journal_number(line, "transaction", s->transactions);
    journal_text(line, "peer", s->peer);
    journal_text(line, "sender", s->sender);
    journal_list_begin(line, "recipients");
    for (size_t i = 0; i < s->recipient_count; i++) {
        if (!refused[i])
            journal_text(line, NULL, s->recipients[i]);
    }
    journal_list_end(line);
    if (!replied)
        journal_bool(line, "replied", false);
    if (s->data.bare_lf || s->bare_lf)
        journal_bool(line, "bare_lf", true);
    if (s->data.bare_cr)
        journal_bool(line, "bare_cr", true);
    int rc = journal_write(server->journal, line);
    if (rc != 0 && !server->journal_failed) {
        server->journal_failed = true;
        (void)fprintf(stderr, "mailraft-sink: journal: %s; messages are answered 451\n", strerror(errno));
    }
    return rc;
}

static void count(struct sink_session *s, size_t recipients)
{
    struct sink_stats *stats = &s->server->stats;
    const struct sink_message *m = &s->message;

    sink_stats_message(stats, sink_server_now_ms());
    stats->recipients += recipients;
    stats->bytes += m->bytes;
    if (m->has_sum && !sink_message_intact(m))
        stats->altered++;
    if (m->dsn)
        stats->dsn++;
    else if (m->key[0] == '\0')
        stats->unkeyed++;
}

/* Answers: one, or with LMTP one for each recipient. code 250: refused[i] says which is not taken. */
static void answer(struct sink_session *s, const bool *refused, const unsigned *codes, bool recorded)
{
    size_t answers = s->server->options->lmtp ? s->recipient_count : 1;

    for (size_t i = 0; i < answers; i++) {
        if (refused[i])
            sink_reply(s, "%u %u.7.0 refused by order", codes[i], codes[i] / 100);
        else if (recorded)
            sink_reply(s, "250 2.0.0 Ok: kept as %llu-%llu", (unsigned long long)s->number,
                       (unsigned long long)s->transactions);
        else
            sink_reply(s, "451 4.3.0 the journal cannot be written");
    }
}

static void too_big(struct sink_session *s)
{
    size_t answers = s->server->options->lmtp ? s->recipient_count : 1;

    for (size_t i = 0; i < answers; i++)
        sink_reply(s, "552 5.3.4 message too big");
}

void sink_record_dot(struct sink_session *s, struct fault_hit hit)
{
    bool refused[SINK_RECIPIENTS_MAX] = {false};
    unsigned codes[SINK_RECIPIENTS_MAX];
    size_t taken = s->recipient_count;

    sink_message_end(&s->message);
    for (size_t i = 0; s->server->options->lmtp && i < s->recipient_count; i++) {
        struct fault_hit one = fault_roll_refusals(&s->server->options->faults, FAULT_AT_DOT);
        refused[i] = one.kind == FAULT_REFUSE;
        codes[i] = one.code;
        taken -= refused[i];
        s->server->stats.faults += refused[i];
    }
    if (s->message.bytes > s->server->options->max_size) {
        sink_record_forget(s);
        too_big(s);
    } else if (taken == 0) {
        sink_record_forget(s);
        answer(s, refused, codes, false);
    } else {
        bool recorded = finish_kept(s) == 0 && write_line(s, refused, hit.kind != FAULT_LIE) == 0;
        if (recorded)
            count(s, taken);
        if (hit.kind != FAULT_LIE)
            answer(s, refused, codes, recorded);
    }
    if (hit.kind == FAULT_LIE || hit.kind == FAULT_ACCEPT_DROP) {
        s->server->stats.faults++;
        sink_end(s);
    }
    sink_reset_transaction(s);
}
