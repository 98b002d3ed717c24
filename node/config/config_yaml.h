/* config_yaml.h - walking a YAML document against a schema of ours, with an error for everything that does not fit.
 *
 * The document comes from libyaml with the line of every node. A walker takes a mapping, hands each known key's value
 * to its reader and reports unknown and repeated keys. Errors gather, one a line: "FILE:LINE: KEY: what is wrong".
 * Thread: any; no global state. */
#ifndef MR_CONFIG_CONFIG_YAML_H
#define MR_CONFIG_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yaml.h>

struct yaml_reader {
    yaml_document_t *document;
    const char *file;
    char *error; /* the caller's buffer */
    size_t error_len;
    size_t error_used;
    unsigned errors;
    char path[256]; /* key that is being read, dotted */
};

typedef void (*yaml_read_fn)(struct yaml_reader *r, yaml_node_t *value, void *target);
struct yaml_key {
    const char *name;
    yaml_read_fn read;
    void *target;
};

/* Reports a problem with a node (NULL: of the file as a whole). */
__attribute__((format(printf, 3, 4))) void yaml_problem(struct yaml_reader *r, const yaml_node_t *at,
                                                        const char *format, ...);
/* Reads a mapping with fixed keys; keys ends with a NULL name. */
void yaml_read_mapping(struct yaml_reader *r, yaml_node_t *node, const struct yaml_key *keys);
/* Calls read for each pair of a mapping with free keys, in order; key is the text of the key. */
void yaml_each_pair(struct yaml_reader *r, yaml_node_t *node,
                    void (*read)(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg), void *arg);
/* Calls read for each item of a sequence. */
void yaml_each_item(struct yaml_reader *r, yaml_node_t *node, yaml_read_fn read, void *arg);

/* A scalar's text, or NULL after a problem was reported. */
const char *yaml_text(struct yaml_reader *r, yaml_node_t *node);
/* Readers of scalars; target as named. */
void yaml_read_string(struct yaml_reader *r, yaml_node_t *node, void *target);   /* char **: replaced by a new copy */
void yaml_read_bool(struct yaml_reader *r, yaml_node_t *node, void *target);     /* bool * */
void yaml_read_unsigned(struct yaml_reader *r, yaml_node_t *node, void *target); /* unsigned *; 1 and up */
void yaml_read_port(struct yaml_reader *r, yaml_node_t *node, void *target);     /* uint16_t * */
void yaml_read_ms(struct yaml_reader *r, yaml_node_t *node,
                  void *target); /* unsigned *: "100ms", "3s", "5m", "4h", "5d" */
void yaml_read_ms64(struct yaml_reader *r, yaml_node_t *node, void *target); /* uint64_t *: the same */
void yaml_read_size(struct yaml_reader *r, yaml_node_t *node, void *target); /* uint64_t *: "50MiB", "10KiB", "1000" */

#endif
