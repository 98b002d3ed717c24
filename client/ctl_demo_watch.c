/* No I/O but reading; time comes from the lines. */
#include "client/ctl_demo_watch.h"

#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- files that grow ---- */

static void whole_line(struct tail *t, void (*visit)(void *arg, const json_t *line), void *arg)
{
    json_t *line = json_loadb(t->line, t->len, 0, NULL);

    t->len = 0;
    if (json_is_object(line))
        visit(arg, line);
    json_decref(line);
}

void tail_read(struct tail *t, void (*visit)(void *arg, const json_t *line), void *arg)
{
    int c;

    if (t->file == NULL && (t->file = fopen(t->path, "re")) == NULL)
        return;
    if (t->line == NULL)
        t->line = mr_malloc(TAIL_LINE_MAX);
    clearerr(t->file);
    while ((c = getc_unlocked(t->file)) != EOF) {
        if (c == '\n')
            whole_line(t, visit, arg);
        else if (t->len < TAIL_LINE_MAX) /* what is longer is cut, and then no JSON */
            t->line[t->len++] = (char)c;
    }
}

void tail_close(struct tail *t)
{
    if (t->file != NULL)
        (void)fclose(t->file);
    free(t->line);
    *t = (struct tail){.path = t->path};
}

/* ---- times ---- */

void moments_add(struct moments *m, double at)
{
    if (m->n == m->cap) {
        m->cap = m->cap == 0 ? 1024 : m->cap * 2;
        m->at = mr_realloc(m->at, m->cap * sizeof(*m->at));
    }
    m->at[m->n++] = at;
}

void moments_free(struct moments *m)
{
    free(m->at);
    *m = (struct moments){0};
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

bool silence_ended(struct moments *m, double killed, double *after)
{
    double longest = -1;
    double last = killed; /* the moment before the one that is looked at; when there is none, the kill */

    if (m->n > 0)
        qsort(m->at, m->n, sizeof(*m->at), by_time);
    for (size_t i = 0; i < m->n; i++) {
        if (m->at[i] > killed && last < killed + (double)SILENCE_WINDOW_S && m->at[i] - last > longest) {
            longest = m->at[i] - last;
            *after = m->at[i] - killed;
        }
        last = m->at[i];
    }
    return longest >= 0;
}

double unix_seconds(const char *text)
{
    struct tm tm = {0};
    const char *rest = text == NULL ? NULL : strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    char *end;

    if (rest == NULL)
        return -1;
    double fraction = *rest == '.' ? strtod(rest, &end) : 0;
    if (*rest != '.')
        end = (char *)(uintptr_t)rest;
    if (strcmp(end, "Z") != 0)
        return -1;
    return (double)timegm(&tm) + fraction;
}
