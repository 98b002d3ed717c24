/* Clauses are parsed into a table; a roll walks it. */
#include "client/sink_fault.h"

#include "client/options.h"
#include "proto/base/error.h"

#include <string.h>

static const char *const verb_names[FAULT_VERBS] = {"connect", "ehlo", "mail", "rcpt", "data", "body", "dot", "quit"};

static const struct {
    const char *name;
    enum fault_kind kind;
    bool value;    /* takes =VALUE */
    bool dot_only; /* means something only once a message is whole */
} kinds[] = {
    {"stall", FAULT_STALL, true, false},
    {"refuse", FAULT_REFUSE, true, false},
    {"drop", FAULT_DROP, false, false},
    {"lie", FAULT_LIE, false, true},
    {"accept-drop", FAULT_ACCEPT_DROP, false, true},
};

static int parse_rate(char *text, double *out)
{
    size_t len = strlen(text);

    if (len > 0 && text[len - 1] == '%') {
        text[len - 1] = '\0';
        if (options_real(text, 0, 100, out) != 0)
            return MR_INVAL;
        *out /= 100;
        return 0;
    }
    return options_real(text, 0, 1, out);
}

static int parse_value(struct fault_clause *clause, const char *value)
{
    double number = 0;

    if (clause->kind == FAULT_STALL) {
        if (options_real(value, 0, FAULT_STALL_MAX_S, &number) != 0)
            return MR_INVAL;
        clause->stall_ms = (uint64_t)(number * 1000);
        return 0;
    }
    if (strlen(value) != 3 || options_real(value, 400, 599, &number) != 0)
        return MR_INVAL;
    clause->code = (unsigned)number;
    return 0;
}

static int find_verb(const char *name, enum fault_verb *out)
{
    for (int i = 0; i < FAULT_VERBS; i++) {
        if (strcmp(name, verb_names[i]) == 0) {
            *out = (enum fault_verb)i;
            return 0;
        }
    }
    return MR_INVAL;
}

/* KIND[@VERB][=VALUE][:RATE]; text is cut up. */
static int parse_clause(char *text, struct fault_clause *out)
{
    char *rate = strchr(text, ':');
    char *value = strchr(text, '=');
    char *verb = strchr(text, '@');

    *out = (struct fault_clause){.rate = 1, .verb = FAULT_AT_DOT};
    if (rate != NULL)
        *rate++ = '\0';
    if (value != NULL)
        *value++ = '\0';
    if (verb != NULL)
        *verb++ = '\0';
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(text, kinds[i].name) != 0)
            continue;
        out->kind = kinds[i].kind;
        if (kinds[i].value != (value != NULL) || (verb == NULL && !kinds[i].dot_only))
            return MR_INVAL;
        if (verb != NULL && find_verb(verb, &out->verb) != 0)
            return MR_INVAL;
        if (kinds[i].dot_only && out->verb != FAULT_AT_DOT)
            return MR_INVAL;
        if (out->kind == FAULT_REFUSE && out->verb == FAULT_AT_BODY)
            return MR_INVAL; /* nothing can be answered in the middle of a message */
        if (value != NULL && parse_value(out, value) != 0)
            return MR_INVAL;
        return rate != NULL ? parse_rate(rate, &out->rate) : 0;
    }
    return MR_INVAL;
}

int fault_parse(const char *spec, uint64_t default_seed, struct fault_set *out, const char **wrong, size_t *wrong_len)
{
    memset(out, 0, sizeof(*out));
    out->seed = default_seed;
    while (spec != NULL) {
        const char *comma = strchr(spec, ',');
        size_t len = comma != NULL ? (size_t)(comma - spec) : strlen(spec);
        char text[128];
        int rc = MR_INVAL;
        *wrong = spec;
        *wrong_len = len;
        if (len > 0 && len < sizeof(text) && memchr(spec, '\n', len) == NULL) {
            memcpy(text, spec, len);
            text[len] = '\0';
            if (strncmp(text, "seed=", 5) == 0)
                rc = options_number(text + 5, 0, UINT64_MAX, &out->seed);
            else if (out->count < FAULT_CLAUSES_MAX)
                rc = parse_clause(text, &out->clauses[out->count++]);
        }
        if (rc != 0)
            return rc;
        spec = comma != NULL ? comma + 1 : NULL;
    }
    out->rng = rng_seeded(out->seed, 0);
    return 0;
}

static struct fault_hit roll(struct fault_set *set, enum fault_verb verb, bool refusals, bool others)
{
    struct fault_hit hit = {.kind = FAULT_NONE};

    for (size_t i = 0; i < set->count; i++) {
        const struct fault_clause *clause = &set->clauses[i];
        if (clause->verb != verb || !(clause->kind == FAULT_REFUSE ? refusals : others))
            continue;
        if (rng_unit(&set->rng) >= clause->rate)
            continue;
        if (clause->kind == FAULT_STALL) {
            hit.stall_ms += clause->stall_ms;
        } else if (hit.kind == FAULT_NONE) {
            hit.kind = clause->kind;
            hit.code = clause->code;
        }
    }
    return hit;
}

struct fault_hit fault_roll(struct fault_set *set, enum fault_verb verb)
{
    return roll(set, verb, true, true);
}

struct fault_hit fault_roll_refusals(struct fault_set *set, enum fault_verb verb)
{
    return roll(set, verb, true, false);
}

struct fault_hit fault_roll_others(struct fault_set *set, enum fault_verb verb)
{
    return roll(set, verb, false, true);
}
