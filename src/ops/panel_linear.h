// Linear maps of many rows without autograd, on a CPU: reading a prompt. Weights take the form that products
// need while they lie in the cache, whatever their format, so no copy of them is made.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "ops/linear.h"

namespace mixwright::ops {

/// Whether panel_linears takes these: inference on a CPU, weights that kernels read, no LoRA; and libtorch would be slower
/// (kernel_use.h).
bool panels_apply(std::span<const Linear* const> linears, const at::Tensor& x);

/// x [..., D] -> [..., out] for each of `linears`, which share the input.
std::vector<at::Tensor> panel_linears(std::span<const Linear* const> linears, const at::Tensor& x);

}  // namespace mixwright::ops
