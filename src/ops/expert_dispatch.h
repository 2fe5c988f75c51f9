// Runs every token through the experts it was routed to.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "ops/mlp.h"
#include "ops/router.h"

namespace mixwright::ops {

/// sum_k weights[n, k] * experts[routing.experts[n, k]](x[n]) : x [N, D] -> [N, D], summed in f32, returned in the dtype
/// of x. Tokens are sorted by expert, so each expert sees one dense block. Differentiable in x, weights and experts.
at::Tensor dispatch_to_experts(const at::Tensor& x, const Routing& routing, std::span<const Mlp> experts);

}  // namespace mixwright::ops
