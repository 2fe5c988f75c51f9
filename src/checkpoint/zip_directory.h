// The directory of a zip archive whose entries are stored without compression: where each lies in the file. Nothing is
// unpacked, no name becomes a path.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace mixwright::checkpoint {

struct ZipEntry {
    std::uint64_t offset = 0;  // of its bytes in the file
    std::uint64_t bytes = 0;   // offset + bytes lies inside the file
};

/// Whether `file` starts as a zip archive does.
bool looks_like_zip(std::span<const std::byte> file) noexcept;

/// Entries by name. Zip64 is understood. Error(malformed) names `source`, the offset and the entry; Error(unsupported) for
/// archives that are compressed, encrypted or spread over several files.
std::map<std::string, ZipEntry, std::less<>> read_zip_directory(std::span<const std::byte> file, const std::string& source);

}  // namespace mixwright::checkpoint
