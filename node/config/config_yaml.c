#include "node/config/config_yaml.h"

#include "node/config/config_text.h"
#include "proto/base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void yaml_problem(struct yaml_reader *r, const yaml_node_t *at, const char *format, ...)
{
    size_t left = r->error_len - r->error_used;
    char *out = r->error + r->error_used;
    va_list args;

    r->errors++;
    if (left < 64)
        return; /* the first ones are told */
    size_t line = at == NULL ? 1 : at->start_mark.line + 1;
    int n = snprintf(out, left, "%s%s:%zu: %s%s", r->error_used > 0 ? "\n" : "", r->file, line, r->path,
                     r->path[0] != 0 ? ": " : "");
    if (n < 0 || (size_t)n >= left)
        return;
    va_start(args, format);
    int m = vsnprintf(out + n, left - (size_t)n, format, args);
    va_end(args);
    size_t used = (size_t)n + (m > 0 ? (size_t)m : 0);
    r->error_used += used < left ? used : left - 1;
}

/* Appends .key to the path for as long as its value is read; returns the old length. */
static size_t enter(struct yaml_reader *r, const char *key)
{
    size_t old = strlen(r->path);
    (void)snprintf(r->path + old, sizeof(r->path) - old, "%s%s", old > 0 ? "." : "", key);
    return old;
}

static yaml_node_t *node_of(struct yaml_reader *r, int index)
{
    return yaml_document_get_node(r->document, index);
}

static bool repeated(struct yaml_reader *r, yaml_node_t *node, yaml_node_pair_t *pair)
{
    const yaml_node_t *key = node_of(r, pair->key);
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *other = node_of(r, p->key);
        if (other->type == YAML_SCALAR_NODE && key->data.scalar.length == other->data.scalar.length &&
            memcmp(key->data.scalar.value, other->data.scalar.value, key->data.scalar.length) == 0)
            return true;
    }
    return false;
}

void yaml_each_pair(struct yaml_reader *r, yaml_node_t *node,
                    void (*read)(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg), void *arg)
{
    if (node->type != YAML_MAPPING_NODE) {
        yaml_problem(r, node, "has to be a mapping (key: value)");
        return;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *key = node_of(r, p->key);
        if (key->type != YAML_SCALAR_NODE) {
            yaml_problem(r, key, "a key has to be plain text");
            continue;
        }
        size_t old = enter(r, (const char *)key->data.scalar.value);
        if (repeated(r, node, p))
            yaml_problem(r, key, "given twice");
        else
            read(r, (const char *)key->data.scalar.value, node_of(r, p->value), arg);
        r->path[old] = 0;
    }
}

static void read_fixed(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg)
{
    for (const struct yaml_key *k = arg; k->name != NULL; k++) {
        if (strcmp(k->name, key) == 0) {
            k->read(r, value, k->target);
            return;
        }
    }
    yaml_problem(r, value, "unknown key");
}

void yaml_read_mapping(struct yaml_reader *r, yaml_node_t *node, const struct yaml_key *keys)
{
    yaml_each_pair(r, node, read_fixed, (void *)(uintptr_t)keys);
}

void yaml_each_item(struct yaml_reader *r, yaml_node_t *node, yaml_read_fn read, void *arg)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        yaml_problem(r, node, "has to be a list");
        return;
    }
    unsigned i = 0;
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "%u", i++);
        size_t old = enter(r, key);
        read(r, node_of(r, *item), arg);
        r->path[old] = 0;
    }
}

const char *yaml_text(struct yaml_reader *r, yaml_node_t *node)
{
    if (node->type != YAML_SCALAR_NODE) {
        yaml_problem(r, node, "has to be a single value");
        return NULL;
    }
    if (strlen((const char *)node->data.scalar.value) != node->data.scalar.length) {
        yaml_problem(r, node, "holds a zero byte");
        return NULL;
    }
    return (const char *)node->data.scalar.value;
}

void yaml_read_string(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    char **out = target;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (text[0] == 0) {
        yaml_problem(r, node, "must not be empty");
        return;
    }
    free(*out);
    *out = mr_strdup(text);
}

void yaml_read_bool(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "on") == 0)
        *(bool *)target = true;
    else if (strcmp(text, "false") == 0 || strcmp(text, "no") == 0 || strcmp(text, "off") == 0)
        *(bool *)target = false;
    else
        yaml_problem(r, node, "has to be true or false, not \"%s\"", text);
}

void yaml_read_unsigned(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_number(text, &n) || n == 0 || n > INT32_MAX)
        yaml_problem(r, node, "has to be a whole number from 1 on, not \"%s\"", text);
    else
        *(unsigned *)target = (unsigned)n;
}

void yaml_read_port(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_number(text, &n) || n == 0 || n > 65535)
        yaml_problem(r, node, "has to be a port from 1 to 65535, not \"%s\"", text);
    else
        *(uint16_t *)target = (uint16_t)n;
}

void yaml_read_ms64(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t ms;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_duration(text, &ms))
        yaml_problem(r, node, "has to be a duration like 100ms, 3s, 5m, 4h, 5d, not \"%s\"", text);
    else
        *(uint64_t *)target = ms;
}

void yaml_read_ms(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t ms;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_duration(text, &ms) || ms == 0 || ms > INT32_MAX)
        yaml_problem(r, node, "has to be a duration like 100ms, 3s, 5m (over 0, at most 24d), not \"%s\"", text);
    else
        *(unsigned *)target = (unsigned)ms;
}

void yaml_read_size(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t bytes;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_size(text, &bytes) || bytes == 0)
        yaml_problem(r, node, "has to be a size like 10MiB, 64KiB or a number of bytes, not \"%s\"", text);
    else
        *(uint64_t *)target = bytes;
}
