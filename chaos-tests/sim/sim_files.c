/* What mailraft's libraries ask of POSIX about files (the linker's --wrap, files.cmake), answered from the simulated
 * disk of the node whose code runs; outside of a node the real call is made, unless the world asked to see a node's
 * disk (sim_files_as).
 *
 * A call that changes something begins and ends with a step (the node may die before it, or after it without having
 * seen the answer). Writes go to the page cache and take no time; syncs do; on a disk that hangs, syncs and changes of
 * names wait, writes too in some hangs. Descriptors belong to a life: with the first call of the next one they are
 * gone, and with them locks. They begin high, so that a real one that strays in here is seen. */
#include "chaos-tests/sim/sim_fs.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FIRST_FD = 1 << 20, MAX_FDS = 1024, HANG_POLL_NS = 5000000 };

struct descriptor {
    struct sim_file *file; /* NULL: free */
    int flags;
    bool locked;
};

struct table {
    uint64_t life;
    struct descriptor fds[MAX_FDS];
};

static struct table tables[SIM_MAX_NODES + 1];
static unsigned seen_as; /* sim_files_as */

int __real_open(const char *path, int flags, ...);
int __real_close(int fd);
ssize_t __real_pread(int fd, void *data, size_t len, off_t offset);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __real_preadv(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __real_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __real_pwritev(int fd, const struct iovec *iov, int count, off_t offset);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_ftruncate(int fd, off_t size);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);
int __real_posix_fallocate(int fd, off_t offset, off_t len);
int __real_fstat(int fd, struct stat *st);
int __real_stat(const char *path, struct stat *st);
int __real_access(const char *path, int mode);
int __real_unlink(const char *path);
int __real_rename(const char *from, const char *to);
int __real_mkdir(const char *path, mode_t mode);
DIR *__real_opendir(const char *path);
struct dirent *__real_readdir(DIR *dir);
int __real_closedir(DIR *dir);
int __real_statvfs(const char *path, struct statvfs *out);
int __real_flock(int fd, int operation);
off_t __real_lseek(int fd, off_t offset, int whence);
long __real_syscall(long number, ...);

int __wrap_open(const char *path, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_pread(int fd, void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_preadv(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags);
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int count, off_t offset);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);
int __wrap_posix_fallocate(int fd, off_t offset, off_t len);
int __wrap_fstat(int fd, struct stat *st);
int __wrap_stat(const char *path, struct stat *st);
int __wrap_access(const char *path, int mode);
int __wrap_unlink(const char *path);
int __wrap_rename(const char *from, const char *to);
int __wrap_mkdir(const char *path, mode_t mode);
DIR *__wrap_opendir(const char *path);
struct dirent *__wrap_readdir(DIR *dir);
int __wrap_closedir(DIR *dir);
int __wrap_statvfs(const char *path, struct statvfs *out);
int __wrap_flock(int fd, int operation);
off_t __wrap_lseek(int fd, off_t offset, int whence);
long __wrap_syscall(long number, ...);

/* ---- whose call it is ---- */

void sim_files_as(unsigned node)
{
    seen_as = node;
}

/* 0: a real call. */
static unsigned whose(void)
{
    unsigned node = sim_node();
    if (node != 0 && tables[node].life != sim_node_life(node)) {
        sim_files_drop(node);
        tables[node].life = sim_node_life(node);
    }
    return node != 0 ? node : seen_as;
}

void sim_files_drop(unsigned node)
{
    struct table *t = &tables[node];
    for (int i = 0; i < MAX_FDS; i++)
        if (t->fds[i].file != NULL)
            sim_fs_unref(node, t->fds[i].file);
    memset(t->fds, 0, sizeof(t->fds));
    sim_fs_life_ended(node);
}

/* NULL and errno: not open. */
static struct descriptor *descriptor_of(unsigned node, int fd)
{
    struct descriptor *d = fd < FIRST_FD || fd >= FIRST_FD + MAX_FDS ? NULL : &tables[node].fds[fd - FIRST_FD];
    if (d == NULL || d->file == NULL) {
        errno = EBADF;
        return NULL;
    }
    return d;
}

static int result_of(int rc)
{
    if (rc >= 0)
        return rc;
    errno = -rc;
    return -1;
}

/* ---- steps, time, faults ---- */

static void step(const char *what)
{
    if (sim_node() != 0)
        sim_step(what);
}

static void wait_for_disk(unsigned node)
{
    while (sim_node() != 0 && sim_disk_mood(node)->hang)
        sim_block(HANG_POLL_NS);
}

