/* Files and their names, what they are now and on the disk. */
#include "chaos-tests/sim/sim_fs_internal.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* ---- files ---- */

struct sim_file *fs_new_file(struct disk *d, bool dir)
{
    struct sim_file *f = mr_calloc(1, sizeof(*f));
    f->dir = dir;
    f->number = d->next_file++;
    f->next = d->all;
    d->all = f;
    return f;
}

void fs_charge(struct disk *d, struct sim_file *f)
{
    uint64_t reach = f->filled > f->allocated ? f->filled : f->allocated;
    uint64_t want = f->names > 0 || f->refs > 0 ? (reach + PAGE - 1) / PAGE * PAGE : 0;
    d->used = d->used - f->charged + want;
    f->charged = want;
}

static void free_page(struct page *p)
{
    free(p->now);
    free(p->was);
    free(p->mid);
}

static void free_file(struct disk *d, struct sim_file *f)
{
    struct sim_file **at = &d->all;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    d->used -= f->charged;
    for (size_t i = 0; i < f->n_pages; i++)
        free_page(&f->pages[i]);
    free(f->pages);
    for (size_t i = 0; i < f->n_entries; i++) {
        struct entry e = f->entries[i];
        free(e.name);
        if (e.now != NULL) {
            e.now->names--;
            fs_release(d, e.now);
        }
        if (e.disk != NULL) {
            e.disk->holds--;
            fs_release(d, e.disk);
        }
    }
    free(f->entries);
    free(f);
}

void fs_release(struct disk *d, struct sim_file *f)
{
    if (f->refs == 0 && f->names == 0 && f->holds == 0)
        free_file(d, f);
    else
        fs_charge(d, f);
}

/* ---- names ---- */

static struct entry *find_entry(const struct sim_file *dir, const char *name)
{
    for (size_t i = 0; i < dir->n_entries; i++)
        if (strcmp(dir->entries[i].name, name) == 0)
            return &dir->entries[i];
    return NULL;
}

static struct entry *make_entry(struct sim_file *dir, const char *name)
{
    struct entry *e = find_entry(dir, name);
    if (e != NULL)
        return e;
    dir->entries = mr_realloc(dir->entries, (dir->n_entries + 1) * sizeof(*dir->entries));
    e = &dir->entries[dir->n_entries++];
    *e = (struct entry){.name = mr_strdup(name)};
    return e;
}

static void drop_if_unused(struct sim_file *dir, struct entry *e)
{
    if (e->now != NULL || e->disk != NULL)
        return;
    free(e->name);
    *e = dir->entries[--dir->n_entries];
}

void fs_set_now(struct disk *d, struct sim_file *dir, const char *name, struct sim_file *f)
{
    struct entry *e = make_entry(dir, name);
    struct sim_file *old = e->now;
    e->now = f;
    if (f != NULL) {
        f->names++;
        fs_charge(d, f);
    }
    drop_if_unused(dir, e);
    if (old != NULL) {
        old->names--;
        fs_release(d, old);
    }
}

static void set_disk(struct disk *d, struct sim_file *dir, const char *name, struct sim_file *f)
{
    struct entry *e = make_entry(dir, name);
    struct sim_file *old = e->disk;
    e->disk = f;
    if (f != NULL)
        f->holds++;
    drop_if_unused(dir, e);
    if (old != NULL) {
        old->holds--;
        fs_release(d, old);
    }
}

static void note_change(struct disk *d, struct sim_file *dir, const char *name, const char *from, struct sim_file *f)
{
    d->changes = mr_realloc(d->changes, (d->n_changes + 1) * sizeof(*d->changes));
    d->changes[d->n_changes++] = (struct change){.number = d->next_change++,
                                                 .dir = dir,
                                                 .file = f,
                                                 .name = mr_strdup(name),
                                                 .from = from != NULL ? mr_strdup(from) : NULL};
    dir->holds++;
    if (f != NULL)
        f->holds++;
}

void fs_forget_change(struct disk *d, struct change *c)
{
    free(c->name);
    free(c->from);
    if (c->file != NULL) {
        c->file->holds--;
        fs_release(d, c->file);
    }
    c->dir->holds--;
    fs_release(d, c->dir);
}

static void apply_change(struct disk *d, struct change *c)
{
    set_disk(d, c->dir, c->name, c->file);
    if (c->from != NULL)
        set_disk(d, c->dir, c->from, NULL);
    fs_forget_change(d, c);
}

void fs_apply_changes(struct disk *d, const struct sim_file *dir, uint64_t below)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->n_changes; i++) {
        struct change c = d->changes[i];
        if ((dir == NULL || c.dir == dir) && c.number < below)
            apply_change(d, &c);
        else
            d->changes[kept++] = c;
    }
    d->n_changes = kept;
}

