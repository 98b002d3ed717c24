/* sim_fs.h - inside of the simulated disk: a file system a node, its page cache against what is durable.
 *
 * Here nothing takes time, no thread waits and no single call fails by a fault: that is sim_files.c. A name is durable
 * after an fsync of its directory and not before (stricter than ext4, where an fsync of a new file does it as well),
 * the content and the size of a file after an fsync or fdatasync of it. Results below 0 are -errno. Thread: there is
 * one. */
#ifndef MR_SIM_FS_H
#define MR_SIM_FS_H

#include "chaos-tests/sim/sim.h"

#include <sys/uio.h>

struct sim_file; /* an inode */

enum { SIM_FAILED_READS = 16 };

/* How the disk of a node behaves; sim_disk_fault sets it. */
struct sim_disk_mood {
    uint64_t slow_ns;
    bool hang, hang_writes;
    uint64_t write_fails, sync_fails; /* n-th from now; 0: none */
    uint64_t reads_fail;              /* one in so many; 0: none */
    struct {
        const struct sim_file *file;
        uint64_t offset;
    } failed[SIM_FAILED_READS]; /* the last ones: these are well the next time */
    unsigned n_failed;          /* where the next one goes */
};
struct sim_disk_mood *sim_disk_mood(unsigned node);

/* O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY and O_TMPFILE count. The caller holds a reference until sim_fs_unref. */
int sim_fs_open(unsigned node, const char *path, int flags, struct sim_file **out);
void sim_fs_unref(unsigned node, struct sim_file *f);
bool sim_fs_is_dir(const struct sim_file *f);
uint64_t sim_fs_size(const struct sim_file *f);
uint64_t sim_fs_number(const struct sim_file *f);
uint64_t sim_fs_data_end(const struct sim_file *f);                /* behind it there are only zeros */
bool sim_fs_next_data(const struct sim_file *f, uint64_t *offset); /* from there on; false: none */
/* Whether a read of it asks the disk. */
bool sim_fs_cold(const struct sim_file *f, uint64_t offset, uint64_t len);
ssize_t sim_fs_read(struct sim_file *f, const struct iovec *iov, int count, uint64_t offset);
/* Short when the space ends on the way. */
ssize_t sim_fs_write(unsigned node, struct sim_file *f, const struct iovec *iov, int count, uint64_t offset);
int sim_fs_truncate(unsigned node, struct sim_file *f, uint64_t size);
/* grow: the size becomes at least offset + len, as by posix_fallocate. */
int sim_fs_allocate(unsigned node, struct sim_file *f, uint64_t offset, uint64_t len, bool grow);
/* What is dirty at the begin is durable after the end; what is written in between needs another sync. After an end with
 * ok false it is clean and never becomes durable, as with Linux. Of a directory: its names. */
void sim_fs_sync_begin(unsigned node, struct sim_file *f);
void sim_fs_sync_end(unsigned node, struct sim_file *f, bool ok);
int sim_fs_unlink(unsigned node, const char *path);
int sim_fs_rename(unsigned node, const char *from, const char *to);
int sim_fs_link(unsigned node, struct sim_file *f, const char *path);
int sim_fs_mkdir(unsigned node, const char *path);
/* -ENOENT, or 0. */
int sim_fs_find(unsigned node, const char *path, struct sim_file **out); /* not referenced */
const char *sim_fs_name(const struct sim_file *dir, size_t *at);         /* NULL: no more; *at begins with 0 */
void sim_fs_space(unsigned node, uint64_t *available, uint64_t *total);

/* Descriptors and locks of a life that has ended are gone (sim_files.c calls it before the next life's first call). */
void sim_fs_life_ended(unsigned node);

/* ---- sim_files.c ---- */
void sim_files_drop(unsigned node); /* forgets the descriptors of a node's last life */
/* For asynchronous writes (sim_raft_io.c): nothing blocks. The time that a sync takes now; UINT64_MAX: the disk hangs,
 * ask again later. What was dirty at begin is durable after end; end: 0 or -EIO. */
uint64_t sim_file_sync_time(unsigned node);
void sim_file_sync_begin(int fd);
int sim_file_sync_end(int fd);
uint64_t sim_file_data_end(int fd);
/* As linkat(2) of a file that was opened with O_TMPFILE; 0 or -errno. */
int sim_file_link(int fd, const char *path);

#endif
