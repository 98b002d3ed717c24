/* One attempt over a connection that stands: MAIL to the reply to the final dot (RFC 5321, 2920; LMTP: 2033).
 *
 * Happy path with PIPELINING: (the message is scanned, where its form depends on it) -> MAIL, RCPT..., DATA in one
 * write -> their replies -> the body and its dot (delivery_body.c) -> its reply (LMTP: one a recipient) -> job_finish.
 * A next hop that takes fewer recipients at once (RFC 9422, or 452 4.5.3 at RCPT) gets as many as it takes; the others
 * stay undecided in the outcome, which makes the delivery ready again at once, for a slot whose connection stands. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- who ---- */

static const char *domain_of(const char *address)
{
    const char *at = strrchr(address, '@');
    return at == NULL ? "" : at + 1;
}

struct domain {
    const char *name;
    uint32_t recipient;
};

static int by_name(const void *a, const void *b)
{
    const struct domain *x = a, *y = b;
    return strcasecmp(x->name, y->name);
}

/* A number for each recipient that those of one domain share, below that of recipients; malloc. */
static uint32_t *number_domains(const struct attempt *a)
{
    struct domain *domains = mr_calloc(a->n_recipients, sizeof(*domains));
    uint32_t *numbers = mr_calloc(a->n_recipients, sizeof(*numbers));
    for (uint32_t i = 0; i < a->n_recipients; i++)
        domains[i] = (struct domain){domain_of(a->recipients[i].address), i};
    qsort(domains, a->n_recipients, sizeof(*domains), by_name);
    for (uint32_t k = 0, number = 0; k < a->n_recipients; k++) {
        number += k > 0 && by_name(&domains[k - 1], &domains[k]) != 0;
        numbers[domains[k].recipient] = number;
    }
    free(domains);
    return numbers;
}

/* The domains of those who are chosen, where the next hop limits them (RFC 9422: RCPTDOMAINMAX). */
struct chosen_domains {
    uint32_t most; /* 0: any number */
    uint32_t *numbers, n;
    bool *seen; /* by number */
};

static bool take_domain(struct chosen_domains *c, uint32_t recipient)
{
    if (c->most == 0 || c->seen[c->numbers[recipient]])
        return true;
    if (c->n == c->most)
        return false;
    c->seen[c->numbers[recipient]] = true;
    c->n++;
    return true;
}

/* As many as it takes. Where that is not all, the next attempt begins with others: those at the front may be ones that
 * it defers for ever. An attempt that went back without asking anybody takes no turn. With a limit on domains it takes
 * at least as many recipients. */
static void choose_recipients(struct slot *s)
{
    struct job *j = s->job;
    uint32_t n = j->a->n_recipients, most = n;
    if (s->can.rcpt_max > 0 && s->can.rcpt_max < most)
        most = s->can.rcpt_max;
    if (s->rcpt_learned > 0 && s->rcpt_learned < most)
        most = s->rcpt_learned;
    uint32_t step = s->can.rcpt_domain_max > 0 && s->can.rcpt_domain_max < most ? s->can.rcpt_domain_max : most;
    uint32_t offset = step < n ? (uint32_t)((uint64_t)j->a->failures * step % n) : 0;
    j->rounds = s->can.rcpt_domain_max > 0 ? 1 : (n + most - 1) / most;

    struct chosen_domains domains = {.most = s->can.rcpt_domain_max};

    if (domains.most > 0) {
        domains.numbers = number_domains(j->a);
        domains.seen = mr_calloc(n, sizeof(*domains.seen));
    }
    j->order = mr_calloc(n, sizeof(*j->order));
    j->n_order = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (uint32_t)(((uint64_t)offset + k) % n);
        if (j->results[i].result != MAILRAFT__RESULT__RESULT_NONE)
            continue;
        if (j->n_order == most || !take_domain(&domains, i))
            j->results[i].postponed = true;
        else
            j->order[j->n_order++] = i;
    }
    free(domains.numbers);
    free(domains.seen);
}

