#include "client/pki.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_NAME = 60,  /* a common name holds 64 */
    MAX_HOST = 253, /* RFC 1035, section 2.3.4 */
    SERIAL_BYTES = 16,
    CLOCK_SLACK_S = 3600, /* a certificate is valid at once on a machine whose clock is behind */
    MAX_DAYS = 36500,
};

__attribute__((format(printf, 4, 5))) static int fail(char *error, size_t len, int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error, len, format, args);
    va_end(args);
    return rc;
}

static int tls_fail(char *error, size_t len, const char *what)
{
    unsigned long code = ERR_get_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return fail(error, len, MR_TLS, "%s: %s", what, reason != NULL ? reason : "OpenSSL failed");
}

/* ---- files ---- */

static char *path_of(const char *dir, const char *name, const char *ending)
{
    return mr_asprintf("%s/%s.%s", dir, name, ending);
}

static int write_file(const char *path, mode_t mode, BIO *pem, char *error, size_t len)
{
    char *bytes;
    long size = BIO_get_mem_data(pem, &bytes);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return fail(error, len, errno == EEXIST ? MR_EXISTS : MR_IO, "%s: %s", path, strerror(errno));
    ssize_t written = write(fd, bytes, (size_t)size);
    int saved = written < 0 ? errno : ENOSPC;
    bool good = written == size && fchmod(fd, mode) == 0; /* whatever the umask */
    if (good && fsync(fd) != 0) {
        saved = errno;
        good = false;
    }
    close(fd);
    if (good)
        return 0;
    (void)unlink(path);
    return fail(error, len, MR_IO, "%s: %s", path, strerror(saved));
}

static int sync_dir(const char *dir, char *error, size_t len)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? fail(error, len, MR_IO, "%s: %s", dir, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Both or none. */
static int write_pair(const char *dir, const char *name, X509 *cert, EVP_PKEY *key, char *error, size_t len)
{
    char *cert_path = path_of(dir, name, "pem"), *key_path = path_of(dir, name, "key");
    BIO *cert_pem = BIO_new(BIO_s_mem()), *key_pem = BIO_new(BIO_s_secmem());
    int rc;
    if (cert_pem == NULL || key_pem == NULL || PEM_write_bio_X509(cert_pem, cert) != 1 ||
        PEM_write_bio_PKCS8PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL) != 1)
        rc = tls_fail(error, len, "cannot encode");
    else
        rc = write_file(key_path, 0600, key_pem, error, len);
    if (rc == 0) {
        rc = write_file(cert_path, 0644, cert_pem, error, len);
        if (rc == 0 && (rc = sync_dir(dir, error, len)) != 0)
            (void)unlink(cert_path);
        if (rc != 0)
            (void)unlink(key_path);
    }
    BIO_free(cert_pem);
    BIO_free(key_pem);
    free(cert_path);
    free(key_path);
    return rc;
}

/* Told before any work is done; O_EXCL is what guards. */
static int check_absent(const char *dir, const char *name, char *error, size_t len)
{
    static const char *const endings[] = {"pem", "key"};
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        char *path = path_of(dir, name, endings[i]);
        if (access(path, F_OK) == 0)
            rc = fail(error, len, MR_EXISTS, "%s exists already and is not overwritten", path);
        free(path);
    }
    return rc;
}

static FILE *open_pem(const char *dir, const char *ending, char *error, size_t len, int *rc)
{
    char *path = path_of(dir, "ca", ending);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        *rc = fail(error, len, errno == ENOENT ? MR_NOTFOUND : MR_IO, "%s: %s%s", path, strerror(errno),
                   errno == ENOENT ? " (make the authority first: pki init)" : "");
    free(path);
    return file;
}

