/* The files of logins: users, senders, credentials. What is wrong is told with its line; unknown users look like known
 * ones. */
#include "node/auth/auth_file.h"
#include "node/auth/auth_senders.h"
#include "node/auth/credentials.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <crypt.h>

/* Of the password "pencil", with the salt and iterations of RFC 7677 section 3. */
#define SCRAM                                                                                                          \
    "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,"                       \
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

static struct auth_file *parse(const char *text)
{
    struct auth_file *f;
    char error[512];

    if (auth_file_parse(&f, "users", text, strlen(text), error, sizeof(error)) != 0)
        fail_msg("%s", error);
    return f;
}

static void expect_wrong(const char *text, const char *problem)
{
    struct auth_file *f;
    char error[512];

    assert_int_equal(auth_file_parse(&f, "users", text, strlen(text), error, sizeof(error)), MR_CONFIG);
    if (strncmp(error, problem, strlen(problem)) != 0)
        fail_msg("expected \"%s\", got \"%s\"", problem, error);
}

static void test_verify(void **state)
{
    static const char *const settings[] = {"$y$j7T$saltsaltsalt", "$6$rounds=1000$saltsalt", "$5$rounds=1000$saltsalt",
                                           "$2b$04$abcdefghijklmnopqrstuu"};
    struct auth_lookup found;
    struct auth_file *f;

    (void)state;
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        struct crypt_data data = {0};
        char *text = mr_asprintf("# comment\n\nuser:%s\r\n", crypt_r("pencil", settings[i], &data));

        f = parse(text);
        auth_file_find(f, "user", &found);
        assert_true(found.known);
        assert_true(auth_entry_verify(&found.entry, "pencil"));
        assert_false(auth_entry_verify(&found.entry, "pencils"));
        assert_false(auth_entry_verify(&found.entry, ""));
        auth_file_unref(f);
        free(text);
    }
    f = parse("user:" SCRAM);
    auth_file_find(f, "user", &found);
    assert_true(auth_entry_verify(&found.entry, "pencil"));
    assert_false(auth_entry_verify(&found.entry, "pencils"));
    assert_int_equal(found.scram.iterations, 4096);
    auth_file_unref(f);
}

static void test_wrong_lines(void **state)
{
    char longer[3000];

    (void)state;
    expect_wrong("a:b", "users:1: not a crypt(3) hash");
    expect_wrong("# x\na\n", "users:2: has to be user:hash");
    expect_wrong("a:!\n", "users:1: not a crypt(3) hash");
    expect_wrong("a:$6$salt\n", "users:1: not a crypt(3) hash");
    expect_wrong("a:abJnggxhB/yWI\n", "users:1: not a crypt(3) hash"); /* DES */
    expect_wrong(":" SCRAM, "users:1: no usable name");
    expect_wrong("\xff:" SCRAM, "users:1: no usable name");
    expect_wrong("a:" SCRAM "\na:" SCRAM, "users:2: a second SCRAM secret");
    expect_wrong("a:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,x", "users:1: SCRAM secrets are");
    expect_wrong("a:{SCRAM-SHA-256}40,W22ZaJ0SNY7soEsUEjb6gQ==,x,y", "users:1: iterations");
    expect_wrong("a:{SCRAM-SHA-256}99999999999999999999,W22ZaJ0SNY7soEsUEjb6gQ==,x,y", "users:1: iterations");
    expect_wrong("a:{SCRAM-SHA-256}4096,W22Z,x,y", "users:1: the salt");
    expect_wrong("a:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,x,y", "users:1: StoredKey");
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    expect_wrong(longer, "users:1: longer than");
}

/* Names that look the same are the same; the empty file knows nobody. */
static void test_names(void **state)
{
    struct auth_lookup found;
    struct auth_file *f = parse("re\xcc\x81n\xc3\xa9:" SCRAM);
    char *name = auth_prepare("r\xc3\xa9ne\xcc\x81", 100);

    (void)state;
    assert_non_null(name);
    auth_file_find(f, name, &found);
    assert_true(found.known);
    free(name);
    auth_file_unref(f);
    assert_null(auth_prepare("", 100));
    assert_null(auth_prepare("too long", 3));
    assert_null(auth_prepare("a\x01", 100));
    f = parse("");
    auth_file_find(f, "nobody", &found);
    assert_false(found.known);
    assert_false(auth_file_has_scram(f));
    assert_false(auth_entry_verify(&found.entry, ""));
    auth_file_unref(f);
}

static void test_unknown_users(void **state)
{
    struct auth_lookup first, again;
    struct auth_file *f = parse("user:" SCRAM);

    (void)state;
    auth_file_find(f, "nobody", &first);
    auth_file_find(f, "nobody", &again);
    assert_false(first.known);
    assert_string_equal(first.scram.salt, again.scram.salt);
    assert_int_equal(strlen(first.scram.salt), strlen("W22ZaJ0SNY7soEsUEjb6gQ=="));
    assert_int_equal(first.scram.iterations, 4096);
    assert_non_null(first.entry.user); /* something to compute */
    auth_file_find(f, "nobody else", &again);
    assert_string_not_equal(first.made_up[0], again.made_up[0]);
    auth_file_unref(f);
}

