// Linear maps of a few rows without autograd: decoding. The weights are read once, by our own kernels, in the format they
// have; no tensor is made but the result.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "kernels/matvec.h"
#include "ops/kernel_use.h"
#include "ops/linear.h"

namespace mixwright::ops {

/// The weights of `linear`, which takes `cols` inputs, as kernels see them. They live as long as its tensors do.
/// Quantised weights, or contiguous ones of the dtype of x: see has_kernel_weights.
kernels::Weights kernel_weights(const Linear& linear, std::int64_t cols);
bool has_kernel_weights(const Linear& linear, const at::Tensor& x);

/// Rows in the form that products with `format` read. x [N, D], bf16 or f32, contiguous.
kernels::Activations activations_for(kernels::Format format, const at::Tensor& x);

/// Up to this many rows, reading the weights costs more than multiplying with them.
constexpr std::int64_t max_skinny_rows = 16;

/// Whether skinny_linears takes these.
bool skinny_applies(std::span<const Linear* const> linears, const at::Tensor& x);

/// x [..., D] -> [..., out] for each of `linears`, which share the input: one pass over all weights.
std::vector<at::Tensor> skinny_linears(std::span<const Linear* const> linears, const at::Tensor& x);

/// x [..., D] -> [..., out] with quantised weights and any number of rows: weights become bf16 a block at a time.
at::Tensor dequantizing_linear(const Linear& linear, const at::Tensor& x);

}  // namespace mixwright::ops
