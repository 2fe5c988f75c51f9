// Every system call that carries model data, each through one door, so that a test can make the N-th of them fail: no
// space, I/O error, a short transfer, an interruption, a failed sync or rename. The functions return and set errno as
// the calls they are named for. Knows nothing of what the bytes mean.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <filesystem>

namespace mixwright::io {

enum class Call { open, stat, read, write, reserve, sync, rename, unlink, make_directory, lock, truncate, map };

/// What an injector does to one call: an errno to fail with, or a transfer cut to half of what was asked.
struct Fault {
    int error = 0;
    bool cut_short = false;
};

class FaultInjector {
public:
    virtual ~FaultInjector() = default;
    /// Asked before each call, from any thread.
    virtual Fault before(Call call) = 0;
};

/// Installs `injector` (null: none) for the process. Only tests do.
void set_fault_injector(FaultInjector* injector) noexcept;

namespace sys {

int open(const char* path, int flags, mode_t mode = 0);
int open_at(int directory, const char* name, int flags, mode_t mode = 0);
int stat(int fd, struct stat& info);
ssize_t read_at(int fd, void* out, std::size_t size, off_t offset);
ssize_t write_at(int fd, const void* bytes, std::size_t size, off_t offset);
/// Reserves blocks for [0, size) and sets the size. EOPNOTSUPP where the file system cannot.
int reserve(int fd, off_t size);
int truncate(int fd, off_t size);
int sync(int fd);
int lock(int fd);
int make_directory(const char* path);
int rename_at(int directory, const char* from, const char* to);
/// Fails with EEXIST when `to` is there.
int rename_new(const char* from, const char* to);
/// Swaps two paths in one step.
int exchange(const char* a, const char* b);
int unlink_at(int directory, const char* name);
int unlink(const char* path);
void* map(int fd, std::size_t size);
/// Removes `path` and all below it, following no link. -1 with errno on failure; 0 also when it is not there.
int remove_tree(const std::filesystem::path& path);

}  // namespace sys

}  // namespace mixwright::io
