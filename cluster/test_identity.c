/* identity.c: what it says survives, what is damaged is refused, and a peer is who it was. */
#include "cluster/identity.h"

#include "cluster/identity_record.h"
#include "proto/base/error.h"
#include "proto/base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], file[80], error[600];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/mailraft-identity-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    (void)snprintf(file, sizeof(file), "%s/identity", dir);
    return 0;
}

static int teardown(void **state)
{
    char command[100];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static struct identity *open_ok(const char *name)
{
    struct identity *id = NULL;
    int rc = identity_open(&id, dir, name, error, sizeof(error));
    if (rc != 0)
        fail_msg("identity_open: %s", error);
    return id;
}

static void open_fails(const char *name, int expected)
{
    struct identity *id = NULL;
    error[0] = 0;
    assert_int_equal(identity_open(&id, dir, name, error, sizeof(error)), expected);
    assert_true(strlen(error) > 10);
    assert_null(id);
}

static size_t read_file(char *out, size_t size)
{
    FILE *f = fopen(file, "rb");
    assert_non_null(f);
    size_t n = fread(out, 1, size, f);
    (void)fclose(f);
    return n;
}

static void write_file(const char *text, size_t len)
{
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static struct identity_member member(uint32_t node, const char *name, struct mr_id directory)
{
    struct identity_member m = {.node = node, .directory = directory};
    (void)snprintf(m.name, sizeof(m.name), "%s", name);
    (void)snprintf(m.address, sizeof(m.address), "[::1]:%u", 7400 + node);
    return m;
}

static void persists(void **state)
{
    (void)state;
    struct identity *id = open_ok("mx1");
    struct mr_id directory = identity_directory(id), cluster = mr_id_random();
    assert_false(mr_id_is_zero(directory));
    assert_false(identity_formed(id));
    assert_int_equal(identity_incarnation(id), 1);
    identity_close(id);
    id = open_ok("mx1");
    assert_true(mr_id_equal(identity_directory(id), directory));
    assert_int_equal(identity_incarnation(id), 2);
    struct identity_member members[3] = {member(1, "mx1", directory), member(2, "mx2", mr_id_random()),
                                         member(3, "mx3", mr_id_random())};
    assert_int_equal(identity_form(id, cluster, members, 3), 0);
    assert_int_equal(identity_form(id, cluster, members, 3), 0);
    assert_int_equal(identity_form(id, mr_id_random(), members, 3), MR_EXISTS);
    assert_int_equal(identity_form(id, cluster, members, 2), MR_EXISTS);
    assert_false(identity_bootstrapped(id));
    assert_int_equal(identity_set_bootstrapped(id), 0);
    identity_close(id);
    id = open_ok("mx1");
    assert_true(identity_formed(id));
    assert_true(identity_bootstrapped(id));
    assert_true(mr_id_equal(identity_cluster(id), cluster));
    assert_int_equal(identity_node(id), 1);
    assert_int_equal(identity_members(id), 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(identity_member(id, i)->name, members[i].name);
        assert_string_equal(identity_member(id, i)->address, members[i].address);
        assert_int_equal(identity_member(id, i)->node, members[i].node);
        assert_true(mr_id_equal(identity_member(id, i)->directory, members[i].directory));
    }
    assert_int_equal(identity_incarnation(id), 3);
    identity_close(id);
}

static void wrong_formations(void **state)
{
    (void)state;
    struct identity *id = open_ok("mx1");
    struct mr_id own = identity_directory(id), cluster = mr_id_random(), other = mr_id_random();
    struct identity_member m[2] = {member(1, "mx1", own), member(2, "mx2", other)};
    assert_int_equal(identity_form(id, (struct mr_id){{0}}, m, 2), MR_INVAL);
    assert_int_equal(identity_form(id, cluster, m, 0), MR_INVAL);
    assert_int_equal(identity_form(id, cluster, m + 1, 1), MR_INVAL); /* we are not in it */
    m[0].directory = mr_id_random();
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL); /* not with this directory */
    m[0].directory = own;
    m[1].directory = own;
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL);
    m[1].directory = other;
    m[1].node = 1;
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL);
    m[1].node = 2;
    (void)snprintf(m[1].name, sizeof(m[1].name), "mx1");
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL);
    (void)snprintf(m[1].name, sizeof(m[1].name), "mx 2");
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL);
    (void)snprintf(m[1].name, sizeof(m[1].name), "mx2");
    (void)snprintf(m[1].address, sizeof(m[1].address), "a\nname mx9");
    assert_int_equal(identity_form(id, cluster, m, 2), MR_INVAL);
    assert_false(identity_formed(id));
    identity_close(id);
}

static void names_and_lock(void **state)
{
    (void)state;
    open_fails("", MR_INVAL);
    open_fails("a b", MR_INVAL);
    open_fails("../x", MR_INVAL);
    struct identity *id = open_ok("mx1");
    open_fails("mx1", MR_BUSY);
    assert_non_null(strstr(error, "another process"));
    identity_close(id);
    open_fails("mx2", MR_REFUSED);
    assert_non_null(strstr(error, "mx1"));
    id = open_ok("mx1");
    assert_int_equal(identity_incarnation(id), 2); /* refused starts count nothing */
    identity_close(id);
}

