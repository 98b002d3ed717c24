/* fuzz_smtp_command.c - any line, with any extensions offered: parsers stay inside it, and what they take is fit to be
 * written into a header, a report or the queue (A1, A2, C1). The first four octets say what is offered. */
#include "node/mail/smtp_text.h"
#include "node/server/smtp_command.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_within(struct smtp_slice s, const char *line, size_t size)
{
    return s.len == 0 || (s.at >= line && s.at + s.len <= line + size);
}

static void check_path(const struct smtp_path *path, const char *line, size_t size)
{
    mr_assert(path->len <= SMTP_MAX_ADDRESS && path->local_len <= SMTP_MAX_LOCAL &&
              path->domain_len <= SMTP_MAX_DOMAIN);
    if (path->len == 0)
        return;
    mr_assert(path->address >= line && path->address + path->len <= line + size);
    mr_assert(path->len == path->local_len + (path->domain_len > 0 ? 1 + path->domain_len : 0));
    if (path->domain_len > 0) {
        mr_assert(path->domain == path->address + path->local_len + 1 && path->domain[-1] == '@');
        mr_assert(memchr(path->domain, '@', path->domain_len) == NULL);
    }
    mr_assert(smtp_utf8_valid(path->address, path->len));
    mr_assert(smtp_has_8bit(path->address, path->local_len) == path->utf8_local);
    mr_assert(smtp_has_8bit(path->domain, path->domain_len) == path->utf8_domain);
}

static void check_reply(const struct smtp_reply *why)
{
    mr_assert(why != NULL && why->code >= 500 && why->code < 600 && why->status[0] == '5');
}

static void check_mail(struct smtp_slice args, unsigned offered, const char *line, size_t size)
{
    struct smtp_mail m;
    const struct smtp_reply *why;

    if (smtp_mail_parse(args, offered, &m, &why) != 0) {
        check_reply(why);
        return;
    }
    check_path(&m.path, line, size);
    mr_assert((!m.path.utf8_local && !m.path.utf8_domain) || m.utf8);
    mr_assert(is_within(m.envid, line, size) && m.envid.len <= SMTP_MAX_ENVID);
    mr_assert(m.envid.len == 0 || smtp_xtext_valid(m.envid.at, m.envid.len));
    mr_assert(m.priority >= -9 && m.priority <= 9 && (m.has_priority || m.priority == 0));
    mr_assert(m.by != BY_RETURN || m.by_s > 0);
    mr_assert(m.by_s >= -999999999 && m.by_s <= 999999999);
    mr_assert(m.hold != HOLD_FOR || (m.hold_at > 0 && m.hold_at <= 999999999));
    mr_assert(!m.utf8 || (offered & SMTP_SMTPUTF8));
    mr_assert(!m.require_tls || (offered & SMTP_REQUIRETLS));
    mr_assert(m.body != BODY_BINARYMIME || (offered & SMTP_BINARYMIME));
    mr_assert((m.ret == RET_NOT_GIVEN && m.envid.len == 0) || (offered & SMTP_DSN));
}

static void check_rcpt(struct smtp_slice args, unsigned offered, bool utf8, const char *line, size_t size)
{
    struct smtp_rcpt r;
    const struct smtp_reply *why;

    if (smtp_rcpt_parse(args, offered, utf8, &r, &why) != 0) {
        check_reply(why);
        return;
    }
    check_path(&r.path, line, size);
    mr_assert(r.path.len > 0);
    mr_assert((!r.path.utf8_local && !r.path.utf8_domain) || utf8);
    mr_assert(r.notify < 16 && (r.notify == NOTIFY_NEVER || !(r.notify & NOTIFY_NEVER)));
    mr_assert(is_within(r.orcpt, line, size) && r.orcpt.len <= SMTP_MAX_ORCPT);
    mr_assert(r.orcpt.len == 0 ||
              (smtp_utf8_valid(r.orcpt.at, r.orcpt.len) && (utf8 || !smtp_has_8bit(r.orcpt.at, r.orcpt.len))));
    mr_assert((r.notify == 0 && r.orcpt.len == 0) || (offered & SMTP_DSN));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data + 4;
    struct smtp_slice verb, args;
    struct smtp_path path;
    uint64_t octets;
    unsigned offered;
    size_t used;
    bool last;

    if (size < 4)
        return 0;
    memcpy(&offered, data, 4);
    size -= 4;
    if (smtp_line_parse(line, size, &verb, &args) == 0) {
        mr_assert(is_within(verb, line, size) && is_within(args, line, size));
        check_mail(args, offered, line, size);
        check_rcpt(args, offered, offered >> 31, line, size);
        (void)smtp_bdat_parse(args, &octets, &last);
        (void)smtp_domain_parse(args.at, args.len);
    }
    if (smtp_path_parse(line, size, &path, &used) == 0) {
        mr_assert(used <= size && line[used - 1] == '>');
        check_path(&path, line, size);
    }
    return 0;
}
