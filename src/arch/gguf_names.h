// GGUF tensors under Hugging Face names: renamed, experts cut out of their stacks, and the rows of q and k put back into
// the order that rotates halves.
#pragma once

#include <memory>

#include "arch/architecture.h"
#include "checkpoint/tensor_source.h"
#include "io/json.h"

namespace mixwright::arch {

/// `source` (a GGUF's tensors) as the per-expert Hugging Face layout of `architecture`. `config` is config_from_gguf's.
/// Tensors the architecture does not know keep their names; rope_freqs is left out (the config says what it meant).
/// Error(mismatch) when a stack does not hold as many experts, or a projection as many heads, as the config says.
std::shared_ptr<const checkpoint::TensorSource> hf_view_of_gguf(std::shared_ptr<const checkpoint::TensorSource> source,
                                                                 const Architecture& architecture, const io::Json& config);

}  // namespace mixwright::arch
