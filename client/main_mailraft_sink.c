/* mailraft-sink: a next hop for tests; see sink_server.h. Exit status: 0 ended by a signal, 1 could not start, 2 usage.
 */
#include "client/sink_server.h"
#include "proto/base/error.h"

int main(int argc, char **argv)
{
    struct sink_options options;
    int rc = sink_options_parse(argc, argv, &options);

    if (rc == MR_CLOSED)
        return 0;
    if (rc != 0)
        return 2;
    return sink_server_run(&options) == 0 ? 0 : 1;
}
