/* tls_expiry.h - when certificates end, for the log: those of the links and those that SMTP shows.
 *
 * Days are whole ones by the wall clock; below 0: it has ended. Thread: any. */
#ifndef MR_CLUSTER_TLS_EXPIRY_H
#define MR_CLUSTER_TLS_EXPIRY_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

enum { TLS_EXPIRY_WARNING_DAYS = 14 };

int64_t tls_expiry_days_left(const X509 *cert);
/* Event tls_certificate, and tls_certificate_expires (a warning) for one that ends within TLS_EXPIRY_WARNING_DAYS;
 * only_warnings: nothing of others. key: where the configuration names the file; names: whom it is for. */
void tls_expiry_log(const X509 *cert, const char *key, const char *file, const char *names, bool only_warnings);

#endif
