/* What files hold, and when it is durable. */
#include "chaos-tests/sim/sim_fs_internal.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

/* A new page: zeros but where it is to be written at once. */
static uint8_t *page_new(size_t from, size_t to)
{
    uint8_t *page = mr_malloc(PAGE);
    memset(page, 0, from);
    memset(page + to, 0, PAGE - to);
    return page;
}

/* The caller writes these bytes of the page, all of them. */
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
        p->now = page_new(from, to);
}

void fs_cool(struct disk *d)
{
    for (struct sim_file *f = d->all; f != NULL; f = f->next)
        for (size_t i = 0; i < f->n_pages; i++)
            f->pages[i].cold = f->pages[i].now != NULL && f->pages[i].dirty == 0 && !f->pages[i].failed;
}

static void warm(struct sim_file *f, uint64_t offset, uint64_t len)
{
    for (size_t i = (size_t)(offset / PAGE); i < f->n_pages && i * PAGE < offset + len; i++)
        f->pages[i].cold = false;
}

bool sim_fs_cold(const struct sim_file *f, uint64_t offset, uint64_t len)
{
    for (size_t i = (size_t)(offset / PAGE); i < f->n_pages && i * PAGE < offset + len; i++)
        if (f->pages[i].cold)
            return true;
    return false;
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
        f->pages[i].cold = false;
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

ssize_t sim_fs_read(struct sim_file *f, const struct iovec *iov, int count, uint64_t offset)
{
    ssize_t done = 0;
    if (f->dir)
        return -EISDIR;
    for (int i = 0; i < count && offset < f->size; i++) {
        size_t n = iov[i].iov_len;
        if (n > f->size - offset)
            n = (size_t)(f->size - offset);
        read_bytes(f, iov[i].iov_base, n, offset);
        warm(f, offset, n);
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
    struct disk *d = fs_disk_of(node);
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
    fs_charge(d, f);
    return (ssize_t)done;
}

void fs_clear_from(struct sim_file *f, uint64_t size)
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

void fs_keep_up_to(struct sim_file *f, uint64_t size)
{
    f->allocated = f->allocated < size ? f->allocated : size;
    f->filled = f->filled < size ? f->filled : size;
}

int sim_fs_truncate(unsigned node, struct sim_file *f, uint64_t size)
{
    struct disk *d = fs_disk_of(node);
    if (size < f->size)
        fs_clear_from(f, size);
    f->size = size;
    fs_keep_up_to(f, size);
    fs_charge(d, f);
    return 0;
}

int sim_fs_allocate(unsigned node, struct sim_file *f, uint64_t offset, uint64_t len, bool grow)
{
    struct disk *d = fs_disk_of(node);
    uint64_t end = offset + len;
    if (reach(d, f, end) < end)
        return -ENOSPC;
    if (end > f->allocated)
        f->allocated = end;
    if (grow && end > f->size)
        f->size = end;
    fs_charge(d, f);
    return 0;
}

void sim_fs_space(unsigned node, uint64_t *available, uint64_t *total)
{
    const struct disk *d = fs_disk_of(node);
    *available = d->capacity > d->used + d->eaten ? d->capacity - d->used - d->eaten : 0;
    *total = d->capacity;
}

/* ---- sync ---- */

void sim_fs_sync_begin(unsigned node, struct sim_file *f)
{
    /* With two at the same time, the end of either stores what was there at the begin of the later one. */
    f->syncing++;
    f->sync_size = f->dir ? fs_disk_of(node)->next_change : f->size;
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
    struct disk *d = fs_disk_of(node);
    size_t low = SIZE_MAX, high = 0;
    mr_assert(f->syncing > 0);
    f->syncing--;
    if (f->dir) {
        if (ok)
            fs_apply_changes(d, f, f->sync_size);
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

void fs_end_syncs(struct sim_file *f)
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
    for (struct sim_file *f = fs_disk_of(node)->all; f != NULL; f = f->next)
        if (f->syncing > 0)
            fs_end_syncs(f);
}