/* Before a call that changes names or sizes. */
static void begin_change(unsigned node, const char *what)
{
    step(what);
    wait_for_disk(node);
}

static bool fails_now(uint64_t *countdown)
{
    if (sim_node() == 0 || *countdown == 0)
        return false;
    return --*countdown == 0;
}

/* A bad moment of the disk or its cable: the same read is well when it is tried again. */
static bool read_fails(unsigned node, const struct sim_file *file, uint64_t offset, uint64_t len)
{
    struct sim_disk_mood *mood = sim_disk_mood(node);
    if (sim_node() == 0 || seen_as != 0 || mood->reads_fail == 0 || !sim_fs_cold(file, offset, len))
        return false;
    for (unsigned i = 0; i < SIM_FAILED_READS; i++)
        if (mood->failed[i].file == file && mood->failed[i].offset == offset) {
            mood->failed[i].file = NULL;
            return false;
        }
    if (sim_below(SIM_DISK, mood->reads_fail) != 0)
        return false;
    mood->failed[mood->n_failed].file = file;
    mood->failed[mood->n_failed].offset = offset;
    mood->n_failed = (mood->n_failed + 1) % SIM_FAILED_READS;
    sim_see("disk: ", "read failed");
    return true;
}

uint64_t sim_file_sync_time(unsigned node)
{
    const struct sim_disk_mood *mood = sim_disk_mood(node);
    if (mood->hang)
        return UINT64_MAX;
    uint64_t ns = sim_between(SIM_DISK, 100000, 2000000);
    if (sim_chance(SIM_DISK, 0.01))
        ns = 50000000;
    return ns + mood->slow_ns;
}

/* ---- descriptors ---- */

static int sim_open(unsigned node, const char *path, int flags)
{
    struct table *t = &tables[node];
    bool changes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    struct sim_file *f = NULL;
    int i = 0;
    if (changes)
        begin_change(node, "open");
    while (i < MAX_FDS && t->fds[i].file != NULL)
        i++;
    int rc = i == MAX_FDS ? -EMFILE : sim_fs_open(node, path, flags, &f);
    if (rc == 0)
        t->fds[i] = (struct descriptor){.file = f, .flags = flags};
    if (changes)
        step("opened");
    return result_of(rc == 0 ? FIRST_FD + i : rc);
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    unsigned node = whose();
    return node == 0 ? __real_open(path, flags, mode) : sim_open(node, path, flags);
}

int __wrap_close(int fd)
{
    unsigned node = whose();
    if (node == 0)
        return __real_close(fd);
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    struct sim_file *f = d->file;
    *d = (struct descriptor){0};
    sim_fs_unref(node, f);
    return 0;
}

int __wrap_flock(int fd, int operation)
{
    unsigned node = whose();
    if (node == 0)
        return __real_flock(fd, operation);
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    for (int i = 0; i < MAX_FDS && operation != LOCK_UN; i++) {
        const struct descriptor *other = &tables[node].fds[i];
        if (other != d && other->file == d->file && other->locked)
            return result_of(-EWOULDBLOCK);
    }
    d->locked = operation != LOCK_UN;
    return 0;
}

/* ---- content ---- */

ssize_t __wrap_preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    unsigned node = whose();
    if (node == 0)
        return __real_preadv(fd, iov, count, offset);
    const struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    uint64_t len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    ssize_t n;
    if ((d->flags & O_ACCMODE) == O_WRONLY)
        n = -EBADF;
    else if (read_fails(node, d->file, (uint64_t)offset, len))
        n = -EIO;
    else
        n = sim_fs_read(d->file, iov, count, (uint64_t)offset);
    return n < 0 ? result_of((int)n) : n;
}

/* With RWF_NOWAIT: now and then the bytes are not in memory. */
ssize_t __wrap_preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (whose() == 0)
        return __real_preadv2(fd, iov, count, offset, flags);
    if ((flags & RWF_NOWAIT) != 0 && sim_chance(SIM_DISK, 0.2))
        return result_of(-EAGAIN);
    return __wrap_preadv(fd, iov, count, offset);
}

