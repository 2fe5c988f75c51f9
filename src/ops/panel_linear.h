// Linear maps of many rows without autograd, on a CPU: reading a prompt. Weights are widened to f32 while they lie in the
// cache, whatever their format, so no copy of them is made.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/matmul.h"
#include "ops/linear.h"

namespace mixwright::ops {

/// Whether panel_linear takes this: inference on a CPU, weights that kernels read, no LoRA; and libtorch would be slower, as it
/// is with bf16 on a CPU that has no instructions for it.
bool panels_apply(const Linear& linear, const at::Tensor& x);

/// x [..., D] -> [..., out].
at::Tensor panel_linear(const Linear& linear, const at::Tensor& x);

/// Rows `row_of` of x [N, D] (bf16 or f32, contiguous) as panels, filled by all threads.
kernels::Panels make_panels(const at::Tensor& x, std::span<const std::int32_t> row_of);

}  // namespace mixwright::ops
