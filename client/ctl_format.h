/* ctl_format.h - what a node's JSON says, as text for people and lines for scripts. Prints only.
 *
 * A member that is missing or of another type is shown as "-": an older or newer node is still readable.
 * Thread: any; nothing is shared. */
#ifndef MR_CLIENT_CTL_FORMAT_H
#define MR_CLIENT_CTL_FORMAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

void ctl_format_status(const json_t *status, FILE *out);
void ctl_format_nodes(const json_t *status, FILE *out);
void ctl_format_queue(const json_t *queue, FILE *out);
/* One page; headings: the first. */
void ctl_format_messages(const json_t *messages, bool headings, FILE *out);
void ctl_format_message(const json_t *message, FILE *out);

enum { CTL_TEXT_SIZE = 64 };
/* A value as text: numbers in decimal, booleans yes and no, null "". buffer serves numbers. */
const char *ctl_text(const json_t *object, const char *name, char buffer[CTL_TEXT_SIZE]);
/* "512 B", "1.5 MiB"; returns text. */
char *ctl_format_bytes(uint64_t bytes, char text[CTL_TEXT_SIZE]);

#endif
