// The experts of a MoE layer without autograd, on a CPU. Experts with few tokens go through our own kernels, all of them
// in two passes over their weights; those with many through matrix products of libtorch, a block of tokens at a time in
// scratch that stays in the cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "ops/mlp.h"
#include "ops/router.h"

namespace mixwright::ops {

/// Whether run_experts takes these: no gradients, bf16 or f32 on a CPU, and gated experts with SiLU,
/// without biases or LoRA.
bool expert_kernels_apply(const at::Tensor& x, std::span<const Mlp> experts);

/// dispatch_to_experts for what expert_kernels_apply accepts. Sums in f32, in the order of the experts whatever the
/// number of threads.
at::Tensor run_experts(const at::Tensor& x, const Routing& routing, std::span<const Mlp> experts);

}  // namespace mixwright::ops
