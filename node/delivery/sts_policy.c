#include "node/delivery/sts_policy.h"

#include "proto/base/ascii.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- the record ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static const char *skip_space(const char *p)
{
    while (is_space(*p))
        p++;
    return p;
}

static int read_id(const char *value, size_t len, char id[STS_MAX_ID + 1])
{
    if (len == 0 || len > STS_MAX_ID || id[0] != 0) /* given twice */
        return MR_MALFORMED;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)value[i]))
            return MR_MALFORMED;
    memcpy(id, value, len);
    id[len] = 0;
    return 0;
}

int sts_read_record(const char *text, char id[STS_MAX_ID + 1])
{
    static const char version[] = "v=STSv1";
    const char *p = text + sizeof(version) - 1;

    id[0] = 0;
    if (strncmp(text, version, sizeof(version) - 1) != 0)
        return MR_NOTFOUND;
    p = skip_space(p);
    if (*p != ';')
        return MR_NOTFOUND; /* "v=STSv10" */
    while (*p == ';') {
        p = skip_space(p + 1);
        size_t name = strcspn(p, "=; \t"), end = strcspn(p, ";");
        size_t len = end;
        while (len > 0 && is_space(p[len - 1]))
            len--;
        if (len > 0 && (name == 0 || p[name] != '='))
            return MR_MALFORMED;
        if (name == 2 && memcmp(p, "id", 2) == 0 && read_id(p + 3, len - 3, id) != 0)
            return MR_MALFORMED;
        p += end;
    }
    return id[0] == 0 ? MR_MALFORMED : 0;
}

/* ---- the policy ---- */

static struct sts_policy *new_policy(void)
{
    struct sts_policy *policy = mr_calloc(1, sizeof(*policy));
    policy->references = 1;
    return policy;
}

struct sts_policy *sts_ref(struct sts_policy *policy)
{
    policy->references++;
    return policy;
}

void sts_unref(struct sts_policy *policy)
{
    if (policy == NULL || --policy->references > 0)
        return;
    for (unsigned i = 0; i < policy->n; i++)
        free(policy->mx[i]);
    free(policy);
}

struct slice {
    const char *at;
    size_t len;
};

static bool is(struct slice s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.at, word, s.len) == 0;
}

static struct slice trim(struct slice s)
{
    while (s.len > 0 && is_space(s.at[0]))
        s = (struct slice){s.at + 1, s.len - 1};
    while (s.len > 0 && is_space(s.at[s.len - 1]))
        s.len--;
    return s;
}

/* A host name, or "*." before one; letters, digits, hyphens, dots. */
static bool is_pattern(struct slice s)
{
    if (s.len > 2 && s.at[0] == '*' && s.at[1] == '.')
        s = (struct slice){s.at + 2, s.len - 2};
    if (s.len == 0 || s.len > 253 || s.at[0] == '.' || s.at[s.len - 1] == '.')
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!isalnum((unsigned char)s.at[i]) && s.at[i] != '-' && s.at[i] != '_' &&
            (s.at[i] != '.' || s.at[i - 1] == '.'))
            return false;
    return true;
}

static int add_mx(struct sts_policy *policy, struct slice value)
{
    if (policy->n == STS_MAX_MX || !is_pattern(value))
        return MR_MALFORMED;
    char *mx = mr_malloc(value.len + 1);
    for (size_t i = 0; i < value.len; i++)
        mx[i] = ascii_lower(value.at[i]);
    mx[value.len] = 0;
    policy->mx[policy->n++] = mx;
    return 0;
}

static int read_max_age(struct slice value, uint32_t *out)
{
    uint64_t n = 0;
    if (value.len == 0 || value.len > 10)
        return MR_MALFORMED;
    for (size_t i = 0; i < value.len; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return MR_MALFORMED;
        n = n * 10 + (uint64_t)(value.at[i] - '0');
    }
    *out = n > STS_MAX_AGE_S ? STS_MAX_AGE_S : (uint32_t)n;
    return 0;
}

/* Which fields were seen: of those but mx the first one counts (3.2). */
struct seen {
    bool version, mode, max_age;
};

static int read_field(struct sts_policy *policy, struct slice name, struct slice value, struct seen *seen)
{
    if (is(name, "version") && !seen->version) {
        seen->version = true;
        return is(value, "STSv1") ? 0 : MR_MALFORMED;
    }
    if (is(name, "mode") && !seen->mode) {
        seen->mode = true;
        policy->mode = is(value, "enforce")   ? STS_ENFORCE
                       : is(value, "testing") ? STS_TESTING
                       : is(value, "none")    ? STS_NONE
                                              : (enum sts_mode)0;
        return policy->mode == 0 ? MR_MALFORMED : 0;
    }
    if (is(name, "max_age") && !seen->max_age) {
        seen->max_age = true;
        return read_max_age(value, &policy->max_age_s);
    }
    return is(name, "mx") ? add_mx(policy, value) : 0; /* others are for versions to come */
}

static int read_lines(struct sts_policy *policy, const char *text, size_t len, struct seen *seen)
{
    while (len > 0) {
        const char *end = memchr(text, '\n', len);
        size_t line = end == NULL ? len : (size_t)(end - text);
        size_t used = end == NULL ? len : line + 1;
        if (line > 0 && text[line - 1] == '\r')
            line--;
        const char *colon = memchr(text, ':', line);
        struct slice whole = trim((struct slice){text, line});
        if (colon != NULL) {
            size_t name = (size_t)(colon - text);
            int rc = read_field(policy, trim((struct slice){text, name}),
                                trim((struct slice){colon + 1, line - name - 1}), seen);
            if (rc != 0)
                return rc;
        } else if (whole.len > 0) {
            return MR_MALFORMED;
        }
        text += used;
        len -= used;
    }
    return 0;
}

int sts_read_policy(const char *text, size_t len, struct sts_policy **out)
{
    struct seen seen = {0};
    struct sts_policy *policy;

    if (len > STS_MAX_POLICY)
        return MR_MALFORMED;
    policy = new_policy();
    int rc = read_lines(policy, text, len, &seen);
    if (rc == 0 && (!seen.version || !seen.mode || !seen.max_age || (policy->n == 0 && policy->mode != STS_NONE)))
        rc = MR_MALFORMED;
    if (rc != 0) {
        sts_unref(policy);
        return rc;
    }
    *out = policy;
    return 0;
}

struct sts_policy *sts_make_policy(const char *id, enum sts_mode mode, uint32_t max_age_s, const char *const *mx,
                                   unsigned n)
{
    struct sts_policy *policy = new_policy();
    size_t len = strnlen(id, STS_MAX_ID);
    memcpy(policy->id, id, len);
    policy->mode = mode;
    policy->max_age_s = max_age_s;
    for (unsigned i = 0; i < n && i < STS_MAX_MX; i++)
        (void)add_mx(policy, (struct slice){mx[i], strlen(mx[i])});
    return policy;
}

bool sts_matches(const struct sts_policy *policy, const char *host)
{
    const char *dot = strchr(host, '.');
    for (unsigned i = 0; i < policy->n; i++) {
        const char *mx = policy->mx[i];
        if (mx[0] == '*' ? dot != NULL && dot != host && strcasecmp(mx + 1, dot) == 0 : strcasecmp(mx, host) == 0)
            return true;
    }
    return false;
}
