/* mailraft-load: sends messages that can be told apart and checked, or verifies what became of them. Exit status: 0
 * good, 1 something was not accepted (or lost), 2 usage. */
#include "client/load_run.h"
#include "client/load_verify_cli.h"
#include "client/load_wait.h"
#include "proto/base/error.h"

#include <string.h>

int main(int argc, char **argv)
{
    struct load_options options;

    if (argc > 1 && strcmp(argv[1], "verify") == 0)
        return load_verify_main(argc - 1, argv + 1);
    int rc = load_options_parse(argc, argv, &options);
    if (rc == MR_CLOSED)
        return 0;
    if (rc != 0)
        return 2;
    if (load_wait(&options) != 0)
        return 1;
    return load_run(&options);
}
