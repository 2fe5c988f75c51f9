// A model on disk, in any of the forms we read: a Hugging Face directory (safetensors or torch .bin, single or
// sharded), a .gguf file, or org/name[@rev] in the hub cache.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::checkpoint {

enum class Format { safetensors, torch_bin, gguf };

struct Checkpoint {
    std::string name;                // as the user wrote it
    std::filesystem::path path;      // the directory, or the .gguf file
    Format format = Format::safetensors;
    io::Json config;                 // config.json as it stands; for GGUF the metadata, key -> value (arrays of the tokenizer left out)
    std::shared_ptr<const TensorSource> tensors;
};

/// Opens `model`: headers and config only, no weights are read. An existing path comes first, then the hub cache
/// (HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME, ~/.cache/huggingface/hub).
/// Error(not_found) says where it was looked for; Error(malformed) names file and place.
Checkpoint open_checkpoint(std::string_view model);

/// The local directory or file that `model` names; nothing is opened.
std::filesystem::path resolve_model(std::string_view model);

}  // namespace mixwright::checkpoint
