/* config_internal.h - the sections of the configuration, each read by its own file-local readers. */
#ifndef MR_CONFIG_CONFIG_INTERNAL_H
#define MR_CONFIG_CONFIG_INTERNAL_H

#include "node/config/config.h"
#include "node/config/config_text.h"
#include "node/config/config_yaml.h"

/* config_rules.c: what is replicated. target: struct config *. */
void config_rules_init(struct config *c);
void config_read_domains(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_routes(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_retry(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_limits(struct yaml_reader *r, yaml_node_t *node, void *target);
/* After everything was read: defaults that are missing. */
void config_rules_finish(struct config *c);

/* config_smtp.c, config_delivery.c. finish: defaults that hang on other keys, and what has to fit together; only when
 * everything could be read. */
void config_smtp_init(struct config *c);
void config_read_smtp(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_smtp_finish(struct yaml_reader *r, yaml_node_t *root, struct config *c);
void config_smtp_free(struct config *c);

void config_delivery_init(struct config *c);
void config_read_delivery(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_read_dns(struct yaml_reader *r, yaml_node_t *node, void *target);
void config_delivery_finish(struct yaml_reader *r, yaml_node_t *root, struct config *c);
void config_delivery_free(struct config *c);

/* char **: "host:port", port 0 allowed. */
void config_read_address(struct yaml_reader *r, yaml_node_t *node, void *target);
/* double *, a second: "500/s", "30/m", "1000/h", "unlimited" (0). */
void config_read_rate(struct yaml_reader *r, yaml_node_t *node, void *target);
/* uint32_t *: "unlimited" (0) or 1 to 1000000. */
void config_read_count(struct yaml_reader *r, yaml_node_t *node, void *target);
/* struct network_list *. */
void config_read_networks(struct yaml_reader *r, yaml_node_t *node, void *target);
/* Rules.user_limits: one user's ("default": all others'). */
void config_add_user_limit(struct config *c, const char *user, uint32_t recipients_per_hour);
void config_read_tls_rules(struct yaml_reader *r, yaml_node_t *node, void *target);

/* config_net.c */
/* "host:port", "[v6]:port"; false: not of that form. port 0 is allowed when any_port. */
bool config_address_ok(const char *text, bool any_port);
bool config_address_is_loopback(const char *text);
/* "10.0.0.0/8", "::1/128", "192.0.2.1". */
bool config_parse_network(const char *text, struct network *out);

#endif
