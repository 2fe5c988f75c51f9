// MXFP4 (OCP Microscaling formats 1.0): 32 four-bit floats (E2M1) share a power of two (E8M0). gpt-oss keeps its experts so,
// as X_blocks [.., G, 16] with two values a byte and X_scales [.., G], both U8.
#pragma once

#include <memory>

#include "checkpoint/tensor_source.h"

namespace mixwright::arch {

/// `source` with every such pair shown as one bf16 tensor X_blocks [.., 32 G], decoded where it is read; exact. Other tensors
/// pass through. `source` itself when it has no such pair. Error(mismatch) on blocks whose scales are missing or do not fit.
std::shared_ptr<const checkpoint::TensorSource> decode_mxfp4(std::shared_ptr<const checkpoint::TensorSource> source);

}  // namespace mixwright::arch
