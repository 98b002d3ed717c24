/* sim_fs_internal.h - the simulated file system's parts to each other: names (sim_fs_names.c), content
 * (sim_fs_content.c), power and damage (sim_disk.c).
 *
 * A file is pages of 4 KiB. A page has what programs read (now), what a power cut would leave (was, while some of its
 * sectors are dirty) and, while a sync is on the way, what that sync was asked to store (mid, if it was written again).
 * Names have the same two sides: an entry of a directory points to a file now and to one on the disk, and the changes
 * between them are a list in order, of which a power cut leaves a prefix. Space is what files are written up to or were
 * given ahead; nobody here writes behind holes. Memory: pages that were never written are none. */
#ifndef MR_SIM_FS_INTERNAL_H
#define MR_SIM_FS_INTERNAL_H

#include "chaos-tests/sim/sim_fs.h"

enum { PAGE = 4096, SECTOR = 512, MAX_NAME = 255 };

struct page {
    uint8_t *now;  /* NULL: zeros */
    uint8_t *was;  /* while dirty or failed; NULL: zeros */
    uint8_t *mid;  /* of a sync under way, when it was written since */
    uint8_t dirty; /* bit i: sector i */
    uint8_t since; /* written since that sync began */
    bool syncing;
    bool failed; /* clean, and not what the disk has */
    bool cold;   /* not in memory: a read asks the disk */
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

struct disk *fs_disk_of(unsigned node);

/* ---- names ---- */
struct sim_file *fs_new_file(struct disk *d, bool dir);
/* The space that it takes has changed. */
void fs_charge(struct disk *d, struct sim_file *f);
/* Charges it, or frees it when nothing points to it. */
void fs_release(struct disk *d, struct sim_file *f);
void fs_set_now(struct disk *d, struct sim_file *dir, const char *name, struct sim_file *f);
/* Changes of that directory with smaller numbers become durable; all directories': dir NULL. */
void fs_apply_changes(struct disk *d, const struct sim_file *dir, uint64_t below);
void fs_forget_change(struct disk *d, struct change *c);

/* ---- content ---- */
/* All from there on reads as zeros, until the sync only now. */
void fs_clear_from(struct sim_file *f, uint64_t size);
/* Blocks behind that size are given back. */
void fs_keep_up_to(struct sim_file *f, uint64_t size);
void fs_end_syncs(struct sim_file *f);
/* Memory was short: what is clean has to be read from the disk again. */
void fs_cool(struct disk *d);

#endif
