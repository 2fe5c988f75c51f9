// torch.save'd state dicts as tensor sources: pytorch_model.bin, single or sharded, in the zip form and in the one before
// torch 1.6. Nothing in them is run; tensors are mapped where they lie.
#pragma once

#include <filesystem>
#include <memory>

#include "checkpoint/tensor_source.h"

namespace mixwright::checkpoint {

/// Opens one file, or pytorch_model.bin or pytorch_model.bin.index.json in a directory.
/// Error(malformed) or Error(unsupported) names file and place; Error(mismatch) when the index and its files disagree.
std::shared_ptr<const TensorSource> open_torch_bin(const std::filesystem::path& path);

}  // namespace mixwright::checkpoint
