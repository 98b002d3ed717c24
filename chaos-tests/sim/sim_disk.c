/* The disk of a node as the world has it: made anew, without power, damaged at rest, with faults. */
#include "chaos-tests/sim/sim_fs_internal.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_CAPACITY (UINT64_C(1) << 30)

static struct disk disks[SIM_MAX_NODES + 1];

struct disk *fs_disk_of(unsigned node)
{
    mr_assert(node >= 1 && node <= SIM_MAX_NODES);
    if (!disks[node].there)
        sim_disk_new(node);
    return &disks[node];
}

struct sim_disk_mood *sim_disk_mood(unsigned node)
{
    return &fs_disk_of(node)->mood;
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
    fs_clear_from(f, size);
    for (size_t i = f->dirty_low; i < f->dirty_high; i++) {
        free(f->pages[i].was);
        f->pages[i] = (struct page){.now = f->pages[i].now};
    }
    f->dirty_low = f->dirty_high = 0;
    f->disk_size = size;
    fs_keep_up_to(f, size);
    fs_charge(d, f);
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
        fs_apply_changes(d, NULL, d->changes[kept - 1].number + 1);
    while (d->n_changes > 0)
        fs_forget_change(d, &d->changes[--d->n_changes]);
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
            fs_set_now(d, dir, name, e->disk);
            free(name);
            return true;
        }
    return false;
}

void sim_disk_power(unsigned node)
{
    struct disk *d = fs_disk_of(node);
    sim_files_drop(node);
    cut_names(d);
    while (settle_names(d)) {
    }
    for (struct sim_file *f = d->all; f != NULL; f = f->next) {
        if (!f->dir)
            cut_file(d, f);
        fs_end_syncs(f);
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
    gather(&p, fs_disk_of(node)->root, "");
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
    struct disk *d = fs_disk_of(node);
    struct sim_file *f = pick_file(node, where);
    if (f == NULL)
        return false;
    f->size = sim_below(SIM_DISK, f->disk_size);
    sim_trace("disk_truncate", f->size);
    fs_clear_from(f, f->size);
    sim_fs_sync_begin(node, f);
    sim_fs_sync_end(node, f, true);
    fs_keep_up_to(f, f->size);
    fs_charge(d, f);
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
            fs_forget_change(d, &d->changes[--d->n_changes]);
        free(d->changes);
        d->root->names--;
        fs_release(d, d->root);
    }
    *d = (struct disk){.there = true, .capacity = DEFAULT_CAPACITY, .next_file = 1, .next_change = 1};
    d->root = fs_new_file(d, true);
    d->root->names = 1;
}

void sim_disk_size(unsigned node, uint64_t bytes)
{
    fs_disk_of(node)->capacity = bytes;
}

void sim_disk_fault(unsigned node, enum sim_disk_fault fault, uint64_t value)
{
    struct disk *d = fs_disk_of(node);
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
    case SIM_DISK_READS_FAIL:
        d->mood.reads_fail = value;
        if (value != 0)
            fs_cool(d);
        break;
    case SIM_DISK_FAULTS:
        mr_panic("no such fault");
    }
}
