#include "io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"

namespace mixwright::io {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action) {
    const int number = errno;
    const ErrorCode code = number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io;
    throw Error(code, fmt::format("{}: cannot {}: {}", printable(path.string(), 1000), action, std::strerror(number)));
}

// An open descriptor, closed with its scope.
class Descriptor {
public:
    Descriptor(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
        if (fd_ < 0) fail(path, "open");
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() { ::close(fd_); }
    int get() const noexcept { return fd_; }

private:
    int fd_;
};

std::size_t size_of(const std::filesystem::path& path, int fd) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) fail(path, "stat");
    if (!S_ISREG(info.st_mode))
        throw Error(ErrorCode::malformed, fmt::format("{}: not a regular file", printable(path.string(), 1000)));
    return static_cast<std::size_t>(info.st_size);
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::size_t limit) {
    const Descriptor file(path, O_RDONLY);
    const std::size_t size = size_of(path, file.get());
    if (size > limit)
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: the file is too large (got {} bytes, limit {})", printable(path.string(), 1000), size, limit));
    std::string text(size, '\0');
    std::size_t done = 0;
    while (done < size) {
        const ssize_t got = ::pread(file.get(), text.data() + done, size - done, static_cast<off_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(path, "read");
        if (got == 0) throw Error(ErrorCode::io, fmt::format("{}: shrank while it was read", printable(path.string(), 1000)));
        done += static_cast<std::size_t>(got);
    }
    return text;
}

struct MappedFile::Mapping {
    std::filesystem::path path;
    void* address = nullptr;
    std::size_t size = 0;

    ~Mapping() {
        if (address != nullptr) ::munmap(address, size);
    }
};

MappedFile MappedFile::open(const std::filesystem::path& path) {
    const Descriptor file(path, O_RDONLY);
    auto mapping = std::make_shared<Mapping>();
    mapping->path = path;
    mapping->size = size_of(path, file.get());
    if (mapping->size > 0) {
        void* address = ::mmap(nullptr, mapping->size, PROT_READ, MAP_SHARED, file.get(), 0);
        if (address == MAP_FAILED) fail(path, "map");
        mapping->address = address;
    }
    MappedFile result;
    result.mapping_ = std::move(mapping);
    return result;
}

std::span<const std::byte> MappedFile::bytes() const noexcept {
    return {static_cast<const std::byte*>(mapping_->address), mapping_->size};
}

const std::filesystem::path& MappedFile::path() const noexcept { return mapping_->path; }

void MappedFile::drop(std::size_t offset, std::size_t length) const noexcept {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    // Only whole pages inside the range: neighbours may still be in use.
    const std::size_t begin = (offset + page - 1) / page * page;
    const std::size_t end = (offset + length) / page * page;
    if (begin < end && end <= mapping_->size)
        ::madvise(static_cast<std::byte*>(mapping_->address) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace mixwright::io
