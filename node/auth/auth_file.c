/* Happy path: auth_file_load -> read -> a line at a time -> entries sorted into a table by name -> auth_file_find. */
#include "node/auth/auth_file.h"

#include "node/auth/sasl.h"
#include "node/auth/text_file.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <crypt.h>
#include <errno.h>
#include <gsasl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct auth_file {
    atomic_uint references;
    char *text; /* lines, cut into strings: entries point into it */
    struct auth_entry *entries;
    size_t n, cap;
    uint32_t *table; /* entry + 1; 0: free. A power of two, at most half full. */
    size_t mask;
    uint32_t *scram; /* entries with SCRAM secrets */
    size_t n_scram;
    /* Draws what unknown users are told: the same on every node that has this file, unknown without it. */
    uint8_t secret[SHA256_DIGEST_LENGTH];
};

struct reader {
    struct auth_file *file;
    const char *name;
    unsigned line;
    char *error;
    size_t error_len, error_used;
    unsigned errors;
};

__attribute__((format(printf, 2, 3))) static void problem(struct reader *r, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    r->errors++;
    int n = snprintf(r->error + r->error_used, r->error_len - r->error_used, "%s%s:%u: %s",
                     r->error_used > 0 ? "\n" : "", r->name, r->line, text);
    if (n > 0 && (size_t)n < r->error_len - r->error_used)
        r->error_used += (size_t)n;
    else
        r->error[r->error_used] = '\0'; /* the whole lines before it stay */
}

char *auth_prepare(const char *text, size_t most)
{
    char *prepared = NULL;
    char *copy = NULL;

    /* A name that is asked for may hold code points newer than Unicode 3.2 (RFC 4013 section 2.5: a query). */
    if (gsasl_saslprep(text, GSASL_ALLOW_UNASSIGNED, &prepared, NULL) != GSASL_OK)
        return NULL;
    if (prepared[0] != '\0' && strlen(prepared) <= most)
        copy = mr_strdup(prepared);
    OPENSSL_cleanse(prepared, strlen(prepared));
    gsasl_free(prepared);
    return copy;
}

/* ---- the table ---- */

static size_t place_of(const struct auth_file *f, const char *user)
{
    size_t at = XXH3_64bits(user, strlen(user)) & f->mask;

    while (f->table[at] != 0 && strcmp(f->entries[f->table[at] - 1].user, user) != 0)
        at = (at + 1) & f->mask;
    return at;
}

static void grow_table(struct auth_file *f)
{
    size_t size = f->table == NULL ? 64 : (f->mask + 1) * 2;

    free(f->table);
    f->table = mr_calloc(size, sizeof(f->table[0]));
    f->mask = size - 1;
    for (size_t i = 0; i < f->n; i++)
        f->table[place_of(f, f->entries[i].user)] = (uint32_t)i + 1;
}

/* Takes over user, unless it is there already. */
static struct auth_entry *entry_of(struct auth_file *f, char *user)
{
    size_t at;

    if (f->table == NULL || (f->n + 1) * 2 > f->mask)
        grow_table(f);
    at = place_of(f, user);
    if (f->table[at] != 0) {
        free(user);
        return &f->entries[f->table[at] - 1];
    }
    if (f->n == f->cap) {
        f->cap = f->cap == 0 ? 16 : f->cap * 2;
        f->entries = mr_realloc(f->entries, f->cap * sizeof(f->entries[0]));
    }
    f->entries[f->n] = (struct auth_entry){.user = user};
    f->table[at] = (uint32_t)++f->n;
    return &f->entries[f->n - 1];
}

/* ---- lines ---- */

/* Octets behind base64; -1: not base64 or more than most. */
static int decode(const char *text, uint8_t *out, size_t most)
{
    char *raw;
    size_t n;

    if (gsasl_base64_from(text, strlen(text), &raw, &n) != GSASL_OK)
        return -1;
    if (n <= most)
        memcpy(out, raw, n);
    OPENSSL_cleanse(raw, n);
    gsasl_free(raw);
    return n <= most ? (int)n : -1;
}

static void read_scram(struct reader *r, struct auth_entry *e, char *text)
{
    uint8_t raw[AUTH_SCRAM_SALT_MAX];
    char *save = NULL;
    char *iterations = strtok_r(text, ",", &save);
    char *salt = strtok_r(NULL, ",", &save);
    char *stored = strtok_r(NULL, ",", &save);
    char *server = strtok_r(NULL, ",", &save);
    char *end;
    unsigned long n;

    if (server == NULL || strtok_r(NULL, ",", &save) != NULL) {
        problem(r, "SCRAM secrets are iterations,salt,StoredKey,ServerKey");
        return;
    }
    errno = 0;
    n = strtoul(iterations, &end, 10);
    if (iterations[0] < '0' || iterations[0] > '9' || *end != '\0' || errno != 0 || n < AUTH_SCRAM_ITERATIONS_MIN ||
        n > AUTH_SCRAM_ITERATIONS_MAX)
        problem(r, "iterations have to be a number from %d to %d", AUTH_SCRAM_ITERATIONS_MIN,
                AUTH_SCRAM_ITERATIONS_MAX);
    else if (decode(salt, raw, sizeof(raw)) < 8)
        problem(r, "the salt has to be 8 to %d octets in base64", AUTH_SCRAM_SALT_MAX);
    else if (decode(stored, raw, sizeof(raw)) != AUTH_SCRAM_KEY || decode(server, raw, sizeof(raw)) != AUTH_SCRAM_KEY)
        problem(r, "StoredKey and ServerKey have to be %d octets in base64", AUTH_SCRAM_KEY);
    else if (e->scram.iterations != 0)
        problem(r, "a second SCRAM secret of this user");
    else
        e->scram = (struct auth_scram){(unsigned)n, salt, stored, server};
}