static int read_ca(const char *dir, X509 **cert, EVP_PKEY **key, char *error, size_t len)
{
    int rc = 0;
    FILE *file = open_pem(dir, "pem", error, len, &rc);
    if (file != NULL) {
        *cert = PEM_read_X509(file, NULL, NULL, NULL);
        (void)fclose(file);
        if (*cert == NULL)
            rc = tls_fail(error, len, "ca.pem");
    }
    file = rc == 0 ? open_pem(dir, "key", error, len, &rc) : NULL;
    if (file != NULL) {
        *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
        (void)fclose(file);
        if (*key == NULL)
            rc = tls_fail(error, len, "ca.key");
    }
    if (rc == 0 && X509_check_private_key(*cert, *key) != 1)
        rc = tls_fail(error, len, "ca.key does not belong to ca.pem");
    return rc;
}

/* ---- certificates ---- */

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool good = extension != NULL && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return good;
}

static bool set_serial(X509 *cert)
{
    uint8_t bytes[SERIAL_BYTES];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return false;
    bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, and of full length: RFC 5280, section 4.1.2.2 */
    BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
    bool good = number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
    BN_free(number);
    return good;
}

/* Not longer than the issuer's own: it would not be accepted then. */
static bool set_validity(X509 *cert, const X509 *issuer, unsigned days)
{
    if (X509_gmtime_adj(X509_getm_notBefore(cert), -CLOCK_SLACK_S) == NULL ||
        X509_time_adj_ex(X509_getm_notAfter(cert), (int)days, 0, NULL) == NULL)
        return false;
    if (issuer != NULL && ASN1_TIME_compare(X509_get0_notAfter(cert), X509_get0_notAfter(issuer)) > 0)
        return X509_set1_notAfter(cert, X509_get0_notAfter(issuer)) == 1;
    return true;
}

/* Everything but extensions and signature. issuer NULL: itself. */
static X509 *new_cert(EVP_PKEY *key, const char *common_name, const char *organization, const X509 *issuer,
                      unsigned days)
{
    X509 *cert = X509_new();
    if (cert == NULL)
        return NULL;
    X509_NAME *subject = X509_get_subject_name(cert);
    if (X509_set_version(cert, X509_VERSION_3) == 1 && set_serial(cert) && set_validity(cert, issuer, days) &&
        (organization == NULL || X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
                                                            (const unsigned char *)organization, -1, -1, 0) == 1) &&
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0) == 1 &&
        X509_set_issuer_name(cert, issuer != NULL ? X509_get_subject_name(issuer) : subject) == 1 &&
        X509_set_pubkey(cert, key) == 1)
        return cert;
    X509_free(cert);
    return NULL;
}

static bool add_name(GENERAL_NAMES *names, const char *text)
{
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(text);
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *dns = NULL;
    if (name == NULL)
        goto err_after_ip;
    if (ip != NULL) {
        GENERAL_NAME_set0_value(name, GEN_IPADD, ip);
    } else {
        dns = ASN1_IA5STRING_new();
        if (dns == NULL || ASN1_STRING_set(dns, text, -1) != 1)
            goto err_after_name;
        GENERAL_NAME_set0_value(name, GEN_DNS, dns);
    }
    if (sk_GENERAL_NAME_push(names, name) > 0)
        return true;
    GENERAL_NAME_free(name);
    return false;

err_after_name:
    ASN1_IA5STRING_free(dns);
    GENERAL_NAME_free(name);
err_after_ip:
    ASN1_OCTET_STRING_free(ip);
    return false;
}

/* Built by hand, not from a configuration string: a name can then never smuggle in another one. */
static bool add_alt_names(X509 *cert, const char *name, const char *const *alt_names, unsigned n)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool good = names != NULL && add_name(names, name);
    for (unsigned i = 0; i < n && good; i++)
        good = strcmp(alt_names[i], name) == 0 || add_name(names, alt_names[i]);
    good = good && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    ERR_clear_error(); /* a2i_IPADDRESS complains of each host name */
    return good;
}

/* ---- names ---- */

static bool is_host(const char *name, size_t max)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);
    return len > 0 && len <= max && strspn(name, allowed) == len && name[0] != '.' && name[0] != '-';
}

