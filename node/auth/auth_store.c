/* auth_store.c - three files and a lock around the pointers to them. */
#include "node/auth/auth_store.h"

#include "node/auth/auth_senders.h"
#include "node/auth/sasl.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

_Static_assert((int)AUTH_PLAIN == SASL_PLAIN && (int)AUTH_LOGIN == SASL_LOGIN &&
                   (int)AUTH_SCRAM_SHA_256 == SASL_SCRAM_SHA_256 &&
                   (int)AUTH_SCRAM_SHA_256_PLUS == SASL_SCRAM_SHA_256_PLUS,
               "the configuration's set of mechanisms is SASL's");

struct files {
    struct auth_file *users;
    struct auth_senders *senders;
    struct credentials *credentials;
    bool senders_own;
};

struct auth_store {
    uv_mutex_t mutex; /* of files */
    struct files files;
    struct slow_thread *thread;
};

static void files_free(struct files *f)
{
    auth_file_unref(f->users);
    auth_senders_free(f->senders);
    credentials_free(f->credentials);
}

static int files_load(struct files *f, const struct config *c, char *error, size_t error_len)
{
    int rc = 0;

    *f = (struct files){.senders_own = c->smtp.auth.senders_own};
    if (c->smtp.auth.file != NULL)
        rc = auth_file_load(&f->users, c->smtp.auth.file, error, error_len);
    if (rc == 0 && c->smtp.auth.sender_file != NULL)
        rc = auth_senders_load(&f->senders, c->smtp.auth.sender_file, error, error_len);
    if (rc == 0 && c->delivery.credentials != NULL)
        rc = credentials_load(&f->credentials, c->delivery.credentials, error, error_len);
    if (rc != 0)
        files_free(f);
    return rc;
}

int auth_store_check(const struct config *c, char *error, size_t error_len)
{
    struct files files;
    int rc = files_load(&files, c, error, error_len);

    if (rc == 0)
        files_free(&files);
    return rc;
}

int auth_store_open(struct auth_store **out, const struct config *c, char *error, size_t error_len)
{
    struct auth_store *s = mr_calloc(1, sizeof(*s));
    int rc = files_load(&s->files, c, error, error_len);

    if (rc == 0 && (s->files.users != NULL || s->files.credentials != NULL)) {
        rc = slow_thread_open(&s->thread);
        if (rc != 0) {
            files_free(&s->files);
            (void)snprintf(error, error_len, "no thread for password hashes");
        }
    }
    if (rc != 0) {
        free(s);
        return rc;
    }
    mr_assert(uv_mutex_init(&s->mutex) == 0);
    *out = s;
    return 0;
}

int auth_store_reload(struct auth_store *s, const struct config *fresh, char *error, size_t error_len)
{
    struct files files, old;
    int rc = files_load(&files, fresh, error, error_len);

    if (rc == 0 && s->thread == NULL && (files.users != NULL || files.credentials != NULL)) {
        (void)snprintf(error, error_len, "smtp.auth and delivery.credentials are new: they need a restart");
        files_free(&files);
        rc = MR_CONFIG;
    }
    if (rc != 0)
        return rc;
    uv_mutex_lock(&s->mutex);
    old = s->files;
    /* Whether there is a file of users is decided at the start: exchanges count on it. */
    if (files.users == NULL && old.users != NULL) {
        files.users = old.users;
        old.users = NULL;
    }
    s->files = files;
    uv_mutex_unlock(&s->mutex);
    files_free(&old);
    return 0;
}

void auth_store_close(struct auth_store *s)
{
    if (s == NULL)
        return;
    slow_thread_close(s->thread);
    files_free(&s->files);
    uv_mutex_destroy(&s->mutex);
    free(s);
}

struct auth_file *auth_store_file(struct auth_store *s)
{
    struct auth_file *f = NULL;

    uv_mutex_lock(&s->mutex);
    if (s->files.users != NULL)
        f = auth_file_ref(s->files.users);
    uv_mutex_unlock(&s->mutex);
    return f;
}

static bool is_own(const char *user, const char *reverse_path)
{
    char *address;
    bool own;

    if (strcasecmp(user, reverse_path) == 0)
        return true;
    address = auth_sender_ascii(user);
    own = address != NULL && strcasecmp(address, reverse_path) == 0;
    free(address);
    return own;
}

bool auth_sender_allowed(struct auth_store *s, const char *user, const char *reverse_path)
{
    bool allowed;

    if (reverse_path[0] == '\0' || is_own(user, reverse_path))
        return true;
    uv_mutex_lock(&s->mutex);
    allowed =
        !s->files.senders_own || (s->files.senders != NULL && auth_senders_allow(s->files.senders, user, reverse_path));
    uv_mutex_unlock(&s->mutex);
    return allowed;
}

bool auth_store_credential(struct auth_store *s, const char *host, uint16_t port, const char *user,
                           char password[CREDENTIAL_MAX])
{
    const char *found = NULL;

    uv_mutex_lock(&s->mutex);
    if (s->files.credentials != NULL)
        found = credentials_find(s->files.credentials, host, port, user);
    if (found != NULL)
        (void)snprintf(password, CREDENTIAL_MAX, "%s", found);
    uv_mutex_unlock(&s->mutex);
    return found != NULL;
}

struct slow_thread *auth_store_thread(struct auth_store *s)
{
    return s->thread;
}
