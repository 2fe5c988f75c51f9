#include "io/system_call.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <system_error>

namespace mixwright::io {
namespace {

std::atomic<FaultInjector*> injector{nullptr};

Fault fault_of(Call call) {
    FaultInjector* current = injector.load(std::memory_order_acquire);
    return current == nullptr ? Fault{} : current->before(call);
}

// Runs `action` unless an injected fault takes its place.
template <class Action>
auto guarded(Call call, Action action) -> decltype(action()) {
    const Fault fault = fault_of(call);
    if (fault.error != 0) {
        errno = fault.error;
        return -1;
    }
    return action();
}

// The same for transfers, which may also be cut short.
template <class Action>
ssize_t guarded_transfer(Call call, std::size_t size, Action action) {
    const Fault fault = fault_of(call);
    if (fault.error != 0) {
        errno = fault.error;
        return -1;
    }
    return action(fault.cut_short && size > 1 ? size / 2 : size);
}

}  // namespace

void set_fault_injector(FaultInjector* new_injector) noexcept { injector.store(new_injector, std::memory_order_release); }

namespace sys {

int open(const char* path, int flags, mode_t mode) { return open_at(AT_FDCWD, path, flags, mode); }

int open_at(int directory, const char* name, int flags, mode_t mode) {
    return guarded(Call::open, [&] { return ::openat(directory, name, flags | O_CLOEXEC, mode); });
}

int stat(int fd, struct stat& info) {
    return guarded(Call::stat, [&] { return ::fstat(fd, &info); });
}

ssize_t read_at(int fd, void* out, std::size_t size, off_t offset) {
    return guarded_transfer(Call::read, size, [&](std::size_t part) { return ::pread(fd, out, part, offset); });
}

ssize_t write_at(int fd, const void* bytes, std::size_t size, off_t offset) {
    return guarded_transfer(Call::write, size, [&](std::size_t part) { return ::pwrite(fd, bytes, part, offset); });
}

int reserve(int fd, off_t size) {
    return guarded(Call::reserve, [&] { return size == 0 ? 0 : ::fallocate(fd, 0, 0, size); });
}

int truncate(int fd, off_t size) {
    return guarded(Call::truncate, [&] { return ::ftruncate(fd, size); });
}

int sync(int fd) {
    return guarded(Call::sync, [&] { return ::fsync(fd); });
}

int lock(int fd) {
    return guarded(Call::lock, [&] { return ::flock(fd, LOCK_EX | LOCK_NB); });
}

int make_directory(const char* path) {
    return guarded(Call::make_directory, [&] { return ::mkdir(path, 0777); });
}

int rename_at(int directory, const char* from, const char* to) {
    return guarded(Call::rename, [&] { return ::renameat(directory, from, directory, to); });
}

int rename_new(const char* from, const char* to) {
    return guarded(Call::rename, [&] { return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE); });
}

int exchange(const char* a, const char* b) {
    return guarded(Call::rename, [&] { return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE); });
}

int unlink_at(int directory, const char* name) {
    return guarded(Call::unlink, [&] { return ::unlinkat(directory, name, 0); });
}

int unlink(const char* path) { return unlink_at(AT_FDCWD, path); }

void* map(int fd, std::size_t size) {
    if (const Fault fault = fault_of(Call::map); fault.error != 0) {
        errno = fault.error;
        return MAP_FAILED;
    }
    return ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
}

int remove_tree(const std::filesystem::path& path) {
    return guarded(Call::unlink, [&] {
        std::error_code error;
        std::filesystem::remove_all(path, error);
        if (!error) return 0;
        errno = error.value();
        return -1;
    });
}

}  // namespace sys

}  // namespace mixwright::io
