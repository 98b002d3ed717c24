/* Reports: their structure, what hostile replies and addresses can do to them (nothing), and how they get stored. */
#include "node/delivery/dsn.h"
#include "node/delivery/test_delivery_fake.h"

#define FAILED   MAILRAFT__RESULT__FAILED
#define DEFERRED MAILRAFT__RESULT__DEFERRED

static const struct dsn_recipient plain = {.address = "u@example.org",
                                           .orcpt = "rfc822;old@example.org",
                                           .action = DSN_FAILED,
                                           .status = "5.1.1",
                                           .reply = "550 5.1.1 no such user",
                                           .remote = "mx.example.org[192.0.2.1]:25"};

static struct dsn_report report_of(const struct dsn_recipient *r, uint32_t n)
{
    return (struct dsn_report){.id = mr_id_at(1),
                               .reverse_path = "sender@example.net",
                               .envid = "QQ314159",
                               .arrived_ms = 1772366400000,
                               .expire_ms = 1772798400000,
                               .recipients = r,
                               .n_recipients = n};
}

/* The text with a zero byte behind. */
static char *text_of(const struct dsn_report *report, const char *original, bool whole)
{
    size_t len;
    char *text =
        dsn_text(report, "mx1.example.net", mr_id_at(2), 1772366500000, original, strlen(original), whole, &len);
    assert_int_equal(strlen(text), len);
    return text;
}

static void assert_has(const char *text, const char *wanted)
{
    if (strstr(text, wanted) == NULL)
        fail_msg("\"%s\" is not in:\n%s", wanted, text);
}

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

/* Lines end in CR LF, none is longer than 998 octets, none is of spaces only, all is printable ASCII. */
static void assert_lines(const char *text)
{
    for (const char *line = text; *line != 0;) {
        const char *end = strstr(line, "\r\n");
        assert_non_null(end);
        assert_true(end - line <= 998);
        size_t spaces = strspn(line, " \t");
        assert_true(spaces == 0 || line + spaces < end);
        for (const char *p = line; p < end; p++)
            assert_true((*p >= 0x20 && *p < 0x7f) || *p == '\t');
        line = end + 2;
    }
}

static const char *boundary_of(const char *text, char out[128])
{
    const char *at = strstr(text, "boundary=\"");
    assert_non_null(at);
    (void)snprintf(out, 128, "%.*s", (int)strcspn(at + 10, "\""), at + 10);
    return out;
}

/* ---- structure ---- */

static void of_a_failure(void **state)
{
    char boundary[128], delimiter[140];
    struct dsn_report report = report_of(&plain, 1);
    char *text = text_of(&report, "Subject: hi\r\nFrom: a@b\r\n", false);
    (void)state;
    assert_lines(text);
    assert_has(text, "\r\nFrom: Mail Delivery System <MAILER-DAEMON@mx1.example.net>\r\n");
    assert_has(text, "\r\nTo: <sender@example.net>\r\n");
    assert_has(text, "\r\nAuto-Submitted: auto-replied\r\n");
    assert_has(text, "\r\nMIME-Version: 1.0\r\n");
    assert_has(text, "\r\nMessage-ID: <");
    assert_has(text, "Content-Type: multipart/report; report-type=delivery-status;\r\n");
    assert_int_equal(strncmp(text, "Date: Sun, 01 Mar 2026 12:01:40 +0000\r\n", 39), 0);
    assert_has(text, "\r\nReporting-MTA: dns; mx1.example.net\r\n"
                     "Original-Envelope-Id: QQ314159\r\n"
                     "Arrival-Date: Sun, 01 Mar 2026 12:00:00 +0000\r\n"
                     "\r\n"
                     "Original-Recipient: rfc822;old@example.org\r\n"
                     "Final-Recipient: rfc822; u@example.org\r\n"
                     "Action: failed\r\n"
                     "Status: 5.1.1\r\n"
                     "Remote-MTA: dns; mx.example.org\r\n"
                     "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n");
    assert_has(text, "Content-Type: text/rfc822-headers\r\n\r\nSubject: hi\r\nFrom: a@b\r\n\r\n--");
    (void)snprintf(delimiter, sizeof(delimiter), "\r\n--%s\r\n", boundary_of(text, boundary));
    assert_int_equal(count(text, delimiter), 3);
    (void)snprintf(delimiter, sizeof(delimiter), "\r\n--%s--\r\n", boundary);
    assert_int_equal(count(text, delimiter), 1);
    assert_string_equal(strstr(text, delimiter), delimiter); /* nothing behind it */
    free(text);
}

