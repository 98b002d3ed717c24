/* test_delivery_extensions.h - for tests of a next hop that offers extensions: attempts, and what was said and written.
 */
#ifndef MR_DELIVERY_TEST_DELIVERY_EXTENSIONS_H
#define MR_DELIVERY_TEST_DELIVERY_EXTENSIONS_H

#include "node/delivery/test_delivery_fake.h"

#define TEST_FUNCTION __attribute__((unused)) static

#define NONE      MAILRAFT__RESULT__RESULT_NONE
#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

TEST_FUNCTION const char *const modern = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
                                         "250-CHUNKING\r\n250-BINARYMIME\r\n250-DSN\r\n250 SIZE 1000000";
TEST_FUNCTION const char *const old = "250 hop.example";

TEST_FUNCTION void start(const char *ehlo)
{
    server_open();
    server.ehlo = ehlo;
    host_open();
}

TEST_FUNCTION void set_body(const char *text, size_t len)
{
    core.body = text;
    core.body_len = len;
}

TEST_FUNCTION struct attempt *attempt(uint32_t recipients, uint32_t flags)
{
    struct attempt *a = make_attempt(server.route, 0, recipients);
    a->reverse_path = "s@example.net";
    a->flags = flags;
    return a;
}

TEST_FUNCTION struct attempt_recipient *recipient(struct attempt *a, uint32_t i)
{
    return (struct attempt_recipient *)(uintptr_t)&a->recipients[i];
}

TEST_FUNCTION void assert_body(const char *body, size_t len)
{
    const struct connection *c = server.connections[server.n - 1];
    assert_int_equal(c->body_len, len);
    assert_memory_equal(c->body, body, len);
}

TEST_FUNCTION void assert_said(const char *text)
{
    const char *commands = server.connections[server.n - 1]->commands;
    if (strstr(commands, text) == NULL)
        fail_msg("\"%s\" was not said: %s", text, commands);
}

TEST_FUNCTION void assert_kept_has(const char *text)
{
    assert_non_null(core.stored);
    if (memmem(core.stored, core.stored_len, text, strlen(text)) == NULL)
        fail_msg("\"%s\" is not in: %.*s", text, (int)core.stored_len, (const char *)core.stored);
}

#endif
