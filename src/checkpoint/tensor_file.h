// A single safetensors file on its own: logits, statistics, optimizer state. Models go through writer.h.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/writer.h"

namespace mixwright::checkpoint {

/// Writes `tensors` to `path`, replacing what is there once the new file is whole and on the disk.
void write_tensor_file(const std::filesystem::path& path, std::vector<OutputTensor> tensors);

}  // namespace mixwright::checkpoint
