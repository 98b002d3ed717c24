/* Pure but for identity_form, which is durable when it returns. Messages may be lost, come twice and late; only order
 * on one link is relied on, and only for speed. */
#include "cluster/identity.h"

#include "cluster/identity_record.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NAMES = 63,      /* raft ids of holders fit a 64-bit set (state.h) */
    PATIENCE_TICKS = 25, /* an empty node among formed ones waits so long to be handed the formation */
};

/* What the others last showed of themselves. */
enum view { VIEW_UNSEEN, VIEW_EMPTY, VIEW_AGREED, VIEW_FORMED, VIEW_SETTLED, VIEW_REFUSED };

struct formation_node {
    char name[128];
    char address[300];
    uint32_t node;
    enum view view;
    struct mr_id directory;
    struct mr_id cluster; /* of VIEW_FORMED */
};

struct formation {
    struct identity *id;
    struct formation_handler handler;
    struct formation_node nodes[MAX_NAMES];
    unsigned n;
    unsigned self; /* index */
    bool started, told;
    unsigned waited; /* ticks */
    char reason[600];
};

/* ---- helpers ---- */

__attribute__((format(printf, 2, 3))) static void refuse(struct formation *f, const char *format, ...)
{
    char text[sizeof(f->reason)];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (strcmp(text, f->reason) == 0)
        return;
    memcpy(f->reason, text, sizeof(text));
    log_event(LOG_ERROR, "formation_refused", LOG_S("reason", text));
    f->handler.refused(f->handler.arg, text);
}

static void note_settled(struct formation *f)
{
    for (unsigned i = 0; i < f->n; i++)
        if (f->nodes[i].view == VIEW_FORMED && mr_id_equal(f->nodes[i].cluster, identity_cluster(f->id)))
            f->nodes[i].view = VIEW_SETTLED;
}

static void tell_formed(struct formation *f)
{
    if (f->told || !identity_formed(f->id))
        return;
    f->told = true;
    note_settled(f); /* those that were seen formed before we were */
    f->handler.formed(f->handler.arg);
}

static struct formation_node *node_by_id(struct formation *f, uint32_t peer)
{
    for (unsigned i = 0; i < f->n; i++)
        if (f->nodes[i].node == peer && i != f->self)
            return &f->nodes[i];
    return NULL;
}

static bool all_others(const struct formation *f, enum view view)
{
    for (unsigned i = 0; i < f->n; i++)
        if (i != f->self && f->nodes[i].view != view)
            return false;
    return true;
}

/* ---- messages ---- */

struct request {
    Mailraft__FormRequest request;
    Mailraft__Form form;
    Mailraft__Member members[MAX_NAMES];
    Mailraft__Member *list[MAX_NAMES];
    struct identity_member plain[MAX_NAMES];
    struct mr_id cluster;
};

/* cluster zero: the question whether the others agree. */
static void fill_request(struct request *r, struct mr_id cluster, unsigned n)
{
    mailraft__form_request__init(&r->request);
    mailraft__form__init(&r->form);
    r->request.form = &r->form;
    r->cluster = cluster;
    if (!mr_id_is_zero(cluster))
        r->form.cluster = (ProtobufCBinaryData){.data = r->cluster.bytes, .len = MR_ID_SIZE};
    r->form.n_members = n;
    r->form.members = r->list;
    for (unsigned i = 0; i < n; i++) {
        struct identity_member *m = &r->plain[i];
        mailraft__member__init(&r->members[i]);
        r->list[i] = &r->members[i];
        r->members[i].node = m->node;
        r->members[i].name = m->name;
        r->members[i].address = m->address;
        r->members[i].directory = (ProtobufCBinaryData){.data = m->directory.bytes, .len = MR_ID_SIZE};
    }
}

