/* Recipients of each user's messages, against the limit of the rules: exact for the cluster, as apply decides.
 *
 * Counted by minutes of committed time: those of the running minute and of the 60 before it, so that in any 60 minutes
 * a user never gets more than the limit (what was sent counts for 60 to 61 minutes). A message counts when it is
 * accepted, once, whatever becomes of it: one that is proposed again is found by its id before, and neither a bounce
 * nor a cancel that came too late gives anything back. Without a limit nothing is counted, so that one that comes with
 * new rules begins at nought. Who has sent nothing for an hour is forgotten; above STATE_MAX_USERS the one who was
 * quiet the longest (users are those that can log in, no stranger makes them). */
#include "cluster/state_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum { MINUTE_MS = 60 * 1000 };

static uint64_t minute_now(const struct state *s)
{
    return s->now_ms / MINUTE_MS;
}

/* ---- limits ---- */

/* Of several for one user the smallest number comes first, whatever the sort does with equals. */
static int by_user(const void *a, const void *b)
{
    const Mailraft__UserLimit *x = *(Mailraft__UserLimit *const *)a, *y = *(Mailraft__UserLimit *const *)b;
    int order = strcmp(x->user, y->user);

    if (order != 0)
        return order;
    return (x->recipients_per_hour > y->recipients_per_hour) - (x->recipients_per_hour < y->recipients_per_hour);
}

void users_limits(struct state *s)
{
    size_t n = s->rules->n_user_limits;

    free(s->users.limits);
    s->users.limits = NULL;
    if (n == 0)
        return;
    s->users.limits = mr_malloc(n * sizeof(Mailraft__UserLimit *));
    memcpy(s->users.limits, s->rules->user_limits, n * sizeof(Mailraft__UserLimit *));
    qsort(s->users.limits, n, sizeof(Mailraft__UserLimit *), by_user);
}

static const Mailraft__UserLimit *limit_named(const struct state *s, const char *user)
{
    size_t from = 0, to = s->users.limits == NULL ? 0 : s->rules->n_user_limits;
    size_t n = to;

    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (strcmp(s->users.limits[middle]->user, user) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from < n && strcmp(s->users.limits[from]->user, user) == 0 ? s->users.limits[from] : NULL;
}

/* 0: none. */
static uint32_t limit_of(const struct state *s, const char *user)
{
    const Mailraft__UserLimit *limit = user[0] == '\0' ? NULL : limit_named(s, user);

    if (limit == NULL && user[0] != '\0')
        limit = limit_named(s, "default");
    return limit == NULL ? 0 : limit->recipients_per_hour;
}

/* ---- the table ---- */

struct state_user *user_find(const struct state *s, const char *user)
{
    for (struct state_index_node *n = state_index_first(&s->users.index, state_name_hash(s, user, strlen(user)));
         n != NULL; n = state_index_next(n)) {
        struct state_user *u = MR_CONTAINER(n, struct state_user, by_name);
        if (strcmp(u->name, user) == 0)
            return u;
    }
    return NULL;
}

static void drop(struct state *s, struct state_user *u)
{
    state_index_remove(&s->users.index, &u->by_name);
    state_list_remove(&s->users.all, &u->in_all);
    s->memory -= sizeof(*u) + u->name_len + 1;
    free(u);
}

static struct state_user *quietest(const struct state *s)
{
    return s->users.all.head == NULL ? NULL : MR_CONTAINER(s->users.all.head, struct state_user, in_all);
}

struct state_user *user_add(struct state *s, const char *user, uint64_t minute)
{
    size_t len = strlen(user);
    struct state_user *u = mr_calloc(1, sizeof(*u) + len + 1);

    if (s->users.all.count >= STATE_MAX_USERS)
        drop(s, quietest(s));
    u->minute = minute;
    u->name_len = len;
    memcpy(u->name, user, len + 1);
    state_index_insert(&s->users.index, &u->by_name, state_name_hash(s, user, strlen(user)));
    state_list_append(&s->users.all, &u->in_all);
    s->memory += sizeof(*u) + len + 1;
    return u;
}

void users_expire(struct state *s, unsigned max)
{
    struct state_user *u;

    for (unsigned n = 0; n < max && (u = quietest(s)) != NULL && u->minute + STATE_USER_MINUTES <= minute_now(s); n++)
        drop(s, u);
}

void users_close(struct state *s)
{
    while (s->users.all.head != NULL)
        drop(s, quietest(s));
    state_index_close(&s->users.index);
    free(s->users.limits);
    s->users.limits = NULL;
}

/* ---- counting ---- */

/* Those of the minutes that count still at `minute`. */
static uint64_t counted(const struct state_user *u, uint64_t minute)
{
    uint64_t sum = u->sum;

    if (minute >= u->minute + STATE_USER_MINUTES)
        return 0;
    /* Minutes u->minute - 60 .. minute - 61 have passed out of the hour. */
    for (uint64_t gone = u->minute + 1; gone <= minute; gone++)
        sum -= u->recipients[gone % STATE_USER_MINUTES];
    return sum;
}

enum apply_result user_check(const struct state *s, const char *user, size_t recipients)
{
    uint32_t limit = limit_of(s, user);

    if (limit == 0)
        return APPLIED;
    const struct state_user *u = user_find(s, user);
    uint64_t sent = u == NULL ? 0 : counted(u, minute_now(s));
    return sent + recipients > limit ? APPLY_QUOTA : APPLIED;
}

void user_charge(struct state *s, const char *user, size_t recipients)
{
    uint64_t minute = minute_now(s);

    if (limit_of(s, user) == 0)
        return;
    struct state_user *u = user_find(s, user);
    if (u == NULL) {
        u = user_add(s, user, minute);
    } else {
        state_list_remove(&s->users.all, &u->in_all);
        state_list_append(&s->users.all, &u->in_all);
    }
    for (unsigned n = 0; u->minute < minute && n < STATE_USER_MINUTES; n++) {
        u->minute++;
        u->sum -= u->recipients[u->minute % STATE_USER_MINUTES];
        u->recipients[u->minute % STATE_USER_MINUTES] = 0;
    }
    u->minute = minute;
    u->recipients[minute % STATE_USER_MINUTES] += (uint32_t)recipients;
    u->sum += recipients;
}

uint64_t state_user_recipients(const struct state *s, const char *user)
{
    const struct state_user *u = user_find(s, user);
    return u == NULL ? 0 : counted(u, minute_now(s));
}