/* The directory of a path, and its last name ("" for the root). */
static int resolve(struct disk *d, const char *path, struct sim_file **dir, char name[MAX_NAME + 1])
{
    struct sim_file *at = d->root;
    name[0] = 0;
    for (;;) {
        while (*path == '/')
            path++;
        if (*path == 0)
            break;
        size_t len = strcspn(path, "/");
        if (len > MAX_NAME)
            return -ENAMETOOLONG;
        if (name[0] != 0) {
            const struct entry *e = find_entry(at, name);
            if (e == NULL || e->now == NULL)
                return -ENOENT;
            if (!e->now->dir)
                return -ENOTDIR;
            at = e->now;
        }
        memcpy(name, path, len);
        name[len] = 0;
        path += len;
    }
    *dir = at;
    return 0;
}

int sim_fs_find(unsigned node, const char *path, struct sim_file **out)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL;
    char name[MAX_NAME + 1];
    int rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    if (name[0] == 0) {
        *out = d->root;
        return 0;
    }
    const struct entry *e = find_entry(dir, name);
    if (e == NULL || e->now == NULL)
        return -ENOENT;
    *out = e->now;
    return 0;
}

static int create(unsigned node, const char *path, struct sim_file **out)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL;
    char name[MAX_NAME + 1];
    int rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    /* On a full disk there may be room in the directory and for the inode, or not. */
    if (d->used + d->eaten + PAGE > d->capacity && sim_chance(SIM_DISK, 0.5))
        return -ENOSPC;
    struct sim_file *f = fs_new_file(d, false);
    fs_set_now(d, dir, name, f);
    note_change(d, dir, name, NULL, f);
    *out = f;
    return 0;
}

int sim_fs_open(unsigned node, const char *path, int flags, struct sim_file **out)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *f = NULL;
    int rc = sim_fs_find(node, path, &f);
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        if (rc == 0)
            f = fs_new_file(d, false);
    } else if (rc == -ENOENT && (flags & O_CREAT) != 0) {
        rc = create(node, path, &f);
    } else if (rc == 0 && (flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) {
        rc = -EEXIST;
    } else if (rc == 0 && !f->dir && (flags & O_DIRECTORY) != 0) {
        rc = -ENOTDIR;
    } else if (rc == 0 && f->dir && (flags & O_ACCMODE) != O_RDONLY) {
        rc = -EISDIR;
    }
    if (rc != 0)
        return rc;
    if ((flags & O_TRUNC) != 0 && !f->dir)
        (void)sim_fs_truncate(node, f, 0);
    f->refs++;
    fs_charge(d, f);
    *out = f;
    return 0;
}

void sim_fs_unref(unsigned node, struct sim_file *f)
{
    mr_assert(f->refs > 0);
    f->refs--;
    fs_release(fs_disk_of(node), f);
}

int sim_fs_unlink(unsigned node, const char *path)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL, *f = NULL;
    char name[MAX_NAME + 1];
    int rc = sim_fs_find(node, path, &f);
    if (rc != 0)
        return rc;
    if (f->dir)
        return -EISDIR;
    (void)resolve(d, path, &dir, name);
    note_change(d, dir, name, NULL, NULL);
    fs_set_now(d, dir, name, NULL);
    return 0;
}

/* Within one directory: nobody here renames across. */
int sim_fs_rename(unsigned node, const char *from, const char *to)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL, *to_dir = NULL, *f = NULL;
    char name[MAX_NAME + 1], to_name[MAX_NAME + 1];
    int rc = sim_fs_find(node, from, &f);
    if (rc == 0)
        rc = resolve(d, from, &dir, name);
    if (rc == 0)
        rc = resolve(d, to, &to_dir, to_name);
    if (rc != 0)
        return rc;
    if (dir != to_dir)
        return -EXDEV;
    if (strcmp(name, to_name) == 0)
        return 0;
    note_change(d, dir, to_name, name, f);
    fs_set_now(d, dir, to_name, f);
    fs_set_now(d, dir, name, NULL);
    return 0;
}

int sim_fs_link(unsigned node, struct sim_file *f, const char *path)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL;
    char name[MAX_NAME + 1];
    int rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    const struct entry *e = find_entry(dir, name);
    if (e != NULL && e->now != NULL)
        return -EEXIST;
    fs_set_now(d, dir, name, f);
    note_change(d, dir, name, NULL, f);
    return 0;
}

int sim_fs_mkdir(unsigned node, const char *path)
{
    struct disk *d = fs_disk_of(node);
    struct sim_file *dir = NULL, *f = NULL;
    char name[MAX_NAME + 1];
    int rc = sim_fs_find(node, path, &f);
    if (rc != -ENOENT)
        return rc == 0 ? -EEXIST : rc;
    rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    f = fs_new_file(d, true);
    fs_set_now(d, dir, name, f);
    note_change(d, dir, name, NULL, f);
    return 0;
}

const char *sim_fs_name(const struct sim_file *dir, size_t *at)
{
    while (*at < dir->n_entries) {
        const struct entry *e = &dir->entries[(*at)++];
        if (e->now != NULL)
            return e->name;
    }
    return NULL;
}

bool sim_fs_is_dir(const struct sim_file *f)
{
    return f->dir;
}

uint64_t sim_fs_size(const struct sim_file *f)
{
    return f->size;
}

uint64_t sim_fs_number(const struct sim_file *f)
{
    return f->number;
}