static void of_a_delay(void **state)
{
    struct dsn_recipient r = plain;
    r.orcpt = r.remote = r.status = "";
    r.reply = "192.0.2.1: timed out";
    struct dsn_report report = report_of(&r, 1);
    (void)state;
    r.action = DSN_DELAYED;
    report.envid = "";
    char *text = text_of(&report, "", false);
    assert_lines(text);
    assert_has(text, "Action: delayed\r\nStatus: 4.0.0\r\n");
    assert_has(text, "Will-Retry-Until: Fri, 06 Mar 2026 12:00:00 +0000\r\n");
    assert_has(text, "Diagnostic-Code: X-Mailraft; 192.0.2.1: timed out\r\n");
    assert_null(strstr(text, "Original-Envelope-Id"));
    assert_null(strstr(text, "Original-Recipient"));
    assert_null(strstr(text, "Remote-MTA"));
    assert_null(strstr(text, "text/rfc822-headers"));
    free(text);
}

static void of_a_whole_message(void **state)
{
    struct dsn_report report = report_of(&plain, 1);
    char *text = text_of(&report, "Subject: hi\r\n\r\nbody without an end", true);
    (void)state;
    assert_has(text, "Content-Type: message/rfc822\r\n\r\nSubject: hi\r\n\r\nbody without an end\r\n\r\n--");
    assert_null(strstr(text, "8bit"));
    free(text);
    text = text_of(&report, "Subject: hi\r\n\r\nb\xc3\xb6\r\n", true);
    assert_int_equal(count(text, "\r\nContent-Transfer-Encoding: 8bit\r\n"), 2); /* of the part and of all */
    free(text);
}

/* RFC 6533: UTF-8 as it is, where the original came with it; else ASCII that says the same. */
static void of_utf8(void **state)
{
    struct dsn_recipient r = plain;
    (void)state;
    r.address = "gr\xc3\xbc\xc3\x9f"
                "e@example.org";
    r.orcpt = "utf-8;\\x{20AC}+x@example.org";
    r.reply = "550 5.1.1 \xe2\x82\xac \xff \xc2\x85";
    struct dsn_report report = report_of(&r, 1);
    report.envid = "a+2Bb+3Dc";
    report.utf8 = true;
    char *text = text_of(&report, "Subject: \xc3\xa4\r\n", false);
    assert_has(text, "report-type=global-delivery-status;");
    assert_has(text, "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n");
    assert_has(text, "Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n");
    assert_has(text, "Original-Envelope-Id: a+b=c\r\n");
    assert_has(text, "Original-Recipient: utf-8;\xe2\x82\xac+x@example.org\r\n");
    assert_has(text, "Final-Recipient: utf-8; gr\xc3\xbc\xc3\x9f"
                     "e@example.org\r\n");
    assert_has(text, "Diagnostic-Code: smtp; 550 5.1.1 \xe2\x82\xac ? ??\r\n");
    free(text);
    report.utf8 = false;
    text = text_of(&report, "Subject: a\r\n", false);
    assert_lines(text);
    assert_has(text, "Content-Type: message/delivery-status\r\n");
    assert_has(text, "Original-Recipient: utf-8;\\x{20AC}+x@example.org\r\n");
    assert_has(text, "Final-Recipient: utf-8; gr\\x{FC}\\x{DF}e@example.org\r\n");
    free(text);
    r.orcpt = "rfc822;+CE+B4@example.org";
    text = text_of(&report, "Subject: a\r\n", false);
    assert_has(text, "Original-Recipient: utf-8;\\x{3B4}@example.org\r\n");
    free(text);
    r = plain;
    report = report_of(&r, 1);
    report.utf8 = true; /* and nothing that ASCII lacks */
    text = text_of(&report, "Subject: a\r\n", false);
    assert_lines(text);
    assert_has(text, "Content-Type: message/delivery-status\r\n");
    free(text);
}

