/* fuzz_dovecot_line.c - any line of an auth process: what is read lies inside it, without what could end a line of
 * ours. */
#include "node/auth/dovecot_line.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const char *text, const char *line, size_t len)
{
    mr_assert(text == NULL || text[0] == '\0' || (text >= line && text + strlen(text) <= line + len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dovecot_line out;
    char *line = mr_memdup(data, size);
    int rc = dovecot_line_parse(line, size, &out);

    mr_assert(rc == 0 || rc == MR_MALFORMED);
    if (rc == 0) {
        inside(out.text, line, size);
        inside(out.user, line, size);
        mr_assert(out.command != DOVECOT_MECH || out.text != NULL);
        mr_assert(out.command != DOVECOT_CONT || (out.text != NULL && strchr(out.text, '\t') == NULL));
    }
    free(line);
    return 0;
}
