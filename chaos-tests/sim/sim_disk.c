/* A file is pages of 4 KiB. A page has what programs read (now), what a power cut would leave (was, while some of its
 * sectors are dirty) and, while a sync is on the way, what that sync was asked to store (mid, if it was written again).
 * Names have the same two sides: an entry of a directory points to a file now and to one on the disk, and the changes
 * between them are a list in order, of which a power cut leaves a prefix. Space is what files are written up to or were
 * given ahead; nobody here writes behind holes. Memory: pages that were never written are none. */
#include "chaos-tests/sim/sim_fs.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, SECTOR = 512, MAX_NAME = 255 };
#define DEFAULT_CAPACITY (UINT64_C(1) << 30)

struct page {
    uint8_t *now;  /* NULL: zeros */
    uint8_t *was;  /* while dirty or failed; NULL: zeros */
    uint8_t *mid;  /* of a sync under way, when it was written since */
    uint8_t dirty; /* bit i: sector i */
    uint8_t since; /* written since that sync began */
    bool syncing;
    bool failed; /* clean, and not what the disk has */
};

struct entry {
    char *name;
    struct sim_file *now, *disk;
};

struct sim_file {
    struct sim_file *next; /* all of a disk */
    uint64_t number;
    bool dir;
    unsigned refs, names; /* descriptors; entries' now */
    unsigned holds;       /* entries' disk and changes that wait */
    uint64_t size, disk_size;
    uint64_t sync_size; /* of a file; of a directory: the next change's number at the sync's begin */
    unsigned syncing;
    uint64_t allocated, filled, charged; /* given ahead; written up to */
    struct page *pages;
    size_t n_pages;
    size_t dirty_low, dirty_high; /* pages that may be dirty or failed: low <= i < high */
    struct entry *entries;
    size_t n_entries;
};

struct change {
    uint64_t number;
    struct sim_file *dir;
    struct sim_file *file; /* NULL: removed */
    char *name;
    char *from; /* a rename's other name in the same directory, or NULL */
};

struct disk {
    bool there;
    struct sim_file *root;
    struct sim_file *all;
    struct change *changes;
    size_t n_changes;
    uint64_t next_change, next_file;
    uint64_t capacity, eaten, used;
    struct sim_disk_mood mood;
};

static struct disk disks[SIM_MAX_NODES + 1];

static struct disk *disk_of(unsigned node)
{
    mr_assert(node >= 1 && node <= SIM_MAX_NODES);
    if (!disks[node].there)
        sim_disk_new(node);
    return &disks[node];
}

struct sim_disk_mood *sim_disk_mood(unsigned node)
{
    return &disk_of(node)->mood;
}

/* ---- files ---- */

static struct sim_file *new_file(struct disk *d, bool dir)
{
    struct sim_file *f = mr_calloc(1, sizeof(*f));
    f->dir = dir;
    f->number = d->next_file++;
    f->next = d->all;
    d->all = f;
    return f;
}

static void charge(struct disk *d, struct sim_file *f)
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

static void release(struct disk *d, struct sim_file *f);

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
            release(d, e.now);
        }
        if (e.disk != NULL) {
            e.disk->holds--;
            release(d, e.disk);
        }
    }
    free(f->entries);
    free(f);
}