static void members_of_initial(const struct formation *f, struct identity_member *out)
{
    for (unsigned i = 0; i < f->n; i++) {
        const struct formation_node *n = &f->nodes[i];
        out[i] = (struct identity_member){.node = n->node};
        memcpy(out[i].name, n->name, sizeof(out[i].name));
        memcpy(out[i].address, n->address, sizeof(out[i].address));
        out[i].directory = i == f->self ? identity_directory(f->id) : n->directory;
    }
}

static void send_question(struct formation *f, const struct formation_node *to)
{
    struct request *r = mr_calloc(1, sizeof(*r));
    members_of_initial(f, r->plain);
    fill_request(r, (struct mr_id){{0}}, f->n);
    f->handler.send(f->handler.arg, to->node, true, &r->request.base);
    free(r);
}

static void send_formation(struct formation *f, const struct formation_node *to)
{
    struct request *r = mr_calloc(1, sizeof(*r));
    unsigned n = identity_members(f->id);
    for (unsigned i = 0; i < n; i++)
        r->plain[i] = *identity_member(f->id, i);
    fill_request(r, identity_cluster(f->id), n);
    f->handler.send(f->handler.arg, to->node, true, &r->request.base);
    free(r);
}

static void send_reply(struct formation *f, uint32_t peer, const struct mr_id *cluster, const char *refused)
{
    Mailraft__FormReply reply = MAILRAFT__FORM_REPLY__INIT;
    struct mr_id copy = {{0}};
    if (cluster != NULL) {
        copy = *cluster;
        reply.cluster = (ProtobufCBinaryData){.data = copy.bytes, .len = MR_ID_SIZE};
    }
    if (refused != NULL)
        reply.refused = (char *)(uintptr_t)refused;
    f->handler.send(f->handler.arg, peer, false, &reply.base);
}

/* ---- the first of `initial` ---- */

/* All have agreed: the record, then the others, then Raft. */
static void form(struct formation *f)
{
    struct identity_member *members = mr_calloc(MAX_NAMES, sizeof(*members));
    members_of_initial(f, members);
    int rc = identity_form(f->id, mr_id_random(), members, f->n);
    free(members);
    if (rc == MR_INVAL) {
        refuse(f, "two nodes of cluster.initial have the same data directory id: one runs on a copy of the other's; "
                  "start it with an empty directory");
        return;
    }
    if (rc != 0) {
        refuse(f, "the formation could not be written: %s", mr_strerror(rc));
        return;
    }
    for (unsigned i = 0; i < f->n; i++)
        if (i != f->self)
            send_formation(f, &f->nodes[i]);
    tell_formed(f);
}

/* Asks those that have not answered, forms when all have. */
static void propose(struct formation *f)
{
    if (!f->started || f->self != 0 || identity_formed(f->id))
        return;
    for (unsigned i = 1; i < f->n; i++)
        if (f->nodes[i].view == VIEW_EMPTY)
            send_question(f, &f->nodes[i]);
    if (all_others(f, VIEW_AGREED))
        form(f);
}

/* ---- what peers show ---- */

static bool is_member_directory(const struct formation *f, const struct formation_node *n)
{
    for (unsigned i = 0; i < identity_members(f->id); i++) {
        const struct identity_member *m = identity_member(f->id, i);
        if (m->node == n->node && mr_id_equal(m->directory, n->directory))
            return true;
    }
    return false;
}

static void hand_on(struct formation *f, const struct formation_node *n)
{
    if ((n->view == VIEW_EMPTY || n->view == VIEW_AGREED) && is_member_directory(f, n))
        send_formation(f, n);
}

/* This node is empty and that one is formed. The first one cannot wait: it would have been the one to form them. */
static void check_left_out(struct formation *f)
{
    char id[MR_ID_TEXT + 1];
    if (identity_formed(f->id) || (f->self != 0 && f->waited < PATIENCE_TICKS))
        return;
    for (unsigned i = 0; i < f->n; i++)
        if (f->nodes[i].view == VIEW_FORMED) {
            refuse(
                f,
                "node %s belongs to a cluster already, but the data directory of %s is empty (directory id %s) and not "
                "part of it. Was its disk lost or exchanged? Start it with its old directory, or leave it out: the "
                "cluster goes on with the rest",
                f->nodes[i].name, f->nodes[f->self].name, mr_id_format(identity_directory(f->id), id));
            return;
        }
}