ssize_t __wrap_pread(int fd, void *data, size_t len, off_t offset)
{
    struct iovec iov = {data, len};
    return whose() == 0 ? __real_pread(fd, data, len, offset) : __wrap_preadv(fd, &iov, 1, offset);
}

ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    unsigned node = whose();
    if (node == 0)
        return __real_pwritev(fd, iov, count, offset);
    step("write");
    while (sim_node() != 0 && sim_disk_mood(node)->hang_writes)
        sim_block(HANG_POLL_NS);
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    ssize_t n;
    if ((d->flags & O_ACCMODE) == O_RDONLY)
        n = -EBADF;
    else if (fails_now(&sim_disk_mood(node)->write_fails))
        n = -EIO;
    else
        n = sim_fs_write(node, d->file, iov, count, (uint64_t)offset);
    step("written");
    return n < 0 ? result_of((int)n) : n;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};
    return whose() == 0 ? __real_pwrite(fd, data, len, offset) : __wrap_pwritev(fd, &iov, 1, offset);
}

int __wrap_ftruncate(int fd, off_t size)
{
    unsigned node = whose();
    if (node == 0)
        return __real_ftruncate(fd, size);
    begin_change(node, "ftruncate");
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    int rc = sim_fs_truncate(node, d->file, (uint64_t)size);
    step("truncated");
    return result_of(rc);
}

static int allocate(unsigned node, int fd, off_t offset, off_t len, bool grow)
{
    begin_change(node, "fallocate");
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -EBADF;
    int rc = sim_fs_allocate(node, d->file, (uint64_t)offset, (uint64_t)len, grow);
    step("allocated");
    return rc;
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
    unsigned node = whose();
    if (node == 0)
        return __real_fallocate(fd, mode, offset, len);
    mr_assert((mode & ~FALLOC_FL_KEEP_SIZE) == 0);
    return result_of(allocate(node, fd, offset, len, mode == 0));
}

int __wrap_posix_fallocate(int fd, off_t offset, off_t len)
{
    unsigned node = whose();
    return node == 0 ? __real_posix_fallocate(fd, offset, len) : -allocate(node, fd, offset, len, true);
}

/* ---- sync ---- */

int sim_file_sync(int fd, bool data_only)
{
    unsigned node = whose();
    mr_assert(node != 0);
    step(data_only ? "fdatasync" : "fsync");
    struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -EBADF;
    struct sim_file *f = d->file;
    sim_fs_sync_begin(node, f);
    if (sim_node() != 0) {
        wait_for_disk(node);
        sim_block(sim_file_sync_time(node));
        wait_for_disk(node);
    }
    d = descriptor_of(node, fd);
    if (d == NULL || d->file != f)
        return -EBADF; /* closed by another thread meanwhile */
    bool failed = fails_now(&sim_disk_mood(node)->sync_fails);
    sim_fs_sync_end(node, f, !failed);
    step("synced");
    return failed ? -EIO : 0;
}

int __wrap_fsync(int fd)
{
    return whose() == 0 ? __real_fsync(fd) : result_of(sim_file_sync(fd, false));
}

int __wrap_fdatasync(int fd)
{
    return whose() == 0 ? __real_fdatasync(fd) : result_of(sim_file_sync(fd, true));
}

void sim_file_sync_begin(int fd)
{
    unsigned node = whose();
    struct descriptor *d = descriptor_of(node, fd);
    mr_assert(d != NULL);
    sim_fs_sync_begin(node, d->file);
}

int sim_file_sync_end(int fd)
{
    unsigned node = whose();
    struct descriptor *d = descriptor_of(node, fd);
    mr_assert(d != NULL);
    bool failed = fails_now(&sim_disk_mood(node)->sync_fails);
    sim_fs_sync_end(node, d->file, !failed);
    return failed ? -EIO : 0;
}

uint64_t sim_file_data_end(int fd)
{
    const struct descriptor *d = descriptor_of(whose(), fd);
    return d == NULL ? 0 : sim_fs_data_end(d->file);
}

/* ---- names ---- */

int __wrap_unlink(const char *path)
{
    unsigned node = whose();
    if (node == 0)
        return __real_unlink(path);
    begin_change(node, "unlink");
    int rc = sim_fs_unlink(node, path);
    step("unlinked");
    return result_of(rc);
}

int __wrap_rename(const char *from, const char *to)
{
    unsigned node = whose();
    if (node == 0)
        return __real_rename(from, to);
    begin_change(node, "rename");
    int rc = sim_fs_rename(node, from, to);
    step("renamed");
    return result_of(rc);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    unsigned node = whose();
    if (node == 0)
        return __real_mkdir(path, mode);
    begin_change(node, "mkdir");
    int rc = sim_fs_mkdir(node, path);
    step("made");
    return result_of(rc);
}

int sim_file_link(int fd, const char *path)
{
    unsigned node = whose();
    mr_assert(node != 0);
    begin_change(node, "link");
    struct descriptor *d = descriptor_of(node, fd);
    int rc = d == NULL ? -EBADF : sim_fs_link(node, d->file, path);
    step("linked");
    return rc;
}