static void of_several_kinds(void **state)
{
    struct dsn_recipient r[3] = {plain, plain, plain};
    (void)state;
    r[1].action = DSN_RELAYED;
    r[2].action = DSN_DELIVERED;
    r[1].status = r[2].status = "";
    struct dsn_report report = report_of(r, 3);
    char *text = text_of(&report, "", false);
    assert_lines(text);
    assert_has(text, "\r\nSubject: Undelivered Mail Returned to Sender\r\n");
    assert_int_equal(count(text, "Action: failed\r\nStatus: 5.1.1\r\n"), 1);
    assert_int_equal(count(text, "Action: relayed\r\nStatus: 2.0.0\r\n"), 1);
    assert_int_equal(count(text, "Action: delivered\r\nStatus: 2.0.0\r\n"), 1);
    free(text);
    report = report_of(&r[1], 2);
    text = text_of(&report, "", false);
    assert_has(text, "\r\nSubject: Successful Mail Delivery Report\r\n");
    free(text);
}

/* ---- hostile texts ---- */

static void nothing_can_be_injected(void **state)
{
    static char spaces[500], word[1100];
    static const char *const evil[] = {"550 no\r\nBcc: victim@example.com\r\n\r\nbuy",
                                       "550 no\r\n--x--\r\n",
                                       "550 \x1b[2J\x01\x7f\xff\xfe caf\xc3\xa9",
                                       "550 a\nAction: delivered",
                                       "550 a\rStatus: 2.0.0",
                                       spaces,
                                       word};
    (void)state;
    memset(spaces, ' ', sizeof(spaces) - 1);
    memcpy(spaces, "550", 3);
    memset(word, 'w', sizeof(word) - 1);
    for (size_t i = 0; i < sizeof(evil) / sizeof(evil[0]); i++) {
        struct dsn_recipient r = {.address = evil[i],
                                  .orcpt = evil[i],
                                  .action = DSN_FAILED,
                                  .status = evil[i],
                                  .reply = evil[i],
                                  .remote = evil[i]};
        struct dsn_report report = report_of(&r, 1);
        report.reverse_path = evil[i];
        report.envid = evil[i];
        char *text = text_of(&report, "", false);
        assert_lines(text);
        assert_null(strstr(text, "\r\nBcc:"));
        assert_null(strstr(text, "\r\nAction: delivered"));
        assert_null(strstr(text, "\r\nStatus: 2.0.0"));
        assert_null(strstr(text, "\r\n--x--"));
        assert_int_equal(count(text, "\r\nAction: "), 1);
        free(text);
    }
}

static void boundaries_differ(void **state)
{
    char one[128], two[128];
    struct dsn_report report = report_of(&plain, 1);
    char *a = text_of(&report, "", false), *b = text_of(&report, "", false);
    (void)state;
    assert_string_not_equal(boundary_of(a, one), boundary_of(b, two));
    free(a);
    free(b);
}

/* ---- stored and proposed ---- */

static const char *stored_text(void)
{
    assert_non_null(core.stored);
    core.stored = mr_realloc(core.stored, core.stored_len + 1);
    core.stored[core.stored_len] = 0;
    return (const char *)core.stored;
}

static struct attempt *with_sender(uint32_t recipients)
{
    struct attempt *a = make_attempt(server.route, 0, recipients);
    a->reverse_path = "sender@example.net";
    return a;
}

static void refuse_all(void)
{
    server_open();
    server_rule("RCPT TO:<r0", "550 5.1.1 no such user", 0, 0);
    host_open();
}

