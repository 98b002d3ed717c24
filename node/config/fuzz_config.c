/* fuzz_config.c - any file: it is a configuration within its limits, or there is a line of text for each thing that is
 * wrong with it; whether its errors fit their buffer or not. */
#include "node/config/config.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_taken(const struct config *c)
{
    size_t len = mailraft__rules__get_packed_size(c->rules);
    uint8_t *packed = malloc(len > 0 ? len : 1);
    Mailraft__Rules *again;

    mr_assert(c->smtp.max_recipients <= 10000 && c->smtp.hostname != NULL && c->smtp.hostname[0] != '\0');
    mr_assert(c->node.name != NULL && c->node.data_dir != NULL);
    /* What is replicated has to be readable by the others. */
    mr_assert(packed != NULL && mailraft__rules__pack(c->rules, packed) == len);
    again = mailraft__rules__unpack(NULL, len, packed);
    mr_assert(again != NULL);
    mailraft__rules__free_unpacked(again, NULL);
    free(packed);
}

/* Every line names the file; the last may be cut where the buffer ends. */
static void check_problems(const char *error, size_t room, const char *file)
{
    mr_assert(memchr(error, '\0', room) != NULL && error[0] != '\0');
    mr_assert(strncmp(error, file, strlen(file)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char file[64], error[4096];
    /* The first octet says how little room there is for errors; under 64 none are told. */
    size_t room = size > 0 ? 64 + (size_t)data[0] * 8 : sizeof(error);
    int fd = memfd_create("config", MFD_CLOEXEC);
    struct config *c = NULL;
    int status;

    mr_assert(fd >= 0 && write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
    (void)snprintf(file, sizeof(file), "/proc/self/fd/%d", fd);
    status = config_load(&c, file, error, room);
    if (status == 0) {
        check_taken(c);
        config_free(c);
    } else {
        mr_assert(status == MR_CONFIG);
        check_problems(error, room, file);
    }
    (void)close(fd);
    return 0;
}