/* For a next hop without SMTPUTF8: what has no form in ASCII is refused (RFC 6531 3.2). False: nobody is left. */
static bool make_ascii(struct slot *s)
{
    struct job *j = s->job;
    bool any = false;
    j->reverse_path = form_ascii_address(j->a->reverse_path);
    if (j->reverse_path == NULL) {
        job_fail(s, true, "5.6.7", false, "the sender's address is not ASCII, and %s does not offer SMTPUTF8", s->peer);
        return false;
    }
    for (uint32_t i = 0; i < j->a->n_recipients; i++) {
        struct job_result *r = &j->results[i];
        r->address = form_ascii_address(j->a->recipients[i].address);
        any = any || r->address != NULL;
        if (r->address == NULL)
            job_decide(j, i, 553, "553 5.6.7 the address is not ASCII, and the next hop does not offer SMTPUTF8");
    }
    return any;
}

/* ---- commands ---- */

static int64_t seconds_left(const struct job *j)
{
    uint64_t passed_ms = (mr_boot_ns(&mr_clock_real) - j->given_ns) / MR_NS_PER_MS;
    int64_t left_ms = (int64_t)j->a->deliver_by_ms - (int64_t)(j->a->now_ms + passed_ms);
    return left_ms / 1000;
}

static void add_rcpt(struct form_text *t, const struct job *j, uint32_t place)
{
    uint32_t i = j->order[place];
    const struct attempt_recipient *to = &j->a->recipients[i];
    form_add_rcpt(t, &j->form, j->a, to, j->results[i].address != NULL ? j->results[i].address : to->address);
}

static void send_commands(struct slot *s)
{
    struct job *j = s->job;
    struct form_text t = {0};
    struct form_mail mail = {.reverse_path = j->reverse_path != NULL ? j->reverse_path : j->a->reverse_path,
                             .size = j->plan == NULL ? j->a->body_length : 0, /* what it grows to is not known */
                             .left_s = seconds_left(j),
                             .authenticated = s->logged_in};
    form_add_mail(&t, &j->form, j->a, &mail, &s->can);
    if (s->can.flags & CAP_PIPELINING) {
        for (uint32_t i = 0; i < j->n_order; i++)
            add_rcpt(&t, j, i);
        if (!j->form.bdat)
            form_add(&t, "DATA\r\n");
        j->data_sent = true;
    }
    slot_write(s, t.text, t.len);
    free(t.text);
}

static void send_rcpt(struct slot *s, uint32_t place)
{
    struct form_text t = {0};
    add_rcpt(&t, s->job, place);
    slot_write(s, t.text, t.len);
    free(t.text);
}

/* ---- the beginning and the end ---- */

/* clean: the server is back where MAIL may come; else RSET makes it so. */
static void end(struct slot *s, bool clean)
{
    const struct cluster_rules *rules = s->d->w->rules;
    uint32_t most = rules == NULL ? 0 : route_limit(rules->rules, s->next_hop)->messages_per_connection;
    if (s->can.mail_max > 0 && (most == 0 || s->can.mail_max < most))
        most = s->can.mail_max;

    job_finish(s);
    s->messages++;
    if (s->quit) {
        slot_close(s, false);
    } else if ((most > 0 && s->messages >= most) || slot_by_helo(s)) {
        slot_quit(s);
    } else if (!clean) {
        s->phase = PHASE_RSET;
        slot_write(s, "RSET\r\n", 6);
        slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
    } else {
        s->phase = PHASE_IDLE;
        uv_timer_stop(&s->timer);
        slot_next(s);
    }
}