static void goes_with_its_outcome(void **state)
{
    (void)state;
    refuse_all();
    delivery_attempt(host.delivery, with_sender(2));
    const struct told *t = wait_told(0);
    assert_result(t, 0, FAILED, "5.1.1", "no such user");
    const Mailraft__Enqueue *e = t->outcome->dsn;
    assert_non_null(e);
    assert_int_equal(e->id.len, MR_ID_SIZE);
    assert_int_equal(e->reverse_path.len, 0);
    assert_int_equal(e->flags, MESSAGE_DSN);
    assert_int_equal(e->n_recipients, 1);
    assert_int_equal(e->recipients[0]->address.len, strlen("sender@example.net"));
    assert_memory_equal(e->recipients[0]->address.data, "sender@example.net", e->recipients[0]->address.len);
    assert_int_equal(e->n_next_hops, 1);
    assert_string_equal(e->next_hops[0], "mx:example.net");
    assert_non_null(e->body);
    const char *text = stored_text();
    assert_lines(text);
    assert_int_equal(count(text, "\r\nFinal-Recipient: "), 1); /* of the one that failed */
    assert_has(text, "Final-Recipient: rfc822; r0@example.org\r\n");
    assert_has(text, "Remote-MTA: dns; 127.0.0.1\r\n");
    assert_has(text, "\r\n\r\nSubject: hello\r\n\r\n--"); /* the original's header */
    assert_null(strstr(text, "How are you?"));
    assert_int_equal(atomic_load(&host.counters.dsns), 1);
    host_close();
}

static void the_whole_message_when_asked(void **state)
{
    (void)state;
    refuse_all();
    core.body = "Subject: hell\xc3\xb6\r\n\r\nHow are you?\r\n";
    core.body_len = strlen(core.body);
    struct attempt *a = with_sender(1);
    a->ret = 1;
    delivery_attempt(host.delivery, a);
    const struct told *t = wait_told(0);
    assert_int_equal(t->outcome->dsn->flags, MESSAGE_DSN | MESSAGE_8BITMIME);
    assert_has(stored_text(), "message/rfc822");
    assert_has(stored_text(), "How are you?");
    host_close();
}

static void nobody_to_tell(void **state)
{
    (void)state;
    refuse_all();
    give(0, 1); /* a null reverse-path */
    assert_result(wait_told(0), 0, FAILED, "5.1.1", "no such user");
    assert_null(told_of(0)->outcome->dsn);
    static const uint32_t notify[] = {1, 2, 8}; /* never, success, delay */
    for (uint32_t i = 0; i < 3; i++) {
        struct attempt *a = with_sender(1);
        ((struct attempt_recipient *)(uintptr_t)a->recipients)->notify = notify[i];
        delivery_attempt(host.delivery, a);
        assert_result(wait_told(i + 1), 0, FAILED, "5.1.1", "no such user");
        assert_null(told_of(i + 1)->outcome->dsn);
    }
    struct attempt *a = with_sender(1);
    ((struct attempt_recipient *)(uintptr_t)a->recipients)->notify = 4;
    delivery_attempt(host.delivery, a);
    assert_non_null(wait_told(4)->outcome->dsn);
    host_close();
}

/* PROTOCOL.md 7.2 */
static void cannot_be_stored(void **state)
{
    (void)state;
    refuse_all();
    core.store_status = MR_NOSPACE;
    delivery_attempt(host.delivery, with_sender(2));
    const struct told *t = wait_told(0);
    assert_null(t->outcome->dsn);
    assert_int_equal(t->outcome->results[0]->result, DEFERRED);
    assert_int_equal(t->outcome->results[1]->result, MAILRAFT__RESULT__DELIVERED);
    assert_int_equal(atomic_load(&host.counters.dsns), 0);
    host_close();
}

/* With others whose turn did not come, too, those are not ready again at once: no round decides anybody while bounces
 * cannot be stored. What was only deferred does not count as failed. */
static void cannot_be_stored_with_others_postponed(void **state)
{
    (void)state;
    server_open();
    host_open();
    server.ehlo = "250-x\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1";
    server_rule(".", "554 5.7.1 no", 0, 0);
    core.store_status = MR_NOSPACE;
    delivery_attempt(host.delivery, with_sender(2));
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "5.7.1", "no");
    assert_int_equal(t->outcome->results[1]->result, MAILRAFT__RESULT__RESULT_NONE);
    assert_true(t->outcome->retry_for_ms >= 1000);
    assert_int_equal(atomic_load(&host.counters.deliveries_failed), 0);
    assert_int_equal(atomic_load(&host.counters.deliveries_deferred), 1);
    host_close();
}

