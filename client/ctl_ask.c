/* Happy path: open -> one page (list: page after page) -> JSON or text on stdout. */
#include "client/ctl_ask.h"

#include "client/ctl_format.h"
#include "client/ctl_http.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIST_PAGE = 500 };

static int exit_of(int rc)
{
    return rc == 0 ? CTL_DONE : rc == MR_INVAL ? CTL_USAGE : rc == MR_UNREACHABLE ? CTL_UNAVAILABLE : CTL_REFUSED;
}

static int told(const struct ctl_http *h, int rc)
{
    if (rc != 0)
        (void)fprintf(stderr, "mailraftctl: %s\n", ctl_http_error(h));
    return exit_of(rc);
}

static void print_json(const json_t *value)
{
    (void)json_dumpf(value, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
    (void)fputc('\n', stdout);
}

static int ask_status(struct ctl_http *h, const struct ctl_options *o)
{
    json_t *status;
    int rc = ctl_http_json(h, "/v1/status", &status);

    if (rc != 0)
        return told(h, rc);
    bool quorum = json_is_true(json_object_get(status, "quorum"));
    if (o->json)
        print_json(o->command == CTL_NODES ? json_object_get(status, "nodes") : status);
    else if (o->command == CTL_NODES)
        ctl_format_nodes(status, stdout);
    else
        ctl_format_status(status, stdout);
    if (!quorum) {
        char name[CTL_TEXT_SIZE];
        (void)fflush(stdout);
        (void)fprintf(stderr, "mailraftctl: %s has no quorum: it accepts and delivers no mail\n",
                      ctl_text(status, "node", name));
    }
    json_decref(status);
    return quorum ? CTL_DONE : CTL_UNAVAILABLE;
}

static int ask_queue(struct ctl_http *h, bool json)
{
    json_t *queue;
    int rc = ctl_http_json(h, "/v1/queue", &queue);

    if (rc != 0)
        return told(h, rc);
    if (json)
        print_json(queue);
    else
        ctl_format_queue(queue, stdout);
    if (!json && json_is_true(json_object_get(queue, "truncated")))
        (void)fputs("mailraftctl: there are more next hops than the node tells\n", stderr);
    json_decref(queue);
    return CTL_DONE;
}

static int ask_message(struct ctl_http *h, const struct ctl_options *o)
{
    char id[MR_ID_TEXT + 1];
    json_t *message;
    char *path = mr_asprintf("/v1/messages/%s", mr_id_format(o->id, id));
    int rc = ctl_http_json(h, path, &message);

    free(path);
    if (rc != 0)
        return told(h, rc);
    if (o->json)
        print_json(message);
    else
        ctl_format_message(message, stdout);
    json_decref(message);
    return CTL_DONE;
}

static int ask_body(struct ctl_http *h, const struct ctl_options *o)
{
    char id[MR_ID_TEXT + 1];
    char *path = mr_asprintf("/v1/messages/%s/body", mr_id_format(o->id, id));
    int rc = ctl_http_copy(h, path, stdout);

    free(path);
    return told(h, rc);
}

/* ---- list ---- */

static char *list_path(const struct ctl_list_options *o, uint64_t after, uint64_t limit)
{
    char number[24];
    char *path = mr_strdup("/v1/messages");

    path = ctl_http_argument(path, "sender", o->sender);
    path = ctl_http_argument(path, "recipient", o->recipient);
    path = ctl_http_argument(path, "domain", o->domain);
    path = ctl_http_argument(path, "next_hop", o->next_hop);
    path = ctl_http_argument(path, "state", o->state);
    path = ctl_http_argument(path, "age", o->age);
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)limit);
    path = ctl_http_argument(path, "limit", number);
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)after);
    return ctl_http_argument(path, "after", number);
}

struct listing {
    bool json;
    uint64_t shown;
};

/* One JSON object over all pages, written as they come. */
static void list_page(struct listing *l, const json_t *messages)
{
    size_t i;
    json_t *m;

    if (!l->json) {
        if (json_array_size(messages) > 0)
            ctl_format_messages(messages, l->shown == 0, stdout);
    } else {
        json_array_foreach((json_t *)(uintptr_t)messages, i, m)
        {
            (void)fputs(l->shown + i == 0 ? "{\"messages\":[" : ",", stdout);
            (void)json_dumpf(m, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
        }
    }
    l->shown += json_array_size(messages);
}

static void list_end(const struct listing *l, const json_t *next)
{
    if (!l->json)
        return;
    (void)fputs(l->shown == 0 ? "{\"messages\":[" : "", stdout);
    (void)fputs("],\"next\":", stdout);
    (void)json_dumpf(next != NULL ? next : json_null(), stdout, JSON_ENCODE_ANY);
    (void)fputs("}\n", stdout);
}

static int ask_list(struct ctl_http *h, const struct ctl_options *o)
{
    struct listing l = {.json = o->json};
    uint64_t after = o->list.after;

    for (;;) {
        uint64_t left = o->list.limit == 0 ? LIST_PAGE : o->list.limit - l.shown;
        json_t *page;
        char *path = list_path(&o->list, after, left < LIST_PAGE ? left : LIST_PAGE);
        int rc = ctl_http_json(h, path, &page);
        free(path);
        if (rc != 0)
            return told(h, rc);
        const json_t *next = json_object_get(page, "next");
        list_page(&l, json_object_get(page, "messages"));
        bool more = json_is_integer(next) && (uint64_t)json_integer_value(next) > after;
        bool enough = o->list.limit != 0 && l.shown >= o->list.limit;
        if (!more || enough || ferror(stdout)) {
            list_end(&l, next);
            json_decref(page);
            return CTL_DONE;
        }
        after = (uint64_t)json_integer_value(next);
        json_decref(page);
    }
}

int ctl_ask(const struct ctl_options *o)
{
    struct ctl_http *h;
    int rc = ctl_http_open(&h, o->server, o->token_file);

    if (rc != 0)
        return exit_of(rc);
    switch (o->command) {
    case CTL_QUEUE:
        rc = ask_queue(h, o->json);
        break;
    case CTL_LIST:
        rc = ask_list(h, o);
        break;
    case CTL_SHOW:
        rc = ask_message(h, o);
        break;
    case CTL_CAT:
        rc = ask_body(h, o);
        break;
    default:
        rc = ask_status(h, o);
        break;
    }
    ctl_http_close(h);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (rc == CTL_DONE)
            (void)fprintf(stderr, "mailraftctl: the output cannot be written: %s\n", strerror(errno));
        return rc == CTL_DONE ? CTL_REFUSED : rc;
    }
    return rc;
}
