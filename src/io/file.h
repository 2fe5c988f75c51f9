// Whole files, files read and written at an offset, and mapped files. Every failure is an Error that names the file, what
// was tried and the system's reason; interrupted and short transfers are carried on with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mixwright::io {

/// Throws the Error for a call on `path` that failed with `number`: not_found, out_of_disk or io.
[[noreturn]] void fail(const std::filesystem::path& path, std::string_view action, int number);

/// `path` as it is written in messages.
std::string shown(const std::filesystem::path& path);

/// The bytes of `path`. Error(not_found) when it is not there, Error(malformed) when it is larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit);

/// An open regular file, closed with its scope. Reads and writes may come from several threads at once.
class File {
public:
    /// Error(not_found), Error(io), or Error(malformed) when it is not a regular file.
    static File open(const std::filesystem::path& path);
    /// A new file `name` in the open directory `directory`, whose path is `directory_path`. Follows no link and never
    /// opens what is there already.
    static File create(int directory, const std::filesystem::path& directory_path, const std::string& name);
    /// Opens or makes `path` to be read and written, following no link.
    static File open_or_create(const std::filesystem::path& path);

    File(File&& other) noexcept;
    File& operator=(File&& other) noexcept;
    ~File();

    const std::filesystem::path& path() const noexcept { return path_; }
    std::uint64_t size() const;
    /// Fills `out` from `offset`; Error(io) when the file ends before.
    void read_at(std::uint64_t offset, std::span<std::byte> out) const;
    void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
    /// From now on writes go past the page cache, as long as address, offset and size are multiples of this and the file
    /// system can: gigabytes of output then displace no cached input, and sync() finds nothing left to do.
    static constexpr std::size_t direct_alignment = 4096;
    void bypass_cache();
    /// Takes the disk space of `bytes` bytes now, so that a full disk shows before the work and not after it.
    void reserve(std::uint64_t bytes);
    void truncate(std::uint64_t bytes);
    /// Returns when the bytes are on the disk. A failed sync is final: the kernel may have dropped the pages.
    void sync();
    /// Whether this process alone holds the file from now on; it is let go when the File closes.
    bool try_lock();

private:
    friend class MappedFile;
    File(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

    std::filesystem::path path_;
    /// Back to the page cache.
    void leave_direct();

    int fd_ = -1;
    bool direct_ = false;
};

/// A file mapped read-only for its whole life. Copies share the mapping.
class MappedFile {
public:
    /// Error(not_found) or Error(io).
    static MappedFile open(const std::filesystem::path& path);

    std::span<const std::byte> bytes() const noexcept;
    const std::filesystem::path& path() const noexcept;
    /// Tells the kernel that [offset, offset + length) is not needed soon: resident memory stays bounded while streaming.
    void drop(std::size_t offset, std::size_t length) const noexcept;

private:
    struct Mapping;
    std::shared_ptr<const Mapping> mapping_;
};

}  // namespace mixwright::io