static void log_without_identity_is_refused(void **state)
{
    char path[100];
    (void)state;
    (void)snprintf(path, sizeof(path), "%s/raft", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    identity_close(open_ok("mx1")); /* an empty folder is no log */
    assert_int_equal(unlink(file), 0);
    (void)snprintf(path, sizeof(path), "%s/raft/metadata1", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    open_fails("mx1", MR_REFUSED);
    assert_non_null(strstr(error, "no identity file"));
}

/* Each cut and each changed byte of the file is found, and the file is left as it is. */
static void damaged_files_are_refused(void **state)
{
    char text[4096], bad[4096], after[4096];
    (void)state;
    struct identity *id = open_ok("mx1");
    struct identity_member m[2] = {member(1, "mx1", identity_directory(id)), member(2, "mx2", mr_id_random())};
    assert_int_equal(identity_form(id, mr_id_random(), m, 2), 0);
    identity_close(id);
    size_t len = read_file(text, sizeof(text));
    for (size_t cut = 0; cut < len; cut++) {
        struct identity_record r;
        assert_true(identity_record_parse(&r, text, cut) < 0);
    }
    for (size_t i = 0; i < len; i++) {
        struct identity_record r;
        memcpy(bad, text, len);
        bad[i] ^= 1;
        assert_true(identity_record_parse(&r, bad, len) < 0);
    }
    write_file(text, len / 2);
    open_fails("mx1", MR_CHECKSUM);
    assert_int_equal(read_file(after, sizeof(after)), len / 2);
    write_file("", 0);
    open_fails("mx1", MR_MALFORMED);
    write_file(text, len);
    identity_close(open_ok("mx1"));
}

/* A crash left a half-written new file beside the good one. */
static void torn_new_file_does_not_count(void **state)
{
    char path[100];
    (void)state;
    struct identity *id = open_ok("mx1");
    struct mr_id directory = identity_directory(id);
    identity_close(id);
    (void)snprintf(path, sizeof(path), "%s/identity.new", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    (void)fputs("mailraft-identity 1\nname mx1\ndirec", f);
    (void)fclose(f);
    id = open_ok("mx1");
    assert_true(mr_id_equal(identity_directory(id), directory));
    assert_int_equal(identity_incarnation(id), 2);
    identity_close(id);
}

/* Written by version 1; every later version must read it. */
static void stored_example_reads(void **state)
{
    char text[4096], id[MR_ID_TEXT + 1];
    struct identity_record r;
    (void)state;
    FILE *f = fopen("testdata/identity_v1", "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof(text), f);
    (void)fclose(f);
    assert_int_equal(identity_record_parse(&r, text, n), 0);
    assert_string_equal(r.name, "mx2");
    assert_int_equal(r.incarnation, 41);
    assert_int_equal(r.node, 2);
    assert_true(r.bootstrapped);
    assert_int_equal(r.n_members, 3);
    assert_string_equal(r.members[2].address, "[2001:db8::3]:7400");
    assert_int_equal(r.n_peers, 2);
    assert_int_equal(r.peers[1].node, 3);
    assert_int_equal(r.peers[1].incarnation, 7);
    assert_string_equal(mr_id_format(r.directory, id), "0123456789ABCDEFGHJKMNPQRS");
    size_t len;
    char *again = identity_record_print(&r, &len);
    assert_int_equal(len, n);
    assert_memory_equal(again, text, n);
    free(again);
    memcpy(text + strlen("mailraft-identity "), "2", 1);
    assert_int_equal(identity_record_parse(&r, text, n), MR_CHECKSUM);
}

/* ---- peers ---- */

struct peer {
    Mailraft__Hello hello;
    struct mr_id directory, cluster, life;
};

static struct peer *say(struct peer *p, const char *name, uint32_t node, uint64_t incarnation, bool formed)
{
    mailraft__hello__init(&p->hello);
    p->hello.version = 1;
    p->hello.name = (char *)(uintptr_t)name;
    p->hello.node = node;
    p->hello.incarnation = incarnation;
    p->hello.directory = (ProtobufCBinaryData){.data = p->directory.bytes, .len = MR_ID_SIZE};
    p->hello.cluster = (ProtobufCBinaryData){.data = p->cluster.bytes, .len = formed ? MR_ID_SIZE : 0};
    p->hello.life = (ProtobufCBinaryData){.data = p->life.bytes, .len = MR_ID_SIZE};
    return p;
}

static void welcome(struct identity *id, const struct peer *p, uint32_t expected)
{
    const char *reason = identity_check_peer(id, &p->hello, expected);
    if (reason != NULL)
        fail_msg("refused: %s", reason);
}

static void refused(struct identity *id, const struct peer *p, uint32_t expected, const char *text)
{
    const char *reason = identity_check_peer(id, &p->hello, expected);
    assert_non_null(reason);
    if (strstr(reason, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", reason, text);
}

static struct identity *formed_identity(struct peer *mx2)
{
    struct identity *id = open_ok("mx1");
    *mx2 = (struct peer){.directory = mr_id_random(), .cluster = mr_id_random(), .life = mr_id_random()};
    struct identity_member m[2] = {member(1, "mx1", identity_directory(id)), member(2, "mx2", mx2->directory)};
    assert_int_equal(identity_form(id, mx2->cluster, m, 2), 0);
    return id;
}

static void peers_of_a_formed_node(void **state)
{
    struct peer mx2, other;
    (void)state;
    struct identity *id = formed_identity(&mx2);
    welcome(id, say(&mx2, "mx2", 0, 1, false), 2); /* has not got the formation yet */
    welcome(id, say(&mx2, "mx2", 2, 1, true), 2);
    refused(id, say(&mx2, "mx2", 3, 1, true), 2, "raft id is 3");
    other = mx2;
    other.cluster = mr_id_random();
    refused(id, say(&other, "mx2", 2, 1, true), 2, "belongs to cluster");
    other = mx2;
    other.directory = mr_id_random();
    refused(id, say(&other, "mx2", 0, 1, false), 2, "lost, wiped or exchanged");
    refused(id, say(&other, "mx2", 2, 1, true), 2, "lost, wiped or exchanged");
    other.directory = identity_directory(id);
    refused(id, say(&other, "mx2", 2, 1, true), 2, "copy of the data directory");
    other = mx2;
    say(&other, "mx2", 2, 1, true)->hello.directory.len = 3;
    refused(id, &other, 2, "which data directory");
    refused(id, say(&mx2, "mx7", 7, 1, true), 7, "data directory of the node with raft id 2");
    other.directory = mr_id_random();
    refused(id, say(&other, "mx9", 1, 1, true), 0, "which is that of mx1");
    welcome(id, say(&other, "mx9", 0, 1, false), 0); /* a new node asks */

    /* A later member: first come, then kept, over restarts too. */
    welcome(id, say(&other, "mx3", 3, 1, true), 3);
    identity_close(id);
    id = open_ok("mx1");
    struct peer third = other;
    third.directory = mr_id_random();
    refused(id, say(&third, "mx3", 3, 1, true), 3, "lost, wiped or exchanged");
    welcome(id, say(&other, "mx3", 3, 1, true), 3);
    assert_int_equal(identity_replace(id, 3, third.directory), 0);
    assert_int_equal(identity_replace(id, 1, third.directory), MR_INVAL);
    welcome(id, say(&third, "mx3", 3, 1, true), 3);
    refused(id, say(&other, "mx3", 3, 2, true), 3, "lost, wiped or exchanged");
    identity_close(id);
    id = open_ok("mx1");
    welcome(id, say(&third, "mx3", 3, 1, true), 3);
    identity_close(id);
}

static void copies_from_the_past_are_refused(void **state)
{
    struct peer mx2;
    (void)state;
    struct identity *id = formed_identity(&mx2);
    welcome(id, say(&mx2, "mx2", 2, 5, true), 2);
    welcome(id, say(&mx2, "mx2", 2, 5, true), 2); /* the same process connects again */
    struct mr_id life = mx2.life;
    mx2.life = mr_id_random();
    refused(id, say(&mx2, "mx2", 2, 5, true), 2, "copy from the past"); /* another process says it is that one */
    refused(id, say(&mx2, "mx2", 2, 4, true), 2, "copy from the past");
    welcome(id, say(&mx2, "mx2", 2, 6, true), 2);
    identity_close(id);
    id = open_ok("mx1");
    mx2.life = life;
    refused(id, say(&mx2, "mx2", 2, 5, true), 2, "copy from the past"); /* remembered */
    identity_close(id);
}

static void unformed_node_refuses_only_nonsense(void **state)
{
    (void)state;
    struct identity *id = open_ok("mx1");
    struct peer mx2 = {.directory = mr_id_random(), .cluster = mr_id_random(), .life = mr_id_random()};
    welcome(id, say(&mx2, "mx2", 2, 1, true), 2);
    welcome(id, say(&mx2, "mx2", 0, 1, false), 2);
    mx2.directory = identity_directory(id);
    refused(id, say(&mx2, "mx2", 2, 1, true), 2, "copy of the data directory");
    Mailraft__Hello hello = MAILRAFT__HELLO__INIT;
    identity_hello(id, &hello);
    assert_int_equal(hello.cluster.len, 0);
    assert_int_equal(hello.directory.len, MR_ID_SIZE);
    assert_int_equal(hello.life.len, MR_ID_SIZE);
    identity_close(id);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(persists),
        TEST(wrong_formations),
        TEST(names_and_lock),
        TEST(log_without_identity_is_refused),
        TEST(damaged_files_are_refused),
        TEST(torn_new_file_does_not_count),
        TEST(stored_example_reads),
        TEST(peers_of_a_formed_node),
        TEST(copies_from_the_past_are_refused),
        TEST(unformed_node_refuses_only_nonsense),
    };
    log_configure(LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
