// The C library as a program sees it on a bad day. Preloaded, it counts the calls on files in one
// folder, and fails some of them: those from number `from` to before number `to`.
//
// The orders stand in `struct orders`, in this library, or in the file that the environment variable
// QUOTESHM_FAULTS names, so that another process can give them and look on. A call counts for its
// path, or for the path of its descriptor; memory that no file backs is left alone, and so are the
// descriptors 0 to 2.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NAME 16
#define TRACED 8192
#define MAPS 64

struct orders {  // tests/campaigns/faults_shim.py has the same
  char folder[256];
  long from, to;
  long error;
  long calls, failed;
  char names[TRACED][NAME];
};

static struct orders own;
static struct orders *orders = &own;
static struct { char *start; size_t size; } maps[MAPS];
static long map_count;

struct orders *faults_orders(void) { return orders; }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("QUOTESHM_FAULTS");
  if (path == NULL) return;
  long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) abort();
  long at = syscall(SYS_mmap, NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at < 0 && at > -4096) abort();
  orders = (struct orders *)at;
  syscall(SYS_close, fd);
}

// Tell the error of this call, or 0.
static int due(const char *name) {
  long number = __atomic_add_fetch(&orders->calls, 1, __ATOMIC_SEQ_CST);
  if (number <= TRACED) strncpy(orders->names[number - 1], name, NAME - 1);
  if (number < orders->from || number >= orders->to) return 0;
  __atomic_add_fetch(&orders->failed, 1, __ATOMIC_SEQ_CST);
  return (int)orders->error;
}

static int is_inside(const char *path) {
  size_t size = strlen(orders->folder);
  return size && path && !strncmp(path, orders->folder, size) && (!path[size] || path[size] == '/');
}

static int of_path(const char *name, const char *path) {
  return is_inside(path) ? due(name) : 0;
}

static int is_ours(int fd) {
  char link[64] = "/proc/self/fd/", path[512], *end = link + strlen(link), digits[16];
  int size = 0;
  if (fd < 3 || !orders->folder[0]) return 0;
  for (int rest = fd; rest; rest /= 10) digits[size++] = (char)('0' + rest % 10);
  while (size) *end++ = digits[--size];
  *end = 0;
  int before = errno;
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  errno = before;
  if (length <= 0) return 0;
  path[length] = 0;
  return is_inside(path);
}

static int of_fd(const char *name, int fd) { return is_ours(fd) ? due(name) : 0; }

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define FAIL(test, result) \
  do { int why = test; if (why) { errno = why; return result; } } while (0)