static void test_many_users(void **state)
{
    enum { USERS = 20000 };
    char *text = mr_malloc(USERS * 200);
    struct auth_lookup found;
    struct auth_file *f;
    size_t len = 0;
    char name[32];

    (void)state;
    for (int i = 0; i < USERS; i++)
        len += (size_t)sprintf(text + len, "user%d@example.net:" SCRAM "\n", i);
    f = parse(text);
    free(text);
    assert_int_equal(auth_file_users(f), USERS);
    for (int i = 0; i < USERS; i++) {
        (void)snprintf(name, sizeof(name), "user%d@example.net", i);
        auth_file_find(f, name, &found);
        assert_true(found.known);
        assert_string_equal(found.entry.user, name);
    }
    auth_file_unref(f);
}

static void test_permissions(void **state)
{
    char path[] = "/tmp/mailraft-users-XXXXXX", error[512];
    int fd = mkstemp(path);
    struct auth_file *f;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "user:" SCRAM "\n", strlen("user:" SCRAM "\n")), (ssize_t)strlen("user:" SCRAM "\n"));
    assert_int_equal(close(fd), 0);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(auth_file_load(&f, path, error, sizeof(error)), 0);
    auth_file_unref(f);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(auth_file_load(&f, path, error, sizeof(error)), MR_CONFIG);
    assert_non_null(strstr(error, "others may read"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(auth_file_load(&f, path, error, sizeof(error)), MR_IO);
    assert_int_equal(auth_file_load(&f, "/tmp", error, sizeof(error)), MR_CONFIG);
}

static void test_senders(void **state)
{
    char text[] = "# who may be whom\nbob sales@example.net\nalice @example.net\r\nbob\t@Example.org\n"
                  "dora dora@b\xc3\xbc"
                  "cher.example\ndora @stra\xc3\x9f"
                  "e.example\n";
    char wrong[] = "bob sales@example.net\nbob sales\n", wrong2[] = "bob a@\n", wrong3[] = "bob a@b c@d",
         wrong4[] = "bob @\xe2\x80\xae.example";
    char error[256];
    struct auth_senders *s;

    (void)state;
    assert_int_equal(auth_senders_parse(&s, "senders", text, sizeof(text) - 1, error, sizeof(error)), 0);
    assert_true(auth_senders_allow(s, "bob", "Sales@Example.net"));
    assert_true(auth_senders_allow(s, "bob", "anyone@example.org"));
    assert_false(auth_senders_allow(s, "bob", "anyone@example.net"));
    assert_false(auth_senders_allow(s, "bob", "anyone@sub.example.org"));
    assert_true(auth_senders_allow(s, "alice", "x@example.net"));
    assert_false(auth_senders_allow(s, "carol", "x@example.net"));
    assert_false(auth_senders_allow(s, "alice", "no domain"));
    assert_true(auth_senders_allow(s, "dora", "dora@xn--bcher-kva.example"));
    assert_true(auth_senders_allow(s, "dora", "x@XN--STRAE-OQA.example"));
    auth_senders_free(s);
    assert_int_equal(auth_senders_parse(&s, "senders", wrong, sizeof(wrong) - 1, error, sizeof(error)), MR_CONFIG);
    assert_memory_equal(error, "senders:2: has to be", 20);
    assert_int_equal(auth_senders_parse(&s, "senders", wrong2, sizeof(wrong2) - 1, error, sizeof(error)), MR_CONFIG);
    assert_int_equal(auth_senders_parse(&s, "senders", wrong3, sizeof(wrong3) - 1, error, sizeof(error)), MR_CONFIG);
    assert_int_equal(auth_senders_parse(&s, "senders", wrong4, sizeof(wrong4) - 1, error, sizeof(error)), MR_CONFIG);
    assert_memory_equal(error, "senders:1: not a domain", 23);
}

static void test_credentials(void **state)
{
    char text[] = "# ours\nmail.example.net relay any port\nmail.example.net:587 relay  pass phrase with blanks \r\n"
                  "[2001:db8::1]:25 x y\n";
    char error[256];
    struct credentials *c;

    (void)state;
    assert_int_equal(credentials_parse(&c, "f", text, sizeof(text) - 1, error, sizeof(error)), 0);
    assert_string_equal(credentials_find(c, "MAIL.example.net", 587, "relay"), "pass phrase with blanks ");
    assert_string_equal(credentials_find(c, "mail.example.net", 25, "relay"), "any port");
    assert_null(credentials_find(c, "mail.example.net", 25, "other"));
    assert_string_equal(credentials_find(c, "2001:db8::1", 25, "x"), "y");
    assert_null(credentials_find(c, "2001:db8::1", 26, "x"));
    credentials_free(c);
    static const char *const wrong[] = {"host user\n",   "host\n",     ":25 user pw\n", "h:0 u p\n",
                                        "h:70000 u p\n", "[::1 u p\n", "h u p\nh u q\n"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char *copy = mr_strdup(wrong[i]);
        assert_int_equal(credentials_parse(&c, "f", copy, strlen(copy), error, sizeof(error)), MR_CONFIG);
        assert_null(strstr(error, "user pw"));
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify),        cmocka_unit_test(test_wrong_lines), cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_users), cmocka_unit_test(test_many_users),  cmocka_unit_test(test_permissions),
        cmocka_unit_test(test_senders),       cmocka_unit_test(test_credentials),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
