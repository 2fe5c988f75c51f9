// All experts of a layer as one differentiable operation: tokens sorted by expert, one dense block each, one node of the
// autograd graph whatever the number of experts.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/expert_exchange.h"
#include "ops/router.h"

namespace mixwright::ops {

/// The SwiGLU experts of a layer, one beside another.
struct ExpertStack {
    at::Tensor gate_up;   // [E, 2F, D]: an expert's gate projection above its up projection
    at::Tensor down;      // [E, D, F]
    const RowExchange* processes = nullptr;  // when E is one process's share of the experts: who has the others

    bool defined() const { return down.defined(); }
};

/// sum_k weights[n, k] * expert(routing.experts[n, k])(x[n]) : x [N, D] -> [N, D] in the dtype of x and of the experts, summed
/// in f32. Differentiable in x, the routing's weights and the experts; what needs no gradient costs none. Memory kept for the
/// gradient: x and the [N K, 2F] products of gate_up.
at::Tensor grouped_experts(const at::Tensor& x, const Routing& routing, const ExpertStack& experts);

}  // namespace mixwright::ops
