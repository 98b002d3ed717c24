/* dns_query.h - one question to the resolving server, by c-ares, that asks to be told whether the answer was validated.
 *
 * ares_query cannot set the AD bit in a question, without which a server need not set it in the answer (RFC 6840 5.7).
 * Thread: the channel's. */
#ifndef MR_DNS_DNS_QUERY_H
#define MR_DNS_DNS_QUERY_H

#include <ares.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* status: ARES_SUCCESS, ARES_ENOTFOUND (no such name), ARES_ENODATA (no record at all in the answer), or what went
 * wrong. ad: the answer's bit, for both kinds of "none" too. answer: valid during the call, only with ARES_SUCCESS. */
typedef void (*dns_query_cb)(void *arg, int status, bool ad, const uint8_t *answer, size_t len);

/* cb comes once, perhaps before the call returns. */
void dns_query(ares_channel channel, const char *name, int type, dns_query_cb cb, void *arg);

#endif
