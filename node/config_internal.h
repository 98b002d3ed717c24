/* config_internal.h - the sections of the configuration, each read by its own file-local readers. */
#ifndef MR_NODE_CONFIG_INTERNAL_H
#define MR_NODE_CONFIG_INTERNAL_H

#include "node/config.h"
#include "node/config_yaml.h"

/* config_rules.c: what is replicated. target: struct config *. */
void config_rules_init(struct config *c);
void config_read_domains(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_routes(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_retry(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_limits(struct yaml_reader *r, yaml_node_t *node, void *target);
/* After everything was read: defaults that are missing. */
void config_rules_finish(struct config *c);

/* config_net.c */
/* "host:port", "[v6]:port"; false: not of that form. port 0 is allowed when any_port. */
bool config_address_ok(const char *text, bool any_port);
bool config_address_is_loopback(const char *text);
/* "10.0.0.0/8", "::1/128", "192.0.2.1". */
bool config_parse_network(const char *text, struct network *out);

#endif
