/* test_smtp_clients.h - the harness with what it has not: a table of clients, and a proxy that is trusted. */
#ifndef MR_SERVER_TEST_SMTP_CLIENTS_H
#define MR_SERVER_TEST_SMTP_CLIENTS_H

#include "node/server/client_table.h"
#include "node/server/test_smtp_harness.h"

static inline void limit_clients(struct client_limits limits)
{
    client_table_open(&host.worker.clients, &limits);
}

static inline void stop(void)
{
    host_stop();
    if (host.worker.clients != NULL)
        client_table_close(host.worker.clients);
    host.worker.clients = NULL;
}

static inline unsigned long long counted(atomic_ullong *counter)
{
    return atomic_load(counter);
}

static inline unsigned sessions_open(void)
{
    return (unsigned)atomic_load(&host.counters.sessions_open);
}

static struct network elsewhere[] = {{AF_INET, {192, 0, 2}, 24}};

static inline void behind_proxy(void)
{
    host_configure();
    host.listener.proxy = true;
    host.config.smtp.proxy_from = (struct network_list){loopback, 2};
    host.config.smtp.relay_from = (struct network_list){elsewhere, 1};
}

#endif
