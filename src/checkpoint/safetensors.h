// The header of a safetensors file, read strictly:
//
//   8 bytes   N, the size of the header, little endian
//   N bytes   JSON: {"__metadata__": {string: string}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
//   the rest  data, in which the tensors lie end to end: no holes, no overlaps, nothing behind the last
//
// Nothing is accepted that the reference implementation (the `safetensors` crate) refuses. Values are not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace mixwright::checkpoint {

struct SafetensorsEntry {
    TensorInfo info;
    std::uint64_t begin = 0, end = 0;  // in bytes of the file
};

struct SafetensorsHeader {
    std::vector<SafetensorsEntry> entries;  // sorted by name
    std::map<std::string, std::string> metadata;
};

inline constexpr std::size_t safetensors_prefix_bytes = 8;

/// Size of the JSON that a file of `file_bytes` bytes announces in its first 8, `prefix`. Error(malformed) when it is
/// over the format's limit or the file's end, or the file is too short to have one.
std::uint64_t safetensors_json_bytes(std::span<const std::byte> prefix, std::uint64_t file_bytes, std::string_view source);

/// Reads the JSON of a header; `file_bytes` is the size of the whole file. Error(malformed) names `source` and the tensor;
/// Error(unsupported) when an element type is one we do not have.
SafetensorsHeader parse_safetensors_json(std::string_view json, std::uint64_t file_bytes, std::string_view source);

}  // namespace mixwright::checkpoint