static void read_crypt(struct reader *r, struct auth_entry *e, const char *hash)
{
    int rc = crypt_checksalt(hash);

    /* A setting alone, without the hash that it should give, would match nobody. */
    if (hash[0] != '$' || strlen(hash) >= AUTH_HASH_MAX || rc == CRYPT_SALT_INVALID || strlen(hash) < 34)
        problem(r, "not a crypt(3) hash like $y$..., $6$... or $2b$..., nor {SCRAM-SHA-256}...");
    else if (rc == CRYPT_SALT_METHOD_DISABLED)
        problem(r, "the C library of this machine does not know this kind of crypt(3) hash");
    else if (e->hash != NULL)
        problem(r, "a second crypt(3) hash of this user");
    else
        e->hash = hash;
}

static void read_line(struct reader *r, char *line)
{
    static const char scram[] = "{SCRAM-SHA-256}";
    char *colon = strchr(line, ':');
    struct auth_entry *e;
    char *user;

    if (line[0] == '\0' || line[0] == '#')
        return;
    if (strlen(line) > AUTH_LINE_MAX) {
        problem(r, "longer than %d octets", AUTH_LINE_MAX);
        return;
    }
    if (colon == NULL) {
        problem(r, "has to be user:hash");
        return;
    }
    *colon = '\0';
    user = auth_prepare(line, SASL_USER_MAX);
    if (user == NULL) {
        problem(r, "no usable name of a user before the colon (UTF-8, 1 to %d octets)", SASL_USER_MAX);
        return;
    }
    e = entry_of(r->file, user);
    if (strncmp(colon + 1, scram, sizeof(scram) - 1) == 0)
        read_scram(r, e, colon + sizeof(scram));
    else
        read_crypt(r, e, colon + 1);
}

static void list_scram(struct auth_file *f)
{
    f->scram = mr_calloc(f->n + 1, sizeof(f->scram[0]));
    for (size_t i = 0; i < f->n; i++)
        if (f->entries[i].scram.iterations != 0)
            f->scram[f->n_scram++] = (uint32_t)i;
}

int auth_file_parse(struct auth_file **out, const char *name, const char *text, size_t len, char *error,
                    size_t error_len)
{
    struct auth_file *f = mr_calloc(1, sizeof(*f));
    struct reader r = {.file = f, .name = name, .error = error, .error_len = error_len};
    char *end;

    error[0] = '\0';
    atomic_init(&f->references, 1);
    SHA256((const uint8_t *)text, len, f->secret);
    f->text = mr_memdup(text, len);
    end = f->text + len;
    if (memchr(text, '\0', len) != NULL)
        problem(&r, "holds a zero byte");
    for (char *line = f->text; line < end && r.errors == 0;) {
        char *next = memchr(line, '\n', (size_t)(end - line));

        if (next == NULL)
            next = end;
        *next = '\0';
        if (next > line && next[-1] == '\r')
            next[-1] = '\0';
        r.line++;
        read_line(&r, line);
        line = next + 1;
    }
    if (r.errors > 0) {
        auth_file_unref(f);
        return MR_CONFIG;
    }
    if (f->table == NULL)
        grow_table(f);
    list_scram(f);
    *out = f;
    return 0;
}

/* ---- the file ---- */

int auth_file_load(struct auth_file **out, const char *path, char *error, size_t error_len)
{
    char *text;
    size_t len;
    int rc = text_file_read(path, true, &text, &len, error, error_len);

    if (rc != 0)
        return rc;
    rc = auth_file_parse(out, path, text, len, error, error_len);
    OPENSSL_cleanse(text, len);
    free(text);
    return rc;
}

struct auth_file *auth_file_ref(struct auth_file *f)
{
    atomic_fetch_add_explicit(&f->references, 1, memory_order_relaxed);
    return f;
}

