/* fuzz_sts_policy.c - any text as a TXT record and as a policy: nothing outside it is read, and what is taken is whole.
 */
#include "node/delivery/sts_policy.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char id[STS_MAX_ID + 1];
    struct sts_policy *policy;
    char *text = mr_malloc(size + 1);

    if (size > 0)
        memcpy(text, data, size);
    text[size] = 0;
    int rc = sts_read_record(text, id);
    mr_assert(rc == MR_NOTFOUND || rc == MR_MALFORMED || (rc == 0 && id[0] != 0 && strlen(id) <= STS_MAX_ID));
    rc = sts_read_policy((const char *)data, size, &policy);
    mr_assert(rc == 0 || rc == MR_MALFORMED);
    if (rc == 0) {
        mr_assert(policy->n <= STS_MAX_MX && policy->max_age_s <= STS_MAX_AGE_S);
        mr_assert(policy->n > 0 || policy->mode == STS_NONE);
        for (unsigned i = 0; i < policy->n; i++)
            mr_assert(policy->mx[i][0] == '*' || sts_matches(policy, policy->mx[i]));
        (void)sts_matches(policy, text);
        sts_unref(policy);
    }
    free(text);
    return 0;
}
