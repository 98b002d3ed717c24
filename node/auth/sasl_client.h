/* sasl_client.h - logging in at a smarthost: one SASL exchange as a client (GNU SASL).
 *
 * C1: a password is shown only over TLS to a server that is trusted with it; SCRAM otherwise.
 * C2: SCRAM counts as done only when the server has proved that it knows the user's secrets, too.
 * Thread: one at a time. sasl_client_step may take long (a server chooses how often SCRAM hashes): not on a loop. */
#ifndef MR_AUTH_SASL_CLIENT_H
#define MR_AUTH_SASL_CLIENT_H

#include "node/auth/sasl.h"
#include "node/tls/tls.h"

#include <stdbool.h>

enum { SASL_CLIENT_LINE = 4096 }; /* octets of a line to send, zero byte included */

struct sasl_client;

/* The best of what is offered: SCRAM with channel binding, SCRAM, PLAIN, LOGIN. tls NULL: plain text. trusted: whoever
 * it is may see the password. 0: none may be used. */
unsigned sasl_client_choose(unsigned offered, const struct tls *tls, bool trusted);
/* NULL: the mechanism cannot be begun. Strings are copied. */
struct sasl_client *sasl_client_open(unsigned mechanism, const char *user, const char *password, const struct tls *tls);
/* NULL is allowed. */
void sasl_client_close(struct sasl_client *c);
/* challenge: the server's base64; NULL before its first. 0: line is what to send (base64; "=" for nothing before the
 * first challenge). MR_MALFORMED: no message of the mechanism. MR_REFUSED: what the server asks or proves will not do.
 */
int sasl_client_step(struct sasl_client *c, const char *challenge, char line[SASL_CLIENT_LINE]);
/* Nothing is missing but the server's word. */
bool sasl_client_done(const struct sasl_client *c);
/* The next step computes for milliseconds or more. */
bool sasl_client_slow(const struct sasl_client *c);

#endif
