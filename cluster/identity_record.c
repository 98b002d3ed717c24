#include "cluster/identity_record.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char first_word[] = "mailraft-identity ";
static const char checksum_word[] = "checksum ";
enum { VERSION = 1, CHECKSUM_LINE = sizeof(checksum_word) - 1 + 16 + 1 };

bool identity_name_is_valid(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);
    return len > 0 && len < sizeof(((struct identity_member *)0)->name) && strspn(name, allowed) == len &&
           name[0] != '.' && name[0] != '-';
}

bool identity_address_is_valid(const char *address)
{
    size_t len = strlen(address);
    if (len == 0 || len >= sizeof(((struct identity_member *)0)->address))
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)address[i] <= ' ' || address[i] == 0x7f)
            return false;
    return true;
}

struct identity_peer *identity_record_peer(struct identity_record *r, uint32_t node)
{
    for (unsigned i = 0; i < r->n_peers; i++)
        if (r->peers[i].node == node)
            return &r->peers[i];
    return NULL;
}

/* ---- print ---- */

static void print_lines(const struct identity_record *r, FILE *out)
{
    char id[MR_ID_TEXT + 1], life[MR_ID_TEXT + 1];
    (void)fprintf(out, "%s%d\n", first_word, VERSION);
    (void)fprintf(out, "name %s\n", r->name);
    (void)fprintf(out, "directory %s\n", mr_id_format(r->directory, id));
    (void)fprintf(out, "incarnation %" PRIu64 "\n", r->incarnation);
    if (!mr_id_is_zero(r->cluster))
        (void)fprintf(out, "cluster %s %" PRIu32 " %d\n", mr_id_format(r->cluster, id), r->node, r->bootstrapped);
    for (unsigned i = 0; i < r->n_members; i++) {
        const struct identity_member *m = &r->members[i];
        (void)fprintf(out, "member %" PRIu32 " %s %s %s\n", m->node, m->name, mr_id_format(m->directory, id),
                      m->address);
    }
    for (unsigned i = 0; i < r->n_peers; i++) {
        const struct identity_peer *p = &r->peers[i];
        (void)fprintf(out, "peer %" PRIu32 " %s %" PRIu64 " %s\n", p->node, mr_id_format(p->directory, id),
                      p->incarnation, mr_id_format(p->life, life));
    }
}

char *identity_record_print(const struct identity_record *r, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    if (out == NULL)
        mr_panic("out of memory");
    print_lines(r, out);
    (void)fflush(out);
    uint64_t sum = XXH3_64bits(text, *len);
    (void)fprintf(out, "%s%016" PRIx64 "\n", checksum_word, sum);
    if (ferror(out) || fclose(out) != 0)
        mr_panic("out of memory");
    mr_assert(*len <= IDENTITY_FILE_MAX);
    return text;
}

/* ---- parse ---- */

/* Takes the next word of a line, ends it with a zero byte; NULL: there is none. */
static char *word(char **at)
{
    return strtok_r(NULL, " ", at);
}

static bool number(char **at, uint64_t max, uint64_t *out)
{
    char *text = word(at), *end;
    if (text == NULL || *text < '0' || *text > '9')
        return false;
    unsigned long long value = strtoull(text, &end, 10);
    *out = value;
    return *end == 0 && value <= max;
}

static bool id(char **at, struct mr_id *out)
{
    char *text = word(at);
    return text != NULL && mr_id_parse(text, strlen(text), out) == 0;
}

static bool parse_member(struct identity_record *r, char **at)
{
    uint64_t node;
    if (r->n_members == IDENTITY_MAX_MEMBERS || !number(at, UINT32_MAX, &node))
        return false;
    struct identity_member *m = &r->members[r->n_members++];
    m->node = (uint32_t)node;
    const char *name = word(at);
    if (name == NULL || !identity_name_is_valid(name) || !id(at, &m->directory))
        return false;
    const char *address = word(at);
    if (address == NULL || !identity_address_is_valid(address))
        return false;
    (void)snprintf(m->name, sizeof(m->name), "%s", name);
    (void)snprintf(m->address, sizeof(m->address), "%s", address);
    return true;
}

static bool parse_peer(struct identity_record *r, char **at)
{
    uint64_t node;
    if (r->n_peers == IDENTITY_MAX_PEERS || !number(at, UINT32_MAX, &node))
        return false;
    struct identity_peer *p = &r->peers[r->n_peers++];
    p->node = (uint32_t)node;
    return id(at, &p->directory) && number(at, UINT64_MAX, &p->incarnation) && id(at, &p->life);
}

static bool parse_cluster(struct identity_record *r, char **at)
{
    uint64_t node, bootstrapped;
    if (!id(at, &r->cluster) || !number(at, UINT32_MAX, &node) || !number(at, 1, &bootstrapped))
        return false;
    r->node = (uint32_t)node;
    r->bootstrapped = bootstrapped != 0;
    return !mr_id_is_zero(r->cluster) && node != 0;
}

static bool parse_line(struct identity_record *r, char *line)
{
    char *at = NULL;
    const char *key = strtok_r(line, " ", &at);
    bool ok = false;
    if (key == NULL)
        return false;
    if (strcmp(key, "name") == 0) {
        const char *name = word(&at);
        ok = name != NULL && identity_name_is_valid(name);
        if (ok)
            (void)snprintf(r->name, sizeof(r->name), "%s", name);
    } else if (strcmp(key, "directory") == 0) {
        ok = id(&at, &r->directory) && !mr_id_is_zero(r->directory);
    } else if (strcmp(key, "incarnation") == 0) {
        ok = number(&at, UINT64_MAX - 1, &r->incarnation);
    } else if (strcmp(key, "cluster") == 0) {
        ok = parse_cluster(r, &at);
    } else if (strcmp(key, "member") == 0) {
        ok = parse_member(r, &at);
    } else if (strcmp(key, "peer") == 0) {
        ok = parse_peer(r, &at);
    }
    return ok && word(&at) == NULL;
}

static int check_sum(const char *text, size_t len)
{
    char line[CHECKSUM_LINE + 1];
    if (len < CHECKSUM_LINE)
        return MR_MALFORMED;
    size_t covered = len - CHECKSUM_LINE;
    (void)snprintf(line, sizeof(line), "%s%016" PRIx64 "\n", checksum_word, XXH3_64bits(text, covered));
    return memcmp(text + covered, line, CHECKSUM_LINE) == 0 ? 0 : MR_CHECKSUM;
}

int identity_record_parse(struct identity_record *out, const char *text, size_t len)
{
    memset(out, 0, sizeof(*out));
    if (len < sizeof(first_word) - 1 || memcmp(text, first_word, sizeof(first_word) - 1) != 0)
        return MR_MALFORMED;
    int rc = check_sum(text, len);
    if (rc != 0)
        return rc;
    char *copy = mr_memdup(text, len - CHECKSUM_LINE), *at = NULL;
    char *line = strtok_r(copy, "\n", &at);
    if (line == NULL || atoi(line + sizeof(first_word) - 1) != VERSION)
        rc = MR_VERSION;
    while (rc == 0 && (line = strtok_r(NULL, "\n", &at)) != NULL)
        if (!parse_line(out, line))
            rc = MR_MALFORMED;
    free(copy);
    if (rc == 0 && (out->name[0] == 0 || mr_id_is_zero(out->directory)))
        rc = MR_MALFORMED;
    if (rc == 0 && mr_id_is_zero(out->cluster) != (out->n_members == 0))
        rc = MR_MALFORMED;
    return rc;
}
