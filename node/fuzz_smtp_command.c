/* fuzz_smtp_command.c - any line: parsers stay inside it, and what they take is fit to be written into a header (A1,
 * A2). */
#include "node/smtp_command.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
    for (size_t i = 0; i < path->len; i++)
        mr_assert(path->address[i] >= 32 && path->address[i] < 127);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data;
    struct smtp_slice verb, args;
    struct smtp_mail mail;
    struct smtp_path path;
    const struct smtp_reply *why;
    size_t used;

    if (smtp_line_parse(line, size, &verb, &args) == 0) {
        mr_assert(verb.at >= line && verb.at + verb.len <= line + size);
        mr_assert(args.at >= line && args.at + args.len <= line + size);
        if (smtp_mail_parse(args, &mail, &why) == 0)
            check_path(&mail.path, line, size);
        if (smtp_rcpt_parse(args, &path, &why) == 0) {
            check_path(&path, line, size);
            mr_assert(path.len > 0);
        }
        (void)smtp_domain_parse(args.at, args.len);
    }
    if (smtp_path_parse(line, size, &path, &used) == 0) {
        mr_assert(used <= size && line[used - 1] == '>');
        check_path(&path, line, size);
    }
    return 0;
}
