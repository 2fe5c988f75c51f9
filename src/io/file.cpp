#include "io/file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "checked.h"
#include "error.h"
#include "io/system_call.h"

namespace mixwright::io {
namespace {

// Opens `path`, carrying on after an interruption.
template <class Open>
int opened(const std::filesystem::path& path, std::string_view action, Open open) {
    int fd;
    do fd = open();
    while (fd < 0 && errno == EINTR);
    if (fd < 0) fail(path, action, errno);
    return fd;
}

}  // namespace

std::string shown(const std::filesystem::path& path) { return printable(path.string(), 1000); }

void fail(const std::filesystem::path& path, std::string_view action, int number) {
    if (number == ENOSPC || number == EDQUOT)
        throw Error(ErrorCode::out_of_disk, fmt::format("{}: cannot {}: {}", shown(path), action, std::strerror(number)),
                    "free some space, then run the same command with --resume, where the verb has it");
    const ErrorCode code = number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io;
    throw Error(code, fmt::format("{}: cannot {}: {}", shown(path), action, std::strerror(number)));
}

std::string read_file(const std::filesystem::path& path, std::size_t limit) {
    const File file = File::open(path);
    const std::uint64_t size = file.size();
    if (size > limit)
        throw Error(ErrorCode::malformed,
                    fmt::format("{}: the file is too large (got {} bytes, limit {})", shown(path), size, limit));
    std::string text(size, '\0');
    file.read_at(0, std::as_writable_bytes(std::span(text)));
    return text;
}

File File::open(const std::filesystem::path& path) {
    // O_NONBLOCK: opening a pipe must not hang; it means nothing for regular files.
    File file(path, opened(path, "open", [&] { return sys::open(path.c_str(), O_RDONLY | O_NONBLOCK); }));
    file.size();
    return file;
}

File File::create(int directory, const std::filesystem::path& directory_path, const std::string& name) {
    const auto path = directory_path / name;
    constexpr int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
    return {path, opened(path, "create", [&] { return sys::open_at(directory, name.c_str(), flags, 0666); })};
}

File File::open_or_create(const std::filesystem::path& path) {
    constexpr int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
    File file(path, opened(path, "create", [&] { return sys::open(path.c_str(), flags, 0666); }));
    file.size();
    return file;
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), direct_(other.direct_) {}

File& File::operator=(File&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(direct_, other.direct_);
    return *this;
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

std::uint64_t File::size() const {
    struct stat info{};
    if (sys::stat(fd_, info) != 0) fail(path_, "stat", errno);
    if (!S_ISREG(info.st_mode)) throw Error(ErrorCode::malformed, fmt::format("{}: not a regular file", shown(path_)));
    return static_cast<std::uint64_t>(info.st_size);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = sys::read_at(fd_, out.data(), out.size(), checked_cast<off_t>(offset, "file offset"));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(path_, "read", errno);
        if (got == 0)
            throw Error(ErrorCode::io, fmt::format("{}: ends at byte {}, {} more were expected", shown(path_), offset, out.size()),
                        "the file shrank while it was read: something else is writing it");
        offset += static_cast<std::uint64_t>(got);
        out = out.subspan(static_cast<std::size_t>(got));
    }
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        std::size_t size = bytes.size();
        if (direct_) {
            const bool aligned = offset % direct_alignment == 0 && reinterpret_cast<std::uintptr_t>(bytes.data()) % direct_alignment == 0;
            if (aligned && size >= direct_alignment)
                size -= size % direct_alignment;
            else
                leave_direct();
        }
        const ssize_t put = sys::write_at(fd_, bytes.data(), size, checked_cast<off_t>(offset, "file offset"));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && errno == EINVAL && direct_) {  // a device with larger blocks
            leave_direct();
            continue;
        }
        if (put < 0) fail(path_, "write", errno);
        offset += static_cast<std::uint64_t>(put);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
}

void File::bypass_cache() {
    const int flags = ::fcntl(fd_, F_GETFL);
    direct_ = flags >= 0 && ::fcntl(fd_, F_SETFL, flags | O_DIRECT) == 0;
}

void File::leave_direct() {
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0 || ::fcntl(fd_, F_SETFL, flags & ~O_DIRECT) != 0) fail(path_, "write through the page cache", errno);
    direct_ = false;
}

void File::reserve(std::uint64_t bytes) {
    const auto size = checked_cast<off_t>(bytes, "file size");
    int status;
    do status = sys::reserve(fd_, size);
    while (status != 0 && errno == EINTR);
    if (status != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) return truncate(bytes);
    if (status != 0) fail(path_, fmt::format("reserve {} bytes", bytes), errno);
}

void File::truncate(std::uint64_t bytes) {
    int status;
    do status = sys::truncate(fd_, checked_cast<off_t>(bytes, "file size"));
    while (status != 0 && errno == EINTR);
    if (status != 0) fail(path_, "truncate", errno);
}

void File::sync() {
    int status;
    do status = sys::sync(fd_);
    while (status != 0 && errno == EINTR);
    if (status != 0) fail(path_, "sync", errno);
}

bool File::try_lock() {
    int status;
    do status = sys::lock(fd_);
    while (status != 0 && errno == EINTR);
    if (status == 0) return true;
    if (errno == EWOULDBLOCK) return false;
    fail(path_, "lock", errno);
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
    const File file = File::open(path);
    auto mapping = std::make_shared<Mapping>();
    mapping->path = path;
    mapping->size = checked_cast<std::size_t>(file.size(), "file size");
    if (mapping->size > 0) {
        void* address = sys::map(file.fd_, mapping->size);
        if (address == MAP_FAILED) fail(path, "map", errno);
        mapping->address = address;
        // Weights are read from one end to the other, again and again: large pages halve what a page fault and a look-up of an
        // address cost. Where the system has none for files, nothing happens.
        ::madvise(address, mapping->size, MADV_HUGEPAGE);
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