static bool is_address(const char *name)
{
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(name);
    bool good = ip != NULL;
    ASN1_OCTET_STRING_free(ip);
    ERR_clear_error();
    return good;
}

static bool is_printable(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if (name[i] < ' ' || name[i] > '~')
            return false;
    return len > 0 && len <= MAX_NAME;
}

/* ---- public ---- */

int pki_init(const char *dir, const char *cluster_name, char *error, size_t error_len)
{
    EVP_PKEY *key = NULL;
    X509 *cert = NULL;
    if (!is_printable(cluster_name))
        return fail(error, error_len, MR_INVAL, "the cluster's name has 1 to %d printable ASCII characters", MAX_NAME);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return fail(error, error_len, MR_IO, "%s: %s", dir, strerror(errno));
    int rc = check_absent(dir, "ca", error, error_len);
    if (rc != 0)
        return rc;
    key = EVP_EC_gen("P-256");
    cert = key != NULL ? new_cert(key, cluster_name, "mailraft", NULL, PKI_CA_DAYS) : NULL;
    if (cert == NULL || !add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(cert, cert, NID_subject_key_identifier, "hash") || X509_sign(cert, key, EVP_sha256()) <= 0)
        rc = tls_fail(error, error_len, "cannot make the authority");
    else
        rc = write_pair(dir, "ca", cert, key, error, error_len);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

static int check_issue(const char *dir, const char *name, const char *const *alt_names, unsigned n, unsigned days,
                       char *error, size_t error_len)
{
    if (!is_host(name, MAX_NAME) || strcmp(name, "ca") == 0)
        return fail(error, error_len, MR_INVAL,
                    "\"%s\" is no node name: letters, digits, '.', '_' and '-', at most %d, and not \"ca\"", name,
                    MAX_NAME);
    if (n > PKI_MAX_ALT_NAMES)
        return fail(error, error_len, MR_INVAL, "at most %d other names", PKI_MAX_ALT_NAMES);
    for (unsigned i = 0; i < n; i++)
        if (!is_address(alt_names[i]) && !is_host(alt_names[i], MAX_HOST))
            return fail(error, error_len, MR_INVAL, "\"%s\" is neither a host name nor an IP address", alt_names[i]);
    if (days == 0 || days > MAX_DAYS)
        return fail(error, error_len, MR_INVAL, "1 to %d days", MAX_DAYS);
    return check_absent(dir, name, error, error_len);
}

int pki_issue(const char *dir, const char *name, const char *const *alt_names, unsigned n, unsigned days, char *error,
              size_t error_len)
{
    X509 *ca = NULL, *cert = NULL;
    EVP_PKEY *ca_key = NULL, *key = NULL;
    int rc = check_issue(dir, name, alt_names, n, days, error, error_len);
    if (rc == 0)
        rc = read_ca(dir, &ca, &ca_key, error, error_len);
    if (rc != 0)
        goto done;
    if (X509_cmp_current_time(X509_get0_notAfter(ca)) <= 0) {
        rc = fail(error, error_len, MR_REFUSED, "the authority's certificate, %s/ca.pem, has expired", dir);
        goto done;
    }
    key = EVP_EC_gen("P-256");
    cert = key != NULL ? new_cert(key, name, NULL, ca, days) : NULL;
    if (cert == NULL || !add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(cert, ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(cert, ca, NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(cert, ca, NID_subject_key_identifier, "hash") ||
        !add_extension(cert, ca, NID_authority_key_identifier, "keyid:always") ||
        !add_alt_names(cert, name, alt_names, n) || X509_sign(cert, ca_key, EVP_sha256()) <= 0)
        rc = tls_fail(error, error_len, "cannot make the certificate");
    else
        rc = write_pair(dir, name, cert, key, error, error_len);

done:
    X509_free(ca);
    X509_free(cert);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(key);
    return rc;
}
