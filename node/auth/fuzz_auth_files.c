/* fuzz_auth_files.c - any octets as a file of users, of senders, of credentials: what is taken can be looked up, what
 * is not is told with a line. */
#include "node/auth/auth_file.h"
#include "node/auth/auth_senders.h"
#include "node/auth/credentials.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void users(const char *text, size_t len, char *error, size_t error_len)
{
    struct auth_lookup found;
    struct auth_file *f;

    if (auth_file_parse(&f, "f", text, len, error, error_len) != 0) {
        mr_assert(strncmp(error, "f:", 2) == 0 && strlen(error) < error_len);
        return;
    }
    auth_file_find(f, "user", &found);
    mr_assert(!found.known || strcmp(found.entry.user, "user") == 0);
    mr_assert(!found.known || found.entry.hash != NULL || found.entry.scram.iterations != 0);
    mr_assert((found.scram.iterations != 0) == auth_file_has_scram(f));
    mr_assert(found.scram.iterations == 0 || (found.scram.iterations >= AUTH_SCRAM_ITERATIONS_MIN &&
                                              found.scram.iterations <= AUTH_SCRAM_ITERATIONS_MAX));
    auth_file_unref(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[256] = "";
    char *text;

    if (size == 0)
        return 0;
    text = mr_memdup(data + 1, size - 1); /* a zero byte behind */
    if (data[0] % 3 == 0) {
        users(text, size - 1, error, sizeof(error));
    } else if (data[0] % 3 == 1) {
        struct auth_senders *s;

        if (auth_senders_parse(&s, "f", text, size - 1, error, sizeof(error)) == 0) {
            (void)auth_senders_allow(s, "user", "user@example.net");
            auth_senders_free(s);
        }
    } else {
        struct credentials *c;

        if (credentials_parse(&c, "f", text, size - 1, error, sizeof(error)) == 0) {
            const char *password = credentials_find(c, "host", 25, "user");

            mr_assert(password == NULL || (password[0] != '\0' && strlen(password) < CREDENTIAL_MAX));
            credentials_free(c);
        }
    }
    free(text);
    return 0;
}
