#include "cluster/tls_expiry.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"

/* Unix seconds; 0: not to be read. */
static int64_t unix_time(const ASN1_TIME *time)
{
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days = 0, seconds = 0;
    bool known = epoch != NULL && ASN1_TIME_diff(&days, &seconds, epoch, time) == 1;

    ASN1_TIME_free(epoch);
    return known ? (int64_t)days * 86400 + seconds : 0;
}

int64_t tls_expiry_days_left(const X509 *cert)
{
    int64_t seconds = unix_time(X509_get0_notAfter(cert)) - (int64_t)(mr_wall_ms(&mr_clock_real) / 1000);

    return seconds >= 0 ? seconds / 86400 : -1 - (-seconds - 1) / 86400;
}

void tls_expiry_log(const X509 *cert, const char *key, const char *file, const char *names, bool only_warnings)
{
    int64_t days = tls_expiry_days_left(cert);
    bool soon = days < TLS_EXPIRY_WARNING_DAYS;
    char ends[MR_RFC3339_SIZE];

    if (only_warnings && !soon)
        return;
    (void)mr_rfc3339((uint64_t)unix_time(X509_get0_notAfter(cert)) * 1000, ends);
    log_event(LOG_INFO, "tls_certificate", LOG_S("key", key), LOG_S("file", file), LOG_S("names", names),
              LOG_S("not_after", ends), LOG_N("days_left", days));
    if (soon)
        log_event(LOG_WARN, "tls_certificate_expires", LOG_S("key", key), LOG_S("file", file), LOG_S("names", names),
                  LOG_S("not_after", ends), LOG_N("days_left", days));
}
