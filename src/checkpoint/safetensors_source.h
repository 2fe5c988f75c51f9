// The tensors of a Hugging Face directory of safetensors files, or of a single such file.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_source.h"

namespace mixwright::checkpoint {

/// Reads the header of one file. Error(not_found), Error(malformed).
SafetensorsHeader read_safetensors_header(const std::filesystem::path& path);

/// One file.
std::shared_ptr<const TensorSource> open_safetensors_file(const std::filesystem::path& path);

/// model.safetensors, or the shards that model.safetensors.index.json names: every tensor of the index must be in the
/// file it names. Headers are read, and files stay open. bytes() maps a file at its first use; read() never does.
std::shared_ptr<const TensorSource> open_safetensors(const std::filesystem::path& directory);

}  // namespace mixwright::checkpoint
