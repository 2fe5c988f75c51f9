// GGUF tensors under Hugging Face names.
#pragma once

#include <memory>

#include "arch/architecture.h"
#include "checkpoint/tensor_source.h"

namespace mixwright::arch {

/// `source` (a GGUF's tensors) as the per-expert Hugging Face layout of `spec`: renamed, experts cut out of their stacks, fused
/// projections cut apart, and values as Hugging Face has them (see GgufView). Tensors the architecture does not know keep
/// their names; tables of rope factors are left out (the config says what they mean).
/// Error(mismatch) when a tensor that has to be cut is not of the shape that `spec` says.
std::shared_ptr<const checkpoint::TensorSource> hf_view_of_gguf(std::shared_ptr<const checkpoint::TensorSource> source, const ModelSpec& spec);

}  // namespace mixwright::arch