void formation_peer_seen(struct formation *f, uint32_t peer, const Mailraft__Hello *hello)
{
    struct formation_node *n = node_by_id(f, peer);
    struct mr_id directory, cluster;
    if (n == NULL || mr_id_from_bytes(hello->directory.data, hello->directory.len, &directory) != 0)
        return;
    bool formed = hello->cluster.len > 0;
    if (formed && mr_id_from_bytes(hello->cluster.data, hello->cluster.len, &cluster) != 0)
        return;
    bool same_directory = mr_id_equal(directory, n->directory);
    n->directory = directory;
    if (!formed) {
        /* Each connection has a Hello: an answer that this same directory gave stays good. */
        if (!same_directory || n->view != VIEW_AGREED)
            n->view = VIEW_EMPTY;
    } else {
        n->cluster = cluster;
        n->view = VIEW_FORMED;
        note_settled(f);
    }
    if (!f->started)
        return;
    if (identity_formed(f->id)) {
        hand_on(f, n);
        return;
    }
    check_left_out(f);
    propose(f);
}

/* ---- requests and replies ---- */

/* False, with a reason: other names or raft ids. */
static bool same_list(const struct formation *f, const struct request *r, char *reason, size_t len)
{
    bool same = r->form.n_members == f->n;
    for (unsigned i = 0; same && i < f->n; i++)
        same = r->plain[i].node == f->nodes[i].node && strcmp(r->plain[i].name, f->nodes[i].name) == 0;
    if (same)
        return true;
    size_t at = (size_t)snprintf(reason, len, "cluster.initial differs: here it has");
    for (unsigned i = 0; i < f->n && at < len; i++)
        at += (size_t)snprintf(reason + at, len - at, " %s", f->nodes[i].name);
    if (at < len)
        at += (size_t)snprintf(reason + at, len - at, ", there");
    for (size_t i = 0; i < r->form.n_members && at < len; i++)
        at += (size_t)snprintf(reason + at, len - at, " %s", r->plain[i].name);
    return false;
}

/* MR_MALFORMED: lengths, ids, texts. */
static int parse_request(const Mailraft__FormRequest *in, struct request *out)
{
    const Mailraft__Form *form = in->form;
    if (form == NULL || form->n_members == 0 || form->n_members > MAX_NAMES)
        return MR_MALFORMED;
    if (form->cluster.len > 0 &&
        (mr_id_from_bytes(form->cluster.data, form->cluster.len, &out->cluster) != 0 || mr_id_is_zero(out->cluster)))
        return MR_MALFORMED;
    out->form.n_members = form->n_members;
    for (size_t i = 0; i < form->n_members; i++) {
        const Mailraft__Member *m = form->members[i];
        struct identity_member *p = &out->plain[i];
        if (!identity_name_is_valid(m->name) || !identity_address_is_valid(m->address) ||
            mr_id_from_bytes(m->directory.data, m->directory.len, &p->directory) != 0)
            return MR_MALFORMED;
        p->node = m->node;
        (void)snprintf(p->name, sizeof(p->name), "%s", m->name);
        (void)snprintf(p->address, sizeof(p->address), "%s", m->address);
    }
    return 0;
}

static void refuse_request(struct formation *f, uint32_t peer, const char *reason)
{
    char *text = mr_asprintf("node %s: %s", f->nodes[f->self].name, reason);
    send_reply(f, peer, NULL, text);
    free(text);
}