static void original_cannot_be_read(void **state)
{
    (void)state;
    refuse_all();
    core.read_status = MR_IO;
    delivery_attempt(host.delivery, with_sender(1));
    assert_non_null(wait_told(0)->outcome->dsn);
    assert_null(strstr(stored_text(), "rfc822-headers"));
    host_close();
}

/* ---- notices ---- */

static struct notice *make_notice(Mailraft__NoticeKind kind, uint32_t recipients)
{
    struct notice *n = mr_calloc(1, sizeof(*n) + recipients * sizeof(struct notice_recipient));
    struct notice_recipient *r = (struct notice_recipient *)(n + 1);
    for (uint32_t i = 0; i < recipients; i++)
        r[i] = (struct notice_recipient){.index = i,
                                         .address = "user.with.a.long.name@department.example.org",
                                         .reply = "451 4.7.1 greylisted, and a rather long text about it that goes on "
                                                  "for as long as such texts do",
                                         .status = "4.7.1",
                                         .next_hop = "mx:example.org"};
    n->id = mr_id_at(1);
    n->kind = kind;
    n->reverse_path = "sender@example.net";
    n->expire_ms = 1772798400000;
    n->n_recipients = recipients;
    n->recipients = r;
    return n;
}

static void notices(void **state)
{
    (void)state;
    refuse_all();
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_WARN, 2));
    WAIT_FOR(core.notices_done == 1);
    assert_non_null(core.notice_dsn);
    assert_int_equal(count(stored_text(), "Action: delayed\r\nStatus: 4.7.1\r\n"), 2);
    mailraft__enqueue__free_unpacked(core.notice_dsn, NULL);
    core.notice_dsn = NULL;
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1));
    WAIT_FOR(core.notices_done == 2);
    assert_int_equal(count(stored_text(), "Action: failed\r\nStatus: 4.4.7\r\n"), 1);
    mailraft__enqueue__free_unpacked(core.notice_dsn, NULL);
    core.notice_dsn = NULL;
    struct notice *n = make_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1);
    n->reverse_path = "";
    delivery_notice(host.delivery, n);
    WAIT_FOR(core.notices_done == 3);
    assert_null(core.notice_dsn);
    core.store_status = MR_TIMEOUT;
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1));
    WAIT_FOR(core.notices_failed == 1);
    delivery_drain(host.delivery);
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_WARN, 1));
    assert_int_equal(core.notices_failed, 2);
    assert_int_equal(delivery_running(host.delivery), 0);
    host_close();
}

/* More than one piece of a body: it has to arrive whole, else the message could never leave the queue. */
static void thousands_of_recipients(void **state)
{
    enum { MANY = 3000 };
    (void)state;
    refuse_all();
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, MANY));
    WAIT_FOR(core.notices_done == 1);
    assert_true(core.stored_len > 2 * 256 * 1024);
    assert_int_equal(count(stored_text(), "Action: failed\r\n"), MANY);
    mailraft__enqueue__free_unpacked(core.notice_dsn, NULL);
    core.notice_dsn = NULL;
    core.written_status = MR_NOSPACE;
    delivery_notice(host.delivery, make_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, MANY));
    WAIT_FOR(core.notices_failed == 1);
    assert_int_equal(core.aborted, 1);
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_failure),
        cmocka_unit_test(of_a_delay),
        cmocka_unit_test(of_a_whole_message),
        cmocka_unit_test(of_utf8),
        cmocka_unit_test(of_several_kinds),
        cmocka_unit_test(nothing_can_be_injected),
        cmocka_unit_test(boundaries_differ),
        cmocka_unit_test(goes_with_its_outcome),
        cmocka_unit_test(the_whole_message_when_asked),
        cmocka_unit_test(nobody_to_tell),
        cmocka_unit_test(cannot_be_stored),
        cmocka_unit_test(cannot_be_stored_with_others_postponed),
        cmocka_unit_test(original_cannot_be_read),
        cmocka_unit_test(notices),
        cmocka_unit_test(thousands_of_recipients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