static void start(struct slot *s)
{
    choose_recipients(s);
    s->phase = PHASE_MAIL;
    send_commands(s);
    body_prepare(s);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

void transaction_scanned(struct slot *s, const struct mime_found *found)
{
    struct job *j = s->job;
    bool declared = (j->a->flags & (MESSAGE_8BITMIME | MESSAGE_BINARYMIME | MESSAGE_SMTPUTF8)) != 0;

    if (j->form.ascii_only && found->eight_bit_header) {
        job_fail(s, true, "5.6.7", false, "the header is not ASCII, and %s does not offer SMTPUTF8", s->peer);
        job_finish_idle(s);
        return;
    }
    if (j->form.convert != FORM_AS_IT_IS && found->why_not != NULL && declared) {
        job_fail(s, true, "5.6.3", false, "%s does not offer %s, and the message cannot be converted: %s", s->peer,
                 j->form.convert == FORM_TO_8BIT ? "BINARYMIME" : "8BITMIME", found->why_not);
        job_finish_idle(s);
        return;
    }
    /* Who did not say that it is eight-bit, and sent what nobody could convert, has it sent on as it is. */
    if (j->form.convert == FORM_AS_IT_IS || !found->convert || found->why_not != NULL) {
        mime_plan_free(j->plan);
        j->plan = NULL;
    }
    start(s);
}

void transaction_begin(struct slot *s)
{
    struct job *j = s->job;
    s->serial++;
    s->quit = false;
    if (s->messages == 0)
        s->rcpt_learned = 0;
    if (slot_overdue(s)) {
        slot_give_up(s);
        return;
    }
    if (!delivery_backend.may_send(s->d->w->port, j->a)) {
        job_release(s, "lease ended");
        s->phase = PHASE_IDLE;
        slot_next(s);
        return;
    }
    const char *late =
        form_deliver_by_refusal(j->a->deliver_by, seconds_left(j), s->hop.kind == NEXT_HOP_LMTP, &s->can);
    j->form = form_choose(j->a->flags, &s->can);
    if (late != NULL)
        job_fail(s, true, "5.4.7", false, "%s", late);
    else if ((s->can.flags & CAP_SIZE) && s->can.size > 0 && j->a->body_length > s->can.size)
        job_fail(s, true, "5.3.4", false, "message of %llu bytes is over the limit of %s (%llu)",
                 (unsigned long long)j->a->body_length, s->peer, (unsigned long long)s->can.size);
    else if (!j->form.ascii_only || make_ascii(s)) {
        if (j->form.scan)
            body_scan(s, j->form.convert == FORM_TO_7BIT ? MIME_TARGET_7BIT : MIME_TARGET_8BIT);
        else
            start(s);
        return;
    }
    job_finish_idle(s);
}

/* ---- replies ---- */

static bool all_rcpts_answered(const struct job *j)
{
    return j->next_rcpt == j->n_order;
}

static void after_rcpts(struct slot *s)
{
    struct job *j = s->job;
    if (j->form.bdat && j->n_accepted > 0) {
        body_send(s);
    } else if (j->form.bdat) {
        end(s, false);
    } else if (j->data_sent) {
        s->phase = PHASE_DATA;
    } else if (j->n_accepted > 0) {
        s->phase = PHASE_DATA;
        j->data_sent = true;
        slot_write(s, "DATA\r\n", 6);
    } else {
        end(s, false);
    }
}

static void on_mail(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    j->mail_code = code;
    s->phase = PHASE_RCPT;
    if (code / 100 != 2)
        job_decide_all(j, code, text);
    if (j->data_sent)
        return;
    if (code / 100 != 2)
        end(s, false);
    else
        send_rcpt(s, 0);
}

/* RFC 5321 4.5.3.1.10: it takes no more in this transaction; 552 is what older servers say. Said of the first it is no
 * limit of a transaction. */
static bool too_many(const struct job *j, int code, const char *text)
{
    char status[16];
    if (j->n_accepted == 0 || (code != 452 && code != 552))
        return false;
    smtp_reply_status(code, text, status);
    return strcmp(status + 1, ".5.3") == 0 || (code == 452 && strcmp(status, "4.0.0") == 0);
}

/* Without pipelining the rest need not be asked. */
static void postpone_rest(struct job *j)
{
    for (uint32_t k = j->next_rcpt; k < j->n_order; k++)
        j->results[j->order[k]].postponed = true;
    j->n_order = j->next_rcpt;
}

static void on_rcpt(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    uint32_t i = j->order[j->next_rcpt++];
    if (j->mail_code / 100 == 2) {
        if (code / 100 == 2) {
            j->results[i].accepted = true;
            j->n_accepted++;
        } else if (too_many(j, code, text)) {
            s->rcpt_learned = j->n_accepted;
            j->results[i].postponed = true;
            if (!j->data_sent)
                postpone_rest(j);
        } else {
            job_decide(j, i, code, text);
        }
    }
    if (all_rcpts_answered(j))
        after_rcpts(s);
    else if (!j->data_sent)
        send_rcpt(s, j->next_rcpt);
}

static void decide_accepted(struct job *j, int code, const char *text)
{
    for (uint32_t i = 0; i < j->a->n_recipients; i++)
        if (j->results[i].accepted)
            job_decide(j, i, code, text);
}

static void on_data(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    if (code == 354 && j->n_accepted > 0) {
        body_send(s);
    } else if (code == 354 && s->hop.kind == NEXT_HOP_LMTP) {
        s->quit = true; /* there would be no reply at all */
        end(s, false);
    } else if (code == 354) {
        /* Nobody was accepted, yet it wants data: an empty message, which it cannot deliver to anybody (RFC 2920 3.1).
         */
        s->phase = PHASE_DOT;
        slot_write(s, ".\r\n", 3);
    } else {
        decide_accepted(j, code / 100 == 2 || code / 100 == 3 ? 451 : code, text);
        end(s, false);
    }
}

/* The next one whose RCPT was accepted, in the order in which they were (RFC 2033 4.2). */
static bool next_lmtp(struct job *j)
{
    while (j->next_lmtp < j->n_order && !j->results[j->order[j->next_lmtp]].accepted)
        j->next_lmtp++;
    return j->next_lmtp < j->n_order;
}

static void on_dot(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    if (s->hop.kind != NEXT_HOP_LMTP) {
        decide_accepted(j, code, text);
        end(s, true);
        return;
    }
    if (next_lmtp(j))
        job_decide(j, j->order[j->next_lmtp++], code, text);
    if (!next_lmtp(j))
        end(s, true);
}

/* A reply to a chunk, or one while the body is on its way: the next hop will not take the rest. */
static void on_body(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    if (code / 100 == 2 && j->chunks > 0) {
        j->chunks--;
        if (s->phase == PHASE_BODY)
            body_pump(s);
        else if (s->phase == PHASE_QUEUE)
            body_check_queue(s); /* with its timer, which this reply has set anew */
        return;
    }
    decide_accepted(j, code / 100 >= 4 ? code : 451, text);
    job_finish(s);
    slot_close(s, true);
}

void transaction_reply(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;

    if (code == 421 && !slot_fresh(s)) { /* "idle for too long", said while the next transaction was on its way */
        slot_again(s);
        return;
    }
    j->answered = true;
    slot_timer(s, slot_timeout_ms(s));
    if (code == 421) { /* the server ends the session, whatever it was asked (RFC 5321 3.8) */
        s->quit = true;
        job_decide_all(j, code, text);
        end(s, true);
        return;
    }
    switch (s->phase) {
    case PHASE_MAIL:
        on_mail(s, code, text);
        break;
    case PHASE_RCPT:
        on_rcpt(s, code, text);
        break;
    case PHASE_DATA:
        on_data(s, code, text);
        break;
    case PHASE_DOT:
        if (j->chunks > 0)
            on_body(s, code, text);
        else
            on_dot(s, code, text);
        break;
    default:
        on_body(s, code, text);
        break;
    }
}

void transaction_timeout(struct slot *s)
{
    if (s->phase == PHASE_QUEUE)
        body_check_queue(s);
    else
        slot_lost(s, "timed out");
}
