// Linear maps of many rows without autograd, on a CPU: reading a prompt. Weights take the form that products
// need while they lie in the cache, whatever their format, so no copy of them is made.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/matmul.h"
#include "ops/linear.h"

namespace mixwright::ops {

/// Whether panel_linear takes this: inference on a CPU, weights that kernels read, no LoRA; and libtorch would be slower
/// (kernel_use.h).
bool panels_apply(const Linear& linear, const at::Tensor& x);

/// x [..., D] -> [..., out].
at::Tensor panel_linear(const Linear& linear, const at::Tensor& x);

/// Panels for rows of the dtype of x (bf16 or f32), `cols` wide.
kernels::Panels panels_for(const at::Tensor& x, std::int64_t rows, std::int64_t cols);

/// Fills panel i with rows of x [N, D] (bf16 or f32, contiguous): token t of all panels is row row_of[t].
void fill_panel(kernels::Panels& panels, std::int64_t i, const at::Tensor& x, std::span<const std::int32_t> row_of);

/// Memory of this thread for `count` sums between two steps; what was there is lost with the next call.
float* panel_scratch(std::int64_t count);

}  // namespace mixwright::ops