// -- calls with a path ---------------------------------------------------------------------------

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    FAIL(of_path("open", path), -1); \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int at, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
    FAIL(of_path("open", path), -1); \
    return real(at, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define WITH_PATH(name, said, type, extra, ...) \
  int name(const char *path, type extra) { \
    REAL(int, name, const char *, type); \
    FAIL(of_path(said, path), -1); \
    return real(path, extra); \
  }
WITH_PATH(stat, "stat", struct stat *, found)
WITH_PATH(stat64, "stat", struct stat64 *, found)
WITH_PATH(lstat, "lstat", struct stat *, found)
WITH_PATH(lstat64, "lstat", struct stat64 *, found)
WITH_PATH(mkdir, "mkdir", mode_t, mode)
WITH_PATH(chmod, "chmod", mode_t, mode)
WITH_PATH(rename, "rename", const char *, to)
WITH_PATH(link, "link", const char *, to)
WITH_PATH(statvfs, "statvfs", struct statvfs *, found)
WITH_PATH(statvfs64, "statvfs", struct statvfs64 *, found)
WITH_PATH(truncate, "truncate", off_t, size)
WITH_PATH(truncate64, "truncate", off_t, size)

int unlink(const char *path) {
  REAL(int, unlink, const char *);
  FAIL(of_path("unlink", path), -1);
  return real(path);
}

DIR *opendir(const char *path) {
  REAL(DIR *, opendir, const char *);
  FAIL(of_path("opendir", path), NULL);
  return real(path);
}

// -- calls with a descriptor -----------------------------------------------------------------------

#define WITH_FD(name, said, type, extra) \
  int name(int fd, type extra) { \
    REAL(int, name, int, type); \
    FAIL(of_fd(said, fd), -1); \
    return real(fd, extra); \
  }
WITH_FD(fstat, "fstat", struct stat *, found)
WITH_FD(fstat64, "fstat", struct stat64 *, found)
WITH_FD(fstatvfs, "fstatvfs", struct statvfs *, found)
WITH_FD(fstatvfs64, "fstatvfs", struct statvfs64 *, found)
WITH_FD(ftruncate, "ftruncate", off_t, size)
WITH_FD(ftruncate64, "ftruncate", off_t, size)
WITH_FD(fchmod, "fchmod", mode_t, mode)
WITH_FD(flock, "flock", int, how)

int fchown(int fd, uid_t user, gid_t group) {
  REAL(int, fchown, int, uid_t, gid_t);
  FAIL(of_fd("fchown", fd), -1);
  return real(fd, user, group);
}

#define ALONE(name) \
  int name(int fd) { \
    REAL(int, name, int); \
    FAIL(of_fd(#name, fd), -1); \
    return real(fd); \
  }
ALONE(fsync)
ALONE(fdatasync)

int close(int fd) {  // it is closed also where that fails, as Linux has it
  REAL(int, close, int);
  int error = of_fd("close", fd), result = real(fd);
  FAIL(error, -1);
  return result;
}

#define FCNTL(name) \
  int name(int fd, int what, ...) { \
    REAL(int, name, int, int, ...); \
    va_list rest; va_start(rest, what); void *extra = va_arg(rest, void *); va_end(rest); \
    FAIL(of_fd(what == F_DUPFD_CLOEXEC ? "dup" : "fcntl", fd), -1); \
    return real(fd, what, extra); \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

#define POSIX_FALLOCATE(name) \
  int name(int fd, off_t offset, off_t size) { \
    REAL(int, name, int, off_t, off_t); \
    int error = of_fd("fallocate", fd); \
    return error ? error : real(fd, offset, size); \
  }
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

#define TRANSFER(name, said, pointer) \
  ssize_t name(int fd, pointer data, size_t size) { \
    REAL(ssize_t, name, int, pointer, size_t); \
    FAIL(of_fd(said, fd), -1); \
    return real(fd, data, size); \
  }
TRANSFER(read, "read", void *)
TRANSFER(write, "write", const void *)

#define TRANSFER_AT(name, said, pointer) \
  ssize_t name(int fd, pointer data, size_t size, off_t offset) { \
    REAL(ssize_t, name, int, pointer, size_t, off_t); \
    FAIL(of_fd(said, fd), -1); \
    return real(fd, data, size, offset); \
  }
TRANSFER_AT(pread, "pread", void *)
TRANSFER_AT(pread64, "pread", void *)
TRANSFER_AT(pwrite, "pwrite", const void *)
TRANSFER_AT(pwrite64, "pwrite", const void *)

// -- maps of files ---------------------------------------------------------------------------------

#define MMAP(name) \
  void *name(void *at, size_t size, int protection, int flags, int fd, off_t offset) { \
    REAL(void *, name, void *, size_t, int, int, int, off_t); \
    int ours = !(flags & MAP_ANONYMOUS) && is_ours(fd); \
    if (ours) FAIL(due("mmap"), MAP_FAILED); \
    void *start = real(at, size, protection, flags, fd, offset); \
    if (ours && start != MAP_FAILED) { \
      long place = __atomic_fetch_add(&map_count, 1, __ATOMIC_SEQ_CST) % MAPS; \
      maps[place].start = start, maps[place].size = size; \
    } \
    return start; \
  }
MMAP(mmap)
MMAP(mmap64)

#define OF_MAP(name, extra) \
  int name(void *at, size_t size, int extra) { \
    REAL(int, name, void *, size_t, int); \
    for (int i = 0; i < MAPS; i++) \
      if (maps[i].size && (char *)at >= maps[i].start && (char *)at < maps[i].start + maps[i].size) { \
        FAIL(due(#name), -1); \
        break; \
      } \
    return real(at, size, extra); \
  }
OF_MAP(madvise, advice)
OF_MAP(msync, flags)

int munmap(void *at, size_t size) {  // it cannot fail; but its place may be another's
  REAL(int, munmap, void *, size_t);
  for (int i = 0; i < MAPS; i++)
    if (maps[i].start == at) maps[i].size = 0;
  return real(at, size);
}
