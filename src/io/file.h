// Whole files, files read and written at an offset, and mapped files. All file system calls of the project
// that carry model data are made in io/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mixwright::io {

/// The bytes of `path`. Error(not_found) when it is not there, Error(malformed) when it is larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit);

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
