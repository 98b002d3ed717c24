/* ctl_password.c - from a password to what a file may hold of it. */
#include "client/ctl_password.h"

#include "client/ctl_options.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <crypt.h>
#include <gsasl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

enum { KEY = SHA256_DIGEST_LENGTH, SALT = 16 };

/* ---- lines ---- */

static void encode(const uint8_t *raw, size_t len, char out[64])
{
    (void)EVP_EncodeBlock((uint8_t *)out, raw, (int)len);
}

static void hmac(const uint8_t key[KEY], const char *text, uint8_t out[KEY])
{
    unsigned len = KEY;

    mr_assert(HMAC(EVP_sha256(), key, KEY, (const uint8_t *)text, strlen(text), out, &len) != NULL);
}

/* RFC 5802 section 3: StoredKey = H(HMAC(salted password, "Client Key")), ServerKey = HMAC(.., "Server Key"). */
static void print_scram(FILE *out, const char *user, const char *password)
{
    uint8_t salt[SALT], salted[KEY], client_key[KEY], stored[KEY], server[KEY];
    char text[3][64];

    mr_assert(RAND_bytes(salt, sizeof(salt)) == 1);
    mr_assert(PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, sizeof(salt), CTL_SCRAM_ITERATIONS, EVP_sha256(),
                                KEY, salted) == 1);
    hmac(salted, "Client Key", client_key);
    hmac(salted, "Server Key", server);
    SHA256(client_key, KEY, stored);
    encode(salt, sizeof(salt), text[0]);
    encode(stored, KEY, text[1]);
    encode(server, KEY, text[2]);
    (void)fprintf(out, "%s:{SCRAM-SHA-256}%d,%s,%s,%s\n", user, CTL_SCRAM_ITERATIONS, text[0], text[1], text[2]);
    OPENSSL_cleanse(salted, sizeof(salted));
    OPENSSL_cleanse(client_key, sizeof(client_key));
}

static bool print_crypt(FILE *out, const char *user, const char *password)
{
    char setting[CRYPT_GENSALT_OUTPUT_SIZE];
    struct crypt_data *data = mr_calloc(1, sizeof(*data));
    const char *hash = NULL;

    if (crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof(setting)) != NULL)
        hash = crypt_r(password, setting, data);
    if (hash != NULL && hash[0] != '*')
        (void)fprintf(out, "%s:%s\n", user, hash);
    else
        hash = NULL;
    OPENSSL_cleanse(data, sizeof(*data));
    free(data);
    return hash != NULL;
}

/* RFC 4013; NULL: not allowed, empty or too long. free() after cleansing. */
static char *prepare(const char *text, size_t most)
{
    char *prepared, *copy = NULL;

    if (gsasl_saslprep(text, 0, &prepared, NULL) != GSASL_OK)
        return NULL;
    if (prepared[0] != '\0' && strlen(prepared) <= most)
        copy = mr_strdup(prepared);
    OPENSSL_cleanse(prepared, strlen(prepared));
    gsasl_free(prepared);
    return copy;
}

int ctl_password_lines(FILE *out, const char *user, const char *password, char *error, size_t error_len)
{
    char *name = prepare(user, CTL_USER_MAX);
    char *secret = prepare(password, CTL_PASSWORD_MAX);
    int rc = MR_INVAL;

    if (name == NULL || strchr(name, ':') != NULL || name[0] == '#')
        (void)snprintf(error, error_len,
                       "the user's name has to be UTF-8 of 1 to %d octets, without ':' or '#' in front", CTL_USER_MAX);
    else if (secret == NULL)
        (void)snprintf(error, error_len, "the password has to be UTF-8 of 1 to %d octets, without control characters",
                       CTL_PASSWORD_MAX);
    else if (!print_crypt(out, name, secret))
        (void)snprintf(error, error_len, "the C library of this machine makes no yescrypt hashes");
    else
        rc = 0;
    if (rc == 0)
        print_scram(out, name, secret);
    if (secret != NULL)
        OPENSSL_cleanse(secret, strlen(secret));
    free(secret);
    free(name);
    return rc;
}

/* ---- reading ---- */

/* One line without its end. False: none, or too long. */
static bool read_line(char out[CTL_PASSWORD_MAX + 2])
{
    bool whole = fgets(out, CTL_PASSWORD_MAX + 2, stdin) != NULL;
    size_t len = whole ? strcspn(out, "\n") : 0;

    whole = whole && (out[len] == '\n' || feof(stdin));
    out[len] = '\0';
    if (len > 0 && out[len - 1] == '\r')
        out[len - 1] = '\0';
    return whole;
}

/* Asks on the terminal, without echo. An interrupt leaves the terminal as it was. */
static bool ask(const char *prompt, char out[CTL_PASSWORD_MAX + 2])
{
    struct termios before, silent;
    sigset_t stops, mask;
    bool fine;

    if (tcgetattr(STDIN_FILENO, &before) != 0)
        return false;
    silent = before;
    silent.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    silent.c_lflag |= ECHONL;
    (void)sigemptyset(&stops);
    (void)sigaddset(&stops, SIGTERM);
    (void)sigaddset(&stops, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &stops, &mask);
    /* Before it asks: what is typed at the prompt is neither shown nor thrown away by the change. */
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
    (void)fputs(prompt, stderr);
    (void)fflush(stderr);
    fine = read_line(out);
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    (void)sigprocmask(SIG_SETMASK, &mask, NULL);
    /* With ISIG off ctrl-C is a character of the line. */
    return fine && strchr(out, 3) == NULL;
}

static const char *read_password(char out[CTL_PASSWORD_MAX + 2])
{
    char again[CTL_PASSWORD_MAX + 2];
    bool same;

    if (!isatty(STDIN_FILENO))
        return read_line(out) ? NULL : "no password on standard input, or too long a one";
    if (!ask("Password: ", out) || !ask("Again: ", again))
        return "no password was given";
    same = strcmp(out, again) == 0;
    OPENSSL_cleanse(again, sizeof(again));
    return same ? NULL : "the passwords differ";
}

int ctl_password(const char *user)
{
    char password[CTL_PASSWORD_MAX + 2] = "";
    char error[256] = "";
    const char *why = read_password(password);
    int rc = MR_INVAL;

    if (why == NULL) {
        rc = ctl_password_lines(stdout, user, password, error, sizeof(error));
        why = error;
    }
    OPENSSL_cleanse(password, sizeof(password));
    if (rc == 0 && fflush(stdout) == 0)
        return CTL_DONE;
    (void)fprintf(stderr, "mailraftctl: %s\n", rc == 0 ? "cannot write" : why);
    return CTL_REFUSED;
}