void auth_file_unref(struct auth_file *f)
{
    if (f == NULL || atomic_fetch_sub_explicit(&f->references, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < f->n; i++)
        free((char *)(uintptr_t)f->entries[i].user);
    free(f->entries);
    free(f->table);
    free(f->scram);
    free(f->text);
    free(f);
}

size_t auth_file_users(const struct auth_file *f)
{
    return f->n;
}

bool auth_file_has_scram(const struct auth_file *f)
{
    return f->n_scram > 0;
}

/* ---- looking up ---- */

static void draw(const struct auth_file *f, const char *what, const char *user, uint8_t out[SHA256_DIGEST_LENGTH])
{
    char text[SASL_USER_MAX + 16];
    int n = snprintf(text, sizeof(text), "%s:%s", what, user);
    unsigned len = SHA256_DIGEST_LENGTH;

    if (n < 0 || (size_t)n >= sizeof(text))
        n = sizeof(text) - 1;
    mr_assert(HMAC(EVP_sha256(), f->secret, sizeof(f->secret), (const uint8_t *)text, (size_t)n, out, &len) != NULL);
}

static size_t draw_number(const struct auth_file *f, const char *what, const char *user, size_t below)
{
    uint8_t bytes[SHA256_DIGEST_LENGTH];
    uint64_t number;

    draw(f, what, user, bytes);
    memcpy(&number, bytes, sizeof(number));
    return (size_t)(number % below);
}

static const char *encode(const uint8_t *raw, size_t len, char *out)
{
    (void)EVP_EncodeBlock((uint8_t *)out, raw, (int)len);
    return out;
}

/* Secrets that nobody can prove to know, in the shape of those of some user who has them. */
static void make_up_scram(const struct auth_file *f, const char *user, struct auth_lookup *out)
{
    uint8_t salt[2 * SHA256_DIGEST_LENGTH], key[SHA256_DIGEST_LENGTH], shape[AUTH_SCRAM_SALT_MAX];
    const struct auth_scram *like;
    int n;

    if (f->n_scram == 0)
        return;
    like = &f->entries[f->scram[draw_number(f, "like", user, f->n_scram)]].scram;
    n = decode(like->salt, shape, sizeof(shape));
    mr_assert(n > 0);
    draw(f, "salt", user, salt);
    draw(f, "more salt", user, salt + SHA256_DIGEST_LENGTH);
    out->scram.iterations = like->iterations;
    out->scram.salt = encode(salt, (size_t)n, out->made_up[0]);
    draw(f, "stored", user, key);
    out->scram.stored_key = encode(key, sizeof(key), out->made_up[1]);
    draw(f, "server", user, key);
    out->scram.server_key = encode(key, sizeof(key), out->made_up[2]);
}

void auth_file_find(const struct auth_file *f, const char *user, struct auth_lookup *out)
{
    size_t at = place_of(f, user);

    *out = (struct auth_lookup){.known = f->table[at] != 0};
    if (out->known)
        out->entry = f->entries[f->table[at] - 1];
    else if (f->n > 0)
        out->entry = f->entries[draw_number(f, "entry", user, f->n)];
    out->scram = out->entry.scram;
    if (!out->known || out->scram.iterations == 0)
        make_up_scram(f, user, out);
}

/* ---- verifying ---- */

static bool verify_crypt(const char *hash, const char *password)
{
    struct crypt_data *data = mr_calloc(1, sizeof(*data)); /* 32 KiB */
    const char *made = crypt_r(password, hash, data);
    /* A hash that failed is "*0" or NULL. The length of a hash is no secret, its octets are. */
    bool same =
        made != NULL && made[0] != '*' && strlen(made) == strlen(hash) && CRYPTO_memcmp(made, hash, strlen(hash)) == 0;

    OPENSSL_cleanse(data, sizeof(*data));
    free(data);
    return same;
}

static bool verify_scram(const struct auth_scram *scram, const char *password)
{
    uint8_t salt[AUTH_SCRAM_SALT_MAX], stored[AUTH_SCRAM_SALT_MAX];
    uint8_t salted[AUTH_SCRAM_KEY], client_key[AUTH_SCRAM_KEY], made[AUTH_SCRAM_KEY];
    unsigned len = sizeof(client_key);
    int salt_len = decode(scram->salt, salt, sizeof(salt));
    bool same;

    if (salt_len <= 0 || decode(scram->stored_key, stored, sizeof(stored)) != AUTH_SCRAM_KEY)
        return false;
    /* RFC 5802 section 3: StoredKey = H(HMAC(Hi(password, salt, i), "Client Key")). */
    mr_assert(PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, salt_len, (int)scram->iterations, EVP_sha256(),
                                sizeof(salted), salted) == 1);
    mr_assert(HMAC(EVP_sha256(), salted, sizeof(salted), (const uint8_t *)"Client Key", 10, client_key, &len) != NULL);
    SHA256(client_key, sizeof(client_key), made);
    same = CRYPTO_memcmp(made, stored, AUTH_SCRAM_KEY) == 0;
    OPENSSL_cleanse(salted, sizeof(salted));
    OPENSSL_cleanse(client_key, sizeof(client_key));
    return same;
}

bool auth_entry_verify(const struct auth_entry *e, const char *password)
{
    if (e->hash != NULL)
        return verify_crypt(e->hash, password);
    return e->scram.iterations != 0 && verify_scram(&e->scram, password);
}
