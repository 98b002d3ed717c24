/* sts_policy.h - reads what a domain publishes for MTA-STS (RFC 8461): its TXT record and its policy. Pure.
 *
 * Q1: what is malformed counts as not published, never as half a policy. Q2: a policy is immutable once it is read or
 * made, and counted by reference. Thread: reading in any; references are counted for one thread. */
#ifndef MR_DELIVERY_STS_POLICY_H
#define MR_DELIVERY_STS_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STS_MAX_ID = 32,            /* letters and digits (RFC 8461 3.1) */
    STS_MAX_POLICY = 64 * 1024, /* bytes (3.3) */
    STS_MAX_MX = 64,            /* patterns; a policy with more is malformed */
    STS_MAX_AGE_S = 31557600,   /* a year; more is taken as this (3.2) */
};
enum sts_mode { STS_NONE = 1, STS_TESTING, STS_ENFORCE }; /* numbers of StsPolicy.mode */

struct sts_policy {
    unsigned references;
    char id[STS_MAX_ID + 1]; /* of the TXT record that it was fetched for */
    enum sts_mode mode;
    uint32_t max_age_s;
    unsigned n;
    char *mx[STS_MAX_MX]; /* "host", or "*.domain" for hosts one label below; lower case */
};

/* Id of a TXT record's text. MR_NOTFOUND: it is not about STS at all. MR_MALFORMED. */
int sts_read_record(const char *text, char id[STS_MAX_ID + 1]);
/* MR_MALFORMED. The result has one reference and an empty id. */
int sts_read_policy(const char *text, size_t len, struct sts_policy **out);
/* Of patterns that were read before; those that are too many are left out. */
struct sts_policy *sts_make_policy(const char *id, enum sts_mode mode, uint32_t max_age_s, const char *const *mx,
                                   unsigned n);
struct sts_policy *sts_ref(struct sts_policy *policy);
void sts_unref(struct sts_policy *policy); /* NULL is allowed */
/* Does the policy name this MX host (any case; 4.1)? */
bool sts_matches(const struct sts_policy *policy, const char *host);

#endif