/* Who hands our own formation on has it. */
static void confirm(struct formation *f, uint32_t peer, struct mr_id cluster)
{
    struct formation_node *n = node_by_id(f, peer);
    if (n != NULL)
        n->view = VIEW_SETTLED;
    send_reply(f, peer, &cluster, NULL);
}

static void accept_request(struct formation *f, uint32_t peer, const struct request *r)
{
    char reason[400] = "";
    bool question = mr_id_is_zero(r->cluster);
    if (same_list(f, r, reason, sizeof(reason)) &&
        !mr_id_equal(r->plain[f->self].directory, identity_directory(f->id))) {
        if (question)
            return; /* asked of the directory that was here before; our Hello makes it ask again */
        (void)snprintf(
            reason, sizeof(reason),
            "the cluster was formed with another data directory of this node: its disk was lost or exchanged "
            "meanwhile. Start it with that directory, or leave it out: the cluster goes on with the rest");
    }
    if (reason[0] != 0) {
        refuse_request(f, peer, reason);
        refuse(f, "%s", reason);
        return;
    }
    if (question) {
        send_reply(f, peer, NULL, NULL); /* empty, and agreed */
        return;
    }
    int rc = identity_form(f->id, r->cluster, r->plain, (unsigned)r->form.n_members);
    if (rc != 0) {
        refuse_request(f, peer, rc == MR_INVAL ? "the formation is not valid" : mr_strerror(rc));
        return;
    }
    confirm(f, peer, r->cluster);
    tell_formed(f);
}

/* A member's question from before the formation: it came by an older connection than the formation itself. A refusal
 * would stop that member for good; what it may still lack it is handed on. */
static bool asks_late(const struct formation *f, uint32_t peer)
{
    for (unsigned i = 0; i < f->n; i++)
        if (f->nodes[i].node == peer)
            return is_member_directory(f, &f->nodes[i]);
    return false;
}

void formation_request(struct formation *f, uint32_t peer, const Mailraft__FormRequest *request)
{
    struct request *r = mr_calloc(1, sizeof(*r));
    struct mr_id own = identity_cluster(f->id);
    if (!f->started) {
        free(r); /* it will be asked again */
        return;
    }
    if (parse_request(request, r) != 0)
        refuse_request(f, peer, "the request is malformed");
    else if (!identity_formed(f->id))
        accept_request(f, peer, r);
    else if (mr_id_equal(own, r->cluster))
        confirm(f, peer, own);
    else if (mr_id_is_zero(r->cluster) && asks_late(f, peer))
        log_event(LOG_INFO, "formation_question_late", LOG_N("peer", peer));
    else
        refuse_request(f, peer, "belongs to a cluster already");
    free(r);
}

void formation_reply(struct formation *f, uint32_t peer, const Mailraft__FormReply *reply)
{
    struct formation_node *n = node_by_id(f, peer);
    struct mr_id cluster;
    if (n == NULL || !f->started)
        return;
    if (reply->refused[0] != 0) {
        n->view = VIEW_REFUSED; /* until it shows itself again, or the next round */
        refuse(f, "%s", reply->refused);
        return;
    }
    if (reply->cluster.len > 0) {
        if (identity_formed(f->id) && mr_id_from_bytes(reply->cluster.data, reply->cluster.len, &cluster) == 0 &&
            mr_id_equal(cluster, identity_cluster(f->id)))
            n->view = VIEW_SETTLED;
        return;
    }
    if (n->view == VIEW_EMPTY && !identity_formed(f->id))
        n->view = VIEW_AGREED;
    propose(f);
}

void formation_tick(struct formation *f)
{
    if (!f->started || formation_settled(f))
        return;
    f->waited++;
    for (unsigned i = 0; i < f->n; i++) {
        struct formation_node *n = &f->nodes[i];
        if (n->view == VIEW_REFUSED && f->waited % PATIENCE_TICKS == 0)
            n->view = VIEW_EMPTY; /* the operator may have mended its configuration */
        if (i != f->self && identity_formed(f->id))
            hand_on(f, n);
    }
    check_left_out(f);
    propose(f);
}

