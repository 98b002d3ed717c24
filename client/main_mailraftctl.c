/* mailraftctl: asks a node about its cluster, makes certificates, shows the whole at work. Exit status: 0 done,
 * 1 refused or not found, 2 usage, 3 no quorum or unreachable. */
#include "client/ctl_ask.h"
#include "client/ctl_demo.h"
#include "client/ctl_password.h"
#include "client/pki.h"
#include "proto/base/error.h"

#include <locale.h>
#include <stdio.h>

enum { ERROR_MAX = 1024 };

static int pki(const struct ctl_options *o)
{
    char error[ERROR_MAX] = "";
    const char *dir = o->arguments[0];
    int rc;

    if (o->command == CTL_PKI_INIT) {
        rc = pki_init(dir, o->pki_name, error, sizeof(error));
        if (rc == 0)
            (void)printf("%s/ca.pem\n%s/ca.key\n", dir, dir);
    } else {
        const char *name = o->arguments[1];
        rc = pki_issue(dir, name, (const char *const *)(o->arguments + 2), o->n_arguments - 2, (unsigned)o->pki_days,
                       error, sizeof(error));
        if (rc == 0)
            (void)printf("%s/%s.pem\n%s/%s.key\n", dir, name, dir, name);
    }
    if (rc != 0)
        (void)fprintf(stderr, "mailraftctl: %s\n", error);
    return rc == 0 ? CTL_DONE : rc == MR_INVAL ? CTL_USAGE : CTL_REFUSED;
}

int main(int argc, char **argv)
{
    struct ctl_options options;

    /* Widths of characters only: numbers keep their point. */
    (void)setlocale(LC_CTYPE, "");
    int rc = ctl_options_parse(argc, argv, &options);
    if (rc != 0)
        return rc == MR_CLOSED ? CTL_DONE : CTL_USAGE;
    switch (options.command) {
    case CTL_PKI_INIT:
    case CTL_PKI_ISSUE:
        return pki(&options);
    case CTL_PASSWORD:
        return ctl_password(options.arguments[0]);
    case CTL_DEMO:
        return ctl_demo(&options.demo, options.json);
    default:
        return ctl_ask(&options);
    }
}
