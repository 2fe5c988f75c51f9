// A PEFT LoRA adapter seen as part of its base model: W + scale * B A, merged when a tensor is read.
#pragma once

#include <filesystem>
#include <memory>

#include "checkpoint/tensor_source.h"

namespace mixwright::checkpoint {

/// The tensors of `base` with the adapter in `directory` (adapter_config.json, adapter_model.safetensors) merged: products
/// and sum in f32, rounded once to the base's dtype. Modules that were trained whole (modules_to_save, biases) replace
/// the base's. Error(unsupported) for what is not such a sum (DoRA, other PEFT types); Error(mismatch) when a tensor of
/// the adapter fits none of the base.
std::shared_ptr<const TensorSource> merge_lora(std::shared_ptr<const TensorSource> base, const std::filesystem::path& directory);

}  // namespace mixwright::checkpoint