static void release(struct disk *d, struct sim_file *f)
{
    if (f->refs == 0 && f->names == 0 && f->holds == 0)
        free_file(d, f);
    else
        charge(d, f);
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

static void set_now(struct disk *d, struct sim_file *dir, const char *name, struct sim_file *f)
{
    struct entry *e = make_entry(dir, name);
    struct sim_file *old = e->now;
    e->now = f;
    if (f != NULL) {
        f->names++;
        charge(d, f);
    }
    drop_if_unused(dir, e);
    if (old != NULL) {
        old->names--;
        release(d, old);
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
        release(d, old);
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

static void forget_change(struct disk *d, struct change *c)
{
    free(c->name);
    free(c->from);
    if (c->file != NULL) {
        c->file->holds--;
        release(d, c->file);
    }
    c->dir->holds--;
    release(d, c->dir);
}

static void apply_change(struct disk *d, struct change *c)
{
    set_disk(d, c->dir, c->name, c->file);
    if (c->from != NULL)
        set_disk(d, c->dir, c->from, NULL);
    forget_change(d, c);
}

/* Changes of that directory with smaller numbers become durable; all directories': dir NULL. */
static void apply_changes(struct disk *d, const struct sim_file *dir, uint64_t below)
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
    struct disk *d = disk_of(node);
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
    struct disk *d = disk_of(node);
    struct sim_file *dir = NULL;
    char name[MAX_NAME + 1];
    int rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    /* On a full disk there may be room in the directory and for the inode, or not. */
    if (d->used + d->eaten + PAGE > d->capacity && sim_chance(SIM_DISK, 0.5))
        return -ENOSPC;
    struct sim_file *f = new_file(d, false);
    set_now(d, dir, name, f);
    note_change(d, dir, name, NULL, f);
    *out = f;
    return 0;
}

int sim_fs_open(unsigned node, const char *path, int flags, struct sim_file **out)
{
    struct disk *d = disk_of(node);
    struct sim_file *f = NULL;
    int rc = sim_fs_find(node, path, &f);
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        if (rc == 0)
            f = new_file(d, false);
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
    charge(d, f);
    *out = f;
    return 0;
}

void sim_fs_unref(unsigned node, struct sim_file *f)
{
    mr_assert(f->refs > 0);
    f->refs--;
    release(disk_of(node), f);
}

int sim_fs_unlink(unsigned node, const char *path)
{
    struct disk *d = disk_of(node);
    struct sim_file *dir = NULL, *f = NULL;
    char name[MAX_NAME + 1];
    int rc = sim_fs_find(node, path, &f);
    if (rc != 0)
        return rc;
    if (f->dir)
        return -EISDIR;
    (void)resolve(d, path, &dir, name);
    note_change(d, dir, name, NULL, NULL);
    set_now(d, dir, name, NULL);
    return 0;
}

/* Within one directory: nobody here renames across. */
int sim_fs_rename(unsigned node, const char *from, const char *to)
{
    struct disk *d = disk_of(node);
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
    set_now(d, dir, to_name, f);
    set_now(d, dir, name, NULL);
    return 0;
}

int sim_fs_link(unsigned node, struct sim_file *f, const char *path)
{
    struct disk *d = disk_of(node);
    struct sim_file *dir = NULL;
    char name[MAX_NAME + 1];
    int rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    const struct entry *e = find_entry(dir, name);
    if (e != NULL && e->now != NULL)
        return -EEXIST;
    set_now(d, dir, name, f);
    note_change(d, dir, name, NULL, f);
    return 0;
}

int sim_fs_mkdir(unsigned node, const char *path)
{
    struct disk *d = disk_of(node);
    struct sim_file *dir = NULL, *f = NULL;
    char name[MAX_NAME + 1];
    int rc = sim_fs_find(node, path, &f);
    if (rc != -ENOENT)
        return rc == 0 ? -EEXIST : rc;
    rc = resolve(d, path, &dir, name);
    if (rc != 0)
        return rc;
    f = new_file(d, true);
    set_now(d, dir, name, f);
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

/* ---- content ---- */

static struct page *page_at(struct sim_file *f, size_t i)
{
    if (i >= f->n_pages) {
        size_t n = f->n_pages == 0 ? 4 : f->n_pages;
        while (n <= i)
            n *= 2;
        f->pages = mr_realloc(f->pages, n * sizeof(*f->pages));
        memset(f->pages + f->n_pages, 0, (n - f->n_pages) * sizeof(*f->pages));
        f->n_pages = n;
    }
    return &f->pages[i];
}

static uint8_t *copy_of(const uint8_t *page)
{
    return page == NULL ? NULL : mr_memdup(page, PAGE);
}

/* These bytes of the page will change. */
static void touch(struct sim_file *f, size_t i, size_t from, size_t to)
{
    struct page *p = page_at(f, i);
    unsigned mask = 0;
    for (size_t s = from / SECTOR; s * SECTOR < to; s++)
        mask |= 1U << s;
    if (p->syncing && p->since == 0)
        p->mid = copy_of(p->now);
    if (p->syncing)
        p->since = (uint8_t)(p->since | mask);
    if (p->failed) {
        p->failed = false; /* what it was stays: the page as a whole is written at the next sync */
        mask = 0xff;
    } else if (p->dirty == 0) {
        p->was = copy_of(p->now);
    }
    p->dirty = (uint8_t)(p->dirty | mask);
    if (f->dirty_low >= f->dirty_high) {
        f->dirty_low = i;
        f->dirty_high = i + 1;
    }
    if (i < f->dirty_low)
        f->dirty_low = i;
    if (i >= f->dirty_high)
        f->dirty_high = i + 1;
    if (p->now == NULL)
        p->now = mr_calloc(1, PAGE);
}

static void read_bytes(const struct sim_file *f, uint8_t *out, size_t len, uint64_t offset)
{
    while (len > 0) {
        size_t i = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
        size_t n = PAGE - at < len ? PAGE - at : len;
        const uint8_t *page = i < f->n_pages ? f->pages[i].now : NULL;
        if (page != NULL)
            memcpy(out, page + at, n);
        else
            memset(out, 0, n);
        out += n;
        offset += n;
        len -= n;
    }
}

static void write_bytes(struct sim_file *f, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        size_t i = (size_t)(offset / PAGE), at = (size_t)(offset % PAGE);
        size_t n = PAGE - at < len ? PAGE - at : len;
        touch(f, i, at, at + n);
        memcpy(f->pages[i].now + at, data, n);
        data += n;
        offset += n;
        len -= n;
    }
}

uint64_t sim_fs_data_end(const struct sim_file *f)
{
    size_t i = f->n_pages;
    while (i > 0 && f->pages[i - 1].now == NULL)
        i--;
    return i * PAGE < f->size ? i * PAGE : f->size;
}

bool sim_fs_next_data(const struct sim_file *f, uint64_t *offset)
{
    size_t i = (size_t)(*offset / PAGE);
    while (i < f->n_pages && f->pages[i].now == NULL)
        i++;
    if (i >= f->n_pages || i * PAGE >= f->size)
        return false;
    *offset = i * PAGE > *offset ? i * PAGE : *offset;
    return *offset < f->size;
}

ssize_t sim_fs_read(const struct sim_file *f, const struct iovec *iov, int count, uint64_t offset)
{
    ssize_t done = 0;
    if (f->dir)
        return -EISDIR;
    for (int i = 0; i < count && offset < f->size; i++) {
        size_t n = iov[i].iov_len;
        if (n > f->size - offset)
            n = (size_t)(f->size - offset);
        read_bytes(f, iov[i].iov_base, n, offset);
        offset += n;
        done += (ssize_t)n;
    }
    return done;
}

/* How far the file may reach, at most to `want`. */
static uint64_t reach(const struct disk *d, const struct sim_file *f, uint64_t want)
{
    uint64_t free_bytes = d->capacity > d->used + d->eaten ? d->capacity - d->used - d->eaten : 0;
    uint64_t most = f->charged + free_bytes / PAGE * PAGE;
    return want < most ? want : most;
}

ssize_t sim_fs_write(unsigned node, struct sim_file *f, const struct iovec *iov, int count, uint64_t offset)
{
    struct disk *d = disk_of(node);
    uint64_t len = 0, done = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    uint64_t end = reach(d, f, offset + len);
    if (len > 0 && end <= offset)
        return -ENOSPC;
    for (int i = 0; i < count && offset < end; i++) {
        size_t n = iov[i].iov_len;
        if (n > end - offset)
            n = (size_t)(end - offset);
        write_bytes(f, iov[i].iov_base, n, offset);
        offset += n;
        done += n;
    }
    if (offset > f->size)
        f->size = offset;
    if (offset > f->filled)
        f->filled = offset;
    charge(d, f);
    return (ssize_t)done;
}

/* All from there on reads as zeros, until the sync only now. */
static void clear_from(struct sim_file *f, uint64_t size)
{
    for (size_t i = (size_t)(size / PAGE); i < f->n_pages; i++) {
        size_t from = i == size / PAGE ? (size_t)(size % PAGE) : 0;
        if (f->pages[i].now == NULL)
            continue;
        touch(f, i, from, PAGE);
        memset(f->pages[i].now + from, 0, PAGE - from);
        if (from == 0) {
            free(f->pages[i].now);
            f->pages[i].now = NULL;
        }
    }
}

static void keep_up_to(struct sim_file *f, uint64_t size)
{
    f->allocated = f->allocated < size ? f->allocated : size;
    f->filled = f->filled < size ? f->filled : size;
}

int sim_fs_truncate(unsigned node, struct sim_file *f, uint64_t size)
{
    struct disk *d = disk_of(node);
    if (size < f->size)
        clear_from(f, size);
    f->size = size;
    keep_up_to(f, size);
    charge(d, f);
    return 0;
}

int sim_fs_allocate(unsigned node, struct sim_file *f, uint64_t offset, uint64_t len, bool grow)
{
    struct disk *d = disk_of(node);
    uint64_t end = offset + len;
    if (reach(d, f, end) < end)
        return -ENOSPC;
    if (end > f->allocated)
        f->allocated = end;
    if (grow && end > f->size)
        f->size = end;
    charge(d, f);
    return 0;
}

void sim_fs_space(unsigned node, uint64_t *available, uint64_t *total)
{
    const struct disk *d = disk_of(node);
    *available = d->capacity > d->used + d->eaten ? d->capacity - d->used - d->eaten : 0;
    *total = d->capacity;
}

/* ---- sync ---- */

void sim_fs_sync_begin(unsigned node, struct sim_file *f)
{
    /* With two at the same time, the end of either stores what was there at the begin of the later one. */
    f->syncing++;
    f->sync_size = f->dir ? disk_of(node)->next_change : f->size;
    for (size_t i = f->dirty_low; i < f->dirty_high; i++) {
        struct page *p = &f->pages[i];
        free(p->mid);
        p->mid = NULL;
        p->syncing = p->dirty != 0;
        p->since = 0;
    }
}

static void page_stored(struct page *p, bool ok)
{
    if (!ok) {
        p->failed = true;
        p->dirty = 0;
        free(p->mid);
        p->mid = NULL;
    } else if (p->since != 0) {
        free(p->was);
        p->was = p->mid;
        p->mid = NULL;
        p->dirty = p->since;
    } else {
        free(p->was);
        p->was = NULL;
        p->dirty = 0;
    }
    p->since = 0;
    p->syncing = false;
}

void sim_fs_sync_end(unsigned node, struct sim_file *f, bool ok)
{
    struct disk *d = disk_of(node);
    size_t low = SIZE_MAX, high = 0;
    mr_assert(f->syncing > 0);
    f->syncing--;
    if (f->dir) {
        if (ok)
            apply_changes(d, f, f->sync_size);
        return;
    }
    for (size_t i = f->dirty_low; i < f->dirty_high; i++) {
        struct page *p = &f->pages[i];
        if (p->syncing)
            page_stored(p, ok);
        if (p->dirty == 0 && !p->failed)
            continue;
        low = i < low ? i : low;
        high = i + 1;
    }
    f->dirty_low = low < high ? low : 0;
    f->dirty_high = high;
    if (ok)
        f->disk_size = f->sync_size < f->size ? f->sync_size : f->size;
}

static void end_syncs(struct sim_file *f)
{
    f->syncing = 0;
    for (size_t i = f->dirty_low; i < f->dirty_high; i++) {
        struct page *p = &f->pages[i];
        free(p->mid);
        p->mid = NULL;
        p->since = 0;
        p->syncing = false;
    }
}

void sim_fs_life_ended(unsigned node)
{
    for (struct sim_file *f = disk_of(node)->all; f != NULL; f = f->next)
        if (f->syncing > 0)
            end_syncs(f);
}

/* ---- power ---- */

enum fate { LOST, KEPT, PREFIX, RANDOM, FATES };

struct cut {
    enum fate fate;
    uint64_t left; /* of PREFIX: sectors that are kept */
};

static bool sector_kept(struct cut *c)
{
    switch (c->fate) {
    case LOST:
        return false;
    case KEPT:
        return true;
    case PREFIX:
        return c->left > 0 && c->left-- > 0;
    default:
        return sim_chance(SIM_DISK, 0.5);
    }
}

static void cut_page(struct page *p, struct cut *c)
{
    const uint8_t *lost = p->was;
    uint8_t *now = p->now != NULL ? p->now : mr_calloc(1, PAGE);
    if (p->mid != NULL && sim_chance(SIM_DISK, 0.5))
        lost = p->mid;
    for (unsigned s = 0; s < PAGE / SECTOR; s++) {
        bool dirty = p->failed || (p->dirty & (1U << s)) != 0;
        if (!dirty || (!p->failed && sector_kept(c)))
            continue;
        if (lost != NULL)
            memcpy(now + s * SECTOR, lost + s * SECTOR, SECTOR);
        else
            memset(now + s * SECTOR, 0, SECTOR);
    }
    free(p->was);
    free(p->mid);
    *p = (struct page){.now = now};
}

static uint64_t cut_size(const struct sim_file *f, enum fate fate)
{
    uint64_t low = f->size < f->disk_size ? f->size : f->disk_size;
    uint64_t high = f->size < f->disk_size ? f->disk_size : f->size;
    if (fate == LOST)
        return f->disk_size;
    if (fate == KEPT || low == high)
        return f->size;
    switch (sim_below(SIM_DISK, 3)) {
    case 0:
        return f->disk_size;
    case 1:
        return f->size;
    default:
        return sim_between(SIM_DISK, low, high);
    }
}

static void cut_file(struct disk *d, struct sim_file *f)
{
    uint64_t dirty = 0;
    for (size_t i = f->dirty_low; i < f->dirty_high; i++)
        dirty += (uint64_t)__builtin_popcount(f->pages[i].dirty);
    struct cut c = {.fate = KEPT};
    if (dirty > 0 || f->size != f->disk_size)
        c = (struct cut){.fate = (enum fate)sim_below(SIM_DISK, FATES), .left = sim_below(SIM_DISK, dirty + 1)};
    for (size_t i = f->dirty_low; i < f->dirty_high; i++)
        if (f->pages[i].dirty != 0 || f->pages[i].failed)
            cut_page(&f->pages[i], &c);
    uint64_t size = cut_size(f, c.fate);
    f->dirty_low = f->dirty_high = 0;
    f->size = size;
    clear_from(f, size);
    for (size_t i = f->dirty_low; i < f->dirty_high; i++) {
        free(f->pages[i].was);
        f->pages[i] = (struct page){.now = f->pages[i].now};
    }
    f->dirty_low = f->dirty_high = 0;
    f->disk_size = size;
    keep_up_to(f, size);
    charge(d, f);
}

static void cut_names(struct disk *d)
{
    uint64_t kept = 0;
    if (d->n_changes > 0)
        switch (sim_below(SIM_DISK, 4)) {
        case 0:
            break;
        case 1:
            kept = d->n_changes;
            break;
        default:
            kept = sim_below(SIM_DISK, d->n_changes + 1);
        }
    if (kept > 0)
        apply_changes(d, NULL, d->changes[kept - 1].number + 1);
    while (d->n_changes > 0)
        forget_change(d, &d->changes[--d->n_changes]);
}

/* What the disk has is what is. Restarts after each change, since a directory may go with all that is in it. */
static bool settle_names(struct disk *d)
{
    for (struct sim_file *dir = d->all; dir != NULL; dir = dir->next)
        for (size_t i = 0; i < dir->n_entries; i++) {
            struct entry *e = &dir->entries[i];
            if (e->now == e->disk)
                continue;
            char *name = mr_strdup(e->name);
            set_now(d, dir, name, e->disk);
            free(name);
            return true;
        }
    return false;
}

void sim_disk_power(unsigned node)
{
    struct disk *d = disk_of(node);
    sim_files_drop(node);
    cut_names(d);
    while (settle_names(d)) {
    }
    for (struct sim_file *f = d->all; f != NULL; f = f->next) {
        if (!f->dir)
            cut_file(d, f);
        end_syncs(f);
    }
}

/* ---- at rest ---- */

struct pick {
    const char *where;
    struct sim_file **files;
    size_t count;
};

static void gather(struct pick *p, const struct sim_file *dir, const char *path)
{
    for (size_t i = 0; i < dir->n_entries; i++) {
        struct sim_file *f = dir->entries[i].disk;
        if (f == NULL)
            continue;
        char *own = mr_asprintf("%s/%s", path, dir->entries[i].name);
        if (f->dir) {
            gather(p, f, own);
        } else if (strstr(own, p->where) != NULL && f->disk_size > 0) {
            p->files = mr_realloc(p->files, (p->count + 1) * sizeof(struct sim_file *));
            p->files[p->count++] = f;
        }
        free(own);
    }
}

static struct sim_file *pick_file(unsigned node, const char *where)
{
    struct pick p = {.where = where};
    gather(&p, disk_of(node)->root, "");
    struct sim_file *f = p.count > 0 ? p.files[sim_below(SIM_DISK, p.count)] : NULL;
    free(p.files);
    return f;
}

bool sim_disk_flip(unsigned node, const char *where)
{
    struct sim_file *f = pick_file(node, where);
    if (f == NULL)
        return false;
    /* Blocks that were only allocated are of no interest: look for another place a few times. */
    for (unsigned tries = 0; tries < 64; tries++) {
        uint64_t at = sim_below(SIM_DISK, f->disk_size);
        struct page *p = at / PAGE < f->n_pages ? &f->pages[at / PAGE] : NULL;
        bool two = p != NULL && (p->failed || (p->dirty & (1U << (at % PAGE / SECTOR))) != 0);
        uint8_t *bytes = p == NULL ? NULL : two ? p->was : p->now;
        if (bytes == NULL)
            continue;
        bytes[at % PAGE] = (uint8_t)(bytes[at % PAGE] ^ (1U << sim_below(SIM_DISK, 8)));
        sim_trace("disk_flip", at);
        return true;
    }
    return false;
}

bool sim_disk_truncate(unsigned node, const char *where)
{
    struct disk *d = disk_of(node);
    struct sim_file *f = pick_file(node, where);
    if (f == NULL)
        return false;
    f->size = sim_below(SIM_DISK, f->disk_size);
    sim_trace("disk_truncate", f->size);
    clear_from(f, f->size);
    sim_fs_sync_begin(node, f);
    sim_fs_sync_end(node, f, true);
    keep_up_to(f, f->size);
    charge(d, f);
    return true;
}

/* ---- life ---- */

void sim_disk_new(unsigned node)
{
    mr_assert(node >= 1 && node <= SIM_MAX_NODES);
    struct disk *d = &disks[node];
    if (d->there) {
        sim_files_drop(node);
        while (d->n_changes > 0)
            forget_change(d, &d->changes[--d->n_changes]);
        free(d->changes);
        d->root->names--;
        release(d, d->root);
    }
    *d = (struct disk){.there = true, .capacity = DEFAULT_CAPACITY, .next_file = 1, .next_change = 1};
    d->root = new_file(d, true);
    d->root->names = 1;
}

void sim_disk_size(unsigned node, uint64_t bytes)
{
    disk_of(node)->capacity = bytes;
}

void sim_disk_fault(unsigned node, enum sim_disk_fault fault, uint64_t value)
{
    struct disk *d = disk_of(node);
    switch (fault) {
    case SIM_DISK_SLOW:
        d->mood.slow_ns = value;
        break;
    case SIM_DISK_HANG:
        d->mood.hang = value != 0;
        d->mood.hang_writes = value != 0 && sim_chance(SIM_DISK, 0.25);
        break;
    case SIM_DISK_FULL: /* by somebody else: what is removed here is free again */
        d->eaten = value != 0 && d->capacity > d->used ? d->capacity - d->used : 0;
        break;
    case SIM_DISK_WRITE_FAILS:
        d->mood.write_fails = value;
        break;
    case SIM_DISK_SYNC_FAILS:
        d->mood.sync_fails = value;
        break;
    }
}
