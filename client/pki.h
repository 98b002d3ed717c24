/* pki.h - a small certificate authority for the links between nodes: `mailraftctl pki init` and `pki issue`.
 *
 * P1: keys are written with mode 0600 and never leave the directory; nothing that exists is ever overwritten.
 * P2: a node's certificate names the node (SAN DNS and CN: that is what links compare) and its other names and
 *     addresses; it is good for both ends of a connection and for nothing else.
 * P3: files are complete and fsynced when a function returns 0; after a failure none of its files is left.
 * Keys are EC P-256, signatures ECDSA with SHA-256.
 * Thread: any; nothing is shared. */
#ifndef MR_CLIENT_PKI_H
#define MR_CLIENT_PKI_H

#include <stddef.h>

enum {
    PKI_CA_DAYS = 3650,
    PKI_NODE_DAYS = 825, /* a good default for pki_issue */
    PKI_MAX_ALT_NAMES = 64,
};

/* DIR/ca.pem and DIR/ca.key; the directory is made if needed. MR_EXISTS: one of them is there. MR_INVAL: the name is
 * empty, longer than 60 bytes or not printable ASCII. MR_IO, MR_TLS. The text says what. */
int pki_init(const char *dir, const char *cluster_name, char *error, size_t error_len);
/* DIR/NAME.pem and DIR/NAME.key, signed by DIR/ca.key. name: the node's (letters, digits, '.', '_', '-', at most 60,
 * not "ca"). alt_names: host names and IP addresses. The certificate does not outlive the CA's. MR_EXISTS, MR_INVAL,
 * MR_NOTFOUND (no CA in dir), MR_IO, MR_TLS. */
int pki_issue(const char *dir, const char *name, const char *const *alt_names, unsigned n, unsigned days, char *error,
              size_t error_len);

#endif