bool formation_settled(const struct formation *f)
{
    return identity_formed(f->id) && all_others(f, VIEW_SETTLED);
}

/* ---- life ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct formation_node *)a)->name, ((const struct formation_node *)b)->name);
}

static int take_initial(struct formation *f, const struct formation_peer *initial, unsigned n, char *error,
                        size_t error_len)
{
    if (n == 0 || n > MAX_NAMES) {
        (void)snprintf(error, error_len, "cluster.initial: 1 to %d nodes, not %u", MAX_NAMES, n);
        return MR_CONFIG;
    }
    for (unsigned i = 0; i < n; i++) {
        if (!identity_name_is_valid(initial[i].name) || !identity_address_is_valid(initial[i].address)) {
            (void)snprintf(error, error_len, "cluster.initial: \"%s=%s\" is not name=host:port", initial[i].name,
                           initial[i].address);
            return MR_CONFIG;
        }
        (void)snprintf(f->nodes[i].name, sizeof(f->nodes[i].name), "%s", initial[i].name);
        (void)snprintf(f->nodes[i].address, sizeof(f->nodes[i].address), "%s", initial[i].address);
    }
    f->n = n;
    qsort(f->nodes, n, sizeof(f->nodes[0]), compare_names);
    for (unsigned i = 0; i < n; i++) {
        f->nodes[i].node = i + 1;
        if (i > 0 && strcmp(f->nodes[i].name, f->nodes[i - 1].name) == 0) {
            (void)snprintf(error, error_len, "cluster.initial: %s stands there twice", f->nodes[i].name);
            return MR_CONFIG;
        }
    }
    return 0;
}

/* A formed node's members are those of its formation, whatever the list says by now: ids must not shift with it. */
static void take_members(struct formation *f)
{
    bool differs = f->n != identity_members(f->id);
    for (unsigned i = 0; i < identity_members(f->id); i++) {
        const struct identity_member *m = identity_member(f->id, i);
        differs = differs || strcmp(f->nodes[i].name, m->name) != 0;
        memset(&f->nodes[i], 0, sizeof(f->nodes[i]));
        memcpy(f->nodes[i].name, m->name, sizeof(f->nodes[i].name));
        memcpy(f->nodes[i].address, m->address, sizeof(f->nodes[i].address));
        f->nodes[i].node = m->node;
    }
    f->n = identity_members(f->id);
    if (differs)
        log_event(LOG_WARN, "initial_differs",
                  LOG_S("note",
                        "cluster.initial is not the list that this cluster was formed with; it counts at the first "
                        "formation only"));
}

int formation_open(struct formation **out, struct identity *id, const char *self, const struct formation_peer *initial,
                   unsigned n, const struct formation_handler *handler, char *error, size_t error_len)
{
    struct formation *f = mr_calloc(1, sizeof(*f));
    f->id = id;
    f->handler = *handler;
    int rc = take_initial(f, initial, n, error, error_len);
    if (rc == 0 && identity_formed(id))
        take_members(f);
    while (rc == 0 && f->self < f->n && strcmp(f->nodes[f->self].name, self) != 0)
        f->self++;
    if (rc == 0 && f->self == f->n) {
        (void)snprintf(error, error_len, "cluster.initial: this node, %s, is not in it", self);
        rc = MR_CONFIG;
    }
    if (rc != 0) {
        free(f);
        return rc;
    }
    *out = f;
    return 0;
}

uint32_t formation_node(const struct formation *f, const char *name)
{
    for (unsigned i = 0; i < f->n; i++)
        if (strcmp(f->nodes[i].name, name) == 0)
            return f->nodes[i].node;
    return 0;
}

void formation_start(struct formation *f)
{
    f->started = true;
    tell_formed(f);
    propose(f);
}

void formation_close(struct formation *f)
{
    free(f);
}
