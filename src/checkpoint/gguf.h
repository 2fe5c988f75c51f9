// GGUF models as tensor sources: single files and splits (NAME-00001-of-0000N.gguf). Plain types are mapped as they are,
// quantised ones are decoded to f32 by ggml's own routines. Names and row order are those of the file: what they mean is
// for arch/ to say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::checkpoint {

/// What the file holds in one of ggml's types.
struct StoredType {
    std::uint64_t tensors = 0, bytes = 0;
};

struct GgufModel {
    io::Json metadata;                           // of the first file: key -> number, boolean, string or array
    std::shared_ptr<const TensorSource> tensors;
    std::map<std::string, StoredType> stored;    // by ggml's name of the type: "q4_1"
};

/// Opens `path` and, when its name says it is one of a split, its siblings. Headers only.
/// Error(malformed) names file and offset; Error(not_found) a missing part.
GgufModel open_gguf(const std::filesystem::path& path);

/// `metadata` without the arrays of the tokenizer, which are long and no one reads.
io::Json without_vocabulary(const io::Json& metadata);

}  // namespace mixwright::checkpoint
