/* SPDX-License-Identifier: EUPL-1.2 */
/* Records what a process writes to the files of one directory (RECORD_DIR), in order, with every completed flush, to RECORD_LOG.
 * Loaded with LD_PRELOAD. Each record: kind, length of the name, offset, length of the data; name; data.
 * kind: w write, t truncate (offset = new size), s flushed, u unlinked. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char *names[1024];

struct head { uint32_t kind, name; uint64_t offset, size; };

static int raw_write(const void *p, size_t n) { return (int)syscall(SYS_write, log_fd, p, n); }

static void record(uint32_t kind, const char *name, uint64_t offset, const void *data, uint64_t size) {
	struct head h = {kind, (uint32_t)strlen(name), offset, size};
	static char buf[1 << 20];
	size_t n = sizeof h + h.name + (data ? size : 0);
	if (log_fd < 0) log_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (n > sizeof buf) abort();
	memcpy(buf, &h, sizeof h);
	memcpy(buf + sizeof h, name, h.name);
	if (data) memcpy(buf + sizeof h + h.name, data, size);
	if (raw_write(buf, n) != (int)n) abort();
}

static void opened(int fd, const char *path) {
	const char *dir = getenv("RECORD_DIR"), *base = strrchr(path, '/');
	if (fd < 0 || fd >= 1024 || !dir || !base || strncmp(path, dir, strlen(dir)) != 0) return;
	if (strlen(base) > 4 && strcmp(base + strlen(base) - 4, "-shm") == 0) return;
	pthread_mutex_lock(&mu);
	free(names[fd]);
	names[fd] = strdup(base + 1);
	pthread_mutex_unlock(&mu);
}

#define NAME(fd) ((fd) >= 0 && (fd) < 1024 ? names[fd] : NULL)
#define NEXT(f) ((__typeof__(&f))dlsym(RTLD_NEXT, #f))

#define OPEN(f) \
	int f(const char *path, int flags, ...) { \
		va_list a; va_start(a, flags); mode_t mode = va_arg(a, mode_t); va_end(a); \
		int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); opened(fd, path); return fd; }
OPEN(open)
OPEN(open64)
#define OPENAT(f) \
	int f(int at, const char *path, int flags, ...) { \
		va_list a; va_start(a, flags); mode_t mode = va_arg(a, mode_t); va_end(a); \
		int fd = (int)syscall(SYS_openat, at, path, flags, mode); opened(fd, path); return fd; }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
	pthread_mutex_lock(&mu);
	if (NAME(fd)) { free(names[fd]); names[fd] = NULL; }
	pthread_mutex_unlock(&mu);
	return (int)syscall(SYS_close, fd);
}

#define PWRITE(f) \
	ssize_t f(int fd, const void *p, size_t n, off_t at) { \
		pthread_mutex_lock(&mu); \
		ssize_t r = syscall(SYS_pwrite64, fd, p, n, at); \
		if (r > 0 && NAME(fd)) record('w', names[fd], (uint64_t)at, p, (uint64_t)r); \
		int e = errno; pthread_mutex_unlock(&mu); errno = e; return r; }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *p, size_t n) {
	pthread_mutex_lock(&mu);
	off_t at = NAME(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
	ssize_t r = syscall(SYS_write, fd, p, n);
	if (r > 0 && NAME(fd)) record('w', names[fd], (uint64_t)at, p, (uint64_t)r);
	int e = errno; pthread_mutex_unlock(&mu); errno = e; return r;
}

#define TRUNCATE(f) \
	int f(int fd, off_t size) { \
		pthread_mutex_lock(&mu); \
		int r = (int)syscall(SYS_ftruncate, fd, size); \
		if (r == 0 && NAME(fd)) record('t', names[fd], (uint64_t)size, NULL, 0); \
		int e = errno; pthread_mutex_unlock(&mu); errno = e; return r; }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* The note is taken for what was written before the flush began; the lock keeps later writes behind it. */
#define SYNC(f, nr) \
	int f(int fd) { \
		pthread_mutex_lock(&mu); \
		int r = (int)syscall(nr, fd); \
		if (r == 0 && NAME(fd)) record('s', names[fd], 0, NULL, 0); \
		int e = errno; pthread_mutex_unlock(&mu); errno = e; return r; }
SYNC(fsync, SYS_fsync)
SYNC(fdatasync, SYS_fdatasync)

int unlink(const char *path) {
	const char *dir = getenv("RECORD_DIR"), *base = strrchr(path, '/');
	pthread_mutex_lock(&mu);
	int r = (int)syscall(SYS_unlink, path);
	if (r == 0 && dir && base && strncmp(path, dir, strlen(dir)) == 0) record('u', base + 1, 0, NULL, 0);
	int e = errno; pthread_mutex_unlock(&mu); errno = e; return r;
}
