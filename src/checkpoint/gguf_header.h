// The header of a GGUF file: metadata and the list of tensors. Pure parsing of untrusted bytes; it knows neither what
// the keys mean nor how values are dequantised.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace mixwright::checkpoint {

struct GgufTensor {
    std::string name;
    int type = 0;                     // ggml_type; known to ggml-base, not one of the removed ones
    std::vector<std::int64_t> shape;  // row-major (the file's order reversed): rows of shape.back() values
    std::uint64_t offset = 0;         // from the start of the file
    std::uint64_t bytes = 0;          // offset + bytes lies inside the file
};

struct GgufHeader {
    std::uint32_t version = 0;
    io::Json metadata = io::Json::object();  // key -> number, boolean, string or array of them
    std::vector<GgufTensor> tensors;         // in file order, names unique
    std::uint64_t data_offset = 0;
};

/// Parses the header of `file` (the whole file's bytes; tensor data is not touched). Error(malformed) names `source`, the
/// offset, the value and the limit; Error(unsupported) for versions and types we do not know.
GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& source);

}  // namespace mixwright::checkpoint