/* ---- looking ---- */

static void fill_stat(const struct sim_file *f, struct stat *st)
{
    *st = (struct stat){.st_ino = sim_fs_number(f),
                        .st_mode = sim_fs_is_dir(f) ? S_IFDIR | 0700 : S_IFREG | 0600,
                        .st_size = (off_t)sim_fs_size(f),
                        .st_blksize = 4096,
                        .st_nlink = 1};
}

int __wrap_fstat(int fd, struct stat *st)
{
    unsigned node = whose();
    if (node == 0)
        return __real_fstat(fd, st);
    const struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    fill_stat(d->file, st);
    return 0;
}

/* Only where the data are: nobody here has a position. */
off_t __wrap_lseek(int fd, off_t offset, int whence)
{
    unsigned node = whose();
    if (node == 0)
        return __real_lseek(fd, offset, whence);
    mr_assert(whence == SEEK_DATA);
    const struct descriptor *d = descriptor_of(node, fd);
    if (d == NULL)
        return -1;
    if (!sim_fs_next_data(d->file, (uint64_t *)&offset))
        return result_of(-ENXIO);
    return offset;
}

int __wrap_stat(const char *path, struct stat *st)
{
    unsigned node = whose();
    struct sim_file *f = NULL;
    if (node == 0)
        return __real_stat(path, st);
    int rc = sim_fs_find(node, path, &f);
    if (rc == 0)
        fill_stat(f, st);
    return result_of(rc);
}

int __wrap_access(const char *path, int mode)
{
    unsigned node = whose();
    struct sim_file *f = NULL;
    return node == 0 ? __real_access(path, mode) : result_of(sim_fs_find(node, path, &f));
}

int __wrap_statvfs(const char *path, struct statvfs *out)
{
    unsigned node = whose();
    struct sim_file *f = NULL;
    uint64_t available, total;
    if (node == 0)
        return __real_statvfs(path, out);
    int rc = sim_fs_find(node, path, &f);
    sim_fs_space(node, &available, &total);
    *out = (struct statvfs){.f_bsize = 4096,
                            .f_frsize = 4096,
                            .f_blocks = total / 4096,
                            .f_bfree = available / 4096,
                            .f_bavail = available / 4096,
                            .f_files = 1 << 20,
                            .f_ffree = 1 << 19,
                            .f_favail = 1 << 19};
    return result_of(rc);
}

/* Names are copied at opendir, in an order by chance, as a hash gives it. */
struct listing {
    char **names;
    size_t count, next;
    struct dirent entry;
};

DIR *__wrap_opendir(const char *path)
{
    unsigned node = whose();
    struct sim_file *f = NULL;
    const char *name;
    if (node == 0)
        return __real_opendir(path);
    int rc = sim_fs_find(node, path, &f);
    if (rc == 0 && !sim_fs_is_dir(f))
        rc = -ENOTDIR;
    if (rc != 0) {
        errno = -rc;
        return NULL;
    }
    struct listing *l = mr_calloc(1, sizeof(*l));
    size_t next = 0;
    while ((name = sim_fs_name(f, &next)) != NULL) {
        size_t at = sim_node() == 0 ? l->count : (size_t)sim_below(SIM_DISK, l->count + 1);
        l->names = mr_realloc(l->names, (l->count + 1) * sizeof(char *));
        if (at < l->count)
            l->names[l->count] = l->names[at];
        l->names[at] = mr_strdup(name);
        l->count++;
    }
    return (DIR *)l;
}

struct dirent *__wrap_readdir(DIR *dir)
{
    if (whose() == 0)
        return __real_readdir(dir);
    struct listing *l = (struct listing *)dir;
    if (l->next == l->count)
        return NULL;
    strncpy(l->entry.d_name, l->names[l->next++], sizeof(l->entry.d_name) - 1);
    return &l->entry;
}

int __wrap_closedir(DIR *dir)
{
    if (whose() == 0)
        return __real_closedir(dir);
    struct listing *l = (struct listing *)dir;
    for (size_t i = 0; i < l->count; i++)
        free(l->names[i]);
    free(l->names);
    free(l);
    return 0;
}

/* replica_io.c asks whether there are contexts for asynchronous writes: in a node there are. */
long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list args;
    va_start(args, number);
    for (size_t i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (sim_node() != 0 && (number == SYS_io_setup || number == SYS_io_destroy))
        return 0;
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
